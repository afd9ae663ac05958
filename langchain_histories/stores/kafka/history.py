"""`KafkaChatMessageHistory`: LangChain's class of this name, over `KafkaStore`. Its readers consume."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any

from langchain_histories._options import check_number
from langchain_histories.errors import ConfigurationError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.stores.kafka.store import KafkaStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient
    from langchain_core.messages import BaseMessage

    from langchain_histories.codec import Metas
    from langchain_histories.stores.base import Row, SessionId
    from langchain_histories.stores.kafka.positions import Start

_FLUSH_TIMEOUT = 5.0


class KafkaChatMessageHistory(StoredChatMessageHistory):
    """A history in a topic of its own with the constructor and the readers of LangChain's class of this name.

    As there, `messages` and the three methods beside it are a consumer's: they go on from the last message that any
    history of this session consumed, wherever it runs, and return 5 messages by default. They return at the end of the
    topic, and do not wait until the time is over. For chains and agents, which need the whole conversation each time,
    use `open_history("kafka://...", session_id)`, or `get_messages` here.

    All histories of the same servers and options in a process share their clients. The first addition makes the topic.

    Args:
        session_id: The session; the name of its topic, and of the consumer group.
        bootstrap_servers: `host:port`, several of them separated by commas.
        ttl_ms: Milliseconds after which Kafka removes a message, if this history makes the topic; -1 for never.
        replication_factor: That of the topic, if this history makes it.
        partition: Number of its partitions, if this history makes it. Additions go to one of them.
        client_options: Options for librdkafka, such as `{"security.protocol": "SSL"}`.
    """

    store: KafkaStore

    def __init__(
        self,
        session_id: SessionId,
        bootstrap_servers: str,
        ttl_ms: int = 604_800_000,
        replication_factor: int = 1,
        partition: int = 3,
        *,
        client_options: dict[str, Any] | None = None,
    ) -> None:
        """Join the place that the servers name."""
        if not isinstance(bootstrap_servers, str) or not re.fullmatch(r"[^/?#\s]+", bootstrap_servers):
            raise ConfigurationError("bootstrap_servers is host:port[,host:port...], without a topic.")
        self.bootstrap_servers = bootstrap_servers
        self._options: dict[str, Any] = {
            "retention_ms": ttl_ms,
            "replication_factor": replication_factor,
            "partitions": partition,
            "client_options": client_options,
        }
        super().__init__(self._store_with(_FLUSH_TIMEOUT), session_id)

    def _store_with(self, timeout: float) -> KafkaStore:
        return KafkaStore(f"kafka://{self.bootstrap_servers}", timeout=timeout, **self._options)

    @property
    def producer(self) -> Producer:
        """The producer; it is opened when it has not been used yet."""
        producer: Producer = self.store.client.producer
        return producer

    @property
    def admin_client(self) -> AdminClient:
        """The admin client; it is opened when it has not been used yet."""
        admin: AdminClient = self.store.client.admin
        return admin

    @property
    def num_partitions(self) -> int:
        """Number of partitions that the topic has in the cluster, or that it will have."""
        return self.store.count_partitions(self.session_id)

    def add_messages(
        self,
        messages: Sequence[BaseMessage],
        flush_timeout_seconds: float = _FLUSH_TIMEOUT,
        *,
        meta: Metas = None,
    ) -> None:
        """Add messages: all or nothing, and contiguous.

        Args:
            messages: What to add.
            flush_timeout_seconds: How long to wait until the brokers have them.
            meta: What the application knows of them: one dict for all, or a list with one for each.

        Raises:
            StoreUnavailableError: The brokers did not confirm them in that time.
        """
        self._store_with(flush_timeout_seconds).append(self.session_id, messages, meta=meta)

    def messages_from_last_consumed(
        self, max_message_count: int | None = 5, max_time_sec: float | None = 5.0
    ) -> list[BaseMessage]:
        """Go on from the last consumed message.

        Args:
            max_message_count: At most so many; `None` for all.
            max_time_sec: Not needed: nobody waits at the end of the topic.
        """
        return self._consume("consumed", max_message_count, max_time_sec)

    def messages_from_beginning(
        self, max_message_count: int | None = 5, max_time_sec: float | None = 5.0
    ) -> list[BaseMessage]:
        """Begin with the first message; `messages` goes on behind the last one returned.

        Args:
            max_message_count: At most so many; `None` for all.
            max_time_sec: Not needed: nobody waits at the end of the topic.
        """
        return self._consume("beginning", max_message_count, max_time_sec)

    def messages_from_latest(
        self, max_message_count: int | None = 5, max_time_sec: float | None = 5.0
    ) -> list[BaseMessage]:
        """Wait for messages that are added from now on.

        Args:
            max_message_count: At most so many; `None` for all that come in the time.
            max_time_sec: How long to wait for them; `None` for as long as it takes. When both are `None` nobody waits.
        """
        return self._consume("latest", max_message_count, max_time_sec)

    def _consume(self, start: Start, count: int | None, seconds: float | None) -> list[BaseMessage]:
        check_number("max_message_count", count)
        operations = self.store.operations
        key = operations.key(self.session_id)
        until = None if seconds is None else time.monotonic() + seconds
        if seconds is None and count is None:
            # Nothing would end the wait, so there is none.
            until = 0.0

        def decode(rows: Sequence[Row]) -> list[BaseMessage]:
            return self.store.format.decode_messages(rows, self.session_id)

        return self.store.run(
            "read",
            lambda client: operations.consume(client, key, start, count=count, until=until, decode=decode),
            session_id=self.session_id,
        )

    def _visible(self) -> list[BaseMessage]:
        return self.messages_from_last_consumed()

    async def aget_messages(self, *, last: int | None = None, after: str | None = None) -> list[BaseMessage]:
        """`messages`; with `last` or `after` what `get_messages` returns."""
        if last is not None or after is not None:
            return await super().aget_messages(last=last, after=after)
        return await asyncio.to_thread(self._visible)

    def close(self) -> None:
        """Nothing, as in LangChain's class: all histories share the clients. `store.close()` lets them go."""
