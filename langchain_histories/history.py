"""One session of a store, as LangChain's `BaseChatMessageHistory`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from langchain_core.messages import ToolMessage

from langchain_histories._compat import BaseChatMessageHistory
from langchain_histories._copies import CopiedByAttributes
from langchain_histories._display import frame_of_records, html_of_session
from langchain_histories._options import check_number
from langchain_histories._session_ids import normalize_session_id
from langchain_histories.errors import HistoryError, UnsupportedOperationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from langchain_core.messages import BaseMessage
    from pandas import DataFrame

    from langchain_histories._session_ids import SessionId
    from langchain_histories.codec import Metas, Record
    from langchain_histories.store import MessageStore

    SaveErrorCallback = Callable[[Exception, str, Sequence[BaseMessage]], object]

logger = logging.getLogger(__name__)

_PAGE = 256
"""Records that a walk has in memory at once."""


class StoredChatMessageHistory(CopiedByAttributes, BaseChatMessageHistory):
    """A light handle on one session; every read goes to the store.

    Making one does no I/O, so a program may make one for each turn.

    Args:
        store: The store, shared by all its sessions.
        session_id: A non-empty `str` of at most 1,024 bytes of UTF-8, a `UUID` or an `int`.
        last: `messages` shows only the last n, without the answers of tools at their beginning, whose call is cut off;
            the transcript keeps all.

    Raises:
        ConfigurationError: The session id or `last` cannot be used.
    """

    def __init__(self, store: MessageStore, session_id: SessionId, *, last: int | None = None) -> None:
        """Keep store and session."""
        super().__init__()
        self.store = store
        self.session_id = normalize_session_id(session_id)
        self.last = check_number("last", last)

    def __repr__(self) -> str:
        """Class, session and store, without secrets and without a read."""
        return f"{type(self).__name__}(session_id={self.session_id!r}, store={self.store!r})"

    def _repr_html_(self) -> str | None:
        """The newest messages, for a notebook that displays the history: they are read then, in two seconds at most."""
        return html_of_session(f"Session {self.session_id} · {self.store!r}", self.store, self.session_id)

    @property
    def messages(self) -> list[BaseMessage]:
        """The messages, oldest first; changing the list or a message changes nothing that is stored."""
        return self._visible()

    @messages.setter
    def messages(self, messages: Sequence[BaseMessage]) -> None:  # noqa: ARG002
        msg = "Assignment to messages is not supported: use add_messages, or store.replace(session_id, messages)."
        raise UnsupportedOperationError(msg)

    def _visible(self) -> list[BaseMessage]:
        return self.get_messages()

    async def aget_messages(self, *, last: int | None = None, after: str | None = None) -> list[BaseMessage]:
        """Async `get_messages`."""
        if last is not None or after is not None or self.last is None:
            return await self.store.aread(self.session_id, last=self.last if last is None else last, after=after)
        return _from_no_orphan(await self.store.aread(self.session_id, last=self.last))

    def get_messages(self, *, last: int | None = None, after: str | None = None) -> list[BaseMessage]:
        """Return the messages, oldest first.

        Args:
            last: Only the last n of them.
            after: Only those behind this `Record.position`.
        """
        if last is not None or after is not None or self.last is None:
            return self.store.read(self.session_id, last=self.last if last is None else last, after=after)
        return _from_no_orphan(self.store.read(self.session_id, last=self.last))

    def count(self) -> int:
        """Return how many messages the session has.

        A history has no `len()`, because an empty one would then be false: `history or other` would lose it.
        """
        return self.store.count(self.session_id)

    async def acount(self) -> int:
        """Async `count`."""
        return await self.store.acount(self.session_id)

    def __iter__(self) -> Iterator[Record]:
        """Walk the records, oldest first, in pages: a session of any size takes the memory of one page."""
        after = None
        while True:
            page = self.store.records(self.session_id, after=after, first=_PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].position

    async def __aiter__(self) -> AsyncIterator[Record]:
        """Async `__iter__`."""
        after = None
        while True:
            page = await self.store.arecords(self.session_id, after=after, first=_PAGE)
            for record in page:
                yield record
            if len(page) < _PAGE:
                return
            after = page[-1].position

    def to_pandas(self) -> DataFrame:
        """Return the records as a table of pandas: id, time, type, name, content, tool calls and meta.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame_of_records(self.store.records(self.session_id))

    async def ato_pandas(self) -> DataFrame:
        """Async `to_pandas`."""
        return frame_of_records(await self.store.arecords(self.session_id))

    def add_message(self, message: BaseMessage) -> None:
        """Add one message."""
        self.add_messages([message])

    async def aadd_message(self, message: BaseMessage) -> None:
        """Async `add_message`."""
        await self.aadd_messages([message])

    def add_messages(self, messages: Sequence[BaseMessage], *, meta: Metas = None) -> None:
        """Add messages: all or nothing, and contiguous.

        Args:
            messages: The messages.
            meta: What the application knows of them: one dict for all, or a list with one for each.
        """
        self.store.append(self.session_id, messages, meta=meta)

    async def aadd_messages(self, messages: Sequence[BaseMessage], *, meta: Metas = None) -> None:
        """Async `add_messages`."""
        await self.store.aappend(self.session_id, messages, meta=meta)

    def pop_turn(self) -> list[Record]:
        """Remove the last human message and all that follows it, and return these records, oldest first."""
        records = self.store.pop_turn(self.session_id)
        self._end_turn()
        return records

    async def apop_turn(self) -> list[Record]:
        """Async `pop_turn`."""
        records = await self.store.apop_turn(self.session_id)
        self._end_turn()
        return records

    def truncate(self, *, after: str) -> None:
        """Remove all records behind the one of this id or position."""
        self.store.truncate(self.session_id, after=after)
        self._end_turn()

    async def atruncate(self, *, after: str) -> None:
        """Async `truncate`."""
        await self.store.atruncate(self.session_id, after=after)
        self._end_turn()

    def edit_message(self, record_id: str, message: BaseMessage) -> None:
        """Put another message in place of that of a record, which keeps its id and its time."""
        self.store.edit_message(self.session_id, record_id, message)
        self._end_turn()

    async def aedit_message(self, record_id: str, message: BaseMessage) -> None:
        """Async `edit_message`."""
        await self.store.aedit_message(self.session_id, record_id, message)
        self._end_turn()

    def insert(self, index: int, messages: Sequence[BaseMessage]) -> list[str]:
        """Put messages before the record at an index, as in a list, and return the ids of their records."""
        ids = self.store.insert(self.session_id, index, messages)
        self._end_turn()
        return ids

    async def ainsert(self, index: int, messages: Sequence[BaseMessage]) -> list[str]:
        """Async `insert`."""
        ids = await self.store.ainsert(self.session_id, index, messages)
        self._end_turn()
        return ids

    def _end_turn(self) -> None:
        """Take note that the session was changed, where that ends something."""

    def clear(self) -> None:
        """Remove the session."""
        self.store.clear(self.session_id)

    async def aclear(self) -> None:
        """Async `clear`."""
        await self.store.aclear(self.session_id)


def _from_no_orphan(messages: list[BaseMessage]) -> list[BaseMessage]:
    """Leave out the answers of tools at the beginning: their call is cut off, and providers refuse them."""
    start = next((i for i, message in enumerate(messages) if not isinstance(message, ToolMessage)), len(messages))
    return messages[start:]


class TurnChatMessageHistory(StoredChatMessageHistory):
    """The handle of one turn: its first read is frozen until it has written.

    `RunnableWithMessageHistory` reads a history again at the end of a turn and takes what is longer than that as new.
    Another turn on the same session in the meantime would make it drop the user's message; a frozen read does not.
    It also swallows a failed save into a log line without a session, so this handle reports it first.

    Args:
        store: The store.
        session_id: The session.
        last: `messages` shows only the last n.
        save_error_callback: Called with the error, the session id and the messages of a save that failed. The error is
            raised afterwards.
    """

    def __init__(
        self,
        store: MessageStore,
        session_id: SessionId,
        *,
        last: int | None = None,
        save_error_callback: SaveErrorCallback | None = None,
    ) -> None:
        """Keep store and session."""
        super().__init__(store, session_id, last=last)
        self._save_error_callback = save_error_callback
        self._frozen: list[BaseMessage] | None = None

    def _visible(self) -> list[BaseMessage]:
        if self._frozen is None:
            self._frozen = self.get_messages()
        return list(self._frozen)

    async def aget_messages(self, *, last: int | None = None, after: str | None = None) -> list[BaseMessage]:
        """Async `get_messages`; without arguments, the messages as they were when this turn first read them."""
        if last is not None or after is not None:
            return await super().aget_messages(last=last, after=after)
        if self._frozen is None:
            self._frozen = await super().aget_messages()
        return list(self._frozen)

    def add_messages(self, messages: Sequence[BaseMessage], *, meta: Metas = None) -> None:
        """Add the messages of the turn, and end it."""
        try:
            super().add_messages(messages, meta=meta)
        except Exception as error:
            self._report(error, messages)
            raise
        self._frozen = None

    async def aadd_messages(self, messages: Sequence[BaseMessage], *, meta: Metas = None) -> None:
        """Async `add_messages`."""
        try:
            await super().aadd_messages(messages, meta=meta)
        except Exception as error:
            self._report(error, messages)
            raise
        self._frozen = None

    def _end_turn(self) -> None:
        self._frozen = None

    def clear(self) -> None:
        """Remove the session, and end the turn."""
        super().clear()
        self._frozen = None

    async def aclear(self) -> None:
        """Async `clear`."""
        await super().aclear()
        self._frozen = None

    def _report(self, error: Exception, messages: Sequence[BaseMessage]) -> None:
        # Another's error, such as that of a `before_save`, may quote the messages.
        what = error if isinstance(error, HistoryError) else type(error).__name__
        logger.error("%d messages of session %r were not saved: %s", len(messages), self.session_id, what)
        if self._save_error_callback is not None:
            self._save_error_callback(error, self.session_id, messages)
