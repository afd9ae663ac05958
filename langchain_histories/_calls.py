"""How a call of a store is run: its turn, its set-up, its time-out, its second try, and the error that it ends with."""

from __future__ import annotations

import asyncio
import re
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from langchain_histories._deadlines import Deadline, OutOfTimeError, allowed, deadline, under
from langchain_histories._neutral import drive, entered, taking_turns
from langchain_histories._options import Capability
from langchain_histories._secrets import caused, first_line, without_secret_causes
from langchain_histories.errors import ConfigurationError, HistoryError, StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_histories._clients import Clients
    from langchain_histories._operations import Operations
    from langchain_histories._session_ids import SessionId
    from langchain_histories.codec import Metas

T = TypeVar("T")


class Batch(list["BaseMessage"]):
    """Messages that were to be appended, with the ids of their records: to append them again stores them once.

    Attributes:
        ids: The ids of the records.
        meta: What the application gave with them.
        was_sent: Whether a store was asked to keep them.
    """

    def __init__(
        self, messages: Sequence[BaseMessage], ids: list[str], meta: Metas = None, *, was_sent: bool = False
    ) -> None:
        """Keep all of it."""
        super().__init__(messages)
        self.ids, self.meta, self.was_sent = ids, meta, was_sent

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle messages, ids and meta."""
        return type(self), (list(self), self.ids, self.meta)


class Call(NamedTuple, Generic[T]):
    """What both faces run: a name for errors, the session concerned, and a body over a client."""

    name: str
    session_id: SessionId | None
    body: Callable[[Any], Coroutine[Any, Any, T]]
    needs_setup: bool = True
    grows: bool = False
    """Whether it may take as long as what is stored is large."""
    is_read: bool = False
    """Whether it changes nothing, so that it may be tried once more."""
    again: Callable[[Any], Coroutine[Any, Any, T]] | None = None
    """The second try of what changes something: it looks whether the first one did it."""
    batch: Batch | None = None
    """What it appends."""
    nothing: Callable[[], T] | None = None
    """What a read or a removal returns where the place is missing; without it, set-up makes the place."""
    capability: Capability = Capability(0)
    """What the store must have for it: a place that is missing is not empty for other calls."""


class _Reason(NamedTuple):
    """Why a service was unavailable, so that nothing was done: how drivers say it, what is said here, what to do."""

    said: re.Pattern[str]
    what: str
    advice: str


# In the order in which they are looked for. No driver has classes of errors for these alone in all its versions.
_REASONS = (
    _Reason(
        re.compile(
            r"QueuePool limit|no connection available|MaxConnectionsError|couldn't get a connection after"
            r"|checking out a connection from",
            re.IGNORECASE,
        ),
        "had no free connection",
        "All connections of the pool were in use: raise max_connections, or the size of your own client's pool.",
    ),
    _Reason(
        re.compile(
            r"too many (?:clients|(?:open )?connections)|connection slots are reserved|max_user_connections"
            r"|max number of clients|no more connections allowed|max_client_conn",
            re.IGNORECASE,
        ),
        "has no connection left on the server",
        "Each process opens up to max_connections for the sync methods, and as many for each event loop: lower "
        "max_connections, put a pooler before the server, or raise the server's limit.",
    ),
    _Reason(
        re.compile(
            r"authenti|authoriz|password|access ?denied|credential|wrongpass|noauth|logged in|signature|forbidden"
            r"|invalid token|unrecognizedclient|does not exist|unknown database",
            re.IGNORECASE,
        ),
        "was refused",
        "Check the user, the password or token, and the database of the url.",
    ),
)
_CHECK_ADDRESS = "Is the server running, and is that its address?"
_WAITED = (
    "Does the service answer others? Then too many calls wait for its connections or for this session: give them a "
    "longer timeout, or more connections (max_connections) where the store has them."
)


def none() -> None:
    """What is returned where there is nothing."""


_APPEND_AGAIN = (
    "Its messages may have been stored. The error has them as its batch: append that to the session, and they are "
    "stored once."
)
_NO_CONNECTION = re.compile(r"refused|can't connect|could not connect|no connection could", re.IGNORECASE)

# Seconds for which a cancelled call waits for the end of what it does in a thread.
_LAST_WAIT = 0.5


class _InThread(Generic[T]):
    """A call of a function in a thread, where it cannot be stopped."""

    def __init__(self, function: Callable[..., T], *args: Any) -> None:
        self._function, self._args = function, args
        self._lock = threading.Lock()
        self._has_begun = self._is_given_up = False
        self.over: Future[None] = Future()

    def __call__(self) -> T | None:
        with self._lock:
            if self._is_given_up:
                return None
            self._has_begun = True
        try:
            return self._function(*self._args)
        finally:
            self.over.set_result(None)

    def give_up(self) -> bool:
        """Have it not begin; tell whether it has begun already."""
        with self._lock:
            self._is_given_up = not self._has_begun
            return self._has_begun


class Calls:
    """What runs the calls of a store, on both faces. The store has the attributes and the two properties."""

    _operations: Operations[Any]
    _clients: Clients[Any]
    _timeout: float | None
    _secrets: tuple[str, ...]

    if TYPE_CHECKING:

        @property
        def name(self) -> str: ...
        @property
        def capabilities(self) -> Capability: ...

    def _deadline(self) -> Deadline | None:
        seconds = allowed(self._timeout)
        return None if seconds is None else Deadline(seconds)

    def _run(self, call: Call[T]) -> T:
        with under(self._deadline()):
            return self._run_in_time(call)

    def _run_in_time(self, call: Call[T]) -> T:
        clients, lent = self._clients, None
        try:
            clients.wait_behind(call.session_id)
            lent = clients.lend(self)
            try:
                return drive(self._prepared(call, lent.client, clients.setting_up))
            finally:
                clients.give_back(lent)
        except HistoryError as error:
            without_secret_causes(error, self._secrets)
            raise
        except self._expected_errors() as error:
            failed: HistoryError = self._failed(call, error)
        except (TypeError, ValueError) as error:
            if lent is not None:
                raise
            failed = self._refused(error)
        raise failed

    async def _arun(self, call: Call[T]) -> T:
        limit = self._deadline()
        if limit is None:
            return await self._arun_in_turn(call, None)
        try:
            with under(limit):
                async with asyncio.timeout(limit.seconds) as limit.scope:
                    return await self._arun_in_turn(call, limit)
        except TimeoutError as error:
            if limit.scope is None or not limit.scope.expired():
                raise
            failed = self._failed(call, error, f"got no answer within {limit.seconds:g} seconds, and may be done yet")
        raise failed

    async def _arun_in_turn(self, call: Call[T], limit: Deadline | None) -> T:
        clients, lent = self._clients, None
        async with clients.slots_of(call.session_id), clients.slots():
            await clients.turn()
            if not clients.has_native:
                return await self._run_in_thread(call, limit)
            try:
                lent = await clients.lend_native(self)
                try:
                    with taking_turns(clients.turn):
                        return await self._prepared(call, lent.client, clients.setting_up_on_loop())
                finally:
                    await clients.give_back_native(lent)
            except HistoryError as error:
                without_secret_causes(error, self._secrets)
                raise
            except self._expected_errors() as error:
                failed: HistoryError = self._failed(call, error)
            except (TypeError, ValueError) as error:
                if lent is not None:
                    raise
                failed = self._refused(error)
        raise failed

    async def _run_in_thread(self, call: Call[T], limit: Deadline | None) -> T:
        """Run a call in a thread. A cancelled caller waits a moment for its end, and no longer."""

        def run() -> T:
            with under(None if limit is None else limit.in_thread()):
                return self._run_in_time(call)

        found = self._operations.found
        is_known = found.is_complete or (found.is_there and call.nothing is not None)
        if limit is not None and (call.grows or (call.needs_setup and not is_known)):
            limit.lift()
        in_thread = _InThread(run)
        running: Any = asyncio.ensure_future(asyncio.to_thread(in_thread))
        try:
            result: T = await asyncio.shield(running)
        except asyncio.CancelledError:
            running.add_done_callback(lambda done: done.cancelled() or done.exception())
            if in_thread.give_up():
                await asyncio.wait([running], timeout=_LAST_WAIT)
                if not in_thread.over.done():
                    self._clients.give_up(call.session_id, in_thread.over)
            raise
        return result

    async def _prepared(self, call: Call[T], client: Any, setting_up: Any) -> T:
        try:
            return await self._prepared_once(call, client, setting_up)
        except self._expected_errors() as error:
            if not call.needs_setup or not self._operations.is_place_gone(error):
                raise
            self._operations.found.forget()
        return await self._prepared_once(call, client, setting_up)

    async def _prepared_once(self, call: Call[T], client: Any, setting_up: Any) -> T:
        operations, found = self._operations, self._operations.found
        if call.needs_setup and not found.is_complete:
            if call.nothing is None:
                # One sets up and the others wait: each would make the same tables, and wait for the others' locks.
                async with entered(setting_up):
                    if not found.is_complete:
                        await self._set_up_in_time(client)
            elif not found.is_there:
                is_there = await operations.look(client)
                if not is_there and call.capability in self.capabilities:
                    return call.nothing()
                found.is_there = is_there and not found.is_provisional
        limit = deadline()
        if call.grows:
            self._lift(limit)
        try:
            result: T = await operations.run(client, call.body)
        except self._expected_errors() as error:
            again = call.body if call.is_read else call.again
            if again is None or (limit is not None and limit.is_over()) or not operations.is_cut(client, error):
                raise
            result = await operations.run(client, again)
        return result

    async def _set_up_in_time(self, client: Any) -> None:
        """Set up, which may take its time; the call begins behind it."""
        limit = deadline()
        self._lift(limit)
        await self._set_up(client)
        if limit is not None:
            limit.is_renewed = False
            limit.begin()

    def _lift(self, limit: Deadline | None) -> None:
        """Have a call take as long as answers come."""
        if limit is None:
            return
        if self._operations.is_paged:
            limit.is_renewed = True
        else:
            limit.lift()

    async def _set_up(self, client: Any, **options: Any) -> None:
        found = self._operations.found
        found.is_complete = await self._operations.setup(client, **options) is not False
        found.is_provisional = not found.is_complete

    def _expected_errors(self) -> tuple[type[Exception], ...]:
        return (OSError, *self._operations.driver_errors)

    def _failed(self, call: Call[Any], error: Exception, late: str | None = None) -> StoreError:
        """Turn the driver's error into ours. It is the cause, unless it shows a secret.

        Args:
            call: What was called.
            error: The error.
            late: What is to be said of a call that took too long.
        """
        batch, usual = call.batch, _CHECK_ADDRESS
        if isinstance(error, OutOfTimeError) or (late is not None and batch is not None and not batch.was_sent):
            batch, late = None, f"got no turn within {self._timeout or 0:g} seconds, and nothing was done"
            usual = _WAITED
        unavailable = late is not None or self._operations.is_unavailable(error)
        if late is None:
            # The next call looks at the place again: somebody may have dropped the table.
            self._operations.found.forget()
        session_id = None if call.session_id is None else str(call.session_id)
        where = f"{call.name} on {self!r}" + ("" if session_id is None else f", session {session_id!r}")
        more = (self.name, call.name, session_id)
        if not unavailable:
            # What a driver says of a statement may hold the text of a message.
            msg = f"{self.name}: {where} failed ({type(error).__name__})."
            return caused(StoreError, msg, error, self._secrets, *more)
        line = first_line(error, self._secrets)
        said = f"{type(error).__name__} {line}"
        reason = next((reason for reason in _REASONS if reason.said.search(said)), None)
        what = late or (reason.what if reason else "could not be reached")
        told = f"{type(error).__name__}: {line}" if line else type(error).__name__
        advice = self._operations.advice(error) or (reason.advice if reason else usual)
        is_undone = self._operations.is_undone(error)
        if batch is not None and batch.was_sent and not (reason or is_undone or _NO_CONNECTION.search(line)):
            advice = f"{advice} {_APPEND_AGAIN}"
        msg = f"{self.name}: {where} {what} ({told})."
        failed = caused(StoreUnavailableError, msg, error, self._secrets, *more, advice=advice)
        failed.batch = call.batch
        return failed

    def _refused(self, error: Exception) -> ConfigurationError:
        """Return the error for a URL or options with which the driver makes no client."""
        msg = f"{self.name}: the driver refuses what the url or the options of {self!r} say ({type(error).__name__})."
        return caused(ConfigurationError, msg, error, self._secrets)
