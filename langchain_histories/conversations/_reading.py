"""Read whole stores, page by page, on both faces of their methods."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_histories._options import Capability
from langchain_histories.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from langchain_histories._listing import SessionInfo
    from langchain_histories._session_ids import SessionId
    from langchain_histories.codec import Row
    from langchain_histories.store import MessageStore

T = TypeVar("T")

PAGE = 500
"""Records that are in memory at once."""
SESSIONS = 500
"""Sessions that are listed at once."""


class Blocking:
    """The sync face of the stores."""

    async def run(self, store: MessageStore, body: Any, session_id: SessionId, nothing: Any = None) -> Any:
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

    async def run(self, store: MessageStore, body: Any, session_id: SessionId, nothing: Any = None) -> Any:
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

    async def rows(self, session_id: SessionId, after: str | None, first: int | None) -> Sequence[Row]:
        """Return rows of a session behind a position: so many, or all."""
        operations = self.store.operations
        key = operations.key(session_id)
        rows: Sequence[Row] = await self.face.run(
            self.store, lambda client: operations.read(client, key, first=first, after=after), session_id, list
        )
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
            for row in rows:
                record_id = self.format.record_id(row)
                if record_id in seen:
                    twice[record_id] = row.position
                seen.add(record_id)
        async for rows in self.pages(session_id):
            yield {
                record_id: row
                for record_id, row in self.format.by_id(rows).items()
                if record_id not in twice or twice[record_id] == row.position
            }

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
