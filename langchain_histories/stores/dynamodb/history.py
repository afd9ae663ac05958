"""`DynamoDBChatMessageHistory`: LangChain's class of this name, over `DynamoDBStore`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from langchain_histories.errors import ConfigurationError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.stores.base import needs_extra
from langchain_histories.stores.dynamodb.store import DynamoDBStore

if TYPE_CHECKING:
    import boto3

    from langchain_histories.stores.base import SessionId


class DynamoDBChatMessageHistory(StoredChatMessageHistory):
    """A history in DynamoDB with the constructor of LangChain's class of this name; uses the same items.

    All histories of one endpoint and `boto3_session` in a process share one client, so a program may make one for each
    turn.

    Args:
        table_name: The table. One without a sort key is used as LangChain uses it.
        session_id: The session.
        endpoint_url: Where the service is, if not where AWS has it.
        primary_key_name: The attribute with the session id in the attribute `key`. Where to store the table says.
        key: The whole primary key of the item of this session, with all its attributes, in place of the session id.
            Numbers are an `int` or a `Decimal`.
        boto3_session: As for `DynamoDBStore`.
        kms_key_id: Is refused: encrypt with `codec=` of a `DynamoDBStore`.
        ttl: Seconds after the last addition at which the session expires; `None` or 0 for never.
        ttl_key_name: As for `DynamoDBStore`.
        history_size: `messages` shows only so many, the newest. Where a session is one item the others are removed by
            the next addition, as with LangChain's class; on a table with a sort key they are kept. `None` or 0 for all.
        history_messages_key: As for `DynamoDBStore`.
        coerce_float_to_decimal: Kept as an attribute: numbers come back as they were.

    Raises:
        ConfigurationError: `kms_key_id` is given, or another argument cannot be used.
    """

    store: DynamoDBStore

    def __init__(  # noqa: PLR0917
        self,
        table_name: str,
        session_id: SessionId,
        endpoint_url: str | None = None,
        primary_key_name: str = "SessionId",
        key: dict[str, Any] | None = None,
        boto3_session: boto3.Session | None = None,
        kms_key_id: str | None = None,
        ttl: int | None = None,
        ttl_key_name: str = "expireAt",
        history_size: int | None = None,
        history_messages_key: str | None = "History",
        *,
        coerce_float_to_decimal: bool = False,
    ) -> None:
        """Join the place that the endpoint and the session name."""
        if kms_key_id is not None:
            raise ConfigurationError("There is no kms_key_id here: encrypt with the codec= of a DynamoDBStore.")
        if not history_messages_key:
            raise ConfigurationError(
                "history_messages_key must name the attribute with the messages, such as 'History'."
            )
        store = DynamoDBStore(
            boto3_session=boto3_session,
            table_name=table_name,
            ttl_key_name=ttl_key_name,
            history_messages_key=history_messages_key,
            item_key=key or None,
            history_size=history_size,
            client_options=None if endpoint_url is None else {"endpoint_url": endpoint_url},
            ttl=ttl or None,
        )
        super().__init__(store, session_id, last=history_size or None)
        self.key = dict(key) if key else {primary_key_name: session_id}
        self.ttl = ttl
        self.ttl_key_name = ttl_key_name
        self.history_size = history_size
        self.history_messages_key = history_messages_key
        self.coerce_float_to_decimal = coerce_float_to_decimal
        self._boto3_session, self._endpoint_url = boto3_session, endpoint_url

    @functools.cached_property
    def table(self) -> Any:
        """A `Table` of boto3, for what this package does not do."""
        with needs_extra("dynamodb"):
            import boto3
        session = self._boto3_session or boto3.Session()
        return session.resource("dynamodb", endpoint_url=self._endpoint_url).Table(self.store.table_name)
