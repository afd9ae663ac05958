"""What the tests run in other processes.

All of them are forks of one clean process, which imports the store and its driver and uses neither, so that a test with
eight processes imports a driver once. Where a system cannot fork, each of them is a new one.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import random
import time
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection

    from langchain_core.messages import BaseMessage

    from langchain_histories.testing.suite.fixtures import OpenStore

_START_METHODS = multiprocessing.get_all_start_methods()
_fork: Any = multiprocessing.get_context("fork" if "fork" in _START_METHODS else "spawn")


@contextlib.contextmanager
def clean_process(open_store: OpenStore) -> Iterator[concurrent.futures.Executor]:
    """A process that has imported the store's driver, and has inherited no client, lock or thread of this one."""
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in _START_METHODS else "spawn")
    context.set_forkserver_preload([__name__])
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process:
        process.submit(_import_driver, open_store).result()
        yield process


def _import_driver(open_store: OpenStore) -> None:
    open_store()  # a constructor connects to nothing


def run_in_processes(work: Callable[..., Any], open_store: OpenStore, arguments: Sequence[tuple[Any, ...]]) -> None:
    """Call `work(open_store, *each)` for each of `arguments`, all at once, each in a process of its own."""
    with clean_process(open_store) as process:
        process.submit(_run_in_forks, work, open_store, arguments).result()


def _run_in_forks(work: Callable[..., Any], open_store: OpenStore, arguments: Sequence[tuple[Any, ...]]) -> None:
    with concurrent.futures.ProcessPoolExecutor(len(arguments), mp_context=_fork) as pool:
        for future in [pool.submit(work, open_store, *each) for each in arguments]:
            future.result()


def write_numbers(open_store: OpenStore, session_id: str, writer: int, count: int) -> None:
    """Append `count` messages one by one."""
    with open_store() as store:
        for number in range(count):
            store.append(session_id, [HumanMessage(f"{writer} {number}")])


def counted_up(state: dict[str, Any] | None, by: int = 1) -> dict[str, Any]:
    """A change of the state: counts in `n` and keeps the rest."""
    state = state or {}
    return {**state, "n": state.get("n", 0) + by}


def count_up(open_store: OpenStore, session_id: str, count: int) -> None:
    """Count up in the state, one by one."""
    with open_store() as store:
        for _ in range(count):
            store.update_state(session_id, counted_up)


def batch(name: str, size: int) -> list[BaseMessage]:
    """A batch whose messages say whose part they are."""
    return [HumanMessage(f"{name}: {number} of {size}") for number in range(size)]


def kill_writers(open_store: OpenStore, session_id: str, size: int, kills: int) -> list[str]:
    """Kill processes amid their appends, one after another; return the batches that they were told are stored."""
    chance = random.Random(7)  # noqa: S311
    told: list[str] = []
    for kill in range(kills):
        receiver, sender = _fork.Pipe(duplex=False)
        writer = _fork.Process(
            target=_append_until_killed, args=(open_store, session_id, f"killed {kill}", size, sender)
        )
        writer.start()
        sender.close()
        told.append(receiver.recv())
        begin = time.monotonic()
        told.append(receiver.recv())
        # An append takes about this long, and the next one is under way.
        time.sleep(chance.random() * (time.monotonic() - begin))
        writer.kill()
        writer.join()
        with contextlib.suppress(EOFError):
            while True:
                told.append(receiver.recv())
    return told


def _append_until_killed(open_store: OpenStore, session_id: str, name: str, size: int, sender: Connection) -> None:
    store = open_store()
    number = 0
    while True:
        store.append(session_id, batch(f"{name}, {number}", size))
        sender.send(f"{name}, {number}")
        number += 1
