"""Records that go to another store and come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_histories import Capability, InvalidMessageError, MemoryStore, MessageStore
from langchain_histories.conversations.copying import acopy, adigest, copy, digest
from langchain_histories.testing.messages import comparable, golden_messages, numbered, texts
from langchain_histories.testing.suite.fixtures import StoreFixtures
from langchain_histories.testing.suite.foreign import plant

if TYPE_CHECKING:
    from langchain_histories.testing.faces import Face


class TravelTests(StoreFixtures):
    """What goes to another store keeps what it is."""

    def test_records_keep_ids_and_times(self, store: MessageStore, face: Face) -> None:
        """Rule 25, and a second time nothing is added."""
        origin = MemoryStore()
        origin.append("o", [HumanMessage("a"), AIMessage("b")])
        origin.append("o", [HumanMessage("c")])
        records = origin.records("o")
        (own,) = face(store).append("s", [HumanMessage("own")])
        assert face(store).append_records("s", records[:2]) == [records[0].id, records[1].id]
        assert face(store).append_records("s", records) == [records[2].id]
        assert face(store).append_records("s", records) == []
        found = face(store).records("s")
        assert [record.id for record in found] == [own, *(record.id for record in records)]
        assert [record.at for record in found[1:]] == [record.at for record in records]
        assert texts(face(store).read("s")) == ["own", "a", "b", "c"]
        with pytest.raises(InvalidMessageError):
            face(store).append_records("s", [HumanMessage("no record")])
        assert face(store).count("s") == 4

    def test_a_copy_there_and_back(self, store: MessageStore, face: Face) -> None:
        """A copy of a copy has the same digest, and the same call again adds nothing."""
        origin, back = MemoryStore(), MemoryStore()
        golden = [message for message in golden_messages() if len(message.content) < 100_000]
        origin.append("a", golden)
        plant(origin, "a", ['{"type": "human", "data": {"content": "old", "type": "human", "example": false}}'] * 2)
        plant(origin, "a", ['{"type": "alien", "data": {}, "meta": {"v": 1, "id": "unreadable"}}'])
        origin.append("b/ü", numbered(3))
        origin.put_state("b/ü", {"a": [1, {"b": b"x"}]})
        to_copy = face.either(copy, acopy)
        copied = to_copy(origin, store)
        assert (copied.sessions, copied.records) == (2, len(golden) + 3 + 3)
        again = to_copy(origin, store)
        assert (again.records, again.found) == (0, copied.records)
        # All that is listed goes together, and what is given goes one by one.
        returned = to_copy(store, back, sessions=None if self.has(Capability.SESSIONS) else ["a", "b/ü"])
        assert returned.records == copied.records
        assert comparable(back.read("b/ü")) == comparable(origin.read("b/ü"))
        if self.has(Capability.STATE):
            assert back.get_state("b/ü") == origin.get_state("b/ü")
            assert (copied.states_left, returned.states_left) == ((), ())
            digests = [face.either(digest, adigest)(at, sessions=["a", "b/ü"]) for at in (origin, store, back)]
            assert digests == [digest(origin)] * 3
        else:
            assert copied.states_left == ("b/ü",)
