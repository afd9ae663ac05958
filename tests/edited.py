"""A session of a store and a list, to which the same is done at random."""

from __future__ import annotations

import random
from typing import Any

from langchain_core.messages import HumanMessage

ACTIONS = ("append", "append", "append_behind", "insert", "take", "edit", "cut", "reorder", "delete")


class Twins:
    """The session `s`, and what it should hold: messages with the ids of their records."""

    def __init__(self, store: Any, seed: int) -> None:
        self.store, self.chance = store, random.Random(seed)
        self.model: list[tuple[HumanMessage, str]] = []
        self.written = 0

    def live(self, steps: int) -> None:
        for _ in range(steps):
            self.records = self.store.records("s")
            assert [(record.message, record.id) for record in self.records] == self.model
            action = self.chance.choice(ACTIONS if self.model else ACTIONS[:1])
            getattr(self, action)()

    def new(self, *counts: int) -> list[HumanMessage]:
        start = self.written
        self.written += self.chance.choice(counts)
        return [HumanMessage(f"{n} {'x' * self.chance.choice([1, 1, 9000])}") for n in range(start, self.written)]

    def somewhere(self) -> int:
        return self.chance.randrange(len(self.model))

    def append(self) -> None:
        messages = self.new(1, 2, 7)
        self.model += zip(messages, self.store.append("s", messages), strict=True)

    def append_behind(self) -> None:
        messages = self.new(1, 6)
        self.model += zip(messages, self.store.append("s", messages, after=self.model[-1][1]), strict=True)

    def insert(self) -> None:
        messages, at = self.new(1, 3), self.chance.randrange(-len(self.model) - 1, len(self.model) + 2)
        self.model[at:at] = zip(messages, self.store.insert("s", at, messages), strict=True)

    def take(self) -> None:
        at = self.chance.randrange(-len(self.model) - 1, len(self.model) + 1)
        taken = self.store.take("s", at)
        if -len(self.model) <= at < len(self.model):
            assert (taken.message, taken.id) == self.model.pop(at)
        else:
            assert taken is None

    def edit(self) -> None:
        (message,), at = self.new(1), self.somewhere()
        self.store.edit_message("s", self.model[at][1], message)
        self.model[at] = (message, self.model[at][1])

    def cut(self) -> None:
        at = self.chance.randrange(len(self.model) // 2, len(self.model))
        self.store.truncate("s", after=self.chance.choice([self.records[at].id, self.records[at].position]))
        del self.model[at + 1 :]

    def reorder(self) -> None:
        at = self.somewhere()
        order = self.chance.sample(range(len(self.model) - at), self.chance.randrange(len(self.model) - at + 1))
        after = self.records[at - 1].position if at else None
        self.store.edit("s", lambda found: [found[n] for n in order], after=after)
        self.model[at:] = [self.model[at + n] for n in order]

    def delete(self) -> None:
        self.store.delete("s", [self.model.pop(self.somewhere())[1]])
