"""The clients of a place: who opens them, who may use them, who closes them.

A place is what a URL and the options of the driver name. All stores of a place share its `Clients`, so what is an
option of a store (a codec, a table, a time to live) costs no connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from concurrent.futures import wait
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from langchain_histories import _forks
from langchain_histories._deadlines import OutOfTimeError, in_turn, time_left
from langchain_histories._neutral import drive
from langchain_histories.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Self

ClientT = TypeVar("ClientT")
SharedT = TypeVar("SharedT")

# Operations of one event loop at one place, where nobody says how many connections its pool has.
_AT_ONCE = 50
_AT_ONCE_IN_THREADS = 4
# Of them for one session. More writers of one session only make one another try again.
_AT_ONCE_IN_A_SESSION = 10
# Seconds for which operations may begin before the loop looks at its timers again.
_TURN = 0.005
_FORK_WAIT = 5.0
# Places that no store uses any more whose clients stay open, for a program that makes its stores per request.
_IDLE_PLACES = 32
# Parts of a place, such as tables, of which it is remembered what set-up found there: those used last.
_FOUND_PARTS = 500


class Closing(ABC):
    """A context manager that closes itself, in both forms."""

    @abstractmethod
    def close(self) -> None:
        """Close what belongs to this process."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close what belongs to this process and event loop."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()


class Lent(Generic[ClientT]):
    """A client while calls use it. The caller that lent it gives it back.

    Attributes:
        client: The client.
    """

    __slots__ = ("__weakref__", "calls", "client", "closing", "is_closed", "is_retired", "keeper")

    def __init__(self, client: ClientT) -> None:
        """Nobody uses it yet."""
        self.client = client
        self.calls = 0
        self.is_retired = False
        self.keeper: AsyncGenerator[None] | None = None
        self.closing = asyncio.Lock()
        self.is_closed = False


class _Loop(Generic[ClientT]):
    """What belongs to one event loop."""

    def __init__(self, at_once: int) -> None:
        self.opening = asyncio.Lock()
        self.setting_up = asyncio.Lock()
        self.slots = asyncio.Semaphore(at_once)
        self.sessions: weakref.WeakValueDictionary[Hashable, asyncio.Semaphore] = weakref.WeakValueDictionary()
        self.lent: Lent[ClientT] | None = None
        # When the first operation of this turn of the loop began.
        self.turn_began: float | None = None

    def end_turn(self) -> None:
        self.turn_began = None


async def _nothing_to_open(_: object) -> Any:
    raise RuntimeError("internal error: the caller's client is all there is")


async def _nothing_to_close(_: object) -> None:
    pass


class Clients(Generic[ClientT]):
    """Opens each client of a place on first use, and closes only what it opened.

    There is one blocking client for each process (a forked child opens its own) and one async client for each running
    event loop, because the connections of an async client belong to its loop. The async client is closed when
    its loop shuts down its asynchronous generators, as `asyncio.run` does at its end, so programs that call
    `asyncio.run` many times hold one pool, not many.

    The stores that use a place are counted: the last one that is closed closes the clients, when the calls that are
    under way have ended. `Clients(...)` is a place of its own, `Clients.shared(...)` the one place of this process with
    these arguments.

    Args:
        connect: Neutral coroutine that opens a client; its argument tells whether to open the async one. Needed
            unless a client is given.
        close: Neutral coroutine that closes a client that `connect` opened, if there is anything to close.
        native: Whether there is an async client to open. Without one the async side runs in threads.
        client: The caller's own blocking client. It is never closed here.
        async_client: The caller's own async client. It is never closed here.
        close_idle: Neutral coroutine that closes what no call uses of a client that `connect` opened. It is called
            before a fork of this process, and needed only where what a parent has open disturbs its child.
        fork_wait: Seconds that a fork waits for calls of other threads and event loops, and that those which begin
            meanwhile wait for the fork, so that a child inherits no locks.
        at_once: How many operations of one event loop are under way at once: as many as the async client has
            connections. The others wait, in order.

    Attributes:
        setting_up: Is held by the thread that sets up a part of this place.
    """

    def __init__(
        self,
        *,
        connect: Callable[[bool], Coroutine[Any, Any, ClientT]] | None = None,
        close: Callable[[ClientT], Coroutine[Any, Any, None]] | None = None,
        native: bool = True,
        client: ClientT | None = None,
        async_client: ClientT | None = None,
        close_idle: Callable[[ClientT], Coroutine[Any, Any, None]] | None = None,
        fork_wait: float = _FORK_WAIT,
        at_once: int = _AT_ONCE,
    ) -> None:
        self._connect, self._close = connect or _nothing_to_open, close or _nothing_to_close
        self._close_idle, self.fork_wait = close_idle, fork_wait
        self._given: Lent[ClientT] | None = None if client is None else Lent(client)
        self._given_async: Lent[ClientT] | None = None if async_client is None else Lent(async_client)
        given = client is not None or async_client is not None
        self.has_native = async_client is not None or (native and not given)
        self._at_once = at_once
        self._own: Lent[ClientT] | None = None
        self._opening = threading.Lock()
        self.setting_up = threading.Lock()
        self._lock = threading.Lock()
        self._users: weakref.WeakSet[Any] = weakref.WeakSet()
        self._loops: dict[asyncio.AbstractEventLoop, _Loop[ClientT]] = {}
        self._opened: weakref.WeakSet[Lent[ClientT]] = weakref.WeakSet()
        self._closing: set[asyncio.Task[None]] = set()
        self._found: dict[Hashable, Any] = {}
        self._given_up: dict[Future[None], str | None] = {}
        self._key: Hashable = None
        _forks.note_place(self)

    @staticmethod
    def shared(
        *place: Any,
        connect: Callable[[bool], Coroutine[Any, Any, SharedT]] | None = None,
        close: Callable[[SharedT], Coroutine[Any, Any, None]] | None = None,
        native: bool = True,
        client: SharedT | None = None,
        async_client: SharedT | None = None,
        close_idle: Callable[[SharedT], Coroutine[Any, Any, None]] | None = None,
        fork_wait: float = _FORK_WAIT,
        at_once: int = _AT_ONCE,
    ) -> Clients[SharedT]:
        """Return the clients of a place: those that other stores of this process use, or new ones.

        Args:
            *place: What tells one place from another: the kind of store, the URL, the options of the driver. Plain
                data is compared by value; any other object is equal to itself alone.
            connect: As for the class. It is called for the first store of the place, so it must depend on nothing
                that is not in `place`.
            close: As for the class.
            native: As for the class.
            client: As for the class; a part of the place.
            async_client: As for the class; a part of the place.
            close_idle: As for the class.
            fork_wait: As for the class.
            at_once: As for the class; a part of the place.
        """
        key = (_comparable(place), native, _comparable(client), _comparable(async_client), at_once)
        with _places_lock:
            found: Clients[SharedT] | None = _places.get(key)
            if found is None:
                found = Clients(
                    connect=connect,
                    close=close,
                    native=native,
                    client=client,
                    async_client=async_client,
                    close_idle=close_idle,
                    fork_wait=fork_wait,
                    at_once=at_once,
                )
                found._key = key
                _places[key] = found
        found._stay()
        return found

    @property
    def place(self) -> Hashable:
        """What tells this place from others of the process; it keeps no client of the caller's alive."""
        given: list[Any] = [lent.client for lent in (self._given, self._given_async) if lent is not None]
        if self._key is not None and not given:
            return self._key
        return tuple(client if isinstance(client, PurePath) else _Alive(client, self) for client in given or [self])

    def found(self, place: Hashable, new: Callable[[], Any]) -> Any:
        """Return what set-up found at a part of this place, such as a table: one object for all stores."""
        with self._lock:
            found = self._found.pop(place, None) or new()
            self._found[place] = found
            if len(self._found) > _FOUND_PARTS:
                del self._found[next(iter(self._found))]
        return found

    # Calls in threads that were given up.

    def give_up(self, session_id: object, over: Future[None]) -> None:
        """Have the next calls on a session wait for one that goes on in its thread, though nobody waits for it.

        Args:
            session_id: The session; `None` for a call on several.
            over: Is done when the call is over.
        """
        self._given_up[over] = None if session_id is None else str(session_id)
        over.add_done_callback(lambda future: self._given_up.pop(future, None))

    def wait_behind(self, session_id: object) -> None:
        """Wait in this thread for the calls on a session that were given up: else they could take effect later.

        Raises:
            OutOfTimeError: One is still under way at the deadline.
        """
        if not self._given_up:
            return
        mine = None if session_id is None else str(session_id)
        ahead = [over for over, other in self._given_up.copy().items() if other == mine or None in (other, mine)]
        if ahead and wait(ahead, time_left()).not_done:
            raise OutOfTimeError("a call on the session that was given up is still under way in its thread")

    # The blocking client.

    def lend(self, user: object) -> Lent[ClientT]:
        """Lend the blocking client to a call of `user`, which gives it back in the same thread.

        Raises:
            ConfigurationError: The caller gave an async client alone.
        """
        _forks.begin(self)
        try:
            return self._lend(user)
        except BaseException:
            _forks.end(self)
            raise

    def _lend(self, user: object) -> Lent[ClientT]:
        if self._given is not None:
            return self._given
        if self._given_async is not None:
            raise ConfigurationError(
                "This store was given an async client alone: call the async methods, or pass a blocking client too."
            )
        while True:
            with self._lock:
                lent = self._own
                if lent is not None:
                    lent.calls += 1
                    is_new = user not in self._users
                    self._users.add(user)
                    break
            with in_turn(self._opening):
                if self._own is None:
                    self._own = self._new(drive(self._connect(False)))
        if is_new:
            self._stay()
        return lent

    def _new(self, client: ClientT) -> Lent[ClientT]:
        lent = Lent(client)
        with self._lock:
            self._opened.add(lent)
        return lent

    def give_back(self, lent: Lent[ClientT]) -> None:
        """End a call that `lend` began."""
        try:
            if lent is self._given:
                return
            with self._lock:
                lent.calls -= 1
                is_over = lent.is_retired and not lent.calls
            if is_over:
                drive(self._close(lent.client))
        finally:
            _forks.end(self)

    # The async client.

    def slots(self) -> asyncio.Semaphore:
        """The semaphore of the connections that operations of this event loop have."""
        return self._loop().slots

    def setting_up_on_loop(self) -> asyncio.Lock:
        """What `setting_up` is for the operations of this event loop."""
        return self._loop().setting_up

    def slots_of(self, session_id: Hashable) -> asyncio.Semaphore:
        """The semaphore of the operations of this event loop on one session, or on none."""
        sessions = self._loop().sessions
        if (found := sessions.get(session_id)) is None:
            found = sessions[session_id] = asyncio.Semaphore(_AT_ONCE_IN_A_SESSION)
        return found

    async def turn(self) -> None:
        """Wait until this event loop has looked at its timers, if others have kept it from that.

        It does everything that is ready before it looks at them: a thousand histories at once would block it.
        """
        loop, entry = asyncio.get_running_loop(), self._loop()
        while (now := loop.time()) >= (entry.turn_began or now) + _TURN:  # noqa: ASYNC110  # the loop is to turn
            await asyncio.sleep(0)
        if entry.turn_began is None:
            entry.turn_began = now
            loop.call_soon(entry.end_turn)

    def _loop(self) -> _Loop[ClientT]:
        loop = asyncio.get_running_loop()
        if (entry := self._loops.get(loop)) is None:
            for closed in [other for other in self._loops if other.is_closed()]:
                self._loops.pop(closed, None)
            new: _Loop[ClientT] = _Loop(self._at_once if self.has_native else _AT_ONCE_IN_THREADS)
            entry = self._loops.setdefault(loop, new)
        return entry

    async def lend_native(self, user: object) -> Lent[ClientT]:
        """Lend the async client of the running event loop to a call of `user`."""
        await _forks.begin_on_loop(self)
        try:
            return await self._lend_native(user)
        except BaseException:
            _forks.end_on_loop(self)
            raise

    async def _lend_native(self, user: object) -> Lent[ClientT]:
        if self._given_async is not None:
            return self._given_async
        entry = self._loop()
        while entry.lent is None:
            async with entry.opening:
                if entry.lent is None:
                    lent = self._new(await self._connect(True))
                    lent.keeper = self._keep(entry, lent)
                    await anext(lent.keeper)
                    entry.lent = lent
        lent = entry.lent
        lent.calls += 1
        if user not in self._users:
            with self._lock:
                self._users.add(user)
            self._stay()
        return lent

    async def give_back_native(self, lent: Lent[ClientT]) -> None:
        """End a call that `lend_native` began."""
        try:
            lent.calls -= 1
            if lent.is_retired and not lent.calls:
                await self._end(lent)
        finally:
            _forks.end_on_loop(self)

    async def _keep(self, entry: _Loop[ClientT], lent: Lent[ClientT]) -> AsyncGenerator[None]:
        """Close a client when the loop shuts down its asynchronous generators, or when its last user is gone."""
        try:
            yield
        finally:
            if entry.lent is lent:
                entry.lent = None
            await self._close_once(lent)

    async def _retire(self, entry: _Loop[ClientT]) -> None:
        """Close the async client of a loop, now or when the last call that uses it ends."""
        lent, entry.lent = entry.lent, None
        if lent is not None:
            lent.is_retired = True
            if not lent.calls:
                await self._end(lent)

    async def _end(self, lent: Lent[ClientT]) -> None:
        """Close an async client, and its keeper after it."""
        await self._close_once(lent)
        if lent.keeper is not None:
            with contextlib.suppress(RuntimeError):  # the loop, which is ending, closes it already
                await lent.keeper.aclose()

    async def _close_once(self, lent: Lent[ClientT]) -> None:
        """Close an async client. A loop that ends meanwhile waits here, and closes it if this was cancelled."""
        async with lent.closing:
            if not lent.is_closed:
                await self._close(lent.client)
                lent.is_closed = True

    # Closing.

    def close(self, user: object) -> None:
        """Let `user` go. The last one closes what was opened here; the next use opens another client.

        Async clients are closed by their own event loops.
        """
        if self._let_go(user):
            self._close_all()

    async def aclose(self, user: object) -> None:
        """Async `close`; the async client of the running loop is closed when this returns, unless calls use it."""
        if self._let_go(user):
            entry = self._loops.get(asyncio.get_running_loop())
            if entry is not None:
                await self._retire(entry)
            if self._own is None:
                self._close_all()
            else:
                await asyncio.to_thread(self._close_all)

    def _let_go(self, user: object) -> bool:
        """Forget a user, and tell whether it was the last one."""
        with self._lock:
            self._users.discard(user)
            return not self._users

    def _close_all(self) -> None:
        with self._lock:
            self._forget()
            lent, self._own = self._own, None
            if lent is not None:
                lent.is_retired = True
            is_over = lent is not None and not lent.calls
        for loop, entry in list(self._loops.items()):
            if entry.lent is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed, and its client with it
                    loop.call_soon_threadsafe(self._retire_on_loop, loop, entry)
        if lent is not None and is_over:
            drive(self._close(lent.client))

    def _forget(self) -> None:
        """Have all stores set up again: what was found may be gone when somebody opens the place again."""
        for found in list(self._found.values()):
            found.forget()

    def _retire_on_loop(self, loop: asyncio.AbstractEventLoop, entry: _Loop[ClientT]) -> None:
        task = loop.create_task(self._retire(entry))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # Which places stay open.

    def _stay(self) -> None:
        """Note that this place is in use, and close those that have been idle for longest."""
        if self._key is None:
            return
        with _places_lock:
            _recent[self._key] = self
            _recent.move_to_end(self._key)
            if len(_recent) <= _IDLE_PLACES:
                return
            idle = [clients for clients in _recent.values() if clients is not self and not clients._users]
            surplus = idle[: max(0, len(idle) - _IDLE_PLACES)]
            for clients in surplus:
                del _recent[clients._key]
        for clients in surplus:
            clients._close_all()

    # Forks; see `_forks`.

    def close_idle(self) -> None:
        """Close what no call uses, where a child would be disturbed by it."""
        if self._close_idle is None:
            return
        if (own := self._own) is not None:
            with contextlib.suppress(Exception):  # the store sees in the child that it is open
                drive(self._close_idle(own.client))
        here = _forks.running_loop()
        for loop, entry in list(self._loops.items()):
            lent = entry.lent
            if lent is None or loop is here or not loop.is_running():
                continue  # this thread has stopped the loop, or it does not run
            closing = asyncio.run_coroutine_threadsafe(self._close_idle(lent.client), loop)
            try:
                with contextlib.suppress(Exception):
                    closing.result(self.fork_wait)
            finally:
                closing.cancel()

    def leave_parent(self) -> None:
        """Leave the clients of the parent process alone, and open others."""
        _forks.keep(self._connect, self._close, self._loops, *self._opened)
        self._own, self._loops, self._opened = None, {}, weakref.WeakSet()
        self._given_up = {}
        self._lock, self._opening, self.setting_up = threading.Lock(), threading.Lock(), threading.Lock()
        # A place in memory is another one in this process.
        self._forget()


class _Itself:
    """An object as part of a key: equal to itself alone, and kept alive."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


class _Alive:
    """An object as part of a key while it is alive: equal to itself alone."""

    __slots__ = ("number", "value")

    def __init__(self, value: object, owner: object) -> None:
        """Keep the object, or where there is no weak reference to it, such as to a dict, its owner."""
        try:
            self.value = weakref.ref(value)
        except TypeError:
            self.value = weakref.ref(owner)
        self.number = id(self.value())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Alive) and self.value() is not None and self.value() is other.value()

    def __hash__(self) -> int:
        return self.number


def _comparable(value: Any) -> Hashable:
    """A hashable stand-in for an option: equal for equal plain data, and for the same object of any other kind."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return (type(value), value)
    if type(value) is dict:
        return (dict, frozenset((_comparable(key), _comparable(item)) for key, item in value.items()))
    if type(value) in (list, tuple):
        return (type(value), tuple(map(_comparable, value)))
    return _Itself(value)


_places: weakref.WeakValueDictionary[Hashable, Clients[Any]] = weakref.WeakValueDictionary()
_recent: OrderedDict[Hashable, Clients[Any]] = OrderedDict()
_places_lock = threading.Lock()


@_forks.in_child
def _leave_parent() -> None:
    global _places_lock  # noqa: PLW0603  # another thread of the parent may have held it
    _places_lock = threading.Lock()
