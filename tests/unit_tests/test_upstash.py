"""What the Upstash store makes of the answers of a REST service, without one. The kit runs on a server."""

from __future__ import annotations

import asyncio
import base64
import json
import threading

import httpx
import pytest
import upstash_redis
import upstash_redis.asyncio
from langchain_core.messages import AIMessage, HumanMessage

from langchain_histories import (
    ConfigurationError,
    RecordTooLargeError,
    StoreError,
    StoreUnavailableError,
    UpstashRedisChatMessageHistory,
    UpstashStore,
    open_history,
    open_store,
)

URL = "https://eu1-merry-cat-1.upstash.io"
ADDRESS = (URL, "tok-Secret7")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"):
        monkeypatch.delenv(name, raising=False)


class Service:
    """Answers each request with what it is told, and keeps the requests."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    @property
    def asked(self):
        return [(request.url.path, json.loads(request.content)) for request in self.requests]

    def store(self, **options):
        store = UpstashStore(URL, token="tok-Secret7", **options)
        http = store.client._http._client
        store.client._http._client = httpx.Client(transport=httpx.MockTransport(self), timeout=http.timeout)
        return store


def answer(content, status=200):
    return httpx.Response(status, json=content)


def error(words, status=400):
    return answer({"error": words}, status)


def test_a_batch_is_one_command():
    service = Service(answer({"result": 2}))
    service.store(key_prefix="p:", index=False).append("42", [HumanMessage("a"), AIMessage("b")])
    ((path, (command, key, first, second)),) = service.asked
    assert (path, command, key) == ("/", "LPUSH", "p:42")
    assert [json.loads(row)["data"]["content"] for row in (first, second)] == ["a", "b"]
    assert service.requests[0].headers["Authorization"] == "Bearer tok-Secret7"


def test_a_batch_and_the_index_are_one_command():
    service = Service(answer({"result": 1}))
    service.store(key_prefix="p:").append("42", [HumanMessage("a"), AIMessage("b")])
    ((path, (command, script, *keys, ttl, first, second)),) = service.asked
    assert (path, command, "ZADD" in script, ttl) == ("/", "EVAL", True, 0)
    assert keys == [4, "p:42", "{p:42}:state", "{p:}:sessions", "{p:}:sessions:names"]
    assert [json.loads(row)["data"]["content"] for row in (first, second)] == ["a", "b"]


def test_a_batch_and_its_ttl_are_one_transaction():
    service = Service(answer([{"result": 2}, {"result": None}]))
    service.store(ttl=60, index=False).append("42", [HumanMessage("a"), AIMessage("b")])
    ((path, (push, expire)),) = service.asked
    assert path == "/multi-exec"
    assert (push[:2], len(push)) == (["LPUSH", "message_store:42"], 4)
    assert "EXPIRE" in expire[1]
    assert expire[2:] == [2, "message_store:42", "{message_store:42}:state", 60]


@pytest.mark.parametrize("ttl", [None, 60])
@pytest.mark.parametrize(
    "page",
    [
        httpx.Response(502, text="<html>Bad gateway</html>"),
        httpx.Response(500, text=""),
        answer({"message": "Too many requests"}, 429),
        answer(None),
        answer([]),
        answer("text"),
        answer({"result": "not base64!"}),
        answer([{"result": 1}]),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("too late"),
        httpx.RemoteProtocolError("hung up"),
        error("WRONGPASS invalid or missing auth token", 401),
        error("Unauthorized", 401),
        error("ERR max requests limit exceeded. Limit: 500000, Usage: 500000"),
        error("ERR max daily request limit exceeded."),
    ],
    ids=lambda page: str(page)[:40],
)
def test_down_is_never_empty(page, ttl):
    store = Service(page).store(ttl=ttl)
    for call in (
        lambda: store.read("42"),
        lambda: store.read("42", last=2),
        lambda: store.append("42", [HumanMessage("x")]),
        lambda: store.count("42"),
        store.sessions,
        lambda: store.get_state("42"),
    ):
        with pytest.raises(StoreUnavailableError) as caught:
            call()
        assert caught.value.__cause__ is not None
        assert "Secret7" not in f"{caught.value} {caught.value.__cause__}"


def test_what_is_refused_is_not_what_is_down():
    for words in ("ERR DB capacity quota exceeded", "NOPERM this user has no permissions", "WRONGTYPE wrong kind"):
        for ttl in (None, 60):
            with pytest.raises(StoreError, match="'42'") as caught:
                Service(error(words)).store(ttl=ttl).append("42", [HumanMessage("x")])
            assert not isinstance(caught.value, StoreUnavailableError)
            assert words in str(caught.value.__cause__)
    with pytest.raises(StoreError, match="'42'"):
        Service(answer([{"error": "WRONGTYPE wrong kind"}, {"result": None}])).store(ttl=60).append(
            "42", [HumanMessage("x")]
        )


@pytest.mark.parametrize("words", ["ERR max request size exceeded. Limit: 1", "ERR max single record size exceeded"])
def test_what_is_too_large_has_an_error_of_its_own(words):
    for ttl in (None, 60):
        with pytest.raises(RecordTooLargeError) as caught:
            Service(error(words)).store(ttl=ttl).append("42", [HumanMessage("the text")])
        assert "the text" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused_as_such():
    for result in (["/w=="], {"a": 1}):
        with pytest.raises(StoreError) as caught:
            Service(answer({"result": result})).store().read("42")
        assert not isinstance(caught.value, StoreUnavailableError)


@pytest.mark.parametrize("ttl", [None, 60])
@pytest.mark.parametrize("arrived", [True, False])
def test_an_append_whose_answer_is_cut_off_is_sent_again_only_if_it_is_not_there(ttl, arrived):
    def answer_to(request):
        commands = json.loads(request.content)
        if isinstance(commands[0], list) and commands[0][0] == "LLEN":
            (first, *_) = (json.loads(request.content) for request in service.requests)
            row = first[-1] if ttl is None else first[0][-1]
            rows = [base64.b64encode(row.encode()).decode()] if arrived else []
            return answer([{"result": len(rows)}, {"result": rows}])
        if len(service.requests) == 1:
            raise httpx.ReadError("cut")
        return answer({"result": 1} if ttl is None else [{"result": 1}, {"result": None}])

    service = Service(answer_to)
    service.store(ttl=ttl).append("42", [HumanMessage("x")])
    first, _look, *again = (request.content for request in service.requests)
    assert again == ([] if arrived else [first])


def test_a_look_that_fails_too_sends_nothing_again():
    service = Service(httpx.ReadError("cut"))
    with pytest.raises(StoreUnavailableError):
        service.store().append("42", [HumanMessage("x")])
    assert len(service.requests) == 2


def test_a_silent_service_times_out():
    timeouts = [UpstashStore(URL, token="t").client, UpstashStore(URL, token="t", timeout=2).client]
    assert [client._http._client.timeout.read for client in timeouts] == [10, 2]
    assert UpstashStore(URL, token="t", timeout=None).client._http._client.timeout.read == 10
    for bad in (0, -1, True, "30"):
        with pytest.raises(ConfigurationError, match="timeout"):
            UpstashStore(URL, token="t", timeout=bad)


def test_the_asyncio_client_is_made_in_a_thread(monkeypatch):
    """It reads the certificates of the system."""
    threads = []
    kind = upstash_redis.asyncio.Redis

    class Watched(kind):
        def __init__(self, *args, **options):
            threads.append(threading.current_thread())
            super().__init__(*args, **options)

    monkeypatch.setattr(upstash_redis.asyncio, "Redis", Watched)
    store = UpstashStore("upstash+http://:t@127.0.0.1:1")

    async def use():
        with pytest.raises(StoreUnavailableError):
            await store.aread("42")
        await store.aclose()

    asyncio.run(use())
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("upstash://:tok-Secret7@eu1-merry-cat-1.upstash.io", ADDRESS),
        ("upstash://eu1-merry-cat-1.upstash.io?token=tok-Secret7", ADDRESS),
        ("upstash://eu1-merry-cat-1.upstash.io/?token=tok-Secret7", ADDRESS),
        ("https://:tok-Secret7@eu1-merry-cat-1.upstash.io", ADDRESS),
        ("upstash://h:8443/redis/?token=a%2Fb%3D+c", ("https://h:8443/redis", "a/b=+c")),
        ("upstash+http://:t@127.0.0.1:8079", ("http://127.0.0.1:8079", "t")),
        ("http://:t@[::1]:8079", ("http://[::1]:8079", "t")),
    ],
)
def test_urls(url, expected):
    client = UpstashStore(url).client
    assert (client._url, client._headers["Authorization"]) == (expected[0], f"Bearer {expected[1]}")


def test_the_environment(monkeypatch):
    monkeypatch.setenv("UPSTASH_REDIS_REST_TOKEN", "from-environment")
    assert UpstashStore(URL).client._headers["Authorization"] == "Bearer from-environment"
    assert UpstashStore(URL, token="given").client._headers["Authorization"] == "Bearer given"
    monkeypatch.setenv("UPSTASH_REDIS_REST_URL", "https://elsewhere/")
    for store in (UpstashStore(), open_store("upstash://"), UpstashRedisChatMessageHistory("42").store):
        assert (store.client._url, store.client._headers["Authorization"]) == (
            "https://elsewhere",
            "Bearer from-environment",
        )
    monkeypatch.setenv("UPSTASH_REDIS_REST_URL", "https://later")
    assert UpstashRedisChatMessageHistory("42").redis_client._url == "https://later"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (None, "UPSTASH_REDIS_REST_URL"),
        ("", "UPSTASH_REDIS_REST_URL"),
        ("upstash://", "UPSTASH_REDIS_REST_URL"),
        (URL, "UPSTASH_REDIS_REST_TOKEN"),
        ("rediss://default:tok-Secret7@h:6379", "the Redis store"),
        ("upstash://tok-Secret7@h", "without a user's name"),
        ("upstash://user:tok-Secret7@h", "without a user's name"),
        ("upstash://:tok-Sec/ret7@h", "%2F"),
        ("upstash://:tok-Secret7@", "cannot be read"),
        ("upstash://h?tokn=tok-Secret7", "cannot be read"),
        ("upstash://h#tok-Secret7", "cannot be read"),
        ("upstash://h:tok-Secret7", "cannot be read"),
    ],
)
def test_urls_that_cannot_be_used(url, told):
    with pytest.raises(ConfigurationError, match=told) as caught:
        UpstashStore(url)
    assert "Sec" not in f"{caught.value}"
    with pytest.raises(ValueError, match=told):
        UpstashRedisChatMessageHistory("42", url or "")


def test_tokens_are_not_shown():
    for history in (
        open_history("upstash://:tok-Secret7@h", "42"),
        UpstashRedisChatMessageHistory("42", "https://h", "tok-Secret7"),
        UpstashRedisChatMessageHistory("42", "upstash://h?token=tok-Secret7"),
    ):
        assert "UpstashStore('https://h')" in repr(history)
        assert "Secret7" not in repr(history)


def test_clients_of_the_wrong_kind_or_beside_a_url():
    blocking, native = upstash_redis.Redis(URL, "t"), upstash_redis.asyncio.Redis(URL, "t")
    with pytest.raises(
        ConfigurationError, match=r"must be a blocking client of upstash_redis, not upstash_redis.*\.Redis"
    ):
        UpstashStore(client=native)
    with pytest.raises(ConfigurationError, match="asyncio"):
        UpstashStore(async_client=blocking)
    for options in ({"url": URL}, {"token": "t"}, {"client_options": {"allow_telemetry": False}}):
        with pytest.raises(ConfigurationError, match="not both"):
            UpstashStore(client=blocking, **options)
    assert repr(UpstashStore(client=blocking)) == "UpstashStore('<client>')"


def test_options_reach_the_driver():
    client = UpstashStore(URL, token="t", client_options={"allow_telemetry": False, "rest_encoding": None}).client
    assert set(client._headers) == {"Authorization"}
    assert "Upstash-Telemetry-Sdk" in UpstashStore(URL, token="t").client._headers


def test_histories_share_a_client():
    histories = [UpstashRedisChatMessageHistory(str(n), URL, "t") for n in range(1000)]
    assert len({id(history.redis_client) for history in histories}) == 1
    one = histories[0]
    assert (one.session_id, one.key_prefix, one.ttl, one.key) == ("0", "message_store:", None, "message_store:0")
    assert one.redis_client is histories[1].redis_client
    assert UpstashRedisChatMessageHistory("0", URL, "other").redis_client is not one.redis_client
    assert UpstashRedisChatMessageHistory("0", URL, "t", ttl=0).store.ttl is None
    for options in ({"ttl": 60}, {"key_prefix": "other:"}):
        assert UpstashRedisChatMessageHistory("0", URL, "t", **options).redis_client is one.redis_client
