"""The exceptions of the package.

Every error is a `HistoryError` and also the standard exception that a caller would expect (`ValueError`,
`ImportError`, ...). Messages name what failed, where, and what to do; they never contain a password or the text of
a message. A driver's own error is the `__cause__`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class HistoryError(Exception):
    """Base of all errors of this package."""

    def __str__(self) -> str:
        """The message alone: the other arguments are attributes, kept in `args` so that errors can be pickled."""
        return str(self.args[0]) if self.args else ""


class ConfigurationError(HistoryError, ValueError):
    """A URL, an option, a session id or a client that cannot be used."""


class InvalidMessageError(HistoryError, TypeError):
    """Something that is not a message, or that was refused by `on_unserializable="raise"`."""


class MissingExtraError(HistoryError, ImportError):
    """A driver or another package that is not installed."""


def missing_extra(extra: str, *, package: str = "langchain-histories") -> MissingExtraError:
    """The error for a package that is not installed, with the command that installs it.

    Args:
        extra: The extra that brings it.
        package: Whose extra that is; a plugin names itself.
    """
    return MissingExtraError(f"This needs a package that is not installed: pip install '{package}[{extra}]'")


@contextmanager
def needs_extra(extra: str, *, package: str = "langchain-histories") -> Iterator[None]:
    """Turn the `ImportError` of a driver that is imported inside into the error that names its extra."""
    try:
        yield
    except ImportError as error:
        raise missing_extra(extra, package=package) from error


class StoreError(HistoryError):
    """The store refused or failed an operation.

    Attributes:
        store: Name of the store, such as `redis`.
        operation: What was called, such as `append`.
        session_id: The session concerned, or `None` when the operation is about no single one.
    """

    def __init__(self, message: str, store: str = "", operation: str = "", session_id: str | None = None) -> None:
        """Keep what failed where."""
        super().__init__(message, store, operation, session_id)
        self.store = store
        self.operation = operation
        self.session_id = session_id


class StoreUnavailableError(StoreError):
    """The store could not be reached, did not answer in time, or refused the credentials."""


class CorruptRecordError(HistoryError, ValueError):
    """A stored record that cannot be read.

    Attributes:
        session_id: The session that holds it.
        position: Its position in the session, as in `Record.position`.
    """

    def __init__(self, message: str, session_id: str = "", position: str = "") -> None:
        """Keep where the record is."""
        super().__init__(message, session_id, position)
        self.session_id = session_id
        self.position = position


class SummaryError(HistoryError):
    """A summarizer that failed or returned nothing that can be used. The messages are stored."""


class SessionBusyError(HistoryError, RuntimeError):
    """Another turn of the session is under way, and was not to be waited for."""


class RecordTooLargeError(HistoryError, ValueError):
    """A message that is larger than the store can hold. Nothing of its batch was written."""


class UnsupportedOperationError(HistoryError, NotImplementedError):
    """An operation that this store does not have; see its `capabilities`."""
