"""Any Python object in a message or a state is kept, described, or refused before anything is written.

The kit holds every store to that, and to what is stored already; here are objects of NumPy and pandas, and more chance.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import uuid

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage, ToolMessage, messages_from_dict

from langchain_histories import HistoryError, InvalidMessageError, MemoryStore
from langchain_histories._values import decode_value, encode_value, from_json, to_json
from langchain_histories.codec import RecordFormat
from langchain_histories.testing.messages import comparable
from langchain_histories.testing.odd_objects import (
    HOSTILE,
    KEYS,
    NATURAL,
    Colour,
    Odd,
    described,
    described_key,
    odd_message,
    odd_value,
    spoilt_message,
)
from langchain_histories.testing.odd_records import odd_json, odd_record

ARRAYS = [
    Odd(np.int64(5), 5),
    Odd(np.float32(0.5), 0.5),
    Odd(np.float64(0.25), 0.25),
    Odd(np.bool_(True), True),
    Odd(np.str_("x"), "x"),
    Odd(np.bytes_(b"x"), b"x"),
    Odd(np.datetime64("2026-01-01"), dt.date(2026, 1, 1)),
    Odd(np.timedelta64(90, "s"), dt.timedelta(seconds=90)),
    described(np.array([1, 2])),
    described(np.array([])),
    described(np.array(5)),
    described(np.zeros((2, 2))),
    described(np.datetime64(1, "ns")),
    Odd(np.complex128(1), described(complex(1)).kept, is_kept=False),
    described(np.ma.masked),
    described(np.dtype("int64")),
]
FRAMES = [
    Odd(pd.Timestamp("2026-01-01T10:00", tz="UTC"), dt.datetime(2026, 1, 1, 10, tzinfo=dt.UTC)),
    Odd(pd.Timedelta("1 day"), dt.timedelta(1)),
    described(pd.NaT),
    described(pd.NA),
    described(pd.DataFrame({"a": [1, 2], "until": [pd.NaT, pd.NaT]})),
    described(pd.DataFrame()),
    described(pd.Series([1, 2])),
    described(pd.Series([True])),
    described(pd.Index([1, 2])),
    described(pd.Categorical(["a", "b"])),
    described(pd.Period("2026-01")),
    described(pd.Interval(0, 1)),
    Odd(pd.DataFrame({"n": [1], "x": [0.5], "s": ["t"]}).to_dict("records"), [{"n": 1, "x": 0.5, "s": "t"}]),
]
SCALAR_KEYS = [Odd(np.int64(5), 5), described_key(pd.NaT), described_key(pd.NA), described_key(np.datetime64(1, "ns"))]
ODD = [*NATURAL, *HOSTILE, *ARRAYS, *FRAMES]
chances = st.randoms(use_true_random=False)


def stored(value):
    return decode_value(from_json(to_json(encode_value(value))))


def type_of(odd):
    return type(odd.value).__name__


@pytest.mark.parametrize("odd", ODD, ids=type_of)
def test_an_object_is_stored_as_what_it_means_or_described(odd):
    value, kept, is_kept = odd
    back = stored({"a": [value], "b": (value,), 1: {"lh:type": value}})
    assert comparable(back) == comparable({"a": [kept], "b": (kept,), 1: {"lh:type": kept}})
    json.dumps(encode_value(value), allow_nan=False)
    if is_kept:
        assert encode_value(value, strict=True) == encode_value(value)
    else:
        with pytest.raises(InvalidMessageError):
            encode_value(value, strict=True)


@pytest.mark.parametrize("odd", ARRAYS + FRAMES, ids=type_of)
def test_numpy_and_pandas_in_messages_and_states(odd):
    store = MemoryStore()
    message = ToolMessage("x", tool_call_id="1", artifact=odd.value)
    message.additional_kwargs["rows"] = [{"until": odd.value}]
    store.append("s", [message])
    (back,) = store.read("s")
    assert comparable([back.artifact, back.additional_kwargs]) == comparable(
        [odd.kept, {"rows": [{"until": odd.kept}]}]
    )
    store.put_state("s", {"a": odd.value})
    assert comparable(store.update_state("s", lambda _: {"b": 1, "a": odd.value})) == comparable(
        {"a": odd.kept, "b": 1}
    )


@pytest.mark.parametrize("key", [*KEYS, *SCALAR_KEYS], ids=type_of)
def test_any_key_and_member_can_be_read_again(key):
    value, kept, _ = key
    back = stored({"d": {value: 1, "other": 2}, "s": {value, "other"}, "f": frozenset({value}), "t": ({value: 3},)})
    assert back == {"d": {kept: 1, "other": 2}, "s": {kept, "other"}, "f": frozenset({kept}), "t": ({kept: 3},)}


class SameText(str):
    """Texts that are equal and yet two keys."""

    __slots__ = ()

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)


def test_keys_that_become_equal_stay_apart():
    assert len(stored({Colour.RED: "a", 1: "b", "lh:object test": "c"})) == 3
    assert len(stored({object(): "a", object(): "b"})) == 2
    assert len(stored({object(), object(), Colour.RED, 1})) == 4
    assert sorted(stored({SameText("a"): 1, SameText("a"): 2}).values()) == [1, 2]


@settings(max_examples=100)
@given(chances)
def test_any_value(chance):
    value, kept, is_kept = odd_value(chance, ARRAYS + FRAMES)
    assert comparable(stored(value)) == comparable(kept)
    if is_kept:
        encode_value(value, strict=True)
    else:
        with pytest.raises(InvalidMessageError):
            encode_value(value, strict=True)


@settings(max_examples=100)
@given(chances)
def test_any_message_is_read_again_by_langchain_too(chance):
    odd = odd_message(chance, ARRAYS + FRAMES)
    store = MemoryStore()
    store.append("s", [odd.value])
    assert comparable(store.read("s")) == comparable([odd.kept])
    messages_from_dict([json.loads(text) for _, text in store.client.sessions["s"].rows])


@settings(max_examples=100)
@given(chances, st.sampled_from(["describe", "raise"]))
def test_a_message_that_was_not_validated_is_read_again_or_refused(chance, mode):
    store = MemoryStore(on_unserializable=mode)
    try:
        ids = store.append("s", [spoilt_message(chance, ARRAYS + FRAMES)])
    except InvalidMessageError:
        ids = []
    assert [record.id for record in store.records("s")] == ids
    assert len(store.read("s")) == len(ids)


def test_surrogates_side_by_side_are_refused_and_others_kept():
    for text in ("\ud800\udfff", "x\ud83d\ude00y"):
        with pytest.raises(InvalidMessageError, match="surrogate"):
            RecordFormat().encode([HumanMessage(text)])
        with pytest.raises(InvalidMessageError, match="surrogate"):
            RecordFormat().encode([HumanMessage("x", additional_kwargs={text: 1})])
    for text in ("\ud800", "\udfff\ud800", "😀\ud800", "\ud800x\udfff"):
        assert stored({text: text}) == {text: text}
    assert stored(["\ud800", "\udfff"]) == ["\ud800", "\udfff"]


def test_specials():
    values = [decimal.Decimal("-0E+5"), decimal.Decimal("-NaN123"), uuid.UUID(int=1), dt.time(1, 2, tzinfo=dt.UTC)]
    assert list(map(repr, stored(values))) == list(map(repr, values))


texts = chances.map(odd_record) | st.text() | st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "", "NaN", "1e999"])


@settings(max_examples=150)
@given(st.lists(texts | texts.map(lambda text: text.encode("utf-8", "replace")) | st.binary(), max_size=3))
def test_stored_bytes_never_raise_what_is_not_ours(rows):
    good = RecordFormat().encode([HumanMessage("good")])[1][0]
    store = MemoryStore()
    store.append("other", [HumanMessage("x")])
    store.append("s", [HumanMessage("x")])
    store.client.sessions["s"].rows = list(enumerate([*rows, good], 1))
    lenient = MemoryStore(client=store.client, on_corrupt="skip")
    assert lenient.read("s")[-1].content == lenient.records("s")[-1].message.content == "good"
    assert lenient.read("s", last=1)[0].content == "good"
    assert [info.count for info in store.sessions()] == [1, len(rows) + 1]
    corrupt = None
    try:
        store.read("s")
    except HistoryError as error:
        corrupt = error
    assert corrupt is None or store.delete("s", [corrupt.id]) >= 1


@settings(max_examples=150)
@given(texts | chances.map(odd_json).map(json.dumps) | st.binary())
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
