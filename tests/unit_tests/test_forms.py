"""A conversation in the forms of others, and back."""

from __future__ import annotations

import asyncio
import datetime as dt
import html.parser
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_from_dict,
    messages_to_dict,
)

from langchain_histories import (
    ConfigurationError,
    InMemoryChatMessageHistory,
    InvalidMessageError,
    MemoryStore,
    aexport_session,
    aimport_session,
    export_session,
    import_session,
)
from langchain_histories.testing.messages import comparable, golden_messages, numbered, texts
from langchain_histories.testing.odd_objects import odd_message, spoilt_message
from langchain_histories.testing.suite.foreign import plant

chances = st.randoms(use_true_random=False)

# As OpenAI's documentation has them.
CHAT = [
    {"role": "developer", "content": "Be kind."},
    {"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}]},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":"x.png"}'}},
            {"id": "c2", "type": "function", "function": {"name": "look", "arguments": "{not json"}},
        ],
    },
    {"role": "tool", "content": "a cat", "tool_call_id": "c1"},
    {"role": "assistant", "content": "A cat.", "refusal": "No more."},
    {"role": "user", "name": "ivan", "content": "Thanks"},
    {"role": "moderator", "content": "any role"},
]  # fmt: skip
RESPONSES = [
    {"role": "user", "content": "Weather in Rome and Oslo?"},
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": '{"city": "Rome"}'},
    {"type": "function_call", "id": "fc_2", "call_id": "c2", "name": "weather", "arguments": '{"city": "Oslo"}'},
    {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "snow"}]},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Sun and snow.", "annotations": []}],
    },
    {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    {"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": "data:,"}]},
    {"role": "assistant", "content": "plain"},
]


def stored(*messages):
    store = MemoryStore()
    store.append("s", list(messages))
    return store


def told(store):
    return [(record.id, record.at, comparable(record.message)) for record in store.records("s")]


@pytest.fixture(params=["sync", "async"])
def faces(request):
    """Both functions of one face."""
    if request.param == "sync":
        return export_session, import_session
    return (
        lambda *args: asyncio.run(aexport_session(*args)),
        lambda *args: asyncio.run(aimport_session(*args)),
    )


def test_langchains_form_and_back(faces):
    export, import_ = faces
    source, target = stored(*golden_messages()), MemoryStore()
    source.append("s", numbered(2))
    plant(source, "s", ['{"type": "human", "data": {"content": "old", "type": "human", "example": false}}'])
    exported = export(source, "s", "langchain")
    assert [message.type for message in messages_from_dict(exported)] == [m.type for m in source.read("s")]
    exported = json.loads(json.dumps(exported, allow_nan=False))
    assert import_(exported, target, "s") == len(exported)
    assert told(target) == told(source)
    assert import_(exported, target, "s") == 0


def test_what_messages_to_dict_makes(faces):
    _, import_ = faces
    own = HumanMessage("0", additional_kwargs={"at": dt.date(2026, 1, 1), "bytes": b"\xff", "nan": float("nan")})
    store, said = MemoryStore(), messages_to_dict([*numbered(2), own, HumanMessage("0")])
    assert import_(said[:3], store, "s") == 3
    assert import_(said, store, "s") == 1
    assert import_(said, store, "s") == 0
    assert texts(store.read("s")) == ["0", "1", "0", "0"]
    assert comparable(store.read("s")[2]) == comparable(own)
    assert import_([], store, "s") == 0


def test_openais_chat_form_and_back(faces):
    export, import_ = faces
    store = MemoryStore()
    assert import_(CHAT, store, "s") == len(CHAT)
    assert import_(CHAT, store, "s") == 0
    assert export(store, "s", "openai") == CHAT
    system, _, calling, answer, refusing, _, other = store.read("s")
    assert isinstance(system, SystemMessage)
    assert [call["args"] for call in calling.tool_calls] == [{"at": "x.png"}]
    assert [call["args"] for call in calling.invalid_tool_calls] == ["{not json"]
    assert (answer.tool_call_id, refusing.additional_kwargs["refusal"]) == ("c1", "No more.")
    assert isinstance(other, ChatMessage)


def test_openais_items_of_responses(faces):
    """Calls of one step are one message, with the answers behind it, as every provider wants them."""
    export, import_ = faces
    store = MemoryStore()
    assert import_(RESPONSES, store, "s") == 7
    assert import_(RESPONSES, store, "s") == 0
    asked, calling, rome, oslo, said, image, plain = store.read("s")
    assert [call["args"]["city"] for call in calling.tool_calls] == ["Rome", "Oslo"]
    assert calling.content == [RESPONSES[1]]
    assert (rome.content, rome.tool_call_id, oslo.text) == ("sunny", "c1", "snow")
    assert (said.text, said.id, said.content[-1]) == ("Sun and snow.", "msg_1", RESPONSES[7])
    assert image.content == [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    assert (asked.content, plain.content) == ("Weather in Rome and Oslo?", "plain")
    chat = export(store, "s", "openai")
    assert [message["role"] for message in chat] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "user",
        "assistant",
    ]


@pytest.mark.parametrize(
    ("conversation", "where"),
    [
        ("text", "list of dicts"),
        ({"role": "user", "content": "x"}, "list of dicts"),
        ([{"role": "user", "content": "x"}, 5], "Item 1"),
        ([{"role": "user", "content": "x"}, {"role": "tool", "content": "secret"}], "Item 1"),
        ([{"role": "assistant", "content": "x", "tool_calls": [{"id": "c"}]}], "Item 0"),
        ([{"role": 5, "content": "x"}], "Item 0"),
        ([{"content": "secret"}], "Item 0"),
        ([{"type": "alien", "data": {"content": "secret"}}], "Item 0"),
        ([{"type": "human", "data": {"content": "x"}, "meta": {"v": 2, "id": "secret"}}], "Item 0"),
        ([{"type": "human", "data": {"content": "x"}}, {"type": "human", "data": 5}], "Item 1"),
        ([{"type": "human", "data": {"content": "x"}}, {"role": "user", "content": "secret"}], "Item 0"),
    ],
)
def test_what_is_no_conversation(faces, conversation, where):
    _, import_ = faces
    store = MemoryStore()
    with pytest.raises(InvalidMessageError, match=where) as caught:
        import_(conversation, store, "s")
    assert "secret" not in str(caught.value)
    assert store.sessions() == []


def test_bad_arguments(faces):
    export, import_ = faces
    with pytest.raises(ConfigurationError, match="form must be"):
        export(MemoryStore(), "s", "pdf")
    with pytest.raises(ConfigurationError, match="store must be a store"):
        export(InMemoryChatMessageHistory(), "s", "html")
    with pytest.raises(ConfigurationError, match="store must be a store"):
        import_([], InMemoryChatMessageHistory(), "s")


def test_what_openai_has_no_form_for():
    said = [
        AIMessage([{"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}, {"type": "text", "text": "so"}]),
        HumanMessage([{"type": "tool_result", "tool_use_id": "t1", "content": "done"}]),
        HumanMessage([{"type": "media", "mime_type": "audio/wav", "data": b"x"}]),
        ToolMessage("x", tool_call_id="1", artifact=object()),
    ]
    used, result, media, _ = export_session(stored(*said), "s", "openai")
    assert used["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert (result["role"], result["tool_call_id"], result["content"]) == ("tool", "t1", "done")
    assert media["content"] == [{"type": "media", "mime_type": "audio/wav", "data": "eA=="}]


NASTY = '</p></pre></details></article><script>alert(1)</script><img src=x onerror="alert(1)">\n```\n# x'


class Page(html.parser.HTMLParser):
    """What a browser takes for tags, and the texts of paragraphs and blocks."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self._open = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, tuple(sorted(dict(attributes)))))
        if tag in ("p", "pre"):
            self.texts.append("")
            self._open = True

    def handle_endtag(self, tag):
        if tag in ("p", "pre"):
            self._open = False

    def handle_data(self, data):
        if self._open:
            self.texts[-1] += data


def test_a_page_of_html_is_what_was_said_and_nothing_else():
    store = stored(
        HumanMessage(NASTY, name=NASTY),
        AIMessage([{"type": NASTY, NASTY: NASTY}], tool_calls=[{"name": NASTY, "args": {NASTY: NASTY}, "id": NASTY}]),
        ChatMessage(content="", role=NASTY),
    )
    plant(store, NASTY, [json.dumps({"type": "human", "data": {"content": "x\x00\ud800"}})])
    page = Page(export_session(store, "s", "html"))
    known = {"html", "head", "meta", "title", "style", "body", "main", "h1", "article", "header", "h2", "time"}
    assert {tag for tag, _ in page.tags} == {*known, "p", "details", "summary", "pre"}
    assert {name for _, names in page.tags for name in names} == {
        "charset",
        "name",
        "content",
        "http-equiv",
        "class",
        "dir",
        "open",
    }
    assert page.texts[0] == NASTY
    assert Page(export_session(store, NASTY, "html")).texts == ["x\ufffd\ufffd"]


def test_a_page_of_markdown():
    said = "See *this*:\n\n```html\n<b>code</b>\n  ```\n<b>no code</b>\n- ~~~\n~~~ `x`\n<i>\n```\n~~~\n<i>"
    store = stored(
        HumanMessage(said, name="a_b"),
        AIMessage("", tool_calls=[{"name": "f", "args": {"a": "```"}, "id": "1"}]),
        ToolMessage("no", tool_call_id="1", status="error"),
    )
    page = export_session(store, "s", "markdown").split("\n")
    assert page[0] == "# s"
    assert [line.partition(" · ")[0] for line in page if line.startswith("## ")] == [
        "## Human \\(a\\_b\\)",
        "## AI",
        "## Tool: error",
    ]
    start = page.index("> See *this*:")
    assert page[start + 2 : start + 13] == [
        *("> ```html", "> <b>code</b>", ">   ```", "> &lt;b>no code&lt;/b>", "> - ~~~", "> ~~~ `x`", "> <i>"),
        *("> ```", "> ~~~", "> &lt;i>", ""),
    ]
    assert page[page.index("call of f:") + 2] == "````"


@settings(max_examples=40, deadline=None)
@given(chances, st.booleans())
def test_any_message_has_every_form(chance, is_spoilt):
    """No form raises, all can be written as UTF-8 and JSON, and what is read back has the same form again."""
    store = MemoryStore()
    for _ in range(3):
        message = odd_message(chance).value
        try:
            store.append("s", [spoilt_message(chance) if is_spoilt else message])
        except InvalidMessageError:
            continue
    for form in ("markdown", "html"):
        export_session(store, "s", form).encode()
    back = MemoryStore()
    import_session(json.loads(json.dumps(export_session(store, "s", "langchain"), allow_nan=False)), back, "s")
    assert told(back) == told(store)
    chat = json.loads(json.dumps(export_session(store, "s", "openai"), allow_nan=False).encode())
    again = MemoryStore()
    assert import_session(chat, again, "s") == len(chat)
    assert export_session(again, "s", "openai") == chat
