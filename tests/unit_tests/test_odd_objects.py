"""Any Python object in a message or a state is kept, described, or refused before anything is written."""

from __future__ import annotations

import array
import collections
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import json
import pathlib
import types
import uuid
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage, messages_from_dict
from pydantic import BaseModel

from langchain_histories import CorruptRecordError, HistoryError, InvalidMessageError, MemoryStore
from langchain_histories._values import decode_value, encode_value, from_json, to_json
from langchain_histories.codec import RecordFormat, Row


class Hostile:
    """Answers no question."""

    def _refuse(self, *_):
        raise RuntimeError("no")

    __bool__ = __eq__ = __hash__ = __repr__ = __str__ = __len__ = __iter__ = __getattr__ = __float__ = __int__ = _refuse


class HostileFields(HumanMessage):
    """A message class that raises when its fields are read."""

    def __getattribute__(self, name):
        if name == "__dict__":
            raise RuntimeError("no")
        return super().__getattribute__(name)


def hostile_subclass(base, **methods):
    """A subclass that raises, or lies, wherever the base answers."""

    def refuse(*_, **__):
        raise ArithmeticError("no")

    names = (
        "__bool__",
        "__eq__",
        "__hash__",
        "__repr__",
        "__str__",
        "__iter__",
        "__len__",
        "isoformat",
        "items",
        "keys",
    )
    names += ("__float__", "__int__", "__index__", "__fspath__", "hex", "bit_length", "utcoffset")
    return type(f"Hostile{base.__name__}", (base,), {**dict.fromkeys(names, refuse), **methods})


class Color(enum.Enum):
    RED = 1
    ARRAY = [1, 2]  # noqa: RUF012  # an odd value


class Shade(str, enum.Enum):  # noqa: UP042  # the older way to write it
    DARK = "dark"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: int = 1


@dataclasses.dataclass
class Broken:
    a: int = dataclasses.field(default=1)

    def __getattribute__(self, name):
        if name == "a":
            raise LookupError("no")
        return super().__getattribute__(name)


class Model(BaseModel, frozen=True):
    a: int = 1


class Naive(dt.tzinfo):
    def utcoffset(self, _):
        raise NotImplementedError

    def tzname(self, _):
        return None

    def dst(self, _):
        return None


class SameText(str):
    """Texts that are equal and yet two keys."""

    __slots__ = ()

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)


class NaTLike(dt.datetime):
    """What pandas' NaT is: a `datetime` that is none."""

    def isoformat(self, *_):
        return "NaT"


HOSTILE = [
    Hostile(),
    Hostile,
    hostile_subclass(str)("text"),
    hostile_subclass(int)(5),
    hostile_subclass(float)(0.5),
    hostile_subclass(bytes)(b"x"),
    hostile_subclass(dict)(a=1),
    hostile_subclass(list)([1]),
    hostile_subclass(tuple)((1,)),
    hostile_subclass(dt.datetime)(2026, 1, 1),
    hostile_subclass(dt.date)(2026, 1, 1),
    hostile_subclass(dt.time)(1, 2),
    hostile_subclass(dt.timedelta)(1),
    hostile_subclass(decimal.Decimal)("1.5"),
    hostile_subclass(uuid.UUID)(int=1),
    hostile_subclass(pathlib.PurePosixPath)("a/b"),
    hostile_subclass(set)(),
    NaTLike(2026, 1, 1),
    dt.datetime(2026, 1, 1, tzinfo=Naive()),
    dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(seconds=1, microseconds=5))),
    decimal.Decimal("sNaN"),
    decimal.Decimal("-NaN123"),
    mock.Mock(),
    mock.MagicMock(),
    mock.Mock(spec=dict),
    mock.MagicMock(spec=BaseMessage),
    Broken(),
    memoryview(b"abcdef")[::2],
    array.array("d", [1.0]),
    types.SimpleNamespace(a=1),
    10**20_000,
    complex(1, 2),
    object,
    len,
    (n for n in range(3)),
]
NATURAL = [
    (Color.RED, 1),
    (Color.ARRAY, [1, 2]),
    (Shade.DARK, "dark"),
    (Level.HIGH, 3),
    (pathlib.PurePosixPath("a/b"), "a/b"),
    (np.int64(5), 5),
    (np.float32(0.5), 0.5),
    (np.float64(0.25), 0.25),
    (np.bool_(True), True),
    (np.str_("x"), "x"),
    (np.bytes_(b"x"), b"x"),
    (np.datetime64("2026-01-01"), dt.date(2026, 1, 1)),
    (fractions.Fraction(1, 4), 0.25),
    (dt.timedelta(days=-1, seconds=5, microseconds=7), dt.timedelta(days=-1, seconds=5, microseconds=7)),
    (Frozen(), {"a": 1}),
    (Model(), {"a": 1}),
    (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (bytearray(b"x"), b"x"),
    (memoryview(b"abcdef")[::2], b"ace"),
]
DESCRIBED = [
    np.array([1, 2]),
    np.array([]),
    np.array(5),
    np.zeros((2, 2)),
    np.datetime64(1, "ns"),
    object(),
    complex(1, 2),
]
KEYS = [
    Color.RED,
    np.int64(5),
    Frozen(),
    Model(),
    Color,
    10**20_000,
    (Frozen(),),
    frozenset({Color.RED}),
    len,
    object(),
]
KEYS += [decimal.Decimal("1.5"), NaTLike(2026, 1, 1), (1, (2, Model())), b"x", None, 1.5, dt.date(2026, 1, 1)]


def stored(value):
    return decode_value(from_json(to_json(encode_value(value))))


def is_readable_json(value):
    json.dumps(encode_value(value), allow_nan=False)
    return True


@pytest.mark.parametrize(("value", "meaning"), NATURAL, ids=lambda value: type(value).__name__)
def test_values_are_stored_as_what_they_mean(value, meaning):
    found = stored([value])[0]
    assert (type(found), found) == (type(meaning), meaning)
    assert encode_value(value, strict=True) == encode_value(value)


@pytest.mark.parametrize("value", DESCRIBED, ids=lambda value: type(value).__name__)
def test_what_cannot_be_kept_is_described_by_its_class(value):
    kind = type(value)
    assert stored({"a": [value]}) == {"a": [{"lh:type": "object", "value": f"{kind.__module__}.{kind.__qualname__}"}]}
    with pytest.raises(InvalidMessageError):
        encode_value(value, strict=True)


@pytest.mark.parametrize("key", KEYS, ids=lambda value: type(value).__name__)
def test_any_key_and_member_can_be_read_again(key):
    back = stored({"d": {key: 1, "other": 2}, "s": {key, "other"}, "f": frozenset({key}), "t": ({key: {key: 3}},)})
    assert (len(back["d"]), len(back["s"]), len(back["f"])) == (2, 2, 1)
    assert sorted(back["d"].values()) == [1, 2]


def test_keys_that_become_equal_stay_apart():
    assert len(stored({Color.RED: "a", 1: "b", "lh:object test": "c"})) == 3
    assert len(stored({object(): "a", object(): "b"})) == 2
    assert len(stored({object(), object(), Color.RED, 1})) == 4
    assert sorted(stored({SameText("a"): 1, SameText("a"): 2}).values()) == [1, 2]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_values_that_answer_no_question(value):
    for inside in ([value], {"a": value}, {"a": [(value,)]}, {1: value}):
        assert is_readable_json(inside)
        stored(inside)
        with contextlib.suppress(InvalidMessageError):
            decode_value(encode_value(inside, strict=True))


def one_of(values):
    """Choose by number: a strategy that holds the values would ask them for their `repr`."""
    return st.integers(0, len(values) - 1).map(lambda number: values[number])


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | one_of(HOSTILE)
scalars |= one_of([value for value, _ in NATURAL]) | one_of(DESCRIBED)
hashable = st.integers() | st.text() | one_of(KEYS)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(hashable, inner)
        | st.sets(hashable)
        | st.frozensets(hashable)
        | st.builds(lambda a: {"lh:type": a}, inner)
    ),
    max_leaves=8,
)
fields = st.sampled_from(["content", "additional_kwargs", "response_metadata", "id", "name", "tool_calls", "type"])
fields |= st.sampled_from(
    ["usage_metadata", "invalid_tool_calls", "artifact", "status", "tool_call_id", "role", "extra", ""]
)


def appended(message, mode):
    """What a session is after an append that may be refused: readable, and empty only if it was refused."""
    store = MemoryStore(on_unserializable=mode)
    store.append("s", [HumanMessage("before")])
    try:
        ids = store.append("s", [message, AIMessage("after")])
    except InvalidMessageError:
        ids = []
    assert [record.id for record in store.records("s")][1:] == ids
    assert len(store.read("s")) == 1 + len(ids)
    return [text for _, text in store.client.sessions["s"].rows][1:]


@settings(max_examples=300, deadline=None)
@given(value=values, mode=st.sampled_from(["describe", "raise"]))
def test_any_value_in_a_message_is_read_again_or_refused(value, mode):
    for message in (
        ToolMessage("x", tool_call_id="1", artifact=value),
        HumanMessage("x", additional_kwargs={"a": value}),
    ):
        for text in appended(message, mode):
            messages_from_dict([json.loads(text)])  # LangChain's classes read the record


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([HumanMessage, AIMessage, ToolMessage]),
    field=fields,
    value=values,
    mode=st.sampled_from(["describe", "raise"]),
)
def test_any_field_that_was_not_validated_is_read_again_or_refused(kind, field, value, mode):
    message = kind.model_construct(content="x", type=kind.model_fields["type"].default)
    message.__dict__[field] = value
    appended(message, mode)


@settings(max_examples=200, deadline=None)
@given(value=values, mode=st.sampled_from(["describe", "raise"]))
def test_any_value_in_a_state_is_read_again_or_refused(value, mode):
    store = MemoryStore(on_unserializable=mode)
    for state in ({"a": value}, {"lh:encoded": value}, {"lh:type": value}):
        try:
            store.put_state("s", state)
        except InvalidMessageError:
            continue
        assert set(store.get_state("s")) == set(state)
        written = store.update_state("s", lambda found: found)
        assert set(written) == set(state)
        store.update_state("s", lambda _, state=state: dict(state))


def test_a_state_is_the_same_only_if_it_is_stored_the_same():
    store = MemoryStore()
    store.put_state("s", {"a": 1, "b": [0.0]})
    for changed in ({"a": True, "b": [0.0]}, {"a": 1.0, "b": [0.0]}, {"a": np.array([1]), "b": []}):
        store.update_state("s", lambda _, changed=changed: changed)
        assert repr(store.get_state("s")) == repr(stored(changed))


def test_surrogates_side_by_side_are_refused_and_others_kept():
    for text in ("\ud800\udfff", "x\ud83d\ude00y"):
        with pytest.raises(InvalidMessageError, match="surrogate"):
            RecordFormat().encode([HumanMessage(text)])
        with pytest.raises(InvalidMessageError, match="surrogate"):
            RecordFormat().encode([HumanMessage("x", additional_kwargs={text: 1})])
    for text in ("\ud800", "\udfff\ud800", "😀\ud800", "\ud800x\udfff"):
        assert stored({text: text}) == {text: text}
    assert stored(["\ud800", "\udfff"]) == ["\ud800", "\udfff"]


def test_a_message_that_cannot_be_read_at_all():
    with pytest.raises(InvalidMessageError, match="HostileFields"):
        RecordFormat().encode([HostileFields("x")])


def test_the_own_fields_of_a_subclass_are_kept():
    class Mine(BaseMessage):
        type: str = "mine"
        role: str = "of my own"
        extra_field: dict = {}  # noqa: RUF012  # pydantic copies it

    (text,) = RecordFormat().encode([Mine(content="x", extra_field={"a": 1})])[1]
    (record,) = RecordFormat().decode([Row(text, "0")], "s")
    assert (record.message.role, record.message.extra_field) == ("of my own", {"a": 1})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["lh:type", "value"]), inner),
    max_leaves=8,
)
TAGS = [
    "bytes",
    "float",
    "datetime",
    "date",
    "time",
    "timedelta",
    "decimal",
    "uuid",
    "tuple",
    "set",
    "frozenset",
    "dict",
]
TAGS += ["document", "escaped", "object", "unknown"]
tagged = st.builds(lambda tag, value: {"lh:type": tag, "value": value}, st.sampled_from(TAGS) | JSON, JSON)
metas = JSON | st.fixed_dictionaries({}, optional={"v": JSON, "id": JSON, "at": JSON, "n": JSON})
planted = st.builds(
    lambda kind, data, meta: json.dumps({"type": kind, "data": data, "meta": meta}),
    st.sampled_from(["human", "ai", "tool", "chat", "remove", "lh:encoded"]) | JSON,
    JSON | tagged | st.fixed_dictionaries({"content": st.text()}, optional={"additional_kwargs": tagged, "id": JSON}),
    metas,
)
planted |= JSON.map(json.dumps) | st.text() | st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "", "NaN", "1e999"])


@settings(max_examples=500, deadline=None)
@given(texts=st.lists(planted | planted.map(lambda text: text.encode("utf-8", "replace")) | st.binary(), max_size=3))
def test_stored_bytes_never_raise_what_is_not_ours(texts):
    good = RecordFormat().encode([HumanMessage("good")])[1][0]
    store = MemoryStore()
    store.append("other", [HumanMessage("x")])
    store.append("s", [HumanMessage("x")])
    session = store.client.sessions["s"]
    session.rows = [(number, text) for number, text in enumerate([*texts, good], 1)]
    lenient = MemoryStore(client=store.client, on_corrupt="skip")
    assert lenient.read("s")[-1].content == lenient.records("s")[-1].message.content == "good"
    assert lenient.read("s", last=1)[0].content == "good"
    assert [info.count for info in store.sessions()] == [1, len(texts) + 1]
    corrupt = True
    while corrupt:
        corrupt = None
        try:
            records = store.records("s")
        except CorruptRecordError as error:
            corrupt = error
        assert corrupt is None or store.delete("s", [corrupt.id]) >= 1
    assert records[-1].message.content == store.read("s")[-1].content == "good"


@settings(max_examples=300, deadline=None)
@given(text=JSON.map(json.dumps) | tagged.map(json.dumps) | st.text() | st.just("[" * 100_000))
def test_a_foreign_state_is_an_error_of_ours_and_never_overwritten(text):
    store = MemoryStore()
    store.put_state("s", {"a": 1})
    store.client.sessions["s"].state = text
    try:
        found = store.get_state("s")
    except HistoryError:
        with pytest.raises(HistoryError):
            store.update_state("s", lambda _: {"mine": 1})
        assert store.client.sessions["s"].state == text
    else:
        assert type(found) is dict
        assert isinstance(json.loads(text), dict)
