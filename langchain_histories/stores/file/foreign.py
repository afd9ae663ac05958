"""Files that are not in our form: any other JSON array of records, such as LangChain's, or a pretty-printed one.

The first append replaces such a file by a new one in our form, where LangChain's records keep their offsets.
"""

from __future__ import annotations

import functools
import itertools
import json
import operator
import re
from typing import TYPE_CHECKING, Any

import pydantic_core

from langchain_histories._values import TAG
from langchain_histories.stores.base import ParsedRow
from langchain_histories.stores.file.format import Line

if TYPE_CHECKING:
    from langchain_histories.stores.base import Row

_LINE_ENDS = re.compile(rb"[\r\n]+\s*")
_HEAD = re.compile(r"\ufeff?\s*\[\s*")
_EMPTY = re.compile(r"\ufeff?\s*(\[\s*\]\s*)?\Z")
_COMMA = re.compile(r"\s*,\s*")
_END = re.compile(r"\s*\]\s*\Z")


def foreign_lines(data: bytes, encoding: str) -> list[Line]:
    """Return the records of a JSON array in any form, each on one line.

    Raises:
        ValueError: It is not an array of records.
    """
    text = data.decode(encoding, "surrogateescape")
    lines: list[Line] = []
    if _EMPTY.match(text):
        return lines
    head = _HEAD.match(text)
    if head is None:
        raise ValueError
    # Nobody needs the values here, and Python reads no number of more than 4,300 digits.
    decoder = json.JSONDecoder(parse_int=str)
    start, offset = head.end(), len(_encoded(head[0], encoding))
    while True:
        value, end = decoder.raw_decode(text, start)
        if not lines:
            _check_first(value)
        piece = _encoded(text[start:end], encoding)
        if b"\n" in piece or b"\r" in piece:
            # JSON allows line ends between the parts of a record, never in its strings.
            lines.append(Line(offset, _LINE_ENDS.sub(b"", piece)))
        else:
            lines.append(Line(offset, piece))
        if _END.match(text, end):
            return lines
        comma = _COMMA.match(text, end)
        if comma is None:
            raise ValueError
        start = comma.end()
        offset += len(piece) + len(comma[0])


def _check_first(value: object) -> None:
    """Refuse an array that does not begin with a record.

    Raises:
        ValueError: It does not.
    """
    if not (isinstance(value, dict) and {"type", "data"} <= value.keys()):
        raise ValueError


def _encoded(text: str, encoding: str) -> bytes:
    return text.encode(encoding, "surrogateescape")


class ForeignRecords:
    """The records of a file in UTF-8, all read at once, as messages need them: where each is, is found when asked for.

    Attributes:
        payloads: What their JSON says.
        may_have_tags: Whether there may be a tag for what JSON cannot hold.

    Raises:
        ValueError: It is not an array of records, or `foreign_lines` alone can tell.
    """

    def __init__(self, data: bytes) -> None:
        """Read the content of the file."""
        self._data = data
        self.payloads: list[Any] = pydantic_core.from_json(data)
        if type(self.payloads) is not list:
            raise ValueError
        if self.payloads:
            _check_first(self.payloads[0])
        self.may_have_tags = TAG.encode() in data

    @functools.cached_property
    def lines(self) -> list[Line]:
        """The records as the file holds them. There are as many, because JSON can be read in one way only."""
        return foreign_lines(self._data, "utf-8")

    def rows(self) -> list[Row]:
        """The records as rows."""
        places = zip(itertools.repeat(self), range(len(self.payloads)))
        return list(map(_ForeignRow._make, zip(self.payloads, places, strict=False)))


class _ForeignRow(ParsedRow):
    """A record: what its JSON says, and its place, which is the records of its file and its number among them."""

    __slots__ = ()

    payload = property(operator.itemgetter(0))

    @property
    def may_have_tags(self) -> bool:
        records, _ = self._place
        return records.may_have_tags

    @property
    def text(self) -> bytes:
        records, number = self._place
        return records.lines[number].text

    @property
    def position(self) -> str:
        records, number = self._place
        return records.lines[number].position

    @property
    def _place(self) -> tuple[ForeignRecords, int]:
        place: Any = self[1]
        return place  # type: ignore[no-any-return]
