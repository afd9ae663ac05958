"""Histories in Upstash, over its REST interface.

| room | what lives there |
|---|---|
| `store.py` | `UpstashStore`: arguments and their documentation |
| `history.py` | `UpstashRedisChatMessageHistory`: LangChain's interface |
| `connections.py` | URLs and tokens, and the clients of upstash-redis |
| `operations.py` | what the store can do over requests; the commands are in `shared/redis_lists.py` |
"""

from langchain_histories.stores.upstash.history import UpstashRedisChatMessageHistory
from langchain_histories.stores.upstash.store import UpstashStore

__all__ = ["UpstashRedisChatMessageHistory", "UpstashStore"]
