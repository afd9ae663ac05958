"""The servers of the tests: started once, when a test first asks for one, and named in the report."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

# A busy machine is slow, not broken.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

_running: dict[str, str] = {}


class Servers:
    """Starts each server once; what cannot be had is a skip on a laptop and a failure under CI."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._started: dict[str, Any] = {}

    def get(self, name: str, **options: Any) -> Any:
        import servers

        key = " ".join([name, *map(str, options.values())]) if options else name
        if key not in self._started:
            start: Callable[..., AbstractContextManager[Any]] = getattr(servers, name)
            try:
                self._started[key] = self._stack.enter_context(start(**options))
            except servers.ServerUnavailable as reason:
                self._started[key] = reason
            else:
                _running[key] = self._started[key].version
        server = self._started[key]
        if isinstance(server, servers.ServerUnavailable):
            say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            say(f"{name} cannot be had here: {server}")
        return server


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
def azure_table_server(servers: Servers) -> Any:
    return servers.get("azure_table")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for name, version in _running.items():
        terminalreporter.write_line(f"tested on {name}: {version}")
