"""`AzureTableChatMessageHistory`: LangChain's interface over `AzureTableStore`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from langchain_histories._urls import read_url
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.stores.azure_table.store import DEFAULT_TABLE, AzureTableStore

if TYPE_CHECKING:
    from typing import Self

    from langchain_histories.stores.base import SessionId


class AzureTableChatMessageHistory(StoredChatMessageHistory):
    """A history in Azure Table Storage or Cosmos DB for Table.

    All histories of one account in a process share one client, so a program may make one for each turn.

    Args:
        session_id: The session.
        url: As for `AzureTableStore`.
        table_name: The table.
        connection_string: As the portal shows it; by default that in `AZURE_STORAGE_CONNECTION_STRING`.
        table_service_client: Your own blocking client.
        async_table_service_client: Your own asyncio client.
    """

    store: AzureTableStore

    def __init__(
        self,
        session_id: SessionId,
        url: str | None = None,
        table_name: str | None = None,
        *,
        connection_string: str | None = None,
        table_service_client: Any = None,
        async_table_service_client: Any = None,
    ) -> None:
        """Join the place that the account names."""
        store = AzureTableStore(
            url,
            table_name=table_name,
            connection_string=connection_string,
            client=table_service_client,
            async_client=async_table_service_client,
        )
        super().__init__(store, session_id)
        self.table_name = store.table_name

    @classmethod
    def from_connection_string(
        cls, session_id: SessionId, connection_string: str, table_name: str | None = None
    ) -> Self:
        """Make a history from a connection string, as the portal shows it."""
        return cls(session_id, table_name=table_name, connection_string=connection_string)

    @classmethod
    def from_account_and_key(
        cls,
        session_id: SessionId,
        account_name: str,
        account_key: str,
        endpoint: str | None = None,
        table_name: str | None = None,
    ) -> Self:
        """Make a history from a storage account and its key.

        Args:
            session_id: The session.
            account_name: The account.
            account_key: Its key.
            endpoint: `https://<account>.table.core.windows.net` by default; Cosmos DB's and others are given.
            table_name: The table.
        """
        endpoint = endpoint or f"https://{account_name}.table.core.windows.net"
        return cls(session_id, url_of(endpoint, table_name, login=(account_name, account_key)))

    @classmethod
    def from_sas_token(
        cls, session_id: SessionId, endpoint: str, sas_token: str, table_name: str | None = None
    ) -> Self:
        """Make a history from an endpoint and a shared access signature."""
        return cls(session_id, url_of(endpoint, table_name, query="?" + sas_token.removeprefix("?")))

    @classmethod
    def from_aad_token(cls, session_id: SessionId, endpoint: str, table_name: str | None = None) -> Self:
        """Make a history with what `DefaultAzureCredential` finds: a managed identity, `AZURE_CLIENT_ID`, ..."""
        return cls(session_id, url_of(endpoint, table_name))


def url_of(endpoint: str, table_name: str | None, *, login: tuple[str, str] | None = None, query: str = "") -> str:
    """The store's URL for an endpoint of the service, with an account and its key as the login."""
    endpoint = endpoint if "://" in endpoint else f"https://{endpoint}"
    parts = read_url(urlsplit, endpoint, "https://account.table.core.windows.net")
    scheme = "azure-table+http" if parts.scheme == "http" else "azure-table"
    account = "" if login is None else ":".join(quote(part, safe="") for part in login) + "@"
    return f"{scheme}://{account}{parts.netloc}{parts.path.rstrip('/')}/{table_name or DEFAULT_TABLE}{query}"
