"""YugabyteDB: its drivers, which spread connections over the nodes, and what it does in its own way.

* `yugabytedb://` is `sqlalchemy-yugabytedb` with `psycopg2-yugabytedb`, and for the async methods `psycopg-yugabytedb`.
  The two name their options differently; here they have the names of the first in both.
* Its older releases have no advisory locks, and all programs must use the same lock. So a writer holds one of the rows
  of the table `<table>_lock`, chosen by its session; they are always the same rows, and name no session. The row is
  changed, not only locked: by default READ COMMITTED is snapshot isolation here, in which a writer that waited for a
  mere lock goes on with what was there before it waited. That a row changed makes the server give it up.
* A connection takes numbers from a sequence by the hundred, in advance. Under the lock it lets go of those that it has
  left, or rows that it stores after another one's would get lower numbers.
* It gives up a transaction for another one's sake (SQLSTATE 40001) and leaves it to the program to try again.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from langchain_histories.errors import ConfigurationError, missing_extra

NAME = "yugabytedb"
SLOTS = 256
TRIES = 10
_GIVEN_UP = ("40001", "40P01")
# Options of psycopg2-yugabytedb, and what psycopg-yugabytedb calls them.
_OPTIONS = {
    "load_balance": "load_balance_hosts",
    "topology_keys": "topology_keys",
    "yb_servers_refresh_interval": "yb_servers_refresh_interval",
    "failed_host_ttl_seconds": "failed_host_reconnect_delay_secs",
    "fallback_to_topology_keys_only": None,
}
# Run under the lock, which another statement takes.
INSERT = """
INSERT INTO {table} ({session}, {columns}) SELECT CAST(:s AS {session_type}), {values}
FROM json_array_elements_text(CAST(:rows AS json)) WITH ORDINALITY AS u(m, o) ORDER BY u.o
"""
LET_GO_OF_NUMBERS = sa.text("DISCARD SEQUENCES")


def is_given_up(error: exc.DBAPIError) -> bool:
    """Whether the server gave up a transaction for another one's: nothing of it was stored."""
    cause: Any = error.orig
    return (getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)) in _GIVEN_UP


def lock_statement(table: str) -> Any:
    """The statement that takes a lock until the transaction ends."""
    return sa.text(f"UPDATE {_locks(table)} SET turn = turn + 1 WHERE slot = :lock")  # noqa: S608  # it is quoted


def _locks(table: str) -> str:
    return '"' + f"{table}_lock".replace('"', '""').replace(":", "\\:") + '"'


def has_locks(connection: sa.Connection, inspector: sa.Inspector, table: str) -> bool:
    """Whether the rows to lock are there."""
    if not inspector.has_table(f"{table}_lock"):
        return False
    count = sa.select(sa.func.count()).select_from(sa.table(sa.quoted_name(f"{table}_lock", quote=True)))
    return bool(connection.execute(count).scalar_one() == SLOTS)


def make_locks(connection: sa.Connection, table: str) -> None:
    """Make the rows to lock."""
    columns = "slot INTEGER PRIMARY KEY, turn BIGINT NOT NULL"
    connection.execute(sa.text(f"CREATE TABLE IF NOT EXISTS {_locks(table)} ({columns})"))
    rows = f"INSERT INTO {_locks(table)} SELECT generate_series(0, {SLOTS - 1}), 0 ON CONFLICT DO NOTHING"
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
        # With options that this driver does not have, the async methods run the other one in threads.
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
