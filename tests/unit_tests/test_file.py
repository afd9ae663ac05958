"""The file store, its format and the drop-in class over it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import multiprocessing
import os
import random
import resource
import signal
import socket
import threading
import time
import warnings
import zlib
from hashlib import sha256
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, message_to_dict, messages_to_dict
from servers import BUSY

from langchain_histories import Capability, FileChatMessageHistory, FileStore, open_history, open_store
from langchain_histories._neutral import drive
from langchain_histories.errors import (
    ConfigurationError,
    CorruptRecordError,
    StoreError,
    StoreUnavailableError,
    UnsupportedOperationError,
)
from langchain_histories.stores.file import format as file_format
from langchain_histories.stores.file import names as file_names
from langchain_histories.stores.file.history import SingleFileStore
from langchain_histories.testing import MessageStoreTests, golden_messages

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from langchain_community.chat_message_histories import FileChatMessageHistory as Theirs


def files_of(folder):
    """All files and folders but the locks, of which there is a fixed number whatever the sessions are."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if ".locks" not in path.parts)


def texts(messages):
    return [message.content for message in messages]


def humans(*contents):
    return [HumanMessage(content) for content in contents]


def foreign_rows(store, session_id):
    """Calls that each add a line to the file of a session."""
    path = store.operations._files(store.client, session_id).history

    def leave(data):
        content = path.read_bytes()
        assert content.endswith(b"]\n")
        path.write_bytes(content[:-2] + b"," + data + b"\n]\n")

    lines = [
        b"\xff\xfe",
        b"{",
        b"]",
        b"[",
        b"\x00",
        b'"',
        b"{}",
        b'{"type": "human", "da',
        b"}",
        b"\xef\xbb\xbf{}",
        b"x,",
    ]
    return [functools.partial(leave, line) for line in lines]


def broken_sessions(store, session_id):
    """Calls that each put bytes into a file of a session."""
    files = store.operations._files(store.client, session_id)
    states = [functools.partial(files.state.write_bytes, data) for data in (b"", b"\xff", b"[" * 50_000)]
    states += [functools.partial(files.expiry.write_bytes, data) for data in (b"", b"\xff", b"5", b'{"expires": "x"}')]
    return [*states, *(functools.partial(files.history.write_bytes, data) for data in (b"5", b"\xff", b'["x"]', b"{}"))]


class TestFileStore(MessageStoreTests):
    capabilities = ~Capability.NATIVE_ASYNC

    @pytest.fixture
    def open_store(self, tmp_path):
        return functools.partial(FileStore, path=tmp_path / "store", timeout=BUSY)

    def traces(self, store):
        return files_of(store.client)

    def places(self, store):
        return sorted(str(path) for path in store.client.parent.rglob("*"))

    def files(self, store):
        return [path for path in store.client.rglob("*") if path.is_file()]

    def foreign_rows(self, store, session_id):
        return foreign_rows(store, session_id)

    def broken_sessions(self, store, session_id):
        return broken_sessions(store, session_id)


class SingleFiles(SingleFileStore):
    """The single-file store, with another file in a folder for each session id, because the kit has many sessions."""

    def __init__(self, folder, **options):
        super().__init__(folder, **options)
        self.operations._files = lambda folder, key: file_names.single_file(
            folder / f"{sha256(key.encode()).hexdigest()}.json"
        )


class TestSingleFileStore(MessageStoreTests):
    capabilities = TestFileStore.capabilities & ~(
        Capability.SESSIONS | Capability.NEWEST | Capability.ERASE | Capability.LEAVES_NO_TRACE
    )

    @pytest.fixture
    def open_store(self, tmp_path):
        return functools.partial(SingleFiles, tmp_path)

    def places(self, store):
        return sorted(str(path) for path in store.client.rglob("*"))

    def files(self, store):
        return [path for path in store.client.rglob("*") if path.is_file()]

    def foreign_rows(self, store, session_id):
        return foreign_rows(store, session_id)

    def broken_sessions(self, store, session_id):
        return broken_sessions(store, session_id)[:3]  # a file that is no history is left as it is


@pytest.fixture
def store(tmp_path):
    return FileStore(path=tmp_path)


# The format.


def test_the_file_is_a_json_array_with_one_record_a_line(store, tmp_path):
    store.append("s", humans("a", "é"))
    store.append("s", humans("c"))
    store.append("s", humans("d", "e", "f"))
    content = (tmp_path / "s.json").read_text(encoding="utf-8")
    assert [line[:2] for line in content.split("\n")] == ["[{", '{"', ",{", ",{", '{"', '{"', "]", ""]
    assert [line[-1:] for line in content.split("\n")] == [",", "}", "}", ",", ",", "}", "]", ""]
    assert "é" in content
    records = json.loads(content)
    assert [record["data"]["content"] for record in records] == ["a", "é", "c", "d", "e", "f"]
    assert [record["meta"]["id"] for record in records] == [record.id for record in store.records("s")]


def test_an_append_changes_nothing_but_the_closing_bracket(store, tmp_path):
    store.append("s", humans("a"))
    for number in range(5):
        before = (tmp_path / "s.json").read_bytes()
        inode = (tmp_path / "s.json").stat().st_ino
        store.append("s", humans(str(number), "x"))
        assert (tmp_path / "s.json").read_bytes().startswith(before.removesuffix(b"]\n") + b",{")
        assert (tmp_path / "s.json").stat().st_ino == inode


class Counter:
    """The bytes that this process read and wrote by system calls."""

    def __enter__(self):
        self.read, self.written = self.now()
        return self

    def __exit__(self, *error):
        read, written = self.now()
        self.read, self.written = read - self.read, written - self.written

    @staticmethod
    def now():
        counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(counts["rchar"]), int(counts["wchar"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counting the bytes of a process needs /proc")
@pytest.mark.parametrize("length", [10, 100_000])
def test_cost_does_not_depend_on_the_length(store, tmp_path, length):
    store.append("s", humans("warm up"))
    row = store.format.encode(humans("x" * 100))[1][0]
    record = json.loads(row)["meta"]["id"]
    rows = [row.replace(record, f"{number:032x}") for number in range(length)]
    content = ("[" + ",\n".join(rows) + "\n]\n").encode()
    (tmp_path / "s.json").write_bytes(content)
    with Counter() as reading_counter:
        pass
    with Counter() as append:
        store.append("s", [HumanMessage("question"), AIMessage("answer")])
    size = (tmp_path / "s.json").stat().st_size - len(content)
    assert append.written <= size + 100
    assert append.read - reading_counter.read <= 200
    with Counter() as tail:
        position = store.records("s", last=20)[0].position
    assert tail.read <= 20_000
    with Counter() as after:
        assert len(store.read("s", after=position)) == min(19, length + 1)
    assert after.read <= 10_000
    assert store.count("s") == length + 2


def test_last_reads_as_far_back_as_it_must(store):
    sizes = [10, 20_000, 100, 70_000, 5, 300_000, 1]
    store.append("s", [HumanMessage("x" * size) for size in sizes])
    for last in range(1, 9):
        assert [len(message.content) for message in store.read("s", last=last)] == sizes[-last:]
    assert store.count("s") == 7


def test_count_of_long_files(store):
    store.append("s", [HumanMessage("x" * 40_000) for _ in range(100)])
    assert store.count("s") == 100


# LangChain's files.


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chat.json"


def test_langchains_class_reads_ours(path):
    FileChatMessageHistory(path).add_messages(humans("hello", "Привет 👋"))
    FileChatMessageHistory(path).add_messages([AIMessage("hi", tool_calls=[{"name": "f", "args": {}, "id": "1"}])])
    assert Theirs(str(path)).messages == FileChatMessageHistory(path).messages
    assert path.read_bytes().isascii()
    FileChatMessageHistory(path).add_messages(golden_messages())
    assert len(Theirs(str(path)).messages) == 3 + len(golden_messages())


def test_both_classes_go_on_with_the_file_of_the_other(path):
    ours, theirs = FileChatMessageHistory(path), Theirs(str(path))
    assert ours.messages == []
    expected = []
    for number in range(3):
        theirs.add_messages(humans(f"theirs {number}", "again"))
        ours.add_messages(humans(f"ours {number}", "again"))
        ours.add_messages(humans(f"more {number}"))
        expected += [f"theirs {number}", "again", f"ours {number}", "again", f"more {number}"]
        assert texts(ours.messages) == texts(theirs.messages) == expected
        assert texts(ours.get_messages(last=4)) == expected[-4:]
        assert ours.store.count("any") == len(expected)
    theirs.clear()
    assert ours.messages == []
    ours.add_messages(humans("new"))
    ours.clear()
    assert theirs.messages == []
    assert path.read_text() == "[]"


def test_positions_in_langchains_file_outlive_our_first_append(path):
    Theirs(str(path), encoding="utf-8", ensure_ascii=False).add_messages(humans("ok", "other é", "ok", "ok"))
    ours = FileChatMessageHistory(path)
    before = ours.store.records("s")
    for number, record in enumerate(before):
        assert texts(ours.get_messages(after=record.position)) == ["ok", "other é", "ok", "ok"][number + 1 :]
    ours.add_messages(humans("new"))
    after = ours.store.records("s")
    assert after[:4] == before
    for number, record in enumerate(before):
        assert texts(ours.get_messages(after=record.position)) == ["ok", "other é", "ok", "ok", "new"][number + 1 :]


def test_single_records_of_langchains_file_can_be_deleted(path):
    Theirs(str(path)).add_messages(humans("ok", "other", "ok"))
    store = FileChatMessageHistory(path).store
    assert store.delete("s", [store.records("s")[2].id]) == 1
    assert texts(Theirs(str(path)).messages) == ["ok", "other"]


def test_of_equal_records_that_have_moved_none_is_missed(path):
    Theirs(str(path)).add_messages(humans("first", "ok", "other", "ok"))
    store = FileChatMessageHistory(path).store
    records = store.records("s")
    store.delete("s", [records[0].id])
    assert texts(store.read("s", after=records[1].position)) == ["other", "ok"]
    assert texts(store.read("s", after=records[0].position)) == ["ok", "other", "ok"]


def test_deletion_of_records_that_another_deletion_has_moved(store):
    store.append("s", humans("a", "b", "c", "d"))
    rows = drive(store.operations.read(store.client, "s"))
    for count in (1, 0):
        assert drive(store.operations.delete(store.client, "s", rows[:1])) == count
        assert drive(store.operations.delete(store.client, "s", rows[2:3])) == count
    assert texts(store.read("s")) == ["b", "d"]


def _variants():
    records = messages_to_dict([HumanMessage('a {["\\,\n'), AIMessage("é 👋"), HumanMessage("c]")])
    lines = [json.dumps(record) for record in records]
    return {
        "langchain": json.dumps(records),
        "langchain with a newline": json.dumps(records) + "\n",
        "not ascii": json.dumps(records, ensure_ascii=False),
        "indented": json.dumps(records, indent=2),
        "indented with a newline": json.dumps(records, indent=2) + "\n",
        "indented by nothing": json.dumps(records, indent=0),
        "compact": json.dumps(records, separators=(",", ":")),
        "keys sorted": json.dumps(records, sort_keys=True),
        "lines": "[\n" + ",\n".join(lines) + "\n]\n",
        "lines, windows": "[\r\n" + ",\r\n".join(lines) + "\r\n]\r\n",
        "ours, windows": "[" + ",\r\n".join(lines) + "\r\n]\r\n",
        "ours, less the last newline": "[" + ",\n".join(lines) + "\n]",
        "json_agg": "[" + ", \n ".join(lines) + "]",
        "mixed": "[" + ",\n".join(lines[:2]) + "\n, " + lines[2] + "]",
        "open braces": "[{\n" + ",\n".join(lines)[1:] + "]\n",
        "spaces": "\n  [ " + " , ".join(lines) + " ]  \n",
        "byte order mark": "\ufeff" + json.dumps(records),
    }


@pytest.mark.parametrize("variant", _variants())
def test_any_array_of_records_is_read_and_continued(path, variant):
    path.write_bytes(_variants()[variant].encode())
    content = path.read_bytes()
    history = FileChatMessageHistory(path)
    expected = ['a {["\\,\n', "é 👋", "c]"]
    records = history.store.records("s")
    assert texts(record.message for record in records) == expected
    assert texts(history.get_messages(last=2)) == expected[1:]
    assert texts(history.get_messages(after=records[0].position)) == expected[1:]
    assert history.store.count("s") == 3
    assert path.read_bytes() == content
    history.add_messages(humans("d", "e"))
    inode = path.stat().st_ino
    history.add_messages(humans("f"))
    assert path.stat().st_ino == inode
    assert texts(history.messages) == texts(Theirs(str(path)).messages) == [*expected, "d", "e", "f"]
    assert texts(history.get_messages(after=records[2].position)) == ["d", "e", "f"]


@pytest.mark.parametrize("content", [b"", b"[]", b"[]\n", b" [ ]", b"[\n]\n", b" \n"])
def test_an_empty_file_is_an_empty_history(path, content):
    path.write_bytes(content)
    history = FileChatMessageHistory(path)
    assert history.messages == []
    assert history.store.count("s") == 0
    assert path.read_bytes() == content
    history.add_messages(humans("a"))
    assert texts(Theirs(str(path)).messages) == ["a"]


_RECORD = json.dumps(messages_to_dict(humans("text"))[0])


@pytest.mark.parametrize(
    "content",
    [
        b"some text\n",
        b"# Notes\n[{\n]\n",
        b"{}",
        b"null",
        b'"[]"',
        b"[1, 2]",
        b'[{"a": 1}]',
        b'[{"a": 1},\n{"b": 2}\n]\n',
        b"[[]]",
        b"[] []",
        b"[",
        b'[\n  {\n    "type": "hum',
        b"\x00\xff\xfebinary\n]\n",
        json.dumps([1]).encode("utf-16"),
        b"[" * 100_000,
    ],
)
def test_a_file_that_is_no_history_is_left_alone(path, content):
    path.write_bytes(content)
    store = FileChatMessageHistory(path).store
    for call in (
        lambda: store.read("s"),
        lambda: store.read("s", last=1),
        lambda: store.count("s"),
        lambda: store.append("s", humans("a")),
        lambda: store.replace("s", humans("a")),
        lambda: store.clear("s"),
    ):
        with pytest.raises(CorruptRecordError, match="no history") as caught:
            call()
        assert "chat.json" in str(caught.value)
        assert caught.value.__cause__ is None
        assert path.read_bytes() == content
    assert files_of(path.parent) == ["chat.json"]


@pytest.mark.parametrize(
    "end",
    [
        "",
        ", ",
        ', {"type": "hum',
        ', \n {"type": "hum',
        ',\n{"type": "hum',
        "]\nmore",
        "]}]",
        ', {"type": "human", "data": {"content": "]',
    ],
)
def test_a_history_that_langchains_class_left_cut_is_not_read_as_another_one(path, end):
    path.write_text(f"[{_RECORD}{end}")
    history = FileChatMessageHistory(path)
    with pytest.raises(CorruptRecordError, match="no history"):
        history.messages  # noqa: B018
    with pytest.raises(CorruptRecordError, match="no history"):
        history.add_messages(humans("a"))
    assert path.read_text() == f"[{_RECORD}{end}"
    history.clear()
    assert path.read_text() == "[]"


def test_a_folder_is_no_history(path):
    path.mkdir()
    with pytest.raises(CorruptRecordError, match="no history"):
        FileChatMessageHistory(path).add_messages(humans("a"))
    with pytest.raises(CorruptRecordError, match="no history"):
        FileChatMessageHistory(path).messages  # noqa: B018


@pytest.mark.parametrize("encoding", [None, "utf-8", "latin-1", "cp1252", "shift_jis", "ascii", "gb18030"])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_encodings(path, encoding, ensure_ascii):
    options = {"encoding": encoding or "utf-8", "ensure_ascii": ensure_ascii}
    messages = humans("plain", "é ß", "表ソ十\\", "emoji 👋 \ud83d")
    ours = FileChatMessageHistory(path, encoding=encoding, ensure_ascii=ensure_ascii)
    ours.add_messages(messages)
    theirs = Theirs(str(path), **options)
    assert theirs.messages == messages
    path.unlink()
    for message in messages:
        try:
            json.dumps(message.content, ensure_ascii=ensure_ascii).encode(options["encoding"])
        except UnicodeEncodeError:
            continue  # LangChain's class loses the history here
        Theirs(str(path), **options).add_message(message)
    known = Theirs(str(path), **options).messages
    assert ours.messages == known
    ours.add_messages(messages)
    assert ours.messages == Theirs(str(path), **options).messages == [*known, *messages]
    assert ours.get_messages(last=2) == messages[-2:]
    assert path.read_bytes().isascii() == (ensure_ascii or encoding == "ascii")


def test_text_in_another_encoding_is_a_corrupt_record(path):
    Theirs(str(path), encoding="latin-1", ensure_ascii=False).add_messages(humans("plain", "é"))
    history = FileChatMessageHistory(path)
    with pytest.raises(CorruptRecordError, match="position"):
        history.messages  # noqa: B018
    history.add_messages(humans("new"))
    assert texts(history.get_messages(last=1)) == ["new"]
    assert texts(FileChatMessageHistory(path, encoding="latin-1").messages) == ["plain", "é", "new"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le", "utf-7", "cp037", "utf-8-sig", "rot13", "nonsense", "", 5])
def test_encodings_that_do_not_contain_ascii_are_refused(path, encoding):
    with pytest.raises(ConfigurationError, match="encoding"):
        FileChatMessageHistory(path, encoding=encoding)


def test_langchains_constructor(path, monkeypatch):
    history = FileChatMessageHistory(str(path), encoding="latin-1", ensure_ascii=False)
    assert history.file_path == path
    assert (history.encoding, history.ensure_ascii) == ("latin-1", False)
    assert not path.exists()
    assert "chat.json" in repr(history)
    assert FileChatMessageHistory(path).store.client == FileChatMessageHistory(str(path)).store.client == path
    monkeypatch.chdir(path.parent)
    FileChatMessageHistory("relative.json").add_messages(humans("a"))
    assert texts(Theirs("relative.json").messages) == ["a"]
    (path.parent / "sub").mkdir()
    monkeypatch.chdir(path.parent / "sub")
    assert FileChatMessageHistory("relative.json").messages == []
    for bad in ("", "a\0b", None, 5, b"bytes"):
        with pytest.raises(ConfigurationError, match="path"):
            FileChatMessageHistory(bad)


def test_a_single_file_lists_nothing(path):
    store = FileChatMessageHistory(path).store
    assert Capability.SESSIONS not in store.capabilities
    assert Capability.ERASE not in store.capabilities
    with pytest.raises(UnsupportedOperationError):
        store.sessions()
    with pytest.raises(UnsupportedOperationError):
        store.erase(user_id="ivan")


def test_clear_of_a_single_file(path):
    history = FileChatMessageHistory(path)
    history.clear()
    assert not path.exists()
    history.add_messages(humans("a"))
    history.store.put_state(history.session_id, {"a": 1})
    assert files_of(path.parent) == ["chat.json", "chat.state.json"]
    history.clear()
    assert history.store.get_state(history.session_id) is None
    assert files_of(path.parent) == ["chat.json"]


def test_a_folder_store_and_a_single_file_share_files_locks_and_states(store, path):
    single = FileChatMessageHistory(path)
    single.add_messages(humans("a"))
    store.append("chat", humans("b"))
    store.put_state("chat", {"a": 1})
    assert texts(single.messages) == texts(store.read("chat")) == ["a", "b"]
    assert single.store.get_state("any") == {"a": 1}
    files = store.operations._files(store.client, "chat")
    assert single.store.operations._files(single.store.client, "any") == files
    assert len(list((path.parent / ".locks").iterdir())) == 1
    # Where the file system does not tell them apart, these are one file.
    assert file_names.lock_path(path.parent, "Chat.json") == file_names.lock_path(path.parent, "chat.json")


def test_names_beside_a_single_file_are_its_own(tmp_path):
    histories = [FileChatMessageHistory(tmp_path / name) for name in ("chat", "chat.json", "chat.txt")]
    for number, history in enumerate(histories):
        history.add_messages(humans(str(number)))
        history.store.put_state("s", {"n": number})
    assert [texts(history.messages) for history in histories] == [["0"], ["1"], ["2"]]
    assert [history.store.get_state("s") for history in histories] == [{"n": 0}, {"n": 1}, {"n": 2}]


_HUMAN = '{"type": "human", "data": {"content": "%s"}}'
_SURROGATE = r"\ud800"
_WITH_NUMBER = '{"data": {"content": "a", "additional_kwargs": {"n": %s}}, "type": "human"}'
_WITH_TAG = (
    '{"type": "tool", "data": {"content": "", "tool_call_id": "1", "artifact": {"lh:type": "bytes", "value": ""}}}'
)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        f"[{_HUMAN % 'a'}, {_HUMAN % 'é'}]",
        json.dumps([json.loads(_HUMAN % text) for text in "ab"], indent=2),
        f"\ufeff[{_HUMAN % 'a'}]",
        f"[{_HUMAN % 'a'}, {_HUMAN % _SURROGATE}]",
        f"[{_HUMAN % '}, {'}, {_HUMAN % 'b'}]",
        f"[{_WITH_NUMBER % ('1' * 4_000)}]",
        f"[{_HUMAN % 'a'}, {_WITH_TAG}]",
    ],
)
def test_messages_of_langchains_file_are_those_of_its_records(path, content):
    """They are read in another way, which finds no record's place."""
    path.write_text(content, encoding="utf-8")
    history = FileChatMessageHistory(path)
    records = history.store.records(history.session_id)
    assert history.messages == [record.message for record in records]
    for count in (1, 2):
        assert history.get_messages(last=count) == history.messages[-count:]
        assert history.store.read(history.session_id, first=count) == history.messages[:count]
    for number, record in enumerate(records):
        assert history.get_messages(after=record.position) == history.messages[number + 1 :]
    assert history.store.delete(history.session_id, [record.id for record in records]) == len(records)


def test_a_number_that_python_cannot_read_hides_no_other_record(path):
    path.write_text(f"[{_HUMAN % 'a'}, {_WITH_NUMBER % ('1' * 5_000)}, {_HUMAN % 'b'}]")
    store = FileStore(path=path.parent, on_corrupt="skip")
    assert texts(store.read("chat")) == ["a", "b"]
    with pytest.raises(CorruptRecordError) as caught:
        FileChatMessageHistory(path).messages  # noqa: B018  # it reads
    assert store.delete("chat", [caught.value.id]) == 1
    assert texts(FileChatMessageHistory(path).messages) == ["a", "b"]


def test_messages_of_langchains_file_need_no_places(path, monkeypatch):
    """They are read in one go, without the offsets, checksums and ids that `records` has."""
    Theirs(str(path)).add_messages(humans("a", "b"))
    history = FileChatMessageHistory(path)
    record = history.store.records(history.session_id)[1]
    # As they have always been, or nobody could delete by an id that was kept.
    text = json.dumps(json.loads(path.read_text())[1])
    position = f"{path.read_text().index(text)}-{zlib.crc32(text.encode()):08x}"
    digest = sha256(f"{position}\0{text}".encode()).hexdigest()
    assert (record.position, record.id) == (position, digest[:32])
    for name in ("hashlib.sha256", "json.JSONDecoder.raw_decode"):
        monkeypatch.setattr(name, lambda *_: pytest.fail("a read of messages looks for a place"))
    assert texts(history.messages) == texts(history.get_messages(last=2)) == ["a", "b"]


# Torn files.


def _contents(lines):
    return [json.loads(line.text)["data"]["content"] for line in lines]


_batches = st.lists(st.lists(st.text('a]}{[\n,"é', max_size=6), min_size=1, max_size=3), min_size=2, max_size=4)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=_batches, new=st.sampled_from([["n"], ["n" * 5000], ["n", "m", "o"]]), data=st.data())
def test_a_file_cut_anywhere_in_its_last_batch(path, batches, new, data):
    """Earlier batches are read, nothing of the last one is, and the next append goes on."""
    path.unlink(missing_ok=True)
    history = FileChatMessageHistory(path)
    for batch in batches:
        before = path.read_bytes() if path.exists() else b""
        history.add_messages(humans(*batch))
    whole = path.read_bytes()
    everything = [text for batch in batches for text in batch]
    expected = everything[: -len(batches[-1])]
    assert _contents(file_format.lines_between(path.open("rb"), 0, file_format.own_end(path.open("rb")))) == everything
    start = len(before) - 2
    new_rows = [json.dumps(record).encode() for record in messages_to_dict(humans(*new))]
    for cut in range(start, len(whole) + 1):
        # What a cut write leaves: a part of the new bytes, and what is left of the old ones behind it.
        for content in {whole[:cut] + before[cut:], whole[:cut], before[:-1] + whole[start + 1 : start + 2]}:
            file = io.BytesIO(content)
            end = file_format.own_end(file)
            present = everything if content.startswith(whole[:-2]) else expected  # the bracket alone may be missing
            assert _contents(file_format.lines_between(file, 0, end)) == present
            assert _contents(file_format.last_lines(file, end, 2)) == present[-2:]
            assert file_format.count_lines(file, end) == len(present)
            assert file.getvalue() == content
            file_format.write_batch(file, end, new_rows, fsync=False)
            assert [record["data"]["content"] for record in json.loads(file.getvalue())] == [*present, *new]
    cut = data.draw(st.integers(start, len(whole) - 3))
    path.write_bytes(whole[:cut] + before[cut:])
    assert texts(history.messages) == expected
    history.add_messages(humans(*new))
    assert texts(history.messages) == texts(Theirs(str(path)).messages) == [*expected, *new]


def test_a_torn_rest_that_is_longer_than_the_next_batch_is_removed(path):
    FileChatMessageHistory(path).add_messages(humans("a"))
    FileChatMessageHistory(path).add_messages(humans("x" * 100_000, "y" * 100_000, "z]"))
    whole = path.read_bytes()
    for cut in (len(whole) - 3, whole.index(b"z]") + 2, 150_000, 1000):
        path.write_bytes(whole[:cut])
        FileChatMessageHistory(path).add_messages(humans("b", "c"))
        assert texts(Theirs(str(path)).messages) == ["a", "b", "c"]


def test_records_around_a_deleted_one_are_complete_in_a_torn_file(path):
    """The size in `meta` of a batch from which a record was deleted says nothing about what is missing."""
    history = FileChatMessageHistory(path)
    ids = history.store.append("s", humans("a", "b", "c"))
    history.store.delete("s", ids[2:])
    history.add_messages(humans("d"))
    path.write_bytes(path.read_bytes()[:-20])
    assert texts(history.messages) == ["a", "b"]
    history.add_messages(humans("e"))
    assert texts(history.messages) == ["a", "b", "e"]


def test_a_corrupt_line_hides_nothing_else(store, tmp_path):
    store.append("s", humans("a", "b"))
    store.append("s", humans("c"))
    path = tmp_path / "s.json"
    lines = path.read_bytes().split(b"\n")
    for number, expected in ((1, ["a", "c", "d"]), (2, ["a", "b", "d"])):
        path.write_bytes(b"\n".join([*lines[:number], b",\x00\xffgarbage", *lines[number + 1 :]]))
        store.append("s", humans("d"))
        assert texts(store.read("s", last=1)) == ["d"]
        with pytest.raises(CorruptRecordError) as caught:
            store.read("s")
        assert texts(store.read("s", after=caught.value.position)) == expected[number:]
        assert texts(FileStore(path=tmp_path, on_corrupt="skip").read("s")) == expected


def test_readers_without_locks_see_whole_batches(store):
    """While a process appends, readers see growing histories that end with a whole batch."""
    process = multiprocessing.get_context("spawn").Process(target=_append_batches, args=(store.path, 100))
    store.append("s", humans("start"))
    process.start()
    last, position, polled = 0, store.records("s")[-1].position, []
    try:
        while process.is_alive():
            read = texts(store.read("s"))[1:]
            assert read == [f"{number // 4} {number % 4} " + "x" * 3000 for number in range(len(read))]
            assert len(read) % 4 == 0
            assert len(read) >= last
            last = len(read)
            assert len(store.records("s", last=3)) == min(3, last + 1) or last == 0
            new = store.records("s", after=position)
            assert len(new) % 4 == 0
            polled += texts(record.message for record in new)
            position = new[-1].position if new else position
    finally:
        process.join()
    polled += texts(store.read("s", after=position))
    assert polled == texts(store.read("s"))[1:]
    assert len(polled) == 400


def _append_batches(path, count):
    store = FileStore(path=path, fsync=False)
    for number in range(count):
        store.append("s", [HumanMessage(f"{number} {part} " + "x" * 3000) for part in range(4)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="many writers are forked, so that killing them is quick")
def test_killed_writers(store):
    """Every acknowledged batch is there, whole, none is half, and the next writer goes on."""
    store.setup()
    chance = random.Random(5)
    acknowledged = 0
    for _ in range(30):
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                number = store.count("s") // 3
                while True:
                    store.append("s", [HumanMessage(f"{number} {part} " + "x" * 100_000) for part in range(3)])
                    os.write(send, b"%d\n" % number)
                    number += 1
            finally:
                os._exit(1)
        os.close(send)
        with os.fdopen(receive) as lines:
            lines.readline()
            time.sleep(chance.random() * 0.02)
            os.kill(child, signal.SIGKILL)
            said = lines.read().split()
        os.waitpid(child, 0)
        read = texts(store.read("s"))
        numbers = [text.rpartition(" ")[0] for text in read]
        assert numbers == [f"{number // 3} {number % 3}" for number in range(len(read))]
        assert len(read) % 3 == 0
        acknowledged = int(said[-1]) + 1 if said else acknowledged + 1
        assert len(read) // 3 in (acknowledged, acknowledged + 1)
        acknowledged = len(read) // 3
    store.append("s", humans("end"))
    assert texts(store.read("s", last=1)) == ["end"]
    json.loads((store.path / "s.json").read_bytes())


def test_a_writer_killed_in_mid_write(store, monkeypatch):
    """The same, with the moment chosen: the process ends after a part of the bytes of a batch."""
    store.append("s", humans("a", "b"))
    whole = file_format.write_at
    for part in (1, 2, 3, 50, 300):
        child = os.fork()
        if child == 0:
            try:
                file_format.write_at = lambda file, start, data, part=part: (
                    whole(file, start, data[:part]),
                    os._exit(0),
                )
                store.append("s", humans("lost 1", "lost 2"))
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        content = (store.path / "s.json").read_bytes()
        with pytest.raises(ValueError):
            json.loads(content)
        assert texts(store.read("s")) == ["a", "b"]
        assert (store.path / "s.json").read_bytes() == content
        if part in (3, 300):
            store.append("s", humans("c"))
            assert texts(Theirs(str(store.path / "s.json")).messages) == ["a", "b", "c"]
            store.delete("s", [store.records("s")[-1].id])


def _limited(work):
    """Run `work` in a child whose files cannot grow beyond a limit; return its report."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(send, work().encode())
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive) as report:
        said = report.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize("room", [0, 1, 2, 3, 500, 3000])
@pytest.mark.parametrize("begun_by", ["ours", "theirs"])
def test_a_full_disk(path, room, begun_by):
    """What does not fit is an error, nothing is lost, and the next append works."""
    history = FileChatMessageHistory(path)
    (history if begun_by == "ours" else Theirs(str(path))).add_messages(humans("a", "b"))
    before = path.read_bytes()

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, resource.RLIM_INFINITY))
        try:
            history.add_messages(humans("x" * 1500, "y" * 1500))
        except StoreError as error:
            seen = texts(history.messages)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            now = path.read_bytes() == before
            history.add_messages(humans("c"))
            return repr((type(error).__name__, type(error.__cause__).__name__, seen, now, texts(history.messages)))
        return "no error"

    assert _limited(work) == repr(("StoreError", "OSError", ["a", "b"], True, ["a", "b", "c"]))
    assert texts(Theirs(str(path)).messages) == ["a", "b", "c"]
    assert files_of(path.parent) == ["chat.json"]


def test_a_disk_that_does_not_keep_what_was_written(store, monkeypatch):
    store.append("s", humans("a"))
    before = (store.path / "s.json").read_bytes()

    def fail(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StoreError):
        store.append("s", humans("b"))
    assert (store.path / "s.json").read_bytes() == before
    FileStore(path=store.path, fsync=False).append("s", humans("c"))
    assert texts(store.read("s")) == ["a", "c"]


def test_a_replacement_that_fails_leaves_the_old_file(store, monkeypatch):
    ids = store.append("s", humans("a", "b"))
    before = (store.path / "s.json").read_bytes()

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    for call in (lambda: store.replace("s", humans("c")), lambda: store.delete("s", ids[:1])):
        with pytest.raises(StoreError):
            call()
        assert (store.path / "s.json").read_bytes() == before
        assert files_of(store.path) == ["s.json"]


def test_fsync(tmp_path, monkeypatch):
    synced = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(
            os, name, lambda descriptor: synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        )
    store = FileStore(path=tmp_path / "new")
    store.append("s", humans("a"))
    assert synced == [str(tmp_path), str(tmp_path / "new/s.json.tmp"), str(tmp_path / "new")]
    synced.clear()
    store.append("s", humans("b"))
    assert synced == [str(tmp_path / "new/s.json")]
    synced.clear()
    FileStore(path=tmp_path / "new", fsync=False).append("s", humans("c"))
    FileStore(path=tmp_path / "other", fsync=False).append("s", humans("c"))
    assert synced == []


# Where nothing can be written or read.


def test_a_missing_folder_is_no_empty_history(tmp_path):
    history = FileChatMessageHistory(tmp_path / "missing" / "chat.json")
    for call in (lambda: history.messages, lambda: history.add_messages(humans("a")), history.clear):
        with pytest.raises(StoreError) as caught:
            call()
        assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert files_of(tmp_path) == []
    store = FileStore(path=tmp_path / "folder")
    store.append("s", humans("a"))
    (tmp_path / "folder").rename(tmp_path / "moved")
    for call in (
        lambda: store.read("s"),
        lambda: store.append("s", humans("b")),
        lambda: store.get_state("s"),
        store.sessions,
        lambda: store.erase(user_id="ivan"),
    ):
        with pytest.raises(StoreError):
            call()
    assert not (tmp_path / "folder").exists()


def test_a_path_below_a_file(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(StoreError) as caught:
        FileStore(path=tmp_path / "file").append("s", humans("a"))
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(StoreError):
        FileStore(path=tmp_path / "file" / "folder").read("s")
    with pytest.raises(StoreError):
        FileChatMessageHistory(tmp_path / "file" / "chat.json").messages  # noqa: B018
    with pytest.raises(StoreError):
        FileChatMessageHistory(tmp_path / "file" / "chat.json").add_messages(humans("a"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder in which nobody may write needs /proc")
def test_a_folder_in_which_nobody_may_write():
    with pytest.raises(StoreError):
        FileChatMessageHistory("/proc/self/chat.json").add_messages(humans("a"))
    assert FileChatMessageHistory("/proc/self/chat.json").messages == []


def test_reading_needs_no_lock_and_writes_nothing(store, tmp_path):
    store.append("s", humans("a"))
    for lock in (tmp_path / ".locks").iterdir():
        lock.unlink()
    (tmp_path / ".locks").rmdir()
    reader = FileStore(path=tmp_path)
    assert texts(reader.read("s")) == ["a"]
    assert len(reader.sessions()) == reader.count("s") == 1
    assert reader.get_state("s") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.json"]


def test_a_lock_that_is_not_let_go(store, tmp_path):
    store.append("s", humans("a"))
    impatient = FileStore(path=tmp_path, timeout=0.1)
    with FileLock(store.operations._files(store.client, "s").lock):
        with pytest.raises(StoreUnavailableError) as caught:
            impatient.append("s", humans("b"))
        with pytest.raises(StoreUnavailableError):
            asyncio.run(impatient.aclear("s"))
        assert texts(impatient.read("s")) == ["a"]
    assert caught.value.operation == "append"
    impatient.append("s", humans("b"))
    assert "got no turn within 0.1 seconds, and nothing was done" in str(caught.value)
    assert "longer timeout" in str(caught.value)
    assert "address" not in str(caught.value)
    for bad in (0, -1, "5", True, float("nan")):
        with pytest.raises(ConfigurationError, match="timeout"):
            FileStore(path=tmp_path, timeout=bad)


def test_no_thread_is_starved(store):
    """While others append without a pause, everybody gets a turn."""
    turns = [0] * 6
    end = time.monotonic() + 3

    def write(writer):
        while time.monotonic() < end:
            store.append("s", humans(str(writer)))
            turns[writer] += 1

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count("s") == sum(turns)
    assert min(turns) >= 5


# Names.


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300))
def test_names_are_safe_and_lead_back(key):
    names = file_names.file_names(key)
    assert file_names.session_key(names) == key
    for name in names:
        assert 0 < len(name) <= 202
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_%ABCDEF")
        assert name not in file_names._RESERVED


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("user-42_a", ["user-42_a"]),
        ("Ivan", ["%49van"]),
        ("../a.json", ["%2E%2E%2Fa%2Ejson"]),
        ("@ivan/42", ["%40ivan%2F42"]),
        ("é", ["%C3%A9"]),
        ("con", ["%63on"]),
        ("lpt1", ["%6Cpt1"]),
        ("console", ["console"]),
        ("x" * 200, ["x" * 200]),
        ("x" * 203, ["x" * 200, "xxx"]),
        ("x" * 200 + "nul", ["x" * 200, "%6Eul"]),
    ],
)
def test_names(key, names):
    assert file_names.file_names(key) == names


def test_names_differ_where_case_does_not_matter():
    keys = [
        "ivan",
        "Ivan",
        "IVAN",
        "ivaN",
        "%49van",
        "%49VAN",
        "i",
        "\u0131",
        "\u0130",
        "K",
        "\u212a",
        "con",
        "CON",
        "%63on",
    ]
    assert len({tuple(name.lower() for name in file_names.file_names(key)) for key in keys}) == len(keys)


def test_files_of_others_are_no_sessions(store, tmp_path, caplog):
    store.append("s", humans("a"))
    (tmp_path / "README.json").write_text("[]")
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "%zz.json").write_text("[]")
    (tmp_path / "%ff.json").write_text("[]")
    (tmp_path / ".json").write_text("[]")
    (tmp_path / "a.b.json").write_text("[]")
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "theirs.json").write_text(json.dumps(messages_to_dict(humans("a", "b"))))
    assert [(info.session_id, info.count) for info in store.sessions()] == [("s", 1), ("theirs", 2)]
    assert "settings.json" in caplog.text
    with pytest.raises(CorruptRecordError):
        store.replace("settings", humans("a"))


def test_clear_and_erase_take_what_a_killed_writer_left(store, tmp_path):
    for session_id in ("@ivan/1", "@ivan/" + "x" * 500):
        store.append(session_id, humans("a"))
        store.put_state(session_id, {"a": 1})
        files = store.operations._files(store.client, session_id)
        files.history.with_name(files.history.name + ".tmp").write_text("left")
        files.state.with_name(files.state.name + ".tmp").write_text("left")
    store.append("other", humans("a"))
    only = store.operations._files(store.client, "@ivan/only this")
    only.history.with_name(only.history.name + ".tmp").write_text("left")
    assert store.erase(user_id="ivan") == 3
    assert files_of(tmp_path) == ["other.json"]


def test_a_replacement_takes_what_a_killed_writer_left(store, tmp_path):
    (tmp_path / "s.json.tmp").write_text("left, and longer than what is to come " * 100)
    store.append("s", humans("a"))
    assert files_of(tmp_path) == ["s.json"]
    assert texts(Theirs(str(tmp_path / "s.json")).messages) == ["a"]


def test_long_names_make_and_leave_folders(store, tmp_path):
    ids = ["x" * 1024, "x" * 1000, "x" * 200, "é" * 512]
    for session_id in ids:
        store.append(session_id, humans(session_id))
    assert sorted(info.session_id for info in store.sessions()) == sorted(ids)
    assert max(len(name) for path in files_of(tmp_path) for name in Path(path).parts) <= 210
    store.clear(ids[0])
    assert texts(store.read(ids[1])) == [ids[1]]
    for session_id in ids:
        store.clear(session_id)
    assert files_of(tmp_path) == []


def test_folders_of_long_names_come_and_go(store):
    """Sessions that share a folder do not take it away under each other."""
    failures = []

    def work(letter):
        try:
            for _ in range(30):
                store.append("x" * 400 + letter, humans("a"))
                store.sessions()
                store.clear("x" * 400 + letter)
        except Exception as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert files_of(store.path) == []


# Rights, links, URLs.


def modes_of(folder):
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}


@pytest.fixture(params=[0o000, 0o027, 0o077], ids=oct)
def umask(request):
    old = os.umask(request.param)
    yield
    os.umask(old)


@pytest.mark.parametrize(("option", "file", "folder"), [({}, 0o600, 0o700), ({"file_mode": 0o660}, 0o660, 0o770)])
def test_new_files_are_the_owners_alone_unless_asked(tmp_path, umask, option, file, folder):
    store = FileStore(path=tmp_path / "new" / "store", **option)
    for session_id in ("s", "x" * 1024):
        store.append(session_id, humans("a"))
        store.put_state(session_id, {"a": 1})
    modes = modes_of(tmp_path)
    assert {mode for name, mode in modes.items() if (tmp_path / name).is_dir()} == {folder}
    assert {mode for name, mode in modes.items() if not (tmp_path / name).is_dir()} == {file}
    single = FileChatMessageHistory(tmp_path / "chat.json", **option)
    single.add_messages(humans("a"))
    single.clear()
    assert (tmp_path / "chat.json").stat().st_mode & 0o777 == file
    assert (tmp_path / ".locks").stat().st_mode & 0o777 == folder


def test_what_is_written_is_at_no_moment_for_others_to_read(store, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(os.fstat(descriptor).st_mode & 0o777))
    store.put_state("s", {"a": 1})
    (tmp_path / "s.state.json").chmod(0o644)
    store.put_state("s", {"a": 2})
    assert 0o600 in seen
    assert set(seen) <= {0o600, tmp_path.stat().st_mode & 0o777, 0o700}
    assert (tmp_path / "s.state.json").stat().st_mode & 0o777 == 0o644


def test_a_file_that_exists_keeps_its_rights(store, tmp_path, umask):
    store.append("s", humans("a"))
    path = tmp_path / "s.json"
    path.chmod(0o604)
    store.replace("s", humans("b"))
    assert path.stat().st_mode & 0o777 == 0o604
    path.write_text(json.dumps(messages_to_dict(humans("c"))))
    store.append("s", humans("d"))
    assert path.stat().st_mode & 0o777 == 0o604
    (lock,) = (tmp_path / ".locks").iterdir()
    lock.chmod(0o640)
    store.append("s", humans("e"))
    assert lock.stat().st_mode & 0o777 == 0o640
    if os.geteuid() == 0:
        os.chown(path, 12345, 23456)
        store.replace("s", humans("e"))
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


@pytest.mark.parametrize("bad", [0o400, 0o200, 0, 0o1600, 0o10600, -1, "600", "0o600", True, None, 0o600 + 0.0])
def test_bad_modes(tmp_path, bad):
    with pytest.raises(ConfigurationError, match="file_mode"):
        FileStore(path=tmp_path, file_mode=bad)
    with pytest.raises(ConfigurationError, match="file_mode"):
        FileChatMessageHistory(tmp_path / "chat.json", file_mode=bad)


@pytest.fixture
def victim(tmp_path):
    (tmp_path / "victim").mkdir()
    victim = tmp_path / "victim" / "victim.json"
    victim.write_text(json.dumps(messages_to_dict(humans("theirs"))))
    victim.chmod(0o644)
    before = victim.read_bytes()
    yield victim
    assert victim.read_bytes() == before
    assert victim.stat().st_mode & 0o777 == 0o644
    assert files_of(victim.parent) == ["victim.json"]


def writes_of(store):
    """All that writes to the session `s`."""
    return [
        lambda: store.append("s", humans("a")),
        lambda: store.replace("s", humans("a")),
        lambda: store.put_state("s", {"a": 1}),
        lambda: store.clear("s"),
    ]


@pytest.mark.parametrize("plant", ["symlink_to", "hardlink_to"])
def test_a_planted_lock_is_not_followed_and_not_emptied(tmp_path, victim, plant):
    store = FileStore(path=tmp_path / "store")
    lock = store.operations._files(store.client, "s").lock
    lock.parent.mkdir(parents=True)
    getattr(lock, plant)(victim)
    for write in writes_of(store):
        with pytest.raises(StoreError) as caught:
            write()
        assert str(lock) in str(caught.value.__cause__)
    lock.unlink()
    lock.parent.rmdir()
    lock.parent.symlink_to(victim.parent)
    for write in writes_of(store):
        with pytest.raises(StoreError):
            write()
    lock.parent.unlink()
    store.append("s", humans("a"))
    assert texts(store.read("s")) == ["a"]


def test_a_planted_link_to_nothing_makes_nothing(tmp_path, victim):
    store = FileStore(path=tmp_path / "store")
    files = store.operations._files(store.client, "s")
    files.lock.parent.mkdir(parents=True)
    files.lock.symlink_to(victim.with_name("new"))
    with pytest.raises(StoreError):
        store.append("s", humans("a"))
    files.lock.unlink()
    files.history.symlink_to(victim.with_name("new"))
    files.state.with_name(files.state.name + ".tmp").symlink_to(victim.with_name("new"))
    with pytest.raises(CorruptRecordError):
        store.append("s", humans("a"))
    store.put_state("s", {"a": 1})
    assert not files.state.is_symlink()


@pytest.mark.parametrize("plant", ["symlink_to", "pipe", "socket", "mkdir"])
def test_what_is_planted_as_a_history_is_not_followed(tmp_path, victim, plant, caplog):
    store = FileStore(path=tmp_path / "store")
    store.append("kept", humans("a"))
    files = store.operations._files(store.client, "s")
    for path in (files.history, files.state):
        if plant == "symlink_to":
            path.symlink_to(victim)
        elif plant == "mkdir":
            path.mkdir()
        elif plant == "pipe":
            os.mkfifo(path)
        else:
            with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
                server.bind(path.name)
    calls = [lambda: store.read("s"), lambda: store.count("s"), lambda: store.get_state("s")]
    for call in [*calls, lambda: store.append("s", humans("b")), lambda: store.replace("s", humans("b"))]:
        with pytest.raises(CorruptRecordError):
            call()
    assert [info.session_id for info in store.sessions()] == ["kept"]
    if plant != "mkdir":
        store.put_state("s", {"a": 1})
        assert store.get_state("s") == {"a": 1}
        store.clear("s")
        assert files_of(store.path) == ["kept.json"]


def test_a_planted_folder_of_a_long_id_is_not_followed(tmp_path, victim):
    store = FileStore(path=tmp_path / "store")
    store.append("kept", humans("a"))
    long_id = "x" * 500
    folder = store.path / ("x" * 200)
    folder.symlink_to(victim.parent)
    for call in (store.read, store.count, store.clear, store.get_state):
        with pytest.raises(CorruptRecordError):
            call(long_id)
    for call in (store.append, store.replace):
        with pytest.raises(CorruptRecordError):
            call(long_id, humans("b"))
    with pytest.raises(CorruptRecordError):
        store.put_state(long_id, {"a": 1})
    assert [info.session_id for info in store.sessions()] == ["kept"]


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "real" / "chat.json")
    linked, real = FileChatMessageHistory(tmp_path / "link.json"), FileChatMessageHistory(tmp_path / "real/chat.json")
    linked.add_messages(humans("a"))
    linked.store.replace("s", humans("b"))
    real.add_messages(humans("c"))
    assert (tmp_path / "link.json").is_symlink()
    assert texts(linked.messages) == texts(real.messages) == ["b", "c"]
    assert files_of(tmp_path) == ["link.json", "real", "real/chat.json"]
    assert not (tmp_path / ".locks").exists()


def test_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store("file:relative/fol%20der") as store:
        store.append("s", humans("a"))
    assert files_of(tmp_path) == ["relative", "relative/fol der", "relative/fol der/s.json"]
    absolute = f"file://{tmp_path}/relative/fol%20der"
    assert texts(open_history(absolute, "s").messages) == ["a"]
    assert texts(FileStore(absolute.replace("file://", "file://localhost"), fsync=False).read("s")) == ["a"]
    assert repr(FileStore(absolute)) == f"FileStore('file:{tmp_path}/relative/fol der')"
    for bad in (
        "file://relative/folder",
        "file:",
        "file:///a?fsync=0",
        "file:///a#b",
        "redis://localhost",
        "file:///a%00b",
    ):
        with pytest.raises(ConfigurationError):
            FileStore(bad)
    for options in ({}, {"url": "file:a", "path": "a"}, {"path": ""}):
        with pytest.raises(ConfigurationError):
            FileStore(**options)


@pytest.mark.skipif(os.name == "nt", reason="a drive is a place there")
@pytest.mark.parametrize(
    "url", ["file:///C:\\chats", "file:///c:/chats", "file:C:%5Cchats", "file:///C|/chats", "file:///C:"]
)
def test_a_drive_of_windows_is_refused_where_there_is_none(url, tmp_path):
    with pytest.raises(ConfigurationError, match="drive of Windows"):
        FileStore(url)
    assert str(FileStore(path=tmp_path / "C:\\chats").path) == str(tmp_path / "C:\\chats")


def test_records_larger_than_a_block_are_counted_and_paged(tmp_path):
    with FileStore(f"file:{tmp_path}") as store:
        store.append("s", [HumanMessage("x" * size) for size in (3, 1_500_000, 90_000, 2)])
        assert store.count("s") == 4
        assert [len(message.content) for message in store.read("s", first=3)] == [3, 1_500_000, 90_000]


# Expiry.


@pytest.fixture(params=["folder", "single file"])
def expiring(request, tmp_path):
    if request.param == "folder":
        return FileStore(path=tmp_path / "store", ttl=60)
    return SingleFileStore(tmp_path / "s.json", ttl=60)


def expire(store):
    path = store.operations._files(store.client, "s").expiry
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "expires": 1.0}))


def langchains(store, text):
    """What LangChain's class does: it reads all messages, and writes them again without what it does not know."""
    path = store.operations._files(store.client, "s").history
    known = [{"type": record["type"], "data": record["data"]} for record in json.loads(path.read_text())]
    path.write_text(json.dumps([*known, message_to_dict(HumanMessage(text))]))


def test_langchains_class_beside_a_session_that_expires(expiring):
    with expiring as store:
        store.append("s", humans("old"))
        store.put_state("s", {"a": 1})
        langchains(store, "old too")
        store.append("s", humans("older"))
        expire(store)
        assert (store.read("s"), store.count("s"), store.get_state("s")) == ([], 0, None)
        langchains(store, "theirs")
        assert texts(store.read("s")) == texts(store.read("s", last=1)) == ["theirs"]
        assert (store.count("s"), store.get_state("s")) == (1, None)
        store.append("s", humans("ours"))
        assert texts(store.read("s")) == ["theirs", "ours"]
        assert store.get_state("s") is None
        expire(store)
        assert store.read("s") == []


def test_what_is_deleted_and_edited_does_not_bring_back_what_expires(expiring):
    with expiring as store:
        store.append("s", humans("a", "b", "c", "d"))
        ids = [record.id for record in store.records("s")]
        assert store.delete("s", [ids[0]]) == 1
        assert store.delete("s", ids[1:3]) == 2
        expire(store)
        assert store.read("s") == []
        store.append("s", humans("a", "b", "c"))
        store.edit("s", lambda records: records[:1])
        expire(store)
        assert store.read("s") == []
        langchains(store, "theirs")
        store.edit("s", lambda records: [*records, HumanMessage("ours")])
        assert texts(store.read("s")) == ["theirs", "ours"]


def test_a_file_that_says_nothing_of_expiry_is_an_error(expiring):
    with expiring as store:
        store.append("s", humans("a"))
        store.operations._files(store.client, "s").expiry.write_bytes(b"5")
        for call in (store.read, store.count, store.get_state):
            with pytest.raises(CorruptRecordError, match="expires"):
                call("s")
        store.clear("s")
        store.append("s", humans("b"))
        assert texts(store.read("s")) == ["b"]
