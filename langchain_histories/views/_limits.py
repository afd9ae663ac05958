"""Sizes of a view in tokens, messages and turns: the options `trigger` and `keep`, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from langchain_histories.errors import ConfigurationError
from langchain_histories.views._cuts import begins_turn

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from langchain_histories.views.tokens import TokenCounter

Unit: TypeAlias = Literal["tokens", "messages", "turns", "fraction"]
ContextSize: TypeAlias = int | tuple[Unit, float] | Mapping[Unit, float]

UNITS: tuple[Unit, ...] = get_args(Unit)

SHORTEST = 20
"""Tokens: a shorter summary says nothing."""
_LONGEST = 2000
_LONGEST_OF_MESSAGES = 650
_MIN_ROOM = {"messages": 4, "turns": 2}
"""Two turns: with less room almost every turn would make a summary."""
_TYPICAL = {"messages": 40, "turns": 80}
"""Tokens: turns the cost of a summary into messages or turns."""


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


class Limits(NamedTuple):
    """Alternatives, each with limits in some units that must all be exceeded.

    Attributes:
        clauses: The alternatives.
    """

    clauses: tuple[Mapping[str, int], ...]

    @classmethod
    def read(cls, name: str, value: Any, context: int | None) -> Limits:
        """Return the limits that an option stands for.

        Args:
            name: The name of the option.
            value: A number of tokens; `("tokens", n)`, `("messages", n)`, `("turns", n)` or `("fraction", share)` of
                the model's context; a dict of several of them that must all be exceeded; a list of these, of which one
                suffices.
            context: The most tokens that the model takes, for fractions.

        Raises:
            ConfigurationError: The value has another form.
        """
        several = isinstance(value, list | tuple) and not _is_pair(value)
        clauses = tuple(_clause(name, clause, context) for clause in (value if several else [value]))
        if not clauses:
            raise ConfigurationError(f"{name} is empty: give a size such as ('tokens', 4000).")
        return cls(clauses)

    def __str__(self) -> str:
        """The sizes in a form that an option takes."""
        clauses = [dict(clause) for clause in self.clauses]
        return str(clauses[0] if len(clauses) == 1 else clauses)

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

    def third(self) -> Limits:
        """Return the `keep` that follows from these as `trigger`."""
        return Limits(tuple({unit: _third(most) for unit, most in clause.items()} for clause in self.clauses))

    def summary_tokens(self) -> int:
        """Return the `max_summary_tokens` that follow from these as `trigger`."""
        units = ("tokens", "messages", "turns")
        return next(_summary_tokens(unit, most) for unit in units if (most := self.smallest(unit)))

    @property
    def is_in_tokens(self) -> bool:
        """Whether nothing else is limited."""
        return all(set(clause) == {"tokens"} for clause in self.clauses)


def check_room(trigger: Limits, keep: Limits | None, max_summary_tokens: int | None, prompt_tokens: int) -> None:
    """Refuse a `trigger` so close to `keep` that summaries would cost more than they save.

    After a summary the view has `keep` and the summary; the next one is made when the view has grown to `trigger`. A
    summary costs its prompt and the summary before it, so it must take in at least as many tokens as that.

    Args:
        trigger: The largest view.
        keep: The newest turns; `None`: what follows from `trigger`.
        max_summary_tokens: The longest summary; `None`: what follows from `trigger`.
        prompt_tokens: The tokens of a request to the summarizer without messages.

    Raises:
        ConfigurationError: The room between them is too small, or they have no unit in common.
    """
    for clause in trigger.clauses:
        for unit, least in _kept_within(clause, keep).items():
            most = clause[unit]
            while True:
                raised = Limits(tuple({**each, unit: most} if each is clause else each for each in trigger.clauses))
                longest = raised.summary_tokens() if max_summary_tokens is None else max_summary_tokens
                need = _need(unit, _third(most) if least is None else least, longest, prompt_tokens)
                if need <= most:
                    break
                most = need
            if most > clause[unit]:
                raise ConfigurationError(
                    f"trigger ({clause[unit]} {unit}) must be at least {most} {unit}, or summaries would cost more "
                    f"than they save: beside keep and a summary of {longest} tokens it must have room for messages "
                    f"that are worth the next one and the {prompt_tokens} tokens of its prompt. Raise trigger, or "
                    "lower keep or max_summary_tokens."
                )


def _one_size(value: Any) -> tuple[Any, Any] | None:
    """Return the unit and the number of a pair such as `("turns", 10)` or a dict such as `{"turns": 10}`."""
    if _is_pair(value):
        return value[0], value[1]
    return next(iter(value.items())) if isinstance(value, Mapping) and len(value) == 1 else None


def _kept_within(clause: Mapping[str, int], keep: Limits | None) -> Mapping[str, int | None]:
    """Return the part of `keep` that bounds a view which exceeds no other limit than this; `None` for what follows.

    Raises:
        ConfigurationError: There is none.
    """
    if keep is None:
        return dict.fromkeys(clause)
    for kept in keep.clauses:
        if kept.keys() <= clause.keys():
            return kept
    units = " or ".join(", ".join(kept) for kept in keep.clauses)
    raise ConfigurationError(
        f"trigger and keep must have a unit in common: keep is in {units}, trigger in {', '.join(clause)}."
    )


def _need(unit: str, keep: int, longest: int, prompt_tokens: int) -> int:
    if unit == "tokens":
        return keep + 2 * longest + prompt_tokens
    return keep + 1 + max(_MIN_ROOM[unit], -(-(longest + prompt_tokens) // _TYPICAL[unit]))


def _third(most: int) -> int:
    return max(1, most // 3)


def _summary_tokens(unit: str, most: int) -> int:
    if unit == "tokens":
        return min(max(SHORTEST, most // 6), _LONGEST)
    return min(max(SHORTEST, most * _TYPICAL[unit] // 2), _LONGEST_OF_MESSAGES)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str)  # noqa: PLR2004


def _clause(name: str, value: Any, context: int | None) -> dict[str, int]:
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"tokens": value}
    elif size := _one_size(value):
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
            clause["tokens"] = max(1, int(number * context))
            continue
        if unit not in Size._fields:
            raise ConfigurationError(f"{name}: unknown unit {unit!r}; known are {', '.join(UNITS)}.")
        if not isinstance(amount, int) or isinstance(amount, bool) or amount < 1:
            raise ConfigurationError(f"{name}: {unit} must be a whole number of at least 1, not {amount!r}.")
        clause[unit] = amount
    return clause
