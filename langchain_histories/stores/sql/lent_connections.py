"""A psycopg connection of the caller's, as the one connection of a SQLAlchemy engine.

What runs on it runs in a block of psycopg's `connection.transaction()`: in a transaction of its own, or in a savepoint
of the one that the caller has open. So nothing of the caller's is committed or rolled back, a read leaves no
transaction open, and a failure leaves the connection usable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

T = TypeVar("T")

_URL = "postgresql+psycopg://"


def kept(connection: Any, key: Any, make: Callable[[], T]) -> T:
    """Return what was made for a connection. It is kept in the connection itself, so both end together."""
    things: dict[Any, T] = vars(connection).setdefault("_langchain_histories", {})
    return things[key] if key in things else things.setdefault(key, make())


class _OnePool(StaticPool):
    """A pool of the caller's connection alone."""

    lender: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


def engine_of(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> Any:
    """Return the engine over the caller's connection: one for all stores, so that they take turns."""

    def make() -> Any:
        options: dict[str, Any] = {"poolclass": _OnePool, "use_native_hstore": False}
        engine: Any
        if isinstance(connection, psycopg.Connection):
            engine = sa.create_engine(_URL, creator=lambda: _Lent(connection), **options)
        else:

            async def lend(*_: Any, **__: Any) -> Any:
                return _LentAsync(connection)

            engine = create_async_engine(_URL, async_creator=lend, **options)
        engine.pool.lender = connection
        return engine

    return kept(connection, "engine", make)


class _LentBase:
    """The connection as SQLAlchemy uses it. The settings that it makes are kept here, not made there."""

    autocommit = False
    isolation_level: psycopg.IsolationLevel | None = None

    def __init__(self, lender: Any) -> None:
        self.lender = lender
        self.block: Any = None
        self.transaction: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lender, name)

    def add_notice_handler(self, handler: object) -> None:
        """The caller's connection has handlers of its own."""

    def level(self) -> str | None:
        """What a transaction that begins now must begin with: the caller's may see nothing new after its start."""
        if self.isolation_level is None or self.lender.info.transaction_status != TransactionStatus.IDLE:
            return None
        return f"SET TRANSACTION ISOLATION LEVEL {self.isolation_level.name.replace('_', ' ')}"

    def ended(self) -> None:
        if self.transaction.status is psycopg.Transaction.Status.FAILED:
            # psycopg says nothing when the connection was closed in the block.
            raise psycopg.OperationalError("the connection was closed before the commit")


class _Lent(_LentBase):
    def cursor(self) -> _Cursor:
        return _Cursor(self)

    def begin(self) -> None:
        if self.block is None:
            level, block = self.level(), self.lender.transaction()
            self.transaction, self.block = block.__enter__(), block
            if level is not None:
                psycopg.Cursor(self.lender).execute(level)

    def commit(self) -> None:
        if self.block is not None:
            block, self.block = self.block, None
            block.__exit__(None, None, None)
            self.ended()

    def rollback(self) -> None:
        if self.block is not None:
            block, self.block = self.block, None
            block.__exit__(psycopg.Rollback, psycopg.Rollback(self.transaction), None)

    close = rollback


class _Cursor(psycopg.Cursor[Any]):
    """A cursor of psycopg's own: what the caller's connection makes may return anything."""

    def __init__(self, lent: _Lent) -> None:
        super().__init__(lent.lender, row_factory=tuple_row)
        self._lent = lent

    def execute(self, *args: Any, **options: Any) -> Self:
        self._lent.begin()
        super().execute(*args, **options)
        if self._lent.autocommit:
            self._lent.commit()
        return self


class _LentAsync(_LentBase):
    def cursor(self) -> _AsyncCursor:
        return _AsyncCursor(self)

    async def set_autocommit(self, value: bool) -> None:
        self.autocommit = value

    async def set_isolation_level(self, value: psycopg.IsolationLevel | None) -> None:
        self.isolation_level = value

    async def begin(self) -> None:
        if self.block is None:
            level, block = self.level(), self.lender.transaction()
            self.transaction, self.block = await block.__aenter__(), block
            if level is not None:
                await psycopg.AsyncCursor(self.lender).execute(level)

    async def commit(self) -> None:
        if self.block is not None:
            block, self.block = self.block, None
            await block.__aexit__(None, None, None)
            self.ended()

    async def rollback(self) -> None:
        if self.block is not None:
            block, self.block = self.block, None
            await block.__aexit__(psycopg.Rollback, psycopg.Rollback(self.transaction), None)

    close = rollback


class _AsyncCursor(psycopg.AsyncCursor[Any]):
    def __init__(self, lent: _LentAsync) -> None:
        super().__init__(lent.lender, row_factory=tuple_row)
        self._lent = lent

    async def execute(self, *args: Any, **options: Any) -> Self:
        await self._lent.begin()
        await super().execute(*args, **options)
        if self._lent.autocommit:
            await self._lent.commit()
        return self
