"""The Azure Table store on the vendor's emulator."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import json
import logging
import uuid
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import ResourceNotFoundError
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest
from azure.data.tables import TableServiceClient, generate_account_sas
from azure.data.tables.aio import TableServiceClient as AsyncTableServiceClient
from behind import Quiet
from broken import broken_heads, broken_references
from langchain_core.messages import AIMessage, HumanMessage
from servers import BUSY

from langchain_histories import (
    AzureTableChatMessageHistory,
    AzureTableStore,
    Capability,
    ConfigurationError,
    StoreError,
    StoreUnavailableError,
    open_history,
    user_session_id,
)
from langchain_histories._neutral import drive
from langchain_histories.stores.shared.partitions import HEAD, Write
from langchain_histories.testing import MessageStoreTests


class TestAzureTableStore(MessageStoreTests):
    capabilities = ~Capability.NEWEST

    @pytest.fixture
    def open_store(self, azure_table_server):
        return functools.partial(AzureTableStore, f"{azure_table_server.url}/t{uuid.uuid4().hex}", timeout=BUSY)

    @pytest.fixture
    def unreachable_store(self):
        return AzureTableStore("azure-table+http://devstoreaccount1:d3Jvbmc=@127.0.0.1:1/devstoreaccount1/messages")

    @pytest.fixture
    def wrong_password_store(self, azure_table_server):
        return AzureTableStore(azure_table_server.url_with(password="wrong-Secret7") + "/messages")

    @pytest.fixture
    def server(self, azure_table_server):
        return azure_table_server

    @pytest.fixture
    def quiet_server(self, azure_table_server):
        with Quiet("azure_table", azure_table_server) as server:
            yield server

    def traces(self, store):
        return sorted((entity["PartitionKey"], entity["RowKey"]) for entity in table_of(store).list_entities())

    def places(self, store):
        return [table.name for table in store.client.list_tables() if table.name == store.table_name]

    def foreign_rows(self, store, session_id):
        def leave(properties):
            references[0]()
            (*_, newest) = sorted(key for key in entities(store, session_id) if key.startswith("r"))
            entity = {"PartitionKey": session_id, "RowKey": newest, **properties}
            table_of(store).upsert_entity(entity, mode="replace")

        references = broken_references(store, session_id)
        properties = [{}, {"text": 5}, {"text": b"\xff"}, {"text": True}, {"text": "x", "text1": 5}, {"text1": "x"}]
        return [*references, *(functools.partial(leave, each) for each in properties)]

    def broken_sessions(self, store, session_id):
        return broken_heads(store, session_id, 4)


def table_of(store):
    return store.client.get_table_client(store.table_name)


@pytest.fixture
def url(azure_table_server):
    return f"{azure_table_server.url}/t{uuid.uuid4().hex}"


@pytest.fixture
def store(url):
    with AzureTableStore(url) as store:
        yield store


def account(server):
    parts = urlsplit(server.url)
    return parts.username, unquote(parts.password), f"http://{server.host}:{server.port}{parts.path}"


def connection_string(server):
    name, key, endpoint = account(server)
    return f"DefaultEndpointsProtocol=http;AccountName={name};AccountKey={key};TableEndpoint={endpoint};"


def entities(store, session_id="s"):
    found = table_of(store).query_entities("PartitionKey eq @key", parameters={"key": session_id})
    return {entity["RowKey"]: entity for entity in found}


def contents(messages):
    return [message.content for message in messages]


def test_the_stored_shape(store):
    store.append("s", [HumanMessage("é"), AIMessage("2")])
    head, first, second = (entities(store)[name] for name in sorted(entities(store)))
    assert (head["RowKey"], json.loads(head["text"])["count"]) == ("head", 2)
    assert json.loads(first["text"])["data"]["content"] == "é"
    assert json.loads(second["text"])["type"] == "ai"
    assert set(first) == {"PartitionKey", "RowKey", "text"}
    assert "é" in first["text"]


def test_a_text_is_split_over_properties_and_entities(store):
    # Two of UTF-16's units each, quotes that JSON escapes twice, and what grows from two bytes to six on its way.
    for text in ("👍" * 100_000, '"' * 300_000, "é" * 700_000, "\\\n" * 200_000):
        store.append("s", [HumanMessage(text), AIMessage("next")])
        assert contents(store.read("s", last=2)) == [text, "next"]
        assert contents(asyncio.run(store.aread("s", last=2))) == [text, "next"]
    for entity in entities(store).values():
        values = [value for name, value in entity.items() if name.startswith("text")]
        assert all(len(value.encode("utf-16-le")) <= 64 * 1024 for value in values)
        names = 2 * sum(map(len, entity))
        assert names + sum(len(str(value).encode("utf-16-le")) + 12 for value in entity.values()) <= 1024 * 1024
    assert {"text", "text1", "text2"} <= set(max(entities(store).values(), key=len))


def test_the_largest_transactions_and_keys(store):
    session_id = "☃" * 170  # three bytes of UTF-8, nine in a URL, six in JSON
    for texts in (["é" * 2200] * 99, ["x" * 2400] * 99, ["☃" * 150_000], ['"' * 400_000]):
        store.append(session_id, [HumanMessage(text) for text in texts])
        assert contents(store.read(session_id, last=len(texts))) == texts


def test_a_shorter_text_leaves_nothing_of_a_longer_one(store):
    store.put_state("s", {"a": "x" * 100_000})
    store.put_state("s", {"a": "y"})
    assert store.get_state("s") == {"a": "y"}
    (state,) = (entity for name, entity in entities(store).items() if name.startswith("s"))
    assert "text1" not in state


def test_long_ids_have_a_hashed_key(store):
    ids = ["x" * 512, "x" * 513, "x" * 1024, "%" * 300, "é" * 512]
    for session_id in ids:
        store.append(session_id, [HumanMessage(session_id)])
    assert [info.session_id for info in store.sessions()] == sorted(ids, key=str.encode)
    assert [info.session_id for info in store.sessions(prefix="x" * 513)] == ids[1:3]
    assert [info.session_id for info in store.sessions(prefix="%")] == ["%" * 300]
    keys = {entity["PartitionKey"] for entity in table_of(store).list_entities()}
    assert "x" * 512 in keys
    assert all(len(key) <= 512 for key in keys)
    assert sum(key.startswith("lh!=") for key in keys) == 4
    user = "u" * 600
    store.append(user_session_id(user, "1"), [HumanMessage("x")])
    assert store.erase(user_id=user) == 1
    assert len(store.sessions()) == 5


def test_prefixes_of_every_kind(store):
    ids = [
        "a",
        "a.",
        "a.b",
        "a0",
        "a\ud7ff",
        "a\ue000",
        "a\uffff",
        "a👍",
        "b",
        "lh",
        "lh!",
        "lh!=x",
        "lh%",
        "!",
        "~",
        "~a",
    ]
    for session_id in ids:
        store.append(session_id, [HumanMessage("x")])
    for prefix in [*ids, "\ud7ff", "l", "A"]:
        expected = {name for name in ids if name.startswith(prefix)}
        assert {info.session_id for info in store.sessions(prefix=prefix)} == expected


@pytest.mark.parametrize("session_id", ["zz' or PartitionKey ne 'zz", "it's", "''", "' or '1' eq '1", "@key", "x)"])
def test_a_session_id_is_no_query(store, session_id):
    store.append("secret", [HumanMessage("hidden")])
    assert store.read(session_id) == []
    assert store.sessions(prefix=session_id) == []
    store.append(session_id, [HumanMessage("mine")])
    assert contents(store.read(session_id)) == ["mine"]
    store.clear(session_id)
    assert contents(store.read("secret")) == ["hidden"]


def test_twenty_appends_at_once_keep_every_message(store):
    async def main():
        await asyncio.gather(*(store.aappend("s", [HumanMessage(f"{n}"), AIMessage(f"re {n}")]) for n in range(20)))

    asyncio.run(main())
    stored = contents(store.read("s"))
    assert sorted(stored[::2], key=int) == [f"{n}" for n in range(20)]
    assert stored[1::2] == [f"re {text}" for text in stored[::2]]


def test_more_than_a_page_of_the_service(store):
    store.append("s", [HumanMessage(f"{n}") for n in range(2500)])
    assert contents(store.read("s")) == [f"{n}" for n in range(2500)]
    for start in range(0, 1200, 100):
        store.append("rows", [HumanMessage(f"{n}") for n in range(start, start + 50)])
        store.append("rows", [HumanMessage(f"{n}") for n in range(start + 50, start + 100)])
    assert len(entities(store, "rows")) == 1201
    assert contents(store.read("rows")) == [f"{n}" for n in range(1200)]
    assert contents(asyncio.run(store.aread("rows", last=3))) == ["1197", "1198", "1199"]
    store.clear("rows")
    assert entities(store, "rows") == {}


def test_a_service_that_returns_entities_in_any_order(store, monkeypatch):
    entities_of = store.operations._entities

    async def shuffled(*args, **options):
        return sorted(await entities_of(*args, **options), key=lambda entity: hash(entity["RowKey"]))

    monkeypatch.setattr(store.operations, "_entities", shuffled)
    for n in range(30):
        store.append("s", [HumanMessage(f"{n}")])
    store.append("s", [HumanMessage(f"{n}") for n in range(30, 230)])
    records = store.records("s")
    expected = [f"{n}" for n in range(230)]
    assert [record.message.content for record in records] == expected
    store.delete("s", [record.id for record in records[3:29]])
    expected[3:29] = []
    for count in (1, 4, 5, 100, 202, 204, 300):
        assert contents(store.read("s", last=count)) == expected[-count:]
        assert contents(store.read("s", first=count)) == expected[:count]


def test_the_last_of_many_costs_what_it_returns(store, monkeypatch):
    for start in range(0, 500, 50):
        store.append("s", [HumanMessage(f"{n}") for n in range(start, start + 50)])
    seen = []
    entities_of = store.operations._entities

    async def counted(*args, **options):
        found = await entities_of(*args, **options)
        seen.extend(found)
        return found

    monkeypatch.setattr(store.operations, "_entities", counted)
    position = store.records("s", last=3)[0].position
    assert contents(store.read("s", after=position)) == ["498", "499"]
    assert contents(store.read("s", first=2)) == ["0", "1"]
    assert len(seen) == 3 + 3 + 2 + 2  # each time the head too


class Stumbling(RequestsTransport):
    """Answers to a transaction that the service was busy: after doing it (and `then`), or instead."""

    def __init__(self, *, done, times=1, then=lambda: None):
        super().__init__()
        self.done, self.times, self.then = done, times, then

    def send(self, request, **options):
        if self.times and request.url.endswith("$batch"):
            self.times -= 1
            if self.done:
                super().send(request, **options)
            self.then()
            request = HttpRequest("GET", f"{request.url.removesuffix('/$batch')}/no/such/thing")
            answer = super().send(request, **options)
            answer.status_code = 503
            return answer
        return super().send(request, **options)


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_a_retry_by_the_driver(url, store, done):
    store.append("s", [HumanMessage("before")])
    store.put_state("s", {"n": 1})
    for change in (
        lambda it: it.append("s", [HumanMessage("a"), AIMessage("b")]),
        lambda it: it.update_state("s", lambda state: {"n": state["n"] + 1}),
        lambda it: it.replace("s", [HumanMessage("c")]),
        lambda it: it.delete("s", [it.records("s")[0].id]),
    ):
        transport = Stumbling(done=done)
        options = {"transport": transport, "retry_backoff_factor": 0}
        with AzureTableStore(url, client_options=options) as stumbling:
            change(stumbling)
            assert transport.times == 0
        if store.count("s") == 3:
            assert contents(store.read("s")) == ["before", "a", "b"]
    assert (store.read("s"), store.count("s"), store.get_state("s")) == ([], 0, {"n": 2})


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_others_write_before_a_retry_by_the_driver(url, store, done):
    store.append("s", [HumanMessage("before")])
    transport = Stumbling(done=done, then=lambda: store.append("s", [HumanMessage("other")]))
    with AzureTableStore(url, client_options={"transport": transport, "retry_backoff_factor": 0}) as stumbling:
        stumbling.append("s", [HumanMessage("a"), AIMessage("b")])
    assert contents(store.read("s")) == ["before", *(["a", "b", "other"] if done else ["other", "a", "b"])]
    assert store.count("s") == 4


def test_a_service_that_stays_busy(url, store):
    store.setup()
    options = {"transport": Stumbling(done=False, times=99), "retry_backoff_factor": 0}
    with AzureTableStore(url, client_options=options) as busy, pytest.raises(StoreUnavailableError, match="append"):
        busy.append("s", [HumanMessage("x")])
    assert store.read("s") == []


def test_a_table_that_is_gone_is_not_an_empty_history(store):
    for call in (lambda: store.read("s"), lambda: store.append("s", [HumanMessage("y")]), store.sessions):
        store.append("s", [HumanMessage("x")])
        table_of(store).delete_table()
        with pytest.raises(StoreError) as caught:
            call()
        assert not isinstance(caught.value, StoreUnavailableError)


def test_another_caller_makes_the_table_in_that_moment(store, monkeypatch):
    async def missing(*args, **options):
        store.client.create_table(store.table_name)
        raise ResourceNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(store.operations, "_entities", missing)
        store.setup()
    store.append("s", [HumanMessage("x")])
    assert store.count("s") == 1


def test_a_signature_that_only_reads(azure_table_server, url, store, caplog):
    place, _, signature = azure_table_server.readonly_url.partition("?")
    secret = dict(parse_qsl(signature))["sig"]
    table = url.rpartition("/")[2]
    with caplog.at_level(logging.DEBUG), AzureTableStore(f"{place}/{table}?{signature}") as reader:
        assert reader.read("s") == []  # the table is missing, and a reader makes none
        with pytest.raises(StoreError) as caught:
            reader.append("s", [HumanMessage("x")])
        store.append("s", [HumanMessage("x")])
        assert reader.read("s") == asyncio.run(reader.aread("s")) == [HumanMessage("x")]
        told = f"{caught.value} {caught.value.__cause__} {reader!r} {caplog.text}"
        assert "sig=***" in told
        assert secret not in told
        assert quote(secret, safe="") not in told


def test_a_wrong_signature(azure_table_server, caplog):
    place = azure_table_server.readonly_url.partition("?")[0]
    with (
        caplog.at_level(logging.DEBUG),
        AzureTableStore(f"{place}/messages?sv=2019-02-02&sig=wrong-Secret7") as store,
        pytest.raises(StoreUnavailableError) as caught,
    ):
        store.read("s")
    assert "wrong-Secret7" not in f"{caught.value} {caught.value.__cause__} {store!r} {caplog.text}"


def test_every_way_to_name_an_account(azure_table_server, store, url, monkeypatch):
    name, key, endpoint = account(azure_table_server)
    table = store.table_name
    sas = generate_account_sas(
        AzureNamedKeyCredential(name, key),
        resource_types="sco",
        permission="raud",
        expiry=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1),
    )
    store.append("s", [HumanMessage("x")])
    string = connection_string(azure_table_server)
    History = AzureTableChatMessageHistory  # noqa: N806
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", string)
    histories = [
        History("s", url),
        History("s", table_name=table),
        History("s", f"azure-table:///{table}"),
        History.from_connection_string("s", string, table),
        History.from_account_and_key("s", name, key, endpoint, table),
        History.from_sas_token("s", endpoint, sas, table),
        History.from_sas_token("s", endpoint + "/", "?" + sas, table_name=table),
        open_history(url, "s"),
        open_history("azure-table:", "s", table_name=table, connection_string=string),
    ]
    for number, history in enumerate(histories, 1):
        assert len(history.messages) == number
        history.add_user_message("more")
        assert len(asyncio.run(history.aget_messages())) == number + 1
        assert key not in repr(history)
        assert "sig=" not in repr(history)
    assert History("other", url).store.client is histories[0].store.client


def test_clients_of_your_own(azure_table_server, url):
    string, table = connection_string(azure_table_server), url.rpartition("/")[2]
    blocking = TableServiceClient.from_connection_string(string)
    with AzureTableStore(client=blocking, table_name=table) as store:
        assert Capability.NATIVE_ASYNC not in store.capabilities
        store.append("s", [HumanMessage("é")])
        assert asyncio.run(store.aread("s")) == [HumanMessage("é")]
    assert list(blocking.list_tables())

    async def use():
        client = AsyncTableServiceClient.from_connection_string(string)
        async with AzureTableStore(async_client=client, table_name=table) as store:
            assert Capability.NATIVE_ASYNC in store.capabilities
            await store.aappend("s", [HumanMessage("x")])
            with pytest.raises(ConfigurationError, match="async client alone"):
                store.read("s")
        assert [item.name async for item in client.list_tables()]
        both = AzureTableStore(client=blocking, async_client=client, table_name=table)
        assert await both.aread("s") == both.read("s") == [HumanMessage("é"), HumanMessage("x")]
        await client.close()

    asyncio.run(use())
    blocking.close()


def test_a_thousand_histories_share_one_client(url):
    histories = [AzureTableChatMessageHistory(f"s{number}", url) for number in range(1000)]
    assert len({id(history.store.client) for history in histories}) == 1


def test_erase_takes_what_a_clear_left_that_was_stopped(store):
    store.append("@u/s", [HumanMessage("x")])
    drive(store.operations._commit(store.client, store.operations.key("@u/s"), [Write(HEAD, None)]))
    assert store.sessions() == []
    assert store.erase(user_id="u") == 1
    assert list(table_of(store).list_entities()) == []
