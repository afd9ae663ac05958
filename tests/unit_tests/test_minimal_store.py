"""Stores as authors wrote them for the first release: one of three operations, one of two clients, and the guide's."""

from __future__ import annotations

import functools

import pytest
from frozen_stores import MinimalOperations, MinimalStore, ShelfStore, SQLite3Store
from langchain_core.messages import HumanMessage

from langchain_histories import Capability, UnsupportedOperationError
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
