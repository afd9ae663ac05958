"""`PostgresChatStore`, with the constructors of both of LlamaIndex's: its own package's, and Google's for Cloud SQL.

`from_uri` and `from_params` keep a message per row in `<table_name>_records`, beside LlamaIndex's table, whose rows are
whole sessions. `create` and `create_sync` are on Google's table, as it is.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from langchain_histories._urls import shown_url
from langchain_histories.errors import ConfigurationError
from langchain_histories.integrations.llama_index.google import GoogleChatStore, PostgresEngine
from langchain_histories.stores.sql import SQLStore

if TYPE_CHECKING:
    from typing import Self

__all__ = ["PostgresChatStore", "PostgresEngine", "store_beside", "url_of_params"]


class PostgresChatStore(GoogleChatStore):
    """A chat store in PostgreSQL.

    Args:
        store: The store of the table; the other constructors make it.
    """

    def __init__(self, store: SQLStore) -> None:
        """Keep the store."""
        super().__init__(store)

    @classmethod
    def from_uri(
        cls,
        uri: str,
        table_name: str = "chatstore",
        schema_name: str = "public",
        debug: bool = False,
        use_jsonb: bool = False,
    ) -> Self:
        """Make one from a URL.

        Args:
            uri: `postgresql://`, or with a driver. psycopg takes the place of asyncpg where that is not installed.
            table_name: LlamaIndex's table; ours has `_records` behind its name.
            schema_name: The schema of the table.
            debug: Whether SQLAlchemy logs its statements.
            use_jsonb: Whether messages are `JSONB`, where the table is new.

        Raises:
            ConfigurationError: The URL has options that are asyncpg's alone.
        """
        return cls(store_beside(with_an_installed_driver(uri), table_name, schema_name, debug=debug, jsonb=use_jsonb))

    @classmethod
    def from_params(
        cls,
        host: str | None = None,
        port: str | int | None = None,
        database: str | None = None,
        user: str | None = None,
        password: str | None = None,
        table_name: str = "chatstore",
        schema_name: str = "public",
        connection_string: str | None = None,
        async_connection_string: str | None = None,  # noqa: ARG003  # the partner is found by itself
        debug: bool = False,
        use_jsonb: bool = False,
    ) -> Self:
        """Make one from the parts of a URL, or from `connection_string`; the rest is as for `from_uri`."""
        uri = connection_string or url_of_params("postgresql", host, port, database, user, password)
        return cls.from_uri(uri, table_name, schema_name, debug=debug, use_jsonb=use_jsonb)


def store_beside(url: str, table_name: str, schema_name: str, *, debug: bool, jsonb: bool) -> SQLStore:
    """Return a store in a table of this package, beside one of LlamaIndex's."""
    options: dict[str, Any] = {"engine_args": {"echo": True}} if debug else {}
    return SQLStore(url, table_name=f"{table_name}_records", schema=schema_name, jsonb=jsonb, **options)


def url_of_params(
    scheme: str,
    host: str | None,
    port: str | int | None,
    database: str | None,
    user: str | None,
    password: str | None,
    query: str = "",
) -> str:
    """Return the URL of these parts."""
    if not host or not database:
        raise ConfigurationError("Give host and database, or a connection_string.")
    login = "" if user is None else quote(user, safe="") + ("" if password is None else ":" + quote(password, safe=""))
    address = f"{host}:{port}" if port else host
    return f"{scheme}://{login}{'@' if login else ''}{address}/{quote(database, safe='')}{query}"


def with_an_installed_driver(uri: str) -> str:
    """Return the URL, with psycopg in the place of asyncpg where only that is installed."""
    scheme, separator, rest = uri.partition("://")
    if scheme not in ("postgresql+asyncpg", "postgres+asyncpg") or importlib.util.find_spec("asyncpg"):
        return uri
    place, _, query = rest.partition("?")
    options: list[str] = []
    for option in filter(None, query.split("&")):
        name, _, value = option.partition("=")
        if name not in ("ssl", "sslmode"):
            raise ConfigurationError(
                f"{shown_url(uri)} has the option {name!r} of asyncpg, which is not installed: install it, or leave "
                "the option out."
            )
        options.append(f"sslmode={value}")
    return f"postgresql{separator}{place}{'?' if options else ''}{'&'.join(options)}"
