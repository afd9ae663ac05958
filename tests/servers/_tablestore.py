"""Alibaba Tablestore."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

from servers._machinery import (
    HOST,
    ODD_PASSWORD,
    ODD_USER,
    PASSWORD,
    READONLY_PASSWORD,
    READONLY_USER,
    USER,
    Process,
    Server,
    ServerUnavailable,
    free_port,
    package_directory,
    serving,
    temporary_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_INSTANCE = "histories"


@dataclass(eq=False)
class Tablestore(Server):
    """A running stand-in for Tablestore.

    Attributes:
        rows_url: How to connect as a user who may read and write rows, and neither see nor make tables.
    """

    rows_url: str = ""

    def fail(self, api: str, code: str, status: int, *, times: int = 1, after: bool = False) -> None:
        """Make the next calls of an API fail, before they do anything or after it."""
        fault = {"api": api, "code": code, "status": status, "times": times, "after": after}
        with urlopen(Request(f"http://{HOST}:{self.port}/-/faults", json.dumps(fault).encode())):
            pass


@contextlib.contextmanager
def tablestore() -> Iterator[Tablestore]:
    """Run a stand-in for Tablestore.

    Raises:
        ServerUnavailable: If the SDK, whose protocol it uses, is not installed.
    """
    if package_directory("tablestore") is None:
        raise ServerUnavailable("no protocol of Tablestore: pip install tablestore")
    with temporary_directory() as directory:
        port = free_port()
        users = {USER: [PASSWORD, True], ODD_USER: [ODD_PASSWORD, True], READONLY_USER: [READONLY_PASSWORD, False]}
        program = Path(__file__).with_name("_tablestore_service.py")
        command = [sys.executable, program, "--host", HOST, "--port", str(port), "--data", directory / "data"]
        command += ["--instance", _INSTANCE, "--users", json.dumps(users)]
        process = Process(command, directory=directory, port=port, ready=lambda: True)
        version = importlib.metadata.version("tablestore")
        address = f"{HOST}:{port}/{_INSTANCE}"
        server = Tablestore(
            name="tablestore",
            version=f"stand-in for Tablestore, with the SDK {version}: no emulator of the service exists",
            url=f"tablestore+http://{USER}:{PASSWORD}@{address}",
            rows_url=f"tablestore+http://{READONLY_USER}:{READONLY_PASSWORD}@{address}",
            _process=process,
        )
        with serving(server):
            yield server
