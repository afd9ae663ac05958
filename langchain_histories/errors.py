"""The exceptions of the package.

Every error is a `HistoryError` and also the standard exception that a caller would expect (`ValueError`,
`ImportError`, ...). Messages name what failed, where, and what to do; they never contain a password or the text of
a message. A driver's own error is the `__cause__`, unless it shows a secret.
"""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from langchain_histories import _forks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from langchain_core.messages import BaseMessage


class HistoryError(Exception):
    """Base of all errors of this package."""

    def __str__(self) -> str:
        """The message alone: the other arguments are attributes, kept in `args` so that errors can be pickled."""
        return str(self.args[0]) if self.args else ""


class ConfigurationError(HistoryError, ValueError):
    """A URL, an option, a session id or a client that cannot be used."""


class InvalidMessageError(HistoryError, TypeError, ValueError):
    """Something that is no message, or a message that `on_unserializable="raise"` refused.

    It is a `ValueError` too, because LangChain's `RunnableWithMessageHistory` raises that.
    """


class MissingExtraError(HistoryError, ImportError):
    """A driver or another package that is not installed."""


def missing_extra(extra: str, *, package: str = "langchain-histories") -> MissingExtraError:
    """Return the error for a driver that is not installed, with the command that installs it.

    Args:
        extra: The extra that brings the driver.
        package: The package that has this extra; a plugin gives its own name.
    """
    return MissingExtraError(f"This needs a package that is not installed: pip install '{package}[{extra}]'")


@contextmanager
def needs_extra(extra: str, *, package: str = "langchain-histories") -> Iterator[None]:
    """Turn the `ImportError` of a driver into the error that names its extra; the driver is imported inside.

    Args:
        extra: As for `missing_extra`.
        package: As for `missing_extra`.

    Raises:
        MissingExtraError: The driver is not installed.
    """
    try:
        with _forks.importing():
            yield
    except ImportError as error:
        raise missing_extra(extra, package=package) from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."


class StoreError(HistoryError):
    """The store refused or failed an operation.

    Attributes:
        store: Name of the store, such as `redis`.
        operation: What was called, such as `append`.
        session_id: The session concerned; `None` for an operation on several sessions or on none.
    """

    def __init__(self, message: str, store: str = "", operation: str = "", session_id: str | None = None) -> None:
        """Keep what failed where."""
        super().__init__(message, store, operation, session_id)
        self.store = store
        self.operation = operation
        self.session_id = session_id


class StoreUnavailableError(StoreError):
    """The store is down, did not answer in time, or refused the credentials.

    Attributes:
        batch: The messages of an append, which may have been stored: to append this stores them once. `None` if nothing
            was appended.
    """

    batch: Sequence[BaseMessage] | None = None


class TranscriptChangedError(StoreError):
    """A session is not as the caller read it, so what was asked for only if it is was not done."""


class RecordNotFoundError(HistoryError, LookupError):
    """A record that is not in the session, or not any more. Nothing was changed.

    Attributes:
        session_id: The session.
        id: What named the record: its id or its position.
    """

    def __init__(self, message: str, session_id: str = "", record_id: str = "") -> None:
        """Keep what was looked for where."""
        super().__init__(message, session_id, record_id)
        self.session_id = session_id
        self.id = record_id


class CorruptRecordError(HistoryError, ValueError):
    """A stored record that cannot be read.

    Attributes:
        session_id: The session of the record.
        position: The position of the record, as in `Record.position`.
        id: Derived from position and content, so that it means this record alone:
            `store.delete(session_id, [error.id])` removes it. Empty for a state.
    """

    def __init__(self, message: str, session_id: str = "", position: str = "", record_id: str = "") -> None:
        """Keep where the record is."""
        super().__init__(message, session_id, position, record_id)
        self.session_id = session_id
        self.position = position
        self.id = record_id


class CopyError(HistoryError):
    """A copy does not hold what was copied.

    Attributes:
        session_id: The session.
    """

    def __init__(self, message: str, session_id: str = "") -> None:
        """Keep which session it is."""
        super().__init__(message, session_id)
        self.session_id = session_id


class FileFormatError(HistoryError, ValueError):
    """A file that is to be imported is none of its format, or was cut.

    Attributes:
        path: The file.
        line: The number of the line, from 1.
    """

    def __init__(self, message: str, path: str = "", line: int = 0) -> None:
        """Keep where it is."""
        super().__init__(message, path, line)
        self.path = path
        self.line = line


class SummaryError(HistoryError):
    """A summarizer failed or returned no usable text. The messages are stored."""


class SessionBusyError(HistoryError, RuntimeError):
    """Another turn of the session is under way, and this one was told not to wait."""


class RecordTooLargeError(HistoryError, ValueError):
    """A message that is larger than the store can hold. Nothing of its batch was written."""


class UnsupportedOperationError(HistoryError, NotImplementedError):
    """An operation that this store lacks; see its `capabilities`."""
