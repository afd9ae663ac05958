"""`SQLChatMessageHistory` in a database that this package does not know: DuckDB stands for all of them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage
from sqlalchemy.orm import declarative_base

from langchain_histories import (
    Capability,
    ConfigurationError,
    DefaultMessageConverter,
    SQLChatMessageHistory,
    SQLStore,
    UnsupportedOperationError,
)
from langchain_histories.stores.sql.connections import database_of_histories
from langchain_histories.stores.sql.other_dialects import OtherStore
from langchain_histories.testing.suite.batches import BatchTests
from langchain_histories.testing.suite.langchain import LangChainTests
from langchain_histories.testing.suite.reads import ReadTests
from langchain_histories.testing.suite.records import RecordTests
from langchain_histories.testing.suite.removal import RemovalTests

TURN = [HumanMessage("q"), AIMessage("a")]


@pytest.fixture
def url(tmp_path):
    return f"duckdb:///{tmp_path}/chat.duckdb"


def open_other_store(url, **options):
    database = database_of_histories(url, None, None, any_dialect=True)
    return OtherStore(database, "message_store", "session_id", **options)


class TestDuckDB(BatchTests, LangChainTests, ReadTests, RecordTests, RemovalTests):
    """The rules for what it has. Those about errors, clients and forks know of nothing that is of this store alone."""

    capabilities = (
        Capability.ATOMIC_BATCH
        | Capability.TAIL_READ
        | Capability.DELETE
        | Capability.REPLACE
        | Capability.LARGE_SESSIONS
        | Capability.PERSISTENT
    )

    @pytest.fixture
    def open_store(self, url):
        return functools.partial(open_other_store, url)

    def places(self, store):
        return sa.inspect(store.client).get_table_names()


def test_what_it_lacks(url, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            history = SQLChatMessageHistory("s", connection=url)
            history.clear()
            history.add_messages(TURN)
    told = [record.getMessage() for record in caplog.records if "langchain_histories" in record.name]
    assert len(told) == 1
    assert "duckdb" in told[0]
    store = history.store
    assert store.capabilities == TestDuckDB.capabilities
    for call in (store.sessions, lambda: store.get_state("s"), lambda: store.erase(user_id="s")):
        with pytest.raises(UnsupportedOperationError):
            call()
    for call in (lambda: SQLStore(url), lambda: SQLStore(client=history.engine)):
        with pytest.raises(ConfigurationError, match=r"not in 'duckdb'.*SQLChatMessageHistory"):
            call()


def test_beside_langchains_class(url):
    """Which cannot make the table in DuckDB, and uses one that is there."""
    from langchain_community.chat_message_histories import SQLChatMessageHistory as Theirs

    ours = SQLChatMessageHistory("s", "chat", connection=url)
    ours.add_messages([*TURN, HumanMessage("é 👍")])
    theirs = Theirs("s", "chat", connection=url)
    assert theirs.messages == [*TURN, HumanMessage("é 👍")]
    theirs.add_messages(TURN)
    Theirs("other", "chat", connection=url).add_messages(TURN)
    assert ours.messages == asyncio.run(ours.aget_messages()) == [*TURN, HumanMessage("é 👍"), *TURN]
    ours.clear()
    assert (ours.messages, SQLChatMessageHistory("other", "chat", connection=url).messages) == ([], TURN)


def test_a_table_that_is_there_numbers_its_rows_as_it_does(url):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SEQUENCE mine START 5")
        connection.exec_driver_sql(
            "CREATE TABLE message_store (id INT DEFAULT nextval('mine'), session_id TEXT, message TEXT, made TIMESTAMP)"
        )
    history = SQLChatMessageHistory("s", connection=engine)
    history.add_messages(TURN)
    assert history.messages == TURN
    assert [record.position for record in history.store.records("s")] == ["5", "6"]
    engine.dispose()


@pytest.mark.parametrize("url", ["duckdb:///:memory:", "duckdb://"])
def test_in_memory(url):
    """One database for all histories and threads of the process."""

    def add(number):
        SQLChatMessageHistory(f"s{number}", connection=url).add_messages(TURN)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(8)))
    for number in range(8):
        history = SQLChatMessageHistory(f"s{number}", connection=url)
        assert asyncio.run(history.aget_messages()) == history.messages == TURN
        history.clear()
    assert Capability.PERSISTENT not in history.store.capabilities


def test_a_set_up_that_races(url):
    engines = [sa.create_engine(url) for _ in range(4)]
    stores = [SQLChatMessageHistory("s", connection=engine).store for engine in engines]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda store: store.append("s", TURN), stores))
    assert stores[0].count("s") == 8
    for engine in engines:
        engine.dispose()


def test_a_converter(url):
    class Numbered(DefaultMessageConverter):
        def get_sql_model_class(self):
            return self.model_class

    numbers = sa.Sequence("said_id")
    columns = {
        "__tablename__": "said",
        "id": sa.Column(sa.Integer, numbers, server_default=numbers.next_value(), primary_key=True),
        "session_id": sa.Column(sa.Text),
        "message": sa.Column(sa.Text),
    }
    converter = Numbered("said")
    converter.model_class = type("Said", (declarative_base(),), columns)
    history = SQLChatMessageHistory("s", connection=url, custom_message_converter=converter)
    history.add_messages(TURN)
    assert history.messages == TURN


@pytest.mark.parametrize("url", ["nosuchdialect://h/d", "duckdb+nosuch://h/d", "firebird://u:s3cret@h/d"])
def test_a_dialect_that_is_not_installed(url):
    with pytest.raises(ConfigurationError, match="install the package") as caught:
        SQLChatMessageHistory("s", connection=url)
    assert "s3cret" not in str(caught.value)


def test_a_driver_that_is_not_installed():
    with pytest.raises(ConfigurationError, match="'oracledb'"):
        SQLChatMessageHistory("s", connection="oracle+oracledb://u:s3cret@h/d")


@pytest.mark.parametrize("names", [("", "session_id"), ("chat", "a\0"), (5, "session_id")])
def test_names_that_are_none(url, names):
    with pytest.raises(ConfigurationError, match="must be a name"):
        SQLChatMessageHistory("s", *names, connection=url)


def test_odd_names(url):
    history = SQLChatMessageHistory("s", 'a "table":x%', "who:is it", connection=url)
    history.add_messages(TURN)
    assert history.messages == TURN
