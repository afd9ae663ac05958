"""A psycopg connection of the caller's as the one connection of a SQLAlchemy engine, and a pool as its pool.

Each statement or transaction of the engine runs in a block of psycopg's `connection.transaction()`: in a transaction of
its own, or in a savepoint of the transaction that the caller has open. So nothing of the caller's is committed or
rolled back, a read leaves no transaction open, and a failure leaves the connection usable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from langchain_histories.stores.sql.engines import attached

if TYPE_CHECKING:
    from typing import Self

_URL = "postgresql+psycopg://"


class _OnePool(StaticPool):
    """A pool of the caller's connection alone."""

    lender: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]

    def is_in_transaction(self) -> bool:
        return self.lender.info.transaction_status != TransactionStatus.IDLE


def engine_of(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> Any:
    """Return the engine over the caller's connection: one for all stores, so that they take turns on it."""

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

    return attached(connection, "engine", make)


class _CallersPool(NullPool):
    """Keeps no connections: the caller's pool does."""

    at_once: int


def engine_of_pool(pool: Any, *, is_async: bool) -> Any:
    """Return the engine over the caller's pool of psycopg_pool: one for all stores."""

    def make() -> Any:
        options: dict[str, Any] = {"poolclass": _CallersPool, "use_native_hstore": False}
        engine: Any
        if is_async:

            async def take(*_: Any, **__: Any) -> Any:
                return _TakenAsync(await pool.getconn(), pool)

            engine = create_async_engine(_URL, async_creator=take, **options)
        else:
            engine = sa.create_engine(_URL, creator=lambda: _Taken(pool.getconn(), pool), **options)
        engine.pool.at_once = pool.max_size
        return engine

    return attached(pool, "engine", make)


class _LentBase:
    """The connection as SQLAlchemy uses it. Settings of SQLAlchemy's stay here and never reach the connection."""

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

    def first_statement(self) -> str | None:
        """The first statement of a transaction that begins now: only before its first query can its level be set."""
        if self.isolation_level is None or self.lender.info.transaction_status != TransactionStatus.IDLE:
            return None
        return f"SET TRANSACTION ISOLATION LEVEL {self.isolation_level.name.replace('_', ' ')}"

    def check_connection(self) -> None:
        if self.transaction.status is psycopg.Transaction.Status.FAILED:
            # psycopg says nothing when the connection was closed in the block.
            raise psycopg.OperationalError("the connection was closed before the commit")


class _Lent(_LentBase):
    def cursor(self) -> _Cursor:
        return _Cursor(self)

    def begin(self) -> None:
        if self.block is None:
            first, block = self.first_statement(), self.lender.transaction()
            self.transaction, self.block = block.__enter__(), block
            if first is not None:
                psycopg.Cursor(self.lender).execute(first)

    def commit(self) -> None:
        if self.block is not None:
            block, self.block = self.block, None
            block.__exit__(None, None, None)
            self.check_connection()

    def rollback(self) -> None:
        if self.block is not None:
            block, self.block = self.block, None
            block.__exit__(psycopg.Rollback, psycopg.Rollback(self.transaction), None)

    close = rollback


class _Taken(_Lent):
    """A connection that was taken from the caller's pool, and goes back."""

    def __init__(self, lender: Any, pool: Any) -> None:
        super().__init__(lender)
        self._pool = pool

    def close(self) -> None:
        try:
            self.rollback()
        finally:
            self._pool.putconn(self.lender)


class _Cursor(psycopg.Cursor[Any]):
    """A cursor of psycopg's own: the caller's connection may make cursors that return anything but tuples."""

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
            first, block = self.first_statement(), self.lender.transaction()
            self.transaction, self.block = await block.__aenter__(), block
            if first is not None:
                await psycopg.AsyncCursor(self.lender).execute(first)

    async def commit(self) -> None:
        if self.block is not None:
            block, self.block = self.block, None
            await block.__aexit__(None, None, None)
            self.check_connection()

    async def rollback(self) -> None:
        if self.block is not None:
            block, self.block = self.block, None
            await block.__aexit__(psycopg.Rollback, psycopg.Rollback(self.transaction), None)

    close = rollback


class _TakenAsync(_LentAsync):
    """A connection that was taken from the caller's pool, and goes back."""

    def __init__(self, lender: Any, pool: Any) -> None:
        super().__init__(lender)
        self._pool = pool

    async def close(self) -> None:
        try:
            await self.rollback()
        finally:
            await self._pool.putconn(self.lender)


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
