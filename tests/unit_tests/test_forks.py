"""What a fork waits for, and what a child leaves alone."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from forked import PATIENCE, begin, fork, needs_fork, status
from langchain_core.messages import HumanMessage

from langchain_histories import FileStore, MemoryStore, _forks
from langchain_histories._clients import Clients
from langchain_histories._neutral import settle

pytestmark = needs_fork


class Client:
    """A client whose finalizer disturbs the parent."""

    def __init__(self, told):
        self.told, self.process = told, os.getpid()

    def __del__(self):
        if os.getpid() != self.process:
            os.write(self.told, b"closed")


def clients_of(told, **options):
    async def connect(native):
        return Client(told)

    return Clients(connect=connect, **options)


@pytest.fixture
def told():
    """A pipe, and a function that reads what was written to it."""
    read, write = os.pipe()
    os.set_blocking(read, False)

    def answer():
        try:
            return os.read(read, 1000)
        except BlockingIOError:
            return b""

    yield write, answer
    os.close(read)
    os.close(write)


@pytest.fixture
def busy():
    """Runs a call of a thread that goes on until `over` is set."""
    threads, over = [], threading.Event()

    def begin(clients):
        begun = threading.Event()

        def call():
            lent = clients.lend(clients)
            begun.set()
            over.wait(PATIENCE)
            clients.give_back(lent)

        threads.append(threading.Thread(target=call))
        threads[-1].start()
        assert begun.wait(PATIENCE)
        return over

    yield begin
    over.set()
    for thread in threads:
        thread.join()


# What a child inherits.


def use(clients):
    lent = clients.lend(clients)
    clients.give_back(lent)
    return lent.client


def test_a_child_keeps_what_it_inherited(told):
    """Whether it drops, closes or evicts the place, and what a call of the parent still had or garbage held."""
    write, answer = told
    names = ("dropped", "closed", "evicted", "in a call", "garbage", "of a loop")
    places = {name: clients_of(write) for name in names}
    places["evicted"] = Clients.shared("evicted", write, connect=places["evicted"]._connect)
    for name in names[:-1]:
        use(places[name])
    with asyncio.Runner() as runner:

        async def use_native():
            lent = await places["of a loop"].lend_native(answer)
            await places["of a loop"].give_back_native(lent)

        runner.run(use_native())
        lent = [places["in a call"].lend(answer)]
        places["in a call"].close(answer)
        gc.disable()
        circle = [places.pop("garbage")]
        circle.append(circle)
        del circle

        def work():
            lent.clear()
            places["closed"].close(places["closed"])
            for number in range(40):
                use(Clients.shared("other", number, connect=places["closed"]._connect))
            places.clear()
            gc.collect()

        try:
            assert fork(work) == 0
        finally:
            gc.enable()
            places["in a call"].give_back(lent[0])
    assert answer() == b""


def test_a_child_keeps_what_calls_of_other_threads_use(told, busy):
    write, answer = told
    busy(clients_of(write, fork_wait=0))  # the call is all that has them
    assert fork(gc.collect) == 0
    assert answer() == b""


def test_what_a_child_inherited_outlives_its_interpreter():
    program = """if True:
        import os, sys
        from langchain_histories._clients import Clients

        class Client:
            process = os.getpid()
            def __del__(self):
                os.write(1, b"parent " if os.getpid() == self.process else b"child ")

        async def connect(native):
            return Client()

        clients = Clients(connect=connect)
        clients.give_back(clients.lend(connect))
        child = os.fork()
        if child:
            os.waitpid(child, 0)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=PATIENCE, check=True)
    assert done.stdout == b"parent "


def test_a_child_of_a_child():
    clients = Clients(connect=lambda native: settle(os.getpid()))
    before = _forks.generation()

    def own():
        assert use(clients) == os.getpid()
        assert _forks.generation() > before

    def work():
        own()
        assert fork(own) == 0

    own_before = use(clients)
    assert fork(work) == 0
    assert use(clients) == own_before == os.getpid()
    assert _forks.generation() == before


# What a fork waits for.


def test_a_fork_waits_for_calls_of_other_threads(busy):
    clients = Clients(client="mine", fork_wait=PATIENCE)
    over = busy(clients)
    ended = []
    timer = threading.Timer(0.2, lambda: (ended.append(True), over.set()))
    timer.start()
    assert fork(lambda: use(clients)) == 0
    assert ended


def test_it_waits_no_longer_than_its_time_out(busy):
    begun = time.monotonic()
    busy(Clients(client="mine", fork_wait=0.2))
    child = begin(lambda: use(Clients(client="another", fork_wait=PATIENCE)))
    assert 0.2 <= time.monotonic() - begun < PATIENCE / 2
    assert status(child) == 0


def test_calls_wait_for_the_fork_and_no_longer_than_their_time_out(busy):
    slow = Clients(client="slow", fork_wait=PATIENCE)
    fast = Clients(client="fast", async_client="fast", fork_wait=0.1)
    over = busy(slow)
    forking = threading.Thread(target=fork, args=[lambda: None])
    forking.start()
    while not _forks._forking:
        time.sleep(0.001)
    begun = time.monotonic()
    use(fast)
    assert 0.1 <= time.monotonic() - begun < PATIENCE / 2
    asyncio.run(use_native(fast))
    waiting = threading.Thread(target=use, args=[slow])
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    over.set()
    waiting.join(PATIENCE)
    forking.join(PATIENCE)
    assert not waiting.is_alive()
    assert not forking.is_alive()
    assert not _forks._forking
    assert not _forks._under_way


async def use_native(clients):
    lent = await clients.lend_native(clients)
    await clients.give_back_native(lent)


def test_a_call_within_a_call_does_not_wait_for_a_fork_that_waits_for_it():
    clients = Clients(client="mine", fork_wait=PATIENCE)
    lent = clients.lend(clients)
    forking = threading.Thread(target=fork, args=[lambda: use(clients)])
    forking.start()
    while not _forks._forking:
        time.sleep(0.001)
    begun = time.monotonic()
    use(clients)
    assert time.monotonic() - begun < PATIENCE / 2
    clients.give_back(lent)
    forking.join(PATIENCE)
    assert not forking.is_alive()


def test_a_fork_amid_a_call_of_its_own_thread(busy):
    clients = Clients(client="mine", fork_wait=PATIENCE)
    lent = clients.lend(clients)
    begun = time.monotonic()

    def work():
        clients.give_back(lent)
        use(clients)
        assert not _forks._under_way

    assert fork(work) == 0
    assert time.monotonic() - begun < PATIENCE / 2
    clients.give_back(lent)
    assert not _forks._under_way


def test_a_fork_of_a_signal_handler_amid_anything():
    clients = Clients(client="mine", fork_wait=PATIENCE)
    statuses = []
    before = signal.signal(signal.SIGALRM, lambda *_: statuses.append(fork(lambda: use(clients))))
    try:
        while len(statuses) < 20:
            signal.setitimer(signal.ITIMER_REAL, 0.0003)
            for _ in range(200):
                use(clients)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(statuses) == {0}
    assert not _forks._under_way


def test_many_threads_fork():
    store = MemoryStore()
    store.append("s", [HumanMessage("x")])
    statuses = []

    def work():
        for _ in range(3):
            store.append("s", [HumanMessage("x")])
            statuses.append(fork(lambda: store.append("s", [HumanMessage("x")])))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 12
    assert store.count("s") == 13
    assert not _forks._forking


def test_a_fork_waits_for_calls_of_event_loops_of_other_threads():
    clients = Clients(async_client="mine", fork_wait=PATIENCE)
    begun, ended = threading.Event(), []

    async def call():
        lent = await clients.lend_native(clients)
        begun.set()
        await asyncio.sleep(0.2)
        ended.append(True)
        await clients.give_back_native(lent)
        await use_native(clients)

    thread = threading.Thread(target=lambda: asyncio.run(call()))
    thread.start()
    assert begun.wait(PATIENCE)
    assert fork(lambda: asyncio.run(use_native(clients))) == 0
    assert ended
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_fork_on_a_running_event_loop():
    """It does not wait for the calls of the loop, which it has stopped."""
    clients = Clients(async_client="mine", fork_wait=PATIENCE)
    begun = time.monotonic()

    async def main():
        lent = await clients.lend_native(clients)
        child = begin(lambda: asyncio.run(use_native(clients)))
        await clients.give_back_native(lent)
        return await asyncio.to_thread(status, child)

    assert asyncio.run(main()) == 0
    assert time.monotonic() - begun < PATIENCE / 2


def test_a_fork_goes_before_what_a_driver_registered(tmp_path):
    """filelock stops its locks before a fork, and a call that this fork waits for needs one."""
    program = f"""if True:
        import os, threading, time
        from langchain_core.messages import HumanMessage
        from langchain_histories import _forks, FileStore

        store, over = FileStore("file:{tmp_path}"), threading.Event()
        def write():
            while not over.is_set():
                store.append("s", [HumanMessage("x")])
        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        for _ in range(20):
            if (child := os.fork()) == 0:
                store.append("s", [HumanMessage("child")])
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        over.set()
        assert time.monotonic() - begun < 20 * store._clients.fork_wait / 2
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    stored = [message.content for message in FileStore(f"file:{tmp_path}").read("s")]
    assert stored.count("child") == 20


def test_a_child_inherits_no_lock_of_a_store_in_memory():
    store, over = MemoryStore(), threading.Event()

    def write():
        while not over.is_set():
            store.append("s", [HumanMessage("x")])
            store.clear("s")

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert [fork(lambda: store.append("s", [HumanMessage("x")])) for _ in range(20)] == [0] * 20
    finally:
        over.set()
        for thread in threads:
            thread.join()
