"""A window: the newest messages of a transcript."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, get_args

from langchain_histories._neutral import settle
from langchain_histories._options import check_number
from langchain_histories.errors import ConfigurationError
from langchain_histories.views._turns import (
    begins_turn,
    leading_system,
    safe_cuts,
    without_bound_reasoning,
    without_strays,
)
from langchain_histories.views._view import HistoryView, Unit, pinned_records
from langchain_histories.views.tokens import token_counter as find_counter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage

    from langchain_histories._compat import BaseChatMessageHistory
    from langchain_histories.views._access import Access
    from langchain_histories.views.tokens import TokenCounter


class WindowedChatMessageHistory(HistoryView):
    """Shows the newest messages of a history; the transcript stays whole.

    `messages` is the system messages at the beginning of the transcript, then as many of the newest messages as fit.
    They begin with a human message and never in the middle of a tool call, as providers demand. The newest turn is
    shown whole even if it alone does not fit. A read costs what it returns.

    Unlike `trim_messages(strategy="last")`, no tool result is shown without its call, and a last turn that is too
    large does not leave the model without the question.

    Args:
        history: The transcript: any history.
        keep: `("messages", n)`, `("turns", n)` or `("tokens", n)`: what is shown beside the system messages.
        token_counter: As for `SummarizingChatMessageHistory`.

    Raises:
        ConfigurationError: `keep` or `history` cannot be used.
    """

    def __init__(
        self,
        history: BaseChatMessageHistory,
        *,
        keep: tuple[Unit, int] = ("turns", 10),
        token_counter: TokenCounter | str | None = None,
    ) -> None:
        """Keep history and size."""
        super().__init__(history)
        if not isinstance(keep, tuple | list) or len(keep) != 2 or keep[0] not in get_args(Unit):  # noqa: PLR2004
            raise ConfigurationError(f"keep must be a pair such as ('turns', 10), not {keep!r}.")
        self._unit, self._size = keep
        if not check_number("keep", self._size):
            raise ConfigurationError(f"keep must be more than 0 {self._unit}.")
        self._count = find_counter(token_counter)

    async def _showing(self, io: Access) -> list[BaseMessage]:
        history = await settle(io.opened())
        # A guess of how many records hold that; if it is too few, twice as many.
        wanted = {"messages": self._size, "turns": 4 * self._size, "tokens": self._size // 40}[self._unit] + 8
        while True:
            tail = [record.message for record in await settle(history.records(last=wanted))]
            cuts = safe_cuts(tail)
            behind = self._sizes_from(tail)
            if len(tail) < wanted:
                pinned = tail[: leading_system(tail)]
                break
            if cuts and behind[0] > self._size:
                pinned = [record.message for record in await pinned_records(history)]
                break
            wanted *= 2
        fitting = [cut for cut in cuts if behind[cut] <= self._size]
        start = (fitting or cuts[-1:] or [len(tail)])[0]
        return [*pinned, *without_bound_reasoning(without_strays(tail[start:]))]

    def _sizes_from(self, messages: Sequence[BaseMessage]) -> list[int]:
        """Return how much there is from each message on, and behind the last one."""
        sizes = {
            "messages": lambda _: 1,
            "turns": begins_turn,
            "tokens": lambda message: self._count([message]),
        }
        return list(accumulate(map(sizes[self._unit], reversed(messages)), initial=0))[::-1]
