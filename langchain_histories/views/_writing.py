"""How a summary is written: from which messages, in how many calls, and when it takes the place of the one before.

    system messages | messages that the summary covers | chunk | more | the newest turns (`keep`)

A summary is made in rounds. Each round reads the oldest messages that the summary does not cover, lets the summarizer
put a chunk of whole turns into a new summary, and stores that. Rounds go on until the view is small enough, or the time
of a turn is over.

Sometimes a summary is made anew, from the messages themselves: when the user asks, when messages that it covers were
deleted, or when it covers twice as many as the last time (`rebuild="doubling"`). Then the first round begins without a
summary, and rounds go on until the new summary covers as much as the old one would have: the goal.
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import AIMessage, BaseMessage

from langchain_histories._neutral import settle
from langchain_histories.codec import encode_message
from langchain_histories.errors import SummaryError
from langchain_histories.views._faces import Call
from langchain_histories.views._reading import messages_of
from langchain_histories.views.summarizers import readable
from langchain_histories.views.summary import Summary, SummaryEvent, without_summary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_histories.codec import Record
    from langchain_histories.views._faces import Snapshot, SyncFace
    from langchain_histories.views._limits import Size
    from langchain_histories.views._reading import Loaded, Reader
    from langchain_histories.views.summarizers import Summarizer

_OMITTED = " […]"
_CUT_SHORT = ("length", "max_tokens", "MAX_TOKENS")


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
        timeout: Seconds that a call may take; after that time no further round begins.
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
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        history = await settle(face.opened())
        stored = Summary.of(await settle(face.state()))
        made, goal = False, 0
        while True:
            loaded = await self.reader.load(history, stored, oldest=True)
            chunk = self._chunk(loaded, force=force or anew or loaded.covered < goal)
            if made and deadline is not None and time.monotonic() > deadline:
                return True, None
            # A summary that is already being made anew has a goal.
            if (
                loaded.summary
                and not goal
                and (anew or await self._is_outdated(face, history, loaded, chunk, is_first=not made))
            ):
                goal = loaded.covered + len(chunk)
                loaded = (await self.reader.load(history, None, oldest=True))._replace(stored=stored)
                chunk = self._chunk(loaded, force=True)
            if not chunk:
                if loaded.stored and not loaded.summary and loaded.complete:
                    # The transcript has none of the messages that it covers.
                    await self._drop(face, loaded.stored)
                return made, self.reader.show(loaded, 0).size if loaded.complete else None
            new = await self._summarize(face, loaded, chunk, goal)
            if not await self._commit(face, new, loaded.stored):
                return made, None
            self._tell(new, loaded.stored, len(chunk))
            stored, made, force, anew = new, True, False, False

    def _chunk(self, loaded: Loaded, *, force: bool) -> list[Record]:
        """Return the records that the next summary takes in: whole turns, without the newest ones."""
        reader = self.reader
        before = reader.sizes_before(loaded.tail)
        if loaded.complete and not force and not reader.trigger.exceeded(reader.show(loaded, 0).size):
            return []
        cuts = reader.cuts(messages_of(loaded.tail), before, complete=loaded.complete)
        within = [cut for cut in cuts if before[cut].tokens <= reader.batch]
        end = (within[-1:] or cuts[:1] or [0])[0]
        # A call that costs more than it saves is left for later. This bounds the whole cost, whatever is pinned.
        cost = reader.count(reader.message_of(loaded.summary)) + self.overhead
        if not force and reader.keep[0] == "tokens" and before[end].tokens < cost:
            return []
        return loaded.tail[:end]

    async def _is_outdated(
        self, face: SyncFace, history: SyncFace | Snapshot, loaded: Loaded, chunk: list[Record], *, is_first: bool
    ) -> bool:
        """Whether the summary covers deleted messages, or twice as many as when it was last made anew."""
        if loaded.summary is None:
            return False
        covered = loaded.covered + len(chunk)
        if self.rebuild == "doubling" and chunk and covered >= 2 * loaded.summary.rebuilt:
            return True
        if not loaded.complete or face.own is None or (is_first and not chunk):
            return False
        # Deleted messages must not live on in the summary.
        count: int = await settle(history.count())
        return count < loaded.covered + len(loaded.tail)

    async def _summarize(self, face: SyncFace, loaded: Loaded, chunk: list[Record], goal: int) -> Summary:
        """Let the summarizer put a chunk into the summary, in as many calls as the chunk needs.

        Args:
            face: The history.
            loaded: The session as it was read.
            chunk: The records that the summary takes in.
            goal: How many messages a summary that is made anew will cover; otherwise 0.
        """
        reader = self.reader
        messages = messages_of(chunk)
        text = loaded.summary.text if loaded.summary else ""
        for part in self._parts(messages):
            arguments = (text, part, self.max_tokens)
            request = self.summarizer.request(*arguments)
            reader.session.note(calls=1, tokens_in=reader.count(request))
            call = Call(partial(self.summarizer.summarize, *arguments), partial(self.summarizer.asummarize, *arguments))
            text = self._accepted(await settle(face.call(call, self.timeout)))
            reader.session.note(tokens_out=reader.count([AIMessage(text)]) if request else 0)
        covered = loaded.covered + len(chunk)
        last, before = chunk, loaded.before
        if face.own is None:
            count = min(reader.anchors, covered)
            before = str(covered - count)
            last = await settle(loaded.history.records(after=before, first=count))
        spent = reader.session.stats.with_stored(loaded.stored)
        return Summary(
            text=text,
            tokens=(loaded.summary.tokens if loaded.summary else 0) + reader.count(messages),
            pinned=tuple(map(encode_message, loaded.pinned_messages())),
            rebuilt=loaded.summary.rebuilt if loaded.summary else max(covered, goal),
            calls=spent.calls,
            tokens_in=spent.tokens_in,
            tokens_out=spent.tokens_out,
            tokens_saved=spent.tokens_saved,
            **reader.anchored(last, before, covered),
        )

    def _parts(self, messages: Sequence[BaseMessage]) -> list[list[BaseMessage]]:
        """Split messages into parts for one call each. A single message that is too large is clipped, with a mark."""
        parts: list[list[BaseMessage]] = [[]]
        batch = room = self.reader.batch
        for message in messages:
            size = self.reader.count([message])
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
            text += _OMITTED
        while (size := self.reader.count([AIMessage(text)])) > self.max_tokens and len(text) > len(_OMITTED):
            share = min(0.95, self.max_tokens / size)
            text = text[: int((len(text) - len(_OMITTED)) * share)].rstrip() + _OMITTED
        return text

    async def _commit(self, face: SyncFace, new: Summary, base: Summary | None) -> bool:
        """Store a summary, unless another process has stored one that covers as much in the meantime."""

        def change(state: dict[str, Any] | None) -> dict[str, Any] | None:
            current = Summary.of(state)
            return state if current and current != base and current.covered >= new.covered else new.within(state)

        if not await self._is_covered(face, new):
            return False
        state = await settle(face.update_state(change))
        if Summary.of(state) != new:
            return False
        self.reader.session.stored(new, base)
        if not await self._is_covered(face, new):
            # Somebody cleared the transcript between the look and the change.
            await self._drop(face, new)
            return False
        return True

    async def _is_covered(self, face: SyncFace, summary: Summary) -> bool:
        """Whether the transcript still has the messages of a summary: somebody may have cleared it during the call."""
        history = await settle(face.opened())
        anchor: list[Record] = await settle(history.records(after=summary.after, first=len(summary.anchor)))
        if tuple(record.id for record in anchor) == summary.anchor:
            return True
        return (await self.reader.load(history, summary)).summary is not None

    async def _drop(self, face: SyncFace, summary: Summary) -> None:
        """Remove this summary from the state, but no other."""
        await settle(face.update_state(lambda now: without_summary(now) if Summary.of(now) == summary else now))

    def _tell(self, new: Summary, old: Summary | None, messages: int) -> None:
        tokens_in = new.tokens_in - (old.tokens_in if old else 0)
        tokens_out = new.tokens_out - (old.tokens_out if old else 0)
        self.emit(SummaryEvent("summarized", self.session_id, messages, tokens_in, tokens_out))


def _clipped(message: BaseMessage, share: float) -> BaseMessage:
    """Return a message with the beginning and the end of its text."""
    text = readable(message)
    half = int(len(text) * share * 0.45)
    clipped = f"{text[:half]} [\u2026 {len(text) - 2 * half} characters omitted \u2026] {text[len(text) - half :]}"
    calls: dict[str, Any] = {"tool_calls": [], "invalid_tool_calls": []} if isinstance(message, AIMessage) else {}
    return message.model_copy(update={"content": clipped, **calls})
