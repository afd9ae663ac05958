"""Histories in Azure Cosmos DB for NoSQL: an item per message, in the partition of its session.

The container's partition key says how histories are kept in it:

* `/session_id`, as it is made here: items `{id: <sort key>, session_id, text, ttl}` with the sort keys of
  `_partitions`, written in transactional batches.
* `/user_id`, as LangChain's `CosmosDBChatMessageHistory` makes it: its documents `{id: <session>, user_id, messages}`,
  one for each session, of 2 MB at most. A change replaces a document on condition that it has not changed meanwhile, or
  is a patch.

What decides is read in a transactional batch too, which like every write runs on the primary replica: it sees what
others have committed, also where the account's consistency is Session, its default. The queries that follow bring the
session token of that batch, so they see no less. Listings are as fresh as the account's consistency makes them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import functools
import json
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from langchain_histories._clients import Clients
from langchain_histories._neutral import each, settle
from langchain_histories.errors import ConfigurationError, missing_extra
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.store import (
    ANY_STATE,
    SessionId,
    StoreOptions,
    normalize_session_id,
    user_session_id,
)
from langchain_histories.stores.shared.one_item import EitherStore
from langchain_histories.stores.shared.partitions import HEAD, Item, Write

try:
    import azure.cosmos.aio
    from azure.core.exceptions import AzureError, ClientAuthenticationError, ServiceRequestError, ServiceResponseError
    from azure.cosmos import CosmosClient, PartitionKey, exceptions

    from langchain_histories.stores.cosmosdb.documents import (
        BATCH_ERRORS,
        NOT_FOUND,
        DocumentOperations,
        others_were_faster,
        seconds_left,
    )
except ImportError as error:
    raise missing_extra("cosmosdb") from error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self, Unpack

_OURS, _LANGCHAINS = "/session_id", "/user_id"
_FORBIDDEN = 403
_UNAVAILABLE = (401, 408, 429, 449)
_SERVER_ERROR = 500
# Of the last batch of the operation under way: what it has read is there for the queries that follow.
_session_token: ContextVar[str | None] = ContextVar("_session_token", default=None)


class CosmosDBStore(EitherStore):
    """Keeps histories in a container of Azure Cosmos DB for NoSQL.

    The account's consistency is to be Session (the default) or stronger, and one region takes the writes: otherwise the
    service itself lets the last of two writers win. Listings, and `erase` with them, are as fresh as the account's
    consistency makes them: what another process wrote a moment ago they may not find.

    Args:
        url: `cosmosdb://[:key@]account.documents.azure.com/database/container`, with `/` in the key as `%2F`. With
            `cosmosdb+http` an emulator is reached without TLS. What is missing of database and container is made.
        connection_string: As the Azure portal shows it. The URL is then `cosmosdb:///database/container`.
        credential: A key, or a credential such as `azure.identity` has them. With neither this nor a key elsewhere,
            `azure.identity.DefaultAzureCredential` finds one.
        async_credential: The asyncio twin of a credential that is no key. Without it async methods run in threads.
        client: Your own `azure.cosmos.CosmosClient`; the URL then names only database and container. It is never
            closed here.
        async_client: Your own `azure.cosmos.aio.CosmosClient`, entered. With one of the two alone, the other side is
            not derived: async methods run a blocking client in threads, sync methods refuse an async one.
        client_options: More options for the driver's client, such as `{"retry_throttle_total": 20}`.
        **options: See `StoreOptions`. `ttl` is supported; in a container that exists, its time to live must be on.
    """

    name = "cosmosdb"
    schemes = ("cosmosdb", "cosmosdb+http")
    driver_errors = (AzureError,)
    unavailable_errors = (
        ConnectionError,
        TimeoutError,
        ClientAuthenticationError,
        ServiceRequestError,
        ServiceResponseError,
        exceptions.CosmosClientTimeoutError,
    )
    # Of 2 MB for an item and for a transaction, as JSON in which the driver escapes what is not ASCII.
    max_writes = 100
    max_text = 1_900_000
    max_transaction = 2_000_000
    overhead = 8192
    unholdable = "\0"

    def __init__(
        self,
        url: str,
        *,
        connection_string: str | None = None,
        credential: Any = None,
        async_credential: Any = None,
        client: CosmosClient | None = None,
        async_client: azure.cosmos.aio.CosmosClient | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        if client is not None and not isinstance(client, CosmosClient):
            raise ConfigurationError(f"client must be an azure.cosmos.CosmosClient, not {_kind(client)}.")
        if async_client is not None and not self._is_async(async_client):
            raise ConfigurationError(
                f"async_client must be an azure.cosmos.aio.CosmosClient, not {_kind(async_client)}."
            )
        given = client is not None or async_client is not None
        endpoint, key, self.database_name, self.container_name = _parts(url)
        if connection_string is not None:
            endpoint, string_key = _string_parts(connection_string, endpoint)
            key = key or string_key
        if given == bool(endpoint) or (given and (credential or async_credential or client_options)):
            raise ConfigurationError(
                "Pass an endpoint, in the url or the connection_string, or clients of your own, and not both."
            )
        self._endpoint = endpoint
        self._credential, self._async_credential = _credentials(key, credential, async_credential)
        self._client_options = client_options or {}
        self._own_credentials: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        clients: Clients[Any] = Clients(
            connect=self._connect,
            close=self._close,
            native=self._credential is None or self._async_credential is not None,
            client=client,
            async_client=async_client,
        )
        super().__init__(clients, url, **options)

    async def _connect(self, native: bool) -> Any:
        if not native:
            return self._open(CosmosClient, self._credential, native=False)
        # The packages ask the system for its name and read many files, which is too long for an event loop.
        client: Any = await settle(
            asyncio.to_thread(self._open, azure.cosmos.aio.CosmosClient, self._async_credential, native=True)
        )
        try:
            await settle(client.__aenter__())
        except BaseException:
            await self._close(client)
            raise
        return client

    def _open(self, kind: Any, credential: Any, *, native: bool) -> Any:
        own = _default_credential(native=native) if credential is None else None
        client = kind(self._endpoint, own or credential, **self._client_options)
        if own is not None:
            self._own_credentials[client] = own
        return client

    async def _close(self, client: Any) -> None:
        await settle(client.close())
        if (own := self._own_credentials.pop(client, None)) is not None:
            await settle(own.close())

    def _is_async(self, client: Any) -> bool:
        return isinstance(client, azure.cosmos.aio.CosmosClient)

    def _unavailable(self, error: Exception) -> bool:
        """Whether the service could not be reached, refused the credentials, or throttled the request to the end."""
        status = getattr(error, "status_code", None) or 0
        return super()._unavailable(error) or status in _UNAVAILABLE or status >= _SERVER_ERROR

    def _container(self, client: Any) -> Any:
        return client.get_database_client(self.database_name).get_container_client(self.container_name)

    async def _setup(self, client: Any, *, upgrade: bool = False) -> None:  # noqa: ARG002  # nothing to upgrade
        try:
            found = await settle(self._container(client).read())
        except exceptions.CosmosResourceNotFoundError:
            await self._create(client)
            found = await settle(self._container(client).read())
        definition = found["partitionKey"]
        where = f"The container {self.database_name}/{self.container_name}"
        if definition["paths"] not in ([_OURS], [_LANGCHAINS]):
            raise ConfigurationError(
                f"{where} has the partition key {', '.join(definition['paths'])}: histories need one with {_OURS}, or "
                f"LangChain's with {_LANGCHAINS}."
            )
        self._one_item = DocumentOperations(self) if definition["paths"] == [_LANGCHAINS] else None
        if self._one_item is None and definition.get("version", 1) == 1:
            raise ConfigurationError(
                f"{where} does not tell long partition keys apart: make another one, with large partition keys."
            )
        if self.ttl is not None and found.get("defaultTtl") is None:
            raise ConfigurationError(f"{where} has its time to live off, so ttl cannot work: turn it on (no default).")

    async def _create(self, client: Any) -> None:
        # Another caller may always be faster.
        with contextlib.suppress(exceptions.CosmosResourceExistsError):
            await settle(client.create_database_if_not_exists(self.database_name))
        # Nobody looks for texts, and an index of them would cost most of a write.
        indexed = {"includedPaths": [{"path": "/*"}], "excludedPaths": [{"path": "/text/?"}]}
        with contextlib.suppress(exceptions.CosmosResourceExistsError):
            await settle(
                client.get_database_client(self.database_name).create_container(
                    self.container_name,
                    PartitionKey(_OURS, version=2),
                    default_ttl=-1,
                    indexing_policy={"indexingMode": "consistent", "automatic": True, **indexed},
                )
            )

    # Requests.

    async def _batch(self, client: Any, partition: str, operations: Sequence[tuple[Any, ...]]) -> Any:
        """Run a transactional batch, and keep its session token, which the driver forgets."""
        keep = functools.partial(_keep_token, client)
        batch = self._container(client).execute_item_batch
        _session_token.set(None)
        try:
            return await settle(batch(operations, partition_key=partition, response_hook=keep))
        except exceptions.CosmosBatchOperationError as error:
            keep(error.headers)
            raise

    async def _fetch(self, client: Any, partition: str, name: str) -> dict[str, Any] | None:
        """Return an item as it is now, whoever wrote it."""
        try:
            results = await self._batch(client, partition, [("read", (name,))])
        except BATCH_ERRORS as error:
            if error.status_code == NOT_FOUND and isinstance(error, exceptions.CosmosBatchOperationError):
                return None
            if error.status_code != _FORBIDDEN:
                raise
            # Who may only read may run no batch, and sees what the account's consistency lets him see.
            document: dict[str, Any] | None = await self._point_read(client, partition, name)
            return document
        body: dict[str, Any] = results[0]["resourceBody"]
        return body

    async def _point_read(self, client: Any, partition: str, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await settle(self._container(client).read_item(name, partition))
        except exceptions.CosmosResourceNotFoundError as error:
            if error.sub_status:
                raise  # it is not the item that is missing
            return None
        return found

    async def _find(self, client: Any, query: str, partition: str | None = None, **values: str) -> list[dict[str, Any]]:
        # Not the one that the driver would find: after a split it looks for that of a range which is no more.
        where: dict[str, Any] = {"partition_key": partition, "session_token": _session_token.get()}
        if partition is None:
            where = {} if self._is_async(client) else {"enable_cross_partition_query": True}
        parameters = [{"name": f"@{name}", "value": value} for name, value in values.items()]
        pager = self._container(client).query_items(query, parameters=parameters, **where)
        return [document async for document in each(pager)]

    # One item for each message: what `PartitionStore` needs.

    def _size(self, text: str) -> int:
        return len(json.dumps(text))

    def _cut(self, text: str) -> list[str]:
        step = self.max_text // 12  # the most that one character needs
        return [text[start : start + step] for start in range(0, len(text), step)] or [""]

    async def _get(self, client: Any, key: str, sort: str) -> Item | None:
        found = await self._fetch(client, key, sort)
        return None if found is None else _item(found)

    async def _query(
        self, client: Any, key: str, start: str, stop: str, *, limit: int | None = None, reverse: bool = False
    ) -> list[Item]:
        query = f"""SELECT {"" if limit is None else f"TOP {limit:d} "}c.id, c.text, c._etag FROM c
            WHERE c.id >= @start AND c.id <= @stop ORDER BY c.id {"DESC" if reverse else "ASC"}"""  # noqa: S608
        return [_item(found) for found in await self._find(client, query, key, start=start, stop=stop)]

    async def _commit(self, client: Any, key: str, writes: Sequence[Write]) -> bool:
        left = list(writes)
        while left:
            try:
                await self._batch(client, key, [_operation(key, write) for write in left])
            except BATCH_ERRORS as error:
                if others_were_faster(error):
                    return False
                if not isinstance(error, exceptions.CosmosBatchOperationError):
                    raise
                write = left[error.error_index]
                if error.status_code == NOT_FOUND and write.text is None and write.instead_of is ANY_STATE:
                    # It is gone already, as it is to be.
                    left.pop(error.error_index)
                    continue
                if error.status_code == NOT_FOUND:
                    return False
                raise
            return True
        return True

    async def _heads(self, client: Any, prefix: str) -> list[tuple[str, Item]]:
        query = f"""SELECT c.session_id, c.id, c.text, c._etag FROM c
            WHERE c.id = '{HEAD}' AND STARTSWITH(c.session_id, @prefix)"""  # noqa: S608
        return [(found["session_id"], _item(found)) for found in await self._find(client, query, prefix=prefix)]

    async def _keys(self, client: Any, prefix: str) -> set[str]:
        query = "SELECT c.session_id FROM c WHERE STARTSWITH(c.session_id, @prefix)"
        return {found["session_id"] for found in await self._find(client, query, prefix=prefix)}


class CosmosDBChatMessageHistory(StoredChatMessageHistory):
    """A history in Cosmos DB with the constructor of LangChain's class of this name; reads and writes its documents.

    In a container that LangChain's class made (partition key `/user_id`) these documents are kept. Where there is no
    container yet, one with an item for each message is made. Nothing has to be prepared, loaded or saved: every read
    goes to the store, and what was added is stored. All histories of one configuration in a process share one client.

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
        """Join the store of this configuration."""
        if not credential and not connection_string:
            raise ConfigurationError("Either a connection string or a credential must be set.")
        store = CosmosDBStore.shared(
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
        """Make database and container where they are missing. The first use does it by itself."""
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
        """Does nothing: other histories share the client. `history.store.close()` closes it for all of them."""


def _item(found: dict[str, Any]) -> Item:
    return Item(found["id"], found["text"], found["_etag"])


def _operation(key: str, write: Write) -> tuple[Any, ...]:
    """One operation of a transactional batch."""
    condition = {"if_match_etag": write.instead_of.tag} if isinstance(write.instead_of, Item) else {}
    if write.text is None:
        return "delete", (write.sort,), condition
    # -1 is never, whatever the container's is.
    ttl = -1 if write.expires is None else seconds_left(write.expires)
    body = {"id": write.sort, "session_id": key, "text": write.text, "ttl": ttl}
    if condition:
        return "replace", (write.sort, body), condition
    return "create" if write.instead_of is None else "upsert", (body,)


def _keep_token(client: Any, headers: Any, _: object = None) -> None:
    _session_token.set(headers.get("x-ms-session-token"))
    # For the listings, which bring all tokens that the driver has.
    connection = client.client_connection
    if connection.session is not None:  # the account's consistency is Session
        connection.session.update_session(connection, {}, headers)


# Places and credentials.


def _url(endpoint: str, database: str, container: str) -> str:
    parts = urlsplit(endpoint)
    scheme = "cosmosdb+http" if parts.scheme == "http" else "cosmosdb"
    return f"{scheme}://{parts.netloc}/{database}/{container}"


def _parts(url: str) -> tuple[str, str | None, str, str]:
    """Endpoint, key, database and container of a URL."""
    try:
        parts = urlsplit(url)
        host, user, password = parts.netloc.rpartition("@")[2], parts.username, parts.password
        _ = parts.port
    except ValueError:
        # Not quoted: what looks like a port may be a piece of the key.
        raise ConfigurationError("The url is none of Cosmos DB: write '/' in the key as %2F.") from None
    places = [unquote(place) for place in parts.path.split("/")[1:]]
    if len(places) != 2 or not all(places) or parts.query or parts.fragment or user:  # noqa: PLR2004
        raise ConfigurationError(
            "A URL of Cosmos DB ends in database and container, as "
            "'cosmosdb://:key@account.documents.azure.com/database/container', with '/' in the key as %2F."
        )
    protocol = "http" if parts.scheme.endswith("+http") else "https"
    endpoint = f"{protocol}://{host}/" if host else ""
    return endpoint, unquote(password) if password else None, places[0], places[1]


def _string_parts(connection_string: str, endpoint: str) -> tuple[str, str | None]:
    """Endpoint and key of a connection string."""
    settings = dict(part.split("=", 1) for part in connection_string.split(";") if "=" in part)
    if endpoint or "AccountEndpoint" not in settings:
        raise ConfigurationError(
            "A connection_string has AccountEndpoint and AccountKey, and goes with a URL without a host: "
            "'cosmosdb:///database/container'."
        )
    return settings["AccountEndpoint"], settings.get("AccountKey")


def _credentials(key: str | None, credential: Any, async_credential: Any) -> tuple[Any, Any]:
    """The credentials of both clients; `None` to find them."""
    if key is not None and (credential is not None or async_credential is not None):
        raise ConfigurationError("Give a key in the url or the connection_string, or a credential, and not both.")
    credential = key if credential is None else credential
    if isinstance(credential, str):
        try:
            base64.b64decode(credential)
        except (binascii.Error, ValueError):
            raise ConfigurationError("The key of Cosmos DB is not one: it is Base64, of 88 characters.") from None
        return credential, credential
    return credential, async_credential


def _default_credential(*, native: bool) -> Any:
    try:
        import azure.identity.aio
    except ImportError as error:
        raise missing_extra("cosmosdb") from error
    return azure.identity.aio.DefaultAzureCredential() if native else azure.identity.DefaultAzureCredential()


def _kind(client: object) -> str:
    return f"{type(client).__module__}.{type(client).__name__}"
