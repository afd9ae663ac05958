"""A `Connection` or `Session` of SQLAlchemy of the caller's: what is stored in its transaction lasts when it commits."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import uuid

import psycopg
import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage
from servers._proxy import Proxy
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from langchain_histories import (
    ConfigurationError,
    DefaultMessageConverter,
    SQLChatMessageHistory,
    SQLStore,
    StoreError,
    StoreUnavailableError,
    UnsupportedOperationError,
)

TURN = [HumanMessage("q"), AIMessage("a")]
SCHEMES = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql+psycopg": "postgresql+psycopg",
    "postgresql+psycopg2": "postgresql+asyncpg",
    "mysql+pymysql": "mysql+aiomysql",
}
TRANSACTIONAL = [scheme for scheme in SCHEMES if not scheme.startswith("mysql")]


def texts(messages):
    return [message.content for message in messages]


@pytest.fixture
def name():
    return f"t{uuid.uuid4().hex}"


def url_of(request, scheme, tmp_path):
    if scheme.startswith("sqlite"):
        return f"{scheme}:///{tmp_path}/chat.db"
    server = request.getfixturevalue("postgres_server" if scheme.startswith("postgresql") else "mariadb_server")
    return server.url_with(scheme=scheme)


@pytest.fixture(params=SCHEMES)
def scheme(request):
    return request.param


@pytest.fixture
def engine(request, scheme, tmp_path):
    engine = sa.create_engine(url_of(request, scheme, tmp_path))
    yield engine
    engine.dispose()


@contextlib.asynccontextmanager
async def async_engine(request, scheme, tmp_path):
    engine = create_async_engine(url_of(request, SCHEMES[scheme], tmp_path))
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("scheme", TRANSACTIONAL, indirect=True)
@pytest.mark.parametrize("kind", ["Connection", "Session", "scoped_session"])
@pytest.mark.parametrize("is_made_before", [True, False])
def test_a_transaction_is_the_callers(engine, name, kind, is_made_before):
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE TABLE {name}_rows (n INTEGER)"))
    if is_made_before:
        SQLStore(client=engine, table_name=name).setup()

    def given():
        if kind == "Connection":
            return engine.connect()
        return Session(engine) if kind == "Session" else scoped_session(sessionmaker(engine))

    for ends_with in ("rollback", "commit", "an error and commit"):
        client = given()
        if kind == "Connection":
            client.begin()
        store = SQLStore(client=client, table_name=name)
        client.execute(sa.text(f"INSERT INTO {name}_rows VALUES (1)"))
        store.append("s", TURN)
        store.put_state("s", {"by": ends_with})
        if "error" in ends_with:
            with pytest.raises(StoreError):
                store.run("fail", fail)
        store.replace("s", [*store.read("s"), HumanMessage(ends_with)])
        assert texts(store.read("s"))[-3:] == ["q", "a", ends_with]
        assert store.get_state("s") == {"by": ends_with}
        assert (client() if kind == "scoped_session" else client).in_transaction()
        client.rollback() if ends_with == "rollback" else client.commit()
        client.close()
    others = SQLStore(client=engine, table_name=name)
    assert texts(others.read("s")) == ["q", "a", "commit", "q", "a", "an error and commit"]
    assert others.get_state("s") == {"by": "an error and commit"}
    with engine.connect() as connection:
        assert connection.execute(sa.text(f"SELECT count(*) FROM {name}_rows")).scalar() == 2


async def fail(engine):
    async with engine.connect() as connection:
        await connection.execute(sa.text("SELECT no_such_column FROM no_such_table"))


def test_a_connection_without_a_transaction(engine, name):
    with engine.connect() as connection:
        store = SQLStore(client=connection, table_name=name)
        store.append("s", TURN)
        store.append("s", [HumanMessage(str(number)) for number in range(300)])
        store.put_state("s", {"a": 1})
        assert store.read("s", last=1)[0].content == "299"
        store.replace("s", TURN)
        assert not connection.in_transaction()
        assert SQLStore(client=engine, table_name=name).count("s") == 2
        assert asyncio.run(store.acount("s")) == 2
        with pytest.raises(StoreError) as caught:
            store.run("fail", fail)
        assert not connection.in_transaction()
        store.close()
        assert connection.execute(sa.text("SELECT 1")).scalar() == 1
        assert caught.value


@pytest.mark.parametrize("kind", ["AsyncConnection", "AsyncSession", "async_scoped_session"])
@pytest.mark.parametrize("scheme", TRANSACTIONAL, indirect=True)
async def test_an_async_transaction_is_the_callers(request, scheme, tmp_path, name, kind):
    async with async_engine(request, scheme, tmp_path) as engine:
        for is_kept in (False, True):
            if kind == "AsyncConnection":
                client = await engine.connect()
                await client.begin()
            elif kind == "AsyncSession":
                client = AsyncSession(engine)
            else:
                client = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
            history = SQLChatMessageHistory("s", table_name=name, connection=client)
            await history.aadd_messages(TURN)
            assert texts(await history.aget_messages()) == ["q", "a"]
            await (client.commit() if is_kept else client.rollback())
            await client.close()
        assert texts(await SQLStore(async_client=engine, table_name=name).aread("s")) == ["q", "a"]
        async with engine.connect() as connection:
            store = SQLStore(async_client=connection, table_name=name)
            await asyncio.gather(*(store.aappend("s", TURN) for _ in range(5)))
            assert not connection.in_transaction()
            assert await store.acount("s") == 12
        with pytest.raises(ConfigurationError, match="not connected"):
            SQLStore(async_client=engine.connect())


@pytest.mark.parametrize("scheme", ["mysql+pymysql"], indirect=True)
def test_mysqls_locks_would_end_too_early(engine, name):
    with SQLStore(client=engine, table_name=name) as store:
        store.append("s", TURN)
    with engine.connect() as connection, connection.begin(), Session(engine) as session:
        for client in (connection, session):
            store = SQLStore(client=client, table_name=name)
            assert texts(store.read("s")) == ["q", "a"]
            for call in (
                lambda store=store: store.append("s", TURN),
                lambda store=store: store.append("s", TURN * 200),
                lambda store=store: store.put_state("s", {"a": 1}),
                lambda store=store: store.clear("s"),
                lambda store=store: store.replace("s", TURN),
                lambda client=client: SQLStore(client=client, table_name=f"{name}x").append("s", TURN),
            ):
                with pytest.raises(UnsupportedOperationError, match="commit"):
                    call()
        assert connection.in_transaction()


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql+psycopg2"], indirect=True)
def test_a_connection_that_commits_by_itself(engine, name):
    for own in (
        engine.execution_options(isolation_level="AUTOCOMMIT"),
        sa.create_engine(engine.url, isolation_level="AUTOCOMMIT"),
    ):
        with own.connect() as connection, pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            SQLStore(client=connection, table_name=name).append("s", TURN)


@pytest.mark.parametrize("scheme", TRANSACTIONAL, indirect=True)
def test_a_converter_in_a_transaction_of_the_callers(engine, name):
    for is_kept in (False, True):
        with Session(engine) as session:
            history = SQLChatMessageHistory(
                "s", connection=session, custom_message_converter=DefaultMessageConverter(name)
            )
            history.add_messages(TURN)
            assert texts(history.messages) == ["q", "a"]
            assert history.engine is engine
            session.commit() if is_kept else session.rollback()
    assert texts(SQLChatMessageHistory("s", name, connection=engine).messages) == ["q", "a"]


def test_errors_do_not_show_messages(engine, name):
    with engine.connect() as connection:
        store = SQLStore(client=connection, table_name=name)
        store.append("s", TURN)
        connection.execute(sa.text(f"ALTER TABLE {name} RENAME COLUMN message TO other"))
        connection.commit()
        with pytest.raises(StoreError) as caught:
            store.append("s", [HumanMessage("a very private thing")])
        assert "a very private" not in str(caught.value.__cause__)


@pytest.mark.parametrize("scheme", TRANSACTIONAL, indirect=True)
def test_threads_take_turns_on_a_connection(engine, name):
    with engine.connect() as connection, concurrent.futures.ThreadPoolExecutor(4) as threads:
        stores = [SQLStore(client=connection, table_name=name) for _ in range(4)]
        list(threads.map(lambda store: [store.append("s", TURN) for _ in range(5)], stores))
        assert stores[0].count("s") == 40


def test_a_session_without_an_engine():
    with pytest.raises(ConfigurationError, match="bound to no engine"):
        SQLStore(client=Session())


CUT = {
    "postgresql+psycopg": ("Connection", "Session", "psycopg"),
    "postgresql+psycopg2": ("Connection",),
    "mysql+pymysql": ("Connection",),
    "async postgresql+psycopg": ("AsyncConnection", "AsyncSession", "psycopg"),
    "async postgresql+asyncpg": ("AsyncConnection",),
}


@pytest.mark.parametrize(("scheme", "kind"), [(scheme, kind) for scheme, kinds in CUT.items() for kind in kinds])
async def test_a_connection_that_is_cut_in_a_transaction_of_the_callers(request, scheme, kind, name):
    """Nothing is tried again, because what came before in the transaction is gone too; and the error says so."""
    is_async, scheme = scheme.startswith("async"), scheme.removeprefix("async ")
    server = request.getfixturevalue("postgres_server" if scheme.startswith("postgresql") else "mariadb_server")
    await SQLStore(server.url_with(scheme=scheme), table_name=name).asetup()
    with Proxy(server.port) as proxy:
        url = server.url_with(scheme=scheme, port=proxy.port)
        client, store = await lent(url, kind, name, is_async=is_async)

        async def call(what, *args):
            found = getattr(store, f"a{what}" if is_async else what)(*args)
            return await found if is_async else found

        calls = [("read",), ("append", TURN)] if scheme.startswith("postgresql") else [("read",)]
        for what, *args in calls:
            assert await call("read", "s") == []
            proxy.cut()
            await asyncio.sleep(0.02)
            proxy.accepted = 0
            with pytest.raises(StoreUnavailableError, match="transaction of yours") as caught:
                await call(what, "s", *args)
            assert "may have been stored" not in str(caught.value)
            assert "tried again" in str(caught.value)
            assert proxy.accepted == 0
            if kind == "psycopg":
                return
            found = client.rollback()
            if is_async:
                await found
            if kind.endswith("Connection"):
                found = client.begin()
                if is_async:
                    await found
        assert await call("read", "s") == []
        found = client.close()
        if is_async:
            await found


async def lent(url, kind, name, *, is_async):
    """A client of the caller's in a transaction, and a store over it."""
    if kind == "psycopg":
        url = url.replace("+psycopg", "")
        if is_async:
            client = await psycopg.AsyncConnection.connect(url)
            await client.execute("SELECT 1")
        else:
            client = psycopg.connect(url)
            client.execute("SELECT 1")
    elif is_async:
        engine = create_async_engine(url)
        client = AsyncSession(engine) if kind == "AsyncSession" else await engine.connect()
        if kind == "AsyncConnection":
            await client.begin()
    else:
        engine = sa.create_engine(url)
        client = Session(engine) if kind == "Session" else engine.connect()
        if kind == "Connection":
            client.begin()
    options = {"async_client" if is_async else "client": client}
    return client, SQLStore(table_name=name, **options)
