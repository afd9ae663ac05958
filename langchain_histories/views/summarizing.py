"""A summary of old turns in front of the newest ones, over a transcript that stays whole.

The state of a session keeps one summary: its text, how many messages it covers, and which message is the last of
them. A message is stored first and the summary is made afterwards; a summarizer that fails leaves the state as it was.
The view and its options are here; `_reading` reads a session and builds the view, `_writing` makes summaries.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from langchain_histories._neutral import drive, settle
from langchain_histories._options import Capability
from langchain_histories.errors import ConfigurationError, CorruptRecordError, SummaryError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.views._clearing import Clearing
from langchain_histories.views._cuts import begins_turn
from langchain_histories.views._faces import StateSlot, is_running
from langchain_histories.views._limits import SHORTEST, Limits, check_room, size_of
from langchain_histories.views._pins import pins_of
from langchain_histories.views._reading import Reader
from langchain_histories.views._view import HistoryView, check_choice, context_of
from langchain_histories.views._writing import Writer, drop_summary
from langchain_histories.views.summarizers import find_summarizer
from langchain_histories.views.summary import Summary, SummaryEvent, SummaryStats, local_session
from langchain_histories.views.tokens import count_tokens
from langchain_histories.views.tokens import token_counter as find_counter

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_histories._compat import BaseChatMessageHistory
    from langchain_histories.views._faces import SyncFace
    from langchain_histories.views._limits import ContextSize, Size
    from langchain_histories.views._pins import Pin
    from langchain_histories.views._view import Coverage, First
    from langchain_histories.views.summarizers import Model
    from langchain_histories.views.tokens import TokenCounter

_LONGEST_PAUSE = 31  # turns


class _FirstRead(NamedTuple):
    """What the first read of a turn showed. Later reads of the turn begin at the same message, whatever is summarized.

    Attributes:
        summary: The summary that it showed.
        start: Position of the first message behind that.
        saved: Tokens that the summary saved.
        trimmed: Messages that were left out for lack of room.
        pins: The pins that it showed.
    """

    summary: Summary | None
    start: str | None
    saved: int
    trimmed: int
    pins: list[Pin]


class SummarizingChatMessageHistory(HistoryView):
    """Shows a summary of the old turns and the newest turns; the transcript stays whole.

    `messages` is the system messages at the beginning of the transcript, what was pinned, one message with the summary,
    and the newest turns. When an addition makes it larger than `trigger`, all but the newest turns (`keep`) go into the
    summary. The addition is stored before that, and succeeds even if the summarizer fails: it is called again
    2, 4, 8, ... turns later. Until a call succeeds, what does not fit yields, in this order: the text of the summary,
    then older turns. The system messages, the pins and the newest turn never do. Where these alone are larger than
    `trigger` the view is as large as they are, without a summary: the model knows nothing of what is older, and may
    refuse so much.

    Until a handle writes, all its reads begin at the message where its first read began, because a new summary must not
    move the messages within a turn. So take a handle for each turn, and for each page of a program that only shows.

    Over a history of this package the summary is kept in the session's state, and a turn costs what it shows, not what
    is stored. Any number of processes may use a session: a summary never replaces one that covers more, unless messages
    were deleted, which must be forgotten. One that is made anew takes the place of the other when it covers as much.

    Args:
        history: The transcript: a history of this package or any other `BaseChatMessageHistory`.
        model: A chat model, any runnable or function from messages to a message or text, the name of a chat model for
            `init_chat_model`, `"extractive"` for sentences picked without a model, or a `Summarizer`.
        trigger: The largest view: a number of tokens; `("tokens", n)`, `("messages", n)`, `("turns", n)` or
            `("fraction", share)` of the model's context; a dict of sizes such as `{"tokens": n, "messages": n}`, which
            must all be exceeded; a list of these, of which one suffices.
        keep: Size of the newest turns, which no summary takes in, in the same forms and in units of `trigger`; `None`
            for a third of it. Turns are never split.
        max_summary_tokens: The longest summary; a longer one is cut, with a mark. `None` for a sixth of `trigger`,
            between 20 and 2,000; where that is in messages, for 20 a message, up to 650.
        token_counter: `None` or `"approximate"` for an estimate, `"tiktoken"`, `"tiktoken:<encoding>"`, `"model"`
            for the model's own, or a function of a list of messages.
        mode: `"inline"`: an addition that makes a summary necessary waits for it. `"background"`: the summary is made
            in a thread, or in a task of the event loop. `"manual"`: only `compact()` makes summaries.
        prompt: The request to the model, in place of `DEFAULT_PROMPT`, with the same placeholders.
        summary_role: Whether the summary is shown as a human or a system message. Words of users and tools are in it:
            a system message would give them its authority, and not all providers accept one in that place.
        rebuild: `"doubling"` makes the summary anew from the messages themselves whenever it covers twice as many, so
            that errors do not add up, at up to twice the cost. It is made beside the other, over several turns if need
            be.
        timeout: Seconds that a turn, or a call of `compact` or `rebuild`, waits for summaries: a call that has not
            returned by then is dropped, and none is begun that would take longer. What is done is kept, and the next
            turn goes on with the rest. `None` for no limit.
        on_summary_error: What is done when a summary fails, after the messages were stored: `"serve"` logs it and shows
            the view without a new summary, `"raise"` raises `SummaryError`.
        on_event: Called with each `SummaryEvent`.
        first: `"human"` leaves out what precedes the first human message, such as the greeting of a bot, for providers
            that refuse another beginning.
        clear_tools: Which results of tools the view shortens, such as `{"keep": 3, "over": 500, "exclude": ["ask"]}`:
            all but the newest `keep` (3), if they have more than `over` tokens (500), have a note in their place; those
            of the tools `exclude` never do, nor those that the model has not answered yet. One that is larger than
            `trigger` is shown with its beginning and end. Stored and summarized are whole results.
        state: For a history of another package: a history of this package, whose state keeps the summary.

    Raises:
        ConfigurationError: An option cannot be used, or `trigger` and `keep` are so close that no summary pays.
        MissingExtraError: The package that an option needs is not installed.
    """

    def __init__(
        self,
        history: BaseChatMessageHistory,
        model: Model,
        *,
        trigger: ContextSize | list[ContextSize] = 4000,
        keep: ContextSize | list[ContextSize] | None = None,
        max_summary_tokens: int | None = None,
        token_counter: TokenCounter | str | None = None,
        mode: Literal["inline", "background", "manual"] = "inline",
        prompt: str | None = None,
        summary_role: Literal["human", "system"] = "human",
        rebuild: Literal["never", "doubling"] = "never",
        timeout: float | None = 30,
        on_summary_error: Literal["serve", "raise"] = "serve",
        on_event: Callable[[SummaryEvent], object] | None = None,
        first: First = "any",
        clear_tools: Mapping[str, Any] | None = None,
        state: StoredChatMessageHistory | None = None,
    ) -> None:
        """Keep history and options."""
        super().__init__(history, first)
        slot = self._sync.slot = self._async.slot = _slot(history, state)
        for name, value, known in (
            ("mode", mode, ("inline", "background", "manual")),
            ("summary_role", summary_role, ("human", "system")),
            ("rebuild", rebuild, ("never", "doubling")),
            ("on_summary_error", on_summary_error, ("serve", "raise")),
        ):
            check_choice(name, value, known)
        if on_summary_error == "raise" and mode == "background":
            raise ConfigurationError(
                "on_summary_error='raise' has nobody to raise to in mode='background'; use on_event."
            )
        if max_summary_tokens is not None and (
            isinstance(max_summary_tokens, bool)
            or not isinstance(max_summary_tokens, int)
            or max_summary_tokens < SHORTEST
        ):
            raise ConfigurationError(
                f"max_summary_tokens must be a whole number of at least {SHORTEST}, not {max_summary_tokens!r}."
            )
        if on_event is not None and not callable(on_event):
            raise ConfigurationError(f"on_event must be a function of an event, not {on_event!r}.")
        self.summarizer = find_summarizer(model, prompt)
        self.mode = mode
        chat_model = getattr(self.summarizer, "model", None)
        context = context_of(chat_model)
        self._trigger = Limits.read("trigger", trigger, context)
        kept = None if keep is None else Limits.read("keep", keep, context)
        longest = self._trigger.summary_tokens() if max_summary_tokens is None else max_summary_tokens
        # Estimated, whatever the counter: a constructor loads no vocabulary and calls no service.
        overhead = count_tokens(self.summarizer.request("", [], longest))
        check_room(self._trigger, kept, max_summary_tokens, overhead)
        self._on_summary_error = on_summary_error
        self._emit = partial(_emit, on_event)
        self._slot = slot
        self._session = local_session(slot)
        self._reader = Reader(
            trigger=self._trigger,
            keep=kept or self._trigger.third(),
            batch=(context or 0) // 2 or self._trigger.smallest("tokens") or 4000,
            role=summary_role,
            first=first,
            clearing=Clearing.read(clear_tools, self._trigger.smallest("tokens")),
            own=isinstance(history, StoredChatMessageHistory),
            session=self._session,
            count=find_counter(token_counter, chat_model),
            counter=token_counter,
        )
        self._writer = Writer(
            reader=self._reader,
            session_id=slot.session_id,
            summarizer=self.summarizer,
            max_tokens=longest,
            overhead=overhead,
            rebuild=rebuild,
            timeout=_seconds(timeout),
            emit=self._emit,
        )
        self._first_read: _FirstRead | None = None
        self._size: Size | None = None

    @property
    def summary(self) -> Summary | None:
        """The summary in the state; `None` without one."""
        return drive(self._state(self._sync))[0]

    async def aget_summary(self) -> Summary | None:
        """Async `summary`."""
        return (await self._state(self._async))[0]

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
            force: Summarize all but the newest turns (`keep`), however small the view is.

        Returns:
            Whether there is a new summary. There is none while another call for this session is under way.
        """
        return drive(self._compact_now(self._sync, force=force))

    async def acompact(self, *, force: bool = False) -> bool:
        """Async `compact`."""
        return await self._compact_now(self._async, force=force)

    def rebuild(self) -> bool:
        """Make the summary anew from the messages themselves, so that errors of earlier ones are gone.

        Until the new one covers as much, the other is shown. A call that fails or runs out of time loses nothing: the
        next one, of any process, goes on where it stopped. A summary that cannot be read is replaced where corrupt
        records are skipped (`on_corrupt="skip"`), with the whole state if that cannot be read either.

        Returns:
            Whether there is a new summary.
        """
        return drive(self._compact_now(self._sync, anew=True))

    async def arebuild(self) -> bool:
        """Async `rebuild`."""
        return await self._compact_now(self._async, anew=True)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait for a thread that makes a summary.

        Returns:
            Whether no summary is under way now.
        """
        if isinstance(running := self._session.running, threading.Thread):
            running.join(timeout)
        return not self._session.lock.locked()

    async def aflush(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  # as its twin
        """Async `flush`: waits for a task of this event loop."""
        return await self._async.wait(self._session.running, timeout) and not self._session.lock.locked()

    # Reading.

    def _sizes(self) -> dict[str, Limits]:
        return {"trigger": self._trigger, "keep": self._reader.keep}

    async def _show(self, face: SyncFace) -> list[BaseMessage]:
        history = await settle(face.opened())
        if (first := self._first_read) is not None:
            loaded = await self._reader.load(history, first.summary)
            start = next((i for i, record in enumerate(loaded.tail) if record.position == first.start), None)
            if loaded.summary == first.summary and start is not None:
                loaded = await self._reader.with_pins(loaded, first.pins)
                shown = self._reader.show(loaded, start)
                if not self._trigger.exceeded(shown.size):
                    return shown.messages
        stored, pins = await self._state(face)
        loaded = await self._reader.with_pins(await self._reader.load(history, stored), pins)
        self._has_moved_pins = loaded.pins.has_moved
        if loaded.stored is not None and loaded.summary is None:
            self._emit(SummaryEvent("lost", self._slot.session_id, loaded.stored.covered))
        shown = self._reader.show(loaded)
        trimmed = shown.start
        if not loaded.complete:
            trimmed += await settle(history.count()) - loaded.covered - len(loaded.tail)
        if trimmed:
            self._emit(SummaryEvent("trimmed", self._slot.session_id, trimmed))
        position = loaded.tail[shown.start].position if shown.start < len(loaded.tail) else None
        self._first_read = _FirstRead(loaded.summary, position, shown.saved, trimmed, pins)
        self._size = None if trimmed else self._reader.size(loaded)
        return shown.messages

    async def _coverage(self, face: SyncFace) -> Coverage:
        return await self._reader.coverage(await settle(face.opened()), *await self._state(face))

    async def _state(self, face: SyncFace) -> tuple[Summary | None, list[Pin]]:
        """Return the summary and the pins; where corrupt records are skipped, what cannot be read is absent."""
        state = None
        try:
            state = await settle(face.state())
            return Summary.of(state), pins_of(state)
        except CorruptRecordError as error:
            if not face.skips_corrupt:
                raise
            logger.warning("Session %r is shown without a summary: %s", self._slot.session_id, error)
            return None, pins_of(state)

    def _read_anew(self) -> None:
        super()._read_anew()
        self._first_read = self._size = None

    # Writing.

    async def _add(self, face: SyncFace, messages: Sequence[BaseMessage]) -> None:
        messages = list(messages)
        await super()._add(face, messages)
        is_turn = any(map(begins_turn, messages))
        if self._first_read is not None:
            self._session.note(tokens_saved=self._first_read.saved, trimmed=self._first_read.trimmed)
        self._first_read = None
        if self._size is not None:
            self._size += size_of(messages, self._reader.count)
        if self.mode == "manual" or self._takes_pause(is_turn=is_turn):
            return
        if self._size is not None and not self._trigger.exceeded(self._size):
            return
        if self.mode == "inline":
            await self._compact(face)
        elif not is_running(self._session.running):
            self._session.running = face.start(self._compact)

    def _takes_pause(self, *, is_turn: bool) -> bool:
        """Whether the summarizer rests after failures. Each turn shortens the pause by one."""
        takes_pause = self._session.pause > 0
        if takes_pause and is_turn:
            self._session.pause -= 1
        return takes_pause

    async def _clear(self, face: SyncFace) -> None:
        if face.own is None or face.own.store is not self._slot.store:
            # The summary first: it must not outlive the conversation. A store that keeps both removes both at once.
            await drop_summary(face)
        await super()._clear(face)
        self._first_read = self._size = None
        self._session.begin_anew()

    # Summarizing.

    async def _compact_now(self, face: SyncFace, *, force: bool = False, anew: bool = False) -> bool:
        """Make summaries, and show them in the next read."""
        made = await self._compact(face, force=force, anew=anew)
        self._first_read = self._frozen = None
        return made

    async def _compact(self, face: SyncFace, *, force: bool = False, anew: bool = False) -> bool:
        """Make summaries until the view is small enough; one caller at a time for each session of this process."""
        if not self._session.lock.acquire(blocking=False):
            return False
        try:
            made, self._size = await self._writer.compact(face, force=force, anew=anew)
        except Exception as error:
            # The messages are stored: no failure here may fail the turn.
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
        else:
            return made
        finally:
            self._session.lock.release()


def _emit(on_event: Callable[[SummaryEvent], object] | None, event: SummaryEvent) -> None:
    if on_event is not None:
        try:
            on_event(event)
        except Exception:
            # A turn must not fail because of a function that only looks on.
            logger.exception("on_event failed")


def _slot(history: BaseChatMessageHistory, state: StoredChatMessageHistory | None) -> StateSlot:
    """Return the session whose state has the summary.

    Raises:
        ConfigurationError: No state can have it, or two could.
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


def _seconds(timeout: object) -> float | None:
    """Return the option `timeout`; `None` for no limit.

    Raises:
        ConfigurationError: It is no time.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise ConfigurationError(f"timeout must be a number of seconds above 0 or None, not {timeout!r}.")
    # What threads can wait is a few hundred years.
    return float(timeout) if timeout <= threading.TIMEOUT_MAX else None
