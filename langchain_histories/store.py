"""`MessageStore`: what a program calls of every store, in a sync and an async form.

Validation and encoding are here. `_calls.py` runs the calls; what the service can do is in its `Operations`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar, overload

from langchain_histories import _forks
from langchain_histories._calls import Batch, Call, none
from langchain_histories._clients import Clients, Closing
from langchain_histories._copies import MadeAgain
from langchain_histories._filters import RecordFilter
from langchain_histories._listing import SessionInfo, SessionList
from langchain_histories._operations import Found, Operations
from langchain_histories._options import (
    STORES_WITH_TTL,
    Capability,
    StoreOptions,
    check_limit,
    check_number,
    check_record_options,
    check_ttl,
)
from langchain_histories._pruning import Pruning
from langchain_histories._secrets import secrets_of
from langchain_histories._session_ids import matches_all_escaped, user_prefix
from langchain_histories._urls import shown_url
from langchain_histories.codec import Record, RecordFormat, Row, check_is_list, metas_of, record_time
from langchain_histories.errors import ConfigurationError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
    from typing import Self, Unpack

    from langchain_core.messages import BaseMessage

    from langchain_histories._operations import SessionRow
    from langchain_histories._session_ids import SessionId
    from langchain_histories.codec import Metas
    from langchain_histories.history import StoredChatMessageHistory

T = TypeVar("T")

# Records among which those are looked for first that a filter keeps.
_FILTERED = 64

# Records behind which nobody looks for a batch that was sent a moment ago: others would have stored as many since.
_LOOKED_BACK = 200


class Tail(NamedTuple):
    """The end of a transcript and the state of its session, as they were at one moment.

    Attributes:
        records: The last records, oldest first.
        state: The state; `None` if there is none.
    """

    records: list[Record]
    state: dict[str, Any] | None


StateChange: TypeAlias = "Callable[[dict[str, Any] | None], dict[str, Any] | None]"


class MessageStore(Pruning, MadeAgain, Closing):
    """One backend, shared by all sessions kept in it.

    All public methods come in a sync form and an `a`-prefixed async form with the same meaning. A store is a cheap
    object: the connections belong to the place that its URL names, and all stores of that place share them.

    A constructor does no I/O. The first operation opens the client, and the first write makes what is missing
    (`setup`). Reads make nothing: a place that is not there is empty. As many operations of one event loop are under
    way at once as there are connections for (four, where they run in threads); the others wait, in order.

    Each kind of store is a subclass whose constructor calls this one. A copy, deep or pickled, is made by that
    constructor with the same arguments, and so joins the same place; a pickle holds a URL with its password.

    Args:
        operations: What the service can do.
        clients: The clients that the operations use.
        url: Where they connect to; `repr` and errors show it without secrets.
        driver_options: What the driver was given beside the URL. Passwords, tokens and keys in it are in no error.
        timeout: Seconds after which an operation ends with `StoreUnavailableError`, all its waits together: an async
            one whatever it waits for, a sync one in the waits that ask `time_left`. What may take as long as what is
            stored is large, and what has to set up first, ends when nothing has arrived for so long, as the driver
            says.
        record_format: How records are written and read, in place of the package's own format. `ttl` is then the only
            option.
        **options: See `StoreOptions`.

    Raises:
        ConfigurationError: From any method, for a bad argument. Nothing was sent.
        StoreUnavailableError: From any method that reaches the store: it is down or refused the credentials.
        StoreError: From any method that reaches the store: it refused the operation.
        UnsupportedOperationError: From a method that this store does not have.
    """

    def __init__(
        self,
        operations: Operations[Any],
        clients: Clients[Any],
        url: str | None = None,
        *,
        driver_options: Any = None,
        timeout: float | None = None,
        record_format: Any = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep operations, clients and options. Called by subclasses."""
        self._operations = operations
        self._clients = clients
        self._place = "<client>" if url is None else shown_url(url)
        self._timeout = timeout
        self._secrets = secrets_of(url, driver_options)
        operations.ttl = check_ttl(options.pop("ttl", None))
        operations.found = clients.found((type(operations), operations.place), Found)
        _forks.go_before(type(operations))
        self.format = record_format or RecordFormat(**check_record_options(options))
        if operations.ttl is not None and Capability.TTL not in self.capabilities:
            raise ConfigurationError(
                f"The {self.name} store has no ttl; of langchain-histories' own stores "
                f"these have it: {', '.join(STORES_WITH_TTL)}."
            )

    @classmethod
    def joined(cls, url: str, **options: Any) -> Self:
        """Return a store for a single history, at the place that other histories of this URL in this process use.

        That is a store of its own, unless the place is in memory and would belong to the store.
        """
        return cls(url, **options)  # type: ignore[arg-type]  # the constructors of subclasses take a URL first

    def __repr__(self) -> str:
        """Class and place, without secrets."""
        return f"{type(self).__name__}({self._place!r})"

    @property
    def name(self) -> str:
        """Short name of the service."""
        return self._operations.name

    @property
    def ttl(self) -> int | None:
        """Seconds after its last append at which a session expires."""
        return self._operations.ttl

    @property
    def operations(self) -> Operations[Any]:
        """What the service can do at this place."""
        return self._operations.serving()

    @property
    def place(self) -> Hashable:
        """What tells where the sessions are: equal for stores of this process that have the same sessions."""
        return (self._clients.place, type(self._operations), self._operations.place)

    @property
    def client(self) -> Any:
        """The blocking client of the driver, for what this package does not do. It is opened if need be."""

        async def body(client: Any) -> Any:
            return client

        return self._run(Call("client", None, body, needs_setup=False))

    @property
    def capabilities(self) -> Capability:
        """What this instance can do."""
        found = self.operations.capabilities
        return found if self._clients.has_native else found & ~Capability.NATIVE_ASYNC

    def append(
        self,
        session_id: SessionId,
        messages: Sequence[BaseMessage],
        *,
        after: str | None = None,
        meta: Metas = None,
    ) -> list[str]:
        """Store messages at the end of a session: all or nothing, and contiguous.

        Args:
            session_id: The session.
            messages: The messages; or the `batch` of a `StoreUnavailableError`, which is stored if it is not there yet.
                To see that costs a read of the session.
            after: The id of the record with which the session must end, on stores that have `Capability.EDIT`.
            meta: What the application knows of the messages, such as channel or author, as `Record.meta` returns it
                and no model is shown it: one dict for all of them, or a list with one, or `None`, for each. At most
                16 KB of JSON for a message.

        Returns:
            The record ids, in order; fewer than messages where `before_save` dropped some.

        Raises:
            ConfigurationError: `meta` is neither a dict nor a list of as many as there are messages.
            InvalidMessageError: Something in the batch is not a message or cannot be stored, or `meta` has what JSON
                cannot hold. Nothing was written.
            RecordTooLargeError: A message is larger than the store can hold, or its `meta` than 16 KB. Nothing was
                written.
            TranscriptChangedError: The session does not end with the record `after`. Nothing was written.
        """
        return self._run(self._append(session_id, messages, after, meta))

    async def aappend(
        self,
        session_id: SessionId,
        messages: Sequence[BaseMessage],
        *,
        after: str | None = None,
        meta: Metas = None,
    ) -> list[str]:
        """Async `append`. When it is cancelled the batch is stored whole or not at all."""
        return await self._arun(self._append(session_id, messages, after, meta))

    def append_records(self, session_id: SessionId, records: Sequence[Record]) -> list[str]:
        """Add records, as `records` returns them, to the end of a session, with the ids, times and meta that they have.

        A record whose id is in the session is left out, so the same call may be made again. To see that costs a read
        of the session. `copy` takes whole stores.

        Returns:
            The ids of the records that were added, in order.

        Raises:
            InvalidMessageError: Something in it is not a record or cannot be stored. Nothing was written.
            RecordTooLargeError: A message is larger than the store can hold, or its meta too large. Nothing was
                written.
        """
        return self._run(self._append_records(session_id, records))

    async def aappend_records(self, session_id: SessionId, records: Sequence[Record]) -> list[str]:
        """Async `append_records`."""
        return await self._arun(self._append_records(session_id, records))

    def read(
        self, session_id: SessionId, *, last: int | None = None, first: int | None = None, after: str | None = None
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
        return self._run(self._read(session_id, last, first, after, self.format.decode_messages))

    async def aread(
        self, session_id: SessionId, *, last: int | None = None, first: int | None = None, after: str | None = None
    ) -> list[BaseMessage]:
        """Async `read`."""
        return await self._arun(self._read(session_id, last, first, after, self.format.decode_messages))

    @overload
    def records(
        self,
        session_id: SessionId,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        type: str | Iterable[str] | None = None,
        meta: Mapping[str, Any] | None = None,
        raw: Literal[False] = False,
    ) -> list[Record]: ...

    @overload
    def records(
        self,
        session_id: SessionId,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        type: str | Iterable[str] | None = None,
        meta: Mapping[str, Any] | None = None,
        raw: Literal[True],
    ) -> list[dict[str, Any]]: ...

    def records(
        self,
        session_id: SessionId,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        type: str | Iterable[str] | None = None,  # noqa: A002  # what LangChain calls it
        meta: Mapping[str, Any] | None = None,
        raw: bool = False,
    ) -> list[Any]:
        """Return the messages of a session with their ids, times and positions, oldest first.

        Args:
            session_id: The session.
            last: Only the last n of them.
            first: Only the first n of them; with `after`, the next page.
            after: Only those behind this `Record.position`. Going on from the last position seen never misses
                what other writers commit later.
            since: Only those that were added at this time or later. What LangChain's classes wrote has no time, and is
                then left out.
            until: Only those that were added before this time.
            type: Only messages of this type, such as `"human"`, or of several.
            meta: Only those whose `Record.meta` has all of this. What is left out costs as much as what is returned, so
                a filter may read the whole session; `last` and `first` count what is left.
            raw: Return dicts, in half the time, because no message is built or checked: the stored `type` and `data`,
                what the codec does undone; `meta`, the whole envelope, which has the `id` always; and the `position`.

        Raises:
            ConfigurationError: A time has no time zone, or another argument cannot be used.
            CorruptRecordError: A record cannot be read.
        """
        wanted = RecordFilter.of(since, until, type, meta)
        return self._run(self._read(session_id, last, first, after, self._decoder(raw=raw), wanted_records=wanted))

    @overload
    async def arecords(
        self,
        session_id: SessionId,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        type: str | Iterable[str] | None = None,
        meta: Mapping[str, Any] | None = None,
        raw: Literal[False] = False,
    ) -> list[Record]: ...

    @overload
    async def arecords(
        self,
        session_id: SessionId,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        type: str | Iterable[str] | None = None,
        meta: Mapping[str, Any] | None = None,
        raw: Literal[True],
    ) -> list[dict[str, Any]]: ...

    async def arecords(
        self,
        session_id: SessionId,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        type: str | Iterable[str] | None = None,  # noqa: A002  # what LangChain calls it
        meta: Mapping[str, Any] | None = None,
        raw: bool = False,
    ) -> list[Any]:
        """Async `records`."""
        wanted = RecordFilter.of(since, until, type, meta)
        return await self._arun(
            self._read(session_id, last, first, after, self._decoder(raw=raw), wanted_records=wanted)
        )

    def tail(self, session_id: SessionId, last: int = 1) -> Tail:
        """Return the last records of a session and its state, as they were at one moment.

        That is what `append(after=tail.records[-1].id)` needs to be sure that nobody has gone on since. It is one trip
        to Redis, Upstash and SQL, and elsewhere a read between two looks at the state.

        Args:
            session_id: The session.
            last: How many records; one if not given.

        Raises:
            CorruptRecordError: A record or the state cannot be read.
        """
        return self._run(self._tail(session_id, last))

    async def atail(self, session_id: SessionId, last: int = 1) -> Tail:
        """Async `tail`."""
        return await self._arun(self._tail(session_id, last))

    def count(self, session_id: SessionId) -> int:
        """Return the number of records of a session."""
        return self._run(self._count(session_id))

    async def acount(self, session_id: SessionId) -> int:
        """Async `count`."""
        return await self._arun(self._count(session_id))

    def clear(self, session_id: SessionId) -> None:
        """Remove a session with its state. Idempotent."""
        self._run(self._clear(session_id))

    async def aclear(self, session_id: SessionId) -> None:
        """Async `clear`."""
        await self._arun(self._clear(session_id))

    def sessions(
        self,
        *,
        order: Literal["id", "newest"] = "id",
        prefix: str = "",
        user_id: SessionId | None = None,
        limit: int | None = None,
        first: int | None = None,
        after: SessionId | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
    ) -> SessionList:
        """List the sessions that have messages.

        By id they are in the byte order of the UTF-8 of their ids, with id, count and last time. From the newest on, on
        stores that have `Capability.NEWEST`, they come with all that a list of conversations shows (`SessionInfo`):
        that of the last append comes first, by the store's own sequence or clock and by nobody else's, and a session
        of which the store knows no time comes last.

        A session that gets a message while a reader pages goes to the front: it is on the first page when that is read
        again. No page repeats another one's session, and none that got no message is missed.

        On Redis and Upstash `order="newest"` reads an index of what was appended by stores with `index=True`, as they
        are by default. What others wrote, such as LangChain's classes, each listing looks for in a part of the keys, so
        it is listed, last, after some listings, or once `setup(upgrade=True)` has looked for all. `order="id"` looks at
        all keys each time, and shows everything at once.

        Args:
            order: `"id"`, or `"newest"` for a list of conversations.
            prefix: Only ids that start with this (with `user_id`, the part behind the user).
            user_id: Only sessions of this user, as `user_session_id` names them.
            limit: At most so many.
            first: The same, by the name that it has in `read`.
            after: Only those behind the last one of the page before: behind this session id, or with
                `order="newest"` behind this `SessionInfo.position`.
            since: With `order="newest"`, only those whose `last_at` is this or later.
            until: With `order="newest"`, only those whose `last_at` is earlier.
        """
        found = self._run(self._in_order(order, (prefix, user_id), (limit, first), after, (since, until)))
        return SessionList(found)

    async def asessions(
        self,
        *,
        order: Literal["id", "newest"] = "id",
        prefix: str = "",
        user_id: SessionId | None = None,
        limit: int | None = None,
        first: int | None = None,
        after: SessionId | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
    ) -> SessionList:
        """Async `sessions`."""
        found = await self._arun(self._in_order(order, (prefix, user_id), (limit, first), after, (since, until)))
        return SessionList(found)

    def erase(self, *, user_id: SessionId) -> int:
        """Remove every trace of all sessions of a user, as `user_session_id` names them. Idempotent.

        Returns:
            How many sessions were removed. One that is empty or has expired counts while something of it is stored.
        """
        return self._run(self._erase(user_id))

    async def aerase(self, *, user_id: SessionId) -> int:
        """Async `erase`."""
        return await self._arun(self._erase(user_id))

    def get_state(self, session_id: SessionId) -> dict[str, Any] | None:
        """Return the small document kept beside the transcript of a session, such as a summary."""
        return self._run(self._get_state(session_id))

    async def aget_state(self, session_id: SessionId) -> dict[str, Any] | None:
        """Async `get_state`."""
        return await self._arun(self._get_state(session_id))

    def put_state(self, session_id: SessionId, state: dict[str, Any] | None) -> None:
        """Store the document of a session in place of the one before; `None` removes it."""
        self._run(self._put_state(session_id, state))

    async def aput_state(self, session_id: SessionId, state: dict[str, Any] | None) -> None:
        """Async `put_state`."""
        await self._arun(self._put_state(session_id, state))

    def update_state(self, session_id: SessionId, change: StateChange) -> dict[str, Any] | None:
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
            old = self._run(self._get_state_text(session_id))
            state, storing = self._change_state(session_id, old, change)
            if storing is None or self._run(storing):
                return state

    async def aupdate_state(self, session_id: SessionId, change: StateChange) -> dict[str, Any] | None:
        """Async `update_state`. `change` is a plain function, called on the event loop."""
        while True:
            old = await self._arun(self._get_state_text(session_id))
            state, storing = self._change_state(session_id, old, change)
            if storing is None or await self._arun(storing):
                return state

    def setup(self, *, upgrade: bool = False) -> None:
        """Make the tables, indexes or folders that are missing. The first write does it by itself.

        Args:
            upgrade: Also add to a table that already exists what makes it fast, such as an index.
        """
        self._run(self._setup(upgrade=upgrade))

    async def asetup(self, *, upgrade: bool = False) -> None:
        """Async `setup`."""
        await self._arun(self._setup(upgrade=upgrade))

    def history(self, session_id: SessionId, *, last: int | None = None) -> StoredChatMessageHistory:
        """Return LangChain's view of one session.

        Args:
            session_id: The session.
            last: `messages` shows only the last n; the transcript keeps all.
        """
        from langchain_histories.history import StoredChatMessageHistory

        return StoredChatMessageHistory(self, session_id, last=last)

    def close(self) -> None:
        """Let the clients go. They are closed with the last store of the place; the next use opens others."""
        self._clients.close(self)

    async def aclose(self) -> None:
        """Async `close`: the async client of this event loop too is closed with the last store of the place."""
        await self._clients.aclose(self)

    def run(
        self,
        name: str,
        body: Callable[[Any], Coroutine[Any, Any, T]],
        *,
        session_id: SessionId | None = None,
        needs_setup: bool = True,
        nothing: Callable[[], T] | None = None,
    ) -> T:
        """Run an operation of the service's own, with set-up and errors as for the others.

        Args:
            name: What errors call it.
            body: A neutral coroutine function of a client; see `langchain_histories.stores.base`.
            session_id: The session concerned, for errors.
            needs_setup: Whether to make what is missing before.
            nothing: Makes what a read returns where nothing was made yet. With it the operation is a read: it makes
                nothing, and is tried once more where its connection was cut.
        """
        is_read = nothing is not None
        return self._run(Call(name, session_id, body, needs_setup, grows=True, is_read=is_read, nothing=nothing))

    async def arun(
        self,
        name: str,
        body: Callable[[Any], Coroutine[Any, Any, T]],
        *,
        session_id: SessionId | None = None,
        needs_setup: bool = True,
        nothing: Callable[[], T] | None = None,
    ) -> T:
        """Async `run`."""
        is_read = nothing is not None
        return await self._arun(Call(name, session_id, body, needs_setup, grows=True, is_read=is_read, nothing=nothing))

    # One method for each operation: checks its arguments, and returns what both faces run.

    def _append(
        self, session_id: SessionId, messages: Sequence[BaseMessage], after: str | None, meta: Metas
    ) -> Call[list[str]]:
        check_is_list(messages)
        if after is not None:
            self._check_edits()
        known = None
        if isinstance(messages, Batch):
            known, meta = messages.ids, messages.meta if meta is None else meta
        messages = list(messages)
        # Without the argument where there is none: a format of another package need not know it.
        more = {} if meta is None else {"metas": metas_of(meta, len(messages))}
        key, (ids, rows) = self._key(session_id), self.format.encode(messages, known, **more)
        batch = Batch(messages, ids, meta)

        async def body(client: Any) -> list[str]:
            if after is not None:
                batch.was_sent = bool(rows)
                await self._append_behind(client, key, session_id, rows, after)
            elif rows:
                batch.was_sent = True
                await self.operations.append(client, key, rows)
            return ids

        async def again(client: Any, last: int | None = len(rows) + _LOOKED_BACK) -> list[str]:
            stored = {*map(self.format.record_id, await self.operations.read(client, key, last=last))}
            # Without whole batches a part may be there, and the rest is stored with it once more, which is read once.
            is_whole = Capability.ATOMIC_BATCH in self.capabilities
            is_stored = not stored.isdisjoint(ids) if is_whole else stored.issuperset(ids)
            return ids if is_stored else await body(client)

        async def once(client: Any) -> list[str]:
            return await again(client, None)

        if not ids:  # what has no ids cannot be looked for
            return Call("append", session_id, body)
        return Call("append", session_id, body if known is None else once, again=again, batch=batch)

    def _append_records(self, session_id: SessionId, records: Sequence[Record]) -> Call[list[str]]:
        key, (ids, rows) = self._key(session_id), self.format.encode_records(records)
        texts = dict(zip(ids, rows, strict=True))

        async def body(client: Any) -> list[str]:
            stored = {*map(self.format.record_id, await self.operations.read(client, key))} if texts else set()
            missing = {record_id: text for record_id, text in texts.items() if record_id not in stored}
            if missing:
                await self.operations.append(client, key, list(missing.values()))
            return list(missing)

        return Call("append_records", session_id, body, again=body, grows=True)

    def _decoder(self, *, raw: bool) -> Callable[[Sequence[Row], SessionId], list[Any]]:
        return self.format.decode_stored if raw else self.format.decode

    def _read(
        self,
        session_id: SessionId,
        last: int | None,
        first: int | None,
        after: str | None,
        decode: Callable[[Sequence[Row], SessionId], list[T]],
        *,
        wanted_records: RecordFilter | None = None,
    ) -> Call[list[T]]:
        key = self._key(session_id)
        decode = decode if wanted_records is None else wanted_records.of_decoded(decode)
        limit = check_limit(last, first)
        side = "last" if first is None else "first"

        async def body(client: Any) -> list[T]:
            read = self.operations.read
            if limit == 0:
                return []
            if limit is None:
                return decode(await read(client, key, after=after), session_id)
            wanted = limit if wanted_records is None else max(limit, _FILTERED)
            while True:
                where: dict[str, Any] = {side: wanted, "after": after}
                rows = await read(client, key, **where)
                records = decode(rows, session_id)
                # Fewer when some are not wanted, or stored twice by a driver's retry, or corrupt: look further.
                if len(records) >= limit or len(rows) < wanted:
                    return records[-limit:] if side == "last" else records[:limit]
                wanted *= 2

        grows = limit is None or wanted_records is not None
        return Call("read", session_id, body, nothing=list, is_read=True, grows=grows)

    def _tail(self, session_id: SessionId, last: int) -> Call[Tail]:
        key, limit = self._key(session_id), check_number("last", last) or 0

        async def body(client: Any) -> Tail:
            operations, wanted = self.operations, max(limit, 1)
            has_state = Capability.STATE in operations.capabilities
            while True:
                if has_state:
                    rows, text = await operations.read_with_state(client, key, last=wanted)
                else:
                    rows, text = await operations.read(client, key, last=wanted), None
                records = self.format.decode(rows, session_id)
                # Fewer when a driver's retry stored some twice, or when corrupt ones are skipped: look further.
                if len(records) >= limit or len(rows) < wanted:
                    state = None if text is None else self.format.decode_state(text, session_id)
                    return Tail(records[max(len(records) - limit, 0) :], state)
                wanted *= 2

        return Call("tail", session_id, body, nothing=lambda: Tail([], None), is_read=True)

    def _count(self, session_id: SessionId) -> Call[int]:
        key = self._key(session_id)
        return Call("count", session_id, lambda client: self.operations.count(client, key), nothing=int, is_read=True)

    def _clear(self, session_id: SessionId) -> Call[None]:
        key = self._key(session_id)
        return Call("clear", session_id, lambda client: self.operations.clear(client, key), nothing=none, grows=True)

    def _in_order(
        self,
        order: str,
        start: tuple[str, SessionId | None],
        most: tuple[int | None, int | None],
        after: SessionId | None,
        times: tuple[dt.datetime | None, dt.datetime | None],
    ) -> Call[list[SessionInfo]]:
        if None not in most:
            raise ConfigurationError("limit and first say the same: give one of them.")
        limit = most[1] if most[0] is None else most[0]
        if order == "newest":
            return self._newest(*start, limit, after, times)
        if order != "id":
            raise ConfigurationError(f"order must be 'id' or 'newest', not {order!r}.")
        if times != (None, None):
            raise ConfigurationError("since and until are for order='newest'.")
        return self._sessions(*start, limit, after)

    def _sessions(
        self, prefix: str, user_id: SessionId | None, limit: int | None, after: SessionId | None
    ) -> Call[list[SessionInfo]]:
        check_number("limit", limit)
        prefix = prefix if user_id is None else user_prefix(user_id) + prefix
        after_key = None if after is None else self._key(after)

        async def body(client: Any) -> list[SessionInfo]:
            operations = self.operations
            found: list[SessionRow] = []
            for key_prefix in operations.key_prefixes(prefix):
                # Then the page is cut after the filter below.
                most = None if matches_all_escaped(prefix, operations.unholdable) else limit
                found += await operations.sessions(client, prefix=key_prefix, limit=most, after=after_key)
            by_id = sorted(((operations.session_id(row.key), row) for row in found), key=lambda pair: pair[0].encode())
            page = [pair for pair in by_id if pair[0].startswith(prefix)][:limit]
            return [SessionInfo(session_id, row.count, record_time(row.last)) for session_id, row in page]

        return Call("sessions", None, body, nothing=list, is_read=True, capability=Capability.SESSIONS, grows=True)

    def _erase(self, user_id: SessionId) -> Call[int]:
        prefix = user_prefix(user_id)

        async def body(client: Any) -> int:
            operations = self.operations
            return sum([await operations.erase(client, key_prefix) for key_prefix in operations.key_prefixes(prefix)])

        return Call("erase", None, body, nothing=int, capability=Capability.ERASE, grows=True)

    def _get_state(self, session_id: SessionId) -> Call[dict[str, Any] | None]:
        key = self._key(session_id)

        async def body(client: Any) -> dict[str, Any] | None:
            text = await self.operations.get_state(client, key)
            return None if text is None else self.format.decode_state(text, session_id)

        return Call("get_state", session_id, body, nothing=none, is_read=True, capability=Capability.STATE)

    def _put_state(self, session_id: SessionId, state: dict[str, Any] | None) -> Call[None]:
        key, text = self._key(session_id), self._state_text(state)

        async def body(client: Any) -> None:
            await self.operations.put_state(client, key, text)

        return Call("put_state", session_id, body)

    def _get_state_text(self, session_id: SessionId) -> Call[str | bytes | None]:
        key = self._key(session_id)
        return Call(
            "update_state",
            session_id,
            lambda client: self.operations.get_state(client, key),
            nothing=none,
            is_read=True,
            capability=Capability.STATE,
        )

    def _change_state(
        self, session_id: SessionId, old: str | bytes | None, change: StateChange
    ) -> tuple[dict[str, Any] | None, Call[bool] | None]:
        """Return what `change` makes of the state with the text `old`, and how it is stored: not, if it is the same."""
        changed = change(None if old is None else self.format.decode_state(old, session_id))
        self._check_state(changed)
        if self.format.is_same_state(old, changed):
            return None if old is None else self.format.decode_state(old, session_id), None
        key, text = self._key(session_id), self._state_text(changed)
        state = None if text is None else self.format.decode_state(text, session_id)

        async def body(client: Any) -> bool:
            return await self.operations.put_state(client, key, text, expected=old)

        async def again(client: Any) -> bool:
            found = await self.operations.get_state(client, key)
            if found == old:
                return await body(client)
            if (found.decode() if isinstance(found, bytes) else found) == text:
                return True
            raise ConnectionError("the connection was cut, and others have stored another state since")

        return state, Call("update_state", session_id, body, again=again)

    def _state_text(self, state: dict[str, Any] | None) -> str | None:
        self._check_state(state)
        return None if state is None else self.format.encode_state(state)

    @staticmethod
    def _check_state(state: object) -> None:
        if state is not None and not issubclass(type(state), dict):
            raise ConfigurationError(f"A state must be a dict or None, not {type(state).__name__}.")

    def _setup(self, *, upgrade: bool) -> Call[None]:
        async def body(client: Any) -> None:
            self._operations.found.forget()
            await self._set_up(client, upgrade=upgrade)

        return Call("setup", None, body, needs_setup=False, grows=True)

    def _key(self, session_id: SessionId) -> str:
        return self._operations.key(session_id)
