"""A turn of an agent: what it knows of its session, and its ticket in the queue of the session."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

from langchain_core.messages import BaseMessage, HumanMessage

from langchain_histories.errors import SessionBusyError
from langchain_histories.integrations._messages import complete_steps, is_summary
from langchain_histories.integrations._sessions import RunSession, report_unsaved
from langchain_histories.views._repairs import repaired

if TYPE_CHECKING:
    from langchain_histories._compat import BaseChatMessageHistory

IDLE_SECONDS = 30.0
_IN_TOOLS = 20  # times as long may a turn be idle behind a model that may have called tools


class Turn(str):
    """What a run knows of its session. It is kept in the state of the agent, but in no checkpoint.

    A turn is a text, because streams show the state, servers turn it into JSON and tracers log it: so none of them gets
    the conversation, or an object that it cannot handle.
    """

    __slots__ = ("_known", "_pending", "_question", "_shown", "_view", "history", "retrying", "session", "ticket")

    def __new__(cls, session: RunSession, *_: Any) -> Self:
        """Make the text."""
        return super().__new__(cls, f"turn of session {session.name}")

    def __init__(self, session: RunSession, history: BaseChatMessageHistory, ticket: Ticket | None = None) -> None:
        """Begin without a look at the history."""
        self.session = session
        self.history = history
        self.ticket = ticket
        self._view: list[BaseMessage] = []
        self._shown: set[str | None] = set()  # ids of messages that the model is not shown behind the view
        self._known: set[str | None] = set()  # ids of messages that are stored or pending
        self._pending: list[BaseMessage] = []
        self._question: str | None = None
        self.retrying = False

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """A copy or a pickle is the text alone."""
        return str, (str(self),)

    def __del__(self) -> None:
        """Release the session, because no hook runs when a run is interrupted or its stream is abandoned."""
        if self.ticket is not None:
            self.ticket.end()

    @contextmanager
    def running(self, *, before_tools: bool = False) -> Iterator[None]:
        """Show that the turn is alive. A turn that fails, is interrupted or cancelled releases the session.

        Args:
            before_tools: Whether tools may run next, without a sign of life until they have ended.
        """
        if (ticket := self.ticket) is None:
            yield
            return
        ticket.enter()
        try:
            yield
        except BaseException:
            ticket.end()
            raise
        finally:
            ticket.leave(_IN_TOOLS if before_tools else 1)

    def start(self, view: Sequence[BaseMessage], messages: Sequence[BaseMessage]) -> bool:
        """Note the view.

        Args:
            view: The messages that the history shows.
            messages: The messages of the agent.

        Returns:
            Whether some messages of the agent may be stored although the view does not show them.
        """
        self._view = list(view)
        if messages and isinstance(messages[-1], HumanMessage) and (not view or view[-1].id != messages[-1].id):
            self._question = messages[-1].id
        return self.learn(view, messages)

    def learn(self, stored: Sequence[BaseMessage], messages: Sequence[BaseMessage]) -> bool:
        """Note which messages are stored; return whether others of the agent may be stored too.

        Every message before a stored one was stored as well or left out on purpose, even if the view begins later.
        """
        ids = {message.id for message in stored if message.id}
        old = max((number for number, message in enumerate(messages, 1) if message.id in ids), default=0)
        ids.update(message.id for message in messages[:old] if message.id)
        self._known |= ids
        self._shown |= ids
        return not all(isinstance(message, HumanMessage) for message in messages[old:])

    def prompt(self, messages: Sequence[BaseMessage]) -> list[Any]:
        """Return the messages for the model: the view, and the messages of the agent that the view does not have."""
        # A question that is asked again is shown again, when the view does not end with it.
        new = [message for message in messages if message.id not in self._shown or message.id == self._question]
        return repaired([*self._view, *new])

    @contextmanager
    def saving(
        self, messages: Sequence[BaseMessage], *, whole_turns: bool, ended: bool, warn: bool
    ) -> Iterator[list[BaseMessage]]:
        """Yield the messages to be stored now; with `whole_turns`, none before the turn has ended."""
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
                self.retrying = True  # the failed save may have stored them all the same
                report_unsaved(self.history, self.session, len(batch), error)
            else:
                self.retrying = False
                del self._pending[: len(batch)]
        if ended and self.ticket is not None:
            self.ticket.end()


class Ticket:
    """The place of a turn in the queue of its session.

    Args:
        source: The factory of the session's history.
        session: Name of the session.
        thread_id: The thread of the run.
        resumed: Whether the run goes on with an earlier one of its thread, which has therefore ended.
    """

    def __init__(self, source: object, session: str, thread_id: object, *, resumed: bool) -> None:
        """Join the session's queue."""
        self._session = session
        self._thread_id = thread_id
        self.over: Future[None] = Future()
        self._calls = 0
        self._idle_since, self._patience = time.monotonic(), 1
        with _guard:
            self._queue = _queues.setdefault((source, session), _Queue())
            earlier = list(self._queue) if resumed else []
            self._queue.append(self)
        for ticket in earlier:
            if ticket._thread_id == thread_id and not ticket._calls:  # noqa: SLF001  # one class
                ticket.end()

    def ahead(self, *, reject: bool) -> Iterator[Ticket]:
        """Yield the ticket that the caller must wait for, one after the other, until the session is free.

        Raises:
            SessionBusyError: The session is not free, and `reject` is set.
        """
        while (first := self._first()) is not self:
            if reject:
                raise SessionBusyError(f"Session {self._session} has another turn under way: try again after it.")
            yield first

    def _first(self) -> Ticket:
        with _guard:
            while (first := self._queue[0]) is not self and first._is_over():  # noqa: SLF001  # one class
                del self._queue[0]
            return first

    def _is_over(self) -> bool:
        # A turn that waits for the session, or is in a model or a tool, is not idle.
        return self.over.done() or (not self._calls and self.idle_left() <= 0)

    def idle_left(self) -> float:
        """Seconds until this turn is treated as dead; all of them while a call is running."""
        allowed = IDLE_SECONDS * self._patience
        return allowed if self._calls else self._idle_since + allowed - time.monotonic()

    def enter(self) -> None:
        """Note that a call of the turn begins."""
        with _guard:
            self._calls += 1

    def leave(self, patience: int = 1) -> None:
        """Note that a call of the turn has ended, and how many times `IDLE_SECONDS` it may be idle now."""
        with _guard:
            self._calls -= 1
            self._idle_since, self._patience = time.monotonic(), patience

    def end(self) -> None:
        """Release the session. It takes no lock of ours, because the garbage collector may call it anywhere."""
        if not self.over.done():
            self.over.set_result(None)


class _Queue(list[Ticket]):
    """The tickets of one session. A class of its own, because a plain list can have no weak reference."""


_guard = threading.Lock()
_queues: WeakValueDictionary[Any, _Queue] = WeakValueDictionary()
