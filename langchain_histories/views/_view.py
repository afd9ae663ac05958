"""What the views share: LangChain's interface over another history, both faces from one neutral body each."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal, TypeAlias

from langchain_histories._compat import BaseChatMessageHistory
from langchain_histories._neutral import drive, settle
from langchain_histories.errors import ConfigurationError, UnsupportedOperationError
from langchain_histories.history import StoredChatMessageHistory, TurnChatMessageHistory
from langchain_histories.views._access import Access, AsyncAccess, Snapshot, check_history
from langchain_histories.views._turns import is_view_message, leading_system

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage

    from langchain_histories.codec import Record
Unit: TypeAlias = Literal["tokens", "messages", "turns"]


class HistoryView(BaseChatMessageHistory):
    """Shows another history in part; adding and clearing go through to it.

    Over the handle of one turn (`registry.get_session_history`) the first read is frozen until the turn has written,
    as that handle's own is.
    """

    def __init__(self, history: BaseChatMessageHistory) -> None:
        """Keep the history."""
        super().__init__()
        if isinstance(history, HistoryView):
            raise ConfigurationError(
                f"{type(history).__name__} is a view itself: give the history under it, so that nothing is hidden."
            )
        check_history(history)
        if isinstance(history, StoredChatMessageHistory) and history.last is not None:
            raise ConfigurationError(f"last={history.last} and {type(self).__name__} both say what is shown.")
        self.history = history
        self._sync = Access(history)
        self._async = AsyncAccess(history)
        self._frozen: list[BaseMessage] | None = None

    def __repr__(self) -> str:
        """The class and the history under it, without a read."""
        return f"{type(self).__name__}({type(self.history).__name__})"

    @property
    def messages(self) -> list[BaseMessage]:
        """What a model is to be shown, oldest first."""
        return drive(self._thawed(self._sync))

    @messages.setter
    def messages(self, messages: Sequence[BaseMessage]) -> None:  # noqa: ARG002
        raise UnsupportedOperationError("Assignment to messages is not supported: use add_messages.")

    async def aget_messages(self) -> list[BaseMessage]:
        """Async `messages`."""
        return await self._thawed(self._async)

    def transcript(self) -> list[BaseMessage]:
        """Return every message ever added, oldest first."""
        messages: list[BaseMessage] = self._sync.transcript()
        return messages

    async def atranscript(self) -> list[BaseMessage]:
        """Async `transcript`."""
        messages: list[BaseMessage] = await self._async.transcript()
        return messages

    def add_message(self, message: BaseMessage) -> None:
        """Add one message."""
        self.add_messages([message])

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages to the transcript: all or nothing. Messages that a view made are left out."""
        drive(self._adding(self._sync, messages))

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Async `add_messages`."""
        await self._adding(self._async, messages)

    def clear(self) -> None:
        """Remove the session: the transcript, and all that a view keeps of it."""
        drive(self._clearing(self._sync))

    async def aclear(self) -> None:
        """Async `clear`."""
        await self._clearing(self._async)

    @abstractmethod
    async def _showing(self, io: Access) -> list[BaseMessage]:
        """Return what the model is shown."""

    async def _thawed(self, io: Access) -> list[BaseMessage]:
        if self._frozen is not None:
            return list(self._frozen)
        shown: list[BaseMessage] = await self._showing(io)
        if isinstance(self.history, TurnChatMessageHistory):
            self._frozen = shown
        return shown[:]

    async def _adding(self, io: Access, messages: Sequence[BaseMessage]) -> None:
        await settle(io.add([message for message in messages if not is_view_message(message)]))
        self._frozen = None

    async def _clearing(self, io: Access) -> None:
        await settle(io.clear())
        self._frozen = None


async def pinned_records(history: Access | Snapshot) -> list[Record]:
    """Return the system messages at the beginning of the transcript."""
    wanted = 4
    while True:
        head: list[Record] = await settle(history.records(first=wanted))
        count = leading_system([record.message for record in head])
        if count < wanted:
            return head[:count]
        wanted *= 2
