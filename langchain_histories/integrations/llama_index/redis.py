"""`RedisChatStore`, with LlamaIndex's constructor. The lists are this package's: `message_store:<key>`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_histories.integrations.llama_index.chat_store import LlamaIndexChatStore
from langchain_histories.stores.redis import RedisStore

if TYPE_CHECKING:
    import redis


class RedisChatStore(LlamaIndexChatStore):
    """A chat store in Redis, one server, Sentinel or Cluster.

    LlamaIndex's own lists are elsewhere, and stay: `import_llama_index` brings their messages here.

    Args:
        redis_url: Where Redis is, in place of the clients.
        redis_client: Your own blocking client.
        aredis_client: Your own asyncio client. Nothing is derived from one: see `RedisStore`.
        ttl: Seconds after its last addition at which a session expires, as a whole.
        **kwargs: More options for redis-py, such as `username`; with a URL.
    """

    def __init__(
        self,
        redis_url: str = "redis://localhost:6379",
        redis_client: redis.Redis | None = None,
        aredis_client: redis.asyncio.Redis | None = None,
        ttl: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep where to connect to."""
        is_lent = redis_client is not None or aredis_client is not None
        super().__init__(
            RedisStore(
                None if is_lent else redis_url,
                client=redis_client,
                async_client=aredis_client,
                client_options=kwargs or None,
                ttl=ttl or None,
            )
        )
