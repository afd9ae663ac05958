"""How azure-data-tables connects: URLs, connection strings and credentials, and the clients for them."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import azure.data.tables
import azure.data.tables.aio
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.utils import parse_connection_string

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import Clients, check_given_clients, needs_extra, settle

_CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
# The driver would wait seconds for a host that is down. A second try helps where a kept connection has died.
_DEFAULT_OPTIONS = {"retry_connect": 1, "connection_timeout": 10, "read_timeout": 60}


class UrlParts(NamedTuple):
    """What a URL names.

    Attributes:
        account: The URL without key, signature and table, as it may be shown.
        endpoint: Where the driver connects to; an empty text without a host.
        name_and_key: Name and key of the account, if the URL has them.
        signature: The shared access signature, if the URL has one.
        table: The table, if the URL has one.
    """

    account: str
    endpoint: str
    name_and_key: tuple[str, str] | None
    signature: str
    table: str


def clients_of(
    url: str | None,
    *,
    connection_string: str | None,
    client: azure.data.tables.TableServiceClient | None,
    async_client: azure.data.tables.aio.TableServiceClient | None,
    client_options: dict[str, Any] | None,
) -> Clients[Any]:
    """Return the clients for an account, or those of the caller. The table makes no difference.

    Raises:
        ConfigurationError: No account is named, or two, or clients were given besides, or of another kind.
    """
    accounts = {"a url or a connection_string": url or connection_string, "client_options": client_options}
    if check_given_clients(
        "azure.data.tables",
        client=client,
        async_client=async_client,
        is_blocking=lambda it: isinstance(it, azure.data.tables.TableServiceClient),
        is_native=lambda it: isinstance(it, azure.data.tables.aio.TableServiceClient),
        instead_of={name: value for name, value in accounts.items() if value},
    ):
        return Clients.shared("azure-table", client=client, async_client=async_client)
    _, endpoint, name_and_key, signature, _ = parts_of(url)
    if endpoint and connection_string is not None:
        raise ConfigurationError("Pass a url with a host or a connection_string, and not both.")
    text = None if endpoint else _checked_connection_string(connection_string)
    options = {**_DEFAULT_OPTIONS, **(client_options or {})}
    connections = _Connections(endpoint, name_and_key, signature, text, options)
    return Clients.shared(
        "azure-table",
        endpoint,
        name_and_key,
        signature,
        text,
        options,
        connect=connections.connect,
        close=connections.close,
    )


class _Connections:
    """Opens and closes clients of an account."""

    def __init__(
        self,
        endpoint: str,
        name_and_key: tuple[str, str] | None,
        signature: str,
        connection_string: str | None,
        options: dict[str, Any],
    ) -> None:
        self._endpoint, self._connection_string, self._options = endpoint, connection_string, options
        self._credential: AzureNamedKeyCredential | AzureSasCredential | None = None
        if name_and_key is not None:
            self._credential = AzureNamedKeyCredential(*name_and_key)
        elif signature:
            self._credential = AzureSasCredential(signature)

    async def connect(self, native: bool) -> Any:
        """Open a client of the account."""
        logging.getLogger("urllib3.connectionpool").addFilter(_hide_signature)
        # The packages ask the system for its name and read many files, which takes too long for an event loop.
        return await asyncio.to_thread(self._open, native=True) if native else self._open(native=False)

    def _open(self, *, native: bool) -> Any:
        package: Any = azure.data.tables.aio if native else azure.data.tables
        try:
            if self._connection_string is not None:
                return package.TableServiceClient.from_connection_string(self._connection_string, **self._options)
            credential = self._credential or _default_credential(native=native)
            return package.TableServiceClient(self._endpoint, credential=credential, **self._options)
        except ValueError as error:
            account = self._endpoint or "of the connection string"
            raise ConfigurationError(f"The driver cannot use the account {account}. See the cause.") from error

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
    parts = _split(url or "azure-table:")
    path, _, table = parts.path.rpartition("/")
    host = parts.netloc.rpartition("@")[2]
    protocol = "http" if parts.scheme.endswith("+http") else "https"
    name_and_key = None
    if parts.password:
        name = unquote(parts.username or "") or (parts.hostname or "").partition(".")[0]
        name_and_key = (name, unquote(parts.password))
    endpoint = f"{protocol}://{host}{path}" if host else ""
    return UrlParts(f"{parts.scheme}://{host}{path}", endpoint, name_and_key, parts.query, table)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # Not quoted: what looks like a port may be a piece of the key.
        raise _bad_url() from None
    is_signed = not parts.query or "sig" in parse_qs(parts.query)
    if "@" in parts.path or parts.fragment or not is_signed or (parts.username and not parts.password):
        raise _bad_url()
    return parts


def _bad_url() -> ConfigurationError:
    return ConfigurationError(
        "A URL of Azure's tables is 'azure-table://account:key@account.table.core.windows.net/table' with '/' in the "
        "key as %2F; without 'account:key@', or with a shared access signature behind the table: '?sv=...&sig=...'."
    )


def _checked_connection_string(text: str | None) -> str:
    text = text or os.environ.get(_CONNECTION_STRING)
    if not text:
        raise ConfigurationError(
            f"Pass a url with a host, a connection_string or clients, or set {_CONNECTION_STRING}."
        )
    try:
        parse_connection_string(text)
    except ValueError:
        # The driver's own words would show the string.
        raise ConfigurationError("The connection string is not of the form that the portal shows.") from None
    return text


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
