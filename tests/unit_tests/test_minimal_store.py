"""A store with nothing but the three obligatory operations, and the guide's store as it was: both pass the kit."""

from __future__ import annotations

import functools

import pytest
from frozen_stores import MinimalStore, SQLite3Store
from langchain_core.messages import HumanMessage

from langchain_histories import Capability, UnsupportedOperationError
from langchain_histories.testing import MessageStoreTests


class TestMinimalStore(MessageStoreTests):
    capabilities = Capability.LARGE_SESSIONS

    @pytest.fixture
    def open_store(self):
        return functools.partial(MinimalStore, client={})


class TestFrozenStore(MessageStoreTests):
    capabilities = (
        Capability.ATOMIC_BATCH
        | Capability.DELETE
        | Capability.ERASE
        | Capability.LARGE_SESSIONS
        | Capability.LEAVES_NO_TRACE
        | Capability.MANY_PROCESSES
        | Capability.NATIVE_ASYNC
        | Capability.PERSISTENT
        | Capability.REPLACE
        | Capability.SESSIONS
        | Capability.STATE
        | Capability.TAIL_READ
    )

    @pytest.fixture
    def open_store(self, tmp_path):
        return functools.partial(SQLite3Store, f"sqlite3://{tmp_path}/chat.db", native_async=True)

    @pytest.fixture
    def unreachable_store(self, tmp_path):
        return SQLite3Store(f"sqlite3://{tmp_path}/no folder/chat.db", native_async=True)

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
