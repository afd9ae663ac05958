"""The statements over the table of states, each of which compares and stores in one round trip.

A row is named by the hash of its session id, because MySQL has no unique key over a text as long as a session id may
be. A unique name makes each statement atomic by itself, so none needs the lock of the session.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from langchain_histories.stores.base import ANY_STATE, ExpectedState
from langchain_histories.stores.sql.statements import MYSQL, Limit, Statements

if TYPE_CHECKING:
    from langchain_histories.stores.sql.expiry import Expiry


class StateStatements(Statements):
    """The statements over one table of states.

    Args:
        table: The table: the hash of a session id, the session id, its state.
        kind: Of the database.
        limit: What its columns can hold.
        is_yugabyte: Whether it is a YugabyteDB.
        expiry: The statements over the table of expiries, where there is one: it says what names the row of a session.
    """

    def __init__(
        self, table: sa.Table, kind: str, limit: Limit, *, is_yugabyte: bool = False, expiry: Expiry | None = None
    ) -> None:
        super().__init__(table, kind, limit, limit, is_yugabyte=is_yugabyte)
        name, session, state = table.c
        self._is_mysql = kind in MYSQL
        this = name == sa.bindparam("name")
        old: Any = sa.bindparam("old", type_=sa.LargeBinary() if kind == "sqlite" else sa.Text())
        # MySQL gets a hash of the state that is expected, because a statement has to fit into one of its packets.
        unchanged = [this, (sa.func.sha2(state, 256) if self._is_mysql else self.text) == old]
        row: dict[Any, Any] = {name: sa.bindparam("name"), session: sa.bindparam("s"), state: sa.bindparam("state")}
        self._swap = table.update().where(*unchanged).values({state: sa.bindparam("state")})
        self._take, self._drop = table.delete().where(*unchanged), table.delete().where(this)
        self._add: Any
        self._put: Any
        if self._is_mysql:
            # Where the row is there already the first of these is an error, because IGNORE would ignore others too.
            self._add, put = table.insert().values(row), mysql.insert(table).values(row)
            self._put = put.on_duplicate_key_update({state.name: put.inserted[state.name]})
        else:
            dialect: Any = postgresql if kind == "postgresql" else sqlite
            insert = dialect.insert(table).values(row)
            self._add = insert.on_conflict_do_nothing(index_elements=[name])
            changes = {state.name: insert.excluded[state.name]}
            self._put = insert.on_conflict_do_update(index_elements=[name], set_=changes)
        # SQLAlchemy counts what was inserted only where it is asked to, and would ask for the name of the row.
        self._add, self._put = (
            insert.inline().execution_options(preserve_rowcount=True) for insert in (self._add, self._put)
        )
        self.get = sa.select(self.text).where(this if expiry is None else name == expiry.state_of_one)
        self.get_some = sa.select(name, self.text).where(name.in_(sa.bindparam("names", expanding=True)))

    def get_with(self, read: Any) -> Any:
        """Return the statement that selects what `read` does, in any order, and a row without a number for the state.

        The state has a row of its own, because it may be larger than all the others together.

        Args:
            read: Of the table of messages: number and text.
        """
        number, text = read.selected_columns
        rows = read.with_only_columns(number.label("number"), text.label("text")).subquery("rows_read")
        return sa.union_all(
            sa.select(rows.c.number, rows.c.text, sa.null().label("state")),
            sa.select(sa.null(), sa.null(), self.get.scalar_subquery()),
        )

    def change(self, name: str, key: str, text: str | None, expected: ExpectedState) -> tuple[Any, dict[str, Any]]:
        """Return the statement that stores or removes the state of this name, and its parameters."""
        parameters: dict[str, Any] = {"name": name}
        if text is not None:
            parameters["state"] = text
        if isinstance(expected, str | bytes):
            parameters["old"] = self._compared(expected)
            return (self._take if text is None else self._swap), parameters
        if text is None:
            return self._drop, parameters
        return (self._put if expected is ANY_STATE else self._add), {**parameters, "s": key}

    def _compared(self, state: str | bytes) -> str | bytes:
        """Return a state, as `get` found it, in the form in which the database compares it."""
        data = state.encode() if isinstance(state, str) else state
        if self._is_mysql:
            return hashlib.sha256(data).hexdigest()
        return data if self.kind == "sqlite" else data.decode()
