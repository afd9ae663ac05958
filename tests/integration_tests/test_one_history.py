"""One session in Redis by every front door in turn, and by two processes."""

from __future__ import annotations

import uuid

import pytest

pytest.importorskip("langchain.agents")

from doors import DOORS, check_one_history, check_two_processes

from langchain_histories import HistoryRegistry


@pytest.fixture
def table(redis_server):
    return {"url": redis_server.url, "key_prefix": f"{uuid.uuid4().hex}:"}


@pytest.mark.parametrize("faces", [("sync",), ("async",), ("sync", "async", "async")], ids="-".join)
@pytest.mark.parametrize("order", [DOORS, DOORS[::-1]], ids="-".join)
async def test_one_history(table, order, faces):
    async with HistoryRegistry.from_config({"histories": {"chats": table}}) as registry:
        await check_one_history(registry, order, faces)
        registry.store().clear("42")


def test_two_processes_in_turn(table):
    check_two_processes({"redis": table})
