"""`UpstashRedisChatMessageHistory`: LangChain's class of this name, over `UpstashStore`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_histories.stores.shared.redis_lists import RedisListHistory
from langchain_histories.stores.upstash.store import UpstashStore

if TYPE_CHECKING:
    from langchain_histories.stores.base import SessionId


class UpstashRedisChatMessageHistory(RedisListHistory):
    """A history in Upstash with the constructor of LangChain's class of this name; reads and writes the same lists.

    All histories of one URL and token in a process share one client, so a program may make one for each turn.

    Args:
        session_id: The session.
        url: The REST address, `https://<host>`, or as for `UpstashStore`; without it, the environment's.
        token: The REST token; without it, the environment's.
        key_prefix: What the key of each list starts with.
        ttl: Seconds after the last addition at which the session expires; `None` or 0 for never.
        redis_client: Your own `upstash_redis.Redis`, in place of `url` and `token`.
        async_redis_client: Your own `upstash_redis.asyncio.Redis`.
    """

    store: UpstashStore

    def __init__(
        self,
        session_id: SessionId,
        url: str = "",
        token: str = "",
        key_prefix: str = "message_store:",
        ttl: int | None = None,
        *,
        redis_client: Any = None,
        async_redis_client: Any = None,
    ) -> None:
        """Join the place that the URL names."""
        store = UpstashStore(
            url,
            token=token,
            client=redis_client,
            async_client=async_redis_client,
            key_prefix=key_prefix,
            ttl=ttl or None,
        )
        super().__init__(store, session_id)
        self.key_prefix = key_prefix
        self.ttl = ttl
