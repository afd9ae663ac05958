"""Which rules of the kit are run on which stores, and whether one was lost.

    pytest --collect-only -q > now.txt
    python tests/rules.py now.txt                           prints each class of stores with its rules
    python tests/rules.py --tests now.txt                   prints all tests
    python tests/rules.py tests/rules_before.txt now.txt    names what the first has and the second lacks, and fails

A file is what `pytest --collect-only -q` printed, a report of `pytest --junitxml`, or what this program printed.
`make test` compares its report with `rules_before.txt`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

from langchain_histories.testing import MessageStoreTests

# What `rules_before.txt` has and is not run any more, with the reason why no store can break it or where it is checked
# instead: `("TestRedisStore", "test_clear[sync-sync]"): "..."`, or `("*", "test_clear[sync-sync]")` for all stores.
_FACES = "each face writes all ids and reads those that the other wrote; test_round_trip reads a face's own too"
LEFT_OUT: dict[tuple[str, str], str] = {
    ("*", "test_odd_session_ids[sync-sync]"): _FACES,
    ("*", "test_odd_session_ids[async-async]"): _FACES,
}

# Classes that have another name now.
RENAMED = {"TestPartitionStore": "TestPartitionOperations"}

RULES = frozenset(name for name in dir(MessageStoreTests) if name.startswith("test_"))


class Pair(NamedTuple):
    """A rule, with its parameters, and the class of tests that holds a store to it."""

    store: str
    rule: str


def read(path: str) -> tuple[set[str], set[Pair]]:
    """Return all tests in a file, and those of the kit."""
    text = Path(path).read_text(encoding="utf-8")
    tests: set[str] = set()
    pairs: set[Pair] = set()
    if text.startswith("<?xml"):
        cases = ET.fromstring(text).iter("testcase")
        lines = [f"{case.get('classname')}::{case.get('name')}" for case in cases]
    else:
        lines = text.splitlines()
    stores: list[str] = []
    for line in lines:
        if line.startswith("  test_"):
            pairs |= {Pair(store, line.strip()) for store in stores}
        elif line.startswith("Test"):
            stores = line.split()
        elif "::" in line:
            tests.add(line)
            name, bracket, parameters = line.partition("[")
            where, _, function = name.rpartition("::")
            store = where.replace(".", "::").rpartition("::")[2]
            if store.startswith("Test") and function in RULES:
                pairs.add(Pair(store, function + bracket + parameters))
    return tests, pairs


def show(pairs: set[Pair]) -> None:
    """Print the classes that have the same rules together, and below them these rules."""
    rules = defaultdict(set)
    for pair in pairs:
        rules[pair.store].add(pair.rule)
    alike = defaultdict(list)
    for store, of_store in sorted(rules.items()):
        alike[tuple(sorted(of_store))].append(store)
    for of_stores, stores in alike.items():
        print(" ".join(stores), *(f"  {rule}" for rule in of_stores), sep="\n")


def lost(before: set[Pair], now: set[Pair]) -> list[Pair]:
    """Return what is not run any more though nothing says why."""
    renamed = {Pair(RENAMED.get(store, store), rule) for store, rule in before}
    return sorted(pair for pair in renamed - now if pair not in LEFT_OUT and ("*", pair.rule) not in LEFT_OUT)


def main(arguments: list[str]) -> int | str:
    """Do what the command line asks for; the result is the exit status, or what went wrong."""
    match arguments:
        case ["--tests", path]:
            print(*sorted(read(path)[0]), sep="\n")
        case [path]:
            show(read(path)[1])
        case [before, now]:
            missing, pairs = lost(read(before)[1], read(now)[1]), read(now)[1]
            if missing:
                return "\n".join(["Rules that were not run:", *(f"  {pair.store}::{pair.rule}" for pair in missing)])
            print(
                f"{len(pairs)} rules of the kit on {len({pair.store for pair in pairs})} classes of stores; none was lost"
            )
        case _:
            return __doc__ or ""
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
