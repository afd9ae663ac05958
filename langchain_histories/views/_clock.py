"""The time that a turn waits for its summaries."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from langchain_histories._neutral import settle

if TYPE_CHECKING:
    from langchain_histories.views._faces import Call, SyncFace


class TurnTimeoutError(TimeoutError):
    """The time of the turn is over. What was stored until then stays."""


class Clock:
    """The time of one turn. A call that has not returned when it is over is dropped.

    Args:
        seconds: How much there is; `None` for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        """Begin."""
        self._end = None if seconds is None else time.monotonic() + seconds
        self._longest: float | None = None

    def allows_another(self) -> bool:
        """Whether there is time for another call, if it takes as long as the longest one before it. One always is."""
        return self._end is None or self._longest is None or time.monotonic() + self._longest < self._end

    async def run(self, face: SyncFace, call: Call) -> object:
        """Make a call, in the time that is left.

        Raises:
            TurnTimeoutError: It took longer.
        """
        begin = time.monotonic()
        left = None if self._end is None else max(self._end - begin, 0.001)
        try:
            return await settle(face.call(call, left))
        except TimeoutError as error:
            if self._end is not None and time.monotonic() >= self._end:
                raise TurnTimeoutError(str(error)) from error
            raise
        finally:
            self._longest = max(self._longest or 0.0, time.monotonic() - begin)
