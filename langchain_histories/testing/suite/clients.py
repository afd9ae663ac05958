"""What a store says of itself, set-up on first use, and connections."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blockbuster import blockbuster_ctx
from langchain_core.messages import HumanMessage

from langchain_histories import Capability, UnsupportedOperationError
from langchain_histories.testing.load import rounds
from langchain_histories.testing.messages import texts
from langchain_histories.testing.suite.fixtures import StoreFixtures

if TYPE_CHECKING:
    from langchain_histories import MessageStore
    from langchain_histories.testing.faces import Face
    from langchain_histories.testing.suite.fixtures import OpenStore


def _open_sockets() -> int:
    def is_socket(entry: Path) -> bool:
        try:
            return str(entry.readlink()).startswith("socket:")
        except OSError:
            return False

    return sum(is_socket(entry) for entry in Path("/proc/self/fd").iterdir())


class ClientTests(StoreFixtures):
    """Rules 11, 13 and 23."""

    def test_capabilities(self, store: MessageStore) -> None:
        """A store says what it can do; what depends on the table that it finds, after set-up."""
        store.setup()
        assert store.capabilities & ~Capability(0) == self.capabilities & ~Capability(0)

    def test_constructor_does_no_io(self, open_store: OpenStore) -> None:
        """Rule 11: opening a store and 1,000 histories touches no socket and no file."""

        async def construct() -> None:
            with blockbuster_ctx():
                store = open_store()
                histories = [store.history(f"s{number}") for number in range(1000)]
            assert {id(history.store) for history in histories} == {id(store)}

        asyncio.run(construct())

    def test_a_hundred_event_loops(self, store: MessageStore) -> None:
        """Rule 11: a program that calls `asyncio.run` again and again holds no more than one pool."""
        if not Path("/proc/self/fd").exists():
            pytest.skip("counting sockets needs /proc")
        asyncio.run(store.aappend("s", [HumanMessage("x")]))
        asyncio.run(store.aread("s", last=1))
        gc.collect()
        before = _open_sockets()
        for _ in rounds(100, least=30):
            asyncio.run(store.aread("s", last=1))
        until = time.monotonic() + 5
        # The transports of a closed loop close their sockets when they are collected.
        while _open_sockets() > before + 1 and time.monotonic() < until:
            gc.collect()
            time.sleep(0.05)
        assert _open_sockets() <= before + 1

    def test_a_closed_store_can_be_used_again(self, store: MessageStore, face: Face) -> None:
        """Rule 11: closing is idempotent, and the next use opens again."""
        face(store).append("s", [HumanMessage("x")])
        face(store).close()
        face(store).close()
        assert face(store).count("s") == 1

    def test_set_up_is_done_once(self, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rule 13: where many threads or tasks begin at once one of them sets up, and the others wait for it."""

        def noted(store: MessageStore) -> list[None]:
            operations = store._operations  # noqa: SLF001  # not those for what set-up found
            calls: list[None] = []
            setup = operations.setup

            async def note(client: Any, **options: Any) -> Any:
                calls.append(None)
                return await setup(client, **options)

            monkeypatch.setattr(operations, "setup", note)
            return calls

        async def begin(store: MessageStore) -> None:
            await asyncio.gather(*(store.aappend(f"task {number}", [HumanMessage("x")]) for number in range(12)))

        with open_store() as store, concurrent.futures.ThreadPoolExecutor(12) as pool:
            calls = noted(store)
            list(pool.map(lambda number: store.append(f"thread {number}", [HumanMessage("x")]), range(12)))
            assert len(calls) == 1
        with open_store() as store:
            calls = noted(store)
            asyncio.run(begin(store))
            assert len(calls) == 1

    def test_twenty_callers_race_on_first_use(self, open_store: OpenStore) -> None:
        """Rule 13: set-up is safe when many begin at once."""
        start = threading.Barrier(20)

        def first_use(number: int) -> None:
            with open_store() as store:
                start.wait()
                store.append("s", [HumanMessage(str(number))])

        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            list(pool.map(first_use, range(20)))
        with open_store() as store:
            assert sorted(map(int, texts(store.read("s")))) == list(range(20))

    def test_twenty_tasks_race_on_first_use(self, open_store: OpenStore) -> None:
        """Rule 13: set-up is safe when many begin at once on one event loop."""

        async def first_use(number: int) -> None:
            async with open_store() as store:
                await store.aappend("s", [HumanMessage(str(number))])

        async def main() -> None:
            # The stores are told apart only by their clients; each closes its own.
            await asyncio.gather(*(first_use(number) for number in range(20)))

        asyncio.run(main())
        with open_store() as store:
            assert sorted(map(int, texts(store.read("s")))) == list(range(20))

    def test_setup_is_idempotent(self, store: MessageStore, face: Face) -> None:
        """Rule 13: set-up may be called at any time and keeps what is there."""
        face(store).setup()
        face(store).append("s", [HumanMessage("x")])
        face(store).setup()
        face(store).setup(upgrade=True)
        assert texts(face(store).read("s")) == ["x"]

    def test_a_read_makes_nothing(self, open_store: OpenStore, face: Face) -> None:
        """Rule 23: what was never written is empty, to read, list, change or remove it makes nothing."""
        with open_store() as store:
            before = self.places(store)
            if before is None:
                pytest.skip("the test cannot tell what there is at the place")
            use = face(store)
            for _ in range(2):
                assert (use.read("s"), use.records("s", last=1), use.count("s")) == ([], [], 0)
                if self.has(Capability.SESSIONS):
                    assert use.sessions() == []
                if self.has(Capability.STATE):
                    assert use.get_state("s") is None
                    assert use.update_state("s", lambda state: state) is None
                use.clear("s")
                if self.has(Capability.DELETE):
                    assert use.delete("s", ["0" * 32]) == 0
                if self.has(Capability.ERASE):
                    assert use.erase(user_id="ivan") == 0
            assert self.places(store) == before
            # What another writer has made since is seen at once.
            with open_store() as other:
                other.append("s", [HumanMessage("x")])
                assert (texts(use.read("s")), use.count("s")) == (["x"], 1)
                if self.has(Capability.STATE):
                    assert use.get_state("s") is None
                    other.put_state("s", {"a": 1})
                    assert use.get_state("s") == {"a": 1}
            use.append("s", [HumanMessage("y")])
            assert texts(use.read("s")) == ["x", "y"]

    def test_what_the_store_lacks_is_said_before_anything_is_made(self, store: MessageStore, face: Face) -> None:
        """An operation that the store does not have is unsupported, and not empty, also where nothing is stored."""
        calls: dict[Capability, tuple[str, dict[str, Any]]] = {
            Capability.SESSIONS: ("sessions", {}),
            Capability.STATE: ("get_state", {"session_id": "s"}),
            Capability.ERASE: ("erase", {"user_id": "ivan"}),
        }
        for capability, (name, arguments) in calls.items():
            if not self.has(capability):
                with pytest.raises(UnsupportedOperationError):
                    getattr(face(store), name)(**arguments)
