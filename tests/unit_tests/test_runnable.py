"""`RunnableWithHistory`, beside LangChain's class where that one is right, and alone where it is not."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import inspect
import logging
import operator
import subprocess
import sys
import textwrap
import threading
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.language_models import BaseChatModel, FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_chunk_to_message,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import (
    ConfigurableField,
    ConfigurableFieldSpec,
    Runnable,
    RunnableLambda,
    RunnablePassthrough,
)
from langchain_core.runnables.history import RunnableWithMessageHistory
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from langchain_histories import (
    ConfigurationError,
    HistoryError,
    HistoryRegistry,
    InvalidMessageError,
    StoredChatMessageHistory,
    StoreError,
    SummarizingChatMessageHistory,
    WindowedChatMessageHistory,
)
from langchain_histories.integrations.runnable import RunnableWithHistory
from langchain_histories.stores.memory import MemoryStore

CONFIG = {"configurable": {"session_id": "s"}}
MODES = ["invoke", "ainvoke", "stream", "astream", "batch", "abatch"]
marks_summaries = pytest.mark.skipif(
    "trigger" not in inspect.signature(SummarizationMiddleware).parameters,
    reason="langchain 1.0 does not mark its summaries",
)


class Parrot(BaseChatModel):
    """Answers `re: <the last message> (<messages seen>)`, in chunks when it streams. `before` is called first."""

    before: Any = None
    fail_after: int | None = None

    @property
    def _llm_type(self):
        return "parrot"

    @staticmethod
    def _say(messages):
        return f"re: {messages[-1].content} ({len(messages)})"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        if self.before:
            self.before(messages)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self._say(messages)))])

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        if self.before:
            await self.before(messages)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self._say(messages)))])

    def _chunks(self, messages):
        for number, word in enumerate(self._say(messages).split(" ")):
            if number == self.fail_after:
                raise OSError("model down")
            yield ChatGenerationChunk(message=AIMessageChunk(word if number == 0 else " " + word))

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        yield from self._chunks(messages)

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        if self.before:
            await self.before(messages)
        for chunk in self._chunks(messages):
            yield chunk


class Histories(dict):
    """A program's own dict of histories, of LangChain's class or another."""

    def __init__(self, cls=InMemoryChatMessageHistory):
        self.cls = cls

    def get(self, session_id):
        return self.setdefault(session_id, self.cls())


class Broken(InMemoryChatMessageHistory):
    """Reads, but saves nothing."""

    error: Any = None

    def add_messages(self, messages):
        raise self.error or OSError("disk full")


def texts(messages):
    return [(message.type, message.content) for message in map(message_chunk_to_message, messages)]


def contents(messages):
    return [message.content for message in messages]


async def call(runnable, mode, value, config=CONFIG, **kwargs):
    """Run one turn in the way named by `mode`; return its whole output."""
    if mode == "invoke":
        return runnable.invoke(value, config, **kwargs)
    if mode == "ainvoke":
        return await runnable.ainvoke(value, config, **kwargs)
    if mode == "batch":
        return runnable.batch([value], config, **kwargs)[0]
    if mode == "abatch":
        return (await runnable.abatch([value], config, **kwargs))[0]
    if mode == "stream":
        chunks = list(runnable.stream(value, config, **kwargs))
    else:
        chunks = [chunk async for chunk in runnable.astream(value, config, **kwargs)]
    try:
        return functools.reduce(operator.add, chunks)
    except TypeError:
        return chunks


@pytest.fixture
def store():
    return MemoryStore()


# Beside LangChain's class.

PROMPT = ChatPromptTemplate.from_messages([("system", "brief"), MessagesPlaceholder("history"), ("human", "{q}")])
PLACES = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), MessagesPlaceholder("q")])
ONE_PLACE = ChatPromptTemplate.from_messages([("system", "brief"), MessagesPlaceholder("q")])
WITH_HISTORY = {"input_messages_key": "q", "history_messages_key": "history"}


def new_messages(messages):
    call = {"name": "t", "args": {}, "id": "c"}
    return [AIMessage("", tool_calls=[call]), ToolMessage("x", tool_call_id="c"), AIMessage(f"done {len(messages)}")]


FORMS = {
    "list": (Parrot(), {}, [HumanMessage("a"), HumanMessage("b")]),
    "tuple": (Parrot(), {}, (HumanMessage("a"),)),
    "empty list": (RunnableLambda(lambda messages: f"{len(messages)}"), {}, []),
    "text": (Parrot(), {}, "a"),
    "message": (Parrot(), {}, HumanMessage("a", name="ann")),
    "dict, text": (PROMPT | Parrot(), WITH_HISTORY, {"q": "a"}),
    "dict, more keys": (PROMPT | Parrot(), WITH_HISTORY, {"q": "a", "other": 1}),
    "dict, history given": (PROMPT | Parrot(), WITH_HISTORY, {"q": "a", "history": [HumanMessage("not stored")]}),
    "dict, list": (PLACES | Parrot(), WITH_HISTORY, {"q": [HumanMessage("a"), HumanMessage("b")]}),
    "dict, message": (
        RunnableLambda(lambda value: f"{value['q'].content} {len(value['history'])}"),
        WITH_HISTORY,
        {"q": HumanMessage("a")},
    ),
    "dict, one key for all": (ONE_PLACE | Parrot(), {"input_messages_key": "q"}, {"q": [HumanMessage("a")]}),
    "dict, one key, text": (ONE_PLACE | Parrot(), {"input_messages_key": "q"}, {"q": "a", "other": 1}),
    "dict, only key": (Parrot(), {}, {"anything": "a"}),
    "dict, input": (Parrot(), {}, {"input": "a", "other": 1}),
    "out text": (Parrot() | StrOutputParser(), {}, "a"),
    "out dict, key": (
        {"answer": Parrot(), "other": RunnableLambda(len)},
        {"output_messages_key": "answer"},
        [HumanMessage("a")],
    ),
    "out dict, only key": ({"answer": Parrot()}, {}, [HumanMessage("a")]),
    "out dict, output": ({"output": Parrot() | StrOutputParser(), "n": RunnableLambda(len)}, {}, [HumanMessage("a")]),
    "out dict, passthrough": (
        RunnablePassthrough.assign(answer=PROMPT | Parrot()),
        {**WITH_HISTORY, "output_messages_key": "answer"},
        {"q": "a"},
    ),
    "out list": (RunnableLambda(new_messages), {}, [HumanMessage("a")]),
    "out tuple": (RunnableLambda(lambda messages: tuple(new_messages(messages))), {}, [HumanMessage("a")]),
}


def shown(output):
    """What is to be compared of an output; LangChain's class stores chunks, and then passes them on."""
    if isinstance(output, dict):
        return {key: shown(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return [shown(each) for each in output]
    return texts([output])[0] if hasattr(output, "content") else output


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
async def test_all_forms_give_and_store_what_langchains_class_does(form, mode):
    runnable, options, value = FORMS[form]
    runnable = RunnableLambda(lambda x: x) | runnable  # a dict becomes a runnable
    results = []
    for cls in (RunnableWithMessageHistory, RunnableWithHistory):
        histories = Histories()
        chain = cls(runnable, histories.get, **options)
        outputs = [shown(await call(chain, mode, copy.deepcopy(value))) for _ in range(2)]
        results.append((outputs, texts(histories.get("s").messages)))
    assert results[1] == results[0]
    assert len(results[1][1]) >= 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "value",
    [
        ChatPromptValue(messages=[SystemMessage("be"), HumanMessage("a")]),
        StringPromptValue(text="a"),
        [("human", "a")],
        [{"role": "user", "content": "a"}],
        ["a"],
    ],
)
async def test_forms_that_langchains_class_refuses(store, mode, value):
    for key in (None, "messages"):
        chain = RunnableWithHistory(
            RunnableLambda(lambda given: (given["messages"] if isinstance(given, dict) else given)[-1].content + "!"),
            store.history,
            input_messages_key=key,
        )
        store.clear("s")
        assert await call(chain, mode, {key: value} if key else value) == "a!"
        assert texts(store.read("s"))[-2:] == [("human", "a"), ("ai", "a!")]


@pytest.mark.parametrize("mode", MODES)
async def test_chunks_are_stored_as_the_message_they_stand_for(mode):
    histories = Histories()
    await call(RunnableWithHistory(Parrot(), histories.get), mode, "a")
    assert [type(message) for message in histories.get("s").messages] == [HumanMessage, AIMessage]


@pytest.mark.parametrize("mode", MODES)
async def test_chunks_that_cannot_be_added_stand_for_the_last(store, mode):
    def states(messages):
        yield {"answer": "first"}
        yield {"answer": "second"}

    async def astates(messages):
        for state in states(messages):
            yield state

    chain = RunnableWithHistory(RunnableLambda(states, afunc=astates), store.history, output_messages_key="answer")
    await call(chain, mode, "a")
    assert contents(store.read("s")) == ["a", "second"]


def test_the_callers_messages_are_left_alone(store):
    given = HumanMessage("a")
    RunnableWithHistory(Parrot(), store.history).invoke([given], CONFIG)
    assert given.id is None
    assert store.read("s")[0].id


# One read and one append.


class Spy:
    """A history that is none of LangChain's: it has the four names that are used, and says when they are."""

    def __init__(self):
        self.kept = []
        self.calls = []

    def _called(self, name):
        self.calls.append((name, threading.get_ident()))

    @property
    def messages(self):
        self._called("read")
        return list(self.kept)

    async def aget_messages(self):
        self._called("aread")
        return list(self.kept)

    def add_messages(self, messages):
        self._called("add")
        self.kept += messages

    async def aadd_messages(self, messages):
        self._called("aadd")
        self.kept += messages


@pytest.mark.parametrize("options", [{}, WITH_HISTORY])
@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream", "astream"])
async def test_a_turn_is_one_read_and_one_append_in_the_callers_thread(mode, options):
    spy = Spy()
    asked = []

    def factory(session_id):
        asked.append(threading.get_ident())
        return spy

    chain = RunnableWithHistory(PROMPT | Parrot() if options else Parrot(), factory, **options)
    await call(chain, mode, {"q": "a"} if options else "a")
    here = threading.get_ident()
    names = ["read", "add"] if mode in ("invoke", "stream") else ["aread", "aadd"]
    assert spy.calls == [(name, here) for name in names]
    assert asked == [here]


async def test_turns_at_once_on_one_session_lose_nothing(store):
    both = asyncio.Barrier(2)

    async def wait(messages):
        await both.wait()

    chain = RunnableWithHistory(Parrot(before=wait), store.history)
    await asyncio.gather(chain.ainvoke("a", CONFIG), chain.ainvoke("b", CONFIG))
    stored = contents(await store.aread("s"))
    assert sorted([stored[:2], stored[2:]]) == [["a", "re: a (1)"], ["b", "re: b (1)"]]


def test_a_batch_on_one_session_loses_nothing(store):
    both = threading.Barrier(2)
    chain = RunnableWithHistory(Parrot(before=lambda _: both.wait(timeout=60)), store.history)
    chain.batch(["a", "b"], CONFIG)
    stored = contents(store.read("s"))
    assert sorted([stored[:2], stored[2:]]) == [["a", "re: a (1)"], ["b", "re: b (1)"]]


@pytest.mark.parametrize("mode", MODES)
async def test_a_view_that_changes_length_in_the_turn_corrupts_nothing(store, mode):
    chain = RunnableWithHistory(Parrot(), lambda session_id: store.history(session_id, last=1))
    for text in "abc":
        await call(chain, mode, text)
    assert contents(store.read("s")) == ["a", "re: a (1)", "b", "re: b (2)", "c", "re: c (2)"]


@pytest.mark.parametrize("mode", MODES)
async def test_handles_of_a_registry(store, mode):
    chain = RunnableWithHistory(Parrot(), HistoryRegistry({"x": store}).get_session_history)
    for text in "ab":
        await call(chain, mode, text)
    assert contents(store.read("s")) == ["a", "re: a (1)", "b", "re: b (3)"]


# Turns that fail.


async def stop(messages):
    raise asyncio.CancelledError


async def fail_async(messages):
    raise OSError("model down")


def fail(messages):
    raise OSError("model down")


FAILING = RunnableLambda(fail, afunc=fail_async)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("on_turn_error", "stored"), [("discard", []), ("input", ["a"])])
async def test_what_a_failed_turn_stores(store, mode, on_turn_error, stored):
    chain = RunnableWithHistory(FAILING, store.history, on_turn_error=on_turn_error)
    with pytest.raises(OSError, match="model down"):
        await call(chain, mode, "a")
    assert contents(store.read("s")) == stored


@pytest.mark.parametrize("mode", ["ainvoke", "astream", "abatch"])
@pytest.mark.parametrize(("on_turn_error", "stored"), [("discard", []), ("input", ["a"])])
async def test_what_a_cancelled_turn_stores(store, mode, on_turn_error, stored):
    under_way = asyncio.Event()

    async def hang(messages):
        under_way.set()
        await asyncio.Event().wait()

    chain = RunnableWithHistory(Parrot(before=hang), store.history, on_turn_error=on_turn_error)
    turn = asyncio.ensure_future(call(chain, mode, "a"))
    await under_way.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert contents(store.read("s")) == stored


@pytest.mark.parametrize("mode", MODES)
async def test_an_output_without_messages_is_an_error_of_the_turn(store, mode):
    chain = RunnableWithHistory(RunnableLambda(lambda _: 42), store.history, on_turn_error="input")
    with pytest.raises(InvalidMessageError, match="not int"):
        await call(chain, mode, "a")
    assert contents(store.read("s")) == ["a"]
    chain = RunnableWithHistory(RunnableLambda(lambda _: {"x": "secret", "y": ""}), store.history)
    with pytest.raises(ConfigurationError, match="set output_messages_key") as caught:
        await call(chain, mode, "a")
    assert "secret" not in str(caught.value)
    chain = RunnableWithHistory(RunnableLambda(lambda _: [{"text": "secret"}]), store.history)
    with pytest.raises(InvalidMessageError) as caught:
        await call(chain, mode, "a")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
async def test_a_failed_save_is_raised(mode):
    with pytest.raises(OSError, match="disk full"):
        await call(RunnableWithHistory(Parrot(), Histories(Broken).get), mode, "a")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("error", "reason"), [(OSError("quotes 'a'"), "OSError"), (StoreError("redis refused"), "redis refused")]
)
async def test_a_failed_save_is_logged_if_asked(mode, error, reason, caplog):
    chain = RunnableWithHistory(Parrot(), lambda session_id: Broken(error=error), on_save_error="warn")
    assert shown(await call(chain, mode, "a"))[1] == "re: a (1)"
    (record,) = [each for each in caplog.records if each.name.startswith("langchain_histories")]
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "2 messages of session 's' were not saved: " + reason


BLOCKS = [{"type": "text", "text": "hi"}, {"type": "tool_use", "id": "1", "name": "f", "input": {}}]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrap", [lambda blocks: blocks, lambda blocks: {"output": blocks}], ids=["blocks", "dict"])
async def test_an_answer_of_content_blocks_is_one_message(mode, wrap, store):
    chain = RunnableWithHistory(RunnableLambda(lambda _: wrap(BLOCKS)), store.history)
    await call(chain, mode, "q")
    assert texts(store.read("s")) == [("human", "q"), ("ai", BLOCKS)]


@pytest.mark.parametrize("mode", MODES)
async def test_a_question_of_content_blocks_and_an_answer_that_is_one_message_dict(mode, store):
    chain = RunnableWithHistory(RunnableLambda(lambda _: {"role": "assistant", "content": "hi"}), store.history)
    await call(chain, mode, BLOCKS[:1])
    assert texts(store.read("s")) == [("human", BLOCKS[:1]), ("ai", "hi")]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("output", [5, None, {"a": 1, "b": 2}, object(), [1, 2]], ids=lambda it: type(it).__name__)
async def test_an_answer_that_holds_no_messages(mode, output, store, caplog):
    answer = RunnableLambda(lambda _: output)
    with pytest.raises(HistoryError):
        await call(RunnableWithHistory(answer, store.history), mode, "q")
    warned = await call(RunnableWithHistory(answer, store.history, on_save_error="warn"), mode, "q")
    assert warned in (output, [output])
    assert "were not saved" in caplog.text
    assert store.read("s") == []
    told = RunnableWithHistory(answer, store.history, output_messages=lambda found: f"told {type(found).__name__}")
    await call(told, mode, "q")
    assert texts(store.read("s")) == [("human", "q"), ("ai", f"told {type(output).__name__}")]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("on_save_error", ["raise", "warn"])
async def test_the_error_of_the_turn_is_raised_not_that_of_its_save(mode, on_save_error, caplog):
    chain = RunnableWithHistory(FAILING, Histories(Broken).get, on_turn_error="input", on_save_error=on_save_error)
    with pytest.raises(OSError, match="model down") as caught:
        await call(chain, mode, "a")
    assert caught.value.__notes__ == ["1 messages of session 's' were not saved: OSError"]
    assert "were not saved" in caplog.text


class Slow(InMemoryChatMessageHistory):
    """Saves when it is let, and fails if it is told."""

    saving: Any
    go_on: Any
    error: Any = None

    async def aadd_messages(self, messages):
        self.saving.set()
        await self.go_on.wait()
        if self.error:
            raise self.error
        self.add_messages(messages)


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
@pytest.mark.parametrize("error", [None, OSError("disk full")])
async def test_a_save_goes_to_its_end_however_often_it_is_cancelled(mode, error, caplog):
    history = Slow(saving=asyncio.Event(), go_on=asyncio.Event(), error=error)
    turn = asyncio.ensure_future(call(RunnableWithHistory(Parrot(), lambda session_id: history), mode, "a"))
    await history.saving.wait()
    for _ in range(3):
        turn.cancel()
        await asyncio.wait([turn], timeout=0)
        await asyncio.sleep(0)
    assert not turn.done()
    history.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert contents(history.messages) == ([] if error else ["a", "re: a (1)"])
    assert ("were not saved" in caplog.text) == bool(error)


async def test_the_input_of_a_cancelled_turn_is_saved_to_the_end(caplog):
    history = Slow(saving=asyncio.Event(), go_on=asyncio.Event())
    chain = RunnableWithHistory(Parrot(before=stop), lambda session_id: history, on_turn_error="input")
    turn = asyncio.ensure_future(chain.ainvoke("a", CONFIG))
    await history.saving.wait()
    turn.cancel()
    await asyncio.sleep(0)
    history.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert contents(history.messages) == ["a"]


# Streams that are left.

PARTIAL = {
    (False, "discard"): [],
    (False, "input"): ["a"],
    (True, "discard"): ["a", "re: a"],
    (True, "input"): ["a", "re: a"],
}


def check_partial(store, options):
    stored = store.read("s")
    assert contents(stored) == PARTIAL[options]
    assert [message.response_metadata.get("partial") for message in stored] == [None, True][: len(stored)]


@pytest.mark.parametrize("options", PARTIAL)
@pytest.mark.parametrize("parsed", [False, True])
async def test_what_an_abandoned_stream_stores(options, parsed):
    partial, on_turn_error = options
    for end in ("close", "del", "aclose", "adel", "cancel"):
        store = MemoryStore()
        chain = RunnableWithHistory(
            Parrot() | StrOutputParser() if parsed else Parrot(),
            store.history,
            save_partial_stream=partial,
            on_turn_error=on_turn_error,
        )
        if end in ("close", "del"):
            stream = chain.stream("a", CONFIG)
            [next(stream) for _ in range(2)]
            if end == "close":
                stream.close()
        elif end != "cancel":
            stream = chain.astream("a", CONFIG)
            [await anext(stream) for _ in range(2)]
            if end == "aclose":
                await stream.aclose()
        else:
            two = asyncio.Event()

            async def consume(chain=chain, two=two):
                async with contextlib.aclosing(chain.astream("a", CONFIG)) as stream:
                    [await anext(stream) for _ in range(2)]
                    two.set()
                    await asyncio.Event().wait()

            task = asyncio.ensure_future(consume())
            await two.wait()
            task.cancel()
            await asyncio.wait([task])
        stream = None
        await asyncio.sleep(0)  # the loop closes what nobody holds in a task of its own
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
        check_partial(store, options)


@pytest.mark.parametrize("options", PARTIAL)
@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_what_a_failed_stream_stores(store, mode, options):
    partial, on_turn_error = options
    chain = RunnableWithHistory(
        Parrot(fail_after=2), store.history, save_partial_stream=partial, on_turn_error=on_turn_error
    )
    with pytest.raises(OSError, match="model down"):
        await call(chain, mode, "a")
    check_partial(store, options)


async def test_a_stream_cancelled_while_it_waits_for_the_model(store):
    waiting = asyncio.Event()

    async def slow(messages):
        yield "so"
        waiting.set()
        await asyncio.Event().wait()

    async def chunks(values):
        async for value in values:
            async for chunk in slow(value):
                yield chunk

    chain = RunnableWithHistory(RunnableLambda(len) | RunnableLambda(slow), store.history, save_partial_stream=True)
    task = asyncio.ensure_future(call(chain, "astream", "a"))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert contents(store.read("s")) == ["a", "so"]


async def test_a_stream_that_is_closed_closes_the_models(store):
    closed = []

    class Endless(Runnable):
        def invoke(self, value, config=None, **kwargs):
            raise NotImplementedError

        def stream(self, value, config=None, **kwargs):
            try:
                while True:
                    yield "word"
            finally:
                closed.append("sync")

        async def astream(self, value, config=None, **kwargs):
            try:
                while True:
                    yield "word"
            finally:
                closed.append("async")

    chain = RunnableWithHistory(Endless(), store.history)
    stream = chain.stream("a", CONFIG)
    next(stream)
    stream.close()
    stream = chain.astream("a", CONFIG)
    await anext(stream)
    await stream.aclose()
    assert closed == ["sync", "async"]


def test_a_stream_that_is_left_before_its_first_word_stores_the_input(store):
    chain = RunnableWithHistory(Parrot(fail_after=0), store.history, save_partial_stream=True)
    with pytest.raises(OSError, match="model down"):
        list(chain.stream("a", CONFIG))
    assert contents(store.read("s")) == ["a"]


def test_an_answer_without_a_word_is_not_stored(store):
    def chunks(messages):
        yield AIMessageChunk("")
        raise OSError("model down")

    chain = RunnableWithHistory(RunnableLambda(chunks), store.history, save_partial_stream=True)
    with pytest.raises(OSError, match="model down"):
        list(chain.stream("a", CONFIG))
    assert contents(store.read("s")) == ["a"]


@pytest.mark.parametrize("args", ['{"x', "x{"])  # LangChain completes the first, and finds the second invalid
def test_a_partial_call_of_a_tool_is_not_stored(store, args):
    def chunks(messages):
        yield AIMessageChunk("I look", tool_call_chunks=[{"name": "t", "args": args, "id": "1", "index": 0}])
        yield AIMessageChunk("")

    chain = RunnableWithHistory(RunnableLambda(chunks), store.history, save_partial_stream=True)
    stream = chain.stream("a", CONFIG)
    next(stream)
    stream.close()
    assert contents(store.read("s")) == ["a"]


def test_a_dict_that_is_left_before_its_messages_stores_the_input(store):
    def parts(messages):
        yield {"sources": 1, "other": 2}
        yield {"answer": "x"}

    chain = RunnableWithHistory(
        RunnableLambda(parts), store.history, save_partial_stream=True, output_messages_key="answer"
    )
    stream = chain.stream("a", CONFIG)
    next(stream)
    stream.close()
    assert contents(store.read("s")) == ["a"]


# Outputs that repeat what they were given.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("again", [lambda messages: messages, copy.deepcopy, lambda messages: messages[:1] + messages])
async def test_an_output_that_repeats_its_input(store, mode, again):
    """Also where the messages stored have no ids, and where those that come back are copies."""
    store.append("s", [HumanMessage("old"), AIMessage("old answer")])
    chain = RunnableWithHistory(
        RunnableLambda(lambda messages: [*again(messages), AIMessage(f"n{len(messages)}")]), store.history
    )
    for text in "ab":
        await call(chain, mode, text)
    assert contents(store.read("s")) == ["old", "old answer", "a", "n3", "b", "n5"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_prompt_value_that_repeats_its_input(store, mode):
    chain = RunnableWithHistory(ONE_PLACE, store.history, input_messages_key="q")
    for text in "ab":
        await call(chain, mode, {"q": text})
    assert contents(store.read("s")) == ["a", "brief", "b", "brief"]


@pytest.mark.parametrize("mode", MODES)
async def test_two_equal_questions_are_two(store, mode):
    chain = RunnableWithHistory(RunnableLambda(lambda messages: [*messages, AIMessage("yes")]), store.history)
    for _ in range(2):
        await call(chain, mode, "a")
    assert contents(store.read("s")) == ["a", "yes", "a", "yes"]


@pytest.mark.parametrize("mode", MODES)
async def test_answers_with_the_same_id_are_all_stored(store, mode):
    chain = RunnableWithHistory(RunnableLambda(lambda messages: AIMessage("yes", id="1")), store.history)
    for text in "ab":
        await call(chain, mode, text)
    assert contents(store.read("s")) == ["a", "yes", "b", "yes"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_that_sends_the_whole_conversation(store, mode):
    chain = RunnableWithHistory(Parrot(), store.history)
    await call(chain, mode, [HumanMessage("a", id="1")])
    again = await call(chain, mode, [*store.read("s"), HumanMessage("b", id="2")])
    assert again.content == "re: b (3)"
    assert contents(store.read("s")) == ["a", "re: a (1)", "b", "re: b (3)"]


# Graphs.


def answer(state):
    return {"messages": [AIMessage(f"re: {state['messages'][-1].content} ({len(state['messages'])})")]}


def make_graph(state=MessagesState, inner=False):
    builder = StateGraph(state)
    builder.add_node("think", make_graph() if inner else lambda state: {})
    builder.add_node("answer", answer)
    builder.add_edge(START, "think")
    builder.add_edge("think", "answer")
    return builder.compile()


class PlainState(TypedDict):
    messages: Annotated[list, operator.add]
    other: int


def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: found"


def agent(**options):
    def reply(number):
        call = {"name": "look_up", "args": {"word": f"w{number}"}, "id": f"c{number}"}
        return [AIMessage("", tool_calls=[call]), AIMessage(f"it is w{number}")]

    class Model(GenericFakeChatModel):
        def bind_tools(self, tools, **kwargs):
            return self

    model = Model(messages=iter([message for number in range(9) for message in reply(number)]))
    return create_agent(model, [look_up], **options)


GRAPH_KEYS = {"input_messages_key": "messages", "output_messages_key": "messages"}


@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "batch", "abatch"])
@pytest.mark.parametrize("state", [MessagesState, PlainState])
async def test_a_graph_that_returns_all_its_state(store, state, mode):
    chain = RunnableWithHistory(make_graph(state), store.history, **GRAPH_KEYS)
    for number, text in enumerate("abc"):
        output = await call(chain, mode, {"messages": [HumanMessage(text)]})
        assert len(output["messages"]) == 2 * number + 2
    assert contents(store.read("s")) == ["a", "re: a (1)", "b", "re: b (3)", "c", "re: c (5)"]


@pytest.mark.parametrize("mode", MODES)
async def test_an_agent(store, mode):
    chain = RunnableWithHistory(agent(), store.history, **GRAPH_KEYS)
    for text in "ab":
        await call(chain, mode, {"messages": [("user", text)]})
    turn = lambda text, n: [("human", text), ("ai", ""), ("tool", f"w{n}: found"), ("ai", f"it is w{n}")]  # noqa: E731
    assert texts(store.read("s")) == turn("a", 0) + turn("b", 1)


def plain(chunk):
    """A chunk of a graph's stream without ids of the run."""
    if isinstance(chunk, dict):
        return {key: plain(value) for key, value in chunk.items() if key not in VOLATILE}
    if isinstance(chunk, list | tuple):
        return type(chunk)(plain(each) for each in chunk)
    if hasattr(chunk, "content"):
        return chunk.type, chunk.content
    return chunk.split(":")[0] if isinstance(chunk, str) else chunk


VOLATILE = ("id", "ts", "config", "parent_config", "metadata", "thread_id", "langgraph_checkpoint_ns", "checkpoint_ns")
VOLATILE += ("session_id", "interrupts", "langgraph_path", "ls_integration")

STREAMS = [
    {},
    *({"stream_mode": mode} for mode in ("values", "updates", "messages", "custom", "tasks", "debug")),
    {"stream_mode": ["updates"]},
    {"stream_mode": ["values", "updates"]},
    {"stream_mode": ("messages", "updates")},
    {"subgraphs": True},
    {"subgraphs": True, "stream_mode": "values"},
    {"subgraphs": True, "stream_mode": ["updates", "values"]},
    {"stream_mode": ["updates"], "version": "v2"},
    {"stream_mode": "values", "version": "v2"},
    {"stream_mode": "updates", "version": "v2", "subgraphs": True},
    {"output_keys": "messages", "stream_mode": "updates"},
]


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("mode", ["stream", "astream"])
@pytest.mark.parametrize("options", STREAMS, ids=str)
async def test_a_graph_streams_what_it_would_alone(store, options, mode, bound):
    graph = make_graph(inner=True)
    value = {"messages": [HumanMessage("a", id="1")]}

    async def chunks(runnable, **options):
        if mode == "stream":
            return list(runnable.stream(value, CONFIG, **options))
        return [chunk async for chunk in runnable.astream(value, CONFIG, **options)]

    expected = await chunks(graph, **options)
    if not expected and isinstance(options["stream_mode"], tuple):
        pytest.skip("this langgraph streams nothing in the modes of a tuple")
    if bound:
        given = await chunks(RunnableWithHistory(graph.bind(**options), store.history, **GRAPH_KEYS))
    else:
        given = await chunks(RunnableWithHistory(graph, store.history, **GRAPH_KEYS), **options)
    assert plain(given) == plain(expected)
    assert contents(store.read("s")) == ["a", "re: a (1)", "re: re: a (1) (2)"]


@pytest.mark.parametrize("mode", ["stream", "astream"])
@pytest.mark.parametrize(("partial", "stored"), [(False, []), (True, ["a", "", "w0: found"])])
async def test_a_graph_that_is_left_stores_its_complete_steps(store, mode, partial, stored):
    chain = RunnableWithHistory(agent(), store.history, save_partial_stream=partial, **GRAPH_KEYS)
    value = {"messages": [HumanMessage("a")]}
    if mode == "stream":
        stream = chain.stream(value, CONFIG, stream_mode="values")
        for state in stream:
            if state["messages"][-1].type == "tool":
                break
        stream.close()
    else:
        async with contextlib.aclosing(chain.astream(value, CONFIG, stream_mode="values")) as stream:
            async for state in stream:
                if state["messages"][-1].type == "tool":
                    break
    assert contents(store.read("s")) == stored
    assert not any("partial" in message.response_metadata for message in store.read("s"))


def test_a_graph_left_at_a_call_of_a_tool_does_not_store_the_call(store):
    chain = RunnableWithHistory(agent(), store.history, save_partial_stream=True, **GRAPH_KEYS)
    stream = chain.stream({"messages": [HumanMessage("a")]}, CONFIG, stream_mode="values")
    next(state for state in stream if state["messages"][-1].type == "ai")
    stream.close()
    assert contents(store.read("s")) == ["a"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_graph_that_asks_somebody(store, mode):
    builder = StateGraph(MessagesState)
    builder.add_node("ask", lambda state: {"messages": [AIMessage(interrupt("sure?"))]})
    builder.add_edge(START, "ask")
    graph = builder.compile(checkpointer=InMemorySaver())
    chain = RunnableWithHistory(graph, store.history, **GRAPH_KEYS)
    config = {"configurable": {"session_id": "s", "thread_id": "t"}}
    streams = [{"stream_mode": ["values"]}, {"stream_mode": "values", "version": "v2"}] if "stream" in mode else [{}]
    for number, options in enumerate(streams, 1):
        config["configurable"]["thread_id"] = str(number)
        assert "sure?" in str(await call(chain, mode, {"messages": [HumanMessage("a")]}, config, **options))
        assert contents(store.read("s")) == ["a"] * number


class OldGraph(Runnable):
    """A graph is what streams by `stream_mode`. Those of older LangGraph emit an interrupt without the state."""

    def invoke(self, value, config=None, **kwargs):
        raise NotImplementedError

    def stream(self, value, config=None, *, stream_mode=None, **kwargs):
        assert stream_mode == ["updates", "values"]
        yield "values", {"messages": [*value["messages"], AIMessage("half")]}
        yield "updates", {"node": None}
        yield "values", {"__interrupt__": ()}


def test_an_interrupt_without_a_state(store):
    chain = RunnableWithHistory(OldGraph(), store.history, **GRAPH_KEYS)
    assert list(chain.stream({"messages": ["a"]}, CONFIG)) == [{"node": None}]
    assert contents(store.read("s")) == ["a", "half"]


def test_the_messages_of_a_graph_in_a_node_are_its_own(store):
    builder = StateGraph(MessagesState)
    builder.add_node("ask", lambda state: {"messages": make_graph().invoke({"messages": ["private"]})["messages"][-1:]})
    builder.add_edge(START, "ask")
    chain = RunnableWithHistory(builder.compile(), store.history, save_partial_stream=True, **GRAPH_KEYS)
    stream = chain.stream({"messages": ["a"]}, CONFIG, stream_mode="values", subgraphs=True)
    inner = next(state for namespace, state in stream if namespace)
    stream.close()
    assert contents(inner["messages"]) == ["private"]
    assert contents(store.read("s")) == ["a"]


@marks_summaries
@pytest.mark.parametrize("mode", MODES)
async def test_langchains_summary_is_not_stored_as_if_the_user_had_said_it(store, mode):
    summarize = SummarizationMiddleware(
        GenericFakeChatModel(messages=iter([AIMessage("SUMMARY")] * 9)), trigger=("messages", 4), keep=("messages", 1)
    )
    chain = RunnableWithHistory(agent(middleware=[summarize]), store.history, **GRAPH_KEYS)
    for text in "ab":
        output = await call(chain, mode, {"messages": [HumanMessage(text)]})
    assert "SUMMARY" in str(output)
    stored = contents(store.read("s"))
    assert not any("SUMMARY" in content for content in stored)
    assert [content for content in stored if content in ("a", "b")] == ["a", "b"]


# Factories.

USER = ConfigurableFieldSpec(id="user", annotation=str, is_shared=True)
PAIR = [USER, ConfigurableFieldSpec(id="chat", annotation=str, is_shared=True)]


@pytest.mark.parametrize("mode", MODES)
async def test_an_async_factory_works_with_the_async_methods(store, mode):
    async def factory(session_id):
        await asyncio.sleep(0)
        return store.history(session_id)

    chain = RunnableWithHistory(Parrot(), factory)
    if mode in ("invoke", "stream", "batch"):
        with pytest.raises(ConfigurationError, match="use ainvoke"):
            await call(chain, mode, "a")
    else:
        await call(chain, mode, "a")
        assert contents(store.read("s")) == ["a", "re: a (1)"]


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
@pytest.mark.parametrize(
    ("factory", "specs", "configurable"),
    [
        (lambda store: functools.partial(StoredChatMessageHistory, store), None, {"session_id": "s"}),
        (lambda store: lambda *, session_id: store.history(session_id), None, {"session_id": "s"}),
        (lambda store: lambda **names: store.history(names["session_id"]), None, {"session_id": "s"}),
        (lambda store: lambda *names: store.history("".join(names)), None, {"session_id": "s"}),
        (lambda store: lambda: store.history("s"), None, {}),
        (lambda store: lambda any_name: store.history(any_name[::-1]), [USER], {"user": "s"}),
        (lambda store: lambda chat, user: store.history(user + chat), PAIR, {"user": "", "chat": "s"}),
        (lambda store: lambda chat, user, more=1: store.history(user + chat), PAIR, {"user": "", "chat": "s"}),
    ],
)
async def test_factories(store, mode, factory, specs, configurable):
    chain = RunnableWithHistory(Parrot(), factory(store), history_factory_config=specs)
    await call(chain, mode, "a", {"configurable": configurable})
    assert contents(store.read("s")) == ["a", "re: a (1)"]


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_missing_is_named(store, mode):
    with pytest.raises(ConfigurationError, match="lacks session_id"):
        await call(RunnableWithHistory(Parrot(), store.history), mode, "a", {})
    with pytest.raises(ConfigurationError, match="session_id must be"):
        await call(RunnableWithHistory(Parrot(), store.history), mode, "a", {"configurable": {"session_id": ""}})
    with pytest.raises(ConfigurationError, match="must take user, chat by name"):
        RunnableWithHistory(Parrot(), lambda user: None, history_factory_config=PAIR)
    with pytest.raises(ConfigurationError, match="no 'q' in a dict with x"):
        await call(RunnableWithHistory(PROMPT, store.history, **WITH_HISTORY), mode, {"x": "a"})
    with pytest.raises(ConfigurationError, match="must be a dict, not str"):
        await call(RunnableWithHistory(PROMPT, store.history, **WITH_HISTORY), mode, "a")
    with pytest.raises(InvalidMessageError, match="not int"):
        await call(RunnableWithHistory(Parrot(), store.history), mode, 42)
    assert store.read("s") == []


@pytest.mark.parametrize("option", ["on_turn_error", "on_save_error"])
def test_an_option_of_another_value_is_refused(store, option):
    with pytest.raises(ConfigurationError, match=f"{option} must be"):
        RunnableWithHistory(Parrot(), store.history, **{option: "no"})


@pytest.mark.parametrize("mode", MODES)
async def test_the_history_is_in_the_config(store, mode):
    chain = RunnableWithHistory(
        RunnableLambda(lambda _, config: config["configurable"]["message_history"].session_id), store.history
    )
    assert await call(chain, mode, "a") == "s"


# A runnable among runnables.


@pytest.mark.parametrize("mode", MODES)
async def test_it_composes(store, mode):
    chain = RunnableWithHistory(Parrot(), store.history)
    chain = RunnableLambda(lambda text: text * 2) | chain.with_config(CONFIG).with_types(input_type=str)
    output = await call(chain | StrOutputParser() | RunnableLambda(str.upper), mode, "a", {})
    assert output == "RE: AA (1)"
    assert contents(store.read("s")) == ["aa", "re: aa (1)"]


@pytest.mark.parametrize("mode", MODES)
async def test_arguments_reach_the_runnable(store, mode):
    def answer(messages, *, suffix):
        return messages[-1].content + suffix

    chain = RunnableWithHistory(RunnableLambda(answer), store.history)
    assert await call(chain, mode, "a", suffix="!") == "a!"
    assert await call(chain.bind(suffix="?"), mode, "b") == "b?"


def test_fields_of_the_wrapped_runnable_stay_configurable(store):
    model = Parrot().configurable_fields(fail_after=ConfigurableField(id="words"))
    chain = RunnableWithHistory(model, store.history)
    assert {spec.id for spec in chain.config_specs} == {"words", "session_id"}
    with pytest.raises(OSError, match="model down"):
        list(chain.stream("a", {"configurable": {"session_id": "s", "words": 1}}))


@pytest.mark.filterwarnings("ignore")
def test_schemas(store):
    both = [
        cls(PROMPT | Parrot(), store.history, **WITH_HISTORY).get_input_schema().model_json_schema()
        for cls in (RunnableWithMessageHistory, RunnableWithHistory)
    ]
    assert both[1] | {"title": ""} == both[0] | {"title": ""}
    for options in ({}, {"input_messages_key": "messages"}):
        schema = RunnableWithHistory(Parrot(), store.history, **options).input_schema
        for value in ("a", HumanMessage("a"), [HumanMessage("a")]):
            schema.model_validate({"messages": value} if options else value)
        with pytest.raises(ValueError, match="validation error"):
            schema.model_validate({"messages": 42} if options else 42)
    chain = RunnableWithHistory(make_graph(), store.history, **GRAPH_KEYS)
    assert chain.output_schema.model_json_schema() == make_graph().output_schema.model_json_schema()
    assert RunnableWithHistory(StrOutputParser(), store.history).get_output_jsonschema()["type"] == "string"


async def test_it_is_one_run_with_its_name(store):
    chain = RunnableWithHistory(PROMPT | Parrot(), store.history, **WITH_HISTORY)
    events = [event async for event in chain.astream_events({"q": "a"}, CONFIG, version="v2")]
    root = events[0]["run_id"]
    assert events[0]["event"] == "on_chain_start"
    assert {each["name"] for each in events if not each["parent_ids"]} == {"RunnableWithHistory"}
    assert all(root in each["parent_ids"] for each in events if each["run_id"] != root)
    words = [each["data"]["chunk"].content for each in events if each["event"] == "on_chat_model_stream"]
    assert "".join(words) == "re: a (2)"
    assert events[-1]["event"] == "on_chain_end"
    assert events[-1]["data"]["output"].content == "re: a (2)"
    assert contents(store.read("s")) == ["a", "re: a (2)"]


async def test_events_of_a_graph(store):
    chain = RunnableWithHistory(make_graph(), store.history, **GRAPH_KEYS)
    events = [event async for event in chain.astream_events({"messages": [("user", "a")]}, CONFIG, version="v2")]
    assert {"RunnableWithHistory", "LangGraph", "think", "answer"} <= {event["name"] for event in events}
    assert contents(store.read("s")) == ["a", "re: a (1)"]


def test_it_works_without_langchains_deprecated_modules():
    code = """
        import asyncio, sys, warnings
        warnings.simplefilter("error")
        sys.modules["langchain_core.chat_history"] = sys.modules["langchain_core.runnables.history"] = None
        sys.modules["langgraph"] = None
        from langchain_core.runnables import RunnableLambda
        from langchain_histories.integrations.runnable import RunnableWithHistory
        from langchain_histories.stores.memory import MemoryStore

        store = MemoryStore()
        chain = RunnableWithHistory(RunnableLambda(lambda messages: f"{len(messages)}"), store.history)
        config = {"configurable": {"session_id": "s"}}
        print(chain.invoke("a", config), "".join(chain.stream("b", config)), asyncio.run(chain.ainvoke("c", config)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.stdout == "1 3 5\n", done.stderr


# What a view hides, and what is said without this class.


def whole_state_agent(texts, **options):
    model = FakeListChatModel(responses=texts)
    return create_agent(model, checkpointer=InMemorySaver(), **options)


@pytest.mark.parametrize("kind", ["last", "window", "summarize"])
async def test_what_a_view_hides_is_not_stored_again(kind):
    """An agent on one thread returns all of its state each turn."""
    store = MemoryStore()
    summarize = {"trigger": ("messages", 12), "keep": ("messages", 2), "max_summary_tokens": 100}
    views = {
        "last": lambda session_id: store.history(session_id, last=2),
        "window": lambda session_id: WindowedChatMessageHistory(store.history(session_id), keep=("turns", 1)),
        "summarize": lambda session_id: SummarizingChatMessageHistory(
            store.history(session_id), "extractive", **summarize
        ),
    }
    agent = whole_state_agent([f"answer {number}" for number in range(20)])
    keys = {"input_messages_key": "messages", "output_messages_key": "messages"}
    chat = RunnableWithHistory(agent, views[kind], **keys)
    config = {"configurable": {"session_id": "1", "thread_id": "t"}}
    for number in range(12):
        question = {"messages": [HumanMessage(f"question {number}")]}
        await chat.ainvoke(question, config) if number % 2 else chat.invoke(question, config)
    assert [m.content for m in store.read("1")] == [f"{kind} {n}" for n in range(12) for kind in ("question", "answer")]


def test_what_a_client_sends_back_is_known_by_its_id_alone():
    """Also without what the store has beside it, such as the usage."""
    seen = []

    def answer(messages):
        seen.append([m.content for m in messages])
        usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        return AIMessage(f"answer {len(seen)}", id=f"a{len(seen)}", usage_metadata=usage)

    registry = HistoryRegistry({"s": MemoryStore()})
    chat = RunnableWithHistory(RunnableLambda(answer), registry)
    config = {"configurable": {"session_id": "1"}}
    first = chat.invoke([HumanMessage("q1", id="h1")], config)
    chat.invoke(
        [HumanMessage("q1", id="h1"), AIMessage(first.content, id=first.id), HumanMessage("q2", id="h2")], config
    )
    assert seen[-1] == ["q1", "answer 1", "q2"]
    assert [m.content for m in registry.history("1").messages] == ["q1", "answer 1", "q2", "answer 2"]


def test_what_was_said_on_the_thread_meanwhile_is_stored_before_the_next_question():
    agent = whole_state_agent(["answer 1", "aside", "answer 2"])
    keys = {"input_messages_key": "messages", "output_messages_key": "messages"}
    registry = HistoryRegistry({"s": MemoryStore()})
    chat = RunnableWithHistory(agent, registry, **keys)
    config = {"configurable": {"session_id": "1", "thread_id": "t"}}
    chat.invoke({"messages": [HumanMessage("q1")]}, config)
    agent.invoke({"messages": [HumanMessage("said to the agent itself")]}, config)
    chat.invoke({"messages": [HumanMessage("q2")]}, config)
    said = ["q1", "answer 1", "said to the agent itself", "aside", "q2", "answer 2"]
    assert [m.content for m in registry.history("1").messages] == said
