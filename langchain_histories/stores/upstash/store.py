"""`UpstashStore`: histories in Upstash, in the lists that LangChain's `UpstashRedisChatMessageHistory` keeps.

`RedisStore` keeps the same lists, so programs may use one database over both protocols at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_histories.stores.base import MessageStore, StoreOptions, check_timeout, needs_extra

if TYPE_CHECKING:
    from typing import Unpack

    import upstash_redis
    import upstash_redis.asyncio


class UpstashStore(MessageStore):
    """Keeps histories in Upstash's Redis, over HTTPS.

    A request, and its answer, has 10 MB at most on Upstash's plans "free" and "pay as you go": the store refuses a
    larger batch whole, and reads a larger session in parts.

    Args:
        url: `upstash://:<token>@<host>` or `upstash://<host>?token=<token>`, or the address as Upstash shows it,
            `https://<host>`. `upstash://`, like no URL, stands for the environment's `UPSTASH_REDIS_REST_URL`. For a
            server of your own without TLS `upstash+http://`.
        token: The token, where the URL has none; without it the environment's `UPSTASH_REDIS_REST_TOKEN`.
        client: Your own `upstash_redis.Redis`, in place of `url`. It is never closed here.
        async_client: Your own `upstash_redis.asyncio.Redis`. With one of the two alone, the other side is not derived:
            async methods run a blocking client in threads, sync methods refuse an asyncio one.
        key_prefix: What the key of each list starts with.
        index: Whether each append also keeps an index of the newest sessions, the sorted sets `{<key_prefix>}:sessions`
            and `{<key_prefix>}:sessions:names`, in the same trip: `sessions(order="newest")` reads it.
        timeout: Seconds after which a call that gets no answer, or no free connection, raises `StoreUnavailableError`;
            10 by default, and to connect 5 at most. What may take as long as what is stored is large ends when nothing
            has arrived for so long. With an asyncio client of your own there is no default, and with a blocking one no
            `timeout`.
        max_connections: How many connections the pool of the sync methods has, and that of each event loop. Who finds
            none free waits, in order. Only with `url`.
        client_options: More options for `upstash_redis.Redis`, such as `{"allow_telemetry": False}`; only with `url`.
        **options: See `StoreOptions`. `ttl` is supported.

    Raises:
        ConfigurationError: An argument cannot be used.
        MissingExtraError: upstash-redis is not installed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        client: upstash_redis.Redis | None = None,
        async_client: upstash_redis.asyncio.Redis | None = None,
        key_prefix: str = "message_store:",
        index: bool = True,
        timeout: float | None = None,
        max_connections: int | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        with needs_extra("upstash"):
            from langchain_histories.stores.upstash.connections import clients_of
            from langchain_histories.stores.upstash.operations import UpstashOperations
        address, token, clients, timeout = clients_of(
            url,
            token,
            client=client,
            async_client=async_client,
            timeout=check_timeout(timeout),
            client_options=client_options,
            max_connections=max_connections,
        )
        given = {"token": token, "client_options": client_options}
        super().__init__(
            UpstashOperations(key_prefix, index=index),
            clients,
            address,
            driver_options=given,
            timeout=timeout,
            **options,
        )
