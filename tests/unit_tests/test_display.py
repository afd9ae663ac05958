"""What a notebook shows of histories, views, listings and registries, and their tables of pandas."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import sys
import time

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

import langchain_histories as lh
from langchain_histories import ConfigurationError, MissingExtraError
from langchain_histories.stores.sql import SQLStore

CALL = {"name": "search", "args": {"q": "<b>Riga</b>"}, "id": "c1", "type": "tool_call"}


@pytest.fixture
def store(tmp_path):
    with lh.open_store(f"sqlite:///{tmp_path}/chat.db") as store:
        yield store


def turns(count):
    return [(HumanMessage, AIMessage)[n % 2](f"text {n}") for n in range(count)]


def test_a_history_shows_its_newest_messages(store):
    history = store.history("42")
    history.add_messages([HumanMessage("<script>alert(1)</script>"), *turns(1_010)])
    page = history._repr_html_()
    assert page.count("<article") == 20
    assert "991 earlier messages are not shown." in page
    assert "text 1009" in page
    assert "text 989" not in page
    assert "UTC</time>" in page
    assert "Session 42" in page
    assert "<script>" not in store.history("42")._repr_html_()


def test_what_is_said_cannot_become_a_part_of_the_page(store):
    history = store.history("<i>42</i>")
    history.add_messages(
        [
            HumanMessage("</p><script>alert(1)</script>", name='"><img src=x>'),
            AIMessage("", tool_calls=[CALL]),
            ToolMessage("</pre><style>*{}</style>", tool_call_id="c1", status="error"),
            AIMessage("x" * 5_000),
        ]
    )
    page = history._repr_html_()
    assert not [tag for tag in ("<script", "<img", "<b>", "<i>", "</pre><style") if tag in page]
    assert "<details><summary" in page  # the call is folded
    assert "(5,000 characters)" in page
    assert "Tool: error" in page


def test_an_empty_history_is_true_and_says_that_it_is_empty(store):
    history = store.history("none")
    for it in (history, lh.WindowedChatMessageHistory(history), lh.InMemoryChatMessageHistory()):
        assert bool(it)
        assert (it or None) is it
        assert not hasattr(type(it), "__len__")
        assert "No messages." in it._repr_html_()
        assert it.count() == 0
        assert list(it) == []
    assert store.sessions() == []


def test_a_view_names_its_session_and_its_sizes(store):
    history = store.history("42")
    history.add_messages(turns(4))
    window = lh.WindowedChatMessageHistory(history, keep=[("turns", 3), {"tokens": 900, "messages": 8}])
    sizes = "[{'turns': 3}, {'tokens': 900, 'messages': 8}]"
    assert (
        repr(window) == f"WindowedChatMessageHistory(session_id='42', keep={sizes}, history=StoredChatMessageHistory)"
    )
    view = lh.SummarizingChatMessageHistory(history, "extractive", trigger=3_000)
    assert "session_id='42', trigger={'tokens': 3000}, keep={'tokens': 1000}" in repr(view)
    for it in (window, view):
        assert "text 3" in it._repr_html_()
        assert it.count() == 4
        assert [record.message.content for record in it] == [f"text {n}" for n in range(4)]
        assert len(it.to_pandas()) == 4


def test_nothing_is_read_before_it_is_displayed(store, monkeypatch):
    def read(*_args, **_options):
        raise AssertionError

    monkeypatch.setattr(type(store), "records", read)
    history = store.history("42")
    repr(history), repr(lh.WindowedChatMessageHistory(history)), iter(history)


def test_the_plain_form_is_left_where_the_store_fails(tmp_path, monkeypatch):
    missing = lh.open_history(f"sqlite:///{tmp_path}/missing/chat.db", "s")
    assert missing._repr_html_() is None
    assert lh.WindowedChatMessageHistory(missing)._repr_html_() is None
    engine = sa.ext.asyncio.create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/chat.db")
    history = SQLStore(async_client=engine).history("s")
    with pytest.raises(ConfigurationError):
        history.get_messages()
    assert history._repr_html_() is None


def test_a_display_takes_two_seconds_at_most():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        history = lh.open_history(f"redis://127.0.0.1:{silent.getsockname()[1]}", "s", timeout=60)
        began = time.monotonic()
        assert history._repr_html_() is None
        assert time.monotonic() - began < 10


def test_a_walk_reads_pages(store):
    history = store.history("42")
    history.add_messages(turns(600))
    texts = [f"text {n}" for n in range(600)]
    assert [record.message.content for record in history] == texts
    assert next(iter(history)).message.content == "text 0"

    async def walk():
        return [record.message.content async for record in history], await history.acount()

    assert asyncio.run(walk()) == (texts, 600)


def test_a_walk_goes_past_records_that_cannot_be_read(tmp_path):
    url = f"sqlite:///{tmp_path}/chat.db"
    with lh.open_store(url, on_corrupt="skip") as store:
        store.append("s", turns(2))
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            for _ in range(300):
                connection.execute(sa.text("INSERT INTO message_store (session_id, message) VALUES ('s', '{')"))
        engine.dispose()
        store.append("s", turns(300))
        assert len(list(store.history("s"))) == 302


def test_a_listing_and_a_registry_are_tables(store):
    store.append("a", turns(3))
    store.append("b<", turns(1))
    listed = store.sessions()
    assert listed == [*listed]
    page = listed._repr_html_()
    assert "2 sessions" in page
    assert "b&lt;" in page
    assert "<th>messages</th>" in page
    assert "<th>title</th>" not in page
    store.describe("a", title="A <title>")
    assert "A &lt;title&gt;" in store.sessions(order="newest")._repr_html_()
    registry = lh.HistoryRegistry({"chat": store, "other": lh.open_store("memory://")}, default="chat")
    assert "SQLStore" in registry._repr_html_()
    frame = listed.to_pandas()
    assert [*frame["session_id"]] == ["a", "b<"]
    assert str(frame["last_at"].dt.tz) == "UTC"


def test_a_table_of_pandas(store):
    history = store.history("42")
    history.add_messages([HumanMessage("a", name="Ann"), AIMessage("b", tool_calls=[CALL])], meta={"n": 1})
    for frame in (history.to_pandas(), asyncio.run(history.ato_pandas())):
        assert [*frame["content"]] == ["a", "b"]
        assert [*frame["type"]] == ["human", "ai"]
        assert frame["tool_calls"][1][0]["name"] == "search"
        assert [*frame["meta"]] == [{"n": 1}, {"n": 1}]
        assert frame["at"][0].to_pydatetime().tzinfo is not None
        assert frame["at"][0] <= dt.datetime.now(dt.UTC)
    assert [*store.history("none").to_pandas().columns] == [*frame.columns]


def test_without_pandas_its_extra_is_named(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"langchain-histories\[pandas\]"):
        store.history("42").to_pandas()
