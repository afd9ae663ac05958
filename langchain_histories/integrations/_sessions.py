"""Which session a run is in, and which history the session has: the same rules for every integration."""

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


class RunSession(NamedTuple):
    """The session of a run.

    Attributes:
        name: A text for logs, which no other session has.
        values: The arguments of the factory of histories.
    """

    name: str
    values: dict[str, Any]


class Sessions:
    """Finds the history of a run.

    Args:
        source: `get_session_history`: a function that returns a history, or, for the async methods only, an awaitable
            of one; or a registry, which stands for its method of this name.
        specs: `history_factory_config`: the keys of `config["configurable"]` that the function takes, one by position,
            several by name. The default is `session_id`; a config without it may have a `thread_id` instead.

    Raises:
        ConfigurationError: The source is neither, or does not take these keys.
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

    def named(self, config: Mapping[str, Any]) -> RunSession:
        """Return the session that the config of a run names.

        Raises:
            ConfigurationError: The config lacks a key.
        """
        given = config.get("configurable", {})
        values = {key: given.get(key) for key in self._keys}
        if values.get("session_id", "") is None:
            values["session_id"] = given.get("thread_id")
        if missing := [key for key, value in values.items() if value is None]:
            example = {"configurable": dict.fromkeys(missing, "...")}
            raise ConfigurationError(f"The config lacks {', '.join(missing)}: call with config={example}.")
        return RunSession(", ".join(repr(str(value)) for value in values.values()), values)

    def open(self, session: RunSession) -> Any:
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

    async def aopen(self, session: RunSession) -> Any:
        """Async `open`."""
        history = self._call(session)
        if inspect.isawaitable(history):
            history = await history
        return _checked(history, "aget_messages", "aadd_messages")

    def _call(self, session: RunSession) -> Any:
        return self.source(*session.values.values()) if self._by_position else self.source(**session.values)


def _checked(history: Any, *names: str) -> Any:
    # Not `hasattr`: that may read the store.
    if not isinstance(history, BaseChatMessageHistory) and not {*names} <= {*dir(history)}:
        kind = type(history).__name__
        raise ConfigurationError(f"get_session_history returned no history but {kind}: return one from it.")
    return history


def check_option(name: str, value: object, *known: str) -> None:
    """Refuse an unknown value of an option.

    Raises:
        ConfigurationError: The value is not among the known ones.
    """
    if value not in known:
        raise ConfigurationError(f"{name} must be one of {', '.join(known)}, not {value!r}.")


def report_unsaved(history: Any, session: RunSession, count: int, error: Exception) -> str:
    """Log that messages were not saved, unless their history logs that itself; return the line."""
    reason = error if isinstance(error, HistoryError) else type(error).__name__  # other errors may quote messages
    line = f"{count} messages of session {session.name} were not saved: {reason}"
    if not isinstance(getattr(history, "history", history), TurnChatMessageHistory):
        logger.error(line)
    return line
