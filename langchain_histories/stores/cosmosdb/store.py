"""`CosmosDBStore`: histories in Azure Cosmos DB for NoSQL, an item per message or LangChain's document per session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_histories.stores.base import MessageStore, StoreOptions, check_timeout, needs_extra

if TYPE_CHECKING:
    from typing import Unpack

    import azure.cosmos
    import azure.cosmos.aio


class CosmosDBStore(MessageStore):
    """Keeps histories in a container of Azure Cosmos DB for NoSQL.

    In a container that is made here each message is an item. In a container that LangChain's class made (partition key
    `/user_id`) each session is a document of at most 2 MB: then `capabilities` lacks `TAIL_READ` and `LARGE_SESSIONS`,
    from the first operation or `setup` on.

    The account's consistency is to be Session (the default) or stronger, and one region takes the writes: otherwise the
    service itself lets the last of two writers win. Listings, and `erase` with them, are as fresh as the account's
    consistency makes them: what another process wrote a moment ago they may not find.

    Args:
        url: `cosmosdb://[:key@]account.documents.azure.com/database/container`, with `/` in the key as `%2F`. With
            `cosmosdb+http` an emulator is reached without TLS. Database and container are made if they are missing.
        connection_string: As the Azure portal shows it. The URL is then `cosmosdb:///database/container`.
        credential: A key, or a credential such as `azure.identity` has them. With neither this nor a key elsewhere,
            `azure.identity.DefaultAzureCredential` finds one.
        async_credential: The asyncio twin of a credential that is no key. Without it async methods run in threads.
        client: Your own `azure.cosmos.CosmosClient`; the URL then names only database and container. It is never
            closed here.
        async_client: Your own `azure.cosmos.aio.CosmosClient`, entered. With one of the two alone, the other side is
            not derived: async methods run a blocking client in threads, sync methods refuse an async one.
        timeout: Seconds after which a call that gets no answer, or no free connection, raises `StoreUnavailableError`;
            10 by default, and to connect 5 at most. An async call has them for all its waits together, a sync one for
            each request. What may take as long as what is stored is large ends when nothing has arrived for so long.
            With an async client of your own there is no default, and with a blocking one no `timeout`.
        max_connections: How many operations of one event loop are under way at once, each on a connection of its own,
            100 at most; the others wait, in order. The sync methods have a connection for each thread. Only without
            clients of yours.
        client_options: More options for the driver's client, such as `{"retry_throttle_total": 20}`.
        **options: See `StoreOptions`. `ttl` is supported; in a container that exists, its time to live must be on.

    Raises:
        ConfigurationError: An argument cannot be used.
        MissingExtraError: azure-cosmos is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        connection_string: str | None = None,
        credential: Any = None,
        async_credential: Any = None,
        client: azure.cosmos.CosmosClient | None = None,
        async_client: azure.cosmos.aio.CosmosClient | None = None,
        timeout: float | None = None,
        max_connections: int | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        with needs_extra("cosmosdb"):
            from langchain_histories.stores.cosmosdb.connections import clients_of, parts_of
            from langchain_histories.stores.cosmosdb.operations import CosmosDBOperations
        parts = parts_of(url)
        clients, timeout = clients_of(
            parts,
            connection_string=connection_string,
            credential=credential,
            async_credential=async_credential,
            client=client,
            async_client=async_client,
            client_options=client_options,
            max_connections=max_connections,
            timeout=check_timeout(timeout),
        )
        self.database_name, self.container_name = parts.database, parts.container
        given = {
            "connection_string": connection_string,
            "credential": credential,
            "async_credential": async_credential,
            "client_options": client_options,
        }
        operations = CosmosDBOperations(parts.database, parts.container)
        super().__init__(operations, clients, url, driver_options=given, timeout=timeout, **options)
