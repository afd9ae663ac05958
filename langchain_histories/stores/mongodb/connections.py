"""How PyMongo connects, and which of its errors mean that the server could not be reached."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pymongo
from pymongo import errors

from langchain_histories._urls import bad_url, read_url
from langchain_histories.stores.base import (
    CONNECT_TIMEOUT,
    TIMEOUT,
    Clients,
    check_given_clients,
    check_max_connections,
    check_timeout_of_client,
    settle,
)

_UNAVAILABLE_ERRORS = (
    ConnectionError,
    TimeoutError,
    errors.ConnectionFailure,
    errors.ExecutionTimeout,
    errors.WTimeoutError,
)
_MAX_CONNECTIONS = 100  # as PyMongo has it
_FORM = "mongodb://[user:password@]host[:27017][,host...][/[database][?option=value...]], with options of PyMongo's"
_REFUSED_CREDENTIALS = (11, 18, 8000)


def clients_of(
    url: str | None,
    client: Any,
    async_client: Any,
    *,
    client_options: dict[str, Any] | None,
    max_connections: int | None,
    timeout: float | None,
) -> tuple[Clients[Any], float | None]:
    """Return the clients for a URL, or those of the caller, and how long a call may take.

    Raises:
        ConfigurationError: Neither was given, or both, or a client of another kind, or PyMongo cannot read the URL.
    """
    if check_given_clients(
        "PyMongo, whose AsyncMongoClient takes the place of Motor's",
        client=client,
        async_client=async_client,
        is_blocking=_is_blocking,
        is_native=lambda it: isinstance(it, pymongo.AsyncMongoClient),
        instead_of={"url": url, "client_options": client_options, "max_connections": max_connections},
    ):
        check_timeout_of_client(client, timeout)
        at_once = async_client.options.pool_options.max_pool_size if async_client is not None else None
        given: Clients[Any]
        given = Clients.shared("mongodb", client=client, async_client=async_client, at_once=at_once or _MAX_CONNECTIONS)
        return given, timeout
    named = _options_of(url)
    options = dict(client_options or {})
    # PyMongo takes them in any case.
    sizes = [value for name, value in {**named, **options}.items() if name.lower() == "maxpoolsize"]
    check_max_connections(max_connections, ["maxPoolSize"] if sizes else [], "maxPoolSize")
    if max_connections is not None:
        options["maxPoolSize"] = max_connections
    at_once = max_connections or next(iter(sizes), None) or _MAX_CONNECTIONS
    timeout = timeout or TIMEOUT
    known = {name.lower() for name in (*named, *options)}
    options |= {name: value for name, value in _time_outs(timeout).items() if name.lower() not in known}

    async def connect(native: bool) -> Any:
        if not native:
            return pymongo.MongoClient(url, **options)
        # It reads certificates, and looks in the file system for what it tells the server of this machine.
        return await settle(asyncio.to_thread(pymongo.AsyncMongoClient, url, **options))

    clients: Clients[Any]
    clients = Clients.shared("mongodb", url, options, connect=connect, close=_close, at_once=at_once)
    return clients, timeout


def _time_outs(timeout: float) -> dict[str, Any]:
    """Return PyMongo's options for a time-out.

    A read is tried once more by the store, which first looks whether a server is known: PyMongo's own second try waits
    for one as long as the whole call may take.
    """
    wait, connecting = math.ceil(timeout * 1000), math.ceil(min(timeout, CONNECT_TIMEOUT) * 1000)
    return {
        "serverSelectionTimeoutMS": connecting,
        "connectTimeoutMS": connecting,
        "socketTimeoutMS": wait,
        "waitQueueTimeoutMS": wait,
        "retryReads": False,
    }


async def _close(client: Any) -> None:
    await settle(client.close())


def is_unavailable(error: Exception) -> bool:
    """Whether the server could not be reached, or refused the credentials."""
    refused = isinstance(error, errors.OperationFailure) and error.code in _REFUSED_CREDENTIALS
    return refused or isinstance(error, _UNAVAILABLE_ERRORS)


def _is_blocking(client: object) -> bool:
    """Whether a client is PyMongo's blocking one, or of another class with its methods, such as mongomock's."""
    if isinstance(client, pymongo.MongoClient):
        return True
    kind = type(client)
    is_async = isinstance(client, pymongo.AsyncMongoClient) or kind.__module__.startswith("motor")
    return hasattr(kind, "get_database") and not is_async


def database_of(url: str | None) -> str | None:
    """Return the database in a URL, unless it is there for the login alone.

    Raises:
        ConfigurationError: PyMongo cannot read the URL.
    """
    found: str | None = None if url is None else _parts_of(url)["database"]
    return None if found == "admin" else found


def _options_of(url: Any) -> dict[str, Any]:
    return dict(_parts_of(url)["options"])


def _parts_of(url: Any) -> dict[str, Any]:
    """Return what PyMongo reads in a URL, and refuse one that it cannot read.

    Raises:
        ConfigurationError: It cannot; what looks like the host may be a piece of the password, and is not quoted.
    """
    scheme, _, rest = str(url).partition("://")
    place, _, query = rest.partition("?")
    if "@" in place.partition("/")[2]:
        # The slash is one of the password, and PyMongo would take what stands before it for the host.
        raise bad_url(_FORM)
    if scheme != "mongodb+srv":
        return dict(_read(pymongo.uri_parser.parse_uri, url))
    # The hosts of such a URL are in DNS, and a constructor asks no name server. Some options are for such URLs alone.
    found = dict(_read(pymongo.uri_parser.parse_uri, f"mongodb://{place}"))
    options = _read(pymongo.uri_parser.split_options, query) if query else {}
    return {**found, "options": options}


def _read(parse: Any, text: Any) -> Any:
    return read_url(parse, text, _FORM, (errors.PyMongoError, ValueError))
