"""How redis-py connects: to one server, through Sentinel, or to a cluster."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from redis import exceptions, sentinel
from redis.asyncio import sentinel as async_sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from langchain_histories._urls import bad_url, read_url, split_url
from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import (
    CONNECT_TIMEOUT,
    TIMEOUT,
    Clients,
    check_given_clients,
    check_max_connections,
    settle,
    time_left,
)
from langchain_histories.stores.shared.sockets import in_time

if TYPE_CHECKING:
    from langchain_histories._urls import StoreUrl

try:
    from redis.driver_info import DriverInfo

    # Each connection tells the server the version of redis-py, and would read it from the disk.
    _NAMED: dict[str, Any] = {"driver_info": DriverInfo()}
except ImportError:  # an older one, which reads it once
    _NAMED = {}

_MAX_CONNECTIONS = 50
_FORM = "redis://[user:password@]host[:6379][/db]"
_UNIX_FORM = "unix://[user:password@]/path/of/the/socket[?db=0]"
_SENTINEL_FORM = "redis+sentinel://[user:password@]host[:26379][,host...][/service[/db]]"


def clients_of(
    url: str | None,
    client: Any,
    async_client: Any,
    client_options: dict[str, Any] | None,
    *,
    max_connections: int | None,
    timeout: float | None,
) -> tuple[Clients[Any], float | None]:
    """Return the clients for a URL, or those of the caller, and how long an async operation takes at most.

    Raises:
        ConfigurationError: Neither was given, or both, or a client of another kind, or the URL cannot be read.
    """
    if check_given_clients(
        "redis",
        client=client,
        async_client=async_client,
        is_blocking=lambda it: isinstance(it, redis.Redis | redis.RedisCluster),
        is_native=lambda it: isinstance(it, redis.asyncio.Redis | redis.asyncio.RedisCluster),
        instead_of={"url": url, "client_options": client_options, "max_connections": max_connections},
    ):
        pool = getattr(async_client, "connection_pool", None)
        at_once = getattr(pool, "max_connections", _MAX_CONNECTIONS)
        if client is not None and timeout is not None:
            raise ConfigurationError(
                "A blocking client of your own keeps its own time-outs: timeout does not go with it."
            )
        return Clients.shared("redis", client=client, async_client=async_client, at_once=at_once), timeout
    sentinels, options = _sentinels(url), dict(client_options or {})
    named = options | (_options_of(url) if sentinels is None else sentinels.options)
    check_max_connections(max_connections, named, "max_connections")
    options["max_connections"] = at_once = max_connections or named.get("max_connections", _MAX_CONNECTIONS)
    timeout = timeout or TIMEOUT
    options = {"socket_timeout": timeout, "socket_connect_timeout": min(timeout, CONNECT_TIMEOUT), **options}
    connections = _Connections(url, sentinels, options, timeout)
    clients: Clients[Any]
    clients = Clients.shared(
        "redis", url, options, connect=connections.connect, close=connections.close, at_once=at_once
    )
    return clients, timeout


class _Connections:
    """Opens and closes clients for a URL."""

    def __init__(self, url: Any, sentinels: _Sentinels | None, client_options: dict[str, Any], timeout: float) -> None:
        self._url, self._sentinels, self._client_options = url, sentinels, client_options
        self._timeout = timeout

    async def connect(self, native: bool) -> Any:
        """Open a client; a server that is a node of a cluster gets a cluster client."""
        package: Any = redis.asyncio if native else redis
        # redis-py would send a batch again when the answer got lost: the batch could be stored twice.
        retry: Any = (AsyncRetry if native else Retry)(NoBackoff(), 0)
        # Of the pool: how long it waits for a free connection.
        options: dict[str, Any] = {"retry": retry, "timeout": self._timeout, **(_sees_cuts() if native else {})}
        named = _NAMED if not self._client_options.keys() & {"driver_info", "lib_name", "lib_version"} else {}
        options |= named | self._client_options
        if self._sentinels is not None:
            return await self._sentinels.connect(package, options)
        # redis-py's own pool does not wait for a free connection, and would refuse many histories at once.
        kind: Any = redis.asyncio.BlockingConnectionPool if native else _Pool
        client = package.Redis.from_pool(kind.from_url(self._url, **options))
        try:
            server = await settle(client.info("cluster"))
        except exceptions.NoPermissionError:
            return client
        if not server.get("cluster_enabled"):
            return client
        await self.close(client)
        # A cluster client needs its retries to follow moved slots; what they store twice is read once.
        waiting = {} if native else {"connection_pool_class": _Pool}
        client = package.RedisCluster.from_url(self._url, **waiting, **named, **self._client_options)
        if native:
            await settle(client.initialize())
        return client

    async def close(self, client: Any) -> None:
        """Close a client."""
        await settle(client.aclose() if hasattr(client, "aclose") else client.close())


def _sees_cuts() -> dict[str, Any]:
    """Options with which redis-py's asyncio pool sees that a connection was cut while nobody used it.

    It does not look at that while it waits for the notifications of a server that is to be maintained.
    """
    if not hasattr(redis.asyncio.ConnectionPool, "maint_notifications_enabled"):
        return {}  # an older one
    from redis.maint_notifications import MaintNotificationsConfig

    return {"maint_notifications_config": MaintNotificationsConfig(enabled=False)}


class _Pool(redis.BlockingConnectionPool):
    """Waits for a free connection, and has connections that wait, no longer than the call that waits."""

    def __init__(self, *, connection_class: Any = redis.Connection, **options: Any) -> None:
        make: Any = super().__init__
        make(connection_class=_in_time(connection_class), **options)

    @property
    def timeout(self) -> float:
        """How long it waits for a free connection."""
        left = time_left()
        return self._timeout if left is None else min(self._timeout, left)

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._timeout = seconds


@functools.cache
def _in_time(connection_class: Any) -> Any:
    """Return a class of connections that wait no longer than the call that waits, for an answer or to connect."""

    class Connection(connection_class):  # type: ignore[misc]  # whichever it is
        socket_connect_timeout: float | None

        def _connect(self) -> Any:
            usual, left = self.socket_connect_timeout, time_left()
            if left is not None and usual is not None:
                self.socket_connect_timeout = min(usual, max(left, 0.001))
            try:
                return in_time(super()._connect())
            finally:
                self.socket_connect_timeout = usual

    return Connection


class _SentinelPool(sentinel.SentinelConnectionPool, _Pool):
    """Waits for a free connection, as the pool of a single server does."""


class _AsyncSentinelPool(async_sentinel.SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """Its asyncio twin."""


class _Sentinels:
    """The sentinels of a URL, which tell which server is the primary."""

    def __init__(self, url: StoreUrl) -> None:
        self._addresses = [(host or "localhost", port or 26379) for host, port in url.hosts or (("", None),)]
        service, _, db = url.path.partition("/")
        if not (db or "0").isdecimal():
            raise bad_url(_SENTINEL_FORM)
        self._service, self._db = service or "mymaster", int(db or 0)
        self.options: dict[str, Any] = {name: _number(value) for name, value in url.options.items() if value}
        if url.scheme.startswith("rediss"):
            self.options["ssl"] = True
        if url.user:
            self.options["username"] = url.user
        if url.password:
            self.options["password"] = url.password

    async def connect(self, package: Any, options: dict[str, Any]) -> Any:
        """Open a client of the primary.

        The login of the URL is for the sentinels too, and they are asked without it where they refuse it.
        """
        options |= self.options
        given = options.pop("sentinel_kwargs", None)
        without = {
            name: value
            for name, value in options.items()
            if name.startswith(("ssl", "socket_", "retry", "driver_", "lib_"))
        }
        login = {name: options[name] for name in ("username", "password") if name in options}
        tries = [without | login, without] if login and given is None else [without if given is None else given]
        pool = _SentinelPool if package is redis else _AsyncSentinelPool
        for number, sentinel_options in enumerate(tries):
            finder = package.sentinel.Sentinel(self._addresses, sentinel_kwargs=sentinel_options, **options)
            for one in finder.sentinels if package is redis else ():
                asking = one.connection_pool
                asking.connection_class = _in_time(asking.connection_class)
            client = finder.master_for(self._service, db=self._db, connection_pool_class=pool)
            # Made to be thrown away: redis-py would look at the options when it connects.
            client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
            if number == len(tries) - 1:
                break
            try:
                await settle(finder.discover_master(self._service))
                break
            except package.sentinel.MasterNotFoundError:
                for one in finder.sentinels:
                    await settle(one.aclose() if hasattr(one, "aclose") else one.close())
        return client


def _sentinels(url: Any) -> _Sentinels | None:
    """Return the sentinels that a URL names; `None` if it names a server.

    Raises:
        ConfigurationError: It cannot be read.
    """
    scheme = str(url).partition(":")[0].lower()
    if scheme in ("redis+sentinel", "rediss+sentinel"):
        return _Sentinels(split_url(url, _SENTINEL_FORM))
    form = _UNIX_FORM if scheme == "unix" else _FORM
    split_url(url, form)
    _options_of(url, form)
    return None


def _options_of(url: Any, form: str = _FORM) -> dict[str, Any]:
    """Return what redis-py reads in a URL."""
    found: dict[str, Any] = read_url(parse_url, url, form)
    return found


def _number(value: str) -> str | int:
    return int(value) if value.isdecimal() else value
