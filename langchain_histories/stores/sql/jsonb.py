"""Records in PostgreSQL's JSONB: the tables of langchain-postgres and of Google's packages, and ours with `jsonb=True`.

JSONB keeps values and not their text; the order of keys is its own. What it would refuse or change is written so that
it comes back equal:

* NUL and lone surrogates. In a record that has any, each of them is written as `␀` (U+2400) and the four hex digits of
  its code, `␀` itself too (`␀2400`), and `meta.escaped` says so: `"␀"`. LangChain reads `␀0000` in the place of a NUL.
  A record without `meta.escaped` is taken as it is, so no text can be mistaken for an escape.
* Floats that it would turn into integers (`1e+22`), and `-0.0`: as `{"lh:type": "float", "value": "1e+22"}`.
* A row that is not JSON at all, which no version of this package writes: as a string.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.dialects import postgresql

from langchain_histories._values import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_BYTES = 2**28 - 1  # of a string in JSONB
_MARK = "␀"
_REFUSED = re.compile("[\0\ud800-\udfff␀]")
_ESCAPE = re.compile("␀([0-9a-f]{4})")
# What only a record with something to escape can have: JSON has NUL and lone surrogates as `\\u0000` and `\\ud83d`.
_SUSPECT = re.compile(r"\\u|-0\.0|\d[eE]\+?\d")


class Shape(NamedTuple):
    """How a table keeps records in JSON.

    Attributes:
        column: The column that makes it such a table.
        read: The text of a record.
        columns: What an insert fills, beside the session.
        values: With what, from the text `u.m` of a record.
    """

    column: str
    read: str
    columns: str
    values: str


# langchain-postgres and langchain-community; one of ours may be called anything.
JSONB = Shape("message", "CAST(message AS text)", "message", "CAST(u.m AS jsonb)")
# langchain-google-alloydb-pg and langchain-google-cloud-sql-pg keep `data` and `type` of a record apart. Its `meta` has
# a place in `data`, where their readers take it for an extra field; a row that is no record, or has a field of such a
# name, is kept whole.
GOOGLE = Shape(
    "data",
    "CAST(COALESCE(CAST(data AS jsonb) -> 'lh:row', jsonb_build_object('type', type,"
    " 'data', CASE WHEN jsonb_typeof(CAST(data AS jsonb)) = 'object' THEN CAST(data AS jsonb) - 'lh:meta'"
    " ELSE CAST(data AS jsonb) END, 'meta', CAST(data AS jsonb) -> 'lh:meta')) AS text)",
    "data, type",
    "CASE WHEN jsonb_typeof(CAST(u.m AS jsonb) -> 'data') = 'object'"
    " AND NOT jsonb_exists_any(CAST(u.m AS jsonb) -> 'data', ARRAY['lh:row', 'lh:meta'])"
    " THEN (CAST(u.m AS jsonb) -> 'data')"
    " || CASE WHEN COALESCE(jsonb_typeof(CAST(u.m AS jsonb) -> 'meta'), 'null') = 'null' THEN CAST('{}' AS jsonb)"
    " ELSE jsonb_build_object('lh:meta', CAST(u.m AS jsonb) -> 'meta') END"
    " ELSE jsonb_build_object('lh:row', CAST(u.m AS jsonb)) END, COALESCE(CAST(u.m AS jsonb) ->> 'type', '')",
)


def shape_of(columns: Mapping[str, Any]) -> Shape | None:
    """How a table with columns of these types keeps records; `None` if it is as text."""
    if isinstance(columns.get("message"), postgresql.JSON):
        return JSONB
    is_google = "message" not in columns and "type" in columns and isinstance(columns.get("data"), postgresql.JSON)
    return GOOGLE if is_google else None


def uuid_text(session_id: str) -> str | None:
    """The UUID as PostgreSQL writes it; `None` if it is none."""
    try:
        return str(uuid.UUID(session_id))
    except ValueError:
        return None


def to_jsonb(row: str) -> str:
    """Return the text of a record as JSONB keeps it."""
    try:
        record = from_json(row)
    except ValueError:
        return json.dumps(row)
    meta = record.get("meta") if isinstance(record, dict) else None
    if not isinstance(meta, dict) or not _SUSPECT.search(row):
        return row
    del record["meta"]
    kept = _mapped(_with_app(record, meta), number=_number)
    escaped = _mapped(kept, text=_escape)
    if escaped != kept:
        kept, meta["escaped"] = escaped, _MARK
    return to_json(_without_app(kept, meta))


def from_jsonb(text: str) -> str:
    """Return the text of a record that `to_jsonb` made."""
    if _MARK not in text:
        return text
    try:
        record = from_json(text)
        if record["meta"].pop("escaped", None) != _MARK:
            return text
        meta = record.pop("meta")
        # Not by `to_json`, which refuses to write two surrogates side by side: these are stored already.
        return json.dumps(_without_app(_mapped(_with_app(record, meta), text=_unescape), meta))
    except (TypeError, KeyError, AttributeError, ValueError, RecursionError):
        return text  # no record, or not ours


def _with_app(record: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
    """What may have any text in it: all of a record without the envelope but for what the application gave."""
    return {**record, "meta": meta.pop("app")} if "app" in meta else record


def _without_app(record: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
    """The record, its envelope whole again."""
    return {**record, "meta": {**meta, "app": record["meta"]} if "meta" in record else meta}


def _same(value: Any) -> Any:
    return value


def _mapped(value: Any, *, text: Callable[[str], str] = _same, number: Callable[[float], Any] = _same) -> Any:
    """The data with other texts, keys too, or other floats."""

    def mapped(value: Any) -> Any:
        match value:
            case str():
                return text(value)
            case float():
                return number(value)
            case list():
                return [mapped(item) for item in value]
            case dict():
                return {text(key): mapped(item) for key, item in value.items()}
            case _:
                return value

    return mapped(value)


def _escape(text: str) -> str:
    return _REFUSED.sub(lambda found: f"{_MARK}{ord(found[0]):04x}", text)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


def _number(number: float) -> Any:
    is_changed = (number == 0 and math.copysign(1, number) < 0) or "e+" in repr(number)
    return {"lh:type": "float", "value": repr(number)} if is_changed else number
