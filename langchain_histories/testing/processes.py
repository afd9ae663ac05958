"""What the tests run in other processes.

All of them are forks of one clean process, which imports the stores and their drivers and uses none, so that all tests
of a run import a driver there once. Where a system cannot fork, each of them is a new one.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import functools
import multiprocessing
import random
import time
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.messages import HumanMessage

from langchain_histories.testing.load import rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from langchain_core.messages import BaseMessage

    from langchain_histories.testing.suite.fixtures import OpenStore

_T = TypeVar("_T")

_START_METHODS = multiprocessing.get_all_start_methods()
_fork: Any = multiprocessing.get_context("fork" if "fork" in _START_METHODS else "spawn")


@functools.cache
def _clean_process() -> concurrent.futures.Executor:
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in _START_METHODS else "spawn")
    context.set_forkserver_preload([__name__])
    process = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
    atexit.register(process.shutdown)
    return process


def start(open_store: OpenStore, work: Callable[..., _T], *arguments: Any) -> concurrent.futures.Future[_T]:
    """Begin `work(*arguments)` in a process with the store's driver, but no client, lock or thread of any other."""
    return _clean_process().submit(_run_in_a_fork, open_store, work, *arguments)


def _run_in_a_fork(open_store: OpenStore, work: Callable[..., _T], *arguments: Any) -> _T:
    open_store()  # imports the driver; a constructor connects to nothing
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=_fork) as process:
        return process.submit(work, *arguments).result()


def run_in_processes(work: Callable[..., _T], open_store: OpenStore, arguments: Sequence[tuple[Any, ...]]) -> list[_T]:
    """Call `work(open_store, *each)` for each of `arguments`, all at once, each in a process of its own."""
    return start(open_store, _run_in_forks, work, open_store, arguments).result()


def _run_in_forks(work: Callable[..., _T], open_store: OpenStore, arguments: Sequence[tuple[Any, ...]]) -> list[_T]:
    with concurrent.futures.ProcessPoolExecutor(len(arguments), mp_context=_fork) as pool:
        return [future.result() for future in [pool.submit(work, open_store, *each) for each in arguments]]


def write_numbers(open_store: OpenStore, session_id: str, writer: int, most: int) -> int:
    """Append messages one by one; return how many."""
    count = 0
    with open_store() as store:
        for number in rounds(most, least=10):
            store.append(session_id, [HumanMessage(f"{writer} {number}")])
            count += 1
    return count


def counted_up(state: dict[str, Any] | None, by: int = 1) -> dict[str, Any]:
    """A change of the state: counts in `n` and keeps the rest."""
    state = state or {}
    return {**state, "n": state.get("n", 0) + by}


def count_up(open_store: OpenStore, session_id: str, most: int) -> int:
    """Count up in the state, one by one; return how often."""
    count = 0
    with open_store() as store:
        for _ in rounds(most, least=5):
            store.update_state(session_id, counted_up)
            count += 1
    return count


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
