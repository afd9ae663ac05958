"""Sessions in documents of Cosmos DB, as LangChain's `CosmosDBChatMessageHistory` keeps them.

The document `{id: <session>, user_id, messages}` has all messages of a session; all of it has to fit in 2 MB. A few
messages are added by a patch, which the service does by itself, so that writers are never in each other's way. Every
other change replaces the document on condition that it has not changed meanwhile.

Ours adds `state`, `expires` and `ttl`, which LangChain's class drops when it writes, and `session_id` where the service
cannot hold the session's id as `id`. The session `@user/session` is the document `session` of the user `user`; a
session without a user has the user "".
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from typing import TYPE_CHECKING, Any

from azure.cosmos import exceptions

from langchain_histories._values import from_json
from langchain_histories.codec import CheckedRow
from langchain_histories.errors import CorruptRecordError, RecordTooLargeError
from langchain_histories.stores.base import (
    ANY_STATE,
    Capability,
    ExpectedState,
    Found,
    Row,
    SessionRow,
    pause,
    position_number,
    same_rows,
)
from langchain_histories.stores.cosmosdb.container import (
    BATCH_ERRORS,
    NOT_FOUND,
    Container,
    ContainerOperations,
    is_async,
    others_were_faster,
    seconds_left,
)
from langchain_histories.stores.shared.tries import tries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

_ESCAPED = "lh%"
_MAX_ID_BYTES = 1023
_MAX_DOCUMENT = 2_000_000  # of 2 MB, with room for what the service adds
_EXACT = 2**53
_MAX_CHANGES = 10  # in one patch
_CONDITION_FAILED = 412
_TOO_LARGE = 413


class DocumentOperations(ContainerOperations):
    """The operations with a document per session.

    Args:
        container: The container.
        found: What set-up found there.
        ttl: Seconds after its last append at which a session expires.
    """

    capabilities = ~(Capability.NEWEST | Capability.TAIL_READ | Capability.LARGE_SESSIONS)

    def __init__(self, container: Container, found: Found, ttl: int | None) -> None:
        """Keep the container."""
        super().__init__(container)
        self.found, self.ttl = found, ttl

    async def append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        new = [_message(row) for row in rows]

        def change(document: dict[str, Any]) -> dict[str, Any]:
            return self._expiring({**document, "messages": [*_messages(document), *new]}, slide=True)

        if not await self._patch(client, key, new):
            await self._change(client, key, change)

    async def _patch(self, client: Any, key: str, new: Sequence[Any]) -> bool:
        """Let the service add messages to a document: one request, and no other writer can come in between.

        Returns:
            `False` if nothing was done, because there is no document, or it has expired, or a patch cannot do it.
        """
        user, name, _ = _document(key)
        changes = [{"op": "add", "path": "/messages/-", "value": message} for message in new]
        if self.ttl is not None:
            fields = self._expiring({}, slide=True)
            changes += [{"op": "set", "path": f"/{field}", "value": value} for field, value in fields.items()]
        if len(changes) > _MAX_CHANGES:
            return False
        is_live = f"FROM c WHERE IS_ARRAY(c.messages) AND (NOT IS_DEFINED(c.expires) OR c.expires > {time.time()})"
        for seconds in tries(self, key):
            try:
                await self.container.batch(client, user, [("patch", (name, changes), {"filter_predicate": is_live})])
            except BATCH_ERRORS as error:
                if error.status_code in (NOT_FOUND, _CONDITION_FAILED, _TOO_LARGE):
                    return False
                if not others_were_faster(error):
                    raise
            else:
                return True
            await pause(seconds, is_async=is_async(client))
        return False

    async def replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        new = [_message(row) for row in rows]
        await self._change(client, key, lambda document: self._expiring({**document, "messages": new}, slide=True))

    async def read(
        self, client: Any, key: str, *, last: int | None = None, first: int | None = None, after: str | None = None
    ) -> Sequence[Row]:
        """The whole document is read."""
        rows = _rows(await self._texts(client, key), after)
        return rows[:first] if last is None else rows[-last:]

    async def count(self, client: Any, key: str) -> int:
        return len(await self._texts(client, key))

    async def edit(
        self, client: Any, key: str, rows: Sequence[str], *, expected: Sequence[Row], kept: int, after: str | None
    ) -> bool:
        new, done = [_message(row) for row in rows], True

        def change(document: dict[str, Any]) -> dict[str, Any] | None:
            nonlocal done
            messages = _messages(document)
            stay = len(messages) - len(expected) + kept
            done = same_rows(_rows(_texts(document), after), expected)
            if not done or (not new and stay == len(messages)):
                return document if "_etag" in document else None
            return self._expiring({**document, "messages": [*messages[:stay], *new]}, slide=bool(new))

        await self._change(client, key, change)
        return done

    async def delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:
        removed = 0

        def change(document: dict[str, Any]) -> dict[str, Any]:
            nonlocal removed
            left, texts = list(_messages(document)), _texts(document)
            for text, position in rows[::-1]:
                if text in texts:
                    at = position_number(position)
                    at = at if texts[at : at + 1] == [text] else texts.index(str(text))
                    del left[at], texts[at]
            removed = len(_messages(document)) - len(left)
            return self._expiring({**document, "messages": left}, slide=False) if removed else document

        await self._change(client, key, change)
        return removed

    async def clear(self, client: Any, key: str) -> None:
        await self._change(client, key, lambda _: None)

    async def sessions(self, client: Any, *, prefix: str, limit: int | None, after: str | None) -> Sequence[SessionRow]:
        """All documents are read."""
        listed = []
        for key, document in await self._listed(client, prefix):
            try:
                listed.append((key, _texts(document) if _is_live(document) else []))
            except CorruptRecordError as error:
                logger.warning("%s The list of sessions leaves it out.", error)
        page = [(key, texts) for key, texts in listed if texts and (after is None or key.encode() > after.encode())]
        return [SessionRow(key, len(texts), texts[-1]) for key, texts in page[:limit]]

    async def erase(self, client: Any, prefix: str) -> int:
        keys = [key for key, _ in await self._listed(client, prefix)]
        for key in keys:
            await self.clear(client, key)
        return len(keys)

    async def get_state(self, client: Any, key: str) -> str | None:
        return (await self._live_document(client, key) or {}).get("state")

    async def put_state(self, client: Any, key: str, text: str | None, *, expected: ExpectedState = ANY_STATE) -> bool:
        done = True

        def change(document: dict[str, Any]) -> dict[str, Any] | None:
            nonlocal done
            stored = document.get("state")
            done = expected is ANY_STATE or stored == expected
            if not done or stored == text:
                return document if "_etag" in document else None
            left = {name: value for name, value in document.items() if name != "state"}
            if text is None and not document.get("messages"):
                return None
            return self._expiring(left if text is None else {**left, "state": text}, slide=False)

        await self._change(client, key, change)
        return done

    # Documents.

    async def _live_document(self, client: Any, key: str) -> dict[str, Any] | None:
        user, name, _ = _document(key)
        document = await self.container.fetch(client, user, name)
        return document if _is_live(document) else None

    async def _texts(self, client: Any, key: str) -> list[str]:
        return _texts(await self._live_document(client, key) or {})

    async def _listed(self, client: Any, prefix: str) -> list[tuple[str, dict[str, Any]]]:
        documents = await self.container.find(client, "SELECT * FROM c")
        keys = [(_key_of(document), document) for document in documents]
        found = [(key, document) for key, document in keys if key is not None and key.startswith(prefix)]
        return sorted(found, key=lambda pair: pair[0].encode())

    async def _change(self, client: Any, key: str, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
        """Replace the document of a session by what `change` makes of it; `None` removes it, the same leaves it."""
        user, name, document = _document(key)
        for seconds in tries(self, key):
            old = await self.container.fetch(client, user, name)
            new = change(dict(old if old is not None and _is_live(old) else document))
            if new == old:
                return
            condition = {} if old is None else {"if_match_etag": old["_etag"]}
            operation: tuple[Any, ...] = ("delete", (name,), condition)
            if new is not None:
                _check_size(new)
                operation = ("create", (new,)) if old is None else ("replace", (name, new), condition)
            try:
                await self.container.batch(client, user, [operation])
            except BATCH_ERRORS as error:
                gone = isinstance(error, exceptions.CosmosBatchOperationError) and error.status_code == NOT_FOUND
                if not (gone or others_were_faster(error)):
                    raise
            else:
                return
            await pause(seconds, is_async=is_async(client))

    def _expiring(self, document: dict[str, Any], *, slide: bool) -> dict[str, Any]:
        """The document with the time when it expires, at which the service may remove it."""
        if self.ttl is not None and (slide or "expires" not in document):
            document = {**document, "expires": time.time() + self.ttl}
        if not isinstance(document.get("expires"), int | float):
            return document
        return {**document, "ttl": seconds_left(math.ceil(document["expires"]))}


def _is_live(document: dict[str, Any] | None) -> bool:
    """Whether there is a document that has not expired. What is no time never comes."""
    if document is None:
        return False
    expires = document.get("expires")
    return not isinstance(expires, int | float) or expires > time.time()


def _document(key: str) -> tuple[str, str, dict[str, Any]]:
    """User and id of a session's document, and such a document without messages. Without a user, the user is ``."""
    quoted, slash, session = key.removeprefix("@").partition("/")
    user = quoted.replace("%2F", "/").replace("%25", "%")
    if not (key.startswith("@") and slash and user and _quoted(user) == quoted):
        user, session = "", key
    name, document = session, {"user_id": user, "messages": []}
    odd = not session or set(session) & set("/\\?#") or not session.isprintable() or session.endswith(" ")
    if odd or session.startswith(_ESCAPED) or len(session.encode()) > _MAX_ID_BYTES:
        name = _ESCAPED + hashlib.sha256(session.encode()).hexdigest()
        document["session_id"] = session
    return user, name, {"id": name, **document}


def _quoted(user: str) -> str:
    return user.replace("%", "%25").replace("/", "%2F")


def _session_of(document: dict[str, Any]) -> str:
    session: str = document.get("session_id", document["id"])
    return session


def _key_of(document: dict[str, Any]) -> str | None:
    """The key of a document's session; `None` for a document of another program."""
    user = document.get("user_id") or ""
    session = _session_of(document)
    if not (isinstance(user, str) and isinstance(session, str)):
        return None
    return f"@{_quoted(user)}/{session}" if user else session


def _check_size(document: dict[str, Any]) -> None:
    if len(json.dumps(document)) > _MAX_DOCUMENT:
        raise RecordTooLargeError(
            f"Session {_session_of(document)!r} would be larger than the 2 MB that Cosmos DB has for a document: "
            "nothing was written. A container with the partition key /session_id has no such limit."
        )


def _message(row: str) -> Any:
    """A record as LangChain's class reads it, with its exact text if the service would change one of its numbers."""
    try:
        message = from_json(row)
    except ValueError:
        return row
    if not isinstance(message, dict):
        return row
    return message if _is_exact(message) and "text" not in message else {**message, "text": row}


def _messages(document: dict[str, Any]) -> list[Any]:
    messages = document.get("messages", [])
    if not isinstance(messages, list):
        session_id = str(_session_of(document))
        raise CorruptRecordError(
            f"The document of session {session_id!r} has no list of messages, so this package did not write it: "
            "repair it, or clear the session.",
            session_id,
        )
    return messages


def _texts(document: dict[str, Any]) -> list[str]:
    return list(map(_text, _messages(document)))


def _text(message: Any) -> str:
    if isinstance(message, str):
        return message
    if isinstance(message, dict) and isinstance(message.get("text"), str):
        return str(message["text"])
    return json.dumps(message)  # escaped: it may have lone surrogates


def _is_exact(value: Any) -> bool:
    """Whether JSON data stays the same where all numbers are doubles and a whole one has no decimal point."""
    if isinstance(value, dict):
        return all(map(_is_exact, value.values()))
    if isinstance(value, list):
        return all(map(_is_exact, value))
    if isinstance(value, float):
        return not value.is_integer()
    return not isinstance(value, int) or abs(value) <= _EXACT


def _rows(texts: Sequence[str], after: str | None) -> list[Row]:
    """The rows behind a position."""
    rows: list[Row] = [CheckedRow(text, str(number)) for number, text in enumerate(texts)]
    return rows if after is None else rows[_behind(rows, after) :]


def _behind(rows: Sequence[Row], position: str) -> int:
    """The index of the row behind a position, wherever the row of that position is now."""
    number = position_number(position)
    if number < len(rows) and rows[number].position == position:
        return number + 1
    checksum = position.partition("-")[2]
    known = [index for index, row in enumerate(rows) if row.position.endswith("-" + checksum)]
    # No such row: it was deleted, or the session was cleared and began anew.
    return known[-1] + 1 if known else 0
