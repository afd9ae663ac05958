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
import boto3
import psycopg
import pymongo
import redis.asyncio
import servers
import sqlalchemy as sa
from aiobotocore.session import get_session
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from langchain_core.messages import AIMessage, HumanMessage, message_to_dict, messages_from_dict
from sqlalchemy.ext.asyncio import create_async_engine

from langchain_histories import (
    DynamoDBStore,
    FileStore,
    KafkaStore,
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
    from collections.abc import Callable, Generator, Iterator, Sequence

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
    their_longest: ClassVar[int] = 100_000
    """Messages that a history of LangChain's class has at most; where ours has more, it has the last of them."""
    batch: ClassVar[int] = 2_000
    """Messages of one append when a history is filled."""
    burst: ClassVar[int] = 200
    """Sessions that have a turn at once."""
    note: ClassVar[str] = ""
    """What is to be known of the rows; shown below the table."""
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

    def ours_of_theirs(self, session: str) -> Any:
        """Our history of what LangChain's class wrote; `None` where it is in a place that ours does not have."""
        return self.ours.history(session)

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
        for start in range(0, len(messages), self.batch):
            for ours in (f"ours-{session}", f"floor-{session}"):
                self.ours.append(ours, messages[start : start + self.batch])
        self.fill_theirs(f"theirs-{session}", by_hand(messages[-self.their_longest :]))


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

    def ours_of_theirs(self, session: str) -> Any:
        return SQLChatMessageHistory(session, table_name=_table(session), connection=self.url)

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


class DynamoDB(Contender):
    name = "DynamoDB Local"
    longest = 10_000
    their_longest = 500
    batch = 98  # with the head that is one transaction, so each message is an item, as in a history of turns
    note = (
        "LangChain's class for DynamoDB keeps a session in one item of 400 KB at most, on a table without a sort key, "
        "and writes all of it anew with each addition: its histories are held to the last 500 messages here. Ours are "
        "on a table with a sort key, where a message is an item. DynamoDB Local is the vendor's emulator, on one disk."
    )

    def serving(self) -> AbstractContextManager[Any]:
        return servers.dynamodb()

    async def open(self, stack: AsyncExitStack) -> None:
        login = {"region_name": "eu-west-1", "aws_access_key_id": "benchmark", "aws_secret_access_key": "benchmark"}
        options = {**login, "endpoint_url": self.server.url}
        store = DynamoDBStore("dynamodb:///ours", client_options=options, create_table=True)
        self.ours = await stack.enter_async_context(store)
        self.session = boto3.Session(**login)
        self.client = self.session.client("dynamodb", endpoint_url=self.server.url)
        stack.callback(self.client.close)
        self.aclient = await stack.enter_async_context(get_session().create_client("dynamodb", **options))
        self.their_table = self.session.resource("dynamodb", endpoint_url=self.server.url).create_table(
            TableName="theirs",
            AttributeDefinitions=[{"AttributeName": "SessionId", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "SessionId", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )

    def theirs(self, session: str) -> Any:
        return community.DynamoDBChatMessageHistory(
            "theirs",
            session,
            endpoint_url=self.server.url,
            boto3_session=self.session,
            history_size=self.their_longest,
        )

    def fill_theirs(self, session: str, texts: list[str]) -> None:
        self.their_table.put_item(Item={"SessionId": session, "History": [json.loads(text) for text in texts]})

    def ours_of_theirs(self, session: str) -> Any:  # noqa: ARG002  # its table has another key
        return None

    @staticmethod
    def statements(client: Any, session: str, texts: Sequence[str]) -> Generator[Any, Any]:
        """Append to a session that has a head; the answers of the client are sent in."""
        key = {"SessionId": {"S": session}, "Item": {"S": "head"}}
        found = yield client.get_item(TableName="ours", Key=key, ConsistentRead=True)
        old = found["Item"]["Message"]
        head = json.loads(old["S"])
        number, head["change"] = head["number"], head["change"] + 1
        head["number"] = head["count"] = number + len(texts)
        swap = {
            "ConditionExpression": "Message = :old",
            "ExpressionAttributeValues": {":old": old},
            "Item": {**key, "Message": {"S": json.dumps(head)}},
        }
        items = [
            {"SessionId": key["SessionId"], "Item": {"S": f"r{head['epoch']}.{at:016}"}, "Message": {"S": text}}
            for at, text in enumerate(texts, number)
        ]
        puts = [swap, *({"Item": item} for item in items)]
        yield client.transact_write_items(TransactItems=[{"Put": {"TableName": "ours", **put}} for put in puts])

    def append(self, session: str, texts: Sequence[str]) -> None:
        statements = self.statements(self.client, session, texts)
        statements.send(next(statements))

    async def aappend(self, session: str, texts: Sequence[str]) -> None:
        statements = self.statements(self.aclient, session, texts)
        await statements.send(await next(statements))

    def tail(self, session: str, count: int) -> Sequence[Any]:
        head, query = self.reading(session)
        epoch = json.loads(self.client.get_item(**head)["Item"]["Message"]["S"])["epoch"]
        found = self.client.query(**query(epoch), ScanIndexForward=False, Limit=count)
        return [item["Message"]["S"] for item in found["Items"]][::-1]

    @staticmethod
    def reading(session: str) -> tuple[dict[str, Any], Callable[[str], dict[str, Any]]]:
        """The requests for the head of a session, and for what its epoch has."""
        key = {"SessionId": {"S": session}, "Item": {"S": "head"}}

        def query(epoch: str) -> dict[str, Any]:
            limits = {":start": {"S": f"r{epoch}."}, ":stop": {"S": f"r{epoch}.~"}}
            return {
                "TableName": "ours",
                "KeyConditionExpression": "SessionId = :session AND #item BETWEEN :start AND :stop",
                "ExpressionAttributeNames": {"#item": "Item"},  # a word of its own in expressions
                "ExpressionAttributeValues": {":session": key["SessionId"], **limits},
                "ConsistentRead": True,
            }

        return {"TableName": "ours", "Key": key, "ConsistentRead": True}, query


class _TheirKafkaChatMessageHistory(community.KafkaChatMessageHistory):
    """LangChain's, told how many messages there are: it does not see the end of a topic, and waits out its time."""

    stored = 0

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]  # as LangChain's
        return self.messages_from_beginning(self.stored, None)


class Kafka(Contender):
    name = "Kafka"
    batch = 20  # a reader of the end of a history reads the whole of its last batch
    burst = 20  # each history of LangChain's has two clients of the driver, with threads of their own
    note = (
        "LangChain's class for Kafka joins a consumer group for each read. This broker lets it in at once "
        "(`group.initial.rebalance.delay.ms` is 0); one with Kafka's default, 3 s, adds that to each of its reads. It "
        "does not see the end of a topic either, and would wait for its 5 s to be over, so it is told how many "
        "messages there are; and its topics have one partition, not three, or they would come in another order."
    )

    def serving(self) -> AbstractContextManager[Any]:
        return servers.kafka()

    async def open(self, stack: AsyncExitStack) -> None:
        self.brokers = self.server.url.removeprefix("kafka://")
        self.ours = await stack.enter_async_context(KafkaStore(self.server.url))
        servers_of = {"bootstrap.servers": self.brokers, "log_level": 0}  # it ends after its broker, and would say so
        self.producer = Producer({**servers_of, "enable.idempotence": True, "acks": "all"})
        # As ours: an unanswered request for more would keep the connection busy.
        waits = {"fetch.wait.max.ms": 1, "fetch.queue.backoff.ms": 10}
        self.consumer = Consumer({**servers_of, **waits, "group.id": "floor", "enable.auto.commit": False})
        stack.callback(self.consumer.close)
        self.batches = itertools.count()
        self.stored: dict[str, int] = {}

    def theirs(self, session: str) -> Any:
        history = _TheirKafkaChatMessageHistory(session, self.brokers, partition=1)
        history.stored = self.stored[session]
        return history

    def fill_theirs(self, session: str, texts: list[str]) -> None:
        self.stored[session] = len(texts)
        producer = self.theirs(session).producer
        for text in texts:
            producer.produce(session, text)
        producer.flush()

    def append(self, session: str, texts: Sequence[str]) -> None:
        batch, failed = f"{next(self.batches):016x}", []
        for index, text in enumerate(texts):
            headers = [("lh", f"{batch} {index} {len(texts)}")]
            self.producer.produce(
                session, text, session, 0, lambda error, _: failed.append(error) if error else None, headers=headers
            )
        self.producer.flush()
        if failed:
            raise KafkaException(failed[0])

    def tail(self, session: str, count: int) -> Sequence[Any]:
        partition = TopicPartition(session, 0)
        _, high = self.consumer.get_watermark_offsets(partition)
        self.consumer.assign([TopicPartition(session, 0, high - count)])
        found = self.consumer.consume(count, timeout=10)
        self.consumer.unassign()
        return [message.value() for message in found]


CONTENDERS = {
    "redis": Redis,
    "sqlite": SQLite,
    "postgres": PostgreSQL,
    "file": File,
    "mongodb": MongoDB,
    "dynamodb": DynamoDB,
    "kafka": Kafka,
}
