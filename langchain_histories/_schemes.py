"""Which store a URL names: the schemes of this package, and those that plugins bring."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import warnings
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_histories import _forks
from langchain_histories._options import StoreOptions
from langchain_histories._secrets import hidden, secrets_of, without_secret_causes
from langchain_histories.errors import ConfigurationError, HistoryError, did_you_mean
from langchain_histories.store import MessageStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ENTRY_POINT_GROUP = "langchain_histories.stores"

SCHEMES = {
    "memory": "langchain_histories.stores.memory:MemoryStore",
    "file": "langchain_histories.stores.file:FileStore",
    "redis": "langchain_histories.stores.redis:RedisStore",
    "rediss": "langchain_histories.stores.redis:RedisStore",
    "unix": "langchain_histories.stores.redis:RedisStore",
    "upstash": "langchain_histories.stores.upstash:UpstashStore",
    "sqlite": "langchain_histories.stores.sql:SQLStore",
    "postgresql": "langchain_histories.stores.sql:SQLStore",
    "mysql": "langchain_histories.stores.sql:SQLStore",
    "mariadb": "langchain_histories.stores.sql:SQLStore",
    "alloydb": "langchain_histories.stores.sql:SQLStore",
    "cloudsql": "langchain_histories.stores.sql:SQLStore",
    "yugabytedb": "langchain_histories.stores.sql:SQLStore",
    "mongodb": "langchain_histories.stores.mongodb:MongoDBStore",
    "cosmosdb": "langchain_histories.stores.cosmosdb:CosmosDBStore",
    "dynamodb": "langchain_histories.stores.dynamodb:DynamoDBStore",
    "tablestore": "langchain_histories.stores.tablestore:TablestoreStore",
    "kafka": "langchain_histories.stores.kafka:KafkaStore",
    "azure-table": "langchain_histories.stores.azure_table:AzureTableStore",
}
"""The schemes of this package, also with a `+driver` behind them. No plugin can take one."""


class StoreKind(NamedTuple):
    """A class of stores, and the package that brings it.

    Attributes:
        cls: The class.
        plugin: What messages call the plugin; `None` for a class of this package.
    """

    cls: type[MessageStore]
    plugin: str | None = None

    def check_options(self, options: Iterable[str], also: Iterable[str] = ()) -> None:
        """Refuse an option that the class does not take.

        Args:
            options: Names of the options.
            also: Names that are known beside those of the class.

        Raises:
            ConfigurationError: One is unknown; the nearest known name is in the message.
        """
        parameters = inspect.signature(self.cls).parameters.values()
        own = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
        known = (own | set(StoreOptions.__annotations__) | set(also)) - {"url"}
        for name in options:
            if name not in known:
                raise ConfigurationError(f"unknown option {name!r} of {self.cls.__name__}: {did_you_mean(name, known)}")

    def make(self, url: str, options: Mapping[str, Any], *, joined: bool = False) -> MessageStore:
        """Return a store, with `joined` by the method of this name.

        Raises:
            ConfigurationError: The class cannot be called so, or its operations lack one that every store has.
        """
        make: Any = self.cls.joined if joined else self.cls
        try:
            store: MessageStore = make(url, **options)
        except TypeError as error:
            if self.plugin is None:
                raise
            secrets = secrets_of(url, options)
            failed = ConfigurationError(f"{self.plugin} cannot make its store: {hidden(str(error), secrets)}.")
            failed.__cause__ = error
            without_secret_causes(failed, secrets)
        else:
            return store
        raise failed


# A server and its port, or a path of Windows: what stands before the colon is no scheme, if we have none of this name.
_NO_SCHEME = re.compile(r"[\w.-]+:(\d+)(?:/\w*)?|[A-Za-z]:[\\/].*", re.DOTALL)
_PORTS = {"6379": "redis", "5432": "postgresql", "3306": "mysql", "27017": "mongodb", "9092": "kafka"}


def store_kind(url: str) -> StoreKind:
    """Return the kind of store that a URL names, by its scheme or the part of the scheme before `+`.

    Raises:
        ConfigurationError: There is none, or the plugin that has it cannot be used.
        MissingExtraError: From a plugin: its driver is not installed.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url) if isinstance(url, str) else None
    scheme = match[1].lower() if match else ""
    own = SCHEMES.get(_base(scheme))
    if match is None or (own is None and _NO_SCHEME.fullmatch(url)):
        raise ConfigurationError(f"A store is named by a URL with a scheme, {_wanted(url)}.")
    with _forks.importing():
        if own is None:
            return _plugin_kind(scheme)
        module, _, name = own.partition(":")
        return StoreKind(getattr(importlib.import_module(module), name))


def _wanted(url: object) -> str:
    """Say which URL was perhaps meant. A text that may have a login in it is not shown."""
    text = os.fspath(url) if isinstance(url, os.PathLike) else url
    if text == "":
        return "such as 'redis://localhost:6379/0', and this one is empty, as an environment variable may be"
    if not isinstance(text, str) or "@" in text:
        return "such as 'redis://localhost:6379/0'"
    if server := _NO_SCHEME.fullmatch(text):
        if server[1]:
            return f"such as '{_PORTS.get(server[1], 'redis')}://{text}'"
        return "for a file of SQLite 'sqlite:///C:/chat.db', for a folder 'file:///C:/chats'"
    if variable := re.fullmatch(r"\$(\w+)|\$\{(\w+)\}", text):
        return f"and only a config has its variables replaced: give os.environ[{variable[1] or variable[2]!r}]"
    return "for a file of SQLite 'sqlite:///chat.db', for a folder 'file:./chats'"


def _base(scheme: str) -> str:
    return scheme.partition("+")[0]


# A lookup reads the metadata of every installed package, which takes about 20 ms. `open_history` is called for each
# turn, on the event loop too.
@functools.cache
def _plugin_kind(scheme: str) -> StoreKind:
    """Return the kind of store that a plugin brings. What raises is not remembered.

    Raises:
        ConfigurationError: No plugin has this scheme, several have it, or the plugin cannot be used.
    """
    plugins = _plugins()
    for name in (scheme, _base(scheme)):
        if name in plugins:
            return _loaded(name, plugins[name])
    raise ConfigurationError(f"unknown URL scheme {scheme!r}: {did_you_mean(scheme, [*SCHEMES, *plugins])}")


def _plugins() -> dict[str, list[EntryPoint]]:
    """Return the entry points of plugins by scheme. Those for a scheme of ours are left out, with a warning."""
    found: dict[str, list[EntryPoint]] = {}
    for plugin in entry_points(group=ENTRY_POINT_GROUP):
        scheme = plugin.name.lower()
        if _base(scheme) in SCHEMES:
            message = (
                f"The package {_package(plugin)!r} registers the URL scheme {scheme!r}, which langchain-histories has"
            )
            warnings.warn(f"{message}: its stores are left out.", RuntimeWarning, stacklevel=2)
        else:
            found.setdefault(scheme, []).append(plugin)
    return found


def _loaded(scheme: str, plugins: list[EntryPoint]) -> StoreKind:
    if len(plugins) > 1:
        packages = " and ".join(sorted(repr(_package(plugin)) for plugin in plugins))
        raise ConfigurationError(f"The URL scheme {scheme!r} is registered by {packages}: uninstall all but one.")
    plugin = f"The plugin for {scheme!r} of the package {_package(plugins[0])!r}"
    entry_point = plugins[0].value
    try:
        cls = plugins[0].load()
    except HistoryError:  # such as MissingExtraError, which names the package itself
        raise
    except Exception as error:
        raise ConfigurationError(
            f"{plugin} cannot be loaded from {entry_point!r} ({type(error).__name__}: {error})."
        ) from error
    if not isinstance(cls, type) or not issubclass(cls, MessageStore):
        kind = cls.__name__ if isinstance(cls, type) else type(cls).__name__
        raise ConfigurationError(f"{plugin} must be a subclass of MessageStore; {entry_point!r} is a {kind}.")
    return StoreKind(cls, plugin)


def _package(plugin: EntryPoint) -> str:
    return getattr(plugin.dist, "name", None) or plugin.value
