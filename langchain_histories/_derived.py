"""What views keep of a transcript in its state, and which part of that goes when messages go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ARCHIVED_KEY = "lh:archived"  # of integrations.llama_index
SUMMARY_KEY = "lh:summary"
DRAFT_KEY = "lh:rebuild"
PINS_KEY = "lh:pins"


def without_claims(
    state: dict[str, Any], is_kept: Callable[[Any], bool], is_there: Callable[[Any], bool] | None = None
) -> dict[str, Any] | None:
    """Return a state without the summaries that have words of messages that are gone, and without pins of those.

    Args:
        state: The state.
        is_kept: Whether everything up to the record with this id is still there as it was. It is asked about the last
            record that a summary covers, whose id may be anything.
        is_there: Whether the record with this id is there; `None` where that is not known.
    """
    kept = dict(state)
    for key in (SUMMARY_KEY, DRAFT_KEY):
        summary = state.get(key)
        anchor = summary.get("anchor") if isinstance(summary, dict) else None
        end = anchor[-1] if isinstance(anchor, list | tuple) and anchor else None
        if key in state and not is_kept(end):
            del kept[key]
    if is_there is not None and (pins := _pins(state)):
        left = [pin for pin in pins if is_there(pin.get("id"))]
        kept |= {PINS_KEY: {**state[PINS_KEY], "pins": left}}
        if not left:
            del kept[PINS_KEY]
    return kept or None


def _pins(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    data = state.get(PINS_KEY)
    pins = data.get("pins") if isinstance(data, dict) else None
    return [pin for pin in pins if isinstance(pin, dict)] if isinstance(pins, list) else []


def names_positions(state: Mapping[str, Any]) -> bool:
    """Whether a state says where records stand."""
    return not state.keys().isdisjoint((SUMMARY_KEY, DRAFT_KEY, PINS_KEY))


def with_positions(state: dict[str, Any], positions: Mapping[str, str]) -> dict[str, Any]:
    """Return the state of a session that was copied: its summaries name the positions of the same records there.

    A summary whose last records are not there is dropped, and so is a pin of a record that is not.

    Args:
        state: The state.
        positions: The position of each record in the new place, by id and in order.
    """
    kept = dict(state)
    ids = list(positions)
    for key in (SUMMARY_KEY, DRAFT_KEY):
        summary = state.get(key)
        if not isinstance(summary, dict):
            continue
        anchor = summary.get("anchor")
        if isinstance(anchor, list | tuple) and anchor and {*anchor} <= positions.keys():
            before = ids.index(anchor[0])
            after = positions[ids[before - 1]] if before else None
            kept[key] = {**summary, "position": positions[anchor[-1]], "after": after}
        else:
            del kept[key]
    if pins := _pins(state):
        places = dict(zip(ids, [None, *positions.values()], strict=False))
        moved = [{**pin, "after": places[pin["id"]]} for pin in pins if pin.get("id") in places]
        kept[PINS_KEY] = {**state[PINS_KEY], "pins": moved}
    return kept


def without_positions(state: Any) -> Any:
    """Return a state without where the records of its summaries and pins stand."""
    if not isinstance(state, dict):
        return state
    summaries = {key: state[key] for key in (SUMMARY_KEY, DRAFT_KEY) if isinstance(state.get(key), dict)}
    if pins := _pins(state):
        state = state | {PINS_KEY: {**state[PINS_KEY], "pins": [{**pin, "after": None} for pin in pins]}}
    return state | {
        key: {name: value for name, value in summary.items() if name not in ("position", "after")}
        for key, summary in summaries.items()
    }
