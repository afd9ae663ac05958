"""Pinned messages: which they are, as the state of a session keeps it, and how a view shows them.

The state names the records and where they stand, not what they say. So a pin of a record that was deleted, edited or
cleared since has none of its words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from langchain_histories._derived import PINS_KEY
from langchain_histories._neutral import settle
from langchain_histories.views._cuts import MARK, begins_turn
from langchain_histories.views._limits import Size, size_of
from langchain_histories.views.summarizers import readable

if TYPE_CHECKING:
    from langchain_histories.codec import Record
    from langchain_histories.views._faces import Snapshot, SyncFace
    from langchain_histories.views.tokens import TokenCounter

_VERSION = 1


class Pin(NamedTuple):
    """A pin: the id of a record, and the position before it."""

    id: str
    after: str | None


class Pinned(NamedTuple):
    """The messages of pins, as a view shows them.

    Attributes:
        messages: The messages, in order.
        places: Where each stands in the tail of a transcript; -1 before it.
        sizes: Their sizes.
        has_moved: Whether one stands elsewhere than the state says.
    """

    messages: Sequence[BaseMessage] = ()
    places: Sequence[int] = ()
    sizes: Sequence[Size] = ()
    has_moved: bool = False

    def before(self, start: int) -> list[BaseMessage]:
        """Return those that are not shown in their own place, in a view that begins at this place of the tail."""
        return [message for message, place in zip(self.messages, self.places, strict=True) if place < start]

    def size(self, start: int) -> Size:
        """Return the size of `before`."""
        return sum((size for size, place in zip(self.sizes, self.places, strict=True) if place < start), Size())


def pins_of(state: dict[str, Any] | None) -> list[Pin]:
    """Return the pins in a state, in the order of the transcript; what cannot be read is none."""
    data = (state or {}).get(PINS_KEY)
    if not isinstance(data, dict) or data.get("v") != _VERSION or not isinstance(data.get("pins"), list):
        return []
    pins = [(pin.get("id"), pin.get("after")) for pin in data["pins"] if isinstance(pin, dict)]
    return [Pin(name, after) for name, after in pins if isinstance(name, str) and isinstance(after, str | None)]


def with_pins(
    state: dict[str, Any] | None, pinned: Collection[str], records: Sequence[Record]
) -> dict[str, Any] | None:
    """Return `state` with pins of those of the `pinned` ids that these records, all of a session, have."""
    positions = [None, *(record.position for record in records)]
    pins = [
        {"id": record.id, "after": after}
        for record, after in zip(records, positions, strict=False)
        if record.id in pinned
    ]
    rest = {name: value for name, value in (state or {}).items() if name != PINS_KEY}
    return ({**rest, PINS_KEY: {"v": _VERSION, "pins": pins}} if pins else rest) or None


async def read_pinned(
    history: SyncFace | Snapshot, pins: Sequence[Pin], tail: Sequence[Record], count: TokenCounter
) -> Pinned:
    """Return the messages of pins; those of records that are gone are left out.

    Args:
        history: The history.
        pins: The pins.
        tail: The records that were read already: the end of the transcript.
        count: Counts the tokens of messages.
    """
    if not pins:
        return Pinned()
    places = {record.id: place for place, record in enumerate(tail)}
    found = {pin.id: tail[places[pin.id]] for pin in pins if pin.id in places}
    for pin in pins:
        if pin.id not in places:
            near: list[Record] = await settle(history.records(after=pin.after, first=1))
            found.update({record.id: record for record in near if record.id == pin.id})
    if has_moved := len(found) < len(pins):
        # A deletion moves what stands behind it in some stores.
        wanted = {pin.id for pin in pins} - found.keys()
        everything: list[Record] = await settle(history.records())
        found.update({record.id: record for record in everything if record.id in wanted})
    there = [found[pin.id] for pin in pins if pin.id in found]
    messages = [_alone(record.message) for record in there]
    sizes = [size_of([message], count) for message in messages]
    return Pinned(messages, [places.get(record.id, -1) for record in there], sizes, has_moved)


def _alone(message: BaseMessage) -> BaseMessage:
    """Return a message as it is shown away from its place: what is not a user's is quoted, because it needs a call."""
    mark = {MARK: {"pinned": True}}
    if begins_turn(message) or isinstance(message, SystemMessage):
        return message.model_copy(update={"additional_kwargs": {**message.additional_kwargs, **mark}})
    return HumanMessage(
        f"Kept from the earlier part of this conversation, for reference ({message.type}):\n{readable(message)}",
        additional_kwargs=mark,
    )
