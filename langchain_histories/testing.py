"""The conformance kit: what every store must do, as pytest classes to subclass.

    class TestMyStore(MessageStoreTests):
        capabilities = Capability.ATOMIC_BATCH | Capability.TAIL_READ | ...

        @pytest.fixture
        def open_store(self, my_server):
            return functools.partial(MyStore, my_server.url, table_name=f"t{uuid.uuid4().hex}")

That is all a store must give: a factory that opens it, with any options, on one and the same empty place for each test.
It must be picklable, because other processes call it too. The other fixtures are optional and named below.

Needs the extra `testing`. Do not override or skip single tests: a store that cannot pass one lacks a capability, or is
to be fixed.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import datetime as dt
import decimal
import itertools
import logging
import multiprocessing
import os
import random
import sys
import threading
import time
import uuid
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from blockbuster import blockbuster_ctx
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    message_chunk_to_message,
)
from langchain_core.messages.base import BaseMessageChunk
from pydantic import BaseModel

from langchain_histories import codec
from langchain_histories._neutral import drive
from langchain_histories._options import STORES_WITH_TTL, Capability
from langchain_histories._session_ids import user_session_id
from langchain_histories.errors import (
    ConfigurationError,
    CorruptRecordError,
    HistoryError,
    InvalidMessageError,
    RecordTooLargeError,
    StoreUnavailableError,
)
from langchain_histories.history import TurnChatMessageHistory
from langchain_histories.store import MessageStore, SessionInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    OpenStore = Callable[..., MessageStore]

START_METHODS = multiprocessing.get_all_start_methods()

__all__ = ["MessageStoreTests", "golden_messages", "odd_session_ids"]


def golden_messages() -> list[BaseMessage]:
    """Messages of every type and with everything that a message can hold; a store returns them equal."""
    moment = dt.datetime(2026, 11, 21, 20, 0, 0, 123456, tzinfo=dt.UTC)
    usage: Any = {
        "input_tokens": 8,
        "output_tokens": 304,
        "total_tokens": 312,
        "input_token_details": {"cache_read": 5},
        "output_token_details": {"reasoning": 256},
    }
    call: Any = {"name": "search", "args": {"query": "naïve café", "depth": 2, "score": 0.5}, "id": "call_1"}
    texts = [
        "plain",
        "",
        "  leading and trailing  \n",
        "quotes \" ' ` and \\ backslashes",
        "line\nbreak\r\nand\ttab",
        "Ünïcödé — Привет, мир — 你好 — مرحبا — שלום",
        "emoji 👩‍👩‍👧‍👦 🇺🇦 👍🏽",
        "nul \x00 and controls \x01\x1f\x7f\x85",
        "lone surrogates \ud83d and \udc00",
        "separators \u2028 \u2029 \ufeff \uffff",
        "combining e\u0301 differs from é",
        "{braces} {{more}} %s %(x)s $1 :name ?",
        "'; DROP TABLE message_store; --",
        '{"type": "human", "data": {"content": "a message in a message"}}',
        "lh:type",
    ]
    return [
        *(HumanMessage(text) for text in texts),
        HumanMessage("with id and name", id="run-1", name="Ivan"),
        HumanMessage("x" * 1_000_000),
        HumanMessage(
            [
                "text in a list",
                {"type": "text", "text": "what is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                {"type": "image", "source_type": "base64", "mime_type": "image/png", "data": "iVBORw0KGgo="},
                {"type": "media", "mime_type": "audio/wav", "data": b"\x00\xff\xfe"},
            ]
        ),
        HumanMessage([]),
        HumanMessage("a dictionary of our own", additional_kwargs={"lh:type": "bytes", "value": "not base64"}),
        SystemMessage("You are a helpful assistant."),
        ChatMessage(content="any role", role="moderator"),
        FunctionMessage(content="42", name="add"),
        RemoveMessage(id="run-1"),
        AIMessage("an answer"),
        AIMessage("", tool_calls=[call, {**call, "id": "call_2", "args": {}}]),
        AIMessage(
            "",
            invalid_tool_calls=[{"name": "search", "args": "{not json", "id": "call_3", "error": "Expecting name"}],
        ),
        AIMessage(
            [
                {"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"},
                {"type": "text", "text": "Yes.", "annotations": [{"type": "citation", "url": "https://example.com"}]},
            ],
            usage_metadata=usage,
            response_metadata={"model_name": "a-model", "logprobs": None, "finish_reason": "stop"},
        ),
        AIMessage(
            "numbers",
            response_metadata={
                "floats": [0.1, -0.0, 1e308, 5e-324],
                "odd": [float("nan"), float("inf"), float("-inf")],
                "integers": [0, -1, 2**63, 10**30],
                "decimal": decimal.Decimal("1.10"),
            },
        ),
        AIMessage(
            "times",
            response_metadata={
                "moment": moment,
                "naive": moment.replace(tzinfo=None),
                "offset": moment.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30))),
                "date": moment.date(),
                "time": moment.time(),
            },
        ),
        AIMessage(
            "containers",
            additional_kwargs={
                "tuple": (1, ("two", None)),
                "set": {1, 2},
                "frozenset": frozenset({"a"}),
                "keys": {1: "one", ("a", 2): "pair", None: "none"},
                "uuid": uuid.UUID(int=7),
                "nested": {"deep": [{"bytes": b"\x80"}]},
            },
        ),
        ToolMessage("done", tool_call_id="call_1"),
        ToolMessage("failed", tool_call_id="call_1", name="search", status="error", id="tool-1"),
        ToolMessage([{"type": "text", "text": "part"}, {"type": "json", "json": {"a": [1]}}], tool_call_id="call_1"),
        ToolMessage(
            "documents",
            tool_call_id="call_1",
            artifact=[Document("text", metadata={"source": "a.txt", "at": moment}, id="d1"), Document("more")],
        ),
        ToolMessage("bytes", tool_call_id="call_1", artifact={"png": b"\x89PNG\r\n", "rows": [(1, 2.5), (3, None)]}),
        AIMessageChunk(
            content="streamed ",
            tool_call_chunks=[{"name": "f", "args": '{"a": 1}', "id": "call_4", "index": 0}],
            usage_metadata=usage,
            id="run-2",
        ),
        HumanMessageChunk(content="a chunk"),
    ]


def odd_session_ids() -> list[str]:
    """Session ids that services confuse, cut, refuse or interpret."""
    return [
        *("ivan", "Ivan", "Iván", "Iva\u0301n", "ivan ", " ivan", "ivan\t", "\uff49\uff56\uff41\uff4e"),
        *("a:b", "a/b", "a\\b", "..", ".", "../../etc/passwd", "/absolute", "C:\\x", "a.b", ".hidden", "a.json", "con"),
        *("a\x00b", "a", "a\n", "%00", "%", "lh%", "lh%a%00b", "_", "-", "*", "?", "[a]", "a*", "a?", "{", "}", "{}"),
        *("{a}", "a{b}c", "a}b", "{x}:state", "a:state", "a.state", "$where", "$ne", "{'$ne': null}", "#", "~", "@"),
        *("'", '"', "`", "--", "'; DROP TABLE message_store; --", "a' OR 'a'='a", "\\", "\\%", "null", "None", "0"),
        *(
            "日本語",
            "👩‍👩‍👧‍👦",
            "\u202eabc",
            "ß",
            "SS",
            "ss",
            "İ",
            "i",
            "I",
            "\x7f",
            "\ufeff",
            "@ivan/42",
            "@ivan%2F42/x",
        ),
        *("x" * 1024, "x" * 1023 + "y", "é" * 512, "👍" * 256),
    ]


class Face:
    """One face of a store: `append` is the sync method or the async one, run to its end."""

    def __init__(self, runner: asyncio.Runner | None = None) -> None:
        """Without a runner: the sync face."""
        self._runner = runner

    def __call__(self, store: MessageStore) -> Any:
        """Return the store's methods of this face."""
        return _Caller(store, self._runner)


class _Caller:
    def __init__(self, store: MessageStore, runner: asyncio.Runner | None) -> None:
        self._store, self._runner = store, runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        runner = self._runner
        if runner is None:
            return getattr(self._store, name)  # type: ignore[no-any-return]
        method = getattr(self._store, "a" + name)
        return lambda *args, **options: runner.run(method(*args, **options))


class _ShoutingCodec:
    """A codec that nobody could mistake for plain text, and that like encryption never gives the same text twice."""

    def encode(self, text: str) -> str:
        return base64.b85encode(os.urandom(8) + zlib.compress(text.encode("utf-8", "surrogatepass"))).decode()

    def decode(self, text: str) -> str:
        return zlib.decompress(base64.b85decode(text)[8:]).decode("utf-8", "surrogatepass")


def _write_numbers(open_store: OpenStore, session_id: str, writer: int, count: int) -> None:
    """Append `count` messages one by one; run in processes and threads."""
    with open_store() as store:
        for number in range(count):
            store.append(session_id, [HumanMessage(f"{writer} {number}")])


def _counted_up(state: dict[str, Any] | None, by: int = 1) -> dict[str, Any]:
    """A change of the state: counts in `n` and keeps the rest."""
    state = state or {}
    return {**state, "n": state.get("n", 0) + by}


def _count_up(open_store: OpenStore, session_id: str, count: int) -> None:
    """Count up in the state, one by one; run in processes."""
    with open_store() as store:
        for _ in range(count):
            store.update_state(session_id, _counted_up)


def _processes(count: int) -> concurrent.futures.ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver" if "forkserver" in START_METHODS else "spawn")
    context.set_forkserver_preload([__name__])
    return concurrent.futures.ProcessPoolExecutor(count, mp_context=context)


def _texts(messages: Sequence[BaseMessage]) -> list[str]:
    return [str(message.content) for message in messages]


def _comparable(value: Any) -> Any:
    """What two equal messages have in common: types too, but not the order of keys, and NaN equals itself."""
    if isinstance(value, BaseModel):
        return type(value), _comparable(vars(value))
    if isinstance(value, dict):
        return sorted((repr(key), _comparable(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value), [_comparable(item) for item in value]
    return repr(value)


def _numbers(count: int) -> list[BaseMessage]:
    return [HumanMessage(str(number)) for number in range(count)]


def _open_sockets() -> int:
    def is_socket(entry: Path) -> bool:
        try:
            return str(entry.readlink()).startswith("socket:")
        except OSError:
            return False

    return sum(is_socket(entry) for entry in Path("/proc/self/fd").iterdir())


def _plant(store: MessageStore, session_id: str, rows: Sequence[str]) -> None:
    """Store texts as they are, beside the codec."""
    store.setup()
    drive(store.operations.append(store.client, store.operations.key(session_id), rows))


class MessageStoreTests:
    """The behaviour of every store. Subclass it and give `capabilities` and `open_store`.

    Attributes:
        capabilities: What the store must say it can do.
    """

    capabilities: ClassVar[Capability]

    # What a subclass gives.

    @pytest.fixture
    def open_store(self) -> OpenStore:
        """A picklable factory of the store, taking any options; one empty place for each test."""
        raise NotImplementedError

    @pytest.fixture
    def unreachable_store(self) -> MessageStore | None:
        """The store where nobody answers; `None` if it has no such thing."""
        return None

    @pytest.fixture
    def wrong_password_store(self) -> MessageStore | None:
        """The store with the password `wrong-Secret7`; `None` if it has no such thing."""
        return None

    @pytest.fixture
    def server(self) -> Any:
        """What is behind the store, with `stop()` and `start()`, which keep the data; `None` if nothing is."""
        return None

    def traces(self, store: MessageStore) -> list[str] | None:  # noqa: ARG002
        """Name everything that the place of this test holds: keys, rows, files; `None` if that cannot be told."""
        return None

    # What the tests use.

    @pytest.fixture
    def store(self, open_store: OpenStore) -> Iterator[MessageStore]:
        """The store of this test."""
        with open_store() as store:
            yield store

    @pytest.fixture
    def runner(self, open_store: OpenStore) -> Iterator[asyncio.Runner]:  # noqa: ARG002  # closed before the server
        """The event loop of the async face."""
        with asyncio.Runner() as runner:
            yield runner

    @pytest.fixture(params=["sync", "async"])
    def face(self, request: pytest.FixtureRequest, runner: asyncio.Runner) -> Face:
        """Each face in turn."""
        return Face(runner if request.param == "async" else None)

    @pytest.fixture(params=list(itertools.product(["sync", "async"], repeat=2)), ids="-".join)
    def faces(self, request: pytest.FixtureRequest, runner: asyncio.Runner) -> tuple[Face, Face]:
        """A face that writes and a face that reads, in all four pairs."""
        write, read = (Face(runner if name == "async" else None) for name in request.param)
        return write, read

    def needs(self, capability: Capability) -> None:
        """Leave a test that is about something this store does not have."""
        if capability not in self.capabilities:
            pytest.skip(f"the store has no {capability.name}")

    # What it says of itself.

    def test_capabilities(self, store: MessageStore) -> None:
        """A store says what it can do; what depends on the table that it finds, after set-up."""
        store.setup()
        assert store.capabilities & ~Capability(0) == self.capabilities & ~Capability(0)

    def test_constructor_does_no_io(self, open_store: OpenStore) -> None:
        """Rule 11: opening a store and 1,000 histories touches no socket and no file."""

        async def construct() -> None:
            with blockbuster_ctx():
                store = open_store()
                histories = [store.history(f"s{number}") for number in range(1000)]
            assert {id(history.store) for history in histories} == {id(store)}

        asyncio.run(construct())

    # Rules 1 and 2: order and batches.

    def test_an_unknown_session_is_empty(self, store: MessageStore, face: Face) -> None:
        """Only what was added is there."""
        assert face(store).read("nobody") == []
        assert face(store).count("nobody") == 0

    def test_order_of_appends_and_batches(
        self, store: MessageStore, faces: tuple[Face, Face], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rule 1: order is the store's own, also when the clock stands still or goes back."""
        write, read = faces
        clock = itertools.chain([1_800_000_000.0], itertools.repeat(1_700_000_000.0))
        monkeypatch.setattr(codec, "now", lambda: dt.datetime.fromtimestamp(next(clock), dt.UTC))
        messages = _numbers(520)
        for number in range(10):
            write(store).append("s", [messages[number]])
        write(store).append("s", messages[10:510])
        write(store).append("s", messages[510:])
        assert _texts(read(store).read("s")) == _texts(messages)
        assert read(store).count("s") == 520

    def test_an_empty_batch_changes_nothing(self, store: MessageStore, face: Face) -> None:
        """An empty batch is no session."""
        assert face(store).append("s", []) == []
        assert face(store).read("s") == []
        assert face(store).sessions() == []

    def test_batches_are_contiguous_and_pollers_miss_nothing(self, open_store: OpenStore) -> None:
        """Rule 2: eight writers' batches never interleave, and going on from a position finds all of them."""
        with open_store() as store:
            store.append("s", [HumanMessage("start")])
            writing = threading.Event()
            writing.set()
            seen: list[str] = []

            def poll() -> None:
                position = None
                while True:
                    last_round = not writing.is_set()
                    for record in store.records("s", after=position):
                        position = record.position
                        seen.append(str(record.message.content))
                    if last_round:
                        return

            def write(writer: int) -> None:
                for number in range(25):
                    store.append("s", [HumanMessage(f"{writer} {number} {part}") for part in range(3)])

            with concurrent.futures.ThreadPoolExecutor(9) as pool:
                poller = pool.submit(poll)
                for future in [pool.submit(write, writer) for writer in range(8)]:
                    future.result()
                writing.clear()
                poller.result()
            stored = _texts(store.read("s"))
        assert len(stored) == 1 + 8 * 25 * 3
        assert seen == stored
        batches = [stored[start : start + 3] for start in range(1, len(stored), 3)]
        assert all([text.split()[2] for text in batch] == ["0", "1", "2"] for batch in batches)
        assert all(len({tuple(text.split()[:2]) for text in batch}) == 1 for batch in batches)

    def test_a_refused_batch_writes_nothing(self, store: MessageStore, face: Face) -> None:
        """Rule 2: one bad message refuses its whole batch before anything is written."""
        face(store).append("s", [HumanMessage("kept")])
        bad: list[Any] = [HumanMessage("lost?"), "no message"]
        with pytest.raises(InvalidMessageError, match="str"):
            face(store).append("s", bad)
        with pytest.raises(InvalidMessageError):
            face(store).append("s", [None])
        assert _texts(face(store).read("s")) == ["kept"]

    # Rule 3: nothing is lost.

    def test_eight_processes(self, open_store: OpenStore) -> None:
        """Rule 3: 8 processes x 200 appends leave 1,600 messages, each writer's in its order."""
        self.needs(Capability.MANY_PROCESSES)
        count = 200 if Capability.LARGE_SESSIONS in self.capabilities else 40
        with _processes(8) as pool:
            for future in [pool.submit(_write_numbers, open_store, "s", writer, count) for writer in range(8)]:
                future.result()
        with open_store() as store:
            stored = [text.split() for text in _texts(store.read("s"))]
        assert len(stored) == 8 * count
        for writer in range(8):
            assert [int(number) for name, number in stored if name == str(writer)] == list(range(count))

    def test_eight_threads(self, store: MessageStore) -> None:
        """Rule 3: threads of one process share one store."""

        def write(writer: int) -> None:
            for number in range(50):
                store.append("s", [HumanMessage(f"{writer} {number}")])

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
        stored = [text.split() for text in _texts(store.read("s"))]
        for writer in range(8):
            assert [int(number) for name, number in stored if name == str(writer)] == list(range(50))

    def test_two_hundred_tasks(self, store: MessageStore) -> None:
        """Rule 3: 200 tasks on one event loop, on one session and on sessions of their own."""

        async def write(number: int) -> None:
            await store.aappend("shared", [HumanMessage(f"{number}"), AIMessage(f"{number}")])
            await store.aappend(f"own {number}", [HumanMessage(f"{number}")])

        async def main() -> tuple[list[str], list[int]]:
            await asyncio.gather(*(write(number) for number in range(200)))
            shared = _texts(await store.aread("shared"))
            return shared, [await store.acount(f"own {number}") for number in range(200)]

        shared, counts = asyncio.run(main())
        assert shared[::2] == shared[1::2]
        assert sorted(map(int, shared[::2])) == list(range(200))
        assert counts == [1] * 200

    # Rule 4: round trip.

    def test_round_trip(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """Rule 4: what comes back equals what was stored, chunks as the whole message."""
        write, read = faces
        messages = golden_messages()
        if Capability.LARGE_SESSIONS not in self.capabilities:
            messages = [message for message in messages if len(message.content) < 1_000_000]
        write(store).append("s", messages)
        loaded = read(store).read("s")
        assert len(loaded) == len(messages)
        for message, back in zip(messages, loaded, strict=True):
            whole = message_chunk_to_message(message) if isinstance(message, BaseMessageChunk) else message
            assert _comparable(back) == _comparable(whole)

    def test_what_is_too_large_is_refused(self, store: MessageStore, face: Face) -> None:
        """Rule 2: or stored whole; never cut, and the rest of its batch is not written without it."""
        batch = [HumanMessage("before"), HumanMessage("é" * 1_500_000), HumanMessage("behind")]
        face(store).append("s", [HumanMessage("first")])
        if Capability.LARGE_SESSIONS in self.capabilities:
            face(store).append("s", batch)
            assert face(store).read("s") == [HumanMessage("first"), *batch]
        else:
            with pytest.raises(RecordTooLargeError):
                face(store).append("s", batch)
            assert face(store).read("s") == [HumanMessage("first")]
        face(store).append("s", [HumanMessage("last")])
        assert _texts(face(store).read("s", last=1)) == ["last"]

    def test_an_object_that_json_cannot_hold(
        self, open_store: OpenStore, face: Face, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Rule 4: the turn is kept with a description of the object, or refused by choice."""
        message = ToolMessage("kept", tool_call_id="1", artifact={"handle": threading.Lock(), "other": 1})
        with open_store() as store, caplog.at_level(logging.WARNING):
            face(store).append("s", [message])
            (back,) = face(store).read("s")
        assert back.content == "kept"
        assert back.artifact == {"handle": {"lh:type": "object", "value": "_thread.lock"}, "other": 1}
        assert "_thread.lock" in caplog.text
        with open_store(on_unserializable="raise") as strict:
            with pytest.raises(InvalidMessageError, match="_thread"):
                face(strict).append("s", [HumanMessage("not alone"), message])
            assert face(strict).count("s") == 1

    # Rule 5: reads.

    def test_last_and_after(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """Rule 5: the last n, what is behind a position, and both."""
        write, read = faces
        write(store).append("s", _numbers(7))
        write(store).append("s", [HumanMessage(str(number)) for number in range(7, 10)])
        records = read(store).records("s")
        assert [record.message.content for record in records] == [str(number) for number in range(10)]
        for last in (0, 1, 3, 10, 11):
            assert _texts(read(store).read("s", last=last)) == [str(n) for n in range(max(0, 10 - last), 10)]
        for number, record in enumerate(records):
            rest = [str(n) for n in range(number + 1, 10)]
            assert _texts(read(store).read("s", after=record.position)) == rest
            assert _texts(read(store).read("s", after=record.position, last=2)) == rest[-2:]
            assert _texts(read(store).read("s", after=record.position, first=2)) == rest[:2]
        for first in (0, 1, 3, 10, 11):
            assert _texts(read(store).read("s", first=first)) == [str(n) for n in range(min(10, first))]
        tail = read(store).records("s", last=2)
        assert tail == records[-2:]
        write(store).append("s", [HumanMessage("new")])
        assert _texts(read(store).read("s", after=tail[-1].position)) == ["new"]
        assert _texts(read(store).read("s", after=tail[-1].position, first=5)) == ["new"]

    def test_pages(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """Rule 5: a session is read in pages, small and large records alike."""
        write, read = faces
        texts = [str(number) * (1 if number % 3 else 40_000) for number in range(20)]
        for start in range(0, 20, 5):
            write(store).append("s", [HumanMessage(text) for text in texts[start : start + 5]])
        pages: list[str] = []
        position = None
        while page := read(store).records("s", first=3, after=position):
            pages += [str(record.message.content) for record in page]
            position = page[-1].position
        assert pages == texts

    def test_a_position_outlives_deletion_and_clear(self, store: MessageStore, face: Face) -> None:
        """Rule 5: going on from a position misses nothing after others deleted messages or cleared the session."""
        self.needs(Capability.DELETE)
        face(store).append("s", _numbers(5))
        records = face(store).records("s")
        face(store).delete("s", [records[0].id, records[1].id])
        assert _texts(face(store).read("s", after=records[3].position)) == ["4"]
        more = [f"more {number}" for number in range(4)]
        face(store).append("s", [HumanMessage(text) for text in more])
        assert _texts(face(store).read("s", after=records[3].position)) == ["4", *more]
        assert _texts(face(store).read("s", after=records[3].position, first=2)) == ["4", more[0]]
        for count in (2, 9):
            position = face(store).records("s", last=1)[0].position
            face(store).clear("s")
            fresh = [f"{count} fresh {number}" for number in range(count)]
            face(store).append("s", [HumanMessage(text) for text in fresh])
            assert _texts(face(store).read("s", after=position, first=1)) == fresh[:1]
            assert _texts(face(store).read("s", after=position)) == fresh

    @pytest.mark.parametrize("bad", [-1, 1.5, "3", True])
    def test_bad_last(self, store: MessageStore, face: Face, bad: Any) -> None:
        """Rule 5: a bad argument is refused."""
        with pytest.raises(ConfigurationError, match="last"):
            face(store).read("s", last=bad)
        with pytest.raises(ConfigurationError, match="first"):
            face(store).read("s", first=bad)
        with pytest.raises(ConfigurationError, match="not both"):
            face(store).read("s", first=1, last=1)

    def test_a_foreign_position_is_refused(self, store: MessageStore, face: Face) -> None:
        """Rule 5: a position that this store never gave is an error, not an empty history."""
        face(store).append("s", [HumanMessage("x")])
        with pytest.raises(ConfigurationError, match="position"):
            face(store).read("s", after="not a position")

    def test_what_is_returned_belongs_to_the_caller(self, store: MessageStore, face: Face) -> None:
        """Rule 5: changing what was read or written changes nothing that is stored."""
        message = HumanMessage("before", additional_kwargs={"a": [1]})
        face(store).append("s", [message])
        message.content = "after"
        loaded = face(store).read("s")
        loaded[0].content = "after"
        loaded[0].additional_kwargs["a"].append(2)
        loaded.append(HumanMessage("more"))
        assert face(store).read("s") == [HumanMessage("before", additional_kwargs={"a": [1]})]

    # Rule 6: empty is empty, down is down.

    def test_unreachable(self, unreachable_store: MessageStore | None, face: Face) -> None:
        """Rule 6: a store that cannot be reached raises on every operation."""
        if unreachable_store is None:
            pytest.skip("the store has no server to be down")
        calls: list[tuple[str, tuple[Any, ...]]] = [
            ("read", ("s",)),
            ("append", ("s", [HumanMessage("x")])),
            ("count", ("s",)),
            ("clear", ("s",)),
            ("sessions", ()),
        ]
        for name, args in calls:
            with pytest.raises(StoreUnavailableError) as caught:
                getattr(face(unreachable_store), name)(*args)
            assert caught.value.__cause__ is not None
            assert caught.value.operation == name

    def test_wrong_password(
        self, wrong_password_store: MessageStore | None, face: Face, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Rules 6 and 14: a refused password raises, and is in no message."""
        if wrong_password_store is None:
            pytest.skip("the store has no password")
        with caplog.at_level(logging.DEBUG), pytest.raises(StoreUnavailableError) as caught:
            face(wrong_password_store).read("s")
        told = f"{caught.value} {wrong_password_store!r} {wrong_password_store.history('s')!r} {caplog.text}"
        assert "wrong-Secret7" not in told
        assert "wrong-Secret7" not in str(caught.value.__cause__)

    # Rule 7: corrupt records.

    @pytest.mark.parametrize(
        "text",
        [
            '{"type": "human", "data": {"content": "cut',
            "[]",
            '"text"',
            '{"type": "human"}',
            '{"type": "alien", "data": {"content": "x"}}',
            '{"type": "human", "data": {"content": 5}}',
            '{"type": "human", "data": {"content": "x"}, "meta": {"v": 999, "id": "i", "at": "2026-01-01T00:00:00Z"}}',
            '{"type": "human", "data": {"content": "x", "additional_kwargs": {"a": {"lh:type": "no such tag"}}}}',
        ],
        ids=["cut", "array", "string", "no data", "unknown type", "bad field", "newer version", "unknown tag"],
    )
    def test_a_corrupt_record(
        self, open_store: OpenStore, face: Face, text: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Rule 7: it raises where it is read, or is skipped by choice, and blocks nothing else."""
        with open_store() as store:
            face(store).append("s", [HumanMessage("before")])
            _plant(store, "s", [text])
            face(store).append("s", [HumanMessage("after")])
            with pytest.raises(CorruptRecordError) as caught:
                face(store).read("s")
            assert caught.value.session_id == "s"
            assert caught.value.position
            assert "cut" not in str(caught.value)
            assert _texts(face(store).read("s", last=1)) == ["after"]
            assert _texts(face(store).read("s", after=caught.value.position)) == ["after"]
            assert face(store).count("s") == 3
        with open_store(on_corrupt="skip") as lenient, caplog.at_level(logging.WARNING):
            assert _texts(face(lenient).read("s")) == ["before", "after"]
            assert _texts(face(lenient).read("s", last=2)) == ["before", "after"]
        assert "'s'" in caplog.text

    def test_a_record_without_envelope(self, store: MessageStore, face: Face) -> None:
        """Rule 16: a record as LangChain's classes write it is read, listed and deleted."""
        _plant(store, "s", ['{"type": "human", "data": {"content": "old", "type": "human", "example": false}}'])
        face(store).append("s", [HumanMessage("new")])
        old, new = face(store).records("s")
        assert (old.message.content, old.at) == ("old", None)
        assert old.id != new.id
        if Capability.DELETE in self.capabilities:
            assert face(store).delete("s", [old.id]) == 1
            assert _texts(face(store).read("s")) == ["new"]

    def test_a_batch_stored_twice_is_read_once(self, store: MessageStore, face: Face) -> None:
        """Rule 15: a driver's retry may store a batch again."""
        _, rows = store.format.encode([HumanMessage("a"), AIMessage("b")])
        face(store).append("s", _numbers(2))
        _plant(store, "s", rows)
        _plant(store, "s", rows)
        face(store).append("s", [HumanMessage("c")])
        everything = ["0", "1", "a", "b", "c"]
        for last in range(1, 7):
            assert _texts(face(store).read("s", last=last)) == everything[-last:]
            assert _texts(face(store).read("s", first=last)) == everything[:last]
        assert _texts(face(store).read("s")) == everything

    # Rule 8: time to live.

    def test_ttl(self, open_store: OpenStore, face: Face) -> None:
        """Rule 8: it slides with each append and takes the whole session, state included."""
        self.needs(Capability.TTL)
        with open_store(ttl=2) as store:
            call = face(store)
            call.append("s", [HumanMessage("first")])
            call.put_state("s", {"summary": "x"})
            call.append("other", [HumanMessage("untouched")])
            time.sleep(1.3)
            call.append("s", [HumanMessage("second")])
            time.sleep(1.3)
            assert _texts(call.read("s")) == ["first", "second"]
            assert call.get_state("s") == {"summary": "x"}
            assert call.read("other") == []
            # What is put beside a session does not outlive it.
            call.put_state("s", {"summary": "y"})
            call.update_state("s", lambda state: {**state, "more": 1})
            time.sleep(1.3)
            assert call.read("s") == []
            assert call.get_state("s") is None
            assert call.sessions() == []

    def test_ttl_where_there_is_none(self, open_store: OpenStore) -> None:
        """Rule 8: it is refused when it is configured, with the names of the stores that have it."""
        if Capability.TTL in self.capabilities:
            for bad in (0, -1, 1.5, "60", True):
                with pytest.raises(ConfigurationError, match="ttl"):
                    open_store(ttl=bad)
        else:
            with pytest.raises(ConfigurationError, match=", ".join(STORES_WITH_TTL)):
                open_store(ttl=60)

    # Rule 9: clear and erase.

    def test_clear(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """Rule 9: clearing is idempotent, takes the state too, touches no other session and leaves no trace."""
        write, read = faces
        write(store).append("other", [HumanMessage("stays")])
        before = self.traces(store)
        write(store).append("s", _numbers(3))
        if Capability.STATE in self.capabilities:
            write(store).put_state("s", {"a": 1})
        write(store).clear("s")
        assert read(store).read("s") == []
        if Capability.STATE in self.capabilities:
            assert read(store).get_state("s") is None
        write(store).clear("s")
        write(store).clear("never there")
        assert [info.session_id for info in read(store).sessions()] == ["other"]
        assert _texts(read(store).read("other")) == ["stays"]
        assert self.traces(store) == before
        write(store).append("s", [HumanMessage("again")])
        assert _texts(read(store).read("s")) == ["again"]

    def test_erase(self, store: MessageStore, face: Face) -> None:
        """Rule 9: erasing a user takes all of the user's sessions and states, and nobody else's."""
        self.needs(Capability.ERASE)
        kept = [
            user_session_id("ivan2", "1"),
            user_session_id("Ivan", "1"),
            "ivan",
            "@ivan",
            user_session_id("a", "ivan"),
        ]
        for session_id in kept:
            face(store).append(session_id, [HumanMessage("stays")])
        before = self.traces(store)
        for number in range(3):
            face(store).append(user_session_id("ivan", f"s{number}"), _numbers(2))
        face(store).append(user_session_id("ivan", "nul \0 byte"), _numbers(2))
        if Capability.STATE in self.capabilities:
            face(store).put_state(user_session_id("ivan", "s0"), {"a": 1})
            face(store).put_state(user_session_id("ivan", "state only"), {"a": 1})
        assert len(face(store).sessions(user_id="ivan")) == 4
        face(store).erase(user_id="ivan")
        face(store).erase(user_id="ivan")
        assert sorted(info.session_id for info in face(store).sessions()) == sorted(kept)
        if Capability.STATE in self.capabilities:
            assert face(store).get_state(user_session_id("ivan", "s0")) is None
            assert face(store).get_state(user_session_id("ivan", "state only")) is None
        assert self.traces(store) == before

    def test_erase_reads_a_user_id_literally(self, store: MessageStore, face: Face) -> None:
        """Rule 10: a user id is no pattern."""
        self.needs(Capability.ERASE)
        for user in ("a%", "ab", "a_", "a*", "a.", "a"):
            face(store).append(user_session_id(user, "1"), [HumanMessage(user)])
        for user in ("a%", "a_", "a*", "a."):
            face(store).erase(user_id=user)
        left = [user_session_id("a", "1"), user_session_id("ab", "1")]
        assert [info.session_id for info in face(store).sessions()] == left

    # Rule 10: session ids.

    def test_odd_session_ids(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """Rule 10: ids are compared byte for byte, and sessions never see each other."""
        write, read = faces
        ids = odd_session_ids()
        for session_id in ids:
            write(store).append(session_id, [HumanMessage(session_id)])
        for session_id in ids:
            assert _texts(read(store).read(session_id)) == [session_id]
        if Capability.SESSIONS in self.capabilities:
            assert sorted(info.session_id for info in read(store).sessions()) == sorted(ids)
        for session_id in ids[::2]:
            write(store).clear(session_id)
        for number, session_id in enumerate(ids):
            assert read(store).count(session_id) == number % 2

    def test_odd_session_ids_have_states_of_their_own(self, store: MessageStore, face: Face) -> None:
        """Rule 10: also states never see each other, and none passes for a message."""
        self.needs(Capability.STATE)
        ids = odd_session_ids()
        for session_id in ids:
            face(store).put_state(session_id, {"id": session_id})
        for session_id in ids:
            assert face(store).get_state(session_id) == {"id": session_id}
            assert face(store).read(session_id) == []
        for session_id in ids[::2]:
            face(store).clear(session_id)
        for number, session_id in enumerate(ids):
            assert (face(store).get_state(session_id) is None) == (number % 2 == 0)

    @pytest.mark.parametrize("bad", [None, "", True, 1.5, b"s", ["s"], {"$ne": None}, "x" * 1025, "é" * 513, "\ud800"])
    def test_bad_session_ids(self, store: MessageStore, face: Face, bad: Any) -> None:
        """Rule 10: what is no session id is refused before anything is sent."""
        with pytest.raises(ConfigurationError, match="session_id"):
            face(store).append(bad, [HumanMessage("x")])
        with pytest.raises(ConfigurationError, match="session_id"):
            face(store).read(bad)
        with pytest.raises(ConfigurationError, match="session_id"):
            store.history(bad)

    # Rule 11: clients.

    def test_a_hundred_event_loops(self, store: MessageStore) -> None:
        """Rule 11: a program that calls `asyncio.run` again and again holds no more than one pool."""
        if not Path("/proc/self/fd").exists():
            pytest.skip("counting sockets needs /proc")
        asyncio.run(store.aappend("s", [HumanMessage("x")]))
        asyncio.run(store.aread("s", last=1))
        before = _open_sockets()
        for _ in range(100):
            asyncio.run(store.aread("s", last=1))
        assert _open_sockets() <= before + 1

    def test_a_closed_store_can_be_used_again(self, store: MessageStore, face: Face) -> None:
        """Rule 11: closing is idempotent, and the next use opens again."""
        face(store).append("s", [HumanMessage("x")])
        face(store).close()
        face(store).close()
        assert face(store).count("s") == 1

    def test_after_fork(self, store: MessageStore) -> None:
        """Rule 11: a forked child opens its own client, and its end does not disturb the parent."""
        self.needs(Capability.MANY_PROCESSES)
        if sys.platform == "win32":
            pytest.skip("needs fork")
        store.append("s", [HumanMessage("parent")])
        child = os.fork()
        if child == 0:
            status = 1
            try:
                store.append("s", [HumanMessage("child")])
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        store.append("s", [HumanMessage("parent again")])
        assert _texts(store.read("s")) == ["parent", "child", "parent again"]

    # Rule 12: async.

    def test_async_never_blocks_the_loop(self, open_store: OpenStore) -> None:
        """Rule 12: no operation makes a blocking call on the event loop."""

        async def work() -> None:
            store = open_store()
            await store.aappend("warm up", [HumanMessage("x")])
            await store.aread("warm up")
            with blockbuster_ctx():
                await store.aappend("s", _numbers(3))
                await store.aread("s")
                await store.arecords("s", last=1)
                await store.acount("s")
                if Capability.STATE in self.capabilities:
                    await store.aput_state("s", {"a": 1})
                    await store.aget_state("s")
                    await store.aupdate_state("s", _counted_up)
                if Capability.REPLACE in self.capabilities:
                    await store.areplace("s", _numbers(2))
                if Capability.DELETE in self.capabilities:
                    await store.adelete("s", [record.id for record in await store.arecords("s")])
                await store.asessions()
                await store.aclear("s")
            await store.aclose()

        asyncio.run(work())

    def test_a_cancelled_append_is_whole_or_nothing(self, store: MessageStore) -> None:
        """Rule 12: wherever it is cancelled, and the store works on."""
        chance = random.Random(7)  # noqa: S311

        async def work() -> list[str]:
            await store.aappend("s", [HumanMessage("start")])
            for number in range(40):
                batch = [HumanMessage(f"{number} {part}") for part in range(3)]
                task = asyncio.create_task(store.aappend("s", batch))
                await asyncio.sleep(chance.random() * 0.004)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await store.aappend("s", [HumanMessage("end")])
            return _texts(await store.aread("s"))

        first, *stored, last = asyncio.run(work())
        assert (first, last) == ("start", "end")
        batches = [stored[start : start + 3] for start in range(0, len(stored), 3)]
        numbers = [int(batch[0].split()[0]) for batch in batches]
        assert batches == [[f"{number} {part}" for part in range(3)] for number in numbers]

    # Rule 13: set-up.

    def test_twenty_callers_race_on_first_use(self, open_store: OpenStore) -> None:
        """Rule 13: set-up is safe when many begin at once."""
        start = threading.Barrier(20)

        def first_use(number: int) -> None:
            with open_store() as store:
                start.wait()
                store.append("s", [HumanMessage(str(number))])

        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            list(pool.map(first_use, range(20)))
        with open_store() as store:
            assert sorted(map(int, _texts(store.read("s")))) == list(range(20))

    def test_twenty_tasks_race_on_first_use(self, open_store: OpenStore) -> None:
        """Rule 13: set-up is safe when many begin at once on one event loop."""

        async def first_use(number: int) -> None:
            async with open_store() as store:
                await store.aappend("s", [HumanMessage(str(number))])

        async def main() -> None:
            # The stores are told apart only by their clients; each closes its own.
            await asyncio.gather(*(first_use(number) for number in range(20)))

        asyncio.run(main())
        with open_store() as store:
            assert sorted(map(int, _texts(store.read("s")))) == list(range(20))

    def test_setup_is_idempotent(self, store: MessageStore, face: Face) -> None:
        """Rule 13: set-up may be called at any time and keeps what is there."""
        face(store).setup()
        face(store).append("s", [HumanMessage("x")])
        face(store).setup()
        face(store).setup(upgrade=True)
        assert _texts(face(store).read("s")) == ["x"]

    # Rule 15: a restarted server.

    def test_a_restarted_server(self, open_store: OpenStore, server: Any, face: Face) -> None:
        """Rule 15: a restart costs no more than one failed call, and loses nothing."""
        if server is None:
            pytest.skip("the store has no server that the test may stop")
        with open_store() as store:
            face(store).append("s", [HumanMessage("before")])
            face(store).count("s")
            server.stop()
            try:
                with pytest.raises(StoreUnavailableError):
                    face(store).read("s")
            finally:
                server.start()
            try:
                face(store).append("s", [HumanMessage("after")])
            except StoreUnavailableError:
                face(store).append("s", [HumanMessage("after")])
            assert _texts(face(store).read("s")) == ["before", "after"]

    # Records, listing, deletion, replacement, state, codec, hook.

    def test_records(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """A record has the id that `append` returned, and the time of the append."""
        write, read = faces
        begin = codec.now()
        ids = write(store).append("s", _numbers(3))
        ids += write(store).append("s", _numbers(1))
        records = read(store).records("s")
        assert [record.id for record in records] == ids
        assert len(set(ids)) == 4
        assert all(record.at is not None and begin <= record.at <= codec.now() for record in records)
        assert len({record.position for record in records}) == 4

    def test_sessions(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """Sessions are listed with count and last time, by prefix or user, in pages."""
        self.needs(Capability.SESSIONS)
        write, read = faces
        ids = [f"team-{letter}" for letter in "abcde"] + [user_session_id("ivan", f"{n}") for n in range(3)]
        for number, session_id in enumerate(ids):
            write(store).append(session_id, _numbers(number + 1))
        if Capability.STATE in self.capabilities:
            write(store).put_state("only a state", {"a": 1})
        listed = read(store).sessions()
        assert [info.session_id for info in listed] == sorted(ids)
        last = {session_id: read(store).records(session_id, last=1)[0] for session_id in ids}
        assert listed == [SessionInfo(name, ids.index(name) + 1, last[name].at) for name in sorted(ids)]
        assert [info.session_id for info in read(store).sessions(prefix="team-")] == ids[:5]
        assert [info.session_id for info in read(store).sessions(prefix="team_")] == []
        assert [info.session_id for info in read(store).sessions(user_id="ivan")] == ids[5:]
        assert [info.session_id for info in read(store).sessions(user_id="ivan", prefix="1")] == [ids[6]]
        pages, after = [], None
        while page := read(store).sessions(prefix="team-", limit=2, after=after):
            pages.append([info.session_id for info in page])
            after = page[-1].session_id
        assert pages == [ids[0:2], ids[2:4], ids[4:5]]

    def test_delete(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """Single records are removed by id; order and the rest stay."""
        self.needs(Capability.DELETE)
        write, read = faces
        ids = write(store).append("s", _numbers(5))
        foreign = write(store).append("other", _numbers(1))
        assert write(store).delete("s", [ids[1], ids[3], "unknown", *foreign]) == 2
        assert write(store).delete("s", [ids[1]]) == 0
        assert write(store).delete("s", []) == 0
        assert _texts(read(store).read("s")) == ["0", "2", "4"]
        assert read(store).count("other") == 1
        with pytest.raises(ConfigurationError, match="list"):
            write(store).delete("s", ids[0])
        assert write(store).delete("s", [ids[0], ids[2], ids[4]]) == 3
        assert read(store).read("s") == []
        assert [info.session_id for info in read(store).sessions()] == ["other"]

    def test_replace(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """All messages are replaced at once; a refused replacement keeps the old ones; the state stays."""
        self.needs(Capability.REPLACE)
        write, read = faces
        write(store).append("s", _numbers(4))
        write(store).put_state("s", {"a": 1})
        ids = write(store).replace("s", [HumanMessage("x"), AIMessage("y")])
        assert _texts(read(store).read("s")) == ["x", "y"]
        assert [record.id for record in read(store).records("s")] == ids
        assert read(store).get_state("s") == {"a": 1}
        bad: list[Any] = [HumanMessage("z"), 5]
        with pytest.raises(InvalidMessageError):
            write(store).replace("s", bad)
        assert _texts(read(store).read("s")) == ["x", "y"]
        write(store).append("s", [HumanMessage("z")])
        assert _texts(read(store).read("s")) == ["x", "y", "z"]
        write(store).replace("s", [])
        assert read(store).read("s") == []
        write(store).replace("new", [HumanMessage("n")])
        assert _texts(read(store).read("new")) == ["n"]

    def test_readers_never_see_half_a_replacement(self, store: MessageStore) -> None:
        """A reader sees the old messages or the new ones."""
        self.needs(Capability.REPLACE)
        sizes: set[int] = set()
        done = threading.Event()
        store.append("s", _numbers(30))

        def read() -> None:
            while not done.is_set():
                sizes.add(len(store.read("s")))

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            for number in range(20):
                store.replace("s", _numbers(30 if number % 2 else 20))
            done.set()
            for reader in readers:
                reader.result()
        assert sizes <= {20, 30}

    def test_state(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """A session has one small document beside its transcript."""
        self.needs(Capability.STATE)
        write, read = faces
        assert read(store).get_state("s") is None
        state = {"summary": "Привет \x00 👍 'quoted'", "covers": 12, "at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}
        write(store).put_state("s", state)
        assert read(store).get_state("s") == state
        assert read(store).read("s") == []
        assert read(store).sessions() == []
        write(store).append("s", _numbers(1))
        write(store).put_state("s", {"big": "x" * 200_000})
        assert read(store).get_state("s") == {"big": "x" * 200_000}
        write(store).put_state("s", None)
        assert read(store).get_state("s") is None
        assert _texts(read(store).read("s")) == ["0"]

    def test_update_state(self, store: MessageStore, faces: tuple[Face, Face]) -> None:
        """A state is made, changed and removed by what is made of the one before."""
        self.needs(Capability.STATE)
        write, read = faces
        store.setup()
        before = self.traces(store)
        seen: list[dict[str, Any] | None] = []
        states: list[dict[str, Any] | None]
        states = [{"a": "Привет \x00 👍", "at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}, {"b": (1, 2)}, {}, None, None]
        for new in states:

            def change(state: dict[str, Any] | None, new: dict[str, Any] | None = new) -> dict[str, Any] | None:
                seen.append(state)
                return new

            assert write(store).update_state("s", change) == new
            assert read(store).get_state("s") == new
        assert seen == [None, *states[:-1]]
        assert self.traces(store) == before
        write(store).append("s", _numbers(1))
        assert write(store).update_state("s", _counted_up) == {"n": 1}
        assert read(store).get_state("s") == {"n": 1}
        assert _texts(read(store).read("s")) == ["0"]

    def test_update_state_belongs_to_the_caller(self, store: MessageStore, face: Face) -> None:
        """What `change` is given may be changed in place; what is returned is as it is stored, and a copy."""
        self.needs(Capability.STATE)
        face(store).put_state("s", {"notes": ["a"]})

        def add(state: dict[str, Any] | None) -> dict[str, Any]:
            assert state is not None
            state["notes"].append("b")
            return state

        face(store).update_state("s", add)["notes"].append("c")
        assert face(store).get_state("s") == {"notes": ["a", "b"]}
        described = {"lock": {"lh:type": "object", "value": "_thread.lock"}}
        assert face(store).update_state("s", lambda _: {"lock": threading.Lock()}) == described
        assert face(store).get_state("s") == described

    def test_a_change_that_changes_nothing_writes_nothing(
        self, store: MessageStore, face: Face, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An equal state is not written, and neither is one whose change or text is refused."""
        self.needs(Capability.STATE)
        face(store).put_state("s", {"n": 1})
        writes: list[str] = []
        put_state = store.operations.put_state

        async def note(client: Any, key: str, *args: Any, **options: Any) -> bool:
            writes.append(key)
            return await put_state(client, key, *args, **options)

        monkeypatch.setattr(store.operations, "put_state", note)
        assert face(store).update_state("s", dict) == {"n": 1}
        assert face(store).update_state("none", lambda state: state) is None
        for error in (ZeroDivisionError("mine"), TimeoutError("mine")):

            def fail(_: Any, error: Exception = error) -> None:
                raise error

            with pytest.raises(type(error), match=r"^mine$"):
                face(store).update_state("s", fail)
        for bad in ([1], "text", object()):
            with pytest.raises(ConfigurationError, match="state"):
                face(store).update_state("s", lambda _, bad=bad: bad)
            with pytest.raises(ConfigurationError, match="state"):
                face(store).put_state("s", bad)
        assert writes == []
        assert face(store).get_state("s") == {"n": 1}
        face(store).update_state("s", _counted_up)
        assert writes == ["s"]

    @pytest.mark.parametrize(
        ("start", "then", "ours"),
        [
            (None, "put_state", {"ours": 1}),
            ({"theirs": 1}, "put_state", {"ours": 1}),
            ({"theirs": 1}, "put_state", None),
            ({"theirs": 1}, "remove", {"ours": 1}),
            ({"theirs": 1}, "clear", {"ours": 1}),
            ({"theirs": 1}, "clear", None),
        ],
    )
    def test_somebody_else_was_faster(
        self,
        open_store: OpenStore,
        face: Face,
        start: dict[str, Any] | None,
        then: str,
        ours: dict[str, Any] | None,
    ) -> None:
        """The change is made again from what the other left, so both are kept; also where the other left nothing."""
        self.needs(Capability.STATE)
        theirs = {"theirs": 2} if then == "put_state" else None
        seen: list[dict[str, Any] | None] = []
        with open_store() as store, open_store() as other:

            def change(state: dict[str, Any] | None) -> dict[str, Any] | None:
                seen.append(state)
                assert len(seen) < 3
                if len(seen) == 1 and then == "clear":
                    other.clear("s")
                elif len(seen) == 1:
                    other.put_state("s", theirs)
                return None if ours is None else {**(state or {}), **ours}

            face(store).append("s", _numbers(1))
            face(store).put_state("s", start)
            expected = None if ours is None else {**(theirs or {}), **ours}
            assert face(store).update_state("s", change) == expected
            assert seen == [start, theirs]
            assert face(store).get_state("s") == expected
            assert face(store).count("s") == (0 if then == "clear" else 1)

    def test_nobodys_change_of_the_state_is_lost(self, open_store: OpenStore) -> None:
        """Eight threads, twenty tasks and four processes count together."""
        self.needs(Capability.STATE)
        with open_store() as store:

            def count(_: int) -> None:
                for _ in range(10):
                    store.update_state("threads", _counted_up)

            async def main() -> None:
                changes = (store.aupdate_state("tasks", lambda state: _counted_up(state, 10)) for _ in range(20))
                await asyncio.gather(*changes)

            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                list(pool.map(count, range(8)))
            asyncio.run(main())
            assert store.get_state("threads") == {"n": 80}
            assert store.get_state("tasks") == {"n": 200}

    def test_four_processes_change_one_state(self, open_store: OpenStore) -> None:
        """No process overwrites what another one has put into the state."""
        self.needs(Capability.STATE | Capability.MANY_PROCESSES)
        with _processes(4) as pool:
            for future in [pool.submit(_count_up, open_store, "s", 50) for _ in range(4)]:
                future.result()
        with open_store() as store:
            assert store.get_state("s") == {"n": 200}

    def test_codec(self, open_store: OpenStore, face: Face) -> None:
        """A codec sees every text on its way to the store, and without it nothing is readable."""
        with open_store() as plain, open_store(codec=_ShoutingCodec()) as coded:
            face(plain).append("s", [HumanMessage("in the clear")])
            face(coded).append("s", golden_messages())
            assert _comparable(face(coded).read("s", last=3)[0]) == _comparable(golden_messages()[-3])
            assert _texts(face(coded).read("s"))[:2] == ["in the clear", "plain"]
            assert len(face(coded).records("s", last=1)[0].id) == 32
            with pytest.raises(CorruptRecordError, match="codec"):
                face(plain).read("s")

    def test_codec_of_a_state(self, open_store: OpenStore, face: Face) -> None:
        """A codec sees the state too."""
        self.needs(Capability.STATE)
        with open_store() as plain, open_store(codec=_ShoutingCodec()) as coded:
            face(coded).put_state("s", {"summary": "hidden"})
            summaries = iter([{"summary": "hidden words"}])  # asked for once
            assert face(coded).update_state("s", lambda _: next(summaries)) == {"summary": "hidden words"}
            assert face(coded).get_state("s") == {"summary": "hidden words"}
            with pytest.raises(CorruptRecordError, match="codec"):
                face(plain).get_state("s")

    def test_before_save(self, open_store: OpenStore, face: Face) -> None:
        """The hook changes or drops messages; when it raises nothing is stored."""

        def redact(message: BaseMessage) -> BaseMessage | None:
            if message.content == "fail":
                raise ZeroDivisionError
            if message.content == "drop":
                return None
            return message.model_copy(update={"content": str(message.content).replace("4111", "****")})

        with open_store(before_save=redact) as store:
            original = HumanMessage("card 4111")
            assert len(face(store).append("s", [original, HumanMessage("drop")])) == 1
            assert original.content == "card 4111"
            with pytest.raises(ZeroDivisionError):
                face(store).append("s", [HumanMessage("one"), HumanMessage("fail")])
            assert face(store).append("s", [HumanMessage("drop")]) == []
            assert _texts(face(store).read("s")) == ["card ****"]

    # LangChain's interface.

    def test_history(self, store: MessageStore) -> None:
        """A history is LangChain's interface of one session, in both faces."""
        history = store.history("s")
        history.add_user_message("hi")
        history.add_ai_message("hello")
        history.add_message(SystemMessage("be brief"))
        history.add_messages(_numbers(2))

        async def use() -> list[BaseMessage]:
            await history.aadd_messages([HumanMessage("async")])
            return await history.aget_messages()

        assert [*history.messages, HumanMessage("async")] == asyncio.run(use())
        assert _texts(history.get_messages(last=2)) == ["1", "async"]
        assert _texts(store.history("s", last=1).messages) == ["async"]
        assert str(history).startswith("Human: hi\nAI: hello\nSystem: be brief\n")
        assert "'s'" in repr(history)
        history.clear()
        assert history.messages == []
        store.history(uuid.UUID(int=5)).add_user_message("by uuid")
        store.history(42).add_user_message("by int")
        assert store.count(str(uuid.UUID(int=5))) == store.count("42") == 1
        asyncio.run(store.history(42).aclear())
        assert store.history("42").messages == []

    def test_two_turns_at_once(self, store: MessageStore) -> None:
        """Two turns at once under RunnableWithMessageHistory leave four messages, questions beside answers."""
        history_module = pytest.importorskip(
            "langchain_core.runnables.history", reason="this langchain-core has no RunnableWithMessageHistory"
        )
        from langchain_core.runnables import RunnableLambda

        async def answer(messages: list[BaseMessage]) -> AIMessage:
            await asyncio.sleep(0.02)
            return AIMessage(f"re: {messages[-1].content}")

        chat = history_module.RunnableWithMessageHistory(
            RunnableLambda(lambda messages: AIMessage(f"re: {messages[-1].content}"), afunc=answer),
            lambda session_id: TurnChatMessageHistory(store, session_id),
        )

        def config(session_id: str) -> dict[str, Any]:
            return {"configurable": {"session_id": session_id}}

        async def turns() -> None:
            asked = [chat.ainvoke([HumanMessage(f"q{number}")], config("async")) for number in range(2)]
            await asyncio.gather(*asked)

        asyncio.run(turns())
        chat.batch([[HumanMessage("q0")], [HumanMessage("q1")]], [config("sync")] * 2)
        for session_id in ("async", "sync"):
            stored = _texts(store.read(session_id))
            assert sorted(stored) == ["q0", "q1", "re: q0", "re: q1"]
            assert [f"re: {text}" for text in stored[::2]] == stored[1::2]

    def test_errors_are_of_one_tree(self, store: MessageStore, face: Face) -> None:
        """Everything that a store raises of its own is a HistoryError."""
        with pytest.raises(HistoryError):
            face(store).append("", [])
        with pytest.raises(HistoryError):
            face(store).append("s", [object()])
        with pytest.raises(HistoryError):
            face(store).read("s", last=-1)
