"""What importing the package does, on this langchain-core and without parts of it."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap

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


@pytest.mark.parametrize(
    ("driver", "name", "extra"),
    [
        ("redis", "RedisChatMessageHistory", "redis"),
        ("sqlalchemy", "SQLChatMessageHistory", "sql"),
        ("pymongo", "MongoDBChatMessageHistory", "mongodb"),
        ("upstash_redis", "UpstashRedisChatMessageHistory", "upstash"),
    ],
)
def test_a_missing_driver_says_what_to_install(driver, name, extra):
    done = run(f"""
        import sys
        sys.modules[{driver!r}] = None
        try:
            from langchain_histories import {name}
        except ImportError as error:
            print(error)
    """)
    assert f"pip install 'langchain-histories[{extra}]'" in done.stdout


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


@pytest.mark.parametrize(
    ("module", "driver", "extra"),
    [
        ("redis", "redis", "redis"),
        ("upstash", "upstash_redis", "upstash"),
        ("sql", "sqlalchemy", "sql"),
        ("postgres", "psycopg", "postgres"),
        ("mongodb", "pymongo", "mongodb"),
        ("dynamodb", "aiobotocore", "dynamodb"),
        ("dynamodb", "botocore", "dynamodb"),
        ("kafka", "confluent_kafka", "kafka"),
        ("azure_table", "azure", "azure-table"),
        ("cosmosdb", "azure", "cosmosdb"),
        ("tablestore", "tablestore", "tablestore"),
    ],
)
def test_a_driver_that_is_missing_is_named_with_its_extra(module, driver, extra):
    done = run(f"""
        import sys
        sys.modules["{driver}"] = None
        try:
            import langchain_histories.stores.{module}
        except ImportError as error:
            print(type(error).__name__, error)
    """)
    assert done.stdout.startswith("MissingExtraError"), done.stdout + done.stderr
    assert f"langchain-histories[{extra}]" in done.stdout
