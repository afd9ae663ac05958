"""A chain of copies from store to store, in processes that are killed: what the test and the benchmark share."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import threading
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage

from langchain_histories import copy, digest, open_store
from langchain_histories.testing.messages import comparable, golden_messages
from langchain_histories.testing.suite.foreign import plant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_histories import CopyReport, MessageStore

# What the processes need, so that each is a fork of one that has imported it.
_MODULES = [
    "langchain_histories.conversations.copying",
    "langchain_histories.registry",
    "langchain_histories.stores.file.operations",
    "langchain_histories.stores.mongodb.connections",
    "langchain_histories.stores.redis.connections",
    "langchain_histories.stores.sql.connections",
    "langchain_histories.stores.sql.operations",
    "langchain_histories.testing.messages",
    "langchain_histories.testing.suite.foreign",
    "psycopg",
    "psycopg_pool",
]

Place = tuple[str, dict[str, Any]]
"""A URL, and options of the store."""


def opened(place: Place) -> MessageStore:
    url, options = place
    return open_store(url, **options)


def fill(store: MessageStore, sessions: int, longest: int, long: int, chance: random.Random) -> int:
    """Store conversations with all that there is, and one long one; return how many records they have."""
    golden, total = golden_messages(), 0
    for number in range(sessions):
        session_id, count = f"session {number:05d}", long if number == 0 else chance.randint(1, longest)
        for start in range(0, count, 50):
            size = min(50, count - start)
            batch = [
                HumanMessage(f"question {i} é" * 4) if i % 2 else AIMessage(f"answer {i} " * 20) for i in range(size)
            ]
            store.append(session_id, batch)
        odd = golden[number::sessions]
        store.append(session_id, odd)
        total += count + len(odd)
        if number % 3 == 0:
            old = json.dumps({"type": "human", "data": {"content": f"old {number}", "type": "human", "example": False}})
            metas = [{"v": 1, "id": f"unreadable {number}"}, {"v": 9, "id": f"later {number}", "at": "2030", "x": [1]}]
            unread = [json.dumps({"type": "alien", "data": {"n": 0.5}, "meta": meta}) for meta in metas]
            plant(store, session_id, [old, old, *unread])
            total += 4
        if number % 4 == 0:
            store.put_state(session_id, {"n": number, "bytes": b"\xff", "lh:type": "own"})
    return total


def _copy_until_killed(source: Place, target: Place, seconds: float) -> None:
    stores = opened(source), opened(target)
    killer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    killer.daemon = True
    killer.start()
    copy(*stores)


def copy_with_kills(source: Place, target: Place, kills: int, within: float, chance: random.Random) -> CopyReport:
    """Copy in processes that are killed, so many, each at a moment within so many seconds; then to the end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_MODULES)
    for _ in range(kills):
        process = context.Process(target=_copy_until_killed, args=(source, target, chance.uniform(0, within)))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    with opened(source) as here, opened(target) as there:
        return copy(here, there)


def digest_of(place: Place) -> str:
    """What the conversations of a place are."""
    with opened(place) as store:
        return digest(store)


def told_of(place: Place) -> Iterator[Any]:
    """Walk the sessions and what can be read of each, message by message."""
    url, options = place
    with opened((url, {**options, "on_corrupt": "skip"})) as store:
        for info in store.sessions():
            records = store.records(info.session_id)
            told = [(record.id, record.at, comparable(record.message)) for record in records]
            yield info, told, store.get_state(info.session_id)
