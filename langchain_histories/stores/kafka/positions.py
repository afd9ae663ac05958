"""Positions over the partitions of a topic, and how consumer groups note them."""

from __future__ import annotations

import heapq
import re
from typing import TYPE_CHECKING, Literal, TypeAlias

from confluent_kafka import Consumer, KafkaException, TopicPartition

from langchain_histories.stores.base import Row, bad_position
from langchain_histories.stores.kafka.log import Entry, Log, Position

if TYPE_CHECKING:
    from collections.abc import Iterator

Start: TypeAlias = Literal["consumed", "beginning", "latest"]
"""Where a reader of LangChain's begins: after the last message consumed, with the first one, or with the next one."""

_IN_PARTITION = r"\d+:\d+\.\d+\.\w*"


def rows_of(entries: dict[int, list[Entry]], seen: dict[int, Position]) -> Iterator[Row]:
    """Merge partitions by time, each in its own order. The position of a row tells how far each partition was read.

    Args:
        entries: The entries of each partition.
        seen: How far each partition was read before.
    """
    lists = [[(number, entry) for entry in found] for number, found in entries.items()]
    seen = dict(seen)
    for number, entry in heapq.merge(*lists, key=lambda item: item[1].timestamp):
        seen[number] = entry.position
        yield Row(entry.text, ",".join(_written(number, at) for number, at in sorted(seen.items())))


def _written(number: int, position: Position) -> str:
    return f"{number}:{position.offset}.{position.part}.{position.batch}"


def positions(after: str | None) -> dict[int, Position]:
    """Return how far each partition was read, from the position of a row.

    Raises:
        ConfigurationError: It is no such position.
    """
    if after is None:
        return {}
    if not isinstance(after, str) or not re.fullmatch(rf"{_IN_PARTITION}(,{_IN_PARTITION})*", after):
        raise bad_position(after)
    found = {}
    for text in after.split(","):
        number, _, at = text.partition(":")
        offset, part, batch = at.split(".")
        found[int(number)] = Position(int(offset), int(part), batch)
    return found


def begin(consumer: Consumer, logs: dict[int, Log], start: Start, timeout: float) -> dict[int, Position]:
    """Return where the group of a consumer begins in each partition; nothing stands for the first record."""
    if start == "latest":
        return {number: Position(log.high - 1, 0, "") for number, log in logs.items() if log.high}
    if start == "beginning" or not logs:
        return {}
    found: dict[int, Position] = {}
    for committed in consumer.committed([log.partition for log in logs.values()], timeout=timeout):
        if committed.error is not None:
            raise KafkaException(committed.error)
        if committed.offset > 0:
            # LangChain's consumer may have moved the offset and left our note: use it only if its offset still matches.
            offset, _, note = (committed.metadata or "").partition(" ")
            if offset == str(committed.offset) and re.fullmatch(_IN_PARTITION, note):
                found |= positions(note)
            else:
                found[committed.partition] = Position(committed.offset - 1, 0, "")
    return found


def commit(consumer: Consumer, topic: str, entries: dict[int, list[Entry]], seen: dict[int, Position]) -> None:
    """Note how far the group of a consumer has read: an offset for LangChain's class, with our position beside it."""
    offsets = []
    for number, found in entries.items():
        at = seen.get(number)
        if at is None:
            offsets.append(TopicPartition(topic, number, 0))
        elif not at.batch:
            offsets.append(TopicPartition(topic, number, at.offset + 1))
        for entry in found:
            if entry.position == at:
                note = f"{entry.offset + 1} {_written(number, at)}"
                offsets.append(TopicPartition(topic, number, entry.offset + 1, note))
    if offsets:
        consumer.commit(offsets=offsets, asynchronous=False)
