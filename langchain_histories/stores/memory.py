"""Histories in the memory of one process."""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langchain_histories._clients import Clients
from langchain_histories.codec import Row
from langchain_histories.errors import ConfigurationError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.store import (
    ANY_STATE,
    AnyState,
    Capability,
    MessageStore,
    SessionRow,
    StoreOptions,
    position_number,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from langchain_core.messages import BaseMessage


@dataclass
class _Session:
    rows: list[tuple[int, str]] = field(default_factory=list)
    state: str | None = None
    expires: float | None = None


class _Memory:
    """The sessions of one store. Its lock is held for microseconds, so it may be taken on an event loop."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.sessions: dict[str, _Session] = {}
        self.numbers = itertools.count(1)

    def get(self, key: str) -> _Session | None:
        session = self.sessions.get(key)
        if session is not None and session.expires is not None and session.expires <= time.monotonic():
            del self.sessions[key]
            return None
        return session


class MemoryStore(MessageStore[_Memory]):
    """Keeps histories in the memory of this process. They are gone when it ends.

    Args:
        url: `memory://`. Each store has its own memory.
        **options: See `StoreOptions`. `ttl` is supported.
    """

    name = "memory"
    schemes = ("memory",)

    def __init__(self, url: str = "memory://", **options: Unpack[StoreOptions]) -> None:
        """Make an empty memory."""
        if url.partition("://")[2].strip("/"):
            raise ConfigurationError(f"A memory URL has no place in it: use 'memory://', not {url!r}.")
        memory = _Memory()
        super().__init__(Clients(client=memory, async_client=memory), url, **options)

    @property
    def capabilities(self) -> Capability:
        """All but `PERSISTENT`."""
        return ~Capability.PERSISTENT

    async def _append(self, client: _Memory, key: str, rows: Sequence[str]) -> None:
        with client.lock:
            session = client.get(key) or client.sessions.setdefault(key, _Session())
            session.rows += [(next(client.numbers), row) for row in rows]
            self._slide(session)

    def _slide(self, session: _Session) -> None:
        session.expires = None if self.ttl is None else time.monotonic() + self.ttl

    async def _read(
        self,
        client: _Memory,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        with client.lock:
            session = client.get(key)
            rows = session.rows if session else []
            start = 0 if after is None else bisect.bisect_right(rows, position_number(after), key=lambda row: row[0])
            if last is not None:
                start = max(start, len(rows) - last)
            stop = None if first is None else start + first
            return [Row(text, str(number)) for number, text in rows[start:stop]]

    async def _count(self, client: _Memory, key: str) -> int:
        with client.lock:
            session = client.get(key)
            return len(session.rows) if session else 0

    async def _clear(self, client: _Memory, key: str) -> None:
        with client.lock:
            client.sessions.pop(key, None)

    async def _replace(self, client: _Memory, key: str, rows: Sequence[str]) -> None:
        with client.lock:
            session = client.get(key) or client.sessions.setdefault(key, _Session())
            session.rows = [(next(client.numbers), row) for row in rows]
            self._slide(session)

    async def _delete(self, client: _Memory, key: str, rows: Sequence[Row]) -> int:
        doomed = {int(row.position) for row in rows}
        with client.lock:
            session = client.get(key)
            if session is None:
                return 0
            kept = [row for row in session.rows if row[0] not in doomed]
            removed = len(session.rows) - len(kept)
            session.rows = kept
            return removed

    async def _sessions(
        self, client: _Memory, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        with client.lock:
            keys = sorted(key for key in client.sessions if key.startswith(prefix) and (after is None or key > after))
            found = [(key, session) for key in keys if (session := client.get(key)) and session.rows]
            return [SessionRow(key, len(session.rows), session.rows[-1][1]) for key, session in found[:limit]]

    async def _erase(self, client: _Memory, prefix: str) -> int:
        with client.lock:
            keys = [key for key in client.sessions if key.startswith(prefix)]
            for key in keys:
                del client.sessions[key]
            return len(keys)

    async def _get_state(self, client: _Memory, key: str) -> str | None:
        with client.lock:
            session = client.get(key)
            return session.state if session else None

    async def _put_state(
        self, client: _Memory, key: str, text: str | None, *, instead_of: str | bytes | AnyState | None = ANY_STATE
    ) -> bool:
        with client.lock:
            session = client.get(key)
            if instead_of is not ANY_STATE and instead_of != (session.state if session else None):
                return False
            if session is None:
                session = client.sessions[key] = _Session()
                self._slide(session)
            session.state = text
            if text is None and not session.rows:
                del client.sessions[key]
            return True


class InMemoryChatMessageHistory(StoredChatMessageHistory):
    """A history in memory, private to its instance: LangChain's class of this name.

    Unlike there, `messages` returns a list of its own: use `add_messages` to add to the history.

    Args:
        messages: What it holds at first.
    """

    def __init__(self, *, messages: Sequence[BaseMessage] = ()) -> None:
        """Start with these messages."""
        super().__init__(MemoryStore(), "memory")
        self.add_messages(messages)

    def __repr__(self) -> str:
        """The class and its messages, as LangChain's."""
        return f"{type(self).__name__}(messages={self.messages!r})"

    @property
    def messages(self) -> list[BaseMessage]:
        """The messages, oldest first; assign to replace them all."""
        return self._visible()

    @messages.setter
    def messages(self, messages: Sequence[BaseMessage]) -> None:
        self.store.replace(self.session_id, messages)


ChatMessageHistory = InMemoryChatMessageHistory
