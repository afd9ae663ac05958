"""Where a conversation may be cut, and what of it is shown: pure functions over lists of messages."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

MARK = "langchain_histories"
"""Key in `additional_kwargs` of a message that a view made and no store keeps."""

_BOUND_REASONING = ("thinking", "redacted_thinking")


def is_view_message(message: object) -> bool:
    """Whether a view made this message, or LangChain's `SummarizationMiddleware`: a summary that nobody said."""
    if not isinstance(message, BaseMessage):
        return False
    mark = message.additional_kwargs.get(MARK)
    theirs = message.additional_kwargs.get("lc_source") == "summarization"
    return theirs or (isinstance(mark, dict) and bool(mark.get("summary")))


def leading_system(messages: Sequence[BaseMessage]) -> int:
    """Return how many system messages stand at the beginning."""
    return next((n for n, message in enumerate(messages) if not isinstance(message, SystemMessage)), len(messages))


def begins_turn(message: BaseMessage) -> bool:
    """Whether a turn begins with this message."""
    return isinstance(message, HumanMessage) or (isinstance(message, ChatMessage) and message.role == "user")


def safe_cuts(messages: Sequence[BaseMessage]) -> list[int]:
    """Return where a view may begin: at the human messages that no answered tool call reaches across.

    An answer belongs to the nearest call of its id before it, as some servers number the calls of each turn anew.
    """
    cuts: list[int] = []
    called: dict[str, int] = {}
    reach: dict[int, int] = {}
    for i, message in enumerate(messages):
        if begins_turn(message):
            cuts.append(i)
        elif isinstance(message, AIMessage):
            called |= dict.fromkeys(_call_ids(message), i)
        elif isinstance(message, ToolMessage) and message.tool_call_id in called:
            reach[called[message.tool_call_id]] = i
    furthest = list(accumulate((reach.get(i, -1) for i in range(len(messages))), max))
    return [cut for cut in cuts if cut == 0 or furthest[cut - 1] < cut]


def is_waiting(messages: Sequence[BaseMessage]) -> bool:
    """Whether the newest turn in these messages waits for a tool. After another turn a call counts as given up."""
    newest = max((i for i, message in enumerate(messages) if begins_turn(message)), default=0)
    turn = messages[newest:]
    answered = {message.tool_call_id for message in turn if isinstance(message, ToolMessage)}
    return any(_call_ids(message) - answered for message in turn if isinstance(message, AIMessage))


def _call_ids(message: AIMessage) -> set[str]:
    return {call["id"] for call in [*message.tool_calls, *message.invalid_tool_calls] if call["id"]}


def without_strays(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Leave out tool results whose call is not shown before them, which providers reject."""
    called: set[str] = set()
    shown: list[BaseMessage] = []
    for message in messages:
        if isinstance(message, AIMessage):
            called |= _call_ids(message)
        if not isinstance(message, ToolMessage) or message.tool_call_id in called:
            shown.append(message)
    return shown


def without_bound_reasoning(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Leave out the signed thinking blocks of finished turns.

    Claude binds each of them to the messages before it and may reject them once those are gone. Those of the newest
    turn stay: a tool loop under way needs them.
    """
    newest = max((i for i, message in enumerate(messages) if begins_turn(message)), default=0)
    return [_stripped(message) if i < newest else message for i, message in enumerate(messages)]


def _stripped(message: BaseMessage) -> BaseMessage:
    if not isinstance(message, AIMessage) or isinstance(message.content, str):
        return message
    kept = [
        block for block in message.content if not (isinstance(block, dict) and block.get("type") in _BOUND_REASONING)
    ]
    return message if len(kept) == len(message.content) else message.model_copy(update={"content": kept or ""})
