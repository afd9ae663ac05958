"""YugabyteDB: its drivers, which spread connections over the nodes, and what it does in its own way.

* `yugabytedb://` is `sqlalchemy-yugabytedb` with `psycopg2-yugabytedb`, and for the async methods `psycopg-yugabytedb`.
  The two name their options differently; URLs have the names of the first for both.
* Its older releases have no advisory locks, and all programs must use the same lock. So a writer locks one of the rows
  of the table `<table>_lock`, chosen by its session; the rows never change in number, and name no session. The writer
  updates the row, because READ COMMITTED is by default snapshot isolation here: a writer that waited for a mere lock
  goes on with what was there before it waited. Because the row was updated, the server gives such a writer up.
* A connection takes numbers from a sequence by the hundred, in advance. Under the lock a writer discards those that its
  connection has left, or rows that it stores after another writer's would get lower numbers.
* The server gives up a transaction for the sake of another (SQLSTATE 40001) and leaves it to programs to try again.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import exc

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import missing_extra, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

NAME = "yugabytedb"
VERSION_MARK = "-YB-"  # in what its `version()` says
TRIES = 10
_LOCKS = 256  # rows in the table of locks
_GIVEN_UP = ("40001", "40P01")
# Options of psycopg2-yugabytedb, and what psycopg-yugabytedb calls them.
_OPTIONS = {
    "load_balance": "load_balance_hosts",
    "topology_keys": "topology_keys",
    "yb_servers_refresh_interval": "yb_servers_refresh_interval",
    "failed_host_ttl_seconds": "failed_host_reconnect_delay_secs",
    "fallback_to_topology_keys_only": None,
}
# Another statement takes the lock before.
INSERT = """
INSERT INTO {table} ({session}, {columns}) SELECT CAST(:s AS {session_type}), {values}
FROM json_array_elements_text(CAST(:rows AS json)) WITH ORDINALITY AS u(m, o) ORDER BY u.o
"""
DISCARD_NUMBERS = sa.text("DISCARD SEQUENCES")


async def tried_again(client: Any, body: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """Run the body of an operation again as long as the server gives its transactions up: nothing was stored then."""
    tries = TRIES
    while True:
        try:
            return await settle(body(client))
        except exc.DBAPIError as error:
            cause: Any = error.orig
            state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
            tries -= 1
            if not tries or state not in _GIVEN_UP:
                raise


async def take_lock(connection: Any, table: str, schema: str | None, lock_name: str) -> None:
    """Take the lock of a session, in the table of locks, until the transaction ends.

    Raises:
        ConfigurationError: Somebody removed its row.
    """
    statement = sa.text(f"UPDATE {_locks(table, schema)} SET turn = turn + 1 WHERE slot = :lock")  # noqa: S608  # it is quoted
    taken = await settle(connection.execute(statement, {"lock": int(lock_name[-8:], 16) % _LOCKS}))
    if taken.rowcount != 1:
        raise ConfigurationError(f"Table {table} has lost rows: drop it, and a set-up makes it anew.")


def _locks(table: str, schema: str | None) -> str:
    names = ['"' + name.replace('"', '""').replace(":", "\\:") + '"' for name in (schema, table) if name is not None]
    return ".".join(names)


def has_locks(connection: sa.Connection, inspector: sa.Inspector, table: str, schema: str | None) -> bool:
    """Whether the rows to lock are there."""
    if not inspector.has_table(table, schema=schema):
        return False
    locks = sa.table(sa.quoted_name(table, quote=True), schema=schema)
    count = sa.select(sa.func.count()).select_from(locks)
    return bool(connection.execute(count).scalar_one() == _LOCKS)


def make_locks(connection: sa.Connection, table: str, schema: str | None) -> None:
    """Make the rows to lock."""
    columns = "slot INTEGER PRIMARY KEY, turn BIGINT NOT NULL"
    connection.execute(sa.text(f"CREATE TABLE IF NOT EXISTS {_locks(table, schema)} ({columns})"))
    rows = f"INSERT INTO {_locks(table, schema)} SELECT generate_series(0, {_LOCKS - 1}), 0 ON CONFLICT DO NOTHING"
    connection.execute(sa.text(rows))


def driver_urls(url: sa.URL) -> tuple[sa.URL | None, sa.URL | None]:
    """Return the URLs of the blocking driver and of the async one.

    Raises:
        ConfigurationError: The drivers that are installed do not know an option.
        MissingExtraError: None is installed.
    """
    _, _, driver = url.drivername.partition("+")
    if driver not in ("", "psycopg2", "psycopg"):
        raise ConfigurationError(f"YugabyteDB is reached by psycopg2 or psycopg, not by {driver!r}.")
    asked = {name: value for name, value in url.query.items() if name in _OPTIONS}
    is_balanced = str(asked.get("load_balance", "false")).lower() != "false"
    if asked and "load_balance" not in asked:
        raise ConfigurationError(f"{', '.join(sorted(asked))}: these go with load_balance=true.")
    has_psycopg2, has_psycopg = _has("sqlalchemy_yugabytedb") and _has("psycopg2"), _has("psycopg")
    if not is_balanced:
        url = url.difference_update_query(_OPTIONS)
    elif not _has("psycopg2.loadbalanceproperties"):
        has_psycopg2 = False
    psycopg = url.set(drivername="postgresql+psycopg")
    if is_balanced:
        value = str(asked["load_balance"]).lower()
        unknown = "fallback_to_topology_keys_only" in asked or value not in ("true", "any")
        # psycopg does not have all options. With the others the async methods run psycopg2 in threads.
        has_psycopg = has_psycopg and not unknown and _has("psycopg.yb")
        names = {_OPTIONS[name] or name: item for name, item in asked.items()} | {"load_balance_hosts": "true"}
        psycopg = psycopg.difference_update_query(_OPTIONS).update_query_dict(names)
    blocking = url.set(drivername="yugabytedb+psycopg2") if has_psycopg2 and driver != "psycopg" else None
    native = psycopg if has_psycopg else None
    if blocking is None and (native is None or driver == "psycopg2"):
        if is_balanced and (_has("psycopg2") or _has("psycopg")):
            raise ConfigurationError(
                f"{', '.join(sorted(asked))}: needs a driver of YugabyteDB's, and the one installed is another or "
                "does not have the option: pip install 'langchain-histories[yugabytedb]'."
            )
        raise missing_extra(NAME)
    return blocking or native, native


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
