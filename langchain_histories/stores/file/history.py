"""`FileChatMessageHistory`: LangChain's class of this name, over a store of one file."""

from __future__ import annotations

import os
from codecs import lookup
from typing import TYPE_CHECKING

from langchain_histories.errors import ConfigurationError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.stores.base import TIMEOUT, Clients, MessageStore, StoreOptions
from langchain_histories.stores.file.names import checked_mode, checked_path

if TYPE_CHECKING:
    from typing import Unpack


class SingleFileStore(MessageStore):
    r"""Keeps one history in one file, under any session id.

    Args:
        path: The file. Its folder must exist.
        encoding: The encoding of the file, one that contains ASCII; UTF-8 if `None`.
        ensure_ascii: Whether all but ASCII is written as `\u` escapes.
        file_mode: The mode of the file, if it is new; one that exists keeps its own.
        **options: See `StoreOptions`. `ttl` is supported.

    Raises:
        ConfigurationError: An argument cannot be used.

    Attributes:
        path: The file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        encoding: str | None = None,
        ensure_ascii: bool = False,
        file_mode: int = 0o600,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep the file."""
        # Imported here, because programs that use other stores need no filelock.
        from langchain_histories.stores.file.operations import SingleFileOperations

        self.path = checked_path(path)
        operations = SingleFileOperations(
            encoding=_checked_encoding(encoding), ensure_ascii=ensure_ascii, file_mode=checked_mode(file_mode)
        )
        # A path is no connection, so no other store shares its clients.
        super().__init__(operations, Clients(client=self.path), f"file:{self.path}", timeout=TIMEOUT, **options)


class FileChatMessageHistory(StoredChatMessageHistory):
    r"""A history in one file, with the constructor of LangChain's class of this name; reads and writes the same files.

    Unlike there, the constructor makes no file: the first addition does, and a missing file is an empty history. Its
    folder must exist. The lock is in a folder `.locks` beside the file, as with `FileStore`, so this class may open
    the files of a `FileStore`. LangChain's own class takes no lock, so it must not write at the same time.

    Args:
        file_path: The file.
        encoding: Its encoding, one that contains ASCII; UTF-8 if `None`.
        ensure_ascii: Whether other characters are written as `\u` escapes.
        file_mode: The mode of the file, if it is new; one that exists keeps its own. LangChain's class leaves it to the
            umask.
    """

    store: SingleFileStore

    def __init__(
        self,
        file_path: str | os.PathLike[str],
        *,
        encoding: str | None = None,
        ensure_ascii: bool = True,
        file_mode: int = 0o600,
    ) -> None:
        """Keep the file."""
        store = SingleFileStore(file_path, encoding=encoding, ensure_ascii=ensure_ascii, file_mode=file_mode)
        # The file name is the session id in messages; a name need not be valid Unicode text.
        super().__init__(store, os.fsencode(store.path.name or str(store.path)).decode("utf-8", "replace"))
        self.file_path = store.path
        self.encoding = encoding
        self.ensure_ascii = ensure_ascii


def _checked_encoding(encoding: str | None) -> str:
    """Return the name of an encoding that leaves ASCII as it is, because the ends of records are found in the bytes."""
    ascii_characters = bytes(range(128))
    try:
        contains_ascii = encoding is None or ascii_characters.decode("ascii").encode(encoding) == ascii_characters
    except (LookupError, ValueError, TypeError):
        contains_ascii = False
    if not contains_ascii:
        raise ConfigurationError(
            f"encoding must name an encoding that contains ASCII, such as 'utf-8', not {encoding!r}."
        )
    return "utf-8" if encoding is None else lookup(encoding).name
