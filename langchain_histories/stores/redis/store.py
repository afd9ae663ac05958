"""`RedisStore`: histories in Redis and Valkey, a list per session, as in LangChain's `RedisChatMessageHistory`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_histories.stores.base import MessageStore, StoreOptions, check_timeout, needs_extra

if TYPE_CHECKING:
    from typing import Unpack

    import redis
    import redis.asyncio


class RedisStore(MessageStore):
    """Keeps histories in Redis, Valkey or what speaks their protocol: one server, Sentinel or Cluster.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, as redis-py reads them, or
            `redis+sentinel://[user:password@]host[:26379][,host...][/service[/db]]` (`rediss+sentinel://`). A cluster
            is recognised by itself.
        client: Your own blocking client, in place of `url`. It is never closed here.
        async_client: Your own asyncio client. With one of the two alone, the other side is not derived: async methods
            run a blocking client in threads, sync methods refuse an asyncio one.
        key_prefix: What the key of each list starts with.
        index: Whether each append also keeps an index of the newest sessions, the sorted sets `{<key_prefix>}:sessions`
            and `{<key_prefix>}:sessions:names`, in the same trip: `sessions(order="newest")` reads
            it. A user of the server who may not write it appends without it, and a cluster has none: give `False`
            there.
        timeout: Seconds after which a call that gets no answer, or no free connection, raises `StoreUnavailableError`;
            10 by default, and to connect 5 at most. An async call has them for all its waits together, a sync one for
            each. What may take as long as what is stored is large ends when nothing has arrived for so long. With an
            asyncio client of your own there is no default, and with a blocking one no `timeout`.
        max_connections: How many connections the pool of the sync methods has, and that of each event loop. Who finds
            none free waits, in order. Only with `url`.
        client_options: More options for redis-py, such as `{"socket_timeout": 5}`; only with `url`.
        **options: See `StoreOptions`. `ttl` is supported.

    Raises:
        ConfigurationError: An argument cannot be used.
        MissingExtraError: redis-py is not installed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: redis.Redis | redis.RedisCluster | None = None,
        async_client: redis.asyncio.Redis | redis.asyncio.RedisCluster | None = None,
        key_prefix: str = "message_store:",
        index: bool = True,
        timeout: float | None = None,
        max_connections: int | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        with needs_extra("redis"):
            from langchain_histories.stores.redis.connections import clients_of
            from langchain_histories.stores.redis.operations import RedisOperations
        clients, timeout = clients_of(
            url,
            client,
            async_client,
            client_options,
            max_connections=max_connections,
            timeout=check_timeout(timeout),
        )
        super().__init__(
            RedisOperations(key_prefix, index=index),
            clients,
            url,
            driver_options=client_options,
            timeout=timeout,
            **options,
        )
