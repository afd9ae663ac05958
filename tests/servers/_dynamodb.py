"""DynamoDB Local, by the makers of the service."""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from servers._machinery import (
    CACHE,
    HOST,
    Process,
    Server,
    ServerUnavailable,
    free_port,
    serving,
    system_program,
    temporary_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAM = CACHE / "dynamodb-local"
_LAUNCHER = "LoopbackDynamoDB"  # compiled by tests/install_servers.sh: Java would do it at each start


@contextlib.contextmanager
def dynamodb() -> Iterator[Server]:
    """Run DynamoDB Local; its `url` is the endpoint.

    It takes any credentials, does not throttle, and leaves items that have expired for the readers to see, as the
    service does for a while.

    Raises:
        ServerUnavailable: If Java or the program is not there.
    """
    java = system_program("java")
    if java is None:
        raise ServerUnavailable("Java 17 is not installed")
    if not (_PROGRAM / f"{_LAUNCHER}.class").exists():
        raise ServerUnavailable("DynamoDB Local is not installed: run tests/install_servers.sh")
    with temporary_directory() as directory:
        port = free_port()
        process = Process(
            [
                *(java, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData"),
                f"-Djava.library.path={_PROGRAM / 'DynamoDBLocal_lib'}",
                *("-cp", f"{_PROGRAM}:{_PROGRAM / 'DynamoDBLocal.jar'}:{_PROGRAM / 'DynamoDBLocal_lib'}/*", _LAUNCHER),
                *("-dbPath", directory, "-sharedDb", "-disableTelemetry", "-port", str(port)),
            ],
            directory=directory,
            port=port,
            ready=lambda: _answers(port),
        )
        server = Server("dynamodb", "DynamoDB Local 1.25.1", f"http://{HOST}:{port}", _process=process)
        with serving(server):
            yield server


def _answers(port: int) -> bool:
    """Whether it says that a request without a body is none."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
