"""How the SDK connects: by a URL, with the access key in it or in the environment."""

from __future__ import annotations

import logging
import os
from typing import Any

import tablestore  # type: ignore[import-untyped]  # the SDK has no types

from langchain_histories._urls import split_url
from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import (
    CONNECT_TIMEOUT,
    TIMEOUT,
    Clients,
    check_given_clients,
    check_max_connections,
    check_timeout_of_client,
    settle,
)
from langchain_histories.stores.shared.sockets import pools_in_time

_MAX_CONNECTIONS = 50
_FORM = "tablestore://[access_key_id:access_key_secret@]instance.region.ots.aliyuncs.com[/instance]"
# The SDK logs access tokens and message texts at DEBUG, and each refused condition as an error.
_LOGGER = "langchain_histories.tablestore"
logging.getLogger(_LOGGER).setLevel(logging.CRITICAL)


def clients_of(
    url: str | None,
    client: Any,
    async_client: Any,
    *,
    client_options: dict[str, Any] | None,
    max_connections: int | None,
    timeout: float | None,
) -> tuple[Clients[Any], dict[str, Any], float | None]:
    """Return the clients for a URL, the options with which they are made, and how long a call may take.

    Or the caller's clients, no options, and the time.

    Raises:
        ConfigurationError: Neither was given, or both, or a client of another kind, or a URL that cannot be used.
    """
    if check_given_clients(
        "tablestore",
        client=client,
        async_client=async_client,
        is_blocking=lambda it: isinstance(it, tablestore.OTSClient),
        is_native=lambda it: isinstance(it, tablestore.AsyncOTSClient),
        instead_of={"url": url, "client_options": client_options, "max_connections": max_connections},
    ):
        check_timeout_of_client(client, timeout)
        return Clients.shared("tablestore", client=client, async_client=async_client), {}, timeout
    check_max_connections(max_connections, client_options or {}, "max_connection")
    timeout = timeout or TIMEOUT
    options = {
        "max_connection": max_connections or _MAX_CONNECTIONS,
        "socket_timeout": timeout,
        **options_of_url(url),
        **(client_options or {}),
    }
    if not (options.get("access_key_id") or "credentials_provider" in options):
        raise ConfigurationError(
            "A Tablestore URL needs an access key, in itself or in the environment: TABLESTORE_ACCESS_KEY_ID and "
            "TABLESTORE_ACCESS_KEY_SECRET."
        )

    async def connect(native: bool) -> Any:
        if native:
            waits = options["socket_timeout"]
            each = (min(waits, CONNECT_TIMEOUT), waits) if isinstance(waits, int | float) else waits
            return tablestore.AsyncOTSClient(**{**options, "socket_timeout": each})
        client = tablestore.OTSClient(**options)
        pools_in_time(client.connection.pool)
        return client

    # Not by the URL, because its access key may be in the environment.
    clients: Clients[Any]
    clients = Clients.shared("tablestore", options, connect=connect, close=_close, at_once=options["max_connection"])
    return clients, options, timeout


async def _close(client: Any) -> None:
    if isinstance(client, tablestore.AsyncOTSClient):
        await settle(client.close())
    else:
        client.connection.pool.clear()


def options_of_url(url: Any) -> dict[str, Any]:
    """Return the arguments for the clients of the SDK.

    Raises:
        ConfigurationError: The URL cannot be read, or has no host, or an unknown option.
    """
    parts = split_url(url, _FORM)
    if not parts.host:
        raise ConfigurationError(f"A Tablestore URL names the endpoint: {_FORM}.")
    if set(parts.options) - {"region"}:
        # The other name is not quoted, because behind an unescaped '?' it may be a piece of the secret.
        raise ConfigurationError("A Tablestore URL has one option, 'region'.")
    port = "" if parts.port is None else f":{parts.port}"
    return {
        "end_point": f"{'http' if parts.scheme.endswith('+http') else 'https'}://{parts.host}{port}",
        "instance_name": parts.path or parts.host.partition(".")[0],
        "region": parts.options.get("region") or None,
        "logger_name": _LOGGER,
        **_credentials(parts.user, parts.password),
    }


def _credentials(key_id: str | None, secret: str | None) -> dict[str, str | None]:
    """The access key: that of the URL, or one of the environment."""
    if key_id is not None:
        return {"access_key_id": key_id, "access_key_secret": secret or ""}
    if "TABLESTORE_ACCESS_KEY_ID" in os.environ:
        return {
            "access_key_id": os.environ["TABLESTORE_ACCESS_KEY_ID"],
            "access_key_secret": os.environ.get("TABLESTORE_ACCESS_KEY_SECRET"),
        }
    return {
        "access_key_id": os.environ.get("ALIBABA_CLOUD_ACCESS_KEY_ID"),
        "access_key_secret": os.environ.get("ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
        "sts_token": os.environ.get("ALIBABA_CLOUD_SECURITY_TOKEN"),
    }
