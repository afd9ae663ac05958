"""Programs as in the README. Type checkers read them, and a test runs them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any, assert_type

from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda

from langchain_histories import (
    SESSION_CONFIG,
    USER_SESSION_CONFIG,
    Capability,
    ChatMessageHistory,
    Codec,
    ConfigurationError,
    ExtractiveSummarizer,
    FileStore,
    HistoryRegistry,
    MemoryStore,
    MessageStore,
    Record,
    RedisChatMessageHistory,
    RunnableWithHistory,
    SessionInfo,
    SessionList,
    SQLStore,
    StoredChatMessageHistory,
    SummarizingChatMessageHistory,
    Summary,
    SummaryEvent,
    SummaryStats,
    WindowedChatMessageHistory,
    open_history,
    open_store,
    user_session_id,
)
from langchain_histories.registry import TurnHistory

LOST: list[tuple[str, int]] = []


class Reversed:
    """A codec is any class with these two methods."""

    def encode(self, text: str) -> str:
        return text[::-1]

    def decode(self, text: str) -> str:
        return text[::-1]


def redact(message: BaseMessage) -> BaseMessage | None:
    return None if "secret" in str(message.text) else message


def tell(error: Exception, session_id: str, messages: Sequence[BaseMessage]) -> None:
    assert error
    LOST.append((session_id, len(messages)))


def count(store: MessageStore) -> int:
    """A store needs no type argument in a program."""
    return sum(info.count for info in store.sessions())


def one_history() -> None:
    history = open_history("memory://", "43", last=50, codec=Reversed(), before_save=redact)
    assert_type(history, StoredChatMessageHistory)
    history.add_user_message("What is a transcript?")
    history.add_messages([AIMessage("Everything that was said."), HumanMessage("a secret")])
    assert_type(history.messages, list[BaseMessage])
    assert_type(history.get_messages(last=1), list[BaseMessage])
    assert_type(history.session_id, str)
    assert [message.type for message in history.messages] == ["human", "ai"]
    history.clear()


def one_store() -> None:
    with open_store("memory://", ttl=3600) as store:
        assert_type(store, MessageStore)
        for session_id in ("43", 43, uuid.UUID(int=43)):
            assert_type(store.append(session_id, [HumanMessage("hi")]), list[str])
            assert_type(store.read(session_id, last=1), list[BaseMessage])
            assert_type(store.records(session_id), list[Record])
            assert_type(store.count(session_id), int)
            assert_type(store.replace(session_id, store.read(session_id)), list[str])
            assert_type(store.delete(session_id, [record.id for record in store.records(session_id)]), int)
            store.put_state(session_id, {"title": "Words"})
            state = store.update_state(session_id, lambda old: {**(old or {}), "rating": 5})
            assert state == store.get_state(session_id) == {"title": "Words", "rating": 5}
            assert_type(store.history(session_id), StoredChatMessageHistory)
            assert_type(store.records(session_id, raw=True), list[dict[str, Any]])
            assert_type(store.edit(session_id, lambda records: [*records, HumanMessage("more")]), list[str])
            assert_type(store.edit(session_id, lambda records: records[:-1], exact=True), list[str])
            assert_type(store.take(session_id), Record | None)
            store.clear(session_id)
        store.append(user_session_id("ivan", 1), [HumanMessage("hi")])
        listed: list[SessionInfo] = store.sessions(user_id="ivan", limit=10)
        assert_type(store.sessions(order="newest"), SessionList)
        assert len(listed) == 1
        assert count(store) == 1
        assert_type(store.erase(user_id="ivan"), int)
        assert Capability.TTL in store.capabilities


async def one_store_async() -> None:
    async with open_store("memory://") as store:
        assert_type(await store.aappend("43", [HumanMessage("hi")]), list[str])
        assert_type(await store.aread("43"), list[BaseMessage])
        assert_type(await store.arecords("43", first=2, after=None), list[Record])
        assert_type(await store.asessions(after="42"), SessionList)
        assert_type(await store.arecords("43", raw=True), list[dict[str, Any]])
        assert_type(await store.aedit("43", lambda records: records[1:]), list[str])
        history = store.history("43")
        assert_type(await history.aget_messages(), list[BaseMessage])
        await history.aadd_message(AIMessage("hello"))
        await history.aclear()


def a_registry() -> None:
    registry = HistoryRegistry.from_config(
        {"default": "chat", "histories": {"chat": {"url": "memory://"}, "archive": MemoryStore()}},
        save_error_callback=tell,
    )
    assert_type(registry, HistoryRegistry)
    assert_type(registry.store(), MessageStore)
    assert_type(registry.store("archive"), MessageStore)
    assert_type(registry.get_session_history("42"), TurnHistory)
    assert_type(registry.factory()("42"), TurnHistory)
    assert_type(registry.factory("archive", per_user=False)(session_id=42), TurnHistory)
    assert_type(registry.factory(per_user=True)("ivan", 1), TurnHistory)
    assert_type(registry.factory("archive", per_user=True)(user_id="ivan", session_id="1"), TurnHistory)
    history = registry.history(uuid.uuid4(), name="archive")
    assert_type(history, StoredChatMessageHistory | WindowedChatMessageHistory | SummarizingChatMessageHistory)
    history.add_user_message("kept")
    assert_type(history.messages, list[BaseMessage])
    get_session_history: Callable[[str], TurnHistory] = registry.factory("chat")
    get_session_history("42").add_ai_message("hi")
    stores: dict[str, MemoryStore] = {"a": MemoryStore()}
    HistoryRegistry(stores).close()
    try:
        HistoryRegistry({}, default="a")
    except ConfigurationError as error:
        assert_type(error, ConfigurationError)


def a_chain() -> None:
    registry = HistoryRegistry({"chat": MemoryStore()})
    prompt = ChatPromptTemplate([MessagesPlaceholder("history"), ("human", "{question}")])
    chain = prompt | FakeListChatModel(responses=["Hello!"])
    for get_session_history, specs in (
        (registry, None),
        (registry.get_session_history, SESSION_CONFIG),
        (registry.factory("chat"), None),
    ):
        chat = RunnableWithHistory(
            chain,
            get_session_history,
            input_messages_key="question",
            history_messages_key="history",
            history_factory_config=specs,
            on_turn_error="input",
            on_save_error="warn",
        )
        chat.invoke({"question": "My name is Ivan."}, {"configurable": {"session_id": "42"}})
    per_user = RunnableWithHistory(
        RunnableLambda(len), registry.get_user_session_history, history_factory_config=USER_SESSION_CONFIG
    )
    assert len(per_user.config_specs) == 2
    assert registry.store().count("42") == 6


def views() -> None:
    seen: list[SummaryEvent] = []
    window = WindowedChatMessageHistory(open_history("memory://", "45"), keep=("turns", 10))
    assert_type(window.messages, list[BaseMessage])
    WindowedChatMessageHistory(ChatMessageHistory(), keep={"messages": 5})
    WindowedChatMessageHistory(ChatMessageHistory(), keep=[4000, ("turns", 10)])
    SummarizingChatMessageHistory(open_history("memory://", "46"), lambda messages: messages[-1], trigger=4000)
    history = SummarizingChatMessageHistory(
        open_history("memory://", "46"),
        model=ExtractiveSummarizer(),
        trigger=[("tokens", 4000), {"messages": 400, "tokens": 4000}],
        keep={"tokens": 1300},
        on_summary_error="raise",
        on_event=seen.append,
    )
    history.add_user_message("My order number is 7919.")
    assert_type(history.transcript(), list[BaseMessage])
    assert_type(history.summary, Summary | None)
    assert_type(history.stats, SummaryStats)
    assert_type(history.compact(), bool)


def a_codec(codec: Codec) -> str:
    return codec.decode(codec.encode("text"))


def clients_of_ones_own(path: str) -> list[MessageStore]:
    return [FileStore(f"file://{path}"), SQLStore(f"sqlite:///{path}/chat.db", table_name="chats")]


def a_drop_in_class(session_id: str) -> RedisChatMessageHistory:
    return RedisChatMessageHistory(session_id, url="redis://localhost:6379/0", ttl=600)


async def main() -> None:
    one_history()
    one_store()
    await one_store_async()
    a_registry()
    a_chain()
    views()
    assert a_codec(Reversed()) == "text"
    assert [store.name for store in clients_of_ones_own("/tmp")] == ["file", "sql"]
    assert a_drop_in_class("1").key == "message_store:1"
