"""Reads of a part of a session: the last records, the first ones, those behind a position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import HumanMessage

from langchain_histories import Capability, ConfigurationError
from langchain_histories.testing.messages import numbered, texts
from langchain_histories.testing.suite.fixtures import StoreFixtures

if TYPE_CHECKING:
    from langchain_histories import MessageStore
    from langchain_histories.testing.faces import Face


class ReadTests(StoreFixtures):
    """Rule 5."""

    def test_last_and_after(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """Rule 5: the last n, what is behind a position, and both."""
        write, read = faces
        write(store).append("s", numbered(7))
        write(store).append("s", [HumanMessage(str(number)) for number in range(7, 10)])
        records = read(store).records("s")
        assert [record.message.content for record in records] == [str(number) for number in range(10)]
        for last in (0, 1, 3, 10, 11):
            assert texts(read(store).read("s", last=last)) == [str(n) for n in range(max(0, 10 - last), 10)]
        for number, record in enumerate(records):
            rest = [str(n) for n in range(number + 1, 10)]
            assert texts(read(store).read("s", after=record.position)) == rest
            assert texts(read(store).read("s", after=record.position, last=2)) == rest[-2:]
            assert texts(read(store).read("s", after=record.position, first=2)) == rest[:2]
        for first in (0, 1, 3, 10, 11):
            assert texts(read(store).read("s", first=first)) == [str(n) for n in range(min(10, first))]
        tail = read(store).records("s", last=2)
        assert tail == records[-2:]
        write(store).append("s", [HumanMessage("new")])
        assert texts(read(store).read("s", after=tail[-1].position)) == ["new"]
        assert texts(read(store).read("s", after=tail[-1].position, first=5)) == ["new"]

    def test_pages(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """Rule 5: a session is read in pages, small and large records alike."""
        write, read = faces
        contents = [str(number) * (1 if number % 3 else 40_000) for number in range(20)]
        for start in range(0, 20, 5):
            write(store).append("s", [HumanMessage(text) for text in contents[start : start + 5]])
        pages: list[str] = []
        position = None
        while page := read(store).records("s", first=3, after=position):
            pages += [str(record.message.content) for record in page]
            position = page[-1].position
        assert pages == contents

    def test_a_position_outlives_deletion_and_clear(self, store: MessageStore, face: Face) -> None:
        """Rule 5: going on from a position misses nothing after others deleted messages or cleared the session."""
        self.needs(Capability.DELETE)
        face(store).append("s", numbered(5))
        records = face(store).records("s")
        face(store).delete("s", [records[0].id, records[1].id])
        assert texts(face(store).read("s", after=records[3].position)) == ["4"]
        more = [f"more {number}" for number in range(4)]
        face(store).append("s", [HumanMessage(text) for text in more])
        assert texts(face(store).read("s", after=records[3].position)) == ["4", *more]
        assert texts(face(store).read("s", after=records[3].position, first=2)) == ["4", more[0]]
        for count in (2, 9):
            position = face(store).records("s", last=1)[0].position
            face(store).clear("s")
            fresh = [f"{count} fresh {number}" for number in range(count)]
            face(store).append("s", [HumanMessage(text) for text in fresh])
            assert texts(face(store).read("s", after=position, first=1)) == fresh[:1]
            assert texts(face(store).read("s", after=position)) == fresh

    @pytest.mark.parametrize("bad", [-1, 1.5, "3", True])
    def test_bad_last(self, store: MessageStore, face: Face, bad: Any) -> None:
        """Rule 5: a bad argument is refused."""
        with pytest.raises(ConfigurationError, match="last"):
            face(store).read("s", last=bad)
        with pytest.raises(ConfigurationError, match="first"):
            face(store).read("s", first=bad)
        with pytest.raises(ConfigurationError, match="not both"):
            face(store).read("s", first=1, last=1)

    def test_a_foreign_position_is_refused(self, store: MessageStore, face: Face) -> None:
        """Rule 5: a position that this store never gave is an error, not an empty history."""
        face(store).append("s", [HumanMessage("x")])
        with pytest.raises(ConfigurationError, match="position"):
            face(store).read("s", after="not a position")

    def test_what_is_returned_belongs_to_the_caller(self, store: MessageStore, face: Face) -> None:
        """Rule 5: changing what was read or written changes nothing that is stored."""
        message = HumanMessage("before", additional_kwargs={"a": [1]})
        face(store).append("s", [message])
        message.content = "after"
        loaded = face(store).read("s")
        loaded[0].content = "after"
        loaded[0].additional_kwargs["a"].append(2)
        loaded.append(HumanMessage("more"))
        assert face(store).read("s") == [HumanMessage("before", additional_kwargs={"a": [1]})]
