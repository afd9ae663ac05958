"""The summary of a session, as the state of the session keeps it, and what this process knows of it."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from langchain_histories._derived import DRAFT_KEY, SUMMARY_KEY
from langchain_histories._values import decode_value
from langchain_histories.codec import decode_message
from langchain_histories.errors import ConfigurationError, CorruptRecordError

if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Self

    from langchain_core.messages import BaseMessage

    from langchain_histories.views._faces import StateSlot
    from langchain_histories.views._limits import Size

_VERSION = 1
_KINDS: dict[str, Any] = {
    "text": str,
    "anchor": list | tuple,
    "position": str,
    "after": str | None,
    "pinned": list | tuple,
}
"""What the fields of a summary are that are no numbers."""
_MAX_SESSIONS = 4096


@dataclasses.dataclass(frozen=True)
class Summary:
    """The summary of a session, as its state keeps it.

    Attributes:
        text: Its text.
        covered: How many messages it covers, from the first one on.
        tokens: How many tokens these messages have.
        anchor: Ids of the last of these messages, to find them again.
        position: Position of the last of them.
        after: Position before the anchor.
        pinned: The system messages at the beginning; a view shows them unchanged.
        rebuilt: How many messages it covered when it was last made from the messages themselves.
        calls: How often a summarizer was called for this session.
        tokens_in: Tokens sent to the summarizer.
        tokens_out: Tokens that the summarizer returned.
        tokens_saved: Tokens that views left out because of summaries.
    """

    key: ClassVar[str] = SUMMARY_KEY

    text: str
    covered: int
    tokens: int
    anchor: tuple[str, ...]
    position: str
    after: str | None
    pinned: tuple[dict[str, Any], ...] = ()
    rebuilt: int = 0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_saved: int = 0

    @classmethod
    def of(cls, state: dict[str, Any] | None) -> Self | None:
        """Return the summary that a state holds.

        Raises:
            ConfigurationError: A newer release of this package wrote it.
            CorruptRecordError: It cannot be read.
        """
        if not state or not isinstance(data := state.get(cls.key), dict):
            return None
        version = data.get("v")
        if isinstance(version, int) and version > _VERSION:
            raise ConfigurationError(
                f"The state holds a summary of version {version}; this release knows {_VERSION}. Upgrade."
            )
        try:
            return cls._read(data)
        except Exception as error:  # noqa: BLE001  # what is stored may be anything
            field = str(error.args[0]) if error.args else ""
            name = field if field in cls.__dataclass_fields__ else type(error).__name__
            raise CorruptRecordError(
                f"The summary in the state cannot be read ({name}). Where corrupt records are skipped a view goes on "
                "without it and rebuild() replaces it; put_state(session_id, None) drops it."
            ) from None

    @classmethod
    def _read(cls, data: dict[str, Any]) -> Self:
        """Return the summary with these fields.

        Raises:
            LookupError: A field is missing, or is no such thing; the error names it.
            Exception: A system message cannot be read.
        """
        fields = {field.name: data[field.name] for field in dataclasses.fields(cls)}
        for name, value in fields.items():
            if not isinstance(value, _KINDS.get(name, int)) or (name == "covered" and value < 1):
                raise LookupError(name)
        anchor, pinned = tuple(fields["anchor"]), tuple(fields["pinned"])
        if not anchor or not all(isinstance(record_id, str) for record_id in anchor):
            raise LookupError("anchor")
        summary = cls(**{**fields, "anchor": anchor, "pinned": pinned})
        summary.pinned_messages()
        return summary

    def pinned_messages(self) -> list[BaseMessage]:
        """Return the system messages at the beginning."""
        return [decode_message(decode_value(message)) for message in self.pinned]

    def within(self, state: dict[str, Any] | None) -> dict[str, Any]:
        """Return `state` with this summary in it."""
        return {**(state or {}), self.key: {"v": _VERSION, **dataclasses.asdict(self)}}


class Draft(Summary):
    """A summary that is under way. It is not shown: it may cover less than the summary, or end within a turn."""

    key = DRAFT_KEY

    @classmethod
    def of(cls, state: dict[str, Any] | None) -> Self | None:
        """Return the draft that a state holds; one that cannot be read is none."""
        try:
            return super().of(state)
        except CorruptRecordError:
            return None


def without_summary(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return `state` without the summary, and without the one that is under way."""
    return _without(state, SUMMARY_KEY, DRAFT_KEY)


def without_draft(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return `state` without the summary that is under way."""
    return _without(state, DRAFT_KEY)


def _without(state: dict[str, Any] | None, *keys: str) -> dict[str, Any] | None:
    return {name: value for name, value in (state or {}).items() if name not in keys} or None


@dataclasses.dataclass(frozen=True)
class SummaryStats:
    """What the summaries of a session cost and saved, with the figures that this process has not stored yet.

    Attributes:
        calls: Calls of the summarizer.
        failures: Summaries that failed, in this process.
        tokens_in: Tokens sent to the summarizer.
        tokens_out: Tokens that the summarizer returned.
        tokens_saved: Tokens that the views of all turns left out because of summaries.
        trimmed: Messages that views left out without a summary of them, in this process, over all turns.
    """

    calls: int = 0
    failures: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_saved: int = 0
    trimmed: int = 0

    def with_stored(self, summary: Summary | None) -> SummaryStats:
        """Return these figures and those that are stored with a summary, added up."""
        if summary is None:
            return self
        stored = {name: getattr(summary, name) for name in ("calls", "tokens_in", "tokens_out", "tokens_saved")}
        return dataclasses.replace(self, **{name: getattr(self, name) + value for name, value in stored.items()})

    @property
    def net(self) -> int:
        """Tokens saved less tokens spent; negative for a short conversation."""
        return self.tokens_saved - self.tokens_in - self.tokens_out


@dataclasses.dataclass(frozen=True)
class SummaryEvent:
    """An event in the life of the summary of a session.

    Attributes:
        kind: `summarized`; `failed`: the turn goes on without a new summary; `trimmed`: a view left out messages
            that no summary covers, because it would have been too large; `lost`: the transcript no longer has the
            message that the summary ends with.
        session_id: The session whose state holds the summary.
        messages: Number of messages concerned.
        tokens_in: Tokens sent to the summarizer.
        tokens_out: Tokens that the summarizer returned.
        error: The error, of a `failed` one.
    """

    kind: Literal["summarized", "failed", "trimmed", "lost"]
    session_id: str
    messages: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    error: Exception | None = None


class LocalSession:
    """What this process knows of the summary of a session. All handles of the session share it.

    Attributes:
        lock: Held while a summary is made: one at a time.
        running: The thread or task that makes a summary in the background.
        failures: Summaries that failed since the last one that was stored.
        pause: Turns until the summarizer is called again.
        stats: The figures that are not stored yet.
        sizes: Token sizes of the records read last, by record id, so that only new records are counted.
        asked: Their sizes in a request to the summarizer.
        counter: The option `token_counter` that counted them.
    """

    def __init__(self) -> None:
        self.release()
        self.failures = 0
        self.pause = 0
        self.stats = SummaryStats()
        self.sizes: dict[str, Size] = {}
        self.asked: dict[str, int] = {}
        self.counter: object = None

    def stored(self, new: Summary, base: Summary | None) -> None:
        """Note that `new` is stored in place of `base`, with the figures up to now."""
        self.failures = 0
        for name in ("calls", "tokens_in", "tokens_out", "tokens_saved"):
            self.note(**{name: (getattr(base, name) if base else 0) - getattr(new, name)})

    def release(self) -> None:
        """Forget what is under way."""
        self.lock = threading.Lock()
        self._noting = threading.Lock()
        self.running: Any = None

    def begin_anew(self) -> None:
        """Forget the conversation that was cleared."""
        self.failures = self.pause = 0
        self.stats = SummaryStats()

    def note(self, **more: int) -> None:
        """Add to the stats."""
        with self._noting:
            old = dataclasses.asdict(self.stats)
            self.stats = SummaryStats(**{name: value + more.get(name, 0) for name, value in old.items()})


_sessions: OrderedDict[Hashable, LocalSession] = OrderedDict()
_sessions_lock = threading.Lock()


def _after_fork() -> None:
    """Forget in a child process what threads of its parent are doing."""
    global _sessions_lock  # noqa: PLW0603  # locks cannot be reset
    _sessions_lock = threading.Lock()
    for session in _sessions.values():
        session.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def local_session(slot: StateSlot) -> LocalSession:
    """Return what this process knows of a session. Only the sessions used last are remembered."""
    key = (slot.store.place, slot.session_id)
    with _sessions_lock:
        session = _sessions.pop(key, None) or LocalSession()
        _sessions[key] = session
        if len(_sessions) > _MAX_SESSIONS:
            _sessions.popitem(last=False)
        return session
