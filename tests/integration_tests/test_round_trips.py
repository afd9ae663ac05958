"""How often each store goes to its service and back, counted by a proxy: warm, with nobody else there."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from servers import DATABASE
from servers._proxy import Proxy

from langchain_histories import (
    AzureTableStore,
    DynamoDBStore,
    MongoDBStore,
    RedisStore,
    SQLStore,
    TablestoreStore,
    UpstashStore,
)
from langchain_histories.testing.faces import Face

if TYPE_CHECKING:
    from collections.abc import Iterator

TURN = [HumanMessage("q"), AIMessage("a")]
OPERATIONS = (
    "append",
    "append to a new session",
    "read",
    "read the last",
    "count",
    "update_state",
    "first update_state",
)

# In the order of OPERATIONS.
TRIPS = {
    "redis": (1, 1, 1, 1, 1, 2, 2),
    "postgresql+psycopg": (1, 1, 1, 1, 1, 2, 2),
    "postgresql+asyncpg": (1, 1, 1, 1, 1, 2, 2),
    "mariadb+pymysql": (1, 1, 1, 1, 1, 2, 2),
    "mysql+aiomysql": (1, 1, 1, 1, 1, 2, 2),
    "mongodb": (3, 5, 2, 2, 2, 2, 3),
    "dynamodb": (2, 2, 2, 2, 1, 5, 3),
    "azure_table": (2, 2, 2, 2, 1, 5, 3),
    "tablestore": (1, 1, 1, 1, 1, 2, 2),
    "upstash": (1, 1, 1, 1, 1, 2, 2),
}
SERVERS = {"postgresql": "postgres", "mysql": "mariadb"}


@contextlib.contextmanager
def store_behind(proxy: Proxy, kind: str, server: Any) -> Iterator[Any]:
    """A store of a new place, whose connections go through the proxy."""
    name, url = f"t{uuid.uuid4().hex}", server.url_with(port=proxy.port)
    if kind == "redis":
        store: Any = RedisStore(url, key_prefix=name)
    elif kind == "mongodb":
        # The driver's own looks at the server are not counted.
        options = {"heartbeatFrequencyMS": 600_000, "directConnection": True}
        store = MongoDBStore(url, database_name=DATABASE, collection_name=name, client_options=options)
    elif kind == "dynamodb":
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "right-Secret7", "region_name": "eu-west-1"}
        store = DynamoDBStore(table_name=name, create_table=True, client_options={**keys, "endpoint_url": url})
    elif kind == "azure_table":
        store = AzureTableStore(f"{url}/{name}")
    elif kind == "tablestore":
        store = TablestoreStore(url, table_name=name)
    elif kind == "upstash":
        store = UpstashStore(url, key_prefix=name)
    else:
        store = SQLStore(server.url_with(scheme=kind, port=proxy.port), table_name=name)
    with store:
        yield store


def add(state: dict[str, Any] | None) -> dict[str, Any]:
    return {"n": (state or {"n": 0})["n"] + 1}


def count(proxy: Proxy, call: Any) -> int:
    proxy.reset()
    call()
    return int(proxy.round_trips)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", TRIPS)
def test_round_trips(kind: str, is_async: bool, request: pytest.FixtureRequest) -> None:
    family = kind.partition("+")[0]
    server = request.getfixturevalue(f"{SERVERS.get(family, family)}_server")
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
                of.count(session)
                of.update_state(session, add)
        found = (
            count(proxy, lambda: of.append("old", TURN)),
            count(proxy, lambda: of.append("new", TURN)),
            count(proxy, lambda: of.read("old")),
            count(proxy, lambda: of.read("old", last=2)),
            count(proxy, lambda: of.count("old")),
            count(proxy, lambda: of.update_state("old", add)),
            count(proxy, lambda: of.update_state("without a state", add)),
        )
        of.close()
    assert dict(zip(OPERATIONS, found, strict=True)) == dict(zip(OPERATIONS, TRIPS[kind], strict=True))
