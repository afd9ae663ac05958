"""How long a call takes at most: a server that hangs and a pool without a free connection are told, on both faces."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from uuid import uuid4

import pytest
import redis
import redis.asyncio
from behind import server_of, store_behind
from langchain_core.messages import HumanMessage
from servers._machinery import HOST
from servers._proxy import Proxy

from langchain_histories import ConfigurationError, RedisStore, StoreUnavailableError
from langchain_histories.testing.faces import Face

TIMEOUT = 1.0
LONG = 4.0
"""Seconds that no call takes, however slow this machine is; the driver's own time-out is five."""


@pytest.fixture
def proxy(redis_server):
    with Proxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def store(redis_server, proxy):
    url = redis_server.url_with(port=proxy.port)
    with RedisStore(url, key_prefix=f"{uuid4().hex}:", timeout=TIMEOUT, max_connections=2) as store:
        yield store


KINDS = (
    *("redis", "postgresql+psycopg", "mariadb+pymysql", "mongodb"),
    *("upstash", "dynamodb", "azure_table", "cosmosdb", "tablestore"),
)
HASTE, TRIES = 0.3, 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_drips_keeps_no_thread(kind, request):
    """The waits of a sync call have one deadline, though each byte comes before the time-out of its own wait."""
    server = request.getfixturevalue(server_of(kind))
    name = f"t{uuid4().hex}"
    with (
        Proxy(server.port) as proxy,
        store_behind(proxy, kind, server, name) as patient,
        store_behind(proxy, kind, server, name, timeout=HASTE) as store,
    ):
        patient.append("s", [HumanMessage("1")])
        for _ in range(TRIES):  # on a machine with other work one may be late
            in_the_end(lambda: store.read("s", last=1))
            proxy.drip = 0.1
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                store.read("s", last=1)
            took, proxy.drip = time.monotonic() - began, 0.0
            proxy.cut()
            if took < HASTE + 1:
                break
        assert took < HASTE + 1


def in_the_end(call):
    """Call what may not be done in time at once: to connect may take longer on a machine with other work."""
    for _ in range(20):
        with contextlib.suppress(StoreUnavailableError):
            return call()
    return call()


@pytest.mark.parametrize(("kind", "is_async"), [("mysql+aiomysql", True)])
def test_a_server_that_hangs_is_told(kind, is_async, request):
    """On a connection that is open and on a new one, whether the call costs what is stored or not.

    What was to be appended may have been stored, and to append the batch of the error stores it once.
    """
    server, name = request.getfixturevalue(server_of(kind)), f"t{uuid4().hex}"
    with (
        asyncio.Runner() as runner,
        Proxy(server.port) as proxy,
        store_behind(proxy, kind, server, name) as patient,
        store_behind(proxy, kind, server, name, timeout=0.3) as hasty,
    ):
        face = Face(runner if is_async else None)
        face(patient).append("s", [HumanMessage("1")])
        for _ in range(20):  # to connect may take longer on a machine with other work
            with contextlib.suppress(StoreUnavailableError):
                assert face(hasty).append("t", [HumanMessage("1")])
                break
        proxy.swallow_answers = True
        with pytest.raises(StoreUnavailableError, match="may have been stored") as caught:
            face(hasty).append("s", [HumanMessage("2")])
        proxy.swallow_answers = False
        batches = [caught.value.batch]
        for call in (
            lambda: face(hasty).append("s", [HumanMessage("3"), HumanMessage("4")]),
            lambda: face(hasty).read("s"),
        ):
            proxy.swallow_requests = True
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError) as caught:
                call()
            assert time.monotonic() - began < LONG
            batches.append(caught.value.batch)
            proxy.swallow_requests = False
        assert batches[2] is None
        for batch in batches[:2]:
            for _ in range(2):
                face(patient).append("s", batch)
        assert [message.content for message in face(patient).read("s")] == ["1", "2", "3", "4"]
        assert face(patient).count("s") == 4
        face(patient).close()
        face(hasty).close()


def test_all_waits_of_an_async_call_are_one(store, proxy):
    """Who waits for a connection, and then for an answer, waits no longer than who waits for one of them."""

    async def run() -> list[object]:
        async with store:
            await store.acount("s")
            proxy.swallow_requests = True
            began = time.monotonic()
            results = await asyncio.gather(*(store.acount("s") for _ in range(40)), return_exceptions=True)
            # In turns of two it would be twenty seconds.
            assert time.monotonic() - began < LONG
            proxy.swallow_requests = False
            assert await store.acount("s") == 0
            return results

    results = asyncio.run(run())
    assert [type(result) for result in results] == [StoreUnavailableError] * 40
    assert "got no answer within 1 seconds" in str(results[-1])


def test_a_thread_without_a_connection_is_told(store, proxy):
    store.count("s")
    proxy.swallow_requests = True
    began = time.monotonic()

    def count(_: int) -> None:
        with pytest.raises(StoreUnavailableError):
            store.count("s")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(count, range(8))) == [None] * 8
    assert time.monotonic() - began < LONG
    proxy.swallow_requests = False
    assert store.count("s") == 0


def test_a_client_of_the_caller(redis_server, proxy):
    """A blocking one keeps its own time-outs; of an asyncio one `timeout` bounds the call."""
    url = redis_server.url_with(port=proxy.port)
    with redis.Redis.from_url(url) as blocking, pytest.raises(ConfigurationError, match="timeout does not go with it"):
        RedisStore(client=blocking, timeout=1)

    async def run() -> None:
        client = redis.asyncio.Redis.from_url(url, socket_timeout=60)
        store = RedisStore(async_client=client, timeout=TIMEOUT)
        await store.acount("s")
        proxy.swallow_requests = True
        # What is known of a place is known after a time-out too, so the second call has the same bound.
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError, match="got no answer within"):
                await store.acount("s")
            assert time.monotonic() - began < LONG
        proxy.swallow_requests = False
        assert await store.acount("s") == 0
        await client.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("wrong", [0, -1, True, "10", float("inf"), float("nan")])
def test_a_timeout_is_checked(wrong):
    with pytest.raises(ConfigurationError, match="timeout must be a finite number of seconds above 0"):
        RedisStore("redis://h", timeout=wrong)


@pytest.fixture
def nowhere():
    """A port of a machine that is not there: what is sent to it is neither taken nor refused."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind((HOST, 0))
        listening.listen(0)
        for _ in range(3):  # until the queue of those that nobody accepts is full
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield SimpleNamespace(port=listening.getsockname()[1])


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", [*KINDS, "postgresql+asyncpg", "mysql+aiomysql", "kafka"])
def test_connecting_takes_no_longer_than_its_own_time(kind, is_async, nowhere, request, monkeypatch):
    """That is shorter than the time of a call, whatever the driver tries again."""
    server = request.getfixturevalue(server_of(kind))
    for name, module in list(sys.modules.items()):
        if name.startswith("langchain_histories") and hasattr(module, "CONNECT_TIMEOUT"):
            monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.5)
    with asyncio.Runner() as runner, store_behind(nowhere, kind, server, timeout=20) as store:
        face = Face(runner if is_async else None)
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            face(store).count("s")
        assert time.monotonic() - began < LONG
        face(store).close()
