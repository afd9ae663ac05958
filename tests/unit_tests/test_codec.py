"""The stored form of a message: a public format."""

from __future__ import annotations

import datetime as dt
import json
import logging
import uuid
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
    messages_from_dict,
)
from pydantic import BaseModel

from langchain_histories import CorruptRecordError, InvalidMessageError
from langchain_histories.codec import (
    RecordFormat,
    Row,
    decode_message,
    decode_value,
    encode_message,
    encode_value,
    from_json,
    to_json,
)
from langchain_histories.testing import golden_messages


def encode(*messages, **options):
    return [json.loads(text) for text in RecordFormat(**options).encode(messages)[1]]


def decode(*texts, **options):
    return RecordFormat(**options).decode([Row(text, str(n)) for n, text in enumerate(texts)], "s")


def test_a_record_is_langchains_form_and_an_envelope():
    message = AIMessage("é", id="1", tool_calls=[{"name": "f", "args": {}, "id": "c"}])
    (record,) = encode(message)
    meta = record.pop("meta")
    assert record == message_to_dict(message)
    assert set(meta) == {"v", "id", "at"}
    assert (meta["v"], uuid.UUID(hex=meta["id"]).version) == (1, 4)
    assert meta["at"].endswith("Z")
    assert dt.datetime.fromisoformat(meta["at"]).tzinfo == dt.UTC


def test_text_is_utf8_and_not_escapes_but_for_lone_surrogates():
    assert "é👍" in RecordFormat().encode([HumanMessage("é👍")])[1][0]
    (text,) = RecordFormat().encode([HumanMessage("é\ud800")])[1]
    assert text.isascii()
    assert decode(text)[0].message.content == "é\ud800"


def test_golden_messages_are_read_by_langchain_as_plain_data():
    records = encode(*golden_messages())
    for record, message in zip(records, messages_from_dict(records), strict=True):
        assert message.type == record["type"]


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.binary()
        | st.uuids()
        | st.datetimes().map(lambda moment: moment.replace(fold=0))  # ISO 8601 has no fold
        | st.decimals(),
        lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=12,
    )
)
def test_any_value_comes_back(value):
    assert repr(decode_value(from_json(to_json(encode_value(value))))) == repr(value)


@given(
    st.dictionaries(
        st.sampled_from(["lh:type", "value", "a"]), st.sampled_from(["bytes", "x", {"lh:type": "set", "value": [1]}])
    )
)
def test_a_user_may_use_our_tag(value):
    assert decode_value(encode_value(value)) == value


def test_chunks_become_the_whole_message():
    chunk = AIMessageChunk("x", tool_call_chunks=[{"name": "f", "args": '{"a": 1}', "id": "c", "index": 0}])
    record = encode_message(chunk)
    assert record["type"] == record["data"]["type"] == "ai"
    assert type(decode_message(record)) is AIMessage
    assert decode_message(record).tool_calls[0]["args"] == {"a": 1}


def test_subclasses_are_stored_as_the_class_they_extend():
    class Mine(HumanMessage):
        type: str = "mine"
        extra_field: int = 3

    record = encode_message(Mine("x"))
    assert (record["type"], record["data"]["type"]) == ("human", "human")
    back = decode_message(record)
    assert (type(back), back.content, back.extra_field) == (HumanMessage, "x", 3)


def test_models_and_dataclasses_become_plain_objects():
    class Model(BaseModel):
        a: int

    @dataclass
    class Data:
        when: dt.date

    message = ToolMessage("x", tool_call_id="1", artifact=[Model(a=1), Data(dt.date(2026, 1, 1))])
    assert decode(*RecordFormat().encode([message])[1])[0].message.artifact == [{"a": 1}, {"when": dt.date(2026, 1, 1)}]


def test_what_cannot_be_kept_is_described(caplog):
    for value in ([10**5000], [object()], [print], {1: object()}, {object()}, {object(): 1}):
        with caplog.at_level(logging.WARNING):
            assert "lh:type" in to_json(encode_value(value))
        with pytest.raises(InvalidMessageError):
            encode_value(value, strict=True)


@pytest.mark.parametrize("strict", [False, True])
def test_cycles_and_depth_are_refused(strict):
    cyclic = {}
    cyclic["self"] = [cyclic]
    deep = []
    for _ in range(5000):
        deep = [deep]
    pairs = {}
    for _ in range(100):
        pairs = {1: (pairs,)}
    for value in (cyclic, deep, pairs):
        with pytest.raises(InvalidMessageError, match=r"contains itself|levels deep"):
            encode_value(value, strict=strict)


def test_the_callers_message_is_not_changed():
    message = ToolMessage("x", tool_call_id="1", artifact={"b": b"\0"})
    encode_message(message)
    assert message.artifact == {"b": b"\0"}


@pytest.mark.parametrize("bad", ["text", None, {"type": "human"}, ("human", "hi"), 5, HumanMessage])
def test_what_is_no_message(bad):
    with pytest.raises(InvalidMessageError, match="BaseMessage"):
        RecordFormat().encode([SystemMessage("fine"), bad])


def test_a_hook_that_returns_no_message():
    with pytest.raises(InvalidMessageError):
        RecordFormat(before_save=lambda message: "text").encode([HumanMessage("x")])


def test_a_record_of_a_newer_version_says_so():
    text = json.dumps({**message_to_dict(HumanMessage("x")), "meta": {"v": 2, "id": "i", "at": "2026-01-01T00:00:00Z"}})
    with pytest.raises(CorruptRecordError, match=r"version 2.*upgrade") as caught:
        decode(text)
    assert (caught.value.session_id, caught.value.position) == ("s", "0")


def test_the_content_of_a_corrupt_record_is_in_no_message():
    with pytest.raises(CorruptRecordError) as caught:
        decode('{"type": "human", "data": {"content": 5, "secret": "hunter2"}}')
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_langchains_bare_nan_is_read():
    (record,) = decode('{"type": "ai", "data": {"content": "x", "response_metadata": {"p": NaN}}}')
    assert repr(record.message.response_metadata["p"]) == "nan"


def test_the_id_of_a_row():
    ids, texts = RecordFormat().encode([HumanMessage("x"), HumanMessage("y")])
    assert [RecordFormat().record_id(Row(text, "0")) for text in texts] == ids
    foreign = Row('{"type": "human", "data": {"content": "x"}}', "0")
    assert RecordFormat().record_id(foreign) == RecordFormat().decode([foreign], "s")[0].id
    assert RecordFormat().record_id(Row("{cut", "0"))


def test_the_size_of_a_batch_that_earlier_releases_wrote_is_ignored():
    text = (
        '{"type": "human", "data": {"content": "x"}, "meta": {"v": 1, "id": "i", "at": "2026-11-21T20:00:00Z", "n": 2}}'
    )
    (record,) = decode(text)
    assert (record.id, record.message) == ("i", HumanMessage("x"))


def test_errors_can_be_pickled():
    import pickle

    from langchain_histories import StoreUnavailableError

    error = pickle.loads(pickle.dumps(StoreUnavailableError("down", "redis", "append", "42")))
    assert (str(error), error.store, error.operation, error.session_id) == ("down", "redis", "append", "42")
    corrupt = pickle.loads(pickle.dumps(CorruptRecordError("bad", "42", "7")))
    assert (str(corrupt), corrupt.session_id, corrupt.position) == ("bad", "42", "7")


def test_messages_that_langchain_stored_need_no_ids():
    """A read of messages asks a row for its text alone."""

    class Placeless(Row):
        @property
        def position(self):
            pytest.fail("a read of messages asks for a position")

    message = HumanMessage("a")
    row = Placeless(json.dumps(message_to_dict(message)), "")
    assert RecordFormat().decode_messages([row, row], "s") == [message, message]


def test_an_envelope_that_others_made_hides_no_message():
    """What stands where an application's meta is may be anything; an edit of the message keeps it as it is."""
    plain = RecordFormat()
    for app in (5, "x", [1], {"lh:type": "no such tag", "value": 1}):
        (text,) = plain.encode([HumanMessage("a")])[1]
        stored = json.loads(text)
        stored["meta"]["app"] = app
        row = Row(json.dumps(stored), "1")
        (record,) = plain.decode([row], "s")
        assert (record.message, record.meta) == (HumanMessage("a"), {})
        assert json.loads(plain.again(row, HumanMessage("b")))["meta"]["app"] == app
