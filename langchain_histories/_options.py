"""What a store can do, the options that every store takes, and the checks of arguments."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from langchain_histories.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from langchain_core.messages import BaseMessage

    from langchain_histories.codec import Codec


class Capability(enum.Flag):
    """What a store can do beyond appending, reading and clearing."""

    NATIVE_ASYNC = enum.auto()
    """The async methods use an async driver; without it they run the blocking one in threads."""
    ATOMIC_BATCH = enum.auto()
    """A batch is all or nothing even when its writer is killed; without it a reader may see a part of that batch."""
    TTL = enum.auto()
    """`ttl=`: a session expires as a whole, that long after its last append."""
    TAIL_READ = enum.auto()
    """`last=` and `after=` cost what they return."""
    DELETE = enum.auto()
    """`delete(ids)`."""
    REPLACE = enum.auto()
    """`replace`."""
    SESSIONS = enum.auto()
    """`sessions`."""
    STATE = enum.auto()
    """`get_state`, `put_state` and `update_state`."""
    ERASE = enum.auto()
    """`erase`."""
    LEAVES_NO_TRACE = enum.auto()
    """Nothing of a session is left after `clear`: no key, row, file or counter."""
    LARGE_SESSIONS = enum.auto()
    """A session has any number of messages, of a megabyte and more; without it what is too large is refused."""
    PERSISTENT = enum.auto()
    """What was stored is there after the store was closed, and for a process that opens it later."""
    MANY_PROCESSES = enum.auto()
    """Several processes may use a session at once."""
    EDIT = enum.auto()
    """`edit` and what is made of it: a transcript is changed only if it is still as the caller read it."""
    NEWEST = enum.auto()
    """`sessions(order="newest")`."""


TIMEOUT = 10.0
"""Seconds that a call of a store which opens its own client takes at most, unless it is told."""
CONNECT_TIMEOUT = 5.0
"""Seconds that it takes at most to connect."""
STORES_WITH_TTL = ("memory", "file", "sql", "redis", "upstash", "mongodb", "dynamodb", "azure-table", "cosmosdb")
"""The stores of this package that have `Capability.TTL`: an error names them, and imports none of their drivers."""


class StoreOptions(TypedDict, total=False):
    """Options that every store takes.

    Attributes:
        codec: Transforms what is stored of each message: encryption, compression.
        before_save: Called with each message before it is stored; returns the message to store, or `None` for none.
            If it raises, nothing is stored.
        on_unserializable: What to do about an object that cannot be stored: describe its type, or raise.
        on_corrupt: What to do about a record that cannot be read: raise, or skip it with a warning.
        ttl: Seconds after its last append at which a session expires, on stores that have `Capability.TTL`.
    """

    codec: Codec | None
    before_save: Callable[[BaseMessage], BaseMessage | None] | None
    on_unserializable: Literal["describe", "raise"]
    on_corrupt: Literal["raise", "skip"]
    ttl: int | None


def check_record_options(options: StoreOptions) -> dict[str, Any]:
    """Return the options of the record format.

    Raises:
        ConfigurationError: One cannot be used.
    """
    codec, hook = options.get("codec"), options.get("before_save")
    if codec is not None and not (hasattr(codec, "encode") and hasattr(codec, "decode")):
        raise ConfigurationError(f"codec must have encode(text) and decode(text), unlike {type(codec).__name__}.")
    if hook is not None and not callable(hook):
        raise ConfigurationError(f"before_save must be callable, unlike {type(hook).__name__}.")
    for name, values in {"on_unserializable": ("describe", "raise"), "on_corrupt": ("raise", "skip")}.items():
        if options.get(name, values[0]) not in values:
            raise ConfigurationError(f"{name} must be one of {values}, not {options.get(name)!r}.")
    return dict(options)


def check_ttl(ttl: object) -> int | None:
    """Return `ttl` if it is a time to live in seconds.

    Raises:
        ConfigurationError: It is not a positive whole number.
    """
    if ttl is not None and (not isinstance(ttl, int) or isinstance(ttl, bool) or ttl <= 0):
        raise ConfigurationError(f"ttl must be a positive whole number of seconds, not {ttl!r}.")
    return ttl


def check_timeout(timeout: object) -> float | None:
    """Return `timeout` if it is a finite number of seconds, or `None`.

    Raises:
        ConfigurationError: It is something else.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise ConfigurationError(f"timeout must be a finite number of seconds above 0, not {timeout!r}.")
    return float(timeout)


def check_timeout_of_client(client: object, timeout: float | None) -> None:
    """Refuse a time-out for a blocking client of the caller.

    Raises:
        ConfigurationError: Both are given.
    """
    if client is not None and timeout is not None:
        raise ConfigurationError("A blocking client of your own keeps its own time-outs: timeout does not go with it.")


def check_max_connections(max_connections: object, options: Container[str] = (), *names: str) -> None:
    """Check the number of connections of a pool.

    Args:
        max_connections: The number; `None` for that of the store.
        options: Options of the driver.
        names: Those which also say how large its pool is.

    Raises:
        ConfigurationError: It is not a positive whole number, or the options of the driver say it too.
    """
    if max_connections is None:
        return
    if not isinstance(max_connections, int) or isinstance(max_connections, bool) or max_connections <= 0:
        raise ConfigurationError(f"max_connections must be a positive whole number, not {max_connections!r}.")
    for name in names:
        if name in options:
            raise ConfigurationError(f"max_connections and the driver's {name} are the same: give one of them.")


def check_number(name: str, value: int | None) -> int | None:
    """Return `value` if it is a whole number of at least 0, or `None`.

    Raises:
        ConfigurationError: It is something else.
    """
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ConfigurationError(f"{name} must be a whole number of at least 0, not {value!r}.")
    return value


def check_limit(last: int | None, first: int | None) -> int | None:
    """Return the one of both that is given.

    Raises:
        ConfigurationError: Both are given, or one is not a whole number of at least 0.
    """
    if last is not None and first is not None:
        raise ConfigurationError("Give last or first, not both.")
    return check_number("last", last) if first is None else check_number("first", first)


def position_number(position: str) -> int:
    """Return the number that a position token begins with, as `12` or `12-5f3a`.

    Raises:
        ConfigurationError: It is not such a token.
    """
    number = position.partition("-")[0] if isinstance(position, str) else ""
    if not number.isdecimal():
        raise bad_position(position)
    return int(number)


def bad_position(position: object) -> ConfigurationError:
    """The error for an `after=` that is no position of the store."""
    return ConfigurationError(f"after must be the position of a record of this store, not {position!r}.")


def check_given_clients(
    kind: str,
    *,
    client: object,
    async_client: object,
    is_blocking: Callable[[Any], bool],
    is_native: Callable[[Any], bool],
    instead_of: Mapping[str, object],
) -> bool:
    """Tell whether the caller gave clients of their own, and whether these will do.

    Messages name no argument, because the drop-in classes call it as the ecosystem does.

    Args:
        kind: What they should be, for messages, such as `redis`.
        client: The blocking one.
        async_client: The async one.
        is_blocking: Whether an object is a blocking client of this kind.
        is_native: Whether an object is an async client of this kind.
        instead_of: The arguments that say where to connect to, by name: one of them, the first, is needed where no
            client is given, and none of them goes with one.

    Raises:
        ConfigurationError: A client is of another kind, or both were given, or nothing.
    """
    given = client is not None or async_client is not None
    named = [name for name, value in instead_of.items() if value]
    if given and named:
        raise ConfigurationError(f"Pass {named[0]}, or clients of your own, and not both.")
    if client is not None and not is_blocking(client):
        raise ConfigurationError(f"The client must be a blocking client of {kind}, not {kind_of(client)}.")
    if async_client is not None and not is_native(async_client):
        raise ConfigurationError(f"The async client must be an asyncio client of {kind}, not {kind_of(async_client)}.")
    if not given and instead_of and not next(iter(instead_of.values())):
        raise ConfigurationError(f"Pass {next(iter(instead_of))}, or clients of your own.")
    return given


def kind_of(client: object) -> str:
    """The full name of the class of a client, for messages."""
    return f"{type(client).__module__}.{type(client).__name__}"
