"""Requests to a container of Cosmos DB, and which errors of the driver mean what.

An item that decides something is read in a transactional batch, which like every write runs on the primary replica: it
sees what others have committed, also where the account's consistency is Session, its default. The queries that follow
bring the session token of that batch, so they see no less. Listings are as fresh as the account's consistency makes
them.
"""

from __future__ import annotations

import contextlib
import functools
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import azure.cosmos.aio
from azure.core.exceptions import AzureError, ClientAuthenticationError, ServiceRequestError, ServiceResponseError
from azure.cosmos import PartitionKey, exceptions

from langchain_histories.stores.base import Operations, each, settle

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH_ERRORS = (exceptions.CosmosBatchOperationError, exceptions.CosmosHttpResponseError)
NOT_FOUND = 404
_FORBIDDEN = 403
_RETRY_WITH = 449
# A conflict, a condition that does not hold, and throttling that stands in the answer of an operation, which the driver
# does not try again.
_OTHERS_WERE_FASTER = (409, 412, 429)
_UNAVAILABLE = (401, 408, 429, 449)
_SERVER_ERROR = 500
# Session token of this operation's last batch; later queries send it, so that they see at least what the batch saw.
_session_token: ContextVar[str | None] = ContextVar("_session_token", default=None)


def others_were_faster(error: Exception) -> bool:
    """Whether to try a batch again: nothing of it was written, because others wrote or the service was too busy."""
    status = getattr(error, "status_code", None)
    if isinstance(error, exceptions.CosmosBatchOperationError) and status in _OTHERS_WERE_FASTER:
        return True
    # Two transactions met. The driver leaves it to its caller to try again.
    return status == _RETRY_WITH


def seconds_left(expires: int) -> int:
    """The `ttl` of an item that is to expire at a time: the service counts from the second in which it is written."""
    return max(1, expires - int(time.time()))


def is_async(client: Any) -> bool:
    """Whether this is an async client."""
    return isinstance(client, azure.cosmos.aio.CosmosClient)


class Container:
    """A container, whatever is kept in it.

    Args:
        database_name: The database.
        container_name: The container.
    """

    def __init__(self, database_name: str, container_name: str) -> None:
        self.database_name, self.container_name = database_name, container_name

    def __str__(self) -> str:
        """Its name, for messages."""
        return f"The container {self.database_name}/{self.container_name}"

    def _proxy(self, client: Any) -> Any:
        return client.get_database_client(self.database_name).get_container_client(self.container_name)

    async def read(self, client: Any) -> dict[str, Any]:
        """Return its definition."""
        definition: dict[str, Any] = await settle(self._proxy(client).read())
        return definition

    async def create(self, client: Any, partition_key: str) -> None:
        """Make it, and its database, unless another caller is faster."""
        with contextlib.suppress(exceptions.CosmosResourceExistsError):
            await settle(client.create_database_if_not_exists(self.database_name))
        # Nobody looks for texts, and an index of them would cost most of a write.
        indexed = {"includedPaths": [{"path": "/*"}], "excludedPaths": [{"path": "/text/?"}]}
        with contextlib.suppress(exceptions.CosmosResourceExistsError):
            await settle(
                client.get_database_client(self.database_name).create_container(
                    self.container_name,
                    PartitionKey(partition_key, version=2),
                    default_ttl=-1,
                    indexing_policy={"indexingMode": "consistent", "automatic": True, **indexed},
                )
            )

    async def batch(self, client: Any, partition: str, operations: Sequence[tuple[Any, ...]]) -> Any:
        """Run a transactional batch, and keep its session token, which the driver forgets."""
        keep = functools.partial(_keep_token, client)
        batch = self._proxy(client).execute_item_batch
        _session_token.set(None)
        try:
            return await settle(batch(operations, partition_key=partition, response_hook=keep))
        except exceptions.CosmosBatchOperationError as error:
            keep(error.headers)
            raise

    async def fetch(self, client: Any, partition: str, name: str) -> dict[str, Any] | None:
        """Return an item with the last change that any writer made."""
        try:
            results = await self.batch(client, partition, [("read", (name,))])
        except BATCH_ERRORS as error:
            if error.status_code == NOT_FOUND and isinstance(error, exceptions.CosmosBatchOperationError):
                return None
            if error.status_code != _FORBIDDEN:
                raise
            # A caller who may only read may run no batch, and sees what the account's consistency lets them see.
            return await self._point_read(client, partition, name)
        body: dict[str, Any] = results[0]["resourceBody"]
        return body

    async def _point_read(self, client: Any, partition: str, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await settle(self._proxy(client).read_item(name, partition))
        except exceptions.CosmosResourceNotFoundError as error:
            if error.sub_status:
                raise  # it is not the item that is missing
            return None
        return found

    async def find(self, client: Any, query: str, partition: str | None = None, **values: str) -> list[dict[str, Any]]:
        """Return what a query finds in a partition, or in all of them."""
        # Not the token that the driver would find: after a split it looks for that of a range which is no more.
        where: dict[str, Any] = {"partition_key": partition, "session_token": _session_token.get()}
        if partition is None:
            where = {} if is_async(client) else {"enable_cross_partition_query": True}
        parameters = [{"name": f"@{name}", "value": value} for name, value in values.items()]
        pager = self._proxy(client).query_items(query, parameters=parameters, **where)
        return [document async for document in each(pager)]


def _keep_token(client: Any, headers: Any, _: object = None) -> None:
    _session_token.set(headers.get("x-ms-session-token"))
    # Listings bring all tokens that the driver has.
    connection = client.client_connection
    if connection.session is not None:  # the account's consistency is Session
        connection.session.update_session(connection, {}, headers)


class ContainerOperations(Operations[Any]):
    """What the operations of both layouts have in common: the service's errors and ids, and the container.

    Args:
        container: The container.
    """

    name = "cosmosdb"
    driver_errors = (AzureError,)
    unavailable_errors = (
        ConnectionError,
        TimeoutError,
        ClientAuthenticationError,
        ServiceRequestError,
        ServiceResponseError,
        exceptions.CosmosClientTimeoutError,
    )
    unholdable = "\0"

    def __init__(self, container: Container) -> None:
        """Keep the container."""
        super().__init__()
        self.container = container

    def is_unavailable(self, error: Exception) -> bool:
        status = getattr(error, "status_code", None) or 0
        return super().is_unavailable(error) or status in _UNAVAILABLE or status >= _SERVER_ERROR
