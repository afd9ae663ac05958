"""Edits that change the end of a file in place: killed, failed, beside readers."""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import threading

import pytest
from edited import Twins
from langchain_core.messages import AIMessage, HumanMessage
from servers import BUSY

from langchain_histories import Capability, FileChatMessageHistory, FileStore, StoreError
from langchain_histories.stores.file import in_place, operations
from langchain_histories.testing.suite.edits import EditTests
from langchain_histories.testing.suite.removal import RemovalTests


@pytest.fixture(autouse=True)
def _every_file_is_long(monkeypatch):
    monkeypatch.setattr(operations, "_LONG", 0)


@pytest.fixture
def store(tmp_path):
    store = FileStore(path=tmp_path / "store")
    store.append("s", [HumanMessage("a" * 3000), AIMessage("b" * 40), HumanMessage("c" * 40)])
    return store


def contents(store, session_id="s"):
    return [message.content for message in store.read(session_id)]


class TestFilesThatAreEditedInPlace(EditTests, RemovalTests):
    capabilities = ~Capability.NATIVE_ASYNC

    @pytest.fixture
    def open_store(self, tmp_path):
        return functools.partial(FileStore, path=tmp_path / "store", timeout=BUSY, fsync=False)

    def traces(self, store):
        return sorted(str(path) for path in store.client.rglob("*") if ".locks" not in path.parts)

    def files(self, store):
        return [path for path in store.client.rglob("*") if path.is_file()]


@pytest.mark.parametrize("seed", range(4))
def test_a_session_is_as_a_list_to_which_the_same_is_done(seed, tmp_path):
    Twins(FileStore(path=tmp_path, fsync=False), seed).live(25)


def test_the_file_stays_and_holds_the_new_end(store):
    path = store.path / "s.json"
    inode = path.stat().st_ino
    ids = [record.id for record in store.records("s")]
    store.edit_message("s", ids[2], HumanMessage("changed"))
    store.delete("s", ids[1:2])
    assert path.stat().st_ino == inode
    assert contents(store) == ["a" * 3000, "changed"]
    assert [message.content for message in FileChatMessageHistory(path).messages] == contents(store)
    assert len(json.loads(path.read_bytes())) == 2
    (note,) = store.path.glob(".locks/*.edit")
    assert len(note.read_bytes()) == in_place.TOKEN  # nothing of the conversation is left in it
    assert note.stat().st_mode & 0o777 == 0o600


def longer(store):
    store.edit_message("s", store.records("s")[1].id, AIMessage("B" * 900))


def shorter(store):
    store.truncate("s", after=store.records("s")[0].id)


NEW = {longer: ["a" * 3000, "B" * 900, "c" * 40], shorter: ["a" * 3000]}


class KilledAt:
    """Ends the process at a moment of an edit: in the middle of a write, or before the file is synced."""

    def __init__(self, step, part):
        self._left, self._part = step, part
        self._write, self._sync = in_place.write_at, in_place._sync

    def write(self, file, start, data):
        if self._left == 0:
            self._write(file, start, data[: int(len(data) * self._part)])
            os._exit(0)
        self._left -= 1
        self._write(file, start, data)

    def sync(self, file, **options):
        if self._left == 0:
            os._exit(0)
        self._left -= 1
        self._sync(file, **options)


@pytest.mark.parametrize("change", NEW)
@pytest.mark.parametrize("part", [0, 0.01, 0.5, 1])
@pytest.mark.parametrize("step", range(6))
def test_killed_at_each_step(store, monkeypatch, step, part, change):
    """Readers see the old end or the new one, whole, and what is appended next is behind it."""
    path, old = store.path / "s.json", contents(store)
    child = os.fork()
    if child == 0:
        try:
            killed = KilledAt(step, part)
            in_place.write_at, in_place._sync = killed.write, killed.sync
            change(store)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    # The new end is seen from when the note is whole.
    seen = NEW[change] if step or part == 1 else old
    left = path.read_bytes()
    for _ in range(2):
        assert contents(store) == seen
        assert [message.content for message in store.read("s", last=1)] == seen[-1:]
        assert store.count("s") == len(seen)
    assert path.read_bytes() == left
    store.append("s", [HumanMessage("next")])
    assert contents(store) == [*seen, "next"]
    assert len(json.loads(path.read_bytes())) == len(seen) + 1
    assert all(len(note.read_bytes()) <= in_place.TOKEN for note in store.path.glob(".locks/*.edit"))


def test_a_note_is_of_one_file(store):
    """What a killed writer left is not taken for the end of a file that has the place of the old one."""
    child = os.fork()
    if child == 0:
        try:
            in_place._put = lambda *_, **__: os._exit(0)
            shorter(store)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert contents(store) == NEW[shorter]
    other = FileStore(path=store.path.parent / "other", fsync=False)
    other.append("s", [HumanMessage("x" * 3000), HumanMessage("y"), HumanMessage("z")])
    (other.path / "s.json").replace(store.path / "s.json")
    assert contents(store) == contents(FileStore(path=store.path)) == ["x" * 3000, "y", "z"]
    store.append("s", [HumanMessage("next")])
    assert contents(store) == ["x" * 3000, "y", "z", "next"]


def test_killed_editors(store):
    """At whatever moment an editor is killed, no message is lost and none is half."""
    for _ in range(10):
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                number = 0
                while True:
                    store.edit_message("s", store.records("s")[1].id, AIMessage(f"{number}" * 5000))
                    os.write(send, b".")
                    number += 1
            finally:
                os._exit(1)
        os.close(send)
        with os.fdopen(receive, "rb") as told:
            told.read(3)
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        first, second, third = contents(store)
        assert (first, third) == ("a" * 3000, "c" * 40)
        assert second == second[: len(second) // 5000] * 5000
    store.append("s", [HumanMessage("next")])
    assert len(json.loads((store.path / "s.json").read_bytes())) == 4


def test_readers_beside_edits(tmp_path):
    """Who reads while the end of the file changes sees one moment of it."""
    store = FileStore(path=tmp_path, fsync=False)
    store.append("s", [HumanMessage("a" * 50_000), HumanMessage("0" * 60_000), HumanMessage("0" * 60_000)])
    record_id = store.records("s")[1].id
    over = threading.Event()

    def edit():
        for number in range(80):
            length = 60_000 if number % 2 else 20_000

            def change(records, text=str(number % 10) * length):
                return [record._replace(message=HumanMessage(text)) for record in records]

            store.edit("s", change, after=store.records("s", first=1)[0].position)
        over.set()

    writer = threading.Thread(target=edit)
    writer.start()
    try:
        while not over.is_set():
            first, second, third = contents(store)
            assert first == "a" * 50_000
            assert second == third == second[:1] * len(second)
            assert store.count("s") == 3
    finally:
        writer.join()
    assert store.records("s")[1].id == record_id


@pytest.mark.parametrize("room", [0, 100, 5000])
def test_a_full_disk(store, room):
    """An edit for which there is no room leaves all as it was, and the next one works."""
    path, old = store.path / "s.json", contents(store)
    before = path.read_bytes()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            # More room than the note needs, so it is the file that has none.
            limit = (len(before) + room, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            with pytest.raises(StoreError):
                store.edit_message("s", store.records("s")[2].id, HumanMessage("C" * 6000))
            assert path.read_bytes() == before
            assert contents(store) == old
            shorter(store)
            assert contents(store) == NEW[shorter]
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert contents(store) == NEW[shorter]
