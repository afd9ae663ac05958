"""What a store in Tablestore can do, by requests of the SDK. How the rows look is in `rows.py`."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import aiohttp
import tablestore  # type: ignore[import-untyped]  # the SDK has no types
import urllib3
from tablestore import (
    INF_MAX,
    INF_MIN,
    PK_AUTO_INCR,
    ComparatorType,
    CompositeColumnCondition,
    Condition,
    Direction,
    LogicalOperator,
    OTSClientError,
    OTSServiceError,
    ReturnType,
    RowExistenceExpectation,
    SingleColumnCondition,
)

from langchain_histories.errors import ConfigurationError, RecordTooLargeError
from langchain_histories.stores.base import (
    ANY_STATE,
    Capability,
    ExpectedState,
    Operations,
    Row,
    SessionRow,
    same_rows,
    settle,
)
from langchain_histories.stores.tablestore.rows import (
    BEING_REPLACED,
    ROW_BYTES,
    Batch,
    batch_and_index,
    batch_key,
    cells_of,
    columns_of,
    pack,
    state_key,
    texts_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

_ROWS_PER_WRITE = 200
_ROWS_PER_PAGE = 5000

_SERVER_FAULT = 500
_TRANSIENT = {
    "OTSAuthFailed",
    "OTSCapacityUnitExhausted",
    "OTSNotEnoughCapacityUnit",
    "OTSPartitionUnavailable",
    "OTSRequestTimeout",
    "OTSServerBusy",
    "OTSServerUnavailable",
    "OTSTableNotReady",
    "OTSTimeout",
}

_ALWAYS = Condition(RowExistenceExpectation.IGNORE)
_HIDDEN_EDIT = Condition(
    RowExistenceExpectation.EXPECT_EXIST,
    SingleColumnCondition("edit", 1, ComparatorType.EQUAL, pass_if_missing=False),
)

_CUT = (ConnectionResetError, urllib3.exceptions.ProtocolError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


class TablestoreOperations(Operations[Any]):
    """The operations over a client of the SDK.

    Args:
        table_name: The table of the messages.
    """

    name = "tablestore"
    is_paged = True
    capabilities = ~(Capability.TTL | Capability.NEWEST)
    driver_errors = (OTSClientError, OTSServiceError, urllib3.exceptions.HTTPError, aiohttp.ClientError)
    unavailable_errors = (
        ConnectionError,
        TimeoutError,
        urllib3.exceptions.HTTPError,
        aiohttp.ClientError,
    )

    def __init__(self, table_name: str) -> None:
        """Keep the names of the tables."""
        super().__init__()
        self._messages = table_name
        self._states = f"{table_name}_state"

    @property
    def place(self) -> Hashable:
        return self._messages

    def is_unavailable(self, error: Exception) -> bool:
        if isinstance(error, OTSClientError | OTSServiceError):
            return (error.http_status or 0) >= _SERVER_FAULT or getattr(error, "code", None) in _TRANSIENT
        return super().is_unavailable(error)

    def is_cut(self, client: Any, error: Exception) -> bool:  # noqa: ARG002  # any client opens another
        is_refused = isinstance(error, aiohttp.ClientConnectorError)
        return isinstance(error, _CUT) and not is_refused

    async def look(self, client: Any) -> bool:
        return await self._is_there(client, self._messages, self._keys_of_tables[self._messages])

    @property
    def _keys_of_tables(self) -> dict[str, list[tuple[Any, ...]]]:
        return {
            self._messages: [("session_id", "STRING"), ("seq", "INTEGER", PK_AUTO_INCR)],
            self._states: [("session_id", "STRING"), ("name", "STRING")],
        }

    async def _is_there(self, client: Any, table: str, key: list[tuple[Any, ...]]) -> bool:
        """Whether there is a table; so it is taken to be where these rights do not let one ask.

        Raises:
            ConfigurationError: It is another kind of table.
        """
        try:
            described = await settle(client.describe_table(table))
        except OTSServiceError as error:
            if error.code not in ("OTSNoPermissionAccess", "OTSObjectNotExist"):
                raise
            return bool(error.code == "OTSNoPermissionAccess")
        if described.table_meta.schema_of_primary_key != key:
            raise ConfigurationError(
                f"tablestore: the table {table!r} has another primary key than histories need "
                f"({', '.join(column[0] for column in key)}): give another table_name."
            )
        return True

    async def setup(self, client: Any, *, upgrade: bool = False) -> None:  # noqa: ARG002  # there is nothing to add
        for table, key in self._keys_of_tables.items():
            if await self._is_there(client, table, key):
                continue
            throughput = tablestore.ReservedThroughput(tablestore.CapacityUnit(0, 0))
            try:
                await settle(
                    client.create_table(tablestore.TableMeta(table, key), tablestore.TableOptions(), throughput)
                )
            except OTSServiceError as error:
                if error.code != "OTSObjectAlreadyExist":
                    raise

    # Single rows and pages of rows.

    async def _get(self, client: Any, table: str, key: Any) -> dict[str, Any]:
        """Return the columns of a row; none, if there is no such row, or no table of states."""
        try:
            _, row, _ = await settle(client.get_row(table, key, max_version=1))
        except OTSServiceError as error:
            if error.code != "OTSObjectNotExist" or table != self._states:
                raise
            return {}
        return {} if row is None else columns_of(row)

    async def _put_batch(self, client: Any, key: str, columns: Any) -> int:
        """Store a row of the table of messages, and return its number."""
        row = tablestore.Row(batch_key(key, PK_AUTO_INCR), columns)
        _, written = await settle(client.put_row(self._messages, row, return_type=ReturnType.RT_PK))
        return int(written.primary_key[1][1])

    async def _write_if(self, write: Callable[..., Any], *args: Any) -> bool:
        """Write under the condition that is the last argument; tell whether it held."""
        try:
            await settle(write(*args))
        except OTSServiceError as error:
            if error.code == "OTSConditionCheckFail":
                return False
            raise
        return True

    async def _page(
        self,
        client: Any,
        start: Any,
        stop: Any,
        *,
        newest_first: bool = False,
        columns: list[str] | None = None,
        limit: int | None = None,
    ) -> tuple[list[Batch], Any]:
        """Return one page of rows of the table of messages, and where the next page begins."""
        direction = Direction.BACKWARD if newest_first else Direction.FORWARD
        most = None if limit is None else min(limit, _ROWS_PER_PAGE)
        page = client.get_range(self._messages, direction, start, stop, columns, most, max_version=1)
        _, then, rows, _ = await settle(page)
        return [Batch.of(row) for row in rows], then

    # Messages.

    async def append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        await self._append(client, key, rows)

    async def _append(
        self, client: Any, key: str, rows: Sequence[str], *marks: tuple[str, int], is_hidden: bool = False
    ) -> list[int]:
        """Store a batch; return the numbers of its rows. The last one makes it visible, unless it is to be hidden."""
        *parts, cells = pack(rows)
        numbers = [await self._put_batch(client, key, [("n", 0), *part]) for part in parts]
        columns = [("n", 0 if is_hidden else len(rows)), *marks, *cells]
        if numbers:
            columns.append(("parts", " ".join(map(str, numbers))))
        return [*numbers, await self._put_batch(client, key, columns)]

    async def read(
        self,
        client: Any,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        wanted, newest_first = (first, False) if last is None else (last, True)
        behind = batch_and_index(after)
        # The batch of the position is read too, because messages of it may follow. The end of a range is not in it.
        low, high = batch_key(key, behind[0] - 1 if newest_first else behind[0]), batch_key(key, INF_MAX)
        start, stop = (high, low) if newest_first else (low, high)
        found: list[list[Row]] = []
        count, pages, lowest, met_first = 0, 0, BEING_REPLACED, False
        while start and not met_first and (wanted is None or count < wanted):
            batches, start = await self._page(client, start, stop, newest_first=newest_first, limit=wanted)
            pages += 1
            for batch in batches:
                if batch.is_first and not newest_first:
                    found, count, lowest = [], 0, batch.number
                texts = await self._texts(client, batch) if batch.size else {}
                rows = [
                    Row(text, f"{batch.number}-{index}")
                    for index, text in texts.items()
                    if (batch.number, index) > behind
                ]
                found.append(rows)
                count += len(rows)
                lowest = min(lowest, batch.number)
                if batch.is_first and newest_first:
                    met_first = True
                    break
        everything = [row for rows in (reversed(found) if newest_first else found) for row in rows]
        # A partial read may have stopped before the batch that replaced what it saw: check, and read everything if so.
        if wanted and found and not met_first and (pages > 1 if newest_first else start):
            replaced = await self._get(client, self._states, state_key(key, "replaced"))
            to = replaced.get("to")
            if type(to) is int and to > lowest:
                everything = list(await self.read(client, key, after=after))
        if wanted is None:
            return everything
        return everything[-wanted:] if newest_first else everything[:wanted]

    async def _texts(self, client: Any, batch: Batch) -> dict[int, str]:
        """Return the texts of a batch, by their index in it."""
        cells = dict(batch.columns)
        # The batch is read again after its parts, because a deletion marks it first and then takes texts from them.
        for number in [*batch.parts, batch.number] if batch.parts else []:
            part = await self._get(client, self._messages, batch_key(batch.session_id, number))
            if not part:
                # Somebody has cleared or replaced the session meanwhile, and the batch with it.
                return {}
            cells |= part
        return {index: text for index, text in texts_of(cells).items() if f"d{index}" not in cells}

    async def count(self, client: Any, key: str) -> int:
        counts = await self._counts(client, batch_key(key, INF_MIN), batch_key(key, INF_MAX), key)
        return sum(counts.values())

    async def _counts(
        self, client: Any, start: Any, stop: Any, prefix: str, limit: int | None = None
    ) -> dict[str, int]:
        """Return how many messages sessions have, in the order of their ids; also of those that have none left.

        Args:
            client: The client.
            start: The key of the first row.
            stop: The key behind the last row.
            prefix: What the session ids begin with. The first other one is the end.
            limit: So many sessions that have messages are enough.
        """
        counts: dict[str, int] = {}
        at = start
        while at:
            batches, at = await self._page(client, at, stop, columns=["n", "first"])
            for batch in batches:
                if not batch.session_id.startswith(prefix):
                    return counts
                if batch.session_id not in counts and limit is not None and sum(map(bool, counts.values())) == limit:
                    return counts
                before = 0 if batch.is_first else counts.get(batch.session_id, 0)
                counts[batch.session_id] = before + batch.size
        return counts

    async def clear(self, client: Any, key: str) -> None:
        await self._remove(client, key, batch_key(key, INF_MAX))
        for name in ("state", "replaced"):
            await settle(client.delete_row(self._states, state_key(key, name), _ALWAYS))

    async def _remove(self, client: Any, key: str, stop: Any, keep: Sequence[int] = ()) -> None:
        """Remove the batches of a session before the key `stop`, but for the numbers in `keep`."""
        start: Any = batch_key(key, INF_MIN)
        while start:
            batches, start = await self._page(client, start, stop, columns=["n"], limit=_ROWS_PER_WRITE)
            await self._remove_numbers(client, key, [batch.number for batch in batches if batch.number not in keep])

    async def _remove_numbers(self, client: Any, key: str, numbers: Sequence[int]) -> None:
        """Remove rows of a session."""
        rows = [tablestore.Row(batch_key(key, number)) for number in numbers]
        await self._write_all(client, [tablestore.DeleteRowItem(row, _ALWAYS) for row in rows])

    async def _write_all(self, client: Any, items: Sequence[Any]) -> bool:
        """Delete or update many rows of the table of messages; tell whether the conditions of all of them held."""
        for start in range(0, len(items), _ROWS_PER_WRITE):
            request = tablestore.BatchWriteRowRequest()
            some = list(items[start : start + _ROWS_PER_WRITE])
            request.add(tablestore.TableInBatchWriteRowItem(self._messages, some))
            answer = await settle(client.batch_write_row(request))
            for failed in [*answer.get_failed_of_delete(), *answer.get_failed_of_update()]:
                if failed.error_code == "OTSConditionCheckFail":
                    return False
                raise OTSServiceError(503, failed.error_code, failed.error_message)
        return True

    async def replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        # The batch is marked as the first, so it hides what is before it. A reader of only a part of the session may
        # not meet the batch, and learns from the row `replaced` that there is one.
        replaced = state_key(key, "replaced")
        await settle(client.put_row(self._states, tablestore.Row(replaced, [("to", BEING_REPLACED)])))
        numbers = await self._append(client, key, rows, ("first", 1))
        await settle(client.put_row(self._states, tablestore.Row(replaced, [("to", numbers[-1])])))
        await self._remove(client, key, batch_key(key, numbers[-1]), keep=numbers)
        if not rows:
            await settle(client.delete_row(self._messages, batch_key(key, numbers[-1]), _ALWAYS))

    # No writer locks a session, and an append compares nothing. So an edit stores all that is to be there as one batch,
    # which nobody sees yet and which has a number, and only then looks whether what is before that number is as it was
    # read. What others append from then on has a larger number, and comes behind it. What else may come in between
    # (another edit, a replacement, a clear) removes the batch, and then it cannot be shown. So does a deletion, which
    # does not touch a row that an edit has sealed before it has given up that edit.

    async def edit(
        self, client: Any, key: str, rows: Sequence[str], *, expected: Sequence[Row], kept: int, after: str | None
    ) -> bool:
        # What is only added to rewrites nothing, and compares no more than it was given.
        is_added, behind = kept == len(expected), batch_and_index(after)
        present = await self.read(client, key, after=after if is_added else None)
        before = [] if is_added else [row for row in present if batch_and_index(row.position) <= behind]
        if not same_rows(present[len(before) :], expected):
            return False
        if not rows and is_added:
            return True
        texts = [*([] if is_added else [str(row.text) for row in [*before, *expected[:kept]]]), *rows]
        numbers = await self._append(client, key, texts, ("edit", 1), is_hidden=True)
        doomed = await self._superseded(client, key, numbers[-1], present, after if is_added else None)
        shown = [("n", len(texts))] if is_added else [("n", len(texts)), ("first", 1)]
        if doomed is None or not await self._show(client, key, numbers[-1], shown):
            await self._remove_numbers(client, key, numbers)
            return False
        if not is_added:
            await self._remove_numbers(client, key, doomed if texts else [*doomed, *numbers])
        return True

    async def _superseded(
        self, client: Any, key: str, number: int, rows: Sequence[Row], after: str | None
    ) -> list[int] | None:
        """Seal the batches before a number if `rows` are all their messages behind a position.

        Returns:
            The numbers of their rows; `None` if other messages are there.
        """
        doomed: list[int] = []
        seals: list[Any] = []
        for batch in await self._marks(client, key, batch_and_index(after)[0], number):
            if batch.is_hidden_edit and not await self._give_up(client, key, batch.number):
                return None
            if batch.size or batch.is_first or batch.is_hidden_edit:
                doomed += [batch.number, *batch.parts]
            if batch.size:
                seals.append(_seal(batch, number))
        now = [row for row in await self.read(client, key, after=after) if batch_and_index(row.position)[0] < number]
        return doomed if same_rows(now, rows) and await self._write_all(client, seals) else None

    async def _show(self, client: Any, key: str, number: int, columns: list[tuple[str, int]]) -> bool:
        """Have readers see the batch of an edit; tell whether it was still there."""
        if ("first", 1) in columns:
            # Before, because from then on a reader of a part of the session has to know of it.
            replaced = tablestore.Row(state_key(key, "replaced"), [("to", number)])
            await settle(client.put_row(self._states, replaced))
        row = tablestore.Row(batch_key(key, number), {"PUT": columns, "DELETE_ALL": ["edit"]})
        return await self._write_if(client.update_row, self._messages, row, _HIDDEN_EDIT)

    async def _marks(self, client: Any, key: str, start: int, stop: int) -> list[Batch]:
        """Return the rows from a number to before another one, without their texts."""
        found: list[Batch] = []
        at: Any = batch_key(key, start)
        while at:
            end, columns = batch_key(key, stop), ["n", "first", "parts", "edit"]
            batches, at = await self._page(client, at, end, columns=columns)
            found += batches
        return found

    async def _give_up(self, client: Any, key: str, number: int) -> bool:
        """Remove the batch of an edit that is not shown yet; tell whether it has not superseded others."""
        where = batch_key(key, number)
        if await self._write_if(client.delete_row, self._messages, where, _HIDDEN_EDIT):
            return True
        return "first" not in await self._get(client, self._messages, where)

    async def delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:
        return sum([await self._delete_one(client, key, *batch_and_index(row.position), str(row.text)) for row in rows])

    async def _delete_one(self, client: Any, key: str, number: int, index: int, text: str) -> bool:
        """Mark a message as deleted and remove its text; tell whether it was there without a mark."""
        mark, where = f"d{index}", batch_key(key, number)
        names = [name for name, _ in cells_of(index, text)]
        changes = {"PUT": [(mark, 1)], "INCREMENT": [("n", -1)], "DELETE_ALL": names}
        free = CompositeColumnCondition(LogicalOperator.AND)
        for column in (mark, "sealed"):
            free.add_sub_condition(SingleColumnCondition(column, 0, ComparatorType.EQUAL, pass_if_missing=True))
        condition = Condition(RowExistenceExpectation.EXPECT_EXIST, free)
        while not await self._write_if(client.update_row, self._messages, tablestore.Row(where, changes), condition):
            if not await self._unseal(client, key, number, mark):
                return False
        batch = Batch(key, number, await self._get(client, self._messages, where))
        parts = [batch_key(key, part) for part in batch.parts]
        if batch.columns and batch.size == 0 and not batch.is_first:
            for doomed in [where, *parts]:
                await settle(client.delete_row(self._messages, doomed, _ALWAYS))
        else:
            exists = Condition(RowExistenceExpectation.EXPECT_EXIST)
            for part in parts:
                row = tablestore.Row(part, {"DELETE_ALL": names})
                await self._write_if(client.update_row, self._messages, row, exists)
        return True

    async def _unseal(self, client: Any, key: str, number: int, mark: str) -> bool:
        """Have an edit that counts on a row begin again; tell whether a deletion may be tried again."""
        where = batch_key(key, number)
        columns = await self._get(client, self._messages, where)
        if not columns or mark in columns:
            return False
        if (sealed := columns.get("sealed")) is None:
            return True
        if type(sealed) is not int or not await self._give_up(client, key, sealed):
            return False
        same = SingleColumnCondition("sealed", sealed, ComparatorType.EQUAL, pass_if_missing=False)
        row = tablestore.Row(where, {"DELETE_ALL": ["sealed"]})
        condition = Condition(RowExistenceExpectation.EXPECT_EXIST, same)
        await self._write_if(client.update_row, self._messages, row, condition)
        return True

    # Sessions and their states.

    async def sessions(self, client: Any, *, prefix: str, limit: int | None, after: str | None) -> Sequence[SessionRow]:
        start = batch_key(prefix or INF_MIN, INF_MIN) if after is None or after < prefix else batch_key(after, INF_MAX)
        counts = await self._counts(client, start, batch_key(INF_MAX, INF_MAX), prefix, limit)
        found = []
        for key, count in counts.items():
            if count:
                newest = await self.read(client, key, last=1)
                found.append(SessionRow(key, count, newest[-1].text if newest else None))
        return found

    async def erase(self, client: Any, prefix: str) -> int:
        start = batch_key(prefix or INF_MIN, INF_MIN)
        keys = set(await self._counts(client, start, batch_key(INF_MAX, INF_MAX), prefix))
        keys |= await self._keys_of_states(client, prefix)
        for key in keys:
            await self.clear(client, key)
        return len(keys)

    async def _keys_of_states(self, client: Any, prefix: str) -> set[str]:
        """Return the ids of the sessions that have a row in the table of states."""
        keys: set[str] = set()
        start: Any = state_key(prefix or INF_MIN, INF_MIN)
        stop = state_key(INF_MAX, INF_MAX)
        while start:
            page = client.get_range(self._states, Direction.FORWARD, start, stop, ["hash", "to"], max_version=1)
            _, start, rows, _ = await settle(page)
            found = [row.primary_key[0][1] for row in rows]
            keys |= {key for key in found if key.startswith(prefix)}
            if found and not found[-1].startswith(prefix):
                break
        return keys

    async def get_state(self, client: Any, key: str) -> str | None:
        return texts_of(await self._get(client, self._states, state_key(key, "state"))).get(0)

    async def put_state(self, client: Any, key: str, text: str | None, *, expected: ExpectedState = ANY_STATE) -> bool:
        condition = _ALWAYS
        if expected is None:
            condition = Condition(RowExistenceExpectation.EXPECT_NOT_EXIST)
        elif expected is not ANY_STATE:
            same = SingleColumnCondition("hash", _hash(str(expected)), ComparatorType.EQUAL, pass_if_missing=False)
            condition = Condition(RowExistenceExpectation.EXPECT_EXIST, same)
        where = state_key(key, "state")
        if text is None:
            return await self._write_if(client.delete_row, self._states, where, condition)
        if len(pack([text])) > 1:
            raise RecordTooLargeError(f"tablestore: the state of session {key!r} is larger than {ROW_BYTES} bytes.")
        row = tablestore.Row(where, [("hash", _hash(text)), *cells_of(0, text)])
        return await self._write_if(client.put_row, self._states, row, condition)


def _seal(batch: Batch, number: int) -> Any:
    """What seals a batch for the edit of this number, if no message was deleted from it since it was read."""
    row = tablestore.Row(batch_key(batch.session_id, batch.number), {"PUT": [("sealed", number)]})
    size = batch.columns.get("n")
    same = SingleColumnCondition("n", size, ComparatorType.EQUAL, pass_if_missing=False) if type(size) is int else None
    return tablestore.UpdateRowItem(row, Condition(RowExistenceExpectation.EXPECT_EXIST, same))


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()
