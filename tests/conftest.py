"""What all tests share: the servers, folders in memory, and the order in which workers take the tests.

A server is started once in each process, when a test first asks for it, and named in the report.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import servers as all_servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

# A busy machine is slow, not broken.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

# The tests start hundreds of processes. Each would compile all that it imports again where this is set.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Where pytest makes `tmp_path`.
if folder := all_servers.memory_folder():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))

_running: dict[str, str] = {}


class Servers:
    """Starts each server once; what cannot be had is a skip on a laptop and a failure under CI."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._started: dict[str, Any] = {}

    def get(self, name: str, **options: Any) -> Any:
        key = " ".join([name, *map(str, options.values())]) if options else name
        if key not in self._started:
            start: Callable[..., AbstractContextManager[Any]] = getattr(all_servers, name)
            try:
                self._started[key] = self._stack.enter_context(start(**options))
            except all_servers.ServerUnavailable as reason:
                self._started[key] = reason
            else:
                _running[key] = self._started[key].version
        server = self._started[key]
        if isinstance(server, all_servers.ServerUnavailable):
            say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            say(f"{name} cannot be had here: {server}")
        return server


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a real disk for tests about what a crash or many writers leave there, and in memory for all others."""
    name = request.node.originalname
    if "killed" not in name and name not in ("test_eight_processes", "test_fsync"):
        yield tmp_path
        return
    all_servers.CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=all_servers.CACHE, prefix="test-") as folder:
        yield Path(folder).resolve()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.fixture(scope="session")
def redis_server(servers: Servers) -> Any:
    return servers.get("redis")


@pytest.fixture(scope="session")
def redis_password_server(servers: Servers) -> Any:
    return servers.get("redis", password="right-Secret7")


@pytest.fixture(scope="session")
def redis_tls_server(servers: Servers) -> Any:
    return servers.get("redis", tls=True)


@pytest.fixture(scope="session")
def redis_cluster(servers: Servers) -> Any:
    return servers.get("redis_cluster")


@pytest.fixture(scope="session")
def redis_sentinel(servers: Servers) -> Any:
    return servers.get("redis_sentinel")


@pytest.fixture(scope="session")
def postgres_server(servers: Servers) -> Any:
    return servers.get("postgres")


@pytest.fixture(scope="session")
def pgbouncer_server(servers: Servers, postgres_server: Any) -> Any:
    return servers.get("pgbouncer", before=postgres_server)


@pytest.fixture(scope="session")
def mariadb_server(servers: Servers) -> Any:
    return servers.get("mariadb")


@pytest.fixture(scope="session")
def mongodb_server(servers: Servers) -> Any:
    return servers.get("mongodb")


@pytest.fixture(scope="session")
def dynamodb_server(servers: Servers) -> Any:
    return servers.get("dynamodb")


@pytest.fixture(scope="session")
def tablestore_server(servers: Servers) -> Any:
    return servers.get("tablestore")


@pytest.fixture(scope="session")
def kafka_server(servers: Servers) -> Any:
    return servers.get("kafka")


@pytest.fixture(scope="session")
def upstash_server(servers: Servers) -> Any:
    return servers.get("upstash")


@pytest.fixture(scope="session")
def cosmosdb_server(servers: Servers) -> Any:
    return servers.get("cosmosdb")


@pytest.fixture(scope="session")
def azure_table_server(servers: Servers) -> Any:
    return servers.get("azure_table")


def pytest_collection_finish() -> None:
    """What was imported stays: no collection of garbage need look at it again, in a forked child neither."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for name, version in sorted(_running.items()):
        terminalreporter.write_line(f"tested on {name}: {version}")


# With workers (`pytest -n 2`): each takes whole classes, the longest first, and reports its servers.


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from workers import LongestFirst

    config.option.loadscopereorder = False
    return LongestFirst(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        from workers import in_order

        items[:] = in_order(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["servers"] = _running


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _running.update(getattr(node, "workeroutput", {}).get("servers", {}))
