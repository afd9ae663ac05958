"""Sessions in services that keep small items in partitions by sort key, with transactions inside a partition.

DynamoDB, Azure's tables and Cosmos DB are such services. The partition of a session holds

| sort key | item |
|---|---|
| `head` | the next number, how many records there are, when they expire, and the epoch |
| `r<epoch>.<number>` | one record |
| `r<epoch>.<number>b` | several records, or one that is too large for an item: the name of a body and their number |
| `b<epoch>.<body>.<index>.<part>` | a record of a body, or a part of it; the last part has a `z` behind its number |
| `s<epoch>` | the state |

Every write is one transaction that also swaps the head for its successor. A transaction that finds another head than it
read is tried again: so numbers are dense, batches contiguous and whole, and what is numbered later is seen later. What
does not fit in one transaction is written first as a body, where no reader looks, and then named by one small item.

Records of another epoch than the head's are invisible. So a session is cleared by removing its head, and replaced by
swapping it, whatever its size. An epoch is an id of its own and that of the epoch which it replaces; items that
belong to neither side of the present head are litter of a clear, a replacement or an expiry, and are swept. Items with
other sort keys are somebody else's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import math
import random
import re
import time
import uuid
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from langchain_histories._neutral import settle
from langchain_histories.codec import Row, record_time
from langchain_histories.errors import RecordTooLargeError, StoreError
from langchain_histories.store import ANY_STATE, AnyState, MessageStore, SessionRow, position_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ClientT = TypeVar("ClientT")

HEAD = "head"
_EVERYTHING = ("!", "~")
_MAX_TRIES = 200
# Seconds. Shorter ones make more tries than the services answer meanwhile.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.03, 1.0


class Item(NamedTuple):
    """An item of a partition.

    Attributes:
        sort: Its sort key, in ASCII.
        text: What it holds.
        tag: What the service compares to tell whether it has changed: its ETag, or nothing where the text serves.
    """

    sort: str
    text: str
    tag: Any = None


class Write(NamedTuple):
    """One item of a transaction.

    Attributes:
        sort: The sort key.
        text: What to store, or `None` to remove the item if it is there.
        instead_of: The item must be as it was read; `None`: there must be none. By default it does not matter.
        expires: When the service may remove it, in seconds since 1970; `None` for never.
    """

    sort: str
    text: str | None
    instead_of: Item | AnyState | None = ANY_STATE
    expires: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Head:
    """What a session's other items mean.

    Attributes:
        epoch: Its own id and its predecessor's, 8 hexadecimal digits each.
        number: The number of the next record.
        count: How many records there are.
        at: When the last one was added.
        expires: When the session expires, in seconds since 1970.
        kept: Until when the service keeps all of its items.
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
    def has_expired(self) -> bool:
        return self.expires is not None and self.expires <= time.time()

    def next(self, **changes: Any) -> _Head:
        return dataclasses.replace(self, **changes, change=self.change + 1)

    def write(self, instead_of: Item | None) -> Write:
        expires = None if self.expires is None else math.ceil(self.expires)
        return Write(HEAD, json.dumps(dataclasses.asdict(self), separators=(",", ":")), instead_of, expires)

    def row(self, number: int) -> str:
        return f"r{self.epoch}.{number:016}"

    @property
    def state(self) -> str:
        return f"s{self.epoch}"


class PartitionStore(MessageStore[ClientT]):
    """A store whose service keeps each session in a partition. A subclass knows its sizes and requests."""

    max_writes: ClassVar[int]
    """Items in one transaction."""
    max_text: ClassVar[int]
    """Size of the text of one item, in what `_size` counts."""
    max_transaction: ClassVar[int]
    """Size of a transaction, where each item counts with its text and `overhead`."""
    overhead: ClassVar[int] = 2048
    """Size of an item without its text, at most."""

    @abstractmethod
    async def _get(self, client: ClientT, key: str, sort: str) -> Item | None:
        """Return one item as it is now, whoever wrote it."""

    @abstractmethod
    async def _query(
        self, client: ClientT, key: str, start: str, stop: str, *, limit: int | None = None, reverse: bool = False
    ) -> list[Item]:
        """Return the items from `start` to `stop`, both included; with `reverse` from the end; the first `limit`."""

    @abstractmethod
    async def _commit(self, client: ClientT, key: str, writes: Sequence[Write]) -> bool:
        """Write all items in one transaction.

        Returns:
            `False` where nothing was written, because an item was not as it should be or others were writing.
        """

    @abstractmethod
    async def _heads(self, client: ClientT, prefix: str) -> list[tuple[str, Item]]:
        """Return key and head of every session whose key starts with `prefix`."""

    @abstractmethod
    async def _keys(self, client: ClientT, prefix: str) -> set[str]:
        """Return the keys that start with `prefix` and of which anything is left, with or without a head."""

    @abstractmethod
    def _is_async(self, client: ClientT) -> bool:
        """Whether this is the async client."""

    async def _sleep(self, client: ClientT, seconds: float) -> None:
        pause: Callable[[float], Any] = asyncio.sleep if self._is_async(client) else time.sleep
        await settle(pause(seconds))

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

    async def _append(self, client: ClientT, key: str, rows: Sequence[str]) -> None:
        body, staged = "", None
        for pause in self._tries(key):
            head, stored = await self._head(client, key)
            if head.change == 0 and stored is not None:
                await self._remove(client, key, stored)
                continue
            kept = head.kept if head.change == 0 else await self._kept(client, key, head)
            writes = [Write(head.row(number), text) for number, text in enumerate(rows, head.number)]
            if not self._fit(writes):
                if head.change == 0:
                    await self._commit(client, key, [head.next().write(None)])
                    continue
                if staged != (head.epoch, kept):
                    body, staged = await self._put_body(client, key, head.epoch, kept, rows), (head.epoch, kept)
                writes = [_reference(head, head.number, len(rows), body)]
            count = len(rows)
            moved = head.next(number=head.number + count, count=head.count + count, at=_time(rows), kept=kept)
            if await self._commit(client, key, [self._slid(moved).write(stored), *_until(kept, writes)]):
                return
            await self._sleep(client, pause)

    async def _replace(self, client: ClientT, key: str, rows: Sequence[str]) -> None:
        for pause in self._tries(key):
            head, stored = await self._head(client, key)
            if head.change == 0:
                await self._begin(client, key, head, stored)
                continue
            count, kept = len(rows), self._keep_until(head)
            new = head.next(epoch=_new_epoch(head.epoch), number=count, count=count, at=_time(rows), kept=kept)
            state = await self._get(client, key, head.state)
            others = [] if state is None else [Write(new.state, state.text)]
            writes = [Write(new.row(number), text) for number, text in enumerate(rows)]
            if not self._fit([*writes, *others]):
                writes = [_reference(new, 0, count, await self._put_body(client, key, new.epoch, kept, rows))]
            if await self._commit(client, key, [self._slid(new).write(stored), *_until(kept, [*writes, *others])]):
                await self._sweep(client, key)
                return
            await self._sleep(client, pause)

    async def _delete(self, client: ClientT, key: str, rows: Sequence[Row]) -> int:
        return sum([await self._delete_one(client, key, row) for row in rows])

    async def _delete_one(self, client: ClientT, key: str, row: Row) -> bool:
        for pause in self._tries(key):
            head, stored = await self._head(client, key)
            number, epoch = _place(row.position)
            items = await self._pieces(client, key, head, number) if epoch == head.epoch else []
            if not items:
                return False
            tail = await self._read(client, key, last=2)
            left = [text for text, position in tail if position != row.position]
            moved = head.next(count=head.count - 1, at=_time(left[-1:]))
            writes = [moved.write(stored), Write(items[0].sort, None)]
            if await self._commit(client, key, writes):
                await self._write_all(client, key, [Write(item.sort, None) for item in items[1:]])
                return True
            await self._sleep(client, pause)
        return False

    async def _clear(self, client: ClientT, key: str) -> None:
        await self._write_all(client, key, [Write(HEAD, None)])
        await self._sweep(client, key)

    async def _begin(self, client: ClientT, key: str, head: _Head, expired: Item | None) -> None:
        """Store the head of an empty session."""
        if expired is not None:
            await self._remove(client, key, expired)
        await self._commit(client, key, [head.next().write(None)])

    async def _remove(self, client: ClientT, key: str, expired: Item) -> None:
        """Remove a session that has expired, unless somebody else has begun it anew."""
        if await self._commit(client, key, [Write(HEAD, None, expired)]):
            await self._sweep(client, key)

    async def _sweep(self, client: ClientT, key: str) -> None:
        """Remove what belongs to no present or future reader.

        What is staged needs the present head to be committed. So the head is read after the items: what is staged on
        top of a later one cannot be among them.
        """
        items = await self._query(client, key, *_EVERYTHING)
        stored = await self._get(client, key, HEAD)
        present = None if stored is None else _parsed(stored).epoch[:8]
        litter = [item for item in items if (sides := _sides(item.sort)) and present not in sides]
        await self._write_all(client, key, [Write(item.sort, None) for item in litter])

    async def _put_body(self, client: ClientT, key: str, epoch: str, kept: float | None, rows: Sequence[str]) -> str:
        """Store rows where no reader looks yet, and return the place."""
        body = f"b{epoch}.{uuid.uuid4().hex[:8]}"
        writes = []
        for index, row in enumerate(rows):
            *parts, last = self._cut(row)
            writes += [Write(f"{_body_key(body, index)}{part:05}", text) for part, text in enumerate(parts)]
            writes.append(Write(f"{_body_key(body, index)}{len(parts):05}z", last))
        await self._write_all(client, key, _until(kept, writes))
        return body

    async def _write_all(self, client: ClientT, key: str, writes: Sequence[Write]) -> None:
        """Write items whatever is there, in as many transactions as it takes."""
        for some in self._transactions(writes):
            for pause in self._tries(key):
                if await self._commit(client, key, some):
                    break
                await self._sleep(client, pause)

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

    def _tries(self, key: str) -> Iterator[float]:
        """Yield pauses, each before another try, until there have been too many."""
        for number in range(_MAX_TRIES):
            yield random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(number, 10)))  # noqa: S311
        raise StoreError(
            f"{self.name}: gave up after {_MAX_TRIES} tries on session {self._session_id(key)!r}: others kept "
            "changing it meanwhile, or it was too busy. The last change was not made.",
            self.name,
            session_id=self._session_id(key),
        )

    # Time to live. A session has expired when its head says so. The service removes each item in its own time: that
    # of a record is twice as far off, and is put off when it comes nearer than that of the session.

    def _slid(self, head: _Head) -> _Head:
        return head if self.ttl is None else dataclasses.replace(head, expires=time.time() + self.ttl)

    def _keep_until(self, head: _Head) -> float | None:
        return head.kept if self.ttl is None else time.time() + 2 * self.ttl

    async def _kept(self, client: ClientT, key: str, head: _Head) -> float | None:
        """Let the service keep all items long enough, and return how long."""
        if self.ttl is None or (head.kept is not None and head.kept >= time.time() + self.ttl):
            return head.kept
        kept = self._keep_until(head)
        items = await self._query(client, key, *_EVERYTHING)
        for item in items:
            if head.epoch[:8] not in _sides(item.sort):
                continue
            for pause in self._tries(key):
                put_off = await self._commit(client, key, _until(kept, [Write(item.sort, item.text, item)]))
                # Removed or changed by others meanwhile: then it needs no more time, or the head is another too.
                if put_off or await self._get(client, key, item.sort) != item:
                    break
                await self._sleep(client, pause)
        return kept

    # Reading.

    async def _head(self, client: ClientT, key: str) -> tuple[_Head, Item | None]:
        """Return the head, a new one where there is none or it has expired, and what is stored in its place."""
        stored = await self._get(client, key, HEAD)
        head = None if stored is None else _parsed(stored)
        if head is None or head.has_expired:
            head = _Head(_new_epoch())
            head = self._slid(dataclasses.replace(head, kept=self._keep_until(head)))
        return head, stored

    async def _read(
        self,
        client: ClientT,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> list[Row]:
        place = None if after is None else _place(after)
        limit, reverse = (first, False) if last is None else (last, True)
        while True:
            head, _ = await self._head(client, key)
            low = place[0] + 1 if place is not None and place[1] == head.epoch else 0
            rows = await self._numbered(client, key, head, low, limit, reverse=reverse)
            expected = max(0, head.number - low)
            if len(rows) >= (expected if limit is None else min(limit, expected)):
                break
            # Some were deleted; unless all are being swept, because others have cleared or replaced them meanwhile.
            if (await self._head(client, key))[0].epoch == head.epoch:
                break
        return rows[::-1] if reverse else rows

    async def _numbered(
        self, client: ClientT, key: str, head: _Head, low: int, limit: int | None, *, reverse: bool
    ) -> list[Row]:
        """Return the records from the number `low` on, or with `reverse` the last first."""
        rows: list[Row] = []
        high = head.number
        while low < high and (limit is None or len(rows) < limit):
            missing = None if limit is None else limit - len(rows)
            span = (head.row(low), head.row(high - 1) + "b")
            items = await self._query(client, key, *span, limit=missing, reverse=reverse)
            for item in items:
                wanted = None if limit is None else limit - len(rows)
                rows += await self._rows(client, key, head, item, low, wanted, reverse=reverse)
            if missing is None or len(items) < missing:
                break
            if reverse:
                high = _item_number(items[-1])
            else:
                low = _item_number(items[-1]) + 1
        return rows

    async def _rows(  # noqa: PLR0917
        self, client: ClientT, key: str, head: _Head, item: Item, low: int, limit: int | None, *, reverse: bool
    ) -> list[Row]:
        """Return the records that an item numbers, from the number `low` on."""
        number = _item_number(item)
        if not item.sort.endswith("b"):
            return [Row(item.text, f"{number}-{head.epoch}")]
        body, _, size = item.text.partition(" ")
        start = number - int(size) + 1
        low, high = max(0, low - start), int(size)
        rows: list[Row] = []
        while low < high and (limit is None or len(rows) < limit):
            count = high - low if limit is None else min(high - low, limit - len(rows))
            block = high - count if reverse else low
            items = await self._query(client, key, _body_key(body, block), _body_key(body, block + count - 1) + "~")
            found = [Row(text, f"{start + index}-{head.epoch}") for index, text in _joined(items)]
            rows += reversed(found) if reverse else found
            low, high = (low, block) if reverse else (block + count, high)
        return rows

    async def _pieces(self, client: ClientT, key: str, head: _Head, number: int) -> list[Item]:
        """Return the items of one record; without the first of them nobody sees the others."""
        for item in await self._query(client, key, head.row(number), head.row(head.number - 1) + "b", limit=1):
            if not item.sort.endswith("b"):
                return [item] if _item_number(item) == number else []
            body, _, size = item.text.partition(" ")
            index = number - (_item_number(item) - int(size) + 1)
            pieces = await self._query(client, key, _body_key(body, index), _body_key(body, index) + "~")
            return pieces if any(_joined(pieces)) else []
        return []

    async def _count(self, client: ClientT, key: str) -> int:
        return (await self._head(client, key))[0].count

    async def _sessions(
        self, client: ClientT, *, prefix: str, limit: int | None, after: str | None
    ) -> list[SessionRow]:
        heads = [(key, _parsed(item)) for key, item in await self._heads(client, prefix)]
        live = [(key, head) for key, head in heads if head.count and not head.has_expired]
        page = sorted((pair for pair in live if after is None or pair[0].encode() > after.encode()), key=_bytewise)
        return [SessionRow(key, head.count, json.dumps({"meta": {"at": head.at}})) for key, head in page[:limit]]

    async def _erase(self, client: ClientT, prefix: str) -> int:
        keys = await self._keys(client, prefix)
        for key in keys:
            await self._clear(client, key)
        return len(keys)

    # State.

    async def _get_state(self, client: ClientT, key: str) -> str | None:
        while True:
            head, _ = await self._head(client, key)
            state = None if head.change == 0 else await self._get(client, key, head.state)
            if state is not None:
                return state.text
            if head.change == 0 or (await self._head(client, key))[0].epoch == head.epoch:
                return None

    async def _put_state(
        self, client: ClientT, key: str, text: str | None, *, instead_of: str | bytes | AnyState | None = ANY_STATE
    ) -> bool:
        if text is not None and self._size(text) > self.max_text:
            raise RecordTooLargeError(
                f"The state of session {self._session_id(key)!r} is larger than the {self.max_text:,} bytes that "
                f"{self.name} can hold. Nothing was written."
            )
        for pause in self._tries(key):
            head, stored = await self._head(client, key)
            state = None if head.change == 0 else await self._get(client, key, head.state)
            if instead_of is not ANY_STATE and instead_of != (state and state.text):
                return False
            if text is None and state is None:
                return True
            if head.change == 0 and stored is not None:
                await self._remove(client, key, stored)
                continue
            # A head that was there for the state alone goes with it.
            goes = text is None and head.count == 0
            moved = Write(HEAD, None, stored) if goes else head.next().write(stored)
            if await self._commit(client, key, [moved, *_until(head.kept, [Write(head.state, text)])]):
                return True
            await self._sleep(client, pause)
        return False


def _parsed(item: Item) -> _Head:
    return _Head(**json.loads(item.text))


def _new_epoch(old: str = "") -> str:
    return uuid.uuid4().hex[:8] + (old[:8] or "0" * 8)


def _sides(sort: str) -> tuple[str, ...]:
    """The two epochs to which an item may belong; none if it is the head or not ours."""
    ours = re.match(r"[brs]([0-9a-f]{8})([0-9a-f]{8})(?:\.|$)", sort)
    return ours.groups() if ours else ()


def _until(kept: float | None, writes: Sequence[Write]) -> list[Write]:
    expires = None if kept is None else math.ceil(kept)
    return [write._replace(expires=expires) for write in writes]


def _reference(head: _Head, number: int, count: int, body: str) -> Write:
    """The item that numbers the `count` records of a body from `number` on."""
    return Write(head.row(number + count - 1) + "b", f"{body} {count}")


def _body_key(body: str, index: int) -> str:
    return f"{body}.{index:08}."


def _joined(items: Sequence[Item]) -> Iterator[tuple[int, str]]:
    """Index and text of each record of a body; one without all of its parts was deleted, or is at this moment."""
    for place, parts in itertools.groupby(items, lambda item: item.sort.rpartition(".")[0]):
        pieces = list(parts)
        if pieces[-1].sort == f"{place}.{len(pieces) - 1:05}z":
            yield int(place.rpartition(".")[2]), "".join(piece.text for piece in pieces)


def _item_number(item: Item) -> int:
    return int(item.sort.partition(".")[2].removesuffix("b"))


def _place(position: str) -> tuple[int, str]:
    return position_number(position), position.partition("-")[2]


def _time(rows: Sequence[str | bytes]) -> str | None:
    at = record_time(rows[-1]) if rows else None
    return None if at is None else at.isoformat()


def _bytewise(pair: tuple[str, Any]) -> bytes:
    return pair[0].encode()
