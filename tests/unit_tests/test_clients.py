"""Who opens, shares and closes clients."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time

import pytest

from langchain_histories._clients import Clients
from langchain_histories._neutral import settle, taking_turns
from langchain_histories.errors import ConfigurationError


class Opened:
    """Counts what is open."""

    def __init__(self):
        self.open, self.made = set(), 0
        self.clients = Clients(connect=self.connect, close=self.close)

    def blocking(self):
        lent = self.clients.lend(self)
        self.clients.give_back(lent)
        return lent.client

    async def native(self):
        lent = await self.clients.lend_native(self)
        await self.clients.give_back_native(lent)
        return lent.client

    async def connect(self, native):
        self.made += 1
        await settle(asyncio.sleep(0) if native else None)
        client = f"{'async' if native else 'blocking'} {self.made}"
        self.open.add(client)
        return client

    async def close(self, client):
        self.open.discard(client)


def test_one_blocking_client_for_all_threads():
    opened, seen = Opened(), set()
    threads = [threading.Thread(target=lambda: seen.add(opened.blocking())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"blocking 1"}
    opened.clients.close(opened)
    assert opened.open == set()
    assert opened.blocking() == "blocking 2"


def test_one_async_client_for_each_loop_and_it_ends_with_its_loop():
    opened = Opened()

    async def use():
        clients = await asyncio.gather(*(opened.native() for _ in range(20)))
        assert len(set(clients)) == 1
        assert len(opened.open) == 1

    for _ in range(5):
        asyncio.run(use())
    assert opened.made == 5
    assert opened.open == set()


def test_a_loop_that_ends_waits_for_the_client_that_is_being_closed(caplog):
    class Slow(Opened):
        async def close(self, client):
            await settle(asyncio.sleep(0.01) if client.startswith("async") else None)
            await super().close(client)

    for is_running in (False, True):
        opened = Slow()

        async def use(opened=opened, is_running=is_running):
            await opened.native()
            if is_running:
                opened.clients.close(opened)
                await asyncio.sleep(0)  # the loop ends while the client is being closed

        with asyncio.Runner() as runner:
            runner.run(use())
            opened.clients.close(opened)  # for a loop that does not run the client is closed at its end
        assert opened.open == set()
    assert caplog.records == []


def test_the_clients_of_loops_that_were_just_closed_are_let_go():
    opened = Opened()
    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(opened.native())
        loop.close()
    gc.collect()
    assert len(opened.clients._loops) == 1


def test_aclose_closes_both_of_this_loop():
    opened = Opened()

    async def use():
        opened.blocking()
        await opened.native()
        assert len(opened.open) == 2
        await opened.clients.aclose(opened)
        assert opened.open == set()
        await opened.clients.aclose(opened)
        assert await opened.native() == "async 3"

    asyncio.run(use())


def test_a_failed_opening_is_tried_again():
    calls = []

    async def connect(native):
        calls.append(native)
        if len(calls) < 3:
            raise ConnectionRefusedError
        return "client"

    async def close(client):
        pass

    clients = Clients(connect=connect, close=close)
    with pytest.raises(ConnectionRefusedError):
        clients.lend(clients)

    async def use():
        with pytest.raises(ConnectionRefusedError):
            await clients.lend_native(clients)
        lent = await clients.lend_native(clients)
        await clients.give_back_native(lent)
        return lent.client

    assert asyncio.run(use()) == "client"


def test_given_clients_are_never_closed_and_nothing_is_derived_from_them():
    both = Clients(client="mine", async_client="mine too")
    lent = both.lend(both)
    both.give_back(lent)
    assert lent.client == "mine"

    async def use():
        lent = await both.lend_native(both)
        await both.give_back_native(lent)
        return lent.client

    assert asyncio.run(use()) == "mine too"
    both.close(both)
    asyncio.run(both.aclose(both))
    assert not Clients(client="mine").has_native
    with pytest.raises(ConfigurationError, match="async client alone"):
        Clients(async_client="mine").lend("anybody")


def test_a_forked_child_opens_its_own():
    opened = Opened()
    assert opened.blocking() == "blocking 1"
    child = os.fork()
    if child == 0:
        try:
            opened.clients.close(opened)  # the parent's client is not this process' to close
            os._exit(0 if opened.open == {"blocking 1"} and opened.blocking() == "blocking 2" else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert opened.blocking() == "blocking 1"


def test_what_is_known_of_a_place_is_one_object_and_bounded():
    class Known:
        def forget(self):
            """A fork calls it."""

    clients = Opened().clients
    first = clients.found("table", Known)
    for number in range(10_000):
        clients.found(number, Known)
        assert clients.found("table", Known) is first  # it is in use
    assert clients.found(9_999, Known) is clients.found(9_999, Known)
    assert len(clients._found) < 1000


def test_answers_that_come_at_once_leave_the_loop_to_others():
    """What is made of each takes as long as a turn of the loop may; another task runs between any two of them."""
    clients, seen = Opened().clients, []

    async def work():
        loop = asyncio.get_running_loop()
        answer = loop.create_future()

        async def body(number):
            with taking_turns(clients.turn):
                await settle(answer)
                seen.append(number)
                end = time.monotonic() + 0.006
                while time.monotonic() < end:
                    pass

        async def other():
            while len([it for it in seen if it is not None]) < 8:
                seen.append(None)
                await asyncio.sleep(0)

        bodies = [asyncio.create_task(body(number)) for number in range(8)]
        await asyncio.sleep(0)
        answer.set_result(1)
        await asyncio.gather(*bodies, other())

    asyncio.run(work())
    in_a_row = "".join("." if it is None else "x" for it in seen).split(".")
    assert max(map(len, in_a_row)) <= 2, seen
