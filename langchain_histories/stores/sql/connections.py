"""Where an SQL store connects to: which engines serve it, who opens them and who closes them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from langchain_histories._secrets import hidden, secrets_of
from langchain_histories._urls import shown_url
from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import (
    TIMEOUT,
    Clients,
    check_given_clients,
    check_max_connections,
    check_timeout,
    check_timeout_of_client,
    settle,
)
from langchain_histories.stores.sql.drivers import (
    Urls,
    engine_urls,
    given_engines,
    is_blocking_client,
    is_memory,
    is_native_client,
    place_of,
    text_of,
)
from langchain_histories.stores.sql.engines import EngineUse, attached
from langchain_histories.stores.sql.google import GoogleInstance, is_google
from langchain_histories.stores.sql.poolers import prepare_nothing_behind_poolers
from langchain_histories.stores.sql.sqlite_files import new_file, private
from langchain_histories.stores.sql.statements import KINDS, MYSQL
from langchain_histories.stores.sql.waits import connect_args, limit

_MAX_CONNECTIONS = 15
_POOL_ARGUMENTS = ("pool_size", "max_overflow", "poolclass", "pool")
_LEVELS = {"isolation_level", "execution_options", "skip_autocommit_rollback"}  # of a caller who chooses transactions


@dataclass(frozen=True, repr=False)
class Database:
    """The database of a store.

    Attributes:
        url: Names it in messages: SQLAlchemy has read it, so the password is where every other reader finds it.
        clients: The engines, one pair for all stores of the database.
        backend: SQLAlchemy's name of its kind, such as `postgresql`.
        async_url: Where async engines connect to; `None` if there are none.
        is_memory: Whether it is SQLite in memory.
        driver_options: With what else the engines are made.
        given_async_engine: The async engine, if it is the caller's.
        named_by: URL, async URL, arguments, number of connections and time-out of the engines, as they were given;
            `None` for the caller's engines.
        timeout: Seconds that a call may take; `None` for any.
        schemas: SQLAlchemy's `schema_translate_map` of the engines: the schema that takes the place of another.
    """

    url: str
    clients: Clients[Any]
    backend: str
    async_url: sa.URL | None
    is_memory: bool
    driver_options: Any = None
    given_async_engine: AsyncEngine | None = None
    named_by: tuple[Any, ...] | None = None
    timeout: float | None = None
    schemas: dict[str | None, str | None] = field(default_factory=dict)

    def __deepcopy__(self, _: Any) -> Database:
        """Join the same engines."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what names the database.

        Raises:
            TypeError: It is in memory, or the engines are the caller's.
        """
        if self.is_memory or self.named_by is None:
            raise TypeError("A database in memory and the engines of the caller cannot be pickled: give a url.")
        return _named, self.named_by

    def schema(self, name: str | None) -> str | None:
        """The schema that is meant where `name` is said; `None` stands for the one that a connection has."""
        return self.schemas.get(name, name)

    def async_engine(self) -> AsyncEngine:
        """Return the caller's `AsyncEngine`; for a URL a new one without a pool, which works on any event loop.

        Raises:
            ConfigurationError: There is no async driver.
        """
        if self.given_async_engine is not None:
            return self.given_async_engine
        url = self.async_url
        if url is None and self.backend == "sqlite" and not self.is_memory:
            url = sa.make_url(self.url).set(drivername="sqlite+aiosqlite")
        if url is None or is_google(self.url):
            raise ConfigurationError(f"{shown_url(self.url)!r} has no async engine to give away.")
        args = {"connect_args": {"factory": private()}} if _is_file(url) else {}
        return create_async_engine(url, poolclass=NullPool, hide_parameters=True, **args)

    @property
    def async_driver_errors(self) -> tuple[type[Exception], ...]:
        """The errors of asyncpg: SQLAlchemy does not wrap those of its connecting."""
        if self.async_url is None or not self.async_url.drivername.endswith("+asyncpg"):
            return ()
        asyncpg = importlib.import_module("asyncpg")
        return asyncpg.PostgresError, asyncpg.InterfaceError


def database_of(
    url: str | sa.URL | os.PathLike[str] | None = None,
    *,
    client: Any = None,
    async_client: Any = None,
    async_url: str | sa.URL | None = None,
    engine_args: dict[str, Any] | None = None,
    max_connections: int | None = None,
    timeout: float | None = None,
    any_dialect: bool = False,
) -> Database:
    """Return the database of a store: that of a URL, or of the caller's clients. Nothing is connected.

    With `any_dialect` it may be of a kind that this package does not know.

    Raises:
        ConfigurationError: There is neither, or both, or one cannot be used.
        MissingExtraError: No driver is installed.
    """
    if isinstance(client, Database):  # from `database_of_histories`
        return client
    if check_given_clients(
        "SQLAlchemy (an engine) or psycopg (a connection or a pool)",
        client=client,
        async_client=async_client,
        is_blocking=is_blocking_client,
        is_native=is_native_client,
        instead_of={
            "url": url,
            "engine_args": engine_args,
            "async_url": async_url,
            "max_connections": max_connections,
        },
    ):
        check_timeout_of_client(client, check_timeout(timeout))
        return _given(*given_engines(client, async_client, any_dialect=any_dialect), timeout)
    return _named(text_of(url), async_url, engine_args, max_connections, timeout)


def database_of_histories(
    url: str | sa.URL | os.PathLike[str],
    async_url: str | sa.URL | None,
    engine_args: dict[str, Any] | None,
    max_connections: int | None = None,
    timeout: float | None = None,
    *,
    any_dialect: bool = False,
) -> Database:
    """Return the database of a URL for a single history; in memory it is one for all of them, for the whole process."""
    database = _named(
        text_of(url), async_url, engine_args, max_connections, timeout, is_joined=True, any_dialect=any_dialect
    )
    if database.is_memory:
        # This user never lets the place go. To lend an engine connects to nothing.
        database.clients.give_back(database.clients.lend(_this_process))
    return database


class _Process:
    """A user of places in memory that lives as long as the process."""


_this_process = _Process()


def _given(engine: sa.Engine | None, async_engine: AsyncEngine | None, timeout: float | None) -> Database:
    """The database of the caller's engines. Its clients are attached to an engine, so both end together."""
    one: Any = async_engine if engine is None else engine
    clients: Clients[Any] = attached(
        getattr(one, "sync_engine", one),
        ("clients", id(async_engine)),
        lambda: Clients(
            client=engine, async_client=async_engine, at_once=_size_of(async_engine), **_how_to_fork(one.url, TIMEOUT)
        ),
    )
    async_url = None if async_engine is None else async_engine.url
    engines = [one for one in (engine, async_engine) if one is not None]
    return Database(
        one.url.render_as_string(),
        clients,
        one.dialect.name,
        async_url,
        is_memory(one.url),
        [given.url.render_as_string(hide_password=False) for given in engines],
        given_async_engine=async_engine,
        timeout=timeout,
        schemas=one.get_execution_options().get("schema_translate_map") or {},
    )


def _size_of(async_engine: AsyncEngine | None) -> int:
    """How many connections the pool of the caller's engine has at most."""
    pool: Any = None if async_engine is None else async_engine.pool
    if hasattr(pool, "at_once"):
        return int(pool.at_once)
    overflow = getattr(pool, "_max_overflow", -1)  # it has no public name
    return pool.size() + overflow if overflow >= 0 else _MAX_CONNECTIONS


def _with_pool(
    backend: str, args: dict[str, Any], max_connections: int | None, timeout: float
) -> tuple[dict[str, Any], int]:
    """Return the arguments of an engine with the size of its pool and how long it waits there, and this size.

    Raises:
        ConfigurationError: The size is given twice, or there is no such pool.
    """
    check_max_connections(max_connections, args, *_POOL_ARGUMENTS)
    if backend == "sqlite":
        if max_connections is not None:
            raise ConfigurationError("max_connections is for servers, and SQLite is none.")
        return args, _MAX_CONNECTIONS
    if backend not in KINDS or args.keys() & {"pool", "poolclass"}:
        return args, args.get("pool_size", _MAX_CONNECTIONS)
    args = {"pool_timeout": timeout, **args}
    if args.keys() & set(_POOL_ARGUMENTS):
        # SQLAlchemy's own defaults for what is not given.
        size, overflow = args.get("pool_size", 5), args.get("max_overflow", 10)
        return args, max(_MAX_CONNECTIONS, size) if overflow < 0 or not size else size + overflow
    size = max_connections or _MAX_CONNECTIONS
    return {**args, "pool_size": size, "max_overflow": 0}, size


def _named(
    url: str,
    async_url: str | sa.URL | None,
    engine_args: dict[str, Any] | None,
    max_connections: int | None,
    timeout: float | None,
    *,
    is_joined: bool = False,
    any_dialect: bool = False,
) -> Database:
    """The database of a URL."""
    async_url = None if async_url is None else text_of(async_url)
    named_by = (url, async_url, engine_args, max_connections, timeout)
    args = dict(engine_args or {})
    google = GoogleInstance(url) if is_google(url) else None
    if google is None:
        urls = engine_urls(url, async_url, has_connect_args="connect_args" in args, any_dialect=any_dialect)
    elif async_url is None:
        urls = Urls(google.blocking, google.native)
    else:
        raise ConfigurationError("async_url does not go with an instance of Google's: one url names it.")
    place = url if google is not None else place_of(url)
    backend = next(one.get_backend_name() for one in (urls.blocking, urls.native) if one is not None)
    timeout = check_timeout(timeout) or _lock_timeout(urls.blocking or urls.native, args) or TIMEOUT
    args, at_once = _with_pool(backend, args, max_connections, timeout)
    engines = _Engines(place, urls, args, google, timeout)
    how: dict[str, Any] = {
        "connect": engines.connect,
        "close": engines.close,
        "native": urls.native is not None,
        "at_once": at_once,
    }
    if google is None:
        how |= _how_to_fork(urls.blocking or urls.native, timeout)
    clients: Clients[Any]
    # A database in memory belongs to its engine, and so to one store.
    is_alone = urls.is_memory and not is_joined
    clients = Clients(**how) if is_alone else Clients.shared("sql", url, async_url, args, timeout, **how)
    return Database(
        place,
        clients,
        backend,
        urls.native,
        urls.is_memory,
        [args, async_url],
        named_by=named_by,
        timeout=timeout,
        schemas=(args.get("execution_options") or {}).get("schema_translate_map") or {},
    )


def _lock_timeout(url: Any, engine_args: dict[str, Any]) -> float | None:
    """How long SQLite waits for a lock, if its URL or arguments say so."""
    given = {**url.query, **engine_args.get("connect_args", {})}.get("timeout")
    if url.get_backend_name() != "sqlite" or given is None:
        return None
    if not re.fullmatch(r"\d+\.?\d*", str(given)):
        raise ConfigurationError("timeout, which SQLite waits for a lock, must be a number of seconds.")
    return float(given)


def _how_to_fork(url: Any, timeout: float) -> dict[str, Any]:
    """What a fork waits for and closes, as arguments of `Clients`: on SQLite nothing may be open then."""
    if url.get_backend_name() != "sqlite":
        return {}
    return {"fork_wait": timeout} if is_memory(url) else {"fork_wait": timeout, "close_idle": _close_idle}


async def _close_idle(engine: Any) -> None:
    await settle(engine.dispose())


def _is_file(url: sa.URL) -> bool:
    """Whether the standard library's `sqlite3` serves it, in a file; SQLCipher has a driver of its own."""
    return url.drivername in ("sqlite", "sqlite+pysqlite", "sqlite+aiosqlite") and not is_memory(url)


class _Engines:
    """Opens and closes the engines of a URL."""

    def __init__(
        self, url: str, urls: Urls, engine_args: dict[str, Any], google: GoogleInstance | None, timeout: float
    ) -> None:
        self._url, self._urls, self._engine_args, self._google = url, urls, engine_args, google
        self._timeout = timeout

    async def connect(self, native: bool) -> Any:
        """Make an engine. It connects when it is used."""
        url = self._urls.native if native else self._urls.blocking
        if url is None:
            raise ConfigurationError(
                f"{shown_url(self._url)!r} names an async driver, and no blocking one that goes with it is installed: "
                "call the async methods, or pass a url with a blocking driver and the other one as async_url."
            )
        # Errors would show the text of messages.
        args = {"hide_parameters": True, **self._engine_args}
        if url.get_backend_name() == "sqlite":
            args |= self._of_sqlite(url, args.get("connect_args", {}))
        elif url.get_backend_name() not in KINDS:
            args = ({"poolclass": StaticPool} if self._urls.is_memory else {}) | args
        elif self._google is None:
            args["connect_args"] = connect_args(url, self._timeout) | args.get("connect_args", {})
        is_autocommit = url.get_backend_name() in MYSQL and not _LEVELS & args.keys()
        if is_autocommit:
            # A read is one round trip then, and sees what is there: no transaction is begun, so none is rolled back.
            args |= {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
        make = functools.partial(create_async_engine if native else sa.create_engine, url, **args)
        engine: Any
        try:
            engine = make() if self._google is None else self._google.engine(make, native=native)
        except (exc.ArgumentError, TypeError, ValueError) as error:
            engine, told = None, hidden(str(error), secrets_of(self._url, self._engine_args))
        if engine is None:
            where = shown_url(self._url)
            raise ConfigurationError(f"An engine for {where!r} cannot be made with these engine_args: {told}")
        use = EngineUse.of(engine, is_own=True, is_autocommit=is_autocommit)
        blocking: Any = engine.sync_engine if native else engine
        if _is_file(url) and not {"creator", "async_creator", "module", "pool"} & args.keys():
            (database, *_), named = blocking.dialect.create_connect_args(url)
            is_uri = bool(args["connect_args"].get("uri", named.get("uri")))
            use.new_file = new_file(os.fsdecode(args["connect_args"].get("database", database)), is_uri=is_uri)
        has_creator = self._google is not None or bool({"creator", "async_creator"} & args.keys())
        limit(engine, self._timeout, has_creator=has_creator)
        sa.event.listen(blocking, "handle_error", _forget_login)
        prepare_nothing_behind_poolers(blocking)
        if native and blocking.dialect.name == "sqlite":
            sa.event.listen(blocking, "invalidate", _roll_back)
        return engine

    def _of_sqlite(self, url: sa.URL, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments of an engine of SQLite, with those that the caller gives its connections."""
        options: dict[str, Any] = {} if "timeout" in url.query else {"timeout": self._timeout}
        if self._urls.is_memory:
            options["check_same_thread"] = False
        options |= given
        if _is_file(url):
            options["factory"] = private(options.get("factory"))
        pool = {"poolclass": StaticPool} if self._urls.is_memory else {}
        return {**pool, "connect_args": options}

    async def close(self, client: Any) -> None:
        """Close an engine."""
        await settle(client.dispose())
        if self._google is not None:
            await self._google.close(client)


def _forget_login(context: Any) -> None:
    """Take from psycopg's error of a refused connection the arguments of the connection, with the password."""
    if hasattr(context.original_exception, "_pgconn"):
        context.original_exception._pgconn = None  # noqa: SLF001  # it has no public way


def _roll_back(connection: Any, *_: Any) -> None:
    """End the transaction of a cancelled call, whose connection SQLAlchemy closes now.

    SQLite keeps a closed connection, and its lock on the file, as long as a statement of the call is in memory.
    """
    with contextlib.suppress(Exception):  # the connection may be closed already
        connection.rollback()
