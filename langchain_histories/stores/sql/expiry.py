"""When sessions expire: the statements over the table of expiries, which is there where a store has a `ttl`.

A row `(id, session_id, state, expires_at, up_to, hidden)` is named as that of a state. Its session expires, up to the
record `up_to`, at `expires_at`, in milliseconds since 1970 by the database's clock. Who writes to an expired session
begins it anew in the same statement or transaction: `hidden` becomes the old `up_to`, and `state` another name, under
which the next state is stored. So readers leave out the records up to `up_to` of what has expired and up to `hidden` of
what was begun anew, and nothing has to be removed before a session goes on. What LangChain's class appended is behind
`up_to`, so it is shown.
"""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from langchain_histories.stores.sql.statements import MYSQL, Limit, Statements, name_of

_NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    # The clock, because a transaction of the caller's may have begun long ago.
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
    "mysql": "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000)",
}
_POSTGRESQL_PUT = """INSERT INTO {table} AS e (id, {session}, state, expires_at, up_to, hidden)
SELECT CAST(:name AS varchar), CAST(:s AS text), CAST(:name AS text), {now} + CAST(:ttl AS bigint), max(i.id), 0 FROM i
ON CONFLICT (id) DO UPDATE SET
  hidden = CASE WHEN e.expires_at <= {now} THEN e.up_to ELSE e.hidden END,
  state = CASE WHEN e.expires_at <= {now} THEN CAST(:fresh AS text) ELSE e.state END,
  up_to = excluded.up_to,
  expires_at = CASE WHEN CAST(:ttl AS bigint) IS NOT NULL THEN excluded.expires_at
    WHEN e.expires_at <= {now} THEN NULL ELSE e.expires_at END
"""
_MARIADB_PUT = """INSERT INTO {table} (id, {session}, state, expires_at, up_to, hidden)
  VALUES (:name, :s, :name, {now} + :ttl, LAST_INSERT_ID() + {others} * @@auto_increment_increment, 0)
  ON DUPLICATE KEY UPDATE hidden = CASE WHEN expires_at <= {now} THEN up_to ELSE hidden END,
    state = CASE WHEN expires_at <= {now} THEN :fresh ELSE state END, up_to = VALUES(up_to),
    expires_at = CASE WHEN :ttl IS NOT NULL THEN VALUES(expires_at) WHEN expires_at <= {now} THEN NULL
      ELSE expires_at END;"""


class Expiry(Statements):
    """The statements over one table of expiries.

    Args:
        table: The table.
        kind: Of the database.
        limit: What its columns of texts can hold.
    """

    def __init__(self, table: sa.Table, kind: str, limit: Limit) -> None:
        super().__init__(table, kind, limit, limit)
        self.table, columns = table, table.c
        name, session, state = columns[0], columns[1], columns.state
        self.session = session
        self._now_text = _NOW["mysql" if kind in MYSQL else kind]
        now: Any = sa.literal_column(self._now_text, sa.BigInteger())
        is_over = columns.expires_at <= now
        self.hidden = sa.case((is_over, columns.up_to), else_=columns.hidden)
        this = name == sa.bindparam("name")
        self.hidden_of_one = sa.select(self.hidden).where(this).scalar_subquery()
        shown_state = sa.case((is_over, ""), else_=state)
        self.state_of_one = sa.func.coalesce(
            sa.select(shown_state).where(this).scalar_subquery(), sa.bindparam("name", type_=sa.Text())
        )
        self.states_of_some = sa.select(name, shown_state).where(name.in_(sa.bindparam("names", expanding=True)))
        self.look = sa.select(is_over, state).where(this)
        most = sa.bindparam("limit", type_=sa.BigInteger())
        self.left = sa.select(session).where(is_over | (columns.hidden > 0)).limit(most)
        self.look_to_sweep = sa.select(is_over, state, self.hidden).where(this)
        self.swept = table.update().where(this).values({columns.hidden: 0})
        ttl: Any = sa.bindparam("ttl", type_=sa.BigInteger())
        row: dict[Any, Any] = {
            name: sa.bindparam("name"),
            session: sa.bindparam("s"),
            state: sa.bindparam("name"),
            columns.up_to: sa.bindparam("up_to", type_=sa.BigInteger()),
            columns.hidden: 0,
            columns.expires_at: now + ttl,
        }
        # In this order: MySQL looks at what it has set already.
        before = sa.bindparam("before", type_=sa.BigInteger())
        changes: list[tuple[str, Any]] = [
            ("hidden", sa.case((self.hidden > before, before), else_=self.hidden)),
            ("state", sa.case((is_over, sa.bindparam("fresh")), else_=state)),
            ("up_to", sa.bindparam("up_to", type_=sa.BigInteger())),
            (
                "expires_at",
                sa.case((ttl.is_not(None), now + ttl), (is_over, sa.null()), else_=columns.expires_at),
            ),
        ]
        if kind in MYSQL:
            self.put: Any = mysql.insert(table).values(row).on_duplicate_key_update(changes)
        else:
            dialect: Any = postgresql if kind == "postgresql" else sqlite
            insert = dialect.insert(table).values(row)
            self.put = insert.on_conflict_do_update(index_elements=[name], set_=dict(changes))
        self.put = self.put.inline()

    def parameters(self, key: str, ttl: int | None) -> dict[str, Any]:
        """What `put` and `insert_and_put` need beside the records, or the number of the last one."""
        return {"name": name_of(key), "s": key, "ttl": None if ttl is None else ttl * 1000, "fresh": uuid.uuid4().hex}

    def insert_and_put(self, messages: Statements) -> Any:
        """PostgreSQL's one statement that takes the lock, inserts messages and puts the expiry."""
        lock, insert = messages.insert_text.split("\nINSERT", 1)
        return sa.text(f"{lock},\ni AS (INSERT{insert}RETURNING id)\n{self._raw(_POSTGRESQL_PUT)}")

    def compound_and_put(self, messages: Statements, count: int) -> Any:
        """MariaDB's, with so many messages."""
        return sa.text(messages.compound_text(count, self._raw(_MARIADB_PUT, others=count - 1)))

    def _raw(self, text: str, **values: Any) -> str:
        return text.format(**self.names, now=self._now_text, **values)
