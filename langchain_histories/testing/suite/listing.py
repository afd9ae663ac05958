"""Sessions from the newest on, as a list of conversations shows them, and their titles."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import HumanMessage

from langchain_histories import (
    Capability,
    ConfigurationError,
    MemoryStore,
    SessionDescription,
    UnsupportedOperationError,
    user_session_id,
)
from langchain_histories.testing.messages import numbered
from langchain_histories.testing.suite.fixtures import StoreFixtures
from langchain_histories.testing.suite.foreign import plant

if TYPE_CHECKING:
    from langchain_histories import MessageStore
    from langchain_histories.testing.faces import Face

_NOON = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)
_LANGCHAINS = '{"type": "human", "data": {"content": "old", "type": "human", "example": false}}'


def _newest(call: Any, **where: Any) -> list[str]:
    return [info.session_id for info in call.sessions(order="newest", **where)]


class ListingTests(StoreFixtures):
    """`sessions(order="newest")`, `describe` and `description`."""

    def test_newest_first(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """The last append comes first, whatever its id; what is said of each session is true."""
        self.needs(Capability.NEWEST)
        write, read = faces
        for number, session_id in enumerate("cadb"):
            write(store).append(session_id, [HumanMessage(f"\n  {session_id} begins \nand goes on")])
            write(store).append(session_id, numbered(number))
        assert _newest(read(store)) == ["b", "d", "a", "c"]
        write(store).append("a", [HumanMessage("again")])
        if self.has(Capability.STATE):
            write(store).describe("c", title="A title", metadata={"pinned": True})
            write(store).put_state("only a state", {"a": 1})
        listed = read(store).sessions(order="newest")
        assert [info.session_id for info in listed] == ["a", "b", "d", "c"]
        for info in listed:
            records = read(store).records(info.session_id)
            assert (info.count, info.has_more) == (len(records), False)
            assert (info.first_at, info.last_at) == (records[0].at, records[-1].at)
            assert info.first_line == f"{info.session_id} begins"
        is_described = self.has(Capability.STATE)
        assert (listed[-1].title, listed[-1].metadata) == (
            ("A title", {"pinned": True}) if is_described else (None, None)
        )
        assert (listed[0].title, listed[0].metadata) == (None, None)

    def test_pages_of_the_newest(self, store: MessageStore, face: Face) -> None:
        """No page repeats a session, and none that nobody wrote to is missed while others append."""
        self.needs(Capability.NEWEST)
        call, seen, after = face(store), list[str](), None
        for number in range(9):
            call.append(f"{number * 5 % 9}", numbered(1))
        before = _newest(call)
        written = ["new", before[0], before[6], before[1]]
        while len(seen) < 20 and (page := call.sessions(order="newest", first=2, after=after)):
            seen += [info.session_id for info in page]
            after = page[-1].position
            if written:
                call.append(written.pop(0), numbered(2))
        assert seen == [session_id for session_id in before if session_id != before[6]]
        assert _newest(call, limit=4) == [before[1], before[6], before[0], "new"]
        assert _newest(call, first=0) == []

    def test_newest_is_no_clients_clock(self, store: MessageStore, face: Face) -> None:
        """The order is that of the appends, whatever times records have; `since` and `until` are about these."""
        self.needs(Capability.NEWEST)
        call, origin = face(store), MemoryStore()
        origin.append("o", [HumanMessage("x")])
        (record,) = origin.records("o")
        for session_id, hours in (("a", 2), ("b", 3), ("c", 1), ("d", 0)):
            at = _NOON + dt.timedelta(hours=hours)
            call.append_records(session_id, [record._replace(id=session_id * 32, at=at)])
        assert _newest(call) == ["d", "c", "b", "a"]
        hour = [_NOON + dt.timedelta(hours=hours) for hours in range(4)]
        assert _newest(call, since=hour[2]) == ["b", "a"]
        assert _newest(call, until=hour[2]) == ["d", "c"]
        assert _newest(call, since=hour[1], until=hour[3]) == ["c", "a"]
        (found,) = call.sessions(order="newest", since=hour[1], first=1)
        assert _newest(call, since=hour[1], first=1, after=found.position) == ["b"]
        plant(store, "e", [_LANGCHAINS])
        assert _newest(call, since=hour[0]) == ["d", "c", "b", "a"]

    def test_newest_of_a_user(self, store: MessageStore, face: Face) -> None:
        """A user's sessions are listed without those of others, whose ids begin alike."""
        self.needs(Capability.NEWEST)
        call = face(store)
        ids = [user_session_id(user, session) for session in ("1", "%\0", "é") for user in ("a", "a/", "ab", "A")]
        for session_id in [*ids, "@a", "a"]:
            call.append(session_id, [HumanMessage(session_id)])
        assert _newest(call) == ["a", "@a", *ids[::-1]]
        assert _newest(call, user_id="a") == [ids[8], ids[4], ids[0]]
        assert _newest(call, user_id="a", prefix="%") == [ids[4]]
        (found,) = call.sessions(order="newest", user_id="a/", first=1)
        assert _newest(call, user_id="a/", after=found.position, first=1) == [ids[5]]
        assert _newest(call, user_id="nobody") == []

    def test_what_is_gone_is_not_listed(self, store: MessageStore, face: Face) -> None:
        """Cleared, erased, emptied and moved sessions are not listed, and leave nothing in what the listing reads."""
        self.needs(Capability.NEWEST)
        call = face(store)
        call.append("stays", numbered(1))
        before = self.remains(store)
        user = user_session_id("u", "1")
        for session_id in ("cleared", user):
            call.append(session_id, numbered(2))
        call.clear("cleared")
        if self.has(Capability.ERASE):
            assert call.erase(user_id="u") == 1
        else:
            call.clear(user)
        assert _newest(call) == ["stays"]
        assert self.remains(store) == before
        if self.has(Capability.DELETE):
            call.delete("emptied", call.append("emptied", numbered(2)))
            assert _newest(call) == ["stays"]
        if self.has(Capability.EDIT):
            call.append("old", numbered(1))
            call.rename("old", "new")
            call.append("last", numbered(1))
            call.edit("last", lambda _: [])
            assert _newest(call) == ["new", "stays"]
        if self.has(Capability.REPLACE):
            call.replace("made", numbered(2))
            assert _newest(call)[0] == "made"

    def test_what_is_broken_is_listed(self, store: MessageStore, face: Face) -> None:
        """A record or a state that cannot be read hides no session, nor does one that LangChain's classes wrote."""
        self.needs(Capability.NEWEST)
        call = face(store)
        for session_id, text in (
            ("l", _LANGCHAINS),
            ("b", '{"type": "alien", "meta": {"v": 1}}'),
            ("n", '{"type": "human", "data": 5}'),
        ):
            plant(store, session_id, [text])
        call.append("N", [HumanMessage("")])
        call.append("é", [HumanMessage([{"type": "text", "text": "é" * 300}])])
        if self.has(Capability.STATE):
            key = store.operations.key("b")
            store.run("put_state", lambda client: store.operations.put_state(client, key, "no JSON"))
            call.put_state("n", {"lh:session": 5})
        found = [(info.session_id, info.count, info.first_line) for info in call.sessions(order="newest")]
        assert found == [("é", 1, "é" * 200), ("N", 1, None), ("n", 1, None), ("b", 1, None), ("l", 1, "old")]
        assert [info.title for info in call.sessions(order="newest")] == [None] * 5

    def test_titles(self, store: MessageStore, face: Face) -> None:
        """A title and metadata change apart, beside the rest of the state, and go where the session goes."""
        self.needs(Capability.STATE)
        call = face(store)
        assert call.description("s") == SessionDescription()
        call.put_state("s", {"mine": 1})
        call.describe("s", title="Röme")
        call.describe("s", metadata={"tags": ["a"], "n": {"deep": None}})
        assert call.description("s") == SessionDescription("Röme", {"tags": ["a"], "n": {"deep": None}})
        assert call.get_state("s")["mine"] == 1
        if self.has(Capability.EDIT):
            call.append("s", numbered(1))
            call.fork("s", "t")
            call.rename("t", "u")
            assert call.description("u") == call.description("s")
        call.describe("s", title="", metadata={"only": True})
        assert call.description("s") == SessionDescription(None, {"only": True})
        call.describe("s", metadata={})
        assert (call.description("s"), call.get_state("s")) == (SessionDescription(), {"mine": 1})
        call.clear("s")
        call.describe("s", title="x")
        call.describe("s", title="")
        assert call.get_state("s") is None

    def test_what_cannot_be_listed(self, store: MessageStore, face: Face) -> None:
        """Bad arguments are refused, and so is the order that a store does not have."""
        call = face(store)
        bad: list[dict[str, Any]] = [
            {"order": "oldest"},
            {"since": _NOON},
            {"until": _NOON},
            {"limit": 1, "first": 1},
            {"order": "newest", "since": _NOON.replace(tzinfo=None)},
            {"order": "newest", "until": "2026-11-28"},
            {"order": "newest", "first": -1},
        ]
        if self.has(Capability.NEWEST):
            call.append("s", numbered(1))
            bad += [{"order": "newest", "after": after} for after in ("x", "\0", "", 5)]
        for where in bad:
            with pytest.raises(ConfigurationError):
                call.sessions(**where)
        for bad_words in ({"title": 5}, {"metadata": ["x"]}):
            with pytest.raises(ConfigurationError):
                call.describe("s", **bad_words)
        if not self.has(Capability.NEWEST):
            with pytest.raises(UnsupportedOperationError):
                call.sessions(order="newest")
