"""Kafka."""

from __future__ import annotations

import contextlib
import uuid
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from servers._machinery import (
    CACHE,
    HOST,
    ODD_PASSWORD,
    ODD_USER,
    Process,
    Server,
    ServerUnavailable,
    free_port,
    given,
    run_program,
    serving,
    system_program,
    temporary_directory,
)
from servers._proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

_JAVA = [
    *("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:-UsePerfData"),
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
]


@dataclass(eq=False)
class KafkaServer(Server):
    """A running broker.

    Attributes:
        login_url: How to connect with SASL PLAIN, to another port of the same broker, if it has one.
        proxied: A port of the same broker, and the one that it tells clients to connect to instead, if it has such.
    """

    login_url: str | None = None
    proxied: tuple[int, int] | None = None

    def proxy(self) -> Proxy:
        """Return a proxy past which no client comes."""
        if self.proxied is None:
            raise RuntimeError(f"{self} tells its clients another address than that of a proxy")
        port, at = self.proxied
        return Proxy(port, at=at)


@contextlib.contextmanager
def kafka() -> Iterator[Server]:
    """Run Apache Kafka: one node that is broker and controller.

    Yields:
        The server.

    Raises:
        ServerUnavailable: If Java or the broker is not installed.
    """
    if own := given("kafka", _describe_kafka):
        yield own
        return
    java = system_program("java")
    jars = sorted((CACHE / "kafka").glob("kafka_*.jar"))
    if java is None or not jars:
        raise ServerUnavailable("no Java or no Apache Kafka: run tests/install_servers.sh")
    with temporary_directory() as directory, serving(_kafka_server(java, jars[0], directory)) as server:
        yield server


def _kafka_server(java: Path, jar: Path, directory: Path) -> KafkaServer:
    """Make a formatted log directory and describe the broker for it."""
    port, login_port, controller, proxied, proxy = (free_port() for _ in range(5))
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAIN://{HOST}:{port},LOGIN://{HOST}:{login_port},PROXIED://{HOST}:{proxied},"
        f"CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"PLAIN://{HOST}:{port},LOGIN://{HOST}:{login_port},PROXIED://{HOST}:{proxy}",
        "listener.security.protocol.map": "PLAIN:PLAINTEXT,LOGIN:SASL_PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAIN",
        "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.login.plain.sasl.jaas.config": f'{login} required user_{ODD_USER}="{ODD_PASSWORD}";',
        "log.dirs": directory / "data",
        "group.initial.rebalance.delay.ms": 0,
        # A killed broker that starts again is let in when its last session is over.
        "broker.session.timeout.ms": 1000,
        "broker.heartbeat.interval.ms": 200,
        "offsets.topic.num.partitions": 1,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        # Each partition maps its index files whole, and the tests make thousands of topics.
        "log.index.size.max.bytes": 65536,
    }
    config = directory / "server.properties"
    config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    command = [java, *_JAVA, "-cp", f"{jar.parent}/*"]
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    run_program([*command, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", config], directory=directory)
    url = f"kafka://{HOST}:{port}"
    return KafkaServer(
        name="kafka",
        version=f"Apache Kafka {jar.stem.rpartition('-')[2]}",
        url=url,
        proxied=(proxied, proxy),
        login_url=f"kafka://{ODD_USER}:{quote(ODD_PASSWORD, safe='')}@{HOST}:{login_port}",
        _process=Process(
            [*command, "kafka.Kafka", config],
            directory=directory,
            port=port,
            ready=lambda: bool(_describe_kafka(url)),
        ),
    )


def _describe_kafka(url: str) -> str:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": url.partition("//")[2], "log_level": 0})
    with contextlib.suppress(KafkaException):
        return "Kafka" if admin.list_topics(timeout=1).brokers else ""
    return ""
