"""Stores whose connections go through a proxy."""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING, Any

from servers import DATABASE

import langchain_histories as lh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers._proxy import Proxy

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
    elif kind == "tablestore":
        store = lh.TablestoreStore(url, table_name=name, **more)
    elif kind == "upstash":
        store = lh.UpstashStore(url, key_prefix=name, **more)
    else:
        store = lh.SQLStore(server.url_with(scheme=kind, port=proxy.port), table_name=name, **more)
    with store:
        yield store
