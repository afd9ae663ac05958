"""Forks of this process: what they wait for, what is closed before them, and what a child leaves alone.

A child has the thread that forked, and a copy of all else: what other threads had locked stays locked in it for ever,
and its connections are those of its parent. So a fork waits until the calls of other threads and event loops have
ended, and no call begins meanwhile. Both waits are bounded: a child that was forked amid a call is no worse off than
without them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

_POLL = 0.005  # seconds between two looks of an event loop


class Place(Protocol):
    """What calls use, as a fork sees it."""

    fork_wait: float
    """Seconds that a fork waits for the calls of this place, and that they wait for a fork."""

    def close_idle(self) -> None:
        """Close what a child must not inherit, as far as no call uses it."""

    def leave_parent(self) -> None:
        """Begin anew in a child."""


# Its lock is reentrant, because a signal handler may fork anywhere.
_changed = threading.Condition()
_under_way: dict[tuple[Hashable, Place], int] = {}  # by caller, which is a thread or an event loop
_forking: set[int] = set()  # threads
_kinds: set[object] = set()
_places: weakref.WeakSet[Any] = weakref.WeakSet()
_generation = 0
_kept: list[object] = []
with contextlib.suppress(ImportError):  # a few builds of Python have no ctypes
    import ctypes

    # One reference too many: at its end an interpreter clears all modules, and a child would close what is in the list.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept))


def in_child(work: Callable[[], None]) -> Callable[[], None]:
    """Have this called in each child: a decorator."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=work)
    return work


def generation() -> int:
    """The number of forks between the first process of this program and this one."""
    return _generation


def keep(*things: object) -> None:
    """Keep objects that belong to the parent: their finalizers could crash, or say goodbye on sockets of the parent."""
    _kept.extend(things)


def note_place(place: Place) -> None:
    """Have forks regard a place as long as it lives."""
    with _changed:
        _places.add(place)


def begin(place: Place) -> None:
    """Begin a call of this thread, after the fork that is under way."""
    caller = threading.get_ident()
    with _changed:
        # The fork may be waiting for this thread: what is begun within a call belongs to it.
        if _forking and not any(other == caller for other, _ in _under_way):
            _changed.wait_for(lambda: not _forking, place.fork_wait)
        _count(caller, place, 1)


def end(place: Place) -> None:
    """End a call of this thread."""
    _count(threading.get_ident(), place, -1)


class _Imports:
    """A place whose calls are imports."""

    fork_wait = 30.0

    def close_idle(self) -> None: ...
    def leave_parent(self) -> None: ...


_imports = _Imports()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import something: a child that is forked amid an import waits for its end for ever when it imports the same."""
    begin(_imports)
    try:
        yield
    finally:
        end(_imports)


async def begin_on_loop(place: Place) -> None:
    """Begin a call of this event loop, after the fork that is under way."""
    until = time.monotonic() + place.fork_wait
    while True:
        with _changed:
            if not _forking or time.monotonic() >= until:
                _count(asyncio.get_running_loop(), place, 1)
                return
        await asyncio.sleep(_POLL)


def end_on_loop(place: Place) -> None:
    """End a call of this event loop."""
    _count(asyncio.get_running_loop(), place, -1)


def _count(caller: Hashable, place: Place, change: int) -> None:
    with _changed:
        count = _under_way.get((caller, place), 0) + change
        if count > 0:
            _under_way[caller, place] = count
        else:
            _under_way.pop((caller, place), None)
            if _forking:
                _changed.notify_all()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of this thread, if one is running."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _before() -> None:
    thread = threading.get_ident()
    with _changed:
        if thread in _forking:
            return
        _forking.add(thread)
        since = time.monotonic()
        # This thread is here, and so is its event loop.
        mine = (thread, running_loop())
        while others := [place for caller, place in _under_way if caller not in mine]:
            left = since + max(place.fork_wait for place in others) - time.monotonic()
            if left <= 0:
                break
            _changed.wait(left)
        places = list(_places)
    for place in places:
        place.close_idle()


def _after_in_parent() -> None:
    with _changed:
        _forking.discard(threading.get_ident())
        _changed.notify_all()


def _after_in_child() -> None:
    global _changed, _under_way, _generation  # noqa: PLW0603
    _changed, _generation = threading.Condition(), _generation + 1
    _forking.clear()
    for place in list(_places):
        place.leave_parent()
    # Only now, because a call of another thread may be all that keeps a place.
    caller = threading.get_ident()
    _under_way = {key: count for key, count in _under_way.items() if key[0] == caller}


def go_before(kind: object) -> None:
    """Be the first that a fork calls, before what a driver has registered, which may stop calls that this waits for.

    Args:
        kind: A kind of store, whose driver is imported. What is registered last is called first.
    """
    with _changed:
        if kind not in _kinds and hasattr(os, "register_at_fork"):
            _kinds.add(kind)
            os.register_at_fork(before=_before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
