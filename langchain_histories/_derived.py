"""What views keep of a transcript in its state, and which part of that goes when messages go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

SUMMARY_KEY = "lh:summary"
DRAFT_KEY = "lh:rebuild"


def without_claims(
    state: dict[str, Any], ids: Sequence[str] = (), deleted: Collection[str] = ()
) -> dict[str, Any] | None:
    """Return a state without the summaries that have words of deleted messages.

    Args:
        state: The state.
        ids: The ids of all records, in order. A summary that ends with none of them is dropped.
        deleted: Those of the deleted ones.
    """
    kept = dict(state)
    first = next((i for i, record_id in enumerate(ids) if record_id in deleted), 0)
    for key in (SUMMARY_KEY, DRAFT_KEY):
        summary = state.get(key)
        anchor = summary.get("anchor") if isinstance(summary, dict) else None
        end = anchor[-1] if isinstance(anchor, list | tuple) and anchor else None
        if key in state and end not in ids[:first]:
            del kept[key]
    return kept or None


def names_positions(state: Mapping[str, Any]) -> bool:
    """Whether a state says where records stand."""
    return SUMMARY_KEY in state or DRAFT_KEY in state


def with_positions(state: dict[str, Any], positions: Mapping[str, str]) -> dict[str, Any]:
    """Return the state of a session that was copied: its summaries name the positions of the same records there.

    A summary whose last records are not there is dropped.

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
    return kept


def without_positions(state: Any) -> Any:
    """Return a state without where the records of its summaries stand."""
    if not isinstance(state, dict):
        return state
    summaries = {key: state[key] for key in (SUMMARY_KEY, DRAFT_KEY) if isinstance(state.get(key), dict)}
    return state | {
        key: {name: value for name, value in summary.items() if name not in ("position", "after")}
        for key, summary in summaries.items()
    }
