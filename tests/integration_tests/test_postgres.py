"""The tables in JSONB of LangChain's classes for PostgreSQL, and connections of psycopg."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import json
import re
import uuid
import weakref

import psycopg
import psycopg_pool
import pytest
import sqlalchemy as sa
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langchain_postgres import PostgresChatMessageHistory as Theirs
from psycopg.rows import dict_row
from servers import BUSY, WRONG_PASSWORD

from langchain_histories import (
    Capability,
    ConfigurationError,
    InvalidMessageError,
    PostgresChatMessageHistory,
    SQLStore,
    StoreError,
    StoreUnavailableError,
)
from langchain_histories.testing import MessageStoreTests


class JsonbTests(MessageStoreTests):
    capabilities = ~Capability(0)
    scheme: str
    is_googles = False

    @pytest.fixture
    def server(self, postgres_server):
        return postgres_server

    @pytest.fixture
    def open_store(self, server):
        return functools.partial(
            SQLStore, server.url_with(scheme=self.scheme), table_name=new_name(), jsonb=True, timeout=BUSY
        )

    @pytest.fixture
    def unreachable_store(self, server):
        return SQLStore(server.url_with(scheme=self.scheme, port=1), jsonb=True)

    @pytest.fixture
    def wrong_password_store(self, server):
        return SQLStore(server.url_with(scheme=self.scheme, password=WRONG_PASSWORD), jsonb=True)

    def traces(self, store):
        found = []
        for name in (store.table_name, f"{store.table_name}_state"):
            with store.client.connect() as connection:
                rows = connection.execute(sa.text(f"SELECT session_id FROM {name} ORDER BY id"))
                found += [f"{name} {key}" for (key,) in rows]
        return found

    def places(self, store):
        seen = sa.inspect(store.client)
        tables = [name for name in seen.get_table_names() if name.startswith(store.table_name)]
        return sorted(tables + [str(index["name"]) for name in tables for index in seen.get_indexes(name)])

    def foreign_rows(self, store, session_id):
        deep = f'{{"type": "human", "data": {"[" * 3000}{"]" * 3000}, "meta": {{"escaped": "␀"}}}}'
        values = ["5", "null", '"text"', "[]", "{}", "[[1]]", '{"meta": {"escaped": "␀"}}', '{"meta": "␀"}', deep]
        values += ['{"lh:row": 5}', '{"lh:meta": 5}', '{"lh:meta": {"escaped": "␀"}, "a": "␀zzzz"}', "1e3000"]
        columns, row = (
            ("data, type", "CAST(:value AS jsonb), ''") if self.is_googles else ("message", "CAST(:value AS jsonb)")
        )
        insert = f"INSERT INTO {store.table_name} (session_id, {columns}) VALUES (:session, {row})"

        def leave(value):
            with store.client.begin() as connection:
                connection.execute(sa.text(insert), {"session": session_id, "value": value})

        return [functools.partial(leave, value) for value in values]


class TestJsonb(JsonbTests):
    scheme = "postgresql+psycopg"


class TestGooglesTable(JsonbTests):
    """The table that langchain-google-alloydb-pg and langchain-google-cloud-sql-pg make."""

    scheme = "postgresql+asyncpg"
    is_googles = True
    # It looks for passwords and certificates in the file system when it connects.
    driver_blocks_in = (("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args"),)

    @pytest.fixture
    def open_store(self, server):
        name = new_name()
        with sa.create_engine(server.url_with(scheme="postgresql+psycopg")).begin() as connection:
            connection.execute(
                sa.text(
                    f"CREATE TABLE {name} "
                    "(id SERIAL PRIMARY KEY, session_id TEXT NOT NULL, data JSONB NOT NULL, type TEXT NOT NULL)"
                )
            )
        return functools.partial(SQLStore, server.url_with(scheme=self.scheme), table_name=name, timeout=BUSY)


# What JSONB refuses or changes, and what could be taken for an escape of it.
odd_texts = st.lists(
    st.text(st.characters(), max_size=5)
    | st.sampled_from(["\0", "\ud83d", "\ude00", "␀", "␀0000", "␀2400", "\\u0000", "\\", "lh:type", "1e22", "escaped"]),
    max_size=4,
).map("".join)
odd_numbers = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1e22, -0.0, 0.0, 5e-324, 1e308, 1e16, 1e-7, 100.0, 10**40, -(10**40), 2**63, 0])
    | st.integers()
)
odd_values = st.recursive(
    odd_texts | odd_numbers | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("kind", [TestJsonb, TestGooglesTable])
def test_jsonb_changes_nothing(postgres_server, kind):
    table = new_name()
    if kind is TestGooglesTable:
        execute(postgres_server.url, f"CREATE TABLE {table} (id SERIAL, session_id TEXT, data JSONB, type TEXT)")

    def exact(messages):
        """Their values with types, signs and NULs, whatever the order of keys, as JSON can tell them apart."""
        return [json.dumps(json.loads(json.dumps(message.model_dump())), sort_keys=True) for message in messages]

    @settings(max_examples=200, deadline=None)
    @given(
        odd_texts,
        st.dictionaries(odd_texts, odd_values, max_size=4),
        st.none() | odd_texts,
        st.dictionaries(st.sampled_from(["lh:row", "lh:meta", "meta", "escaped"]), odd_texts, max_size=2),
    )
    def check(content, values, name, extra):
        # Refused: JSON would make one character of the two.
        assume(
            not re.search(
                "[\ud800-\udbff][\udc00-\udfff]", json.dumps([content, values, name, extra], ensure_ascii=False)
            )
        )
        messages = [
            HumanMessage(content, name=name, additional_kwargs=values, **extra),
            AIMessage([{"type": "x", "v": values}]),
        ]
        store.replace("s", messages)
        assert exact(store.read("s")) == exact(messages)

    with SQLStore(postgres_server.url_with(scheme="postgresql+psycopg"), table_name=table, jsonb=True) as store:
        check()


def new_name():
    return f"t{uuid.uuid4().hex}"


@pytest.fixture
def name():
    return new_name()


@pytest.fixture
def dsn(postgres_server):
    return postgres_server.url


@pytest.fixture
def connection(dsn):
    with psycopg.connect(dsn) as connection:
        yield connection


def execute(dsn, statement):
    """Run a statement on a connection of its own, which sees what is committed."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else None


def texts(messages):
    return [message.content for message in messages]


def status(connection):
    return connection.info.transaction_status.name


SESSION = str(uuid.UUID(int=0xABC))


# Beside langchain-postgres.


@pytest.mark.parametrize("who_makes_it", ["ours", "theirs"])
def test_both_read_and_write_one_table(dsn, connection, name, who_makes_it):
    {"ours": PostgresChatMessageHistory, "theirs": Theirs}[who_makes_it].create_tables(connection, name)
    mine = PostgresChatMessageHistory(name, SESSION, sync_connection=connection)
    other = Theirs(name, SESSION, sync_connection=connection)
    messages = [
        HumanMessage("héllo 👍", id="1"),
        AIMessage("yes", tool_calls=[{"name": "f", "args": {"bb": 1, "a": 2}, "id": "c"}]),
    ]
    other.add_messages(messages)
    assert mine.messages == messages
    mine.add_messages(messages)
    other.add_messages(messages[:1])
    assert mine.messages == other.messages == [*messages, *messages, messages[0]]
    assert all(at is not None for (at,) in execute(dsn, f"SELECT created_at FROM {name}"))
    assert PostgresChatMessageHistory(name, str(uuid.uuid4()), sync_connection=connection).messages == []
    mine.clear()
    assert other.messages == []


def test_their_table_sees_only_uuids(connection, name):
    Theirs.create_tables(connection, name)
    other = Theirs(name, SESSION, sync_connection=connection)
    other.add_user_message("x")
    for spelling in (SESSION, SESSION.upper(), "{" + SESSION + "}", uuid.UUID(SESSION)):
        history = PostgresChatMessageHistory(name, spelling, sync_connection=connection)
        history.store.put_state(str(history.session_id), {"a": 1})
        assert texts(history.messages) == ["x"]
        assert history.store.get_state(SESSION) == {"a": 1}
    store = history.store
    assert [(info.session_id, info.count) for info in store.sessions()] == [(SESSION, 1)]
    stranger = PostgresChatMessageHistory(name, "user-1", sync_connection=connection)
    for call in (
        lambda: stranger.messages,
        lambda: stranger.add_user_message("x"),
        stranger.clear,
        lambda: stranger.store.count("user-1"),
        lambda: stranger.store.replace("user-1", []),
        lambda: stranger.store.put_state("user-1", {}),
        lambda: stranger.store.get_state("user-1"),
    ):
        with pytest.raises(ConfigurationError, match="holds UUIDs, and the session id 'user-1' is none"):
            call()
    assert store.erase(user_id="user-1") == 0
    assert texts(history.messages) == ["x"]
    PostgresChatMessageHistory(name, SESSION.upper(), sync_connection=connection).clear()
    assert other.messages == []
    assert store.get_state(SESSION) is None


def test_our_table_takes_any_session_id(dsn, connection, name):
    PostgresChatMessageHistory.create_tables(connection, name)
    assert execute(dsn, f"SELECT count(*) FROM {name}") == [(0,)]  # it is committed
    PostgresChatMessageHistory(name, "user-1", sync_connection=connection).add_user_message("x")
    assert execute(dsn, f"SELECT session_id, message ->> 'type' FROM {name}") == [("user-1", "human")]
    PostgresChatMessageHistory.drop_table(connection, name)
    assert execute(dsn, f"SELECT to_regclass('{name}'), to_regclass('{name}_state')") == [(None, None)]


def test_a_table_that_was_dropped_is_made_anew(connection, name):
    for _ in range(2):
        PostgresChatMessageHistory.drop_table(connection, name)
        history = PostgresChatMessageHistory(name, "s", sync_connection=connection)
        history.add_user_message("x")
        assert texts(history.messages) == ["x"]


async def test_the_async_methods_of_langchain_postgres(dsn, name):
    connection = await psycopg.AsyncConnection.connect(dsn)
    async with connection:
        await PostgresChatMessageHistory.acreate_tables(connection, name)
        history = PostgresChatMessageHistory(name, SESSION, async_connection=connection)
        await asyncio.gather(*(history.aadd_messages([HumanMessage(f"{n}"), AIMessage(f"{n}")]) for n in range(20)))
        read = texts(await history.aget_messages())
        assert sorted(read, key=int) == [f"{n // 2}" for n in range(40)]
        assert read[::2] == read[1::2]
        assert await Theirs(name, SESSION, async_connection=connection).aget_messages() == await history.aget_messages()
        assert status(connection) == "INTRANS"  # theirs left it so
        await connection.rollback()
        await history.aget_messages()
        assert status(connection) == "IDLE"
        with pytest.raises(ConfigurationError, match="async client alone"):
            _ = history.messages
        await history.aclear()
        assert await history.aget_messages() == []
        await PostgresChatMessageHistory.adrop_table(connection, name)
        assert execute(dsn, f"SELECT to_regclass('{name}')") == [(None,)]


def test_the_messages_can_be_assigned(connection, name):
    history = PostgresChatMessageHistory(name, "s", sync_connection=connection)
    history.messages = [HumanMessage("a"), HumanMessage("b")]
    with pytest.raises(InvalidMessageError):
        history.messages = [HumanMessage("c"), 5]
    assert texts(history.messages) == ["a", "b"]


# The caller's connection.


def test_a_connection_is_used_as_it_is(dsn, connection, name):
    history = PostgresChatMessageHistory(name, "s", sync_connection=connection)
    history.add_user_message("x")
    assert status(connection) == "IDLE"
    assert texts(history.messages) == ["x"]
    assert status(connection) == "IDLE"
    assert execute(dsn, f"SELECT count(*) FROM {name}") == [(1,)]
    connection.row_factory, connection.cursor_factory = dict_row, psycopg.RawCursor
    connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    assert texts(history.messages) == ["x"]
    history.store.replace("s", [HumanMessage("y")])
    connection.autocommit = True
    history.add_user_message("z")
    history.store.close()
    assert texts(history.messages) == ["y", "z"]
    assert (connection.autocommit, connection.row_factory) == (True, dict_row)
    assert connection.isolation_level == psycopg.IsolationLevel.SERIALIZABLE
    assert not connection.closed


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_transaction_of_the_callers_is_the_callers(dsn, connection, name, end):
    execute(dsn, f"CREATE TABLE own_{name} (x int)")
    history = PostgresChatMessageHistory(name, "s", sync_connection=connection)
    history.add_user_message("before")
    connection.execute(f"INSERT INTO own_{name} VALUES (1)")
    history.add_user_message("within")
    history.store.replace("t", [HumanMessage("within")])
    assert texts(history.messages) == ["before", "within"]
    with pytest.raises(InvalidMessageError):
        history.add_messages([HumanMessage("never"), "no message"])
    assert status(connection) == "INTRANS"
    assert execute(dsn, f"SELECT count(*) FROM own_{name}") == [(0,)]
    assert execute(dsn, f"SELECT count(*) FROM {name}") == [(1,)]
    getattr(connection, end)()
    assert execute(dsn, f"SELECT count(*) FROM own_{name}") == [(1 if end == "commit" else 0,)]
    assert texts(history.messages) == (["before", "within"] if end == "commit" else ["before"])


async def test_an_async_transaction_of_the_callers_is_the_callers(dsn, name):
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        history = PostgresChatMessageHistory(name, "s", async_connection=connection)
        await history.aadd_messages([HumanMessage("before")])
        async with connection.transaction(force_rollback=True):
            await history.aadd_messages([HumanMessage("within")])
            await history.store.areplace("t", [HumanMessage("within")])
            assert texts(await history.aget_messages()) == ["before", "within"]
            assert execute(dsn, f"SELECT count(*) FROM {name}") == [(1,)]
        assert texts(await history.aget_messages()) == ["before"]


def test_tables_made_in_a_transaction_that_is_rolled_back(connection, name):
    history = PostgresChatMessageHistory(name, "s", sync_connection=connection)
    connection.execute("SELECT 1")
    history.add_user_message("gone")
    assert texts(history.messages) == ["gone"]
    connection.rollback()
    history.add_user_message("kept")
    assert texts(history.messages) == ["kept"]


def test_a_failing_add_does_not_poison_the_connection(dsn, connection, name):
    history = PostgresChatMessageHistory(name, "s", sync_connection=connection)
    history.add_user_message("x")
    execute(dsn, f"ALTER TABLE {name} ADD CHECK (message -> 'data' ->> 'content' <> 'refused')")
    for statement in (None, "SELECT 1"):
        if statement:
            connection.execute(statement)
        with pytest.raises(StoreError):
            history.add_messages([HumanMessage("first"), HumanMessage("refused")])
        assert status(connection) == ("INTRANS" if statement else "IDLE")
        assert texts(history.messages) == ["x"]
        history.add_user_message("nul \0")
        connection.commit()
        history.store.delete("s", [record.id for record in history.store.records("s", last=1)])


async def test_a_failing_add_does_not_poison_an_async_connection(dsn, name):
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        history = PostgresChatMessageHistory(name, "s", async_connection=connection)
        await history.aadd_messages([HumanMessage("x")])
        execute(dsn, f"ALTER TABLE {name} ADD CHECK (message -> 'data' ->> 'content' <> 'refused')")
        with pytest.raises(StoreError):
            await history.aadd_messages([HumanMessage("first"), HumanMessage("refused")])
        assert status(connection) == "IDLE"
        assert texts(await history.aget_messages()) == ["x"]


async def test_a_cancelled_append_is_stored_whole_or_not_at_all(dsn, name):
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        history = PostgresChatMessageHistory(name, "s", async_connection=connection)
        await history.aadd_messages([HumanMessage("x")])
        for wait in range(60):
            task = asyncio.ensure_future(history.aadd_messages([HumanMessage("a"), HumanMessage("b")]))
            for _ in range(wait):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert status(connection) == "IDLE"
        assert (await history.store.acount("s")) % 2 == 1
        await history.aadd_messages([HumanMessage("y")])


def test_a_connection_that_is_closed(dsn, name):
    connection = psycopg.connect(dsn)
    history = PostgresChatMessageHistory(name, "s", sync_connection=connection)
    history.add_user_message("x")
    execute(dsn, f"SELECT pg_terminate_backend({connection.info.backend_pid})")
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            history.add_user_message("y")
        connection.close()


def test_threads_take_turns_on_a_connection(connection, name):
    def work(number):
        # Tables of other names are on the same connection.
        history = PostgresChatMessageHistory(f"{name}_{number % 2}", "s", sync_connection=connection)
        for _ in range(10):
            history.add_messages([HumanMessage(f"{number}"), AIMessage(f"{number}")])
            history.store.replace(f"s{number}", history.get_messages(last=2))
        asyncio.run(history.aadd_messages([HumanMessage(f"{number}"), AIMessage(f"{number}")]))

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    for table in range(2):
        read = texts(PostgresChatMessageHistory(f"{name}_{table}", "s", sync_connection=connection).messages)
        assert len(read) == 66
        assert read[::2] == read[1::2]
    assert status(connection) == "IDLE"


def test_histories_on_a_connection_end_with_it(dsn, name):
    connection = psycopg.connect(dsn)
    PostgresChatMessageHistory(name, "s", sync_connection=connection).add_user_message("x")
    one, two = (PostgresChatMessageHistory(name, "s", sync_connection=connection).store for _ in range(2))
    assert one.client is two.client
    assert one.operations.found is two.operations.found
    connection.close()
    gone = weakref.ref(connection)
    del connection, one, two
    gc.collect()
    assert gone() is None


def test_a_shared_store_on_a_connection(connection, name):
    with SQLStore(client=connection, table_name=name) as store:
        store.append("s", [HumanMessage("x")])
        assert store.read("s") == [HumanMessage("x")]
        assert repr(store) == "SQLStore('postgresql+psycopg://')"
    assert not connection.closed


# Pools of the caller's.


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_pool_of_the_callers(dsn, name, autocommit):
    with psycopg_pool.ConnectionPool(
        dsn, min_size=1, max_size=3, timeout=30, kwargs={"autocommit": autocommit, "row_factory": dict_row}
    ) as pool:
        stores = [PostgresChatMessageHistory(name, "s", sync_connection=pool).store, SQLStore(client=pool)]
        stores[1] = SQLStore(client=pool, table_name=name)
        assert stores[0].client is stores[1].client

        def turns(number):
            for _ in range(5):
                stores[number % 2].append(f"s{number}", [HumanMessage("q"), AIMessage("a")])
                assert len(stores[number % 2].read(f"s{number}", last=2)) == 2

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            list(threads.map(turns, range(8)))
        assert [stores[1].count(f"s{number}") for number in range(8)] == [10] * 8
        assert asyncio.run(stores[1].acount("s0")) == 10
        for store in stores:
            store.close()
        stats = pool.get_stats()
        assert (stats["pool_size"], stats["pool_available"], stats["requests_waiting"]) == (
            stats["pool_size"],
            stats["pool_size"],
            0,
        )
        with pool.connection() as connection:
            assert status(connection) == "IDLE"


async def test_an_async_pool_of_the_callers(dsn, name):
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=3, timeout=30, open=False) as pool:
        history = PostgresChatMessageHistory(name, "s", async_connection=pool)
        store = SQLStore(async_client=pool, table_name=name)

        async def turns(number):
            await store.aappend(f"s{number}", [HumanMessage("q"), AIMessage("a")])
            return await store.acount(f"s{number}")

        assert await asyncio.gather(*(turns(number) for number in range(30))) == [2] * 30
        await history.aadd_messages([HumanMessage("x")])
        assert texts(await store.aread("s")) == ["x"]
        with pytest.raises(ConfigurationError, match="async"):
            store.read("s")
        await store.aclose()
        stats = pool.get_stats()
        assert stats["pool_available"] == stats["pool_size"]


def test_a_pool_that_has_no_connection_to_give(dsn, name):
    with psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=1, timeout=0.2) as pool:
        pool.wait()  # to connect takes longer than that on a busy machine
        store = SQLStore(client=pool, table_name=name)
        store.append("s", [HumanMessage("x")])
        with pool.connection(), pytest.raises(StoreUnavailableError):
            store.read("s")
        assert texts(store.read("s")) == ["x"]
    with pytest.raises(StoreUnavailableError):  # it is closed
        store.read("s")


def test_a_pool_gives_another_connection_for_one_that_was_cut(dsn, postgres_server, name):
    with psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=1, timeout=30) as pool:
        store = SQLStore(client=pool, table_name=name)
        store.append("s", [HumanMessage("x")])
        with pool.connection() as connection:
            pid = connection.info.backend_pid
        execute(postgres_server.admin_url, f"SELECT pg_terminate_backend({pid})")
        assert texts(store.read("s")) == ["x"]


# Beside langchain-community.


@pytest.mark.filterwarnings("ignore")
def test_the_arguments_of_langchain_community(dsn, name, caplog):
    from langchain_community.chat_message_histories import PostgresChatMessageHistory as Community

    theirs = Community("user-1", dsn, name)
    theirs.add_messages([HumanMessage("héllo", additional_kwargs={"bb": 1, "a": 2}), AIMessage("b")])
    user, password, host, port, database = (
        (found := psycopg.conninfo.conninfo_to_dict(dsn))[key] for key in ("user", "password", "host", "port", "dbname")
    )
    forms = [
        dsn,
        dsn.replace("postgresql://", "postgres://") + "?connect_timeout=10",
        dsn.replace("postgresql://", "postgresql+asyncpg://"),
        f"host={host} port={port} user={user} password={password} dbname={database} application_name='a b'",
        f"postgresql://{user}:{password}@{host}:1,{host}:{port}/{database}",
    ]
    assert found
    for form in forms:
        history = PostgresChatMessageHistory(session_id="user-1", connection_string=form, table_name=name)
        assert history.messages == theirs.messages
        assert asyncio.run(history.aget_messages()) == theirs.messages
        assert password not in repr(history)
        history.store.close()
    history = PostgresChatMessageHistory("user-1", dsn, table_name=name)
    history.add_messages([HumanMessage("nul \0"), HumanMessage("c")])
    assert texts(theirs.messages) == ["héllo", "b", "nul ␀0000", "c"]
    assert texts(history.messages) == ["héllo", "b", "nul \0", "c"]
    assert PostgresChatMessageHistory("user-1", dsn, table_name=name).store.client is history.store.client


def test_a_socket_in_the_arguments_of_langchain_community(postgres_server, name):
    with psycopg.connect(postgres_server.admin_url) as connection:
        ((folder,),) = connection.execute("SHOW unix_socket_directories")
    options = psycopg.conninfo.conninfo_to_dict(postgres_server.url) | {"host": folder}
    quoted = folder.replace("/", "%2F")
    for form in (
        psycopg.conninfo.make_conninfo("", **options),
        f"postgresql://{options['user']}:{options['password']}@{quoted}:{options['port']}/{options['dbname']}",
    ):
        history = PostgresChatMessageHistory("s", form, table_name=name)
        history.add_user_message("x")
        with history.store.client.connect() as connection:
            assert connection.connection.driver_connection.info.host == folder
        history.store.close()
    assert texts(PostgresChatMessageHistory("s", postgres_server.url, table_name=name).messages) == ["x", "x"]


def test_a_table_name_is_no_sql(dsn, connection, name):
    victim = f"v{name[:12]}"
    execute(dsn, f"CREATE TABLE {victim} (x int)")
    for odd in (f"v(x int); DROP TABLE {victim};--", "Mixed Case", "ch\n"):
        PostgresChatMessageHistory("s", dsn, table_name=odd).add_user_message("x")
        assert texts(PostgresChatMessageHistory(odd, "s", sync_connection=connection).messages) == ["x"]
        PostgresChatMessageHistory.drop_table(connection, odd)
    assert execute(dsn, f"SELECT count(*) FROM {victim}") == [(0,)]
