"""The Cosmos DB store on the stand-in of the tests, with an item for each message and with LangChain's documents."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import functools
import json
import threading
import urllib.request
import uuid
import warnings

import pytest
from azure.cosmos import CosmosClient, PartitionKey
from azure.cosmos.aio import CosmosClient as AsyncCosmosClient
from azure.cosmos.exceptions import CosmosResourceNotFoundError
from behind import Quiet
from broken import broken_heads, broken_references
from langchain_core.messages import AIMessage, HumanMessage
from servers import BUSY

from langchain_histories import (
    Capability,
    ConfigurationError,
    CosmosDBChatMessageHistory,
    CosmosDBStore,
    RecordTooLargeError,
    StoreError,
    StoreUnavailableError,
    open_store,
)
from langchain_histories._neutral import drive
from langchain_histories.stores.shared.partitions import HEAD, Write
from langchain_histories.testing import MessageStoreTests, golden_messages

KEY = base64.b64encode(b"histories-password").decode()
DATABASE = "histories"


class TestCosmosDBStore(MessageStoreTests):
    capabilities = ~Capability.NEWEST

    @pytest.fixture
    def open_store(self, server):
        return functools.partial(CosmosDBStore, f"{server.url}/c{uuid.uuid4().hex}", timeout=BUSY)

    @pytest.fixture
    def unreachable_store(self):
        return CosmosDBStore("cosmosdb+http://:a2V5@127.0.0.1:1/histories/c")

    @pytest.fixture
    def wrong_password_store(self, server):
        return CosmosDBStore(f"{server.url_with(password='wrong-Secret7')}/c")

    @pytest.fixture
    def server(self, servers):
        return servers.get("cosmosdb")

    @pytest.fixture
    def quiet_server(self, server):
        with Quiet("cosmosdb", server) as quiet:
            yield quiet

    def traces(self, store):
        return sorted(f"{item.get('session_id')} {item['id']} {item.get('text')}" for item in items(store))

    def places(self, store):
        try:
            return [container(store).read()["id"]]
        except CosmosResourceNotFoundError:
            return []

    def foreign_rows(self, store, session_id):
        def leave(fields):
            references[0]()
            rows = [item for item in items(store) if item["session_id"] == session_id and item["id"].startswith("r")]
            newest = max(item["id"] for item in rows)
            container(store).upsert_item({"id": newest, "session_id": session_id, **fields})

        references = broken_references(store, session_id)
        return [*references, *(functools.partial(leave, fields) for fields in ({}, {"text": 5}, {"text": {}}))]

    def broken_sessions(self, store, session_id):
        return broken_heads(store, session_id, 4)


class TestLangChainsContainer(TestCosmosDBStore):
    """Which container it is, only its description says: before, the store says that it can do all."""

    capabilities = ~(Capability.NEWEST | Capability.TAIL_READ | Capability.LARGE_SESSIONS)

    @pytest.fixture
    def quiet_server(self):
        """The time-outs are those of the other container."""

    @pytest.fixture
    def open_store(self, server, langchains):
        return functools.partial(CosmosDBStore, f"{server.url}/{langchains}", timeout=BUSY)

    def traces(self, store):
        return sorted(map(repr, items(store)))

    def _change(self, store, session_id, change):
        user, _, name = session_id.rpartition("/")
        user = user.removeprefix("@")
        (document,) = (item for item in items(store) if (item["id"], item.get("user_id")) == (name, user))
        container(store).upsert_item({**document, **change(document)})

    def foreign_rows(self, store, session_id):
        values = [5, None, True, "", "text", [], {}, 1e300, {"text": 5}, {"text": None}, {"text": ""}]

        def leave(value):
            self._change(store, session_id, lambda document: {"messages": [*document["messages"], value]})

        return [functools.partial(leave, value) for value in values]

    def broken_sessions(self, store, session_id):
        changes = [{"messages": value} for value in (None, 5, "text", {"a": 1})]
        changes += [{"expires": "x"}, {"expires": None}, {"state": 5}, {"state": {"a": 1}}, {"session_id": 5}]
        broken = [functools.partial(self._change, store, session_id, lambda _, new=new: new) for new in changes]
        alien = {"id": f"alien {session_id}".replace("/", "-"), "user_id": "", "messages": 5}
        return [*broken, lambda: container(store).upsert_item(alien)]


def container(store):
    return store.client.get_database_client(store.database_name).get_container_client(store.container_name)


def items(store):
    return list(container(store).query_items("SELECT * FROM c", enable_cross_partition_query=True))


def texts(messages):
    return [message.content for message in messages]


@pytest.fixture
def server(servers):
    return servers.get("cosmosdb")


@pytest.fixture
def endpoint(server):
    return f"http://127.0.0.1:{server.port}"


@pytest.fixture
def database(endpoint):
    with CosmosClient(endpoint, KEY) as client:
        yield client.create_database_if_not_exists(DATABASE)


@pytest.fixture
def langchains(database):
    """The name of a container as LangChain's class makes it."""
    name = f"c{uuid.uuid4().hex}"
    database.create_container(name, partition_key=PartitionKey("/user_id"), default_ttl=-1)
    return name


@pytest.fixture
def faults(server):
    """Says what the service does with the next requests for items."""

    def set_faults(*faults):
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.port}/_faults", data=json.dumps(faults).encode(), method="POST"
        )
        urllib.request.urlopen(request).close()

    yield set_faults
    set_faults()


@pytest.fixture(params=["items", "documents"])
def place(request, server):
    """The URL of an empty container: one of ours, or one of LangChain's."""
    if request.param == "items":
        return f"{server.url}/c{uuid.uuid4().hex}"
    return f"{server.url}/{request.getfixturevalue('langchains')}"


@pytest.fixture
def ours(server):
    with CosmosDBStore(f"{server.url}/c{uuid.uuid4().hex}", timeout=BUSY) as store:
        yield store


def community(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_community.chat_message_histories import CosmosDBChatMessageHistory as Theirs
    return Theirs(*args, **options)


def successor(*args, **options):
    from langchain_azure_cosmosdb import CosmosDBChatMessageHistory as Theirs

    return Theirs(*args, **options)


# LangChain's classes.


@pytest.mark.parametrize("theirs", [community, successor])
def test_we_read_what_langchain_writes_and_go_on(endpoint, server, theirs):
    arguments = (endpoint, DATABASE, f"c{uuid.uuid4().hex}", "s", "ivan", KEY)
    messages = [
        HumanMessage("h\u00e9llo", id="1"),
        AIMessage("yes", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}]),
    ]
    with theirs(*arguments) as history:
        for message in messages:
            history.add_message(message)
    ours = CosmosDBChatMessageHistory(*arguments)
    assert ours.messages == messages
    ours.add_messages([HumanMessage("and on"), AIMessage("2")])
    ours.store.put_state(ours.session_id, {"a": 1})
    with theirs(*arguments) as history:
        assert texts(history.messages) == ["h\u00e9llo", "yes", "and on", "2"]
        history.add_user_message("and back")
    assert texts(asyncio.run(ours.aget_messages())) == ["h\u00e9llo", "yes", "and on", "2", "and back"]
    (document,) = items(ours.store)
    assert (document["id"], document["user_id"], len(document["messages"])) == ("s", "ivan", 5)
    (info,) = ours.store.sessions(user_id="ivan")
    assert (info.session_id, info.count) == ("@ivan/s", 5)
    assert ours.store.erase(user_id="ivan") == 1
    assert items(ours.store) == []


def test_langchain_reads_every_golden_message_as_plain_data(endpoint, langchains):
    messages = golden_messages()
    ours = CosmosDBChatMessageHistory(endpoint, DATABASE, langchains, "s", "ivan", KEY)
    ours.add_messages(messages)
    # LangChain's reads bring no session token of ours, so here they are one change of the partition behind.
    ours.store.append("@ivan/another", [HumanMessage("x")])
    with community(endpoint, DATABASE, langchains, "s", "ivan", KEY) as history:
        read = list(history.messages)
    assert [message.type for message in read] == [
        message.type.removesuffix("MessageChunk").lower() for message in messages
    ]
    plain = [(a, b) for a, b in zip(messages, read, strict=True) if "lh:type" not in repr(a) and a.type == "human"]
    assert all(a.content == b.content for a, b in plain[:10])


def test_opening_a_history_again_keeps_it_and_clear_is_idempotent(endpoint, langchains):
    """LangChain's class needs `prepare_cosmos`, resets a history that it failed to read, and cannot clear a new one."""
    for name in (langchains, f"c{uuid.uuid4().hex}"):
        arguments = (endpoint, DATABASE, name, "s", "ivan", KEY)
        history = CosmosDBChatMessageHistory(*arguments)
        history.clear()
        history.add_user_message("without prepare_cosmos")
        with CosmosDBChatMessageHistory(*arguments) as again:
            again.load_messages()
            again.upsert_messages()
            again.add_ai_message("kept")
        assert texts(history.messages) == ["without prepare_cosmos", "kept"]
        assert again.store.client is history.store.client
        assert (again.session_id, again.user_id) == ("@ivan/s", "ivan")
        assert CosmosDBChatMessageHistory(*arguments[:3], "s", "other", KEY).messages == []
        assert CosmosDBChatMessageHistory(*arguments[:3], "s", "", KEY).session_id == "s"
        history.clear()
        history.clear()
        assert again.messages == []


def test_a_connection_string(endpoint):
    string = f"AccountEndpoint={endpoint}/;AccountKey={KEY};"
    history = CosmosDBChatMessageHistory("", DATABASE, f"c{uuid.uuid4().hex}", "s", "ivan", connection_string=string)
    history.add_user_message("x")
    assert texts(asyncio.run(history.aget_messages())) == ["x"]
    told = f"{history!r} {history.store!r}"
    assert KEY not in told


# Many writers.


def test_twenty_at_once_keep_every_message(place):
    with CosmosDBStore(place) as store:

        def add(number):
            store.history("s").add_messages([HumanMessage(f"{number} q"), AIMessage(f"{number} a")])

        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            list(pool.map(add, range(20)))
        stored = [text.split() for text in texts(store.read("s"))]
        assert sorted(int(number) for number, _ in stored) == sorted([*range(20), *range(20)])
        assert [part for _, part in stored] == ["q", "a"] * 20

        async def main():
            await asyncio.gather(*(store.aappend("t", [HumanMessage(str(number))]) for number in range(20)))

        asyncio.run(main())
        assert sorted(map(int, texts(store.read("t")))) == list(range(20))


def test_langchains_class_loses_most_of_them(endpoint, langchains):
    """The contrast, which also shows that the stand-in does not put writers in order."""
    histories = [community(endpoint, DATABASE, langchains, "s", "ivan", KEY) for _ in range(20)]
    loaded = threading.Barrier(20)

    def add(history):
        with history:
            loaded.wait()
            history.add_user_message("x")

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(add, histories))
    assert len(CosmosDBChatMessageHistory(endpoint, DATABASE, langchains, "s", "ivan", KEY).messages) == 1


# A service in trouble.


def test_a_throttled_read_is_no_empty_history(place, faults):
    with CosmosDBStore(place, client_options={"retry_throttle_total": 2}) as store:
        store.append("s", [HumanMessage("x")])
        throttled = {"status": 429, "headers": {"x-ms-retry-after-ms": "1"}}
        faults(*[throttled] * 2)
        assert texts(store.read("s")) == ["x"]
        for call in (
            lambda: store.read("s"),
            lambda: store.append("s", [HumanMessage("y")]),
            lambda: asyncio.run(store.aread("s")),
            store.sessions,
        ):
            faults(*[throttled] * 40)
            with pytest.raises(StoreUnavailableError):
                call()
        faults()
        assert texts(store.read("s")) == ["x"]
        assert [info.session_id for info in store.sessions()] == ["s"]


def test_langchains_class_takes_a_throttled_read_for_an_empty_history(endpoint, langchains, faults):
    arguments = (endpoint, DATABASE, langchains, "s", "ivan", KEY)
    with community(*arguments) as history:
        history.add_user_message("lost")
    options = {"retry_throttle_total": 1, "retry_throttle_backoff_max": 1}
    with CosmosClient(endpoint, KEY):
        throttled = community(*arguments, cosmos_client_kwargs=options)
        faults(*[{"status": 429, "headers": {"x-ms-retry-after-ms": "1"}}] * 2)
        with throttled as history:
            history.add_user_message("all that is left")
    assert texts(CosmosDBChatMessageHistory(*arguments).messages) == ["all that is left"]


@pytest.mark.parametrize("status", [0, 403, 408, 500, 503])
def test_a_failed_read_is_no_empty_history(place, faults, status):
    with CosmosDBStore(place) as store:
        store.append("s", [HumanMessage("x")])
        faults(*[{"status": status}] * 40)
        with pytest.raises(StoreError) as caught:
            store.read("s")
        assert isinstance(caught.value, StoreUnavailableError) or status == 403
        faults()
        assert texts(store.read("s")) == ["x"]


def has_items(store):
    """Whether each message is an item."""
    return Capability.TAIL_READ in store.capabilities


def reads_before_an_append(store):
    """As many requests without a fault as come before the one that writes."""
    return [{}] if has_items(store) else []


def test_transactions_that_met_are_tried_again(place, faults):
    with CosmosDBStore(place) as store:
        store.append("s", [HumanMessage("first")])
        faults(*reads_before_an_append(store), {"status": 449})
        store.append("s", [HumanMessage("a"), AIMessage("b")])
        assert texts(store.read("s")) == ["first", "a", "b"]
        # It reads the state, for a summary of what goes, and then the session.
        faults(*[{}] * (3 + 2 if has_items(store) else 1 + 1), {"status": 449})
        store.replace("s", [HumanMessage("c")])
        assert texts(store.read("s")) == ["c"]


@pytest.mark.parametrize("status", [0, 408, 503])
def test_an_answer_that_is_lost(place, faults, status):
    """A batch that was stored although its answer got lost is read once, whoever tries again."""
    with CosmosDBStore(place) as store:
        store.append("s", [HumanMessage("first")])
        faults(*reads_before_an_append(store), {"status": status, "after": True})
        with contextlib.suppress(StoreUnavailableError):
            store.append("s", [HumanMessage("a"), AIMessage("b")])
        faults()
        assert texts(store.read("s")) == ["first", "a", "b"]
        store.append("s", [HumanMessage("c")])
        assert texts(store.read("s")) == ["first", "a", "b", "c"]


def test_a_container_that_is_gone_is_no_empty_history(server, database):
    with CosmosDBStore(f"{server.url}/c{uuid.uuid4().hex}", timeout=BUSY) as store:
        store.append("s", [HumanMessage("x")])
        database.delete_container(store.container_name)
        with pytest.raises(StoreError):
            store.read("s")


def test_what_others_wrote_is_seen_at_once(place):
    """The stand-in's replicas do not know the last change of a partition unless they are asked for it by its token."""
    with CosmosDBStore(place) as one, CosmosDBStore(place) as other:
        for number in range(4):
            (one if number % 2 else other).append("s", [HumanMessage(str(number))])
            expected = [str(each) for each in range(number + 1)]
            assert texts(one.read("s")) == texts(other.read("s")) == texts(asyncio.run(other.aread("s"))) == expected
            one.put_state("s", {"n": number})
            assert other.get_state("s") == {"n": number}


def test_a_partition_that_was_split(server, place):
    """Its tokens are those of another range from then on, and the driver is to learn of it by itself."""
    with CosmosDBStore(place) as writer, CosmosDBStore(place) as reader:
        writer.append("s", [HumanMessage("0")])

        async def read():
            async with reader:
                assert texts(await reader.aread("s")) == ["0"]
                split = f"http://127.0.0.1:{server.port}/dbs/{DATABASE}/colls/{writer.container_name}/_split"
                await asyncio.to_thread(lambda: urllib.request.urlopen(split, data=b"{}").close())
                for number in range(1, 5):
                    writer.append("s", [HumanMessage(str(number))])
                    expected = [str(each) for each in range(number + 1)]
                    assert texts(await reader.aread("s")) == expected
                    assert await asyncio.to_thread(lambda: texts(reader.read("s"))) == expected

        assert texts(reader.read("s")) == ["0"]
        asyncio.run(read())


def test_containers_of_one_client_have_tokens_of_their_own(endpoint):
    with CosmosClient(endpoint, KEY) as client:
        stores = [CosmosDBStore(f"cosmosdb:///{DATABASE}/c{uuid.uuid4().hex}", client=client) for _ in range(2)]
        for number in range(6):
            stores[0].append("s", [HumanMessage(str(number))])
        for store in (*stores, *stores):
            store.append("s", [HumanMessage("x")])
        assert [len(store.read("s")) for store in stores] == [8, 2]


# Containers.


def test_the_container_that_is_made(ours):
    ours.setup()
    made = container(ours).read()
    assert made["partitionKey"] == {"paths": ["/session_id"], "kind": "Hash", "version": 2}
    assert made["defaultTtl"] == -1
    assert made["indexingPolicy"]["excludedPaths"] == [{"path": "/text/?"}]


def test_many_callers_make_database_and_container_at_once(server):
    place = f"{server.url.removesuffix(DATABASE)}d{uuid.uuid4().hex}/c"
    start = threading.Barrier(8)

    def first_use(number):
        with CosmosDBStore(place) as store:
            start.wait()
            store.append("s", [HumanMessage(str(number))])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(first_use, range(8)))
    with CosmosDBStore(place) as store:
        assert sorted(map(int, texts(store.read("s")))) == list(range(8))


def test_other_containers_are_refused(server, database):
    name = f"c{uuid.uuid4().hex}"
    for number, (key, complaint) in enumerate(
        [
            (PartitionKey("/tenant"), "/tenant"),
            (PartitionKey(["/user_id", "/session_id"], kind="MultiHash"), "/user_id, /session_id"),
            (PartitionKey("/session_id", version=1), "large partition keys"),
        ]
    ):
        database.create_container(f"{name}{number}", partition_key=key)
        with CosmosDBStore(f"{server.url}/{name}{number}") as store, pytest.raises(ConfigurationError, match=complaint):
            store.read("s")


def test_ttl_needs_a_container_with_it(server, database):
    name = f"c{uuid.uuid4().hex}"
    database.create_container(name, partition_key=PartitionKey("/session_id"))
    with (
        CosmosDBStore(f"{server.url}/{name}", ttl=60) as store,
        pytest.raises(ConfigurationError, match="time to live"),
    ):
        store.read("s")
    with CosmosDBStore(f"{server.url}/{name}") as store:
        store.append("s", [HumanMessage("x")])
        assert texts(store.read("s")) == ["x"]
        with pytest.raises(ConfigurationError, match="time to live"):
            CosmosDBStore(f"{server.url}/{name}", ttl=60).read("s")


def test_set_up_finds_a_container_once_for_all_stores(place):
    with CosmosDBStore(place) as first:
        assert Capability.TAIL_READ in first.capabilities
        first.append("s", [HumanMessage("x")])
        second = CosmosDBStore(place)
        assert second.capabilities == first.capabilities
        assert second.operations.found is first.operations.found
        assert texts(second.read("s")) == ["x"]


def test_ttl_of_the_container_takes_no_single_items(server, database):
    name = f"c{uuid.uuid4().hex}"
    database.create_container(name, partition_key=PartitionKey("/session_id"), default_ttl=60)
    with CosmosDBStore(f"{server.url}/{name}") as store:
        store.append("s", [HumanMessage("x")])
        assert {item["ttl"] for item in items(store)} == {-1}
    with CosmosDBStore(f"{server.url}/{name}", ttl=60) as store:
        store.append("t", [HumanMessage("x")])
        lives = {item["id"][0]: item["ttl"] for item in items(store) if item["session_id"] == "t"}
        assert 55 < lives["h"] <= 61
        assert lives["r"] >= lives["h"]


def test_a_key_that_may_only_read(server, place):
    name = place.rpartition("/")[2]
    with CosmosDBStore(place) as writer, CosmosDBStore(f"{server.readonly_url}/{name}") as reader:
        writer.append("s", [HumanMessage("x"), AIMessage("y")])
        writer.append("t", [HumanMessage("z")])
        reader.read("t")
        assert texts(reader.read("s")) in (["x", "y"], [])
        with pytest.raises(StoreError) as caught:
            reader.append("s", [HumanMessage("no")])
        assert not isinstance(caught.value, StoreUnavailableError)
        assert writer.count("s") == 2


# Sizes.


def test_large_batches_and_messages(ours):
    messages = [HumanMessage(f"{number} " + "\U0001f44d" * 9000) for number in range(150)]
    ours.append("s", messages)
    ours.append("s", [HumanMessage("x" * 5_000_000), AIMessage("\u00e9\n" * 700_000)])
    assert ours.read("s")[:150] == messages
    assert [len(text) for text in texts(ours.read("s", last=2))] == [5_000_000, 1_400_000]
    with pytest.raises(RecordTooLargeError):
        ours.put_state("s", {"big": "x" * 2_000_000})


@pytest.mark.parametrize("ttl", [None, 60])
def test_an_append_to_a_document_is_one_request(server, langchains, monkeypatch, ttl):
    with CosmosDBStore(f"{server.url}/{langchains}", ttl=ttl) as store:
        kinds = []
        requests = store.operations.container
        batch = requests.batch

        async def counted(client, partition, operations):
            kinds.extend(operation[0] for operation in operations)
            return await batch(client, partition, operations)

        store.append("s", [HumanMessage("0")])
        monkeypatch.setattr(requests, "batch", counted)
        monkeypatch.setattr(requests, "fetch", lambda *_: pytest.fail("read"))
        store.append("s", [HumanMessage("1"), AIMessage("2")])
        assert kinds == ["patch"]
        monkeypatch.undo()
        store.append("s", [HumanMessage(str(number)) for number in range(3, 23)])
        assert texts(store.read("s")) == [str(number) for number in range(23)]
        (document,) = items(store)
        assert document.get("ttl") in ((None,) if ttl is None else (ttl, ttl + 1))


def test_an_append_to_a_document_that_has_expired(server, langchains):
    """The service removes it some time later."""
    with CosmosDBStore(f"{server.url}/{langchains}", ttl=60) as store:
        store.append("s", [HumanMessage("old")])
        (document,) = items(store)
        container(store).upsert_item({**document, "expires": document["expires"] - 61, "ttl": 60})
        store.append("s", [HumanMessage("new")])
        assert texts(store.read("s")) == ["new"]


def test_a_document_has_its_limit(server, langchains):
    with CosmosDBStore(f"{server.url}/{langchains}", timeout=BUSY) as store:
        store.append("s", [HumanMessage("x" * 1_500_000)])
        with pytest.raises(RecordTooLargeError, match="2 MB") as caught:
            store.append("s", [HumanMessage("y" * 600_000)])
        assert "yyy" not in str(caught.value)
        assert store.count("s") == 1
        store.append("s", [HumanMessage("fits")])


def test_numbers_stay_what_they_are(server, langchains):
    """The service's numbers are doubles, and whole ones lose their decimal point."""
    metadata = {"numbers": [10**30, 2**63, 1.0, -0.0, 0.5, 2**53]}
    with CosmosDBStore(f"{server.url}/{langchains}", timeout=BUSY) as store:
        store.append("s", [AIMessage("exact", response_metadata=metadata), AIMessage("plain")])
        assert repr(store.read("s")[0].response_metadata) == repr(metadata)
        exact, plain = items(store)[0]["messages"]
        assert "text" in exact
        assert "text" not in plain


# Clients.


def test_clients_of_your_own(endpoint, langchains):
    url = f"cosmosdb:///{DATABASE}/c{uuid.uuid4().hex}"
    with CosmosClient(endpoint, KEY) as client:
        with CosmosDBStore(url, client=client) as store:
            assert Capability.NATIVE_ASYNC not in store.capabilities
            store.append("s", [HumanMessage("x")])
            assert asyncio.run(store.aread("s")) == [HumanMessage("x")]
        assert client.get_database_client(DATABASE).read()

        async def use():
            async with AsyncCosmosClient(endpoint, KEY) as async_client:
                async with CosmosDBStore(url, async_client=async_client) as store:
                    assert Capability.NATIVE_ASYNC in store.capabilities
                    assert await store.aread("s") == [HumanMessage("x")]
                    with pytest.raises(ConfigurationError, match="async client alone"):
                        store.read("s")
                assert await async_client.get_database_client(DATABASE).read()

        asyncio.run(use())


def test_open_store(server):
    with open_store(f"{server.url}/c{uuid.uuid4().hex}", ttl=60) as store:
        assert isinstance(store, CosmosDBStore)
        assert store.ttl == 60
        store.append("s", [HumanMessage("x")])
        assert store.count("s") == 1


def test_erase_takes_what_a_clear_left_that_was_stopped(ours):
    ours.append("@u/s", [HumanMessage("x")])
    drive(ours.operations._commit(ours.client, "@u/s", [Write(HEAD, None)]))
    assert ours.sessions() == []
    assert ours.erase(user_id="u") == 1
    assert items(ours) == []
