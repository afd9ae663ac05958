"""`RedisChatMessageHistory`: LangChain's class of this name, over `RedisStore`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_histories.stores.redis.store import RedisStore
from langchain_histories.stores.shared.redis_lists import RedisListHistory

if TYPE_CHECKING:
    from langchain_histories.stores.base import SessionId

_DEFAULT_URL = "redis://localhost:6379/0"


class RedisChatMessageHistory(RedisListHistory):
    """A history in Redis with the constructor of LangChain's class of this name; reads and writes the same lists.

    All histories of one URL in a process share one client, so a program may make one for each turn.

    Args:
        session_id: The session.
        url: As for `RedisStore`.
        key_prefix: What the key of each list starts with.
        ttl: Seconds after the last addition at which the session expires; `None` or 0 for never.
        redis_client: Your own blocking client, in place of `url`.
        async_redis_client: Your own asyncio client.
    """

    store: RedisStore

    def __init__(
        self,
        session_id: SessionId,
        url: str = _DEFAULT_URL,
        key_prefix: str = "message_store:",
        ttl: int | None = None,
        *,
        redis_client: Any = None,
        async_redis_client: Any = None,
    ) -> None:
        """Join the place that the URL names."""
        given = redis_client is not None or async_redis_client is not None
        store = RedisStore(
            None if given and url == _DEFAULT_URL else url,
            key_prefix=key_prefix,
            client=redis_client,
            async_client=async_redis_client,
            ttl=ttl or None,
        )
        super().__init__(store, session_id)
        self.key_prefix = key_prefix
        self.ttl = ttl
