"""The files of SQLite: nobody else may read them, no removed text is left in them, and no child inherits them.

SQLite gives the write-ahead log and its index the mode of the database, so this makes the file of a new database
before SQLite does. Removed rows are overwritten in the database (`secure_delete`) and still stand in the log until a
checkpoint empties it, which `EngineOperations` asks for.

SQLite knows by process which locks it holds on a file. In a child it believes that it holds those of its parent, takes
none, and writes on into a log that others have removed. So nobody may have the file open when its process forks.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import url2pathname

from langchain_histories import _forks

if TYPE_CHECKING:
    from collections.abc import Callable

_MODE = 0o600
_inherited: set[tuple[int, int]] = set()


def private(factory: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return a `factory` of connections whose new files are the owner's alone, and which overwrite what they remove.

    Args:
        factory: The caller's own, in place of the class of connections.
    """
    connect = factory or sqlite3.Connection

    def open_connection(database: Any, *args: Any, **options: Any) -> Any:
        if (path := new_file(os.fsdecode(database), is_uri=bool(options.get("uri")))) is not None:
            # What hinders this hinders SQLite too, which says so.
            with suppress(OSError):
                os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, _MODE))
        connection = connect(database, *args, **options | {"factory": connect})
        connection.execute("PRAGMA secure_delete=ON").close()
        return connection

    return open_connection


def new_file(database: str, *, is_uri: bool) -> str | None:
    """The path of the file that SQLite makes if it is missing; `None` if it makes none."""
    if not is_uri or not database.startswith("file:"):
        return None if database in ("", ":memory:") else database
    parts = urlsplit(database)
    query = parse_qs(parts.query)
    return url2pathname(parts.path) if query.get("mode", ["rwc"]) == ["rwc"] and "vfs" not in query else None


@_forks.in_child
def _note_inherited() -> None:
    """Note which files the parent had open, whoever opened them."""
    _inherited.clear()
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):  # noqa: PTH208  # names are numbers
            with suppress(OSError):
                found = os.fstat(int(name))
                if stat.S_ISREG(found.st_mode):
                    _inherited.add((found.st_dev, found.st_ino))


def is_inherited(path: str) -> bool:
    """Whether the parent of this process had a file open when it forked."""
    if _inherited and path:
        with suppress(OSError):
            found = os.stat(path)  # noqa: PTH116
            return (found.st_dev, found.st_ino) in _inherited
    return False
