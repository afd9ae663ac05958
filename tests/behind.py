"""Stores whose connections go through a proxy."""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING, Any, Self

from servers import DATABASE
from servers._proxy import Proxy

import langchain_histories as lh

if TYPE_CHECKING:
    from collections.abc import Iterator


class Quiet:
    """A server behind a proxy that can be quiet, as the kit takes it.

    Args:
        kind: The kind of store.
        server: The server.
    """

    def __init__(self, kind: str, server: Any) -> None:
        self._kind, self._server, self._name = kind, server, f"t{uuid.uuid4().hex}"
        self._proxy = server.proxy() if kind == "kafka" else Proxy(server.port)

    def open_store(self, **options: Any) -> Any:
        """Open the store of this place behind the proxy."""
        return store_behind(self._proxy, self._kind, self._server, self._name, **options)

    def hush(self, *, hears: bool) -> None:
        """Swallow what the server says, or what it is told."""
        self._proxy.swallow_answers, self._proxy.swallow_requests = hears, not hears

    def answer(self) -> None:
        """Swallow nothing."""
        self._proxy.swallow_answers = self._proxy.swallow_requests = False

    def __enter__(self) -> Self:
        self._proxy.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._proxy.__exit__(*error)


_SERVERS = {"postgresql": "postgres", "mysql": "mariadb"}


def server_of(kind: str) -> str:
    """The fixture of the server of a kind of store."""
    family = kind.partition("+")[0]
    return f"{_SERVERS.get(family, family)}_server"


@contextlib.contextmanager
def store_behind(proxy: Proxy, kind: str, server: Any, name: str | None = None, **more: Any) -> Iterator[Any]:
    """A store of a place, or of a new one, with more options, whose connections go through the proxy."""
    name, url = name or f"t{uuid.uuid4().hex}", server.url_with(port=proxy.port)
    if kind == "redis":
        store: Any = lh.RedisStore(url, key_prefix=name, **more)
    elif kind == "mongodb":
        # The driver's own looks at the server are not counted.
        options = {"heartbeatFrequencyMS": 600_000, "directConnection": True}
        store = lh.MongoDBStore(url, database_name=DATABASE, collection_name=name, client_options=options, **more)
    elif kind == "dynamodb":
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "right-Secret7", "region_name": "eu-west-1"}
        more |= {"client_options": {**keys, "endpoint_url": url}}
        store = lh.DynamoDBStore(table_name=name, create_table=True, **more)
    elif kind == "azure_table":
        store = lh.AzureTableStore(f"{url}/{name}", **more)
    elif kind == "cosmosdb":
        # The service names an address of its own, past the proxy.
        store = lh.CosmosDBStore(f"{url}/{name}", client_options={"enable_endpoint_discovery": False}, **more)
    elif kind == "tablestore":
        store = lh.TablestoreStore(url, table_name=name, **more)
    elif kind == "kafka":
        store = lh.KafkaStore(url, topic_prefix=f"{name}.", **more)
    elif kind == "upstash":
        store = lh.UpstashStore(url, key_prefix=name, **more)
    else:
        store = lh.SQLStore(server.url_with(scheme=kind, port=proxy.port), table_name=name, **more)
    with store:
        yield store
