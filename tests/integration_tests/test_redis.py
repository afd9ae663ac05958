"""The Redis store on a real server."""

from __future__ import annotations

import functools
import json
import uuid

import pytest
import redis
import redis.asyncio
from langchain_core.messages import AIMessage, HumanMessage

from langchain_histories import Capability, RedisChatMessageHistory, RedisStore
from langchain_histories.testing import MessageStoreTests, golden_messages


class TestRedisStore(MessageStoreTests):
    capabilities = ~Capability(0)

    @pytest.fixture
    def open_store(self, redis_server):
        return functools.partial(RedisStore, redis_server.url, key_prefix=f"{uuid.uuid4().hex}:")

    @pytest.fixture
    def unreachable_store(self):
        return RedisStore("redis://127.0.0.1:1/0")

    @pytest.fixture
    def server(self, redis_server):
        return redis_server

    def traces(self, store):
        return sorted(key.decode() for key in store.client.scan_iter(f"*{store.key_prefix}*"))
