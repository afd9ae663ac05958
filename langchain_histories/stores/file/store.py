"""Histories in files: a JSON array per session, as LangChain's `FileChatMessageHistory` keeps it.

A file has one record a line; see `_file_format`. An append writes over the closing bracket only, under a lock.
"""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from codecs import lookup
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock

from langchain_histories._clients import Clients
from langchain_histories.codec import CheckedRow, Row
from langchain_histories.errors import ConfigurationError, CorruptRecordError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.store import (
    ANY_STATE,
    AnyState,
    Capability,
    MessageStore,
    SessionRow,
    StoreOptions,
    position_number,
    redact_url,
)
from langchain_histories.stores.file.format import (
    EMPTY,
    Line,
    array,
    count_lines,
    doomed_offsets,
    encode_row,
    first_lines,
    foreign_lines,
    is_own,
    last_lines,
    lines_behind,
    lines_between,
    own_end,
    read_between,
    write_batch,
)
from langchain_histories.stores.file.names import (
    copy_rights,
    file_names,
    lock_path,
    make_folder,
    stored_keys,
    sync_folder,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Unpack

logger = logging.getLogger(__name__)

_LOCK_POLL = 0.002


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
            lines: list[Line] = []
            if (file := self._open(place, place.file, "r+b")) is not None:
                with file:
                    end = own_end(file)
                    if end is not None:
                        write_batch(file, end, batch, fsync=self.fsync)
                        return
                    lines = self._foreign_lines(file, place, key)
            self._write(place.file, array(lines, batch))

    async def _read(
        self,
        client: Path,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        offset = None if after is None else position_number(after)
        place = self._place(client, key)
        if (file := self._open(place, place.file)) is None:
            return []
        with file:
            end = own_end(file)
            lines: Sequence[Line]
            if end is None:
                lines = self._foreign_lines(file, place, key)
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
            lines = lines_behind(lines, after)
        return [self._row(line) for line in (lines[:first] if last is None else lines[-last:])]

    def _row(self, line: Line) -> Row:
        if self._encoding != "utf-8":
            with suppress(UnicodeDecodeError):
                return Row(line.text.decode(self._encoding), line.position)
        return CheckedRow(line.text, str(line.offset))

    def _foreign_lines(self, file: IO[bytes], place: _Place, key: str) -> list[Line]:
        try:
            return foreign_lines(read_between(file, 0, file.seek(0, os.SEEK_END)), self._encoding)
        except (ValueError, RecursionError):
            # Not chained: the error of the JSON parser has the whole text in it.
            raise _no_history(place.file, key) from None

    def _lines(self, place: _Place, key: str) -> list[Line]:
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
                if not is_own(file):
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

    async def _put_state(
        self, client: Path, key: str, text: str | None, *, instead_of: str | bytes | AnyState | None = ANY_STATE
    ) -> bool:
        place = self._place(client, key)
        with self._locked(place):
            if instead_of is not ANY_STATE and instead_of != await self._get_state(client, key):
                return False
            if text is None:
                self._remove(place, place.state)
            else:
                self._write(place.state, text.encode())
            return True

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
            path, stem.with_name(names[-1] + ".json"), stem.with_name(names[-1] + ".state.json"), lock_path(path, first)
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
        return _Place(path.parent, path, path.with_name(state), lock_path(path.parent, path.name))

    async def _clear(self, client: Path, key: str) -> None:
        place = self._place(client, key)
        with self._locked(place):
            self._check_history(place, key)
            if place.file.exists():
                self._write(place.file, EMPTY)
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
