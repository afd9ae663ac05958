"""The Kafka store on a real broker."""

from __future__ import annotations

import asyncio
import functools
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from behind import Quiet
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic
from langchain_core.messages import AIMessage, HumanMessage
from servers import BUSY, ODD_PASSWORD, WRONG_PASSWORD

from langchain_histories import (
    Capability,
    ConfigurationError,
    KafkaChatMessageHistory,
    KafkaStore,
    RecordTooLargeError,
    StoreUnavailableError,
    UnsupportedOperationError,
    open_history,
    user_session_id,
)
from langchain_histories.stores.kafka.topics import partition_of
from langchain_histories.testing import MessageStoreTests, golden_messages


class TestKafkaStore(MessageStoreTests):
    capabilities = (
        Capability.PERSISTENT
        | Capability.MANY_PROCESSES
        | Capability.ATOMIC_BATCH
        | Capability.SESSIONS
        | Capability.TAIL_READ
        | Capability.ERASE
        | Capability.LEAVES_NO_TRACE
    )

    @pytest.fixture
    def open_store(self, kafka_server):
        # A broker that shares two cores with a dozen test processes may take its time.
        return functools.partial(KafkaStore, kafka_server.url, topic_prefix=f"{uuid.uuid4().hex}.", timeout=BUSY)

    @pytest.fixture
    def unreachable_store(self):
        return KafkaStore("kafka://127.0.0.1:1", timeout=0.5)

    @pytest.fixture
    def wrong_password_store(self, kafka_server):
        url = kafka_server.login_url.replace(quote(ODD_PASSWORD, safe=""), quote(WRONG_PASSWORD, safe=""))
        return KafkaStore(f"{url}?security.protocol=SASL_PLAINTEXT", timeout=3)

    @pytest.fixture
    def server(self, kafka_server):
        return kafka_server

    @pytest.fixture
    def quiet_server(self, kafka_server):
        with Quiet("kafka", kafka_server) as server:
            yield server

    def traces(self, store):
        topics = store.client.admin.list_topics(timeout=10).topics
        return sorted(topic for topic in topics if topic.startswith(store.operations.topics.prefix))

    def foreign_rows(self, store, session_id):
        return foreign_rows(store, session_id)

    places = traces


class TestKafkaStoreWithOneTopic(MessageStoreTests):
    capabilities = Capability.PERSISTENT | Capability.MANY_PROCESSES | Capability.ATOMIC_BATCH | Capability.SESSIONS

    def places(self, store):
        topics = store.client.admin.list_topics(timeout=10).topics
        return [topic for topic in topics if topic == store.operations.topics.shared]

    @pytest.fixture
    def open_store(self, kafka_server):
        return functools.partial(KafkaStore, f"{kafka_server.url}/{uuid.uuid4().hex}", partitions=3, timeout=BUSY)

    def foreign_rows(self, store, session_id):
        return foreign_rows(store, session_id)


@pytest.fixture
def name():
    return uuid.uuid4().hex


@pytest.fixture
def servers_of(kafka_server):
    return kafka_server.url.removeprefix("kafka://")


@pytest.fixture
def store(kafka_server):
    with KafkaStore(kafka_server.url, topic_prefix=f"{uuid.uuid4().hex}-") as store:
        yield store


def theirs(servers, session_id, **options):
    from langchain_community.chat_message_histories import KafkaChatMessageHistory as Theirs

    return Theirs(session_id, servers, **options)


def texts(messages):
    return [message.content for message in messages]


def human(number):
    return HumanMessage(str(number))


def bounds(servers, topic, partitions):
    with KafkaStore(f"kafka://{servers}") as store, store.client.consumer() as consumer:
        return [consumer.get_watermark_offsets(TopicPartition(topic, number)) for number in range(partitions)]


# LangChain's class.


def test_langchain_reads_what_we_write(servers_of, name):
    plain = [message for message in golden_messages() if "lh:type" not in repr(message)][:10]
    ours = KafkaChatMessageHistory(name, servers_of)
    ours.add_messages(plain)
    # The limit is generous, and reached at once.
    assert theirs(servers_of, name).messages_from_beginning(len(plain), 60.0) == plain
    assert ours.messages_from_beginning(None, None) == plain


def test_langchain_reads_every_golden_message_as_plain_data(servers_of, name):
    messages = golden_messages()
    KafkaChatMessageHistory(name, servers_of).add_messages(messages)
    read = theirs(servers_of, name).messages_from_beginning(len(messages), 60.0)
    assert [message.type for message in read] == [
        message.type.removesuffix("MessageChunk").lower() for message in messages
    ]


def test_we_read_what_langchain_writes(servers_of, name):
    written = theirs(servers_of, name)
    # Its producer keeps to one partition for some milliseconds.
    written.producer = Producer({"bootstrap.servers": servers_of, "sticky.partitioning.linger.ms": 0})
    messages = []
    while len(messages) < 12 or not all(end for _, end in bounds(servers_of, name, 3)):
        number = len(messages)
        messages.append(human(number) if number % 2 else AIMessage(str(number), id=f"i{number}"))
        written.add_message(messages[-1])
        # Between partitions, nothing but the time tells the order.
        moment = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == moment:
            pass
    with KafkaStore(f"kafka://{servers_of}") as store:
        records = store.records(name)
        assert [record.message for record in records] == messages
        # They are spread over three partitions, and a position says how far each of them was read.
        assert records[-1].position.count(",") == 2
        for number, record in enumerate(records):
            assert store.read(name, after=record.position) == messages[number + 1 :]
            assert store.read(name, after=record.position, first=2) == messages[number + 1 :][:2]
            assert store.read(name, last=number) == messages[len(messages) - number :]
            assert store.read(name, first=number) == messages[:number]
        store.append(name, [human("and on"), AIMessage("really")])
        written.add_message(human("and back"))
        assert texts(store.read(name))[-3:] == ["and on", "really", "and back"]
        assert texts(store.read(name, after=records[-1].position)) == ["and on", "really", "and back"]


def test_both_classes_go_on_from_the_last_consumed_message(servers_of, name):
    ours, other = KafkaChatMessageHistory(name, servers_of, partition=1), theirs
    ours.add_messages([human(number) for number in range(12)])
    assert texts(ours.messages) == ["0", "1", "2", "3", "4"]
    assert texts(other(servers_of, name).messages_from_last_consumed(3, 60.0)) == ["5", "6", "7"]
    assert texts(ours.messages_from_last_consumed(2)) == ["8", "9"]
    assert texts(other(servers_of, name).messages_from_last_consumed(2, 60.0)) == ["10", "11"]
    assert ours.messages == []


def test_the_stored_shape(servers_of, name):
    ours = KafkaChatMessageHistory(name, servers_of, ttl_ms=12345678)
    ours.add_messages([HumanMessage("é"), AIMessage("2")])
    with ours.store.client.consumer() as consumer:
        consumer.assign([TopicPartition(name, 0, 0)])
        first, second = (consumer.poll(10) for _ in range(2))
        consumer.unassign()
    assert first.key() == second.key() == name.encode()
    assert json.loads(first.value())["data"]["content"] == "é"
    assert "é".encode() in first.value()
    assert [dict(record.headers())["lh"].split()[1:] for record in (first, second)] == [[b"0", b"2"], [b"1", b"2"]]
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    config = ours.admin_client.describe_configs([resource])[resource].result()
    assert (config["retention.ms"].value, config["cleanup.policy"].value) == ("12345678", "delete")
    assert ours.num_partitions == 3


# LangChain's readers.


def test_readers(servers_of, name):
    history = KafkaChatMessageHistory(name, servers_of)
    assert history.messages == history.messages_from_beginning() == []
    history.add_messages([human(number) for number in range(4)])
    history.add_messages([human(number) for number in range(4, 12)])
    # Without a limit of time, and nobody waits for one.
    assert texts(history.messages_from_last_consumed(5, None)) == ["0", "1", "2", "3", "4"]
    assert texts(history.messages) == ["5", "6", "7", "8", "9"]
    assert texts(KafkaChatMessageHistory(name, servers_of).messages) == ["10", "11"]
    assert history.messages == []
    assert texts(history.messages_from_beginning(3, 1e9)) == ["0", "1", "2"]
    assert texts(asyncio.run(history.aget_messages())) == ["3", "4", "5", "6", "7"]
    assert texts(history.messages_from_last_consumed(None, None)) == ["8", "9", "10", "11"]
    assert len(history.messages_from_beginning(None, None)) == 12
    assert history.messages_from_latest(None, None) == []
    # The conversation as a whole is always there.
    assert len(history.get_messages()) == len(open_history(f"kafka://{servers_of}", name).messages) == 12
    assert texts(history.get_messages(last=1)) == ["11"]
    history.close()
    history.clear()
    history.clear()
    history.add_user_message("again")
    assert texts(history.messages) == ["again"]


def test_the_latest_are_those_that_come_while_waiting(servers_of, name):
    history = KafkaChatMessageHistory(name, servers_of)
    history.add_user_message("before")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(history.messages_from_latest, 2, None)
        while not waiting.done():
            history.add_user_message("while waiting")
    assert texts(waiting.result()) == ["while waiting"] * 2
    assert history.messages_from_latest(5, 0.01) == history.messages_from_latest(5, 0) == []
    with pytest.raises(ConfigurationError, match="max_message_count"):
        history.messages_from_beginning(-1)


# Batches.


def foreign_rows(store, session_id):
    """Calls that each leave a record that no client of ours writes."""

    def leave(value, header=None):
        topic, partition = store.operations.topics.to_write(store.client, session_id)
        headers = [] if header is None else [("lh", header)]
        store.client.producer.produce(topic, value, session_id, partition, headers=headers)
        assert store.client.producer.flush(10) == 0

    values = [b"", b"\xff\xfe", b"5", b"[" * 50_000]
    headers = [
        b"a 5 1",
        b"b 1 1",
        b"c 0 0",
        b"d 0 " + b"9" * 5000,
        b"e " + b"9" * 5000 + b" 1",
        b"\xff",
        b"f -1 1",
        b"",
    ]
    with_headers = [functools.partial(leave, b"{}", header) for header in headers]
    return [*(functools.partial(leave, value) for value in values), *with_headers]


def produce(store, session_id, records):
    """Write records as `(batch, index, size)`."""
    topic, partition = store.operations.topics.to_write(store.client, session_id)
    producer = Producer({"bootstrap.servers": store.client._config["bootstrap.servers"], "enable.idempotence": True})
    for batch, number, size in records:
        _, rows = store.format.encode([HumanMessage(f"{batch} {number}")])
        header = [("lh", f"{batch} {number} {size}".encode())]
        producer.produce(topic, rows[0].encode(), session_id, partition, headers=header)
    assert producer.flush(10) == 0


def test_interleaved_batches(store):
    fillers = [(f"f{number}", 0, 1) for number in range(100)]
    produce(store, "s", [("a", 0, 2), ("b", 0, 2), ("b", 1, 2), *fillers, ("a", 1, 2), ("c", 0, 1)])
    expected = ["b 0", "b 1", *(f"{name} 0" for name, _, _ in fillers), "a 0", "a 1", "c 0"]
    records = store.records("s")
    assert texts([record.message for record in records]) == expected
    for number in (0, 1, 2, 50, 101, 102, 103, 104):
        assert texts(store.read("s", after=records[number].position)) == expected[number + 1 :]
        assert texts(store.read("s", last=number)) == expected[len(expected) - number :]
    assert store.count("s") == len(expected)


def test_a_writer_that_dies_in_a_batch_leaves_nothing_to_see(store):
    store.append("s", [human(1)])
    position = store.records("s")[0].position
    produce(store, "s", [("dead", 0, 3), ("dead", 1, 3)])
    assert texts(store.read("s")) == ["1"]
    assert store.read("s", after=position) == []
    store.append("s", [human(2), human(3)])
    assert texts(store.read("s")) == ["1", "2", "3"]
    assert texts(store.read("s", after=position)) == ["2", "3"]
    assert [len(store.read("s", last=last)) for last in (1, 2, 3, 4)] == [1, 2, 3, 3]


def test_a_message_that_is_too_large_writes_nothing(store):
    store.append("s", [human(1)])
    with pytest.raises(RecordTooLargeError, match=r"max\.message\.bytes"):
        store.append("s", [human(2), HumanMessage("x" * 2_000_000)])
    with store.client.consumer() as consumer:
        assert consumer.get_watermark_offsets(TopicPartition(store.operations.topics.prefix + "s", 0)) == (0, 1)
    store.client.admin.create_topics(
        [NewTopic(store.operations.topics.prefix + "large", 1, 1, config={"max.message.bytes": "5000000"})]
    )[store.operations.topics.prefix + "large"].result()
    store.append("large", [HumanMessage("x" * 2_000_000)])
    assert len(store.read("large")[0].content) == 2_000_000


def test_a_delivery_that_fails_is_an_error(kafka_server, name):
    with KafkaStore(kafka_server.url, topic_prefix=name, timeout=2) as store:
        store.append("s", [human(1)])
        kafka_server.kill()
        try:
            with pytest.raises(StoreUnavailableError):
                store.append("s", [human(2)])
            history = KafkaChatMessageHistory(name + "s", kafka_server.url.removeprefix("kafka://"))
            with pytest.raises(StoreUnavailableError):
                history.add_messages([human(3)], flush_timeout_seconds=0.5)
        finally:
            kafka_server.start()
    with KafkaStore(kafka_server.url, topic_prefix=name) as store:
        assert texts(store.read("s")) == ["1"]


# Sessions and topics.


def test_a_position_outlives_clear(store):
    for count in (2, 9):
        store.append("s", [human(number) for number in range(5)])
        position = store.records("s", last=1)[0].position
        store.clear("s")
        fresh = [f"{count} fresh {number}" for number in range(count)]
        store.append("s", [HumanMessage(text) for text in fresh])
        assert texts(store.read("s", after=position, first=1)) == fresh[:1]
        assert texts(store.read("s", after=position)) == fresh


def test_a_topic_that_others_delete_and_make_again(kafka_server, store):
    with KafkaStore(kafka_server.url, topic_prefix=store.operations.topics.prefix) as other:
        for number in range(3):
            store.append("s", [human(number), human("more")])
            assert store.count("s") == other.count("s") == 2
            other.clear("s")
            assert store.read("s") == []
            if number % 2:
                other.append("s", [human("other")])
                store.append("s", [human("again")])
                assert texts(store.read("s")) == texts(other.read("s")) == ["other", "again"]
                other.clear("s")
        store.append("s", [human("last")])
        assert texts(other.read("s")) == ["last"]


def test_names_that_kafka_takes_for_the_same(store):
    for session_id in ("a.b", "a_b", "a-b"):
        store.append(session_id, [HumanMessage(session_id)])
    for session_id in ("a.b", "a_b", "a-b"):
        assert texts(store.read(session_id)) == [session_id]
    assert [info.session_id for info in store.sessions()] == ["a-b", "a.b", "a_b"]
    store.clear("a.b")
    store.append("a_b", [HumanMessage("second")])
    assert texts(store.read("a_b")) == ["a_b", "second"]
    assert [info.session_id for info in store.sessions()] == ["a-b", "a_b"]


def test_many_sessions_in_one_topic(kafka_server, name):
    with KafkaStore(f"{kafka_server.url}/{name}", partitions=4) as store:
        users = [user_session_id("ivan", str(number)) for number in range(9)]
        for session_id in users:
            store.append(session_id, [HumanMessage(session_id), AIMessage("x")])
        assert [info.count for info in store.sessions(user_id="ivan")] == [2] * 9
        assert {store.operations.topics.to_write(store.client, session_id)[1] for session_id in users} == {0, 1, 2, 3}
        position = store.records(users[0])[-1].position
        store.clear(users[0])
        store.clear(users[0])
        assert store.read(users[0]) == []
        store.append(users[0], [human("again")])
        assert texts(store.read(users[0], after=position)) == ["again"]
        with pytest.raises(UnsupportedOperationError, match="erase"):
            store.erase(user_id="ivan")
        topics = store.client.admin.list_topics(timeout=10).topics
        assert [topic for topic in topics if topic.startswith(name)] == [name]


def test_a_session_is_where_the_drivers_partitioner_puts_its_key(kafka_server, name):
    placed = {}
    with KafkaStore(f"{kafka_server.url}/{name}", partitions=5) as store:
        store.append("s", [human(1)])
        for key in ("a", "b", "c", "user/é"):
            store.client.producer.produce(
                name, b"x", key, on_delivery=lambda _, message: placed.update({message.key(): message.partition()})
            )
        store.client.producer.flush(10)
    assert placed == {key.encode(): partition_of(key, 5) for key in ("a", "b", "c", "user/é")}


def test_all_histories_share_one_client(servers_of, name):
    histories = [KafkaChatMessageHistory(f"{name}{number}", servers_of) for number in range(1000)]
    assert len({id(history.producer) for history in histories}) == 1


def test_stores_of_one_cluster_share_a_client(kafka_server, name):
    with (
        KafkaStore(kafka_server.url, topic_prefix=f"{name}.") as one,
        KafkaStore(kafka_server.url, topic_prefix=f"{name}-", partitions=2) as other,
        KafkaStore(f"{kafka_server.url}/{name}") as together,
    ):
        stores = {"one": one, "other": other, "together": together}
        assert one.client is other.client is together.client
        for _ in range(2):
            for text, store in stores.items():
                store.append("s.t", [HumanMessage(text)])
        assert [texts(store.read("s.t")) for store in stores.values()] == [[text] * 2 for text in stores]
        one.close()
        other.append("s.t", [HumanMessage("more")])
        assert other.count("s.t") == 3


def test_more_readers_than_consumers(store):
    store.append("s", [human(1)])
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(store.count, ["s"] * 100)) == [1] * 100


def test_login(kafka_server, name):
    url = f"{kafka_server.login_url}?security.protocol=SASL_PLAINTEXT"
    with KafkaStore(url, topic_prefix=name) as store:
        store.append("s", [human(1)])
        assert texts(asyncio.run(store.aread("s"))) == ["1"]
        assert "Secret7" not in repr(store)


def test_what_is_there_already_is_left_as_it_is(servers_of, store):
    topic = store.operations.topics.prefix + "s"
    admin = AdminClient({"bootstrap.servers": servers_of})
    admin.create_topics([NewTopic(topic, 2, 1, config={"retention.ms": "99999999"})])[topic].result()
    store.append("s", [human(1)])
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    assert admin.describe_configs([resource])[resource].result()["retention.ms"].value == "99999999"
    assert texts(store.read("s")) == ["1"]


def test_nothing_makes_a_topic_but_an_append(kafka_server, store):
    # As Kafka comes, the broker makes every topic that somebody asks for.
    history = KafkaChatMessageHistory(store.operations.topics.prefix + "h", kafka_server.url.removeprefix("kafka://"))
    assert (store.read("s"), store.count("s"), history.messages, history.num_partitions) == ([], 0, [], 3)
    store.clear("s")
    history.clear()
    topics = store.client.admin.list_topics(timeout=10).topics
    assert [topic for topic in topics if topic.startswith(store.operations.topics.prefix)] == []
    store.append("t", [human(1)])
    store.clear("t")
    assert store.read("t") == []
    topics = store.client.admin.list_topics(timeout=10).topics
    assert [topic for topic in topics if topic.startswith(store.operations.topics.prefix)] == []


def test_a_reader_while_others_clear(kafka_server, store):
    """What it finds is there or not; that a session is being deleted is no failure."""
    seen = set()
    with KafkaStore(kafka_server.url, topic_prefix=store.operations.topics.prefix, timeout=5) as other:

        def work():
            for number in range(25):
                other.append("s", [human(number)])
                other.clear("s")

        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            while not working.done():
                seen.add(len(store.read("s")))
                seen |= {info.count for info in store.sessions()}
        working.result()
    assert seen <= {0, 1}
