"""Constructors, methods, public attributes and errors of LangChain's own classes, beside those of ours.

The real classes are inspected and made; none connects to anything. Each difference has its line in the changelog's list,
and a line whose difference is gone is told too.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import azure.cosmos
import boto3
import langchain_azure_cosmosdb._chat_history
import langchain_community.chat_message_histories as community
import langchain_community.chat_message_histories.kafka
import langchain_community.chat_message_histories.redis
import langchain_core.chat_history as core
import langchain_mongodb
import langchain_postgres
import mongomock
import psycopg
import pydantic
import pytest
import redis
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from sqlalchemy import create_engine

import langchain_histories as ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(eq=False)
class Pair:
    """A class of LangChain's, ours, and arguments with which both can be made."""

    mine: Any
    theirs: Any
    arguments: dict[str, Any]
    positional: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.theirs.__module__.partition('.')[0]}.{self.theirs.__name__}"

    def make(self, cls: Any, **changed: Any) -> Any:
        arguments = {**self.arguments, **changed}
        positional = [arguments.pop(name) for name in self.positional]
        history = cls(*positional, **arguments)
        if cls is community.DynamoDBChatMessageHistory:
            history.table.get_item = lambda **_: {}  # it reads before it looks at a message
        return history


AWS = boto3.Session(region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="test")
DYNAMODB: dict[str, Any] = {
    "table_name": "t",
    "session_id": "s",
    "boto3_session": AWS,
    "endpoint_url": "http://127.0.0.1:9",
}
COSMOS = {
    "cosmos_endpoint": "https://127.0.0.1:9",
    "cosmos_database": "d",
    "cosmos_container": "c",
    "session_id": "s",
    "user_id": "u",
    "credential": "a2V5",
}
PAIRS = [
    Pair(ours.InMemoryChatMessageHistory, core.InMemoryChatMessageHistory, {}),
    Pair(
        ours.FileChatMessageHistory,
        community.FileChatMessageHistory,
        {"file_path": "chat.json", "encoding": "utf-8", "ensure_ascii": False},
    ),
    Pair(
        ours.RedisChatMessageHistory,
        community.RedisChatMessageHistory,
        {"session_id": "s", "url": "redis://127.0.0.1:9/0", "key_prefix": "chat:", "ttl": 60},
    ),
    Pair(
        ours.UpstashRedisChatMessageHistory,
        community.UpstashRedisChatMessageHistory,
        {"session_id": "s", "url": "https://127.0.0.1:9", "token": "t", "key_prefix": "chat:", "ttl": 0},
    ),
    Pair(
        ours.SQLChatMessageHistory,
        community.SQLChatMessageHistory,
        {"session_id": "s", "connection": "sqlite:///chat.db"},
    ),
    Pair(
        ours.SQLChatMessageHistory,
        community.SQLChatMessageHistory,
        {"session_id": "s", "connection": create_engine("sqlite://")},
    ),
    Pair(
        ours.SQLChatMessageHistory,
        community.SQLChatMessageHistory,
        {"session_id": "s", "connection": "sqlite+aiosqlite:///chat.db", "async_mode": True},
    ),
    Pair(
        ours.MongoDBChatMessageHistory,
        langchain_mongodb.MongoDBChatMessageHistory,
        {"connection_string": None, "session_id": "s", "client": mongomock.MongoClient()},
    ),
    Pair(
        ours.PostgresChatMessageHistory,
        langchain_postgres.PostgresChatMessageHistory,
        {
            "table_name": "t",
            "session_id": str(uuid.UUID(int=7)),
            "sync_connection": mock.MagicMock(spec=psycopg.Connection),
        },
        ("table_name", "session_id"),
    ),
    Pair(
        ours.PostgresChatMessageHistory,
        community.PostgresChatMessageHistory,
        {"session_id": "s", "connection_string": "postgresql://ivan@127.0.0.1:9/chats"},
    ),
    Pair(ours.DynamoDBChatMessageHistory, community.DynamoDBChatMessageHistory, DYNAMODB),
    Pair(
        ours.DynamoDBChatMessageHistory,
        community.DynamoDBChatMessageHistory,
        {
            **DYNAMODB,
            "key": {"PK": "a", "SK": 1},
            "ttl": 60,
            "ttl_key_name": "end",
            "history_size": 5,
            "history_messages_key": "Messages",
            "coerce_float_to_decimal": True,
        },
    ),
    Pair(
        ours.KafkaChatMessageHistory,
        community.KafkaChatMessageHistory,
        {"session_id": "s", "bootstrap_servers": "127.0.0.1:9"},
    ),
    Pair(ours.CosmosDBChatMessageHistory, community.CosmosDBChatMessageHistory, COSMOS),
    Pair(ours.CosmosDBChatMessageHistory, langchain_azure_cosmosdb.CosmosDBChatMessageHistory, COSMOS),
]
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=str)

# Differences that stay: how they are named below, the classes at which they are found (all, if none is named), and words
# of the line of the changelog that tells them.
DIFFERENCES: list[tuple[str, tuple[Any, ...], str]] = [
    (r".*: another error", (), "whatever LangChain's class or its driver raises there"),
    (
        r"add_messages?\(.*\) is refused",
        (ours.InMemoryChatMessageHistory,),
        "what is no message raises `InvalidMessageError`",
    ),
    (
        r"(url|bootstrap_servers|history_size|encoding)=.* is refused",
        (),
        "An argument that cannot be used raises `ConfigurationError`",
    ),
    (r"session_id=(None|''|b's') is refused", (), "A session id that is `None`, empty, bytes"),
    (r"session_id='sss.* is refused", (), "or longer than 1,024 bytes"),
    (r"session_id=5 is text", (), "A number or a UUID is its text"),
    (r"ttl=.* is refused", (), "`ttl` is a positive whole number of seconds"),
    (r"messages = \[\]( is refused|: another error)", (), "`messages` is assigned to"),
    (r"messages = \[\] is taken", (community.PostgresChatMessageHistory,), "`messages` is assigned to"),
    (r"message=\[\] is refused", (ours.InMemoryChatMessageHistory,), "refuses arguments that it does not have"),
    (r"file_path='missing/.*' is taken", (), "A constructor connects to nothing"),
    (r"encoding='utf-16' is refused", (), "encoding that does not contain ASCII"),
    (r"session_id_field_name='other' is taken", (), "`session_id_field_name` may be any column"),
    (r"kms_key_id=.*", (), "refuses `kms_key_id`"),
    (r"argument (table_name|session_id)", (langchain_postgres.PostgresChatMessageHistory,), "has both constructors"),
    (r"arguments? .*", (community.PostgresChatMessageHistory,), "has both constructors"),
    (
        r"(session_id=5|session_id='no UUID'|table_name='a-b') is taken",
        (langchain_postgres.PostgresChatMessageHistory,),
        "takes any session id and table name",
    ),
    (r"attribute (connection|cursor)", (community.PostgresChatMessageHistory,), "has no `connection` and `cursor`"),
    (
        r"attribute (credential|conn_string)",
        (ours.CosmosDBChatMessageHistory,),
        "has no attributes `credential` and `conn_string`",
    ),
    (r"value of session_id", (ours.CosmosDBChatMessageHistory,), "`session_id` is `@user/session`"),
]


def lines_for(difference: str, pair: Pair) -> list[str]:
    """The words of the changelog that tell a difference."""
    return [
        words
        for pattern, classes, words in DIFFERENCES
        if re.fullmatch(pattern, difference) and (not classes or {pair.mine, pair.theirs} & {*classes})
    ]


@pytest.fixture(autouse=True)
def nothing_connects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """LangChain's classes connect in their constructors: here to nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    modules = langchain_community.chat_message_histories
    monkeypatch.setattr(modules.redis, "get_client", lambda redis_url: redis.Redis.from_url(url=redis_url))
    monkeypatch.setattr(modules.kafka, "ensure_topic_exists", lambda *_: 3)
    monkeypatch.setattr(ours.KafkaStore, "count_partitions", lambda *_: 3)
    monkeypatch.setattr(ours.SQLStore, "replace", lambda *_: None)
    monkeypatch.setattr(psycopg, "connect", mock.Mock())
    monkeypatch.setattr(azure.cosmos, "CosmosClient", mock.Mock())
    monkeypatch.setattr(langchain_azure_cosmosdb._chat_history, "CosmosClient", mock.Mock())


# What differs.


def arguments_of(function: Any) -> list[inspect.Parameter]:
    return [each for each in inspect.signature(function).parameters.values() if each.name != "self"]


def is_same(mine: object, theirs: object) -> bool:
    """Whether two defaults are equal; pydantic shows no other for a list that each object has of its own."""
    return mine == theirs or (mine == () and repr(theirs) == "<factory>")


def of_arguments(mine: Any, theirs: Any, where: str) -> Iterator[str]:
    """Names, order, kinds and defaults; what ours has beside them must be given by keyword."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    our_order = [each.name for each in arguments_of(mine) if each.kind in positional]
    their_order = [each.name for each in arguments_of(theirs) if each.kind in positional]
    named = {each.name: each for each in arguments_of(mine)}
    for each in arguments_of(theirs):
        other = named.get(each.name)
        if each.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL) or (
            other is not None and other.kind is each.kind and is_same(other.default, each.default)
        ):
            continue
        yield f"{where} {each.name}"
    if our_order[: len(their_order)] != their_order:
        yield f"{where}s in this order"
    for name in our_order[len(their_order) :]:
        yield f"{where} {name} by position"


INHERITED = set(dir(pydantic.BaseModel))


def public_names(history: Any) -> set[str]:
    """All but the methods: what is in the object, and its properties."""
    properties = {name for name, value in inspect.getmembers_static(type(history)) if isinstance(value, property)}
    return {name for name in {*vars(history), *properties} - INHERITED if not name.startswith("_")}


def of_methods(pair: Pair) -> Iterator[str]:
    for name, function in inspect.getmembers(pair.theirs, inspect.isroutine):
        if name.startswith("_") or name in INHERITED:
            continue
        if not hasattr(pair.mine, name):
            yield f"method {name}"
        else:
            yield from of_arguments(getattr(pair.mine, name), function, f"argument of {name}:")


def of_attributes(pair: Pair) -> Iterator[str]:
    theirs, mine = pair.make(pair.theirs), pair.make(pair.mine)
    for name in sorted(public_names(theirs) - {"messages"}):
        expected = getattr(theirs, name)
        try:
            given = getattr(mine, name)
        except AttributeError:
            yield f"attribute {name}"
            continue
        except (redis.ConnectionError, ours.StoreUnavailableError):
            continue  # it is there; the service is not
        if isinstance(expected, str | int | float | dict | list | Path | None):
            if (type(given), given) != (type(expected), expected):
                yield f"value of {name}"
        elif type(given).__qualname__ != type(expected).__qualname__:
            yield f"type of {name}"
    mine.store.close()


# What cannot be used: an argument, or a call of a history, and a word that our error has to say.

ANY_CLASS = object()
CONSTRUCTORS: list[tuple[Any, dict[str, Any], str]] = [
    (ANY_CLASS, {"session_id": None}, "session_id"),
    (ANY_CLASS, {"session_id": ""}, "session_id"),
    (ANY_CLASS, {"session_id": b"s"}, "session_id"),
    (ANY_CLASS, {"session_id": "s" * 1025}, "session_id"),
    (ANY_CLASS, {"session_id": 5}, "session_id"),
    (ours.InMemoryChatMessageHistory, {"messages": None}, "messages"),
    (ours.InMemoryChatMessageHistory, {"messages": "text"}, "message"),
    (ours.InMemoryChatMessageHistory, {"messages": [5]}, "message"),
    (ours.InMemoryChatMessageHistory, {"message": []}, "message"),
    (ours.FileChatMessageHistory, {"file_path": None}, "path"),
    (ours.FileChatMessageHistory, {"file_path": "missing/chat.json"}, "missing"),
    (ours.FileChatMessageHistory, {"encoding": "nonsense"}, "encoding"),
    (ours.FileChatMessageHistory, {"encoding": "utf-16"}, "encoding"),
    (ours.RedisChatMessageHistory, {"url": "nonsense://h"}, "url"),
    (ours.RedisChatMessageHistory, {"url": None}, "url"),
    (ours.RedisChatMessageHistory, {"ttl": -1}, "ttl"),
    (ours.RedisChatMessageHistory, {"ttl": "60"}, "ttl"),
    (ours.UpstashRedisChatMessageHistory, {"url": ""}, "URL"),
    (ours.UpstashRedisChatMessageHistory, {"token": ""}, "TOKEN"),
    (ours.UpstashRedisChatMessageHistory, {"url": "nonsense"}, "url"),
    (ours.SQLChatMessageHistory, {"connection": None}, "connection"),
    (ours.SQLChatMessageHistory, {"connection": 5}, "connection"),
    (ours.SQLChatMessageHistory, {"connection": "nonsense"}, "URL"),
    (ours.SQLChatMessageHistory, {"connection": "nonsense://h/d"}, "nonsense"),
    (ours.SQLChatMessageHistory, {"session_id_field_name": "other"}, "other"),
    (ours.MongoDBChatMessageHistory, {"client": None}, "connection_string"),
    (ours.MongoDBChatMessageHistory, {"connection_string": "mongodb://h"}, "connection_string"),
    (ours.MongoDBChatMessageHistory, {"connection_string": "mongodb://"}, "connection_string"),
    (ours.MongoDBChatMessageHistory, {"history_size": -1}, "history_size"),
    (ours.MongoDBChatMessageHistory, {"history_size": "5"}, "history_size"),
    (langchain_postgres.PostgresChatMessageHistory, {"sync_connection": None}, "sync_connection"),
    (langchain_postgres.PostgresChatMessageHistory, {"session_id": "no UUID"}, "UUID"),
    (langchain_postgres.PostgresChatMessageHistory, {"table_name": "a-b"}, "table"),
    (community.PostgresChatMessageHistory, {"connection": 5}, "connection"),
    (ours.DynamoDBChatMessageHistory, {"kms_key_id": "k"}, "codec="),
    (ours.DynamoDBChatMessageHistory, {"table_name": None}, "table"),
    (ours.DynamoDBChatMessageHistory, {"key": {"PK": "a", "SK": "b"}}, "key"),
    (ours.DynamoDBChatMessageHistory, {"key": {"PK": "a", "SK": 1}}, "key"),
    (ours.DynamoDBChatMessageHistory, {"history_size": 0}, "history_size"),
    (ours.DynamoDBChatMessageHistory, {"history_size": -1}, "history_size"),
    (ours.DynamoDBChatMessageHistory, {"ttl": "60"}, "ttl"),
    (ours.KafkaChatMessageHistory, {"bootstrap_servers": None}, "bootstrap_servers"),
    (ours.KafkaChatMessageHistory, {"bootstrap_servers": ""}, "bootstrap_servers"),
    (ours.KafkaChatMessageHistory, {"partition": 0}, "partition"),
    (ours.KafkaChatMessageHistory, {"ttl_ms": "60"}, "ttl_ms"),
    (ours.CosmosDBChatMessageHistory, {"credential": None}, "credential"),
    (ours.CosmosDBChatMessageHistory, {"user_id": ""}, "user_id"),
    (ours.CosmosDBChatMessageHistory, {"ttl": -5}, "ttl"),
]
CALLS: list[tuple[str, Callable[[Any], object], str]] = [
    ("add_message('text')", lambda history: history.add_message("text"), "message"),
    ("add_messages([None])", lambda history: history.add_messages([None]), "message"),
    ("add_messages(None)", lambda history: history.add_messages(None), "message"),
    ("add_user_message(5)", lambda history: history.add_user_message(5), "content"),
    ("messages = []", lambda history: setattr(history, "messages", []), "add_messages"),
]


def outcome(function: Callable[[], object]) -> Exception | None:
    try:
        function()
    except Exception as error:  # noqa: BLE001  # whatever they raise
        return error
    return None


def compared(what: str, pair: Pair, says: str, function: Callable[[Any], object]) -> Iterator[str]:
    """How the two classes differ in what they make of this."""
    mine, theirs = outcome(lambda: function(pair.mine)), outcome(lambda: function(pair.theirs))
    if mine is None and theirs is not None:
        yield f"{what} is taken"
    elif mine is not None and theirs is None:
        yield f"{what} is refused"
    elif not isinstance(mine, type(theirs)):
        yield f"{what}: another error"
    is_told = isinstance(mine, ours.HistoryError | type(theirs)) and says in str(mine)
    if mine is not None and not is_told and "unexpected keyword argument" not in str(mine):
        yield f"{what}: {type(mine).__name__} without {says!r}: {mine}"


def of_errors(pair: Pair) -> Iterator[str]:
    names = {each.name for each in arguments_of(pair.theirs)}
    for cls, changed, says in CONSTRUCTORS:
        if cls in (pair.mine, pair.theirs) or (cls is ANY_CLASS and changed.keys() <= names):
            ((name, value),) = changed.items()
            yield from compared(f"{name}={value!r}", pair, says, functools.partial(pair.make, **changed))
    if "session_id" in names and pair.theirs is not langchain_postgres.PostgresChatMessageHistory:
        mine, theirs = (pair.make(cls, session_id=5) for cls in (pair.mine, pair.theirs))
        if mine.session_id != theirs.session_id:
            yield "session_id=5 is text"
    for what, call, says in CALLS:
        yield from compared(what, pair, says, lambda cls, call=call: call(pair.make(cls)))


@functools.cache
def differences(pair: Pair) -> list[str]:
    of_constructors = of_arguments(pair.mine, pair.theirs, "argument")
    return [*of_constructors, *of_methods(pair), *of_attributes(pair), *of_errors(pair)]


pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"),
    # What LangChain's classes do when a constructor has failed.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@each_pair
def test_each_difference_from_langchains_class_is_in_the_changelog(pair):
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    told = " ".join(changelog.partition("### Different from LangChain's classes")[2].split())
    untold = [each for each in differences(pair) if not any(words in told for words in lines_for(each, pair))]
    assert untold == []


@pytest.mark.parametrize("question", [5, None, {"a": 1, "b": 2}])
def test_what_is_no_question_is_a_value_error_as_with_langchains_runnable(question):
    config = {"configurable": {"session_id": "1"}}
    for cls in (RunnableWithMessageHistory, ours.RunnableWithHistory):
        chain = cls(RunnableLambda(str), lambda session_id: ours.InMemoryChatMessageHistory())
        with pytest.raises((ValueError, KeyError)):
            chain.invoke(question, config)


def test_no_difference_is_listed_that_is_gone():
    used = {words for pair in PAIRS for each in differences(pair) for words in lines_for(each, pair)}
    assert {words for _, _, words in DIFFERENCES} - used == set()
