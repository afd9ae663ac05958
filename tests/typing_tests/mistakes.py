"""Mistakes that both type checkers must find: a comment that ignores no error is an error. Nobody runs this."""

from __future__ import annotations

from typing import Unpack

from langchain_core.messages import HumanMessage

from langchain_histories import (
    HistoryRegistry,
    MemoryStore,
    MessageStore,
    RedisStore,
    RunnableWithHistory,
    SummarizingChatMessageHistory,
    WindowedChatMessageHistory,
    open_history,
    open_store,
)
from langchain_histories.stores.base import Clients, Operations, StoreOptions

registry = HistoryRegistry({"chat": MemoryStore()})
history = open_history("memory://", "1")
store = open_store("memory://")

# A factory for a session is no factory for a user's session.
registry.factory()("ivan", "1")  # type: ignore[call-arg]
registry.factory("chat", per_user=True)("1")  # type: ignore[call-arg]
registry.factory("chat", True)  # type: ignore[call-overload]

# Two strings in the wrong order: a name is given by keyword where a session id comes first.
registry.history("1", "chat")  # type: ignore[call-arg]

# A policy is a word, a callback is a function.
HistoryRegistry({"chat": MemoryStore()}, save_error_callback="warn")  # type: ignore[arg-type]
RunnableWithHistory(RedisStore, registry)  # type: ignore[arg-type]
SummarizingChatMessageHistory(history, "extractive", on_summary_error="warn")  # type: ignore[arg-type]

# A session id is a text, a number or a UUID.
store.append(None, [HumanMessage("hi")])  # type: ignore[arg-type]
store.read(4.2)  # type: ignore[arg-type]
open_history("memory://")  # type: ignore[call-arg]

# Messages are a list of messages.
store.append("1", HumanMessage("hi"))  # type: ignore[arg-type]
history.add_messages(["hi"])  # type: ignore[list-item]

# Options and sizes.
MemoryStore(codek=None)  # type: ignore[call-arg]
MemoryStore(ttl="1 h")  # type: ignore[arg-type]
MemoryStore(on_corrupt="ignore")  # type: ignore[arg-type]
WindowedChatMessageHistory(history, keep=("words", 5))  # type: ignore[arg-type]


class Bare(Operations[dict[str, list[str]]]):
    """Operations without those that every store has."""

    name = "bare"


class BareStore(MessageStore):
    def __init__(self, url: str, **options: Unpack[StoreOptions]) -> None:
        super().__init__(Bare(), Clients(client={}), url, **options)  # type: ignore[abstract]
