"""What chat stores of LlamaIndex cost and keep, as markdown tables.

    python benchmarks/chat_stores.py [--rounds 10]

Median milliseconds of each operation in sessions of 200 and of 2,000 messages. `pop` by hand reads all and deletes the
last. Then four threads add ten messages each to one session: how many are there, beside LlamaIndex's own class for
Tablestore on the same stand-in of the service.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import servers  # noqa: E402  # behind the path
from langchain_core.messages import HumanMessage  # noqa: E402
from llama_index.core.base.llms.types import ChatMessage  # noqa: E402

from langchain_histories import FileStore, MemoryStore, RedisStore, SQLStore, TablestoreStore  # noqa: E402
from langchain_histories.integrations.llama_index import LlamaIndexChatStore  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_histories import MessageStore

SHORT, LONG = 200, 2_000
ROUNDS_BY_HAND = 3


def stores(folder: str) -> Iterator[tuple[str, MessageStore]]:
    """Each store that can be had here."""
    yield "memory", MemoryStore()
    yield "files", FileStore(f"file://{folder}/files")
    yield "SQLite", SQLStore(f"sqlite:///{folder}/histories.db")
    with servers.redis() as server:
        yield server.version, RedisStore(server.url)
    with servers.postgres() as server:
        yield server.version, SQLStore(server.url)


def median(operation: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        operation()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def figures(store: MessageStore, rounds: int) -> list[float]:
    """The figures of a row."""
    chat_store, message, names = LlamaIndexChatStore(store), ChatMessage("x" * 200), [str(SHORT), str(LONG)]
    for name in names:
        store.append(name, [HumanMessage("x" * 200)] * int(name))

    def by_hand() -> None:
        store.delete(names[1], [store.records(names[1])[-1].id])

    return [
        *(median(functools.partial(chat_store.delete_last_message, name), rounds) for name in names),
        median(by_hand, ROUNDS_BY_HAND),
        *(median(functools.partial(chat_store.add_message, name, message), rounds) for name in names),
    ]


def kept(chat_store: Any) -> int:
    """How many of forty messages are there that four threads have added."""

    def add(worker: int) -> None:
        for number in range(10):
            chat_store.add_message("together", ChatMessage(f"{worker}-{number}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    return len(chat_store.get_messages("together"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    print(f"| store | pop of {SHORT}, ms | of {LONG:,} | by hand, of {LONG:,} | add to {SHORT} | to {LONG:,} |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, store in stores(folder):
            print(f"| {name} | {' | '.join(f'{figure:.2f}' for figure in figures(store, rounds))} |")
            store.close()
    compare()


def compare() -> None:
    """Print what LlamaIndex's class and ours keep of concurrent additions to one session of Tablestore."""
    from llama_index.storage.chat_store.tablestore import TablestoreChatStore as Theirs

    print("\n| chat store on Tablestore's stand-in | of 40 messages that 4 threads add, there are |\n|---|---|")
    with servers.tablestore() as server, TablestoreStore(server.url) as store:
        theirs = Theirs(tablestore_client=store.client, table_name=f"t{uuid.uuid4().hex}")
        theirs.create_table_if_not_exist()
        time.sleep(1)  # the class says that a new table needs a moment
        print(f"| LlamaIndex's | {kept(theirs)} |")
        print(f"| ours | {kept(LlamaIndexChatStore(store))} |")


if __name__ == "__main__":
    main()
