"""How a call of a store is run: its turn, its set-up, its time-out, its second try, and the error that it ends with."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from langchain_histories._neutral import drive, entered
from langchain_histories._options import Capability
from langchain_histories._secrets import caused, first_line, without_secret_causes
from langchain_histories.errors import ConfigurationError, HistoryError, StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from langchain_histories._clients import Clients
    from langchain_histories._operations import Operations
    from langchain_histories._session_ids import SessionId

T = TypeVar("T")


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
    nothing: Callable[[], T] | None = None
    """What a read or a removal returns where the place is missing; without it, set-up makes the place."""
    capability: Capability = Capability(0)
    """What the store must have for it: a place that is missing is not empty for other calls."""


# How drivers tell that a login was refused. None has a class of errors for that alone in all its versions.
_REFUSED = re.compile(
    r"authenti|authoriz|password|access ?denied|credential|wrongpass|noauth|logged in|signature|forbidden|invalid token"
    r"|unrecognizedclient|does not exist|unknown database",
    re.IGNORECASE,
)
_CHECK_LOGIN = "Check the user, the password or token, and the database of the url."
_CHECK_ADDRESS = "Is the server running, and is that its address?"


def none() -> None:
    """What is returned where there is nothing."""


async def _in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a thread. It cannot be stopped there, so a cancelled caller waits for its end.

    Otherwise what it writes could land behind what the caller writes next.
    """
    running = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()
        raise


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

    def _run(self, call: Call[T]) -> T:
        clients, lent = self._clients, None
        try:
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
        found = self._operations.found
        is_known = found.is_complete or (found.is_there and call.nothing is not None)
        sets_up = call.needs_setup and not is_known
        if self._timeout is None or call.grows or sets_up:
            return await self._arun_in_turn(call)
        try:
            async with asyncio.timeout(self._timeout) as scope:
                return await self._arun_in_turn(call)
        except TimeoutError as error:
            if not scope.expired():
                raise
            failed = self._failed(call, error, f"got no answer within {self._timeout:g} seconds, and may be done yet")
        raise failed

    async def _arun_in_turn(self, call: Call[T]) -> T:
        clients, lent = self._clients, None
        async with clients.slots_of(call.session_id), clients.slots():
            await clients.turn()
            if not clients.has_native:
                return await _in_thread(self._run, call)
            try:
                lent = await clients.lend_native(self)
                try:
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
                        await self._set_up(client)
            elif not found.is_there:
                is_there = await operations.look(client)
                if not is_there and call.capability in self.capabilities:
                    return call.nothing()
                found.is_there = is_there and not found.is_provisional
        try:
            result: T = await operations.run(client, call.body)
        except self._expected_errors() as error:
            if not call.is_read or not operations.is_cut(client, error):
                raise
            result = await operations.run(client, call.body)
        return result

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
        is_refused = _REFUSED.search(f"{type(error).__name__} {line}") is not None
        what = late or ("was refused" if is_refused else "could not be reached")
        told = f"{type(error).__name__}: {line}" if line else type(error).__name__
        advice = self._operations.advice(error) or (_CHECK_LOGIN if is_refused else _CHECK_ADDRESS)
        msg = f"{self.name}: {where} {what} ({told})."
        return caused(StoreUnavailableError, msg, error, self._secrets, *more, advice=advice)

    def _refused(self, error: Exception) -> ConfigurationError:
        """Return the error for a URL or options with which the driver makes no client."""
        msg = f"{self.name}: the driver refuses what the url or the options of {self!r} say ({type(error).__name__})."
        return caused(ConfigurationError, msg, error, self._secrets)
