"""Messages in a SQLAlchemy model of the user's own: the store behind `custom_message_converter`.

The converter decides what a row is, so there is no envelope, and no lock either: rows are in the order of the model's
`id`, and a batch is one transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import sqlalchemy as sa
from langchain_core.messages import BaseMessage
from sqlalchemy import exc
from sqlalchemy.orm import Session

from langchain_histories.codec import Record, RecordFormat, check_is_list, encode_message
from langchain_histories.errors import ConfigurationError, InvalidMessageError, UnsupportedOperationError
from langchain_histories.stores.base import Capability, MessageStore, entered, position_number
from langchain_histories.stores.sql.engines import SMALL_FILE, EngineOperations, EngineUse
from langchain_histories.stores.sql.statements import MAX_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from langchain_histories.stores.sql.connections import Database

T = TypeVar("T")

_SET_UP_TRIES = 3


class ModelStore(MessageStore):
    """Keeps messages in a SQLAlchemy model of the user's own.

    Args:
        database: Where its table is.
        converter: Of messages to rows of the model, and back.
        session_id_field_name: The model's column of session ids, which may be of any type.

    Raises:
        ConfigurationError: The model has no such column.
    """

    def __init__(self, database: Database, converter: Any, session_id_field_name: str) -> None:
        """Keep the converter."""
        operations = ModelOperations(database, converter, session_id_field_name)
        super().__init__(
            operations,
            database.clients,
            database.url,
            driver_options=database.driver_options,
            timeout=database.timeout,
            record_format=_MessageFormat(),
        )


class _MessageRow(NamedTuple):
    """A row that the converter has read."""

    message: BaseMessage
    position: str


class _MessageFormat(RecordFormat):
    """The rows of a model are messages, which the operations convert where they have a session of the ORM."""

    def encode(
        self,
        messages: Sequence[Any],
        known: Sequence[str] | None = None,  # noqa: ARG002
        metas: Sequence[dict[str, Any]] | None = None,
    ) -> tuple[list[str], list[Any]]:
        """Return no ids, because the database gives them later, and the messages.

        Raises:
            UnsupportedOperationError: There is meta, for which the rows have no place.
        """
        check_is_list(messages)
        if metas is not None:
            raise UnsupportedOperationError("The rows of a model of your own keep no meta: have your converter add it.")
        for message in messages:
            if not isinstance(message, BaseMessage):
                raise InvalidMessageError(f"A history stores messages, not {type(message).__name__}.")
        return [], list(messages)

    def encode_records(self, records: Sequence[Record]) -> NoReturn:  # noqa: ARG002
        """Refuse records, because the rows have ids of their own.

        Raises:
            UnsupportedOperationError: Always.
        """
        raise UnsupportedOperationError(
            "The rows of a model of your own cannot keep the ids and times of records; append messages instead."
        )

    def unchanged(self, rows: Any, to: RecordFormat) -> None:  # rows have no text
        """Tell that each message is made a record."""

    def transcode(self, row: Any, to: RecordFormat) -> tuple[str, str] | None:
        """Return the message as a record of `to`, with the id of the row."""
        ids, texts = to.encode_records([Record(row.message, row.position, row.position, None)])
        return (ids[0], texts[0]) if ids else None

    def decode(self, rows: Sequence[Any], session_id: Any) -> list[Record]:  # noqa: ARG002
        """Return the records; the id of a row identifies it and tells its position."""
        return [Record(row.message, row.position, row.position, None) for row in rows]

    def decode_messages(self, rows: Sequence[Any], session_id: Any) -> list[BaseMessage]:  # noqa: ARG002
        """Return the messages."""
        return [row.message for row in rows]

    def decode_stored(self, rows: Sequence[Any], session_id: Any) -> list[dict[str, Any]]:  # noqa: ARG002
        """Return the records as this package would store them."""
        return [{**encode_message(row.message), "meta": {"id": row.position}, "position": row.position} for row in rows]

    def record_ids(self, rows: Sequence[Any]) -> list[str]:
        """Return the ids of rows."""
        return [*map(self.record_id, rows)]

    def record_id(self, row: Any) -> str:
        """Return the id of a row."""
        return str(row.position)


class ModelOperations(EngineOperations):
    """The operations over messages, which a converter makes rows of a model, and a model's rows messages.

    Args:
        database: Where the table is.
        converter: The converter.
        session_id_field_name: The model's column of session ids.
    """

    capabilities = (
        Capability.NATIVE_ASYNC
        | Capability.ATOMIC_BATCH
        | Capability.TAIL_READ
        | Capability.LEAVES_NO_TRACE
        | Capability.PERSISTENT
        | Capability.MANY_PROCESSES
    )

    def __init__(self, database: Database, converter: Any, session_id_field_name: str) -> None:
        super().__init__(database)
        self._converter, self._model = converter, converter.get_sql_model_class()
        if not hasattr(self._model, session_id_field_name):
            raise ConfigurationError(f"The SQL model class must have a column {session_id_field_name!r}.")
        self._session_id = getattr(self._model, session_id_field_name)

    @property
    def place(self) -> Hashable:
        """The tables that set-up makes, by name: a converter made per request brings equal tables in new classes."""
        return self.database.schema(None), *sorted(self._model.metadata.tables)

    def key(self, session_id: Any) -> Any:
        """Return the session id itself, as the column has it."""
        return session_id

    async def look(self, client: Any) -> bool:
        if EngineUse.of(client).lacks_file():
            return False
        table = self._model.__table__
        schema = self.database.schema(table.schema)

        def has_table(connection: sa.Connection) -> bool:
            return sa.inspect(connection).has_table(table.name, schema=schema)

        return await self._in_transaction(client, has_table)

    async def setup(self, client: Any, *, upgrade: bool = False) -> None:  # noqa: ARG002  # there is nothing to add
        for left in reversed(range(_SET_UP_TRIES)):
            try:
                await self._in_transaction(client, self._model.metadata.create_all)
            except exc.DBAPIError as error:
                # Somebody else makes the tables at this moment.
                if not left or self.is_unavailable(error):
                    raise
            else:
                return

    async def _in_transaction(self, client: Any, function: Callable[[sa.Connection], T]) -> T:
        async with entered(EngineUse.of(client).plain_transaction()) as connection:
            return await self.in_sync(connection, function)

    async def _in_session(self, client: Any, function: Callable[[Session], T]) -> T:
        """Call a function with a session of SQLAlchemy's ORM, in one transaction."""

        def work(connection: sa.Connection) -> T:
            # In a savepoint of the caller's too what is written stays when the session is closed.
            with Session(connection, join_transaction_mode="rollback_only") as session:
                result = function(session)
                session.flush()
                return result

        return await self._in_transaction(client, work)

    async def append(self, client: Any, key: Any, rows: Sequence[Any]) -> None:
        def add(session: Session) -> None:
            session.add_all([self._converter.to_sql_model(message, key) for message in rows])

        await self._in_session(client, add)

    async def read(
        self, client: Any, key: Any, *, last: int | None = None, first: int | None = None, after: str | None = None
    ) -> Sequence[Any]:
        model, limit = self._model, first if last is None else last
        query = sa.select(model).where(self._session_id == key)
        if after is not None:
            query = query.where(model.id > min(position_number(after), MAX_ID))
        query = query.order_by(model.id if last is None else model.id.desc())
        if limit is not None:
            query = query.limit(min(limit, MAX_ID))

        def read(session: Session) -> list[_MessageRow]:
            convert = self._converter.from_sql_model
            return [_MessageRow(convert(row), str(row.id)) for row in session.scalars(query)]

        rows = await self._in_session(client, read)
        return rows if last is None else rows[::-1]

    async def count(self, client: Any, key: Any) -> int:
        query = sa.select(sa.func.count()).select_from(self._model).where(self._session_id == key)
        return await self._in_session(client, lambda session: int(session.scalar(query) or 0))

    async def clear(self, client: Any, key: Any) -> None:
        query = sa.delete(self._model).where(self._session_id == key)
        await self._in_session(client, lambda session: session.execute(query))
        self._log.what = SMALL_FILE
