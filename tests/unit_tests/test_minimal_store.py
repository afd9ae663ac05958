"""Stores as authors wrote them for the first release: one of three operations, one of two clients, and the guide's."""

from __future__ import annotations

import asyncio
import functools
import pickle

import pytest
from frozen_stores import MinimalOperations, MinimalStore, ShelfStore, SQLite3Store
from langchain_core.messages import HumanMessage

from langchain_histories import Capability, StoreUnavailableError, UnsupportedOperationError
from langchain_histories.stores.base import Clients, MessageStore
from langchain_histories.testing import MessageStoreTests


class TestMinimalStore(MessageStoreTests):
    capabilities = Capability.LARGE_SESSIONS

    @pytest.fixture
    def open_store(self):
        return functools.partial(MinimalStore, client={})


class TestShelfStore(MessageStoreTests):
    capabilities = Capability.LARGE_SESSIONS | Capability.NATIVE_ASYNC

    @pytest.fixture
    def open_store(self):
        return functools.partial(ShelfStore, rows={})


class TestSQLite3Store(MessageStoreTests):
    capabilities = (
        Capability.ATOMIC_BATCH
        | Capability.DELETE
        | Capability.ERASE
        | Capability.LARGE_SESSIONS
        | Capability.LEAVES_NO_TRACE
        | Capability.MANY_PROCESSES
        | Capability.PERSISTENT
        | Capability.REPLACE
        | Capability.SESSIONS
        | Capability.STATE
        | Capability.TAIL_READ
    )

    @pytest.fixture
    def folder(self, tmp_path_factory):
        return tmp_path_factory.mktemp("frozen")  # in memory for all tests, unlike `tmp_path`

    @pytest.fixture
    def open_store(self, folder):
        return functools.partial(SQLite3Store, f"sqlite3://{folder}/chat.db")

    @pytest.fixture
    def unreachable_store(self, folder):
        return SQLite3Store(f"sqlite3://{folder}/no folder/chat.db")

    def traces(self, store):
        with store.client.transaction() as connection:
            records = connection.execute("SELECT session, text FROM records").fetchall()
            return records + connection.execute("SELECT session, text FROM states").fetchall()


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("replace", ("s", [HumanMessage("x")])),
        ("sessions", ()),
        ("get_state", ("s",)),
        ("put_state", ("s", {"a": 1})),
        ("update_state", ("s", dict)),
    ],
)
def test_what_a_store_does_not_have_is_said_in_its_name(operation, arguments):
    store = MinimalStore()
    store.append("s", [HumanMessage("stays")])
    with pytest.raises(UnsupportedOperationError, match="minimal"):
        getattr(store, operation)(*arguments)
    with pytest.raises(UnsupportedOperationError, match="minimal store has no delete"):
        store.delete("s", [store.records("s")[0].id])
    with pytest.raises(UnsupportedOperationError, match="minimal store has no erase"):
        store.erase(user_id="ivan")
    assert store.read("s") == [HumanMessage("stays")]


class WatchedOperations(MinimalOperations):
    """Counts how often it is asked what there is; the place is a key of the client."""

    capabilities = MinimalOperations.capabilities | Capability.STATE

    def __init__(self):
        super().__init__()
        self.asked = []

    async def look(self, client):
        self.asked.append("look")
        return "place" in client

    async def setup(self, client, *, upgrade=False):
        self.asked.append("setup")
        client.setdefault("place", [])

    async def get_state(self, client, key):
        return None


def test_a_read_looks_until_there_is_something_and_never_again():
    place = {}
    operations = WatchedOperations()
    store = MessageStore(operations, Clients(client=place))
    assert (store.read("s"), store.count("s"), store.get_state("s"), store.clear("s")) == ([], 0, None, None)
    assert (place, operations.asked) == ({}, ["look"] * 4)
    place["place"] = []  # another process has made it
    operations.asked.clear()
    assert [store.read("s") for _ in range(3)] == [[]] * 3
    assert operations.asked == ["look"]
    store.append("s", [HumanMessage("x")])
    store.append("s", [HumanMessage("y")])
    assert (len(store.read("s")), operations.asked) == (2, ["look", "setup"])
    store.close()
    assert (len(store.read("s")), operations.asked) == (2, ["look", "setup", "look"])


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_the_batch_of_a_failed_append_is_stored_whole_and_once(monkeypatch, is_async, kept):
    """Also where only a part of it was stored, and where the messages came from a generator, which is used up."""
    store = MinimalStore()
    append, failures = MinimalOperations.append, iter([True])

    async def cut(operations, client, key, rows):
        is_cut = next(failures, False)
        await append(operations, client, key, rows[:kept] if is_cut else rows)
        if is_cut:
            raise ConnectionError("cut")

    monkeypatch.setattr(MinimalOperations, "append", cut)

    def add(messages):
        return asyncio.run(store.aappend("s", messages)) if is_async else store.append("s", messages)

    with pytest.raises(StoreUnavailableError) as caught:
        add(HumanMessage(text) for text in ("a", "b"))
    batch = pickle.loads(pickle.dumps(caught.value.batch))
    assert [message.content for message in batch] == ["a", "b"]
    ids = add(batch)
    assert add(batch) == ids
    assert [message.content for message in store.read("s")] == ["a", "b"]
    assert [record.id for record in store.records("s")] == ids
