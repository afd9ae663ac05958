"""`Operations`: what a service can do, as an author of a store writes it.

Each operation is a neutral coroutine (see `_neutral`) over the client of the driver. `MessageStore`, which programs
call, checks the arguments, encodes the messages, prepares the place on first use and names the errors.
"""

from __future__ import annotations

import dataclasses
import enum
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeAlias

from langchain_histories._clients import ClientT
from langchain_histories._options import Capability
from langchain_histories._session_ids import from_key, key_prefixes, to_key
from langchain_histories.errors import RecordTooLargeError, UnsupportedOperationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Sequence

    from langchain_histories._session_ids import SessionId
    from langchain_histories.codec import Row


class AnyState(enum.Enum):
    """The type of `ANY_STATE`."""

    ANY_STATE = enum.auto()


ANY_STATE: Final = AnyState.ANY_STATE
"""The `expected` of `put_state` that any state meets, and no state too."""

ExpectedState: TypeAlias = str | bytes | AnyState | None


@dataclasses.dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as a service lists it: its key, its number of rows and the text of its last row."""

    key: str
    count: int
    last: str | bytes | None


@dataclasses.dataclass(frozen=True, slots=True)
class NewestRow:
    """A session as a service lists it from the newest on.

    Attributes:
        key: Its key.
        position: Token of its place, behind which the listing goes on.
        count: Its number of rows.
        first: The text of its first row.
        last: The text of its last row.
        state: The text of its state, `None` if it has none.
        has_more: Whether it has more rows than `count`, because not all were counted.
    """

    key: str
    position: str
    count: int
    first: str | bytes | None
    last: str | bytes | None
    state: str | bytes | None = None
    has_more: bool = False


@dataclasses.dataclass(eq=False, slots=True, weakref_slot=True)
class Found:
    """What set-up or a look found at one place; all stores of the place share it.

    Attributes:
        is_complete: Whether set-up is done, so that operations need no other.
        is_there: Whether a look has found the place, so that reads need no other.
        is_provisional: Whether what set-up made may yet be undone, so that it is looked for each time.
        what: What the operations remember of it, such as the columns of a table.
    """

    is_complete: bool = False
    is_there: bool = False
    is_provisional: bool = False
    what: Any = None

    def forget(self) -> None:
        """Have the next operation look again."""
        self.is_complete = self.is_there = False


class Operations(ABC, Generic[ClientT]):
    """What a service can do, over a client of its driver.

    A store without optional operations writes `append`, `read` and `clear`; `capabilities` says which others it has.
    Arguments are checked before an operation is called. A `key` is the session id, escaped where the service cannot
    hold it. Later releases pass further arguments only to operations whose `capabilities` ask for them.
    """

    name: ClassVar[str]
    """Short name of the service, for messages."""
    capabilities: Capability = Capability(0)
    """What the service can do. `NATIVE_ASYNC` is taken away where only a blocking client was given."""
    driver_errors: tuple[type[Exception], ...] = ()
    """What the driver raises; `MessageStore` turns it into `StoreError`."""
    unavailable_errors: tuple[type[Exception], ...] = (ConnectionError, TimeoutError)
    """Which of them mean that the store could not be reached; they become `StoreUnavailableError`."""
    unholdable: ClassVar[str] = ""
    """Characters that a session id cannot have in this service; ids with them are escaped."""
    is_paged: ClassVar[bool] = False
    """Whether each answer of the service is of limited size, so that a call that takes many waits for each as long."""
    ttl: int | None = None
    """Seconds after its last append at which a session expires. The store sets it, if `capabilities` has `TTL`."""

    def __init__(self) -> None:
        """Begin at a place of which nothing is known yet."""
        self.found = Found()

    @property
    def place(self) -> Hashable:
        """Where the sessions are, beside the connection: such as a table. Stores of equal places share `found`."""
        return None

    def serving(self) -> Operations[ClientT]:
        """Return the operations for what set-up found: these, unless the service has several layouts."""
        return self

    @abstractmethod
    async def append(self, client: ClientT, key: str, rows: Sequence[str]) -> None:
        """Store one batch: all or nothing, contiguous, in order, after everything stored before."""

    @abstractmethod
    async def read(
        self,
        client: ClientT,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        """Return rows, oldest first: those after a position, and of these the last or the first n, never both."""

    @abstractmethod
    async def clear(self, client: ClientT, key: str) -> None:
        """Remove all rows, the state and every other trace of the session."""

    async def setup(self, client: ClientT, *, upgrade: bool = False) -> bool | None:
        """Make what is missing. Safe when many callers race; needs no rights where nothing is missing.

        Returns:
            `False` where the next operation has to set up again, because what was made may yet be undone.
        """

    async def look(self, client: ClientT) -> bool:
        """Tell whether the place is there, and make nothing.

        Called before what reads or removes, until the place is there or set-up has made it. Where it is missing, reads
        are empty and nothing is removed, without a call of these operations. A class without this method sets up.
        """
        self.found.is_provisional = await self.setup(client) is False
        return True

    async def count(self, client: ClientT, key: str) -> int:
        """Return the number of rows."""
        return len(await self.read(client, key))

    async def replace(self, client: ClientT, key: str, rows: Sequence[str]) -> None:
        """Put `rows` in place of all rows of the session: all or nothing. The state stays."""
        raise self.unsupported("replace")

    async def delete(self, client: ClientT, key: str, rows: Sequence[Row]) -> int:
        """Remove these rows, as `read` returned them; return how many were still there."""
        raise self.unsupported("delete")

    async def edit(
        self, client: ClientT, key: str, rows: Sequence[str], *, expected: Sequence[Row], kept: int, after: str | None
    ) -> bool:
        """Put `rows` in place of `expected[kept:]`; tell whether that was done.

        It is done only if `expected`, as `read` returned them, are still all rows behind the position `after`. To
        compare and to change is one step, and all or nothing. The first `kept` of them, and the state, stay.
        """
        raise self.unsupported("edit")

    # What `copy` calls of several sessions at once: these make a call for each, and a service may do it in fewer trips.

    async def read_many(
        self, client: ClientT, wanted: Sequence[tuple[str, str | None]], *, first: int
    ) -> Sequence[Sequence[Row]]:
        """Return the first n rows of each of these sessions, behind its position if there is one."""
        return [await self.read(client, key, first=first, after=after) for key, after in wanted]

    async def append_behind(
        self, client: ClientT, batches: Sequence[tuple[str, Sequence[str], str | None]]
    ) -> Sequence[bool]:
        """Append a batch to each of these sessions if it still ends at its position; tell for each whether it did.

        A batch that is too large is not appended, like one to a session that goes on.
        """
        return [await self._is_appended(client, *batch) for batch in batches]

    async def _is_appended(self, client: ClientT, key: str, rows: Sequence[str], after: str | None) -> bool:
        try:
            return await self.edit(client, key, rows, expected=(), kept=0, after=after)
        except RecordTooLargeError:
            return False

    async def get_states(self, client: ClientT, keys: Sequence[str]) -> Sequence[str | bytes | None]:
        """Return the text of the state of each of these sessions."""
        return [await self.get_state(client, key) for key in keys]

    async def sessions(
        self, client: ClientT, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        """List sessions that have rows, in the byte order of their session ids, from behind the key `after`.

        An escape of keys (see `unholdable`) keeps that order where NUL is all that the service cannot hold.
        """
        raise self.unsupported("sessions")

    async def newest(
        self, client: ClientT, *, prefixes: Sequence[str], limit: int, after: str | None
    ) -> Sequence[NewestRow]:
        """List sessions that have rows, whose key starts with one of `prefixes`, from behind the position `after`.

        That of the last append comes first, by the service's own sequence or clock; those of which it has none come
        last. Fewer than `limit` are returned only at the end.
        """
        raise self.unsupported("sessions(order='newest')")

    async def erase(self, client: ClientT, prefix: str) -> int:
        """Remove every trace of all sessions whose key starts with `prefix`; return the number of sessions."""
        raise self.unsupported("erase")

    async def get_state(self, client: ClientT, key: str) -> str | bytes | None:
        """Return the text of the state of a session, `None` if there is none."""
        raise self.unsupported("get_state")

    async def put_state(
        self, client: ClientT, key: str, text: str | None, *, expected: ExpectedState = ANY_STATE
    ) -> bool:
        """Store the state of a session, or remove it when `text` is `None`; tell whether that was done.

        It is done only if the state is still `expected`, as `get_state` returned it; `None` stands for no state. To
        compare and to store is one step. `text` and `expected` are never both `None`.
        """
        raise self.unsupported("put_state")

    async def read_with_state(
        self, client: ClientT, key: str, *, last: int
    ) -> tuple[Sequence[Row], str | bytes | None]:
        """Return the last n rows, and the state, as they were at one moment.

        A service that tells both in one trip has its own. This one reads the state again, to see that it is the same.
        """
        state = await self.get_state(client, key)
        while True:
            rows = await self.read(client, key, last=last)
            now = await self.get_state(client, key)
            if now == state:
                return rows, state
            state = now

    async def sweep(self, client: ClientT, limit: int) -> int:
        """Remove what is stored of sessions that have expired, of at most so many; return of how many.

        A session that another writer begins anew meanwhile stays. Where the service removes them itself, that is none.
        """
        return 0

    async def run(self, client: ClientT, body: Callable[[ClientT], Coroutine[Any, Any, Any]]) -> Any:
        """Run the body of an operation; a service whose transactions are given up by design tries it again here."""
        return await body(client)

    def is_unavailable(self, error: Exception) -> bool:
        """Whether a driver's error means that the store could not be reached."""
        return isinstance(error, self.unavailable_errors)

    def is_cut(self, client: ClientT, error: Exception) -> bool:
        """Whether a driver's error means that a connection had been cut, and the client opens another for the next try.

        Then what reads is tried once more. Inside a transaction of the caller's, and where the driver tries again by
        itself, it is not.
        """
        return False

    def is_undone(self, error: Exception) -> bool:
        """Whether a driver's error ended a transaction of the caller's, so that nothing of the call is stored."""
        return False

    def is_place_gone(self, error: Exception) -> bool:
        """Whether a driver's error means that the place was removed, such as its table, so nothing was done.

        Then the place is looked for again, and what was called is done again: where the place is missing, a read finds
        nothing and a write makes it.
        """
        return False

    def advice(self, error: Exception) -> str | None:
        """What to do about an error that means the service is unavailable; `None` for what is said of any service."""
        return None

    def unsupported(self, operation: str) -> UnsupportedOperationError:
        """The error for an operation that the service does not have."""
        return UnsupportedOperationError(f"The {self.name} store has no {operation}; see its capabilities.")

    def key(self, session_id: SessionId) -> str:
        """Return the key of a session."""
        return to_key(session_id, self.unholdable)

    def session_id(self, key: str) -> str:
        """Return the session id of a key."""
        return from_key(key, self.unholdable)

    def key_prefixes(self, prefix: str) -> list[str]:
        """Return the prefixes that the keys of all sessions have whose id starts with `prefix`."""
        return key_prefixes(prefix, self.unholdable)
