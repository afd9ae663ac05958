"""The two faces of a store, called alike: a test is written once, for sync and async methods."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from langchain_histories.store import MessageStore

T = TypeVar("T")


class Face:
    """One face of a store: `face(store).append(...)` is the sync method, or the async one run to its end."""

    def __init__(self, runner: asyncio.Runner | None = None) -> None:
        """Without a runner: the sync face."""
        # Not `runner.run`, which before Python 3.12 describes each result in a text that nobody sees.
        self._finish = runner and runner.get_loop().run_until_complete

    def __call__(self, store: MessageStore) -> Any:
        """Return the store's methods of this face."""
        return _Caller(store, self._finish)

    def either(self, function: Callable[..., T], twin: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., T]:
        """Return the function of this face: the plain one, or its async twin run to its end."""
        finish = self._finish
        return function if finish is None else lambda *args, **options: finish(twin(*args, **options))

    def at_once(
        self, store: MessageStore, calls: Sequence[tuple[str, tuple[Any, ...]]]
    ) -> list[tuple[float, Exception | None]]:
        """Make calls at the same time, from threads or on the loop; return the seconds and the error of each.

        Args:
            store: The store.
            calls: The sync name of each method, and its arguments.
        """
        if self._finish is None:
            with ThreadPoolExecutor(len(calls)) as pool:
                return list(pool.map(lambda call: _timed(getattr(store, call[0]), call[1]), calls))

        async def run() -> list[tuple[float, Exception | None]]:
            return await asyncio.gather(*(_atimed(getattr(store, "a" + name), args) for name, args in calls))

        return self._finish(run())


def _timed(method: Callable[..., Any], args: tuple[Any, ...]) -> tuple[float, Exception | None]:
    began, found = time.monotonic(), None
    try:
        method(*args)
    except Exception as error:  # noqa: BLE001  # whatever it is, the test says what it should have been
        found = error
    return time.monotonic() - began, found


async def _atimed(method: Callable[..., Any], args: tuple[Any, ...]) -> tuple[float, Exception | None]:
    began, found = time.monotonic(), None
    try:
        await method(*args)
    except Exception as error:  # noqa: BLE001  # as above
        found = error
    return time.monotonic() - began, found


class _Caller:
    def __init__(self, store: MessageStore, finish: Callable[[Coroutine[Any, Any, Any]], Any] | None) -> None:
        self._store, self._finish = store, finish

    def __getattr__(self, name: str) -> Callable[..., Any]:
        finish = self._finish
        if finish is None:
            return getattr(self._store, name)  # type: ignore[no-any-return]
        method = getattr(self._store, "a" + name)
        return lambda *args, **options: finish(method(*args, **options))
