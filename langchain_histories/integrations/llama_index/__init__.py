"""LlamaIndex: every store as a chat store.

| room | what lives there |
|---|---|
| `chat_store.py` | `LlamaIndexChatStore` |
| `memory_store.py` | `LlamaIndexMemoryStore`, for its newer `Memory` |
| `messages.py` | its messages, and what is stored of them |
| `importing.py` | `import_llama_index`: what LlamaIndex's own chat stores keep comes into a store |
| `forms.py` | what LlamaIndex's own chat stores write |
| `simple.py`, `redis.py`, ... | classes with the names and constructors of LlamaIndex's own; loaded when asked for |

Needs the extra `llama-index`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from langchain_histories.errors import needs_extra

with needs_extra("llama-index"):
    from langchain_histories.integrations.llama_index.chat_store import LlamaIndexChatStore
    from langchain_histories.integrations.llama_index.memory_store import LlamaIndexMemoryStore

if TYPE_CHECKING:
    from langchain_histories.integrations.llama_index.alloydb import AlloyDBChatStore, AlloyDBEngine
    from langchain_histories.integrations.llama_index.azure import AzureChatStore
    from langchain_histories.integrations.llama_index.dynamodb import DynamoDBChatStore
    from langchain_histories.integrations.llama_index.importing import aimport_llama_index, import_llama_index
    from langchain_histories.integrations.llama_index.postgres import PostgresChatStore, PostgresEngine
    from langchain_histories.integrations.llama_index.redis import RedisChatStore
    from langchain_histories.integrations.llama_index.simple import SimpleChatStore
    from langchain_histories.integrations.llama_index.tablestore import TablestoreChatStore
    from langchain_histories.integrations.llama_index.upstash import UpstashChatStore
    from langchain_histories.integrations.llama_index.yugabytedb import YugabyteDBChatStore

_HOMES = {
    "AlloyDBChatStore": "alloydb",
    "AlloyDBEngine": "alloydb",
    "AzureChatStore": "azure",
    "DynamoDBChatStore": "dynamodb",
    "PostgresChatStore": "postgres",
    "PostgresEngine": "postgres",
    "RedisChatStore": "redis",
    "SimpleChatStore": "simple",
    "TablestoreChatStore": "tablestore",
    "UpstashChatStore": "upstash",
    "YugabyteDBChatStore": "yugabytedb",
    "aimport_llama_index": "importing",
    "import_llama_index": "importing",
}

__all__ = [
    "AlloyDBChatStore",
    "AlloyDBEngine",
    "AzureChatStore",
    "DynamoDBChatStore",
    "LlamaIndexChatStore",
    "LlamaIndexMemoryStore",
    "PostgresChatStore",
    "PostgresEngine",
    "RedisChatStore",
    "SimpleChatStore",
    "TablestoreChatStore",
    "UpstashChatStore",
    "YugabyteDBChatStore",
    "aimport_llama_index",
    "import_llama_index",
]


def __getattr__(name: str) -> Any:
    """Load a class when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
