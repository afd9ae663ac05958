"""From a URL or a config to stores, and from stores to the session factories that programs are given."""

from __future__ import annotations

import inspect
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, overload

from langchain_core.runnables import ConfigurableFieldSpec

from langchain_histories._clients import Closing
from langchain_histories._copies import CopiedByAttributes
from langchain_histories._display import html_of_stores
from langchain_histories._schemes import store_kind
from langchain_histories._session_ids import SessionId, user_session_id
from langchain_histories._urls import url_text
from langchain_histories.errors import ConfigurationError, did_you_mean, needs_extra
from langchain_histories.history import StoredChatMessageHistory, TurnChatMessageHistory
from langchain_histories.store import MessageStore
from langchain_histories.views._limits import UNITS
from langchain_histories.views.summarizers import find_model, find_summarizer
from langchain_histories.views.summarizing import SummarizingChatMessageHistory
from langchain_histories.views.window import WindowedChatMessageHistory

if TYPE_CHECKING:
    from typing import Self

    from sqlalchemy import URL

    from langchain_histories.history import SaveErrorCallback

HistoryT = TypeVar("HistoryT", bound=StoredChatMessageHistory)
View: TypeAlias = WindowedChatMessageHistory | SummarizingChatMessageHistory
TurnHistory: TypeAlias = TurnChatMessageHistory | View

URL_VARIABLE = "LANGCHAIN_HISTORIES_URL"
_FORM = "{'histories': {'chat': {'url': 'sqlite:///chat.db'}}}, with a name and a URL of your own."

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


class SessionFactory(Protocol):
    """What `HistoryRegistry.factory` returns."""

    def __call__(self, session_id: SessionId) -> TurnHistory:
        """Return the handle of one turn."""


class UserSessionFactory(Protocol):
    """What `HistoryRegistry.factory` returns with `per_user=True`."""

    def __call__(self, user_id: SessionId, session_id: SessionId) -> TurnHistory:
        """Return the handle of one turn."""


def open_store(url: str | URL, **options: Any) -> MessageStore:
    """Return a store of your own for a URL. Its first use connects.

    Args:
        url: Where the store is; its scheme selects the class. A `URL` of SQLAlchemy does too.
        **options: The options of that class, and `StoreOptions`.

    Raises:
        ConfigurationError: The URL, an option, or the plugin for this scheme cannot be used.
        MissingExtraError: The driver is not installed.
    """
    text = url_text(url)
    kind = store_kind(text)
    kind.check_options(options)
    return kind.make(text, options)


def open_history(
    url: str | URL, session_id: SessionId, *, last: int | None = None, **options: Any
) -> StoredChatMessageHistory:
    """Return the history of a session in the store at `url`; every read goes to the store.

    A program may call this for each turn, because histories with the same URL share one pool of connections.

    Args:
        url: As for `open_store`.
        session_id: The session.
        last: `messages` shows only the last n; the transcript keeps all.
        **options: As for `open_store`.

    Raises:
        ConfigurationError: As for `open_store`, or the session id or `last` cannot be used.
        MissingExtraError: The driver is not installed.
    """
    text = url_text(url)
    kind = store_kind(text)
    kind.check_options(options, also=["last"])
    return StoredChatMessageHistory(kind.make(text, options, joined=True), session_id, last=last)


@dataclass(frozen=True)
class _NamedStore(CopiedByAttributes):
    """A store of a registry, and which part of a session its histories show."""

    store: MessageStore
    last: int | None = None
    view: type[View] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def shown(self, history: HistoryT) -> HistoryT | View:
        """The history, or the view of it that the config asks for."""
        return history if self.view is None else self.view(history, **self.options)


class HistoryRegistry(CopiedByAttributes, Closing):
    """Named stores, and the session factories of a program.

    A program takes its factory from here, so it changes its store by changing the config. Each store has one
    connection pool for all sessions. A registry is a context manager that closes its stores, in both forms.

    Args:
        stores: The stores by name.
        default: Name of the store of `get_session_history`; needed when there are several.
        save_error_callback: Called with the error, the session id and the messages of a turn that could not be saved.
            The error is raised afterwards, but `RunnableWithMessageHistory` only logs it.

    Raises:
        ConfigurationError: There is no store, or none with the name `default`.
    """

    def __init__(
        self,
        stores: Mapping[str, MessageStore],
        *,
        default: str | None = None,
        save_error_callback: SaveErrorCallback | None = None,
    ) -> None:
        """Keep the stores."""
        if not isinstance(stores, Mapping) or not all(isinstance(store, MessageStore) for store in stores.values()):
            raise ConfigurationError(
                "A registry is made of stores by name: HistoryRegistry({'chat': open_store(url)}). For a URL, a config "
                "or its file see HistoryRegistry.from_config, and for a single URL open_history(url, session_id)."
            )
        for name in stores:
            _check_name(name)
        self._stores = {name: _NamedStore(store) for name, store in stores.items()}
        if not stores:
            raise ConfigurationError("A registry needs at least one store.")
        if default is None and len(stores) > 1:
            raise ConfigurationError(f"default is missing: name one of {', '.join(sorted(stores))}.")
        self._default = next(iter(stores)) if default is None else default
        self._named(self._default)
        self._save_error_callback = save_error_callback

    @classmethod
    def from_config(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        save_error_callback: SaveErrorCallback | None = None,
    ) -> Self:
        """Make a registry from a TOML or YAML file, a dict, or the environment.

        The form is `{"default": NAME, "histories": {NAME: {"url": ..., OPTION: ...}, ...}}`. In every text
        `${VARIABLE}` stands for an environment variable. Options are those of the store class, `StoreOptions`, and one
        of these, which say what `messages` shows:

        - `last`: the number of messages;
        - `window`: a size such as `{"turns": 10}`, with arguments of `WindowedChatMessageHistory` beside it, or a
          number of tokens;
        - `summarize`: a table of the arguments of `SummarizingChatMessageHistory`, or the model alone.

        Args:
            source: Path of a `.toml`, `.yaml` or `.yml` file, or a dict of the same form. `None` is one store at the
                URL in the variable `LANGCHAIN_HISTORIES_URL`.
            save_error_callback: As for the class.

        Raises:
            ConfigurationError: The config cannot be used; the message names the file and the key.
            MissingExtraError: A driver is not installed.
        """
        if source is None:
            source = {"histories": {"default": {"url": f"${{{URL_VARIABLE}}}"}}}
            where = "environment"
        elif isinstance(source, Mapping):
            where = "config"
        elif isinstance(source, str) and re.match(r"[A-Za-z][\w+.-]*://", source):
            raise ConfigurationError(f"from_config takes no URL, but a file or a dict: {_FORM}")
        else:
            where = str(source)
            source = _load(Path(source))
        if "histories" not in source:
            raise ConfigurationError(f"{where}: histories: is missing. The form is {_FORM}")
        histories = _table(source["histories"], f"{where}: histories")
        for name in (*source, *histories):
            _check_name(name)
        for key in source:
            if key not in ("default", "histories"):
                known = ["default", "histories"]
                raise ConfigurationError(f"{where}: unknown key {key!r}: {did_you_mean(str(key), known)}")
        named = {name: _named_store(value, f"{where}: histories.{name}") for name, value in histories.items()}
        stores = {name: it.store for name, it in named.items()}
        try:
            registry = cls(stores, default=source.get("default"), save_error_callback=save_error_callback)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from error
        registry._stores = named
        return registry

    def __repr__(self) -> str:
        """The stores by name, without secrets."""
        return f"{type(self).__name__}({dict(self.stores)!r}, default={self._default!r})"

    def _repr_html_(self) -> str | None:
        """The stores as a table, for a notebook; nothing is read."""
        return html_of_stores(type(self).__name__, self.stores, self._default)

    @property
    def stores(self) -> Mapping[str, MessageStore]:
        """The stores by name."""
        return MappingProxyType({name: it.store for name, it in self._stores.items()})

    def store(self, name: str | None = None) -> MessageStore:
        """Return the store of this name, or the default one.

        Raises:
            ConfigurationError: There is no such store.
        """
        return self._named(name).store

    def __call__(self, session_id: SessionId) -> TurnHistory:
        """Return the handle of one turn, as `get_session_history` does: the registry itself is a session factory."""
        return self.get_session_history(session_id)

    def get_session_history(self, session_id: SessionId) -> TurnHistory:
        """Return the handle of one turn in the default store: the factory for `RunnableWithMessageHistory`."""
        return self._turn(self._default, session_id)

    def get_user_session_history(self, user_id: SessionId, session_id: SessionId | None = None) -> TurnHistory:
        """`get_session_history` for a user's session; pass `USER_SESSION_CONFIG` as `history_factory_config`.

        Raises:
            ConfigurationError: There is no session id, because that config was not passed.
        """
        if session_id is None:
            raise ConfigurationError(
                "get_user_session_history takes a user_id and a session_id: pass "
                "history_factory_config=USER_SESSION_CONFIG with it."
            )
        return self._turn(self._default, user_session_id(user_id, session_id))

    @overload
    def factory(self, name: str | None = None, *, per_user: Literal[False] = False) -> SessionFactory: ...

    @overload
    def factory(self, name: str | None = None, *, per_user: Literal[True]) -> UserSessionFactory: ...

    def factory(self, name: str | None = None, *, per_user: bool = False) -> SessionFactory | UserSessionFactory:
        """Return the session factory of a named store.

        Args:
            name: The store; the default one if `None`.
            per_user: Return a factory of `user_id` and `session_id`, as `get_user_session_history` is one.

        Raises:
            ConfigurationError: There is no such store.
        """
        self._named(name)

        def get_session_history(session_id: SessionId) -> TurnHistory:
            return self._turn(name, session_id)

        def get_user_session_history(user_id: SessionId, session_id: SessionId) -> TurnHistory:
            return self._turn(name, user_session_id(user_id, session_id))

        return get_user_session_history if per_user else get_session_history

    def history(self, session_id: SessionId, *, name: str | None = None) -> StoredChatMessageHistory | View:
        """Return a history whose reads all go to the store, for programs that keep it longer than a turn.

        Args:
            session_id: The session.
            name: The store; the default one if `None`.

        Raises:
            ConfigurationError: There is no such store, or the session id cannot be used.
        """
        named = self._named(name)
        return named.shown(StoredChatMessageHistory(named.store, session_id, last=named.last))

    def close(self) -> None:
        """Close the blocking clients of all stores."""
        for named in self._stores.values():
            named.store.close()

    async def aclose(self) -> None:
        """Async `close`: the async clients of this event loop too."""
        for named in self._stores.values():
            await named.store.aclose()

    def _named(self, name: str | None) -> _NamedStore:
        name = self._default if name is None else name
        if name not in self._stores:
            _check_name(name)
            raise ConfigurationError(f"no history is named {name!r}: {did_you_mean(str(name), self._stores)}")
        return self._stores[name]

    def _turn(self, name: str | None, session_id: SessionId) -> TurnHistory:
        named = self._named(name)
        return named.shown(
            TurnChatMessageHistory(
                named.store, session_id, last=named.last, save_error_callback=self._save_error_callback
            )
        )


def _load(path: Path) -> Mapping[str, Any]:
    """Read a config file.

    Raises:
        ConfigurationError: The file cannot be read or parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({type(error).__name__}).") from error
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise ConfigurationError(f"{path}: cannot be read, because it is not UTF-8.")
    if path.suffix == ".toml":
        content, wrong = _parsed_toml(text)
    elif path.suffix in (".yaml", ".yml"):
        content, wrong = _parsed_yaml(text)
    else:
        raise ConfigurationError(f"{path}: a config is a .toml, .yaml or .yml file.")
    if wrong:
        # The parser's error is neither cause nor context, because it quotes the text, which may have passwords.
        raise ConfigurationError(f"{path}: {wrong}")
    return content if isinstance(content, Mapping) else _table(content, str(path))


def _parsed_toml(text: str) -> tuple[object, str]:
    """Return what a text says, or what is wrong with it."""
    try:
        return tomllib.loads(text), ""
    except tomllib.TOMLDecodeError as error:
        return None, f"not TOML: {error}"


def _parsed_yaml(text: str) -> tuple[object, str]:
    """Return what a text says, or what is wrong with it, without the words of the text in it."""
    with needs_extra("yaml"):
        import yaml
    try:
        return yaml.safe_load(text), ""
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        problem = re.sub("'.*'", "...", error.problem or "", flags=re.DOTALL)
        return None, f"not YAML{line}: {problem}."
    except (yaml.YAMLError, ValueError) as error:
        return None, f"not YAML ({type(error).__name__})."


def _check_name(name: object) -> None:
    """Refuse a URL in the place of a name, because names are shown in messages.

    Raises:
        ConfigurationError: It is one.
    """
    if "://" in str(name):
        raise ConfigurationError(f"A URL stands where the name of a history belongs. The form is {_FORM}")


def _table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not value:
        raise ConfigurationError(f"{where}: is missing, or not a table.")
    return value


def _named_store(value: object, where: str) -> _NamedStore:
    """Make the store of one table of the config; the value may also be a store."""
    if isinstance(value, MessageStore):
        return _NamedStore(value)
    if isinstance(value, str):
        raise ConfigurationError(f"{where}: is a text, not a table. The form is {_FORM}")
    options = {key: _substitute(item, f"{where}.{key}") for key, item in _table(value, where).items()}
    if "url" not in options:
        raise ConfigurationError(f"{where}.url: is missing. To use a client of your own, give a store in its place.")
    url, last = url_text(options.pop("url")), options.pop("last", None)
    window, summarize = options.pop("window", None), options.pop("summarize", None)
    try:
        kind = store_kind(url)
        kind.check_options(options, also=["last", "window", "summarize"])
        store = kind.make(url, options)
        named = _shown_as(_NamedStore(store, last), window, summarize)
        named.shown(store.history("check", last=last))
    except (ConfigurationError, TypeError) as error:
        raise ConfigurationError(f"{where}: {error}") from error
    return named


def _shown_as(named: _NamedStore, window: object, summarize: object) -> _NamedStore:
    """Return the store with the view that its table asks for.

    Raises:
        ConfigurationError: There are several, or one cannot be used.
    """
    if sum(it is not None for it in (named.last, window, summarize)) > 1:
        raise ConfigurationError("last, window and summarize all say what is shown: give one of them.")
    if window is not None:
        return replace(named, view=WindowedChatMessageHistory, options=_window(window))
    if summarize is not None:
        return replace(named, view=SummarizingChatMessageHistory, options=_summarize(summarize))
    return named


def _window(value: object) -> Mapping[str, Any]:
    """Check the table `window`: a size, and other arguments beside it.

    Raises:
        ConfigurationError: An argument in the table cannot be used.
    """
    if not isinstance(value, Mapping):
        return {"keep": value}
    options = _view_options("window", value, WindowedChatMessageHistory, UNITS)
    size = {name: options.pop(name) for name in UNITS if name in options}
    if size and "keep" in options:
        raise ConfigurationError(f"window: keep and {next(iter(size))} both say how much is shown: give one of them.")
    if isinstance(model := options.get("model"), str):
        options["model"] = find_model(model)
    return {**options, "keep": size} if size else options


def _summarize(value: object) -> Mapping[str, Any]:
    """Check the table `summarize`, and make its model once for all turns.

    Raises:
        ConfigurationError: An argument in the table cannot be used.
    """
    if not isinstance(value, Mapping):
        value = {"model": value}
    options = _view_options("summarize", value, SummarizingChatMessageHistory)
    if "model" not in options:
        raise ConfigurationError("summarize.model: is missing, such as 'openai:gpt-4o-mini' or 'extractive'.")
    model, prompt = options["model"], options.get("prompt")
    return {**options, "model": find_summarizer(model, prompt), "prompt": None}


def _view_options(name: str, value: Mapping[Any, Any], view: type[View], also: Iterable[str] = ()) -> dict[str, Any]:
    """Return the table of a view, if it has arguments of the view alone.

    Raises:
        ConfigurationError: It has others.
    """
    known = {*inspect.signature(view).parameters, *also} - {"history", "state"}
    for option in _table(value, name):
        if option not in known:
            raise ConfigurationError(f"{name}: unknown option {option!r}: {did_you_mean(option, known)}")
    return dict(value)


def _substitute(value: Any, where: str) -> Any:
    """Put environment variables in the place of `${NAME}`, in nested tables too."""

    def variable(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if not found:
            what = "is not set" if found is None else "is empty"
            raise ConfigurationError(f"{where}: the environment variable {match[1]} {what}.")
        return found

    if isinstance(value, str):
        if re.fullmatch(r"\$\w+", value):
            # Another option may be a password that begins so.
            name = value[1:] if where.endswith(".url") else "NAME"
            raise ConfigurationError(f"{where}: ${name} is not replaced: write ${{{name}}}.")
        return re.sub(r"\$\{(\w+)\}", variable, value)
    if isinstance(value, dict):
        return {key: _substitute(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, where) for item in value]
    return value
