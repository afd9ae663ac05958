"""PgBouncer, a pooler before PostgreSQL."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from servers._machinery import (
    DATABASE,
    HOST,
    PASSWORD,
    USER,
    Process,
    Server,
    ServerUnavailable,
    free_port,
    program_version,
    serving,
    system_program,
    temporary_directory,
)
from servers._postgres import postgres_answers

if TYPE_CHECKING:
    from collections.abc import Iterator

_SETTINGS = """
[databases]
{database} = host={host} port={server_port} dbname={database}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {directory}/users
pool_mode = transaction
default_pool_size = 3
"""


@contextlib.contextmanager
def pgbouncer(*, before: Server) -> Iterator[Server]:
    """Run a PgBouncer in transaction mode: each transaction gets any of its three connections to the server.

    Args:
        before: The PostgreSQL that it stands before, started by the tests.

    Raises:
        ServerUnavailable: If PgBouncer is not installed.
    """
    program = system_program("pgbouncer")
    if program is None:
        raise ServerUnavailable("no pgbouncer: run tests/install_servers.sh")
    if not before.managed:
        raise ServerUnavailable("the PostgreSQL is not the tests' own, so PgBouncer does not know its passwords")
    # It refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    port = free_port()
    url = f"postgresql://{USER}:{PASSWORD}@{HOST}:{port}/{DATABASE}"
    with temporary_directory(user) as directory:
        (directory / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
        settings = directory / "settings"
        settings.write_text(
            _SETTINGS.format(database=DATABASE, host=HOST, port=port, server_port=before.port, directory=directory)
        )
        process = Process(
            [program, settings],
            directory=directory,
            port=port,
            ready=lambda: postgres_answers(url),
            user=user,
        )
        version = f"PgBouncer {program_version(program)} before {before.version}"
        with serving(Server(name="postgres", version=version, url=url, _process=process)) as server:
            yield server
