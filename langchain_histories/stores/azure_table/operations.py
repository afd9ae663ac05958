"""What a store in Azure's tables can do.

The partition of a session has the session's id as its `PartitionKey` and holds what `shared/partitions.py` describes:
an entity for each record, and a head that every write replaces in the same entity group transaction. A text is the
property `text`, and a longer one goes on in `text1`, `text2` and so on, because a property holds 64 KiB.

An id that is longer than a `PartitionKey` can be is replaced by its hash, and its head has the property `key` as well.

Cosmos DB returns entities in any order, takes transactions of 2 MB, and does not tell a missing entity from a missing
table; so nothing here relies on what Azure Storage does better. Of Cosmos DB's consistency levels, only Strong shows
every process at once what another one has written.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
import weakref
from typing import TYPE_CHECKING, Any

import azure.data.tables.aio
from azure.core import MatchConditions
from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from azure.data.tables import TableTransactionError, UpdateMode

from langchain_histories.stores.base import ANY_STATE, Capability, each, settle
from langchain_histories.stores.shared.partitions import HEAD, Item, PartitionOperations, Write

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

# A character may take two UTF-16 units of two bytes each, so that this is at most 64,000 bytes.
_PROPERTY = 16_000
_LONGEST_KEY = 512
# Escaped ids begin with `lh%`. Some of the service's interfaces stumble over `%` in a key, so `!` is written instead.
_HASHED = "lh!="
_CONTROLS = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))
_UNHOLDABLE = "/\\#?%!\ufffe\uffff" + _CONTROLS


class AzureTableOperations(PartitionOperations[Any]):
    """The operations over a client of the account.

    Args:
        table_name: The table.
    """

    name = "azure-table"
    capabilities = ~Capability.NEWEST
    driver_errors = (AzureError,)
    unholdable = _UNHOLDABLE
    max_writes = 100
    # An entity has 1 MiB, of which the service counts two bytes for one of UTF-8, and the emulator up to three.
    max_text = 300_000
    # A transaction has 2 MB in Cosmos DB and 4 MiB in Azure Storage.
    max_transaction = 650_000
    overhead = 4096
    has_expiry = False

    def __init__(self, table_name: str) -> None:
        """Keep the name."""
        super().__init__()
        self.table_name = table_name
        self._tables: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    @property
    def place(self) -> Hashable:
        return self.table_name

    def is_unavailable(self, error: Exception) -> bool:
        status = getattr(error, "status_code", None)
        if status == 403:  # noqa: PLR2004
            return "Permission" not in _code(error)
        return status is None or status in (401, 408, 429) or status >= 500  # noqa: PLR2004

    async def look(self, client: Any) -> bool:
        try:
            await self._entities(client, "RowKey eq @sort and PartitionKey eq @key", key=HEAD, sort=HEAD)
        except ResourceNotFoundError:
            return False
        return True

    async def setup(self, client: Any, *, upgrade: bool = False) -> None:  # noqa: ARG002  # nothing to upgrade
        if not (self.found.is_there or await self.look(client)):
            with contextlib.suppress(ResourceExistsError):  # another caller was faster
                await settle(self._table(client).create_table())

    # Requests.

    def is_async(self, client: Any) -> bool:
        return isinstance(client, azure.data.tables.aio.TableServiceClient)

    def _table(self, client: Any) -> Any:
        """The driver's client of the table; to make one costs as much as a small read."""
        table = self._tables.get(client)
        if table is None:
            table = self._tables[client] = client.get_table_client(self.table_name)
        return table

    async def _entities(
        self, client: Any, where: str, *, select: list[str] | None = None, **parameters: str
    ) -> list[Any]:
        found = self._table(client).query_entities(
            where, parameters=parameters, **({"select": select} if select else {})
        )
        return [entity async for entity in each(found)]

    async def _get(self, client: Any, key: str, sort: str) -> Item | None:
        # A query, because the answer of a point read is the same for a missing entity and, in Cosmos, a missing table.
        items = await self._range(client, key, sort, sort)
        return items[0] if items else None

    async def _range(self, client: Any, key: str, start: str, stop: str) -> list[Item]:
        where = "PartitionKey eq @key and RowKey ge @start and RowKey le @stop"
        entities = await self._entities(client, where, key=_partition(key), start=start, stop=stop)
        return sorted(map(_item, entities))

    async def _query(
        self, client: Any, key: str, start: str, stop: str, *, limit: int | None = None, reverse: bool = False
    ) -> list[Item]:
        """Azure returns entities forwards only and Cosmos in any order, so a limited query asks for a few numbers."""
        if limit is None:
            items = await self._range(client, key, start, stop)
            return items[::-1] if reverse else items
        found: list[Item] = []
        epoch, _, first = start.partition(".")
        low, high, span = int(first), int(stop.partition(".")[2].removesuffix("b")), limit
        while low <= high and len(found) < limit:
            edge = max(low, high - span + 1) if reverse else min(high, low + span - 1)
            numbers = (edge, high) if reverse else (low, edge)
            items = await self._range(client, key, f"{epoch}.{numbers[0]:016}", f"{epoch}.{numbers[1]:016}b")
            found += reversed(items) if reverse else items
            low, high = (low, edge - 1) if reverse else (edge + 1, high)
            span *= 4
        return found[:limit]

    async def _commit(self, client: Any, key: str, writes: Sequence[Write]) -> bool:
        partition, commit, writes = _partition(key), uuid.uuid4().hex, list(writes)
        while writes:
            operations = [_operation(partition, key, commit, write) for write in writes]
            answers: list[Any] = []
            try:
                await settle(self._table(client).submit_transaction(operations, raw_response_hook=answers.append))
            except TableTransactionError as error:
                if error.status_code not in (404, 409, 412) or _code(error).startswith("Table"):
                    raise
                if error.status_code == 404 and writes[error.index][1:3] == (None, ANY_STATE):  # noqa: PLR2004
                    # The entity that was to be removed was not there.
                    del writes[error.index]
                    continue
                # The driver tries again where the service says that it failed, and may find its own first try there.
                return len(answers) > 1 and await self._is_stored(client, key, commit, writes)
            else:
                return True
        return True

    async def _is_stored(self, client: Any, key: str, commit: str, writes: Sequence[Write]) -> bool:
        where = "PartitionKey eq @key and RowKey eq @sort"
        heads = await self._entities(client, where, key=_partition(key), sort=HEAD)
        if any(head.get("commit") == commit for head in heads):
            return True
        # Others may have written since. No two records are equal.
        record = next((write for write in writes if write.text and write.sort.startswith("r")), None)
        stored = None if record is None else await self._get(client, key, record.sort)
        return record is not None and stored is not None and stored.text == record.text

    async def _heads(self, client: Any, prefix: str) -> list[tuple[str, Item]]:
        entities = await self._listed(client, prefix, "RowKey eq @sort", sort=HEAD)
        heads = {_key(entity): _item(entity) for entity in entities}
        return [(key, item) for key, item in heads.items() if key.startswith(prefix)]

    async def _keys(self, client: Any, prefix: str) -> set[str]:
        """Only the head of a partition that is named by a hash tells the key."""
        entities = await self._listed(client, prefix, "RowKey ge @sort", select=["PartitionKey", "key"], sort="!")
        keys = {_key(entity) for entity in entities}
        return {key for key in keys if key.startswith(prefix) and not key.startswith(_HASHED.replace("!", "%"))}

    async def _listed(self, client: Any, prefix: str, where: str, **options: Any) -> list[Any]:
        """Return the entities of the partitions that may start with a prefix."""
        bounds = _bounds(prefix)
        if bounds is None:
            return await self._entities(client, where, **options)
        where += " and PartitionKey ge @low and PartitionKey lt @high"
        entities = await self._entities(client, where, low=bounds[0], high=bounds[1], **options)
        return entities + await self._entities(client, where, low=_HASHED, high="lh!>", **options)


def _code(error: Exception) -> str:
    code = getattr(error, "error_code", "")
    return str(getattr(code, "value", code))


def _partition(key: str) -> str:
    if len(key.encode()) > _LONGEST_KEY:
        return _HASHED + hashlib.sha256(key.encode()).hexdigest()
    return key.replace("%", "!")


def _key(head: Any) -> str:
    return str(head.get("key") or head["PartitionKey"].replace("!", "%"))


def _bounds(prefix: str) -> tuple[str, str] | None:
    """The first partition that may start with `prefix` and the end of these, in the orders of UTF-8 and of UTF-16."""
    low = re.match("[^\ud7ff-\U0010ffff]*", prefix.replace("%", "!"))[0]  # type: ignore[index]  # it matches anything
    if not low:
        return None
    end = ord(low[-1]) + 1
    while chr(end) in _UNHOLDABLE:
        end += 1
    return low, low[:-1] + chr(end)


def _item(entity: Any) -> Item:
    # What another program has put there may be no text, and is no record then.
    texts = [entity.get("text")]
    while isinstance(more := entity.get(f"text{len(texts)}"), str):
        texts.append(more)
    texts[0] = texts[0] if isinstance(texts[0], str) else ""
    return Item(entity["RowKey"], "".join(texts), entity.metadata["etag"])


def _operation(partition: str, key: str, commit: str, write: Write) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """One operation of an entity group transaction."""
    entity = {"PartitionKey": partition, "RowKey": write.sort}
    unchanged: dict[str, Any] = {}
    if isinstance(write.expected, Item):
        unchanged = {"etag": write.expected.tag, "match_condition": MatchConditions.IfNotModified}
    if write.text is None:
        return "delete", entity, unchanged
    entity["text"] = write.text[:_PROPERTY]
    for number, start in enumerate(range(_PROPERTY, len(write.text), _PROPERTY), 1):
        entity[f"text{number}"] = write.text[start : start + _PROPERTY]
    if write.sort == HEAD:
        entity["commit"] = commit
        if partition.startswith(_HASHED):
            entity["key"] = key
    if write.expected is None:
        return "create", entity, {}
    return ("update" if unchanged else "upsert"), entity, {"mode": UpdateMode.REPLACE, **unchanged}
