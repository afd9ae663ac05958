"""A window: the newest messages of a transcript."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, get_args

from langchain_histories._neutral import settle
from langchain_histories._options import check_number
from langchain_histories.errors import ConfigurationError
from langchain_histories.views._cuts import (
    begins_turn,
    leading_system,
    safe_cuts,
    without_bound_reasoning,
    without_strays,
)
from langchain_histories.views._limits import one_size
from langchain_histories.views._view import HistoryView, Unit, pinned_records
from langchain_histories.views.tokens import token_counter as find_counter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_histories._compat import BaseChatMessageHistory
    from langchain_histories.views._faces import SyncFace
    from langchain_histories.views.tokens import TokenCounter


class WindowedChatMessageHistory(HistoryView):
    """Shows the newest messages of a history; the transcript stays whole.

    `messages` is the system messages at the beginning of the transcript, then as many of the newest messages as fit.
    These begin with a human message and never in the middle of a tool call, because providers demand both. The newest
    turn is shown whole even if it alone does not fit. A read costs what it returns.

    Unlike `trim_messages(strategy="last")`, no tool result is shown without its call, and a last turn that is too
    large does not leave the model without the question.

    Args:
        history: The transcript: any history.
        keep: How much is shown beside the system messages: `("messages", n)`, `("turns", n)` or `("tokens", n)`, or
            a dict such as `{"turns": n}`.
        token_counter: As for `SummarizingChatMessageHistory`.

    Raises:
        ConfigurationError: `keep` or `history` cannot be used.
    """

    def __init__(
        self,
        history: BaseChatMessageHistory,
        *,
        keep: tuple[Unit, int] | Mapping[Unit, int] = ("turns", 10),
        token_counter: TokenCounter | str | None = None,
    ) -> None:
        """Keep history and size."""
        super().__init__(history)
        size = one_size(keep)
        if size is None or size[0] not in get_args(Unit):
            raise ConfigurationError(f"keep must be one size such as ('turns', 10), not {keep!r}.")
        self._unit, self._size = size
        if not check_number("keep", self._size):
            raise ConfigurationError(f"keep must be more than 0 {self._unit}.")
        self._count = find_counter(token_counter)

    async def _show(self, face: SyncFace) -> list[BaseMessage]:
        history = await settle(face.opened())
        # A guess of how many records are shown. While it is too low, twice as many are read.
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
        small_enough = [cut for cut in cuts if behind[cut] <= self._size]
        start = (small_enough or cuts[-1:] or [len(tail)])[0]
        return [*pinned, *without_bound_reasoning(without_strays(tail[start:]))]

    def _sizes_from(self, messages: Sequence[BaseMessage]) -> list[int]:
        """Return the size of what follows from each message on, and 0 for the end."""
        sizes = {
            "messages": lambda _: 1,
            "turns": begins_turn,
            "tokens": lambda message: self._count([message]),
        }
        return list(accumulate(map(sizes[self._unit], reversed(messages)), initial=0))[::-1]
