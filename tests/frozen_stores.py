"""Stores as this release's guide for authors makes them. FROZEN: never change this file.

What an author wrote for one release must work with later ones, and pass their kit, as it stands. A test that fails here
shows a break of that promise: mend the package, or the kit, but not these stores.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any, Unpack

from langchain_histories.stores.base import (
    ANY_STATE,
    Capability,
    Clients,
    ConfigurationError,
    ExpectedState,
    MessageStore,
    Operations,
    Row,
    SessionRow,
    StoreOptions,
    each,
    entered,
    pause,
    position_number,
    prefix_end,
    settle,
)

# The least that a store has.


class MinimalOperations(Operations[dict[str, list[str]]]):
    """The three obligatory operations, in memory, with the one promise that they keep."""

    name = "minimal"
    capabilities = Capability.LARGE_SESSIONS

    async def append(self, client: dict[str, list[str]], key: str, rows: Sequence[str]) -> None:
        client.setdefault(key, []).extend(rows)

    async def read(
        self,
        client: dict[str, list[str]],
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        start = 0 if after is None else position_number(after)
        rows = [Row(text, str(number)) for number, text in enumerate(client.get(key, [])[start:], start + 1)]
        return rows[:first] if last is None else rows[-last:]

    async def clear(self, client: dict[str, list[str]], key: str) -> None:
        client.pop(key, None)


class MinimalStore(MessageStore):
    """Keeps histories in a dict."""

    def __init__(
        self, url: str = "minimal://", *, client: dict[str, list[str]] | None = None, **options: Unpack[StoreOptions]
    ) -> None:
        super().__init__(MinimalOperations(), Clients(client={} if client is None else client), url, **options)


# Two kinds of client, with the same methods.


class Shelf:
    """A blocking client. Each call is one step."""

    def __init__(self, rows: dict[str, list[str]]) -> None:
        self.rows = rows

    def push(self, key: str, rows: Sequence[str]) -> None:
        self.rows.setdefault(key, []).extend(rows)

    def scan(self, key: str) -> Iterable[str]:
        return list(self.rows.get(key, []))

    @contextmanager
    def session(self) -> Generator[Shelf]:
        yield self

    def drop(self, key: str) -> None:
        self.rows.pop(key, None)


class AsyncShelf:
    """Its async twin."""

    def __init__(self, rows: dict[str, list[str]]) -> None:
        self._shelf = Shelf(rows)

    async def push(self, key: str, rows: Sequence[str]) -> None:
        self._shelf.push(key, rows)

    async def scan(self, key: str) -> AsyncIterable[str]:
        for row in self._shelf.scan(key):
            yield row

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncShelf]:
        yield self

    async def drop(self, key: str) -> None:
        self._shelf.drop(key)


class ShelfOperations(Operations[AsyncShelf]):
    """The obligatory operations over either client."""

    name = "shelf"
    capabilities = Capability.LARGE_SESSIONS | Capability.NATIVE_ASYNC

    async def append(self, client: AsyncShelf, key: str, rows: Sequence[str]) -> None:
        await pause(0, is_async=isinstance(client, AsyncShelf))
        async with entered(client.session()) as session:
            await settle(session.push(key, rows))

    async def read(
        self,
        client: AsyncShelf,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        start = 0 if after is None else position_number(after)
        found = [text async for text in each(client.scan(key))]
        rows = [Row(text, str(number)) for number, text in enumerate(found[start:], start + 1)]
        return rows[:first] if last is None else rows[-last:]

    async def clear(self, client: AsyncShelf, key: str) -> None:
        await settle(client.drop(key))


class ShelfStore(MessageStore):
    """Keeps histories in a dict, behind two clients."""

    def __init__(
        self, url: str = "shelf://", *, rows: dict[str, list[str]] | None = None, **options: Unpack[StoreOptions]
    ) -> None:
        held = {} if rows is None else rows

        async def connect(native: bool) -> Any:
            return AsyncShelf(held) if native else Shelf(held)

        clients: Clients[Any] = Clients(connect=connect)
        super().__init__(ShelfOperations(), clients, url, **options)


# The store of the guide, without its async client.


class Database:
    """A file. Each transaction has a connection of its own, so threads and forked processes may share this object."""

    def __init__(self, path: str) -> None:
        self.path = path

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Commit what is done inside, or nothing of it after an error."""
        with closing(sqlite3.connect(self.path, timeout=60)) as connection:
            connection.isolation_level = None  # no transactions but this one
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def close(self) -> None:
        """Nothing is open between two transactions."""


_UNAVAILABLE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN)


class SQLite3Operations(Operations[Any]):
    """What an SQLite file can do."""

    name = "sqlite3"
    capabilities = (
        Capability.ATOMIC_BATCH
        | Capability.DELETE
        | Capability.ERASE
        | Capability.LARGE_SESSIONS
        | Capability.LEAVES_NO_TRACE
        | Capability.MANY_PROCESSES
        | Capability.PERSISTENT
        | Capability.REPLACE
        | Capability.SESSIONS
        | Capability.STATE
        | Capability.TAIL_READ
    )
    driver_errors = (sqlite3.Error,)

    def is_unavailable(self, error: Exception) -> bool:
        return getattr(error, "sqlite_errorcode", None) in _UNAVAILABLE

    async def setup(self, client: Any, *, upgrade: bool = False) -> None:
        columns = "number INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT, text TEXT"
        async with entered(client.transaction()) as connection:
            await settle(connection.execute(f"CREATE TABLE IF NOT EXISTS records ({columns})"))
            index = "CREATE INDEX IF NOT EXISTS records_of_sessions ON records (session, number)"
            await settle(connection.execute(index))
            await settle(connection.execute("CREATE TABLE IF NOT EXISTS states (session TEXT PRIMARY KEY, text TEXT)"))

    # The obligatory operations.

    async def append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        async with entered(client.transaction()) as connection:
            await self._insert(connection, key, rows)

    async def _insert(self, connection: Any, key: str, rows: Sequence[str]) -> None:
        insert = "INSERT INTO records (session, text) VALUES (?, ?)"
        await settle(connection.executemany(insert, [(key, row) for row in rows]))

    async def read(
        self,
        client: Any,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        order = "number" if last is None else "number DESC"
        limit = first if last is None else last
        select = f"SELECT text, number FROM records WHERE session = ? AND number > ? ORDER BY {order} LIMIT ?"
        where = (key, 0 if after is None else position_number(after), -1 if limit is None else limit)
        found = [Row(text, str(number)) for text, number in await self._select(client, select, where)]
        return found if last is None else found[::-1]

    async def _select(self, client: Any, select: str, where: Sequence[Any]) -> list[Any]:
        async with entered(client.transaction()) as connection:
            cursor = await settle(connection.execute(select, where))
            return list(await settle(cursor.fetchall()))

    async def clear(self, client: Any, key: str) -> None:
        async with entered(client.transaction()) as connection:
            await settle(connection.execute("DELETE FROM records WHERE session = ?", (key,)))
            await settle(connection.execute("DELETE FROM states WHERE session = ?", (key,)))

    # The other operations.

    async def count(self, client: Any, key: str) -> int:
        ((count,),) = await self._select(client, "SELECT count(*) FROM records WHERE session = ?", (key,))
        return int(count)

    async def replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        async with entered(client.transaction()) as connection:
            await settle(connection.execute("DELETE FROM records WHERE session = ?", (key,)))
            await self._insert(connection, key, rows)

    async def delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:
        removed = 0
        async with entered(client.transaction()) as connection:
            for row in rows:
                where = (key, position_number(row.position))
                delete = "DELETE FROM records WHERE session = ? AND number = ?"
                removed += (await settle(connection.execute(delete, where))).rowcount
        return removed

    async def sessions(self, client: Any, *, prefix: str, limit: int | None, after: str | None) -> Sequence[SessionRow]:
        condition, bounds = _starts_with(prefix)
        # SQLite takes `text` from the row that has the largest number.
        select = (
            f"SELECT session, count(*), text, max(number) FROM records WHERE session > ? AND {condition} "
            "GROUP BY session ORDER BY session LIMIT ?"
        )
        found = await self._select(client, select, (after or "", *bounds, -1 if limit is None else limit))
        return [SessionRow(key, count, text) for key, count, text, _ in found]

    async def erase(self, client: Any, prefix: str) -> int:
        condition, bounds = _starts_with(prefix)
        async with entered(client.transaction()) as connection:
            select = f"SELECT session FROM records WHERE {condition} UNION SELECT session FROM states WHERE {condition}"
            cursor = await settle(connection.execute(select, bounds * 2))
            found = list(await settle(cursor.fetchall()))
            await settle(connection.execute(f"DELETE FROM records WHERE {condition}", bounds))
            await settle(connection.execute(f"DELETE FROM states WHERE {condition}", bounds))
        return len(found)

    async def get_state(self, client: Any, key: str) -> str | None:
        found = await self._select(client, "SELECT text FROM states WHERE session = ?", (key,))
        return found[0][0] if found else None

    async def put_state(self, client: Any, key: str, text: str | None, *, expected: ExpectedState = ANY_STATE) -> bool:
        async with entered(client.transaction()) as connection:
            cursor = await settle(connection.execute("SELECT text FROM states WHERE session = ?", (key,)))
            found = await settle(cursor.fetchone())
            if expected is not ANY_STATE and expected != (found[0] if found else None):
                return False
            if text is None:
                await settle(connection.execute("DELETE FROM states WHERE session = ?", (key,)))
            else:
                await settle(connection.execute("INSERT OR REPLACE INTO states VALUES (?, ?)", (key, text)))
            return True


def _starts_with(prefix: str) -> tuple[str, tuple[str, ...]]:
    """The condition that a session starts with `prefix`, and its parameters."""
    end = prefix_end(prefix)
    return ("session >= ?", (prefix,)) if end is None else ("session >= ? AND session < ?", (prefix, end))


class SQLite3Store(MessageStore):
    """Keeps histories in an SQLite file.

    Args:
        url: `sqlite3://` and the path of the file.
        **options: See `StoreOptions`. There is no `ttl`.

    Raises:
        ConfigurationError: An argument cannot be used.
    """

    def __init__(self, url: str, **options: Unpack[StoreOptions]) -> None:
        path = url.partition("://")[2]
        if not path:
            raise ConfigurationError(f"A URL of this store is 'sqlite3://' and the path of a file, not {url!r}.")

        async def connect(native: bool) -> Any:
            return Database(path)

        async def close(client: Any) -> None:
            await settle(client.close())

        clients: Clients[Any] = Clients.shared("sqlite3", path, connect=connect, close=close, native=False)
        super().__init__(SQLite3Operations(), clients, url, **options)
