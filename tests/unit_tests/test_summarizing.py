"""`SummarizingChatMessageHistory`: its invariants over random conversations and faults, then case by case."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import datetime as dt
import gc
import itertools
import os
import random
import threading
import weakref
from types import SimpleNamespace

import pytest
from conversations import (
    KEEP,
    LONGEST,
    TRIGGER,
    Face,
    FaultError,
    KilledError,
    RecordingSummarizer,
    check_end,
    check_valid,
    conversations,
    count,
    counting_reads,
    fill,
    in_another_process,
    make_turn,
    make_view,
    split,
    stored_of,
    turn,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.chat_history import InMemoryChatMessageHistory as Foreign
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableLambda

from langchain_histories import (
    Capability,
    ConfigurationError,
    CorruptRecordError,
    FileStore,
    HistoryRegistry,
    InMemoryChatMessageHistory,
    InvalidMessageError,
    MemoryStore,
    StoreUnavailableError,
    Summarizer,
    SummarizingChatMessageHistory,
    SummaryError,
    SummaryStats,
    WindowedChatMessageHistory,
    open_history,
    open_store,
)
from langchain_histories.views import _clock
from langchain_histories.views._limits import Size, size_of
from langchain_histories.views.tokens import count_tokens

FAULTS = ["ok", "ok", "ok", "raise", "late", "empty", "blank", "object", "long"]


def check_view(shown, transcript, budget=TRIGGER):
    """Invariants 2 to 5: what any reader may see at any time."""
    pinned, summary, tail = split(shown)
    system = list(itertools.takewhile(lambda m: isinstance(m, SystemMessage), transcript))
    assert pinned == system
    body = transcript[len(system) :]
    check_valid(tail)
    start = check_end(tail, body)
    assert tail or all(isinstance(m, ToolMessage) for m in body)
    if start and tail and any(isinstance(m, HumanMessage) for m in body):
        assert isinstance(tail[0], HumanMessage) or summary, "what is cut begins with a question"
    starts = [i for i, m in enumerate(tail) if isinstance(m, HumanMessage)]
    last_turn = tail[starts[-1] :] if starts else []
    assert count(shown) <= max(budget, count([*pinned, *summary, *last_turn]))
    return pinned, summary, tail


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=conversations(), schedule=st.lists(st.sampled_from(FAULTS), max_size=12), own=st.booleans())
def test_invariants(face, batches, schedule, own):
    store = MemoryStore()
    summarizer = RecordingSummarizer(schedule)
    events = []
    options = {} if own else {"state": store.history("state")}
    history = store.history("s") if own else Foreign()
    view = make_view(history, summarizer, on_event=events.append, **options)
    transcript, covered = [], 0
    for batch in batches:
        shown = face.messages(view)
        pinned, _, tail = check_view(shown, transcript)
        assert face.messages(view) == shown, "two reads without a write are equal"
        summary = face.summary(view)
        if summary is not None:
            assert summary.covered >= covered
            assert summary.text
            assert count([AIMessage(summary.text)]) <= LONGEST
            covered = summary.covered
        told = summarizer.covered_by(summary)
        assert [m.content for m in transcript[len(pinned) : covered]] == list(told), "all it covers, once, in order"
        trimmed = view._first_read.trimmed if view._first_read else 0
        rest = transcript[covered or len(pinned) :]
        where = face.run(view, "coverage")
        assert (where.stored, where.trimmed) == (len(transcript), trimmed)
        assert where.covered == covered
        assert where.covered + where.trimmed + where.shown + where.repaired == where.stored
        assert where.shown + where.added == len(shown)
        assert check_end(tail, rest) == trimmed or not stored_of(tail), "no gap that is not counted"
        face.add(view, batch)
        transcript += batch
        assert face.run(view, "transcript") == transcript
    stats = face.stats(view)
    assert stats.failures == sum(event.kind == "failed" for event in events)
    if all(fault in ("ok", "long") for fault in schedule):
        assert stats.failures == 0
        assert len(summarizer.seen) == len(set(summarizer.seen)), "each message is shown once"
        # A view leaves something out only where a call that has no answer yet forbids to summarize it.
        answered = {m.tool_call_id for m in transcript if isinstance(m, ToolMessage)}
        calls = {call["id"] for m in transcript if isinstance(m, AIMessage) for call in m.tool_calls}
        whole = all(len(batch) > 1 for batch in batches)
        assert not any(event.kind == "trimmed" for event in events) or calls != answered or not whole


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=conversations(max_turns=15),
    schedule=st.lists(st.sampled_from([*FAULTS, "kill", "kill"]), max_size=12),
    moves=st.lists(
        st.sampled_from(["add", "add", "add", "restart", "read", "clear", "clear elsewhere", "delete"]), max_size=40
    ),
)
def test_invariants_with_several_processes(face, batches, schedule, moves):  # noqa: C901  # a table of moves
    """Two processes in turn, killed and restarted at any point, with clearing and deleting behind a view's back."""
    store = MemoryStore()
    summarizer = RecordingSummarizer(schedule)
    views = [make_view(s.history("s"), summarizer) for s in (store, in_another_process(store))]
    queue, moves = iter(batches), iter(moves)
    transcript, turn = [], 0
    while True:
        turn += 1
        move = next(moves, "add")
        view = views[turn % 2]
        if move == "add":
            batch = next(queue, None)
            if batch is None:
                break
            with contextlib.suppress(KilledError):
                face.add(view, batch)
            transcript += batch
        elif move == "restart":
            views[turn % 2] = make_view(in_another_process(store).history("s"), summarizer)
        elif move == "read":
            face.messages(view)
        elif move == "clear":
            face.run(view, "clear")
            transcript = []
            assert store.get_state("s") is None
        elif move == "clear elsewhere":
            store.clear("s")
            transcript = []
        elif transcript:
            record = random.Random(turn).choice(store.records("s"))
            store.delete("s", [record.id])
            transcript.remove(record.message)
        fresh = make_view(in_another_process(store).history("s"), summarizer)
        if move != "delete":
            shown = face.messages(fresh)
            _, summary, _ = _check_loosely(shown, transcript)
            known = summarizer.covered_by(face.summary(fresh)) if summary else ()
            assert not set(known) - {m.content for batch in batches for m in batch}
        assert store.read("s") == transcript
    if not transcript:
        assert not any(m.additional_kwargs for m in face.messages(views[0]))


def _check_loosely(shown, transcript):
    """What holds after deletions too: valid, and nothing that is not in the transcript but a summary."""
    pinned, summary, tail = split(shown)
    assert all(m in transcript for m in [*pinned, *stored_of(tail)])
    check_valid(tail)
    if tail:
        assert transcript[-1] in tail or isinstance(transcript[-1], ToolMessage)
    if not transcript:
        assert not shown
    return pinned, summary, tail


# One rule at a time.


@pytest.fixture
def store():
    return MemoryStore()


def test_nothing_is_summarized_before_it_is_stored(face, store):
    summarizer = RecordingSummarizer()
    view = make_view(store.history("s"), summarizer)
    fill(face, view, 6)

    async def broken(*_, **__):
        raise ConnectionError

    store.operations.append = broken
    for _ in range(20):
        with pytest.raises(StoreUnavailableError):
            face.add(view, turn("lost", 2000))
    assert summarizer.seen == []
    assert face.summary(view) is None


def test_a_turn_is_stored_before_the_summarizer_is_called(face, store):
    stored = []

    class Looking(Summarizer):
        def summarize(self, summary, messages, max_tokens):
            stored.append(store.count("s"))
            return "x"

    view = make_view(store.history("s"), Looking())
    fill(face, view, 8)
    assert stored == [16]


def test_failing_calls_become_rare(face, store):
    """Backoff in turns: the next attempt after 2, 4, 8, ... turns, at most 32."""
    summarizer = RecordingSummarizer(itertools.repeat("raise"))
    attempts = []
    view = make_view(store.history("s"), summarizer, on_event=lambda e: attempts.append(e) if e.kind == "failed" else 0)
    at = []
    for number in range(120):
        before = len(attempts)
        fill(face, view, 1, start=number)
        at += [number] * (len(attempts) - before)
    assert [later - earlier for earlier, later in itertools.pairwise(at)] == [2, 4, 8, 16, 32, 32]
    assert len(face.run(view, "transcript")) == 240
    assert count(face.messages(view)) <= TRIGGER


def test_a_success_ends_the_pauses(face, store):
    view = make_view(store.history("s"), RecordingSummarizer(["raise", "raise", "raise"]))
    fill(face, view, 60)
    assert face.stats(view).failures == 3
    assert face.summary(view).covered > 100
    assert view._session.pause == 0


def test_after_a_success_the_pauses_begin_anew(face, store):
    at = {"failed": [], "summarized": []}
    number = 0
    view = make_view(
        store.history("s"),
        RecordingSummarizer(["raise", "raise", "ok", "raise"]),
        on_event=lambda event: at.get(event.kind, []).append(number),
    )
    for number in range(40):  # the event handler reads it
        fill(face, view, 1, start=number)
    first, second, third = at["failed"]
    assert second - first == 2
    assert next(turn for turn in at["summarized"] if turn > third) - third == 2


def test_each_counter_counts_for_itself(face, store):
    """Two programs with different counters in one process."""
    history = store.history("s")
    fill(face, make_view(history, RecordingSummarizer(), mode="manual"), 7)
    every = make_view(history, RecordingSummarizer(), token_counter=lambda messages: 300 * len(messages), mode="manual")
    assert len(face.messages(every)) == 2
    assert len(face.messages(make_view(history, RecordingSummarizer(), mode="manual"))) == 14


def test_steps_of_a_turn_are_no_turns(face, store):
    """Saving step by step must not use up a pause within one turn."""
    view = make_view(store.history("s"), RecordingSummarizer(itertools.repeat("raise")))
    fill(face, view, 8)
    assert face.stats(view).failures == 1
    for step in range(20):
        face.add(view, [AIMessage(f"step {step}")])
    assert face.stats(view).failures == 1


def test_a_narrower_summary_never_replaces_a_wider(face, store):
    """Two processes: the slow one, which saw less, comes last."""
    inside = []

    class Slow(Summarizer):
        def summarize(self, summary, messages, max_tokens):
            other = make_view(in_another_process(store).history("s"), RecordingSummarizer(), mode="manual")
            other.add_messages([m for n in range(20, 30) for m in turn(n)])
            other.compact()
            inside.append(other.summary)
            return "narrow"

    view = make_view(store.history("s"), Slow())
    fill(face, view, 8)
    assert inside
    assert face.summary(view) == inside[0]
    assert inside[0].covered > 16


def test_two_processes_at_once_lose_nothing(face, store):
    summarizer = RecordingSummarizer()
    views = [make_view(in_another_process(store).history("s"), summarizer) for _ in range(2)]
    for number in range(60):
        face.messages(views[number % 2])
        face.messages(views[1 - number % 2])
        face.add(views[number % 2], turn(number))
    transcript = store.read("s")
    assert len(transcript) == 120
    for view in views:
        shown = face.messages(view)
        check_view(shown, transcript)
        summary = face.summary(view)
        assert [m.content for m in transcript[: summary.covered]] == list(summarizer.covered_by(summary))


def test_a_summary_made_meanwhile_does_not_move_the_view_of_a_turn(face, store):
    view = make_view(store.history("s"), RecordingSummarizer())
    fill(face, view, 5)
    shown = face.messages(view)
    other = make_view(in_another_process(store).history("s"), RecordingSummarizer(), mode="manual")
    assert other.compact(force=True)
    assert face.messages(view) == shown
    face.add(view, turn("after"))
    assert face.messages(view) != [*shown, *turn("after")]
    assert split(face.messages(view))[1]


@pytest.mark.parametrize("kind", ["turn", "kept"])
def test_runnable_with_message_history_stores_each_message_once(kind, store):
    """LangChain's class reads the view again at the end of a turn, and takes what is longer than that as new."""
    from langchain_core.runnables.history import RunnableWithMessageHistory

    registry = HistoryRegistry({"s": store})
    options = {"trigger": ("tokens", 400), "keep": ("tokens", 150), "max_summary_tokens": 60}
    kept = {}

    def factory(session_id):
        if kind == "kept":
            return kept.setdefault(
                session_id, make_view(registry.history(session_id), RecordingSummarizer(), **options)
            )
        return make_view(registry.get_session_history(session_id), RecordingSummarizer(), **options)

    def answer(messages):
        # Another process brings the summary up to date in the middle of the turn.
        other = make_view(in_another_process(store).history("s"), RecordingSummarizer(), mode="manual", **options)
        other.compact(force=True)
        return AIMessage("answer to " + messages[-1].content + " " + "x" * 100)

    with pytest.warns(DeprecationWarning, match="RunnableWithMessageHistory"):
        chat = RunnableWithMessageHistory(RunnableLambda(answer), factory)
    for number in range(20):
        chat.invoke([HumanMessage(f"question {number}")], config={"configurable": {"session_id": "s"}})
    assert [m.content.split(" x")[0] for m in store.read("s")] == [
        text for n in range(20) for text in (f"question {n}", f"answer to question {n}")
    ]


def test_a_view_is_not_stored(face, store):
    view = make_view(store.history("s"), RecordingSummarizer())
    fill(face, view, 12)
    shown = face.messages(view)
    assert split(shown)[1]
    before = store.count("s")
    face.add(view, [split(shown)[1][0], HumanMessage("new")])
    assert [m.content for m in store.read("s")[before:]] == ["new"]


# The transcript changes behind the view's back.


def test_a_cleared_session_is_never_shown_with_its_old_summary(face, store):
    """Not even by a process that still summarizes it, or when as many messages follow."""

    class Clearing(RecordingSummarizer):
        def summarize(self, summary, messages, max_tokens):
            text = super().summarize(summary, messages, max_tokens)
            in_another_process(store).clear("s")
            return text

    view = make_view(store.history("s"), Clearing())
    fill(face, view, 8)
    assert store.get_state("s") is None
    assert face.messages(view) == []
    face.add(view, turn("new"))
    assert face.messages(view) == turn("new")
    for number in range(20):
        store.append("s", turn(f"other {number}"))
    assert not split(face.messages(view))[1]


def test_a_session_cleared_in_the_moment_of_writing_keeps_no_summary(face, store):
    operations = store.operations
    put = operations.put_state

    async def racing(client, key, text, **where):
        if text is not None and await operations.count(client, key):
            await operations.clear(client, key)
        return await put(client, key, text, **where)

    operations.put_state = racing
    events = []
    view = make_view(store.history("s"), RecordingSummarizer(), on_event=events.append)
    fill(face, view, 8)
    assert store.count("s") == 0
    assert store.get_state("s") is None
    assert events == [], "nothing was summarized"


def test_a_stale_summary_is_not_shown_and_then_replaced(face, store):
    events = []
    view = make_view(store.history("s"), RecordingSummarizer(), on_event=events.append)
    fill(face, view, 12)
    state = store.get_state("s")
    store.clear("s")
    store.append("s", [m for n in range(100, 112) for m in turn(n)])
    store.put_state("s", state)
    shown = face.messages(view)
    assert not split(shown)[1]
    assert [event.kind for event in events][-2:] == ["lost", "trimmed"]
    face.add(view, turn("more"))
    assert face.summary(view).covered > 0
    assert view.summarizer.covered_by(face.summary(view))[0].startswith("question 100")


def test_a_deleted_message_does_not_live_on_in_the_summary(face, store):
    summarizer = RecordingSummarizer()
    view = make_view(store.history("s"), summarizer)
    fill(face, view, 12)
    secret = store.records("s")[2]
    assert secret.message.content in summarizer.covered_by(face.summary(view))
    store.delete("s", [secret.id])
    fill(face, view, 8, start=12)
    assert secret.message.content not in summarizer.covered_by(face.summary(view))
    assert [m.content for m in store.read("s")[: face.summary(view).covered]] == list(
        summarizer.covered_by(face.summary(view))
    )


def test_rebuild_forgets_at_once_what_was_deleted(face, store):
    summarizer = RecordingSummarizer()
    view = make_view(store.history("s"), summarizer)
    fill(face, view, 12)
    record = store.records("s")[0]
    covered = face.summary(view).covered
    store.delete("s", [record.id])
    assert face.run(view, "rebuild")
    summary = face.summary(view)
    assert summary.covered >= covered - 1
    assert record.message.content not in summarizer.covered_by(summary)
    check_view(face.messages(view), store.read("s"))


def test_a_replaced_transcript_is_summarized_anew(face, store):
    summarizer = RecordingSummarizer()
    view = make_view(store.history("s"), summarizer)
    fill(face, view, 12)
    store.replace("s", [m for n in range(200, 205) for m in turn(n)])
    assert face.messages(view) == store.read("s")
    fill(face, view, 6, start=205)
    assert summarizer.covered_by(face.summary(view))[0].startswith("question 200")


def test_a_history_of_others_that_is_pruned_keeps_its_summary(face, store):
    history = Foreign()
    view = make_view(history, RecordingSummarizer(), state=store.history("s"))
    fill(face, view, 12)
    summary, shown = face.summary(view), face.messages(view)
    assert summary.covered > 10
    del history.messages[:4]
    assert face.messages(view)[1:] == shown[1:]
    fill(face, view, 12, start=12)
    assert face.summary(view).covered > 0
    check_view(face.messages(view), history.messages)
    del history.messages[: len(history.messages) - 2]
    assert face.messages(view) == history.messages


def test_a_history_of_others_that_was_cleared_shows_no_old_summary(face, store):
    history = Foreign()
    view = make_view(history, RecordingSummarizer(), state=store.history("s"))
    fill(face, view, 12)
    history.clear()
    assert face.messages(view) == []
    history.add_messages([m for n in range(50, 62) for m in turn(n)])
    assert not split(face.messages(view))[1]


def test_clear_leaves_nothing(face, store):
    for history, options in ((store.history("s"), {}), (Foreign(), {"state": store.history("other")})):
        view = make_view(history, RecordingSummarizer(), **options)
        store.put_state(view._slot.session_id, {"summary": "mine"})
        fill(face, view, 12)
        assert store.get_state(view._slot.session_id).keys() == {"summary", "lh:summary"}
        face.run(view, "clear")
        assert face.messages(view) == []
        assert face.run(view, "transcript") == []
        assert face.summary(view) is None
    assert store.sessions() == []
    assert store.get_state("s") is None
    assert store.get_state("other") == {"summary": "mine"}, "what is not ours stays"


def test_a_session_is_cleared_whose_state_cannot_be_read(face, store):
    history = Foreign()
    view = make_view(history, RecordingSummarizer(), state=store.history("state"))
    fill(face, view, 12)
    client = store.client
    client.sessions["state"].state = "not JSON"
    with pytest.raises(CorruptRecordError):
        face.messages(view)
    face.run(view, "clear")
    assert history.messages == face.messages(view) == []
    assert store.get_state("state") is None


def test_a_cleared_session_begins_anew(face, store):
    summarizer = RecordingSummarizer(["ok", "raise", "raise", "raise"])
    view = make_view(store.history("s"), summarizer)
    fill(face, view, 40)
    assert face.stats(view).failures == 3
    face.messages(view)
    face.run(view, "clear")
    face.add(view, turn(0))
    assert face.stats(view) == SummaryStats()
    fill(face, view, 9)
    assert face.summary(view).covered


def test_no_trace_of_a_summary_in_listings_and_after_erasure(store):
    registry = HistoryRegistry({"s": store})
    view = make_view(registry.get_user_session_history("ivan", "1"), RecordingSummarizer())
    fill(Face(), view, 12)
    assert [(info.session_id, info.count) for info in store.sessions()] == [("@ivan/1", 24)]
    assert store.erase(user_id="ivan") == 1
    assert view._slot.store.get_state("@ivan/1") is None


class Quoting(Summarizer):
    """Repeats everything, and what it said before."""

    def summarize(self, summary, messages, max_tokens):
        return " ".join([summary, *(m.content.split(" x")[0] for m in messages)])


@pytest.fixture(params=["memory", "file", "sqlite"])
def any_store(request, tmp_path):
    url = {"memory": "memory://", "file": f"file:{tmp_path}", "sqlite": f"sqlite:///{tmp_path}/h.db"}[request.param]
    with open_store(url) as store:
        yield store


@pytest.mark.parametrize("from_end", [1, 2, 3, 6])
def test_a_deleted_message_is_not_in_the_next_summary(any_store, from_end):
    """Wherever it was, on stores whose positions move when something is deleted and on others."""
    view = make_view(any_store.history("s"), Quoting(), max_summary_tokens=170, trigger=("tokens", 700))
    fill(Face(), view, 11)
    record = any_store.records("s")[view.summary.covered - from_end]
    name = record.message.content.split(" x")[0]
    assert name in view.summary.text
    any_store.delete("s", [record.id])
    assert view.summary is None, "it goes in the same step"
    for number in range(11, 30):
        fill(Face(), view, 1, start=number)
        if view.summary is not None:
            break
    assert name not in view.summary.text


def test_a_deleted_message_is_not_in_a_summary_that_catches_up(face, store):
    view = make_view(store.history("s"), RecordingSummarizer(), mode="manual")
    fill(face, view, 8)
    assert face.run(view, "compact")
    store.append("s", [m for n in range(8, 300) for m in turn(n)])
    secret = store.records("s")[0]
    store.delete("s", [secret.id])
    assert face.run(view, "compact")
    covered = view.summarizer.covered_by(face.summary(view))
    assert secret.message.content not in covered
    assert [m.content for m in store.read("s")[: face.summary(view).covered]] == list(covered)


def test_a_summary_of_nothing_that_is_left_is_removed(face, store):
    view = make_view(store.history("s"), RecordingSummarizer())
    fill(face, view, 9)
    store.delete("s", [record.id for record in store.records("s")])
    assert not face.run(view, "rebuild")
    assert store.get_state("s") is None
    fill(face, view, 9)
    store.replace("s", turn("other"))
    face.run(view, "compact")
    assert store.get_state("s") is None


def test_a_rebuilt_summary_is_shown_at_once(face, store):
    view = make_view(store.history("s"), RecordingSummarizer())
    fill(face, view, 9)
    before = face.messages(view)
    assert face.run(view, "rebuild")
    assert split(face.messages(view))[1] != split(before)[1]


def test_anew_in_bounded_calls_and_time(face, store, monkeypatch):
    """A rebuild of a long session does not hold up a turn for longer than any other backlog."""
    view = make_view(store.history("s"), RecordingSummarizer(), mode="manual", timeout=None)
    store.append("s", [m for n in range(300) for m in turn(n)])
    assert face.run(view, "compact")
    clock = itertools.count(step=40)
    monkeypatch.setattr(_clock, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    store.delete("s", [store.records("s")[0].id])
    hurried = make_view(store.history("s"), RecordingSummarizer(), timeout=100)
    calls = face.stats(hurried).calls
    fill(face, hurried, 9, start=300)
    assert face.stats(hurried).calls - calls < 30
    assert max(len(batch) for batch in hurried.summarizer.batches) < 20
    check_view(face.messages(hurried), store.read("s"))


def test_a_store_without_states_is_cleared_with_its_summary_elsewhere(face, store):
    class Stateless(MemoryStore):
        @property
        def capabilities(self):
            return super().capabilities & ~Capability.STATE

    view = make_view(Stateless().history("s"), RecordingSummarizer(), state=store.history("elsewhere"))
    fill(face, view, 9)
    assert face.summary(view)
    face.run(view, "clear")
    assert store.get_state("elsewhere") is None


async def test_flush_waits_for_what_consecutive_additions_began(store):
    view = make_view(store.history("s"), RecordingSummarizer(), mode="background")
    for number in range(12):
        await view.aadd_messages(turn(number))
    assert await view.aflush(20)
    assert (await view.aget_summary()).covered


def test_savings_are_counted_however_a_turn_is_added(face, store):
    view = make_view(store.history("s"), RecordingSummarizer())
    for number in range(30):
        question, answer = turn(number)
        face.add(view, [question])
        face.messages(view)
        face.add(view, [answer])
    assert face.stats(view).tokens_saved > 5000


def test_a_pinned_message_keeps_what_json_cannot_hold(face, store):
    view = make_view(store.history("s"), RecordingSummarizer())
    pinned = SystemMessage("Be kind.", additional_kwargs={"at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "t": (1, 2)})
    face.add(view, [pinned])
    fill(face, view, 12)
    assert face.summary(view)
    assert face.messages(view)[0] == pinned


def test_what_is_no_message_is_refused_by_the_store(face, store):
    view = make_view(store.history("s"), RecordingSummarizer())
    with pytest.raises(InvalidMessageError):
        face.add(view, ["hi"])
    face.add(view, (message for message in turn(1)))
    assert face.run(view, "transcript") == turn(1)


def test_the_summary_of_langchains_middleware_is_not_stored(face, store):
    view = make_view(store.history("s"), RecordingSummarizer())
    theirs = HumanMessage("Here is a summary", additional_kwargs={"lc_source": "summarization"})
    face.add(view, [theirs, HumanMessage("q")])
    assert [m.content for m in store.read("s")] == ["q"]


def test_the_summarizer_sees_the_callers_context(face, store):
    tenant = contextvars.ContextVar("tenant", default=None)
    seen = []

    class Looking(Summarizer):
        def summarize(self, summary, messages, max_tokens):
            seen.append(tenant.get())
            return "x"

    view = make_view(store.history("s"), Looking())
    fill(face, view, 7)

    def go():
        tenant.set("acme")
        view.add_messages(turn(7))

    contextvars.copy_context().run(go)
    assert seen == ["acme"]


# What a summarizer may return.


@pytest.mark.parametrize(
    "bad", ["", "  \n", AIMessage(""), AIMessage([]), AIMessage("", tool_calls=[]), {"text": "x"}, None]
)
def test_what_is_no_summary(face, store, bad):
    class Bad(Summarizer):
        def summarize(self, summary, messages, max_tokens):
            return bad

    view = make_view(store.history("s"), Bad(), on_summary_error="raise")
    fill(face, view, 6)
    with pytest.raises(SummaryError) as caught:
        fill(face, view, 4, start=6)
    assert isinstance(caught.value.__cause__, SummaryError)
    assert face.summary(view) is None
    assert store.count("s") == 16, "stored all the same"


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("plain", "plain"),
        (AIMessage(" padded \n"), "padded"),
        (AIMessage([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a block"}]), "a block"),
        (AIMessage("cut sho", response_metadata={"finish_reason": "length"}), "cut sho […]"),
        (AIMessage("cut sho", response_metadata={"stop_reason": "max_tokens"}), "cut sho […]"),
        (AIMessage("whole", response_metadata={"finish_reason": "stop"}), "whole"),
    ],
)
def test_what_a_summary_may_be(face, store, reply, text):
    class Fixed(Summarizer):
        def summarize(self, summary, messages, max_tokens):
            return reply

    view = make_view(store.history("s"), Fixed())
    fill(face, view, 9)
    assert face.summary(view).text == text


@pytest.mark.parametrize("length", [300, 10_000, 1_000_000])
def test_a_summary_that_is_too_long_is_cut_with_a_mark(face, store, length):
    view = make_view(store.history("s"), RunnableLambda(lambda _: "word " * length), trigger=("tokens", 1500))
    fill(face, view, 50)
    text = face.summary(view).text
    assert text.endswith(" […]")
    assert LONGEST * 0.8 < count([AIMessage(text)]) <= LONGEST


def test_errors_do_not_tell_the_conversation(face, store, caplog):
    view = make_view(store.history("s"), RecordingSummarizer(itertools.repeat("raise")), on_summary_error="raise")
    with pytest.raises(SummaryError) as caught:
        fill(face, view, 10)
    assert isinstance(caught.value.__cause__, FaultError)
    assert "secret" not in str(caught.value) + caplog.text
    assert "FaultError" in caplog.text


def test_an_event_handler_that_fails_fails_no_turn(face, store, caplog):
    def broken(event):
        raise RuntimeError

    view = make_view(store.history("s"), RecordingSummarizer(), on_event=broken)
    fill(face, view, 10)
    assert face.summary(view)
    assert "on_event failed" in caplog.text


def test_events_say_what_happened(face, store):
    events = []
    view = make_view(store.history("s"), RecordingSummarizer(["raise"]), on_event=events.append)
    fill(face, view, 14)
    assert [event.kind for event in events if event.kind != "trimmed"][:2] == ["failed", "summarized"]
    failed = next(event for event in events if event.kind == "failed")
    done = [event for event in events if event.kind == "summarized"]
    assert isinstance(failed.error, FaultError)
    assert done[0].session_id == "s"
    assert sum(event.messages for event in done) == face.summary(view).covered


# Time.


class Waiting(Summarizer):
    """Waits until it is let go, and counts who waits."""

    def __init__(self):
        self.begun, self.let_go = threading.Event(), threading.Event()
        self.calls = 0

    def summarize(self, summary, messages, max_tokens):
        self.calls += 1
        self.begun.set()
        assert self.let_go.wait(20)
        return "done"

    async def asummarize(self, summary, messages, max_tokens):
        self.calls += 1
        self.begun.set()
        while not self.let_go.is_set():  # noqa: ASYNC110  # the sync face waits for it too
            await asyncio.sleep(0.001)
        return "done"


def test_a_slow_summarizer_does_not_hold_up_a_turn(face, store):
    summarizer = Waiting()
    events = []
    view = make_view(store.history("s"), summarizer, timeout=0.05, on_event=events.append)
    fill(face, view, 9)
    assert isinstance(events[0].error, TimeoutError)
    assert summarizer.calls == 1
    assert (face.stats(view).failures, face.summary(view), store.count("s")) == (1, None, 18)
    summarizer.let_go.set()
    fill(face, view, 4, start=9)
    assert face.summary(view).text == "done"


def test_without_a_timeout_no_thread_is_started(store):
    threads = set()

    class Looking(Summarizer):
        def summarize(self, summary, messages, max_tokens):
            threads.add(threading.current_thread())
            return "x"

    fill(Face(), make_view(store.history("s"), Looking(), timeout=None), 10)
    assert threads == {threading.main_thread()}


def test_one_call_at_a_time_for_a_session(store):
    """Handles of other turns on the session do not wait, and do not call."""
    summarizer = Waiting()
    first = make_view(store.history("s"), summarizer)
    store.append("s", [m for n in range(9) for m in turn(n)])
    thread = threading.Thread(target=first.add_messages, args=[turn("a")])
    thread.start()
    assert summarizer.begun.wait(20)
    second = make_view(store.history("s"), summarizer)
    second.add_messages(turn("b"))
    assert not second.compact()
    assert summarizer.calls == 1
    summarizer.let_go.set()
    thread.join()
    assert first.summary.text == "done"
    assert store.count("s") == 22


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_is_not_waiting_for_its_parents_summary(store):
    summarizer = Waiting()
    view = make_view(store.history("s"), summarizer, mode="background")
    fill(Face(), view, 12)
    assert summarizer.begun.wait(20)
    child = os.fork()
    if not child:
        summarizer.let_go.set()
        os._exit(0 if view.compact(force=True) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    summarizer.let_go.set()
    assert view.flush(20)


async def test_a_cancelled_turn_is_stored_and_frees_the_session(store):
    summarizer = Waiting()
    view = make_view(store.history("s"), summarizer)
    store.append("s", [m for n in range(9) for m in turn(n)])
    task = asyncio.create_task(view.aadd_messages(turn("a")))
    while not summarizer.begun.is_set():  # noqa: ASYNC110  # as above
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.count("s") == 20
    assert await view.aget_summary() is None
    summarizer.let_go.set()
    assert await view.acompact()


def test_background(face, store):
    """An addition does not wait; after `flush` all is as if it had."""
    summarizer = Waiting()
    view = make_view(store.history("s"), summarizer, mode="background")
    fill(face, view, 12)
    while not summarizer.begun.is_set():
        face.call_later(lambda: None)
    assert face.summary(view) is None
    assert not face.run(view, "flush", 0.01)
    assert summarizer.calls == 1
    summarizer.let_go.set()
    assert face.run(view, "flush", 20)
    assert face.summary(view).text == "done"
    check_view(face.messages(view), store.read("s"))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=conversations(max_turns=12), schedule=st.lists(st.sampled_from(FAULTS), max_size=6))
def test_the_modes_agree_and_so_do_sync_and_async_and_a_restart(batches, schedule):
    views = {}
    for name in ("inline", "background", "restart"):
        mode = "inline" if name == "restart" else name
        store, summarizer = MemoryStore(), RecordingSummarizer(schedule)
        view = make_view(store.history("s"), summarizer, mode=mode)
        for batch in batches:
            _ = view.messages
            view.add_messages(batch)
            view.flush()
            if name == "restart" and not schedule:
                view = make_view(in_another_process(store).history("s"), summarizer)
        views[name] = view.messages

    async def main():
        view = make_view(MemoryStore().history("s"), RecordingSummarizer(schedule))
        for batch in batches:
            await view.aget_messages()
            await view.aadd_messages(batch)
        return await view.aget_messages()

    views["async"] = asyncio.run(main())
    if schedule:
        del views["restart"]
    assert all(view == views["inline"] for view in views.values())


def test_manual(face, store):
    view = make_view(store.history("s"), RecordingSummarizer(), mode="manual")
    fill(face, view, 20)
    assert face.summary(view) is None
    assert face.run(view, "compact")
    assert face.summary(view).covered > 0
    assert not face.run(view, "compact")
    fill(face, view, 1, start=20)
    assert face.run(view, "compact", force=True)


# Size.


def test_one_turn_larger_than_the_budget_is_shown_whole(face, store):
    view = make_view(store.history("s"), RecordingSummarizer())
    fill(face, view, 5)
    large = make_turn(random.Random(1), 99, tools=3, size=2000)
    face.add(view, large)
    shown = face.messages(view)
    assert split(shown)[2] == large
    fill(face, view, 3, start=5)
    check_view(face.messages(view), store.read("s"))
    assert face.stats(view).failures == 0


def test_a_message_too_large_for_one_call_is_clipped_and_the_rest_is_shown(face, store):
    summarizer = RecordingSummarizer()
    view = make_view(store.history("s"), summarizer)
    face.add(view, [HumanMessage("begin " + "x" * 50_000 + " end"), AIMessage("short")])
    fill(face, view, 4)
    clipped = next(text for text in summarizer.seen if text.startswith("begin"))
    assert clipped.endswith(" end")
    assert "characters omitted" in clipped
    assert count([HumanMessage(clipped)]) <= TRIGGER
    assert "short" in summarizer.seen


def test_a_turn_too_large_for_one_call_goes_in_several(face, store):
    summarizer = RecordingSummarizer()
    view = make_view(store.history("s"), summarizer)
    long = make_turn(random.Random(3), 7, tools=30, size=200)
    face.add(view, long)
    fill(face, view, 6)
    assert [text for text in summarizer.seen if "-7-" in text] == [m.content for m in long]
    assert face.stats(view).calls >= 3


def test_a_backlog_of_a_hundred_thousand_messages(store):
    """A read costs what it shows, a call takes what fits, and every message is shown once."""
    face = Face()
    reads = counting_reads(store)
    store.append("s", [m for n in range(50_000) for m in turn(n, 4)])
    summarizer = RecordingSummarizer()
    options = {"trigger": ("tokens", 20_000), "keep": ("tokens", 5000), "max_summary_tokens": 1000}
    view = make_view(store.history("s"), summarizer, mode="manual", timeout=None, **options)
    shown = face.messages(view)
    assert TRIGGER * 30 < count(shown) <= 20_000
    assert max(reads) < 5000
    face.add(view, turn("new"))
    assert face.run(view, "compact")
    summary = face.summary(view)
    assert summary.covered > 97_000
    assert summarizer.seen == [m.content for n in range(50_000) for m in turn(n, 4)][: summary.covered]
    assert summary.calls < 60
    assert max(reads) < 5000
    del reads[:]
    face.messages(view)
    face.add(view, turn("newer"))
    assert sum(reads) < 8000


def test_a_turn_makes_no_further_calls_after_its_time(face, store, monkeypatch):
    clock = itertools.count(step=10)
    monkeypatch.setattr(_clock, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    store.append("s", [m for n in range(100) for m in turn(n)])
    summarizer = RecordingSummarizer()
    view = make_view(store.history("s"), summarizer, timeout=100)
    fill(face, view, 1, start=100)
    calls = face.stats(view).calls
    assert 1 < calls < 6
    fill(face, view, 1, start=101)
    assert face.stats(view).calls > calls
    assert len(set(summarizer.seen)) == len(summarizer.seen)


@settings(max_examples=40, deadline=None)
@given(st.integers(300, 5000), st.integers(50, 2000), st.integers(40, 400), st.integers(1, 300), st.booleans())
def test_cost_is_bounded_whatever_the_sizes(trigger, keep, longest, size, pinned):
    """The summarizer reads at most twice the transcript, its prompt and the summaries included, or is refused."""
    store = MemoryStore()
    model = RunnableLambda(lambda _: "word " * 4000)
    prompt = "Notes: {summary} {messages}" + "x" * 100
    try:
        view = make_view(
            store.history("s"),
            model,
            trigger=("tokens", trigger),
            keep=("tokens", keep),
            max_summary_tokens=longest,
            prompt=prompt,
            timeout=None,
        )
    except ConfigurationError:
        assert trigger < keep + 2 * longest + 160
        return
    if pinned:
        view.add_messages([SystemMessage("x" * trigger * 2)])
    rng = random.Random(size)
    for number in range(60):
        view.add_messages(turn(number, rng.randrange(size)))
    read, said = view.stats.tokens_in, count(view.transcript())
    # What the rendering of a message adds to it is the prompt's and not the summaries'.
    rendering = sum(len("<human></human>\n") // 4 + 1 for _ in view.transcript())
    assert read <= 2 * said + rendering + longest


def test_cost_is_bounded_when_the_system_message_alone_is_too_large(store):
    """Every view is too large then; a summary for each turn would cost more than it saves."""
    model = RunnableLambda(lambda _: "word " * 40)
    view = make_view(store.history("s"), model, trigger=("tokens", 1000), prompt="{summary} {messages}" + "x" * 400)
    view.add_messages([SystemMessage("x" * 8000)])
    for number in range(200):
        view.add_messages(turn(number))
    assert view.stats.calls < 80
    assert view.stats.tokens_in <= 2 * count(view.transcript()[1:]) + 1000
    assert view.messages[-2:] == turn(199)


def test_cost_at_the_defaults(store):
    """At most 1.3 times the transcript, with a model that fills three quarters of what it may."""
    words = "The customer Maria Alvarez prefers the blue model and pays by card at the end of each month. "
    model = RunnableLambda(lambda _: (words * 40)[: 650 * 3])
    view = SummarizingChatMessageHistory(store.history("s"), model, timeout=None)
    for number in range(300):
        _ = view.messages
        view.add_messages([HumanMessage(f"{number}: {words * 2}"), AIMessage(f"{number}: {words * 4}")])
    said = count_tokens(view.transcript())
    stats = view.stats
    assert stats.tokens_in <= 1.3 * said
    assert stats.calls <= said / (4000 - 1300 - 650) + 1
    assert stats.net > 0.5 * stats.tokens_saved > 0


def test_a_short_conversation_shows_its_loss(face, store):
    model = RunnableLambda(lambda _: "a summary")
    view = make_view(store.history("s"), model, mode="manual", prompt="{summary} {messages}" + "x" * 100)
    fill(face, view, 3)
    assert face.run(view, "compact", force=True)
    stats = face.stats(view)
    assert stats.net == -stats.tokens_in - stats.tokens_out < 0


def test_stats_outlive_the_process(face, store):
    model = RunnableLambda(lambda _: "a summary")
    options = {"prompt": "{summary} {messages}"}
    view = make_view(store.history("s"), model, **options)
    fill(face, view, 30)
    stored = make_view(in_another_process(store).history("s"), model, **options)
    ours, theirs = face.stats(view), face.stats(stored)
    assert (ours.calls, ours.tokens_in, ours.tokens_out) == (theirs.calls, theirs.tokens_in, theirs.tokens_out)
    assert ours.calls > 2
    assert 0 < theirs.tokens_saved <= ours.tokens_saved


def test_doubling_makes_the_summary_from_the_messages(face, store):
    summarizer = RecordingSummarizer()
    view = make_view(store.history("s"), summarizer, rebuild="doubling")
    fill(face, view, 60)
    first = [text for text in summarizer.seen if text.startswith("question 0 ")]
    assert 3 <= len(first) <= 6, "shown again whenever twice as much is covered"
    summary = face.summary(view)
    assert [m.content for m in store.read("s")[: summary.covered]] == list(summarizer.covered_by(summary))


# What is shown.


def test_system_messages_at_the_beginning_are_pinned(face, store):
    summarizer = RecordingSummarizer()
    view = make_view(store.history("s"), summarizer)
    pinned = [SystemMessage("Be kind."), SystemMessage([{"type": "text", "text": "Be brief."}])]
    face.add(view, pinned)
    fill(face, view, 30)
    shown = face.messages(view)
    assert shown[:2] == pinned
    assert isinstance(shown[2], HumanMessage)
    assert "Be kind." not in summarizer.seen
    fresh = make_view(in_another_process(store).history("s"), summarizer)
    assert face.messages(fresh) == shown


def test_thinking_of_finished_turns_is_not_shown_behind_a_summary(face, store):
    view = make_view(store.history("s"), RecordingSummarizer())
    thought = AIMessage([{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "answer"}])
    fill(face, view, 9)
    face.add(view, [HumanMessage("old"), thought])
    face.add(view, [HumanMessage("new"), thought])
    assert face.summary(view)
    tail = face.messages(view)[-4:]
    assert [m.content for m in tail] == ["old", [{"type": "text", "text": "answer"}], "new", thought.content]
    assert store.read("s")[-3] == thought


def test_an_answer_to_a_call_that_was_given_up_is_not_shown_alone(face, store):
    view = make_view(store.history("s"), RecordingSummarizer(), mode="manual")
    call = AIMessage("", tool_calls=[{"name": "t", "args": {}, "id": "late"}])
    face.add(view, [HumanMessage("q"), call, *turn(1), *turn(2), *turn(3)])
    assert face.run(view, "compact", force=True)
    face.add(view, [ToolMessage("at last", tool_call_id="late")])
    assert face.messages(view)[1:] == [*turn(2), *turn(3)], "but what is valid is"
    window = WindowedChatMessageHistory(store.history("s"), keep=("turns", 1))
    answer = ToolMessage("at last", tool_call_id="late")
    assert face.messages(window) == [HumanMessage("q"), call, answer, *turn(1), *turn(2), *turn(3)]
    assert store.read("s")[-1].content == "at last"


def test_a_call_of_the_turn_before_is_waited_for(face, store):
    """Its answer may still come: no cut between them while it is the newest."""
    view = make_view(store.history("s"), RecordingSummarizer(), mode="manual")
    call = AIMessage("", tool_calls=[{"name": "t", "args": {}, "id": "c"}])
    face.add(view, [HumanMessage("first " + "x" * 400), call, HumanMessage("second " + "x" * 1200)])
    assert not face.run(view, "compact", force=True)
    face.add(view, [AIMessage("done"), *turn(3)])
    assert face.run(view, "compact", force=True)


def test_a_summary_of_a_newer_release_is_not_touched(face, store):
    store.put_state("s", {"lh:summary": {"v": 2, "anything": 1}})
    view = make_view(store.history("s"), RecordingSummarizer())
    with pytest.raises(ConfigurationError, match="version 2"):
        face.messages(view)
    face.add(view, [m for n in range(20) for m in turn(n)])
    assert store.get_state("s") == {"lh:summary": {"v": 2, "anything": 1}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", None),
        ("covered", "many"),
        ("covered", -1),
        ("text", None),
        ("anchor", []),
        ("anchor", [1]),
        ("anchor", "id"),
        ("position", 5),
        ("pinned", [5]),
        ("pinned", [{"type": "nobody", "data": {}}]),
        ("tokens_in", None),
    ],
)
def test_an_unreadable_summary_is_an_absent_one_where_corrupt_records_are_skipped(face, name, value):
    """It is kept until it is made anew, and no turn asks a model for one that cannot be stored."""
    store = MemoryStore()
    fill(face, make_view(store.history("s"), RecordingSummarizer()), 12)
    state = store.get_state("s")
    state = {"mine": 1, "lh:summary": {**state["lh:summary"], name: value}}
    if name == "v":
        del state["lh:summary"]["v"], state["lh:summary"]["text"]
    store.put_state("s", state)
    strict = make_view(store.history("s"), RecordingSummarizer())
    with pytest.raises(CorruptRecordError, match="summary in the state cannot be read"):
        face.messages(strict)
    assert not face.run(strict, "rebuild")
    view = make_view(MemoryStore(client=store.client, on_corrupt="skip").history("s"), RecordingSummarizer())
    _, summary, tail = check_view(face.messages(view), store.read("s"))
    assert not summary
    assert tail
    assert face.summary(view) is None
    assert face.run(view, "coverage").covered == 0
    fill(face, view, 3, start=12)
    assert view.summarizer.seen == []
    assert store.get_state("s") == state
    assert face.run(view, "rebuild")
    assert store.get_state("s").keys() == {"mine", "lh:summary"}
    covered = face.summary(view).covered
    assert [m.content for m in store.read("s")[:covered]] == list(view.summarizer.covered_by(face.summary(view)))


def test_a_summary_that_saves_nothing_can_be_read(face, store):
    fill(face, make_view(store.history("s"), RecordingSummarizer()), 12)
    store.update_state("s", lambda state: {"lh:summary": {**state["lh:summary"], "tokens_saved": -5}})
    assert face.summary(make_view(store.history("s"), RecordingSummarizer())).tokens_saved == -5


def test_a_summary_whose_key_is_lost(face):
    """The conversation could not be read at all, not even with `on_corrupt="skip"`."""

    class Key:
        def __init__(self, key):
            self.key = key

        def encode(self, text):
            return self.key + text

        def decode(self, text):
            if not text.startswith(self.key):
                raise ValueError
            return text[1:]

    memory = MemoryStore()
    old, new = (MemoryStore(client=memory.client, codec=Key(key), on_corrupt="skip") for key in "AB")
    fill(face, make_view(old.history("s"), RecordingSummarizer()), 12)
    view = make_view(new.history("s"), RecordingSummarizer())
    assert face.messages(view) == []
    fill(face, view, 3, start=20)
    assert face.messages(view) == [m for n in range(20, 23) for m in turn(n)]
    assert face.summary(make_view(old.history("s"), RecordingSummarizer())).covered, "when the key is found"
    fill(face, view, 9, start=23)
    assert face.run(view, "rebuild")
    assert face.summary(view).covered
    check_view(face.messages(view), new.read("s"))


def test_a_program_that_only_adds_does_not_read_each_time(face, store):
    reads = counting_reads(store)
    view = make_view(store.history("s"), RecordingSummarizer())
    for number in range(60):
        face.add(view, turn(number))
    assert len(reads) < 50
    assert face.summary(view).covered > 100


def test_turns_that_overlap_are_not_cut_apart(face, store):
    """Two turns at once, saved step by step: a call of the first is answered after the second began."""
    call = AIMessage("", tool_calls=[{"name": "t", "args": {}, "id": "c"}])
    overlapping = [
        HumanMessage("a"),
        call,
        HumanMessage("b"),
        ToolMessage("x" * 300, tool_call_id="c"),
        AIMessage("b!"),
    ]
    view = make_view(store.history("s"), RecordingSummarizer(), mode="manual")
    face.add(view, [*turn(0), *overlapping, *turn(1)])
    for keep in range(1, 4):
        shown = face.messages(WindowedChatMessageHistory(store.history("s"), keep=("turns", keep)))
        check_view(shown, store.read("s"))
    assert face.run(view, "compact", force=True)
    assert face.summary(view).covered in (2, 7)
    check_view(face.messages(view), store.read("s"))


# Options.


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"trigger": ("tokens", 1000), "keep": ("tokens", 900)}, "at least"),
        ({"trigger": ("tokens", 100)}, "at least 270"),
        ({"trigger": ("messages", 10), "keep": ("messages", 8)}, "at least 13"),
        ({"trigger": ("messages", 50)}, "unit in common"),
        ({"trigger": [("messages", 50), ("tokens", 4000)]}, "unit in common"),
        ({"trigger": ("words", 10)}, "unknown unit 'words'"),
        ({"trigger": ("tokens", "many")}, "whole number"),
        ({"trigger": ("tokens", True)}, "whole number"),
        ({"trigger": ("tokens", 0)}, "whole number"),
        ({"trigger": []}, "trigger"),
        ({"trigger": 269}, "at least 270"),
        ({"trigger": "4000"}, "trigger must be a size"),
        ({"trigger": ("turns", 5), "keep": ("turns", 3)}, "at least 6 turns"),
        ({"trigger": ("fraction", 0.5)}, "max_input_tokens"),
        ({"trigger": ("fraction", 1.5)}, "at most 1"),
        ({"keep": {"tokens": 10, "messages": 3}}, "unit in common: keep is in tokens, messages"),
        ({"max_summary_tokens": 19}, "at least 20"),
        ({"max_summary_tokens": "long"}, "max_summary_tokens"),
        ({"mode": "later"}, "mode must be one of inline, background, manual"),
        ({"summary_role": "ai"}, "summary_role"),
        ({"rebuild": "always"}, "rebuild"),
        ({"on_summary_error": "ignore"}, "on_summary_error"),
        ({"on_summary_error": "raise", "mode": "background"}, "nobody"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "30"}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"on_event": "print"}, "on_event"),
        ({"token_counter": "words"}, "token_counter"),
        ({"prompt": "{messages} {summary}"}, "prompt is for a model"),
    ],
)
def test_bad_options_are_refused_before_anything_is_done(store, options, match):
    with pytest.raises(ConfigurationError, match=match):
        make_view(store.history("s"), RecordingSummarizer(), **options)


def test_what_cannot_be_wrapped(store):
    with pytest.raises(ConfigurationError, match="no chat message history"):
        make_view(object(), RecordingSummarizer())
    with pytest.raises(ConfigurationError, match="has no place for a summary"):
        make_view(Foreign(), RecordingSummarizer())
    with pytest.raises(ConfigurationError, match="keeps it itself"):
        make_view(store.history("s"), RecordingSummarizer(), state=store.history("t"))
    with pytest.raises(ConfigurationError, match="last=2"):
        make_view(store.history("s", last=2), RecordingSummarizer())
    with pytest.raises(ConfigurationError, match="view itself"):
        make_view(WindowedChatMessageHistory(store.history("s")), RecordingSummarizer())
    with pytest.raises(ConfigurationError, match="model must be"):
        make_view(store.history("s"), 42)


@pytest.mark.parametrize(
    ("trigger", "largest"),
    [
        (("messages", 20), 20),
        ([("messages", 20), {"messages": 30, "tokens": 10}], 20),
        ({"messages": 20, "tokens": 1}, 20),
    ],
)
def test_sizes_in_messages(face, store, trigger, largest):
    view = make_view(store.history("s"), RecordingSummarizer(), trigger=trigger, keep=("messages", 8))
    sizes = set()
    for number in range(40):
        sizes.add(len(face.messages(view)))
        face.add(view, turn(number))
    assert max(sizes) in (largest, largest - 1)
    assert face.summary(view).covered >= 60


def test_a_share_of_the_models_context(store):
    model = FakeListChatModel(responses=["x"])
    model.profile = {"max_input_tokens": 10_000}
    view = SummarizingChatMessageHistory(store.history("s"), model, trigger=("fraction", 0.8), keep=("fraction", 0.2))
    assert view._trigger.clauses == ({"tokens": 8000},)
    assert view._reader.keep.clauses == ({"tokens": 2000},)
    window = WindowedChatMessageHistory(store.history("s"), keep=("fraction", 0.2), model=model)
    assert window._keep.clauses == ({"tokens": 2000},)


MODEL = FakeListChatModel(responses=["notes of the conversation " * 5])


@pytest.mark.parametrize(
    "model", [MODEL, "extractive", lambda messages: "notes " * 40], ids=["model", "none", "function"]
)
@pytest.mark.parametrize(
    ("trigger", "follows"),
    [
        (1000, ({"tokens": 333}, 166)),
        (4000, ({"tokens": 1333}, 666)),
        (100_000, ({"tokens": 33_333}, 2000)),
        (("messages", 40), ({"messages": 13}, 650)),
        (("turns", 30), ({"turns": 10}, 650)),
        ({"tokens": 4000, "messages": 40}, ({"tokens": 1333, "messages": 13}, 666)),
    ],
)
def test_what_is_not_given_follows_from_the_trigger(face, store, model, trigger, follows):
    keep, longest = follows
    view = SummarizingChatMessageHistory(store.history("s"), model, trigger=trigger)
    assert view._reader.keep.clauses == (keep,)
    assert view._writer.max_tokens == longest
    if trigger != 100_000:
        fill(face, view, 70, size=300)
        assert face.summary(view)
        assert not face.run(view, "coverage").trimmed
        shown = Size(count_tokens(face.messages(view)), len(face.messages(view)), 0)
        assert trigger == ("turns", 30) or not view._trigger.exceeded(shown)


@pytest.mark.parametrize("model", [MODEL, "extractive"], ids=["model", "none"])
@pytest.mark.parametrize("unit", ["tokens", "messages", "turns"])
def test_each_trigger_works_or_the_smallest_that_does_is_named(store, model, unit):
    """From 1 upwards; a model's prompt alone takes about 150 tokens."""

    def made(number, **options):
        return SummarizingChatMessageHistory(store.history("s"), model, trigger=(unit, number), **options)

    for options in ({}, {"max_summary_tokens": 100}):
        number, smallest = 1, None
        while smallest is None:
            try:
                view = made(number, **options)
            except ConfigurationError as error:
                named = int(str(error).partition("at least ")[2].split()[0])
                assert named > number
                number += 1
            else:
                smallest = number
                assert named == number
        view.add_messages([m for n in range(80) for m in turn(n, 0)])
        assert not view._trigger.exceeded(size_of(view.messages, count_tokens))
        if unit == "tokens" and not options:
            assert (440 < smallest < 460) if model is MODEL else (smallest < 65)
        view.clear()


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 10**9])
def test_no_time_is_too_long(face, store, timeout):
    view = make_view(store.history("s"), RecordingSummarizer(), timeout=timeout)
    fill(face, view, 8)
    assert face.summary(view)


# The model.


def test_a_chat_model_writes_the_summary(face, store):
    model = FakeListChatModel(responses=["the first notes", "the second notes"])
    view = make_view(store.history("s"), model, trigger=("tokens", 900))
    fill(face, view, 40, size=100)
    assert face.summary(view).text in model.responses
    text = split(face.messages(view))[1][0].content
    assert "notes\n</summary>" in text


async def test_no_token_of_a_summary_is_in_the_users_stream(store):
    model = GenericFakeChatModel(messages=itertools.cycle([AIMessage("summary-words here")]))
    view = make_view(store.history("s"), model, trigger=("tokens", 900))

    async def respond(text):
        view.add_messages(turn(text, 300))
        await view.aadd_messages(turn(text, 300))
        return "answer"

    seen = []
    for number in range(12):
        seen += [event async for event in RunnableLambda(respond).astream_events(str(number), version="v2")]
    assert (await view.aget_stats()).calls > 2
    assert "summary-words" not in str(seen)
    assert {event["name"] for event in seen} == {"respond"}


def test_a_store_that_fails_after_the_turn_is_stored_fails_no_turn(face, store):
    events = []
    view = make_view(store.history("s"), RecordingSummarizer(), on_event=events.append)

    async def down(*_, **__):
        raise ConnectionError

    fill(face, view, 6)
    face.messages(view)
    read, store.operations.get_state = store.operations.get_state, down
    for number in range(6, 10):
        face.add(view, turn(number))
    assert any(isinstance(event.error, StoreUnavailableError) for event in events)
    with pytest.raises(StoreUnavailableError):
        face.messages(view)
    store.operations.get_state = read
    fill(face, view, 8, start=10)
    assert face.summary(view).covered
    assert store.count("s") == 36


def test_a_killed_process_leaves_a_session_that_another_goes_on_with(tmp_path):
    """Whatever was being written: files, and real processes' leftovers."""
    with FileStore(f"file:{tmp_path}") as store:
        view = make_view(store.history("s"), RecordingSummarizer(["kill"]))
        with pytest.raises(KilledError):
            fill(Face(), view, 12)
    with FileStore(f"file:{tmp_path}") as store:
        view = make_view(store.history("s"), RecordingSummarizer())
        assert [info.session_id for info in store.sessions()] == ["s"]
        fill(Face(), view, 12, start=50)
        check_view(view.messages, store.read("s"))
        assert view.summary


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("killed_at", range(1, 14))
def test_a_process_killed_at_any_step(face, store, killed_at, when):
    """Before or after each operation of the turn that makes a summary."""
    summarizer = RecordingSummarizer()
    view = make_view(store.history("s"), summarizer)
    fill(face, view, 7)
    steps = itertools.count(1)

    def dying(operation):
        async def run(*args, **where):
            step = next(steps)
            if step == killed_at and when == "before":
                raise KilledError
            result = await operation(*args, **where)
            if step == killed_at:
                raise KilledError
            return result

        return run

    names = ("append", "read", "get_state", "put_state", "count")
    unharmed = {name: getattr(store.operations, name) for name in names}
    for name in names:
        setattr(store.operations, name, dying(unharmed[name]))
    with contextlib.suppress(KilledError):
        fill(face, view, 1, start=7)
    for name in names:
        setattr(store.operations, name, unharmed[name])
    assert store.count("s") in (14, 16), "the turn is there, or it is not"
    survivor = make_view(in_another_process(store).history("s"), summarizer)
    check_view(face.messages(survivor), store.read("s"))
    fill(face, survivor, 8, start=8)
    summary = face.summary(survivor)
    assert [m.content for m in store.read("s")[: summary.covered]] == list(summarizer.covered_by(summary))


# What a process knows of a session.


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("memory://", None),
        ("file://{folder}/a", "file://{folder}/b"),
        ("sqlite:///{folder}/a.db", "sqlite:///{folder}/b.db"),
        ("redis://127.0.0.1:1", "redis://127.0.0.1:1/1"),
    ],
)
def test_handles_of_one_session_know_the_same(tmp_path, url, other):
    def known(url, session_id, **options):
        history = open_history(url.format(folder=tmp_path), session_id, **options)
        return make_view(history, "extractive")._session

    assert known(url, "1") is known(url, "1", before_save=lambda message: message)
    assert known(url, "1") is not known(url, "2")
    if other:
        assert known(url, "1") is not known(other, "1")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://127.0.0.1:1", {"key_prefix": "other:"}),
        ("upstash://:token@127.0.0.1:1", {"key_prefix": "other:"}),
        ("sqlite:///{folder}/a.db", {"table_name": "other"}),
        ("mongodb://127.0.0.1:1", {"collection_name": "other"}),
    ],
)
def test_sessions_of_one_name_in_two_places_are_two(tmp_path, url, options):
    one, other = (
        make_view(open_history(url.format(folder=tmp_path), "1", **more), "extractive") for more in ({}, options)
    )
    assert one._session is not other._session


@pytest.mark.parametrize("make", [InMemoryChatMessageHistory, lambda: MemoryStore().history("1")])
def test_a_memory_is_not_kept_alive_by_what_is_known_of_its_sessions(make):
    own = make()
    memory = weakref.ref(own.store.client)
    view = make_view(own, "extractive")
    assert view._session is make_view(own, "extractive")._session
    del own, view
    gc.collect()
    assert memory() is None


# By config.


def test_summaries_by_config(tmp_path):
    config = tmp_path / "histories.toml"
    config.write_text(
        """
[histories.support]
url = "memory://"
[histories.support.summarize]
model = "extractive"
trigger = { tokens = 400 }
keep = { tokens = 100 }
max_summary_tokens = 80
"""
    )
    registry = HistoryRegistry.from_config(config)
    for number in range(30):
        history = registry.get_session_history("42")
        assert history.messages == history.messages
        history.add_messages(turn(number))
    view = registry.history("42")
    assert isinstance(view, SummarizingChatMessageHistory)
    assert view.summary.covered > 20
    assert len(view.transcript()) == 60 == registry.store().count("42")
    assert split(registry.factory("support")("42").messages)[1]


def test_the_handles_of_a_session_share_its_pauses():
    registry = HistoryRegistry.from_config(
        {
            "histories": {
                "s": {
                    "url": "memory://",
                    "summarize": {
                        "model": RecordingSummarizer(itertools.repeat("raise")),
                        "trigger": ("tokens", TRIGGER),
                        "keep": ("tokens", KEEP),
                        "max_summary_tokens": LONGEST,
                    },
                }
            }
        }
    )
    for number in range(30):
        history = registry.get_session_history("42")
        _ = history.messages
        history.add_messages(turn(number))
    assert 2 <= registry.history("42").stats.failures <= 4


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"model": "extractive", "triger": 1}, "did you mean 'trigger'"),
        ({"trigger": {"tokens": 4000}}, "summarize.model: is missing"),
        ({"model": "extractive", "keep": {"tokens": 4000}}, "histories.s: trigger"),
        ({"model": "nobody:nothing"}, "nobody:nothing"),
        ({"model": "extractive", "state": "x"}, "unknown option 'state'"),
        (5, "model must be"),
        ({}, "summarize: is missing, or not a table"),
    ],
)
def test_a_bad_table_is_refused_when_it_is_loaded(table, match):
    with pytest.raises(ConfigurationError, match=match):
        HistoryRegistry.from_config({"histories": {"s": {"url": "memory://", "summarize": table}}})


@pytest.mark.parametrize("more", [{"last": 5}, {"window": {"turns": 5}}])
def test_only_one_says_what_is_shown(more):
    entry = {"url": "memory://", "summarize": {"model": "extractive"}, **more}
    with pytest.raises(ConfigurationError, match="last, window and summarize"):
        HistoryRegistry.from_config({"histories": {"s": entry}})
