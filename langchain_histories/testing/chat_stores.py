"""What every store must do as a chat store of LlamaIndex, as a pytest class to subclass, beside `MessageStoreTests`.

    class TestMyChatStore(ChatStoreTests):
        capabilities = ...

        @pytest.fixture
        def open_store(self, my_server): ...

Needs the extra `llama-index`.
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.storage.chat_store import SimpleChatStore

from langchain_histories import Capability, InvalidMessageError, UnsupportedOperationError
from langchain_histories.integrations.llama_index import LlamaIndexChatStore
from langchain_histories.testing.suite.fixtures import StoreFixtures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_histories import MessageStore

_ASYNC_NAMES = {"add_message": "async_add_message"}
_EDITS = Capability.EDIT | Capability.DELETE


class _Caller:
    """A chat store whose async methods are called as the sync ones are."""

    def __init__(self, chat_store: LlamaIndexChatStore, runner: asyncio.Runner) -> None:
        self._chat_store, self._runner = chat_store, runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._chat_store, _ASYNC_NAMES.get(name, "a" + name))
        return lambda *args: self._runner.run(method(*args))


def _contents(messages: Sequence[ChatMessage] | None) -> list[str | None]:
    return [message.content for message in messages or ()]


class ChatStoreTests(StoreFixtures):
    """One set of index rules on every store, messages that come back whole, and nothing lost beside others."""

    @pytest.fixture
    def chat_store(self, store: MessageStore) -> LlamaIndexChatStore:
        """The chat store of this test."""
        return LlamaIndexChatStore(store)

    @pytest.fixture(params=["sync", "async"])
    def call(self, request: pytest.FixtureRequest, chat_store: LlamaIndexChatStore, runner: asyncio.Runner) -> Any:
        """Each face of it in turn."""
        return chat_store if request.param == "sync" else _Caller(chat_store, runner)

    def test_messages(self, call: Any, store: MessageStore) -> None:
        """Messages come back equal, in order; keys are those with messages."""
        messages = [
            ChatMessage("be kind", role="system"),
            ChatMessage(blocks=[TextBlock(text="look"), ImageBlock(image=b"AAAA", image_mimetype="image/png")]),
            ChatMessage(
                role="assistant",
                blocks=[ToolCallBlock(tool_call_id="c", tool_name="f", tool_kwargs='{"x":1}'), TextBlock(text="so")],
            ),
            ChatMessage("42", role="tool", additional_kwargs={"tool_call_id": "c", "name": "f"}),
            ChatMessage("hm", role="chatbot", additional_kwargs={"n": 1.5}),
        ]
        assert call.get_messages("s") == []
        for message in messages:
            call.add_message("s", message)
        assert call.get_messages("s") == messages
        assert [type(message) for message in store.read("s")[2:4]] == [AIMessage, ToolMessage]
        if self.has(Capability.SESSIONS):
            assert call.get_keys() == ["s"]

    def test_indexes(self, call: Any) -> None:
        """As in a list, and `None` where there is no message."""
        self.needs(_EDITS)
        assert call.delete_messages("s") is None
        assert call.delete_last_message("s") is None
        assert call.delete_message("s", 0) is None
        call.set_messages("s", [ChatMessage(text) for text in "abc"])
        call.add_message("s", ChatMessage("first"), 0)
        call.add_message("s", ChatMessage("before"), -1)
        call.add_message("s", ChatMessage("end"), 99)
        call.add_message("s", ChatMessage("begin"), -99)
        assert _contents(call.get_messages("s")) == ["begin", "first", "a", "b", "before", "c", "end"]
        for index in (7, -8):
            assert call.delete_message("s", index) is None
        deleted = [call.delete_message("s", index) for index in (0, -6, 3)] + [call.delete_last_message("s")]
        assert _contents(deleted) == ["begin", "first", "c", "end"]
        assert all(isinstance(message, ChatMessage) for message in deleted)
        assert _contents(call.delete_messages("s")) == ["a", "b", "before"]
        assert call.get_messages("s") == []
        call.set_messages("s", [])
        if self.has(Capability.SESSIONS):
            assert call.get_keys() == []

    def test_set_messages_keeps_what_is_there(self, call: Any, store: MessageStore) -> None:
        """What LangChain wrote keeps its id, its time and its fields, also in another order and when it was edited."""
        self.needs(_EDITS)
        usage: Any = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
        store.append(
            "s", [HumanMessage("hi", id="1"), AIMessage("ho", id="2", usage_metadata=usage), HumanMessage("x")]
        )
        before = store.records("s")
        messages = call.get_messages("s")
        call.set_messages("s", [ChatMessage("a summary", role="system"), messages[1], messages[0]])
        after = store.records("s")
        assert [record.message.content for record in after] == ["a summary", "ho", "hi"]
        assert [(it.id, it.at, it.message) for it in after[1:]] == [(it.id, it.at, it.message) for it in before[1::-1]]
        messages = call.get_messages("s")
        call.delete_messages("s")
        messages[1].content = "edited"
        call.set_messages("s", messages)
        assert store.read("s")[1] == AIMessage("edited", id="2", usage_metadata=usage)

    def test_what_is_not_shown_has_no_index(self, call: Any, store: MessageStore) -> None:
        """A command of LangGraph's is no message."""
        self.needs(_EDITS)
        store.append("s", [RemoveMessage(id="0"), HumanMessage("a"), RemoveMessage(id="1"), HumanMessage("b")])
        call.add_message("s", ChatMessage("c"), 1)
        assert _contents(call.get_messages("s")) == ["a", "c", "b"]
        assert _contents([call.delete_message("s", 1), call.delete_message("s", -2)]) == ["c", "a"]
        assert _contents([call.delete_last_message("s")]) == ["b"]
        assert call.get_messages("s") == []

    def test_nothing_is_lost(self, chat_store: LlamaIndexChatStore) -> None:
        """Adds, inserts, sets and pops of many threads: each message is there or was returned, once."""
        self.needs(_EDITS)

        def work(worker: int) -> list[ChatMessage | None]:
            popped = []
            for number in range(2):
                chat_store.add_message("s", ChatMessage(f"{worker}-{number} added"))
                chat_store.add_message("s", ChatMessage(f"{worker}-{number} inserted"), 0)
                popped.append(chat_store.delete_last_message("s"))
            return popped

        with ThreadPoolExecutor(3) as pool:
            popped = [message for found in pool.map(work, range(3)) for message in found]
        there = _contents(chat_store.get_messages("s"))
        wanted = {
            f"{worker}-{number} {how}" for worker in range(3) for number in range(2) for how in ("added", "inserted")
        }
        found = [*there, *(message.content for message in popped if message)]
        assert sorted(map(str, found)) == sorted(wanted)

    async def test_nothing_is_lost_by_tasks(self, open_store: Callable[..., MessageStore]) -> None:
        """Adds and pops of many tasks."""
        self.needs(Capability.DELETE)
        async with open_store() as store:
            chat_store = LlamaIndexChatStore(store)
            await asyncio.gather(*(chat_store.async_add_message("s", ChatMessage(str(number))) for number in range(12)))
            popped = await asyncio.gather(*(chat_store.adelete_last_message("s") for _ in range(6)))
            there = await chat_store.aget_messages("s")
        found = _contents([*there, *(message for message in popped if message)])
        assert sorted(map(str, found)) == sorted(map(str, range(12)))

    def test_a_memory(self, chat_store: LlamaIndexChatStore, runner: asyncio.Runner) -> None:
        """LlamaIndex's memory on it: sync, on a loop, from its text again."""
        memory = ChatMemoryBuffer.from_defaults(token_limit=3000, chat_store=chat_store, chat_store_key="s")
        memory.put(ChatMessage("hi"))
        runner.run(memory.aput(ChatMessage("ho", role="assistant")))
        assert _contents(runner.run(memory.aget())) == ["hi", "ho"]
        again = ChatMemoryBuffer.from_string(memory.to_string())
        assert again.get_all() == memory.get_all()

    def test_the_file_of_a_simple_store(self, chat_store: LlamaIndexChatStore, tmp_path: Any) -> None:
        """LlamaIndex's own class reads what `persist` writes."""
        self.needs(Capability.SESSIONS)
        chat_store.add_message("s", ChatMessage("héllo \ud83d"))
        path = str(tmp_path / "deep" / "file.json")
        for _ in range(2):
            chat_store.persist(path)
        assert [file.name for file in (tmp_path / "deep").iterdir()] == ["file.json"]
        theirs = SimpleChatStore.from_persist_path(path)
        assert theirs.get_messages("s") == chat_store.get_messages("s")
        assert json.loads(chat_store.json())["store"].keys() == {"s"}
        assert LlamaIndexChatStore.from_persist_path(path).get_messages("s") == chat_store.get_messages("s")

    def test_what_cannot_be_done_writes_nothing(self, call: Any, store: MessageStore) -> None:
        """An error of this package, and the session is as it was."""
        store.append("s", [HumanMessage("hi")])
        with pytest.raises(InvalidMessageError):
            call.add_message("s", "text")
        if not self.has(_EDITS):
            for method, arguments in (
                ("delete_messages", ()),
                ("set_messages", ([],)),
                ("add_message", (ChatMessage("a"), 0)),
            ):
                with pytest.raises(UnsupportedOperationError):
                    getattr(call, method)("s", *arguments)
        assert store.count("s") == 1
