"""Histories in DynamoDB.

| room | what lives there |
|---|---|
| `store.py` | `DynamoDBStore`: arguments and their documentation |
| `history.py` | `DynamoDBChatMessageHistory`: LangChain's interface |
| `connections.py` | URLs, and clients of boto3 and aiobotocore |
| `table.py` | a table as its description says it is; which errors mean what |
| `operations.py` | set-up, and what the store can do on a table with a sort key: an item per message |
| `one_item.py` | what it can do on a table without one: LangChain's and LlamaIndex's item per session |
| `values.py` | records as values of DynamoDB in such an item |
"""

from langchain_histories.stores.dynamodb.history import DynamoDBChatMessageHistory
from langchain_histories.stores.dynamodb.store import DynamoDBStore

__all__ = ["DynamoDBChatMessageHistory", "DynamoDBStore"]
