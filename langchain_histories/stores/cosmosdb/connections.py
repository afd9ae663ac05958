"""How azure-cosmos connects: URLs, connection strings and credentials, and the clients for them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import weakref
from dataclasses import dataclass, field
from typing import Any

import azure.cosmos
import azure.cosmos.aio
from azure.core.pipeline.transport import AioHttpTransport, RequestsTransport

from langchain_histories._urls import bad_url, split_url
from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import (
    CONNECT_TIMEOUT,
    TIMEOUT,
    Clients,
    check_given_clients,
    check_max_connections,
    check_timeout_of_client,
    needs_extra,
    settle,
)
from langchain_histories.stores.shared.azure_transport import with_transport

_MAX_CONNECTIONS = 50
_FORM = "cosmosdb://[:key@]account.documents.azure.com/database/container"


@dataclass(frozen=True, slots=True)
class UrlParts:
    """What a URL names; endpoint and key may stand elsewhere."""

    endpoint: str
    key: str | None = field(repr=False)
    database: str
    container: str


def clients_of(
    parts: UrlParts,
    *,
    connection_string: str | None,
    credential: Any,
    async_credential: Any,
    client: azure.cosmos.CosmosClient | None,
    async_client: azure.cosmos.aio.CosmosClient | None,
    client_options: dict[str, Any] | None,
    max_connections: int | None,
    timeout: float | None,
) -> tuple[Clients[Any], float | None]:
    """Return the clients for an account, or those of the caller, and how long a call may take.

    Database and container make no difference.

    Raises:
        ConfigurationError: Neither was given, or both, or a client of another kind, or a key twice.
    """
    endpoint, key = parts.endpoint, parts.key
    if connection_string is not None:
        endpoint, key_in_string = _endpoint_and_key(connection_string, endpoint)
        key = key or key_in_string
    if check_given_clients(
        "azure-cosmos",
        client=client,
        async_client=async_client,
        is_blocking=lambda it: isinstance(it, azure.cosmos.CosmosClient),
        is_native=lambda it: isinstance(it, azure.cosmos.aio.CosmosClient),
        instead_of={
            "an endpoint, in the url or the connection_string": endpoint,
            "credential": credential,
            "async_credential": async_credential,
            "client_options": client_options,
            "max_connections": max_connections,
        },
    ):
        check_timeout_of_client(client, timeout)
        return Clients.shared("cosmosdb", client=client, async_client=async_client), timeout
    credential, async_credential = _credentials(key, credential, async_credential)
    options = client_options or {}
    check_max_connections(max_connections, options, "transport")
    timeout = timeout or TIMEOUT
    options = {"connection_timeout": min(timeout, CONNECT_TIMEOUT), "read_timeout": timeout, **options}
    connections = _Connections(endpoint, credential, async_credential, options)
    clients: Clients[Any] = Clients.shared(
        "cosmosdb",
        endpoint,
        credential,
        async_credential,
        options,
        connect=connections.connect,
        close=connections.close,
        native=credential is None or async_credential is not None,
        at_once=max_connections or _MAX_CONNECTIONS,
    )
    return clients, timeout


class _Connections:
    """Opens and closes clients of an account, and the credentials that it found itself."""

    def __init__(self, endpoint: str, credential: Any, async_credential: Any, options: dict[str, Any]) -> None:
        self._endpoint, self._options = endpoint, options
        self._credential, self._async_credential = credential, async_credential
        self._own_credentials: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    async def connect(self, native: bool) -> Any:
        """Open a client."""
        if not native:
            return self._open(azure.cosmos.CosmosClient, self._credential, native=False)
        # The packages ask the system for its name and read many files, which takes too long for an event loop.
        client = await asyncio.to_thread(self._open, azure.cosmos.aio.CosmosClient, self._async_credential, native=True)
        try:
            await client.__aenter__()
        except BaseException:
            await self.close(client)
            raise
        return client

    def _open(self, kind: Any, credential: Any, *, native: bool) -> Any:
        own = _default_credential(native=native) if credential is None else None
        options = with_transport(self._options, AioHttpTransport if native else RequestsTransport)
        client = kind(self._endpoint, own or credential, **options)
        if own is not None:
            self._own_credentials[client] = own
        return client

    async def close(self, client: Any) -> None:
        """Close a client, and its credential if it was found here."""
        await settle(client.close())
        if (own := self._own_credentials.pop(client, None)) is not None:
            await settle(own.close())


def parts_of(url: str) -> UrlParts:
    """Return what a URL names.

    Raises:
        ConfigurationError: It is of another form.
    """
    parts = split_url(url, _FORM)
    if len(parts.names) != 2 or not all(parts.names) or parts.query or parts.user:  # noqa: PLR2004
        raise bad_url(_FORM)
    protocol = "http" if parts.scheme.endswith("+http") else "https"
    endpoint = f"{protocol}://{parts.address}/" if parts.address else ""
    return UrlParts(endpoint, parts.password or None, *parts.names)


def _endpoint_and_key(connection_string: str, endpoint: str) -> tuple[str, str | None]:
    settings = dict(part.split("=", 1) for part in connection_string.split(";") if "=" in part)
    if endpoint or "AccountEndpoint" not in settings:
        raise ConfigurationError(
            "A connection_string has AccountEndpoint and AccountKey, and goes with a URL without a host: "
            "'cosmosdb:///database/container'."
        )
    return settings["AccountEndpoint"], settings.get("AccountKey")


def _credentials(key: str | None, credential: Any, async_credential: Any) -> tuple[Any, Any]:
    """The credentials of both clients; `None` if they are to be found."""
    if key is not None and (credential is not None or async_credential is not None):
        raise ConfigurationError("Give a key in the url or the connection_string, or a credential, and not both.")
    credential = key if credential is None else credential
    if isinstance(credential, str):
        if not _is_base64(credential):
            raise ConfigurationError("The key of Cosmos DB is not one: it is Base64, of 88 characters.")
        return credential, credential
    return credential, async_credential


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text)
    except (binascii.Error, ValueError):
        return False
    return True


def _default_credential(*, native: bool) -> Any:
    with needs_extra("cosmosdb"):
        import azure.identity.aio
    return azure.identity.aio.DefaultAzureCredential() if native else azure.identity.DefaultAzureCredential()
