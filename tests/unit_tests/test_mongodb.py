"""The MongoDB store on mongomock: what happens between the steps of its operations, and its arguments.

mongomock is no evidence of what MongoDB does, but it runs each step at once, so every point at which another process
may come in between, and at which one may die, can be tried in turn. The integration tests use a server.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import datetime as dt
import functools
import itertools
import json

import mongomock
import pymongo
import pytest
from bson import ObjectId
from langchain_core.messages import AIMessage, HumanMessage, message_to_dict

from langchain_histories import (
    Capability,
    ConfigurationError,
    CorruptRecordError,
    MongoDBChatMessageHistory,
    MongoDBStore,
    RecordTooLargeError,
    StoreError,
    StoreUnavailableError,
)
from langchain_histories.stores.base import prefix_end
from langchain_histories.stores.mongodb import operations


class Died(BaseException):
    """The end of a process."""


class Steps:
    """A collection that says when an operation is about to be sent."""

    def __init__(self, collection, before):
        self._collection, self._before = collection, before

    def __getattr__(self, name):
        def step(*args, **options):
            self._before(name)
            return getattr(self._collection, name)(*args, **options)

        return step


class SteppedStore(MongoDBStore):
    """Calls `at_step(number, name)` before each step of its operations."""

    def __init__(self, client, at_step=lambda number, name: None):
        super().__init__(client=client)
        self.steps = itertools.count()
        collections = self.operations._collections

        def stepped(client):
            return tuple(
                Steps(collection, lambda name: at_step(next(self.steps), name)) for collection in collections(client)
            )

        async def no_setup(client, *, upgrade=False):
            pass

        self.operations._collections, self.operations.setup = stepped, no_setup


def texts(messages):
    return [message.content for message in messages]


def batch(name, size=2):
    return [HumanMessage(f"{name}{number}") for number in range(size)]


def add_langchains(client, session_id, *contents):
    for content in contents:
        history = json.dumps(message_to_dict(HumanMessage(content)))
        client.chat_history.message_store.insert_one({"SessionId": session_id, "History": history})


def as_langchain_sees_it(client, session_id="s"):
    found = client.chat_history.message_store.find({"SessionId": session_id})
    documents = sorted(found, key=lambda document: (document.get("seq", 0), str(document["_id"])))
    return [json.loads(document["History"])["data"]["content"] for document in documents]


@functools.cache
def filling():
    """What `fill` stores, by collection; to copy it takes a tenth of the time of storing it anew, thousands of times."""
    client = mongomock.MongoClient()
    add_langchains(client, "s", "l0", "l1")
    store = MongoDBStore(client=client)
    store.append("s", batch("a"))
    store.append("s", batch("b", 1))
    store.put_state("s", {"n": 1})
    database = client.chat_history
    names = sorted(database.list_collection_names())
    return {name: (list(database[name].find()), database[name].index_information()) for name in names}


def fill(client):
    for name, (documents, indexes) in filling().items():
        client.chat_history[name].insert_many(copy.deepcopy(documents))
        for index in indexes.values():
            client.chat_history[name].create_index(index["key"], unique=index.get("unique", False))


def deletion(*contents):
    def delete(store):
        return store.delete("s", [record.id for record in store.records("s") if record.message.content in contents])

    return delete


OPERATIONS = {
    "append": lambda store: store.append("s", batch("x")),
    "append more": lambda store: store.append("s", batch("y", 3)),
    "clear": lambda store: store.clear("s"),
    "replace": lambda store: store.replace("s", batch("r", 3)),
    "empty": lambda store: store.replace("s", []),
    "delete": deletion("a1", "l0"),
    "delete others": deletion("b0", "l1"),
    "delete the new": deletion("x0", "x1", "y0", "r0"),
    "put_state": lambda store: store.put_state("s", {"n": 2}),
    "drop state": lambda store: store.put_state("s", None),
    "update_state": lambda store: store.update_state("s", lambda state: {"n": (state or {"n": 10})["n"] + 10}),
    "update to none": lambda store: store.update_state("s", lambda _: None),
}


def outcome(client):
    store = MongoDBStore(client=client)
    return (texts(store.read("s")), store.get_state("s"), store.count("s"), [i.count for i in store.sessions()])


def run(*names, first=None):
    """The outcome of operations one after the other."""
    client = mongomock.MongoClient()
    if first != "empty":
        fill(client)
    for name in names:
        OPERATIONS[name](MongoDBStore(client=client))
    return outcome(client)


def number_of_steps(name, first):
    client = mongomock.MongoClient()
    if first != "empty":
        fill(client)
    store = SteppedStore(client)
    OPERATIONS[name](store)
    return next(store.steps)


@pytest.mark.parametrize("first", ["full", "empty"])
@pytest.mark.parametrize("second", OPERATIONS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_another_process_between_any_two_steps(name, second, first):
    """What comes in between any two steps of an operation comes before it or after it."""
    possible = [run(name, second, first=first), run(second, name, first=first)]
    for at in range(number_of_steps(name, first)):
        client = mongomock.MongoClient()
        if first != "empty":
            fill(client)

        def come_in_between(number, _, at=at, client=client):
            if number == at:
                OPERATIONS[second](MongoDBStore(client=client))

        OPERATIONS[name](SteppedStore(client, come_in_between))
        found = outcome(client)
        assert found in possible, at
        # LangChain's class sees the same, and nothing is left to do.
        assert as_langchain_sees_it(client) == found[0]
        document = client.chat_history.message_store_sessions.find_one({"_id": "s"}) or {}
        assert not document.get("pending"), at
        assert "removing" not in document, at
        if "clear" in (name, second) and found[2] == 0 and found[1] is None:
            assert document == {}, at


@pytest.mark.parametrize("first", ["full", "empty"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_dying_before_any_step(name, first):
    """An operation that ends in the middle happened or did not; the next append finishes what it left behind."""
    before, after = run(first=first), run(name, first=first)
    for at in range(number_of_steps(name, first)):
        client = mongomock.MongoClient()
        if first != "empty":
            fill(client)

        def die(number, _, at=at):
            if number == at:
                raise Died

        with pytest.raises(Died):
            OPERATIONS[name](SteppedStore(client, die))
        found = outcome(client)
        assert found in (before, after), at
        MongoDBStore(client=client).append("s", batch("z", 1))
        assert texts(MongoDBStore(client=client).read("s")) == [*found[0], "z0"]
        assert as_langchain_sees_it(client) == [*found[0], "z0"]


CHANGES = ["append", "clear", "replace", "delete", "delete others", "delete the new"]


@pytest.mark.parametrize("second", CHANGES)
@pytest.mark.parametrize("name", CHANGES)
def test_another_process_dies_between_any_two_steps(name, second):
    """The one that lives finishes, and nothing is left undone after the next append."""
    possible = [run(name), run(name, second), run(second, name)]
    for at, end in itertools.product(range(number_of_steps(name, "full")), range(number_of_steps(second, "full"))):
        client = mongomock.MongoClient()
        fill(client)

        def die(number, _, end=end):
            if number == end:
                raise Died

        def come_in_between(number, _, at=at, client=client, die=die):
            if number == at:
                with contextlib.suppress(Died):
                    OPERATIONS[second](SteppedStore(client, die))

        OPERATIONS[name](SteppedStore(client, come_in_between))
        found = outcome(client)
        assert found in possible, (at, end)
        MongoDBStore(client=client).append("s", batch("z", 1))
        assert as_langchain_sees_it(client) == [*found[0], "z0"], (at, end)


@pytest.mark.parametrize("second", CHANGES)
@pytest.mark.parametrize("name", CHANGES)
def test_dying_after_another_process_came_in_between(name, second):
    """A late writer that dies before it can look whether it came too late: what it left behind is not shown."""
    possible = [run(second), run(name, second), run(second, name)]
    for at, end in itertools.combinations(range(number_of_steps(name, "full") + 2), 2):
        client = mongomock.MongoClient()
        fill(client)

        def come_in_between_and_die(number, _, at=at, end=end, client=client):
            if number == at:
                OPERATIONS[second](MongoDBStore(client=client))
            if number == end:
                raise Died

        with contextlib.suppress(Died):
            OPERATIONS[name](SteppedStore(client, come_in_between_and_die))
        found = outcome(client)
        if second != "clear":  # after which nothing is left that could hide it
            # A listing may count it.
            assert found[:3] in [outcome[:3] for outcome in possible] or at >= number_of_steps(name, "full"), (at, end)
        MongoDBStore(client=client).clear("s")
        assert list(client.chat_history.message_store.find()) == []
        assert list(client.chat_history.message_store_sessions.find()) == []


def test_what_was_deleted_does_not_come_back():
    """A writer that puts its batch away after somebody has deleted a part of it, and dies."""
    client = mongomock.MongoClient()
    fill(client)

    def come_in_between_and_die(_, name):
        if name == "insert_many":
            assert OPERATIONS["delete the new"](MongoDBStore(client=client)) == 2
        if name == "update_one":
            raise Died

    with pytest.raises(Died):
        SteppedStore(client, come_in_between_and_die).append("s", batch("x", 3))
    store = MongoDBStore(client=client)
    assert texts(store.read("s")) == ["l0", "l1", "a0", "a1", "b0", "x2"]
    assert texts(store.read("s", last=2)) == ["b0", "x2"]
    assert store.count("s") == 6
    store.append("s", batch("z", 1))
    assert texts(store.read("s", last=2)) == ["x2", "z0"]


@pytest.mark.parametrize("second", OPERATIONS)
@pytest.mark.parametrize(
    "read",
    [
        lambda store: texts(store.read("s")),
        lambda store: store.count("s"),
        lambda store: texts(store.read("s", last=3)),
        lambda store: texts(store.read("s", last=1)),
    ],
    ids=["read", "count", "last 3", "last 1"],
)
def test_a_reader_sees_all_of_a_change_or_nothing(read, second):
    """Also when the change comes between the reader's two reads, and while the writer is between any of its steps."""
    client = mongomock.MongoClient()
    fill(client)
    before = read(MongoDBStore(client=client))
    OPERATIONS[second](MongoDBStore(client=client))
    possible = [before, read(MongoDBStore(client=client))]
    for at in range(6):
        client = mongomock.MongoClient()
        fill(client)

        def come_in_between(number, _, at=at, client=client):
            if number == at:
                OPERATIONS[second](MongoDBStore(client=client))

        assert read(SteppedStore(client, come_in_between)) in possible, at
    client = mongomock.MongoClient()
    fill(client)
    seen = []
    OPERATIONS[second](SteppedStore(client, lambda *_: seen.append(read(MongoDBStore(client=client)))))
    seen.append(read(MongoDBStore(client=client)))
    assert all(found in possible for found in seen)
    assert sum(found != then for found, then in itertools.pairwise(seen)) <= 1


def test_a_reader_while_a_writer_stands_between_any_two_steps():
    """Half a writer and half a clear: the reader has read the session, the writer goes on, the reader goes on."""
    for stop in range(12):
        client = mongomock.MongoClient()
        fill(client)
        reader_at, seen = [], []

        def writer_step(number, _, stop=stop, client=client, reader_at=reader_at, seen=seen):
            if number == stop and not reader_at:
                reader_at.append(number)
                seen.append(texts(MongoDBStore(client=client).read("s")))

        OPERATIONS["replace"](SteppedStore(client, writer_step))
        for found in seen:
            assert found in (["l0", "l1", "a0", "a1", "b0"], ["r0", "r1", "r2"])


def test_a_poller_goes_on_through_everything():
    client = mongomock.MongoClient()
    add_langchains(client, "s", "l0", "l1")
    store, poller, seen = MongoDBStore(client=client), MongoDBStore(client=client), []
    position = None

    def poll():
        nonlocal position
        for record in poller.records("s", after=position):
            position = record.position
            seen.append(record.message.content)

    poll()
    store.append("s", batch("a"))
    poll()
    SteppedStore(client, lambda *_: poll()).append("s", batch("b", 3))
    poll()
    poll()
    assert seen == ["l0", "l1", "a0", "a1", "b0", "b1", "b2"]
    store.replace("s", batch("r"))
    poll()
    store.clear("s")
    poll()
    store.append("s", batch("n"))
    poll()
    poll()
    assert seen[7:] == ["r0", "r1", "n0", "n1"]


def test_a_position_in_langchains_part():
    client = mongomock.MongoClient()
    fill(client)
    store = MongoDBStore(client=client)
    records = store.records("s")
    assert texts(record.message for record in records) == ["l0", "l1", "a0", "a1", "b0"]
    for number, record in enumerate(records):
        assert store.records("s", after=record.position) == records[number + 1 :]
        assert store.records("s", after=record.position, last=2) == records[number + 1 :][-2:]
    for last in range(1, 7):
        assert store.records("s", last=last) == records[-last:]
    for bad in ("0-", "0-zz", "0-00", "x", "", "-1"):
        with pytest.raises(ConfigurationError, match="position"):
            store.read("s", after=bad)


def test_messages_of_langchains_need_no_positions(monkeypatch):
    client = mongomock.MongoClient()
    add_langchains(client, "s", "l0", "l1")
    store = MongoDBStore(client=client)
    assert [record.position for record in store.records("s")]
    monkeypatch.setattr("bson.encode", lambda *_: pytest.fail("a read of messages makes a position"))
    assert texts(store.read("s")) == texts(store.read("s", last=2)) == ["l0", "l1"]


def test_without_the_sessions_nothing_is_hidden():
    """Somebody copied or restored the messages alone."""
    client = mongomock.MongoClient()
    fill(client)
    store = MongoDBStore(client=client)
    position = store.records("s")[2].position
    client.chat_history.message_store_sessions.drop()
    assert texts(store.read("s")) == ["l0", "l1", "a0", "a1", "b0"]
    assert texts(store.read("s", after=position)) == ["a1", "b0"]
    store.append("s", batch("c", 1))
    assert texts(store.read("s")) == ["l0", "l1", "a0", "a1", "b0", "c0"]
    assert texts(store.read("s", after=position)) == ["a1", "b0", "c0"]
    assert store.count("s") == 6
    assert deletion("a1", "l0")(store) == 2
    assert texts(store.read("s")) == ["l1", "a0", "b0", "c0"]
    client.chat_history.message_store_sessions.drop()
    store.put_state("s", {"n": 2})
    assert texts(store.read("s")) == ["l1", "a0", "b0", "c0"]
    client.chat_history.message_store_sessions.drop()
    store.replace("s", batch("r"))
    assert as_langchain_sees_it(client) == texts(store.read("s")) == ["r0", "r1"]
    client.chat_history.message_store_sessions.drop()
    store.clear("s")
    assert list(client.chat_history.message_store.find()) == []


def test_many_deletions():
    client = mongomock.MongoClient()
    store = MongoDBStore(client=client)
    ids = store.append("s", batch("a", 700))
    assert store.delete("s", ids[:600]) == 600
    assert store.delete("s", ids[600:-1]) == 99
    session = client.chat_history.message_store_sessions.find_one({"_id": "s"})
    assert (len(session["deleted"]), "removing" in session) == (256, False)
    assert texts(store.read("s")) == texts(store.read("s", last=5)) == ["a699"]
    assert store.count("s") == 1


def test_documents_of_another_shape():
    client = mongomock.MongoClient()
    collection = client.chat_history.message_store
    store = MongoDBStore(client=client, on_corrupt="raise")
    for odd in ({}, {"History": 5}, {"History": {"type": "human"}}, {"History": None}, {"seq": "x", "History": "{}"}):
        collection.insert_one({"SessionId": "s", **odd})
        with pytest.raises(CorruptRecordError) as caught:
            store.read("s")
        assert caught.value.position.startswith("0-")
        store.append("s", batch("a", 1))
        if "seq" not in odd:
            assert texts(store.read("s", last=1)) == ["a0"]
            assert texts(store.read("s", after=caught.value.position)) == ["a0"]
            assert [info.count for info in store.sessions()] == [2]
        assert store.count("s") == 2
        store.clear("s")
        assert list(collection.find()) == []


def test_the_stored_shape():
    client = mongomock.MongoClient()
    store = MongoDBStore(client=client)
    store.append("s", [HumanMessage("$é.a"), AIMessage("2")])
    documents = list(client.chat_history.message_store.find().sort("seq"))
    session = client.chat_history.message_store_sessions.find_one()
    generation, start = session["generation"], session["start"]
    assert [set(document) for document in documents] == [{"_id", "SessionId", "History", "seq"}] * 2
    assert [document["_id"] for document in documents] == [f"{start + n}-{generation}" for n in (1, 2)]
    assert [document["seq"] for document in documents] == [start + 1, start + 2] == [1, 2]
    assert "$é.a" in documents[0]["History"]
    assert isinstance(session.pop("touched"), dt.datetime)
    assert session == {"_id": "s", "generation": generation, "start": start, "appended": 2, "pending": []}


def test_values_that_look_like_operators():
    client = mongomock.MongoClient()
    store = MongoDBStore(client=client)
    for session_id in ("$where", "{'$ne': null}", "a.b", "$"):
        store.append(session_id, [HumanMessage("$set"), AIMessage("$a.b", additional_kwargs={"$inc": {"a.b": 1}})])
        store.put_state(session_id, {"$set": {"a.b": "$x"}})
        assert store.read(session_id)[1].additional_kwargs == {"$inc": {"a.b": 1}}
        assert store.get_state(session_id) == {"$set": {"a.b": "$x"}}
    assert len(store.sessions()) == 4
    for bad in ({"$ne": None}, ["s"], ObjectId()):
        with pytest.raises(ConfigurationError, match="session_id"):
            store.clear(bad)
    assert len(store.sessions()) == 4


def test_listing_in_pages(monkeypatch):
    monkeypatch.setattr(operations, "_SESSIONS_PER_PAGE", 3)
    client = mongomock.MongoClient()
    store = MongoDBStore(client=client)
    for number in range(8):
        store.append(f"s{number}", batch("a", number + 1))
    for number in (1, 2, 3):
        store.replace(f"s{number}", [])
    add_langchains(client, "s3x", "l0")
    client.chat_history.message_store.insert_one({"SessionId": {"of": "others"}, "History": "{}"})
    assert [(info.session_id, info.count) for info in store.sessions()] == [
        ("s0", 1),
        ("s3x", 1),
        ("s4", 5),
        ("s5", 6),
        ("s6", 7),
        ("s7", 8),
    ]
    assert [info.session_id for info in store.sessions(limit=2)] == ["s0", "s3x"]
    assert [info.session_id for info in store.sessions(limit=4, after="s3")] == ["s3x", "s4", "s5", "s6"]
    assert store.sessions(prefix="s3")[0].last_at is None


def test_listing_shows_what_is_pending():
    client = mongomock.MongoClient()
    add_langchains(client, "s", "l0")

    def die(_, name):
        if name == "insert_many":
            raise Died

    for session_id in ("s", "t"):
        with pytest.raises(Died):
            SteppedStore(client, die).append(session_id, batch("a"))
    store = MongoDBStore(client=client)
    assert [(info.session_id, info.count) for info in store.sessions()] == [("s", 3), ("t", 2)]
    assert texts(store.read("s")) == ["l0", "a0", "a1"]
    assert texts(store.read("s", last=3)) == ["l0", "a0", "a1"]
    assert texts(store.read("s", after=store.records("s")[0].position)) == ["a0", "a1"]
    assert [info.last_at for info in store.sessions()] == [store.records(name)[-1].at for name in ("s", "t")]


def test_the_end_of_a_prefix():
    end = prefix_end
    assert (end("ab"), end(""), end("a\U0010ffff"), end("\U0010ffff"), end("\ud7ff")) == (
        "ac",
        None,
        "b",
        None,
        "\ue000",
    )


def test_a_record_that_is_too_large():
    store = MongoDBStore(client=mongomock.MongoClient())
    store.append("s", batch("kept", 1))
    with pytest.raises(RecordTooLargeError, match="16 MB"):
        store.append("s", [HumanMessage("x" * 16 * 2**20)])
    with pytest.raises(RecordTooLargeError, match="fewer"):
        store.append("s", [HumanMessage("é" * 2**22)] * 2)
    with pytest.raises(RecordTooLargeError):
        store.replace("s", [HumanMessage("é" * 2**22)] * 2)
    with pytest.raises(RecordTooLargeError):
        store.put_state("s", {"x": "x" * 16 * 2**20})
    store.put_state("s", {"x": "x" * 9 * 2**20})
    with pytest.raises(RecordTooLargeError, match="one command"):
        store.update_state("s", lambda _: {"y": "y" * 9 * 2**20})
    assert texts(store.read("s")) == ["kept0"]


def refuse(error):
    def step(_, name):
        if name == "insert_many":
            raise error

    return step


def test_a_server_that_goes_away_after_the_commit(caplog):
    """The batch is stored, so the append has not failed."""
    client = mongomock.MongoClient()
    store = SteppedStore(client, refuse(pymongo.errors.AutoReconnect("gone")))
    store.append("s", [HumanMessage("secret")])
    assert "'s' waits" in caplog.text
    assert "secret" not in caplog.text
    assert texts(MongoDBStore(client=client).read("s")) == ["secret"]


def test_a_collection_that_refuses_a_message():
    """A validator of somebody's: the error is told, and quotes nothing."""
    write_error = {"index": 0, "code": 121, "errmsg": "Document failed validation: secret", "op": {"History": "secret"}}
    error = pymongo.errors.BulkWriteError({"writeErrors": [write_error]})
    with pytest.raises(StoreError, match="append") as caught:
        SteppedStore(mongomock.MongoClient(), refuse(error)).append("s", [HumanMessage("secret")])
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"
    other_key = {"index": 0, "code": 11000, "keyPattern": {"SessionId": 1}, "errmsg": "E11000"}
    error = pymongo.errors.BulkWriteError({"writeErrors": [other_key]})
    with pytest.raises(StoreError):
        SteppedStore(mongomock.MongoClient(), refuse(error)).append("s", [HumanMessage("x")])
    error = pymongo.errors.BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]})
    SteppedStore(mongomock.MongoClient(), refuse(error)).append("s", [HumanMessage("x")])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (pymongo.errors.ServerSelectionTimeoutError("x"), StoreUnavailableError),
        (pymongo.errors.NetworkTimeout("x"), StoreUnavailableError),
        (pymongo.errors.NotPrimaryError("x"), StoreUnavailableError),
        (pymongo.errors.ExecutionTimeout("x"), StoreUnavailableError),
        (pymongo.errors.OperationFailure("Authentication failed.", 18), StoreUnavailableError),
        (pymongo.errors.OperationFailure("bad auth", 8000), StoreUnavailableError),
        (pymongo.errors.OperationFailure("not authorized", 13), StoreError),
        (pymongo.errors.OperationFailure("x", 2), StoreError),
    ],
)
def test_errors_of_the_driver(error, kind):
    def fail(*_):
        raise error

    with pytest.raises(StoreError) as caught:
        SteppedStore(mongomock.MongoClient(), fail).read("s")
    assert type(caught.value) is kind
    assert caught.value.__cause__ is error


def test_clients_of_the_wrong_kind():
    blocking, native = pymongo.MongoClient(connect=False), pymongo.AsyncMongoClient(connect=False)
    with pytest.raises(ConfigurationError, match=r"client must be .* not .*AsyncMongoClient"):
        MongoDBStore(client=native)
    with pytest.raises(ConfigurationError, match=r"async client must be .* not pymongo.*\.MongoClient"):
        MongoDBStore(async_client=blocking)
    with pytest.raises(ConfigurationError, match="Database"):
        MongoDBStore(client=blocking.db)
    motor = type("AsyncIOMotorClient", (), {"__module__": "motor.motor_asyncio", "get_database": None})()
    with pytest.raises(ConfigurationError, match="motor"):
        MongoDBStore(client=motor)
    with pytest.raises(ConfigurationError, match=r"Motor's, not motor"):
        MongoDBStore(async_client=motor)
    for given in ({"url": "mongodb://h", "client": blocking}, {"client": blocking, "client_options": {"w": 1}}):
        with pytest.raises(ConfigurationError, match="not both"):
            MongoDBStore(**given)
    with pytest.raises(ConfigurationError, match="clients of your own"):
        MongoDBStore()
    assert Capability.NATIVE_ASYNC not in MongoDBStore(client=blocking).capabilities
    assert MongoDBStore(client=blocking, async_client=native).capabilities == ~Capability(0)
    assert MongoDBStore("mongodb://h").capabilities == MongoDBStore(async_client=native).capabilities
    blocking.close()


def test_the_database_and_the_pool_of_a_url():
    srv = "mongodb+srv://user:password@cluster.example.net/app?retryWrites=true&maxPoolSize=7"
    for url, name in {srv: "app", "mongodb://h/app": "app", "mongodb://h": "chat_history"}.items():
        assert MongoDBStore(url).database_name == name
        assert MongoDBStore(url, database_name="given").database_name == "given"
    # Who logs in there keeps no histories there.
    assert MongoDBStore("mongodb://user:password@h/admin").database_name == "chat_history"
    with pytest.raises(ConfigurationError, match="maxPoolSize"):
        MongoDBStore(srv, max_connections=3)
    # These are for such URLs alone.
    assert MongoDBStore(f"{srv}&srvMaxHosts=3&srvServiceName=other").database_name == "app"


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://ivan:se/cret@h:1",
        "mongodb://ivan:se:cret@h",
        "mongodb://",
        "mongodb://h:port",
        "mongo://h",
        "mongodb+srv://ivan:se/cret@h",
        "mongodb://h/?w=se:cret&wtimeoutms=cret",
    ],
)
def test_bad_urls(url):
    with pytest.raises(ConfigurationError) as caught:
        MongoDBStore(url)
    assert "cret" not in f"{caught.value}"
    assert caught.value.__cause__ is None


def test_set_up_is_repeated_only_for_what_it_depends_on(monkeypatch):
    made, make_index = [], operations.MongoDBOperations._make_index

    async def record(self, messages, keys, **options):
        if not messages.name.endswith("_sessions"):
            made.append((messages.name, keys if isinstance(keys, str) else keys[0][0]))
        await make_index(self, messages, keys, **options)

    monkeypatch.setattr(operations.MongoDBOperations, "_make_index", record)
    client = mongomock.MongoClient()
    for options in (
        {"create_index": False},
        {},
        {"history_key": "Text", "on_corrupt": "skip"},
        {"collection_name": "c"},
        {"collection_name": "c", "session_id_key": "sid"},
        {"collection_name": "c", "index_kwargs": {"name": "mine"}},
    ) * 2:
        MongoDBStore(client=client, **options).append("s", [HumanMessage("x")])
    assert made == [
        ("message_store", "SessionId"),
        ("c", "SessionId"),
        ("c", "sid"),
        ("c", "SessionId"),
        ("c", "SessionId"),
    ]


@pytest.mark.parametrize("field", ["", "_id", "seq", "$a", "a.b"])
def test_bad_field_names(field):
    for option in ("session_id_key", "history_key"):
        with pytest.raises(ConfigurationError, match=option):
            MongoDBStore("mongodb://h", **{option: field})
    with pytest.raises(ConfigurationError):
        MongoDBStore("mongodb://h", session_id_key="a", history_key="a")


def test_mongomock_from_async_code():
    store = MongoDBStore(client=mongomock.MongoClient())

    async def use():
        await store.aappend("s", batch("a"))
        return await store.aread("s")

    assert texts(asyncio.run(use())) == ["a0", "a1"]


def test_the_drop_in_class():
    client = mongomock.MongoClient()
    history = MongoDBChatMessageHistory(None, "s", "db", "c", client=client, session_id_key="sid", history_key="h")
    history.add_messages(batch("a", 3))
    assert (history.session_id, history.database_name, history.collection_name) == ("s", "db", "c")
    assert (history.session_id_key, history.history_key, history.history_size) == ("sid", "h", None)
    assert history.client is client
    assert (history.db.name, history.collection.name) == ("db", "c")
    assert set(history.collection.find_one()) == {"_id", "sid", "h", "seq"}
    history.close()
    assert texts(history.messages) == ["a0", "a1", "a2"]
    options = {"client": client, "session_id_key": "sid", "history_key": "h"}
    for size, shown in ((0, []), (2, ["a1", "a2"]), (9, ["a0", "a1", "a2"])):
        limited = MongoDBChatMessageHistory(None, "s", "db", "c", history_size=size, **options)
        assert limited.store._clients is history.store._clients
        assert texts(limited.messages) == shown
    for connection_string, given in (("mongodb://h", client), (None, None), ("", None)):
        with pytest.raises(ValueError, match="connection_string or clients"):
            MongoDBChatMessageHistory(connection_string, "s", client=given)
