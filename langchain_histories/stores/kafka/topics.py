"""The topic of each session: its name, and how it is found, made and deleted."""

from __future__ import annotations

import hashlib
import itertools
import re
import time
import zlib
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # as its docs say

from langchain_histories.stores.kafka.client import POLL, UNKNOWN_TOPIC
from langchain_histories.stores.kafka.log import TIMED_OUT, Log

if TYPE_CHECKING:
    from langchain_histories.stores.kafka.client import KafkaClient

MAX_PREFIX = 100
_MAX_TOPIC = 249
_LEGAL = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_ESCAPED = "lh-"
_READABLE = 40  # characters of a long session id in the name of its topic
_KNOWN_TOPICS = 10_000


class Topics:
    """Where sessions are: each in a topic of its own, or all in one.

    Args:
        shared: The topic of all sessions; `None` if each has its own.
        prefix: What the names of topics start with if each session has its own.
        partitions: Number of partitions of a new topic.
        replication_factor: That of a new topic; `None` for the default of the cluster.
        retention_ms: Milliseconds after which Kafka removes records from a new topic; -1 for never.
    """

    def __init__(
        self, shared: str | None, prefix: str, partitions: int, replication_factor: int | None, retention_ms: int
    ) -> None:
        """Keep what topics are like."""
        self.shared, self.prefix = shared, prefix
        self.partitions = partitions
        self._replication_factor = replication_factor or -1
        self._retention_ms = retention_ms

    def names(self, key: str) -> list[str]:
        """The topics that a session may be in; a new one gets the last name.

        Kafka refuses two names that differ in `.` and `_` alone, so the second of such sessions has an escaped one.
        """
        if self.shared is not None:
            return [self.shared]
        escaped_name = self.prefix + escaped(key, _MAX_TOPIC - len(self.prefix))
        name = self.prefix + key
        is_taken = name in (".", "..") or name.startswith("__") or key.startswith(_ESCAPED)
        if is_taken or not is_legal(name):
            return [escaped_name]
        return [escaped_name, name] if set(key) & set("._") else [name]

    def find(self, client: KafkaClient, asked: Any, key: str) -> tuple[str, list[int]] | None:
        """Return the topic of a session and its partitions; `None` if there is no such topic.

        Args:
            client: The clients of the process.
            asked: The producer or consumer among them that is used next, because it remembers the answer.
            key: The session.
        """
        for topic in self.names(key):
            if partitions := client.partitions(asked, topic):
                return topic, partitions
        return None

    def of_session(self, key: str, partitions: list[int]) -> list[int]:
        """Return those of the partitions of a topic that may have records of a session."""
        return partitions if self.shared is None else [partition_of(key, len(partitions))]

    def to_write(self, client: KafkaClient, key: str) -> tuple[str, int]:
        """Return the topic and the partition that take the records of a session; make the topic if it is missing."""
        names = tuple(self.names(key))
        if names not in client.topics:
            if len(client.topics) >= _KNOWN_TOPICS:
                client.topics.clear()
            while (found := self.find(client, client.producer, key)) is None:
                self._make(client, names)
            client.topics[names] = found[0], len(found[1])
        topic, count = client.topics[names]
        return topic, 0 if self.shared is None else partition_of(key, count)

    def forget(self, client: KafkaClient, key: str) -> None:
        """Forget where a session is, because somebody deleted its topic."""
        client.topics.pop(tuple(self.names(key)), None)

    def _make(self, client: KafkaClient, names: tuple[str, ...]) -> None:
        # The default of a cluster could be to compact, which keeps one record per key.
        config = {"cleanup.policy": "delete", "retention.ms": str(self._retention_ms), "retention.bytes": "-1"}
        for topic in reversed(names):
            new = NewTopic(topic, self.partitions, self._replication_factor, config=config)
            try:
                client.admin.create_topics([new], request_timeout=client.timeout)[topic].result()
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.TOPIC_EXCEPTION and topic != names[0]:
                    continue
                if code != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
            _wait(client, topic, there=True)
            return

    def delete(self, client: KafkaClient, key: str) -> None:
        """Delete every topic that the session may be in."""
        self.forget(client, key)
        while (found := self.find(client, client.producer, key)) is not None:
            topic, _ = found
            try:
                client.admin.delete_topics([topic], request_timeout=client.timeout)[topic].result()
            except KafkaException as error:
                if error.args[0].code() not in UNKNOWN_TOPIC:
                    raise
            _wait(client, topic, there=False)

    def keys(self, client: KafkaClient) -> set[str]:
        """Return the keys of all sessions, and of some that have no records."""
        keys: set[str] = set()
        with client.consumer() as consumer:
            for topic, described in consumer.list_topics(timeout=client.timeout).topics.items():
                name = topic.removeprefix(self.prefix)
                holds_all = topic == self.shared
                is_own = self.shared is None and topic.startswith(self.prefix) and name and not topic.startswith("__")
                if holds_all or (is_own and name.startswith(_ESCAPED) and "--" in name):
                    # Only the records say which sessions these are; in the topic of a long id the first one is enough.
                    for number in described.partitions:
                        log = Log(consumer, TopicPartition(topic, number), client.timeout)
                        keys.update(log.keys() if holds_all else itertools.islice(log.keys(), 1))
                elif is_own:
                    keys.add(unescaped(name))
        return keys


def _wait(client: KafkaClient, topic: str, *, there: bool) -> None:
    """Wait until the brokers know that a topic was made or deleted."""
    deadline = time.monotonic() + client.timeout
    while bool(client.partitions(client.producer, topic)) != there:
        if time.monotonic() > deadline:
            raise KafkaException(KafkaError(TIMED_OUT))
        client.producer.poll(POLL)


def is_legal(name: str) -> bool:
    """Whether Kafka takes a topic of this name."""
    return _LEGAL.fullmatch(name) is not None


def partition_of(key: str, count: int) -> int:
    """The partition of a session: where the driver's own partitioner would put the key."""
    return zlib.crc32(key.encode()) % count


def escaped(key: str, room: int) -> str:
    """Return a name for any session id. It has no `.`, and no two ids have the same.

    A long one ends with a hash in place of the rest; its records have the id as their key.
    """
    safe = re.sub(rb"[^a-zA-Z0-9_]", lambda byte: b"-%02X" % byte[0][0], key.encode()).decode()
    name = _ESCAPED + safe
    if len(name) <= room:
        return name
    return f"{_ESCAPED}{safe[:_READABLE]}--{hashlib.sha256(key.encode()).hexdigest()}"


def unescaped(name: str) -> str:
    """Return the session id of a name without a hash."""
    if not name.startswith(_ESCAPED):
        return name
    text = re.sub(rb"-([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), name.removeprefix(_ESCAPED).encode())
    return text.decode("utf-8", "replace")
