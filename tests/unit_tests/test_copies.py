"""Histories, views, stores and registries can be pickled and deep-copied."""

from __future__ import annotations

import copy
import pickle

import pytest
from langchain_core.messages import HumanMessage

from langchain_histories import (
    FileStore,
    HistoryRegistry,
    InMemoryChatMessageHistory,
    MemoryStore,
    SQLChatMessageHistory,
    SummarizingChatMessageHistory,
    WindowedChatMessageHistory,
    open_history,
    open_store,
)

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda value: pickle.loads(pickle.dumps(value))}
copied = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
URLS = {
    "redis": "redis://:Secret7@127.0.0.1:9/0",
    "upstash": "upstash://:Secret7@host.upstash.io",
    "sql": "postgresql+psycopg://ivan:Secret7@127.0.0.1:9/db",
    "mongodb": "mongodb://ivan:Secret7@127.0.0.1:9/",
    "dynamodb": "dynamodb://key:Secret7@eu-west-1/table",
    "kafka": "kafka://ivan:Secret7@127.0.0.1:9",
    "azure": "azure-table://account:Secret7key=@account.table.core.windows.net/table",
    "cosmos": "cosmosdb://:" + "Secret7A" * 10 + "Secret==@account.documents.azure.com/db/container",
    "tablestore": "tablestore://id:Secret7@instance.cn-hangzhou.ots.aliyuncs.com/instance",
}


@copied
@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_a_copy_of_a_networked_store_joins_its_place(copied, url):
    history = open_history(url, "1", last=5)
    again = copied(history)
    assert (type(again), again.session_id, again.last) == (type(history), "1", 5)
    assert type(again.store) is type(history.store)
    assert again.store is not history.store
    assert again.store._clients is history.store._clients
    assert "Secret7" not in repr(again)


@copied
def test_a_copy_of_a_file_store(copied, tmp_path):
    store = FileStore(path=str(tmp_path / "chats"))
    copied(store).append("s", [HumanMessage("x")])
    assert store.read("s") == [HumanMessage("x")]


@copied
def test_a_copy_of_a_memory_has_its_content_and_lives_apart(copied):
    history = InMemoryChatMessageHistory(messages=[HumanMessage("x")])
    again = copied(history)
    again.add_user_message("y")
    history.add_user_message("z")
    assert [message.content for message in again.messages] == ["x", "y"]
    assert [message.content for message in history.messages] == ["x", "z"]
    assert again.store.records("memory")[0].id == history.store.records("memory")[0].id


@copied
def test_a_copy_of_a_registry_and_of_its_handles(copied):
    config = {"histories": {"a": {"url": "memory://"}, "b": {"url": "sqlite:///x.db", "last": 3}}, "default": "b"}
    registry = HistoryRegistry.from_config(config)
    again = copied(registry)
    assert repr(again) == repr(registry)
    assert again.get_session_history("1").last == 3
    assert copied(registry.get_session_history("1")).session_id == "1"


@copied
def test_a_copy_of_a_view(copied):
    store = MemoryStore()
    window = WindowedChatMessageHistory(store.history("s"), keep=("messages", 2))
    summary = SummarizingChatMessageHistory(store.history("s"), model="extractive")
    for view in (window, summary):
        view.add_user_message("x")
        again = copied(view)
        assert again.messages == view.messages
        assert repr(again) == repr(view)


def test_what_cannot_be_pickled_is_named():
    store = open_store("memory://", before_save=lambda message: message)
    with pytest.raises(TypeError, match=r"MemoryStore cannot be pickled, because its before_save"):
        pickle.dumps(store)
    assert copy.deepcopy(store).format.before_save is store.format.before_save
    with pytest.raises(TypeError, match="its store cannot"):
        pickle.dumps(store.history("s"))


@copied
def test_what_a_history_made_on_first_use_is_made_again(copied, tmp_path):
    history = SQLChatMessageHistory("s", connection=f"sqlite:///{tmp_path}/chat.db")
    history.add_user_message("x")
    made = history.session_maker
    assert copied(history).messages == [HumanMessage("x")]
    assert copied(history).session_maker is not made
