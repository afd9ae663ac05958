"""AlloyDB and Cloud SQL for PostgreSQL, through Google's connectors: `alloydb://` and `cloudsql://`.

A connector finds the instance, makes the certificates for TLS and opens the connections of an engine: psycopg's for the
sync methods, asyncpg's for the async ones. Each engine has a connector of its own, which is closed with it. Credentials
for Google are found by Google's own chain (`GOOGLE_APPLICATION_CREDENTIALS`, `gcloud`, the machine's account).
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from langchain_histories._secrets import hidden, secrets_of
from langchain_histories._urls import split_url
from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import needs_extra, settle

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMES = ("alloydb", "cloudsql")
_FORMS = {
    "alloydb": "alloydb://user:password@project/region/cluster/instance/database",
    "cloudsql": "cloudsql://user:password@project:region:instance/database",
}
_MODULES = {"alloydb": "google.cloud.alloydbconnector", "cloudsql": "google.cloud.sql.connector"}
_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
_BLOCKING = sa.make_url("postgresql+psycopg://")
_NATIVE = sa.make_url("postgresql+asyncpg://")


def is_google(url: object) -> bool:
    """Whether a URL names an instance of Google's."""
    return isinstance(url, str) and url.partition("://")[0] in SCHEMES


class GoogleInstance:
    """An instance of AlloyDB or Cloud SQL.

    Args:
        url: `alloydb://user:password@project/region/cluster/instance/database` or
            `cloudsql://user:password@project:region:instance/database`. Its query has arguments of the connector:
            `ip_type`, `enable_iam_auth` (then without a password), `refresh_strategy`, `quota_project`, ...

    Raises:
        ConfigurationError: The URL cannot be used.
        MissingExtraError: The connector or psycopg is not installed.
    """

    def __init__(self, url: str) -> None:
        """Read the URL."""
        self._scheme = url.partition(":")[0]
        parts = split_url(url, _FORMS[self._scheme], has_hosts=False)
        self._secrets = secrets_of(url)
        host = parts.address
        *path, database = parts.names or [""]
        names = [host, *path] if self._scheme == "alloydb" else host.split(":")
        wanted = 4 if self._scheme == "alloydb" else 3
        # A project of a company's domain has a colon: `example.com:project`.
        if self._scheme == "cloudsql" and (len(names) not in (wanted, wanted + 1) or path):
            names = []
        if not parts.user or not database or not names or not all(names) or len(names) < wanted:
            raise ConfigurationError(f"url cannot be read: use a form like {_FORMS[self._scheme]!r}.")
        if self._scheme == "alloydb":
            self._instance = "projects/{}/locations/{}/clusters/{}/instances/{}".format(*names)
        else:
            self._instance = host
        self._login = {"user": parts.user, "db": database}
        if parts.password:
            self._login["password"] = parts.password
        with needs_extra(self._scheme):
            self._module: Any = importlib.import_module(_MODULES[self._scheme])
            importlib.import_module("psycopg")
        self._options = self._checked(parts.options)
        self.blocking, self.native = _BLOCKING, _NATIVE
        self._connectors: dict[Any, Any] = {}

    def _checked(self, query: dict[str, str]) -> dict[str, Any]:
        """Return the connector's arguments, each a flag, a number or a text as its default is one."""
        parameters = inspect.signature(self._module.Connector).parameters
        found: dict[str, Any] = {}
        for name, text in query.items():
            default = parameters[name].default if name in parameters else object()
            if isinstance(default, bool):
                found[name] = {"true": True, "false": False}.get(text.lower())
            elif isinstance(default, int | float):
                found[name] = float(text) if text.replace(".", "", 1).isdecimal() else None
            elif default is None or isinstance(default, str) or name in ("ip_type", "refresh_strategy"):
                found[name] = text
            if found.get(name) is None:
                raise ConfigurationError(
                    f"{hidden(name, self._secrets)} is no option of Google's connector, or its value is none: known "
                    f"are {', '.join(sorted(parameters))}, as texts, numbers, true and false."
                )
        return found

    def engine(self, make: Callable[..., Any], *, native: bool) -> Any:
        """Make an engine whose connections the connector opens.

        Args:
            make: Called with the arguments of the creation.
            native: Whether it is an async one.
        """
        opened: list[Any] = []  # the connector, once there was a connection

        def connect() -> Any:
            if not opened:
                opened.append(self._connector(self._credentials()))
            return self._reached(lambda: opened[0].connect(self._instance, "psycopg", **self._login))

        opening = asyncio.Lock()

        async def aconnect(*_: Any, **__: Any) -> Any:
            async with opening:
                if not opened:
                    # Google's chain asks files, programs and the network for credentials.
                    opened.append(self._connector(await asyncio.to_thread(self._credentials), native=True))
            connector = opened[0]
            call = getattr(connector, "connect_async", None) or connector.connect
            try:
                return await call(self._instance, "asyncpg", **self._login)
            except Exception as error:
                if self._is_plain(error):
                    raise
                raise self._failed(error) from error

        engine = make(async_creator=aconnect) if native else make(creator=connect)
        self._connectors[engine] = opened
        return engine

    async def close(self, engine: Any) -> None:
        """Close the connector of an engine."""
        for connector in self._connectors.pop(engine, []):
            close = connector.close
            if isinstance(engine, sa.Engine):
                close()
            else:
                await settle(getattr(connector, "close_async", close)())

    def _credentials(self) -> Any:
        return self._reached(lambda: importlib.import_module("google.auth").default(scopes=_SCOPES)[0])

    def _connector(self, credentials: Any, *, native: bool = False) -> Any:
        options = {**self._options, "credentials": credentials}
        if native and self._scheme == "alloydb":
            cls = self._module.AsyncConnector
        else:
            cls = self._module.Connector
            if native:
                options["loop"] = asyncio.get_running_loop()
        try:
            return self._reached(lambda: cls(**options))
        except ConnectionError as error:
            if not isinstance(error.__cause__, ValueError | KeyError):
                raise
            told = hidden(str(error.__cause__), self._secrets)
        raise ConfigurationError(f"Google's connector refuses its options: {told}")

    def _reached(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            if self._is_plain(error):
                raise
            raise self._failed(error) from error

    def _is_plain(self, error: Exception) -> bool:
        """Whether it is an error of the driver or the network; the connector's own come from many libraries."""
        return isinstance(error, OSError) or type(error).__module__.startswith(("psycopg", "asyncpg"))

    def _failed(self, error: Exception) -> ConnectionError:
        return ConnectionError(f"Google's connector could not connect to {self._instance} ({type(error).__name__})")
