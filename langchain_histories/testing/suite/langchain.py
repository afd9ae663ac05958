"""LangChain's interface of a session."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from langchain_histories.history import TurnChatMessageHistory
from langchain_histories.testing.messages import numbered, texts
from langchain_histories.testing.suite.fixtures import StoreFixtures

if TYPE_CHECKING:
    from langchain_histories import MessageStore


class LangChainTests(StoreFixtures):
    """`BaseChatMessageHistory`, and what `RunnableWithMessageHistory` makes of it."""

    def test_history(self, store: MessageStore) -> None:
        """A history is LangChain's interface of one session, in both faces."""
        history = store.history("s")
        history.add_user_message("hi")
        history.add_ai_message("hello")
        history.add_message(SystemMessage("be brief"))
        history.add_messages(numbered(2))

        async def use() -> list[BaseMessage]:
            await history.aadd_messages([HumanMessage("async")])
            return await history.aget_messages()

        assert [*history.messages, HumanMessage("async")] == asyncio.run(use())
        assert texts(history.get_messages(last=2)) == ["1", "async"]
        assert texts(store.history("s", last=1).messages) == ["async"]
        assert str(history).startswith("Human: hi\nAI: hello\nSystem: be brief\n")
        assert "'s'" in repr(history)
        history.clear()
        assert history.messages == []
        store.history(uuid.UUID(int=5)).add_user_message("by uuid")
        store.history(42).add_user_message("by int")
        assert store.count(str(uuid.UUID(int=5))) == store.count("42") == 1
        asyncio.run(store.history(42).aclear())
        assert store.history("42").messages == []

    def test_two_turns_at_once(self, store: MessageStore) -> None:
        """Two turns at once under RunnableWithMessageHistory leave four messages, questions beside answers."""
        history_module = pytest.importorskip(
            "langchain_core.runnables.history", reason="this langchain-core has no RunnableWithMessageHistory"
        )
        from langchain_core.runnables import RunnableLambda

        async def answer(messages: list[BaseMessage]) -> AIMessage:
            await asyncio.sleep(0.02)
            return AIMessage(f"re: {messages[-1].content}")

        chat = history_module.RunnableWithMessageHistory(
            RunnableLambda(lambda messages: AIMessage(f"re: {messages[-1].content}"), afunc=answer),
            lambda session_id: TurnChatMessageHistory(store, session_id),
        )

        def config(session_id: str) -> dict[str, Any]:
            return {"configurable": {"session_id": session_id}}

        async def turns() -> None:
            asked = [chat.ainvoke([HumanMessage(f"q{number}")], config("async")) for number in range(2)]
            await asyncio.gather(*asked)

        asyncio.run(turns())
        chat.batch([[HumanMessage("q0")], [HumanMessage("q1")]], [config("sync")] * 2)
        for session_id in ("async", "sync"):
            stored = texts(store.read(session_id))
            assert sorted(stored) == ["q0", "q1", "re: q0", "re: q1"]
            assert [f"re: {text}" for text in stored[::2]] == stored[1::2]
