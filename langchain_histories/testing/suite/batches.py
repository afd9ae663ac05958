"""Order, whole batches, and many writers at once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime as dt
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_histories import Capability, InvalidMessageError, RecordTooLargeError, codec
from langchain_histories.testing.load import rounds
from langchain_histories.testing.messages import numbered, texts
from langchain_histories.testing.processes import batch, kill_writers, run_in_processes, start, write_numbers
from langchain_histories.testing.suite.fixtures import StoreFixtures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_histories import MessageStore
    from langchain_histories.testing.faces import Face
    from langchain_histories.testing.suite.fixtures import OpenStore


def _whole_batches(messages: Sequence[BaseMessage]) -> list[str]:
    """Return the names of the batches of `processes.batch`, in order, and fail on one that is not whole."""
    parts = [text.rpartition(": ")[::2] for text in texts(messages)]
    found = []
    for name, batch_parts in itertools.groupby(parts, key=lambda part: part[0]):
        numbers = [number for _, number in batch_parts]
        size = int(numbers[0].split()[-1])
        assert (name, numbers) == (name, [f"{number} of {size}" for number in range(size)])
        found.append(name)
    return found


class BatchTests(StoreFixtures):
    """Rules 1 to 3."""

    def test_an_unknown_session_is_empty(self, store: MessageStore, face: Face) -> None:
        """Only what was added is there."""
        assert face(store).read("nobody") == []
        assert face(store).count("nobody") == 0

    def test_order_of_appends_and_batches(
        self, store: MessageStore, faces: tuple[Face, Face], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rule 1: order is the store's own, also when the clock stands still or goes back."""
        write, read = faces
        clock = itertools.chain([1_800_000_000.0], itertools.repeat(1_700_000_000.0))
        monkeypatch.setattr(codec, "now", lambda: dt.datetime.fromtimestamp(next(clock), dt.UTC))
        messages = numbered(520)
        for number in range(10):
            write(store).append("s", [messages[number]])
        write(store).append("s", messages[10:510])
        write(store).append("s", messages[510:])
        assert texts(read(store).read("s")) == texts(messages)
        assert read(store).count("s") == 520

    def test_an_empty_batch_changes_nothing(self, store: MessageStore, face: Face) -> None:
        """An empty batch is no session."""
        assert face(store).append("s", []) == []
        assert face(store).read("s") == []
        if self.has(Capability.SESSIONS):
            assert face(store).sessions() == []

    def test_batches_are_contiguous_and_pollers_miss_nothing(self, open_store: OpenStore) -> None:
        """Rule 2: eight writers' batches never interleave, and going on from a position finds all of them."""
        with open_store() as store:
            store.append("s", [HumanMessage("start")])
            writing = threading.Event()
            writing.set()
            seen: list[str] = []

            def poll() -> None:
                position = None
                while True:
                    last_round = not writing.is_set()
                    for record in store.records("s", after=position):
                        position = record.position
                        seen.append(str(record.message.content))
                    if last_round:
                        return

            def write(writer: int) -> int:
                count = 0
                for number in rounds(25, least=5):
                    store.append("s", [HumanMessage(f"{writer} {number} {part}") for part in range(3)])
                    count += 1
                return count

            with concurrent.futures.ThreadPoolExecutor(9) as pool:
                poller = pool.submit(poll)
                try:
                    written = sum(future.result() for future in [pool.submit(write, writer) for writer in range(8)])
                finally:
                    writing.clear()
                poller.result()
            stored = texts(store.read("s"))
        assert len(stored) == 1 + written * 3
        assert seen == stored
        batches = [stored[start : start + 3] for start in range(1, len(stored), 3)]
        assert all([text.split()[2] for text in batch] == ["0", "1", "2"] for batch in batches)
        assert all(len({tuple(text.split()[:2]) for text in batch}) == 1 for batch in batches)

    def test_a_refused_batch_writes_nothing(self, store: MessageStore, face: Face) -> None:
        """Rule 2: one bad message refuses its whole batch before anything is written."""
        face(store).append("s", [HumanMessage("kept")])
        bad: list[Any] = [HumanMessage("lost?"), "no message"]
        with pytest.raises(InvalidMessageError, match="str"):
            face(store).append("s", bad)
        nothing: Any = None
        one: Any = HumanMessage("lost?")
        for refused in ([nothing], nothing, "text", one):
            with pytest.raises(InvalidMessageError):
                face(store).append("s", refused)
        assert texts(face(store).read("s")) == ["kept"]

    def test_what_is_too_large_is_refused(self, store: MessageStore, face: Face) -> None:
        """Rule 2: or stored whole; never cut, and the rest of its batch is not written without it."""
        batch = [HumanMessage("before"), HumanMessage("é" * 1_500_000), HumanMessage("behind")]
        face(store).append("s", [HumanMessage("first")])
        if self.has(Capability.LARGE_SESSIONS):
            face(store).append("s", batch)
            assert face(store).read("s") == [HumanMessage("first"), *batch]
        else:
            with pytest.raises(RecordTooLargeError):
                face(store).append("s", batch)
            assert face(store).read("s") == [HumanMessage("first")]
        face(store).append("s", [HumanMessage("last")])
        assert texts(face(store).read("s", last=1)) == ["last"]

    def test_a_killed_writer_leaves_whole_batches(self, open_store: OpenStore) -> None:
        """Rule 2: killed at any moment, beside another writer; what it was told is stored is there."""
        self.needs(Capability.ATOMIC_BATCH | Capability.PERSISTENT | Capability.MANY_PROCESSES)
        size = 150 if self.has(Capability.LARGE_SESSIONS) else 10
        ours: list[str] = []
        seen: list[str] = []
        position = None
        with open_store() as store:
            killing = start(open_store, kill_writers, open_store, "s", size, 5)
            while not killing.done():
                ours.append(f"ours, {len(ours)}")
                store.append("s", batch(ours[-1], 2))
                news = store.records("s", after=position)
                position = news[-1].position
                seen += _whole_batches([record.message for record in news])
                time.sleep(0.02)  # the other writer needs its turn
            told = killing.result()
            store.append("s", batch("last", 2))
            stored = _whole_batches(store.read("s"))
        assert stored[: len(seen)] == seen
        assert [name for name in stored if name.startswith("ours")] == ours
        # A server may still end the last append of a writer that is dead.
        assert stored.count("last") == 1
        assert [name for name in stored if name in told] == told
        for kill in range(5):
            # Of each writer its first batches: those of which it was told, and at most one more.
            theirs = [name for name in stored if name.startswith(f"killed {kill}, ")]
            assert theirs == [f"killed {kill}, {number}" for number in range(len(theirs))]
            assert len(set(theirs) - set(told)) <= 1

    def test_eight_processes(self, open_store: OpenStore) -> None:
        """Rule 3: what 8 processes append, 200 messages each where that is quick, is there, each writer's in order."""
        self.needs(Capability.MANY_PROCESSES)
        most = 200 if self.has(Capability.LARGE_SESSIONS) else 40
        counts = run_in_processes(write_numbers, open_store, [("s", writer, most) for writer in range(8)])
        with open_store() as store:
            stored = [text.split() for text in texts(store.read("s"))]
        assert len(stored) == sum(counts)
        for writer, count in enumerate(counts):
            assert [int(number) for name, number in stored if name == str(writer)] == list(range(count))

    def test_eight_threads(self, store: MessageStore) -> None:
        """Rule 3: threads of one process share one store."""

        def write(writer: int) -> int:
            count = 0
            for number in rounds(50, least=10):
                store.append("s", [HumanMessage(f"{writer} {number}")])
                count += 1
            return count

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            counts = list(pool.map(write, range(8)))
        stored = [text.split() for text in texts(store.read("s"))]
        assert len(stored) == sum(counts)
        for writer, count in enumerate(counts):
            assert [int(number) for name, number in stored if name == str(writer)] == list(range(count))

    def test_two_hundred_tasks(self, store: MessageStore) -> None:
        """Rule 3: 200 tasks on one event loop, half of them on one session, and half on sessions of their own."""

        async def write(number: int) -> None:
            session_id = f"own {number}" if number % 2 else "shared"
            await store.aappend(session_id, [HumanMessage(f"{number}"), AIMessage(f"{number}")])

        async def main() -> tuple[list[str], list[int]]:
            await asyncio.gather(*(write(number) for number in range(200)))
            shared = texts(await store.aread("shared"))
            return shared, [await store.acount(f"own {number}") for number in range(1, 200, 2)]

        shared, counts = asyncio.run(main())
        assert shared[::2] == shared[1::2]
        assert sorted(map(int, shared[::2])) == list(range(0, 200, 2))
        assert counts == [2] * 100
