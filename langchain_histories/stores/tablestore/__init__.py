"""Histories in Alibaba Tablestore.

They were tested on a stand-in that the SDK's own clients talk to: there is no emulator of the service, and they were
not run against the service itself.

| room | what lives there |
|---|---|
| `store.py` | `TablestoreStore`: arguments and their documentation |
| `history.py` | `TablestoreChatMessageHistory`: a history with the arguments of LlamaIndex's chat store |
| `connections.py` | clients of the SDK; URL and credentials |
| `operations.py` | what the store can do |
| `rows.py` | how batches and states lie in rows of two tables |
"""

from langchain_histories.stores.tablestore.history import TablestoreChatMessageHistory
from langchain_histories.stores.tablestore.store import TablestoreStore

__all__ = ["TablestoreChatMessageHistory", "TablestoreStore"]
