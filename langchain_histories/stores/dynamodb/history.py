"""`DynamoDBChatMessageHistory`: LangChain's class of this name, over `DynamoDBStore`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_histories.errors import ConfigurationError
from langchain_histories.history import StoredChatMessageHistory
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
        primary_key_name: The attribute of `key` that has the session id. Without `key` the table says which it is.
        key: The whole primary key of the item of this session, if it has more than the session id. The session id is
            then taken from it.
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
        """Join the place that the endpoint and the session name."""
        if kms_key_id is not None:
            raise ConfigurationError("There is no kms_key_id here: encrypt with the codec= of a DynamoDBStore.")
        if key is not None and primary_key_name not in key:
            raise ConfigurationError(f"key has no {primary_key_name!r}: name its session id in primary_key_name.")
        rest = dict(key or {})
        session_id = rest.pop(primary_key_name, session_id)
        store = DynamoDBStore(
            boto3_session=boto3_session,
            table_name=table_name,
            ttl_key_name=ttl_key_name,
            history_messages_key=history_messages_key,
            item_key=rest or None,
            client_options=None if endpoint_url is None else {"endpoint_url": endpoint_url},
            ttl=ttl or None,
        )
        super().__init__(store, session_id, last=history_size)
