"""The Redis store on a real server."""

from __future__ import annotations

import asyncio
import functools
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
import redis
import redis.asyncio
from behind import Quiet
from broken import broken_lists, pushes
from langchain_core.messages import AIMessage, HumanMessage
from redis.backoff import NoBackoff
from redis.retry import Retry
from servers import BUSY, WRONG_PASSWORD

from langchain_histories import (
    Capability,
    ConfigurationError,
    CorruptRecordError,
    RedisChatMessageHistory,
    RedisStore,
    StoreError,
    StoreUnavailableError,
    UnsupportedOperationError,
    open_history,
    user_session_id,
)
from langchain_histories.stores.shared.redis_lists import _list_of_state, state_name
from langchain_histories.testing import MessageStoreTests, golden_messages, odd_session_ids
from langchain_histories.testing.messages import texts


class TestRedisStore(MessageStoreTests):
    capabilities = ~Capability(0)

    @pytest.fixture
    def open_store(self, redis_server):
        return functools.partial(RedisStore, redis_server.url, key_prefix=f"{uuid.uuid4().hex}:", timeout=BUSY)

    @pytest.fixture
    def unreachable_store(self):
        return RedisStore("redis://127.0.0.1:1/0")

    @pytest.fixture
    def wrong_password_store(self, redis_password_server):
        return RedisStore(redis_password_server.url_with(password=WRONG_PASSWORD))

    @pytest.fixture
    def server(self, redis_server):
        return redis_server

    @pytest.fixture
    def quiet_server(self, redis_server):
        with Quiet("redis", redis_server) as server:
            yield server

    def traces(self, store):
        return sorted(key.decode() for key in store.client.scan_iter(f"*{store.operations.key_prefix}*"))

    places = traces

    def foreign_rows(self, store, session_id):
        return pushes(store, session_id, (b"", b"\xff\xfe", b"\x80{}", b"\x00"))

    def broken_sessions(self, store, session_id):
        return broken_lists(store, session_id)


class TestRedisCluster(MessageStoreTests):
    capabilities = ~Capability.NEWEST

    @pytest.fixture
    def open_store(self, redis_cluster):
        prefix = f"{uuid.uuid4().hex}:"
        return functools.partial(RedisStore, redis_cluster.url, key_prefix=prefix, index=False, timeout=BUSY)

    @pytest.fixture
    def server(self, redis_cluster):
        return redis_cluster

    def traces(self, store):
        return sorted(key.decode() for key in store.client.scan_iter(f"*{store.operations.key_prefix}*"))

    places = traces

    def foreign_rows(self, store, session_id):
        return pushes(store, session_id, (b"", b"\xff\xfe", b"\x80{}", b"\x00"))

    def broken_sessions(self, store, session_id):
        return broken_lists(store, session_id)


@pytest.fixture
def prefix():
    return f"{uuid.uuid4().hex}:"


def theirs(server, session_id, prefix, **options):
    from langchain_community.chat_message_histories import RedisChatMessageHistory as Theirs

    return Theirs(session_id, url=server.url, key_prefix=prefix, **options)


@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_a_client_that_decodes_reads_around_what_is_no_text(redis_server, prefix, kind):
    async def run():
        options = {"client": blocking} if kind == "blocking" else {"async_client": native}
        call = RedisStore(**options, key_prefix=prefix)
        lenient = RedisStore(**options, key_prefix=prefix, on_corrupt="skip")
        for text in ("a", "b"):
            await call.aappend("s", [HumanMessage(text)])
            raw.lpush(f"{prefix}s", b"\xff\n\x00\xfe")
        await call.aappend("other", [HumanMessage("x")])
        assert [message.content for message in await lenient.aread("s")] == ["a", "b"]
        assert [message.content for message in await lenient.aread("s", last=1)] == ["b"]
        assert [message.content for message in await lenient.aread("s", first=1)] == ["a"]
        assert [(info.session_id, info.count) for info in await call.asessions()] == [("other", 1), ("s", 4)]
        for _ in range(2):
            with pytest.raises(CorruptRecordError) as caught:
                await call.aread("s")
            assert await call.adelete("s", [caught.value.id]) == 1
        assert [message.content for message in await call.aread("s")] == ["a", "b"]
        raw.set(state_name(f"{prefix}s"), b"\xff")
        with pytest.raises(CorruptRecordError, match="state"):
            await call.aget_state("s")
        await native.aclose()

    native = redis.asyncio.Redis.from_url(redis_server.url, decode_responses=True)
    with (
        redis.Redis.from_url(redis_server.url) as raw,
        redis.Redis.from_url(redis_server.url, decode_responses=True) as blocking,
    ):
        asyncio.run(run())


def test_tls(redis_tls_server, prefix):
    with RedisStore(redis_tls_server.url, key_prefix=prefix) as store:
        store.append("s", [HumanMessage("x")])
        assert asyncio.run(store.aread("s")) == [HumanMessage("x")]
    with (
        RedisStore(redis_tls_server.url.partition("?")[0], key_prefix=prefix) as distrustful,
        pytest.raises(StoreUnavailableError),
    ):
        distrustful.read("s")


def test_sentinel(redis_sentinel, prefix):
    host = f"{redis_sentinel.sentinel.host}:{redis_sentinel.sentinel.port}"
    url = f"redis+sentinel://{host}/{redis_sentinel.service}/0"
    with RedisStore(url, key_prefix=prefix) as store:
        store.append("s", [HumanMessage("x")])
        assert asyncio.run(store.aread("s")) == [HumanMessage("x")]
        assert store.update_state("s", lambda _: {"n": 1}) == {"n": 1}
        assert asyncio.run(store.aupdate_state("s", lambda state: {**state, "m": 2})) == {"n": 1, "m": 2}
    with redis.Redis.from_url(redis_sentinel.primary.url) as primary:
        assert primary.llen(f"{prefix}s") == 1


@pytest.mark.parametrize("options", [{"password": "Secret7"}, {"password": "Secret7", "tls": True}], ids=["", "tls"])
def test_sentinels_with_a_password(servers, prefix, options):
    """The password and TLS of a URL are for the sentinels too, of which one may be down, or have no password."""
    system = servers.get("redis_sentinel", **options)
    sentinel = system.sentinel
    scheme, query = sentinel.url.partition(":")[0], sentinel.url.partition("?")[2]
    url = f"{scheme}+sentinel://:Secret7@127.0.0.1:1,{sentinel.host}:{sentinel.port}/{system.service}/0?{query}"
    with RedisStore(url, key_prefix=prefix) as store:
        store.append("s", [HumanMessage("x")])
        assert asyncio.run(store.aread("s")) == [HumanMessage("x")]
    with redis.Redis.from_url(sentinel.url) as client:
        client.acl_setuser("default", nopass=True, enabled=True)
    with RedisStore(url, key_prefix=prefix) as store:
        assert store.read("s") == [HumanMessage("x")]
        assert asyncio.run(store.aread("s")) == [HumanMessage("x")]
    with RedisStore(url.replace("Secret7", "wrong"), key_prefix=prefix) as store:
        with pytest.raises(StoreUnavailableError):
            store.read("s")
        with pytest.raises(StoreUnavailableError):
            asyncio.run(store.aread("s"))


# The table of `docs/in_production.md`.
CONNECTING = ["hello", "client", "auth", "select", "ping"]
LANGCHAINS = ["lpush", "lrange", "llen", "del", "expire"]
STATE = ["get", "set", "eval", "pttl"]
THE_REST = ["eval", "lindex", "lpos", "lset", "lrem", "scan", "multi", "exec"]


@pytest.fixture
def store_of_user(redis_server, prefix):
    """A store of a user who may run some commands on some keys."""
    stores = []

    def open_for(commands, *keys):
        user = f"user-{len(stores)}-{prefix}"
        allowed = [f"+{command}" for command in [*CONNECTING, *commands]]
        with redis.Redis.from_url(redis_server.url) as admin:
            admin.acl_setuser(user, enabled=True, reset=True, passwords="+Secret7", keys=keys, commands=allowed)
        url = redis_server.url.replace("redis://", f"redis://{quote(user, safe='')}:Secret7@")
        stores.append(RedisStore(url, key_prefix=prefix, ttl=60))
        return stores[-1]

    yield open_for
    for store in stores:
        store.close()


def test_a_user_with_the_rights_that_langchains_class_needs(redis_server, prefix, store_of_user):
    """Such a user appends with a time to live, reads and clears; what needs more is refused with nothing written."""
    store = store_of_user(LANGCHAINS, f"{prefix}*")
    store.append("s", [HumanMessage("a"), HumanMessage("b")])
    asyncio.run(store.aappend("s", [HumanMessage("c")]))
    assert texts(store.read("s", last=2)) == ["b", "c"]
    assert texts(asyncio.run(store.aread("s", last=2))) == ["b", "c"]
    with redis.Redis.from_url(redis_server.url) as admin:
        assert 0 < admin.ttl(f"{prefix}s") <= 60
    calls = (lambda: store.replace("s", [HumanMessage("d")]), lambda: store.put_state("s", {"n": 1}), store.sessions)
    for refused in calls:
        with pytest.raises(StoreError) as caught:
            refused()
        assert "Secret7" not in str(caught.value)
    assert texts(store.read("s")) == ["a", "b", "c"]
    store.clear("s")
    assert asyncio.run(store.aread("s")) == []
    store.append("s", [HumanMessage("e")])
    asyncio.run(store.aclear("s"))
    assert store.count("s") == 0


def test_a_user_who_may_not_let_a_session_expire_writes_nothing(prefix, store_of_user):
    store = store_of_user([command for command in LANGCHAINS if command != "expire"], f"{prefix}*")
    with pytest.raises(StoreError):
        store.append("s", [HumanMessage("a")])
    with pytest.raises(StoreError):
        asyncio.run(store.aappend("s", [HumanMessage("a")]))
    assert store.read("s") == []


def test_the_rights_that_a_state_needs(prefix, store_of_user):
    store = store_of_user([*LANGCHAINS, *STATE], f"{prefix}*", f"{{{prefix}*")
    store.append("s", [HumanMessage("a")])
    store.put_state("s", {"n": 1})
    assert asyncio.run(store.aupdate_state("s", lambda state: {"n": state["n"] + 1})) == {"n": 2}
    store.clear("s")
    assert store.get_state("s") is None


def test_the_rights_that_all_operations_need(prefix, store_of_user):
    store = store_of_user([*LANGCHAINS, *STATE, *THE_REST, *INDEX], f"{prefix}*", f"{{{prefix}*")
    session_id = user_session_id("u", "s")
    store.append(session_id, [HumanMessage("a")])
    store.replace(session_id, [HumanMessage("b"), HumanMessage("c")])
    assert store.delete(session_id, [store.records(session_id, last=1)[0].id]) == 1
    assert [info.session_id for info in store.sessions()] == [session_id]
    store.put_state(session_id, {"n": 1})
    assert asyncio.run(store.aerase(user_id="u")) == 1
    assert store.sessions() == []


INDEX = [
    "eval",
    "time",
    "zadd",
    "zrem",
    "zrange",
    "zrevrange",
    "zrevrangebyscore",
    "zrangebylex",
    "zscore",
    "exists",
    "scan",
]


def newest(store, **where):
    return [info.session_id for info in store.sessions(order="newest", **where)]


def test_the_rights_that_the_index_needs(prefix, store_of_user, caplog):
    store = store_of_user([*LANGCHAINS, *INDEX, "lindex", "get"], f"{prefix}*", f"{{{prefix}*")
    store.append("s", [HumanMessage("a")])
    store.append("t", [HumanMessage("a")])
    assert newest(store) == ["t", "s"]
    store.clear("t")
    assert newest(store) == ["s"]
    assert not caplog.messages


def test_a_user_who_may_not_write_the_index(redis_server, prefix, store_of_user, caplog):
    """Nothing else is refused to such a user, and a warning tells of it once."""
    store = store_of_user([*LANGCHAINS, *INDEX, *STATE, *THE_REST], f"{prefix}*", f"{{{prefix}s}}*")
    store.append("s", [HumanMessage("a"), HumanMessage("b")])
    store.replace("s", [HumanMessage("c"), HumanMessage("d")])
    store.delete("s", [store.records("s")[0].id])
    store.edit("s", lambda records: [*records, HumanMessage("e")])
    assert texts(store.read("s")) == ["d", "e"]
    with pytest.raises(StoreError):
        newest(store)
    store.clear("s")
    assert [message for message in caplog.messages if "index=False" in message] == caplog.messages[:1]
    with redis.Redis.from_url(redis_server.url) as admin:
        assert list(admin.scan_iter(f"*{prefix}*")) == []


def test_lists_of_others_are_adopted(redis_server, prefix):
    """What LangChain's class wrote is listed last: when a search came by, or at once by setup."""

    def listed(store, count):
        for _ in range(1000):
            if len(found := newest(store)) == count:
                return found
        return found

    for number in range(5):
        theirs(redis_server, f"old-{number}", prefix).add_message(HumanMessage("x"))
    with RedisStore(redis_server.url, key_prefix=prefix) as store:
        store.append("ours", [HumanMessage("x")])
        found = listed(store, 6)
        assert (found[0], sorted(found[1:])) == ("ours", [f"old-{number}" for number in range(5)])
        assert newest(store, first=4) + newest(store, after=store.sessions(order="newest")[3].position) == found
        theirs(redis_server, "late", prefix).add_message(HumanMessage("x"))
        assert listed(store, 7) == [*found, "late"]
        theirs(redis_server, "later", prefix).add_message(HumanMessage("x"))
        store.setup(upgrade=True)
        assert newest(store) == [*found, "late", "later"]
        theirs(redis_server, "late", prefix).clear()
        assert newest(store) == [*found, "later"]


def test_an_entry_without_a_list_is_never_shown(redis_server, prefix):
    """Whoever removed the list; the entry goes when a listing meets it. A page is filled from what is behind it."""
    with RedisStore(redis_server.url, key_prefix=prefix) as store:
        for number in range(9):
            store.append(str(number), [HumanMessage("x")])
        name = store.operations.index_names[0]
        store.client.delete(*(f"{prefix}{number}" for number in range(3, 9)))
        assert newest(store, first=2) == ["2", "1"]
        assert {member.decode() for member in store.client.zrange(name, 0, -1)} == {f"{prefix}{n}" for n in range(3)}
        # What is no list any more blocks no other.
        store.client.delete(f"{prefix}1")
        store.client.set(f"{prefix}1", "x")
        assert newest(store) == newest(store, prefix="") == ["2", "0"]


def test_the_index_is_above_a_clock_that_was_set_back(redis_server, prefix):
    with RedisStore(redis_server.url, key_prefix=prefix) as store:
        store.append("a", [HumanMessage("x")])
        store.client.zadd(store.operations.index_names[0], {f"{prefix}a": 8e15})
        store.append("b", [HumanMessage("x")])
        assert newest(store) == ["b", "a"]
        store.append("a", [HumanMessage("x")])
        store.append("c", [HumanMessage("x")])
        assert newest(store) == ["c", "a", "b"]


def test_without_the_index(redis_server, redis_cluster, prefix):
    with RedisStore(redis_server.url, key_prefix=prefix, index=False) as store:
        store.append("s", [HumanMessage("x")])
        assert Capability.NEWEST not in store.capabilities
        assert list(store.client.scan_iter(f"*{prefix}*")) == [f"{prefix}s".encode()]
    with RedisStore(redis_cluster.url, key_prefix=prefix) as store:
        store.append("s", [HumanMessage("x")])
        with pytest.raises(UnsupportedOperationError, match="index=False"):
            newest(store)


def keys_by_node(cluster, prefix):
    """The keys that each node has, asked of the node itself."""
    found = []
    for node in cluster.nodes:
        with redis.Redis.from_url(node.url, decode_responses=True) as client:
            found.append(set(client.scan_iter(f"*{prefix}*", count=1000)))
    return found


def test_the_sessions_of_a_cluster_are_on_all_its_nodes(redis_cluster, prefix):
    with RedisStore(redis_cluster.url, key_prefix=prefix) as store:
        names = [f"user-{number}" for number in range(60)]
        for name in names:
            store.append(name, [HumanMessage(name)])
        keys = keys_by_node(redis_cluster, prefix)
        assert set.union(*keys) == {prefix + name for name in names}
        assert sum(map(len, keys)) == 60
        assert min(map(len, keys)) >= 5
        assert [info.session_id for info in store.sessions()] == sorted(names)


def test_a_session_of_a_cluster_is_in_one_slot(redis_cluster, prefix):
    """What a node is asked for in one step, it has: the records, their time to live and the state."""
    with RedisStore(redis_cluster.url, key_prefix=prefix, ttl=60) as store:
        session_ids = [name for name in odd_session_ids() if name.isascii()]
        for session_id in session_ids:
            store.append(session_id, [HumanMessage("a"), AIMessage("b")])
            store.put_state(session_id, {"n": 1})
            store.append(session_id, [HumanMessage("c")])
        by_node = keys_by_node(redis_cluster, prefix)
        for session_id in session_ids:
            names = {prefix + session_id, state_name(prefix + session_id)}
            assert len({redis_server_slot(redis_cluster, name) for name in names}) == 1
            assert [names <= keys for keys in by_node].count(True) == 1
            for name in names:
                assert 0 < store.client.ttl(name) <= 60
        assert sum(map(len, by_node)) == 2 * len(session_ids)


def test_a_cluster_that_lost_a_node_is_not_empty(redis_cluster, prefix):
    with RedisStore(redis_cluster.url, key_prefix=prefix) as store:
        names = [f"user-{number}" for number in range(12)]
        for name in names:
            store.append(name, [HumanMessage(name)])
        there = {key.removeprefix(prefix) for key in keys_by_node(redis_cluster, prefix)[-1]}
        lost = next(name for name in names if name in there)
        redis_cluster.nodes[-1].stop()
        try:
            with pytest.raises(StoreUnavailableError):
                store.read(lost)
            with pytest.raises(StoreUnavailableError):
                asyncio.run(store.aread(lost))
        finally:
            redis_cluster.start()
        assert [store.read(name) for name in names] == [[HumanMessage(name)] for name in names]


def redis_server_slot(cluster, name):
    with redis.Redis.from_url(cluster.url) as client:
        return client.execute_command("CLUSTER KEYSLOT", name)


def test_langchain_reads_what_we_write(redis_server, prefix):
    plain = [message for message in golden_messages() if "lh:type" not in repr(message)][:10]
    ours = RedisChatMessageHistory("s", url=redis_server.url, key_prefix=prefix)
    ours.add_messages(plain)
    assert theirs(redis_server, "s", prefix).messages == plain


def test_langchain_reads_every_golden_message_as_plain_data(redis_server, prefix):
    messages = golden_messages()
    RedisChatMessageHistory("s", url=redis_server.url, key_prefix=prefix).add_messages(messages)
    read = theirs(redis_server, "s", prefix).messages
    assert [message.type for message in read] == [
        message.type.removesuffix("MessageChunk").lower() for message in messages
    ]


def test_we_read_what_langchain_writes(redis_server, prefix):
    messages = [
        HumanMessage("héllo", id="1"),
        AIMessage("yes", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}]),
    ]
    theirs(redis_server, "s", prefix).add_messages(messages)
    ours = RedisChatMessageHistory("s", url=redis_server.url, key_prefix=prefix)
    assert ours.messages == messages
    ours.add_user_message("and on")
    theirs(redis_server, "s", prefix).add_user_message("and back")
    assert [message.content for message in ours.messages] == ["héllo", "yes", "and on", "and back"]
    assert asyncio.run(ours.aget_messages()) == theirs(redis_server, "s", prefix).messages


def test_the_stored_shape(redis_server, prefix):
    ours = RedisChatMessageHistory("s", url=redis_server.url, key_prefix=prefix)
    ours.add_messages([HumanMessage("é"), AIMessage("2")])
    newest, oldest = map(json.loads, ours.redis_client.lrange(ours.key, 0, -1))
    assert set(oldest) == {"type", "data", "meta"}
    assert (oldest["type"], oldest["data"]["content"], set(oldest["meta"])) == ("human", "é", {"v", "id", "at"})
    assert (newest["type"], set(newest["meta"])) == ("ai", {"v", "id", "at"})
    assert "é".encode() in ours.redis_client.lindex(ours.key, -1)


def test_drop_in_attributes_and_sharing(redis_server, prefix):
    one = RedisChatMessageHistory("a", redis_server.url, prefix, 60)
    other = RedisChatMessageHistory("b", redis_server.url, prefix, 60)
    assert one.store.client is other.store.client
    assert (one.session_id, one.key_prefix, one.ttl, one.key) == ("a", prefix, 60, f"{prefix}a")
    one.add_user_message("x")
    assert 0 < one.redis_client.ttl(one.key) <= 60
    assert one.redis_client is other.redis_client
    with pytest.raises(UnsupportedOperationError):
        one.messages = []
    assert RedisChatMessageHistory("c", redis_server.url, prefix, ttl=0).store.ttl is None
    assert RedisChatMessageHistory("c", redis_server.url, "other:", ttl=3600).redis_client is one.redis_client


def test_a_thousand_histories_share_one_pool(redis_server, prefix):
    histories = [open_history(redis_server.url, f"s{n}", key_prefix=prefix) for n in range(1000)]
    client = histories[0].store.client
    before = client.info("clients")["connected_clients"]
    for history in histories:
        history.add_user_message("x")
    assert client.info("clients")["connected_clients"] == before


def test_more_histories_at_once_than_connections(redis_server, prefix):
    with RedisStore(redis_server.url, key_prefix=prefix) as store:

        async def turn(number):
            history = store.history(f"s{number}")
            await history.aadd_messages([HumanMessage("x")])
            return len(await history.aget_messages())

        async def turns():
            return await asyncio.gather(*(turn(number) for number in range(400)))

        assert asyncio.run(turns()) == [1] * 400
        with ThreadPoolExecutor(150) as pool:
            assert list(pool.map(store.count, [f"s{number}" for number in range(400)])) == [1] * 400
        assert store.client.connection_pool.max_connections <= 100


def test_clients_of_your_own(redis_server, prefix):
    blocking = redis.Redis.from_url(redis_server.url, decode_responses=True)
    with RedisStore(client=blocking, key_prefix=prefix) as store:
        assert Capability.NATIVE_ASYNC not in store.capabilities
        store.append("s", [HumanMessage("é")])
        assert asyncio.run(store.aread("s")) == [HumanMessage("é")]
        assert store.delete("s", [store.records("s")[0].id]) == 1
    assert blocking.ping()

    async def use():
        client = redis.asyncio.Redis.from_url(redis_server.url)
        async with RedisStore(async_client=client, key_prefix=prefix) as store:
            assert Capability.NATIVE_ASYNC in store.capabilities
            await store.aappend("s", [HumanMessage("x")])
            with pytest.raises(ConfigurationError, match="async client alone"):
                store.read("s")
        assert await client.ping()
        async with RedisStore(client=blocking, async_client=client, key_prefix=prefix) as both:
            assert await both.aread("s") == both.read("s") == [HumanMessage("x")]
        await client.aclose()

    asyncio.run(use())
    blocking.close()


def test_clients_of_the_wrong_kind():
    with pytest.raises(ConfigurationError, match="blocking"):
        RedisStore(client=redis.asyncio.Redis())
    with pytest.raises(ConfigurationError, match="asyncio"):
        RedisStore(async_client=redis.Redis())
    with pytest.raises(ConfigurationError, match="not both"):
        RedisStore("redis://h", client=redis.Redis())
    with pytest.raises(ConfigurationError, match="url"):
        RedisStore()


def test_a_key_of_another_shape_is_left_alone(redis_server, prefix):
    for options in ({}, {"ttl": 60}):
        with RedisStore(redis_server.url, key_prefix=prefix, **options) as store:
            store.client.set(f"{prefix}s", "somebody else's")
            for call in (lambda: store.append("s", [HumanMessage("x")]), lambda: store.read("s")):
                with pytest.raises(StoreError, match="'s'") as caught:
                    call()
                assert not isinstance(caught.value, StoreUnavailableError)
            assert store.client.get(f"{prefix}s") == b"somebody else's"
            assert store.client.ttl(f"{prefix}s") == -1
            assert "s" not in [info.session_id for info in store.sessions()]
            store.append("other", [HumanMessage("works on")])


def test_a_read_only_user(redis_server, prefix):
    with (
        RedisStore(redis_server.readonly_url, key_prefix=prefix) as reader,
        RedisStore(redis_server.url, key_prefix=prefix) as writer,
    ):
        writer.append("s", [HumanMessage("x")])
        assert reader.read("s") == [HumanMessage("x")]
        with pytest.raises(StoreError):
            reader.append("s", [HumanMessage("y")])
        assert writer.count("s") == 1


class CutAfterPush(redis.Connection):
    """Loses the first answer to a push: the connection is cut after the server ran the command."""

    cut = False

    def read_response(self, *args, **options):
        response = super().read_response(*args, **options)
        if isinstance(response, int) and not CutAfterPush.cut:
            CutAfterPush.cut = True
            self.disconnect()
            raise redis.ConnectionError("cut")
        return response


def test_a_retry_of_your_own_client_that_stored_a_batch_twice(redis_server, prefix, monkeypatch):
    monkeypatch.setattr(CutAfterPush, "cut", False)
    pool = redis.ConnectionPool.from_url(redis_server.url, connection_class=CutAfterPush, retry=Retry(NoBackoff(), 3))
    with RedisStore(client=redis.Redis(connection_pool=pool), key_prefix=prefix) as store:
        store.append("s", [HumanMessage("a"), AIMessage("b")])
        assert store.client.llen(f"{prefix}s") == 4
        assert [message.content for message in store.read("s")] == ["a", "b"]


def test_our_client_does_not_send_a_batch_again(redis_server, prefix, monkeypatch):
    monkeypatch.setattr(CutAfterPush, "cut", False)
    options = {"connection_class": CutAfterPush}
    with RedisStore(redis_server.url, key_prefix=prefix, client_options=options) as store:
        store.append("s", [HumanMessage("a"), AIMessage("b")])
        assert CutAfterPush.cut
        assert store.client.llen(f"{prefix}s") == 2


def test_state_keys_are_one_to_one_and_in_the_slot_of_their_list():
    from redis.crc import key_slot

    names = [
        f"message_store:{name}"
        for name in ("a", "{a}", "a{b}c", "a}b", "{}", "{", "}{", "x{", "{a}{b}", "{}{x}", "a{}}")
    ]
    states = [state_name(name) for name in names]
    assert len(set(states)) == len(names)
    for name, state in zip(names, states, strict=True):
        assert key_slot(state.encode()) == key_slot(name.encode())
        assert _list_of_state(state) == name
        assert not state.startswith("message_store:")


def test_a_large_batch_with_ttl(redis_server, prefix):
    with RedisStore(redis_server.url, key_prefix=prefix, ttl=60) as store:
        store.append("s", [HumanMessage(str(n)) for n in range(12_000)])
        assert [m.content for m in store.read("s", last=2)] == ["11998", "11999"]
        assert 0 < store.client.ttl(f"{prefix}s") <= 60


def test_a_full_server(servers, prefix):
    with RedisStore(servers.get("redis", password="is-full").url, key_prefix=prefix) as store:
        store.append("s", [HumanMessage("before")])
        store.client.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(StoreError, match="'s'") as caught:
                store.append("s", [HumanMessage("x"), HumanMessage("y" * 2_000_000)])
            assert "yyy" not in str(caught.value)
            assert [message.content for message in store.read("s")] == ["before"]
        finally:
            store.client.config_set("maxmemory", "0")
        store.append("s", [HumanMessage("after")])
        assert [message.content for message in store.read("s")] == ["before", "after"]


def test_the_last_of_many_costs_what_it_returns(redis_server, prefix):
    with RedisStore(redis_server.url, key_prefix=prefix) as store:
        store.append("s", [HumanMessage("x" * 1000) for _ in range(5000)])
        sent = store.client.info("stats")["total_net_output_bytes"]
        store.read("s", last=2)
        position = store.records("s", last=3)[0].position
        store.read("s", after=position)
        assert store.client.info("stats")["total_net_output_bytes"] - sent < 60_000


def test_a_server_that_dies_mid_turn(servers, prefix, caplog):
    from langchain_core.runnables import RunnableLambda
    from langchain_core.runnables.history import RunnableWithMessageHistory

    from langchain_histories import HistoryRegistry

    server = servers.get("redis", password="dies-mid-turn")
    told = []
    registry = HistoryRegistry.from_config(
        {"histories": {"a": {"url": server.url, "key_prefix": prefix}}},
        save_error_callback=lambda *given: told.append(given),
    )

    def answer_while_the_server_dies(_):
        server.stop()
        return AIMessage("answer")

    with pytest.warns(DeprecationWarning, match="RunnableWithMessageHistory"):
        chat = RunnableWithMessageHistory(RunnableLambda(answer_while_the_server_dies), registry.get_session_history)
    try:
        assert chat.invoke([HumanMessage("question")], {"configurable": {"session_id": "42"}}).content == "answer"
    finally:
        server.start()
    ((error, session_id, messages),) = told
    assert isinstance(error, StoreUnavailableError)
    assert (session_id, [message.content for message in messages]) == ("42", ["question", "answer"])
    assert "2 messages of session '42' were not saved" in caplog.text
    assert "dies-mid-turn" not in caplog.text
