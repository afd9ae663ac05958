"""Objects that a message or a state may hold though nobody thought of them, each with what comes back of it.

Some answer no question, or answer wrongly, as objects of NumPy, pandas and pydantic do. `odd_value` puts them together
at random: the tests of all stores take their own seeds, and a property test can hand it a `random.Random` of its own.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import pathlib
import types
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence


class Odd(NamedTuple):
    """An object and what is stored of it.

    Attributes:
        value: The object.
        kept: What a reader gets: an equal object, what it means, or a description.
        is_kept: Whether nothing of it is only described.
    """

    value: Any
    kept: Any
    is_kept: bool = True


def described(value: Any) -> Odd:
    """An object of which the name of its class is kept."""
    return Odd(value, {"lh:type": "object", "value": _name(value)}, is_kept=False)


def described_key(value: Any) -> Odd:
    """The same as a key of a dict or a member of a set."""
    return Odd(value, f"lh:object {_name(value)}", is_kept=False)


def same(value: Any) -> Odd:
    """An object that comes back equal."""
    return Odd(value, value)


def _name(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


class Hostile:
    """Answers no question."""

    def _refuse(self, *_: Any) -> Any:
        raise RuntimeError("no")

    __bool__ = __eq__ = __hash__ = __repr__ = __str__ = __len__ = __iter__ = __getattr__ = __float__ = __int__ = _refuse


class Liar:
    """Is equal to everything, and says that it is a `dict`, empty, and text."""

    __class__ = dict  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        """Everything is equal."""
        return True

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        """It is nothing."""
        return False

    def __repr__(self) -> str:
        """It looks like text."""
        return "'text'"


def hostile_subclass(base: type) -> Any:
    """A subclass that raises wherever the base answers."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise ArithmeticError("no")

    names = (
        *("__bool__", "__eq__", "__hash__", "__repr__", "__str__", "__iter__", "__len__", "__float__", "__int__"),
        *("__index__", "__fspath__", "isoformat", "items", "keys", "hex", "bit_length", "utcoffset"),
    )
    return type(f"Hostile{base.__name__}", (base,), dict.fromkeys(names, refuse))


class HostileFields(HumanMessage):
    """A message that raises when its fields are read."""

    def __getattribute__(self, name: str) -> Any:
        """Raise instead of giving the fields."""
        if name == "__dict__":
            raise RuntimeError("no")
        return super().__getattribute__(name)


class OwnFields(BaseMessage):
    """A message of a class of one's own, with fields of its own."""

    type: str = "mine"
    role: str = "of my own"
    extra_field: Any = None


class Colour(enum.Enum):
    """An enum of odd values."""

    RED = 1
    ARRAY = [1, 2]  # noqa: RUF012  # an odd value


class Shade(str, enum.Enum):  # noqa: UP042  # the older way to write it
    """An enum of texts."""

    DARK = "dark"


class Level(enum.IntEnum):
    """An enum of numbers."""

    HIGH = 3


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A dataclass that can be a key."""

    a: int = 1


@dataclasses.dataclass
class Broken:
    """A dataclass whose field cannot be read."""

    a: int = dataclasses.field(default=1)

    def __getattribute__(self, name: str) -> Any:
        """Raise instead of giving the field."""
        if name == "a":
            raise LookupError("no")
        return super().__getattribute__(name)


class Model(BaseModel, frozen=True):
    """A model of pydantic that can be a key."""

    a: int = 1


class NoOffset(dt.tzinfo):
    """A time zone that does not answer."""

    def utcoffset(self, _: dt.datetime | None) -> dt.timedelta | None:
        """Raise what `datetime` does not expect."""
        raise NotImplementedError

    def tzname(self, _: dt.datetime | None) -> str | None:
        """No name."""
        return None

    def dst(self, _: dt.datetime | None) -> dt.timedelta | None:
        """No summer."""
        return None


class NoTime(dt.datetime):
    """What the `NaT` of pandas is: a `datetime` that is none."""

    def isoformat(self, *_: Any) -> str:
        """Return what cannot be read as a time."""
        return "NaT"


_MOMENT = dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(seconds=1, microseconds=5)))

NATURAL = [
    Odd(Colour.RED, 1),
    Odd(Colour.ARRAY, [1, 2]),
    Odd(Shade.DARK, "dark"),
    Odd(Level.HIGH, 3),
    Odd(pathlib.PurePosixPath("a/b"), "a/b"),
    Odd(fractions.Fraction(1, 4), 0.25),
    Odd(Frozen(), {"a": 1}),
    Odd(Model(), {"a": 1}),
    Odd(collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    Odd(collections.Counter("aab"), {"a": 2, "b": 1}),
    Odd(bytearray(b"x"), b"x"),
    Odd(memoryview(b"abcdef")[::2], b"ace"),
]
"""Objects that are stored as what they mean."""

HOSTILE = [
    described(Hostile()),
    described(Hostile),
    described(Liar()),
    Odd(hostile_subclass(str)("text"), "text"),
    Odd(hostile_subclass(int)(5), 5),
    Odd(hostile_subclass(float)(0.5), 0.5),
    Odd(hostile_subclass(bytes)(b"x"), b"x"),
    Odd(hostile_subclass(dict)(a=1), {"a": 1}),
    Odd(hostile_subclass(list)([1]), [1]),
    Odd(hostile_subclass(tuple)((1,)), (1,)),
    Odd(hostile_subclass(set)(), set()),
    Odd(hostile_subclass(dt.timedelta)(1), dt.timedelta(1)),
    Odd(hostile_subclass(decimal.Decimal)("1.5"), decimal.Decimal("1.5")),
    Odd(hostile_subclass(uuid.UUID)(int=1), uuid.UUID(int=1)),
    Odd(hostile_subclass(pathlib.PurePosixPath)("a/b"), "a/b"),
    described(hostile_subclass(dt.datetime)(2026, 1, 1)),
    described(hostile_subclass(dt.date)(2026, 1, 1)),
    described(hostile_subclass(dt.time)(1, 2)),
    described(NoTime(2026, 1, 1)),
    described(dt.datetime(2026, 1, 1, tzinfo=NoOffset())),
    described(mock.Mock()),
    described(mock.MagicMock()),
    described(mock.Mock(spec=dict)),
    described(mock.MagicMock(spec=BaseMessage)),
    described(Broken()),
    described(array.array("d", [1.0])),
    described(types.SimpleNamespace(a=1)),
    described(10**20_000),
    described(complex(1, 2)),
    described(object()),
    described(object),
    described(len),
    described(n for n in range(3)),
]
"""Objects that raise, lie or do not say what they are."""

EQUAL = [
    *map(same, (None, True, 0, -1, 2**63, 10**30, 0.1, -0.0, 1e22, 5e-324, float("nan"), float("-inf"))),
    *map(same, (b"", b"\x00\xff", _MOMENT, _MOMENT.date(), dt.time(1, 2), dt.timedelta(-1, 5, 7), uuid.UUID(int=7))),
    *map(
        same, (decimal.Decimal("1.10"), decimal.Decimal("sNaN"), decimal.Decimal("-NaN123"), decimal.Decimal("-0E+5"))
    ),
    *map(same, ([], {}, (), set(), frozenset(), Document("text", metadata={"at": _MOMENT}, id="d"))),
    *map(same, ({"lh:type": "bytes", "value": "no base64"}, {"lh:type": "object"}, {"lh:encoded": "x"})),
]
"""Objects that come back equal."""

TEXTS = [
    *("", " ", "a", "é", "👍", "\x00", "a\x00b", "\ud800", "\udfff\ud800", "😀\ud83d", "\u2028", "\uffff", "{x}", "%s"),
    *("lh:type", "lh:encoded", "lh:json", "lh:row", "meta", "text", "value", "escaped", "␀", "␀0000", "$ne", "a.b"),
    *("__class__", "\\u0000", "\\", '"', "'", "]\n[", "\n,", "lh:object x", "type", "data", "id", "content"),
]
"""Texts that a service or a format could take for its own, as values and as keys."""

KEYS = [
    *map(same, (None, 1.5, b"x", decimal.Decimal("2.5"), dt.date(2026, 1, 1), (3, ("x", None)), frozenset({4}))),
    Odd(Colour.RED, 1),
    Odd((Colour.RED, 2), (1, 2)),
    Odd(frozenset({Level.HIGH}), frozenset({3})),
    Odd(pathlib.PurePosixPath("k/b"), "k/b"),
    described_key(Frozen()),
    described_key(Model()),
    described_key((Frozen(),)),
    described_key(10**20_000),
    described_key(object()),
    described_key(Colour),
    described_key(len),
    described_key(NoTime(2026, 1, 1)),
]
"""Objects that can be keys and members; no two of them are kept as the same."""


def odd_text(chance: random.Random) -> str:
    """Return a text in which no two characters are the halves of a surrogate pair."""
    text = ""
    for piece in chance.choices(TEXTS, k=chance.randrange(4)):
        is_pair = "\ud800" <= text[-1:] <= "\udbff" and "\udc00" <= piece[:1] <= "\udfff"
        text += "-" + piece if is_pair else piece
    return text


def odd_value(chance: random.Random, more: Sequence[Odd] = (), depth: int = 3) -> Odd:
    """Put an object together, of those in this module, of texts, and of `more`."""
    leaves = [*EQUAL, *NATURAL, *HOSTILE, *more]
    kind = chance.randrange(12) if depth else chance.randrange(4)
    if kind < 3:
        return chance.choice(leaves)
    if kind == 3:
        return same(odd_text(chance))
    if kind in (4, 5):
        keys = {odd_text(chance) for _ in range(chance.randrange(4))}
        return _dict([same(key) for key in sorted(keys)], chance, more, depth - 1)
    if kind == 6:
        return _dict(_keys(chance), chance, more, depth - 1)
    if kind in (7, 8):
        return _set(set if kind == 7 else frozenset, _keys(chance))
    items = [odd_value(chance, more, depth - 1) for _ in range(chance.randrange(4))]
    make: Callable[[list[Any]], Any] = tuple if kind == 9 else list
    value, kept = make([item.value for item in items]), make([item.kept for item in items])
    return Odd(value, kept, all(item.is_kept for item in items))


def _keys(chance: random.Random) -> list[Odd]:
    keys = chance.sample(KEYS, chance.randrange(4))
    return [*keys, same(f"text {odd_text(chance)}")]


def _dict(keys: list[Odd], chance: random.Random, more: Sequence[Odd], depth: int) -> Odd:
    items = [odd_value(chance, more, depth) for _ in keys]
    value = {key.value: item.value for key, item in zip(keys, items, strict=True)}
    kept = {key.kept: item.kept for key, item in zip(keys, items, strict=True)}
    return Odd(value, kept, all(odd.is_kept for odd in [*keys, *items]))


def _set(make: Callable[[list[Any]], Any], keys: list[Odd]) -> Odd:
    value, kept = make([key.value for key in keys]), make([key.kept for key in keys])
    return Odd(value, kept, all(key.is_kept for key in keys))


_PLACES: list[Callable[[str, Any], BaseMessage]] = [
    lambda text, value: ToolMessage(text, tool_call_id=text, artifact=value),
    lambda text, value: HumanMessage(text, additional_kwargs={text: value}),
    lambda text, value: AIMessage(text, name=text, response_metadata={"a": value}),
    lambda text, value: HumanMessage([text, {"type": "x", text: value}]),
    lambda text, value: AIMessage(text, tool_calls=[{"name": text, "args": {text: value}, "id": text}]),
    lambda text, value: ChatMessage(content=text, role=text, additional_kwargs={"a": [value]}),
    lambda text, value: SystemMessage(text, field_of_its_own=value),
]
"""Where a message can hold any object."""


def odd_message(chance: random.Random, more: Sequence[Odd] = ()) -> Odd:
    """Return a message with an odd object, and the message that comes back of it."""
    make, text, odd = chance.choice(_PLACES), odd_text(chance), odd_value(chance, more)
    return Odd(make(text, odd.value), make(text, odd.kept), odd.is_kept)


_FIELDS = [
    *("content", "additional_kwargs", "response_metadata", "id", "name", "type", "tool_calls", "invalid_tool_calls"),
    *("usage_metadata", "artifact", "status", "tool_call_id", "role", "extra", "content_blocks", ""),
]


def spoilt_message(chance: random.Random, more: Sequence[Odd] = ()) -> BaseMessage:
    """Return a message with an odd object in a field that was not validated."""
    kind: Any = chance.choice([HumanMessage, AIMessage, ToolMessage, ChatMessage])
    message: BaseMessage = kind.model_construct(content="x", type=kind.model_fields["type"].default)
    message.__dict__[chance.choice(_FIELDS)] = odd_value(chance, more).value
    return message


def refused_values() -> list[Any]:
    """Objects that no store takes: in themselves, too deep, or text that JSON would change."""
    itself: list[Any] = []
    itself.append(itself)
    keyed: dict[Any, Any] = {}
    keyed[1] = (keyed,)
    model = Model()
    model.__dict__["a"] = {"me": model}
    deep: Any = None
    wide: Any = 1
    for _ in range(300):
        deep = [deep]
        wide = {"a": wide, 1: (wide,)} if isinstance(wide, int) else {1: wide}
    return [itself, keyed, model, deep, wide, {"a": [deep]}, "\ud800\udfff", {"x\ud83d\ude00": 1}]
