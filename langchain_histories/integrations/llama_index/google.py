"""Google's chat stores for AlloyDB and Cloud SQL, `create` and `create_sync`, on their table as it is.

The table is `(id, key, message)`, a message per row. What is written there are messages of LlamaIndex, so that Google's
own class reads them, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from langchain_histories.errors import ConfigurationError
from langchain_histories.integrations.llama_index.chat_store import LlamaIndexChatStore, in_llama_index
from langchain_histories.stores.sql import SQLStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from sqlalchemy.ext.asyncio import AsyncEngine


class Engine:
    """Where the tables are: what Google's engines are to their chat stores. Connections are opened on first use.

    Args:
        where: The arguments of `SQLStore` that say it.
    """

    from_instance: ClassVar[Callable[..., Any]]

    def __init__(self, where: dict[str, Any]) -> None:
        """Keep them."""
        self._where = where

    @classmethod
    def from_engine(cls, engine: AsyncEngine, loop: Any = None) -> Self:  # noqa: ARG003  # a store works on each loop
        """Make one of your own async engine. Sync methods need one of their own: use a connection string."""
        return cls({"async_client": engine})

    @classmethod
    def from_connection_string(cls, url: str) -> Self:
        """Make one of a URL of PostgreSQL."""
        return cls({"url": url})

    @classmethod
    async def afrom_instance(cls, *args: Any, **options: Any) -> Self:
        """Async `from_instance`; it connects as little."""
        made: Self = cls.from_instance(*args, **options)
        return made

    def init_chat_store_table(
        self, table_name: str, schema_name: str = "public", overwrite_existing: bool = False
    ) -> None:
        """Make the table, if it is not there.

        Args:
            table_name: The table.
            schema_name: Its schema, which has to exist.
            overwrite_existing: Whether all sessions in it are removed.
        """
        with self.store(table_name, schema_name) as store:
            store.setup()
            for session in store.sessions() if overwrite_existing else ():
                store.clear(session.session_id)

    async def ainit_chat_store_table(
        self, table_name: str, schema_name: str = "public", overwrite_existing: bool = False
    ) -> None:
        """Async `init_chat_store_table`."""
        async with self.store(table_name, schema_name) as store:
            await store.asetup()
            for session in await store.asessions() if overwrite_existing else ():
                await store.aclear(session.session_id)

    def store(self, table_name: str, schema_name: str) -> SQLStore:
        """Return a store over a table of Google's."""
        store = SQLStore(**self._where, table_name=table_name, schema=schema_name, session_id_field_name="key")
        return in_llama_index(store)


class GoogleChatStore(LlamaIndexChatStore):
    """A chat store on a table of Google's.

    Args:
        store: The store of the table; `create` and `create_sync` make it.
    """

    def __init__(self, store: SQLStore) -> None:
        """Keep the store."""
        super().__init__(store)

    @classmethod
    def create_sync(cls, engine: Engine, table_name: str, schema_name: str = "public") -> Self:
        """Make one over a table."""
        return cls(engine.store(table_name, schema_name))

    @classmethod
    async def create(cls, engine: Engine, table_name: str, schema_name: str = "public") -> Self:
        """Make one over a table."""
        return cls(engine.store(table_name, schema_name))


class PostgresEngine(Engine):
    """An instance of Cloud SQL for PostgreSQL."""

    @classmethod
    def from_instance(
        cls,
        project_id: str,
        region: str,
        instance: str,
        database: str,
        user: str | None = None,
        password: str | None = None,
        ip_type: Any = "PUBLIC",
        iam_account_email: str | None = None,
    ) -> Self:
        """Make one of an instance. Credentials are found by Google's own chain."""
        login = login_of(user, password, iam_account_email)
        query = query_of(ip_type, iam_account_email)
        return cls({"url": f"cloudsql://{login}@{project_id}:{region}:{instance}/{quote(database, safe='')}{query}"})


def login_of(user: str | None, password: str | None, iam_account_email: str | None) -> str:
    """Return the login of a URL.

    Raises:
        ConfigurationError: There is none, or two.
    """
    if (user is None) != (password is None) or (user is None) == (iam_account_email is None):
        raise ConfigurationError("Give user and password, or iam_account_email.")
    return quote(user or iam_account_email or "", safe="") + (
        "" if password is None else ":" + quote(password, safe="")
    )


def query_of(ip_type: Any, iam_account_email: str | None) -> str:
    """Return the options of a connector; `ip_type` is a text or the member of an enum."""
    name = str(getattr(ip_type, "value", ip_type)).lower()
    return f"?ip_type={name}" + ("" if iam_account_email is None else "&enable_iam_auth=true")
