"""Which drivers serve an SQL store: from URLs."""

from __future__ import annotations

import asyncio
import traceback

import pytest
import sqlalchemy as sa

from langchain_histories import (
    Capability,
    ConfigurationError,
    MissingExtraError,
    SQLStore,
    StoreUnavailableError,
)
from langchain_histories.stores.sql import drivers


@pytest.fixture
def path(tmp_path):
    return tmp_path / "histories.db"


@pytest.fixture
def url(path):
    return f"sqlite:///{path}"


# URLs and drivers.


def urls(url, async_url=None, *, has_connect_args=False):
    found = drivers.engine_urls(url, async_url, has_connect_args=has_connect_args)
    return tuple(one and one.render_as_string(hide_password=False) for one in found[:2])


@pytest.fixture
def installed(monkeypatch):
    """Pretend that only some drivers are installed."""

    def only(*modules):
        monkeypatch.setattr(drivers, "_is_importable", lambda module: module in {"greenlet", "sqlite3", *modules})
        drivers._engine_urls.cache_clear()

    yield only
    drivers._engine_urls.cache_clear()


PG, MY = "://u:p@h/d", "://u:p@h/d?charset=utf8mb4"


@pytest.mark.parametrize(
    ("modules", "url", "blocking", "native"),
    [
        (["psycopg", "psycopg2", "asyncpg"], "postgresql", "psycopg", "psycopg"),
        (["psycopg2", "asyncpg"], "postgresql", "psycopg2", "asyncpg"),
        (["psycopg2"], "postgresql", "psycopg2", None),
        (["asyncpg"], "postgresql", None, "asyncpg"),
        (["psycopg", "psycopg2", "asyncpg"], "postgresql+psycopg2", "psycopg2", "psycopg"),
        (["psycopg2", "asyncpg"], "postgresql+psycopg2", "psycopg2", "asyncpg"),
        (["psycopg", "psycopg2", "asyncpg"], "postgresql+asyncpg", "psycopg", "asyncpg"),
        (["psycopg2", "asyncpg"], "postgresql+asyncpg", "psycopg2", "asyncpg"),
        (["asyncpg"], "postgresql+asyncpg", None, "asyncpg"),
        (["psycopg"], "postgresql+psycopg", "psycopg", "psycopg"),
        (["psycopg", "pg8000"], "postgresql+pg8000", "pg8000", None),
    ],
)
def test_driver_pairs_of_postgresql(installed, modules, url, blocking, native):
    installed(*modules)
    expected = tuple(driver and f"postgresql+{driver}{PG}" for driver in (blocking, native))
    assert urls(url + PG) == expected


@pytest.mark.parametrize("backend", ["mysql", "mariadb"])
@pytest.mark.parametrize(
    ("modules", "driver", "blocking", "native"),
    [
        (["MySQLdb", "pymysql", "asyncmy", "aiomysql"], "", "mysqldb", "asyncmy"),
        (["pymysql", "aiomysql"], "", "pymysql", "aiomysql"),
        (["pymysql", "asyncmy"], "+pymysql", "pymysql", "asyncmy"),
        (["pymysql", "asyncmy"], "+asyncmy", "pymysql", "asyncmy"),
        (["pymysql", "aiomysql", "asyncmy"], "+aiomysql", "pymysql", "aiomysql"),
        (["pymysql"], "+pymysql", "pymysql", None),
    ],
)
def test_driver_pairs_of_mysql(installed, backend, modules, driver, blocking, native):  # noqa: PLR0917
    installed(*modules)
    expected = tuple(name and f"{backend}+{name}{MY}" for name in (blocking, native))
    assert urls(backend + driver + PG) == expected


def test_driver_pairs_of_sqlite(installed):
    assert urls("sqlite:///a.db") == ("sqlite+pysqlite:///a.db", None)
    assert urls("sqlite+aiosqlite:///a.db?x=1") == ("sqlite+pysqlite:///a.db?x=1", "sqlite+aiosqlite:///a.db?x=1")
    installed()
    assert urls("sqlite:///a.db") == ("sqlite+pysqlite:///a.db", None)
    with pytest.raises(MissingExtraError, match=r"\[sql\]"):
        urls("sqlite+aiosqlite:///a.db")


def test_without_greenlet_there_is_no_async_engine(installed, monkeypatch):
    installed()
    monkeypatch.setattr(drivers, "_is_importable", lambda module: module != "greenlet")
    assert urls("postgresql" + PG)[1] is None
    assert Capability.NATIVE_ASYNC not in SQLStore("sqlite:///a.db").capabilities


@pytest.mark.parametrize(
    ("url", "extra"), [("postgresql", "postgres"), ("postgresql+asyncpg", "postgres"), ("mariadb+pymysql", "mysql")]
)
def test_no_driver(installed, url, extra):
    installed()
    with pytest.raises(MissingExtraError, match=rf"langchain-histories\[{extra}\]"):
        SQLStore(url + PG)


def test_parameters_are_translated_or_refused(installed):
    installed("psycopg2", "asyncpg")
    assert urls("postgresql://h/d?sslmode=require")[1] == "postgresql+asyncpg://h/d?ssl=require"
    assert urls("postgresql+asyncpg://h/d?ssl=verify-full")[0] == "postgresql+psycopg2://h/d?sslmode=verify-full"
    assert urls("postgresql://u@/d?host=a:1&host=b:2")[1] == "postgresql+asyncpg://u@/d?host=a%3A1&host=b%3A2"
    for url, name in {
        "postgresql://u:secret@h/d?application_name=x": "application_name",
        "postgresql://u:secret@h/d?sslmode=odd": "sslmode",
        "postgresql://u:secret@h/d?sslmode=verify-ca&sslrootcert=x": "sslrootcert",
        "postgresql+asyncpg://u:secret@h/d?prepared_statement_cache_size=0": "prepared_statement_cache_size",
    }.items():
        with pytest.raises(ConfigurationError, match=f"^{name} .*async_url") as caught:
            SQLStore(url)
        assert "secret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="connect_args"):
        SQLStore("postgresql://h/d", engine_args={"connect_args": {"options": "-c x=1"}})
    named = urls("postgresql://h/d?application_name=x", "postgresql+asyncpg://h/d", has_connect_args=True)
    assert named == ("postgresql+psycopg2://h/d?application_name=x", "postgresql+asyncpg://h/d")
    installed("psycopg", "psycopg2", "asyncpg")
    shared = "postgresql+psycopg2://h/d?options=-c&sslmode=verify-ca&sslrootcert=x"
    assert urls(shared, has_connect_args=True) == (shared, shared.replace("psycopg2", "psycopg"))
    installed("pymysql", "asyncmy", "aiomysql")
    assert "ssl_ca=x" in urls("mysql://h/d?ssl_ca=x")[1]
    with pytest.raises(ConfigurationError, match="ssl_ca"):
        urls("mysql+aiomysql://h/d?ssl_ca=x")
    with pytest.raises(ConfigurationError, match="read_timeout"):
        urls("mysql://h/d?read_timeout=1")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense secret", "URL"),
        (5, "not builtins.int"),
        ("oracle://u:secret@h/d", "not in 'oracle'"),
        ("postgresql+nodriver://u:secret@h/d", "nodriver"),
        ("postgresql://u:secret@h:port/d", "URL"),
        (None, "Pass url"),
    ],
)
def test_bad_urls(url, told):
    with pytest.raises(ConfigurationError, match=told) as caught:
        SQLStore(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "async_url"),
    [
        ("sqlite://", "sqlite+aiosqlite://"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("sqlite+aiosqlite:///a.db", "sqlite+aiosqlite:///a.db"),
    ],
)
def test_bad_async_urls(url, async_url):
    with pytest.raises(ConfigurationError, match="async_url"):
        SQLStore(url, async_url=async_url)


def test_bad_engine_args(url):
    with SQLStore(url, engine_args={"no_such": 1}) as store, pytest.raises(ConfigurationError, match="no_such"):
        store.read("s")


def test_without_a_blocking_driver_sync_methods_refuse(installed):
    installed("asyncpg")
    store = SQLStore("postgresql+asyncpg://u:secret@127.0.0.1:1/d")
    with pytest.raises(ConfigurationError, match="async_url") as caught:
        store.read("s")
    assert "secret" not in str(caught.value)


def test_no_secret_is_shown(url):
    for place in ("postgresql+psycopg://u:s3cret@127.0.0.1:1/d", "postgresql+asyncpg://u:s3cret@127.0.0.1:1/d"):
        store = SQLStore(place)
        with pytest.raises(StoreUnavailableError) as caught:
            asyncio.run(store.aread("s"))
        assert "s3cret" not in "".join(traceback.format_exception(caught.value)) + repr(store)
    engine = sa.create_engine("postgresql+psycopg://u:s3cret@127.0.0.1:1/d")
    assert "s3cret" not in repr(SQLStore(client=engine))
