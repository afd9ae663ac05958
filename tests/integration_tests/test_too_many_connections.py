"""A server that has as many connections as it takes, and a pool of which all are in use: the error says what to do."""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import psycopg
import pytest
import redis
import sqlalchemy as sa
from psycopg import sql
from psycopg_pool import ConnectionPool
from servers import DATABASE
from servers._proxy import Proxy

from langchain_histories import MongoDBStore, RedisStore, SQLStore, StoreUnavailableError
from langchain_histories.testing.faces import Face


@contextlib.contextmanager
def full_postgresql(server):
    """A user of whom the server takes no more connections."""
    name = f"u{uuid.uuid4().hex}"
    with psycopg.connect(server.admin_url, dbname=DATABASE, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret' CONNECTION LIMIT 0").format(sql.Identifier(name)))
    yield server.url_with(user=name, password="secret").partition("://")[2]


@contextlib.contextmanager
def full_mariadb(server):
    """A user who has the one connection that the server takes of it."""
    name = f"u{uuid.uuid4().hex[:8]}"
    admin = sa.create_engine(server.admin_url.replace("mysql:", "mysql+pymysql:"))
    with admin.begin() as connection:
        connection.exec_driver_sql(f"CREATE USER '{name}'@'%%' IDENTIFIED BY 'secret' WITH MAX_USER_CONNECTIONS 1")
        connection.exec_driver_sql(f"GRANT ALL ON {DATABASE}.* TO '{name}'@'%%'")
    admin.dispose()
    place = server.url_with(user=name, password="secret").partition("://")[2]
    engine = sa.create_engine(f"mysql+pymysql://{place}")
    with engine.connect():
        yield place
    engine.dispose()


DRIVERS = [
    *(("postgresql+psycopg", False), ("postgresql+psycopg", True), ("postgresql+psycopg2", False)),
    *(("postgresql+asyncpg", True), ("mysql+pymysql", False), ("mysql+asyncmy", True), ("mysql+aiomysql", True)),
]
TOLD = r"has no connection left .*lower max_connections.* raise the server's limit"


@pytest.mark.parametrize(("scheme", "is_async"), DRIVERS)
def test_a_full_server_of_sql(request, scheme, is_async):
    is_postgresql = scheme.startswith("postgresql")
    server = request.getfixturevalue("postgres_server" if is_postgresql else "mariadb_server")
    full = full_postgresql if is_postgresql else full_mariadb
    with asyncio.Runner() as runner, full(server) as place, SQLStore(f"{scheme}://{place}") as store:
        of = Face(runner if is_async else None)(store)
        with pytest.raises(StoreUnavailableError, match=TOLD) as caught:
            of.read("s")
        assert caught.value.__cause__ is not None
        of.close()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_full_redis(redis_server, is_async):
    with (
        redis.Redis.from_url(redis_server.url) as admin,
        asyncio.Runner() as runner,
        RedisStore(redis_server.url) as store,
    ):
        of = Face(runner if is_async else None)(store)
        usual = admin.config_get("maxclients")["maxclients"]
        try:
            admin.config_set("maxclients", 1)
            with pytest.raises(StoreUnavailableError, match=TOLD):
                of.read("s")
        finally:
            admin.config_set("maxclients", usual)
        assert of.read("s") == []
        of.close()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_full_mongodb(mongodb_server, is_async):
    """It closes a new connection without a word."""
    with Proxy(mongodb_server.port) as proxy, asyncio.Runner() as runner:
        proxy.cut_requests = 1_000
        options = {"serverSelectionTimeoutMS": 300}
        store = MongoDBStore(mongodb_server.url_with(port=proxy.port), client_options=options)
        of = Face(runner if is_async else None)(store)
        with store, pytest.raises(StoreUnavailableError, match=r"lower max_connections.*maxIncomingConnections"):
            of.read("s")
        of.close()


@pytest.mark.parametrize("kind", ["postgresql", "psycopg_pool", "redis", "redis of the caller"])
def test_a_pool_without_a_free_connection(request, kind):
    with contextlib.ExitStack() as stack:
        if kind == "postgresql":
            url = request.getfixturevalue("postgres_server").url_with(scheme="postgresql+psycopg")
            store = SQLStore(url, max_connections=1, timeout=0.5)
            stack.enter_context(store.client.connect())
        elif kind == "psycopg_pool":
            conninfo = request.getfixturevalue("postgres_server").url
            pool = stack.enter_context(ConnectionPool(conninfo, min_size=1, max_size=1, timeout=0.5))
            stack.enter_context(pool.connection())
            store = SQLStore(client=pool)
        else:
            pools = redis.BlockingConnectionPool if kind == "redis" else redis.ConnectionPool
            url = request.getfixturevalue("redis_server").url
            client = redis.Redis(connection_pool=pools.from_url(url, max_connections=1))
            store = RedisStore(url, max_connections=1, timeout=0.5) if kind == "redis" else RedisStore(client=client)
            taken = store.client.connection_pool.get_connection()
            stack.callback(store.client.connection_pool.release, taken)
        with pytest.raises(StoreUnavailableError, match=r"had no free connection .*raise max_connections"):
            store.read("s")
