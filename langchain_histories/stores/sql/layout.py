"""What the tables of an SQL store are: what set-up finds, what the columns can hold, and what is made.

A table that exists is used as it is, if it can hold histories at all.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.sql.expiry import Expiry
from langchain_histories.stores.sql.jsonb import MAX_BYTES, shape_of
from langchain_histories.stores.sql.statements import (
    COLLATIONS,
    COMPOUND_ROWS,
    MYSQL,
    Limit,
    Statements,
    derived_name,
    quoted,
)
from langchain_histories.stores.sql.states import StateStatements
from langchain_histories.stores.sql.yugabytedb import NAME as YUGABYTEDB
from langchain_histories.stores.sql.yugabytedb import VERSION_MARK, has_locks, make_locks

if TYPE_CHECKING:
    from collections.abc import Sequence

_DENIED = 1142
_COMPOUND_BYTES = 250_000
_LONGTEXT = 2**32 - 1  # bytes
_INDEX_PREFIX = 255  # characters of a session id in MySQL's index
_SEQUENCE_CACHE = sa.text(
    "SELECT seqcache FROM pg_sequence "
    "WHERE seqrelid = CAST(pg_get_serial_sequence(CAST(:table AS text), 'id') AS regclass)"
)
_POSTGRESQL = sa.text("SELECT current_setting('server_encoding'), version()")
_MYSQL = sa.text("SELECT DATABASE(), @@max_allowed_packet")
_MYSQL_COLUMNS = sa.text(
    "SELECT column_name, character_maximum_length, character_octet_length, character_set_name, collation_name "
    "FROM information_schema.columns WHERE table_schema = :schema AND table_name = :table "
    "AND character_set_name IS NOT NULL"
)


@dataclass
class Layout:
    """What set-up found in the database.

    Attributes:
        kind: Of the database: `sqlite`, `postgresql`, `mysql` or `mariadb`.
        is_yugabyte: Whether it is a YugabyteDB, which is a `postgresql` too.
        database: The one of the tables, on MySQL.
        packet: The largest statement in bytes, on MySQL.
        charset: The character set of the whole database, on PostgreSQL, unless it is UTF-8.
        messages: The statements over the table of messages.
        states: The statements over the table of states.
        expiry: The statements over the table of expiries.
        has_messages: Whether the table of messages exists.
        has_index: Whether it has an index on session ids.
        has_states: Whether the table of states exists.
        has_state_index: Whether it has an index on session ids.
        has_expiry: Whether the table of expiries exists.
        has_locks: Whether YugabyteDB's rows to lock exist.
        is_provisional: Whether something was made in a transaction of the caller's, who may yet roll it back.
    """

    kind: str
    is_yugabyte: bool = False
    database: str = ""
    packet: int = 0
    charset: str | None = None
    messages: Statements = field(init=False)
    states: StateStatements = field(init=False)
    expiry: Expiry = field(init=False)
    has_messages: bool = False
    has_index: bool = False
    has_states: bool = False
    has_state_index: bool = False
    has_expiry: bool = False
    has_locks: bool = True
    is_provisional: bool = False

    def is_complete(self, *, expires: bool) -> bool:
        """Whether there is nothing to make, for a store with a `ttl` or for others."""
        has_all = self.has_messages and self.has_index and self.has_state_index and self.has_locks
        return has_all and (self.has_expiry or not expires)

    @functools.cached_property
    def appending(self) -> Any:
        """PostgreSQL's statement that appends to a session that expires."""
        return self.expiry.insert_and_put(self.messages)

    def is_compound(self, rows: Sequence[str]) -> bool:
        """Whether one statement of MariaDB's takes the lock, inserts these rows and commits."""
        is_short = sum(map(len, rows)) <= min(_COMPOUND_BYTES, self.packet // 16)
        return self.kind == "mariadb" and len(rows) <= COMPOUND_ROWS and is_short

    @property
    def is_narrow(self) -> bool:
        """Whether MySQL's column of messages is a smaller one than ours, as LangChain's of 64 KB."""
        octets = self.messages.text_limit.octets if self.kind in MYSQL else None
        return octets is not None and octets < _LONGTEXT

    def sends(self, row: str) -> bool:
        """Whether a statement with this row fits into one of MySQL's packets, in which some characters are escaped."""
        if not self.packet or 8 * len(row) < self.packet:
            return True
        return len(row.encode()) + sum(map(row.count, "\\'\"\n\r\0\x1a")) + 8192 < self.packet


@dataclass(frozen=True)
class Tables:
    """The names of a store's tables and of their columns, and how a missing table is made.

    Args:
        messages: The table of messages; that of states has the same name and `_state`.
        session_id: The column of session ids.
        jsonb: Whether a new table keeps messages in JSONB.
        backend: SQLAlchemy's name of the kind of the database.
        schema: Where the tables are; `None` for where the connection looks for them.
    """

    messages: str
    session_id: str
    jsonb: bool
    backend: str
    schema: str | None = None

    @property
    def states(self) -> str:
        """The table of states."""
        return derived_name(self.messages, "_state", self.backend)

    @property
    def expiry(self) -> str:
        """The table of expiries."""
        return derived_name(self.messages, "_expiry", self.backend)

    @property
    def locks(self) -> str:
        """The table of locks, on YugabyteDB."""
        return derived_name(self.messages, "_lock", self.backend)

    @property
    def _schema(self) -> sa.quoted_name | None:
        return None if self.schema is None else sa.quoted_name(self.schema, quote=True)

    def inspect(self, connection: sa.Connection) -> Layout:
        """See what is there.

        Raises:
            ConfigurationError: The table has another shape.
        """
        layout = _database(connection)
        if layout.kind in MYSQL and self.schema is not None:
            layout.database = self.schema
        inspector = sa.inspect(connection)
        if layout.is_yugabyte:
            layout.has_locks = has_locks(connection, inspector, self.locks, self._schema)
        ours = Limit(charset=layout.charset, collation=COLLATIONS[layout.kind])
        shape, limits = None, (ours, ours)
        layout.has_messages = inspector.has_table(self.messages, schema=self.schema)
        if layout.has_messages:
            columns = {
                column["name"]: column["type"] for column in inspector.get_columns(self.messages, schema=self.schema)
            }
            shape = shape_of(columns) if layout.kind == "postgresql" else None
            limits = self._limits(connection, inspector, layout, columns, shape.column if shape else "message")
            layout.has_index = self._is_indexed(inspector, self.messages)
        messages = self._table(layout.kind, self.messages, shape.column if shape else "message")
        layout.has_expiry = self._has(inspector, self.expiry)
        layout.expiry = Expiry(self._expiry_table(layout.kind), layout.kind, ours)
        more: Any = {"is_yugabyte": layout.is_yugabyte, "expiry": layout.expiry if layout.has_expiry else None}
        layout.messages = Statements(messages, layout.kind, *limits, shape, **more)
        states = self._table(layout.kind, self.states, "state", is_named=True)
        layout.states = StateStatements(states, layout.kind, ours, **more)
        layout.has_states = self._has(inspector, self.states)
        layout.has_state_index = layout.has_states and self._is_indexed(inspector, self.states)
        return layout

    def _has(self, inspector: sa.Inspector, name: str) -> bool:
        """Whether a table beside that of the messages is there, and this user may see it."""
        try:
            return inspector.has_table(name, schema=self.schema)
        except exc.DBAPIError as error:
            # MariaDB and MySQL do not tell a user who may not read a table whether there is one.
            if getattr(error.orig, "args", ())[:1] != (_DENIED,):
                raise
            return False

    def make(self, connection: sa.Connection, *, upgrade: bool, expires: bool) -> Layout:
        """Make what is missing, and see what is there then. Called under the lock of the set-up.

        Args:
            connection: In a transaction.
            upgrade: Whether a table that exists gets an index, and on MySQL a column for long messages.
            expires: Whether sessions expire.
        """
        layout = self.inspect(connection)
        is_complete = layout.is_complete(expires=expires)
        if self.schema is not None and not is_complete and not sa.inspect(connection).has_schema(self.schema):
            raise ConfigurationError(
                f"There is no schema {self.schema!r} for the table {self.messages!r}: make it with CREATE SCHEMA, or "
                "choose another schema."
            )
        if not layout.has_messages:
            table = self._table(layout.kind, self.messages, "message", jsonb=self.jsonb)
            connection.execute(CreateTable(table, if_not_exists=True))
            connection.execute(CreateIndex(_index(table, layout.kind)))
        elif upgrade and not layout.has_index:
            table = self._table(layout.kind, self.messages, "message")
            connection.execute(CreateIndex(_index(table, layout.kind, layout.messages.session_limit.characters)))
        if upgrade and layout.has_messages and layout.is_narrow:
            self._widen(connection, layout)
        if not layout.has_locks:
            make_locks(connection, self.locks, self._schema)
        states = self._table(layout.kind, self.states, "state", is_named=True)
        if not layout.has_states:
            connection.execute(CreateTable(states, if_not_exists=True))
        if not layout.has_state_index:
            # MySQL commits each of these by itself, so another set-up may have been stopped in between.
            connection.execute(CreateIndex(_index(states, layout.kind)))
        if expires and not layout.has_expiry:
            expiry = self._expiry_table(layout.kind)
            connection.execute(CreateTable(expiry, if_not_exists=True))
            connection.execute(CreateIndex(_index(expiry, layout.kind)))
        return self.inspect(connection)

    def _widen(self, connection: sa.Connection, layout: Layout) -> None:
        """Make MySQL's column of messages as long as ours."""
        columns = sa.inspect(connection).get_columns(self.messages, schema=self.schema)
        is_nullable = next(column["nullable"] for column in columns if column["name"].lower() == "message")
        limit, table = layout.messages.text_limit, quoted(self.messages, "`", self.schema)
        connection.execute(
            sa.text(
                f"ALTER TABLE {table} MODIFY message LONGTEXT CHARACTER SET {limit.charset} "
                f"COLLATE {limit.collation}{'' if is_nullable else ' NOT NULL'}"
            )
        )

    def drop(self, connection: sa.Connection) -> None:
        """Remove the tables."""
        for name in (self.expiry, self.states, self.messages):
            table = sa.Table(sa.quoted_name(name, quote=True), sa.MetaData(), schema=self._schema)
            connection.execute(sa.schema.DropTable(table, if_exists=True))

    def _is_indexed(self, inspector: sa.Inspector, table: str) -> bool:
        indexes = inspector.get_indexes(table, schema=self.schema)
        return any(index["column_names"][:1] == [self.session_id] for index in indexes)

    def _limits(
        self, connection: sa.Connection, inspector: sa.Inspector, layout: Layout, columns: dict[str, Any], text: str
    ) -> tuple[Limit, Limit]:
        """What the columns of the existing table can hold."""
        self._check_columns(inspector, layout.kind, columns, text)
        if layout.kind == "postgresql" and not layout.is_yugabyte:
            table = quoted(self.messages, '"', self.schema, escape=False)
            cache = connection.execute(_SEQUENCE_CACHE, {"table": table}).scalar()
            if cache is not None and cache > 1:
                raise ConfigurationError(
                    f"The sequence of table {self.messages!r} gives each connection {cache} numbers at a time, so "
                    "rows would get out of order. Set it to one: ALTER SEQUENCE ... CACHE 1."
                )
        if layout.kind in MYSQL:
            found = connection.execute(_MYSQL_COLUMNS, {"schema": layout.database, "table": self.messages})
            limits = {column.lower(): Limit(*limit) for column, *limit in found}
            return limits[self.session_id.lower()], limits[text.lower()]

        def limit(name: str) -> Limit:
            return Limit(
                None if layout.kind == "sqlite" else getattr(columns[name], "length", None),
                MAX_BYTES if isinstance(columns[name], postgresql.JSON) else None,
                charset=layout.charset,
                collation=getattr(columns[name], "collation", None),
                is_uuid=isinstance(columns[name], sa.types.Uuid),
            )

        return limit(self.session_id), limit(text)

    def _check_columns(self, inspector: sa.Inspector, kind: str, columns: dict[str, Any], text: str) -> None:
        """Refuse a table of another shape.

        Raises:
            ConfigurationError: A column is missing or of another type.
        """
        if missing := [name for name in ("id", self.session_id, text) if name not in columns]:
            raise ConfigurationError(
                f"Table {self.messages!r} is no table of messages: it has no column {', '.join(missing)} (it has "
                f"{', '.join(columns)}). Choose another table_name or session_id_field_name."
            )
        for name in (self.session_id, text):
            known = sa.String | sa.types.NullType
            if kind == "postgresql":
                known |= sa.types.Uuid if name == self.session_id else postgresql.JSON
            if not isinstance(columns[name], known):
                raise ConfigurationError(
                    f"Table {self.messages!r} is no table of messages: its column {name} is not text but "
                    f"{columns[name]}. Choose another table_name."
                )
        if kind == "sqlite" and inspector.get_pk_constraint(self.messages)["constrained_columns"] != ["id"]:
            raise ConfigurationError(
                f"Table {self.messages!r} has no primary key id: SQLite would not number its rows."
            )

    def _expiry_table(self, kind: str) -> sa.Table:
        table = self._table(kind, self.expiry, "state", is_named=True)
        table.append_column(sa.Column("expires_at", sa.BigInteger()))
        for name in ("up_to", "hidden"):
            table.append_column(sa.Column(name, sa.BigInteger(), nullable=False))
        return table

    def _table(self, kind: str, name: str, text: str, *, jsonb: bool = False, is_named: bool = False) -> sa.Table:
        """A table of ids, session ids and texts. The ids are numbers, or names of sessions."""
        collation = COLLATIONS[kind]
        id_type: Any = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
        if is_named:
            id_type = sa.String(64, collation)
        text_type: Any = mysql.LONGTEXT() if kind in MYSQL else sa.Text()
        others, is_nullable = [], not (jsonb or is_named)
        if jsonb:
            text_type, now = postgresql.JSONB(), sa.func.now()
            others = [sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=now)]
        options: dict[str, Any] = {"engine": "InnoDB", "charset": "utf8mb4", "collate": collation}
        return sa.Table(
            sa.quoted_name(name, quote=True),  # unquoted, SQLAlchemy takes some names for others
            sa.MetaData(),
            sa.Column("id", id_type, primary_key=True),
            sa.Column(self.session_id, sa.Text(collation=collation), nullable=is_nullable),
            sa.Column(text, text_type, nullable=is_nullable),
            *others,
            # Else SQLite gives numbers again after a clear, and a reader misses rows.
            sqlite_autoincrement=not is_named,
            schema=self._schema,
            **{f"{dialect}_{option}": value for dialect in MYSQL for option, value in options.items()},
        )


def _database(connection: sa.Connection) -> Layout:
    """Begin a layout with what the database itself is."""
    kind = connection.dialect.name
    if kind in MYSQL:
        name, packet = connection.execute(_MYSQL).one()
        kind = "mariadb" if getattr(connection.dialect, "is_mariadb", False) else "mysql"
        return Layout(kind, database=name or "", packet=packet)
    if kind in ("postgresql", YUGABYTEDB):
        encoding, version = connection.execute(_POSTGRESQL).one()
        charset = None if encoding == "UTF8" else encoding
        return Layout("postgresql", is_yugabyte=VERSION_MARK in version, charset=charset)
    return Layout(kind)


def _index(table: sa.Table, kind: str, limit: int | None = None) -> sa.Index:
    """The index on session ids and numbers; MySQL wants a prefix of a column that may be longer."""
    number, session, *_ = table.c
    prefix = None if limit is not None and limit <= _INDEX_PREFIX else {session.name: _INDEX_PREFIX}
    return sa.Index(derived_name(table.name, "_ix", kind), session, number, mysql_length=prefix, mariadb_length=prefix)
