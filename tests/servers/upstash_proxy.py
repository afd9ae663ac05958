"""Upstash's REST interface in front of a Redis server, as a program.

    python upstash_proxy.py PORT TOKEN=redis://[user:password@]host:port ...

Each token has the rights of the Redis user in the URL behind it. Commands, scripts, transactions and errors are Redis'
own. What Upstash adds is here: tokens, base64, `/pipeline`, `/multi-exec`, the status codes, and the largest request,
which bounds answers too.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import sys
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

HOST = "127.0.0.1"
LARGEST = 10 * 2**20
"""Bytes: what the plans "free" and "pay as you go" allow."""


@dataclass(frozen=True)
class Failure:
    """An error that Redis answered."""

    words: str


class RedisConnection:
    """A connection that hands on answers as they are, error codes included."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or HOST, parts.port or 6379))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")
        if parts.password:
            user = [unquote(parts.username)] if parts.username else []
            self.run(["AUTH", *user, unquote(parts.password)])

    def run(self, words: list[Any]) -> Any:
        """Run a command; an error is returned as a `Failure`."""
        texts = [_redis_text(word).encode() for word in words]
        lengths = [b"$%d\r\n%s\r\n" % (len(text), text) for text in texts]
        self._socket.sendall(b"*%d\r\n%s" % (len(texts), b"".join(lengths)))
        return self._answer()

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def _answer(self) -> Any:
        line = self._answers.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("Redis hung up")
        kind, text = line[:1], line[1:-2]
        if kind == b"-":
            return Failure(text.decode())
        if kind == b"+":
            return text.decode()
        number = int(text)
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"*":
            return [self._answer() for _ in range(number)]
        return self._answers.read(number + 2)[:-2]


def _redis_text(word: Any) -> str:
    return word if isinstance(word, str) else json.dumps(word)


def _json_value(answer: Any, *, as_base64: bool) -> Any:
    """What JSON has for an answer of Redis; bytes are encoded, a status is not."""
    if isinstance(answer, list):
        return [_json_value(item, as_base64=as_base64) for item in answer]
    if isinstance(answer, bytes):
        return base64.b64encode(answer).decode() if as_base64 else answer.decode(errors="replace")
    if isinstance(answer, str) and answer != "OK" and as_base64:
        return base64.b64encode(answer.encode()).decode()
    return answer


class Handler(BaseHTTPRequestHandler):
    """One HTTP connection, with one connection to Redis behind it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    tokens: ClassVar[dict[str, str]] = {}

    def setup(self) -> None:
        super().setup()
        self._opened: dict[str, RedisConnection] = {}

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        for redis in self._opened.values():
            redis.close()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if token not in self.tokens:
            self._reply(401, {"error": "WRONGPASS invalid or missing auth token"})
        elif len(body) > LARGEST:
            self._reply(400, {"error": _too_large(len(body))})
        else:
            if token not in self._opened:
                self._opened[token] = RedisConnection(self.tokens[token])
            self._reply(*self._run(self._opened[token], json.loads(body)))

    def _run(self, redis: RedisConnection, asked: list[Any]) -> tuple[int, Any]:
        if self.path == "/pipeline":
            return 200, [self._result(redis.run(words)) for words in asked]
        if self.path == "/multi-exec":
            begun = redis.run(["MULTI"])
            if isinstance(begun, Failure):
                return 400, {"error": begun.words}
            refused = [answer for answer in map(redis.run, asked) if isinstance(answer, Failure)]
            answers = redis.run(["EXEC"])
            if refused:
                return 400, {"error": f"ERR Transaction discarded because of: {refused[0].words}"}
            return 200, [self._result(answer) for answer in answers]
        if self.path != "/":
            return 404, {"error": "ERR not found"}
        result = self._result(redis.run(asked))
        return (400 if "error" in result else 200), result

    def _result(self, answer: Any) -> dict[str, Any]:
        if isinstance(answer, Failure):
            return {"error": answer.words}
        as_base64 = self.headers["Upstash-Encoding"] == "base64"
        result = {"result": _json_value(answer, as_base64=as_base64)}
        size = len(json.dumps(result))
        return result if size <= LARGEST else {"error": _too_large(size)}

    def _reply(self, status: int, answer: Any) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def _too_large(size: int) -> str:
    return f"ERR max request size exceeded. Limit: {LARGEST} bytes, Actual: {size} bytes"


class Proxy(ThreadingHTTPServer):
    """A thread for each HTTP connection."""

    daemon_threads = True
    request_queue_size = 256


def main() -> None:
    port, *users = sys.argv[1:]
    Handler.tokens = {unquote(token): url for token, _, url in (user.partition("=") for user in users)}
    Proxy((HOST, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
