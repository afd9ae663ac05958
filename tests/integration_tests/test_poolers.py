"""PostgreSQL behind PgBouncer in transaction mode: each transaction gets any connection to the server.

A statement that a driver has prepared is on one of these connections alone, where another client may have prepared
another one of the same name.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import uuid

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage

from langchain_histories import Capability, SQLStore
from langchain_histories.testing.suite.reads import ReadTests
from langchain_histories.testing.suite.state import StateTests

TURN = [HumanMessage("q"), AIMessage("a")]


def new_name():
    return f"t{uuid.uuid4().hex}"


class TestPgBouncer(ReadTests, StateTests):
    """The rules whose calls send one statement after another. What many do at once is below."""

    capabilities = ~Capability(0)

    @pytest.fixture
    def open_store(self, pgbouncer_server):
        url = pgbouncer_server.url_with(scheme="postgresql+psycopg")
        return functools.partial(SQLStore, url, table_name=new_name())


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg"])
def test_no_call_fails(pgbouncer_server, scheme):
    """Eight threads and forty tasks at once, over three connections to the server."""
    url = pgbouncer_server.url_with(scheme=scheme)
    stores = [SQLStore(url, table_name=new_name(), jsonb=jsonb) for jsonb in (False, True)]

    async def all_at_once(number):
        async def turns(store):
            for _ in range(2):
                await store.aappend(f"async {number}", TURN)
                await store.aread(f"async {number}", last=2)

        await asyncio.gather(*(turns(store) for store in stores for _ in range(20)))

    def turns(number):
        for _ in range(8):
            for store in stores:
                store.append(f"sync {number}", TURN)
                assert len(store.read(f"sync {number}", last=2)) == 2

    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        loop = pool.submit(asyncio.run, all_at_once(0))
        list(pool.map(turns, range(8)))
        loop.result()
    for store in stores:
        assert [store.count(f"sync {number}") for number in range(8)] == [16] * 8
        assert store.count("async 0") == 80
        store.close()


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql+asyncpg"])
def test_drivers_prepare_statements_without_a_pooler(postgres_server, scheme):
    """Because a read would take half as long again."""
    with SQLStore(postgres_server.url_with(scheme=scheme), table_name=new_name()) as store:

        async def names(engine):
            async with engine.connect() as connection:
                return (await connection.execute(sa.text("SELECT name FROM pg_prepared_statements"))).all()

        async def after_some_calls():
            for _ in range(8):
                await store.aappend("s", TURN)
            return await store.arun("names", names)

        assert asyncio.run(after_some_calls())


def test_what_the_caller_says_of_prepared_statements_stays(pgbouncer_server):
    said = {"connect_args": {"prepare_threshold": 0}}
    url = pgbouncer_server.url_with(scheme="postgresql+psycopg")
    with SQLStore(url, engine_args=said) as store, store.client.connect() as connection:
        assert connection.connection.driver_connection.prepare_threshold == 0
