"""How long the drivers wait, and which of their idle connections have been cut.

A driver that can be told how long to wait is told when it connects; psycopg, which cannot, is in `psycopg_waits.py`.
The asyncio drivers know no time in which nothing arrives, so their connections are watched here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import select
import sqlite3
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import exc

from langchain_histories.stores.base import CONNECT_TIMEOUT, deadline, time_left
from langchain_histories.stores.shared.sockets import in_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WATCHED = ("asyncpg", "aiomysql", "asyncmy")


def connect_args(url: sa.URL, timeout: float) -> dict[str, Any]:
    """What the driver of a URL is told when it connects, unless the URL says it."""
    connecting = min(timeout, CONNECT_TIMEOUT)
    whole = max(1, math.ceil(connecting))
    known: dict[str, dict[str, Any]] = {
        "psycopg": {"connect_timeout": whole},  # libpq makes at least two of it
        "psycopg2": {"connect_timeout": whole},
        # What is said of reads is for the answers to the login: see `_checked_out`.
        "pymysql": {"connect_timeout": connecting, "read_timeout": connecting, "write_timeout": connecting},
        "mysqldb": {"connect_timeout": whole, "read_timeout": math.ceil(timeout), "write_timeout": math.ceil(timeout)},
    }
    found = known.get(url.get_driver_name(), {})
    return {name: value for name, value in found.items() if name not in url.query}


def limit(engine: Any, timeout: float, *, has_creator: bool) -> None:
    """Have the connections of an engine that was opened for a URL wait no longer than a call may.

    Args:
        engine: The engine, of either kind.
        timeout: Seconds without anything arriving after which a connection is given up.
        has_creator: Whether somebody else opens its connections.
    """
    blocking = getattr(engine, "sync_engine", engine)
    driver = blocking.dialect.driver
    if blocking.dialect.name == "sqlite":
        return
    sa.event.listen(blocking, "checkout", _checked_out)
    if driver in _WATCHED:
        if not has_creator:
            _connect_by(blocking.dialect, _in_time(blocking.dialect, min(timeout, CONNECT_TIMEOUT)))
        sa.event.listen(blocking, "connect", lambda _, record: _watch(record, timeout))
        sa.event.listen(blocking, "checkin", lambda _, record: _stop_watching(record))
    elif driver == "pymysql":
        sa.event.listen(blocking, "connect", lambda connection, _: in_time(connection._sock))  # noqa: SLF001  # it has no public name
    elif driver == "psycopg" and blocking.dialect.name == "postgresql":
        from langchain_histories.stores.sql import psycopg_waits

        if has_creator:
            sa.event.listen(blocking, "connect", lambda connection, _: psycopg_waits.in_time(connection))
        elif blocking.dialect.is_async:
            _connect_by(blocking.dialect, psycopg_waits.aconnect)
        else:
            blocking.dialect.connect = psycopg_waits.connect


def _connect_by(dialect: Any, connect: Callable[..., Any]) -> None:
    """Have the dialect of one engine, for an asyncio driver, connect by another function of the driver's kind."""
    dialect.connect = functools.partial(dialect.connect, async_creator_fn=connect)


def _in_time(dialect: Any, seconds: float) -> Callable[..., Any]:
    """What connects within a time: the drivers' own is for a part of it, or for none."""
    connect = getattr(dialect.loaded_dbapi, dialect.driver).connect

    async def in_time(*args: Any, **options: Any) -> Any:
        if options.keys() & {"timeout", "connect_timeout"}:
            return await connect(*args, **options)
        async with asyncio.timeout(seconds):
            return await connect(*args, **options)

    return in_time


@contextlib.contextmanager
def busy(connection: Any) -> Iterator[None]:
    """Have SQLite wait for the locks of other processes no longer than the call may, which has waited for its turn."""
    limit = deadline()
    has_time = limit is None or limit.is_idle or limit.left() > 0.9 * limit.seconds
    raw = connection.connection.driver_connection if isinstance(connection, sa.Connection) else None
    if limit is None or has_time or not isinstance(raw, sqlite3.Connection):
        yield
        return
    (usual,) = raw.execute("PRAGMA busy_timeout").fetchone()
    raw.execute(f"PRAGMA busy_timeout={int(limit.left() * 1000)}")
    try:
        yield
    finally:
        raw.execute(f"PRAGMA busy_timeout={usual}")


def _checked_out(_: Any, record: Any, __: Any) -> None:
    """See that a connection is alive before anything is sent, without a round trip.

    Raises:
        DisconnectionError: The server or what is before it has cut it. The pool opens another one.
    """
    connection = record.driver_connection
    if _is_cut(connection):
        raise exc.DisconnectionError("the connection was cut while nobody used it")
    left = time_left()
    if left is not None and hasattr(connection, "_read_timeout") and hasattr(connection, "_write_timeout"):
        # PyMySQL's; each wait has what is left of the call.
        connection._read_timeout = connection._write_timeout = max(left, 0.001)  # noqa: SLF001  # it has no public name
    if (watch := record.info.get(_Watch)) is not None:
        watch.begin()


def _is_cut(connection: Any) -> bool:
    """Whether something is to be read on an idle connection: its end, or the server's last words."""
    transport = _transport_of(connection)
    if transport is not None:
        if transport.is_closing():
            return True
        found: Any = transport.get_extra_info("socket")
    else:
        found = getattr(getattr(connection, "pgconn", None), "socket", None)  # psycopg's
        if found is None:
            found = getattr(connection, "_sock", connection)
    try:
        return found is not None and _is_readable(found if isinstance(found, int) else found.fileno())
    except (AttributeError, NotImplementedError):
        return False  # a driver that does not show its socket
    except (OSError, ValueError):
        return True
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("psycopg", "psycopg2"):
            raise
        return True  # it is closed


def _is_readable(number: int) -> bool:
    if number < 0:
        raise ValueError(number)
    if not hasattr(select, "poll"):
        return bool(select.select([number], [], [], 0)[0])
    poll = select.poll()
    poll.register(number, select.POLLIN | select.POLLPRI)
    return bool(poll.poll(0))


def _transport_of(connection: Any) -> Any:
    """The transport of a connection of an asyncio driver; `None` if it is of another or shows none."""
    writer = getattr(connection, "_writer", None)  # aiomysql's
    found = getattr(connection, "_transport", None) if writer is None else writer.transport
    return found if isinstance(found, asyncio.Transport) or hasattr(found, "set_protocol") else None


class _Watch:
    """Ends a connection on which nothing arrives for too long while a call uses it."""

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        self._transport, self._seconds = transport, seconds
        self._loop = asyncio.get_running_loop()
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def note(self) -> None:
        """Something has arrived."""
        self._last = self._loop.time()

    def begin(self) -> None:
        """A call begins to use the connection."""
        self.end()
        self.note()
        self._timer = self._loop.call_later(self._seconds, self._look)

    def end(self) -> None:
        """The call is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        left = self._last + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._transport.abort()


class _Noting(asyncio.Protocol):
    """A driver's protocol that notes what arrives."""

    def __init__(self, protocol: Any, note: Callable[[], None]) -> None:
        self._protocol, self._note = protocol, note

    def data_received(self, data: bytes) -> None:
        self._note()
        self._protocol.data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._protocol.connection_lost(error)

    def eof_received(self) -> Any:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


class _NotingBuffered(_Noting, asyncio.BufferedProtocol):
    """One that has a buffer of its own."""

    def get_buffer(self, size: int) -> Any:
        return self._protocol.get_buffer(size)

    def buffer_updated(self, size: int) -> None:
        self._note()
        self._protocol.buffer_updated(size)


def _watch(record: Any, seconds: float) -> None:
    transport = _transport_of(record.driver_connection)
    if transport is None:
        return
    watch = record.info[_Watch] = _Watch(transport, seconds)
    protocol = transport.get_protocol()
    kind = _NotingBuffered if isinstance(protocol, asyncio.BufferedProtocol) else _Noting
    transport.set_protocol(kind(protocol, watch.note))
    watch.begin()


def _stop_watching(record: Any) -> None:
    if (watch := record.info.get(_Watch)) is not None:
        watch.end()
