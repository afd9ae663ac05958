"""Threads of LangGraph to histories and back, and the nodes, with real graphs and checkpointers."""

import importlib
import inspect
import operator
import sys
import uuid
from contextlib import ExitStack
from typing import Annotated, Any, TypedDict

import pytest
from conversations import check_valid
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.chat_history import BaseChatMessageHistory, InMemoryChatMessageHistory
from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph, add_messages
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from langchain_histories import (
    USER_SESSION_CONFIG,
    ConfigurationError,
    FileStore,
    HistoryRegistry,
    MemoryStore,
    MissingExtraError,
    StoredChatMessageHistory,
    SummarizingChatMessageHistory,
    WindowedChatMessageHistory,
)
from langchain_histories.integrations.langgraph import (
    aimport_thread,
    aseed_thread,
    import_thread,
    load_history_node,
    save_history_node,
    seed_thread,
)
from langchain_histories.stores.memory import MemoryOperations

pytestmark = pytest.mark.filterwarnings("ignore:.*RunnableWithMessageHistory.*")
marks_summaries = pytest.mark.skipif(
    "trigger" not in inspect.signature(SummarizationMiddleware).parameters,
    reason="langchain 1.0 does not mark its summaries",
)


def config(thread: str = "t", **more: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, **more}}


def echo(state: Any) -> dict[str, Any]:
    """A model: it answers with what it was given last and how many messages it saw."""
    messages = state["messages"]
    return {"messages": [AIMessage(f"{messages[-1].content}!{len(messages)}")]}


def chat(saver: Any, schema: Any = MessagesState, **nodes: Any) -> Any:
    """A graph of these nodes in a row; by default of the model alone."""
    builder = StateGraph(schema)
    nodes = nodes or {"model": echo}
    for name, node in nodes.items():
        builder.add_node(name, node)
    for one, other in zip([START, *nodes], [*nodes, END], strict=True):
        builder.add_edge(one, other)
    return builder.compile(checkpointer=saver)


def texts(history: Any) -> list[Any]:
    return [message.content for message in (history if isinstance(history, list) else history.messages)]


def ids(messages: Any) -> list[Any]:
    return [message.id for message in messages]


@pytest.fixture
def history() -> StoredChatMessageHistory:
    return MemoryStore().history("42")


@pytest.fixture(params=["memory", "sqlite"])
def saver(request: pytest.FixtureRequest) -> Any:
    if request.param == "memory":
        yield InMemorySaver()
    else:
        with SqliteSaver.from_conn_string(":memory:") as saver:
            yield saver


class Model(BaseChatModel):
    """A model that numbers its answers; a summarizer when it is asked for a summary."""

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        text = "the gist" if "context" in str(messages[-1].content) else f"re:{messages[-1].content}"
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])

    @property
    def _llm_type(self) -> str:
        return "numbering"


class TestImport:
    @pytest.mark.parametrize("alone", [True, False])
    def test_what_a_history_lacks_is_added_once(self, saver: Any, alone: bool, history: Any) -> None:
        graph = chat(saver)
        source = saver if alone else graph
        assert import_thread(source, "t", history) == 0
        graph.invoke({"messages": [("human", "a")]}, config())
        graph.invoke({"messages": [("human", "b")]}, config())
        assert import_thread(source, "t", history) == 4
        assert texts(history) == ["a", "a!1", "b", "b!3"]
        assert ids(history.messages) == ids(graph.get_state(config()).values["messages"])
        assert import_thread(source, config(), history) == 0
        graph.invoke({"messages": [("human", "c")]}, config())
        assert import_thread(source, config(), history) == 2
        assert texts(history) == ["a", "a!1", "b", "b!3", "c", "c!5"]

    @pytest.mark.parametrize("alone", [True, False])
    async def test_async(self, alone: bool, history: Any) -> None:
        async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
            graph = chat(saver)
            source = saver if alone else graph
            assert await aimport_thread(source, "t", history) == 0
            for text in "abcdefghij":
                await graph.ainvoke({"messages": [("human", text)]}, config())
            assert await aimport_thread(source, "t", history) == 20
            assert [text[0] for text in texts(history)] == [letter for letter in "abcdefghij" for _ in "12"]
            assert await aimport_thread(source, config(), history) == 0

    async def test_async_of_a_graph_with_a_checkpointer_in_memory(self, history: Any) -> None:
        graph = chat(InMemorySaver())
        await graph.ainvoke({"messages": [("human", "a")]}, config())
        assert await aimport_thread(graph, "t", history) == 2

    def test_it_is_one_batch(self, history: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        graph = chat(InMemorySaver())
        graph.invoke({"messages": [("human", "a"), ("ai", "b"), ("human", "c")]}, config())
        batches = []
        monkeypatch.setattr(type(history), "add_messages", lambda self, messages: batches.append(messages))
        import_thread(graph, "t", history)
        assert [len(batch) for batch in batches] == [4]

    @marks_summaries
    @pytest.mark.parametrize("alone", [True, False])
    def test_what_a_summary_replaced_is_recovered(self, saver: Any, alone: bool, history: Any) -> None:
        middleware = SummarizationMiddleware(Model(), trigger=("messages", 5), keep=("messages", 2))
        graph = create_agent(Model(), [], middleware=[middleware], checkpointer=saver)
        for number in range(12):
            graph.invoke({"messages": [("human", f"q{number}")]}, config())
        kept = graph.get_state(config()).values["messages"]
        assert len(kept) < 8
        assert any(message.additional_kwargs.get("lc_source") == "summarization" for message in kept)
        assert import_thread(saver if alone else graph, "t", history) == 24
        assert texts(history) == [text for n in range(12) for text in (f"q{n}", f"re:q{n}")]
        assert import_thread(graph, "t", history) == 0

    @marks_summaries
    async def test_what_a_summary_replaced_is_recovered_async(self, history: Any) -> None:
        async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
            middleware = SummarizationMiddleware(Model(), trigger=("messages", 5), keep=("messages", 2))
            graph = create_agent(Model(), [], middleware=[middleware], checkpointer=saver)
            for number in range(8):
                await graph.ainvoke({"messages": [("human", f"q{number}")]}, config())
            assert await aimport_thread(graph, "t", history) == 16
            assert texts(history) == [text for n in range(8) for text in (f"q{n}", f"re:q{n}")]

    def test_what_was_removed_was_said(self, saver: Any, history: Any) -> None:
        graph = chat(saver)
        graph.invoke({"messages": [HumanMessage("a", id="a")]}, config())
        graph.update_state(config(), {"messages": [RemoveMessage("a")]})
        graph.invoke({"messages": [HumanMessage("b", id="b")]}, config())
        import_thread(graph, "t", history)
        assert texts(history) == ["a", "a!1", "b", "b!2"]

    def test_of_a_message_that_was_replaced_the_newest_form(self, saver: Any, history: Any) -> None:
        graph = chat(saver)
        graph.invoke({"messages": [HumanMessage("my card is 1234", id="a"), HumanMessage("x", id="x")]}, config())
        graph.update_state(config(), {"messages": [HumanMessage("my card is ***", id="a"), RemoveMessage("x")]})
        import_thread(graph, "t", history)
        assert texts(history) == ["my card is ***", "x", "x!2"]

    def test_a_branch_that_was_left_stands_before_the_one_that_was_taken(self, saver: Any, history: Any) -> None:
        graph = chat(saver)
        graph.invoke({"messages": [("human", "a")]}, config())
        fork = graph.get_state(config()).config
        graph.invoke({"messages": [("human", "b")]}, config())
        graph.invoke({"messages": [("human", "c")]}, fork)
        import_thread(graph, fork, history)
        assert texts(history) == ["a", "a!1", "b", "b!3", "c", "c!3"]

    def test_what_was_put_before_others_stays_before_them(self, history: Any) -> None:
        source = MemoryStore().history("1")
        source.add_messages([HumanMessage("old"), AIMessage("older")])
        graph = chat(InMemorySaver(), load=load_history_node(lambda _: source), model=echo)
        graph.invoke({"messages": [("human", "new")]}, config())
        import_thread(graph, "t", history)
        assert texts(history) == ["old", "older", "new", "new!3"]

    def test_of_a_subgraph_only_what_came_of_it(self, saver: Any, history: Any) -> None:
        inner = StateGraph(MessagesState)
        inner.add_node("model", echo)
        inner.add_edge(START, "model")

        def outer(state: MessagesState) -> dict[str, Any]:
            result = inner.compile(checkpointer=True).invoke({"messages": [("human", "between machines")]})
            return {"messages": [AIMessage(result["messages"][-1].content.upper())]}

        graph = chat(saver, outer=outer)
        graph.invoke({"messages": [("human", "a")]}, config())
        assert import_thread(saver, "t", history) == 2
        assert texts(history) == ["a", "BETWEEN MACHINES!1"]

    def test_the_results_of_an_unfinished_step_come_with_the_rest_of_it(self, history: Any) -> None:
        builder = StateGraph(MessagesState)
        builder.add_node("answer", lambda state: {"messages": [AIMessage("done")]})
        builder.add_node("ask", lambda state: {"messages": [AIMessage(interrupt("may I?"))]})
        builder.add_edge(START, "answer")
        builder.add_edge(START, "ask")
        graph = builder.compile(checkpointer=InMemorySaver())
        graph.invoke({"messages": [("human", "a")]}, config())
        import_thread(graph, "t", history)
        assert texts(history) == ["a"]
        graph.invoke(Command(resume="yes"), config())
        import_thread(graph, "t", history)
        assert texts(history) == ["a", "done", "yes"]

    def test_messages_without_ids(self, saver: Any, history: Any) -> None:
        class Plain(TypedDict):
            messages: Annotated[list[AnyMessage], operator.add]

        history.add_user_message("ok")  # of another front door: not this thread's
        graph = chat(saver, Plain)
        for _ in range(2):
            graph.invoke({"messages": [HumanMessage("ok")]}, config())
        assert import_thread(graph, "t", history) == 4
        assert texts(history) == ["ok", "ok", "ok!1", "ok", "ok!3"]
        assert import_thread(graph, "t", history) == 0
        graph.invoke({"messages": [HumanMessage("ok")]}, config())
        assert import_thread(saver, "t", history) == 2
        assert import_thread(graph, "other", history) == 0

    def test_a_history_of_langchain(self) -> None:
        history, graph = InMemoryChatMessageHistory(), chat(InMemorySaver())
        history.add_message(HumanMessage("before"))
        graph.invoke({"messages": [("human", "a")]}, config())
        assert (import_thread(graph, "t", history), import_thread(graph, "t", history)) == (2, 0)
        assert history.messages[0].id is None

    def test_a_window_hides_nothing_from_it(self) -> None:
        history, graph = MemoryStore().history("42", last=1), chat(InMemorySaver())
        graph.invoke({"messages": [("human", "a")]}, config())
        assert (import_thread(graph, "t", history), import_thread(graph, "t", history)) == (2, 0)

    def test_another_key(self, history: Any) -> None:
        class Other(TypedDict):
            talk: Annotated[list[AnyMessage], add_messages]

        graph = chat(InMemorySaver(), Other, model=lambda state: {"talk": [AIMessage("b")]})
        graph.invoke({"talk": [("human", "a")]}, config())
        assert import_thread(graph, "t", history) == 0
        assert import_thread(graph, "t", history, messages_key="talk") == 2

    @pytest.mark.filterwarnings("ignore:.*beta.*")
    async def test_changes_without_the_graph_are_refused(self, history: Any) -> None:
        channels = pytest.importorskip("langgraph.channels.delta", reason="langgraph 1.2 has it")

        def reduce(messages: Any, updates: Any) -> Any:
            for update in updates:
                messages = add_messages(messages or [], update)
            return messages

        class Delta(TypedDict):
            messages: Annotated[list[AnyMessage], channels.DeltaChannel(reduce)]

        saver = InMemorySaver()
        graph = chat(saver, Delta)
        graph.invoke({"messages": [HumanMessage("a", id="a")]}, config())
        with pytest.raises(ConfigurationError, match="import 't' from the graph"):
            import_thread(saver, "t", history)
        with pytest.raises(ConfigurationError, match="import 't' from the graph"):
            await aimport_thread(saver, "t", history)
        assert import_thread(graph, "t", history) == 2

    @pytest.mark.parametrize("thread", ["", {}, {"configurable": {}}, {"configurable": {"thread_id": ""}}])
    async def test_a_thread_must_be_named(self, thread: Any, history: Any) -> None:
        graph = chat(InMemorySaver())
        with pytest.raises(ConfigurationError, match="thread_id"):
            import_thread(graph, thread, history)
        with pytest.raises(ConfigurationError, match="thread_id"):
            await aimport_thread(graph, thread, history)

    async def test_a_source_must_be_one(self, history: Any) -> None:
        for source in (StateGraph(MessagesState), MemoryStore()):
            with pytest.raises(ConfigurationError, match=type(source).__name__):
                import_thread(source, "t", history)
            with pytest.raises(ConfigurationError, match=type(source).__name__):
                await aimport_thread(source, "t", history)


class TestSeed:
    def seeded(self, graph: Any, history: Any) -> None:
        history.add_messages([HumanMessage("ok"), AIMessage("a", id="a"), HumanMessage("ok")])
        assert seed_thread(graph, config(), history) == 3

    def test_a_thread_goes_on_from_a_history(self, saver: Any, history: Any) -> None:
        graph = chat(saver)
        self.seeded(graph, history)
        state = graph.get_state(config())
        assert texts(state.values["messages"]) == ["ok", "a", "ok"]
        assert state.next == ()
        assert texts(graph.invoke({"messages": [("human", "b")]}, config())["messages"]) == [
            "ok",
            "a",
            "ok",
            "b",
            "b!4",
        ]
        assert import_thread(graph, "t", history) == 2
        assert texts(history) == ["ok", "a", "ok", "b", "b!4"]

    async def test_async(self, history: Any) -> None:
        history.add_messages([HumanMessage("ok"), AIMessage("a", id="a")])
        async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
            graph = chat(saver)
            assert await aseed_thread(graph, config(), history) == 2
            state = await graph.aget_state(config())
            assert (texts(state.values["messages"]), state.next) == (["ok", "a"], ())
            with pytest.raises(ConfigurationError, match="'t' is not empty"):
                await aseed_thread(graph, config(), history)
            assert await aimport_thread(graph, "t", history) == 0

    @marks_summaries
    def test_of_an_agent(self, history: Any) -> None:
        middleware = SummarizationMiddleware(Model(), trigger=("messages", 50), keep=("messages", 2))
        graph = create_agent(Model(), [], middleware=[middleware], checkpointer=InMemorySaver())
        self.seeded(graph, history)
        assert graph.get_state(config()).next == ()
        graph.invoke({"messages": [("human", "b")]}, config())
        assert import_thread(graph, "t", history) == 2
        assert texts(history) == ["ok", "a", "ok", "b", "re:b"]

    def test_a_thread_that_is_not_empty_is_refused(self, saver: Any, history: Any) -> None:
        graph = chat(saver)
        history.add_user_message("x")
        graph.invoke({"messages": [("human", "a")]}, config())
        with pytest.raises(ConfigurationError, match="'t' is not empty"):
            seed_thread(graph, config(), history)
        with pytest.raises(ConfigurationError, match="'t' is not empty"):
            seed_thread(graph, list(graph.get_state_history(config()))[-1].config, history)
        assert texts(graph.get_state(config()).values["messages"]) == ["a", "a!1"]

    def test_nothing_of_an_empty_history(self, history: Any) -> None:
        graph = chat(InMemorySaver())
        assert seed_thread(graph, config(), history) == 0
        assert list(graph.get_state_history(config())) == []

    def test_a_history_of_langchain_stays_as_it_is(self) -> None:
        history = InMemoryChatMessageHistory(messages=[HumanMessage("a")])
        seed_thread(chat(InMemorySaver()), config(), history)
        assert ids(history.messages) == [None]


def with_nodes(factory: Any, saver: Any = None, schema: Any = MessagesState, **options: Any) -> Any:
    load, save = load_history_node(factory, **options), save_history_node(factory, **options)
    return chat(saver, schema, load=load, model=echo, save=save)


class TestNodes:
    @pytest.fixture
    def registry(self) -> HistoryRegistry:
        return HistoryRegistry({"chats": MemoryStore()})

    def test_a_turn(self, registry: Any) -> None:
        graph = with_nodes(registry.get_session_history)
        for text in "abc":
            result = graph.invoke({"messages": [("human", text)]}, config(uuid.uuid4().hex, session_id="42"))
        assert texts(result["messages"]) == ["a", "a!1", "b", "b!3", "c", "c!5"]
        assert texts(registry.history("42")) == texts(result["messages"])

    async def test_async(self, registry: Any) -> None:
        graph = with_nodes(registry.get_session_history)
        for text in "abc":
            result = await graph.ainvoke({"messages": [("human", text)]}, config(uuid.uuid4().hex, session_id="42"))
        assert texts(result["messages"]) == ["a", "a!1", "b", "b!3", "c", "c!5"]
        assert texts(registry.history("42")) == texts(result["messages"])

    def test_on_one_thread(self, registry: Any, saver: Any) -> None:
        graph = with_nodes(registry.get_session_history, saver)
        for text in "abc":
            result = graph.invoke({"messages": [("human", text)]}, config())
        assert texts(result["messages"]) == ["a", "a!1", "b", "b!3", "c", "c!5"]
        assert texts(registry.history("t")) == texts(result["messages"])

    async def test_on_one_thread_async(self, registry: Any) -> None:
        async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
            graph = with_nodes(registry.get_session_history, saver)
            for text in "abc":
                result = await graph.ainvoke({"messages": [("human", text)]}, config())
        assert texts(registry.history("t")) == texts(result["messages"]) == ["a", "a!1", "b", "b!3", "c", "c!5"]

    def test_what_came_by_another_door_is_put_in_its_place(self, registry: Any) -> None:
        graph = with_nodes(registry.get_session_history, InMemorySaver())
        graph.invoke({"messages": [("human", "a")]}, config())
        registry.history("t").add_messages([HumanMessage("x"), AIMessage("y")])
        result = graph.invoke({"messages": [("human", "b")]}, config())
        assert texts(result["messages"]) == ["a", "a!1", "x", "y", "b", "b!5"]
        assert texts(registry.history("t")) == texts(result["messages"])

    def test_the_same_words_again_are_kept(self, registry: Any) -> None:
        registry.history("42").add_messages([HumanMessage("ok"), AIMessage("ok"), HumanMessage("ok")])
        graph = with_nodes(registry.get_session_history)
        for _ in range(2):
            graph.invoke({"messages": [("human", "ok")]}, config(session_id="42"))
        assert texts(registry.history("42")) == ["ok", "ok", "ok", "ok", "ok!4", "ok", "ok!6"]

    def test_through_a_window(self) -> None:
        registry = HistoryRegistry.from_config({"histories": {"chats": {"url": "memory://", "last": 2}}})
        graph = with_nodes(registry.get_session_history, InMemorySaver())
        for text in "abcd":
            result = graph.invoke({"messages": [("human", text)]}, config(text, session_id="42"))
            assert len(result["messages"]) <= 4
        assert texts(registry.store().read("42")) == ["a", "a!1", "b", "b!3", "c", "c!3", "d", "d!3"]

    def test_a_window_on_a_long_thread(self) -> None:
        registry = HistoryRegistry.from_config({"histories": {"chats": {"url": "memory://", "last": 2}}})
        graph = with_nodes(registry.get_session_history, InMemorySaver())
        for text in "abcd":
            result = graph.invoke({"messages": [("human", text)]}, config())
        stored = registry.store().read("t")
        assert texts(stored) == texts(result["messages"]) == ["a", "a!1", "b", "b!3", "c", "c!5", "d", "d!7"]

    def test_a_window_on_a_long_thread_and_another_door(self) -> None:
        registry = HistoryRegistry.from_config({"histories": {"chats": {"url": "memory://", "last": 2}}})
        graph = with_nodes(registry.get_session_history, InMemorySaver())
        for text in "ab":
            graph.invoke({"messages": [("human", text)]}, config())
        registry.history("t").add_user_message("x")
        result = graph.invoke({"messages": [("human", "c")]}, config())
        assert texts(result["messages"]) == ["a", "a!1", "b", "b!3", "x", "c", "c!6"]
        assert texts(registry.store().read("t")) == texts(result["messages"])

    def test_a_save_reads_the_end_alone(self, registry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        registry.history("42").add_messages([HumanMessage(str(number)) for number in range(1000)])
        windowed = HistoryRegistry.from_config({"histories": {"chats": registry.store()}})
        graph = with_nodes(lambda session: StoredChatMessageHistory(windowed.store(), session, last=10))
        read, sizes = MemoryOperations.read, []

        async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
            rows = await read(self, *args, **kwargs)
            sizes.append(len(rows))
            return rows

        monkeypatch.setattr(MemoryOperations, "read", counted)
        graph.invoke({"messages": [("human", "a")]}, config(session_id="42"))
        assert sizes == [10, 24]
        assert texts(registry.history("42"))[-3:] == ["999", "a", "a!11"]

    def test_a_thread_that_began_before_the_end_that_is_read(self, registry: Any) -> None:
        save = save_history_node(registry.get_session_history)
        graph = chat(InMemorySaver(), model=echo, save=save)
        graph.invoke({"messages": [("human", "a")]}, config())
        registry.history("t").add_messages([HumanMessage(str(number)) for number in range(50)])
        graph.invoke({"messages": [("human", "b")]}, config())
        assert texts(registry.history("t")) == ["a", "a!1", *map(str, range(50)), "b", "b!3"]

    def test_saved_twice_is_stored_once(self, registry: Any) -> None:
        save = save_history_node(registry.get_session_history)
        graph = chat(None, first=save, model=echo, second=save, third=save)
        graph.invoke({"messages": [("human", "a")]}, config(session_id="42"))
        assert texts(registry.history("42")) == ["a", "a!1"]

    def test_summaries_are_not_saved(self, registry: Any) -> None:
        made = [
            HumanMessage("gist", additional_kwargs={"lc_source": "summarization"}),
            SystemMessage("gist", additional_kwargs={"langchain_histories": {"summary": True}}),
        ]
        chat(None, save=save_history_node(registry.get_session_history)).invoke(
            {"messages": [*made, HumanMessage("a")]}, config()
        )
        assert texts(registry.history("t")) == ["a"]

    def test_tool_calls_and_results(self, registry: Any) -> None:
        call = AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "c1"}])
        graph = chat(
            None,
            load=load_history_node(registry.get_session_history),
            model=lambda state: {"messages": [call.model_copy()]},
            tool=lambda state: {"messages": [ToolMessage("2", tool_call_id="c1")]},
            save=save_history_node(registry.get_session_history),
        )
        result = graph.invoke({"messages": [("human", "a")]}, config())
        assert registry.history("t").messages == result["messages"]

    @pytest.mark.parametrize("kind", ["window", "summary"])
    @pytest.mark.parametrize("is_one_thread", [False, True])
    async def test_the_model_gets_what_a_view_repairs_and_nothing_of_it_is_stored(
        self, kind: str, is_one_thread: bool
    ) -> None:
        """Calls without an answer, answers without a call, turns that interleave, long results, pins."""
        store = MemoryStore()
        call = AIMessage("", tool_calls=[{"name": "rm", "args": {}, "id": "c1"}])
        other = AIMessage("", tool_calls=[{"name": "find", "args": {}, "id": "c2"}])
        stored = [
            *(HumanMessage("Delete a.txt"), call, HumanMessage("No, never mind"), AIMessage("ok")),
            *(
                HumanMessage("A"),
                other,
                HumanMessage("B"),
                AIMessage("to B"),
                ToolMessage("x" * 5000, tool_call_id="c2"),
            ),
            *(ToolMessage("stray", tool_call_id="gone"), AIMessage("to A")),
        ]
        pinned = store.append("42", stored)[0]
        options: dict[str, Any] = {"clear_tools": {"keep": 0, "over": 20}}

        def view(session_id: str) -> Any:
            history = store.history(session_id)
            if kind == "window":
                return WindowedChatMessageHistory(history, keep=("turns", 4), **options)
            return SummarizingChatMessageHistory(history, "extractive", trigger=150, **options)

        view("42").pin(pinned)
        shown = view("42").messages
        assert any(str(message.content).startswith("[cleared") for message in shown) or kind == "summary"

        def model(state: Any) -> dict[str, Any]:
            check_valid(state["messages"])
            return {"messages": [AIMessage("fine")]}

        graph = chat(
            InMemorySaver() if is_one_thread else None,
            load=load_history_node(view),
            model=model,
            save=save_history_node(view),
        )
        for number in range(6):
            thread = config("42" if is_one_thread else uuid.uuid4().hex, session_id="42")
            question = {"messages": [("human", f"question {number}")]}
            _ = graph.invoke(question, thread) if number % 2 else await graph.ainvoke(question, thread)
        assert store.read("42")[: len(stored)] == stored
        assert texts(store.read("42")[len(stored) :]) == [it for n in range(6) for it in (f"question {n}", "fine")]

    @pytest.mark.parametrize("mode", ["messages", "updates", "values"])
    def test_only_what_is_new_is_streamed(self, registry: Any, mode: str) -> None:
        registry.history("t").add_messages([HumanMessage("old"), AIMessage("older")])
        model = GenericFakeChatModel(messages=iter(["new answer"]))
        graph = chat(
            None,
            load=load_history_node(registry.get_session_history),
            model=lambda state: {"messages": [model.invoke(state["messages"])]},
            save=save_history_node(registry.get_session_history),
        )
        chunks = list(graph.stream({"messages": [("human", "a")]}, config(), stream_mode=mode))
        if mode == "messages":
            assert "".join(chunk.content for chunk, _ in chunks) == "new answer"
        assert texts(registry.history("t")) == ["old", "older", "a", "new answer"]

    def test_without_a_history_the_state_is_left_alone(self, registry: Any) -> None:
        graph = with_nodes(registry.get_session_history)
        updates = list(graph.stream({"messages": [("human", "a")]}, config(), stream_mode="updates"))
        assert updates[0] == {"load": None}

    def test_a_history_per_user(self, registry: Any) -> None:
        graph = with_nodes(registry.get_user_session_history, history_factory_config=USER_SESSION_CONFIG)
        for user in ("ann", "bob"):
            graph.invoke({"messages": [("human", user)]}, config(user_id=user, session_id="42"))
        assert texts(registry.get_user_session_history("ann", "42")) == ["ann", "ann!1"]
        with pytest.raises(ConfigurationError, match="lacks user_id"):
            graph.invoke({"messages": [("human", "a")]}, config(session_id="42"))

    async def test_a_session_must_be_named(self, registry: Any) -> None:
        graph = with_nodes(registry.get_session_history)
        with pytest.raises(ConfigurationError, match="lacks session_id"):
            graph.invoke({"messages": [("human", "a")]})
        with pytest.raises(ConfigurationError, match="lacks session_id"):
            await graph.ainvoke({"messages": [("human", "a")]})

    def test_a_state_that_is_a_model(self, registry: Any) -> None:
        class Typed(BaseModel):
            talk: Annotated[list[AnyMessage], add_messages]

        options: dict[str, Any] = {"messages_key": "talk"}
        load = load_history_node(registry.get_session_history, **options)
        save = save_history_node(registry.get_session_history, **options)
        graph = chat(None, Typed, load=load, model=lambda state: {"talk": [AIMessage(str(len(state.talk)))]}, save=save)
        for text in "ab":
            result = graph.invoke({"talk": [("human", text)]}, config(session_id="42"))
        assert texts(result["talk"]) == texts(registry.history("42")) == ["a", "1", "b", "3"]

    async def test_over_a_history_of_langchain(self) -> None:
        histories: dict[str, InMemoryChatMessageHistory] = {}
        factory = lambda session: histories.setdefault(session, InMemoryChatMessageHistory())  # noqa: E731
        graph = with_nodes(factory)
        graph.invoke({"messages": [("human", "a")]}, config())
        histories["t"].add_user_message("ok")
        await graph.ainvoke({"messages": [("human", "b")]}, config())
        assert texts(histories["t"]) == ["a", "a!1", "ok", "b", "b!4"]
        assert histories["t"].messages[2].id is None

    async def test_behind_a_view_is_the_transcript(self) -> None:
        class View(BaseChatMessageHistory):
            def __init__(self, history: StoredChatMessageHistory) -> None:
                self.history = history

            @property
            def messages(self) -> Any:
                gist = SystemMessage("gist", additional_kwargs={"langchain_histories": {"summary": True}})
                return [gist, *self.transcript()[-1:]]

            def transcript(self) -> Any:
                return self.history.messages

            async def atranscript(self) -> Any:
                return self.history.messages

            def add_messages(self, messages: Any) -> None:
                self.history.add_messages(messages)

            def clear(self) -> None:
                self.history.clear()

        store = MemoryStore()
        graph = with_nodes(lambda session: View(store.history(session)))
        graph.invoke({"messages": [HumanMessage("a", id="a")]}, config())
        graph.invoke({"messages": [HumanMessage("b", id="b")]}, config())
        result = await graph.ainvoke({"messages": [("human", "c")]}, config())
        assert texts(result["messages"]) == ["gist", "b!3", "c", "c!3"]
        graph.invoke({"messages": [HumanMessage("a", id="a")]}, config())  # again, by a client that had no answer
        await graph.ainvoke({"messages": [HumanMessage("b", id="b")]}, config())
        assert texts(store.read("t")) == ["a", "a!2", "b", "b!3", "c", "c!3", "a!3", "b!3"]

    def test_a_save_that_fails_is_raised(self) -> None:
        def broken(message: Any) -> Any:
            raise ZeroDivisionError

        failed = []
        store = MemoryStore(before_save=broken)
        registry = HistoryRegistry({"chats": store}, save_error_callback=lambda error, *_: failed.append(error))
        with pytest.raises(ZeroDivisionError):
            with_nodes(registry.get_session_history).invoke({"messages": [("human", "a")]}, config())
        assert len(failed) == 1


def test_langgraph_is_asked_for_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langgraph.graph", None)
    monkeypatch.delitem(sys.modules, "langchain_histories.integrations.langgraph")
    with pytest.raises(MissingExtraError, match=r"langchain-histories\[langgraph\]"):
        importlib.import_module("langchain_histories.integrations.langgraph")


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_one_session_by_several_doors(kind: str, tmp_path: Any) -> None:
    """A graph, a runnable and a thread use a session in turn and see the same."""
    with ExitStack() as stack:
        store: Any = MemoryStore() if kind == "memory" else FileStore(f"file://{tmp_path}/chats")
        registry = stack.enter_context(HistoryRegistry({"chats": store}))
        graph = with_nodes(registry.get_session_history)
        seen = []

        def model(messages: Any) -> AIMessage:
            seen.append(texts(messages))
            return AIMessage(f"{messages[-1].content}!{len(messages)}")

        runnable = RunnableWithMessageHistory(RunnableLambda(model), registry.get_session_history)
        graph.invoke({"messages": [("human", "a")]}, config(session_id="42"))
        runnable.invoke([HumanMessage("b")], config(session_id="42"))
        result = graph.invoke({"messages": [("human", "c")]}, config(session_id="42"))
        runnable.invoke([HumanMessage("d")], config(session_id="42"))
        expected = ["a", "a!1", "b", "b!3", "c", "c!5", "d", "d!7"]
        assert seen == [expected[:3], expected[:7]]
        assert texts(result["messages"]) == expected[:6]
        history = registry.history("42")
        assert texts(history) == texts(registry.get_session_history("42")) == expected
        threads = chat(InMemorySaver())
        seed_thread(threads, config("new"), history)
        threads.invoke({"messages": [("human", "e")]}, config("new"))
        assert import_thread(threads, "new", history) == 2
        graph.invoke({"messages": [("human", "f")]}, config(session_id="42"))
        assert texts(history) == [*expected, "e", "e!9", "f", "f!11"]
