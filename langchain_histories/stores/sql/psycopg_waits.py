"""psycopg's connections, with waits that end.

psycopg waits for an answer as long as it takes, and has no option for it. What waits is one method of its connections,
which is given a generator: here that is one which looks at the time whenever psycopg looks for an interrupt.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import waiting

from langchain_histories.stores.base import deadline

if TYPE_CHECKING:
    from collections.abc import Generator

    from langchain_histories.stores.base import Deadline

_LOOKS = 0.1  # seconds between two looks at the time
_CANCELLING = 0.5  # seconds in which a server is asked to stop what nobody waits for


class NoAnswerError(psycopg.OperationalError):
    """The server has not answered in time."""


def _until(waits: Generator[Any, Any, Any], limit: Deadline) -> Generator[Any, Any, Any]:
    """Do what `waits` does, as long as there is time."""
    end = time.monotonic() + limit.left()
    try:
        wanted = next(waits)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() >= end:
                raise NoAnswerError(f"no answer within {limit.seconds:g} seconds")
            if ready and limit.is_idle:
                end = time.monotonic() + limit.seconds
            wanted = waits.send(ready)
    except StopIteration as finished:
        return finished.value


def _interval(limit: Deadline) -> float:
    return min(_LOOKS, max(limit.left(), 0.001))


def _connecting(waits: Any) -> Any:
    """Connect in time: psycopg's connect_timeout is of two seconds at least."""
    limit = deadline()
    return waits if limit is None else _until(waits, limit)


class _Connection(psycopg.Connection[Any]):
    @classmethod
    def _connect_gen(cls, *args: Any, **options: Any) -> Any:
        return _connecting(super()._connect_gen(*args, **options))

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        limit = deadline()
        if limit is None:
            return super().wait(gen, *args, **options)
        try:
            return super().wait(_until(gen, limit), _interval(limit), **options)
        except NoAnswerError:
            # The server may be waiting for a lock, and would do it when nobody knows of it any more.
            with contextlib.suppress(Exception):
                self.cancel_safe(timeout=_CANCELLING)
            self.close()
            raise


class _AsyncConnection(psycopg.AsyncConnection[Any]):
    @classmethod
    def _connect_gen(cls, *args: Any, **options: Any) -> Any:
        return _connecting(super()._connect_gen(*args, **options))

    async def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        limit = deadline()
        try:
            if limit is None:
                return await waiting.wait_async(gen, self.pgconn.socket, *args, **options)
            waits = _until(gen, limit)
            return await waiting.wait_async(waits, self.pgconn.socket, _interval(limit), **options)
        except (NoAnswerError, asyncio.CancelledError, KeyboardInterrupt):
            # psycopg would wait up to ten seconds for the end of what was cancelled.
            try:
                if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                    with contextlib.suppress(Exception):
                        await self.cancel_safe(timeout=_CANCELLING)
            finally:
                await self.close()
            raise


def in_time(connection: Any) -> None:
    """Have a connection that somebody else has opened with psycopg wait no longer than the call that waits."""
    if type(connection) is psycopg.Connection:
        connection.__class__ = _Connection


connect = _Connection.connect
aconnect = _AsyncConnection.connect
