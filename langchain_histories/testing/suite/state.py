"""The document beside a transcript, and those who change it at once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime as dt
import threading
from typing import TYPE_CHECKING, Any

import pytest

from langchain_histories import Capability, ConfigurationError, CorruptRecordError
from langchain_histories.testing.load import rounds
from langchain_histories.testing.messages import ShoutingCodec, numbered, texts
from langchain_histories.testing.processes import count_up, counted_up, run_in_processes
from langchain_histories.testing.suite.fixtures import StoreFixtures

if TYPE_CHECKING:
    from langchain_histories import MessageStore
    from langchain_histories.testing.faces import Face
    from langchain_histories.testing.suite.fixtures import OpenStore


class StateTests(StoreFixtures):
    """`get_state`, `put_state`, `update_state`."""

    def test_state(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """A session has one small document beside its transcript."""
        self.needs(Capability.STATE)
        write, read = faces
        assert read(store).get_state("s") is None
        state = {"summary": "Привет \x00 👍 'quoted'", "covers": 12, "at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}
        write(store).put_state("s", state)
        assert read(store).get_state("s") == state
        assert read(store).read("s") == []
        if self.has(Capability.SESSIONS):
            assert read(store).sessions() == []
        write(store).append("s", numbered(1))
        write(store).put_state("s", {"big": "x" * 200_000})
        assert read(store).get_state("s") == {"big": "x" * 200_000}
        write(store).put_state("s", None)
        assert read(store).get_state("s") is None
        assert texts(read(store).read("s")) == ["0"]

    def test_update_state(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """A state is made, changed and removed by what is made of the one before."""
        self.needs(Capability.STATE)
        write, read = faces
        store.setup()
        before = self.remains(store)
        seen: list[dict[str, Any] | None] = []
        states: list[dict[str, Any] | None]
        states = [{"a": "Привет \x00 👍", "at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}, {"b": (1, 2)}, {}, None, None]
        for new in states:

            def change(state: dict[str, Any] | None, new: dict[str, Any] | None = new) -> dict[str, Any] | None:
                seen.append(state)
                return new

            assert write(store).update_state("s", change) == new
            assert read(store).get_state("s") == new
        assert seen == [None, *states[:-1]]
        assert self.remains(store) == before
        write(store).append("s", numbered(1))
        assert write(store).update_state("s", counted_up) == {"n": 1}
        assert read(store).get_state("s") == {"n": 1}
        assert texts(read(store).read("s")) == ["0"]

    def test_update_state_belongs_to_the_caller(self, store: MessageStore, face: Face) -> None:
        """What `change` is given may be changed in place; what is returned is as it is stored, and a copy."""
        self.needs(Capability.STATE)
        face(store).put_state("s", {"notes": ["a"]})

        def add(state: dict[str, Any] | None) -> dict[str, Any]:
            assert state is not None
            state["notes"].append("b")
            return state

        face(store).update_state("s", add)["notes"].append("c")
        assert face(store).get_state("s") == {"notes": ["a", "b"]}
        described = {"lock": {"lh:type": "object", "value": "_thread.lock"}}
        assert face(store).update_state("s", lambda _: {"lock": threading.Lock()}) == described
        assert face(store).get_state("s") == described

    def test_a_change_that_changes_nothing_writes_nothing(
        self, store: MessageStore, face: Face, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An equal state is not written, and neither is one whose change or text is refused."""
        self.needs(Capability.STATE)
        face(store).put_state("s", {"n": 1})
        writes: list[str] = []
        put_state = store.operations.put_state

        async def note(client: Any, key: str, *args: Any, **options: Any) -> bool:
            writes.append(key)
            return await put_state(client, key, *args, **options)

        monkeypatch.setattr(store.operations, "put_state", note)
        assert face(store).update_state("s", dict) == {"n": 1}
        assert face(store).update_state("none", lambda state: state) is None
        for error in (ZeroDivisionError("mine"), TimeoutError("mine")):

            def fail(_: Any, error: Exception = error) -> None:
                raise error

            with pytest.raises(type(error), match=r"^mine$"):
                face(store).update_state("s", fail)
        for bad in ([1], "text", object()):
            with pytest.raises(ConfigurationError, match="state"):
                face(store).update_state("s", lambda _, bad=bad: bad)
            with pytest.raises(ConfigurationError, match="state"):
                face(store).put_state("s", bad)
        assert writes == []
        assert face(store).get_state("s") == {"n": 1}
        face(store).update_state("s", counted_up)
        assert writes == ["s"]

    @pytest.mark.parametrize(
        ("start", "then", "ours"),
        [
            (None, "put_state", {"ours": 1}),
            ({"theirs": 1}, "put_state", {"ours": 1}),
            ({"theirs": 1}, "put_state", None),
            ({"theirs": 1}, "remove", {"ours": 1}),
            ({"theirs": 1}, "clear", {"ours": 1}),
            ({"theirs": 1}, "clear", None),
        ],
    )
    def test_somebody_else_was_faster(
        self,
        open_store: OpenStore,
        face: Face,
        start: dict[str, Any] | None,
        then: str,
        ours: dict[str, Any] | None,
    ) -> None:
        """The change is made again from what the other left, so both are kept; also where the other left nothing."""
        self.needs(Capability.STATE)
        theirs = {"theirs": 2} if then == "put_state" else None
        seen: list[dict[str, Any] | None] = []
        with open_store() as store, open_store() as other:

            def change(state: dict[str, Any] | None) -> dict[str, Any] | None:
                seen.append(state)
                assert len(seen) < 3
                if len(seen) == 1 and then == "clear":
                    other.clear("s")
                elif len(seen) == 1:
                    other.put_state("s", theirs)
                return None if ours is None else {**(state or {}), **ours}

            face(store).append("s", numbered(1))
            face(store).put_state("s", start)
            expected = None if ours is None else {**(theirs or {}), **ours}
            assert face(store).update_state("s", change) == expected
            assert seen == [start, theirs]
            assert face(store).get_state("s") == expected
            assert face(store).count("s") == (0 if then == "clear" else 1)

    def test_nobodys_change_of_the_state_is_lost(self, open_store: OpenStore) -> None:
        """Eight threads and ten tasks count together."""
        self.needs(Capability.STATE)
        with open_store() as store:

            def count(_: int) -> int:
                return sum(1 for _ in rounds(10, least=3) if store.update_state("threads", counted_up))

            async def main() -> None:
                changes = (store.aupdate_state("tasks", lambda state: counted_up(state, 10)) for _ in range(10))
                await asyncio.gather(*changes)

            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                counted = sum(pool.map(count, range(8)))
            asyncio.run(main())
            assert store.get_state("threads") == {"n": counted}
            assert store.get_state("tasks") == {"n": 100}

    def test_four_processes_change_one_state(self, open_store: OpenStore) -> None:
        """No process overwrites what another one has put into the state."""
        self.needs(Capability.STATE | Capability.MANY_PROCESSES)
        counted = sum(run_in_processes(count_up, open_store, [("s", 50)] * 4))
        with open_store() as store:
            assert store.get_state("s") == {"n": counted}

    def test_codec_of_a_state(self, open_store: OpenStore, face: Face) -> None:
        """A codec sees the state too."""
        self.needs(Capability.STATE)
        with open_store() as plain, open_store(codec=ShoutingCodec()) as coded:
            face(coded).put_state("s", {"summary": "hidden"})
            summaries = iter([{"summary": "hidden words"}])  # asked for once
            assert face(coded).update_state("s", lambda _: next(summaries)) == {"summary": "hidden words"}
            assert face(coded).get_state("s") == {"summary": "hidden words"}
            with pytest.raises(CorruptRecordError, match="codec"):
                face(plain).get_state("s")
