"""The clients of Kafka's driver in one process, and how a batch is delivered."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from langchain_histories.stores.base import CONNECT_TIMEOUT, OutOfTimeError, deadline, time_left
from langchain_histories.stores.kafka.log import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_histories.stores.kafka.log import KafkaMessage

logger = logging.getLogger(__name__)

CONSUMERS = 4
POLL = 0.01
"""Seconds between two looks, where the driver cannot wait for an event."""
UNKNOWN_TOPIC = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}  # noqa: SLF001  # that is how the driver names them
)


_REFUSED = (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED)  # noqa: SLF001  # it is named so
_NO_ANSWER = (KafkaError._TIMED_OUT, KafkaError._TRANSPORT)  # noqa: SLF001  # it is named so
_ALL_DOWN = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001  # it is named so


class _Told:
    """What the driver told of its connections. It knows no client: a cycle would outlive a fork.

    Attributes:
        refusal: The last refused login.
        is_connected: Whether a broker answered, and the driver has not lost all of them since.
    """

    def __init__(self) -> None:
        self.refusal: KafkaError | None = None
        self.is_connected = False

    def note(self, error: KafkaError) -> None:
        """Take what the driver's callback for errors is given."""
        if error.code() in _REFUSED:
            self.refusal = error
        elif error.code() == _ALL_DOWN:
            self.is_connected = False


class _DriverLog:
    """Lowers the driver's log to DEBUG, because in an outage it repeats the exceptions that callers get."""

    def log(self, _: int, *args: Any) -> None:
        """Log a line of the driver."""
        logger.debug(*args)


class KafkaClient:
    """The producer, the consumers and the admin client of one process; the last two open on first use.

    Args:
        config: Options of librdkafka.
        timeout: Seconds to wait for an answer or a delivery.
        consumers: How many consumers there are at most.

    Attributes:
        producer: The producer. An error that it cannot recover from replaces it.
        topics: Where sessions are, by the names that their topics may have: topic, and number of its partitions. May
            be out of date.
    """

    def __init__(self, config: dict[str, Any], timeout: float, consumers: int = CONSUMERS) -> None:
        """Make the producer."""
        self._told = _Told()
        defaults = {"logger": _DriverLog(), "reconnect.backoff.max.ms": 1000, "error_cb": self._told.note}
        defaults["socket.connection.setup.timeout.ms"] = int(max(1, min(timeout, CONNECT_TIMEOUT)) * 1000)
        # Otherwise a broker makes a topic whenever somebody asks whether there is one.
        self._config, self._timeout = {**defaults, **config, "allow.auto.create.topics": False}, timeout
        self._lock = threading.Lock()
        self._admin: AdminClient | None = None
        self._consumers: queue.LifoQueue[Consumer | None] = queue.LifoQueue()
        for _ in range(consumers):
            self._consumers.put(None)
        self.topics: dict[tuple[str, ...], tuple[str, int]] = {}
        self.producer = self._make_producer()

    def _make_producer(self) -> Producer:
        milliseconds = int(self._timeout * 1000)
        defaults = {"message.max.bytes": 1_000_000_000, "topic.metadata.propagation.max.ms": 1000}
        needed = {"enable.idempotence": True, "acks": "all", "delivery.timeout.ms": milliseconds}
        return Producer({"request.timeout.ms": milliseconds, **defaults, **self._config, **needed})

    @property
    def timeout(self) -> float:
        """Seconds to wait for an answer: what is left of the time of the call."""
        left = time_left()
        return self._timeout if left is None else min(self._timeout, max(left, POLL))

    @property
    def admin(self) -> AdminClient:
        """The client that makes and removes topics."""
        with self._lock:
            if self._admin is None:
                self._admin = AdminClient(self._config)
            return self._admin

    @contextlib.contextmanager
    def consumer(self) -> Iterator[Consumer]:
        """Lend a consumer that belongs to no group."""
        try:
            consumer = self._consumers.get(timeout=time_left())
        except queue.Empty:
            raise OutOfTimeError("other calls used the consumers all the time") from None
        try:
            if consumer is None:
                consumer = self.new_consumer("langchain-histories")
            yield consumer
        finally:
            self._consumers.put(consumer)

    def new_consumer(self, group: str) -> Consumer:
        """Make a consumer that knows the offsets of a group and joins none."""
        # A request that waits for more records keeps the connection to a broker busy for that long.
        defaults = {"fetch.wait.max.ms": 1, "fetch.queue.backoff.ms": 10}
        needed = {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
        return Consumer({**defaults, **self._config, **needed})

    def partitions(self, client: Any, topic: str) -> list[int]:
        """The partitions of a topic, as the producer or consumer `client` knows it; none if there is no such topic."""
        told, end = self._told, time.monotonic() + self.timeout
        told.refusal = None
        while True:
            try:
                left = max(0.0, end - time.monotonic())
                found = client.list_topics(topic, timeout=min(left, CONNECT_TIMEOUT)).topics[topic]
            except KafkaException as error:
                client.poll(0)
                # A broker that is slow may answer yet. One that is gone is told by the driver's callback alone.
                has_waited = error.args[0].code() in _NO_ANSWER
                if has_waited and told.is_connected and not told.refusal and time.monotonic() < end:
                    continue
                # The exception tells of a failed transport alone, and the callback of a refused login.
                raise (KafkaException(told.refusal) if told.refusal else error) from None
            told.is_connected = True
            break
        if found.error is not None and found.error.code() not in UNKNOWN_TOPIC:
            raise KafkaException(found.error)
        return sorted(found.partitions)

    def produce(
        self, producer: Producer, topic: str, partition: int, key: str, values: Sequence[bytes | None]
    ) -> KafkaError | None:
        """Write a batch and wait until it is stored; return the first error."""
        batch, sent, limit = uuid.uuid4().hex[:16], 0, deadline()
        results: list[KafkaError | None] = []

        def delivered(error: KafkaError | None, _: KafkaMessage) -> None:
            # Any thread that polls the producer calls this.
            results.append(error)

        for index, value in enumerate(values):
            headers: list[tuple[str, str | bytes | None]] = [(HEADER, f"{batch} {index} {len(values)}")]
            sent += 1
            while True:
                try:
                    producer.produce(topic, value, key, partition, delivered, headers=headers)
                except BufferError:
                    producer.poll(POLL)
                    continue
                except KafkaException as error:
                    results.append(error.args[0])
                break
            if any(results):
                break
        while len(results) < sent:
            if limit is not None and not limit.is_idle and not limit.left():
                # It may be delivered yet, before anything that this producer sends to the partition from now on.
                return KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001  # it is named so
            # This sends the whole batch at once: mostly in one request, without another writer's record in between.
            producer.flush(POLL)
        return next(filter(None, results), None)

    def renew_producer(self, broken: Producer) -> None:
        """Replace a producer that can do no more."""
        with self._lock:
            if self.producer is broken:
                self.producer = self._make_producer()

    def close(self) -> None:
        """Close the consumers that no call uses."""
        self.producer.flush(self.timeout)
        idle = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._consumers.get_nowait())
        for consumer in idle:
            self._consumers.put(None)
            if consumer is not None:
                consumer.close()
