"""Messages in a model of the user's own, on SQLite."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import declarative_base
from sqlalchemy.pool import NullPool

from langchain_histories import (
    BaseMessageConverter,
    Capability,
    ConfigurationError,
    DefaultMessageConverter,
    SQLChatMessageHistory,
    StoreError,
    UnsupportedOperationError,
)
from langchain_histories.codec import RecordFormat, Row
from langchain_histories.stores.sql.models import ModelOperations
from langchain_histories.testing import MessageStoreTests


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


class Kept(BaseMessageConverter):
    """Keeps all of a message in a model of its own."""

    def __init__(self):
        columns = {
            "__tablename__": "kept",
            "id": sa.Column(sa.Integer, primary_key=True),
            "thread": sa.Column(sa.Text, index=True),
            "body": sa.Column(sa.Text, nullable=False),
        }
        self.model = type("Kept", (declarative_base(),), columns)

    def from_sql_model(self, sql_message):
        return RecordFormat().decode_messages([Row(sql_message.body, "")], sql_message.thread)[0]

    def to_sql_model(self, message, session_id):
        _, (body,) = RecordFormat().encode([message])
        return self.model(thread=session_id, body=body)

    def get_sql_model_class(self):
        return self.model


def open_model_store(url):
    return SQLChatMessageHistory(
        "any", connection=url, custom_message_converter=Kept(), session_id_field_name="thread"
    ).store


class TestModelStore(MessageStoreTests):
    """Less the rules about what a row of a user's model has not: a text of ours, an envelope, a limit that we know."""

    capabilities = ModelOperations.capabilities & ~Capability.NATIVE_ASYNC
    test_a_corrupt_record = test_a_record_without_envelope = test_a_batch_stored_twice_is_read_once = None
    test_records = test_codec = test_before_save = test_an_object_that_json_cannot_hold = None
    test_whatever_is_stored = test_objects_can_be_refused = None
    test_records_keep_ids_and_times = test_a_copy_there_and_back = None
    test_meta = test_meta_by_other_ways = test_filters = test_bad_meta = test_a_codec_covers_meta = None
    test_what_is_too_large_is_refused = test_ttl_where_there_is_none = None
    # The column of session ids may be of any type.
    test_bad_session_ids = test_errors_are_of_one_tree = None

    @pytest.fixture
    def open_store(self, url):
        return functools.partial(open_model_store, url)

    @pytest.fixture
    def unreachable_store(self, tmp_path):
        return open_model_store(f"sqlite:///{tmp_path}/no/such/folder/histories.db")

    def traces(self, store):
        with store.client.connect() as connection:
            return [str(row) for row in connection.execute(sa.text("SELECT thread, id FROM kept ORDER BY id"))]

    def places(self, store):
        return list(map(str, self.files(store)))

    def files(self, store):
        place = Path(store.client.url.database)
        return sorted(place.parent.glob(f"{place.name}*"))


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
    assert history.store.operations.found is other.store.operations.found
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


def test_a_model_keeps_no_meta(url):
    """Its rows are the converter's, so there is no place for it; a filter by type needs none."""
    with open_model_store(url) as store:
        with pytest.raises(UnsupportedOperationError, match="converter"):
            store.append("s", [HumanMessage("a")], meta={"a": 1})
        store.append("s", [HumanMessage("a"), AIMessage("b")])
        assert texts(record.message for record in store.records("s", type="ai", raw=False)) == ["b"]
        assert [record.meta for record in store.records("s")] == [{}, {}]
