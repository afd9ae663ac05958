"""What views keep of a transcript in its state, and which part of that goes when messages go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

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
