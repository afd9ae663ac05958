"""`LlamaIndexMemoryStore`: what LlamaIndex's `Memory` keeps its messages in.

A memory archives its oldest messages when they are too many, and works with the others, the active ones. Here nothing
is moved for that: the state of the session has the id of the last archived record (`lh:archived`), and LangChain's
histories of the session show the whole transcript.
"""

from __future__ import annotations

from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import PrivateAttr, model_serializer
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus

from langchain_histories._derived import ARCHIVED_KEY
from langchain_histories._options import Capability
from langchain_histories.errors import UnsupportedOperationError
from langchain_histories.integrations.llama_index.chat_store import LlamaIndexChatStore, set_to
from langchain_histories.integrations.llama_index.messages import from_chat_message, is_shown, to_chat_messages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_histories.codec import Record
    from langchain_histories.registry import HistoryRegistry
    from langchain_histories.store import MessageStore

_NEEDED = Capability.STATE | Capability.EDIT | Capability.DELETE
_FIRST_LOOK = 32

# The ids of the active records that a task has read and not archived. A memory decides by what it has read how many
# messages it archives; what others have archived meanwhile must not make it archive newer ones in their place.
_read: ContextVar[Mapping[Any, Sequence[str]]] = ContextVar("read", default=MappingProxyType({}))


class LlamaIndexMemoryStore(AsyncDBChatStore):
    """A store for LlamaIndex's `Memory`: `Memory.from_defaults(session_id="1", chat_store=LlamaIndexMemoryStore(url))`.

    Args:
        store: As for `LlamaIndexChatStore`.
        registry: As for `LlamaIndexChatStore`.
        **options: As for `LlamaIndexChatStore`.

    Raises:
        ConfigurationError: The URL, name or an option cannot be used.
        UnsupportedOperationError: The store has no state or no edits.
    """

    _chat_store: LlamaIndexChatStore = PrivateAttr()

    def __init__(
        self, store: str | MessageStore = "memory://", *, registry: HistoryRegistry | None = None, **options: Any
    ) -> None:
        """Open the store. Its first use connects."""
        super().__init__()
        self._chat_store = LlamaIndexChatStore(store, registry=registry, **options)
        if missing := _NEEDED & ~self._store.capabilities:
            raise UnsupportedOperationError(
                f"A memory of LlamaIndex archives messages, and the {self._store.name} store has no {missing.name}."
            )

    @classmethod
    def class_name(cls) -> str:
        """The name of the class."""
        return "LlamaIndexMemoryStore"

    @property
    def message_store(self) -> MessageStore:
        """The store of this package: LangChain's histories of the same sessions are `message_store.history(key)`."""
        return self._chat_store.message_store

    @property
    def _store(self) -> MessageStore:
        return self._chat_store.message_store

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = MessageStatus.ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        """Return the messages with a status, oldest first; `None` for all."""
        records = await self._with(key, status)
        if status is MessageStatus.ACTIVE and not offset and limit is None:
            _read.set({**_read.get(), (self._store.place, key): [record.id for record in records]})
        begin = offset or 0
        return _shown(records[begin : None if limit is None else begin + limit])

    async def count_messages(self, key: str, status: MessageStatus | None = MessageStatus.ACTIVE) -> int:
        """Count the messages with a status."""
        return len(await self._with(key, status))

    async def add_message(self, key: str, message: ChatMessage, status: MessageStatus = MessageStatus.ACTIVE) -> None:
        """Add a message."""
        await self.add_messages(key, [message], status)

    async def add_messages(
        self, key: str, messages: Sequence[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Add messages, all or none; archived ones behind those that are archived."""
        new = [from_chat_message(message) for message in messages]
        if status is MessageStatus.ACTIVE:
            await self._store.aappend(key, new)
        elif new:
            mark = await self._mark(key)

            def change(records: list[Record]) -> list[Record | BaseMessage]:
                end = _end(records, mark)
                return [*records[:end], *new, *records[end:]]

            ids = await self._store.aedit(key, change)
            await self._move(key, mark, ids[(ids.index(mark) + 1 if mark in ids else 0) + len(new) - 1])

    async def set_messages(
        self, key: str, messages: Sequence[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Put these in place of all messages, archived ones too. Those that are there already stay."""
        await self._move(key, await self._mark(key), None)
        ids = await self._store.aedit(key, set_to(messages))
        if status is MessageStatus.ARCHIVED and ids:
            await self._move(key, None, ids[-1])

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Remove the active message at an index, as in a list, and return it; `None` if there is none."""
        while True:
            active = await self._with(key, MessageStatus.ACTIVE)
            if not -len(active) <= idx < len(active):
                return None
            if await self._store.adelete(key, [active[idx].id]):
                return _shown([active[idx]])[0]

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        """Remove the messages with a status; without one all that there is of the session."""
        if status is None:
            await self._store.aclear(key)
            return
        mark = await self._mark(key)
        if status is MessageStatus.ACTIVE:
            await self._store.aedit(key, lambda records: records[: _end(records, mark)])
        elif mark is not None:
            await self._store.aedit(key, lambda records: records[_end(records, mark) :])
            await self._move(key, mark, None)

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Remove the oldest active messages, and return those that nobody else has removed meanwhile."""
        oldest = (await self._with(key, MessageStatus.ACTIVE))[: max(n, 0)]
        return _shown([record for record in oldest if await self._store.adelete(key, [record.id])])

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Archive the oldest active messages, and return those that nobody else has archived meanwhile.

        Where this task has read the active messages, it is only those of them.
        """
        place = (self._store.place, key)
        known = _read.get().get(place)
        while True:
            mark = await self._mark(key)
            oldest = (await self._behind(key, mark))[: max(n, 0)]
            if known is not None:
                wanted = set(known[: max(n, 0)])
                oldest = [record for record in oldest if record.id in wanted]
            if not oldest or await self._move(key, mark, oldest[-1].id):
                if known is not None:
                    _read.set({**_read.get(), place: known[max(n, 0) :]})
                return _shown(oldest)

    async def get_keys(self) -> list[str]:
        """Return the sessions that have messages."""
        return await self._chat_store.aget_keys()

    async def aclose(self) -> None:
        """Close the store."""
        await self._chat_store.aclose()

    @model_serializer(mode="plain")
    def _named(self) -> dict[str, Any]:
        return {**self._chat_store.custom_model_dump(), "class_name": self.class_name()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LlamaIndexMemoryStore:
        """As `LlamaIndexChatStore.from_dict`."""
        return cls(LlamaIndexChatStore.from_dict(data).message_store)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the place, without secrets."""
        return LlamaIndexMemoryStore.from_dict, (self._chat_store.custom_model_dump(),)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> LlamaIndexMemoryStore:
        """A copy has the same store."""
        return self

    def __repr__(self) -> str:
        """Class and store, without secrets."""
        return f"{type(self).__name__}({self._store!r})"

    __str__ = __repr__

    # The mark.

    async def _mark(self, key: str) -> str | None:
        """Return the id of the last archived record."""
        mark = (await self._store.aget_state(key) or {}).get(ARCHIVED_KEY)
        return mark if isinstance(mark, str) else None

    async def _move(self, key: str, old: str | None, new: str | None) -> bool:
        """Set the mark if it is still where it was; tell whether."""
        is_moved = False

        def change(state: dict[str, Any] | None) -> dict[str, Any] | None:
            nonlocal is_moved
            state = dict(state or {})
            is_moved = state.get(ARCHIVED_KEY) == old
            if is_moved:
                state.pop(ARCHIVED_KEY, None)
                if new is not None:
                    state[ARCHIVED_KEY] = new
            return state or None

        if old != new:
            await self._store.aupdate_state(key, change)
        return is_moved or old == new

    async def _with(self, key: str, status: MessageStatus | None) -> list[Record]:
        if status is None:
            return [record for record in await self._store.arecords(key) if is_shown(record.message)]
        mark = await self._mark(key)
        if status is MessageStatus.ACTIVE:
            return await self._behind(key, mark)
        records = [] if mark is None else await self._store.arecords(key)
        return [record for record in records[: _end(records, mark)] if is_shown(record.message)]

    async def _behind(self, key: str, mark: str | None) -> list[Record]:
        """Return the active records: what lies behind the mark, and all if nobody has its record any more."""
        wanted = _FIRST_LOOK
        while mark is not None:
            records = await self._store.arecords(key, last=wanted)
            end = _end(records, mark)
            if end or len(records) < wanted:
                return [record for record in records[end:] if is_shown(record.message)]
            wanted *= 4
        return [record for record in await self._store.arecords(key) if is_shown(record.message)]


def _end(records: Sequence[Record], mark: str | None) -> int:
    """Return how many records there are up to the mark; none if it is not among them."""
    return next((at for at, record in enumerate(records, 1) if record.id == mark), 0)


def _shown(records: Sequence[Record]) -> list[ChatMessage]:
    return to_chat_messages(record.message for record in records)
