"""A session in one item of DynamoDB, as LangChain's and LlamaIndex's classes keep it on a table without a sort key.

The item `{SessionId, History, expireAt}` has all records in the list `History`. Ours adds the state of the session in
`lh:state`. A batch is appended by the service itself (`list_append`), so no writer overwrites another's. Every read
reads the whole item, and all of it has to fit in 400 KB.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from langchain_histories._neutral import settle
from langchain_histories.codec import CheckedRow, Row
from langchain_histories.errors import RecordTooLargeError
from langchain_histories.store import ANY_STATE, AnyState, SessionRow, position_number
from langchain_histories.stores.dynamodb.values import to_text, to_value
from langchain_histories.stores.shared.one_item import OneItemOperations

if TYPE_CHECKING:
    from collections.abc import Sequence

_STATE = "lh:state"


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table as its description says it is.

    Attributes:
        name: Its name.
        partition_key: The attribute with the session id.
        sort_key: The attribute of the sort key; `None` where a session is one item.
        expiry: The attribute with the time when the service may remove an item.
        messages: The attribute with the list of messages, where a session is one item.
        fixed: More attributes of the primary key, the same for all sessions.
    """

    name: str
    partition_key: str
    sort_key: str | None
    expiry: str
    messages: str
    fixed: dict[str, dict[str, str]]

    def key(self, session: str, sort: str | None = None) -> dict[str, Any]:
        """The primary key of an item."""
        item = {self.partition_key: {"S": session}, **self.fixed}
        return item if self.sort_key is None or sort is None else {**item, self.sort_key: {"S": sort}}

    async def scan(self, client: Any, prefix: str, **options: Any) -> list[dict[str, Any]]:
        """Return the items whose partition key starts with `prefix`, from all pages, if they have the fixed key."""
        items: list[dict[str, Any]] = []
        if prefix:
            condition = "begins_with(#p, :p)"
            options["FilterExpression"] = " AND ".join(filter(None, [options.get("FilterExpression"), condition]))
            options["ExpressionAttributeValues"] = {**options.get("ExpressionAttributeValues", {}), ":p": {"S": prefix}}
            options["ExpressionAttributeNames"] = {
                **options.get("ExpressionAttributeNames", {}),
                "#p": self.partition_key,
            }
        while True:
            page = await settle(client.scan(TableName=self.name, ConsistentRead=True, **options))
            items += [item for item in page["Items"] if self.fixed.items() <= item.items()]
            if (start := page.get("LastEvaluatedKey")) is None:
                return items
            options["ExclusiveStartKey"] = start


class ItemOperations(OneItemOperations):
    """What a store does on a table where a session is one item."""

    def __init__(self, table: Table, ttl: int | None) -> None:
        """Keep what the items look like."""
        self._table, self._ttl = table, ttl

    async def append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        """Add rows to the list."""
        change = "SET #h = list_append(if_not_exists(#h, :none), :rows)"
        await self._put(client, key, change, rows, {":none": {"L": []}})

    async def replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        """Put another list in place of the list."""
        await self._put(client, key, "SET #h = :rows", rows, {})

    async def read(
        self, client: Any, key: str, *, last: int | None = None, first: int | None = None, after: str | None = None
    ) -> list[Row]:
        """Return rows; their positions are index and checksum, because others may remove rows before them."""
        start = 0 if after is None else position_number(after) + 1
        item = await self._live_item(client, key)
        rows: list[Row] = [CheckedRow(to_text(value), str(index)) for index, value in enumerate(self._values(item))]
        if after is not None and not (start <= len(rows) and rows[start - 1].position == after):
            checksum = after.partition("-")[2]
            same = [index for index, row in enumerate(rows, 1) if row.position.endswith("-" + checksum)]
            # What is removed before it moves it towards the beginning, so those of the same text behind it are others.
            start = max((index for index in same if index <= start), default=0)
        rows = rows[start:]
        return rows[:first] if last is None else rows[-last:]

    async def delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:
        """Remove rows, each only where it still stands when it is removed."""
        removed = 0
        for row in sorted(rows, key=lambda row: position_number(row.position), reverse=True):
            removed += await self._delete_one(client, key, row)
        return removed

    async def _delete_one(self, client: Any, key: str, row: Row) -> bool:
        while True:
            values = self._values(await self._live_item(client, key))
            index = position_number(row.position)
            if index >= len(values) or to_text(values[index]) != row.text:
                index = next((at for at, value in enumerate(values) if to_text(value) == row.text), -1)
            if index < 0:
                return False
            place = f"#h[{index}]"
            if await self._change(client, key, f"REMOVE {place}", f"{place} = :row", {":row": values[index]}):
                return True

    async def clear(self, client: Any, key: str) -> None:
        """Remove the item."""
        await self._delete_item(client, key)

    async def _delete_item(self, client: Any, key: str, **condition: Any) -> None:
        await settle(client.delete_item(TableName=self._table.name, Key=self._table.key(key), **condition))

    async def count(self, client: Any, key: str) -> int:
        """Count the rows."""
        return len(self._values(await self._live_item(client, key)))

    async def sessions(self, client: Any, *, prefix: str, limit: int | None, after: str | None) -> list[SessionRow]:
        """List the sessions of the table; that reads all of it."""
        rows = []
        for item in await self._table.scan(client, prefix):
            key, values = item[self._table.partition_key]["S"], self._values(item)
            if values and self._is_live(item) and (after is None or key.encode() > after.encode()):
                rows.append(SessionRow(key, len(values), to_text(values[-1])))
        return sorted(rows, key=lambda row: row.key.encode())[:limit]

    async def erase(self, client: Any, prefix: str) -> int:
        """Remove the items of all sessions whose key starts with `prefix`."""
        items = await self._table.scan(client, prefix)
        for item in items:
            await self._delete_item(client, item[self._table.partition_key]["S"])
        return len(items)

    async def get_state(self, client: Any, key: str) -> str | None:
        """Return the state."""
        item = await self._live_item(client, key)
        return str(item[_STATE]["S"]) if _STATE in item else None

    async def put_state(
        self, client: Any, key: str, text: str | None, *, instead_of: str | bytes | AnyState | None = ANY_STATE
    ) -> bool:
        """Put a state in place of the one before; an item that held nothing else goes with it."""
        values = {} if instead_of in (ANY_STATE, None) else {":old": {"S": str(instead_of)}}
        if text is not None:
            condition = "#s = :old" if values else "attribute_not_exists(#s)" if instead_of is None else ""
            change = "SET #s = :state" + (", #e = if_not_exists(#e, :expires)" if self._ttl else "")
            return await self._change(
                client, key, change, condition, {**values, ":state": {"S": text}, **self._expires}
            )
        condition = "#s = :old" if values else "attribute_exists(#s)"
        if not await self._change(client, key, "REMOVE #s", condition, values):
            return instead_of is ANY_STATE
        await self._remove(client, key, "attribute_not_exists(#h) AND attribute_not_exists(#s)", {})
        return True

    @property
    def _expires(self) -> dict[str, Any]:
        return {} if self._ttl is None else {":expires": {"N": str(round(time.time()) + self._ttl)}}

    async def _put(self, client: Any, key: str, change: str, rows: Sequence[str], values: dict[str, Any]) -> None:
        values = {":rows": {"L": [to_value(row) for row in rows]}, **values, **self._expires}
        await self._change(client, key, change + (", #e = :expires" if self._ttl else ""), "", values)

    async def _change(self, client: Any, key: str, change: str, condition: str, values: dict[str, Any]) -> bool:
        """Update the item of a session; tell whether the condition held.

        `#h` is the list, `#s` the state and `#e` the time of expiry. What has expired is removed first: the service may
        leave it there for days.
        """
        while True:
            now = {":now": {"N": str(int(time.time()))}}
            live = "NOT #e <= :now"
            try:
                await settle(
                    client.update_item(
                        TableName=self._table.name,
                        Key=self._table.key(key),
                        UpdateExpression=change,
                        **self._condition(f"{live} AND {condition}" if condition else live, {**values, **now}, change),
                    )
                )
            except ClientError as error:
                if _is_refused(error):
                    # Without a condition of its own it was not live, and others have removed it or begun it anew.
                    if not await self._remove(client, key, "#e <= :now", now) and condition:
                        return False
                    continue
                if _is_too_large(error):
                    raise RecordTooLargeError(
                        "With this the session is larger than the 400 KB of one DynamoDB item, which is all that "
                        f"table {self._table.name!r} has for a session. Nothing was written. A table with a sort key "
                        "has no such limit."
                    ) from error
                raise
            return True

    async def _remove(self, client: Any, key: str, condition: str, values: dict[str, Any]) -> bool:
        try:
            await self._delete_item(client, key, **self._condition(condition, values))
        except ClientError as error:
            if not _is_refused(error):
                raise
            return False
        return True

    def _condition(self, condition: str, values: dict[str, Any], change: str = "") -> dict[str, Any]:
        names = {"#h": self._table.messages, "#s": _STATE, "#e": self._table.expiry}
        used = {name: attribute for name, attribute in names.items() if name in condition + change}
        more = {"ExpressionAttributeValues": values} if values else {}
        return {"ConditionExpression": condition, "ExpressionAttributeNames": used, **more}

    async def _live_item(self, client: Any, key: str) -> dict[str, Any]:
        found = await settle(client.get_item(TableName=self._table.name, Key=self._table.key(key), ConsistentRead=True))
        item: dict[str, Any] = found.get("Item", {})
        return item if self._is_live(item) else {}

    def _is_live(self, item: dict[str, Any]) -> bool:
        return float(item.get(self._table.expiry, {}).get("N", "inf")) > time.time()

    def _values(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        values: list[dict[str, Any]] = item.get(self._table.messages, {}).get("L", [])
        return values


def _is_refused(error: ClientError) -> bool:
    return bool(error.response["Error"]["Code"] == "ConditionalCheckFailedException")


def _is_too_large(error: ClientError) -> bool:
    """Whether the item would be too large, or the request already is."""
    code = error.response["Error"]["Code"]
    return code in ("413", "RequestEntityTooLarge") or (code == "ValidationException" and "size" in str(error))
