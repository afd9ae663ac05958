"""The SQL store on real servers: PostgreSQL and MariaDB, and SQLite through the conformance kit."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import os
import random
import sqlite3
import threading
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from behind import Quiet
from langchain_core.messages import AIMessage, HumanMessage
from servers import BUSY, WRONG_PASSWORD
from sqlalchemy.ext.asyncio import create_async_engine

from langchain_histories import (
    Capability,
    ConfigurationError,
    DefaultMessageConverter,
    RecordTooLargeError,
    SQLChatMessageHistory,
    SQLStore,
    StoreError,
    StoreUnavailableError,
)
from langchain_histories.stores.sql import sqlite_files
from langchain_histories.stores.sql.layout import Layout
from langchain_histories.stores.sql.operations import SQLOperations
from langchain_histories.testing import MessageStoreTests, golden_messages


def tables_and_indexes(store):
    """Those of a store, and what begins with their names."""
    seen = sa.inspect(store.client)
    tables = [name for name in seen.get_table_names() if name.startswith(store.table_name)]
    return sorted(tables + [str(index["name"]) for name in tables for index in seen.get_indexes(name)])


class SQLStoreTests(MessageStoreTests):
    capabilities = ~Capability(0)

    def places(self, store):
        return tables_and_indexes(store)

    def traces(self, store):
        found = []
        for name in tables_and_indexes(store):
            if name not in {store.table_name + end for end in ("", "_state", "_expiry")}:
                continue
            with store.client.connect() as connection:
                rows = connection.execute(sa.text(f"SELECT session_id FROM {name} ORDER BY id"))
                found += [f"{name} {key}" for (key,) in rows]
        return found

    foreign = ("NULL", "''", "'5'")
    """What a column of text takes, in SQL."""

    def foreign_rows(self, store, session_id):
        insert = "INSERT INTO {} (session_id, message) VALUES ('{}', {})"
        statements = [insert.format(store.table_name, session_id, value) for value in self.foreign]
        return [functools.partial(execute, store.client, statement) for statement in statements]

    def broken_sessions(self, store, session_id):
        update = "UPDATE {}_state SET state = {} WHERE session_id = '{}'"
        # The column of states takes no NULL.
        foreign = [value for value in self.foreign if value != "NULL"]
        statements = [update.format(store.table_name, value, session_id) for value in foreign]
        return [functools.partial(execute, store.client, statement) for statement in statements]


class Careless(sqlite3.Connection):
    """A connection of an SQLite that does not overwrite what is removed unless it is told to, as Debian's does."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.execute("PRAGMA secure_delete=OFF")


class TestSQLiteFile(SQLStoreTests):
    capabilities = ~Capability.NATIVE_ASYNC
    # Its columns take values of any type.
    foreign = (*SQLStoreTests.foreign, "5", "0.5", "x'ff'", "CAST(x'ff' AS TEXT)", "CAST(x'7bff7d' AS TEXT)", "x''")

    @pytest.fixture(autouse=True)
    def careless(self, monkeypatch):
        monkeypatch.setattr(sqlite_files, "sqlite3", SimpleNamespace(Connection=Careless))

    def files(self, store):
        place = Path(store.client.url.database)
        return sorted(place.parent.glob(f"{place.name}*"))

    def places(self, store):
        return list(map(str, self.files(store)))

    @pytest.fixture
    def open_store(self, tmp_path):
        return functools.partial(SQLStore, f"sqlite:///{tmp_path}/histories.db", timeout=BUSY)

    @pytest.fixture
    def unreachable_store(self, tmp_path):
        return SQLStore(f"sqlite:///{tmp_path}/no/such/folder/histories.db")


class ServerTests(SQLStoreTests):
    scheme: str

    @pytest.fixture
    def open_store(self, server):
        return functools.partial(SQLStore, server.url_with(scheme=self.scheme), table_name=new_name(), timeout=BUSY)

    @pytest.fixture
    def unreachable_store(self, server):
        return SQLStore(server.url_with(scheme=self.scheme, port=1))

    @pytest.fixture
    def wrong_password_store(self, server):
        return SQLStore(server.url_with(scheme=self.scheme, password=WRONG_PASSWORD))

    @pytest.fixture
    def quiet_server(self, server):
        with Quiet(self.scheme, server) as quiet:
            yield quiet


class TestPostgreSQLWithPsycopg(ServerTests):
    scheme = "postgresql+psycopg"

    @pytest.fixture
    def server(self, postgres_server):
        return postgres_server


class TestPostgreSQLWithAsyncpg(ServerTests):
    scheme = "postgresql+asyncpg"
    # It looks for passwords and certificates in the file system when it connects.
    driver_blocks_in = (("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args"),)

    @pytest.fixture
    def server(self, postgres_server):
        return postgres_server


class TestMariaDBWithAsyncmy(ServerTests):
    scheme = "mariadb+pymysql"

    @pytest.fixture
    def server(self, mariadb_server):
        return mariadb_server


def new_name():
    return f"t{uuid.uuid4().hex}"


@pytest.fixture
def name():
    return new_name()


@pytest.fixture(params=["postgres", "mariadb"])
def server(request):
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture(
    params=["postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg", "mariadb+pymysql", "mysql+aiomysql"]
)
def url(request):
    """A URL for each driver, and so each pair of them."""
    scheme = request.param
    kind = "postgres" if scheme.startswith("postgresql") else "mariadb"
    return request.getfixturevalue(f"{kind}_server").url_with(scheme=scheme)


def blocking(server, **options):
    """The URL for a blocking driver."""
    return server.url_with(
        scheme={"postgres": "postgresql+psycopg", "mariadb": "mysql+pymysql"}[server.name], **options
    )


@pytest.fixture
def engine(server):
    engine = sa.create_engine(blocking(server))
    yield engine
    engine.dispose()


@pytest.fixture
def pg(postgres_server):
    engine = sa.create_engine(blocking(postgres_server), isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


@pytest.fixture
def maria(mariadb_server):
    engine = sa.create_engine(blocking(mariadb_server), isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


def execute(engine, statement, **parameters):
    with engine.begin() as connection:
        result = connection.execute(sa.text(statement), parameters)
        return result.all() if result.returns_rows else None


def theirs(session_id, **options):
    """LangChain's own class."""
    from langchain_community.chat_message_histories import SQLChatMessageHistory as Theirs

    return Theirs(session_id, **options)


def texts(messages):
    return [message.content for message in messages]


def lock_name(store, session_id):
    """The lock of a session; of the set-up for an empty one."""
    operations = store.operations
    return operations._lock_name(operations.found.what or Layout("sqlite"), session_id)


# Beside LangChain's class.


def test_langchain_reads_what_we_write(server, name):
    plain = [message for message in golden_messages() if "lh:type" not in repr(message)][:10]
    SQLChatMessageHistory("s", name, connection=blocking(server)).add_messages(plain)
    assert theirs("s", table_name=name, connection=blocking(server)).messages == plain


def test_langchain_reads_every_golden_message_as_plain_data(server, name):
    messages = golden_messages()
    SQLChatMessageHistory("s", name, connection=blocking(server)).add_messages(messages)
    read = theirs("s", table_name=name, connection=blocking(server)).messages
    kinds = [message.type.removesuffix("MessageChunk").lower() for message in messages]
    assert [message.type for message in read] == kinds


@pytest.mark.parametrize("who_makes_it", ["ours", "theirs"])
def test_we_read_what_langchain_writes(server, name, who_makes_it):
    messages = [
        HumanMessage("héllo 👍", id="1"),
        AIMessage("yes", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}]),
    ]
    ours = SQLChatMessageHistory("s", name, connection=blocking(server))
    if who_makes_it == "ours":
        ours.store.setup()
    theirs("s", table_name=name, connection=blocking(server)).add_messages(messages)
    theirs("other", table_name=name, connection=blocking(server)).add_user_message("not ours")
    assert ours.messages == messages
    ours.add_user_message("and on")
    theirs("s", table_name=name, connection=blocking(server)).add_user_message("and back")
    assert texts(ours.messages) == ["héllo 👍", "yes", "and on", "and back"]
    assert asyncio.run(ours.aget_messages()) == theirs("s", table_name=name, connection=blocking(server)).messages
    assert [info.session_id for info in ours.store.sessions()] == ["other", "s"]


def test_an_existing_table_is_not_changed_unless_asked(server, engine, name, caplog):
    theirs("s", table_name=name, connection=blocking(server)).add_user_message("old")
    before = sa.inspect(engine).get_indexes(name)
    with SQLStore(blocking(server), table_name=name) as store, caplog.at_level(logging.WARNING):
        start = threading.Barrier(12)

        def read():
            start.wait()
            return texts(store.read("s"))

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            assert [future.result() for future in [pool.submit(read) for _ in range(12)]] == [["old"]] * 12
        told = [record for record in caplog.records if "langchain_histories" in record.name]
        assert ["setup(upgrade=True)" in record.getMessage() for record in told] == [True]
        assert sa.inspect(engine).get_indexes(name) == before
        store.setup(upgrade=True)
        store.setup(upgrade=True)
        (index,) = sa.inspect(engine).get_indexes(name)
        assert index["column_names"] == ["session_id", "id"]
        assert texts(store.read("s")) == ["old"]


def test_our_set_up_races_with_langchains(server, name):
    start = threading.Barrier(12)

    def first_use(number):
        start.wait()
        if number % 2:
            theirs_created = False
            while not theirs_created:  # LangChain's own set-up fails in such a race
                try:
                    theirs("theirs", table_name=name, connection=blocking(server))
                    theirs_created = True
                except sa.exc.DBAPIError:
                    pass
        else:
            with SQLStore(blocking(server), table_name=name) as store:
                store.append("s", [HumanMessage("x")])
                store.put_state(f"s{number}", {"a": number})

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(first_use, range(12)))
    with SQLStore(blocking(server), table_name=name) as store:
        assert store.count("s") == 6
        assert [store.get_state(f"s{number}") for number in range(0, 12, 2)] == [{"a": n} for n in range(0, 12, 2)]


def test_set_ups_that_race_are_quiet(server, name, caplog):
    """None works in the half made tables of another, or takes them for tables without an index."""
    start = threading.Barrier(12)

    def first_use():
        with SQLStore(blocking(server), table_name=name) as store:
            start.wait()
            store.append("s", [HumanMessage("x")])
            store.put_state("s", {"a": 1})

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        for future in [pool.submit(first_use) for _ in range(12)]:
            future.result()
    assert [record for record in caplog.records if "langchain_histories" in record.name] == []


@pytest.mark.parametrize("what", ["set-up", "append", "append of mysql", "replace", "clear"])
def test_writers_wait_for_the_lock(server, engine, name, what):
    """While another holds the lock of a session, its writers wait, and those of other sessions do not."""
    with SQLStore(blocking(server), table_name=name) as store, engine.connect() as holder:
        if what != "set-up":
            store.append("s", [HumanMessage("first")])
        if what == "append of mysql":
            if server.name == "postgres":
                pytest.skip("MariaDB stands for MySQL here")
            store.operations.found.what.kind = "mysql"
        calls = {
            "set-up": store.setup,
            "replace": lambda: store.replace("s", [HumanMessage("x")]),
            "clear": lambda: store.clear("s"),
        }
        call = calls.get(what, lambda: store.append("s", [HumanMessage("x"), HumanMessage("y")]))
        lock = {"lock": lock_name(store, "" if what == "set-up" else "s")}
        ways = {
            "postgres": ("pg_advisory_lock(hashtextextended(:lock, 0))", "pg_advisory_unlock_all()"),
            "mariadb": ("GET_LOCK(:lock, 5)", "RELEASE_ALL_LOCKS()"),
        }
        take, let_go = (sa.text(f"SELECT {function}") for function in ways[server.name])
        holder.execute(take, lock)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(call)
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
            if what != "set-up":
                store.append("other", [HumanMessage("not held up")])
            holder.execute(let_go)
            waiting.result(10)


def test_first_states_that_race_are_stored_once(server, engine, name):
    """No lock is held for a state: one statement compares and stores it, so it waits for no writer of messages."""
    with SQLStore(blocking(server), table_name=name) as store, engine.connect() as holder:
        store.append("s", [HumanMessage("x")])
        lock = {"lock": lock_name(store, "s")}
        take = "pg_advisory_lock(hashtextextended(:lock, 0))" if server.name == "postgres" else "GET_LOCK(:lock, 5)"
        holder.execute(sa.text(f"SELECT {take}"), lock)
        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            list(pool.map(lambda _: store.update_state("s", lambda old: {"n": (old or {"n": 0})["n"] + 1}), range(25)))
        assert store.get_state("s") == {"n": 25}
    assert execute(engine, f"SELECT count(*) FROM {name}_state") == [(1,)]


def test_a_pooled_connection_sees_what_others_have_stored(server, name, monkeypatch):
    """It is not rolled back when it comes back to its pool, so it must be in no transaction then."""
    with (
        SQLStore(blocking(server), table_name=name, engine_args={"pool_size": 1, "max_overflow": 0}) as reader,
        SQLStore(blocking(server), table_name=name) as writer,
    ):
        for number in range(1, 4):
            assert writer.append("s", [HumanMessage("x")])
            writer.put_state("s", {"n": number})
            assert (reader.count("s"), len(reader.read("s")), reader.get_state("s")) == (number, number, {"n": number})
        with monkeypatch.context() as patched:
            patched.setattr(SQLOperations, "_put", put_and_fail)
            with pytest.raises(StoreUnavailableError):
                reader.replace("s", [HumanMessage("never")])
        writer.replace("s", [HumanMessage("y")])
        assert [message.content for message in reader.read("s")] == ["y"]


async def put_and_fail(self, *where):
    await self._insert(*where)
    raise TimeoutError("in the middle of a transaction")


def test_a_batch_of_a_converter_is_whole(server, name):
    class Fussy(DefaultMessageConverter):
        def to_sql_model(self, message, session_id):
            row = super().to_sql_model(message, session_id)
            if message.content == "no":
                row.id = 1
            return row

    history = SQLChatMessageHistory("s", connection=blocking(server), custom_message_converter=Fussy(name))
    history.add_messages([HumanMessage("1"), HumanMessage("2")])
    with pytest.raises(StoreError):
        history.add_messages([HumanMessage("3"), HumanMessage("no")])
    history.add_messages([HumanMessage("4")])
    assert [message.content for message in history.messages] == ["1", "2", "4"]


def test_a_half_made_state_table_is_made_whole(server, engine, name):
    with SQLStore(blocking(server), table_name=name) as store:
        store.setup()
        on = "" if server.name == "postgres" else f" ON {name}_state"
        execute(engine, f"DROP INDEX {name}_state_ix{on}")
    with SQLStore(blocking(server), table_name=name) as store:
        store.setup()
        store.put_state("s", {"a": 1})
    assert len(sa.inspect(engine).get_indexes(f"{name}_state")) == 1


# Every driver.


def test_every_driver(url, name):
    with SQLStore(url, table_name=name) as store:
        assert Capability.NATIVE_ASYNC in store.capabilities
        store.append("s", golden_messages())

        async def use():
            await store.aappend("s", golden_messages())
            await store.aput_state("s", {"a": 1})
            await store.areplace("t", [HumanMessage("x"), HumanMessage("y")])
            await store.adelete("t", [(await store.arecords("t"))[0].id])
            return await store.aread("s")

        read = asyncio.run(use())
        assert repr(read) == repr(store.read("s"))
        assert len(read) == 2 * len(golden_messages())
        assert texts(store.read("t")) == ["y"]
        assert store.get_state("s") == {"a": 1}
        assert [info.count for info in store.sessions()] == [len(read), 1]


def test_a_large_batch(url, name):
    batch = [HumanMessage(str(number)) for number in range(10_000)]
    with SQLStore(url, table_name=name) as store:
        store.append("s", batch)
        asyncio.run(store.aappend("s", batch))
        assert texts(store.read("s")) == texts(batch) * 2
        assert texts(store.read("s", last=2)) == ["9998", "9999"]
        store.clear("s")
        assert store.count("s") == 0


def test_a_megabyte_more_or_less(url, name):
    long = "é\"'\\" * 500_000
    with SQLStore(url, table_name=name) as store:
        store.append("s", [HumanMessage(long), HumanMessage("short")])
        asyncio.run(store.aappend("s", [HumanMessage(long)]))
        store.put_state("s", {"long": long})
        assert texts(asyncio.run(store.aread("s"))) == [long, "short", long]
        assert store.get_state("s") == {"long": long}


@pytest.mark.parametrize("name", ['a"b`c', "a'b%c", "a :b", "Select", "ünï cödé"])
def test_odd_names(url, name):
    with SQLStore(url, table_name=name, session_id_field_name="who:is%it") as store:
        store.append("s", [HumanMessage("a"), HumanMessage("b")])
        asyncio.run(store.aappend("s", [HumanMessage("c")]))
        store.replace("s", store.read("s"))
        store.put_state("s", {"a": 1})
        assert (store.count("s"), len(store.sessions()), store.get_state("s")) == (3, 1, {"a": 1})
        store.clear("s")


@pytest.mark.parametrize("letter", ["x", "é"])
def test_names_as_long_as_the_database_takes(server, letter):
    """Those of the indexes and of the table of states fit too, and differ, between tables with one beginning as well."""
    longest = 63 // len(letter.encode()) if server.name == "postgres" else 64
    begins = (letter * longest)[:-1]
    for last in "ab":
        name = begins + last
        with SQLStore(blocking(server), table_name=name, session_id_field_name=begins) as store:
            store.append("s", [HumanMessage(last)])
            store.put_state("s", {"a": last})
            assert (texts(store.read("s")), store.get_state("s")) == ([last], {"a": last})
            tables = [found for found in sa.inspect(store.client).get_table_names() if found.startswith(letter * 8)]
            assert name in tables
            assert len(tables) == (2 if last == "a" else 4)
            indexes = sa.inspect(store.client).get_indexes(name)
            assert [index["column_names"] for index in indexes] == [[begins, "id"]]
            asyncio.run(store.aclear("s"))
            assert (store.count("s"), store.get_state("s")) == (0, None)
    with pytest.raises(ConfigurationError, match=r"63 bytes|64 characters"):
        SQLStore(blocking(server), table_name=letter * (longest + 1))


def test_long_session_ids_fit_the_index(server, name):
    """The worst that the escape makes of 1,024 bytes."""
    chance = random.Random(5)
    ids = ["\0" + "".join(chr(chance.randrange(0x10000, 0x10FFFF)) for _ in range(255)) for _ in range(20)]
    ids += ["lh%" + "".join(chr(chance.randrange(0x80, 0x7FF)) for _ in range(510)) for _ in range(20)]
    ids += ["lh%" + "".join(chr(chance.randrange(1, 0x80)) for _ in range(1021)) for _ in range(20)]
    with SQLStore(blocking(server), table_name=name) as store:
        for session_id in ids:
            store.append(session_id, [HumanMessage(session_id)])
            store.put_state(session_id, {"a": session_id})
        assert all(texts(store.read(session_id)) == [session_id] for session_id in ids)
        assert sorted(info.session_id for info in store.sessions()) == sorted(ids)


def test_a_table_that_was_dropped(url, name):
    """It is as missing as one that was never made: a read finds nothing, and the next write makes it."""
    with SQLStore(url, table_name=name) as store:

        def drop(*tables):
            store.append("s", [HumanMessage("old")])
            store.put_state("s", {"a": 1})
            for table in tables:
                execute(store.client, f"DROP TABLE {table}")

        for tables in ([name, f"{name}_state"], [name]):
            for read, nothing in (
                (lambda: store.read("s"), []),
                (lambda: asyncio.run(store.aread("s")), []),
                (lambda: store.count("s"), 0),
                (store.sessions, []),
                (lambda: store.clear("s"), None),
                (lambda: store.erase(user_id="s"), 0),
                (lambda: asyncio.run(store.aclear("s")), None),
            ):
                drop(*tables)
                assert read() == nothing
            for write in (
                lambda: store.append("s", [HumanMessage("x")]),
                lambda: asyncio.run(store.aappend("s", [HumanMessage("x")])),
                lambda: store.replace("s", [HumanMessage("x")]),
                lambda: store.append("s", [HumanMessage("x"), *[HumanMessage("")] * 150]),
            ):
                drop(*tables)
                write()
                assert store.read("s")[0].content == "x"
                store.replace("s", [])
        drop(f"{name}_state")
        assert store.get_state("s") is None
        drop(f"{name}_state")
        store.put_state("s", {"b": 2})
        assert asyncio.run(store.aget_state("s")) == {"b": 2}


def test_errors_of_statements(url, name):
    with SQLStore(url, table_name=name) as store:
        store.append("s", [HumanMessage("x")])
        execute(store.client, f"ALTER TABLE {name} RENAME COLUMN message TO other")
        for call in (
            lambda: store.append("s", [HumanMessage("x")]),
            lambda: asyncio.run(store.aread("s")),
        ):
            with pytest.raises((StoreError, ConfigurationError)):
                call()


def test_an_unknown_database(url):
    store = SQLStore(url.rpartition("/")[0] + "/no_such_database")
    for call in (lambda: store.read("s"), lambda: asyncio.run(store.aread("s"))):
        with pytest.raises(StoreUnavailableError):
            call()


# Rights.


def test_a_user_who_may_only_read(server, name, caplog):
    reader = SQLStore(
        blocking(server).replace(server.url.split("//")[1], server.readonly_url.split("//")[1]), table_name=name
    )
    assert reader.read("s") == []  # there is no table, and it may not make one
    theirs("s", table_name=name, connection=blocking(server)).add_user_message("old")
    with reader:
        assert texts(reader.read("s")) == ["old"]
        assert texts(asyncio.run(reader.aread("s"))) == ["old"]
        assert reader.get_state("s") is None
        for call in (
            lambda: reader.append("s", [HumanMessage("x")]),
            lambda: asyncio.run(reader.aappend("s", [HumanMessage("x")])),
            lambda: reader.clear("s"),
            lambda: reader.setup(upgrade=True),
        ):
            with pytest.raises(StoreError) as caught:
                call()
            assert type(caught.value) is StoreError
        assert f"{name}_state" in caplog.text
        with SQLStore(blocking(server), table_name=name) as writer:
            writer.put_state("s", {"a": 1})
        assert reader.get_state("s") == {"a": 1}


def test_a_user_without_the_right_to_make_tables(server, name):
    admin = sa.create_engine(
        blocking(server).replace(server.url.split("//")[1], server.admin_url.split("//")[1]),
        isolation_level="AUTOCOMMIT",
    )
    user = f"u{uuid.uuid4().hex[:12]}"
    with SQLStore(blocking(server), table_name=name) as owner:
        owner.put_state("s", {"a": 1})
    tables = [name, f"{name}_state"]
    if server.name == "postgres":
        execute(admin, f"CREATE ROLE {user} LOGIN PASSWORD 'p'")
        with sa.create_engine(blocking(server), isolation_level="AUTOCOMMIT").connect() as connection:
            for table in tables:
                connection.execute(sa.text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {user}"))
            connection.execute(sa.text(f"GRANT USAGE ON SEQUENCE {name}_id_seq TO {user}"))
    else:
        execute(admin, f"CREATE USER '{user}'@'%' IDENTIFIED BY 'p'")
        for table in tables:
            execute(admin, f"GRANT SELECT, INSERT, UPDATE, DELETE ON histories.{table} TO '{user}'@'%'")
    admin.dispose()
    with SQLStore(blocking(server, user=user, password="p"), table_name=name) as store:
        store.append("s", [HumanMessage("x")])
        asyncio.run(store.aappend("s", [HumanMessage("y")]))
        store.replace("s", store.read("s"))
        assert store.get_state("s") == {"a": 1}
        store.setup()
        store.setup(upgrade=True)
        assert texts(store.read("s")) == ["x", "y"]
        store.clear("s")


# Converters of the user's.


def test_a_converter(url, name):
    converter = DefaultMessageConverter(name)
    history = SQLChatMessageHistory("s", connection=url, custom_message_converter=converter)
    history.add_messages([HumanMessage("é 👍"), AIMessage("b")])
    asyncio.run(history.aadd_messages([HumanMessage("c")]))
    with history.engine.begin() as connection:
        # It moves the first row behind the others.
        connection.execute(sa.text(f"UPDATE {name} SET session_id = 's' WHERE id = 1"))
    assert texts(history.messages) == texts(asyncio.run(history.aget_messages())) == ["é 👍", "b", "c"]
    assert texts(history.get_messages(last=2)) == ["b", "c"]
    asyncio.run(history.aclear())
    assert history.messages == []
    history.store.close()


def test_converters_race_on_first_use(server, name):
    start = threading.Barrier(8)

    def first_use(number):
        converter = DefaultMessageConverter(name)
        history = SQLChatMessageHistory("s", connection=blocking(server), custom_message_converter=converter)
        start.wait()
        history.add_user_message(str(number))
        history.store.close()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(first_use, range(8)))
    assert len(theirs("s", table_name=name, connection=blocking(server)).messages) == 8


# Engines of the caller's.


def test_engines_of_the_callers(url, name):
    options = {"pool_size": 2}
    if url.startswith("postgresql"):
        options["isolation_level"] = "SERIALIZABLE"
    scheme = url.partition(":")[0]
    engine = sa.create_engine(blocking_twin(url), **options)
    native_scheme = {"postgresql+psycopg2": "postgresql+psycopg", "mariadb+pymysql": "mariadb+asyncmy"}.get(
        scheme, scheme
    )
    native = create_async_engine(url.replace(scheme, native_scheme), **options)
    store = SQLStore(client=engine, async_client=native, table_name=name)
    chance = random.Random(1)

    def write(number):
        for _ in range(10):
            if chance.random() < 0.2:
                store.delete("s", [store.records("s", last=1)[-1].id] if number == 0 and store.count("s") else ["none"])
            store.append("s", [HumanMessage(f"{number}"), AIMessage(f"{number}")])
            store.put_state(f"s{number % 2}", {"a": number})

    async def awrite():
        await asyncio.gather(*(store.aappend("a", [HumanMessage(str(n)), AIMessage(str(n))]) for n in range(30)))
        await native.dispose()

    with concurrent.futures.ThreadPoolExecutor(7) as pool:
        running = [pool.submit(write, number) for number in range(6)] + [pool.submit(lambda: asyncio.run(awrite()))]
        for future in running:
            future.result()
    stored = texts(store.read("a"))
    assert stored[::2] == stored[1::2]
    assert len(stored) == 60
    assert (engine.hide_parameters, native.sync_engine.hide_parameters) == (False, False)
    assert (engine.get_execution_options(), native.get_execution_options()) == ({}, {})
    store.close()
    assert engine.pool.checkedin() > 0
    engine.dispose()


def blocking_twin(url):
    for native, twin in {"+asyncpg": "+psycopg", "+aiomysql": "+pymysql", "+asyncmy": "+pymysql"}.items():
        url = url.replace(native, twin)
    return url


def test_an_engine_in_autocommit_mode(server, name):
    engine = sa.create_engine(blocking(server), isolation_level="AUTOCOMMIT")
    store = SQLStore(client=engine, table_name=name)
    store.append("s", [HumanMessage("x"), HumanMessage("y")])
    with engine.connect() as connection:
        if server.name == "postgres":
            connection.execute(
                sa.text("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$")
            )
            trigger = f"CREATE TRIGGER {name}_no BEFORE INSERT ON {name} EXECUTE FUNCTION no()"
            drop = f"DROP TRIGGER {name}_no ON {name}; DROP FUNCTION no()"
        else:
            trigger = f"CREATE TRIGGER {name}_no BEFORE INSERT ON {name} FOR EACH ROW SIGNAL SQLSTATE '45000'"
            drop = f"DROP TRIGGER {name}_no"
        connection.execute(sa.text(trigger))
    try:
        for call in (store.replace, store.append):
            with pytest.raises(StoreError):
                call("s", [HumanMessage("z")])
        assert texts(store.read("s")) == ["x", "y"]
    finally:
        for statement in drop.split("; "):
            execute(engine, statement)
    store.replace("s", [HumanMessage("z")])
    assert texts(store.read("s")) == ["z"]
    engine.dispose()


# Clients.


def test_many_stale_connections_fail_no_call(url, request, name):
    """A restart leaves several dead connections in a pool; no use of one fails."""
    kind = "postgres" if url.startswith("postgresql") else "mariadb"
    server = request.getfixturevalue(f"{kind}_server")

    def count_failures(call):
        failed = 0
        for _ in range(12):
            try:
                call()
            except StoreUnavailableError:
                failed += 1
        return failed

    with SQLStore(url, table_name=name) as store:
        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            start = threading.Barrier(5)

            def use():
                with store.client.connect() as connection:
                    connection.execute(sa.text("SELECT 1"))
                    start.wait()

            for future in [pool.submit(use) for _ in range(5)]:
                future.result()
        store.append("s", [HumanMessage("x")])
        assert store.client.pool.checkedin() == 5
        server.restart()
        assert count_failures(lambda: store.append("s", [HumanMessage("x")])) == 0

        async def work():
            await asyncio.gather(*(store.aappend("s", [HumanMessage("x")]) for _ in range(5)))
            await asyncio.to_thread(server.restart)
            failed = 0
            for number in range(12):
                try:
                    await (store.aappend("s", [HumanMessage("x")]) if number % 2 else store.aread("s", last=1))
                except StoreUnavailableError:
                    failed += 1
            return failed

        assert asyncio.run(work()) == 0


def test_after_fork_the_parents_connections_live(server, engine, name):
    """A child that uses, closes and drops its store leaves the parent's connections alone."""
    with SQLStore(blocking(server), table_name=name) as store:

        def backend():
            with store.client.connect() as connection:
                question = "SELECT pg_backend_pid()" if server.name == "postgres" else "SELECT CONNECTION_ID()"
                return connection.execute(sa.text(question)).scalar()

        store.append("s", [HumanMessage("parent")])
        before = backend()
        for _ in range(3):
            child = os.fork()
            if child == 0:
                try:
                    store.append("s", [HumanMessage("child")])
                    different = backend() != before
                    asyncio.run(store.aappend("s", [HumanMessage("child")]))
                    store.close()
                    os._exit(0 if different else 5)
                finally:
                    os._exit(9)
            assert os.waitpid(child, 0)[1] == 0
            assert backend() == before
        store.append("s", [HumanMessage("parent")])
        assert texts(store.read("s")) == ["parent", *["child"] * 6, "parent"]


def test_a_thousand_histories_share_a_pool(server, engine, name):
    question = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        if server.name == "postgres"
        else "SELECT count(*) FROM information_schema.processlist"
    )
    before = execute(engine, question)[0][0]
    histories = [SQLChatMessageHistory(f"s{n}", name, connection=blocking(server)) for n in range(1000)]
    for history in histories[:100]:
        history.add_user_message("x")
    assert execute(engine, question)[0][0] <= before + 1
    histories[0].store.close()


def test_a_store_made_for_a_call_sends_what_a_warm_one_sends(url, name):
    """Nothing is looked at again, on either face; an append to PostgreSQL or MariaDB is one statement."""
    sent = []

    def note(connection, cursor, statement, *_):
        sent.append(statement)

    def of(store):
        sent.clear()
        store.append("s", [HumanMessage("x")])
        store.read("s", last=1)
        return list(sent)

    async def aof(store):
        sent.clear()
        await store.aappend("s", [HumanMessage("x")])
        await store.aread("s", last=1)
        return list(sent)

    async def use():
        warm = SQLStore(url, table_name=name)
        await aof(warm)
        expected = await aof(warm)
        assert len(expected) == 2
        assert [await aof(SQLStore(url, table_name=name)) for _ in range(3)] == [expected] * 3

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        with SQLStore(url, table_name=name) as warm:
            of(warm)
            expected = of(warm)
            assert len(expected) == 2
            assert [of(SQLStore(url, table_name=name)) for _ in range(3)] == [expected] * 3
            asyncio.run(use())
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def test_a_cancelled_writer_holds_no_lock(url, name):
    """Wherever an append, a replacement or a new state is cancelled, the next writer has its turn at once."""
    chance = random.Random(3)

    async def work():
        async with SQLStore(url, table_name=name) as store:
            await store.aappend("s", [HumanMessage("start")])
            for number in range(60):
                batch = [HumanMessage(f"{number} {part}") for part in range(3)]
                calls = [store.aappend("s", batch), store.aput_state("s", {"n": number}), store.areplace("t", batch)]
                tasks = [asyncio.create_task(call) for call in calls]
                await asyncio.sleep(chance.random() * 0.006)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            async with asyncio.timeout(5):
                await store.aappend("s", [HumanMessage("end")])
                await store.aput_state("s", {"n": "end"})
                await store.areplace("t", [HumanMessage("end")])
            return texts(await store.aread("s")), texts(await store.aread("t"))

    stored, replaced = asyncio.run(work())
    assert (stored[0], stored[-1], replaced) == ("start", "end", ["end"])
    batches = [stored[start : start + 3] for start in range(1, len(stored) - 1, 3)]
    assert all([text.split()[1] for text in batch] == ["0", "1", "2"] for batch in batches)
    assert all(len({text.split()[0] for text in batch}) == 1 for batch in batches)


# PostgreSQL.


def test_a_table_of_another_shape_on_postgresql(postgres_server, pg, name):
    for definition, told in {
        "id serial PRIMARY KEY, session_id int, message jsonb": "session_id is not text",
        "id serial PRIMARY KEY, session_id text, message bytea": "message is not text",
        "id serial PRIMARY KEY, session_id text, data jsonb": "no column message",
    }.items():
        execute(pg, f"CREATE TABLE {name} ({definition})")
        with SQLStore(blocking(postgres_server), table_name=name) as store:
            for call in (lambda: store.append("s", [HumanMessage("x")]), lambda: asyncio.run(store.aread("s"))):
                with pytest.raises(ConfigurationError, match=name) as caught:
                    call()
                assert told in str(caught.value)
        assert not sa.inspect(pg).has_table(f"{name}_state")
        assert execute(pg, f"SELECT count(*) FROM {name}") == [(0,)]
        execute(pg, f"DROP TABLE {name}")


def test_a_sequence_with_a_cache_is_refused(postgres_server, pg, name):
    theirs("s", table_name=name, connection=blocking(postgres_server))
    execute(pg, f"ALTER SEQUENCE {name}_id_seq CACHE 20")
    with SQLStore(blocking(postgres_server), table_name=name) as store:
        with pytest.raises(ConfigurationError, match=r"20 numbers.*CACHE 1"):
            store.append("s", [HumanMessage("x")])
        execute(pg, f"ALTER SEQUENCE {name}_id_seq CACHE 1")
        store.append("s", [HumanMessage("x")])


@pytest.mark.parametrize("made", ["collation", "citext", "varchar"])
def test_columns_that_compare_otherwise_on_postgresql(postgres_server, pg, name, made):
    if made == "collation":
        try:
            execute(
                pg, f"CREATE COLLATION {name}_c (provider = icu, locale = 'und-u-ks-level1', deterministic = false)"
            )
        except sa.exc.NotSupportedError as reason:
            pytest.skip(f"no such collation: {reason.orig}")
        kind = f"text COLLATE {name}_c"
    elif made == "citext":
        admin = sa.create_engine(
            postgres_server.admin_url.replace("postgresql:", "postgresql+psycopg:").rpartition("/")[0] + "/histories",
            isolation_level="AUTOCOMMIT",
        )
        try:
            execute(admin, "CREATE EXTENSION IF NOT EXISTS citext")
        except sa.exc.DBAPIError as reason:
            pytest.skip(f"no citext: {reason.orig}")
        finally:
            admin.dispose()
        kind = "citext"
    else:
        kind = "varchar(5)"
    execute(pg, f"CREATE TABLE {name} (id serial PRIMARY KEY, session_id {kind}, message text)")
    names = ["ivan", "Ivan", "Iván", "ivan "]
    with SQLStore(blocking(postgres_server), table_name=name) as store:
        for session_id in names:
            store.append(session_id, [HumanMessage(session_id)])
        assert [texts(store.read(session_id)) for session_id in names] == [[session_id] for session_id in names]
        assert [info.session_id for info in store.sessions()] == sorted(names)
        assert [info.session_id for info in store.sessions(prefix="ivan")] == ["ivan", "ivan "]
        store.clear("IVAN")
        store.clear("ivan")
        assert len(store.sessions()) == 3
        if made == "varchar":
            with pytest.raises(ConfigurationError, match="characters 5"):
                store.append("ivan   ", [HumanMessage("x")])


def test_our_table_on_postgresql(postgres_server, pg, name):
    with SQLStore(blocking(postgres_server), table_name=name) as store:
        store.append("s", [HumanMessage("x")])
        for (from_end, after), statement in store.operations.found.what.messages.read.items():
            question = str(statement.compile(pg))
            for parameter in ("s", "limit", "after"):
                value = "'s'" if parameter == "s" else "1"
                question = question.replace(f"%({parameter})s", value)
            with pg.connect() as connection:
                for way in ("seqscan", "bitmapscan"):
                    connection.exec_driver_sql(f"SET enable_{way} = off")
                plan = "\n".join(row[0] for row in connection.exec_driver_sql("EXPLAIN " + question))
            assert f"{name}_ix" in plan, (from_end, after, plan)
            assert "Sort" not in plan
    question = (
        "SELECT collation_name FROM information_schema.columns WHERE table_name = :name AND column_name = 'session_id'"
    )
    assert execute(pg, question, name=name) == [("C",)]


def test_a_database_that_is_not_utf8(postgres_server, name):
    admin = sa.create_engine(
        postgres_server.admin_url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    execute(admin, f"CREATE DATABASE {name} OWNER histories ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    messages = [HumanMessage("é 👍 日本語"), AIMessage("x")]
    with SQLStore(blocking(postgres_server, database=name)) as store:
        store.append("s", messages)
        store.put_state("s", {"a": "👍"})
        assert store.read("s") == messages
        assert store.get_state("s") == {"a": "👍"}
        store.append("josé", messages)
        assert store.read("josé") == messages
        with pytest.raises(ConfigurationError, match="LATIN1"):
            store.append("日本", messages)
        with pytest.raises(StoreError):
            store.read("日本")
    with SQLStore(blocking(postgres_server, database=name), table_name="json", jsonb=True) as store:
        store.append("josé", [HumanMessage("é")])
        assert store.read("josé") == [HumanMessage("é")]
        for bad in ("日本", "👍"):
            with pytest.raises(ConfigurationError, match=r"LATIN1.*Nothing was written"):
                store.append("josé", [HumanMessage("a"), HumanMessage(bad)])
        assert store.count("josé") == 1
    execute(admin, f"DROP DATABASE {name}")
    admin.dispose()


# MariaDB.


@pytest.mark.parametrize("charset", ["utf8mb4", "utf8mb3", "latin1"])
def test_columns_that_compare_otherwise_on_mariadb(mariadb_server, maria, name, charset):
    execute(
        maria,
        f"CREATE TABLE {name} (id INTEGER AUTO_INCREMENT PRIMARY KEY, session_id TEXT, message TEXT, "
        f"KEY (session_id(20))) CHARSET {charset} COLLATE {charset}_general_ci",
    )
    names = ["ivan", "Ivan", "ivan ", "IVAN"] if charset == "latin1" else ["ivan", "Ivan", "Iván", "ivan "]
    with SQLStore(blocking(mariadb_server), table_name=name) as store:
        messages = {session_id: [HumanMessage(f"{session_id} 👍 é")] for session_id in names}
        for session_id in names:
            store.append(session_id, messages[session_id])
            asyncio.run(store.aput_state(session_id, {"id": session_id}))
        for session_id in names:
            assert store.read(session_id) == messages[session_id]
            assert store.get_state(session_id) == {"id": session_id}
        assert store.read("ivan\t") == store.read("👍") == []
        assert [info.session_id for info in store.sessions()] == sorted(names)
        assert [info.session_id for info in store.sessions(prefix="ivan")] == ["ivan", "ivan "]
        assert [info.session_id for info in store.sessions(after="Ivan", limit=1)] == sorted(names)[
            names.count("IVAN") + 1 :
        ][:1]
        store.clear("iVAN")
        store.clear("ivan")
        assert len(store.sessions()) == 3
        if charset != "utf8mb4":
            with pytest.raises(ConfigurationError, match=charset):
                store.append("👍", [HumanMessage("x")])
            assert theirs("Ivan", table_name=name, connection=blocking(mariadb_server)).messages
    with maria.connect() as connection:
        question = (
            str(store.operations.found.what.messages.read[None, False].compile(maria))
            .replace("%(s)s", "'s'")
            .replace("%%", "%")
        )
        plan = connection.exec_driver_sql("EXPLAIN " + question).mappings().one()
    assert plan["key"] == "session_id"


def test_a_record_that_would_be_cut_is_refused(mariadb_server, name):
    """Also by a server that is not strict; LangChain's table has TEXT, for 64 KB."""
    url = blocking(mariadb_server) + "?sql_mode="
    theirs("s", table_name=name, connection=url)
    with SQLStore(url, table_name=name) as store:
        store.append("s", [HumanMessage("x" * 60_000)])
        for long in ("x" * 66_000, "é" * 33_000):
            for call in (store.append, store.replace):
                with pytest.raises(RecordTooLargeError, match="bytes 65535"):
                    call("s", [HumanMessage("short"), HumanMessage(long)])
        with pytest.raises(RecordTooLargeError):
            asyncio.run(store.aappend("s", [HumanMessage("x" * 66_000)]))
        assert store.count("s") == 1
        store.put_state("s", {"long": "x" * 100_000})


@pytest.mark.parametrize("charset", ["utf8mb4", "latin1"])
def test_langchains_column_is_widened_when_asked(mariadb_server, maria, name, charset):
    name += "%x"
    execute(
        maria,
        f"CREATE TABLE `{name}` (id INTEGER AUTO_INCREMENT PRIMARY KEY, session_id TEXT, message TEXT NOT NULL) "
        f"CHARSET {charset} COLLATE {charset}_general_ci",
    )
    long = [HumanMessage("é" * 100_000)]
    with SQLStore(blocking(mariadb_server), table_name=name) as store:
        store.append("josé", [HumanMessage("é")])
        with pytest.raises(RecordTooLargeError, match=r"setup\(upgrade=True\)"):
            store.append("josé", long)
        store.setup()
        with pytest.raises(RecordTooLargeError):
            store.append("josé", long)
        store.setup(upgrade=True)
        store.append("josé", long)
        assert store.read("josé") == [HumanMessage("é"), *long]
        asyncio.run(store.asetup(upgrade=True))
    column = sa.inspect(maria).get_columns(name)[2]
    assert (str(column["type"]), column["nullable"]) == ("LONGTEXT", False)
    assert (column["type"].charset, column["type"].collation) in [(None, None), (charset, f"{charset}_general_ci")]
    refused = pytest.raises(ConfigurationError, match="session id") if charset == "latin1" else contextlib.nullcontext()
    with SQLStore(blocking(mariadb_server), table_name=name) as store, refused:
        store.append("日本", long)


def test_a_record_larger_than_a_packet_is_refused(mariadb_server, name):
    with SQLStore(blocking(mariadb_server), table_name=name) as store:
        with pytest.raises(RecordTooLargeError, match="max_allowed_packet"):
            store.append("s", [HumanMessage("x" * 17_000_000)])
        store.append("s", [HumanMessage("x" * 6_000_000) for _ in range(4)])
        assert [len(text) for text in texts(store.read("s"))] == [6_000_000] * 4
        assert texts(store.read("s", last=1))[0] == "x" * 6_000_000


def test_a_short_column_of_session_ids(mariadb_server, maria, name):
    execute(
        maria,
        f"CREATE TABLE {name} (id INTEGER AUTO_INCREMENT PRIMARY KEY, session_id VARCHAR(10), message LONGTEXT)",
    )
    with SQLStore(blocking(mariadb_server) + "?sql_mode=", table_name=name) as store:
        store.append("x" * 10, [HumanMessage("x")])
        with pytest.raises(ConfigurationError, match="characters 10"):
            store.append("x" * 11, [HumanMessage("x")])
        assert store.read("x" * 11) == []
        store.setup(upgrade=True)
        assert len(sa.inspect(maria).get_indexes(name)) == 1


def test_the_way_of_mysql(mariadb_server, name):
    """The statements for MySQL, which has no compound statement, run on MariaDB too."""
    with SQLStore(blocking(mariadb_server), table_name=name) as store:
        store.setup()
        store.operations.found.what.kind = "mysql"

        writing, seen = threading.Event(), []
        writing.set()

        def poll():
            position, is_last = None, False
            while not is_last:
                is_last = not writing.is_set()
                for record in store.records("s", after=position):
                    position = record.position
                    seen.append(record.message.content)

        def write(number):
            for _ in range(40):
                store.append("s", [HumanMessage(f"{number}"), AIMessage(f"{number}")])

        async def awrite():
            await asyncio.gather(*(store.aappend("s", [HumanMessage("a"), AIMessage("a")]) for _ in range(40)))

        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            poller = pool.submit(poll)
            running = [pool.submit(write, number) for number in range(6)] + [pool.submit(lambda: asyncio.run(awrite()))]
            for future in running:
                future.result()
            writing.clear()
            poller.result()
        stored = texts(store.read("s"))
        assert stored[::2] == stored[1::2]
        assert len(stored) == 2 * 40 * 7
        assert seen == stored
        assert store.operations.found.what.kind == "mysql"


@pytest.mark.parametrize("kind", ["mariadb", "mysql"])
def test_a_failed_append_lets_go_of_the_lock(mariadb_server, maria, name, kind):
    with SQLStore(blocking(mariadb_server), table_name=name) as store:
        store.append("s", [HumanMessage("x")])
        store.operations.found.what.kind = kind
        execute(maria, f"CREATE TRIGGER {name}_t BEFORE INSERT ON {name} FOR EACH ROW SIGNAL SQLSTATE '45000'")
        for call in (store.append, store.replace):
            with pytest.raises(StoreError):
                call("s", [HumanMessage("y")])
        lock = lock_name(store, "s")
        # The lock goes with its connection, which the server notices a moment later.
        free, tries = [(0,)], 100
        while free != [(1,)] and tries:
            tries -= 1
            time.sleep(0.1)
            free = execute(maria, "SELECT IS_FREE_LOCK(:lock)", lock=lock)
        assert free == [(1,)]
        execute(maria, f"DROP TRIGGER {name}_t")
        assert texts(store.read("s")) == ["x"]


def test_our_table_on_mariadb(mariadb_server, maria, name):
    with SQLStore(blocking(mariadb_server), table_name=name) as store:
        store.put_state("s", {})
    for table in (name, f"{name}_state"):
        definition = execute(maria, f"SHOW CREATE TABLE {table}")[0][1]
        assert "utf8mb4_nopad_bin" in definition
        assert "longtext" in definition
        assert "(`session_id`(255),`id`)" in definition
