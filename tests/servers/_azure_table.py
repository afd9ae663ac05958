"""Azure Table Storage."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import signal
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import AzureError
from azure.data.tables import TableServiceClient, generate_account_sas

from servers._machinery import (
    CACHE,
    HOST,
    Process,
    Server,
    ServerUnavailable,
    free_port,
    given,
    serving,
    system_program,
    temporary_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The account that every Azurite has; its key is no secret.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextlib.contextmanager
def azure_table() -> Iterator[Server]:
    """Run the emulator of Azure Table Storage.

    Yields:
        The server. A table's name is to be put behind `url`, which has the account's key. `readonly_url` has a shared
        access signature that lets everything be read and nothing be changed; the name goes before its `?`.

    Raises:
        ServerUnavailable: If the emulator or Node.js is not installed.
    """
    if own := given("azure_table", _describe):
        yield own
        return
    with temporary_directory() as directory, serving(_azurite(directory)) as server:
        yield server


def _azurite(directory: Path) -> Server:
    """Describe one emulator that keeps its files in `directory`."""
    package, node = CACHE / "azurite" / "node_modules" / "azurite", system_program("node")
    if node is None or not package.exists():
        raise ServerUnavailable("no Azurite: install Node.js with npm, and run tests/install_servers.sh")
    port = free_port()
    address = f"{HOST}:{port}/{_ACCOUNT}"
    url = f"azure-table+http://{_ACCOUNT}:{quote(_KEY, safe='')}@{address}"
    process = Process(
        [
            *(node, package / "dist/src/table/main.js"),
            *("--tableHost", HOST, "--tablePort", str(port), "--location", directory),
            *("--silent", "--disableTelemetry", "--skipApiVersionCheck"),
        ],
        directory=directory,
        port=port,
        ready=lambda: _answers(url),
        # It writes its file only when it is interrupted, and every five seconds.
        stop_signal=signal.SIGINT,
    )
    version = json.loads((package / "package.json").read_text())["version"]
    signature = generate_account_sas(
        AzureNamedKeyCredential(_ACCOUNT, _KEY),
        resource_types="sco",
        permission="r",
        expiry=dt.datetime.now(dt.UTC) + dt.timedelta(days=1),
    )
    return Server(
        name="azure_table",
        version=f"Azurite {version} (emulator of Azure Table Storage)",
        url=url,
        readonly_url=f"azure-table+http://{address}?{signature}",
        _process=process,
    )


def _answers(url: str) -> bool:
    """Tell whether the account of a store's URL can be reached."""
    parts = urlsplit(url)
    scheme = parts.scheme.partition("+")[2] or "https"
    credential = AzureNamedKeyCredential(parts.username or "", unquote(parts.password or ""))
    with (
        contextlib.suppress(AzureError),
        TableServiceClient(
            f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", credential=credential, retry_total=0
        ) as client,
    ):
        list(client.list_tables(results_per_page=1))
        return True
    return False


def _describe(url: str) -> str:
    if not _answers(url):
        raise RuntimeError("no answer")
    return f"Azure Table Storage at {urlsplit(url).hostname}"
