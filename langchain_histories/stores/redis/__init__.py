"""Histories in Redis and Valkey.

| room | what lives there |
|---|---|
| `store.py` | `RedisStore`: arguments and their documentation |
| `history.py` | `RedisChatMessageHistory`: LangChain's interface |
| `connections.py` | clients of redis-py: one server, Sentinel, cluster |
| `operations.py` | what the store can do; the commands are in `shared/redis_lists.py` |
"""

from langchain_histories.stores.redis.history import RedisChatMessageHistory
from langchain_histories.stores.redis.store import RedisStore

__all__ = ["RedisChatMessageHistory", "RedisStore"]
