"""`Pruning`: sessions that nobody has appended to for long, and those that have expired, are removed."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import TYPE_CHECKING, Any

from langchain_histories._calls import Call
from langchain_histories._listing import Listing
from langchain_histories._options import Capability, check_number
from langchain_histories.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_histories._listing import SessionInfo
    from langchain_histories._session_ids import SessionId
    from langchain_histories.codec import Row

_PAGE = 200  # sessions listed at once


@dataclasses.dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune` found.

    Attributes:
        sessions: The ids of the sessions that it removed; with `dry_run` of those that it would have.
        unknown: Those of sessions whose last record has no time, because LangChain's classes wrote it or it cannot be
            read. They were left.
    """

    sessions: list[str]
    unknown: list[str]


class Pruning(Listing):
    """The methods of a store that remove old sessions."""

    if TYPE_CHECKING:

        def _sessions(
            self, prefix: str, user_id: SessionId | None, limit: int | None, after: SessionId | None
        ) -> Call[list[SessionInfo]]: ...

    def prune(self, *, older_than: dt.timedelta | dt.datetime, dry_run: bool = False, unknown: bool = False) -> Pruned:
        """Remove all sessions whose last record is older than this, with their states.

        A session that is appended to meanwhile stays, with all its records, on stores that have `Capability.EDIT`;
        on others it is looked at a last time before it is removed. The time is that of the clock of who appended. To
        list all sessions costs as `sessions()` does, and each that is removed is read.

        Args:
            older_than: How long ago the last record was added at least; or a time with a time zone.
            dry_run: Remove nothing, and return what would be.
            unknown: Also remove sessions whose time is unknown.

        Raises:
            ConfigurationError: `older_than` is in the future, or has no time zone.
            UnsupportedOperationError: The store cannot list or remove sessions.
        """
        return self._run(self._prune(older_than, dry_run=dry_run, unknown=unknown))

    async def aprune(
        self, *, older_than: dt.timedelta | dt.datetime, dry_run: bool = False, unknown: bool = False
    ) -> Pruned:
        """Async `prune`."""
        return await self._arun(self._prune(older_than, dry_run=dry_run, unknown=unknown))

    def sweep(self, *, limit: int = 100) -> int:
        """Remove what is left of sessions that have expired. Nobody sees it any more; it takes room.

        It may be called beside appends. Call it again while it returns `limit`. Redis removes what has expired itself.

        Args:
            limit: At most so many sessions.

        Returns:
            Of how many sessions something was removed.

        Raises:
            UnsupportedOperationError: The store has no `ttl`.
        """
        return self._run(self._sweep(limit))

    async def asweep(self, *, limit: int = 100) -> int:
        """Async `sweep`."""
        return await self._arun(self._sweep(limit))

    def _sweep(self, limit: int) -> Call[int]:
        check_number("limit", limit)
        if Capability.TTL not in self.capabilities:
            raise self.operations.unsupported("sweep")

        async def body(client: Any) -> int:
            return await self.operations.sweep(client, limit)

        return Call("sweep", None, body, nothing=int, capability=Capability.TTL, grows=True)

    def _prune(self, older_than: dt.timedelta | dt.datetime, *, dry_run: bool, unknown: bool) -> Call[Pruned]:
        before, needed = _time_before(older_than), Capability.SESSIONS | Capability.ERASE
        if needed not in self.capabilities:
            raise self.operations.unsupported("prune")

        async def body(client: Any) -> Pruned:
            found, after = Pruned([], []), None
            while True:
                page = await self._sessions("", None, _PAGE, after).body(client)
                for info in page:
                    at = info.last_at or await self._last_time(client, info.session_id)
                    if at is None and not unknown:
                        found.unknown.append(info.session_id)
                    elif (at is None or at < before) and (
                        dry_run or await self._prune_session(client, info.session_id, before, unknown=unknown)
                    ):
                        found.sessions.append(info.session_id)
                if len(page) < _PAGE:
                    return found
                after = page[-1].session_id

        return Call("prune", None, body, nothing=lambda: Pruned([], []), capability=needed, grows=True)

    async def _last_time(self, client: Any, session_id: str) -> dt.datetime | None:
        """When the last record was added. A codec hides the time from a listing."""
        if self.format.codec is None:
            return None
        return self._time_of(await self.operations.read(client, self._key(session_id), last=1), session_id)

    def _time_of(self, rows: Sequence[Row], session_id: str) -> dt.datetime | None:
        try:
            records = self.format.decode(rows[-1:], session_id)
        except ValueError:
            return None
        return records[-1].at if records else None

    async def _prune_session(self, client: Any, session_id: str, before: dt.datetime, *, unknown: bool) -> bool:
        """Remove a session if its last record is still so old; tell whether it was."""
        operations, key = self.operations, self._key(session_id)
        edits = Capability.EDIT in operations.capabilities
        while True:
            rows = await operations.read(client, key) if edits else await operations.read(client, key, last=1)
            at = self._time_of(rows, session_id)
            if not rows or (at is None and not unknown) or (at is not None and at >= before):
                return False
            if not edits:
                await operations.clear(client, key)
                return True
            state = await operations.get_state(client, key) if Capability.STATE in operations.capabilities else None
            if await operations.edit(client, key, [], expected=rows, kept=0, after=None):
                if state is not None:
                    await operations.put_state(client, key, None, expected=state)
                return True


def _time_before(older_than: object) -> dt.datetime:
    """Return the time before which a session is old.

    Raises:
        ConfigurationError: It is in the future, has no time zone, or is no time.
    """
    now = dt.datetime.now(dt.UTC)
    try:
        if isinstance(older_than, dt.timedelta):
            before = now - older_than
        elif isinstance(older_than, dt.datetime) and older_than.tzinfo is not None:
            before = older_than.astimezone(dt.UTC)
        else:
            before = None
    except OverflowError:
        before = None
    if before is None:
        raise ConfigurationError(f"older_than must be a timedelta, or a datetime with a time zone, not {older_than!r}.")
    if before > now:
        raise ConfigurationError(f"older_than is in the future ({older_than!r}): that would remove every session.")
    return before
