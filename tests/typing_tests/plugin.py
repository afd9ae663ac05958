"""The plugin of an author of stores, typed. Type checkers read it, and a test runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from langchain_core.messages import HumanMessage

from langchain_histories import MessageStore as PublicMessageStore
from langchain_histories.stores.base import (
    ANY_STATE,
    Capability,
    Clients,
    ExpectedState,
    MessageStore,
    Operations,
    Row,
    SessionId,
    SessionRow,
    StoreOptions,
    needs_extra,
    position_number,
    prefix_end,
    settle,
)


class Shelf:
    """The client of a driver: its blocking form here."""

    def __init__(self) -> None:
        self.rows: dict[str, list[str]] = {}
        self.states: dict[str, str] = {}

    def add(self, key: str, rows: Sequence[str]) -> int:
        self.rows.setdefault(key, []).extend(rows)
        return len(self.rows[key])


class ShelfOperations(Operations[Shelf]):
    """What the service can do, with some of the optional operations."""

    name = "shelf"
    capabilities = Capability.SESSIONS | Capability.STATE | Capability.ERASE
    driver_errors = (KeyError,)

    async def append(self, client: Shelf, key: str, rows: Sequence[str]) -> None:
        await settle(client.add(key, rows))

    async def read(
        self,
        client: Shelf,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        start = 0 if after is None else position_number(after) + 1
        found = [Row(text, str(number)) for number, text in enumerate(client.rows.get(key, []))][start:]
        return found[:first] if last is None else found[len(found) - min(last, len(found)) :]

    async def clear(self, client: Shelf, key: str) -> None:
        client.rows.pop(key, None)
        client.states.pop(key, None)

    async def setup(self, client: Shelf, *, upgrade: bool = False) -> bool | None:
        self.found.what = len(client.rows) if upgrade else 0
        return None

    async def sessions(
        self, client: Shelf, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        end = prefix_end(prefix)
        keys = sorted(key for key in client.rows if key >= max(prefix, after or "") and (end is None or key < end))
        return [SessionRow(key, len(client.rows[key]), client.rows[key][-1]) for key in keys if key != after][:limit]

    async def erase(self, client: Shelf, prefix: str) -> int:
        doomed = [key for key in client.rows if key.startswith(prefix)]
        for key in doomed:
            await self.clear(client, key)
        return len(doomed)

    async def get_state(self, client: Shelf, key: str) -> str | None:
        return client.states.get(key)

    async def put_state(
        self, client: Shelf, key: str, text: str | None, *, expected: ExpectedState = ANY_STATE
    ) -> bool:
        if expected is not ANY_STATE and expected != client.states.get(key):
            return False
        if text is None:
            client.states.pop(key, None)
        else:
            client.states[key] = text
        return True


class ShelfStore(MessageStore):
    """Keeps histories on a shelf."""

    def __init__(self, url: str | None = None, *, client: Shelf | None = None, **options: Unpack[StoreOptions]) -> None:
        with needs_extra("shelf", package="langchain-histories-shelf"):
            import json as driver

        async def connect(native: bool) -> Shelf:
            assert not native
            assert driver
            return Shelf()

        clients: Clients[Shelf]
        if client is not None:
            clients = Clients.shared("shelf", client=client)
        else:
            clients = Clients.shared("shelf", url, connect=connect, native=False)
        super().__init__(ShelfOperations(), clients, url, **options)

    def move(self, old: SessionId, new: SessionId) -> None:
        """Move a session: an operation of the service's own."""
        before, after = (self.operations.key(session_id) for session_id in (old, new))

        async def body(client: Shelf) -> None:
            client.rows[after] = client.rows.pop(before)

        self.run("move", body, session_id=old)


async def main() -> None:
    store: PublicMessageStore = ShelfStore("shelf://top", on_corrupt="skip")
    store.append("1", [HumanMessage("hi")])
    await store.aput_state("1", {"title": "Words"})
    assert isinstance(store, ShelfStore)
    store.move("1", 2)
    assert store.count(2) == ShelfStore("shelf://top").count("2") == 1
    assert ShelfStore(client=Shelf()).sessions() == []
    assert [info.session_id for info in store.sessions()] == ["2"]
