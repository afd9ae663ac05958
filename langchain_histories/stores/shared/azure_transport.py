"""How the clients of Azure's packages send requests: within the time of the call, and to connect once."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from langchain_histories.stores.base import deadline
from langchain_histories.stores.shared.sockets import pools_in_time

if TYPE_CHECKING:
    import requests

# The errors of requests and aiohttp.
_NOT_CONNECTED = ("ConnectTimeout", "ConnectionTimeoutError")


def with_transport(options: dict[str, Any], usual: Any) -> dict[str, Any]:
    """Return the options for a client, with a transport of ours unless they name one.

    Args:
        options: The options.
        usual: Azure's class of transports for such a client.
    """
    if "transport" in options:
        return options
    kind = _blocking(usual) if hasattr(usual, "__enter__") else _native(usual)
    return {**options, "transport": kind(**options)}


@functools.cache
def _blocking(usual: Any) -> Any:
    class Transport(usual):  # type: ignore[misc]  # Azure's
        def _init_session(self, session: requests.Session) -> None:
            super()._init_session(session)
            for adapter in session.adapters.values():
                pools_in_time(adapter.poolmanager)  # type: ignore[attr-defined]  # the adapters are Azure's own

        def send(self, request: Any, **options: Any) -> Any:
            try:
                return super().send(request, **options)
            except Exception as error:
                _end(error)
                raise

    return Transport


@functools.cache
def _native(usual: Any) -> Any:
    class Transport(usual):  # type: ignore[misc]  # Azure's
        async def send(self, request: Any, **options: Any) -> Any:
            try:
                return await super().send(request, **options)
            except Exception as error:
                _end(error)
                raise

    return Transport


def _end(error: Exception) -> None:
    """Raise what Azure's policies do not try again when the time of the call is over, or of connecting."""
    limit = deadline()
    is_over = limit is not None and not limit.is_idle and limit.is_over()
    if is_over or type(getattr(error, "inner_exception", None)).__name__ in _NOT_CONNECTED:
        raise TimeoutError(str(error)) from error
