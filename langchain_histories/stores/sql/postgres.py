"""`PostgresChatMessageHistory`: the class of langchain-postgres and that of langchain-community, over `SQLStore`.

The store sees what a table is made of; how it keeps a record in JSONB is in `jsonb.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypedDict

from langchain_histories._urls import bad_url, read_url
from langchain_histories.errors import ConfigurationError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.stores.base import needs_extra
from langchain_histories.stores.sql.store import SQLStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    import psycopg
    import sqlalchemy as sa
    from langchain_core.messages import BaseMessage
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

    from langchain_histories.stores.base import SessionId


_FORM = (
    "postgresql://[user:password@]host[:5432]/database, or as libpq's host=... dbname=... password='...', unless a "
    "connection is passed as sync_connection or async_connection"
)


class _CommunityArguments(TypedDict, total=False):
    session_id: SessionId
    connection_string: str | sa.URL
    table_name: str


class PostgresChatMessageHistory(StoredChatMessageHistory):
    """A history in PostgreSQL with the constructor of langchain-postgres' class, and of langchain-community's.

        PostgresChatMessageHistory("chat_history", session_id, sync_connection=connection)
        PostgresChatMessageHistory(session_id="42", connection_string="postgresql://user@host/chats")

    The first form uses your connections and never closes them. It writes in a transaction of its own, or, while you
    have one open, in a savepoint, which lasts when you commit. All histories on one connection take turns. In the
    second form all histories of one connection string in a process share their engines.

    The table is used as it is found: langchain-postgres' has a column of UUIDs and refuses other session ids; one that
    is made here, on first use or by `create_tables`, takes any, and LangChain's classes read and write it too.

    Args:
        table_name: The table.
        session_id: The session.
        sync_connection: Your `psycopg.Connection`, or a `ConnectionPool` of them, of which each call takes one. Without
            an async one the async methods use it in threads.
        async_connection: Your `psycopg.AsyncConnection`, or an `AsyncConnectionPool`. With it alone, sync methods raise
            `ConfigurationError`.
        schema_name: The schema of the table, as of `SQLStore`; `None` for where the connection looks for it.
        **community: langchain-community's arguments: `session_id`, `connection_string`, which is a URL (a text or
            SQLAlchemy's `URL`) or libpq's `host=... dbname=...`, and `table_name="message_store"`.

    Raises:
        ConfigurationError: There is neither a connection nor a connection string, or one cannot be used.
        MissingExtraError: psycopg is not installed.
    """

    store: SQLStore

    def __init__(
        self,
        table_name: str | None = None,
        session_id: SessionId | None = None,
        /,
        *,
        sync_connection: psycopg.Connection[Any] | ConnectionPool[Any] | None = None,
        async_connection: psycopg.AsyncConnection[Any] | AsyncConnectionPool[Any] | None = None,
        schema_name: str | None = None,
        **community: Unpack[_CommunityArguments],
    ) -> None:
        """Join the place of these connections."""
        if sync_connection is None and async_connection is None:
            given = _community_arguments(table_name, session_id, community)
            table_name, session_id = given["table_name"], given["session_id"]
            store = SQLStore(_url(given["connection_string"]), table_name=table_name, schema=schema_name, jsonb=True)
        elif community or table_name is None or session_id is None:
            raise ConfigurationError(
                "With a connection pass the table and the session first: "
                "PostgresChatMessageHistory('chat_history', session_id, sync_connection=connection)."
            )
        else:
            store = _store(table_name, schema_name, sync_connection, async_connection)
        super().__init__(store, session_id)
        self.table_name = table_name

    @property
    def messages(self) -> list[BaseMessage]:
        """The messages, oldest first; assign to replace them all in one transaction."""
        return self._visible()

    @messages.setter
    def messages(self, messages: Sequence[BaseMessage]) -> None:
        self.store.replace(self.session_id, messages)

    @staticmethod
    def create_tables(
        connection: psycopg.Connection[Any], table_name: str, /, *, schema_name: str | None = None
    ) -> None:
        """Make the table, its index and the table of states, where they are missing."""
        _store(table_name, schema_name, connection, None).setup()

    @staticmethod
    async def acreate_tables(
        connection: psycopg.AsyncConnection[Any], table_name: str, /, *, schema_name: str | None = None
    ) -> None:
        """Async `create_tables`."""
        await _store(table_name, schema_name, None, connection).asetup()

    @staticmethod
    def drop_table(connection: psycopg.Connection[Any], table_name: str, /, *, schema_name: str | None = None) -> None:
        """Remove the table with all its sessions, and the table of states."""
        store = _store(table_name, schema_name, connection, None)
        operations: Any = store.operations
        store.run("drop", operations.drop, needs_setup=False)

    @staticmethod
    async def adrop_table(
        connection: psycopg.AsyncConnection[Any], table_name: str, /, *, schema_name: str | None = None
    ) -> None:
        """Async `drop_table`."""
        store = _store(table_name, schema_name, None, connection)
        operations: Any = store.operations
        await store.arun("drop", operations.drop, needs_setup=False)


def _store(table_name: str, schema_name: str | None, connection: Any, async_connection: Any) -> SQLStore:
    """The store of a table on the caller's connections or pools."""
    with needs_extra("postgres"):
        import psycopg  # noqa: F401

        from langchain_histories.stores.sql.drivers import blocking_connections, native_connections
    for name, given, kinds in (
        ("sync_connection", connection, blocking_connections()),
        ("async_connection", async_connection, native_connections()),
    ):
        if given is not None and not isinstance(given, kinds):
            raise ConfigurationError(
                f"{name} must be a psycopg.{kinds[0].__name__} or a pool of them, not {type(given).__name__}."
            )
    names: dict[str, Any] = {"table_name": table_name, "schema": schema_name}
    return SQLStore(client=connection, async_client=async_connection, jsonb=True, **names)


def _community_arguments(first: Any, second: Any, named: Any) -> dict[str, Any]:
    """Return langchain-community's arguments, from positions and names.

    Raises:
        ConfigurationError: One is unknown, missing or given twice.
    """
    given = {name: value for name, value in (("session_id", first), ("connection_string", second)) if value is not None}
    if given.keys() & named.keys():
        raise ConfigurationError(f"{', '.join(given.keys() & named.keys())} is given twice.")
    given |= named
    if unknown := given.keys() - _CommunityArguments.__annotations__.keys():
        raise ConfigurationError(f"PostgresChatMessageHistory has no argument {', '.join(sorted(unknown))}.")
    if "connection_string" not in given or "session_id" not in given:
        raise ConfigurationError(
            "Pass a sync_connection or an async_connection of psycopg, or a session_id and a connection_string."
        )
    return {"table_name": "message_store", **given}


def _url(text: str | sa.URL) -> str | sa.URL:
    """The URL for SQLAlchemy of what libpq reads."""
    with needs_extra("postgres"):
        import psycopg
        import sqlalchemy as sa
        from psycopg import conninfo
    if isinstance(text, sa.URL):
        return text
    if not isinstance(text, str):
        raise ConfigurationError(
            f"connection_string must be a str, not {type(text).__name__}. A connection of your own is passed as "
            "sync_connection or async_connection."
        )
    if re.match(r"\w+\+\w+://", text):
        return text
    options: dict[str, Any] = read_url(conninfo.conninfo_to_dict, text, _FORM, (psycopg.Error,))
    port = str(options.get("port", ""))
    # libpq would end the text at a NUL.
    if "\0" in text or not re.fullmatch(r"[\d,]*", port):
        raise bad_url(_FORM)
    if port.isdecimal():
        options["port"] = int(port)
    names = {"user": "username", "password": "password", "host": "host", "port": "port", "dbname": "database"}
    if "," in f"{options.get('host', '')}{options.get('port', '')}":
        names = {}
    if "/" in str(options.get("host", "")):
        names.pop("host", None)  # of a socket: in a URL it would be the database
    if "@" in str(options.get("dbname", "")):
        names.pop("dbname", None)  # in a URL it would belong to the host
    parts = {names[key]: options.pop(key) for key in list(options) if key in names}
    url = sa.URL.create("postgresql+psycopg", **parts, query={key: str(value) for key, value in options.items()})
    return url.render_as_string(hide_password=False)
