"""YugabyteDB's drivers over a PostgreSQL that answers as YugabyteDB does: run by `tests/yugabytedb.sh`.

No server of YugabyteDB can be had from a package index. What is real here are its dialect and its drivers; what they ask
the server, `version()` and `yb_servers()`, is answered by functions of those names, and each connection takes the
numbers of a sequence by the hundred, as there. That the nodes of a cluster share the work, and that they give up
transactions by themselves, is not shown.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import threading
import uuid

import pytest

pytest.importorskip("sqlalchemy_yugabytedb", reason="tests/yugabytedb.sh has the environment for it")
pytest.importorskip("psycopg2.loadbalanceproperties", reason="tests/yugabytedb.sh has the environment for it")

import psycopg
import psycopg2
import sqlalchemy as sa
from langchain_core.messages import HumanMessage
from servers import BUSY, WRONG_PASSWORD

from langchain_histories import Capability, ConfigurationError, SQLStore, StoreError, open_store
from langchain_histories.stores.sql import drivers, psycopg_waits, yugabytedb
from langchain_histories.stores.sql.engines import EngineUse
from langchain_histories.stores.sql.yugabytedb import TRIES
from langchain_histories.testing import MessageStoreTests

FACADE = """
CREATE FUNCTION public.version() RETURNS text LANGUAGE sql AS
  $$ SELECT 'PostgreSQL 15.12-YB-2025.1.0.0-b0 on x86_64'::text $$;
CREATE FUNCTION public.yb_servers() RETURNS TABLE (host text, port bigint, num_connections bigint, node_type text,
  cloud text, region text, zone text, public_ip text, uuid text) LANGUAGE sql AS
  $$ SELECT '{host}', {port}::bigint, 0::bigint, 'primary', 'cloud1', 'region1', 'zone1', '{host}', 'u1' $$;
CREATE FUNCTION public.cache_numbers() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE made record; BEGIN
  FOR made IN SELECT DISTINCT objid::regclass::text AS name FROM pg_event_trigger_ddl_commands()
    WHERE object_type = 'sequence' LOOP EXECUTE format('ALTER SEQUENCE %s CACHE 100', made.name); END LOOP; END $$;
CREATE EVENT TRIGGER cache_numbers ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
  EXECUTE FUNCTION public.cache_numbers();
ALTER DATABASE yugabyte SET search_path = public, pg_catalog;
"""
QUERY = "load_balance=true&topology_keys=cloud1.region1.zone1&yb_servers_refresh_interval=60&failed_host_ttl_seconds=7"


@pytest.fixture(scope="session")
def server(postgres_server):
    admin = postgres_server.admin_url
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE yugabyte OWNER {psycopg.conninfo.conninfo_to_dict(postgres_server.url)['user']}"
        )
    with psycopg.connect(admin.rpartition("/")[0] + "/yugabyte", autocommit=True) as connection:
        connection.execute(FACADE.format(host=postgres_server.host, port=postgres_server.port))
    return postgres_server


def url_of(server, query="", **changes):
    return (
        server.url_with(scheme=changes.pop("scheme", "yugabytedb"), **changes).rpartition("/")[0] + f"/yugabyte?{query}"
    )


def new_name():
    return f"t{uuid.uuid4().hex}"


class TestYugabyteDB(MessageStoreTests):
    capabilities = ~Capability(0)

    @pytest.fixture
    def server(self, server):
        return server

    @pytest.fixture
    def open_store(self, server):
        # The drivers stay away from a node for a while after it was down, and this one is started again at once.
        query = QUERY.replace("failed_host_ttl_seconds=7", "failed_host_ttl_seconds=0")
        return functools.partial(SQLStore, url_of(server, query), table_name=new_name(), timeout=BUSY)

    @pytest.fixture
    def unreachable_store(self, server):
        return SQLStore(url_of(server, port=1))

    @pytest.fixture
    def wrong_password_store(self, server):
        return SQLStore(url_of(server, password=WRONG_PASSWORD))

    def traces(self, store):
        found = []
        for name in (store.table_name, f"{store.table_name}_state"):
            with store.client.connect() as connection:
                rows = connection.execute(sa.text(f"SELECT session_id FROM {name} ORDER BY id"))
                found += [f"{name} {key}" for (key,) in rows]
        return found

    def places(self, store):
        seen = sa.inspect(store.client)
        tables = [name for name in seen.get_table_names() if name.startswith(store.table_name)]
        return sorted(tables + [str(index["name"]) for name in tables for index in seen.get_indexes(name)])


def test_a_schema(server):
    """The rows to lock are in it too."""
    schema, name = f'{new_name()[:12]} "a":b', new_name()
    default = SQLStore(url_of(server), table_name=name)
    with default.client.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    with SQLStore(url_of(server), schema=schema, table_name=name) as store:
        store.append("s", [HumanMessage("a")])
        asyncio.run(store.aappend("s", [HumanMessage("b")]))
        store.put_state("s", {"n": 1})
        assert ([message.content for message in store.read("s")], store.get_state("s")) == (["a", "b"], {"n": 1})
        found = sa.inspect(default.client)
        assert sorted(found.get_table_names(schema=schema)) == [name, f"{name}_lock", f"{name}_state"]
        assert not found.has_table(name)
        store.clear("s")
        assert store.sessions() == default.read("s") == []


def test_the_options_reach_the_drivers(server, monkeypatch):
    store = open_store(url_of(server, QUERY), table_name=new_name())
    seen = {}
    blocking, native = psycopg2.connect, psycopg_waits.aconnect

    def connect(*args, **options):
        seen["psycopg2"] = dict(options)
        return blocking(*args, **options)

    async def aconnect(*args, **options):
        seen["psycopg"] = dict(options)
        return await native(*args, **options)

    monkeypatch.setattr(psycopg2, "connect", connect)
    monkeypatch.setattr(psycopg_waits, "aconnect", aconnect)
    with store:
        store.append("s", [HumanMessage("x")])
        assert asyncio.run(store.aread("s")) == [HumanMessage("x")]
    shared = {"topology_keys": "cloud1.region1.zone1", "yb_servers_refresh_interval": "60"}
    assert seen["psycopg2"].items() >= {**shared, "load_balance": "true", "failed_host_ttl_seconds": "7"}.items()
    theirs = {**shared, "load_balance_hosts": "true", "failed_host_reconnect_delay_secs": "7"}
    assert seen["psycopg"].items() >= theirs.items()


@pytest.mark.parametrize(
    "option", ["load_balance=prefer-primary", "load_balance=true&fallback_to_topology_keys_only=true"]
)
def test_an_option_of_one_driver_alone(server, option):
    """The async methods run that driver in threads."""
    with SQLStore(url_of(server, option), table_name=new_name()) as store:
        assert Capability.NATIVE_ASYNC not in store.capabilities
        asyncio.run(store.aappend("s", [HumanMessage("x")]))
        assert store.read("s") == [HumanMessage("x")]
    with pytest.raises(ConfigurationError, match="needs a driver of YugabyteDB's"):
        SQLStore(url_of(server, option, scheme="yugabytedb+psycopg"))


def test_one_driver_for_both_faces(server):
    with SQLStore(url_of(server, QUERY, scheme="yugabytedb+psycopg"), table_name=new_name()) as store:
        store.append("s", [HumanMessage("x")])
        assert asyncio.run(store.aread("s")) == [HumanMessage("x")]
        assert store.client.dialect.driver == "psycopg"


def test_the_usual_drivers_do_not_balance(server, monkeypatch):
    drivers._engine_urls.cache_clear()
    real = yugabytedb._has
    monkeypatch.setattr(
        yugabytedb,
        "_has",
        lambda module: real(module) and module not in ("psycopg2.loadbalanceproperties", "psycopg.yb"),
    )
    with pytest.raises(ConfigurationError, match=r"load_balance.*needs a driver of YugabyteDB's"):
        SQLStore(url_of(server, "load_balance=true"))
    with SQLStore(url_of(server, "load_balance=false"), table_name=new_name()) as store:
        assert store.count("s") == 0


def test_options_without_load_balance(server):
    with pytest.raises(ConfigurationError, match=r"topology_keys: these go with load_balance=true"):
        SQLStore(url_of(server, "topology_keys=a.b.c"))


@pytest.mark.parametrize("face", ["sync", "async"])
def test_what_the_server_gives_up_is_tried_again(server, face):
    """A trigger gives up the first transactions, as two nodes would; its count is in a sequence, which outlives them."""
    name = new_name()
    with SQLStore(url_of(server), table_name=name) as store:

        def append(*texts):
            messages = [HumanMessage(text) for text in texts]
            return asyncio.run(store.aappend("s", messages)) if face == "async" else store.append("s", messages)

        append("before")
        with store.client.begin() as connection:
            connection.exec_driver_sql(
                f"CREATE SEQUENCE n_{name}; CREATE TABLE times_{name} AS SELECT 4 AS n; "
                f"CREATE FUNCTION give_up_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"IF nextval('n_{name}') <= (SELECT n FROM times_{name}) THEN "
                "RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$; "
                f"CREATE TRIGGER g AFTER INSERT ON {name} FOR EACH STATEMENT EXECUTE FUNCTION give_up_{name}()"
            )
        append("a", "b")
        assert [message.content for message in store.read("s")] == ["before", "a", "b"]
        with store.client.begin() as connection:
            assert connection.exec_driver_sql(f"SELECT last_value FROM n_{name}").scalar_one() == 5
            connection.exec_driver_sql(f"UPDATE times_{name} SET n = 1000")
        with pytest.raises(StoreError):
            append("c")
        with store.client.begin() as connection:
            assert connection.exec_driver_sql(f"SELECT last_value FROM n_{name}").scalar_one() == 5 + TRIES
        assert store.count("s") == 3


def test_numbers_that_a_connection_took_in_advance(server):
    name = new_name()
    with SQLStore(url_of(server), table_name=name) as one, SQLStore(url_of(server), table_name=name) as two:
        one.setup()
        with one.client.connect() as connection:
            query = (
                f"SELECT seqcache FROM pg_sequence WHERE seqrelid = pg_get_serial_sequence('{name}', 'id')::regclass"
            )
            assert connection.exec_driver_sql(query).scalar_one() == 100
        position, expected = None, []
        for number in range(3):
            for store in (one, two):
                store.append("s", [HumanMessage(f"{number} a"), HumanMessage(f"{number} b")])
                expected += [f"{number} a", f"{number} b"]
                new = store.records("s", after=position)
                assert [record.message.content for record in new] == expected[-2:]
                position = new[-1].position
        assert [message.content for message in two.read("s")] == expected
        two.replace("s", [HumanMessage("new")])
        assert [message.content for message in one.read("s", after=position)] == ["new"]


def test_a_writer_that_waited_sees_what_the_other_one_did(server):
    """READ COMMITTED is snapshot isolation on YugabyteDB, unless a flag of its servers says otherwise."""
    name, arrived, go_on = new_name(), threading.Event(), threading.Event()

    stores = [SQLStore(url_of(server), table_name=name) for _ in range(2)]
    slow, other = stores
    insert = slow.operations._insert

    async def insert_slowly(*args):
        await insert(*args)
        arrived.set()
        assert go_on.wait(60)

    slow.operations._insert = insert_slowly
    other.setup()

    def waits():
        with psycopg.connect(server.admin_url) as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'yugabyte' AND wait_event_type = 'Lock'"
            return connection.execute(query).fetchone()[0] > 0

    EngineUse.of(slow.client).for_transactions = {"isolation_level": "REPEATABLE READ"}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = [pool.submit(slow.append, "s", [HumanMessage("old")])]
        assert arrived.wait(60)
        running.append(pool.submit(other.replace, "s", [HumanMessage("new")]))
        while not waits():
            assert not running[1].done()
        go_on.set()
        for future in running:
            future.result()
    assert [message.content for message in other.read("s")] == ["new"]
    for store in stores:
        store.close()


def test_lost_locks_lose_no_message(server):
    name = new_name()
    with SQLStore(url_of(server), table_name=name) as store:
        store.append("s", [HumanMessage("x")])
        with store.client.begin() as connection:
            connection.exec_driver_sql(f"DELETE FROM {name}_lock")
        with pytest.raises(ConfigurationError, match="has lost rows"):
            store.append("s", [HumanMessage("y")])
    with SQLStore(url_of(server), table_name=name) as store:
        store.append("s", [HumanMessage("y")])
        assert store.count("s") == 2
