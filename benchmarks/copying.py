"""How fast `copy` is beside the two bare drivers that move the same texts in the same batches, as a markdown table.

    python benchmarks/copying.py [--sessions 2000] [--rounds 3]

SQLite to Redis: sessions of 1 to 200 messages and one of 10,000. The bare drivers read each session with one `SELECT`
and push it with one `LPUSH` for each 500 texts; they list the sessions and compare nothing. `copy` lists, looks at the
destination, and reads what arrived. A round each, in turns, into an empty Redis; the median of rounds. The memory is
that of a process that copies all of it, and of one that copies a tenth of the sessions, above what each had before
(Linux).
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import redis  # noqa: E402  # behind the path
import servers  # noqa: E402
from langchain_core.messages import AIMessage, HumanMessage  # noqa: E402

from langchain_histories import RedisStore, SQLStore, copy  # noqa: E402

BATCH = 500


def fill(store: SQLStore, sessions: int) -> int:
    """Store the conversations and return how many messages they have."""
    chance = random.Random(4)
    total = 0
    for number in range(sessions):
        count = 10_000 if number == 0 else chance.randint(1, 200)
        messages = [
            HumanMessage(f"question {i} " * 8) if i % 2 == 0 else AIMessage(f"answer {i} " * 40) for i in range(count)
        ]
        store.append(f"session {number:05d}", messages)
        total += count
    return total


def bare(path: str, client: redis.Redis) -> None:
    """Move all texts with the drivers alone."""
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT DISTINCT session_id FROM message_store ORDER BY session_id")
        for (session_id,) in found.fetchall():
            rows = connection.execute(
                "SELECT message FROM message_store WHERE session_id = ? ORDER BY id", (session_id,)
            )
            texts = [text for (text,) in rows]
            for start in range(0, len(texts), BATCH):
                client.lpush(f"message_store:{session_id}", *texts[start : start + BATCH])


PEAK = """
import re, sys
from pathlib import Path
from langchain_histories import RedisStore, SQLStore, copy

def most():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

source, target = SQLStore(f"sqlite:///{sys.argv[1]}"), RedisStore(sys.argv[2], key_prefix=f"{sys.argv[3]}:")
sessions = [info.session_id for info in source.sessions(limit=int(sys.argv[3]))]
copy(source, target, sessions=["none"])
before = most()
copy(source, target, sessions=None if len(sessions) == len(source.sessions()) else sessions)
print(most() - before)
"""


def peak(path: str, url: str, sessions: int) -> float:
    """Return by how many MB a process grows that copies so many sessions."""
    command = [sys.executable, "-c", PEAK, path, url, str(sessions)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603  # our own


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, servers.redis() as server:
        path = f"{folder}/source.db"
        source, target = SQLStore(f"sqlite:///{path}"), RedisStore(server.url)
        total = fill(source, options.sessions)
        client = redis.Redis.from_url(server.url)
        seconds: dict[str, list[float]] = {"copy": [], "bare drivers": []}
        for _ in range(options.rounds):
            for name, work in (("copy", lambda: copy(source, target)), ("bare drivers", lambda: bare(path, client))):
                client.flushdb()
                begun = time.perf_counter()
                work()
                seconds[name].append(time.perf_counter() - begun)
        print(f"{options.sessions} sessions, {total} messages\n")
        print("| SQLite to Redis | seconds | messages a second |\n|---|---|---|")
        for name, taken in seconds.items():
            print(f"| {name} | {statistics.median(taken):.2f} | {total / statistics.median(taken):,.0f} |")
        print(f"\ncopy ÷ bare: {statistics.median(seconds['bare drivers']) / statistics.median(seconds['copy']):.2f}")
        client.flushdb()
        grown = [peak(path, server.url, sessions) for sessions in (options.sessions // 10, options.sessions)]
        print(f"peak of memory: {grown[0]:.0f} MB above start for a tenth of the sessions, {grown[1]:.0f} MB for all")


if __name__ == "__main__":
    main()
