"""A `Connection` or a `Session` of SQLAlchemy of the caller's, as operations use an engine.

In a transaction of the caller's each operation runs in a savepoint, and lasts when the caller commits. A `Session` is
always in one, as it is for what the caller adds to it. On a `Connection` without one the operation has a transaction of
its own, and leaves none open. MySQL's and MariaDB's named locks end before the caller commits, and what makes a table
commits there, so nothing is written in the caller's transactions there.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.pool import StaticPool

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import entered, settle
from langchain_histories.stores.sql.drivers import NATIVE
from langchain_histories.stores.sql.engines import BEGIN_IMMEDIATE, attached

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


def engine_of(given: Any) -> LentEngine:
    """Return what takes the place of an engine: one for all stores, so that they take turns on it.

    Raises:
        ConfigurationError: It has no engine, or it was not connected.
    """
    is_async = isinstance(given, NATIVE)
    owner = given
    if isinstance(given, AsyncConnection):
        owner = given.sync_connection
    elif isinstance(given, AsyncSession):
        owner = given.sync_session
    if owner is None:
        raise ConfigurationError("The AsyncConnection is not connected: begin it with `async with engine.connect()`.")
    return attached(owner, ("engine", is_async), lambda: LentEngine(given, is_async=is_async))


class _Turns(StaticPool):
    """Stands for the caller's connection alone: users of one connection take turns."""

    at_once = 1
    is_in_transaction: Any


class LentEngine:
    """What operations use of an engine, over the caller's connection or session.

    Args:
        given: The connection or session.
        is_async: Whether it is an async one.
    """

    def __init__(self, given: Any, *, is_async: bool) -> None:
        self._given, self.is_async = given, is_async
        self._is_session = not isinstance(given, sa.Connection | AsyncConnection)
        try:
            bind = given.get_bind() if self._is_session else given
        except exc.UnboundExecutionError:
            bind = None
        if bind is None:
            raise ConfigurationError("The session of SQLAlchemy is bound to no engine: make it with bind=.")
        self.engine = getattr(bind.engine, "sync_engine", bind.engine)
        self.dialect, self.url = self.engine.dialect, self.engine.url
        self.pool = _Turns(lambda: None)  # type: ignore[arg-type]  # nothing is taken from it
        self.pool.is_in_transaction = self._is_in_transaction

    def _is_in_transaction(self) -> bool:
        return self._is_session or bool(self._given.in_transaction())

    def get_execution_options(self) -> Any:
        """Those of the caller's connection; of a session, of its engine."""
        given = self.engine if self._is_session else self._given
        return getattr(given, "sync_connection", given).get_execution_options()

    def execution_options(self) -> LentEngine:
        """The options of the caller's connection stay."""
        return self

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[_Lent]:
        """Lend the connection, in a savepoint of the caller's transaction or in one of its own."""
        connection = await settle(self._given.connection()) if self._is_session else self._given
        self._check(connection)
        if not connection.in_transaction():
            try:
                yield _Lent(connection, is_theirs=False)
            except BaseException:
                await settle(connection.rollback())
                raise
            await settle(connection.commit())
            return
        if self.dialect.name == "sqlite" and not _driver_connection(connection).in_transaction:
            # The standard library begins with the first change, and a savepoint without a transaction is one itself.
            await settle(connection.exec_driver_sql("BEGIN"))
        async with entered(connection.begin_nested()):
            yield _Lent(connection, is_theirs=True)

    def _check(self, connection: Any) -> None:
        """Refuse a connection that cannot keep a batch together.

        Raises:
            ConfigurationError: Each statement commits by itself on it.
        """
        if self.dialect.name in ("postgresql", "yugabytedb"):
            lent = getattr(connection, "sync_connection", connection).connection.dbapi_connection
            if self.dialect.detect_autocommit_setting(lent):
                raise ConfigurationError(
                    "Your connection commits each statement by itself (AUTOCOMMIT), so it cannot keep a batch "
                    "together: give the engine, or a connection with transactions."
                )


def _driver_connection(connection: Any) -> Any:
    return getattr(connection, "sync_connection", connection).connection.driver_connection


class _Lent:
    """The caller's connection during an operation."""

    def __init__(self, connection: Any, *, is_theirs: bool) -> None:
        self._connection, self._is_theirs = connection, is_theirs

    async def execution_options(self, **_: Any) -> _Lent:
        """Those of the caller stay."""
        return self

    async def execute(self, statement: Any, *args: Any) -> Any:
        """Execute a statement. Its error shows no parameters, in which there may be messages."""
        if statement is BEGIN_IMMEDIATE and self._is_theirs:
            return None
        try:
            return await settle(self._connection.execute(statement, *args))
        except exc.StatementError as error:
            error.hide_parameters = True
            raise

    async def exec_driver_sql(self, statement: str) -> Any:
        return await settle(self._connection.exec_driver_sql(statement))

    async def run_sync(self, function: Any) -> Any:
        if hasattr(self._connection, "run_sync"):
            return await settle(self._connection.run_sync(function))
        return function(self._connection)

    def begin(self) -> Any:
        """There is a transaction already, or it begins with the first statement and ends with the operation."""
        return nullcontext()

    async def commit(self) -> None:
        if not self._is_theirs:
            await settle(self._connection.commit())

    async def rollback(self) -> None:
        if not self._is_theirs:
            await settle(self._connection.rollback())

    async def invalidate(self) -> None:
        if not self._is_theirs:
            await settle(self._connection.invalidate())
