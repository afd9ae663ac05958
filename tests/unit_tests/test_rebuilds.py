"""A summary that is made anew: nothing is forgotten while it is made, whatever fails, and what was deleted is."""

from __future__ import annotations

import contextlib
import itertools
import zlib

import pytest
from conversations import FaultError, KilledError, fill, in_another_process, make_view, turn
from langchain_core.chat_history import InMemoryChatMessageHistory as Foreign
from langchain_core.messages import AIMessage, HumanMessage

from langchain_histories import MemoryStore, Summarizer, SummarizingChatMessageHistory, open_store
from langchain_histories.views import _clock


@pytest.fixture
def store():
    return MemoryStore()


class Flaky(Summarizer):
    """Fails from its nth call on."""

    def __init__(self):
        self.calls = self.down = 0

    def summarize(self, summary, messages, max_tokens):
        self.calls += 1
        if self.down and self.calls >= self.down:
            raise FaultError
        return f"{summary[:200]} +{len(messages)}"


def test_a_rebuild_that_stops_half_way_forgets_nothing(face, store):
    """Without a slot of its own one failing call left 14 covered messages of 398, here of 118."""
    summarizer, events = Flaky(), []

    def handle():
        return SummarizingChatMessageHistory(
            store.history("1"),
            summarizer,
            trigger=("tokens", 400),
            keep=("tokens", 100),
            max_summary_tokens=50,
            timeout=None,
            on_event=events.append,
        )

    for number in range(60):
        face.add(handle(), [HumanMessage(f"q{number} " + "word " * 20), AIMessage(f"a{number} " + "word " * 20)])
    covered = face.summary(handle()).covered
    assert covered > 100
    for calls in (1, 2, 5):
        summarizer.down = summarizer.calls + calls
        assert not face.run(handle(), "rebuild")
        assert face.summary(handle()).covered == covered
    del events[:]
    assert face.messages(handle())
    assert events == []
    summarizer.down, before = 0, summarizer.calls
    text = face.summary(handle()).text
    assert face.run(handle(), "rebuild")
    assert face.summary(handle()).covered >= covered
    assert face.summary(handle()).text != text
    assert store.get_state("1").keys() == {"lh:summary"}, "the slot is empty again"
    done = summarizer.calls - before
    assert face.run(handle(), "rebuild")
    assert summarizer.calls - before - done == done + 5, "what was made before the failures was not made again"


class Digest(Summarizer):
    """Says the same whatever it is shown."""

    def __init__(self, text):
        self.text = text

    def summarize(self, summary, messages, max_tokens):
        return self.text


@pytest.fixture(params=["memory", "file", "sqlite"])
def any_store(request, tmp_path):
    url = {"memory": "memory://", "file": f"file:{tmp_path}", "sqlite": f"sqlite:///{tmp_path}/h.db"}[request.param]
    with open_store(url) as store:
        yield store


def digest(texts, before=""):
    """Stands for these texts in order, and for those that `before` stands for."""
    number, _, check = before.partition(":")
    number, check = int(number or 0), int(check or 0)
    for text in texts:
        number, check = number + 1, zlib.crc32(text.encode(), check)
    return f"{number}:{check}"


class Digesting(Summarizer):
    """Says exactly what it stands for; its nth call has a fault, and other processes work during each call."""

    def __init__(self, number, fault, clock, meanwhile):
        self.number, self.fault, self.clock, self.meanwhile = number, fault, clock, meanwhile

    def summarize(self, summary, messages, max_tokens):
        self.number -= 1
        fault = self.fault if self.number == 0 else "ok"
        self.meanwhile()
        self.clock.now += {"late": 1000, "slow": 60}.get(fault, 0.1)
        if fault == "late":
            raise TimeoutError
        if fault == "kill":
            raise KilledError
        if fault == "raise":
            raise FaultError
        return None if fault == "nothing" else digest((m.content for m in messages), summary)


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize(
    ("fault", "is_own"),
    [*((fault, True) for fault in ("raise", "late", "slow", "nothing", "kill")), ("raise", False), ("late", False)],
)
def test_no_fault_of_a_rebuild_makes_the_summary_cover_less(face, store, monkeypatch, fault, is_own):
    """Whichever call it is, and whatever a second process adds and summarizes during each."""
    monkeypatch.setattr(_clock, "time", clock := Clock())
    history = store.history("s") if is_own else Foreign()
    numbers, covered = itertools.count(), [0]

    def view(summarizer, place=store, **options):
        if is_own:
            return make_view(place.history("s"), summarizer, timeout=100, **options)
        return make_view(history, summarizer, state=place.history("state"), timeout=100, **options)

    def check():
        summary = view("extractive").summary
        assert summary.covered >= covered[0]
        covered[0] = summary.covered
        assert summary.text == digest(m.content for m in view("extractive").transcript()[: summary.covered])

    def add_and_compact():
        other = view(Digesting(0, "", clock, lambda: None), in_another_process(store), mode="manual")
        other.add_messages(turn(next(numbers)))
        other.compact()
        check()

    for _ in range(16):
        face.add(view(Digesting(0, "", clock, lambda: None)), turn(next(numbers)))
    for call in range(1, 6):
        with contextlib.suppress(KilledError):
            face.run(view(Digesting(call, fault, clock, add_and_compact)), "rebuild")
        check()
        face.add(view(Digesting(2, fault, clock, lambda: None)), turn(next(numbers)))
        check()
    assert face.run(view(Digesting(0, "", clock, lambda: None)), "rebuild")
    check()
    summary = view("extractive").summary
    assert summary.rebuilt == summary.covered
    assert "lh:rebuild" not in store.get_state("s" if is_own else "state")


@pytest.mark.parametrize("how", ["delete", "replace", "delete the last", "delete while it is summarized"])
def test_a_session_that_nobody_uses_keeps_no_summary_of_what_was_deleted(face, any_store, how):
    store = any_store
    view = make_view(store.history("s"), Digest("notes"))
    store.put_state("s", {"mine": 1})
    fill(face, view, 12)
    assert face.summary(view)
    records = store.records("s")
    if how == "delete the last":
        store.delete("s", [records[-1].id])
        assert face.summary(view), "which it does not cover"
        return
    if how == "delete":
        store.delete("s", [records[0].id])
    elif how == "replace":
        store.replace("s", [record.message for record in records[1:]])
    else:

        class Deleting(Summarizer):
            def summarize(self, summary, messages, max_tokens):
                store.delete("s", [records[0].id])
                return "words that were deleted"

        assert not face.run(make_view(store.history("s"), Deleting()), "compact", force=True)
    assert store.get_state("s") == {"mine": 1}
