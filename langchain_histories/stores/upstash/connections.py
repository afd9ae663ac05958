"""Where an Upstash database is, and how upstash-redis connects to it."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from urllib.parse import quote, unquote

import httpx
import upstash_redis
import upstash_redis.asyncio

from langchain_histories._urls import bad_url, split_url
from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import (
    CONNECT_TIMEOUT,
    TIMEOUT,
    Clients,
    check_given_clients,
    check_max_connections,
    check_timeout_of_client,
    settle,
    time_left,
)
from langchain_histories.stores.shared.sockets import in_time

URL_VARIABLE = "UPSTASH_REDIS_REST_URL"
TOKEN_VARIABLE = "UPSTASH_REDIS_REST_TOKEN"  # noqa: S105  # its name
_MAX_CONNECTIONS = 50
_FORM = "upstash://:<token>@<host> or upstash://<host>?token=<token>"


def clients_of(
    url: str | None,
    token: str | None,
    *,
    client: Any,
    async_client: Any,
    timeout: float | None,
    client_options: dict[str, Any] | None,
    max_connections: int | None,
) -> tuple[str | None, str | None, Clients[Any], float | None]:
    """Return address and token, which a URL or the environment names, clients, and how long a call may take.

    Of the caller's clients, these and the time alone.

    Raises:
        ConfigurationError: The URL or the token cannot be used, a client is of another kind, or both were given.
    """
    if client is not None or async_client is not None:
        check_given_clients(
            "upstash_redis",
            client=client,
            async_client=async_client,
            is_blocking=lambda it: isinstance(it, upstash_redis.Redis),
            is_native=lambda it: isinstance(it, upstash_redis.asyncio.Redis),
            instead_of={
                "url": url,
                "token": token,
                "client_options": client_options,
                "max_connections": max_connections,
            },
        )
        check_timeout_of_client(client, timeout)
        return None, None, Clients.shared("upstash", client=client, async_client=async_client), timeout
    address, token = _address_and_token(url, token)
    check_max_connections(max_connections)
    timeout = timeout or TIMEOUT
    at_once = max_connections or _MAX_CONNECTIONS
    connections = _Connections(address, token, timeout, at_once, client_options or {})
    place = (address, token, timeout, client_options)
    clients: Clients[Any]
    clients = Clients.shared("upstash", *place, connect=connections.connect, close=connections.close, at_once=at_once)
    return address, token, clients, timeout


class _Connections:
    """Opens and closes clients for an address."""

    def __init__(
        self, address: str, token: str, timeout: float, max_connections: int, client_options: dict[str, Any]
    ) -> None:
        self._address, self._token, self._max_connections = address, token, max_connections
        self._timeout, self._client_options = timeout, client_options

    async def connect(self, native: bool) -> Any:
        """Open a client."""
        if not native:
            return self._open(upstash_redis.Redis)
        # The driver reads the certificates of the system at once, which takes too long for an event loop.
        return await settle(asyncio.to_thread(self._open, upstash_redis.asyncio.Redis))

    def _open(self, kind: Any) -> Any:
        # The driver would send a batch again when the answer got lost: the batch could be stored twice.
        client = kind(self._address, self._token, **{"rest_retries": 0, **self._client_options})
        # The driver would wait for ever, with connections of a number of its own, and has no option for either.
        limits = httpx.Limits(max_connections=self._max_connections, max_keepalive_connections=self._max_connections)
        connecting = min(self._timeout, CONNECT_TIMEOUT)
        options: Any = {"timeout": httpx.Timeout(self._timeout, connect=connecting), "limits": limits}
        if kind is upstash_redis.Redis:
            http: Any = httpx.Client(event_hooks={"request": [_end_in_time]}, **options)
        else:
            http = httpx.AsyncClient(**options)
        client._http._client = http  # noqa: SLF001
        return client

    async def close(self, client: Any) -> None:
        """Close a client."""
        await settle(client.close())


def _end_in_time(request: httpx.Request) -> None:
    """Give a request, however slowly the answer comes, what is left of the time of its call."""
    request.extensions["trace"] = _opened
    if (left := time_left()) is not None:
        waits = request.extensions["timeout"]
        request.extensions["timeout"] = {name: min(wait, max(left, 0.001)) for name, wait in waits.items()}


def _opened(event: str, info: dict[str, Any]) -> None:
    """Take a connection that httpx has opened."""
    if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
        in_time(info["return_value"].get_extra_info("socket"))


def _address_and_token(url: str | None, token: str | None) -> tuple[str, str]:
    """Return the REST address and the token, from the arguments or else from the environment.

    Raises:
        ConfigurationError: They cannot be used, or one is missing.
    """
    if not url or url == "upstash://":
        url = os.environ.get(URL_VARIABLE, "")
        if not url:
            raise ConfigurationError(
                f"Upstash: a url is missing, such as 'upstash://:<token>@<host>', and {URL_VARIABLE} is not set."
            )
    parts = split_url(url, _FORM)
    if parts.scheme not in ("upstash", "upstash+http", "https", "http"):
        raise ConfigurationError(
            f"Upstash: the url is the one for REST, 'https://<host>' or 'upstash://<host>', not {parts.scheme!r}; "
            "for 'rediss://' use the Redis store."
        )
    if parts.user:
        # Not repeated, because it may be the token.
        raise ConfigurationError(f"Upstash: the url is without a user's name: {_FORM}.")
    name, _, value = parts.query.partition("=")
    if not parts.host or parts.port == 0 or name not in ("", "token"):
        raise bad_url(_FORM)
    token = token or parts.password or unquote(value) or os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise ConfigurationError(
            f"Upstash: a token is missing: in the url, as token=, or in the environment's {TOKEN_VARIABLE}."
        )
    scheme = "http" if parts.scheme in ("http", "upstash+http") else "https"
    path = "".join(f"/{quote(name)}" for name in parts.names).rstrip("/")
    return f"{scheme}://{parts.address}{path}", token
