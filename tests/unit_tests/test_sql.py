"""The SQL store on SQLite: what needs no server."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import hashlib
import json
import logging
import sqlite3
import threading
import traceback

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage, message_to_dict

from langchain_histories import (
    Capability,
    ConfigurationError,
    SQLChatMessageHistory,
    SQLStore,
    StoreError,
    StoreUnavailableError,
)
from langchain_histories.stores.base import prefix_end
from langchain_histories.stores.sql import statements
from langchain_histories.stores.sql.layout import Tables
from langchain_histories.testing import MessageStoreTests, golden_messages


class TestSQLiteInMemory(MessageStoreTests):
    capabilities = ~(Capability.NATIVE_ASYNC | Capability.PERSISTENT | Capability.MANY_PROCESSES)

    @pytest.fixture
    def open_store(self):
        # Each store in memory has a database of its own; the stores of a test share that of the first.
        with SQLStore("sqlite://") as first:
            yield functools.partial(SQLStore, client=first.client)

    def places(self, store):
        return sa.inspect(store.client).get_table_names()


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
    assert (record["type"], record["data"]["content"]) == ("human", "é")
    assert "é" in one[2]
    ((name, session_id, state),) = execute(path, "SELECT id, session_id, state FROM message_store_state")
    assert (name, session_id, json.loads(state)) == (hashlib.sha256(b"s").hexdigest(), "s", {"a": 1})
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
        statement = store.operations.found.what.messages.read[from_end, has_after]
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
    "name", ["odd name", 'a"b', "a'b", "a`b", "100%", "a:b", "a :b", "select", "Ünï", "A.b", "x" * 200]
)
def test_names(path, url, name):
    with SQLStore(url, table_name=name, session_id_field_name="who:is%it") as store:
        store.append("s", [HumanMessage("a"), HumanMessage("b")])
        store.replace("s", store.read("s"))
        store.put_state("s", {"a": 1})
        assert (store.count("s"), len(store.sessions()), store.get_state("s")) == (2, 1, {"a": 1})
    quoted = name.replace('"', '""')
    assert execute(path, f'SELECT "who:is%it" FROM "{quoted}"') == [("s",), ("s",)]


@pytest.mark.parametrize("options", [{"table_name": ""}, {"table_name": None}])
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
        assert (store.count("s"), store.get_state("s")) == (1, None)
        for call in (
            lambda: store.append("s", [HumanMessage("x")]),
            lambda: store.clear("s"),
            lambda: store.put_state("s", {}),
            lambda: store.setup(upgrade=True),
        ):
            with pytest.raises(StoreError) as caught:
                call()
            assert type(caught.value) is StoreError
        assert "message_store_state" in caplog.text
    assert execute(path, "SELECT name FROM sqlite_master") == before


def test_a_state_table_made_later_is_cleared_too(path, url):
    theirs("s", connection=url).add_user_message("old")
    with SQLStore(f"sqlite:///file:{path}?mode=ro&uri=true") as reader, SQLStore(url) as writer:
        reader.read("s")
        writer.put_state("s", {"a": 1})
        assert reader.get_state("s") == {"a": 1}
        writer.operations.found.what.has_states = False
        writer.clear("s")
        assert writer.get_state("s") is None


def test_a_set_up_that_is_late_disturbs_nobody(tmp_path):
    """Another thread saw no table, and goes on when the table was made and is in use."""
    seen, made, making, read = (threading.Event() for _ in range(4))

    class Late(Tables):
        def inspect(self, connection):
            layout = super().inspect(connection)
            if threading.current_thread() is late and not seen.is_set():
                seen.set()
                assert made.wait(60)
            return layout

        def make(self, connection, **options):
            if threading.current_thread() is late:
                making.set()
                assert read.wait(60)
            return super().make(connection, **options)

    with SQLStore(f"sqlite:///{tmp_path}/late.db") as store:
        store.operations.tables = Late("message_store", "session_id", jsonb=False, backend="sqlite")
        late = threading.Thread(target=store.setup)
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


# Expiry.


def expire(store, session_id="s"):
    with store.client.begin() as connection:
        connection.execute(
            sa.text("UPDATE message_store_expiry SET expires_at = 1 WHERE session_id = :s"), {"s": session_id}
        )


def langchains(store, text):
    with store.client.begin() as connection:
        row = {"message": json.dumps(message_to_dict(HumanMessage(text)))}
        connection.execute(sa.text("INSERT INTO message_store (session_id, message) VALUES ('s', :message)"), row)


def test_langchains_class_beside_sessions_that_expire(path, url):
    with SQLStore(url, ttl=60) as store:
        store.append("s", [HumanMessage("old")])
        store.put_state("s", {"a": 1})
        langchains(store, "old too")
        store.append("s", [HumanMessage("older")])
        expire(store)
        assert store.read("s") == []
        langchains(store, "theirs")
        assert texts(store.read("s")) == ["theirs"]
        assert [(info.session_id, info.count) for info in store.sessions()] == [("s", 1)]
        assert store.get_state("s") is None
        store.append("s", [HumanMessage("ours")])
        assert texts(store.read("s")) == ["theirs", "ours"]
        assert store.get_state("s") is None
        expire(store)
        assert store.read("s") == []


def test_a_number_that_sqlite_gives_again_hides_nothing_of_ours(path, url):
    """LangChain's class makes its table so, and knows of no expiry when it clears a session."""
    execute(path, "CREATE TABLE message_store (id INTEGER PRIMARY KEY, session_id TEXT, message TEXT)")
    with SQLStore(url, ttl=60) as store:
        for is_begun_anew in (False, True):
            store.append("s", [HumanMessage("old")] * 5)
            expire(store)
            if is_begun_anew:
                store.append("s", [HumanMessage("new")])
            execute(path, "DELETE FROM message_store")
            store.append("s", [HumanMessage("ours")])
            assert texts(store.read("s")) == ["ours"]
            store.clear("s")


def test_a_place_where_sessions_expire_is_found(path, url):
    """By a store without `ttl` that sets up later, and by one of the same place that had set up before."""
    with SQLStore(url) as plain, SQLStore(url, ttl=60) as store:
        plain.append("s", [HumanMessage("before")])
        assert "message_store_expiry" not in sa.inspect(plain.client).get_table_names()
        assert texts(store.read("s")) == ["before"]
        assert "message_store_expiry" not in sa.inspect(plain.client).get_table_names(), "a read makes nothing"
        store.append("s", [HumanMessage("old")])
        expire(store)
        later = SQLStore(client=sa.create_engine(url))
        for one in (plain, store, later):
            assert one.read("s") == []
            assert one.count("s") == 0
        later.append("s", [HumanMessage("new")])
        assert texts(plain.read("s")) == ["new"]
        later.clear("s")
        with store.client.connect() as connection:
            assert connection.execute(sa.text("SELECT * FROM message_store_expiry")).all() == []
        later.client.dispose()


# Errors.


def test_statements_that_fail(path, url):
    with SQLStore(url) as store:
        store.append("s", [HumanMessage("x")])
        execute(path, "ALTER TABLE message_store RENAME COLUMN message TO other")
        with pytest.raises(StoreError) as caught:
            store.read("s")
        assert type(caught.value) is StoreError
        assert (caught.value.operation, caught.value.session_id) == ("read", "s")


@pytest.mark.parametrize("tables", [["message_store", "message_store_state"], ["message_store_state"]])
def test_tables_that_were_dropped(path, url, tables):
    with SQLStore(url) as store:
        for call in (
            lambda: store.read("s"),
            lambda: store.append("s", [HumanMessage("x")]),
            lambda: asyncio.run(store.aget_state("s")),
            lambda: store.put_state("s", {"a": 1}),
            lambda: store.clear("s"),
        ):
            store.append("s", [HumanMessage("x")])
            store.put_state("s", {"a": 1})
            for table in tables:
                execute(path, f"DROP TABLE {table}")
            call()
        assert (store.read("s"), store.get_state("s")) == ([], None)


def test_no_file(tmp_path):
    (tmp_path / "text.db").write_text("this is no database " * 100)
    with pytest.raises(StoreError) as caught:
        SQLStore(f"sqlite:///{tmp_path}/text.db").read("s")
    assert type(caught.value) is StoreError
    with pytest.raises(StoreUnavailableError):
        SQLStore(f"sqlite:///{tmp_path}/no/folder.db").read("s")


def test_a_lock_that_is_never_let_go(path, url):
    store = SQLStore(client=sa.create_engine(url, connect_args={"timeout": 0.1}))
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
    store = SQLStore(client=sa.create_engine(url)) if given else SQLStore(url)
    store.append("s", [HumanMessage("x")])
    for call in (store.append, store.replace):
        execute(path, "ALTER TABLE message_store RENAME COLUMN message TO other")
        with pytest.raises(StoreError) as caught:
            call("s", [HumanMessage("private".upper())])
        assert "PRIVATE" not in "".join(traceback.format_exception(caught.value))
        execute(path, "ALTER TABLE message_store RENAME COLUMN other TO message")
        store.setup()


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
    assert prefix_end(prefix) == end


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
    assert statements.escape_row(text).isascii()
    assert json.loads(statements.escape_row(text)) == json.loads(text)


def test_limits():
    assert statements.Limit(3).holds("ééé")
    assert not statements.Limit(3).holds("éééé")
    assert not statements.Limit(9, 3).holds("éé")
    assert statements.Limit(charset="utf8mb3").holds("é\uffff")
    assert not statements.Limit(charset="utf8mb3").holds("👍")
    assert statements.Limit(charset="latin1").holds("é")
    assert not statements.Limit(charset="latin1").holds("語")
    assert not statements.Limit(charset="greek").holds("é")
    assert statements.Limit(charset="utf8mb4").holds("👍")
