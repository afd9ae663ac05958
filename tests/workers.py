"""How `make test` divides the tests between its processes.

Each worker takes whole classes, or the rest of a module, and starts the servers that they ask for. The longest come
first, so that no worker is left alone with one of them at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Sequence

# Modules of which one worker takes all, because their server takes seconds to start.
WHOLE = ("test_kafka.py", "test_dynamodb.py", "test_azure_table.py", "test_cosmosdb.py")

# What takes longest, in this order. What is not here follows, most tests first.
LONGEST = (
    "integration_tests/test_dynamodb.py",
    "integration_tests/test_kafka.py",
    "integration_tests/test_azure_table.py",
    "integration_tests/test_cosmosdb.py",
)


class LongestFirst(LoadScopeScheduling):
    """Gives each worker a class or module at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def unit_of(nodeid: str) -> str:
    """Name what a test is run together with."""
    module = nodeid.partition("::")[0]
    return module if module.endswith(WHOLE) else nodeid.partition("[")[0].rpartition("::")[0]


def in_order(items: Sequence[Any]) -> list[Any]:
    """Sort tests, those of the longest modules and classes first."""
    units: dict[str, list[Any]] = {}
    for item in items:
        units.setdefault(unit_of(item.nodeid), []).append(item)

    def place(unit: str) -> tuple[int, int]:
        ranks = (rank for rank, name in enumerate(LONGEST) if name in unit)
        return next(ranks, len(LONGEST)), -len(units[unit])

    return [item for unit in sorted(units, key=place) for item in units[unit]]
