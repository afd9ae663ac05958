"""All that the author of a store needs: the page "Write a store" of the documentation leads through it.

An author writes an `Operations` class, which says what a service can do, and a `MessageStore` class, whose constructor
hands the operations and the `Clients` of the place to the base class.
"""

from langchain_histories._clients import Clients, ClientT
from langchain_histories._deadlines import Deadline, OutOfTimeError, deadline, time_left
from langchain_histories._neutral import each, entered, pause, settle
from langchain_histories._operations import ANY_STATE, ExpectedState, Found, NewestRow, Operations, SessionRow
from langchain_histories._options import (
    CONNECT_TIMEOUT,
    TIMEOUT,
    Capability,
    StoreOptions,
    bad_position,
    check_given_clients,
    check_max_connections,
    check_timeout,
    check_timeout_of_client,
    position_number,
)
from langchain_histories._session_ids import SessionId, prefix_end
from langchain_histories.codec import CheckedRow, ParsedRow, Row, Rows, same_rows
from langchain_histories.errors import ConfigurationError, RecordTooLargeError, missing_extra, needs_extra
from langchain_histories.store import MessageStore

__all__ = [
    "ANY_STATE",
    "CONNECT_TIMEOUT",
    "TIMEOUT",
    "Capability",
    "CheckedRow",
    "ClientT",
    "Clients",
    "ConfigurationError",
    "Deadline",
    "ExpectedState",
    "Found",
    "MessageStore",
    "NewestRow",
    "Operations",
    "OutOfTimeError",
    "ParsedRow",
    "RecordTooLargeError",
    "Row",
    "Rows",
    "SessionId",
    "SessionRow",
    "StoreOptions",
    "bad_position",
    "check_given_clients",
    "check_max_connections",
    "check_timeout",
    "check_timeout_of_client",
    "deadline",
    "each",
    "entered",
    "missing_extra",
    "needs_extra",
    "pause",
    "position_number",
    "prefix_end",
    "same_rows",
    "settle",
    "time_left",
]
