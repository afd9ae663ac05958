"""Copy conversations from store to store, in processes that are killed, and see that they are the same at the end.

    python benchmarks/copy_chain.py [--sessions 2000] [--longest 200] [--long 10000] [--kills 3]

SQLite to Redis to MongoDB (or its stand-in) to PostgreSQL (JSONB) to files to SQLite: sessions of up to 200
messages and one of 10,000, golden messages, records of LangChain's classes and some that nobody can read among them.
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import chain  # noqa: E402  # behind the path
import servers  # noqa: E402


def main() -> None:
    """Copy, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("sessions", 2000), ("longest", 200), ("long", 10_000), ("kills", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    chance = random.Random(14)
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.redis() as redis,
        servers.mongodb() as mongodb,
        servers.postgres() as postgres,
    ):
        places: list[chain.Place] = [
            (f"sqlite:///{folder}/first.db", {}),
            (redis.url, {}),
            (mongodb.url, {"database_name": "histories", "timeout": 600}),  # the stand-in searches without an index
            (postgres.url_with(scheme="postgresql+psycopg"), {"jsonb": True}),
            (f"file:{folder}/files", {}),
            (f"sqlite:///{folder}/last.db", {}),
        ]
        with chain.opened(places[0]) as store:
            total = chain.fill(store, options.sessions, options.longest, options.long, chance)
        said = chain.digest_of(places[0])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{options.sessions} sessions, {total} records, {options.kills} kills each\n")
        print("| from | to | seconds | added by the last copy | the process grew by |\n|---|---|---|---|---|")
        for source, target in itertools.pairwise(places):
            begun = time.perf_counter()
            report = chain.copy_with_kills(source, target, options.kills, total / 20_000, chance)
            seconds = time.perf_counter() - begun
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            names = " | ".join(place[0].partition(":")[0] for place in (source, target))
            print(f"| {names} | {seconds:.0f} | {report.records} | {grown:.0f} MB |", flush=True)
            assert report.records + report.found == total
            assert chain.digest_of(target) == said
        assert all(one == other for one, other in zip(*map(chain.told_of, (places[0], places[-1])), strict=True))
        print("\nequal at the end")


if __name__ == "__main__":
    main()
