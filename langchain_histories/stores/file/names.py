"""The names, locks and rights of history files."""

from __future__ import annotations

import errno
import os
import re
import stat
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from langchain_histories._urls import read_url, shown_url
from langchain_histories.errors import ConfigurationError

_LOCKS = 64
_LOCK_FOLDER = ".locks"
_NAME_LENGTH = 200  # a file name has at most 255 bytes, and suffixes need some
_RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(10))}
_DRIVE = re.compile(r"/*[A-Za-z][:|](?:[\\/]|$)")
_SUFFIXES = tuple(f"{kind}json{end}" for kind in ("", "state.", "expiry.") for end in ("", ".tmp"))


class SessionFiles(NamedTuple):
    """The files of a session.

    Attributes:
        folder: The folder that holds all sessions. It must exist.
        history: The messages.
        state: The state.
        expiry: When the session expires.
        lock: The lock that writers of the session take.
        folders: Those of a long id, the innermost first.
    """

    folder: Path
    history: Path
    state: Path
    expiry: Path
    lock: Path
    folders: tuple[Path, ...] = ()


def session_files(folder: Path, key: str) -> SessionFiles:
    """Return the files of a session in a folder of sessions."""
    names = file_names(key)
    stem = folder.joinpath(*names)
    folders = tuple(folder.joinpath(*names[:length]) for length in range(len(names) - 1, 0, -1))
    first = names[0] if len(names) > 1 else names[0] + ".json"
    return SessionFiles(
        folder,
        stem.with_name(names[-1] + ".json"),
        stem.with_name(names[-1] + ".state.json"),
        stem.with_name(names[-1] + ".expiry.json"),
        lock_path(folder, first),
        folders,
    )


def single_file(path: Path) -> SessionFiles:
    """Return the files of a history that has a file of its own: those that a `FileStore` of its folder would use."""
    # Resolve symbolic links, because a replacement would otherwise take the place of the link.
    path = Path(os.path.realpath(path))
    stem, end = (path.name.removesuffix(".json"), ".json") if path.name.endswith(".json") else (path.name, "")
    state, expiry = (path.with_name(f"{stem}.{kind}{end}") for kind in ("state", "expiry"))
    return SessionFiles(path.parent, path, state, expiry, lock_path(path.parent, path.name))


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that names something.

    Raises:
        ConfigurationError: It is empty, has a NUL character or is no path.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigurationError(f"A path must be a non-empty str or a Path without NUL characters, not {path!r}.")
    return Path(text)


def url_path(url: Any) -> str:
    """Return the path that a `file:` URL names.

    Raises:
        ConfigurationError: It is another URL, or names a drive of Windows on another system, where it would be a
            folder at the root with a strange name.
    """
    parts = read_url(urlsplit, url, "file:///absolute/folder")
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise ConfigurationError(
            f"A file URL is 'file:///absolute/folder' or 'file:relative/folder', not {shown_url(url)!r}; "
            "with other characters percent-escaped, or pass path=."
        )
    path = url2pathname(parts.path)
    if os.name != "nt" and _DRIVE.match(path):
        raise ConfigurationError(
            f"{shown_url(url)!r} names a drive of Windows, and this system has none: "
            "give 'file:///absolute/folder', or path= if a folder really has this name."
        )
    return path


def file_names(key: str) -> list[str]:
    """Return the names of a session id: the folders, and the file without its suffix."""
    escaped = re.sub(rb"[^a-z0-9_-]", lambda found: b"%%%02X" % found[0][0], key.encode()).decode()
    names = [escaped[start : start + _NAME_LENGTH] for start in range(0, len(escaped), _NAME_LENGTH)]
    if names and names[-1] in _RESERVED:
        names[-1] = f"%{ord(names[-1][0]):02X}{names[-1][1:]}"
    return names


def session_key(names: list[str]) -> str | None:
    """Return the session id of these names; `None` if they are no session's."""
    try:
        key = unquote_to_bytes("".join(names)).decode()
    except UnicodeDecodeError:
        return None
    return key if file_names(key) == names else None


def stored_keys(folder: Path) -> set[str]:
    """Return the ids of all sessions that have a file in a folder."""

    def check(error: OSError) -> None:
        # Other writers make and remove the folders of long ids meanwhile.
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

    The locks are few: one per session would outlive its session and tell of it.
    """
    return folder / _LOCK_FOLDER / f"{zlib.crc32(name.lower().encode(errors='surrogateescape')) % _LOCKS:02x}"


def checked_mode(mode: object) -> int:
    """Return the mode of new files.

    Raises:
        ConfigurationError: It is no mode that lets the owner read and write.
    """
    if not isinstance(mode, int) or isinstance(mode, bool) or mode & ~0o777 or ~mode & 0o600:
        raise ConfigurationError(f"file_mode must be a mode such as 0o600 or 0o640, not {mode!r}.")
    return mode


def make_folder(path: Path, *, file_mode: int, fsync: bool) -> None:
    """Make a folder and those above it, if they are missing. Whoever may read its files may enter it."""
    if path.is_dir():
        return
    make_folder(path.parent, file_mode=file_mode, fsync=fsync)
    make_one_folder(path, file_mode=file_mode)
    if fsync:
        sync_folder(path.parent)


def make_one_folder(path: Path, *, file_mode: int) -> None:
    """Make a folder, unless another writer is faster."""
    mode = file_mode | (file_mode & 0o444) >> 2
    try:
        path.mkdir(mode)
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        path.chmod(mode)  # the umask may have taken something away


def check_folder(path: Path) -> None:
    """Look whether a folder is there.

    Raises:
        FileNotFoundError: It is not.
    """
    if not path.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder."""
    if os.name == "nt":  # which cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_itself(path: str, flags: int) -> int:
    """Open a file: not what a symbolic link in its place names, and without waiting for the writer of a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def open_new(path: str, flags: int) -> int:
    """Open a new file that is the owner's alone."""
    return os.open(path, flags, 0o600)


def status_of(path: Path) -> os.stat_result | None:
    """Return the status of a file itself; `None` if there is none, or a link in its place."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        return found if stat.S_ISREG(found.st_mode) else None
    return None


def give_rights(path: Path, old: os.stat_result | None, file_mode: int) -> None:
    """Give a new file the mode of the one it replaces, and its owner where the process may."""
    path.chmod(file_mode if old is None else stat.S_IMODE(old.st_mode))
    if old is not None and hasattr(os, "chown"):
        with suppress(OSError):
            os.chown(path, old.st_uid, old.st_gid)


def prepare_lock(path: Path, *, file_mode: int) -> int:
    """Make the folder of a lock, and return the mode of the lock.

    Raises:
        OSError: A link stands in the place of the folder or of the lock: filelock before 4.2 empties what it opens.
    """
    # Do not create parent folders: if they are missing, a disk may not be mounted.
    try:
        folder = path.parent.lstat()
    except FileNotFoundError:
        make_one_folder(path.parent, file_mode=file_mode)
        folder = path.parent.lstat()
    if not stat.S_ISDIR(folder.st_mode):
        raise _no_lock(path.parent)
    try:
        lock = path.lstat()
    except FileNotFoundError:
        return file_mode
    if not stat.S_ISREG(lock.st_mode) or lock.st_nlink > 1:
        raise _no_lock(path)
    return stat.S_IMODE(lock.st_mode) | 0o600


def _no_lock(path: Path) -> OSError:
    return OSError(
        errno.ELOOP, "No lock of this store, perhaps a link: look who put it there, and remove it", str(path)
    )
