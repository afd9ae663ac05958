"""How a batch of records is laid out in rows of Tablestore, and found there again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_histories.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

# The service takes 2 MB in a column, 1,024 columns and 4 MB in a request.
_CELL_CHARACTERS = 500_000
_ROW_CELLS = 1000
ROW_BYTES = 3_900_000


class Batch(NamedTuple):
    """A row of the table of messages."""

    session_id: str
    number: int
    columns: dict[str, Any]

    @property
    def size(self) -> int:
        return int(self.columns.get("n", 0))

    @property
    def is_first(self) -> bool:
        return "first" in self.columns

    @property
    def parts(self) -> list[int]:
        return [int(number) for number in self.columns.get("parts", "").split()]


def place_of(position: str | None) -> tuple[int, int]:
    """The number of the batch and the index in it; before everything without a position."""
    if position is None:
        return 0, -1
    number, _, index = position.partition("-") if isinstance(position, str) else ("", "", "")
    if not (number.isdecimal() and index.isdecimal()):
        raise ConfigurationError(f"after must be the position of a record of this store, not {position!r}.")
    return int(number), int(index)


def cells_of(index: int, text: str) -> list[tuple[str, str]]:
    """The columns of one text."""
    if len(text) <= _CELL_CHARACTERS:
        return [(f"m{index}", text)]
    starts = range(0, len(text), _CELL_CHARACTERS)
    return [(f"m{index}_{part}", text[start : start + _CELL_CHARACTERS]) for part, start in enumerate(starts)]


def packed(rows: Sequence[str]) -> list[list[tuple[str, str]]]:
    """The columns of a batch, in as few rows as can hold them."""
    found: list[list[tuple[str, str]]] = [[]]
    size = 0
    for index, text in enumerate(rows):
        for name, cell in cells_of(index, text):
            size += len(name) + len(cell.encode())
            if len(found[-1]) == _ROW_CELLS or size > ROW_BYTES:
                found.append([])
                size = len(name) + len(cell.encode())
            found[-1].append((name, cell))
    return found


def joined(columns: dict[str, Any]) -> dict[int, str]:
    """The texts that columns hold, by index."""
    cells = []
    for name, cell in columns.items():
        index, _, part = name[1:].partition("_")
        if name.startswith("m") and index.isdecimal():
            cells.append((int(index), int(part or 0), cell))
    texts: dict[int, str] = {}
    for place, _, cell in sorted(cells):
        texts[place] = texts.get(place, "") + cell
    return texts
