"""The history middleware in real agents, with scripted models."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import logging
import pickle
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain.agents")

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, HumanInTheLoopMiddleware, SummarizationMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import ConfigurableFieldSpec
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel, Field

from langchain_histories import (
    USER_SESSION_CONFIG,
    ConfigurationError,
    HistoryRegistry,
    MemoryStore,
    MissingExtraError,
    SessionBusyError,
    StoredChatMessageHistory,
    StoreError,
    StoreUnavailableError,
    open_store,
    user_session_id,
)
from langchain_histories.integrations import _agent_turns
from langchain_histories.integrations.agents import ChatHistoryMiddleware, ToolAwareChatHistoryMiddleware
from langchain_histories.views._repairs import UNANSWERED

CONFIG = {"configurable": {"session_id": "42"}}
OTHER = ConfigurableFieldSpec(id="other", annotation=str)
MODES = ("invoke", "ainvoke", "stream", "astream")
every_mode = pytest.mark.parametrize("mode", MODES)


class Model(BaseChatModel):
    """Says what its script says: a message, an error to raise, or a function of what it was shown."""

    script: list[Any]
    shown: list[list[Any]] = Field(default_factory=list)

    @property
    def _llm_type(self):
        return "scripted"

    def bind_tools(self, tools, **kwargs):
        return self

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.shown.append(list(messages))
        said = self.script.pop(0)
        if said is None:
            raise RuntimeError("nothing to say")
        if isinstance(said, BaseException):
            raise said
        said = said(messages) if callable(said) else said
        return ChatResult(generations=[ChatGeneration(message=AIMessage(said) if isinstance(said, str) else said)])


class Paused(Model):
    """Calls its model when it is told to."""

    entered: Any = None
    go_on: Any = None

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        self.entered.set()
        await self.go_on.wait()
        return self._generate(messages)


class CountingStore(MemoryStore):
    def __init__(self, **options):
        super().__init__(**options)
        self.reads = self.appends = 0
        self.down = []
        self.of_memory = (self.operations.read, self.operations.append)
        self.operations.read, self.operations.append = self.read_rows, self.append_rows

    async def read_rows(self, client, key, **arguments):
        self.reads += 1
        return await self.of_memory[0](client, key, **arguments)

    async def append_rows(self, client, key, rows):
        self.appends += 1
        if self.down and self.down.pop(0):
            raise ConnectionError("refused")
        await self.of_memory[1](client, key, rows)


def calls(*ids, name="look"):
    return AIMessage("", tool_calls=[{"name": name, "args": {"what": call_id}, "id": call_id} for call_id in ids])


@tool
def look(what: str) -> str:
    """Look something up."""
    return f"seen {what}"


@tool
def fail(what: str) -> str:
    """Fail."""
    raise RuntimeError("tool failed")


@pytest.fixture
def store():
    return CountingStore()


@pytest.fixture
def registry(store):
    return HistoryRegistry({"main": store})


def agent_of(
    source,
    script,
    *,
    beside=(),
    tools=(look, fail),
    checkpointer=None,
    model=Model,
    cls=ChatHistoryMiddleware,
    **options,
):
    middleware = source if isinstance(source, ChatHistoryMiddleware) else cls(source, **options)
    model = model if isinstance(model, BaseChatModel) else model(script=list(script))
    return create_agent(model, list(tools), middleware=[middleware, *beside], checkpointer=checkpointer), model


async def run(mode, agent, given, config=CONFIG):
    if isinstance(given, str):
        given = {"messages": [HumanMessage(given)]}
    match mode:
        case "invoke":
            return agent.invoke(given, config)
        case "ainvoke":
            return await agent.ainvoke(given, config)
        case "stream":
            return list(agent.stream(given, config, stream_mode="values"))[-1]
        case "astream":
            return [part async for part in agent.astream(given, config, stream_mode="values")][-1]


def brief(messages):
    """Messages in short: `human:text`, `ai>id,id` for tool calls, `tool<id:text`."""
    return [
        f"ai>{','.join(call['id'] for call in m.tool_calls)}"
        if isinstance(m, AIMessage) and m.tool_calls
        else f"tool<{m.tool_call_id}:{m.content}"
        if isinstance(m, ToolMessage)
        else f"{m.type}:{m.content}"
        for m in messages
    ]


def stored(store, session_id="42"):
    return brief(store.read(session_id))


def thread(number, session_id="42"):
    return {"configurable": {"session_id": session_id, "thread_id": str(number)}}


# Success.


@every_mode
@pytest.mark.parametrize("save", ["step", "turn"])
async def test_a_turn_is_stored_and_the_next_one_sees_it(registry, store, mode, save):
    agent, model = agent_of(registry, [calls("a"), "first", "second"], save=save)
    result = await run(mode, agent, "hello")
    turn = ["human:hello", "ai>a", "tool<a:seen a", "ai:first"]
    assert stored(store) == brief(result["messages"]) == turn
    assert brief(model.shown[1]) == turn[:3]
    result = await run(mode, agent, "again")
    assert brief(model.shown[2]) == [*turn, "human:again"]
    assert stored(store) == [*turn, "human:again", "ai:second"]
    assert brief(result["messages"]) == ["human:again", "ai:second"]  # the state is this turn's alone


async def test_sync_and_async_turns_share_a_session(registry, store):
    agent, model = agent_of(registry, ["1", "2", "3", "4"])
    for mode in MODES:
        await run(mode, agent, mode)
    assert brief(model.shown[-1]) == stored(store)[:-1]
    assert len(stored(store)) == 8


@every_mode
async def test_eight_tool_calls_cost_one_read(registry, store, mode):
    script = [calls(*"abcdefgh"), "done", *(calls(name) for name in "abcdefgh"), "done"]
    agent, _ = agent_of(registry, script)
    await run(mode, agent, "at once")
    assert (store.reads, store.appends) == (1, 3)
    await run(mode, agent, "in a row")
    assert (store.reads, store.appends) == (2, 3 + 10)


@every_mode
async def test_turn_mode_is_one_append(registry, store, mode):
    agent, _ = agent_of(registry, [*(calls(name) for name in "abcdefgh"), "done"], save="turn")
    await run(mode, agent, "in a row")
    assert (store.reads, store.appends) == (1, 1)
    assert len(stored(store)) == 18


async def test_a_structured_answer_is_stored_with_its_tool_message(registry, store):
    class Answer(BaseModel):
        what: str

    middleware = ChatHistoryMiddleware(registry)
    model = Model(script=[calls("s", name="Answer"), "next"])
    agent = create_agent(model, [look], middleware=[middleware], response_format=ToolStrategy(Answer))
    assert agent.invoke({"messages": [("user", "structured")]}, CONFIG)["structured_response"] == Answer(what="s")
    assert [text.partition(":")[0] for text in stored(store)] == ["human", "ai>s", "tool<s"]


async def test_an_agent_without_tools(registry, store):
    agent, _ = agent_of(registry, ["hi"], tools=())
    agent.invoke({"messages": [("user", "hello")]}, CONFIG)
    assert stored(store) == ["human:hello", "ai:hi"]


# Errors, and what comes after them.


@every_mode
async def test_a_model_error_keeps_complete_steps(registry, store, mode):
    agent, _ = agent_of(registry, [calls("a"), RuntimeError("model down")])
    with pytest.raises(RuntimeError, match="model down"):
        await run(mode, agent, "hello")
    assert stored(store) == ["human:hello", "ai>a", "tool<a:seen a"]


@every_mode
async def test_a_failed_turn_stores_nothing_in_turn_mode(registry, store, mode):
    agent, _ = agent_of(registry, [calls("a"), RuntimeError("model down")], save="turn")
    with pytest.raises(RuntimeError, match="model down"):
        await run(mode, agent, "hello")
    assert stored(store) == []


async def test_a_call_without_its_answer_is_not_a_complete_step(registry, store):
    agent, _ = agent_of(registry, [RuntimeError("model down"), "done"])
    given = {"messages": [HumanMessage("hello", id="h"), calls("a", "b"), ToolMessage("1", tool_call_id="a")]}
    with pytest.raises(RuntimeError):
        await run("ainvoke", agent, given)
    assert stored(store) == ["human:hello"]
    await run("ainvoke", agent, given)
    assert stored(store) == ["human:hello", "ai>a,b", "tool<a:1", "ai:done"]


@every_mode
@pytest.mark.parametrize("save", ["step", "turn"])
async def test_a_run_goes_on_after_a_model_error(registry, store, mode, save):
    agent, model = agent_of(
        registry, [calls("a"), RuntimeError("model down"), "done"], save=save, checkpointer=InMemorySaver()
    )
    with pytest.raises(RuntimeError):
        await run(mode, agent, "hello", thread(1))
    await run(mode, agent, None, thread(1))
    assert stored(store) == ["human:hello", "ai>a", "tool<a:seen a", "ai:done"]
    assert brief(model.shown[-1]) == stored(store)[:-1]


@every_mode
async def test_a_client_that_retries_with_the_same_id(registry, store, mode):
    agent, model = agent_of(registry, [RuntimeError("model down"), "done"])
    with pytest.raises(RuntimeError):
        await run(mode, agent, {"messages": [HumanMessage("hello", id="h1")]})
    await run(mode, agent, {"messages": [HumanMessage("hello", id="h1")]})
    assert stored(store) == ["human:hello", "ai:done"]
    assert brief(model.shown[-1]) == ["human:hello"]


async def test_a_question_that_was_answered_is_asked_again_and_stored_once(registry, store):
    agent, model = agent_of(registry, ["one", "two"])
    for _ in range(2):
        agent.invoke({"messages": [HumanMessage("hello", id="h1")]}, CONFIG)
    assert brief(model.shown[-1]) == ["human:hello", "ai:one", "human:hello"]
    assert stored(store) == ["human:hello", "ai:one", "ai:two"]


async def test_a_question_that_is_out_of_the_window_is_asked_again_and_stored_once(store):
    middleware = ChatHistoryMiddleware(lambda session_id: store.history(session_id, last=1))
    agent, model = agent_of(middleware, ["one", "two"])
    agent.invoke({"messages": [HumanMessage("hello", id="h1")]}, CONFIG)
    agent.invoke({"messages": [AIMessage("example"), HumanMessage("hello", id="h1")]}, CONFIG)
    assert brief(model.shown[-1]) == ["ai:one", "human:hello"]
    assert stored(store) == ["human:hello", "ai:one", "ai:two"]


@every_mode
async def test_a_tool_error_keeps_the_question(registry, store, mode):
    agent, model = agent_of(registry, [calls("a", name="fail"), "next"])
    with pytest.raises(RuntimeError, match="tool failed"):
        await run(mode, agent, "hello")
    assert stored(store) == ["human:hello"]
    await run(mode, agent, "again")
    assert brief(model.shown[-1]) == ["human:hello", "human:again"]


async def test_a_cancelled_turn_keeps_the_question(registry, store):
    model = Paused(script=["never"], entered=asyncio.Event(), go_on=asyncio.Event())
    agent, _ = agent_of(registry, [], model=model)
    task = asyncio.create_task(run("ainvoke", agent, "hello"))
    await model.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stored(store) == ["human:hello"]


@every_mode
@pytest.mark.parametrize("save", ["step", "turn"])
async def test_a_store_that_is_down_at_the_end_costs_only_the_save(registry, store, mode, save):
    agent, model = agent_of(registry, ["done"], save=save, checkpointer=InMemorySaver())
    store.down = [False, True] if save == "step" else [True]
    with pytest.raises(StoreUnavailableError):
        await run(mode, agent, "hello", thread(1))
    await run(mode, agent, None, thread(1))
    assert stored(store) == ["human:hello", "ai:done"]
    assert len(model.shown) == 1


@every_mode
async def test_a_store_that_is_down_at_the_start_stops_the_turn(registry, store, mode):
    agent, model = agent_of(registry, ["done"])
    store.down = [True]
    with pytest.raises(StoreUnavailableError):
        await run(mode, agent, "hello")
    assert model.shown == []


@every_mode
async def test_warn_logs_and_tries_again_at_the_next_step(registry, store, mode, caplog):
    agent, _ = agent_of(registry, ["done"], on_save_error="warn")
    store.down = [True]
    with caplog.at_level(logging.ERROR):
        await run(mode, agent, "very private")
    assert "1 messages of session '42' were not saved" in caplog.text
    assert "very private" not in caplog.text
    assert stored(store) == ["human:very private", "ai:done"]


async def test_warn_at_the_end_of_a_thread_is_made_up_for_by_its_next_turn(registry, store):
    agent, model = agent_of(registry, ["one", "two"], on_save_error="warn", checkpointer=InMemorySaver())
    store.down = [False, True]
    await run("ainvoke", agent, "hello", thread(1))
    assert stored(store) == ["human:hello"]
    await run("ainvoke", agent, "again", thread(1))
    assert stored(store) == ["human:hello", "ai:one", "human:again", "ai:two"]
    assert brief(model.shown[-1]) == ["human:hello", "ai:one", "human:again"]


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_a_history_that_cannot_be_read_is_never_an_empty_one(registry, store, mode, monkeypatch):
    agent, model = agent_of(registry, ["done"], on_save_error="warn")

    async def down(*args, **kwargs):
        raise ConnectionError

    monkeypatch.setattr(store.operations, "read", down)
    with pytest.raises(StoreUnavailableError):
        await run(mode, agent, "hello")
    assert model.shown == []


# Interrupts.


def asking():
    return HumanInTheLoopMiddleware(interrupt_on={"look": True})


@every_mode
@pytest.mark.parametrize("save", ["step", "turn"])
async def test_interrupt_and_resume(registry, store, mode, save):
    agent, model = agent_of(registry, [calls("a"), "done"], beside=[asking()], save=save, checkpointer=InMemorySaver())
    await run(mode, agent, "hello", thread(1))
    assert stored(store) == (["human:hello"] if save == "step" else [])
    store.reads = 0
    await run(mode, agent, Command(resume={"decisions": [{"type": "approve"}]}), thread(1))
    assert store.reads == 1
    assert stored(store) == ["human:hello", "ai>a", "tool<a:seen a", "ai:done"]
    assert brief(model.shown[-1]) == stored(store)[:-1]


@every_mode
async def test_a_rejected_call_is_stored_as_one(registry, store, mode):
    agent, model = agent_of(registry, [calls("a"), "as you like"], beside=[asking()], checkpointer=InMemorySaver())
    await run(mode, agent, "hello", thread(1))
    await run(mode, agent, Command(resume={"decisions": [{"type": "reject", "message": "no"}]}), thread(1))
    assert [text[:6] for text in stored(store)] == ["human:", "ai>a", "tool<a", "ai:as "]
    assert store.read("42")[2].status == "error"
    assert brief(model.shown[-1]) == stored(store)[:-1]


@every_mode
async def test_an_interrupt_that_the_user_leaves_for_another_question(registry, store, mode):
    agent, model = agent_of(registry, [calls("a"), "other", "third"], beside=[asking()], checkpointer=InMemorySaver())
    await run(mode, agent, "hello", thread(1))
    await run(mode, agent, "something else", thread(1))
    assert stored(store) == ["human:hello", "ai>a", "human:something else", "ai:other"]
    unanswered = f"tool<a:{UNANSWERED}"
    assert brief(model.shown[1]) == ["human:hello", "ai>a", unanswered, "human:something else"]
    assert model.shown[1][2].status == "error"
    await run(mode, agent, "more", thread(2))
    assert brief(model.shown[2]) == [*brief(model.shown[1]), "ai:other", "human:more"]


PROCESS = """
import asyncio, json, sqlite3, sys
sys.path[:0] = [{tests!r}]
from contextlib import nullcontext
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command
from test_agents import agent_of, asking, brief, run, thread
from langchain_histories import HistoryRegistry, open_store

async def resume(url, checkpoints, mode, save):
    registry = HistoryRegistry({{"main": open_store(url)}})
    if mode.startswith("a"):
        opened = AsyncSqliteSaver.from_conn_string(checkpoints)
    else:
        opened = nullcontext(SqliteSaver(sqlite3.connect(checkpoints, check_same_thread=False)))
    async with opened as saver:
        agent, model = agent_of(registry, ["done"], beside=[asking()], checkpointer=saver, save=save, serialize="wait")
        await run(mode, agent, Command(resume={{"decisions": [{{"type": "approve"}}]}}), thread(1))
    return brief(model.shown[0])

for line in sys.stdin:
    print(json.dumps(asyncio.run(resume(*json.loads(line)))), flush=True)
"""


@pytest.fixture(scope="module")
def resume_elsewhere():
    """Resume an agent's run in another process, which is one for all tests: it takes seconds to import everything."""
    code = PROCESS.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def resume(*run):
            process.stdin.write(json.dumps(run) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield resume
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("mode", "save"), [*((mode, "step") for mode in MODES), ("invoke", "turn"), ("astream", "turn")]
)
def test_resume_in_another_process(tmp_path, resume_elsewhere, mode, save):
    sqlite = pytest.importorskip("langgraph.checkpoint.sqlite")
    url, checkpoints = f"file://{tmp_path / 'histories'}", tmp_path / "checkpoints.db"
    store = open_store(url)
    store.append("42", [HumanMessage("a secret of before"), AIMessage("noted")])
    saver = sqlite.SqliteSaver(sqlite3.connect(checkpoints, check_same_thread=False))
    registry = HistoryRegistry({"main": store})
    agent, _ = agent_of(registry, [calls("a")], beside=[asking()], checkpointer=saver, save=save)
    agent.invoke({"messages": [HumanMessage("hello")]}, thread(1))
    saver.conn.close()
    assert b"a secret of before" not in checkpoints.read_bytes()
    before = ["human:a secret of before", "ai:noted", "human:hello", "ai>a", "tool<a:seen a"]
    assert resume_elsewhere(url, str(checkpoints), mode, save) == before
    assert stored(store) == [*before, "ai:done"]


# Streams.


@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_a_stream_that_is_left_after_the_model_keeps_the_question(registry, store, mode):
    agent, _ = agent_of(registry, [calls("a"), "done"])
    given = {"messages": [HumanMessage("hello")]}
    if mode == "stream":
        stream = agent.stream(given, CONFIG, stream_mode="updates")
        while "model" not in next(stream):
            pass
        stream.close()
    else:
        stream = agent.astream(given, CONFIG, stream_mode="updates")
        while "model" not in await anext(stream):
            pass
        await stream.aclose()
    assert stored(store) == ["human:hello"]


async def test_streams_show_no_history(registry, store):
    store.append("42", [HumanMessage("a secret of before")])
    agent, _ = agent_of(registry, [calls("a"), "done"], checkpointer=InMemorySaver())
    shown = []
    async for kind, part in agent.astream(
        {"messages": [HumanMessage("hello")]}, thread(1), stream_mode=["updates", "values", "debug"]
    ):
        shown.append(json.dumps(part, default=repr))
        assert kind
    assert "hello" in "".join(shown)
    assert "secret" not in "".join(shown)
    saved = list(agent.checkpointer.list(None))
    assert "hello" in repr(saved)
    assert "secret" not in repr(saved)
    assert not any("chat_history_turn" in it.checkpoint["channel_values"] for it in saved)


async def test_a_copy_of_the_state_has_no_history(registry, store):
    store.append("42", [HumanMessage("a secret of before")])
    copies = []

    class Copies(AgentMiddleware):
        def before_model(self, state, runtime):
            turn = state["chat_history_turn"]
            copies.extend([copy.deepcopy(turn), pickle.loads(pickle.dumps(turn)), json.loads(json.dumps(turn))])

    agent, _ = agent_of(registry, ["done"], beside=[Copies()], serialize="wait")
    agent.invoke({"messages": [HumanMessage("hello")]}, CONFIG)
    assert [type(it) for it in copies] == [str] * 3
    assert set(copies) == {"turn of session '42'"}


@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_streamed_tokens(registry, store, mode):
    agent, _ = agent_of(registry, [calls("a"), "done"])
    given = {"messages": [HumanMessage("hello")]}
    if mode == "stream":
        parts = list(agent.stream(given, CONFIG, stream_mode="messages"))
    else:
        parts = [part async for part in agent.astream(given, CONFIG, stream_mode="messages")]
    assert parts[-1][0].content == "done"
    assert stored(store) == ["human:hello", "ai>a", "tool<a:seen a", "ai:done"]


# Agents inside of tools.


@every_mode
async def test_a_sub_agent_in_a_tool_keeps_out_of_the_session(registry, store, mode):
    inner, inner_model = agent_of(registry, [calls("i"), "inner answer"], serialize="reject")

    @tool
    def ask(what: str) -> str:
        """Ask the other agent."""
        return inner.invoke({"messages": [("user", what)]})["messages"][-1].content

    @tool
    async def aask(what: str) -> str:
        """Ask the other agent."""
        return (await inner.ainvoke({"messages": [("user", what)]}))["messages"][-1].content

    asker = ask if mode in ("invoke", "stream") else aask
    script = [calls("a", name=asker.name), "outer answer"]
    outer, _ = agent_of(registry, script, tools=[asker], serialize="reject", cls=ToolAwareChatHistoryMiddleware)
    await run(mode, outer, "hello")
    assert stored(store) == ["human:hello", "ai>a", "tool<a:inner answer", "ai:outer answer"]
    assert brief(inner_model.shown[0]) == ["human:a"]


async def test_a_sub_agent_that_names_no_session_keeps_out_of_all(registry, store):
    inner, _ = agent_of(registry, ["inner answer"], history_factory_config=[OTHER])

    @tool
    def ask(what: str) -> str:
        """Ask the other agent."""
        return inner.invoke({"messages": [("user", what)]})["messages"][-1].content

    outer, _ = agent_of(registry, [calls("a", name="ask"), "outer"], tools=[ask], cls=ToolAwareChatHistoryMiddleware)
    outer.invoke({"messages": [("user", "hello")]}, CONFIG)
    assert [session.session_id for session in store.sessions()] == ["42"]


async def test_a_sub_agent_with_a_session_of_its_own_keeps_it(registry, store):
    inner, _ = agent_of(registry, ["inner answer"])

    @tool
    def ask(what: str) -> str:
        """Ask the other agent."""
        inner.invoke({"messages": [("user", what)]}, {"configurable": {"session_id": "inner"}})
        return "asked"

    outer, _ = agent_of(registry, [calls("a", name="ask"), "outer"], tools=[ask], cls=ToolAwareChatHistoryMiddleware)
    outer.invoke({"messages": [("user", "hello")]}, CONFIG)
    assert stored(store, "inner") == ["human:a", "ai:inner answer"]
    assert len(stored(store)) == 4


# An agent behaves as without the middleware.


@every_mode
async def test_tool_calls_whose_id_is_empty_keep_their_answers(registry, store, mode):
    call = {"name": "look", "id": ""}
    both = AIMessage("", tool_calls=[{**call, "args": {"what": "a"}}, {**call, "args": {"what": "b"}}])
    agent, model = agent_of(registry, [both, "done", "once more"])
    await run(mode, agent, "hello", {**CONFIG, "recursion_limit": 20})
    assert brief(model.shown[-1])[-2:] == ["tool<:seen a", "tool<:seen b"]
    assert stored(store) == ["human:hello", "ai>,", "tool<:seen a", "tool<:seen b", "ai:done"]
    await run(mode, agent, "again")
    assert brief(model.shown[-1])[:5] == stored(store)[:5]


def test_an_agent_has_the_nodes_that_it_has_without(registry):
    def nodes(*middleware, tools=()):
        graph = create_agent(Model(script=[]), list(tools), middleware=list(middleware)).get_graph()
        return {name for name in graph.nodes if "Middleware" not in name}

    assert nodes(ChatHistoryMiddleware(registry)) == nodes()
    assert nodes(ChatHistoryMiddleware(registry), tools=[look]) == nodes(tools=[look])


def test_a_tool_that_is_not_known_is_refused_as_without(registry):
    class Adding(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            return handler(request.override(tools=[fail]))

    for middleware in ([Adding()], [ChatHistoryMiddleware(registry), Adding()]):
        with pytest.raises(ValueError, match=r"(?i)unknown tool"):
            create_agent(Model(script=["done"]), [look], middleware=middleware).invoke(
                {"messages": [("user", "hello")]}, CONFIG
            )


async def test_a_turn_inside_of_a_tool_is_alive_for_longer(registry, monkeypatch):
    monkeypatch.setattr(_agent_turns, "IDLE_SECONDS", 0.5)
    entered, go_on = asyncio.Event(), asyncio.Event()

    @tool
    async def long(what: str) -> str:
        """Take long."""
        entered.set()
        await go_on.wait()
        return what

    middleware = ChatHistoryMiddleware(registry, serialize="reject")
    one = asyncio.create_task(
        run("ainvoke", agent_of(middleware, [calls("a", name="long"), "done"], tools=[long])[0], "A")
    )
    await entered.wait()
    await asyncio.sleep(0.7)
    with pytest.raises(SessionBusyError):
        await run("ainvoke", agent_of(middleware, ["never"])[0], "B")
    go_on.set()
    await one


# Beside other middleware, and views that are shorter than the transcript.


@every_mode
@pytest.mark.parametrize("save", ["step", "turn"])
async def test_beside_summarization(registry, store, mode, save):
    summarizer = Model(script=["A SUMMARY"] * 9)
    beside = [SummarizationMiddleware(summarizer, trigger=("messages", 4), keep=("messages", 2))]
    agent, model = agent_of(
        registry,
        [calls("a"), calls("b"), calls("c"), "done", "next"],
        beside=beside,
        save=save,
        checkpointer=InMemorySaver(),
    )
    await run(mode, agent, "hello", thread(1))
    turn = ["human:hello", "ai>a", "tool<a:seen a", "ai>b", "tool<b:seen b", "ai>c", "tool<c:seen c", "ai:done"]
    assert len(summarizer.shown) > 1
    assert "A SUMMARY" in model.shown[-1][0].content  # the model is shown it in place of what it stands for
    assert stored(store) == turn
    await run(mode, agent, "more", thread(1))
    assert stored(store) == [*turn, "human:more", "ai:next"]
    assert brief(model.shown[-1])[:8] == turn


async def test_summaries_of_views_are_not_stored(registry, store):
    summary = SystemMessage("so far", additional_kwargs={"langchain_histories": {"summary": True}})
    agent, _ = agent_of(registry, ["done"])
    agent.invoke({"messages": [summary, HumanMessage("hello")]}, CONFIG)
    assert stored(store) == ["human:hello", "ai:done"]


@every_mode
async def test_a_window_over_a_long_thread_stores_nothing_twice(store, mode):
    middleware = ChatHistoryMiddleware(lambda session_id: store.history(session_id, last=2))
    agent, model = agent_of(middleware, ["a1", "a2", "a3"], checkpointer=InMemorySaver())
    for question in ("q1", "q2", "q3"):
        await run(mode, agent, question, thread(1))
    assert store.reads == 3
    assert stored(store) == ["human:q1", "ai:a1", "human:q2", "ai:a2", "human:q3", "ai:a3"]
    assert brief(model.shown[-1]) == ["human:q2", "ai:a2", "human:q3"]


class View:
    """A view that shows the last message only, and has the transcript."""

    def __init__(self, history):
        self._history = history

    def transcript(self):
        return self._history.messages

    async def atranscript(self):
        return await self._history.aget_messages()

    @property
    def messages(self):
        return self._history.messages[-1:]

    async def aget_messages(self):
        return (await self._history.aget_messages())[-1:]

    def add_messages(self, messages):
        self._history.add_messages(messages)

    async def aadd_messages(self, messages):
        await self._history.aadd_messages(messages)


@pytest.mark.parametrize("view", [View, lambda history: history.store.history("42", last=1)])
@every_mode
async def test_a_window_over_two_threads_stores_nothing_twice(store, mode, view):
    middleware = ChatHistoryMiddleware(lambda session_id: view(store.history(session_id)))
    agent, model = agent_of(middleware, ["a1", "a2", "a3"], checkpointer=InMemorySaver())
    for question, number in (("q1", 1), ("q2", 2), ("q3", 1)):
        await run(mode, agent, question, thread(number))
    assert stored(store) == ["human:q1", "ai:a1", "human:q2", "ai:a2", "human:q3", "ai:a3"]
    assert brief(model.shown[-1]) == ["ai:a2", "human:q3"]


@every_mode
async def test_calls_of_old_logs_are_answered_in_the_view_only(registry, store, mode):
    invalid = AIMessage("", invalid_tool_calls=[{"name": "look", "args": "{", "id": "i", "error": "cut"}])
    old = [ToolMessage("orphan", tool_call_id="x"), HumanMessage("old"), calls("a", "b"), invalid]
    old.insert(3, ToolMessage("half", tool_call_id="b"))
    store.append("42", old)
    agent, model = agent_of(registry, ["done"])
    await run(mode, agent, "hello")
    unanswered = UNANSWERED
    shown = ["human:old", "ai>a,b", "tool<b:half", f"tool<a:{unanswered}", "ai:", f"tool<i:{unanswered}", "human:hello"]
    assert brief(model.shown[0]) == shown
    assert stored(store) == [*brief(old), "human:hello", "ai:done"]


# Which history.


async def test_the_thread_names_the_session_where_nothing_else_does(registry, store):
    agent, _ = agent_of(registry, ["done"])
    agent.invoke({"messages": [("user", "hello")]}, {"configurable": {"thread_id": "t"}})
    assert len(stored(store, "t")) == 2


@every_mode
async def test_a_run_that_names_no_session(registry, mode):
    agent, model = agent_of(registry, ["done"])
    with pytest.raises(
        ConfigurationError, match=r"lacks session_id: call with config={'configurable': {'session_id': '\.\.\.'}}"
    ):
        await run(mode, agent, "hello", {})
    assert model.shown == []


async def test_sessions_of_a_user(registry, store):
    agent, _ = agent_of(registry, ["done"], history_factory_config=USER_SESSION_CONFIG)
    agent.invoke({"messages": [("user", "hello")]}, {"configurable": {"session_id": 7, "user_id": "ann"}})
    assert len(stored(store, user_session_id("ann", "7"))) == 2
    with pytest.raises(ConfigurationError, match="lacks user_id"):
        agent.invoke({"messages": [("user", "hello")]}, {"configurable": {"thread_id": 7}})


async def test_another_key_names_the_session(store):
    agent, _ = agent_of(store.history, ["done"], history_factory_config=[OTHER])
    agent.invoke({"messages": [("user", "hello")]}, {"configurable": {"other": "o", "session_id": "42"}})
    assert len(stored(store, "o")) == 2


async def test_factories(registry, store, recwarn):
    async def factory(session_id):
        return registry.history(session_id)

    agent, _ = agent_of(factory, ["one", "two"])
    await run("ainvoke", agent, "hello")
    assert len(stored(store)) == 2
    with pytest.raises(ConfigurationError, match="ainvoke"):
        await run("invoke", agent, "hello")
    gc.collect()
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]
    agent, model = agent_of(registry.get_session_history, ["three"])
    await run("ainvoke", agent, "again")
    assert brief(model.shown[0]) == ["human:hello", "ai:one", "human:again"]


class OneFace:
    """A history of another package that has the methods of one face only."""

    def __init__(self, messages, *, is_async):
        async def aget_messages():
            return messages

        async def aadd_messages(new):
            messages.extend(new)

        if is_async:
            self.aget_messages, self.aadd_messages = aget_messages, aadd_messages
        else:
            self.messages, self.add_messages = messages, messages.extend


@every_mode
async def test_each_face_calls_its_own_methods(mode):
    messages = [HumanMessage("old")]
    agent, model = agent_of(lambda _: OneFace(messages, is_async=mode.startswith("a")), [calls("a"), "done"])
    await run(mode, agent, "hello")
    assert brief(messages) == ["human:old", "human:hello", "ai>a", "tool<a:seen a", "ai:done"]
    assert brief(model.shown[-1]) == brief(messages)[:-1]


@pytest.mark.parametrize("option", ["save", "on_save_error", "serialize"])
def test_options_are_checked(registry, option):
    with pytest.raises(ConfigurationError, match=option):
        ChatHistoryMiddleware(registry, **{option: "nonsense"})
    with pytest.raises(ConfigurationError, match="CountingStore"):
        ChatHistoryMiddleware(CountingStore())


def test_without_langchain(monkeypatch):
    monkeypatch.setitem(sys.modules, "langchain.agents.middleware", None)
    monkeypatch.delitem(sys.modules, "langchain_histories.integrations.agents")
    with pytest.raises(MissingExtraError, match=r"langchain-histories\[agents\]"):
        import langchain_histories.integrations.agents  # noqa: F401


# Two turns at once.


@pytest.fixture
def no_gc():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def paused(script):
    return Paused(script=script, entered=asyncio.Event(), go_on=asyncio.Event())


@pytest.mark.parametrize("serialize", ["off", "wait"])
async def test_two_turns_at_once(registry, store, serialize):
    first, second = paused(["re A"]), paused(["re B"])
    middleware = ChatHistoryMiddleware(registry, serialize=serialize)
    one = asyncio.create_task(run("ainvoke", agent_of(middleware, [], model=first)[0], "A"))
    await first.entered.wait()
    two = asyncio.create_task(run("ainvoke", agent_of(middleware, [], model=second)[0], "B"))
    second.go_on.set()
    if serialize == "off":
        await two
        first.go_on.set()
        await one
        assert stored(store) == ["human:A", "human:B", "ai:re B", "ai:re A"]
        return
    for _ in range(20):
        await asyncio.sleep(0)
    assert not second.entered.is_set()
    first.go_on.set()
    await asyncio.gather(one, two)
    assert stored(store) == ["human:A", "ai:re A", "human:B", "ai:re B"]
    assert brief(second.shown[0]) == ["human:A", "ai:re A", "human:B"]


def test_turns_of_threads_wait_for_each_other(registry, store):
    agent, _ = agent_of(registry, [lambda messages: f"re {messages[-1].content}"] * 40, serialize="wait")
    errors = []

    def turns(name):
        try:
            for number in range(5):
                agent.invoke({"messages": [("user", f"{name}{number}")]}, CONFIG)
        except Exception as error:  # noqa: BLE001  # reported below
            errors.append(error)

    threads = [threading.Thread(target=turns, args=[name]) for name in "abcdefgh"]
    for it in threads:
        it.start()
    for it in threads:
        it.join()
    assert not errors
    said = stored(store)
    assert len(said) == 80
    assert all(said[i + 1] == f"ai:re {said[i].partition(':')[2]}" for i in range(0, 80, 2))


async def test_tasks_wait_in_the_order_they_came(registry, store):
    agent, _ = agent_of(registry, [lambda messages: f"re {messages[-1].content}"] * 20, serialize="wait")
    await asyncio.gather(*(run("ainvoke", agent, str(number)) for number in range(20)))
    assert stored(store) == [text for n in range(20) for text in (f"human:{n}", f"ai:re {n}")]


async def test_reject(registry, store):
    first = paused(["re A"])
    middleware = ChatHistoryMiddleware(registry, serialize="reject")
    one = asyncio.create_task(run("ainvoke", agent_of(middleware, [], model=first)[0], "A"))
    await first.entered.wait()
    agent, _ = agent_of(middleware, ["re B", "re C"])
    for mode in MODES:
        with pytest.raises(SessionBusyError):
            await run(mode, agent, "B")
    await run("ainvoke", agent, "B", thread(1, "another session"))
    first.go_on.set()
    await one
    await run("ainvoke", agent, "C")
    assert stored(store) == ["human:A", "ai:re A", "human:C", "ai:re C"]


async def test_a_waiting_turn_that_is_cancelled_lets_others_pass(registry, store):
    first = paused(["re A"])
    middleware = ChatHistoryMiddleware(registry, serialize="wait")
    one = asyncio.create_task(run("ainvoke", agent_of(middleware, [], model=first)[0], "A"))
    await first.entered.wait()
    agent, model = agent_of(middleware, ["re C"])
    two, three = (asyncio.create_task(run("ainvoke", agent, name)) for name in "BC")
    for _ in range(20):
        await asyncio.sleep(0)
    two.cancel()
    with pytest.raises(asyncio.CancelledError):
        await two
    for _ in range(20):
        await asyncio.sleep(0)
    assert model.shown == []
    first.go_on.set()
    await asyncio.gather(one, three)
    assert stored(store) == ["human:A", "ai:re A", "human:C", "ai:re C"]


@every_mode
@pytest.mark.parametrize("error", ["model", "tool", "save", "read"])
async def test_a_turn_that_fails_frees_the_session_at_once(registry, store, mode, error, monkeypatch):
    script = {"model": [RuntimeError("down"), "done"], "tool": [calls("a", name="fail"), "done"]}
    cls = ToolAwareChatHistoryMiddleware if error == "tool" else ChatHistoryMiddleware
    agent, _ = agent_of(registry, script.get(error, ["done"]), serialize="reject", cls=cls)
    read = store.operations.read

    async def broken(*args, **kwargs):
        monkeypatch.setattr(store.operations, "read", read)
        raise ConnectionError

    if error == "save":
        store.down = [True]
    if error == "read":
        monkeypatch.setattr(store.operations, "read", broken)
    with pytest.raises((RuntimeError, StoreUnavailableError)) as kept:  # kept: what holds the run's frames
        await run(mode, agent, "hello")
    await run(mode, agent, "again")
    assert stored(store)[-2:] == ["human:again", "ai:done"]
    assert kept


async def test_a_cancelled_turn_frees_the_session_at_once(registry):
    model = paused(["never"])
    middleware = ChatHistoryMiddleware(registry, serialize="reject")
    task = asyncio.create_task(run("ainvoke", agent_of(middleware, [], model=model)[0], "hello"))
    await model.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    agent, _ = agent_of(middleware, ["done"])
    await run("ainvoke", agent, "again")


@every_mode
@pytest.mark.usefixtures("no_gc")
async def test_a_resumed_run_does_not_wait_for_itself(registry, store, mode):
    agent, _ = agent_of(
        registry, [calls("a"), "done"], beside=[asking()], checkpointer=InMemorySaver(), serialize="reject"
    )
    await run(mode, agent, "hello", thread(1))
    await run(mode, agent, Command(resume={"decisions": [{"type": "approve"}]}), thread(1))
    assert len(stored(store)) == 4


@every_mode
async def test_a_new_question_after_an_interrupt_need_not_wait_once_the_run_is_forgotten(registry, store, mode):
    agent, _ = agent_of(
        registry, [calls("a"), "done"], beside=[asking()], checkpointer=InMemorySaver(), serialize="reject"
    )
    await run(mode, agent, "hello", thread(1))
    gc.collect()
    await run(mode, agent, "something else", thread(1))
    assert stored(store)[-1] == "ai:done"


@pytest.mark.parametrize("mode", ["stream", "astream"])
@pytest.mark.usefixtures("no_gc")
async def test_a_stream_that_is_not_read_any_more_frees_the_session(registry, store, mode):
    agent, _ = agent_of(registry, [calls("a"), "done"], serialize="reject")
    given = {"messages": [HumanMessage("hello")]}
    if mode == "stream":
        stream = agent.stream(given, CONFIG, stream_mode="updates")
        next(stream), next(stream)
        with pytest.raises(SessionBusyError):
            agent.invoke({"messages": [HumanMessage("too early")]}, CONFIG)
        stream.close()
    else:
        stream = agent.astream(given, CONFIG, stream_mode="updates")
        await anext(stream), await anext(stream)
        with pytest.raises(SessionBusyError):
            await agent.ainvoke({"messages": [HumanMessage("too early")]}, CONFIG)
        await stream.aclose()
    del stream
    await run(mode, agent, "again")
    assert stored(store) == ["human:hello", "human:again", "ai>a", "tool<a:seen a", "ai:done"]


async def test_a_waiting_turn_goes_on_when_a_stream_is_not_read_any_more(registry, store):
    agent, _ = agent_of(registry, ["done"], serialize="wait")
    stream = agent.stream({"messages": [HumanMessage("hello")]}, CONFIG, stream_mode="updates")
    next(stream)
    waiting = asyncio.create_task(run("ainvoke", agent, "again"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    stream.close()
    del stream
    gc.collect()
    await waiting
    assert stored(store) == ["human:again", "ai:done"]


def test_a_resumed_run_ends_its_own_past_only():
    waiting, interrupted, elsewhere = (_agent_turns.Ticket("source", "42", name, resumed=False) for name in "112")
    waiting.enter()
    _agent_turns.Ticket("source", "42", "1", resumed=True)
    assert [ticket.over.done() for ticket in (waiting, interrupted, elsewhere)] == [False, True, False]


@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_a_turn_without_a_sign_of_life_is_not_waited_for(registry, store, mode, monkeypatch):
    agent, _ = agent_of(registry, [calls("a"), "done"], serialize="wait")
    kept = agent.stream({"messages": [HumanMessage("hello")]}, CONFIG, stream_mode="updates")
    next(kept), next(kept)
    monkeypatch.setattr(_agent_turns, "IDLE_SECONDS", 0.0)
    await run(mode, agent, "again")
    assert stored(store)[-1] == "ai:done"


async def test_a_turn_inside_of_a_model_is_alive(registry, monkeypatch):
    monkeypatch.setattr(_agent_turns, "IDLE_SECONDS", 0.0)
    first = paused(["re A"])
    middleware = ChatHistoryMiddleware(registry, serialize="reject")
    one = asyncio.create_task(run("ainvoke", agent_of(middleware, [], model=first)[0], "A"))
    await first.entered.wait()
    with pytest.raises(SessionBusyError):
        await run("ainvoke", agent_of(middleware, ["never"])[0], "B")
    first.go_on.set()
    await one


def test_nothing_is_kept_of_sessions_that_are_over(registry):
    agent, _ = agent_of(registry, ["done"] * 20, serialize="wait")
    for number in range(20):
        agent.invoke({"messages": [("user", "hello")]}, {"configurable": {"session_id": str(number)}})
    gc.collect()
    assert len(_agent_turns._queues) == 0


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_save_that_failed_after_it_had_stored_is_not_repeated(is_async):
    """The answer of the store was lost; `warn` tries again at the next step."""
    store = MemoryStore()

    class Losing(StoredChatMessageHistory):
        failures = 1

        def add_messages(self, messages):
            super().add_messages(messages)
            self._lose()

        async def aadd_messages(self, messages):
            await super().aadd_messages(messages)
            self._lose()

        def _lose(self):
            if Losing.failures:
                Losing.failures = 0
                raise StoreError("lost")

    middleware = ChatHistoryMiddleware(lambda session_id: Losing(store, session_id), on_save_error="warn")
    agent = create_agent(FakeListChatModel(responses=["answer"]), middleware=[middleware])
    question = {"messages": [HumanMessage("question")]}
    config = {"configurable": {"session_id": "1"}}
    await agent.ainvoke(question, config) if is_async else agent.invoke(question, config)
    assert [m.content for m in store.read("1")] == ["question", "answer"]
