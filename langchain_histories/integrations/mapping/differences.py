"""The difference between two messages as plain dicts, as JSON, and how it is put onto one of them again.

A message that goes into another framework's form is derived anew each time. What cannot be derived back is kept as the
difference to what can, and never as a copy, so that it cannot hold what was taken out of the message itself. A list of
parts, each of a kind, differs in which of the derived parts stand where, and in the parts that cannot be derived.
Where the derived parts are no longer of the same kinds, somebody has edited the message, and the edit wins.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Change: TypeAlias = "dict[str, Any]"

_NONE = object()


def difference(wanted: Any, derived: Any, kind: str) -> Change | None:
    """Return how `wanted` is made of `derived`; `None` where they are the same.

    Args:
        wanted: What is wanted.
        derived: What it is made of.
        kind: The key that names the kind of a part.
    """
    if is_same(wanted, derived):
        return None
    if isinstance(wanted, dict) and isinstance(derived, dict):
        return _of_dicts(wanted, derived, kind)
    if _is_parts(wanted, kind) and _is_parts(derived, kind):
        return {"of": _kinds(derived, kind), "parts": _of_parts(wanted, derived, kind)}
    return {"is": wanted}


def patched(derived: Any, change: Change | None, kind: str) -> Any:
    """Return what `difference` was told to want, or as much of it as is left after an edit."""
    match change:
        case {"is": wanted}:
            return wanted
        case {"of": list(kinds), "parts": list(parts)} if _is_parts(derived, kind):
            if kinds != _kinds(derived, kind):
                return derived
            return [
                part["new"] if "new" in part else patched(derived[part["at"]], part.get("in"), kind) for part in parts
            ]
        case {"in": dict(changes), "drop": list(dropped)} if isinstance(derived, dict):
            made = {name: value for name, value in derived.items() if name not in dropped}
            for name, inner in changes.items():
                if name in made or "is" in inner:
                    made[name] = patched(made.get(name), inner, kind)
            return made
        case _:
            return derived


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are equal; what an equality cannot tell is not."""
    if one is other:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # noqa: BLE001  # what is in a message may have any equality
        return False


def _of_dicts(wanted: dict[str, Any], derived: dict[str, Any], kind: str) -> Change:
    changes = {
        name: {"is": value} if (old := derived.get(name, _NONE)) is _NONE else difference(value, old, kind)
        for name, value in wanted.items()
    }
    return {
        "in": {name: change for name, change in changes.items() if change is not None},
        "drop": [name for name in derived if name not in wanted],
    }


def _of_parts(wanted: list[Any], derived: list[Any], kind: str) -> list[Change]:
    free = list(range(len(derived)))
    found: list[Change] = []
    # Those that are the same are found first, so that no part is made of another one that is wanted as it is.
    whole: dict[int, int] = {}
    for number, part in enumerate(wanted):
        at = next((at for at in free if is_same(derived[at], part)), None)
        if at is not None:
            whole[number] = at
            free.remove(at)
    for number, part in enumerate(wanted):
        at = whole.get(number)
        if at is not None:
            found.append({"at": at})
            continue
        at = next((at for at in free if derived[at][kind] == part[kind]), None)
        if at is None:
            found.append({"new": part})
        else:
            free.remove(at)
            found.append({"at": at, "in": difference(part, derived[at], kind)})
    return found


def _is_parts(value: Any, kind: str) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) and kind in part for part in value)


def _kinds(parts: list[Any], kind: str) -> list[Any]:
    return [part[kind] for part in parts]
