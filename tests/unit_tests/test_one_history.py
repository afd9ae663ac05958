"""One session by every front door in turn: an agent, a graph, LangChain's runnable and ours, and two processes."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("langchain.agents")

import doors
from doors import DOORS, House, check_one_history, check_two_processes, contents, graph_of, look, said_in
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from typing_extensions import TypedDict

from langchain_histories import ConfigurationError, HistoryRegistry, InvalidMessageError, MemoryStore
from langchain_histories.integrations._messages import is_summary
from langchain_histories.integrations.agents import ChatHistoryMiddleware
from langchain_histories.integrations.langgraph import aimport_thread, import_thread
from langchain_histories.integrations.runnable import RunnableWithHistory

CONFIG = {"configurable": {"session_id": "42"}}
ORDERS = list(itertools.permutations(DOORS))


@pytest.fixture(params=["memory", "file", "sqlite"])
def url(request, tmp_path):
    return {
        "memory": "memory://",
        "file": f"file://{tmp_path.as_posix()}/chats",
        "sqlite": f"sqlite:///{tmp_path.as_posix()}/chats.db",
    }[request.param]


@pytest.mark.parametrize("faces", [("sync",), ("async",), ("sync", "async", "async")], ids="-".join)
@pytest.mark.parametrize("order", ORDERS[::7], ids="-".join)
async def test_one_history(url, order, faces):
    registry = HistoryRegistry.from_config({"histories": {"chats": {"url": url}}})
    async with registry:
        await check_one_history(registry, order, faces)


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
async def test_every_order(order):
    await check_one_history(HistoryRegistry({"chats": MemoryStore()}), order, ("sync", "async", "async"))


def test_two_processes_in_turn(tmp_path):
    name = tmp_path.as_posix()
    check_two_processes({"file": {"url": f"file://{name}/chats"}, "sqlite": {"url": f"sqlite:///{name}/chats.db"}})


# Over a view.


def summarizing(store_or_url="memory://"):
    table = {"model": "extractive", "trigger": ("messages", 12), "keep": ("messages", 4), "token_counter": len}
    return HistoryRegistry.from_config(
        {"histories": {"chats": {"url": store_or_url, "summarize": {**table, "max_summary_tokens": 50}}}}
    )


@pytest.mark.parametrize("face", ["sync", "async"])
@pytest.mark.parametrize("order", [("agent",), ("graph",), ("old",), ("new",), DOORS], ids="-".join)
async def test_a_summary_is_shown_and_not_stored(order, face):
    registry = summarizing()
    house, said, summaries = House(registry), [], 0
    for number, door in enumerate(itertools.islice(itertools.cycle(order), 24)):
        text = f"My number is {number}."
        shown = await house.aturn(door, text) if face == "async" else house.turn(door, text)
        if is_summary(shown[0]):
            summaries += 1
            assert len(shown) <= 13
            shown = shown[1:]
        else:
            assert len(shown) == len(said) + 1
        assert not any(map(is_summary, shown))
        tail = contents(shown)
        assert tail == [*said, text][-len(tail) :]
        added = contents(registry.store().read("42"))[len(said) :]
        assert added[0] == text
        assert len(added) == len(said_in(door, text, 0))
        said += added
    assert summaries > 10, "too few to tell"
    stored = registry.store().read("42")
    assert contents(stored) == said
    assert not any(map(is_summary, stored))
    assert registry.history("42").transcript() == stored


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_a_graph_that_echoes_a_summary_does_not_get_it_stored(face):
    registry = summarizing()
    graph = StateGraph(MessagesState)
    graph.add_node("answer", lambda state: {"messages": [AIMessage(f"seen {len(state['messages'])}")]})
    graph.add_edge(START, "answer")
    chain = RunnableWithHistory(graph.compile(), registry, input_messages_key="messages")
    for number in range(12):
        given = {"messages": f"question {number}"}
        out = await chain.ainvoke(given, CONFIG) if face == "async" else chain.invoke(given, CONFIG)
    assert is_summary(out["messages"][0])
    stored = registry.store().read("42")
    assert [message.content for message in stored[::2]] == [f"question {number}" for number in range(12)]
    assert len(stored) == 24


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_a_client_that_sends_a_summary_back_does_not_get_it_stored(face):
    store = MemoryStore()
    chain = RunnableWithHistory(RunnableLambda(lambda messages: f"seen {len(messages)}"), store.history)
    summary = HumanMessage("gist", additional_kwargs={"lc_source": "summarization"})
    given = [summary, HumanMessage("hello")]
    await chain.ainvoke(given, CONFIG) if face == "async" else chain.invoke(given, CONFIG)
    assert contents(store.read("42")) == ["hello", "seen 2"]


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_a_thread_with_a_summary_in_it(face):
    """A long thread of an agent with LangChain's summarization, imported beside what is stored."""
    registry = summarizing()
    agent = create_agent(doors.Model(), [look], checkpointer=InMemorySaver())
    for number in range(6):
        agent.invoke({"messages": [HumanMessage(f"q{number}")]}, {"configurable": {"thread_id": "t"}})
    history = registry.history("42")
    for expected in (24, 0):
        added = await aimport_thread(agent, "t", history) if face == "async" else import_thread(agent, "t", history)
        assert added == expected
    assert len(history.transcript()) == 24
    assert is_summary(history.messages[0])


def test_messages_without_ids_are_told_apart_in_a_thread():
    """What LangChain's class has stored: with a checkpointer the thread must not grow by it in each turn."""
    store = MemoryStore()
    store.append("42", [HumanMessage("ok"), AIMessage("ok"), HumanMessage("ok")])
    graph = StateGraph(MessagesState)
    graph.add_node("answer", lambda state: {"messages": [AIMessage(f"seen {len(state['messages'])}")]})
    graph.add_edge(START, "answer")
    graph = graph.compile(checkpointer=InMemorySaver())
    chain = RunnableWithHistory(graph, store.history, input_messages_key="messages")
    config = {"configurable": {"session_id": "42", "thread_id": "t"}}
    chain.invoke({"messages": "a"}, config)
    out = chain.invoke({"messages": "b"}, config)
    assert contents(out["messages"]) == contents(store.read("42")) == ["ok", "ok", "ok", "a", "seen 4", "b", "seen 6"]


# What cannot be used, at each door.


def door_to(kind, source, **options):
    """A door with a factory, and what it is given."""
    if kind == "agent":
        middleware = ChatHistoryMiddleware(source, **options)
        return create_agent(doors.Model(), [look], middleware=[middleware]), {"messages": [HumanMessage("secret")]}
    if kind == "graph":
        return graph_of(doors.Model(), source, **options), {"messages": [HumanMessage("secret")]}
    return RunnableWithHistory(doors.Model(), source, **options), "secret"


async def use(face, door, given, config=CONFIG):
    return await door.ainvoke(given, config) if face == "async" else door.invoke(given, config)


every_door = pytest.mark.parametrize("kind", ["agent", "graph", "new"])
every_face = pytest.mark.parametrize("face", ["sync", "async"])


@every_door
@every_face
@pytest.mark.parametrize("history", [None, [HumanMessage("x")], MemoryStore()], ids=["None", "list", "MemoryStore"])
async def test_a_factory_that_returns_no_history(kind, face, history):
    door, given = door_to(kind, lambda session_id: history)
    with pytest.raises(ConfigurationError, match=f"returned no history but {type(history).__name__}: ") as caught:
        await use(face, door, given)
    assert "secret" not in str(caught.value)


@every_door
@every_face
async def test_a_config_without_a_session(kind, face):
    door, given = door_to(kind, HistoryRegistry({"chats": MemoryStore()}))
    with pytest.raises(ConfigurationError, match=r"lacks session_id: call with config={'configurable': {'session_id'"):
        await use(face, door, given, {"configurable": {}})


@every_door
@every_face
async def test_an_async_factory(kind, face, recwarn):
    store = MemoryStore()

    async def factory(session_id):
        return store.history(session_id)

    door, given = door_to(kind, factory)
    if face == "async":
        await use(face, door, given)
        assert len(store.read("42")) in (2, 4)
    else:
        with pytest.raises(ConfigurationError, match="get_session_history is async: use ainvoke"):
            await use(face, door, given)
        assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]


@every_door
@pytest.mark.parametrize("source", [None, "redis://", MemoryStore()], ids=["None", "str", "MemoryStore"])
def test_a_source_that_is_none(kind, source):
    with pytest.raises(
        ConfigurationError, match=f"must be a function or a HistoryRegistry, not {type(source).__name__}"
    ):
        door_to(kind, source)


@every_door
def test_a_factory_that_takes_other_arguments(kind):
    with pytest.raises(ConfigurationError, match="must take session_id"):
        door_to(kind, lambda *, chat: None)


@every_door
@every_face
async def test_the_thread_names_the_session_where_nothing_else_does(kind, face):
    registry = HistoryRegistry({"chats": MemoryStore()})
    door, given = door_to(kind, registry)
    await use(face, door, given, {"configurable": {"thread_id": "t"}})
    assert registry.store().read("t")[0].content == "secret"


@every_door
@every_face
async def test_a_failed_save_is_reported_once(kind, face, caplog):
    def broken(message):
        raise ValueError("quotes " + message.content)

    told = []
    store = MemoryStore(before_save=broken)
    registry = HistoryRegistry(
        {"chats": store}, save_error_callback=lambda error, session_id, messages: told.append(session_id)
    )
    if kind == "graph":  # its node raises
        door, given = door_to(kind, registry)
        with pytest.raises(ValueError, match="quotes"):
            await use(face, door, given)
        assert told == ["42"]
        return
    options = {"save": "turn"} if kind == "agent" else {}
    door, given = door_to(kind, registry, on_save_error="warn", **options)
    await use(face, door, given)
    assert told == ["42"]
    assert len([each for each in caplog.records if "were not saved" in each.getMessage()]) == 1
    caplog.clear()
    door, given = door_to(kind, store.history, on_save_error="warn", **options)
    await use(face, door, given)
    count = 4 if kind == "agent" else 2
    assert [each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == [
        f"{count} messages of session '42' were not saved: ValueError"
    ]


class Talk(TypedDict):
    talk: list


@every_face
async def test_a_state_without_messages(face):
    registry = HistoryRegistry({"chats": MemoryStore()})
    graph = StateGraph(Talk)
    graph.add_node("load", doors.load_history_node(registry))
    graph.add_edge(START, "load")
    with pytest.raises(ConfigurationError, match="The state has no 'messages': give messages_key"):
        await use(face, graph.compile(), {"talk": ["secret"]})
    graph = StateGraph(Talk)
    graph.add_node("save", doors.save_history_node(registry, messages_key="talk"))
    graph.add_edge(START, "save")
    with pytest.raises(ConfigurationError, match="no ids: give it the reducer add_messages"):
        await use(face, graph.compile(), {"talk": ["secret"]})
    with pytest.raises(InvalidMessageError, match="not a message") as caught:
        await use(face, graph.compile(), {"talk": [{"secret": 1}]})
    assert "secret" not in str(caught.value).partition("\n")[0]
    graph = StateGraph(Talk)
    graph.add_node("answer", lambda state: {"talk": ["answer"]})
    graph.add_edge(START, "answer")
    chain = RunnableWithHistory(graph.compile(), registry, input_messages_key="talk", output_messages_key="messages")
    with pytest.raises(ConfigurationError, match="no 'messages' in a dict with talk: set output_messages_key"):
        await use(face, chain, {"talk": "secret"})
    assert registry.store().read("42") == []


@every_face
async def test_an_agent_without_messages(face):
    registry = HistoryRegistry({"chats": MemoryStore()})
    registry.history("42").add_user_message("Go on.")
    door, _ = door_to("agent", registry)
    out = await use(face, door, {"messages": []})
    assert contents(registry.store().read("42")) == ["Go on.", "", "seen it", "seen it!3"]
    assert len(out["messages"]) == 3


@tool(response_format="content_and_artifact")
def photograph(what: str):
    """Take a picture."""
    return "taken", {"handle": object()}


@pytest.mark.parametrize("kind", ["agent", "new"])
@every_face
async def test_an_artifact_that_cannot_be_stored(kind, face, caplog):
    async def photographed(store):
        if kind == "agent":
            agent = create_agent(doors.Model(), [photograph], middleware=[ChatHistoryMiddleware(store.history)])
            await use(face, agent, {"messages": [HumanMessage("a picture")]})
        else:
            answer = ToolMessage("taken", tool_call_id="c1", artifact={"handle": object()})
            await use(face, RunnableWithHistory(RunnableLambda(lambda _: [answer]), store.history), "a picture")

    store = MemoryStore()
    await photographed(store)
    (kept,) = [message for message in store.read("42") if isinstance(message, ToolMessage)]
    assert kept.content == "taken"
    assert "A value of type builtins.object cannot be stored" in caplog.text
    strict = MemoryStore(on_unserializable="raise")
    with pytest.raises(InvalidMessageError, match=r"builtins\.object"):
        await photographed(strict)
    assert not any(isinstance(message, ToolMessage) for message in strict.read("42"))


# Without what LangChain has deprecated.


def test_the_doors_work_without_langchains_deprecated_modules():
    code = """
        import asyncio, sys, warnings
        sys.modules["langchain_core.chat_history"] = sys.modules["langchain_core.runnables.history"] = None
        from langchain.agents import create_agent
        from langchain_core.language_models import GenericFakeChatModel
        from langgraph.checkpoint.memory import InMemorySaver
        from langgraph.graph import START, MessagesState, StateGraph
        from langchain_histories import HistoryRegistry, MemoryStore
        from langchain_histories.integrations.agents import ChatHistoryMiddleware
        from langchain_histories.integrations.langgraph import (
            import_thread, load_history_node, save_history_node, seed_thread
        )
        from langchain_histories.integrations.runnable import RunnableWithHistory

        registry = HistoryRegistry({"chats": MemoryStore()})
        model = GenericFakeChatModel(messages=iter(["one", "two", "three", "four", "five", "six"]))
        config = {"configurable": {"session_id": "42"}}
        agent = create_agent(model, middleware=[ChatHistoryMiddleware(registry)])
        graph = StateGraph(MessagesState)
        graph.add_node("load", load_history_node(registry))
        graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
        graph.add_node("save", save_history_node(registry))
        graph.add_edge(START, "load").add_edge("load", "model").add_edge("model", "save")
        for door, given in (
            (agent, {"messages": [("user", "a")]}),
            (graph.compile(), {"messages": [("user", "b")]}),
            (RunnableWithHistory(model, registry), "c"),
        ):
            door.invoke(given, config)
            asyncio.run(door.ainvoke(given, config))
        threads = StateGraph(MessagesState)
        threads.add_node("end", lambda state: {"messages": [("ai", "end")]})
        threads.add_edge(START, "end")
        threads = threads.compile(checkpointer=InMemorySaver())
        history = registry.history("42")
        print(seed_thread(threads, "t", history))
        threads.invoke({"messages": [("user", "d")]}, {"configurable": {"thread_id": "t"}})
        print(import_thread(threads, "t", history), *[message.content for message in history.messages])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.stdout == "12\n2 a one a two b three b four c five c six d end\n", done.stderr
