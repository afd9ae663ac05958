"""Records as values of DynamoDB, in the form that LangChain's class stores in the list of a session.

Messages of LlamaIndex's class in such a list are as they are: the format of records reads them.
"""

from __future__ import annotations

import json
from typing import Any

from langchain_histories._values import from_json

_JSON = "lh:json"
_MAX_DEPTH = 28  # DynamoDB nests 32 deep; the list and the map of the record are two of them
_MAX_DIGITS = 38


def to_value(text: str) -> dict[str, Any]:
    """Return a record as a map of LangChain's form, with its JSON text beside it if DynamoDB would change a value."""
    try:
        record = from_json(text)
    except ValueError:
        return {"S": text}
    if not isinstance(record, dict):
        return {"S": text}
    value = _value(record) if _depth(record) <= _MAX_DEPTH else _value({"type": record.get("type")})
    if json.dumps(_plain(value), sort_keys=True) != json.dumps(record, sort_keys=True):
        value["M"][_JSON] = {"S": text}
    return value


def to_text(value: dict[str, Any]) -> str:
    """Return the JSON text of a record: always the same for the same value."""
    if "S" in value:
        return str(value["S"])
    if "M" in value and _JSON in value["M"]:
        return str(value["M"][_JSON].get("S", ""))
    return json.dumps(_plain(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _value(data: Any) -> dict[str, Any]:
    match data:
        case None:
            return {"NULL": True}
        case bool():
            return {"BOOL": data}
        case int() | float():
            # DynamoDB keeps no `.0`.
            number = str(int(data)) if data == int(data) else repr(data)
            exact = sum(map(str.isdecimal, number)) <= _MAX_DIGITS and (data == 0 or abs(data) > 1e-120)  # noqa: PLR2004
            return {"N": number} if exact else {"S": number}
        case str():
            return {"S": data.encode("utf-8", "replace").decode()}
        case list():
            return {"L": [_value(item) for item in data]}
        case _:
            return {"M": {_name(key): _value(item) for key, item in data.items()}}


def _name(key: str) -> str:
    return key.encode("utf-8", "replace").decode() or "?"


def _plain(value: dict[str, Any]) -> Any:  # noqa: PLR0911
    ((kind, data),) = value.items()
    match kind:
        case "NULL":
            return None
        case "N":
            return int(data) if data.lstrip("-").isdecimal() else float(data)
        case "L":
            return [_plain(item) for item in data]
        case "M":
            return {key: _plain(item) for key, item in data.items()}
        case "SS" | "BS" | "NS":
            return [_plain({kind[0]: item}) for item in data]
        case "B":
            return data.decode("utf-8", "replace")
        case _:
            return data


def _depth(data: Any) -> int:
    """How deep lists and dicts are nested; at most as deep as JSON's own reader goes."""
    if isinstance(data, dict):
        data = list(data.values())
    return 1 + max(map(_depth, data), default=0) if isinstance(data, list) else 0
