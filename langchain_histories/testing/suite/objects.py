"""Any Python object anywhere in a message or a state."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage

from langchain_histories import Capability, ConfigurationError, InvalidMessageError
from langchain_histories.testing.messages import comparable, numbered, texts
from langchain_histories.testing.odd_objects import (
    HOSTILE,
    HostileFields,
    Liar,
    OwnFields,
    hostile_subclass,
    odd_message,
    odd_value,
    refused_values,
    spoilt_message,
)
from langchain_histories.testing.suite.fixtures import StoreFixtures

if TYPE_CHECKING:
    from langchain_histories import MessageStore
    from langchain_histories.testing.faces import Face
    from langchain_histories.testing.suite.fixtures import OpenStore


def no_messages() -> list[Any]:
    """What is no message, or cannot be read."""
    chunk = AIMessageChunk.model_construct(content=5, type="AIMessageChunk")
    return [None, 5, "text", object(), Liar(), mock.MagicMock(spec=BaseMessage), HostileFields(content="x"), chunk]


class ObjectTests(StoreFixtures):
    """What is acknowledged can be read: it is stored equal, as what it means, or as its description, or is refused."""

    def test_any_object_in_a_message(self, store: MessageStore, face: Face) -> None:
        """An object is kept, or what it means, or the name of its class."""
        chance = random.Random(1)  # noqa: S311
        odd = [odd_message(chance) for _ in range(80)]
        face(store).append("s", [message for message, _, _ in odd])
        for back, (_, kept, _) in zip(face(store).read("s"), odd, strict=True):
            assert comparable(back) == comparable(kept)

    def test_any_object_in_a_field_that_was_not_validated(self, open_store: OpenStore, face: Face) -> None:
        """A message that could not be read again is refused before anything is written."""
        chance = random.Random(2)  # noqa: S311
        with open_store() as store:
            face(store).append("s", numbered(1))
            stored = 1
            for _ in range(24):
                try:
                    face(store).append("s", [HumanMessage("with it"), spoilt_message(chance)])
                except InvalidMessageError:
                    continue
                stored += 2
            assert len(face(store).read("s")) == len(face(store).records("s")) == face(store).count("s") == stored
            face(store).append("s", numbered(1))
            assert texts(face(store).read("s", last=1)) == ["0"]

    def test_what_no_store_takes(self, store: MessageStore, face: Face) -> None:
        """What is refused is refused before anything is written, and the session goes on."""
        face(store).append("s", numbered(2))
        if self.has(Capability.STATE):
            face(store).put_state("s", {"a": 1})
        bad = no_messages()
        for number, value in enumerate(refused_values()):
            bad.append(HumanMessage("x", additional_kwargs={"a": value}))
            bad.append(ToolMessage("x", tool_call_id="1", artifact=value))
            bad.append(AIMessage("", tool_calls=[{"name": "f", "args": {"a": value}, "id": "1"}]))
            with pytest.raises(InvalidMessageError):
                self._put(store, face, value, update=number < 2)
        for message in bad:
            for name in ("append", "replace") if self.has(Capability.REPLACE) else ("append",):
                with pytest.raises(InvalidMessageError):
                    getattr(face(store), name)("s", [HumanMessage("not alone"), message])
        assert texts(face(store).read("s")) == ["0", "1"]
        if self.has(Capability.STATE):
            assert face(store).get_state("s") == {"a": 1}
        face(store).append("s", numbered(1))
        assert face(store).count("s") == 3

    def _put(self, store: MessageStore, face: Face, value: Any, *, update: bool) -> None:
        """Store a state, or where there are none the same in a message."""
        if self.has(Capability.STATE) and update:
            face(store).update_state("s", lambda _: {"a": value})
        elif self.has(Capability.STATE):
            face(store).put_state("s", {"a": value})
        else:
            face(store).append("s", [HumanMessage(["x", {"a": value}])])

    def test_objects_can_be_refused(self, open_store: OpenStore, face: Face) -> None:
        """Where objects are not to be described, those are refused that cannot be kept, and no others."""

        def hook(message: BaseMessage) -> BaseMessage:
            assert issubclass(type(message), BaseMessage)
            return message

        chance = random.Random(3)  # noqa: S311
        odd = [odd_message(chance) for _ in range(80)]
        kept = [message for message in odd if message.is_kept]
        assert 20 < len(kept) < 60
        with open_store(on_unserializable="raise", before_save=hook) as store:
            face(store).append("s", [message for message, _, _ in kept])
            for message, _, is_kept in odd:
                if not is_kept:
                    with pytest.raises(InvalidMessageError, match="on_unserializable"):
                        face(store).append("s", [HumanMessage("not alone"), message])
            for message in no_messages():
                with pytest.raises(InvalidMessageError):
                    face(store).append("s", [HumanMessage("not alone"), message])
            for back, (_, expected, _) in zip(face(store).read("s"), kept, strict=True):
                assert comparable(back) == comparable(expected)

    def test_any_object_in_a_state(self, store: MessageStore, face: Face) -> None:
        """The same for states; two that are stored alike are one."""
        self.needs(Capability.STATE)
        chance = random.Random(4)  # noqa: S311
        for number in range(2):
            odd = {f"{at}": odd_value(chance) for at in range(40)}
            odd["lh:type"], odd["lh:encoded"] = odd_value(chance), odd_value(chance)
            value, kept = ({key: item[at] for key, item in odd.items()} for at in (0, 1))
            if number:
                assert comparable(face(store).update_state("s", lambda _, value=value: value)) == comparable(kept)
            else:
                face(store).put_state("s", hostile_subclass(dict)(value))
            assert comparable(face(store).get_state("s")) == comparable(kept)
            # What is stored already is compared with what would be stored, and with no object's own equality.
            assert comparable(face(store).update_state("s", lambda _, value=value: value)) == comparable(kept)
        for bad in (Liar(), mock.MagicMock(spec=dict), [("a", 1)]):
            with pytest.raises(ConfigurationError, match="state"):
                face(store).put_state("s", bad)
        assert comparable(face(store).get_state("s")) == comparable(kept)
        for changed in ({"a": True}, {"a": 1}, {"a": 1.0}, {"a": "1"}):
            face(store).update_state("s", lambda _, changed=changed: changed)
            assert comparable(face(store).get_state("s")) == comparable(changed)

    def test_messages_of_ones_own_class(self, store: MessageStore, face: Face) -> None:
        """The fields that a subclass adds are kept, whatever is in them."""
        messages = [OwnFields(content="x", extra_field=odd.value) for odd in HOSTILE]
        face(store).append("s", messages)
        for back, odd in zip(face(store).read("s"), HOSTILE, strict=True):
            assert (back.content, back.role) == ("x", "of my own")
            assert comparable(back.extra_field) == comparable(odd.kept)
