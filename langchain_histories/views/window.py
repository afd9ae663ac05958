"""A window: the newest messages of a transcript."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, get_args

from langchain_histories._neutral import settle
from langchain_histories._options import check_number
from langchain_histories.errors import ConfigurationError
from langchain_histories.views._cuts import cuts_of, leading_system, safe_cuts, without_bound_reasoning
from langchain_histories.views._limits import one_size, size_of
from langchain_histories.views._repairs import from_human, laid_out
from langchain_histories.views._view import Coverage, HistoryView, Unit, pinned_records
from langchain_histories.views.tokens import token_counter as find_counter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_histories._compat import BaseChatMessageHistory
    from langchain_histories.views._faces import SyncFace
    from langchain_histories.views._limits import Size
    from langchain_histories.views._repairs import Laid
    from langchain_histories.views._view import First
    from langchain_histories.views.tokens import TokenCounter


class _Shown(NamedTuple):
    """A view of messages: where it was cut, and how many behind that a provider would refuse."""

    messages: list[BaseMessage]
    start: int
    left_out: int


class WindowedChatMessageHistory(HistoryView):
    """Shows the newest messages of a history; the transcript stays whole.

    `messages` is the system messages at the beginning of the transcript, then as many of the newest messages as fit.
    What is cut begins with a human message and never in the middle of a tool call, because providers demand both; what
    fits is shown from its first message on, also the greeting of a bot. The newest turn is shown whole even if it alone
    does not fit. A read costs what it returns.

    Unlike `trim_messages(strategy="last")`, no tool result is shown without its call, and a last turn that is too
    large does not leave the model without the question.

    Args:
        history: The transcript: any history.
        keep: How much is shown beside the system messages: `("messages", n)`, `("turns", n)` or `("tokens", n)`, or
            a dict such as `{"turns": n}`.
        token_counter: As for `SummarizingChatMessageHistory`.
        first: As for `SummarizingChatMessageHistory`.

    Raises:
        ConfigurationError: `keep` or `history` cannot be used.
    """

    def __init__(
        self,
        history: BaseChatMessageHistory,
        *,
        keep: tuple[Unit, int] | Mapping[Unit, int] = ("turns", 10),
        token_counter: TokenCounter | str | None = None,
        first: First = "any",
    ) -> None:
        """Keep history and size."""
        super().__init__(history, first)
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
            if len(tail) < wanted:
                return self._shown(tail).messages
            laid, cuts = self._laid_out(tail), safe_cuts(tail, is_end=True)
            if cuts and self._exceeds(laid.before[-1] - laid.before[cuts[0]]):
                pinned = [record.message for record in await pinned_records(history)]
                return self._shown(tail, pinned).messages
            wanted *= 2

    async def _coverage(self, face: SyncFace) -> Coverage:
        messages: list[BaseMessage] = await settle(face.transcript())
        shown = self._shown(messages)
        seen = len(messages) - shown.start - shown.left_out
        return Coverage(
            stored=len(messages),
            covered=0,
            trimmed=shown.start,
            shown=seen,
            repaired=shown.left_out,
            added=len(shown.messages) - seen,
        )

    def _shown(self, messages: list[BaseMessage], pinned: list[BaseMessage] | None = None) -> _Shown:
        """Build the view of a whole transcript; with the system messages at its beginning, of its end."""
        head = leading_system(messages) if pinned is None else None
        pinned, tail = (messages[:head], messages[head:]) if pinned is None else (pinned, messages)
        laid = self._laid_out(tail)
        cuts = [0, *cuts_of(tail)] if head is not None else safe_cuts(tail, is_end=True)
        start = next((cut for cut in cuts if not self._exceeds(laid.before[-1] - laid.before[cut])), cuts[-1])
        shown = laid.behind(start)
        if start or head is None:
            shown = without_bound_reasoning(shown)
        left_out = sum(i >= start for i in laid.left_out)
        if self._first == "human":
            shown, dropped = from_human(shown)
            left_out += dropped
        return _Shown([*pinned, *shown], start, left_out)

    def _laid_out(self, messages: Sequence[BaseMessage]) -> Laid:
        return laid_out(messages, lambda message: size_of([message], self._count))

    def _exceeds(self, size: Size) -> bool:
        return bool(getattr(size, self._unit) > self._size)
