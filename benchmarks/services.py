"""How calls fare where the service is far away, has cut connections, was restarted, or hangs, as a markdown table.

    python benchmarks/services.py [--only redis,postgres,mariadb,dynamodb] [--rounds 3]

A proxy in a process of its own stands between the programs and each server; it delays what is sent by 25 ms each way.

* 500 sessions have a turn (a read, an append of two messages) at once on one event loop: by our store, by the bare
  driver in the requests of this package with as large a pool (100; 30 on SQL, whose servers have a hundred, there under
  SQLAlchemy), and by LangChain's class; a round each, in turns, the median of rounds. A class that runs in threads has
  50 sessions.
* The first call after all connections were cut, and after the server was away and accepts connections again.
* The time until a server that hangs is told, with `timeout=2`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import boto3  # noqa: E402  # behind the path
import redis.asyncio  # noqa: E402  # behind the path
import servers  # noqa: E402
import sqlalchemy as sa  # noqa: E402
from aiobotocore.config import AioConfig  # noqa: E402
from aiobotocore.session import get_session  # noqa: E402
from contenders import DynamoDB as DynamoDBByHand  # noqa: E402
from contenders import by_hand, community, messages_of  # noqa: E402
from run import TURN, duration, worst_lag  # noqa: E402
from sqlalchemy.ext.asyncio import create_async_engine  # noqa: E402

from langchain_histories import DynamoDBStore, RedisStore, SQLStore, StoreUnavailableError  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SESSIONS = 500
DELAY = 0.025
TIMEOUT = 2.0
_PATIENCE = 60  # seconds that a call waits in a burst: an emulator of a service is slow
_PROXY = """
import sys
sys.path.insert(0, sys.argv[1])
from servers._proxy import Proxy
with Proxy(int(sys.argv[2])) as proxy:
    print(proxy.port, flush=True)
    for line in sys.stdin:
        name, _, value = line.strip().partition(" ")
        if value:
            setattr(proxy, name, float(value))
        else:
            getattr(proxy, name)()
        print("done", flush=True)
"""


class Proxy:
    """A proxy before a server, in a process of its own, because it would keep the event loops here waiting."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = int(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def tell(self, what: str) -> None:
        """Call a method, or set an attribute: `name value`."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        self._answer()


@contextmanager
def proxy_before(port: int) -> Iterator[Proxy]:
    command = [sys.executable, "-c", _PROXY, str(ROOT / "tests"), str(port)]
    with subprocess.Popen(  # noqa: S603  # our own program
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Proxy(process)
        assert process.stdin is not None
        process.stdin.close()


class Service(ABC):
    """One service behind the proxy."""

    name: ClassVar[str]
    pool: ClassVar[int] = 100
    """Connections that each side has at most."""
    their_sessions: ClassVar[int] = SESSIONS
    """Sessions that LangChain's class has at once."""

    def __init__(self, server: Any, port: int) -> None:
        self.server, self.port = server, port

    @abstractmethod
    def store(self, **options: Any) -> Any:
        """Our store."""

    @abstractmethod
    async def open(self, stack: AsyncExitStack) -> None:
        """Open the bare driver, and what LangChain's class needs."""

    @abstractmethod
    async def floor(self, session: str, texts: list[str]) -> list[Any]:
        """Read a session and append to it by the bare driver, in the statements of this package; return the texts."""

    @abstractmethod
    def theirs(self, session: str) -> Any:
        """LangChain's history."""


class Redis(Service):
    name = "Redis"
    their_sessions = 50

    def store(self, **options: Any) -> Any:
        return RedisStore(self.server.url_with(port=self.port), **options)

    async def open(self, stack: AsyncExitStack) -> None:
        url = self.server.url_with(port=self.port)
        pool = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=self.pool, timeout=_PATIENCE)
        self.client = await stack.enter_async_context(redis.asyncio.Redis.from_pool(pool))

    async def floor(self, session: str, texts: list[str]) -> list[Any]:
        found = await self.client.lrange(f"message_store:{session}", 0, -1)
        await self.client.lpush(f"message_store:{session}", *texts)
        return list(found[::-1])

    def theirs(self, session: str) -> Any:
        return community.RedisChatMessageHistory(session, url=self.server.url_with(port=self.port))


class _SQL(Service):
    scheme: str
    their_scheme: str
    pool = 30  # the server has a hundred
    read = "SELECT id, message FROM ours WHERE session_id = :s ORDER BY id"
    write: str

    def store(self, **options: Any) -> Any:
        return SQLStore(self.server.url_with(port=self.port, scheme=self.scheme), table_name="ours", **options)

    async def open(self, stack: AsyncExitStack) -> None:
        url = self.server.url_with(port=self.port, scheme=self.their_scheme)
        options = {"pool_size": self.pool, "max_overflow": 0, "pool_timeout": _PATIENCE}
        self.bare = create_async_engine(url, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True, **options)
        self.engine = create_async_engine(url, **options)
        for engine in (self.bare, self.engine):
            stack.push_async_callback(engine.dispose)
        async with self.engine.begin() as connection:
            await connection.run_sync(self.their_table)

    def their_table(self, connection: Any) -> None:
        columns = [sa.Column("session_id", sa.Text()), sa.Column("message", sa.Text())]
        table = sa.Table("theirs", sa.MetaData(), sa.Column("id", sa.Integer(), primary_key=True), *columns)
        table.create(connection, checkfirst=True)

    async def floor(self, session: str, texts: list[str]) -> list[Any]:
        async with self.bare.connect() as connection:
            found = (await connection.execute(sa.text(self.read), {"s": session})).all()
        async with self.bare.connect() as connection:
            await connection.execute(sa.text(self.write), {"s": session, "lock": f"bare {session}", **_named(texts)})
        return [text for _, text in found]

    def theirs(self, session: str) -> Any:
        return community.SQLChatMessageHistory(session, table_name="theirs", connection=self.engine)


def _named(texts: list[str]) -> dict[str, str]:
    return {f"m{number}": text for number, text in enumerate(texts)}


class PostgreSQL(_SQL):
    name, scheme, their_scheme = "PostgreSQL", "postgresql+psycopg", "postgresql+psycopg"
    write = """
        WITH l AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended(CAST(:lock AS text), 0)))
        INSERT INTO ours (session_id, message) SELECT CAST(:s AS text), u.m
        FROM l CROSS JOIN unnest(ARRAY[CAST(:m0 AS text), CAST(:m1 AS text)]) WITH ORDINALITY AS u(m, o) ORDER BY u.o"""


class MariaDB(_SQL):
    name, scheme, their_scheme = "MariaDB", "mariadb+pymysql", "mysql+asyncmy"
    write = """
        BEGIN NOT ATOMIC
          DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; DO RELEASE_LOCK(:lock); RESIGNAL; END;
          IF GET_LOCK(:lock, 60) IS NOT TRUE THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'lock timeout'; END IF;
          INSERT INTO ours (session_id, message) VALUES (:s, :m0), (:s, :m1);
          COMMIT; DO RELEASE_LOCK(:lock);
        END"""


class DynamoDB(Service):
    name = "DynamoDB Local"
    their_sessions = 50
    _LOGIN: ClassVar = {
        "region_name": "eu-west-1",
        "aws_access_key_id": "benchmark",
        "aws_secret_access_key": "benchmark",
    }

    @property
    def _options(self) -> dict[str, Any]:
        return {**self._LOGIN, "endpoint_url": self.server.url_with(port=self.port)}

    def store(self, **options: Any) -> Any:
        return DynamoDBStore("dynamodb:///ours", client_options=self._options, create_table=True, **options)

    async def open(self, stack: AsyncExitStack) -> None:
        config = AioConfig(max_pool_connections=self.pool)
        client = get_session().create_client("dynamodb", config=config, **self._options)
        self.client = await stack.enter_async_context(client)
        self.session = boto3.Session(**self._LOGIN)
        await self.client.create_table(
            TableName="theirs",
            AttributeDefinitions=[{"AttributeName": "SessionId", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "SessionId", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        # The bare driver finds the heads of its sessions.
        async with self.store(timeout=_PATIENCE) as store:
            await asyncio.gather(*(store.aappend(f"bare {one}", TURN) for one in range(SESSIONS)))

    async def floor(self, session: str, texts: list[str]) -> list[Any]:
        head, query = DynamoDBByHand.reading(session)
        epoch = json.loads((await self.client.get_item(**head))["Item"]["Message"]["S"])["epoch"]
        found = await self.client.query(**query(epoch))
        statements = DynamoDBByHand.statements(self.client, session, texts)
        await statements.send(await next(statements))
        return [item["Message"]["S"] for item in found["Items"]]

    def theirs(self, session: str) -> Any:
        url = self._options["endpoint_url"]
        return community.DynamoDBChatMessageHistory("theirs", session, endpoint_url=url, boto3_session=self.session)


SERVICES: dict[str, type[Service]] = {
    "redis": Redis,
    "postgres": PostgreSQL,
    "mariadb": MariaDB,
    "dynamodb": DynamoDB,
}


async def bursts(service: Service, proxy: Proxy, rounds: int) -> None:
    """Let many sessions have a turn at once."""
    texts = by_hand(TURN)

    async def our_turn(store: Any, session: str) -> None:
        await store.aread(session)
        await store.aappend(session, TURN)

    async def bare_turn(_: Any, session: str) -> None:
        messages_of(await service.floor(session, texts))

    async def their_turn(_: Any, session: str) -> None:
        history = service.theirs(session)
        await history.aget_messages()
        await history.aadd_messages(TURN)

    sides: dict[str, Callable[[Any, str], Any]] = {"ours": our_turn, "bare": bare_turn, "theirs": their_turn}
    times: dict[str, list[float]] = {name: [] for name in sides}
    gaps: dict[str, list[float]] = {name: [] for name in sides}
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(service.store(max_connections=service.pool, timeout=_PATIENCE))
        await store.asetup()
        await service.open(stack)
        gc.collect()
        gc.freeze()
        for _ in range(rounds + 1):
            for name in random.sample(list(sides), len(sides)):
                # The first round opens the connections.
                number = service.their_sessions if name == "theirs" else SESSIONS
                sessions = [f"{name} {one}" for one in range(number)]
                proxy.tell(f"delay {DELAY}")
                began = time.perf_counter()
                gaps[name].append(await worst_lag(asyncio.gather(*(sides[name](store, one) for one in sessions))))
                times[name].append(time.perf_counter() - began)
                proxy.tell("delay 0")
        gc.unfreeze()
    middle = {name: statistics.median(values[1:]) for name, values in times.items()}
    gap = {name: statistics.median(values[1:]) for name, values in gaps.items()}
    by_bare = middle["ours"] / middle["bare"]
    by_ours = middle["theirs"] / service.their_sessions * SESSIONS / middle["ours"]
    cells = [*(duration(middle[name]) for name in sides), f"{by_bare:.2f}", f"{by_ours:.1f}"]
    if service.their_sessions != SESSIONS:
        cells[2] += f" for {service.their_sessions}"
    met = "yes" if by_bare <= 1.3 else "**no**"  # noqa: PLR2004
    work = f"{SESSIONS} sessions at once, pool of {service.pool}"
    print(f"| {work} | {service.name} | {' | '.join(cells)} | ≤ 1.3 × bare | {met} |", flush=True)
    met = "yes" if gap["ours"] <= 0.020 else "**no**"  # noqa: PLR2004
    cells = [*(duration(gap[name]) for name in sides), "", ""]
    print(f"| longest gap of the loop then | {service.name} | {' | '.join(cells)} | ≤ 20 ms | {met} |", flush=True)


def first_calls(service: Service, proxy: Proxy) -> None:
    """Call once after connections were cut, and after the server was away; and while it hangs."""

    def away() -> None:
        proxy.tell("refuse")
        proxy.tell("cut")
        proxy.tell("listen")

    for is_async in (False, True):
        with asyncio.Runner() as runner:
            store = service.store(timeout=TIMEOUT)
            face = "async" if is_async else "sync"

            def call(
                name: str, *args: Any, is_async: bool = is_async, runner: Any = runner, store: Any = store
            ) -> tuple[float, str]:
                began = time.perf_counter()
                try:
                    if is_async:
                        runner.run(getattr(store, f"a{name}")(*args))
                    else:
                        getattr(store, name)(*args)
                except StoreUnavailableError:
                    return time.perf_counter() - began, "StoreUnavailableError"
                return time.perf_counter() - began, "done"

            call("append", "first", TURN)
            for what, happens in (("a cut", lambda: proxy.tell("cut")), ("a restart", away)):
                for name, args in (("read", ("first",)), ("append", ("first", TURN))):
                    call("read", "first")
                    happens()
                    runner.run(asyncio.sleep(0.05))
                    took, outcome = call(name, *args)
                    row(f"first {name} after {what}, {face}", service, took, outcome)
            call("read", "first")
            proxy.tell("swallow_requests 1")
            row(f"a server that hangs is told, {face}, timeout={TIMEOUT:g}", service, *call("count", "first"))
            proxy.tell("swallow_requests 0")
            if is_async:
                runner.run(store.aclose())
            else:
                store.close()


def row(work: str, service: Service, took: float, outcome: str) -> None:
    print(f"| {work} | {service.name} | {duration(took)}: {outcome} | | | | | | |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help=f"some of {','.join(SERVICES)}", default=",".join(SERVICES))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    random.seed(1)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| work | service | ours | bare driver | LangChain's | ours ÷ bare | LangChain's ÷ ours | goal | met |")
    print("|---" * 9 + "|", flush=True)
    for name in options.only.split(","):
        start = getattr(servers, name)
        try:
            with start() as server, proxy_before(server.port) as proxy:
                service = SERVICES[name](server, proxy.port)
                asyncio.run(bursts(service, proxy, options.rounds))
                first_calls(service, proxy)
        except servers.ServerUnavailable as error:
            print(f"| all | {name} | left out: {error} | | | | | | |")


if __name__ == "__main__":
    main()
