"""The history under a view, as the neutral bodies of the view (see `_neutral`) call it.

`SyncFace` calls the blocking methods of the history and `AsyncFace` the async ones. A history of another package has no
positions, so a face reads it whole and a `Snapshot` cuts it.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from langchain_histories._neutral import drive
from langchain_histories._operations import Operations
from langchain_histories._values import to_json
from langchain_histories.codec import Record, encode_message
from langchain_histories.errors import ConfigurationError
from langchain_histories.history import StoredChatMessageHistory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from typing import TypeAlias

    from langchain_core.messages import BaseMessage

    from langchain_histories._compat import BaseChatMessageHistory
    from langchain_histories.store import MessageStore

    State: TypeAlias = dict[str, Any] | None
    Change: TypeAlias = Callable[[State], State]

T = TypeVar("T")


class Call(NamedTuple):
    """A slow function in both forms."""

    blocking: Callable[[], Any]
    native: Callable[[], Awaitable[Any]]


class StateSlot(NamedTuple):
    """The session whose state has the summary of a view."""

    store: MessageStore
    session_id: str


def fingerprint(message: BaseMessage) -> str:
    """Return a short hash of the whole message."""
    return hashlib.sha256(to_json(encode_message(message)).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def check_history(history: object) -> None:
    """Refuse an object that is no history.

    Raises:
        ConfigurationError: It lacks a method of LangChain's interface.
    """
    names = ("messages", "aget_messages", "add_messages", "aadd_messages", "clear", "aclear")
    # Not `hasattr(history, "messages")`: that may read the store.
    known = {*dir(type(history)), *getattr(history, "__dict__", ())}
    for name in names:
        if name not in known:
            raise ConfigurationError(f"{type(history).__name__} is no chat message history: it has no {name}.")


def is_running(handle: object) -> bool:
    """Whether the thread or task that `start` returned is still running."""
    return (
        handle.is_alive()
        if isinstance(handle, threading.Thread)
        else isinstance(handle, asyncio.Task) and not handle.done()
    )


class Snapshot:
    """The messages of a history of another package. The position of a record is the number of messages up to it."""

    def __init__(self, messages: Sequence[BaseMessage]) -> None:
        """Keep the messages."""
        self._messages = messages

    def records(self, *, first: int | None = None, last: int | None = None, after: str | None = None) -> Any:
        """As `SyncFace.records`."""
        start = 0 if after is None else int(after)
        stop = len(self._messages) if first is None else min(len(self._messages), start + first)
        if last is not None:
            start = max(start, stop - last)
        return [Record(self._messages[i], str(i + 1), fingerprint(self._messages[i]), None) for i in range(start, stop)]

    def count(self) -> Any:
        """As `SyncFace.count`."""
        return len(self._messages)


class SyncFace:
    """The blocking face of a history.

    Attributes:
        history: The history.
        own: The same, if it is a history of this package.
        slot: Where the summary is kept; a window has none.
    """

    def __init__(self, history: BaseChatMessageHistory) -> None:
        """Keep the history."""
        self.history = history
        self.slot: StateSlot | None = None
        self.own = history if isinstance(history, StoredChatMessageHistory) else None

    @property
    def skips_corrupt(self) -> bool:
        """Whether a summary that cannot be read is left out, as records are."""
        return self.slot is not None and getattr(self.slot.store.format, "on_corrupt", "raise") == "skip"

    def opened(self) -> Any:
        """Return the object whose `records` and `count` read the history: this face, or a snapshot."""
        return self if self.own is not None else Snapshot(list(self.history.messages))

    def records(self, *, first: int | None = None, last: int | None = None, after: str | None = None) -> Any:
        """Return the records behind a position: all, the first n or the last n. For a history of this package."""
        own = self._own()
        return own.store.records(own.session_id, first=first, last=last, after=after)

    @property
    def has_one_look(self) -> bool:
        """Whether one trip reads the last records with the state, as `tail` does."""
        if self.own is None or self.slot != (self.own.store, self.own.session_id):
            return False
        return type(self.own.store.operations).read_with_state is not Operations.read_with_state

    def tail(self, last: int) -> Any:
        """Return the last records, and the state as it was then. For a history of this package."""
        own = self._own()
        return own.store.tail(own.session_id, last)

    def count(self) -> Any:
        """Return the number of messages. For a history of this package."""
        own = self._own()
        return own.store.count(own.session_id)

    def _own(self) -> StoredChatMessageHistory:
        if self.own is None:
            raise RuntimeError("internal error: a history of another package has no records")
        return self.own

    def transcript(self) -> Any:
        """Return every message."""
        if self.own is not None:
            return self.own.store.read(self.own.session_id)
        return list(self.history.messages)

    def add(self, messages: Sequence[BaseMessage]) -> Any:
        """Store messages."""
        self.history.add_messages(messages)

    def clear(self) -> Any:
        """Remove the transcript."""
        self.history.clear()

    def state(self) -> Any:
        """Return the state of the session."""
        return self.slot.store.get_state(self.slot.session_id) if self.slot else None

    def update_state(self, change: Change) -> Any:
        """Change the state of the session."""
        return self.slot.store.update_state(self.slot.session_id, change) if self.slot else None

    def drop_state(self) -> Any:
        """Remove the state of the session."""
        return self.slot.store.put_state(self.slot.session_id, None) if self.slot else None

    def start(self, body: Callable[[SyncFace], Coroutine[Any, Any, Any]]) -> object:
        """Start a neutral body beside the caller; return its thread."""
        thread = threading.Thread(target=lambda: drive(body(self)), name="langchain_histories-summary", daemon=True)
        thread.start()
        return thread

    def call(self, call: Call, timeout: float | None) -> Any:
        """Make a call, and wait for it at most `timeout` seconds.

        Raises:
            TimeoutError: The call took longer. Nothing can stop it; its result is dropped.
        """
        if timeout is None:
            return call.blocking()
        # Only a call in another thread can be left before it returns.
        result: list[Any] = []
        error: list[BaseException] = []

        def work() -> None:
            try:
                result.append(call.blocking())
            except BaseException as problem:  # noqa: BLE001  # the waiting thread raises it again
                error.append(problem)

        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(work,), name="langchain_histories-call", daemon=True)
        thread.start()
        thread.join(timeout)
        if error:
            raise error[0]
        if not result:
            raise TimeoutError(f"no answer within {timeout:g} s")
        return result[0]


class AsyncFace(SyncFace):
    """The async face: each method returns an awaitable."""

    async def opened(self) -> Any:
        """Async `SyncFace.opened`."""
        return self if self.own is not None else Snapshot(list(await self.history.aget_messages()))

    async def records(self, *, first: int | None = None, last: int | None = None, after: str | None = None) -> Any:
        """Async `SyncFace.records`."""
        own = self._own()
        return await own.store.arecords(own.session_id, first=first, last=last, after=after)

    async def tail(self, last: int) -> Any:
        """Async `SyncFace.tail`."""
        own = self._own()
        return await own.store.atail(own.session_id, last)

    async def count(self) -> Any:
        """Async `SyncFace.count`."""
        own = self._own()
        return await own.store.acount(own.session_id)

    async def transcript(self) -> Any:
        """Async `SyncFace.transcript`."""
        if self.own is not None:
            return await self.own.store.aread(self.own.session_id)
        return list(await self.history.aget_messages())

    async def add(self, messages: Sequence[BaseMessage]) -> Any:
        """Async `SyncFace.add`."""
        await self.history.aadd_messages(messages)

    async def clear(self) -> Any:
        """Async `SyncFace.clear`."""
        await self.history.aclear()

    async def state(self) -> Any:
        """Async `SyncFace.state`."""
        return await self.slot.store.aget_state(self.slot.session_id) if self.slot else None

    async def update_state(self, change: Change) -> Any:
        """Async `SyncFace.update_state`."""
        return await self.slot.store.aupdate_state(self.slot.session_id, change) if self.slot else None

    async def drop_state(self) -> Any:
        """Async `SyncFace.drop_state`."""
        return await self.slot.store.aput_state(self.slot.session_id, None) if self.slot else None

    def start(self, body: Callable[[SyncFace], Coroutine[Any, Any, Any]]) -> object:
        """Start a neutral body in a task; the caller must keep the task."""
        return asyncio.get_running_loop().create_task(body(self))

    async def wait(self, task: object, timeout: float | None) -> bool:  # noqa: ASYNC109  # the option of the view
        """Wait for the task that `start` returned; tell whether it has ended."""
        if not isinstance(task, asyncio.Task) or task.get_loop() is not asyncio.get_running_loop():
            return True
        return bool((await asyncio.wait([task], timeout=timeout))[0])

    async def call(self, call: Call, timeout: float | None) -> Any:  # noqa: ASYNC109  # the option of the view
        """Async `SyncFace.call`."""
        return await asyncio.wait_for(call.native(), timeout)
