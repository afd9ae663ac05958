"""The stored form of a message: a public format.

A record is the JSON text of LangChain's `message_to_dict(message)` with one more top-level key:

    {"type": "human", "data": {...}, "meta": {"v": 1, "id": "<32 hex digits>", "at": "2026-11-21T20:00:00.123456Z"}}

* `meta.v`: version of the format. A record of a higher version is refused, never skipped.
* `meta.id`: unique for each stored record (a random UUID).
* `meta.at`: when it was added, in UTC. It is information; order never depends on it.

LangChain's readers ignore `meta`, and a record without it, as LangChain's classes write it, is read all the same.

What JSON cannot hold is stored as an object with the key `lh:type`:

| `lh:type` | `value` | restored as |
|---|---|---|
| `bytes` | base64 text | `bytes` |
| `float` | `"nan"`, `"inf"` or `"-inf"` | `float` |
| `datetime`, `date`, `time` | ISO 8601 text | `datetime.datetime`, `datetime.date`, `datetime.time` |
| `decimal` | decimal text | `decimal.Decimal` |
| `uuid` | text | `uuid.UUID` |
| `tuple`, `set`, `frozenset` | array | the same |
| `dict` | array of `[key, value]` pairs | a `dict` with keys that are not strings |
| `document` | `{"page_content", "metadata", "id"}` | LangChain's `Document` |
| `escaped` | the object | a user's own object that has the key `lh:type` |
| `object` | name of its class, as text | itself: the object could not be kept, only its description |

Pydantic models and dataclasses become plain objects of their fields, as in LangChain's own stored form.

With a `Codec` a record is `{"type": "lh:encoded", "data": "<what the codec made of the JSON text>", "meta": {...}}`.
Nothing is ever unpickled or imported by name from stored data.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import hashlib
import json
import logging
import math
import os
import uuid
import zlib
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import pydantic_core
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    BaseMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    message_chunk_to_message,
    messages_from_dict,
)
from pydantic import BaseModel

from langchain_histories.errors import CorruptRecordError, InvalidMessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_histories._session_ids import SessionId

T = TypeVar("T")

logger = logging.getLogger(__name__)

VERSION = 1
_TAG = "lh:type"
_TAG_BYTES = _TAG.encode()
_ENCODED = "lh:encoded"
_MAX_DEPTH = 200
_MAX_INT_BITS = 14_000  # Python reads integers of up to 4,300 digits from text

_TYPES: dict[str, type[BaseMessage]] = {
    "human": HumanMessage,
    "ai": AIMessage,
    "system": SystemMessage,
    "tool": ToolMessage,
    "function": FunctionMessage,
    "chat": ChatMessage,
    "remove": RemoveMessage,
}
# Their constructors only pass the fields on to the validator, so it can be called alone, which halves a read.
_VALIDATORS = {
    name: (_TYPES[name], _TYPES[name].__pydantic_validator__.validate_python)
    for name in ("human", "ai", "system", "tool")
}


def now() -> dt.datetime:
    """The current time in UTC, for `meta.at`."""
    return dt.datetime.now(dt.UTC)


class Codec(Protocol):
    """Transforms the text of each record and state on its way to the store: encryption, compression.

    It must be safe to use from several threads. `decode` raises any exception for text it cannot decode.
    """

    def encode(self, text: str) -> str:
        """Return what to store for `text`."""

    def decode(self, text: str) -> str:
        """Return the text that was given to `encode`."""


class Row(NamedTuple):
    """One record as a store reads it."""

    text: str | bytes
    position: str


class CheckedRow(Row):
    """A row whose position is `<number>-<crc32 of the text>`, computed only when a reader asks for it."""

    __slots__ = ()

    @property
    def position(self) -> str:
        """The number and the checksum."""
        text = self.text.encode() if isinstance(self.text, str) else self.text
        return f"{self[1]}-{zlib.crc32(text):08x}"


class Record(NamedTuple):
    """One stored message with its envelope.

    Attributes:
        message: The message.
        position: Opaque token of its place in the session, for `after=`.
        id: Identifier of the record, for `delete`. Of a record that LangChain's classes wrote it is derived from
            position and content.
        at: When it was added, in UTC; `None` for a record that LangChain's classes wrote.
    """

    message: BaseMessage
    position: str
    id: str
    at: dt.datetime | None


def encode_value(value: Any, *, strict: bool = False) -> Any:
    """Return `value` as data that JSON can hold, with tags where needed.

    Args:
        value: Anything.
        strict: Refuse an object that cannot be kept, in place of a description of its type.

    Raises:
        InvalidMessageError: `strict`, and `value` contains such an object.
    """
    return _encode(value, strict, ())


def _encode(value: Any, strict: bool, path: tuple[int, ...]) -> Any:  # noqa: PLR0911  # the fast cases, in a row
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is float:
        return value if math.isfinite(value) else {_TAG: "float", "value": str(value)}
    if kind is int and value.bit_length() < _MAX_INT_BITS:
        return value
    if not value and (kind is dict or kind is list):
        return value
    if id(value) in path or len(path) > _MAX_DEPTH:
        return _describe(value, strict)
    path = (*path, id(value))
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            pairs = [[_encode(k, strict, path), _encode(v, strict, path)] for k, v in value.items()]
            return {_TAG: "dict", "value": pairs}
        plain = {str.__str__(key): _encode(item, strict, path) for key, item in value.items()}
        return {_TAG: "escaped", "value": plain} if _TAG in plain else plain
    if kind is list:
        return [_encode(item, strict, path) for item in value]
    return _encode_other(value, strict, path)


def _encode_other(value: Any, strict: bool, path: tuple[int, ...]) -> Any:  # noqa: C901, PLR0911, PLR0912  # a table
    """Encode the rarer types; the order of the cases matters (a `datetime` is a `date`)."""

    def tagged(tag: str, content: Any) -> dict[str, Any]:
        return {_TAG: tag, "value": content}

    def items() -> list[Any]:
        return [_encode(item, strict, path) for item in value]

    match value:
        case str():
            return str.__str__(value)
        case float():
            return _encode(float(value), strict, path)
        case int() if value.bit_length() < _MAX_INT_BITS:
            return int(value)
        case bytes() | bytearray() | memoryview():
            return tagged("bytes", base64.b64encode(value).decode("ascii"))
        case dt.datetime():
            return tagged("datetime", value.isoformat())
        case dt.date():
            return tagged("date", value.isoformat())
        case dt.time():
            return tagged("time", value.isoformat())
        case decimal.Decimal():
            return tagged("decimal", str(value))
        case uuid.UUID():
            return tagged("uuid", str(value))
        case tuple():
            return tagged("tuple", items())
        case frozenset():
            return tagged("frozenset", items())
        case set():
            return tagged("set", items())
        case list():
            return items()
        case Document():
            fields = {"page_content": value.page_content, "metadata": value.metadata, "id": value.id}
            return tagged("document", _encode(fields, strict, path))
        case BaseModel():
            return _encode({**dict(value), **(value.model_extra or {})}, strict, path)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return _encode(fields, strict, path)
        case _:
            return _describe(value, strict)


def _describe(value: Any, strict: bool) -> dict[str, str]:
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if strict:
        raise InvalidMessageError(
            f"A value of type {name} cannot be stored as JSON. Remove it, or leave on_unserializable='describe'."
        )
    logger.warning("A value of type %s cannot be stored as JSON: a description of its type is kept instead.", name)
    return {_TAG: "object", "value": name}


_RESTORE: dict[str, Callable[[Any], Any]] = {
    "bytes": base64.b64decode,
    "float": float,
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "time": dt.time.fromisoformat,
    "decimal": decimal.Decimal,
    "uuid": uuid.UUID,
    "tuple": lambda value: tuple(map(decode_value, value)),
    "set": lambda value: set(map(decode_value, value)),
    "frozenset": lambda value: frozenset(map(decode_value, value)),
    "dict": lambda value: {decode_value(key): decode_value(item) for key, item in value},
    "document": lambda value: Document(**decode_value(value)),
    "escaped": lambda value: {key: decode_value(item) for key, item in value.items()},
    "object": lambda value: {_TAG: "object", "value": value},
}


def decode_value(value: Any) -> Any:
    """Restore what `encode_value` tagged.

    Raises:
        KeyError: The tag is unknown.
    """
    if isinstance(value, list):
        return [decode_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _TAG in value:
        return _RESTORE[value[_TAG]](value["value"])
    return {key: decode_value(item) for key, item in value.items()}


def to_json(data: Any) -> str:
    """JSON text in UTF-8, not escapes, unless a lone surrogate cannot be UTF-8."""
    try:
        return pydantic_core.to_json(data).decode()
    except ValueError:
        # The fast writer refuses lone surrogates and deep nesting, which Python's accepts.
        return json.dumps(data, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """Read JSON text.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return pydantic_core.from_json(text)
    except ValueError:
        # The fast parser refuses lone surrogates, which Python's accepts.
        return json.loads(text)


def _stored_type(message: BaseMessage) -> tuple[str, dict[str, Any]]:
    """The type a message is stored as, with the fields that this adds; unknown classes become their known base."""
    if message.type in _TYPES:
        return message.type, {}
    for name, known in _TYPES.items():
        if isinstance(message, known):
            return name, {"type": name}
    return "chat", {"type": "chat", "role": message.type}


def encode_message(message: BaseMessage, *, strict: bool = False) -> dict[str, Any]:
    """Return `message` as `{"type", "data"}`, LangChain's form with tags for what JSON cannot hold.

    A chunk is stored as the whole message it stands for.

    Raises:
        InvalidMessageError: It is not a message, or `strict` refuses a value in it.
    """
    if not isinstance(message, BaseMessage):
        raise InvalidMessageError(
            f"A history stores messages (langchain_core.messages.BaseMessage), not {type(message).__name__}."
        )
    if isinstance(message, BaseMessageChunk):
        message = message_chunk_to_message(message)
    kind, changes = _stored_type(message)
    # The fields themselves and not `model_dump()`: that would turn documents and dataclasses into dicts. And not
    # `dict(message)`, which says the same three times slower.
    fields = {**message.__dict__, **(message.__pydantic_extra__ or {}), **changes}
    data = {
        name: value if value is None or type(value) is str else _encode(value, strict, ())
        for name, value in fields.items()
        if name[0] != "_"
    }
    return {"type": kind, "data": data}


def decode_message(payload: dict[str, Any]) -> BaseMessage:
    """Build the message of `{"type", "data"}`, its tags restored, with LangChain's own validators.

    Raises:
        ValueError: The type is unknown or a field is not valid.
        KeyError: A key is missing.
    """
    data = payload["data"]
    known = _VALIDATORS.get(payload["type"])
    if known is None or "content_blocks" in data:
        return messages_from_dict([{"type": payload["type"], "data": data}])[0]
    cls, validate = known
    message = cls.__new__(cls)
    validate(data, self_instance=message)
    return message


@dataclasses.dataclass(frozen=True)
class RecordFormat:
    """How one store writes and reads its records.

    Attributes:
        codec: Applied to the text of each record and state.
        before_save: Called with each message before it is stored; returns the message to store, or `None` for none.
        on_unserializable: What to do about an object that cannot be kept: describe its type, or raise.
        on_corrupt: What to do about a record that cannot be read: raise, or skip it with a warning.
    """

    codec: Codec | None = None
    before_save: Callable[[BaseMessage], BaseMessage | None] | None = None
    on_unserializable: Literal["describe", "raise"] = "describe"
    on_corrupt: Literal["raise", "skip"] = "raise"

    def encode(self, messages: Sequence[BaseMessage]) -> tuple[list[str], list[str]]:
        """Return the ids and the texts of one batch.

        Raises:
            InvalidMessageError: Something in it is not a message, or cannot be stored.
        """
        strict = self.on_unserializable == "raise"
        payloads = []
        for message in messages:
            kept: Any = message
            if self.before_save is not None and isinstance(message, BaseMessage):
                if isinstance(message, BaseMessageChunk):
                    kept = message_chunk_to_message(message)
                kept = self.before_save(kept)
                if kept is None:
                    continue
            payloads.append(encode_message(kept, strict=strict))
        at = now().isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"
        ids = _new_ids(len(payloads))
        texts: list[str] = []
        for payload, record_id in zip(payloads, ids, strict=True):
            meta: dict[str, Any] = {"v": VERSION, "id": record_id, "at": at}
            if self.codec is not None:
                payload = {"type": _ENCODED, "data": self.codec.encode(to_json(payload))}  # noqa: PLW2901
            payload["meta"] = meta
            texts.append(to_json(payload))
        return ids, texts

    def decode(self, rows: Sequence[Row], session_id: SessionId) -> list[Record]:
        """Return the records of `rows`, each id once.

        A driver's retry can store a batch twice: the later copy is the one that counts.

        Raises:
            CorruptRecordError: A record cannot be read.
        """
        return self._decode(rows, session_id, _record)

    def decode_messages(self, rows: Sequence[Row], session_id: SessionId) -> list[BaseMessage]:
        """Return the messages of `decode`, a fifth faster."""
        return self._decode(rows, session_id, lambda message, *_: message)

    def record_id(self, row: Row) -> str:
        """Return the id of a record without building its message.

        A row that is no record has a derived id, like one that LangChain's classes wrote.
        """
        try:
            return str(from_json(row.text)["meta"]["id"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return _derived_id(row)

    def _decode(
        self, rows: Sequence[Row], session_id: SessionId, make: Callable[[BaseMessage, Row, str, str | None], T]
    ) -> list[T]:
        found: dict[str, T] = {}
        for row in rows:
            try:
                payload, meta = self._payload(row.text)
                record_id, at = (_derived_id(row), None) if meta is None else (meta["id"], meta["at"])
                made = make(decode_message(payload), row, record_id, at)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                reason = str(error) if isinstance(error, CorruptRecordError) else type(error).__name__
                msg = f"Record at position {row.position} of session {session_id!r} cannot be read: {reason}"
                if self.on_corrupt == "raise":
                    # Not chained: a validator's error quotes the content.
                    raise CorruptRecordError(msg, str(session_id), row.position) from None
                logger.warning("%s; it is skipped.", msg)
                continue
            found.pop(record_id, None)
            found[record_id] = made
        return list(found.values())

    def _payload(self, text: str | bytes) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return `{"type", "data"}` of a record, its tags restored, and its envelope."""
        payload = from_json(text)
        meta = payload.get("meta")
        if meta is not None and meta["v"] > VERSION:
            raise CorruptRecordError(
                f"it has format version {meta['v']}, and this release reads up to {VERSION}; upgrade."
            )
        if payload["type"] == _ENCODED:
            payload = from_json(self._open(payload["data"]))
        elif (_TAG if isinstance(text, str) else _TAG_BYTES) not in text:  # type: ignore[operator]
            return payload, meta
        return {"type": payload["type"], "data": decode_value(payload["data"])}, meta

    def _open(self, data: str) -> str:
        if self.codec is None:
            raise CorruptRecordError("it is encoded; open the store with the codec= that wrote it.")
        try:
            return self.codec.decode(data)
        except Exception as error:
            raise CorruptRecordError(
                f"the codec cannot decode it ({type(error).__name__}); is this the key that wrote it?"
            ) from error

    def encode_state(self, state: dict[str, Any]) -> str:
        """Return the text of a state document."""
        text = to_json(encode_value(state, strict=self.on_unserializable == "raise"))
        return text if self.codec is None else to_json({_ENCODED: self.codec.encode(text)})

    def decode_state(self, text: str | bytes, session_id: SessionId) -> dict[str, Any]:
        """Return the state document that `encode_state` wrote.

        Raises:
            CorruptRecordError: It cannot be read.
        """
        try:
            data = from_json(text)
            if _ENCODED in data:
                data = from_json(self._open(data[_ENCODED]))
            return dict(decode_value(data))
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error) if isinstance(error, CorruptRecordError) else type(error).__name__
            msg = f"The state of session {session_id!r} cannot be read: {reason}"
            raise CorruptRecordError(msg, str(session_id)) from None


def _new_ids(count: int) -> list[str]:
    """Random UUIDs of version 4 (RFC 9562) as 32 hex digits; `uuid.uuid4` takes as long as the rest of a record."""
    digits = os.urandom(16 * count).hex()
    return [
        f"{digits[at : at + 12]}4{digits[at + 13 : at + 16]}8{digits[at + 17 : at + 32]}"
        for at in range(0, 32 * count, 32)
    ]


def _record(message: BaseMessage, row: Row, record_id: str, at: str | None) -> Record:
    return Record(message, row.position, record_id, None if at is None else dt.datetime.fromisoformat(at))


def _derived_id(row: Row) -> str:
    text = row.text.encode("utf-8", "surrogatepass") if isinstance(row.text, str) else row.text
    return hashlib.sha256(row.position.encode() + b"\0" + text).hexdigest()[:32]


def record_time(text: str | bytes) -> dt.datetime | None:
    """When a record was added, in UTC; `None` where LangChain's classes wrote it or it cannot be read."""
    try:
        return dt.datetime.fromisoformat(from_json(text)["meta"]["at"])
    except (ValueError, KeyError, TypeError):
        return None
