"""What is compared with the summarizing view, and what it is compared on: a conversation, and a model that takes notes.

Each peer runs its own code. All count tokens alike, and all have the same model for their summaries.
"""

from __future__ import annotations

import functools
import random
import re
import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from langchain_classic.memory import ConversationSummaryBufferMemory
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage, trim_messages
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_histories import MemoryStore, SummarizingChatMessageHistory
from langchain_histories.views.tokens import count_tokens, estimate_tokens

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from langchain.agents.middleware import SummarizationMiddleware
    from langgraph.graph.message import add_messages
    from langmem.short_term import summarize_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from langchain_core.messages import BaseMessage

TRIGGER, KEEP, SUMMARY = 4000, 1300, 650
NOTES = 450
_SENTENCE = re.compile(r"[^.!?:\n<>\]]+[.!?]")  # without the names of speakers and what leads to a summary
_WORDS = """
the a this that our some parcel box invoice garden kitchen lamp chair table cable window paint wood metal glass cotton
color size price delivery weekend morning shop page photo manual screw shelf corner light dark heavy small large broken
new old cheap better fits needs looks works costs comes goes stands turns opens with for from under over near without
about because when while maybe again soon later twice quickly carefully
"""
_THINGS = "dog cat sister brother boat village school street team horse teacher neighbor bakery cousin band"

_counts: dict[tuple[str, str], int] = {}


def tokens(messages: Iterable[BaseMessage]) -> int:
    """`count_tokens`, which remembers the messages that come again with every turn."""
    total = 0
    for message in messages:
        key = message.id or "", str(message.content)
        if key not in _counts:
            _counts[key] = count_tokens([message])
        total += _counts[key]
    return total


class Conversation:
    """Turns of about as many tokens as asked for, the same for a seed, with facts that a good memory keeps.

    Each third turn calls one to three tools at once, unless it has none. `facts` are words that occur nowhere else;
    each is in a sentence of its own, in a user's message or a tool's result, and none in the newest tenth.
    """

    def __init__(self, turns: int, size: tuple[int, int] = (60, 200), *, facts: int = 40, tools: bool = True) -> None:
        self._random = random.Random(7)
        syllables = self._random.sample([a + b for a in "bdfgklmnprstvz" for b in "aeiou"], 60)
        self.facts: list[str] = []
        places = sorted(self._random.sample(range(turns * 9 // 10), min(facts, turns // 2)))
        self.turns: list[list[BaseMessage]] = []
        for number in range(turns):
            said = ""
            if number in places:
                if number % 2:
                    self.facts.append("".join(self._random.sample(syllables, 3)).capitalize())
                    said = f" My {self._random.choice(_THINGS.split())} is called {self.facts[-1]}."
                else:
                    self.facts.append(str(self._random.randrange(10**6, 10**7)))
                    said = f" The order has number {self.facts[-1]}."
            self.turns.append(self._turn(number, said, self._random.randint(*size), tools=tools and number % 3 == 0))

    def _turn(self, number: int, said: str, size: int, *, tools: bool) -> list[BaseMessage]:
        by_tool = tools and number in range(0, len(self.turns) + 1, 6)
        turn: list[BaseMessage] = [self._human(number, "" if by_tool else said)]
        if tools:
            ids = [f"call_{number}_{i}" for i in range(self._random.randint(1, 3))]
            calls = [{"name": "look_up", "args": {"page": i}, "id": call} for i, call in enumerate(ids)]
            turn.append(AIMessage(f"Page {number} of the catalogue may know that.", tool_calls=calls, id=f"c{number}"))
            for i, call in enumerate(ids):
                result = f"Result {i} for page {number} is here.{said if by_tool and not i else ''} {self._sentence()}"
                turn.append(ToolMessage(result, tool_call_id=call, id=f"t{number}-{i}"))
        answer = f"Answer {number} is as follows."
        while count_tokens([*turn, AIMessage(answer)]) < size:
            answer += " " + self._sentence()
        return [*turn, AIMessage(answer, id=f"a{number}")]

    def _human(self, number: int, said: str) -> HumanMessage:
        return HumanMessage(f"Question {number} comes now. {self._sentence()}{said}", id=f"h{number}")

    def _sentence(self) -> str:
        return " ".join(self._random.choices(_WORDS.split(), k=self._random.randint(6, 14))).capitalize() + "."


class Notes(BaseChatModel):
    """A model whose summary is the sentences of its prompt with facts, then the newest others, up to a real size.

    That is as long as the prompt asks for, else `NOTES` tokens. It fails where `fails` says so, and notes what it was
    sent.
    """

    facts: Any
    fails: Any = None
    calls: int = 0
    tokens_in: int = 0
    turn: int = 0
    heard: set[str] = set()  # noqa: RUF012  # pydantic copies it

    @property
    def _llm_type(self) -> str:
        return "notes"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        self.calls += 1
        self.tokens_in += count_tokens(messages)
        if self.fails and self.fails(self):
            raise ConnectionError("the model is down")
        sentences = _sentences("\n".join(str(message.content) for message in messages))
        self.heard.update(sentences)
        asked = re.search(r"at most (\d+) words", str(messages[-1].content))
        room = NOTES if asked is None else min(NOTES, int(int(asked[1]) * 1.25))
        order = list(dict.fromkeys(sentences))
        chosen: set[str] = set()
        for with_facts in (True, False):
            for sentence in reversed(order):
                if _has_fact(sentence, self.facts) is with_facts and _size(sentence) <= room:
                    room -= _size(sentence)
                    chosen.add(sentence)
        text = " ".join(sentence for sentence in order if sentence in chosen)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text or "Nothing yet."))])

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Any = None) -> int:  # noqa: ARG002
        """As the others."""
        return tokens(messages)


def _sentences(text: str) -> list[str]:
    return [found.strip() for found in _SENTENCE.findall(text)]


@functools.cache
def _has_fact(sentence: str, facts: frozenset[str]) -> bool:
    return not facts.isdisjoint(re.findall(r"\w+", sentence))


_size = functools.cache(estimate_tokens)


class Peer(ABC):
    """A way to remember a conversation."""

    @abstractmethod
    def prompt(self, pending: Sequence[BaseMessage]) -> list[BaseMessage]:
        """Return what the chat model is sent; `pending` is the turn so far."""

    @abstractmethod
    def save(self, turn: Sequence[BaseMessage]) -> None:
        """Take in the whole turn."""

    @abstractmethod
    def kept(self) -> Iterable[BaseMessage]:
        """Return the messages that are still there as they were."""


class Ours(Peer):
    def __init__(self, model: Any, **options: Any) -> None:
        self.view = SummarizingChatMessageHistory(MemoryStore().history("conversation"), model, **options)

    def prompt(self, pending: Sequence[BaseMessage]) -> list[BaseMessage]:
        return [*self.view.messages, *pending]

    def save(self, turn: Sequence[BaseMessage]) -> None:
        self.view.add_messages(turn)

    def kept(self) -> Iterable[BaseMessage]:
        return self.view.transcript()


class Replay(Peer):
    """Sends everything."""

    def __init__(self) -> None:
        self.messages: list[BaseMessage] = []

    def prompt(self, pending: Sequence[BaseMessage]) -> list[BaseMessage]:
        self.save(pending)
        return self.shown()

    def shown(self) -> list[BaseMessage]:
        return self.messages

    def save(self, turn: Sequence[BaseMessage]) -> None:
        # In a graph the state has the messages before any node can fail.
        known = {message.id for message in self.messages[-16:]}
        self.messages = [*self.messages, *(message for message in turn if message.id not in known)]

    def kept(self) -> Iterable[BaseMessage]:
        return self.messages


class Trim(Replay):
    def shown(self) -> list[BaseMessage]:
        trimmed: list[BaseMessage] = trim_messages(
            self.messages, max_tokens=TRIGGER, token_counter=tokens, strategy="last", start_on="human"
        )
        return trimmed


class Langmem(Replay):
    def __init__(self, model: Notes, before_summary: int | None) -> None:
        super().__init__()
        self.model, self.before_summary, self.running = model, before_summary, None

    def shown(self) -> list[BaseMessage]:
        done = summarize_messages(
            self.messages,
            running_summary=self.running,
            model=self.model,
            max_tokens=TRIGGER,
            max_tokens_before_summary=self.before_summary,
            max_summary_tokens=SUMMARY,
            token_counter=tokens,
        )
        self.running = done.running_summary
        return done.messages


class Middleware(Peer):
    """The state of an agent, with the reducer of its graph."""

    def __init__(self, model: Notes, keep: Any) -> None:
        self.middleware = SummarizationMiddleware(model, trigger=("tokens", TRIGGER), keep=keep, token_counter=tokens)
        self.state: Any = []
        self.taken: set[str | None] = set()

    def prompt(self, pending: Sequence[BaseMessage]) -> list[BaseMessage]:
        self.save(pending)
        with patch("time.sleep"):  # between its three tries
            update = self.middleware.before_model({"messages": self.state}, None)
        self.state = add_messages(self.state, update["messages"]) if update else self.state
        return self.state

    def save(self, turn: Sequence[BaseMessage]) -> None:
        # What was taken at the call before may be in the summary by now.
        self.state = add_messages(self.state, [message for message in turn if message.id not in self.taken])
        self.taken |= {message.id for message in turn}

    def kept(self) -> Iterable[BaseMessage]:
        return self.state


class Classic(Peer):
    """Does what `save_context` does, with all messages of a turn and not only two texts, so that no tool is missing."""

    def __init__(self, model: Notes, history: Any = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.memory = ConversationSummaryBufferMemory(
                llm=model,
                max_token_limit=TRIGGER - SUMMARY,
                chat_memory=InMemoryChatMessageHistory() if history is None else history,
                return_messages=True,
            )

    def prompt(self, pending: Sequence[BaseMessage]) -> list[BaseMessage]:
        return [*self.memory.load_memory_variables({})["history"], *pending]

    def save(self, turn: Sequence[BaseMessage]) -> None:
        self.memory.chat_memory.add_messages(turn)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.memory.prune()

    def kept(self) -> Iterable[BaseMessage]:
        return self.memory.chat_memory.messages


PEERS: dict[str, tuple[Callable[[Notes], Peer], bool]] = {
    "**SummarizingChatMessageHistory**, defaults": (Ours, True),
    "— with ExtractiveSummarizer": (lambda _: Ours("extractive"), False),
    "SummarizationMiddleware, keep 1,300 tokens": (lambda model: Middleware(model, ("tokens", KEEP)), True),
    "SummarizationMiddleware, its keep of 20 messages": (lambda model: Middleware(model, ("messages", 20)), True),
    "ConversationSummaryBufferMemory, in memory": (Classic, True),
    "ConversationSummaryBufferMemory, over a store": (
        lambda model: Classic(model, MemoryStore().history("conversation")),
        True,
    ),
    "langmem, summary of 2,700 tokens and more": (lambda model: Langmem(model, TRIGGER - KEEP), True),
    "langmem, its default": (lambda model: Langmem(model, None), True),
    "trim_messages": (lambda _: Trim(), False),
    "full replay": (lambda _: Replay(), False),
}
"""How each is made, and whether it asks the model."""


def parts(turn: Sequence[BaseMessage]) -> Iterator[Sequence[BaseMessage]]:
    """The turn so far at each call of the chat model."""
    return (turn[:i] for i, message in enumerate(turn) if isinstance(message, AIMessage))


def orphans(prompt: Sequence[BaseMessage]) -> int:
    """How many results of tools have no call before them."""
    called: set[str | None] = set()
    found = 0
    for message in prompt:
        if isinstance(message, AIMessage):
            called |= {call["id"] for call in message.tool_calls}
        found += isinstance(message, ToolMessage) and message.tool_call_id not in called
    return found
