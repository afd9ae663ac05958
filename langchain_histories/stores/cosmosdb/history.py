"""`CosmosDBChatMessageHistory`: LangChain's class of this name, over `CosmosDBStore`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from langchain_histories._session_ids import normalize_session_id, user_session_id
from langchain_histories._urls import read_url
from langchain_histories.errors import ConfigurationError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.stores.cosmosdb.store import CosmosDBStore

if TYPE_CHECKING:
    from typing import Self

    from langchain_histories.stores.base import SessionId


class CosmosDBChatMessageHistory(StoredChatMessageHistory):
    """A history in Cosmos DB with the constructor of LangChain's class of this name; reads and writes its documents.

    In a container that LangChain's class made (partition key `/user_id`) these documents are kept. If there is no
    container yet, one with an item for each message is made. Nothing has to be prepared, loaded or saved: every read
    goes to the store, and what was added is stored. All histories of one account in a process share one client.

    Args:
        cosmos_endpoint: `https://account.documents.azure.com`.
        cosmos_database: The database.
        cosmos_container: The container.
        session_id: The session.
        user_id: The user whose session it is; `store.erase(user_id=)` removes all of them.
        credential: A key or a credential. This or `connection_string` is needed.
        connection_string: As the Azure portal shows it.
        ttl: Seconds after the last addition at which the session expires; `None` for never.
        cosmos_client_kwargs: More options for the driver's client.
    """

    store: CosmosDBStore

    def __init__(  # noqa: PLR0917  # LangChain's
        self,
        cosmos_endpoint: str,
        cosmos_database: str,
        cosmos_container: str,
        session_id: SessionId,
        user_id: str,
        credential: Any = None,
        connection_string: str | None = None,
        ttl: int | None = None,
        cosmos_client_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Join the place that endpoint and credential name."""
        if not credential and not connection_string:
            raise ConfigurationError("Either a connection string or a credential must be set.")
        store = CosmosDBStore(
            _url(cosmos_endpoint if credential else "", cosmos_database, cosmos_container),
            credential=credential or None,
            connection_string=None if credential else connection_string,
            ttl=ttl or None,
            client_options=cosmos_client_kwargs or None,
        )
        session_id = normalize_session_id(session_id)
        super().__init__(store, user_session_id(user_id, session_id) if user_id else session_id)
        self.cosmos_endpoint = cosmos_endpoint
        self.cosmos_database = cosmos_database
        self.cosmos_container = cosmos_container
        self.user_id = user_id
        self.ttl = ttl

    def prepare_cosmos(self) -> None:
        """Make database and container if they are missing. The first use does it by itself."""
        self.store.setup()

    def load_messages(self) -> None:
        """Does nothing: `messages` is read from the store each time."""

    def upsert_messages(self) -> None:
        """Does nothing: what was added is stored. A change of the list `messages` is not an addition."""

    def __enter__(self) -> Self:
        """Prepare, as LangChain's class does."""
        self.prepare_cosmos()
        return self

    def __exit__(self, *_: object) -> None:
        """Does nothing: other histories share the client. `history.store.close()` lets it go."""


def _url(endpoint: str, database: str, container: str) -> str:
    """The store's URL for a container of an account."""
    parts = read_url(urlsplit, endpoint, "https://account.documents.azure.com")
    scheme = "cosmosdb+http" if parts.scheme == "http" else "cosmosdb"
    return f"{scheme}://{parts.netloc}/{database}/{container}"
