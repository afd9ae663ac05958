"""The Upstash store over REST, before a real server."""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from urllib.parse import unquote, urlsplit

import httpx
import pytest
import redis
import upstash_redis
import upstash_redis.asyncio
from behind import Quiet
from broken import broken_lists, pushes
from langchain_core.messages import AIMessage, HumanMessage
from servers import BUSY, WRONG_PASSWORD

from langchain_histories import (
    Capability,
    ConfigurationError,
    RecordTooLargeError,
    RedisStore,
    StoreError,
    StoreUnavailableError,
    UpstashRedisChatMessageHistory,
    UpstashStore,
)
from langchain_histories.testing import MessageStoreTests, golden_messages


class TestUpstashStore(MessageStoreTests):
    capabilities = ~Capability(0)

    @pytest.fixture(autouse=True)
    def raw(self, upstash_server):
        """The database behind the service, which takes any bytes."""
        self.behind = None
        if not upstash_server.managed:
            yield
            return
        with redis.Redis.from_url(upstash_server.redis.url) as self.behind:
            yield

    @pytest.fixture
    def open_store(self, upstash_server):
        return functools.partial(UpstashStore, upstash_server.url, key_prefix=f"{uuid.uuid4().hex}:", timeout=BUSY)

    @pytest.fixture
    def unreachable_store(self):
        return UpstashStore("upstash+http://:token@127.0.0.1:1")

    @pytest.fixture
    def wrong_password_store(self, upstash_server):
        return UpstashStore(upstash_server.url_with(password=WRONG_PASSWORD))

    @pytest.fixture
    def server(self, upstash_server):
        return upstash_server if upstash_server.managed else None

    @pytest.fixture
    def quiet_server(self, upstash_server):
        with Quiet("upstash", upstash_server) as server:
            yield server

    def traces(self, store):
        cursor, names = -1, []
        while cursor != 0:
            cursor, found = store.client.scan(max(cursor, 0), match=f"*{store.operations.key_prefix}*", count=1000)
            names += found
        return sorted(names)

    places = traces

    def foreign_rows(self, store, session_id):
        left = pushes(store, session_id, ("", "\x00", "\ufffd", "null", "5"))
        if self.behind is not None:
            name = store.operations.key_prefix + session_id
            left += [functools.partial(self.behind.lpush, name, data) for data in (b"\xff\xfe", b"\x80{}\n\x00")]
        return left

    def broken_sessions(self, store, session_id):
        return broken_lists(store, session_id)


@pytest.fixture
def prefix():
    return f"{uuid.uuid4().hex}:"


def address(server):
    """The URL and the token, as LangChain's class and the driver take them."""
    parts = urlsplit(server.url)
    return f"http://{server.host}:{server.port}", unquote(parts.password)


def ours(server, session_id, prefix, **options):
    return UpstashRedisChatMessageHistory(session_id, *address(server), key_prefix=prefix, **options)


def theirs(server, session_id, prefix, **options):
    from langchain_community.chat_message_histories import UpstashRedisChatMessageHistory as Theirs

    return Theirs(session_id, *address(server), key_prefix=prefix, **options)


@pytest.fixture
def behind(upstash_server):
    if not upstash_server.managed:
        pytest.skip("the database is reached over REST alone")
    return upstash_server.redis


def requests_of(store):
    """The paths that the store's blocking client asks for, from now on."""
    paths = []
    store.client._http._client.event_hooks["request"].append(lambda request: paths.append(request.url.path))
    return paths


def test_langchain_reads_what_we_write(upstash_server, prefix):
    plain = [message for message in golden_messages() if "lh:type" not in repr(message)][:10]
    ours(upstash_server, "s", prefix).add_messages(plain)
    assert theirs(upstash_server, "s", prefix).messages == plain


def test_langchain_reads_every_golden_message_as_plain_data(upstash_server, prefix):
    messages = golden_messages()
    ours(upstash_server, "s", prefix).add_messages(messages)
    read = theirs(upstash_server, "s", prefix).messages
    assert [message.type for message in read] == [
        message.type.removesuffix("MessageChunk").lower() for message in messages
    ]


def test_we_read_what_langchain_writes(upstash_server, prefix):
    messages = [
        HumanMessage("héllo", id="1"),
        AIMessage("yes", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}]),
    ]
    theirs(upstash_server, "s", prefix, ttl=60).add_messages(messages)
    history = ours(upstash_server, "s", prefix, ttl=60)
    assert history.messages == messages
    history.add_user_message("and on")
    theirs(upstash_server, "s", prefix).add_user_message("and back")
    assert [message.content for message in history.messages] == ["héllo", "yes", "and on", "and back"]
    assert asyncio.run(history.aget_messages()) == theirs(upstash_server, "s", prefix).messages
    theirs(upstash_server, "s", prefix).clear()
    assert history.messages == []


def test_the_redis_store_keeps_the_same_lists(upstash_server, behind, prefix):
    """One database over both protocols: records, positions, states, their time to live, listing and erasure."""
    session_ids = ["s", "{a}", "a}b", "nul \0 byte", "@ivan/1"]
    with (
        RedisStore(behind.url, key_prefix=prefix, ttl=60) as over_tcp,
        UpstashStore(upstash_server.url, key_prefix=prefix, ttl=60) as over_rest,
    ):
        for one, other in ((over_tcp, over_rest), (over_rest, over_tcp)):
            for session_id in session_ids:
                one.append(session_id, golden_messages()[:10])
                one.put_state(session_id, {"n": 1})
                other.append(session_id, [HumanMessage("x")])
                assert other.update_state(session_id, lambda state: {"n": state["n"] + 1}) == {"n": 2}
                assert one.get_state(session_id) == {"n": 2}
                assert one.records(session_id) == other.records(session_id)
                position = one.records(session_id, last=3)[0].position
                assert other.read(session_id, after=position) == one.read(session_id, last=2)
            assert one.sessions() == other.sessions()
            assert [info.count for info in other.sessions()] == [11] * len(session_ids)
            assert one.sessions(order="newest") == other.sessions(order="newest")
            index = {name.encode() for name in one.operations.index_names}
            for key in {*over_tcp.client.scan_iter(f"*{prefix}*")} - index:
                assert 0 < over_tcp.client.ttl(key) <= 60
            assert other.delete("s", [one.records("s")[4].id]) == 1
            assert one.count("s") == 10
            assert other.erase(user_id="ivan") == 1
            for session_id in session_ids:
                other.clear(session_id)
            assert list(over_tcp.client.scan_iter(f"*{prefix}*")) == []


def test_a_turn_is_one_request(upstash_server, prefix):
    """LangChain's class sends two for each message."""
    for ttl, path in ((None, "/"), (60, "/multi-exec")):
        with UpstashStore(upstash_server.url, key_prefix=prefix, ttl=ttl) as store:
            paths = requests_of(store)
            store.append("s", [HumanMessage("a"), AIMessage("b")])
            assert paths == [path]
            assert len(store.read("s", last=1)) == 1
            assert paths == [path, "/multi-exec"]
            position = store.records("s", last=2)[0].position
            paths.clear()
            assert [message.content for message in store.read("s", after=position)] == ["b"]
            assert paths == ["/"]


def test_a_key_of_another_shape_is_left_alone(upstash_server, prefix):
    for options in ({}, {"ttl": 60}):
        with UpstashStore(upstash_server.url, key_prefix=prefix, **options) as store:
            store.client.set(f"{prefix}s", "somebody else's")
            for call in (
                lambda: store.append("s", [HumanMessage("x")]),
                lambda: store.read("s"),
                lambda: store.read("s", last=1),
            ):
                with pytest.raises(StoreError, match="'s'") as caught:
                    call()
                assert not isinstance(caught.value, StoreUnavailableError)
            assert store.client.get(f"{prefix}s") == "somebody else's"
            assert store.client.ttl(f"{prefix}s") == -1
            assert "s" not in [info.session_id for info in store.sessions()]
            store.append("other", [HumanMessage("works on")])


def test_a_token_that_can_only_read(upstash_server, prefix):
    if upstash_server.readonly_url is None:
        pytest.skip("there is no such token")
    with UpstashStore(upstash_server.url, key_prefix=prefix) as writer:
        writer.append("s", [HumanMessage("x"), AIMessage("y")])
        for ttl in (None, 60):
            with UpstashStore(upstash_server.readonly_url, key_prefix=prefix, ttl=ttl) as reader:
                assert reader.read("s") == [HumanMessage("x"), AIMessage("y")]
                for last in (1, 2, 3):
                    assert reader.records("s", last=last) == writer.records("s", last=last)
                assert reader.read("none", last=2) == []
                assert [info.count for info in reader.sessions()] == [2]
                with pytest.raises(StoreError, match="'s'") as caught:
                    reader.append("s", [HumanMessage("z")])
                assert "NOPERM" in str(caught.value.__cause__)
        assert writer.count("s") == 2


def test_a_wrong_token_with_ttl(upstash_server):
    with UpstashStore(upstash_server.url_with(password="wrong-Secret7"), ttl=60) as store:
        for call in (lambda: store.append("s", [HumanMessage("x")]), lambda: store.read("s", last=1)):
            with pytest.raises(StoreUnavailableError) as caught:
                call()
            assert "WRONGPASS" in str(caught.value.__cause__)
            assert "Secret7" not in f"{caught.value}{caught.value.__cause__}"


def test_a_batch_larger_than_a_request_is_refused_whole(upstash_server, prefix):
    for ttl in (None, 60):
        with UpstashStore(upstash_server.url, key_prefix=prefix, ttl=ttl) as store:
            store.append("s", [HumanMessage("before")])
            with pytest.raises(RecordTooLargeError) as caught:
                store.append("s", [HumanMessage("small"), HumanMessage("y" * 11_000_000)])
            assert "yyy" not in str(caught.value)
            assert [message.content for message in store.read("s")] == ["before"]
            store.clear("s")


@pytest.mark.parametrize("run", [None, asyncio.run], ids=["sync", "async"])
def test_a_session_larger_than_an_answer_is_read_in_parts(upstash_server, prefix, run):
    with UpstashStore(upstash_server.url, key_prefix=prefix) as store:

        def read(**where):
            return store.records("s", **where) if run is None else run(store.arecords("s", **where))

        texts = [f"{number} {'x' * (3_000_000 if number % 2 else 10)}" for number in range(9)]
        for text in texts:
            store.append("s", [HumanMessage(text)])
        records = read()
        assert [record.message.content for record in records] == texts
        assert read(last=9) == read(last=20) == read(first=9) == records
        assert read(last=6) == records[-6:]
        assert read(first=7) == records[:7]
        assert read(after=records[0].position) == records[1:]
        assert read(after=records[0].position, first=7) == records[1:8]


def test_histories_at_once_share_a_pool(upstash_server, prefix):
    with UpstashStore(upstash_server.url, key_prefix=prefix) as store:

        async def turn(number):
            history = store.history(f"s{number}")
            await history.aadd_messages([HumanMessage("x")])
            return len(await history.aget_messages())

        async def turns():
            counts = await asyncio.gather(*(turn(number) for number in range(300)))
            lent = await store._clients.lend_native(store)
            connections = len(lent.client._http._client._transport._pool.connections)
            await store._clients.give_back_native(lent)
            return counts, connections

        counts, connections = asyncio.run(turns())
        assert counts == [1] * 300
        assert connections <= 50


def test_clients_of_your_own(upstash_server, prefix):
    blocking = upstash_redis.Redis(*address(upstash_server))
    with UpstashStore(client=blocking, key_prefix=prefix) as store:
        assert Capability.NATIVE_ASYNC not in store.capabilities
        store.append("s", [HumanMessage("é")])
        assert asyncio.run(store.aread("s")) == [HumanMessage("é")]
        assert store.delete("s", [store.records("s")[0].id]) == 1
    assert blocking.ping() == "PONG"

    async def use():
        client = upstash_redis.asyncio.Redis(*address(upstash_server), rest_encoding=None)
        async with UpstashStore(async_client=client, key_prefix=prefix) as store:
            assert Capability.NATIVE_ASYNC in store.capabilities
            await store.aappend("s", [HumanMessage("x")])
            with pytest.raises(ConfigurationError, match="async client alone"):
                store.read("s")
        assert await client.ping() == "PONG"
        async with UpstashStore(client=blocking, async_client=client, key_prefix=prefix) as both:
            assert await both.aread("s") == both.read("s") == [HumanMessage("x")]
        history = UpstashRedisChatMessageHistory(
            "s", key_prefix=prefix, redis_client=blocking, async_redis_client=client
        )
        assert history.redis_client is blocking
        assert await history.aget_messages() == history.messages == [HumanMessage("x")]
        await client.close()

    asyncio.run(use())
    blocking.close()


def test_without_base64_all_comes_back_equal(upstash_server, prefix):
    options = {"rest_encoding": None}
    with UpstashStore(upstash_server.url, key_prefix=prefix, client_options=options) as store:
        store.append("s", golden_messages()[:20])
        store.put_state("s", {"a": "Привет \x00 👍"})
        assert store.read("s") == golden_messages()[:20]
        assert store.update_state("s", lambda state: {**state, "b": 1}) == {"a": "Привет \x00 👍", "b": 1}


class CutAfterFirst(httpx.HTTPTransport):
    """Loses the first answer: the connection is cut after the server ran the command."""

    cut = False

    def handle_request(self, request):
        response = super().handle_request(request)
        if not self.cut:
            self.cut = True
            raise httpx.ReadError("cut")
        return response


def test_a_retry_of_your_own_client_that_stored_a_batch_twice(upstash_server, prefix):
    for ttl in (None, 60):
        client = upstash_redis.Redis(*address(upstash_server), rest_retries=1, rest_retry_interval=0)
        client._http._client = httpx.Client(transport=CutAfterFirst())
        with UpstashStore(client=client, key_prefix=prefix, ttl=ttl) as store:
            store.append("s", [HumanMessage("a"), AIMessage("b")])
            assert client.llen(f"{prefix}s") == 4
            assert [message.content for message in store.read("s")] == ["a", "b"]
            store.clear("s")


def test_our_client_stores_a_batch_once_whose_answer_is_cut_off(upstash_server, prefix):
    for ttl in (None, 60):
        with UpstashStore(upstash_server.url, key_prefix=prefix, ttl=ttl) as store:
            store.client._http._client = httpx.Client(transport=CutAfterFirst())
            ids = store.append("s", [HumanMessage("a"), AIMessage("b")])
            assert [record.id for record in store.records("s")] == ids
            assert store.client.llen(f"{prefix}s") == 2
            store.clear("s")


def test_a_large_batch_with_ttl(upstash_server, prefix):
    with UpstashStore(upstash_server.url, key_prefix=prefix, ttl=60) as store:
        store.append("s", [HumanMessage(str(n)) for n in range(12_000)])
        assert [m.content for m in store.read("s", last=2)] == ["11998", "11999"]
        assert 0 < store.client.ttl(f"{prefix}s") <= 60


def test_tokens_are_in_no_log(upstash_server, prefix, caplog):
    with caplog.at_level(logging.DEBUG), UpstashStore(upstash_server.url, key_prefix=prefix) as store:
        store.append("s", [HumanMessage("the text")])
        assert asyncio.run(store.aread("s")) == [HumanMessage("the text")]
    assert "HTTP Request" in caplog.text
    assert address(upstash_server)[1] not in caplog.text
    assert "the text" not in caplog.text
