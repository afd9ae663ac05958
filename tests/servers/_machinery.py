"""What every server needs: processes, ports, directories, and an object that stands for one."""

from __future__ import annotations

import atexit
import contextlib
import importlib.metadata
import importlib.util
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
from urllib.parse import quote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HOST = "127.0.0.1"
DATABASE = "histories"
USER = "histories"
PASSWORD = "histories-password"
READONLY_USER = "readonly"
READONLY_PASSWORD = "readonly-password"
ADMIN_PASSWORD = "admin-password"
ODD_USER = "odd"
ODD_PASSWORD = "odd/p?a#s@s:w%o+r'd&=Secret7"
"""With characters that are odd in a URL, for the servers whose users are made when they start."""
# Seconds that the kit's stores wait for an answer: a busy machine is slow, not broken.
BUSY = 60.0
WRONG_PASSWORD = "a/b?c#d@e:f%g+h i'wrong-Secret7"
"""One that no server takes, with all characters that are odd in a URL."""

START_TIMEOUT = 60.0
"""Seconds to wait for a server to answer. Generous: a busy machine is slow, not broken."""

STOP_TIMEOUT = 20.0
"""Seconds to wait for a server to stop when asked, before it is killed."""

MEMORY_NEEDED = 4 << 30
"""Bytes that must be free for files to be kept in memory."""

CACHE = Path(__file__).resolve().parents[2] / ".cache"
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


watchdog = _Watchdog()
_running: set[Process] = set()
_owner = os.getpid()


@atexit.register
def _stop_everything() -> None:
    """End what no context manager ended. A forked child leaves its parent's servers alone."""
    if os.getpid() == _owner:
        for process in list(_running):
            process.kill()
        watchdog.close()


class Process:
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
                **as_user(self._user),
            )
        _running.add(self)
        watchdog.tell("started", self._popen.pid)
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
            if listening(self._port) and self._ready():
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
                listening(self._port)
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
            watchdog.tell("ended", self._popen.pid)
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


def as_user(name: str | None) -> dict[str, Any]:
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


def run_program(
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
        **as_user(user),
    ) as popen:
        watchdog.tell("started", popen.pid)
        try:
            printed, _ = popen.communicate(feed.encode())
        except BaseException:
            os.killpg(popen.pid, signal.SIGKILL)
            raise
        finally:
            watchdog.tell("ended", popen.pid)
    output: str = printed.decode(errors="replace")
    if popen.returncode:
        raise RuntimeError(f"{command[0]} ended with status {popen.returncode}:\n{output[-3000:]}")
    return output


# --- Ports, directories, programs -------------------------------------------------------------


_reservations: list[socket.socket] = []


def free_port() -> int:
    """Return a port nobody listens on, and nobody else is given while this process lives.

    It is below the range the kernel takes the ports of outgoing connections from: no client can
    happen to take it while its server is restarted. Other processes of tests see that it is taken
    by its number among the UDP ports, which this process holds.
    """
    while True:
        port = random.randint(15_000, 30_000)
        reservation = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            reservation.bind((HOST, port))
            with socket.socket() as candidate:
                candidate.bind((HOST, port))
        except OSError:
            reservation.close()
        else:
            _reservations.append(reservation)
            return port


def listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def memory_folder() -> Path | None:
    """Where files are in memory, if there is such a place with room for all that the tests store."""
    folder = Path("/dev/shm")
    with contextlib.suppress(OSError):
        if os.access(folder, os.W_OK | os.X_OK) and shutil.disk_usage(folder).free >= MEMORY_NEEDED:
            return folder
    return None


@contextlib.contextmanager
def temporary_directory(user: str | None = None, *, on_disk: bool = False) -> Iterator[Path]:
    """A directory for one server's files, owned by `user`, removed at the end.

    It is in memory, if it can be. Files in memory outlive a killed server as well as those on a disk.
    """
    folder = None if on_disk else memory_folder()
    path = (folder or Path(tempfile.gettempdir())).resolve() / f"langchain-histories-{secrets.token_hex(4)}"
    watchdog.tell("made", path)
    try:
        path.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(path, user)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        watchdog.tell("removed", path)


def system_program(name: str) -> Path | None:
    """Find a program on the system. Server programs may be where only root's PATH looks."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    found = shutil.which(name, path=path)
    return None if found is None else Path(found)


def package_directory(name: str) -> Path | None:
    """Find the directory of an installed Python package without importing it."""
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def program_version(program: Path) -> str:
    """Ask a program for its version number."""
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    match = re.search(r"\d+(\.\d+)+", output.stdout)
    return match.group() if match else output.stdout.strip()


# --- Server -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Server:
    """A running server.

    Attributes:
        name: What it stands for: `redis`, `postgres`, `mariadb`, `mongodb` or `upstash`.
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
    _process: Process | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.version} at {self.host}:{self.port}"

    @property
    def host(self) -> str:
        """The address it listens on."""
        return urlsplit(self.url).hostname or HOST

    @property
    def port(self) -> int:
        """The port it listens on."""
        default = {"redis": 6379, "postgres": 5432, "mariadb": 3306, "mongodb": 27017, "kafka": 9092, "upstash": 443}
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
    def _managed_process(self) -> Process:
        if self._process is None:
            raise RuntimeError(f"{self} was not started by the tests: they must not touch it")
        return self._process


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Run a server while the context lasts."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def given(name: str, describe: Callable[[str], str], *, variable: str | None = None) -> Server | None:
    """Return the server whose URL the environment gives, if it gives one."""
    variable = f"LANGCHAIN_HISTORIES_TEST_{variable or name.upper()}_URL"
    url = os.environ.get(variable)
    if not url:
        return None
    try:
        return Server(name=name, version=describe(url), url=url)
    except Exception as error:  # the drivers have no common one
        raise RuntimeError(f"{variable} is set, but that server does not answer: {error}") from error
