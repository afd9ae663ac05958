"""Histories in Upstash, over its REST interface: the lists that LangChain's `UpstashRedisChatMessageHistory` keeps.

They are those of `stores/redis.py`, so the same database may be used over both protocols at once.

A request, and what it answers, has 10 MB at most on Upstash's plans "free" and "pay as you go": a batch that is larger
is refused whole, and a session that is larger is read in parts.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from langchain_histories._clients import Clients
from langchain_histories._neutral import settle
from langchain_histories.errors import ConfigurationError, RecordTooLargeError, missing_extra
from langchain_histories.store import SessionId, StoreOptions
from langchain_histories.stores.shared.redis_lists import RedisListHistory, RedisListStore, state_name

try:
    import httpx
    import upstash_redis
    import upstash_redis.asyncio
    from upstash_redis.errors import UpstashError
except ImportError as error:
    raise missing_extra("upstash") from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Unpack

URL_VARIABLE = "UPSTASH_REDIS_REST_URL"
TOKEN_VARIABLE = "UPSTASH_REDIS_REST_TOKEN"  # noqa: S105  # its name

# A transaction goes on after a key that is no list; a plain EXPIRE would then let somebody else's key expire.
_EXPIRE = """
if redis.call('TYPE', KEYS[1]).ok == 'list' then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[1])
end
"""
_PIPELINE = 500
"""Commands in one request."""
_REFUSED_ACCESS = ("wrongpass", "noauth", "unauthorized", "max requests limit", "max daily request limit")
_TOO_LARGE = ("max request size exceeded", "max single record size exceeded")


class _UnreadableAnswerError(Exception):
    """Something answered that is not what the REST interface answers, such as the page of a gateway."""


class _RefusedTogetherError(_UnreadableAnswerError):
    """Commands sent in one request were refused together: the driver loses the words of that error."""


class UpstashStore(RedisListStore):
    """Keeps histories in Upstash's Redis, over HTTPS.

    Args:
        url: `upstash://:<token>@<host>` or `upstash://<host>?token=<token>`, or the address as Upstash shows it,
            `https://<host>`. `upstash://`, like no URL, stands for the environment's `UPSTASH_REDIS_REST_URL`. For a
            server of your own without TLS `upstash+http://`.
        token: The token, where the URL has none; or else the environment's `UPSTASH_REDIS_REST_TOKEN`.
        key_prefix: What the key of each list starts with.
        timeout: Seconds that connecting, sending and each wait for an answer may take; `None` for no limit.
        redis_client: Your own `upstash_redis.Redis`, in place of `url`. It is never closed here.
        async_redis_client: Your own `upstash_redis.asyncio.Redis`. With one of the two alone, the other side is not
            derived: async methods run a blocking client in threads, sync methods refuse an asyncio one.
        client_options: More options for `upstash_redis.Redis`, such as `{"allow_telemetry": False}`; only with `url`.
        **options: See `StoreOptions`. `ttl` is supported.
    """

    name = "upstash"
    schemes = ("upstash", "upstash+http")
    driver_errors = (UpstashError, _UnreadableAnswerError, httpx.HTTPError, UnicodeDecodeError)
    unavailable_errors = (ConnectionError, TimeoutError, httpx.HTTPError, _UnreadableAnswerError)

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        key_prefix: str = "message_store:",
        timeout: float | None = 30,
        redis_client: upstash_redis.Redis | None = None,
        async_redis_client: upstash_redis.asyncio.Redis | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        given = redis_client is not None or async_redis_client is not None
        if given and (url or token or client_options):
            raise ConfigurationError("Pass a url (and token, client_options), or clients of your own, and not both.")
        for name, client, kind in (
            ("redis_client", redis_client, upstash_redis.Redis),
            ("async_redis_client", async_redis_client, upstash_redis.asyncio.Redis),
        ):
            if client is not None and not isinstance(client, kind):
                raise ConfigurationError(
                    f"{name} must be a {kind.__module__}.{kind.__name__}, "
                    f"not {type(client).__module__}.{type(client).__name__}."
                )
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0):
            raise ConfigurationError(f"timeout must be a number of seconds above 0 or None, not {timeout!r}.")
        address, self._token = (None, "") if given else _place(url, token)
        self._timeout = timeout
        self._client_options = client_options or {}
        clients: Clients[Any] = Clients(
            connect=self._connect, close=self._close, client=redis_client, async_client=async_redis_client
        )
        super().__init__(clients, address, key_prefix=key_prefix, **options)

    async def _connect(self, native: bool) -> Any:
        if not native:
            return self._open(upstash_redis.Redis)
        # The driver reads the certificates of the system at once, which is too long for an event loop.
        return await settle(asyncio.to_thread(self._open, upstash_redis.asyncio.Redis))

    def _open(self, kind: Any) -> Any:
        # The driver would send a batch again when the answer got lost: the batch could be stored twice.
        client = kind(self._url, self._token, **{"rest_retries": 0, **self._client_options})
        # It would wait for ever, and has no option for that.
        client._http._client.timeout = self._timeout  # noqa: SLF001
        return client

    async def _close(self, client: Any) -> None:
        await settle(client.close())

    def _unavailable(self, error: Exception) -> bool:
        refused = isinstance(error, UpstashError) and any(words in str(error).lower() for words in _REFUSED_ACCESS)
        return refused or super()._unavailable(error)

    async def _command(self, client: Any, *words: Any) -> Any:
        with _readable():
            return await settle(client.execute(list(words)))

    async def _together(self, pipeline: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Run commands in one request: a `pipeline()` or a `multi()` of the client."""
        for words in commands:
            pipeline.execute(list(words))
        with _readable():
            try:
                answers = list(await settle(pipeline.exec()))
            except AttributeError as error:
                raise _RefusedTogetherError("The service refused some commands together.") from error
        if len(answers) != len(commands):
            raise _UnreadableAnswerError(f"{len(commands)} commands got {len(answers)} answers.")
        return answers

    async def _pipeline(self, client: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
        answers: list[Any] = []
        for start in range(0, len(commands), _PIPELINE):
            some = commands[start : start + _PIPELINE]
            try:
                answers += await self._together(client.pipeline(), some)
            except (RecordTooLargeError, _RefusedTogetherError):
                answers += [await self._command(client, *words) for words in some]
        return answers

    async def _append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        if self.ttl is None:
            await super()._append(client, key, rows)
            return
        name = self._list(key)
        expire = ("EVAL", _EXPIRE, 2, name, state_name(name), self.ttl)
        try:
            await self._together(client.multi(), [("LPUSH", name, *rows), expire])
        except _RefusedTogetherError:
            # Nothing was stored; the script says why, or stores it.
            await super()._append(client, key, rows)

    async def _tail(self, client: Any, name: str, last: int) -> tuple[int, list[Any]]:
        try:
            length, newest_first = await self._together(client.multi(), [("LLEN", name), ("LRANGE", name, 0, last - 1)])
        except (RecordTooLargeError, UpstashError, _RefusedTogetherError):
            # Counted from the oldest: an append between the two does not move what is read.
            length = int(await self._command(client, "LLEN", name))
            newest_first = await self._range(client, name, -length, min(last - length, 0) - 1) if length else []
        return length, newest_first

    async def _range(self, client: Any, name: str, start: int, stop: int) -> list[Any]:
        try:
            return await super()._range(client, name, start, stop)
        except RecordTooLargeError:
            length = int(await self._command(client, "LLEN", name))
            # Counted from the oldest, as `stop` always is.
            newest = -length if start == 0 else max(start, -length)
            if stop <= newest:
                raise
            middle = (newest + stop) // 2
            newer = await self._range(client, name, newest, middle)
            return newer + await self._range(client, name, middle + 1, stop)

    async def _scan(self, client: Any, pattern: str, kind: str) -> list[str | bytes]:
        found: list[str | bytes] = []
        cursor = None
        while cursor != 0:
            words = ("SCAN", cursor or 0, "MATCH", pattern, "COUNT", 1000, "TYPE", kind)
            cursor, names = await self._command(client, *words)
            found += names
        return found


class UpstashRedisChatMessageHistory(RedisListHistory):
    """A history in Upstash with the constructor of LangChain's class of this name; reads and writes the same lists.

    All histories of one configuration in a process share one client, so a program may make one for each turn.

    Args:
        session_id: The session.
        url: The REST address, `https://<host>`, or as for `UpstashStore`; without it, the environment's.
        token: The REST token; without it, the environment's.
        key_prefix: What the key of each list starts with.
        ttl: Seconds after the last addition at which the session expires; `None` or 0 for never.
        redis_client: Your own `upstash_redis.Redis`, in place of `url` and `token`.
        async_redis_client: Your own `upstash_redis.asyncio.Redis`.
    """

    store: UpstashStore

    def __init__(
        self,
        session_id: SessionId,
        url: str = "",
        token: str = "",
        key_prefix: str = "message_store:",
        ttl: int | None = None,
        *,
        redis_client: Any = None,
        async_redis_client: Any = None,
    ) -> None:
        """Join the store of this configuration."""
        if redis_client is None and async_redis_client is None:
            # Looked up here, as the environment may change: stores are shared by what is given.
            url, token = _place(url, token)
        store = UpstashStore.shared(
            url or None,
            token=token or None,
            key_prefix=key_prefix,
            redis_client=redis_client,
            async_redis_client=async_redis_client,
            ttl=ttl or None,
        )
        super().__init__(store, session_id)
        self.key_prefix = key_prefix
        self.ttl = ttl


def _place(url: str | None, token: str | None) -> tuple[str, str]:
    """Return the address and the token.

    Raises:
        ConfigurationError: They cannot be used, or one is missing.
    """
    if not url or url == "upstash://":
        url = os.environ.get(URL_VARIABLE, "")
        if not url:
            raise ConfigurationError(
                f"Upstash: a url is missing, such as 'upstash://:<token>@<host>', and {URL_VARIABLE} is not set."
            )
    parts = urlsplit(url)
    if parts.scheme not in ("upstash", "upstash+http", "https", "http"):
        raise ConfigurationError(
            f"Upstash: the url is the one for REST, 'https://<host>' or 'upstash://<host>', not {parts.scheme!r}; "
            "for 'rediss://' use the Redis store."
        )
    place = parts.netloc.rpartition("@")[2]
    try:
        wrong = not parts.hostname or parts.username or parts.fragment or parts.port == 0
    except ValueError:
        wrong = True
    name, _, value = parts.query.partition("=")
    if wrong or name not in ("", "token"):
        # What is wrong is not repeated: it may be the token.
        raise ConfigurationError(
            "Upstash: the url cannot be read. It is 'upstash://:<token>@<host>' or 'upstash://<host>?token=<token>', "
            "without a user's name, and '/' in a token is written '%2F'."
        )
    token = token or unquote(parts.password or value) or os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise ConfigurationError(
            f"Upstash: a token is missing: in the url, as token=, or in the environment's {TOKEN_VARIABLE}."
        )
    scheme = "http" if parts.scheme in ("http", "upstash+http") else "https"
    return f"{scheme}://{place}{parts.path.rstrip('/')}", token


@contextmanager
def _readable() -> Iterator[None]:
    """Tell what is wrong with an answer: the driver looks at no HTTP status.

    Raises:
        RecordTooLargeError: The request or the answer is larger than the service allows.
        _UnreadableAnswerError: It is not an answer of the service.
    """
    try:
        yield
    except UpstashError as error:
        if any(words in str(error) for words in _TOO_LARGE):
            raise RecordTooLargeError(
                "upstash: a request or its answer is larger than the service allows (10 MB on most plans). Nothing "
                "was written. See the cause for the service's own words."
            ) from error
        raise
    except UnicodeDecodeError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise _UnreadableAnswerError(f"No answer of Upstash's REST interface ({type(error).__name__}).") from error
