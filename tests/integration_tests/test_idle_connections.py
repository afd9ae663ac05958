"""A call on connections that were cut while nobody used them: by the server, a load balancer or a pooler."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from behind import server_of, store_behind
from langchain_core.messages import HumanMessage
from servers._proxy import Proxy

from langchain_histories import StoreUnavailableError
from langchain_histories.testing.faces import Face

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READS: dict[str, Callable[[Any], Any]] = {
    "read": lambda of: len(of.read("s")),
    "records": lambda of: len(of.records("s", last=3)),
    "count": lambda of: of.count("s"),
    "sessions": lambda of: of.sessions()[0].count,
    "get_state": lambda of: of.get_state("s")["n"],
}
SQL = ("postgresql+psycopg", "postgresql+asyncpg", "mariadb+pymysql", "mysql+aiomysql")


def cut(proxy: Proxy, runner: asyncio.Runner) -> None:
    """Cut all connections while their event loop, as in a served application, runs."""
    proxy.cut()
    runner.run(asyncio.sleep(0.02))


@pytest.fixture
def proxy(kind: str, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with Proxy(request.getfixturevalue(server_of(kind)).port) as proxy:
        yield proxy


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", ["redis", *SQL, "mongodb", "upstash", "dynamodb", "azure_table", "tablestore"])
def test_reads_after_a_cut(kind: str, is_async: bool, proxy: Proxy, request: pytest.FixtureRequest) -> None:
    """Each is tried once more, so none fails. Nothing is tried again where no connection was cut."""
    server = request.getfixturevalue(server_of(kind))
    with asyncio.Runner() as runner, store_behind(proxy, kind, server) as store:
        of = Face(runner if is_async else None)(store)
        of.append("s", [HumanMessage("x")])
        of.put_state("s", {"n": 1})
        for name, read in READS.items():
            assert read(of) == 1
            cut(proxy, runner)
            assert read(of) == 1, name
        of.close()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", ["redis", *SQL, "mongodb", "upstash", "dynamodb", "azure_table", "tablestore"])
def test_writes_after_a_cut(kind: str, is_async: bool, proxy: Proxy, request: pytest.FixtureRequest) -> None:
    """The driver looks at a connection before it sends anything, or the request may be sent twice."""
    server = request.getfixturevalue(server_of(kind))
    with asyncio.Runner() as runner, store_behind(proxy, kind, server) as store:
        of = Face(runner if is_async else None)(store)
        of.append("s", [HumanMessage("0")])
        for number in range(1, 4):
            cut(proxy, runner)
            of.append("s", [HumanMessage(str(number))])
            cut(proxy, runner)
            of.update_state("s", lambda old: {"n": (old or {"n": 0})["n"] + 1})
        assert [message.content for message in of.read("s")] == ["0", "1", "2", "3"]
        assert of.get_state("s") == {"n": 3}
        of.close()


KINDS = ["redis", *SQL, "mongodb", "upstash", "dynamodb", "azure_table", "tablestore"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_is_cut_amid_a_call(
    kind: str, is_async: bool, proxy: Proxy, request: pytest.FixtureRequest
) -> None:
    """A write is done once, whether the server had got it or not: with an error or without."""
    server = request.getfixturevalue(server_of(kind))
    with asyncio.Runner() as runner, store_behind(proxy, kind, server) as store:
        of = Face(runner if is_async else None)(store)
        of.append("s", [HumanMessage("0")])
        of.put_state("s", {"n": 0})
        told = []
        for number, what in enumerate(("cut_requests", "cut_answers"), 1):
            for call in (
                lambda n=number: of.append("s", [HumanMessage(f"{n}a"), HumanMessage(f"{n}b")]),
                lambda: of.update_state("s", lambda old: {"n": old["n"] + 1}),
                lambda: of.read("s"),
            ):
                setattr(proxy, what, 1)
                try:
                    call()
                except StoreUnavailableError as error:
                    told.append((what, error.operation, str(error)))
                assert getattr(proxy, what) == 0
        assert told == []
        assert [message.content for message in of.read("s")] == ["0", "1a", "1b", "2a", "2b"]
        assert of.count("s") == 5
        assert of.get_state("s") == {"n": 2}
        of.close()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_cuts_every_connection_is_asked_twice(
    kind: str, is_async: bool, proxy: Proxy, request: pytest.FixtureRequest
) -> None:
    """There is no storm of connections; and no call fails that begins when the server is well again."""
    server = request.getfixturevalue(server_of(kind))
    with asyncio.Runner() as runner, store_behind(proxy, kind, server, timeout=2) as store:
        of = Face(runner if is_async else None)(store)
        of.append("s", [HumanMessage("x")])
        counted = []
        for call in (lambda: of.count("s"), lambda: of.append("s", [HumanMessage("y")])):
            proxy.cut_requests, proxy.accepted = 1_000, 0
            with pytest.raises(StoreUnavailableError):
                call()
            counted.append(proxy.accepted)
            proxy.cut_requests = 0
            assert of.count("s") == 1
        # PyMongo's monitor of the server asks it each half second, however many calls wait.
        assert max(counted) <= (6 if kind == "mongodb" else 4), counted
        of.close()
