"""Where a conversation may be cut, and which messages a model is shown of it: pure functions over lists of messages."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MARK = "langchain_histories"
"""Key in the `additional_kwargs` of a message that a view made. Stores do not keep such a message."""

_MADE = ("summary", "stand_in", "cleared", "pinned")
_BOUND_REASONING = ("thinking", "redacted_thinking")


def is_view_message(message: object) -> bool:
    """Whether a view made this message or a part of it, or LangChain's `SummarizationMiddleware` made it."""
    if not isinstance(message, BaseMessage):
        return False
    mark = message.additional_kwargs.get(MARK)
    theirs = message.additional_kwargs.get("lc_source") == "summarization"
    return theirs or (isinstance(mark, dict) and any(map(mark.get, _MADE)))


def leading_system(messages: Sequence[BaseMessage]) -> int:
    """Return how many system messages stand at the beginning."""
    return next((n for n, message in enumerate(messages) if not isinstance(message, SystemMessage)), len(messages))


def begins_turn(message: BaseMessage) -> bool:
    """Whether a turn begins with this message."""
    return isinstance(message, HumanMessage) or (isinstance(message, ChatMessage) and message.role == "user")


class Answers(NamedTuple):
    """Which tool call each answer answers.

    Attributes:
        calls: The index of the call, by the index of the answer.
        strays: The indices of answers to no call, and of second answers.
        unanswered: The ids and names of the calls without an answer, by the index of the message that has them.
    """

    calls: dict[int, int]
    strays: list[int]
    unanswered: dict[int, list[tuple[str, str | None]]]


def answers_of(messages: Sequence[BaseMessage]) -> Answers:
    """Find the call of each answer: the nearest of its id before it.

    Some servers number the calls of each turn anew, and some models give all their calls the id "".
    """
    found = Answers({}, [], {})
    newest: dict[str, int] = {}
    for i, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            call = newest.get(message.tool_call_id)
            waiting = found.unanswered.get(-1 if call is None else call, [])
            asked = next((each for each in waiting if each[0] == message.tool_call_id), None)
            if call is None or asked is None:
                found.strays.append(i)
            else:
                waiting.remove(asked)
                found.calls[i] = call
        elif calls := _calls(message):
            newest |= dict.fromkeys((call_id for call_id, _ in calls), i)
            found.unanswered[i] = calls
    return found


def cuts_of(messages: Sequence[BaseMessage]) -> list[int]:
    """Return where a view of a whole transcript may begin: where nobody ever asks anything, at every complete step."""
    if any(map(begins_turn, messages)):
        return safe_cuts(messages)
    return safe_cuts(messages, lambda message: not isinstance(message, ToolMessage))


def safe_cuts(
    messages: Sequence[BaseMessage], begins: Callable[[BaseMessage], bool] = begins_turn, *, is_end: bool = False
) -> list[int]:
    """Return the indices at which a view may begin: human messages that stand between no tool call and its answer.

    Args:
        messages: The messages.
        begins: Whether a view may begin with a message.
        is_end: Whether they are the end of a longer list, which may have the calls that they answer.
    """
    answers = answers_of(messages)
    reach = {call: answer for answer, call in answers.calls.items()}
    earlier = max(answers.strays, default=-1) if is_end else -1
    furthest = list(accumulate((reach.get(i, -1) for i in range(len(messages))), max))
    cuts = [i for i, message in enumerate(messages) if begins(message)]
    return [cut for cut in cuts if cut > earlier and (cut == 0 or furthest[cut - 1] < cut)]


def is_waiting(messages: Sequence[BaseMessage]) -> bool:
    """Whether a tool call of the newest turn has no answer yet. Calls of earlier turns count as given up."""
    newest = max((i for i, message in enumerate(messages) if begins_turn(message)), default=0)
    turn = messages[newest:]
    answered = {message.tool_call_id for message in turn if isinstance(message, ToolMessage)}
    return any(call_id not in answered for message in turn for call_id, _ in _calls(message))


def _calls(message: BaseMessage) -> list[tuple[str, str | None]]:
    """Return the ids and names of the calls that want an answer."""
    if not isinstance(message, AIMessage):
        return []
    calls = [*message.tool_calls, *message.invalid_tool_calls]
    return [(call["id"], call["name"]) for call in calls if call["id"] is not None]


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
