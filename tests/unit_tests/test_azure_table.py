"""The Azure Table store without a server."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading

import azure.data.tables.aio
import pytest
from azure.core.exceptions import HttpResponseError, ServiceRequestError
from azure.data.tables import TableServiceClient
from azure.data.tables.aio import TableServiceClient as AsyncTableServiceClient

from langchain_histories import (
    AzureTableChatMessageHistory,
    AzureTableStore,
    Capability,
    ConfigurationError,
    HistoryRegistry,
    open_store,
)
from langchain_histories.stores.azure_table.connections import _hide_signature
from langchain_histories.stores.azure_table.operations import (
    AzureTableOperations,
    _bounds,
    _item,
    _key,
    _operation,
    _partition,
)
from langchain_histories.stores.shared.partitions import HEAD, Item, Write

ACCOUNT = "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=c2VjcmV0;EndpointSuffix=core.windows.net"


@pytest.fixture(autouse=True)
def no_account_in_the_environment(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)


@pytest.mark.parametrize(
    ("url", "endpoint", "table"),
    [
        ("azure-table://a.table.core.windows.net/chats", "https://a.table.core.windows.net/chats", "chats"),
        ("azure-table://a.table.core.windows.net", "https://a.table.core.windows.net/messagestore", "messagestore"),
        ("azure-table://a.table.core.windows.net/", "https://a.table.core.windows.net/messagestore", "messagestore"),
        (
            "azure-table://u:c2VjcmV0@a.table.cosmos.azure.com:443/c12",
            "https://a.table.cosmos.azure.com:443/c12",
            "c12",
        ),
        ("azure-table://a.example/chats?sv=1&sig=c2VjcmV0", "https://a.example/chats?sv=1&sig=c2VjcmV0", "chats"),
        ("azure-table+http://u:c2VjcmV0@127.0.0.1:10002/u/chats", "http://127.0.0.1:10002/u/chats", "chats"),
    ],
)
def test_urls(url, endpoint, table):
    store = open_store(url)
    assert store.table_name == table
    assert f"{store.client.url.partition('?')[0]}/{table}" == endpoint.partition("?")[0]
    for shown in (repr(store), repr(store.history("s")), str(store)):
        assert "c2VjcmV0" not in shown
        assert "sig" not in shown
    if "@" in url:
        assert store.client.credential.named_key == ("u", "c2VjcmV0")
    store.close()


def test_without_key_and_signature_azure_identity_is_asked():
    from azure.identity import DefaultAzureCredential
    from azure.identity.aio import DefaultAzureCredential as AsyncCredential

    store = AzureTableStore("azure-table://a.table.core.windows.net/chats")
    assert isinstance(store.client.credential, DefaultAzureCredential)
    store.close()

    async def use():
        lent = await store._clients.lend_native(store)
        assert isinstance(lent.client.credential, AsyncCredential)
        closed = []

        async def close():
            closed.append(True)

        lent.client.credential.close = close
        await store._clients.give_back_native(lent)
        await store.aclose()
        assert closed == [True]

    asyncio.run(use())


def test_a_client_is_not_made_on_the_event_loop(monkeypatch):
    """The packages that it needs read files and start a process."""
    threads = []
    monkeypatch.setattr(
        azure.data.tables.aio, "TableServiceClient", lambda *_, **__: threads.append(threading.current_thread())
    )
    asyncio.run(AzureTableStore("azure-table://u:c2Vj@h/chats")._clients._connect(True))
    assert threads
    assert threading.main_thread() not in threads


def test_the_environment_names_an_account(monkeypatch):
    with pytest.raises(ConfigurationError, match="AZURE_STORAGE_CONNECTION_STRING"):
        AzureTableStore("azure-table:///chats")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", ACCOUNT)
    for store in (AzureTableStore("azure-table:///chats"), AzureTableStore(table_name="chats")):
        assert (store.client.account_name, store.table_name) == ("acct", "chats")
        assert "c2VjcmV0" not in repr(store)


def test_a_config():
    registry = HistoryRegistry.from_config(
        {"histories": {"a": {"url": "azure-table:///chats", "connection_string": ACCOUNT}}}
    )
    assert registry.store().client.account_name == "acct"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "AZURE_STORAGE_CONNECTION_STRING"),
        ({"url": "azure-table://h/ab"}, "table_name"),
        ({"url": "azure-table://h/my_table"}, "my_table"),
        ({"url": "azure-table://h/1table"}, "table_name"),
        ({"url": "azure-table://h/chats", "table_name": "other"}, "other"),
        ({"url": "azure-table://h/chats", "connection_string": ACCOUNT}, "not both"),
        ({"url": "azure-table://h/chats", "ttl": 0}, "ttl"),
        ({"connection_string": "hunter2"}, "portal"),
        ({"connection_string": "hunter2=1;;x"}, "portal"),
        ({"client": "hunter2"}, "blocking client of azure.data.tables"),
        ({"async_client": TableServiceClient.from_connection_string(ACCOUNT)}, "asyncio"),
        ({"client": AsyncTableServiceClient.from_connection_string(ACCOUNT)}, "TableServiceClient"),
        ({"client": TableServiceClient.from_connection_string(ACCOUNT), "url": "azure-table://h/c"}, "both"),
        ({"client": TableServiceClient.from_connection_string(ACCOUNT), "client_options": {"a": 1}}, "both"),
    ],
)
def test_what_cannot_be_used(arguments, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        AzureTableStore(**arguments)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "azure-table://acct:hun/ter2==@a.table.core.windows.net/chats",
        "azure-table://acct:12/hunter2==@a.table.core.windows.net/chats",
        "azure-table://acct:hun?ter2==@a.table.core.windows.net/chats",
        "azure-table://acct:12#hunter2==@a.table.core.windows.net/chats",
        "azure-table://acct:hunter2==@a.table.core.windows.net:x/chats",
        "azure-table://hunter2@a.table.core.windows.net/chats",
        "azure-table://a.table.core.windows.net/chats?key=hunter2",
    ],
)
def test_bad_urls(url):
    with pytest.raises(ConfigurationError, match="%2F") as caught:
        AzureTableStore(url)
    assert "hun" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_an_account_that_the_driver_cannot_use():
    for store in (
        AzureTableStore(connection_string="AccountKey=hunter2"),
        AzureTableStore("azure-table+http://h/chats"),  # a token over plain HTTP
    ):
        with pytest.raises(ConfigurationError, match="driver") as caught:
            store.read("s")
        assert "hunter2" not in str(caught.value)


def test_tables_share_the_client_of_their_account():
    stores = [AzureTableStore(f"azure-table://u:c2Vj@h/chats{number}") for number in range(60)]
    assert len({id(store.client) for store in stores}) == 1
    other = AzureTableStore("azure-table://u:b3RoZXI=@h/chats0")
    assert other.client is not stores[0].client
    for store in (other, *stores):
        store.close()


def test_options_reach_the_driver():
    store = AzureTableStore("azure-table://u:c2Vj@h/chats", client_options={"api_version": "2020-12-06"})
    assert store.client.api_version == "2020-12-06"


def test_a_client_of_your_own_is_not_opened_or_closed():
    client = TableServiceClient.from_connection_string(ACCOUNT)
    store = AzureTableStore(client=client)
    assert store.capabilities == ~(Capability.NEWEST | Capability.NATIVE_ASYNC)
    assert (store.table_name, repr(store)) == ("messagestore", "AzureTableStore('<client>')")


def test_the_factories_take_the_arguments_that_are_usual_for_this_service():
    usual = {
        "from_connection_string": ["connection_string"],
        "from_account_and_key": ["account_name", "account_key", "endpoint"],
        "from_sas_token": ["endpoint", "sas_token"],
        "from_aad_token": ["endpoint"],
    }
    for name, names in usual.items():
        given = list(inspect.signature(getattr(AzureTableChatMessageHistory, name)).parameters)
        assert given == ["session_id", *names, "table_name"]
    history = AzureTableChatMessageHistory.from_account_and_key("s", "acct", "a/b+c==")
    assert history.store.client.url == "https://acct.table.core.windows.net"
    assert history.store.client.credential.named_key == ("acct", "a/b+c==")
    assert history.table_name == "messagestore"
    cosmos = "https://acct.table.cosmos.azure.com:443/"
    history = AzureTableChatMessageHistory.from_account_and_key("s", "acct", "a/b+c==", cosmos, "chats")
    assert history.store.client.url == cosmos.rstrip("/")
    history = AzureTableChatMessageHistory.from_aad_token("s", "https://acct.table.core.windows.net")
    other = AzureTableChatMessageHistory.from_aad_token("t", "acct.table.core.windows.net")
    assert history.store._clients is other.store._clients


def error(status, code):
    it = HttpResponseError("x")
    it.status_code, it.error_code = status, code
    return it


@pytest.mark.parametrize(
    ("what", "unavailable"),
    [
        (ServiceRequestError("refused"), True),
        (error(401, "InvalidAuthenticationInfo"), True),
        (error(403, "AuthenticationFailed"), True),
        (error(403, "AuthorizationPermissionMismatch"), False),
        (error(429, "TooManyRequests"), True),
        (error(503, "ServerBusy"), True),
        (error(404, "TableNotFound"), False),
        (error(400, "InvalidInput"), False),
        (error(413, "RequestBodyTooLarge"), False),
    ],
)
def test_which_errors_mean_that_the_service_is_out_of_reach(what, unavailable):
    assert AzureTableOperations("chats").is_unavailable(what) is unavailable


def test_keys_that_the_service_can_hold():
    operations = AzureTableOperations("chats")
    ids = ["a", "a/b", "a%2Fb", "lh%a", "lh!a", "!", "%", "\x00", "\x85", "x" * 512, "x" * 513, "x" * 1024, "é" * 257]
    ids += ["lh!=" + "0" * 64, "/" * 100, "/" * 1024]
    partitions = [_partition(operations.key(session_id)) for session_id in ids]
    assert len(set(partitions)) == len(ids)
    for session_id, partition in zip(ids, partitions, strict=True):
        assert not set("/\\#?%\x00\x85") & set(partition)
        assert len(partition.encode("utf-16-le")) <= 1024
        write = Write(HEAD, "{}")
        _, entity, _ = _operation(partition, operations.key(session_id), "c", write)
        assert operations.session_id(_key(entity)) == session_id
    assert partitions[:1] + partitions[9:10] == ["a", "x" * 512]


@pytest.mark.parametrize("prefix", ["a", "a.", "a~", "[", "lh%", "é", "\ud7fe", "a\ud7ff", "a👍", "a\uffff"])
def test_the_bounds_of_a_prefix_hold_in_both_orders(prefix):
    low, high = _bounds(prefix)
    assert not set(AzureTableOperations.unholdable) & {high[-1]}
    for more in ("", "\x01", "a", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"):
        key = (prefix + more).replace("%", "!")
        assert low.encode() <= key.encode() < high.encode()
        assert low.encode("utf-16-be") <= key.encode("utf-16-be") < high.encode("utf-16-be")


def test_a_prefix_without_bounds():
    assert _bounds("") is _bounds("👍") is None


@pytest.mark.parametrize("length", [0, 1, 16_000, 16_001, 48_000])
def test_texts_in_properties(length):
    class Entity(dict):
        metadata = {"etag": "e"}  # noqa: RUF012

    text = "👍" * length
    _, entity, options = _operation("p", "p", "c", Write("r1", text, Item("r1", "", "tag")))
    assert all(len(value.encode("utf-16-le")) <= 64 * 1024 for value in entity.values())
    assert _item(Entity(entity)) == Item("r1", text, "e")
    assert options["etag"] == "tag"


def test_the_largest_entity_is_smaller_than_the_services():
    text = "x" * AzureTableOperations.max_text
    _, entity, _ = _operation("p" * 512, "k" * 1024, "c" * 32, Write(HEAD, text))
    assert sum(8 + 2 * len(name) + 4 + 2 * len(value) for name, value in entity.items()) < 1024 * 1024
    assert len(entity) < 252


def test_a_signature_is_hidden_from_the_log_of_the_http_library():
    line = ("http", "h", 80, "GET", "/t()?$filter=x&sig=abc%2Fd%3D&se=1", "HTTP/1.1", 200, None)
    record = logging.LogRecord("n", 10, "p", 1, '%s://%s:%s "%s %s %s" %s %s', line, None)
    assert _hide_signature(record)
    assert record.getMessage() == 'http://h:80 "GET /t()?$filter=x&sig=***&se=1 HTTP/1.1" 200 None'
    assert _hide_signature(logging.LogRecord("n", 10, "p", 1, "no arguments", None, None))
