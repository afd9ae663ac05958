"""What a store in Kafka can do."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import ConfigResource  # type: ignore[attr-defined]  # as its docs say

from langchain_histories.errors import RecordTooLargeError
from langchain_histories.stores.base import Capability, Operations, SessionRow
from langchain_histories.stores.kafka.client import POLL, UNKNOWN_TOPIC, KafkaClient
from langchain_histories.stores.kafka.log import TIMED_OUT, Entry, Log, Position
from langchain_histories.stores.kafka.positions import begin, commit, positions, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_histories.stores.base import Row
    from langchain_histories.stores.kafka.positions import Start
    from langchain_histories.stores.kafka.topics import Topics

_ATTEMPTS = 5
_SMALL = 1_000_000 - 10_000  # every broker takes that, unless somebody lowered its limit
_OVERHEAD = 200
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
_UNAVAILABLE = frozenset(
    {
        TIMED_OUT,
        KafkaError._MSG_TIMED_OUT,  # noqa: SLF001  # that is how the driver names it
        KafkaError._TRANSPORT,  # noqa: SLF001  # as above
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001  # as above
        KafkaError._RESOLVE,  # noqa: SLF001  # as above
        KafkaError._SSL,  # noqa: SLF001  # as above
        KafkaError._AUTHENTICATION,  # noqa: SLF001  # as above
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    }
)
_IN_ANY_TOPIC = Capability.PERSISTENT | Capability.MANY_PROCESSES | Capability.ATOMIC_BATCH | Capability.SESSIONS
_IN_OWN_TOPICS = Capability.TAIL_READ | Capability.ERASE | Capability.LEAVES_NO_TRACE


class KafkaOperations(Operations[KafkaClient]):
    """The operations over the clients of a process.

    Args:
        topics: Where sessions are.
    """

    name = "kafka"
    driver_errors = (KafkaException,)

    def __init__(self, topics: Topics) -> None:
        """Keep where sessions are."""
        super().__init__()
        self.topics = topics
        self.capabilities = _IN_ANY_TOPIC if topics.shared else _IN_ANY_TOPIC | _IN_OWN_TOPICS

    def is_unavailable(self, error: Exception) -> bool:
        is_refused = isinstance(error, KafkaException) and error.args[0].code() in _UNAVAILABLE
        return is_refused or super().is_unavailable(error)

    async def append(self, client: KafkaClient, key: str, rows: Sequence[str]) -> None:
        self._produce(client, key, [row.encode() for row in rows])

    def _produce(self, client: KafkaClient, key: str, values: Sequence[bytes | None]) -> None:
        for attempt in range(_ATTEMPTS):
            topic, partition = self.topics.to_write(client, key)
            self._check_size(client, topic, key, values)
            producer = client.producer
            error = client.produce(producer, topic, partition, key, values)
            if error is None:
                return
            if error.code() == KafkaError._FATAL:  # noqa: SLF001  # that is how the driver names it
                client.renew_producer(producer)
            if error.code() in _TOO_LARGE:
                raise RecordTooLargeError(f"A message of session {key!r} is larger than the topic {topic!r} takes.")
            if error.code() not in UNKNOWN_TOPIC or attempt == _ATTEMPTS - 1:
                raise KafkaException(error)
            # Somebody deleted it.
            self.topics.forget(client, key)

    def _check_size(self, client: KafkaClient, topic: str, key: str, values: Sequence[bytes | None]) -> None:
        """Refuse a batch before the broker stores its first records and refuses a later one."""
        size = max(len(value or b"") for value in values)
        if size <= _SMALL:
            return
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        try:
            described = client.admin.describe_configs([resource], request_timeout=client.timeout)[resource].result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise
            return
        limit = int(described["max.message.bytes"].value)
        if size + len(key.encode()) + _OVERHEAD > limit:
            raise RecordTooLargeError(
                f"A message takes {size} bytes, and max.message.bytes of the topic {topic!r} is {limit}."
            )

    async def read(
        self,
        client: KafkaClient,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        seen = positions(after)
        tail = last if after is None else None
        with client.consumer() as consumer:
            for attempt in range(_ATTEMPTS):
                found = self.topics.find(client, consumer, key)
                if found is None:
                    return []
                try:
                    logs = self._logs(client, consumer, key, found)
                    logs = {number: log for number, log in logs.items() if log.low < log.high}
                    entries = _entries(logs, seen, first, tail)
                    break
                except KafkaException as error:
                    # Another program may have deleted the topic meanwhile. The next attempt finds that out, because a
                    # broker that is down does not say that there is no topic.
                    attempts = {TIMED_OUT: 2, **dict.fromkeys(UNKNOWN_TOPIC, _ATTEMPTS)}
                    if attempt + 1 >= attempts.get(error.args[0].code(), 0):
                        raise
        rows = list(rows_of(entries, seen))
        return rows[:first] if last is None else rows[max(0, len(rows) - last) :]

    def _logs(self, client: KafkaClient, consumer: Consumer, key: str, found: tuple[str, list[int]]) -> dict[int, Log]:
        """Return the partitions that may have records of the session."""
        topic, partitions = found
        only = None if self.topics.shared is None else key
        return {
            number: Log(consumer, TopicPartition(topic, number), client.timeout, only)
            for number in self.topics.of_session(key, partitions)
        }

    async def clear(self, client: KafkaClient, key: str) -> None:
        if self.topics.shared is None:
            self.topics.delete(client, key)
        elif self.topics.find(client, client.producer, key):
            # The tombstone hides the records before it.
            self._produce(client, key, [None])

    async def sessions(
        self, client: KafkaClient, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        """Kafka counts no records of a session, so a page of sessions costs a read of each."""
        found: list[SessionRow] = []
        keys = {key for key in self.topics.keys(client) if key.startswith(prefix)}
        for key in sorted(keys, key=str.encode):
            if (after is not None and key.encode() <= after.encode()) or len(found) == limit:
                continue
            rows = await self.read(client, key)
            if rows:
                found.append(SessionRow(key, len(rows), rows[-1].text))
        return found

    async def erase(self, client: KafkaClient, prefix: str) -> int:
        if self.topics.shared is not None:
            raise self.unsupported("erase")
        keys = [key for key in self.topics.keys(client) if key.startswith(prefix)]
        for key in keys:
            await self.clear(client, key)
        return len(keys)

    async def count_partitions(self, client: KafkaClient, key: str) -> int:
        """The number of partitions that the topic of a session has, or will have."""
        found = self.topics.find(client, client.producer, key)
        return self.topics.partitions if found is None else len(found[1])

    async def consume(
        self,
        client: KafkaClient,
        key: str,
        start: Start,
        *,
        count: int | None,
        until: float | None,
        decode: Callable[[Sequence[Row]], list[BaseMessage]],
    ) -> list[BaseMessage]:
        """Do what LangChain's readers do: go on where the consumer group of this session stopped, and move it.

        Args:
            client: The clients of the process.
            key: The session.
            start: Where to begin.
            count: At most so many messages.
            until: With the start `latest`: until which moment of the monotonic clock to wait for `count` messages;
                `None` for as long as it takes.
            decode: Turns rows into messages; the group moves only past rows that it can decode.
        """
        seen: dict[int, Position] | None = None
        with contextlib.closing(client.new_consumer(self.topics.names(key)[-1])) as consumer:
            while True:
                found = self.topics.find(client, consumer, key)
                logs = {} if found is None else self._logs(client, consumer, key, found)
                if seen is None:
                    seen = begin(consumer, logs, start, client.timeout)
                entries = {number: log.after(seen.get(number), count) for number, log in logs.items()}
                rows = list(rows_of(entries, seen))[:count]
                is_late = until is not None and time.monotonic() >= until
                if start != "latest" or is_late or len(rows) == count:
                    break
                client.producer.poll(POLL)
            messages = decode(rows)
            if found is not None and rows:
                commit(consumer, found[0], entries, positions(rows[-1].position))
            return messages


def _entries(
    logs: dict[int, Log], seen: dict[int, Position], first: int | None, last: int | None
) -> dict[int, list[Entry]]:
    """Read partitions: at least the first n entries after what was seen, or the last n of a single partition."""
    if last is not None and len(logs) == 1:
        return {number: log.tail(last) for number, log in logs.items()}
    return {number: log.after(seen.get(number), first) for number, log in logs.items()}
