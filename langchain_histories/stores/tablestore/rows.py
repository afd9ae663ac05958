"""How batches and states lie in rows of two tables, and are read from them again.

A row of the table of messages is a batch. One PutRow stores it, so it is all or nothing, and contiguous. The service
numbers the rows: `seq` is an auto-increment column, which grows strictly within a session. So writers need no
transaction, and none of them waits for another. (Local transactions cannot be had beside an auto-increment column.)

| key or column | meaning |
|---|---|
| `session_id`, `seq` | the key |
| `n` | how many messages are left in the batch |
| `m0`, `m1`, ... | their texts; a long text is cut into `m0_0`, `m0_1`, ... |
| `d0`, `d1`, ... | marks of the messages that were deleted |
| `parts` | a batch over the limits of a row: the numbers of rows with `n` 0, written before, that hold the rest of it |
| `edit` | the batch is that of an edit, with `n` 0, until it is shown by `first` |
| `sealed` | the number of the edit that counts on no message of the batch being deleted |
| `first` | the batch replaced what was before it: rows with smaller numbers are hidden |

A row of the table of states has the key `session_id` and `name`.

| name | columns |
|---|---|
| `state` | the text in `m0` or `m0_0`, `m0_1`, ..., and its `hash`, which a change of the state is compared by |
| `replaced` | in `to`, the number of the newest batch with `first`, or `BEING_REPLACED` before it has one |
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from langchain_histories.stores.base import bad_position

if TYPE_CHECKING:
    from collections.abc import Sequence

# The service takes 2 MB of UTF-8 in a column, with up to 4 bytes a character; in a request 1,024 columns and 4 MB.
_CELL_CHARACTERS = 500_000
_ROW_CELLS = 1000
ROW_BYTES = 3_900_000

BEING_REPLACED = 2**63 - 1
"""In `to`, while the batch that replaces a session is on its way. No batch has so large a number."""


def batch_key(session_id: Any, number: Any) -> list[tuple[str, Any]]:
    """The key of a row of the table of messages."""
    return [("session_id", session_id), ("seq", number)]


def state_key(session_id: Any, name: Any) -> list[tuple[str, Any]]:
    """The key of a row of the table of states."""
    return [("session_id", session_id), ("name", name)]


def columns_of(row: Any) -> dict[str, Any]:
    """The columns of a row of the SDK, without their timestamps."""
    return {name: value for name, value, _ in row.attribute_columns}


class Batch(NamedTuple):
    """A row of the table of messages."""

    session_id: str
    number: int
    columns: dict[str, Any]

    @classmethod
    def of(cls, row: Any) -> Self:
        """Read a row of the SDK."""
        (_, session_id), (_, number) = row.primary_key[:2]
        return cls(session_id, number, columns_of(row))

    @property
    def size(self) -> int:
        """How many messages are left in it; 0 for a part of another batch. What another program wrote counts as one."""
        size = self.columns.get("n", 0)
        return max(0, size) if type(size) is int else 1

    @property
    def is_first(self) -> bool:
        """Whether it replaced what was before it."""
        return "first" in self.columns

    @property
    def is_hidden_edit(self) -> bool:
        """Whether it is what an edit is to leave, and nobody sees yet."""
        return "edit" in self.columns

    @property
    def parts(self) -> list[int]:
        """The numbers of the rows that hold the rest of it."""
        numbers = self.columns.get("parts", "")
        return [int(number) for number in numbers.split() if number.isdecimal()] if isinstance(numbers, str) else []


def batch_and_index(position: str | None) -> tuple[int, int]:
    """The number of a message's batch and its index in the batch; without a position, a pair before all others.

    Raises:
        ConfigurationError: There is no such position.
    """
    if position is None:
        return 0, -1
    number, _, index = position.partition("-") if isinstance(position, str) else ("", "", "")
    if not (number.isdecimal() and index.isdecimal()):
        raise bad_position(position)
    return int(number), int(index)


def cells_of(index: int, text: str) -> list[tuple[str, str]]:
    """The columns of one text."""
    if len(text) <= _CELL_CHARACTERS:
        return [(f"m{index}", text)]
    starts = range(0, len(text), _CELL_CHARACTERS)
    return [(f"m{index}_{part}", text[start : start + _CELL_CHARACTERS]) for part, start in enumerate(starts)]


def pack(texts: Sequence[str]) -> list[list[tuple[str, str]]]:
    """The columns of a batch, in as few rows as can hold them."""
    rows: list[list[tuple[str, str]]] = [[]]
    size = 0
    for index, text in enumerate(texts):
        for name, cell in cells_of(index, text):
            size += len(name) + len(cell.encode())
            if len(rows[-1]) == _ROW_CELLS or size > ROW_BYTES:
                rows.append([])
                size = len(name) + len(cell.encode())
            rows[-1].append((name, cell))
    return rows


def texts_of(columns: dict[str, Any]) -> dict[int, str]:
    """The texts that columns hold, by index. What is no text is the empty one, which is no record."""
    cells = []
    for name, cell in columns.items():
        if match := re.fullmatch(r"m(\d+)(?:_(\d+))?", name):
            cells.append((int(match[1]), int(match[2] or 0), cell if isinstance(cell, str) else ""))
    texts: dict[int, str] = {}
    for number, _, cell in sorted(cells):
        texts[number] = texts.get(number, "") + cell
    return texts
