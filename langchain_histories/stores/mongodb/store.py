"""`MongoDBStore`: histories in MongoDB, a document per message, as LangChain's `MongoDBChatMessageHistory` has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import MessageStore, StoreOptions, check_timeout, needs_extra

if TYPE_CHECKING:
    from typing import Unpack

    import pymongo


class MongoDBStore(MessageStore):
    """Keeps histories in MongoDB: a standalone server, a replica set or a sharded cluster.

    Reads go to the primary. Writes wait for the majority, unless the URL or the client says otherwise.

    Args:
        url: `mongodb://` or `mongodb+srv://`, as PyMongo reads them.
        client: Your own `pymongo.MongoClient`, in place of `url`. It is never closed here.
        async_client: Your own `pymongo.AsyncMongoClient`. With one of the two alone, the other side is not derived:
            async methods run a blocking client in threads, sync methods refuse an async one.
        database_name: The database; by default that of the URL, unless it is `admin`, which is there to log in to, or
            else `chat_history`.
        collection_name: The collection of the messages. A second one, with `_sessions` behind its name, has a document
            per session.
        session_id_key: The field of the session id.
        history_key: The field of the JSON text.
        create_index: Whether to make the index that reads need, where it is missing. Without the right to make it,
            histories work, but slower.
        index_kwargs: Options for an index on `session_id_key` alone, which LangChain's class makes. Without them there
            is no such index.
        timeout: Seconds after which a call that gets no answer, or no free connection, raises `StoreUnavailableError`;
            10 by default, and to connect 5 at most. What may take as long as what is stored is large ends when nothing
            has arrived for so long. With an asyncio client of your own there is no default, and with a blocking one no
            `timeout`.
        max_connections: How many connections the pool of the sync methods has, and that of each event loop. Who finds
            none free waits, in order. Only with `url`.
        client_options: More options for PyMongo, such as `{"serverSelectionTimeoutMS": 5000}`; only with `url`.
        **options: See `StoreOptions`. `ttl` is supported, on servers from 4.2 on.

    Raises:
        ConfigurationError: An argument cannot be used.
        MissingExtraError: PyMongo is not installed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: pymongo.MongoClient[Any] | None = None,
        async_client: pymongo.AsyncMongoClient[Any] | None = None,
        database_name: str | None = None,
        collection_name: str = "message_store",
        session_id_key: str = "SessionId",
        history_key: str = "History",
        create_index: bool = True,
        index_kwargs: dict[str, Any] | None = None,
        timeout: float | None = None,
        max_connections: int | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        with needs_extra("mongodb"):
            from langchain_histories.stores.mongodb.connections import clients_of, database_of
            from langchain_histories.stores.mongodb.operations import MongoDBOperations
        for option, field in (("session_id_key", session_id_key), ("history_key", history_key)):
            if field in ("", "_id", "seq") or field.startswith("$") or "." in field or session_id_key == history_key:
                raise ConfigurationError(f"{option} must be the name of a field of its own, not {field!r}.")
        self.database_name = database_name = database_name or database_of(url) or "chat_history"
        self.collection_name = collection_name
        self.session_id_key = session_id_key
        self.history_key = history_key
        operations = MongoDBOperations(
            database_name=database_name,
            collection_name=collection_name,
            session_id_key=session_id_key,
            history_key=history_key,
            create_index=create_index,
            index_kwargs=index_kwargs,
        )
        clients, timeout = clients_of(
            url,
            client,
            async_client,
            client_options=client_options,
            max_connections=max_connections,
            timeout=check_timeout(timeout),
        )
        super().__init__(operations, clients, url, driver_options=client_options, timeout=timeout, **options)
