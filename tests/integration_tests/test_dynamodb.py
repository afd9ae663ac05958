import asyncio
import concurrent.futures
import functools
import threading
import time
import uuid

import boto3
import pytest
from aiobotocore.session import get_session
from langchain_core.messages import AIMessage, HumanMessage

from langchain_histories import (
    ConfigurationError,
    DynamoDBChatMessageHistory,
    DynamoDBStore,
    RecordTooLargeError,
    StoreUnavailableError,
    open_store,
)
from langchain_histories.store import Capability
from langchain_histories.testing import MessageStoreTests, golden_messages

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


@pytest.fixture
def client(dynamodb_server):
    client = boto3.client("dynamodb", **options(dynamodb_server))
    yield client
    client.close()


def make_table(client, *names, types="SS"):
    table = uuid.uuid4().hex
    client.create_table(
        TableName=table,
        AttributeDefinitions=[
            {"AttributeName": name, "AttributeType": kind} for name, kind in zip(names, types, strict=False)
        ],
        KeySchema=[
            {"AttributeName": name, "KeyType": kind} for name, kind in zip(names, ("HASH", "RANGE"), strict=False)
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    return table


class TestDynamoDBStoreOnATableWithoutSortKey(MessageStoreTests):
    capabilities = ~Capability.TAIL_READ & ~Capability.LARGE_SESSIONS

    @pytest.fixture
    def open_store(self, dynamodb_server, client):
        table = make_table(client, "SessionId")
        return functools.partial(DynamoDBStore, table_name=table, client_options=options(dynamodb_server))

    @pytest.fixture
    def server(self, dynamodb_server):
        return dynamodb_server

    def traces(self, store):
        pages = store.client.get_paginator("scan").paginate(TableName=store.table_name)
        return sorted(str(item) for page in pages for item in page["Items"])


@pytest.fixture
def table(client):
    return make_table(client, "SessionId")


@pytest.fixture
def session(dynamodb_server):
    return boto3.Session(region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="right-Secret7")


def theirs(server, table, session_id, session, **more):
    from langchain_community.chat_message_histories import DynamoDBChatMessageHistory as Theirs

    return Theirs(table, session_id, endpoint_url=server.url, boto3_session=session, **more)


def ours(server, table, session_id, session, **more):
    return DynamoDBChatMessageHistory(table, session_id, endpoint_url=server.url, boto3_session=session, **more)


def test_langchain_reads_what_we_write(dynamodb_server, table, session):
    plain = [message for message in golden_messages() if "lh:type" not in repr(message)][:10]
    ours(dynamodb_server, table, "s", session).add_messages(plain)
    assert theirs(dynamodb_server, table, "s", session).messages == plain


def test_langchain_reads_every_golden_message_as_plain_data(dynamodb_server, table, session):
    messages = [message for message in golden_messages() if len(message.content) < 1_000_000]
    ours(dynamodb_server, table, "s", session).add_messages(messages)
    read = theirs(dynamodb_server, table, "s", session).messages
    assert [message.type for message in read] == [
        message.type.removesuffix("MessageChunk").lower() for message in messages
    ]


def test_we_read_what_langchain_writes(dynamodb_server, table, session):
    messages = [
        HumanMessage("héllo", id="1", additional_kwargs={"n": 1, "score": 0.5, "none": None, "list": [True, "x"]}),
        AIMessage("yes", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}]),
    ]
    theirs(dynamodb_server, table, "s", session, coerce_float_to_decimal=True).add_messages(messages)
    history = ours(dynamodb_server, table, "s", session)
    assert history.messages == messages
    assert type(history.messages[0].additional_kwargs["n"]) is int
    history.add_user_message("and on")
    theirs(dynamodb_server, table, "s", session, coerce_float_to_decimal=True).add_user_message("and back")
    assert [message.content for message in history.messages] == ["héllo", "yes", "and on", "and back"]
    assert asyncio.run(history.aget_messages()) == history.messages


def test_a_composite_key(dynamodb_server, client, session):
    table = make_table(client, "SessionId", "UserID")
    key = {"SessionId": "session::0", "UserID": "0123"}
    theirs(dynamodb_server, table, "0", session, key=key).add_user_message("hi")
    history = ours(dynamodb_server, table, "0", session, key=key)
    history.add_ai_message("hello")
    assert [message.content for message in theirs(dynamodb_server, table, "0", session, key=key).messages] == [
        "hi",
        "hello",
    ]
    (item,) = client.scan(TableName=table)["Items"]
    assert (item["SessionId"], item["UserID"]) == ({"S": "session::0"}, {"S": "0123"})
    history.clear()
    assert theirs(dynamodb_server, table, "0", session, key=key).messages == []
    with pytest.raises(ConfigurationError, match="primary_key_name"):
        ours(dynamodb_server, table, "0", session, key={"UserID": "0123"})


def test_names_that_are_reserved_words(dynamodb_server, table, session):
    history = ours(dynamodb_server, table, "s", session, history_messages_key="Name", ttl_key_name="ttl", ttl=60)
    history.add_user_message("x")
    assert history.messages == [HumanMessage("x")]


def test_the_newest_are_shown_and_all_are_kept(dynamodb_server, table, session):
    history = ours(dynamodb_server, table, "s", session, history_size=2)
    history.add_messages([HumanMessage(str(number)) for number in range(5)])
    assert [message.content for message in history.messages] == ["3", "4"]
    assert len(theirs(dynamodb_server, table, "s", session).messages) == 5


def test_langchains_expiry_is_kept_and_honoured(dynamodb_server, table, session, client):
    theirs(dynamodb_server, table, "s", session, ttl=60).add_user_message("x")
    before = client.scan(TableName=table)["Items"][0]["expireAt"]
    ours(dynamodb_server, table, "s", session).add_user_message("y")
    assert client.scan(TableName=table)["Items"][0]["expireAt"] == before
    theirs(dynamodb_server, table, "gone", session, ttl=-60).add_user_message("x")
    assert ours(dynamodb_server, table, "gone", session).messages == []
    ours(dynamodb_server, table, "gone", session).add_user_message("anew")
    assert ours(dynamodb_server, table, "gone", session).messages == [HumanMessage("anew")]


@pytest.mark.parametrize("sort_key", [True, False])
def test_twenty_at_once_keep_every_message(dynamodb_server, client, sort_key):
    table = make_table(client, "SessionId", *(["Item"] if sort_key else []))

    def write(number):
        with DynamoDBStore(table_name=table, client_options=options(dynamodb_server)) as store:
            store.append("s", [HumanMessage(str(number))])

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(write, range(20)))
    with DynamoDBStore(table_name=table, client_options=options(dynamodb_server)) as store:
        assert sorted(int(message.content) for message in store.read("s")) == list(range(20))


def test_langchain_loses_most_of_twenty_at_once(dynamodb_server, table, session):
    """The contrast, so that the claim in the README has a test."""
    together = threading.Barrier(20)

    def write(number):
        history = theirs(dynamodb_server, table, "s", session)
        together.wait()
        history.add_user_message(str(number))

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(write, range(20)))
    assert len(ours(dynamodb_server, table, "s", session).messages) < 20


def test_a_table_that_cannot_be_used(dynamodb_server, client):
    for table, message in [
        (uuid.uuid4().hex, "create_table"),
        (make_table(client, "SessionId", "At", types="SN"), "string"),
        (make_table(client, "SessionId", types="N"), "string"),
    ]:
        with (
            DynamoDBStore(table_name=table, client_options=options(dynamodb_server)) as store,
            pytest.raises(ConfigurationError, match=message),
        ):
            store.append("s", [HumanMessage("x")])


def test_a_created_table_lets_sessions_expire(dynamodb_server, client):
    table = uuid.uuid4().hex
    make = functools.partial(
        DynamoDBStore, table_name=table, create_table=True, client_options=options(dynamodb_server)
    )
    with make() as store:
        store.setup()
    described = functools.partial(client.describe_time_to_live, TableName=table)
    assert described()["TimeToLiveDescription"]["TimeToLiveStatus"] == "DISABLED"
    with make(ttl=60) as store:
        store.setup(upgrade=True)
        store.setup(upgrade=True)
        store.append("s", [HumanMessage("x")])
    assert described()["TimeToLiveDescription"]["TimeToLiveStatus"] == "ENABLED"
    items = client.scan(TableName=table)["Items"]
    assert all(int(item["expireAt"]["N"]) >= time.time() + 59 for item in items)


def test_the_url(dynamodb_server, client):
    table = make_table(client, "SessionId", "Item")
    url = f"dynamodb://test:right-Secret7@eu-west-1/{table}?endpoint_url={dynamodb_server.url}"
    with open_store(url) as store:
        store.append("s", [HumanMessage("x")])
        assert asyncio.run(store.aread("s")) == [HumanMessage("x")]
        assert "Secret7" not in repr(store)
    with open_store(url.replace(dynamodb_server.url, "http://127.0.0.1:1")) as store:
        with pytest.raises(StoreUnavailableError) as caught:
            store.read("s")
        assert "Secret7" not in str(caught.value)


def test_clients_of_the_callers_own(dynamodb_server, client):
    table = make_table(client, "SessionId", "Item")
    with DynamoDBStore(client=client, table_name=table) as store:
        store.append("s", [HumanMessage("x")])
        assert asyncio.run(store.aread("s")) == [HumanMessage("x")]
    assert client.list_tables()

    async def main():
        async with get_session().create_client("dynamodb", **options(dynamodb_server)) as theirs:
            store = DynamoDBStore(async_client=theirs, table_name=table)
            await store.aappend("s", [HumanMessage("y")])
            with pytest.raises(ConfigurationError, match="async client"):
                store.read("s")
            await store.aclose()
            return await theirs.list_tables()

    assert asyncio.run(main())
    with DynamoDBStore(client=client, table_name=table) as store:
        assert [message.content for message in store.read("s")] == ["x", "y"]


def test_a_session_that_no_longer_fits_in_its_item(dynamodb_server, table, session):
    history = ours(dynamodb_server, table, "s", session)
    history.add_user_message("x" * 300_000)
    with pytest.raises(RecordTooLargeError, match="400 KB"):
        history.add_user_message("x" * 200_000)
    assert len(history.messages) == 1
