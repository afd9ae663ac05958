"""Histories in SQLite, PostgreSQL, MariaDB and MySQL, in the table of LangChain's `SQLChatMessageHistory`.

The table `message_store(id, session_id, message)` has one record a row, ordered by `id`; the states are in
`message_store_state(id, session_id, state)`. A database numbers rows before their transactions commit, so two writers
of a session would mix their batches, and a reader that goes on after the last id it saw would miss rows. Every writer
here therefore holds a lock of its session until its rows are committed: SQLite's write lock, PostgreSQL's advisory lock
of the transaction, MariaDB's and MySQL's `GET_LOCK`. LangChain's own class takes no lock.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from langchain_histories._neutral import entered, settle
from langchain_histories.codec import Row
from langchain_histories.errors import ConfigurationError, RecordTooLargeError, missing_extra
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.store import (
    ANY_STATE,
    AnyState,
    SessionRow,
    StoreOptions,
    position_number,
)

try:
    import sqlalchemy as sa
    from sqlalchemy import exc
    from sqlalchemy.dialects import mysql, postgresql
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.schema import CreateIndex, CreateTable
except ImportError as error:
    raise missing_extra("sql") from error

from langchain_histories.stores.sql.converters import BaseMessageConverter, DefaultMessageConverter, ModelStore
from langchain_histories.stores.sql.engines import SQLBase
from langchain_histories.stores.sql.jsonb import MAX_BYTES, shape_of, uuid_text
from langchain_histories.stores.sql.statements import (
    COLLATIONS,
    COMPOUND_ROWS,
    LOCK_TIMEOUT,
    MYSQL,
    Layout,
    Limit,
    Rows,
    escape_row,
    key_text,
    mysql_options,
    table_index,
)
from langchain_histories.stores.sql.yugabytedb import (
    LET_GO_OF_NUMBERS,
    SLOTS,
    TRIES,
    has_locks,
    is_given_up,
    lock_statement,
    make_locks,
)
from langchain_histories.stores.sql.yugabytedb import NAME as YUGABYTEDB

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from typing import Unpack

    import psycopg

    from langchain_histories.store import Operation, SessionId, T

    Given = sa.Engine | AsyncEngine | psycopg.Connection[Any] | psycopg.AsyncConnection[Any]
    Connection = str | Given

logger = logging.getLogger(__name__)

_MAX_TABLE_NAME = 57  # bytes: PostgreSQL cuts a name at 63, and the state table's is longer by `_state`
_COMPOUND_BYTES = 250_000
_IDS_AT_ONCE = 900  # SQLite before 3.32 takes no more than 999 parameters
_MAX_ID = 2**63 - 1


class SQLStore(SQLBase):
    """Keeps histories in a table of SQLite, PostgreSQL, MariaDB or MySQL.

    Args:
        url: As SQLAlchemy reads it, without a driver (the installed one is taken) or with one: `sqlite:///file.db`,
            `sqlite://` (in memory), `postgresql://`, `postgresql+psycopg://`, `mariadb+pymysql://`, ... Its partner for
            the other face is found by itself among the installed ones: aiosqlite; psycopg (serves both), psycopg2 and
            asyncpg; mysqlclient, PyMySQL and asyncmy, aiomysql. Without one the async methods run in threads.
            Or an instance of Google's: `alloydb://user:password@project/region/cluster/instance/database`,
            `cloudsql://user:password@project:region:instance/database`, with options of Google's connector, such as
            `?ip_type=private&enable_iam_auth=true`.
        connection: Your own `Engine`, `AsyncEngine` or connection of psycopg, in place of `url`. It is never closed
            here, and nothing is changed in it. On a connection with a transaction of yours everything is done in
            savepoints, and lasts when you commit.
        async_connection: Your own `AsyncEngine` or async connection of psycopg, beside a blocking one. With one of the
            two alone, the other side is not derived: async methods run a blocking one in threads, sync methods refuse
            an async one.
        async_url: Where the async methods connect to, when it cannot be derived from `url`.
        table_name: The table; `<table_name>_state` holds the states.
        session_id_field_name: Its column of session ids.
        jsonb: If the table is missing, make its messages `JSONB` and give it a `created_at`, as langchain-postgres
            does; on PostgreSQL. A table that exists is used as it is, with texts, JSON or UUIDs.
        engine_args: More arguments for `create_engine` and `create_async_engine`; only with `url`.
        **options: See `StoreOptions`. There is no `ttl`.
    """

    schemes = ("sqlite", "postgresql", "mysql", "mariadb", "alloydb", "cloudsql", "yugabytedb")
    unholdable = "\0"

    def __init__(
        self,
        url: str | None = None,
        *,
        connection: Given | None = None,
        async_connection: AsyncEngine | psycopg.AsyncConnection[Any] | None = None,
        async_url: str | None = None,
        table_name: str = "message_store",
        session_id_field_name: str = "session_id",
        jsonb: bool = False,
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
        self.jsonb = jsonb
        self._layout = Layout("sqlite", "")
        self._warned = self._is_provisional = False
        super().__init__(
            url,
            connection=connection,
            async_connection=async_connection,
            async_url=async_url,
            engine_args=engine_args,
            **options,
        )
        if jsonb and self.backend not in ("postgresql", YUGABYTEDB):
            raise ConfigurationError(f"jsonb is a type of PostgreSQL, which {self.backend} does not have.")

    # Set-up.

    async def _prepared(self, operation: Operation[Any, T], client: Any) -> T:
        tries = TRIES
        while True:
            try:
                return await super()._prepared(operation, client)
            except exc.DBAPIError as error:
                tries -= 1
                if not tries or not self._layout.is_yugabyte or not is_given_up(error):
                    raise
            finally:
                if self._is_provisional:
                    self._is_set_up = False

    async def _setup(self, client: Any, *, upgrade: bool = False) -> None:
        if self._urls.blocking is not None and self._view(client).is_sqlite and not self._urls.is_memory:
            await self._write_ahead(client)
        async with entered(self._connected(client)) as connection:
            layout = await self._in_sync(connection, self._inspect)
        # What is made in a transaction of the caller's may yet be rolled back.
        self._is_provisional = self._view(client).is_in_transaction() and (
            self._is_provisional or not layout.is_complete
        )
        if self._layout.messages is None:  # else another caller has set up by now, and uses what it found
            self._layout = layout
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

    def _inspect(self, connection: sa.Connection) -> Layout:
        """See what is there.

        Raises:
            ConfigurationError: The table has another shape.
        """
        kind = connection.dialect.name
        if kind in MYSQL:
            kind = "mariadb" if getattr(connection.dialect, "is_mariadb", False) else "mysql"
        kind = "postgresql" if kind == YUGABYTEDB else kind
        layout = Layout(kind, "")
        if kind in MYSQL:
            database, layout.packet = connection.execute(sa.text("SELECT DATABASE(), @@max_allowed_packet")).one()
            layout.database = database or ""
        inspector = sa.inspect(connection)
        if kind == "postgresql":
            encoding, version = connection.execute(_POSTGRESQL).one()
            layout.charset = None if encoding == "UTF8" else encoding
            layout.is_yugabyte = "-YB-" in version
            if layout.is_yugabyte:
                layout.has_locks = has_locks(connection, inspector, self.table_name)
        if inspector.has_table(self.table_name):
            columns = {column["name"]: column["type"] for column in inspector.get_columns(self.table_name)}
            shape = shape_of(columns) if kind == "postgresql" else None
            text = shape.column if shape else "message"
            limits = self._limits(connection, inspector, layout, columns, text)
            layout.messages = Rows(
                self._table(kind, self.table_name, text), kind, *limits, shape, is_yugabyte=layout.is_yugabyte
            )
            layout.has_index = self._is_indexed(inspector, self.table_name)
        table = self._table(kind, self._state_table, "state")
        ours = Limit(charset=layout.charset, collation=COLLATIONS[kind])
        layout.states = Rows(table, kind, ours, ours, is_yugabyte=layout.is_yugabyte)
        layout.has_state = inspector.has_table(self._state_table)
        layout.has_state_index = layout.has_state and self._is_indexed(inspector, self._state_table)
        return layout

    def _is_indexed(self, inspector: sa.Inspector, table: str) -> bool:
        indexes = inspector.get_indexes(table)
        return any(index["column_names"][:1] == [self.session_id_field_name] for index in indexes)

    def _limits(
        self, connection: sa.Connection, inspector: sa.Inspector, layout: Layout, columns: dict[str, Any], text: str
    ) -> tuple[Limit, Limit]:
        """What the columns of the existing table can hold."""
        texts = (self.session_id_field_name, text)
        if missing := [name for name in ("id", *texts) if name not in columns]:
            raise ConfigurationError(
                f"Table {self.table_name!r} is no table of messages: it has no column {', '.join(missing)} (it has "
                f"{', '.join(columns)}). Choose another table_name or session_id_field_name."
            )
        for name in texts:
            known = sa.String | sa.types.NullType
            if layout.kind == "postgresql":
                known |= sa.types.Uuid if name == self.session_id_field_name else postgresql.JSON
            if not isinstance(columns[name], known):
                raise ConfigurationError(
                    f"Table {self.table_name!r} is no table of messages: its column {name} is not text but "
                    f"{columns[name]}. Choose another table_name."
                )
        if layout.kind == "sqlite" and inspector.get_pk_constraint(self.table_name)["constrained_columns"] != ["id"]:
            raise ConfigurationError(
                f"Table {self.table_name!r} has no primary key id: SQLite would not number its rows."
            )
        if layout.kind == "postgresql" and not layout.is_yugabyte:
            cache = connection.execute(_SEQUENCE_CACHE, {"table": self.table_name}).scalar()
            if cache is not None and cache > 1:
                raise ConfigurationError(
                    f"The sequence of table {self.table_name!r} gives each connection {cache} numbers at a time, so "
                    "rows would get out of order. Set it to one: ALTER SEQUENCE ... CACHE 1."
                )
        if layout.kind in MYSQL:
            found = connection.execute(_MYSQL_COLUMNS, {"table": self.table_name})
            limits = {column.lower(): Limit(*limit) for column, *limit in found}
            return limits[texts[0].lower()], limits[texts[1].lower()]

        def limit(name: str) -> Limit:
            return Limit(
                None if layout.kind == "sqlite" else getattr(columns[name], "length", None),
                MAX_BYTES if isinstance(columns[name], postgresql.JSON) else None,
                charset=layout.charset,
                collation=getattr(columns[name], "collation", None),
                is_uuid=isinstance(columns[name], sa.types.Uuid),
            )

        return limit(texts[0]), limit(texts[1])

    def _make(self, connection: sa.Connection, *, upgrade: bool) -> Layout:
        """Make what is missing. Called under the lock of the set-up."""
        layout = self._inspect(connection)
        messages = self._table(layout.kind, self.table_name, "message", jsonb=self.jsonb)
        states = self._table(layout.kind, self._state_table, "state")
        if not layout.messages:
            connection.execute(CreateTable(messages, if_not_exists=True))
            connection.execute(CreateIndex(table_index(messages)))
        if not layout.has_locks:
            make_locks(connection, self.table_name)
        if not layout.has_state:
            connection.execute(CreateTable(states, if_not_exists=True))
        if not layout.has_state_index:
            # MySQL commits each of these by itself, so another one may have been stopped in between.
            connection.execute(CreateIndex(table_index(states)))
        if layout.messages and not layout.has_index:
            if upgrade:
                limit = layout.messages.session_limit.characters
                connection.execute(CreateIndex(table_index(messages, limit)))
            elif not self._warned:
                self._warned = True
                logger.warning(
                    "Table %s has no index on %s, so a read searches all of it: call setup(upgrade=True) to add one.",
                    self.table_name,
                    self.session_id_field_name,
                )
        return self._inspect(connection)

    def _table(self, kind: str, name: str, text: str, *, jsonb: bool = False) -> Any:
        collation = COLLATIONS[kind]
        id_type: Any = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
        text_type: Any = mysql.LONGTEXT() if kind in MYSQL else sa.Text()
        others = []
        if jsonb:
            text_type, now = postgresql.JSONB(), sa.func.now()
            others = [sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=now)]
        return sa.Table(
            sa.quoted_name(name, quote=True),  # else SQLAlchemy takes some for others
            sa.MetaData(),
            sa.Column("id", id_type, primary_key=True),
            sa.Column(self.session_id_field_name, sa.Text(collation=collation), nullable=not jsonb),
            sa.Column(text, text_type, nullable=not jsonb),
            *others,
            sqlite_autoincrement=True,  # else numbers are given again after a clear, and a reader misses rows
            **mysql_options(collation),
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
                    raise TimeoutError(f"no turn to write to the session in {LOCK_TIMEOUT} seconds")
                await settle(connection.execute(_START_TRANSACTION))
            elif not self._layout.is_yugabyte:
                await settle(connection.execute(_ADVISORY_LOCK, lock))
            elif key:
                turn = await settle(connection.execute(lock_statement(self.table_name), {"lock": self._slot(key)}))
                if turn.rowcount != 1:
                    raise ConfigurationError(
                        f"Table {self.table_name}_lock has lost rows: drop it, and a set-up makes it anew."
                    )
            yield connection
            await settle(connection.commit())
            if view.is_mysql:
                await settle(connection.execute(_RELEASE_LOCK, lock))

    def _slot(self, key: str) -> int:
        return int(self._lock_name(key)[-8:], 16) % SLOTS

    def _lock_name(self, key: str) -> str:
        """Name the lock of a session. All releases must use the same names, or they would not lock each other out."""
        # MySQL's names are of the whole server, and short; which database it is, the set-up has yet to find out.
        place = f"{self._layout.database if key else ''}/{self.table_name}/{key}"
        return "lh:" + hashlib.sha1(place.encode(), usedforsecurity=False).hexdigest()

    # The operations.

    @property
    def _messages(self) -> Rows:
        if self._layout.messages is None:
            raise RuntimeError("internal error: the store is not set up")
        return self._layout.messages

    @property
    def _states(self) -> Rows:
        if self._layout.states is None:
            raise RuntimeError("internal error: the store is not set up")
        return self._layout.states

    def _held(self, key: str) -> str:
        """Return the session id as the table holds it.

        Raises:
            ConfigurationError: It is not a UUID, and the table holds nothing else.
        """
        if not self._messages.session_limit.is_uuid:
            return key
        if (text := uuid_text(key)) is None:
            raise ConfigurationError(
                f"The column {self.session_id_field_name} of table {self.table_name!r} holds UUIDs, and the session id "
                f"{key!r} is none. Use uuid.uuid4(), or a table with a column of texts."
            )
        return text

    async def _append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        table, view, key = self._messages, self._view(client), self._held(key)
        rows = self._fitting(table, key, rows)
        if not view.is_mysql and not self._layout.is_yugabyte:
            async with entered(self._connected(client, writing=True)) as connection:
                await self._insert(connection, table, key, rows)
        elif (
            self._layout.kind == "mariadb"
            and len(rows) <= COMPOUND_ROWS
            and sum(map(len, rows)) <= min(_COMPOUND_BYTES, self._layout.packet // 16)
        ):
            texts = {f"m{number}": row for number, row in enumerate(rows)}
            async with entered(self._connected(client)) as connection:
                parameters = {"lock": self._lock_name(key), "s": key, **texts}
                await settle(connection.execute(table.compound(len(rows)), parameters))
        else:
            async with entered(self._locked(client, key)) as connection:
                await self._insert(connection, table, key, rows)

    async def _insert(self, connection: Any, table: Rows, key: str, rows: Sequence[str]) -> None:
        parameters: Any = {"s": key}
        if self._layout.kind == "sqlite":
            parameters["rows"] = json.dumps(rows, ensure_ascii=False)
        elif self._layout.kind == "postgresql":
            parameters["rows"] = json.dumps(rows, ensure_ascii=False)
            if self._layout.is_yugabyte:
                await settle(connection.execute(LET_GO_OF_NUMBERS))
            else:
                parameters["lock"] = self._lock_name(key)
        else:
            parameters = [{"s": key, "m": row} for row in rows]
        await settle(connection.execute(table.insert, parameters))

    def _fitting(self, table: Rows, key: str, rows: Sequence[str]) -> Sequence[str]:
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
            rows = [escape_row(row) for row in rows]
        rows = [table.encode(row) for row in rows]
        for row in rows:
            if not table.text_limit.holds(row) or not self._layout.sends(row):
                raise RecordTooLargeError(
                    f"A record of {len(row.encode())} bytes is larger than table {self.table_name!r} can hold: "
                    f"{table.text_limit}, max_allowed_packet {self._layout.packet or 'unlimited'}. Nothing was written."
                )
        return rows

    async def _read(
        self,
        client: Any,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        parameters: dict[str, Any] = {"s": self._held(key)}
        if after is not None:
            parameters["after"] = min(position_number(after), _MAX_ID)
        limit = first if last is None else last
        if limit is not None:
            parameters["limit"] = min(limit, _MAX_ID)
        statement = self._messages.read[None if limit is None else last is not None, after is not None]
        async with entered(self._connected(client)) as connection:
            found = (await settle(connection.execute(statement, parameters))).all()
        rows = [Row(self._messages.decode(text), str(number)) for number, text in found]
        return rows if last is None else rows[::-1]

    async def _count(self, client: Any, key: str) -> int:
        key = self._held(key)
        async with entered(self._connected(client)) as connection:
            return int((await settle(connection.execute(self._messages.count, {"s": key}))).scalar_one())

    async def _clear(self, client: Any, key: str) -> None:
        key = self._held(key)
        async with entered(self._locked(client, key)) as connection:
            for table in await self._tables(connection):
                await self._remove(connection, table, key)

    async def _tables(self, connection: Any) -> list[Rows]:
        """The tables that may hold traces; somebody else may have made that of the states by now."""
        if not self._layout.has_state:
            self._layout = await self._in_sync(connection, self._inspect)
        return [self._messages, self._states] if self._layout.has_state else [self._messages]

    async def _remove(self, connection: Any, table: Rows, key: str) -> None:
        # By number: on MySQL a deletion by session would also lock the gaps between rows, where others append.
        ids = (await settle(connection.execute(table.ids, {"s": key}))).scalars().all()
        await self._remove_ids(connection, table, ids)

    async def _remove_ids(self, connection: Any, table: Rows, ids: Sequence[int]) -> int:
        removed = 0
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = {"ids": list(ids[start : start + _IDS_AT_ONCE])}
            removed += (await settle(connection.execute(table.delete, some))).rowcount
        return removed

    async def _replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        key = self._held(key)
        rows = self._fitting(self._messages, key, rows)
        async with entered(self._locked(client, key)) as connection:
            await self._put(connection, self._messages, key, rows)

    async def _put(self, connection: Any, table: Rows, key: str, rows: Sequence[str]) -> None:
        await self._remove(connection, table, key)
        if rows:
            await self._insert(connection, table, key, rows)

    async def _delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:
        async with entered(self._locked(client, self._held(key))) as connection:
            return await self._remove_ids(connection, self._messages, [int(row.position) for row in rows])

    async def _sessions(
        self, client: Any, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        async with entered(self._connected(client)) as connection:
            found = (await settle(connection.execute(self._messages.listing(prefix, limit, after)))).all()
        return [SessionRow(key_text(key), count, last) for key, count, last in found]

    async def _erase(self, client: Any, prefix: str) -> int:
        keys: set[str] = set()
        async with entered(self._locked(client, prefix)) as connection:
            for table in await self._tables(connection):
                found = (await settle(connection.execute(table.with_prefix(prefix)))).all()
                keys |= {key_text(key) for _, key in found}
                await self._remove_ids(connection, table, [number for number, _ in found])
        return len(keys)

    async def _get_state(self, client: Any, key: str) -> str | None:
        async with entered(self._connected(client)) as connection:
            return await self._state(connection, self._held(key))

    async def _state(self, connection: Any, key: str) -> str | None:
        found = (await settle(connection.execute(self._states.read[True, False], {"s": key, "limit": 1}))).first()
        return None if found is None else str(found[1])

    async def _put_state(
        self, client: Any, key: str, text: str | None, *, instead_of: str | bytes | AnyState | None = ANY_STATE
    ) -> bool:
        key = self._held(key)
        rows = [] if text is None else self._fitting(self._states, key, [text])
        async with entered(self._locked(client, key)) as connection:
            if instead_of is not ANY_STATE and instead_of != await self._state(connection, key):
                return False
            await self._put(connection, self._states, key, rows)
            return True


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

    store: SQLBase

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
        store: SQLBase
        if custom_message_converter is None:
            store = SQLStore.shared(connection if is_url else None, table_name=table_name, **place)
        else:
            store = ModelStore.shared(connection if is_url else None, converter=custom_message_converter, **place)
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


_BEGIN_IMMEDIATE = sa.text("BEGIN IMMEDIATE")
_START_TRANSACTION = sa.text("START TRANSACTION")
_ADVISORY_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(CAST(:lock AS text), 0))")
_GET_LOCK = sa.text(f"SELECT GET_LOCK(:lock, {LOCK_TIMEOUT})")
_RELEASE_LOCK = sa.text("DO RELEASE_LOCK(:lock)")
_SEQUENCE_CACHE = sa.text(
    "SELECT seqcache FROM pg_sequence "
    "WHERE seqrelid = CAST(pg_get_serial_sequence(quote_ident(CAST(:table AS text)), 'id') AS regclass)"
)
_POSTGRESQL = sa.text("SELECT current_setting('server_encoding'), version()")
_MYSQL_COLUMNS = sa.text(
    "SELECT column_name, character_maximum_length, character_octet_length, character_set_name, collation_name "
    "FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = :table "
    "AND character_set_name IS NOT NULL"
)

__all__ = ["BaseMessageConverter", "DefaultMessageConverter", "SQLChatMessageHistory", "SQLStore"]
