"""The stores on servers as chat stores of LlamaIndex."""

from __future__ import annotations

import functools
import uuid

import pytest

pytest.importorskip("llama_index.core")

from langchain_histories import (
    AzureTableStore,
    CosmosDBStore,
    DynamoDBStore,
    KafkaStore,
    MongoDBStore,
    RedisStore,
    SQLStore,
    TablestoreStore,
    UpstashStore,
)
from langchain_histories.stores.base import Capability
from langchain_histories.testing.chat_stores import ChatStoreTests

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
