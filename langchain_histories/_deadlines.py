"""How long a call may yet take: one deadline for all its waits, on both faces.

A call has its deadline in a context variable, because what waits is deep inside a driver. On an event loop a scope of
`asyncio.timeout` ends the call; in a thread each wait asks how much time is left.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator


class OutOfTimeError(TimeoutError):
    """A wait of a call that was not over at its deadline."""


class Deadline:
    """When a call is to end.

    Args:
        seconds: How long it may take from now on.

    Attributes:
        seconds: As given.
        is_idle: Whether it ends only when nothing has arrived for so long, of which the driver tells.
        is_renewed: Whether each answer renews it: no answer is large, however many of them the call takes.
        on_answer: What is to be done at the next answer.
        scope: What ends it on its event loop; `None` in a thread.
    """

    __slots__ = ("_at", "_began", "is_idle", "is_renewed", "on_answer", "scope", "seconds")

    def __init__(self, seconds: float) -> None:
        """Begin now."""
        self.seconds, self.is_idle, self.is_renewed = seconds, False, False
        self.on_answer: Callable[[], None] | None = None
        self.scope: asyncio.Timeout | None = None
        self._began = time.monotonic()
        self._at = self._began + seconds

    def in_thread(self) -> Deadline:
        """Return the same deadline for a thread, which must not touch the scope of an event loop."""
        other = Deadline(self.seconds)
        other._began, other._at = self._began, self._at
        return other

    def left(self) -> float:
        """The seconds that a wait which begins now may take."""
        return self.seconds if self.is_idle else max(0.0, self._at - time.monotonic())

    def is_over(self) -> bool:
        """Whether the call has taken as long as it may, so that nothing of it is to be tried again."""
        return time.monotonic() >= self._began + _ALMOST * self.seconds

    def lift(self) -> None:
        """Go on as long as something arrives."""
        self.is_idle = True
        if self.scope is not None:
            self.scope.reschedule(None)

    def begin(self) -> None:
        """Begin anew, with an end."""
        self.is_idle = False
        self._began = time.monotonic()
        self._at = self._began + self.seconds
        if self.scope is not None:
            self.scope.reschedule(asyncio.get_running_loop().time() + self.seconds)


# Of the seconds of a call: drivers round.
_ALMOST = 0.9
_most: ContextVar[float | None] = ContextVar("langchain_histories_most", default=None)
_current: ContextVar[Deadline | None] = ContextVar("langchain_histories_deadline", default=None)


def deadline() -> Deadline | None:
    """The deadline of the call that is under way here; `None` if it has none."""
    return _current.get()


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Have the calls that this block makes take no longer, whatever time-out their store has."""
    token = _most.set(seconds)
    try:
        yield
    finally:
        _most.reset(token)


def allowed(seconds: float | None) -> float | None:
    """The seconds that a call may take which is made here, of a store with this time-out."""
    most = _most.get()
    return seconds if most is None or seconds is None else min(most, seconds)


def time_left() -> float | None:
    """The seconds that a wait of this call may take; `None` for any."""
    found = _current.get()
    return None if found is None else found.left()


def answered() -> None:
    """Tell the deadline of the call that is under way here that an answer has come."""
    found = _current.get()
    if found is None:
        return
    if found.on_answer is not None:
        done, found.on_answer = found.on_answer, None
        done()
    if found.is_renewed:
        found.begin()


@contextmanager
def under(deadline: Deadline | None) -> Iterator[None]:
    """Have the waits of this block look at a deadline."""
    token = _current.set(deadline)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def in_turn(lock: threading.Lock) -> Iterator[None]:
    """Hold a lock of threads, for which a call waits as long as it has time.

    Raises:
        OutOfTimeError: Others held it for so long.
    """
    left = time_left()
    if not lock.acquire(timeout=-1 if left is None else left):
        raise OutOfTimeError("other calls of this process were under way all the time")
    try:
        yield
    finally:
        lock.release()
