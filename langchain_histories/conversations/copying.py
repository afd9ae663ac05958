"""`copy`: sessions go from one store to another with the ids, times and states that they have.

What arrived is read again and compared. A copy that was killed goes on when it is called again, because a record whose
id is there already is left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any, Literal, Protocol

from langchain_histories._derived import names_positions, with_positions
from langchain_histories._neutral import drive
from langchain_histories._options import Capability
from langchain_histories.codec import Row, texts_of
from langchain_histories.conversations._reading import Awaited, Blocking, Reading
from langchain_histories.errors import ConfigurationError, CopyError, CorruptRecordError, RecordTooLargeError
from langchain_histories.store import MessageStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence

    from langchain_histories._session_ids import SessionId
    from langchain_histories.codec import RecordFormat


@dataclasses.dataclass(frozen=True)
class CopyProgress:
    """How far a copy is, after each session.

    Attributes:
        session_id: The session that has just been copied.
        sessions: How many sessions have been copied.
        records: How many records were added.
    """

    session_id: str
    sessions: int
    records: int


@dataclasses.dataclass(frozen=True)
class CopyReport:
    """What a copy has done.

    Attributes:
        sessions: How many sessions were looked at.
        records: How many records were added.
        found: How many records were left out, because their ids were in the destination.
        dropped: How many records the destination's `before_save` dropped.
        unreadable: The errors of the records and states that stayed in the source alone, with `on_corrupt="skip"`.
        states_left: The sessions whose states stayed in the source alone, because the destination keeps no states, or
            has another one for the session.
    """

    sessions: int = 0
    records: int = 0
    found: int = 0
    dropped: int = 0
    unreadable: tuple[CorruptRecordError, ...] = ()
    states_left: tuple[str, ...] = ()


def copy(
    source: MessageStore,
    destination: MessageStore,
    *,
    sessions: Iterable[SessionId] | None = None,
    on_corrupt: Literal["raise", "skip"] = "raise",
    on_progress: Callable[[CopyProgress], object] | None = None,
) -> CopyReport:
    """Copy sessions to another store, with ids, times, envelopes and states.

    Texts travel as they are, and are decoded only where the codecs of both stores differ or the destination has a
    `before_save`. A session that exists gets the records whose ids it does not have, behind what is there, in the order
    of the source. So the same call goes on after a copy that was killed, and takes what came to the source since.
    A record of LangChain's classes keeps the id by which the source shows it. What arrived is read again and compared;
    `digest` compares whole stores.

    Short sessions go together: at most 2,000 records are in memory at once, and the ids of one session.

    Args:
        source: Where the sessions are.
        destination: Where they go; another place.
        sessions: Their ids; all that `source.sessions()` lists if not given, which are those with messages.
        on_corrupt: What to do about a record or a state that has no id and cannot be read: raise, or list it in the
            report and leave it in the source. One that has an id goes as it is.
        on_progress: Called after each session.

    Raises:
        ConfigurationError: Both are the same place, or a session id is one that the destination cannot hold.
        CopyError: The destination does not hold what it was given: somebody else changes the session meanwhile.
        CorruptRecordError: A record cannot be read. The sessions before, and of this one the pages of 500 records
            before, have been copied.
        RecordTooLargeError: A record is too large for the destination. What stands before it has been copied.
        StoreError: One of the stores failed. What was acknowledged has been copied.
        UnsupportedOperationError: The source lists no sessions and `sessions` is not given, or the destination keeps no
            ids of records.
    """
    face = Blocking()
    source_of = _checked(source, destination, face)
    return drive(Copying(source_of, destination, on_corrupt, on_progress, face).copy(sessions))


async def acopy(
    source: MessageStore,
    destination: MessageStore,
    *,
    sessions: Iterable[SessionId] | None = None,
    on_corrupt: Literal["raise", "skip"] = "raise",
    on_progress: Callable[[CopyProgress], object] | None = None,
) -> CopyReport:
    """Async `copy`. `on_progress` is a plain function, called on the event loop."""
    face = Awaited()
    source_of = _checked(source, destination, face)
    return await Copying(source_of, destination, on_corrupt, on_progress, face).copy(sessions)


def digest(store: MessageStore, *, sessions: Iterable[SessionId] | None = None) -> str:
    """Return the SHA-256 of sessions over a form that is the same in each store: equal for a store and its copy.

    It covers ids, times, envelopes, messages, what cannot be read, and states, but not where records stand.

    Args:
        store: Where the sessions are.
        sessions: Their ids, in this order; all that `store.sessions()` lists if not given.

    Raises:
        UnsupportedOperationError: The store lists no sessions and `sessions` is not given.
    """
    return drive(_digest(Reading(store, Blocking()), sessions))


async def adigest(store: MessageStore, *, sessions: Iterable[SessionId] | None = None) -> str:
    """Async `digest`."""
    return await _digest(Reading(store, Awaited()), sessions)


class Source(Protocol):
    """What is copied: a store, or a file."""

    format: RecordFormat

    def session_ids(self, given: Iterable[SessionId] | None) -> AsyncGenerator[SessionId]:
        """Walk the ids of the sessions."""

    def whole_pages(self, session_id: SessionId) -> AsyncGenerator[dict[str, Row]]:
        """Walk the rows of a session by id, each id once."""

    async def state(self, session_id: SessionId) -> str | bytes | None:
        """Return the text of the state of a session, when its rows have been walked."""


class Copying:
    """One copy to a store."""

    def __init__(
        self,
        source: Source,
        destination: MessageStore,
        on_corrupt: str,
        on_progress: Callable[[CopyProgress], object] | None,
        face: Blocking | Awaited,
    ) -> None:
        check_is_store("destination", destination)
        if on_corrupt not in ("raise", "skip"):
            raise ConfigurationError(f"on_corrupt must be 'raise' or 'skip', not {on_corrupt!r}.")
        destination.format.encode_records([])  # refused where the ids of records cannot be kept
        self._source, self._destination, self._face = source, Reading(destination, face), face
        self._skips, self._on_progress = on_corrupt == "skip", on_progress
        self._report = CopyReport()

    async def copy(self, sessions: Iterable[SessionId] | None) -> CopyReport:
        """Copy these sessions, or all that the source has."""
        if sessions is None and isinstance(self._source, Reading) and self._is_safe:
            async for group in self._source.groups():
                await self._copy_group(self._source, group)
        else:
            async for session_id in self._source.session_ids(sessions):
                await self._copy_session(session_id)
                self._tell(session_id)
        return self._report

    @property
    def _is_safe(self) -> bool:
        """Whether an append is done only where the session still ends where it was seen to end."""
        return Capability.EDIT in self._destination.store.operations.capabilities

    def _tell(self, session_id: SessionId) -> None:
        self._add(sessions=1)
        if self._on_progress is not None:
            self._on_progress(CopyProgress(str(session_id), self._report.sessions, self._report.records))

    async def _copy_group(self, source: Reading, session_ids: Sequence[str]) -> None:
        """Copy short sessions, each trip for all of them, and those by themselves that somebody else appends to."""
        if len(session_ids) == 1:
            await self._copy_session(session_ids[0])
            self._tell(session_ids[0])
            return
        begins = dict.fromkeys(session_ids)
        pages, states = await source.read_many(begins), await source.states(session_ids)
        there = await self._destination.read_many(begins)
        texts: dict[str, dict[str, str]] = {}
        sent: dict[str, dict[str, str]] = {}
        ends: dict[str, str | None] = {}
        failure: Exception | None = None
        for session_id in session_ids:
            if not (source.is_all(pages[session_id]) and source.is_all(there[session_id])):
                continue
            try:
                texts[session_id] = self._texts(session_id, pages[session_id])
            except Exception as error:  # noqa: BLE001  # before_save may raise anything; raised when its turn comes
                failure = error
                break
            stored = {*self._destination.format.record_ids(there[session_id])}
            ends[session_id] = there[session_id][-1].position if there[session_id] else None
            sent[session_id] = _without(texts[session_id], stored)
        batches = {session_id: list(missing.values()) for session_id, missing in sent.items() if missing}
        are_sent = await self._destination.append_behind(batches, ends)
        arrived = await self._destination.read_many({session_id: ends[session_id] for session_id in are_sent})
        for session_id in session_ids:
            if session_id not in texts and failure is not None:
                raise failure
            if session_id not in texts:
                await self._copy_session(session_id)
            elif session_id in batches and session_id not in are_sent:
                await self._send_slowly(session_id, texts[session_id])
                await self._copy_state(session_id, states[session_id])
            else:
                missing = sent[session_id]
                self._add(records=len(missing), found=len(texts[session_id]) - len(missing))
                if missing and not self._is_there(arrived[session_id], missing):
                    await self._compare(session_id, missing, ends[session_id])
                await self._copy_state(session_id, states[session_id])
            self._tell(session_id)

    async def _send_slowly(self, session_id: SessionId, texts: dict[str, str]) -> None:
        """Send what was not taken with that of other sessions."""
        stored: set[str] = set()
        end = await self._look(session_id, stored)
        await self._send(session_id, texts, end, stored)

    async def _copy_session(self, session_id: SessionId) -> None:
        stored: set[str] = set()
        end = await self._look(session_id, stored)
        async for page in self._source.whole_pages(session_id):
            texts = self._texts(session_id, [*page.values()])
            end = await self._send(session_id, texts, end, stored)
        await self._copy_state(session_id, await self._source.state(session_id))

    async def _look(self, session_id: SessionId, stored: set[str]) -> str | None:
        """Take the ids of the records that are in the destination, and return the end of the session there."""
        end = None
        async for rows in self._destination.pages(session_id):
            stored.update(self._destination.format.record_ids(rows))
            end = rows[-1].position
        return end

    def _texts(self, session_id: SessionId, rows: Sequence[Row]) -> dict[str, str]:
        """Return what goes to the destination of rows of the source, by id."""
        unchanged = self._source.format.unchanged(rows, self._destination.format)
        if unchanged is not None:
            return unchanged
        texts: dict[str, str] = {}
        for shown_id, row in self._source.format.by_id(rows).items():
            try:
                found = self._source.format.transcode(row, self._destination.format)
            except CorruptRecordError as error:
                where = f"Record {shown_id} at position {row.position} of session {str(session_id)!r}"
                msg = f"{where} cannot be copied: {error}"
                self._leave(CorruptRecordError(msg, str(session_id), row.position, shown_id))
                continue
            if found is None:
                self._add(dropped=1)
            else:
                texts[found[0]] = found[1]
        return texts

    async def _send(
        self, session_id: SessionId, texts: dict[str, str], end: str | None, stored: set[str]
    ) -> str | None:
        """Add those of the texts that are not stored, compare what arrived, and return the new end of the session."""
        while True:
            missing = _without(texts, stored)
            self._add(found=len(texts) - len(missing))
            if not missing:
                return end
            try:
                is_sent = await self._append(session_id, list(missing.values()), end)
            except RecordTooLargeError:
                if len(missing) == 1:
                    raise
                # The batch was too large, and perhaps none of its records is.
                half = dict(list(missing.items())[: len(missing) // 2])
                end = await self._send(session_id, half, end, stored)
                texts = {record_id: text for record_id, text in missing.items() if record_id not in half}
                continue
            if is_sent:
                self._add(records=len(missing))
                stored.update(missing)
                return await self._compare(session_id, missing, end)
            # Somebody else has appended, perhaps another copy of these records.
            texts, end = missing, await self._look(session_id, stored)

    async def _append(self, session_id: SessionId, texts: list[str], end: str | None) -> bool:
        """Append where the session ends; where the store can, only if it still ends there."""
        store = self._destination.store
        operations = store.operations
        key = operations.key(session_id)

        async def body(client: Any) -> bool:
            if self._is_safe:
                return await operations.edit(client, key, texts, expected=(), kept=0, after=end)
            await operations.append(client, key, texts)
            return True

        is_sent: bool = await self._face.run(store, body, session_id)
        return is_sent

    async def _compare(self, session_id: SessionId, sent: Mapping[str, str], end: str | None) -> str:
        """Read what arrived behind the old end of the session, and return the new end."""
        arrived = await self._destination.rows(session_id, end, None)
        if not self._is_there(arrived, sent):
            raise CopyError(
                f"{self._destination.store!r} does not hold what was copied to session {str(session_id)!r}: "
                "somebody else changes it, or copies to it, at the same time. Copy again when that is over: what "
                "is there is left out.",
                str(session_id),
            )
        return arrived[-1].position

    def _is_there(self, arrived: Sequence[Row], sent: Mapping[str, str]) -> bool:
        """Whether rows behind the old end of a session have what was sent, in its order."""
        if texts_of(arrived) == list(sent.values()):
            return True
        # Others may have appended meanwhile, and some stores write JSON in another form.
        of_format = self._destination.format
        ours = [(record_id, row) for row in arrived if (record_id := of_format.record_id(row)) in sent]
        return [record_id for record_id, _ in ours] == list(sent) and all(
            of_format.canonical(row) == of_format.canonical(Row(sent[record_id], "")) for record_id, row in ours
        )

    async def _copy_state(self, session_id: SessionId, text: str | bytes | None) -> None:
        if text is None:
            return
        try:
            state = self._source.format.decode_state(text, session_id)
        except CorruptRecordError as error:
            self._leave(error)
            return
        if names_positions(state):
            positions: dict[str, str] = {}
            async for page in self._destination.whole_pages(session_id):
                positions |= {record_id: row.position for record_id, row in page.items()}
            state = with_positions(state, positions)
        if not state or await self._put_state(session_id, state):
            return
        self._report = dataclasses.replace(self._report, states_left=(*self._report.states_left, str(session_id)))

    async def _put_state(self, session_id: SessionId, state: dict[str, Any]) -> bool:
        """Store a state where there is none; tell whether the destination has it."""
        store = self._destination.store
        if Capability.STATE not in store.capabilities:
            return False
        operations, text = store.operations, store.format.encode_state(state)
        key = operations.key(session_id)
        is_put = await self._face.run(
            store, lambda client: operations.put_state(client, key, text, expected=None), session_id
        )
        return is_put or store.format.is_same_state(await self._destination.state(session_id), state)

    def _leave(self, error: CorruptRecordError) -> None:
        if not self._skips:
            raise error from None
        self._report = dataclasses.replace(self._report, unreadable=(*self._report.unreadable, error))

    def _add(self, **numbers: int) -> None:
        self._report = dataclasses.replace(
            self._report, **{name: getattr(self._report, name) + number for name, number in numbers.items()}
        )


def _without(texts: dict[str, str], stored: set[str]) -> dict[str, str]:
    """Return the texts whose ids are not stored."""
    return {record_id: text for record_id, text in texts.items() if record_id not in stored} if stored else texts


def check_is_store(name: str, store: object) -> None:
    """Refuse what is no store.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(store, MessageStore):
        raise ConfigurationError(f"{name} must be a store, as open_store makes it, not {type(store).__name__}.")


def _checked(source: MessageStore, destination: MessageStore, face: Blocking | Awaited) -> Reading:
    check_is_store("source", source)
    check_is_store("destination", destination)
    if source.place == destination.place:
        raise ConfigurationError(f"{source!r} cannot be copied into itself: source and destination are one place.")
    return Reading(source, face)


async def _digest(reading: Reading, sessions: Iterable[SessionId] | None) -> str:
    digest = hashlib.sha256()

    def note(text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data) + data)

    async for session_id in reading.session_ids(sessions):
        note(str(session_id))
        async for page in reading.whole_pages(session_id):
            for row in page.values():
                note(reading.format.canonical(row))
        state = await reading.state(session_id)
        if state is not None:
            note(reading.format.canonical_state(state))
    return digest.hexdigest()
