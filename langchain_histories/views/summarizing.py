"""A summary of old turns in front of the newest ones, over a transcript that stays whole.

The state of a session keeps one summary: its text, how many messages it covers, and which message is the last of
them. A message is stored first and the summary is made afterwards; a summarizer that fails leaves the state as it was.
When and how summaries are made is here; how a session is read, and how the view of it is built, in `_reading`.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage

from langchain_histories._neutral import drive, settle
from langchain_histories._options import Capability
from langchain_histories.codec import encode_message
from langchain_histories.errors import ConfigurationError, CorruptRecordError, SummaryError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.views._access import Call, StateSlot, is_running
from langchain_histories.views._limits import Limits, Size, check_room, read_keep
from langchain_histories.views._reading import Loaded, Reader, messages_of
from langchain_histories.views._turns import begins_turn
from langchain_histories.views._view import HistoryView
from langchain_histories.views.summarizers import find_summarizer, readable
from langchain_histories.views.summary import STATE_KEY, Summary, SummaryEvent, SummaryStats, session_of
from langchain_histories.views.tokens import count_tokens
from langchain_histories.views.tokens import token_counter as find_counter

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.runnables import Runnable

    from langchain_histories._compat import BaseChatMessageHistory
    from langchain_histories.codec import Record
    from langchain_histories.views._access import Access
    from langchain_histories.views._limits import ContextSize
    from langchain_histories.views.summarizers import Summarizer
    from langchain_histories.views.tokens import TokenCounter

_OMITTED = " […]"
_LONGEST_PAUSE = 31  # turns
_SHORTEST = 20
"""Tokens: a shorter summary says nothing."""
_CUT_SHORT = ("length", "max_tokens", "MAX_TOKENS")


class _Pin(NamedTuple):
    """What the reads of a turn have in common, so that a summary made meanwhile does not move the messages."""

    summary: Summary | None
    start: str | None
    saved: int
    trimmed: int


class SummarizingChatMessageHistory(HistoryView):
    """Shows a summary of the old turns and the newest turns; the transcript stays whole.

    `messages` is the system messages at the beginning of the transcript, one message with the summary, and the newest
    turns, and is never larger than `trigger` (except for one turn that alone is). When an addition makes it larger,
    all but the newest turns (`keep`) go into the summary. The addition is stored before that, and no failure of the
    summarizer fails it: until a later call succeeds (after 2, 4, 8, ... turns), the view leaves out the oldest turns
    that do not fit.

    What a handle has read first it goes on showing until it writes, with what is added behind it, so that a summary
    made meanwhile does not move the messages of a turn: take a handle for each turn, and for each page of a program
    that only shows.

    Over a history of this package the summary is kept in the session's state, and a turn costs what it shows, not what
    is stored. Any number of processes may use a session: a summary that covers less never replaces one that covers
    more.

    Args:
        history: The transcript: a history of this package or any other `BaseChatMessageHistory`.
        model: A chat model, any runnable from messages to a message or text, the name of a chat model for
            `init_chat_model`, `"extractive"` for sentences picked without a model, or a `Summarizer`.
        trigger: The largest view: `("tokens", n)`, `("messages", n)`, `("fraction", share of the model's context)`; a
            dict of sizes that must all be exceeded, a list of sizes of which one suffices.
        keep: Size of the newest turns that stay as they are, in a unit of `trigger`. Turns are never split.
        max_summary_tokens: The longest summary; a longer one is cut, with a mark.
        token_counter: `None` or `"approximate"` for an estimate, `"tiktoken"`, `"tiktoken:<encoding>"`, `"model"`
            for the model's own, or a function of a list of messages.
        mode: `"inline"`: an addition waits for the summary it makes necessary. `"background"`: it goes on in a thread,
            or a task of the event loop. `"manual"`: only `compact()` makes summaries.
        prompt: For the model, instead of `DEFAULT_PROMPT`, with its placeholders.
        summary_role: Whether the summary is shown as a human or a system message. Words of users and tools are in it:
            as a system message they would gain its authority, and not all providers accept one in that place.
        rebuild: `"doubling"` makes the summary anew from the messages themselves whenever it covers twice as many, so
            that errors do not add up, at up to twice the cost.
        timeout: Seconds that a call may take; after that time in one turn no further summary is begun either. One
            stored turn that is too large for a call takes several. `None` for no limit.
        on_summary_error: `"raise"` raises `SummaryError` when a summary fails, after the messages are stored.
        on_event: Called with each `SummaryEvent`.
        state: For a history that is not of this package: one that is, in whose state the summary is kept.

    Raises:
        ConfigurationError: An option cannot be used, or `trigger` and `keep` are too close to pay.
        MissingExtraError: What an option needs is not installed.
    """

    def __init__(
        self,
        history: BaseChatMessageHistory,
        model: Summarizer | Runnable[Any, Any] | str,
        *,
        trigger: ContextSize | list[ContextSize] = ("tokens", 4000),
        keep: ContextSize = ("tokens", 1300),
        max_summary_tokens: int = 650,
        token_counter: TokenCounter | str | None = None,
        mode: Literal["inline", "background", "manual"] = "inline",
        prompt: str | None = None,
        summary_role: Literal["human", "system"] = "human",
        rebuild: Literal["never", "doubling"] = "never",
        timeout: float | None = 30,
        on_summary_error: Literal["serve", "raise"] = "serve",
        on_event: Callable[[SummaryEvent], object] | None = None,
        state: StoredChatMessageHistory | None = None,
    ) -> None:
        """Keep history and options."""
        super().__init__(history)
        slot = self._sync.slot = self._async.slot = _slot(history, state)
        for name, value, known in (
            ("mode", mode, ("inline", "background", "manual")),
            ("summary_role", summary_role, ("human", "system")),
            ("rebuild", rebuild, ("never", "doubling")),
            ("on_summary_error", on_summary_error, ("serve", "raise")),
        ):
            if value not in known:
                raise ConfigurationError(f"{name} must be one of {', '.join(known)}, not {value!r}.")
        if on_summary_error == "raise" and mode == "background":
            raise ConfigurationError(
                "on_summary_error='raise' has nobody to raise to in mode='background'; use on_event."
            )
        if (
            isinstance(max_summary_tokens, bool)
            or not isinstance(max_summary_tokens, int)
            or max_summary_tokens < _SHORTEST
        ):
            raise ConfigurationError(
                f"max_summary_tokens must be a whole number of at least {_SHORTEST}, not {max_summary_tokens!r}."
            )
        if timeout is not None and (isinstance(timeout, bool) or not timeout > 0):
            raise ConfigurationError(f"timeout must be a number of seconds above 0 or None, not {timeout!r}.")
        if on_event is not None and not callable(on_event):
            raise ConfigurationError(f"on_event must be a function of an event, not {on_event!r}.")
        self.summarizer = find_summarizer(model, prompt)
        self.mode = mode
        asked = getattr(self.summarizer, "model", None)
        self._count = find_counter(token_counter, asked)
        context = _context_of(asked)
        self._trigger = Limits(trigger, context)
        self._keep = read_keep(keep, context)
        # Estimated, whatever the counter: a constructor loads no vocabulary and calls no service.
        self._overhead = count_tokens(self.summarizer.request("", [], max_summary_tokens))
        check_room(self._trigger, self._keep, max_summary_tokens, self._overhead)
        self._batch = (context or 0) // 2 or self._trigger.smallest("tokens") or 4000
        self._max_summary_tokens = max_summary_tokens
        self._rebuild = rebuild
        self._timeout = timeout
        self._on_summary_error = on_summary_error
        self._on_event = on_event
        self._slot = slot
        self._session = session_of(slot)
        self._reader = Reader(
            trigger=self._trigger,
            keep=self._keep,
            batch=self._batch,
            role=summary_role,
            own=isinstance(history, StoredChatMessageHistory),
            session=self._session,
            count=self._count,
            counter=token_counter,
        )
        self._pin: _Pin | None = None
        self._size: Size | None = None

    @property
    def summary(self) -> Summary | None:
        """The summary that the state has, if there is one."""
        return Summary.of(self._sync.state())

    async def aget_summary(self) -> Summary | None:
        """Async `summary`."""
        return Summary.of(await self._async.state())

    @property
    def stats(self) -> SummaryStats:
        """What the summaries of this session cost and saved."""
        return self._session.stats.with_stored(self.summary)

    async def aget_stats(self) -> SummaryStats:
        """Async `stats`."""
        return self._session.stats.with_stored(await self.aget_summary())

    def compact(self, *, force: bool = False) -> bool:
        """Bring the summary up to date, if the view is larger than `trigger`.

        Args:
            force: Summarize all but `keep` whatever the size.

        Returns:
            Whether there is a new summary. There is none while another call for this session is under way.
        """
        return drive(self._compacting_now(self._sync, force=force))

    async def acompact(self, *, force: bool = False) -> bool:
        """Async `compact`."""
        return await self._compacting_now(self._async, force=force)

    def rebuild(self) -> bool:
        """Make the summary anew from the messages themselves; it forgets what was deleted from the transcript.

        Returns:
            Whether there is a new summary.
        """
        return drive(self._compacting_now(self._sync, anew=True))

    async def arebuild(self) -> bool:
        """Async `rebuild`."""
        return await self._compacting_now(self._async, anew=True)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait for the summary that is being made in a thread.

        Returns:
            Whether none is under way now.
        """
        if isinstance(running := self._session.running, threading.Thread):
            running.join(timeout)
        return not self._session.lock.locked()

    async def aflush(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  # as its twin
        """Wait for the summary that is being made in a task of this event loop."""
        return await self._async.wait(self._session.running, timeout) and not self._session.lock.locked()

    # Reading.

    async def _showing(self, io: Access) -> list[BaseMessage]:
        history = await settle(io.opened())
        if (pin := self._pin) is not None:
            loaded = await self._reader.load(history, pin.summary)
            start = next((i for i, record in enumerate(loaded.tail) if record.position == pin.start), None)
            if loaded.summary == pin.summary and start is not None:
                shown = self._reader.show(loaded, start)
                if not self._trigger.exceeded(shown.size):
                    return shown.messages
        loaded = await self._reader.load(history, Summary.of(await settle(io.state())))
        if loaded.stored is not None and loaded.summary is None:
            self._emit(SummaryEvent("lost", self._slot.session_id, loaded.stored.covered))
        shown = self._reader.show(loaded)
        trimmed = shown.trimmed
        if trimmed and not loaded.complete:
            trimmed += await settle(history.count()) - loaded.covered - len(loaded.tail)
        if trimmed:
            self._emit(SummaryEvent("trimmed", self._slot.session_id, trimmed))
        position = loaded.tail[shown.start].position if shown.start < len(loaded.tail) else None
        self._pin = _Pin(loaded.summary, position, shown.saved, trimmed)
        self._size = shown.size
        return shown.messages

    # Writing.

    async def _adding(self, io: Access, messages: Sequence[BaseMessage]) -> None:
        messages = list(messages)
        await super()._adding(io, messages)
        is_turn = any(map(begins_turn, messages))
        if self._pin is not None:
            self._session.note(tokens_saved=self._pin.saved, trimmed=self._pin.trimmed)
        self._pin = None
        if self._size is not None:
            self._size += Size(self._count(list(messages)), len(messages))
        if self.mode == "manual" or self._pausing(is_turn=is_turn):
            return
        if self._size is not None and not self._trigger.exceeded(self._size):
            return
        if self.mode == "inline":
            await self._compacting(io)
        elif not is_running(self._session.running):
            self._session.running = io.start(self._compacting)

    def _pausing(self, *, is_turn: bool) -> bool:
        """Whether the summarizer is left alone after it failed; counts the turns."""
        pausing = self._session.pause > 0
        if pausing and is_turn:
            self._session.pause -= 1
        return pausing

    async def _clearing(self, io: Access) -> None:
        if io.own is None or io.own.store is not self._slot.store:
            # The summary first: it must not outlive the conversation. A store that keeps both removes both at once.
            try:
                await settle(io.update_state(_without_summary))
            except CorruptRecordError:
                # Whatever it held: it goes with the conversation.
                await settle(io.drop_state())
        await super()._clearing(io)
        self._pin = self._size = None
        self._session.begin_anew()

    # Summarizing.

    async def _compacting_now(self, io: Access, *, force: bool = False, anew: bool = False) -> bool:
        made = await self._compacting(io, force=force, anew=anew)
        self._pin = self._frozen = None
        return made

    async def _compacting(self, io: Access, *, force: bool = False, anew: bool = False) -> bool:
        """Make summaries until the view is small enough; one caller at a time for each session of this process."""
        if not self._session.lock.acquire(blocking=False):
            return False
        try:
            return await self._compacting_alone(io, force=force, anew=anew)
        except Exception as error:
            # The messages are stored: whatever fails here must not fail the turn.
            self._session.failures += 1
            self._session.pause = min(2**self._session.failures - 1, _LONGEST_PAUSE)
            self._session.note(failures=1)
            logger.warning("The summary of session %r failed: %s", self._slot.session_id, type(error).__name__)
            self._emit(SummaryEvent("failed", self._slot.session_id, error=error))
            if self._on_summary_error == "raise":
                raise SummaryError(
                    f"No summary of session {self._slot.session_id!r} could be made ({type(error).__name__}); its "
                    "messages are stored. See the cause."
                ) from error
            return False
        finally:
            self._session.lock.release()

    async def _compacting_alone(self, io: Access, *, force: bool, anew: bool) -> bool:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        history = await settle(io.opened())
        stored = Summary.of(await settle(io.state()))
        made, goal = False, 0
        while True:
            loaded = await self._reader.load(history, stored, oldest=True)
            chunk = self._chunk(loaded, force=force or anew or loaded.covered < goal)
            if made and deadline is not None and time.monotonic() > deadline:
                return made
            if loaded.summary and not goal:
                if loaded.complete and io.own is not None and (chunk or made):
                    # Fewer messages than that: some that it covers were deleted, and must not live on in it.
                    anew = anew or await settle(history.count()) < loaded.covered + len(loaded.tail)
                covered = loaded.covered + len(chunk)
                if anew or (self._rebuild == "doubling" and chunk and covered >= 2 * loaded.summary.rebuilt):
                    goal = covered
                    loaded = (await self._reader.load(history, None, oldest=True))._replace(stored=stored)
                    chunk = self._chunk(loaded, force=True)
            if not chunk:
                self._size = self._reader.show(loaded, 0).size if loaded.complete else None
                if loaded.stored and not loaded.summary and loaded.complete:
                    # Nothing that it covers is there any more.
                    await self._dropping(io, loaded.stored)
                return made
            new = await self._summarized(io, loaded, chunk, goal)
            old = loaded.stored
            if not await self._committed(io, new, old):
                return made
            spent = new.tokens_in - (old.tokens_in if old else 0), new.tokens_out - (old.tokens_out if old else 0)
            self._emit(SummaryEvent("summarized", self._slot.session_id, len(chunk), *spent))
            stored, made, force, anew = new, True, False, False

    def _chunk(self, loaded: Loaded, *, force: bool) -> list[Record]:
        """Return what the next summary is to take in: whole turns, the newest ones left out."""
        before = self._reader.sizes_before(loaded.tail)
        if loaded.complete and not force and not self._trigger.exceeded(self._reader.show(loaded, 0).size):
            return []
        cuts = self._reader.cuts(messages_of(loaded.tail), before, complete=loaded.complete)
        within = [cut for cut in cuts if before[cut].tokens <= self._batch]
        end = (within[-1:] or cuts[:1] or [0])[0]
        # What costs more than it saves is left for later: this bounds the whole cost, whatever is pinned.
        cost = self._count(self._reader.message_of(loaded.summary)) + self._overhead
        if not force and self._keep[0] == "tokens" and before[end].tokens < cost:
            return []
        return loaded.tail[:end]

    async def _summarized(self, io: Access, loaded: Loaded, chunk: list[Record], goal: int) -> Summary:
        """Call the summarizer: as often as its input needs.

        Args:
            io: The face.
            loaded: What was read.
            chunk: What the summary is to take in.
            goal: How much is to be covered, when it is made anew.
        """
        messages = messages_of(chunk)
        text = loaded.summary.text if loaded.summary else ""
        for part in self._parts(messages):
            arguments = (text, part, self._max_summary_tokens)
            request = self.summarizer.request(*arguments)
            self._session.note(calls=1, tokens_in=self._count(request))
            reply = await settle(
                io.call(
                    Call(
                        partial(self.summarizer.summarize, *arguments), partial(self.summarizer.asummarize, *arguments)
                    ),
                    self._timeout,
                )
            )
            text = self._accepted(reply)
            self._session.note(tokens_out=self._count([AIMessage(text)]) if request else 0)
        covered = loaded.covered + len(chunk)
        known, before = chunk, loaded.before
        if io.own is None:
            count = min(self._reader.anchors, covered)
            before = str(covered - count)
            known = await settle(loaded.history.records(after=before, first=count))
        spent = self._session.stats.with_stored(loaded.stored)
        return Summary(
            text=text,
            tokens=(loaded.summary.tokens if loaded.summary else 0) + self._count(messages),
            pinned=tuple(map(encode_message, loaded.pinned_messages())),
            rebuilt=loaded.summary.rebuilt if loaded.summary else max(covered, goal),
            calls=spent.calls,
            tokens_in=spent.tokens_in,
            tokens_out=spent.tokens_out,
            tokens_saved=spent.tokens_saved,
            **self._reader.anchored(known, before, covered),
        )

    def _parts(self, messages: Sequence[BaseMessage]) -> list[list[BaseMessage]]:
        """Split what is too large for one call; a message that is too large itself is clipped, with a mark."""
        parts: list[list[BaseMessage]] = [[]]
        room = self._batch
        for message in messages:
            size = self._count([message])
            if size > room and parts[-1]:
                parts.append([])
                room = self._batch
            parts[-1].append(message if size <= self._batch else _clipped(message, self._batch / size))
            room -= size
        return parts

    def _accepted(self, reply: object) -> str:
        """Return the text of a reply, cut to the longest that is allowed.

        Raises:
            SummaryError: It has none.
        """
        if not isinstance(reply, str | BaseMessage):
            raise SummaryError(f"The summarizer returned {type(reply).__name__}, neither a message nor text.")
        text = str(reply if isinstance(reply, str) else reply.text).strip()
        if not text:
            raise SummaryError("The summarizer returned no text.")
        metadata = {} if isinstance(reply, str) else reply.response_metadata
        if any(metadata.get(name) in _CUT_SHORT for name in ("finish_reason", "stop_reason", "done_reason")):
            text += _OMITTED
        while (size := self._count([AIMessage(text)])) > self._max_summary_tokens and len(text) > len(_OMITTED):
            keep = min(0.95, self._max_summary_tokens / size)
            text = text[: int((len(text) - len(_OMITTED)) * keep)].rstrip() + _OMITTED
        return text

    async def _committed(self, io: Access, new: Summary, base: Summary | None) -> bool:
        """Store a summary, unless another process has stored one that covers as much meanwhile."""

        def change(state: dict[str, Any] | None) -> dict[str, Any] | None:
            current = Summary.of(state)
            return state if current and current != base and current.covered >= new.covered else new.within(state)

        if not await self._holds(io, new):
            return False
        state = await settle(io.update_state(change))
        if Summary.of(state) != new:
            return False
        self._session.stored(new, base)
        if not await self._holds(io, new):
            # Cleared in this moment.
            await self._dropping(io, new)
            return False
        return True

    async def _holds(self, io: Access, summary: Summary) -> bool:
        """Whether the transcript has what the summary covers: it may have been cleared while it was made."""
        history = await settle(io.opened())
        anchor: list[Record] = await settle(history.records(after=summary.after, first=len(summary.anchor)))
        if tuple(record.id for record in anchor) == summary.anchor:
            return True
        return (await self._reader.load(history, summary)).summary is not None

    async def _dropping(self, io: Access, summary: Summary) -> None:
        """Remove a summary from the state, if it is still that one."""
        await settle(io.update_state(lambda now: _without_summary(now) if Summary.of(now) == summary else now))

    def _emit(self, event: SummaryEvent) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            # A turn must not fail because somebody counts it.
            logger.exception("on_event failed")


def _slot(history: BaseChatMessageHistory, state: StoredChatMessageHistory | None) -> StateSlot:
    """Return where the summary is kept.

    Raises:
        ConfigurationError: There is no such place, or there are two.
    """
    if isinstance(history, StoredChatMessageHistory) and Capability.STATE in history.store.capabilities:
        if state is None:
            return StateSlot(history.store, history.session_id)
        raise ConfigurationError("state is for a history that has no place for a summary; this one keeps it itself.")
    if not isinstance(state, StoredChatMessageHistory) or Capability.STATE not in state.store.capabilities:
        raise ConfigurationError(
            f"{type(history).__name__} has no place for a summary: give state=open_history(url, session_id) of a store "
            "with Capability.STATE."
        )
    return StateSlot(state.store, state.session_id)


def _context_of(model: object) -> int | None:
    """The size of the model's context in tokens, where its profile says it."""
    profile = getattr(model, "profile", None)
    size = profile.get("max_input_tokens") if isinstance(profile, dict) else None
    return size if isinstance(size, int) else None


def _clipped(message: BaseMessage, share: float) -> BaseMessage:
    text = readable(message)
    half = int(len(text) * share * 0.45)
    clipped = f"{text[:half]} [\u2026 {len(text) - 2 * half} characters omitted \u2026] {text[len(text) - half :]}"
    calls: dict[str, Any] = {"tool_calls": [], "invalid_tool_calls": []} if isinstance(message, AIMessage) else {}
    return message.model_copy(update={"content": clipped, **calls})


def _without_summary(state: dict[str, Any] | None) -> dict[str, Any] | None:
    return {name: value for name, value in (state or {}).items() if name != STATE_KEY} or None
