"""`KafkaStore`: histories in Apache Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import TIMEOUT, MessageStore, StoreOptions, check_timeout, needs_extra

if TYPE_CHECKING:
    from typing import Unpack

    from langchain_histories.stores.base import SessionId
    from langchain_histories.stores.kafka.operations import KafkaOperations


class KafkaStore(MessageStore):
    """Keeps histories in Apache Kafka, or what speaks its protocol.

    Without a topic in the URL each session has a topic of its own, which `clear` deletes. With one, all sessions share
    it: they cost nothing to have, but a read of one reads the whole partition it is in, and what `clear` removes from
    sight stays in the topic as long as Kafka retains it. Do not change the number of partitions of such a topic
    afterwards. Neither kind of topic may be compacted. Records that Kafka's retention removes are gone from the
    histories, oldest first; that is no `ttl`.

    An append returns when all in-sync replicas have the batch. Async methods run the driver in threads.

    Args:
        url: `kafka://[user:password@]host[:9092][,host...][/topic][?option=value...]`. The options are those of
            librdkafka, such as `security.protocol=SASL_SSL`. A user is logged in with SASL PLAIN over TLS unless
            the options say otherwise.
        topic_prefix: What the name of each session's topic starts with. The store takes all other topics with this
            prefix for sessions too, so a cluster that is not for histories alone needs one.
        partitions: Number of partitions of a topic that the store makes. A session is in one of them.
        replication_factor: That of a topic that the store makes; `None` for the default of the cluster.
        retention_ms: Milliseconds after which Kafka removes records from a topic that the store makes; -1 for never.
        timeout: Seconds after which a call that gets no answer, no delivery or no turn raises `StoreUnavailableError`;
            10 by default. What may take as long as what is stored is large ends when nothing has arrived for so long.
        max_connections: How many calls of this process read at once, each over a consumer with a connection to each
            broker; 4 by default. Who finds none free waits. Appends share one producer.
        client_options: More options for librdkafka.
        **options: See `StoreOptions`. There is no `ttl`.

    Raises:
        ConfigurationError: An argument cannot be used.
        MissingExtraError: confluent-kafka is not installed.

    Attributes:
        topic: The topic of all sessions; `None` if each has its own.
    """

    operations: KafkaOperations

    def __init__(
        self,
        url: str,
        *,
        topic_prefix: str = "",
        partitions: int = 1,
        replication_factor: int | None = None,
        retention_ms: int = -1,
        timeout: float | None = None,
        max_connections: int | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        with needs_extra("kafka"):
            from langchain_histories.stores.kafka.connections import clients_at, topic_and_config
            from langchain_histories.stores.kafka.operations import KafkaOperations
            from langchain_histories.stores.kafka.topics import MAX_PREFIX, Topics, is_legal
        self.topic, config = topic_and_config(url)
        if len(topic_prefix) > MAX_PREFIX or not (topic_prefix == "" or is_legal(topic_prefix)):
            raise ConfigurationError(
                f"topic_prefix must have at most {MAX_PREFIX} characters of a-z, A-Z, 0-9, '.', '_', '-', "
                f"not {topic_prefix!r}."
            )
        if self.topic is not None and topic_prefix:
            raise ConfigurationError("Give a topic in the URL or topic_prefix, not both.")
        topics = Topics(self.topic, topic_prefix, partitions, replication_factor, retention_ms)
        config |= client_options or {}
        limit = check_timeout(timeout) or TIMEOUT
        clients = clients_at(config, limit, max_connections)
        super().__init__(KafkaOperations(topics), clients, url, driver_options=config, timeout=limit, **options)

    def count_partitions(self, session_id: SessionId) -> int:
        """The number of partitions that the topic of a session has, or will have."""
        key = self.operations.key(session_id)
        return self.run(
            "count_partitions",
            lambda client: self.operations.count_partitions(client, key),
            session_id=session_id,
        )
