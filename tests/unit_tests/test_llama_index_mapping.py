"""LlamaIndex's messages and LangChain's: each survives the way through the other's form."""

import json
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_histories import CorruptRecordError, MemoryStore
from langchain_histories.codec import RecordFormat, Row, encode_message
from langchain_histories.integrations.mapping.differences import difference, patched
from langchain_histories.integrations.mapping.llama_index import (
    KEY,
    langchain_difference,
    to_langchain,
    to_llama_index,
)
from langchain_histories.testing.messages import comparable, golden_messages

TEXT = st.text(max_size=8)
BASE64 = st.sampled_from(["aGk=", "AAAA"])
OPTIONAL = st.one_of(st.none(), TEXT)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXT), lambda it: st.lists(it, max_size=2), max_leaves=3
)
ARGUMENTS = st.dictionaries(TEXT, JSON, max_size=2)


def block(kind, **fields):
    return st.fixed_dictionaries({"block_type": st.just(kind), **fields})


def media(kind, data, *more):
    fields = dict.fromkeys(more, OPTIONAL)
    return st.one_of(
        block(kind, **{data: BASE64}, **fields),
        block(kind, url=st.sampled_from(["https://e.com/a", "a/b"]), **fields),
        block(kind, path=TEXT, **fields),
    )


PLAIN = st.one_of(block("text", text=TEXT), media("image", "image", "image_mimetype", "detail"))
BLOCKS = st.one_of(
    PLAIN,
    media("audio", "audio", "format"),
    media("video", "video", "video_mimetype", "detail"),
    media("document", "data", "document_mimetype", "title"),
    block("cache", cache_control=st.just({"type": "ephemeral", "ttl": "5m"})),
    block("citable", title=TEXT, source=TEXT, content=st.lists(PLAIN, max_size=2)),
    block("citation", source=TEXT, title=TEXT, cited_content=PLAIN, additional_location_info=st.just({"page": 3})),
    block(
        "thinking", content=OPTIONAL, num_tokens=st.one_of(st.none(), st.integers()), additional_information=ARGUMENTS
    ),
    block(
        "tool_call",
        tool_call_id=OPTIONAL,
        tool_name=TEXT,
        tool_kwargs=st.one_of(ARGUMENTS, ARGUMENTS.map(json.dumps), st.sampled_from(["", "{bad", "[1]", '{"a":"é"}'])),
    ),
)
ROLES = ["system", "developer", "user", "assistant", "function", "tool", "chatbot", "model"]
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "id": TEXT,
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": TEXT, "arguments": ARGUMENTS.map(json.dumps)}),
        }
    ),
    min_size=1,
    max_size=2,
)
KWARGS = st.one_of(
    st.dictionaries(
        st.sampled_from(["name", "tool_call_id", "n", "refusal", "reasoning_content", "images"]), JSON, max_size=3
    ),
    st.fixed_dictionaries({"tool_calls": CALLS}),
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(ROLES), "additional_kwargs": KWARGS, "blocks": st.lists(BLOCKS, max_size=4)}
)


def lean(message):
    """Without what says nothing."""
    blocks = [{name: value for name, value in it.items() if value is not None} for it in message["blocks"]]
    return {**message, "blocks": blocks}


def through_a_record(message):
    """As a store reads what LlamaIndex's class wrote, and a program the message of it."""
    row = Row(json.dumps(message, ensure_ascii=False), "0")
    (record,) = RecordFormat().decode([row], "s")
    return record.message


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(MESSAGES)
def test_a_message_of_llama_index_survives_langchain(message):
    """As it is read in place, and stored again in LangChain's form."""
    read = through_a_record(message)
    assert to_llama_index(encode_message(read)) == lean(message)
    formatted = RecordFormat()
    _, texts = formatted.encode([read])
    (again,) = formatted.decode_messages([Row(texts[0], "0")], "s")
    assert again == read
    assert set(encode_message(again)) == {"type", "data"}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(MESSAGES)
def test_no_text_of_a_message_is_in_what_is_beside_its_content(message):
    """Or what `before_save` removes from the message would stay there. What has no place in a message is only there."""
    marked = json.loads(json.dumps(message))
    shown = [it for it in marked["blocks"] if it["block_type"] == "text"]
    for it in shown:
        it["text"] = "s3cret"
    beside = to_langchain(marked)["data"]["additional_kwargs"].get(KEY, {})
    assert "s3cret" not in json.dumps(beside)


def test_arguments_that_are_written_as_text_are_in_no_difference():
    for text in (
        '{"password": "s3cret"}',
        '{"password":"s3cret"}',
        '{ "password" : "s3cret" }',
        '{"password": "s3cret',
    ):
        call = {"block_type": "tool_call", "tool_call_id": "c", "tool_name": "f", "tool_kwargs": text}
        made = to_langchain({"role": "assistant", "blocks": [call], "additional_kwargs": {}})
        assert "s3cret" not in json.dumps(made["data"]["additional_kwargs"])
        back = to_llama_index(made)["blocks"][0]["tool_kwargs"]
        assert back.replace(" ", "") == text.replace(" ", "")


HARD = [
    HumanMessage(
        [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "https://e.com/a.png"}}]
    ),
    HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}], id="h"),
    HumanMessage([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]),
    HumanMessage([{"type": "image", "source_type": "base64", "data": "AAAA", "mime_type": "image/png"}]),
    HumanMessage([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
    HumanMessage([{"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}]),
    HumanMessage("hi", name="ann", id="1"),
    AIMessage(
        [
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "text", "text": "a"},
            {"type": "tool_use", "id": "c", "name": "f", "input": {"x": 1}},
        ],
        tool_calls=[{"id": "c", "name": "f", "args": {"x": 1}}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    ),
    AIMessage(
        "", invalid_tool_calls=[{"id": "c", "name": "f", "args": "{bad", "error": "e", "type": "invalid_tool_call"}]
    ),
    ToolMessage("42", tool_call_id="c", artifact={"rows": [1]}, status="error", id="t"),
    SystemMessage("be kind", additional_kwargs={"__openai_role__": "developer"}),
    ChatMessage("no", role="critic"),
]


@pytest.mark.parametrize("message", [*golden_messages(), *HARD], ids=lambda message: message.type)
def test_a_message_of_langchain_survives_llama_index_where_it_may_keep_a_key(message):
    payload = encode_message(message)
    kept = json.loads(json.dumps(to_llama_index(payload, keep=True)))
    assert kept["role"] in ROLES
    assert langchain_difference(payload, to_langchain(kept)) is None
    written = RecordFormat().decode_messages([Row(json.dumps(kept), "0")], "s")
    expected = RecordFormat().decode_messages([Row(json.dumps(payload), "0")], "s")
    assert [comparable(it) for it in written] == [comparable(it) for it in expected]


def test_llama_index_sees_what_other_packages_put_into_content():
    shown = [[part["block_type"] for part in to_llama_index(encode_message(it))["blocks"]] for it in HARD]
    assert shown[:6] == [["text", "image"], ["image"], ["image"], ["image"], ["audio"], ["document"]]
    assert shown[7:9] == [["thinking", "text", "tool_call"], ["tool_call"]]


def test_an_edited_message_is_shown_as_it_is_now():
    message = through_a_record(
        {
            "role": "chatbot",
            "additional_kwargs": {},
            "blocks": [
                {"block_type": "cache", "cache_control": {"type": "e", "ttl": "5m"}},
                {"block_type": "text", "text": "old"},
            ],
        }
    )
    message.content = "new"
    shown = to_llama_index(encode_message(message))
    assert shown["role"] == "chatbot"
    assert [it.get("text") for it in shown["blocks"]] == [None, "new"]
    message.content = [{"type": "text", "text": "new"}, {"type": "text", "text": "er"}]
    assert [it["text"] for it in to_llama_index(encode_message(message))["blocks"]] == ["new", "er"]


def test_one_odd_record_makes_no_session_unreadable():
    store = MemoryStore()
    good = {"role": "user", "content": "an old one", "additional_kwargs": {}}
    new = {"role": "assistant", "blocks": [{"block_type": "hologram", "data": 1}], "additional_kwargs": None}
    bad = {"role": "user", "blocks": "none", "additional_kwargs": {}}
    rows = [Row(json.dumps(it), str(number)) for number, it in enumerate((good, new, bad))]
    first, second = store.format.decode(rows[:2], "s")
    assert (first.message.content, second.message.content) == ("an old one", "")
    assert to_llama_index(encode_message(second.message))["blocks"] == new["blocks"]
    with pytest.raises(CorruptRecordError, match="position 2"):
        store.format.decode(rows, "s")
    assert len(RecordFormat(on_corrupt="skip").decode(rows, "s")) == 2


@settings(max_examples=100, deadline=None)
@given(JSON | ARGUMENTS, JSON | ARGUMENTS)
def test_a_difference_makes_what_was_wanted(wanted, derived):
    assert patched(derived, difference(wanted, derived, "type"), "type") == wanted


def requests(messages):
    """What two packages of providers would send, without a network."""
    from langchain_anthropic import ChatAnthropic
    from langchain_openai import ChatOpenAI

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        openai = ChatOpenAI(model="gpt-4.1", api_key="none")
        anthropic = ChatAnthropic(model="claude-sonnet-4-5", api_key="none")
    responses = ChatOpenAI(model="gpt-4.1", api_key="none", use_responses_api=True)
    for model in (openai, responses, anthropic):
        yield model._get_request_payload(messages)


def test_providers_are_sent_nothing_of_ours():
    def message(role, *blocks, **more):
        return {"role": role, "additional_kwargs": more, "blocks": list(blocks)}

    text, call = (
        {"block_type": "text", "text": "hi"},
        {"block_type": "tool_call", "tool_call_id": "c", "tool_name": "f"},
    )
    cache = {"block_type": "cache", "cache_control": {"type": "ephemeral", "ttl": "5m"}}
    history = [
        message(
            "user",
            text,
            cache,
            {"block_type": "image", "image": "AAAA", "image_mimetype": "image/png", "detail": "low"},
        ),
        message(
            "assistant",
            {"block_type": "thinking", "content": "hm", "num_tokens": 3, "additional_information": {"signature": "s"}},
            {**call, "tool_kwargs": '{"x":1}'},
            text,
            {
                "block_type": "citation",
                "source": "s",
                "title": "t",
                "cited_content": text,
                "additional_location_info": {},
            },
        ),
        message("tool", text, tool_call_id="c", name="f"),
        message("user", {"block_type": "citable", "title": "t", "source": "s", "content": [text]}, text),
        message("chatbot", text),
        message("user", text),
    ]
    messages = [through_a_record(it) for it in history]
    for request in requests(messages):
        sent = json.dumps(request, default=str)
        assert "lh:" not in sent
        assert not any(
            name in sent for name in ("block_type", "cited_content", "num_tokens", "citable", "chatbot", "hm")
        )
        assert json.dumps(request, default=str).count("AAAA") == 1
