"""The names, locks and rights of history files."""

from __future__ import annotations

import os
import re
import shutil
import zlib
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote_to_bytes

_LOCKS = 64
_LOCK_FOLDER = ".locks"
_NAME_LENGTH = 200  # a file name has at most 255 bytes, and suffixes need some
_RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(10))}
_SUFFIXES = ("json", "json.tmp", "state.json", "state.json.tmp")


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


def lock_path(folder: Path, name: str) -> Path:
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
