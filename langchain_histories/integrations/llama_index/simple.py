"""`SimpleChatStore`: sessions in memory, with LlamaIndex's constructor and file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import model_serializer

from langchain_histories.integrations.llama_index.chat_store import LlamaIndexChatStore
from langchain_histories.store import MessageStore
from langchain_histories.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llama_index.core.base.llms.types import ChatMessage


class SimpleChatStore(LlamaIndexChatStore):
    """A chat store in memory. What a memory writes of it has the messages, as with LlamaIndex's, which reads them.

    Args:
        store: Messages by session, to begin with; or a store of this package, or its URL.
        **options: As for `MemoryStore`.
    """

    def __init__(
        self, store: Mapping[str, Sequence[ChatMessage]] | str | MessageStore | None = None, **options: Any
    ) -> None:
        """Put the messages into a store of its own."""
        if isinstance(store, str | MessageStore):
            super().__init__(store, **options)
            return
        super().__init__(MemoryStore(**options))
        for key, messages in (store or {}).items():
            self.set_messages(key, messages)

    @classmethod
    def class_name(cls) -> str:
        """LlamaIndex's name, whose class reads what is written."""
        return "SimpleChatStore"

    @property
    def store(self) -> dict[str, list[ChatMessage]]:
        """The messages by session, as they are now."""
        return {key: self.get_messages(key) for key in self.get_keys()}

    @model_serializer(mode="plain")
    def custom_model_dump(self) -> dict[str, Any]:  # type: ignore[override]  # all fields are replaced
        """All messages."""
        written: dict[str, Any] = json.loads(self.json())
        return written

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle all messages."""
        return SimpleChatStore, (self.store,)
