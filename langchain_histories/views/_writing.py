"""How a summary is written: from which messages, in how many calls, and when it takes the place of the one before.

    system messages | messages that the summary covers | chunk | more | the newest turns (`keep`)

A summary is made in rounds. Each round reads the oldest messages that the summary does not cover, lets the summarizer
put a chunk of whole turns into a new summary, and stores that. Rounds go on until the view is small enough, or the time
of a turn is over.

Sometimes a summary is made anew, from the messages themselves: when the user asks, or when it covers twice as many as
the last time (`rebuild="doubling"`). Its rounds have a slot of their own in the state, the draft, and it takes the
place of the other when it covers as much. Until then the other one is shown, so nothing that fails, is slow or is
killed on the way costs the model its memory, and the next process goes on where this one stopped. The draft also keeps
how far a turn has come that is too large for one call.

Only what was deleted makes a summary cover less: then it is dropped at once, because it must be forgotten.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import AIMessage, BaseMessage

from langchain_histories._neutral import settle
from langchain_histories.codec import encode_message
from langchain_histories.errors import CorruptRecordError, SummaryError
from langchain_histories.views._clearing import both_ends
from langchain_histories.views._clock import Clock, TurnTimeoutError
from langchain_histories.views._cuts import safe_cuts
from langchain_histories.views._faces import Call
from langchain_histories.views._pins import pins_of
from langchain_histories.views._reading import OMITTED, cut_short, messages_of
from langchain_histories.views.summarizers import readable
from langchain_histories.views.summary import Draft, Summary, SummaryEvent, without_draft, without_summary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_histories.codec import Record
    from langchain_histories.views._faces import Change, Snapshot, SyncFace
    from langchain_histories.views._limits import Size
    from langchain_histories.views._pins import Pin
    from langchain_histories.views._reading import Loaded, Reader
    from langchain_histories.views.summarizers import Summarizer

_CUT_SHORT = ("length", "max_tokens", "MAX_TOKENS")


@dataclasses.dataclass
class _Work:
    """A summary that is being made.

    Attributes:
        face: The history.
        history: The same, opened.
        stored: The summary in the state.
        draft: The one that is under way in the state.
        clock: The time that is left.
        pins: The pins in the state.
        made: Whether there is a new summary.
        is_rebuilding: Whether the draft begins with the messages themselves.
    """

    face: SyncFace
    history: SyncFace | Snapshot
    stored: Summary | None
    draft: Draft | None
    clock: Clock
    pins: Sequence[Pin] = ()
    made: bool = False
    is_rebuilding: bool = False

    @property
    def is_ahead(self) -> bool:
        """Whether the draft covers more than the summary: it goes on with that, in the middle of a long turn."""
        return self.draft is not None and (self.stored is None or self.draft.covered > self.stored.covered)

    @property
    def base(self) -> Summary | None:
        """What the next summary is made from."""
        return self.draft if self.is_ahead else self.stored


@dataclasses.dataclass(frozen=True)
class Writer:
    """Writes the summary of a session.

    Attributes:
        reader: Reads the session.
        session_id: The session whose state has the summary.
        summarizer: Writes the text.
        max_tokens: The longest text.
        overhead: Tokens of a request to the summarizer without messages.
        rebuild: The option of the view.
        timeout: Seconds that a turn waits; what is not done by then is left for the next one.
        emit: Called with each event.
    """

    reader: Reader
    session_id: str
    summarizer: Summarizer
    max_tokens: int
    overhead: int
    rebuild: Literal["never", "doubling"]
    timeout: float | None
    emit: Callable[[SummaryEvent], None]

    async def compact(self, face: SyncFace, *, force: bool, anew: bool) -> tuple[bool, Size | None]:
        """Make summaries until the view is small enough.

        Args:
            face: The history.
            force: Take in all but the newest turns, however small the view is.
            anew: Make the summary from the messages themselves.

        Returns:
            Whether there is a new summary, and the size of the view, if it is known.
        """
        state = await self._state(face, anew=anew)
        clock, pins = Clock(self.timeout), pins_of(state)
        work = _Work(face, await settle(face.opened()), Summary.of(state), Draft.of(state), clock, pins)
        size = None
        try:
            if not anew or not await self._has_valid(work):
                size = await self._extend(work, force=force or anew)
                anew = False
            if work.stored and (anew or work.draft or self._has_doubled(work.stored)):
                await self._rebuild(work)
        except TurnTimeoutError:
            if not work.made:
                raise
        return work.made, size

    async def _state(self, face: SyncFace, *, anew: bool) -> dict[str, Any] | None:
        """Return the state; without a summary that cannot be read, where it may be replaced."""
        try:
            state: dict[str, Any] | None = await settle(face.state())
            Summary.of(state)
        except CorruptRecordError:
            if not (anew and face.skips_corrupt):
                raise
            await drop_summary(face)
            state = await settle(face.state())
        return state

    async def _has_valid(self, work: _Work) -> bool:
        """Whether there is a summary, of messages that are all there."""
        loaded = await self.reader.load(work.history, work.stored, oldest=True)
        return loaded.summary is not None and not await self._forget_deleted(work, loaded)

    def _has_doubled(self, summary: Summary) -> bool:
        return self.rebuild == "doubling" and summary.covered >= 2 * summary.rebuilt

    async def _extend(self, work: _Work, *, force: bool) -> Size | None:
        """Put what is too much for a view into the summary; return the size of the view, if it is known."""
        while True:
            base = work.base
            loaded = await self.reader.load(work.history, base, oldest=True)
            if base is not work.stored and loaded.summary is None:
                work.draft = None
                continue
            loaded = await self.reader.with_pins(loaded, work.pins)
            chunk = self._chunk(loaded, force=force)
            if not work.clock.allows_another():
                return None
            if (chunk or work.made) and await self._forget_deleted(work, loaded):
                continue
            if not chunk:
                if work.stored and not loaded.summary and loaded.complete:
                    # The transcript has none of the messages that it covers.
                    await self._drop(work.face, work.stored)
                return self.reader.size(loaded) if loaded.complete else None
            new = await self._summarize(work, loaded, chunk)
            if new is None or not await self._commit(work, new, chunk, loaded.before):
                return None
            force = False

    async def _rebuild(self, work: _Work) -> None:
        """Make a summary anew in the slot for it, and put it in the place of the other when it covers as much."""
        if work.draft and work.is_ahead:
            work.draft = None
        work.is_rebuilding = True
        while work.stored and work.clock.allows_another():
            goal = work.stored.anchor[-1], work.stored.covered
            loaded = await self.reader.load(work.history, work.draft, oldest=True)
            if work.draft and loaded.summary is None:
                work.draft = None
                continue
            if await self._forget_deleted(work, loaded):
                return
            chunk = self._chunk_to(loaded, *goal)
            if chunk:
                draft = await self._summarize(work, loaded, chunk)
                if draft is None or not await self._commit_draft(work, draft, chunk, loaded.before):
                    return
            if work.draft is None:
                return
            if chunk and (
                all(record.id != goal[0] for record in chunk) if self.reader.own else work.draft.covered < goal[1]
            ):
                continue
            done = dataclasses.replace(work.draft, rebuilt=work.draft.covered)
            if await self._commit(work, Summary(**vars(done)), [], None):
                return
            # Another process has added to the summary meanwhile, or it was dropped with the messages.
            work.stored = Summary.of(await settle(work.face.state()))

    def _chunk(self, loaded: Loaded, *, force: bool) -> list[Record]:
        """Return the records that the next summary takes in: whole turns, without the newest ones."""
        reader = self.reader
        before = reader.sizes_before(loaded.tail)
        if loaded.complete and not force and not reader.trigger.exceeded(reader.size(loaded)):
            return []
        end = self._within_a_call(loaded, reader.cuts(messages_of(loaded.tail), before, complete=loaded.complete))
        # A call that costs more than it saves is left for later. This bounds the whole cost, whatever is pinned.
        cost = reader.count(reader.message_of(loaded.summary)) + self.overhead
        if not force and reader.keep.is_in_tokens and before[end].tokens < cost:
            return []
        return loaded.tail[:end]

    def _chunk_to(self, loaded: Loaded, goal: str, covered: int) -> list[Record]:
        """Return the records that a summary which is made anew takes in next, up to the message `goal` at least."""
        reader, messages = self.reader, messages_of(loaded.tail)
        if reader.own:
            end = next((i for i, record in enumerate(loaded.tail, 1) if record.id == goal), None)
        else:
            end = max(0, covered - loaded.covered)
        before = reader.sizes_before(loaded.tail)
        if end is None and loaded.complete:
            return []
        upto = len(messages) if end is None else end
        cuts = {cut for cut in safe_cuts(messages) if 0 < cut < upto}
        cuts.update(reader.cuts(messages, before, complete=loaded.complete), [] if not end else [end])
        return loaded.tail[: self._within_a_call(loaded, sorted(cuts))]

    def _within_a_call(self, loaded: Loaded, cuts: list[int]) -> int:
        """Return the last cut up to which one call can take in all; otherwise the first cut, or 0 without one."""
        asked = self.reader.asked_before(loaded.tail)
        within = [cut for cut in cuts if asked[cut] <= self.reader.batch]
        return (within[-1:] or cuts[:1] or [0])[0]

    async def _forget_deleted(self, work: _Work, loaded: Loaded) -> bool:
        """Drop a summary of messages that were deleted since, because they must not live on in it."""
        if loaded.summary is None or not loaded.complete or work.face.own is None:
            return False
        count: int = await settle(work.history.count())
        if count >= loaded.covered + len(loaded.tail):
            return False
        await settle(work.face.update_state(without_summary))
        work.stored = work.draft = None
        return True

    async def _summarize(self, work: _Work, loaded: Loaded, chunk: list[Record]) -> Summary | None:
        """Let the summarizer put a chunk into the summary, in as many calls as the chunk needs.

        Returns:
            The new summary; `None` where somebody changed the state meanwhile.
        """
        reader = self.reader
        text, taken = loaded.summary.text if loaded.summary else "", 0
        parts = self._parts(messages_of(chunk))
        for part in parts:
            arguments = (text, part, self.max_tokens)
            request = self.summarizer.request(*arguments)
            reader.session.note(calls=1, tokens_in=reader.count(request))
            call = Call(partial(self.summarizer.summarize, *arguments), partial(self.summarizer.asummarize, *arguments))
            text = self._accepted(await work.clock.run(work.face, call))
            reader.session.note(tokens_out=reader.count([AIMessage(text)]) if request else 0)
            taken += len(part)
            if part is not parts[-1] and work.face.own is not None:
                # A turn that is too large for one call goes on from here, when the time is over.
                draft = await self._summary(work, loaded, chunk[:taken], text)
                if not await self._commit_draft(work, draft, chunk[:taken], loaded.before):
                    return None
        return await self._summary(work, loaded, chunk, text)

    async def _summary(self, work: _Work, loaded: Loaded, chunk: list[Record], text: str) -> Summary:
        """Return the summary of what `loaded.summary` covers and of a chunk behind it."""
        reader = self.reader
        covered = loaded.covered + len(chunk)
        last, before = chunk, loaded.before
        if work.face.own is None:
            count = min(reader.anchors, covered)
            before = str(covered - count)
            last = await settle(loaded.history.records(after=before, first=count))
        return Summary(
            text=text,
            tokens=(loaded.summary.tokens if loaded.summary else 0) + reader.count(messages_of(chunk)),
            pinned=tuple(map(encode_message, loaded.pinned_messages())),
            rebuilt=loaded.summary.rebuilt if loaded.summary else covered,
            **reader.anchored(last, before, covered),
        )

    def _parts(self, messages: Sequence[BaseMessage]) -> list[list[BaseMessage]]:
        """Split messages into parts for one call each. A single message that is too large is clipped, with a mark."""
        parts: list[list[BaseMessage]] = [[]]
        batch = room = self.reader.batch
        for message in messages:
            size = self.reader.asked(message)
            if size > room and parts[-1]:
                parts.append([])
                room = batch
            parts[-1].append(message if size <= batch else _clipped(message, batch / size))
            room -= size
        return parts

    def _accepted(self, reply: object) -> str:
        """Return the text of a reply, cut to `max_tokens`.

        Raises:
            SummaryError: The reply has no text.
        """
        if not isinstance(reply, str | BaseMessage):
            raise SummaryError(f"The summarizer returned {type(reply).__name__}, neither a message nor text.")
        text = str(reply if isinstance(reply, str) else reply.text).strip()
        if not text:
            raise SummaryError("The summarizer returned no text.")
        metadata = {} if isinstance(reply, str) else reply.response_metadata
        if any(metadata.get(name) in _CUT_SHORT for name in ("finish_reason", "stop_reason", "done_reason")):
            text += OMITTED
        while (size := self.reader.count([AIMessage(text)])) > self.max_tokens and len(text) > len(OMITTED):
            share = min(0.95, self.max_tokens / size)
            text = cut_short(text, share)
        return text

    async def _commit(self, work: _Work, new: Summary, chunk: list[Record], before: str | None) -> bool:
        """Store a summary in the place of the one it was made from, unless somebody has changed that meanwhile."""
        spent = self.reader.session.stats.with_stored(work.stored)
        figures = {name: getattr(spent, name) for name in ("calls", "tokens_in", "tokens_out", "tokens_saved")}
        new = dataclasses.replace(new, **figures)
        is_draft_in_it = work.is_rebuilding or work.is_ahead

        def change(state: dict[str, Any] | None) -> dict[str, Any] | None:
            if Summary.of(state) != work.stored:
                return state
            return new.within(without_draft(state) if is_draft_in_it else state)

        if not await self._put(work, new, change, chunk, before):
            return False
        old, work.stored, work.made = work.stored, new, True
        if is_draft_in_it:
            work.draft = None
        self.reader.session.stored(new, old)
        self._tell(new, old, new.covered if work.is_rebuilding else len(chunk))
        return True

    async def _commit_draft(self, work: _Work, new: Summary, chunk: list[Record], before: str | None) -> bool:
        """Store a summary that is under way in the slot for it."""
        draft = Draft(**vars(new))

        def change(state: dict[str, Any] | None) -> dict[str, Any] | None:
            is_as_read = Summary.of(state) == work.stored and Draft.of(state) == work.draft
            return draft.within(state) if is_as_read else state

        if not await self._put(work, draft, change, chunk, before):
            return False
        work.draft = draft
        return True

    async def _put(self, work: _Work, new: Summary, change: Change, chunk: list[Record], before: str | None) -> bool:
        """Change the state, if that still agrees with the transcript; tell whether the state has `new` now."""
        face = work.face
        if not await self._is_covered(face, new):
            return False
        if type(new).of(await settle(face.update_state(change))) != new:
            return False
        # Somebody may have cleared the transcript between the look and the change, or deleted messages during the call.
        if await (self._is_whole(face, chunk, before) if face.own and chunk else self._is_covered(face, new)):
            return True
        await self._drop(face, new)
        return False

    async def _is_whole(self, face: SyncFace, chunk: list[Record], before: str | None) -> bool:
        """Whether the transcript still has all messages of a chunk."""
        history = await settle(face.opened())
        ids = [record.id for record in chunk]
        found: list[Record] = await settle(history.records(after=before, first=len(ids)))
        if [record.id for record in found] == ids:
            return True
        return {record.id for record in await settle(history.records())}.issuperset(ids)

    async def _is_covered(self, face: SyncFace, summary: Summary) -> bool:
        """Whether the transcript still has the messages of a summary: somebody may have cleared it during the call."""
        history = await settle(face.opened())
        anchor: list[Record] = await settle(history.records(after=summary.after, first=len(summary.anchor)))
        if tuple(record.id for record in anchor) == summary.anchor:
            return True
        return (await self.reader.load(history, summary)).summary is not None

    async def _drop(self, face: SyncFace, summary: Summary) -> None:
        """Remove this summary from the state, but no other."""
        kind, without = (Draft, without_draft) if isinstance(summary, Draft) else (Summary, without_summary)
        await settle(face.update_state(lambda now: without(now) if kind.of(now) == summary else now))

    def _tell(self, new: Summary, old: Summary | None, messages: int) -> None:
        tokens_in = new.tokens_in - (old.tokens_in if old else 0)
        tokens_out = new.tokens_out - (old.tokens_out if old else 0)
        self.emit(SummaryEvent("summarized", self.session_id, messages, tokens_in, tokens_out))


async def drop_summary(face: SyncFace) -> None:
    """Remove the summary from the state, and the whole state if that cannot be read."""
    try:
        await settle(face.update_state(without_summary))
    except CorruptRecordError:
        await settle(face.drop_state())


def _clipped(message: BaseMessage, share: float) -> BaseMessage:
    """Return a message with the beginning and the end of its text."""
    clipped = both_ends(readable(message), share)
    calls: dict[str, Any] = {"tool_calls": [], "invalid_tool_calls": []} if isinstance(message, AIMessage) else {}
    return message.model_copy(update={"content": clipped, **calls})
