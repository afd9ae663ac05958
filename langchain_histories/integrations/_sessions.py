"""Which session a run is in, and the history of it: the same rules at each front door."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from langchain_core.runnables import ConfigurableFieldSpec

from langchain_histories._compat import BaseChatMessageHistory
from langchain_histories.errors import ConfigurationError, HistoryError
from langchain_histories.history import TurnChatMessageHistory
from langchain_histories.registry import SESSION_CONFIG, HistoryRegistry

logger = logging.getLogger(__name__)

SessionHistories: TypeAlias = HistoryRegistry | Callable[..., Any]


class Session(NamedTuple):
    """What names a session: a text for logs, which no other session has, and the values that the factory takes."""

    name: str
    values: dict[str, Any]


class Sessions:
    """Where a front door finds histories.

    Args:
        source: `get_session_history`: a function that returns a history, or an awaitable of one for the async methods
            only; or a registry, which stands for its method of this name.
        specs: `history_factory_config`: the keys of `config["configurable"]` that the function takes, one by position,
            several by name. `session_id` by default, for which the `thread_id` stands in.

    Raises:
        ConfigurationError: It is neither, or does not take these keys.
    """

    def __init__(self, source: SessionHistories, specs: Sequence[ConfigurableFieldSpec] | None) -> None:
        """Check and keep both."""
        self.specs = list(specs or SESSION_CONFIG)
        self._keys = [spec.id for spec in self.specs]
        if isinstance(source, HistoryRegistry):
            source = source.get_session_history if len(self._keys) == 1 else source.get_user_session_history
        if not callable(source):
            kind = type(source).__name__
            raise ConfigurationError(f"get_session_history must be a function or a HistoryRegistry, not {kind}.")
        self.source = source
        signature = inspect.signature(source)
        parameters = list(signature.parameters.values())
        if not parameters:
            self._keys = []
        self._by_position = len(self._keys) == 1 and parameters[0].kind <= inspect.Parameter.VAR_POSITIONAL
        try:
            signature.bind(*self._keys) if self._by_position else signature.bind(**dict.fromkeys(self._keys))
        except TypeError as error:
            keys = ", ".join(self._keys)
            raise ConfigurationError(f"get_session_history must take {keys} by name: {error}.") from None

    def named(self, config: Mapping[str, Any]) -> Session:
        """Return the session that the config of a run names.

        Raises:
            ConfigurationError: It lacks a key.
        """
        given = config.get("configurable", {})
        values = {key: given.get(key) for key in self._keys}
        if values.get("session_id", "") is None:
            values["session_id"] = given.get("thread_id")
        if missing := [key for key, value in values.items() if value is None]:
            example = {"configurable": dict.fromkeys(missing, "...")}
            raise ConfigurationError(f"The config lacks {', '.join(missing)}: call with config={example}.")
        return Session(", ".join(repr(str(value)) for value in values.values()), values)

    def open(self, session: Session) -> Any:
        """Return the history of a session.

        Raises:
            ConfigurationError: The function is async, or returned no history.
        """
        history = self._call(session)
        if inspect.isawaitable(history):
            if inspect.iscoroutine(history):
                history.close()
            raise ConfigurationError("get_session_history is async: use ainvoke, abatch or astream.")
        return _checked(history, "messages", "add_messages")

    async def aopen(self, session: Session) -> Any:
        """Async `open`."""
        history = self._call(session)
        if inspect.isawaitable(history):
            history = await history
        return _checked(history, "aget_messages", "aadd_messages")

    def _call(self, session: Session) -> Any:
        return self.source(*session.values.values()) if self._by_position else self.source(**session.values)


def _checked(history: Any, *names: str) -> Any:
    # Not `hasattr`: that may read the store.
    if not isinstance(history, BaseChatMessageHistory) and not {*names} <= {*dir(history)}:
        kind = type(history).__name__
        raise ConfigurationError(f"get_session_history returned no history but {kind}: return one from it.")
    return history


def check_option(name: str, value: object, *known: str) -> None:
    """Refuse an option of another value.

    Raises:
        ConfigurationError: It is none of those known.
    """
    if value not in known:
        raise ConfigurationError(f"{name} must be one of {', '.join(known)}, not {value!r}.")


def report_unsaved(history: Any, session: Session, count: int, error: Exception) -> str:
    """Log that messages were not saved, unless their history has; return the line."""
    reason = error if isinstance(error, HistoryError) else type(error).__name__  # others may quote messages
    line = f"{count} messages of session {session.name} were not saved: {reason}"
    if not isinstance(getattr(history, "history", history), TurnChatMessageHistory):
        logger.error(line)
    return line
