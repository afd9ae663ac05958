"""Where a Kafka cluster is, and the clients of it."""

from __future__ import annotations

import re
from typing import Any

from confluent_kafka import KafkaException

from langchain_histories._secrets import refused
from langchain_histories._urls import bad_url, split_url
from langchain_histories.stores.base import Clients, check_max_connections
from langchain_histories.stores.kafka.client import CONSUMERS, KafkaClient
from langchain_histories.stores.kafka.topics import is_legal

_FORM = "kafka://[user:password@]host[:9092][,host...][/topic][?option=value]"


def clients_at(config: dict[str, Any], timeout: float, max_connections: int | None) -> Clients[KafkaClient]:
    """Return the clients for options of librdkafka. There is no async one."""
    check_max_connections(max_connections)
    consumers = max_connections or CONSUMERS

    async def connect(native: bool) -> KafkaClient:  # noqa: ARG001
        try:
            return KafkaClient(config, timeout, consumers)
        except KafkaException as error:
            failed = refused(
                f"Kafka's driver refuses the options for {config['bootstrap.servers']}.", error, None, config
            )
        raise failed

    async def close(client: KafkaClient) -> None:
        client.close()

    return Clients.shared("kafka", config, timeout, consumers, connect=connect, close=close, native=False)


def topic_and_config(url: str) -> tuple[str | None, dict[str, Any]]:
    """Return the topic of a URL, `None` if it has none, and the options for librdkafka.

    Raises:
        ConfigurationError: The URL cannot be used.
    """
    parts = split_url(url, _FORM)
    topic = parts.path or None
    if (
        parts.scheme != "kafka"
        or not parts.hosts
        or not all(host for host, _ in parts.hosts)
        or not (topic is None or is_legal(topic))
        or not all(re.fullmatch(r"[a-z0-9._]+", name) for name in parts.options)
    ):
        raise bad_url(_FORM)
    config: dict[str, Any] = {"bootstrap.servers": parts.address}
    if parts.user or parts.password:
        config |= {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.username": parts.user,
            "sasl.password": parts.password or "",
        }
    return topic, config | parts.options
