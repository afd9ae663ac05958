"""What a list of conversations costs: the newest sessions of many, as a markdown table.

    python benchmarks/listing.py [--sessions 100000] [--rounds 40]

Median milliseconds of one page of 20, the longest of the rounds behind it. Beside it are the same rows or keys by the
bare driver, read by what the store itself sends or by one that knows them already, in turns in one run: no message is
decoded there. The goal is 10 ms.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import psycopg  # noqa: E402  # behind the path
import redis  # noqa: E402
import servers  # noqa: E402
from scale import turn  # noqa: E402

from langchain_histories import RedisStore, SQLStore, user_session_id  # noqa: E402
from langchain_histories.stores.shared.redis_lists import state_name  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_histories import MessageStore

PAGE, USERS, MESSAGES = 20, 1000, 4
_WALK = """SELECT r.id, r.session_id, r.message FROM message_store r WHERE r.id =
(SELECT max(o.id) FROM message_store o WHERE o.session_id = r.session_id) ORDER BY r.id DESC LIMIT 20"""


def rows(count: int) -> Iterator[tuple[str, list[str]]]:
    """Sessions with the texts of their records."""
    texts = SQLStore("sqlite://").format.encode([*turn(0), *turn(1)])[1]
    for number in range(count):
        yield user_session_id(str(number % USERS), str(number)), texts[:MESSAGES]


def fill_sql(connection: Any, mark: str, count: int) -> None:
    """Store the rows without this package, which takes a transaction for each session."""
    statement = "INSERT INTO message_store (session_id, message) VALUES (?, ?)".replace("?", mark)
    cursor = connection.cursor()
    cursor.executemany(statement, ((session_id, text) for session_id, texts in rows(count) for text in texts))
    connection.commit()


def fill_redis(client: redis.Redis, store: RedisStore, count: int) -> None:
    """Store the lists and their index."""
    (index, names), prefix = store.operations.index_names, store.operations.key_prefix
    pipeline = client.pipeline(transaction=False)
    for number, (session_id, texts) in enumerate(rows(count)):
        pipeline.lpush(prefix + session_id, *texts)
        pipeline.zadd(index, {prefix + session_id: number + 1}).zadd(names, {prefix + session_id: 0})
        if number % 1000 == 0:
            pipeline.execute()
    pipeline.execute()


def bare_redis(client: redis.Redis, store: RedisStore) -> Callable[[], object]:
    """The same commands by the driver."""

    def page() -> object:
        names = client.zrevrange(store.operations.index_names[0], 0, PAGE - 1)
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.llen(name).lindex(name, -1).lindex(name, 0).get(state_name(name.decode()))
        return pipeline.execute()

    return page


def stores(folder: str, count: int) -> Iterator[tuple[str, MessageStore, Callable[[], object]]]:
    """Each store with what the bare driver does."""
    path = f"{folder}/histories.db"
    with SQLStore(f"sqlite:///{path}") as store, sqlite3.connect(path) as connection:
        store.setup()
        fill_sql(connection, "?", count)
        yield "SQLite", store, lambda: connection.execute(_WALK).fetchall()
    with servers.postgres() as server, SQLStore(server.url) as store:
        store.setup()
        with psycopg.connect(server.url.replace("postgresql+psycopg", "postgresql"), autocommit=False) as connection:
            fill_sql(connection, "%s", count)
            connection.commit()
            connection.autocommit = True
            connection.execute("ANALYZE message_store")
            yield server.version, store, lambda: connection.execute(_WALK).fetchall()
    with (
        servers.redis() as server,
        RedisStore(server.url) as store,
        redis.Redis.from_url(server.url) as client,
    ):
        fill_redis(client, store, count)
        yield server.version, store, bare_redis(client, store)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    print(
        f"\n{dt.datetime.now(dt.UTC).date()}, {given.sessions:,} sessions of {MESSAGES} messages of {USERS:,} users\n"
    )
    names = ["the newest 20", "the next 20", "the newest 20 of a user", "one `describe`", "the bare driver, no titles"]
    print(f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, store, bare in stores(folder, given.sessions):
            position = store.sessions(order="newest", first=PAGE)[-1].position
            works: list[Callable[[], object]] = [
                lambda store=store: store.sessions(order="newest", first=PAGE),
                lambda store=store, position=position: store.sessions(order="newest", first=PAGE, after=position),
                lambda store=store: store.sessions(order="newest", first=PAGE, user_id="7"),
                lambda store=store: store.describe(user_session_id("7", "7"), title=f"{time.monotonic()}"),
                bare,
            ]
            took: list[list[float]] = [[] for _ in works]
            for _ in range(given.rounds):
                for work, times in zip(works, took, strict=True):
                    begun = time.perf_counter()
                    work()
                    times.append(1000 * (time.perf_counter() - begun))
            cells = [f"{statistics.median(times):.1f} ({max(times):.0f})" for times in took]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
