"""`TablestoreChatMessageHistory`: a history in Tablestore with the arguments of LlamaIndex's chat store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from langchain_histories._urls import read_url
from langchain_histories.errors import ConfigurationError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.stores.tablestore.store import TablestoreStore

if TYPE_CHECKING:
    from langchain_histories.stores.base import SessionId


class TablestoreChatMessageHistory(StoredChatMessageHistory):
    """A history in Alibaba Tablestore. Its arguments have the names that LlamaIndex's chat store gives them.

    All histories of one endpoint and access key in a process share one client, so a program may make one for each turn.

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
        """Join the place that the endpoint names."""
        store = TablestoreStore(
            None if endpoint is None else url_of(endpoint, instance_name, access_key_id, access_key_secret),
            table_name=table_name,
            client=tablestore_client,
            async_client=async_tablestore_client,
            client_options=client_options,
        )
        super().__init__(store, session_id)
        self.table_name = table_name


def url_of(endpoint: str, instance_name: str | None, key_id: str | None, secret: str | None) -> str:
    """The URL of a store for these arguments."""
    parts = read_url(urlsplit, endpoint, "https://instance.cn-hangzhou.ots.aliyuncs.com")
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError("endpoint must be a URL such as 'https://instance.cn-hangzhou.ots.aliyuncs.com'.")
    login = ""
    if key_id is not None or secret is not None:
        login = f"{quote(key_id or '', safe='')}:{quote(secret or '', safe='')}@"
    scheme = "tablestore" if parts.scheme == "https" else "tablestore+http"
    return f"{scheme}://{login}{parts.netloc}/{instance_name or ''}"
