"""What providers refuse, repaired: calls without an answer, answers without a call, turns that interleave."""

from __future__ import annotations

from itertools import accumulate, chain
from typing import TYPE_CHECKING, NamedTuple

from langchain_core.messages import BaseMessage, ToolMessage

from langchain_histories.views._cuts import MARK, answers_of, begins_turn
from langchain_histories.views._limits import Size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from langchain_histories.views._clearing import Clearing

UNANSWERED = "This call was interrupted; there is no result."


class Laid(NamedTuple):
    """Messages as a provider takes them, each in the place that it has in the transcript.

    Attributes:
        places: What stands in the place of each message: itself; a call with its answers; nothing, for an answer that
            was moved to its call or has none.
        left_out: The places of the answers without a call.
        before: The size of what stands before each place, and of all.
    """

    places: list[list[BaseMessage]]
    left_out: list[int]
    before: list[Size]

    def behind(self, start: int) -> list[BaseMessage]:
        """Return the messages from a place on."""
        return list(chain.from_iterable(self.places[start:]))


def is_stand_in(message: BaseMessage) -> bool:
    """Whether a view made this message as the answer to a call that has none."""
    mark = message.additional_kwargs.get(MARK)
    return isinstance(mark, dict) and bool(mark.get("stand_in"))


def repaired(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Put each answer behind its call, add one where there is none, and leave out answers to no call.

    To repair a list that begins with a repaired one is the same as to repair the whole: an answer that comes later
    takes the place of the one that was added.
    """
    return list(chain.from_iterable(_places([message for message in messages if not is_stand_in(message)])[0]))


def without_stand_ins(messages: Iterable[BaseMessage], answers: Iterable[BaseMessage]) -> list[BaseMessage]:
    """Leave out the stand-ins for those answers that a program brings."""
    given = (message for message in answers if isinstance(message, ToolMessage) and not is_stand_in(message))
    brought = {message.tool_call_id for message in given}
    return [m for m in messages if not (isinstance(m, ToolMessage) and is_stand_in(m) and m.tool_call_id in brought)]


def from_human(messages: list[BaseMessage]) -> tuple[list[BaseMessage], int]:
    """Leave out what precedes the first human message; tell how many of these messages are stored."""
    start = next((i for i, message in enumerate(messages) if begins_turn(message)), len(messages))
    return messages[start:], sum(not is_stand_in(message) for message in messages[:start])


def laid_out(
    messages: Sequence[BaseMessage], size: Callable[[BaseMessage], Size], clearing: Clearing | None = None
) -> Laid:
    """Repair messages, shorten long results of tools, and keep where each of them stood."""
    if clearing is not None:
        messages = clearing.shortened(messages, lambda message: size(message).tokens)
    places, left_out = _places(messages)
    sizes = (size(place[0]) if len(place) == 1 else sum(map(size, place), Size()) for place in places)
    return Laid(places, left_out, list(accumulate(sizes, initial=Size())))


def _places(messages: Sequence[BaseMessage]) -> tuple[list[list[BaseMessage]], list[int]]:
    answers = answers_of(messages)
    places: list[list[BaseMessage]] = [[] if isinstance(message, ToolMessage) else [message] for message in messages]
    for answer, call in answers.calls.items():
        places[call].append(messages[answer])
    for i, calls in answers.unanswered.items():
        places[i] += [_stand_in(call_id, name) for call_id, name in calls]
    return places, answers.strays


def _stand_in(call_id: str, name: str | None) -> ToolMessage:
    mark = {MARK: {"stand_in": True}}
    return ToolMessage(UNANSWERED, tool_call_id=call_id, name=name, status="error", additional_kwargs=mark)
