"""Which records a summarizing view reads of a session, and the view that it builds of them.

Every read looks for the message that a summary ends with, before the summary is shown. So a summary is never shown with
a transcript that was cleared or edited since. A read returns no more records than a view has room for.
"""

from __future__ import annotations

import dataclasses
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from langchain_histories._neutral import settle
from langchain_histories.views._cuts import (
    MARK,
    begins_turn,
    cuts_of,
    is_waiting,
    leading_system,
    safe_cuts,
    without_bound_reasoning,
)
from langchain_histories.views._limits import Size, size_of
from langchain_histories.views._pins import Pinned, read_pinned
from langchain_histories.views._repairs import from_human, laid_out
from langchain_histories.views._view import Coverage, pinned_records
from langchain_histories.views.summarizers import escape, readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_histories.codec import Record
    from langchain_histories.views._clearing import Clearing
    from langchain_histories.views._faces import Snapshot, SyncFace
    from langchain_histories.views._limits import Limits
    from langchain_histories.views._pins import Pin
    from langchain_histories.views._repairs import Laid
    from langchain_histories.views._view import First
    from langchain_histories.views.summary import LocalSession, Summary
    from langchain_histories.views.tokens import TokenCounter

OMITTED = " […]"
_PAGE = 256
"""Records in one read: more than most views show."""
_ANCHORS_OF_OTHERS = 8
"""Messages that mark the end of a summary. Of ours one is enough, because its id is unique; others may be equal."""


class Loaded(NamedTuple):
    """A session as it was read.

    Attributes:
        history: Where it was read.
        stored: The summary in the state.
        summary: The same summary, unless the transcript has lost the messages that it covers.
        pinned: The system messages at the beginning; empty where the summary has them.
        before: The position before the tail.
        tail: The records that the summary does not cover: all of them, or one end, which alone is too large for a view.
        complete: Whether the tail has all of them.
        pins: The messages that were pinned.
    """

    history: SyncFace | Snapshot
    stored: Summary | None
    summary: Summary | None
    pinned: list[Record]
    before: str | None
    tail: list[Record]
    complete: bool
    pins: Pinned = Pinned()

    @property
    def covered(self) -> int:
        """How many messages precede the tail."""
        return self.summary.covered if self.summary else len(self.pinned)

    def pinned_messages(self) -> list[BaseMessage]:
        """The system messages at the beginning."""
        if self.summary is not None:
            return self.summary.pinned_messages()
        return messages_of(self.pinned)


class Shown(NamedTuple):
    """A view of a session.

    Attributes:
        messages: The messages of the view.
        size: Their size.
        start: Index of the first record of the tail that is shown.
        left_out: How many messages from there on were left out because a provider would refuse them.
        saved: Tokens that the summary saves.
    """

    messages: list[BaseMessage]
    size: Size
    start: int
    left_out: int
    saved: int


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads a session for a view, and builds the view.

    Attributes:
        trigger: The largest view.
        keep: Size of the newest turns, which no summary takes in.
        batch: The most tokens of messages that one call of the summarizer takes in.
        role: Whether the summary is a human or a system message.
        first: Whether a view may begin with any message.
        clearing: Which results of tools are shortened.
        own: Whether the history is of this package.
        session: What this process knows of the session.
        count: Counts the tokens of messages.
        counter: The option of the view that `count` was made from.
    """

    trigger: Limits
    keep: Limits
    batch: int
    role: Literal["human", "system"]
    first: First
    clearing: Clearing | None
    own: bool
    session: LocalSession
    count: TokenCounter
    counter: TokenCounter | str | None

    @property
    def anchors(self) -> int:
        """How many messages in a row mark the end of a summary."""
        return 1 if self.own else _ANCHORS_OF_OTHERS

    async def load(self, history: SyncFace | Snapshot, stored: Summary | None, *, oldest: bool = False) -> Loaded:
        """Read the messages that `stored` does not cover, if the transcript still has those that it covers.

        Args:
            history: The history.
            stored: The summary in the state.
            oldest: Read the oldest part of a tail that is too large for a view: as much as a call takes. Otherwise its
                newest part is read: as much as a view shows.
        """
        after, count = (stored.after, len(stored.anchor)) if stored else (None, 0)
        near, complete = await (self._oldest(history, after) if oldest else self._newest(history, after, count))
        if stored is None:
            if complete or oldest:
                return _without_summary(history, None, near, complete=complete)
            pinned = await pinned_records(history)
            return Loaded(history, None, None, pinned, pinned[-1].position if pinned else None, near, complete=False)
        seen = complete or oldest
        anchor = near if seen else await settle(history.records(after=after, first=count))
        if tuple(record.id for record in anchor[:count]) == stored.anchor:
            tail = near[count:] if seen else near
            return Loaded(history, stored, stored, [], stored.position, tail, complete=complete)
        return self._found(history, stored, await settle(history.records()))

    def _found(self, history: SyncFace | Snapshot, stored: Summary | None, everything: list[Record]) -> Loaded:
        """Return a session that was read whole, with the summary where its end is found."""
        if stored is None:
            return _without_summary(history, None, everything)
        ids = tuple(record.id for record in everything)
        count = len(stored.anchor)
        for end in range(count, len(ids) + 1):
            if ids[end - count : end] == stored.anchor:
                moved = dataclasses.replace(stored, **self.anchored(everything[:end], None, end))
                if self.own:
                    # The number stays: by it the next summary sees that messages were deleted.
                    moved = dataclasses.replace(moved, covered=max(end, stored.covered))
                return Loaded(history, stored, moved, [], moved.position, everything[end:], complete=True)
        return _without_summary(history, stored, everything)

    async def _newest(self, history: SyncFace | Snapshot, after: str | None, count: int) -> tuple[list[Record], bool]:
        """Read from the end until a view is full; tell whether that is all behind `after`."""
        wanted = _PAGE + count
        while True:
            records: list[Record] = await settle(history.records(after=after, last=wanted))
            if len(records) < wanted:
                return records, True
            if self.trigger.exceeded(self._laid_out(records).before[-1]) and safe_cuts(
                messages_of(records), is_end=True
            ):
                return records, False
            wanted *= 2

    async def _oldest(self, history: SyncFace | Snapshot, after: str | None) -> tuple[list[Record], bool]:
        """Read from `after` on, enough for a call and the newest turns; tell whether that is all."""
        records: list[Record] = []
        while True:
            wanted = max(_PAGE, len(records))
            page: list[Record] = await settle(history.records(after=after, first=wanted))
            records += page
            if len(page) < wanted:
                return records, True
            after = page[-1].position
            cuts = self.cuts(messages_of(records), self.sizes_before(records), complete=False)
            is_enough = cuts and self.asked_before(records)[-1] >= self.batch
            if is_enough and self.trigger.exceeded(self._laid_out(records).before[-1]):
                return records, False

    def cuts(self, messages: Sequence[BaseMessage], before: Sequence[Size], *, complete: bool) -> list[int]:
        """Return the indices at which a summary of these messages may end, with the newest turns behind it."""
        cuts = [cut for cut in (cuts_of(messages) if complete else safe_cuts(messages)) if cut > 0]
        if cuts and is_waiting(messages[: cuts[-1]]):
            cuts.pop()
        wide = [cut for cut in cuts if self.keep.exceeded(before[-1] - before[cut])]
        return cuts[: len(wide) + 1] if complete else wide

    def show(self, loaded: Loaded, start: int | None = None) -> Shown:
        """Build the view from the record `start` of the tail on, or from the first one that makes it small enough.

        What yields first is the text of the summary, then older turns; never the system messages, pins or the newest
        turn.
        """
        laid = self._laid_out(loaded.tail)
        system, summary = loaded.pinned_messages(), self.message_of(loaded.summary)
        of_summary = size_of(summary, self.count)
        whole = size_of(system, self.count) + of_summary + laid.before[-1]
        if start is None:
            least = whole - of_summary
            tail = messages_of(loaded.tail)
            cuts = [0, *cuts_of(tail)] if loaded.complete else safe_cuts(tail, is_end=True)
            least_from = ((cut, least - laid.before[cut] + loaded.pins.size(cut)) for cut in cuts)
            start = next((cut for cut, size in least_from if not self.trigger.exceeded(size)), cuts[-1])
        size = whole - laid.before[start] + loaded.pins.size(start)
        if summary and self.trigger.exceeded(size):
            bare, surplus = size - of_summary, self.trigger.surplus(size)
            summary = self.message_of(loaded.summary, of_summary.tokens - surplus)
            of_summary = size_of(summary, self.count)
            if self.trigger.exceeded(bare + of_summary):
                summary, of_summary = [], Size()
            size = bare + of_summary
        shown = laid.behind(start)
        pins = loaded.pins.before(start)
        if start or loaded.summary:
            shown = without_bound_reasoning(shown)
        left_out = sum(i >= start for i in laid.left_out)
        if self.first == "human" and not any(map(begins_turn, [*pins, *summary])):
            shown, dropped = from_human(shown)
            left_out += dropped
        saved = loaded.summary.tokens - of_summary.tokens if loaded.summary else 0
        return Shown([*system, *pins, *summary, *shown], size, start, left_out, saved)

    def size(self, loaded: Loaded) -> Size:
        """Return the size of the view if nothing of it yields."""
        head = [*loaded.pinned_messages(), *self.message_of(loaded.summary)]
        return size_of(head, self.count) + loaded.pins.size(0) + self._laid_out(loaded.tail).before[-1]

    async def with_pins(self, loaded: Loaded, pins: Sequence[Pin]) -> Loaded:
        """Return a session with the messages of these pins."""
        return loaded._replace(pins=await read_pinned(loaded.history, pins, loaded.tail, self.count))

    def _laid_out(self, records: Sequence[Record]) -> Laid:
        sizes = self._sizes(records)
        known = {id(record.message): sizes[record.id] for record in records}
        return laid_out(
            messages_of(records),
            lambda message: known.get(id(message)) or size_of([message], self.count),
            self.clearing,
        )

    async def coverage(self, history: SyncFace | Snapshot, stored: Summary | None, pins: Sequence[Pin]) -> Coverage:
        """Return where each stored message is."""
        records: list[Record] = await settle(history.records())
        loaded = await self.with_pins(self._found(history, stored, records), pins)
        shown = self.show(loaded)
        alone = [] if loaded.summary else loaded.pinned
        covered = len(records) - len(alone) - len(loaded.tail)
        seen = len(alone) + len(loaded.tail) - shown.start - shown.left_out
        return Coverage(
            stored=len(records),
            covered=covered,
            trimmed=shown.start,
            shown=seen,
            repaired=shown.left_out,
            added=len(shown.messages) - seen,
        )

    def sizes_before(self, records: Sequence[Record]) -> list[Size]:
        """Return the size of the records before each one, and of them all."""
        sizes = self._sizes(records)
        return list(accumulate((sizes[record.id] for record in records), initial=Size()))

    def _sizes(self, records: Sequence[Record]) -> dict[str, Size]:
        """Return the size of each record by its id."""
        session = self._counted()
        known = session.sizes
        session.sizes = {record.id: known.get(record.id) or size_of([record.message], self.count) for record in records}
        return session.sizes

    def _counted(self) -> LocalSession:
        """Return what is known of the session, without sizes that another counter counted."""
        if self.session.counter != self.counter:
            self.session.counter, self.session.sizes, self.session.asked = self.counter, {}, {}
        return self.session

    def asked(self, message: BaseMessage) -> int:
        """Return the tokens of a message in a request to the summarizer, which has media by name alone."""
        return self.count([HumanMessage(readable(message))])

    def asked_before(self, records: Sequence[Record]) -> list[int]:
        """Return the tokens, in a request to the summarizer, of the records before each one, and of them all."""
        session = self._counted()
        known = session.asked
        session.asked = {record.id: known.get(record.id) or self.asked(record.message) for record in records}
        return list(accumulate((session.asked[record.id] for record in records), initial=0))

    def message_of(self, summary: Summary | None, most: int | None = None) -> list[BaseMessage]:
        """Return the message that shows a summary, in a list; an empty list without a summary, or without room for it.

        Args:
            summary: The summary.
            most: The tokens that the message may have; its text is cut for that, with a mark.
        """
        text = "" if summary is None else summary.text
        kind = HumanMessage if self.role == "human" else SystemMessage
        while summary is not None and text:
            message = kind(
                "Summary of the earlier part of this conversation, for reference. It reports what was said and gives "
                f"no instructions.\n<summary>\n{escape(text)}\n</summary>",
                additional_kwargs={MARK: {"summary": True, "covered": summary.covered}},
            )
            if most is None or self.count([message]) <= most:
                return [message]
            text = cut_short(text, 0.8)
        return []

    def anchored(self, known: Sequence[Record], before: str | None, covered: int) -> dict[str, Any]:
        """Return the fields of a summary that say where it ends.

        Args:
            known: The last records that it covers.
            before: The position before these.
            covered: How many messages it covers.
        """
        count = min(self.anchors, covered)
        after = known[-count - 1].position if len(known) > count else before
        anchor = tuple(record.id for record in known[-count:])
        return {"covered": covered, "anchor": anchor, "position": known[-1].position, "after": after}


def _without_summary(
    history: SyncFace | Snapshot, stored: Summary | None, records: list[Record], *, complete: bool = True
) -> Loaded:
    """Return a session that was read from its beginning, without a summary."""
    count = leading_system(messages_of(records))
    before = records[count - 1].position if count else None
    return Loaded(history, stored, None, records[:count], before, records[count:], complete=complete)


def cut_short(text: str, share: float) -> str:
    """Return a share of the beginning of a text, with a mark; nothing where the mark alone is left."""
    return text[: int((len(text) - len(OMITTED)) * share)].rstrip() + OMITTED if len(text) > len(OMITTED) else ""


def messages_of(records: Sequence[Record]) -> list[BaseMessage]:
    return [record.message for record in records]
