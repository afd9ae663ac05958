"""Conversations that LlamaIndex's own chat stores keep, to be added to a store.

| chat store of LlamaIndex | what it keeps |
|---|---|
| `SimpleChatStore` | a file `{"store": {key: [message]}}` |
| `RedisChatStore`, `UpstashChatStore` | a list `<key>`, the oldest first |
| `PostgresChatStore`, `YugabyteDBChatStore` | a row `(id, key, value)` for each session, an array of JSON or JSONB |
| `AzureChatStore` | an entity for each message, its parts as JSON in `role`, `additional_kwargs` and `blocks` |
| `TablestoreChatStore` | a row for each session, a JSON list in `history` |

DynamoDB's items and Google's tables are read in place by the stores of this package, and `copy` takes them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from langchain_histories._neutral import drive, each, entered, settle
from langchain_histories._plain import derived_id
from langchain_histories._values import from_json, to_json
from langchain_histories.codec import VERSION, Row
from langchain_histories.conversations._reading import PAGE, Awaited, Blocking, given_ids
from langchain_histories.conversations.copying import Copying, CopyReport
from langchain_histories.conversations.sources import Foreign, aopened, opened
from langchain_histories.errors import ConfigurationError, FileFormatError
from langchain_histories.registry import open_store
from langchain_histories.stores.azure_table import AzureTableStore
from langchain_histories.stores.redis import RedisStore
from langchain_histories.stores.sql import SQLStore
from langchain_histories.stores.tablestore import TablestoreStore
from langchain_histories.stores.upstash import UpstashStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from langchain_histories._session_ids import SessionId
    from langchain_histories.conversations.copying import CopyProgress
    from langchain_histories.store import MessageStore

    Place = str | os.PathLike[str] | MessageStore
    Messages = list[Any]

_TABLES = {SQLStore: "chatstore", AzureTableStore: "ChatMessages", TablestoreStore: "llama_index_chat_store_v1"}
_KINDS: tuple[type[Any], ...] = (RedisStore, UpstashStore, *_TABLES)
_COLUMNS = ("role", "additional_kwargs", "blocks")


def import_llama_index(
    source: Place,
    store: MessageStore,
    *,
    sessions: Iterable[SessionId] | None = None,
    table_name: str | None = None,
    on_corrupt: Literal["raise", "skip"] = "raise",
    on_progress: Callable[[CopyProgress], object] | None = None,
) -> CopyReport:
    """Add the conversations of one of LlamaIndex's own chat stores to a store.

    Args:
        source: The path of a file of `SimpleChatStore`, or the place: a `RedisStore`, `UpstashStore`, `SQLStore`,
            `AzureTableStore` or `TablestoreStore`, or its URL. It is only read.
        store: Where the conversations go.
        sessions: The keys of sessions; all of the source if not given.
        table_name: LlamaIndex's table; by default the one that its class has by default.
        on_corrupt: What to do about what is no message: raise, or list it in the report and leave it out.
        on_progress: Called after each session.

    Raises:
        ConfigurationError: The source is none of these, or has no such table.
        FileFormatError: The file has another form.
        HistoryError: As `copy`.
    """
    face = Blocking()
    if (path := _path(source)) is not None:
        sessions_of = _File(path)
        return drive(Copying(sessions_of, store, on_corrupt, on_progress, face).copy(sessions))
    with opened(_kind(source), source) as place:
        found = _reader(place, table_name, face)
        return drive(Copying(found, store, on_corrupt, on_progress, face).copy(sessions))


async def aimport_llama_index(
    source: Place,
    store: MessageStore,
    *,
    sessions: Iterable[SessionId] | None = None,
    table_name: str | None = None,
    on_corrupt: Literal["raise", "skip"] = "raise",
    on_progress: Callable[[CopyProgress], object] | None = None,
) -> CopyReport:
    """Async `import_llama_index`."""
    face = Awaited()
    if (path := _path(source)) is not None:
        sessions_of = await face.of_file(_File, path)
        return await Copying(sessions_of, store, on_corrupt, on_progress, face).copy(sessions)
    async with aopened(_kind(source), source) as place:
        found = _reader(place, table_name, face)
        return await Copying(found, store, on_corrupt, on_progress, face).copy(sessions)


def _path(source: Place) -> Path | None:
    is_path = isinstance(source, os.PathLike) or (isinstance(source, str) and "://" not in source)
    return Path(source) if is_path else None  # type: ignore[arg-type]  # a store is no path


def _kind(source: Place) -> type[MessageStore]:
    """Return the class of the place.

    Raises:
        ConfigurationError: LlamaIndex has no chat store there that is read here.
    """
    place = open_store(source) if isinstance(source, str) else source
    kind: type[MessageStore] | None = next((kind for kind in _KINDS if isinstance(place, kind)), None)
    if kind is None:
        raise ConfigurationError(
            "import_llama_index reads files, Redis, Upstash, PostgreSQL, YugabyteDB, Azure's tables and Tablestore, "
            f"and not {place!r}. DynamoDB's items and Google's tables are read by DynamoDBStore and SQLStore: copy."
        )
    return kind


def _reader(place: Any, table_name: str | None, face: Blocking | Awaited) -> _Sessions:
    if isinstance(place, RedisStore | UpstashStore):
        if table_name is not None:
            raise ConfigurationError(f"{place.name} has no tables: leave table_name out.")
        return _Lists(place, face)
    kind = next(kind for kind in _TABLES if isinstance(place, kind))
    readers: dict[Any, type[Any]] = {SQLStore: _Rows, AzureTableStore: _Entities, TablestoreStore: _Histories}
    found: _Sessions = readers[kind](place, face, table_name or _TABLES[kind])
    return found


class _Sessions(Foreign):
    """Sessions, each of which is in memory at once."""

    async def session_ids(self, given: Iterable[SessionId] | None) -> AsyncGenerator[SessionId]:
        """Walk the ids that are given, or those of the source."""
        for session_id in await self._keys() if given is None else given_ids(given):
            yield session_id

    async def whole_pages(self, session_id: SessionId) -> AsyncGenerator[dict[str, Row]]:
        """Walk the messages of a session as records. An id is made of the messages up to it, so the same each time."""
        rows: dict[str, Row] = {}
        before = str(session_id)
        for number, message in enumerate(await self._messages(str(session_id))):
            before = derived_id([before, message if isinstance(message, str) else to_json(message)])
            rows[before] = _row(message, before, str(number))
            if len(rows) == PAGE:
                yield rows
                rows = {}
        yield rows

    async def _keys(self) -> list[str]:
        raise NotImplementedError

    async def _messages(self, key: str) -> Messages:
        """Return the messages of a session: dicts, or their JSON."""
        raise NotImplementedError


def _row(message: Any, record_id: str, position: str) -> Row:
    """Return a record of a message; what is none is refused by the copy, in its own words."""
    try:
        plain = from_json(message) if isinstance(message, str | bytes) else message
        return Row(to_json({**plain, "meta": {"v": VERSION, "id": record_id}}), position)
    except Exception:  # noqa: BLE001  # what is stored may be anything
        return Row(message if isinstance(message, str) else to_json(message), position)


class _File(_Sessions):
    """A file of `SimpleChatStore`."""

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            FileFormatError: It has another form.
        """
        try:
            data = from_json(path.read_bytes())
            data = from_json(data) if isinstance(data, str) else data
            self._store: dict[str, Messages] = {key: list(messages) for key, messages in data["store"].items()}
        except OSError as error:
            raise ConfigurationError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
        except Exception as error:  # noqa: BLE001  # it may be anything
            raise FileFormatError(
                f"{str(path)!r} is no file of LlamaIndex's SimpleChatStore ({type(error).__name__}).", str(path)
            ) from None

    async def _keys(self) -> list[str]:
        return list(self._store)

    async def _messages(self, key: str) -> Messages:
        return self._store.get(key, [])


class _Lists(_Sessions):
    """Lists of Redis without a prefix, among those of others."""

    def __init__(self, place: RedisStore | UpstashStore, face: Blocking | Awaited) -> None:
        """Keep the place."""
        self._place, self._face = place, face

    async def _keys(self) -> list[str]:
        operations: Any = self._place.operations

        async def body(client: Any) -> list[str]:
            names = sorted(await operations.names(client, "", "list"))
            firsts = await operations.answers(client, [("LINDEX", name, 0) for name in names]) if names else []
            return [name for name, first in zip(names, firsts, strict=True) if _is_message(first)]

        keys: list[str] = await self._face.run_foreign(self._place, body, list)
        return keys

    async def _messages(self, key: str) -> Messages:
        operations: Any = self._place.operations

        async def body(client: Any) -> Messages:
            (found,) = await operations.answers(client, [("LRANGE", key, 0, -1)])
            return [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in found]

        texts: Messages = await self._face.run_foreign(self._place, body, list)
        return texts


def _is_message(text: Any) -> bool:
    try:
        return "role" in from_json(text)
    except (ValueError, TypeError):
        return False


class _Rows(_Sessions):
    """Rows of PostgreSQL and YugabyteDB: a session each."""

    def __init__(self, place: SQLStore, face: Blocking | Awaited, table_name: str) -> None:
        """Keep the place and the table; an earlier release of LlamaIndex put `data_` before its name."""
        self._place, self._face, self._name = place, face, table_name

    async def _query(self, query: str, **values: str) -> list[Any]:
        import sqlalchemy as sa

        from langchain_histories.stores.sql.engines import EngineUse

        operations: Any = self._place.operations
        names = [self._name, f"data_{self._name}"]

        async def body(client: Any) -> list[Any]:
            async with entered(EngineUse.of(client).connection()) as connection:
                there = await operations.in_sync(
                    connection, lambda sync: sa.inspect(sync).get_table_names(schema=self._place.schema)
                )
                table = next((name for name in names if name in there), None)
                if table is None:
                    raise ConfigurationError(f"{self._place!r} has no table {names[0]!r} and no {names[1]!r}.")
                quoted = [part.replace('"', '""') for part in (self._place.schema, table) if part]
                text = query.format(".".join(f'"{part}"' for part in quoted))
                return list((await settle(connection.execute(sa.text(text), values))).all())

        rows: list[Any] = await self._face.run_foreign(self._place, body, list)
        return rows

    async def _keys(self) -> list[str]:
        return [key for (key,) in await self._query("SELECT key FROM {} ORDER BY key")]

    async def _messages(self, key: str) -> Messages:
        query = "SELECT CAST(u.m AS text) FROM {} AS t, unnest(t.value) WITH ORDINALITY AS u(m, o)"
        return [text for (text,) in await self._query(f"{query} WHERE t.key = :key ORDER BY u.o", key=key)]


class _Entities(_Sessions):
    """Entities of Azure's tables: a message each."""

    def __init__(self, place: AzureTableStore, face: Blocking | Awaited, table_name: str) -> None:
        """Keep the place and the table."""
        self._place, self._face, self._name = place, face, table_name

    async def _entities(self, where: str, **parameters: str) -> list[Any]:
        name = self._name

        async def body(client: Any) -> list[Any]:
            found = client.get_table_client(name).query_entities(where, parameters=parameters)
            return [dict(entity) async for entity in each(found)]

        entities: list[Any] = await self._face.run_foreign(self._place, body, list)
        return entities

    async def _keys(self) -> list[str]:
        return sorted({entity["PartitionKey"] for entity in await self._entities("PartitionKey ge @key", key="")})

    async def _messages(self, key: str) -> Messages:
        entities = await self._entities("PartitionKey eq @key", key=key)
        return [
            {name: _part(entity, name) for name in _COLUMNS}
            for entity in sorted(entities, key=lambda entity: str(entity["RowKey"]))
        ]


def _part(entity: dict[str, Any], name: str) -> Any:
    """Return a part of a message; one that is too long for a property is cut into several."""
    text = entity.get(name)
    if text is None:
        pieces = (entity.get(f"{name}_part_{number}") for number in range(len(entity)))
        text = "".join(piece for piece in pieces if isinstance(piece, str))
    try:
        return from_json(text)
    except (ValueError, TypeError):
        return text


class _Histories(_Sessions):
    """Rows of Tablestore: a session each."""

    def __init__(self, place: TablestoreStore, face: Blocking | Awaited, table_name: str) -> None:
        """Keep the place and the table."""
        self._place, self._face, self._name = place, face, table_name

    async def _keys(self) -> list[str]:
        name = self._name

        async def body(client: Any) -> list[str]:
            import tablestore  # type: ignore[import-untyped]

            keys: list[str] = []
            start: Any = [("session_id", tablestore.INF_MIN)]
            while start is not None:
                stop = [("session_id", tablestore.INF_MAX)]
                # The service leaves out rows that have none of the columns, so there is no listing of keys alone.
                page = client.get_range(name, "FORWARD", start, stop, ["history"], PAGE, max_version=1)
                _, start, rows, _ = await settle(page)
                keys += [row.primary_key[0][1] for row in rows]
            return keys

        keys: list[str] = await self._face.run_foreign(self._place, body, list)
        return keys

    async def _messages(self, key: str) -> Messages:
        name = self._name

        async def body(client: Any) -> Messages:
            _, row, _ = await settle(client.get_row(name, [("session_id", key)], ["history"], max_version=1))
            text = row.attribute_columns[0][1] if row is not None and row.attribute_columns else "[]"
            return _list(text)

        messages: Messages = await self._face.run_foreign(self._place, body, list)
        return messages


def _list(text: Any) -> Messages:
    """Return the messages of a session; what is no list is one that the copy refuses."""
    try:
        found = from_json(text)
    except (ValueError, TypeError):
        return [str(text)]
    return found if isinstance(found, list) else [text]
