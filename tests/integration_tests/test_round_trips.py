"""How often each store goes to its service and back, counted by a proxy: warm, with nobody else there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from behind import server_of, store_behind
from langchain_core.messages import AIMessage, HumanMessage
from servers._proxy import Proxy

from langchain_histories import Capability, WindowedChatMessageHistory
from langchain_histories.testing.faces import Face

TURN = [HumanMessage("q"), AIMessage("a")]
OPERATIONS = (
    "append",
    "append to a new session",
    "read",
    "read the last",
    "tail",
    "count",
    "update_state",
    "first update_state",
    "list the newest",
)

# In the order of OPERATIONS.
TRIPS = {
    "redis": (1, 1, 1, 1, 1, 1, 2, 2, 2),
    "postgresql+psycopg": (1, 1, 1, 1, 1, 1, 2, 2, 2),
    "postgresql+asyncpg": (1, 1, 1, 1, 1, 1, 2, 2, 2),
    "mariadb+pymysql": (1, 1, 1, 1, 1, 1, 2, 2, 2),
    "mysql+aiomysql": (1, 1, 1, 1, 1, 1, 2, 2, 2),
    "mongodb": (3, 5, 2, 2, 4, 2, 2, 3, 5),
    "dynamodb": (2, 2, 2, 2, 6, 1, 5, 3, None),
    "azure_table": (2, 2, 2, 2, 6, 1, 5, 3, None),
    "tablestore": (1, 1, 1, 1, 3, 1, 2, 2, None),
    "upstash": (1, 1, 1, 1, 1, 1, 2, 2, 2),
}


def add(state: dict[str, Any] | None) -> dict[str, Any]:
    return {"n": (state or {"n": 0})["n"] + 1}


def count(proxy: Proxy, call: Any) -> int:
    proxy.reset()
    call()
    return int(proxy.round_trips)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", TRIPS)
def test_round_trips(kind: str, is_async: bool, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(server_of(kind))
    with (
        Proxy(server.port) as proxy,
        asyncio.Runner() as runner,
        store_behind(proxy, kind, server) as store,
    ):
        of = Face(runner if is_async else None)(store)
        for number in range(8):  # psycopg prepares a statement when it has been used five times
            for session in ("old", f"warm {number}"):
                of.append(session, TURN)
                of.read(session)
                of.read(session, last=2)
                of.tail(session)
                of.count(session)
                of.update_state(session, add)
                if Capability.NEWEST in store.capabilities:
                    of.sessions(order="newest", first=5)
        found = (
            count(proxy, lambda: of.append("old", TURN)),
            count(proxy, lambda: of.append("new", TURN)),
            count(proxy, lambda: of.read("old")),
            count(proxy, lambda: of.read("old", last=2)),
            count(proxy, lambda: of.tail("old")),
            count(proxy, lambda: of.count("old")),
            count(proxy, lambda: of.update_state("old", add)),
            count(proxy, lambda: of.update_state("without a state", add)),
            count(proxy, lambda: of.sessions(order="newest", first=5))
            if Capability.NEWEST in store.capabilities
            else None,
        )
        of.close()
    assert dict(zip(OPERATIONS, found, strict=True)) == dict(zip(OPERATIONS, TRIPS[kind], strict=True))


@pytest.mark.parametrize("kind", ["redis", "postgresql+psycopg", "postgresql+asyncpg", "mariadb+pymysql"])
def test_an_append_to_a_session_that_expires_is_one_trip(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(server_of(kind))
    with Proxy(server.port) as proxy, asyncio.Runner() as runner, store_behind(proxy, kind, server, ttl=60) as store:
        of = Face(runner if kind == "postgresql+asyncpg" else None)(store)
        for _ in range(8):
            of.append("old", TURN)
            of.read("old")
        assert count(proxy, lambda: of.append("old", TURN)) == 1
        assert count(proxy, lambda: of.append("new", TURN)) == 1
        assert count(proxy, lambda: of.read("old")) == 1
        of.close()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", ["redis", "postgresql+psycopg", "mariadb+pymysql", "mysql+aiomysql", "upstash"])
def test_a_window_and_its_pins_are_one_trip(kind: str, is_async: bool, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(server_of(kind))
    with Proxy(server.port) as proxy, asyncio.Runner() as runner, store_behind(proxy, kind, server) as store:
        face = Face(runner if is_async else None)
        of = face(store)
        of.append("old", TURN)
        view = WindowedChatMessageHistory(store.history("old"))
        shown = view.get_messages if not is_async else lambda: runner.run(view.aget_messages())
        for _ in range(8):
            of.update_state("old", add)
            assert len(shown()) == 2
        assert count(proxy, shown) == 1
        of.close()
