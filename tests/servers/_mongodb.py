"""MongoDB."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo.errors import PyMongoError

from servers._machinery import (
    ADMIN_PASSWORD,
    DATABASE,
    HOST,
    PASSWORD,
    READONLY_PASSWORD,
    READONLY_USER,
    USER,
    Process,
    Server,
    ServerUnavailable,
    free_port,
    given,
    package_directory,
    serving,
    temporary_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_MONGODB_REPLICA_SET = "secantus"


@contextlib.contextmanager
def mongodb() -> Iterator[Server]:
    """Run a stand-in for a standalone MongoDB server, with users and passwords.

    Yields:
        The server. `url` is of the owner of an empty database, `readonly_url` of a user who may
        read everything in it and change nothing, `admin_url` of one who may do everything.

    Raises:
        ServerUnavailable: If the stand-in is not installed.
    """
    if own := given("mongodb", _describe_mongodb):
        yield own
        return
    with temporary_directory() as directory, serving(_mongodb_server(directory)) as server:
        yield server


@contextlib.contextmanager
def mongodb_replica_set() -> Iterator[Server]:
    """Run a stand-in for a MongoDB replica set of one: transactions and change streams.

    Yields:
        The server, as `mongodb` does; its URLs name the replica set.

    Raises:
        ServerUnavailable: If the stand-in is not installed.
    """
    if own := given("mongodb", _describe_mongodb, variable="MONGODB_REPLICA_SET"):
        yield own
        return
    with (
        temporary_directory() as directory,
        serving(_mongodb_server(directory, replica_set=True)) as server,
    ):
        yield server


def _mongodb_server(directory: Path, *, replica_set: bool = False) -> Server:
    """Make a data directory with users in it and describe the server for it."""
    if package_directory("secantus") is None:
        raise ServerUnavailable("no stand-in for MongoDB: pip install secantusdb")
    port = free_port()
    address = f"{HOST}:{port}"
    command = [sys.executable, "-m", "secantus", "--host", HOST, "--port", str(port)]
    command += ["--storage-path", str(directory / "data"), "--cache-size", "256M"]
    command += ["--sync-on-commit", "--log-level", "WARNING"]
    if not replica_set:
        command.append("--standalone")

    def process(*options: str) -> Process:
        return Process(
            [*command, *options],
            directory=directory,
            port=port,
            ready=lambda: _mongodb_answers(f"mongodb://{address}"),
            # It sleeps until a client comes, and can miss a signal that comes while it starts.
            needs_reminders=True,
        )

    # Users are made while no password is asked for.
    users = [
        ("admin", "admin", ADMIN_PASSWORD, "root"),
        (DATABASE, USER, PASSWORD, "dbOwner"),
        (DATABASE, READONLY_USER, READONLY_PASSWORD, "read"),
    ]
    maker = process()
    maker.start()
    try:
        with _mongodb_client(f"mongodb://{address}") as client:
            for database, user, password, role in users:
                client[database].command("createUser", user, pwd=password, roles=[role])
    finally:
        maker.stop()

    query = f"?replicaSet={_MONGODB_REPLICA_SET}" if replica_set else ""
    return Server(
        name="mongodb",
        version=f"SecantusDB {importlib.metadata.version('secantusdb')} (stand-in for MongoDB)",
        url=f"mongodb://{USER}:{PASSWORD}@{address}/{DATABASE}{query}",
        readonly_url=f"mongodb://{READONLY_USER}:{READONLY_PASSWORD}@{address}/{DATABASE}{query}",
        admin_url=f"mongodb://admin:{ADMIN_PASSWORD}@{address}/admin{query}",
        _process=process("--auth"),
    )


def _mongodb_client(url: str) -> pymongo.MongoClient[dict[str, Any]]:
    return pymongo.MongoClient(url, serverSelectionTimeoutMS=5000)


def _mongodb_answers(url: str) -> bool:
    with contextlib.suppress(PyMongoError), _mongodb_client(url) as client:
        client.admin.command("ping")
        return True
    return False


def _describe_mongodb(url: str) -> str:
    with _mongodb_client(url) as client:
        return f"MongoDB {client.server_info()['version']}"
