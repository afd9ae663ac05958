"""What changes a transcript: `Edits`, a part of `MessageStore`, and how an edit is planned.

An edit reads the end of a transcript (a `Part`), decides what that is to become (an `Edit`), and has the store put it
there if it is still as it was read; else it begins again. Only what lies behind the first change is handed over, so an
edit of the last message costs as much in a long session as in a short one.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from langchain_core.messages import BaseMessage

from langchain_histories._calls import Call, Calls, none
from langchain_histories._derived import without_claims
from langchain_histories._options import Capability
from langchain_histories.codec import Record, RecordFormat, Row, check_is_list
from langchain_histories.errors import (
    ConfigurationError,
    CorruptRecordError,
    InvalidMessageError,
    RecordNotFoundError,
    TranscriptChangedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from langchain_histories._operations import Operations
    from langchain_histories._session_ids import SessionId

RecordsChange: TypeAlias = "Callable[[list[Record]], Iterable[Record | BaseMessage]]"

_FIRST_LOOK = 16  # records at the end among which a record is looked for first

_DELETE_TRIES = 3  # an edit may put a record at another position before it is deleted


class Part(NamedTuple):
    """The end of a transcript, as it was read.

    Attributes:
        rows: Its rows.
        after: The position of the row before them; `None` where they are all.
    """

    rows: Sequence[Row]
    after: str | None


class Edit(NamedTuple):
    """What a part is to become.

    Attributes:
        ids: The ids of the records that there will be, in order.
        rows: The texts that are to be written.
        kept: How many of the rows of the part stay in front of them; the others go.
        removed: The records that go, where the caller wants to know.
    """

    ids: list[str]
    rows: list[str]
    kept: int
    removed: Sequence[Record] = ()


Begin: TypeAlias = "Callable[[Sequence[Row], bool], int | None]"
"""Tells the index of the first row concerned among the last rows, or that it is further ahead (`None`).

It is also told whether these are all rows; then it answers with an index, or raises.
"""


class Edits(Calls):
    """The methods of a store that change a transcript. Its other attributes are those of `MessageStore`."""

    format: RecordFormat

    if TYPE_CHECKING:

        @property
        def operations(self) -> Operations[Any]: ...
        def _key(self, session_id: SessionId) -> str: ...

    def replace(self, session_id: SessionId, messages: Sequence[BaseMessage]) -> list[str]:
        """Put these messages in place of all messages of a session: all or nothing. The summary of those goes.

        Returns:
            The new record ids, in order.
        """
        return self._run(self._replace(session_id, messages))

    async def areplace(self, session_id: SessionId, messages: Sequence[BaseMessage]) -> list[str]:
        """Async `replace`."""
        return await self._arun(self._replace(session_id, messages))

    def delete(self, session_id: SessionId, ids: Iterable[str]) -> int:
        """Remove single records by `Record.id`; unknown ids are ignored. Costs a read of the session.

        A summary that covers one of them goes with it.

        Returns:
            How many were removed.
        """
        return self._run(self._delete(session_id, ids))

    async def adelete(self, session_id: SessionId, ids: Iterable[str]) -> int:
        """Async `delete`."""
        return await self._arun(self._delete(session_id, ids))

    def take(self, session_id: SessionId, index: int = -1) -> Record | None:
        """Remove one record and return it; two callers never get the same one.

        Costs what is between the record and the end from which the index counts, where the store has
        `Capability.TAIL_READ`.

        Args:
            session_id: The session.
            index: Of the record, as in a list.

        Returns:
            The record; `None` where there is none at the index.

        Raises:
            CorruptRecordError: The record cannot be read. It stays.
        """
        return self._run(self._take(session_id, index))

    async def atake(self, session_id: SessionId, index: int = -1) -> Record | None:
        """Async `take`."""
        return await self._arun(self._take(session_id, index))

    def edit(
        self, session_id: SessionId, change: RecordsChange, *, after: str | None = None, exact: bool = False
    ) -> list[str]:
        """Change the transcript of a session, and lose nothing that others append or change meanwhile.

        Records that stay keep id, time and meta. Those behind the first one that changes are written again: whether
        they keep their positions is up to the store (`docs/scale.md`), and a reader that goes on from an old position
        sees them again, with their ids. A summary that covers something of what changes goes.

        Args:
            session_id: The session.
            change: Called with the records, oldest first; returns those that stay, in any order, changed in place or
                by `record._replace(message=..., meta=...)` or not at all, and messages to add. When others have changed
                what it was given before that is done, it is called again, so it should have no effects of its own. If
                it raises, nothing is written.
            after: Only the records behind this `Record.position` are read, given to `change` and compared, so that an
                edit costs what they are.
            exact: Raise in place of calling `change` again, also where it does no more than to add messages.

        Returns:
            The ids of the records that there are now behind `after`, in order.

        Raises:
            ConfigurationError: `change` returned a record twice, or one that it was not given.
            CorruptRecordError: A record cannot be read, also where such records are skipped.
            TranscriptChangedError: With `exact`: others have changed the session meanwhile. Nothing was written.
            UnsupportedOperationError: The store lacks `Capability.EDIT`. `change` was not called.
        """
        return self._do(session_id, self._plan(session_id, change), after=after, exact=exact).ids

    async def aedit(
        self, session_id: SessionId, change: RecordsChange, *, after: str | None = None, exact: bool = False
    ) -> list[str]:
        """Async `edit`. `change` is a plain function, called on the event loop."""
        return (await self._ado(session_id, self._plan(session_id, change), after=after, exact=exact)).ids

    def edit_message(self, session_id: SessionId, record_id: str, message: BaseMessage) -> None:
        """Put another message in place of that of a record, which keeps its id, its time and its meta.

        Args:
            session_id: The session.
            record_id: The id of the record.
            message: The message. Where `before_save` drops it, the record goes.

        Raises:
            RecordNotFoundError: There is no such record.
        """
        self._do(session_id, self._plan(session_id, _first_becomes(message)), self._at(session_id, record_id))

    async def aedit_message(self, session_id: SessionId, record_id: str, message: BaseMessage) -> None:
        """Async `edit_message`."""
        await self._ado(session_id, self._plan(session_id, _first_becomes(message)), self._at(session_id, record_id))

    def insert(self, session_id: SessionId, index: int, messages: Sequence[BaseMessage]) -> list[str]:
        """Put messages before the record at an index, as in a list: one that is out of range is the nearer end.

        An index that counts from the end costs what lies behind it, and any other one the whole session.

        Returns:
            The new record ids, in order.
        """
        plan, begin = self._insertion(session_id, index, messages)
        return self._do(session_id, plan, begin).ids

    async def ainsert(self, session_id: SessionId, index: int, messages: Sequence[BaseMessage]) -> list[str]:
        """Async `insert`."""
        plan, begin = self._insertion(session_id, index, messages)
        return (await self._ado(session_id, plan, begin)).ids

    def pop_turn(self, session_id: SessionId) -> list[Record]:
        """Remove the last human message and all that follows it, and return these records, oldest first.

        Without a human message nothing is removed.
        """
        return list(self._do(session_id, self._all_go(session_id), self._at_turn(session_id)).removed)

    async def apop_turn(self, session_id: SessionId) -> list[Record]:
        """Async `pop_turn`."""
        return list((await self._ado(session_id, self._all_go(session_id), self._at_turn(session_id))).removed)

    def truncate(self, session_id: SessionId, *, after: str) -> None:
        """Remove all records behind one, whether they can be read or not.

        Args:
            session_id: The session.
            after: The id or the position of the last record that stays.

        Raises:
            RecordNotFoundError: There is no such record.
        """
        self._do(session_id, _none_stay, self._at(session_id, after, offset=1))

    async def atruncate(self, session_id: SessionId, *, after: str) -> None:
        """Async `truncate`."""
        await self._ado(session_id, _none_stay, self._at(session_id, after, offset=1))

    # How an edit is done, on both faces.

    def _do(
        self,
        session_id: SessionId,
        plan: Callable[[Part], Edit],
        begin: Begin | None = None,
        *,
        after: str | None = None,
        exact: bool = False,
    ) -> Edit:
        self._check_edits()
        while True:
            part = self._run(self._part(session_id, begin, after))
            edit = plan(part)
            doing = self._edit(session_id, part, edit, exact=exact)
            if doing is None or self._run(doing):
                return edit

    async def _ado(
        self,
        session_id: SessionId,
        plan: Callable[[Part], Edit],
        begin: Begin | None = None,
        *,
        after: str | None = None,
        exact: bool = False,
    ) -> Edit:
        self._check_edits()
        while True:
            part = await self._arun(self._part(session_id, begin, after))
            edit = plan(part)
            doing = self._edit(session_id, part, edit, exact=exact)
            if doing is None or await self._arun(doing):
                return edit

    def _check_edits(self) -> None:
        if Capability.EDIT not in self.capabilities:
            raise self.operations.unsupported("edit")

    def _part(self, session_id: SessionId, begin: Begin | None, after: str | None) -> Call[Part]:
        key = self._key(session_id)

        async def body(client: Any) -> Part:
            read = self.operations.read
            if begin is None:
                return Part(await read(client, key, after=after), after)
            wanted = _FIRST_LOOK if Capability.TAIL_READ in self.operations.capabilities else None
            while True:
                rows = await read(client, key, last=wanted)
                is_all = wanted is None or len(rows) < wanted
                at = begin(rows, is_all)
                if at or (at == 0 and is_all):
                    return Part(rows[at:], rows[at - 1].position if at else None)
                wanted = None if wanted is None else wanted * 4

        def nothing() -> Part:
            if begin is not None:
                begin((), True)
            return Part((), after)

        return Call("edit", session_id, body, nothing=nothing, is_read=True, capability=Capability.EDIT, grows=True)

    def _edit(self, session_id: SessionId, part: Part, edit: Edit, *, exact: bool) -> Call[bool] | None:
        """Return how an edit is done: not, where nothing changes."""
        key = self._key(session_id)
        gone = [self.format.record_id(row) for row in part.rows[edit.kept :]]
        if not gone and not edit.rows and not exact:
            return None

        async def body(client: Any) -> bool:
            operations = self.operations
            if not gone and not exact:
                await operations.append(client, key, edit.rows)
                return True
            where: dict[str, Any] = {"expected": part.rows, "kept": edit.kept, "after": part.after}
            if gone:
                await self._forget(client, key, session_id, _not_in(gone))
            is_done = await operations.edit(client, key, edit.rows, **where)
            if exact and not is_done:
                raise self._changed("edit", session_id)
            if gone and is_done:
                # Another process may have made a summary of them in the meantime.
                await self._forget(client, key, session_id, _not_in(gone))
            return is_done

        return Call("edit", session_id, body, grows=True)

    def _changed(self, operation: str, session_id: SessionId) -> TranscriptChangedError:
        text = f"{self.name}: session {str(session_id)!r} is not as you read it. Nothing was written: read it again."
        return TranscriptChangedError(text, self.name, operation, str(session_id))

    async def _append_behind(self, client: Any, key: str, session_id: SessionId, rows: list[str], after: str) -> None:
        """Append rows if the session ends with the record of this id.

        Raises:
            TranscriptChangedError: It ends with another one.
        """
        found = await self.operations.read(client, key, last=2)
        where: dict[str, Any] = {"expected": found[-1:], "kept": 1}
        where["after"] = found[-2].position if len(found) > 1 else None
        is_last = bool(found) and self.format.record_id(found[-1]) == after
        if not is_last or not await self.operations.edit(client, key, rows, **where):
            raise self._changed("append", session_id)

    # Where an edit begins.

    def _at(self, session_id: SessionId, name: str, *, offset: int = 0) -> Begin:
        """Begin at the record of this id or position, or so many records behind it."""

        def begin(rows: Sequence[Row], is_all: bool) -> int | None:
            at = self._index(rows, name)
            if at is None and is_all:
                raise not_found(session_id, name)
            return None if at is None else at + offset

        return begin

    def _index(self, rows: Sequence[Row], name: str) -> int | None:
        """Return the index of the row with this record id or position; of two copies of a record, the later one."""
        named = (
            at for at in reversed(range(len(rows))) if name in (rows[at].position, self.format.record_id(rows[at]))
        )
        return next(named, None)

    def _at_turn(self, session_id: SessionId) -> Begin:
        def begin(rows: Sequence[Row], is_all: bool) -> int | None:
            for at in reversed(range(len(rows))):
                if any(message.type == "human" for message in self._strict.decode_messages([rows[at]], session_id)):
                    return at
            return len(rows) if is_all else None

        return begin

    # What an edit makes of a part.

    @property
    def _strict(self) -> RecordFormat:
        """The format, where a record that cannot be read is an error."""
        return dataclasses.replace(self.format, on_corrupt="raise")

    def _plan(self, session_id: SessionId, change: RecordsChange) -> Callable[[Part], Edit]:
        return lambda part: edited(self._strict, part.rows, session_id, change)

    def _all_go(self, session_id: SessionId) -> Callable[[Part], Edit]:
        return lambda part: Edit([], [], 0, self._strict.decode(part.rows, session_id))

    def _insertion(
        self, session_id: SessionId, index: int, messages: Sequence[BaseMessage]
    ) -> tuple[Callable[[Part], Edit], Begin | None]:
        _check_index(index)
        check_is_list(messages)
        new = list(messages)

        def begin(rows: Sequence[Row], is_all: bool) -> int | None:
            at = len(rows) + index
            return at if at >= 0 else 0 if is_all else None

        def plan(part: Part) -> Edit:
            at = max(index, 0)
            edit = self._plan(session_id, lambda records: [*records[:at], *new, *records[at:]])(part)
            old = {self.format.record_id(row) for row in part.rows}
            return edit._replace(ids=[record_id for record_id in edit.ids if record_id not in old])

        return plan, begin if index < 0 else None

    # The others: each checks its arguments, and returns what both faces run.

    def _replace(self, session_id: SessionId, messages: Sequence[BaseMessage]) -> Call[list[str]]:
        key, (ids, rows) = self._key(session_id), self.format.encode(messages)

        async def body(client: Any) -> list[str]:
            await self._forget(client, key, session_id, _none_is_kept, _none_is_kept)
            await self.operations.replace(client, key, rows)
            await self._forget(client, key, session_id, _none_is_kept, _none_is_kept)
            return ids

        return Call("replace", session_id, body, grows=True)

    def _delete(self, session_id: SessionId, ids: Iterable[str]) -> Call[int]:
        key = self._key(session_id)
        if isinstance(ids, str):
            raise ConfigurationError("delete takes a list of record ids, not one str.")
        wanted = set(ids)

        async def body(client: Any) -> int:
            operations, count = self.operations, 0
            for _ in range(_DELETE_TRIES if wanted else 0):
                rows = await operations.read(client, key)
                found = self.format.with_ids(rows, wanted)
                if not found:
                    break
                first = next(at for at, row in enumerate(rows) if row is found[0])
                before = [self.format.record_id(row) for row in rows[:first]]
                is_there = _not_in([self.format.record_id(row) for row in found])
                await self._forget(client, key, session_id, before.__contains__, is_there)
                removed = await operations.delete(client, key, found)
                # Another process may have made a summary of them in the meantime.
                await self._forget(client, key, session_id, before.__contains__, is_there)
                count += removed
                if removed == len(found):
                    break
            return count

        return Call("delete", session_id, body, nothing=int, capability=Capability.DELETE, grows=True)

    def _take(self, session_id: SessionId, index: int) -> Call[Record | None]:
        key, limit = self._key(session_id), -index if _check_index(index) < 0 else index + 1
        side = "last" if index < 0 else "first"
        if Capability.DELETE not in self.capabilities:
            raise self.operations.unsupported("take")

        async def body(client: Any) -> Record | None:
            wanted = limit
            while True:
                rows = await self.operations.read(client, key, **{side: wanted})  # type: ignore[arg-type]
                by_id = self.format.by_id(rows)
                if len(by_id) < limit:
                    if len(rows) < wanted:
                        return None
                    wanted *= 2  # a driver's retry stored some twice
                    continue
                ids = list(by_id)
                record_id = ids[-limit if side == "last" else limit - 1]
                (record,) = self._strict.decode([by_id[record_id]], session_id)
                is_kept = _not_in(ids[-limit:]) if side == "last" else ids[: limit - 1].__contains__
                is_there = _not_in([record_id])
                await self._forget(client, key, session_id, is_kept, is_there)
                copies = [row for row in rows if self.format.record_id(row) == record_id]
                if await self.operations.delete(client, key, copies):
                    await self._forget(client, key, session_id, is_kept, is_there)
                    return record

        return Call("take", session_id, body, nothing=none, capability=Capability.DELETE, grows=True)

    async def _forget(
        self,
        client: Any,
        key: str,
        session_id: SessionId,
        is_kept: Callable[[Any], bool],
        is_there: Callable[[Any], bool] | None = None,
    ) -> None:
        """Drop the summaries that have words of messages that go, and the pins of these."""
        if Capability.STATE not in self.operations.capabilities:
            return
        while (text := await self.operations.get_state(client, key)) is not None:
            try:
                state = self.format.decode_state(text, session_id)
            except CorruptRecordError:  # nobody can read what it says
                return
            kept = without_claims(state, is_kept, is_there)
            if (kept or {}) == state:
                return
            new = None if kept is None else self.format.encode_state(kept)
            if await self.operations.put_state(client, key, new, expected=text):
                return


def edited(record_format: RecordFormat, rows: Sequence[Row], session_id: SessionId, change: RecordsChange) -> Edit:
    """Return what has to be done so that `rows` become what `change` makes of their records.

    Raises:
        CorruptRecordError: A record cannot be read.
        ConfigurationError: `change` returned a record twice, or one that it was not given.
        InvalidMessageError: It returned what is neither a record nor a message, or a message that cannot be stored.
    """
    row_of = {row.position: row for row in rows}
    # Decoded again after the change, which may have changed the messages that it was given.
    given = record_format.decode(rows, session_id)
    changed = _checked(change(given), {record.id for record in given})
    before = {record.id: record for record in record_format.decode(rows, session_id)}
    ids: list[str] = []
    texts: list[str] = []
    kept = 0
    for new in changed:
        if not isinstance(new, Record):
            new_ids, new_texts = record_format.encode([new])
            ids, texts = ids + new_ids, texts + new_texts
            continue
        old = before[new.id]
        row = row_of[old.position]
        message = None if _is_same(old.message, new.message) else new.message
        meta = None if _is_same(old.meta, new.meta) else new.meta
        stays = message is None and meta is None and not texts
        if stays and kept == len(ids) < len(rows) and rows[kept].position == row.position:
            kept += 1
        elif (text := record_format.again(row, message, meta)) is None:
            continue
        else:
            texts.append(text)
        ids.append(new.id)
    return Edit(ids, texts, kept)


def _checked(changed: Iterable[Any], known: set[str]) -> list[Record | BaseMessage]:
    """Return what a change returned, if that can be stored."""
    seen: set[str] = set()
    found = list(changed)
    for new in found:
        if isinstance(new, Record):
            if new.id in seen or new.id not in known:
                what = "twice" if new.id in seen else "that it was not given"
                raise ConfigurationError(f"The change returned record {new.id!r} {what}. Return messages to add some.")
            seen.add(new.id)
        elif not issubclass(type(new), BaseMessage):
            raise InvalidMessageError(f"A change returns records and messages, not {type(new).__name__}.")
    return found


def _is_same(old: object, new: object) -> bool:
    try:
        return bool(old == new)
    except Exception:  # noqa: BLE001  # what is in a message may have any equality
        return False


def _not_in(ids: list[str]) -> Callable[[Any], bool]:
    return lambda record_id: record_id not in ids


def _none_is_kept(record_id: Any) -> bool:  # noqa: ARG001
    return False


def _none_stay(part: Part) -> Edit:  # noqa: ARG001
    return Edit([], [], 0)


def _first_becomes(message: BaseMessage) -> RecordsChange:
    return lambda records: [records[0]._replace(message=message), *records[1:]]


def _check_index(index: object) -> int:
    if type(index) is not int:
        raise ConfigurationError(f"index must be a whole number, not {index!r}.")
    return index


def not_found(session_id: SessionId, name: str) -> RecordNotFoundError:
    """The error for a record that is not in a session."""
    text = f"Session {str(session_id)!r} has no record {name!r} (any more): read its records again."
    return RecordNotFoundError(text, str(session_id), name)
