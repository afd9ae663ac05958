"""A transcript that is changed: edit, take, insert, fork, rename, and others who append meanwhile."""

from __future__ import annotations

import concurrent.futures
import json
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, message_to_dict

from langchain_histories import (
    Capability,
    ConfigurationError,
    CorruptRecordError,
    InvalidMessageError,
    RecordNotFoundError,
    TranscriptChangedError,
    UnsupportedOperationError,
)
from langchain_histories.testing.messages import numbered, texts
from langchain_histories.testing.suite.fixtures import StoreFixtures
from langchain_histories.testing.suite.foreign import plant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_histories import MessageStore
    from langchain_histories.codec import Record
    from langchain_histories.testing.faces import Face


def _texts(records: Sequence[Record]) -> list[str]:
    return texts([record.message for record in records])


class EditTests(StoreFixtures):
    """Nothing that others append is lost; what is kept keeps its id and its time."""

    def test_edit(self, store: MessageStore, face: Face) -> None:
        """Records are removed, changed, moved and added at once, and those that stay keep id and time."""
        self.needs(Capability.EDIT)
        call = face(store)
        call.append("s", numbered(3))
        call.append("s", [HumanMessage("3"), AIMessage("4", response_metadata={"a": [1.5, None]})])
        before = call.records("s")

        def change(records: list[Record]) -> list[Any]:
            assert records == before
            zero, one, _, three, four = records
            three.message.content = "three"
            return [zero, HumanMessage("new"), four, one._replace(message=AIMessage("one")), three]

        ids = call.edit("s", change)
        after = call.records("s")
        assert _texts(after) == ["0", "new", "4", "one", "three"]
        assert ids == [record.id for record in after]
        old = {record.id: record for record in before}
        assert [record.id in old for record in after] == [True, False, True, True, True]
        assert all(record.at == old[record.id].at for record in after if record.id in old)
        assert after[2].message == before[4].message
        # Who goes on from an old position misses nothing that it has not seen.
        for number, record in enumerate(before):
            new = {record.id for record in after} - {record.id for record in before[: number + 1]}
            assert new <= {record.id for record in call.records("s", after=record.position)}
        call.append("s", [HumanMessage("last")])
        assert _texts(call.records("s", after=after[-1].position)) == ["last"]
        assert call.count("s") == 6
        assert call.edit("s", lambda records: records, after=after[3].position) == [after[4].id, ids_of(call)[-1]]
        assert call.edit("s", lambda _: [], after=after[1].position) == []
        assert _texts(call.records("s")) == ["0", "new"]
        assert call.edit("s", lambda _: []) == []
        assert call.records("s") == []
        assert call.edit("new", lambda _: []) == []
        (only,) = call.edit("new", lambda _: [HumanMessage("first")])
        assert ids_of(call, "new") == [only]

    def test_a_position_is_not_taken_for_one_of_before(self, store: MessageStore, face: Face) -> None:
        """Who goes on from the last position sees what was put before it, also when that is done twice."""
        self.needs(Capability.EDIT)
        call = face(store)
        call.append("s", numbered(3))
        position = call.records("s")[-1].position
        for number in range(2):
            call.insert("s", number, [HumanMessage(f"new {number}")])
        found = [record.message.content for record in call.records("s", after=position)]
        assert {"new 0", "new 1"} <= {*found}
        last = call.records("s")[-1]
        call.edit_message("s", last.id, AIMessage("changed"))
        assert "changed" in _texts(call.records("s", after=last.position))

    def test_edit_bad_changes(self, store: MessageStore, face: Face) -> None:
        """A change that cannot be done writes nothing."""
        self.needs(Capability.EDIT)
        call = face(store)
        call.append("s", numbered(2))
        before = call.records("s")
        for bad, error in (
            (lambda records: [records[0], records[0]], ConfigurationError),
            (lambda records: [records[0]._replace(id="x")], ConfigurationError),
            (lambda _: [5], InvalidMessageError),
            (lambda _: ["text"], InvalidMessageError),
            (lambda _: 1 // 0, ZeroDivisionError),
        ):
            with pytest.raises(error):
                call.edit("s", bad)
        with pytest.raises(RecordNotFoundError):
            call.edit_message("s", "unknown", HumanMessage("x"))
        with pytest.raises(RecordNotFoundError):
            call.truncate("s", after="unknown")
        with pytest.raises(RecordNotFoundError):
            call.edit_message("never there", before[0].id, HumanMessage("x"))
        with pytest.raises(ConfigurationError, match="index"):
            call.insert("s", "1", [HumanMessage("x")])
        with pytest.raises(InvalidMessageError, match="list"):
            call.insert("s", 0, HumanMessage("x"))
        assert call.records("s") == before

    def test_change_is_called_again(self, store: MessageStore, face: Face) -> None:
        """What others append while `change` runs is there when it is called again, or ends it by an error."""
        self.needs(Capability.EDIT)
        call = face(store)
        for session_id, exact in (("s", False), ("exact", True)):
            call.append(session_id, numbered(3))
            seen: list[int] = []

            def change(records: list[Record], session_id: str = session_id, seen: list[int] = seen) -> list[Any]:
                seen.append(len(records))
                if len(seen) == 1:
                    store.append(session_id, [HumanMessage("meanwhile")])
                return [HumanMessage("new"), *records[1:]]

            if exact:
                with pytest.raises(TranscriptChangedError) as caught:
                    call.edit(session_id, change, exact=True)
                assert caught.value.session_id == session_id
                assert texts(call.read(session_id)) == ["0", "1", "2", "meanwhile"]
            else:
                call.edit(session_id, change)
                assert texts(call.read(session_id)) == ["new", "1", "2", "meanwhile"]
                assert seen == [3, 4]
        last = call.records("exact")[-1]

        def add(records: list[Record]) -> list[Any]:
            store.append("exact", numbered(1))
            return [*records, AIMessage("x")]

        with pytest.raises(TranscriptChangedError):
            call.edit("exact", add, after=last.position, exact=True)
        assert texts(call.read("exact", after=last.position)) == ["0"]

    def test_append_behind_a_record(self, store: MessageStore, face: Face) -> None:
        """An append is done only if the session still ends where the caller read it."""
        self.needs(Capability.EDIT)
        call = face(store)
        (first,) = call.append("s", [HumanMessage("first")])
        (second,) = call.append("s", [AIMessage("second")], after=first)
        for session_id, after in (("s", first), ("s", "unknown"), ("never there", second)):
            with pytest.raises(TranscriptChangedError):
                call.append(session_id, [HumanMessage("late")], after=after)
        call.append("s", numbered(3), after=second)
        assert texts(call.read("s")) == ["first", "second", "0", "1", "2"]

    def test_tail(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """One look tells how a session ends, and its state, and what is done behind it is refused afterwards."""
        write, call = (face(store) for face in faces)
        assert call.tail("s") == ([], None)
        state: dict[str, Any] | None = None
        if self.has(Capability.STATE):
            state = {"é": [1, None]}
            write.put_state("s", state)
            assert call.tail("s", 3) == ([], state)
        write.append("s", numbered(5))
        write.append("other", numbered(2))
        records = call.records("s")
        assert call.tail("s") == (records[-1:], state)
        for last in (0, 1, 3, 5, 9):
            assert call.tail("s", last=last) == (records[max(0, 5 - last) :], state)
        assert call.tail("other") == (call.records("other", last=1), None)
        if self.has(Capability.STATE):
            write.update_state("s", lambda state: {**(state or {}), "b": 2})
            assert call.tail("s", 0) == ([], {"é": [1, None], "b": 2})
            write.put_state("s", None)
        write.append("s", numbered(1))
        assert call.tail("s") == (call.records("s", last=1), None)
        if self.has(Capability.EDIT):
            with pytest.raises(TranscriptChangedError):
                write.append("s", numbered(1), after=records[-1].id)
        for bad in (-1, 1.5, "3", True):
            with pytest.raises(ConfigurationError, match="last"):
                call.tail("s", bad)

    def test_parts_of_a_conversation(self, store: MessageStore, face: Face) -> None:
        """The last turn goes; the end goes; a message is another one; messages are put in."""
        self.needs(Capability.EDIT)
        history, call = store.history("s"), face(store)
        assert call.pop_turn("s") == []
        turns = [[HumanMessage(f"q{n}"), AIMessage(f"a{n}"), AIMessage(f"b{n}")] for n in range(6)]
        call.append("s", [AIMessage("hello"), *(message for turn in turns for message in turn)])
        before = call.records("s")
        assert call.pop_turn("s") == before[-3:]
        call.edit_message("s", before[-5].id, AIMessage("other"))
        call.edit_message("s", before[1].id, HumanMessage("the first"))
        now = call.records("s")
        assert [record[2:] for record in now] == [record[2:] for record in before[:-3]]
        assert (_texts(now)[1], _texts(now)[-2:]) == ("the first", ["other", "b4"])
        call.truncate("s", after=now[4].id)
        history.truncate(after=call.records("s", last=2)[0].position)
        expected = ["hello", "the first", "a0", "b0"]
        ids = []
        for index in (2, 99, -1, -99):
            ids += call.insert("s", index, [HumanMessage(f"at {index}")])
            expected.insert(index, f"at {index}")
        now = call.records("s")
        assert _texts(now) == expected
        assert {*ids} <= {record.id for record in now}
        history.insert(0, [HumanMessage("begin")])
        assert [record.message.content for record in history.pop_turn()] == ["at 99"]
        history.edit_message(ids[0], AIMessage("second"))
        assert texts(call.read("s")) == ["begin", "at -99", "hello", "the first", "second", "a0", "b0", "at -1"]

    def test_take(self, store: MessageStore, face: Face) -> None:
        """One record goes and is returned; an index counts as in a list."""
        self.needs(Capability.DELETE)
        call = face(store)
        assert call.take("s") is None
        call.append("s", numbered(6))
        before = call.records("s")
        for index in (6, -7, 99):
            assert call.take("s", index) is None
        assert call.take("s") == before[5]
        taken = [call.take("s", index) for index in (0, -2, 1)]
        assert _texts(taken) == ["0", "3", "2"]
        assert ids_of(call) == [before[1].id, before[4].id]
        for bad in ("0", 1.0, True, None):
            with pytest.raises(ConfigurationError, match="index"):
                call.take("s", bad)

    def test_edits_beside_appends(self, store: MessageStore) -> None:
        """Two who edit, one who takes and two who append lose nothing of each other's."""
        self.needs(Capability.EDIT | Capability.DELETE)
        store.append("s", numbered(6))
        texts_of = {name: [f"{name} {number}" for number in range(3)] for name in ("a", "b", "0", "-1")}

        def run(name: str) -> list[str]:
            taken = []
            for text in texts_of.get(name, range(3)):
                if name == "take":
                    taken.append(store.take("s", 0))
                elif name in "ab":
                    store.append("s", [HumanMessage(str(text)), AIMessage(str(text))])
                else:
                    store.insert("s", int(name), [HumanMessage(str(text))])
            return _texts([record for record in taken if record])

        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            taken = [text for found in pool.map(run, [*texts_of, "take"]) for text in found]
        left = texts(store.read("s"))
        assert len(taken) == 3
        assert sorted(taken + left) == sorted(
            [*map(str, range(6)), *texts_of["0"], *texts_of["-1"], *(2 * texts_of["a"]), *(2 * texts_of["b"])]
        )
        for name in "ab":
            assert [text for text in left if text.startswith(name)] == [
                t for text in texts_of[name] for t in (text, text)
            ]

    def test_records_without_an_envelope_keep_their_ids(self, store: MessageStore, face: Face) -> None:
        """What LangChain's classes wrote is kept under the id by which it was shown, without a time."""
        self.needs(Capability.EDIT)
        call = face(store)
        messages = [HumanMessage("same"), HumanMessage("same"), AIMessage("é", id="x")]
        plant(store, "s", [json.dumps(message_to_dict(message)) for message in messages])
        before, stored = call.records("s"), call.records("s", raw=True)
        assert len({record.id for record in before}) == 3
        assert [(d["data"]["content"], d["meta"]["id"]) for d in stored] == [(r.message.content, r.id) for r in before]
        call.insert("s", 0, [HumanMessage("new")])
        assert [(r.message, r.id, r.at) for r in call.records("s")[1:]] == [(r.message, r.id, None) for r in before]
        plant(store, "t", [json.dumps(message_to_dict(message)) for message in messages])
        before = call.records("t")
        assert call.fork("t", "u") == [record.id for record in before] == ids_of(call, "u")

    def test_broken_records(self, store: MessageStore, face: Face) -> None:
        """A broken record ends only an edit that would write it again, and can be cut off."""
        self.needs(Capability.EDIT)
        call = face(store)
        call.append("s", [HumanMessage("a")])
        plant(store, "s", ['{"type": "nothing", "data": {}}'])
        call.append("s", [HumanMessage("b"), AIMessage("c")])
        ids = [call.records("s", first=1)[0].id, *(record.id for record in call.records("s", last=2))]
        call.edit_message("s", ids[2], AIMessage("changed"))
        assert _texts(call.pop_turn("s")) == ["b", "changed"]
        refusals: Sequence[Callable[[], Any]] = (
            lambda: call.edit_message("s", ids[0], HumanMessage("x")),
            lambda: call.edit("s", lambda _: []),
            lambda: call.pop_turn("s"),
            lambda: call.take("s"),
        )
        for refused in refusals:
            with pytest.raises(CorruptRecordError):
                refused()
        assert call.count("s") == 2
        call.truncate("s", after=ids[0])
        assert texts(call.read("s")) == ["a"]

    def test_fork(self, store: MessageStore, face: Face) -> None:
        """Another session begins with the records of one; both go on alone."""
        self.needs(Capability.EDIT)
        call = face(store)
        call.append("s", numbered(4))
        records = call.records("s")
        for name in (records[1].id, records[1].position):
            new = f"to {name}"
            assert call.fork("s", new, at=name) == ids_of(call, new) == [r.id for r in records[:2]]
            assert [(r.message, r.at) for r in call.records(new)] == [(r.message, r.at) for r in records[:2]]
        call.append(new, [HumanMessage("other")])
        call.fork("s", "all")
        assert ids_of(call, "all") == ids_of(call, "s") == [record.id for record in records]
        assert call.fork("never there", "nothing") == []
        for target in ("all", "s"):
            with pytest.raises(ConfigurationError):
                call.fork("s", target)
        call.truncate("s", after=records[0].id)
        with pytest.raises(RecordNotFoundError):
            call.fork("s", "gone", at=records[1].position)
        assert call.read("gone") == []
        if self.has(Capability.STATE):
            call.put_state("all", {"title": "x", "lh:summary": {"anchor": [records[2].id]}})
            call.fork("all", "with", at=records[2].id)
            call.fork("all", "without", at=records[1].id)
            assert call.get_state("with") == call.get_state("all")
            assert call.get_state("without") == {"title": "x"}

    def test_rename(self, store: MessageStore, face: Face) -> None:
        """Records and state move under their ids, not onto others, and it can be done again."""
        self.needs(Capability.EDIT)
        call = face(store)
        call.append("old", numbered(3))
        records = call.records("old")
        if self.has(Capability.STATE):
            call.put_state("old", {"a": 1})
        for _ in range(2):
            call.rename("old", "new")
            assert [(r.message, r.id, r.at) for r in call.records("new")] == [(r.message, r.id, r.at) for r in records]
            assert call.read("old") == []
            if self.has(Capability.STATE):
                assert call.get_state("new") == {"a": 1}
                assert call.get_state("old") is None
        call.append("old", [HumanMessage("begun again")])
        for target in ("new", "old"):
            with pytest.raises(ConfigurationError):
                call.rename("old", target)
        assert texts(call.read("old")) == ["begun again"]
        # One that was interrupted goes on.
        call.fork("new", "newer")
        call.rename("new", "newer")
        assert ids_of(call, "newer") == [record.id for record in records]
        assert call.read("new") == []

    def test_a_rename_beside_appends(self, store: MessageStore) -> None:
        """What is appended meanwhile is in one of both sessions afterwards."""
        self.needs(Capability.EDIT)
        store.append("old", numbered(3))

        def append(session_id: str) -> list[str]:
            return [store.append(session_id, [HumanMessage(f"{session_id} {n}")])[0] for n in range(6)]

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            written = [pool.submit(append, "old")]
            store.rename("old", "new")
            written.append(pool.submit(append, "new"))
            ids = [record_id for future in written for record_id in future.result()]
        found = ids_of(store, "old") + ids_of(store, "new")
        assert len(found) == len({*found}) == 15
        assert {*ids} <= {*found}
        assert [record_id for record_id in found if record_id in ids[6:]] == ids[6:]

    def test_a_summary_goes_with_what_it_covers(self, store: MessageStore, face: Face) -> None:
        """An edit drops the summaries that have words of what changes, and no others."""
        self.needs(Capability.EDIT | Capability.STATE)
        call = face(store)
        ids = call.append("s", [HumanMessage("q0"), AIMessage("a0"), HumanMessage("q1"), AIMessage("a1")])
        state = {"mine": 1, "lh:summary": {"anchor": [ids[0], ids[1]]}}
        changes: Sequence[tuple[Callable[[], Any], bool]] = (
            (lambda: call.append("s", [HumanMessage("q2"), AIMessage("a2")], after=ids[3]), True),
            (lambda: call.pop_turn("s"), True),
            (lambda: call.edit_message("s", ids[2], HumanMessage("q")), True),
            (lambda: call.take("s"), True),
            (lambda: call.take("s", 2), True),
            (lambda: call.edit_message("s", ids[1], AIMessage("a")), False),
            (lambda: call.insert("s", 0, [HumanMessage("x")]), False),
            (lambda: call.take("s", 1), False),
            (lambda: call.truncate("s", after=ids_of(call)[0]), False),
        )
        for change, is_kept in changes:
            call.put_state("s", state)
            change()
            assert call.get_state("s") == (state if is_kept else {"mine": 1})

    def test_stored_records(self, store: MessageStore, face: Face) -> None:
        """Records are read as they are stored, in the same order, with position and id."""
        call = face(store)
        call.append("s", [HumanMessage("a", additional_kwargs={"raw": b"\0"}), AIMessage("b")])
        records, stored = call.records("s"), call.records("s", raw=True)
        assert [(d["meta"]["id"], d["position"]) for d in stored] == [(r.id, r.position) for r in records]
        assert [(d["type"], d["data"]["content"]) for d in stored] == [("human", "a"), ("ai", "b")]
        assert stored[0]["data"]["additional_kwargs"]["raw"] == {"lh:type": "bytes", "value": "AA=="}
        assert call.records("s", raw=True, last=1) == stored[-1:]

    def test_without_edits(self, store: MessageStore, face: Face) -> None:
        """A store that cannot compare and change in one step says so, and does not ask for the change."""
        if self.has(Capability.EDIT):
            pytest.skip("the store has EDIT")
        call = face(store)
        call.append("s", [HumanMessage("x")])
        (record_id,) = ids_of(call)
        refusals: Sequence[Callable[[], Any]] = (
            lambda: call.edit("s", lambda _: pytest.fail("the change was asked for")),
            lambda: call.append("s", [HumanMessage("y")], after=record_id),
            lambda: call.insert("s", 0, [HumanMessage("y")]),
            lambda: call.pop_turn("s"),
            lambda: call.truncate("s", after=record_id),
            lambda: call.edit_message("s", record_id, HumanMessage("y")),
            lambda: call.fork("s", "t"),
            lambda: call.rename("s", "t"),
        )
        for refused in refusals:
            with pytest.raises(UnsupportedOperationError, match="edit"):
                refused()
        assert texts(call.read("s")) == ["x"]


def ids_of(store: Any, session_id: str = "s") -> list[str]:
    """The ids of the records of a session."""
    return [record.id for record in store.records(session_id)]
