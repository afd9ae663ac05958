"""How messages go: clear, erase, delete, replace."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_histories import Capability, ConfigurationError, InvalidMessageError, user_session_id
from langchain_histories.testing.load import rounds
from langchain_histories.testing.messages import generated_session_ids, numbered, texts
from langchain_histories.testing.suite.fixtures import StoreFixtures

if TYPE_CHECKING:
    from langchain_histories import MessageStore
    from langchain_histories.testing.faces import Face


class RemovalTests(StoreFixtures):
    """Rule 9, `delete` and `replace`."""

    def test_clear(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """Rule 9: clearing is idempotent, takes the state too, touches no other session and leaves no trace."""
        write, read = faces
        write(store).append("other", [HumanMessage("stays")])
        before = self.remains(store)
        write(store).append("s", numbered(3))
        if self.has(Capability.STATE):
            write(store).put_state("s", {"a": 1})
        write(store).clear("s")
        assert read(store).read("s") == []
        if self.has(Capability.STATE):
            assert read(store).get_state("s") is None
        write(store).clear("s")
        write(store).clear("never there")
        if self.has(Capability.SESSIONS):
            assert [info.session_id for info in read(store).sessions()] == ["other"]
        assert texts(read(store).read("other")) == ["stays"]
        assert self.remains(store) == before
        write(store).append("s", [HumanMessage("again")])
        assert texts(read(store).read("s")) == ["again"]

    def test_erase(self, store: MessageStore, face: Face) -> None:
        """Rule 9: erasing a user takes all of the user's sessions and states, and nobody else's."""
        self.needs(Capability.ERASE)
        kept = [
            user_session_id("ivan2", "1"),
            user_session_id("Ivan", "1"),
            "ivan",
            "@ivan",
            user_session_id("a", "ivan"),
        ]
        for session_id in kept:
            face(store).append(session_id, [HumanMessage("stays")])
        before = self.remains(store)
        erased = [user_session_id("ivan", name) for name in ("s0", "s1", "s2", "nul \0 byte")]
        for session_id in erased:
            face(store).append(session_id, numbered(2))
        if self.has(Capability.STATE):
            face(store).put_state(user_session_id("ivan", "s0"), {"a": 1})
            face(store).put_state(user_session_id("ivan", "state only"), {"a": 1})
        if self.has(Capability.SESSIONS):
            assert len(face(store).sessions(user_id="ivan")) == 4
        face(store).erase(user_id="ivan")
        face(store).erase(user_id="ivan")
        assert [face(store).count(session_id) for session_id in kept + erased] == [1] * 5 + [0] * 4
        if self.has(Capability.SESSIONS):
            assert sorted(info.session_id for info in face(store).sessions()) == sorted(kept)
        if self.has(Capability.STATE):
            assert face(store).get_state(user_session_id("ivan", "s0")) is None
            assert face(store).get_state(user_session_id("ivan", "state only")) is None
        assert self.remains(store) == before

    def test_erase_reads_a_user_id_literally(self, store: MessageStore, face: Face) -> None:
        """Rule 10: a user id is no pattern."""
        self.needs(Capability.ERASE)
        users = ("a%", "ab", "a_", "a*", "a.", "a")
        for user in users:
            face(store).append(user_session_id(user, "1"), [HumanMessage(user)])
        for user in ("a%", "a_", "a*", "a."):
            face(store).erase(user_id=user)
        assert [user for user in users if face(store).count(user_session_id(user, "1"))] == ["ab", "a"]
        if self.has(Capability.SESSIONS):
            left = [user_session_id("a", "1"), user_session_id("ab", "1")]
            assert [info.session_id for info in face(store).sessions()] == left

    def test_erase_takes_one_user_and_nobody_else(self, store: MessageStore, face: Face) -> None:
        """Rules 9 and 10: of whatever ids, all sessions and states of a user go, are counted, and no others go."""
        self.needs(Capability.ERASE)
        # A session id may look like the key of what another user has.
        place = getattr(store.operations, "key_prefix", "message_store:")
        names = [f"}}{place}@a/x", f"{{{place}@a/x}}", f"}}:state{{{place}@a/x", "@a/x"]
        users = ["a", "b", f"}}{place}@a", "a%", "a\x00b", *generated_session_ids(2, seed=3)]
        ids = [user_session_id(user, name) for user in users for name in names]
        ids += [*names[:-1], "@a", "@a%2F", *generated_session_ids(3, seed=4)]
        with_state = {*ids[::2]} if self.has(Capability.STATE) else set()
        with_messages = {*ids} - {*ids[::6]} if with_state else {*ids}
        for session_id in ids:
            if session_id in with_messages:
                face(store).append(session_id, [HumanMessage(session_id)])
            if session_id in with_state:
                face(store).put_state(session_id, {"id": session_id})
        erased: set[str] = set()
        for user in users[::2]:
            start = user_session_id(user, "-")[:-1]
            mine = {session_id for session_id in with_messages | with_state if session_id.startswith(start)}
            assert face(store).erase(user_id=user) == len(mine)
            erased |= mine
        for session_id in ids:
            assert face(store).count(session_id) == (session_id in with_messages - erased)
            if with_state:
                left = {"id": session_id} if session_id in with_state - erased else None
                assert face(store).get_state(session_id) == left
        if self.has(Capability.SESSIONS):
            in_order = sorted(with_messages - erased, key=str.encode)
            assert [info.session_id for info in face(store).sessions()] == in_order

    def test_removed_messages_are_in_no_file(self, store: MessageStore, face: Face) -> None:
        """Rule 9: what was removed or replaced is in none of the store's files."""
        call = face(store)
        of_ivan = user_session_id("ivan", "1")
        for session_id in ("cleared", "deleted", "replaced", of_ivan, "kept"):
            for number in range(10):
                call.append(
                    session_id, [HumanMessage(f"{number} of {session_id}, " + "x" * 300), AIMessage("y" * 2000)]
                )
        assert self.is_stored(store, "3 of cleared")
        call.clear("cleared")
        assert not self.is_stored(store, "of cleared")
        if self.has(Capability.DELETE):
            assert call.delete("deleted", [record.id for record in call.records("deleted")][:3]) == 3
            assert not self.is_stored(store, "1 of deleted")
            assert self.is_stored(store, "2 of deleted")
        if self.has(Capability.REPLACE):
            call.replace("replaced", [HumanMessage("new")])
            assert not self.is_stored(store, "of replaced")
        if self.has(Capability.ERASE):
            assert self.is_stored(store, f"9 of {of_ivan}")
            call.erase(user_id="ivan")
            assert not self.is_stored(store, f"of {of_ivan}")
        assert self.is_stored(store, "9 of kept")

    def test_removed_states_are_in_no_file(self, store: MessageStore, face: Face) -> None:
        """Rule 9: what was removed or replaced is in none of the store's files."""
        self.needs(Capability.STATE)
        call = face(store)
        for name in ("first", "second"):
            call.put_state("s", {"secret": f"the {name} state"})
            assert self.is_stored(store, f"the {name} state")
        assert not self.is_stored(store, "the first state")
        call.put_state("s", None)
        assert not self.is_stored(store, "the second state")
        call.put_state("s", {"secret": "the third state"})
        call.update_state("s", lambda _: None)
        assert not self.is_stored(store, "the third state")
        for session_id in ("s", user_session_id("ivan", "1")):
            call.put_state(session_id, {"secret": f"the state of {session_id}"})
        call.clear("s")
        assert not self.is_stored(store, "the state of s")
        if self.has(Capability.ERASE):
            assert self.is_stored(store, "the state of @ivan")
            call.erase(user_id="ivan")
            assert not self.is_stored(store, "the state of @ivan")

    def test_delete(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """Single records are removed by id; order and the rest stay."""
        self.needs(Capability.DELETE)
        write, read = faces
        ids = write(store).append("s", numbered(5))
        foreign = write(store).append("other", numbered(1))
        assert write(store).delete("s", [ids[1], ids[3], "unknown", *foreign]) == 2
        assert write(store).delete("s", [ids[1]]) == 0
        assert write(store).delete("s", []) == 0
        assert texts(read(store).read("s")) == ["0", "2", "4"]
        assert read(store).count("other") == 1
        with pytest.raises(ConfigurationError, match="list"):
            write(store).delete("s", ids[0])
        assert write(store).delete("s", [ids[0], ids[2], ids[4]]) == 3
        assert read(store).read("s") == []
        if self.has(Capability.SESSIONS):
            assert [info.session_id for info in read(store).sessions()] == ["other"]

    def test_replace(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """All messages are replaced at once; a refused replacement keeps the old ones; the state stays."""
        self.needs(Capability.REPLACE)
        write, read = faces
        write(store).append("s", numbered(4))
        if self.has(Capability.STATE):
            write(store).put_state("s", {"a": 1})
        ids = write(store).replace("s", [HumanMessage("x"), AIMessage("y")])
        assert texts(read(store).read("s")) == ["x", "y"]
        assert [record.id for record in read(store).records("s")] == ids
        if self.has(Capability.STATE):
            assert read(store).get_state("s") == {"a": 1}
        bad: list[Any] = [HumanMessage("z"), 5]
        with pytest.raises(InvalidMessageError):
            write(store).replace("s", bad)
        assert texts(read(store).read("s")) == ["x", "y"]
        write(store).append("s", [HumanMessage("z")])
        assert texts(read(store).read("s")) == ["x", "y", "z"]
        write(store).replace("s", [])
        assert read(store).read("s") == []
        write(store).replace("new", [HumanMessage("n")])
        assert texts(read(store).read("new")) == ["n"]

    def test_a_summary_goes_with_what_it_covers(self, store: MessageStore, face: Face) -> None:
        """Rule 9: what is deleted or replaced lives on in no summary and no pin; the rest of the state stays."""
        self.needs(Capability.STATE)
        call = face(store)
        ids = call.append("s", numbered(4))
        state: dict[str, Any]
        state = {"mine": 1, "lh:summary": {"v": 1, "anchor": [ids[2]]}, "lh:rebuild": {"v": 1, "anchor": [ids[1]]}}
        pins = [{"id": ids[0], "after": None}, {"id": ids[2], "after": None}]
        state["lh:pins"] = {"v": 1, "pins": pins}
        call.put_state("s", state)
        if self.has(Capability.DELETE):
            call.delete("s", [ids[3]])
            assert call.get_state("s") == state, "neither covers the last one"
            call.delete("s", [ids[2]])
            del state["lh:summary"], pins[1]
            assert call.get_state("s") == state, "one does not cover the third"
            call.delete("s", [ids[0]])
            assert call.get_state("s") == {"mine": 1}
        if self.has(Capability.REPLACE):
            call.put_state("s", state)
            call.replace("s", numbered(2))
            assert call.get_state("s") == {"mine": 1}
            call.put_state("s", {"lh:rebuild": state["lh:rebuild"]})
            call.replace("s", numbered(1))
            assert call.get_state("s") is None

    def test_readers_never_see_half_a_replacement(self, store: MessageStore) -> None:
        """A reader sees the old messages or the new ones."""
        self.needs(Capability.REPLACE)
        sizes: set[int] = set()
        done = threading.Event()
        store.append("s", numbered(30))

        def read() -> None:
            while not done.is_set():
                sizes.add(len(store.read("s")))

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            for number in rounds(20, least=6):
                store.replace("s", numbered(30 if number % 2 else 20))
            done.set()
            for reader in readers:
                reader.result()
        assert sizes <= {20, 30}
