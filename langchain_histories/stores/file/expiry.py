"""When a session in files expires: a small file beside it, which is there where a store has a `ttl`.

    {"expires": 1795867200.5, "records": 12, "size": 3456}

`expires` is in seconds since 1970, or null for never. The session expires with its first `records` records: those
behind them were appended by LangChain's class, and are shown. `size` is that of the file of messages then, so that an
append has to count only where others have written. The file is written in place, always with the same length.
"""

from __future__ import annotations

import json
import time
from typing import NamedTuple

from langchain_histories.errors import CorruptRecordError

LENGTH = 120  # bytes


class Expiry(NamedTuple):
    """What the file says. The names are stored."""

    expires: float | None
    records: int
    size: int

    @property
    def is_over(self) -> bool:
        """Whether the session has expired."""
        return self.expires is not None and self.expires <= time.time()

    def text(self) -> bytes:
        """Return what the file is to hold."""
        return json.dumps(self._asdict()).ljust(LENGTH - 1).encode() + b"\n"


def parse(text: bytes, name: str, key: str) -> Expiry:
    """Read the file.

    Raises:
        CorruptRecordError: It is not as this package writes it.
    """
    try:
        found = Expiry(**json.loads(text))
        if isinstance(found.expires, float | None) and isinstance(found.records, int) and isinstance(found.size, int):
            return found
    except (ValueError, TypeError, RecursionError):
        pass
    raise CorruptRecordError(
        f"The file {name!r}, which says when the session expires, is not as this package writes it. Remove it, and the "
        "session does not expire; or clear the session.",
        key,
    )
