"""The statements over one table, and what differs in them between the databases."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

from langchain_histories.stores.base import prefix_end
from langchain_histories.stores.sql.jsonb import Shape, from_jsonb, to_jsonb
from langchain_histories.stores.sql.yugabytedb import INSERT as YUGABYTE_INSERT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_histories.stores.sql.expiry import Expiry

MYSQL = ("mysql", "mariadb")
KINDS = ("sqlite", "postgresql", *MYSQL, "yugabytedb")
# Collations that compare byte for byte, trailing spaces too.
COLLATIONS = {"sqlite": None, "postgresql": "C", "mysql": "utf8mb4_0900_bin", "mariadb": "utf8mb4_nopad_bin"}
_BYTEWISE = ("C", "utf8mb4_0900_bin", "utf8mb4_nopad_bin")
_POSTGRESQL_BYTES, _MYSQL_CHARACTERS = 63, 64
# What PostgreSQL and MySQL call so in Python's words. Of other character sets nothing but ASCII is used.
_CODECS = {"LATIN1": "latin-1", "latin1": "cp1252"}
COMPOUND_ROWS = 100
MAX_ID = 2**63 - 1
_COMPOUND = """BEGIN NOT ATOMIC
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; DO RELEASE_LOCK(:lock); RESIGNAL; END;
  IF GET_LOCK(:lock, :wait) IS NOT TRUE THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'lock timeout'; END IF;
  INSERT INTO {table} ({session}, {text}) VALUES {rows};
  {more}COMMIT; DO RELEASE_LOCK(:lock);
END"""
# PostgreSQL runs the CTE only because FROM mentions it. Ids are assigned above the join, so after the lock is held.
_POSTGRESQL_INSERT = """
WITH l AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended(CAST(:lock AS text), 0)))
INSERT INTO {table} ({session}, {columns}) SELECT CAST(:s AS {session_type}), {values}
FROM l CROSS JOIN json_array_elements_text(CAST(:rows AS json)) WITH ORDINALITY AS u(m, o) ORDER BY u.o
"""
_SQLITE_INSERT = "INSERT INTO {table} ({session}, {text}) SELECT :s, value FROM json_each(:rows) ORDER BY key"


def derived_name(name: str, suffix: str, kind: str) -> str:
    """Return the name of what belongs to a table; where it would be too long, a hash is in place of the end.

    Args:
        name: Of the table.
        suffix: What is behind it.
        kind: Of the database.
    """
    if fits(name + suffix, kind):
        return name + suffix
    behind = f"_{hashlib.sha256(name.encode()).hexdigest()[:8]}{suffix}"
    while not fits(name + behind, kind):
        name = name[:-1]
    return name + behind


def fits(name: str, kind: str) -> bool:
    """Whether a name is not too long: PostgreSQL takes 63 bytes, MySQL 64 characters."""
    if kind in MYSQL:
        return len(name) <= _MYSQL_CHARACTERS
    return kind == "sqlite" or len(name.encode()) <= _POSTGRESQL_BYTES


@dataclass(frozen=True)
class Limit:
    """What a column of text can hold."""

    characters: int | None = None
    octets: int | None = None
    charset: str | None = None
    collation: str | None = None
    is_uuid: bool = False

    def __str__(self) -> str:
        """The limits, for messages."""
        limits = {"characters": self.characters, "bytes": self.octets, "character set": self.charset}
        return ", ".join(f"{name} {limit}" for name, limit in limits.items() if limit is not None) or "any text"

    def holds(self, text: str) -> bool:
        """Whether the column holds `text` unchanged."""
        if self.characters is not None and len(text) > self.characters:
            return False
        if self.octets is not None and len(text.encode()) > self.octets:
            return False
        return self.has_characters_of(text)

    def has_characters_of(self, text: str) -> bool:
        """Whether the character set has all characters of `text`."""
        if self.charset in ("utf8", "utf8mb3"):
            return max(text, default="") < "\U00010000"
        if self.charset in (None, "utf8mb4") or text.isascii():
            return True
        try:
            text.encode(_CODECS.get(self.charset, "ascii"))
        except UnicodeEncodeError:
            return False
        return True

    @property
    def is_bytewise(self) -> bool:
        """Whether the column compares byte for byte."""
        return self.collation in _BYTEWISE


class Statements:
    """The statements over one table, which holds a text a row; built once.

    Args:
        table: The table: id, session id, text.
        kind: Of the database.
        session_limit: What its column of session ids can hold.
        text_limit: What its column of texts can hold.
        shape: How it keeps texts in JSON.
        is_yugabyte: Whether a writer takes its lock by another statement.
        expiry: The statements over the table of expiries, where there is one: what has expired is not shown.
    """

    def __init__(
        self,
        table: sa.Table,
        kind: str,
        session_limit: Limit,
        text_limit: Limit,
        shape: Shape | None = None,
        *,
        is_yugabyte: bool = False,
        expiry: Expiry | None = None,
    ) -> None:
        self._table, self.kind, self.expiry = table, kind, expiry
        self.number, self.session_name, self.alias = table.c[0], table.c[1].name, table.alias
        self.session_limit, self.text_limit, self.shape = session_limit, text_limit, shape
        number, session, text = list(table.c)[:3]
        self.text: Any = text if shape is None else sa.literal_column(shape.read, sa.Text())
        if kind == "sqlite":
            # Its columns hold values of any type, and the driver reads no row of those where a text is no UTF-8.
            self.text = sa.type_coerce(sa.cast(text, sa.LargeBinary()), sa.types.NullType())
        self.key = self.by_bytes(session)
        wanted: Any = sa.bindparam("s", type_=sa.Text())
        exact = [self.key == self.by_bytes(wanted)]
        if session_limit.is_uuid:
            exact = [session == sa.cast(wanted, postgresql.UUID())]
        elif kind != "sqlite" and not session_limit.is_bytewise:
            # This condition can use an index of the column. A text that its character set cannot hold is an error.
            if kind in MYSQL:
                wanted = sa.cast(wanted, mysql.CHAR(charset=session_limit.charset))
                wanted = sa.collate(wanted, str(session_limit.collation))
            exact.append(session == wanted)
        self.ids = sa.select(number).where(*exact)
        self.last_id = sa.select(sa.func.coalesce(sa.func.max(number), 0)).where(*exact)
        if expiry is not None:
            exact.append(number > sa.func.coalesce(expiry.hidden_of_one, 0))
        self.count = sa.select(sa.func.count()).select_from(table).where(*exact)
        self.delete = table.delete().where(number.in_(sa.bindparam("ids", expanding=True)))
        beyond = number > sa.bindparam("after", type_=sa.BigInteger())
        # Keys: (True = last rows, False = first rows, None = all; True = only after a position).
        self.read: dict[tuple[bool | None, bool], Any] = {}
        for from_end in (None, False, True):
            for has_after in (False, True):
                query = sa.select(number, self.text).where(*exact, *([beyond] if has_after else []))
                query = query.order_by(number.desc() if from_end else number)
                self.read[from_end, has_after] = query if from_end is None else query.limit(sa.bindparam("limit"))
        mark = "`" if kind in MYSQL else '"'
        self.names = {
            "table": quoted(table.name, mark, table.schema),
            "session": quoted(session.name, mark),
            "text": quoted(text.name, mark),
        }
        if kind in MYSQL:
            self.insert: Any = table.insert().values({session: sa.bindparam("s"), text: sa.bindparam("m")})
        else:
            insert = _SQLITE_INSERT if kind == "sqlite" else YUGABYTE_INSERT if is_yugabyte else _POSTGRESQL_INSERT
            session_type = "uuid" if session_limit.is_uuid else "text"
            columns, values = (self.names["text"], "u.m") if shape is None else (shape.columns, shape.values)
            texts = {"session_type": session_type, "columns": columns, "values": values}
            self.insert_text = insert.format(**self.names, **texts)
            self.insert = sa.text(self.insert_text)
        self.compound = functools.lru_cache(COMPOUND_ROWS)(self._compound)

    def encode(self, row: str) -> str:
        """Return the row as the table keeps it."""
        return row if self.shape is None else to_jsonb(row)

    def decode(self, text: str | bytes | None) -> str | bytes:
        """Return the row that `encode` was given."""
        return text or "" if self.shape is None else from_jsonb(str(text or ""))

    def decoded(self, texts: Sequence[str | bytes | None]) -> Sequence[str | bytes]:
        """Return the rows that `encode` was given for these."""
        return [text or "" for text in texts] if self.shape is None else [*map(self.decode, texts)]

    def _compound(self, count: int) -> Any:
        """MariaDB's statement that takes the lock, inserts so many rows, commits and releases the lock."""
        return sa.text(self.compound_text(count))

    def compound_text(self, count: int, more: str = "") -> str:
        """Return its text, with more statements behind the insert."""
        rows = ", ".join(f"(:s, :m{number})" for number in range(count))
        return _COMPOUND.format(rows=rows, more=more and f"{more}\n  ", **self.names)

    def by_bytes(self, text: Any) -> Any:
        """The text as something that the database compares and orders byte for byte."""
        if self.kind == "sqlite":
            return sa.collate(text, "BINARY")
        if self.session_limit.is_bytewise:
            return text
        if self.kind == "postgresql":
            return sa.collate(sa.cast(text, sa.Text()), "C")
        return sa.cast(sa.cast(text, mysql.CHAR(charset="utf8mb4")), sa.LargeBinary())

    def from_to(self, prefix: str, after: str | None) -> list[Any]:
        """Conditions for keys that begin with `prefix` and come behind `after`. No key is empty."""

        def value(text: str) -> Any:
            return self.by_bytes(sa.literal(text, sa.Text()))

        # One lower bound, because SQLite seeks by the first that it finds.
        is_behind = prefix == "" or (after is not None and after >= prefix)
        found = [self.key > value(after or "") if is_behind else self.key >= value(prefix)]
        end = prefix_end(prefix)
        return found if end is None else [*found, self.key < value(end)]

    def with_prefix(self, prefix: str) -> Any:
        """Select number and key of all rows whose key begins with `prefix`."""
        return sa.select(self._table.c.id, self.key).where(*self.from_to(prefix, None))

    def listing(self, prefix: str, limit: int | None, after: str | None) -> Any:
        """Select key, number of rows and last text of sessions."""
        number = self._table.c.id
        grouped = sa.select(self.key.label("k"), sa.func.count().label("n"), sa.func.max(number).label("m"))
        if self.expiry is not None:
            same = self.expiry.session == self.key
            grouped = grouped.outerjoin_from(self._table, self.expiry.table, same)
            grouped = grouped.where(number > sa.func.coalesce(self.expiry.hidden, 0))
        page = grouped.where(*self.from_to(prefix, after)).group_by(self.key).order_by(self.key).limit(limit)
        sessions = page.subquery()
        return sa.select(sessions.c.k, sessions.c.n, self.text).join(self._table, number == sessions.c.m)


def quoted(name: str, mark: str, schema: str | None = None, *, escape: bool = True) -> str:
    """Return a name as it is written in a statement.

    Args:
        name: The name.
        mark: What stands before and behind it.
        schema: Of a table, where it is.
        escape: Whether SQLAlchemy is to take a colon for what it is.
    """
    names = [mark + one.replace(mark, mark * 2) + mark for one in (schema, name) if one is not None]
    return ".".join(names).replace(":", "\\:" if escape else ":")


def name_of(key: str) -> str:
    """Return what names the row of a session in the table of states and in that of expiries."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_text(key: str | bytes) -> str:
    """Return a selected key as text: MySQL's is binary where the column does not compare byte for byte."""
    return key.decode() if isinstance(key, bytes) else key


def escape_row(row: str) -> str:
    """Return the same JSON in ASCII, for a column whose character set has not all of Unicode."""
    return re.sub(r"[^\x00-\x7f]+", lambda found: json.dumps(found[0])[1:-1], row)
