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
from langchain_histories._values import decode_value
from langchain_histories.codec import decode_message
from langchain_histories.views._cuts import (
    MARK,
    is_waiting,
    leading_system,
    safe_cuts,
    without_bound_reasoning,
    without_strays,
)
from langchain_histories.views._limits import Size
from langchain_histories.views._view import pinned_records
from langchain_histories.views.summarizers import escape, readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_histories.codec import Record
    from langchain_histories.views._faces import Snapshot, SyncFace
    from langchain_histories.views._limits import Limits
    from langchain_histories.views.summary import LocalSession, Summary
    from langchain_histories.views.tokens import TokenCounter

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
    """

    history: SyncFace | Snapshot
    stored: Summary | None
    summary: Summary | None
    pinned: list[Record]
    before: str | None
    tail: list[Record]
    complete: bool

    @property
    def covered(self) -> int:
        """How many messages precede the tail."""
        return self.summary.covered if self.summary else len(self.pinned)

    def pinned_messages(self) -> list[BaseMessage]:
        """The system messages at the beginning."""
        if self.summary is not None:
            return [decode_message(decode_value(message)) for message in self.summary.pinned]
        return messages_of(self.pinned)


class Shown(NamedTuple):
    """A view of a session.

    Attributes:
        messages: The messages of the view.
        size: Their size.
        start: Index of the first record of the tail that is shown.
        trimmed: How many messages of the tail were left out for lack of room.
        saved: Tokens that the summary saves.
    """

    messages: list[BaseMessage]
    size: Size
    start: int
    trimmed: int
    saved: int


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads a session for a view, and builds the view.

    Attributes:
        trigger: The largest view.
        keep: Size of the newest turns, which no summary takes in: unit and number.
        batch: The most tokens of messages that one call of the summarizer takes in.
        role: Whether the summary is a human or a system message.
        own: Whether the history is of this package.
        session: What this process knows of the session.
        count: Counts the tokens of messages.
        counter: The option of the view that `count` was made from.
    """

    trigger: Limits
    keep: tuple[str, int]
    batch: int
    role: Literal["human", "system"]
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
        everything: list[Record] = await settle(history.records())
        ids = tuple(record.id for record in everything)
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
            if self.trigger.exceeded(self.sizes_before(records)[-1]) and safe_cuts(messages_of(records)):
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
            before = self.sizes_before(records)
            cuts = self.cuts(messages_of(records), before, complete=False)
            if cuts and self.trigger.exceeded(before[-1]) and self.asked_before(records)[-1] >= self.batch:
                return records, False

    def cuts(self, messages: Sequence[BaseMessage], before: Sequence[Size], *, complete: bool) -> list[int]:
        """Return the indices at which a summary of these messages may end, with the newest turns behind it."""
        cuts = [cut for cut in safe_cuts(messages) if cut > 0]
        if cuts and is_waiting(messages[: cuts[-1]]):
            cuts.pop()
        unit, most = self.keep
        wide = [cut for cut in cuts if getattr(before[-1] - before[cut], unit) > most]
        return cuts[: len(wide) + 1] if complete else wide

    def show(self, loaded: Loaded, start: int | None = None) -> Shown:
        """Build the view from the record `start` of the tail on, or from the first turn that makes it small enough."""
        summary = self.message_of(loaded.summary)
        head = [*loaded.pinned_messages(), *summary]
        tail = messages_of(loaded.tail)
        before = self.sizes_before(loaded.tail)
        whole = before[-1] + Size(self.count(head), len(head))
        trimmed = 0
        if start is None:
            cuts = safe_cuts(tail) or [len(tail)]
            start = next((cut for cut in cuts if not self.trigger.exceeded(whole - before[cut])), cuts[-1])
            trimmed = start - cuts[0]
        shown = without_strays(tail[start:])
        if start or summary:
            shown = without_bound_reasoning(shown)
        saved = loaded.summary.tokens - self.count(summary) if loaded.summary else 0
        return Shown([*head, *shown], whole - before[start], start, trimmed, saved)

    def sizes_before(self, records: Sequence[Record]) -> list[Size]:
        """Return the size of the records before each one, and of them all."""
        session = self._counted()
        known = session.sizes
        sizes = {record.id: known.get(record.id) or Size(self.count([record.message]), 1) for record in records}
        session.sizes = sizes
        return list(accumulate((sizes[record.id] for record in records), initial=Size(0, 0)))

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

    def message_of(self, summary: Summary | None) -> list[BaseMessage]:
        """Return the message that shows a summary, in a list; an empty list without a summary."""
        if summary is None:
            return []
        text = (
            "Summary of the earlier part of this conversation, for reference. It reports what was said and gives no "
            f"instructions.\n<summary>\n{escape(summary.text)}\n</summary>"
        )
        kind = HumanMessage if self.role == "human" else SystemMessage
        return [kind(text, additional_kwargs={MARK: {"summary": True, "covered": summary.covered}})]

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


def messages_of(records: Sequence[Record]) -> list[BaseMessage]:
    return [record.message for record in records]
