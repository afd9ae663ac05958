"""AlloyDB and Cloud SQL: Google's own connectors, whose last step, to open a connection, ends at a local PostgreSQL.

Neither service can be run here. What is not Google's is run: the URL, the connectors' options and life, the engines.
"""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from pathlib import Path

import asyncpg
import google.auth
import psycopg
import pytest
from google.auth.credentials import AnonymousCredentials
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_histories import Capability, ConfigurationError, SQLStore, StoreUnavailableError, open_store
from langchain_histories.testing import golden_messages

alloydb = pytest.importorskip("google.cloud.alloydbconnector")
cloudsql = pytest.importorskip("google.cloud.sql.connector")

URLS = {
    "alloydb": "alloydb://ann%40x:right-Secret7@project/europe-west1/chats/primary/histories",
    "cloudsql": "cloudsql://ann%40x:right-Secret7@example.com:project:europe-west1:chats/histories",
}
PLACES = {
    "alloydb": "projects/project/locations/europe-west1/clusters/chats/instances/primary",
    "cloudsql": "example.com:project:europe-west1:chats",
}


@pytest.fixture(params=["alloydb", "cloudsql"])
def service(request):
    return request.param


@pytest.fixture
def connected(postgres_server, monkeypatch):
    """What the connectors were asked to connect to; each entry has the connector, the instance, driver and login."""
    calls = []

    def connect(self, place, driver, **login):
        calls.append((self, place, driver, login))
        if driver != "psycopg":
            return connect_async(self, place, driver, **login)
        return psycopg.connect(postgres_server.url)

    async def connect_async(self, place, driver, **login):
        calls.append((self, place, driver, login))
        return await asyncpg.connect(postgres_server.url)

    asked = []

    def default(*_, **__):
        asked.append(threading.current_thread())
        return AnonymousCredentials(), "project"

    monkeypatch.setattr(google.auth, "default", default)
    monkeypatch.setattr(alloydb.Connector, "connect", connect)
    monkeypatch.setattr(alloydb.AsyncConnector, "connect", connect_async)
    monkeypatch.setattr(cloudsql.Connector, "connect", connect)
    monkeypatch.setattr(cloudsql.Connector, "connect_async", connect_async)
    calls.append(asked)
    return calls


def test_both_faces_through_the_connector(service, connected):
    (asked,) = connected
    connected.clear()
    url = URLS[service] + "?ip_type=PSC&enable_iam_auth=true&refresh_strategy=lazy&quota_project=payer"
    store = open_store(url, table_name=f"t{uuid.uuid4().hex}")
    assert isinstance(store, SQLStore)
    assert Capability.NATIVE_ASYNC in store.capabilities
    assert "Secret7" not in repr(store)
    assert connected == asked == []  # it was opened lazily
    with store:
        store.append("s", golden_messages())

        async def use():
            await store.aappend("s", [HumanMessage("x")])
            await asyncio.gather(*(store.aread("s", last=1) for _ in range(20)))
            return await store.acount("s")

        assert asyncio.run(use()) == len(golden_messages()) + 1
    assert [place for _, place, _, _ in connected] == [PLACES[service]] * len(connected)
    assert {driver for _, _, driver, _ in connected} == {"psycopg", "asyncpg"}
    assert all(
        login == {"user": "ann@x", "password": "right-Secret7", "db": "histories"} for _, _, _, login in connected
    )
    connectors = {id(connector): connector for connector, *_ in connected}.values()
    assert len(connectors) == 2  # one for each engine
    assert asked[-1] is not threading.main_thread()  # the event loop was not held up
    for connector in connectors:
        assert connector._enable_iam_auth is True
        assert connector._ip_type.name == "PSC"
        assert connector._refresh_strategy.name == "LAZY"
        assert connector._quota_project == "payer"
        assert connector._closed  # with the store, and with the loop


@pytest.mark.parametrize(
    "url",
    [
        "alloydb://ann@project/region/cluster/histories",
        "alloydb://project/region/cluster/instance/histories",
        "alloydb://ann@project/region/cluster/instance/",
        "cloudsql://ann@project:region/histories",
        "cloudsql://ann@project:region:instance",
        "cloudsql://ann@project:region:instance/a/b",
        "cloudsql://:wrong-Secret7@project:region:instance/histories",
    ],
)
def test_urls_that_name_no_instance(url):
    with pytest.raises(ConfigurationError, match=r"use a form like '(alloydb|cloudsql)://") as caught:
        SQLStore(url)
    assert "Secret7" not in str(caught.value)


@pytest.mark.parametrize("option", ["iptype=PSC", "enable_iam_auth=perhaps", "password=Secret7", "enable_iam_auth="])
def test_options_that_are_none(service, option):
    with pytest.raises(ConfigurationError, match=f"{option.partition('=')[0]} .*known are .*ip_type") as caught:
        SQLStore(f"{URLS[service]}?{option}")
    assert "Secret7" not in str(caught.value)


@pytest.mark.parametrize("option", ["ip_type=odd", "refresh_strategy=odd"])
def test_options_that_the_connector_refuses(service, option, connected):
    store = SQLStore(f"{URLS[service]}?{option}")
    for call in (lambda: store.read("s"), lambda: asyncio.run(store.aread("s"))):
        with pytest.raises(ConfigurationError, match=r"connector refuses its options.*(?i:odd)"):
            call()


def test_no_credentials_are_an_outage(service, monkeypatch):
    def default(*_, **__):
        raise google.auth.exceptions.DefaultCredentialsError("none")

    monkeypatch.setattr(google.auth, "default", default)
    store = SQLStore(URLS[service])
    for call in (lambda: store.read("s"), lambda: asyncio.run(store.aread("s"))):
        with pytest.raises(StoreUnavailableError) as caught:
            call()
        assert "Secret7" not in f"{caught.value} {caught.value.__cause__}"


# Their table.


def test_what_googles_classes_wrote(postgres_server):
    name = f"t{uuid.uuid4().hex}"
    script = Path(__file__).with_name("google_history.sql").read_text().replace("google_history", name)
    with psycopg.connect(postgres_server.url) as connection:
        connection.execute(script)
        connection.commit()
        with SQLStore(client=connection, table_name=name) as store:
            usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
            call = {"name": "f", "args": {"a": 1, "b": [0.5, None]}, "id": "c1"}
            assert store.read("s") == [
                HumanMessage("héllo 👍", id="1", name="Ivan"),
                AIMessage("", tool_calls=[call], usage_metadata=usage),
                ToolMessage("42", tool_call_id="c1"),
                SystemMessage("be brief"),
                ChatMessage(content="any", role="moderator"),
            ]
            records = store.records("s")
            assert [record.at for record in records] == [None] * 5
            assert store.delete("s", [records[1].id]) == 1
            assert store.sessions()[0].count == 4
            # What we write there has their shape.
            (record_id,) = store.append("s", [HumanMessage("new", additional_kwargs={"bb": 1, "a": 2})])
            assert store.records("s")[-1].id == record_id
            assert store.records("s")[-1].at is not None
        kind, data = connection.execute(f"SELECT type, data FROM {name} ORDER BY id DESC LIMIT 1").fetchone()
        assert (kind, data["content"], data["type"]) == ("human", "new", "human")
        assert set(json.loads(json.dumps(data))) - {"lh:meta"} == {
            *("content", "additional_kwargs", "response_metadata", "type", "name", "id"),
        }
