"""As many operations at once as there are connections, counted by a proxy before each service that has a pool."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from langchain_core.messages import HumanMessage
from servers import DATABASE
from servers._proxy import Proxy

from langchain_histories import (
    AzureTableStore,
    ConfigurationError,
    DynamoDBStore,
    MongoDBStore,
    RedisStore,
    SQLStore,
    TablestoreStore,
    UpstashStore,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_histories import MessageStore


@dataclass(frozen=True)
class Service:
    """A service behind the proxy.

    Attributes:
        server: The fixture of its server.
        open: Makes a store of the server behind a port, with options.
        default: How many operations are under way at once by default.
        beside: Connections on which the driver itself waits for something.
    """

    server: str
    open: Callable[..., MessageStore]
    default: int
    beside: int = 0


def _redis(server: Any, port: int, **options: Any) -> MessageStore:
    return RedisStore(server.url_with(port=port), key_prefix=f"{uuid4().hex}:", **options)


def _sql(scheme: str) -> Callable[..., MessageStore]:
    def open_store(server: Any, port: int, **options: Any) -> MessageStore:
        return SQLStore(server.url_with(port=port, scheme=scheme), table_name=f"t{uuid4().hex}", **options)

    return open_store


def _mongodb(server: Any, port: int, **options: Any) -> MessageStore:
    return MongoDBStore(
        server.url_with(port=port), database_name=DATABASE, collection_name=f"c{uuid4().hex}", **options
    )


def _dynamodb(server: Any, port: int, **options: Any) -> MessageStore:
    url = f"dynamodb://a:b@eu-west-1/t{uuid4().hex}?endpoint_url=http://127.0.0.1:{port}"
    return DynamoDBStore(url, create_table=True, **options)


def _azure_table(server: Any, port: int, **options: Any) -> MessageStore:
    account = server.url.replace(f":{server.port}", f":{port}")
    return AzureTableStore(f"{account}/t{uuid4().hex}", **options)


def _upstash(server: Any, port: int, **options: Any) -> MessageStore:
    url = server.url.replace(f":{server.port}", f":{port}")
    return UpstashStore(url, key_prefix=f"{uuid4().hex}:", **options)


def _tablestore(server: Any, port: int, **options: Any) -> MessageStore:
    url = server.url.replace(f":{server.port}", f":{port}")
    return TablestoreStore(url, table_name=f"t{uuid4().hex}", **options)


SERVICES = {
    "redis": Service("redis_server", _redis, 50),
    "psycopg": Service("postgres_server", _sql("postgresql+psycopg"), 15),
    "asyncpg": Service("postgres_server", _sql("postgresql+psycopg2"), 15),
    "mariadb": Service("mariadb_server", _sql("mariadb+pymysql"), 15),
    "mongodb": Service("mongodb_server", _mongodb, 100, beside=2),
    "dynamodb": Service("dynamodb_server", _dynamodb, 50),
    "azure_table": Service("azure_table_server", _azure_table, 50),
    "upstash": Service("upstash_server", _upstash, 50),
    "tablestore": Service("tablestore_server", _tablestore, 50),
}
SESSIONS = 60


@pytest.fixture(params=SERVICES)
def service(request):
    return SERVICES[request.param]


@pytest.fixture
def server(request, service):
    return request.getfixturevalue(service.server)


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as proxy:
        yield proxy


async def _turns(store: MessageStore) -> list[int]:
    async def turn(number: int) -> int:
        await store.aappend(f"s{number}", [HumanMessage("x")])
        return await store.acount(f"s{number}")

    return await asyncio.gather(*(turn(number) for number in range(SESSIONS)))


def test_as_many_at_once_as_a_service_takes(service, server, proxy):
    """No small number of ours stands between a program and the pool of its driver."""
    store = service.open(server, proxy.port)

    async def run() -> list[int]:
        async with store:
            await store.acount("warm")
            proxy.delay = 0.05
            proxy.reset()
            return await _turns(store)

    try:
        assert asyncio.run(run()) == [1] * SESSIONS
    finally:
        proxy.delay = 0
        store.close()
    # More than ten, which was the ceiling once; a slow stand-in does not let all of them begin at once.
    assert 12 <= proxy.most_waiting <= service.default + service.beside


def test_nobody_is_refused_because_all_connections_are_busy(service, server, proxy):
    """Who finds no free connection waits for one, on both faces."""
    store = service.open(server, proxy.port, max_connections=2)

    async def run() -> list[int]:
        async with store:
            await store.acount("warm")
            proxy.reset()
            return await _turns(store)

    assert asyncio.run(run()) == [1] * SESSIONS
    assert proxy.most_waiting <= 2 + service.beside
    with store, ThreadPoolExecutor(20) as pool:
        assert list(pool.map(store.count, (f"s{number}" for number in range(SESSIONS)))) == [1] * SESSIONS


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "10"])
def test_a_number_of_connections_is_checked(wrong):
    for url, kind in {
        "redis://h": RedisStore,
        "postgresql://h/d": SQLStore,
        "mongodb://h": MongoDBStore,
        "dynamodb://eu-west-1/t": DynamoDBStore,
        "upstash://:t@h": UpstashStore,
        "azure-table://a:a2V5@h/table": AzureTableStore,
        "tablestore://a:b@h": TablestoreStore,
    }.items():
        with pytest.raises(ConfigurationError, match="max_connections must be a positive whole number"):
            kind(url, max_connections=wrong)


@pytest.mark.parametrize(
    "open_store",
    [
        lambda: RedisStore("redis://h?max_connections=3", max_connections=4),
        lambda: RedisStore("redis://h", client_options={"max_connections": 3}, max_connections=4),
        lambda: SQLStore("postgresql://h/d", engine_args={"pool_size": 3}, max_connections=4),
        lambda: MongoDBStore("mongodb://h/?maxPoolSize=3", max_connections=4),
        lambda: TablestoreStore("tablestore://a:b@h", client_options={"max_connection": 3}, max_connections=4),
    ],
)
def test_a_number_of_connections_is_given_once(open_store):
    with pytest.raises(ConfigurationError, match="are the same: give one of them"):
        open_store()


def test_sqlite_has_no_pool_to_bound():
    with pytest.raises(ConfigurationError, match="SQLite"):
        SQLStore("sqlite://", max_connections=4)


def test_the_pool_of_an_engine_of_the_caller_is_the_bound(postgres_server):
    from sqlalchemy.ext.asyncio import create_async_engine

    table = f"t{uuid4().hex}"

    async def run(proxy: Proxy) -> list[int]:
        engine = create_async_engine(
            postgres_server.url_with(port=proxy.port, scheme="postgresql+psycopg"),
            pool_size=20,
            max_overflow=5,
            pool_timeout=0.01,
        )
        store = SQLStore(async_client=engine, table_name=table)
        await store.acount("warm")
        proxy.delay = 0.05
        proxy.reset()
        try:
            return await _turns(store)
        finally:
            proxy.delay = 0
            await engine.dispose()

    with Proxy(postgres_server.port) as proxy, contextlib.closing(asyncio.new_event_loop()):
        assert asyncio.run(run(proxy)) == [1] * SESSIONS
        assert 15 < proxy.most_waiting <= 25


def test_writers_of_one_session_are_ten_at_once(redis_server):
    """More of them would only make one another try again, on services without a lock."""

    async def run(proxy: Proxy) -> int:
        async with _redis(redis_server, proxy.port) as store:
            await store.acount("s")
            proxy.delay = 0.02
            proxy.reset()
            await asyncio.gather(*(store.aappend("s", [HumanMessage("x")]) for _ in range(SESSIONS)))
            return await store.acount("s")

    with Proxy(redis_server.port) as proxy:
        assert asyncio.run(run(proxy)) == SESSIONS
        assert proxy.most_waiting <= 10
