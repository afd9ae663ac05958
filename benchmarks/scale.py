"""The figures of `docs/scale.md`: bytes, request units, retries, memory, and a session of a million messages.

    python benchmarks/scale.py [--only bytes,units,retries,sessions,million] [--count 1000000]

Bytes, request units and retries are computed from what the stores' own code makes of a usual turn and from the
services' rules of billing, which `docs/scale.md` cites; nothing is sent to a cloud. The rest is measured on real
servers.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import bson  # noqa: E402  # behind the path
import servers  # noqa: E402
from langchain_core.messages import AIMessage, HumanMessage  # noqa: E402

from langchain_histories import FileStore, MemoryStore, RedisStore, SQLStore  # noqa: E402
from langchain_histories.stores.shared.tries import FIRST_PAUSE, LONGEST_PAUSE, MAX_TRIES  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.messages import BaseMessage

    from langchain_histories import MessageStore

SESSION_ID = "@user-123456/7f9c24e8-3b12-4fbb-9a65-0d6c5e5f8a11"
SORT_KEY = f"r{'0' * 16}.{1:016}"  # of a record, in the stores with partitions
HEAD = 200  # bytes of the head of a session, at most
SESSIONS = 10_000
SHORT = 1_000
BATCH = 5_000
SAMPLES = 50
KB = 1024


def turn(number: int = 0) -> list[BaseMessage]:
    """A question of 100 characters and an answer of 400, with the usage that model packages report."""
    usage: Any = {"input_tokens": 900, "output_tokens": 110, "total_tokens": 1010}
    answer = AIMessage(
        f"{number:>8} {'answer ' * 56}"[:400],
        usage_metadata=usage,
        response_metadata={"model_name": "a-model-2026", "finish_reason": "stop"},
        id="run--7f9c24e8-3b12-4fbb-9a65-0d6c5e5f8a11",
    )
    return [HumanMessage(f"{number:>8} {'question ' * 11}"[:100]), answer]


def texts() -> list[str]:
    """The two records of a turn."""
    return MemoryStore().format.encode(turn())[1]


def rows() -> list[int]:
    """Their bytes."""
    return [len(text.encode()) for text in texts()]


def dynamodb_item(size: int) -> int:
    """Bytes of an item with a record: the names and the values of its attributes."""
    return len("SessionId") + len(SESSION_ID) + len("Item") + len(SORT_KEY) + len("Message") + size


def azure_entity(size: int) -> int:
    """Bytes of an entity with a record in ASCII, by the service's formula: UTF-16, and some for each property."""
    return 4 + 2 * (len(SESSION_ID) + len(SORT_KEY)) + 8 + 2 * len("text") + 4 + 2 * size


def cosmos_item(text: str) -> int:
    """Bytes of an item with a record, and of the properties that the service adds."""
    item = {"id": SORT_KEY, "session_id": SESSION_ID, "text": text, "ttl": -1}
    return len(json.dumps(item)) + 220


def mongodb_document(text: str) -> int:
    return len(bson.encode({"_id": f"1-{'0' * 24}", "SessionId": SESSION_ID, "History": text, "seq": 1}))


def tablestore_row(size: int, cells: int) -> int:
    """Bytes of a row: the names and the values of its columns."""
    return len("session_id") + len(SESSION_ID) + len("seq") + 8 + len("n") + 8 + cells * len("m0") + size


def units(size: int, unit: int) -> int:
    return math.ceil(size / unit)


def print_bytes() -> None:
    """What one turn takes, as text and in the form of each service, without the service's own overhead."""
    question, answer = rows()
    both = question + answer
    key = len(SESSION_ID)
    print(f"\nrecords of a turn: {question} + {answer} bytes of JSON; of them text: 100 + 400; id {key} bytes\n")
    print("| format | bytes a turn |\n|---|---|")
    forms = {
        "Redis, Upstash, Kafka, files: the records": both + 2,
        "Tablestore: one row": tablestore_row(both, 2),
        "SQL: two rows with their session id": both + 2 * (key + 8),
        "DynamoDB: two items": sum(map(dynamodb_item, rows())),
        "MongoDB: two documents": sum(map(mongodb_document, texts())),
        "Cosmos DB: two items with the service's own properties": sum(map(cosmos_item, texts())),
        "Azure Table: two entities, in UTF-16": sum(map(azure_entity, rows())),
    }
    for name, size in forms.items():
        print(f"| {name} | {size:,} |")


def print_units() -> None:
    """What an append of a turn, a read of the last 20 messages and a listing are billed."""
    print("\n| service | append of a turn | read of the last 20 |\n|---|---|---|")
    # A read goes to the head first (`PartitionOperations`).
    # A transaction costs twice, a consistent read of 4 KB one unit.
    writes = 2 * sum(units(size, KB) for size in (*map(dynamodb_item, rows()), HEAD))
    page = 10 * sum(map(dynamodb_item, rows()))
    print(f"| DynamoDB | {writes} WCU + 1 RCU | {1 + units(page, 4 * KB)} RCU |")
    print("| Azure Table | 2 transactions (1 of 3 entities) | 2 transactions |")
    # What the service's documentation says for 1 and for 2 KB; a query as if each of its items were read for itself.
    write = {1: 4.95, 2: 6.29}
    request = 1 + sum(write[units(size, KB)] for size in (*map(cosmos_item, texts()), HEAD))
    print(f"| Cosmos DB | about {request:.0f} RU | at most about {1 + 20 * 1.04:.0f} RU |")
    # As many rows are asked for as messages: each could hold but one.
    row = tablestore_row(sum(rows()), 2)
    print(f"| Tablestore | {units(row, 4 * KB)} CU | {units(20 * row, 4 * KB)} CU |")

    million = 1_000_000
    scanned = million * (page + HEAD) / (4 * KB)
    print(f"\nA million sessions of 20 listed, DynamoDB: {scanned / 1e6:.1f} million RCU, and again for each page")
    pages = units(10 * million, 5_000)
    read = pages * units(5_000 * tablestore_row(0, 0), 4 * KB)
    print(f"Tablestore: {pages:,} requests, {read:,} CU, and a request for each session listed")
    full = 2 * 20 * 2**30 / sum(map(cosmos_item, texts()))
    print(f"Messages in the 20 GB of a partition of Cosmos DB: {full / 1e6:.0f} million")
    each = sum(rows()) / 2
    print(f"Messages of a session in one item: DynamoDB {400 * KB / each:.0f}, Cosmos DB {2_000_000 / each:,.0f}")


def print_retries() -> None:
    """How long a writer tries before whom others always come, in the stores with heads."""
    pauses = sum(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(number, 10)) / 2 for number in range(MAX_TRIES))
    print(f"\n{MAX_TRIES} tries, with pauses of {pauses:.0f} s in all on average")


def fill(store: MessageStore, session_id: str, count: int) -> float:
    """Append `count` messages in batches; return the seconds."""
    begin = time.perf_counter()
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start) // 2
        store.append(session_id, [message for number in range(size) for message in turn(start + number)])
    return time.perf_counter() - begin


def stores(folder: str) -> Iterator[tuple[str, MessageStore, Any]]:
    """Each store that can be had here, and a function that tells the bytes it holds."""
    tracemalloc.start()
    yield "memory", MemoryStore(), lambda _: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    yield "files", FileStore(f"file://{folder}/files"), lambda _: _folder_size(Path(folder, "files"))
    path = Path(folder, "histories.db")
    yield "SQLite", SQLStore(f"sqlite:///{path}"), lambda _: sum(p.stat().st_size for p in path.parent.glob("*.db*"))
    with servers.redis() as server:
        yield server.version, RedisStore(server.url), lambda store: store.client.info("memory")["used_memory"]
    with servers.postgres() as server:
        yield server.version, SQLStore(server.url), _postgres_size


def _folder_size(folder: Path) -> int:
    return sum(max(512 * path.stat().st_blocks, path.stat().st_size) for path in folder.rglob("*") if path.is_file())


def _postgres_size(store: SQLStore) -> int:
    from sqlalchemy import text

    with store.client.connect() as connection:
        return int(connection.scalar(text("SELECT pg_total_relation_size('message_store')")) or 0)


def print_sessions() -> None:
    """What 10,000 sessions of 20 messages take, and what a million would."""
    sizes = rows()
    print(f"\n| store | {SESSIONS:,} sessions of 20 | bytes a session | of its records | a million sessions |")
    print("|---|---|---|---|---|")
    messages = [message for number in range(10) for message in turn(number)]
    with tempfile.TemporaryDirectory() as folder:
        for name, store, size in stores(folder):
            with store:
                store.setup()
                empty = size(store)
                for number in range(SESSIONS):
                    store.append(f"@user-{number:06}/7f9c24e8-3b12-4fbb-9a65-0d6c5e5f8a11", messages)
                each = (size(store) - empty) / SESSIONS
                share = each / (10 * sum(sizes))
                million = f"{each * 1e6 / 2**30:.1f} GiB"
                print(
                    f"| {name} | {each * SESSIONS / 2**20:.0f} MiB | {each:,.0f} | {share:.2f} × | {million} |",
                    flush=True,
                )


def print_million(count: int) -> None:
    """How the cost of an append and of a read of the last 20 grows with the session."""
    print(f"\n| store | {count:,} messages appended in | append | last 20 | size |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, store, size in stores(folder):
            with store:
                fill(store, "short", SHORT)
                took = fill(store, "long", count)
                ratios = []
                for work in (
                    lambda key, store=store: store.append(key, turn()),
                    lambda key, store=store: store.read(key, last=20),
                ):
                    times: dict[str, list[float]] = {"short": [], "long": []}
                    for _ in range(SAMPLES):
                        for key, samples in times.items():
                            begin = time.perf_counter()
                            work(key)
                            samples.append(time.perf_counter() - begin)
                    short, long = (statistics.median(times[key]) for key in ("short", "long"))
                    ratios.append(f"{long / short:.2f} × ({long * 1e3:.2f} ms)")
                print(f"| {name} | {took:.0f} s | {' | '.join(ratios)} | {size(store) / 2**20:.0f} MiB |", flush=True)


def main() -> None:
    parts = {
        "bytes": print_bytes,
        "units": print_units,
        "retries": print_retries,
        "sessions": print_sessions,
        "million": print_million,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(parts))
    parser.add_argument("--count", type=int, default=1_000_000)
    args = parser.parse_args()
    about = {"python": sys.version.split()[0], "cores": os.cpu_count(), "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}"}
    print(json.dumps({**about, "records of a turn": rows()}))
    for name in args.only.split(","):
        if name == "million":
            print_million(args.count)
        else:
            parts[name]()


if __name__ == "__main__":
    main()
