"""A session in one item of DynamoDB, as LangChain's and LlamaIndex's classes keep it on a table without a sort key.

The item `{SessionId, History, expireAt}` has all records in the list `History`. Ours adds the state of the session in
`lh:state`. A batch is appended by the service itself (`list_append`), so no writer overwrites another's. Every read
reads the whole item, and all of it has to fit in 400 KB.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from langchain_histories.codec import CheckedRow
from langchain_histories.errors import RecordTooLargeError
from langchain_histories.stores.base import (
    ANY_STATE,
    Capability,
    ExpectedState,
    Found,
    Row,
    SessionRow,
    pause,
    position_number,
    same_rows,
    settle,
)
from langchain_histories.stores.dynamodb.table import TableOperations, code_of
from langchain_histories.stores.dynamodb.values import to_text, to_value
from langchain_histories.stores.shared.tries import tries

if TYPE_CHECKING:
    from collections.abc import Sequence

_STATE = "lh:state"


class OneItemOperations(TableOperations):
    """The operations with an item per session.

    Args:
        found: The table that set-up found.
        ttl: Seconds after its last append at which a session expires.
        history_size: How many messages an append leaves, the newest; `None` for all.
    """

    def __init__(self, found: Found, ttl: int | None, history_size: int | None) -> None:
        """Keep what the items look like."""
        super().__init__()
        self.found, self.ttl, self._history_size = found, ttl, history_size
        lacks = Capability.NEWEST | Capability.TAIL_READ | Capability.LARGE_SESSIONS
        if self.table.is_one_session:
            lacks |= Capability.SESSIONS | Capability.ERASE
        self.capabilities = ~lacks

    async def append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        if self._history_size is not None:
            await self._append_and_trim(client, key, rows, self._history_size)
            return
        change = "SET #h = list_append(if_not_exists(#h, :none), :rows)"
        await self._put(client, key, change, rows, {":none": {"L": []}})

    async def _append_and_trim(self, client: Any, key: str, rows: Sequence[str], size: int) -> None:
        """Leave the newest rows in one step: the list is exchanged if it is still as it was read."""
        new = [to_value(row) for row in rows]
        for wait in tries(self, key):
            old = self._values(await self._live_item(client, key))
            if await self._exchange(client, key, old, (old + new)[-size:], slide=True):
                return
            await pause(wait, is_async=self.is_async(client))

    async def _exchange(
        self, client: Any, key: str, old: list[dict[str, Any]], new: list[dict[str, Any]], *, slide: bool
    ) -> bool:
        """Put a list in place of another one; tell whether that was still there."""
        expires = self._expires if slide else {}
        values = {":rows": {"L": new}, ":old": {"L": old}, **expires}
        condition = "#h = :old"
        if not old:
            values[":old"], condition = {"N": "0"}, "(attribute_not_exists(#h) OR size(#h) = :old)"
        return await self._change(
            client, key, "SET #h = :rows" + (", #e = :expires" if expires else ""), condition, values
        )

    async def edit(
        self, client: Any, key: str, rows: Sequence[str], *, expected: Sequence[Row], kept: int, after: str | None
    ) -> bool:
        old = self._values(await self._live_item(client, key))
        if not same_rows(_behind(old, after), expected):
            return False
        stay = len(old) - len(expected) + kept
        if not rows and stay == len(old):
            return True
        return await self._exchange(client, key, old, old[:stay] + [to_value(row) for row in rows], slide=bool(rows))

    async def replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        await self._put(client, key, "SET #h = :rows", rows, {})

    async def read(
        self, client: Any, key: str, *, last: int | None = None, first: int | None = None, after: str | None = None
    ) -> Sequence[Row]:
        """A position is an index and a checksum, because others may remove rows before it."""
        rows = _behind(self._values(await self._live_item(client, key)), after)
        return rows[:first] if last is None else rows[-last:]

    async def delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:
        """Each row is removed on condition that it still stands where it was."""
        newest_first = sorted(rows, key=lambda row: position_number(row.position), reverse=True)
        return sum([await self._delete_one(client, key, row) for row in newest_first])

    async def _delete_one(self, client: Any, key: str, row: Row) -> bool:
        while True:
            values = self._values(await self._live_item(client, key))
            index = position_number(row.position)
            if index >= len(values) or to_text(values[index]) != row.text:
                index = next((at for at, value in enumerate(values) if to_text(value) == row.text), -1)
            if index < 0:
                return False
            element = f"#h[{index}]"
            if await self._change(client, key, f"REMOVE {element}", f"{element} = :row", {":row": values[index]}):
                return True

    async def clear(self, client: Any, key: str) -> None:
        await self._delete_item(client, key)

    async def count(self, client: Any, key: str) -> int:
        return len(self._values(await self._live_item(client, key)))

    async def sessions(self, client: Any, *, prefix: str, limit: int | None, after: str | None) -> Sequence[SessionRow]:
        """The whole table is read."""
        if self.table.is_one_session:
            raise self.unsupported("sessions")
        rows = []
        for item in await self.table.scan(client, prefix):
            key, values = self.table.session(item), self._values(item)
            if values and self._is_live(item) and (after is None or key.encode() > after.encode()):
                rows.append(SessionRow(key, len(values), to_text(values[-1])))
        return sorted(rows, key=lambda row: row.key.encode())[:limit]

    async def erase(self, client: Any, prefix: str) -> int:
        if self.table.is_one_session:
            raise self.unsupported("erase")
        items = await self.table.scan(client, prefix)
        for item in items:
            await self._delete_item(client, self.table.session(item))
        return len(items)

    async def get_state(self, client: Any, key: str) -> str | None:
        item = await self._live_item(client, key)
        return str(item[_STATE].get("S", "")) if _STATE in item else None

    async def put_state(self, client: Any, key: str, text: str | None, *, expected: ExpectedState = ANY_STATE) -> bool:
        """An item that held nothing but the state goes with it."""
        values = {} if expected in (ANY_STATE, None) else {":old": {"S": str(expected)}}
        if text is not None:
            condition = "#s = :old" if values else "attribute_not_exists(#s)" if expected is None else ""
            change = "SET #s = :state" + (", #e = if_not_exists(#e, :expires)" if self.ttl else "")
            values |= {":state": {"S": text}, **self._expires}
            return await self._change(client, key, change, condition, values)
        condition = "#s = :old" if values else "attribute_exists(#s)"
        if not await self._change(client, key, "REMOVE #s", condition, values):
            return expected is ANY_STATE
        await self._remove(client, key, "attribute_not_exists(#h) AND attribute_not_exists(#s)", {})
        return True

    # Requests.

    @property
    def _expires(self) -> dict[str, Any]:
        return {} if self.ttl is None else {":expires": {"N": str(round(time.time()) + self.ttl)}}

    async def _put(self, client: Any, key: str, change: str, rows: Sequence[str], values: dict[str, Any]) -> None:
        values = {":rows": {"L": [to_value(row) for row in rows]}, **values, **self._expires}
        await self._change(client, key, change + (", #e = :expires" if self.ttl else ""), "", values)

    async def _change(self, client: Any, key: str, change: str, condition: str, values: dict[str, Any]) -> bool:
        """Update the item of a session; tell whether the condition held.

        `#h` is the list, `#s` the state and `#e` the time of expiry. An item that has expired is removed first, because
        the service may leave it there for days.
        """
        while True:
            now = {":now": {"N": str(int(time.time()))}}
            live = "NOT #e <= :now"
            try:
                await settle(
                    client.update_item(
                        TableName=self.table.name,
                        Key=self.table.key(key),
                        UpdateExpression=change,
                        **self._condition(f"{live} AND {condition}" if condition else live, {**values, **now}, change),
                    )
                )
            except ClientError as error:
                if _is_refused(error):
                    # Without a condition of its own the item had expired, and others may have begun it anew meanwhile.
                    if not await self._remove(client, key, "#e <= :now", now) and condition:
                        return False
                    continue
                if _is_too_large(error):
                    raise RecordTooLargeError(
                        "With this the session is larger than the 400 KB of one DynamoDB item, which is all that "
                        f"table {self.table.name!r} has for a session. Nothing was written. A table with a sort key "
                        "has no such limit."
                    ) from error
                raise
            return True

    async def _remove(self, client: Any, key: str, condition: str, values: dict[str, Any]) -> bool:
        """Remove the item of a session; tell whether the condition held."""
        try:
            await self._delete_item(client, key, **self._condition(condition, values))
        except ClientError as error:
            if not _is_refused(error):
                raise
            return False
        return True

    async def _delete_item(self, client: Any, key: str, **condition: Any) -> None:
        await settle(client.delete_item(TableName=self.table.name, Key=self.table.key(key), **condition))

    def _condition(self, condition: str, values: dict[str, Any], change: str = "") -> dict[str, Any]:
        names = {"#h": self.table.messages, "#s": _STATE, "#e": self.table.expiry}
        used = {name: attribute for name, attribute in names.items() if name in condition + change}
        more = {"ExpressionAttributeValues": values} if values else {}
        return {"ConditionExpression": condition, "ExpressionAttributeNames": used, **more}

    async def _live_item(self, client: Any, key: str) -> dict[str, Any]:
        found = await settle(client.get_item(TableName=self.table.name, Key=self.table.key(key), ConsistentRead=True))
        item: dict[str, Any] = found.get("Item", {})
        return item if self._is_live(item) else {}

    def _is_live(self, item: dict[str, Any]) -> bool:
        return float(item.get(self.table.expiry, {}).get("N", "inf")) > time.time()

    def _values(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        values: list[dict[str, Any]] = item.get(self.table.messages, {}).get("L", [])
        return values


def _behind(values: list[dict[str, Any]], after: str | None) -> list[Row]:
    """Return the rows behind a position, wherever the row of that position is now."""
    start = 0 if after is None else position_number(after) + 1
    rows: list[Row] = [CheckedRow(to_text(value), str(index)) for index, value in enumerate(values)]
    if after is not None and not (start <= len(rows) and rows[start - 1].position == after):
        checksum = after.partition("-")[2]
        same = [index for index, row in enumerate(rows, 1) if row.position.endswith("-" + checksum)]
        # Removals before a row move it towards the beginning, so rows of the same text behind its index are others.
        start = max((index for index in same if index <= start), default=0)
    return rows[start:]


def _is_refused(error: ClientError) -> bool:
    """Whether the condition of a request did not hold."""
    return code_of(error) == "ConditionalCheckFailedException"


def _is_too_large(error: ClientError) -> bool:
    """Whether the item would be too large, or the request is already."""
    code = code_of(error)
    return code in ("413", "RequestEntityTooLarge") or (code == "ValidationException" and "size" in str(error))
