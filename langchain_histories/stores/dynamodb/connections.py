"""How boto3 and aiobotocore connect: URLs of DynamoDB, and the clients for them."""

from __future__ import annotations

import asyncio
import functools
import re
from typing import Any

import boto3
import botocore.session
from aiobotocore.client import AioBaseClient
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ConnectTimeoutError, NoRegionError, ProfileNotFound
from botocore.loaders import Loader, create_loader

from langchain_histories._secrets import refused
from langchain_histories._urls import bad_url, split_url
from langchain_histories.stores.base import (
    CONNECT_TIMEOUT,
    TIMEOUT,
    Clients,
    check_given_clients,
    check_max_connections,
    check_timeout_of_client,
    deadline,
    settle,
)
from langchain_histories.stores.shared.sockets import pools_in_time

# The driver's own retries, with backoff and jitter, of requests that were throttled or did not arrive. The service
# recognizes a transaction that it has already done.
_RETRIES: Any = {"mode": "standard"}
_MAX_CONNECTIONS = 50
_FORM = "dynamodb://[access_key_id:secret_access_key@][region]/table[?endpoint_url=...]"


def clients_of(
    url: str | None,
    client: BaseClient | None,
    async_client: AioBaseClient | None,
    boto3_session: boto3.Session | None,
    client_options: dict[str, Any] | None,
    *,
    max_connections: int | None,
    timeout: float | None,
) -> tuple[Clients[Any], float | None]:
    """Return the clients for a URL, options and a session, or those of the caller, and how long a call may take.

    The table makes no difference.

    Raises:
        ConfigurationError: The URL is of another form, or clients were given besides, or of another kind.
    """
    places = {
        "url": url,
        "client_options": client_options,
        "boto3_session": boto3_session,
        "max_connections": max_connections,
    }
    if check_given_clients(
        "dynamodb",
        client=client,
        async_client=async_client,
        is_blocking=lambda it: _is_for_dynamodb(it) and not isinstance(it, AioBaseClient),
        is_native=lambda it: _is_for_dynamodb(it) and isinstance(it, AioBaseClient),
        instead_of={name: value for name, value in places.items() if value},
    ):
        size = _MAX_CONNECTIONS if async_client is None else async_client.meta.config.max_pool_connections
        check_timeout_of_client(client, timeout)
        return Clients.shared("dynamodb", client=client, async_client=async_client, at_once=size), timeout
    options = {**parts_of(url)[1], **(client_options or {})}
    check_max_connections(max_connections, options, "config")
    given: int | None = getattr(options.get("config"), "max_pool_connections", None)
    at_once = max_connections or given or _MAX_CONNECTIONS
    timeout = timeout or TIMEOUT
    connections = _Connections(options, boto3_session, at_once, timeout)
    clients: Clients[Any] = Clients.shared(
        "dynamodb",
        options,
        boto3_session,
        timeout,
        connect=connections.connect,
        close=connections.close,
        native=boto3_session is None,
        at_once=at_once,
    )
    return clients, timeout


@functools.cache
def _loader() -> Loader:
    """What reads the descriptions of services from files, once: that takes longer than all else of opening a client."""
    return create_loader()


class _Connections:
    """Opens and closes clients with these options."""

    def __init__(
        self, options: dict[str, Any], session: boto3.Session | None, max_connections: int, timeout: float
    ) -> None:
        self._options, self._session = options, session
        self._defaults: dict[str, Any] = {
            "retries": _RETRIES,
            "max_pool_connections": max_connections,
            "connect_timeout": min(timeout, CONNECT_TIMEOUT),
            "read_timeout": timeout,
        }

    async def connect(self, native: bool) -> Any:
        """Open a client."""
        try:
            if not native:
                if self._session is None:
                    client = self._create(botocore.session.get_session(), Config)
                else:
                    options = {"config": Config(**self._defaults), **self._options}
                    client = self._session.client("dynamodb", **options)
                pools_in_time(client._endpoint.http_session._manager)  # noqa: SLF001  # botocore has no name for it
            else:
                # Reading configuration and descriptions from files takes too long for an event loop.
                aio_session = await asyncio.to_thread(self._aio_session)
                client = await self._create(aio_session, AioConfig).__aenter__()
        except (NoRegionError, ProfileNotFound, TypeError, ValueError) as error:
            failed = refused(
                "The driver refuses the options for DynamoDB, or there is no region: dynamodb://eu-west-1/table.",
                error,
                None,
                self._options,
            )
        else:
            client.meta.events.register_first("needs-retry.dynamodb", _end_in_time)
            return client
        raise failed

    def _aio_session(self) -> AioSession:
        """Return a session that has read its configuration, and fill the loader with the service's descriptions."""
        session = get_session()
        session.get_scoped_config()
        self._create(botocore.session.get_session(), Config).get_waiter("table_exists")
        return session

    def _create(self, session: Any, config: Any) -> Any:
        session.register_component("data_loader", _loader())
        return session.create_client("dynamodb", **{"config": config(**self._defaults), **self._options})

    async def close(self, client: Any) -> None:
        """Close a client."""
        await settle(client.close())


def _end_in_time(caught_exception: Exception | None, **_: Any) -> None:
    """Try no more when the time of the call is over, or of connecting: botocore has three tries, and waits before each.

    Raises:
        Exception: What was caught.
    """
    limit = deadline()
    is_over = limit is not None and not limit.is_idle and limit.is_over()
    if caught_exception is not None and (is_over or isinstance(caught_exception, ConnectTimeoutError)):
        raise caught_exception


def parts_of(url: str | None) -> tuple[str, dict[str, str]]:
    """Return the table that a URL names, an empty text if there is no URL, and the options for the clients.

    Raises:
        ConfigurationError: The URL cannot be read.
    """
    if url is None:
        return "", {}
    parts = split_url(url, _FORM)
    # What does not look like a table or a region could be a part of the secret key.
    if not re.fullmatch(r"[a-zA-Z0-9_.-]+", parts.path) or not re.fullmatch(r"[a-zA-Z0-9_.-]*", parts.address):
        raise bad_url(_FORM)
    found = {
        "region_name": parts.host,
        "aws_access_key_id": parts.user,
        "aws_secret_access_key": parts.password,
        **parts.options,
    }
    return parts.path, {name: value for name, value in found.items() if value}


def _is_for_dynamodb(client: object) -> bool:
    return isinstance(client, BaseClient) and client.meta.service_model.service_name == "dynamodb"
