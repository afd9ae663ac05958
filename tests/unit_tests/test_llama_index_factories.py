"""Chat stores with the names and constructors of LlamaIndex's own: which place they name, and what they refuse."""

import copy
import importlib
import importlib.util
import pickle

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.storage.chat_store import SimpleChatStore as Theirs

from langchain_histories import ConfigurationError
from langchain_histories.integrations import llama_index
from langchain_histories.integrations.llama_index.postgres import with_an_installed_driver

MODULES = {
    "simple": ["SimpleChatStore"],
    "redis": ["RedisChatStore"],
    "upstash": ["UpstashChatStore"],
    "azure": ["AzureChatStore"],
    "dynamodb": ["DynamoDBChatStore"],
    "dynamodb.base": ["DynamoDBChatStore"],
    "postgres": ["PostgresChatStore", "PostgresEngine"],
    "tablestore": ["TablestoreChatStore"],
    "alloydb": ["AlloyDBChatStore", "AlloyDBEngine"],
    "yugabytedb": ["YugabyteDBChatStore"],
}


def test_each_class_is_in_its_module_and_in_the_package():
    for module, names in MODULES.items():
        for name in names:
            assert getattr(importlib.import_module(f"{llama_index.__name__}.{module}"), name) is getattr(
                llama_index, name
            )
    assert {name for names in MODULES.values() for name in names} | {"LlamaIndexChatStore"} <= set(llama_index.__all__)
    with pytest.raises(AttributeError):
        llama_index.NoChatStore  # noqa: B018


def test_a_simple_store(tmp_path):
    chat_store = llama_index.SimpleChatStore()
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000, chat_store=chat_store, chat_store_key="user1")
    memory.put(ChatMessage("hi"))
    path = str(tmp_path / "chat_store.json")
    chat_store.persist(persist_path=path)
    loaded = llama_index.SimpleChatStore.from_persist_path(persist_path=path)
    assert loaded.store == chat_store.store == {"user1": [ChatMessage("hi")]}
    assert Theirs.from_persist_path(path).store == chat_store.store
    assert llama_index.SimpleChatStore.parse_raw(chat_store.json()).store == chat_store.store
    again = ChatMemoryBuffer.from_string(memory.to_string())
    assert type(again.chat_store) is Theirs
    assert again.get_all() == [ChatMessage("hi")]
    assert pickle.loads(pickle.dumps(chat_store)).store == chat_store.store
    assert copy.deepcopy(chat_store).store == chat_store.store
    assert llama_index.SimpleChatStore(store={"a": [ChatMessage("b")]}).get_keys() == ["a"]


PLACES = {
    "message_store:": lambda: llama_index.RedisChatStore(redis_url="redis://:s3cret@127.0.0.1:1", ttl=300),
    "chat_records": lambda: llama_index.PostgresChatStore.from_params(
        host="127.0.0.1", port="1", database="d", user="u", password="s3cret", table_name="chat", use_jsonb=True
    ),
    "chatstore_records": lambda: llama_index.PostgresChatStore.from_uri(
        uri="postgresql+asyncpg://u:s3cret@127.0.0.1:1/d"
    ),
    "ChatUserRecords": lambda: llama_index.AzureChatStore.from_account_and_key(
        account_name="account",
        account_key="c2VjcmV0",
        chat_table_name="ChatUser",
        metadata_table_name="ChatUserMetadata",
    ),
    "ChatMessagesRecords": lambda: llama_index.AzureChatStore.from_sas_token(
        endpoint="https://a.table.core.windows.net", sas_token="sv=1&sig=s3cret"
    ),
    "llama_index_chat_store_v1_records": lambda: llama_index.TablestoreChatStore(
        endpoint="https://i.cn-hangzhou.ots.aliyuncs.com",
        instance_name="i",
        access_key_id="id",
        access_key_secret="s3cret",
    ),
    "EXAMPLE": lambda: llama_index.DynamoDBChatStore(
        table_name="EXAMPLE", region_name="eu-west-1", aws_access_key_id="i", aws_secret_access_key="s3cret"
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_place_is_not_one_that_llama_index_owns_and_no_secret_is_shown(place):
    """But for DynamoDB's, where ours writes LlamaIndex's own form."""
    chat_store = PLACES[place]()
    store = chat_store.message_store
    found = getattr(store, "table_name", None) or store.operations.key_prefix
    assert found == place
    assert store.format.in_llama_index is (place == "EXAMPLE")
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000, chat_store=chat_store)
    for text in (repr(chat_store), memory.to_string(), pickle.dumps(chat_store).decode("latin-1")):
        assert "s3cret" not in text
        assert "c2VjcmV0" not in text
    assert ChatMemoryBuffer.from_string(memory.to_string()).chat_store.message_store is store


def test_tables_of_google_are_used_as_they_are():
    engine = llama_index.AlloyDBEngine.from_connection_string("postgresql://u:s3cret@127.0.0.1:1/d")
    store = llama_index.AlloyDBChatStore.create_sync(engine=engine, table_name="chat_store").message_store
    assert (store.table_name, store.schema, store.session_id_field_name) == ("chat_store", "public", "key")
    assert store.format.in_llama_index
    for login in ({}, {"user": "u"}, {"user": "u", "password": "p", "iam_account_email": "e"}):
        with pytest.raises(ConfigurationError, match="iam_account_email"):
            llama_index.AlloyDBEngine.from_instance(
                project_id="p", region="r", cluster="c", instance="i", database="d", **login
            )


def test_instances_of_google():
    alloydb = llama_index.AlloyDBEngine.from_instance(
        project_id="p", region="r", cluster="c", instance="i", database="d", user="u", password="s3cret"
    )
    assert repr(alloydb.store("t", "public")) == "SQLStore('alloydb://u:***@p/r/c/i/d?ip_type=***')"
    cloudsql = llama_index.PostgresEngine.from_instance(
        "p", "r", "i", "d", iam_account_email="a@b.iam", ip_type="PRIVATE"
    )
    assert "p:r:i/d" in repr(cloudsql.store("t", "public"))


def test_what_a_constructor_refuses():
    for arguments in ({}, {"redis_url": "https://e.com"}, {"redis_token": "t"}):
        with pytest.raises(ValueError, match="redis_token"):
            llama_index.UpstashChatStore(**arguments)
    with pytest.raises(ConfigurationError, match="from_"):
        llama_index.AzureChatStore()
    with pytest.raises(ConfigurationError, match="host"):
        llama_index.PostgresChatStore.from_params(user="u")


def test_asyncpg_that_is_not_installed(monkeypatch):
    uri = "postgresql+asyncpg://u:s3cret@h/d?ssl=require"
    assert with_an_installed_driver(uri) == uri
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert with_an_installed_driver(uri) == "postgresql://u:s3cret@h/d?sslmode=require"
    assert with_an_installed_driver("postgresql+asyncpg://u@h/d") == "postgresql://u@h/d"
    with pytest.raises(ConfigurationError, match="statement_cache_size") as caught:
        with_an_installed_driver("postgresql+asyncpg://u:s3cret@h/d?statement_cache_size=0")
    assert "s3cret" not in str(caught.value)
