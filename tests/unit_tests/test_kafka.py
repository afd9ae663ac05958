"""The Kafka store without a broker: names, URLs, positions, and what a reader makes of a partition."""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path
from types import SimpleNamespace

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage

from langchain_histories import ConfigurationError, KafkaChatMessageHistory, KafkaStore, StoreError, open_store
from langchain_histories._deadlines import Deadline, OutOfTimeError, under
from langchain_histories.stores.kafka.client import KafkaClient
from langchain_histories.stores.kafka.connections import topic_and_config
from langchain_histories.stores.kafka.log import Log
from langchain_histories.stores.kafka.positions import positions
from langchain_histories.stores.kafka.topics import escaped, unescaped
from langchain_histories.testing import odd_session_ids


@pytest.mark.parametrize(("given", "expected"), [({}, 4), ({"max_connections": 6}, 6), ({"max_connections": 1}, 1)])
def test_as_many_read_at_once_as_there_may_be_connections(given, expected):
    """Who finds no free consumer waits, until its time is over."""
    with KafkaStore("kafka://127.0.0.1:1", **given) as store, contextlib.ExitStack() as stack:
        for _ in range(expected):
            stack.enter_context(store.client.consumer())
        with under(Deadline(0.01)), pytest.raises(OutOfTimeError), store.client.consumer():
            pass


@pytest.mark.parametrize("wrong", [0, -1, True, "5", 1.5])
def test_a_number_of_connections_that_is_none(wrong):
    with pytest.raises(ConfigurationError, match="max_connections"):
        open_store("kafka://127.0.0.1:1", max_connections=wrong)


@pytest.mark.parametrize(
    ("url", "topic", "config"),
    [
        ("kafka://a", None, {"bootstrap.servers": "a"}),
        ("kafka://a:1,b:2/", None, {"bootstrap.servers": "a:1,b:2"}),
        ("kafka://[::1]:9092/chats", "chats", {"bootstrap.servers": "[::1]:9092"}),
        ("kafka://a/t?linger.ms=5&ssl.ca.location=/x", "t", {"linger.ms": "5", "ssl.ca.location": "/x"}),
        (
            "kafka://u%40x:p%2Fw:d@a:1,b:2?security.protocol=SASL_PLAINTEXT&sasl.mechanism=SCRAM-SHA-512",
            None,
            {
                "bootstrap.servers": "a:1,b:2",
                "sasl.username": "u@x",
                "sasl.password": "p/w:d",
                "sasl.mechanism": "SCRAM-SHA-512",
                "security.protocol": "SASL_PLAINTEXT",
            },
        ),
        ("kafka://u:p@a", None, {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"}),
    ],
)
def test_urls(url, topic, config):
    found, options = topic_and_config(url)
    assert found == topic
    assert {name: options[name] for name in config} == config


@pytest.mark.parametrize(
    "url",
    [
        *("kafka://", "kafka://[::1", "kafka:///topic", "kafka://a/b/c", "kafka://a/%00", "kafka://a#b"),
        # A password that is not escaped.
        *("kafka://u:p/Secret7@a", "kafka://u:p?Secret7@a", "kafka://u:1?Secret7@a", "kafka://u:1/Secret7@a"),
    ],
)
def test_bad_urls(url):
    with pytest.raises(ConfigurationError) as caught:
        open_store(url)
    assert "Secret7" not in str(caught.value)


def test_bad_options():
    for prefix in ("a/b", "é", "x" * 101):
        with pytest.raises(ConfigurationError, match="topic_prefix"):
            KafkaStore("kafka://a", topic_prefix=prefix)
    with pytest.raises(ConfigurationError, match="not both"):
        KafkaStore("kafka://a/topic", topic_prefix="p")
    with pytest.raises(ConfigurationError, match="without a topic"):
        KafkaChatMessageHistory("s", "a:1/topic")
    with pytest.raises(ConfigurationError, match="options") as caught:
        KafkaStore("kafka://u:Secret7@a?no.such.option=Secret8").read("s")
    assert "Secret7" not in str(caught.value)
    assert "Secret7" not in str(caught.value.__cause__)


def test_no_secret_is_shown():
    store = KafkaStore(
        "kafka://u:Secret7@a?ssl.key.password=Secret7&ssl.keystore.password=Secret7&sasl.oauthbearer.client.secret=Secret7",
        client_options={"sasl.password": "Secret7"},
    )
    assert "Secret7" not in repr(store) + repr(store.history("s"))
    history = KafkaChatMessageHistory("s", "u:Secret7@a:1")
    assert "Secret7" not in repr(history)


def test_ordinary_ids_name_their_topic():
    store = KafkaStore("kafka://a", topic_prefix="p-")
    for key in ("42", "user_1", "7d0a4f2c-0e56-4f9c-9a54-6f3b2a1c0d9e", "a.b"):
        assert store.operations.topics.names(key)[-1] == "p-" + key
    assert KafkaStore("kafka://a/all").operations.topics.names("42") == ["all"]


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), max_size=30), st.integers(80, 249))
def test_every_id_has_a_legal_name_of_its_own(ids, room):
    ids = {*ids, *odd_session_ids()}
    # Kafka takes names that differ in these alone for the same.
    names = {escaped(key, room).replace(".", "_") for key in ids}
    assert len(names) == len(ids)
    for key in ids:
        name = escaped(key, room)
        assert re.fullmatch(r"[a-zA-Z0-9_-]+", name)
        assert len(name) <= max(room, 110)
        assert "--" in name or unescaped(name) == key


def test_no_session_is_in_a_topic_of_kafkas_own():
    for session_id in ("__consumer_offsets", "__transaction_state"):
        assert not any(topic.startswith("__") for topic in KafkaStore("kafka://a").operations.topics.names(session_id))
    assert KafkaStore("kafka://a", topic_prefix="p").operations.topics.names("__x")[-1] == "p__x"


def test_an_escaped_name_is_no_other_sessions_own():
    store = KafkaStore("kafka://a")
    odd = store.operations.topics.names("a/b")[-1]
    assert odd not in store.operations.topics.names(odd)


@pytest.mark.parametrize("bad", ["", "5", "0:1", "0:1.2.x,", "0:1.2.x y", "0:-1.0.x", "a:1.0.x", 7])
def test_badpositions(bad):
    with pytest.raises(ConfigurationError, match="position"):
        positions(bad)


class Record:
    def __init__(self, offset, value, batch, place, size, key=b"s"):  # noqa: PLR0917  # a row of a table
        self._offset, self._value, self._key = offset, value, key
        self._headers = [("lh", f"{batch} {place} {size}".encode())] if batch else None

    def offset(self):
        return self._offset

    def value(self):
        return self._value

    def key(self):
        return self._key

    def headers(self):
        return self._headers

    def error(self):
        return None

    def timestamp(self):
        return 1, 0


class Ended:
    def error(self):
        return KafkaError(KafkaError._PARTITION_EOF)


class Partition:
    """A consumer of one partition, which counts what it gives."""

    def __init__(self, records, low=0, high=None):
        self.records, self.low = records, low
        self.high = len(records) if high is None else high
        self.given = 0

    def get_watermark_offsets(self, partition, timeout):
        return self.low, self.high

    def assign(self, partitions):
        (start,) = partitions
        self.rest = iter([record for record in self.records if record.offset() >= max(start.offset, self.low)])

    def poll(self, timeout):
        self.given += 1
        return next(self.rest, Ended())

    def unassign(self):
        self.rest = iter(())


def log_of(records, key=None, **bounds):
    partition = Partition(records, **bounds)
    return Log(partition, TopicPartition("t", 0), 1.0, key), partition


@st.composite
def written(draw):
    """What writers leave in a partition: batches, interleaved, some of them cut; and LangChain's records."""
    sizes = draw(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=12))
    pending = [[(f"b{number}", place, size) for place in range(size)] for number, (size, _) in enumerate(sizes)]
    for batch, (_, dies) in zip(pending, sizes, strict=True):
        if dies and len(batch) > 1:
            batch.pop()
    records, expected, alive = [], [], [batch for batch in pending if batch]
    while alive:
        batch = draw(st.sampled_from(alive))
        name, place, size = batch.pop(0)
        records.append(Record(len(records), f"{name} {place}".encode(), name, place, size))
        if place == size - 1:
            expected += [f"{name} {each}".encode() for each in range(size)]
        alive = [batch for batch in pending if batch]
        if draw(st.integers(0, 9)) == 0:
            filler = draw(st.sampled_from([1, 1, 40]))
            for _ in range(filler):
                value = f"langchain {len(records)}".encode()
                records.append(Record(len(records), value, None, 0, 1))
                expected.append(value)
    return records, expected


@settings(max_examples=300, deadline=None)
@given(written(), st.data())
def test_batches_are_whole_and_contiguous_wherever_reading_begins(session, data):
    records, expected = session
    log, _ = log_of(records)
    entries = log.after(None, None)
    assert [entry.text for entry in entries] == expected
    if not expected:
        return
    last = data.draw(st.integers(1, len(expected) + 1))
    assert [entry.text for entry in log.tail(last)] == expected[-last:]
    number = data.draw(st.integers(0, len(expected) - 1))
    position = entries[number].position
    assert [entry.text for entry in log.after(position, None)] == expected[number + 1 :]
    assert [entry.text for entry in log.after(position, 2)][:2] == expected[number + 1 :][:2]
    # A reader that came when less was written, and goes on from there.
    early = data.draw(st.integers(1, len(records)))
    seen = log_of(records[:early])[0].after(None, None)
    rest = log.after(seen[-1].position, None) if seen else entries
    assert [entry.text for entry in [*seen, *rest]] == expected


def single(number, value=None, key=b"s"):
    return Record(number, value or str(number).encode(), f"b{number}", 0, 1, key)


def test_reads_cost_what_they_return():
    records = [single(number) for number in range(10_000)]
    log, partition = log_of(records)
    assert [entry.text for entry in log.tail(5)] == [b"9995", b"9996", b"9997", b"9998", b"9999"]
    position = log.tail(3)[0].position
    log.after(position, None)
    log.after(None, 5)
    assert partition.given < 100


def test_what_is_left_of_a_dead_writer_does_not_make_reads_dearer():
    dead = Record(0, b"dead", "dead", 0, 2)
    log, partition = log_of([dead, *(single(number) for number in range(1, 10_000))])
    log.after(log.tail(1)[0].position, None)
    assert partition.given < 100


def test_a_position_of_another_topic_of_this_name_begins_anew():
    old = [Record(number, b"old", f"old{number}", 0, 1) for number in range(5)]
    position = log_of(old)[0].tail(1)[0].position
    for count in (2, 5, 9):
        fresh = [single(number) for number in range(count)]
        assert len(log_of(fresh)[0].after(position, None)) == count


def test_retention_takes_the_oldest_and_half_a_batch_is_left_out():
    records = [
        single(0),
        *(Record(1 + place, b"abc"[place : place + 1], "b", place, 3) for place in range(3)),
        single(4),
    ]
    position = log_of(records)[0].after(None, None)[3].position
    assert position.offset == 3
    log, _ = log_of(records, low=2, high=5)
    assert [entry.text for entry in log.after(None, None)] == [b"4"]
    assert [entry.text for entry in log.tail(9)] == [b"4"]
    assert [entry.text for entry in log.after(position, None)] == [b"4"]
    gone = log_of(records)[0].after(None, None)[0].position
    assert [entry.text for entry in log.after(gone, None)] == [b"4"]


def test_records_that_no_reader_is_given_end_a_read():
    log, _ = log_of([single(0), single(1)], high=4)
    assert [entry.text for entry in log.after(None, None)] == [b"0", b"1"]


def test_a_tombstone_hides_what_is_before_it():
    records = [single(0), single(1, b"other", b"o"), Record(2, None, "t", 0, 1), single(3)]
    log, _ = log_of(records, key="s")
    assert [entry.text for entry in log.after(None, 1)] == [b"3"]
    assert [entry.text for entry in log.tail(9)] == [b"3"]
    first = log_of(records[:1], key="s")[0].tail(1)[0].position
    assert [entry.text for entry in log.after(first, None)] == [b"3"]
    log, _ = log_of(records, key="o")
    assert [entry.text for entry in log.after(None, None)] == [b"other"]
    log, _ = log_of(records)
    assert [entry.text for entry in log.after(None, None)] == [b"0", b"other", b"3"]


def test_close_closes_every_consumer_and_all_can_be_lent_again(monkeypatch):
    closed = []
    client = KafkaClient({"bootstrap.servers": "127.0.0.1:1"}, 0.01)
    monkeypatch.setattr(client, "new_consumer", lambda group: SimpleNamespace(close=lambda: closed.append(group)))
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(client.consumer())
    client.close()
    assert len(closed) == 3
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(client.consumer())


def test_a_producer_that_can_do_no_more_is_renewed():
    store = KafkaStore("kafka://127.0.0.1:1", timeout=0.5)
    broken = store.client.producer
    # The driver's own way to make one fail for good; the handle is the first field behind the head of the object.
    handle = ctypes.c_void_p.from_address(id(broken) + object.__basicsize__)
    library = ctypes.CDLL(next(Path(confluent_kafka.__file__).parent.parent.glob("confluent_kafka.libs/librdkafka-*")))
    library.rd_kafka_test_fatal_error.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p]
    assert library.rd_kafka_test_fatal_error(handle, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, b"test") == 0
    store.client.topics["s",] = "s", 1
    with pytest.raises(StoreError):
        store.append("s", [HumanMessage("x")])
    assert store.client.producer is not broken
    store.close()
