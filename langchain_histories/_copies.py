"""Copies: a store is pickled and deep-copied by the arguments of its constructor, a history with its store."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self


class MadeAgain:
    """An object whose copy is made by its constructor. A deep copy shares the arguments, such as a client."""

    _made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Keep the arguments."""
        made = super().__new__(cls)
        made._made_with = args, options
        return made

    def _copy_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a copy."""
        return self._made_with

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Make one with the same arguments, or with copies of what is copied like this."""
        args, options = self._copy_arguments()
        copied = type(self)(
            *(_copied(it, memo) for it in args), **{name: _copied(it, memo) for name, it in options.items()}
        )
        memo[id(self)] = copied
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments.

        Raises:
            TypeError: One cannot be pickled.
        """
        args, options = self._copy_arguments()
        _check(self, {**{f"argument {number}": value for number, value in enumerate(args, 1)}, **options})
        return _make_again, (type(self), args, options)


def _make_again(cls: type[Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return cls(*args, **options)


class CopiedByAttributes:
    """An object whose copy has its attributes. A deep copy shares them, but for what a `MadeAgain` is in them."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the attributes."""
        copied = memo[id(self)] = object.__new__(type(self))
        for name, value in self.__getstate__().items():
            vars(copied)[name] = _copied(value, memo)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes; what was made of them on first use is made again."""
        kind = type(self)
        return {
            name: value
            for name, value in vars(self).items()
            if not isinstance(getattr(kind, name, None), functools.cached_property)
        }

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the attributes.

        Raises:
            TypeError: One cannot be pickled.
        """
        _check(self, self.__getstate__())
        return super().__reduce_ex__(protocol)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) is dict:
        return {name: _copied(item, memo) for name, item in value.items()}
    return copy.deepcopy(value, memo) if isinstance(value, MadeAgain | CopiedByAttributes) else value


def _check(owner: object, parts: Mapping[str, object]) -> None:
    """Name the part of an object that cannot be pickled, because pickle's own errors do not.

    Raises:
        TypeError: There is one.
    """
    for name, value in parts.items():
        try:
            pickle.dumps(value)
        except Exception as error:
            raise TypeError(
                f"{type(owner).__name__} cannot be pickled, because its {name.strip('_')} cannot "
                f"({type(value).__module__}.{type(value).__qualname__}). Give a url in place of a client, and a "
                "function or class of a module in place of a lambda."
            ) from error
