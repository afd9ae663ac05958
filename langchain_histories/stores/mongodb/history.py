"""`MongoDBChatMessageHistory`: langchain-mongodb's class of this name, over `MongoDBStore`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_histories._options import check_number
from langchain_histories.errors import ConfigurationError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.stores.mongodb.store import MongoDBStore

if TYPE_CHECKING:
    from langchain_histories.stores.base import SessionId


class MongoDBChatMessageHistory(StoredChatMessageHistory):
    """A history in MongoDB with the constructor of langchain-mongodb's class of this name; uses the same collection.

    All histories of one URL in a process share one client, so a program may make one for each turn.

    Args:
        connection_string: As `url` for `MongoDBStore`, or `host:port` alone; `None` with a client of your own.
        session_id: The session, which may be an `ObjectId`. Messages are added under its text, and those that
            LangChain's class has stored under a number or an `ObjectId` belong to the same session.
        database_name: The database, whatever the connection string says.
        collection_name: The collection.
        session_id_key: The field of the session id.
        history_key: The field of the JSON text.
        create_index: Whether to make the index on first use.
        history_size: `messages` shows only so many, the newest.
        index_kwargs: As for `MongoDBStore`.
        client: Your own `pymongo.MongoClient`.
        async_client: Your own `pymongo.AsyncMongoClient`.
    """

    store: MongoDBStore

    def __init__(
        self,
        connection_string: str | None,
        session_id: SessionId,
        database_name: str = "chat_history",
        collection_name: str = "message_store",
        *,
        session_id_key: str = "SessionId",
        history_key: str = "History",
        create_index: bool = True,
        history_size: int | None = None,
        index_kwargs: dict[str, Any] | None = None,
        client: Any = None,
        async_client: Any = None,
    ) -> None:
        """Join the place that the connection string names."""
        given = client is not None or async_client is not None
        if bool(connection_string) == given:
            raise ConfigurationError("Pass either a connection_string or clients of your own.")
        check_number("history_size", history_size)
        store = MongoDBStore(
            # As the driver has it, hosts alone will do.
            f"mongodb://{connection_string}"
            if connection_string and "://" not in connection_string
            else connection_string,
            client=client,
            async_client=async_client,
            database_name=database_name,
            collection_name=collection_name,
            session_id_key=session_id_key,
            history_key=history_key,
            create_index=create_index,
            index_kwargs=index_kwargs,
        )
        # The driver is not imported here, so its class is told by its name.
        super().__init__(store, str(session_id) if _is_object_id(session_id) else session_id, last=history_size)
        self.database_name = database_name
        self.collection_name = collection_name
        self.session_id_key = session_id_key
        self.history_key = history_key
        self.history_size = history_size

    @property
    def client(self) -> Any:
        """The blocking client; it is opened when it has not been used yet."""
        return self.store.client

    @property
    def db(self) -> Any:
        """The database, of the blocking client."""
        return self.client[self.database_name]

    @property
    def collection(self) -> Any:
        """The collection of the messages, of the blocking client."""
        return self.db[self.collection_name]

    def close(self) -> None:
        """Does nothing, because other histories use the client too: `history.store.close()` lets it go."""


def _is_object_id(session_id: object) -> bool:
    return type(session_id).__module__ == "bson.objectid"
