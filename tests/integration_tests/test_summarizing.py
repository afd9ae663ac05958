"""Summaries on every store: sync and async, several processes at once, and no trace when the session is gone."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import uuid

import pytest
from conversations import Face, count
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from langchain_histories import (
    FileStore,
    MongoDBStore,
    RedisStore,
    SQLStore,
    Summarizer,
    SummarizingChatMessageHistory,
    user_session_id,
)

STORES = ["file", "sqlite", "redis", "redis_cluster", "postgres", "mariadb", "mongodb"]
SESSION = user_session_id("ivan", "1")


@pytest.fixture(params=STORES)
def open_store(request, tmp_path):  # noqa: PLR0911  # a table
    """A function that opens a store of the same data each time, in other processes too."""
    name = f"t{uuid.uuid4().hex}"
    match request.param:
        case "file":
            return functools.partial(FileStore, f"file:{tmp_path}")
        case "sqlite":
            return functools.partial(SQLStore, f"sqlite:///{tmp_path}/histories.db")
        case "redis":
            url = request.getfixturevalue("redis_server").url
            return functools.partial(RedisStore, url, key_prefix=f"{name}:", ttl=3600)
        case "redis_cluster":
            return functools.partial(RedisStore, request.getfixturevalue("redis_cluster").url, key_prefix=f"{name}:")
        case "postgres":
            url = request.getfixturevalue("postgres_server").url_with(scheme="postgresql+psycopg")
            return functools.partial(SQLStore, url, table_name=name)
        case "mariadb":
            url = request.getfixturevalue("mariadb_server").url_with(scheme="mariadb+pymysql")
            return functools.partial(SQLStore, url, table_name=name)
        case _:
            url = request.getfixturevalue("mongodb_server").url
            return functools.partial(MongoDBStore, url, database_name="histories", collection_name=name)


@pytest.fixture(params=["sync", "async"])
def face(request):
    if request.param == "sync":
        yield Face()
    else:
        with asyncio.Runner() as runner:
            yield Face(runner)


class Lister(Summarizer):
    """Lists which messages a summary stands for, by their numbers, as `3 4 5`."""

    def summarize(self, summary, messages, max_tokens):
        return " ".join([summary, *(message.content.split()[1] for message in messages)]).strip()


def make_view(store):
    return SummarizingChatMessageHistory(
        store.history(SESSION),
        Lister(),
        trigger=("tokens", 2500),
        keep=("tokens", 400),
        max_summary_tokens=1000,
        token_counter=count,
    )


def make_turn(number):
    return [HumanMessage(f"question {number}q " + "x" * 300), AIMessage(f"answer {number}a " + "x" * 300)]


def check(face, view, store):
    """The view is the summary and exactly what it does not cover."""
    transcript = store.read(SESSION)
    shown, summary = face.messages(view), face.summary(view)
    assert shown[0] == transcript[0]
    assert count(shown) <= 2500
    covered = [message.content.split()[1] for message in transcript[1 : summary.covered]]
    assert summary.text.split() == covered
    assert shown[2:] == transcript[summary.covered :]
    return summary


def test_a_long_conversation(open_store, face):
    with open_store() as store:
        view = make_view(store)
        face.add(view, [SystemMessage("Be kind.")])
        for number in range(40):
            face.messages(view)
            face.add(view, make_turn(number))
        assert check(face, view, store).covered > 50
        with open_store() as other:
            assert face.messages(make_view(other)) == face.messages(view)
        # A message in the middle is deleted: the next summary is made without it.
        store.delete(SESSION, [store.records(SESSION)[4].id])
        for number in range(40, 60):
            face.messages(view)
            face.add(view, make_turn(number))
        summary = check(face, view, store)
        assert "1a" not in summary.text.split()
        assert [info.session_id for info in store.sessions()] == [SESSION]
        face.run(view, "clear")
        assert face.messages(view) == []
        assert store.get_state(SESSION) is None
        face.add(view, [SystemMessage("Be brief."), *make_turn("new")])
        assert len(face.messages(view)) == 3
        for number in range(20):
            face.add(view, make_turn(number))
        assert check(face, view, store)
        assert store.erase(user_id="ivan") == 1
        assert store.get_state(SESSION) is None
        if face.is_async:
            face.run(store, "close")


def work(open_store, writer, turns, start):
    """One process: reads and adds turns, as fast as it can."""
    with open_store() as store:
        start.wait()
        view = make_view(store)
        for number in range(turns):
            assert view.messages
            view.add_messages(make_turn(f"{writer}.{number}"))


@pytest.mark.parametrize("open_store", ["file", "redis", "postgres", "mongodb"], indirect=True)
def test_three_processes_summarize_one_session(open_store):
    context = multiprocessing.get_context("spawn")
    with open_store() as store:
        store.append(SESSION, [SystemMessage("Be kind.")])
        start = context.Barrier(3)
        processes = [context.Process(target=work, args=(open_store, writer, 20, start)) for writer in "abc"]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            assert process.exitcode == 0
        view = make_view(store)
        assert store.count(SESSION) == 121
        view.add_messages(make_turn("last"))
        view.compact(force=True)
        check(Face(), view, store)
