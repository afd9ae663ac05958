"""MariaDB."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from servers._machinery import (
    ADMIN_PASSWORD,
    CACHE,
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
    program_version,
    run_program,
    serving,
    system_program,
    temporary_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def mariadb() -> Iterator[Server]:
    """Run a MariaDB server with `utf8mb4` as its character set.

    Yields:
        The server. `url` is of a user who may do everything in an empty database, `readonly_url`
        of one who may read everything in it and change nothing, `admin_url` of one who may do
        everything anywhere.

    Raises:
        ServerUnavailable: If MariaDB is not installed.
    """
    if own := given("mariadb", _describe_mariadb):
        yield own
        return
    server_program = system_program("mariadbd")
    install_program = system_program("mariadb-install-db")
    if server_program is None or install_program is None:
        raise ServerUnavailable("no MariaDB: run tests/install_servers.sh")
    with temporary_directory() as directory:
        server = _mariadb_server(server_program, install_program, directory)
        with serving(server):
            yield server


_MARIADB_USERS = f"""\
CREATE DATABASE IF NOT EXISTS {DATABASE};
CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL PRIVILEGES ON {DATABASE}.* TO '{USER}'@'%';
CREATE USER IF NOT EXISTS '{READONLY_USER}'@'%' IDENTIFIED BY '{READONLY_PASSWORD}';
GRANT SELECT ON {DATABASE}.* TO '{READONLY_USER}'@'%';
CREATE USER IF NOT EXISTS 'admin'@'%' IDENTIFIED BY '{ADMIN_PASSWORD}';
GRANT ALL PRIVILEGES ON *.* TO 'admin'@'%' WITH GRANT OPTION;
"""


def _mariadb_server(program: Path, install_program: Path, directory: Path) -> Server:
    """Make a data directory and describe the server for it."""
    version = program_version(program)
    root = ["--user=root"] if os.geteuid() == 0 else []
    data = directory / "data"
    _make_mariadb_data(install_program, data, root, version)
    users = directory / "users.sql"
    users.write_text(_MARIADB_USERS)
    port = free_port()
    process = Process(
        [
            program,
            "--no-defaults",
            *root,
            f"--datadir={data}",
            f"--bind-address={HOST}",
            f"--port={port}",
            f"--socket={directory / 'socket'}",
            f"--pid-file={directory / 'pid'}",
            f"--init-file={users}",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--max-connections=200",
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_general_ci",
            "--innodb-buffer-pool-size=32M",
            "--innodb-flush-log-at-trx-commit=2",
        ],
        directory=directory,
        port=port,
        ready=lambda: _mariadb_greeting(HOST, port) is not None,
    )
    return Server(
        name="mariadb",
        version=f"MariaDB {version}",
        url=f"mysql://{USER}:{PASSWORD}@{HOST}:{port}/{DATABASE}",
        readonly_url=f"mysql://{READONLY_USER}:{READONLY_PASSWORD}@{HOST}:{port}/{DATABASE}",
        admin_url=f"mysql://admin:{ADMIN_PASSWORD}@{HOST}:{port}/mysql",
        _process=process,
    )


def _make_mariadb_data(install_program: Path, data: Path, root: Sequence[str], version: str) -> None:
    """Make an empty data directory: a copy of one made before, for making one takes seconds."""
    kept = CACHE / f"mariadb-{version}-data"
    with contextlib.suppress(OSError):
        shutil.copytree(kept, data)
        return
    shutil.rmtree(data, ignore_errors=True)
    options = ["--auth-root-authentication-method=normal", "--skip-test-db"]
    run_program(
        [install_program, "--no-defaults", *root, f"--datadir={data}", *options],
        directory=data.parent,
    )
    # Keep a copy. It gets its name only when it is complete and on the disk; another process may be faster.
    with contextlib.suppress(OSError):
        CACHE.mkdir(exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="mariadb-", dir=CACHE))
        try:
            shutil.copytree(data, made / "data")
            os.sync()
            (made / "data").rename(kept)
        finally:
            shutil.rmtree(made, ignore_errors=True)


def _mariadb_greeting(host: str, port: int) -> str | None:
    """Return the version a MariaDB server greets with, `None` if it does not greet."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5) as client:
        # 3 bytes length, 1 byte number, 1 byte protocol (10), then the version and a zero byte.
        # An error packet ("too many connections") has 255 for the protocol.
        greeting = client.recv(1024)
        if len(greeting) > 5 and greeting[4] == 10:
            return greeting[5:].split(b"\0", 1)[0].decode(errors="replace")
    return None


def _describe_mariadb(url: str) -> str:
    parts = urlsplit(url)
    greeting = _mariadb_greeting(parts.hostname or HOST, parts.port or 3306)
    if greeting is None:
        raise OSError("no greeting")
    version = greeting.removeprefix("5.5.5-")
    product = "MariaDB" if "MariaDB" in version else "MySQL"
    return f"{product} {version.split('-', 1)[0]}"
