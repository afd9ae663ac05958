"""`DynamoDBStore`: histories in DynamoDB, an item per message, or an item per session as LangChain's class has it."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from langchain_histories._options import check_number
from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import Found, MessageStore, StoreOptions, check_timeout, needs_extra

if TYPE_CHECKING:
    from typing import Unpack

    import boto3
    from aiobotocore.client import AioBaseClient
    from botocore.client import BaseClient


class DynamoDBStore(MessageStore):
    """Keeps histories in a table of DynamoDB, with consistent reads.

    On a table with a sort key each message is an item. On a table without one, as LangChain's and LlamaIndex's classes
    use it, each session is an item of at most 400 KB: then `capabilities` lacks `TAIL_READ` and `LARGE_SESSIONS`, from
    the first operation or `setup` on. The table's own description decides.
    Where the partition key is a number, session ids are whole or decimal numbers, written as DynamoDB writes them.

    Without credentials and region in the URL or the options, they are found where every AWS program finds them.

    Args:
        url: `dynamodb://[access_key_id:secret_access_key@][region]/table[?endpoint_url=...]`.
        client: Your own `boto3.client("dynamodb")`, in place of `url`. It is never closed here.
        async_client: Your own client of aiobotocore. With one of the two alone, the other side is not derived: async
            methods run a blocking client in threads, sync methods refuse an async one.
        boto3_session: Your own session, which opens the blocking client; async methods run that in threads.
        table_name: The table, where the URL has none.
        ttl_key_name: The attribute with the time when DynamoDB may remove an item, in seconds since 1970.
        history_messages_key: The attribute with the list of messages, where a session is one item.
        item_key: The value of the sort key, `{"UserID": "ivan"}`, of a table that keeps one item for each session. Or
            the whole primary key, with both values: then there is that item alone, whatever the session is called.
        history_size: How many messages an append leaves, the newest, where a session is one item. Its 400 KB are then
            no end of it.
        create_table: Whether to make the table, with a sort key and paid by request, if it is not there.
        timeout: Seconds after which a call that gets no answer, or no free connection, raises `StoreUnavailableError`;
            10 by default, and to connect 5 at most. An async call has them for all its waits together, a sync one for
            each request. What may take as long as what is stored is large ends when nothing has arrived for so long.
            With an async client of your own there is no default, and with a blocking one no `timeout`.
        max_connections: How many connections the pool of the sync methods has, and that of each event loop. Who finds
            none free waits, in order. Only with `url` and without a `config`.
        client_options: More options for the clients, such as `{"region_name": "eu-west-1"}` or a `config`.
        **options: See `StoreOptions`. `ttl` is supported: readers never see what has expired. Let DynamoDB remove it,
            by `create_table`, `setup(upgrade=True)` or your own means.

    Raises:
        ConfigurationError: An argument cannot be used.
        MissingExtraError: boto3 or aiobotocore is not installed.
    """

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
        item_key: dict[str, Any] | None = None,
        history_size: int | None = None,
        create_table: bool = False,
        timeout: float | None = None,
        max_connections: int | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        with needs_extra("dynamodb"):
            from langchain_histories.stores.dynamodb.connections import clients_of, parts_of
            from langchain_histories.stores.dynamodb.operations import DynamoDBOperations
        clients, timeout = clients_of(
            url,
            client,
            async_client,
            boto3_session,
            client_options,
            max_connections=max_connections,
            timeout=check_timeout(timeout),
        )
        table_in_url, found = parts_of(url)
        if bool(table_in_url) == bool(table_name):
            raise ConfigurationError("Name the table once: dynamodb:///table, or table_name=.")
        self.table_name = table_name or table_in_url
        operations = DynamoDBOperations(
            self.table_name,
            expiry=ttl_key_name,
            messages=history_messages_key,
            item_key=_checked_key(item_key),
            history_size=check_number("history_size", history_size) or None,
            create_table=create_table,
            description=clients.found(("description", self.table_name), Found),
        )
        super().__init__(
            operations,
            clients,
            url or f"dynamodb:///{self.table_name}",
            driver_options=[found, client_options],
            timeout=timeout,
            **options,
        )


def _checked_key(item_key: object) -> dict[str, Any]:
    """Return the values of a primary key; the table says later which types it has.

    Raises:
        ConfigurationError: It is no dict of names and of values that a key can have.
    """
    if item_key is None:
        return {}
    if not isinstance(item_key, dict) or not all(isinstance(name, str) for name in item_key):
        raise ConfigurationError("The key of an item is a dict of the names and values of its primary key.")
    for name, value in item_key.items():
        if not isinstance(value, str | bytes | int | Decimal) or isinstance(value, bool):
            raise ConfigurationError(
                f"The value of {name!r} in the key of an item must be a str, an int, a Decimal or bytes, not "
                f"{type(value).__name__}."
            )
    return dict(item_key)
