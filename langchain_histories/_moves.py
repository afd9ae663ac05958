"""`Moves`: what has the records of one session in another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_histories._calls import Call
from langchain_histories._derived import without_claims
from langchain_histories._edits import Edits, not_found
from langchain_histories._options import Capability
from langchain_histories.codec import to_carry
from langchain_histories.errors import ConfigurationError, CorruptRecordError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_histories._session_ids import SessionId
    from langchain_histories.codec import Row


class Moves(Edits):
    """The methods of a store that copy and move sessions."""

    def fork(self, session_id: SessionId, new_session: SessionId, *, at: str | None = None) -> list[str]:
        """Begin a session with the records of another one, under their ids and times.

        The state is copied too, but for a summary that covers more than these records.

        Args:
            session_id: The session.
            new_session: The one that begins; it has no records yet.
            at: The id or the position of the last record to be copied; `None` for all.

        Returns:
            The ids of the records, in order.

        Raises:
            ConfigurationError: The new session has records already.
            CorruptRecordError: A record is no JSON object with an id. Nothing was copied.
            RecordNotFoundError: There is no record `at`.
        """
        return self._run(self._fork(session_id, new_session, at))

    async def afork(self, session_id: SessionId, new_session: SessionId, *, at: str | None = None) -> list[str]:
        """Async `fork`."""
        return await self._arun(self._fork(session_id, new_session, at))

    def rename(self, session_id: SessionId, new_session: SessionId) -> None:
        """Move the records and the state of a session to another one, under their ids and times.

        What others append meanwhile is in one of both afterwards. A rename that was interrupted has lost nothing, and
        goes on when it is called again; until then readers may find the records in both.

        Args:
            session_id: The session. Where it has neither records nor a state, nothing is done.
            new_session: Its new id.

        Raises:
            ConfigurationError: The new session has records or a state already.
            CorruptRecordError: A record is no JSON object with an id. Nothing was moved.
        """
        self._run(self._rename(session_id, new_session))

    async def arename(self, session_id: SessionId, new_session: SessionId) -> None:
        """Async `rename`."""
        await self._arun(self._rename(session_id, new_session))

    def _two_keys(self, operation: str, session_id: SessionId, new_session: SessionId) -> tuple[str, str]:
        self._check_edits()
        key, new_key = self._key(session_id), self._key(new_session)
        if key == new_key:
            raise ConfigurationError(f"{operation} needs another session than {str(session_id)!r} itself.")
        return key, new_key

    def _fork(self, session_id: SessionId, new_session: SessionId, at: str | None) -> Call[list[str]]:
        key, new_key = self._two_keys("fork", session_id, new_session)

        async def body(client: Any) -> list[str]:
            operations = self.operations
            rows = await operations.read(client, key)
            end = len(rows) - 1 if at is None else self._index(rows, at)
            if end is None:
                raise not_found(session_id, str(at))
            some = self.format.by_id(rows[: end + 1])
            if some and not await self._becomes(client, new_key, [], [*some.values()], session_id):
                raise _not_empty(new_session)
            if (text := await self._state(client, key)) is not None:
                is_there = [*some].__contains__
                kept = without_claims(self.format.decode_state(text, session_id), is_there, is_there)
                if kept is not None:
                    await operations.put_state(client, new_key, self.format.encode_state(kept), expected=None)
            return [*some]

        return Call("fork", session_id, body, grows=True)

    def _rename(self, session_id: SessionId, new_session: SessionId) -> Call[None]:
        key, new_key = self._two_keys("rename", session_id, new_session)

        async def body(client: Any) -> None:
            operations, copied, state, is_first = self.operations, set[str](), None, True
            while True:
                rows = await operations.read(client, key)
                mine = self.format.by_id(rows)
                there = await operations.read(client, new_key)
                copied |= mine.keys()
                # What others append there meanwhile stays, behind; the rest is left of a rename that was interrupted.
                others = [row for name, row in self.format.by_id(there).items() if name not in copied]
                old_state, new_state = await self._state(client, key), await self._state(client, new_key)
                has_state = new_state not in (None, old_state)
                if is_first and ((rows and others) or ((rows or old_state) and has_state)):
                    raise _not_empty(new_session)
                is_first = False
                if not await self._becomes(client, new_key, there, [*mine.values(), *others], session_id):
                    continue
                if old_state is not None and new_state in (None, state) and old_state != new_state:
                    text = old_state if isinstance(old_state, str) else old_state.decode()
                    if not await operations.put_state(client, new_key, text, expected=new_state):
                        continue
                    state = old_state
                if rows and not await operations.edit(client, key, [], expected=rows, kept=0, after=None):
                    continue
                if old_state is None or await operations.put_state(client, key, None, expected=old_state):
                    return

        return Call("rename", session_id, body, grows=True)

    async def _becomes(
        self, client: Any, key: str, rows: Sequence[Row], wanted: Sequence[Row], session_id: SessionId
    ) -> bool:
        """Have a session that still holds `rows` hold the records `wanted`; tell whether it does.

        Raises:
            CorruptRecordError: One would get another id.
        """
        kept = 0
        for row, other in zip(rows, wanted, strict=False):
            if row != other and not _say_the_same(row, other):
                break
            kept += 1
        texts = [self._again(row, session_id) for row in wanted[kept:]]
        if not texts and kept == len(rows):
            return True
        return await self.operations.edit(client, key, texts, expected=rows, kept=kept, after=None)

    def _again(self, row: Row, session_id: SessionId) -> str:
        try:
            return str(self.format.again(row))
        except ValueError as error:
            name = self.format.record_id(row)
            text = (
                f"Record {name} at position {row.position} of session {str(session_id)!r} cannot be read, so it "
                f"cannot be moved ({error}). Nothing was written: delete it, and try again."
            )
            raise CorruptRecordError(text, str(session_id), row.position, name) from None

    async def _state(self, client: Any, key: str) -> str | bytes | None:
        return (
            await self.operations.get_state(client, key) if Capability.STATE in self.operations.capabilities else None
        )


def _say_the_same(*rows: Row) -> bool:
    """Whether two records are the same, however often they were written again."""
    try:
        carried = [to_carry(row) for row in rows]
    except ValueError:
        return False
    said = [
        {**payload, "meta": {name: value for name, value in meta.items() if name not in ("r", "v")}}
        for payload, meta in carried
    ]
    return said[0] == said[1]


def _not_empty(session_id: SessionId) -> ConfigurationError:
    return ConfigurationError(f"Session {str(session_id)!r} has records or a state already: give another id.")
