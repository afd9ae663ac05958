"""A window: the newest messages of a transcript."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_histories._neutral import settle
from langchain_histories.errors import CorruptRecordError
from langchain_histories.views._clearing import Clearing
from langchain_histories.views._cuts import begins_turn, cuts_of, leading_system, safe_cuts, without_bound_reasoning
from langchain_histories.views._limits import Limits, size_of
from langchain_histories.views._pins import pins_of, read_pinned
from langchain_histories.views._reading import messages_of
from langchain_histories.views._repairs import from_human, laid_out
from langchain_histories.views._view import Coverage, HistoryView, context_of, pinned_records
from langchain_histories.views.summarizers import find_model
from langchain_histories.views.tokens import token_counter as find_counter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_histories._compat import BaseChatMessageHistory
    from langchain_histories.codec import Record
    from langchain_histories.views._faces import SyncFace
    from langchain_histories.views._limits import ContextSize
    from langchain_histories.views._pins import Pin
    from langchain_histories.views._repairs import Laid
    from langchain_histories.views._view import First
    from langchain_histories.views.tokens import TokenCounter


_RECORDS = {"messages": 1, "turns": 4, "tokens": 1 / 40}
"""How many records a size in each unit has, as a guess."""


class _Shown(NamedTuple):
    """A view of messages: where it was cut, and how many behind that a provider would refuse."""

    messages: list[BaseMessage]
    start: int
    left_out: int


class WindowedChatMessageHistory(HistoryView):
    """Shows the newest messages of a history; the transcript stays whole.

    `messages` is the system messages at the beginning of the transcript, what was pinned, and as many of the newest
    messages as fit.
    What is cut begins with a human message and never in the middle of a tool call, because providers demand both; what
    fits is shown from its first message on, also the greeting of a bot. The newest turn is shown whole even if it alone
    does not fit. A read costs what it returns, and a look at the state for pins.

    Unlike `trim_messages(strategy="last")`, no tool result is shown without its call, and a last turn that is too
    large does not leave the model without the question.

    Args:
        history: The transcript: any history.
        keep: How much is shown beside the system messages, in the forms of the `trigger` of
            `SummarizingChatMessageHistory`: a number of tokens, `("turns", n)`, `("messages", n)`, a list of sizes of
            which none may be exceeded, ...
        token_counter: As for `SummarizingChatMessageHistory`.
        model: The chat model that is shown the window, or its name: for `("fraction", share)` of its context, and for
            `token_counter="model"`.
        first: As for `SummarizingChatMessageHistory`.
        clear_tools: As for `SummarizingChatMessageHistory`, with `keep` in the place of `trigger`.

    Raises:
        ConfigurationError: `keep` or `history` cannot be used.
    """

    def __init__(
        self,
        history: BaseChatMessageHistory,
        *,
        keep: ContextSize | list[ContextSize] = ("turns", 10),
        token_counter: TokenCounter | str | None = None,
        model: Any = None,
        first: First = "any",
        clear_tools: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep history and size."""
        super().__init__(history, first)
        model = find_model(model) if isinstance(model, str) else model
        self._keep = Limits.read("keep", keep, context_of(model))
        self._count = find_counter(token_counter, model)
        self._clearing = Clearing.read(clear_tools, self._keep.smallest("tokens"))

    def _sizes(self) -> dict[str, Limits]:
        return {"keep": self._keep}

    async def _show(self, face: SyncFace) -> list[BaseMessage]:
        history = await settle(face.opened())
        # A guess of how many records are shown. While it is too low, twice as many are read.
        wanted = min(max(int(n * _RECORDS[unit]) for unit, n in clause.items()) for clause in self._keep.clauses) + 8
        tail, pins = await self._looked(face, history, wanted)
        while True:
            if len(tail) < wanted:
                return (await self._shown(face, tail, pins)).messages
            laid, cuts = self._laid_out(tail), safe_cuts(messages_of(tail), is_end=True)
            if cuts and self._keep.exceeded(laid.before[-1] - laid.before[cuts[0]]):
                return (await self._shown(face, tail, pins, messages_of(await pinned_records(history)))).messages
            wanted *= 2
            tail = await settle(history.records(last=wanted))

    async def _looked(self, face: SyncFace, history: Any, wanted: int) -> tuple[list[Record], list[Pin]]:
        """Return the last records and the pins: by one look, where that is a single trip and the state can be read."""
        if face.has_one_look:
            try:
                tail = await settle(face.tail(wanted))
            except CorruptRecordError:
                if not face.skips_corrupt:
                    raise
            else:
                return tail.records, pins_of(tail.state)
        pins = await self._pins(face)
        return await settle(history.records(last=wanted)), pins

    async def _coverage(self, face: SyncFace) -> Coverage:
        history = await settle(face.opened())
        records: list[Record] = await settle(history.records())
        shown = await self._shown(face, records, await self._pins(face))
        seen = len(records) - shown.start - shown.left_out
        return Coverage(
            stored=len(records),
            covered=0,
            trimmed=shown.start,
            shown=seen,
            repaired=shown.left_out,
            added=len(shown.messages) - seen,
        )

    async def _shown(
        self, face: SyncFace, records: list[Record], pins: Sequence[Pin], system: list[BaseMessage] | None = None
    ) -> _Shown:
        """Build the view of a whole transcript; with the system messages at its beginning, of its end."""
        head = leading_system(messages_of(records)) if system is None else None
        system, tail = (messages_of(records[:head]), records[head:]) if system is None else (system, records)
        pinned = await read_pinned(face, pins, tail, self._count)
        self._has_moved_pins = pinned.has_moved
        laid, messages = self._laid_out(tail), messages_of(tail)
        cuts = [0, *cuts_of(messages)] if head is not None else safe_cuts(messages, is_end=True)
        sizes = ((cut, laid.before[-1] - laid.before[cut] + pinned.size(cut)) for cut in cuts)
        start = next((cut for cut, size in sizes if not self._keep.exceeded(size)), cuts[-1])
        shown, before = laid.behind(start), pinned.before(start)
        if start or head is None:
            shown = without_bound_reasoning(shown)
        left_out = sum(i >= start for i in laid.left_out)
        if self._first == "human" and not any(map(begins_turn, before)):
            shown, dropped = from_human(shown)
            left_out += dropped
        return _Shown([*system, *before, *shown], start, left_out)

    async def _pins(self, face: SyncFace) -> list[Pin]:
        try:
            return pins_of(await settle(face.state()))
        except CorruptRecordError:
            if not face.skips_corrupt:
                raise
            return []

    def _laid_out(self, records: Sequence[Record]) -> Laid:
        return laid_out(messages_of(records), lambda message: size_of([message], self._count), self._clearing)
