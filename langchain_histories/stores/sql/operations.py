"""What a store of SQLite, PostgreSQL, MariaDB, MySQL and YugabyteDB can do, in the table of LangChain's class.

The table `message_store(id, session_id, message)` has one record a row, ordered by `id`; the states are in
`message_store_state(id, session_id, state)`, a row a session, and each change of one is a single statement. Where a
store has a `ttl` there is `message_store_expiry` too: see `expiry.py`.

A database numbers rows before their transactions commit. Two writers of a session would mix their batches, and a reader
that goes on after the last id it saw would miss rows. So every writer of messages holds a lock of its session until its
rows are committed: SQLite's write lock, PostgreSQL's advisory lock of the transaction, MariaDB's and MySQL's
`GET_LOCK`, a row on YugabyteDB. LangChain's own class takes no lock.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import exc

from langchain_histories.errors import ConfigurationError, RecordTooLargeError
from langchain_histories.stores.base import (
    ANY_STATE,
    Capability,
    ExpectedState,
    NewestRow,
    OutOfTimeError,
    Row,
    Rows,
    SessionRow,
    entered,
    position_number,
    same_rows,
    settle,
    time_left,
)
from langchain_histories.stores.sql.engines import (
    BEGIN_IMMEDIATE,
    ERASED_FILE,
    SMALL_FILE,
    START_TRANSACTION,
    EngineOperations,
    EngineUse,
)
from langchain_histories.stores.sql.jsonb import uuid_text
from langchain_histories.stores.sql.layout import Layout, Tables
from langchain_histories.stores.sql.newest import MOST_COUNTED, newest
from langchain_histories.stores.sql.statements import (
    MAX_ID,
    MYSQL,
    Statements,
    escape_row,
    key_text,
    name_of,
)
from langchain_histories.stores.sql.yugabytedb import DISCARD_NUMBERS, take_lock, tried_again

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable, Sequence

    from langchain_histories.stores.sql.connections import Database

logger = logging.getLogger(__name__)

_IDS_AT_ONCE = 900  # SQLite before 3.32 takes no more than 999 parameters
_ADVISORY_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(CAST(:lock AS text), 0))")
_GET_LOCK = sa.text("SELECT GET_LOCK(:lock, :wait)")
_LOCK_TIMEOUT = 60  # seconds that a writer on MySQL waits for its lock, where a call has no deadline
_RELEASE_LOCK = sa.text("DO RELEASE_LOCK(:lock)")


class SQLOperations(EngineOperations):
    """The operations on a table of messages and a table of states.

    Args:
        database: Where the tables are.
        tables: Their names.
    """

    capabilities = ~Capability(0)
    unholdable = "\0"

    def __init__(self, database: Database, tables: Tables) -> None:
        super().__init__(database)
        self.tables = tables
        self._has_warned = False

    # Set-up.

    @property
    def place(self) -> Hashable:
        """The tables."""
        return self.tables

    @property
    def _layout(self) -> Layout:
        """What set-up found."""
        layout: Layout = self.found.what
        return layout

    async def run(self, client: Any, body: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        layout: Layout | None = self.found.what
        is_yugabyte = layout is not None and layout.is_yugabyte
        return await settle(tried_again(client, body) if is_yugabyte else super().run(client, body))

    async def look(self, client: Any) -> bool:
        return bool(await settle(tried_again(client, self._look)))

    async def _look(self, client: Any) -> bool:
        use = EngineUse.of(client)
        if use.lacks_file():
            return False
        async with entered(use.connection()) as connection:
            layout: Layout = await self.in_sync(connection, self.tables.inspect)
        if layout.has_messages:
            self._found(layout)
        return layout.has_messages

    def _found(self, layout: Layout) -> None:
        """Keep what a look has found."""
        before: Layout | None = self.found.what
        layout.is_provisional = before is not None and before.is_provisional
        self.found.what = layout
        self._warn(layout)

    async def setup(self, client: Any, *, upgrade: bool = False) -> bool:
        return bool(await settle(tried_again(client, lambda client: self._set_up(client, upgrade=upgrade))))

    async def _set_up(self, client: Any, *, upgrade: bool) -> bool:
        use, before = EngineUse.of(client), self.found.what
        if use.is_own_file:
            await self._write_ahead(use)
        if self.found.is_there and before is not None:
            layout: Layout = before
        else:
            async with entered(use.connection()) as connection:
                layout = await self.in_sync(connection, self.tables.inspect)
        # In a transaction that the caller may roll back nothing is made for good.
        is_provisional = use.is_in_transaction() and (
            not layout.is_complete(expires=self.ttl is not None) or (before is not None and before.is_provisional)
        )
        expires = self.ttl is not None

        def make(sync: sa.Connection) -> Layout:
            return self.tables.make(sync, upgrade=upgrade, expires=expires)

        for is_last in (False, True):
            if layout.is_complete(expires=expires) and not (upgrade and layout.is_narrow):
                break
            try:
                async with entered(self._locked(use, layout, "")) as connection:
                    layout = await self.in_sync(connection, make)
                    self._warn(layout)
                break
            except exc.DBAPIError as error:
                if upgrade or self.is_unavailable(error):
                    raise
                # Another program makes the table at this moment, or this user may not: what is there may do.
                async with entered(use.connection()) as connection:
                    layout = await self.in_sync(connection, self.tables.inspect)
                if is_last and not (layout.has_messages and (layout.has_expiry or not expires)):
                    raise
                if is_last and not layout.has_states:
                    logger.warning("There is no table %s for states, and none can be made.", self.tables.states)
        layout.is_provisional = is_provisional
        self.found.what = layout
        return not is_provisional

    def _warn(self, layout: Layout) -> None:
        """Tell once that reads are slow."""
        if not layout.has_index and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Table %s has no index on %s, so a read searches all of it: call setup(upgrade=True) to add one.",
                self.tables.messages,
                self.tables.session_id,
            )

    async def _write_ahead(self, use: EngineUse) -> None:
        """Switch a file to write-ahead logging, in which readers and the writer do not wait for each other."""
        async with entered(use.connection(writing=True)) as connection:
            for _ in range(20):
                try:
                    await settle(connection.execute(sa.text("PRAGMA journal_mode=WAL")))
                except exc.OperationalError:
                    # The switch does not wait for others that use the file; a transaction does.
                    try:
                        await settle(connection.execute(BEGIN_IMMEDIATE))
                        await settle(connection.commit())
                    except exc.OperationalError:
                        return
                else:
                    return

    async def drop(self, client: Any) -> None:
        """Remove both tables from PostgreSQL; the next operation makes them anew."""
        try:
            async with entered(self._locked(EngineUse.of(client), Layout("postgresql"), "")) as connection:
                await self.in_sync(connection, self.tables.drop)
        finally:
            self.found.forget()

    # Locks.

    @asynccontextmanager
    async def _locked(self, use: EngineUse, layout: Layout, key: str) -> AsyncGenerator[Any]:
        """A transaction in which nobody else here writes to the session; the empty key is for the set-up."""
        lock = {"lock": self._lock_name(layout, key)}
        async with entered(use.connection(writing=True, transaction=True)) as connection:
            if use.is_sqlite:
                await settle(connection.execute(BEGIN_IMMEDIATE))
            elif use.is_mysql:
                if (await settle(connection.execute(_GET_LOCK, lock | self._lock_wait()))).scalar() != 1:
                    raise OutOfTimeError("another writer held the lock of the session all the time")
                await settle(connection.execute(START_TRANSACTION))
            elif not layout.is_yugabyte:
                await settle(connection.execute(_ADVISORY_LOCK, lock))
            elif key:
                await settle(take_lock(connection, self.tables.locks, self.tables.schema, lock["lock"]))
            yield connection
            await settle(connection.commit())
            if use.is_mysql:
                await settle(connection.execute(_RELEASE_LOCK, lock))

    @staticmethod
    def _lock_wait() -> dict[str, float]:
        """How long MySQL waits for a lock: not as long as a call, or it would be had when nobody waits for it."""
        left = time_left()
        return {"wait": _LOCK_TIMEOUT if left is None else round(left * 0.9, 2)}

    def _lock_name(self, layout: Layout, key: str) -> str:
        """Name the lock of a session. All releases must use the same names, or they would not lock each other out."""
        # MySQL's names are of the whole server, and short. The lock of a set-up has no database in its name.
        # PostgreSQL's have no schema in them, because a program may find it by its `search_path`: tables of the same
        # name in two schemas share their locks.
        place = f"{layout.database if key else ''}/{self.tables.messages}/{key}"
        return "lh:" + hashlib.sha1(place.encode(), usedforsecurity=False).hexdigest()

    # Messages.

    def _checked_id(self, table: Statements, key: str) -> str:
        """Return the session id as the column holds it.

        Raises:
            ConfigurationError: It is not a UUID, and the column holds nothing else.
        """
        if not table.session_limit.is_uuid:
            return key
        if (text := uuid_text(key)) is None:
            raise ConfigurationError(
                f"The column {self.tables.session_id} of table {self.tables.messages!r} holds UUIDs, and the session "
                f"id {key!r} is none. Use uuid.uuid4(), or a table with a column of texts."
            )
        return text

    def _checked_rows(self, layout: Layout, table: Statements, key: str, rows: Sequence[str]) -> Sequence[str]:
        """Return the rows as the columns can hold them.

        Raises:
            RecordTooLargeError: A row is too large for its column: a server in a lax mode would cut it.
            ConfigurationError: The session id cannot be held, or the characters of a row.
        """
        if not table.session_limit.holds(key):
            raise ConfigurationError(
                f"The column {self.tables.session_id} of table {self.tables.messages!r} cannot hold the session id "
                f"{key!r} ({table.session_limit}). Change its type."
            )
        if table.text_limit.charset not in (None, "utf8mb4"):
            rows = [escape_row(row) for row in rows]
        rows = [table.encode(row) for row in rows]
        for row in rows:
            if not table.text_limit.has_characters_of(row):
                raise ConfigurationError(
                    f"Table {self.tables.messages!r} keeps messages in JSONB, in the character set "
                    f"{table.text_limit.charset}, which has not all characters of this one. Nothing was written. Use "
                    "a database in UTF-8, or a table whose column is text."
                )
            if not table.text_limit.holds(row) or not layout.sends(row):
                raise RecordTooLargeError(
                    f"A record of {len(row.encode())} bytes is larger than table {self.tables.messages!r} can hold: "
                    f"{table.text_limit}, max_allowed_packet {layout.packet or 'unlimited'}. Nothing was written."
                    + (" setup(upgrade=True) widens the column." if layout.is_narrow else "")
                )
        return rows

    async def append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        use, layout = EngineUse.of(client), await self._layout_to_write(client)
        table = layout.messages
        key = self._checked_id(table, key)
        rows = self._checked_rows(layout, table, key, rows)
        if layout.has_expiry:
            await self._append_and_put(client, use, layout, key, rows)
        elif not use.is_mysql and not layout.is_yugabyte:
            # The insert takes the lock, and commits by itself.
            async with entered(use.connection(writing=True)) as connection:
                await self._insert(connection, layout, table, key, rows)
        elif layout.is_compound(rows):
            async with entered(use.connection(writing=True)) as connection:
                parameters = self._compound_parameters(layout, key, rows)
                await settle(connection.execute(table.compound(len(rows)), parameters))
        else:
            async with entered(self._locked(use, layout, key)) as connection:
                await self._insert(connection, layout, table, key, rows)

    def _compound_parameters(self, layout: Layout, key: str, rows: Sequence[str]) -> dict[str, Any]:
        texts = {f"m{number}": row for number, row in enumerate(rows)}
        return {"lock": self._lock_name(layout, key), "s": key, **self._lock_wait(), **texts}

    async def _insert(self, connection: Any, layout: Layout, table: Statements, key: str, rows: Sequence[str]) -> None:
        parameters: Any = {"s": key}
        if layout.kind in MYSQL:
            parameters = [{"s": key, "m": row} for row in rows]
        else:
            if layout.is_yugabyte:
                await settle(connection.execute(DISCARD_NUMBERS))
            parameters = self._insert_parameters(layout, key, rows)
        await settle(connection.execute(table.insert, parameters))

    def _insert_parameters(self, layout: Layout, key: str, rows: Sequence[str]) -> dict[str, Any]:
        parameters = {"s": key, "rows": json.dumps(rows, ensure_ascii=False)}
        if layout.kind == "postgresql" and not layout.is_yugabyte:
            parameters["lock"] = self._lock_name(layout, key)
        return parameters

    # Expiry.

    async def _layout_to_read(self, client: Any) -> Layout:
        """What was found. With a `ttl` others are looked for who have brought one here since."""
        if self.ttl is not None and not self._layout.has_expiry:
            await settle(self._look(client))
        return self._layout

    async def _layout_to_write(self, client: Any) -> Layout:
        """What was found, with what a `ttl` needs: a store without one may have set up this place."""
        if self.ttl is not None and not self._layout.has_expiry:
            await settle(self._set_up(client, upgrade=False))
        return self._layout

    async def _append_and_put(self, client: Any, use: EngineUse, layout: Layout, key: str, rows: Sequence[str]) -> None:
        """Append to a session that expires, in as many trips as to another."""
        table, expiry = layout.messages, layout.expiry
        putting = expiry.parameters(key, self.ttl)
        if layout.kind == "postgresql" and not layout.is_yugabyte:
            parameters = {**self._insert_parameters(layout, key, rows), **putting}

            async def body(_: Any) -> None:
                async with entered(use.connection(writing=True)) as connection:
                    await settle(connection.execute(layout.appending, parameters))

            # As of `put_state`: the row of the expiry may have been changed since the statement began.
            await settle(body(client) if use.is_in_transaction() else tried_again(client, body))
        elif layout.is_compound(rows):
            async with entered(use.connection(writing=True)) as connection:
                parameters = {**self._compound_parameters(layout, key, rows), **putting}
                await settle(connection.execute(expiry.compound_and_put(table, len(rows)), parameters))
        else:
            async with entered(self._locked(use, layout, key)) as connection:
                before = await self._last_id(connection, layout, key)
                await self._insert(connection, layout, table, key, rows)
                await self._put_expiry(connection, layout, key, before)

    @staticmethod
    async def _last_id(connection: Any, layout: Layout, key: str) -> int:
        return int((await settle(connection.execute(layout.messages.last_id, {"s": key}))).scalar_one())

    async def _put_expiry(self, connection: Any, layout: Layout, key: str, before: int) -> None:
        """Have the session expire `ttl` seconds from now; begin it anew if it has expired.

        Args:
            connection: In a transaction with the lock of the session.
            layout: What was found.
            key: The session.
            before: The number of the last record that was there before; SQLite may give greater ones again.
        """
        last = await self._last_id(connection, layout, key)
        parameters = {**layout.expiry.parameters(key, self.ttl), "up_to": last, "before": before}
        await settle(connection.execute(layout.expiry.put, parameters))

    async def read(
        self,
        client: Any,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        key = self._checked_id((await self._layout_to_read(client)).messages, key)
        async with entered(EngineUse.of(client).connection()) as connection:
            return await self._rows(connection, key, last=last, first=first, after=after)

    async def read_many(
        self, client: Any, wanted: Sequence[tuple[str, str | None]], *, first: int
    ) -> Sequence[Sequence[Row]]:
        table = (await self._layout_to_read(client)).messages
        found: list[Sequence[Row]] = []
        async with entered(EngineUse.of(client).connection()) as connection:
            for key, after in wanted:
                session = self._checked_id(table, key)
                parameters = {**self._shown(session), "limit": first}
                if after is not None:
                    parameters["after"] = min(position_number(after), MAX_ID)
                statement = table.read[False, after is not None]
                rows = (await settle(connection.execute(statement, parameters))).all()
                texts = table.decoded([text for _, text in rows])
                found.append(Rows(texts, [number for number, _ in rows]))
        return found

    async def _rows(
        self,
        connection: Any,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> list[Row]:
        table = self._layout.messages
        parameters: dict[str, Any] = self._shown(key)
        if after is not None:
            parameters["after"] = min(position_number(after), MAX_ID)
        limit = first if last is None else last
        if limit is not None:
            parameters["limit"] = min(limit, MAX_ID)
        statement = table.read[None if limit is None else last is not None, after is not None]
        found = (await settle(connection.execute(statement, parameters))).all()
        decode = table.decode
        rows = [Row(decode(text), str(number)) for number, text in found]
        return rows if last is None else rows[::-1]

    def _shown(self, key: str) -> dict[str, Any]:
        """The parameters of a statement over the records of a session that are shown."""
        return {"s": key, "name": name_of(key)} if self._layout.has_expiry else {"s": key}

    async def count(self, client: Any, key: str) -> int:
        table = (await self._layout_to_read(client)).messages
        parameters = self._shown(self._checked_id(table, key))
        async with entered(EngineUse.of(client).connection()) as connection:
            return int((await settle(connection.execute(table.count, parameters))).scalar_one())

    async def _layout_to_remove(self, client: Any) -> Layout:
        """What was found, with what a removal locks."""
        if not self._layout.has_locks:
            await settle(self._set_up(client, upgrade=False))
        return await self._layout_to_read(client)

    async def clear(self, client: Any, key: str) -> None:
        layout = await self._layout_to_remove(client)
        key = self._checked_id(layout.messages, key)
        async with entered(self._locked(EngineUse.of(client), layout, key)) as connection:
            for table in await self._tables_with_traces(connection):
                await self._remove(connection, table, key)

    async def _tables_with_traces(self, connection: Any) -> list[Statements]:
        """The tables that may hold traces of a session; another program may have made that of the states by now."""
        layout = self._layout
        if not layout.has_states:
            layout = await self.in_sync(connection, self.tables.inspect)
            self._found(layout)
        tables: list[Statements] = [layout.messages]
        tables += [layout.states] if layout.has_states else []
        return tables + ([layout.expiry] if layout.has_expiry else [])

    async def _remove(self, connection: Any, table: Statements, key: str) -> None:
        # By number: on MySQL a deletion by session would also lock the gaps between rows, where others append.
        numbers = (await settle(connection.execute(table.ids, {"s": key}))).scalars().all()
        await self._remove_numbers(connection, table, numbers)

    async def _remove_numbers(self, connection: Any, table: Statements, numbers: Sequence[int]) -> int:
        removed = 0
        for start in range(0, len(numbers), _IDS_AT_ONCE):
            some = {"ids": list(numbers[start : start + _IDS_AT_ONCE])}
            removed += (await settle(connection.execute(table.delete, some))).rowcount
        if removed:
            self._log.what = self._log.what or SMALL_FILE
        return removed

    async def replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        layout = await self._layout_to_write(client)
        table = layout.messages
        key = self._checked_id(table, key)
        rows = self._checked_rows(layout, table, key, rows)
        async with entered(self._locked(EngineUse.of(client), layout, key)) as connection:
            await self._put(connection, layout, table, key, rows)

    async def _put(self, connection: Any, layout: Layout, table: Statements, key: str, rows: Sequence[str]) -> None:
        await self._remove(connection, table, key)
        if rows:
            await self._insert(connection, layout, table, key, rows)
            if layout.has_expiry:
                await self._put_expiry(connection, layout, key, before=0)

    async def edit(
        self, client: Any, key: str, rows: Sequence[str], *, expected: Sequence[Row], kept: int, after: str | None
    ) -> bool:
        await self._layout_to_remove(client)
        layout = await self._layout_to_write(client)
        table = layout.messages
        key = self._checked_id(table, key)
        rows = self._checked_rows(layout, table, key, rows)
        async with entered(self._locked(EngineUse.of(client), layout, key)) as connection:
            # The texts too, because SQLite may give the number of a last row that was removed to another one.
            if not same_rows(await self._rows(connection, key, after=after), expected):
                return False
            if rows:
                # Before the others go, for the same reason.
                before = await self._last_id(connection, layout, key) if layout.has_expiry else 0
                await self._insert(connection, layout, table, key, rows)
                if layout.has_expiry:
                    await self._put_expiry(connection, layout, key, before)
            await self._remove_numbers(connection, table, [int(row.position) for row in expected[kept:]])
        return True

    async def delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:
        layout = await self._layout_to_remove(client)
        table = layout.messages
        key = self._checked_id(table, key)
        async with entered(self._locked(EngineUse.of(client), layout, key)) as connection:
            return await self._remove_numbers(connection, table, [int(row.position) for row in rows])

    # Sessions.

    async def sessions(self, client: Any, *, prefix: str, limit: int | None, after: str | None) -> Sequence[SessionRow]:
        statement = (await self._layout_to_read(client)).messages.listing(prefix, limit, after)
        async with entered(EngineUse.of(client).connection()) as connection:
            found = (await settle(connection.execute(statement))).all()
        return [SessionRow(key_text(key), count, last) for key, count, last in found]

    async def newest(
        self, client: Any, *, prefixes: Sequence[str], limit: int, after: str | None
    ) -> Sequence[NewestRow]:
        layout, end = await self._layout_to_read(client), None if after is None else min(position_number(after), MAX_ID)
        table, states = layout.messages, dict[str, str | bytes]()
        (prefix,) = prefixes
        statement, parameters = newest(table, prefix, min(limit, MAX_ID), end, is_indexed=layout.has_index)
        async with entered(EngineUse.of(client).connection()) as connection:
            found = (await settle(connection.execute(statement, parameters))).all()
            names = {key_text(key): name_of(key_text(key)) for _, key, *_ in found}
            if layout.has_expiry and names:
                renamed = await settle(connection.execute(layout.expiry.states_of_some, {"names": [*names.values()]}))
                others = {name: other for name, other in renamed.all()}  # noqa: C416
                names = {key: others.get(name, name) for key, name in names.items()}
            if names and not layout.has_states:
                await self._tables_with_traces(connection)
            if names and self._layout.has_states:
                some = self._layout.states.get_some, {"names": [*names.values()]}
                states = {name: text for name, text in (await settle(connection.execute(*some))).all()}  # noqa: C416
        return [
            NewestRow(
                key=key_text(key),
                position=str(number),
                count=min(count, MOST_COUNTED),
                first=table.decode(first),
                last=last,
                state=states.get(names[key_text(key)]),
                has_more=count > MOST_COUNTED,
            )
            for number, key, count, first, last in found
        ]

    async def erase(self, client: Any, prefix: str) -> int:
        keys: set[str] = set()
        layout = await self._layout_to_remove(client)
        async with entered(self._locked(EngineUse.of(client), layout, prefix)) as connection:
            for table in await self._tables_with_traces(connection):
                found = (await settle(connection.execute(table.with_prefix(prefix)))).all()
                keys |= {key_text(key) for _, key in found}
                if await self._remove_numbers(connection, table, [number for number, _ in found]):
                    self._log.what = ERASED_FILE
        return len(keys)

    async def sweep(self, client: Any, limit: int) -> int:
        layout = await self._layout_to_remove(client)
        if not layout.has_expiry:
            return 0
        use = EngineUse.of(client)
        async with entered(use.connection()) as connection:
            left = (await settle(connection.execute(layout.expiry.left, {"limit": limit}))).scalars().all()
        for key in map(key_text, left):
            async with entered(self._locked(use, layout, key)) as connection:
                await self._sweep(connection, layout, key)
        return len(left)

    async def _sweep(self, connection: Any, layout: Layout, key: str) -> None:
        """Remove what is hidden of a session, under its lock."""
        this = {"name": name_of(key)}
        found = (await settle(connection.execute(layout.expiry.look_to_sweep, this))).first()
        if found is None:
            return
        is_over, state, hidden = found
        numbers = (await settle(connection.execute(layout.messages.ids, {"s": key}))).scalars().all()
        await self._remove_numbers(connection, layout.messages, [number for number in numbers if number <= hidden])
        if layout.has_states:
            names = (await settle(connection.execute(layout.states.ids, {"s": key}))).scalars().all()
            await self._remove_numbers(connection, layout.states, [name for name in names if is_over or name != state])
        if is_over:
            await self._remove(connection, layout.expiry, key)
        else:
            await settle(connection.execute(layout.expiry.swept, this))

    # States.

    async def get_state(self, client: Any, key: str) -> str | bytes | None:
        (state,) = await self.get_states(client, [key])
        return state

    async def get_states(self, client: Any, keys: Sequence[str]) -> Sequence[str | bytes | None]:
        layout = await self._layout_to_read(client)
        names = [name_of(self._checked_id(layout.messages, key)) for key in keys]
        async with entered(EngineUse.of(client).connection()) as connection:
            if not layout.has_states:
                await self._tables_with_traces(connection)
            if not self._layout.has_states:
                return [None] * len(keys)
            states = self._layout.states
            if len(names) > 1 and not self._layout.has_expiry:
                found = (await settle(connection.execute(states.get_some, {"names": names}))).all()
            else:
                found = []
                for name in names:
                    row = (await settle(connection.execute(states.get, {"name": name}))).first()
                    found += [(name, row[0])] if row is not None else []
        texts = {name: states.decode(text) for name, text in found}
        return [texts.get(name) for name in names]

    async def read_with_state(self, client: Any, key: str, *, last: int) -> tuple[Sequence[Row], str | bytes | None]:
        layout = await self._layout_to_read(client)
        if not layout.has_states:
            return await super().read_with_state(client, key, last=last)
        table, states = layout.messages, layout.states
        key = self._checked_id(table, key)
        parameters = {"s": key, "name": name_of(key), "limit": min(last, MAX_ID)}
        async with entered(EngineUse.of(client).connection()) as connection:
            # In one statement, because two of them may see two moments.
            statement = states.get_with(table.read[True, False])
            found = (await settle(connection.execute(statement, parameters))).all()
        state = next(text for number, _, text in found if number is None)
        numbered = sorted((number, text) for number, text, _ in found if number is not None)
        rows = [Row(table.decode(text), str(number)) for number, text in numbered]
        return rows, None if state is None else states.decode(state)

    async def put_state(self, client: Any, key: str, text: str | None, *, expected: ExpectedState = ANY_STATE) -> bool:
        use = EngineUse.of(client)
        if (await self._layout_to_write(client)).has_expiry:
            return await self._put_state_of_expiring(use, key, text, expected)

        async def body(_: Any) -> bool:
            # On SQLite a first state is told from one that takes the place of another, of which nothing may be left.
            is_new = use.is_sqlite and text is not None and expected is ANY_STATE
            if is_new and await self._change_state(use, key, text, None):
                return True
            return await self._change_state(use, key, text, expected)

        # Where the caller's connections see no more than was there when a statement began, the server gives it up.
        is_tried_again = not use.is_in_transaction()
        return bool(await settle(tried_again(client, body) if is_tried_again else body(client)))

    async def _put_state_of_expiring(self, use: EngineUse, key: str, text: str | None, expected: ExpectedState) -> bool:
        """Put a state where sessions expire: under the lock, because what names it may change with an append."""
        layout = self._layout
        key = self._checked_id(layout.messages, key)
        name = name_of(key)
        async with entered(self._locked(use, layout, key)) as connection:
            found = (await settle(connection.execute(layout.expiry.look, {"name": name}))).first()
            if found is not None and found[0] and text is None:
                return expected is None or expected is ANY_STATE
            last = await self._last_id(connection, layout, key)
            is_new = found is None and self.ttl is not None and not last
            if text is not None and (is_new or (found is not None and found[0])):
                if isinstance(expected, str | bytes):
                    return False
                await self._put_expiry(connection, layout, key, last)
                found = (await settle(connection.execute(layout.expiry.look, {"name": name}))).first()
            return await self._change(connection, found[1] if found else name, key, text, expected)

    async def _change_state(self, use: EngineUse, key: str, text: str | None, expected: ExpectedState) -> bool:
        key = self._checked_id(self._layout.messages, key)
        async with entered(use.connection(writing=True)) as connection:
            is_done = await self._change(connection, name_of(key), key, text, expected)
            if not use.commits_by_itself:
                await settle(connection.commit())
        return is_done

    async def _change(self, connection: Any, name: str, key: str, text: str | None, expected: ExpectedState) -> bool:
        layout = self._layout
        if text is not None:
            (text,) = self._checked_rows(layout, layout.states, key, [text])
        statement, parameters = layout.states.change(name, key, text, expected)
        try:
            is_done = (await settle(connection.execute(statement, parameters))).rowcount > 0
        except exc.IntegrityError:
            if expected is not None:
                raise
            return False  # somebody else has stored the first state
        if is_done and expected is not None:
            self._log.what = self._log.what or SMALL_FILE
        return is_done or expected is ANY_STATE
