"""Chat message histories for LangChain in any store, that behave the same everywhere and never lose a message.

Importing the package imports no driver: each public name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_histories._listing import SessionDescription as SessionDescription
    from langchain_histories._listing import SessionInfo as SessionInfo
    from langchain_histories._listing import SessionList as SessionList
    from langchain_histories._options import Capability as Capability
    from langchain_histories._pruning import Pruned as Pruned
    from langchain_histories._session_ids import user_session_id as user_session_id
    from langchain_histories.codec import Codec as Codec
    from langchain_histories.codec import Record as Record
    from langchain_histories.conversations.copying import CopyProgress as CopyProgress
    from langchain_histories.conversations.copying import CopyReport as CopyReport
    from langchain_histories.conversations.copying import acopy as acopy
    from langchain_histories.conversations.copying import adigest as adigest
    from langchain_histories.conversations.copying import copy as copy
    from langchain_histories.conversations.copying import digest as digest
    from langchain_histories.conversations.forms import aexport_session as aexport_session
    from langchain_histories.conversations.forms import aimport_session as aimport_session
    from langchain_histories.conversations.forms import export_session as export_session
    from langchain_histories.conversations.forms import import_session as import_session
    from langchain_histories.conversations.json_lines import aexport_jsonl as aexport_jsonl
    from langchain_histories.conversations.json_lines import aimport_jsonl as aimport_jsonl
    from langchain_histories.conversations.json_lines import export_jsonl as export_jsonl
    from langchain_histories.conversations.json_lines import import_jsonl as import_jsonl
    from langchain_histories.conversations.sources import aimport_langchain_redis as aimport_langchain_redis
    from langchain_histories.conversations.sources import aimport_openai_agents as aimport_openai_agents
    from langchain_histories.conversations.sources import import_langchain_redis as import_langchain_redis
    from langchain_histories.conversations.sources import import_openai_agents as import_openai_agents
    from langchain_histories.errors import ConfigurationError as ConfigurationError
    from langchain_histories.errors import CopyError as CopyError
    from langchain_histories.errors import CorruptRecordError as CorruptRecordError
    from langchain_histories.errors import FileFormatError as FileFormatError
    from langchain_histories.errors import HistoryError as HistoryError
    from langchain_histories.errors import InvalidMessageError as InvalidMessageError
    from langchain_histories.errors import MissingExtraError as MissingExtraError
    from langchain_histories.errors import RecordNotFoundError as RecordNotFoundError
    from langchain_histories.errors import RecordTooLargeError as RecordTooLargeError
    from langchain_histories.errors import SessionBusyError as SessionBusyError
    from langchain_histories.errors import StoreError as StoreError
    from langchain_histories.errors import StoreUnavailableError as StoreUnavailableError
    from langchain_histories.errors import SummaryError as SummaryError
    from langchain_histories.errors import TranscriptChangedError as TranscriptChangedError
    from langchain_histories.errors import UnsupportedOperationError as UnsupportedOperationError
    from langchain_histories.history import StoredChatMessageHistory as StoredChatMessageHistory
    from langchain_histories.integrations.runnable import RunnableWithHistory as RunnableWithHistory
    from langchain_histories.registry import SESSION_CONFIG as SESSION_CONFIG
    from langchain_histories.registry import USER_SESSION_CONFIG as USER_SESSION_CONFIG
    from langchain_histories.registry import HistoryRegistry as HistoryRegistry
    from langchain_histories.registry import open_history as open_history
    from langchain_histories.registry import open_store as open_store
    from langchain_histories.store import MessageStore as MessageStore
    from langchain_histories.store import Tail as Tail
    from langchain_histories.stores.azure_table import AzureTableChatMessageHistory as AzureTableChatMessageHistory
    from langchain_histories.stores.azure_table import AzureTableStore as AzureTableStore
    from langchain_histories.stores.cosmosdb import CosmosDBChatMessageHistory as CosmosDBChatMessageHistory
    from langchain_histories.stores.cosmosdb import CosmosDBStore as CosmosDBStore
    from langchain_histories.stores.dynamodb import DynamoDBChatMessageHistory as DynamoDBChatMessageHistory
    from langchain_histories.stores.dynamodb import DynamoDBStore as DynamoDBStore
    from langchain_histories.stores.file import FileChatMessageHistory as FileChatMessageHistory
    from langchain_histories.stores.file import FileStore as FileStore
    from langchain_histories.stores.kafka import KafkaChatMessageHistory as KafkaChatMessageHistory
    from langchain_histories.stores.kafka import KafkaStore as KafkaStore
    from langchain_histories.stores.memory import ChatMessageHistory as ChatMessageHistory
    from langchain_histories.stores.memory import InMemoryChatMessageHistory as InMemoryChatMessageHistory
    from langchain_histories.stores.memory import MemoryStore as MemoryStore
    from langchain_histories.stores.mongodb import MongoDBChatMessageHistory as MongoDBChatMessageHistory
    from langchain_histories.stores.mongodb import MongoDBStore as MongoDBStore
    from langchain_histories.stores.redis import RedisChatMessageHistory as RedisChatMessageHistory
    from langchain_histories.stores.redis import RedisStore as RedisStore
    from langchain_histories.stores.sql import BaseMessageConverter as BaseMessageConverter
    from langchain_histories.stores.sql import DefaultMessageConverter as DefaultMessageConverter
    from langchain_histories.stores.sql import PostgresChatMessageHistory as PostgresChatMessageHistory
    from langchain_histories.stores.sql import SQLChatMessageHistory as SQLChatMessageHistory
    from langchain_histories.stores.sql import SQLStore as SQLStore
    from langchain_histories.stores.tablestore import TablestoreChatMessageHistory as TablestoreChatMessageHistory
    from langchain_histories.stores.tablestore import TablestoreStore as TablestoreStore
    from langchain_histories.stores.upstash import UpstashRedisChatMessageHistory as UpstashRedisChatMessageHistory
    from langchain_histories.stores.upstash import UpstashStore as UpstashStore
    from langchain_histories.views._view import Coverage as Coverage
    from langchain_histories.views.summarizers import ExtractiveSummarizer as ExtractiveSummarizer
    from langchain_histories.views.summarizers import ModelSummarizer as ModelSummarizer
    from langchain_histories.views.summarizers import Summarizer as Summarizer
    from langchain_histories.views.summarizing import SummarizingChatMessageHistory as SummarizingChatMessageHistory
    from langchain_histories.views.summary import Summary as Summary
    from langchain_histories.views.summary import SummaryEvent as SummaryEvent
    from langchain_histories.views.summary import SummaryStats as SummaryStats
    from langchain_histories.views.window import WindowedChatMessageHistory as WindowedChatMessageHistory

# The module of each public name.
_MODULES = {
    "codec": ("Codec", "Record"),
    "conversations.copying": ("CopyProgress", "CopyReport", "acopy", "adigest", "copy", "digest"),
    "conversations.forms": ("aexport_session", "aimport_session", "export_session", "import_session"),
    "conversations.json_lines": ("aexport_jsonl", "aimport_jsonl", "export_jsonl", "import_jsonl"),
    "conversations.sources": (
        "aimport_langchain_redis",
        "aimport_openai_agents",
        "import_langchain_redis",
        "import_openai_agents",
    ),
    "errors": (
        "ConfigurationError",
        "CopyError",
        "CorruptRecordError",
        "FileFormatError",
        "HistoryError",
        "InvalidMessageError",
        "MissingExtraError",
        "RecordNotFoundError",
        "RecordTooLargeError",
        "SessionBusyError",
        "StoreError",
        "StoreUnavailableError",
        "SummaryError",
        "TranscriptChangedError",
        "UnsupportedOperationError",
    ),
    "history": ("StoredChatMessageHistory",),
    "integrations.runnable": ("RunnableWithHistory",),
    "registry": ("SESSION_CONFIG", "USER_SESSION_CONFIG", "HistoryRegistry", "open_history", "open_store"),
    "_listing": ("SessionDescription", "SessionInfo", "SessionList"),
    "_options": ("Capability",),
    "_pruning": ("Pruned",),
    "_session_ids": ("user_session_id",),
    "store": ("MessageStore", "Tail"),
    "stores.azure_table": ("AzureTableChatMessageHistory", "AzureTableStore"),
    "stores.cosmosdb": ("CosmosDBChatMessageHistory", "CosmosDBStore"),
    "stores.dynamodb": ("DynamoDBChatMessageHistory", "DynamoDBStore"),
    "stores.file": ("FileChatMessageHistory", "FileStore"),
    "stores.kafka": ("KafkaChatMessageHistory", "KafkaStore"),
    "stores.memory": ("ChatMessageHistory", "InMemoryChatMessageHistory", "MemoryStore"),
    "stores.mongodb": ("MongoDBChatMessageHistory", "MongoDBStore"),
    "stores.redis": ("RedisChatMessageHistory", "RedisStore"),
    "stores.sql": (
        "BaseMessageConverter",
        "DefaultMessageConverter",
        "PostgresChatMessageHistory",
        "SQLChatMessageHistory",
        "SQLStore",
    ),
    "stores.tablestore": ("TablestoreChatMessageHistory", "TablestoreStore"),
    "stores.upstash": ("UpstashRedisChatMessageHistory", "UpstashStore"),
    "views._view": ("Coverage",),
    "views.summarizers": ("ExtractiveSummarizer", "ModelSummarizer", "Summarizer"),
    "views.summarizing": ("SummarizingChatMessageHistory",),
    "views.summary": ("Summary", "SummaryEvent", "SummaryStats"),
    "views.window": ("WindowedChatMessageHistory",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOMES)  # noqa: PLE0605  # one table, not two
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Load a public name."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    with importlib.import_module(f"{__name__}._forks").importing():
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
