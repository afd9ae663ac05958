"""How PyMongo connects, and which of its errors mean that the server could not be reached."""

from __future__ import annotations

from typing import Any

import pymongo
from pymongo import errors

from langchain_histories._urls import bad_url, read_url
from langchain_histories.stores.base import Clients, check_given_clients, settle

_UNAVAILABLE_ERRORS = (
    ConnectionError,
    TimeoutError,
    errors.ConnectionFailure,
    errors.ExecutionTimeout,
    errors.WTimeoutError,
)
_FORM = "mongodb://[user:password@]host[:27017][,host...][/[database][?option=value...]], with options of PyMongo's"
_REFUSED_CREDENTIALS = (11, 18, 8000)


def clients_of(url: str | None, client: Any, async_client: Any, client_options: dict[str, Any] | None) -> Clients[Any]:
    """Return the clients for a URL, or those of the caller.

    Raises:
        ConfigurationError: Neither was given, or both, or a client of another kind, or PyMongo cannot read the URL.
    """
    if check_given_clients(
        "PyMongo, whose AsyncMongoClient takes the place of Motor's",
        client=client,
        async_client=async_client,
        is_blocking=_is_blocking,
        is_native=lambda it: isinstance(it, pymongo.AsyncMongoClient),
        instead_of={"url": url, "client_options": client_options},
    ):
        return Clients.shared("mongodb", client=client, async_client=async_client)
    _check_url(url)
    options = dict(client_options or {})

    async def connect(native: bool) -> Any:
        kind: Any = pymongo.AsyncMongoClient if native else pymongo.MongoClient
        return kind(url, **options)

    return Clients.shared("mongodb", url, options, connect=connect, close=_close)


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


def _check_url(url: Any) -> None:
    """Refuse a URL that PyMongo cannot read.

    Raises:
        ConfigurationError: It cannot; what looks like the host may be a piece of the password, and is not quoted.
    """
    scheme, _, rest = str(url).partition("://")
    if scheme == "mongodb+srv":
        # Hosts and more options of such a URL are in DNS, and a constructor asks no name server.
        url = "mongodb://" + rest.partition("?")[0]
    if "@" in rest.partition("?")[0].partition("/")[2]:
        # The slash is one of the password, and PyMongo would take what stands before it for the host.
        raise bad_url(_FORM)
    read_url(pymongo.uri_parser.parse_uri, url, _FORM, (errors.PyMongoError, ValueError))
