"""What a store in DynamoDB can do on a table with a sort key, and how a table is found, made and described.

Each message is an item, as `shared/partitions.py` has it. Where set-up finds a table without a sort key, the
operations of `one_item.py` serve.
"""

from __future__ import annotations

import functools
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import Capability, Found, settle
from langchain_histories.stores.dynamodb.one_item import OneItemOperations
from langchain_histories.stores.dynamodb.table import Table, TableOperations, code_of, number_text
from langchain_histories.stores.shared.partitions import HEAD, Item, PartitionOperations, Write

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

_SORT_KEY = "Item"
_TEXT = "Message"
_NOT_WRITTEN = {
    "ConditionalCheckFailed",
    "ConditionalCheckFailedException",
    # The driver does not try a transaction again in which single items were throttled.
    "ProvisionedThroughputExceeded",
    "ThrottlingError",
    "TransactionCanceledException",
    "TransactionConflict",
    "TransactionConflictException",
}


class DynamoDBOperations(TableOperations, PartitionOperations[Any]):
    """The operations with an item per message, and set-up for both layouts.

    Args:
        table_name: The table.
        expiry: The attribute with the time when the service may remove an item.
        messages: The attribute with the list of messages, where a session is one item.
        item_key: Attributes of the primary key, with their values, where a session is one item: the sort key, or both.
        history_size: How many messages an append leaves, where a session is one item; `None` for all.
        create_table: Whether to make the table if it is not there.
        description: What the service said of the table: the same object for all stores of it, with any `item_key`.
    """

    capabilities = ~Capability.NEWEST
    max_writes = 100
    max_text = 400_000
    max_transaction = 4_000_000

    def __init__(
        self,
        table_name: str,
        *,
        expiry: str,
        messages: str,
        item_key: dict[str, Any],
        history_size: int | None,
        create_table: bool,
        description: Found,
    ) -> None:
        """Keep what the table should look like."""
        super().__init__()
        self.table_name = table_name
        self._expiry, self._messages, self._item_key = expiry, messages, item_key
        self._history_size, self._create_table, self._description_found = history_size, create_table, description

    @property
    def place(self) -> Hashable:
        return (self.table_name, self._expiry, self._messages, tuple(sorted(self._item_key.items())))

    def serving(self) -> TableOperations:
        table: Table | None = self.found.what
        return self if table is None or table.sort_key is not None else self._one_item

    @functools.cached_property
    def _one_item(self) -> OneItemOperations:
        return OneItemOperations(self.found, self.ttl, self._history_size)

    # The table.

    async def look(self, client: Any) -> bool:
        known = self._description_found
        # A place that was set up before is looked at again, because an operation failed there.
        if known.what is None or self.found.what is not None:
            known.what = await self._described(client)
        if known.what is None:
            return False
        self.found.what = self._table_of(known.what)
        return True

    async def setup(self, client: Any, *, upgrade: bool = False) -> None:
        if not (self.found.is_there or await self.look(client)):
            self._description_found.what = description = await self._created(client)
            self.found.what = self._table_of(description)
        if upgrade and self.ttl is not None:
            await self._let_expire(client)

    def _table_of(self, description: dict[str, Any]) -> Table:
        keys = {key["KeyType"]: key["AttributeName"] for key in description["KeySchema"]}
        types = {each["AttributeName"]: each["AttributeType"] for each in description["AttributeDefinitions"]}
        sort_key = keys.get("RANGE")
        given = set(self._item_key)
        if given and given not in ({*keys.values()}, {*keys.values()} - {keys["HASH"]}):
            raise ConfigurationError(
                f"The primary key of table {self.table_name!r} is {' and '.join(map(repr, keys.values()))}: give that, "
                f"or what it has beside {keys['HASH']!r}, in place of {' and '.join(map(repr, self._item_key))}."
            )
        fixed = {name: self._key_value(name, types[name], value) for name, value in self._item_key.items()}
        for name in {*keys.values()} - given if given else keys.values():
            if types[name] not in ("SN" if name == keys["HASH"] else "S"):
                raise ConfigurationError(
                    f"The key {name!r} of table {self.table_name!r} must be a string. Make another table, or give the "
                    f"whole key of each session, with the value of {name!r}."
                )
        names = {"partition_key": keys["HASH"], "sort_key": None if fixed else sort_key}
        names |= {"expiry": self._expiry, "messages": self._messages}
        return Table(self.table_name, **names, is_number=types[keys["HASH"]] == "N", fixed=fixed)

    def _key_value(self, name: str, kind: str, value: Any) -> dict[str, Any]:
        """Return a value of the primary key as DynamoDB has it.

        Raises:
            ConfigurationError: The key is of another type.
        """
        match kind, value:
            case ("S", str()) | ("B", bytes() | bytearray()) if value:
                return {kind: value}
            case "N", int() | Decimal() | str() if not isinstance(value, bool):
                if (text := number_text(value)) is not None:
                    return {kind: text}
        wanted = {"S": "a text that is not empty", "N": "a whole number or a Decimal", "B": "bytes"}[kind]
        raise ConfigurationError(
            f"The key {name!r} of table {self.table_name!r} must be {wanted}, not {type(value).__name__}."
        )

    async def _described(self, client: Any) -> dict[str, Any] | None:
        try:
            table = await self._description(client)
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise
            if not self._create_table:
                raise ConfigurationError(
                    f"There is no table {self.table_name!r}: make one with the string keys SessionId and "
                    f"{_SORT_KEY}, or pass create_table=True."
                ) from error
            return None
        if table["TableStatus"] == "CREATING":
            await self._wait(client)
        return table

    async def _description(self, client: Any) -> dict[str, Any]:
        table: dict[str, Any] = (await settle(client.describe_table(TableName=self.table_name)))["Table"]
        return table

    async def _wait(self, client: Any) -> None:
        waiter = client.get_waiter("table_exists")
        await settle(waiter.wait(TableName=self.table_name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}))

    async def _created(self, client: Any) -> dict[str, Any]:
        names = ("SessionId", _SORT_KEY)
        kinds = zip(names, ("HASH", "RANGE"), strict=True)
        try:
            await settle(
                client.create_table(
                    TableName=self.table_name,
                    AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
                    KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in kinds],
                    BillingMode="PAY_PER_REQUEST",
                )
            )
        except ClientError as error:
            if code_of(error) != "ResourceInUseException":  # others make it too
                raise
        await self._wait(client)
        if self.ttl is not None:
            await self._let_expire(client)
        return await self._description(client)

    async def _let_expire(self, client: Any) -> None:
        """Have DynamoDB remove what has expired."""
        specification = {"Enabled": True, "AttributeName": self._expiry}
        try:
            await settle(client.update_time_to_live(TableName=self.table_name, TimeToLiveSpecification=specification))
        except ClientError:
            # Perhaps others have done it.
            found = await settle(client.describe_time_to_live(TableName=self.table_name))
            if not found["TimeToLiveDescription"]["TimeToLiveStatus"].startswith("ENABL"):
                raise

    # Requests.

    async def _get(self, client: Any, key: str, sort: str) -> Item | None:
        found = await settle(
            client.get_item(TableName=self.table.name, Key=self.table.key(key, sort), ConsistentRead=True)
        )
        return self._item(found["Item"]) if "Item" in found else None

    def _item(self, item: dict[str, Any]) -> Item:
        # An item of another program has no text and belongs to no session.
        return Item(item[self.table.sort_key or ""]["S"], item.get(_TEXT, {}).get("S", ""))

    async def _query(
        self, client: Any, key: str, start: str, stop: str, *, limit: int | None = None, reverse: bool = False
    ) -> list[Item]:
        items: list[Item] = []
        request: dict[str, Any] = {
            "TableName": self.table.name,
            "KeyConditionExpression": "#p = :p AND #s BETWEEN :start AND :stop",
            "ExpressionAttributeNames": {"#p": self.table.partition_key, "#s": self.table.sort_key},
            "ExpressionAttributeValues": {":p": self.table.value(key), ":start": {"S": start}, ":stop": {"S": stop}},
            "ConsistentRead": True,
            "ScanIndexForward": not reverse,
        }
        while limit is None or len(items) < limit:
            if limit is not None:
                request["Limit"] = limit - len(items)
            page = await settle(client.query(**request))
            items += map(self._item, page["Items"])
            if "LastEvaluatedKey" not in page:
                break
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]
        return items

    async def _commit(self, client: Any, key: str, writes: Sequence[Write]) -> bool:
        requests = [self._request(key, write) for write in writes]
        try:
            if len(requests) > 1:
                await settle(client.transact_write_items(TransactItems=requests))
            else:
                # A single write costs half as much as a transaction.
                ((kind, request),) = requests[0].items()
                await settle(client.put_item(**request) if kind == "Put" else client.delete_item(**request))
        except ClientError as error:
            if {code_of(error), *_reasons(error)} <= _NOT_WRITTEN:
                return False
            raise
        return True

    def _request(self, key: str, write: Write) -> dict[str, Any]:
        item_key = self.table.key(key, write.sort)
        request: dict[str, Any] = {"TableName": self.table.name}
        if write.expected is None:
            request["ConditionExpression"] = "attribute_not_exists(#p)"
            request["ExpressionAttributeNames"] = {"#p": self.table.partition_key}
        elif isinstance(write.expected, Item):
            request["ConditionExpression"] = "#t = :old"
            request["ExpressionAttributeNames"] = {"#t": _TEXT}
            request["ExpressionAttributeValues"] = {":old": {"S": write.expected.text}}
        if write.text is None:
            return {"Delete": {**request, "Key": item_key}}
        expires = {} if write.expires is None else {self.table.expiry: {"N": str(write.expires)}}
        return {"Put": {**request, "Item": {**item_key, _TEXT: {"S": write.text}, **expires}}}

    async def _heads(self, client: Any, prefix: str) -> list[tuple[str, Item]]:
        """The whole table is read: DynamoDB has no list of its partitions."""
        options = {
            "FilterExpression": "#s = :head",
            "ExpressionAttributeNames": {"#s": self.table.sort_key},
            "ExpressionAttributeValues": {":head": {"S": HEAD}},
        }
        items = await self.table.scan(client, prefix, **options)
        return [(self.table.session(item), self._item(item)) for item in items]

    async def _keys(self, client: Any, prefix: str) -> set[str]:
        names = {"#p": self.table.partition_key}
        items = await self.table.scan(client, prefix, ProjectionExpression="#p", ExpressionAttributeNames=names)
        return {self.table.session(item) for item in items}


def _reasons(error: ClientError) -> set[str]:
    """Why a transaction was cancelled."""
    return {reason["Code"] for reason in error.response.get("CancellationReasons", [])} - {"None"}
