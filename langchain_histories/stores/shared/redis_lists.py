"""What the stores that speak Redis' commands share: a list per session, as LangChain's classes keep it.

The list `message_store:<session_id>` holds the newest record first (`LPUSH`), so a batch is one command, and the last n
records are its head. The state of a session is the string `{message_store:<session_id>}:state`: the braces keep it in
the cluster slot of the list, and `message_store:*` does not match it.
"""

from __future__ import annotations

import binascii
import dataclasses
import hashlib
import itertools
import logging
import re
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from langchain_histories.errors import UnsupportedOperationError
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.stores.base import (
    ANY_STATE,
    Capability,
    CheckedRow,
    ExpectedState,
    NewestRow,
    Operations,
    Row,
    Rows,
    SessionRow,
    position_number,
    prefix_end,
)
from langchain_histories.stores.shared.redis_scripts import (
    ADOPT,
    CLEAR,
    DELETE,
    DROP,
    EDIT,
    HEX_DELETE,
    HEX_GET,
    HEX_RANGE,
    OF_PREFIX,
    PUSH,
    PUT,
    REPLACE,
    SWAP,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from langchain_histories.stores.base import MessageStore

logger = logging.getLogger(__name__)

# How many keys a listing looks at for lists that others wrote: each time, and while not all were looked at once.
_SWEPT, _SWEPT_AT_FIRST = 100, 2000


@dataclasses.dataclass
class _Index:
    """What is known of the index at one place.

    Attributes:
        is_refused: Whether this user may not write it.
        cursor: Where the search for lists that others wrote goes on.
        was_swept: Whether it has been through all keys once.
        names: Lists that it has found last.
    """

    is_refused: bool = False
    cursor: int = 0
    was_swept: bool = False
    names: Sequence[str] = ()


class RedisListOperations(Operations[Any]):
    """The operations, as commands that a service of this kind sends by its client.

    Args:
        key_prefix: What the key of each list starts with.
        index: Whether appends keep the index of the newest sessions.
    """

    capabilities = ~Capability(0)
    refused_errors: tuple[type[Exception], ...] = ()
    """What says that this user may not run a command or touch a key. LangChain's class needs less than all of ours."""
    tolerated_errors: tuple[type[Exception], ...] = (UnicodeDecodeError,)
    """What says that one command was refused, and nothing of others or of the connection."""

    def __init__(self, key_prefix: str, *, index: bool = True) -> None:
        """Keep both."""
        super().__init__()
        self.key_prefix = key_prefix
        self.index = index
        if not index:
            self.capabilities = ~Capability.NEWEST

    @property
    def place(self) -> Hashable:
        return self.key_prefix

    # What a service of this kind writes.

    @abstractmethod
    async def _command(self, client: Any, *words: Any) -> Any:
        """Run one command."""

    @abstractmethod
    async def _pipeline(self, client: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Run some commands in one go; others may run between them."""

    @abstractmethod
    async def _at_one_moment(self, client: Any, commands: Sequence[Sequence[Any]]) -> list[Any] | None:
        """Run some commands on one slot in one go, with nothing between them; `None` where that cannot be done."""

    @abstractmethod
    async def _tail(self, client: Any, name: str, last: int) -> tuple[int, list[Any]]:
        """Return the length of the list and, of the same moment, its last records, newest first."""

    @abstractmethod
    async def _scan(self, client: Any, pattern: str, kind: str) -> Iterable[str | bytes]:
        """Return the keys of this kind that match; one may come twice."""

    async def _range(self, client: Any, name: str, start: int, stop: int) -> list[Any]:
        """Return a part of the list, newest first, from the index `start` to `stop`, both included."""
        try:
            return list(await self._command(client, "LRANGE", name, start, stop))
        except UnicodeDecodeError:
            return [_unhexed(digits) for digits in await self._command(client, "EVAL", HEX_RANGE, 1, name, start, stop)]

    async def _two_step_tail(self, client: Any, name: str, last: int) -> tuple[int, list[Any]]:
        """Do the same as `_tail` in two requests."""
        # Indexes count from the oldest, so an append between the two requests does not move the range.
        length = int(await self._command(client, "LLEN", name))
        return length, await self._range(client, name, -length, min(last - length, 0) - 1) if length else []

    # The operations.

    def _list(self, key: str) -> str:
        return self.key_prefix + key

    async def append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        if self._keeps_index(client):
            try:
                await self._command(client, "EVAL", PUSH, 4, *self._keys(key), self.ttl or 0, *rows)
            except self.refused_errors:
                self._give_up_index()
            else:
                return
        if self.ttl is not None:
            try:
                await self._command(client, "EVAL", PUSH, 2, *self._keys(key)[:2], self.ttl, *rows)
            except self.refused_errors:
                expire = ("EXPIRE", self._list(key), self.ttl)
                # First, so that nothing is written for a user who may not do it.
                await self._command(client, *expire)
                await self._command(client, "LPUSH", self._list(key), *rows)
                await self._command(client, *expire)
        else:
            await self._command(client, "LPUSH", self._list(key), *rows)

    def _keys(self, key: str) -> tuple[str, ...]:
        """The keys of a list and of its state, and the two of the index."""
        name = self._list(key)
        return name, state_name(name), *self.index_names

    async def _script(self, client: Any, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        """Run a script over keys, of which the last two are the index; without it where this user may not write it."""
        if self._keeps_index(client):
            try:
                return await self._command(client, "EVAL", script, len(keys), *keys, *arguments)
            except self.refused_errors:
                self._give_up_index()
        return await self._command(client, "EVAL", script, len(keys) - 2, *keys[:-2], *arguments)

    async def read(
        self,
        client: Any,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        name = self._list(key)
        if after is not None:
            return await self._read_after(client, name, after, last, first)
        if first is not None:
            return _rows(await self._range(client, name, -first, -1), 0)
        if last is None:
            return _rows(await self._range(client, name, 0, -1), 0)
        has_no_tail: tuple[type[Exception], ...] = (UnicodeDecodeError, *self.refused_errors)
        try:
            length, newest_first = await self._tail(client, name, last)
        except has_no_tail:
            length, newest_first = await self._two_step_tail(client, name, last)
        return _rows(newest_first, length - len(newest_first))

    async def read_with_state(self, client: Any, key: str, *, last: int) -> tuple[Sequence[Row], str | bytes | None]:
        name = self._list(key)
        commands = (("LLEN", name), ("LRANGE", name, 0, last - 1), ("GET", state_name(name)))
        failures: tuple[type[Exception], ...] = (UnicodeDecodeError, *self.refused_errors)
        try:
            found = await self._at_one_moment(client, commands)
        except failures:
            found = None
        if found is None:
            return await super().read_with_state(client, key, last=last)
        length, newest_first, state = found
        return _rows(newest_first, length - len(newest_first)), state

    async def _read_after(
        self, client: Any, name: str, after: str, last: int | None, first: int | None
    ) -> Sequence[Row]:
        """Read from the row `after` on, to see by its checksum that it is still where it was."""
        number = position_number(after)
        oldest = 0 if first is None else -(number + 1 + first)
        rows = _rows(await self._range(client, name, oldest, -(number + 1)), number)
        if not rows or rows[0].position != after:
            rows = _rows(await self._range(client, name, 0, -1), 0)
            checksum = after.partition("-")[2]
            known = [index for index, row in enumerate(rows) if row.position.endswith("-" + checksum)]
            # Rows before it were deleted, or the session was cleared and began anew.
            rows = rows[known[-1] :] if known else [Row("", after), *rows]
        return rows[1:][:first] if last is None else rows[1:][-last:]

    async def count(self, client: Any, key: str) -> int:
        return int(await self._command(client, "LLEN", self._list(key)))

    async def clear(self, client: Any, key: str) -> None:
        name = self._list(key)
        if self._keeps_index(client):
            try:
                await self._command(client, "EVAL", CLEAR, 4, *self._keys(key))
            except self.refused_errors:
                self._give_up_index()
            else:
                return
        try:
            await self._command(client, "DEL", name, state_name(name))
        except self.refused_errors:
            # Who may not touch the key of the state has written none.
            await self._command(client, "DEL", name)

    async def replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        await self._script(client, REPLACE, self._keys(key), self.ttl or 0, *rows)

    async def edit(
        self, client: Any, key: str, rows: Sequence[str], *, expected: Sequence[Row], kept: int, after: str | None
    ) -> bool:
        if not expected and after is not None:
            # The end of the list is the row `after`, wherever that is now.
            expected = await self.read(client, key, last=1)
            kept = len(expected)
            if await self.read(client, key, after=after):
                return False
        length = position_number(expected[-1].position) + 1 if expected else 0
        hashes = "".join(_sha1(row.text) for row in reversed(expected))
        numbers = (self.ttl or 0, length, len(expected), len(expected) - kept, _sha1(hashes))
        return bool(await self._script(client, EDIT, self._keys(key), *numbers, *rows))

    # Of several sessions in one trip, where each is short and new.

    async def read_many(
        self, client: Any, wanted: Sequence[tuple[str, str | None]], *, first: int
    ) -> Sequence[Sequence[Row]]:
        new = [("LRANGE", self._list(key), -first, -1) for key, after in wanted if after is None]
        try:
            found = iter(await self._pipeline(client, new) if new else [])
        except UnicodeDecodeError:
            return await super().read_many(client, wanted, first=first)
        return [
            _lazy_rows(next(found)) if after is None else await self.read(client, key, first=first, after=after)
            for key, after in wanted
        ]

    async def append_behind(
        self, client: Any, batches: Sequence[tuple[str, Sequence[str], str | None]]
    ) -> Sequence[bool]:
        numbers = (self.ttl or 0, 0, 0, 0, _sha1(""))
        new: list[Sequence[Any]] = []
        for key, rows, after in batches:
            if after is None:
                keys = self._keys(key)[: 4 if self._keeps_index(client) else 2]
                new.append(("EVAL", EDIT, len(keys), *keys, *numbers, *rows))
        try:
            done = iter(await self._pipeline(client, new) if new else [])
        except self.refused_errors:
            # What was done all the same is seen then.
            return await super().append_behind(client, batches)
        return [
            bool(next(done)) if after is None else await self._is_appended(client, key, rows, after)
            for key, rows, after in batches
        ]

    async def get_states(self, client: Any, keys: Sequence[str]) -> Sequence[str | bytes | None]:
        try:
            return await self._pipeline(client, [("GET", state_name(self._list(key))) for key in keys])
        except UnicodeDecodeError:
            return await super().get_states(client, keys)

    async def delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:
        script, texts = DELETE, [row.text for row in rows]
        if None in map(_text, texts):
            script = HEX_DELETE
            texts = [(text if isinstance(text, bytes) else text.encode()).hex() for text in texts]
        numbers = [position_number(row.position) for row in rows]
        where = [argument for pair in zip(numbers, texts, strict=True) for argument in pair]
        return int(await self._script(client, script, (self._list(key), *self.index_names), *where))

    async def sessions(self, client: Any, *, prefix: str, limit: int | None, after: str | None) -> Sequence[SessionRow]:
        """Redis has no order of keys, so each page scans them all and asks only for what is on the page."""
        found = await self._lists(client, self._list(prefix))
        keys = sorted(name.removeprefix(self.key_prefix) for name in found)
        page = [key for key in keys if after is None or key > after][:limit]
        names = [self._list(key) for key in page]
        asked: list[Sequence[Any]] = [words for name in names for words in (("LLEN", name), ("LINDEX", name, 0))]
        try:
            answers = await self._pipeline(client, asked) if asked else []
        except UnicodeDecodeError:
            answers = [await self._answer(client, *words) for words in asked]
        rows = zip(page, answers[::2], answers[1::2], strict=True)
        return [SessionRow(key, count, last) for key, count, last in rows if count]

    async def _answer(self, client: Any, *words: Any) -> Any:
        """The answer to a command; `None` where it is no text and the client takes nothing else."""
        try:
            return await self._command(client, *words)
        except UnicodeDecodeError:
            return None

    # The index of the newest sessions.

    @property
    def index_names(self) -> tuple[str, str]:
        """The keys of the index, two sorted sets of the keys of lists, which a pattern for lists does not match.

        The first one is in the order of their last appends. The second one is in the order of bytes, for those of a
        user.
        """
        return f"{{{self.key_prefix}}}:sessions", f"{{{self.key_prefix}}}:sessions:names"

    @property
    def _index(self) -> _Index:
        if self.found.what is None:
            self.found.what = _Index()
        found: _Index = self.found.what
        return found

    def _is_cluster(self, client: Any) -> bool:  # noqa: ARG002  # some services have none
        return False

    def _keeps_index(self, client: Any) -> bool:
        """Whether lists are indexed. On a cluster the index would be on another node than most lists."""
        return self.index and not self._is_cluster(client) and not self._index.is_refused

    def _give_up_index(self) -> None:
        if not self._index.is_refused:
            self._index.is_refused = True
            logger.warning(
                "This user may not run what keeps the index %r, so order='newest' misses what is written from now on. "
                "Allow the key and the commands, or open the store with index=False.",
                self.index_names[0],
            )

    async def setup(self, client: Any, *, upgrade: bool = False) -> None:
        if upgrade and self._keeps_index(client):
            names = sorted(await self._lists(client, self.key_prefix))
            for start in range(0, len(names), _SWEPT):
                await self._adopt(client, names[start : start + _SWEPT])

    async def _adopt(self, client: Any, names: Sequence[str]) -> int:
        return int(await self._command(client, "EVAL", ADOPT, 2 + len(names), *self.index_names, *names))

    async def newest(
        self, client: Any, *, prefixes: Sequence[str], limit: int, after: str | None
    ) -> Sequence[NewestRow]:
        if self._is_cluster(client):
            raise UnsupportedOperationError(
                "On a cluster there is no index of the newest sessions, because a set of all is on one node and the "
                "lists are on all. Open the store with index=False, and list by order='id'."
            )
        end = None if after is None else _score(after)
        was_swept = self._index.was_swept
        found = await self._page(client, prefixes, limit, end)
        if len(found) < limit and not was_swept and await self._sweep(client):
            found = await self._page(client, prefixes, limit, end)
        return found

    async def _page(self, client: Any, prefixes: Sequence[str], limit: int, end: int | None) -> list[NewestRow]:
        """Return what is in the index below a score, without what is gone."""
        found: list[NewestRow] = []
        while len(found) < limit:
            wanted = limit - len(found)
            if prefixes == [""]:
                highest = "+inf" if end is None else f"({end}"
                words = ("ZREVRANGEBYSCORE", self.index_names[0], highest, "-inf", "WITHSCORES", "LIMIT", 0, wanted)
                entries = _entries(await self._command(client, *words))
            else:
                all_of_them = sorted(await self._entries_of(client, prefixes), reverse=True)
                entries = [entry for entry in all_of_them if end is None or entry[0] < end][:wanted]
            if entries:
                end = entries[-1][0]
                found += await self._rows_of(client, entries)
            if len(entries) < wanted:
                break
        return found

    async def _entries_of(self, client: Any, prefixes: Sequence[str]) -> set[tuple[int, str]]:
        """Return what the index has of keys that start with some texts."""
        found: set[tuple[int, str]] = set()
        for prefix in prefixes:
            start = self._list(prefix)
            end = prefix_end(start)
            bounds = f"[{start}", "+" if end is None else f"({end}"
            found.update(_entries(await self._command(client, "EVAL", OF_PREFIX, 2, *self.index_names, *bounds)))
        return found

    async def _rows_of(self, client: Any, entries: Sequence[tuple[int, str]]) -> list[NewestRow]:
        """Return what is shown of some sessions, and look on for lists that others wrote in the same trip."""
        index = self._index
        asked: list[Sequence[Any]] = []
        for _, name in entries:
            asked += [("LLEN", name), ("LINDEX", name, -1), ("LINDEX", name, 0), ("GET", state_name(name))]
        count, names = len(asked), index.names
        if self._keeps_index(client):
            asked.append(self._next_keys(_SWEPT))
            if names:
                asked.append(("EVAL", ADOPT, 2 + len(names), *self.index_names, *names))
        try:
            answers = await self._pipeline(client, asked)
        except self.tolerated_errors:
            answers = [await self._tolerated(client, words) for words in asked]
        if len(answers) > count and answers[count] is not None:
            self._take_names(answers[count])
        found = []
        for (score, name), at in zip(entries, range(0, count, 4), strict=True):
            length, first, last, state = answers[at : at + 4]
            if length:
                key = name.removeprefix(self.key_prefix)
                found.append(NewestRow(key, str(score), int(length), first, last, state))
            elif length is not None and self._keeps_index(client):
                await self._tolerated(client, ("EVAL", DROP, 3, name, *self.index_names))
        return found

    async def _tolerated(self, client: Any, words: Sequence[Any]) -> Any:
        """The answer to a command; `None` where it is refused, of another type or no text."""
        try:
            return await self._command(client, *words)
        except self.tolerated_errors:
            return None

    def _next_keys(self, count: int) -> Sequence[Any]:
        return "SCAN", self._index.cursor, "MATCH", _glob(self.key_prefix) + "*", "COUNT", count, "TYPE", "list"

    def _take_names(self, answer: Any) -> None:
        """Keep what a search has found, and where it goes on."""
        cursor, names = answer
        index = self._index
        index.cursor = int(cursor)
        index.was_swept = index.was_swept or index.cursor == 0
        found = [_text(name) for name in names]
        index.names = [name for name in found if name is not None and name.startswith(self.key_prefix)]

    async def _sweep(self, client: Any) -> bool:
        """Look at a part of the keys for lists that others wrote; tell whether there were some."""
        if not self._keeps_index(client):
            return False
        answer = await self._tolerated(client, self._next_keys(_SWEPT_AT_FIRST))
        if answer is None:
            return False
        self._take_names(answer)
        names, added = self._index.names, 0
        for start in range(0, len(names), _SWEPT):
            some = names[start : start + _SWEPT]
            words = ("EVAL", ADOPT, 2 + len(some), *self.index_names, *some)
            added += int(await self._tolerated(client, words) or 0)
        return bool(added)

    async def erase(self, client: Any, prefix: str) -> int:
        lists = await self._lists(client, self._list(prefix))
        states = await self._states(client, self._list(prefix))
        doomed = lists | states.keys()
        if doomed:
            await self._pipeline(client, [("DEL", name) for name in doomed])
        if self._keeps_index(client):
            # Also of sessions that have expired.
            entries = [name for _, name in await self._entries_of(client, (prefix,))]
            for start in range(0, len(entries), _SWEPT):
                for name in self.index_names:
                    await self._command(client, "ZREM", name, *entries[start : start + _SWEPT])
        return len(lists.union(states.values()))

    # A pattern finds too much: the braces around a list in the key of its state may be another list's own, or another
    # program's. So what was found is looked at once more.

    async def _lists(self, client: Any, start: str) -> set[str]:
        """Return the keys of the lists that start with `start`."""
        return await self.names(client, start, "list")

    async def _states(self, client: Any, start: str) -> dict[str, str]:
        """Return the keys of the states of the lists that start with `start`, and to which list each belongs."""
        found = await self._names(client, f"{{{_glob(start)}*}}:state", "string")
        found |= await self._names(client, f"{{*}}{_glob(start)}*:tagged-state", "string")
        lists = {state: _list_of_state(state) for state in found}
        return {state: name for state, name in lists.items() if name.startswith(start) and state_name(name) == state}

    async def names(self, client: Any, start: str, kind: str) -> set[str]:
        """Return the keys of a kind that start with `start`."""
        return {name for name in await self._names(client, _glob(start) + "*", kind) if name.startswith(start)}

    async def answers(self, client: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the answers to commands that are sent in one go."""
        return await self._pipeline(client, commands)

    async def _names(self, client: Any, pattern: str, kind: str) -> set[str]:
        """Return the keys of a kind that match a pattern. One that is not UTF-8 is no session's."""
        names = {_text(name) for name in await self._scan(client, pattern, kind)}
        return {name for name in names if name is not None}

    async def get_state(self, client: Any, key: str) -> str | bytes | None:
        name = state_name(self._list(key))
        try:
            state: str | bytes | None = await self._command(client, "GET", name)
        except UnicodeDecodeError:
            state = _unhexed(await self._command(client, "EVAL", HEX_GET, 1, name))
        return state

    async def put_state(self, client: Any, key: str, text: str | None, *, expected: ExpectedState = ANY_STATE) -> bool:
        places = (state_name(self._list(key)), self._list(key))
        if expected is not ANY_STATE:
            arguments = (text or "", self.ttl or 0, expected or "")
            return bool(await self._command(client, "EVAL", SWAP, 2, *places, *arguments))
        if self.ttl is not None and text is not None:
            return bool(await self._command(client, "EVAL", PUT, 2, *places, text, self.ttl))
        await self._command(client, *(("DEL", places[0]) if text is None else ("SET", places[0], text)))
        return True


class RedisListHistory(StoredChatMessageHistory):
    """What LangChain's classes of these services have beside a history's methods."""

    store: MessageStore
    key_prefix: str

    @property
    def key(self) -> str:
        """The key of the list."""
        return self.key_prefix + self.session_id

    @property
    def redis_client(self) -> Any:
        """The blocking client; it is opened when it has not been used yet."""
        return self.store.client


def _text(data: str | bytes) -> str | None:
    try:
        return data.decode() if isinstance(data, bytes) else data
    except UnicodeDecodeError:
        return None


def _sha1(text: str | bytes) -> str:
    data = text if isinstance(text, bytes) else text.encode()
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _unhexed(digits: str | bytes | None) -> str | bytes:
    """What the digits stand for, as text if it is any."""
    data = bytes.fromhex(_text(digits or "") or "")
    text = _text(data)
    return data if text is None else text


def _rows(newest_first: list[Any], start: int) -> list[Row]:
    """The rows, oldest first, from the index `start` on."""
    return [CheckedRow(text, str(number)) for number, text in enumerate(reversed(newest_first), start)]


def _entries(answer: Sequence[Any]) -> list[tuple[int, str]]:
    """Read scores and members, which drivers return in pairs or one after the other. A member is UTF-8."""
    flat = [part for pair in answer for part in pair] if answer and isinstance(answer[0], list | tuple) else answer
    return [(int(float(score)), _text(name) or "") for name, score in zip(flat[::2], flat[1::2], strict=True)]


def _score(position: str) -> int:
    """Read a place in the index; those of lists that others wrote are below zero."""
    text = position.removeprefix("-") if isinstance(position, str) else position
    return position_number(text) * (1 if text == position else -1)


def _lazy_rows(newest_first: list[Any]) -> Rows:
    """The same of a whole list."""
    return Rows(newest_first[::-1], range(len(newest_first)), CheckedRow)


def _glob(text: str) -> str:
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)


def state_name(name: str) -> str:
    """The key of the state that belongs to the list `name`, in the same cluster slot.

    A cluster hashes what stands between the first braces of a key, if there is something. The two forms end
    differently, so that two lists never have the same state.
    """
    tag = re.match(r"\{([^}]+)\}", name[name.find("{") :]) if "{" in name else None
    if tag is not None:
        return f"{{{tag[1]}}}{name}:tagged-state"
    if "}" not in name:
        return f"{{{name}}}:state"
    slot = _slot(name)
    number = next(number for number in itertools.count() if _slot(str(number)) == slot)
    return f"{{{number}}}{name}:tagged-state"


def _slot(whole: str) -> int:
    """The cluster slot of a key without a tag in braces."""
    return binascii.crc_hqx(whole.encode(), 0) % 16384


def _list_of_state(state: str) -> str:
    if state.endswith("}:state"):
        return state[1 : -len("}:state")]
    return state.partition("}")[2].removesuffix(":tagged-state")
