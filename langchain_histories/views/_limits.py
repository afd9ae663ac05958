"""The options `trigger` and `keep`: sizes of a view in tokens and messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from langchain_histories.errors import ConfigurationError
from langchain_histories.views._cuts import begins_turn

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from langchain_histories.views.tokens import TokenCounter

    ContextSize: TypeAlias = tuple[str, float] | Mapping[str, float]

_UNITS = ("tokens", "messages")
_MIN_ROOM = 4
"""Messages, two turns: with less room almost every turn would make a summary."""
_TYPICAL_MESSAGE = 40
"""Tokens: turns the cost of a summary into messages."""


class Size(NamedTuple):
    """How large a list of messages is."""

    tokens: int = 0
    messages: int = 0
    turns: int = 0

    def __add__(self, other: object) -> Size:
        """Both together."""
        if not isinstance(other, Size):
            return NotImplemented
        return Size(self.tokens + other.tokens, self.messages + other.messages, self.turns + other.turns)

    def __sub__(self, other: Size) -> Size:
        """The rest without a part."""
        return Size(self.tokens - other.tokens, self.messages - other.messages, self.turns - other.turns)


def size_of(messages: Sequence[BaseMessage], count: TokenCounter) -> Size:
    """Return the size of messages."""
    return Size(count(messages), len(messages), sum(map(begins_turn, messages))) if messages else Size()


class Limits:
    """The option `trigger`: alternatives, each with limits that must all be exceeded.

    Args:
        value: `("tokens", n)`, `("messages", n)` or `("fraction", share)` of the model's context; a dict of several
            of them that must all be exceeded; a list of these, of which one suffices.
        context: The most tokens that the model takes, for fractions.

    Raises:
        ConfigurationError: The value has another form.
    """

    def __init__(self, value: Any, context: int | None) -> None:
        """Read the option."""
        clauses = value if isinstance(value, list) and not _is_pair(value) else [value]
        self.clauses = [_clause("trigger", clause, context) for clause in clauses]
        if not self.clauses:
            raise ConfigurationError("trigger is empty: give a size such as ('tokens', 4000).")

    def exceeded(self, size: Size) -> bool:
        """Whether a view of this size is too large."""
        return any(all(getattr(size, unit) > most for unit, most in clause.items()) for clause in self.clauses)

    def surplus(self, size: Size) -> int:
        """Return how many tokens less make a view of this size small enough, as far as tokens can."""
        over = (
            size.tokens - clause["tokens"]
            for clause in self.clauses
            if "tokens" in clause and all(getattr(size, unit) > most for unit, most in clause.items())
        )
        return max(over, default=0)

    def smallest(self, unit: str) -> int | None:
        """Return the smallest limit in this unit; `None` without one."""
        return min((clause[unit] for clause in self.clauses if unit in clause), default=None)


def read_keep(value: Any, context: int | None) -> tuple[str, int]:
    """Return the unit and the number of the option `keep`.

    Raises:
        ConfigurationError: The value is no single size.
    """
    clause = _clause("keep", value, context)
    if len(clause) != 1:
        raise ConfigurationError(f"keep must be one size such as ('tokens', 1300), not {value!r}.")
    return next(iter(clause.items()))


def check_room(trigger: Limits, keep: tuple[str, int], max_summary_tokens: int, prompt_tokens: int) -> None:
    """Refuse a `trigger` so close to `keep` that summaries would cost more than they save.

    After a summary the view has `keep` and the summary; the next one is made when the view has grown to `trigger`. A
    summary costs its prompt and the summary before it, so it must take in at least as many tokens as that.

    Raises:
        ConfigurationError: The room between them is too small, or they have no unit in common.
    """
    unit, smallest = keep
    for clause in trigger.clauses:
        if unit not in clause:
            raise ConfigurationError(
                f"trigger and keep must have a unit in common: keep is in {unit}, trigger in {', '.join(clause)}."
            )
        if unit == "tokens":
            need = smallest + 2 * max_summary_tokens + prompt_tokens
            how = f"keep + 2 x max_summary_tokens + {prompt_tokens} tokens of the prompt"
        else:
            room = max(_MIN_ROOM, -(-(max_summary_tokens + prompt_tokens) // _TYPICAL_MESSAGE))
            need, how = smallest + 1 + room, f"keep + the summary + {room}"
        if clause[unit] < need:
            raise ConfigurationError(
                f"trigger ({clause[unit]} {unit}) must be at least {need} {unit} ({how}), or summaries would cost more "
                f"than they save. Raise trigger, or lower keep or max_summary_tokens."
            )


def one_size(value: Any) -> tuple[Any, Any] | None:
    """Return the unit and the number of a pair such as `("turns", 10)` or a dict such as `{"turns": 10}`."""
    if _is_pair(value):
        return value[0], value[1]
    return next(iter(value.items())) if isinstance(value, Mapping) and len(value) == 1 else None


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and isinstance(value[0], str)  # noqa: PLR2004


def _clause(name: str, value: Any, context: int | None) -> dict[str, int]:
    if size := one_size(value):
        value = dict([size])
    if not isinstance(value, Mapping) or not value:
        raise ConfigurationError(f"{name} must be a size such as ('tokens', 4000), not {value!r}.")
    clause: dict[str, int] = {}
    for unit, number in value.items():
        amount: Any = number
        if unit == "fraction":
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number <= 1:
                raise ConfigurationError(f"{name}: a fraction is more than 0 and at most 1, not {number!r}.")
            if context is None:
                raise ConfigurationError(
                    f"{name}: the size of the model's context is not known (model.profile has no max_input_tokens), "
                    "so a fraction of it is unknown too: use ('tokens', n)."
                )
            clause["tokens"] = int(number * context)
            continue
        if unit not in _UNITS:
            raise ConfigurationError(f"{name}: unknown unit {unit!r}; known are tokens, messages and fraction.")
        if not isinstance(amount, int) or isinstance(amount, bool) or amount < 1:
            raise ConfigurationError(f"{name}: {unit} must be a whole number of at least 1, not {amount!r}.")
        clause[unit] = amount
    return clause
