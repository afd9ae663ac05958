"""Conversations go from store to store, in processes that are killed, and are the same at the end.

`benchmarks/copy_chain.py` does it with 2,000 sessions.
"""

from __future__ import annotations

import itertools
import random
import signal
import uuid

import chain
import pytest


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
