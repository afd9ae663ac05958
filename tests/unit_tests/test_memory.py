"""The store in memory, and the drop-in class over it."""

from __future__ import annotations

import functools

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_histories import Capability, ChatMessageHistory, InMemoryChatMessageHistory, MemoryStore
from langchain_histories.errors import ConfigurationError
from langchain_histories.testing import MessageStoreTests


class TestMemoryStore(MessageStoreTests):
    capabilities = ~(Capability.PERSISTENT | Capability.MANY_PROCESSES)

    @pytest.fixture
    def open_store(self):
        # Each store has its own memory, and a test may open several: they share this one.
        return functools.partial(MemoryStore, client=MemoryStore().client)

    def traces(self, store):
        return sorted(store.client.sessions)

    places = traces


def test_each_store_has_its_own_memory():
    one, other = MemoryStore(), MemoryStore()
    one.append("s", [HumanMessage("x")])
    assert other.read("s") == []


def test_a_memory_url_has_no_place():
    with pytest.raises(ConfigurationError, match="memory://"):
        MemoryStore("memory://somewhere")


def test_histories_are_private_to_their_instance():
    given = [HumanMessage("hi")]
    one, other = InMemoryChatMessageHistory(messages=given), InMemoryChatMessageHistory()
    one.add_ai_message("hello")
    assert one.messages == [HumanMessage("hi"), AIMessage("hello")]
    assert other.messages == []
    assert given == [HumanMessage("hi")]
    assert ChatMessageHistory is InMemoryChatMessageHistory


def test_repr_is_langchains():
    from langchain_core.chat_history import InMemoryChatMessageHistory as Theirs

    messages = [HumanMessage("hi"), AIMessage("hello")]
    assert repr(InMemoryChatMessageHistory(messages=messages)) == repr(Theirs(messages=messages))
    assert str(InMemoryChatMessageHistory(messages=messages)) == str(Theirs(messages=messages))


def test_messages_can_be_assigned():
    history = InMemoryChatMessageHistory(messages=[HumanMessage("old")])
    history.messages = [HumanMessage("new"), AIMessage("newer")]
    assert history.messages == [HumanMessage("new"), AIMessage("newer")]
    assert functools.reduce(lambda a, b: a + b, [str(m.content) for m in history.messages]) == "newnewer"


def test_what_a_pydantic_model_has():
    from langchain_core.chat_history import InMemoryChatMessageHistory as Theirs
    from pydantic import BaseModel, ValidationError

    call = {"name": "f", "args": {"a": 1}, "id": "c", "type": "tool_call"}
    messages = [HumanMessage("hi", id="1"), AIMessage("", tool_calls=[call])]
    history = InMemoryChatMessageHistory(messages=messages)
    assert history == InMemoryChatMessageHistory(messages=messages)
    assert history != InMemoryChatMessageHistory(messages=messages[:1])
    assert history != Theirs(messages=messages)
    assert InMemoryChatMessageHistory.model_validate(history.model_dump()) == history
    assert InMemoryChatMessageHistory.model_validate_json(history.model_dump_json()) == history
    # LangChain's leaves out what is not a field of every message (its issue 34925).
    for ours, theirs in zip(
        history.model_dump()["messages"], Theirs(messages=messages).model_dump()["messages"], strict=True
    ):
        assert theirs.items() <= ours.items()
    copy = history.model_copy()
    copy.add_user_message("more")
    assert len(history.messages) == 2
    assert history.model_copy(update={"messages": messages[:1]}).messages == messages[:1]

    class State(BaseModel):
        history: InMemoryChatMessageHistory

    state = State(history=history)
    assert state.history is history
    assert State.model_validate_json(state.model_dump_json()) == state
    assert State.model_json_schema()["properties"]["history"]
    assert state.model_copy(deep=True) == state
    for bad in (5, {"messages": [{"type": "odd"}]}):
        with pytest.raises(ValidationError):
            State(history=bad)
