"""A TCP proxy before a server: it delays, drips, cuts, refuses, swallows, and counts round trips."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Self, TypeVar

from servers._machinery import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

T = TypeVar("T")


class Proxy:
    """A proxy before one server, as a context manager. It runs on an event loop in a thread of its own.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        delay: Seconds that what is sent is on its way, in each direction. Connecting is not delayed.
        drip: Seconds between two bytes of what the server sends; 0 for all at once.
        swallow_requests: Whether the server gets nothing of what clients send.
        swallow_answers: Whether clients get nothing of what the server sends.
        cut_requests: How many of the next requests the server does not get: their connections are cut instead.
        cut_answers: How many of the next answers clients do not get: the connections are cut instead.
        round_trips: How often a client sent something after it had got an answer, or as the first on a connection.
            What it sends in several parts before the answer is one trip.
        accepted: Connections that were accepted.
        most_waiting: The most connections on which an answer was waited for at once.
    """

    def __init__(self, port: int, *, delay: float = 0.0, at: int | None = None) -> None:
        """A proxy before the server that listens on `port` on 127.0.0.1; `at` another port than a free one."""
        self._server_port = port
        self.port = free_port() if at is None else at
        self.delay = delay
        self.drip = 0.0
        self.swallow_requests = False
        self.swallow_answers = False
        self.cut_requests = 0
        self.cut_answers = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._connections: set[_Connection] = set()
        self._listening: asyncio.Server | None = None
        self.reset()

    def reset(self) -> None:
        """Count from here on."""
        self.round_trips = 0
        self.accepted = 0
        self.most_waiting = 0

    def cut(self) -> int:
        """End all connections, to client and server, as a load balancer does; return how many there were."""
        return self._call(self._cut())

    def refuse(self) -> None:
        """Refuse new connections, as where nothing listens. Those that are open stay."""
        self._call(self._refuse())

    def listen(self) -> None:
        """Accept connections (again), on the same port."""
        self._call(self._listen())

    @property
    def open_connections(self) -> int:
        """The number of connections that are open."""
        return len(self._connections)

    def __enter__(self) -> Self:
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.refuse()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, call: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    async def _listen(self) -> None:
        if self._listening is None:
            self._listening = await self._loop.create_server(self._accept, HOST, self.port, backlog=1024)

    async def _refuse(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()

    async def _cut(self) -> int:
        connections = list(self._connections)
        for connection in connections:
            connection.cut()
        await asyncio.sleep(0)  # for transports, which close in the next turn of the loop
        return len(connections)

    def _accept(self) -> _Side:
        self.accepted += 1
        connection = _Connection(self)
        self._connections.add(connection)
        connecting = self._loop.create_task(self._connect(connection))
        connection.connecting = connecting
        return connection.client

    async def _connect(self, connection: _Connection) -> None:
        try:
            await self._loop.create_connection(lambda: connection.server, HOST, self._server_port)
        except OSError:
            connection.cut()

    def ended(self, connection: _Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)

    def is_to_cut(self, *, is_request: bool) -> bool:
        """Whether a connection is to be cut because of what a side of it sent."""
        if is_request:
            is_one, self.cut_requests = self.cut_requests > 0, max(0, self.cut_requests - 1)
        else:
            is_one, self.cut_answers = self.cut_answers > 0, max(0, self.cut_answers - 1)
        return is_one

    def count(self, connection: _Connection, *, is_request: bool) -> None:
        """Count what a side of a connection sent."""
        if is_request and not connection.is_waiting:
            self.round_trips += 1
            connection.is_waiting = True
            self.most_waiting = max(self.most_waiting, sum(other.is_waiting for other in self._connections))
        elif not is_request:
            connection.is_waiting = False


class _Connection:
    """The two sides of a connection: to the client and to the server."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.client, self.server = _Side(self), _Side(self)
        self.is_waiting = False
        self.connecting: asyncio.Task[None] | None = None

    def other(self, side: _Side) -> _Side:
        """The side where what `side` gets is sent."""
        return self.server if side is self.client else self.client

    def cut(self) -> None:
        """End both sides."""
        if self.connecting is not None:
            self.connecting.cancel()
        for side in (self.client, self.server):
            if side.transport is not None:
                side.transport.abort()
        self.proxy.ended(self)


class _Side(asyncio.Protocol):
    """One side of a connection: what it gets is sent on by the other."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self.transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        unsent, self._unsent = self._unsent, []
        for data in unsent:
            transport.write(data)

    def data_received(self, data: bytes) -> None:
        connection, proxy = self._connection, self._connection.proxy
        is_request = self is connection.client
        proxy.count(connection, is_request=is_request)
        if proxy.swallow_requests if is_request else proxy.swallow_answers:
            return
        if proxy.is_to_cut(is_request=is_request):
            connection.cut()
            return
        other = connection.other(self)
        if proxy.drip and not is_request:
            for number in range(len(data)):
                asyncio.get_running_loop().call_later(proxy.drip * number, other.send, data[number : number + 1])
        elif proxy.delay:
            asyncio.get_running_loop().call_later(proxy.delay, other.send, data)
        else:
            other.send(data)

    def send(self, data: bytes) -> None:
        """Send it, as soon as the connection is there."""
        if self.transport is None:
            self._unsent.append(data)
        elif not self.transport.is_closing():
            self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._connection.proxy.ended(self._connection)
        other = self._connection.other(self)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            # What is under way arrives before the end does.
            asyncio.get_running_loop().call_later(self._connection.proxy.delay, other.end)

    def end(self) -> None:
        """End the connection when all has been sent."""
        if self.transport is not None:
            self.transport.close()
