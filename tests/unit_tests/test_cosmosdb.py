"""The Cosmos DB store without a service: its arguments, its secrets, and what it makes of LangChain's documents."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import pickle
import threading
import warnings

import azure.cosmos.aio
import azure.identity
import azure.identity.aio
import pytest
from azure.cosmos import CosmosClient
from hypothesis import given
from hypothesis import strategies as st
from servers._cosmosdb_service import as_doubles

from langchain_histories import Capability, ConfigurationError, CosmosDBChatMessageHistory, CosmosDBStore
from langchain_histories.stores.cosmosdb import documents

KEY = base64.b64encode(b"a secret key / of 64 bytes? no, but of Base64 all the same >>>???").decode()
URL = "cosmosdb://account.documents.azure.com/database/container"


def test_the_constructor_is_langchains():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_community.chat_message_histories import CosmosDBChatMessageHistory as Theirs
    from langchain_azure_cosmosdb import CosmosDBChatMessageHistory as Successor

    for theirs in (Theirs, Successor):
        expected, given_ = (inspect.signature(cls).parameters.values() for cls in (theirs, CosmosDBChatMessageHistory))
        assert [(p.name, p.default, p.kind) for p in given_] == [(p.name, p.default, p.kind) for p in expected]
        names = {name for name, _ in inspect.getmembers(theirs, inspect.isfunction)}
        assert {name for name in names if not hasattr(CosmosDBChatMessageHistory, name)} == set()


@pytest.mark.parametrize(
    "url",
    [
        "cosmosdb://account",
        "cosmosdb://account/database",
        "cosmosdb://account/database/",
        "cosmosdb://account//container",
        "cosmosdb://account/database/container/more",
        "cosmosdb://account/database/container?key=c2VjcmV0",
        "cosmosdb://c2VjcmV0@account/database/container",
        "cosmosdb://:c2Vj/cmV0@account/database/container",
        "cosmosdb://:c2Vj/cmV0@account:443/database/container",
        "cosmosdb://:c2VjcmV0=x@account:c2VjcmV0/database/container",
        "cosmosdb://:c2Vjc@account/database/container",
    ],
)
def test_bad_urls(url):
    with pytest.raises(ConfigurationError) as caught:
        CosmosDBStore(url)
    assert "c2Vj" not in f"{caught.value!r} {caught.value.__cause__}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_bad_combinations():
    string = f"AccountEndpoint=https://account.documents.azure.com:443/;AccountKey={KEY};"
    for options in (
        {"connection_string": string},
        {"url": "cosmosdb:///d/c"},
        {"url": "cosmosdb:///d/c", "connection_string": "AccountKey=x"},
        {"url": URL.replace("//", "//:a2V5@"), "credential": KEY},
        {"credential": "not Base64!"},
        {"client": object()},
        {"client": azure.cosmos.aio.CosmosClient("https://x", KEY)},
        {"url": "cosmosdb:///d/c", "async_client": object()},
        {"async_client": azure.cosmos.aio.CosmosClient("https://x", KEY)},
    ):
        with pytest.raises(ConfigurationError) as caught:
            CosmosDBStore(**{"url": URL, **options})
        assert KEY not in str(caught.value)
        assert "not Base64!" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="connection string or a credential"):
        CosmosDBChatMessageHistory("https://account", "d", "c", "s", "u")
    with pytest.raises(ConfigurationError, match="session_id"):
        CosmosDBChatMessageHistory("https://account", "d", "c", "", "u", KEY)


class AsyncClient:
    def __init__(self, *_, **__):
        pass

    def __aenter__(self):
        return asyncio.sleep(0)


def test_where_the_endpoint_comes_from(monkeypatch):
    quoted = KEY.replace("/", "%2F").replace("+", "%2B").replace("=", "%3D")
    string = f"AccountEndpoint=https://account.documents.azure.com:443/;AccountKey={KEY};"
    stores = {
        "https://account.documents.azure.com/": CosmosDBStore(URL.replace("//", f"//:{quoted}@")),
        "https://account.documents.azure.com:443/": CosmosDBStore(
            "cosmosdb:///database/container", connection_string=string
        ),
        "http://localhost:8081/": CosmosDBStore("cosmosdb+http://localhost:8081/database/container", credential=KEY),
    }
    opened = []
    monkeypatch.setattr(azure.cosmos, "CosmosClient", lambda *account, **_: opened.append(account))
    monkeypatch.setattr(azure.cosmos.aio, "CosmosClient", lambda *account, **_: AsyncClient(opened.append(account)))
    for endpoint, store in stores.items():
        asyncio.run(store._clients._connect(False))
        asyncio.run(store._clients._connect(True))
        assert opened == [(endpoint, KEY)] * 2
        opened.clear()
        assert (store.database_name, store.container_name) == ("database", "container")
        assert Capability.NATIVE_ASYNC in store.capabilities
        for secret in (KEY, quoted):
            assert secret not in repr(store)
            assert secret not in repr(store.history("s"))


def test_drop_in_histories_share_their_clients_and_show_no_key():
    def make(session, **options):
        return CosmosDBChatMessageHistory(
            "https://account.documents.azure.com:443/", "d", "c", session, "u", KEY, **options
        )

    assert make("a").store._clients is make("b").store._clients is make("a", ttl=60).store._clients
    assert (make("a").store.ttl, make("a", ttl=60).store.ttl) == (None, 60)
    assert make("a").session_id == "@u/a"
    assert KEY not in repr(make("a"))


class Credential:
    def get_token(self, *scopes, **options):
        raise AssertionError

    def close(self):
        pass


def test_a_credential_without_a_twin_runs_in_threads():
    assert Capability.NATIVE_ASYNC not in CosmosDBStore(URL, credential=Credential()).capabilities
    both = CosmosDBStore(URL, credential=Credential(), async_credential=Credential())
    assert Capability.NATIVE_ASYNC in both.capabilities


def test_the_default_credential(monkeypatch):
    """It is found when it is needed, one for each kind of client, and closed with it."""
    made, closed = [], []

    def fake(kind, *, native):
        class Fake:
            def __init__(self, *args, **options):
                made.append((kind, type(args[0]).__module__ if args else "credential"))

            def close(self):
                closed.append(kind)
                return asyncio.sleep(0) if native else None

            def __aenter__(self):
                return asyncio.sleep(0)

        return Fake

    monkeypatch.setattr(azure.identity, "DefaultAzureCredential", fake("credential", native=False))
    monkeypatch.setattr(azure.identity.aio, "DefaultAzureCredential", fake("async credential", native=True))
    monkeypatch.setattr(azure.cosmos, "CosmosClient", fake("client", native=False))
    monkeypatch.setattr(azure.cosmos.aio, "CosmosClient", fake("async client", native=True))
    store = CosmosDBStore(URL)
    assert made == []
    assert store.client is store.client
    assert [kind for kind, _ in made] == ["credential", "client"]
    store.close()
    assert closed == ["client", "credential"]

    async def use():
        await store._clients.give_back_native(await store._clients.lend_native(store))
        await store.aclose()

    asyncio.run(use())
    assert [kind for kind, _ in made[2:]] == ["async credential", "async client"]
    assert closed[2:] == ["async client", "async credential"]


def test_a_store_of_a_url_can_be_made_again_elsewhere():
    assert pickle.loads(pickle.dumps((CosmosDBStore, URL))) == (CosmosDBStore, URL)


# LangChain's documents.


def test_plain_ids_are_verbatim():
    assert documents._document("@ivan/42")[:2] == ("ivan", "42")
    assert documents._document("42")[:2] == ("", "42")
    assert documents._document("@a%2Fb%25/x y")[:2] == ("a/b%", "x y")


keys = st.one_of(
    st.text(min_size=1, max_size=12),
    st.text("@/%2F5ab \\?#lh\n", min_size=1, max_size=12),
    st.builds(lambda user, session: f"@{user}/{session}", st.text("ab%2F5", min_size=1), st.text("/#x", max_size=4)),
)


@given(keys, keys)
def test_every_session_has_a_document_of_its_own(one, other):
    for key in (one, other):
        user, name, document = documents._document(key)
        assert (document["user_id"], document["id"]) == (user, name)
        assert documents._key_of(document) == key
        assert not set(name) & set("/\\?#")
        assert 0 < len(name.encode()) <= 1023
    if one != other:
        assert documents._document(one)[:2] != documents._document(other)[:2]


plain = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none())
json_data = st.dictionaries(
    st.sampled_from(["a", "text", "é"]), st.one_of(plain, st.lists(plain, max_size=3)), max_size=3
)


@given(json_data)
def test_texts_survive_a_service_of_doubles(data):
    text = json.dumps(data, ensure_ascii=False)
    stored = as_doubles(json.loads(json.dumps(documents._message(text))))
    back = documents._text(stored)
    assert repr(json.loads(back)) == repr(json.loads(text))


def test_texts_that_are_no_json_objects():
    for text in ("gAAAAB", "[]", '"text"', '{"type": "human", "da', '{"text": "x", "type": 1}', "5", "null"):
        assert json.dumps(documents._text(documents._message(text))) == json.dumps(text)


def test_a_client_is_not_opened_by_a_constructor(monkeypatch):
    monkeypatch.setattr(CosmosClient, "__init__", lambda *_, **__: pytest.fail("opened"))
    CosmosDBStore(URL, credential=KEY).history("s")


def test_a_client_is_not_made_on_the_event_loop(monkeypatch):
    """The packages that it needs read files and start a process."""
    threads = []

    class Client(AsyncClient):
        def __init__(self, *_, **__):
            threads.append(threading.current_thread())

    monkeypatch.setattr(azure.cosmos.aio, "CosmosClient", Client)
    asyncio.run(CosmosDBStore(URL, credential=KEY)._clients._connect(True))
    assert threads
    assert threading.main_thread() not in threads
