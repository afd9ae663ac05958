"""`copy`: what a store gets from another, and what becomes of it when something fails on the way."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tracemalloc

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage
from sqlalchemy.orm import declarative_base

from langchain_histories import (
    Capability,
    ConfigurationError,
    CopyError,
    CorruptRecordError,
    DefaultMessageConverter,
    ExtractiveSummarizer,
    FileStore,
    InvalidMessageError,
    MemoryStore,
    RecordTooLargeError,
    SQLChatMessageHistory,
    SQLStore,
    SummarizingChatMessageHistory,
    UnsupportedOperationError,
    acopy,
    copy,
    digest,
    user_session_id,
)
from langchain_histories.conversations import _reading
from langchain_histories.testing.messages import ShoutingCodec, numbered, texts
from langchain_histories.testing.suite.foreign import plant

OLD = '{"type": "human", "data": {"content": "old", "type": "human", "example": false}}'


def told(store, session_id):
    return [(record.id, record.at, record.message.content) for record in store.records(session_id)]


@pytest.fixture
def source():
    store = MemoryStore()
    store.append("a", numbered(3))
    store.append("b", [HumanMessage("x"), AIMessage("y")])
    return store


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(_reading, "PAGE", 4)
    monkeypatch.setattr(_reading, "SESSIONS", 2)


def test_all_sessions_of_several_pages(small_pages, tmp_path):
    source, target = MemoryStore(), SQLStore(f"sqlite:///{tmp_path}/x.db")
    for number in range(9):
        source.append(f"s{number}", numbered(number))
    told_of = []
    report = copy(source, target, on_progress=told_of.append)
    assert (report.sessions, report.records, report.found) == (8, 36, 0)
    assert [(at.session_id, at.sessions, at.records) for at in told_of][-2:] == [("s7", 7, 28), ("s8", 8, 36)]
    for number in range(9):
        assert told(target, f"s{number}") == told(source, f"s{number}")
    assert asyncio.run(acopy(source, FileStore(path=f"{tmp_path}/files"))) == report


def test_a_session_that_exists_gets_what_it_has_not(source):
    target = MemoryStore()
    copy(source, target, sessions=["a"])
    target.append("a", [HumanMessage("own")])
    source.append("a", [HumanMessage("later")])
    report = copy(source, target, sessions=["a", "a"])
    assert (report.sessions, report.records, report.found) == (1, 1, 3)
    assert texts(target.read("a")) == ["0", "1", "2", "own", "later"]


def test_session_ids_that_are_no_text(source):
    source.append(5, numbered(2))
    target, told_of = MemoryStore(), []
    assert copy(source, target, sessions=[5], on_progress=told_of.append).records == 2
    assert (told(target, "5"), told_of[0].session_id) == (told(source, 5), "5")
    assert digest(source, sessions=[5]) == digest(target)


@pytest.mark.parametrize("arguments", [{"sessions": "a"}, {"on_corrupt": "drop"}])
def test_bad_arguments(source, arguments):
    with pytest.raises(ConfigurationError):
        copy(source, MemoryStore(), **arguments)


def test_into_itself(source, tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    for one, other in [(source, source), (SQLStore(url), SQLStore(url))]:
        with pytest.raises(ConfigurationError, match="into itself"):
            copy(one, other)
    with pytest.raises(ConfigurationError, match="destination must be a store"):
        copy(source, source.history("a"))


def test_langchains_records_keep_the_ids_by_which_they_are_shown(source):
    plant(source, "a", [OLD, OLD])
    target = MemoryStore()
    copy(source, target)
    assert told(target, "a") == told(source, "a")
    assert copy(source, target).records == 0
    stored = json.loads(target.operations._sessions["a"].rows[-1]) if hasattr(target.operations, "_sessions") else None
    assert stored is None or "at" not in stored["meta"]


def test_what_has_no_id_and_cannot_be_read(source):
    plant(
        source,
        "a",
        ["5", '{"type": "alien", "data": {}}', "not json", '{"type": "alien", "meta": {"v": 9, "id": "n"}}'],
    )
    source.append("a", [HumanMessage("behind")])
    target = MemoryStore()
    with pytest.raises(CorruptRecordError, match="session 'a' cannot be copied") as caught:
        copy(source, target)
    assert (caught.value.session_id, target.count("a")) == ("a", 0)
    report = copy(source, target, on_corrupt="skip")
    assert [error.session_id for error in report.unreadable] == ["a"] * 3
    assert len({error.position for error in report.unreadable}) == 3
    assert target.count("a") == 5
    lenient = MemoryStore(on_corrupt="skip")
    copy(target, lenient)
    assert texts(lenient.read("a")) == ["0", "1", "2", "behind"]
    for error in report.unreadable:
        assert source.delete("a", [error.id]) == 1
    assert copy(source, MemoryStore()).unreadable == ()


@pytest.mark.parametrize("small", [False, True])
def test_a_batch_that_was_stored_twice_is_copied_once(small, request):
    """Also where both copies are on different pages: the later one counts, as for a reader."""
    if small:
        request.getfixturevalue("small_pages")
    source, target = MemoryStore(), MemoryStore()
    _, rows = source.format.encode([HumanMessage("twice")])
    source.append("a", numbered(2))
    plant(source, "a", rows)
    source.append("a", numbered(7))
    plant(source, "a", rows)
    source.append("a", numbered(3))
    copy(source, target)
    assert told(target, "a") == told(source, "a")
    assert target.count("a") == 13


@pytest.mark.parametrize("codecs", [(None, True), (True, None), (True, True)])
def test_other_codecs(codecs):
    source, target = (MemoryStore(codec=ShoutingCodec() if codec else None) for codec in codecs)
    source.append("a", numbered(3))
    source.put_state("a", {"n": 1})
    plant(source, "a", [OLD])
    copy(source, target)
    assert told(target, "a") == told(source, "a")
    assert target.get_state("a") == {"n": 1}
    assert copy(source, target).records == 0


def test_a_codec_that_the_source_lacks():
    source, target = MemoryStore(codec=ShoutingCodec()), MemoryStore()
    source.append("a", numbered(3))
    other = MemoryStore()
    for row in source.run("read", lambda client: source.operations.read(client, "a")):
        plant(other, "a", [row.text])
    # As it is, where nobody has to read it.
    assert copy(other, target).records == 3
    with pytest.raises(CorruptRecordError):
        target.read("a")
    with pytest.raises(CorruptRecordError, match="codec"):
        copy(other, MemoryStore(codec=ShoutingCodec()))


def test_what_must_not_be_stored_is_not_copied(source):
    def redact(message):
        return None if message.content == "1" else message.model_copy(update={"content": message.content + "!"})

    target = MemoryStore(before_save=redact)
    report = copy(source, target)
    assert (report.records, report.dropped) == (4, 1)
    assert texts(target.read("a")) == ["0!", "2!"]
    assert [record.id for record in target.records("b")] == [record.id for record in source.records("b")]
    assert copy(source, target).records == 0
    target = MemoryStore(before_save=lambda message: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        copy(source, target)
    assert target.sessions() == []


def test_a_summary_knows_where_its_messages_stand(tmp_path):
    source, target = SQLStore(f"sqlite:///{tmp_path}/x.db"), FileStore(path=f"{tmp_path}/files")
    source.append("other", numbered(3))

    def view(store):
        return SummarizingChatMessageHistory(
            store.history("a"), model=ExtractiveSummarizer(), trigger=("messages", 30), keep=("messages", 4)
        )

    view(source).add_messages(numbered(40))
    shown = texts(view(source).messages)
    report = copy(source, target)
    assert report.states_left == ()
    calls = view(target).stats.calls
    assert texts(view(target).messages) == shown
    view(target).add_messages(numbered(1))
    assert texts(view(target).messages)[-1] == "0"
    assert view(target).stats.calls == calls
    assert target.get_state("a")["lh:summary"]["position"] in [record.position for record in target.records("a")]


def test_another_state_stays(source):
    source.put_state("a", {"n": 1})
    target = MemoryStore()
    target.put_state("a", {"n": 2})
    assert copy(source, target).states_left == ("a",)
    assert target.get_state("a") == {"n": 2}


def test_ids_that_the_destination_cannot_hold(source):
    source.append("x" * 600, numbered(1))
    target = MemoryStore()
    target._operations.key = lambda session_id: (_ for _ in ()).throw(ConfigurationError("too long"))
    with pytest.raises(ConfigurationError, match="too long"):
        copy(source, target)


@pytest.mark.parametrize("corrupt", ["b", "c"])
def test_sessions_before_one_that_cannot_be_copied_are_there(source, corrupt):
    """Also where they go together."""
    source.append("c", numbered(2))
    plant(source, corrupt, ["5"])
    target, told_of = MemoryStore(), []
    with pytest.raises(CorruptRecordError, match=f"session '{corrupt}'"):
        copy(source, target, on_progress=told_of.append)
    assert [progress.session_id for progress in told_of] == [info.session_id for info in target.sessions()]
    assert [info.session_id for info in target.sessions()] == ["a", "b"][: 1 + (corrupt == "c")]
    report = copy(source, target, on_corrupt="skip")
    assert (len(report.unreadable), report.records + report.found) == (1, 7)


class Narrow(MemoryStore):
    """Takes batches of two records of few characters."""

    def __init__(self):
        super().__init__()
        edit = self._operations.edit

        async def narrow(client, key, rows, **where):
            if len(rows) > 2 or any("long" in row for row in rows):
                raise RecordTooLargeError("too large")
            return await edit(client, key, rows, **where)

        self._operations.edit = narrow


def test_batches_that_are_too_large(source):
    target = Narrow()
    source.append("a", numbered(8))
    assert copy(source, target).records == 13
    assert told(target, "a") == told(source, "a")
    source.append("b", [HumanMessage("long"), HumanMessage("behind")])
    with pytest.raises(RecordTooLargeError):
        copy(source, target)
    assert texts(target.read("b")) == ["x", "y"]


def test_somebody_else_appends_meanwhile(source):
    """Another copy too: the two are one copy."""
    target = MemoryStore()
    edit = target._operations.edit
    left = [lambda: copy(source, target), lambda: target.append("b", [HumanMessage("own")])]

    async def late(client, key, rows, **where):
        if left:
            left.pop(0)()
        return await edit(client, key, rows, **where)

    target._operations.edit = late
    report = copy(source, target)
    assert (report.records, report.found) == (0, 5)
    assert not left
    assert told(target, "a") == told(source, "a")
    assert sorted(texts(target.read("b"))) == ["own", "x", "y"]
    assert target.count("a") == 3


def test_somebody_else_copies_to_a_store_that_cannot_tell(source):
    target = MemoryStore()
    append = target._operations.append
    target._operations.capabilities &= ~Capability.EDIT

    async def twice(client, key, rows):
        await append(client, key, rows)
        await append(client, key, rows)

    target._operations.append = twice
    with pytest.raises(CopyError, match="session 'a'") as caught:
        copy(source, target)
    assert caught.value.session_id == "a"
    target._operations.append = append
    copy(source, target)
    assert told(target, "a") == told(source, "a")


def test_a_source_that_lists_nothing(tmp_path):
    class Row(declarative_base()):
        __tablename__ = "rows"
        id = sa.Column(sa.Integer, primary_key=True)
        session_id = sa.Column(sa.Text)
        message = sa.Column(sa.Text)

    own = SQLChatMessageHistory("a", connection=f"sqlite:///{tmp_path}/x.db").store
    own.append("a", numbered(2))

    class Converter(DefaultMessageConverter):
        def __init__(self):
            super().__init__("rows")

    models = SQLChatMessageHistory(
        "m", connection=f"sqlite:///{tmp_path}/x.db", custom_message_converter=Converter()
    ).store
    models.append("m", numbered(2))
    with pytest.raises(UnsupportedOperationError):
        copy(models, MemoryStore())
    target = MemoryStore()
    copy(models, target, sessions=["m"])
    assert texts(target.read("m")) == ["0", "1"]
    with pytest.raises(UnsupportedOperationError, match="ids"):
        copy(own, models)
    with pytest.raises(UnsupportedOperationError, match="ids"):
        models.append_records("a", own.records("a"))
    assert models.read("a") == []


def test_records_that_are_none(source):
    for bad in ([HumanMessage("x")], [source.records("a")[0]._replace(id="")], [source.records("a")[0]._replace(id=5)]):
        with pytest.raises(InvalidMessageError):
            source.append_records("n", bad)
    assert source.count("n") == 0
    assert source.append_records("n", []) == []


KILLED = """
import os, signal, sys
from langchain_histories import FileStore, SQLStore, copy
from langchain_histories.conversations import _reading

_reading.PAGE = 3
left = int(sys.argv[3])

def stop(progress):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

target = FileStore(path=sys.argv[2])
edit = target._operations.edit

async def counted(client, key, rows, **where):
    is_done = await edit(client, key, rows, **where)
    stop(None)
    return is_done

target._operations.edit = counted
copy(SQLStore(sys.argv[1]), target)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the platform has no SIGKILL")
def test_a_copy_that_is_killed_goes_on(tmp_path):
    url, folder = f"sqlite:///{tmp_path}/x.db", f"{tmp_path}/files"
    source = SQLStore(url)
    for number in range(4):
        source.append(user_session_id("u", str(number)), numbered(number * 3 + 1))
    for left in (0, 1, 2):
        done = subprocess.run([sys.executable, "-c", KILLED, url, folder, str(left)], timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL
    copy(source, FileStore(path=folder))
    for number in range(4):
        session_id = user_session_id("u", str(number))
        assert told(FileStore(path=folder), session_id) == told(source, session_id)
        assert FileStore(path=folder).count(session_id) == number * 3 + 1


@pytest.mark.parametrize("sessions", [1, 30])
def test_memory_is_bounded(sessions, tmp_path, monkeypatch):
    """Twelve megabytes of text, in one session or in several, are copied in less than half of that, ids included."""
    monkeypatch.setattr(_reading, "PAGE", 101)
    monkeypatch.setattr(_reading, "TOGETHER", 200)
    source, target = SQLStore(f"sqlite:///{tmp_path}/x.db"), SQLStore(f"sqlite:///{tmp_path}/y.db")
    for number in range(30):
        source.append(f"s{number % sessions}", [HumanMessage("x" * 4_000)] * 100)
    copy(source, target, sessions=["none"])
    tracemalloc.start()
    try:
        copy(source, target)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(info.count for info in target.sessions()) == 3_000
    assert peak < 6_000_000
