"""`SQLStore`: histories in SQLite, PostgreSQL, MariaDB, MySQL and YugabyteDB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import MessageStore, StoreOptions, needs_extra

if TYPE_CHECKING:
    import os
    from typing import Self, Unpack

    import psycopg
    import sqlalchemy as sa
    from psycopg_pool import AsyncConnectionPool, ConnectionPool
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    SqlalchemyClient = sa.Engine | sa.Connection | Session | scoped_session[Any]
    AsyncSqlalchemyClient = AsyncEngine | AsyncConnection | AsyncSession | async_scoped_session[Any]
    BlockingClient = SqlalchemyClient | psycopg.Connection[Any] | ConnectionPool[Any]
    NativeClient = AsyncSqlalchemyClient | psycopg.AsyncConnection[Any] | AsyncConnectionPool[Any]


class SQLStore(MessageStore):
    """Keeps histories in a table of SQLite, PostgreSQL, MariaDB or MySQL.

    A new file of SQLite is its owner's alone; one that exists keeps its mode, and the files beside it have the same.
    What is removed from such a file is overwritten. It stays in the write-ahead log while others read; then the next
    operation of the store empties that. On your own engine neither is done.

    Args:
        url: As SQLAlchemy reads it, without a driver (the installed one is taken) or with one: `sqlite:///file.db`,
            `sqlite://` (in memory), `postgresql://`, `postgresql+psycopg://`, `mariadb+pymysql://`, ... The async
            methods take its partner among the installed drivers: aiosqlite; psycopg (serves both), psycopg2 and
            asyncpg; mysqlclient, PyMySQL and asyncmy, aiomysql. Without a partner they run the driver in threads.
            A `URL` of SQLAlchemy's will do too, and a path for a file of SQLite.
            Or an instance of Google's: `alloydb://user:password@project/region/cluster/instance/database`,
            `cloudsql://user:password@project:region:instance/database`, with options of Google's connector, such as
            `?ip_type=private&enable_iam_auth=true`. A database in memory belongs to its store.
        client: Your own `Engine`, `Connection` or `Session` of SQLAlchemy, or blocking connection or pool of psycopg,
            in place of `url`. It is never closed here, and nothing is changed in it. In a transaction of yours
            everything is done in savepoints, and lasts when you commit; on MySQL and MariaDB nothing is written there.
        async_client: Your own async one of these. With one of the two alone, the other side is not derived: async
            methods run a blocking one in threads, sync methods refuse an async one.
        async_url: Where the async methods connect to, when it cannot be derived from `url`.
        table_name: The table, with a name as long as the database takes; `<table_name>_state` holds the states.
        session_id_field_name: Its column of session ids.
        schema: Where both tables are, on a server; a database on MySQL and MariaDB. It has to exist. Without it the
            tables are where the connection looks for them: in PostgreSQL's `search_path`, the database of the URL, or
            where the `schema_translate_map` of your engine says.
        jsonb: If the table is missing, make its messages `JSONB` and give it a `created_at`, as langchain-postgres
            does; on PostgreSQL. A table that exists is used as it is, with texts, JSON or UUIDs.
        timeout: Seconds after which a call that gets no answer, no lock, no turn or no free connection raises
            `StoreUnavailableError`; 10 by default, and to connect 5 at most. On SQLite a `timeout` of the URL has the
            same meaning. What may take as long as what is stored is large ends when nothing has arrived for so long.
            psycopg2 waits for an answer as long as it takes. With an `AsyncEngine` of your own there is no default, and
            with an `Engine` no `timeout`.
        max_connections: How many connections the pool of the sync methods has, and that of each event loop. Who finds
            none free waits, in order. Only with `url` of a server.
        engine_args: More arguments for `create_engine` and `create_async_engine`; only with `url`.
        **options: See `StoreOptions`. `ttl` is supported; the table `<table_name>_expiry` has the times.

    Raises:
        ConfigurationError: An argument cannot be used.
        MissingExtraError: SQLAlchemy or a driver is not installed.
    """

    def __init__(
        self,
        url: str | sa.URL | os.PathLike[str] | None = None,
        *,
        client: BlockingClient | None = None,
        async_client: NativeClient | None = None,
        async_url: str | sa.URL | None = None,
        table_name: str = "message_store",
        session_id_field_name: str = "session_id",
        schema: str | None = None,
        jsonb: bool = False,
        timeout: float | None = None,
        max_connections: int | None = None,
        engine_args: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Choose drivers and names."""
        with needs_extra("sql"):
            from langchain_histories.stores.sql.connections import database_of
            from langchain_histories.stores.sql.layout import Tables
            from langchain_histories.stores.sql.operations import SQLOperations
            from langchain_histories.stores.sql.statements import fits
        names = {"table_name": table_name, "session_id_field_name": session_id_field_name}
        if schema is not None:
            names["schema"] = schema
        for what, name in names.items():
            if not isinstance(name, str) or not name or "\0" in name:
                raise ConfigurationError(f"{what} must be a name, not {name!r}.")
        if session_id_field_name.lower() in ("id", "message", "state"):
            raise ConfigurationError(
                f"session_id_field_name cannot be {session_id_field_name!r}: it is another column."
            )
        database = database_of(
            url,
            client=client,
            async_client=async_client,
            async_url=async_url,
            engine_args=engine_args,
            max_connections=max_connections,
            timeout=timeout,
        )
        if (schema := database.schema(schema)) is not None:
            names["schema"] = schema
        for what, name in names.items():
            if not fits(name, database.backend):
                raise ConfigurationError(
                    f"{what} is longer than a name in {database.backend} may be (63 bytes in PostgreSQL, 64 characters "
                    f"in MySQL and MariaDB): {name!r}."
                )
        if schema is not None and database.backend == "sqlite":
            raise ConfigurationError(
                "schema is for servers: on SQLite it would be an attached file, whose rows are not committed together "
                "with others after a crash. Give the file its own url."
            )
        if jsonb and database.backend not in ("postgresql", "yugabytedb"):
            raise ConfigurationError(f"jsonb is a type of PostgreSQL, which {database.backend} does not have.")
        self.table_name = table_name
        self.session_id_field_name = session_id_field_name
        self.schema = schema
        self.jsonb = jsonb
        operations = SQLOperations(database, Tables(table_name, session_id_field_name, jsonb, database.backend, schema))
        super().__init__(
            operations,
            database.clients,
            database.url,
            driver_options=database.driver_options,
            timeout=database.timeout,
            **options,
        )

    @classmethod
    def joined(
        cls,
        url: str | sa.URL | os.PathLike[str],
        *,
        async_url: str | sa.URL | None = None,
        engine_args: dict[str, Any] | None = None,
        max_connections: int | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Self:
        """Return a store for a single history; in memory at the one place that the histories of this URL share."""
        with needs_extra("sql"):
            from langchain_histories.stores.sql.connections import database_of_histories
        place: Any = database_of_histories(url, async_url, engine_args, max_connections, timeout)
        return cls(client=place, **options)
