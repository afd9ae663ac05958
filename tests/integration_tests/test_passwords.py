"""Logins with odd passwords on real servers: what the driver takes works, however it is written, and is not shown."""

from __future__ import annotations

import asyncio
import logging
import traceback
import uuid
from urllib.parse import quote

import psycopg
import pymongo
import pymysql
import pytest
import redis
from langchain_core.messages import HumanMessage
from psycopg import sql
from servers import DATABASE

from langchain_histories import (
    ConfigurationError,
    HistoryRegistry,
    MongoDBStore,
    PostgresChatMessageHistory,
    RedisChatMessageHistory,
    SQLChatMessageHistory,
    SQLStore,
    StoreUnavailableError,
    open_history,
    open_store,
)

# A piece of each password, so that a piece of it is found too.
MARK = "Secret7"
PASSWORDS = {
    "as it is": f"a&b=c;d,e!f-{MARK}~$^*()",
    "colon, percent": f"a:b 100%g{MARK}+",
    "slash, question, brackets": f"[a/b]?{MARK}#[",
    "quotes": f'it\'s "{MARK}" \\ `x`',
    "all": f"a/b?c#d@e:f%g+h i{MARK}",
    "encoded": f"a%2Fb{MARK}",
}
odd_passwords = pytest.mark.parametrize("password", PASSWORDS.values(), ids=PASSWORDS)


@pytest.fixture
def name():
    return f"t{uuid.uuid4().hex[:12]}"


def encoded(password):
    return quote(password, safe="")


def use(histories, caplog):
    """Write and read with both faces, and look at what is shown."""
    with caplog.at_level(logging.DEBUG, "langchain_histories"):
        for number, history in enumerate(histories):
            history.add_user_message(f"{number}")
            asyncio.run(history.aadd_messages([HumanMessage("again")]))
            assert [m.content for m in history.messages[-2:]] == [f"{number}", "again"]
            assert MARK not in f"{history!r} {history.store!r}"
            history.store.close()
    assert MARK not in caplog.text


def refused(make):
    """Check that a login is refused, and what the error shows."""
    with pytest.raises(StoreUnavailableError) as caught:
        make().read("s")
    assert MARK not in "".join(traceback.format_exception(caught.value))
    assert MARK not in f"{caught.value!r} {caught.value.__cause__!r}"


def says_how(make):
    """Check that a password has to be written in another way, and that the error says how."""
    with pytest.raises(ConfigurationError, match="percent-encoded") as caught:
        make()
    assert MARK not in repr(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def use_as_written(histories, open_with, password, caplog):
    """The password as it is, not percent-encoded: it works, or the error says how to write it. Another is refused."""
    refused(lambda: open_with(encoded(password + "x")))
    if "@" in password:
        says_how(lambda: open_with(password))
    elif "%2F" not in password:
        use(histories(password), caplog)
        refused(lambda: open_with(password + "x"))


@odd_passwords
def test_postgresql(postgres_server, name, password, caplog):
    with psycopg.connect(postgres_server.admin_url, dbname=DATABASE, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), password))
        admin.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(sql.Identifier(name)))
    host = f"{postgres_server.host}:{postgres_server.port}"

    def url(driver, text, database=DATABASE):
        return f"postgresql{driver}://{name}:{text}@{host}/{database}"

    def histories(text):
        for driver in ("", "+psycopg", "+psycopg2", "+asyncpg"):
            yield open_store(url(driver, text), table_name=name).history("s")
        yield SQLChatMessageHistory("s", name, connection=url("+psycopg", text))
        yield PostgresChatMessageHistory(session_id="s", connection_string=url("+psycopg", text), table_name=name)

    use(histories(encoded(password)), caplog)
    libpq = "'" + password.replace("\\", "\\\\").replace("'", "\\'") + "'"
    settings = f"host={postgres_server.host} port={postgres_server.port} user={name} password={libpq} dbname={DATABASE}"
    for text in (url("", encoded(password)), settings):
        use([PostgresChatMessageHistory(session_id="s", connection_string=text, table_name=name)], caplog)
    place = f"postgresql+psycopg://{name}@{host}/{DATABASE}"
    with_args = SQLStore(place, table_name=name, engine_args={"connect_args": {"password": password}})
    use([with_args.history("s")], caplog)
    refused(lambda: SQLStore(url("+psycopg", encoded(password), "no_such_database")))
    use_as_written(histories, lambda text: SQLStore(url("+psycopg", text)), password, caplog)


@odd_passwords
def test_mariadb(mariadb_server, name, password, caplog):
    admin = pymysql.connect(
        host=mariadb_server.host, port=mariadb_server.port, user="admin", password="admin-password", autocommit=True
    )
    with admin, admin.cursor() as cursor:
        cursor.execute("CREATE USER %s@'%%' IDENTIFIED BY %s", (name, password))
        cursor.execute(f"GRANT ALL PRIVILEGES ON {DATABASE}.* TO %s@'%%'", (name,))

    def url(driver, text, database=DATABASE):
        return f"mysql{driver}://{name}:{text}@{mariadb_server.host}:{mariadb_server.port}/{database}"

    def histories(text):
        for driver in ("", "+pymysql", "+asyncmy"):
            yield open_store(url(driver, text), table_name=name).history("s")

    use(histories(encoded(password)), caplog)
    use_as_written(histories, lambda text: SQLStore(url("+pymysql", text)), password, caplog)


@odd_passwords
def test_redis(redis_server, name, password, caplog):
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.acl_setuser(name, enabled=True, passwords=[f"+{password}"], keys=["*"], commands=["+@all"])
    host = f"{redis_server.host}:{redis_server.port}"

    def url(text):
        return f"redis://{name}:{text}@{host}/0"

    place = url(encoded(password))
    registry = HistoryRegistry.from_config({"histories": {"a": {"url": place}}})
    use([open_history(place, name), registry.history(name), RedisChatMessageHistory(name, place)], caplog)
    use([open_history(f"redis://{host}/0?username={name}&password={encoded(password)}", name)], caplog)
    options = {"username": name, "password": password}
    use([open_history(f"redis://{host}", name, client_options=options)], caplog)
    refused(lambda: open_store(url(encoded(password + "x"))))
    if set("/?#[") & set(password):
        says_how(lambda: open_store(url(password)))
    elif "%2F" not in password:
        use([open_history(url(password), name)], caplog)
        refused(lambda: open_store(url(password + "x")))
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.acl_deluser(name)


@odd_passwords
def test_mongodb(mongodb_server, name, password, caplog):
    with pymongo.MongoClient(mongodb_server.admin_url) as admin:
        admin[DATABASE].command("createUser", name, pwd=password, roles=["readWrite"])
    host = f"{mongodb_server.host}:{mongodb_server.port}"

    def url(text):
        return f"mongodb://{name}:{text}@{host}/{DATABASE}"

    place = {"database_name": DATABASE, "collection_name": name}
    use([open_history(url(encoded(password)), "s", **place)], caplog)
    options = {"username": name, "password": password, "authSource": DATABASE}
    use([MongoDBStore(f"mongodb://{host}", client_options=options, **place).history("s")], caplog)
    refused(lambda: MongoDBStore(url(encoded(password + "x")), **place))
    if set("/?@:") & set(password) or "%g" in password:
        says_how(lambda: MongoDBStore(url(password), **place))
    elif "%2F" not in password:
        use([open_history(url(password), "s", **place)], caplog)
