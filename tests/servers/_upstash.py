"""Upstash."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import httpx

from servers._machinery import HOST, ODD_PASSWORD, Process, Server, free_port, given, serving, temporary_directory
from servers._redis import redis

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAM = Path(__file__).parent / "upstash_proxy.py"
_TOKEN = ODD_PASSWORD
_READONLY_TOKEN = "upstash-readonly-token"


@dataclass(eq=False)
class UpstashServer(Server):
    """A REST server, and the Redis server behind it.

    Attributes:
        redis: The server that has the data. It runs on when the REST server is stopped.
    """

    redis: Server | None = None


@contextlib.contextmanager
def upstash() -> Iterator[Server]:
    """Run Upstash's REST interface in front of a Redis server.

    Yields:
        The server. Its `readonly_url` has a token that can only read.

    Raises:
        ServerUnavailable: If no Redis server is installed.
    """
    if own := given("upstash", _describe_upstash):
        yield own
        return
    with redis() as data, temporary_directory() as directory:
        port = free_port()
        url = f"upstash+http://:{quote(_TOKEN, safe='')}@{HOST}:{port}"
        tokens = [f"{quote(_TOKEN)}={data.url}", f"{_READONLY_TOKEN}={data.readonly_url}"]
        process = Process(
            [sys.executable, _PROGRAM, str(port), *tokens],
            directory=directory,
            port=port,
            ready=lambda: _answers(url),
        )
        server = UpstashServer(
            name="upstash",
            version=f"a REST proxy as Upstash's before {data.version}",
            url=url,
            readonly_url=f"upstash+http://:{_READONLY_TOKEN}@{HOST}:{port}",
            _process=process,
            redis=data,
        )
        with serving(server):
            yield server


def _ask(url: str, *words: str) -> httpx.Response:
    parts = urlsplit(url)
    scheme = "http" if parts.scheme.endswith("+http") else "https"
    address = f"{scheme}://{parts.netloc.rpartition('@')[2]}"
    return httpx.post(
        address, headers={"Authorization": f"Bearer {unquote(parts.password or '')}"}, json=list(words), timeout=5
    )


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return _ask(url, "PING").is_success
    return False


def _describe_upstash(url: str) -> str:
    _ask(url, "PING").raise_for_status()
    return "Upstash"
