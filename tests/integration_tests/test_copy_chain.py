"""Conversations go from store to store, in processes that are killed, and are the same at the end.

`benchmarks/copy_chain.py` does it with 2,000 sessions.
"""

from __future__ import annotations

import itertools
import random
import signal
import uuid

import chain
import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_postgres import PostgresChatMessageHistory

from langchain_histories import MemoryStore, RedisStore, SQLStore, copy, digest
from langchain_histories.testing.messages import numbered
from langchain_histories.testing.suite.foreign import plant

OLD = '{"type": "human", "data": {"content": "old", "type": "human", "example": false}}'


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the platform has no SIGKILL")
def test_a_chain_of_copies_that_are_killed(tmp_path, redis_server, mongodb_server, postgres_server):
    name, chance = f"t{uuid.uuid4().hex}", random.Random(14)
    first, last = (f"sqlite:///{tmp_path}/first.db", {}), (f"sqlite:///{tmp_path}/last.db", {})
    places = [
        first,
        (redis_server.url, {"key_prefix": f"{name}:"}),
        (mongodb_server.url, {"database_name": "histories", "collection_name": name}),
        (postgres_server.url_with(scheme="postgresql+psycopg"), {"table_name": name, "jsonb": True}),
        (f"file:{tmp_path}/files", {}),
        last,
    ]
    with chain.opened(first) as store:
        total = chain.fill(store, 30, 8, 520, chance)
    said = chain.digest_of(first)
    for source, target in itertools.pairwise(places):
        report = chain.copy_with_kills(source, target, 1, 0.5, chance)
        assert report.records + report.found == total
        assert report.unreadable == report.states_left == ()
        assert chain.digest_of(target) == said
    assert list(chain.told_of(last)) == list(chain.told_of(first))


def test_sessions_that_go_together(tmp_path, redis_server):
    """To where nothing is, to where a part is, and to where all is; states and LangChain's records too."""
    stores = [
        MemoryStore(),
        RedisStore(redis_server.url, key_prefix=f"t{uuid.uuid4().hex}:"),
        SQLStore(f"sqlite:///{tmp_path}/x.db"),
        MemoryStore(),
    ]
    for number in range(1, 30):
        stores[0].append(f"s{number:02}", numbered(number))
    stores[0].put_state("s05", {"n": 5})
    plant(stores[0], "s06", [OLD, OLD])
    for source, target in itertools.pairwise(stores):
        first = copy(source, target, sessions=["s07", "s08"])
        source.append("s08", [HumanMessage("later")])
        target.append("s09", [HumanMessage("own")])
        report = copy(source, target)
        total = sum(info.count for info in source.sessions())
        assert (report.sessions, report.found, report.records) == (29, first.records, total - first.records)
        assert copy(source, target).found == total
        others = [info.session_id for info in source.sessions() if info.session_id != "s09"]
        assert digest(target, sessions=others) == digest(source, sessions=others)
        assert target.count("s09") == source.count("s09") + 1


def test_the_table_of_langchain_postgres_is_read_in_place(postgres_server):
    """Its session ids are UUIDs, and its messages JSONB."""
    name, session_id = f"t{uuid.uuid4().hex}", str(uuid.uuid4())
    with psycopg.connect(postgres_server.url) as connection:
        PostgresChatMessageHistory.create_tables(connection, name)
        theirs = PostgresChatMessageHistory(name, session_id, sync_connection=connection)
        theirs.add_messages([*numbered(2), AIMessage("é", tool_calls=[{"name": "f", "args": {}, "id": "1"}])])
        said = theirs.messages
    source, target = SQLStore(postgres_server.url, table_name=name), MemoryStore()
    for added in (3, 0):
        assert copy(source, target).records == added
    assert [(info.session_id, info.count) for info in target.sessions()] == [(session_id, 3)]
    assert target.read(session_id) == said
