"""`AzureChatStore`, with LlamaIndex's constructors, on Table Storage or Cosmos DB's table API.

The table is not `chat_table_name`, which is LlamaIndex's own and has another form, but one beside it, with `Records`
behind its name. There is no table of metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_histories.errors import ConfigurationError
from langchain_histories.integrations.llama_index.chat_store import LlamaIndexChatStore
from langchain_histories.stores.azure_table import AzureTableStore
from langchain_histories.stores.azure_table.history import url_of

if TYPE_CHECKING:
    from typing import Self

    import azure.data.tables
    import azure.data.tables.aio

_TABLE = "ChatMessages"


class AzureChatStore(LlamaIndexChatStore):
    """A chat store in Azure's tables.

    LlamaIndex's own tables stay as they are: `import_llama_index` brings their messages here.

    Args:
        table_service_client: Your own client.
        atable_service_client: Your own async one.
        chat_table_name: LlamaIndex's table; ours is beside it.
        metadata_table_name: Is not needed.
        metadata_partition_key: Is not needed.
        service_mode: Is not needed: both services are written alike.
    """

    def __init__(
        self,
        table_service_client: azure.data.tables.TableServiceClient | None = None,
        atable_service_client: azure.data.tables.aio.TableServiceClient | None = None,
        chat_table_name: str = _TABLE,
        metadata_table_name: str = "ChatMetadata",  # noqa: ARG002  # LlamaIndex's
        metadata_partition_key: str | None = None,  # noqa: ARG002
        service_mode: Any = None,  # noqa: ARG002
        **given: Any,
    ) -> None:
        """Keep where to connect to."""
        if table_service_client is not None or atable_service_client is not None:
            given |= {"client": table_service_client, "async_client": atable_service_client}
        elif not given:
            raise ConfigurationError("AzureChatStore needs a client: give one, or use AzureChatStore.from_....")
        super().__init__(AzureTableStore(table_name=_beside(chat_table_name), **given))

    @classmethod
    def from_connection_string(cls, connection_string: str, chat_table_name: str = _TABLE, **unneeded: Any) -> Self:
        """Make one from a connection string, as the portal shows it."""
        return cls(chat_table_name=chat_table_name, connection_string=connection_string, **unneeded)

    @classmethod
    def from_account_and_key(
        cls,
        account_name: str,
        account_key: str,
        endpoint: str | None = None,
        chat_table_name: str = _TABLE,
        **unneeded: Any,
    ) -> Self:
        """Make one from an account and its key; without an endpoint it is one of Table Storage."""
        where = endpoint or f"https://{account_name}.table.core.windows.net"
        url = url_of(where, _beside(chat_table_name), login=(account_name, account_key))
        return cls(chat_table_name=chat_table_name, url=url, **unneeded)

    @classmethod
    def from_account_and_id(
        cls, account_name: str, endpoint: str | None = None, chat_table_name: str = _TABLE, **unneeded: Any
    ) -> Self:
        """Make one from an account, with what `DefaultAzureCredential` finds."""
        where = endpoint or f"https://{account_name}.table.core.windows.net"
        return cls.from_aad_token(where, chat_table_name, **unneeded)

    @classmethod
    def from_sas_token(cls, endpoint: str, sas_token: str, chat_table_name: str = _TABLE, **unneeded: Any) -> Self:
        """Make one from an endpoint and a shared access signature."""
        url = url_of(endpoint, _beside(chat_table_name), query="?" + sas_token.removeprefix("?"))
        return cls(chat_table_name=chat_table_name, url=url, **unneeded)

    @classmethod
    def from_aad_token(cls, endpoint: str, chat_table_name: str = _TABLE, **unneeded: Any) -> Self:
        """Make one with what `DefaultAzureCredential` finds: a managed identity, `AZURE_CLIENT_ID`, ..."""
        return cls(chat_table_name=chat_table_name, url=url_of(endpoint, _beside(chat_table_name)), **unneeded)


def _beside(chat_table_name: str) -> str:
    """The table of this package; LlamaIndex, too, leaves out of a name what is no letter and no digit."""
    return "".join(filter(str.isalnum, chat_table_name)) + "Records"
