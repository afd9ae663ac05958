"""Messages as programs give and return them, and which of them a history has stored."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue

from langchain_histories.errors import InvalidMessageError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.views._cuts import is_view_message

_NAMESPACE = uuid.UUID("d9b2f4a6-5b0c-4f0e-9a37-6c1f2e8d7b15")
_TOLD_BY = ("name", "tool_calls", "tool_call_id")
_MESSAGE_TYPES = ("human", "user", "ai", "assistant", "system", "developer", "tool", "function", "chat", "remove")


def as_messages(value: Any, text: type[HumanMessage | AIMessage] = HumanMessage) -> list[BaseMessage]:
    """Return the messages of an input or output; plain text becomes a message of type `text`.

    Raises:
        InvalidMessageError: The value holds something that is no message.
    """
    if isinstance(value, PromptValue):
        return value.to_messages()
    if isinstance(value, str | BaseMessage):
        value = [value]
    if isinstance(value, list) and value and all(map(_is_content_block, value)):
        value = [text(content=value)]
    if isinstance(value, list | tuple):
        try:
            return convert_to_messages([text(content=each) if isinstance(each, str) else each for each in value])
        except (ValueError, TypeError, NotImplementedError):  # the error quotes the message
            raise InvalidMessageError(f"A {type(value).__name__} holds something that is not a message.") from None
    raise InvalidMessageError(f"Expected text, a message or a list of messages, not {type(value).__name__}.")


def _is_content_block(value: Any) -> bool:
    """Whether a dict is a part of a message's content and no message, which has a role or the type of a message."""
    return isinstance(value, dict) and "role" not in value and value.get("type") not in (None, *_MESSAGE_TYPES)


def with_id(message: BaseMessage) -> BaseMessage:
    """Return a message with an id: the same, or a copy with a new id."""
    return message if message.id else message.model_copy(update={"id": str(uuid.uuid4())})


def with_ids(messages: Iterable[BaseMessage], scope: str = "") -> list[BaseMessage]:
    """Give each message without an id one that is made of its content and the number of equal messages before it.

    A message gets the same id each time, because messages are told apart by id. The scope is the thread that they come
    from, so that a history does not take them for equal messages of another thread.
    """
    result, seen = list(messages), Counter[str]()
    for index, message in enumerate(result):
        if not message.id:
            parts = [scope, message.type, message.content, *(getattr(message, name, None) for name in _TOLD_BY)]
            text = json.dumps(parts, default=str)
            seen[text] += 1
            result[index] = message.model_copy(update={"id": str(uuid.uuid5(_NAMESPACE, f"{seen[text]} {text}"))})
    return result


def is_summary(message: BaseMessage) -> bool:
    """Whether LangChain's middleware or a view made this message: it stands for messages that are stored."""
    return message.additional_kwargs.get("lc_source") == "summarization" or is_view_message(message)


def complete_steps(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    """Return the messages without the last step, if a tool call of that step has no answer yet."""
    answered: set[str] = set()
    for number in range(len(messages) - 1, -1, -1):
        message = messages[number]
        if isinstance(message, ToolMessage):
            answered.add(message.tool_call_id)
        elif isinstance(message, AIMessage) and any(call["id"] not in answered for call in message.tool_calls):
            return messages[:number]
        else:
            break
    return messages


def not_stored(messages: Iterable[BaseMessage], stored: Iterable[BaseMessage]) -> list[BaseMessage]:
    """Return those messages that are not among the stored ones, without summaries."""
    known = {message.id for message in with_ids(stored)}
    return [message for message in messages if message.id not in known and not is_summary(message)]


def shows_all(history: Any) -> bool:
    """Whether a history surely shows all its messages."""
    return not hasattr(history, "transcript") and getattr(history, "last", None) is None


def transcript(history: Any, *, since: Sequence[BaseMessage] = ()) -> list[BaseMessage]:
    """Return all messages of a history, also of the one under a view; or its end, if that has the first of `since`.

    The end is then enough: the other messages of `since` come later, so they are in the end too, or not stored.
    """
    stored = _stored_under(history)
    if stored and since and _begins_in(end := stored.store.read(stored.session_id, last=2 * len(since)), since):
        return end
    if hasattr(history, "transcript"):
        return list(history.transcript())
    return stored.store.read(stored.session_id) if stored else list(history.messages)


async def atranscript(history: Any, *, since: Sequence[BaseMessage] = ()) -> list[BaseMessage]:
    """Async `transcript`."""
    stored = _stored_under(history)
    if stored and since and _begins_in(end := await stored.store.aread(stored.session_id, last=2 * len(since)), since):
        return end
    if hasattr(history, "atranscript"):
        return list(await history.atranscript())
    return await stored.store.aread(stored.session_id) if stored else list(await history.aget_messages())


def _stored_under(history: Any) -> StoredChatMessageHistory | None:
    """Return the history itself or the one under a view, if it is of this package."""
    under = getattr(history, "history", history)
    return under if isinstance(under, StoredChatMessageHistory) else None


def _begins_in(end: Sequence[BaseMessage], messages: Sequence[BaseMessage]) -> bool:
    first = next((message.id for message in messages if not is_summary(message)), None)
    return first in {message.id for message in with_ids(end)}
