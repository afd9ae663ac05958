"""Whatever is stored where a record or a state should be."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import HumanMessage

from langchain_histories import Capability, CorruptRecordError, HistoryError, MessageStore, user_session_id
from langchain_histories.testing.messages import comparable, numbered, texts
from langchain_histories.testing.odd_records import NOT_EVERYWHERE, RECORDS, STATES, odd_record
from langchain_histories.testing.suite.fixtures import StoreFixtures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_histories.testing.faces import Face
    from langchain_histories.testing.suite.fixtures import OpenStore


def plant(store: MessageStore, session_id: str, rows: Sequence[str]) -> None:
    """Store texts as they are, beside the codec."""
    key = store.operations.key(session_id)
    store.run("append", lambda client: store.operations.append(client, key, rows), session_id=session_id)


def _plant_each(store: MessageStore, session_id: str, rows: Sequence[str]) -> None:
    """Store those of the texts that the service can hold."""
    try:
        plant(store, session_id, rows)
    except HistoryError:
        for row in rows:
            with contextlib.suppress(HistoryError):
                plant(store, session_id, [row])


def _plant_state(store: MessageStore, session_id: str, text: str) -> None:
    key = store.operations.key(session_id)
    store.run("put_state", lambda client: store.operations.put_state(client, key, text), session_id=session_id)


def _state_text(store: MessageStore, session_id: str) -> Any:
    key = store.operations.key(session_id)
    return store.run("get_state", lambda client: store.operations.get_state(client, key), session_id=session_id)


class ForeignTests(StoreFixtures):
    """Stored bytes raise nothing but errors of ours, and hide and block nothing else."""

    @pytest.fixture
    def no_collection(self) -> Iterator[None]:
        """Keep finalizers out of the deep recursion that some texts cause, where whatever they do fails."""
        gc.collect()
        gc.disable()
        yield
        gc.enable()

    @pytest.mark.usefixtures("no_collection")
    def test_whatever_is_stored(self, open_store: OpenStore, face: Face) -> None:
        """A record that cannot be read is skipped or found, and everything around it is read, counted and listed."""
        chance = random.Random(5)  # noqa: S311
        with open_store() as store, open_store(on_corrupt="skip") as lenient:
            face(store).append("other", [HumanMessage("other")])
            (first,) = store.format.encode([HumanMessage("first")])[1]
            plant(store, "s", ["{}", first])
            _plant_each(store, "s", [*RECORDS, *(odd_record(chance) for _ in range(14))])
            _plant_each(store, "s", NOT_EVERYWHERE)
            face(store).append("s", [HumanMessage("last")])
            count = face(store).count("s")
            assert count >= 35

            records = face(lenient).records("s")
            assert len(records) < count - 15
            found = texts([record.message for record in records])
            assert (found[0], found[-1]) == ("first", "last")
            assert comparable(face(lenient).read("s")) == comparable([record.message for record in records])
            for limit in (1, len(records)):
                assert texts(face(lenient).read("s", last=limit)) == found[-limit:]
                assert texts(face(lenient).read("s", first=limit)) == found[:limit]

            broken: list[CorruptRecordError] = []
            for _ in range(4):
                with pytest.raises(CorruptRecordError) as caught:
                    face(store).records("s", after=broken[-1].position if broken else None)
                assert caught.value.session_id == "s"
                broken.append(caught.value)
            assert len({error.id for error in broken}) == len({error.position for error in broken}) == len(broken)
            assert not {error.position for error in broken} & {record.position for record in records}
            assert texts(face(store).read("s", last=1)) == ["last"]
            if self.has(Capability.SESSIONS):
                listed = [(info.session_id, info.count) for info in face(store).sessions()]
                assert listed == [("other", 1), ("s", count)]
            assert texts(face(store).read("other")) == ["other"]
            face(store).clear("s")
            assert face(store).count("s") == 0

    def test_a_broken_record_is_deleted_by_its_id(self, store: MessageStore, face: Face) -> None:
        """What an error says of a record is enough to remove it, also if that moves all others."""
        self.needs(Capability.DELETE)
        (record_id,) = face(store).append("s", [HumanMessage("first")])
        alien = {"type": "alien", "data": {}}
        metas = [{"v": 1, "id": "i"}, {"v": 1, "id": record_id}, {"v": 1, "id": record_id}]
        bad = ["5", "{}", "5", *(json.dumps({**alien, "meta": meta}) for meta in metas)]
        plant(store, "s", bad)
        face(store).append("s", [HumanMessage("last")])
        for left in reversed(range(len(bad))):
            with pytest.raises(CorruptRecordError) as caught:
                face(store).read("s")
            assert face(store).delete("s", [caught.value.id]) == 1
            assert face(store).count("s") == left + 2
        assert texts(face(store).read("s")) == ["first", "last"]

    def test_the_newest_record_of_a_session_is_broken(self, store: MessageStore, face: Face) -> None:
        """Sessions are listed by what is in them, of which nothing needs to be readable."""
        self.needs(Capability.SESSIONS)
        face(store).append("whole", [HumanMessage("x")])
        (row,) = store.format.encode([HumanMessage("first")])[1]
        planted = []
        for number, text in enumerate([*RECORDS[::4], *NOT_EVERYWHERE]):
            with contextlib.suppress(HistoryError):  # the service has no such text
                plant(store, f"broken {number}", [row, text])
                planted.append(f"broken {number}")
        found = face(store).sessions()
        assert [info.session_id for info in found] == [*planted, "whole"]
        assert all(info.count for info in found)
        assert found[-1].last_at is not None
        assert texts(face(store).read(planted[0], first=1)) == ["first"]

    @pytest.mark.usefixtures("no_collection")
    def test_whatever_is_stored_as_a_state(self, store: MessageStore, face: Face) -> None:
        """A state that is none raises, is not overwritten by a change, and is by another state."""
        self.needs(Capability.STATE)
        face(store).append("s", [HumanMessage("x")])
        face(store).put_state("other", {"a": 1})
        for text in STATES:
            with contextlib.suppress(HistoryError):  # the service has no such text
                _plant_state(store, "s", text)
                with pytest.raises(CorruptRecordError, match="state"):
                    face(store).get_state("s")
                with pytest.raises(CorruptRecordError, match="state"):
                    face(store).update_state("s", lambda _: {"mine": 1})
                assert _state_text(store, "s") in (text, text.encode())
        assert texts(face(store).read("s")) == ["x"]
        assert face(store).get_state("other") == {"a": 1}
        face(store).put_state("s", {"mine": 1})
        assert face(store).get_state("s") == {"mine": 1}
        _plant_state(store, "s", "[]")
        face(store).put_state("s", None)
        assert face(store).get_state("s") is None

    def test_what_is_no_text(self, open_store: OpenStore, face: Face) -> None:
        """What other programs left among the records of a session, of whatever type, hides none of them."""
        with open_store() as store:
            leave = self.foreign_rows(store, "s")
        if leave is None:
            pytest.skip("the store has texts alone, or the test cannot write anything else")
        with open_store() as store, open_store(on_corrupt="skip") as lenient:
            leave = self.foreign_rows(store, "s") or []
            face(store).append("other", [HumanMessage("other")])
            for number, leave_one in enumerate(leave):
                face(store).append("s", [HumanMessage(str(number))])
                leave_one()
            face(store).append("s", [HumanMessage("last")])
            kept = [*map(str, range(len(leave))), "last"]
            assert sorted(texts(face(lenient).read("s"))) == sorted(kept)
            assert len(face(lenient).records("s")) == len(kept)
            with pytest.raises(CorruptRecordError) as caught:
                face(store).read("s")
            assert (caught.value.session_id, bool(caught.value.id)) == ("s", True)
            face(store).records("s", last=1)
            face(store).count("s")
            if self.has(Capability.SESSIONS):
                assert [info.session_id for info in face(store).sessions()] == ["other", "s"]
            if self.has(Capability.DELETE):
                assert face(store).delete("s", [caught.value.id]) == 1
                assert len(face(lenient).read("s")) == len(kept)
            face(store).clear("s")
            assert face(store).read("s") == []

    def test_a_broken_session_blocks_no_other(self, store: MessageStore, face: Face) -> None:
        """Whatever became of what the store keeps of a session, errors are ours, others are listed, and it can go."""
        sessions = self.broken_sessions(store, "none")
        if sessions is None:
            pytest.skip("the store keeps nothing beside records, or the test cannot change it")
        call = face(store)
        call.append("whole", [HumanMessage("x")])
        ids = [user_session_id("u", str(number)) for number in range(len(sessions))]
        for number, session_id in enumerate(ids):
            call.append(session_id, numbered(2))
            if self.has(Capability.STATE):
                call.put_state(session_id, {"a": 1})
            broken = self.broken_sessions(store, session_id)
            assert broken is not None
            broken[number]()
        self._use(call, ids)
        if self.has(Capability.SESSIONS):
            assert call.sessions()[-1] == call.sessions(prefix="whole", limit=1)[0]
            assert call.sessions()[-1].session_id == "whole"
        for session_id in ids[::2]:
            call.clear(session_id)
            assert call.read(session_id) == []
            call.append(session_id, [HumanMessage("again")])
            assert texts(call.read(session_id)) == ["again"]
        if self.has(Capability.ERASE):
            call.erase(user_id="u")
            assert call.sessions(user_id="u") == []
        assert texts(call.read("whole")) == ["x"]

    def _use(self, call: Any, ids: Sequence[str]) -> None:
        """Read sessions, and call of the other methods each in turn, because each costs requests."""
        calls: list[tuple[str, tuple[Any, ...]]] = [("count", ()), ("append", (numbered(1),))]
        if self.has(Capability.STATE):
            calls += [
                ("get_state", ()),
                ("put_state", ({"b": 2},)),
                ("update_state", (lambda state: {**(state or {})},)),
            ]
        if self.has(Capability.DELETE):
            calls.append(("delete", (["x"],)))
        for session_id, (name, args) in zip(ids, itertools.cycle(calls), strict=False):
            for operation, arguments in (("read", ()), (name, args)):
                with contextlib.suppress(HistoryError):
                    getattr(call, operation)(session_id, *arguments)
