"""What a store in MongoDB can do: set-up, listing and states here, messages by the outbox."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pymongo
from bson.errors import BSONError
from pymongo import errors
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from langchain_histories.errors import ConfigurationError, CorruptRecordError
from langchain_histories.stores.base import (
    ANY_STATE,
    Capability,
    ExpectedState,
    NewestRow,
    Operations,
    Row,
    SessionRow,
    deadline,
    each,
    position_number,
    prefix_end,
    settle,
)
from langchain_histories.stores.mongodb.connections import is_unavailable
from langchain_histories.stores.mongodb.outbox import EXPIRED, Outbox, check_state_size, stored_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Sequence

    from pymongo import AsyncMongoClient
    from pymongo.asynchronous.collection import AsyncCollection

    Client = AsyncMongoClient[dict[str, Any]]
    Collection = AsyncCollection[dict[str, Any]]

logger = logging.getLogger(__name__)

_SESSIONS_PER_PAGE = 500
# Of session ids that LangChain's class has stored as they were given.
_OTHER_TYPES = ("int", "long", "objectId")
_OTHERS_BEGIN = "-0123456789abcdef"  # the text of each of them
# Subclasses of the error of a lost connection: there is no server, or it has not answered in time.
_NOT_CUT = (errors.ServerSelectionTimeoutError, errors.NetworkTimeout)
_UNAUTHORIZED = 13
_LISTED = dict.fromkeys(("touched", "state", "pending.batch", "removing", "ttl"), 1)
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001  # as the driver gives times
_CLOSED = re.compile(r"connection (?:is already )?closed|connection reset")
_INDEX_EXISTS_OTHERWISE = (85, 86)


class MongoDBOperations(Operations["Client"]):
    """The operations over a client of PyMongo. `MongoDBStore` documents the arguments."""

    name = "mongodb"
    capabilities = ~Capability(0)
    driver_errors = (errors.PyMongoError, BSONError)

    def __init__(
        self,
        *,
        database_name: str,
        collection_name: str,
        session_id_key: str,
        history_key: str,
        create_index: bool,
        index_kwargs: dict[str, Any] | None,
    ) -> None:
        """Keep the names."""
        super().__init__()
        self._database_name = database_name
        self._collection_name = collection_name
        self._session_id_key = session_id_key
        self._history_key = history_key
        self._create_index = create_index
        self._index_kwargs = index_kwargs

    @property
    def place(self) -> Hashable:
        names = (self._database_name, self._collection_name, self._session_id_key)
        return (*names, self._create_index, repr(self._index_kwargs))

    async def run(self, client: Client, body: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
        limit = deadline()
        if limit is None:
            return await settle(body(client))
        if isinstance(client, pymongo.MongoClient | pymongo.AsyncMongoClient) and not client.nodes:
            # No server is known, and with a time-out PyMongo would look for one as long as that.
            with pymongo.timeout(min(limit.left(), client.options.server_selection_timeout)):
                await settle(client.admin.command("ping"))
        # All waits of PyMongo together, and its second tries. A connection without an answer is closed.
        with contextlib.ExitStack() as stack:
            stack.enter_context(pymongo.timeout(limit.left()))
            if limit.is_idle:
                # Behind the first answer each has the time-out of its socket, because the others may be large.
                limit.on_answer = stack.close
            return await settle(body(client))

    def is_unavailable(self, error: Exception) -> bool:
        return is_unavailable(error)

    def advice(self, error: Exception) -> str | None:
        if not _CLOSED.search(str(error)):
            return None
        return (
            "The server closes new connections, as it does without a word when it has as many as it takes (lower "
            "max_connections, or raise its net.maxIncomingConnections), or where it wants TLS."
        )

    def is_cut(self, client: Client, error: Exception) -> bool:  # noqa: ARG002  # any client opens another
        return isinstance(error, errors.AutoReconnect) and not isinstance(error, _NOT_CUT)

    def _collections(self, client: Client) -> tuple[Collection, Collection]:
        """The messages and the sessions."""
        concern = client.write_concern
        # The majority, because a failover can roll back less. Nothing can be built on unacknowledged writes.
        if not isinstance(concern, WriteConcern) or concern.is_server_default or not concern.acknowledged:
            concern = WriteConcern("majority")
        database = client.get_database(
            self._database_name, write_concern=concern, read_preference=ReadPreference.PRIMARY
        )
        return database[self._collection_name], database[f"{self._collection_name}_sessions"]

    def _outbox(self, client: Client) -> Outbox:
        return Outbox(*self._collections(client), self._session_id_key, self._history_key, self.ttl)

    # Set-up.

    async def look(self, client: Client) -> bool:
        # A collection that is missing is empty for the service too.
        await self.run(client, self._check_collation)
        return True

    async def setup(self, client: Client, *, upgrade: bool = False) -> None:  # noqa: ARG002  # nothing to upgrade
        if not self.found.is_there:
            await self.run(client, self._check_collation)
        if not self._create_index:
            return
        messages, sessions = self._collections(client)
        await self._make_index(messages, [(self._session_id_key, 1), ("seq", 1), ("_id", 1)])
        await self._make_index(sessions, [("touched", -1), ("_id", -1)])
        if self._index_kwargs is not None:
            await self._make_index(messages, self._session_id_key, **self._index_kwargs)

    async def _check_collation(self, client: Client) -> None:
        """Refuse a collection that takes `ivan` and `Ivan` for the same session."""
        database = client.get_database(self._database_name)
        try:
            found = await settle(database.list_collections(filter={"name": self._collection_name}))
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
                    f"The collection {self._database_name}.{self._collection_name} compares text by the collation "
                    f"{locale!r}, so sessions would be mixed up: histories need one without a collation."
                )

    async def _make_index(self, messages: Collection, keys: str | list[tuple[str, int]], **options: Any) -> None:
        try:
            await settle(messages.create_index(keys, **options))
        except errors.OperationFailure as error:
            if error.code in _INDEX_EXISTS_OTHERWISE:
                return
            if error.code != _UNAUTHORIZED:
                raise
            logger.debug("The index on %s of %s may not be made with these rights.", keys, messages.full_name)

    # Messages.

    async def append(self, client: Client, key: str, rows: Sequence[str]) -> None:
        await self._outbox(client).append(key, rows)

    async def read(
        self,
        client: Client,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        return await self._outbox(client).read(key, last=last, first=first, after=after)

    async def count(self, client: Client, key: str) -> int:
        return await self._outbox(client).count(key)

    async def clear(self, client: Client, key: str) -> None:
        await self._outbox(client).clear(key)

    async def replace(self, client: Client, key: str, rows: Sequence[str]) -> None:
        await self._outbox(client).replace(key, rows)

    async def edit(
        self, client: Client, key: str, rows: Sequence[str], *, expected: Sequence[Row], kept: int, after: str | None
    ) -> bool:
        return await self._outbox(client).edit(key, rows, expected=expected, kept=kept, after=after)

    async def delete(self, client: Client, key: str, rows: Sequence[Row]) -> int:
        return await self._outbox(client).delete(key, rows)

    # Listing.

    async def sessions(
        self, client: Client, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        found: list[SessionRow] = []
        while limit is None or len(found) < limit:
            size = _SESSIONS_PER_PAGE if limit is None else min(_SESSIONS_PER_PAGE, limit - len(found))
            keys = await self._keys(client, prefix, size, after)
            found += await self._page(client, keys)
            if len(keys) < size:
                break
            after = keys[-1]
        return found

    async def _keys(self, client: Client, prefix: str, limit: int, after: str | None) -> list[str]:
        """Return the next session ids, in byte order; also of sessions that have a state alone."""
        messages, sessions = self._collections(client)
        within = {"$gte": prefix}
        if (end := prefix_end(prefix)) is not None:
            within["$lt"] = end
        if after is not None:
            within["$gt"] = after
        pipeline: list[dict[str, Any]] = [
            {"$match": {self._session_id_key: within}},
            {"$group": {"_id": f"${self._session_id_key}"}},
            {"$sort": {"_id": 1}},
            {"$limit": limit},
        ]
        keys = {document["_id"] async for document in each(await settle(messages.aggregate(pipeline)))}
        if prefix[:1] in _OTHERS_BEGIN:
            # LangChain's class stores a number as a number, which the service orders apart.
            types = [{self._session_id_key: {"$type": name}} for name in _OTHER_TYPES]
            others = await settle(messages.aggregate([{"$match": {"$or": types}}, pipeline[1]]))
            found = {str(document["_id"]) async for document in each(others)}
            keys |= {key for key in found if key.startswith(prefix) and (after is None or key > after)}
        documents = sessions.find({"_id": within}, {"_id": 1}, sort=[("_id", 1)], limit=limit)
        keys |= {document["_id"] async for document in each(documents)}
        return sorted(keys, key=str.encode)[:limit]

    async def _page(self, client: Client, keys: list[str]) -> list[SessionRow]:
        """Return those of the sessions that have records.

        The documents tell what is in a session, unless a writer has not finished it. Those are read one by one.
        """
        messages, sessions = self._collections(client)
        fields = ("pending.0", "removing", "ttl")
        unfinished = {"_id": {"$in": keys}, "$or": [{name: {"$exists": True}} for name in fields]}
        found = [
            document
            async for document in each(sessions.find(unfinished, {"pending.batch": 1, "removing": 1, "ttl": 1}))
        ]
        unfinished_keys = {document["_id"] for document in found if document.get("pending") or "removing" in document}
        if expiring := [document["_id"] for document in found if "ttl" in document]:
            expired = sessions.find({"_id": {"$in": expiring}, **EXPIRED}, {"_id": 1})
            unfinished_keys |= {document["_id"] async for document in each(expired)}
        pipeline: list[dict[str, Any]] = [
            {"$match": {self._session_id_key: {"$in": stored_ids(keys)}}},
            {"$group": {"_id": f"${self._session_id_key}", "count": {"$sum": 1}, "newest": {"$max": "$seq"}}},
        ]
        groups = [document async for document in each(await settle(messages.aggregate(pipeline)))]
        last = await self._last_texts(client, {group["_id"]: group["newest"] for group in groups if group["newest"]})
        counts: Counter[str] = Counter()
        for group in groups:
            counts[str(group["_id"])] += group["count"]
        rows = {key: SessionRow(key, count, last.get(key)) for key, count in counts.items()}
        for key in unfinished_keys:
            try:
                tail = await self._outbox(client).read(key, last=1)
                rows[key] = SessionRow(key, await self._outbox(client).count(key), tail[0].text if tail else None)
            except CorruptRecordError as error:
                logger.warning("%s The list of sessions leaves it out.", error)
                rows.pop(key, None)
        return [rows[key] for key in keys if key in rows and rows[key].count]

    async def _last_texts(self, client: Client, newest: dict[str, Any]) -> dict[str, str]:
        """Return the texts of the records with these numbers, by session."""
        if not newest:
            return {}
        messages, _ = self._collections(client)
        outbox = self._outbox(client)
        wanted = [{self._session_id_key: key, "seq": number} for key, number in newest.items()]
        documents = messages.find({"$or": wanted}, {self._session_id_key: 1, self._history_key: 1})
        return {document[self._session_id_key]: outbox.text_of(document) async for document in each(documents)}

    async def newest(
        self, client: Client, *, prefixes: Sequence[str], limit: int, after: str | None
    ) -> Sequence[NewestRow]:
        (prefix,) = prefixes
        found: list[NewestRow] = []
        while len(found) < limit:
            page = await self._newest_page(client, prefix, limit - len(found), after)
            if not page:
                break
            found += await self._newest_rows(client, page)
            after = page[-1]["position"]
        return found

    async def _newest_page(self, client: Client, prefix: str, limit: int, after: str | None) -> list[dict[str, Any]]:
        """Return the next documents of sessions; behind them those of LangChain's class, of which no time is known."""
        _, sessions = self._collections(client)
        number, key = (None, None) if after is None else (position_number(after), after.partition("-")[2])
        if number != 0:
            query: dict[str, Any] = {"touched": {"$type": "date"}}
            if prefix:
                query["_id"] = {"$gte": prefix}
                if (end := prefix_end(prefix)) is not None:
                    query["_id"]["$lt"] = end
            if number is not None:
                time = _EPOCH + dt.timedelta(milliseconds=number)
                behind = [{"touched": {"$lt": time}}, {"touched": time, "_id": {"$lt": key}}]
                query = {"$and": [query, {"$or": behind}]}
            order = [("touched", -1), ("_id", -1)]
            page = [document async for document in each(sessions.find(query, _LISTED, sort=order, limit=limit))]
            for document in page:
                since = document["touched"].replace(tzinfo=dt.UTC) - _EPOCH.replace(tzinfo=dt.UTC)
                document["position"] = f"{since // dt.timedelta(milliseconds=1)}-{document['_id']}"
            if page:
                return page
            key = None
        while keys := await self._keys(client, prefix, limit, key):
            known = {
                document["_id"]: document async for document in each(sessions.find({"_id": {"$in": keys}}, _LISTED))
            }
            others = [{"_id": key, **known.get(key, {})} for key in keys]
            if page := [{**other, "position": f"0-{other['_id']}"} for other in others if "touched" not in other]:
                return page
            key = keys[-1]
        return []

    async def _newest_rows(self, client: Client, page: Sequence[dict[str, Any]]) -> list[NewestRow]:
        """Return what is shown of some sessions, without those that have no records."""
        messages, sessions = self._collections(client)
        keys: list[str] = [document["_id"] for document in page]
        unfinished = {document["_id"] for document in page if document.get("pending") or "removing" in document}
        if any("ttl" in document for document in page):
            expired = [d["_id"] async for d in each(sessions.find({"_id": {"$in": keys}, **EXPIRED}, {"_id": 1}))]
            unfinished.update(expired)
            page = [{**document, "state": None} if document["_id"] in expired else document for document in page]
        rows = {row.key: row for row in await self._page(client, keys)}
        pipeline: list[dict[str, Any]] = [
            {"$match": {self._session_id_key: {"$in": stored_ids(list(rows))}}},
            {"$sort": {self._session_id_key: 1, "seq": 1, "_id": 1}},
            {"$group": {"_id": f"${self._session_id_key}", "first": {"$first": f"${self._history_key}"}}},
        ]
        groups = await settle(messages.aggregate(pipeline))
        firsts = {str(group["_id"]): group["first"] async for group in each(groups)}
        found = []
        for document in page:
            if (row := rows.get(document["_id"])) is None:
                continue
            first, last, state = firsts.get(row.key), row.last, document.get("state")
            if row.key in unfinished:
                first = next((other.text for other in await self._outbox(client).read(row.key, first=1)), None)
            if last is None:
                last = next((other.text for other in await self._outbox(client).read(row.key, last=1)), None)
            first, state = (text if isinstance(text, str) else None for text in (first, state))
            found.append(NewestRow(row.key, document["position"], row.count, first, last, state))
        return found

    async def erase(self, client: Client, prefix: str) -> int:
        erased, after = 0, None
        while keys := await self._keys(client, prefix, _SESSIONS_PER_PAGE, after):
            for key in keys:
                await self._outbox(client).clear(key)
            erased, after = erased + len(keys), keys[-1]
        return erased

    async def sweep(self, client: Client, limit: int) -> int:
        _, sessions = self._collections(client)
        keys = [document["_id"] async for document in each(sessions.find(EXPIRED, {"_id": 1}).limit(limit))]
        for key in keys if limit else ():  # to the service 0 means no limit
            await self._outbox(client).forget_expired(key)
        return len(keys) if limit else 0

    # The state is a field of the session's document.

    async def get_state(self, client: Client, key: str) -> str | None:
        return await self._outbox(client).state(key)

    async def put_state(
        self, client: Client, key: str, text: str | None, *, expected: ExpectedState = ANY_STATE
    ) -> bool:
        this: dict[str, Any] = {"_id": key}
        if expected is not ANY_STATE:
            this["state"] = {"$exists": False} if expected is None else expected
        if self.ttl is not None:
            await self._outbox(client).forget_expired(key)
        if text is None:
            return await self._remove_state(client, this) or expected is ANY_STATE
        check_state_size(text, expected)
        if self.ttl is None and not isinstance(expected, str | bytes):
            # One that expires may have expired already; a state that is expected was seen before that.
            this["ttl"] = {"$exists": False}
        while True:
            try:
                return await self._store_state(client, this, text, expected)
            except errors.DuplicateKeyError:
                if expected is None and await self.get_state(client, key) is not None:
                    return False
                await self._outbox(client).forget_expired(key)
                this.pop("ttl", None)
            except errors.OperationFailure:
                if not await self._outbox(client).make_room(key, [text], replaced="state"):
                    raise

    async def _store_state(self, client: Client, this: dict[str, Any], text: str, expected: ExpectedState) -> bool:
        """Store a state where there is `this`, or with a new session; tell whether the state was as expected.

        Raises:
            DuplicateKeyError: There is a session, and not as `this` says.
        """
        if expected is None and self.ttl is None:
            return await self._add_state(client, this, text)
        _, sessions = self._collections(client)
        is_there = bool((await settle(sessions.update_one(this, {"$set": {"state": text}}))).matched_count)
        if is_there or isinstance(expected, str | bytes):
            return is_there
        await self._outbox(client).insert(await self._outbox(client).new_session(this["_id"], state=text))
        return True

    async def _add_state(self, client: Client, this: dict[str, Any], text: str) -> bool:
        """Store the first state of a session, which may be there already or not; tell whether it was the first.

        Raises:
            DuplicateKeyError: Others have made the session meanwhile, without a state.
        """
        _, sessions = self._collections(client)
        new = await self._outbox(client).new_session(this["_id"])
        del new["_id"]
        try:
            # To update and then to insert would be a round trip more.
            await settle(sessions.update_one(this, {"$set": {"state": text}, "$setOnInsert": new}, upsert=True))
        except errors.DuplicateKeyError:
            if await self.get_state(client, this["_id"]) is None:
                raise
            return False
        return True

    async def _remove_state(self, client: Client, this: dict[str, Any]) -> bool:
        """Remove the state where there is `this`, and a session that is empty then; tell whether `this` was there."""
        _, sessions = self._collections(client)
        result = await settle(sessions.update_one(this, {"$unset": {"state": ""}}))
        nothing_left = {"appended": 0, "alone": {"$exists": False}, "state": {"$exists": False}}
        await settle(sessions.delete_one({"_id": this["_id"], **nothing_left}))
        return bool(result.matched_count)
