"""Stores as authors wrote them for the first release: one of three operations, one of two clients, and the guide's."""

from __future__ import annotations

import functools

import pytest
from frozen_stores import MinimalStore, ShelfStore, SQLite3Store
from langchain_core.messages import HumanMessage

from langchain_histories import Capability, UnsupportedOperationError
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
