"""Histories in SQLite, PostgreSQL, MariaDB and MySQL, in the table of LangChain's `SQLChatMessageHistory`.

The table `message_store(id, session_id, message)` has one record a row, ordered by `id`; the states are in
`message_store_state(id, session_id, state)`. A database numbers rows before their transactions commit, so two writers
of a session would mix their batches, and a reader that goes on after the last id it saw would miss rows. Every writer
here therefore holds a lock of its session until its rows are committed: SQLite's write lock, PostgreSQL's advisory lock
of the transaction, MariaDB's and MySQL's `GET_LOCK`. LangChain's own class takes no lock.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib
import json
import logging
import re
import threading
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict

from langchain_histories._clients import Clients
from langchain_histories._neutral import entered, settle
from langchain_histories.codec import Record, Row
from langchain_histories.errors import ConfigurationError, RecordTooLargeError, missing_extra
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.store import (
    Capability,
    MessageStore,
    SessionRow,
    StoreOptions,
    _Operation,
    check_number,
    position_number,
)

try:
    import sqlalchemy as sa
    from sqlalchemy import exc
    from sqlalchemy.dialects import mysql
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
    from sqlalchemy.pool import NullPool, StaticPool
    from sqlalchemy.schema import CreateIndex, CreateTable
except ImportError as error:
    raise missing_extra("sql") from error

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from typing import TypeVar, Unpack

    from langchain_histories.store import SessionId

    T = TypeVar("T")
    Connection = str | sa.Engine | AsyncEngine

logger = logging.getLogger(__name__)

_LOCK_TIMEOUT = 60  # seconds that a writer on MySQL waits for its turn
_BUSY_TIMEOUT = 30  # seconds that a writer on SQLite waits for its turn; those who wait do not queue
_MAX_TABLE_NAME = 57  # bytes: PostgreSQL cuts a name at 63, and the state table's is longer by `_state`
_COMPOUND_ROWS = 100
_COMPOUND_BYTES = 250_000
_IDS_AT_ONCE = 900  # SQLite before 3.32 takes no more than 999 parameters
_INDEX_PREFIX = 255  # characters of a session id in MySQL's index
_MAX_ID = 2**63 - 1


class _SQLBase(MessageStore[Any]):
    """The engines of a store, and the meaning of their errors."""

    name = "sql"
    driver_errors: ClassVar[tuple[type[Exception], ...]] = (exc.SQLAlchemyError, UnicodeError)

    def __init__(
        self,
        url: str | None = None,
        *,
        connection: sa.Engine | AsyncEngine | None = None,
        async_connection: AsyncEngine | None = None,
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
        self._views: dict[Any, _View] = {}
        self._given_async: AsyncEngine | None = None
        if url is None:
            engine, self._given_async = _given_engines(connection, async_connection)
            place_url = (engine or self._given_async).url
            self._urls = _Urls(None, None, is_memory=_is_memory(place_url))
            native = None if self._given_async is None else self._given_async.url
            clients: Clients[Any] = Clients(client=engine, async_client=self._given_async)
            place = place_url.render_as_string()
        else:
            self._urls = _engine_urls(url, async_url, has_connect_args="connect_args" in self._engine_args)
            native = self._urls.native
            clients = Clients(connect=self._connect, close=self._close, native=native is not None)
            place = url
        super().__init__(clients, place, **options)
        if native is not None and native.drivername.endswith("+asyncpg"):
            # SQLAlchemy passes on what asyncpg raises while it connects.
            asyncpg = importlib.import_module("asyncpg")
            self.driver_errors = (*self.driver_errors, asyncpg.PostgresError, asyncpg.InterfaceError)  # type: ignore[misc]

    def async_engine(self) -> AsyncEngine:
        """The caller's `AsyncEngine`; from a URL a new one without a pool, which works on any event loop.

        Raises:
            ConfigurationError: There is no async driver.
        """
        if self._given_async is not None:
            return self._given_async
        if self._urls.native is None:
            raise ConfigurationError(f"{self!r} has no async engine.")
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
        try:
            engine = create_async_engine(url, **args) if native else sa.create_engine(url, **args)
        except (exc.ArgumentError, TypeError) as error:
            raise ConfigurationError(f"An engine for {self!r} cannot be made with these engine_args: {error}") from None
        if self._urls.is_memory:
            # A new engine is a new, empty database.
            await self._setup(engine)
        return engine

    async def _close(self, client: Any) -> None:
        self._views.pop(client, None)
        await settle(client.dispose())

    def _view(self, client: Any) -> _View:
        view = self._views.get(client)
        if view is None:
            view = self._views[client] = _View(client, takes_turns=client is not self._given_async)
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


class SQLStore(_SQLBase):
    """Keeps histories in a table of SQLite, PostgreSQL, MariaDB or MySQL.

    Args:
        url: As SQLAlchemy reads it, without a driver (the installed one is taken) or with one: `sqlite:///file.db`,
            `sqlite://` (in memory), `postgresql://`, `postgresql+psycopg://`, `mariadb+pymysql://`, ... Its partner for
            the other face is found by itself among the installed ones: aiosqlite; psycopg (serves both), psycopg2 and
            asyncpg; mysqlclient, PyMySQL and asyncmy, aiomysql. Without one the async methods run in threads.
        connection: Your own `Engine` or `AsyncEngine`, in place of `url`. It is never disposed of here, and nothing is
            changed in it.
        async_connection: Your own `AsyncEngine`, beside an `Engine`. With one of the two alone, the other side is not
            derived: async methods run an `Engine` in threads, sync methods refuse an `AsyncEngine`.
        async_url: Where the async methods connect to, when it cannot be derived from `url`.
        table_name: The table; `<table_name>_state` holds the states.
        session_id_field_name: Its column of session ids.
        engine_args: More arguments for `create_engine` and `create_async_engine`; only with `url`.
        **options: See `StoreOptions`. There is no `ttl`.
    """

    schemes = ("sqlite", "postgresql", "mysql", "mariadb")
    unholdable = "\0"

    def __init__(
        self,
        url: str | None = None,
        *,
        connection: sa.Engine | AsyncEngine | None = None,
        async_connection: AsyncEngine | None = None,
        async_url: str | None = None,
        table_name: str = "message_store",
        session_id_field_name: str = "session_id",
        engine_args: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Choose drivers and names."""
        for what, name in {"table_name": table_name, "session_id_field_name": session_id_field_name}.items():
            if not isinstance(name, str) or not 0 < len(name.encode()) <= _MAX_TABLE_NAME or "\0" in name:
                raise ConfigurationError(f"{what} must be a name of 1 to {_MAX_TABLE_NAME} bytes, not {name!r}.")
        if session_id_field_name.lower() in ("id", "message", "state"):
            raise ConfigurationError(
                f"session_id_field_name cannot be {session_id_field_name!r}: it is another column."
            )
        self.table_name = table_name
        self.session_id_field_name = session_id_field_name
        self._layout = _Layout("sqlite", "")
        self._warned = False
        super().__init__(
            url,
            connection=connection,
            async_connection=async_connection,
            async_url=async_url,
            engine_args=engine_args,
            **options,
        )

    # Set-up.

    async def _setup(self, client: Any, *, upgrade: bool = False) -> None:
        if self._urls.blocking is not None and self._view(client).is_sqlite and not self._urls.is_memory:
            await self._write_ahead(client)
        async with entered(self._connected(client)) as connection:
            layout = await self._in_sync(connection, self._inspect)
        for is_last in (False, True):
            if layout.is_complete:
                break
            try:
                async with entered(self._locked(client, "")) as connection:
                    layout = await self._in_sync(connection, lambda sync: self._make(sync, upgrade=upgrade))
                break
            except exc.DBAPIError as error:
                if upgrade or self._unavailable(error):
                    raise
                # Another program has made the table at this moment, or this user may not: what is there may do.
                async with entered(self._connected(client)) as connection:
                    layout = await self._in_sync(connection, self._inspect)
                if is_last and layout.messages is None:
                    raise
                if is_last and not layout.has_state:
                    logger.warning("%r: it has no table %s, and none can be made.", self, self._state_table)
        self._layout = layout

    async def _write_ahead(self, client: Any) -> None:
        """Switch a file to write-ahead logging, in which readers and the writer do not wait for each other."""
        async with entered(self._connected(client, writing=True)) as connection:
            for _ in range(20):
                try:
                    await settle(connection.execute(sa.text("PRAGMA journal_mode=WAL")))
                except exc.OperationalError:
                    # The switch does not wait for others that use the file; a transaction does.
                    try:
                        await settle(connection.execute(sa.text("BEGIN IMMEDIATE")))
                        await settle(connection.commit())
                    except exc.OperationalError:
                        return
                else:
                    return

    @property
    def _state_table(self) -> str:
        return f"{self.table_name}_state"

    def _inspect(self, connection: sa.Connection) -> _Layout:
        """See what is there.

        Raises:
            ConfigurationError: The table has another shape.
        """
        kind = connection.dialect.name
        if kind in _MYSQL:
            kind = "mariadb" if getattr(connection.dialect, "is_mariadb", False) else "mysql"
        layout = _Layout(kind, "")
        if kind in _MYSQL:
            database, layout.packet = connection.execute(sa.text("SELECT DATABASE(), @@max_allowed_packet")).one()
            layout.database = database or ""
        if kind == "postgresql":
            encoding = connection.execute(sa.text("SHOW server_encoding")).scalar_one()
            layout.charset = None if encoding == "UTF8" else encoding
        inspector = sa.inspect(connection)
        if inspector.has_table(self.table_name):
            table = self._table(kind, self.table_name, "message")
            layout.messages = _Rows(table, kind, *self._limits(connection, inspector, layout))
            layout.has_index = self._is_indexed(inspector, self.table_name)
        table = self._table(kind, self._state_table, "state")
        ours = _Limit(charset=layout.charset, collation=_COLLATIONS[kind])
        layout.states = _Rows(table, kind, ours, ours)
        layout.has_state = inspector.has_table(self._state_table)
        layout.has_state_index = layout.has_state and self._is_indexed(inspector, self._state_table)
        return layout

    def _is_indexed(self, inspector: sa.Inspector, table: str) -> bool:
        indexes = inspector.get_indexes(table)
        return any(index["column_names"][:1] == [self.session_id_field_name] for index in indexes)

    def _limits(self, connection: sa.Connection, inspector: sa.Inspector, layout: _Layout) -> list[_Limit]:
        """What the columns of the existing table can hold."""
        columns = {column["name"]: column["type"] for column in inspector.get_columns(self.table_name)}
        texts = (self.session_id_field_name, "message")
        if missing := [name for name in ("id", *texts) if name not in columns]:
            raise ConfigurationError(
                f"Table {self.table_name!r} is no table of messages: it has no column {', '.join(missing)} (it has "
                f"{', '.join(columns)}). Choose another table_name or session_id_field_name."
            )
        for name in texts:
            if not isinstance(columns[name], sa.String | sa.types.NullType):
                raise ConfigurationError(
                    f"Table {self.table_name!r} is no table of messages: its column {name} is not text but "
                    f"{columns[name]}. Choose another table_name."
                )
        if layout.kind == "sqlite" and inspector.get_pk_constraint(self.table_name)["constrained_columns"] != ["id"]:
            raise ConfigurationError(
                f"Table {self.table_name!r} has no primary key id: SQLite would not number its rows."
            )
        if layout.kind == "postgresql":
            cache = connection.execute(_SEQUENCE_CACHE, {"table": self.table_name}).scalar()
            if cache is not None and cache > 1:
                raise ConfigurationError(
                    f"The sequence of table {self.table_name!r} gives each connection {cache} numbers at a time, so "
                    "rows would get out of order. Set it to one: ALTER SEQUENCE ... CACHE 1."
                )
        if layout.kind in _MYSQL:
            found = connection.execute(_MYSQL_COLUMNS, {"table": self.table_name})
            limits = {column.lower(): _Limit(*limit) for column, *limit in found}
            return [limits[name.lower()] for name in texts]
        return [
            _Limit(
                None if layout.kind == "sqlite" else getattr(columns[name], "length", None),
                charset=layout.charset,
                collation=getattr(columns[name], "collation", None),
            )
            for name in texts
        ]

    def _make(self, connection: sa.Connection, *, upgrade: bool) -> _Layout:
        """Make what is missing. Called under the lock of the set-up."""
        layout = self._inspect(connection)
        messages = self._table(layout.kind, self.table_name, "message")
        states = self._table(layout.kind, self._state_table, "state")
        if not layout.messages:
            connection.execute(CreateTable(messages, if_not_exists=True))
            connection.execute(CreateIndex(_index(messages)))
        if not layout.has_state:
            connection.execute(CreateTable(states, if_not_exists=True))
        if not layout.has_state_index:
            # MySQL commits each of these by itself, so another one may have been stopped in between.
            connection.execute(CreateIndex(_index(states)))
        if layout.messages and not layout.has_index:
            if upgrade:
                limit = layout.messages.session_limit.characters
                connection.execute(CreateIndex(_index(messages, limit)))
            elif not self._warned:
                self._warned = True
                logger.warning(
                    "Table %s has no index on %s, so a read searches all of it: call setup(upgrade=True) to add one.",
                    self.table_name,
                    self.session_id_field_name,
                )
        return self._inspect(connection)

    def _table(self, kind: str, name: str, text: str) -> Any:
        collation = _COLLATIONS[kind]
        id_type: Any = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
        text_type = mysql.LONGTEXT() if kind in _MYSQL else sa.Text()
        return sa.Table(
            name,
            sa.MetaData(),
            sa.Column("id", id_type, primary_key=True),
            sa.Column(self.session_id_field_name, sa.Text(collation=collation)),
            sa.Column(text, text_type),
            sqlite_autoincrement=True,  # else numbers are given again after a clear, and a reader misses rows
            **_mysql_options(collation),
        )

    # Locks.

    @asynccontextmanager
    async def _locked(self, client: Any, key: str) -> AsyncGenerator[Any]:
        """A transaction in which nobody else here writes to the session; the empty key is for the set-up."""
        view = self._view(client)
        lock = {"lock": self._lock_name(key)}
        async with entered(self._connected(client, writing=True, transaction=True)) as connection:
            if view.is_sqlite:
                await settle(connection.execute(_BEGIN_IMMEDIATE))
            elif view.is_mysql:
                if (await settle(connection.execute(_GET_LOCK, lock))).scalar() != 1:
                    raise TimeoutError(f"no turn to write to the session in {_LOCK_TIMEOUT} seconds")
                await settle(connection.execute(_START_TRANSACTION))
            else:
                await settle(connection.execute(_ADVISORY_LOCK, lock))
            yield connection
            await settle(connection.commit())
            if view.is_mysql:
                await settle(connection.execute(_RELEASE_LOCK, lock))

    def _lock_name(self, key: str) -> str:
        """Name the lock of a session. All releases must use the same names, or they would not lock each other out."""
        # MySQL's names are of the whole server, and short; which database it is, the set-up has yet to find out.
        place = f"{self._layout.database if key else ''}/{self.table_name}/{key}"
        return "lh:" + hashlib.sha1(place.encode(), usedforsecurity=False).hexdigest()

    # The operations.

    @property
    def _messages(self) -> _Rows:
        if self._layout.messages is None:
            raise RuntimeError("internal error: the store is not set up")
        return self._layout.messages

    @property
    def _states(self) -> _Rows:
        if self._layout.states is None:
            raise RuntimeError("internal error: the store is not set up")
        return self._layout.states

    async def _append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        table, view = self._messages, self._view(client)
        rows = self._fitting(table, key, rows)
        if not view.is_mysql:
            async with entered(self._connected(client, writing=True)) as connection:
                await self._insert(connection, table, key, rows)
        elif (
            self._layout.kind == "mariadb"
            and len(rows) <= _COMPOUND_ROWS
            and sum(map(len, rows)) <= min(_COMPOUND_BYTES, self._layout.packet // 16)
        ):
            texts = {f"m{number}": row for number, row in enumerate(rows)}
            async with entered(self._connected(client)) as connection:
                parameters = {"lock": self._lock_name(key), "s": key, **texts}
                await settle(connection.execute(table.compound(len(rows)), parameters))
        else:
            async with entered(self._locked(client, key)) as connection:
                await self._insert(connection, table, key, rows)

    async def _insert(self, connection: Any, table: _Rows, key: str, rows: Sequence[str]) -> None:
        parameters: Any = {"s": key}
        if self._layout.kind == "sqlite":
            parameters["rows"] = json.dumps(rows, ensure_ascii=False)
        elif self._layout.kind == "postgresql":
            parameters |= {"rows": list(rows), "lock": self._lock_name(key)}
        else:
            parameters = [{"s": key, "m": row} for row in rows]
        await settle(connection.execute(table.insert, parameters))

    def _fitting(self, table: _Rows, key: str, rows: Sequence[str]) -> Sequence[str]:
        """Return the rows as the columns can hold them.

        Raises:
            RecordTooLargeError: A row is too large for its column: a server in a lax mode would cut it.
            ConfigurationError: The session id cannot be held.
        """
        if not table.session_limit.holds(key):
            raise ConfigurationError(
                f"The column {self.session_id_field_name} of table {self.table_name!r} cannot hold the session id "
                f"{key!r} ({table.session_limit}). Change its type."
            )
        if table.text_limit.charset not in (None, "utf8mb4"):
            rows = [_escape(row) for row in rows]
        for row in rows:
            if not table.text_limit.holds(row) or not self._layout.sends(row):
                raise RecordTooLargeError(
                    f"A record of {len(row.encode())} bytes is larger than table {self.table_name!r} can hold: "
                    f"{table.text_limit}, max_allowed_packet {self._layout.packet or 'unlimited'}. Nothing was written."
                )
        return rows

    async def _read(self, client: Any, key: str, *, last: int | None = None, after: str | None = None) -> Sequence[Row]:
        parameters: dict[str, Any] = {"s": key}
        if after is not None:
            parameters["after"] = min(position_number(after), _MAX_ID)
        if last is not None:
            parameters["last"] = min(last, _MAX_ID)
        statement = self._messages.read[last is not None, after is not None]
        async with entered(self._connected(client)) as connection:
            found = (await settle(connection.execute(statement, parameters))).all()
        rows = [Row(text or "", str(number)) for number, text in found]
        return rows if last is None else rows[::-1]

    async def _count(self, client: Any, key: str) -> int:
        async with entered(self._connected(client)) as connection:
            return int((await settle(connection.execute(self._messages.count, {"s": key}))).scalar_one())

    async def _clear(self, client: Any, key: str) -> None:
        async with entered(self._locked(client, key)) as connection:
            for table in await self._tables(connection):
                await self._remove(connection, table, key)

    async def _tables(self, connection: Any) -> list[_Rows]:
        """The tables that may hold traces; somebody else may have made that of the states by now."""
        if not self._layout.has_state:
            self._layout = await self._in_sync(connection, self._inspect)
        return [self._messages, self._states] if self._layout.has_state else [self._messages]

    async def _remove(self, connection: Any, table: _Rows, key: str) -> None:
        # By number: on MySQL a deletion by session would also lock the gaps between rows, where others append.
        ids = (await settle(connection.execute(table.ids, {"s": key}))).scalars().all()
        await self._remove_ids(connection, table, ids)

    async def _remove_ids(self, connection: Any, table: _Rows, ids: Sequence[int]) -> int:
        removed = 0
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = {"ids": list(ids[start : start + _IDS_AT_ONCE])}
            removed += (await settle(connection.execute(table.delete, some))).rowcount
        return removed

    async def _replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        await self._put(client, self._messages, key, self._fitting(self._messages, key, rows))

    async def _put(self, client: Any, table: _Rows, key: str, rows: Sequence[str]) -> None:
        async with entered(self._locked(client, key)) as connection:
            await self._remove(connection, table, key)
            if rows:
                await self._insert(connection, table, key, rows)

    async def _delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:
        async with entered(self._locked(client, key)) as connection:
            return await self._remove_ids(connection, self._messages, [int(row.position) for row in rows])

    async def _sessions(
        self, client: Any, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        async with entered(self._connected(client)) as connection:
            found = (await settle(connection.execute(self._messages.listing(prefix, limit, after)))).all()
        return [SessionRow(_text(key), count, last) for key, count, last in found]

    async def _erase(self, client: Any, prefix: str) -> int:
        keys: set[str] = set()
        async with entered(self._locked(client, prefix)) as connection:
            for table in await self._tables(connection):
                found = (await settle(connection.execute(table.with_prefix(prefix)))).all()
                keys |= {_text(key) for _, key in found}
                await self._remove_ids(connection, table, [number for number, _ in found])
        return len(keys)

    async def _get_state(self, client: Any, key: str) -> str | None:
        async with entered(self._connected(client)) as connection:
            found = (await settle(connection.execute(self._states.read[True, False], {"s": key, "last": 1}))).first()
        return None if found is None else str(found[1])

    async def _put_state(self, client: Any, key: str, text: str | None) -> None:
        rows = [] if text is None else self._fitting(self._states, key, [text])
        await self._put(client, self._states, key, rows)


class _ModelStore(_SQLBase):
    """Keeps messages in a SQLAlchemy model of the user's own: for `custom_message_converter`.

    The converter decides what a row is, so there is no envelope, and no lock either: rows are in the order of the
    model's `id`, and a batch is one transaction.
    """

    def __init__(self, *args: Any, converter: Any, session_id_field_name: str, **options: Any) -> None:
        """Keep the converter."""
        self.converter = converter
        self.model: Any = converter.get_sql_model_class()
        if not hasattr(self.model, session_id_field_name):
            raise ConfigurationError(f"The SQL model class must have a column {session_id_field_name!r}.")
        self._session_id: Any = getattr(self.model, session_id_field_name)
        super().__init__(*args, **options)

    @property
    def capabilities(self) -> Capability:
        """What is left without records of our own."""
        return super().capabilities & (
            Capability.NATIVE_ASYNC | Capability.ATOMIC_BATCH | Capability.TAIL_READ | Capability.PERSISTENT
        )

    async def _work(self, client: Any, function: Callable[[Any], T]) -> T:
        """Call a function with a session of SQLAlchemy's ORM, in one transaction."""
        from sqlalchemy.orm import Session

        def work(connection: sa.Connection) -> T:
            with Session(connection) as session:
                result = function(session)
                session.flush()
                return result

        async with entered(self._view(client).connect(writing=True)) as connection, entered(connection.begin()):
            return await self._in_sync(connection, work)

    async def _setup(self, client: Any, *, upgrade: bool = False) -> None:  # noqa: ARG002  # there is nothing to add
        tries = 3
        for left in reversed(range(tries)):
            try:
                async with entered(self._view(client).connect(writing=True)) as connection, entered(connection.begin()):
                    await self._in_sync(connection, self.model.metadata.create_all)
            except exc.DBAPIError as error:
                # Somebody else makes the tables at this moment.
                if not left or self._unavailable(error):
                    raise
            else:
                return

    def _appending(self, session_id: str, messages: Sequence[BaseMessage]) -> _Operation[Any, list[str]]:
        async def body(client: Any) -> list[str]:
            def add(session: Any) -> None:
                session.add_all([self.converter.to_sql_model(message, session_id) for message in messages])

            if messages:
                await self._work(client, add)
            return []

        return _Operation("append", session_id, body)

    def _reading(
        self, session_id: str, last: int | None, after: str | None, *, envelopes: bool
    ) -> _Operation[Any, list[Any]]:
        check_number("last", last)
        query = sa.select(self.model).where(self._session_id == session_id)
        if after is not None:
            query = query.where(self.model.id > position_number(after))
        query = query.order_by(self.model.id) if last is None else query.order_by(self.model.id.desc()).limit(last)

        def read(session: Any) -> list[Any]:
            rows = session.scalars(query).all()
            messages = [self.converter.from_sql_model(row) for row in rows]
            found: list[Any] = messages
            if envelopes:
                found = [
                    Record(message, str(row.id), str(row.id), None) for message, row in zip(messages, rows, strict=True)
                ]
            return found if last is None else found[::-1]

        return _Operation("read", session_id, lambda client: self._work(client, read))

    def _counting(self, session_id: str) -> _Operation[Any, int]:
        query = sa.select(sa.func.count()).select_from(self.model).where(self._session_id == session_id)
        return _Operation("count", session_id, lambda client: self._work(client, lambda session: session.scalar(query)))

    def _clearing(self, session_id: str) -> _Operation[Any, None]:
        query = sa.delete(self.model).where(self._session_id == session_id)

        async def body(client: Any) -> None:
            await self._work(client, lambda session: session.execute(query) and None)

        return _Operation("clear", session_id, body)

    async def _no_rows(self, *_: Any, **__: Any) -> Any:
        raise self._unsupported("row of its own")

    _append = _read = _clear = _no_rows


class BaseMessageConverter(ABC):
    """Converts between messages and a SQLAlchemy model of your own: LangChain's class of this name."""

    @abstractmethod
    def from_sql_model(self, sql_message: Any) -> BaseMessage:
        """Return the message of a row."""

    @abstractmethod
    def to_sql_model(self, message: BaseMessage, session_id: str) -> Any:
        """Return the row of a message."""

    @abstractmethod
    def get_sql_model_class(self) -> Any:
        """Return the class of the rows. It has an `id` that orders them, and a column of session ids."""


class DefaultMessageConverter(BaseMessageConverter):
    """LangChain's converter, for its table.

    Args:
        table_name: The table.
    """

    def __init__(self, table_name: str) -> None:
        """Make the model."""
        from sqlalchemy.orm import declarative_base

        columns = {
            "__tablename__": table_name,
            "id": sa.Column(sa.Integer, primary_key=True),
            "session_id": sa.Column(sa.Text),
            "message": sa.Column(sa.Text),
        }
        self.model_class: Any = type("Message", (declarative_base(),), columns)

    def from_sql_model(self, sql_message: Any) -> BaseMessage:
        """Return the message of a row."""
        return messages_from_dict([json.loads(sql_message.message)])[0]

    def to_sql_model(self, message: BaseMessage, session_id: str) -> Any:
        """Return the row of a message."""
        return self.model_class(session_id=session_id, message=json.dumps(message_to_dict(message)))

    def get_sql_model_class(self) -> Any:
        """Return the class of the rows."""
        return self.model_class


class SQLChatMessageHistory(StoredChatMessageHistory):
    """A history in SQL with the constructor of LangChain's class of this name; reads and writes the same table.

    One object serves sync and async code, whichever way it connects. All histories of one configuration in a process
    share their engines, so a program may make one for each turn. The table is made on first use.

    Args:
        session_id: The session.
        table_name: The table.
        session_id_field_name: Its column of session ids.
        custom_message_converter: Your own model in place of the table: an object with the methods of
            `BaseMessageConverter`. What the converter stores is all that is stored.
        connection: A URL, an `Engine` or an `AsyncEngine`.
        engine_args: More arguments for `create_engine` and `create_async_engine`; only with a URL.
        async_mode: Kept as an attribute; both modes always work.
        async_connection: Your own `AsyncEngine`, beside an `Engine`.
    """

    store: _SQLBase

    def __init__(  # noqa: PLR0917  # LangChain's
        self,
        session_id: SessionId,
        table_name: str = "message_store",
        session_id_field_name: str = "session_id",
        custom_message_converter: Any = None,
        connection: Connection | None = None,
        engine_args: dict[str, Any] | None = None,
        async_mode: bool | None = None,
        *,
        async_connection: AsyncEngine | None = None,
    ) -> None:
        """Join the store of this configuration."""
        is_url = isinstance(connection, str)
        place: dict[str, Any] = {
            "connection": None if is_url else connection,
            "async_connection": async_connection,
            "session_id_field_name": session_id_field_name,
            "engine_args": engine_args if is_url else None,
        }
        store: _SQLBase
        if custom_message_converter is None:
            store = SQLStore.shared(connection if is_url else None, table_name=table_name, **place)
        else:
            store = _ModelStore.shared(connection if is_url else None, converter=custom_message_converter, **place)
        super().__init__(store, session_id)
        if custom_message_converter is not None:
            # The model's column may be of any type.
            self.session_id: Any = session_id
        self.async_mode = async_mode if is_url else isinstance(connection, AsyncEngine)
        self.session_id_field_name = session_id_field_name
        self._table_name, self._converter = table_name, custom_message_converter

    @property
    def engine(self) -> Any:
        """The `Engine`."""
        return self.store.client

    @functools.cached_property
    def async_engine(self) -> AsyncEngine:
        """Your own `AsyncEngine`; from a URL, one without a pool, which works on any event loop."""
        return self.store.async_engine()

    @functools.cached_property
    def session_maker(self) -> Any:
        """A maker of ORM sessions, for what this package does not do."""
        from sqlalchemy.ext.asyncio import async_sessionmaker
        from sqlalchemy.orm import scoped_session, sessionmaker

        if self.async_mode:
            return async_sessionmaker(bind=self.async_engine)
        return scoped_session(sessionmaker(bind=self.engine))

    @functools.cached_property
    def converter(self) -> Any:
        """The converter given, or LangChain's for the table."""
        return self._converter or DefaultMessageConverter(self._table_name)

    @property
    def sql_model_class(self) -> Any:
        """The converter's model."""
        return self.converter.get_sql_model_class()


# What differs between the databases.

_MYSQL = ("mysql", "mariadb")
_KINDS = ("sqlite", "postgresql", *_MYSQL)
# Collations that compare byte for byte, trailing spaces too.
_COLLATIONS = {"sqlite": None, "postgresql": "C", "mysql": "utf8mb4_0900_bin", "mariadb": "utf8mb4_nopad_bin"}
_BYTEWISE = ("C", "utf8mb4_0900_bin", "utf8mb4_nopad_bin")

# No connection (08), refused login (28), no such database (3D), too many connections, shutdown.
_UNAVAILABLE_STATES = ("08", "28", "3D000", "53300", "57P01", "57P02", "57P03")
_UNAVAILABLE_NUMBERS = {
    *(1040, 1043, 1044, 1045, 1049, 1053, 1129, 1130, 1152, 1158, 1159, 1160, 1161, 1203, 1226, 1698),
    *(2002, 2003, 2005, 2006, 2012, 2013, 2026, 2055),
}

_BEGIN_IMMEDIATE = sa.text("BEGIN IMMEDIATE")
_START_TRANSACTION = sa.text("START TRANSACTION")
_ADVISORY_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(CAST(:lock AS text), 0))")
_GET_LOCK = sa.text(f"SELECT GET_LOCK(:lock, {_LOCK_TIMEOUT})")
_RELEASE_LOCK = sa.text("DO RELEASE_LOCK(:lock)")
_SEQUENCE_CACHE = sa.text(
    "SELECT seqcache FROM pg_sequence "
    "WHERE seqrelid = CAST(pg_get_serial_sequence(quote_ident(CAST(:table AS text)), 'id') AS regclass)"
)
_MYSQL_COLUMNS = sa.text(
    "SELECT column_name, character_maximum_length, character_octet_length, character_set_name, collation_name "
    "FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = :table "
    "AND character_set_name IS NOT NULL"
)
_COMPOUND = """BEGIN NOT ATOMIC
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; DO RELEASE_LOCK(:lock); RESIGNAL; END;
  IF GET_LOCK(:lock, {timeout}) IS NOT TRUE THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'lock timeout'; END IF;
  INSERT INTO {table} ({session}, {text}) VALUES {rows};
  COMMIT; DO RELEASE_LOCK(:lock);
END"""
_POSTGRESQL_INSERT = """
WITH l AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended(CAST(:lock AS text), 0)))
INSERT INTO {table} ({session}, {text}) SELECT CAST(:s AS text), u.m
FROM l CROSS JOIN unnest(CAST(:rows AS text[])) WITH ORDINALITY AS u(m, o) ORDER BY u.o
"""  # Rows get their ids above the join, so behind the lock: which the statement must mention, or it is not taken.
_SQLITE_INSERT = "INSERT INTO {table} ({session}, {text}) SELECT :s, value FROM json_each(:rows) ORDER BY key"


class _View:
    """An engine, its own or the caller's, as the store uses it; the engine itself is not changed.

    Args:
        engine: The engine.
        takes_turns: Whether writers of this process may wait for each other here and not in SQLite, which polls.
    """

    def __init__(self, engine: Any, *, takes_turns: bool) -> None:
        self.is_sqlite = engine.dialect.name == "sqlite"
        self.is_mysql = engine.dialect.name in _MYSQL
        # On MySQL switching to autocommit costs more round trips than it saves.
        self.statements = {} if self.is_mysql else {"isolation_level": "AUTOCOMMIT"}
        # A transaction must see what was committed while it waited for its lock.
        is_postgresql = engine.dialect.name == "postgresql"
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

    def connect(self, *, writing: bool) -> Any:
        """Open a connection, in turn where that is needed."""
        turns = self.writers if writing else self.readers
        return self.engine.connect() if turns is None else _in_turn(turns, self.engine)


_turns: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


@asynccontextmanager
async def _in_turn(turns: Any, engine: Any) -> AsyncGenerator[Any]:
    async with entered(turns), entered(engine.connect()) as connection:
        yield connection


@dataclass(frozen=True)
class _Limit:
    """What a column of text can hold."""

    characters: int | None = None
    octets: int | None = None
    charset: str | None = None
    collation: str | None = None

    def __str__(self) -> str:
        limits = {"characters": self.characters, "bytes": self.octets, "character set": self.charset}
        return ", ".join(f"{name} {limit}" for name, limit in limits.items() if limit is not None) or "any text"

    def holds(self, text: str) -> bool:
        """Whether it holds `text` unchanged."""
        if self.characters is not None and len(text) > self.characters:
            return False
        if self.octets is not None and len(text.encode()) > self.octets:
            return False
        if self.charset in ("utf8", "utf8mb3"):
            return max(text, default="") < "\U00010000"
        return self.charset in (None, "utf8mb4") or text.isascii()

    @property
    def is_bytewise(self) -> bool:
        """Whether the column compares byte for byte."""
        return self.collation in _BYTEWISE


@dataclass
class _Layout:
    """What the set-up found in the database."""

    kind: str
    database: str
    packet: int = 0
    charset: str | None = None
    messages: _Rows | None = None
    states: _Rows | None = None
    has_index: bool = False
    has_state: bool = False
    has_state_index: bool = False

    def sends(self, row: str) -> bool:
        """Whether a statement with this row fits into one of MySQL's packets, in which some characters are escaped."""
        if not self.packet or 8 * len(row) < self.packet:
            return True
        return len(row.encode()) + sum(map(row.count, "\\'\"\n\r\0\x1a")) + 8192 < self.packet

    @property
    def is_complete(self) -> bool:
        return self.messages is not None and self.has_index and self.has_state_index


class _Rows:
    """The statements over one table, which holds a text a row; built once.

    Args:
        table: The table: id, session id, text.
        kind: Of the database.
        session_limit: What its column of session ids can hold.
        text_limit: What its column of texts can hold.
    """

    def __init__(self, table: sa.Table, kind: str, session_limit: _Limit, text_limit: _Limit) -> None:
        self._table, self._kind = table, kind
        self.session_limit, self.text_limit = session_limit, text_limit
        number, session, text = table.c
        self._key = self._by_bytes(session)
        wanted: Any = sa.bindparam("s", type_=sa.Text())
        exact = [self._key == self._by_bytes(wanted)]
        if kind != "sqlite" and not session_limit.is_bytewise:
            # This one can use an index of the column. What its character set cannot hold would be an error.
            if kind in _MYSQL:
                wanted = sa.cast(wanted, mysql.CHAR(charset=session_limit.charset))
                wanted = sa.collate(wanted, str(session_limit.collation))
            exact.append(session == wanted)
        self.ids = sa.select(number).where(*exact)
        self.count = sa.select(sa.func.count()).select_from(table).where(*exact)
        self.delete = table.delete().where(number.in_(sa.bindparam("ids", expanding=True)))
        beyond = number > sa.bindparam("after", type_=sa.BigInteger())
        self.read: dict[tuple[bool, bool], Any] = {}
        for has_last in (False, True):
            for has_after in (False, True):
                query = sa.select(number, text).where(*exact, *([beyond] if has_after else []))
                query = query.order_by(number.desc() if has_last else number)
                self.read[has_last, has_after] = query.limit(sa.bindparam("last")) if has_last else query
        mark = "`" if kind in _MYSQL else '"'
        self._names = {
            "table": _quoted(table.name, mark),
            "session": _quoted(session.name, mark),
            "text": _quoted(text.name, mark),
        }
        if kind in _MYSQL:
            self.insert: Any = table.insert().values({session: sa.bindparam("s"), text: sa.bindparam("m")})
        else:
            insert = _SQLITE_INSERT if kind == "sqlite" else _POSTGRESQL_INSERT
            self.insert = sa.text(insert.format(**self._names))
        self.compound = functools.lru_cache(_COMPOUND_ROWS)(self._compound)

    def _compound(self, count: int) -> Any:
        """MariaDB's statement that takes the lock, inserts so many rows, commits and lets go of the lock."""
        rows = ", ".join(f"(:s, :m{number})" for number in range(count))
        return sa.text(_COMPOUND.format(timeout=_LOCK_TIMEOUT, rows=rows, **self._names))

    def _by_bytes(self, text: Any) -> Any:
        """The text as something that the database compares and orders byte for byte."""
        if self._kind == "sqlite":
            return sa.collate(text, "BINARY")
        if self.session_limit.is_bytewise:
            return text
        if self._kind == "postgresql":
            return sa.collate(sa.cast(text, sa.Text()), "C")
        return sa.cast(sa.cast(text, mysql.CHAR(charset="utf8mb4")), sa.LargeBinary())

    def _from_to(self, prefix: str, after: str | None) -> list[Any]:
        """Conditions for keys that begin with `prefix` and come behind `after`. No key is empty."""

        def value(text: str) -> Any:
            return self._by_bytes(sa.literal(text, sa.Text()))

        found = [self._key > value(after or ""), self._key >= value(prefix)]
        end = _successor(prefix)
        return found if end is None else [*found, self._key < value(end)]

    def with_prefix(self, prefix: str) -> Any:
        """Select number and key of all rows whose key begins with `prefix`."""
        return sa.select(self._table.c.id, self._key).where(*self._from_to(prefix, None))

    def listing(self, prefix: str, limit: int | None, after: str | None) -> Any:
        """Select key, number of rows and last text of sessions."""
        number, _, text = self._table.c
        grouped = sa.select(self._key.label("k"), sa.func.count().label("n"), sa.func.max(number).label("m"))
        page = grouped.where(*self._from_to(prefix, after)).group_by(self._key).order_by(self._key).limit(limit)
        sessions = page.subquery()
        return sa.select(sessions.c.k, sessions.c.n, text).join(self._table, number == sessions.c.m)


class _Urls(NamedTuple):
    """Where the two faces connect to."""

    blocking: sa.URL | None
    native: sa.URL | None
    is_memory: bool = False


# The blocking drivers and the async ones of each database, in the order of choice.
_DRIVERS = {
    "sqlite": (("pysqlite",), ("aiosqlite",)),
    "postgresql": (("psycopg", "psycopg2"), ("psycopg", "asyncpg")),
    "mysql": (("mysqldb", "pymysql"), ("asyncmy", "aiomysql")),
}
_MODULES = {"pysqlite": "sqlite3", "mysqldb": "MySQLdb"}
_EXTRAS = {"sqlite": "sql", "postgresql": "postgres", "mysql": "mysql"}
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def _engine_urls(url: str, async_url: str | None, *, has_connect_args: bool) -> _Urls:
    """Choose a driver for each face.

    Raises:
        ConfigurationError: A URL cannot be used, or not for both drivers of a pair.
        MissingExtraError: No driver is installed.
    """
    parsed = _parse(url)
    family, _, driver = parsed.drivername.partition("+")
    family = "mysql" if family == "mariadb" else family
    if _is_memory(parsed):
        if async_url is not None:
            raise ConfigurationError("SQLite in memory is one engine, so it takes no async_url.")
        return _Urls(parsed.set(drivername="sqlite"), None, is_memory=True)
    blocking_drivers, native_drivers = _DRIVERS[family]
    if not driver:
        driver = _installed(blocking_drivers) or _installed(native_drivers) or ""
    elif driver in _MODULES.keys() | {*blocking_drivers, *native_drivers} and not _installed([driver]):
        driver = ""
    if not driver:
        raise missing_extra(_EXTRAS[family])
    parsed = parsed.set(drivername=f"{parsed.get_backend_name()}+{driver}")
    is_native = driver in native_drivers or (driver not in blocking_drivers and _is_async(parsed))
    is_blocking = driver in blocking_drivers or not is_native
    if async_url is not None:
        native = _parse(async_url)
        if not is_blocking or not _is_async(native):
            raise ConfigurationError("async_url must name an async driver, and url a blocking one.")
        return _Urls(parsed, native)
    others = native_drivers if is_blocking else blocking_drivers
    partner = driver if is_native and is_blocking else _installed(others)
    is_known = driver in blocking_drivers or driver in native_drivers
    other = _for_driver(parsed, driver, partner, has_connect_args=has_connect_args) if partner and is_known else None
    if not _is_importable("greenlet") and is_blocking:
        other = None  # SQLAlchemy's async engines need it
    return _Urls(parsed, other) if is_blocking else _Urls(other, parsed)


def _parse(url: object) -> sa.URL:
    if not isinstance(url, str):
        raise ConfigurationError(f"url must be a str, not {type(url).__module__}.{type(url).__name__}.")
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
    except (exc.ArgumentError, ValueError):
        # Not chained: it quotes the URL with its password.
        raise ConfigurationError("url cannot be read: use a form like 'postgresql://user@host/database'.") from None
    if backend not in _KINDS:
        raise ConfigurationError(f"This store keeps histories in {', '.join(_KINDS)}, not in {backend!r}.")
    if backend in _MYSQL and "charset" not in parsed.query:
        parsed = parsed.update_query_dict({"charset": "utf8mb4"})
    return parsed


def _is_memory(url: sa.URL) -> bool:
    database = url.database or ""
    return url.get_backend_name() == "sqlite" and (
        database in ("", ":memory:") or database.startswith("file::memory:") or url.query.get("mode") == "memory"
    )


def _is_async(url: sa.URL) -> bool:
    try:
        return bool(url.get_dialect(_is_async=True).is_async)
    except exc.NoSuchModuleError:
        raise ConfigurationError(f"SQLAlchemy knows no driver {url.drivername!r}.") from None


def _installed(drivers: Sequence[str]) -> str | None:
    return next((driver for driver in drivers if _is_importable(_MODULES.get(driver, driver))), None)


@functools.cache
def _is_importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def _for_driver(url: sa.URL, driver: str, partner: str, *, has_connect_args: bool) -> sa.URL:
    """Return the URL for the other driver of a pair.

    Raises:
        ConfigurationError: It has a parameter that the other one does not understand. To leave it out could mean a
            connection without TLS.
    """
    pair, query = {driver, partner}, dict(url.query)
    if pair <= {"psycopg", "psycopg2"} or "aiosqlite" in pair:
        return url.set(drivername=f"{url.get_backend_name()}+{partner}")
    if "asyncpg" in pair:
        ours, theirs = ("sslmode", "ssl") if partner == "asyncpg" else ("ssl", "sslmode")
        if query.get(ours) in _SSL_MODES:
            query[theirs] = query.pop(ours)
        shared = {theirs, "host", "port"}
    else:
        shared = {"charset", "unix_socket", "connect_timeout", "init_command", "sql_mode"}
        if "asyncmy" in pair:
            shared |= {"ssl_ca", "ssl_key", "ssl_cert", "ssl_check_hostname"}
    unknown = set(query) - shared | ({"connect_args"} if has_connect_args else set())
    if unknown:
        raise ConfigurationError(
            f"{', '.join(sorted(unknown))} cannot be translated from the driver {driver} to {partner}, for the other "
            "face: pass a url for the blocking driver and an async_url for the other, or engines of your own."
        )
    return url.set(drivername=f"{url.get_backend_name()}+{partner}", query=query)


def _given_engines(connection: Any, async_connection: Any) -> tuple[Any, Any]:
    """Return the caller's `Engine` and `AsyncEngine`.

    Raises:
        ConfigurationError: They are something else, or of a database that this store does not know.
    """
    if isinstance(connection, AsyncEngine) and async_connection is None:
        connection, async_connection = None, connection
    for name, engine, kind in (
        ("connection", connection, sa.Engine),
        ("async_connection", async_connection, AsyncEngine),
    ):
        if engine is not None and not isinstance(engine, kind):
            given = f"{type(engine).__module__}.{type(engine).__name__}"
            raise ConfigurationError(f"{name} must be a SQLAlchemy {kind.__name__} or a URL, not {given}.")
        if engine is not None and engine.dialect.name not in _KINDS:
            raise ConfigurationError(f"Histories are kept in {', '.join(_KINDS)}, not in {engine.dialect.name!r}.")
    return connection, async_connection


def _mysql_options(collation: str | None) -> Any:
    options = {"engine": "InnoDB", "charset": "utf8mb4", "collate": collation}
    return {f"{dialect}_{name}": value for dialect in _MYSQL for name, value in options.items()}


def _index(table: sa.Table, limit: int | None = None) -> sa.Index:
    number, session, _ = table.c
    prefix = None if limit is not None and limit <= _INDEX_PREFIX else {session.name: _INDEX_PREFIX}
    return sa.Index(f"{table.name}_ix", session, number, mysql_length=prefix, mariadb_length=prefix)


def _quoted(name: str, mark: str) -> str:
    return mark + name.replace(mark, mark * 2).replace(":", "\\:") + mark


def _successor(prefix: str) -> str | None:
    """The first text behind all that begin with `prefix`; `None` if there is none."""
    for length in range(len(prefix), 0, -1):
        last = ord(prefix[length - 1])
        if last < 0x10FFFF:  # noqa: PLR2004  # the last character
            return prefix[: length - 1] + chr(0xE000 if last == 0xD7FF else last + 1)  # noqa: PLR2004  # no surrogates
    return None


def _text(key: str | bytes) -> str:
    return key.decode() if isinstance(key, bytes) else key


def _escape(row: str) -> str:
    """The same JSON in ASCII, for a column whose character set has not all of Unicode."""
    return re.sub(r"[^\x00-\x7f]+", lambda found: json.dumps(found[0])[1:-1], row)
