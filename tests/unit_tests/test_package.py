"""What importing the package does, on this langchain-core and without parts of it."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import langchain_histories

DRIVERS = ("redis", "upstash_redis", "sqlalchemy", "psycopg", "aiosqlite", "pymongo", "boto3", "aiobotocore")
DRIVERS += ("confluent_kafka", "azure.data.tables", "azure.cosmos", "tablestore", "yaml", "filelock", "pytest")


def run(code, *options):
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )


def test_importing_the_package_imports_no_driver_and_no_langchain():
    done = run(f"""
        import sys, langchain_histories
        assert not [name for name in {DRIVERS} + ("langchain_core",) if name in sys.modules]
        from langchain_histories import HistoryRegistry, InMemoryChatMessageHistory, MessageStore, open_history
        assert not [name for name in {DRIVERS} if name in sys.modules]
    """)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_documented():
    for name in langchain_histories.__all__:
        value = getattr(langchain_histories, name)
        assert inspect.getdoc(value), name
    assert dir(langchain_histories) == langchain_histories.__all__
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = langchain_histories.no_such_name


def test_type_checkers_are_told_the_same_names_as_programs():
    source = Path(langchain_histories.__file__).read_text(encoding="utf-8")
    for_checkers = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    told = {}
    for node in for_checkers.body:
        assert isinstance(node, ast.ImportFrom)
        (alias,) = node.names
        assert alias.asname == alias.name, "a name that is not imported as itself is private to a type checker"
        told[alias.name] = node.module.removeprefix("langchain_histories.")
    assert told == langchain_histories._HOMES


# Without drivers.

SERVICES = {
    "redis": ("redis", ["RedisStore('redis://h')", "RedisChatMessageHistory('s')"]),
    "upstash": ("upstash", ["UpstashStore('upstash://:t@h')", "UpstashRedisChatMessageHistory('s', 'https://h', 't')"]),
    "sql": ("sql", ["SQLStore('sqlite:///x.db')", "SQLChatMessageHistory('s', connection='sqlite:///x.db')"]),
    "mongodb": ("mongodb", ["MongoDBStore('mongodb://h')", "MongoDBChatMessageHistory('mongodb://h', 's')"]),
    "dynamodb": ("dynamodb", ["DynamoDBStore('dynamodb:///t')", "DynamoDBChatMessageHistory('t', 's')"]),
    "kafka": ("kafka", ["KafkaStore('kafka://h')", "KafkaChatMessageHistory('s', 'h:9092')"]),
    "azure_table": (
        "azure-table",
        [
            "AzureTableStore('azure-table://a.table.core.windows.net/t')",
            "AzureTableChatMessageHistory('s', 'https://a.table.core.windows.net', 't')",
        ],
    ),
    "cosmosdb": (
        "cosmosdb",
        ["CosmosDBStore('cosmosdb://:a2V5@h/d/c')", "CosmosDBChatMessageHistory('https://h', 'd', 'c', 's', 'u', 'k')"],
    ),
    "tablestore": (
        "tablestore",
        [
            "TablestoreStore('tablestore://id:secret@i.region.ots.aliyuncs.com/i')",
            "TablestoreChatMessageHistory('s', None, 'https://i.region.ots.aliyuncs.com', 'i', 'id', 'secret')",
        ],
    ),
}
"""The extra of each service, and how its store and its drop-in class are made."""
ALL_DRIVERS = (
    *("redis", "upstash_redis", "sqlalchemy", "psycopg", "psycopg2", "asyncpg", "aiosqlite", "pymysql", "asyncmy"),
    *("google.cloud", "pymongo", "bson", "boto3", "botocore", "aiobotocore", "confluent_kafka", "azure", "aiohttp"),
    *("tablestore", "tiktoken", "langchain", "langgraph", "pytest", "blockbuster"),
)
WITHOUT_DRIVERS = f"""
    import importlib.abc, sys

    class Nothing(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if any(name == driver or name.startswith(driver + ".") for driver in {ALL_DRIVERS}):
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    sys.meta_path.insert(0, Nothing())
"""


def test_every_public_name_can_be_looked_at_without_a_driver():
    done = run(f"""{WITHOUT_DRIVERS}
    import inspect, pydoc
    import langchain_histories
    from langchain_histories import *

    assert all(hasattr(langchain_histories, name) for name in langchain_histories.__all__)
    assert not hasattr(langchain_histories, "no_such_name")
    assert RedisStore is langchain_histories.RedisStore
    assert "RedisStore" in pydoc.render_doc(langchain_histories)
    members = dict(inspect.getmembers(langchain_histories))
    assert list(members) == langchain_histories.__all__
    for member in members.values():
        if inspect.isclass(member):
            assert not isinstance(object(), member)
            assert issubclass(member, Exception) or inspect.signature(member)
            assert member.__name__ in pydoc.render_doc(member)
            inspect.getmembers(member)
    help(langchain_histories)
    print("all of it")
    """)
    assert done.stdout.endswith("all of it\n"), done.stderr


def test_with_the_drivers_installed_looking_imports_none():
    drivers = [driver for driver in ALL_DRIVERS if driver not in ("aiohttp", "google.cloud", "pytest")]
    done = run(f"""
        import inspect, pydoc, sys
        import langchain_histories
        inspect.getmembers(langchain_histories)
        pydoc.render_doc(langchain_histories)
        print([name for name in {drivers} if name in sys.modules])
    """)
    assert done.stdout == "[]\n", done.stderr


@pytest.fixture(scope="module")
def said_without_drivers():
    """What each store and drop-in class says when it is made without its driver."""
    done = run(f"""{WITHOUT_DRIVERS}
    import json
    from langchain_histories import *

    said = {{}}
    for call in {[call for _, calls in SERVICES.values() for call in calls]}:
        try:
            eval(call)
        except MissingExtraError as error:
            said[call] = str(error)
    print(json.dumps(said))
    """)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("service", SERVICES)
def test_a_missing_driver_is_told_when_a_store_is_made(service, said_without_drivers):
    extra, calls = SERVICES[service]
    public = importlib.import_module(f"langchain_histories.stores.{service}").__all__
    for call in calls:
        assert said_without_drivers.get(call, "").endswith(f": pip install 'langchain-histories[{extra}]'"), call
        assert call.partition("(")[0] in public


SINGLE_DRIVERS = [
    ("botocore", "DynamoDBStore('dynamodb:///t')", "dynamodb"),
    ("aiobotocore", "DynamoDBStore('dynamodb:///t')", "dynamodb"),
    ("psycopg", "PostgresChatMessageHistory('t', '5d8cd4b0-0000-4000-8000-000000000000')", "postgres"),
    ("psycopg psycopg2 asyncpg pg8000", "SQLStore('postgresql://h/d')", "postgres"),
    ("tiktoken", "WindowedChatMessageHistory(InMemoryChatMessageHistory(), token_counter='tiktoken')", "tiktoken"),
    ("langchain.chat_models", "SummarizingChatMessageHistory(open_history('memory://', 's'), 'openai:x')", "agents"),
    ("yaml", "HistoryRegistry.from_config('histories.yaml')", "yaml"),
]


def test_a_single_driver_that_is_missing_is_told_with_its_extra(tmp_path):
    (tmp_path / "histories.yaml").write_text("histories: {a: {url: 'memory://'}}")
    done = run(f"""
        import os, sys
        os.chdir({str(tmp_path)!r})
        from langchain_histories import *

        for drivers, call, _ in {SINGLE_DRIVERS}:
            if os.fork() == 0:  # so that each call is the first one
                sys.modules |= dict.fromkeys(drivers.split())
                try:
                    eval(call)
                except MissingExtraError as error:
                    print(error, flush=True)
                finally:
                    os._exit(0)
            os.wait()
    """)
    told = [line.partition("pip install ")[2] for line in done.stdout.splitlines()]
    assert told == [f"'langchain-histories[{extra}]'" for *_, extra in SINGLE_DRIVERS], done.stderr


# All of it, and without LangChain's deprecated modules.

USE_EVERYTHING = """
    import asyncio, sys, warnings
    {first}
    import langchain_histories as lh
    from langchain_core.messages import AIMessage, HumanMessage

    async def use(history):
        await history.aadd_messages([HumanMessage("b")])
        assert [m.content for m in await history.aget_messages()] == ["a", "b"], history
        await history.aclear()

    registry = lh.HistoryRegistry.from_config({{"histories": {{"x": {{"url": "memory://"}}}}}})
    for history in (
        lh.InMemoryChatMessageHistory(),
        lh.FileChatMessageHistory(r"{folder}/history.json"),
        lh.open_history("file:///{folder}/files", "s"),
        lh.SQLChatMessageHistory("s", connection="sqlite:///{folder}/history.db"),
        registry.get_session_history("s"),
        registry.history("t"),
    ):
        history.add_user_message("a")
        assert str(history) == "Human: a", history
        asyncio.run(use(history))
        assert history.messages == []
    print(lh.InMemoryChatMessageHistory.__mro__)
"""


def test_no_warning_is_raised(tmp_path):
    done = run(USE_EVERYTHING.format(first="warnings.simplefilter('error')", folder=tmp_path))
    assert done.returncode == 0, done.stderr
    assert "langchain_core.chat_history.BaseChatMessageHistory" in done.stdout


def test_it_works_without_langchains_deprecated_modules(tmp_path):
    block = "sys.modules['langchain_core.chat_history'] = sys.modules['langchain_core.runnables.history'] = None"
    done = run(USE_EVERYTHING.format(first=block, folder=tmp_path))
    assert done.returncode == 0, done.stderr
    assert "PlainChatMessageHistory" in done.stdout
