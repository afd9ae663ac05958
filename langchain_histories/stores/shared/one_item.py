"""Stores of services where LangChain's class keeps a whole session in one item, and ours an item per message.

Both serve; the table or container that is found says which it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from langchain_histories._neutral import settle
from langchain_histories.store import ANY_STATE, AnyState, Capability, SessionRow
from langchain_histories.stores.shared.partitions import PartitionStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_histories.codec import Row


class OneItemOperations(ABC):
    """What a store does where a session is one item; see the operations of `MessageStore` with these names."""

    @abstractmethod
    async def append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        """Add rows to the item."""

    @abstractmethod
    async def replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        """Put rows in place of those in the item."""

    @abstractmethod
    async def read(
        self, client: Any, key: str, *, last: int | None = None, first: int | None = None, after: str | None = None
    ) -> list[Row]:
        """Return rows."""

    @abstractmethod
    async def delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:
        """Remove rows."""

    @abstractmethod
    async def clear(self, client: Any, key: str) -> None:
        """Remove the item."""

    @abstractmethod
    async def count(self, client: Any, key: str) -> int:
        """Count the rows."""

    @abstractmethod
    async def sessions(self, client: Any, *, prefix: str, limit: int | None, after: str | None) -> list[SessionRow]:
        """List sessions; that reads all items."""

    @abstractmethod
    async def erase(self, client: Any, prefix: str) -> int:
        """Remove the items of sessions."""

    @abstractmethod
    async def get_state(self, client: Any, key: str) -> str | None:
        """Return the state."""

    @abstractmethod
    async def put_state(
        self, client: Any, key: str, text: str | None, *, instead_of: str | bytes | AnyState | None = ANY_STATE
    ) -> bool:
        """Put a state in place of the one before; an item that held nothing else goes with it."""


class EitherStore(PartitionStore[Any]):
    """A store of an item per message or of one item per session.

    Attributes:
        _one_item: The operations on one item; `None` where each message has its own, and before that is known.
    """

    _one_item: OneItemOperations | None = None

    @property
    def capabilities(self) -> Capability:
        """All; `NATIVE_ASYNC` unless only a blocking client was given.

        `TAIL_READ` and `LARGE_SESSIONS` are missing where a session is one item, which is known after the first
        operation or `setup`.
        """
        missing = Capability(0) if self._one_item is None else Capability.TAIL_READ | Capability.LARGE_SESSIONS
        return ~(missing if self._clients.has_native else missing | Capability.NATIVE_ASYNC)

    async def _append(self, client: Any, key: str, rows: Sequence[str]) -> None:
        append: Any = self._one_item.append if self._one_item else super()._append
        await settle(append(client, key, rows))

    async def _replace(self, client: Any, key: str, rows: Sequence[str]) -> None:
        replace: Any = self._one_item.replace if self._one_item else super()._replace
        await settle(replace(client, key, rows))

    async def _read(
        self, client: Any, key: str, *, last: int | None = None, first: int | None = None, after: str | None = None
    ) -> list[Row]:
        read = self._one_item.read if self._one_item else super()._read
        return await settle(read(client, key, last=last, first=first, after=after))

    async def _delete(self, client: Any, key: str, rows: Sequence[Row]) -> int:
        delete = self._one_item.delete if self._one_item else super()._delete
        return await settle(delete(client, key, rows))

    async def _clear(self, client: Any, key: str) -> None:
        clear: Any = self._one_item.clear if self._one_item else super()._clear
        await settle(clear(client, key))

    async def _count(self, client: Any, key: str) -> int:
        count = self._one_item.count if self._one_item else super()._count
        return await settle(count(client, key))

    async def _sessions(self, client: Any, *, prefix: str, limit: int | None, after: str | None) -> list[SessionRow]:
        sessions = self._one_item.sessions if self._one_item else super()._sessions
        return await settle(sessions(client, prefix=prefix, limit=limit, after=after))

    async def _erase(self, client: Any, prefix: str) -> int:
        erase = self._one_item.erase if self._one_item else super()._erase
        return await settle(erase(client, prefix))

    async def _get_state(self, client: Any, key: str) -> str | None:
        get_state = self._one_item.get_state if self._one_item else super()._get_state
        return await settle(get_state(client, key))

    async def _put_state(
        self, client: Any, key: str, text: str | None, *, instead_of: str | bytes | AnyState | None = ANY_STATE
    ) -> bool:
        put_state = self._one_item.put_state if self._one_item else super()._put_state
        return await settle(put_state(client, key, text, instead_of=instead_of))
