"""What the tests of views share: both faces of a view, conversations, and a summarizer that fails as it is told."""

from __future__ import annotations

import itertools
import random

from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_histories import MemoryStore, Summarizer, SummarizingChatMessageHistory
from langchain_histories.stores.memory import Memory

TRIGGER, KEEP, LONGEST = 500, 150, 60


class Face:
    """The sync face of views, or with a runner the async one."""

    def __init__(self, runner=None):
        # Not `runner.run`, which before Python 3.12 describes each result in text that nobody sees.
        self._finish = runner and runner.get_loop().run_until_complete

    @property
    def is_async(self):
        return self._finish is not None

    def run(self, view, name, *args, **options):
        if self._finish is None:
            return getattr(view, name)(*args, **options)
        return self._finish(getattr(view, "a" + name)(*args, **options))

    def messages(self, view):
        return view.messages if self._finish is None else self._finish(view.aget_messages())

    def summary(self, view):
        return view.summary if self._finish is None else self._finish(view.aget_summary())

    def stats(self, view):
        return view.stats if self._finish is None else self._finish(view.aget_stats())

    def add(self, view, messages):
        self.run(view, "add_messages", messages)

    def call_later(self, function):
        """Run something on the loop of the async face, or at once."""
        return function() if self._finish is None else self._finish(_awaited(function))


async def _awaited(function):
    return function()


def count(messages):
    """A counter that is easy to follow: four tokens a message, and one for every four characters."""
    return sum(4 + len(str(m.content)) // 4 + 8 * len(getattr(m, "tool_calls", ())) for m in messages)


class FaultError(Exception):
    """What a summarizer raises."""


class KilledError(BaseException):
    """The end of the process."""


class RecordingSummarizer(Summarizer):
    """Names each summary and remembers which messages it stands for; fails as the schedule says.

    `seen` is every message it was ever shown, in order; `covers` the messages behind the text of a summary.
    """

    def __init__(self, schedule=()):
        self.schedule = iter(schedule)
        self.seen = []
        self.batches = []
        self.covers = {"": ()}
        self.numbers = itertools.count(1)

    def summarize(self, summary, messages, max_tokens):
        fault = next(self.schedule, "ok")
        if fault == "raise":
            raise FaultError("secret words of the conversation")
        if fault == "kill":
            raise KilledError
        if fault == "late":
            raise TimeoutError
        if fault in ("empty", "blank", "object"):
            return {"empty": "", "blank": AIMessage(" \n\t"), "object": {"text": "x"}}[fault]
        self.batches.append(messages)
        self.seen += [message.content for message in messages]
        text = f"S{next(self.numbers)}."
        if fault == "long":
            text += " word" * 10_000
        self.covers[text[:4].rstrip(" w")] = (*self.covers[summary[:4].rstrip(" w")], *(m.content for m in messages))
        return AIMessage(text)

    def covered_by(self, summary):
        return self.covers["" if summary is None else summary.text[:4].rstrip(" w")]


def make_turn(rng, number, *, tools, dangling=False, size=40):
    """One turn: a question, calls of tools, some at once and answered out of order, and an answer."""
    words = itertools.count()

    def text(kind):
        return f"{kind}-{number}-{next(words)} " + "x" * rng.randrange(size)

    turn = [HumanMessage(text("human"))]
    for step in range(tools):
        ids = [f"call-{number}-{step}-{i}" for i in range(rng.randrange(1, 4))]
        turn.append(AIMessage(text("ai"), tool_calls=[{"name": "t", "args": {}, "id": i} for i in ids]))
        if dangling and step == tools - 1:
            return turn
        turn += [ToolMessage(text("tool"), tool_call_id=i) for i in rng.sample(ids, len(ids))]
    turn.append(AIMessage(text("ai")))
    return turn


@st.composite
def conversations(draw, max_turns=25):
    """Batches as programs add them: whole turns, or a turn step by step; with tools, system messages, given up calls."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    batches = []
    if draw(st.booleans()):
        batches.append([SystemMessage("Be kind.")])
    if draw(st.integers(0, 5)) == 0:
        batches.append([AIMessage("greeting: how can I help?")])
    for number in range(draw(st.integers(1, max_turns))):
        tools = rng.choice((0, 0, 1, 2))
        turn = make_turn(rng, number, tools=tools, dangling=rng.random() < 0.1, size=rng.choice((20, 80, 600)))
        if rng.random() < 0.3:
            batches += [[message] for message in turn]
        else:
            batches.append(turn)
    return batches


def counting_reads(store):
    """Have a store note how many rows each read returns, in the list that this returns."""
    read, sizes = store.operations.read, []

    async def counted(*args, **where):
        rows = await read(*args, **where)
        sizes.append(len(rows))
        return rows

    store.operations.read = counted
    return sizes


def make_view(history, summarizer, **options):
    defaults = {
        "trigger": ("tokens", TRIGGER),
        "keep": ("tokens", KEEP),
        "max_summary_tokens": LONGEST,
        "token_counter": count,
    }
    return SummarizingChatMessageHistory(history, summarizer, **{**defaults, **options})


def in_another_process(store):
    """The same data as another process sees it: with nothing remembered of its sessions."""
    memory = Memory()
    vars(memory).update(vars(store.client))
    return MemoryStore(client=memory)


def split(shown):
    """Pinned messages, summary (or none) and the rest of a view."""
    pinned = list(itertools.takewhile(lambda m: isinstance(m, SystemMessage) and not m.additional_kwargs, shown))
    rest = shown[len(pinned) :]
    summary = [m for m in rest[:1] if m.additional_kwargs.get("langchain_histories", {}).get("summary")]
    return pinned, summary, rest[len(summary) :]


def stored_of(shown):
    """The messages of a view that are stored: without the summary and stand-ins for answers."""
    return [m for m in shown if "langchain_histories" not in m.additional_kwargs]


def check_valid(messages):
    """What a provider demands: behind each call its answers, one for each, and answers nowhere else."""
    waiting = []
    for message in messages:
        if isinstance(message, ToolMessage):
            assert message.tool_call_id in waiting, "an answer stands behind its call"
            waiting.remove(message.tool_call_id)
        else:
            assert not waiting, "each call has its answer"
        if isinstance(message, AIMessage):
            waiting = [call["id"] for call in [*message.tool_calls, *message.invalid_tool_calls]]
    assert not waiting, "each call has its answer"


def check_end(tail, body):
    """`tail` is an end of `body` in which only answers were moved or left out; return how many were cut before it."""
    kept, called = stored_of(tail), set()
    start = next((i for i, m in enumerate(body) if m == kept[0]), len(body)) if kept else len(body)
    expected = []
    for message in body[start:]:
        called |= {call["id"] for call in getattr(message, "tool_calls", ())}
        if not isinstance(message, ToolMessage) or message.tool_call_id in called:
            expected.append(message)
    assert [m for m in kept if m.type != "tool"] == [m for m in expected if m.type != "tool"], "a contiguous end"
    assert sorted(map(_told, kept)) == sorted(map(_told, expected)), "each answer to a call that is shown"
    return start


def _told(message):
    # Not `str(message)`, which takes a millisecond.
    return message.type, str(message.content), getattr(message, "tool_call_id", "")


def turn(number, size=110):
    return [HumanMessage(f"question {number} " + "x" * size), AIMessage(f"answer {number} " + "x" * size)]


def fill(face, view, turns, *, start=0, size=110):
    for number in range(start, start + turns):
        face.messages(view)
        face.add(view, turn(number, size))
