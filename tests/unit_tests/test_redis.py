"""The Redis store over fakeredis: quick, without a server. The kit runs on a real one."""

from __future__ import annotations

import asyncio
import json

import fakeredis
import pytest
from langchain_core.messages import AIMessage, HumanMessage, messages_from_dict

from langchain_histories import ConfigurationError, CorruptRecordError, RedisChatMessageHistory, RedisStore


@pytest.fixture
def client():
    return fakeredis.FakeRedis()


@pytest.fixture
def store(client):
    return RedisStore(client=client)


def test_a_session_is_a_list_with_the_newest_first(store, client):
    store.append("42", [HumanMessage("a"), AIMessage("b")])
    store.append("42", [HumanMessage("c")])
    texts = client.lrange("message_store:42", 0, -1)
    assert [message.content for message in messages_from_dict([json.loads(text) for text in texts])] == ["c", "b", "a"]
    assert [message.content for message in store.read("42")] == ["a", "b", "c"]


@pytest.mark.parametrize(("index", "command"), [(True, "EVAL"), (False, "LPUSH")])
def test_a_batch_is_one_command(client, monkeypatch, index, command):
    commands = []
    send = client.execute_command
    monkeypatch.setattr(
        client, "execute_command", lambda *args, **options: commands.append(args[0]) or send(*args, **options)
    )
    RedisStore(client=client, index=index).append("42", [HumanMessage("a"), AIMessage("b")])
    assert commands == [command]


def test_ttl_is_set_on_list_and_state(client):
    store = RedisStore(client=client, ttl=60)
    store.put_state("42", {"a": 1})
    client.persist("{message_store:42}:state")
    store.append("42", [HumanMessage("a")])
    assert 0 < client.ttl("message_store:42") <= 60
    assert 0 < client.ttl("{message_store:42}:state") <= 60
    store.replace("42", [HumanMessage("b")])
    assert 0 < client.ttl("message_store:42") <= 60


def test_a_changed_state_expires_as_a_stored_one(client):
    store = RedisStore(client=client, ttl=60)
    name = "{message_store:42}:state"
    for number in range(2):
        assert store.update_state("42", lambda _, number=number: {"n": number}) == {"n": number}
        assert 0 < client.ttl(name) <= 60
        client.persist(name)
    client.expire(name, 60)
    RedisStore(client=client).update_state("42", lambda _: {"n": 2})
    assert client.ttl(name) == -1


def test_a_state_of_a_client_that_decodes():
    """What was read is compared with what is stored, as text or as bytes."""
    store = RedisStore(client=fakeredis.FakeRedis(decode_responses=True))
    store.put_state("42", {"a": "Привет \x00 👍"})
    assert store.update_state("42", lambda state: state | {"b": 1}) == {"a": "Привет \x00 👍", "b": 1}
    assert store.update_state("42", lambda _: None) is None
    assert store.get_state("42") is None


def test_both_faces_over_clients_of_your_own():
    server = fakeredis.FakeServer()

    async def use():
        native = fakeredis.FakeAsyncRedis(server=server)
        history = RedisChatMessageHistory(
            "42", redis_client=fakeredis.FakeRedis(server=server), async_redis_client=native
        )
        await history.aadd_messages([HumanMessage("async")])
        history.add_user_message("sync")
        assert await history.aget_messages() == history.messages == [HumanMessage("async"), HumanMessage("sync")]
        await native.aclose()

    asyncio.run(use())


def test_url_and_client_exclude_each_other(client):
    with pytest.raises(ConfigurationError, match="not both"):
        RedisChatMessageHistory("42", "redis://elsewhere", redis_client=client)


@pytest.mark.parametrize(
    "url",
    [
        "host:6379",
        "http://:Secret7@host",
        "nonsense+sentinel://:Secret7@host",
        "redis://:Secret7#x@host",
        "redis://host:Secret7",
        "redis+sentinel://host:Secret7/mymaster",
        "redis://:Secret7@host?socket_timeout=soon",
    ],
)
def test_a_url_that_cannot_be_read_is_told_by_the_constructor(url):
    """The driver's bare `ValueError` came with the first message."""
    with pytest.raises(ConfigurationError, match=r"redis(\+sentinel)?://") as caught:
        RedisChatMessageHistory("42", url)
    assert "Secret7" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_clients_of_the_wrong_kind(client):
    """The error is the same for the store and the drop-in class, whose arguments have other names."""
    native = fakeredis.FakeAsyncRedis()
    for make in (
        lambda: RedisStore(client=native),
        lambda: RedisChatMessageHistory("42", redis_client=native),
    ):
        with pytest.raises(ConfigurationError, match=r"^The client must be a blocking client of redis, not fakeredis"):
            make()
    for make in (
        lambda: RedisStore(async_client=client),
        lambda: RedisChatMessageHistory("42", async_redis_client=client),
    ):
        with pytest.raises(ConfigurationError, match=r"^The async client must be an asyncio client of redis, not fake"):
            make()


def test_positions_say_where_a_corrupt_record_is(store, client):
    store.append("42", [HumanMessage("a")])
    client.lpush("message_store:42", "{cut")
    with pytest.raises(CorruptRecordError) as caught:
        store.read("42")
    assert caught.value.position.startswith("1-")


def test_passwords_are_not_shown():
    store = RedisStore("rediss://user:hunter2@host:6380/1?password=hunter2&ssl_cert_reqs=none")
    assert "hunter2" not in repr(store)
    assert "user:***@host:6380/1" in repr(store)


def test_keys_that_only_look_like_a_session_are_left_alone(store, client):
    foreign = [
        b"{message_store:@alice/1}}:state",
        b"{other}message_store:@alice/1:tagged-state",
        b"{0}message_store:@alice/}:tagged-state",
        b"{x}message_store:@alice/1:state",
        b"{message_store:@alice/\xff}:state",
    ]
    for key in foreign:
        client.set(key, "somebody's")
    client.rpush(b"message_store:@alice/\xff", "not UTF-8")
    store.put_state("@bob/}message_store:@alice/1", {"a": 1})
    store.append("@alice/}1", [HumanMessage("x")])
    store.put_state("@alice/}1", {"a": 1})
    store.put_state("@alice/{2", {"a": 1})
    assert [info.session_id for info in store.sessions()] == ["@alice/}1"]
    assert store.erase(user_id="alice") == 2
    assert store.get_state("@bob/}message_store:@alice/1") == {"a": 1}
    assert {*foreign, b"message_store:@alice/\xff"} <= {*client.keys()}
    assert len(client.keys()) == len(foreign) + 2
