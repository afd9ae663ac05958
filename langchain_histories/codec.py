"""The stored form of a message: a public format.

A record is the JSON text of LangChain's `message_to_dict(message)` with one more top-level key:

    {"type": "human", "data": {...}, "meta": {"v": 1, "id": "<32 hex digits>", "at": "2026-11-21T20:00:00.123456Z"}}

* `meta.v`: version of the format. A record of a higher version is refused, never skipped.
* `meta.id`: unique for each stored record (a random UUID).
* `meta.at`: when it was added, in UTC. It is information; order never depends on it.
* `meta.r`: another one each time that an edit writes the record again; missing before.
* `meta.app`: what the application keeps of the record (`Record.meta`), an object of its own; missing where it gave
  nothing. Its values have tags as those of messages have.
* `meta.adapters`: is left to integrations, an object for each under its name. No release writes it yet.

LangChain's readers ignore `meta`, and a record without it, as LangChain's classes write it, is read all the same. So
is a message of LlamaIndex (`role`, `blocks`, `additional_kwargs`), as its classes store it.

What JSON cannot hold is stored in a tagged form: the table of tags is in `_values`.

With a `Codec` a record is `{"type": "lh:encoded", "data": "<what the codec made of the JSON text>", "meta": {...}}`.
`meta.app` is then within the text that was encoded, as `{"type", "data", "meta": {"app": {...}}}`.
Nothing is ever unpickled or imported by name from stored data.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import itertools
import json
import logging
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    TypeAlias,
    TypeGuard,
    TypeVar,
    overload,
    runtime_checkable,
)

import pydantic_core
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

from langchain_histories._derived import without_positions
from langchain_histories._values import TAG, decode_value, encode_value, from_json, to_json
from langchain_histories.errors import (
    ConfigurationError,
    CorruptRecordError,
    InvalidMessageError,
    RecordTooLargeError,
)
from langchain_histories.integrations.mapping.llama_index import is_llama_index, to_langchain, to_llama_index

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from langchain_histories._session_ids import SessionId

T = TypeVar("T")

Metas: TypeAlias = "Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None"
"""What an application gives with messages: one mapping for all of them, or one for each."""

logger = logging.getLogger(__name__)

VERSION = 1
_TAG_BYTES = TAG.encode()
_ENCODED = "lh:encoded"
_APP = "app"
_MAX_META = 16 * 1024  # bytes of its JSON text in UTF-8

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


@runtime_checkable
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


class Rows(Sequence[Row]):
    """Rows as the list of their texts and that of their numbers; a row is made when it is asked for.

    Thousands of rows are read at once for `copy`, which needs their texts alone; so many objects would have Python look
    for garbage everywhere.
    """

    def __init__(self, texts: Sequence[str | bytes], numbers: Sequence[int], kind: type[Row] = Row) -> None:
        """Keep the lists."""
        self.texts, self._numbers, self._kind = texts, numbers, kind

    def __len__(self) -> int:
        """How many they are."""
        return len(self.texts)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: int | slice) -> Row | Rows:
        """Make one of them, or return some."""
        if isinstance(index, slice):
            return Rows(self.texts[index], self._numbers[index], self._kind)
        return self._kind(self.texts[index], str(self._numbers[index]))


def texts_of(rows: Collection[Row]) -> Sequence[str] | None:
    """Return the texts of rows as `str`; `None` where one is no UTF-8."""
    found: Sequence[Any] = rows.texts if isinstance(rows, Rows) else [row.text for row in rows]
    kinds = {*map(type, found)}
    if kinds <= {str}:
        return found
    try:
        return [*map(bytes.decode, found)] if kinds == {bytes} else [*map(_as_text, found)]
    except UnicodeDecodeError:
        return None


class CheckedRow(Row):
    """A row whose position is `<number>-<crc32 of the text>`, computed only when a reader asks for it."""

    __slots__ = ()

    @property
    def position(self) -> str:
        """The number and the checksum."""
        text = self.text.encode() if isinstance(self.text, str) else self.text
        return f"{self[1]}-{zlib.crc32(text):08x}"


class ParsedRow(Row):
    """A row whose JSON the store has read already; a subclass makes its text and position when a reader asks for them.

    A read of messages asks for neither.
    """

    __slots__ = ()

    @property
    def payload(self) -> Any:
        """What the JSON says."""
        raise NotImplementedError

    @property
    def may_have_tags(self) -> bool:
        """Whether there may be a tag for what JSON cannot hold."""
        return True


def same_rows(one: Sequence[Row], other: Sequence[Row]) -> bool:
    """Whether two reads returned the same rows at the same positions."""
    return len(one) == len(other) and all(
        a.text == b.text and a.position == b.position for a, b in zip(one, other, strict=True)
    )


class _RecordFields(NamedTuple):
    message: BaseMessage
    position: str
    id: str
    at: dt.datetime | None
    meta: dict[str, Any]


class Record(_RecordFields):
    """One stored message with its envelope.

    Attributes:
        message: The message.
        position: Opaque token of its place in the session, for `after=`.
        id: Identifier of the record, for `delete`. Of a record that LangChain's classes wrote it is derived from
            position and content.
        at: When it was added, in UTC; `None` for a record that LangChain's classes wrote.
        meta: What the application gave with it, empty where it gave nothing; no model is shown it.
    """

    __slots__ = ()

    def __new__(
        cls,
        message: BaseMessage,
        position: str,
        id: str,  # noqa: A002  # the name of the field
        at: dt.datetime | None = None,
        meta: dict[str, Any] | None = None,
    ) -> Self:
        """Give each record a dict of its own, which a default of a named tuple would not be."""
        return super().__new__(cls, message, position, id, at, {} if meta is None else meta)


def _stored_type(message: BaseMessage) -> tuple[str, dict[str, Any]]:
    """The type a message is stored as, with the fields that this adds; unknown classes become their known base."""
    if message.type in _TYPES:
        return message.type, {}
    for name, known in _TYPES.items():
        if isinstance(message, known):
            return name, {"type": name}
    role = message.__dict__.get("role")
    return "chat", {"type": "chat", "role": role if isinstance(role, str) else message.type}


def type_and_fields(message: BaseMessage) -> tuple[str, dict[str, Any]]:
    """The type a message is stored as, and its fields as they are."""
    kind, changes = _stored_type(message)
    # The fields themselves and not `model_dump()`: that would turn documents and dataclasses into dicts. And not
    # `dict(message)`, which says the same three times slower.
    fields = {name: value for name, value in message.__dict__.items() if not name.startswith("_")}
    return kind, fields | {**(message.__pydantic_extra__ or {}), **changes}


def _whole(message: Any) -> BaseMessage:
    """Return a message, a chunk as the whole message it stands for.

    Raises:
        InvalidMessageError: It is not a message, or a chunk of which no message can be made.
    """
    # Not `isinstance`: what `__class__` says may be a lie.
    if not issubclass(type(message), BaseMessage):
        raise InvalidMessageError(
            f"A history stores messages (langchain_core.messages.BaseMessage), not {type(message).__name__}."
        )
    try:
        return message_chunk_to_message(message) if issubclass(type(message), BaseMessageChunk) else message
    except Exception as error:  # noqa: BLE001  # validators can raise anything
        # Not chained: a validator's error quotes the content.
        raise InvalidMessageError(
            f"No message can be made of a {type(message).__name__} ({type(error).__name__}): nothing was stored."
        ) from None


def encode_message(message: BaseMessage, *, strict: bool = False) -> dict[str, Any]:
    """Return `message` as `{"type", "data"}`, LangChain's form with tags for what JSON cannot hold.

    A chunk is stored as the whole message it stands for.

    Raises:
        InvalidMessageError: It is not a message, or a value in it is refused (see `encode_value`).
    """
    message = _whole(message)
    try:
        kind, fields = type_and_fields(message)
        data = {
            name: value if value is None or type(value) is str else encode_value(value, strict=strict)
            for name, value in fields.items()
        }
    except InvalidMessageError:
        raise
    except Exception as error:
        raise InvalidMessageError(
            f"A message of type {type(message).__name__} cannot be read ({type(error).__name__}): nothing was stored."
        ) from error
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


# How a record that this package wrote ends: `,"meta":{"v":1,"id":"<32 digits>","at":"<27 characters>"}}`. Such an end
# is that of the record's own `meta`, because a quotation mark within a text has a backslash before it and not a comma,
# and the two braces close `meta` and the record. To look at it takes less than half of the time of reading the JSON.
_BEFORE_ID, _BEFORE_AT, _BEHIND_AT = ',"meta":{"v":1,"id":"', '","at":"', '"}}'
_AT = -len(_BEHIND_AT) - 27
_ID = _AT - len(_BEFORE_AT) - 32
_END = _ID - len(_BEFORE_ID)
_ENDS = re.compile(
    rf'^{re.escape(_BEFORE_ID)}([^"\\\n]{{32}}){re.escape(_BEFORE_AT)}[^"\\\n]{{27}}{re.escape(_BEHIND_AT)}$',
    re.MULTILINE,
).findall


# What a reader takes for certain, by field; most messages have nothing else.
_CERTAIN: dict[str, Callable[[Any], bool]] = {
    "content": lambda value: type(value) is str,
    "id": lambda value: value is None or type(value) is str,
    "name": lambda value: value is None or type(value) is str,
    "type": lambda value: value in _VALIDATORS,
    "tool_call_id": lambda value: type(value) is str,
    "status": lambda value: value in ("success", "error"),
    "response_metadata": lambda value: type(value) is dict and TAG not in value,
    **dict.fromkeys(("tool_calls", "invalid_tool_calls"), lambda value: value == []),
    **dict.fromkeys(("usage_metadata", "artifact"), lambda value: value is None),
    "additional_kwargs": lambda value: value == {},
}


_FIELDS = {name: _TYPES[name].model_fields.keys() for name in _VALIDATORS}


def _is_plain(payload: dict[str, Any]) -> bool:
    """Whether a message is so simple that a reader takes it for certain."""
    data = payload["data"]
    return data.keys() == _FIELDS.get(payload["type"]) and all(
        name in _CERTAIN and _CERTAIN[name](value) for name, value in data.items()
    )


def _check_readable(payload: dict[str, Any], text: str) -> None:
    """Refuse a message that could be stored and never read: pydantic does not check what is assigned to a field.

    Raises:
        InvalidMessageError: The reader would refuse it.
    """
    if _is_plain(payload):
        return
    try:
        stored = _in_our_form(from_json(text))
        decode_message({"type": stored["type"], "data": decode_value(stored["data"])})
    except Exception as error:  # noqa: BLE001  # validators can raise anything
        fields = {str(part["loc"][0]) for part in error.errors() if part["loc"]} if _is_validation(error) else set()
        where = f": look at {', '.join(sorted(fields))}" if fields else ""
        # Not chained: a validator's error quotes the content.
        raise InvalidMessageError(
            f"A message of type {payload['type']!r} could be stored and never be read again "
            f"({type(error).__name__}){where}. Nothing was stored."
        ) from None


def _is_validation(error: Exception) -> TypeGuard[pydantic_core.ValidationError]:
    return isinstance(error, pydantic_core.ValidationError)


def check_is_list(messages: object) -> None:
    """Refuse what is no list of messages, a single message among it.

    Raises:
        InvalidMessageError: It is none.
    """
    if isinstance(messages, str | BaseMessage) or not hasattr(type(messages), "__iter__"):
        advice = ": put it into a list, or call add_message" if isinstance(messages, BaseMessage) else ""
        raise InvalidMessageError(f"messages must be a list of messages, not {type(messages).__name__}{advice}.")


def metas_of(meta: Metas, count: int) -> list[dict[str, Any]] | None:
    """Return what is stored of the meta of so many messages; `None` where there is none.

    Raises:
        ConfigurationError: It is neither a mapping nor a list with one for each message.
        InvalidMessageError: JSON cannot hold it.
        RecordTooLargeError: It is too large.
    """
    if meta is None:
        return None
    if isinstance(meta, Mapping):
        return [_app_of(meta)] * count
    if isinstance(meta, str | bytes) or not hasattr(type(meta), "__len__") or len(meta) != count:
        what = f"a list of {len(meta)}" if isinstance(meta, list | tuple) else type(meta).__name__
        raise ConfigurationError(
            f"meta must be one dict for all messages, or a list with one for each of the {count}, not {what}."
        )
    return [{} if one is None else _app_of(one) for one in meta]


def _app_of(meta: object) -> dict[str, Any]:
    """Return what is stored of what an application gave with a message."""
    if not isinstance(meta, Mapping):
        raise ConfigurationError(f"The meta of a message must be a dict, not {type(meta).__name__}.")
    given, kept = dict(meta), None
    try:
        text = json.dumps(given, allow_nan=False, ensure_ascii=False)
        kept = json.loads(text)
        is_same = bool(kept == given)
    except Exception:  # noqa: BLE001  # it may be anything
        is_same = False
    if not is_same:
        # Not chained: a driver's or a value's own error may quote the value.
        raise InvalidMessageError(
            "meta holds what JSON holds as it is: dicts with keys of text, lists, texts, finite numbers, True, False "
            "and None. Nothing was stored."
        ) from None
    if (size := len(text.encode("utf-8", "surrogatepass"))) > _MAX_META:
        raise RecordTooLargeError(
            f"The meta of a message has {size:,} bytes as JSON, and {_MAX_META:,} is the most: keep what is larger "
            "elsewhere, and its place here. Nothing was stored."
        )
    stored: dict[str, Any] = encode_value(kept, strict=True)
    to_json(stored)  # refuses what UTF-8 cannot hold
    return stored


def shown_meta(envelope: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what an application gave with a record, from its envelope; empty where nothing of it can be read."""
    app = None if envelope is None else envelope.get(_APP)
    if app is None:
        return {}
    try:
        return _object(decode_value(app))
    except Exception:  # noqa: BLE001  # others may have put anything there, and the message can be read
        return {}


@dataclasses.dataclass(frozen=True)
class RecordFormat:
    """How one store writes and reads its records.

    Attributes:
        codec: Applied to the text of each record and state.
        before_save: Called with each message before it is stored; returns the message to store, or `None` for none.
        on_unserializable: What to do about an object that cannot be kept: describe its type, or raise.
        on_corrupt: What to do about a record that cannot be read: raise, or skip it with a warning.
        in_llama_index: Write messages of LlamaIndex, with what these have no place for in keys that its reader ignores,
            where its classes read the place too. With a `codec` nobody else reads it.
    """

    codec: Codec | None = None
    before_save: Callable[[BaseMessage], BaseMessage | None] | None = None
    on_unserializable: Literal["describe", "raise"] = "describe"
    on_corrupt: Literal["raise", "skip"] = "raise"
    in_llama_index: bool = False

    def encode(
        self,
        messages: Sequence[BaseMessage],
        known: Sequence[str] | None = None,
        metas: Sequence[dict[str, Any]] | None = None,
    ) -> tuple[list[str], list[str]]:
        """Return the ids and the texts of one batch.

        Args:
            messages: The batch.
            known: The ids that it has already, if it has any.
            metas: What `metas_of` returned for it.

        Raises:
            InvalidMessageError: Something in it is not a message, or cannot be stored.
        """
        check_is_list(messages)
        # Together, because `before_save` may drop a message, and its meta goes with it.
        pairs = [
            (payload, app)
            for message, app in zip(messages, itertools.repeat(None) if metas is None else metas, strict=False)
            if (payload := self._saved(message)) is not None
        ]
        at = _time_text(now())
        ids = list(known) if known is not None and len(known) == len(pairs) else _new_ids(len(pairs))
        return ids, [
            self._text(payload, {"v": VERSION, "id": record_id, "at": at}, app)
            for (payload, app), record_id in zip(pairs, ids, strict=True)
        ]

    def encode_records(self, records: Sequence[Record]) -> tuple[list[str], list[str]]:
        """Return the ids and the texts of records that keep their ids, times and meta.

        Raises:
            InvalidMessageError: Something in it is not a record, or cannot be stored.
            RecordTooLargeError: The meta of a record is too large.
        """
        ids: list[str] = []
        texts: list[str] = []
        for record in records:
            if not issubclass(type(record), Record) or type(record.id) is not str or not record.id:
                raise InvalidMessageError(
                    f"append_records takes records, as records() returns them, not {type(record).__name__}."
                )
            payload = self._saved(record.message)
            if payload is not None:
                at = {} if record.at is None else {"at": _time_text(record.at)}
                ids.append(record.id)
                texts.append(self._text(payload, {"v": VERSION, "id": record.id, **at}, _app_of(record.meta)))
        return ids, texts

    def transcode(self, row: Row, to: RecordFormat) -> tuple[str, str] | None:
        """Return the id and the text of a record as a store with the format `to` keeps it.

        The text stays as it is where both have the same codec. A record that LangChain's classes wrote gets an envelope
        with the id by which it is shown, and without a time.

        Returns:
            Both; `None` where the `before_save` of `to` drops the message.

        Raises:
            CorruptRecordError: It has no id and is no message, or it cannot be read where that is necessary.
        """
        needs_message = to.before_save is not None or to.in_llama_index
        try:
            is_ours = row.text[:7] in ('{"type"', b'{"type"')
            if self.codec is to.codec and not needs_message and is_ours and (found := _id_at_end(row.text)):
                return found, row.text if isinstance(row.text, str) else row.text.decode()
            written = _object(from_json(row.text))
            stored = _in_our_form(written)
            meta = stored.get("meta")
            message = decode_message(self._payload(row)[0]) if needs_message or meta is None else None
            record_id = _derived_id(row) if meta is None else _stored_id(meta)
            envelope = {"v": VERSION, "id": record_id} if meta is None else meta
            if needs_message or self.codec is not to.codec:
                payload, envelope, app = self._opened(stored, envelope)
            text = row.text if isinstance(row.text, str) else row.text.decode()
        except CorruptRecordError:
            raise
        except Exception as error:  # noqa: BLE001  # what is stored may be anything
            raise CorruptRecordError(type(error).__name__) from None
        if needs_message:
            saved = to._saved(message)  # type: ignore[arg-type]
            return None if saved is None else (record_id, to._text(saved, envelope, app))
        if self.codec is to.codec:
            return record_id, text if meta is not None and stored is written else to_json({**stored, "meta": envelope})
        return record_id, to._sealed(payload, envelope, app)

    def _opened(
        self, stored: dict[str, Any], envelope: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
        """Return what the codec covers of a record, its envelope, and what the application gave with it."""
        payload, envelope = dict(stored), dict(envelope)
        app = envelope.pop(_APP, None)
        if stored["type"] == _ENCODED:
            payload = _object(from_json(self._open(stored["data"])))
            app = _covered(payload)
        payload.pop("meta", None)
        return payload, envelope, app

    def _sealed(self, payload: dict[str, Any], envelope: dict[str, Any], app: dict[str, Any] | None) -> str:
        """Return the text of a record. What the application gave with it may be personal, so the codec covers it."""
        if self.codec is None:
            written = to_llama_index(payload, keep=True) if self.in_llama_index else payload
            return to_json({**written, "meta": {**envelope, _APP: app} if app else envelope})
        covered = {**payload, "meta": {_APP: app}} if app else payload
        return to_json({"type": _ENCODED, "data": self.codec.encode(to_json(covered)), "meta": envelope})

    def unchanged(self, rows: Collection[Row], to: RecordFormat) -> dict[str, str] | None:
        """Return the texts of rows by id if `transcode` would leave all as they are and each id is there once.

        That is so for nearly all rows, and to see it takes a tenth of the time.
        """
        if self.codec is not to.codec or to.before_save is not None or to.in_llama_index:
            return None
        texts = texts_of(rows)
        ids = None if texts is None else _ids_at_ends(texts)
        if texts is None or ids is None or len(found := dict(zip(ids, texts, strict=True))) < len(texts):
            return None
        # A message of LlamaIndex begins with its role.
        return found if all(text.startswith('{"type"') for text in texts) else None

    def canonical(self, row: Row) -> str:
        """Return what a record says, with its id, in a form that is the same in each store: its codec undone."""
        try:
            stored = _in_our_form(from_json(row.text))
            meta = stored.get("meta") or {"v": VERSION, "id": _derived_id(row)}
            if self.codec is not None and stored["type"] == _ENCODED:
                stored, meta, app = self._opened(stored, meta)
                meta = {**meta, _APP: app} if app else meta
            return _canonical(_with_tagged_floats({**stored, "meta": meta}))
        except Exception:  # noqa: BLE001  # what is stored may be anything
            return row.text if isinstance(row.text, str) else row.text.decode("utf-8", "backslashreplace")

    def _saved(self, message: BaseMessage) -> dict[str, Any] | None:
        """Return `{"type", "data"}` of what `before_save` makes of a message; `None` where it drops it."""
        kept: Any = message
        if self.before_save is not None:
            kept = self.before_save(_whole(message))
            if kept is None:
                return None
        return encode_message(kept, strict=self.on_unserializable == "raise")

    def _text(self, payload: dict[str, Any], envelope: dict[str, Any], app: dict[str, Any] | None = None) -> str:
        """Return the text of a record whose message is new."""
        if self.codec is None:
            text = self._sealed(payload, envelope, app)
            _check_readable(payload, text)
            return text
        _check_readable(payload, to_json(payload))
        return self._sealed(payload, envelope, app)

    def again(self, row: Row, message: BaseMessage | None = None, meta: Mapping[str, Any] | None = None) -> str | None:
        """Return the text with which a record is written again: it keeps its envelope, and so its id and its time.

        A record that LangChain's classes wrote gets an envelope with the id by which it was shown, and nothing else of
        it changes. Any other one gets another text each time (`meta.r`), so that its position of before is not taken
        for one of now.

        Args:
            row: The record.
            message: What it is to hold, if that is something else.
            meta: What the application is to have with it, if that is something else.

        Returns:
            The text; `None` where `before_save` drops the message.

        Raises:
            InvalidMessageError: The message or the meta cannot be stored.
            RecordTooLargeError: The meta is too large.
            ValueError: The record has no JSON object or a broken envelope, so it would get another id.
        """
        stored, envelope = to_carry(row)
        if message is not None or meta is not None:
            payload, envelope, app = self._opened(stored, envelope)
            if meta is not None:
                app = _app_of(meta)
            if message is None:
                return self._sealed(payload, envelope, app)
            saved = self._saved(message)
            return None if saved is None else self._text(saved, envelope, app)
        if stored.get("meta") is not None:
            return to_json({**stored, "meta": envelope})
        text = row.text if isinstance(row.text, str) else row.text.decode()
        return f'{text.rstrip()[:-1]}, "meta": {to_json(envelope)}}}'

    def decode(self, rows: Sequence[Row], session_id: SessionId) -> list[Record]:
        """Return the records of `rows`, each id once.

        A driver's retry can store a batch twice: the later copy is the one that counts.

        Raises:
            CorruptRecordError: A record cannot be read.
        """
        return self._decode(rows, session_id, _record)

    def decode_messages(self, rows: Sequence[Row], session_id: SessionId) -> list[BaseMessage]:
        """Return the messages of `decode`, a fifth faster."""
        return self._decode(rows, session_id, None)

    def decode_stored(self, rows: Sequence[Row], session_id: SessionId) -> list[dict[str, Any]]:
        """Return the records of `decode` as they are stored, in half the time: no message is built or checked."""
        return self._decode(rows, session_id, _stored, read=self._stored_payload, build=_object)

    def record_id(self, row: Row) -> str:
        """Return the id of a record without building its message.

        A row that is no record has a derived id, like one that LangChain's classes wrote.
        """
        if found := _id_at_end(row.text):
            return found
        try:
            return _stored_id(from_json(row.text)["meta"])
        except Exception:  # noqa: BLE001  # it may be anything
            return _derived_id(row)

    def record_ids(self, rows: Sequence[Row]) -> list[str]:
        """Return the ids of records, as `record_id` does."""
        texts = texts_of(rows)
        ids = None if texts is None else _ids_at_ends(texts)
        return [*map(self.record_id, rows)] if ids is None else ids

    def by_id(self, rows: Sequence[Row]) -> dict[str, Row]:
        """Return rows by record id, in order; of two copies of a record, the later one."""
        ids = self.record_ids(rows)
        found = dict(zip(ids, rows, strict=True))
        if len(found) == len(rows):
            return found
        found = {}
        for record_id, row in zip(ids, rows, strict=True):
            found.pop(record_id, None)
            found[record_id] = row
        return found

    def with_ids(self, rows: Sequence[Row], ids: Collection[str]) -> list[Row]:
        """Return the rows that have one of these ids: the ids of records, and those that errors give to broken ones."""
        return [row for row in rows if self.record_id(row) in ids or _derived_id(row) in ids]

    def _decode(
        self,
        rows: Sequence[Row],
        session_id: SessionId,
        make: Callable[[Any, Row, dict[str, Any] | None], Any] | None,
        read: Callable[[Row], tuple[dict[str, Any], dict[str, Any] | None]] | None = None,
        build: Callable[[dict[str, Any]], Any] = decode_message,
    ) -> list[Any]:
        found: dict[str | int, Any] = {}
        read = read or self._payload
        for index, row in enumerate(rows):
            try:
                payload, meta = read(row)
                key = index if meta is None else _stored_id(meta)
                made: Any = build(payload)
                if make is not None:
                    made = make(made, row, meta)
            except Exception as error:  # noqa: BLE001  # what is stored may be anything
                reason = str(error) if isinstance(error, CorruptRecordError) else type(error).__name__
                # Not the id in its envelope: a record that can be read may have the same.
                record_id = _derived_id(row)
                msg = (
                    f"Record {record_id} at position {row.position} of session {session_id!r} cannot be read: {reason}"
                )
                if self.on_corrupt == "raise":
                    # Not chained: a validator's error quotes the content.
                    raise CorruptRecordError(msg, str(session_id), row.position, record_id) from None
                logger.warning("%s; it is skipped.", msg)
                continue
            found.pop(key, None)
            found[key] = made
        return list(found.values())

    def _payload(self, row: Row) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return `{"type", "data"}` of a record, its tags restored, and its envelope."""
        if isinstance(row, ParsedRow):
            payload, may_have_tags = row.payload, row.may_have_tags
        else:
            text = row.text
            payload = from_json(text)
            may_have_tags = (TAG if isinstance(text, str) else _TAG_BYTES) in text  # type: ignore[operator]
        if "type" not in payload:
            payload = _in_our_form(payload)
        meta = _known(payload.get("meta"))
        if payload["type"] == _ENCODED:
            payload, meta = self._uncovered(payload, meta)
        elif not may_have_tags:
            return payload, meta
        return {"type": payload["type"], "data": decode_value(payload["data"])}, meta

    def _stored_payload(self, row: Row) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return `{"type", "data"}` of a record, its tags as they are, and its envelope."""
        payload = _in_our_form(row.payload if isinstance(row, ParsedRow) else from_json(row.text))
        meta = _known(payload.get("meta"))
        return self._uncovered(payload, meta) if payload["type"] == _ENCODED else (payload, meta)

    def _uncovered(
        self, stored: dict[str, Any], meta: dict[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return what a record says without its codec, and its envelope with all that belongs to it."""
        payload = from_json(self._open(stored["data"]))
        if meta is None or (_APP not in meta and "meta" not in payload):
            return payload, meta
        # What stands beside the encoded text is not what the application gave, which the codec covers.
        app = _covered(payload)
        envelope = {name: value for name, value in meta.items() if name != _APP}
        return payload, {**envelope, _APP: app} if app else envelope

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
        data = encode_value(state, strict=self.on_unserializable == "raise")
        text = to_json({TAG: "escaped", "value": data} if _ENCODED in data else data)
        return text if self.codec is None else to_json({_ENCODED: self.codec.encode(text)})

    def is_same_state(self, text: str | bytes | None, state: dict[str, Any] | None) -> bool:
        """Whether a state document would be stored as the text `text` is, but for the order of its keys.

        The stored forms are compared, because values need not have an equality that answers.
        """
        if text is None or state is None:
            return text is None and state is None
        plain = dataclasses.replace(self, codec=None)
        stored = self._state_data(text)
        return _canonical(stored) == _canonical(from_json(plain.encode_state(state)))

    def _state_data(self, text: str | bytes) -> Any:
        data = from_json(text)
        return from_json(self._open(data[_ENCODED])) if _ENCODED in data else data

    def canonical_state(self, text: str | bytes) -> str:
        """Return what a state says, but for where records stand, in a form that is the same in each store."""
        return _canonical(without_positions(self._state_data(text)))

    def decode_state(self, text: str | bytes, session_id: SessionId) -> dict[str, Any]:
        """Return the state document that `encode_state` wrote.

        Raises:
            CorruptRecordError: It cannot be read.
        """
        try:
            return _object(decode_value(_object(self._state_data(text))))
        except Exception as error:  # noqa: BLE001  # what is stored may be anything
            reason = str(error) if isinstance(error, CorruptRecordError) else type(error).__name__
            msg = f"The state of session {session_id!r} cannot be read: {reason}"
            raise CorruptRecordError(msg, str(session_id)) from None


def _covered(payload: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the application gave with a record, from the text that the codec covered."""
    within = payload.get("meta")
    return within.get(_APP) if isinstance(within, dict) else None


def _new_ids(count: int) -> list[str]:
    """Random UUIDs of version 4 (RFC 9562) as 32 hex digits; `uuid.uuid4` takes as long as the rest of a record."""
    digits = os.urandom(16 * count).hex()
    return [
        f"{digits[at : at + 12]}4{digits[at + 13 : at + 16]}8{digits[at + 17 : at + 32]}"
        for at in range(0, 32 * count, 32)
    ]


def _record(message: BaseMessage, row: Row, meta: dict[str, Any] | None) -> Record:
    if meta is None:
        return Record(message, row.position, _derived_id(row), None)
    return Record(message, row.position, meta["id"], time_of(meta), shown_meta(meta))


def _stored(payload: dict[str, Any], row: Row, meta: dict[str, Any] | None) -> dict[str, Any]:
    envelope = meta or {"id": _derived_id(row)}
    return {"type": payload["type"], "data": payload["data"], "meta": envelope, "position": row.position}


def _known(meta: Any) -> dict[str, Any] | None:
    """Return an envelope of a version that this release reads; `None` if there is none."""
    if meta is not None and meta["v"] > VERSION:
        raise CorruptRecordError(f"it has format version {meta['v']}, and this release reads up to {VERSION}; upgrade.")
    return meta  # type: ignore[no-any-return]  # JSON


def to_carry(row: Row) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is stored of a record, and the envelope with which it is written again.

    Raises:
        ValueError: It has no JSON object or a broken envelope.
    """
    try:
        payload = row.payload if isinstance(row, ParsedRow) else from_json(row.text)
        meta = payload.get("meta")
        if meta is None:
            return payload, {"v": VERSION, "id": _derived_id(row)}
        _stored_id(meta)
        return payload, {**meta, "r": os.urandom(4).hex()}
    except Exception as error:  # noqa: BLE001  # what is stored may be anything
        raise ValueError(type(error).__name__) from None


def _object(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise CorruptRecordError("it is no JSON object, so this package did not write it.")
    return data


def _in_our_form(data: Any) -> dict[str, Any]:
    """Return a record as it is, and a message of LlamaIndex in LangChain's form."""
    if not is_llama_index(_object(data)):
        return data  # type: ignore[no-any-return]  # JSON
    return {**to_langchain(data), **({"meta": data["meta"]} if "meta" in data else {})}


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True)


def _with_tagged_floats(value: Any) -> Any:
    """Return data with each float in the tagged form, which some stores need for some of them."""
    if isinstance(value, float):
        return {TAG: "float", "value": repr(value)}
    if isinstance(value, dict):
        return {key: _with_tagged_floats(item) for key, item in value.items()}
    return [_with_tagged_floats(item) for item in value] if isinstance(value, list) else value


def _as_text(text: str | bytes) -> str:
    return text if isinstance(text, str) else text.decode()


def _id_at_end(text: str | bytes) -> str | None:
    ids = _ids_at_ends([text if isinstance(text, str) else text[_END:].decode("ascii", "replace")])
    return None if ids is None else ids[0]


def _ids_at_ends(texts: Sequence[str]) -> list[str] | None:
    """Return the ids of texts that all have one at their ends; `None` if one has none."""
    # An end with a line break in it is no longer than that, so no part of it can be one.
    ids: list[str] = _ENDS("\n".join([text[_END:] for text in texts]))
    return ids if len(ids) == len(texts) else None


def _stored_id(meta: dict[str, Any]) -> str:
    record_id = meta["id"]
    if type(record_id) is not str:
        raise CorruptRecordError("the id in its envelope is no text.")
    return record_id


def _derived_id(row: Row) -> str:
    text = row.text.encode("utf-8", "surrogatepass") if isinstance(row.text, str) else row.text
    return hashlib.sha256(row.position.encode() + b"\0" + text).hexdigest()[:32]


def _time_text(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def time_of(meta: dict[str, Any]) -> dt.datetime | None:
    """When a record with this envelope was added, in UTC; `None` where that cannot be read."""
    try:
        return dt.datetime.fromisoformat(meta["at"]).astimezone(dt.UTC)
    except Exception:  # noqa: BLE001  # it may be anything, and order does not depend on it
        return None


def record_time(text: str | bytes | None) -> dt.datetime | None:
    """When a record was added, in UTC; `None` where LangChain's classes wrote it or it cannot be read."""
    try:
        return time_of(from_json(text or "")["meta"])
    except Exception:  # noqa: BLE001  # it may be anything
        return None
