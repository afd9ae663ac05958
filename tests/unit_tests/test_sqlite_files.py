"""The files of SQLite: who may read them, and that nothing removed is left in them. The kit's rules run on a file too."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import warnings
from contextlib import closing

import pytest
import sqlalchemy as sa
from langchain_core.messages import HumanMessage

from langchain_histories import SQLChatMessageHistory, SQLStore, StoreUnavailableError, user_session_id
from langchain_histories.stores.base import settle


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chat.db"


@pytest.fixture(params=["sync", "async"])
def call(request):
    """Call a method of a store, or its async twin."""
    with asyncio.Runner() as runner:

        def call(store, name, *args, **options):
            if request.param == "sync":
                return getattr(store, name)(*args, **options)
            return runner.run(getattr(store, f"a{name}")(*args, **options))

        yield call


class Careless(sqlite3.Connection):
    """A connection of an SQLite that does not overwrite what is removed unless it is told to; Debian's does."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.execute("PRAGMA secure_delete=OFF")


async def is_careful(client):
    if hasattr(client, "sync_engine"):
        async with client.connect() as connection:
            return (await connection.execute(sa.text("PRAGMA secure_delete"))).scalar()
    with client.connect() as connection:
        return connection.execute(sa.text("PRAGMA secure_delete")).scalar()


@pytest.mark.parametrize("engine_args", [{}, {"connect_args": {"factory": Careless}}])
def test_every_connection_overwrites_what_it_removes(path, call, monkeypatch, engine_args):
    monkeypatch.setattr(sqlite3, "Connection", Careless)
    store = SQLStore(f"sqlite:///{path}", engine_args=engine_args)
    assert call(store, "run", "look", lambda client: settle(is_careful(client))) == 1


def test_the_engine_that_a_history_gives_away_does_too(path, monkeypatch):
    monkeypatch.setattr(sqlite3, "Connection", Careless)
    history = SQLChatMessageHistory("s", connection=f"sqlite:///{path}")
    assert asyncio.run(is_careful(history.async_engine)) == 1
    assert path.stat().st_mode & 0o777 == 0o600


def log_of(path):
    return path.with_name("chat.db-wal").read_bytes()


@pytest.mark.parametrize("next_call", [("read", "kept"), ("append", "new", [HumanMessage("x")]), ("sessions",)])
def test_what_cannot_be_done_while_others_read_is_done_by_the_next_operation(path, call, next_call):
    with SQLStore(f"sqlite:///{path}") as store:
        for session_id in ("kept", "gone"):
            call(store, "append", session_id, [HumanMessage(f"secret of {session_id}")])
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM message_store").fetchall()
            call(store, "clear", "gone")
            assert call(store, "count", "kept") == 1
            assert b"secret of gone" in log_of(path)
            reader.execute("COMMIT")
            # A connection that reads nothing hinders nobody.
            call(store, *next_call)
            assert b"secret of gone" not in log_of(path) + path.read_bytes()
            assert reader.execute("PRAGMA busy_timeout").fetchall() == [(5000,)]
            assert store.client.connect().execute(sa.text("PRAGMA busy_timeout")).scalar() == 10_000


@pytest.mark.parametrize(("seed", "users", "remove"), [(5, 30, "clear"), (8, 60, "erase")])
def test_removed_sessions_are_in_no_unused_part_of_a_page(path, call, seed, users, remove):
    """Sessions that stand between others, so that SQLite moves rows from page to page when some of them go."""
    chance, names = random.Random(seed), [f"user{number}" for number in range(users)]
    with SQLStore(f"sqlite:///{path}") as store:
        for _ in range(5):
            for name in chance.sample(names, users):
                texts = [HumanMessage(f"a secret of {name}." + "x" * chance.randint(0, 900)) for _ in range(2)]
                call(store, "append", user_session_id(name, "1"), texts)
        for name in chance.sample(names, users):
            if remove == "erase":
                call(store, "erase", user_id=name)
            else:
                call(store, "clear", user_session_id(name, "1"))
            assert f"a secret of {name}.".encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("columns", "is_numbered"),
    [
        ("a TEXT", False),
        ("a INTEGER, b INTEGER DEFAULT 1, PRIMARY KEY (a, b)", False),
        ("a TEXT, n INTEGER PRIMARY KEY", True),
    ],
)
def test_rows_of_others_keep_their_numbers(path, call, columns, is_numbered):
    """`VACUUM` numbers the rows of a table anew where no column of it is the number."""
    with closing(sqlite3.connect(path)) as connection, SQLStore(f"sqlite:///{path}") as store:
        connection.executescript(f"CREATE TABLE other ({columns});")
        connection.executemany("INSERT INTO other (a) VALUES (?)", [(number,) for number in range(5)])
        connection.executescript("DELETE FROM other WHERE a < 3;")
        before = connection.execute("SELECT rowid, a FROM other").fetchall()
        call(store, "append", "s", [HumanMessage("x" * 20_000)])
        call(store, "clear", "s")
        assert connection.execute("SELECT rowid, a FROM other").fetchall() == before
        pages = connection.execute("PRAGMA freelist_count").fetchone()[0]
        assert (pages == 0) == is_numbered


def test_only_what_removes_empties_the_log(path, call):
    with SQLStore(f"sqlite:///{path}") as store:
        call(store, "append", "s", [HumanMessage("first")])
        call(store, "put_state", "s", {"a": 1})
        call(store, "clear", "never there")
        size = len(log_of(path))
        assert size
        call(store, "append", "s", [HumanMessage("second")])
        call(store, "read", "s")
        assert len(log_of(path)) > size
        call(store, "put_state", "s", {"a": 2})
        assert log_of(path) == b""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
@pytest.mark.parametrize("url", ["sqlite:///{}", "sqlite:///file:{}?uri=true", "sqlite+aiosqlite:///{}"])
def test_nobody_else_may_read_the_files(path, call, url):
    before = os.umask(0)
    try:
        with SQLStore(url.format(path)) as store:
            call(store, "append", "s", [HumanMessage("x")])
            modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        assert modes == {"chat.db": 0o600, "chat.db-wal": 0o600, "chat.db-shm": 0o600}
    finally:
        os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
def test_a_file_that_exists_keeps_its_mode(path, call):
    path.touch()
    path.chmod(0o640)
    link = path.with_name("link.db")
    link.symlink_to(path)
    with SQLStore(f"sqlite:///{link}") as store:
        call(store, "append", "s", [HumanMessage("x")])
        assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o640}
    assert link.is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
def test_a_link_to_nothing_becomes_a_file_of_the_owner(path, call):
    link = path.with_name("link.db")
    link.symlink_to(path)
    with SQLStore(f"sqlite:///{link}") as store:
        call(store, "append", "s", [HumanMessage("x")])
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_database_that_may_not_be_made_makes_no_file(path, call):
    with SQLStore(f"sqlite:///file:{path}?mode=rw&uri=true") as store, pytest.raises(Exception, match="reached"):
        call(store, "append", "s", [HumanMessage("x")])
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_read_leaves_langchains_file_as_it_is(tmp_path, face):
    path, url = tmp_path / "theirs.db", f"sqlite:///{tmp_path}/theirs.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_community.chat_message_histories import SQLChatMessageHistory as Theirs

        theirs = Theirs("s", connection=url)
    theirs.add_message(HumanMessage("x"))
    theirs.engine.dispose()
    before = path.read_bytes()
    with SQLStore(url) as store:
        if face == "sync":
            assert (store.read("s"), store.count("s"), store.get_state("s")) == ([HumanMessage("x")], 1, None)
            assert [found.session_id for found in store.sessions()] == ["s"]
        else:
            assert asyncio.run(store.aread("s")) == [HumanMessage("x")]
            assert asyncio.run(store.aget_state("s")) is None
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["theirs.db"]


def test_a_missing_folder_is_no_empty_history(tmp_path):
    store = SQLStore(f"sqlite:///{tmp_path}/nosuchdir/chat.db")
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=r"nosuchdir' does not exist: make it\.$"):
            store.read("s")
    assert not list(tmp_path.iterdir())
