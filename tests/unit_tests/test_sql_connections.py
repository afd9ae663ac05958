"""The engines of an SQL store: the caller's, those of a place, and SQLite in memory."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import random
import sqlite3
import threading
import uuid
import weakref
from pathlib import Path

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from langchain_histories import (
    Capability,
    ConfigurationError,
    DefaultMessageConverter,
    HistoryRegistry,
    PostgresChatMessageHistory,
    SQLChatMessageHistory,
    SQLStore,
    StoreUnavailableError,
    open_history,
    open_store,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "histories.db"


@pytest.fixture
def url(path):
    return f"sqlite:///{path}"


def texts(messages):
    return [message.content for message in messages]


# What a URL may be.


@pytest.mark.parametrize("kind", ["sa.URL", "pathlib.Path", "os.PathLike"])
def test_what_names_a_database_may_be_no_text(path, url, kind):
    class Named:
        def __fspath__(self):
            return str(path)

    given = {"sa.URL": sa.make_url(url), "pathlib.Path": path, "os.PathLike": Named()}[kind]
    SQLStore(url).append("s", [HumanMessage("x")])
    assert texts(SQLStore(given).read("s")) == ["x"]
    assert texts(SQLChatMessageHistory("s", connection=given).messages) == ["x"]
    assert SQLStore(given).client is SQLStore(url).client
    with SQLStore.joined(given) as store:
        assert texts(asyncio.run(store.aread("s"))) == ["x"]


def test_a_url_of_sqlalchemy_names_a_store_everywhere(url):
    given = sa.make_url(url)
    open_history(given, "s").add_user_message("x")
    assert texts(open_store(given).read("s")) == ["x"]
    registry = HistoryRegistry.from_config({"histories": {"chat": {"url": given}}})
    assert texts(registry.history("s").messages) == ["x"]


def test_a_url_of_sqlalchemy_holds_any_password():
    password = "a+b/c?d#e@f:g%h i"
    given = sa.URL.create("postgresql+psycopg", "user", password, "127.0.0.1", 1, "d")
    store = SQLStore(given, async_url=given.set(drivername="postgresql+asyncpg"))
    assert store.client.url.password == password
    assert password not in repr(store)


def test_a_string_of_libpq_holds_any_password():
    for password in ("a+b/c?d#e@f:g%h i", "+a+", "%2B+"):
        url = sa.URL.create("postgresql+psycopg", "u+v", password, "127.0.0.1", 1, "d+e")
        for given in (url, f"host=127.0.0.1 port=1 dbname=d+e user=u+v password='{password}'"):
            history = PostgresChatMessageHistory(session_id="1", connection_string=given)
            assert history.store.client.url == url
            assert password not in repr(history)


def test_a_path_with_what_is_odd_in_a_url(tmp_path):
    for name in ("a b+c.db", "a?b#c%20d@e.db"):
        try:
            store = SQLStore(tmp_path / name)
        except ConfigurationError:
            assert "?" in name  # SQLAlchemy 2.0 does not escape it
        else:
            store.append("s", [HumanMessage("x")])
            assert (tmp_path / name).exists()


def test_what_is_no_url_is_refused():
    with pytest.raises(ConfigurationError, match="url"):
        SQLStore(b"a.db")


# Engines of the caller's.


def test_the_callers_engine_is_left_alone(url):
    engine = sa.create_engine(url, connect_args={"timeout": 5})
    with SQLStore(client=engine) as store:
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
    store = SQLStore(client=engine, async_client=native)
    assert Capability.NATIVE_ASYNC in store.capabilities

    async def work():
        await store.aappend("s", [HumanMessage("x")])
        await store.aclose()
        await native.dispose()

    asyncio.run(work())
    assert texts(store.read("s")) == ["x"]


def test_an_async_engine_alone(url):
    native = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"), poolclass=NullPool)
    for store in (SQLChatMessageHistory("s", connection=native).store, SQLStore(async_client=native)):
        asyncio.run(store.aappend("s", [HumanMessage("x")]))
        with pytest.raises(ConfigurationError, match="async"):
            store.read("s")
    assert len(asyncio.run(store.aread("s"))) == 2


@pytest.mark.parametrize("options", [{"client": 5}, {"async_client": sa.create_engine("sqlite://")}])
def test_other_things_are_refused(options):
    with pytest.raises(ConfigurationError, match=r"client must be an? (blocking|asyncio) client of SQLAlchemy .*not "):
        SQLStore(**options)


def test_a_url_and_engines_are_not_mixed(url):
    engine = sa.create_engine(url)
    with pytest.raises(ConfigurationError, match="not both"):
        SQLStore(url, client=engine)
    with pytest.raises(ConfigurationError, match="engine_args"):
        SQLStore(client=engine, engine_args={"echo": True})
    native = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
    with pytest.raises(ConfigurationError, match="AsyncEngine"):
        SQLStore(client=native, async_client=native)


def test_the_callers_one_connection_is_shared_in_turns():
    """Two stores and many threads on a connection of the caller's lose nothing."""
    options = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    engine = sa.create_engine("sqlite://", **options)
    stores = [SQLStore(client=engine, table_name=name) for name in ("one", "two")]

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
        stores = [SQLStore(async_client=engine, table_name=name) for name in ("one", "two")]

        async def write(number):
            await stores[number % 2].aappend("s", [HumanMessage("a"), HumanMessage("b")])
            await stores[number % 2].aput_state("s", {"a": 1})

        await asyncio.gather(*(write(number) for number in range(60)))
        assert [await store.acount("s") for store in stores] == [60, 60]
        await engine.dispose()

    asyncio.run(main())


def test_a_cancelled_writer_holds_no_lock(path, url):
    """Wherever a call is cancelled, another program can write at once."""
    chance = random.Random(3)

    async def work():
        async with SQLStore(url) as store:
            await store.aappend("s", [HumanMessage("start")])
            for number in range(120):
                batch = [HumanMessage(f"{number} {part}") for part in range(3)]
                call = store.areplace("s", batch) if number % 2 else store.aput_state("s", {"n": number})
                task = asyncio.create_task(call)
                await asyncio.sleep(chance.random() * 0.008)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                other = sqlite3.connect(path, timeout=2, isolation_level=None)
                other.execute("BEGIN IMMEDIATE")
                other.close()
            return texts(await store.aread("s"))

    assert asyncio.run(work()) in [["start"], *([f"{number} {part}" for part in range(3)] for number in range(120))]


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


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_single_histories_share_one_memory(url):
    """That of their URL, as long as the process: whichever store is closed, and however long nobody looks."""
    name = f"t{uuid.uuid4().hex}"
    open_history(url, "s", table_name=name).add_user_message("a")
    for _ in range(40):  # more places than stay open while nobody uses them
        SQLStore(f"sqlite:///file:{uuid.uuid4().hex}?mode=memory&uri=true").count("s")
    other = SQLChatMessageHistory("s", name, connection=url)
    other.add_user_message("b")
    other.store.close()
    asyncio.run(other.store.aclose())
    gc.collect()
    assert texts(open_history(url, "s", table_name=name).messages) == ["a", "b"]
    assert texts(asyncio.run(SQLChatMessageHistory("s", name, connection=url).aget_messages())) == ["a", "b"]
    assert not open_history(url, "s").store.capabilities & (Capability.PERSISTENT | Capability.MANY_PROCESSES)
    with SQLStore(url, table_name=name) as store, open_store(url, table_name=name) as another:
        assert store.read("s") == another.read("s") == []
    assert open_history(url, "s", table_name=name, engine_args={"echo": False}).messages == []  # another place


def test_a_model_is_in_the_memory_of_single_histories():
    name = f"t{uuid.uuid4().hex}"

    def history():
        converter = DefaultMessageConverter(name)
        return SQLChatMessageHistory("s", connection="sqlite://", custom_message_converter=converter)

    history().add_user_message("a")
    assert texts(history().messages) == ["a"]
    assert texts(open_history("sqlite://", "s", table_name=name).messages) == ["a"]


def test_the_shared_memory_after_fork():
    name = f"t{uuid.uuid4().hex}"
    history = SQLChatMessageHistory("s", name, connection="sqlite://")
    history.add_user_message("parent")
    child = os.fork()
    if child == 0:
        try:
            history.add_user_message("child")
            os._exit(len(history.messages) - 1)
        finally:
            os._exit(9)
    assert os.waitpid(child, 0)[1] == 0
    assert texts(history.messages) == ["parent"]


# What stores of one place share.


class Reversed:
    def encode(self, text):
        return text[::-1]

    def decode(self, text):
        return text[::-1]


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_an_option_of_a_store_costs_no_connection(url):
    open_history(url, "1").add_user_message("x")
    before = open_files()
    for _ in range(300):
        open_history(url, "1", codec=Reversed()).add_user_message("x")
    for number in range(60):
        SQLChatMessageHistory("1", table_name=f"tenant{number}", connection=url).add_user_message("x")
        open_history(url, "1", table_name=f"tenant{number}", session_id_field_name="session_id").add_user_message("x")
    assert open_files() == before


def test_async_stores_of_one_place_share_its_connections(url):
    async def use():
        async def append(history):
            await history.aadd_messages([HumanMessage("x")])

        await append(open_history(url, "1"))
        before = open_files()
        for _ in range(100):
            await append(open_history(url, "1", codec=Reversed()))
        for number in range(15):
            await append(SQLChatMessageHistory("1", table_name=f"tenant{number}", connection=url))
        return open_files() - before

    assert asyncio.run(use()) <= 0


def statements_of(engine, call):
    """What a call sends to the database."""
    seen = []

    def note(connection, cursor, statement, *args):
        seen.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        call()
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    return seen


@pytest.mark.parametrize("given", [False, True])
def test_a_store_made_for_a_call_looks_at_no_table_again(url, given):
    engine = sa.create_engine(url)
    place = {"client": engine} if given else {"url": url}

    def append():
        SQLStore(**place).append("s", [HumanMessage("x")])

    def warm_up():
        store = SQLStore(**place)
        store.append("s", [HumanMessage("x")])
        return store.client, statements_of(store.client, lambda: store.append("s", [HumanMessage("x")]))

    client, expected = warm_up()
    gc.collect()
    assert len(expected) == 1
    for _ in range(3):
        assert statements_of(client, append) == expected
    # A table that another program dropped is made again.
    SQLStore(**place).run("drop", drop)
    append()
    assert SQLStore(**place).count("s") == 1
    engine.dispose()


async def drop(engine):
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE message_store"))


def test_a_store_that_is_closed_disturbs_no_call_of_another(url):
    """Fifty threads and fifty tasks are under way while stores of other codecs come and go."""
    started = threading.Barrier(51)

    def write(number):
        history = open_history(url, f"t{number}")
        started.wait()
        for part in range(2):
            history.add_messages([HumanMessage(f"{part}"), AIMessage(f"{part}")])
        return texts(history.messages)

    def come_and_go():
        with SQLStore(url, codec=Reversed()) as store:
            store.append("other", [HumanMessage("x")])

    async def write_too(number):
        history = open_history(url, f"a{number}")
        for part in range(2):
            await history.aadd_messages([HumanMessage(f"{part}"), AIMessage(f"{part}")])
        return texts(await history.aget_messages())

    async def come_and_go_too(until):
        while not until.is_set():
            async with SQLStore(url, codec=Reversed()) as store:
                await store.aappend("other", [HumanMessage("x")])

    async def main():
        done = asyncio.Event()
        coming = asyncio.create_task(come_and_go_too(done))
        try:
            return await asyncio.gather(*(write_too(number) for number in range(50)))
        finally:
            done.set()
            await coming

    expected = ["0", "0", "1", "1"]
    with concurrent.futures.ThreadPoolExecutor(51) as pool:
        running = [pool.submit(write, number) for number in range(50)]
        tasks = pool.submit(asyncio.run, main())
        started.wait()
        while not all(future.done() for future in [*running, tasks]):
            come_and_go()
        assert [future.result() for future in running] == [expected] * 50
        assert tasks.result() == [expected] * 50


def test_what_is_known_of_the_callers_engine_ends_with_it(url):
    engine = sa.create_engine(url)
    store = SQLStore(client=engine)
    store.append("s", [HumanMessage("x")])
    engine.dispose()
    gone = weakref.ref(engine)
    del engine, store
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("FATAL:  sorry, too many clients already", "lower max_connections"),
        (
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
            "lower max_connections",
        ),
        ('FATAL:  too many connections for database "d"', "lower max_connections"),
        ("FATAL:  no more connections allowed (max_client_conn)", "lower max_connections"),
        ("(1040, 'Too many connections')", "lower max_connections"),
        ("QueuePool limit of size 15 overflow 0 reached, connection timed out, timeout 10.00", "raise max_connections"),
        ('FATAL:  password authentication failed for user "u"', "Check the user"),
        ("connection timeout expired", "Is the server running"),
    ],
)
def test_why_there_is_no_connection(says, told, monkeypatch):
    def connect(*_, **__):
        raise sa.exc.OperationalError("", None, Exception(says))

    store = SQLStore("postgresql+psycopg://u@127.0.0.1:1/d")
    monkeypatch.setattr(sa.Engine, "connect", connect)
    with pytest.raises(StoreUnavailableError, match=told):
        store.read("s")
