"""`AzureTableStore`: histories in Azure Table Storage or Cosmos DB for Table, an entity per message."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import MessageStore, StoreOptions, check_timeout, needs_extra

if TYPE_CHECKING:
    from typing import Unpack

    import azure.data.tables
    import azure.data.tables.aio

DEFAULT_TABLE = "messagestore"


class AzureTableStore(MessageStore):
    """Keeps histories in a table of an Azure storage account, or of Cosmos DB for Table.

    Args:
        url: `azure-table://account.table.core.windows.net/table` or another endpoint of the service (that of Cosmos DB,
            a sovereign cloud, `azure-table+http://` for an emulator). With the account's key before the host
            (`account:key@`, percent-encoded) or with a shared access signature behind the table (`?sv=...&sig=...`).
            With neither, azure-identity's `DefaultAzureCredential` finds a managed identity, `AZURE_CLIENT_ID` and the
            like. Without a host, `azure-table:///table`, it is the account of the connection string.
        table_name: The table; 3 to 63 letters and digits. It is `messagestore` if the URL has none.
        connection_string: As the portal shows it. By default, if neither URL nor client names an account, that in the
            variable `AZURE_STORAGE_CONNECTION_STRING`.
        client: Your own blocking `TableServiceClient`, in place of an account. It is never closed here.
        async_client: Your own asyncio client. With one of the two alone, the other side is not derived: async methods
            run a blocking client in threads, sync methods refuse an asyncio one.
        timeout: Seconds after which a call that gets no answer, or no free connection, raises `StoreUnavailableError`;
            10 by default, and to connect 5 at most. An async call has them for all its waits together, a sync one for
            each request. What may take as long as what is stored is large ends when nothing has arrived for so long.
            With an async client of your own there is no default, and with a blocking one no `timeout`.
        max_connections: How many operations of one event loop are under way at once, each on a connection of its own,
            100 at most; the others wait, in order. The sync methods have a connection for each thread. Only without
            clients of yours.
        client_options: More options for the driver's `TableServiceClient`, such as `{"retry_total": 5}`.
        **options: See `StoreOptions`. `ttl` is supported; the service removes nothing by itself.

    Raises:
        ConfigurationError: An argument cannot be used.
        MissingExtraError: azure-data-tables is not installed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        table_name: str | None = None,
        connection_string: str | None = None,
        client: azure.data.tables.TableServiceClient | None = None,
        async_client: azure.data.tables.aio.TableServiceClient | None = None,
        timeout: float | None = None,
        max_connections: int | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        with needs_extra("azure-table"):
            from langchain_histories.stores.azure_table.connections import clients_of, parts_of
            from langchain_histories.stores.azure_table.operations import AzureTableOperations
        parts = parts_of(url)
        clients, given, timeout = clients_of(
            url,
            connection_string=connection_string,
            client=client,
            async_client=async_client,
            client_options=client_options,
            max_connections=max_connections,
            timeout=check_timeout(timeout),
        )
        if parts.table and table_name and parts.table != table_name:
            raise ConfigurationError(f"Both url and table_name name a table: {parts.table!r} and {table_name!r}.")
        self.table_name = _checked_table(parts.table or table_name or DEFAULT_TABLE)
        place = f"{parts.account}/{self.table_name}" if given else None
        operations = AzureTableOperations(self.table_name)
        super().__init__(operations, clients, place, driver_options=given, timeout=timeout, **options)


def _checked_table(name: str) -> str:
    if not re.fullmatch("[A-Za-z][A-Za-z0-9]{2,62}", name):
        raise ConfigurationError(
            f"table_name must be 3 to 63 letters and digits, the first of them a letter, not {name!r}."
        )
    return name
