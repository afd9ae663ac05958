"""Histories in Redis and Valkey: a list per session, as LangChain's `RedisChatMessageHistory` keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from langchain_histories._clients import Clients
from langchain_histories._neutral import each, settle
from langchain_histories.errors import ConfigurationError, missing_extra
from langchain_histories.store import SessionId, StoreOptions
from langchain_histories.stores._redis_lists import RedisListHistory, RedisListStore

try:
    import redis
    import redis.asyncio
    from redis import exceptions
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as error:
    raise missing_extra("redis") from error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

_DEFAULT_URL = "redis://localhost:6379/0"

# redis-py's asyncio cluster client would block its event loop in a transaction.
_TAIL = "return {redis.call('LLEN', KEYS[1]), redis.call('LRANGE', KEYS[1], 0, ARGV[1])}"


class RedisStore(RedisListStore):
    """Keeps histories in Redis, Valkey or what speaks their protocol: one server, Sentinel or Cluster.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, as redis-py reads them, or
            `redis+sentinel://[user:password@]host[:26379][/service[/db]]` (`rediss+sentinel://`). A cluster is
            recognised by itself.
        key_prefix: What the key of each list starts with.
        redis_client: Your own blocking client, in place of `url`. It is never closed here.
        async_redis_client: Your own asyncio client. With one of the two alone, the other side is not derived: async
            methods run a blocking client in threads, sync methods refuse an asyncio one.
        client_options: More options for redis-py, such as `{"socket_timeout": 5}`; only with `url`.
        **options: See `StoreOptions`. `ttl` is supported.
    """

    name = "redis"
    schemes = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
    driver_errors = (exceptions.RedisError, exceptions.RedisClusterException)
    unavailable_errors = (
        ConnectionError,
        TimeoutError,
        exceptions.ConnectionError,
        exceptions.TimeoutError,
        exceptions.ClusterDownError,
        exceptions.SlotNotCoveredError,
    )

    def __init__(
        self,
        url: str | None = None,
        *,
        key_prefix: str = "message_store:",
        redis_client: redis.Redis | redis.RedisCluster | None = None,
        async_redis_client: redis.asyncio.Redis | redis.asyncio.RedisCluster | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        given = redis_client is not None or async_redis_client is not None
        if given == (url is not None) or (given and client_options):
            raise ConfigurationError("Pass a url (and client_options), or clients of your own, and not both.")
        if redis_client is not None and not isinstance(redis_client, redis.Redis | redis.RedisCluster):
            raise ConfigurationError(f"redis_client must be a blocking redis client, not {_kind(redis_client)}.")
        async_kinds = redis.asyncio.Redis | redis.asyncio.RedisCluster
        if async_redis_client is not None and not isinstance(async_redis_client, async_kinds):
            raise ConfigurationError(
                f"async_redis_client must be a redis.asyncio client, not {_kind(async_redis_client)}."
            )
        self._client_options = client_options or {}
        clients: Clients[Any] = Clients(
            connect=self._connect, close=self._close, client=redis_client, async_client=async_redis_client
        )
        super().__init__(clients, url, key_prefix=key_prefix, **options)

    async def _connect(self, native: bool) -> Any:
        """Open a client for the URL; a server that is a node of a cluster gets a cluster client."""
        package: Any = redis.asyncio if native else redis
        # redis-py would send a batch again when the answer got lost: the batch could be stored twice.
        retry: Any = (AsyncRetry if native else Retry)(NoBackoff(), 0)
        options = {"retry": retry, **self._client_options}
        url = str(self._url)
        if urlsplit(url).scheme.endswith("+sentinel"):
            return _sentinel_client(package, url, options)
        # redis-py's own pool does not wait for a free connection, and would refuse many histories at once.
        client = package.Redis.from_pool(package.BlockingConnectionPool.from_url(url, **options))
        try:
            server = await settle(client.info("cluster"))
        except exceptions.NoPermissionError:
            return client
        if not server.get("cluster_enabled"):
            return client
        await self._close(client)
        # A cluster client needs its retries to follow moved slots; what they store twice is read once.
        client = package.RedisCluster.from_url(url, **self._client_options)
        if native:
            await settle(client.initialize())
        return client

    async def _close(self, client: Any) -> None:
        await settle(client.aclose() if hasattr(client, "aclose") else client.close())

    def _unavailable(self, error: Exception) -> bool:
        # A cluster of which no node answers is told by an error that is no ConnectionError, but has one as its cause.
        cause = error.__cause__ if isinstance(error, exceptions.RedisClusterException) else None
        return super()._unavailable(error) or isinstance(cause, self.unavailable_errors)

    async def _command(self, client: Any, *words: Any) -> Any:
        return await settle(client.execute_command(*words))

    async def _pipeline(
        self, client: Any, commands: Sequence[Sequence[Any]], *, transaction: bool = False
    ) -> list[Any]:
        pipeline = client.pipeline(transaction=transaction)
        for words in commands:
            pipeline.execute_command(*words)
        return list(await settle(pipeline.execute()))

    async def _tail(self, client: Any, name: str, last: int) -> tuple[int, list[Any]]:
        if isinstance(client, redis.asyncio.RedisCluster):
            length, newest_first = await self._command(client, "EVAL", _TAIL, 1, name, last - 1)
        else:
            asked = [("LLEN", name), ("LRANGE", name, 0, last - 1)]
            length, newest_first = await self._pipeline(client, asked, transaction=True)
        return length, newest_first

    async def _scan(self, client: Any, pattern: str, kind: str) -> list[str | bytes]:
        return [name async for name in each(client.scan_iter(match=pattern, count=1000, _type=kind))]


class RedisChatMessageHistory(RedisListHistory):
    """A history in Redis with the constructor of LangChain's class of this name; reads and writes the same lists.

    All histories of one configuration in a process share one client, so a program may make one for each turn.

    Args:
        session_id: The session.
        url: As for `RedisStore`.
        key_prefix: What the key of each list starts with.
        ttl: Seconds after the last addition at which the session expires; `None` or 0 for never.
        redis_client: Your own blocking client, in place of `url`.
        async_redis_client: Your own asyncio client.
    """

    store: RedisStore

    def __init__(
        self,
        session_id: SessionId,
        url: str = _DEFAULT_URL,
        key_prefix: str = "message_store:",
        ttl: int | None = None,
        *,
        redis_client: Any = None,
        async_redis_client: Any = None,
    ) -> None:
        """Join the store of this configuration."""
        given = redis_client is not None or async_redis_client is not None
        store = RedisStore.shared(
            None if given and url == _DEFAULT_URL else url,
            key_prefix=key_prefix,
            redis_client=redis_client,
            async_redis_client=async_redis_client,
            ttl=ttl or None,
        )
        super().__init__(store, session_id)
        self.key_prefix = key_prefix
        self.ttl = ttl


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


def _kind(client: object) -> str:
    return f"{type(client).__module__}.{type(client).__name__}"
