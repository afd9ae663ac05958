"""How long the tests press a store with many callers at once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 1.0
"""A caller that has done its least number of rounds does no more of them after this time."""


def rounds(most: int, *, least: int) -> Iterator[int]:
    """Count from 0 to `most`, or to `least` if time is over.

    A service that answers slowly has all callers in each other's way from the first round on, so that more rounds show
    nothing new. A fast one needs many until two callers meet.
    """
    until = time.monotonic() + SECONDS
    for number in range(most):
        if number >= least and time.monotonic() > until:
            return
        yield number
