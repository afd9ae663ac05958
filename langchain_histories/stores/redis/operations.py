"""What a store in Redis or Valkey can do, by redis-py's commands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from redis import exceptions

from langchain_histories.stores.base import each, settle
from langchain_histories.stores.shared.redis_lists import RedisListOperations

if TYPE_CHECKING:
    from collections.abc import Sequence

# redis-py's asyncio cluster client would block its event loop in a transaction.
_TAIL = "return {redis.call('LLEN', KEYS[1]), redis.call('LRANGE', KEYS[1], 0, ARGV[1])}"
_REFUSED_IN_SCRIPT = re.compile(r"ACL failure in script|user executing the script can't")


class RedisOperations(RedisListOperations):
    """The operations over a client of redis-py.

    Args:
        key_prefix: What the key of each list starts with.
        index: Whether appends keep the index of the newest sessions.
    """

    name = "redis"
    # A client that decodes says so where a name of another program is no UTF-8.
    driver_errors = (exceptions.RedisError, exceptions.RedisClusterException, UnicodeDecodeError)
    unavailable_errors = (
        ConnectionError,
        TimeoutError,
        exceptions.ConnectionError,
        exceptions.TimeoutError,
        exceptions.ClusterDownError,
        exceptions.SlotNotCoveredError,
    )

    refused_errors = (exceptions.NoPermissionError,)
    tolerated_errors = (UnicodeDecodeError, exceptions.ResponseError)

    def _is_cluster(self, client: Any) -> bool:
        return isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster)

    def is_unavailable(self, error: Exception) -> bool:
        # A cluster of which no node answers is told by an error that is no ConnectionError, but has one as its cause.
        cause = error.__cause__ if isinstance(error, exceptions.RedisClusterException) else None
        return super().is_unavailable(error) or isinstance(cause, self.unavailable_errors)

    def is_cut(self, client: Any, error: Exception) -> bool:  # noqa: ARG002  # any client opens another
        # Its subclasses are other things, such as a refused password.
        return type(error) is exceptions.ConnectionError

    async def _command(self, client: Any, *words: Any) -> Any:
        try:
            return await settle(client.execute_command(*words))
        except exceptions.ResponseError as error:
            # A script that the user may run, with a command in it that the user may not.
            if _REFUSED_IN_SCRIPT.search(str(error)):
                raise exceptions.NoPermissionError(str(error)) from error
            raise

    async def _pipeline(
        self, client: Any, commands: Sequence[Sequence[Any]], *, transaction: bool = False
    ) -> list[Any]:
        pipeline = client.pipeline(transaction=transaction)
        for words in commands:
            pipeline.execute_command(*words)
        return list(await settle(pipeline.execute()))

    async def _at_one_moment(self, client: Any, commands: Sequence[Sequence[Any]]) -> list[Any] | None:
        # The asyncio client of a cluster has no transactions.
        is_async_cluster = isinstance(client, redis.asyncio.RedisCluster)
        return None if is_async_cluster else await self._pipeline(client, commands, transaction=True)

    async def _tail(self, client: Any, name: str, last: int) -> tuple[int, list[Any]]:
        found = await self._at_one_moment(client, [("LLEN", name), ("LRANGE", name, 0, last - 1)])
        length, newest_first = found or await self._command(client, "EVAL", _TAIL, 1, name, last - 1)
        return length, newest_first

    async def _scan(self, client: Any, pattern: str, kind: str) -> list[str | bytes]:
        return [name async for name in each(client.scan_iter(match=pattern, count=1000, _type=kind))]
