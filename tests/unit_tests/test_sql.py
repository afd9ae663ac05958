"""The SQL store on SQLite: what needs no server."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import json
import logging
import os
import sqlite3
import threading
import traceback

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import declarative_base
from sqlalchemy.pool import NullPool, StaticPool

from langchain_histories import (
    BaseMessageConverter,
    Capability,
    ConfigurationError,
    DefaultMessageConverter,
    MissingExtraError,
    SQLChatMessageHistory,
    SQLStore,
    StoreError,
    StoreUnavailableError,
    UnsupportedOperationError,
    open_history,
)
from langchain_histories.stores import _sql_drivers, _sql_tables
from langchain_histories.testing import MessageStoreTests, golden_messages


class TestSQLiteInMemory(MessageStoreTests):
    capabilities = ~(Capability.TTL | Capability.NATIVE_ASYNC | Capability.PERSISTENT)

    @pytest.fixture
    def open_store(self):
        # Each store in memory has a database of its own; the stores of a test share that of the first.
        with SQLStore("sqlite://") as first:
            yield functools.partial(SQLStore, connection=first.client)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "histories.db"


@pytest.fixture
def url(path):
    return f"sqlite:///{path}"


def execute(path, statement, *parameters):
    """Ask SQLite itself."""
    connection = sqlite3.connect(path)
    try:
        with connection:
            return connection.execute(statement, parameters).fetchall()
    finally:
        connection.close()


def theirs(session_id, **options):
    """LangChain's own class."""
    from langchain_community.chat_message_histories import SQLChatMessageHistory as Theirs

    return Theirs(session_id, **options)


def texts(messages):
    return [message.content for message in messages]


# The stored shape.


def test_the_stored_shape(path, url):
    with SQLStore(url) as store:
        store.append("s", [HumanMessage("é"), AIMessage("2")])
        store.put_state("s", {"a": 1})
    (one, two) = execute(path, "SELECT id, session_id, message FROM message_store ORDER BY id")
    record = json.loads(one[2])
    assert (one[:2], two[:2]) == ((1, "s"), (2, "s"))
    assert set(record) == {"type", "data", "meta"}
    assert (record["type"], record["data"]["content"], record["meta"]["n"]) == ("human", "é", 2)
    assert "é" in one[2]
    ((number, session_id, state),) = execute(path, "SELECT id, session_id, state FROM message_store_state")
    assert (number, session_id, json.loads(state)) == (1, "s", {"a": 1})
    definition = execute(path, "SELECT sql FROM sqlite_master WHERE name = 'message_store'")[0][0]
    assert "AUTOINCREMENT" in definition
    plan = execute(
        path, "EXPLAIN QUERY PLAN SELECT id FROM message_store WHERE session_id = 's' ORDER BY id DESC LIMIT 2"
    )
    assert "COVERING INDEX message_store_ix" in str(plan)
    assert execute(path, "PRAGMA journal_mode") == [("wal",)]


@pytest.mark.parametrize("from_end", [None, False, True])
@pytest.mark.parametrize("has_after", [False, True])
def test_reads_use_the_index(url, from_end, has_after):
    with SQLStore(url) as store:
        store.append("s", [HumanMessage("x")])
        statement = store._messages.read[from_end, has_after]
        with store.client.connect() as connection:
            compiled = str(statement.compile(store.client))
            plan = connection.execute(sa.text("EXPLAIN QUERY PLAN " + compiled.replace("?", "1"))).all()
    assert "USING INDEX message_store_ix" in str(plan), plan
    assert "TEMP B-TREE" not in str(plan)


def test_numbers_are_not_given_again(url):
    with SQLStore(url) as store:
        store.append("s", [HumanMessage("a"), HumanMessage("b")])
        last = store.records("s")[-1].position
        store.clear("s")
        store.append("s", [HumanMessage("c")])
        assert texts(store.read("s", after=last)) == ["c"]


@pytest.mark.parametrize(
    "name", ["odd name", 'a"b', "a'b", "a`b", "100%", "a:b", "a :b", "select", "Ünï", "A.b", "x" * 57]
)
def test_names(path, url, name):
    with SQLStore(url, table_name=name, session_id_field_name="who:is%it") as store:
        store.append("s", [HumanMessage("a"), HumanMessage("b")])
        store.replace("s", store.read("s"))
        store.put_state("s", {"a": 1})
        assert (store.count("s"), len(store.sessions()), store.get_state("s")) == (2, 1, {"a": 1})
    quoted = name.replace('"', '""')
    assert execute(path, f'SELECT "who:is%it" FROM "{quoted}"') == [("s",), ("s",)]


@pytest.mark.parametrize("options", [{"table_name": ""}, {"table_name": "x" * 58}, {"table_name": None}])
@pytest.mark.parametrize("field", ["session_id", "id", "MESSAGE", ""])
def test_bad_names(options, field):
    with pytest.raises(ConfigurationError, match="name"):
        SQLStore("sqlite://", **options, session_id_field_name=field)


def test_a_large_batch(url):
    with SQLStore(url) as store:
        store.append("s", [HumanMessage(str(number)) for number in range(10_000)])
        assert texts(store.read("s")) == [str(number) for number in range(10_000)]
        store.replace("s", [HumanMessage("x")])
        assert store.count("s") == 1


# Tables that exist.


def test_langchain_reads_what_we_write(url):
    plain = [message for message in golden_messages() if "lh:type" not in repr(message)][:10]
    SQLChatMessageHistory("s", connection=url).add_messages(plain)
    assert theirs("s", connection=url).messages == plain


def test_langchain_reads_every_golden_message_as_plain_data(url):
    messages = golden_messages()
    SQLChatMessageHistory("s", connection=url).add_messages(messages)
    read = theirs("s", connection=url).messages
    kinds = [message.type.removesuffix("MessageChunk").lower() for message in messages]
    assert [message.type for message in read] == kinds


@pytest.mark.parametrize("who_makes_it", ["ours", "theirs"])
def test_we_read_what_langchain_writes(path, url, who_makes_it):
    messages = [
        HumanMessage("héllo", id="1"),
        AIMessage("yes", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}]),
    ]
    ours = SQLChatMessageHistory("s", connection=url)
    if who_makes_it == "ours":
        ours.store.setup()
    theirs("s", connection=url).add_messages(messages)
    theirs("other", connection=url).add_user_message("not ours")
    assert ours.messages == messages
    ours.add_user_message("and on")
    theirs("s", connection=url).add_user_message("and back")
    assert texts(ours.messages) == ["héllo", "yes", "and on", "and back"]
    assert asyncio.run(ours.aget_messages()) == theirs("s", connection=url).messages
    assert [info.session_id for info in ours.store.sessions()] == ["other", "s"]


def test_an_existing_table_is_not_changed_unless_asked(path, url, caplog):
    theirs("s", connection=url).add_user_message("old")
    before = execute(path, "SELECT sql FROM sqlite_master WHERE tbl_name = 'message_store'")
    start = threading.Barrier(20)
    with SQLStore(url) as store:

        def read():
            start.wait()
            return texts(store.read("s"))

        with caplog.at_level(logging.WARNING), concurrent.futures.ThreadPoolExecutor(20) as pool:
            assert [future.result() for future in [pool.submit(read) for _ in range(20)]] == [["old"]] * 20
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "setup(upgrade=True)" in caplog.text
        assert execute(path, "SELECT sql FROM sqlite_master WHERE tbl_name = 'message_store'") == before
        store.setup(upgrade=True)
        store.setup(upgrade=True)
        after = execute(path, "SELECT sql FROM sqlite_master WHERE tbl_name = 'message_store'")
        assert len(after) == len(before) + 1
        caplog.clear()
        store.setup()
        assert caplog.records == []
        assert texts(store.read("s")) == ["old"]


@pytest.mark.parametrize(
    ("definition", "told"),
    [
        ("CREATE TABLE message_store (id INTEGER PRIMARY KEY, name TEXT)", "session_id, message"),
        ("CREATE TABLE message_store (id INTEGER PRIMARY KEY, session_id TEXT, data TEXT)", "no column message"),
        ("CREATE TABLE message_store (session_id TEXT, message TEXT)", "no column id"),
        ("CREATE TABLE message_store (id INTEGER PRIMARY KEY, session_id TEXT, message BLOB)", "message is not text"),
        ("CREATE TABLE message_store (id INTEGER PRIMARY KEY, session_id INTEGER, message TEXT)", "session_id is not"),
        ("CREATE TABLE message_store (id INTEGER, session_id TEXT, message TEXT)", "primary key"),
        ("CREATE TABLE message_store (id INT, session_id TEXT, message TEXT, PRIMARY KEY (id, session_id))", "key"),
        ("CREATE VIEW message_store AS SELECT 1 AS id, 'a' AS session_id, 'b' AS message", "message_store"),
    ],
)
def test_a_table_of_another_shape_is_refused(path, url, definition, told):
    execute(path, definition)
    before = execute(path, "SELECT name, sql FROM sqlite_master")
    with SQLStore(url) as store:
        for call in (lambda: store.read("s"), lambda: store.append("s", [HumanMessage("x")]), store.setup):
            with pytest.raises(ConfigurationError, match="message_store") as caught:
                call()
            assert told in str(caught.value)
    assert execute(path, "SELECT name, sql FROM sqlite_master") == before


def test_a_column_that_ignores_case(path, url):
    execute(path, "CREATE TABLE message_store (id INTEGER PRIMARY KEY, session_id TEXT COLLATE NOCASE, message TEXT)")
    with SQLStore(url) as store:
        for name in ("ivan", "Ivan", "ivan "):
            store.append(name, [HumanMessage(name)])
        assert [texts(store.read(name)) for name in ("ivan", "Ivan", "ivan ")] == [["ivan"], ["Ivan"], ["ivan "]]
        assert [info.session_id for info in store.sessions()] == ["Ivan", "ivan", "ivan "]
        store.clear("IVAN")
        store.clear("ivan")
        assert [info.session_id for info in store.sessions()] == ["Ivan", "ivan "]


def test_sqlite_does_not_keep_to_a_length(path, url):
    execute(path, "CREATE TABLE message_store (id INTEGER PRIMARY KEY, session_id VARCHAR(3), message VARCHAR(3))")
    with SQLStore(url) as store:
        store.append("longer", [HumanMessage("longer")])
        assert texts(store.read("longer")) == ["longer"]


def test_rows_without_session_or_text(path, url):
    theirs("s", connection=url)
    execute(path, "INSERT INTO message_store (session_id, message) VALUES (NULL, 'x'), ('', 'x'), ('s', NULL)")
    with SQLStore(url, on_corrupt="skip") as store:
        assert [(info.session_id, info.last_at) for info in store.sessions()] == [("s", None)]
        assert store.read("s") == []
        assert store.delete("s", ["unknown"]) == 0
        store.append("s", [HumanMessage("x")])
        assert texts(store.read("s", last=1)) == ["x"]


def test_a_database_that_may_only_be_read(path, url, caplog):
    theirs("s", connection=url).add_user_message("old")
    before = execute(path, "SELECT name FROM sqlite_master")
    with SQLStore(f"sqlite:///file:{path}?mode=ro&uri=true") as store:
        assert texts(store.read("s")) == ["old"]
        assert store.count("s") == 1
        assert "message_store_state" in caplog.text
        for call in (
            lambda: store.append("s", [HumanMessage("x")]),
            lambda: store.clear("s"),
            lambda: store.get_state("s"),
            lambda: store.put_state("s", {}),
            lambda: store.setup(upgrade=True),
        ):
            with pytest.raises(StoreError) as caught:
                call()
            assert type(caught.value) is StoreError
    assert execute(path, "SELECT name FROM sqlite_master") == before


def test_a_state_table_made_later_is_cleared_too(path, url):
    theirs("s", connection=url).add_user_message("old")
    with SQLStore(f"sqlite:///file:{path}?mode=ro&uri=true") as reader, SQLStore(url) as writer:
        reader.read("s")
        writer.put_state("s", {"a": 1})
        assert reader.get_state("s") == {"a": 1}
        writer._layout.has_state = False
        writer.clear("s")
        assert writer.get_state("s") is None


# URLs and drivers.


def urls(url, async_url=None, *, has_connect_args=False):
    found = _sql_drivers.engine_urls(url, async_url, has_connect_args=has_connect_args)
    return tuple(one and one.render_as_string(hide_password=False) for one in found[:2])


@pytest.fixture
def installed(monkeypatch):
    """Pretend that only some drivers are installed."""

    def only(*modules):
        monkeypatch.setattr(_sql_drivers, "_is_importable", lambda module: module in {"greenlet", "sqlite3", *modules})

    return only


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
    assert urls("sqlite:///a.db") == ("sqlite+pysqlite:///a.db", "sqlite+aiosqlite:///a.db")
    assert urls("sqlite+aiosqlite:///a.db?x=1") == ("sqlite+pysqlite:///a.db?x=1", "sqlite+aiosqlite:///a.db?x=1")
    installed()
    assert urls("sqlite:///a.db") == ("sqlite+pysqlite:///a.db", None)
    with pytest.raises(MissingExtraError, match=r"\[sql\]"):
        urls("sqlite+aiosqlite:///a.db")


def test_without_greenlet_there_is_no_async_engine(monkeypatch):
    monkeypatch.setattr(_sql_drivers, "_is_importable", lambda module: module != "greenlet")
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
        ("nonsense secret", "url"),
        (5, "not builtins.int"),
        ("oracle://u:secret@h/d", "not in 'oracle'"),
        ("postgresql+nodriver://u:secret@h/d", "nodriver"),
        ("postgresql://u:secret@h:port/d", "url"),
        (None, "Pass a url"),
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
    assert "s3cret" not in repr(SQLStore(connection=engine))


# Engines of the caller's.


def test_the_callers_engine_is_left_alone(url):
    engine = sa.create_engine(url, connect_args={"timeout": 5})
    with SQLStore(connection=engine) as store:
        store.append("s", [HumanMessage("x")])
        store.replace("s", [HumanMessage("y")])
        assert store.client is engine
        assert not store.capabilities & Capability.NATIVE_ASYNC
        assert texts(asyncio.run(store.aread("s"))) == ["y"]
    assert (engine.hide_parameters, engine.get_execution_options()) == (False, {})
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 5000
        assert connection.connection.dbapi_connection.isolation_level == ""
        connection.rollback()
    assert engine.pool.checkedin() >= 1  # not disposed of


def test_both_engines(url):
    engine, native = sa.create_engine(url), create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
    store = SQLStore(connection=engine, async_connection=native)
    assert Capability.NATIVE_ASYNC in store.capabilities

    async def work():
        await store.aappend("s", [HumanMessage("x")])
        await store.aclose()
        await native.dispose()

    asyncio.run(work())
    assert texts(store.read("s")) == ["x"]


def test_an_async_engine_alone(url):
    native = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"), poolclass=NullPool)
    for store in (SQLStore(connection=native), SQLStore(async_connection=native)):
        asyncio.run(store.aappend("s", [HumanMessage("x")]))
        with pytest.raises(ConfigurationError, match="async"):
            store.read("s")
    assert len(asyncio.run(store.aread("s"))) == 2


@pytest.mark.parametrize("options", [{"connection": 5}, {"async_connection": sa.create_engine("sqlite://")}])
def test_other_things_are_refused(options):
    with pytest.raises(ConfigurationError, match=r"connection must be a SQLAlchemy (Async)?Engine.*not "):
        SQLStore(**options)


def test_a_url_and_engines_are_not_mixed(url):
    engine = sa.create_engine(url)
    with pytest.raises(ConfigurationError, match="not both"):
        SQLStore(url, connection=engine)
    with pytest.raises(ConfigurationError, match="engine_args"):
        SQLStore(connection=engine, engine_args={"echo": True})
    native = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
    with pytest.raises(ConfigurationError, match="AsyncEngine"):
        SQLStore(connection=native, async_connection=native)


def test_the_callers_one_connection_is_shared_in_turns():
    """Two stores and many threads on a connection of the caller's lose nothing."""
    options = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    engine = sa.create_engine("sqlite://", **options)
    stores = [SQLStore(connection=engine, table_name=name) for name in ("one", "two")]

    def write(number):
        store = stores[number % 2]
        for _ in range(25):
            store.append("s", [HumanMessage("a"), HumanMessage("b")])
            store.put_state("s", {"a": 1})

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert [store.count("s") for store in stores] == [200, 200]


def test_the_callers_one_async_connection_is_shared_in_turns():
    async def main():
        engine = create_async_engine("sqlite+aiosqlite://")
        assert isinstance(engine.pool, StaticPool)
        stores = [SQLStore(connection=engine, table_name=name) for name in ("one", "two")]

        async def write(number):
            await stores[number % 2].aappend("s", [HumanMessage("a"), HumanMessage("b")])
            await stores[number % 2].aput_state("s", {"a": 1})

        await asyncio.gather(*(write(number) for number in range(60)))
        assert [await store.acount("s") for store in stores] == [60, 60]
        await engine.dispose()

    asyncio.run(main())


# In memory.


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite://", "sqlite:///file::memory:?uri=true"]
)
def test_in_memory(url):
    with SQLStore(url) as store, SQLStore(url) as other:
        assert not store.capabilities & (Capability.NATIVE_ASYNC | Capability.PERSISTENT)

        def write(number):
            for _ in range(20):
                store.append("s", [HumanMessage(str(number)), AIMessage(str(number))])

        async def awrite():
            await asyncio.gather(*(store.aappend("s", [HumanMessage("x"), AIMessage("x")]) for _ in range(20)))

        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            running = [pool.submit(write, number) for number in range(8)]
            running.append(pool.submit(lambda: asyncio.run(awrite())))
            for future in running:
                future.result()
        stored = texts(store.read("s"))
        assert len(stored) == 2 * (160 + 20)
        assert stored[::2] == stored[1::2]
        assert other.read("s") == []
    assert store.read("s") == []  # closed and opened again, it is new


def test_in_memory_after_fork():
    with SQLStore("sqlite://") as store:
        store.append("s", [HumanMessage("parent")])
        child = os.fork()
        if child == 0:
            try:
                store.append("s", [HumanMessage("child")])
                os._exit(len(store.read("s")) - 1)
            finally:
                os._exit(9)
        assert os.waitpid(child, 0)[1] == 0
        assert texts(store.read("s")) == ["parent"]


# Errors.


def test_statements_that_fail(path, url):
    with SQLStore(url) as store:
        store.append("s", [HumanMessage("x")])
        execute(path, "DROP TABLE message_store")
        with pytest.raises(StoreError) as caught:
            store.read("s")
        assert type(caught.value) is StoreError
        assert (caught.value.operation, caught.value.session_id) == ("read", "s")


def test_no_file(tmp_path):
    (tmp_path / "text.db").write_text("this is no database " * 100)
    with pytest.raises(StoreError) as caught:
        SQLStore(f"sqlite:///{tmp_path}/text.db").read("s")
    assert type(caught.value) is StoreError
    with pytest.raises(StoreUnavailableError):
        SQLStore(f"sqlite:///{tmp_path}/no/folder.db").read("s")


def test_a_lock_that_is_never_let_go(path, url):
    store = SQLStore(connection=sa.create_engine(url, connect_args={"timeout": 0.1}))
    store.append("s", [HumanMessage("x")])
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    for call in (lambda: store.append("s", [HumanMessage("y")]), lambda: store.clear("s")):
        with pytest.raises(StoreUnavailableError):
            call()
    holder.execute("ROLLBACK")
    holder.close()
    store.append("s", [HumanMessage("y")])
    assert store.count("s") == 2


@pytest.mark.parametrize("given", [False, True])
def test_errors_do_not_show_messages(path, url, given):
    store = SQLStore(connection=sa.create_engine(url)) if given else SQLStore(url)
    store.append("s", [HumanMessage("x")])
    execute(path, "DROP TABLE message_store")
    for call in (store.append, store.replace):
        with pytest.raises(StoreError) as caught:
            call("s", [HumanMessage("private".upper())])
        assert "PRIVATE" not in "".join(traceback.format_exception(caught.value))


def test_a_replacement_that_fails_keeps_what_was_there(path, url):
    with SQLStore(url) as store:
        store.append("s", [HumanMessage("x")])
        execute(path, "CREATE TRIGGER t BEFORE INSERT ON message_store BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(StoreError):
            store.replace("s", [HumanMessage("y")])
        with pytest.raises(StoreError):
            asyncio.run(store.areplace("s", [HumanMessage("y")]))
        execute(path, "DROP TRIGGER t")
        assert texts(store.read("s")) == ["x"]
        store.append("s", [HumanMessage("z")])  # nothing holds the lock


# Helpers.


@pytest.mark.parametrize(
    ("prefix", "end"), [("", None), ("a", "b"), ("a\ud7ff", "a\ue000"), ("a\U0010ffff", "b"), ("\U0010ffff", None)]
)
def test_the_end_of_a_prefix(prefix, end):
    assert _sql_tables.successor(prefix) == end


def test_prefixes_at_the_edges(url):
    names = ["a\ud7ff", "a\ud7ffz", "a\ue000", "a\U0010ffff", "a\U0010ffff\U0010ffff", "b", "\U0010ffff", "\U0010ffffa"]
    with SQLStore(url) as store:
        for name in names:
            store.append(name, [HumanMessage("x")])
        for prefix in ("a\ud7ff", "a\U0010ffff", "a", "\U0010ffff", ""):
            listed = [info.session_id for info in store.sessions(prefix=prefix)]
            assert listed == sorted(name for name in names if name.startswith(prefix))


def test_json_in_ascii():
    text = json.dumps({"é\u2028": "naïve 👍 \\u0041 \\\\ é"}, ensure_ascii=False)
    assert _sql_tables.escape_row(text).isascii()
    assert json.loads(_sql_tables.escape_row(text)) == json.loads(text)


def test_limits():
    assert _sql_tables.Limit(3).holds("ééé")
    assert not _sql_tables.Limit(3).holds("éééé")
    assert not _sql_tables.Limit(9, 3).holds("éé")
    assert _sql_tables.Limit(charset="utf8mb3").holds("é\uffff")
    assert not _sql_tables.Limit(charset="utf8mb3").holds("👍")
    assert not _sql_tables.Limit(charset="latin1").holds("é")
    assert _sql_tables.Limit(charset="utf8mb4").holds("👍")


# The drop-in class.


def test_the_constructor_is_langchains():
    from langchain_community.chat_message_histories import SQLChatMessageHistory as Theirs

    ours = list(inspect.signature(SQLChatMessageHistory).parameters.values())
    for one, other in zip(ours, inspect.signature(Theirs).parameters.values(), strict=False):
        assert (one.name, one.kind, one.default) == (other.name, other.kind, other.default)
    assert len(ours) == 8


@pytest.mark.parametrize("async_mode", [None, True, False])
def test_one_object_serves_both_modes(url, async_mode):
    connection = url.replace("sqlite:", "sqlite+aiosqlite:") if async_mode else url
    history = SQLChatMessageHistory("s", connection=connection, async_mode=async_mode)

    async def use():
        await history.aadd_message(HumanMessage("a"))
        await history.aadd_messages([AIMessage("b")])
        return await history.aget_messages()

    assert texts(asyncio.run(use())) == ["a", "b"]
    history.add_message(SystemMessage("c"))
    assert texts(history.messages) == texts(history.get_messages()) == ["a", "b", "c"]
    asyncio.run(history.aclear())
    assert history.messages == []
    assert history.async_mode is async_mode


def test_no_io_in_the_constructor(path, url):
    SQLChatMessageHistory("s", connection=url)
    SQLChatMessageHistory("s", connection=url, custom_message_converter=DefaultMessageConverter("t"))
    assert not path.exists()


def test_attributes_and_sharing(path, url):
    one = SQLChatMessageHistory("a", "my_table", "who", connection=url, engine_args={"pool_size": 2})
    other = SQLChatMessageHistory("b", "my_table", "who", connection=url, engine_args={"pool_size": 2})
    assert one.store is other.store
    assert SQLChatMessageHistory("b", "my_table", connection=url).store is not one.store
    one.add_user_message("x")
    assert execute(path, "SELECT who FROM my_table") == [("a",)]
    assert (one.session_id, one.session_id_field_name, one.async_mode) == ("a", "who", None)
    assert isinstance(one.engine, sa.Engine)
    assert one.engine is other.engine
    assert one.engine.pool.size() == 2
    assert isinstance(one.async_engine, AsyncEngine)
    assert open_history(url, "a", table_name="my_table", session_id_field_name="who").messages == one.messages


def test_orm_attributes(url):
    history = SQLChatMessageHistory("a", connection=url)
    history.add_messages([HumanMessage("x"), AIMessage("y")])
    model = history.sql_model_class
    with history.session_maker() as session:
        rows = session.query(model).filter(model.session_id == "a").order_by(model.id).all()
        assert [history.converter.from_sql_model(row) for row in rows] == history.messages
    native = SQLChatMessageHistory("a", connection=url, async_mode=True)

    async def use():
        async with native.session_maker() as session:
            return len((await session.execute(sa.select(native.sql_model_class))).scalars().all())

    assert asyncio.run(use()) == 2


def test_engines_of_the_callers_in_the_drop_in(url):
    engine, native = (
        sa.create_engine(url),
        create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"), poolclass=NullPool),
    )
    history = SQLChatMessageHistory("s", connection=engine)
    assert (history.engine, history.async_mode) == (engine, False)
    both = SQLChatMessageHistory("s", connection=engine, async_connection=native)
    assert (both.engine, both.async_engine) == (engine, native)
    alone = SQLChatMessageHistory("s", connection=native)
    assert (alone.async_engine, alone.async_mode) == (native, True)
    history.add_user_message("x")
    asyncio.run(both.aadd_messages([HumanMessage("y")]))
    assert texts(asyncio.run(alone.aget_messages())) == ["x", "y"]
    assert SQLChatMessageHistory("t", connection=engine).store is history.store


@pytest.mark.parametrize("connection", [None, 5, object()])
def test_no_connection(connection):
    with pytest.raises(ValueError, match=r"url|connection"):
        SQLChatMessageHistory("s", connection=connection)


# Converters of the user's.


class Colour(BaseMessageConverter):
    """Keeps who said what in columns."""

    def __init__(self, table_name="said"):
        columns = {
            "__tablename__": table_name,
            "id": sa.Column(sa.Integer, primary_key=True),
            "thread": sa.Column(sa.Integer),
            "kind": sa.Column(sa.Text),
            "content": sa.Column(sa.Text, nullable=False),
        }
        self.model = type("Said", (declarative_base(),), columns)

    def from_sql_model(self, sql_message):
        return {"human": HumanMessage, "ai": AIMessage}[sql_message.kind](sql_message.content)

    def to_sql_model(self, message, session_id):
        content = None if message.content == "refuse" else message.content
        return self.model(thread=session_id, kind=message.type, content=content)

    def get_sql_model_class(self):
        return self.model


@pytest.fixture(params=["url", "engine", "async engine"])
def converted(request, url):
    converter = Colour()
    if request.param == "url":
        connection = url
    elif request.param == "engine":
        connection = sa.create_engine(url)
    else:
        connection = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"), poolclass=NullPool)
    return functools.partial(
        SQLChatMessageHistory,
        connection=connection,
        custom_message_converter=converter,
        session_id_field_name="thread",
    )


def test_a_converter(path, converted, request):
    history, other = converted(7), converted(8)
    assert history.store is other.store
    is_async = history.async_mode is True
    if is_async:
        asyncio.run(history.aadd_messages([HumanMessage("a"), AIMessage("b")]))
        with pytest.raises(ConfigurationError, match="async"):
            history.add_user_message("c")
    else:
        history.add_messages([HumanMessage("a"), AIMessage("b")])
    asyncio.run(history.aadd_message(HumanMessage("c")))
    asyncio.run(other.aadd_messages([HumanMessage("x")]))
    assert texts(asyncio.run(history.aget_messages())) == ["a", "b", "c"]
    assert texts(asyncio.run(history.aget_messages(last=2))) == ["b", "c"]
    assert texts(asyncio.run(history.aget_messages(after="1"))) == ["b", "c"]
    assert texts(asyncio.run(history.aget_messages(after="1", last=1))) == ["c"]
    assert execute(path, "SELECT id, thread, kind, content FROM said WHERE thread = 7")[0] == (1, 7, "human", "a")
    with pytest.raises(StoreError):
        asyncio.run(history.aadd_messages([HumanMessage("d"), HumanMessage("refuse")]))
    assert asyncio.run(history.store.acount(7)) == 3
    asyncio.run(history.aclear())
    if not is_async:
        assert history.messages == []
        assert texts(other.messages) == ["x"]
        other.clear()
    assert asyncio.run(history.aget_messages()) == []
    assert isinstance(history.converter, Colour)
    assert history.sql_model_class.__tablename__ == "said"


def test_a_converter_has_no_records(url):
    store = SQLChatMessageHistory("s", connection=url, custom_message_converter=DefaultMessageConverter("t")).store
    assert Capability.SESSIONS not in store.capabilities
    for call in (
        lambda: store.replace("s", []),
        store.sessions,
        lambda: store.get_state("s"),
        lambda: store.erase(user_id="u"),
    ):
        with pytest.raises(UnsupportedOperationError):
            call()


def test_a_converter_races_on_first_use(url):
    start = threading.Barrier(20)

    def first_use(number):
        converter = Colour()
        history = SQLChatMessageHistory(
            1, connection=url, custom_message_converter=converter, session_id_field_name="thread"
        )
        start.wait()
        history.add_user_message(str(number))

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(first_use, range(20)))
    options = {"custom_message_converter": Colour(), "session_id_field_name": "thread"}
    assert len(SQLChatMessageHistory(1, connection=url, **options).messages) == 20


@pytest.mark.parametrize("which", ["ours", "theirs"])
def test_langchains_converters_work(url, which):
    from langchain_community.chat_message_histories import sql as community

    converter = (DefaultMessageConverter if which == "ours" else community.DefaultMessageConverter)("t")
    history = SQLChatMessageHistory("s", connection=url, custom_message_converter=converter)
    history.add_messages([HumanMessage("é"), AIMessage("b")])
    other = theirs("s", connection=url, custom_message_converter=community.DefaultMessageConverter("t"))
    other.add_user_message("c")
    assert history.messages == other.messages
    assert texts(history.messages) == ["é", "b", "c"]
    back = theirs("s", connection=url, custom_message_converter=converter)
    assert back.messages == other.messages


def test_a_converter_without_the_column(url):
    with pytest.raises(ValueError, match="nothing_like_it"):
        SQLChatMessageHistory(
            "s",
            connection=url,
            custom_message_converter=DefaultMessageConverter("t"),
            session_id_field_name="nothing_like_it",
        )


def test_a_set_up_that_is_late_disturbs_nobody(tmp_path):
    """Another thread saw no table, and goes on when the table was made and is in use."""
    seen, made, making, read = (threading.Event() for _ in range(4))

    class Late(SQLStore):
        def _inspect(self, connection):
            layout = super()._inspect(connection)
            if threading.current_thread() is late and not seen.is_set():
                seen.set()
                assert made.wait(60)
            return layout

        def _make(self, connection, *, upgrade):
            if threading.current_thread() is late:
                making.set()
                assert read.wait(60)
            return super()._make(connection, upgrade=upgrade)

    with Late(f"sqlite:///{tmp_path}/late.db") as store:
        late = threading.Thread(target=store.count, args=["s"])
        late.start()
        assert seen.wait(60)
        store.append("s", [HumanMessage("x")])
        made.set()
        assert making.wait(60)
        try:
            assert store.read("s") == [HumanMessage("x")]
        finally:
            read.set()
            late.join()
