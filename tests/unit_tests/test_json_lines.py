"""Conversations in a file of JSON Lines, and files that are none."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import jsonschema
import pytest
from langchain_core.messages import HumanMessage

import langchain_histories.conversations
from langchain_histories import (
    ConfigurationError,
    CorruptRecordError,
    FileFormatError,
    InMemoryChatMessageHistory,
    MemoryStore,
    SQLStore,
    StoreError,
    aexport_jsonl,
    aimport_jsonl,
    digest,
    export_jsonl,
    import_jsonl,
)
from langchain_histories.conversations import _reading
from langchain_histories.testing.messages import ShoutingCodec, golden_messages, numbered, texts
from langchain_histories.testing.suite.foreign import plant

SCHEMA = Path(langchain_histories.conversations.__file__).with_name("export.schema.json")


@pytest.fixture(params=["sync", "async"])
def faces(request):
    """Both functions of one face."""
    if request.param == "sync":
        return export_jsonl, import_jsonl
    return (
        lambda *args, **options: asyncio.run(aexport_jsonl(*args, **options)),
        lambda *args, **options: asyncio.run(aimport_jsonl(*args, **options)),
    )


@pytest.fixture
def source():
    store = MemoryStore(codec=ShoutingCodec())
    store.append("a", golden_messages())
    store.append("b/ü", numbered(3), meta=[{"channel": "é"}, None, {"v": 5}])
    store.put_state("b/ü", {"bytes": b"x", "lh:type": "own"})
    plant(store, "a", ['{"type": "human", "data": {"content": "old", "type": "human", "example": false}}'])
    plant(store, "a", ['{"type": "alien", "data": {}, "meta": {"v": 1, "id": "unreadable"}}'])
    return store


def test_there_and_back(faces, source, tmp_path, monkeypatch):
    monkeypatch.setattr(_reading, "PAGE", 7)
    to_file, from_file = faces
    path = tmp_path / "backup.jsonl"
    path.write_text("before")
    written = to_file(source, path)
    assert (written.sessions, written.records) == (2, source.count("a") + 3)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]

    target, told_of = SQLStore(f"sqlite:///{tmp_path}/x.db"), []
    assert from_file(path, target, on_progress=told_of.append).records == written.records
    assert digest(target) == digest(source)
    assert target.get_state("b/ü") == source.get_state("b/ü")
    assert [progress.sessions for progress in told_of] == [1, 2]
    again = from_file(path, target)
    assert (again.records, again.found) == (0, written.records)


def test_lines_are_as_the_schema_says(source, tmp_path):
    export_jsonl(source, tmp_path / "x.jsonl")
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    for line in lines:
        jsonschema.validate(line, schema)
    assert [sorted(line) for line in (lines[0], lines[-2], lines[-1])] == [
        ["format", "version"],
        ["session_id", "state"],
        ["end", "records", "sessions"],
    ]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"session_id": "a"}, schema)


def test_some_sessions(source, tmp_path):
    path = tmp_path / "x.jsonl"
    assert export_jsonl(source, path, sessions=["b/ü", "none"]).records == 3
    target = MemoryStore()
    import_jsonl(path, target)
    assert [info.session_id for info in target.sessions()] == ["b/ü"]
    with pytest.raises(ConfigurationError):
        export_jsonl(source, path, sessions="a")


def test_an_empty_store(tmp_path):
    export_jsonl(MemoryStore(), tmp_path / "x.jsonl")
    assert import_jsonl(tmp_path / "x.jsonl", MemoryStore()).sessions == 0


def test_what_cannot_be_read(source, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("before")
    plant(source, "a", ["5"])
    with pytest.raises(CorruptRecordError, match="session 'a' cannot be exported"):
        export_jsonl(source, path)
    assert (path.read_text(), list(tmp_path.iterdir())) == ("before", [path])
    report = export_jsonl(source, path, on_corrupt="skip")
    assert [error.session_id for error in report.unreadable] == ["a"]
    assert import_jsonl(path, MemoryStore()).records == report.records
    with pytest.raises(ConfigurationError):
        export_jsonl(source, path, on_corrupt="drop")


def test_a_store_that_fails(source, tmp_path):
    path = tmp_path / "x.jsonl"

    async def fails(*args, **options):
        raise ConnectionError

    source._operations.read = fails
    with pytest.raises(StoreError):
        export_jsonl(source, path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="no folder"):
        export_jsonl(source, tmp_path / "no folder" / "x.jsonl")
    with pytest.raises(ConfigurationError, match="store must be a store"):
        export_jsonl(InMemoryChatMessageHistory(), path)


@pytest.fixture
def lines(tmp_path):
    source = MemoryStore()
    source.append("a", numbered(3))
    source.append("b", [HumanMessage("x")])
    export_jsonl(source, tmp_path / "x.jsonl")
    return (tmp_path / "x.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("change", "line", "stored"),
    [
        (lambda lines: lines[:-1], 6, ["0", "1", "2", "x"]),
        (lambda lines: [*lines[:-2], lines[-2][:50]], 5, ["0", "1", "2"]),
        (lambda lines: [*lines[:2], b"not json\n", *lines[3:]], 3, ["0"]),
        (lambda lines: [*lines[:4], b"[]\n", *lines[4:]], 5, ["0", "1", "2"]),
        (lambda lines: [*lines[:4], b'{"session_id": "a", "record": 5}\n', *lines[4:]], 5, ["0", "1", "2"]),
        (lambda lines: [*lines[:4], b'{"session_id": 5, "record": {}}\n', *lines[4:]], 5, ["0", "1", "2"]),
        (lambda lines: [*lines[:2], *lines[3:]], 5, ["0", "2", "x"]),
        (lambda lines: lines[1:], 1, []),
        (lambda lines: [], 1, []),
        (lambda lines: [b'{"format": "langchain_histories", "version": 2}\n', *lines[1:]], 1, []),
        (lambda lines: [b'{"format": "langchain_histories", "version": "1"}\n', *lines[1:]], 1, []),
        (lambda lines: [b"\xff\xfe\n", *lines[1:]], 1, []),
    ],
)
def test_a_file_that_is_none(faces, lines, change, line, stored, tmp_path):  # noqa: PLR0917
    """Each tells the line; what stands before it is there, and the whole file adds the rest."""
    _, from_file = faces
    path, target = tmp_path / "broken.jsonl", MemoryStore()
    path.write_bytes(b"".join(change(lines)))
    with pytest.raises(FileFormatError, match=f"Line {line} of ") as caught:
        from_file(path, target)
    assert (caught.value.path, caught.value.line) == (str(path), line)
    found = [text for info in target.sessions() for text in texts(target.read(info.session_id))]
    assert found == stored
    path.write_bytes(b"".join(lines))
    from_file(path, target)
    assert sorted(texts(target.read("a"))) == ["0", "1", "2"]
    assert texts(target.read("b")) == ["x"]


@pytest.mark.parametrize(
    ("line", "what"), [(b'{"session_id"', "is cut off"), (b"[]\n", "not a JSON object"), (b"{}\n", "neither a record")]
)
def test_what_is_wrong_with_a_line(lines, line, what, tmp_path):
    (tmp_path / "broken.jsonl").write_bytes(b"".join([*lines[:3], line]))
    with pytest.raises(FileFormatError, match=f"^Line 4 .* {what}"):
        import_jsonl(tmp_path / "broken.jsonl", MemoryStore())


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        import_jsonl(tmp_path / "none.jsonl", MemoryStore())
