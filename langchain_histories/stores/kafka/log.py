"""One partition of a Kafka topic, read as whole batches; see `kafka` for how they are stored."""

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
_STEP = 16  # records read before those asked for, as a batch may begin there


class Position(NamedTuple):
    """A place in one partition; without the name of a batch it is behind every record up to the offset."""

    offset: int
    place: int
    batch: str


class Entry(NamedTuple):
    """A record of a whole batch: its place, its own offset, when it was written, and its text."""

    position: Position
    offset: int
    timestamp: int
    text: bytes


class _Batches:
    """Takes records in the order of their offsets, and keeps those of whole batches in theirs."""

    def __init__(self, after: Position | None = None, *, tombstones: bool) -> None:
        """Keep entries behind a position."""
        self.entries: list[Entry] = []
        self.holes: list[tuple[int, int]] = []
        """The batches whose beginning was not among the records: offset of the end, number of entries before it."""
        self.found = after is not None and not after.batch
        self.cleared = False
        self._after, self._tombstones = after, tombstones
        self._open: dict[str, dict[int, tuple[int, bytes]]] = {}

    def add(self, message: KafkaMessage) -> None:
        value, offset = message.value(), message.offset() or 0
        if value is None:
            if self._tombstones:
                self.entries, self.holes, self.cleared = [], [], True
            return
        batch, index, size = _header(message, value)
        if self._after is not None and (offset, batch) == (self._after.offset, self._after.batch):
            self.found = True
        values = self._open.setdefault(batch, {})
        values[index] = offset, value
        if index < size - 1:
            return
        del self._open[batch]
        if len(values) < size:
            self.holes.append((offset, len(self.entries)))
            return
        for number in range(size):
            entry = Entry(Position(offset, number, batch), values[number][0], message.timestamp()[1], values[number][1])
            if self._is_behind(entry):
                self.entries.append(entry)

    def _is_behind(self, entry: Entry) -> bool:
        if self._after is None:
            return True
        if not self._after.batch:
            return entry.offset > self._after.offset
        return entry.position[:2] > self._after[:2]


class Log:
    """One partition as a consumer sees it: the records from `low` to `high`, which is behind the last."""

    def __init__(self, consumer: Consumer, partition: TopicPartition, timeout: float, key: str | None = None) -> None:
        """Ask for the bounds."""
        self._consumer, self._partition, self._timeout = consumer, partition, timeout
        self._key = None if key is None else key.encode()
        bounds = consumer.get_watermark_offsets(partition, timeout=timeout)
        if bounds is None:
            raise KafkaException(KafkaError(TIMED_OUT))
        self.low, self.high = bounds

    def records(self, start: int) -> Generator[KafkaMessage]:
        """Read from an offset to what was the end. Nobody waits for records that are not there."""
        if start >= self.high:
            return
        self._consumer.assign([TopicPartition(self._partition.topic, self._partition.partition, start)])
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
        batches = _Batches(after, tombstones=self._key is not None)
        # In a topic of many sessions a tombstone may follow.
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
            whole = batches.entries[batches.holes[-1][1] :] if batches.holes else batches.entries
            if start == self.low or batches.cleared or len(whole) >= last:
                return batches.entries[-last:]
            back *= 4

    def behind(self, after: Position | None, first: int | None) -> list[Entry]:
        """The entries behind a position; all if it is not there any more."""
        back = _STEP
        while after is not None and self.low <= after.offset < self.high:
            start = max(self.low, after.offset - back)
            batches = self._batches(start, after, first)
            if start > self.low and any(offset >= after.offset for offset, _ in batches.holes):
                back *= 4
            elif batches.found or batches.cleared:
                return batches.entries
            else:
                break
        return self._batches(self.low, first=first).entries


def _header(message: KafkaMessage, value: bytes) -> tuple[str, int, int]:
    """Batch, index and size; a record that is not ours is a batch of its own."""
    headers: Any = message.headers() or ()
    for name, text in headers:
        if name == HEADER and (match := re.fullmatch(rb"(\w+) (\d+) (\d+)", text or b"")):
            return match[1].decode(), int(match[2]), int(match[3])
    return f"{zlib.crc32(value):08x}", 0, 1
