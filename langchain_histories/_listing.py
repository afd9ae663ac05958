"""`Listing`: what a list of conversations shows of each session, its title, and the order from the newest on."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from typing import TYPE_CHECKING, Any

from langchain_histories._calls import Call
from langchain_histories._display import frame_of_sessions, html_of_sessions
from langchain_histories._moves import Moves
from langchain_histories._options import Capability, check_number
from langchain_histories._session_ids import user_prefix
from langchain_histories.codec import Row, record_time
from langchain_histories.errors import ConfigurationError, HistoryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pandas import DataFrame

    from langchain_histories._operations import NewestRow
    from langchain_histories._session_ids import SessionId

SESSION_KEY = "lh:session"
"""Where the state of a session has what `describe` wrote."""
_CHARACTERS_OF_A_LINE = 200
# How many sessions an operation is asked for at once, where it is not known how many of them are wanted.
_AT_ONCE = 200


@dataclasses.dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session in a listing.

    `sessions()` in the order of ids says the first three; `order="newest"` says all.

    Attributes:
        session_id: Its id.
        count: Number of stored records.
        last_at: When the last record was added, in UTC, by the clock of its writer; `None` where LangChain's classes
            wrote it.
        has_more: Whether it has more records than `count`, because a long session is not counted to its end.
        first_at: When its first record was added, as `last_at`.
        first_line: The first line of its first message, of 200 characters at most; `None` where it has no text.
        title: What `describe` called it.
        metadata: What `describe` was given.
        position: Token of its place, for `sessions(order="newest", after=…)`.
    """

    session_id: str
    count: int
    last_at: dt.datetime | None
    has_more: bool = False
    first_at: dt.datetime | None = None
    first_line: str | None = None
    title: str | None = None
    metadata: dict[str, Any] | None = dataclasses.field(default=None, hash=False)
    position: str | None = None


class SessionList(list[SessionInfo]):
    """A listing: a list that a notebook shows as a table."""

    def _repr_html_(self) -> str | None:
        return html_of_sessions(self)

    def to_pandas(self) -> DataFrame:
        """Return it as a table of pandas, a row for each session.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame_of_sessions(self)


@dataclasses.dataclass(frozen=True, slots=True)
class SessionDescription:
    """What a program says of a session.

    Attributes:
        title: Its title.
        metadata: What else the program keeps of it, such as whether it is archived.
    """

    title: str | None = None
    metadata: dict[str, Any] | None = dataclasses.field(default=None, hash=False)


class Listing(Moves):
    """The methods of a store for titles, and what `sessions(order="newest")` does."""

    if TYPE_CHECKING:

        def get_state(self, session_id: SessionId) -> dict[str, Any] | None: ...
        async def aget_state(self, session_id: SessionId) -> dict[str, Any] | None: ...
        def update_state(self, session_id: SessionId, change: Callable[[Any], Any]) -> dict[str, Any] | None: ...
        async def aupdate_state(self, session_id: SessionId, change: Callable[[Any], Any]) -> dict[str, Any] | None: ...

    def describe(
        self, session_id: SessionId, *, title: str | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        """Give a session a title, or metadata for a list of conversations. What is not given stays as it is.

        Both are in the state of the session, and go with it: `clear` and `erase` remove them, `copy`, `fork` and
        `rename` take them along. `put_state` replaces the whole state; use `update_state` beside them.

        Args:
            session_id: The session. It is listed when it has messages.
            title: The title; an empty one removes it.
            metadata: A dict of what a state can hold, in place of the one before; an empty one removes it.
        """
        self.update_state(session_id, _describing(title, metadata))

    async def adescribe(
        self, session_id: SessionId, *, title: str | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        """Async `describe`."""
        await self.aupdate_state(session_id, _describing(title, metadata))

    def description(self, session_id: SessionId) -> SessionDescription:
        """Return the title and the metadata of a session."""
        return _description(self.get_state(session_id))

    async def adescription(self, session_id: SessionId) -> SessionDescription:
        """Async `description`."""
        return _description(await self.aget_state(session_id))

    def _newest(
        self,
        prefix: str,
        user_id: SessionId | None,
        limit: int | None,
        after: Any,
        times: tuple[dt.datetime | None, dt.datetime | None],
    ) -> Call[list[SessionInfo]]:
        since, until = times
        check_number("limit", limit)
        for name, time in (("since", since), ("until", until)):
            if time is not None and (not isinstance(time, dt.datetime) or time.tzinfo is None):
                raise ConfigurationError(f"{name} must be a datetime with a time zone, not {time!r}.")
        start = prefix if user_id is None else user_prefix(user_id) + prefix

        def is_wanted(info: SessionInfo) -> bool:
            at = info.last_at
            if since is None and until is None:
                return True
            return at is not None and (since is None or since <= at) and (until is None or at < until)

        async def body(client: Any) -> list[SessionInfo]:
            operations, found, place = self.operations, list[SessionInfo](), after
            prefixes = operations.key_prefixes(start)
            at_once = _AT_ONCE if limit is None else min(limit, _AT_ONCE)
            while limit is None or len(found) < limit:
                rows = await operations.newest(client, prefixes=prefixes, limit=at_once, after=place)
                # An escaped key may belong to an id that starts with something else.
                listed = [self._info(row) for row in rows if operations.session_id(row.key).startswith(start)]
                found += filter(is_wanted, listed)
                if len(rows) < at_once:
                    break
                place, at_once = rows[-1].position, min(2 * at_once, _AT_ONCE)
            return found[:limit]

        return Call("sessions", None, body, nothing=list, is_read=True, capability=Capability.NEWEST, grows=True)

    def _info(self, row: NewestRow) -> SessionInfo:
        session_id = self.operations.session_id(row.key)
        description = SessionDescription()
        if row.state is not None:
            with contextlib.suppress(HistoryError):  # a state that cannot be read hides no session
                description = _description(self.format.decode_state(row.state, session_id))
        return SessionInfo(
            session_id,
            row.count,
            record_time(row.last),
            has_more=row.has_more,
            first_at=record_time(row.first),
            first_line=self._first_line(row.first, session_id),
            title=description.title,
            metadata=description.metadata,
            position=row.position,
        )

    def _first_line(self, text: str | bytes | None, session_id: str) -> str | None:
        """Return the first line of the message of a record, if it has one and can be read."""
        try:
            (record,) = self.format.decode_stored([Row(text or "", "")], session_id)
            content = record["data"]["content"]
        except (HistoryError, ValueError, KeyError, TypeError):
            return None
        for block in content if isinstance(content, list) else [content]:
            said = block.get("text") if isinstance(block, dict) else block
            for line in said.splitlines() if isinstance(said, str) else ():
                if line.strip():
                    return line.strip()[:_CHARACTERS_OF_A_LINE]
        return None


def _description(state: dict[str, Any] | None) -> SessionDescription:
    kept = (state or {}).get(SESSION_KEY)
    if not isinstance(kept, dict):
        return SessionDescription()
    title, metadata = kept.get("title"), kept.get("metadata")
    return SessionDescription(
        title if isinstance(title, str) else None,
        metadata if isinstance(metadata, dict) else None,
    )


def _describing(
    title: str | None, metadata: dict[str, Any] | None
) -> Callable[[dict[str, Any] | None], dict[str, Any] | None]:
    """Return the change of a state that says this of its session.

    Raises:
        ConfigurationError: One of both is of another type.
    """
    if title is not None and not isinstance(title, str):
        raise ConfigurationError(f"title must be a str, not {type(title).__name__}.")
    if metadata is not None and not isinstance(metadata, dict):
        raise ConfigurationError(f"metadata must be a dict, not {type(metadata).__name__}.")

    def change(state: dict[str, Any] | None) -> dict[str, Any] | None:
        kept = (state or {}).get(SESSION_KEY)
        said = dict(kept) if isinstance(kept, dict) else {}
        said |= {name: value for name, value in (("title", title), ("metadata", metadata)) if value is not None}
        said = {name: value for name, value in said.items() if value or name not in ("title", "metadata")}
        others = {name: value for name, value in (state or {}).items() if name != SESSION_KEY}
        return (others | {SESSION_KEY: said} if said else others) or None

    return change
