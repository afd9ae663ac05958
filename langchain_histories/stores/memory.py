"""Histories in the memory of one process."""

from __future__ import annotations

import bisect
import copy
import heapq
import itertools
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pydantic_core
from langchain_core.messages import AnyMessage
from pydantic import TypeAdapter
from pydantic_core import core_schema

from langchain_histories._urls import read_url, shown_url
from langchain_histories.errors import ConfigurationError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.stores.base import (
    ANY_STATE,
    Capability,
    Clients,
    ExpectedState,
    MessageStore,
    NewestRow,
    Operations,
    Row,
    SessionRow,
    StoreOptions,
    position_number,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self, Unpack

    from langchain_core.messages import BaseMessage


@dataclass
class _Session:
    rows: list[tuple[int, str]] = field(default_factory=list)
    state: str | None = None
    expires: float | None = None


class Memory:
    """The sessions of a store. Its lock is held for microseconds, so it may be taken on an event loop."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.sessions: dict[str, _Session] = {}
        self.numbers = itertools.count(1)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy the sessions, as they are at one moment."""
        with self.lock:
            return _memory_of, (copy.deepcopy(self.sessions), next(self.numbers))

    def get(self, key: str) -> _Session | None:
        session = self.sessions.get(key)
        if session is not None and session.expires is not None and session.expires <= time.monotonic():
            del self.sessions[key]
            return None
        return session


def _memory_of(sessions: dict[str, _Session], number: int) -> Memory:
    memory = Memory()
    memory.sessions, memory.numbers = sessions, itertools.count(number)
    return memory


class MemoryOperations(Operations[Memory]):
    """What a store in memory can do: everything but outlive its process."""

    name = "memory"
    capabilities = ~(Capability.PERSISTENT | Capability.MANY_PROCESSES)

    async def append(self, client: Memory, key: str, rows: Sequence[str]) -> None:
        with client.lock:
            session = client.get(key) or client.sessions.setdefault(key, _Session())
            session.rows += [(next(client.numbers), row) for row in rows]
            self._slide(session)

    def _slide(self, session: _Session) -> None:
        if self.ttl is not None:
            session.expires = time.monotonic() + self.ttl

    async def read(
        self,
        client: Memory,
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

    async def count(self, client: Memory, key: str) -> int:
        with client.lock:
            session = client.get(key)
            return len(session.rows) if session else 0

    async def clear(self, client: Memory, key: str) -> None:
        with client.lock:
            client.sessions.pop(key, None)

    async def replace(self, client: Memory, key: str, rows: Sequence[str]) -> None:
        with client.lock:
            session = client.get(key) or client.sessions.setdefault(key, _Session())
            session.rows = [(next(client.numbers), row) for row in rows]
            self._slide(session)

    async def edit(
        self, client: Memory, key: str, rows: Sequence[str], *, expected: Sequence[Row], kept: int, after: str | None
    ) -> bool:
        with client.lock:
            # No row gets the number of another one, so equal numbers are equal rows.
            now = [row.position for row in await self.read(client, key, after=after)]
            if now != [row.position for row in expected]:
                return False
            session = client.get(key) or client.sessions.setdefault(key, _Session())
            del session.rows[len(session.rows) - len(expected) + kept :]
            session.rows += [(next(client.numbers), row) for row in rows]
            if rows:
                self._slide(session)
            if not session.rows and session.state is None:
                del client.sessions[key]
            return True

    async def delete(self, client: Memory, key: str, rows: Sequence[Row]) -> int:
        with client.lock:
            session = client.get(key)
            if session is None:
                return 0
            removed = 0
            for number in {int(row.position) for row in rows}:
                at = bisect.bisect_left(session.rows, number, key=lambda row: row[0])
                if at < len(session.rows) and session.rows[at][0] == number:
                    del session.rows[at]
                    removed += 1
            return removed

    async def sessions(
        self, client: Memory, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        with client.lock:
            keys = sorted(key for key in client.sessions if key.startswith(prefix) and (after is None or key > after))
            found = [(key, session) for key in keys if (session := client.get(key)) and session.rows]
            return [SessionRow(key, len(session.rows), session.rows[-1][1]) for key, session in found[:limit]]

    async def newest(
        self, client: Memory, *, prefixes: Sequence[str], limit: int, after: str | None
    ) -> Sequence[NewestRow]:
        with client.lock:
            end = None if after is None else position_number(after)
            keys = [key for key in client.sessions if key.startswith(tuple(prefixes))]
            found = [(key, session) for key in keys if (session := client.get(key)) and session.rows]
            before = [pair for pair in found if end is None or pair[1].rows[-1][0] < end]
            page = heapq.nlargest(limit, before, key=lambda pair: pair[1].rows[-1][0])
            return [
                NewestRow(key, str(rows[-1][0]), len(rows), rows[0][1], rows[-1][1], session.state)
                for key, session in page
                for rows in [session.rows]
            ]

    async def erase(self, client: Memory, prefix: str) -> int:
        with client.lock:
            keys = [key for key in client.sessions if key.startswith(prefix)]
            for key in keys:
                del client.sessions[key]
            return len(keys)

    async def sweep(self, client: Memory, limit: int) -> int:
        with client.lock:
            now = time.monotonic()
            expired = [key for key, one in client.sessions.items() if one.expires is not None and one.expires <= now]
            for key in expired[:limit]:
                del client.sessions[key]
            return len(expired[:limit])

    async def get_state(self, client: Memory, key: str) -> str | None:
        with client.lock:
            session = client.get(key)
            return session.state if session else None

    async def put_state(
        self, client: Memory, key: str, text: str | None, *, expected: ExpectedState = ANY_STATE
    ) -> bool:
        with client.lock:
            session = client.get(key)
            if expected is not ANY_STATE and expected != (session.state if session else None):
                return False
            if session is None:
                session = client.sessions[key] = _Session()
                self._slide(session)
            session.state = text
            if text is None and not session.rows:
                del client.sessions[key]
            return True


class MemoryStore(MessageStore):
    """Keeps histories in the memory of this process. They are gone when it ends.

    Args:
        url: `memory://`. Each store has a memory of its own.
        client: The memory of another store, `store.client`, to be shared with it.
        **options: See `StoreOptions`. `ttl` is supported.
    """

    def __init__(
        self, url: str = "memory://", *, client: Memory | None = None, **options: Unpack[StoreOptions]
    ) -> None:
        """Make an empty memory."""
        if any(part.strip("/") for part in read_url(urlsplit, url, "memory://")[1:]):
            raise ConfigurationError(f"A memory URL has no place in it: use 'memory://', not {shown_url(url)!r}.")
        memory = client or Memory()
        super().__init__(MemoryOperations(), Clients(client=memory, async_client=memory), url, **options)

    def _copy_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, options = super()._copy_arguments()
        return args, {**options, "client": copy.deepcopy(self.client)}

    @classmethod
    def joined(cls, url: str, **options: Any) -> Self:
        """Return a store over the one memory that all histories of `open_history` share in this process."""
        return cls(url, client=_OF_THIS_PROCESS, **options)


_OF_THIS_PROCESS = Memory()


class InMemoryChatMessageHistory(StoredChatMessageHistory):
    """A history in memory, private to its instance: LangChain's class of this name.

    LangChain's is a pydantic model. This one has what programs use of that: equality by messages, the methods
    `model_dump`, `model_dump_json`, `model_copy`, `model_validate` and `model_validate_json`, and it may be a field of
    a model. Unlike there, `messages` returns a list of its own: use `add_messages` to add to the history.

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

    def __eq__(self, other: object) -> bool:
        """Whether the other one is of the same class and holds equal messages."""
        return type(other) is type(self) and isinstance(other, type(self)) and other.messages == self.messages

    __hash__ = None  # type: ignore[assignment]  # as a pydantic model that can change

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Return `{"messages": [...]}`, each message with all its fields.

        Args:
            **options: As for a message's `model_dump`, such as `mode="json"`.
        """
        return {"messages": [message.model_dump(**options) for message in self.messages]}

    def model_dump_json(self, **options: Any) -> str:
        """Return the JSON text of `model_dump`."""
        indent = options.pop("indent", None)
        return pydantic_core.to_json(self.model_dump(mode="json", **options), indent=indent).decode()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # noqa: ARG002  # always
        """Return a history of its own with the same messages, or with those in `update`."""
        return type(self)(messages=(update or {}).get("messages", self.messages))

    @classmethod
    def model_validate(cls, value: Any, **_: Any) -> Self:
        """Return a history from what `model_dump` returned; a history is returned as it is.

        Raises:
            ConfigurationError: It is something else.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ConfigurationError(
                f"A history is made from a history or from {{'messages': [...]}}, not from {type(value).__name__}."
            )
        return cls(messages=TypeAdapter(list[AnyMessage]).validate_python(value.get("messages", [])))

    @classmethod
    def model_validate_json(cls, text: str | bytes, **_: Any) -> Self:
        """Return a history from the text that `model_dump_json` returned."""
        return cls.model_validate(pydantic_core.from_json(text))

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        """Let a pydantic model have a field of this class."""
        return core_schema.no_info_plain_validator_function(
            cls.model_validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda history, info: history.model_dump(mode=info.mode), info_arg=True
            ),
            json_schema_input_schema=core_schema.dict_schema(core_schema.str_schema(), core_schema.list_schema()),
        )


ChatMessageHistory = InMemoryChatMessageHistory
