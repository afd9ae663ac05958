"""From URLs and configs to stores and factories."""

from __future__ import annotations

import asyncio
import logging

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_histories import (
    USER_SESSION_CONFIG,
    ConfigurationError,
    HistoryRegistry,
    MemoryStore,
    StoreUnavailableError,
    open_history,
    open_store,
    user_session_id,
)
from langchain_histories._options import STORES_WITH_TTL, Capability
from langchain_histories._urls import shown_url

pytestmark = pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")


def write(tmp_path, text, name="histories.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_toml(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDER", str(tmp_path / "folder"))
    path = write(
        tmp_path,
        """
        default = "support"
        [histories.support]
        url = "memory://"
        ttl = 60
        last = 2
        [histories.archive]
        url = "file://${FOLDER}"
        """,
    )
    registry = HistoryRegistry.from_config(path)
    assert list(registry.stores) == ["support", "archive"]
    assert registry.store().ttl == 60
    registry.get_session_history("42").add_messages([HumanMessage(str(n)) for n in range(5)])
    assert [m.content for m in registry.get_session_history("42").messages] == ["3", "4"]
    assert [m.content for m in registry.history("42").messages] == ["3", "4"]
    assert len(registry.store("support").read("42")) == 5
    registry.factory("archive")("42").add_user_message("kept")
    assert [m.content for m in registry.history("42", name="archive").messages] == ["kept"]
    assert str(tmp_path / "folder") in repr(registry)


def test_yaml_and_dict_give_the_same(tmp_path):
    path = write(tmp_path, "histories:\n  a:\n    url: memory://\n    last: 1\n", "histories.yaml")
    for source in (path, {"histories": {"a": {"url": "memory://", "last": 1}}}):
        registry = HistoryRegistry.from_config(source)
        registry.history("s").add_messages([HumanMessage("1"), HumanMessage("2")])
        assert [m.content for m in registry.history("s").messages] == ["2"]


def test_environment(monkeypatch):
    monkeypatch.setenv("LANGCHAIN_HISTORIES_URL", "memory://")
    assert isinstance(HistoryRegistry.from_config().store(), MemoryStore)
    monkeypatch.delenv("LANGCHAIN_HISTORIES_URL")
    with pytest.raises(ConfigurationError, match=r"environment: histories\.default\.url.*LANGCHAIN_HISTORIES_URL"):
        HistoryRegistry.from_config()


def test_a_store_of_your_own(tmp_path):
    store = MemoryStore()
    registry = HistoryRegistry.from_config({"histories": {"mine": store}})
    assert registry.store() is store


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, ["histories", "missing"]),
        ({"histories": {}}, ["histories", "missing"]),
        ({"url": "memory://"}, ["histories", "missing", "{'histories': {'chat': {'url': "]),
        ({"histories": {"a": "memory://"}}, ["histories.a", "text", "{'url': "]),
        ({"histories": {"a": {"url": "$REDIS_URL"}}}, ["histories.a.url", "$REDIS_URL", "write ${REDIS_URL}"]),
        ({"histories": {"a": "redis://"}}, ["histories.a", "table"]),
        ({"histories": {"a": {"ttl": 5}}}, ["histories.a.url", "missing"]),
        ({"histories": {"a": {"url": "redi://localhost"}}}, ["histories.a", "'redi'", "did you mean 'redis'"]),
        ({"histories": {"a": {"url": "localhost:6379"}}}, ["histories.a", "localhost"]),
        ({"histories": {"a": {"url": "/tmp/x"}}}, ["histories.a", "scheme"]),
        ({"histories": {"a": {"url": "memory://", "tll": 5}}}, ["histories.a", "'tll'", "did you mean 'ttl'"]),
        ({"histories": {"a": {"url": "memory://", "ttl": "5"}}}, ["histories.a", "ttl", "whole number"]),
        ({"histories": {"a": {"url": "memory://", "last": -1}}}, ["histories.a", "last"]),
        ({"histories": {"a": {"url": "kafka://localhost:9092", "ttl": 5}}}, ["histories.a", "kafka", *STORES_WITH_TTL]),
        ({"histories": {"a": {"url": "memory://", "codec": "rot13"}}}, ["histories.a", "codec"]),
        ({"histories": {"a": {"url": "memory://", "on_corrupt": "ignore"}}}, ["histories.a", "on_corrupt", "skip"]),
        ({"histories": {"a": {"url": "redis://h", "client": object()}}}, ["histories.a", "url", "client"]),
        ({"histories": {"a": {"url": "${NO_SUCH_VARIABLE}"}}}, ["histories.a.url", "NO_SUCH_VARIABLE"]),
        ({"historys": {"a": {}}, "histories": {"a": {"url": "memory://"}}}, ["'historys'", "did you mean 'histories'"]),
        ({"default": "b", "histories": {"alpha": {"url": "memory://"}}}, ["'b'", "alpha"]),
        ({"histories": {"a": {"url": "memory://"}, "b": {"url": "memory://"}}}, ["default", "a, b"]),
    ],
)
def test_bad_config_is_refused_when_it_is_loaded(config, words):
    with pytest.raises(ConfigurationError) as caught:
        HistoryRegistry.from_config(config)
    for word in ["config", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.toml", "histories = = 3", ["not TOML", "line 1"]),
        ("a.yaml", "histories: [\n", ["not YAML", "line"]),
        ("a.yml", "- a\n", ["table"]),
        ("a.json", "{}", [".toml"]),
    ],
)
def test_bad_files(tmp_path, name, text, words):
    with pytest.raises(ConfigurationError) as caught:
        HistoryRegistry.from_config(write(tmp_path, text, name))
    for word in [name, *words]:
        assert word in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.toml"):
        HistoryRegistry.from_config(tmp_path / "none.toml")


def test_an_unknown_name():
    registry = HistoryRegistry({"support": MemoryStore()})
    for call in (registry.store, registry.factory, lambda name: registry.history("s", name=name)):
        with pytest.raises(ConfigurationError, match="did you mean 'support'"):
            call("suport")


@pytest.mark.parametrize("bad", ["", None])
def test_a_missing_session_id(bad):
    registry = HistoryRegistry({"a": MemoryStore()})
    for call in (registry.get_session_history, registry.factory("a"), registry.history):
        with pytest.raises(ConfigurationError, match="session_id"):
            call(bad)
    for user, session in ((bad, "1"), ("ivan", bad)):
        with pytest.raises(ConfigurationError, match="session_id"):
            registry.get_user_session_history(user, session)


def test_users():
    registry = HistoryRegistry({"a": MemoryStore()})
    pairs = [("a:b", "c"), ("a", "b:c"), ("a/b", "c"), ("a", "b/c"), ("a%2Fb", "c"), ("a%", "2Fb/c")]
    assert len({user_session_id(user, session) for user, session in pairs}) == len(pairs)
    for number, (user, session) in enumerate(pairs):
        registry.get_user_session_history(user, session).add_user_message(str(number))
    for number, (user, session) in enumerate(pairs):
        (message,) = registry.factory("a", per_user=True)(user, session).messages
        assert message.content == str(number)
    registry.store().erase(user_id="a")
    assert registry.get_user_session_history("a", "b/c").messages == []
    assert len(registry.get_user_session_history("a/b", "c").messages) == 1


def test_open_history_shares_one_place_per_url():
    one, again = open_history("memory://", "a", ttl=77), open_history("memory://", "b", ttl=77)
    assert one.store.client is again.store.client
    other = open_history("memory://", "a", ttl=78).store
    assert (one.store.ttl, other.ttl) == (77, 78)
    assert other.client is one.store.client
    assert open_store("memory://").client is not open_store("memory://").client
    with pytest.raises(ConfigurationError, match="'tll'"):
        open_history("memory://", "a", tll=5)


@pytest.mark.parametrize(
    "url",
    [
        "redis://ivan:Secret7@h/0",
        "redis://h/0?password=Secret7&db=1",
        "upstash://h?token=Secret7",
        "azure-table://a.table.core.windows.net/t?sv=1&sig=Secret7",
        "kafka://h?sasl.oauthbearer.config=Secret7&client.id=x",
    ],
)
def test_a_url_is_shown_without_its_secrets(url):
    assert "Secret7" not in shown_url(url)
    assert shown_url(url).startswith(url.partition(":")[0])


def test_the_stores_with_ttl_are_those_that_have_it(tmp_path):
    urls = ["memory://", f"file://{tmp_path}", "redis://h", "upstash://:token@h", "sqlite:///x.db", "mongodb://h"]
    urls += ["dynamodb:///t", "kafka://h", "azure-table://a.table.core.windows.net/chats", "cosmosdb://:a2V5@h/d/c"]
    urls += ["tablestore://id:secret@i.region.ots.aliyuncs.com/i"]
    stores = [open_store(url) for url in urls]
    names = {"memory", "file", "redis", "upstash", "sql", "mongodb", "dynamodb", "kafka"}
    assert {store.name for store in stores} == names | {"azure-table", "cosmosdb", "tablestore"}
    assert {store.name for store in stores if Capability.TTL in store.capabilities} == {*STORES_WITH_TTL}


def chat(factory, **options):
    return RunnableWithMessageHistory(
        RunnableLambda(lambda given: AIMessage(f"{given['question']} after {len(given['history'])}")),
        factory,
        input_messages_key="question",
        history_messages_key="history",
        **options,
    )


def test_all_ways_to_call_a_chain():
    registry = HistoryRegistry({"a": MemoryStore()})
    runnable = chat(registry.get_session_history)
    config = {"configurable": {"session_id": "42"}}

    async def asynchronously():
        await runnable.ainvoke({"question": "2"}, config)
        async for _ in runnable.astream({"question": "3"}, config):
            pass
        await runnable.abatch([{"question": "4"}], [config])

    runnable.invoke({"question": "0"}, config)
    list(runnable.stream({"question": "1"}, config))
    asyncio.run(asynchronously())
    runnable.batch([{"question": "5"}], [config])
    stored = [m.content for m in registry.store().read("42")]
    assert stored[::2] == ["0", "1", "2", "3", "4", "5"]
    assert stored[1::2] == [f"{n} after {2 * n}" for n in range(6)]


def test_user_and_session_under_runnable_with_message_history():
    registry = HistoryRegistry({"a": MemoryStore()})
    runnable = chat(registry.get_user_session_history, history_factory_config=USER_SESSION_CONFIG)
    runnable.invoke({"question": "0"}, {"configurable": {"user_id": "ivan", "session_id": "42"}})
    assert len(registry.get_user_session_history("ivan", "42").messages) == 2


def test_a_turn_reads_once_until_it_has_written():
    registry = HistoryRegistry({"a": MemoryStore()})
    turn, through = registry.get_session_history("s"), registry.history("s")
    assert turn.messages == []
    through.add_user_message("from elsewhere")
    assert turn.messages == []
    assert asyncio.run(turn.aget_messages()) == []
    turn.add_messages([HumanMessage("mine")])
    assert [m.content for m in turn.messages] == ["from elsewhere", "mine"]
    assert turn.messages is not turn.messages
    turn.clear()
    assert turn.messages == []


def test_a_failed_save_is_logged_and_reported(caplog):
    told = []
    registry = HistoryRegistry.from_config(
        {"histories": {"a": {"url": "redis://127.0.0.1:1"}}}, save_error_callback=lambda *given: told.append(given)
    )
    turn = registry.get_session_history("42")
    messages = [HumanMessage("secret words"), AIMessage("answer")]
    with caplog.at_level(logging.ERROR), pytest.raises(StoreUnavailableError):
        turn.add_messages(messages)
    with caplog.at_level(logging.ERROR), pytest.raises(StoreUnavailableError):
        asyncio.run(turn.aadd_messages(messages))
    assert [(type(error), session_id, list(lost)) for error, session_id, lost in told] == [
        (StoreUnavailableError, "42", messages)
    ] * 2
    assert "2 messages of session '42' were not saved" in caplog.text
    assert "secret words" not in caplog.text


def test_closing(tmp_path):
    with HistoryRegistry.from_config({"histories": {"a": {"url": "memory://"}}}) as registry:
        registry.history("s").add_user_message("x")

    async def use():
        async with HistoryRegistry.from_config({"histories": {"a": {"url": "memory://"}}}) as registry:
            await registry.history("s").aadd_messages([HumanMessage("x")])

    asyncio.run(use())


def test_the_log_of_a_failed_save_does_not_quote_the_messages(caplog):
    def refuse(message):
        raise ValueError(message.content)

    registry = HistoryRegistry.from_config({"histories": {"s": {"url": "memory://", "before_save": refuse}}})
    with pytest.raises(ValueError, match="secret"):
        registry.get_session_history("1").add_messages([HumanMessage("secret")])
    assert "1 messages of session '1' were not saved: ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_a_registry_is_a_session_factory():
    registry = HistoryRegistry({"a": MemoryStore()})
    registry("1").add_user_message("x")
    assert registry.get_session_history("1").messages == [HumanMessage("x")]


def test_a_url_in_place_of_a_config_or_of_stores(monkeypatch):
    for wrong in (
        "redis://:Secret7@h",
        {"a": "redis://:Secret7@h"},
        [MemoryStore()],
        {"histories": {"a": {"url": "memory://"}}},
    ):
        with pytest.raises(ConfigurationError, match="from_config") as caught:
            HistoryRegistry(wrong)
        assert "Secret7" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="takes no URL") as caught:
        HistoryRegistry.from_config("redis://:Secret7@h")
    assert "Secret7" not in str(caught.value)
    monkeypatch.setenv("EMPTY_URL", "")
    with pytest.raises(ConfigurationError, match=r"EMPTY_URL is empty"):
        HistoryRegistry.from_config({"histories": {"a": {"url": "${EMPTY_URL}"}}})


def test_a_user_without_a_session_is_told_of_the_config():
    registry = HistoryRegistry.from_config({"histories": {"chat": {"url": "memory://"}}})
    with pytest.raises(ConfigurationError, match="USER_SESSION_CONFIG"):
        registry.get_user_session_history("ivan")


CALL = AIMessage("", tool_calls=[{"name": "t", "args": {}, "id": i} for i in ("1", "2")])
ANSWERS = [ToolMessage(i, tool_call_id=i) for i in ("1", "2")]


@pytest.mark.parametrize(("last", "shown"), [(1, 1), (2, 1), (3, 1), (4, 4), (5, 5), (6, 5)])
@pytest.mark.parametrize("kind", ["kept", "turn", "own"])
async def test_last_never_begins_with_an_answer_without_its_call(last, shown, kind):
    registry = HistoryRegistry.from_config({"histories": {"s": {"url": "memory://", "last": last}}})
    stored = [HumanMessage("q"), CALL, *ANSWERS, AIMessage("a")]
    registry.store().append("1", stored)
    history = {
        "kept": lambda: registry.history("1"),
        "turn": lambda: registry.get_session_history("1"),
        "own": lambda: registry.store().history("1", last=last),
    }[kind]()
    assert history.messages == await history.aget_messages() == stored[-shown:]
    for page in (history.get_messages(last=2), await history.aget_messages(last=2)):
        assert page == stored[-2:], "a page of the transcript has what there is"
