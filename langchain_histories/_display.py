"""What a notebook shows of histories, listings and registries, and their tables of pandas."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from langchain_histories._deadlines import at_most
from langchain_histories._pages import piece, table
from langchain_histories._plain import plain, plain_fields
from langchain_histories.errors import needs_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pandas import DataFrame

    from langchain_histories._listing import SessionInfo
    from langchain_histories.codec import Record
    from langchain_histories.store import MessageStore

logger = logging.getLogger(__name__)

_NEWEST = 20
_SECONDS = 2.0


def html_of_session(title: str, store: MessageStore, session_id: str) -> str | None:
    """Return the newest records of a session as HTML, and how many there are before them.

    It is read now, in two seconds at most. `None`, for which a notebook shows the plain form, where that cannot be
    done: on any error, and in a store without a sync face.
    """

    def read() -> str:
        records = store.records(session_id, last=_NEWEST + 1)
        hidden = store.count(session_id) - _NEWEST if len(records) > _NEWEST else 0
        note = f"{hidden:,} earlier messages are not shown." if hidden > 0 else "" if records else "No messages."
        return piece(title, note, records[-_NEWEST:])

    return _unless_it_fails(read)


def html_of_sessions(sessions: Sequence[SessionInfo]) -> str | None:
    """Return a listing as a table."""
    shown = sessions[:_NEWEST]
    rows = [(it.session_id, it.title, it.first_line, it.count, _time(it.first_at), _time(it.last_at)) for it in shown]
    left = len(sessions) - len(shown)
    note = f"{left:,} more sessions are not shown." if left else ""
    head = ("session", "title", "first line", "messages", "first", "last")
    wanted = [at for at, name in enumerate(head) if name in ("session", "messages") or any(row[at] for row in rows)]
    cells = [[row[at] for at in wanted] for row in rows]
    return _unless_it_fails(lambda: table(f"{len(sessions):,} sessions", note, [head[at] for at in wanted], cells))


def html_of_stores(title: str, stores: Mapping[str, MessageStore], default: str | None) -> str | None:
    """Return the stores of a registry as a table, without a read."""
    rows = [(name, repr(store), "default" if name == default else None) for name, store in stores.items()]
    return _unless_it_fails(lambda: table(title, "", ("name", "store", ""), rows))


def frame_of_records(records: Sequence[Record]) -> DataFrame:
    """Return records as a table of pandas, a row each.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    return _frame([_row(record) for record in records], ("id", "at", "type", "name", "content", "tool_calls", "meta"))


def frame_of_sessions(sessions: Sequence[SessionInfo]) -> DataFrame:
    """Return a listing as a table of pandas, a row for each session.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    names = ("session_id", "title", "first_line", "count", "first_at", "last_at", "metadata")
    return _frame([{name: getattr(it, name) for name in names} for it in sessions], names)


def _row(record: Record) -> dict[str, Any]:
    fields = plain_fields(record.message)
    return {
        "id": record.id,
        "at": record.at,
        "type": record.message.type,
        "name": fields.get("name"),
        "content": fields["content"],
        "tool_calls": fields.get("tool_calls") or None,
        "meta": plain(record.meta) if record.meta else None,
    }


def _frame(rows: list[dict[str, Any]], columns: Sequence[str]) -> DataFrame:
    with needs_extra("pandas"):
        import pandas as pd
    frame = pd.DataFrame(rows, columns=list(columns))
    for name in columns:
        if name == "at" or name.endswith("_at"):
            frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame


def _time(at: Any) -> str | None:
    return None if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def _unless_it_fails(make: Callable[[], str]) -> str | None:
    try:
        with at_most(_SECONDS):
            return make()
    except Exception as error:  # noqa: BLE001  # a display must not break the cell that it belongs to
        logger.debug("No display, because of %s", type(error).__name__)
        return None
