"""Texts that may stand where a record or a state is expected, though this package did not write them.

Another program may have written them, another release, or nobody: a disk, a cut connection, an editor.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_histories.testing.odd_objects import TEXTS

if TYPE_CHECKING:
    import random

_TAGS = [
    *("bytes", "float", "datetime", "date", "time", "timedelta", "decimal", "uuid", "tuple", "set", "frozenset"),
    *("dict", "document", "escaped", "object", "unknown", "", None, 5, ["dict"]),
]
_SCALARS: list[Any] = [None, True, 0, -1, 1, 10**30, 10**4000, 0.5, 1e308, "x", "abc", "9999-99-99", [], {}, *TEXTS]
_TYPES: list[Any] = [
    *("human", "ai", "system", "tool", "function", "chat", "remove", "lh:encoded", "alien", "", None, 5, [], {}),
]

RECORDS = [
    "",
    "null",
    "{}",
    "5",
    '"text"',
    "[[1], {}]",
    "not json",
    '{"type": "human", "data": {"content": "cut',
    '{"type": "human", "data": null}',
    '{"type": "human", "data": {"content": "x"}, "meta": {}}',
    '{"type": "human", "data": {"content": "x"}, "meta": 5}',
    '{"type": "human", "data": {"content": "x"}, "meta": {"v": "1", "id": "i"}}',
    '{"type": "human", "data": {"content": "x"}, "meta": {"v": 1, "id": [1], "at": []}}',
    '{"type": "human", "data": {"content": "x"}, "meta": {"v": 1e300, "id": "k"}}',
    '{"type": "human", "data": {"content": "x", "artifact": {"lh:type": "decimal", "value": "abc"}}}',
    '{"type": "tool", "data": {"content": "x", "tool_call_id": "1", "artifact": {"lh:type": "uuid", "value": 5}}}',
    '{"type": "ai", "data": {"content": "x", "additional_kwargs": {"lh:type": "set", "value": [[]]}}}',
    '{"type": "lh:encoded", "data": 5, "meta": {"v": 1, "id": "j"}}',
]
"""Records that cannot be read, each for a reason of its own, but for those that LangChain's classes would take."""

NOT_EVERYWHERE = ["[" * 20_000, "NaN", '{"type": "human", "data": {"content": "\x00"}}']
"""The same, for services that take any text."""

STATES = [
    "not json",
    "[]",
    "[" * 20_000,
    "5",
    '{"lh:encoded": 5}',
    '{"a": [{"lh:type": "decimal", "value": "abc"}]}',
]
"""States that cannot be read."""


def odd_json(chance: random.Random, depth: int = 3) -> Any:
    """Return data as JSON has it, with keys and values of the package's own format among others."""
    kind = chance.randrange(8) if depth else 0
    if kind < 3:
        return chance.choice(_SCALARS)
    if kind == 3:
        return [odd_json(chance, depth - 1) for _ in range(chance.randrange(3))]
    if kind in (4, 5):
        return {chance.choice(TEXTS): odd_json(chance, depth - 1) for _ in range(chance.randrange(3))}
    return {"lh:type": chance.choice(_TAGS), "value": odd_json(chance, depth - 1)}


def odd_record(chance: random.Random) -> str:
    """Return the text of something like a record."""
    kind = chance.randrange(8)
    if kind == 0:
        return json.dumps(odd_json(chance))
    data = {"content": odd_json(chance, 1) if kind == 1 else "x", "additional_kwargs": {"a": odd_json(chance)}}
    data |= {chance.choice(["id", "name", "tool_calls", "artifact", "type", "content_blocks"]): odd_json(chance)}
    meta = {"v": 1, "id": f"{chance.getrandbits(128):032x}", "at": "2026-01-01T00:00:00Z"}
    meta |= {chance.choice(["v", "id", "at", "n", "escaped"]): odd_json(chance, 1)} if kind == 2 else {}
    record = {"type": chance.choice(_TYPES), "data": data if kind > 3 else odd_json(chance), "meta": meta}
    if kind > 5:
        del record[chance.choice(["type", "data", "meta"])]
    text = json.dumps(record)
    return text[: chance.randrange(len(text))] if kind == 3 else text
