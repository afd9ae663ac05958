"""Histories in Azure Cosmos DB for NoSQL.

| room | what lives there |
|---|---|
| `store.py` | `CosmosDBStore`: arguments and their documentation |
| `history.py` | `CosmosDBChatMessageHistory`: LangChain's interface |
| `connections.py` | URLs, connection strings, credentials, and clients of azure-cosmos |
| `container.py` | requests to a container, and which errors mean what |
| `operations.py` | set-up, and what the store can do in a container of its own: an item per message |
| `documents.py` | what it can do in LangChain's container: a document per session |
"""

from langchain_histories.stores.cosmosdb.history import CosmosDBChatMessageHistory
from langchain_histories.stores.cosmosdb.store import CosmosDBStore

__all__ = ["CosmosDBChatMessageHistory", "CosmosDBStore"]
