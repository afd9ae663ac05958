"""Session ids that are odd, bad or alike, and the listing of sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import HumanMessage

from langchain_histories import Capability, ConfigurationError, SessionInfo, user_session_id
from langchain_histories.testing.messages import generated_session_ids, numbered, odd_session_ids, texts
from langchain_histories.testing.suite.fixtures import StoreFixtures

if TYPE_CHECKING:
    from langchain_histories import MessageStore
    from langchain_histories.testing.faces import Face


class SessionTests(StoreFixtures):
    """Rule 10, and `sessions`."""

    @pytest.mark.parametrize("faces", [("sync", "async"), ("async", "sync")], ids="-".join, indirect=True)
    def test_odd_session_ids(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """Rule 10: ids are compared byte for byte, and sessions never see each other."""
        write, read = faces
        ids = odd_session_ids()
        for session_id in ids:
            write(store).append(session_id, [HumanMessage(session_id)])
        for session_id in ids:
            assert texts(read(store).read(session_id)) == [session_id]
        if self.has(Capability.SESSIONS):
            assert sorted(info.session_id for info in read(store).sessions()) == sorted(ids)
        for session_id in ids[::2]:
            write(store).clear(session_id)
        if self.has(Capability.SESSIONS):
            assert sorted(info.session_id for info in read(store).sessions()) == sorted(ids[1::2])
        for number, session_id in list(enumerate(ids))[:: 10 if self.has(Capability.SESSIONS) else 1]:
            assert read(store).count(session_id) == number % 2

    def test_odd_session_ids_have_states_of_their_own(self, store: MessageStore, face: Face) -> None:
        """Rule 10: also states never see each other, and none passes for a message."""
        self.needs(Capability.STATE)
        ids = odd_session_ids()
        for session_id in ids:
            face(store).put_state(session_id, {"id": session_id})
        for session_id in ids:
            assert face(store).get_state(session_id) == {"id": session_id}
        for session_id in ids[:: 10 if self.has(Capability.SESSIONS) else 1]:
            assert face(store).read(session_id) == []
        if self.has(Capability.SESSIONS):
            assert face(store).sessions() == []
        for session_id in ids[::2]:
            face(store).clear(session_id)
        for number, session_id in enumerate(ids):
            assert (face(store).get_state(session_id) is None) == (number % 2 == 0)

    @pytest.mark.parametrize("bad", [None, "", True, 1.5, b"s", ["s"], {"$ne": None}, "x" * 1025, "é" * 513, "\ud800"])
    def test_bad_session_ids(self, store: MessageStore, face: Face, bad: Any) -> None:
        """Rule 10: what is no session id is refused before anything is sent."""
        with pytest.raises(ConfigurationError, match="session_id"):
            face(store).append(bad, [HumanMessage("x")])
        with pytest.raises(ConfigurationError, match="session_id"):
            face(store).read(bad)
        with pytest.raises(ConfigurationError, match="session_id"):
            store.history(bad)

    def test_sessions(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """Sessions are listed with count and last time, by prefix or user, in pages."""
        self.needs(Capability.SESSIONS)
        write, read = faces
        ids = [f"team-{letter}" for letter in "abcde"] + [user_session_id("ivan", f"{n}") for n in range(3)]
        for number, session_id in enumerate(ids):
            write(store).append(session_id, numbered(number + 1))
        if self.has(Capability.STATE):
            write(store).put_state("only a state", {"a": 1})
        listed = read(store).sessions()
        assert [info.session_id for info in listed] == sorted(ids)
        last = {session_id: read(store).records(session_id, last=1)[0] for session_id in ids}
        assert listed == [SessionInfo(name, ids.index(name) + 1, last[name].at) for name in sorted(ids)]
        assert [info.session_id for info in read(store).sessions(prefix="team-")] == ids[:5]
        assert [info.session_id for info in read(store).sessions(prefix="team_")] == []
        assert [info.session_id for info in read(store).sessions(user_id="ivan")] == ids[5:]
        assert [info.session_id for info in read(store).sessions(user_id="ivan", prefix="1")] == [ids[6]]
        pages, after = [], None
        while page := read(store).sessions(prefix="team-", limit=2, after=after):
            pages.append([info.session_id for info in page])
            after = page[-1].session_id
        assert pages == [ids[0:2], ids[2:4], ids[4:5]]

    def test_sessions_are_listed_in_the_order_of_bytes(self, store: MessageStore, face: Face) -> None:
        """The order is that of the ids' UTF-8, of odd ids too; pages miss and repeat none."""
        self.needs(Capability.SESSIONS)
        ids = {*generated_session_ids(20, seed=1), "a", "l%", "lh%l", "x" * 1024, "x" * 1023 + "y", "é" * 512}
        ids |= {user_session_id("a/b", session_id) for session_id in generated_session_ids(5, seed=2)}
        for session_id in ids:
            face(store).append(session_id, [HumanMessage(session_id)])
        in_order = sorted(ids, key=str.encode)

        def listed(**where: Any) -> list[str]:
            return [info.session_id for info in face(store).sessions(**where)]

        assert listed() == in_order
        for after in ("\x00", "m", "lh%", "é"):
            assert listed(after=after) == [found for found in in_order if found.encode() > after.encode()]
        pages: list[tuple[str, int, dict[str, Any]]]
        pages = [(prefix, 2, {"prefix": prefix}) for prefix in ("l", "lh", "lh%l", "\x00", "x" * 1023)]
        of_user = user_session_id("a/b", "-")[:-1]
        pages += [("", 7, {}), (of_user, 3, {"user_id": "a/b"}), (f"{of_user}$", 1, {"user_id": "a/b", "prefix": "$"})]
        for start, size, where in pages:
            expected = [session_id for session_id in in_order if session_id.startswith(start)]
            assert listed(**where) == expected
            paged: list[str] = []
            while page := listed(**where, limit=size, after=paged[-1] if paged else None):
                assert len(page) <= size
                paged += page
            assert paged == expected
