"""How operations use an engine, one opened for a URL or the caller's own, and what its errors mean."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool, StaticPool

from langchain_histories import _forks
from langchain_histories.errors import ConfigurationError, UnsupportedOperationError
from langchain_histories.stores.base import Capability, Found, Operations, entered, settle
from langchain_histories.stores.sql.drivers import is_memory
from langchain_histories.stores.sql.sqlite_files import is_inherited
from langchain_histories.stores.sql.statements import KINDS, MYSQL
from langchain_histories.stores.sql.waits import busy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from langchain_histories.stores.sql.connections import Database

logger = logging.getLogger(__name__)

T = TypeVar("T")

# No connection (08), refused login (28), no such database (3D), too many connections, shutdown.
_UNAVAILABLE_STATES = ("08", "28", "3D000", "53300", "57P01", "57P02", "57P03")
_UNAVAILABLE_NUMBERS = {
    *(1040, 1043, 1044, 1045, 1049, 1053, 1129, 1130, 1152, 1158, 1159, 1160, 1161, 1203, 1205, 1226, 1644, 1698),
    *(2002, 2003, 2005, 2006, 2012, 2013, 2026, 2055),
}
_NO_TABLE_STATE, _NO_TABLE_NUMBER = "42P01", 1146
_OF_THEIRS = "_was_in_transaction_of_caller"  # an attribute of errors
_WAIT_FOR_READERS = 100  # milliseconds
# Up to how many bytes a file of SQLite is written anew when something was removed from it. Writers wait for that: as
# long as for the checkpoint that follows, and after an erasure about a second.
NO_FILE, SMALL_FILE, ERASED_FILE = 1, 2**20, 256 * 2**20
# The size of the file, and how many tables of others are in it whose rows would get other numbers, because no column of
# theirs is the number.
_FILE = sa.text("""
SELECT page_count * page_size, (
  SELECT count(*) FROM sqlite_master AS t WHERE type = 'table' AND name NOT GLOB 'sqlite_*' AND name NOT GLOB '*_state'
  AND name NOT GLOB '*_expiry'
  AND NOT coalesce((SELECT max(pk) = 1 AND max(pk * (upper(type) = 'INTEGER')) FROM pragma_table_info(t.name)), 0)
) FROM pragma_page_count, pragma_page_size
""")
START_TRANSACTION = sa.text("START TRANSACTION")
BEGIN_IMMEDIATE = sa.text("BEGIN IMMEDIATE")


def attached(owner: Any, name: Any, make: Callable[[], T]) -> T:
    """Return the one object of this name that belongs to `owner`, and make it if need be.

    The owner's own attributes hold it, so both end together.
    """
    things: dict[Any, T] = vars(owner).setdefault("_langchain_histories", {})
    return things[name] if name in things else things.setdefault(name, make())


class EngineUse:
    """An engine as operations use it; the engine itself is not changed.

    Args:
        engine: The engine.
        is_own: Whether it was opened for a URL, and is not the caller's.
        is_autocommit: Whether each statement commits by itself on it, and no connection is rolled back when it comes
            back to the pool.

    Attributes:
        new_file: The file that SQLite makes by connecting, if it is missing; `None` if it makes none, or if that is not
            known.
    """

    def __init__(self, engine: Any, *, is_own: bool, is_autocommit: bool) -> None:
        # An engine over a connection or session of the caller's says it itself.
        is_async, backend = getattr(engine, "is_async", isinstance(engine, AsyncEngine)), engine.dialect.name
        self.is_sqlite = backend == "sqlite"
        self.is_mysql = backend in MYSQL
        # On MySQL switching a connection to autocommit costs more round trips than it saves.
        self._for_statements = {} if self.is_mysql else {"isolation_level": "AUTOCOMMIT"}
        # A transaction must see what was committed while it waited for its lock.
        is_postgresql = backend in ("postgresql", "yugabytedb")
        self.for_transactions = {"isolation_level": "READ COMMITTED"} if is_postgresql else self._for_statements
        self.has_autocommit = is_autocommit
        self.commits_by_itself = is_autocommit or not self.is_mysql
        self._engine = engine.execution_options()
        getattr(self._engine, "sync_engine", self._engine).hide_parameters = True
        self._is_in_memory = self.is_sqlite and is_memory(engine.url)
        self._must_be_checked = self.is_sqlite and not self._is_in_memory
        has_one_connection = isinstance(engine.pool, StaticPool)
        self.is_own_file = is_own and self.is_sqlite and not has_one_connection
        self.new_file: str | None = None
        lock: Any = asyncio.Lock() if is_async else threading.Lock()
        self._reading: Any = None
        self._writing: Any = None
        if has_one_connection:
            # Everybody takes turns on it, also through other engines over the same pool.
            self._reading = self._writing = attached(engine.pool, ("lock", _forks.generation()), lambda: lock)
        elif (self.is_sqlite or backend not in KINDS) and (is_own or not is_async):
            # Writers of this process wait here: SQLite polls, and of another database no lock is known. The caller's
            # async engine may serve several event loops, and a lock serves one.
            self._writing = lock

    @classmethod
    def of(cls, engine: Any, *, is_own: bool = False, is_autocommit: bool = False) -> EngineUse:
        """Return how all stores use this engine. A forked child has locks of its own."""
        owner = getattr(engine, "sync_engine", engine)
        make = functools.partial(cls, engine, is_own=is_own, is_autocommit=is_autocommit)
        return attached(owner, ("use", _forks.generation()), make)

    def lacks_file(self) -> bool:
        """Whether SQLite would make the file by connecting. Where the folder is missing too, it says so itself."""
        path = None if self.new_file is None else Path(self.new_file)
        return path is not None and not os.path.lexists(path) and path.parent.is_dir()

    def is_in_transaction(self) -> bool:
        """Whether it is over a connection on which the caller has a transaction open."""
        ask = getattr(self._engine.pool, "is_in_transaction", None)
        return ask is not None and ask()

    @asynccontextmanager
    async def connection(self, *, writing: bool = False, transaction: bool = False) -> AsyncGenerator[Any]:
        """Open a connection on which each statement commits by itself, or one for a transaction."""
        options = self.for_transactions if transaction else self._for_statements
        async with entered(self.plain_connection(writing=writing)) as connection:
            try:
                if options:
                    # Not set on the engine: a connection would be lost if its opening were cancelled in the switch.
                    await settle(connection.execution_options(**options))
                yield connection
            except BaseException:
                if self.is_mysql:
                    # It may still hold a named lock, which goes with its connection.
                    await settle(connection.invalidate())
                raise

    @asynccontextmanager
    async def plain_connection(self, *, writing: bool = False) -> AsyncGenerator[Any]:
        """Open a connection as the engine gives it, in turn where that is needed.

        Raises:
            UnsupportedOperationError: MySQL's locks end before the transaction of the caller's does.
        """
        if writing and self.is_mysql and self.is_in_transaction():
            raise UnsupportedOperationError(
                "MySQL's and MariaDB's locks do not last until you commit, so nothing is written in a transaction of "
                "yours there: commit it before, or give the engine in place of your connection or session."
            )
        self._check_pool()
        lock, is_theirs = (self._writing if writing else self._reading) or nullcontext(), self.is_in_transaction()
        try:
            async with entered(lock), entered(self._engine.connect()) as connection:
                if self._must_be_checked:
                    await self._check_file(connection)
                try:
                    with busy(connection) if self.is_sqlite else nullcontext():
                        yield connection
                except BaseException:
                    if self.has_autocommit:
                        # It may still be in a transaction, which goes with its connection.
                        await settle(connection.invalidate())
                    raise
        except exc.DBAPIError as error:
            if is_theirs and error.connection_invalidated:
                vars(error)[_OF_THEIRS] = True
            raise

    @asynccontextmanager
    async def plain_transaction(self) -> AsyncGenerator[Any]:
        """Open a connection in a transaction of SQLAlchemy's own, which is committed at the end."""
        async with entered(self.plain_connection(writing=True)) as connection, entered(connection.begin()):
            if self.has_autocommit:
                await settle(connection.execute(START_TRANSACTION))
            yield connection

    def _check_pool(self) -> None:
        """Refuse connections that a parent of this process has used.

        Raises:
            ConfigurationError: They are the caller's; a child opens its own for a URL.
        """
        pool, generation = self._engine.pool, _forks.generation()
        if attached(pool, "generation", lambda: generation) == generation or isinstance(pool, NullPool):
            return
        if not self._is_in_memory:
            raise ConfigurationError(
                "Your client was used before this process was forked, so its connections are those of the parent. Call "
                "dispose() on an engine before the fork, or make your client in the child."
            )

    async def _check_file(self, connection: Any) -> None:
        """Refuse a file of SQLite that a parent of this process had open.

        Raises:
            ConfigurationError: SQLite would take the locks of the parent for its own, and lose what is written.
        """
        found = (await settle(connection.exec_driver_sql("PRAGMA database_list"))).all()
        await settle(connection.rollback())
        for _, _, path in found:
            if is_inherited(path):
                raise ConfigurationError(
                    f"This process was forked while its parent had {path} open, and SQLite could lose what it writes "
                    "there. Before the fork call dispose() on each engine and close() on each connection to the file; "
                    "a store of a URL with 'sqlite:' does that by itself."
                )
        self._must_be_checked = False


class EngineOperations(Operations[Any]):
    """What the operations over an engine have in common.

    Args:
        database: Where the engines connect to.
    """

    name = "sql"
    driver_errors: tuple[type[Exception], ...] = (exc.SQLAlchemyError, UnicodeError)

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        # `what` is not 0 while removed texts may be in our own file of SQLite: up to which size it is written anew.
        self._log: Found = database.clients.found("write-ahead log", Found)
        self.driver_errors += database.async_driver_errors
        if database.is_memory:
            self.capabilities &= ~(Capability.PERSISTENT | Capability.MANY_PROCESSES)

    async def run(self, client: Any, body: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        is_late = self._log.what
        result = await settle(body(client))
        if self._log.what and (use := EngineUse.of(client)).is_own_file:
            await self._empty_log(use, 0 if is_late else _WAIT_FOR_READERS)
        return result

    async def _empty_log(self, use: EngineUse, wait: int) -> None:
        """Have SQLite move its log into the database and cut it to nothing; the next operation does it if this cannot.

        SQLite writes a small file anew before that, because it leaves copies of rows in the unused part of
        pages when it moves rows from page to page, and overwrites these copies in no other way.

        Args:
            use: The engine.
            wait: Milliseconds to wait for others who read or write.
        """
        up_to, self._log.what, is_empty = self._log.what, 0, False
        try:
            async with entered(use.connection(writing=True)) as connection:
                timeout = (await settle(connection.execute(sa.text("PRAGMA busy_timeout")))).scalar()
                await settle(connection.execute(sa.text(f"PRAGMA busy_timeout={wait}")))
                try:
                    size, others = (await settle(connection.execute(_FILE))).one()
                    if size <= up_to and not others:
                        await settle(connection.execute(sa.text("VACUUM")))
                    answer = await settle(connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)")))
                    is_empty = answer.scalar() == 0
                finally:
                    await settle(connection.execute(sa.text(f"PRAGMA busy_timeout={timeout}")))
        except exc.OperationalError as error:
            logger.debug("The write-ahead log cannot be emptied now.", exc_info=True)
            if not self.is_unavailable(error):
                up_to = NO_FILE  # the disk has no room for a second file, and not each operation may try again
        finally:
            if not is_empty:
                self._log.what = max(up_to, self._log.what or 0)

    def is_undone(self, error: Exception) -> bool:
        return hasattr(error, _OF_THEIRS)

    def advice(self, error: Exception) -> str | None:
        if self.is_undone(error):
            return (
                "The connection was in a transaction of yours, of which nothing is stored now, and so nothing was "
                "tried again: roll back, and do all of it anew."
            )
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        name = str(getattr(cause, "sqlite_errorname", ""))
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return "Another process, or a transaction of your own, held the lock of the file all the time."
        if not name.startswith("SQLITE_CANTOPEN"):
            return None
        database = sa.make_url(self.database.url).database or ""
        folder = Path(database).parent
        if not database.startswith("file:") and not folder.is_dir():
            return f"The folder {str(folder)!r} does not exist: make it."
        return f"May this process make or open the file {database!r}?"

    async def in_sync(self, connection: Any, function: Callable[[sa.Connection], T]) -> T:
        """Call a function of SQLAlchemy's blocking interface, over a connection of either kind."""
        if hasattr(connection, "run_sync"):
            return await settle(connection.run_sync(function))
        return function(connection)

    def is_cut(self, client: Any, error: Exception) -> bool:
        is_lost = isinstance(error, exc.DBAPIError) and error.connection_invalidated
        # SQLAlchemy closes all that are idle in its pool when one was lost.
        return is_lost and not EngineUse.of(client).is_in_transaction()

    def is_place_gone(self, error: Exception) -> bool:
        cause: Any = error.orig if isinstance(error, exc.DBAPIError) else None
        first = next(iter(getattr(cause, "args", ())), None)
        return (
            (getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)) == _NO_TABLE_STATE
            or first == _NO_TABLE_NUMBER
            or str(first).startswith("no such table")
        )

    def is_unavailable(self, error: Exception) -> bool:
        """Tell the loss of a connection and a refused login from a refused statement."""
        if isinstance(error, OSError | exc.TimeoutError):
            return True
        if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
            return True
        cause: Any = error.orig if isinstance(error, exc.DBAPIError) else error
        if (name := getattr(cause, "sqlite_errorname", None)) is not None:
            return str(name).startswith(("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_LOCKED"))
        if cause is not None and cause.args and isinstance(cause.args[0], int):
            return cause.args[0] in _UNAVAILABLE_NUMBERS
        state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
        if isinstance(state, str):
            return state.startswith(_UNAVAILABLE_STATES)
        # psycopg has no state where there was no server to give one; asyncpg's InterfaceError is a closed connection.
        return isinstance(error, exc.OperationalError) or (
            not isinstance(error, exc.SQLAlchemyError) and type(cause).__name__ == "InterfaceError"
        )
