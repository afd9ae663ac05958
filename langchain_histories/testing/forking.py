"""Processes that fork while they use a store, and what each of them was told is stored.

Each family has a process of its own to begin with, see `processes.start`. A child that hangs is killed after
`PATIENCE`, and its exit status tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import itertools
import multiprocessing
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage

from langchain_histories.testing.processes import start

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_histories import MessageStore
    from langchain_histories.testing.suite.fixtures import OpenStore

PATIENCE = 90.0
"""Seconds that a process may take: more than any call waits by default."""

_numbers = itertools.count()


class Family:
    """A process and the children that it forks.

    Args:
        open_store: Opens the store.

    Attributes:
        statuses: How the children ended, in the order in which they were waited for.
    """

    def __init__(self, open_store: OpenStore) -> None:
        """Begin with no children."""
        self.open_store = open_store
        self.statuses: list[int] = []
        self._log = tempfile.TemporaryFile(mode="ab+", buffering=0)  # noqa: SIM115  # it ends with the process

    def write(self, store: MessageStore, session_id: str, count: int = 2) -> None:
        """Append messages one by one, each with a text of its own, and note those that are stored."""
        for _ in range(count):
            text = self._new_text(session_id)
            store.append(session_id, [HumanMessage(text)])
            self._note(text)

    async def awrite(self, store: MessageStore, session_id: str) -> None:
        """Async `write` of one message."""
        text = self._new_text(session_id)
        await store.aappend(session_id, [HumanMessage(text)])
        self._note(text)

    def _new_text(self, session_id: str) -> str:
        return f"{session_id}: {next(_numbers)} of process {os.getpid()}"

    def _note(self, text: str) -> None:
        os.write(self._log.fileno(), f"{text}\n".encode())

    def stored(self) -> dict[str, list[str]]:
        """The texts that were stored, by session."""
        self._log.seek(0)
        found: dict[str, list[str]] = {}
        for text in self._log.read().decode().splitlines():
            found.setdefault(text.partition(":")[0], []).append(text)
        return found

    def fork(self, work: Callable[[], object], *, is_normal_end: bool = False) -> None:
        """Fork a child, and wait for it."""
        self.join(self.begin(work, is_normal_end=is_normal_end))

    def begin(self, work: Callable[[], object], *, is_normal_end: bool = False) -> int:
        """Fork a child, which ends after its work: at once, or as an interpreter does, which clears all modules."""
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001  # nothing of the child may go on
            traceback.print_exc()
        if is_normal_end and not status:
            ctypes.pythonapi.Py_Exit(0)
        os._exit(status)

    def join(self, child: int) -> None:
        """Wait for a child."""
        until = time.monotonic() + PATIENCE
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > until:
                os.kill(child, 9)
            time.sleep(0.002)
        self.statuses.append(os.waitstatus_to_exitcode(ended[1]))


class _Parts:
    """The work of a child in two parts: before and after something that others do."""

    def __init__(self, work: Callable[[], None]) -> None:
        context: Any = multiprocessing.get_context("fork")
        self._work = work
        self._begun, self._alone, self._ended = context.Event(), context.Event(), context.Event()

    def __call__(self) -> None:
        try:
            self._work()
            self._begun.set()
            assert self._alone.wait(PATIENCE)
            self._work()
        finally:
            self._ended.set()

    @contextlib.contextmanager
    def between(self) -> Iterator[None]:
        """What is done inside is done between the parts."""
        assert self._begun.wait(PATIENCE)
        yield
        self._alone.set()

    def wait(self) -> None:
        """Wait for the end of the second part."""
        assert self._ended.wait(PATIENCE)


Work = Callable[[Family], None]


def run(*work: Work, open_store: OpenStore) -> tuple[dict[str, list[str]], list[int]]:
    """Run the work of a family; return the texts that were stored, and how the children ended."""
    return start(open_store, _run, work, open_store).result()


def _run(work: Sequence[Work], open_store: OpenStore) -> tuple[dict[str, list[str]], list[int]]:
    family = Family(open_store)
    for each in work:
        each(family)
    return family.stored(), family.statuses


# The families.


def the_parent_goes(family: Family) -> None:
    """A child goes on with the store when its parent closes it or drops it."""
    for is_closed in (True, False):
        stores = [family.open_store()]
        family.write(stores[0], "s")
        parts = _Parts(lambda stores=stores: family.write(stores[0], "s"))  # type: ignore[misc]
        child = family.begin(parts, is_normal_end=not is_closed)
        with parts.between():
            if is_closed:
                stores[0].close()
            stores.clear()
            gc.collect()
        family.join(child)
        family.write(family.open_store(), "s")


def the_parent_ends(family: Family) -> None:
    """A daemon goes on when the process that forked it has ended, and others come and go."""
    daemon = _Parts(lambda: family.write(stores[0], "s"))

    def fork_a_daemon() -> None:
        family.write(stores[0], "s")
        family.begin(daemon)

    stores = [family.open_store()]
    family.fork(fork_a_daemon)
    with daemon.between():
        family.fork(lambda: family.write(family.open_store(), "s"))
    daemon.wait()


def the_child_goes(family: Family) -> None:
    """A child closes the store, drops it, or never uses it, and its parent goes on."""
    stores = [family.open_store()]
    family.write(stores[0], "s")

    def close() -> None:
        stores[0].close()
        family.write(stores[0], "s")
        stores[0].close()

    def drop() -> None:
        stores.clear()
        gc.collect()
        family.write(family.open_store(), "s")

    def use_nothing() -> None:
        gc.collect()

    def fork() -> None:
        family.write(stores[0], "s")
        family.fork(drop)
        assert family.statuses[-1] == 0
        family.write(stores[0], "s")

    for work in (close, drop, use_nothing, fork):
        family.fork(work, is_normal_end=work is use_nothing)
        family.write(stores[0], "s", 1)
    # The parent has dropped the store, and has not collected it.
    gc.disable()
    circle: list[Any] = [stores.pop()]
    circle.append(circle)
    del circle
    family.fork(drop, is_normal_end=True)
    gc.enable()


def others_write(family: Family) -> None:
    """Children are forked while threads and an event loop write, and some of these open and close stores."""
    store = family.open_store()
    is_over = threading.Event()

    def write() -> None:
        while not is_over.is_set():
            family.write(store, "s", 1)

    def come_and_go() -> None:
        while not is_over.is_set():
            with family.open_store() as another:
                family.write(another, "thread", 1)

    async def write_too() -> None:
        while not is_over.is_set():
            await asyncio.gather(family.awrite(store, "s"), family.awrite(store, "loop"))

    def work() -> None:
        family.write(store, "s")
        family.write(store, "child")
        store.read("s", last=5)

    with _threads(write, come_and_go, lambda: asyncio.run(write_too())):
        try:
            for _ in range(4):
                family.fork(work)
                family.write(store, "parent", 1)
        finally:
            is_over.set()


@contextlib.contextmanager
def _threads(*work: Callable[[], None]) -> Iterator[None]:
    """Run these in threads; the block tells them to end."""
    failed: list[BaseException] = []

    def noting(each: Callable[[], None]) -> None:
        try:
            each()
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=noting, args=[each]) for each in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]
