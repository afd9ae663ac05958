"""How azure-data-tables connects: URLs, connection strings and credentials, and the clients for them."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import azure.data.tables
import azure.data.tables.aio
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.pipeline.transport import AioHttpTransport, RequestsTransport
from azure.core.utils import parse_connection_string

from langchain_histories._secrets import refused
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

_FORM = (
    "azure-table://[account:key@]account.table.core.windows.net/table, or with a shared access signature behind the "
    "table, ?sv=...&sig=..."
)
_CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
_MAX_CONNECTIONS = 50


@dataclass(frozen=True, slots=True)
class UrlParts:
    """What a URL names. Its `repr` shows no secret.

    Attributes:
        account: The URL without key, signature and table, as it may be shown.
        endpoint: Where the driver connects to; an empty text without a host.
        name_and_key: Name and key of the account, if the URL has them.
        signature: The shared access signature, if the URL has one.
        table: The table, if the URL has one.
    """

    account: str
    endpoint: str
    name_and_key: tuple[str, str] | None = field(repr=False)
    signature: str = field(repr=False)
    table: str


def clients_of(
    url: str | None,
    *,
    connection_string: str | None,
    client: azure.data.tables.TableServiceClient | None,
    async_client: azure.data.tables.aio.TableServiceClient | None,
    client_options: dict[str, Any] | None,
    max_connections: int | None,
    timeout: float | None,
) -> tuple[Clients[Any], dict[str, Any], float | None]:
    """Return the clients for an account, the options with which they are made, and how long a call may take.

    Or the caller's clients, no options, and the time.

    The table makes no difference.

    Raises:
        ConfigurationError: No account is named, or two, or clients were given besides, or of another kind.
    """
    accounts = {
        "a url or a connection_string": url or connection_string,
        "client_options": client_options,
        "max_connections": max_connections,
    }
    if check_given_clients(
        "azure.data.tables",
        client=client,
        async_client=async_client,
        is_blocking=lambda it: isinstance(it, azure.data.tables.TableServiceClient),
        is_native=lambda it: isinstance(it, azure.data.tables.aio.TableServiceClient),
        instead_of={name: value for name, value in accounts.items() if value},
    ):
        check_timeout_of_client(client, timeout)
        return Clients.shared("azure-table", client=client, async_client=async_client), {}, timeout
    parts = parts_of(url)
    if parts.endpoint and connection_string is not None:
        raise ConfigurationError("Pass a url with a host or a connection_string, and not both.")
    text = None if parts.endpoint else _checked_connection_string(connection_string)
    timeout = timeout or TIMEOUT
    options = {**_time_outs(timeout), **(client_options or {})}
    check_max_connections(max_connections, options, "transport")
    at_once = max_connections or _MAX_CONNECTIONS
    connections = _Connections(parts, text, options)
    place = (parts.endpoint, parts.name_and_key, parts.signature, text, options)
    clients: Clients[Any]
    clients = Clients.shared(
        "azure-table", *place, connect=connections.connect, close=connections.close, at_once=at_once
    )
    return clients, connections.given, timeout


def _time_outs(timeout: float) -> dict[str, Any]:
    """Return the driver's options for a time-out: a request and its second tries have it together."""
    connecting = min(timeout, CONNECT_TIMEOUT)
    # A second try helps where a kept connection has died. Before a third the driver would wait, also out of time.
    tries = {"retry_connect": 1, "retry_read": 1}
    return {**tries, "connection_timeout": connecting, "read_timeout": timeout, "timeout": timeout}


class _Connections:
    """Opens and closes clients of an account.

    Attributes:
        given: With what they are made.
    """

    def __init__(self, parts: UrlParts, connection_string: str | None, options: dict[str, Any]) -> None:
        self._endpoint, self._connection_string, self._options = parts.endpoint, connection_string, options
        self._credential: AzureNamedKeyCredential | AzureSasCredential | None = None
        if parts.name_and_key is not None:
            self._credential = AzureNamedKeyCredential(*parts.name_and_key)
        elif parts.signature:
            self._credential = AzureSasCredential(parts.signature)
        self.given = {"connection_string": connection_string, "credential": self._credential, **options}

    async def connect(self, native: bool) -> Any:
        """Open a client of the account."""
        logging.getLogger("urllib3.connectionpool").addFilter(_hide_signature)
        # The packages ask the system for its name and read many files, which takes too long for an event loop.
        return await asyncio.to_thread(self._open, native=True) if native else self._open(native=False)

    def _open(self, *, native: bool) -> Any:
        package: Any = azure.data.tables.aio if native else azure.data.tables
        options = with_transport(self._options, AioHttpTransport if native else RequestsTransport)
        try:
            if self._connection_string is not None:
                return package.TableServiceClient.from_connection_string(self._connection_string, **options)
            credential = self._credential or _default_credential(native=native)
            return package.TableServiceClient(self._endpoint, credential=credential, **options)
        except ValueError as error:
            account = self._endpoint or "of the connection string"
            failed = refused(f"The driver cannot use the account {account}.", error, None, self.given)
        raise failed

    async def close(self, client: Any) -> None:
        """Close a client, and its credential: those of azure-identity have a connection of their own."""
        await settle(client.close())
        if hasattr(client.credential, "close"):
            await settle(client.credential.close())


def parts_of(url: str | None) -> UrlParts:
    """Return what a URL names.

    Raises:
        ConfigurationError: It is of another form.
    """
    parts = split_url(url or "azure-table:", _FORM)
    is_signed = not parts.query or "sig" in parts.options
    if not is_signed or (parts.user and not parts.password):
        raise bad_url(_FORM)
    path = "".join(f"/{quote(name)}" for name in parts.names[:-1])
    protocol = "http" if parts.scheme.endswith("+http") else "https"
    name_and_key = None
    if parts.password:
        name_and_key = (parts.user or (parts.host or "").partition(".")[0], parts.password)
    endpoint = f"{protocol}://{parts.address}{path}" if parts.address else ""
    account = f"{parts.scheme}://{parts.address}{path}"
    return UrlParts(account, endpoint, name_and_key, parts.query, parts.names[-1] if parts.names else "")


def _checked_connection_string(text: str | None) -> str:
    text = text or os.environ.get(_CONNECTION_STRING)
    if not text:
        raise ConfigurationError(
            f"Pass a url with a host, a connection_string or clients, or set {_CONNECTION_STRING}."
        )
    try:
        parse_connection_string(text)
    except ValueError:
        pass
    else:
        return text
    # Not in the handler: the driver's own words, which show the string, would be the context.
    raise ConfigurationError("The connection string is not of the form that the portal shows.")


def _default_credential(*, native: bool) -> Any:
    with needs_extra("azure-table"):
        import azure.identity.aio
    return azure.identity.aio.DefaultAzureCredential() if native else azure.identity.DefaultAzureCredential()


def _hide_signature(record: logging.LogRecord) -> bool:
    """The blocking driver's HTTP library logs whole URLs, and a shared access signature is part of them."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            re.sub(r"([?&]sig=)[^&\s]+", r"\1***", value) if isinstance(value, str) else value for value in record.args
        )
    return True
