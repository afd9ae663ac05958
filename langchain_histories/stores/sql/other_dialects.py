"""LangChain's table in a database that this package does not know, by statements that every dialect of SQLAlchemy has.

No lock is known there, so writers of one process take turns and those of others do not: their batches may mix, and a
reader that goes on from a position may miss rows that were numbered before it and committed behind it. Nothing else
than the table is made, so there are no states. Records are stored in ASCII, because of the character set of a column
nothing is known either.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.schema import CreateSequence, CreateTable

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import (
    Capability,
    MessageStore,
    Row,
    StoreOptions,
    entered,
    position_number,
    settle,
)
from langchain_histories.stores.sql.engines import EngineOperations, EngineUse
from langchain_histories.stores.sql.statements import MAX_ID, escape_row

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from typing import Unpack

    from langchain_histories.stores.sql.connections import Database

logger = logging.getLogger(__name__)

_IDS_AT_ONCE = 500
_LONGEST_KEY = 2000  # characters; Oracle has no more in a column that it compares
_SET_UP_TRIES = 3


class OtherStore(MessageStore):
    """Keeps messages in LangChain's table, in any database that SQLAlchemy has a dialect for.

    Args:
        database: Where it is.
        table_name: The table.
        session_id_field_name: Its column of session ids.
        **options: See `StoreOptions`.

    Raises:
        ConfigurationError: A name cannot be used.
    """

    def __init__(
        self, database: Database, table_name: str, session_id_field_name: str, **options: Unpack[StoreOptions]
    ) -> None:
        """Keep the names."""
        for what, name in (("table_name", table_name), ("session_id_field_name", session_id_field_name)):
            if not isinstance(name, str) or not name or "\0" in name:
                raise ConfigurationError(f"{what} must be a name, not {name!r}.")
        super().__init__(
            OtherOperations(database, table_name, session_id_field_name),
            database.clients,
            database.url,
            driver_options=database.driver_options,
            timeout=database.timeout,
            **options,
        )


class OtherOperations(EngineOperations):
    """The operations on the table.

    Args:
        database: Where it is.
        table: Its name.
        session_id: The name of its column of session ids.
    """

    capabilities = ~(
        Capability.TTL
        | Capability.NEWEST
        | Capability.EDIT
        | Capability.SESSIONS
        | Capability.ERASE
        | Capability.STATE
        | Capability.LEAVES_NO_TRACE
        | Capability.MANY_PROCESSES
    )
    unholdable = "\0"

    def __init__(self, database: Database, table: str, session_id: str) -> None:
        super().__init__(database)
        self._name = sa.quoted_name(table, quote=True)
        # Without more about the columns than their names: the database gives the numbers, however it was told to.
        self._table = sa.table(
            self._name,
            sa.column("id", sa.BigInteger()),
            sa.column(session_id, sa.Unicode()),
            sa.column("message", sa.UnicodeText()),
        )
        self._id, self._session_id, self._message = self._table.c

    @property
    def place(self) -> Hashable:
        """The table."""
        return "other", self.database.schema(None), self._name, self._session_id.name

    async def look(self, client: Any) -> bool:
        async with entered(EngineUse.of(client).plain_connection()) as connection:
            return await self.in_sync(connection, self._is_there)

    def _is_there(self, connection: sa.Connection) -> bool:
        return sa.inspect(connection).has_table(self._name, schema=self.database.schema(None))

    async def setup(self, client: Any, *, upgrade: bool = False) -> None:  # noqa: ARG002  # there is nothing to add
        if self.found.what is None:
            self.found.what = True
            logger.warning(
                "Histories in %s are stored without a lock: batches of several processes may mix. There are no states "
                "and no listing of sessions, and session ids are compared as that database does.",
                self.database.backend,
            )
        ways: list[Callable[[sa.Connection], None]] = [self._make, self._make_with_sequence]
        for left in reversed(range(_SET_UP_TRIES)):
            for make in ways:
                if await self.look(client):
                    return
                try:
                    async with entered(EngineUse.of(client).plain_transaction()) as connection:
                        await self.in_sync(connection, make)
                except (exc.DBAPIError, exc.CompileError):
                    # Another program makes the table at this moment, or the database has no such way to number rows.
                    if not left and make is ways[-1]:
                        raise

    def _columns(self, numbers: sa.Column[Any]) -> sa.Table:
        """The table of LangChain's class, with columns for all of Unicode."""
        return sa.Table(
            self._name,
            sa.MetaData(),
            numbers,
            sa.Column(self._session_id.name, sa.Unicode(_LONGEST_KEY)),
            sa.Column("message", sa.UnicodeText()),
        )

    def _make(self, connection: sa.Connection) -> None:
        numbers = sa.Column("id", sa.BigInteger(), sa.Identity(), primary_key=True)
        connection.execute(CreateTable(self._columns(numbers)))

    def _make_with_sequence(self, connection: sa.Connection) -> None:
        """Make it where a column cannot number rows by itself, as in DuckDB."""
        sequence = sa.Sequence(f"{self._name}_id_seq")
        connection.execute(CreateSequence(sequence, if_not_exists=True))
        numbers = sa.Column("id", sa.BigInteger(), server_default=sequence.next_value(), primary_key=True)
        connection.execute(CreateTable(self._columns(numbers)))

    async def append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        async with entered(EngineUse.of(client).plain_transaction()) as connection:
            await self._insert(connection, key, rows)

    async def _insert(self, connection: Any, key: str, rows: Sequence[str]) -> None:
        values = [{self._session_id.name: key, self._message.name: escape_row(row)} for row in rows]
        await settle(connection.execute(self._table.insert(), values))

    async def read(
        self, client: Any, key: str, *, last: int | None = None, first: int | None = None, after: str | None = None
    ) -> Sequence[Row]:
        limit = first if last is None else last
        query = sa.select(self._id, self._message).where(self._session_id == key)
        if after is not None:
            query = query.where(self._id > min(position_number(after), MAX_ID))
        query = query.order_by(self._id if last is None else self._id.desc())
        if limit is not None:
            query = query.limit(min(limit, MAX_ID))
        async with entered(EngineUse.of(client).plain_connection()) as connection:
            found = (await settle(connection.execute(query))).all()
        rows = [Row(text or "", str(number)) for number, text in found]
        return rows if last is None else rows[::-1]

    async def count(self, client: Any, key: str) -> int:
        query = sa.select(sa.func.count()).select_from(self._table).where(self._session_id == key)
        async with entered(EngineUse.of(client).plain_connection()) as connection:
            return int((await settle(connection.execute(query))).scalar_one())

    async def clear(self, client: Any, key: str) -> None:
        await self.replace(client, key, [])

    async def replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        async with entered(EngineUse.of(client).plain_transaction()) as connection:
            await settle(connection.execute(self._table.delete().where(self._session_id == key)))
            if rows:
                await self._insert(connection, key, rows)

    async def delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:  # noqa: ARG002  # numbers are enough
        numbers, found = [int(row.position) for row in rows], 0
        async with entered(EngineUse.of(client).plain_transaction()) as connection:
            for start in range(0, len(numbers), _IDS_AT_ONCE):
                these = self._id.in_(numbers[start : start + _IDS_AT_ONCE])
                # Not every driver counts what a statement has removed.
                count = sa.select(sa.func.count()).select_from(self._table).where(these)
                found += int((await settle(connection.execute(count))).scalar_one())
                await settle(connection.execute(self._table.delete().where(these)))
        return found
