"""`TablestoreChatStore`, with LlamaIndex's constructor. The table is not LlamaIndex's, but one beside it."""

from __future__ import annotations

from typing import Any

from langchain_histories.integrations.llama_index.chat_store import LlamaIndexChatStore
from langchain_histories.stores.tablestore import TablestoreStore
from langchain_histories.stores.tablestore.history import url_of


class TablestoreChatStore(LlamaIndexChatStore):
    """A chat store in Alibaba Cloud's Tablestore, a row per message.

    LlamaIndex's own table stays as it is: `import_llama_index` brings its messages here.

    Args:
        tablestore_client: Your own `OTSClient`; the async methods run it in threads.
        endpoint: Where the instance is.
        instance_name: Its name.
        access_key_id: The key; by default from the environment.
        access_key_secret: Its secret.
        table_name: LlamaIndex's table; ours has `_records` behind its name.
        **kwargs: More options for the clients of the SDK.
    """

    def __init__(
        self,
        tablestore_client: Any = None,
        endpoint: str | None = None,
        instance_name: str | None = None,
        access_key_id: str | None = None,
        access_key_secret: str | None = None,
        table_name: str = "llama_index_chat_store_v1",
        **kwargs: Any,
    ) -> None:
        """Keep where to connect to."""
        super().__init__(
            TablestoreStore(
                None if endpoint is None else url_of(endpoint, instance_name, access_key_id, access_key_secret),
                table_name=f"{table_name}_records",
                client=tablestore_client,
                client_options=kwargs or None,
            )
        )

    def create_table_if_not_exist(self) -> None:
        """Make the tables that are missing; the first write does, too."""
        self._store.setup()

    def clear_store(self) -> None:
        """Remove all sessions."""
        for session in self._store.sessions():
            self._store.clear(session.session_id)
