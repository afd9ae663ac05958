"""Which driver serves the blocking methods, and which the async ones: by a URL, or by the caller's clients."""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from langchain_histories import _forks
from langchain_histories._secrets import hidden, secrets_of
from langchain_histories._urls import bad_url, read_url, url_text
from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import missing_extra
from langchain_histories.stores.sql.statements import KINDS, MYSQL
from langchain_histories.stores.sql.yugabytedb import NAME, driver_urls

if TYPE_CHECKING:
    from collections.abc import Sequence


class Urls(NamedTuple):
    """Where the blocking methods connect to, and where the async ones."""

    blocking: sa.URL | None
    native: sa.URL | None
    is_memory: bool = False


# The blocking drivers and the async ones of each database, in the order of choice.
_DRIVERS = {
    "sqlite": (("pysqlite",), ("aiosqlite",)),
    "postgresql": (("psycopg", "psycopg2"), ("psycopg", "asyncpg")),
    "mysql": (("mysqldb", "pymysql"), ("asyncmy", "aiomysql")),
}
# What has a transaction of the caller's.
BLOCKING = (sa.Connection, Session, scoped_session)
NATIVE = (AsyncConnection, AsyncSession, async_scoped_session)
_MODULES = {"pysqlite": "sqlite3", "mysqldb": "MySQLdb"}
_EXTRAS = {"sqlite": "sql", "postgresql": "postgres", "mysql": "mysql"}
_FORM = "postgresql://[user:password@]host[:port]/database"
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def text_of(given: Any) -> str:
    """Return the text of a URL, which may be one of SQLAlchemy's, or the path of a file of SQLite.

    Raises:
        ConfigurationError: It is something else, or it cannot be written as a text that SQLAlchemy reads.
    """
    if isinstance(given, str):
        return given
    if isinstance(given, os.PathLike):
        given = sa.URL.create("sqlite", database=os.fsdecode(given))
    if not isinstance(given, sa.URL):
        raise ConfigurationError(
            f"url must be a str, a URL of SQLAlchemy or a path, not {type(given).__module__}.{type(given).__name__}."
        )
    text: str = url_text(given)
    if sa.make_url(text) != given:
        raise ConfigurationError(f"The url or path {given!r} cannot be written as a text: give an engine of your own.")
    return text


def engine_urls(url: str, async_url: str | None, *, has_connect_args: bool, any_dialect: bool = False) -> Urls:
    """Choose a driver for the blocking methods, and one for the async ones.

    Raises:
        ConfigurationError: A URL cannot be used, or not for both drivers of a pair.
        MissingExtraError: No driver is installed.
    """
    if any_dialect and (parsed := _parse(url, any_dialect=True)).get_backend_name() not in KINDS:
        return _other_urls(parsed)
    return _engine_urls(url, async_url, has_connect_args)


@functools.lru_cache(256)  # a program makes a store for each turn
def _engine_urls(url: str, async_url: str | None, has_connect_args: bool) -> Urls:
    parsed = _parse(url)
    if parsed.get_backend_name() == NAME:
        return _yugabyte_urls(parsed, async_url)
    family, _, driver = parsed.drivername.partition("+")
    family = "mysql" if family == "mariadb" else family
    if is_memory(parsed):
        if async_url is not None:
            raise ConfigurationError("SQLite in memory is one engine, so it takes no async_url.")
        return Urls(parsed.set(drivername="sqlite"), None, is_memory=True)
    blocking_drivers, native_drivers = _DRIVERS[family]
    if not driver:
        driver = _installed(blocking_drivers) or _installed(native_drivers) or ""
    elif driver in _MODULES.keys() | {*blocking_drivers, *native_drivers} and not _installed([driver]):
        driver = ""
    if not driver:
        raise missing_extra(_EXTRAS[family])
    parsed = parsed.set(drivername=f"{parsed.get_backend_name()}+{driver}")
    is_native = driver in native_drivers or (driver not in blocking_drivers and _is_async(parsed))
    is_blocking = driver in blocking_drivers or not is_native
    if async_url is not None:
        native = _parse(async_url)
        if not is_blocking or not _is_async(native):
            raise ConfigurationError("async_url must name an async driver, and url a blocking one.")
        return Urls(parsed, native)
    others = native_drivers if is_blocking else blocking_drivers
    # On SQLite an operation takes half as long in a thread, where none stands still on a loop while its process forks.
    others = () if family == "sqlite" and is_blocking else others
    partner = driver if is_native and is_blocking else _installed(others)
    is_known = driver in blocking_drivers or driver in native_drivers
    other = (
        _for_driver(parsed, driver, partner, secrets_of(url), has_connect_args=has_connect_args)
        if partner and is_known
        else None
    )
    if not _is_importable("greenlet") and is_blocking:
        other = None  # SQLAlchemy's async engines need it
    return Urls(parsed, other) if is_blocking else Urls(other, parsed)


def _yugabyte_urls(url: sa.URL, async_url: str | None) -> Urls:
    if async_url is not None:
        raise ConfigurationError("async_url does not go with YugabyteDB: its drivers are found from one url.")
    return Urls(*driver_urls(url))


@functools.lru_cache(256)
def _other_urls(url: sa.URL) -> Urls:
    """The URLs of a dialect that this package does not know: the async methods run a blocking driver in threads.

    Raises:
        ConfigurationError: The dialect or its driver is not installed.
    """
    try:
        with _forks.importing():
            dialect: Any = url.get_dialect()
            load = getattr(dialect, "import_dbapi", None) or dialect.dbapi
            load()
    except (exc.NoSuchModuleError, ImportError) as error:
        name = getattr(error, "name", None) or url.drivername
        raise ConfigurationError(
            f"SQLAlchemy cannot load {name!r} for {url.drivername!r}: install the package that has it."
        ) from None
    return Urls(None, url) if dialect.is_async else Urls(url, None, is_memory(url))


@functools.lru_cache(256)
def _parse(url: str, *, any_dialect: bool = False) -> sa.URL:
    parsed = read_url(sa.make_url, url, _FORM, (exc.ArgumentError, ValueError))
    if _is_in_doubt(parsed, url.partition("://")[2]):
        raise bad_url(_FORM)
    backend = parsed.get_backend_name()
    if backend not in KINDS and not any_dialect:
        raise _unknown(backend)
    if backend in MYSQL and "charset" not in parsed.query:
        parsed = parsed.update_query_dict({"charset": "utf8mb4"})
    return parsed


def _unknown(backend: str) -> ConfigurationError:
    return ConfigurationError(
        f"This store keeps histories in {', '.join(KINDS)}, not in {backend!r}. SQLChatMessageHistory takes any "
        "dialect of SQLAlchemy's."
    )


def _is_in_doubt(parsed: sa.URL, rest: str) -> bool:
    """Whether SQLAlchemy, which ends the login at the first @, may have taken a piece of the password for the host.

    Args:
        parsed: What it made of the URL.
        rest: The URL without its scheme.
    """
    login, _, behind = rest.partition("@") if parsed.username is not None else ("", "", rest)
    place, _, query = behind.partition("?")
    return bool(
        ((parsed.host or parsed.username is not None) and "@" in place)
        or any("@" in option.partition("=")[0] for option in query.split("&"))
        # There is no login: that @ is one of an option, as in `host:1/db?password=a@b`.
        or re.match(r"[^:/?#]*:\d*/[^?]*\?\w+=", login) is not None
    )


@functools.lru_cache(256)
def place_of(url: str) -> str:
    """Return a URL as SQLAlchemy has read it: its password is escaped, so every other reader finds it there too."""
    return sa.make_url(url).render_as_string(hide_password=False) if "@" in url else url


def is_memory(url: sa.URL) -> bool:
    """Whether a URL names a database of SQLite, or of DuckDB, in memory."""
    database = url.database or ""
    return url.get_backend_name() in ("sqlite", "duckdb") and (
        database in ("", ":memory:") or database.startswith("file::memory:") or url.query.get("mode") == "memory"
    )


def _is_async(url: sa.URL) -> bool:
    try:
        return bool(url.get_dialect(_is_async=True).is_async)
    except exc.NoSuchModuleError:
        raise ConfigurationError(f"SQLAlchemy knows no driver {url.drivername!r}.") from None


def _installed(drivers: Sequence[str]) -> str | None:
    return next((driver for driver in drivers if _is_importable(_MODULES.get(driver, driver))), None)


@functools.cache
def _is_importable(module: str) -> bool:
    try:
        with _forks.importing():
            importlib.import_module(module)
    except ImportError:
        return False
    return True


def _for_driver(url: sa.URL, driver: str, partner: str, secrets: Sequence[str], *, has_connect_args: bool) -> sa.URL:
    """Return the URL for the other driver of a pair.

    Raises:
        ConfigurationError: It has a parameter that the other one does not understand. To leave it out could mean a
            connection without TLS.
    """
    pair, query = {driver, partner}, dict(url.query)
    if pair <= {"psycopg", "psycopg2"} or "aiosqlite" in pair:
        return url.set(drivername=f"{url.get_backend_name()}+{partner}")
    if "asyncpg" in pair:
        ours, theirs = ("sslmode", "ssl") if partner == "asyncpg" else ("ssl", "sslmode")
        if query.get(ours) in _SSL_MODES:
            query[theirs] = query.pop(ours)
        shared = {theirs, "host", "port"}
    else:
        shared = {"charset", "unix_socket", "connect_timeout", "init_command", "sql_mode"}
        if "asyncmy" in pair:
            shared |= {"ssl_ca", "ssl_key", "ssl_cert", "ssl_check_hostname"}
    unknown = set(query) - shared | ({"connect_args"} if has_connect_args else set())
    if unknown:
        # What seems to be the name of a parameter may be a piece of the password.
        raise ConfigurationError(
            f"{hidden(', '.join(sorted(unknown)), secrets)} cannot be translated from the driver {driver} to "
            f"{partner}, for the other face: pass a url for the blocking driver and an async_url for the other, or "
            "engines of your own."
        )
    return url.set(drivername=f"{url.get_backend_name()}+{partner}", query=query)


def given_engines(client: Any, async_client: Any, *, any_dialect: bool) -> tuple[Any, Any]:
    """Return the caller's `Engine` and `AsyncEngine`, or those over the caller's connections.

    Raises:
        ConfigurationError: They are of a database that this store does not know.
    """
    engine, async_engine = _engine(client), _engine(async_client)
    for given in (engine, async_engine):
        if given is not None and given.dialect.name not in KINDS and not any_dialect:
            raise _unknown(given.dialect.name)
    return engine, async_engine


def is_blocking_client(given: object) -> bool:
    """Whether it is an `Engine`, a `Connection` or `Session`, or a blocking connection or pool of psycopg."""
    return isinstance(given, (sa.Engine, *BLOCKING, *blocking_connections()))


def is_native_client(given: object) -> bool:
    """Whether it is an async one of these."""
    return isinstance(given, (AsyncEngine, *NATIVE, *native_connections()))


def blocking_connections() -> tuple[type[Any], ...]:
    """The kinds of blocking connections and pools of psycopg."""
    return _psycopg("Connection", "ConnectionPool", "NullConnectionPool")


def native_connections() -> tuple[type[Any], ...]:
    """The kinds of async connections and pools of psycopg."""
    return _psycopg("AsyncConnection", "AsyncConnectionPool", "AsyncNullConnectionPool")


def _psycopg(*names: str) -> tuple[type[Any], ...]:
    """Classes of psycopg and psycopg_pool, if these are loaded: whoever has an object of them has imported them."""
    modules = [sys.modules.get("psycopg"), sys.modules.get("psycopg_pool")]
    return tuple(getattr(module, name) for module in modules for name in names if hasattr(module, name))


def _engine(given: Any) -> Any:
    if given is None or isinstance(given, sa.Engine | AsyncEngine):
        return given
    from langchain_histories.stores.sql import lent_transactions

    if isinstance(given, (*BLOCKING, *NATIVE)):
        return lent_transactions.engine_of(given)
    from langchain_histories.stores.sql.lent_connections import engine_of, engine_of_pool

    if hasattr(given, "getconn"):
        return engine_of_pool(given, is_async=is_native_client(given))
    return engine_of(given)
