"""What an application keeps of a record: given, returned, carried, filtered, refused, and covered by the codec."""

from __future__ import annotations

import datetime as dt
import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_histories import (
    Capability,
    ConfigurationError,
    InvalidMessageError,
    MemoryStore,
    RecordTooLargeError,
)
from langchain_histories._calls import Batch
from langchain_histories.conversations.copying import acopy, copy
from langchain_histories.testing.messages import ShoutingCodec, numbered, texts
from langchain_histories.testing.suite.fixtures import StoreFixtures
from langchain_histories.testing.suite.foreign import plant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_histories import MessageStore
    from langchain_histories.codec import Row
    from langchain_histories.testing.faces import Face
    from langchain_histories.testing.suite.fixtures import OpenStore

# Names that are ours in an envelope, and values that one service or another would change.
_ODD: dict[str, Any] = {
    "v": 99,
    "id": "mine",
    "at": None,
    "app": {"app": {}},
    "escaped": "␀",
    "lh:type": "bytes",
    "": "\0 é 😀 ␀0000 ' \" \\",
    "numbers": [0, -1, 2**60, 1.0, 1e22, 1e-7, 0.1],
    "flags": [True, False, None, [], {}],
    "nested": {"a": {"b": [{"c": None}]}},
}


def _rows(store: MessageStore, session_id: str) -> Sequence[Row]:
    key = store.operations.key(session_id)
    return store.run("read", lambda client: store.operations.read(client, key), session_id=session_id)


def _metas(call: Any, session_id: str = "s", **options: Any) -> list[Any]:
    return [record.meta for record in call.records(session_id, **options)]


class MetaTests(StoreFixtures):
    """`meta` of the application's own on records."""

    def test_meta(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """One dict for all messages, or one for each, comes back equal, and is in no message."""
        write, read = (face(store) for face in faces)
        write.append("s", numbered(2), meta={"channel": "web"})
        write.append("s", [*numbered(2), HumanMessage("last")], meta=[_ODD, None, {}])
        write.append("s", numbered(1))
        records = read.records("s")
        assert [record.meta for record in records] == [{"channel": "web"}] * 2 + [_ODD, {}, {}, {}]
        assert repr(sorted(records[2].meta["numbers"])) == repr(sorted(_ODD["numbers"]))
        assert [record.message for record in records] == read.read("s")
        assert read.read("s", first=2) == [*numbered(2)]
        records[0].meta["channel"] = "changed"
        assert _metas(read, first=2) == [{"channel": "web"}] * 2
        stored = read.records("s", raw=True)
        assert [record["meta"]["id"] for record in stored] == [record.id for record in records]
        assert stored[0]["meta"]["app"] == {"channel": "web"}
        assert "app" not in stored[-1]["meta"]

    def test_meta_by_other_ways(self, store: MessageStore, face: Face) -> None:
        """A history takes it; a batch that is appended again has it; records bring it along."""
        call, history = face(store), store.history("s")
        history.add_messages(numbered(1), meta={"by": "sync"})
        face.either(history.add_messages, history.aadd_messages)(numbered(2), meta=[{"by": "face"}, None])
        sent = Batch(numbered(1), ["0" * 32], {"by": "batch"})
        call.append("s", pickle.loads(pickle.dumps(sent)))  # noqa: S301  # our own
        expected = [{"by": "sync"}, {"by": "face"}, {}, {"by": "batch"}]
        assert _metas(call) == expected
        assert len(call.append_records("other", call.records("s"))) == 4
        assert _metas(call, "other") == expected

    def test_meta_is_carried(self, open_store: OpenStore, face: Face) -> None:
        """An edit keeps it or sets it; a fork, a rename and copies, also from and to a store with a codec, keep it."""
        self.needs(Capability.EDIT)
        with open_store() as store:
            call = face(store)
            call.append("s", numbered(4), meta=[_ODD, {"n": 1}, {"n": 2}, {"n": 3}])
            plant(store, "s", ['{"type": "human", "data": {"content": "old", "type": "human"}}'])

            def change(records: list[Any]) -> list[Any]:
                records[2].meta["seen"] = True
                old = records[4]._replace(meta={"n": 4})
                return [records[0], AIMessage("new"), *records[1:3], records[3]._replace(meta={}), old]

            before = call.records("s")
            call.edit("s", change)
            call.edit_message("s", before[1].id, HumanMessage("other"))
            expected = [_ODD, {}, {"n": 1}, {"n": 2, "seen": True}, {}, {"n": 4}]
            after = call.records("s")
            assert [record.meta for record in after] == expected
            assert texts([record.message for record in after]) == ["0", "new", "other", "2", "3", "old"]
            assert [record.id for record in after if record.id != after[1].id] == [record.id for record in before]
            for bad, error in (({"a": {1}}, InvalidMessageError), ({"a": "x" * 16_384}, RecordTooLargeError)):
                with pytest.raises(error):
                    call.edit("s", lambda records, bad=bad: [records[0]._replace(meta=bad), *records[1:]])
            assert call.records("s") == after
            call.fork("s", "fork")
            call.rename("fork", "moved")
            assert _metas(call, "moved") == expected
            coded, plain = MemoryStore(codec=ShoutingCodec()), MemoryStore()
            to_copy = face.either(copy, acopy)
            for source, destination in ((store, coded), (coded, plain)):
                to_copy(source, destination, sessions=["s"])
                assert _metas(face(destination)) == expected
                assert texts(destination.read("s")) == texts(call.read("s"))

    def test_filters(self, store: MessageStore, face: Face) -> None:
        """Records of a time, a type, a meta, or all of these; `last` and `first` count those."""
        call = face(store)
        turns = [message for number in range(40) for message in (HumanMessage(f"q{number}"), AIMessage(f"a{number}"))]
        call.append("s", turns, meta=[{"n": at, "of": {"x": [at % 2]}} for at in range(80)])
        plant(store, "s", ['{"type": "human", "data": {"content": "old", "type": "human"}}'])
        call.append("s", [HumanMessage("q40")], meta={"n": None})
        records = call.records("s")
        first, last = records[0].at, records[-1].at
        moment = dt.timedelta(microseconds=1)
        cases: list[tuple[dict[str, Any], list[int]]] = [
            ({"type": "human"}, [*range(0, 80, 2), 80, 81]),
            ({"type": ["ai", "tool"], "last": 2}, [77, 79]),
            ({"type": "ai", "first": 2}, [1, 3]),
            ({"type": "ai", "first": 2, "after": records[3].position}, [5, 7]),
            ({"meta": {"n": 1}, "last": 1}, [1]),
            ({"meta": {"n": 78}, "first": 1}, [78]),
            ({"meta": {"n": None}}, [81]),
            ({"meta": {"of": {"x": [1]}}, "type": "human"}, []),
            ({"meta": {"n": 5, "of": {"x": [1]}}}, [5]),
            ({"meta": {"missing": None}, "first": 3}, []),
            ({"since": first}, [*range(80), 81]),
            ({"since": last, "type": "human", "meta": {"n": None}}, [81]),
            ({"until": first}, []),
            ({"since": last + moment}, []),
            ({"until": last + moment, "last": 1}, [81]),
            ({"since": first.astimezone(dt.timezone(dt.timedelta(hours=5))), "meta": {"n": 0}}, [0]),
        ]
        stored = call.records("s", raw=True)
        for options, expected in cases:
            assert call.records("s", **options) == [records[at] for at in expected]
            assert call.records("s", raw=True, **options) == [stored[at] for at in expected]
        bad: tuple[dict[str, Any], ...] = (
            {"since": dt.datetime(2026, 1, 1)},  # noqa: DTZ001  # that is what is refused
            {"until": "2026"},
            {"type": 5},
            {"meta": "x"},
        )
        for options in bad:
            with pytest.raises(ConfigurationError, match=next(iter(options))):
                call.records("s", **options)

    def test_bad_meta(self, store: MessageStore, face: Face) -> None:
        """What JSON cannot hold, what is too large, and what fits no batch is refused, and nothing is written."""
        call = face(store)
        loop: dict[str, Any] = {}
        loop["a"] = loop
        deep: list[Any] = []
        for _ in range(5000):
            deep = [deep]
        values = (b"x", {1}, (1,), float("nan"), float("inf"), object(), dt.date(2026, 1, 1), {1: 2}, loop, deep)
        cases: list[tuple[Any, type[Exception]]] = [({"a": value}, InvalidMessageError) for value in values]
        cases += [({5: "a"}, InvalidMessageError), ({"a": "\ud83d\ude00"}, InvalidMessageError)]
        cases += [({"a": "é" * 8_188}, RecordTooLargeError), ([{}, {"a": "x" * 20_000}], RecordTooLargeError)]
        shapes: tuple[Any, ...] = ("text", 5, [{}], [{}, {}, {}], [{}, 5], [])
        cases += [(shape, ConfigurationError) for shape in shapes]
        for bad, error in cases:
            with pytest.raises(error):
                call.append("s", numbered(2), meta=bad)
        assert call.read("s") == []
        call.append("s", numbered(1), meta={"a": "é" * 8_187})  # 16,383 bytes
        assert len(_metas(call)[0]["a"]) == 8_187

    def test_a_codec_covers_meta(self, open_store: OpenStore, face: Face) -> None:
        """Nothing of it is in the text that a store with a codec keeps, whatever writes that."""
        with open_store(codec=ShoutingCodec()) as store:
            call = face(store)
            call.append("s", numbered(2), meta=[{"author": "secret"}, None])
            call.append_records("s", [record._replace(id=f"copy {record.id}") for record in call.records("s")])
            expected = [{"author": "secret"}, {}] * 2
            if self.has(Capability.EDIT):
                call.edit_message("s", call.records("s")[2].id, HumanMessage("x"))
                call.edit(
                    "s", lambda records: [records[0], records[1]._replace(meta={"author": "secret"}), *records[2:]]
                )
                expected[1] = {"author": "secret"}
            assert _metas(call) == expected
            assert _metas(call, meta={"author": "secret"}) == [{"author": "secret"}] * (expected.count(expected[0]))
            kept = [str(row.text) for row in _rows(store, "s")]
            assert not any("secret" in text or "author" in text for text in kept)
            assert call.records("s", raw=True)[0]["meta"]["app"] == {"author": "secret"}
            # What others put beside the encoded text is not what the application gave.
            forged = [json.loads(row.text) for row in _rows(store, "s")]
            for record in forged:
                record["meta"] |= {"id": f"forged {record['meta']['id']}", "app": {"author": "forged"}}
            plant(store, "s", [json.dumps(record) for record in forged])
            assert _metas(call) == expected * 2
