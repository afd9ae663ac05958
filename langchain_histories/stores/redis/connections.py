"""How redis-py connects: to one server, through Sentinel, or to a cluster."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import Clients, check_given_clients, settle


def clients_of(url: str | None, client: Any, async_client: Any, client_options: dict[str, Any] | None) -> Clients[Any]:
    """Return the clients for a URL, or those of the caller.

    Raises:
        ConfigurationError: Neither was given, or both, or a client of another kind, or the URL cannot be read.
    """
    if check_given_clients(
        "redis",
        client=client,
        async_client=async_client,
        is_blocking=lambda it: isinstance(it, redis.Redis | redis.RedisCluster),
        is_native=lambda it: isinstance(it, redis.asyncio.Redis | redis.asyncio.RedisCluster),
        instead_of={"url": url, "client_options": client_options},
    ):
        return Clients.shared("redis", client=client, async_client=async_client)
    _check_url(str(url))
    connections = _Connections(str(url), client_options or {})
    return Clients.shared("redis", url, client_options, connect=connections.connect, close=connections.close)


def _check_url(url: str) -> None:
    read: Any = redis.connection.parse_url
    try:
        if urlsplit(url).scheme in ("redis+sentinel", "rediss+sentinel"):
            _ = urlsplit(url).port
        else:
            read(url)
    except ValueError:
        # Neither quoted nor chained, because what looks like the port may be a piece of the password.
        raise ConfigurationError(
            "The url cannot be read: it is redis://, rediss:// or redis+sentinel://[user:password@]host[:6379][/0], or "
            "unix:///path, with '/', '?', '#' and '@' in the password percent-escaped."
        ) from None


class _Connections:
    """Opens and closes clients for a URL."""

    def __init__(self, url: str, client_options: dict[str, Any]) -> None:
        self._url, self._client_options = url, client_options

    async def connect(self, native: bool) -> Any:
        """Open a client; a server that is a node of a cluster gets a cluster client."""
        package: Any = redis.asyncio if native else redis
        # redis-py would send a batch again when the answer got lost: the batch could be stored twice.
        retry: Any = (AsyncRetry if native else Retry)(NoBackoff(), 0)
        options = {"retry": retry, **self._client_options}
        if urlsplit(self._url).scheme.endswith("+sentinel"):
            return _sentinel_client(package, self._url, options)
        # redis-py's own pool does not wait for a free connection, and would refuse many histories at once.
        client = package.Redis.from_pool(package.BlockingConnectionPool.from_url(self._url, **options))
        try:
            server = await settle(client.info("cluster"))
        except exceptions.NoPermissionError:
            return client
        if not server.get("cluster_enabled"):
            return client
        await self.close(client)
        # A cluster client needs its retries to follow moved slots; what they store twice is read once.
        client = package.RedisCluster.from_url(self._url, **self._client_options)
        if native:
            await settle(client.initialize())
        return client

    async def close(self, client: Any) -> None:
        """Close a client."""
        await settle(client.aclose() if hasattr(client, "aclose") else client.close())


def _sentinel_client(package: Any, url: str, options: dict[str, Any]) -> Any:
    """Open a client that asks a sentinel which server is the primary."""
    parts = urlsplit(url)
    options |= {name: _number(value) for name, value in parse_qsl(parts.query)}
    if parts.scheme.startswith("rediss"):
        options["ssl"] = True
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    service, _, db = parts.path.strip("/").partition("/")
    sentinels = [(parts.hostname or "localhost", parts.port or 26379)]
    module = package.sentinel
    return module.Sentinel(sentinels, **options).master_for(service or "mymaster", db=int(db or 0))


def _number(value: str) -> str | int:
    return int(value) if value.isdecimal() else value
