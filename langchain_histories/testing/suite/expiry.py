"""How sessions expire."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import time
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_histories import Capability, ConfigurationError, Pruned, UnsupportedOperationError
from langchain_histories.testing.messages import texts
from langchain_histories.testing.suite.fixtures import StoreFixtures

if TYPE_CHECKING:
    from langchain_histories import MessageStore
    from langchain_histories.testing.faces import Face
    from langchain_histories.testing.suite.fixtures import OpenStore

_LONG = 600
_WRITERS = 4


class ExpiryTests(StoreFixtures):
    """Rule 8. Stores with a short and a long `ttl` use one place, so a test waits once, for about a second."""

    def test_ttl(self, open_store: OpenStore, face: Face) -> None:
        """Rule 8: it slides with each append and takes the whole session, state included, from every reader."""
        self.needs(Capability.TTL)
        with open_store(ttl=1) as brief, open_store(ttl=_LONG) as long, open_store() as plain:
            for store in (brief, long, plain):
                # The first calls of a server may take longer than a session lives.
                face(store).append("warm up", [HumanMessage("x")])
                face(store).read("warm up")
                face(store).clear("warm up")
            before = self.remains(plain)
            kept = self._slid(face(brief), face(long))
            gone = ["read", "state", "edited", "replaced", "plain", "raced", "beside"]
            for session_id in gone:
                face(long).append(session_id, [HumanMessage("old")])
                if self.has(Capability.STATE):
                    face(long).put_state(session_id, {"summary": "old"})
            for session_id in gone:
                # An append sets the time of the whole session anew, and what is put beside it does not.
                face(brief).append(session_id, [AIMessage("old too")])
            # Nor does what a store without `ttl` appends, and it goes with the rest.
            face(plain).append("beside", [HumanMessage("beside")])
            if self.has(Capability.STATE):
                face(long).put_state("read", {"summary": "y"})
                face(brief).put_state("read alone", {"summary": "z"})
            self._wait(face(brief), gone[-1])
            for store in (brief, long, plain):
                self._check_gone(face(store), [*gone, "read alone"], kept)
            self._check_begun_anew(face, long, plain)
            self._check_race(long)
            assert texts(face(plain).read(kept)) == ["first", "second"]
            if self.has(Capability.STATE):
                assert face(plain).get_state(kept) == {"summary": "x"}
            left = {"beside", "read alone"} if self._swept(face(plain)) else set()
            for session_id in {kept, *gone, "read alone"} - left:
                face(plain).clear(session_id)
            assert self.remains(plain) == before

    def _slid(self, brief: MessageStore, long: MessageStore) -> str:
        """A session that was about to expire and was appended to in time; a busy machine needs another try."""
        for number in range(9):
            session_id, begun = f"kept {number}", time.monotonic()
            brief.append(session_id, [HumanMessage("first")])
            if self.has(Capability.STATE):
                brief.put_state(session_id, {"summary": "x"})
            long.append(session_id, [HumanMessage("second")])
            if time.monotonic() - begun < 0.8:
                return session_id
            long.clear(session_id)
        pytest.fail("three calls took most of a second, nine times")

    @staticmethod
    def _wait(brief: MessageStore, session_id: str) -> None:
        """Wait until the last session has expired; services count in whole seconds."""
        end = time.monotonic() + 10
        while brief.read(session_id):
            assert time.monotonic() < end, "the session does not expire"
            time.sleep(0.05)

    def _check_gone(self, store: MessageStore, gone: list[str], kept: str) -> None:
        for session_id in gone:
            assert store.read(session_id) == store.read(session_id, last=1) == []
            assert store.records(session_id, first=5) == []
            assert store.tail(session_id) == ([], None)
            assert store.count(session_id) == 0
            if self.has(Capability.STATE):
                assert store.get_state(session_id) is None
                assert store.tail(session_id, last=5) == ([], None)
        if self.has(Capability.SESSIONS):
            assert [(info.session_id, info.count) for info in store.sessions()] == [(kept, 2)]
            assert [info.session_id for info in store.sessions(limit=1)] == [kept]
        if self.has(Capability.NEWEST):
            (found,) = store.sessions(order="newest")
            assert (found.session_id, found.count, found.first_line) == (kept, 2, "first")
            assert store.sessions(order="newest", prefix="r") == []

    def _check_begun_anew(self, face: Face, long: MessageStore, plain: MessageStore) -> None:
        """Whatever writes to a session that has expired begins it anew, and nothing of the old part comes back."""
        face(long).append("read", [HumanMessage("new")])
        face(plain).append("plain", [HumanMessage("new")])
        begun = ["read", "plain"]
        if self.has(Capability.REPLACE):
            face(long).replace("replaced", [HumanMessage("new")])
            begun.append("replaced")
        if self.has(Capability.EDIT):
            seen: list[list[str]] = []

            def change(records: list[object]) -> list[object]:
                seen.append(texts([record.message for record in records]))  # type: ignore[attr-defined]
                return [HumanMessage("new")]

            face(long).edit("edited", change)
            assert seen == [[]]
            begun.append("edited")
        if self.has(Capability.NEWEST):
            assert [(info.count, info.first_line) for info in face(plain).sessions(order="newest", first=2)] == [
                (1, "new")
            ] * 2
            assert [info.count for info in face(plain).sessions(order="newest", prefix="pl")] == [1]
        for session_id in begun:
            for store in (long, plain):
                assert texts(face(store).read(session_id)) == ["new"]
                assert face(store).count(session_id) == 1
                (record,), state = face(store).tail(session_id, 5)
                assert (record.message.content, state) == ("new", None)
                if self.has(Capability.STATE):
                    assert face(store).get_state(session_id) is None
        if self.has(Capability.STATE):
            face(long).put_state("state", {"summary": "new"})
            face(long).update_state("state", lambda state: {**state, "more": 1})
            assert face(plain).read("state") == []
            face(long).append("state", [HumanMessage("new")])
            assert face(plain).get_state("state") == {"summary": "new", "more": 1}
            assert texts(face(plain).read("state")) == ["new"]
            face(long).put_state("read", {"summary": "new"})
            face(long).append("read", [HumanMessage("newer")])
            assert face(plain).get_state("read") == {"summary": "new"}
            face(long).put_state("read", None)
            assert face(plain).get_state("read") is None

    def _check_race(self, long: MessageStore) -> None:
        """Writers that find at once that a session has expired lose nothing of each other's, beside a sweep too."""

        def write(number: int) -> None:
            if number < 0:
                long.sweep(limit=1)
            else:
                long.append("raced", [HumanMessage(str(number))])

        with concurrent.futures.ThreadPoolExecutor(_WRITERS + 1) as pool:
            list(pool.map(write, range(-1, _WRITERS)))
        assert sorted(texts(long.read("raced"))) == [str(number) for number in range(_WRITERS)]

    @staticmethod
    def _swept(store: MessageStore) -> int:
        """Sweep until nothing is left, and return how many sessions had something."""
        assert store.sweep(limit=0) == 0
        swept = 0
        for _ in range(99):
            found = store.sweep(limit=1)
            assert found <= 1
            if not found:
                break
            swept += found
        assert store.sweep() == 0
        return swept

    def test_sweep_where_there_is_no_ttl(self, store: MessageStore, face: Face) -> None:
        """It removes nothing where nothing expires, and a store that knows no expiry says so."""
        face(store).append("s", [HumanMessage("x")])
        if self.has(Capability.TTL):
            assert face(store).sweep() == 0
        else:
            with pytest.raises(UnsupportedOperationError):
                face(store).sweep()
        assert texts(face(store).read("s")) == ["x"]

    def test_prune(self, store: MessageStore, face: Face) -> None:
        """Sessions whose last record is old go with their states; those of unknown age only if that is asked for."""
        call, day = face(store), dt.timedelta(days=1)
        if not self.has(Capability.SESSIONS | Capability.ERASE):
            with pytest.raises(UnsupportedOperationError):
                call.prune(older_than=day)
            return
        now = dt.datetime.now(dt.UTC)
        for bad in (now + day, -day, now.replace(tzinfo=None), 5, None, "2020-01-01", dt.timedelta.max):
            with pytest.raises(ConfigurationError, match="older_than"):
                call.prune(older_than=bad)
        call.append("s", [HumanMessage("old"), AIMessage("old too")])
        records = call.records("s")
        for session_id, at in {"old": now - 2 * day, "older": now - 3 * day, "unknown": None}.items():
            call.append_records(session_id, [record._replace(at=at) for record in records])
            if self.has(Capability.STATE):
                call.put_state(session_id, {"a": 1})
        call.append_records("revived", [records[0]._replace(at=now - 2 * day), records[1]])
        found = call.prune(older_than=day, dry_run=True)
        assert (sorted(found.sessions), found.unknown) == (["old", "older"], ["unknown"])
        assert [info.session_id for info in call.sessions()] == ["old", "older", "revived", "s", "unknown"]
        assert call.prune(older_than=now - 2.5 * day).sessions == ["older"]
        assert call.prune(older_than=day) == Pruned(["old"], ["unknown"])
        assert [info.session_id for info in call.sessions()] == ["revived", "s", "unknown"]
        assert call.prune(older_than=day, unknown=True) == Pruned(["unknown"], [])
        if self.has(Capability.STATE):
            assert [call.get_state(session_id) for session_id in ("old", "older", "unknown")] == [None] * 3
        assert call.prune(older_than=day) == Pruned([], [])

    def test_prune_beside_an_append(self, store: MessageStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is appended to an old session after it was looked at, and before it is removed, keeps the session."""
        self.needs(Capability.SESSIONS | Capability.ERASE | Capability.EDIT)
        day = dt.timedelta(days=1)
        store.append("first", [HumanMessage("old")])
        old = [record._replace(at=dt.datetime.now(dt.UTC) - 2 * day) for record in store.records("first")]
        store.append_records("s", old)
        looks: list[str] = []
        kind = type(store.operations)
        read_really = kind.read

        async def read(self: Any, client: Any, key: str, **options: Any) -> Any:
            rows = await read_really(self, client, key, **options)
            if not looks:
                looks.append(key)
                store.append("s", [HumanMessage("new")])
            return rows

        monkeypatch.setattr(kind, "read", read)
        assert store.prune(older_than=day) == Pruned([], [])
        assert looks
        assert texts(store.read("s")) == ["old", "new"]

    def test_ttl_where_there_is_none(self, open_store: OpenStore) -> None:
        """Rule 8: it is refused when it is configured, in the name of the store."""
        if self.has(Capability.TTL):
            for bad in (0, -1, 1.5, "60", True):
                with pytest.raises(ConfigurationError, match="ttl"):
                    open_store(ttl=bad)
        else:
            with pytest.raises(ConfigurationError, match="ttl") as caught:
                open_store(ttl=60)
            assert open_store().name in str(caught.value)
