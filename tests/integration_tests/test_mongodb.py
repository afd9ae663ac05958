"""The MongoDB store on a server, alone and as a replica set, and beside LangChain's own class."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime as dt
import functools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import uuid
from urllib.parse import urlsplit

import bson
import pymongo
import pytest
from behind import Quiet
from langchain_core.messages import AIMessage, HumanMessage, message_to_dict
from servers import BUSY, WRONG_PASSWORD

from langchain_histories import (
    Capability,
    ConfigurationError,
    MongoDBChatMessageHistory,
    MongoDBStore,
    RecordTooLargeError,
    StoreError,
    StoreUnavailableError,
    open_history,
    open_store,
)
from langchain_histories.stores.mongodb.outbox import Outbox
from langchain_histories.testing import MessageStoreTests, golden_messages

DATABASE = "histories"
PATIENCE = {"serverSelectionTimeoutMS": 2000}


class TestMongoDBStore(MessageStoreTests):
    capabilities = ~Capability(0)
    # When it connects it looks whether there is a file that says that this is a container, and once more for a monitor.
    driver_blocks_in = (("pymongo/pool_options.py", "get_container_env_info"),)

    @pytest.fixture
    def open_store(self, server):
        options = {
            "database_name": DATABASE,
            "collection_name": f"c{uuid.uuid4().hex}",
            "client_options": PATIENCE,
            "timeout": BUSY,
        }
        return functools.partial(MongoDBStore, server.url, **options)

    @pytest.fixture
    def unreachable_store(self):
        return MongoDBStore("mongodb://127.0.0.1:1", client_options={"serverSelectionTimeoutMS": 100})

    @pytest.fixture
    def wrong_password_store(self, server):
        return MongoDBStore(server.url_with(password=WRONG_PASSWORD), client_options=PATIENCE)

    @pytest.fixture
    def server(self, mongodb_server):
        return mongodb_server

    @pytest.fixture
    def quiet_server(self, mongodb_server):
        with Quiet("mongodb", mongodb_server) as server:
            yield server

    def traces(self, store):
        database = store.client[DATABASE]
        names = [store.collection_name, f"{store.collection_name}_sessions"]
        return sorted(repr(document) for name in names for document in database[name].find())

    def places(self, store):
        database = store.client[DATABASE]
        names = [name for name in database.list_collection_names() if name.startswith(store.collection_name)]
        return sorted(f"{name} {index}" for name in names for index in database[name].index_information())

    def foreign_rows(self, store, session_id):
        messages = store.client[DATABASE][store.collection_name]
        fields = [{}, {"seq": None}, {"seq": 0.5}, {"_id": 5}, {"_id": {"a": 1}}, {"_id": "1-x"}]
        fields += [{"History": value} for value in (None, 5, b"\xff", {"type": "human"}, [], 1e300, True, "")]
        return [functools.partial(messages.insert_one, {"SessionId": session_id, **more}) for more in fields]

    def broken_sessions(self, store, session_id):
        sessions = store.client[DATABASE][f"{store.collection_name}_sessions"]
        changes = [{"generation": None}, {"start": "x"}, {"appended": -5}, {"pending": 5}, {"pending": [5]}]
        changes += [{"pending": [{"batch": "x", "records": [5, None]}]}, {"deleted": ["x", None]}, {"removing": 5}]
        changes += [{"removing": [{}]}, {"alone": "x"}, {"state": 5}, {"state": {"a": 1}}]
        return [
            *(functools.partial(sessions.update_one, {"_id": session_id}, {"$set": change}) for change in changes),
            functools.partial(sessions.replace_one, {"_id": session_id}, {}),
        ]


def test_langchains_class_beside_sessions_that_expire(place, mongodb_server):
    """What it appends puts nothing off; what was there before the session expired goes with it."""
    with MongoDBStore(mongodb_server.url, ttl=60, **place) as store:
        database = store.client[place["database_name"]]
        messages, sessions = (database[place["collection_name"] + end] for end in ("", "_sessions"))
        old = bson.ObjectId.from_datetime(dt.datetime.now(dt.UTC) - dt.timedelta(days=1))

        def theirs(text, **more):
            record = json.dumps(message_to_dict(HumanMessage(text)))
            messages.insert_one({"SessionId": "s", "History": record, **more})

        def expire():
            past = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=2)
            assert sessions.update_one({"_id": "s"}, {"$set": {"slid": past}}).modified_count == 1

        theirs("old", _id=old)
        store.append("s", [HumanMessage("old too")])
        store.put_state("s", {"a": 1})
        assert [message.content for message in store.read("s")] == ["old", "old too"]
        expire()
        assert (store.read("s"), store.count("s"), store.sessions(), store.get_state("s")) == ([], 0, [], None)
        theirs("theirs")
        assert [message.content for message in store.read("s")] == ["theirs"]
        assert [(info.session_id, info.count) for info in store.sessions()] == [("s", 1)]
        store.append("s", [HumanMessage("ours")])
        assert [message.content for message in store.read("s")] == ["theirs", "ours"]
        assert messages.count_documents({}) == 2
        assert store.get_state("s") is None


def test_a_replica_set(servers, place):
    """The store does the same on every topology, so the kit runs on one; here is what the driver does otherwise."""
    with MongoDBStore(servers.get("mongodb_replica_set").url, client_options=PATIENCE, **place) as store:
        store.append("s", [HumanMessage("a"), AIMessage("b")])

        async def use():
            await store.aappend("s", [HumanMessage("c")])
            await store.areplace("t", await store.aread("s", last=2))
            return await store.aread("t")

        assert texts(asyncio.run(use())) == ["b", "c"]
        assert [(info.session_id, info.count) for info in store.sessions()] == [("s", 3), ("t", 2)]
        store.clear("s")
        assert store.read("s") == []


@pytest.fixture
def place():
    return {"database_name": DATABASE, "collection_name": f"c{uuid.uuid4().hex}"}


@pytest.fixture
def store(mongodb_server, place):
    with MongoDBStore(mongodb_server.url, **place) as store:
        yield store


@pytest.fixture
def collection(store):
    return store.client[DATABASE][store.collection_name]


@pytest.fixture
def sessions(store):
    return store.client[DATABASE][f"{store.collection_name}_sessions"]


def test_sessions_of_others_are_listed_last(store, theirs, sessions):
    """Of what LangChain's class or an older version wrote no time is known; an append puts it in front."""
    for session_id in ("b", "a", 7):
        theirs(session_id).add_message(HumanMessage(f"first of {session_id}"))
    for session_id in ("old", "new", "newer"):
        store.append(session_id, [HumanMessage(session_id)])
    sessions.update_one({"_id": "old"}, {"$unset": {"touched": ""}})
    store.put_state("only a state", {"a": 1})
    listed = store.sessions(order="newest")
    assert [info.session_id for info in listed] == ["newer", "new", "7", "a", "b", "old"]
    assert [info.first_line for info in listed][2:4] == ["first of 7", "first of a"]
    paged, after = [], None
    while page := store.sessions(order="newest", first=2, after=after):
        paged, after = paged + page, page[-1].position
    assert paged == listed
    store.append("a", [HumanMessage("again")])
    found = store.sessions(order="newest", first=1)[0]
    assert (found.session_id, found.count, found.first_line) == ("a", 2, "first of a")


@pytest.fixture
def theirs(mongodb_server, place):
    from langchain_mongodb import MongoDBChatMessageHistory as Theirs

    opened = []

    def open_theirs(session_id="s", **options):
        opened.append(Theirs(mongodb_server.url, session_id, **place, **options))
        return opened[-1]

    yield open_theirs
    for history in opened:
        history.close()


def texts(messages):
    return [message.content for message in messages]


def batch(name, size=2):
    return [HumanMessage(f"{name} {number}") for number in range(size)]


# LangChain's class.


def test_langchain_reads_what_we_write(store, theirs):
    plain = [message for message in golden_messages() if "lh:type" not in repr(message)][:10]
    store.append("s", plain)
    assert theirs().messages == plain


def test_langchain_reads_every_golden_message_as_plain_data(store, theirs):
    messages = golden_messages()
    store.append("s", messages)
    read = theirs(create_index=False).messages
    assert [message.type for message in read] == [
        message.type.removesuffix("MessageChunk").lower() for message in messages
    ]


def test_we_read_what_langchain_writes(mongodb_server, theirs, place):
    messages = [
        HumanMessage("héllo", id="1"),
        AIMessage("yes", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}]),
    ]
    theirs().add_messages(messages)
    ours = MongoDBChatMessageHistory(mongodb_server.url, "s", **place)
    assert ours.messages == messages
    ours.add_user_message("and on")
    assert texts(ours.messages) == texts(theirs().messages) == ["héllo", "yes", "and on"]
    theirs().add_user_message("and back")
    # LangChain's come first: the order of a mixed history is not promised.
    assert sorted(texts(ours.messages)) == ["and back", "and on", "héllo", "yes"]
    assert texts(asyncio.run(ours.aget_messages())) == texts(ours.messages)
    assert ours.store.count("s") == 4
    theirs().clear()
    assert ours.messages == []
    assert ours.store.count("s") == 0
    ours.add_user_message("new")
    assert texts(ours.messages) == texts(theirs().messages) == ["new"]
    ours.clear()
    assert theirs().messages == []


@pytest.mark.parametrize("session_id", [7, 0, -12, 2**40, bson.ObjectId("65f1a2b3c4d5e6f708192a3b")], ids=str)
def test_sessions_that_langchain_stored_under_no_text(mongodb_server, theirs, place, session_id):
    theirs(session_id).add_messages([HumanMessage("theirs 0"), AIMessage("theirs 1")])
    theirs("other").add_user_message("of another")
    with MongoDBChatMessageHistory(mongodb_server.url, session_id, **place).store as store:
        ours = MongoDBChatMessageHistory(mongodb_server.url, session_id, **place)
        assert texts(ours.messages) == ["theirs 0", "theirs 1"]
        ours.add_user_message("ours")
        assert texts(ours.messages) == texts(store.read(str(session_id))) == ["theirs 0", "theirs 1", "ours"]
        found = [(info.session_id, info.count) for info in store.sessions()]
        assert found == sorted([(str(session_id), 3), ("other", 1)])
        assert [info.session_id for info in store.sessions(limit=1, after=found[0][0])] == [found[1][0]]
        assert [info.session_id for info in store.sessions(prefix="oth")] == ["other"]
        position = store.records(str(session_id))[0].position
        assert texts(store.read(str(session_id), after=position)) == ["theirs 1", "ours"]
        assert store.delete(str(session_id), [store.records(str(session_id))[0].id]) == 1
        assert texts(store.read(str(session_id), last=2)) == ["theirs 1", "ours"]
        ours.clear()
        assert ours.messages == theirs(session_id).messages == []
        assert store.count("other") == 1


def test_the_database_of_the_url(mongodb_server, theirs, place):
    named = urlsplit(mongodb_server.url)._replace(path=f"/{place['database_name']}").geturl()
    theirs().add_user_message("theirs")
    with open_store(named, collection_name=place["collection_name"]) as store:
        assert store.database_name == place["database_name"]
        assert texts(store.read("s")) == ["theirs"]
    # LangChain's class keeps its default, whatever the URL says.
    assert MongoDBChatMessageHistory(named, "s").database_name == "chat_history"


def test_history_size(mongodb_server, theirs, place):
    options = {**place, "history_size": 2}
    ours = MongoDBChatMessageHistory(mongodb_server.url, "s", **options)
    for number in range(4):
        ours.add_user_message(str(number))
    assert texts(ours.messages) == texts(theirs(history_size=2).messages) == ["2", "3"]
    assert MongoDBChatMessageHistory(mongodb_server.url, "s", **{**options, "history_size": 0}).messages == []
    assert theirs(history_size=0).messages == []


def test_langchains_index_stays(mongodb_server, theirs, collection, store):
    theirs().add_user_message("x")
    assert set(collection.index_information()) == {"_id_", "SessionId_1"}
    store.append("s", batch("a"))
    assert set(collection.index_information()) == {"_id_", "SessionId_1", "SessionId_1_seq_1__id_1"}
    theirs().add_user_message("y")


def test_indexes(mongodb_server, place, collection):
    url = mongodb_server.url
    with MongoDBStore(url, **place, create_index=False) as store:
        store.append("s", batch("a"))
        assert set(collection.index_information()) == {"_id_"}
        assert texts(store.read("s", last=1)) == ["a 1"]
    for _ in range(2):
        with MongoDBStore(url, **place, index_kwargs={"name": "mine"}) as store:
            store.setup()
    assert set(collection.index_information()) == {"_id_", "mine", "SessionId_1_seq_1__id_1"}
    collection.drop_index("SessionId_1_seq_1__id_1")
    collection.create_index([("SessionId", 1), ("seq", 1), ("_id", 1)], name="of another name")
    with MongoDBStore(url, **place) as store:
        assert texts(store.read("s")) == ["a 0", "a 1"]


# Writers that die.


def _die_after_the_commit(url, place):
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    Outbox._deliver = die
    MongoDBStore(url, **place).append("s", batch("dead", 3))


def test_a_writer_killed_after_the_commit(mongodb_server, place, store, theirs):
    store.append("s", batch("before"))
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=_die_after_the_commit, args=(mongodb_server.url, place))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    stored = ["before 0", "before 1", "dead 0", "dead 1", "dead 2"]
    assert texts(store.read("s")) == stored
    assert texts(store.read("s", last=4)) == stored[-4:]
    assert texts(store.read("s", after=store.records("s")[2].position)) == stored[3:]
    assert store.count("s") == store.sessions()[0].count == 5
    assert texts(theirs().messages) == stored[:2]
    store.append("s", batch("after", 1))
    assert texts(store.read("s")) == texts(theirs().messages) == [*stored, "after 0"]


_WRITER = """
import sys
from langchain_core.messages import HumanMessage
from langchain_histories import MongoDBStore
url, database, collection, writer = sys.argv[1:]
store = MongoDBStore(url, database_name=database, collection_name=collection)
print("ready", flush=True)
for number in range(100_000):
    store.append("s", [HumanMessage(f"{writer} {number} {part}") for part in range(3)])
    print(number, flush=True)
"""


def test_writers_killed_at_any_moment(mongodb_server, place, store, collection, sessions):
    """Every acknowledged batch is there, every batch is whole, and a poller sees all that is."""
    chance, seen, position = random.Random(3), [], None
    acknowledged = set()
    for round_ in range(3):
        arguments = [sys.executable, "-c", _WRITER, mongodb_server.url, DATABASE, place["collection_name"]]
        writers = [
            subprocess.Popen([*arguments, f"{round_}-{number}"], stdout=subprocess.PIPE, text=True)
            for number in range(3)
        ]
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        stop = threading.Event()
        timer = threading.Timer(0.4 + chance.random() / 2, stop.set)
        timer.start()
        while not stop.is_set():
            for record in store.records("s", after=position):
                position = record.position
                seen.append(record.message.content)
        for number, writer in enumerate(writers):
            writer.kill()
            printed, _ = writer.communicate()
            acknowledged |= {(f"{round_}-{number}", line) for line in printed.split()}
    seen += texts(store.read("s", after=position))
    stored = texts(store.read("s"))
    assert seen == stored
    batches = [stored[start : start + 3] for start in range(0, len(stored), 3)]
    names = [tuple(written[0].split()[:2]) for written in batches]
    assert batches == [[f"{writer} {number} {part}" for part in range(3)] for writer, number in names]
    assert len(acknowledged) > 20
    assert acknowledged <= set(names)
    assert len(set(names)) == len(names) <= len(acknowledged) + 9
    store.append("s", batch("end", 1))
    assert sessions.find_one({"_id": "s"})["pending"] == []
    assert [document["seq"] for document in collection.find().sort("seq")] == list(range(1, len(stored) + 2))


# Writers, and those who clear.


def test_clear_and_replace_race_with_writers(mongodb_server, place, store, collection, sessions):
    """Batches stay whole all the time, and a clear at the end leaves nothing behind."""
    done = threading.Event()

    def write(writer):
        with MongoDBStore(mongodb_server.url, **place) as own:
            for number in range(40):
                own.append("s", batch(f"{writer} {number}", 3))

    def wipe():
        while not done.is_set():
            store.clear("s")
            store.replace("s", batch("r r", 3))
            found = store.records("s")
            store.delete("s", [record.id for record in found[:3]])

    def read():
        with MongoDBStore(mongodb_server.url, **place) as own:
            while not done.is_set():
                stored = [text.rsplit(" ", 1) for text in texts(own.read("s"))]
                assert [part for _, part in stored] == ["0", "1", "2"] * (len(stored) // 3)
                assert [name for name, _ in stored[::3]] == [name for name, _ in stored[2::3]]

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        others = [pool.submit(wipe), pool.submit(read)]
        writers = [pool.submit(write, writer) for writer in range(4)]
        try:
            for future in writers:
                future.result()
        finally:
            done.set()
        for future in others:
            future.result()
    store.clear("s")
    assert list(collection.find()) == []
    assert list(sessions.find()) == []


def test_sixteen_writers_begin_a_session_at_once(mongodb_server, store):
    for number in range(10):
        start = threading.Barrier(16)

        def write(writer, session_id=f"s{number}", start=start):
            start.wait()
            store.append(session_id, batch(str(writer)))

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(write, range(16)))
        stored = texts(store.read(f"s{number}"))
        assert sorted(stored) == sorted(f"{writer} {part}" for writer in range(16) for part in range(2))
        assert [text.split()[0] for text in stored[::2]] == [text.split()[0] for text in stored[1::2]]


# Size.


async def test_records_that_are_taken_at_once(mongodb_server, place):
    """Each goes to one caller, also where another one deletes its document before this one does."""
    async with MongoDBStore(mongodb_server.url, **place) as store:
        for session_id in "abc":
            await store.aappend(session_id, [HumanMessage(str(number)) for number in range(20)])
            taken = await asyncio.gather(*(store.atake(session_id) for _ in range(10)))
            left = await store.aread(session_id)
            found = sorted(
                [record.message.content for record in taken] + [message.content for message in left], key=int
            )
            assert found == [str(number) for number in range(20)]


def test_a_batch_that_fills_a_document(store):
    large = [HumanMessage("x" * 15_900_000)]
    store.append("s", large)
    store.append("s", [HumanMessage("é" * 1_900_000)] * 4)
    assert store.read("s", last=5)[0] == large[0]
    assert store.count("s") == 5
    with pytest.raises(RecordTooLargeError):
        store.append("s", [HumanMessage("x" * 16_750_000)])
    store.append("s", batch("works on", 1))


def test_what_is_pending_leaves_no_room(store, monkeypatch):
    """Whoever needs the room puts it away."""
    with monkeypatch.context() as patch:

        async def nothing(*_):
            pass

        patch.setattr(Outbox, "_deliver", nothing)
        store.append("s", [HumanMessage("x" * 10_000_000)])
    store.append("s", [HumanMessage("y" * 10_000_000)])
    assert store.count("s") == 2
    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "_deliver", nothing)
        store.append("s", [HumanMessage("z" * 10_000_000)])
    store.put_state("s", {"large": "s" * 10_000_000})
    assert [message.content[0] for message in store.read("s")] == ["x", "y", "z"]
    for change in (store.append, store.replace):
        with pytest.raises(RecordTooLargeError, match="state"):
            change("s", [HumanMessage("w" * 10_000_000)])
    store.append("s", batch("small", 1))
    assert store.count("s") == 4
    assert len(store.get_state("s")["large"]) == 10_000_000


# Rights, clients, places.


def test_a_read_only_user(mongodb_server, place, store):
    store.append("s", batch("a"))
    with MongoDBStore(mongodb_server.readonly_url, **place) as reader:
        assert texts(reader.read("s")) == ["a 0", "a 1"]
        assert reader.sessions()[0].count == 2
        for change in (lambda: reader.append("s", batch("b")), lambda: reader.clear("s")):
            with pytest.raises(StoreError) as caught:
                change()
            assert not isinstance(caught.value, StoreUnavailableError)
    assert store.count("s") == 2


def test_a_user_who_may_only_read_and_write_documents(mongodb_server, place, store):
    name = f"u{uuid.uuid4().hex}"
    with pymongo.MongoClient(mongodb_server.admin_url) as admin:
        actions = ["find", "insert", "update", "remove"]
        privileges = [{"resource": {"db": DATABASE, "collection": ""}, "actions": actions}]
        try:
            admin[DATABASE].command("createRole", name, privileges=privileges, roles=[])
        except pymongo.errors.OperationFailure as error:
            pytest.skip(f"the server has no roles of one's own: {error.code}")
        admin[DATABASE].command("createUser", name, pwd="p", roles=[name])
    with MongoDBStore(mongodb_server.url_with(user=name, password="p"), **place) as limited:
        limited.append("s", batch("a"))
        limited.put_state("s", {"a": 1})
        assert texts(limited.read("s", last=1)) == ["a 1"]
        limited.replace("s", batch("b"))
        limited.clear("s")
        assert limited.sessions() == []


def test_a_collection_with_a_collation(mongodb_server, place, store):
    database = store.client[DATABASE]
    database.create_collection(place["collection_name"], collation={"locale": "en", "strength": 2})
    with pytest.raises(ConfigurationError, match="'en'"):
        store.read("s")


def test_clients_of_your_own(mongodb_server, place):
    blocking = pymongo.MongoClient(mongodb_server.url, w=0)
    with MongoDBStore(client=blocking, **place) as store:
        assert Capability.NATIVE_ASYNC not in store.capabilities
        store.append("s", batch("a"))
        assert texts(asyncio.run(store.aread("s"))) == ["a 0", "a 1"]
    assert blocking.admin.command("ping")

    async def use():
        client = pymongo.AsyncMongoClient(mongodb_server.url)
        async with MongoDBStore(async_client=client, **place) as store:
            assert Capability.NATIVE_ASYNC in store.capabilities
            await store.aappend("s", batch("b"))
            with pytest.raises(ConfigurationError, match="async client alone"):
                store.read("s")
        assert await client.admin.command("ping")
        async with MongoDBStore(client=blocking, async_client=client, **place) as both:
            assert await both.aread("s") == both.read("s")
        await client.close()

    asyncio.run(use())
    blocking.close()


def test_the_write_concern(mongodb_server, place):
    def concern(url, **options):
        with MongoDBStore(url, **place, client_options=options) as store:
            return store.operations._collections(store.client)[0].write_concern.document

    assert concern(mongodb_server.url) == {"w": "majority"}
    assert concern(mongodb_server.url, w=0) == {"w": "majority"}
    assert concern(mongodb_server.url, w=1) == {"w": 1}
    assert concern(mongodb_server.url, w="majority", wTimeoutMS=500) == {"w": "majority", "wtimeout": 500}


def test_a_thousand_histories_share_one_client(mongodb_server, place):
    histories = [open_history(mongodb_server.url, f"s{number}", **place) for number in range(1000)]
    assert len({id(history.store.client) for history in histories}) == 1
    drop_ins = [MongoDBChatMessageHistory(mongodb_server.url, f"s{number}", **place) for number in range(1000)]
    assert len({id(history.client) for history in drop_ins}) == 1
    drop_ins[0].add_user_message("x")
    drop_ins[0].close()
    assert texts(drop_ins[0].messages) == ["x"]


class Counted(pymongo.monitoring.CommandListener):
    """Counts commands, and the documents that come back."""

    def __init__(self):
        self.commands, self.documents = [], 0

    def started(self, event):
        self.commands.append(event.command_name)

    def succeeded(self, event):
        cursor = event.reply.get("cursor", {})
        self.documents += len(cursor.get("firstBatch", cursor.get("nextBatch", ())))

    def failed(self, event):
        pass

    def of(self, call):
        self.commands, self.documents = [], 0
        call()
        return self.commands, self.documents


def test_what_operations_cost(mongodb_server, place):
    """A read costs what it returns; an append three commands, however long the history is."""
    counted = Counted()
    client = pymongo.MongoClient(mongodb_server.url, event_listeners=[counted])
    store = MongoDBStore(client=client, **place)
    store.append("s", batch("a", 500))
    records = store.records("s", last=3)
    assert counted.of(lambda: store.append("s", batch("b"))) == (["findAndModify", "insert", "update"], 0)
    assert counted.of(lambda: store.read("s")) == (["find", "find"], 1 + 502)
    assert counted.of(lambda: store.read("s", last=2)) == (["find", "find"], 1 + 2)
    assert counted.of(lambda: store.read("s", after=records[-1].position)) == (["find", "find"], 1 + 2)
    newest = store.records("s", last=1)[0].position
    assert counted.of(lambda: store.read("s", after=newest)) == (["find"], 1)
    store.delete("s", [records[1].id])
    assert counted.of(lambda: store.read("s", last=10)) == (["find", "find"], 1 + 10)
    assert counted.of(lambda: store.count("s"))[1] == 1 + 1
    client.close()


def test_other_names(mongodb_server, place):
    names = {"session_id_key": "sid", "history_key": "text"}
    with MongoDBStore(mongodb_server.url, **place, **names) as store:
        store.append("s", batch("a"))
        store.put_state("s", {"a": 1})
        assert [info.session_id for info in store.sessions(prefix="s")] == ["s"]
        document = store.client[DATABASE][place["collection_name"]].find_one({"sid": "s"})
        assert json.loads(document["text"])["data"]["content"] == "a 0"
        store.clear("s")
        assert store.sessions() == []
