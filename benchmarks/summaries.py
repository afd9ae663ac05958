"""What the summarizing view costs and keeps beside its peers, and what it adds to a turn, as markdown tables.

    python benchmarks/summaries.py [--quick]

Tokens are estimates (`langchain_histories.views.tokens`) of what each really sends. The summaries come from a stand-in
for a model which keeps each fact that it is shown, so what is findable at the end is an upper bound: it says what a
peer's code drops, and nothing about how well a real model summarizes.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import logging
import os
import platform
import random
import sys
import tempfile
import time
import warnings
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import servers  # noqa: E402  # behind the path
from contenders import conversation  # noqa: E402
from langchain_core.messages import HumanMessage  # noqa: E402
from peers_of_views import PEERS, Conversation, Notes, Ours, Replay, orphans, parts, tokens  # noqa: E402
from run import duration, interleaved  # noqa: E402

from langchain_histories import (  # noqa: E402
    RedisStore,
    SQLStore,
    StoredChatMessageHistory,
    Summarizer,
    SummarizingChatMessageHistory,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.messages import BaseMessage
    from peers_of_views import Peer

    from langchain_histories.store import MessageStore

PACKAGES = ("langchain", "langchain-core", "langchain-classic", "langmem", "langgraph", "redis", "sqlalchemy")
TURN = conversation(4)[2:]
COLUMNS = (
    "tokens to the chat model",
    "of full replay",
    "calls of the summarizer",
    "tokens to the summarizer ÷ transcript",
    "facts in the last prompt",
    "neither shown nor summarized",
    "orphaned tool results",
    "prompts without the question",
    "originals kept",
)


@dataclass
class Outcome:
    """What a conversation came to."""

    sent: int = 0
    raised: int = 0
    orphans: int = 0
    unasked: int = 0
    """Prompts without the question of their turn."""
    facts: str = ""
    """How many of those that came up are in the last prompt."""
    unknown: int = 0
    """Messages that are neither in the last prompt nor were in a prompt which the summarizer answered."""
    lost: int = 0
    """Messages that are neither in the data nor were in such a prompt."""
    kept: int = 0


def row(*cells: object) -> None:
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def header(*names: str) -> None:
    row(*names)
    print("|---" * len(names) + "|", flush=True)


def verdict(*, met: bool) -> str:
    return "yes" if met else "**no**"


def have(peer: Peer, model: Notes, talk: Conversation) -> Outcome:
    """Have the conversation with one peer, then ask it a last question, five times at most."""
    found = Outcome()
    begun: dict[str | None, BaseMessage] = {}
    for model.turn, turn in enumerate(talk.turns):
        try:
            for pending in parts(turn):
                begun |= {message.id: message for message in pending}
                prompt = peer.prompt(pending)
                found.sent += tokens(prompt)
                found.orphans += orphans(prompt)
                found.unasked += pending[0].id not in {message.id for message in prompt}
            begun |= {message.id: message for message in turn}
            peer.save(turn)
        except Exception:  # noqa: BLE001  # whatever a user would see
            found.raised += 1
    prompt = []
    for number in range(5):
        with suppress(Exception):
            prompt = peer.prompt([HumanMessage("What do you know of me?", id=f"last-{number}")])
            break
    shown, data = ({message.id for message in messages} for messages in (prompt, peer.kept()))
    heard = {ident for ident, message in begun.items() if f"{message.content.partition('.')[0]}." in model.heard}
    said, text = ("\n".join(str(message.content) for message in messages) for messages in (begun.values(), prompt))
    facts = [fact for fact in talk.facts if fact in said]
    found.facts = f"{sum(fact in text for fact in facts)} of {len(facts)}" if prompt else "raised"
    found.unknown = len(begun.keys() - shown - heard)
    found.lost = len(begun.keys() - data - heard)
    found.kept = len(begun.keys() & data)
    return found


def healthy(talk: Conversation) -> dict[str, tuple[Outcome, Notes]]:
    """Print what each costs and keeps while the model answers."""
    everything = [message for turn in talk.turns for message in turn]
    size = tokens(everything)
    full = have(Replay(), Notes(facts=frozenset(talk.facts)), talk).sent
    print(
        f"One conversation: {len(talk.turns)} turns, {len(everything):,} messages, {size:,} tokens, "
        f"{len(talk.facts)} facts, {sum(len(list(parts(turn))) for turn in talk.turns)} calls of the chat model. All "
        "have a budget of 4,000 tokens.\n"
    )
    header("", *COLUMNS)
    found = {}
    for name, (make, _) in PEERS.items():
        model = Notes(facts=frozenset(talk.facts))
        outcome = have(make(model), model, talk)
        found[name] = outcome, model
        row(
            name,
            f"{outcome.sent:,}",
            f"{outcome.sent / full:.1%}",
            model.calls,
            f"{model.tokens_in / size:.2f}",
            outcome.facts,
            "" if "Extractive" in name else outcome.unknown,
            outcome.orphans,
            outcome.unasked,
            f"{outcome.kept:,} of {len(everything):,}",
        )
    return found


def failing(talk: Conversation) -> dict[tuple[str, str], Outcome]:
    """Print what becomes of the conversation when the model fails."""
    count = len(talk.turns)
    schedules: dict[str, Callable[[random.Random, Notes], bool]] = {
        "30 % of calls": lambda chance, _: chance.random() < 0.3,  # noqa: PLR2004
        f"turns {count // 4} to {count // 2}": lambda _, model: count // 4 <= model.turn < count // 2,
        "always": lambda *_: True,
    }
    print(f"\n{count} turns with a model that fails: turns that raised / lost / neither shown nor summarized / facts\n")
    header("", *schedules)
    found = {}
    for name, (make, asks) in PEERS.items():
        cells = []
        for when, fails in schedules.items():
            if not asks:
                continue
            chance = random.Random(3)
            model = Notes(facts=frozenset(talk.facts), fails=lambda it, c=chance, f=fails: f(c, it))
            found[name, when] = outcome = have(make(model), model, talk)
            cells.append(f"{outcome.raised} / {outcome.lost} / {outcome.unknown} / {outcome.facts}")
        if cells:
            row(name, *cells)
    return found


def sizes(talk: Conversation) -> dict[str, float]:
    """Return what the summarizer is sent as a multiple of the transcript, at other sizes than the defaults."""
    size = sum(map(tokens, talk.turns))
    found = {}
    for trigger, keep, summary in (
        (("tokens", 3000), ("tokens", 1400), 650),
        (("tokens", 2000), ("tokens", 1000), 350),
        (("tokens", 1100), ("tokens", 100), 400),
        (("tokens", 12000), ("tokens", 4000), 1000),
        (("messages", 50), ("messages", 20), 650),
        (("messages", 25), ("messages", 4), 650),
    ):
        model = Notes(facts=frozenset(talk.facts))
        have(Ours(model, trigger=trigger, keep=keep, max_summary_tokens=summary), model, talk)
        found[f"{trigger[1]:,}/{keep[1]:,} {keep[0]}, summary {summary}"] = model.tokens_in / size
    return found


def goals(talk: Conversation, found: Any, failed: Any, *, quick: bool) -> None:
    """Print what was to be reached by what the view costs and keeps."""
    size = sum(map(tokens, talk.turns))
    name = next(iter(PEERS))
    outcome, model = found[name]
    bad = [outcome for (peer, _), outcome in failed.items() if peer == name]
    print()
    header("goal of the view", "found", "met")
    times = model.tokens_in / size
    row("tokens to the summarizer at the defaults ≤ 1.3 × transcript", f"{times:.2f}", verdict(met=times <= 1.3))  # noqa: PLR2004
    for what, times in ({} if quick else sizes(talk)).items():
        row(f"— at {what}: ≤ 2 ×", f"{times:.2f}", verdict(met=times <= 2))  # noqa: PLR2004
    raised, lost = (sum(getattr(it, field) for it in bad) for field in ("raised", "lost"))
    row("turns that raised, messages lost, whatever fails: 0", f"{raised}, {lost}", verdict(met=not raised + lost))
    strays = sum(it.orphans for it in [outcome, *bad])
    row("orphaned tool results: 0", strays, verdict(met=not strays))
    for words, length in (("turns", 72), ("messages", 144)):
        short = Conversation(200, (length - 7, length - 7), tools=False)
        full, notes = (Notes(facts=frozenset(short.facts)) for _ in range(2))
        view = Ours(notes, trigger=("tokens", 2000), keep=("tokens", 650), max_summary_tokens=325)
        everything = have(Replay(), full, short).sent
        saved = 1 - have(view, notes, short).sent / everything
        cell = f"{saved:.1%}, net of the summarizer's {saved - notes.tokens_in / everything:.1%}"
        what = f"chat tokens saved in 200 turns, {words} of 72 tokens, budget 2,000: ≥ 85 %"
        row(what, cell, verdict(met=saved >= 0.85))  # noqa: PLR2004


class Ready(Summarizer):
    """Has its summary, of a real size, at once."""

    def summarize(self, *_: Any) -> str:
        return "They spoke about the weather in Lisbon, which was mostly sunny and warm. " * 30


class Session:
    """Two sessions of one length: one for the view, one for the plain history that shows as many messages."""

    def __init__(self, store: MessageStore, length: int) -> None:
        self.store, self.length, self.shown = store, length, 1
        messages = conversation(length)
        for name in ("view", "plain"):
            for start in range(0, length, 2000):
                store.append(f"{name}-{length}", messages[start : start + 2000])
        # A summary of it all, with sizes for which that is quick.
        options: dict[str, Any] = {"trigger": ("messages", 300), "keep": ("messages", 40), "token_counter": len}
        history = store.history(f"view-{length}")
        assert SummarizingChatMessageHistory(history, Ready(), timeout=None, **options).compact()

    # Handles of one turn, as a factory returns them.
    def view(self) -> SummarizingChatMessageHistory:
        return SummarizingChatMessageHistory(self.store.history(f"view-{self.length}"), Ready())

    def plain(self) -> StoredChatMessageHistory:
        return self.store.history(f"plain-{self.length}", last=self.shown)

    def turn_of_view(self, _: int) -> None:
        view = self.view()
        self.shown = len(view.messages) - 1
        view.add_messages(TURN)

    def plain_turn(self, _: int) -> None:
        history = self.plain()
        assert len(history.messages) == self.shown
        history.add_messages(TURN)

    async def aturn_of_view(self, _: int) -> None:
        view = self.view()
        self.shown = len(await view.aget_messages()) - 1
        await view.aadd_messages(TURN)

    async def aplain_turn(self, _: int) -> None:
        history = self.plain()
        assert len(await history.aget_messages()) == self.shown
        await history.aadd_messages(TURN)


async def overhead(name: str, store: MessageStore, lengths: tuple[int, int], seconds: float) -> None:
    """Print what a turn costs over short and long sessions, all in one run."""
    sessions = [Session(store, length) for length in lengths]
    for face in ("sync", "async"):
        run: dict[tuple[str, int], Callable[[int], Any]] = {}
        for session in sessions:
            faces = {
                "sync": (session.turn_of_view, session.plain_turn),
                "async": (session.aturn_of_view, session.aplain_turn),
            }
            run["view", session.length], run["plain", session.length] = faces[face]
        times = await interleaved(run, seconds)
        for length in lengths:
            view, plain = times["view", length], times["plain", length]
            cells = (duration(plain), duration(view), duration(view - plain))
            row(f"{name}, {face}", f"{length:,}", *cells, "≤ 2 ms", verdict(met=view - plain <= 0.002))  # noqa: PLR2004
        flat = times["view", lengths[1]] / times["view", lengths[0]]
        what = f"{lengths[1]:,} ÷ {lengths[0]:,}"
        row(f"{name}, {face}", what, "", f"× {flat:.2f}", "", "flat (≤ 1.3)", verdict(met=flat <= 1.3))  # noqa: PLR2004


async def overheads(*, quick: bool) -> None:
    """Print what the view adds to a turn, in short and long sessions."""
    print("\nA turn of two messages over a summarized session (read, add; a new handle each time), medians\n")
    header("store", "stored messages", "plain history, as many shown", "view", "difference", "goal", "met")
    lengths = (1_000, 10_000 if quick else 100_000)
    with tempfile.TemporaryDirectory() as folder, servers.redis() as server:
        async with AsyncExitStack() as stack:
            stores: dict[str, Any] = {"SQLite": SQLStore(f"sqlite:///{folder}/a.db"), "Redis": RedisStore(server.url)}
            for name, store in stores.items():
                await overhead(name, await stack.enter_async_context(store), lengths, 3.0 if quick else 12.0)
        print(f"\nServer on this machine: {server.version}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a shorter conversation, fewer rounds, shorter histories")
    options = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    logging.disable(logging.WARNING)  # of summaries that are meant to fail
    random.seed(1)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    print(f"Python {platform.python_version()}, {versions}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    begin = time.monotonic()
    talk = Conversation(120 if options.quick else 400)
    found = healthy(talk)
    # With more turns the class that summarizes everything at each one would take minutes.
    goals(talk, found, failing(Conversation(120 if options.quick else 200)), quick=options.quick)
    asyncio.run(overheads(quick=options.quick))
    print(f"{time.monotonic() - begin:.0f} s in all.")


if __name__ == "__main__":
    main()
