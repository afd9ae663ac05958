"""Histories in Alibaba Tablestore: a partition per session, and one row for each batch, numbered by the service.

The key of a row is `session_id` and `seq`, an auto-increment column: the service makes it grow strictly within a
partition. One PutRow stores a batch, so it is all or nothing and contiguous without a transaction, a head that writers
would have to compare and swap, or any contention between them. (Local transactions cannot be had beside an
auto-increment column, and only on request from the service's support.)

A row holds the number of its messages in `n` and their texts in `m0`, `m1`, ...; a long text is cut into `m0_0`,
`m0_1`, ... A batch over the limits of one row is written first as rows with `n` 0; the last row names them in `parts`,
and makes them visible. States are in a second table.

It was tested on a stand-in that the SDK's own clients talk to: no emulator of the service exists, and it was not run
against the service.
"""

from __future__ import annotations

import logging
import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from langchain_histories._clients import Clients
from langchain_histories._neutral import settle
from langchain_histories.codec import Row
from langchain_histories.errors import ConfigurationError, RecordTooLargeError, missing_extra
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.store import (
    ANY_STATE,
    AnyState,
    Capability,
    MessageStore,
    SessionId,
    SessionRow,
    StoreOptions,
)
from langchain_histories.stores.tablestore.rows import ROW_BYTES, Batch, cells_of, joined, packed, place_of

try:
    import aiohttp
    import tablestore  # type: ignore[import-untyped]  # the SDK has no types
    import urllib3
    from tablestore import (
        INF_MAX,
        INF_MIN,
        PK_AUTO_INCR,
        ComparatorType,
        Condition,
        Direction,
        OTSClientError,
        OTSServiceError,
        ReturnType,
        RowExistenceExpectation,
        SingleColumnCondition,
    )
except ImportError as error:
    raise missing_extra("tablestore") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Unpack

# A column holds 2 MB of UTF-8, with up to 4 bytes a character; a PutRow 1,024 columns and 4 MB.
_BATCH_ROWS = 200
_PAGE_ROWS = 5000

_UNDER_WAY = 2**63 - 1
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
# The SDK logs access tokens and message texts at DEBUG, and each refused condition as an error.
_LOGGER = "langchain_histories.tablestore"
logging.getLogger(_LOGGER).setLevel(logging.CRITICAL)


class TablestoreStore(MessageStore[Any]):
    """Keeps histories in Alibaba Tablestore.

    Args:
        url: `tablestore://[access_key_id:access_key_secret@]instance.region.ots.aliyuncs.com[/instance]`, by HTTPS;
            `tablestore+http://` without. Without keys those of the environment are used: `TABLESTORE_ACCESS_KEY_ID` and
            `TABLESTORE_ACCESS_KEY_SECRET`, else `ALIBABA_CLOUD_ACCESS_KEY_ID`, `..._SECRET` and
            `ALIBABA_CLOUD_SECURITY_TOKEN`. `?region=cn-hangzhou` signs requests for that region (version 4).
        table_name: The table of the messages; states are in the one with `_state` behind its name. Both are made when
            they are missing.
        tablestore_client: Your own `OTSClient`, in place of `url`. It is never closed here.
        async_tablestore_client: Your own `AsyncOTSClient`. With one of the two alone, the other side is not derived.
        client_options: More options for the clients of the SDK, such as `{"socket_timeout": 5}`, `retry_policy` or
            `credentials_provider`; only with `url`.
        **options: See `StoreOptions`. There is no `ttl`: the service would let each message expire for itself.
    """

    name = "tablestore"
    schemes = ("tablestore", "tablestore+http")
    driver_errors = (OTSClientError, OTSServiceError, urllib3.exceptions.HTTPError, aiohttp.ClientError)
    unavailable_errors = (
        ConnectionError,
        TimeoutError,
        urllib3.exceptions.HTTPError,
        aiohttp.ClientError,
    )

    def __init__(
        self,
        url: str | None = None,
        *,
        table_name: str = "message_store",
        tablestore_client: tablestore.OTSClient | None = None,
        async_tablestore_client: tablestore.AsyncOTSClient | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        given = tablestore_client is not None or async_tablestore_client is not None
        if given == (url is not None) or (given and client_options):
            raise ConfigurationError("Pass a url (and client_options), or clients of your own, and not both.")
        for name, client, kind in (
            ("tablestore_client", tablestore_client, tablestore.OTSClient),
            ("async_tablestore_client", async_tablestore_client, tablestore.AsyncOTSClient),
        ):
            if client is not None and not isinstance(client, kind):
                raise ConfigurationError(f"{name} must be a tablestore.{kind.__name__}, not {type(client).__name__}.")
        self.table_name = table_name
        self._client_options = {} if url is None else _client_options(url) | (client_options or {})
        if url is not None and not (
            self._client_options.get("access_key_id") or "credentials_provider" in self._client_options
        ):
            raise ConfigurationError(
                "A Tablestore URL needs an access key, in itself or in the environment: TABLESTORE_ACCESS_KEY_ID and "
                "TABLESTORE_ACCESS_KEY_SECRET."
            )
        clients: Clients[Any] = Clients(
            connect=self._connect, close=self._close, client=tablestore_client, async_client=async_tablestore_client
        )
        super().__init__(clients, url, **options)

    @property
    def capabilities(self) -> Capability:
        """All but `TTL`; no `NATIVE_ASYNC` where only a blocking client was given."""
        return ~Capability.TTL if self._clients.has_native else ~(Capability.TTL | Capability.NATIVE_ASYNC)

    async def _connect(self, native: bool) -> Any:
        return (tablestore.AsyncOTSClient if native else tablestore.OTSClient)(**self._client_options)

    async def _close(self, client: Any) -> None:
        if isinstance(client, tablestore.AsyncOTSClient):
            await settle(client.close())
        else:
            client.connection.pool.clear()

    def _unavailable(self, error: Exception) -> bool:
        if isinstance(error, OTSClientError | OTSServiceError):
            return (error.http_status or 0) >= _SERVER_FAULT or getattr(error, "code", None) in _TRANSIENT
        return super()._unavailable(error)

    @property
    def _states(self) -> str:
        return f"{self.table_name}_state"

    async def _setup(self, client: Any, *, upgrade: bool = False) -> None:  # noqa: ARG002  # there is nothing to add
        keys: dict[str, list[tuple[Any, ...]]] = {
            self.table_name: [("session_id", "STRING"), ("seq", "INTEGER", PK_AUTO_INCR)],
            self._states: [("session_id", "STRING"), ("name", "STRING")],
        }
        for table, key in keys.items():
            try:
                described = await settle(client.describe_table(table))
            except OTSServiceError as error:
                if error.code == "OTSNoPermissionAccess":
                    return
                if error.code != "OTSObjectNotExist":
                    raise
            else:
                if described.table_meta.schema_of_primary_key != key:
                    raise ConfigurationError(
                        f"tablestore: the table {table!r} has another primary key than histories need "
                        f"({', '.join(column[0] for column in key)}): give another table_name."
                    )
                continue
            throughput = tablestore.ReservedThroughput(tablestore.CapacityUnit(0, 0))
            try:
                await settle(
                    client.create_table(tablestore.TableMeta(table, key), tablestore.TableOptions(), throughput)
                )
            except OTSServiceError as error:
                if error.code != "OTSObjectAlreadyExist":
                    raise

    # Rows of batches.

    async def _append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        await self._put(client, key, rows)

    async def _put(self, client: Any, key: str, rows: Sequence[str], *marks: tuple[str, int]) -> list[int]:
        """Store a batch; return the numbers of its rows, the one that makes it visible last."""
        *parts, cells = packed(rows)
        numbers = [await self._put_row(client, key, [("n", 0), *part]) for part in parts]
        columns = [("n", len(rows)), *marks, *cells]
        if numbers:
            columns.append(("parts", " ".join(map(str, numbers))))
        return [*numbers, await self._put_row(client, key, columns)]

    async def _put_row(self, client: Any, key: str, columns: Any) -> int:
        row = tablestore.Row(_key(key, PK_AUTO_INCR), columns)
        _, written = await settle(client.put_row(self.table_name, row, return_type=ReturnType.RT_PK))
        return int(written.primary_key[1][1])

    async def _page(
        self,
        client: Any,
        start: Any,
        stop: Any,
        *,
        downwards: bool = False,
        columns: list[str] | None = None,
        limit: int | None = None,
    ) -> tuple[list[Batch], Any]:
        """Return one page of rows, and where the next page begins."""
        direction = Direction.BACKWARD if downwards else Direction.FORWARD
        most = None if limit is None else min(limit, _PAGE_ROWS)
        page = client.get_range(self.table_name, direction, start, stop, columns, most, max_version=1)
        _, then, rows, _ = await settle(page)
        return [Batch(row.primary_key[0][1], row.primary_key[1][1], _columns(row)) for row in rows], then

    async def _read(
        self,
        client: Any,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        wanted, downwards = (first, False) if last is None else (last, True)
        place = place_of(after)
        low, high = _key(key, place[0] - 1 if downwards else place[0]), _key(key, INF_MAX)
        at, stop = (high, low) if downwards else (low, high)
        found: list[list[Row]] = []
        count, pages, lowest, begun = 0, 0, _UNDER_WAY, False
        while at and not begun and (wanted is None or count < wanted):
            batches, at = await self._page(client, at, stop, downwards=downwards, limit=wanted)
            pages += 1
            for batch in batches:
                if batch.is_first and not downwards:
                    found, count, lowest = [], 0, batch.number
                messages = await self._messages(client, batch) if batch.size else {}
                rows = [
                    Row(text, f"{batch.number}-{index}")
                    for index, text in messages.items()
                    if (batch.number, index) > place
                ]
                found.append(rows)
                count += len(rows)
                lowest = min(lowest, batch.number)
                if batch.is_first and downwards:
                    begun = True
                    break
        everything = [row for rows in (reversed(found) if downwards else found) for row in rows]
        # Did the read end before it could meet a batch that replaced what it saw?
        if wanted and found and not begun and (pages > 1 if downwards else at):
            replaced = await self._get(client, self._states, _state_key(key, "replaced"))
            if replaced.get("to", 0) > lowest:
                everything = list(await self._read(client, key, after=after))
        if wanted is None:
            return everything
        return everything[-wanted:] if downwards else everything[:wanted]

    async def _get(self, client: Any, table: str, key: Any) -> dict[str, Any]:
        _, row, _ = await settle(client.get_row(table, key, max_version=1))
        return {} if row is None else _columns(row)

    async def _messages(self, client: Any, batch: Batch) -> dict[int, str]:
        """The texts of a batch by their index in it."""
        cells = dict(batch.columns)
        # The row that names the others comes last, again: a deletion marks it before it takes a text from the others.
        for number in [*batch.parts, batch.number] if batch.parts else []:
            part = await self._get(client, self.table_name, _key(batch.session_id, number))
            if not part:
                # The session was cleared or replaced while this batch was on its way: the batch came before that.
                return {}
            cells |= part
        return {index: text for index, text in joined(cells).items() if f"d{index}" not in cells}

    async def _counts(
        self, client: Any, start: Any, stop: Any, prefix: str, limit: int | None = None
    ) -> dict[str, int]:
        """The numbers of messages of sessions, also those that have none left, in the order of their ids."""
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

    async def _count(self, client: Any, key: str) -> int:
        return sum((await self._counts(client, _key(key, INF_MIN), _key(key, INF_MAX), key)).values())

    async def _clear(self, client: Any, key: str) -> None:
        await self._remove(client, key, _key(key, INF_MAX))
        for name in ("state", "replaced"):
            await settle(client.delete_row(self._states, _state_key(key, name), _ANYHOW))

    async def _remove(self, client: Any, key: str, stop: Any, keep: Sequence[int] = ()) -> None:
        """Remove the rows of a session up to the key `stop`."""
        at: Any = _key(key, INF_MIN)
        while at:
            batches, then = await self._page(client, at, stop, columns=["n"], limit=_BATCH_ROWS)
            doomed = [
                tablestore.DeleteRowItem(tablestore.Row(_key(key, batch.number)), _ANYHOW)
                for batch in batches
                if batch.number not in keep
            ]
            if doomed:
                request = tablestore.BatchWriteRowRequest()
                request.add(tablestore.TableInBatchWriteRowItem(self.table_name, doomed))
                answer = await settle(client.batch_write_row(request))
                if failed := answer.get_failed_of_delete():
                    raise OTSServiceError(503, failed[0].error_code, failed[0].error_message)
            at = then

    async def _replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        """Store a batch that is marked as the first, which hides what is before it, and then remove that.

        Who reads only a part of the session learns from the mark beside it that rows were replaced.
        """
        mark = _state_key(key, "replaced")
        await settle(client.put_row(self._states, tablestore.Row(mark, [("to", _UNDER_WAY)])))
        numbers = await self._put(client, key, rows, ("first", 1))
        await settle(client.put_row(self._states, tablestore.Row(mark, [("to", numbers[-1])])))
        await self._remove(client, key, _key(key, numbers[-1]), keep=numbers)
        if not rows:
            await settle(client.delete_row(self.table_name, _key(key, numbers[-1]), _ANYHOW))

    async def _delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:
        return sum([await self._delete_one(client, key, *place_of(row.position), str(row.text)) for row in rows])

    async def _delete_one(self, client: Any, key: str, number: int, index: int, text: str) -> bool:
        mark, place = f"d{index}", _key(key, number)
        names = [name for name, _ in cells_of(index, text)]
        unmarked = SingleColumnCondition(mark, 0, ComparatorType.EQUAL, pass_if_missing=True)
        changes = {"PUT": [(mark, 1)], "INCREMENT": [("n", -1)], "DELETE_ALL": names}
        condition = Condition(RowExistenceExpectation.EXPECT_EXIST, unmarked)
        if not await self._done(client.update_row, self.table_name, tablestore.Row(place, changes), condition):
            return False
        batch = Batch(key, number, await self._get(client, self.table_name, place))
        places = [_key(key, part) for part in batch.parts]
        if batch.columns and batch.size == 0 and not batch.is_first:
            for doomed in [place, *places]:
                await settle(client.delete_row(self.table_name, doomed, _ANYHOW))
        else:
            exists = Condition(RowExistenceExpectation.EXPECT_EXIST)
            for part in places:
                row = tablestore.Row(part, {"DELETE_ALL": names})
                await self._done(client.update_row, self.table_name, row, exists)
        return True

    async def _done(self, write: Callable[..., Any], *args: Any) -> bool:
        """Write under a condition; tell whether it held."""
        try:
            await settle(write(*args))
        except OTSServiceError as error:
            if error.code == "OTSConditionCheckFail":
                return False
            raise
        return True

    # Sessions and their states.

    async def _sessions(
        self, client: Any, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        start = _key(prefix or INF_MIN, INF_MIN) if after is None or after < prefix else _key(after, INF_MAX)
        counts = await self._counts(client, start, _key(INF_MAX, INF_MAX), prefix, limit)
        found = []
        for key, count in counts.items():
            if count:
                newest = await self._read(client, key, last=1)
                found.append(SessionRow(key, count, newest[-1].text if newest else None))
        return found

    async def _erase(self, client: Any, prefix: str) -> int:
        start = _key(prefix or INF_MIN, INF_MIN)
        keys = set(await self._counts(client, start, _key(INF_MAX, INF_MAX), prefix))
        at: Any = _state_key(prefix or INF_MIN, INF_MIN)
        while at:
            _, at, rows, _ = await settle(
                client.get_range(
                    self._states, Direction.FORWARD, at, _state_key(INF_MAX, INF_MAX), ["hash", "to"], max_version=1
                )
            )
            found = [row.primary_key[0][1] for row in rows]
            keys |= {key for key in found if key.startswith(prefix)}
            if found and not found[-1].startswith(prefix):
                break
        for key in keys:
            await self._clear(client, key)
        return len(keys)

    async def _get_state(self, client: Any, key: str) -> str | None:
        return joined(await self._get(client, self._states, _state_key(key, "state"))).get(0)

    async def _put_state(
        self, client: Any, key: str, text: str | None, *, instead_of: str | bytes | AnyState | None = ANY_STATE
    ) -> bool:
        condition = _ANYHOW
        if instead_of is None:
            condition = Condition(RowExistenceExpectation.EXPECT_NOT_EXIST)
        elif instead_of is not ANY_STATE:
            same = SingleColumnCondition("hash", _hash(str(instead_of)), ComparatorType.EQUAL, pass_if_missing=False)
            condition = Condition(RowExistenceExpectation.EXPECT_EXIST, same)
        place = _state_key(key, "state")
        if text is None:
            return await self._done(client.delete_row, self._states, place, condition)
        if len(packed([text])) > 1:
            raise RecordTooLargeError(f"tablestore: the state of session {key!r} is larger than {ROW_BYTES} bytes.")
        row = tablestore.Row(place, [("hash", _hash(text)), *cells_of(0, text)])
        return await self._done(client.put_row, self._states, row, condition)


class TablestoreChatMessageHistory(StoredChatMessageHistory):
    """A history in Alibaba Tablestore. Its arguments have the names that LlamaIndex's chat store gives them.

    All histories of one configuration in a process share one client, so a program may make one for each turn.

    Args:
        session_id: The session.
        tablestore_client: Your own `OTSClient`, in place of the four that follow.
        endpoint: Where the instance is, such as `https://instance.cn-hangzhou.ots.aliyuncs.com`.
        instance_name: Its name; by default the first part of the host's.
        access_key_id: By default, as the secret, from the environment: see `TablestoreStore`.
        access_key_secret: The secret of the key.
        table_name: The table of the messages. LlamaIndex's own table has another form, and is refused.
        async_tablestore_client: Your own `AsyncOTSClient`.
        client_options: More options for the clients of the SDK.
    """

    store: TablestoreStore

    def __init__(  # noqa: PLR0917  # as LlamaIndex's
        self,
        session_id: SessionId,
        tablestore_client: Any = None,
        endpoint: str | None = None,
        instance_name: str | None = None,
        access_key_id: str | None = None,
        access_key_secret: str | None = None,
        table_name: str = "message_store",
        *,
        async_tablestore_client: Any = None,
        client_options: dict[str, Any] | None = None,
    ) -> None:
        """Join the store of this configuration."""
        store = TablestoreStore.shared(
            None if endpoint is None else _url(endpoint, instance_name, access_key_id, access_key_secret),
            table_name=table_name,
            tablestore_client=tablestore_client,
            async_tablestore_client=async_tablestore_client,
            client_options=client_options,
        )
        super().__init__(store, session_id)
        self.table_name = table_name


_ANYHOW = Condition(RowExistenceExpectation.IGNORE)


def _url(endpoint: str, instance: str | None, key_id: str | None, secret: str | None) -> str:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError("endpoint must be a URL such as 'https://instance.cn-hangzhou.ots.aliyuncs.com'.")
    login = (
        "" if key_id is None and secret is None else f"{quote(key_id or '', safe='')}:{quote(secret or '', safe='')}@"
    )
    scheme = "tablestore" if parts.scheme == "https" else "tablestore+http"
    return f"{scheme}://{login}{parts.netloc}/{instance or ''}"


def _client_options(url: str) -> dict[str, Any]:
    """Read what the clients of the SDK are to be opened with."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise ConfigurationError(
            "A Tablestore URL names the endpoint: 'tablestore://instance.cn-hangzhou.ots.aliyuncs.com/instance'."
        )
    query = dict(parse_qsl(parts.query))
    if unknown := set(query) - {"region"}:
        raise ConfigurationError(f"A Tablestore URL has no {min(unknown)!r}: known is 'region'.")
    host = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
    environment: dict[str, str | None] = {
        "access_key_id": os.environ.get("TABLESTORE_ACCESS_KEY_ID"),
        "access_key_secret": os.environ.get("TABLESTORE_ACCESS_KEY_SECRET"),
    }
    if environment["access_key_id"] is None:
        environment = {
            "access_key_id": os.environ.get("ALIBABA_CLOUD_ACCESS_KEY_ID"),
            "access_key_secret": os.environ.get("ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
            "sts_token": os.environ.get("ALIBABA_CLOUD_SECURITY_TOKEN"),
        }
    if parts.username is not None:
        secret = unquote(parts.password or "")
        environment = {"access_key_id": unquote(parts.username), "access_key_secret": secret}
    return {
        "end_point": f"{'http' if parts.scheme.endswith('+http') else 'https'}://{host}",
        "instance_name": unquote(parts.path.strip("/")) or parts.hostname.partition(".")[0],
        "region": query.get("region"),
        "logger_name": _LOGGER,
        **environment,
    }


def _key(session_id: Any, number: Any) -> list[tuple[str, Any]]:
    return [("session_id", session_id), ("seq", number)]


def _state_key(session_id: Any, name: Any) -> list[tuple[str, Any]]:
    return [("session_id", session_id), ("name", name)]


def _columns(row: Any) -> dict[str, Any]:
    return {name: value for name, value, _ in row.attribute_columns}


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()
