"""What is compared in each store: this package, LangChain's class, and the bare driver (the floor).

The floor runs by hand the statements that this package runs, with the JSON texts made beforehand.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import sqlite3
import warnings
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import aiosqlite
import psycopg
import pymongo
import redis.asyncio
import servers
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage, message_to_dict, messages_from_dict
from sqlalchemy.ext.asyncio import create_async_engine

from langchain_histories import (
    FileStore,
    MongoDBChatMessageHistory,
    MongoDBStore,
    RedisChatMessageHistory,
    RedisStore,
    SQLChatMessageHistory,
    SQLStore,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from langchain_community import chat_message_histories as community
from langchain_mongodb import MongoDBChatMessageHistory as TheirMongoDBChatMessageHistory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_core.messages import BaseMessage

logging.getLogger("asyncio").setLevel(logging.ERROR)


def conversation(length: int) -> list[BaseMessage]:
    """Questions and answers; each fifth answer calls a tool, and all have what models report with them."""
    messages: list[BaseMessage] = []
    for turn in range((length + 1) // 2):
        question = f"Question {turn}: what is the weather like in Lisbon today, and should I take an umbrella with me?"
        call = {"name": "weather", "args": {"city": "Lisbon", "day": turn}, "id": f"call_{turn}", "type": "tool_call"}
        answer = f"Answer {turn}: it is sunny in Lisbon, 24 degrees, with a light wind from the north. " * 3
        messages += [
            HumanMessage(question, id=f"question-{turn}"),
            AIMessage(
                "" if turn % 5 == 0 else answer,
                id=f"run-{turn}",
                tool_calls=[call] if turn % 5 == 0 else [],
                response_metadata={"model_name": "a-model", "finish_reason": "stop"},
                usage_metadata={"input_tokens": 120 + turn, "output_tokens": 64, "total_tokens": 184 + turn},
            ),
        ]
    return messages[:length]


def by_hand(messages: Sequence[BaseMessage]) -> list[str]:
    """Encode as LangChain's classes do."""
    return [json.dumps(message_to_dict(message)) for message in messages]


def messages_of(texts: Sequence[Any]) -> list[BaseMessage]:
    """Decode as LangChain's classes do."""
    return messages_from_dict([json.loads(text) for text in texts])


class Contender(ABC):
    """One store on its server."""

    name: ClassVar[str]
    longest = 100_000
    theirs_rewrites = False
    ours: Any
    server: Any = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def serving(self) -> AbstractContextManager[Any]:
        """Start the server, if there is one."""
        return nullcontext()

    @abstractmethod
    async def open(self, stack: AsyncExitStack) -> None:
        """Open our store and the bare clients."""

    @abstractmethod
    def theirs(self, session: str) -> Any:
        """LangChain's history for sync use; each session has a place of its own."""

    def their_async(self, session: str) -> Any:
        """LangChain's history for async use, on a shared pool where the class can have one."""
        return self.theirs(session)

    @abstractmethod
    def fill_theirs(self, session: str, texts: list[str]) -> None:
        """Put records where LangChain's class finds them."""

    @abstractmethod
    def append(self, session: str, texts: Sequence[str]) -> None:
        """The floor of an append."""

    async def aappend(self, session: str, texts: Sequence[str]) -> None:
        """The floor of an async append."""
        await asyncio.to_thread(self.append, session, texts)

    @abstractmethod
    def tail(self, session: str, count: int) -> Sequence[Any]:
        """The floor of a read of the last messages: their texts, oldest first."""

    def connections(self) -> int | None:
        """How many connections the server has."""
        return None

    def drop_in(self, session: str) -> Any:
        """Our class with the constructor of LangChain's."""
        raise NotImplementedError

    def lone(self, session: str) -> Any:
        """LangChain's history made from a URL."""
        return self.theirs(session)

    def fill(self, session: str, messages: Sequence[BaseMessage]) -> None:
        """Put the same messages into our session, the floor's and LangChain's."""
        for start in range(0, len(messages), 2000):
            for ours in (f"ours-{session}", f"floor-{session}"):
                self.ours.append(ours, messages[start : start + 2000])
        self.fill_theirs(f"theirs-{session}", by_hand(messages))


class Redis(Contender):
    name = "Redis"

    def serving(self) -> AbstractContextManager[Any]:
        return servers.redis()

    async def open(self, stack: AsyncExitStack) -> None:
        self.ours = await stack.enter_async_context(RedisStore(self.server.url))
        self.client = stack.enter_context(redis.Redis.from_url(self.server.url))
        self.aclient = await stack.enter_async_context(redis.asyncio.Redis.from_url(self.server.url))

    def theirs(self, session: str) -> Any:
        return community.RedisChatMessageHistory(session, url=self.server.url)

    def drop_in(self, session: str) -> Any:
        return RedisChatMessageHistory(session, url=self.server.url)

    def fill_theirs(self, session: str, texts: list[str]) -> None:
        for start in range(0, len(texts), 5000):
            self.client.lpush(f"message_store:{session}", *texts[start : start + 5000])

    def append(self, session: str, texts: Sequence[str]) -> None:
        self.client.lpush(f"message_store:{session}", *texts)

    async def aappend(self, session: str, texts: Sequence[str]) -> None:
        await self.aclient.lpush(f"message_store:{session}", *texts)

    def tail(self, session: str, count: int) -> Sequence[Any]:
        pipeline = self.client.pipeline(transaction=True)
        pipeline.llen(f"message_store:{session}")
        pipeline.lrange(f"message_store:{session}", 0, count - 1)
        return pipeline.execute()[1][::-1]

    def connections(self) -> int | None:
        return self.client.info("clients")["connected_clients"]


class _SQL(Contender):
    url: str
    driver = ""
    async_driver: str

    def _open_sql(self, stack: AsyncExitStack) -> Any:
        scheme, rest = self.url.split("://")
        self.their_url = f"{scheme}{self.driver}://{rest}"
        self.engine = sa.create_engine(self.their_url)
        stack.callback(self.engine.dispose)
        self.their_engine = create_async_engine(f"{scheme}+{self.async_driver}://{rest}")
        stack.push_async_callback(self.their_engine.dispose)
        return SQLStore(self.url, table_name="ours")

    def theirs(self, session: str) -> Any:
        return community.SQLChatMessageHistory(session, table_name=_table(session), connection=self.engine)

    def their_async(self, session: str) -> Any:
        return community.SQLChatMessageHistory(session, table_name=_table(session), connection=self.their_engine)

    def drop_in(self, session: str) -> Any:
        return SQLChatMessageHistory(session, table_name="ours", connection=self.url)

    def lone(self, session: str) -> Any:
        return community.SQLChatMessageHistory(session, table_name=_table(session), connection=self.their_url)

    def fill_theirs(self, session: str, texts: list[str]) -> None:
        self.theirs(session)
        insert = f'INSERT INTO "{_table(session)}" (session_id, message) VALUES (:s, :m)'  # noqa: S608  # our names
        with self.engine.begin() as connection:
            connection.execute(sa.text(insert), [{"s": session, "m": text} for text in texts])


def _table(session: str) -> str:
    # Their table has no index on the session, so long sessions would make reads of others slow.
    return session.rstrip("0123456789")


class SQLite(_SQL):
    name = "SQLite"
    async_driver = "aiosqlite"
    insert = "INSERT INTO ours (session_id, message) SELECT ?, value FROM json_each(?) ORDER BY key"
    select = "SELECT id, message FROM ours WHERE session_id = ? ORDER BY id DESC LIMIT ?"

    async def open(self, stack: AsyncExitStack) -> None:
        path = self.folder / "histories.db"
        self.url = f"sqlite:///{path}"
        self.ours = await stack.enter_async_context(self._open_sql(stack))
        self.connection = sqlite3.connect(path, isolation_level=None)
        stack.callback(self.connection.close)
        self.aconnection = await stack.enter_async_context(aiosqlite.connect(path, isolation_level=None))

    def append(self, session: str, texts: Sequence[str]) -> None:
        self.connection.execute(self.insert, (session, json.dumps(texts, ensure_ascii=False)))

    async def aappend(self, session: str, texts: Sequence[str]) -> None:
        await self.aconnection.execute(self.insert, (session, json.dumps(texts, ensure_ascii=False)))

    def tail(self, session: str, count: int) -> Sequence[Any]:
        return [text for _, text in self.connection.execute(self.select, (session, count)).fetchall()][::-1]


class PostgreSQL(_SQL):
    name = "PostgreSQL"
    driver, async_driver = "+psycopg", "psycopg"
    insert = """
        WITH l AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended(CAST(%s AS text), 0)))
        INSERT INTO ours (session_id, message) SELECT CAST(%s AS text), u.m
        FROM l CROSS JOIN json_array_elements_text(CAST(%s AS json)) WITH ORDINALITY AS u(m, o) ORDER BY u.o"""
    select = "SELECT id, message FROM ours WHERE session_id = %s ORDER BY id DESC LIMIT %s"

    def serving(self) -> AbstractContextManager[Any]:
        return servers.postgres()

    async def open(self, stack: AsyncExitStack) -> None:
        self.url = self.server.url
        self.ours = await stack.enter_async_context(self._open_sql(stack))
        self.connection = stack.enter_context(psycopg.connect(self.url, autocommit=True))
        aconnection = await psycopg.AsyncConnection.connect(self.url, autocommit=True)
        self.aconnection = await stack.enter_async_context(aconnection)

    def append(self, session: str, texts: Sequence[str]) -> None:
        rows = json.dumps(texts, ensure_ascii=False)
        self.connection.execute(self.insert, (f"lh:ours:{session}", session, rows))

    async def aappend(self, session: str, texts: Sequence[str]) -> None:
        rows = json.dumps(texts, ensure_ascii=False)
        await self.aconnection.execute(self.insert, (f"lh:ours:{session}", session, rows))

    def tail(self, session: str, count: int) -> Sequence[Any]:
        return [text for _, text in self.connection.execute(self.select, (session, count)).fetchall()][::-1]

    def connections(self) -> int | None:
        with psycopg.connect(self.server.admin_url) as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
            return connection.execute(query, (servers.DATABASE,)).fetchone()[0]


class File(Contender):
    name = "File"
    theirs_rewrites = True

    async def open(self, stack: AsyncExitStack) -> None:
        self.ours = await stack.enter_async_context(FileStore(path=self.folder / "histories"))

    def path(self, session: str) -> Path:
        return self.folder / "histories" / f"{session}.json"

    def theirs(self, session: str) -> Any:
        return community.FileChatMessageHistory(str(self.path(session)))

    def fill_theirs(self, session: str, texts: list[str]) -> None:
        self.path(session).write_text(f"[{', '.join(texts)}]")

    def append(self, session: str, texts: Sequence[str]) -> None:
        with self.path(session).open("r+b", buffering=0) as file:
            file.seek(-2, os.SEEK_END)
            file.write(b"," + ",\n".join(texts).encode() + b"\n]\n")
            os.fdatasync(file.fileno())

    def tail(self, session: str, count: int) -> Sequence[Any]:
        with self.path(session).open("rb", buffering=0) as file:
            file.seek(-count * 1000, os.SEEK_END)
            return [line.strip(b",") for line in file.read().split(b"\n")[-2 - count : -2]]


class MongoDB(Contender):
    name = "MongoDB stand-in"
    longest = 2_000

    def serving(self) -> AbstractContextManager[Any]:
        return servers.mongodb()

    async def open(self, stack: AsyncExitStack) -> None:
        url = self.server.admin_url
        self.ours = await stack.enter_async_context(MongoDBStore(url))
        self.client = stack.enter_context(pymongo.MongoClient(url, w="majority"))
        self.aclient = await stack.enter_async_context(pymongo.AsyncMongoClient(url, w="majority"))
        self.numbers = itertools.count(1_000_000)

    def theirs(self, session: str) -> Any:
        return TheirMongoDBChatMessageHistory(None, session, client=self.client)

    def drop_in(self, session: str) -> Any:
        return MongoDBChatMessageHistory(self.server.admin_url, session)

    def lone(self, session: str) -> Any:
        return TheirMongoDBChatMessageHistory(self.server.admin_url, session)

    def fill_theirs(self, session: str, texts: list[str]) -> None:
        self.client.chat_history.message_store.insert_many([{"SessionId": session, "History": text} for text in texts])

    def _statements(self, client: Any, session: str, texts: Sequence[str]) -> Iterator[Any]:
        batch, database = str(next(self.numbers)), client.chat_history
        this, pulled = {"_id": session}, {"$pull": {"pending": {"batch": {"$in": [batch]}}}}
        pushed = {"$inc": {"appended": len(texts)}, "$push": {"pending": {"batch": batch, "records": list(texts)}}}
        yield database.message_store_sessions.find_one_and_update(this, pushed, {"appended": 1})
        numbers = [next(self.numbers) for _ in texts]
        yield database.message_store.insert_many(
            [
                {"_id": f"{number}-floor", "SessionId": session, "History": text, "seq": number}
                for number, text in zip(numbers, texts, strict=True)
            ],
            ordered=False,
        )
        yield database.message_store_sessions.update_one(this, pulled)

    def append(self, session: str, texts: Sequence[str]) -> None:
        for _ in self._statements(self.client, session, texts):
            pass

    async def aappend(self, session: str, texts: Sequence[str]) -> None:
        for statement in self._statements(self.aclient, session, texts):
            await statement

    def tail(self, session: str, count: int) -> Sequence[Any]:
        database = self.client.chat_history
        database.message_store_sessions.find_one({"_id": session}, {"state": 0})
        fields, order = {"History": 1, "seq": 1}, [("seq", -1), ("_id", -1)]
        found = database.message_store.find({"SessionId": session}, fields, sort=order, limit=count)
        return [document["History"] for document in found][::-1]

    def connections(self) -> int | None:
        return self.client.admin.command("serverStatus").get("connections", {}).get("current")


CONTENDERS = {"redis": Redis, "sqlite": SQLite, "postgres": PostgreSQL, "file": File, "mongodb": MongoDB}
