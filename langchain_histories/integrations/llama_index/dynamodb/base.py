"""`DynamoDBChatStore`, with LlamaIndex's constructor, on LlamaIndex's own tables and items.

What is written there are messages of LlamaIndex, so its own class reads them, too.
"""

from __future__ import annotations

from typing import Any

from langchain_histories.errors import needs_extra
from langchain_histories.integrations.llama_index.chat_store import LlamaIndexChatStore, in_llama_index
from langchain_histories.stores.dynamodb import DynamoDBStore


class DynamoDBChatStore(LlamaIndexChatStore):
    """A chat store in a table of DynamoDB that is there, on the items of LlamaIndex's class as they are.

    On a table without a sort key a session is one item of at most 400 KB (`RecordTooLargeError`), as with LlamaIndex's.
    On one with a sort key each message is an item, and there is no end of a session.

    Args:
        table_name: The table.
        primary_key: Is not needed: the table's own description says it.
        profile_name: A profile of AWS's config.
        region_name: The region.
        aws_access_key_id: The key.
        aws_secret_access_key: Its secret.
        aws_session_token: Its session.
        botocore_session: Your own session of botocore.
        botocore_config: A `Config` of botocore.
        max_retries: Is not needed: `timeout` ends the tries.
        timeout: Seconds after which a call ends.
        session_kwargs: More arguments for a session of boto3.
        resource_kwargs: More options for the clients, such as `endpoint_url`.
        ttl_seconds: Seconds after its last addition at which a session expires.
        ttl_attribute: The attribute with that time.
    """

    def __init__(
        self,
        table_name: str,
        primary_key: str = "SessionId",  # noqa: ARG002  # LlamaIndex's
        profile_name: str | None = None,
        region_name: str | None = None,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        aws_session_token: str | None = None,
        botocore_session: Any = None,
        botocore_config: Any = None,
        max_retries: int = 10,  # noqa: ARG002
        timeout: float = 60.0,
        session_kwargs: dict[str, Any] | None = None,
        resource_kwargs: dict[str, Any] | None = None,
        ttl_seconds: int | None = None,
        ttl_attribute: str = "TTL",
    ) -> None:
        """Keep where to connect to."""
        login = {
            "region_name": region_name,
            "aws_access_key_id": aws_access_key_id,
            "aws_secret_access_key": aws_secret_access_key,
            "aws_session_token": aws_session_token,
        }
        login = {name: value for name, value in login.items() if value is not None}
        options = {**({} if botocore_config is None else {"config": botocore_config}), **(resource_kwargs or {})}
        session = None
        if profile_name or botocore_session is not None or session_kwargs:
            with needs_extra("dynamodb"):
                import boto3
            session = boto3.Session(
                profile_name=profile_name, botocore_session=botocore_session, **login, **(session_kwargs or {})
            )
        else:
            options |= login
        store = DynamoDBStore(
            boto3_session=session,
            table_name=table_name,
            ttl_key_name=ttl_attribute,
            timeout=timeout,
            client_options=options or None,
            ttl=ttl_seconds or None,
        )
        super().__init__(in_llama_index(store))
