"""Azure Cosmos DB, the NoSQL service."""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.parse import quote

from servers._machinery import (
    DATABASE,
    HOST,
    PASSWORD,
    READONLY_PASSWORD,
    Process,
    Server,
    ServerUnavailable,
    free_port,
    package_directory,
    serving,
    temporary_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_SERVICE = Path(__file__).with_name("_cosmosdb_service.py")


@contextlib.contextmanager
def cosmosdb() -> Iterator[Server]:
    """Run the stand-in for Cosmos DB of `_cosmosdb_service.py`, which says what it does and what not.

    No emulator of the service can be installed from a package index: Microsoft's is an image of its own.

    Yields:
        The server. `url` names an empty database and has the key as its password; the key in `readonly_url` may only
        read.

    Raises:
        ServerUnavailable: If aiohttp is not installed.
    """
    if package_directory("aiohttp") is None:
        raise ServerUnavailable("the stand-in for Cosmos DB needs aiohttp: pip install aiohttp")
    with temporary_directory() as directory:
        port = free_port()
        key, readonly_key = (base64.b64encode(word.encode()).decode() for word in (PASSWORD, READONLY_PASSWORD))
        command = [sys.executable, _SERVICE, "--host", HOST, "--port", str(port), "--file", directory / "data"]
        command += ["--key", key, "--readonly-key", readonly_key]
        server = Server(
            name="cosmosdb",
            version=f"a stand-in of the tests (azure-cosmos {importlib.metadata.version('azure-cosmos')}); "
            "never run against Azure Cosmos DB",
            url=f"cosmosdb+http://:{quote(key, safe='')}@{HOST}:{port}/{DATABASE}",
            readonly_url=f"cosmosdb+http://:{quote(readonly_key, safe='')}@{HOST}:{port}/{DATABASE}",
            _process=Process(command, directory=directory, port=port, ready=lambda: _answers(port)),
        )
        with serving(server):
            yield server


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/_faults", data=b"[]") as answer:
            return bool(answer.status == 200)
    except (URLError, ConnectionError):
        return False
