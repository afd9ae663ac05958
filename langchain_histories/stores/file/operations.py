"""What the stores in files can do. The client of each is a path: of the folder of all sessions, or of the one file.

A relative path is resolved at each use, so it follows a change of the working directory.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from abc import abstractmethod
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from filelock import FileLock, Timeout

from langchain_histories.errors import CorruptRecordError
from langchain_histories.stores.base import (
    ANY_STATE,
    Capability,
    CheckedRow,
    ExpectedState,
    NewestRow,
    Operations,
    OutOfTimeError,
    Row,
    SessionRow,
    position_number,
    same_rows,
    time_left,
)
from langchain_histories.stores.file.expiry import Expiry, parse
from langchain_histories.stores.file.foreign import ForeignRecords, foreign_lines
from langchain_histories.stores.file.format import (
    EMPTY,
    Line,
    array,
    copy_start,
    count_lines,
    doomed_offsets,
    encode_row,
    end_before,
    first_lines,
    is_own,
    last_lines,
    lines_after,
    lines_between,
    own_end,
    read_between,
    write_batch,
)
from langchain_histories.stores.file.in_place import TOKEN, change_end, finish, read_note, shown
from langchain_histories.stores.file.names import (
    SessionFiles,
    check_folder,
    give_rights,
    make_folder,
    open_itself,
    open_new,
    prepare_lock,
    session_files,
    single_file,
    status_of,
    stored_keys,
    sync_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

logger = logging.getLogger(__name__)

_LOCK_POLL = 0.002
# A file of more bytes than the first number is edited in place where the end that changes is no longer than the second.
_LONG, _END = 4 * 2**20, 2**20
_READS = 3  # of a file that others edit in place all the time, before the lock is taken
_TICK = 20_000_000  # nanoseconds of which a kernel may give all files the same time
_NO_FILE = (errno.EISDIR, errno.ELOOP, errno.ENXIO)  # a folder, a symbolic link, a socket


class FileOperations(Operations[Path]):
    r"""What a folder of sessions and a single file have in common.

    Args:
        fsync: Whether an append waits until the disk has it.
        encoding: The encoding of the files, one that contains ASCII.
        ensure_ascii: Whether all but ASCII is written as `\u` escapes.
        file_mode: The mode of new files.
    """

    name = "file"
    _removes_history = True

    def __init__(
        self,
        *,
        fsync: bool = True,
        encoding: str = "utf-8",
        ensure_ascii: bool = False,
        file_mode: int = 0o600,
    ) -> None:
        """Keep how files are written."""
        super().__init__()
        self.file_mode = file_mode
        self.fsync = fsync
        self._encoding, self._ensure_ascii = encoding, ensure_ascii

    @abstractmethod
    def _files(self, client: Path, key: str) -> SessionFiles:
        """Name the files of a session."""

    @contextmanager
    def _locked(self, files: SessionFiles) -> Iterator[None]:
        """Exclude other writers of the session, in all threads and processes.

        Raises:
            OutOfTimeError: Others held the lock as long as the call may take.
        """
        mode, left = prepare_lock(files.lock, file_mode=self.file_mode), time_left()
        # Each use has a lock object of its own, because a shared one would not survive a fork.
        lock = FileLock(files.lock, timeout=-1 if left is None else left, mode=mode)
        try:
            lock.acquire(poll_interval=_LOCK_POLL)
        except Timeout as error:
            raise OutOfTimeError("other writers held the lock of the session all the time") from error
        try:
            finish(files, fsync=self.fsync)
            yield
        finally:
            lock.release()

    def _open(self, files: SessionFiles, path: Path, mode: str = "rb") -> IO[bytes] | None:
        """Open a file of a session; `None` if there is none."""
        try:
            file = open(path, mode, buffering=0, opener=open_itself)  # noqa: SIM115  # the caller closes it
        except FileNotFoundError:
            # A missing folder is no empty history: a disk may not be mounted.
            if not files.folder.is_dir():
                raise
            return None
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            raise _no_history(path) from None
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise _no_history(path)
        return file

    def _look(self, files: SessionFiles, key: str, look: Callable[[IO[bytes], SessionFiles, str], T], empty: T) -> T:
        """Look at the history of a session as it is at one moment; return `empty` where there is none."""
        for _ in range(_READS):
            note = read_note(files)
            found: T | None = None
            failure = None
            try:
                found = self._look_once(files, key, look, empty, note)
            except CorruptRecordError as error:
                failure = error
            if read_note(files, TOKEN) == note[:TOKEN]:
                if failure is not None:
                    raise failure
                return found  # type: ignore[return-value]  # there was no failure
        with self._locked(files):
            return self._look_once(files, key, look, empty, b"")

    def _look_once(
        self,
        files: SessionFiles,
        key: str,
        look: Callable[[IO[bytes], SessionFiles, str], T],
        empty: T,
        note: bytes,
    ) -> T:
        if (file := self._open(files, files.history)) is None:
            return empty
        with file:
            return look(shown(file, files, note), files, key)

    async def append(self, client: Path, key: str, rows: Sequence[str]) -> None:
        files = self._files(client, key)
        batch = self._encode(rows)
        with self._locked(files):
            expiry = self._live_expiry(files, key)
            before = 0 if expiry is None and self.ttl is None else _size(files.history)
            self._append(files, key, batch)
            if expiry is not None and expiry.size == before:
                self._put_expiry(files, key, expiry, expiry.records + len(batch))
            else:
                self._put_expiry(files, key, expiry)

    def _append(self, files: SessionFiles, key: str, batch: list[bytes]) -> None:
        lines: list[Line] = []
        if (file := self._open(files, files.history, "r+b")) is not None:
            with file:
                end = own_end(file)
                if end is not None:
                    write_batch(file, end, batch, fsync=self.fsync)
                    _stamp(file)
                    return
                lines = self._foreign_lines(file, files, key)
        self._write(files.history, array(lines, batch))

    # Expiry.

    def _expiry(self, files: SessionFiles, key: str) -> Expiry | None:
        """Return when the session expires; `None` if nothing says so."""
        if (file := self._open(files, files.expiry)) is None:
            return None
        with file:
            return parse(file.read(), str(files.expiry), key)

    def _hidden(self, files: SessionFiles, key: str) -> int | None:
        """Return how many records have expired; `None` if the session has not."""
        expiry = self._expiry(files, key)
        return expiry.records if expiry is not None and expiry.is_over else None

    def _live_expiry(self, files: SessionFiles, key: str) -> Expiry | None:
        """Return when the session expires; one that has is removed before. Called under the lock."""
        expiry = self._expiry(files, key)
        if expiry is None or not expiry.is_over:
            return expiry
        self._remove(files, files.state)
        lines = _behind(self._lines(files, key), expiry.records)
        if lines or not self._removes_history:
            if files.history.exists():
                self._write(files.history, array(lines, []))
        else:
            self._remove(files, files.history)
        self._remove(files, files.expiry)
        return None

    def _sweep(self, client: Path, key: str) -> bool:
        """Remove what has expired of a session; tell whether there was something."""
        files = self._files(client, key)
        with suppress(CorruptRecordError):
            if self._hidden(files, key) is not None:
                with self._locked(files):
                    self._live_expiry(files, key)
                    return True
        return False

    def _put_expiry(
        self, files: SessionFiles, key: str, expiry: Expiry | None, count: int | None = None, *, slide: bool = True
    ) -> None:
        """Have the session expire `ttl` seconds from now. Called under the lock.

        Args:
            files: The files.
            key: The session.
            expiry: When it was to expire; without a `ttl` that stays.
            count: How many records there are, where that is known.
            slide: Whether it was appended to; else only the records are counted.
        """
        if expiry is None and (self.ttl is None or not slide):
            return
        expires = None if expiry is None else expiry.expires
        if self.ttl is not None and slide:
            expires = time.time() + self.ttl
        count = len(self._lines(files, key)) if count is None else count
        text = Expiry(expires, count, _size(files.history)).text()
        if (file := self._open(files, files.expiry, "r+b")) is None:
            self._write(files.expiry, text)
            return
        with file:
            file.write(text)
            if self.fsync:
                os.fsync(file.fileno())

    def _encode(self, rows: Sequence[str]) -> list[bytes]:
        return [encode_row(row, self._encoding, ensure_ascii=self._ensure_ascii) for row in rows]

    async def read(
        self,
        client: Path,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        offset = None if after is None else position_number(after)
        files = self._files(client, key)
        if (hidden := self._hidden(files, key)) is not None:
            behind = _behind(self._lines(files, key), hidden)
            shown_lines = behind if after is None else lines_after(behind, after)
            return [self._row(line) for line in (shown_lines[:first] if last is None else shown_lines[-last:])]

        def rows(file: IO[bytes], files: SessionFiles, key: str) -> Sequence[Row]:
            end = own_end(file)
            lines: Sequence[Line]
            if end is None:
                if after is None and self._encoding == "utf-8":
                    with suppress(ValueError):
                        rows = ForeignRecords(_content(file)).rows()
                        return rows[:first] if last is None else rows[-last:]
                lines = self._foreign_lines(file, files, key)
            elif offset is not None:
                lines = lines_between(file, offset, end) if first is None else first_lines(file, offset, end, first + 1)
                if not lines or lines[0].position != after:
                    lines = lines_between(file, 0, end)
            elif last is not None:
                lines = last_lines(file, end, last)
            elif first is not None:
                lines = first_lines(file, 0, end, first)
            else:
                lines = lines_between(file, 0, end)
            if after is not None:
                lines = lines_after(lines, after)
            return [self._row(line) for line in (lines[:first] if last is None else lines[-last:])]

        return self._look(files, key, rows, [])

    def _row(self, line: Line) -> Row:
        if self._encoding != "utf-8":
            with suppress(UnicodeDecodeError):
                return Row(line.text.decode(self._encoding), line.position)
        return CheckedRow(line.text, str(line.offset))

    def _foreign_lines(self, file: IO[bytes], files: SessionFiles, key: str) -> list[Line]:
        try:
            return foreign_lines(_content(file), self._encoding)
        except (ValueError, RecursionError):
            # Not chained, because the error of the JSON parser has the whole text in it.
            raise _no_history(files.history, key) from None

    def _lines(self, files: SessionFiles, key: str) -> list[Line]:
        return self._look(files, key, self._lines_of, [])

    def _lines_of(self, file: IO[bytes], files: SessionFiles, key: str) -> list[Line]:
        end = own_end(file)
        return self._foreign_lines(file, files, key) if end is None else lines_between(file, 0, end)

    async def count(self, client: Path, key: str) -> int:
        return self._session_row(client, key).count

    def _session_row(self, client: Path, key: str) -> SessionRow:
        files = self._files(client, key)
        if (hidden := self._hidden(files, key)) is not None:
            shown = _behind(self._lines(files, key), hidden)
            return SessionRow(key, len(shown), self._row(shown[-1]).text if shown else None)
        return self._look(files, key, self._row_of, SessionRow(key, 0, None))

    def _row_of(self, file: IO[bytes], files: SessionFiles, key: str) -> SessionRow:
        end = own_end(file)
        if end is None:
            lines = self._foreign_lines(file, files, key)
            return SessionRow(key, len(lines), self._row(lines[-1]).text if lines else None)
        return SessionRow(key, count_lines(file, end), self._row(last_lines(file, end, 1)[-1]).text)

    async def replace(self, client: Path, key: str, rows: Sequence[str]) -> None:
        files = self._files(client, key)
        batch = self._encode(rows)
        with self._locked(files):
            self._check_history(files, key)
            expiry = self._live_expiry(files, key)
            self._write(files.history, array([], batch))
            self._put_expiry(files, key, expiry, len(batch))

    def _check_history(self, files: SessionFiles, key: str) -> None:
        """Refuse to overwrite a file that does not even begin as a history."""
        if (file := self._open(files, files.history)) is not None:
            with file:
                if not is_own(file):
                    self._foreign_lines(file, files, key)

    async def edit(
        self, client: Path, key: str, rows: Sequence[str], *, expected: Sequence[Row], kept: int, after: str | None
    ) -> bool:
        files = self._files(client, key)
        batch = self._encode(rows)
        with self._locked(files):
            if not same_rows(await self.read(client, key, after=after), expected):
                return False
            if not rows and kept == len(expected):
                return True
            if self._hidden(files, key) is not None:
                self._live_expiry(files, key)
                if expected:
                    return False  # they are at other offsets now
            expiry = self._expiry(files, key)
            self._put_behind(files, key, batch, expected, kept)
            self._put_expiry(files, key, expiry, slide=bool(rows))
            return True

    def _put_behind(
        self, files: SessionFiles, key: str, batch: list[bytes], expected: Sequence[Row], kept: int
    ) -> None:
        """Put a batch in place of the last rows."""
        lines: list[Line] = []
        kept_bytes = 0
        if (file := self._open(files, files.history, "r+b")) is not None:
            with file:
                end = own_end(file)
                if end is None:
                    lines = self._foreign_lines(file, files, key)
                    lines = lines[: len(lines) - len(expected) + kept]
                elif kept == len(expected):
                    write_batch(file, end, batch, fsync=self.fsync)
                    _stamp(file)
                    return
                else:
                    kept_bytes = end_before(file, position_number(expected[kept].position))
        self._write_behind(files, array(lines, batch, begins=not kept_bytes), kept_bytes)

    async def delete(self, client: Path, key: str, rows: Sequence[Row]) -> int:
        files = self._files(client, key)
        with self._locked(files):
            removed = 1 if len(rows) == 1 and self._delete_one(files, rows[0]) else self._delete(files, key, rows)
            if removed:
                self._put_expiry(files, key, self._expiry(files, key), slide=False)
            return removed

    def _delete(self, files: SessionFiles, key: str, rows: Sequence[Row]) -> int:
        lines = self._lines(files, key)
        doomed = doomed_offsets(lines, [row.position for row in rows])
        if doomed:
            self._write(files.history, array([line for line in lines if line.offset not in doomed], []))
        return len(doomed)

    def _delete_one(self, files: SessionFiles, row: Row) -> bool:
        """Remove a row of a file in our form, without a look at those before it; tell whether it was where it was."""
        if (file := self._open(files, files.history)) is None:
            return False
        with file:
            end, offset = own_end(file), position_number(row.position)
            lines = [] if end is None else lines_between(file, offset, end)
            if not lines or lines[0].position != row.position:
                return False
            kept_bytes = end_before(file, offset)
        self._write_behind(files, array(lines[1:], [], begins=not kept_bytes), kept_bytes)
        return True

    async def get_state(self, client: Path, key: str) -> bytes | None:
        files = self._files(client, key)
        if self._hidden(files, key) is not None or (file := self._open(files, files.state)) is None:
            return None
        with file:
            return file.read()

    async def put_state(self, client: Path, key: str, text: str | None, *, expected: ExpectedState = ANY_STATE) -> bool:
        files = self._files(client, key)
        with self._locked(files):
            if expected is not ANY_STATE and expected != await self.get_state(client, key):
                return False
            if text is None:
                if self._hidden(files, key) is None:
                    self._remove(files, files.state)
                return True
            expiry = self._live_expiry(files, key)
            if expiry is None and not _exists(files.history) and not _exists(files.state):
                self._put_expiry(files, key, expiry)
            self._write(files.state, text.encode())
            return True

    def _write_behind(self, files: SessionFiles, content: bytes, kept_bytes: int) -> None:
        """Have a history hold `content` behind so much of what it holds now."""
        if kept_bytes > _LONG and len(content) <= _END:
            file = self._open(files, files.history, "r+b")
            if file is not None:
                with file:
                    if file.seek(0, os.SEEK_END) - kept_bytes <= _END:
                        change_end(files, file, kept_bytes, content, file_mode=self.file_mode, fsync=self.fsync)
                        _stamp(file)
                        return
        self._write(files.history, content, kept_bytes)

    def _write(self, path: Path, content: bytes, kept_bytes: int = 0) -> None:
        """Replace the file at `path`: readers see the old one or the new one, whole.

        Args:
            path: The file.
            content: What it is to hold.
            kept_bytes: How much of what it holds now is to be in front of that.
        """
        make_folder(path.parent, file_mode=self.file_mode, fsync=self.fsync)
        beside = path.with_name(path.name + ".tmp")
        beside.unlink(missing_ok=True)
        try:
            with open(beside, "xb", opener=open_new) as file:
                if kept_bytes:
                    with open(path, "rb", buffering=0, opener=open_itself) as old:
                        copy_start(old, kept_bytes, file)
                file.write(content)
                file.flush()
                _stamp(file)
                if self.fsync:
                    os.fsync(file.fileno())
            give_rights(beside, status_of(path), self.file_mode)
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        if self.fsync:
            sync_folder(path.parent)

    def _remove(self, files: SessionFiles, *paths: Path) -> None:
        """Remove files of a session, and the folders of a long id once they are empty."""
        for path in paths:
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".tmp").unlink(missing_ok=True)
        for folder in files.folders:
            with suppress(OSError):
                folder.rmdir()
        if self.fsync:
            sync_folder(next(folder for folder in (*files.folders, files.folder) if folder.is_dir()))


class FolderOperations(FileOperations):
    """What a folder of sessions can do: everything that needs no async driver."""

    capabilities = ~Capability.NATIVE_ASYNC

    def _files(self, client: Path, key: str) -> SessionFiles:
        files = session_files(client, key)
        for folder in files.folders:
            if folder.is_symlink():
                raise _no_history(folder)
        return files

    async def look(self, client: Path) -> bool:
        # A folder that was here and is gone is an error: its disk may not be mounted any more.
        is_there = self.found.what is not None or _exists(client)
        if is_there:
            check_folder(client)
            self.found.what = "a folder"
        return is_there

    async def setup(self, client: Path, *, upgrade: bool = False) -> None:  # noqa: ARG002
        if self.found.what is None:
            make_folder(client, file_mode=self.file_mode, fsync=self.fsync)
            self.found.what = "a folder"
        else:
            # The folder was here. Its disk may not be mounted, so another one in its place would hide the histories.
            check_folder(client)

    async def clear(self, client: Path, key: str) -> None:
        files = self._files(client, key)
        if _has_nothing(files):
            return
        with self._locked(files):
            self._remove(files, files.history, files.state, files.expiry)

    async def sessions(
        self, client: Path, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        found: list[SessionRow] = []
        for key in sorted(key for key in stored_keys(client) if key.startswith(prefix)):
            if limit is not None and len(found) >= limit:
                break
            if after is not None and key <= after:
                continue
            try:
                row = self._session_row(client, key)
            except CorruptRecordError as error:
                logger.warning("%s The list of sessions leaves it out.", error)
                continue
            if row.count:
                found.append(row)
        return found

    async def newest(
        self, client: Path, *, prefixes: Sequence[str], limit: int, after: str | None
    ) -> Sequence[NewestRow]:
        """A folder has no order of times, so each page looks at the times of all files."""
        end = None if after is None else (position_number(after), after.partition("-")[2])
        times: list[tuple[int, str]] = []
        for key in stored_keys(client):
            if key.startswith(tuple(prefixes)):
                with suppress(FileNotFoundError):  # a session with a state alone
                    times.append((self._files(client, key).history.lstat().st_mtime_ns, key))
        found: list[NewestRow] = []
        for changed, key in sorted(times, reverse=True):
            if len(found) == limit:
                break
            if end is not None and (changed, key) >= end:
                continue
            try:
                row, rows = self._session_row(client, key), await self.read(client, key, first=1)
                state = await self.get_state(client, key)
            except CorruptRecordError as error:
                logger.warning("%s The list of sessions leaves it out.", error)
                continue
            if rows:
                found.append(NewestRow(key, f"{changed}-{key}", row.count, rows[0].text, row.last, state))
        return found

    async def sweep(self, client: Path, limit: int) -> int:
        swept = 0
        for key in stored_keys(client):
            if swept == limit:
                break
            swept += self._sweep(client, key)
        return swept

    async def erase(self, client: Path, prefix: str) -> int:
        keys = [key for key in stored_keys(client) if key.startswith(prefix)]
        for key in keys:
            await self.clear(client, key)
        return len(keys)


class SingleFileOperations(FileOperations):
    """What one file can do: all sessions of its store are that file, so there is nothing to list.

    A cleared history is an empty array, as in LangChain's class, so its file is left.
    """

    _removes_history = False
    capabilities = FolderOperations.capabilities & ~(
        Capability.SESSIONS | Capability.NEWEST | Capability.ERASE | Capability.LEAVES_NO_TRACE
    )

    def _files(self, client: Path, key: str) -> SessionFiles:  # noqa: ARG002
        return single_file(client)

    async def clear(self, client: Path, key: str) -> None:
        files = self._files(client, key)
        if _has_nothing(files):
            return
        with self._locked(files):
            self._check_history(files, key)
            if files.history.exists():
                self._write(files.history, EMPTY)
            self._remove(files, files.state, files.expiry)

    async def sweep(self, client: Path, limit: int) -> int:
        return int(limit > 0 and self._sweep(client, ""))


def _behind(lines: list[Line], count: int) -> list[Line]:
    """The records behind those that have expired; all, where others have removed some of these."""
    return lines[count:] if len(lines) >= count else lines


def _size(path: Path) -> int:
    found = status_of(path)
    return 0 if found is None else found.st_size


def _content(file: IO[bytes]) -> bytes:
    return read_between(file, 0, file.seek(0, os.SEEK_END))


def _stamp(file: IO[bytes]) -> None:
    """Tell a file from those that were written in the same tick of the kernel, where its time is of this machine."""
    if os.utime not in os.supports_fd:
        return
    found, now = os.fstat(file.fileno()), time.time_ns()
    if 0 <= now - found.st_mtime_ns < _TICK:
        os.utime(file.fileno(), ns=(found.st_atime_ns, now))


def _has_nothing(files: SessionFiles) -> bool:
    """Whether no file of a session is there, nor its lock, though the folder is. Then a removal makes no lock."""
    kept = (files.history, files.state, files.expiry)
    paths = [name for path in kept for name in (path, path.with_name(path.name + ".tmp"))]
    is_whole = files.folder.is_dir() and not files.lock.parent.is_symlink()
    return is_whole and not any(map(_exists, [*paths, files.lock]))


def _exists(path: Path) -> bool:
    """Whether something has this name. What hinders to see that is an error, unlike for `os.path.lexists`."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _no_history(path: Path, key: str = "") -> CorruptRecordError:
    return CorruptRecordError(
        f"The file {str(path)!r} is no history: a JSON array of messages, whole. It was left as it is; move it away, "
        "or repair it.",
        key,
    )
