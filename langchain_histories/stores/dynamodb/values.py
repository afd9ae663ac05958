"""Records as values of DynamoDB, in the form that LangChain's class stores in the list of a session.

Messages of LlamaIndex's class in such a list are read too. That class does not understand ours.
"""

from __future__ import annotations

import json
from typing import Any

from langchain_histories._values import from_json

_JSON = "lh:json"
_MAX_DEPTH = 28  # DynamoDB nests 32 deep; the list and the map of the record are two of them
_MAX_DIGITS = 38
_ROLES = {"user": "human", "assistant": "ai", "system": "system", "tool": "tool"}


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
    return json.dumps(_from_llama_index(_plain(value)), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _from_llama_index(record: Any) -> Any:
    """Return a message of LlamaIndex in LangChain's form if it is text and tool calls; all else as it is."""
    match record:
        case {"role": str(role), "blocks": list(blocks), "additional_kwargs": dict(more)} if role in _ROLES:
            kinds = {str(block.get("block_type")) if isinstance(block, dict) else None for block in blocks}
        case _:
            return record
    if not kinds <= ({"text", "tool_call"} if role == "assistant" else {"text"}):
        return record
    # LlamaIndex joins texts in this way.
    data: dict[str, Any] = {"content": "\n".join(str(block["text"]) for block in blocks if "text" in block)}
    if "tool_call" in kinds:
        names = {"name": "tool_name", "args": "tool_kwargs", "id": "tool_call_id"}
        calls = [block for block in blocks if block["block_type"] == "tool_call"]
        data["tool_calls"] = [{ours: call.get(theirs) for ours, theirs in names.items()} for call in calls]
    if role == "tool":
        data["tool_call_id"] = more.get("tool_call_id", "")
    return {"type": _ROLES[role], "data": {**data, "additional_kwargs": more}}


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
