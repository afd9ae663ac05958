"""What a turn of an agent knows of its session, and the turns that wait for one another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_histories.errors import SessionBusyError
from langchain_histories.integrations._messages import complete_steps, is_summary
from langchain_histories.integrations._sessions import Session, report_unsaved

if TYPE_CHECKING:
    from langchain_histories._compat import BaseChatMessageHistory

IDLE_SECONDS = 30.0
_UNANSWERED = "This call was interrupted; there is no result."


class Turn(str):
    """What a run knows of its session, kept in the state of the agent but in no checkpoint.

    It is a text because streams show the state, servers turn it into JSON and tracers log it: none of them gets the
    conversation, or an object that it cannot handle.
    """

    __slots__ = ("_known", "_pending", "_question", "_shown", "_view", "history", "place", "retrying", "session")

    def __new__(cls, session: Session, *_: Any) -> Self:
        """Make the text."""
        return super().__new__(cls, f"turn of session {session.name}")

    def __init__(self, session: Session, history: BaseChatMessageHistory, place: Place | None = None) -> None:
        """Know nothing yet."""
        self.session = session
        self.history = history
        self.place = place
        self._view: list[BaseMessage] = []
        self._shown: set[str | None] = set()  # ids of messages that are not shown beside the view
        self._known: set[str | None] = set()  # ids of messages that are stored or pending
        self._pending: list[BaseMessage] = []
        self._question: str | None = None
        self.retrying = False

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """A copy or a pickle is the text alone."""
        return str, (str(self),)

    def __del__(self) -> None:
        """Give the session away: no hook is told when a run was interrupted, or its stream is not read any more."""
        if self.place is not None:
            self.place.end()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show that the turn is alive. Failed, interrupted or cancelled, it gives the session away."""
        if (place := self.place) is None:
            yield
            return
        place.enter()
        try:
            yield
        except BaseException:
            place.end()
            raise
        finally:
            place.leave()

    def start(self, view: Sequence[BaseMessage], messages: Sequence[BaseMessage]) -> bool:
        """Note the view, given the messages of the agent.

        Returns:
            Whether some of these may be stored already though the view does not show them.
        """
        self._view = list(view)
        if messages and isinstance(messages[-1], HumanMessage) and (not view or view[-1].id != messages[-1].id):
            self._question = messages[-1].id
        return self.learn(view, messages)

    def learn(self, stored: Sequence[BaseMessage], messages: Sequence[BaseMessage]) -> bool:
        """Note what is stored; return whether there are messages of which that may be but was not seen.

        What comes before a stored message was stored as well or left out on purpose, even if the view begins later.
        """
        ids = {message.id for message in stored if message.id}
        old = max((number for number, message in enumerate(messages, 1) if message.id in ids), default=0)
        ids.update(message.id for message in messages[:old] if message.id)
        self._known |= ids
        self._shown |= ids
        return not all(isinstance(message, HumanMessage) for message in messages[old:])

    def prompt(self, messages: Sequence[BaseMessage]) -> list[Any]:
        """What the model is shown: the view, and the messages that are not in it."""
        # A question that is asked again is shown again, when the view does not end with it.
        new = [message for message in messages if message.id not in self._shown or message.id == self._question]
        return _repaired([*self._view, *new])

    @contextmanager
    def saving(
        self, messages: Sequence[BaseMessage], *, whole_turns: bool, ended: bool, warn: bool
    ) -> Iterator[list[BaseMessage]]:
        """Yield what is to be stored now; with `whole_turns`, nothing before the turn has ended."""
        with self.running():
            for message in messages if ended else complete_steps(messages):
                if message.id not in self._known and not is_summary(message):
                    self._known.add(message.id)
                    self._pending.append(message)
            batch = [] if whole_turns and not ended else list(self._pending)
            try:
                yield batch
            except Exception as error:
                if not warn:
                    raise
                self.retrying = True  # it may have been stored all the same
                report_unsaved(self.history, self.session, len(batch), error)
            else:
                self.retrying = False
                del self._pending[: len(batch)]
        if ended and self.place is not None:
            self.place.end()


class Place:
    """The place of a turn in the queue of its session.

    Args:
        source: Where the session is kept.
        session: Name of the session.
        thread_id: The thread of the run.
        resumed: The run goes on with an earlier one of its thread, so that one has ended.
    """

    def __init__(self, source: object, session: str, thread_id: object, *, resumed: bool) -> None:
        """Queue."""
        self._session = session
        self._thread_id = thread_id
        self.over: Future[None] = Future()
        self._calls = 0
        self._idle_since = time.monotonic()
        with _guard:
            self._queue = _queues.setdefault((source, session), _Queue())
            earlier = list(self._queue) if resumed else []
            self._queue.append(self)
        for place in earlier:
            if place._thread_id == thread_id and not place._calls:  # noqa: SLF001  # one class
                place.end()

    def ahead(self, *, reject: bool) -> Iterator[Place]:
        """Yield the place that has the session, to be waited for, until the session is free.

        Raises:
            SessionBusyError: It is not, and `reject`.
        """
        while (first := self._first()) is not self:
            if reject:
                raise SessionBusyError(f"Session {self._session} has another turn under way: try again after it.")
            yield first

    def _first(self) -> Place:
        with _guard:
            while (first := self._queue[0]) is not self and first._is_over():  # noqa: SLF001  # one class
                del self._queue[0]
            return first

    def _is_over(self) -> bool:
        # One that waits for the session, or is in a model or a tool, is not idle.
        return self.over.done() or (not self._calls and self.idle_left() <= 0)

    def idle_left(self) -> float:
        """Seconds after which the turn may count as dead."""
        return IDLE_SECONDS if self._calls else self._idle_since + IDLE_SECONDS - time.monotonic()

    def enter(self) -> None:
        """Note a sign of life."""
        with _guard:
            self._calls += 1

    def leave(self) -> None:
        """Note that what was entered has ended."""
        with _guard:
            self._calls -= 1
            self._idle_since = time.monotonic()

    def end(self) -> None:
        """Give the session away. It takes no lock of ours, because the garbage collector calls it anywhere."""
        if not self.over.done():
            self.over.set_result(None)


class _Queue(list[Place]):
    """The places of one session. A list of its own, for there is no weak reference to a plain one."""


_guard = threading.Lock()
_queues: WeakValueDictionary[Any, _Queue] = WeakValueDictionary()


def _repaired(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Answer the tool calls that have no answer behind them, and leave out answers to no call."""
    repaired: list[BaseMessage] = []
    unanswered: dict[str, str | None] = {}

    def answer() -> None:
        for call_id, name in unanswered.items():
            repaired.append(ToolMessage(_UNANSWERED, tool_call_id=call_id, name=name, status="error"))
        unanswered.clear()

    for message in messages:
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in unanswered:
                continue
            del unanswered[message.tool_call_id]
        else:
            answer()
        if isinstance(message, AIMessage):
            calls = [*message.tool_calls, *message.invalid_tool_calls]
            unanswered.update({call["id"]: call["name"] for call in calls if call["id"]})
        repaired.append(message)
    answer()
    return repaired
