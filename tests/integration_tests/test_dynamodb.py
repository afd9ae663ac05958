import functools
import uuid

import pytest

from langchain_histories import DynamoDBStore
from langchain_histories.store import Capability
from langchain_histories.testing import MessageStoreTests

OPTIONS = {"region_name": "eu-west-1", "aws_access_key_id": "test", "aws_secret_access_key": "right-Secret7"}


def options(server):
    return {**OPTIONS, "endpoint_url": server.url}


class TestDynamoDBStore(MessageStoreTests):
    capabilities = ~Capability(0)

    @pytest.fixture
    def open_store(self, dynamodb_server):
        table = uuid.uuid4().hex
        return functools.partial(
            DynamoDBStore, table_name=table, create_table=True, client_options=options(dynamodb_server)
        )

    @pytest.fixture
    def unreachable_store(self):
        return DynamoDBStore("dynamodb:///t?endpoint_url=http://127.0.0.1:1", client_options=OPTIONS)

    @pytest.fixture
    def server(self, dynamodb_server):
        return dynamodb_server

    def traces(self, store):
        pages = store.client.get_paginator("scan").paginate(TableName=store.table_name)
        return sorted(str(item) for page in pages for item in page["Items"])
