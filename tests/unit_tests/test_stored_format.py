"""The page `docs/stored_format.md` says what the code does."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from langchain_histories import _derived, _listing, _values, codec
from langchain_histories.codec import RecordFormat, Row

PAGE = (Path(__file__).parents[2] / "docs/stored_format.md").read_text()


class Base64:
    """A codec that hides nothing, and tells that it was there."""

    def encode(self, text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    def decode(self, data: str) -> str:
        return base64.b64decode(data).decode()


def rows_of(head: str) -> list[list[str]]:
    """The cells of the table whose head begins so, without backquotes."""
    table = PAGE.split(f"| {head}", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in re.split(r" \| ", line.strip("| "))] for line in table]


def test_the_samples_are_read():
    plain, coded = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (record,) = RecordFormat().decode([Row(plain, "0")], "s")
    assert (record.message.content, record.meta) == ("Riga, please", {"channel": "web"})
    assert (record.id, record.at.year) == ("0f8fad5bd9cb469fa165708677289e27", 2026)
    text = '{"type": "human", "data": {"content": "hidden"}, "meta": {"app": {"n": 1}}}'
    coded = coded.replace("<what the codec made of the text>", Base64().encode(text))
    (record,) = RecordFormat(codec=Base64()).decode([Row(coded, "0")], "s")
    assert (record.message.content, record.meta) == ("hidden", {"n": 1})


def test_the_table_of_tags_is_that_of_the_code():
    (table,) = re.findall(r"(\| `lh:type` \| `value`.*?)\n\n", PAGE, re.DOTALL)
    assert table in _values.__doc__


def test_the_keys_are_those_of_the_code():
    keys = [key for cells in rows_of("key of `meta`") for key in cells[0].split(", ")]
    described = re.findall(r"^\* `meta\.(\w+)`", codec.__doc__, re.MULTILINE)
    assert keys == described
    of_states = [key for cells in rows_of("key | what lies there") for key in cells[0].split(", ")]
    wanted = {value for room in (_derived, _listing) for name, value in vars(room).items() if name.endswith("_KEY")}
    assert {*of_states} == wanted
