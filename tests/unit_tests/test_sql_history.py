"""`SQLChatMessageHistory` on SQLite."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from langchain_histories import (
    DefaultMessageConverter,
    SQLChatMessageHistory,
    open_history,
)


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


def texts(messages):
    return [message.content for message in messages]


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
    assert one.store.operations.found is other.store.operations.found
    assert (
        SQLChatMessageHistory("b", "my_table", connection=url).store.operations.found is not one.store.operations.found
    )
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
    assert SQLChatMessageHistory("t", connection=engine).engine is history.engine


@pytest.mark.parametrize("connection", [None, 5, object()])
def test_no_connection(connection):
    with pytest.raises(ValueError, match=r"url|connection"):
        SQLChatMessageHistory("s", connection=connection)
