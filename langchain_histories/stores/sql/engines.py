"""The engines of an SQL store, how it uses them, and the meaning of their errors."""

from __future__ import annotations

import asyncio
import functools
import importlib
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from langchain_histories._clients import Clients
from langchain_histories._neutral import entered, settle
from langchain_histories.errors import ConfigurationError
from langchain_histories.store import (
    Capability,
    MessageStore,
    StoreOptions,
)
from langchain_histories.stores.sql.drivers import Urls, engine_urls, given_engines, is_memory
from langchain_histories.stores.sql.google import GoogleInstance, is_google
from langchain_histories.stores.sql.statements import MYSQL

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from typing import TypeVar, Unpack

    T = TypeVar("T")

_BUSY_TIMEOUT = 30  # seconds that a writer on SQLite waits for its turn; those who wait do not queue
# No connection (08), refused login (28), no such database (3D), too many connections, shutdown.
_UNAVAILABLE_STATES = ("08", "28", "3D000", "53300", "57P01", "57P02", "57P03")
_UNAVAILABLE_NUMBERS = {
    *(1040, 1043, 1044, 1045, 1049, 1053, 1129, 1130, 1152, 1158, 1159, 1160, 1161, 1203, 1226, 1698),
    *(2002, 2003, 2005, 2006, 2012, 2013, 2026, 2055),
}


class SQLBase(MessageStore[Any]):
    """The engines of a store, and the meaning of their errors."""

    name = "sql"
    driver_errors: tuple[type[Exception], ...] = (exc.SQLAlchemyError, UnicodeError)

    def __init__(
        self,
        url: str | None = None,
        *,
        connection: Any = None,
        async_connection: Any = None,
        async_url: str | None = None,
        engine_args: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Choose the drivers; nothing is connected."""
        if (url is None) == (connection is None and async_connection is None):
            raise ConfigurationError("Pass a url, or engines of your own (connection, async_connection), and not both.")
        if url is None and (engine_args or async_url):
            raise ConfigurationError("engine_args and async_url go with a url, not with engines of your own.")
        self._engine_args = dict(engine_args or {})
        self._views: dict[Any, View] = {}
        self._given_async: AsyncEngine | None = None
        self._google: GoogleInstance | None = None
        if url is None:
            engine, self._given_async = given_engines(connection, async_connection)
            place_url = (engine or self._given_async).url
            self._urls = Urls(None, None, is_memory=is_memory(place_url))
            native = None if self._given_async is None else self._given_async.url
            self.backend = (engine or self._given_async).dialect.name
            clients: Clients[Any] = Clients(client=engine, async_client=self._given_async)
            place = place_url.render_as_string()
        else:
            if is_google(url):
                if async_url is not None:
                    raise ConfigurationError("async_url does not go with an instance of Google's: one url names it.")
                self._google = GoogleInstance(url)
                self._urls = Urls(self._google.blocking, self._google.native)
            else:
                self._urls = engine_urls(url, async_url, has_connect_args="connect_args" in self._engine_args)
            native = self._urls.native
            self.backend = next(url.get_backend_name() for url in self._urls[:2] if url is not None)
            clients = Clients(connect=self._connect, close=self._close, native=native is not None)
            place = url
        super().__init__(clients, place, **options)
        if native is not None and native.drivername.endswith("+asyncpg"):
            # SQLAlchemy passes on what asyncpg raises while it connects.
            asyncpg = importlib.import_module("asyncpg")
            self.driver_errors = (*self.driver_errors, asyncpg.PostgresError, asyncpg.InterfaceError)

    def async_engine(self) -> AsyncEngine:
        """The caller's `AsyncEngine`; from a URL a new one without a pool, which works on any event loop.

        Raises:
            ConfigurationError: There is no async driver.
        """
        if self._given_async is not None:
            return self._given_async
        if self._urls.native is None or self._google is not None:
            raise ConfigurationError(f"{self!r} has no async engine to give away.")
        return create_async_engine(self._urls.native, poolclass=NullPool, hide_parameters=True)

    @property
    def capabilities(self) -> Capability:
        """What engines and place allow."""
        found = ~Capability.TTL
        if not self._clients.has_native:
            found &= ~Capability.NATIVE_ASYNC
        return found & ~Capability.PERSISTENT if self._urls.is_memory else found

    async def _connect(self, native: bool) -> Any:
        """Make an engine. It connects when it is used."""
        url = self._urls.native if native else self._urls.blocking
        if url is None:
            raise ConfigurationError(
                f"{self!r} names an async driver, and no blocking one that goes with it is installed: call the async "
                "methods, or pass a url with a blocking driver and the other one as async_url."
            )
        # Errors would show the text of messages.
        args = {"hide_parameters": True, **self._engine_args}
        if url.get_backend_name() == "sqlite":
            connect_args = {} if "timeout" in url.query else {"timeout": _BUSY_TIMEOUT}
            if self._urls.is_memory:
                args["poolclass"] = StaticPool
                connect_args["check_same_thread"] = False
            args["connect_args"] = {**connect_args, **args.get("connect_args", {})}
        make = functools.partial(create_async_engine if native else sa.create_engine, url, **args)
        try:
            engine = make() if self._google is None else self._google.engine(make, native=native)
        except (exc.ArgumentError, TypeError) as error:
            raise ConfigurationError(f"An engine for {self!r} cannot be made with these engine_args: {error}") from None
        if self._urls.is_memory:
            # A new engine is a new, empty database.
            await self._setup(engine)
        return engine

    async def _close(self, client: Any) -> None:
        self._views.pop(client, None)
        await settle(client.dispose())
        if self._google is not None:
            await self._google.close(client)

    def _view(self, client: Any) -> View:
        view = self._views.get(client)
        if view is None:
            view = self._views[client] = View(client, takes_turns=client is not self._given_async)
        return view

    @asynccontextmanager
    async def _connected(self, client: Any, *, writing: bool = False, transaction: bool = False) -> AsyncGenerator[Any]:
        """A connection on which each statement commits by itself, or one for a transaction."""
        view = self._view(client)
        options = view.transactions if transaction else view.statements
        async with entered(view.connect(writing=writing)) as connection:
            try:
                if options:
                    # Not set on the engine: a connection would be lost if its opening were cancelled in the switch.
                    await settle(connection.execution_options(**options))
                yield connection
            except BaseException:
                if view.is_mysql:
                    # A named lock may be held still; it goes with its connection.
                    await settle(connection.invalidate())
                raise

    async def _in_sync(self, connection: Any, function: Callable[[sa.Connection], T]) -> T:
        """Call a function of SQLAlchemy's blocking interface, over a connection of either kind."""
        if hasattr(connection, "run_sync"):
            return await settle(connection.run_sync(function))
        return function(connection)

    def _unavailable(self, error: Exception) -> bool:
        """Tell the loss of a connection and a refused login from a refused statement."""
        if isinstance(error, OSError | exc.TimeoutError):
            return True
        if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
            return True
        cause: Any = error.orig if isinstance(error, exc.DBAPIError) else error
        if (name := getattr(cause, "sqlite_errorname", None)) is not None:
            return str(name).startswith(("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_LOCKED"))
        if cause is not None and cause.args and isinstance(cause.args[0], int):
            return cause.args[0] in _UNAVAILABLE_NUMBERS
        state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
        if isinstance(state, str):
            return state.startswith(_UNAVAILABLE_STATES)
        # psycopg has no state where there was no server to give one; asyncpg's InterfaceError is a closed connection.
        return isinstance(error, exc.OperationalError) or (
            not isinstance(error, exc.SQLAlchemyError) and type(cause).__name__ == "InterfaceError"
        )


class View:
    """An engine, its own or the caller's, as the store uses it; the engine itself is not changed.

    Args:
        engine: The engine.
        takes_turns: Whether writers of this process may wait for each other here and not in SQLite, which polls.
    """

    def __init__(self, engine: Any, *, takes_turns: bool) -> None:
        self.is_sqlite = engine.dialect.name == "sqlite"
        self.is_mysql = engine.dialect.name in MYSQL
        # On MySQL switching to autocommit costs more round trips than it saves.
        self.statements = {} if self.is_mysql else {"isolation_level": "AUTOCOMMIT"}
        # A transaction must see what was committed while it waited for its lock.
        is_postgresql = engine.dialect.name in ("postgresql", "yugabytedb")
        self.transactions = {"isolation_level": "READ COMMITTED"} if is_postgresql else self.statements
        self.engine = engine.execution_options()
        getattr(self.engine, "sync_engine", self.engine).hide_parameters = True
        self.readers: Any = None
        self.writers: Any = None
        turns: Any = asyncio.Lock() if isinstance(engine, AsyncEngine) else threading.Lock()
        if isinstance(engine.pool, StaticPool):
            # One connection for all, of other stores too.
            self.readers = self.writers = _turns.setdefault(engine.pool, turns)
        elif self.is_sqlite and takes_turns:
            self.writers = turns

    def is_in_transaction(self) -> bool:
        """Whether it is over a connection of psycopg with a transaction of the caller's."""
        connection = getattr(self.engine.pool, "lender", None)
        return connection is not None and connection.info.transaction_status != 0  # psycopg's for none

    def connect(self, *, writing: bool) -> Any:
        """Open a connection, in turn where that is needed."""
        turns = self.writers if writing else self.readers
        return self.engine.connect() if turns is None else _in_turn(turns, self.engine)


_turns: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


@asynccontextmanager
async def _in_turn(turns: Any, engine: Any) -> AsyncGenerator[Any]:
    async with entered(turns), entered(engine.connect()) as connection:
        yield connection
