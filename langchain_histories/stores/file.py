"""Histories in files: a JSON array per session, as LangChain's `FileChatMessageHistory` keeps it.

A file is one JSON array with one record a line, written in batches:

    [{"type": "human", ...},
    {"type": "ai", ...}
    ,{"type": "human", ...},
    {"type": "ai", ...}
    ]

A batch begins with `[` or `,`, goes on after a comma and a newline, and ends with a newline alone. An append writes
`,<batch>` over the closing bracket in one call, so what was complete never changes in place: readers need no lock, and
of a batch whose write has not ended, or never will, they see nothing. The next append writes over such a rest.

Any other JSON array of records is read as well: LangChain's, which is one line, or a pretty-printed one. The first
append brings it into the form above, in a new file that takes its place; there LangChain's records keep their offsets.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import zlib
from abc import abstractmethod
from codecs import lookup
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from filelock import FileLock

from langchain_histories._clients import Clients
from langchain_histories.codec import Row
from langchain_histories.errors import ConfigurationError, CorruptRecordError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.store import Capability, MessageStore, SessionRow, StoreOptions, position_number, redact_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Unpack

logger = logging.getLogger(__name__)

_CLOSING = b"]\n"
_EMPTY = b"[]"
_BLOCK = 16 * 1024
_LOCKS = 64
_LOCK_FOLDER = ".locks"
_LOCK_POLL = 0.002
_NAME_LENGTH = 200  # a file name has at most 255 bytes, and suffixes need some
_RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(10))}
_SUFFIXES = ("json", "json.tmp", "state.json", "state.json.tmp")

_OWN_HEAD = re.compile(rb'\[\{ *"(type|data|meta)"')
_LINE_ENDS = re.compile(rb"[\r\n]+\s*")
_FOREIGN_HEAD = re.compile(r"\ufeff?\s*\[\s*")
_FOREIGN_EMPTY = re.compile(r"\ufeff?\s*(\[\s*\]\s*)?\Z")
_FOREIGN_COMMA = re.compile(r"\s*,\s*")
_FOREIGN_END = re.compile(r"\s*\]\s*\Z")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


class _Line(NamedTuple):
    """A record as the file holds it, and the offset of its first byte."""

    offset: int
    text: bytes

    @property
    def position(self) -> str:
        return f"{self.offset}-{zlib.crc32(self.text):08x}"


class _Place(NamedTuple):
    """Where a session is kept."""

    root: Path
    file: Path
    state: Path
    lock: Path


class _FileOperations(MessageStore[Path]):
    """What a folder of sessions and a single file have in common. The client is the path of the folder or file.

    A relative path is resolved at each use, so it follows a change of the working directory.
    """

    name = "file"

    def __init__(
        self,
        path: str | os.PathLike[str],
        url: str | None = None,
        *,
        fsync: bool = True,
        lock_timeout: float = 30.0,
        encoding: str = "utf-8",
        ensure_ascii: bool = False,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where the files are and how they are written."""
        if not isinstance(lock_timeout, int | float) or isinstance(lock_timeout, bool) or not lock_timeout > 0:
            raise ConfigurationError(f"lock_timeout must be a positive number of seconds, not {lock_timeout!r}.")
        self.path, self.fsync, self.lock_timeout = _path(path), fsync, lock_timeout
        self._encoding, self._ensure_ascii = encoding, ensure_ascii
        super().__init__(Clients(client=self.path), url, **options)

    def __repr__(self) -> str:
        """Class and path."""
        return f"{type(self).__name__}({str(self.path)!r})"

    @abstractmethod
    def _place(self, path: Path, key: str) -> _Place:
        """Return where a session is."""

    @contextmanager
    def _locked(self, place: _Place) -> Iterator[None]:
        """Keep other writers of the session away, of all threads and processes."""
        # Not the folders above it: where these are missing, a disk may not be mounted.
        place.lock.parent.mkdir(exist_ok=True)
        # A lock object of its own for each use: one that is shared would not survive a fork.
        with FileLock(place.lock, timeout=self.lock_timeout).acquire(poll_interval=_LOCK_POLL):
            yield

    def _open(self, place: _Place, path: Path, mode: str = "rb") -> IO[bytes] | None:
        """Open a file of a session; `None` if there is none."""
        try:
            return path.open(mode, buffering=0)  # the caller's to close
        except FileNotFoundError:
            # For the same reason a folder that is not there is no empty history.
            if not place.root.is_dir():
                raise
            return None
        except IsADirectoryError:
            raise _no_history(path) from None

    async def _append(self, client: Path, key: str, rows: Sequence[str]) -> None:
        place = self._place(client, key)
        batch = [encode_row(row, self._encoding, ensure_ascii=self._ensure_ascii) for row in rows]
        with self._locked(place):
            lines: list[_Line] = []
            if (file := self._open(place, place.file, "r+b")) is not None:
                with file:
                    end = own_end(file)
                    if end is not None:
                        write_batch(file, end, batch, fsync=self.fsync)
                        return
                    lines = self._foreign_lines(file, place, key)
            self._write(place.file, array(lines, batch))

    async def _read(
        self, client: Path, key: str, *, last: int | None = None, after: str | None = None
    ) -> Sequence[Row]:
        offset = None if after is None else position_number(after)
        place = self._place(client, key)
        if (file := self._open(place, place.file)) is None:
            return []
        with file:
            end = own_end(file)
            lines: Sequence[_Line]
            if end is None:
                lines = self._foreign_lines(file, place, key)
            elif offset is not None:
                lines = lines_between(file, offset, end)
                if not lines or lines[0].position != after:
                    lines = lines_between(file, 0, end)
            elif last is not None:
                lines = last_lines(file, end, last)
            else:
                lines = lines_between(file, 0, end)
        if after is not None:
            lines = lines_behind(lines, after)
        return [self._row(line) for line in (lines if last is None else lines[-last:])]

    def _row(self, line: _Line) -> Row:
        text: str | bytes = line.text
        if self._encoding != "utf-8":
            with suppress(UnicodeDecodeError):
                text = line.text.decode(self._encoding)
        return Row(text, line.position)

    def _foreign_lines(self, file: IO[bytes], place: _Place, key: str) -> list[_Line]:
        try:
            return foreign_lines(read_between(file, 0, file.seek(0, os.SEEK_END)), self._encoding)
        except (ValueError, RecursionError):
            # Not chained: the error of the JSON parser has the whole text in it.
            raise _no_history(place.file, key) from None

    def _lines(self, place: _Place, key: str) -> list[_Line]:
        if (file := self._open(place, place.file)) is None:
            return []
        with file:
            end = own_end(file)
            return self._foreign_lines(file, place, key) if end is None else lines_between(file, 0, end)

    async def _count(self, client: Path, key: str) -> int:
        return self._session_row(client, key).count

    def _session_row(self, client: Path, key: str) -> SessionRow:
        place = self._place(client, key)
        if (file := self._open(place, place.file)) is None:
            return SessionRow(key, 0, None)
        with file:
            end = own_end(file)
            if end is None:
                lines = self._foreign_lines(file, place, key)
                return SessionRow(key, len(lines), self._row(lines[-1]).text if lines else None)
            return SessionRow(key, count_lines(file, end), self._row(last_lines(file, end, 1)[-1]).text)

    async def _replace(self, client: Path, key: str, rows: Sequence[str]) -> None:
        place = self._place(client, key)
        batch = [encode_row(row, self._encoding, ensure_ascii=self._ensure_ascii) for row in rows]
        with self._locked(place):
            self._check_history(place, key)
            self._write(place.file, array([], batch))

    def _check_history(self, place: _Place, key: str) -> None:
        """Refuse to put something in the place of a file that does not even begin as a history."""
        if (file := self._open(place, place.file)) is not None:
            with file:
                if not _OWN_HEAD.match(read_between(file, 0, 32)):
                    self._foreign_lines(file, place, key)

    async def _delete(self, client: Path, key: str, rows: Sequence[Row]) -> int:
        place = self._place(client, key)
        with self._locked(place):
            lines = self._lines(place, key)
            doomed = doomed_offsets(lines, [row.position for row in rows])
            if doomed:
                self._write(place.file, array([line for line in lines if line.offset not in doomed], []))
            return len(doomed)

    async def _get_state(self, client: Path, key: str) -> bytes | None:
        place = self._place(client, key)
        if (file := self._open(place, place.state)) is None:
            return None
        with file:
            return file.read()

    async def _put_state(self, client: Path, key: str, text: str | None) -> None:
        place = self._place(client, key)
        with self._locked(place):
            if text is None:
                self._remove(place, place.state)
            else:
                self._write(place.state, text.encode())

    def _write(self, path: Path, content: bytes) -> None:
        """Put a new file in the place of `path`: readers see the old one or the new one, whole."""
        make_folder(path.parent, fsync=self.fsync)
        beside = path.with_name(path.name + ".tmp")
        beside.unlink(missing_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666
        try:
            with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                file.write(content)
                file.flush()
                if self.fsync:
                    os.fsync(file.fileno())
            if path.exists():
                copy_rights(path, beside)
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        if self.fsync:
            sync_folder(path.parent)

    def _remove(self, place: _Place, *paths: Path) -> None:
        """Remove files of a session, and the folders that a long id has, once they are empty."""
        for path in paths:
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".tmp").unlink(missing_ok=True)
        folders = [folder for folder in place.file.parents if folder.is_relative_to(place.root)]
        for folder in folders[:-1]:
            with suppress(OSError):
                folder.rmdir()
        if self.fsync:
            sync_folder(next(folder for folder in folders if folder.is_dir()))


class FileStore(_FileOperations):
    """Keeps each session in a file of a folder, `<session id>.json`, where a text editor can read it.

    In the file name all but lower-case letters, digits, `-` and `_` is percent-escaped, as `%41` for `A`; a name of
    more than 200 characters goes on in folders. The state of a session is in `<session id>.state.json`. New files have
    the rights that the umask gives; replaced ones keep theirs.

    Writers of all processes on the machine exclude each other by locks in the folder `.locks`, which has up to 64
    files and is never cleaned up. Not for network file systems (NFS, SMB), whose locks and caches cannot be relied on.

    Args:
        url: `file:///absolute/folder` or `file:relative/folder`.
        path: The folder, in place of `url`. It is made if it is missing.
        fsync: Whether an append waits until the disk has it. Without that a power cut, not the end of a process, can
            lose the newest messages.
        lock_timeout: Seconds to wait for other writers of the session, then `StoreUnavailableError` is raised.
        **options: See `StoreOptions`. There is no `ttl`.
    """

    schemes = ("file",)

    def __init__(
        self,
        url: str | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        fsync: bool = True,
        lock_timeout: float = 30.0,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep the folder."""
        if (path is None) == (url is None):
            raise ConfigurationError("Pass a url or a path, and not both.")
        folder = path if path is not None else _url_path(str(url))
        super().__init__(folder, url, fsync=fsync, lock_timeout=lock_timeout, **options)

    @property
    def capabilities(self) -> Capability:
        """All but an async driver, batches that the file system keeps whole, and `TTL`."""
        return ~(Capability.NATIVE_ASYNC | Capability.ATOMIC_BATCH | Capability.TTL)

    def _place(self, path: Path, key: str) -> _Place:
        names = file_names(key)
        stem = path.joinpath(*names)
        first = names[0] if len(names) > 1 else names[0] + ".json"
        return _Place(
            path, stem.with_name(names[-1] + ".json"), stem.with_name(names[-1] + ".state.json"), _lock(path, first)
        )

    async def _setup(self, client: Path, *, upgrade: bool = False) -> None:  # noqa: ARG002
        make_folder(client, fsync=self.fsync)

    async def _clear(self, client: Path, key: str) -> None:
        place = self._place(client, key)
        with self._locked(place):
            self._remove(place, place.file, place.state)

    async def _sessions(
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
                logger.warning("%s It is left out of the list of sessions.", error)
                continue
            if row.count:
                found.append(row)
        return found

    async def _erase(self, client: Path, prefix: str) -> int:
        keys = [key for key in stored_keys(client) if key.startswith(prefix)]
        for key in keys:
            await self._clear(client, key)
        return len(keys)


class _SingleFileStore(_FileOperations):
    """One file, whatever the session is called."""

    @property
    def capabilities(self) -> Capability:
        """Those of `FileStore`, but there is nothing to list."""
        without = Capability.NATIVE_ASYNC | Capability.ATOMIC_BATCH | Capability.TTL
        return ~(without | Capability.SESSIONS | Capability.ERASE)

    def _place(self, path: Path, key: str) -> _Place:  # noqa: ARG002
        # The file itself, or else a replacement would end a symbolic link.
        path = Path(os.path.realpath(path))
        state = path.name.removesuffix(".json") + ".state.json" if path.name.endswith(".json") else path.name + ".state"
        return _Place(path.parent, path, path.with_name(state), _lock(path.parent, path.name))

    async def _clear(self, client: Path, key: str) -> None:
        place = self._place(client, key)
        with self._locked(place):
            self._check_history(place, key)
            if place.file.exists():
                self._write(place.file, _EMPTY)
            self._remove(place, place.state)


class FileChatMessageHistory(StoredChatMessageHistory):
    r"""A history in one file, with the constructor of LangChain's class of this name; reads and writes the same files.

    Unlike there, the constructor makes no file: the first addition does, and a missing file is an empty history. Its
    folder must exist. The lock is in a folder `.locks` beside the file, as with `FileStore`, whose files may be opened
    with this class. LangChain's own class takes no lock, so it must not write at the same time.

    Args:
        file_path: The file.
        encoding: Its encoding, one that contains ASCII; UTF-8 if `None`.
        ensure_ascii: Whether other characters are written as `\u` escapes.
    """

    store: _SingleFileStore

    def __init__(
        self, file_path: str | os.PathLike[str], *, encoding: str | None = None, ensure_ascii: bool = True
    ) -> None:
        """Join the store of this file."""
        path = _path(file_path)
        store = _SingleFileStore.shared(str(path), encoding=_check_encoding(encoding), ensure_ascii=ensure_ascii)
        super().__init__(store, os.fsencode(path.name or str(path)).decode("utf-8", "replace"))
        self.file_path = path
        self.encoding = encoding
        self.ensure_ascii = ensure_ascii


# The format of a file.


def array(lines: Sequence[_Line], batch: Sequence[bytes]) -> bytes:
    """Return the content of a new file with these records."""
    parts = [b",\n".join(texts) for texts in ([line.text for line in lines], batch) if texts]
    return b"[" + b"\n,".join(parts) + b"\n" + _CLOSING if parts else _EMPTY


def encode_row(text: str, encoding: str, *, ensure_ascii: bool) -> bytes:
    """Return a record as bytes; characters that the encoding does not have are escaped."""
    if not ensure_ascii:
        with suppress(UnicodeEncodeError):
            return text.encode(encoding)
    # Outside of strings JSON is ASCII, so the escapes of JSON strings fit everywhere.
    return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text).encode("ascii")


def read_between(file: IO[bytes], start: int, end: int) -> bytes:
    """Read the bytes from `start` to `end`; less if the file ends before."""
    file.seek(start)
    data = file.read(end - start)
    while len(data) < end - start and (more := file.read(end - start - len(data))):
        data += more
    return data


def blocks_from_end(file: IO[bytes], end: int) -> Iterator[tuple[int, bytes]]:
    """Yield longer and longer ends of what is before `end`, up to the whole, each with its start."""
    length = _BLOCK
    while length < end:
        yield end - length, read_between(file, end - length, end)
        length *= 4
    yield 0, read_between(file, 0, end)


def own_end(file: IO[bytes]) -> int | None:
    """Return the end of the last complete batch, or `None` if the file is not in our form.

    It reads the first and the last bytes, and more only where the last batch is not complete.
    """
    size = file.seek(0, os.SEEK_END)
    if not _OWN_HEAD.match(read_between(file, 0, 32)):
        return None
    start = max(0, size - 64)
    tail = read_between(file, start, size).rstrip()
    if tail.endswith(b"\n]"):
        return start + len(tail) - 1
    end = torn_end(file, size)
    if end is not None and tail.endswith(b"]"):
        # Either the bracket is in the text of a record that was cut there, or this is another program's array.
        return None if is_json(read_between(file, 0, size)) else end
    return end


def torn_end(file: IO[bytes], size: int) -> int | None:
    """Return the end of the last complete batch before `size`; `None` if there is none."""
    for start, data in blocks_from_end(file, size):
        newline = len(data)
        while (newline := data.rfind(b"\n", 1, newline)) > 0:
            if data[newline - 1] not in b",] \t\r\n":
                return start + newline + 1
    return None


def write_batch(file: IO[bytes], end: int, batch: Sequence[bytes], *, fsync: bool) -> None:
    """Write a batch over the closing bracket at `end`: the whole of it, or nothing.

    Raises:
        OSError: It could not be written; the file is as it was.
    """
    if file.seek(0, os.SEEK_END) > end + len(_CLOSING):
        # The rest of a batch that was never completed goes first, or a reader could see a mixture.
        file.truncate(end)
    try:
        write_at(file, end, b"," + b",\n".join(batch) + b"\n" + _CLOSING)
        if fsync:
            getattr(os, "fdatasync", os.fsync)(file.fileno())
    except OSError:
        with suppress(OSError):
            # First the bracket, in bytes that the file has: on a full disk others cannot be had.
            write_at(file, end, _CLOSING)
            file.truncate(end + len(_CLOSING))
        raise


def write_at(file: IO[bytes], start: int, data: bytes) -> None:
    """Write all of `data`. A full disk takes a part of it, and then raises."""
    file.seek(start)
    while data:
        data = data[file.write(data) :]


def split_lines(data: bytes, start: int) -> list[_Line]:
    """Return the records of complete lines, the first of which is at the offset `start`."""
    lines = []
    for line in data.split(b"\n"):
        lead = 1 if start == 0 or line[:1] == b"," else 0
        text = line[lead:].rstrip().removesuffix(b",")
        if text:
            lines.append(_Line(start + lead, text))
        start += len(line) + 1
    return lines


def lines_between(file: IO[bytes], start: int, end: int) -> list[_Line]:
    """Return the records from the offset `start` on."""
    return split_lines(read_between(file, start, end), start) if start < end else []


def last_lines(file: IO[bytes], end: int, last: int) -> list[_Line]:
    """Return the last n records; reads little more than them."""
    lines: list[_Line] = []
    for start, data in blocks_from_end(file, end):
        cut = data.find(b"\n") + 1 if start else 0
        lines = split_lines(data[cut:], start + cut)
        if len(lines) >= last:
            break
    return lines[-last:]


def count_lines(file: IO[bytes], end: int) -> int:
    """Return the number of records."""
    file.seek(0)
    count, offset = 0, 0
    while offset < end and (block := read_between(file, offset, min(end, offset + 64 * _BLOCK))):
        # Complete lines only: the rest is read again with the next block.
        complete = block.rfind(b"\n") + 1 or len(block)
        count += len(split_lines(block[:complete], offset))
        offset += complete
    return count


def lines_behind(lines: Sequence[_Line], after: str) -> Sequence[_Line]:
    """Return the records behind a position, or all if it is not there.

    Where it is no more, because records before it were removed, its checksum tells the record; of equal ones it is the
    first, so that none is missed.
    """
    checksum = after.partition("-")[2]
    for number, line in enumerate(lines):
        if line.position == after:
            return lines[number + 1 :]
    for number, line in enumerate(lines):
        if line.position.partition("-")[2] == checksum:
            return lines[number + 1 :]
    return lines


def doomed_offsets(lines: Sequence[_Line], positions: Sequence[str]) -> set[int]:
    """Return the offsets of the records at these positions, also where they have moved since."""
    exact = {line.position: line.offset for line in lines}
    doomed = {exact[position] for position in positions if position in exact}
    for position in positions:
        if position not in exact:
            checksum = position.partition("-")[2]
            moved = (line.offset for line in lines if line.position.partition("-")[2] == checksum)
            doomed.update([offset for offset in moved if offset not in doomed][:1])
    return doomed


def foreign_lines(data: bytes, encoding: str) -> list[_Line]:
    """Return the records of a JSON array in any form, each on one line.

    Raises:
        ValueError: It is not an array of records.
    """
    text = data.decode(encoding, "surrogateescape")
    lines: list[_Line] = []
    if _FOREIGN_EMPTY.match(text):
        return lines
    head = _FOREIGN_HEAD.match(text)
    if head is None:
        raise ValueError
    decoder = json.JSONDecoder()
    start, offset = head.end(), len(_encoded(head[0], encoding))
    while True:
        value, end = decoder.raw_decode(text, start)
        if not lines and not (isinstance(value, dict) and {"type", "data"} <= value.keys()):
            raise ValueError
        piece = _encoded(text[start:end], encoding)
        if b"\n" in piece or b"\r" in piece:
            # Line ends are between the parts of a record, never in its strings.
            lines.append(_Line(offset, _LINE_ENDS.sub(b"", piece)))
        else:
            lines.append(_Line(offset, piece))
        if _FOREIGN_END.match(text, end):
            return lines
        comma = _FOREIGN_COMMA.match(text, end)
        if comma is None:
            raise ValueError
        start = comma.end()
        offset += len(piece) + len(comma[0])


def _encoded(text: str, encoding: str) -> bytes:
    return text.encode(encoding, "surrogateescape")


def is_json(data: bytes) -> bool:
    """Whether this is a JSON document, in whatever encoding that contains ASCII."""
    try:
        json.loads(data.decode("latin-1"))
    except ValueError:
        return False
    except RecursionError:
        pass
    return True


# Names and rights of files.


def file_names(key: str) -> list[str]:
    """Return the folders and the file, without its suffix, that a session id has."""
    escaped = re.sub(rb"[^a-z0-9_-]", lambda found: b"%%%02X" % found[0][0], key.encode()).decode()
    names = [escaped[start : start + _NAME_LENGTH] for start in range(0, len(escaped), _NAME_LENGTH)]
    if names and names[-1] in _RESERVED:
        names[-1] = f"%{ord(names[-1][0]):02X}{names[-1][1:]}"
    return names


def session_key(names: list[str]) -> str | None:
    """Return the session id that has these names; `None` if none has."""
    try:
        key = unquote_to_bytes("".join(names)).decode()
    except UnicodeDecodeError:
        return None
    return key if file_names(key) == names else None


def stored_keys(folder: Path) -> set[str]:
    """Return the ids of all sessions of which a folder has anything."""

    def check(error: OSError) -> None:
        # The folders of long ids come and go.
        if not isinstance(error, FileNotFoundError) or not folder.is_dir():
            raise error

    keys = set()
    for parent, folders, files in os.walk(folder, onerror=check):
        folders[:] = [name for name in folders if "." not in name]
        names = Path(parent).relative_to(folder).parts
        for file in files:
            stem, _, suffix = file.partition(".")
            if suffix in _SUFFIXES and (key := session_key([*names, stem])) is not None:
                keys.add(key)
    return keys


def _lock(folder: Path, name: str) -> Path:
    """Return the lock of a file or of a folder of long ids.

    There are few locks, not one for each session, which would tell of sessions that are no more.
    """
    return folder / _LOCK_FOLDER / f"{zlib.crc32(name.lower().encode(errors='surrogateescape')) % _LOCKS:02x}"


def make_folder(path: Path, *, fsync: bool) -> None:
    """Make a folder and those above it, if they are missing."""
    if path.is_dir():
        return
    make_folder(path.parent, fsync=fsync)
    path.mkdir(exist_ok=True)
    if fsync:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder. Windows has no such thing."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_rights(source: Path, target: Path) -> None:
    """Give `target` the mode of `source`, and its owner where we may."""
    shutil.copymode(source, target)
    if hasattr(os, "chown"):
        with suppress(OSError):
            os.chown(target, source.stat().st_uid, source.stat().st_gid)


def _path(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigurationError(f"A path must be a non-empty str or a Path without NUL characters, not {path!r}.")
    return Path(text)


def _url_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise ConfigurationError(
            f"A file URL is 'file:///absolute/folder' or 'file:relative/folder', not {redact_url(url)!r}; "
            "with other characters percent-escaped, or pass path=."
        )
    return url2pathname(parts.path)


def _check_encoding(encoding: str | None) -> str:
    """Return the name of an encoding that keeps ASCII as it is: where records end is seen in the bytes."""
    ascii_characters = bytes(range(128))
    try:
        known = encoding is None or ascii_characters.decode("ascii").encode(encoding) == ascii_characters
    except (LookupError, ValueError, TypeError):
        known = False
    if not known:
        raise ConfigurationError(
            f"encoding must name an encoding that contains ASCII, such as 'utf-8', not {encoding!r}."
        )
    return "utf-8" if encoding is None else lookup(encoding).name


def _no_history(path: Path, key: str = "") -> CorruptRecordError:
    return CorruptRecordError(
        f"The file {str(path)!r} is no history: a JSON array of messages, whole. It was left as it is; move it away, "
        "or repair it.",
        key,
    )
