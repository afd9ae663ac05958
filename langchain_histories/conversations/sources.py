"""Conversations that other programs keep in shapes of their own, to be added to a store.

| what keeps them | how they come here |
|---|---|
| langchain-redis: a RedisJSON document for each message | `import_langchain_redis` |
| OpenAI Agents SDK: `SQLiteSession` and `SQLAlchemySession` | `import_openai_agents` |
| LangChain's other classes, langchain-postgres' among them | stores read their data in place, and `copy` takes it |
| LangGraph's checkpoints | `langchain_histories.integrations.langgraph.import_thread` |

The source is only read. A record has an id that is made of what is in the source, so an import may be made again, and
adds what came since. It goes on after it was stopped, and compares what arrived, as `copy` does.
"""

from __future__ import annotations

import datetime as dt
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from langchain_histories._neutral import drive, entered, settle
from langchain_histories._plain import derived_id
from langchain_histories._values import from_json, to_json
from langchain_histories.codec import VERSION, Record, RecordFormat, Row
from langchain_histories.conversations._openai import messages_of
from langchain_histories.conversations._reading import PAGE, Awaited, Blocking, given_ids
from langchain_histories.conversations.copying import Copying, CopyReport
from langchain_histories.errors import ConfigurationError, InvalidMessageError, needs_extra
from langchain_histories.stores.redis import RedisStore
from langchain_histories.stores.sql import SQLStore

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence

    import sqlalchemy as sa

    from langchain_histories._session_ids import SessionId
    from langchain_histories.conversations.copying import CopyProgress
    from langchain_histories.store import MessageStore

_PLAIN = RecordFormat()
_ULID = 26


def import_openai_agents(
    source: str | os.PathLike[str] | sa.URL | SQLStore,
    store: MessageStore,
    *,
    sessions: Iterable[SessionId] | None = None,
    messages_table: str = "agent_messages",
    on_corrupt: Literal["raise", "skip"] = "raise",
    on_progress: Callable[[CopyProgress], object] | None = None,
) -> CopyReport:
    """Add the sessions of OpenAI's Agents SDK to a store: those of its `SQLiteSession` and its `SQLAlchemySession`.

    The items of a step of the model (what it thought, said and called) become one message, with the time of the first.
    Items that are no text, such as reasoning and calls of OpenAI's own tools, stay in its content as they are.

    Args:
        source: The database: a URL or a path as `SQLStore` takes it, or an `SQLStore` for the place.
        store: Where the conversations go.
        sessions: The ids of sessions; all of the table if not given.
        messages_table: The SDK's table of messages.
        on_corrupt: What to do about an item that is no message: raise, or list it in the report and leave it out.
        on_progress: Called after each session.

    Raises:
        ConfigurationError: There is no such table.
        HistoryError: As `copy`.
    """
    face = Blocking()
    with opened(SQLStore, source) as place:
        agents = _Agents(place, messages_table, face)
        return drive(Copying(agents, store, on_corrupt, on_progress, face).copy(sessions))


async def aimport_openai_agents(
    source: str | os.PathLike[str] | sa.URL | SQLStore,
    store: MessageStore,
    *,
    sessions: Iterable[SessionId] | None = None,
    messages_table: str = "agent_messages",
    on_corrupt: Literal["raise", "skip"] = "raise",
    on_progress: Callable[[CopyProgress], object] | None = None,
) -> CopyReport:
    """Async `import_openai_agents`."""
    face = Awaited()
    async with aopened(SQLStore, source) as place:
        agents = _Agents(place, messages_table, face)
        return await Copying(agents, store, on_corrupt, on_progress, face).copy(sessions)


def import_langchain_redis(
    source: str | RedisStore,
    store: MessageStore,
    *,
    sessions: Iterable[SessionId] | None = None,
    key_prefix: str = "chat:",
    on_corrupt: Literal["raise", "skip"] = "raise",
    on_progress: Callable[[CopyProgress], object] | None = None,
) -> CopyReport:
    """Add the conversations of langchain-redis' `RedisChatMessageHistory` to a store, in the order of their times.

    Its documents are found by their keys and read by `JSON.GET`; its index is not needed. All keys with the prefix, and
    the messages of one session, are in memory at once.

    Args:
        source: The server: a URL as `RedisStore` takes it, or a `RedisStore` for the place.
        store: Where the conversations go.
        sessions: The ids of sessions; all that have keys with the prefix if not given.
        key_prefix: The `key_prefix` of langchain-redis.
        on_corrupt: What to do about a document that is no message: raise, or list it in the report and leave it out.
        on_progress: Called after each session.

    Raises:
        HistoryError: As `copy`.
    """
    face = Blocking()
    with opened(RedisStore, source) as place:
        documents = _Documents(place, key_prefix, face)
        return drive(Copying(documents, store, on_corrupt, on_progress, face).copy(sessions))


async def aimport_langchain_redis(
    source: str | RedisStore,
    store: MessageStore,
    *,
    sessions: Iterable[SessionId] | None = None,
    key_prefix: str = "chat:",
    on_corrupt: Literal["raise", "skip"] = "raise",
    on_progress: Callable[[CopyProgress], object] | None = None,
) -> CopyReport:
    """Async `import_langchain_redis`."""
    face = Awaited()
    async with aopened(RedisStore, source) as place:
        documents = _Documents(place, key_prefix, face)
        return await Copying(documents, store, on_corrupt, on_progress, face).copy(sessions)


@contextmanager
def opened(kind: type[Any], source: Any) -> Generator[Any]:
    """Give a store for the place, which is closed behind it unless it is the caller's."""
    place = source if isinstance(source, kind) else kind(source)
    try:
        yield place
    finally:
        if place is not source:
            place.close()


@asynccontextmanager
async def aopened(kind: type[Any], source: Any) -> AsyncGenerator[Any]:
    """Async `opened`."""
    place = source if isinstance(source, kind) else kind(source)
    try:
        yield place
    finally:
        if place is not source:
            await place.aclose()


class Foreign:
    """What another program keeps, as what is copied."""

    format = _PLAIN

    async def state(self, session_id: SessionId) -> None:
        """Return that there is no state."""


class _Agents(Foreign):
    """The sessions of OpenAI's Agents SDK."""

    def __init__(self, place: SQLStore, messages_table: str, face: Blocking | Awaited) -> None:
        with needs_extra("sql"):
            import sqlalchemy as sa
        self._sa, self._place, self._face = sa, place, face
        columns: list[Any] = [sa.column(name) for name in ("id", "session_id", "message_data", "created_at")]
        self._table = sa.table(messages_table, *columns, schema=place.schema)

    async def session_ids(self, given: Iterable[SessionId] | None) -> AsyncGenerator[SessionId]:
        """Walk the ids that are given, or those of the table."""
        await self._check()
        if given is not None:
            for session_id in given_ids(given):
                yield session_id
            return
        sessions = self._table.c.session_id
        for (session_id,) in await self._rows(self._sa.select(sessions).distinct().order_by(sessions)):
            yield session_id

    async def whole_pages(self, session_id: SessionId) -> AsyncGenerator[dict[str, Row]]:
        """Walk what the items of the session are as records."""
        table = self._table.c
        asked = self._sa.select(table.id, table.message_data, table.created_at).order_by(table.id).limit(PAGE)
        asked = asked.where(table.session_id == str(session_id))
        found: list[Any] = []
        more = await self._rows(asked)
        while more:
            found += more
            more = await self._rows(asked.where(table.id > found[-1][0])) if len(more) == PAGE else []
            rows, count = _of_items(found, is_end=not more)
            del found[:count]
            yield rows

    async def _check(self) -> None:
        """Refuse a database without the table.

        Raises:
            ConfigurationError: It is not there.
        """
        from langchain_histories.stores.sql.engines import EngineUse

        name, schema = self._table.name, self._table.schema
        operations: Any = self._place.operations

        async def body(client: Any) -> bool:
            use = EngineUse.of(client)
            if use.lacks_file():
                return False
            async with entered(use.connection()) as connection:
                there: bool = await operations.in_sync(
                    connection, lambda sync: self._sa.inspect(sync).has_table(name, schema)
                )
                return there

        if not await self._face.run_foreign(self._place, body, bool):
            raise ConfigurationError(f"{self._place!r} has no table {name!r}, in which the Agents SDK keeps messages.")

    async def _rows(self, query: Any) -> Sequence[Any]:
        from langchain_histories.stores.sql.engines import EngineUse

        async def body(client: Any) -> Sequence[Any]:
            async with entered(EngineUse.of(client).connection()) as connection:
                found: Sequence[Any] = (await settle(connection.execute(query))).all()
                return found

        rows: Sequence[Any] = await self._face.run_foreign(self._place, body, list)
        return rows


def _of_items(found: Sequence[Any], *, is_end: bool) -> tuple[dict[str, Row], int]:
    """Return the records of items, and how many items they are: without the last step, unless it is the end."""
    items = [_item(text) for _, text, _ in found]
    steps = list(messages_of(items))
    if not is_end:
        steps.pop()
    rows: dict[str, Row] = {}
    for at, count, message in steps:
        step = found[at : at + count]
        record_id, position = derived_id([[item[0], item[1]] for item in step]), str(step[0][0])
        texts: Sequence[str] = []
        if message is not None:
            try:
                _, texts = _PLAIN.encode_records([Record(message, "", record_id, _time(step[0][2]))])
            except InvalidMessageError:
                texts = []
        # What is no message is refused by the copy, in its own words.
        rows[record_id] = Row(texts[0] if texts else "\n".join(str(item[1]) for item in step), position)
    return rows, sum(count for _, count, _ in steps)


def _item(text: Any) -> dict[str, Any]:
    try:
        item = from_json(text)
    except (ValueError, TypeError):
        return {}
    return item if isinstance(item, dict) else {}


def _time(at: Any) -> dt.datetime | None:
    """Return the time of a row, which databases give in UTC without saying so."""
    try:
        time = dt.datetime.fromisoformat(at) if isinstance(at, str) else at
        return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)
    except (ValueError, AttributeError):
        return None


class _Documents(Foreign):
    """The documents of langchain-redis: `<prefix><session id>:<ULID>`."""

    def __init__(self, place: RedisStore, key_prefix: str, face: Blocking | Awaited) -> None:
        self._place, self._prefix, self._face = place, key_prefix, face
        self._keys: dict[str, list[str]] = {}

    async def session_ids(self, given: Iterable[SessionId] | None) -> AsyncGenerator[SessionId]:
        """Walk the ids that are given, or those of the documents."""
        operations: Any = self._place.operations

        async def body(client: Any) -> set[str]:
            names: set[str] = await operations.names(client, self._prefix, "ReJSON-RL")
            return names

        for name in sorted(await self._face.run_foreign(self._place, body, set)):
            session_id, colon, number = name.removeprefix(self._prefix).rpartition(":")
            if colon and len(number) == _ULID:
                self._keys.setdefault(session_id, []).append(name)
        for session_id in sorted(self._keys) if given is None else given_ids(given):
            yield session_id

    async def whole_pages(self, session_id: SessionId) -> AsyncGenerator[dict[str, Row]]:
        """Walk the documents of the session as records."""
        found: list[tuple[float, str, Row]] = []
        names = self._keys.get(str(session_id), [])
        for start in range(0, len(names), PAGE):
            page = names[start : start + PAGE]
            for name, text in zip(page, await self._texts(page), strict=True):
                if text is not None:  # it may have expired since it was listed
                    found.append(_of_document(name, text))
        found.sort(key=lambda document: document[:2])
        for start in range(0, len(found), PAGE):
            yield {derived_id([name]): row for _, name, row in found[start : start + PAGE]}

    async def _texts(self, names: Sequence[str]) -> list[Any]:
        operations: Any = self._place.operations

        async def body(client: Any) -> list[Any]:
            texts: list[Any] = await operations.answers(client, [("JSON.GET", name) for name in names])
            return texts

        texts: list[Any] = await self._face.run_foreign(self._place, body, list)
        return texts


def _of_document(name: str, text: str | bytes) -> tuple[float, str, Row]:
    """Return the time of a document, its key and its record."""
    try:
        document = from_json(text)
        at = float(document["timestamp"])
        meta = {
            "v": VERSION,
            "id": derived_id([name]),
            "at": f"{dt.datetime.fromtimestamp(at, dt.UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        }
        record = to_json({"type": document["type"], "data": document["data"], "meta": meta})
    except Exception:  # noqa: BLE001  # what is stored may be anything, and is refused by the copy, in its own words
        return 0, name, Row(text, name)
    return at, name, Row(record, name)
