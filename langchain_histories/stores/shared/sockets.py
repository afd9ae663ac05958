"""Sockets of blocking drivers whose waits end with the call, however slowly a server answers.

A driver's own time-out is for each wait, so a server that sends a byte now and then, or answers each of several
requests late, would keep a call for much longer. The class of a driver's socket is replaced when it has connected.
"""

from __future__ import annotations

import functools
import socket
import ssl
from typing import TYPE_CHECKING, Any

from langchain_histories.stores.base import CONNECT_TIMEOUT, deadline, time_left

if TYPE_CHECKING:
    from collections.abc import Callable

_LEAST = 0.001


class _InTime:
    """What waits, within the time of the call."""

    __slots__ = ()

    def recv(self, *args: Any) -> Any:
        return _within_time(self, super().recv, *args)  # type: ignore[misc]  # the socket's

    def recv_into(self, *args: Any) -> Any:
        return _within_time(self, super().recv_into, *args)  # type: ignore[misc]  # as above

    def send(self, *args: Any) -> Any:
        return _within_time(self, super().send, *args)  # type: ignore[misc]  # as above

    def sendall(self, *args: Any) -> Any:
        return _within_time(self, super().sendall, *args)  # type: ignore[misc]  # as above


class _Plain(_InTime, socket.socket):
    __slots__ = ()


class _Encrypted(_InTime, ssl.SSLSocket):
    __slots__ = ()


_CLASSES = {socket.socket: _Plain, ssl.SSLSocket: _Encrypted}


def in_time(connected: Any) -> Any:
    """Have the waits of a socket end with the call that waits; one of another class stays as it is."""
    if (kind := _CLASSES.get(type(connected))) is not None:
        connected.__class__ = kind
    return connected


def _within_time(connected: Any, wait: Callable[..., Any], *args: Any) -> Any:
    limit, usual = deadline(), connected.gettimeout()
    if limit is None or usual == 0:
        return wait(*args)
    left = limit.left()
    if left <= 0:
        raise TimeoutError("timed out")
    if usual is not None and usual <= left:
        return wait(*args)
    connected.settimeout(max(left, _LEAST))
    try:
        return wait(*args)
    finally:
        if connected.fileno() >= 0:
            connected.settimeout(usual)


def pools_in_time(manager: Any) -> None:
    """Have what urllib3 opens for a `PoolManager` from now on wait no longer than the call that waits."""
    manager.pool_classes_by_scheme = {
        scheme: _pool_in_time(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
    }


@functools.cache
def _pool_in_time(pool: Any) -> Any:
    class Connection(pool.ConnectionCls):  # type: ignore[misc]  # whichever it is
        timeout: Any
        sock: Any

        def connect(self) -> None:
            connecting = min(CONNECT_TIMEOUT, max(_left(), _LEAST))
            self.timeout = min(self.timeout, connecting) if isinstance(self.timeout, int | float) else connecting
            super().connect()
            self.sock = in_time(self.sock)

    class Pool(pool):  # type: ignore[misc]  # as above
        ConnectionCls = Connection

        def _get_conn(self, timeout: float | None = None) -> Any:
            return super()._get_conn(_left() if timeout is None else min(timeout, _left()))

    return Pool


def _left() -> float:
    left = time_left()
    return CONNECT_TIMEOUT if left is None else left
