"""Histories in MongoDB: one document per message, as LangChain's `MongoDBChatMessageHistory` keeps them.

A message is `{_id: "<seq>-<generation>", SessionId, History: <JSON text>, seq}` in the collection `message_store`.
Documents without `seq` are LangChain's and come first. Beside it, `message_store_sessions` has a document per session:

| field | meaning |
|---|---|
| `_id` | the session id |
| `generation` | a unique name; `replace` and the first append after `clear` begin a new one |
| `start`, `appended` | the records of this generation have `start + 1` to `start + appended` as their `seq` |
| `pending` | batches that are stored, but not put away in `message_store` yet: `[{batch, records: [text]}]` |
| `deleted` | numbers of the records that `delete` removed last |
| `removing` | `_id`s of messages that `delete` or `replace` still has to remove; they are hidden |
| `alone` | set by `replace`: the records of older generations are hidden, and to be removed with `removing` |
| `state` | the state of the session |

No transaction is needed, so this works on a standalone server too: what changes a session is always one update of its
one document. An append counts its records and leaves them there (`$inc`, `$push`): from then on they are stored. Then
it puts them away as documents of their own and takes them out again (`$pull`). A reader reads the session first and
shows what is pending behind what was put away: it sees a batch whole or not at all, in the order of the commits.

* The pending batches are always the newest ones, so their numbers follow from `start` and `appended`. To keep it so,
  whoever puts batches away takes all that are pending, from the oldest on: also those of a writer that died.
* The `_id` follows from the number, so it does no harm when two put the same batch away.
* It may happen late, when a record was deleted or its generation ended in the meantime. Whoever puts away looks for
  that afterwards, and removes its documents again; until then `deleted` and `alone` hide them.
* Losing `message_store_sessions` loses the states and what is pending, and hides nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import uuid
from typing import TYPE_CHECKING, Any, Self

from langchain_histories._clients import Clients
from langchain_histories._neutral import each, settle
from langchain_histories.codec import Row
from langchain_histories.errors import ConfigurationError, RecordTooLargeError, missing_extra
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.store import (
    ANY_STATE,
    AnyState,
    Capability,
    MessageStore,
    SessionRow,
    StoreOptions,
    position_number,
)

try:
    import bson
    import pymongo
    from bson.errors import BSONError
    from pymongo import errors
    from pymongo.read_preferences import ReadPreference
    from pymongo.write_concern import WriteConcern
except ImportError as error:
    raise missing_extra("mongodb") from error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from langchain_histories.store import SessionId

logger = logging.getLogger(__name__)

_CAPABILITIES = ~(Capability.TTL | Capability.NATIVE_ASYNC)
_MAX_BYTES = 16 * 2**20 - 2**16  # a document has 16 MiB at most; leaves room for all but the texts
_ROW_BYTES = 32  # what a text of a batch needs besides itself
_DELETED_KEPT = 256  # more deletions than that would have to overtake a late writer to be undone by it
_PAGE = 500
_BATCH = 10_000  # documents in one answer, where the server's default is 101; it sends no more than 16 MB anyway
_LANGCHAINS: dict[str, Any] = {"seq": {"$not": {"$gt": 0}}}
_LANGCHAIN_POSITION = "0-"
_UNAUTHORIZED = 13
_INDEX_EXISTS_OTHERWISE = (85, 86)
_REFUSED_CREDENTIALS = (11, 18, 8000)


@dataclasses.dataclass(frozen=True)
class _Session:
    """The document of a session."""

    generation: str
    start: int
    appended: int
    pending: list[dict[str, Any]]
    deleted: frozenset[int]
    alone: bool
    removing: list[Any] | None

    @classmethod
    def of(cls, document: dict[str, Any] | None) -> Self | None:
        if document is None:
            return None
        return cls(
            document["generation"],
            document["start"],
            document["appended"],
            document.get("pending", []),
            frozenset(document.get("deleted", ())),
            document.get("alone", False),
            document.get("removing"),
        )

    @property
    def newest(self) -> int:
        """The number of the last record."""
        return self.start + self.appended

    @property
    def put_away(self) -> int:
        """The number of the last record that is not pending."""
        return self.newest - sum(len(batch["records"]) for batch in self.pending)

    def pending_rows(self) -> list[tuple[int, str]]:
        texts = [text for batch in self.pending for text in batch["records"]]
        return [row for row in enumerate(texts, self.put_away + 1) if row[0] not in self.deleted]

    def expected(self, after: int) -> int:
        """How many records there are behind this number."""
        return self.newest - after - sum(after < number <= self.newest for number in self.deleted)


class MongoDBStore(MessageStore[Any]):
    """Keeps histories in MongoDB: a standalone server, a replica set or a sharded cluster.

    Reads go to the primary. Writes wait for the majority, unless the URL or the client says otherwise.

    Args:
        url: `mongodb://` or `mongodb+srv://`, as PyMongo reads them. A database in it is the one to log in to, not the
            one to keep histories in.
        client: Your own `pymongo.MongoClient`, in place of `url`. It is never closed here.
        async_client: Your own `pymongo.AsyncMongoClient`. With one of the two alone, the other side is not derived:
            async methods run a blocking client in threads, sync methods refuse an async one.
        database_name: The database.
        collection_name: The collection of the messages. A second one, with `_sessions` behind its name, has a document
            per session.
        session_id_key: The field of the session id.
        history_key: The field of the JSON text.
        create_index: Whether to make the index that reads need, where it is missing. Without the right to make it,
            histories work, but slower.
        index_kwargs: Options for an index on `session_id_key` alone, which LangChain's class makes; it is made only
            when they are given.
        client_options: More options for PyMongo, such as `{"serverSelectionTimeoutMS": 5000}`; only with `url`.
        **options: See `StoreOptions`. There is no `ttl`.
    """

    name = "mongodb"
    schemes = ("mongodb", "mongodb+srv")
    driver_errors = (errors.PyMongoError, BSONError)
    unavailable_errors = (
        ConnectionError,
        TimeoutError,
        errors.ConnectionFailure,
        errors.ExecutionTimeout,
        errors.WTimeoutError,
    )

    def __init__(
        self,
        url: str | None = None,
        *,
        client: pymongo.MongoClient[Any] | None = None,
        async_client: pymongo.AsyncMongoClient[Any] | None = None,
        database_name: str = "chat_history",
        collection_name: str = "message_store",
        session_id_key: str = "SessionId",
        history_key: str = "History",
        create_index: bool = True,
        index_kwargs: dict[str, Any] | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        given = client is not None or async_client is not None
        if given == (url is not None) or (given and client_options):
            raise ConfigurationError("Pass a url (and client_options), or clients of your own, and not both.")
        if client is not None and not _is_blocking(client):
            raise ConfigurationError(f"client must be a pymongo.MongoClient, not {_kind(client)}.")
        if async_client is not None and not isinstance(async_client, pymongo.AsyncMongoClient):
            raise ConfigurationError(
                f"async_client must be a pymongo.AsyncMongoClient, which takes the place of Motor's, "
                f"not {_kind(async_client)}."
            )
        for option, field in (("session_id_key", session_id_key), ("history_key", history_key)):
            if field in ("", "_id", "seq") or field.startswith("$") or "." in field or session_id_key == history_key:
                raise ConfigurationError(f"{option} must be the name of a field of its own, not {field!r}.")
        if url is not None:
            _check_url(url)
        self.database_name = database_name
        self.collection_name = collection_name
        self.session_id_key = session_id_key
        self.history_key = history_key
        self._create_index = create_index
        self._index_kwargs = index_kwargs
        self._client_options = client_options or {}
        clients: Clients[Any] = Clients(
            connect=self._connect, close=self._close, client=client, async_client=async_client
        )
        super().__init__(clients, url, **options)

    @property
    def capabilities(self) -> Capability:
        """All but `TTL`; `NATIVE_ASYNC` unless only a blocking client was given."""
        return _CAPABILITIES | (Capability.NATIVE_ASYNC if self._clients.has_native else Capability(0))

    async def _connect(self, native: bool) -> Any:
        kind: Any = pymongo.AsyncMongoClient if native else pymongo.MongoClient
        return kind(self._url, **self._client_options)

    async def _close(self, client: Any) -> None:
        await settle(client.close())

    def _unavailable(self, error: Exception) -> bool:
        """Whether the server could not be reached, or refused the credentials."""
        return super()._unavailable(error) or (
            isinstance(error, errors.OperationFailure) and error.code in _REFUSED_CREDENTIALS
        )

    def _collections(self, client: Any) -> tuple[Any, Any]:
        """The messages and the sessions."""
        concern = client.write_concern
        # A batch that a failover rolls back was not stored, and nothing can be built on unacknowledged writes.
        if not isinstance(concern, WriteConcern) or concern.is_server_default or not concern.acknowledged:
            concern = WriteConcern("majority")
        database = client.get_database(
            self.database_name, write_concern=concern, read_preference=ReadPreference.PRIMARY
        )
        return database[self.collection_name], database[f"{self.collection_name}_sessions"]

    async def _session(self, sessions: Any, key: str) -> _Session | None:
        return _Session.of(await settle(sessions.find_one({"_id": key}, {"state": 0})))

    async def _setup(self, client: Any, *, upgrade: bool = False) -> None:  # noqa: ARG002  # nothing to upgrade
        await self._check_collation(client)
        if not self._create_index:
            return
        messages, _ = self._collections(client)
        await self._make_index(messages, [(self.session_id_key, 1), ("seq", 1), ("_id", 1)])
        if self._index_kwargs is not None:
            await self._make_index(messages, self.session_id_key, **self._index_kwargs)

    async def _check_collation(self, client: Any) -> None:
        """Refuse a collection that takes `ivan` and `Ivan` for the same session."""
        database = client.get_database(self.database_name)
        try:
            found = await settle(database.list_collections(filter={"name": self.collection_name}))
            described = [collection async for collection in each(found)]
        except NotImplementedError:
            return  # mongomock
        except errors.OperationFailure as error:
            if error.code != _UNAUTHORIZED:
                raise
            return
        for collection in described:
            if locale := collection.get("options", {}).get("collation", {}).get("locale"):
                raise ConfigurationError(
                    f"The collection {self.database_name}.{self.collection_name} compares text by the collation "
                    f"{locale!r}, so sessions would be mixed up: histories need one without a collation."
                )

    async def _make_index(self, messages: Any, keys: Any, **options: Any) -> None:
        try:
            await settle(messages.create_index(keys, **options))
        except errors.OperationFailure as error:
            if error.code in _INDEX_EXISTS_OTHERWISE:
                return
            if error.code != _UNAUTHORIZED:
                raise
            logger.debug("The index on %s of %s may not be made with these rights.", keys, messages.full_name)

    # Appending.

    async def _append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        _check_size(rows)
        batch = uuid.uuid4().hex
        session = await self._commit(client, key, batch, rows)
        try:
            if [pending["batch"] for pending in session["pending"]] == [batch] and "removing" not in session:
                first = session["start"] + session["appended"] - len(rows) + 1
                await self._store(client, key, session["generation"], list(enumerate(rows, first)), [batch])
            else:
                await self._put_away(client, key)
        except errors.PyMongoError as error:
            if not self._unavailable(error):
                raise
            # The batch is stored: readers see it, and the next append puts it away.
            logger.warning("A batch of session %r waits to be put away (%s).", key, type(error).__name__)

    async def _commit(self, client: Any, key: str, batch: str, rows: Sequence[str]) -> Any:
        """Add a batch to the session, from then on it is stored; return the session without the texts."""
        _, sessions = self._collections(client)
        pending = {"batch": batch, "records": list(rows)}
        change = {"$inc": {"appended": len(rows)}, "$push": {"pending": pending}}
        wanted = {"generation": 1, "start": 1, "appended": 1, "pending.batch": 1, "removing": 1}
        options = {"return_document": pymongo.ReturnDocument.AFTER}
        while True:
            try:
                session = await settle(sessions.find_one_and_update({"_id": key}, change, wanted, **options))
                if session is None:
                    session = await self._birth(client, key, appended=len(rows), pending=[pending])
                    await settle(sessions.insert_one(session))
            except errors.DuplicateKeyError:
                continue
            except errors.OperationFailure:
                if not await self._make_room(client, key, rows):
                    raise
            else:
                return session

    async def _birth(self, client: Any, key: str, **fields: Any) -> dict[str, Any]:
        """A document for a session that has none; it is inserted, for two upserts at once are an error on some servers.

        Numbers begin at 1, unless messages are there all the same, whose sessions were lost.
        """
        messages, _ = self._collections(client)
        newest = await settle(messages.find_one({self.session_id_key: key}, {"seq": 1}, sort=[("seq", -1)]))
        start = _number_of(newest or {})
        return {"_id": key, "generation": str(bson.ObjectId()), "start": start, "appended": 0, "pending": [], **fields}

    async def _make_room(self, client: Any, key: str, rows: Sequence[str], *, replaced: str = "") -> bool:
        """Whether pending batches left no room for a write that was refused. They are put away now.

        Raises:
            RecordTooLargeError: There is no room without them either.
        """
        _, sessions = self._collections(client)
        session = await settle(sessions.find_one({"_id": key}, {replaced: 0} if replaced else None)) or {}
        if len(bson.encode(session)) + _size(rows) <= _MAX_BYTES:
            return False
        if not session.get("pending"):
            raise RecordTooLargeError(
                f"The new records and the state of session {key!r} do not fit in one document of MongoDB (16 MB) "
                "together: append fewer messages at once, or keep a smaller state."
            )
        await self._put_away(client, key)
        return True

    async def _put_away(self, client: Any, key: str) -> None:
        """Finish what writers left behind: remove what was replaced, and put all pending batches away."""
        messages, sessions = self._collections(client)
        session = await self._session(sessions, key)
        if session is None:
            return
        if session.removing is not None:
            doomed: list[dict[str, Any]] = [{"_id": {"$in": session.removing}}]
            if session.alone:
                doomed.append({"seq": {"$lte": session.start}})
            await settle(messages.delete_many({self.session_id_key: key, "$or": doomed}))
            this = {"_id": key, "generation": session.generation, "removing": session.removing}
            await settle(sessions.update_one(this, {"$unset": {"removing": ""}}))
        if session.pending:
            batches = [pending["batch"] for pending in session.pending]
            await self._store(client, key, session.generation, session.pending_rows(), batches)

    async def _store(
        self, client: Any, key: str, generation: str, rows: list[tuple[int, str]], batches: list[str]
    ) -> None:
        """Make documents of pending rows, and take their batches out of the session."""
        messages, sessions = self._collections(client)
        documents = [
            {"_id": _position(number, generation), self.session_id_key: key, self.history_key: text, "seq": number}
            for number, text in rows
        ]
        if documents:
            try:
                await settle(messages.insert_many(documents, ordered=False))
            except errors.BulkWriteError as error:
                _check_others_were_faster(error)
        this: dict[str, Any] = {"_id": key, "generation": generation}
        taken = {"$pull": {"pending": {"batch": {"$in": batches}}}}
        first = rows[0][0] if rows else 0
        result = await settle(sessions.update_one({**this, "deleted": {"$not": {"$gte": first}}}, taken))
        if result.matched_count:
            return
        # Records were deleted, or the generation has ended: perhaps before the documents were made.
        session = await self._session(sessions, key)
        if session is None or session.generation != generation:
            late = [document["_id"] for document in documents]
        else:
            late = [_position(number, generation) for number in session.deleted]
        await settle(messages.delete_many({"_id": {"$in": late}}))
        await settle(sessions.update_one(this, taken))

    # Reading.

    async def _read(
        self,
        client: Any,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        messages, sessions = self._collections(client)
        while True:
            session = await self._session(sessions, key)
            position = await self._position_query(messages, key, session, after)
            number = position.get("seq", {}).get("$gt", 0)
            pending = [row for row in session.pending_rows() if row[0] > number] if session else []
            if last is not None:
                pending = pending[-last:]
            found: list[Any] = []
            nothing_new = session is not None and "seq" in position and number >= session.put_away
            if not nothing_new and (last is None or last != len(pending)):
                query = {"$and": [self._visible(key, session), position]} if position else self._visible(key, session)
                options: dict[str, Any] = {"batch_size": _BATCH}
                if last is not None:
                    options |= {"sort": [("seq", -1), ("_id", -1)], "limit": last - len(pending)}
                elif first is not None:
                    options |= {"sort": [("seq", 1), ("_id", 1)], "limit": first}
                fields = {self.history_key: 1, "seq": 1}
                found = [document async for document in each(messages.find(query, fields, **options))]
                # Here and not there: without the index, a server refuses to sort what is large.
                found.sort(key=lambda document: (_number_of(document), str(document["_id"])))
            rows = [Row(self._text(document), _position_of(document)) for document in found]
            numbers = [_number_of(document) for document in found]
            if session:
                rows += [Row(text, _position(number, session.generation)) for number, text in pending]
                numbers += [number for number, _ in pending]
            cut = first is not None and len(rows) >= first
            if (
                (await self._is_same(sessions, key, session))
                if cut
                else (await self._is_steady(sessions, key, session, numbers, number, full=len(rows) == last))
            ):
                return rows[:first]

    def _text(self, document: dict[str, Any]) -> str:
        """The text of a record; of a document that is none, a text that is none either."""
        text = document.get(self.history_key)
        return text if isinstance(text, str) else ""

    def _visible(self, key: str, session: _Session | None) -> dict[str, Any]:
        """The query for the documents of a session that a reader may see."""
        query: dict[str, Any] = {self.session_id_key: key}
        if session is None:
            return query
        query["seq"] = {"$not": {"$gt": session.put_away}}
        if session.deleted:
            query["seq"]["$nin"] = list(session.deleted)
        if session.alone:
            query["$nor"] = [{"seq": {"$lte": session.start}}]
        if session.removing:
            query["_id"] = {"$nin": session.removing}
        return query

    async def _position_query(
        self, messages: Any, key: str, session: _Session | None, after: str | None
    ) -> dict[str, Any]:
        if after is None:
            return {}
        number = position_number(after)
        if after.startswith(_LANGCHAIN_POSITION):
            return {"$or": [{"seq": {"$gt": 0}}, {**_LANGCHAINS, "_id": {"$gt": _langchain_id(after)}}]}
        behind = {"seq": {"$gt": number}}
        if session is not None and after == _position(number, session.generation):
            return behind
        # Of a generation that has ended: everything is new, unless its records are here all the same.
        record = await settle(messages.find_one({"_id": after, self.session_id_key: key}, {"_id": 1}))
        return {} if record is None else behind

    async def _is_steady(
        self, sessions: Any, key: str, session: _Session | None, numbers: list[int], after: int, *, full: bool
    ) -> bool:
        """Whether what was read was all there: a `clear` or `replace` may have come between the two reads."""
        if session is None:
            if not numbers:
                return True
        else:
            begin = max(after, session.start)
            if full and numbers:
                begin = max(begin, numbers[0] - 1)
            if (not numbers or numbers[0] > session.start) and len(numbers) == session.expected(begin):
                return True
        return await self._is_same(sessions, key, session)

    async def _is_same(self, sessions: Any, key: str, session: _Session | None) -> bool:
        """Whether the session is still in the same generation."""
        now = await settle(sessions.find_one({"_id": key}, {"generation": 1}))
        return (now["generation"] if now else None) == (session.generation if session else None)

    async def _count(self, client: Any, key: str) -> int:
        messages, sessions = self._collections(client)
        while True:
            session = await self._session(sessions, key)
            count = int(await settle(messages.count_documents(self._visible(key, session))))
            count += len(session.pending_rows()) if session else 0
            expected = session.expected(session.start) if session else 0
            if count == expected or await self._is_same(sessions, key, session):
                return count

    # Changing.

    async def _exchange(self, client: Any, key: str, rows: Sequence[str], *, forget: Sequence[str] = ()) -> None:
        """Begin a new generation with these rows, and remove what was there; without rows, also the session."""
        messages, sessions = self._collections(client)
        pending = [{"batch": uuid.uuid4().hex, "records": list(rows)}] if rows else []
        while True:
            session = await self._session(sessions, key)
            if session is None and not rows and not await settle(messages.find_one({self.session_id_key: key})):
                return
            document = await self._birth(client, key, appended=len(rows), pending=pending, alone=True)
            document["start"] = max(document["start"], session.newest if session else 0)
            theirs = messages.find({self.session_id_key: key, **_LANGCHAINS}, {"_id": 1})
            document["removing"] = [found["_id"] async for found in each(theirs)]
            try:
                if session is None:
                    await settle(sessions.insert_one(document))
                    break
                this = {"_id": key, "generation": session.generation, "appended": session.appended}
                del document["_id"]
                change = {"$set": document, "$unset": dict.fromkeys(("deleted", *forget), "")}
                if (await settle(sessions.update_one(this, change))).matched_count:
                    break
            except errors.DuplicateKeyError:
                continue
            except errors.OperationFailure:
                await self._make_room(client, key, rows, replaced="pending")
                raise
        await self._put_away(client, key)
        if not rows:
            # Unless somebody has begun anew in the meantime.
            empty = {"_id": key, "generation": document["generation"], "appended": 0, "state": {"$exists": False}}
            await settle(sessions.delete_one(empty))

    async def _replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        _check_size(rows)
        await self._exchange(client, key, rows)

    async def _clear(self, client: Any, key: str) -> None:
        await self._exchange(client, key, [], forget=["state"])

    async def _delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:
        messages, sessions = self._collections(client)
        await self._put_away(client, key)
        doomed = [_id_of(row.position) for row in rows]
        session = await self._session(sessions, key)
        if session is not None:
            numbers = [position_number(row.position) for row in rows if row.position.endswith(session.generation)]
            deleted = {"$each": numbers, "$slice": -max(_DELETED_KEPT, len(numbers))}
            change = {"$push": {"deleted": deleted, "removing": {"$each": doomed}}}
            await settle(sessions.update_one({"_id": key, "generation": session.generation}, change))
        result = await settle(messages.delete_many({"_id": {"$in": doomed}, self.session_id_key: key}))
        await self._put_away(client, key)
        return int(result.deleted_count)

    # Listing.

    async def _sessions(
        self, client: Any, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        found: list[SessionRow] = []
        while limit is None or len(found) < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - len(found))
            keys = await self._keys(client, prefix, size, after)
            found += await self._page(client, keys)
            if len(keys) < size:
                break
            after = keys[-1]
        return found

    async def _keys(self, client: Any, prefix: str, limit: int, after: str | None = None) -> list[str]:
        """The next session ids, in byte order; also of sessions that have only a document."""
        messages, sessions = self._collections(client)
        within: dict[str, str] = {"$gte": prefix}
        if (end := _end_of(prefix)) is not None:
            within["$lt"] = end
        if after is not None:
            within["$gt"] = after
        pipeline = [
            {"$match": {self.session_id_key: within}},
            {"$group": {"_id": f"${self.session_id_key}"}},
            {"$sort": {"_id": 1}},
            {"$limit": limit},
        ]
        keys = {document["_id"] async for document in each(await settle(messages.aggregate(pipeline)))}
        documents = sessions.find({"_id": within}, {"_id": 1}, sort=[("_id", 1)], limit=limit)
        keys |= {document["_id"] async for document in each(documents)}
        return sorted(keys, key=str.encode)[:limit]

    async def _page(self, client: Any, keys: list[str]) -> list[SessionRow]:
        messages, sessions = self._collections(client)
        unfinished = {"_id": {"$in": keys}, "$or": [{"pending.0": {"$exists": True}}, {"removing": {"$exists": True}}]}
        special = {document["_id"] async for document in each(sessions.find(unfinished, {"_id": 1}))}
        pipeline = [
            {"$match": {self.session_id_key: {"$in": keys}}},
            {"$group": {"_id": f"${self.session_id_key}", "count": {"$sum": 1}, "newest": {"$max": "$seq"}}},
        ]
        groups = [document async for document in each(await settle(messages.aggregate(pipeline)))]
        newest = [{self.session_id_key: group["_id"], "seq": group["newest"]} for group in groups if group["newest"]]
        last = {}
        if newest:
            documents = messages.find({"$or": newest}, {self.session_id_key: 1, self.history_key: 1})
            last = {document[self.session_id_key]: self._text(document) async for document in each(documents)}
        rows = {group["_id"]: SessionRow(group["_id"], group["count"], last.get(group["_id"])) for group in groups}
        for key in special:
            tail = await self._read(client, key, last=1)
            rows[key] = SessionRow(key, await self._count(client, key), tail[0].text if tail else None)
        return [rows[key] for key in keys if key in rows and rows[key].count]

    async def _erase(self, client: Any, prefix: str) -> int:
        erased, after = 0, None
        while keys := await self._keys(client, prefix, _PAGE, after):
            for key in keys:
                await self._clear(client, key)
            erased, after = erased + len(keys), keys[-1]
        return erased

    # State.

    async def _get_state(self, client: Any, key: str) -> str | None:
        _, sessions = self._collections(client)
        document = await settle(sessions.find_one({"_id": key}, {"state": 1}))
        return document.get("state") if document else None

    async def _put_state(
        self, client: Any, key: str, text: str | None, *, instead_of: str | bytes | AnyState | None = ANY_STATE
    ) -> bool:
        _, sessions = self._collections(client)
        this: dict[str, Any] = {"_id": key}
        if instead_of is not ANY_STATE:
            this["state"] = {"$exists": False} if instead_of is None else instead_of
        if text is None:
            return await self._remove_state(client, key, this) or instead_of is ANY_STATE
        _check_state_size(text, instead_of)
        while True:
            try:
                if (await settle(sessions.update_one(this, {"$set": {"state": text}}))).matched_count:
                    return True
                if instead_of is not ANY_STATE and (instead_of or await self._get_state(client, key)):
                    return False
                await settle(sessions.insert_one(await self._birth(client, key, state=text)))
            except errors.DuplicateKeyError:
                continue
            except errors.OperationFailure:
                if not await self._make_room(client, key, [text], replaced="state"):
                    raise
            else:
                return True

    async def _remove_state(self, client: Any, key: str, this: dict[str, Any]) -> bool:
        """Remove the state where there is `this`; tell whether there was."""
        _, sessions = self._collections(client)
        result = await settle(sessions.update_one(this, {"$unset": {"state": ""}}))
        nothing_left = {"appended": 0, "alone": {"$exists": False}, "state": {"$exists": False}}
        await settle(sessions.delete_one({"_id": key, **nothing_left}))
        return bool(result.matched_count)


class MongoDBChatMessageHistory(StoredChatMessageHistory):
    """A history in MongoDB with the constructor of langchain-mongodb's class of this name; uses the same collection.

    All histories of one configuration in a process share one client, so a program may make one for each turn.

    Args:
        connection_string: As for `MongoDBStore`; `None` with a client of your own.
        session_id: The session.
        database_name: The database.
        collection_name: The collection.
        session_id_key: The field of the session id.
        history_key: The field of the JSON text.
        create_index: Whether to make the index on first use.
        history_size: `messages` shows only so many, the newest.
        index_kwargs: As for `MongoDBStore`.
        client: Your own `pymongo.MongoClient`.
        async_client: Your own `pymongo.AsyncMongoClient`.
    """

    store: MongoDBStore

    def __init__(
        self,
        connection_string: str | None,
        session_id: SessionId,
        database_name: str = "chat_history",
        collection_name: str = "message_store",
        *,
        session_id_key: str = "SessionId",
        history_key: str = "History",
        create_index: bool = True,
        history_size: int | None = None,
        index_kwargs: dict[str, Any] | None = None,
        client: Any = None,
        async_client: Any = None,
    ) -> None:
        """Join the store of this configuration."""
        store = MongoDBStore.shared(
            connection_string,
            client=client,
            async_client=async_client,
            database_name=database_name,
            collection_name=collection_name,
            session_id_key=session_id_key,
            history_key=history_key,
            create_index=create_index,
            index_kwargs=index_kwargs,
        )
        super().__init__(store, session_id, last=history_size)
        self.database_name = database_name
        self.collection_name = collection_name
        self.session_id_key = session_id_key
        self.history_key = history_key
        self.history_size = history_size

    @property
    def client(self) -> Any:
        """The blocking client; it is opened when it has not been used yet."""
        return self.store.client

    @property
    def db(self) -> Any:
        """The database, of the blocking client."""
        return self.client[self.database_name]

    @property
    def collection(self) -> Any:
        """The collection of the messages, of the blocking client."""
        return self.db[self.collection_name]

    def close(self) -> None:
        """Does nothing: other histories share the client. `history.store.close()` closes it for all of them."""


def _position(number: int, generation: str) -> str:
    """The position of a record, which is the `_id` of its document too."""
    return f"{number}-{generation}"


def _number_of(document: dict[str, Any]) -> int:
    """The number of a record of ours, 0 of LangChain's."""
    number = document.get("seq")
    return number if isinstance(number, int) else 0


def _position_of(document: dict[str, Any]) -> str:
    if _number_of(document) and isinstance(document["_id"], str):
        return str(document["_id"])
    return _LANGCHAIN_POSITION + bson.encode({"": document["_id"]}).hex()


def _langchain_id(position: str) -> Any:
    try:
        return bson.decode(bytes.fromhex(position.removeprefix(_LANGCHAIN_POSITION)))[""]
    except (ValueError, KeyError, BSONError):
        raise ConfigurationError(f"after must be the position of a record of this store, not {position!r}.") from None


def _id_of(position: str) -> Any:
    return _langchain_id(position) if position.startswith(_LANGCHAIN_POSITION) else position


def _end_of(prefix: str) -> str | None:
    """The least text that is greater than all that start with `prefix`; `None` if there is none."""
    while prefix:
        prefix, code = prefix[:-1], ord(prefix[-1]) + 1
        if code <= 0x10FFFF:  # noqa: PLR2004
            return prefix + chr(0xE000 if code == 0xD800 else code)  # noqa: PLR2004  # no surrogates
    return None


def _size(rows: Sequence[str]) -> int:
    return sum(len(row.encode()) for row in rows) + len(rows) * _ROW_BYTES


def _check_size(rows: Sequence[str]) -> None:
    if sum(map(len, rows)) * 4 + len(rows) * _ROW_BYTES <= _MAX_BYTES or _size(rows) <= _MAX_BYTES:
        return
    if len(rows) == 1:
        raise RecordTooLargeError("A document of MongoDB has at most 16 MB, and this record is larger.")
    raise RecordTooLargeError(
        f"{len(rows)} records are larger than the 16 MB that MongoDB stores all or nothing: append fewer at once."
    )


def _check_state_size(text: str, instead_of: object) -> None:
    _check_size([text])
    if isinstance(instead_of, str) and _size([instead_of, text]) > _MAX_BYTES:
        raise RecordTooLargeError(
            "The state and the one that is to take its place do not fit in one command of MongoDB (16 MB) together: "
            "keep a smaller state."
        )


def _check_others_were_faster(error: errors.BulkWriteError) -> None:
    """Pass over documents that another writer has already put away."""
    for failed in error.details.get("writeErrors", []):
        duplicate = failed.get("code") == 11000 and failed.get("keyPattern", {"_id": 1}) in ({"_id": 1}, {})  # noqa: PLR2004
        if not duplicate:
            # Not the error itself: it quotes the document.
            raise errors.OperationFailure("a message was refused", failed.get("code")) from None
    if error.details.get("writeConcernErrors"):
        raise errors.WTimeoutError("the majority did not confirm a message in time") from None


def _is_blocking(client: object) -> bool:
    if isinstance(client, pymongo.MongoClient):
        return True
    kind = type(client)
    is_async = isinstance(client, pymongo.AsyncMongoClient) or kind.__module__.startswith("motor")
    return hasattr(kind, "get_database") and not is_async


def _check_url(url: str) -> None:
    scheme, _, rest = url.partition("://")
    if scheme == "mongodb+srv":
        # What its name stands for, and which options it has, only a name server knows.
        url = "mongodb://" + rest.partition("?")[0]
    try:
        pymongo.uri_parser.parse_uri(url)
    except (errors.PyMongoError, ValueError) as error:
        # Neither quoted nor chained: what looks like the host may be a piece of the password.
        raise ConfigurationError(
            f"The url is none of MongoDB ({type(error).__name__}): look at its options, and write "
            "'%', ':', '/' and '@' in user and password as %25, %3A, %2F and %40."
        ) from None


def _kind(client: object) -> str:
    return f"{type(client).__module__}.{type(client).__name__}"
