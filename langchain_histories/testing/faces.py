"""The two faces of a store, called alike: a test is written once, for sync and async methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from langchain_histories.store import MessageStore

T = TypeVar("T")


class Face:
    """One face of a store: `face(store).append(...)` is the sync method, or the async one run to its end."""

    def __init__(self, runner: asyncio.Runner | None = None) -> None:
        """Without a runner: the sync face."""
        self._runner = runner

    def __call__(self, store: MessageStore) -> Any:
        """Return the store's methods of this face."""
        return _Caller(store, self._runner)

    def either(self, function: Callable[..., T], twin: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., T]:
        """Return the function of this face: the plain one, or its async twin run to its end."""
        runner = self._runner
        return function if runner is None else lambda *args, **options: runner.run(twin(*args, **options))


class _Caller:
    def __init__(self, store: MessageStore, runner: asyncio.Runner | None) -> None:
        self._store, self._runner = store, runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        runner = self._runner
        if runner is None:
            return getattr(self._store, name)  # type: ignore[no-any-return]
        method = getattr(self._store, "a" + name)
        return lambda *args, **options: runner.run(method(*args, **options))
