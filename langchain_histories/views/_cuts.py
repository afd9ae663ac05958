"""Where a conversation may be cut, and which messages a model is shown of it: pure functions over lists of messages."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

MARK = "langchain_histories"
"""Key in the `additional_kwargs` of a message that a view made. Stores do not keep such a message."""

_BOUND_REASONING = ("thinking", "redacted_thinking")


def is_view_message(message: object) -> bool:
    """Whether this message is a summary, made by a view or by LangChain's `SummarizationMiddleware`."""
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
    """Return the indices at which a view may begin: human messages that stand between no tool call and its answer.

    An answer belongs to the nearest call of its id before it, because some servers number the calls of each turn anew.
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
    """Whether a tool call of the newest turn has no answer yet. Calls of earlier turns count as given up."""
    newest = max((i for i, message in enumerate(messages) if begins_turn(message)), default=0)
    turn = messages[newest:]
    answered = {message.tool_call_id for message in turn if isinstance(message, ToolMessage)}
    return any(_call_ids(message) - answered for message in turn if isinstance(message, AIMessage))


def _call_ids(message: AIMessage) -> set[str]:
    return {call["id"] for call in [*message.tool_calls, *message.invalid_tool_calls] if call["id"]}


def without_strays(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Leave out tool results whose call is not among the messages before them, because providers reject these."""
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

    Claude binds each block to the messages before it, and may reject the block once these are gone. The blocks of the
    newest turn stay, because a tool loop that is under way needs them.
    """
    newest = max((i for i, message in enumerate(messages) if begins_turn(message)), default=0)
    return [_without_reasoning_blocks(message) if i < newest else message for i, message in enumerate(messages)]


def _without_reasoning_blocks(message: BaseMessage) -> BaseMessage:
    if not isinstance(message, AIMessage) or isinstance(message.content, str):
        return message
    content = [
        block for block in message.content if not (isinstance(block, dict) and block.get("type") in _BOUND_REASONING)
    ]
    return message if len(content) == len(message.content) else message.model_copy(update={"content": content or ""})
