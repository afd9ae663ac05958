"""Edits of a transcript."""

from __future__ import annotations

import pickle

import pytest
from edited import Twins
from langchain_core.messages import HumanMessage

from langchain_histories import FileStore, MemoryStore, SQLStore, TranscriptChangedError
from langchain_histories.history import TurnChatMessageHistory

STORES = {
    "memory": lambda _: MemoryStore(),
    "files": lambda path: FileStore(path=path, fsync=False),
    "sqlite": lambda _: SQLStore("sqlite://"),
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", STORES)
def test_a_session_is_as_a_list_to_which_the_same_is_done(kind, seed, tmp_path):
    Twins(STORES[kind](tmp_path), seed).live(25)


def test_the_handle_of_a_turn_reads_again_after_an_edit():
    store = MemoryStore()
    (first,) = store.append("s", [HumanMessage("first")])
    turn = TurnChatMessageHistory(store, "s")
    assert len(turn.messages) == 1
    turn.edit_message(first, HumanMessage("other"))
    assert [message.content for message in turn.messages] == ["other"]


def test_errors_can_be_pickled():
    with pytest.raises(TranscriptChangedError) as caught:
        MemoryStore().append("s", [HumanMessage("x")], after="x")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.session_id) == (str(caught.value), "s")


def test_before_save_and_codec_apply_to_what_is_changed():
    class Reversed:
        encode = decode = staticmethod(lambda text: text[::-1])

    def hook(message):
        return None if message.content == "drop" else HumanMessage(message.content.upper())

    store = MemoryStore(codec=Reversed(), before_save=hook)
    store.append("s", [HumanMessage(text) for text in "abc"])
    ids = [record.id for record in store.records("s")]
    store.edit_message("s", ids[1], HumanMessage("new"))
    store.edit_message("s", ids[0], HumanMessage("drop"))
    assert [message.content for message in store.read("s")] == ["NEW", "C"]
    assert [record.id for record in store.records("s")] == ids[1:]
    assert [stored["data"]["content"] for stored in store.records("s", raw=True)] == ["NEW", "C"]


def test_a_tail_is_of_one_moment(monkeypatch):
    """Where the state changes between the look at it and the read of the records, both are read once more."""
    store = MemoryStore()
    read = type(store.operations).read
    turns = iter("ab")

    async def read_late(operations, client, key, **where):
        rows = await read(operations, client, key, **where)
        if (turn := next(turns, None)) is not None:
            await operations.append(client, key, store.format.encode([HumanMessage(turn)])[1])
            await operations.put_state(client, key, f'{{"after": "{turn}"}}')
        return rows

    monkeypatch.setattr(type(store.operations), "read", read_late)
    records, state = store.tail("s")
    assert (records[0].message.content, state) == ("b", {"after": "b"})
