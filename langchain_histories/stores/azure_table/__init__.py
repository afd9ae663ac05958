"""Histories in Azure Table Storage, and in Cosmos DB through its table API.

| room | what lives there |
|---|---|
| `store.py` | `AzureTableStore`: arguments and their documentation |
| `history.py` | `AzureTableChatMessageHistory`: LangChain's interface |
| `connections.py` | URLs, connection strings, credentials, and clients of azure-data-tables |
| `operations.py` | what the store can do: an entity per message |
"""

from langchain_histories.stores.azure_table.history import AzureTableChatMessageHistory
from langchain_histories.stores.azure_table.store import AzureTableStore

__all__ = ["AzureTableChatMessageHistory", "AzureTableStore"]
