"""`HistoryView`: LangChain's interface over another history, each method from one neutral body for both faces."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from langchain_histories._compat import BaseChatMessageHistory
from langchain_histories._copies import MadeAgain
from langchain_histories._display import html_of_session
from langchain_histories._edits import not_found
from langchain_histories._neutral import drive, settle
from langchain_histories._options import Capability
from langchain_histories.errors import ConfigurationError, UnsupportedOperationError
from langchain_histories.history import StoredChatMessageHistory, TurnChatMessageHistory
from langchain_histories.views._cuts import is_view_message, leading_system
from langchain_histories.views._faces import AsyncFace, Snapshot, StateSlot, SyncFace, check_history
from langchain_histories.views._pins import pins_of, with_pins

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from langchain_core.messages import BaseMessage
    from pandas import DataFrame

    from langchain_histories.codec import Record
    from langchain_histories.store import MessageStore
    from langchain_histories.views._limits import Limits

First: TypeAlias = Literal["any", "human"]


@dataclass(frozen=True)
class Coverage:
    """Where each stored message is: `covered`, `trimmed`, `shown` and `repaired` add up to `stored`.

    Attributes:
        stored: Messages of the transcript.
        covered: Those that the summary stands for, with the system messages at the beginning.
        trimmed: Those that were left out for lack of room; no summary has them.
        shown: Those that the view has.
        repaired: Those that were left out because a provider would refuse them: answers without a call and, with
            `first="human"`, what precedes the first human message.
        added: Messages of the view beyond `shown`: the summary, stand-ins for answers that are missing, and messages
            that are covered or trimmed and shown all the same: pins, and behind a summary the system messages at the
            beginning.
    """

    stored: int
    covered: int
    trimmed: int
    shown: int
    repaired: int
    added: int


class HistoryView(MadeAgain, BaseChatMessageHistory):
    """Shows a part of another history. Messages are added to and cleared from that history.

    What is shown is what providers take: an answer stands behind its call, a call without an answer has a stand-in that
    says so, and an answer without a call is left out. The stored messages stay as they are.

    Over the handle of one turn (`registry.get_session_history`) the first read is frozen until the turn has written,
    because the handle freezes its own first read too.
    """

    def __init__(self, history: BaseChatMessageHistory, first: First) -> None:
        """Keep the history, and which message a view may begin with."""
        super().__init__()
        check_choice("first", first, get_args(First))
        self._first = first
        if isinstance(history, HistoryView):
            raise ConfigurationError(
                f"{type(history).__name__} is a view itself: give the history under it, which has all messages."
            )
        check_history(history)
        if isinstance(history, StoredChatMessageHistory) and history.last is not None:
            raise ConfigurationError(f"last={history.last} and {type(self).__name__} both say what is shown.")
        self.history = history
        self._sync = SyncFace(history)
        self._async = AsyncFace(history)
        if isinstance(history, StoredChatMessageHistory) and Capability.STATE in history.store.capabilities:
            self._sync.slot = self._async.slot = StateSlot(history.store, history.session_id)
        self._has_moved_pins = False
        self._frozen: list[BaseMessage] | None = None

    def __repr__(self) -> str:
        """The class, the session, the sizes and the history under it, without a read."""
        session_id = getattr(self.history, "session_id", None)
        session = [] if session_id is None else [f"session_id={session_id!r}"]
        sizes = [f"{name}={size}" for name, size in self._sizes().items()]
        return f"{type(self).__name__}({', '.join([*session, *sizes, f'history={type(self.history).__name__}'])})"

    def _repr_html_(self) -> str | None:
        """The newest messages of the transcript, for a notebook that displays the view.

        They are read then, in two seconds at most; no summary is made.
        """
        if not isinstance(self.history, StoredChatMessageHistory):
            return None
        return html_of_session(repr(self), self.history.store, self.history.session_id)

    @property
    def messages(self) -> list[BaseMessage]:
        """The messages for the model, oldest first."""
        return drive(self._messages(self._sync))

    @messages.setter
    def messages(self, messages: Sequence[BaseMessage]) -> None:  # noqa: ARG002
        raise UnsupportedOperationError("Assignment to messages is not supported: use add_messages.")

    @property
    def store(self) -> MessageStore:
        """The store of the history under this view, if that is of this package."""
        return self._stored.store

    @property
    def session_id(self) -> str:
        """The session of the history under this view, if that is of this package."""
        return self._stored.session_id

    @property
    def last(self) -> None:
        """No number of messages: the view itself says what is shown."""
        return

    @property
    def _stored(self) -> StoredChatMessageHistory:
        if not isinstance(self.history, StoredChatMessageHistory):
            raise AttributeError(  # noqa: TRY004  # what `hasattr` asks for
                f"{type(self.history).__name__}, the history under this view, has no store of ours."
            )
        return self.history

    def get_messages(self, *, last: int | None = None, after: str | None = None) -> list[BaseMessage]:
        """Return the messages for the model, oldest first; with `last` or `after`, those of the transcript.

        Args:
            last: Only the last n of the transcript.
            after: Only those behind this `Record.position`.
        """
        if last is None and after is None:
            return drive(self._messages(self._sync))
        return self._stored.get_messages(last=last, after=after)

    async def aget_messages(self, *, last: int | None = None, after: str | None = None) -> list[BaseMessage]:
        """Async `get_messages`."""
        if last is None and after is None:
            return await self._messages(self._async)
        return await self._stored.aget_messages(last=last, after=after)

    def count(self) -> int:
        """Return how many messages the transcript has, as its history counts them."""
        return self._stored.count()

    async def acount(self) -> int:
        """Async `count`."""
        return await self._stored.acount()

    def __iter__(self) -> Iterator[Record]:
        """Walk the records of the transcript, oldest first, in pages."""
        return iter(self._stored)

    def __aiter__(self) -> AsyncIterator[Record]:
        """Async `__iter__`."""
        return aiter(self._stored)

    def to_pandas(self) -> DataFrame:
        """Return the records of the transcript as a table of pandas, as `StoredChatMessageHistory.to_pandas`."""
        return self._stored.to_pandas()

    async def ato_pandas(self) -> DataFrame:
        """Async `to_pandas`."""
        return await self._stored.ato_pandas()

    def coverage(self) -> Coverage:
        """Return where each stored message is. Costs a read of the whole transcript."""
        return drive(self._coverage(self._sync))

    async def acoverage(self) -> Coverage:
        """Async `coverage`."""
        return await self._coverage(self._async)

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

    async def aadd_message(self, message: BaseMessage) -> None:
        """Async `add_message`."""
        await self.aadd_messages([message])

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages to the transcript: all or nothing. Messages that a view made are left out."""
        drive(self._add(self._sync, messages))

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Async `add_messages`."""
        await self._add(self._async, messages)

    def clear(self) -> None:
        """Remove the session: the transcript, and the summary of it."""
        drive(self._clear(self._sync))

    async def aclear(self) -> None:
        """Async `clear`."""
        await self._clear(self._async)

    def pin(self, record_id: str) -> None:
        """Show a message of the transcript in every view, behind the system messages and inside the budget.

        A pin is kept in the session's state, for views of all kinds and processes, until `unpin`, or until the record
        is gone. A message of the model or of a tool is shown quoted where it is not in its own place. Costs a read of
        the session.

        Args:
            record_id: The id of the record, as `store.records` has it. The system messages at the beginning are always
                shown, so nothing is done for those.

        Raises:
            RecordNotFoundError: There is no such record.
            UnsupportedOperationError: The history is not of this package, or its store has no state.
        """
        drive(self._change_pins(self._sync, add=record_id))

    async def apin(self, record_id: str) -> None:
        """Async `pin`."""
        await self._change_pins(self._async, add=record_id)

    def unpin(self, record_id: str) -> None:
        """Show a message in its own place alone. One that is not pinned is left as it is."""
        drive(self._change_pins(self._sync, remove=record_id))

    async def aunpin(self, record_id: str) -> None:
        """Async `unpin`."""
        await self._change_pins(self._async, remove=record_id)

    @abstractmethod
    def _sizes(self) -> dict[str, Limits]:
        """Return the sizes that say what is shown, by the names of their options."""

    @abstractmethod
    async def _show(self, face: SyncFace) -> list[BaseMessage]:
        """Return the messages for the model."""

    @abstractmethod
    async def _coverage(self, face: SyncFace) -> Coverage:
        """Return where each stored message is."""

    async def _change_pins(self, face: SyncFace, *, add: str | None = None, remove: str | None = None) -> None:
        """Change the pins, and note where those stand that stay."""
        if face.own is None or face.slot is None:
            raise UnsupportedOperationError(
                f"{type(self.history).__name__} has no place for pins: they need a history of this package, in a store "
                "with Capability.STATE."
            )
        records: list[Record] = await settle(face.records())
        system = leading_system([record.message for record in records])
        if add is not None and all(record.id != add for record in records):
            raise not_found(face.own.session_id, add)

        def change(state: dict[str, Any] | None) -> dict[str, Any] | None:
            pinned = {*(pin.id for pin in pins_of(state)), *([add] if add else [])}
            return with_pins(state, pinned - {remove, *(record.id for record in records[:system])}, records)

        await settle(face.update_state(change))
        self._has_moved_pins = False
        self._read_anew()

    def _read_anew(self) -> None:
        """Let the next read show what is there now."""
        self._frozen = None

    async def _messages(self, face: SyncFace) -> list[BaseMessage]:
        if self._frozen is not None:
            return list(self._frozen)
        shown: list[BaseMessage] = await self._show(face)
        if isinstance(self.history, TurnChatMessageHistory):
            self._frozen = shown
        return shown[:]

    async def _add(self, face: SyncFace, messages: Sequence[BaseMessage]) -> None:
        await settle(face.add([message for message in messages if not is_view_message(message)]))
        self._frozen = None
        if self._has_moved_pins:
            # Each read would look through the whole session for them.
            await self._change_pins(face)

    async def _clear(self, face: SyncFace) -> None:
        await settle(face.clear())
        self._frozen = None


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse a value that is none of those which an option may have.

    Raises:
        ConfigurationError: It is not.
    """
    if value not in known:
        raise ConfigurationError(f"{name} must be one of {', '.join(known)}, not {value!r}.")


def context_of(model: object) -> int | None:
    """Return the size of the model's context in tokens; `None` if its profile does not say it."""
    profile = getattr(model, "profile", None)
    size = profile.get("max_input_tokens") if isinstance(profile, dict) else None
    return size if isinstance(size, int) else None


async def pinned_records(history: SyncFace | Snapshot) -> list[Record]:
    """Return the system messages at the beginning of the transcript."""
    wanted = 4
    while True:
        head: list[Record] = await settle(history.records(first=wanted))
        count = leading_system([record.message for record in head])
        if count < wanted:
            return head[:count]
        wanted *= 2
