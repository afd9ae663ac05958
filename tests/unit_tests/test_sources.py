"""What other programs keep in shapes of their own, and how it comes into a store.

The tables of OpenAI's Agents SDK are made by the statements of its release 0.24, as its two classes send them. No server
of the tests has RedisJSON, so a fake of Redis keeps each document as the text that `JSON.GET` gives.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import json
import sqlite3

import fakeredis
import pytest

from langchain_histories import (
    ConfigurationError,
    CorruptRecordError,
    MemoryStore,
    RedisStore,
    SQLStore,
    aimport_langchain_redis,
    aimport_openai_agents,
    digest,
    import_langchain_redis,
    import_openai_agents,
)
from langchain_histories.conversations import sources
from langchain_histories.testing.messages import texts

SQLITE_SESSION = """
CREATE TABLE agent_sessions (
    session_id TEXT PRIMARY KEY,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE agent_messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL,
    message_data TEXT NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    FOREIGN KEY (session_id) REFERENCES agent_sessions (session_id) ON DELETE CASCADE
);
CREATE INDEX idx_agent_messages_session_id ON agent_messages (session_id, id);
"""
SQLALCHEMY_SESSION = """
CREATE TABLE agent_sessions (
    session_id VARCHAR NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL,
    PRIMARY KEY (session_id)
);
CREATE TABLE agent_messages (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    session_id VARCHAR NOT NULL,
    message_data TEXT NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL,
    FOREIGN KEY(session_id) REFERENCES agent_sessions (session_id) ON DELETE CASCADE
);
CREATE INDEX idx_agent_messages_session_time ON agent_messages (session_id, created_at);
"""


def turn(number):
    """A turn with two calls at once, as the SDK stores it: eight items, five messages."""
    calls = [f"c{number}a", f"c{number}b"]
    return [
        {"role": "user", "content": f"question {number}"},
        {"type": "reasoning", "id": f"rs_{number}", "summary": []},
        *({"type": "function_call", "call_id": call, "name": "f", "arguments": "{}"} for call in calls),
        *({"type": "function_call_output", "call_id": call, "output": f"of {call}"} for call in calls),
        {
            "type": "message",
            "id": f"msg_{number}",
            "role": "assistant",
            "content": [{"type": "output_text", "text": f"answer {number}"}],
        },
    ]


def add(path, session_id, items, table="agent_messages"):
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT OR IGNORE INTO agent_sessions (session_id) VALUES (?)", (session_id,))
        connection.executemany(
            f"INSERT INTO {table} (session_id, message_data, created_at) VALUES (?, ?, '2026-01-02 03:04:05')",
            [(session_id, item if isinstance(item, str) else json.dumps(item)) for item in items],
        )
    connection.close()


@pytest.fixture(params=["sync", "async"])
def face(request):
    """Makes the sync form of an async function, on one loop; and the sync functions as they are."""
    with asyncio.Runner() as runner:
        names = {import_openai_agents: aimport_openai_agents, import_langchain_redis: aimport_langchain_redis}
        yield (
            (lambda function: function)
            if request.param == "sync"
            else (lambda function: lambda *args, **options: runner.run(names[function](*args, **options)))
        )


@pytest.fixture(params=[SQLITE_SESSION, SQLALCHEMY_SESSION], ids=["SQLiteSession", "SQLAlchemySession"])
def agents(request, tmp_path):
    path = tmp_path / "agents.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(request.param)
    connection.close()
    return path


@pytest.mark.parametrize("page", [500, 3])
def test_sessions_of_the_agents_sdk(face, agents, page, monkeypatch):
    """Also over pages whose ends are within a step."""
    monkeypatch.setattr(sources, "PAGE", page)
    add(agents, "a", [*turn(1), *turn(2)])
    add(agents, "b", turn(3))
    before, target, told_of = agents.read_bytes(), MemoryStore(), []
    report = face(import_openai_agents)(agents, target, on_progress=told_of.append)
    assert (report.sessions, report.records, report.unreadable, len(told_of)) == (2, 15, (), 2)
    assert agents.read_bytes() == before
    asked, calling, *answers, said = target.read("b")
    assert [call["id"] for call in calling.tool_calls] == ["c3a", "c3b"] == [a.tool_call_id for a in answers]
    assert texts([asked, *answers, said]) == ["question 3", "of c3a", "of c3b", "answer 3"]
    assert {record.at for record in target.records("b")} == {dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)}

    add(agents, "a", turn(4))
    again = face(import_openai_agents)(f"sqlite:///{agents}", target)
    assert (again.records, again.found) == (5, 15)
    assert [m.text for m in target.read("a") if m.type == "human"] == ["question 1", "question 2", "question 4"]
    other = MemoryStore()
    face(import_openai_agents)(agents, other, sessions=["a", "none"])
    assert digest(other) == digest(target, sessions=["a"])


def test_items_that_are_no_messages(face, agents):
    add(agents, "a", ["not json", {"role": 5}, *turn(1), {"role": "tool"}, "[]"])
    with pytest.raises(CorruptRecordError, match="session 'a'"):
        face(import_openai_agents)(agents, MemoryStore())
    target = MemoryStore()
    report = face(import_openai_agents)(agents, target, on_corrupt="skip")
    assert ([error.position for error in report.unreadable], report.records) == (["1", "2", "10", "11"], 5)


def test_another_table(face, agents, tmp_path):
    with sqlite3.connect(agents) as connection:
        connection.execute("ALTER TABLE agent_messages RENAME TO mine")
    connection.close()
    add(agents, "a", turn(1), table="mine")
    target, place = MemoryStore(), SQLStore(agents)
    for missing in (agents, tmp_path / "none.db"):
        with pytest.raises(ConfigurationError, match="no table 'agent_messages'"):
            face(import_openai_agents)(missing, target)
    assert not (tmp_path / "none.db").exists()
    assert face(import_openai_agents)(place, target, messages_table="mine").records == 5
    with pytest.raises(ConfigurationError, match="not one str"):
        face(import_openai_agents)(place, target, messages_table="mine", sessions="a")


def as_json(execute, *words, **options):
    return execute(*(("GET", *words[1:]) if words[0] == "JSON.GET" else words), **options)


def with_json(client):
    """Have a fake of Redis answer `JSON.GET` with the text of a key, and take its texts for documents."""
    make, scan = client.pipeline, client.scan_iter

    def pipeline(**options):
        made = make(**options)
        made.execute_command = functools.partial(as_json, made.execute_command)
        return made

    client.pipeline = pipeline
    client.scan_iter = lambda _type, **options: scan(_type={"ReJSON-RL": "string"}[_type], **options)
    return client


@pytest.fixture
def documents():
    """A server with the documents that langchain-redis 0.2.6 writes."""
    server = fakeredis.FakeServer()
    client = fakeredis.FakeRedis(server=server)
    numbers = iter(range(100))

    def write(session_id, kind, content, at, prefix="chat:", **data):
        number = f"01KB{next(numbers):022}"
        document = {
            "type": kind,
            "message_id": number,
            "data": {"content": content, "additional_kwargs": {}, "type": kind, **data},
            "session_id": session_id,
            "timestamp": at,
        }
        client.set(f"{prefix}{session_id}:{number}", json.dumps(document))

    return server, client, write


@pytest.fixture
def place(documents):
    server, client, _ = documents
    return RedisStore(
        client=with_json(client), async_client=with_json(fakeredis.FakeAsyncRedis(server=server, decode_responses=True))
    )


@pytest.mark.parametrize("page", [500, 2])
def test_documents_of_langchain_redis(face, documents, place, page, monkeypatch):
    monkeypatch.setattr(sources, "PAGE", page)
    _, client, write = documents
    write("user:1", "ai", "second", 1795293422.339606)
    write("user:1", "human", "first", 1795293422.339605)
    write("user:1", "tool", "third é", 1795293423, tool_call_id="c", status="error")
    write("user", "human", "another", 1)
    write("user:1", "human", "of others", 1, prefix="chats:")
    client.set("chat:no document", "x")
    client.rpush("chat:list:01KB0000000000000000000000", "x")
    keys, target = sorted(client.keys()), MemoryStore()
    report = face(import_langchain_redis)(place, target)
    assert (report.sessions, report.records) == (2, 4)
    assert sorted(client.keys()) == keys
    first, second, third = target.records("user:1")
    assert texts([first.message, second.message, third.message]) == ["first", "second", "third é"]
    assert (third.message.status, third.message.tool_call_id) == ("error", "c")
    assert first.at == dt.datetime.fromtimestamp(1795293422.339605, dt.UTC)
    write("user", "ai", "later", 2)
    again = face(import_langchain_redis)(place, target)
    assert (again.records, again.found) == (1, 4)
    assert texts(target.read("user")) == ["another", "later"]
    assert face(import_langchain_redis)(place, MemoryStore(), key_prefix="chats:").records == 1
    assert face(import_langchain_redis)(place, MemoryStore(), sessions=["user", "none"]).records == 2


def test_documents_that_are_no_messages(face, documents, place):
    _, client, write = documents
    write("a", "human", "x", 1)
    client.set("chat:a:01KB9999999999999999999999", '{"type": "human"}')
    with pytest.raises(CorruptRecordError, match="session 'a'"):
        face(import_langchain_redis)(place, MemoryStore())
    target = MemoryStore()
    assert len(face(import_langchain_redis)(place, target, on_corrupt="skip").unreadable) == 1
    assert texts(target.read("a")) == ["x"]
