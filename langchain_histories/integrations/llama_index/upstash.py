"""`UpstashChatStore`, with LlamaIndex's constructor. The lists are this package's: `message_store:<key>`."""

from __future__ import annotations

from langchain_histories.errors import ConfigurationError
from langchain_histories.integrations.llama_index.chat_store import LlamaIndexChatStore
from langchain_histories.stores.upstash import UpstashStore


class UpstashChatStore(LlamaIndexChatStore):
    """A chat store in Upstash's Redis, over HTTP.

    LlamaIndex's own lists are elsewhere, and stay: `import_llama_index` brings their messages here.

    Args:
        redis_url: The REST URL, as the console shows it.
        redis_token: Its token.
        ttl: Seconds after its last addition at which a session expires, as a whole.
    """

    def __init__(self, redis_url: str = "", redis_token: str = "", ttl: int | None = None) -> None:
        """Keep where to connect to."""
        if not redis_url or not redis_token:
            raise ConfigurationError("redis_url and redis_token are needed, as Upstash's console shows them.")
        super().__init__(UpstashStore(redis_url, token=redis_token, ttl=ttl or None))
