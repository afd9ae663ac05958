"""`custom_message_converter`: messages in a SQLAlchemy model of the user's own."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict
from sqlalchemy import exc

from langchain_histories._neutral import entered
from langchain_histories.codec import Record
from langchain_histories.errors import ConfigurationError
from langchain_histories.store import (
    Capability,
    Operation,
    check_limit,
    position_number,
)
from langchain_histories.stores.sql.engines import SQLBase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    T = TypeVar("T")


class BaseMessageConverter(ABC):
    """Converts between messages and a SQLAlchemy model of your own: LangChain's class of this name."""

    @abstractmethod
    def from_sql_model(self, sql_message: Any) -> BaseMessage:
        """Return the message of a row."""

    @abstractmethod
    def to_sql_model(self, message: BaseMessage, session_id: str) -> Any:
        """Return the row of a message."""

    @abstractmethod
    def get_sql_model_class(self) -> Any:
        """Return the class of the rows. It has an `id` that orders them, and a column of session ids."""


class DefaultMessageConverter(BaseMessageConverter):
    """LangChain's converter, for its table.

    Args:
        table_name: The table.
    """

    def __init__(self, table_name: str) -> None:
        """Make the model."""
        from sqlalchemy.orm import declarative_base

        columns = {
            "__tablename__": table_name,
            "id": sa.Column(sa.Integer, primary_key=True),
            "session_id": sa.Column(sa.Text),
            "message": sa.Column(sa.Text),
        }
        self.model_class: Any = type("Message", (declarative_base(),), columns)

    def from_sql_model(self, sql_message: Any) -> BaseMessage:
        """Return the message of a row."""
        return messages_from_dict([json.loads(sql_message.message)])[0]

    def to_sql_model(self, message: BaseMessage, session_id: str) -> Any:
        """Return the row of a message."""
        return self.model_class(session_id=session_id, message=json.dumps(message_to_dict(message)))

    def get_sql_model_class(self) -> Any:
        """Return the class of the rows."""
        return self.model_class


class ModelStore(SQLBase):
    """Keeps messages in a SQLAlchemy model of the user's own: for `custom_message_converter`.

    The converter decides what a row is, so there is no envelope, and no lock either: rows are in the order of the
    model's `id`, and a batch is one transaction.
    """

    def __init__(self, *args: Any, converter: Any, session_id_field_name: str, **options: Any) -> None:
        """Keep the converter."""
        self.converter = converter
        self.model: Any = converter.get_sql_model_class()
        if not hasattr(self.model, session_id_field_name):
            raise ConfigurationError(f"The SQL model class must have a column {session_id_field_name!r}.")
        self._session_id: Any = getattr(self.model, session_id_field_name)
        super().__init__(*args, **options)

    @property
    def capabilities(self) -> Capability:
        """What is left without records of our own."""
        return super().capabilities & (
            Capability.NATIVE_ASYNC | Capability.ATOMIC_BATCH | Capability.TAIL_READ | Capability.PERSISTENT
        )

    async def _work(self, client: Any, function: Callable[[Any], T]) -> T:
        """Call a function with a session of SQLAlchemy's ORM, in one transaction."""
        from sqlalchemy.orm import Session

        def work(connection: sa.Connection) -> T:
            with Session(connection) as session:
                result = function(session)
                session.flush()
                return result

        async with entered(self._view(client).connect(writing=True)) as connection, entered(connection.begin()):
            return await self._in_sync(connection, work)

    async def _setup(self, client: Any, *, upgrade: bool = False) -> None:  # noqa: ARG002  # there is nothing to add
        tries = 3
        for left in reversed(range(tries)):
            try:
                async with entered(self._view(client).connect(writing=True)) as connection, entered(connection.begin()):
                    await self._in_sync(connection, self.model.metadata.create_all)
            except exc.DBAPIError as error:
                # Somebody else makes the tables at this moment.
                if not left or self._unavailable(error):
                    raise
            else:
                return

    def _appending(self, session_id: str, messages: Sequence[BaseMessage]) -> Operation[Any, list[str]]:
        async def body(client: Any) -> list[str]:
            def add(session: Any) -> None:
                session.add_all([self.converter.to_sql_model(message, session_id) for message in messages])

            if messages:
                await self._work(client, add)
            return []

        return Operation("append", session_id, body)

    def _reading(
        self, session_id: str, last: int | None, first: int | None, after: str | None, *, envelopes: bool
    ) -> Operation[Any, list[Any]]:
        limit = check_limit(last, first)
        query = sa.select(self.model).where(self._session_id == session_id)
        if after is not None:
            query = query.where(self.model.id > position_number(after))
        query = query.order_by(self.model.id if last is None else self.model.id.desc()).limit(limit)

        def read(session: Any) -> list[Any]:
            rows = session.scalars(query).all()
            messages = [self.converter.from_sql_model(row) for row in rows]
            found: list[Any] = messages
            if envelopes:
                found = [
                    Record(message, str(row.id), str(row.id), None) for message, row in zip(messages, rows, strict=True)
                ]
            return found if last is None else found[::-1]

        return Operation("read", session_id, lambda client: self._work(client, read))

    def _counting(self, session_id: str) -> Operation[Any, int]:
        query = sa.select(sa.func.count()).select_from(self.model).where(self._session_id == session_id)
        return Operation("count", session_id, lambda client: self._work(client, lambda session: session.scalar(query)))

    def _clearing(self, session_id: str) -> Operation[Any, None]:
        query = sa.delete(self.model).where(self._session_id == session_id)

        async def body(client: Any) -> None:
            await self._work(client, lambda session: session.execute(query) and None)

        return Operation("clear", session_id, body)

    async def _no_rows(self, *_: Any, **__: Any) -> Any:
        raise self._unsupported("row of its own")

    _append = _read = _clear = _no_rows
