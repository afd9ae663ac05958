"""LlamaIndex's `ChatMessage` and LangChain's messages, both as plain dicts.

LlamaIndex has `{"role", "additional_kwargs", "blocks"}`, earlier ones `content` in place of `blocks`; LangChain has
`{"type", "data"}`. Text, images, audio, video, documents, thinking, calls of tools and their results have a place in
both. What LangChain has none for goes into `additional_kwargs["lh:llama_index"]` of its message, as a difference, and
not into its content, because the packages of providers send on what stands there, or refuse it.
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from langchain_histories.integrations.mapping.differences import difference, is_same, patched

Message: TypeAlias = "dict[str, Any]"

KEY = "lh:llama_index"
"""In the `additional_kwargs` of LangChain's message: what LlamaIndex's has beyond it."""
LANGCHAIN = "lh:langchain"
"""In LlamaIndex's message, beside its own keys: what LangChain's has beyond it."""

_BLOCK, _PART = "block_type", "type"
_TYPES = {
    "user": "human",
    "assistant": "ai",
    "chatbot": "ai",
    "model": "ai",
    "system": "system",
    "developer": "system",
    "tool": "tool",
}
_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "function"}
_KNOWN_ROLES = frozenset((*_TYPES, "function"))
_OPENAI_ROLE = "__openai_role__"
_REASONING = "reasoning_content"
# What LangChain keeps for itself there; LlamaIndex's packages send all that stands there to their providers.
_LANGCHAINS_OWN = frozenset(("refusal", "lc_source", _OPENAI_ROLE, _REASONING, KEY))

# The names of a block's bytes, and of its part.
_BYTES = {"image": "image", "audio": "audio", "video": "video", "document": "data"}
_MIME_TYPES = {"image": "image_mimetype", "video": "video_mimetype", "document": "document_mimetype"}
_MEDIA = {"image": "image", "audio": "audio", "video": "video", "document": "file"}
_BLOCKS = {part: block for block, part in _MEDIA.items()}

# How programs write the arguments of a call as text.
_STYLES: tuple[dict[str, Any], ...] = tuple(
    {"ensure_ascii": ascii_only, "separators": separators}
    for ascii_only in (False, True)
    for separators in ((", ", ": "), (",", ":"))
)


def is_llama_index(record: Message) -> bool:
    """Whether a stored record is a message of LlamaIndex."""
    return _PART not in record and "role" in record and ("blocks" in record or "content" in record)


def to_langchain(message: Message) -> Message:
    """Return LangChain's `{"type", "data"}` of LlamaIndex's message.

    Raises:
        ValueError: It is no such message.
    """
    wanted = _lean(message)
    made, more = _langchain(wanted)
    if change := difference(wanted, _llama_index(made, more), _BLOCK):
        more["change"] = change
    if more:
        made["data"]["additional_kwargs"][KEY] = more
    if LANGCHAIN in message:
        made = patched(made, message[LANGCHAIN], _PART)
    return made


def to_llama_index(message: Message, *, keep: bool = False) -> Message:
    """Return LlamaIndex's message of LangChain's `{"type", "data"}`.

    Args:
        message: LangChain's.
        keep: Whether what LlamaIndex has no place for is kept, in a key that its reader ignores.
    """
    more = (message["data"].get("additional_kwargs") or {}).get(KEY)
    more = more if isinstance(more, dict) else {}
    made: Message = patched(_llama_index(message, more), more.get("change"), _BLOCK)
    if keep and (change := langchain_difference(message, to_langchain(made))):
        made[LANGCHAIN] = change
    return made


def langchain_difference(wanted: Message, derived: Message) -> Message | None:
    """Return how one message of LangChain's is made of another one; see `with_langchain`."""
    return difference(_lean_langchain(wanted), _lean_langchain(derived), _PART)


def with_fields_of(made: Message, original: Message) -> Message:
    """Return an edited message with the fields of the original that LlamaIndex does not show."""
    shown = to_langchain(to_llama_index(original))
    edited = {"content", "tool_calls", "invalid_tool_calls"}
    before, after = (
        {"type": one["type"], "data": {name: value for name, value in one["data"].items() if name not in edited}}
        for one in (_lean_langchain(original), _lean_langchain(shown))
    )
    if made["type"] != original["type"]:
        return made
    kept: Message = patched(_lean_langchain(made), difference(before, after, _PART), _PART)
    return kept


def _lean(message: Message) -> Message:
    """Return LlamaIndex's message in one form, whichever release wrote it."""
    role, blocks = message.get("role"), message.get("blocks")
    if blocks is None:
        content = message.get("content")
        blocks = content if isinstance(content, list) else [] if content is None else [content]
        blocks = [{_BLOCK: "text", "text": part} if isinstance(part, str) else part for part in blocks]
    more = message.get("additional_kwargs") or {}
    if not (isinstance(role, str) and isinstance(blocks, list) and isinstance(more, dict)):
        raise ValueError("this is no message of LlamaIndex")  # noqa: TRY004  # what is stored, and no argument
    if not all(isinstance(block, dict) and isinstance(block.get(_BLOCK), str) for block in blocks):
        raise ValueError("a block of it has no type")
    lean = [{name: value for name, value in block.items() if value is not None} for block in blocks]
    return {"role": role, "additional_kwargs": dict(more), "blocks": [_lean_call(block) for block in lean]}


def _lean_call(block: Message) -> Message:
    """Return a block, the arguments of a call that are written as JSON in the nearest of the known styles."""
    text = block.get("tool_kwargs")
    if block[_BLOCK] != "tool_call" or not isinstance(text, str) or (arguments := _arguments(text)) is None:
        return block
    return {**block, "tool_kwargs": _written(arguments, _style(text, arguments))}


def _lean_langchain(message: Message) -> Message:
    """Return LangChain's message without what says nothing."""
    data = {name: value for name, value in message["data"].items() if name == "content" or not _is_empty(name, value)}
    return {"type": message["type"], "data": {**data, "additional_kwargs": data.get("additional_kwargs", {})}}


def _is_empty(name: str, value: Any) -> bool:
    return name == "type" or value is None or value is False or (type(value) in (list, dict) and not value)


# From LlamaIndex.


def _langchain(message: Message) -> tuple[Message, Message]:
    """Return LangChain's message, and what LlamaIndex's has beyond it but for the change."""
    kwargs = dict(message["additional_kwargs"])
    more: Message = {}
    kind, data = _named(message["role"], kwargs)
    parts, calls = [], []
    for block in message["blocks"]:
        if block[_BLOCK] == "thinking" and block.get("content") and _REASONING not in kwargs:
            kwargs[_REASONING] = block["content"]
        elif block[_BLOCK] == "tool_call":
            calls.append(block)
        elif part := _part(block):
            parts.append(part)
    is_text = len(parts) == 1 and parts[0][_PART] == "text"
    data |= {"content": parts[0]["text"] if is_text else parts or "", "additional_kwargs": kwargs}
    if kind == "ai":
        if not calls and (calls := _calls_of_openai(kwargs.get("tool_calls"))):
            more["openai_calls"] = [_style_of(call["tool_kwargs"]) for call in calls]
            del kwargs["tool_calls"]
        _add_calls(data, calls, more)
    return {"type": kind, "data": data}, more


def _named(role: str, kwargs: Message) -> tuple[str, Message]:
    """Return LangChain's type for a role, and the fields that come with it, which are taken out of the arguments."""
    kind, data = _TYPES.get(role, "chat"), {}
    if role == "function" and isinstance(kwargs.get("name"), str):
        kind = "function"
    if kind == "tool":
        call_id = kwargs.pop("tool_call_id", "")
        data["tool_call_id"] = call_id if isinstance(call_id, str) else ""
    if kind in ("tool", "function") and isinstance(kwargs.get("name"), str):
        data["name"] = kwargs.pop("name")
    if kind == "chat":
        data["role"] = role
    if role == "developer":
        kwargs[_OPENAI_ROLE] = role
    return kind, data


def _part(block: Message) -> Message | None:
    """Return LangChain's part of content for a block, if it has one."""
    kind = block[_BLOCK]
    if kind == "text" and isinstance(block.get("text"), str):
        return {_PART: "text", "text": block["text"]}
    if kind not in _MEDIA:
        return None
    data, url, mime_type = block.get(_BYTES[kind]), block.get("url"), block.get(_MIME_TYPES.get(kind, ""))
    if kind == "audio" and block.get("format"):
        mime_type = f"audio/{block['format']}"
    if not isinstance(data or url, str):
        return None
    part = {_PART: _MEDIA[kind], **({"base64": data} if data else {"url": url})}
    if mime_type:
        part["mime_type"] = mime_type
    if kind == "document" and block.get("title"):
        part["filename"] = block["title"]
    return part


def _add_calls(data: Message, calls: list[Message], more: Message) -> None:
    """Put calls of tools into a message; those whose arguments are no JSON object are invalid ones."""
    good: list[Message] = []
    bad: list[Message] = []
    styles = {}
    for call in calls:
        text = call.get("tool_kwargs")
        arguments = _arguments(text) if isinstance(text, str) else text
        named = {"name": call.get("tool_name"), "id": call.get("tool_call_id")}
        if arguments is None:
            bad.append({**named, "args": text, "error": None, "type": "invalid_tool_call"})
            continue
        if isinstance(text, str):
            styles[str(len(good))] = _style(text, arguments)
        good.append({**named, "args": arguments, "type": "tool_call"})
    if good:
        data["tool_calls"] = good
    if bad:
        data["invalid_tool_calls"] = bad
    if styles and "openai_calls" not in more:
        more["styles"] = styles


def _arguments(text: str) -> Message | None:
    """Return the arguments that are written in a text; `None` if it is no JSON object that could be written so."""
    try:
        found = json.loads(text)
        _written(found, 0).encode()
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _written(arguments: Message, style: int) -> str:
    return json.dumps(arguments, **_STYLES[style])


def _style(text: str, arguments: Message) -> int:
    return next((style for style in range(len(_STYLES)) if _written(arguments, style) == text), 0)


def _calls_of_openai(calls: Any) -> list[Message]:
    """Return the calls that LangChain, too, would see among the other arguments, if ours can write them so again."""
    found: list[Message] = []
    for call in calls if isinstance(calls, list) else ():
        match call:
            case {"id": call_id, "function": {"name": str(name), "arguments": str(text)}} if (
                _arguments(text) is not None
            ):
                block = {_BLOCK: "tool_call", "tool_call_id": call_id, "tool_name": name, "tool_kwargs": text}
            case _:
                return []
        arguments = _arguments(text)
        if arguments is None or not is_same(call, _openai_call(call_id, name, arguments, _style_of(text))):
            return []
        found.append(block)
    return found


def _openai_call(call_id: Any, name: str, arguments: Message, style: int) -> Message:
    function = {"name": name, "arguments": _written(arguments, style)}
    return {"id": call_id, "type": "function", "function": function}


def _style_of(text: str) -> int:
    return _style(text, _arguments(text) or {})


# From LangChain.


def _llama_index(message: Message, more: Message) -> Message:
    """Return LlamaIndex's message, but for the change."""
    kind, data = message["type"], message["data"]
    kwargs = dict(data.get("additional_kwargs") or {})
    role = _ROLES.get(kind) or data.get("role")
    role = role if role in _KNOWN_ROLES or KEY in kwargs or more else "user"
    if kind == "system" and kwargs.get(_OPENAI_ROLE) == "developer":
        role = "developer"
    blocks = []
    if isinstance(kwargs.get(_REASONING), str) and kwargs[_REASONING]:
        blocks.append({_BLOCK: "thinking", "content": kwargs[_REASONING]})
    calls = [_call(call) for call in data.get("tool_calls") or ()]
    blocks += _blocks(data.get("content"))
    kwargs = {name: value for name, value in kwargs.items() if name not in _LANGCHAINS_OWN}
    if calls:
        kwargs.pop("tool_calls", None)  # OpenAI's own form of the same
    named = {"name": data.get("name")} if kind in ("tool", "function") and data.get("name") else {}
    if kind == "tool":
        named = {"tool_call_id": data.get("tool_call_id", ""), **named}
    kwargs = {**kwargs, **named}
    styles = more.get("openai_calls") or ()
    if calls and len(styles) == len(calls):
        kwargs["tool_calls"] = [
            _openai_call(call.get("tool_call_id"), call["tool_name"], call["tool_kwargs"], style)
            for call, style in zip(calls, styles, strict=True)
        ]
        calls = []
    for number, style in (more.get("styles") or {}).items():
        if int(number) < len(calls):
            calls[int(number)]["tool_kwargs"] = _written(calls[int(number)]["tool_kwargs"], style)
    calls += [_call(call) for call in data.get("invalid_tool_calls") or ()]
    return {"role": role, "additional_kwargs": kwargs, "blocks": blocks + calls}


def _call(call: Message) -> Message:
    arguments = call.get("args")
    named = {"tool_call_id": call.get("id"), "tool_name": call.get("name") or ""}
    block = {_BLOCK: "tool_call", **named, "tool_kwargs": "" if arguments is None else arguments}
    return {name: value for name, value in block.items() if value is not None}


def _blocks(content: Any) -> list[Message]:
    parts = content if isinstance(content, list) else [content] if content else []
    found = [_block({_PART: "text", "text": part} if isinstance(part, str) else part) for part in parts]
    return [{name: value for name, value in block.items() if value is not None} for block in found if block]


def _block(part: Any) -> Message | None:  # noqa: C901, PLR0911  # a table
    """Return the block for a part of LangChain's content, in any of the forms that its packages write."""
    match part:
        case {"type": "text", "text": str(text)}:
            return {_BLOCK: "text", "text": text}
        case {"type": "reasoning", "reasoning": str(text)}:
            signature = (part.get("extras") or {}).get("signature")
            return _thinking(text, signature)
        case {"type": "thinking", "thinking": str(text)}:
            return _thinking(text, part.get("signature"))
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
            return _media("image", url)
        case {"type": "image" | "document" as kind, "source": {"media_type": mime_type, "data": str(data)}}:
            return _media(kind, data, mime_type, title=part.get("title"))
        case {"type": "image" | "document" as kind, "source": {"url": str(url)}}:
            return _media(kind, url, title=part.get("title"))
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": form}}:
            return _media("audio", data, f"audio/{form}")
        case {"type": "file", "file": {"file_data": str(url)}}:
            return _media("document", url, title=part["file"].get("filename"))
        case {"type": str(kind)} if kind in _BLOCKS:
            data = part.get("base64") or part.get("data") or part.get("url")
            if isinstance(data, str):
                return _media(_BLOCKS[kind], data, part.get("mime_type"), title=part.get("filename"))
    return None


def _thinking(text: str, signature: Any) -> Message:
    more = {"additional_information": {"signature": signature}} if signature else {}
    return {_BLOCK: "thinking", "content": text, **more}


def _media(kind: str, data: str, mime_type: Any = None, *, title: Any = None) -> Message:
    """Return a block for base64 data or a URL, also for one that holds the data."""
    head, is_data, rest = data.partition(";base64,")
    if is_data and head.startswith("data:"):
        data, mime_type = rest, head.removeprefix("data:")
    is_url = "://" in data
    block = {_BLOCK: kind, "url" if is_url else _BYTES[kind]: data}
    if kind == "audio" and mime_type:
        block["format"] = str(mime_type).removeprefix("audio/")
    elif kind in _MIME_TYPES:
        block[_MIME_TYPES[kind]] = mime_type
    return {**block, "title": title} if kind == "document" else block
