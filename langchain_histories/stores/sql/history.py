"""`SQLChatMessageHistory`: LangChain's class of this name, over `SQLStore` or a model of the user's own."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from langchain_histories.errors import ConfigurationError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.stores.base import MessageStore, needs_extra
from langchain_histories.stores.sql.converters import DefaultMessageConverter
from langchain_histories.stores.sql.store import SQLStore

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy.ext.asyncio import AsyncEngine

    from langchain_histories.stores.base import SessionId
    from langchain_histories.stores.sql.store import BlockingClient, NativeClient

    Connection = str | sa.URL | os.PathLike[str] | BlockingClient | NativeClient


class SQLChatMessageHistory(StoredChatMessageHistory):
    """A history in SQL with the constructor of LangChain's class of this name; reads and writes the same table.

    On SQLite, PostgreSQL, MariaDB, MySQL and YugabyteDB it is over an `SQLStore`. Any other dialect of SQLAlchemy's
    serves too (DuckDB is tested), as LangChain's class uses it, with less of a promise: whole batches in the order in
    which they were stored by one process, but no lock against other processes, no states (so no summaries), no listing
    of sessions, and session ids are compared as that database does. The log says so once.

    One object serves sync and async code, whichever way it connects. All histories of one URL in a process share their
    engines, so a program may make one for each turn. The table is made on first use.

    Args:
        session_id: The session.
        table_name: The table.
        session_id_field_name: Its column of session ids.
        custom_message_converter: Your own model in place of the table: an object with the methods of
            `BaseMessageConverter`. Nothing is stored but what the converter makes of a message.
        connection: A URL (a text or a `URL`), the path of a file of SQLite, or a client as of `SQLStore`: an `Engine`,
            a `Session`, ..., or an async one.
        engine_args: More arguments for `create_engine` and `create_async_engine`; only with a URL.
        async_mode: Kept as an attribute; both modes always work.
        async_connection: Your own async client, beside a blocking one.
    """

    def __init__(  # noqa: PLR0917  # LangChain's
        self,
        session_id: SessionId,
        table_name: str = "message_store",
        session_id_field_name: str = "session_id",
        custom_message_converter: Any = None,
        connection: Connection | None = None,
        engine_args: dict[str, Any] | None = None,
        async_mode: bool | None = None,
        *,
        async_connection: NativeClient | None = None,
    ) -> None:
        """Join the place of the connection."""
        with needs_extra("sql"):
            import sqlalchemy as sa

            from langchain_histories.stores.sql.connections import database_of, database_of_histories
            from langchain_histories.stores.sql.drivers import is_native_client
            from langchain_histories.stores.sql.models import ModelStore
            from langchain_histories.stores.sql.other_dialects import OtherStore
            from langchain_histories.stores.sql.statements import KINDS
        if connection is None and async_connection is None:
            raise ConfigurationError("Pass a connection: a URL, or an Engine or AsyncEngine of SQLAlchemy.")
        database: Any
        if isinstance(connection, str | sa.URL | os.PathLike) and async_connection is None:
            database = database_of_histories(connection, None, engine_args, any_dialect=True)
            self.async_mode = async_mode
        else:
            self.async_mode = is_native_client(connection)
            is_alone = self.async_mode and async_connection is None
            client, async_client = (None, connection) if is_alone else (connection, async_connection)
            database = database_of(client=client, async_client=async_client, any_dialect=True)
        store: MessageStore
        if custom_message_converter is not None:
            store = ModelStore(database, custom_message_converter, session_id_field_name)
        elif database.backend in KINDS:
            store = SQLStore(client=database, table_name=table_name, session_id_field_name=session_id_field_name)
        else:
            store = OtherStore(database, table_name, session_id_field_name)
        super().__init__(store, session_id)
        if custom_message_converter is not None:
            # The model's column may be of any type.
            self.session_id: Any = session_id
        self.session_id_field_name = session_id_field_name
        self._database, self._table_name, self._converter = database, table_name, custom_message_converter

    @property
    def engine(self) -> Any:
        """The `Engine`; of a connection or session of yours, its own."""
        client = self.store.client
        return getattr(client, "engine", client)

    @functools.cached_property
    def async_engine(self) -> AsyncEngine:
        """Your own `AsyncEngine`; from a URL, one without a pool, which works on any event loop."""
        engine: AsyncEngine = self._database.async_engine()
        return engine

    @functools.cached_property
    def session_maker(self) -> Any:
        """A maker of ORM sessions, for what this package does not do."""
        from sqlalchemy.ext.asyncio import async_sessionmaker
        from sqlalchemy.orm import scoped_session, sessionmaker

        if self.async_mode:
            return async_sessionmaker(bind=self.async_engine)
        return scoped_session(sessionmaker(bind=self.engine))

    @functools.cached_property
    def converter(self) -> Any:
        """The converter given, or LangChain's for the table."""
        return self._converter or DefaultMessageConverter(self._table_name)

    @property
    def sql_model_class(self) -> Any:
        """The converter's model."""
        return self.converter.get_sql_model_class()
