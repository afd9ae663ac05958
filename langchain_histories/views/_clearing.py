"""Long results of tools, shortened in a view: old ones to a note, and one that alone is too large to both its ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from langchain_histories.errors import ConfigurationError, did_you_mean
from langchain_histories.views._cuts import MARK
from langchain_histories.views.summarizers import readable

_OPTIONS = ("keep", "over", "exclude")


class Clearing(NamedTuple):
    """The option `clear_tools`.

    Attributes:
        keep: How many of the newest results stay whole.
        over: Tokens: shorter results stay whole too.
        exclude: The tools whose results are never shortened.
        budget: The tokens of a view; a result that has more is shown with its beginning and end.
    """

    keep: int
    over: int
    exclude: frozenset[str]
    budget: int | None

    @classmethod
    def read(cls, value: Any, budget: int | None) -> Clearing | None:
        """Return what the option of a view stands for; `None` if nothing is shortened.

        Raises:
            ConfigurationError: The value has another form.
        """
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"clear_tools must be a dict such as {{'keep': 3, 'over': 500}}, not {value!r}.")
        for name in value:
            if name not in _OPTIONS:
                raise ConfigurationError(f"clear_tools: unknown option {name!r}: {did_you_mean(str(name), _OPTIONS)}")
        for name, least in (("keep", 0), ("over", 1)):
            number = value.get(name, least)
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ConfigurationError(
                    f"clear_tools: {name} must be a whole number of at least {least}, not {number!r}."
                )
        exclude = value.get("exclude", ())
        if isinstance(exclude, str | Mapping) or not all(isinstance(name, str) for name in _listed(exclude)):
            raise ConfigurationError(f"clear_tools: exclude must be a list of the names of tools, not {exclude!r}.")
        return cls(value.get("keep", 3), value.get("over", 500), frozenset(exclude), budget)

    def shortened(self, messages: Sequence[BaseMessage], tokens: Callable[[BaseMessage], int]) -> list[BaseMessage]:
        """Shorten results of tools. Those behind the last message of the model stay, because it has not seen them."""
        names = {call["id"]: call["name"] for m in messages if isinstance(m, AIMessage) for call in m.tool_calls}
        results = [
            (i, message)
            for i, message in enumerate(messages)
            if isinstance(message, ToolMessage)
            and (message.name or names.get(message.tool_call_id)) not in self.exclude
        ]
        seen = max((i for i, message in enumerate(messages) if isinstance(message, AIMessage)), default=0)
        old = {i for i, _ in results[: max(0, len(results) - self.keep)] if i < seen}
        shown = list(messages)
        for i, message in results:
            size = tokens(message)
            if i in old and size > self.over:
                length = len(readable(message))
                shown[i] = _shown_as(message, f"[cleared: {length:,} characters; the transcript has them]")
            elif self.budget is not None and size > self.budget:
                shown[i] = self._clipped(message, size, tokens)
        return shown

    def _clipped(self, message: ToolMessage, size: int, tokens: Callable[[BaseMessage], int]) -> BaseMessage:
        """Return a result with as much of its beginning and end as half of the budget takes."""
        most = (self.budget or 0) / 2
        share = most / size
        while True:
            short = _shown_as(message, both_ends(readable(message), share))
            if tokens(short) <= most or share < 1 / size:
                return short
            share *= 0.8


def both_ends(text: str, share: float) -> str:
    """Return the beginning and the end of a text, with a note of what was left out between them."""
    half = int(len(text) * share * 0.45)
    return f"{text[:half]} [\u2026 {len(text) - 2 * half} characters omitted \u2026] {text[len(text) - half :]}"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set | frozenset) else [value]


def _shown_as(message: ToolMessage, text: str) -> BaseMessage:
    mark = {**message.additional_kwargs, MARK: {"cleared": True}}
    return message.model_copy(update={"content": text, "additional_kwargs": mark})
