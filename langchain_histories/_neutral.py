"""One `async def` body over an async client or over its blocking twin.

A store writes each operation once, as a coroutine typed against the *async* client of its driver. Over that client it
is awaited as usual. Over the blocking twin, whose calls have already returned when they are "awaited", nothing in the
body suspends, so `drive` finishes it with a single `send(None)`: no event loop, no thread, no generated code. The
technique is that of the Gel and Vercel Python clients.

It holds as long as a body awaits nothing but client calls, through `settle`, `entered` and `each`, a `pause`, or other
bodies of the same kind. `tests/unit_tests/test_neutral.py` checks that over the source.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from langchain_histories._deadlines import answered, in_turn

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Iterator
    from contextlib import AbstractContextManager

T = TypeVar("T")

_Lock = type(threading.Lock())
_turn: ContextVar[Callable[[], Awaitable[None]] | None] = ContextVar("langchain_histories_turn", default=None)


@contextmanager
def taking_turns(turn: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Have what is settled in this block go on when `turn` lets it.

    The answers of a hundred connections may come at once, and what is made of them would keep the loop for that long.
    """
    token = _turn.set(turn)
    try:
        yield
    finally:
        _turn.reset(token)


def drive(operation: Coroutine[Any, Any, T]) -> T:
    """Finish an operation that runs over a blocking client.

    Raises:
        RuntimeError: The operation suspended, so its client was not a blocking one.
    """
    try:
        operation.send(None)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    finally:
        operation.close()
    raise RuntimeError("internal error: an operation over a blocking client suspended")


@overload
async def settle(result: Awaitable[T]) -> T: ...


@overload
async def settle(result: T) -> T: ...


async def settle(result: Awaitable[T] | T) -> T:
    """What a client call resolves to; a blocking client has already returned it."""
    if hasattr(type(result), "__await__"):
        result = await cast("Awaitable[T]", result)
        if (turn := _turn.get()) is not None:
            await turn()
    answered()
    return cast("T", result)


@asynccontextmanager
async def entered(manager: AbstractAsyncContextManager[T]) -> AsyncGenerator[T]:
    """Enter a connection, a transaction or a lock, of either kind; for a lock a call waits as long as it has time."""
    if isinstance(manager, AbstractAsyncContextManager):
        async with manager as value:
            yield value
    else:
        blocking: Any = in_turn(manager) if isinstance(manager, _Lock) else manager
        with cast("AbstractContextManager[T]", blocking) as value:
            yield value


async def each(items: AsyncIterable[T]) -> AsyncGenerator[T]:
    """Walk a cursor or a pager, of either kind."""
    if hasattr(items, "__aiter__"):
        async for item in items:
            answered()
            yield item
    else:
        for item in cast("Iterable[T]", items):
            answered()
            yield item


async def pause(seconds: float, *, is_async: bool) -> None:
    """Wait before another try: on the event loop if the body runs over an async client, else in this thread."""
    if is_async:
        await asyncio.sleep(seconds)
    else:
        time.sleep(seconds)  # noqa: ASYNC251  # over a blocking client there is no event loop
