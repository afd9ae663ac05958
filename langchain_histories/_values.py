"""Values in messages and states, as JSON can hold them: a part of the public format of records (see `codec`).

What JSON cannot hold is stored as an object with the key `lh:type`:

| `lh:type` | `value` | restored as |
|---|---|---|
| `bytes` | base64 text | `bytes` |
| `float` | `"nan"`, `"inf"` or `"-inf"` | `float` |
| `datetime`, `date`, `time` | ISO 8601 text | `datetime.datetime`, `datetime.date`, `datetime.time` |
| `timedelta` | array of days, seconds and microseconds | `datetime.timedelta` |
| `decimal` | decimal text | `decimal.Decimal` |
| `uuid` | text | `uuid.UUID` |
| `tuple`, `set`, `frozenset` | array | the same |
| `dict` | array of `[key, value]` pairs | a `dict` with keys that are not strings |
| `document` | `{"page_content", "metadata", "id"}` | LangChain's `Document` |
| `escaped` | the object | a user's own object that has the key `lh:type` |
| `object` | name of its class, as text | itself: the object could not be kept, only its description |

Some values are stored as what they mean: an enum as its value, a path and a subclass of `str` as text, NumPy's scalars
and other numbers as `int` or `float`, pydantic models and dataclasses as plain objects of their fields. An object that
cannot be kept and is a key of a dict or a member of a set becomes the text `lh:object <name of its class>`, because the
description above cannot be a key.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import json
import logging
import math
import numbers
import pathlib
import re
import uuid
from typing import TYPE_CHECKING, Any

import pydantic_core
from langchain_core.documents import Document
from pydantic import BaseModel

from langchain_histories.errors import InvalidMessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

logger = logging.getLogger(__name__)

TAG = "lh:type"
_MAX_DEPTH = 200
"""Levels of JSON. A reader takes two frames for each, of the thousand that Python allows."""
_MAX_INT_BITS = 14_000  # Python reads integers of up to 4,300 digits from text


def encode_value(value: Any, *, strict: bool = False) -> Any:
    """Return `value` as data that JSON can hold, with tags where needed.

    Args:
        value: Anything.
        strict: Refuse an object that cannot be kept, in place of a description of its type.

    Raises:
        InvalidMessageError: `value` contains itself, or is nested too deeply; or `strict`, and it contains an object
            that cannot be kept.
    """
    return _encode(value, strict, ())


def _encode(value: Any, strict: bool, path: tuple[int, ...]) -> Any:  # noqa: C901, PLR0911  # the fast cases, in a row
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is float:
        return value if math.isfinite(value) else {TAG: "float", "value": str(value)}
    if kind is int and value.bit_length() < _MAX_INT_BITS:
        return value
    if (kind is dict or kind is list) and not value:
        return value
    if len(path) >= _MAX_DEPTH:
        raise InvalidMessageError(f"A value is nested more than {_MAX_DEPTH} levels deep. Store less of it.")
    if id(value) in path:
        raise InvalidMessageError(f"A value of type {_name(kind)} contains itself. Remove the cycle.")
    path = (*path, id(value))
    if kind is dict:
        return _encode_dict(value.items(), strict, path)
    if kind is list:
        return [_encode(item, strict, path) for item in value]
    try:
        return _encode_other(value, kind, strict, path)
    except InvalidMessageError:
        raise
    except Exception:  # noqa: BLE001  # the value's own code can raise anything
        return _describe(kind, strict)


def _encode_dict(items: Iterable[tuple[Any, Any]], strict: bool, path: tuple[int, ...]) -> dict[str, Any]:
    items = list(items)
    if not all(issubclass(type(key), str) for key, _ in items):
        # An array of pairs in an object: two levels more.
        deeper = (*path, 0, 0)
        keys = _encode_unique([key for key, _ in items], strict, deeper)
        pairs = [[key, _encode(item, strict, deeper)] for key, (_, item) in zip(keys, items, strict=True)]
        return {TAG: "dict", "value": pairs}
    keys = [key if type(key) is str else str.__str__(key) for key, _ in items]
    if len(set(keys)) < len(keys):  # texts of a class with an equality of its own
        keys = _encode_unique(keys, strict, path)
    is_escaped = TAG in keys
    deeper = (*path, 0) if is_escaped else path
    plain = {key: _encode(item, strict, deeper) for key, (_, item) in zip(keys, items, strict=True)}
    return {TAG: "escaped", "value": plain} if is_escaped else plain


def _encode_unique(values: list[Any], strict: bool, path: tuple[int, ...]) -> list[Any]:
    """Encode the keys of a dict or the members of a set: restored, they can be hashed, and are as many."""
    encoded = []
    seen: set[Any] = set()
    for value in values:
        stored = _encode(value, strict, path)
        try:
            restored = decode_value(stored)
            is_new = restored not in seen
            seen.add(restored)
        except Exception:  # noqa: BLE001  # a hash or an equality can raise anything
            is_new = False
        if not is_new:
            _describe(type(value), strict)
            stored = name = f"lh:object {_name(type(value))}"
            number = 1
            while stored in seen:
                number += 1
                stored = f"{name} {number}"
            seen.add(stored)
        encoded.append(stored)
    return encoded


def _encode_other(value: Any, kind: type, strict: bool, path: tuple[int, ...]) -> Any:  # noqa: C901, PLR0911, PLR0912  # a table
    """Encode the rarer types, by their class and not by what `isinstance` is told.

    The order of the cases matters: a `datetime` is a `date`, and NumPy's `float64` a `float`.
    """

    def is_a(*classes: type) -> bool:
        return issubclass(kind, classes)

    if is_a(enum.Enum) and not is_a(str, int, float):
        return _encode(value.value, strict, path)
    if is_a(str):
        return str.__str__(value)
    if is_a(int):
        number = int.__int__(value)
        return number if number.bit_length() < _MAX_INT_BITS else _describe(kind, strict)
    if is_a(float):
        return _encode(float.__float__(value), strict, path)
    if is_a(bytes, bytearray, memoryview):
        data = value.tobytes() if is_a(memoryview) else value
        return _restorable("bytes", base64.b64encode(data).decode("ascii"))
    for name, time_type in (("datetime", dt.datetime), ("date", dt.date), ("time", dt.time)):
        if is_a(time_type):
            # Pandas' NaT is a `datetime`, and only its own text says that it is none.
            time_type.fromisoformat(value.isoformat())
            return _restorable(name, time_type.isoformat(value))
    if is_a(dt.timedelta):
        return _restorable("timedelta", [value.days, value.seconds, value.microseconds])
    if is_a(decimal.Decimal):
        return _restorable("decimal", decimal.Decimal.__str__(value))
    if is_a(uuid.UUID):
        return _restorable("uuid", uuid.UUID.__str__(value))
    if is_a(dict):
        return _encode_dict(dict.items(value), strict, path)
    if is_a(list):
        return [_encode(item, strict, path) for item in list.__iter__(value)]
    deeper = (*path, 0)  # an array in an object
    if is_a(tuple):
        return {TAG: "tuple", "value": [_encode(item, strict, deeper) for item in tuple.__iter__(value)]}
    for name, set_type in (("set", set), ("frozenset", frozenset)):
        if is_a(set_type):
            return {TAG: name, "value": _encode_unique(list(set_type.__iter__(value)), strict, deeper)}
    if is_a(Document):
        fields = {"page_content": value.page_content, "metadata": value.metadata, "id": value.id}
        return _restorable("document", _encode(fields, strict, deeper))
    if is_a(BaseModel):
        return _encode_dict({**value.__dict__, **(value.__pydantic_extra__ or {})}.items(), strict, path)
    if dataclasses.is_dataclass(kind):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _encode_dict(fields.items(), strict, path)
    if is_a(pathlib.PurePath):
        return pathlib.PurePath.__str__(value)
    if any((base.__module__, base.__name__) == ("numpy", "generic") for base in kind.__mro__):
        return _encode_numpy(value, kind, strict, path)
    if is_a(numbers.Integral):
        return _encode(int(value), strict, path)
    if is_a(numbers.Real):
        return _encode(float(value), strict, path)
    return _describe(kind, strict)


def _encode_numpy(value: Any, kind: type, strict: bool, path: tuple[int, ...]) -> Any:
    """Encode a scalar of NumPy. A moment or duration in nanoseconds is a plain number to Python, so it is described."""
    plain = value.item()
    is_time = kind.__name__ in ("datetime64", "timedelta64")
    if type(plain) is kind or (is_time and type(plain) is int):
        return _describe(kind, strict)
    return _encode(plain, strict, path)


def _restorable(tag: str, content: Any) -> dict[str, Any]:
    """Tag what a value says of itself, unless a reader could not restore it."""
    _RESTORE[tag](content)
    return {TAG: tag, "value": content}


def _describe(kind: type, strict: bool) -> dict[str, str]:
    name = _name(kind)
    if strict:
        raise InvalidMessageError(
            f"A value of type {name} cannot be stored as JSON. Remove it, or leave on_unserializable='describe'."
        )
    logger.warning("A value of type %s cannot be stored as JSON: a description of its type is kept instead.", name)
    return {TAG: "object", "value": name}


def _name(kind: type) -> str:
    """The full name of a class, also of one whose metaclass answers oddly."""
    module, name = (type.__getattribute__(kind, attribute) for attribute in ("__module__", "__qualname__"))
    return f"{module}.{name}".encode("utf-8", "replace").decode()


_RESTORE: dict[str, Callable[[Any], Any]] = {
    "bytes": lambda value: base64.b64decode(value, validate=True),
    "float": float,
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "time": dt.time.fromisoformat,
    "timedelta": lambda value: dt.timedelta(*value),
    "decimal": decimal.Decimal,
    "uuid": uuid.UUID,
    "tuple": lambda value: tuple(map(decode_value, value)),
    "set": lambda value: set(map(decode_value, value)),
    "frozenset": lambda value: frozenset(map(decode_value, value)),
    "dict": lambda value: {decode_value(key): decode_value(item) for key, item in value},
    "document": lambda value: Document(**decode_value(value)),
    "escaped": lambda value: {key: decode_value(item) for key, item in value.items()},
    "object": lambda value: {TAG: "object", "value": value},
}


def decode_value(value: Any) -> Any:
    """Restore what `encode_value` tagged.

    Raises:
        Exception: Of any kind, for data that `encode_value` did not make.
    """
    if isinstance(value, list):
        return [decode_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    if TAG in value:
        return _RESTORE[value[TAG]](value["value"])
    return {key: decode_value(item) for key, item in value.items()}


def to_json(data: Any) -> str:
    """JSON text in UTF-8, not escapes, unless a lone surrogate cannot be UTF-8.

    Raises:
        InvalidMessageError: A text has two surrogates side by side, which a reader would take for one character.
    """
    try:
        return pydantic_core.to_json(data).decode()
    except ValueError:
        # The fast writer refuses lone surrogates and deep nesting, which Python's accepts.
        if re.search("[\ud800-\udbff][\udc00-\udfff]", json.dumps(data, ensure_ascii=False)):
            raise InvalidMessageError(
                "A text has the two halves of a surrogate pair as two characters, which JSON cannot hold. Join them: "
                "text.encode('utf-16', 'surrogatepass').decode('utf-16')."
            ) from None
        return json.dumps(data, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """Read JSON text.

    Raises:
        ValueError: It is not JSON, or nested too deeply.
    """
    try:
        return pydantic_core.from_json(text)
    except ValueError:
        # The fast parser refuses lone surrogates, which Python's accepts.
        try:
            return json.loads(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None
