"""Poolers before PostgreSQL, such as PgBouncer in transaction mode: each transaction gets another connection there.

A statement that a driver has prepared is on one of these connections alone, and another client may have prepared
another one of the same name there, which would then be run in its place. So drivers prepare nothing behind a pooler.

A pooler is told by the number of the process that serves the connection: it gives clients a number of its own. The
first connection of an engine asks the server for its number, before anything is prepared.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

_PSYCOPG, _ASYNCPG = "psycopg", "asyncpg"
# What keeps each driver from naming what it prepares. SQLAlchemy prepares by itself with asyncpg.
_UNNAMED: dict[str, dict[str, Any]] = {
    _PSYCOPG: {"prepare_threshold": None},
    _ASYNCPG: {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: "",
    },
}


def prepare_nothing_behind_poolers(engine: sa.Engine) -> None:
    """Have an engine notice a pooler when it connects first. What the caller says of prepared statements stays."""
    if engine.dialect.name == "postgresql" and engine.dialect.driver in _UNNAMED:
        sa.event.listen(engine, "do_connect", _Connecting(engine.dialect.driver))


class _Connecting:
    """How an engine connects."""

    def __init__(self, driver: str) -> None:
        self._driver = driver
        self._is_pooled: bool | None = None

    def __call__(self, dialect: Any, _: Any, args: Any, parameters: dict[str, Any]) -> Any:
        """Connect, or leave it to SQLAlchemy with these parameters."""
        if parameters.keys() & _UNNAMED[self._driver].keys():
            return None
        if self._is_pooled is None:
            connection = dialect.connect(*args, **parameters)
            try:
                is_pooled = self._is_behind_pooler(connection, dialect.get_driver_connection(connection))
            except BaseException:
                connection.close()
                raise
            self._is_pooled = is_pooled
            if not is_pooled:
                return connection
            connection.close()
        if self._is_pooled:
            parameters |= _UNNAMED[self._driver]
        return None

    def _is_behind_pooler(self, connection: Any, driver_connection: Any) -> bool:
        if self._driver == _ASYNCPG:
            # Without parameters it is one simple query, which prepares nothing, and its answer says how many rows.
            number = int(driver_connection.get_server_pid())
            query = f"SELECT WHERE pg_backend_pid() = {number}"
            return bool(connection.run_async(lambda asked: asked.execute(query)) != "SELECT 1")
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SELECT pg_backend_pid()")
        (number,) = cursor.fetchone()
        cursor.close()
        connection.autocommit = False
        return bool(number != driver_connection.info.backend_pid)
