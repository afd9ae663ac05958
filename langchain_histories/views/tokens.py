"""Counting the tokens of messages, for views that have a budget: by default without vocabulary, network or model."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from langchain_histories.errors import ConfigurationError, needs_extra

TokenCounter: TypeAlias = Callable[[Sequence[BaseMessage]], int]
"""Counts the tokens of messages. It must be additive: the count of two lists together is the sum of their counts."""

TOKENS_PER_MESSAGE = 4
TOKENS_PER_IMAGE = 1_000  # whatever its size: between OpenAI's low detail and a full-page screenshot
TOKENS_PER_MEDIA = 2_000  # any audio, video or file: a page or two of a PDF, a minute of speech

_MEDIA = frozenset({"audio", "document", "file", "input_audio", "input_file", "media", "text-plain", "video"})
# Keys of a content block for the program or the provider. No model reads their values as text.
_OPAQUE = frozenset({"base64", "bytes", "cache_control", "data", "encrypted_content", "extras", "index", "signature"})

# Cuts ASCII into pieces of about a token each: the beginning of a word with the mark before it, or more of a long word,
# with an English ending; capitals; digits by three; one mark repeated; white space; other marks in pairs; controls.
# Every repetition is bounded, so the search takes linear time.
_PIECE = re.compile(
    r"(?:(?<=[a-z])[a-z]{1,3}|[-_/. ]?[A-Z]?[a-z]{1,6})(?:(?:e?s|e?d|e|ing|ly|t?ions?|al|ment|ity|er|y)(?![a-z]))?"
    r"|[-_/. ]?[A-Z]{1,4}|[0-9]{1,3}| (?=[0-9])|([-=*#~_.+])\1{2,31}| ?[\r\n]{1,16}| {2,96}|\t{1,16}"
    r"|[{\[,:]?\\\"[:,]?| ?[!-/:-@\[-`{-~]{1,2}[\r\n]{0,16}|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)
# Pairs of letters that few words have. Random ids, keys and base64 take more tokens than words of the same length.
_UNWORDLY = re.compile(r"[bcdfgjkmpqvwxz](?=[bcdfgjqvwxz])(?!ff|cc|gg|dd|bb)", re.ASCII | re.IGNORECASE)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
# Tokens per character beyond ASCII, from a code point on: of cl100k_base, which needs more than its successors.
# fmt: off
_WEIGHTS = {
    0x80: 1.0, 0x250: 1.5, 0x370: 1.0,  # Latin, phonetic and combining, Greek
    0x400: 0.52, 0x450: 1.8,  # Cyrillic: Russian, other letters
    0x530: 2.0, 0x590: 1.1, 0x600: 0.85, 0x700: 2.0,  # Armenian, Hebrew, Arabic, Syriac and others
    0x900: 1.2, 0x980: 1.7, 0xE00: 0.95, 0xE80: 2.0,  # Devanagari, India's other scripts, Thai, Lao to Khmer
    0x1E00: 0.5, 0x1F00: 2.0,  # Vietnamese, old Greek
    0x2000: 0.8, 0x2070: 1.7, 0x2500: 0.8, 0x2600: 2.1,  # quotes, mathematics and arrows, boxes, dingbats
    0x3000: 0.95, 0x3100: 2.1, 0x4E00: 1.2, 0xA000: 2.5,  # kana, rare and common Chinese, others
    0xAC00: 1.32, 0xD7A4: 2.5, 0xFF00: 1.0, 0xFF21: 1.8,  # Korean, others, full-width marks and letters
    0x10000: 3.3, 0x1F000: 2.5, 0x20000: 3.5,  # old scripts, emoji, others
}
# fmt: on
_FROM = list(_WEIGHTS)


def _weight(char: str) -> float:
    if "\u4e00" <= char <= "\u9fff" and not char.encode("gb2312", "ignore"):
        return 2.1  # a Chinese character that is traditional or rare
    return _WEIGHTS[_FROM[bisect(_FROM, ord(char)) - 1]]


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text, without a tokenizer and in linear time.

    The estimate is 0.8 to 1.6 times (mostly 0.9 to 1.2) the larger of the counts of OpenAI's `cl100k_base` and
    `o200k_base`, for prose, code, data, keys and emoji; down to 0.5 for rare characters. `o200k_base` takes fewer
    tokens beyond English: the estimate is up to 2.2 times its count for Chinese, Japanese, Korean and Russian, 2.5 for
    Arabic, 3.5 for Hindi.

    Returns:
        At least 1 for a text that is not blank.
    """
    return _estimated(text) if len(text) > _LONGEST_KEPT else _estimated_once(text)


def _estimated(text: str) -> int:
    tokens = 0.0
    if not text.isascii():
        tokens += sum(_weight(char) * n for char, n in Counter("".join(_NOT_ASCII.findall(text))).items())
        text = _NOT_ASCII.sub("\x80", text)
    return math.ceil(tokens + len(_PIECE.findall(text)) + len(_UNWORDLY.findall(text)))


# A view counts its summary, and what is added, several times in a turn, each time as another text of equal characters.
_LONGEST_KEPT = 20_000
_estimated_once = lru_cache(256)(_estimated)


def count_tokens(messages: Sequence[BaseMessage], text_tokens: Callable[[str], int] = estimate_tokens) -> int:
    """Return the sum of `message_tokens`, so that the counts of parts add up."""
    return sum(message_tokens(message, text_tokens) for message in messages)


def message_tokens(message: BaseMessage, text_tokens: Callable[[str], int] = estimate_tokens) -> int:
    """Return how many tokens a message has when it is sent to a chat model.

    Counted are its text and reasoning, its name, each tool call once, the id that a tool's result answers, and 4 for
    its frame. An image counts 1,000; audio, a video or a file 2,000. A tool's artifact and the model's usage report
    count nothing, because they are not sent.
    """
    tokens = TOKENS_PER_MESSAGE + (text_tokens(message.name) if message.name else 0)
    calls: list[Mapping[str, Any]] = []
    if isinstance(message, AIMessage):
        calls = [*message.tool_calls, *message.invalid_tool_calls]
        if not calls and (function_call := message.additional_kwargs.get("function_call")):
            calls = [{"name": function_call.get("name"), "args": function_call.get("arguments")}]
    elif isinstance(message, ToolMessage):
        tokens += text_tokens(message.tool_call_id)
    tokens += sum(text_tokens(f"{call['name'] or ''}{_json(call['args'])}") for call in calls)
    known = [call["id"] for call in calls if call.get("id")]
    return tokens + _content_tokens(message.content, known, text_tokens)


def _content_tokens(content: Any, known: Sequence[str], text_tokens: Callable[[str], int]) -> int:
    """Count a text, a block, or a list of these. Blocks with one of the `known` ids are counted already."""
    if isinstance(content, str):
        return text_tokens(content)
    if isinstance(content, list):
        return sum(_content_tokens(block, known, text_tokens) for block in content)
    if content.get("id") in known or content.get("call_id") in known:
        return 0
    source = content.get("source")
    if isinstance(source, Mapping) and source.get("type") == "text":
        content = {"text": source.get("data")}
    for key in ("text", "reasoning", "thinking", "content"):
        if isinstance(part := content.get(key), str | list):
            return _content_tokens(part, known, text_tokens)
    kind = str(content.get("type"))
    if "image" in kind:
        return TOKENS_PER_IMAGE
    return TOKENS_PER_MEDIA if kind in _MEDIA else text_tokens(_json(_legible(content)))


def _legible(value: Any) -> Any:
    """Return the parts that a model may read, of a block of an unknown kind."""
    if isinstance(value, Mapping):
        return {key: _legible(item) for key, item in value.items() if key not in _OPAQUE}
    if isinstance(value, list):
        return [_legible(item) for item in value]
    return "" if isinstance(value, bytes) or (isinstance(value, str) and value.startswith("data:")) else value


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def token_counter(spec: TokenCounter | str | None, model: Any = None) -> TokenCounter:
    """Return the counter that the option `token_counter` of a view stands for.

    The default is the estimate, never the model's own counter: some (Anthropic's, Google's) call a web service for
    each count, and the one that other models inherit downloads GPT-2's vocabulary.

    Args:
        spec: A callable, taken as it is; `None` or `"approximate"`: `estimate_tokens`; `"tiktoken"` or
            `"tiktoken:<encoding>"`: OpenAI's tokenizer, by default with `o200k_base`; `"model"`: the model's own
            `get_num_tokens_from_messages`, which may call a service and block.
        model: The chat model, for `"model"`.

    Raises:
        ConfigurationError: There is no such counter, or the model has none. The counter itself raises it when it cannot
            load tiktoken's vocabulary, which its first use downloads.
        MissingExtraError: tiktoken is not installed.
    """
    if spec is None or spec == "approximate":
        return count_tokens
    if callable(spec):
        return spec
    if spec == "model":
        return _model_counter(model)
    if isinstance(spec, str) and spec.partition(":")[0] == "tiktoken":
        return _tiktoken_counter(spec.partition(":")[2] or "o200k_base")
    raise ConfigurationError(
        f"token_counter must be a callable, 'approximate', 'tiktoken', 'tiktoken:<encoding>' or 'model', not {spec!r}."
    )


def _model_counter(model: Any) -> TokenCounter:
    from langchain_core.language_models import BaseLanguageModel

    count = getattr(model, "get_num_tokens_from_messages", None)
    inherited = all(
        getattr(getattr(model, name, None), "__func__", None) is getattr(BaseLanguageModel, name)
        for name in ("get_num_tokens_from_messages", "get_num_tokens", "get_token_ids")
    )
    if count is None or (inherited and getattr(model, "custom_get_token_ids", None) is None):
        raise ConfigurationError(
            f"token_counter='model': {type(model).__name__} has no token counter of its own (LangChain's downloads "
            f"GPT-2's vocabulary). Use 'approximate' or 'tiktoken', or give the model custom_get_token_ids."
        )
    return lambda messages: int(count(list(messages)))


def _tiktoken_counter(encoding: str) -> TokenCounter:
    with needs_extra("tiktoken"):
        import tiktoken
    if encoding not in (known := tiktoken.list_encoding_names()):
        raise ConfigurationError(f"tiktoken has no encoding {encoding!r}; it has {', '.join(sorted(known))}.")

    def count(messages: Sequence[BaseMessage]) -> int:
        try:
            vocabulary = tiktoken.get_encoding(encoding)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"The vocabulary {encoding!r} of tiktoken could not be loaded ({type(error).__name__}). Its first use "
                f"downloads it: let it, or set TIKTOKEN_CACHE_DIR to a folder that has it from another machine."
            ) from error
        return count_tokens(messages, lambda text: len(vocabulary.encode_ordinary(text)))

    return count
