"""How often a change is tried again that other writers came before, and after which pauses."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from langchain_histories.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_histories.stores.base import Operations

MAX_TRIES = 200
# Seconds. Shorter pauses make more tries than the services answer meanwhile.
FIRST_PAUSE, LONGEST_PAUSE = 0.03, 1.0


def tries(operations: Operations[Any], key: str) -> Iterator[float]:
    """Yield, for each try to change a session, the seconds to pause before the next one.

    Raises:
        StoreError: There were too many tries.
    """
    for number in range(MAX_TRIES):
        yield random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(number, 10)))  # noqa: S311
    session_id = operations.session_id(key)
    raise StoreError(
        f"{operations.name}: gave up after {MAX_TRIES} tries on session {session_id!r}: other writers kept changing "
        "it meanwhile, or the service was too busy. The last change was not made.",
        operations.name,
        session_id=session_id,
    )
