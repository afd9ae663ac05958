"""What a message holds, as data for those who do not know this package's tags; ids for what others wrote."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from langchain_histories._values import TAG, encode_value, to_json
from langchain_histories.codec import encode_message

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage


def plain_fields(message: BaseMessage) -> dict[str, Any]:
    """Return the fields of a message as `plain` returns them."""
    data: dict[str, Any] = {name: _untagged(value) for name, value in encode_message(message)["data"].items()}
    return data


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it, texts in place of what it cannot, which is then not told from texts."""
    return _untagged(encode_value(value))


def _untagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    if isinstance(value, dict):
        return _untagged_dict(value)
    return _holdable(value) if isinstance(value, str) else value


def _untagged_dict(value: dict[str, Any]) -> Any:
    tag, content = value.get(TAG), value.get("value")
    if tag is None or tag == "escaped":
        fields: dict[str, Any] = value if tag is None else content  # type: ignore[assignment]  # as the tag says
        return {_holdable(key): _untagged(item) for key, item in fields.items()}
    if tag == "dict":
        return {_as_key(_untagged(key)): _untagged(item) for key, item in content or ()}
    return f"<{content}>" if tag == "object" else _untagged(content)


def _holdable(text: str) -> str:
    """Return a text without surrogates that stand alone, which UTF-8 cannot hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not _is_utf8(text) else text


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_key(key: Any) -> str:
    return key if isinstance(key, str) else str(key)


def derived_id(source: Any) -> str:
    """Return the id of a record that is made of what another program wrote: the same each time."""
    return hashlib.sha256(to_json(encode_value(source)).encode("utf-8", "surrogatepass")).hexdigest()[:32]
