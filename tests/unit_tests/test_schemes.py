"""Which store a URL names: the schemes of this package, and those of plugins, good and bad ones."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

from langchain_histories import ConfigurationError, HistoryRegistry, MessageStore, MissingExtraError, open_history
from langchain_histories import open_store as open_store_
from langchain_histories._schemes import SCHEMES, _plugin_kind, store_kind

STORE = """
    from langchain_histories.stores.base import Capability, Clients, MessageStore, Operations, Row

    class ListOperations(Operations[dict[str, list[str]]]):
        name = "lists"

        async def append(self, client, key, rows):
            client.setdefault(key, []).extend(rows)

        async def read(self, client, key, *, last=None, first=None, after=None):
            return [Row(text, str(number)) for number, text in enumerate(client.get(key, []))]

        async def clear(self, client, key):
            client.pop(key, None)

    class Lists(MessageStore):
        def __init__(self, url, *, shelf="top", **options):
            memory = {}
            super().__init__(ListOperations(), Clients(client=memory, async_client=memory), url, **options)
            self.shelf = shelf
"""


@pytest.fixture(autouse=True)
def no_plugin_is_remembered():
    _plugin_kind.cache_clear()
    yield
    _plugin_kind.cache_clear()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution with entry points and a module, as pip does."""

    def make(package, entry_points, code=""):
        folder = tmp_path / package
        info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[langchain_histories.stores]\n{entry_points}\n")
        module = package.replace("-", "_")
        (folder / f"{module}.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return make


def open_store(url, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return open_store_(url, **options)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_of_ours_names_a_store_class(scheme):
    kind = store_kind(f"{scheme}://")
    assert issubclass(kind.cls, MessageStore)
    assert kind.plugin is None
    assert store_kind(f"{scheme}+driver://") == store_kind(f"{scheme.upper()}:") == kind


def test_a_scheme_of_ours_needs_no_look_at_the_installed_packages(monkeypatch):
    def look(**_):
        raise AssertionError

    monkeypatch.setattr("langchain_histories._schemes.entry_points", look)
    for scheme in SCHEMES:
        store_kind(f"{scheme}://")
        store_kind(f"{scheme}+driver://")
    with pytest.raises(AssertionError):
        store_kind("theirs://")


def test_third_parties_register_by_entry_point(install):
    install("lh-theirs", "theirs = lh_theirs:Lists", STORE)
    for url in ("theirs://", "THEIRS://x", "theirs+driver://x"):
        store = open_store(url, shelf="low")
        assert (type(store).__name__, store.shelf) == ("Lists", "low")
    history = open_history("theirs://", "1")
    history.add_user_message("hi")
    assert [message.content for message in history.messages] == ["hi"]
    config = {"histories": {"a": {"url": "theirs://", "shelf": "low"}}}
    assert HistoryRegistry.from_config(config).store().name == "lists"
    with pytest.raises(ConfigurationError, match="did you mean 'theirs'"):
        open_store("their://")
    with pytest.raises(ConfigurationError, match="'shelv' of Lists: did you mean 'shelf'"):
        open_store("theirs://", shelv="low")


def test_the_installed_packages_are_searched_once_for_each_scheme(install, monkeypatch):
    install("lh-theirs", "theirs = lh_theirs:Lists", STORE)
    open_history("theirs://", "1")
    monkeypatch.setattr("langchain_histories._schemes.entry_points", None)
    open_history("theirs://", "2")


def test_a_plugin_that_is_installed_later_is_found(install):
    with pytest.raises(ConfigurationError, match="'theirs'"):
        open_store("theirs://")
    install("lh-theirs", "theirs = lh_theirs:Lists", STORE)
    open_store("theirs://")


@pytest.mark.parametrize("scheme", ["redis", "Memory", "postgresql+lists"])
def test_a_plugin_cannot_take_a_scheme_of_ours(install, scheme):
    install("lh-greedy", f"{scheme} = lh_greedy:Lists\nlists = lh_greedy:Lists", STORE)
    assert store_kind(f"{scheme}://").cls.__name__ != "Lists"
    with pytest.warns(
        RuntimeWarning, match=re.escape(f"'lh-greedy' registers the URL scheme {scheme.lower()!r}")
    ) as told:
        store = open_store_("lists://")
    assert len(told) == 1
    assert type(store).__name__ == "Lists"


def test_two_plugins_with_one_scheme(install):
    install("lh-one", "theirs = lh_one:Lists\none = lh_one:Lists", STORE)
    install("lh-two", "Theirs = lh_two:Lists\ntwo = lh_two:Lists", STORE)
    with pytest.raises(ConfigurationError, match="'theirs' is registered by 'lh-one' and 'lh-two'"):
        open_store("theirs://")
    for scheme in ("one", "two"):
        assert type(open_store(f"{scheme}://")).__module__ == f"lh_{scheme}"


@pytest.mark.parametrize(
    ("entry_point", "code", "words"),
    [
        ("lh_bad:Lists", "import no_such_module", ["lh_bad:Lists", "ModuleNotFoundError", "no_such_module"]),
        ("lh_bad:Lists", "class Lost: ...", ["AttributeError", "Lists"]),
        ("lh_bad:Lists", "class Lists(", ["SyntaxError"]),
        ("lh_bad:Lists", "1 / 0", ["ZeroDivisionError"]),
        ("no_such_module:Lists", "", ["no_such_module:Lists", "ModuleNotFoundError"]),
        ("not an entry point", "", ["not an entry point", "AttributeError"]),
        ("lh_bad:Lists", "class Lists: ...", ["subclass of MessageStore", "Lists"]),
        ("lh_bad:Lists", "def Lists(url): ...", ["subclass of MessageStore", "function"]),
        ("lh_bad", "", ["subclass of MessageStore", "module"]),
        ("lh_bad:Lists", STORE.replace("async def append", "async def add"), ["cannot make its store", "append"]),
        ("lh_bad:Lists", STORE.replace("async def clear", "async def empty"), ["cannot make its store", "clear"]),
        ("lh_bad:Lists", STORE.replace("self, url, *", "self, *"), ["cannot make its store"]),
    ],
)
def test_a_plugin_that_cannot_be_used(install, entry_point, code, words):
    install("lh-bad", f"theirs = {entry_point}", code)
    for call in (
        lambda: open_store("theirs://"),
        lambda: open_history("theirs://", "1"),
        lambda: HistoryRegistry.from_config({"histories": {"a": {"url": "theirs://"}}}),
    ):
        with pytest.raises(ConfigurationError) as caught:
            call()
        for word in ["'theirs'", "'lh-bad'", *words]:
            assert word in str(caught.value)
    # Nobody else's store is concerned.
    open_store("memory://")
    with pytest.raises(ConfigurationError, match="did you mean 'theirs'"):
        open_store("their://")


def test_a_plugin_without_its_driver_names_its_own_extra(install):
    code = """
        from langchain_histories.stores.base import needs_extra

        with needs_extra("lists", package="lh-bare"):
            import no_such_driver
    """
    install("lh-bare", "theirs = lh_bare:Lists", code)
    with pytest.raises(MissingExtraError, match=r"pip install 'lh-bare\[lists\]'"):
        open_store("theirs://")


def test_a_plugin_of_a_package_without_a_name(install, tmp_path):
    install("lh-bad", "theirs = lh_bad:Lists", "1 / 0")
    (tmp_path / "lh-bad" / "lh_bad-1.0.dist-info" / "METADATA").write_text("")
    with pytest.raises(ConfigurationError, match="'lh_bad:Lists'"):
        open_store("theirs://")


def test_importing_the_table_imports_no_store():
    code = """
        import sys, langchain_histories._schemes
        print([name for name in sys.modules if name.startswith("langchain_histories.stores")])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("localhost:6379", "redis://localhost:6379"),
        ("db.example.org:5432/chats", "postgresql://db.example.org:5432/chats"),
        ("chat.db", "sqlite:///chat.db"),
        ("./chats", "file:./chats"),
        (Path("chats"), "file:./chats"),
        ("C:\\chats", "file:///C:/chats"),
        ("//user:right-Secret7@host", "redis://localhost:6379/0"),
        ("", "redis://localhost:6379/0"),
    ],
)
def test_what_is_no_url_is_told_with_the_url_that_was_perhaps_meant(given, wanted):
    with pytest.raises(ConfigurationError) as caught:
        open_store_(given)
    assert repr(wanted) in str(caught.value)
    assert "Secret" not in str(caught.value)


@pytest.mark.parametrize("given", ["$REDIS_URL", "${REDIS_URL}"])
def test_a_variable_that_is_not_replaced_is_told(given):
    with pytest.raises(ConfigurationError, match=r"give os\.environ\['REDIS_URL'\]"):
        open_store_(given)


def test_an_empty_url_is_told():
    with pytest.raises(ConfigurationError, match=r"this one is empty, as an environment variable may be"):
        open_store_("")
