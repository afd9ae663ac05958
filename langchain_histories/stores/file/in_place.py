"""Edits of the end of a long file, which change it in place, because a copy of it would cost what it holds.

Who edits writes down the new end first: in the note beside the lock, of which there is one for each lock. Then the note
gets another token, the end is put into the file, and last the note is emptied but for the token. A note that is whole
and not emptied is an edit that somebody is at, or that was killed: the next writer does it again, and readers, who take
no lock, see the new end in the note. Whoever finds another token behind a read than before it reads again. The token
comes behind the end that it is for, so who has seen a token either sees that end whole, or it is in the file.
"""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from langchain_histories.stores.file.format import read_between, write_at
from langchain_histories.stores.file.names import open_itself, open_new, sync_folder

if TYPE_CHECKING:
    from langchain_histories.stores.file.names import SessionFiles

TOKEN = 16  # bytes
_BEFORE = 64  # bytes in front of the end, by which the file is known again


class Ending(NamedTuple):
    """The end that a file is to have.

    Attributes:
        name: The file, from the folder of all sessions.
        start: Where the end begins. What is before it stays.
        before: The checksum of what stands right before it.
        size: How long the file was, or will be: the larger of both.
        data: The end.
    """

    name: str
    start: int
    before: int
    size: int
    data: bytes

    def belongs_to(self, file: IO[bytes]) -> bool:
        """Whether this is the end of the file as it is: not of another one that has its place now, or was longer."""
        size = file.seek(0, os.SEEK_END)
        return self.start <= size <= self.size and self.before == _checksum_before(file, self.start)


def read_note(files: SessionFiles, size: int = -1) -> bytes:
    """Return the first bytes of the note beside a lock, or all of it; nothing if there is none."""
    try:
        with open(_note_of(files), "rb", buffering=0, opener=open_itself) as note:
            return note.read(size)
    except OSError:
        # There is none: who may read the history may read the note, which has the mode of histories.
        return b""


def ending_of(note: bytes) -> Ending | None:
    """Return the end that a note says; `None` if it is emptied, or its writer was killed before it was whole."""
    _, _, rest = note[TOKEN:].partition(b"\n")
    checksum, _, text = rest.partition(b"\n")
    if checksum != _checksum(text):
        return None
    head, _, data = text.partition(b"\n")
    name, start, before, size = json.loads(head)
    return Ending(name, start, before, size, data)


def shown(file: IO[bytes], files: SessionFiles, note: bytes) -> Any:
    """Return a file as readers see it: with the end that the note says, if it says one of this file."""
    ending = ending_of(note) if len(note) > TOKEN else None
    if ending is None or ending.name != _name(files) or not ending.belongs_to(file):
        return file
    return _WithEnding(file, ending)


def finish(files: SessionFiles, *, fsync: bool) -> None:
    """Do what the note beside the lock says, under this lock: its writer was killed."""
    note = read_note(files)
    if len(note) <= TOKEN:
        return
    ending = ending_of(note)
    if ending is not None and ".." not in Path(ending.name).parts:
        with (
            suppress(FileNotFoundError),
            open(files.folder / ending.name, "r+b", buffering=0, opener=open_itself) as file,
        ):
            if ending.belongs_to(file):
                _put(file, ending, fsync=fsync)
    with open(_note_of(files), "r+b", buffering=0, opener=open_itself) as opened:
        _empty(opened, fsync=fsync)


def change_end(files: SessionFiles, file: IO[bytes], start: int, data: bytes, *, file_mode: int, fsync: bool) -> None:
    """Put `data` in place of what a file has from `start` on, under its lock: all of it, or nothing.

    Raises:
        OSError: It could not be written; the file is as it was.
    """
    size = file.seek(0, os.SEEK_END)
    old = read_between(file, start, size)
    ending = Ending(_name(files), start, _checksum_before(file, start), max(size, start + len(data)), data)
    text = json.dumps(ending[:-1]).encode() + b"\n" + data
    path = _note_of(files)
    is_new = not path.exists()
    with open(path, "x+b" if is_new else "r+b", buffering=0, opener=open_new if is_new else open_itself) as note:
        if is_new:
            path.chmod(file_mode)
        try:
            write_at(note, TOKEN, b"\n" + _checksum(text) + b"\n" + text)
            write_at(note, 0, os.urandom(TOKEN // 2).hex().encode())
            _sync(note, fsync=fsync)
            if is_new and fsync:
                sync_folder(path.parent)
        except OSError:
            note.truncate(TOKEN)
            raise
        try:
            _put(file, ending, fsync=fsync)
        except OSError:
            # Over bytes that the file already has: a full disk gives no others. Where that fails too, the note stays.
            write_at(file, start, old)
            file.truncate(size)
            note.truncate(TOKEN)
            with suppress(OSError):
                _sync(file, fsync=fsync)
                _sync(note, fsync=fsync)
            raise
        _empty(note, fsync=fsync)


class _WithEnding:
    """A file with another end, to be read."""

    def __init__(self, file: IO[bytes], ending: Ending) -> None:
        self._file, self._ending, self._at = file, ending, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (self._ending.start + len(self._ending.data) if whence == os.SEEK_END else 0)
        return self._at

    def read(self, size: int) -> bytes:
        if self._at < (start := self._ending.start):
            data = read_between(self._file, self._at, min(self._at + size, start))
        else:
            data = self._ending.data[self._at - start :][:size]
        self._at += len(data)
        return data


def _put(file: IO[bytes], ending: Ending, *, fsync: bool) -> None:
    write_at(file, ending.start, ending.data)
    file.truncate(ending.start + len(ending.data))
    _sync(file, fsync=fsync)


def _empty(note: IO[bytes], *, fsync: bool) -> None:
    # Before the lock is let go, and on the disk: what is appended next must not be undone.
    note.truncate(TOKEN)
    _sync(note, fsync=fsync)


def _sync(file: IO[bytes], *, fsync: bool) -> None:
    if fsync:
        getattr(os, "fdatasync", os.fsync)(file.fileno())


def _checksum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)


def _checksum_before(file: IO[bytes], start: int) -> int:
    return zlib.crc32(read_between(file, max(0, start - _BEFORE), start))


def _note_of(files: SessionFiles) -> Path:
    return files.lock.with_name(files.lock.name + ".edit")


def _name(files: SessionFiles) -> str:
    return files.history.relative_to(files.folder).as_posix()
