"""Conversations as a file of JSON Lines: the format of backups, which loses nothing.

    {"format": "langchain_histories", "version": 1}
    {"session_id": "42", "record": {"type": "human", "data": {...}, "meta": {"v": 1, "id": "...", "at": "..."}}}
    {"session_id": "42", "state": {...}}
    {"end": true, "sessions": 1, "records": 1}

A record is what `codec` describes, without what a store's codec made of it. The records of a session stand together, in
their order, and its state behind them. The last line says what the file holds, so a file that was cut is told from a
whole one. `export.schema.json` beside this module is the JSON Schema of a line.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from langchain_histories._neutral import drive
from langchain_histories._values import from_json, to_json
from langchain_histories.codec import RecordFormat, Row
from langchain_histories.conversations._reading import PAGE, Awaited, Blocking, Reading
from langchain_histories.conversations.copying import Copying, CopyReport, check_is_store
from langchain_histories.errors import ConfigurationError, CorruptRecordError, FileFormatError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable
    from typing import Self

    from langchain_histories._session_ids import SessionId
    from langchain_histories.conversations.copying import CopyProgress
    from langchain_histories.store import MessageStore

_FORMAT = "langchain_histories"
_VERSION = 1
_PLAIN = RecordFormat()


def export_jsonl(
    store: MessageStore,
    path: str | os.PathLike[str],
    *,
    sessions: Iterable[SessionId] | None = None,
    on_corrupt: Literal["raise", "skip"] = "raise",
) -> CopyReport:
    """Write conversations to a file of JSON Lines, with ids, times and states; a codec is undone.

    The file is written under another name, readable by its owner alone, and takes its place when it is whole.

    Args:
        store: Where the sessions are.
        path: The file.
        sessions: Their ids; all that `store.sessions()` lists if not given.
        on_corrupt: What to do about a record or a state that has no id and cannot be read: raise, or list it in the
            report and leave it out.

    Returns:
        What was written: its `sessions`, `records` and `unreadable`.

    Raises:
        CorruptRecordError: A record cannot be read. There is no new file.
        OSError: The file cannot be written.
        StoreError: The store failed. There is no new file.
    """
    face = Blocking()
    return drive(_Export(store, path, on_corrupt, face).write(sessions))


async def aexport_jsonl(
    store: MessageStore,
    path: str | os.PathLike[str],
    *,
    sessions: Iterable[SessionId] | None = None,
    on_corrupt: Literal["raise", "skip"] = "raise",
) -> CopyReport:
    """Async `export_jsonl`. The file is written in a thread."""
    face = Awaited()
    return await _Export(store, path, on_corrupt, face).write(sessions)


def import_jsonl(
    path: str | os.PathLike[str],
    store: MessageStore,
    *,
    on_progress: Callable[[CopyProgress], object] | None = None,
) -> CopyReport:
    """Add the conversations of a file that `export_jsonl` wrote to a store, as `copy` does.

    Args:
        path: The file.
        store: Where they go. What has an id that is there already is left out, so the same call may be made again.
        on_progress: Called after each session.

    Raises:
        FileFormatError: A line is none of such a file, or the file was cut. What stands before it was added.
        OSError: The file cannot be read.
        HistoryError: As `copy`.
    """
    face = Blocking()
    with _Lines(path, face) as lines:
        return drive(Copying(lines, store, "raise", on_progress, face).copy(None))


async def aimport_jsonl(
    path: str | os.PathLike[str],
    store: MessageStore,
    *,
    on_progress: Callable[[CopyProgress], object] | None = None,
) -> CopyReport:
    """Async `import_jsonl`. The file is read in a thread."""
    face = Awaited()
    with _Lines(path, face) as lines:
        return await Copying(lines, store, "raise", on_progress, face).copy(None)


class _Export:
    """One call of `export_jsonl`."""

    def __init__(
        self, store: MessageStore, path: str | os.PathLike[str], on_corrupt: str, face: Blocking | Awaited
    ) -> None:
        check_is_store("store", store)
        if on_corrupt not in ("raise", "skip"):
            raise ConfigurationError(f"on_corrupt must be 'raise' or 'skip', not {on_corrupt!r}.")
        self._source, self._path, self._face, self._skips = Reading(store, face), Path(path), face, on_corrupt == "skip"
        self._unreadable: list[CorruptRecordError] = []

    async def write(self, sessions: Iterable[SessionId] | None) -> CopyReport:
        """Write the file and put it in its place."""
        folder, name = self._path.parent, self._path.name
        file = await self._face.of_file(_new_file, folder, name)
        try:
            session_count = record_count = 0
            await self._put(file, [{"format": _FORMAT, "version": _VERSION}])
            async for session_id in self._source.session_ids(sessions):
                before = record_count
                async for page in self._source.whole_pages(session_id):
                    lines = [line for row in page.values() if (line := self._record(session_id, row))]
                    record_count += len(lines)
                    await self._put(file, lines)
                state = await self._state(session_id)
                await self._put(file, state)
                session_count += bool(state) or record_count > before
            await self._put(file, [{"end": True, "sessions": session_count, "records": record_count}])
            await self._face.of_file(_finish, file, self._path)
        except BaseException:
            await self._face.of_file(_remove, file)
            raise
        return CopyReport(sessions=session_count, records=record_count, unreadable=tuple(self._unreadable))

    async def _put(self, file: IO[str], lines: list[dict[str, Any]]) -> None:
        await self._face.of_file(file.write, "".join(f"{to_json(line)}\n" for line in lines))

    def _record(self, session_id: SessionId, row: Row) -> dict[str, Any] | None:
        try:
            found = self._source.format.transcode(row, _PLAIN)
        except CorruptRecordError as error:
            record_id = self._source.format.record_id(row)
            where = f"Record {record_id} at position {row.position} of session {str(session_id)!r}"
            msg = f"{where} cannot be exported: {error}"
            self._leave(CorruptRecordError(msg, str(session_id), row.position, record_id))
            return None
        return None if found is None else {"session_id": str(session_id), "record": from_json(found[1])}

    async def _state(self, session_id: SessionId) -> list[dict[str, Any]]:
        text = await self._source.state(session_id)
        try:
            state = None if text is None else self._source.format.decode_state(text, session_id)
        except CorruptRecordError as error:
            self._leave(error)
            return []
        return (
            [] if state is None else [{"session_id": str(session_id), "state": from_json(_PLAIN.encode_state(state))}]
        )

    def _leave(self, error: CorruptRecordError) -> None:
        if not self._skips:
            raise error from None
        self._unreadable.append(error)


def _new_file(folder: Path, name: str) -> IO[str]:
    """Make a file beside the one that is to be, readable by its owner alone."""
    descriptor, path = tempfile.mkstemp(prefix=f".{name[:64]}-", dir=folder)
    os.close(descriptor)
    return Path(path).open("w", encoding="utf-8", newline="\n")


def _finish(file: IO[str], path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
    Path(file.name).replace(path)


def _remove(file: IO[str]) -> None:
    file.close()
    Path(file.name).unlink(missing_ok=True)


class _Lines:
    """An export as what is copied. Its lines are read once, in their order."""

    format = _PLAIN

    def __init__(self, path: str | os.PathLike[str], face: Blocking | Awaited) -> None:
        self._path, self._face = Path(path), face
        self._file: IO[bytes] | None = None
        self._next: dict[str, Any] | None = None
        self._number = self._sessions = self._records = 0
        self._state: dict[str, Any] | None = None
        self._failure: FileFormatError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    async def session_ids(self, given: Iterable[SessionId] | None) -> AsyncGenerator[SessionId]:  # noqa: ARG002  # all of a file
        """Walk the sessions of the file, to whose lines the reader has come then."""
        self._file = await self._face.of_file(self._path.open, "rb")
        header = await self._line()
        if header.get("format") != _FORMAT or type(header.get("version")) is not int:
            raise self._broken("is not the first line of an export of this package")
        if header["version"] > _VERSION:
            raise self._broken(f"tells version {header['version']}, and this release reads up to {_VERSION}; upgrade")
        await self._advance()
        while self._next is not None and "end" not in self._next:
            self._sessions += 1
            yield self._next["session_id"]
        if self._failure is not None:
            raise self._failure
        if self._next is None or [self._next.get("sessions"), self._next.get("records")] != [
            self._sessions,
            self._records,
        ]:
            raise self._broken("does not tell as many sessions and records as the file has, so lines are missing")

    async def whole_pages(self, session_id: SessionId) -> AsyncGenerator[dict[str, Row]]:
        """Walk the records of the session."""
        self._state = None
        page: dict[str, Row] = {}
        while self._next is not None and self._next.get("session_id") == session_id:
            if "record" in self._next:
                row = Row(to_json(self._next["record"]), str(self._number))
                page[self.format.record_id(row)] = row
                self._records += 1
            else:
                self._state = self._next["state"]
            await self._advance()
            if len(page) >= PAGE:
                yield page
                page = {}
        if page:
            yield page

    async def state(self, session_id: SessionId) -> str | None:  # noqa: ARG002  # the one that was walked
        """Return the text of the state that stands behind the records."""
        return None if self._state is None else to_json(self._state)

    async def _advance(self) -> None:
        try:
            line = await self._line()
            is_end = line.get("end") is True
            content = line.get("record", line.get("state"))
            if not is_end and (type(line.get("session_id")) is not str or not isinstance(content, dict)):
                raise self._broken("is neither a record nor a state")
        except FileFormatError as error:
            # Raised when what stands before it has been added.
            self._failure, self._next = error, None
        else:
            self._next = line

    async def _line(self) -> dict[str, Any]:
        if self._file is None:
            raise self._broken("was not opened")
        self._number += 1
        text = await self._face.of_file(self._file.readline)
        if not text.endswith(b"\n"):
            raise self._broken("is cut off: the file is not whole")
        try:
            line = from_json(text)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            raise self._broken("is not a JSON object")
        return line

    def _broken(self, what: str) -> FileFormatError:
        return FileFormatError(
            f"Line {self._number} of {str(self._path)!r} {what}. What stands before it was added, and is left out when "
            "the whole file is imported.",
            str(self._path),
            self._number,
        )
