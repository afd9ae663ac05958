"""`WindowedChatMessageHistory`: the newest messages, valid for every provider."""

from __future__ import annotations

import random

import pytest
from conversations import check_end, check_valid, conversations, count, counting_reads, make_turn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.chat_history import InMemoryChatMessageHistory as Foreign
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage, trim_messages

from langchain_histories import ConfigurationError, HistoryRegistry, MemoryStore, WindowedChatMessageHistory
from langchain_histories.views._repairs import repaired


@pytest.fixture
def store():
    return MemoryStore()


def size_in(unit, messages):
    if unit == "turns":
        return sum(isinstance(m, HumanMessage) for m in messages)
    return len(messages) if unit == "messages" else count(messages)


def window(history, *keep):
    return WindowedChatMessageHistory(history, keep=keep, token_counter=count)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversations(), st.sampled_from(["messages", "turns", "tokens"]), st.integers(1, 1200), st.booleans())
def test_a_window_is_valid_and_as_large_as_it_may_be(face, batches, unit, size, own):
    if unit != "tokens":
        size = size % 25 + 1
    history = MemoryStore().history("s") if own else Foreign()
    messages = [message for batch in batches for message in batch]
    history.add_messages(messages)
    shown = face.messages(window(history, unit, size))
    system = [m for m in messages[:1] if isinstance(m, SystemMessage)]
    assert shown[: len(system)] == system
    tail, body = shown[len(system) :], messages[len(system) :]
    check_valid(tail)
    start = check_end(tail, body)
    starts = [i for i, m in enumerate(body) if isinstance(m, HumanMessage)]
    assert start == 0 or start in starts
    assert size_in(unit, tail) <= size or start == starts[-1]
    where = face.run(window(history, unit, size), "coverage")
    assert where.trimmed + where.shown + where.repaired == where.stored == len(messages)
    assert (where.covered, where.trimmed) == (0, start)
    assert where.shown + where.added == len(shown)
    longer = [i for i in starts if i < start]
    assert all(size_in(unit, repaired(body[i:])) > size for i in longer), "one more turn would not fit"


@pytest.mark.parametrize("length", [0, 1, 3, 50, 400])
@pytest.mark.parametrize("unit", ["messages", "tokens"])
def test_as_trim_messages_where_that_is_right(face, store, unit, length):
    """Without tools, and when the last turn fits, both show the same."""
    rng = random.Random(length)
    messages = [SystemMessage("Be kind.")] + [m for n in range(length) for m in make_turn(rng, n, tools=0)]
    history = store.history("s")
    history.add_messages(messages)
    size = 9 if unit == "messages" else 300
    counter = len if unit == "messages" else count
    # Theirs counts the system message too.
    theirs = trim_messages(
        messages,
        max_tokens=size + counter(messages[:1]),
        token_counter=counter,
        strategy="last",
        start_on="human",
        include_system=True,
    )
    assert face.messages(window(history, unit, size)) == theirs


def test_what_trim_messages_gets_wrong(face, store):
    history = store.history("s")
    call = AIMessage("", tool_calls=[{"name": "t", "args": {}, "id": "1"}])
    history.add_messages([HumanMessage("weather?"), call, ToolMessage("x" * 400, tool_call_id="1"), AIMessage("sunny")])
    trim = {"max_tokens": 110, "token_counter": count, "strategy": "last"}
    assert isinstance(trim_messages(history.messages, **trim)[0], ToolMessage), "a result without its call"
    assert trim_messages(history.messages, start_on="human", **trim) == [], "no question"
    assert face.messages(window(history, "tokens", 110)) == history.messages


def test_a_read_costs_what_it_returns(face, store):
    reads = counting_reads(store)
    history = store.history("s")
    history.add_messages([HumanMessage("q"), AIMessage("a")] * 5000)
    assert len(face.messages(window(history, "turns", 5))) == 10
    assert len(face.messages(window(history, "messages", 10))) == 10
    assert face.messages(window(history, "tokens", 100))
    assert sum(reads) < 300


def test_a_turn_longer_than_the_window_is_shown_whole(face, store):
    history = store.history("s")
    long = make_turn(random.Random(1), 1, tools=60)
    history.add_messages([*make_turn(random.Random(2), 0, tools=0), *long])
    for keep in (("messages", 3), ("turns", 1), ("tokens", 5)):
        assert face.messages(window(history, *keep)) == long


def test_a_result_without_its_call_hides_nothing_else(face, store):
    history = store.history("s")
    history.add_messages([m for n in range(5) for m in make_turn(random.Random(n), n, tools=0)])
    history.add_messages([HumanMessage("q"), ToolMessage("r", tool_call_id="gone"), AIMessage("a")])
    shown = face.messages(window(history, "turns", 3))
    assert shown == [m for m in history.messages[-7:] if not isinstance(m, ToolMessage)]


def test_servers_that_number_the_calls_of_each_turn_anew(face, store):
    history = store.history("s")
    call = AIMessage("", tool_calls=[{"name": "t", "args": {}, "id": "0"}])
    for number in range(30):
        history.add_messages([HumanMessage(str(number)), call, ToolMessage("r", tool_call_id="0"), AIMessage("ok")])
    assert len(face.messages(window(history, "turns", 2))) == 8


def test_thinking_of_finished_turns_is_not_shown(face, store):
    thought = AIMessage([{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "answer"}])
    history = store.history("s")
    for number in range(4):
        history.add_messages([HumanMessage(str(number)), thought])
    tail = face.messages(window(history, "turns", 2))
    assert [len(m.content) for m in tail if isinstance(m, AIMessage)] == [1, 2]


def test_many_system_messages_are_pinned(face, store):
    history = store.history("s")
    system = [SystemMessage(str(number)) for number in range(20)]
    history.add_messages([*system, *[m for n in range(50) for m in make_turn(random.Random(n), n, tools=0)]])
    assert face.messages(window(history, "turns", 2))[:-4] == system


def test_the_greeting_of_a_bot_is_shown(face, store):
    history = store.history("s")
    assert face.messages(window(history, "turns", 2)) == []
    greeting = [SystemMessage("s"), AIMessage("hello")]
    history.add_messages(greeting)
    assert face.messages(window(history, "turns", 2)) == greeting
    assert face.messages(window(history, "tokens", 2)) == greeting, "the newest turn is shown whole"
    strict = WindowedChatMessageHistory(history, first="human")
    assert face.messages(strict) == [SystemMessage("s")]
    assert face.run(strict, "coverage").repaired == 1
    history.add_messages([HumanMessage("q"), AIMessage("a")])
    assert face.messages(window(history, "turns", 1)) == [*greeting, HumanMessage("q"), AIMessage("a")]
    assert face.messages(window(history, "messages", 2)) == [SystemMessage("s"), HumanMessage("q"), AIMessage("a")]


def test_a_chat_message_of_the_user_begins_a_turn(face, store):
    history = store.history("s")
    history.add_messages([ChatMessage("a", role="user"), AIMessage("b"), ChatMessage("c", role="user"), AIMessage("d")])
    assert [m.content for m in face.messages(window(history, "turns", 1))] == ["c", "d"]


def test_the_transcript_and_the_rest_go_through(face, store):
    view = window(store.history("s"), "turns", 1)
    for number in range(3):
        face.add(view, [HumanMessage(f"q{number}"), AIMessage(f"a{number}")])
    assert [m.content for m in face.messages(view)] == ["q2", "a2"]
    assert len(face.run(view, "transcript")) == 6
    assert str(view) == "Human: q2\nAI: a2"
    face.run(view, "clear")
    assert store.count("s") == 0
    view.add_user_message("again")
    assert [m.content for m in view.messages] == ["again"]
    with pytest.raises(NotImplementedError):
        view.messages = []


def test_over_the_handle_of_a_turn_the_first_read_is_frozen(face, store):
    registry = HistoryRegistry({"s": store})
    view = window(registry.get_session_history("s"), "turns", 3)
    assert face.messages(view) == []
    store.append("s", [HumanMessage("of another turn")])
    assert face.messages(view) == []
    face.add(view, [HumanMessage("mine"), AIMessage("answer")])
    assert len(face.messages(view)) == 3


@pytest.mark.parametrize(
    "bad",
    [
        ("turns", 0),
        ("turns", -1),
        ("turns", 1.5),
        ("words", 3),
        "turns",
        "ab",
        ("turns",),
        None,
        [],
        0,
        ("fraction", 2),
    ],
)
def test_a_bad_size_is_refused(store, bad):
    with pytest.raises(ConfigurationError, match="keep"):
        WindowedChatMessageHistory(store.history("s"), keep=bad)


def test_the_sizes_of_a_window(face, store):
    """In the words of a summary's: a number is tokens, a list has sizes of which none may be exceeded."""
    history = store.history("s")
    history.add_messages([m for n in range(300) for m in make_turn(random.Random(n), n, tools=0, size=40)])
    for keep, most in (
        (400, (400, 600, 300)),
        ([("turns", 3), 400], (400, 6, 3)),
        ([["turns", 30], 400], (400, 60, 30)),
    ):
        shown = face.messages(WindowedChatMessageHistory(history, keep=keep, token_counter=count))
        assert 0 < count(shown) <= most[0]
        assert (len(shown), len(shown) // 2) <= most[1:]
    both = WindowedChatMessageHistory(history, keep={"turns": 3, "tokens": 400}, token_counter=count)
    assert count(face.messages(both)) > 350, "all of a dict must be exceeded"


@pytest.mark.parametrize(
    "window", ["{ turns = 2 }", "{ keep = { turns = 2 } }", "['turns', 2]", "{ turns = 2, first = 'human' }"]
)
@pytest.mark.parametrize("kind", ["turn", "kept"])
def test_a_window_by_config_is_safe_with_tool_calls(face, tmp_path, window, kind):
    config = tmp_path / "histories.toml"
    config.write_text(f"[histories.s]\nurl = 'memory://'\nwindow = {window}")
    registry = HistoryRegistry.from_config(config)
    turns = [make_turn(random.Random(n), n, tools=2) for n in range(5)]
    registry.store().append("1", [m for each in turns for m in each])
    view = registry.history("1") if kind == "kept" else registry.get_session_history("1")
    assert isinstance(view, WindowedChatMessageHistory)
    check_valid(face.messages(view))
    assert [m.content for m in face.messages(view) if m.type == "human"] == [each[0].content for each in turns[-2:]]


@pytest.mark.parametrize(
    ("window", "match"),
    [
        ({"turn": 10}, "did you mean 'turns'"),
        ({"turns": 10, "keep": 100}, "keep and turns"),
        ({"turns": 0}, "keep: turns must be"),
        ({}, "window: is missing, or not a table"),
        ("turns", "keep must be a size"),
    ],
)
def test_a_bad_window_is_refused_when_it_is_loaded(window, match):
    with pytest.raises(ConfigurationError, match=match):
        HistoryRegistry.from_config({"histories": {"s": {"url": "memory://", "window": window}}})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"summarize": {"model": "extractive", "trigger": ["tokens", 4000], "keep": ["tokens", 1300]}},
        {"summarize": "extractive"},
        {"window": 4000},
    ],
)
async def test_a_config_that_gains_a_view_keeps_what_its_histories_have(options):
    registry = HistoryRegistry.from_config({"histories": {"a": {"url": "memory://", **options}}})
    for history in (registry.history("1"), registry.get_session_history("1")):
        history.clear()
        history.add_messages([HumanMessage("a"), HumanMessage("b")])
        assert (history.session_id, history.last) == ("1", None)
        assert history.store is registry.store()
        position = history.store.records("1")[0].position
        for read in (history.get_messages, history.aget_messages):
            for where, expected in ({}, "ab"), ({"last": 1}, "b"), ({"after": position}, "b"):
                found = read(**where)
                found = found if isinstance(found, list) else await found
                assert [message.content for message in found] == list(expected)


def test_a_view_of_somebody_elses_history_has_no_store():
    from langchain_core.chat_history import InMemoryChatMessageHistory as Theirs

    view = WindowedChatMessageHistory(Theirs(), keep=("messages", 2))
    assert not hasattr(view, "store")
    assert view.get_messages() == []
