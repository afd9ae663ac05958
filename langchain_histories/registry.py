"""From a URL or a config to stores, and from stores to the session factories that programs are given."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from langchain_core.runnables import ConfigurableFieldSpec

from langchain_histories._clients import Closing
from langchain_histories._options import StoreOptions
from langchain_histories._session_ids import user_session_id
from langchain_histories.errors import ConfigurationError, missing_extra
from langchain_histories.history import StoredChatMessageHistory, TurnChatMessageHistory
from langchain_histories.store import MessageStore
from langchain_histories.views.summarizers import find_summarizer
from langchain_histories.views.summarizing import SummarizingChatMessageHistory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    from langchain_histories._session_ids import SessionId
    from langchain_histories.history import SaveErrorHook

    TurnHistory: TypeAlias = TurnChatMessageHistory | SummarizingChatMessageHistory

HistoryT = TypeVar("HistoryT", bound=StoredChatMessageHistory)

ENTRY_POINT_GROUP = "langchain_histories.stores"
URL_VARIABLE = "LANGCHAIN_HISTORIES_URL"

_STORES = {
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

SESSION_CONFIG = (
    ConfigurableFieldSpec(
        id="session_id",
        annotation=str,
        name="Session ID",
        description="Unique identifier of a session.",
        is_shared=True,
    ),
)
"""`history_factory_config` for `get_session_history`."""

USER_SESSION_CONFIG = (
    ConfigurableFieldSpec(
        id="user_id", annotation=str, name="User ID", description="Unique identifier of a user.", is_shared=True
    ),
    *SESSION_CONFIG,
)
"""`history_factory_config` for `get_user_session_history`."""


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."


def _store_class(url: str) -> Any:
    """Find the class for a URL, by its scheme or the part of it before `+`.

    Raises:
        ConfigurationError: There is none.
        MissingExtraError: Its driver is not installed.
    """
    if not isinstance(url, str) or not (match := re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)):
        raise ConfigurationError("A store is named by a URL with a scheme, such as 'redis://localhost:6379/0'.")
    scheme = match[1].lower()
    if scheme in _STORES:
        return _own_class(scheme)
    plugins = {plugin.name: plugin for plugin in entry_points(group=ENTRY_POINT_GROUP)}
    for name in (scheme, scheme.partition("+")[0]):
        if name in _STORES:
            return _own_class(name)
        if name in plugins:
            return plugins[name].load()
    raise ConfigurationError(f"unknown URL scheme {scheme!r}: {_did_you_mean(scheme, [*_STORES, *plugins])}")


def _own_class(scheme: str) -> Any:
    module, _, attribute = _STORES[scheme].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _check_options(cls: type[MessageStore], options: Iterable[str], also: Iterable[str] = ()) -> None:
    """Refuse an option that the store does not have.

    Raises:
        ConfigurationError: With the nearest known name.
    """
    parameters = inspect.signature(cls).parameters.values()
    own = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    known = (own | set(StoreOptions.__annotations__) | set(also)) - {"url"}
    for name in options:
        if name not in known:
            raise ConfigurationError(f"unknown option {name!r} of {cls.__name__}: {_did_you_mean(name, known)}")


def open_store(url: str, **options: Any) -> MessageStore:
    """Return a store of your own for a URL. Nothing is connected before its first use.

    Args:
        url: Where it is; the scheme selects the store class.
        **options: As the store class takes them, and `StoreOptions`.

    Raises:
        ConfigurationError: The URL or an option cannot be used.
        MissingExtraError: The driver is not installed.
    """
    cls = _store_class(url)
    _check_options(cls, options)
    store: MessageStore = cls(url, **options)
    return store


def open_history(
    url: str, session_id: SessionId, *, last: int | None = None, **options: Any
) -> StoredChatMessageHistory:
    """Return the history of a session in the store at `url`; every read goes to the store.

    Histories with the same URL share one pool of connections, so this may be called for each turn.

    Args:
        url: As for `open_store`.
        session_id: The session.
        last: `messages` shows only the last n; the transcript keeps all.
        **options: As for `open_store`.
    """
    cls = _store_class(url)
    _check_options(cls, options, also=["last"])
    return StoredChatMessageHistory(cls.joined(url, **options), session_id, last=last)


@dataclass(frozen=True)
class _Entry:
    """A named store of a registry, and what its histories show."""

    store: MessageStore
    last: int | None = None
    summarize: Mapping[str, Any] | None = None

    def shown(self, history: HistoryT) -> HistoryT | SummarizingChatMessageHistory:
        """The history, or the view of it that the config asks for."""
        return history if self.summarize is None else SummarizingChatMessageHistory(history, **self.summarize)


class HistoryRegistry(Closing):
    """Named stores, and the session factories of a program.

    A program takes its factory from here, so it changes its store by changing the config. Each store has one
    connection pool for all sessions. A registry is a context manager that closes its stores, in both forms.

    Args:
        stores: The stores by name.
        default: Name of the store of `get_session_history`; needed when there are several.
        on_save_error: Called with the error, the session id and the messages when a turn could not be saved, because
            `RunnableWithMessageHistory` only logs that.

    Raises:
        ConfigurationError: There is no store, or no such default.
    """

    def __init__(
        self,
        stores: Mapping[str, MessageStore | _Entry],
        *,
        default: str | None = None,
        on_save_error: SaveErrorHook | None = None,
    ) -> None:
        """Keep the stores."""
        self._entries = {name: _Entry(it) if isinstance(it, MessageStore) else it for name, it in stores.items()}
        if not stores:
            raise ConfigurationError("A registry needs at least one store.")
        if default is None and len(stores) > 1:
            raise ConfigurationError(f"default is missing: name one of {', '.join(sorted(stores))}.")
        self._default = next(iter(stores)) if default is None else default
        self._entry(self._default)
        self._on_save_error = on_save_error

    @classmethod
    def from_config(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        on_save_error: SaveErrorHook | None = None,
    ) -> Self:
        """Make a registry from a TOML or YAML file, a dict, or the environment.

        The form is `{"default": NAME, "histories": {NAME: {"url": ..., OPTION: ...}, ...}}`. In every text
        `${VARIABLE}` stands for an environment variable. Options are those of the store class, `StoreOptions`, `last`,
        the number of messages that `messages` shows, and `summarize`, a table of the arguments of
        `SummarizingChatMessageHistory`, which the histories of this name then are.

        Args:
            source: Path of a `.toml`, `.yaml` or `.yml` file, or a dict of the same form. `None` is one store at the
                URL in the variable `LANGCHAIN_HISTORIES_URL`.
            on_save_error: As for the class.

        Raises:
            ConfigurationError: Something in it cannot be used; the message has the file and the key.
            MissingExtraError: A driver is not installed.
        """
        if source is None:
            source = {"histories": {"default": {"url": f"${{{URL_VARIABLE}}}"}}}
            where = "environment"
        elif isinstance(source, Mapping):
            where = "config"
        else:
            where = str(source)
            source = _load(Path(source))
        histories = _table(source.get("histories"), f"{where}: histories")
        for key in source:
            if key not in ("default", "histories"):
                known = ["default", "histories"]
                raise ConfigurationError(f"{where}: unknown key {key!r}: {_did_you_mean(str(key), known)}")
        entries = {name: _entry(value, f"{where}: histories.{name}") for name, value in histories.items()}
        stores = {name: entry.store for name, entry in entries.items()}
        try:
            registry = cls(stores, default=source.get("default"), on_save_error=on_save_error)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from error
        registry._entries = entries
        return registry

    def __repr__(self) -> str:
        """The stores by name, without secrets."""
        return f"{type(self).__name__}({dict(self.stores)!r}, default={self._default!r})"

    @property
    def stores(self) -> Mapping[str, MessageStore]:
        """The stores by name."""
        return MappingProxyType({name: entry.store for name, entry in self._entries.items()})

    def store(self, name: str | None = None) -> MessageStore:
        """Return a store: the default one, or that of this name."""
        return self._entry(name).store

    def get_session_history(self, session_id: SessionId) -> TurnHistory:
        """Return the handle of one turn in the default store: the factory for `RunnableWithMessageHistory`."""
        return self._turn(self._default, session_id)

    def get_user_session_history(self, user_id: str, session_id: str) -> TurnHistory:
        """`get_session_history` for a user's session; pass `USER_SESSION_CONFIG` as `history_factory_config`."""
        return self._turn(self._default, user_session_id(user_id, session_id))

    def factory(
        self, name: str | None = None, *, per_user: bool = False
    ) -> Callable[[SessionId], TurnHistory] | Callable[[str, str], TurnHistory]:
        """Return the session factory of a named store.

        Args:
            name: The store; the default one if `None`.
            per_user: Return a factory of `user_id` and `session_id`, as `get_user_session_history` is one.

        Raises:
            ConfigurationError: There is no such store.
        """
        self._entry(name)

        def get_session_history(session_id: SessionId) -> TurnHistory:
            return self._turn(name, session_id)

        def get_user_session_history(user_id: str, session_id: str) -> TurnHistory:
            return self._turn(name, user_session_id(user_id, session_id))

        return get_user_session_history if per_user else get_session_history

    def history(
        self, session_id: SessionId, name: str | None = None
    ) -> StoredChatMessageHistory | SummarizingChatMessageHistory:
        """Return a history that reads through to the store, for programs that keep it longer than a turn."""
        entry = self._entry(name)
        return entry.shown(StoredChatMessageHistory(entry.store, session_id, last=entry.last))

    def close(self) -> None:
        """Close the blocking clients of all stores."""
        for entry in self._entries.values():
            entry.store.close()

    async def aclose(self) -> None:
        """Close the clients of all stores in this process and event loop."""
        for entry in self._entries.values():
            await entry.store.aclose()

    def _entry(self, name: str | None) -> _Entry:
        name = self._default if name is None else name
        if name not in self._entries:
            raise ConfigurationError(f"no history is named {name!r}: {_did_you_mean(str(name), self._entries)}")
        return self._entries[name]

    def _turn(self, name: str | None, session_id: SessionId) -> TurnHistory:
        entry = self._entry(name)
        history = TurnChatMessageHistory(entry.store, session_id, last=entry.last, on_save_error=self._on_save_error)
        return entry.shown(history)


def _load(path: Path) -> Mapping[str, Any]:
    """Read a config file.

    Raises:
        ConfigurationError: It is not there, or not of its kind.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read ({type(error).__name__}).") from error
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{path}: not TOML: {error}") from error
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigurationError(f"{path}: a config is a .toml, .yaml or .yml file.")
    try:
        import yaml
    except ImportError as error:
        raise missing_extra("yaml") from error
    try:
        return _table(yaml.safe_load(text), str(path))
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ConfigurationError(f"{path}: not YAML{line}: {error.problem}") from error


def _table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not value:
        raise ConfigurationError(f"{where}: is missing, or not a table.")
    return value


def _entry(value: object, where: str) -> _Entry:
    """Make the store of one table of the config, or take one that is made already."""
    if isinstance(value, MessageStore):
        return _Entry(value)
    options = {key: _substitute(item, f"{where}.{key}") for key, item in _table(value, where).items()}
    if "url" not in options:
        raise ConfigurationError(f"{where}.url: is missing. To use a client of your own, give a store in its place.")
    url, last, summarize = options.pop("url"), options.pop("last", None), options.pop("summarize", None)
    try:
        cls = _store_class(url)
        _check_options(cls, options, also=["last", "summarize"])
        store = cls(url, **options)
        store.history("check", last=last)
        entry = _Entry(store, last, _summarize(summarize, last))
        entry.shown(store.history("check"))
    except (ConfigurationError, TypeError) as error:
        raise ConfigurationError(f"{where}: {error}") from error
    return entry


def _summarize(value: object, last: int | None) -> Mapping[str, Any] | None:
    """Check the table `summarize`, and make its model once for all turns.

    Raises:
        ConfigurationError: Something in it cannot be used.
    """
    if value is None:
        return None
    options = _table(value, "summarize")
    if last is not None:
        raise ConfigurationError("last and summarize both say what is shown: give one of them.")
    known = set(inspect.signature(SummarizingChatMessageHistory).parameters) - {"history", "state"}
    for name in options:
        if name not in known:
            raise ConfigurationError(f"summarize: unknown option {name!r}: {_did_you_mean(name, known)}")
    if "model" not in options:
        raise ConfigurationError("summarize.model: is missing, such as 'openai:gpt-4o-mini' or 'extractive'.")
    model, prompt = options["model"], options.get("prompt")
    return {**options, "model": find_summarizer(model, prompt), "prompt": None}


def _substitute(value: Any, where: str) -> Any:
    """Put environment variables in the place of `${NAME}`, in nested tables too."""

    def variable(match: re.Match[str]) -> str:
        if (found := os.environ.get(match[1])) is None:
            raise ConfigurationError(f"{where}: the environment variable {match[1]} is not set.")
        return found

    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)\}", variable, value)
    if isinstance(value, dict):
        return {key: _substitute(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, where) for item in value]
    return value
