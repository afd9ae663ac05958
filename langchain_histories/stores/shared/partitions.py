"""Sessions in services that keep small items in partitions by sort key, with transactions inside a partition.

DynamoDB, Azure's tables and Cosmos DB are such services. The partition of a session holds

| sort key | item |
|---|---|
| `head` | the number of the next record, how many records there are, when they expire, and the epoch |
| `r<epoch>.<number>` | one record |
| `r<epoch>.<number>b` | several records, or one that is too large for an item: the name of a body and their number |
| `b<epoch>.<body>.<index>.<part>` | a record of a body, or a part of it; the last part has a `z` behind its number |
| `s<epoch>` | the state |

Every write is one transaction that also puts a new head in place of the old one. The writer tries again if the head is
no longer the one that it read. So numbers are dense, batches are contiguous and whole, and later numbers become visible
later. A batch that does not fit in one transaction is first written as a body, where no reader looks; then one small
item names the body.

Readers see only records of the head's epoch. So a session of any size is cleared by removing its head, and replaced by
putting in a head of another epoch. Every item names two epochs, its own and the one that this replaces. An item that
does not name the epoch of the present head is left over from a clear, a replacement or an expiry, and is removed. Items
with other sort keys belong to other programs.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import re
import time
import uuid
from abc import abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from langchain_histories._values import from_json
from langchain_histories.codec import record_time
from langchain_histories.errors import CorruptRecordError, RecordTooLargeError
from langchain_histories.stores.base import (
    ANY_STATE,
    ClientT,
    ExpectedState,
    Operations,
    Row,
    SessionRow,
    pause,
    position_number,
    same_rows,
)
from langchain_histories.stores.shared.tries import tries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from langchain_histories._operations import AnyState

logger = logging.getLogger(__name__)

HEAD = "head"
_EVERYTHING = ("!", "~")  # the first and the last sort key in ASCII


class Item(NamedTuple):
    """An item of a partition.

    Attributes:
        sort: Its sort key, in ASCII.
        text: What it holds.
        tag: The ETag by which the service tells whether the item has changed; `None` if the service compares texts.
    """

    sort: str
    text: str
    tag: Any = None


class Write(NamedTuple):
    """One item of a transaction.

    Attributes:
        sort: The sort key.
        text: What to store, or `None` to remove the item if it is there.
        expected: The item as it was read, if it must not have changed, or `None` if there must be none.
        expires: When the service may remove the item, in seconds since 1970; `None` for never.
    """

    sort: str
    text: str | None
    expected: Item | AnyState | None = ANY_STATE
    expires: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Head:
    """What the other items of a session mean. The names of the attributes are stored.

    Attributes:
        epoch: Its own id and the id of the epoch before, 8 hexadecimal digits each.
        number: The number of the next record.
        count: How many records there are.
        at: When the last record was added.
        expires: When the session expires, in seconds since 1970.
        kept: When the service may remove the first of the items, in seconds since 1970.
        change: Counts the transactions, so that no two heads are equal; 0 before the first.
    """

    epoch: str
    number: int = 0
    count: int = 0
    at: str | None = None
    expires: float | None = None
    kept: float | None = None
    change: int = 0

    @property
    def is_new(self) -> bool:
        return self.change == 0

    @property
    def has_expired(self) -> bool:
        return self.expires is not None and self.expires <= time.time()

    def next(self, **changes: Any) -> _Head:
        return dataclasses.replace(self, **changes, change=self.change + 1)

    def write(self, expected: Item | None) -> Write:
        expires = None if self.expires is None else math.ceil(self.expires)
        return Write(HEAD, json.dumps(dataclasses.asdict(self), separators=(",", ":")), expected, expires)

    def row(self, number: int) -> str:
        return f"r{self.epoch}.{number:016}"

    @property
    def state(self) -> str:
        return f"s{self.epoch}"


class PartitionOperations(Operations[ClientT]):
    """The operations over the requests and the limits of a service, which a subclass knows."""

    is_paged = True

    max_writes: ClassVar[int]
    """Items in one transaction."""
    max_text: ClassVar[int]
    """Size of the text of one item, as `_size` measures it."""
    max_transaction: ClassVar[int]
    """Size of a transaction: the texts of its items, and `overhead` for each item."""
    overhead: ClassVar[int] = 2048
    """Size of an item without its text, at most."""
    has_expiry: ClassVar[bool] = True
    """Whether the service removes items that have expired."""

    # What a service of this kind writes.

    @abstractmethod
    def is_async(self, client: ClientT) -> bool:
        """Whether this is an async client."""

    @abstractmethod
    async def _get(self, client: ClientT, key: str, sort: str) -> Item | None:
        """Return one item with the last change that any writer made."""

    @abstractmethod
    async def _query(
        self, client: ClientT, key: str, start: str, stop: str, *, limit: int | None = None, reverse: bool = False
    ) -> list[Item]:
        """Return the items from `start` to `stop`, both included; with `reverse` from the end; the first `limit`."""

    @abstractmethod
    async def _commit(self, client: ClientT, key: str, writes: Sequence[Write]) -> bool:
        """Write all items in one transaction.

        Returns:
            `False` if nothing was written, because an item was not as expected or others were writing.
        """

    @abstractmethod
    async def _heads(self, client: ClientT, prefix: str) -> list[tuple[str, Item]]:
        """Return key and head of every session whose key starts with `prefix`."""

    @abstractmethod
    async def _keys(self, client: ClientT, prefix: str) -> set[str]:
        """Return the keys with this prefix of all partitions that have items, with or without a head."""

    def _size(self, text: str) -> int:
        return len(text.encode())

    def _cut(self, text: str) -> list[str]:
        """Cut a text into pieces that fit in an item."""
        data, pieces = text.encode(), []
        while data:
            pieces.append(data[: self.max_text].decode(errors="ignore"))
            data = data[len(pieces[-1].encode()) :]
        return pieces or [""]

    # Writing.

    async def append(self, client: ClientT, key: str, rows: Sequence[str]) -> None:
        body, body_is_for = "", None
        for seconds in tries(self, key):
            head, stored = await self._head(client, key)
            if head.is_new and stored is not None:
                await self._remove_expired(client, key, stored)
                continue
            kept = head.kept if head.is_new else await self._prolong(client, key, head)
            writes = [Write(head.row(number), text) for number, text in enumerate(rows, head.number)]
            if not self._fit(writes):
                if head.is_new:
                    await self._commit(client, key, [head.next().write(None)])
                    continue
                if body_is_for != (head.epoch, kept):
                    body, body_is_for = await self._put_body(client, key, head.epoch, kept, rows), (head.epoch, kept)
                writes = [_reference(head, head.number, len(rows), body)]
            count = len(rows)
            new = head.next(number=head.number + count, count=head.count + count, at=_time(rows), kept=kept)
            if await self._commit(client, key, [self._prolonged(new).write(stored), *_expiring(kept, writes)]):
                return
            await pause(seconds, is_async=self.is_async(client))

    async def replace(self, client: ClientT, key: str, rows: Sequence[str]) -> None:
        for seconds in tries(self, key):
            head, stored = await self._head(client, key)
            if head.is_new:
                await self._begin(client, key, head, stored)
                continue
            if await self._put_all(client, key, head, stored, rows):
                return
            await pause(seconds, is_async=self.is_async(client))

    async def _put_all(self, client: ClientT, key: str, head: _Head, stored: Item | None, rows: Sequence[str]) -> bool:
        """Begin an epoch with these rows and the state; tell whether the head was still the same."""
        count, kept = len(rows), self._next_kept(head)
        new = head.next(epoch=_new_epoch(head.epoch), number=count, count=count, at=_time(rows), kept=kept)
        state = await self._get(client, key, head.state)
        states = [] if state is None else [Write(new.state, state.text)]
        writes = [Write(new.row(number), text) for number, text in enumerate(rows)]
        if not self._fit([*writes, *states]):
            writes = [_reference(new, 0, count, await self._put_body(client, key, new.epoch, kept, rows))]
        writes = _expiring(kept, [*writes, *states])
        if not await self._commit(client, key, [self._prolonged(new).write(stored), *writes]):
            return False
        await self._sweep(client, key)
        return True

    async def edit(
        self, client: ClientT, key: str, rows: Sequence[str], *, expected: Sequence[Row], kept: int, after: str | None
    ) -> bool:
        """What is removed goes in the transaction of the head. If that is too much, all rows begin an epoch."""
        seen = None if after is None else _number_and_epoch(after)
        for seconds in tries(self, key):
            head, stored = await self._head(client, key)
            low = seen[0] + 1 if seen is not None and seen[1] == head.epoch else 0
            found = await self._numbered(client, key, head, low, None, reverse=False)
            if not same_rows(found, expected):
                return False
            if not rows and kept == len(expected):
                return True
            if head.is_new:
                await self._begin(client, key, head, stored)
            elif await self._put_for(client, key, head, stored, found[kept:], rows):
                return True
            await pause(seconds, is_async=self.is_async(client))
        return False

    async def _put_for(  # noqa: PLR0917
        self, client: ClientT, key: str, head: _Head, stored: Item | None, gone: Sequence[Row], rows: Sequence[str]
    ) -> bool:
        """Put rows in place of `gone`, the last ones; tell whether the head was still the same."""
        if len(gone) + 2 > self.max_writes:
            present = await self._numbered(client, key, head, 0, None, reverse=False)
            stay = [str(row.text) for row in present[: len(present) - len(gone)]]
            return await self._put_all(client, key, head, stored, [*stay, *rows])
        kept, number = await self._prolong(client, key, head) if rows else head.kept, head.number
        removals, parts = await self._removals(client, key, head, gone)
        writes = [Write(head.row(at), text) for at, text in enumerate(rows, number)]
        if not self._fit([*removals, *writes]):
            body = await self._put_body(client, key, head.epoch, kept, rows)
            writes = [_reference(head, number, len(rows), body)]
        count, last = head.count - len(gone) + len(rows), list(rows)
        if rows:
            head = self._prolonged(head)
        else:
            left = await self._numbered(client, key, head, 0, len(gone) + 1, reverse=True)
            last = [str(row.text) for row in left[len(gone) :]]
        new = head.next(number=number + len(rows), count=count, at=_time(last[-1:]), kept=kept)
        if not await self._commit(client, key, [new.write(stored), *removals, *_expiring(kept, writes)]):
            return False
        await self._write_all(client, key, parts)
        return True

    async def _removals(
        self, client: ClientT, key: str, head: _Head, rows: Sequence[Row]
    ) -> tuple[list[Write], list[Write]]:
        """What removes the last rows: of each its first item, without which readers see nothing of it, and the rest."""
        if not rows:
            return [], []
        numbers = [position_number(row.position) for row in rows]
        items = await self._query(client, key, head.row(numbers[0]), head.row(head.number - 1) + "b")
        found = [[item] for item in items]
        if any(_referenced(item) for item in items):
            found = [await self._items_of(client, key, head, number) for number in numbers]
        removals = [Write(some[0].sort, None) for some in found if some]
        return removals, [Write(item.sort, None) for some in found for item in some[1:]]

    async def delete(self, client: ClientT, key: str, rows: Sequence[Row]) -> int:
        return sum([await self._delete_one(client, key, row) for row in rows])

    async def _delete_one(self, client: ClientT, key: str, row: Row) -> bool:
        number, epoch = _number_and_epoch(row.position)
        for seconds in tries(self, key):
            head, stored = await self._head(client, key)
            items = await self._items_of(client, key, head, number) if epoch == head.epoch else []
            if not items:
                return False
            newest = await self.read(client, key, last=2)
            left = [text for text, position in newest if position != row.position]
            new = head.next(count=head.count - 1, at=_time(left[-1:]))
            if await self._commit(client, key, [new.write(stored), Write(items[0].sort, None)]):
                await self._write_all(client, key, [Write(item.sort, None) for item in items[1:]])
                return True
            await pause(seconds, is_async=self.is_async(client))
        return False

    async def clear(self, client: ClientT, key: str) -> None:
        await self._write_all(client, key, [Write(HEAD, None)])
        await self._sweep(client, key)

    async def erase(self, client: ClientT, prefix: str) -> int:
        keys = await self._keys(client, prefix)
        for key in keys:
            await self.clear(client, key)
        return len(keys)

    async def sweep(self, client: ClientT, limit: int) -> int:
        swept = 0
        for key, item in await self._heads(client, ""):
            if swept == limit:
                break
            with suppress(CorruptRecordError):
                if _parse_head(item, self.session_id(key)).has_expired:
                    await self._remove_expired(client, key, item)
                    swept += 1
        return swept

    async def _begin(self, client: ClientT, key: str, head: _Head, expired: Item | None) -> None:
        """Store the head of an empty session."""
        if expired is not None:
            await self._remove_expired(client, key, expired)
        await self._commit(client, key, [head.next().write(None)])

    async def _remove_expired(self, client: ClientT, key: str, head: Item) -> None:
        """Remove a session that has expired, unless another writer has begun it anew."""
        if await self._commit(client, key, [Write(HEAD, None, head)]):
            await self._sweep(client, key)

    async def _sweep(self, client: ClientT, key: str) -> None:
        """Remove the items of which no reader knows now or later.

        The head is read after the items were listed. So a body that was written for a later head is not in the list,
        and is never removed by mistake.
        """
        items = await self._query(client, key, *_EVERYTHING)
        stored = await self._get(client, key, HEAD)
        present = None if stored is None else _parse_head(stored, self.session_id(key)).epoch[:8]
        left_over = [item for item in items if (epochs := _epochs(item.sort)) and present not in epochs]
        await self._write_all(client, key, [Write(item.sort, None) for item in left_over])

    async def _put_body(self, client: ClientT, key: str, epoch: str, kept: float | None, rows: Sequence[str]) -> str:
        """Store rows where no reader looks yet, and return the name of that body."""
        body = f"b{epoch}.{uuid.uuid4().hex[:8]}"
        writes = []
        for index, row in enumerate(rows):
            *parts, last = self._cut(row)
            writes += [Write(f"{_body_key(body, index)}{part:05}", text) for part, text in enumerate(parts)]
            writes.append(Write(f"{_body_key(body, index)}{len(parts):05}z", last))
        await self._write_all(client, key, _expiring(kept, writes))
        return body

    async def _write_all(self, client: ClientT, key: str, writes: Sequence[Write]) -> None:
        """Write items unconditionally, in as many transactions as it takes."""
        for some in self._transactions(writes):
            for seconds in tries(self, key):
                if await self._commit(client, key, some):
                    break
                await pause(seconds, is_async=self.is_async(client))

    def _transactions(self, writes: Iterable[Write]) -> Iterator[list[Write]]:
        """Share writes out to transactions."""
        some: list[Write] = []
        total = 0
        for write in writes:
            size = self._size(write.text or "") + self.overhead
            if some and (len(some) == self.max_writes or total + size > self.max_transaction):
                yield some
                some, total = [], 0
            some.append(write)
            total += size
        if some:
            yield some

    def _fit(self, writes: Sequence[Write]) -> bool:
        """Whether the writes and a head fit in one transaction."""
        small = all(self._size(write.text or "") <= self.max_text for write in writes)
        return small and len(list(self._transactions([Write(HEAD, None), *writes]))) == 1

    # Time to live. A session expires at the time in its head. The service removes the items one by one, each at a time
    # of its own: that of a record is twice as far away, and is moved when it comes nearer than that of the session.

    def _prolonged(self, head: _Head) -> _Head:
        """The head of a session that expires `ttl` seconds from now."""
        return head if self.ttl is None else dataclasses.replace(head, expires=time.time() + self.ttl)

    def _next_kept(self, head: _Head) -> float | None:
        """When the service may remove items that are written now."""
        return time.time() + 2 * self.ttl if self.ttl is not None and self.has_expiry else head.kept

    async def _prolong(self, client: ClientT, key: str, head: _Head) -> float | None:
        """Have the service keep all items as long as the session, and return until when."""
        if self.ttl is None or not self.has_expiry or (head.kept is not None and head.kept >= time.time() + self.ttl):
            return head.kept
        kept = self._next_kept(head)
        items = await self._query(client, key, *_EVERYTHING)
        for item in items:
            if head.epoch[:8] not in _epochs(item.sort):
                continue
            for seconds in tries(self, key):
                written = await self._commit(client, key, _expiring(kept, [Write(item.sort, item.text, item)]))
                # If others removed or changed the item, it needs no more time, or the head is another one too.
                if written or await self._get(client, key, item.sort) != item:
                    break
                await pause(seconds, is_async=self.is_async(client))
        return kept

    # Reading.

    async def _head(self, client: ClientT, key: str) -> tuple[_Head, Item | None]:
        """Return the head, a new one if there is none or it has expired, and the item that is stored as the head."""
        stored = await self._get(client, key, HEAD)
        head = None if stored is None else _parse_head(stored, self.session_id(key))
        if head is None or head.has_expired:
            head = _Head(_new_epoch())
            head = self._prolonged(dataclasses.replace(head, kept=self._next_kept(head)))
        return head, stored

    async def read(
        self,
        client: ClientT,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        seen = None if after is None else _number_and_epoch(after)
        limit, reverse = (first, False) if last is None else (last, True)
        while True:
            head, _ = await self._head(client, key)
            low = seen[0] + 1 if seen is not None and seen[1] == head.epoch else 0
            rows = await self._numbered(client, key, head, low, limit, reverse=reverse)
            expected = max(0, head.number - low)
            if len(rows) >= (expected if limit is None else min(limit, expected)):
                break
            # Some were deleted, or others cleared or replaced the session meanwhile and are removing all of them.
            if (await self._head(client, key))[0].epoch == head.epoch:
                break
        return rows[::-1] if reverse else rows

    async def _numbered(
        self, client: ClientT, key: str, head: _Head, low: int, limit: int | None, *, reverse: bool
    ) -> list[Row]:
        """Return the records from the number `low` on; with `reverse` the newest first."""
        rows: list[Row] = []
        high = head.number
        while low < high and (limit is None or len(rows) < limit):
            missing = None if limit is None else limit - len(rows)
            span = (head.row(low), head.row(high - 1) + "b")
            items = await self._query(client, key, *span, limit=missing, reverse=reverse)
            for item in items:
                wanted = None if limit is None else limit - len(rows)
                if wanted == 0:
                    break
                rows += await self._rows_of(client, key, head, item, low, wanted, reverse=reverse)
            if missing is None or len(items) < missing:
                break
            if reverse:
                high = _item_number(items[-1])
            else:
                low = _item_number(items[-1]) + 1
        return rows

    async def _rows_of(  # noqa: PLR0917
        self, client: ClientT, key: str, head: _Head, item: Item, low: int, limit: int | None, *, reverse: bool
    ) -> list[Row]:
        """Return the records of an item, from the number `low` on."""
        number = _item_number(item)
        if (reference := _referenced(item)) is None:
            return [Row(item.text, f"{number}-{head.epoch}")]
        body, size = reference
        start = number - size + 1
        low, high = max(0, low - start), size
        rows: list[Row] = []
        while low < high and (limit is None or len(rows) < limit):
            count = high - low if limit is None else min(high - low, limit - len(rows))
            block = high - count if reverse else low
            items = await self._query(client, key, _body_key(body, block), _body_key(body, block + count - 1) + "~")
            found = [Row(text, f"{start + index}-{head.epoch}") for index, text in _records(items)]
            rows += reversed(found) if reverse else found
            low, high = (low, block) if reverse else (block + count, high)
        return rows

    async def _items_of(self, client: ClientT, key: str, head: _Head, number: int) -> list[Item]:
        """Return the items of one record. Readers see none of them once the first is gone."""
        for item in await self._query(client, key, head.row(number), head.row(head.number - 1) + "b", limit=1):
            if (reference := _referenced(item)) is None:
                return [item] if _item_number(item) == number else []
            body, size = reference
            index = number - (_item_number(item) - size + 1)
            parts = await self._query(client, key, _body_key(body, index), _body_key(body, index) + "~")
            return parts if any(_records(parts)) else []
        return []

    async def count(self, client: ClientT, key: str) -> int:
        return (await self._head(client, key))[0].count

    async def sessions(
        self, client: ClientT, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        """Every page reads all heads: where keys are escaped, their order is not that of the ids."""
        heads: list[tuple[str, _Head]] = []
        for key, item in await self._heads(client, prefix):
            try:
                heads.append((key, _parse_head(item, self.session_id(key))))
            except CorruptRecordError as error:
                logger.warning("%s The list of sessions leaves it out.", error)
        by_id = {self.session_id(key): (key, head) for key, head in heads if head.count and not head.has_expired}
        begin = "" if after is None else self.session_id(after)
        found = [by_id[session_id] for session_id in sorted(by_id) if session_id > begin][:limit]
        return [SessionRow(key, head.count, json.dumps({"meta": {"at": head.at}})) for key, head in found]

    # State.

    async def get_state(self, client: ClientT, key: str) -> str | None:
        while True:
            head, _ = await self._head(client, key)
            state = None if head.is_new else await self._get(client, key, head.state)
            if state is not None:
                return state.text
            if head.is_new or (await self._head(client, key))[0].epoch == head.epoch:
                return None

    async def put_state(
        self, client: ClientT, key: str, text: str | None, *, expected: ExpectedState = ANY_STATE
    ) -> bool:
        if text is not None and self._size(text) > self.max_text:
            raise RecordTooLargeError(
                f"The state of session {self.session_id(key)!r} is larger than the {self.max_text:,} bytes that "
                f"{self.name} can hold. Nothing was written."
            )
        for seconds in tries(self, key):
            head, stored = await self._head(client, key)
            state = None if head.is_new else await self._get(client, key, head.state)
            if expected is not ANY_STATE and expected != (state and state.text):
                return False
            if text is None and state is None:
                return True
            if head.is_new and stored is not None:
                await self._remove_expired(client, key, stored)
                continue
            # Without records the session exists for its state alone, so its head goes with the state.
            is_last = text is None and head.count == 0
            new = Write(HEAD, None, stored) if is_last else head.next().write(stored)
            if await self._commit(client, key, [new, *_expiring(head.kept, [Write(head.state, text)])]):
                return True
            await pause(seconds, is_async=self.is_async(client))
        return False


def _parse_head(item: Item, session_id: str) -> _Head:
    """Read a head.

    Raises:
        CorruptRecordError: It is none.
    """
    try:
        head = _Head(**from_json(item.text))
        numbers = (head.number, head.count, head.change)
        times = (head.expires, head.kept)
        if (
            re.fullmatch("[0-9a-f]{16}", head.epoch)
            and all(type(number) is int and number >= 0 for number in numbers)
            and all(time is None or type(time) in (int, float) for time in times)
            and (head.at is None or type(head.at) is str)
        ):
            return head
    except Exception as error:  # noqa: BLE001  # what is stored may be anything
        reason = type(error).__name__
    else:
        reason = "a value is none of ours"
    raise CorruptRecordError(
        f"The item {HEAD!r} of session {session_id!r}, which tells which of its records are valid, cannot be read "
        f"({reason}). Restore it, or clear the session.",
        session_id,
    )


def _new_epoch(old: str = "") -> str:
    return uuid.uuid4().hex[:8] + (old[:8] or "0" * 8)


def _epochs(sort: str) -> tuple[str, ...]:
    """The two epochs that a sort key names; none if it is the head's or another program's."""
    ours = re.match(r"[brs]([0-9a-f]{8})([0-9a-f]{8})(?:\.|$)", sort)
    return ours.groups() if ours else ()


def _expiring(kept: float | None, writes: Sequence[Write]) -> list[Write]:
    """The writes, of items that the service may remove at the time `kept`."""
    expires = None if kept is None else math.ceil(kept)
    return [write._replace(expires=expires) for write in writes]


def _reference(head: _Head, number: int, count: int, body: str) -> Write:
    """The item that numbers the `count` records of a body from `number` on."""
    return Write(head.row(number + count - 1) + "b", f"{body} {count}")


def _referenced(item: Item) -> tuple[str, int] | None:
    """The body that an item names and how many records it has; `None` if the item is a record, or names none."""
    found = re.fullmatch(r"(b[0-9a-f]{16}\.[0-9a-f]{8}) (\d{1,16})", item.text) if item.sort.endswith("b") else None
    return (found[1], int(found[2])) if found and 0 < int(found[2]) <= _item_number(item) + 1 else None


def _body_key(body: str, index: int) -> str:
    return f"{body}.{index:08}."


def _records(items: Sequence[Item]) -> Iterator[tuple[int, str]]:
    """Index and text of each record of a body. A record without all of its parts was deleted, or is being deleted."""
    for record, group in itertools.groupby(items, lambda item: item.sort.rpartition(".")[0]):
        parts = list(group)
        if parts[-1].sort == f"{record}.{len(parts) - 1:05}z":
            yield int(record.rpartition(".")[2]), "".join(part.text for part in parts)


def _item_number(item: Item) -> int:
    return int(item.sort.partition(".")[2].removesuffix("b"))


def _number_and_epoch(position: str) -> tuple[int, str]:
    return position_number(position), position.partition("-")[2]


def _time(rows: Sequence[str | bytes]) -> str | None:
    at = record_time(rows[-1]) if rows else None
    return None if at is None else at.isoformat()
