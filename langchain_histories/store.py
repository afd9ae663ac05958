"""`MessageStore`: what every store does, with its sync and async faces written once.

A store class writes the underscored operations as neutral coroutines (see `_neutral`) over the client of its driver.
Validation, encoding, errors, set-up on first use and both public faces are here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import re
import threading
import uuid
from abc import abstractmethod
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, NamedTuple, TypeAlias, TypedDict, TypeVar
from urllib.parse import quote, unquote

from langchain_histories._clients import Clients, ClientT, Closing
from langchain_histories._neutral import drive
from langchain_histories.codec import Codec, Record, RecordFormat, Row, envelope, record_time
from langchain_histories.errors import (
    ConfigurationError,
    HistoryError,
    StoreError,
    StoreUnavailableError,
    UnsupportedOperationError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from typing import Self, Unpack

    from langchain_core.messages import BaseMessage

    from langchain_histories.history import StoredChatMessageHistory

T = TypeVar("T")

MAX_SESSION_ID_BYTES = 1024
STORES_WITH_TTL = ("memory", "redis", "upstash", "dynamodb", "cosmosdb")
_ESCAPED = "lh%"
_SHARED_STORES = 256


class Capability(enum.Flag):
    """What a store can do beyond appending, reading and clearing."""

    NATIVE_ASYNC = enum.auto()
    """The async methods use an async driver; without it they run the blocking one in threads."""
    ATOMIC_BATCH = enum.auto()
    """The service itself stores a batch all or nothing; without it readers leave out an incomplete one."""
    TTL = enum.auto()
    """`ttl=`: a session expires as a whole, that long after its last append."""
    TAIL_READ = enum.auto()
    """`last=` and `after=` cost what they return."""
    DELETE = enum.auto()
    """`delete(ids)`."""
    REPLACE = enum.auto()
    """`replace`."""
    SESSIONS = enum.auto()
    """`sessions`."""
    STATE = enum.auto()
    """`get_state`, `put_state` and `update_state`."""
    ERASE = enum.auto()
    """`erase`, and `clear` of a single session leaves no trace."""
    LARGE_SESSIONS = enum.auto()
    """A session has any number of messages, of a megabyte and more; without it what is too large is refused."""
    PERSISTENT = enum.auto()
    """What was stored is there for other processes and after a restart."""


class AnyState(enum.Enum):
    """The type of `ANY_STATE`."""

    ANY_STATE = enum.auto()


ANY_STATE: Final = AnyState.ANY_STATE
"""For `_put_state`: whatever the state is, and also where there is none."""


class StoreOptions(TypedDict, total=False):
    """Options that every store takes.

    Attributes:
        codec: Transforms what is stored of each message: encryption, compression.
        before_save: Called with each message before it is stored; returns the message to store, or `None` for none.
            If it raises, nothing is stored.
        on_unserializable: What to do about an object that cannot be stored: describe its type, or raise.
        on_corrupt: What to do about a record that cannot be read: raise, or skip it with a warning.
        ttl: Seconds after its last append at which a session expires, on stores that have `Capability.TTL`.
    """

    codec: Codec | None
    before_save: Callable[[BaseMessage], BaseMessage | None] | None
    on_unserializable: Literal["describe", "raise"]
    on_corrupt: Literal["raise", "skip"]
    ttl: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session in a listing.

    Attributes:
        session_id: Its id.
        count: Number of stored records.
        last_at: When the last record was added, in UTC; `None` where LangChain's classes wrote it.
    """

    session_id: str
    count: int
    last_at: dt.datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as a store lists it: its key, its number of rows and the text of its last row."""

    key: str
    count: int
    last: str | bytes | None


class Operation(NamedTuple, Generic[ClientT, T]):
    """What both faces run: a name for errors, the session concerned, and a body over a client."""

    name: str
    session_id: str | None
    body: Callable[[ClientT], Coroutine[Any, Any, T]]


SessionId: TypeAlias = str | int | uuid.UUID
StateChange: TypeAlias = "Callable[[dict[str, Any] | None], dict[str, Any] | None]"


def normalize_session_id(session_id: SessionId) -> str:
    """Return the session id as text.

    Args:
        session_id: A non-empty `str` of at most 1,024 bytes of UTF-8, a `UUID` or an `int`.

    Raises:
        ConfigurationError: It is something else.
    """
    if isinstance(session_id, uuid.UUID) or (isinstance(session_id, int) and not isinstance(session_id, bool)):
        return str(session_id)
    if not isinstance(session_id, str) or not session_id:
        what = "an empty string" if session_id == "" else type(session_id).__name__
        raise ConfigurationError(
            f"session_id must be a non-empty str, a UUID or an int, not {what}: without it sessions would be shared."
        )
    try:
        size = len(session_id.encode("utf-8"))
    except UnicodeEncodeError:
        raise ConfigurationError("session_id contains a lone surrogate, which is not valid Unicode text.") from None
    if size > MAX_SESSION_ID_BYTES:
        raise ConfigurationError(f"session_id has {size} bytes of UTF-8; the limit is {MAX_SESSION_ID_BYTES}.")
    return session_id


def user_session_id(user_id: str, session_id: str) -> str:
    """Join a user and a session to one session id, `@user/session`.

    `%` and `/` are percent-escaped in the user's part, so different pairs never give the same id.

    Raises:
        ConfigurationError: A part is empty, or both are too long.
    """
    session = normalize_session_id(session_id)
    return normalize_session_id(_user_prefix(user_id) + session)


def _user_prefix(user_id: str) -> str:
    user = normalize_session_id(user_id)
    return "@" + user.replace("%", "%25").replace("/", "%2F") + "/"


def redact_url(url: str) -> str:
    """Return `url` without passwords, for messages and `repr`."""
    url = re.sub(r"//([^/?#]*)@", lambda m: f"//{m[1].split(':', 1)[0]}:***@" if ":" in m[1] else m[0], url)
    return re.sub(r"(?i)([?&][^=&#]*(?:pass|pwd|secret|token|key|sig|oauthbearer)[^=&#]*=)[^&#]*", r"\1***", url)


def check_ttl(ttl: object) -> int | None:
    """Return `ttl` if it is a time to live in seconds.

    Raises:
        ConfigurationError: It is not a positive whole number.
    """
    if ttl is not None and (not isinstance(ttl, int) or isinstance(ttl, bool) or ttl <= 0):
        raise ConfigurationError(f"ttl must be a positive whole number of seconds, not {ttl!r}.")
    return ttl


def position_number(position: str) -> int:
    """Return the number that a position token begins with, as `12` or `12-5f3a`.

    Raises:
        ConfigurationError: It is not such a token.
    """
    number = position.partition("-")[0] if isinstance(position, str) else ""
    if not number.isdecimal():
        raise ConfigurationError(f"after must be the position of a record of this store, not {position!r}.")
    return int(number)


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


def _checked(options: StoreOptions) -> dict[str, Any]:
    """Return the options of the record format.

    Raises:
        ConfigurationError: One cannot be used.
    """
    codec, hook = options.get("codec"), options.get("before_save")
    if codec is not None and not (hasattr(codec, "encode") and hasattr(codec, "decode")):
        raise ConfigurationError(f"codec must have encode(text) and decode(text), unlike {type(codec).__name__}.")
    if hook is not None and not callable(hook):
        raise ConfigurationError(f"before_save must be callable, unlike {type(hook).__name__}.")
    for name, values in {"on_unserializable": ("describe", "raise"), "on_corrupt": ("raise", "skip")}.items():
        if options.get(name, values[0]) not in values:
            raise ConfigurationError(f"{name} must be one of {values}, not {options.get(name)!r}.")
    return dict(options)


class MessageStore(Closing, Generic[ClientT]):
    """One backend with its connection pool, shared by all sessions kept in it.

    A subclass names its `schemes`, says its `capabilities`, hands its `Clients` to `__init__` and writes the
    underscored operations as neutral coroutines over a client. It validates nothing that is validated here.
    All public methods come in a sync form and an `a`-prefixed async form with the same meaning.

    A constructor does no I/O. The first operation opens the client and makes what is missing (`setup`). At most ten
    operations of one event loop are under way at once (four, where they run in threads); the others wait.

    Raises:
        ConfigurationError: From any method, for a bad argument. Nothing was sent.
        StoreUnavailableError: From any method that reaches the store: it is down or refused the credentials.
        StoreError: From any method that reaches the store: it refused the operation.
        UnsupportedOperationError: From a method that this store does not have.
    """

    name: ClassVar[str]
    """Short name, for messages."""
    schemes: ClassVar[tuple[str, ...]] = ()
    """URL schemes; `postgresql` also stands for `postgresql+psycopg` and other drivers."""
    driver_errors: tuple[type[Exception], ...] = ()
    """What the driver raises; turned into `StoreError`."""
    unavailable_errors: tuple[type[Exception], ...] = (ConnectionError, TimeoutError)
    """Which of them mean that the store could not be reached; turned into `StoreUnavailableError`."""
    unholdable: ClassVar[str] = ""
    """Characters that a session id cannot have in this service; ids with them are escaped."""

    def __init__(self, clients: Clients[ClientT], url: str | None = None, **options: Unpack[StoreOptions]) -> None:
        """Keep clients and options. Called by subclasses."""
        self._clients = clients
        self._url = url
        self.ttl = check_ttl(options.pop("ttl", None))
        self.format = RecordFormat(**_checked(options))
        self._is_set_up = False
        if self.ttl is not None and Capability.TTL not in self.capabilities:
            raise ConfigurationError(
                f"The {self.name} store has no ttl; the stores that have it are {', '.join(STORES_WITH_TTL)}."
            )

    def __repr__(self) -> str:
        """Class and place, without secrets."""
        return f"{type(self).__name__}({redact_url(self._url) if self._url else '<client>'!r})"

    @property
    def client(self) -> ClientT:
        """The blocking client of the driver, for what this package does not do. It is opened if need be."""
        return self._clients.blocking()

    @property
    @abstractmethod
    def capabilities(self) -> Capability:
        """What this instance can do."""

    # What a store writes. `key` is the session id, escaped where the service cannot hold it.

    @abstractmethod
    async def _append(self, client: ClientT, key: str, rows: Sequence[str]) -> None:
        """Store one batch: all or nothing, contiguous, in order, after everything stored before."""

    @abstractmethod
    async def _read(
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
    async def _clear(self, client: ClientT, key: str) -> None:
        """Remove all rows, the state and every other trace of the session."""

    async def _setup(self, client: ClientT, *, upgrade: bool = False) -> None:
        """Make what is missing. Safe when many callers race; needs no rights where nothing is missing."""

    async def _count(self, client: ClientT, key: str) -> int:
        return len(await self._read(client, key))

    async def _replace(self, client: ClientT, key: str, rows: Sequence[str]) -> None:
        """Put `rows` in place of all rows of the session: all or nothing. The state stays."""
        raise self._unsupported("replace")

    async def _delete(self, client: ClientT, key: str, rows: Sequence[Row]) -> int:
        """Remove these rows, as `_read` returned them; return how many were still there."""
        raise self._unsupported("delete")

    async def _sessions(
        self, client: ClientT, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        """List sessions that have rows, in the byte order of their keys, from behind the key `after`."""
        raise self._unsupported("sessions")

    async def _erase(self, client: ClientT, prefix: str) -> int:
        """Remove every trace of all sessions whose key starts with `prefix`; return the number of sessions."""
        raise self._unsupported("erase")

    async def _get_state(self, client: ClientT, key: str) -> str | bytes | None:
        raise self._unsupported("get_state")

    async def _put_state(
        self, client: ClientT, key: str, text: str | None, *, instead_of: str | bytes | AnyState | None = ANY_STATE
    ) -> bool:
        """Store the state of a session, or remove it when `text` is `None`; tell whether that was done.

        It is done only if the state is still `instead_of`, as `_get_state` returned it; `None` stands for no state. To
        compare and to store is one step. `None` is never put instead of `None`.
        """
        raise self._unsupported("put_state")

    def _unavailable(self, error: Exception) -> bool:
        """Whether a driver's error means that the store could not be reached."""
        return isinstance(error, self.unavailable_errors)

    # The public faces.

    def append(self, session_id: str, messages: Sequence[BaseMessage]) -> list[str]:
        """Add a batch of messages to the end of a session: all or nothing, and contiguous.

        Returns:
            The record ids, in order; fewer than messages where `before_save` dropped some.

        Raises:
            InvalidMessageError: Something in the batch is not a message or cannot be stored. Nothing was written.
            RecordTooLargeError: A message is larger than the store can hold. Nothing was written.
        """
        return self._run(self._appending(session_id, messages))

    async def aappend(self, session_id: str, messages: Sequence[BaseMessage]) -> list[str]:
        """Async `append`. When it is cancelled the batch is stored whole or not at all."""
        return await self._arun(self._appending(session_id, messages))

    def read(
        self, session_id: str, *, last: int | None = None, first: int | None = None, after: str | None = None
    ) -> list[BaseMessage]:
        """Return the messages of a session, oldest first. They are the caller's own.

        Args:
            session_id: The session.
            last: Only the last n of them.
            first: Only the first n of them; with `after`, the next page.
            after: Only those behind this `Record.position`.

        Raises:
            CorruptRecordError: A record cannot be read.
        """
        return self._run(self._reading(session_id, last, first, after, envelopes=False))

    async def aread(
        self, session_id: str, *, last: int | None = None, first: int | None = None, after: str | None = None
    ) -> list[BaseMessage]:
        """Async `read`."""
        return await self._arun(self._reading(session_id, last, first, after, envelopes=False))

    def records(
        self, session_id: str, *, last: int | None = None, first: int | None = None, after: str | None = None
    ) -> list[Record]:
        """Return the messages of a session with their ids, times and positions, oldest first.

        Args:
            session_id: The session.
            last: Only the last n of them.
            first: Only the first n of them; with `after`, the next page.
            after: Only those behind this `Record.position`. Going on from the last position seen never misses
                what other writers commit later.

        Raises:
            CorruptRecordError: A record cannot be read.
        """
        return self._run(self._reading(session_id, last, first, after, envelopes=True))

    async def arecords(
        self, session_id: str, *, last: int | None = None, first: int | None = None, after: str | None = None
    ) -> list[Record]:
        """Async `records`."""
        return await self._arun(self._reading(session_id, last, first, after, envelopes=True))

    def count(self, session_id: str) -> int:
        """Return the number of records of a session."""
        return self._run(self._counting(session_id))

    async def acount(self, session_id: str) -> int:
        """Async `count`."""
        return await self._arun(self._counting(session_id))

    def replace(self, session_id: str, messages: Sequence[BaseMessage]) -> list[str]:
        """Put these messages in place of all messages of a session: all or nothing.

        Returns:
            The new record ids, in order.
        """
        return self._run(self._replacing(session_id, messages))

    async def areplace(self, session_id: str, messages: Sequence[BaseMessage]) -> list[str]:
        """Async `replace`."""
        return await self._arun(self._replacing(session_id, messages))

    def delete(self, session_id: str, ids: Iterable[str]) -> int:
        """Remove single records by `Record.id`; unknown ids are ignored. Costs a read of the session.

        Returns:
            How many were removed.
        """
        return self._run(self._deleting(session_id, ids))

    async def adelete(self, session_id: str, ids: Iterable[str]) -> int:
        """Async `delete`."""
        return await self._arun(self._deleting(session_id, ids))

    def clear(self, session_id: str) -> None:
        """Remove a session with its state. Idempotent."""
        self._run(self._clearing(session_id))

    async def aclear(self, session_id: str) -> None:
        """Async `clear`."""
        await self._arun(self._clearing(session_id))

    def sessions(
        self, *, prefix: str = "", user_id: str | None = None, limit: int | None = None, after: str | None = None
    ) -> list[SessionInfo]:
        """List the sessions that have messages, ordered by id.

        Args:
            prefix: Only ids that start with this (with `user_id`, the part behind the user).
            user_id: Only sessions of this user, as `user_session_id` names them.
            limit: At most so many.
            after: Only those behind this session id, the last one of the page before.
        """
        return self._run(self._listing(prefix, user_id, limit, after))

    async def asessions(
        self, *, prefix: str = "", user_id: str | None = None, limit: int | None = None, after: str | None = None
    ) -> list[SessionInfo]:
        """Async `sessions`."""
        return await self._arun(self._listing(prefix, user_id, limit, after))

    def erase(self, *, user_id: str) -> int:
        """Remove every trace of all sessions of a user, as `user_session_id` names them. Idempotent.

        Returns:
            How many sessions were removed.
        """
        return self._run(self._erasing(user_id))

    async def aerase(self, *, user_id: str) -> int:
        """Async `erase`."""
        return await self._arun(self._erasing(user_id))

    def get_state(self, session_id: str) -> dict[str, Any] | None:
        """Return the small document kept beside the transcript of a session, such as a summary."""
        return self._run(self._getting_state(session_id))

    async def aget_state(self, session_id: str) -> dict[str, Any] | None:
        """Async `get_state`."""
        return await self._arun(self._getting_state(session_id))

    def put_state(self, session_id: str, state: dict[str, Any] | None) -> None:
        """Store the document of a session in place of the one before; `None` removes it."""
        self._run(self._putting_state(session_id, state))

    async def aput_state(self, session_id: str, state: dict[str, Any] | None) -> None:
        """Async `put_state`."""
        await self._arun(self._putting_state(session_id, state))

    def update_state(self, session_id: str, change: StateChange) -> dict[str, Any] | None:
        """Store what `change` makes of the document of a session, and lose no change that others make meanwhile.

        Args:
            session_id: The session.
            change: Called with the document, a dict of its own, or with `None`; returns the one to store, or `None` to
                remove it. When others have stored or removed it before that is done, `change` is called again with what
                is there then, so it should have no effects of its own. If it raises or returns an equal document,
                nothing is written.

        Returns:
            The document as it is stored now.
        """
        while True:
            old = self._run(self._getting_state_text(session_id))
            state, storing = self._changing_state(session_id, old, change)
            if storing is None or self._run(storing):
                return state

    async def aupdate_state(self, session_id: str, change: StateChange) -> dict[str, Any] | None:
        """Async `update_state`. `change` is a plain function, called on the event loop."""
        while True:
            old = await self._arun(self._getting_state_text(session_id))
            state, storing = self._changing_state(session_id, old, change)
            if storing is None or await self._arun(storing):
                return state

    def setup(self, *, upgrade: bool = False) -> None:
        """Make the tables, indexes or folders that are missing. The first use does it by itself.

        Args:
            upgrade: Also add to a table that already exists what makes it fast, such as an index.
        """
        self._run(self._setting_up(upgrade=upgrade))

    async def asetup(self, *, upgrade: bool = False) -> None:
        """Async `setup`."""
        await self._arun(self._setting_up(upgrade=upgrade))

    def history(self, session_id: SessionId, *, last: int | None = None) -> StoredChatMessageHistory:
        """Return LangChain's view of one session.

        Args:
            session_id: The session.
            last: `messages` shows only the last n; the transcript keeps all.
        """
        from langchain_histories.history import StoredChatMessageHistory

        return StoredChatMessageHistory(self, session_id, last=last)

    def close(self) -> None:
        """Close the blocking client, if it was opened here. The next use opens another."""
        self._clients.close()

    async def aclose(self) -> None:
        """Close the clients of this process and event loop, where they were opened here."""
        await self._clients.aclose()

    @classmethod
    def shared(cls, *args: Any, **options: Any) -> Self:
        """Return the one store of this process with these arguments, so that a history made per turn opens no pool.

        The 256 configurations used last are kept.
        """
        key = (cls, _configuration_key(args), _configuration_key(options))
        with _shared_lock:
            store = _shared.pop(key, None) or cls(*args, **options)
            _shared[key] = store
            if len(_shared) > _SHARED_STORES:
                _shared.popitem(last=False)
        return store

    # One method for each operation: checks its arguments, and returns what both faces run.

    def _appending(self, session_id: str, messages: Sequence[BaseMessage]) -> Operation[ClientT, list[str]]:
        key, (ids, rows) = self._key(session_id), self.format.encode(messages)

        async def body(client: ClientT) -> list[str]:
            if rows:
                await self._append(client, key, rows)
            return ids

        return Operation("append", session_id, body)

    def _reading(
        self, session_id: str, last: int | None, first: int | None, after: str | None, *, envelopes: bool
    ) -> Operation[ClientT, list[Any]]:
        """Read records, or without envelopes messages alone, which is faster."""
        key = self._key(session_id)
        limit = check_limit(last, first)
        side = "last" if first is None else "first"

        decode: Callable[[Sequence[Row], str], list[Any]]
        decode = self.format.decode if envelopes else self.format.decode_messages

        async def body(client: ClientT) -> list[Any]:
            if limit == 0:
                return []
            if limit is None:
                return decode(await self._read(client, key, after=after), session_id)
            wanted = limit
            while True:
                where: dict[str, Any] = {side: wanted, "after": after}
                rows = await self._read(client, key, **where)
                records = decode(rows, session_id)
                # Fewer when a driver's retry stored some twice, or when corrupt ones are skipped: look further.
                if len(records) >= limit or len(rows) < wanted:
                    return records[-limit:] if side == "last" else records[:limit]
                wanted *= 2

        return Operation("read", session_id, body)

    def _counting(self, session_id: str) -> Operation[ClientT, int]:
        key = self._key(session_id)
        return Operation("count", session_id, lambda client: self._count(client, key))

    def _replacing(self, session_id: str, messages: Sequence[BaseMessage]) -> Operation[ClientT, list[str]]:
        key, (ids, rows) = self._key(session_id), self.format.encode(messages)

        async def body(client: ClientT) -> list[str]:
            await self._replace(client, key, rows)
            return ids

        return Operation("replace", session_id, body)

    def _deleting(self, session_id: str, ids: Iterable[str]) -> Operation[ClientT, int]:
        key = self._key(session_id)
        if isinstance(ids, str):
            raise ConfigurationError("delete takes a list of record ids, not one str.")
        wanted = set(ids)

        async def body(client: ClientT) -> int:
            rows = await self._read(client, key) if wanted else []
            found = [row for row in rows if envelope(row).id in wanted]
            return await self._delete(client, key, found) if found else 0

        return Operation("delete", session_id, body)

    def _clearing(self, session_id: str) -> Operation[ClientT, None]:
        key = self._key(session_id)
        return Operation("clear", session_id, lambda client: self._clear(client, key))

    def _listing(
        self, prefix: str, user_id: str | None, limit: int | None, after: str | None
    ) -> Operation[ClientT, list[SessionInfo]]:
        check_number("limit", limit)
        prefix = prefix if user_id is None else _user_prefix(user_id) + prefix
        after_key = None if after is None else self._key(after)

        async def body(client: ClientT) -> list[SessionInfo]:
            found: list[SessionRow] = []
            for key_prefix in self._key_prefixes(prefix):
                # A prefix of the mark of escaped keys matches them all, so the page is cut after the filter below.
                most = None if self.unholdable and prefix and _ESCAPED.startswith(prefix) else limit
                found += await self._sessions(client, prefix=key_prefix, limit=most, after=after_key)
            found.sort(key=lambda row: row.key.encode())
            infos = [
                SessionInfo(self._session_id(row.key), row.count, None if row.last is None else record_time(row.last))
                for row in found
            ]
            return [info for info in infos if info.session_id.startswith(prefix)][:limit]

        return Operation("sessions", None, body)

    def _erasing(self, user_id: str) -> Operation[ClientT, int]:
        prefix = _user_prefix(user_id)

        async def body(client: ClientT) -> int:
            return sum([await self._erase(client, key_prefix) for key_prefix in self._key_prefixes(prefix)])

        return Operation("erase", None, body)

    def _getting_state(self, session_id: str) -> Operation[ClientT, dict[str, Any] | None]:
        key = self._key(session_id)

        async def body(client: ClientT) -> dict[str, Any] | None:
            text = await self._get_state(client, key)
            return None if text is None else self.format.decode_state(text, session_id)

        return Operation("get_state", session_id, body)

    def _putting_state(self, session_id: str, state: dict[str, Any] | None) -> Operation[ClientT, None]:
        key, text = self._key(session_id), self._state_text(state)

        async def body(client: ClientT) -> None:
            await self._put_state(client, key, text)

        return Operation("put_state", session_id, body)

    def _getting_state_text(self, session_id: str) -> Operation[ClientT, str | bytes | None]:
        key = self._key(session_id)
        return Operation("update_state", session_id, lambda client: self._get_state(client, key))

    def _changing_state(
        self, session_id: str, old: str | bytes | None, change: StateChange
    ) -> tuple[dict[str, Any] | None, Operation[ClientT, bool] | None]:
        """Return what `change` makes of the state with the text `old`, and how it is stored: not, if it is the same."""
        # Two of them: `change` may return its own after changing it in place.
        before, given = (None if old is None else self.format.decode_state(old, session_id) for _ in range(2))
        changed = change(given)
        if changed == before:
            return before, None
        key, text = self._key(session_id), self._state_text(changed)
        state = None if text is None else self.format.decode_state(text, session_id)
        # The texts are compared, for a codec may make another text of the same state each time.
        storing: Operation[ClientT, bool] = Operation(
            "update_state", session_id, lambda client: self._put_state(client, key, text, instead_of=old)
        )
        return state, storing

    def _state_text(self, state: dict[str, Any] | None) -> str | None:
        if state is not None and not isinstance(state, dict):
            raise ConfigurationError(f"A state must be a dict or None, not {type(state).__name__}.")
        return None if state is None else self.format.encode_state(state)

    def _setting_up(self, *, upgrade: bool) -> Operation[ClientT, None]:
        return Operation("setup", None, lambda client: self._setup(client, upgrade=upgrade))

    # How an operation is run.

    def _run(self, operation: Operation[ClientT, T]) -> T:
        try:
            return drive(self._prepared(operation, self._clients.blocking()))
        except HistoryError:
            raise
        except self._expected_errors() as error:
            raise self._failed(operation, error) from error

    async def _arun(self, operation: Operation[ClientT, T]) -> T:
        async with self._clients.turns():
            if not self._clients.has_native:
                return await _in_thread(self._run, operation)
            try:
                return await self._prepared(operation, await self._clients.native())
            except HistoryError:
                raise
            except self._expected_errors() as error:
                raise self._failed(operation, error) from error

    async def _prepared(self, operation: Operation[ClientT, T], client: ClientT) -> T:
        if not self._is_set_up and operation.name != "setup":
            await self._setup(client)
            self._is_set_up = True
        return await operation.body(client)

    def _expected_errors(self) -> tuple[type[Exception], ...]:
        return (OSError, *self.driver_errors)

    def _failed(self, operation: Operation[ClientT, Any], error: Exception) -> StoreError:
        """Turn the driver's error into ours."""
        unavailable = self._unavailable(error)
        where = f"{operation.name} on {self!r}"
        if operation.session_id is not None:
            where += f", session {str(operation.session_id)!r}"
        what = "could not be reached" if unavailable else "failed"
        msg = f"{self.name}: {where} {what} ({type(error).__name__}). See the cause for the driver's own words."
        kind: type[StoreError] = StoreUnavailableError if unavailable else StoreError
        return kind(msg, self.name, operation.name, operation.session_id)

    def _unsupported(self, operation: str) -> UnsupportedOperationError:
        return UnsupportedOperationError(f"The {self.name} store has no {operation}; see its capabilities.")

    # Session ids that the service cannot hold. An escaped key starts with a mark, and an id that starts with the mark
    # is escaped too, so that no two ids have the same key.

    def _key(self, session_id: str) -> str:
        session_id = normalize_session_id(session_id)
        if self.unholdable and (session_id.startswith(_ESCAPED) or set(self.unholdable) & set(session_id)):
            return _ESCAPED + quote(session_id, safe="")
        return session_id

    def _session_id(self, key: str) -> str:
        return unquote(key.removeprefix(_ESCAPED)) if self.unholdable and key.startswith(_ESCAPED) else key

    def _key_prefixes(self, prefix: str) -> list[str]:
        """The prefixes that the keys of all sessions have whose id starts with `prefix`."""
        escaped = _ESCAPED + quote(prefix, safe="")
        if not self.unholdable or escaped.startswith(prefix):
            return [prefix]
        return [escaped] if prefix.startswith(_ESCAPED) else [prefix, escaped]


def _configuration_key(value: Any) -> Any:
    """A hashable stand-in for an option: equal for equal plain data, the identity of anything else."""
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return (type(value), value)
        case dict():
            return tuple((key, _configuration_key(item)) for key, item in sorted(value.items()))
        case list() | tuple():
            return tuple(map(_configuration_key, value))
        case _:
            return id(value)


_shared: OrderedDict[Any, Any] = OrderedDict()
_shared_lock = threading.Lock()


def check_limit(last: int | None, first: int | None) -> int | None:
    """Return the one of both that is given.

    Raises:
        ConfigurationError: Both are given, or one is not a whole number of at least 0.
    """
    if last is not None and first is not None:
        raise ConfigurationError("Give last or first, not both.")
    return check_number("last", last) if first is None else check_number("first", first)


def check_number(name: str, value: int | None) -> int | None:
    """Return `value` if it is a whole number of at least 0, or `None`.

    Raises:
        ConfigurationError: It is something else.
    """
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ConfigurationError(f"{name} must be a whole number of at least 0, not {value!r}.")
    return value
