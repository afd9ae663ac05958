"""What a store in Upstash can do, by requests of its REST interface."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
from upstash_redis.errors import UpstashError

from langchain_histories.errors import RecordTooLargeError
from langchain_histories.stores.base import settle
from langchain_histories.stores.shared.redis_lists import RedisListOperations
from langchain_histories.stores.shared.redis_scripts import TOUCH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# A transaction goes on after a key that is no list; a plain EXPIRE would then let somebody else's key expire.
_EXPIRE = (
    """
if redis.call('TYPE', KEYS[1]).ok == 'list' then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[1])
"""
    + TOUCH
    + "end"
)
_COMMANDS_OF_A_REQUEST = 500
_REFUSED_ACCESS = ("wrongpass", "noauth", "unauthorized", "max requests limit", "max daily request limit")
_TOO_LARGE = ("max request size exceeded", "max single record size exceeded")


class _UnreadableAnswerError(Exception):
    """Something answered, but not the REST interface: the page of a gateway, for example."""


class _RefusedTogetherError(_UnreadableAnswerError):
    """The service refused all commands of a request, and the driver lost the words of its error."""


class UpstashOperations(RedisListOperations):
    """The operations over a client of upstash-redis.

    Args:
        key_prefix: What the key of each list starts with.
        index: Whether appends keep the index of the newest sessions.
    """

    name = "upstash"
    driver_errors = (UpstashError, _UnreadableAnswerError, httpx.HTTPError, UnicodeDecodeError)
    unavailable_errors = (ConnectionError, TimeoutError, httpx.HTTPError, _UnreadableAnswerError)

    tolerated_errors = (UnicodeDecodeError, UpstashError)

    def is_unavailable(self, error: Exception) -> bool:
        refused = isinstance(error, UpstashError) and any(words in str(error).lower() for words in _REFUSED_ACCESS)
        return refused or super().is_unavailable(error)

    def is_cut(self, client: Any, error: Exception) -> bool:  # noqa: ARG002  # any client opens another
        return isinstance(error, httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError)

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
        for start in range(0, len(commands), _COMMANDS_OF_A_REQUEST):
            some = commands[start : start + _COMMANDS_OF_A_REQUEST]
            try:
                answers += await self._together(client.pipeline(), some)
            except (RecordTooLargeError, _RefusedTogetherError):
                answers += [await self._command(client, *words) for words in some]
        return answers

    async def append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        if self.ttl is None:
            await super().append(client, key, rows)
            return
        name, *others = self._keys(key)[: 4 if self._keeps_index(client) else 2]
        expire = ("EVAL", _EXPIRE, 1 + len(others), name, *others, self.ttl)
        try:
            await self._together(client.multi(), [("LPUSH", name, *rows), expire])
        except _RefusedTogetherError:
            # Nothing was stored; the script says why, or stores it.
            await super().append(client, key, rows)

    async def _at_one_moment(self, client: Any, commands: Sequence[Sequence[Any]]) -> list[Any] | None:
        try:
            return await self._together(client.multi(), commands)
        except (RecordTooLargeError, UpstashError, _RefusedTogetherError):
            return None

    async def _tail(self, client: Any, name: str, last: int) -> tuple[int, list[Any]]:
        found = await self._at_one_moment(client, [("LLEN", name), ("LRANGE", name, 0, last - 1)])
        length, newest_first = found or await self._two_step_tail(client, name, last)
        return length, newest_first

    async def _range(self, client: Any, name: str, start: int, stop: int) -> list[Any]:
        try:
            return await super()._range(client, name, start, stop)
        except RecordTooLargeError:
            length = int(await self._command(client, "LLEN", name))
            # Indexes count from the oldest, as those in `stop` always do.
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


@contextmanager
def _readable() -> Iterator[None]:
    """Tell what is wrong with an answer, because the driver looks at no HTTP status.

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
