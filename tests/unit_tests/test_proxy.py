"""The proxy of the tests: what it says it does."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from servers._proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(1000):
                    connection.sendall(data)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        with Proxy(listening.getsockname()[1]) as proxy:
            yield proxy
        listening.shutdown(socket.SHUT_RDWR)


def _connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def _ask(connection: socket.socket, data: bytes = b"x") -> bytes:
    connection.sendall(data)
    return connection.recv(1000)


def test_counts_round_trips_and_connections(proxy: Proxy) -> None:
    with _connect(proxy) as one, _connect(proxy) as two:
        assert [_ask(one, b"a"), _ask(one, b"b"), _ask(two, b"c")] == [b"a", b"b", b"c"]
        assert (proxy.round_trips, proxy.accepted, proxy.open_connections) == (3, 2, 2)
        proxy.reset()
        assert (_ask(one), proxy.round_trips) == (b"x", 1)


def test_delays_each_direction_and_counts_who_waits(proxy: Proxy) -> None:
    proxy.delay = 0.05
    with _connect(proxy) as one, _connect(proxy) as two:
        began = time.monotonic()
        one.sendall(b"a")
        two.sendall(b"b")
        assert (one.recv(1), two.recv(1)) == (b"a", b"b")
        assert time.monotonic() - began >= 0.1
        assert proxy.most_waiting == 2


def test_cuts_and_goes_on(proxy: Proxy) -> None:
    with _connect(proxy) as old:
        _ask(old)
        assert (proxy.cut(), old.recv(1), proxy.open_connections) == (1, b"", 0)
    with _connect(proxy) as new:
        assert _ask(new) == b"x"


def test_refuses_and_listens_again(proxy: Proxy) -> None:
    with _connect(proxy) as old:
        assert _ask(old) == b"x"  # the proxy has it by now
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            _connect(proxy)
        assert _ask(old) == b"x"
    proxy.listen()
    with _connect(proxy) as new:
        assert _ask(new) == b"x"


@pytest.mark.parametrize("what", ["swallow_requests", "swallow_answers"])
def test_swallows(proxy: Proxy, what: str) -> None:
    setattr(proxy, what, True)
    with _connect(proxy) as connection:
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            _ask(connection)
