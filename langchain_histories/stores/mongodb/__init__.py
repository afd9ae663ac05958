"""Histories in MongoDB.

| room | what lives there |
|---|---|
| `store.py` | `MongoDBStore`: arguments and their documentation |
| `history.py` | `MongoDBChatMessageHistory`: LangChain's interface |
| `connections.py` | clients of PyMongo, and which errors mean that the server could not be reached |
| `operations.py` | what the store can do: set-up, listing, states; messages by the outbox |
| `outbox.py` | the outbox protocol, which keeps batches whole on a standalone server too |
| `positions.py` | positions of records, and the `_id`s of their documents |
"""

from langchain_histories.stores.mongodb.history import MongoDBChatMessageHistory
from langchain_histories.stores.mongodb.store import MongoDBStore

__all__ = ["MongoDBChatMessageHistory", "MongoDBStore"]
