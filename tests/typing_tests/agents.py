"""Agents and graphs with histories. Type checkers read them, and a test runs them."""

# pyright: standard
# LangGraph's own types are partly unknown to it.

from __future__ import annotations

from typing import Any, assert_type

from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from langchain_histories import HistoryRegistry, MemoryStore
from langchain_histories.integrations.agents import ChatHistoryMiddleware
from langchain_histories.integrations.langgraph import import_thread, load_history_node, save_history_node


def answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"{len(state['messages'])} messages")]}


async def main() -> None:
    registry = HistoryRegistry({"chat": MemoryStore()})
    middleware = ChatHistoryMiddleware(registry, save="turn", on_save_error="warn", serialize="wait")
    agent = create_agent(
        FakeListChatModel(responses=["You are Ivan."]), middleware=[middleware], checkpointer=InMemorySaver()
    )
    agent.invoke({"messages": [HumanMessage("Who am I?")]}, {"configurable": {"thread_id": "45"}})
    assert_type(import_thread(agent, "45", registry.history("46")), int)

    load = load_history_node(registry.factory("chat"))
    assert_type(load, Runnable[Any, dict[str, Any]])
    builder = StateGraph(MessagesState)
    builder.add_node("load", load)
    builder.add_node("answer", answer)
    builder.add_node("save", save_history_node(registry))
    builder.add_edge(START, "load").add_edge("load", "answer").add_edge("answer", "save")
    graph = builder.compile()
    graph.invoke({"messages": [HumanMessage("How many?")]}, {"configurable": {"session_id": "45"}})
    assert registry.store().count("45") == 4
