"""The front doors, each around one model: a turn of a session through any of them. As a program: turns on request."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import warnings
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import Field

from langchain_histories import HistoryRegistry
from langchain_histories.integrations.agents import ChatHistoryMiddleware
from langchain_histories.integrations.langgraph import load_history_node, save_history_node
from langchain_histories.integrations.runnable import RunnableWithHistory

DOORS = ("agent", "graph", "old", "new")


class Model(BaseChatModel):
    """Answers with the question and how many messages it was shown; calls a tool first, where it has one."""

    shown: list[list[Any]] = Field(default_factory=list)
    tool: str = ""

    @property
    def _llm_type(self):
        return "doors"

    def bind_tools(self, tools, **kwargs):
        return self.model_copy(update={"tool": tools[0].name})

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.shown.append(list(messages))
        said = AIMessage(f"{messages[-1].content}!{len(messages)}")
        if self.tool and isinstance(messages[-1], HumanMessage):
            said = AIMessage(
                "", tool_calls=[{"name": self.tool, "args": {"what": "it"}, "id": f"call of {messages[-1].content}"}]
            )
        return ChatResult(generations=[ChatGeneration(message=said)])


@tool
def look(what: str) -> str:
    """Look something up."""
    return f"seen {what}"


def graph_of(model, source, **options):
    """A hand-written graph with the two nodes."""
    graph = StateGraph(MessagesState)
    graph.add_node("load", load_history_node(source, **options))
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("save", save_history_node(source, **options))
    for before, after in ((START, "load"), ("load", "model"), ("model", "save"), ("save", END)):
        graph.add_edge(before, after)
    return graph.compile()


class House:
    """One session of a registry, and the doors to it."""

    def __init__(self, registry, session_id="42"):
        self.model = Model()
        self._config = {"configurable": {"session_id": session_id}}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="RunnableWithMessageHistory is deprecated")
            self.doors = {
                "agent": create_agent(self.model, [look], middleware=[ChatHistoryMiddleware(registry)]),
                "graph": graph_of(self.model, registry),
                "old": RunnableWithMessageHistory(self.model, registry.get_session_history),
                "new": RunnableWithHistory(self.model, registry),
            }

    def _given(self, door, text):
        question = [HumanMessage(text)]
        return {"messages": question} if door in ("agent", "graph") else question

    def turn(self, door, text):
        """Return what the model was shown first."""
        before = len(self.model.shown)
        self.doors[door].invoke(self._given(door, text), self._config)
        return self.model.shown[before]

    async def aturn(self, door, text):
        before = len(self.model.shown)
        await self.doors[door].ainvoke(self._given(door, text), self._config)
        return self.model.shown[before]


def contents(messages):
    return [message.content for message in messages]


def said_in(door, text, shown):
    """What a turn through a door adds, by contents, when the model is shown so many messages."""
    if door == "agent":
        return [text, "", "seen it", f"seen it!{shown + 2}"]
    return [text, f"{text}!{shown}"]


async def check_one_history(registry, order, faces):
    """Take turns through the doors; each model is to see all that was said before, and every reader the same."""
    house, said = House(registry), []
    for number, (door, face) in enumerate(zip([*order, *order], itertools.cycle(faces), strict=False)):
        text = f"{door}{number}"
        shown = await house.aturn(door, text) if face == "async" else house.turn(door, text)
        assert contents(shown) == [*said, text], (door, face)
        said += said_in(door, text, len(shown))
    stored = registry.store().read("42")
    assert contents(stored) == said
    assert registry.history("42").messages == stored
    assert await registry.history("42").aget_messages() == stored
    assert registry.get_session_history("42").messages == stored


class Program:
    """Another process with the same doors, to a session in each of several stores."""

    def __init__(self, tables):
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(tables)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def turn(self, name, door, text):
        self._process.stdin.write(f"{name} {door} {text}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self):
        self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait(60)


def check_two_processes(tables):
    """Take turns through doors of two other processes."""
    programs = Program(tables), Program(tables)
    said = {name: [] for name in tables}
    try:
        for number, door in enumerate(("agent", "graph", "graph", "new", "old", "agent", "new", "old")):
            for name in tables:
                shown = programs[number % 2].turn(name, door, f"q{number}")
                assert shown == [*said[name], f"q{number}"]
                said[name] += said_in(door, f"q{number}", len(shown))
    finally:
        ended = [program.end() for program in programs]
    assert ended == [0, 0]
    for name, table in tables.items():
        with HistoryRegistry.from_config({"histories": {name: table}}) as registry:
            assert contents(registry.store().read("42")) == said[name]
            registry.store().clear("42")


def main():
    """Take the turns that standard input asks for."""
    registries = {
        name: HistoryRegistry.from_config({"histories": {name: table}})
        for name, table in json.loads(sys.argv[1]).items()
    }
    houses = {name: House(registry) for name, registry in registries.items()}
    for line in sys.stdin:
        name, door, text = line.split()
        sys.stdout.write(json.dumps(contents(houses[name].turn(door, text))) + "\n")
        sys.stdout.flush()
    for registry in registries.values():
        registry.close()


if __name__ == "__main__":
    main()
