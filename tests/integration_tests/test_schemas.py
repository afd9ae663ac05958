"""Histories in a schema of PostgreSQL, and in another database of MariaDB than that of the URL."""

from __future__ import annotations

import asyncio
import uuid

import psycopg
import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage

from langchain_histories import (
    ConfigurationError,
    DefaultMessageConverter,
    PostgresChatMessageHistory,
    SQLChatMessageHistory,
    SQLStore,
    open_history,
    open_store,
)

TURN = [HumanMessage("q"), AIMessage("a")]
SCHEMES = {
    "postgresql+psycopg": "postgres",
    "postgresql+psycopg2": "postgres",
    "postgresql+asyncpg": "postgres",
    "mysql+pymysql": "mariadb",
}


def texts(messages):
    return [message.content for message in messages]


@pytest.fixture
def name():
    return f"t{uuid.uuid4().hex}"


@pytest.fixture(params=SCHEMES)
def url(request):
    return request.getfixturevalue(f"{SCHEMES[request.param]}_server").url_with(scheme=request.param)


@pytest.fixture
def admin(request, url):
    """A connection that makes schemas, in the database of the URL."""
    if url.startswith("postgresql"):
        engine = sa.create_engine(url.replace("+asyncpg", "+psycopg"), isolation_level="AUTOCOMMIT")
    else:
        admin_url = sa.make_url(request.getfixturevalue("mariadb_server").admin_url)
        engine = sa.create_engine(admin_url.set(drivername="mysql+pymysql", database=sa.make_url(url).database))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def schemas(url, admin):
    """Two schemas, with odd names."""
    names = [f'{uuid.uuid4().hex[:8]} "a"', f"{uuid.uuid4().hex[:8]}.b`:x%"]
    quote, user = admin.dialect.identifier_preparer.quote_identifier, sa.make_url(url).username
    for schema in names:
        admin.execute(sa.schema.CreateSchema(schema))
        if admin.dialect.name == "mysql":
            admin.exec_driver_sql(f"GRANT ALL ON {quote(schema)}.* TO '{user}'@'%%'")
    yield names
    for schema in names:
        admin.execute(sa.schema.DropSchema(schema, cascade=admin.dialect.name == "postgresql"))


def tables(admin, schema):
    """The tables of a schema, with the columns of their indexes."""
    seen = sa.inspect(admin)
    names = sorted(seen.get_table_names(schema=schema))
    return {name: [index["column_names"] for index in seen.get_indexes(name, schema=schema)] for name in names}


@pytest.mark.parametrize("is_async", [False, True])
def test_a_schema(url, admin, schemas, name, is_async):
    """Both tables and their indexes are in it. The same table of another schema is another place."""
    one, other = (open_store(url, schema=schema, table_name=name) for schema in schemas)
    default = SQLStore(url, table_name=name)

    def call(store, what, *args, **options):
        if is_async:
            return asyncio.run(getattr(store, f"a{what}")(*args, **options))
        return getattr(store, what)(*args, **options)

    with one, other, default:
        assert (call(one, "read", "s"), call(one, "sessions"), call(one, "get_state", "s")) == ([], [], None)
        call(one, "clear", "s")
        assert tables(admin, schemas[0]) == {}
        call(one, "append", "s", TURN)
        call(one, "put_state", "s", {"n": 1})
        made = {name: [["session_id", "id"]], f"{name}_state": [["session_id", "id"]]}
        assert [tables(admin, schema) for schema in schemas] == [made, {}]
        assert name not in tables(admin, None)
        assert (call(other, "read", "s"), call(default, "count", "s")) == ([], 0)
        for store, text in ((other, "other"), (default, "default")):
            call(store, "append", "s", [HumanMessage(text)])
            call(store, "put_state", "s", {"of": text})
        call(one, "update_state", "s", lambda state: {"n": state["n"] + 1})
        call(one, "append", "s", TURN * 100)
        call(one, "replace", "s", [*call(one, "read", "s", last=3), HumanMessage("end")])
        call(one, "delete", "s", [call(one, "records", "s")[0].id])
        assert texts(call(one, "read", "s")) == ["q", "a", "end"]
        assert call(one, "get_state", "s") == {"n": 2}
        assert [(info.session_id, info.count) for info in call(one, "sessions")] == [("s", 3)]
        call(one, "clear", "s")
        assert (call(one, "sessions"), call(one, "get_state", "s")) == ([], None)
        for store, text in ((other, "other"), (default, "default")):
            assert (texts(call(store, "read", "s")), call(store, "get_state", "s")) == ([text], {"of": text})


def test_a_history_of_a_schema(url, schemas, name):
    """What LangChain's class made there is used as it is, by an upgrade too."""
    from langchain_community.chat_message_histories.sql import DefaultMessageConverter

    engine = sa.create_engine(url.replace("+asyncpg", "+psycopg"))
    table = DefaultMessageConverter(name).get_sql_model_class().__table__.to_metadata(sa.MetaData(), schema=schemas[0])
    table.create(engine)
    engine.dispose()
    history = open_history(url, "s", schema=schemas[0], table_name=name)
    history.add_messages(TURN)
    history.store.setup(upgrade=True)
    history.add_message(HumanMessage("x" * 100_000))
    assert history.messages[:2] == TURN
    assert len(history.messages) == 3


def test_a_schema_that_is_not_there(request, url, name):
    if url.startswith("mysql"):
        # MariaDB says nothing about databases of others, not even that they are not there.
        url = request.getfixturevalue("mariadb_server").admin_url.replace("mysql:", "mysql+pymysql:")
    with SQLStore(url, schema="no_such_schema", table_name=name) as store:
        assert (store.read("s"), store.count("s"), store.sessions()) == ([], 0, [])
        for call in (lambda: store.append("s", TURN), lambda: asyncio.run(store.aput_state("s", {}))):
            with pytest.raises(ConfigurationError, match="CREATE SCHEMA"):
                call()


@pytest.mark.parametrize("url", ["postgresql+psycopg", "mysql+pymysql"], indirect=True)
def test_writers_of_a_schema_wait_for_those_who_find_it_by_themselves(url, admin, schemas, name):
    """The schema's table is one place, however a program names it, so its sessions have one lock."""
    named = SQLStore(url, schema=schemas[0], table_name=name)
    if admin.dialect.name == "mysql":
        found = sa.make_url(url).set(database=schemas[0])
        found = SQLStore(found.render_as_string(hide_password=False), table_name=name)
    else:
        options = "-csearch_path=" + '"{}"'.format(schemas[0].replace('"', '""')).replace(" ", "\\ ")
        found = SQLStore(url, table_name=name, engine_args={"connect_args": {"options": options}})
    with named, found:
        named.append("s", TURN)
        found.append("s", TURN)
        assert (named.count("s"), found.count("s")) == (4, 4)
        assert len({store.operations._lock_name(store.operations.found.what, "s") for store in (named, found)}) == 1


@pytest.mark.parametrize("url", ["postgresql+psycopg"], indirect=True)
def test_a_drop_in_of_postgresql(url, admin, schemas, name):
    schema = schemas[0]
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        assert PostgresChatMessageHistory(name, "s", sync_connection=connection, schema_name=schema).messages == []
        PostgresChatMessageHistory.create_tables(connection, name, schema_name=schema)
        history = PostgresChatMessageHistory(name, "s", sync_connection=connection, schema_name=schema)
        history.add_messages(TURN)
        connection.commit()
        assert list(tables(admin, schema)) == [name, f"{name}_state"]
        joined = PostgresChatMessageHistory(session_id="s", connection_string=url, table_name=name, schema_name=schema)
        assert joined.messages == history.messages == TURN
        PostgresChatMessageHistory.drop_table(connection, name, schema_name=schema)
        connection.commit()
    assert tables(admin, schema) == {}


def test_names_that_are_none(tmp_path):
    with pytest.raises(ConfigurationError, match="attached"):
        SQLStore(f"sqlite:///{tmp_path}/chat.db", schema="other")
    for name in ("", "a\0b", 5, "x" * 64):
        with pytest.raises(ConfigurationError, match="schema"):
            SQLStore("postgresql+psycopg://u@localhost/d", schema=name)


@pytest.mark.parametrize("url", ["postgresql+psycopg", "mysql+pymysql"], indirect=True)
@pytest.mark.parametrize("has_default", [False, True])
def test_an_engine_that_translates_schemas(url, schemas, name, has_default):
    """SQLAlchemy's way to give each tenant a schema: what is stored is where LangChain's class has it on this engine."""
    from langchain_community.chat_message_histories import SQLChatMessageHistory as Theirs

    plain = sa.create_engine(url)
    if has_default:
        SQLStore(client=plain, table_name=name).append("s", [HumanMessage("of nobody")])
    for schema in schemas:
        engine = plain.execution_options(schema_translate_map={None: schema})
        with engine.connect() as connection:
            for client in (engine, connection):
                history = SQLChatMessageHistory("s", name, connection=client)
                history.add_messages(TURN)
                assert history.messages[-2:] == TURN
                history.store.put_state("s", {"of": schema})
                assert SQLStore(client=client, table_name=name).get_state("s") == {"of": schema}
        named = SQLStore(client=plain, table_name=name, schema=schema)
        assert (named.read("s"), named.get_state("s")) == (TURN * 2, {"of": schema})
        assert SQLStore(client=engine, table_name=name, schema=schema).read("s") == TURN * 2
        assert Theirs("s", connection=engine, table_name=name).messages == TURN * 2
        of_model = {"custom_message_converter": DefaultMessageConverter(name), "connection": engine}
        assert SQLChatMessageHistory("s", **of_model).messages == TURN * 2
    assert SQLStore(client=plain, table_name=name).read("s") == [HumanMessage("of nobody")] * has_default
    plain.dispose()
