"""Where a Kafka cluster is, and the clients of it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from confluent_kafka import KafkaException

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import Clients
from langchain_histories.stores.kafka.client import KafkaClient
from langchain_histories.stores.kafka.topics import is_legal

_SERVER = r"(\[[^\]]+\]|[^\[\]:,/]+)(:\d+)?"


def clients_at(config: dict[str, Any], timeout: float) -> Clients[KafkaClient]:
    """Return the clients for options of librdkafka. There is no async one."""

    async def connect(native: bool) -> KafkaClient:  # noqa: ARG001
        try:
            return KafkaClient(config, timeout)
        except KafkaException as error:
            servers = config["bootstrap.servers"]
            raise ConfigurationError(f"Kafka's driver refuses the options for {servers}; see the cause.") from error

    async def close(client: KafkaClient) -> None:
        client.close()

    return Clients.shared("kafka", config, timeout, connect=connect, close=close, native=False)


def topic_and_config(url: str) -> tuple[str | None, dict[str, Any]]:
    """Return the topic of a URL, `None` if it has none, and the options for librdkafka.

    Raises:
        ConfigurationError: The URL cannot be used.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError("A Kafka URL has an IPv6 address in brackets: kafka://[::1]:9092.") from None
    login, _, servers = parts.netloc.rpartition("@")
    topic = unquote(parts.path.strip("/")) or None
    more = parse_qsl(parts.query, keep_blank_values=True)
    # The message does not repeat the wrong part, because that may belong to a password.
    if (
        parts.scheme != "kafka"
        or not re.fullmatch(rf"{_SERVER}(,{_SERVER})*", servers)
        or parts.fragment
        or not (topic is None or is_legal(topic))
        or not all(re.fullmatch(r"[a-z0-9._]+", name) for name, _ in more)
    ):
        raise ConfigurationError(
            "A Kafka URL is kafka://[user:password@]host[:9092][,host...][/topic][?option=value], with '/', '?', '#' "
            "and '@' in the password percent-escaped."
        )
    config: dict[str, Any] = {"bootstrap.servers": servers}
    if login:
        user, _, password = login.partition(":")
        config |= {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.username": unquote(user),
            "sasl.password": unquote(password),
        }
    return topic, config | dict(more)
