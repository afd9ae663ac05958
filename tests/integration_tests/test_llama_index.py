"""The stores on servers as chat stores of LlamaIndex."""

from __future__ import annotations

import asyncio
import functools
import json
import uuid
from urllib.parse import unquote, urlsplit

import boto3
import pytest
import redis
import sqlalchemy as sa
import tablestore
from boto3.dynamodb.types import TypeDeserializer
from langchain_core.messages import AIMessage, SystemMessage, ToolMessage
from sqlalchemy.ext.asyncio import create_async_engine

pytest.importorskip("llama_index.core")

from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer

from langchain_histories import (
    AzureTableStore,
    ConfigurationError,
    CosmosDBStore,
    DynamoDBStore,
    KafkaStore,
    MemoryStore,
    MongoDBStore,
    RecordTooLargeError,
    RedisStore,
    SQLStore,
    TablestoreStore,
    UpstashStore,
)
from langchain_histories.integrations.llama_index import LlamaIndexChatStore, aimport_llama_index, import_llama_index
from langchain_histories.stores.base import Capability
from langchain_histories.testing.chat_stores import ChatStoreTests

USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
ALL = ~Capability(0)
KEYS = {"region_name": "eu-west-1", "aws_access_key_id": "test", "aws_secret_access_key": "right-Secret7"}


@pytest.fixture
def name():
    return f"t{uuid.uuid4().hex}"


class TestRedisChatStore(ChatStoreTests):
    capabilities = ALL

    @pytest.fixture
    def open_store(self, redis_server, name):
        return functools.partial(RedisStore, redis_server.url, key_prefix=f"{name}:")


class TestUpstashChatStore(ChatStoreTests):
    capabilities = ALL

    @pytest.fixture
    def open_store(self, upstash_server, name):
        return functools.partial(UpstashStore, upstash_server.url, key_prefix=f"{name}:", timeout=60)


class TestPostgresChatStore(ChatStoreTests):
    capabilities = ALL

    @pytest.fixture
    def open_store(self, postgres_server, name):
        return functools.partial(SQLStore, postgres_server.url_with(scheme="postgresql+psycopg"), table_name=name)


class TestMariaDBChatStore(ChatStoreTests):
    capabilities = ALL

    @pytest.fixture
    def open_store(self, mariadb_server, name):
        return functools.partial(SQLStore, mariadb_server.url_with(scheme="mariadb+pymysql"), table_name=name)


class TestMongoDBChatStore(ChatStoreTests):
    capabilities = ALL

    @pytest.fixture
    def open_store(self, mongodb_server, name):
        return functools.partial(MongoDBStore, mongodb_server.url, collection_name=name, timeout=60)


class TestDynamoDBChatStore(ChatStoreTests):
    capabilities = ALL

    @pytest.fixture
    def open_store(self, dynamodb_server, name):
        where = {"client_options": {**KEYS, "endpoint_url": dynamodb_server.url}, "create_table": True, "timeout": 60}
        return functools.partial(DynamoDBStore, table_name=name, **where)


class TestAzureTableChatStore(ChatStoreTests):
    capabilities = ALL

    @pytest.fixture
    def open_store(self, azure_table_server, name):
        return functools.partial(AzureTableStore, f"{azure_table_server.url}/{name}", timeout=60)


class TestCosmosDBChatStore(ChatStoreTests):
    capabilities = ALL

    @pytest.fixture
    def open_store(self, cosmosdb_server, name):
        return functools.partial(CosmosDBStore, f"{cosmosdb_server.url}/{name}", timeout=60)


class TestTablestoreChatStore(ChatStoreTests):
    capabilities = ALL

    @pytest.fixture
    def open_store(self, tablestore_server, name):
        return functools.partial(TablestoreStore, tablestore_server.url, table_name=name, timeout=60)


class TestKafkaChatStore(ChatStoreTests):
    """A log: it is read and appended to."""

    capabilities = ALL & ~(Capability.EDIT | Capability.DELETE)

    @pytest.fixture
    def open_store(self, kafka_server, name):
        return functools.partial(KafkaStore, kafka_server.url, topic_prefix=f"{name}.", timeout=60)


def talk(chat_store):
    """As LlamaIndex's documentation has it, and every method once."""
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000, chat_store=chat_store, chat_store_key="user1")
    engine = SimpleChatEngine.from_defaults(llm=MockLLM(), memory=memory)
    assert engine.chat("hi").response
    assert asyncio.run(engine.achat("more")).response
    messages = chat_store.get_messages("user1")
    assert [it.role.value for it in messages] == ["user", "assistant"] * 2
    assert asyncio.run(chat_store.aget_messages("user1")) == messages
    chat_store.set_messages("user1", messages[:3])
    chat_store.add_message("user1", ChatMessage("end"))
    assert chat_store.delete_message("user1", 1) == messages[1]
    assert chat_store.delete_last_message("user1") == ChatMessage("end")
    assert chat_store.get_messages("user1") == [messages[0], messages[2]]
    return messages


def end(chat_store):
    assert chat_store.get_keys() == ["user1"]
    assert len(chat_store.delete_messages("user1")) == 2
    assert chat_store.get_keys() == []
    chat_store.close()


def test_redis(redis_server):
    from langchain_histories.integrations.llama_index.redis import RedisChatStore

    chat_store = RedisChatStore(redis_url=redis_server.url, ttl=300)
    chat_store.delete_messages("user1")
    talk(chat_store)
    assert 0 < chat_store.message_store.client.ttl("message_store:user1") <= 300
    chat_store.delete_messages("user1")
    chat_store.close()


def test_upstash(upstash_server):
    from langchain_histories.integrations.llama_index.upstash import UpstashChatStore

    parts = urlsplit(upstash_server.url)
    chat_store = UpstashChatStore(
        redis_url=f"http://{parts.hostname}:{parts.port}", redis_token=unquote(parts.password), ttl=300
    )
    chat_store.delete_messages("user1")
    talk(chat_store)
    assert asyncio.run(chat_store.async_delete_last_message("user1")).content == "more"
    chat_store.delete_messages("user1")
    chat_store.close()


def test_azure(azure_table_server, name):
    from langchain_histories.integrations.llama_index.azure import AzureChatStore

    parts = urlsplit(azure_table_server.url)
    chat_store = AzureChatStore.from_account_and_key(
        account_name=parts.username,
        account_key=unquote(parts.password),
        endpoint=f"http://{parts.hostname}:{parts.port}{parts.path}",
        chat_table_name=name,
        metadata_table_name="Metadata",
    )
    talk(chat_store)
    end(chat_store)


@pytest.mark.parametrize("use_jsonb", [False, True])
def test_postgres(postgres_server, name, use_jsonb):
    from langchain_histories.integrations.llama_index.postgres import PostgresChatStore

    url = postgres_server.url_with(scheme="postgresql+asyncpg")
    chat_store = PostgresChatStore.from_uri(uri=url, table_name=name, use_jsonb=use_jsonb)
    talk(chat_store)
    end(chat_store)


def test_a_table_of_google_has_messages_for_both(postgres_server, name):
    """Its own class reads a row as `ChatMessage(**row)`; this is what it would see."""
    from langchain_histories.integrations.llama_index.alloydb import AlloyDBChatStore, AlloyDBEngine

    url = postgres_server.url_with(scheme="postgresql+psycopg")
    theirs = sa.create_engine(url)
    written = ChatMessage("theirs", role="user").model_dump_json()
    with theirs.begin() as connection:
        connection.execute(
            sa.text(f"CREATE TABLE {name} (id SERIAL PRIMARY KEY, key VARCHAR NOT NULL, message JSON NOT NULL)")
        )
        connection.execute(sa.text(f"INSERT INTO {name} (key, message) VALUES ('user1', :m)"), {"m": written})
    engine = AlloyDBEngine.from_connection_string(url)
    engine.init_chat_store_table(table_name=name)
    chat_store = AlloyDBChatStore.create_sync(engine=engine, table_name=name)
    assert chat_store.get_messages("user1") == [ChatMessage("theirs")]
    chat_store.message_store.append("user1", [AIMessage("from LangChain", id="1", usage_metadata=USAGE)])
    chat_store.add_message("user1", ChatMessage("inserted"), 1)
    with theirs.begin() as connection:
        rows = (
            connection.execute(sa.text(f"SELECT message FROM {name} WHERE key = 'user1' ORDER BY id")).scalars().all()
        )
    seen = [ChatMessage.model_validate(row) for row in rows]
    assert seen == chat_store.get_messages("user1")
    assert [it.content for it in seen] == ["theirs", "inserted", "from LangChain"]
    assert chat_store.message_store.read("user1")[2] == AIMessage("from LangChain", id="1", usage_metadata=USAGE)
    assert chat_store.delete_last_message("user1").content == "from LangChain"
    chat_store.close()
    theirs.dispose()


async def test_an_engine_of_google_is_async(postgres_server, name):
    from langchain_histories.integrations.llama_index.alloydb import AlloyDBChatStore, AlloyDBEngine

    own = create_async_engine(postgres_server.url_with(scheme="postgresql+psycopg"))
    engine = AlloyDBEngine.from_engine(own)
    await engine.ainit_chat_store_table(table_name=name)
    chat_store = await AlloyDBChatStore.create(engine=engine, table_name=name)
    await chat_store.async_add_message("s", ChatMessage("hi"))
    assert await chat_store.aget_messages("s") == [ChatMessage("hi")]
    await own.dispose()


def test_an_item_of_dynamodb_has_messages_for_both(dynamodb_server, name):
    """LlamaIndex's own class reads `ChatMessage.model_validate` of each map; this is what it would see."""
    from langchain_histories.integrations.llama_index.dynamodb.base import DynamoDBChatStore

    where = {"endpoint_url": dynamodb_server.url}
    client = boto3.client("dynamodb", **KEYS, **where)
    client.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "SessionId", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "SessionId", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    theirs = {
        "M": {
            "role": {"S": "user"},
            "additional_kwargs": {"M": {}},
            "blocks": {"L": [{"M": {"block_type": {"S": "text"}, "text": {"S": "theirs"}}}]},
        }
    }
    client.put_item(
        TableName=name, Item={"SessionId": {"S": "s"}, "History": {"L": [theirs]}, "TTL": {"N": "99999999999"}}
    )
    chat_store = DynamoDBChatStore(table_name=name, **KEYS, resource_kwargs=where, ttl_seconds=300)
    assert chat_store.get_messages("s") == [ChatMessage("theirs")]
    chat_store.message_store.append("s", [AIMessage("from LangChain", id="1", usage_metadata=USAGE)])
    chat_store.add_message("s", ChatMessage("inserted"), 1)
    item = client.get_item(TableName=name, Key={"SessionId": {"S": "s"}})["Item"]
    maps = [TypeDeserializer().deserialize(value) for value in item["History"]["L"]]
    seen = [ChatMessage.model_validate(it) for it in maps]
    assert [it.content for it in seen] == ["theirs", "inserted", "from LangChain"]
    assert seen == chat_store.get_messages("s")
    assert int(item["TTL"]["N"]) < 99999999999
    assert chat_store.message_store.read("s")[2] == AIMessage("from LangChain", id="1", usage_metadata=USAGE)
    chat_store.add_message("user1", ChatMessage("x" * 1000))
    with pytest.raises(RecordTooLargeError):
        chat_store.add_message("user1", ChatMessage("x" * 500_000))
    chat_store.delete_messages("user1")
    talk(chat_store)
    chat_store.close()


def test_tablestore(tablestore_server, name):
    from langchain_histories.integrations.llama_index.tablestore import TablestoreChatStore

    parts = urlsplit(tablestore_server.url)
    chat_store = TablestoreChatStore(
        endpoint=f"http://{parts.hostname}:{parts.port}",
        instance_name=parts.path.strip("/"),
        access_key_id=parts.username,
        access_key_secret=unquote(parts.password),
        table_name=name,
    )
    chat_store.create_table_if_not_exist()
    talk(chat_store)
    chat_store.clear_store()
    assert chat_store.get_keys() == []
    chat_store.close()


# What LlamaIndex's own classes write, as section by section of their packages: it comes into a store, and stays.

WRITTEN = [
    ChatMessage("be kind", role="system"),
    ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_call_id="c", tool_name="f", tool_kwargs={"x": 1})]),
    ChatMessage("4 é 2" * 8000, role="tool", additional_kwargs={"tool_call_id": "c"}),
]


def check_import(source, **where):
    store = MemoryStore()
    assert import_llama_index(source, store, **where).sessions == 2
    assert asyncio.run(aimport_llama_index(source, store, **where)).sessions == 2
    chat_store = LlamaIndexChatStore(store)
    assert chat_store.get_messages("a:1") == WRITTEN
    assert chat_store.get_messages("b") == WRITTEN[:1]
    assert [type(it) for it in store.read("a:1")] == [SystemMessage, AIMessage, ToolMessage]
    return store


@pytest.mark.parametrize("kind", [RedisStore, UpstashStore])
def test_lists_of_llama_index(kind, redis_server, upstash_server):
    """Without a prefix, the oldest first; lists of others are no sessions."""
    url = redis_server.url if kind is RedisStore else upstash_server.url
    client = redis.Redis.from_url(redis_server.url if kind is RedisStore else upstash_server.redis.url)
    client.delete("a:1", "b", "others")
    client.rpush("a:1", *(it.model_dump_json() for it in WRITTEN))
    client.rpush("b", WRITTEN[0].model_dump_json())
    client.rpush("others", "x", "y")
    with kind(url) as ours:
        ours.append("ours", [AIMessage("hi")])
    before = {name: client.lrange(name, 0, -1) for name in ("a:1", "b", "others")}
    check_import(url)
    assert {name: client.lrange(name, 0, -1) for name in before} == before
    client.delete(*before, "message_store:ours")
    client.close()


@pytest.mark.parametrize(("kind", "prefix"), [("JSON", ""), ("JSONB", "data_")])
def test_rows_of_llama_index(postgres_server, name, kind, prefix):
    url = postgres_server.url_with(scheme="postgresql+psycopg")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            sa.text(f"CREATE TABLE {prefix}{name} (id SERIAL PRIMARY KEY, key VARCHAR UNIQUE NOT NULL, value {kind}[])")
        )
        for key, found in (("a:1", WRITTEN), ("b", WRITTEN[:1])):
            connection.execute(
                sa.text(
                    f"INSERT INTO {prefix}{name} (key, value) VALUES (:key, CAST(CAST(:value AS text[]) AS {kind}[]))"
                ),
                {"key": key, "value": [it.model_dump_json() for it in found]},
            )
    engine.dispose()
    check_import(url, table_name=name)
    with pytest.raises(ConfigurationError, match="nothing_here"):
        import_llama_index(url, MemoryStore(), table_name="nothing_here")


def test_entities_of_llama_index(azure_table_server, name):
    """A part that is too long for a property is cut into several."""
    store = AzureTableStore(f"{azure_table_server.url}/{name}ours", timeout=60)
    client = store.client.create_table(name)
    for key, found in (("a:1", WRITTEN), ("b", WRITTEN[:1])):
        for number, message in enumerate(found):
            entity = {"PartitionKey": key, "RowKey": f"{number:010}"}
            for column, value in message.model_dump(mode="json").items():
                text = json.dumps(value)
                pieces = [text[at : at + 30_000] for at in range(0, len(text), 30_000)]
                names = [column] if len(pieces) == 1 else [f"{column}_part_{part}" for part in range(len(pieces))]
                entity |= dict(zip(names, pieces, strict=True))
            client.create_entity(entity)
    check_import(store, table_name=name)
    store.close()


def test_rows_of_llama_index_in_tablestore(tablestore_server, name):
    store = TablestoreStore(tablestore_server.url, table_name=f"{name}_ours", timeout=60)
    client = store.client
    meta = tablestore.TableMeta(name, [("session_id", "STRING")])
    throughput = tablestore.ReservedThroughput(tablestore.CapacityUnit(0, 0))
    client.create_table(meta, tablestore.TableOptions(), throughput)
    for key, found in (("a:1", WRITTEN), ("b", WRITTEN[:1])):
        text = json.dumps([it.model_dump() for it in found], ensure_ascii=False)
        client.put_row(name, tablestore.Row([("session_id", key)], [("history", text)]))
    check_import(store, table_name=name)
    store.close()
