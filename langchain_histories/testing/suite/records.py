"""What comes back of a message, corrupt records, and the codec and the hook on the way."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage, message_chunk_to_message
from langchain_core.messages.base import BaseMessageChunk

from langchain_histories import Capability, CorruptRecordError, InvalidMessageError, codec
from langchain_histories.testing.messages import ShoutingCodec, comparable, golden_messages, numbered, texts
from langchain_histories.testing.suite.fixtures import StoreFixtures
from langchain_histories.testing.suite.foreign import plant

if TYPE_CHECKING:
    from langchain_histories import MessageStore
    from langchain_histories.testing.faces import Face
    from langchain_histories.testing.suite.fixtures import OpenStore


class RecordTests(StoreFixtures):
    """Rules 4, 7 and 16."""

    def test_round_trip(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """Rule 4: what comes back equals what was stored, chunks as the whole message."""
        write, read = faces
        messages = golden_messages()
        if not self.has(Capability.LARGE_SESSIONS):
            messages = [message for message in messages if len(message.content) < 1_000_000]
        write(store).append("s", messages)
        loaded = read(store).read("s")
        assert len(loaded) == len(messages)
        for message, back in zip(messages, loaded, strict=True):
            whole = message_chunk_to_message(message) if isinstance(message, BaseMessageChunk) else message
            assert comparable(back) == comparable(whole)

    def test_an_object_that_json_cannot_hold(
        self, open_store: OpenStore, face: Face, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Rule 4: the turn is kept with a description of the object, or refused by choice."""
        message = ToolMessage("kept", tool_call_id="1", artifact={"handle": threading.Lock(), "other": 1})
        with open_store() as store, caplog.at_level(logging.WARNING):
            face(store).append("s", [message])
            (back,) = face(store).read("s")
        assert back.content == "kept"
        assert back.artifact == {"handle": {"lh:type": "object", "value": "_thread.lock"}, "other": 1}
        assert "_thread.lock" in caplog.text
        with open_store(on_unserializable="raise") as strict:
            with pytest.raises(InvalidMessageError, match="_thread"):
                face(strict).append("s", [HumanMessage("not alone"), message])
            assert face(strict).count("s") == 1

    def test_records(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """A record has the id that `append` returned, and the time of the append."""
        write, read = faces
        begin = codec.now()
        ids = write(store).append("s", numbered(3))
        ids += write(store).append("s", numbered(1))
        records = read(store).records("s")
        assert [record.id for record in records] == ids
        assert len(set(ids)) == 4
        assert all(record.at is not None and begin <= record.at <= codec.now() for record in records)
        assert len({record.position for record in records}) == 4

    @pytest.mark.parametrize(
        "text",
        [
            '{"type": "human", "data": {"content": "cut',
            "[]",
            '"text"',
            '{"type": "human"}',
            '{"type": "alien", "data": {"content": "x"}}',
            '{"type": "human", "data": {"content": 5}}',
            '{"type": "human", "data": {"content": "x"}, "meta": {"v": 999, "id": "i", "at": "2026-01-01T00:00:00Z"}}',
            '{"type": "human", "data": {"content": "x", "additional_kwargs": {"a": {"lh:type": "no such tag"}}}}',
        ],
        ids=["cut", "array", "string", "no data", "unknown type", "bad field", "newer version", "unknown tag"],
    )
    def test_a_corrupt_record(
        self, open_store: OpenStore, face: Face, text: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Rule 7: it raises where it is read, or is skipped by choice, and blocks nothing else."""
        with open_store() as store:
            face(store).append("s", [HumanMessage("before")])
            plant(store, "s", [text])
            face(store).append("s", [HumanMessage("after")])
            with pytest.raises(CorruptRecordError) as caught:
                face(store).read("s")
            assert caught.value.session_id == "s"
            assert caught.value.position
            assert "cut" not in str(caught.value)
            assert texts(face(store).read("s", last=1)) == ["after"]
            assert texts(face(store).read("s", after=caught.value.position)) == ["after"]
            assert face(store).count("s") == 3
        with open_store(on_corrupt="skip") as lenient, caplog.at_level(logging.WARNING):
            assert texts(face(lenient).read("s")) == ["before", "after"]
            assert texts(face(lenient).read("s", last=2)) == ["before", "after"]
        assert "'s'" in caplog.text

    def test_a_record_without_envelope(self, store: MessageStore, face: Face) -> None:
        """Rule 16: a record as LangChain's classes write it is read, listed and deleted."""
        plant(store, "s", ['{"type": "human", "data": {"content": "old", "type": "human", "example": false}}'])
        face(store).append("s", [HumanMessage("new")])
        old, new = face(store).records("s")
        assert (old.message.content, old.at) == ("old", None)
        assert old.id != new.id
        if self.has(Capability.DELETE):
            assert face(store).delete("s", [old.id]) == 1
            assert texts(face(store).read("s")) == ["new"]

    def test_a_batch_stored_twice_is_read_once(self, store: MessageStore, face: Face) -> None:
        """Rule 15: a driver's retry may store a batch again."""
        _, rows = store.format.encode([HumanMessage("a"), AIMessage("b")])
        face(store).append("s", numbered(2))
        plant(store, "s", rows)
        plant(store, "s", rows)
        face(store).append("s", [HumanMessage("c")])
        everything = ["0", "1", "a", "b", "c"]
        for last in range(1, 7):
            assert texts(face(store).read("s", last=last)) == everything[-last:]
            assert texts(face(store).read("s", first=last)) == everything[:last]
        assert texts(face(store).read("s")) == everything

    def test_codec(self, open_store: OpenStore, face: Face) -> None:
        """A codec sees every text on its way to the store, and without it nothing is readable."""
        with open_store() as plain, open_store(codec=ShoutingCodec()) as coded:
            face(plain).append("s", [HumanMessage("in the clear")])
            face(coded).append("s", golden_messages())
            assert comparable(face(coded).read("s", last=3)[0]) == comparable(golden_messages()[-3])
            assert texts(face(coded).read("s"))[:2] == ["in the clear", "plain"]
            assert len(face(coded).records("s", last=1)[0].id) == 32
            with pytest.raises(CorruptRecordError, match="codec"):
                face(plain).read("s")

    def test_before_save(self, open_store: OpenStore, face: Face) -> None:
        """The hook changes or drops messages; when it raises nothing is stored."""

        def redact(message: BaseMessage) -> BaseMessage | None:
            if message.content == "fail":
                raise ZeroDivisionError
            if message.content == "drop":
                return None
            return message.model_copy(update={"content": str(message.content).replace("4111", "****")})

        with open_store(before_save=redact) as store:
            original = HumanMessage("card 4111")
            assert len(face(store).append("s", [original, HumanMessage("drop")])) == 1
            assert original.content == "card 4111"
            with pytest.raises(ZeroDivisionError):
                face(store).append("s", [HumanMessage("one"), HumanMessage("fail")])
            assert face(store).append("s", [HumanMessage("drop")]) == []
            assert texts(face(store).read("s")) == ["card ****"]
