"""What the tests store: messages with all that a message can hold, session ids that services confuse, and a codec."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import os
import random
import uuid
import zlib
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Sequence


def golden_messages() -> list[BaseMessage]:
    """Messages of every type and with everything that a message can hold; a store returns them equal."""
    moment = dt.datetime(2026, 11, 21, 20, 0, 0, 123456, tzinfo=dt.UTC)
    usage: Any = {
        "input_tokens": 8,
        "output_tokens": 304,
        "total_tokens": 312,
        "input_token_details": {"cache_read": 5},
        "output_token_details": {"reasoning": 256},
    }
    call: Any = {"name": "search", "args": {"query": "naïve café", "depth": 2, "score": 0.5}, "id": "call_1"}
    texts = [
        "plain",
        "",
        "  leading and trailing  \n",
        "quotes \" ' ` and \\ backslashes",
        "line\nbreak\r\nand\ttab",
        "Ünïcödé — Привет, мир — 你好 — مرحبا — שלום",
        "emoji 👩‍👩‍👧‍👦 🇺🇦 👍🏽",
        "nul \x00 and controls \x01\x1f\x7f\x85",
        "lone surrogates \ud83d and \udc00",
        "separators \u2028 \u2029 \ufeff \uffff",
        "combining e\u0301 differs from é",
        "{braces} {{more}} %s %(x)s $1 :name ?",
        "'; DROP TABLE message_store; --",
        '{"type": "human", "data": {"content": "a message in a message"}}',
        "lh:type",
    ]
    return [
        *(HumanMessage(text) for text in texts),
        HumanMessage("with id and name", id="run-1", name="Ivan"),
        HumanMessage("x" * 1_000_000),
        HumanMessage(
            [
                "text in a list",
                {"type": "text", "text": "what is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                {"type": "image", "source_type": "base64", "mime_type": "image/png", "data": "iVBORw0KGgo="},
                {"type": "media", "mime_type": "audio/wav", "data": b"\x00\xff\xfe"},
            ]
        ),
        HumanMessage([]),
        HumanMessage("a dictionary of our own", additional_kwargs={"lh:type": "bytes", "value": "not base64"}),
        SystemMessage("You are a helpful assistant."),
        ChatMessage(content="any role", role="moderator"),
        FunctionMessage(content="42", name="add"),
        RemoveMessage(id="run-1"),
        AIMessage("an answer"),
        AIMessage("", tool_calls=[call, {**call, "id": "call_2", "args": {}}]),
        AIMessage(
            "",
            invalid_tool_calls=[{"name": "search", "args": "{not json", "id": "call_3", "error": "Expecting name"}],
        ),
        AIMessage(
            [
                {"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"},
                {"type": "text", "text": "Yes.", "annotations": [{"type": "citation", "url": "https://example.com"}]},
            ],
            usage_metadata=usage,
            response_metadata={"model_name": "a-model", "logprobs": None, "finish_reason": "stop"},
        ),
        AIMessage(
            "numbers",
            response_metadata={
                "floats": [0.1, -0.0, 1e308, 5e-324],
                "odd": [float("nan"), float("inf"), float("-inf")],
                "integers": [0, -1, 2**63, 10**30],
                "decimal": decimal.Decimal("1.10"),
            },
        ),
        AIMessage(
            "times",
            response_metadata={
                "moment": moment,
                "naive": moment.replace(tzinfo=None),
                "offset": moment.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30))),
                "date": moment.date(),
                "time": moment.time(),
            },
        ),
        AIMessage(
            "containers",
            additional_kwargs={
                "tuple": (1, ("two", None)),
                "set": {1, 2},
                "frozenset": frozenset({"a"}),
                "keys": {1: "one", ("a", 2): "pair", None: "none"},
                "uuid": uuid.UUID(int=7),
                "nested": {"deep": [{"bytes": b"\x80"}]},
            },
        ),
        ToolMessage("done", tool_call_id="call_1"),
        ToolMessage("failed", tool_call_id="call_1", name="search", status="error", id="tool-1"),
        ToolMessage([{"type": "text", "text": "part"}, {"type": "json", "json": {"a": [1]}}], tool_call_id="call_1"),
        ToolMessage(
            "documents",
            tool_call_id="call_1",
            artifact=[Document("text", metadata={"source": "a.txt", "at": moment}, id="d1"), Document("more")],
        ),
        ToolMessage("bytes", tool_call_id="call_1", artifact={"png": b"\x89PNG\r\n", "rows": [(1, 2.5), (3, None)]}),
        AIMessageChunk(
            content="streamed ",
            tool_call_chunks=[{"name": "f", "args": '{"a": 1}', "id": "call_4", "index": 0}],
            usage_metadata=usage,
            id="run-2",
        ),
        HumanMessageChunk(content="a chunk"),
    ]


def odd_session_ids() -> list[str]:
    """Session ids that services confuse, cut, refuse or interpret."""
    return [
        *("ivan", "Ivan", "Iván", "Iva\u0301n", "ivan ", " ivan", "ivan\t", "\uff49\uff56\uff41\uff4e"),
        *("a:b", "a/b", "a\\b", "..", ".", "../../etc/passwd", "/absolute", "C:\\x", "a.b", ".hidden", "a.json", "con"),
        *("a\x00b", "a", "a\n", "%00", "%", "lh%", "lh%a%00b", "_", "-", "*", "?", "[a]", "a*", "a?", "{", "}", "{}"),
        *("{a}", "a{b}c", "a}b", "{x}:state", "a:state", "a.state", "$where", "$ne", "{'$ne': null}", "#", "~", "@"),
        *("'", '"', "`", "--", "'; DROP TABLE message_store; --", "a' OR 'a'='a", "\\", "\\%", "null", "None", "0"),
        *(
            "日本語",
            "👩‍👩‍👧‍👦",
            "\u202eabc",
            "ß",
            "SS",
            "ss",
            "İ",
            "i",
            "I",
            "\x7f",
            "\ufeff",
            "@ivan/42",
            "@ivan%2F42/x",
        ),
        *("x" * 1024, "x" * 1023 + "y", "é" * 512, "👍" * 256),
    ]


_PIECES = [
    *("a", "b", "A", "é", "日本", "👍", " ", "\t", "\x00", "\x01", "\x02", "\x7f", "\ud7ff", "\ue000", "\U0010ffff"),
    *("%", "%25", "%2F", "_", "*", "?", "[a]", "[", "]", "\\", "^", "-", "{", "}", "{a}", "/", "@", "@a/", ":", "#"),
    *("!", "~", "'", '"', "$", ".", "lh%", "lh!", "lh", "state", "}:state", ":tagged-state"),
]


def generated_session_ids(count: int, seed: int) -> list[str]:
    """Return session ids made of what services take for a pattern, an escape, an end or an order of their own."""
    chance = random.Random(seed)  # noqa: S311
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(chance.choices(_PIECES, k=chance.randint(1, 5)))] = None
    return list(found)


def numbered(count: int) -> list[BaseMessage]:
    """Messages with the texts `0`, `1`, ..."""
    return [HumanMessage(str(number)) for number in range(count)]


def texts(messages: Sequence[BaseMessage]) -> list[str]:
    """The texts of messages."""
    return [str(message.content) for message in messages]


def comparable(value: Any) -> Any:
    """What two equal messages have in common: types too, but not the order of keys, and NaN equals itself."""
    if isinstance(value, BaseModel):
        return type(value), comparable({**vars(value), **(value.__pydantic_extra__ or {})})
    if isinstance(value, dict):
        return sorted(([comparable(key), comparable(item)] for key, item in value.items()), key=repr)
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(comparable, value), key=repr)
    if isinstance(value, list | tuple):
        return type(value), [comparable(item) for item in value]
    return repr(value)


class ShoutingCodec:
    """A codec that nobody could mistake for plain text, and that like encryption never gives the same text twice."""

    def encode(self, text: str) -> str:
        """Return an encoded text."""
        return base64.b85encode(os.urandom(8) + zlib.compress(text.encode("utf-8", "surrogatepass"))).decode()

    def decode(self, text: str) -> str:
        """Return the text that `encode` encoded."""
        return zlib.decompress(base64.b85decode(text)[8:]).decode("utf-8", "surrogatepass")
