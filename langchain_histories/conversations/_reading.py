"""Read whole stores, page by page, on both faces of their methods."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_histories._options import Capability
from langchain_histories.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence

    from langchain_histories._listing import SessionInfo
    from langchain_histories._session_ids import SessionId
    from langchain_histories.codec import Row
    from langchain_histories.store import MessageStore

T = TypeVar("T")

PAGE = 500
"""Records of one session that are read and sent together."""
TOGETHER = 2000
"""Records of short sessions that are read and sent together."""
SESSIONS = 500
"""Sessions that are listed at once."""


class Blocking:
    """The sync face of the stores."""

    async def run(self, store: MessageStore, body: Any, session_id: SessionId | None, nothing: Any = None) -> Any:
        return store.run("copy", body, session_id=session_id, nothing=nothing)

    async def run_foreign(self, store: MessageStore, body: Any, nothing: Any) -> Any:
        """Read what another program keeps at the place of a store."""
        return store.run("import", body, needs_setup=False, nothing=nothing)

    async def sessions(self, store: MessageStore, after: str | None) -> list[SessionInfo]:
        return store.sessions(limit=SESSIONS, after=after)

    async def of_file(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)


class Awaited:
    """The async face of the stores."""

    async def run(self, store: MessageStore, body: Any, session_id: SessionId | None, nothing: Any = None) -> Any:
        return await store.arun("copy", body, session_id=session_id, nothing=nothing)

    async def run_foreign(self, store: MessageStore, body: Any, nothing: Any) -> Any:
        """Read what another program keeps at the place of a store."""
        return await store.arun("import", body, needs_setup=False, nothing=nothing)

    async def sessions(self, store: MessageStore, after: str | None) -> list[SessionInfo]:
        return await store.asessions(limit=SESSIONS, after=after)

    async def of_file(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(function, *args)


class Reading:
    """What a copy and a digest read of a store."""

    def __init__(self, store: MessageStore, face: Blocking | Awaited) -> None:
        self.store, self.face, self.format = store, face, store.format

    async def session_ids(self, given: Iterable[SessionId] | None) -> AsyncGenerator[SessionId]:
        """Walk the ids that are given, each once, or those of all sessions that have messages."""
        if given is not None:
            for session_id in given_ids(given):
                yield session_id
            return
        page = await self.face.sessions(self.store, None)
        while page:
            for info in page:
                yield info.session_id
            page = await self.face.sessions(self.store, page[-1].session_id) if len(page) == SESSIONS else []

    async def groups(self) -> AsyncGenerator[list[str]]:
        """Walk the ids of all sessions that have messages, as many at once as have few records together."""
        group: list[str] = []
        total = 0
        page = await self.face.sessions(self.store, None)
        while page:
            for info in page:
                if group and (total + info.count > TOGETHER or info.count >= PAGE):
                    yield group
                    group, total = [], 0
                group.append(info.session_id)
                total += info.count
            page = await self.face.sessions(self.store, page[-1].session_id) if len(page) == SESSIONS else []
        if group:
            yield group

    # Of several sessions at once. Each is given with a position behind which it is read or ends, or none.

    async def read_many(self, wanted: Mapping[str, str | None]) -> dict[str, Sequence[Row]]:
        """Return the first page of each session."""
        operations = self.store.operations
        asked = [(operations.key(session_id), after) for session_id, after in wanted.items()]
        if not asked:
            return {}
        found: Sequence[Sequence[Row]] = await self.face.run(
            self.store, lambda client: operations.read_many(client, asked, first=PAGE), None, lambda: [()] * len(asked)
        )
        return dict(zip(wanted, found, strict=True))

    @staticmethod
    def is_all(rows: Sequence[Row]) -> bool:
        """Whether a first page is all that there is."""
        return len(rows) < PAGE

    async def append_behind(self, batches: Mapping[str, Sequence[str]], ends: Mapping[str, str | None]) -> set[str]:
        """Append where each session still ends there, and return of which that was done."""
        operations = self.store.operations
        given = [(operations.key(session_id), rows, ends[session_id]) for session_id, rows in batches.items()]
        if not given:
            return set()
        done: Sequence[bool] = await self.face.run(
            self.store, lambda client: operations.append_behind(client, given), None
        )
        return {session_id for session_id, is_done in zip(batches, done, strict=True) if is_done}

    async def states(self, session_ids: Sequence[str]) -> dict[str, str | bytes | None]:
        """Return the texts of states."""
        if Capability.STATE not in self.store.capabilities:
            return dict.fromkeys(session_ids)
        operations = self.store.operations
        keys = [*map(operations.key, session_ids)]
        found: Sequence[str | bytes | None] = await self.face.run(
            self.store, lambda client: operations.get_states(client, keys), None, lambda: [None] * len(keys)
        )
        return dict(zip(session_ids, found, strict=True))

    # Of one session.

    async def rows(self, session_id: SessionId, after: str | None, first: int | None) -> Sequence[Row]:
        """Return rows of a session behind a position: so many, or all."""
        operations = self.store.operations
        key = operations.key(session_id)

        async def body(client: Any) -> Sequence[Row]:
            if first is None:
                return await operations.read(client, key, after=after)
            (rows,) = await operations.read_many(client, [(key, after)], first=first)
            return rows

        rows: Sequence[Row] = await self.face.run(self.store, body, session_id, list)
        return rows

    async def pages(
        self, session_id: SessionId, first_page: Sequence[Row] | None = None
    ) -> AsyncGenerator[Sequence[Row]]:
        """Walk all rows of a session, of which the first page may have been read already."""
        rows = await self.rows(session_id, None, PAGE) if first_page is None else first_page
        while rows:
            yield rows
            rows = await self.rows(session_id, rows[-1].position, PAGE) if len(rows) == PAGE else []

    async def whole_pages(self, session_id: SessionId) -> AsyncGenerator[dict[str, Row]]:
        """Walk the rows of a session by id, each id once: of what a driver's retry stored twice the later copy counts.

        A session of several pages is read twice, because a later copy may be on a later page.
        """
        first = await self.rows(session_id, None, PAGE)
        if len(first) < PAGE:
            if first:
                yield self.format.by_id(first)
            return
        seen: set[str] = set()
        twice: dict[str, str] = {}
        async for rows in self.pages(session_id, first):
            ids = self.format.record_ids(rows)
            if len(new := {*ids}) == len(ids) and seen.isdisjoint(new):
                seen |= new
                continue
            for record_id, row in zip(ids, rows, strict=True):
                if record_id in seen:
                    twice[record_id] = row.position
                seen.add(record_id)
        async for rows in self.pages(session_id):
            found = self.format.by_id(rows)
            for record_id in twice.keys() & found.keys():
                if twice[record_id] != found[record_id].position:
                    del found[record_id]
            yield found

    async def state(self, session_id: SessionId) -> str | bytes | None:
        """Return the text of the state of a session."""
        if Capability.STATE not in self.store.capabilities:
            return None
        operations = self.store.operations
        key = operations.key(session_id)
        text: str | bytes | None = await self.face.run(
            self.store, lambda client: operations.get_state(client, key), session_id, _none
        )
        return text


def given_ids(given: Iterable[SessionId]) -> Iterable[SessionId]:
    """Return the ids that are given, each once.

    Raises:
        ConfigurationError: It is a single one.
    """
    if isinstance(given, str):
        raise ConfigurationError("sessions must be a list of session ids, not one str.")
    return dict.fromkeys(given)


def _none() -> None:
    """What a read returns where there is no state."""
