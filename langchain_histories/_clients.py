"""The clients behind a store: who opens them, who may use them, who closes them."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from langchain_histories._neutral import drive
from langchain_histories.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from types import TracebackType
    from typing import Self

ClientT = TypeVar("ClientT")

# Operations of one event loop on one store. More would run no sooner, and keep the loop from its timers.
_AT_ONCE = 10
_AT_ONCE_IN_THREADS = 4


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


async def _nothing_to_open(_: object) -> Any:
    raise RuntimeError("internal error: the caller's client is all there is")


class _LoopClient(Generic[ClientT]):
    """The async client of one event loop."""

    def __init__(self) -> None:
        self.opening = asyncio.Lock()
        self.client: ClientT | None = None
        self.keeper: AsyncGenerator[None] | None = None


class Clients(Generic[ClientT]):
    """Opens each client on first use, and closes only what it opened.

    There is one blocking client for each process (a forked child opens its own) and one async client for each running
    event loop, because the connections of an async client belong to its loop. The async client is closed when
    its loop shuts down its asynchronous generators, as `asyncio.run` does at its end, so programs that call
    `asyncio.run` many times hold one pool, not many.

    Args:
        connect: Neutral coroutine that opens a client; its argument tells whether to open the async one. Needed
            unless a client is given.
        close: Neutral coroutine that closes a client that `connect` opened.
        native: Whether there is an async client to open. Without one the async side runs in threads.
        client: The caller's own blocking client. It is never closed here.
        async_client: The caller's own async client. It is never closed here.
    """

    def __init__(
        self,
        *,
        connect: Callable[[bool], Coroutine[Any, Any, ClientT]] | None = None,
        close: Callable[[ClientT], Coroutine[Any, Any, None]] | None = None,
        native: bool = True,
        client: ClientT | None = None,
        async_client: ClientT | None = None,
    ) -> None:
        self._connect, self._close = connect or _nothing_to_open, close or _nothing_to_open
        self._given, self._given_async = client, async_client
        given = client is not None or async_client is not None
        self.has_native = async_client is not None or (native and not given)
        self._own: ClientT | None = None
        self._turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()
        self._loops: dict[asyncio.AbstractEventLoop, _LoopClient[ClientT]] = {}
        self._inherited: list[object] = []
        _alive.add(self)

    def blocking(self) -> ClientT:
        """The blocking client.

        Raises:
            ConfigurationError: The caller gave an async client alone.
        """
        if self._given is not None:
            return self._given
        if self._given_async is not None:
            raise ConfigurationError(
                "This store was given an async client alone: call the async methods, or pass a blocking client too."
            )
        if self._own is not None:
            return self._own
        with self._lock:
            if self._own is None:
                self._own = drive(self._connect(False))
            return self._own

    def turns(self) -> asyncio.Semaphore:
        """What an operation holds while it runs on this event loop.

        A loop does everything that is ready before it looks at its timers: a thousand histories at once would block it.
        """
        loop = asyncio.get_running_loop()
        if (turns := self._turns.get(loop)) is None:
            turns = self._turns[loop] = asyncio.Semaphore(_AT_ONCE if self.has_native else _AT_ONCE_IN_THREADS)
        return turns

    async def native(self) -> ClientT:
        """The async client of the running event loop."""
        if self._given_async is not None:
            return self._given_async
        loop = asyncio.get_running_loop()
        if (entry := self._loops.get(loop)) is None:
            for closed in [other for other in self._loops if other.is_closed()]:
                self._loops.pop(closed, None)
            entry = self._loops.setdefault(loop, _LoopClient())
        if entry.client is not None:
            return entry.client
        async with entry.opening:
            if entry.client is None:
                client = await self._connect(True)
                entry.keeper = self._keep(loop, client)
                await anext(entry.keeper)
                entry.client = client
            return entry.client

    async def _keep(self, loop: asyncio.AbstractEventLoop, client: ClientT) -> AsyncGenerator[None]:
        """Close `client` when the loop shuts down its asynchronous generators, or when `aclose` asks for it."""
        try:
            yield
        finally:
            self._loops.pop(loop, None)
            await self._close(client)

    def close(self) -> None:
        """Close the blocking client, if it was opened here. The next use opens another."""
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            drive(self._close(own))

    async def aclose(self) -> None:
        """Close the blocking client and the async client of the running loop, where they were opened here."""
        entry = self._loops.get(asyncio.get_running_loop())
        if entry is not None and entry.keeper is not None:
            await entry.keeper.aclose()
        if self._own is not None:
            await asyncio.to_thread(self.close)

    def forget_parent(self) -> None:
        """Leave the clients of the parent process alone."""
        # Kept, not dropped: a finalizer could say goodbye on sockets that the parent still uses.
        self._inherited += [self._own, self._loops]
        self._own, self._loops, self._lock = None, {}, threading.Lock()


_alive: weakref.WeakSet[Clients[Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for clients in list(_alive):
        clients.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
