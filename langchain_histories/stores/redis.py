"""Histories in Redis and Valkey: a list per session, as LangChain's `RedisChatMessageHistory` keeps them.

The list `message_store:<session_id>` holds the newest record first (`LPUSH`), so a batch is one command, and the last n
records are its head. The state of a session is the string `{message_store:<session_id>}:state`: the braces keep it in
the cluster slot of the list, and `message_store:*` does not match it.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from langchain_histories._clients import Clients
from langchain_histories._neutral import each, settle
from langchain_histories.codec import CheckedRow, Row
from langchain_histories.errors import ConfigurationError, missing_extra
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.store import (
    ANY_STATE,
    AnyState,
    Capability,
    MessageStore,
    SessionId,
    SessionRow,
    StoreOptions,
    position_number,
)

try:
    import redis
    import redis.asyncio
    from redis import exceptions
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import NoBackoff
    from redis.crc import key_slot
    from redis.retry import Retry
except ImportError as error:
    raise missing_extra("redis") from error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

_DEFAULT_URL = "redis://localhost:6379/0"

# Scripts, where MULTI would go on after a key that is no list, and where redis-py's asyncio cluster client would block
# its event loop.
# Lua's `unpack` takes at most 8,000 values.
_PUSH = """
for first = 2, #ARGV, 5000 do
  redis.call('LPUSH', KEYS[1], unpack(ARGV, first, math.min(first + 4999, #ARGV)))
end
if ARGV[1] ~= '0' then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[1])
end
"""
_REPLACE = "redis.call('DEL', KEYS[1])" + _PUSH
_DELETE = """
local removed = 0
for at = 1, #ARGV, 2 do
  local place = -1 - ARGV[at]
  if redis.call('LINDEX', KEYS[1], place) ~= ARGV[at + 1] then
    place = redis.call('LPOS', KEYS[1], ARGV[at + 1])
  end
  if place then
    redis.call('LSET', KEYS[1], place, 'lh:deleted')
    removed = removed + 1
  end
end
redis.call('LREM', KEYS[1], 0, 'lh:deleted')
return removed
"""
# A state expires with its list, and not later: it was written after the last message.
_PUT = """
if ARGV[1] == '' then
  redis.call('DEL', KEYS[1])
elseif ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  local left = redis.call('PTTL', KEYS[2])
  redis.call('SET', KEYS[1], ARGV[1], 'PX', left > 0 and left or ARGV[2] * 1000)
end
return 1
"""
# No state is an empty text, so that one stands for none.
_SWAP = "if (redis.call('GET', KEYS[1]) or '') ~= ARGV[3] then return 0 end" + _PUT
_TAIL = "return {redis.call('LLEN', KEYS[1]), redis.call('LRANGE', KEYS[1], 0, ARGV[1])}"


class RedisStore(MessageStore[Any]):
    """Keeps histories in Redis, Valkey or what speaks their protocol: one server, Sentinel or Cluster.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, as redis-py reads them, or
            `redis+sentinel://[user:password@]host[:26379][/service[/db]]` (`rediss+sentinel://`). A cluster is
            recognised by itself.
        key_prefix: What the key of each list starts with.
        redis_client: Your own blocking client, in place of `url`. It is never closed here.
        async_redis_client: Your own asyncio client. With one of the two alone, the other side is not derived: async
            methods run a blocking client in threads, sync methods refuse an asyncio one.
        client_options: More options for redis-py, such as `{"socket_timeout": 5}`; only with `url`.
        **options: See `StoreOptions`. `ttl` is supported.
    """

    name = "redis"
    schemes = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
    driver_errors = (exceptions.RedisError,)
    unavailable_errors = (
        ConnectionError,
        TimeoutError,
        exceptions.ConnectionError,
        exceptions.TimeoutError,
        exceptions.ClusterDownError,
    )

    def __init__(
        self,
        url: str | None = None,
        *,
        key_prefix: str = "message_store:",
        redis_client: redis.Redis | redis.RedisCluster | None = None,
        async_redis_client: redis.asyncio.Redis | redis.asyncio.RedisCluster | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        given = redis_client is not None or async_redis_client is not None
        if given == (url is not None) or (given and client_options):
            raise ConfigurationError("Pass a url (and client_options), or clients of your own, and not both.")
        if redis_client is not None and not isinstance(redis_client, redis.Redis | redis.RedisCluster):
            raise ConfigurationError(f"redis_client must be a blocking redis client, not {_kind(redis_client)}.")
        async_kinds = redis.asyncio.Redis | redis.asyncio.RedisCluster
        if async_redis_client is not None and not isinstance(async_redis_client, async_kinds):
            raise ConfigurationError(
                f"async_redis_client must be a redis.asyncio client, not {_kind(async_redis_client)}."
            )
        self.key_prefix = key_prefix
        self._client_options = client_options or {}
        clients: Clients[Any] = Clients(
            connect=self._connect, close=self._close, client=redis_client, async_client=async_redis_client
        )
        super().__init__(clients, url, **options)

    @property
    def capabilities(self) -> Capability:
        """All; `NATIVE_ASYNC` unless only a blocking client was given."""
        return ~Capability(0) if self._clients.has_native else ~Capability.NATIVE_ASYNC

    async def _connect(self, native: bool) -> Any:
        """Open a client for the URL; a server that is a node of a cluster gets a cluster client."""
        package: Any = redis.asyncio if native else redis
        # redis-py would send a batch again when the answer got lost: the batch could be stored twice.
        retry: Any = (AsyncRetry if native else Retry)(NoBackoff(), 0)
        options = {"retry": retry, **self._client_options}
        url = str(self._url)
        if urlsplit(url).scheme.endswith("+sentinel"):
            return _sentinel_client(package, url, options)
        # redis-py's own pool does not wait for a free connection, and would refuse many histories at once.
        client = package.Redis.from_pool(package.BlockingConnectionPool.from_url(url, **options))
        try:
            server = await settle(client.info("cluster"))
        except exceptions.NoPermissionError:
            return client
        if not server.get("cluster_enabled"):
            return client
        await self._close(client)
        # A cluster client needs its retries to follow moved slots; what they store twice is read once.
        client = package.RedisCluster.from_url(url, **self._client_options)
        if native:
            await settle(client.initialize())
        return client

    async def _close(self, client: Any) -> None:
        await settle(client.aclose() if hasattr(client, "aclose") else client.close())

    def _list(self, key: str) -> str:
        return self.key_prefix + key

    async def _append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        if self.ttl is None:
            await settle(client.lpush(self._list(key), *rows))
        else:
            await self._push(client, _PUSH, key, rows)

    async def _push(self, client: Any, script: str, key: str, rows: Sequence[str]) -> None:
        name = self._list(key)
        await settle(client.eval(script, 2, name, _state_name(name), self.ttl or 0, *rows))

    async def _read(
        self,
        client: Any,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        name = self._list(key)
        if after is not None:
            return await self._read_after(client, name, after, last, first)
        if first is not None:
            newest_first = await settle(client.lrange(name, -first, -1))
            return _rows(newest_first, 0)
        if last is None:
            newest_first = await settle(client.lrange(name, 0, -1))
            length = len(newest_first)
        elif isinstance(client, redis.asyncio.RedisCluster):
            answer: Any = client.eval(_TAIL, 1, name, last - 1)
            length, newest_first = await settle(answer)
        else:
            transaction = client.pipeline(transaction=True)
            transaction.llen(name)
            transaction.lrange(name, 0, last - 1)
            length, newest_first = await settle(transaction.execute())
        return _rows(newest_first, length - len(newest_first))

    async def _read_after(
        self, client: Any, name: str, after: str, last: int | None, first: int | None
    ) -> Sequence[Row]:
        """Read from the row `after` on, to see by its checksum that it is still where it was."""
        number = position_number(after)
        oldest = 0 if first is None else -(number + 1 + first)
        rows = _rows(await settle(client.lrange(name, oldest, -(number + 1))), number)
        if not rows or rows[0].position != after:
            rows = _rows(await settle(client.lrange(name, 0, -1)), 0)
            checksum = after.partition("-")[2]
            known = [index for index, row in enumerate(rows) if row.position.endswith("-" + checksum)]
            # Rows before it were deleted, or the session was cleared and began anew.
            rows = rows[known[-1] :] if known else [Row("", after), *rows]
        return rows[1:][:first] if last is None else rows[1:][-last:]

    async def _count(self, client: Any, key: str) -> int:
        return int(await settle(client.llen(self._list(key))))

    async def _clear(self, client: Any, key: str) -> None:
        name = self._list(key)
        await settle(client.delete(name, _state_name(name)))

    async def _replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        await self._push(client, _REPLACE, key, rows)

    async def _delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:
        where = [argument for row in rows for argument in (position_number(row.position), row.text)]
        return int(await settle(client.eval(_DELETE, 1, self._list(key), *where)))

    async def _sessions(
        self, client: Any, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        """Redis has no order of keys, so each page scans them all and asks only for what is on the page."""
        found = await self._scan(client, _glob(self._list(prefix)) + "*", _type="list")
        keys = sorted(name.removeprefix(self.key_prefix) for name in found)
        page = [key for key in keys if after is None or key > after][:limit]
        pipeline = client.pipeline(transaction=False)
        for key in page:
            pipeline.llen(self._list(key))
            pipeline.lindex(self._list(key), 0)
        answers = await settle(pipeline.execute()) if page else []
        rows = zip(page, answers[::2], answers[1::2], strict=True)
        return [SessionRow(key, count, last) for key, count, last in rows if count]

    async def _erase(self, client: Any, prefix: str) -> int:
        name = _glob(self._list(prefix))
        lists = await self._scan(client, name + "*", _type="list")
        states = await self._scan(client, f"{{{name}*}}:state", _type="string")
        states |= await self._scan(client, f"{{*}}{name}*:tagged-state", _type="string")
        sessions = lists | {_list_of_state(state) for state in states}
        pipeline = client.pipeline(transaction=False)
        for doomed in lists | states:
            pipeline.delete(doomed)
        if sessions:
            await settle(pipeline.execute())
        return len(sessions)

    async def _scan(self, client: Any, pattern: str, **options: Any) -> set[str]:
        return {_text(name) async for name in each(client.scan_iter(match=pattern, count=1000, **options))}

    async def _get_state(self, client: Any, key: str) -> str | bytes | None:
        state: str | bytes | None = await settle(client.get(_state_name(self._list(key))))
        return state

    async def _put_state(
        self, client: Any, key: str, text: str | None, *, instead_of: str | bytes | AnyState | None = ANY_STATE
    ) -> bool:
        places = (_state_name(self._list(key)), self._list(key))
        if instead_of is not ANY_STATE:
            return bool(await settle(client.eval(_SWAP, 2, *places, text or "", self.ttl or 0, instead_of or "")))
        if self.ttl is not None and text is not None:
            return bool(await settle(client.eval(_PUT, 2, *places, text, self.ttl)))
        await settle(client.delete(places[0]) if text is None else client.set(places[0], text))
        return True


class RedisChatMessageHistory(StoredChatMessageHistory):
    """A history in Redis with the constructor of LangChain's class of this name; reads and writes the same lists.

    All histories of one configuration in a process share one client, so a program may make one for each turn.

    Args:
        session_id: The session.
        url: As for `RedisStore`.
        key_prefix: What the key of each list starts with.
        ttl: Seconds after the last addition at which the session expires; `None` or 0 for never.
        redis_client: Your own blocking client, in place of `url`.
        async_redis_client: Your own asyncio client.
    """

    store: RedisStore

    def __init__(
        self,
        session_id: SessionId,
        url: str = _DEFAULT_URL,
        key_prefix: str = "message_store:",
        ttl: int | None = None,
        *,
        redis_client: Any = None,
        async_redis_client: Any = None,
    ) -> None:
        """Join the store of this configuration."""
        given = redis_client is not None or async_redis_client is not None
        store = RedisStore.shared(
            None if given and url == _DEFAULT_URL else url,
            key_prefix=key_prefix,
            redis_client=redis_client,
            async_redis_client=async_redis_client,
            ttl=ttl or None,
        )
        super().__init__(store, session_id)
        self.key_prefix = key_prefix
        self.ttl = ttl

    @property
    def key(self) -> str:
        """The key of the list."""
        return self.key_prefix + self.session_id

    @property
    def redis_client(self) -> Any:
        """The blocking client; it is opened when it has not been used yet."""
        return self.store.client


def _sentinel_client(package: Any, url: str, options: dict[str, Any]) -> Any:
    """Open a client that asks a sentinel which server is the primary."""
    parts = urlsplit(url)
    options |= {name: _number(value) for name, value in parse_qsl(parts.query)}
    if parts.scheme.startswith("rediss"):
        options["ssl"] = True
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    service, _, db = parts.path.strip("/").partition("/")
    sentinels = [(parts.hostname or "localhost", parts.port or 26379)]
    module = package.sentinel
    return module.Sentinel(sentinels, **options).master_for(service or "mymaster", db=int(db or 0))


def _number(value: str) -> str | int:
    return int(value) if value.isdecimal() else value


def _kind(client: object) -> str:
    return f"{type(client).__module__}.{type(client).__name__}"


def _text(data: str | bytes) -> str:
    return data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data


def _rows(newest_first: list[Any], start: int) -> list[Row]:
    """The rows, oldest first, from the index `start` on."""
    return [CheckedRow(text, str(number)) for number, text in enumerate(reversed(newest_first), start)]


def _glob(text: str) -> str:
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)


def _state_name(name: str) -> str:
    """The key of the state that belongs to the list `name`, in the same cluster slot.

    A cluster hashes what stands between the first braces of a key, if there is something. The two forms end
    differently, so that two lists never have the same state.
    """
    tag = re.match(r"\{([^}]+)\}", name[name.find("{") :]) if "{" in name else None
    if tag is not None:
        return f"{{{tag[1]}}}{name}:tagged-state"
    if "}" not in name:
        return f"{{{name}}}:state"
    slot = key_slot(name.encode())
    number = next(number for number in itertools.count() if key_slot(str(number).encode()) == slot)
    return f"{{{number}}}{name}:tagged-state"


def _list_of_state(state: str) -> str:
    if state.endswith("}:state"):
        return state[1 : -len("}:state")]
    return state.partition("}")[2].removesuffix(":tagged-state")
