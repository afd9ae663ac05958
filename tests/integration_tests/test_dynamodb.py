import asyncio
import concurrent.futures
import functools
import threading
import time
import uuid
from decimal import Decimal

import boto3
import pytest
from aiobotocore.session import get_session
from behind import Quiet
from blockbuster import blockbuster_ctx
from botocore.config import Config
from botocore.exceptions import ClientError, ParamValidationError
from broken import broken_heads, broken_references
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from servers import BUSY

from langchain_histories import (
    Capability,
    ConfigurationError,
    DynamoDBChatMessageHistory,
    DynamoDBStore,
    RecordTooLargeError,
    StoreError,
    StoreUnavailableError,
    UnsupportedOperationError,
    open_store,
    user_session_id,
)
from langchain_histories.testing import MessageStoreTests, golden_messages

OPTIONS = {"region_name": "eu-west-1", "aws_access_key_id": "test", "aws_secret_access_key": "right-Secret7"}


def options(server):
    return {**OPTIONS, "endpoint_url": server.url}


class TestDynamoDBStore(MessageStoreTests):
    capabilities = ~Capability.NEWEST

    @pytest.fixture
    def open_store(self, dynamodb_server):
        table = uuid.uuid4().hex
        return functools.partial(
            DynamoDBStore,
            table_name=table,
            create_table=True,
            client_options=options(dynamodb_server),
            timeout=BUSY,
        )

    @pytest.fixture
    def unreachable_store(self):
        return DynamoDBStore("dynamodb:///t?endpoint_url=http://127.0.0.1:1", client_options=OPTIONS)

    @pytest.fixture
    def server(self, dynamodb_server):
        return dynamodb_server

    @pytest.fixture
    def quiet_server(self, dynamodb_server):
        with Quiet("dynamodb", dynamodb_server) as server:
            yield server

    def traces(self, store):
        pages = store.client.get_paginator("scan").paginate(TableName=store.table_name)
        return sorted(str(item) for page in pages for item in page["Items"])

    def places(self, store):
        pages = store.client.get_paginator("list_tables").paginate()
        return [name for page in pages for name in page["TableNames"] if name == store.table_name]

    def foreign_rows(self, store, session_id):
        return broken_references(store, session_id)

    def broken_sessions(self, store, session_id):
        return broken_heads(store, session_id, 4)


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
    capabilities = ~(Capability.NEWEST | Capability.TAIL_READ | Capability.LARGE_SESSIONS)

    @pytest.fixture
    def open_store(self, dynamodb_server, client):
        table = make_table(client, "SessionId")
        return functools.partial(DynamoDBStore, table_name=table, client_options=options(dynamodb_server), timeout=BUSY)

    @pytest.fixture
    def server(self, dynamodb_server):
        return dynamodb_server

    def traces(self, store):
        pages = store.client.get_paginator("scan").paginate(TableName=store.table_name)
        return sorted(str(item) for page in pages for item in page["Items"])

    def places(self, store):
        pages = store.client.get_paginator("list_tables").paginate()
        return [name for page in pages for name in page["TableNames"] if name == store.table_name]

    def foreign_rows(self, store, session_id):
        values = [{"N": "5"}, {"N": "1e100"}, {"NULL": True}, {"BOOL": False}, {"B": b"\xff"}, {"L": []}, {"M": {}}]
        values += [{"SS": ["a"]}, {"NS": ["1"]}, {"BS": [b"\xff"]}, {"S": ""}, {"M": {"lh:json": {"N": "5"}}}]
        text, empty = {"role": {"S": "user"}, "additional_kwargs": {"M": {}}}, {"M": {"block_type": {"M": {}}}}
        values += [{"M": {**text, "blocks": {"L": [block]}}} for block in (empty, {"M": {"block_type": {"L": []}}})]
        change = {"UpdateExpression": "SET History = list_append(History, :row)", "TableName": store.table_name}
        change["Key"] = {"SessionId": {"S": session_id}}
        values = [{":row": {"L": [value]}} for value in values]
        update = functools.partial(store.client.update_item, **change)
        return [functools.partial(update, ExpressionAttributeValues=value) for value in values]

    def broken_sessions(self, store, session_id):
        change = {"TableName": store.table_name, "Key": {"SessionId": {"S": session_id}}}
        fields = [
            ("History", {"S": "x"}),
            ("History", {"NULL": True}),
            ("History", {"M": {}}),
            ("expireAt", {"S": "x"}),
        ]
        fields += [("#s", {"N": "5"}), ("#s", {"M": {}}), ("#s", {"B": b"\xff"})]

        def break_one(name, value):
            names = {"ExpressionAttributeNames": {"#s": "lh:state"}} if name == "#s" else {}
            update = {"UpdateExpression": f"SET {name} = :v", "ExpressionAttributeValues": {":v": value}}
            store.client.update_item(**change, **update, **names)

        return [functools.partial(break_one, *field) for field in fields]


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
    # A lone surrogate is no text of DynamoDB: LangChain reads a question mark.
    messages = [message for message in golden_messages() if "surrogate" not in repr(message)]
    plain = [message for message in messages if "lh:type" not in repr(message)][:10]
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
    with pytest.raises(ConfigurationError, match="'SessionId' and 'UserID'"):
        ours(dynamodb_server, table, "0", session, key={"SessionId": "session::0"}).add_user_message("x")


@pytest.mark.parametrize(
    ("types", "key"),
    [
        ("SS", {"UserId": "u1", "SessionId": "s1"}),
        ("SN", {"PK": "USER#1", "SK": -(10**37) + 1}),
        ("NB", {"PK": Decimal("1.50"), "SK": b"\0x"}),
        ("S", {"PK": "other"}),
        ("N", {"PK": 7}),
    ],
)
def test_any_key_that_langchain_takes(dynamodb_server, client, session, types, key):
    named = {"primary_key_name": "SK"} if "SK" in key else {}
    table = make_table(client, *key, types=types)
    written = theirs(dynamodb_server, table, "s", session, key=key, **named)
    history = ours(dynamodb_server, table, "s", session, key=key, **named)
    written.add_user_message("hi")
    history.add_ai_message("hello")
    assert [message.content for message in written.messages] == ["hi", "hello"]
    assert [message.content for message in history.messages] == ["hi", "hello"]
    assert (history.session_id, history.key) == ("s", key) == (written.session_id, written.key)
    assert "Item" in history.table.get_item(Key=history.key)
    for listing in (history.store.sessions, lambda: history.store.erase(user_id="u")):
        with pytest.raises(UnsupportedOperationError):
            listing()
    assert not history.store.capabilities & (Capability.SESSIONS | Capability.ERASE)
    history.clear()
    assert client.scan(TableName=table)["Items"] == []


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ({"PK": "a"}, "'PK' and 'SK'"),
        ({"PK": "a", "SK": 1, "GSI": "x"}, "'PK' and 'SK'"),
        ({"PK": "a", "SK": "one"}, "'SK' .* whole number or a Decimal, not str"),
        ({"PK": "", "SK": 1}, "'PK' .* not empty"),
        ({"PK": 1, "SK": 1}, "'PK' .* text"),
        ({"PK": "a", "SK": Decimal("NaN")}, "'SK' .* number"),
        ({"PK": "a", "SK": "1e999999999"}, "'SK' .* number"),
    ],
)
def test_a_key_that_the_table_has_not(dynamodb_server, client, session, key, says):
    table = make_table(client, "PK", "SK", types="SN")
    history = ours(dynamodb_server, table, "s", session, key=key)
    with pytest.raises(ConfigurationError, match=says):
        history.add_user_message("x")
    assert client.scan(TableName=table)["Items"] == []


@pytest.mark.parametrize("key", ["s", {"PK": 1.5}, {"PK": True}, {"PK": None}, {"PK": []}, {1: "s"}])
def test_a_key_that_no_table_has(key):
    with pytest.raises(ConfigurationError, match="key"):
        DynamoDBChatMessageHistory("t", "s", key=key)


def test_session_ids_where_the_key_is_a_number(dynamodb_server, client, session):
    table = make_table(client, "SessionId", types="N")
    theirs(dynamodb_server, table, 7, session).add_user_message("hi")
    history = ours(dynamodb_server, table, 7, session)
    history.add_ai_message("hello")
    assert theirs(dynamodb_server, table, 7, session).messages == [HumanMessage("hi"), AIMessage("hello")]
    assert ours(dynamodb_server, table, 7, session, key={"SessionId": 7}).messages == history.messages


@pytest.mark.parametrize("sort_key", [(), ("Item",)])
def test_a_table_whose_sessions_are_numbers(client, sort_key):
    """Each has one id, the one that is listed."""
    table = make_table(client, "SessionId", *sort_key, types="NS"[: 1 + len(sort_key)])
    store = DynamoDBStore(client=client, table_name=table)
    numbers = ("7", "-12.5", "70", "12345678901234567890123456789012345678")
    for number in numbers:
        store.append(number, [HumanMessage(number), AIMessage("yes")])
        store.put_state(number, {"n": number})
    for number in numbers:
        assert (store.read(number)[0].content, store.count(number), store.get_state(number)) == (
            number,
            2,
            {"n": number},
        )
    assert [info.session_id for info in store.sessions()] == sorted(numbers)
    assert [info.session_id for info in store.sessions(prefix="7")] == ["7", "70"]
    store.delete("7", [store.records("7")[0].id])
    store.clear("70")
    assert (store.count("7"), store.count("70")) == (1, 0)
    assert store.erase(user_id="7") == 0
    for wrong in ("07", "7.0", "+7", " 7", "seven", "1e3", "@u/7", "NaN"):
        for call in (store.read, lambda wrong: store.append(wrong, [HumanMessage("x")])):
            with pytest.raises(ConfigurationError, match="is a number"):
                call(wrong)


def test_many_users_of_one_table_and_client(client, monkeypatch):
    """Each has one store for all sessions, or one of its own: the client and what is known of the table are shared."""
    table, described, describe = make_table(client, "UserID", "SessionId"), [], client.describe_table
    monkeypatch.setattr(client, "describe_table", lambda **request: described.append(request) or describe(**request))
    keys = [{"UserID": f"u{user}", "SessionId": f"s{number}"} for user in range(5) for number in range(3)]

    def write(key):
        store = DynamoDBStore(client=client, table_name=table, item_key=key)
        store.append("any", [HumanMessage(f"{key}")])
        return store.read("any")

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        assert list(pool.map(write, keys)) == [[HumanMessage(f"{key}")] for key in keys]
    found = {(item["UserID"]["S"], item["SessionId"]["S"]) for item in client.scan(TableName=table)["Items"]}
    assert found == {tuple(key.values()) for key in keys}
    assert len(described) <= 5


def test_a_table_is_described_once_for_all_keys(client, monkeypatch):
    table, described, describe = make_table(client, "SessionId", "UserID"), [], client.describe_table

    def counted(**request):
        described.append(request)
        return describe(**request)

    monkeypatch.setattr(client, "describe_table", counted)
    for number in range(3):
        key = {"SessionId": str(number), "UserID": "ivan"}
        store = DynamoDBStore(client=client, table_name=table, item_key=key)
        store.append("s", [HumanMessage(str(number))])
        assert store.read("s") == [HumanMessage(str(number))]
    assert len(described) == 1


def test_what_the_driver_refuses_is_no_outage(client, monkeypatch):
    """It was reported as a service that cannot be reached, so programs waited and tried again."""
    table, get_item = make_table(client, "SessionId"), client.get_item
    monkeypatch.setattr(client, "get_item", lambda **request: get_item(**request, Nonsense=1))
    with DynamoDBStore(client=client, table_name=table) as store, pytest.raises(StoreError) as caught:
        store.read("s")
    assert not isinstance(caught.value, StoreUnavailableError)
    assert isinstance(caught.value.__cause__, ParamValidationError)


@pytest.mark.parametrize(
    ("size", "batches"), [(2, [1, 1, 1, 1]), (2, [5]), (3, [2, 2, 2]), (0, [1, 1]), (None, [2, 1])]
)
def test_history_size_is_what_an_item_keeps(dynamodb_server, client, session, size, batches):
    is_keyed = size == 3
    table = make_table(client, "SessionId", *(["UserID"] if is_keyed else []))
    for make, name in ((theirs, "s1"), (ours, "s2")):
        key = {"key": {"SessionId": name, "UserID": "u"}} if is_keyed else {}
        history = make(dynamodb_server, table, name, session, history_size=size, **key)
        texts = iter("abcdefgh")
        for batch in batches:
            history.add_messages([HumanMessage(next(texts)) for _ in range(batch)])
    kept = [
        [each["M"]["data"]["M"]["content"] for each in item["History"]["L"]]
        for item in client.scan(TableName=table)["Items"]
    ]
    assert kept[0] == kept[1]
    assert history.history_size == size


def test_history_size_keeps_a_session_under_its_limit(dynamodb_server, table, session):
    """An item holds 400 KB; without the limit a working program stopped remembering in the middle."""
    history = ours(dynamodb_server, table, "s", session, history_size=1)
    for letter in "ab":
        history.add_user_message(letter * 250_000)
    assert history.messages == [HumanMessage("b" * 250_000)]
    with pytest.raises(RecordTooLargeError):
        history.add_user_message("c" * 410_000)
    assert history.messages == [HumanMessage("b" * 250_000)]


@pytest.mark.parametrize("face", ["sync", "async"])
def test_history_size_loses_none_of_twenty_at_once(dynamodb_server, table, face):
    def write(number):
        with DynamoDBStore(table_name=table, history_size=20, client_options=options(dynamodb_server)) as store:
            store.append("s", [HumanMessage(str(number))])

    async def write_all():
        async with DynamoDBStore(table_name=table, history_size=20, client_options=options(dynamodb_server)) as store:
            await asyncio.gather(*(store.aappend("s", [HumanMessage(str(number))]) for number in range(20, 40)))

    if face == "sync":
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            list(pool.map(write, range(20, 40)))
    else:
        asyncio.run(write_all())
    with DynamoDBStore(table_name=table, history_size=20, client_options=options(dynamodb_server)) as store:
        assert sorted(int(message.content) for message in store.read("s")) == list(range(20, 40))
        store.append("s", [HumanMessage("last")])
        assert [message.content for message in store.read("s")][-1] == "last"
        assert store.count("s") == 20


def test_history_size_beside_a_state_and_an_expiry(dynamodb_server, table, session, client):
    history = ours(dynamodb_server, table, "s", session, history_size=2, ttl=60)
    history.store.put_state("s", {"title": "x"})
    for text in "abc":
        history.add_user_message(text)
    assert [message.content for message in history.messages] == ["b", "c"]
    assert history.store.get_state("s") == {"title": "x"}
    assert "expireAt" in client.scan(TableName=table)["Items"][0]
    theirs(dynamodb_server, table, "gone", session, ttl=-60).add_user_message("x")
    again = ours(dynamodb_server, table, "gone", session, history_size=2)
    again.add_user_message("anew")
    assert again.messages == [HumanMessage("anew")]
    records = history.store.records("s")
    history.store.delete("s", [record.id for record in records])
    history.add_user_message("after")
    assert history.messages == [HumanMessage("after")]


def test_history_size_on_a_table_with_a_sort_key_hides_alone(dynamodb_server, client, session):
    history = ours(dynamodb_server, make_table(client, "SessionId", "Item"), "s", session, history_size=2)
    history.add_messages([HumanMessage(str(number)) for number in range(5)])
    assert [message.content for message in history.messages] == ["3", "4"]
    assert history.store.count("s") == 5


def test_names_that_are_reserved_words(dynamodb_server, table, session):
    history = ours(dynamodb_server, table, "s", session, history_messages_key="Name", ttl_key_name="ttl", ttl=60)
    history.add_user_message("x")
    assert history.messages == [HumanMessage("x")]


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


def test_a_table_that_another_thread_makes_at_this_moment(client, monkeypatch):
    """boto3 makes the classes of its errors on first use, so two threads may have two classes of one name."""
    table, create = uuid.uuid4().hex, client.create_table

    def overtaken(**request):
        create(**request)
        raise ClientError({"Error": {"Code": "ResourceInUseException", "Message": "it exists"}}, "CreateTable")

    monkeypatch.setattr(client, "create_table", overtaken)
    with DynamoDBStore(client=client, table_name=table, create_table=True) as store:
        store.append("s", [HumanMessage("x")])
        assert store.count("s") == 1


@pytest.mark.parametrize("names", [("SessionId", "Item"), ("SessionId",)])
def test_stores_of_one_table_describe_it_once(client, monkeypatch, names):
    table, described, describe = make_table(client, *names), [], client.describe_table

    def counted(**request):
        described.append(request)
        return describe(**request)

    monkeypatch.setattr(client, "describe_table", counted)
    for number in range(3):
        store = DynamoDBStore(client=client, table_name=table, ttl=60 + number)
        store.append("s", [HumanMessage("x")])
        assert store.count("s") == number + 1
        assert (Capability.TAIL_READ in store.capabilities) is (len(names) == 2)
        assert store.operations.ttl == store.ttl == 60 + number
    assert len(described) == 1


def test_tables_and_options_of_stores_share_one_client(dynamodb_server):
    make = functools.partial(DynamoDBStore, client_options=options(dynamodb_server))
    stores = [make(table_name=f"table{number}", ttl=number + 1, ttl_key_name=f"end{number}") for number in range(60)]
    assert len({id(store.client) for store in stores}) == 1
    for store in stores:
        store.close()


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


def test_opening_a_client_does_not_block_the_loop(dynamodb_server):
    async def main():
        with blockbuster_ctx():
            async with DynamoDBStore(
                table_name=uuid.uuid4().hex, create_table=True, client_options=options(dynamodb_server)
            ) as store:
                await store.aappend("s", [HumanMessage("x")])
                return await store.acount("s")

    assert asyncio.run(main()) == 1


def test_a_config_of_botocore_serves_both_faces(dynamodb_server, client):
    table = make_table(client, "SessionId", "Item")
    config = Config(connect_timeout=5, retries={"total_max_attempts": 2, "mode": "standard"})
    with DynamoDBStore(table_name=table, client_options={**options(dynamodb_server), "config": config}) as store:
        store.append("s", [HumanMessage("x")])
        assert asyncio.run(store.acount("s")) == 1


def test_nothing_is_lost_when_two_find_that_a_session_has_expired(dynamodb_server, table, session, client):
    theirs(dynamodb_server, table, "s", session, ttl=-60).add_user_message("old")
    first = DynamoDBStore(client=client, table_name=table)
    second = DynamoDBStore(client=boto3.client("dynamodb", **options(dynamodb_server)), table_name=table)
    second.setup()
    removed = []

    def come_between(**_):
        # The first writer has been told that the session has expired, and is about to remove it.
        if not removed:
            removed.append(True)
            second.append("s", [HumanMessage("second")])

    client.meta.events.register("before-call.dynamodb.DeleteItem", come_between)
    first.append("s", [HumanMessage("first")])
    assert removed
    assert [message.content for message in first.read("s")] == ["second", "first"]
    second.client.close()


def test_an_expiry_that_is_no_number_is_none(table, client):
    client.put_item(TableName=table, Item={"SessionId": {"S": "s"}, "expireAt": {"S": "never"}})
    with DynamoDBStore(client=client, table_name=table) as store:
        store.append("s", [HumanMessage("x")])
        assert store.count("s") == 1


def test_numbers_and_names_come_back_as_they_were(dynamodb_server, table, session):
    odd = {"one": 1.0, "zero": -0.0, "large": 10**50, "huge": 1e300, "long": 1e22, "": 1, "half \ud800": 0.5, "n": 1}
    message = HumanMessage("x", additional_kwargs=odd)
    history = ours(dynamodb_server, table, "s", session)
    history.add_message(message)
    assert repr(history.messages) == repr([message])
    assert theirs(dynamodb_server, table, "s", session).messages[0].content == "x"


def test_a_position_among_messages_with_the_same_text(dynamodb_server, table, session, client):
    written = theirs(dynamodb_server, table, "s", session)
    for text in ("0", "yes", "2", "yes", "4"):
        written.add_user_message(text)
    with DynamoDBStore(client=client, table_name=table) as store:
        records = store.records("s")
        store.delete("s", [records[0].id])
        assert [message.content for message in store.read("s", after=records[1].position)] == ["2", "yes", "4"]
        assert [message.content for message in store.read("s", after=records[3].position)] == ["4"]


def test_a_composite_key_sees_its_own_sessions_alone(dynamodb_server, client):
    table = make_table(client, "SessionId", "UserID")
    one, two = (DynamoDBStore(client=client, table_name=table, item_key={"UserID": user}) for user in ("one", "two"))
    one.append(user_session_id("u", "a"), [HumanMessage("x")])
    two.append(user_session_id("u", "b"), [HumanMessage("x")])
    assert [info.session_id for info in one.sessions()] == ["@u/a"]
    assert one.erase(user_id="u") == 1
    assert two.count("@u/b") == 1


def test_items_of_others_are_left_alone(client):
    table = make_table(client, "SessionId", "Item")
    item = {"SessionId": {"S": "s"}, "Item": {"S": "profile"}, "Name": {"S": "theirs"}}
    client.put_item(TableName=table, Item=item)
    with DynamoDBStore(client=client, table_name=table) as store:
        store.append("s", [HumanMessage("x")])
        store.replace("s", [HumanMessage("y")])
        assert store.read("s") == [HumanMessage("y")]
        store.clear("s")
    assert client.scan(TableName=table)["Items"] == [item]


def cancelled(*reasons):
    response = {
        "Error": {"Code": "TransactionCanceledException", "Message": "cancelled"},
        "CancellationReasons": [{"Code": reason} for reason in reasons],
    }
    return ClientError(response, "TransactWriteItems")


def test_a_throttled_transaction_is_tried_again(client, monkeypatch):
    table = make_table(client, "SessionId", "Item")
    refusals = [cancelled("None", "ThrottlingError"), cancelled("TransactionConflict", "ProvisionedThroughputExceeded")]
    transact = client.transact_write_items

    def throttled(**request):
        if refusals:
            raise refusals.pop()
        return transact(**request)

    monkeypatch.setattr(client, "transact_write_items", throttled)
    with DynamoDBStore(client=client, table_name=table) as store:
        store.append("s", [HumanMessage("x")])
        assert store.count("s") == 1


def test_a_server_that_fails_is_unavailable(dynamodb_server, client, monkeypatch):
    def failing(**_):
        raise ClientError(
            {"Error": {"Code": "502", "Message": "Bad Gateway"}, "ResponseMetadata": {"HTTPStatusCode": 502}}, "GetItem"
        )

    table = make_table(client, "SessionId", "Item")
    monkeypatch.setattr(client, "get_item", failing)
    with DynamoDBStore(client=client, table_name=table) as store, pytest.raises(StoreUnavailableError):
        store.read("s")


@pytest.mark.parametrize(
    "url",
    [
        "dynamodb://KEY:Secret7/x@eu-west-1/chats",
        "dynamodb://KEY:sec?Secret7@eu-west-1/chats",
        "dynamodb://localhost:8000/chats",
        "dynamodb://eu-west-1/a/b",
        "dynamodb://eu-west-1",
    ],
)
def test_bad_urls(url):
    with pytest.raises(ConfigurationError) as caught:
        open_store(url)
    assert "Secret7" not in str(caught.value)


@pytest.mark.parametrize("query", ["endpoint_url=localhost:8000", "region=eu-west-1"])
@pytest.mark.parametrize("face", ["sync", "async"])
def test_options_that_the_driver_refuses(query, face):
    with open_store(f"dynamodb://KEY:Secret7@eu-west-1/chats?{query}") as store:
        with pytest.raises(ConfigurationError, match="options") as caught:
            store.read("s") if face == "sync" else asyncio.run(store.aread("s"))
        assert "Secret7" not in str(caught.value)


def test_no_region(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    with DynamoDBStore("dynamodb:///chats") as store, pytest.raises(ConfigurationError, match="options"):
        store.read("s")


def test_a_client_of_another_service():
    with pytest.raises(ConfigurationError, match="dynamodb"):
        DynamoDBStore(client=boto3.client("s3", **OPTIONS), table_name="t")


def block(**fields):
    return {"M": {name: value if isinstance(value, dict) else {"S": value} for name, value in fields.items()}}


def written_by_llama_index(role, *blocks, **more):
    """As `llama-index-storage-chat-store-dynamodb` 0.6.0 wrote it."""
    return {"M": {"additional_kwargs": {"M": more}, "blocks": {"L": list(blocks)}, "role": {"S": role}}}


def test_we_read_what_llama_index_writes(table, client):
    text = functools.partial(block, block_type="text")
    arguments = {"M": {"x": {"N": "1"}}}
    call = block(block_type="tool_call", tool_name="f", tool_kwargs=arguments, tool_call_id="c1")
    rows = [
        written_by_llama_index("system", text(text="be kind")),
        written_by_llama_index("user", text(text="héllo")),
        written_by_llama_index("assistant", text(text="a"), text(text="b"), n={"N": "1"}),
        written_by_llama_index("assistant", call),
        written_by_llama_index("tool", text(text="42"), tool_call_id={"S": "c1"}),
        written_by_llama_index("user"),
    ]
    client.put_item(TableName=table, Item={"SessionId": {"S": "s"}, "History": {"L": rows}})
    with DynamoDBStore(client=client, table_name=table) as store:
        records = store.records("s")
        assert [record.message for record in records] == [
            SystemMessage("be kind"),
            HumanMessage("héllo"),
            AIMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], additional_kwargs={"n": 1}),
            AIMessage("", tool_calls=[{"name": "f", "args": {"x": 1}, "id": "c1"}]),
            ToolMessage("42", tool_call_id="c1"),
            HumanMessage(""),
        ]
        assert store.delete("s", [records[5].id]) == 1
        assert len(store.read("s")) == 5


def test_one_odd_message_of_llama_index_makes_no_session_unreadable(table, client):
    """Arguments that are no JSON, thinking, images, blocks of later releases: each is read, or is corrupt alone."""
    text = functools.partial(block, block_type="text")
    rows = [
        written_by_llama_index("assistant", block(block_type="tool_call", tool_name="f", tool_kwargs="{bad")),
        written_by_llama_index("assistant", block(block_type="thinking", content="hm"), text(text="a")),
        written_by_llama_index("developer", block(block_type="image"), text(text="b")),
        written_by_llama_index("user", block(block_type="hologram")),
    ]
    client.put_item(TableName=table, Item={"SessionId": {"S": "s"}, "History": {"L": rows}})
    with DynamoDBStore(client=client, table_name=table) as store:
        call, thought, image, odd = store.read("s")
        assert call.invalid_tool_calls[0]["args"] == "{bad"
        assert (thought.content, thought.additional_kwargs["reasoning_content"]) == ("a", "hm")
        assert (image.content, odd.content) == ("b", "")
