"""The outbox protocol: it keeps batches whole without transactions, so on a standalone server too.

A server that is no replica set has no transactions, and an `insert_many` that breaks off leaves a part of its batch.
But the update of one document is atomic on every server. So each session has a document of its own, in
`message_store_sessions`, and every operation takes effect by one update of it. Then the operation brings the messages
into line with it. A message is `{_id: "<seq>-<generation>", SessionId, History: <JSON text>, seq}` in `message_store`.

| operation | its one update of the session | what it does then |
|---|---|---|
| `append` | **commit**: count the records, push the batch to `pending` | **deliver** |
| `delete` | push to `deleted` and `removing` | **remove** |
| `replace` | begin a new generation, its records `pending` | remove, deliver |
| `clear` | begin a new generation without records | remove, then delete the session itself |

To deliver is to insert a document per pending record, and then to pull the batches from `pending`. To remove is to
delete the documents in `removing` and those of older generations, and then to unset `removing`.

| field of the session | meaning |
|---|---|
| `_id` | the session id |
| `generation` | a unique name; `replace`, `clear` and the first append after `clear` begin a new one |
| `start`, `appended` | the records of this generation have `start + 1` to `start + appended` as their `seq` |
| `pending` | batches that are committed and not delivered: `[{batch, records: [text]}]` |
| `deleted` | the numbers of the records that `delete` and `edit` removed last |
| `removing` | the `_id`s of the documents that `delete`, `edit` or `replace` still has to delete |
| `alone` | set by `replace` and `clear`: older generations have no visible records |
| `state` | the state of the session |
| `touched` | when records were written last, by the server's clock |
| `slid`, `ttl` | when it was appended to, by the server's clock, and how many seconds later it expires |

A reader reads the session first, then the documents. It shows the documents that the session counts as delivered and
does not hide by `deleted`, `alone` or `removing`, and behind them the pending records. Wherever a writer died, readers
see its operation whole or not at all, and the next writer finishes it. Five rules are behind that.

1. The pending batches are always the newest ones, so `start` and `appended` tell the numbers of their records. To keep
   it so, a writer that finds others pending before its own delivers them too: their writer may have died.
2. The `_id` of a document follows from its number. Two writers that deliver one batch make the same documents, and the
   server refuses the second ones.
3. A delivery may be late: somebody has deleted one of its records, or begun a new generation. The writer looks for that
   after its inserts, and deletes the documents that should not be there. Until then the session hides them.
4. A new generation may begin between the two reads of a reader, and take the documents away. A reader that finds fewer
   records than the session counts looks at the session again, and starts over if the generation has changed.
5. Documents without `seq` are LangChain's. They come before all others, and no session is needed to see them.

What has expired is hidden by the session: readers see the documents of LangChain's class alone whose `_id` is younger.
Who writes to it first begins a new generation without records or a state, which changes nothing that anybody sees.

If `message_store_sessions` is lost, states and pending batches are lost; delivered messages stay visible.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import uuid
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import bson
import pymongo
from pymongo import errors

from langchain_histories.errors import CorruptRecordError, RecordTooLargeError
from langchain_histories.stores.base import Row, each, position_number, same_rows, settle
from langchain_histories.stores.mongodb.connections import is_unavailable
from langchain_histories.stores.mongodb.positions import (
    LANGCHAINS,
    id_of,
    is_langchains,
    number_of,
    position_of,
    position_of_document,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymongo.asynchronous.collection import AsyncCollection

Document: TypeAlias = dict[str, Any]

logger = logging.getLogger(__name__)

# Session ids as `str` writes a number and an ObjectId.
_NUMBER = re.compile("0|-?[1-9][0-9]{0,18}")
_OBJECT_ID = re.compile("[0-9a-f]{24}")

_MAX_BYTES = 16 * 2**20 - 2**16  # a document has 16 MiB at most; leaves room for all but the texts
_ROW_BYTES = 32  # what a text of a batch needs besides itself
# Deletions remembered per session. A writer that is late by more deletions than this could restore one.
_DELETIONS_KEPT = 256
_PER_ANSWER = 10_000  # documents, where the server's default is 101; it sends no more than 16 MB anyway
_DUPLICATE_KEY = 11000
_EXPIRES: Document = {"ttl": {"$exists": True}}
# As numbers, because all servers that speak this protocol compare those alike.
_END: Document = {"$add": [{"$toLong": "$slid"}, {"$multiply": ["$ttl", 1000]}]}
_IS_OVER: Document = {"$lte": [_END, {"$toLong": "$$NOW"}]}
EXPIRED: Document = {**_EXPIRES, "$expr": _IS_OVER}
"""The query for the sessions that have expired."""
_GENERATION = ("generation", "start", "appended", "pending", "deleted", "alone", "removing")


@dataclasses.dataclass(frozen=True, slots=True)
class SessionDocument:
    """The document of a session, without its state.

    Attributes:
        hides_older: The field `alone`. The other attributes have the names of their fields.
        over: When it expired, in milliseconds since 1970; `None` if it has not.
    """

    generation: str
    start: int
    appended: int
    pending: list[Document]
    deleted: frozenset[int]
    hides_older: bool
    removing: list[Any] | None
    over: int | None = None

    @classmethod
    def of(cls, document: Document) -> Self:
        """Read a document.

        Raises:
            CorruptRecordError: It is not as this package writes it.
        """
        generation: Any = document.get("generation")
        start: Any = document.get("start")
        appended: Any = document.get("appended")
        pending, deleted = document.get("pending", []), document.get("deleted", [])
        removing, alone = document.get("removing"), document.get("alone", False)
        if (
            isinstance(generation, str)
            and all(isinstance(number, int) and number >= 0 for number in (start, appended))
            and isinstance(pending, list)
            and all(map(_is_batch, pending))
            and isinstance(deleted, list)
            and all(isinstance(number, int) for number in deleted)
            and (removing is None or isinstance(removing, list))
            and isinstance(alone, bool)
        ):
            over = document.get("end") if document.get("over") else None
            return cls(generation, start, appended, pending, frozenset(deleted), alone, removing, over)
        session_id = str(document["_id"])
        raise CorruptRecordError(
            f"The document of session {session_id!r}, which tells which of its messages are valid, is not as this "
            "package writes it. Restore it, or clear the session.",
            session_id,
        )

    @property
    def newest(self) -> int:
        """The number of the last record."""
        return self.start + self.appended

    @property
    def delivered(self) -> int:
        """The number of the last record that is not pending."""
        return self.newest - sum(len(batch["records"]) for batch in self.pending)

    def pending_records(self) -> list[tuple[int, str]]:
        """The numbers and texts of the pending records."""
        if self.over is not None:
            return []
        texts = [text if isinstance(text, str) else "" for batch in self.pending for text in batch["records"]]
        return [record for record in enumerate(texts, self.delivered + 1) if record[0] not in self.deleted]

    def count_behind(self, number: int) -> int:
        """How many records there are behind a number of this generation."""
        if self.over is not None:
            return 0
        return self.newest - number - sum(number < deleted <= self.newest for deleted in self.deleted)


def _is_batch(batch: Any) -> bool:
    """Whether this is a pending batch; its records may be anything."""
    return isinstance(batch, dict) and isinstance(batch.get("batch"), str) and isinstance(batch.get("records"), list)


class _DocumentRow(Row):
    """A row of a document: its position, which takes a while for LangChain's, is made when a reader asks for it."""

    __slots__ = ()

    @property
    def position(self) -> str:
        """The position of the document, which stands in the place of a position."""
        document: Any = self[1]
        return position_of_document(document)


def stored_ids(keys: Sequence[str]) -> list[Any]:
    """Return the values that these session ids have in messages: LangChain's class stores a number as a number."""
    numbers = [int(key) for key in keys if _NUMBER.fullmatch(key) and -(2**63) <= int(key) < 2**63]
    objects = [bson.ObjectId(key) for key in keys if _OBJECT_ID.fullmatch(key)]
    return [*keys, *numbers, *objects]


class Outbox:
    """The protocol, over the two collections of a store.

    Args:
        messages: The collection of the messages.
        sessions: The collection of the sessions.
        session_id_key: The field of the session id in a message.
        history_key: The field of the text in a message.
        ttl: Seconds after its last append at which a session expires.
    """

    def __init__(
        self,
        messages: AsyncCollection[Document],
        sessions: AsyncCollection[Document],
        session_id_key: str,
        history_key: str,
        ttl: int | None,
    ) -> None:
        """Keep the collections."""
        self._messages, self._sessions, self._ttl = messages, sessions, ttl
        self._session_id_key, self._history_key = session_id_key, history_key

    def _of(self, key: str) -> Document:
        """The query for all messages of a session."""
        values = stored_ids([key])
        return {self._session_id_key: key if values == [key] else {"$in": values}}

    async def _session(self, key: str) -> SessionDocument | None:
        document = await self._found(key, _GENERATION)
        return None if document is None else SessionDocument.of(document)

    async def _found(self, key: str, fields: Sequence[str]) -> Document | None:
        """Return fields of the session, and whether it is `over` at its `end`, if it expires at all."""
        if self._ttl is None:
            document: Document | None = await settle(
                self._sessions.find_one({"_id": key}, dict.fromkeys((*fields, "ttl"), 1))
            )
            if document is None or "ttl" not in document:
                return document
        wanted = {**dict.fromkeys((*fields, "ttl"), 1), "end": _END, "over": {"$and": [{"$gt": ["$ttl", 0]}, _IS_OVER]}}
        found = await settle(self._sessions.aggregate([{"$match": {"_id": key}}, {"$project": wanted}]))
        documents = [document async for document in each(found)]
        return documents[0] if documents else None

    async def state(self, key: str) -> str | None:
        """Return the state of a session."""
        document = await self._found(key, ("state",))
        return None if document is None or document.get("over") else document.get("state")

    # Expiry.

    def slide(self) -> Document:
        """What is added to the update of a session that is appended to."""
        if self._ttl is None:
            return {"$currentDate": {"touched": True}}
        return {"$currentDate": {"touched": True, "slid": True}, "$set": {"ttl": self._ttl}}

    async def insert(self, session: Document) -> None:
        """Insert the document of a session, which expires from now on.

        Raises:
            DuplicateKeyError: It is there.
        """
        # An update, because it alone knows the server's clock. It updates no session that is there.
        slide = self.slide()
        new = {name: value for name, value in session.items() if name != "_id"} | slide.pop("$set", {})
        this = {"_id": session["_id"], "generation": {"$exists": False}}
        change = {"$setOnInsert": new, **slide}
        await settle(self._sessions.update_one(this, change, upsert=True))

    async def forget_expired(self, key: str) -> None:
        """If the session has expired, begin a generation without what readers do not see any more."""
        while (session := await self._session(key)) is not None and session.over is not None:
            old = self._messages.find({"$and": [self._of(key), LANGCHAINS, _older(session.over)]}, {"_id": 1})
            new = {
                "generation": str(bson.ObjectId()),
                "start": session.newest,
                "appended": 0,
                "pending": [],
                "alone": True,
                "removing": [document["_id"] async for document in each(old)],
            }
            this = {"_id": key, "generation": session.generation, "appended": session.appended}
            change = {"$set": new, "$unset": dict.fromkeys(("deleted", "state", "slid", "ttl"), "")}
            if (await settle(self._sessions.update_one({**this, **EXPIRED}, change))).matched_count:
                await self._finish(key)
                await self._drop_empty(key, new["generation"])
                return

    async def _drop_empty(self, key: str, generation: Any) -> None:
        """Delete a session that was cleared, unless somebody has appended or stored a state meanwhile."""
        empty = {"_id": key, "generation": generation, "appended": 0, "state": {"$exists": False}}
        await settle(self._sessions.delete_one(empty))

    def text_of(self, document: Document) -> str:
        """The text of a record; the empty text, which is no record, where a document of somebody else's has none."""
        text = document.get(self._history_key)
        return text if isinstance(text, str) else ""

    # Appending.

    async def append(self, key: str, rows: Sequence[str]) -> None:
        """Commit a batch, and deliver it."""
        check_size(rows)
        batch = uuid.uuid4().hex
        session = await self._commit(key, batch, rows)
        try:
            waiting = [pending.get("batch") if isinstance(pending, dict) else None for pending in session["pending"]]
            if waiting == [batch] and "removing" not in session:
                found = SessionDocument.of({**session, "pending": []})
                first = found.newest - len(rows) + 1
                await self._deliver(key, found.generation, list(enumerate(rows, first)), [batch])
            else:
                await self._finish(key)
        except CorruptRecordError:
            # Nobody can number the records. Readers have seen none of them.
            undo = {"$pull": {"pending": {"batch": batch}}, "$inc": {"appended": -len(rows)}}
            await settle(self._sessions.update_one({"_id": key}, undo))
            raise
        except errors.PyMongoError as error:
            if not is_unavailable(error):
                raise
            # The append has not failed: readers see the batch, and the next append delivers it.
            logger.warning("A batch of session %r waits for its delivery (%s).", key, type(error).__name__)

    async def _commit(self, key: str, batch: str, rows: Sequence[str]) -> Document:
        """Add a batch to the session, and return the session without the texts. The batch is stored from then on."""
        pending = {"batch": batch, "records": list(rows)}
        change = {"$inc": {"appended": len(rows)}, "$push": {"pending": pending}, **self.slide()}
        # Not to one that has expired; without a `ttl` it is looked for only where a session expires.
        this: Document = {"_id": key, **({"ttl": {"$exists": False}} if self._ttl is None else {"$nor": [EXPIRED]})}
        fields = {"generation": 1, "start": 1, "appended": 1, "pending.batch": 1, "removing": 1}
        changed = pymongo.ReturnDocument.AFTER
        while True:
            try:
                session: Document | None = await settle(
                    self._sessions.find_one_and_update(this, change, fields, return_document=changed)
                )
                if session is None:
                    session = await self.new_session(key, appended=len(rows), pending=[pending])
                    await self.insert(session)
            except errors.DuplicateKeyError:
                await self.forget_expired(key)
                this = {"_id": key, "$nor": [EXPIRED]}
            except errors.OperationFailure:
                if not await self.make_room(key, rows):
                    raise
            else:
                return session

    async def _deliver(self, key: str, generation: str, records: list[tuple[int, str]], batches: list[str]) -> None:
        """Make documents of pending records, and pull their batches from the session."""
        documents: list[Document] = [
            {
                "_id": position_of(number, generation),
                self._session_id_key: key,
                self._history_key: text,
                "seq": number,
            }
            for number, text in records
        ]
        if documents:
            try:
                await settle(self._messages.insert_many(documents, ordered=False))
            except errors.BulkWriteError as error:
                _check_others_were_faster(error)
        this: Document = {"_id": key, "generation": generation}
        pull = {"$pull": {"pending": {"batch": {"$in": batches}}}}
        first = records[0][0] if records else 0
        result = await settle(self._sessions.update_one({**this, "deleted": {"$not": {"$gte": first}}}, pull))
        if result.matched_count:
            return
        # Somebody deleted records or began a new generation, perhaps before the documents were there.
        session = await self._session(key)
        if session is None or session.generation != generation:
            late = [document["_id"] for document in documents]
        else:
            late = [position_of(number, generation) for number in session.deleted]
        await settle(self._messages.delete_many({"_id": {"$in": late}}))
        await settle(self._sessions.update_one(this, pull))

    async def _finish(self, key: str) -> None:
        """Finish what writers left behind: delete the documents in `removing`, and deliver all pending batches."""
        session = await self._session(key)
        if session is None:
            return
        if session.removing is not None:
            doomed: list[Document] = [{"_id": {"$in": session.removing}}]
            if session.hides_older:
                doomed.append({"seq": {"$lte": session.start}})
            await settle(self._messages.delete_many({**self._of(key), "$or": doomed}))
            this = {"_id": key, "generation": session.generation, "removing": session.removing}
            await settle(self._sessions.update_one(this, {"$unset": {"removing": ""}}))
        if session.pending:
            batches = [pending["batch"] for pending in session.pending]
            await self._deliver(key, session.generation, session.pending_records(), batches)

    async def new_session(self, key: str, **fields: Any) -> Document:
        """Return a document for a session that has none; its numbers begin behind those of messages that are there.

        Two upserts of it at once are an error on some servers, and so are two insertions.
        """
        newest = await settle(self._messages.find_one(self._of(key), {"seq": 1}, sort=[("seq", -1)]))
        start = number_of(newest or {})
        return {"_id": key, "generation": str(bson.ObjectId()), "start": start, "appended": 0, "pending": [], **fields}

    async def make_room(self, key: str, texts: Sequence[str], *, replaced: str = "") -> bool:
        """Deliver the pending batches if the server refused `texts` because of them; tell whether it did.

        Args:
            key: The session.
            texts: What was to be added to the session.
            replaced: The field in whose place they were to be put.

        Raises:
            RecordTooLargeError: There is no room without the pending batches either.
        """
        session = await settle(self._sessions.find_one({"_id": key}, {replaced: 0} if replaced else None)) or {}
        if len(bson.encode(session)) + _size(texts) <= _MAX_BYTES:
            return False
        if not session.get("pending"):
            raise RecordTooLargeError(
                f"The new records and the state of session {key!r} do not fit in one document of MongoDB (16 MB) "
                "together: append fewer messages at once, or keep a smaller state."
            )
        await self._finish(key)
        return True

    # Reading.

    async def read(
        self, key: str, *, last: int | None = None, first: int | None = None, after: str | None = None
    ) -> list[Row]:
        """Return the visible records: those after a position, and of these the last or the first n."""
        while True:
            session = await self._session(key)
            behind = await self._behind(key, session, after)
            begin = behind.get("seq", {}).get("$gt", 0)
            pending = [record for record in session.pending_records() if record[0] > begin] if session else []
            if last is not None:
                pending = pending[-last:]
            documents: list[Document] = []
            only_pending = session is not None and "seq" in behind and begin >= session.delivered
            if not only_pending and (last is None or last != len(pending)):
                query = self._visible(key, session)
                if behind:
                    query = {"$and": [query, behind]}
                documents = await self._find(query, last=None if last is None else last - len(pending), first=first)
            rows: list[Row] = [_DocumentRow._make((self.text_of(document), document)) for document in documents]
            numbers = [number_of(document) for document in documents]
            if session is not None:
                rows += [Row(text, position_of(number, session.generation)) for number, text in pending]
                numbers += [number for number, _ in pending]
            if first is not None and len(rows) >= first:
                is_whole = await self._is_same_generation(key, session)
            else:
                is_whole = await self._is_whole(key, session, numbers, begin, is_full=len(rows) == last)
            if is_whole:
                return rows[:first]

    async def _find(self, query: Document, *, last: int | None, first: int | None) -> list[Document]:
        """Return the documents that a query finds, oldest first."""
        options: Document = {"batch_size": _PER_ANSWER}
        if last is not None:
            options |= {"sort": [("seq", -1), ("_id", -1)], "limit": last}
        elif first is not None:
            options |= {"sort": [("seq", 1), ("_id", 1)], "limit": first}
        found = self._messages.find(query, {self._history_key: 1, "seq": 1}, **options)
        documents = [document async for document in each(found)]
        # Sorted here, because a server without the index refuses to sort many large documents.
        documents.sort(key=lambda document: (number_of(document), str(document["_id"])))
        return documents

    def _visible(self, key: str, session: SessionDocument | None) -> Document:
        """The query for the documents that a reader may see."""
        query: Document = self._of(key)
        if session is None:
            return query
        if session.over is not None:
            return {"$and": [query, LANGCHAINS, {"$nor": [_older(session.over)]}]}
        query["seq"] = {"$not": {"$gt": session.delivered}}
        if session.deleted:
            query["seq"]["$nin"] = list(session.deleted)
        if session.hides_older:
            query["$nor"] = [{"seq": {"$lte": session.start}}]
        if session.removing:
            query["_id"] = {"$nin": session.removing}
        return query

    async def _behind(self, key: str, session: SessionDocument | None, after: str | None) -> Document:
        """The query for the documents behind a position."""
        if after is None:
            return {}
        number = position_number(after)
        if is_langchains(after):
            return {"$or": [{"seq": {"$gt": 0}}, {**LANGCHAINS, "_id": {"$gt": id_of(after)}}]}
        behind = {"seq": {"$gt": number}}
        if session is not None and after == position_of(number, session.generation):
            return behind
        # The generation of the position has ended, so everything is new, unless the record is still there.
        record = await settle(self._messages.find_one({"_id": after, **self._of(key)}, {"_id": 1}))
        return {} if record is None else behind

    async def _is_whole(
        self, key: str, session: SessionDocument | None, numbers: list[int], begin: int, *, is_full: bool
    ) -> bool:
        """Whether a reader missed nothing. Mostly the numbers prove it, else the session is looked at again (rule 4).

        Args:
            key: The session's id.
            session: The session as it was before the documents were read.
            numbers: The numbers of the records that were read.
            begin: The number behind which they were to be read.
            is_full: Whether only the last ones were to be read, and that many were found.
        """
        if session is None:
            if not numbers:
                return True
        else:
            begin = max(begin, session.start)
            if is_full and numbers:
                begin = max(begin, numbers[0] - 1)
            only_this_generation = not numbers or numbers[0] > session.start
            if only_this_generation and len(numbers) == session.count_behind(begin):
                return True
        return await self._is_same_generation(key, session)

    async def _is_same_generation(self, key: str, session: SessionDocument | None) -> bool:
        now = await settle(self._sessions.find_one({"_id": key}, {"generation": 1}))
        return (now.get("generation") if now else None) == (session.generation if session else None)

    async def count(self, key: str) -> int:
        """Return the number of visible records."""
        while True:
            session = await self._session(key)
            count = await settle(self._messages.count_documents(self._visible(key, session)))
            count += len(session.pending_records()) if session else 0
            expected = session.count_behind(session.start) if session else 0
            if count == expected or await self._is_same_generation(key, session):
                return count

    # Changing.

    async def replace(self, key: str, rows: Sequence[str]) -> None:
        """Put `rows` in place of all records; the state stays."""
        check_size(rows)
        await self._begin_generation(key, rows)

    async def clear(self, key: str) -> None:
        """Remove all records, the state and the session."""
        try:
            await self._begin_generation(key, [], forgotten=["state", "slid", "ttl"])
        except CorruptRecordError:
            # Nobody can tell what is in a session whose document is broken, so no reader sees half of it.
            await settle(self._messages.delete_many(self._of(key)))
            await settle(self._sessions.delete_one({"_id": key}))

    async def _begin_generation(self, key: str, rows: Sequence[str], *, forgotten: Sequence[str] = ()) -> None:
        """Hide all records behind a new generation with `rows`, and delete them; without rows, the session too.

        Args:
            key: The session's id.
            rows: The records of the new generation.
            forgotten: The fields that are unset with it.
        """
        pending = [{"batch": uuid.uuid4().hex, "records": list(rows)}] if rows else []
        while True:
            session = await self._session(key)
            if rows and session is not None and session.over is not None:
                await self.forget_expired(key)
                continue
            if session is None and not rows and not await settle(self._messages.find_one(self._of(key))):
                return
            new = await self.new_session(key, appended=len(rows), pending=pending, alone=True)
            new["start"] = max(new["start"], session.newest if session else 0)
            langchains = self._messages.find({**self._of(key), **LANGCHAINS}, {"_id": 1})
            new["removing"] = [document["_id"] async for document in each(langchains)]
            try:
                if session is None:
                    await self.insert(new)
                    break
                # If somebody has appended or begun a generation meanwhile, nothing matches.
                this = {"_id": key, "generation": session.generation, "appended": session.appended}
                del new["_id"]
                slide = self.slide() if rows else {}
                new |= slide.pop("$set", {})
                change = {"$set": new, "$unset": dict.fromkeys(("deleted", *forgotten), ""), **slide}
                if (await settle(self._sessions.update_one(this, change))).matched_count:
                    break
            except errors.DuplicateKeyError:
                continue
            except errors.OperationFailure:
                await self.make_room(key, rows, replaced="pending")
                raise
        await self._finish(key)
        if not rows:
            await self._drop_empty(key, new["generation"])

    async def edit(
        self, key: str, rows: Sequence[str], *, expected: Sequence[Row], kept: int, after: str | None
    ) -> bool:
        """Put `rows` in place of `expected[kept:]` if these are still all records behind a position; tell whether."""
        check_size(rows)
        document = await self._found(key, _GENERATION)
        if document is not None and document.get("over"):
            await self.forget_expired(key)
            document = await self._found(key, _GENERATION)
        if not same_rows(await self.read(key, after=after), expected):
            return False
        gone = expected[kept:]
        if not rows and not gone:
            return True
        pending = [{"batch": uuid.uuid4().hex, "records": list(rows)}] if rows else []
        try:
            if document is None:
                doomed = [id_of(row.position) for row in gone]
                new = await self.new_session(key, appended=len(rows), pending=pending, removing=doomed)
                await self.insert(new)
            else:
                # Where nobody has appended, deleted or begun a generation, the records are as they were read.
                this = {name: document.get(name) for name in ("_id", "generation", "appended")}
                this["deleted"] = document.get("deleted", {"$exists": False})
                pushed = {"pending": {"$each": pending}, **_deletion(gone, document["generation"])}
                slide = self.slide() if rows else {}
                change = {"$inc": {"appended": len(rows)}, "$push": pushed, **slide}
                if not (await settle(self._sessions.update_one(this, change))).matched_count:
                    return False
        except errors.DuplicateKeyError:
            return False
        except errors.OperationFailure:
            if not await self.make_room(key, rows):
                raise
            return False
        await self._finish(key)
        return True

    async def delete(self, key: str, rows: Sequence[Row]) -> int:
        """Remove records; return how many were still there.

        What is counted are the records that this update of the session has put into `removing`, because another writer
        may delete their documents before this one does.
        """
        ids = [id_of(row.position) for row in rows]
        while True:
            await self._finish(key)
            document = await settle(self._sessions.find_one({"_id": key}, {"state": 0}))
            if document is None:
                result = await settle(self._messages.delete_many({"_id": {"$in": ids}, **self._of(key)}))
                return result.deleted_count
            session = SessionDocument.of(document)
            doomed = await self._still_there(key, session, rows)
            if not doomed:
                return 0
            # Where nobody has deleted or begun a generation, they are still there.
            this = {"_id": key, "generation": session.generation}
            this["deleted"] = document.get("deleted", {"$exists": False})
            change = {"$push": _deletion(doomed, session.generation)}
            if (await settle(self._sessions.update_one(this, change))).matched_count:
                break
        await settle(self._messages.delete_many({"_id": {"$in": ids}, **self._of(key)}))
        await self._finish(key)
        return len(doomed)

    async def _still_there(self, key: str, session: SessionDocument, rows: Sequence[Row]) -> list[Row]:
        """Return those of these rows that nobody has deleted. The numbers of a generation tell it, without a look."""
        others = [id_of(row.position) for row in rows if not row.position.endswith(session.generation)]
        there: set[Any] = set()
        if others:
            found = self._messages.find({"$and": [self._visible(key, session), {"_id": {"$in": others}}]}, {"_id": 1})
            there = {document["_id"] async for document in each(found)}
        return [
            row
            for row in rows
            if id_of(row.position) in there
            or (
                row.position.endswith(session.generation)
                and session.start < position_number(row.position) <= session.newest
                and position_number(row.position) not in session.deleted
            )
        ]


def _deletion(rows: Sequence[Row], generation: str) -> Document:
    """What is pushed into a session when records are removed; those of no or another generation have the number 0."""
    numbers = [position_number(row.position) if row.position.endswith(generation) else 0 for row in rows]
    return {
        "deleted": {"$each": numbers, "$slice": -max(_DELETIONS_KEPT, len(numbers))},
        "removing": {"$each": [id_of(row.position) for row in rows]},
    }


def _older(over: int) -> Document:
    """The query for documents of LangChain's class that were there before a session expired."""
    # The time is in the first four bytes of an ObjectId, in seconds. Those of the last second are shown.
    return {"_id": {"$lt": bson.ObjectId(f"{over // 1000:08x}" + "0" * 16)}}


def _size(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts) + len(texts) * _ROW_BYTES


def check_size(rows: Sequence[str]) -> None:
    """Check that rows fit in the document of a session.

    Raises:
        RecordTooLargeError: They do not.
    """
    if sum(map(len, rows)) * 4 + len(rows) * _ROW_BYTES <= _MAX_BYTES or _size(rows) <= _MAX_BYTES:
        return
    if len(rows) == 1:
        raise RecordTooLargeError("A document of MongoDB has at most 16 MB, and this record is larger.")
    raise RecordTooLargeError(
        f"{len(rows)} records are larger than the 16 MB that MongoDB stores all or nothing: append fewer at once."
    )


def check_state_size(text: str, expected: object) -> None:
    """Check that a state fits in the document of a session, and in one command with the state that is expected.

    Raises:
        RecordTooLargeError: It does not.
    """
    check_size([text])
    if isinstance(expected, str) and _size([expected, text]) > _MAX_BYTES:
        raise RecordTooLargeError(
            "The state and the one that is to take its place do not fit in one command of MongoDB (16 MB) together: "
            "keep a smaller state."
        )


def _check_others_were_faster(error: errors.BulkWriteError) -> None:
    """Pass over documents that another writer has delivered already (rule 2)."""
    for failed in error.details.get("writeErrors", []):
        is_duplicate = failed.get("code") == _DUPLICATE_KEY and failed.get("keyPattern", {"_id": 1}) in ({"_id": 1}, {})
        if not is_duplicate:
            # Not the error itself, because it quotes the document.
            raise errors.OperationFailure("a message was refused", failed.get("code")) from None
    if error.details.get("writeConcernErrors"):
        raise errors.WTimeoutError("the majority did not confirm a message in time") from None
