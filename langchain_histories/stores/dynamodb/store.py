"""Histories in DynamoDB.

On a table with a sort key each message is an item, as `_partitions` has it. On a table without one, which LangChain's
and LlamaIndex's classes use, a session is one item, as `_dynamodb_item` has it. The table's own description tells which
it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from langchain_histories._clients import Clients
from langchain_histories._neutral import settle
from langchain_histories.errors import ConfigurationError, missing_extra
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.store import (
    Capability,
    SessionId,
    StoreOptions,
)
from langchain_histories.stores.shared.one_item import EitherStore
from langchain_histories.stores.shared.partitions import HEAD, Item, Write

try:
    import boto3
    import botocore.session
    from aiobotocore.client import AioBaseClient
    from aiobotocore.config import AioConfig
    from aiobotocore.session import AioSession, get_session
    from botocore.client import BaseClient
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoRegionError, ProfileNotFound
    from botocore.loaders import create_loader

    from langchain_histories.stores.dynamodb.one_item import ItemOperations, Table
except ImportError as error:
    raise missing_extra("dynamodb") from error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack


_SORT_KEY = "Item"
_TEXT = "Message"
_UNAVAILABLE = {
    "ExpiredTokenException",
    "IncompleteSignatureException",
    "InvalidSignatureException",
    "LimitExceededException",
    "MissingAuthenticationTokenException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
    "TransactionInProgressException",
    "UnrecognizedClientException",
}
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
# The driver's own retries, with backoff and jitter, of what was throttled or did not arrive. The service knows a
# transaction that it has done already.
_RETRIES: Any = {"mode": "standard"}
_CAPABILITIES = ~Capability.NATIVE_ASYNC


class DynamoDBStore(EitherStore):
    """Keeps histories in a table of DynamoDB, with consistent reads.

    Credentials and region are found where every AWS program finds them, unless the URL or the options have them.

    Args:
        url: `dynamodb://[access_key_id:secret_access_key@][region]/table[?endpoint_url=...]`.
        client: Your own `boto3.client("dynamodb")`, in place of `url`. It is never closed here.
        async_client: Your own client of aiobotocore. With one of the two alone, the other side is not derived: async
            methods run a blocking client in threads, sync methods refuse an async one.
        boto3_session: Your own session, which opens the blocking client; async methods run that in threads.
        table_name: The table, where the URL has none.
        ttl_key_name: The attribute with the time when DynamoDB may remove an item, in seconds since 1970.
        history_messages_key: The attribute with the list of messages, where a session is one item.
        item_key: More attributes of the primary key, with their values, of tables where a session is one item.
        create_table: Whether to make the table, with a sort key and paid by request, if it is not there.
        client_options: More options for the clients, such as `{"region_name": "eu-west-1"}` or a `config`.
        **options: See `StoreOptions`. `ttl` is supported: readers never see what has expired. Let DynamoDB remove it,
            by `create_table`, `setup(upgrade=True)` or your own means.
    """

    name = "dynamodb"
    schemes = ("dynamodb",)
    driver_errors = (BotoCoreError, ClientError)
    max_writes = 100
    max_text = 400_000
    max_transaction = 4_000_000

    def __init__(
        self,
        url: str | None = None,
        *,
        client: BaseClient | None = None,
        async_client: AioBaseClient | None = None,
        boto3_session: boto3.Session | None = None,
        table_name: str | None = None,
        ttl_key_name: str = "expireAt",
        history_messages_key: str = "History",
        item_key: dict[str, str] | None = None,
        create_table: bool = False,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        given = client is not None or async_client is not None
        if given and (url is not None or client_options or boto3_session):
            raise ConfigurationError("Pass a url (and client_options), or clients of your own, and not both.")
        if client is not None and (not _is_client(client) or isinstance(client, AioBaseClient)):
            raise ConfigurationError(f'client must be a boto3.client("dynamodb"), not {_kind(client)}.')
        if async_client is not None and not (_is_client(async_client) and isinstance(async_client, AioBaseClient)):
            raise ConfigurationError(f"async_client must be aiobotocore's for dynamodb, not {_kind(async_client)}.")
        place, found = ("", {}) if url is None else _parsed_url(url)
        if bool(place) == bool(table_name):
            raise ConfigurationError("Name the table once: dynamodb:///table, or table_name=.")
        self._client_options = {**found, **(client_options or {})}
        self._session = boto3_session
        self._loader = create_loader()
        self._create_table = create_table
        self._item_key = item_key or {}
        self._table = Table(table_name or place, "", None, ttl_key_name, history_messages_key, {})
        clients: Clients[Any] = Clients(
            connect=self._connect,
            close=self._close,
            native=boto3_session is None,
            client=client,
            async_client=async_client,
        )
        super().__init__(clients, url or f"dynamodb:///{self._table.name}", **options)

    @property
    def table_name(self) -> str:
        """The table."""
        return self._table.name

    async def _connect(self, native: bool) -> Any:
        try:
            if not native:
                session = self._session or boto3.Session()
                return session.client("dynamodb", **{"config": Config(retries=_RETRIES), **self._client_options})
            session = await settle(asyncio.to_thread(self._aio_session))
            return await settle(self._load(session, AioConfig).__aenter__())
        except (NoRegionError, ProfileNotFound, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"The driver refuses the options of {self!r}, or has no region: dynamodb://eu-west-1/table. See the "
                "cause."
            ) from error

    def _aio_session(self) -> AioSession:
        """Return a session that has read its configuration, and let the loader keep the descriptions of the service."""
        session = get_session()
        session.get_scoped_config()
        self._load(botocore.session.get_session(), Config).get_waiter("table_exists")
        return session

    def _load(self, session: Any, config: Any) -> Any:
        session.register_component("data_loader", self._loader)
        return session.create_client("dynamodb", **{"config": config(retries=_RETRIES), **self._client_options})

    async def _close(self, client: Any) -> None:
        await settle(client.close())

    def _is_async(self, client: Any) -> bool:
        return isinstance(client, AioBaseClient)

    def _unavailable(self, error: Exception) -> bool:
        """Whether the service could not be reached, was too busy, or refused the credentials."""
        if isinstance(error, ClientError):
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return error.response["Error"]["Code"] in _UNAVAILABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return isinstance(error, BotoCoreError) or super()._unavailable(error)

    # The table.

    async def _setup(self, client: Any, *, upgrade: bool = False) -> None:
        table = await self._described(client)
        if table is None:
            table = await self._created(client)
        keys = {key["KeyType"]: key["AttributeName"] for key in table["KeySchema"]}
        types = {attribute["AttributeName"]: attribute["AttributeType"] for attribute in table["AttributeDefinitions"]}
        sort_key = keys.get("RANGE")
        fixed = {name: {types.get(name, "S"): value} for name, value in self._item_key.items()}
        if {sort_key} - {None} != set(fixed) and fixed:
            raise ConfigurationError(
                f"item_key must have the sort key of table {self._table.name!r}, {sort_key!r}, and no more."
            )
        for name in [keys["HASH"], *([sort_key] if sort_key and not fixed else [])]:
            if types[name] != "S":
                raise ConfigurationError(
                    f"The key {name!r} of table {self._table.name!r} must be a string. Make another table, or give the "
                    "value of the sort key in item_key."
                )
        self._table = dataclasses.replace(
            self._table, partition_key=keys["HASH"], sort_key=None if fixed else sort_key, fixed=fixed
        )
        self._one_item = ItemOperations(self._table, self.ttl) if self._table.sort_key is None else None
        if upgrade and self.ttl is not None:
            await self._let_expire(client)

    async def _described(self, client: Any) -> dict[str, Any] | None:
        try:
            table: dict[str, Any] = (await settle(client.describe_table(TableName=self._table.name)))["Table"]
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
            if not self._create_table:
                raise ConfigurationError(
                    f"There is no table {self._table.name!r}: make one with the string keys SessionId and "
                    f"{_SORT_KEY}, or pass create_table=True."
                ) from error
            return None
        if table["TableStatus"] == "CREATING":
            await self._wait(client)
        return table

    async def _wait(self, client: Any) -> None:
        waiter = client.get_waiter("table_exists")
        await settle(waiter.wait(TableName=self._table.name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}))

    async def _created(self, client: Any) -> dict[str, Any]:
        names = ("SessionId", _SORT_KEY)
        with contextlib.suppress(client.exceptions.ResourceInUseException):  # others make it too
            await settle(
                client.create_table(
                    TableName=self._table.name,
                    AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
                    KeySchema=[
                        {"AttributeName": name, "KeyType": kind}
                        for name, kind in zip(names, ("HASH", "RANGE"), strict=True)
                    ],
                    BillingMode="PAY_PER_REQUEST",
                )
            )
        await self._wait(client)
        if self.ttl is not None:
            await self._let_expire(client)
        return (await settle(client.describe_table(TableName=self._table.name)))["Table"]  # type: ignore[no-any-return]

    async def _let_expire(self, client: Any) -> None:
        """Have DynamoDB remove what has expired."""
        specification = {"Enabled": True, "AttributeName": self._table.expiry}
        try:
            await settle(client.update_time_to_live(TableName=self._table.name, TimeToLiveSpecification=specification))
        except ClientError:
            # Others have done it, perhaps.
            found = await settle(client.describe_time_to_live(TableName=self._table.name))
            if not found["TimeToLiveDescription"]["TimeToLiveStatus"].startswith("ENABL"):
                raise

    # A table with a sort key.

    async def _get(self, client: Any, key: str, sort: str) -> Item | None:
        found = await settle(
            client.get_item(TableName=self._table.name, Key=self._table.key(key, sort), ConsistentRead=True)
        )
        return self._item(found["Item"]) if "Item" in found else None

    def _item(self, item: dict[str, Any]) -> Item:
        # Another program's item has no text, and is none of a session.
        return Item(item[self._table.sort_key or ""]["S"], item.get(_TEXT, {}).get("S", ""))

    async def _query(
        self, client: Any, key: str, start: str, stop: str, *, limit: int | None = None, reverse: bool = False
    ) -> list[Item]:
        items: list[Item] = []
        request: dict[str, Any] = {
            "TableName": self._table.name,
            "KeyConditionExpression": "#p = :p AND #s BETWEEN :start AND :stop",
            "ExpressionAttributeNames": {"#p": self._table.partition_key, "#s": self._table.sort_key},
            "ExpressionAttributeValues": {":p": {"S": key}, ":start": {"S": start}, ":stop": {"S": stop}},
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
                # Half the price of a transaction.
                ((kind, request),) = requests[0].items()
                await settle(client.put_item(**request) if kind == "Put" else client.delete_item(**request))
        except ClientError as error:
            if {error.response["Error"]["Code"], *_reasons(error)} <= _NOT_WRITTEN:
                return False
            raise
        return True

    def _request(self, key: str, write: Write) -> dict[str, Any]:
        place = self._table.key(key, write.sort)
        request: dict[str, Any] = {"TableName": self._table.name}
        if write.instead_of is None:
            request["ConditionExpression"] = "attribute_not_exists(#p)"
            request["ExpressionAttributeNames"] = {"#p": self._table.partition_key}
        elif isinstance(write.instead_of, Item):
            request["ConditionExpression"] = "#t = :old"
            request["ExpressionAttributeNames"] = {"#t": _TEXT}
            request["ExpressionAttributeValues"] = {":old": {"S": write.instead_of.text}}
        if write.text is None:
            return {"Delete": {**request, "Key": place}}
        expires = {} if write.expires is None else {self._table.expiry: {"N": str(write.expires)}}
        return {"Put": {**request, "Item": {**place, _TEXT: {"S": write.text}, **expires}}}

    async def _heads(self, client: Any, prefix: str) -> list[tuple[str, Item]]:
        """The whole table is read: DynamoDB has no list of its partitions."""
        sort_key = {"#s": self._table.sort_key}
        options = {
            "FilterExpression": "#s = :head",
            "ExpressionAttributeNames": sort_key,
            "ExpressionAttributeValues": {":head": {"S": HEAD}},
        }
        items = await self._table.scan(client, prefix, **options)
        return [(item[self._table.partition_key]["S"], self._item(item)) for item in items]

    async def _keys(self, client: Any, prefix: str) -> set[str]:
        names = {"#p": self._table.partition_key}
        items = await self._table.scan(client, prefix, ProjectionExpression="#p", ExpressionAttributeNames=names)
        return {item[self._table.partition_key]["S"] for item in items}


class DynamoDBChatMessageHistory(StoredChatMessageHistory):
    """A history in DynamoDB with the constructor of LangChain's class of this name; uses the same items.

    All histories of one configuration in a process share one client, so a program may make one for each turn.

    Args:
        table_name: The table. One without a sort key is used as LangChain uses it.
        session_id: The session.
        endpoint_url: Where the service is, if not where AWS has it.
        primary_key_name: The attribute of `key` that has the session id. Else it is as the table says.
        key: The whole primary key of the item of this session, where it has more than the session id, which is then
            taken from it.
        boto3_session: As for `DynamoDBStore`.
        kms_key_id: Is refused: encrypt with `codec=` of a `DynamoDBStore`.
        ttl: Seconds after the last addition at which the session expires; `None` or 0 for never.
        ttl_key_name: As for `DynamoDBStore`.
        history_size: `messages` shows only so many, the newest. The others are kept, unlike with LangChain's class.
        history_messages_key: As for `DynamoDBStore`.
        coerce_float_to_decimal: Has no effect: numbers come back as they were.

    Raises:
        ConfigurationError: `kms_key_id` is given, or `key` is without the session id.
    """

    store: DynamoDBStore

    def __init__(  # noqa: PLR0917
        self,
        table_name: str,
        session_id: SessionId,
        endpoint_url: str | None = None,
        primary_key_name: str = "SessionId",
        key: dict[str, str] | None = None,
        boto3_session: boto3.Session | None = None,
        kms_key_id: str | None = None,
        ttl: int | None = None,
        ttl_key_name: str = "expireAt",
        history_size: int | None = None,
        history_messages_key: str = "History",
        *,
        coerce_float_to_decimal: bool = False,  # noqa: ARG002
    ) -> None:
        """Join the store of this configuration."""
        if kms_key_id is not None:
            raise ConfigurationError("There is no kms_key_id here: encrypt with the codec= of a DynamoDBStore.")
        if key is not None and primary_key_name not in key:
            raise ConfigurationError(f"key has no {primary_key_name!r}: name its session id in primary_key_name.")
        rest = dict(key or {})
        session_id = rest.pop(primary_key_name, session_id)
        store = DynamoDBStore.shared(
            boto3_session=boto3_session,
            table_name=table_name,
            ttl_key_name=ttl_key_name,
            history_messages_key=history_messages_key,
            item_key=rest or None,
            client_options=None if endpoint_url is None else {"endpoint_url": endpoint_url},
            ttl=ttl or None,
        )
        super().__init__(store, session_id, last=history_size)


def _parsed_url(url: str) -> tuple[str, dict[str, Any]]:
    """Return the table of a URL, and options for the clients."""
    parts = urlsplit(url)
    found: dict[str, Any] = {
        "region_name": parts.hostname,
        "aws_access_key_id": parts.username and unquote(parts.username),
        "aws_secret_access_key": parts.password and unquote(parts.password),
        **dict(parse_qsl(parts.query)),
    }
    table = unquote(parts.path.strip("/"))
    # What does not look like a table or a region could be a part of the secret key.
    if not re.fullmatch(r"[a-zA-Z0-9_.-]+", table) or ":" in parts.netloc.rpartition("@")[2]:
        raise ConfigurationError(
            "A dynamodb URL is dynamodb://[access_key_id:secret_access_key@][region]/table[?endpoint_url=...], with "
            "'/', '?', '#' and '@' in the secret key percent-escaped."
        )
    return table, {name: value for name, value in found.items() if value}


def _reasons(error: ClientError) -> set[str]:
    """Why a transaction was cancelled."""
    return {reason["Code"] for reason in error.response.get("CancellationReasons", [])} - {"None"}


def _is_client(client: object) -> bool:
    return isinstance(client, BaseClient) and client.meta.service_model.service_name == "dynamodb"


def _kind(client: object) -> str:
    return f"{type(client).__module__}.{type(client).__name__}"
