"""One partition of a Kafka topic, read as whole batches.

The value of a record is the JSON of one message, its key the session id. The header `lh` names its batch: `<batch>
<index> <size>`. All records of a session are in one partition, and an idempotent producer keeps the order of a batch
there, so a batch is whole when its last record is there and all the others before it. Readers place a whole batch where
its last record is. So batches never interleave, although their records do, and later batches always come later. A
writer that died or gave up leaves a batch without all of its records: readers leave it out. A position is the offset of
that last record, with the index of the record and the name of the batch.

Records without the header are LangChain's. They are spread over the partitions of a topic, where time orders them;
those of one millisecond have no order between partitions.

In a topic for many sessions a record without a value, a tombstone, stands for `clear`: readers begin behind it.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    KafkaMessage: TypeAlias = Message[bytes, bytes]

HEADER = "lh"
TIMED_OUT = KafkaError._TIMED_OUT  # noqa: SLF001  # that is how the driver names it
_END = KafkaError._PARTITION_EOF  # noqa: SLF001  # as above
_STEP = 16  # records to read before those asked for, because a batch may begin there


class Position(NamedTuple):
    """Where a record is in its partition. Without the name of a batch: behind every record up to the offset.

    Attributes:
        offset: The offset of the last record of its batch.
        part: The index of the record in its batch.
        batch: The name of the batch.
    """

    offset: int
    part: int
    batch: str


class Entry(NamedTuple):
    """A record of a whole batch: its position, its own offset, when it was written, and its text."""

    position: Position
    offset: int
    timestamp: int
    text: bytes


class _Batches:
    """Takes records in the order of their offsets, and keeps the whole batches among them.

    Attributes:
        entries: The records of whole batches after the position, in order.
        headless: The batches whose first records were not among the records given: the offset of the last record, and
            the number of entries before it.
        has_found: Whether the record at the position was among those given.
        is_cleared: Whether a tombstone was.
    """

    def __init__(self, after: Position | None = None, *, has_tombstones: bool) -> None:
        """Begin with no records."""
        self.entries: list[Entry] = []
        self.headless: list[tuple[int, int]] = []
        self.has_found = after is not None and not after.batch
        self.is_cleared = False
        self._after, self._has_tombstones = after, has_tombstones
        self._incomplete: dict[str, dict[int, tuple[int, bytes]]] = {}

    def add(self, message: KafkaMessage) -> None:
        """Take the next record."""
        value, offset = message.value(), message.offset() or 0
        if value is None:
            if self._has_tombstones:
                self.entries, self.headless, self.is_cleared = [], [], True
            return
        batch, index, size = _header(message, value)
        if self._after is not None and (offset, batch) == (self._after.offset, self._after.batch):
            self.has_found = True
        values = self._incomplete.setdefault(batch, {})
        values[index] = offset, value
        if index < size - 1:
            return
        del self._incomplete[batch]
        if len(values) < size:
            self.headless.append((offset, len(self.entries)))
            return
        for number in range(size):
            entry = Entry(Position(offset, number, batch), values[number][0], message.timestamp()[1], values[number][1])
            if self._is_after(entry):
                self.entries.append(entry)

    def _is_after(self, entry: Entry) -> bool:
        if self._after is None:
            return True
        if not self._after.batch:
            return entry.offset > self._after.offset
        return entry.position[:2] > self._after[:2]


class Log:
    """One partition as a consumer sees it.

    Args:
        consumer: The consumer.
        partition: The partition.
        timeout: Seconds to wait for an answer.
        key: Read the records of this session alone, from a topic of many sessions.

    Attributes:
        partition: The partition.
        low: The offset of its first record.
        high: The offset behind its last record.
    """

    def __init__(self, consumer: Consumer, partition: TopicPartition, timeout: float, key: str | None = None) -> None:
        """Ask for the bounds."""
        self.partition = partition
        self._consumer, self._timeout = consumer, timeout
        self._key = None if key is None else key.encode()
        bounds = consumer.get_watermark_offsets(partition, timeout=timeout)
        if bounds is None:
            raise KafkaException(KafkaError(TIMED_OUT))
        self.low, self.high = bounds

    def records(self, start: int) -> Generator[KafkaMessage]:
        """Read from an offset to `high`. Nobody waits for records that are not there."""
        if start >= self.high:
            return
        self._consumer.assign([TopicPartition(self.partition.topic, self.partition.partition, start)])
        try:
            while True:
                message = self._consumer.poll(self._timeout)
                if message is None:
                    raise KafkaException(KafkaError(TIMED_OUT))
                if (error := message.error()) is not None:
                    if error.code() == _END:
                        return
                    raise KafkaException(error)
                offset = message.offset() or 0
                if offset < self.high and (self._key is None or message.key() == self._key):
                    yield message
                if offset >= self.high - 1:
                    return
        finally:
            self._consumer.unassign()

    def keys(self) -> Iterator[str]:
        """The keys of the records."""
        with contextlib.closing(self.records(self.low)) as records:
            for message in records:
                if (key := message.key()) is not None:
                    yield key.decode("utf-8", "replace")

    def _batches(self, start: int, after: Position | None = None, first: int | None = None) -> _Batches:
        batches = _Batches(after, has_tombstones=self._key is not None)
        # Read to the end in a topic of many sessions, because a tombstone may follow.
        limit = first if self._key is None else None
        with contextlib.closing(self.records(start)) as records:
            for message in records:
                batches.add(message)
                if limit is not None and len(batches.entries) >= limit:
                    break
        return batches

    def tail(self, last: int) -> list[Entry]:
        """The last n entries."""
        back = last + _STEP
        while True:
            start = max(self.low, self.high - back)
            batches = self._batches(start)
            complete_from = batches.headless[-1][1] if batches.headless else 0
            if start == self.low or batches.is_cleared or len(batches.entries) - complete_from >= last:
                return batches.entries[-last:]
            back *= 4

    def after(self, position: Position | None, first: int | None) -> list[Entry]:
        """The entries after a position, or all if its record is gone; with `first` at least so many."""
        back = _STEP
        while position is not None and self.low <= position.offset < self.high:
            start = max(self.low, position.offset - back)
            batches = self._batches(start, position, first)
            if start > self.low and any(offset >= position.offset for offset, _ in batches.headless):
                back *= 4
            elif batches.has_found or batches.is_cleared:
                return batches.entries
            else:
                break
        return self._batches(self.low, first=first).entries


def _header(message: KafkaMessage, value: bytes) -> tuple[str, int, int]:
    """Batch, index and size; a record that is not ours is a batch of its own."""
    headers: Any = message.headers() or ()
    for name, text in headers:
        match = re.fullmatch(rb"(\w+) (\d{1,9}) (\d{1,9})", text or b"") if name == HEADER else None
        if match and int(match[2]) < int(match[3]):
            return match[1].decode(), int(match[2]), int(match[3])
    return f"{zlib.crc32(value):08x}", 0, 1
