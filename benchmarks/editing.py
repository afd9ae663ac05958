"""What an edit of the end costs in a long session beside a short one, as a markdown table.

    python benchmarks/editing.py [--short 100] [--long 100000] [--rounds 40]

Median milliseconds of each operation, both sessions in turns in one run. `take` by hand is what there was before: the
records are read, and one is deleted by its id.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import servers  # noqa: E402  # behind the path
from langchain_core.messages import AIMessage, HumanMessage  # noqa: E402
from scale import fill, turn  # noqa: E402

from langchain_histories import FileStore, MemoryStore, RedisStore, SQLStore  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_histories import MessageStore

BY_HAND = "`take` by hand"
ROUNDS_BY_HAND = 2


def stores(folder: str) -> Iterator[tuple[str, MessageStore]]:
    """Each store that can be had here."""
    yield "memory", MemoryStore()
    yield "files", FileStore(f"file://{folder}/files")
    yield "SQLite", SQLStore(f"sqlite:///{folder}/histories.db")
    with servers.redis() as server:
        yield server.version, RedisStore(server.url)
    with servers.postgres() as server:
        yield server.version, SQLStore(server.url)


def operations(store: MessageStore) -> dict[str, Callable[[str], object]]:
    """What is measured. Before each of them the session gets a turn more."""

    def last(session_id: str) -> str:
        return store.records(session_id, last=1)[0].id

    return {
        "`edit_message`, the last": lambda name: store.edit_message(name, last(name), AIMessage("changed")),
        "`insert(-1, …)`": lambda name: store.insert(name, -1, [HumanMessage("new")]),
        "`pop_turn`": store.pop_turn,
        "`append(after=)`": lambda name: store.append(name, [HumanMessage("new")], after=last(name)),
        "`take`": store.take,
        BY_HAND: lambda name: store.delete(name, [last(name)]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", type=int, default=100)
    parser.add_argument("--long", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    counts = {"short": options.short, "long": options.long}
    print(f"| store | operation | {options.short:,} messages, ms | {options.long:,} messages, ms | ratio |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, store in stores(folder):
            for session_id, count in counts.items():
                fill(store, session_id, count)
            for what, operation in operations(store).items():
                times: dict[str, list[float]] = {"short": [], "long": []}
                for _ in range(ROUNDS_BY_HAND if what == BY_HAND else options.rounds):
                    for session_id, taken in times.items():
                        store.append(session_id, turn())
                        begun = time.perf_counter()
                        operation(session_id)
                        taken.append(1000 * (time.perf_counter() - begun))
                short, long = (statistics.median(times[session_id]) for session_id in counts)
                print(f"| {name} | {what} | {short:.2f} | {long:.2f} | {long / short:.1f} |", flush=True)
            store.close()


if __name__ == "__main__":
    main()
