"""`FileStore`: histories in the files of a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import TIMEOUT, Clients, MessageStore, StoreOptions, check_timeout
from langchain_histories.stores.file.names import checked_mode, checked_path, url_path

if TYPE_CHECKING:
    import os
    from typing import Unpack


class FileStore(MessageStore):
    """Keeps each session in a file of a folder, `<session id>.json`, where a text editor can read it.

    The file name percent-escapes all but lower-case letters, digits, `-` and `_`, as `%41` for `A`; a name of more than
    200 characters goes on in folders. The state of a session is in `<session id>.state.json`. New files are the owner's
    alone, and replaced ones keep their mode. A symbolic link in place of a file in the folder is not followed.

    Writers of all processes on the machine exclude each other by locks in the folder `.locks`, which has up to 64
    files and is never cleaned up. Not for network file systems (NFS, SMB), because their locks and caches cannot be
    relied on.

    Args:
        url: `file:///absolute/folder` or `file:relative/folder`.
        path: The folder, in place of `url`. The first use of the store makes it if it is missing; a folder that
            disappears later is an error, because its disk may not be mounted.
        fsync: Whether an append waits until the disk has it. Without that a power cut, not the end of a process, can
            lose the newest messages.
        timeout: Seconds after which a call that gets no lock or no turn raises `StoreUnavailableError`; 10 by default.
        file_mode: The mode of new files, whatever the umask is; who may read new files may enter new folders.
        **options: See `StoreOptions`. `ttl` is supported.

    Raises:
        ConfigurationError: An argument cannot be used.

    Attributes:
        path: The folder.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        fsync: bool = True,
        timeout: float | None = None,
        file_mode: int = 0o600,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep the folder."""
        # Imported here, because programs that use other stores need no filelock.
        from langchain_histories.stores.file.operations import FolderOperations

        if (path is None) == (url is None):
            raise ConfigurationError("Pass a url or a path, and not both.")
        self.path = checked_path(url_path(url) if path is None else path)
        # A path is no connection, so no other store shares its clients.
        clients = Clients(client=self.path)
        operations = FolderOperations(fsync=fsync, file_mode=checked_mode(file_mode))
        limit = check_timeout(timeout) or TIMEOUT
        super().__init__(operations, clients, f"file:{self.path}", timeout=limit, **options)
