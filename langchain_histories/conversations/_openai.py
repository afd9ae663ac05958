"""Messages of OpenAI's chat API and items of its Responses API, to LangChain's messages and back.

The items of a Responses API between two inputs are one message of LangChain's: what the model thought, said and called,
as langchain-openai keeps it too. So a call stands beside the others of its step, and the answers behind it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    convert_to_openai_messages,
)

from langchain_histories._plain import plain, plain_fields
from langchain_histories._values import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ROLES: dict[str, type[BaseMessage]] = {
    "user": HumanMessage,
    "assistant": AIMessage,
    "system": SystemMessage,
    "developer": SystemMessage,
    "tool": ToolMessage,
    "function": FunctionMessage,
}
_DEVELOPER = "__openai_role__"  # as LangChain's converters note it
_KEPT = ("refusal", "function_call", "audio")
_TEXTS = ("input_text", "output_text", "text")


# To OpenAI.


def chat_of(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return messages as OpenAI's chat API has them. What removes a message from a state was not said, so it is not."""
    return [made for message in messages if not isinstance(message, RemoveMessage) for made in _chat(message)]


def _chat(message: BaseMessage) -> list[dict[str, Any]]:
    fields = plain_fields(message)
    made: dict[str, Any] = {"role": _role(message)}
    if fields.get("name"):
        made["name"] = fields["name"]
    made["content"], calls, answers = _content(message, fields)
    if calls:
        made["tool_calls"] = calls
    if isinstance(message, ToolMessage):
        made["tool_call_id"] = fields["tool_call_id"]
    if isinstance(message, AIMessage):
        made |= {name: fields["additional_kwargs"][name] for name in _KEPT if fields["additional_kwargs"].get(name)}
    return answers if answers and not made["content"] and not calls else [made, *answers]


def _role(message: BaseMessage) -> str:
    if isinstance(message, SystemMessage) and message.additional_kwargs.get(_DEVELOPER) == "developer":
        return "developer"
    if isinstance(message, ChatMessage):
        return str(plain(message.role))
    return next((role for role, cls in _ROLES.items() if isinstance(message, cls)), "user")


def _content(message: BaseMessage, fields: dict[str, Any]) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the content, the calls of tools, and the answers that Anthropic keeps in the content of a question."""
    said = fields if isinstance(message, AIMessage) else {}
    calls = [_call(call["id"], call["name"], to_json(call["args"])) for call in said.get("tool_calls", ())]
    calls += [_call(call["id"], call["name"], call["args"] or "") for call in said.get("invalid_tool_calls", ())]
    if isinstance(fields["content"], str):
        return fields["content"], calls, []
    known: Any = message.tool_calls if isinstance(message, AIMessage) else []
    bare = (AIMessage if isinstance(message, AIMessage) else HumanMessage)(message.content)
    if known:
        bare = AIMessage(message.content, tool_calls=known)
    try:
        first, *answers = convert_to_openai_messages([bare], pass_through_unknown_blocks=True)
        found = plain([first, *answers])
    except Exception:  # noqa: BLE001  # blocks may be anything, and what OpenAI has no form for stays as it is
        return fields["content"], calls, []
    if "role" not in first or first["role"] == "tool":
        return "", calls, found
    called = {call["id"] for call in calls}
    calls += [call for call in found[0].get("tool_calls", ()) if call["id"] not in called]
    return found[0]["content"], calls, found[1:]


def _call(call_id: Any, name: Any, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


# From OpenAI.


def messages_of(items: Sequence[dict[str, Any]]) -> Iterator[tuple[int, int, BaseMessage | None]]:
    """Walk the messages that items are: the number of the first item, how many items, and the message.

    There is no message where an item is of neither API, or cannot be one.
    """
    at = 0
    while at < len(items):
        count = _step(items, at)
        message: BaseMessage | None = None
        # Validators can raise anything.
        with contextlib.suppress(Exception):
            message = _of_step(items[at : at + count]) if count else _of_item(items[at])
        yield at, count or 1, message
        at += count or 1


def _step(items: Sequence[dict[str, Any]], start: int) -> int:
    """Return how many items from here on are what a model put out in one step of the Responses API."""
    end, is_said = start, False
    while end < len(items) and _is_output(items[end]):
        kind = items[end].get("type")
        if is_said and kind in ("reasoning", "message"):
            break
        is_said = is_said or kind == "message"
        end += 1
    return end - start


def _is_output(item: dict[str, Any]) -> bool:
    kind = item.get("type")
    if kind == "message" or "role" in item:
        # The chat API's messages have no type, and more fields than content.
        return kind == "message" and item.get("role") == "assistant"
    # Items of LangChain's form have data.
    return isinstance(kind, str) and not kind.endswith("_output") and "data" not in item


def _of_step(items: Sequence[dict[str, Any]]) -> AIMessage:
    blocks: list[Any] = []
    fields: dict[str, Any] = {"tool_calls": [], "invalid_tool_calls": [], "additional_kwargs": {}}
    for item in items:
        if item["type"] == "message":
            content = item["content"]
            blocks += [{"type": "text", "text": content}] if isinstance(content, str) else map(_block, content)
            if isinstance(item.get("id"), str):
                fields["id"] = item["id"]
        elif item["type"] == "function_call":
            _add_call(fields, item["call_id"], item["name"], item["arguments"])
        else:
            blocks.append(item)
    is_text = len(blocks) == 1 and blocks[0].keys() <= {"type", "text"} and blocks[0]["type"] == "text"
    return AIMessage(blocks[0]["text"] if is_text else blocks or "", **fields)


def _of_item(item: dict[str, Any]) -> BaseMessage:
    if "role" not in item:
        if item["type"] not in ("function_call_output", "custom_tool_call_output"):
            # What a tool of OpenAI's own answers is no text; it stays beside the call, as langchain-openai has it.
            return ToolMessage([item], tool_call_id=item["call_id"])
        return ToolMessage(_said(item["output"]), tool_call_id=item["call_id"])
    known = {"role", "content", "name", "id", "tool_calls", "tool_call_id"}
    rest = {name: value for name, value in item.items() if name not in known}
    if rest.get("type") == "message":
        del rest["type"]
    fields: dict[str, Any] = {name: item[name] for name in ("name", "id") if item.get(name)}
    fields["additional_kwargs"] = {name: value for name, value in rest.items() if value is not None}
    role, content = item["role"], _said(item.get("content"))
    if role == "assistant":
        fields |= {"tool_calls": [], "invalid_tool_calls": []}
        for call in item.get("tool_calls") or ():
            _add_call(fields, call.get("id"), call["function"]["name"], call["function"]["arguments"])
    if role == "developer":
        fields["additional_kwargs"][_DEVELOPER] = role
    if role == "tool":
        fields["tool_call_id"] = item["tool_call_id"]
    if role not in _ROLES:
        return ChatMessage(content=content, role=role, **fields)
    return _ROLES[role](content=content, **fields)


def _add_call(fields: dict[str, Any], call_id: Any, name: Any, arguments: Any) -> None:
    try:
        args = from_json(arguments)
    except ValueError:
        args = None
    if isinstance(args, dict) and isinstance(name, str):
        fields["tool_calls"].append({"id": call_id, "name": name, "args": args})
    else:
        fields["invalid_tool_calls"].append({"id": call_id, "name": name, "args": arguments, "error": None})


def _said(content: Any) -> Any:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return [_block(block) for block in content] if isinstance(content, list) else to_json(content)


def _block(block: Any) -> Any:
    """Return a part of a content: texts and images of the Responses API as those of the chat API."""
    kind = block.get("type") if isinstance(block, dict) else None
    if kind in _TEXTS and isinstance(block.get("text"), str):
        rest = {name: value for name, value in block.items() if name != "type" and value not in ([], None)}
        return {"type": "text", **rest}
    if kind == "input_image" and isinstance(block.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": block["image_url"]}}
    return block
