"""Histories in Azure Table Storage, and in Cosmos DB through its table API.

The partition of a session has the session's id as its `PartitionKey` and holds what `_partitions` describes: an entity
for each record, and a head that every write swaps in the same entity group transaction. A text is the property `text`,
and where it is longer goes on in `text1`, `text2` and so on, because a property holds 64 KiB.

An id that is longer than a `PartitionKey` can be is replaced by its hash, and its head has the property `key` as well.

Cosmos DB differs in what is not relied on here: it returns entities in any order, takes transactions of 2 MB, and does
not tell a missing entity from a missing table. Of its consistency levels, only Strong shows every process at once what
another one has written.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from langchain_histories._clients import Clients
from langchain_histories._neutral import each, settle
from langchain_histories.errors import ConfigurationError, missing_extra
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.store import ANY_STATE, Capability, SessionId, StoreOptions
from langchain_histories.stores.shared.partitions import HEAD, Item, PartitionStore, Write

try:
    import azure.data.tables
    import azure.data.tables.aio
    from azure.core import MatchConditions
    from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
    from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
    from azure.core.utils import parse_connection_string
    from azure.data.tables import TableTransactionError, UpdateMode
except ImportError as error:
    raise missing_extra("azure-table") from error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self, Unpack

_TABLE = "messagestore"
_CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
# A character may take two UTF-16 units of two bytes each, so that this is at most 64,000 bytes.
_PROPERTY = 16_000
_LONGEST_KEY = 512
# Escaped ids begin with `lh%`. Some of the service's interfaces stumble over `%` in a key, so `!` is written instead.
_HASHED = "lh!="
_CONTROLS = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))


class AzureTableStore(PartitionStore[Any]):
    """Keeps histories in a table of an Azure storage account, or of Cosmos DB for Table.

    Args:
        url: `azure-table://account.table.core.windows.net/table` or another endpoint of the service (that of Cosmos DB,
            a sovereign cloud, `azure-table+http://` for an emulator). With the account's key before the host
            (`account:key@`, percent-encoded) or with a shared access signature behind the table (`?sv=...&sig=...`).
            With neither, azure-identity's `DefaultAzureCredential` finds a managed identity, `AZURE_CLIENT_ID` and the
            like. Without a host, `azure-table:///table`, it is the account of the connection string.
        table_name: The table; 3 to 63 letters and digits. It is `messagestore` if the URL has none.
        connection_string: As the portal shows it. By default, where neither URL nor client names an account, that in
            the variable `AZURE_STORAGE_CONNECTION_STRING`.
        table_service_client: Your own blocking client, in place of an account. It is never closed here.
        async_table_service_client: Your own asyncio client. With one of the two alone, the other side is not derived.
        client_options: More options for the driver's `TableClient`, such as `{"retry_total": 5}`.
        **options: See `StoreOptions`.
    """

    name = "azure-table"
    schemes = ("azure-table",)
    driver_errors = (AzureError,)
    unholdable = "/\\#?%!\ufffe\uffff" + _CONTROLS
    max_writes = 100
    # An entity has 1 MiB, of which the service counts two bytes for one of UTF-8, and the emulator up to three.
    max_text = 300_000
    # A transaction has 2 MB in Cosmos DB and 4 MiB in Azure Storage.
    max_transaction = 650_000
    overhead = 4096

    def __init__(
        self,
        url: str | None = None,
        *,
        table_name: str | None = None,
        connection_string: str | None = None,
        table_service_client: azure.data.tables.TableServiceClient | None = None,
        async_table_service_client: azure.data.tables.aio.TableServiceClient | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        given = table_service_client is not None or async_table_service_client is not None
        if given and (url is not None or connection_string is not None or client_options):
            raise ConfigurationError(
                "Pass a url or a connection_string (and client_options), or clients of your own, and not both."
            )
        _check_kind("table_service_client", table_service_client, azure.data.tables.TableServiceClient)
        _check_kind("async_table_service_client", async_table_service_client, azure.data.tables.aio.TableServiceClient)
        parts = _checked_url(url or "azure-table:")
        path, _, in_url = parts.path.rpartition("/")
        if in_url and table_name and in_url != table_name:
            raise ConfigurationError(f"Both url and table_name name a table: {in_url!r} and {table_name!r}.")
        self.table_name = _checked_table(in_url or table_name or _TABLE)
        # The driver would wait seconds for a host that is down. A second try helps where a kept connection has died.
        self._options = {"retry_connect": 1, "connection_timeout": 10, "read_timeout": 60, **(client_options or {})}
        self._endpoint = self._credential = self._connection_string = None
        host = parts.netloc.rpartition("@")[2]
        if host:
            self._endpoint = f"{'http' if parts.scheme.endswith('+http') else 'https'}://{host}{path}"
            self._credential = _credential(url or "")
        elif not given:
            self._connection_string = _checked_connection_string(connection_string)
        if host and connection_string is not None:
            raise ConfigurationError("Pass a url with a host or a connection_string, and not both.")
        clients: Clients[Any] = Clients(
            connect=self._connect,
            close=self._close,
            client=table_service_client and table_service_client.get_table_client(self.table_name),
            async_client=async_table_service_client and async_table_service_client.get_table_client(self.table_name),
        )
        place = None if given else f"{parts.scheme}://{host}{path}/{self.table_name}"
        super().__init__(clients, place, **options)

    @property
    def capabilities(self) -> Capability:
        """All but `TTL`; `NATIVE_ASYNC` unless only a blocking client was given."""
        missing = Capability.TTL if self._clients.has_native else Capability.TTL | Capability.NATIVE_ASYNC
        return ~missing

    async def _connect(self, native: bool) -> Any:
        """Open a client of the table."""
        logging.getLogger("urllib3.connectionpool").addFilter(_hide_signature)
        # The packages ask the system for its name and read many files, which is too long for an event loop.
        return await settle(asyncio.to_thread(self._open, native=True) if native else self._open(native=False))

    def _open(self, *, native: bool) -> Any:
        package: Any = azure.data.tables.aio if native else azure.data.tables
        try:
            if self._connection_string is not None:
                return package.TableClient.from_connection_string(
                    self._connection_string, self.table_name, **self._options
                )
            credential = self._credential or _default_credential(native)
            return package.TableClient(self._endpoint, self.table_name, credential=credential, **self._options)
        except ValueError as error:
            raise ConfigurationError(f"{self!r}: the driver cannot use this account. See the cause.") from error

    async def _close(self, client: Any) -> None:
        await settle(client.close())
        # Those of azure-identity have a connection of their own.
        if hasattr(client.credential, "close"):
            await settle(client.credential.close())

    def _is_async(self, client: Any) -> bool:
        return isinstance(client, azure.data.tables.aio.TableClient)

    def _unavailable(self, error: Exception) -> bool:
        status = getattr(error, "status_code", None)
        if status == 403:  # noqa: PLR2004
            return "Permission" not in _code(error)
        return status is None or status in (401, 408, 429) or status >= 500  # noqa: PLR2004

    async def _setup(self, client: Any, *, upgrade: bool = False) -> None:  # noqa: ARG002
        try:
            await self._entities(client, "RowKey eq @sort and PartitionKey eq @key", key=HEAD, sort=HEAD)
        except ResourceNotFoundError:
            try:
                await settle(client.create_table())
            except ResourceExistsError:
                # Another caller was faster.
                return

    async def _entities(
        self, client: Any, where: str, *, select: list[str] | None = None, **parameters: str
    ) -> list[Any]:
        found = client.query_entities(where, parameters=parameters, **({"select": select} if select else {}))
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
                await settle(client.submit_transaction(operations, raw_response_hook=answers.append))
            except TableTransactionError as error:
                if error.status_code not in (404, 409, 412) or _code(error).startswith("Table"):
                    raise
                if error.status_code == 404 and writes[error.index][1:3] == (None, ANY_STATE):  # noqa: PLR2004
                    # What was to be removed was not there.
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
        # Others may have been there since. No two records are equal.
        record = next((write for write in writes if write.text and write.sort.startswith("r")), None)
        stored = None if record is None else await self._get(client, key, record.sort)
        return record is not None and stored is not None and stored.text == record.text

    async def _heads(self, client: Any, prefix: str) -> list[tuple[str, Item]]:
        entities = await self._listed(client, prefix, "RowKey eq @sort", sort=HEAD)
        heads = {_key(entity): _item(entity) for entity in entities}
        return [(key, item) for key, item in heads.items() if key.startswith(prefix)]

    async def _keys(self, client: Any, prefix: str) -> set[str]:
        """Of what is kept under a hash only a head tells the key."""
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


class AzureTableChatMessageHistory(StoredChatMessageHistory):
    """A history in Azure Table Storage or Cosmos DB for Table.

    All histories of one configuration in a process share one client, so a program may make one for each turn.

    Args:
        session_id: The session.
        url: As for `AzureTableStore`.
        table_name: The table.
        connection_string: As the portal shows it; by default that in `AZURE_STORAGE_CONNECTION_STRING`.
        table_service_client: Your own blocking client.
        async_table_service_client: Your own asyncio client.
    """

    store: AzureTableStore

    def __init__(
        self,
        session_id: SessionId,
        url: str | None = None,
        table_name: str | None = None,
        *,
        connection_string: str | None = None,
        table_service_client: Any = None,
        async_table_service_client: Any = None,
    ) -> None:
        """Join the store of this configuration."""
        store = AzureTableStore.shared(
            url,
            table_name=table_name,
            connection_string=connection_string,
            table_service_client=table_service_client,
            async_table_service_client=async_table_service_client,
        )
        super().__init__(store, session_id)
        self.table_name = store.table_name

    @classmethod
    def from_connection_string(
        cls, session_id: SessionId, connection_string: str, table_name: str | None = None
    ) -> Self:
        """Make a history from a connection string, as the portal shows it."""
        return cls(session_id, table_name=table_name, connection_string=connection_string)

    @classmethod
    def from_account_and_key(
        cls,
        session_id: SessionId,
        account_name: str,
        account_key: str,
        endpoint: str | None = None,
        table_name: str | None = None,
    ) -> Self:
        """Make a history from a storage account and its key.

        Args:
            session_id: The session.
            account_name: The account.
            account_key: Its key.
            endpoint: `https://<account>.table.core.windows.net` by default; Cosmos DB's and others are given.
            table_name: The table.
        """
        login = f"{quote(account_name, safe='')}:{quote(account_key, safe='')}@"
        endpoint = endpoint or f"https://{account_name}.table.core.windows.net"
        return cls(session_id, _url(endpoint, table_name, login=login))

    @classmethod
    def from_sas_token(
        cls, session_id: SessionId, endpoint: str, sas_token: str, table_name: str | None = None
    ) -> Self:
        """Make a history from an endpoint and a shared access signature."""
        return cls(session_id, _url(endpoint, table_name, query="?" + sas_token.removeprefix("?")))

    @classmethod
    def from_aad_token(cls, session_id: SessionId, endpoint: str, table_name: str | None = None) -> Self:
        """Make a history with what `DefaultAzureCredential` finds: a managed identity, `AZURE_CLIENT_ID`, ..."""
        return cls(session_id, _url(endpoint, table_name))


def _url(endpoint: str, table_name: str | None, *, login: str = "", query: str = "") -> str:
    """The store's URL for an endpoint of the service."""
    parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    scheme = "azure-table+http" if parts.scheme == "http" else "azure-table"
    return f"{scheme}://{login}{parts.netloc}{parts.path.rstrip('/')}/{table_name or _TABLE}{query}"


def _check_kind(name: str, client: object, kind: type) -> None:
    if client is not None and not isinstance(client, kind):
        given = f"{type(client).__module__}.{type(client).__name__}"
        raise ConfigurationError(f"{name} must be a {kind.__module__}.{kind.__name__}, not {given}.")


def _checked_table(name: str) -> str:
    if not re.fullmatch("[A-Za-z][A-Za-z0-9]{2,62}", name):
        raise ConfigurationError(
            f"table_name must be 3 to 63 letters and digits, the first of them a letter, not {name!r}."
        )
    return name


def _checked_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # Not quoted: what looks like a port may be a piece of the key.
        raise _bad_url() from None
    is_signed = not parts.query or "sig" in parse_qs(parts.query)
    if "@" in parts.path or parts.fragment or not is_signed or (parts.username and not parts.password):
        raise _bad_url()
    return parts


def _bad_url() -> ConfigurationError:
    return ConfigurationError(
        "A URL of Azure's tables is 'azure-table://account:key@account.table.core.windows.net/table' with '/' in the "
        "key as %2F; without 'account:key@', or with a shared access signature behind the table: '?sv=...&sig=...'."
    )


def _checked_connection_string(text: str | None) -> str:
    text = text or os.environ.get(_CONNECTION_STRING)
    if not text:
        raise ConfigurationError(
            f"Pass a url with a host, a connection_string or clients, or set {_CONNECTION_STRING}."
        )
    try:
        parse_connection_string(text)
    except ValueError:
        # Its own words would show the string.
        raise ConfigurationError("The connection string is not of the form that the portal shows.") from None
    return text


def _credential(url: str) -> AzureNamedKeyCredential | AzureSasCredential | None:
    """What a URL holds of a key or a signature."""
    parts = urlsplit(url)
    if parts.password:
        account = unquote(parts.username or "") or (parts.hostname or "").partition(".")[0]
        return AzureNamedKeyCredential(account, unquote(parts.password))
    return AzureSasCredential(parts.query) if parts.query else None


def _default_credential(native: bool) -> Any:
    try:
        if native:
            from azure.identity.aio import DefaultAzureCredential as AsyncCredential

            return AsyncCredential()
        from azure.identity import DefaultAzureCredential
    except ImportError as error:
        raise missing_extra("azure-table") from error
    return DefaultAzureCredential()


def _code(error: Exception) -> str:
    code = getattr(error, "error_code", "")
    return str(getattr(code, "value", code))


def _hide_signature(record: logging.LogRecord) -> bool:
    """The blocking driver's HTTP library logs whole URLs, and a shared access signature is part of them."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            re.sub(r"([?&]sig=)[^&\s]+", r"\1***", value) if isinstance(value, str) else value for value in record.args
        )
    return True


def _partition(key: str) -> str:
    if len(key.encode()) > _LONGEST_KEY:
        return _HASHED + hashlib.sha256(key.encode()).hexdigest()
    return key.replace("%", "!")


def _key(head: Any) -> str:
    return str(head.get("key") or head["PartitionKey"].replace("!", "%"))


def _bounds(prefix: str) -> tuple[str, str] | None:
    """Between which partitions those are that start with `prefix`, in the order of UTF-8 and in that of UTF-16."""
    low = re.match("[^\ud7ff-\U0010ffff]*", prefix.replace("%", "!"))[0]  # type: ignore[index]  # it matches anything
    if not low:
        return None
    end = ord(low[-1]) + 1
    while chr(end) in AzureTableStore.unholdable:
        end += 1
    return low, low[:-1] + chr(end)


def _item(entity: Any) -> Item:
    texts = [entity["text"]]
    while (more := entity.get(f"text{len(texts)}")) is not None:
        texts.append(more)
    return Item(entity["RowKey"], "".join(texts), entity.metadata["etag"])


def _operation(partition: str, key: str, commit: str, write: Write) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """One operation of an entity group transaction."""
    entity = {"PartitionKey": partition, "RowKey": write.sort}
    unchanged: dict[str, Any] = {}
    if isinstance(write.instead_of, Item):
        unchanged = {"etag": write.instead_of.tag, "match_condition": MatchConditions.IfNotModified}
    if write.text is None:
        return "delete", entity, unchanged
    entity["text"] = write.text[:_PROPERTY]
    for number, start in enumerate(range(_PROPERTY, len(write.text), _PROPERTY), 1):
        entity[f"text{number}"] = write.text[start : start + _PROPERTY]
    if write.sort == HEAD:
        entity["commit"] = commit
        if partition.startswith(_HASHED):
            entity["key"] = key
    if write.instead_of is None:
        return "create", entity, {}
    return ("update" if unchanged else "upsert"), entity, {"mode": UpdateMode.REPLACE, **unchanged}
