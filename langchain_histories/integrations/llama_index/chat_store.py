"""Every store as a chat store of LlamaIndex, and what its memories write of it."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import secrets
import weakref
from collections import defaultdict, deque
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import PrivateAttr, model_serializer
from llama_index.core.storage.chat_store.base import BaseChatStore
from llama_index.core.storage.chat_store.loading import RECOGNIZED_CHAT_STORES

from langchain_histories._urls import shown_url
from langchain_histories.errors import ConfigurationError
from langchain_histories.integrations.llama_index.forms import sessions_of_simple_file
from langchain_histories.integrations.llama_index.messages import (
    as_dict,
    from_chat_message,
    is_shown,
    to_chat_message,
    to_chat_messages,
)
from langchain_histories.registry import HistoryRegistry, _substitute, open_store
from langchain_histories.store import MessageStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    import fsspec
    from langchain_core.messages import BaseMessage

    from langchain_histories.codec import Record

StoreT = TypeVar("StoreT", bound=MessageStore)

_live: weakref.WeakValueDictionary[str, MessageStore] = weakref.WeakValueDictionary()


class LlamaIndexChatStore(BaseChatStore):
    """A chat store of LlamaIndex over a store of this package. LangChain's histories of a session have its messages.

    An index is one of a list: negative ones count from the end, and where there is no message `None` is returned. Each
    delete returns the message. `add_message` appends, in one step, whatever is stored already; a message at an index,
    `set_messages` and the deletes lose nothing that others add meanwhile. The async methods are the store's own.

    `ChatMemoryBuffer.to_string` and a pickle name the place and hold no secret: they find the store again in this
    process, or by a URL that needs none. `LlamaIndexChatStore("${REDIS_URL}")` takes it from the environment there.

    Args:
        store: A URL, with environment variables as `${NAME}`, or a store, or, with `registry`, the name of one.
        registry: Where the name is looked up.
        **options: The options of `open_store`.

    Raises:
        ConfigurationError: The URL, name or an option cannot be used.
    """

    _store: MessageStore = PrivateAttr()
    _place: dict[str, str] = PrivateAttr()

    def __init__(
        self, store: str | MessageStore = "memory://", *, registry: HistoryRegistry | None = None, **options: Any
    ) -> None:
        """Open the store. Its first use connects."""
        super().__init__()
        if isinstance(store, MessageStore):
            if options or registry is not None:
                raise ConfigurationError("A store has its options already: give a URL, or the store alone.")
            self._keep(store, {"place": repr(store)})
        elif registry is not None:
            if options:
                raise ConfigurationError("The options of a store of a registry stand in its config.")
            self._keep(registry.store(store), {"place": store})
        elif isinstance(store, str):
            url = _substitute(store, "LlamaIndexChatStore")
            # What a variable stands for is not written.
            hidden = re.sub(r"\$\{\w+\}", "***", store)
            has_secret = hidden != "***" and shown_url(hidden) != hidden
            is_enough = not options and not has_secret and not store.startswith("memory:")
            self._keep(open_store(url, **options), {"url": store} if is_enough else {"place": shown_url(url)})
        else:
            raise ConfigurationError(f"A chat store needs a URL, a store or a name, not {type(store).__name__}.")

    def _keep(self, store: MessageStore, place: dict[str, str]) -> None:
        self._store = store
        token = next((known for known, it in _live.items() if it is store), None) or secrets.token_hex(8)
        _live[token] = store
        self._place = {**place, "store": token}

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex finds the class again."""
        return "LlamaIndexChatStore"

    @property
    def message_store(self) -> MessageStore:
        """The store of this package: LangChain's histories of the same sessions are `message_store.history(key)`."""
        return self._store

    # The methods of a chat store.

    def set_messages(self, key: str, messages: Sequence[ChatMessage]) -> None:
        """Put these in place of all messages of a session. Those that are there already stay, with id and time."""
        self._store.edit(key, set_to(messages))

    async def aset_messages(self, key: str, messages: Sequence[ChatMessage]) -> None:
        """Async `set_messages`."""
        await self._store.aedit(key, set_to(messages))

    def get_messages(self, key: str) -> list[ChatMessage]:
        """Return the messages of a session, oldest first."""
        return to_chat_messages(self._store.read(key))

    async def aget_messages(self, key: str) -> list[ChatMessage]:
        """Async `get_messages`."""
        return to_chat_messages(await self._store.aread(key))

    def add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        """Add a message at the end, or before the one at an index, which costs a read of the session."""
        if idx is None:
            self._store.append(key, [from_chat_message(message)])
        else:
            self._store.edit(key, _inserted(message, idx))

    async def async_add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        """Async `add_message`."""
        if idx is None:
            await self._store.aappend(key, [from_chat_message(message)])
        else:
            await self._store.aedit(key, _inserted(message, idx))

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        """Remove all messages of a session and return them; `None` if there were none."""
        taken = _All()
        self._store.edit(key, taken)
        return taken.shown

    async def adelete_messages(self, key: str) -> list[ChatMessage] | None:
        """Async `delete_messages`."""
        taken = _All()
        await self._store.aedit(key, taken)
        return taken.shown

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Remove the message at an index and return it; `None` if there is none. Two callers never get the same."""
        while True:
            index: int | None = idx
            if any(not is_shown(record.message) for record in self._store.records(key, **_end(idx))):
                index = _stored_index(self._store.records(key), idx)
            record = None if index is None else self._store.take(key, index)
            if record is None or is_shown(record.message):
                return record and to_chat_message(record.message)

    async def adelete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Async `delete_message`."""
        while True:
            index: int | None = idx
            if any(not is_shown(record.message) for record in await self._store.arecords(key, **_end(idx))):
                index = _stored_index(await self._store.arecords(key), idx)
            record = None if index is None else await self._store.atake(key, index)
            if record is None or is_shown(record.message):
                return record and to_chat_message(record.message)

    def delete_last_message(self, key: str) -> ChatMessage | None:
        """Remove the last message and return it."""
        return self.delete_message(key, -1)

    async def adelete_last_message(self, key: str) -> ChatMessage | None:
        """Async `delete_last_message`."""
        return await self.adelete_message(key, -1)

    def get_keys(self) -> list[str]:
        """Return the sessions that have messages."""
        return [session.session_id for session in self._store.sessions()]

    async def aget_keys(self) -> list[str]:
        """Async `get_keys`."""
        return [session.session_id for session in await self._store.asessions()]

    # The names that LlamaIndex's store of Upstash has for them.

    async_set_messages = aset_messages
    async_get_messages = aget_messages
    async_delete_messages = adelete_messages
    async_delete_message = adelete_message
    async_delete_last_message = adelete_last_message
    async_get_keys = aget_keys

    # SimpleChatStore's file.

    def json(self, **_: Any) -> str:
        """Return all sessions in the form of LlamaIndex's `SimpleChatStore`, which reads it."""
        found = {key: _plain(self._store.read(key)) for key in self.get_keys()}
        return json.dumps({"store": found, "class_name": "SimpleChatStore"}, default=_json)

    @classmethod
    def parse_raw(cls, b: str | bytes, *, store: str | MessageStore = "memory://", **options: Any) -> Self:
        """Put the sessions of such a JSON text in place of those in a store, each whole.

        Raises:
            FileFormatError: It has another form. Nothing was stored.
        """
        made = cls(store, **options)
        for key, messages in sessions_of_simple_file(b).items():
            made.message_store.replace(key, messages)
        return made

    def persist(self, persist_path: str = "chat_store.json", fs: fsspec.AbstractFileSystem | None = None) -> None:
        """Write all sessions to a file as `SimpleChatStore` does; what was there stays until it is whole."""
        text, files = self.json(), fs or _local_files()
        folder = str(PurePosixPath(persist_path).parent)
        if folder not in ("", "."):
            files.makedirs(folder, exist_ok=True)
        new = f"{persist_path}.{secrets.token_hex(4)}.new"
        try:
            with files.open(new, "w", encoding="utf-8") as file:
                file.write(text)
            files.mv(new, persist_path)
        except BaseException:
            if files.exists(new):
                files.rm(new)
            raise

    @classmethod
    def from_persist_path(
        cls,
        persist_path: str = "chat_store.json",
        fs: fsspec.AbstractFileSystem | None = None,
        store: str | MessageStore = "memory://",
        **options: Any,
    ) -> Self:
        """Return a chat store with the sessions of such a file; an empty one if there is no file."""
        files = fs or _local_files()
        if not files.exists(persist_path):
            return cls(store, **options)
        with files.open(persist_path, "r", encoding="utf-8") as file:
            return cls.parse_raw(file.read(), store=store, **options)

    # What memories write of it.

    @model_serializer(mode="plain")
    def custom_model_dump(self) -> dict[str, Any]:  # type: ignore[override]  # all fields are replaced
        """Name the place."""
        return {**self._place, "class_name": self.class_name()}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **_: Any) -> LlamaIndexChatStore:
        """Return a chat store of the place that `to_dict` named.

        Raises:
            ConfigurationError: This process has no such store, and what was written does not say how to open one.
        """
        store = _live.get(data.get("store", ""))
        if store is None and "url" not in data:
            raise ConfigurationError(
                f"What was written of the chat store names its place ({data.get('place')}), and neither its password "
                'nor its options. Use LlamaIndexChatStore("${REDIS_URL}"), whose URL comes from the environment, or '
                "put the store into the memory yourself: ChatMemoryBuffer.from_defaults(chat_store=...)."
            )
        made = LlamaIndexChatStore(data["url"] if store is None else store)
        if store is not None:
            made._place = {name: data[name] for name in ("url", "place", "store") if name in data}
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the place."""
        return LlamaIndexChatStore.from_dict, (self.custom_model_dump(),)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy has the same store."""
        return self

    def __copy__(self) -> Self:
        """A copy has the same store."""
        return self

    def __repr__(self) -> str:
        """Class and store, without secrets."""
        return f"{type(self).__name__}({self._store!r})"

    __str__ = __repr__

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    async def aclose(self) -> None:
        """Async `close`."""
        await self._store.aclose()


_recognized: dict[str, type[BaseChatStore]] = RECOGNIZED_CHAT_STORES  # type: ignore[assignment]  # inferred from its own
_recognized[LlamaIndexChatStore.class_name()] = LlamaIndexChatStore


def in_llama_index(store: StoreT) -> StoreT:
    """Return a store that writes messages of LlamaIndex, for a place that its classes read too."""
    store.format = dataclasses.replace(store.format, in_llama_index=True)
    return store


def set_to(messages: Sequence[ChatMessage]) -> Callable[[list[Record]], list[Record | BaseMessage]]:
    """Return the change that leaves these messages; equal ones that are stored stay."""
    wanted = [(_text(as_dict(message)), from_chat_message(message)) for message in messages]

    def change(records: list[Record]) -> list[Record | BaseMessage]:
        stored: dict[str, deque[Record]] = defaultdict(deque)
        for record in records:
            if is_shown(record.message):
                stored[_text(as_dict(to_chat_message(record.message)))].append(record)
        return [stored[text].popleft() if stored[text] else message for text, message in wanted]

    return change


def _inserted(message: ChatMessage, index: int) -> Callable[[list[Record]], list[Record | BaseMessage]]:
    new = from_chat_message(message)

    def change(records: list[Record]) -> list[Record | BaseMessage]:
        places = [at for at, record in enumerate(records) if is_shown(record.message)]
        places = [*places, len(records)]
        at = max(index + len(places) - 1, 0) if index < 0 else min(index, len(places) - 1)
        place = places[at]
        return [*records[:place], new, *records[place:]]

    return change


class _All:
    """The change that removes all records, and what they were."""

    def __init__(self) -> None:
        self._records: list[Record] = []

    def __call__(self, records: list[Record]) -> list[Record]:
        self._records = records
        return []

    @property
    def shown(self) -> list[ChatMessage] | None:
        """The messages; `None` for none."""
        return to_chat_messages(record.message for record in self._records) or None


def _end(index: int) -> dict[str, Any]:
    """Which records to read, so that the one at an index is among them."""
    return {"first": index + 1} if index >= 0 else {"last": -index}


def _stored_index(records: list[Record], index: int) -> int | None:
    """Return the index among all records of the one that has an index among those that are shown."""
    shown = [at for at, record in enumerate(records) if is_shown(record.message)]
    return shown[index] if -len(shown) <= index < len(shown) else None


def _text(plain: dict[str, Any]) -> str:
    return json.dumps(plain, sort_keys=True, default=repr)


def _plain(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    return [as_dict(message) for message in to_chat_messages(messages)]


def _json(value: Any) -> str:
    """What JSON cannot hold, as LlamaIndex writes it."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _local_files() -> Any:
    import fsspec

    return fsspec.filesystem("file")
