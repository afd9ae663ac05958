"""What a store in Cosmos DB can do in a container of its own, and how a container is found and made.

The container's partition key says how histories are kept in it:

* `/session_id`, as it is made here: items `{id: <sort key>, session_id, text, ttl}` with the sort keys of
  `shared/partitions.py`, written in transactional batches.
* `/user_id`, as LangChain's `CosmosDBChatMessageHistory` makes it: there the operations of `documents.py` serve.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from azure.cosmos import exceptions

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import ANY_STATE, Capability
from langchain_histories.stores.cosmosdb.container import (
    BATCH_ERRORS,
    NOT_FOUND,
    Container,
    ContainerOperations,
    is_async,
    others_were_faster,
    seconds_left,
)
from langchain_histories.stores.cosmosdb.documents import DocumentOperations
from langchain_histories.stores.shared.partitions import HEAD, Item, PartitionOperations, Write

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

_OURS, _LANGCHAINS = "/session_id", "/user_id"


class CosmosDBOperations(ContainerOperations, PartitionOperations[Any]):
    """The operations with an item per message, and set-up for both layouts.

    Args:
        database_name: The database.
        container_name: The container.
    """

    capabilities = ~Capability.NEWEST
    # Of 2 MB for an item and for a transaction, as JSON in which the driver escapes what is not ASCII.
    max_writes = 100
    max_text = 1_900_000
    max_transaction = 2_000_000
    overhead = 8192

    def __init__(self, database_name: str, container_name: str) -> None:
        """Keep the names."""
        super().__init__(Container(database_name, container_name))

    @property
    def place(self) -> Hashable:
        # Set-up looks at the container's time to live if the store needs it.
        return (self.container.database_name, self.container.container_name, self.ttl is not None)

    def serving(self) -> ContainerOperations:
        return self._documents if self.found.what == _LANGCHAINS else self

    @functools.cached_property
    def _documents(self) -> DocumentOperations:
        return DocumentOperations(self.container, self.found, self.ttl)

    async def look(self, client: Any) -> bool:
        try:
            found = await self.container.read(client)
        except exceptions.CosmosResourceNotFoundError:
            return False
        self._take(found)
        return True

    async def setup(self, client: Any, *, upgrade: bool = False) -> None:  # noqa: ARG002  # nothing to upgrade
        if not (self.found.is_there or await self.look(client)):
            await self.container.create(client, _OURS)
            self._take(await self.container.read(client))

    def _take(self, found: dict[str, Any]) -> None:
        """Keep what a container is.

        Raises:
            ConfigurationError: It cannot hold the histories of this store.
        """
        definition = found["partitionKey"]
        if definition["paths"] not in ([_OURS], [_LANGCHAINS]):
            raise ConfigurationError(
                f"{self.container} has the partition key {', '.join(definition['paths'])}: histories need one with "
                f"{_OURS}, or LangChain's with {_LANGCHAINS}."
            )
        if definition["paths"] == [_OURS] and definition.get("version", 1) == 1:
            raise ConfigurationError(
                f"{self.container} does not tell long partition keys apart: make another one, with large partition "
                "keys."
            )
        if self.ttl is not None and found.get("defaultTtl") is None:
            raise ConfigurationError(
                f"{self.container} has its time to live off, so ttl cannot work: turn it on (no default)."
            )
        (self.found.what,) = definition["paths"]

    def is_async(self, client: Any) -> bool:
        return is_async(client)

    def _size(self, text: str) -> int:
        return len(json.dumps(text))

    def _cut(self, text: str) -> list[str]:
        step = self.max_text // 12  # the most that one character needs
        return [text[start : start + step] for start in range(0, len(text), step)] or [""]

    async def _get(self, client: Any, key: str, sort: str) -> Item | None:
        found = await self.container.fetch(client, key, sort)
        return None if found is None else _item(found)

    async def _query(
        self, client: Any, key: str, start: str, stop: str, *, limit: int | None = None, reverse: bool = False
    ) -> list[Item]:
        query = f"""SELECT {"" if limit is None else f"TOP {limit:d} "}c.id, c.text, c._etag FROM c
            WHERE c.id >= @start AND c.id <= @stop ORDER BY c.id {"DESC" if reverse else "ASC"}"""  # noqa: S608
        return [_item(found) for found in await self.container.find(client, query, key, start=start, stop=stop)]

    async def _commit(self, client: Any, key: str, writes: Sequence[Write]) -> bool:
        left = list(writes)
        while left:
            try:
                await self.container.batch(client, key, [_operation(key, write) for write in left])
            except BATCH_ERRORS as error:
                if others_were_faster(error):
                    return False
                if not isinstance(error, exceptions.CosmosBatchOperationError):
                    raise
                write = left[error.error_index]
                if error.status_code == NOT_FOUND and write.text is None and write.expected is ANY_STATE:
                    # The item that was to be removed is gone already.
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
        return [
            (found["session_id"], _item(found)) for found in await self.container.find(client, query, prefix=prefix)
        ]

    async def _keys(self, client: Any, prefix: str) -> set[str]:
        query = "SELECT c.session_id FROM c WHERE STARTSWITH(c.session_id, @prefix)"
        return {found["session_id"] for found in await self.container.find(client, query, prefix=prefix)}


def _item(found: dict[str, Any]) -> Item:
    # What another program has put there may be no text, and is no record then.
    text = found.get("text")
    return Item(found["id"], text if isinstance(text, str) else "", found["_etag"])


def _operation(key: str, write: Write) -> tuple[Any, ...]:
    """One operation of a transactional batch."""
    condition = {"if_match_etag": write.expected.tag} if isinstance(write.expected, Item) else {}
    if write.text is None:
        return "delete", (write.sort,), condition
    # -1 is never, whatever default the container has.
    ttl = -1 if write.expires is None else seconds_left(write.expires)
    body = {"id": write.sort, "session_id": key, "text": write.text, "ttl": ttl}
    if condition:
        return "replace", (write.sort, body), condition
    return "create" if write.expected is None else "upsert", (body,)
