"""The statement that lists sessions from the newest on, over the table and the index of LangChain's class.

The numbers of rows are the order of the appends, so no table of sessions is kept. Without a filter the rows are walked
from the newest on, and a row is shown that is the last one of its session, which the index tells. So a page costs what
was written since the last message of the last session on it. The sessions of a user are few, and grouped.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from langchain_histories.stores.base import prefix_end
from langchain_histories.stores.sql.statements import MYSQL, Statements

if TYPE_CHECKING:
    from collections.abc import Sequence

_AFTER = sa.bindparam("after", type_=sa.BigInteger())
_LIMIT = sa.bindparam("limit", type_=sa.BigInteger())
MOST_COUNTED = 1000
"""How many rows of a session are counted where it is cheap to stop there."""


def newest(
    table: Statements, prefix: str, limit: int, after: int | None, *, is_indexed: bool
) -> tuple[Any, dict[str, Any]]:
    """Return the statement that selects last number, key, number of rows, first and last text, and its parameters.

    Args:
        table: The statements of the table.
        prefix: Only keys that start with this.
        limit: At most so many.
        after: Only those whose last number is smaller.
        is_indexed: Whether the table has an index on session ids.
    """
    where = {"after": after, "start": prefix or None, "end": prefix_end(prefix)}
    given = {name: value for name, value in where.items() if value is not None}
    return _statement(table, frozenset(given), is_indexed), {**given, "limit": limit}


@functools.lru_cache(64)  # to build one takes longer than to run it
def _statement(table: Statements, given: frozenset[str], is_indexed: bool) -> Any:
    is_walked = is_indexed and "start" not in given
    page = _walked(table, given) if is_walked else _grouped(table, given)
    number = table.number
    first, last = (sa.select(table.text).where(number == page.c[name]).scalar_subquery() for name in ("f", "m"))
    return sa.select(page.c.m, page.c.k, page.c.n, first, last).order_by(page.c.m.desc())


def _walked(table: Statements, given: frozenset[str]) -> Any:
    row, other = table.alias("r"), table.alias("o")
    number, session = row.c.id, row.c[table.session_name]
    # A scalar, because an anti-join may be made a hash of the whole table.
    last = (
        sa.select(sa.func.max(other.c.id)).where(*_same_session(table, other, session)).correlate(row).scalar_subquery()
    )
    where = [number == last, table.by_bytes(session) > table.by_bytes(sa.literal("", sa.Text()))]
    where += _shown(table, number, session, row)
    if "after" in given:
        where.append(number < _AFTER)
    found = sa.select(number.label("m"), session.label("s"), table.by_bytes(session).label("k")).where(*where)
    page = found.order_by(number.desc()).limit(_LIMIT).subquery("p")
    same = [*_same_session(table, other, page.c.s), *_shown(table, other.c.id, page.c.s, page)]
    first = sa.select(sa.func.min(other.c.id)).where(*same).correlate(page).scalar_subquery()
    if table.kind in MYSQL:  # MariaDB's subquery in FROM cannot see what is outside
        counted = sa.select(sa.func.count()).select_from(other).where(*same).correlate(page).scalar_subquery()
    else:
        some = sa.select(sa.literal(1).label("one")).select_from(other).where(*same).correlate(page)
        counted = sa.select(sa.func.count()).select_from(some.limit(MOST_COUNTED + 1).subquery("c")).scalar_subquery()
    return sa.select(page.c.m, page.c.k, first.label("f"), counted.label("n")).subquery("q")


def _same_session(table: Statements, rows: Any, session: Any) -> Sequence[Any]:
    """Conditions for the rows of a session, of which one can use the index whatever the collation is."""
    same = rows.c[table.session_name] == session
    if table.session_limit.is_uuid:
        return [same]
    exact = table.by_bytes(rows.c[table.session_name]) == table.by_bytes(session)
    return [exact] if table.kind == "sqlite" or table.session_limit.is_bytewise else [exact, same]


def _shown(table: Statements, number: Any, session: Any, origin: Any) -> Sequence[Any]:
    """Conditions for rows that have not expired; `origin` is where their session is from."""
    if table.expiry is None:
        return []
    same = table.expiry.session == table.by_bytes(session)
    hidden = sa.select(table.expiry.hidden).where(same).correlate(origin).scalar_subquery()
    return [number > sa.func.coalesce(hidden, 0)]


def _grouped(table: Statements, given: frozenset[str]) -> Any:
    key, number = table.key, table.number
    start, end = (table.by_bytes(sa.bindparam(name, type_=sa.Text())) for name in ("start", "end"))
    where = [key >= start if "start" in given else key > table.by_bytes(sa.literal("", sa.Text()))]
    if "end" in given:
        where.append(key < end)
    last, first = sa.func.max(number), sa.func.min(number)
    found = sa.select(key.label("k"), last.label("m"), first.label("f"), sa.func.count().label("n")).where(*where)
    if table.expiry is not None:
        found = found.outerjoin_from(table.number.table, table.expiry.table, table.expiry.session == key)
        found = found.where(number > sa.func.coalesce(table.expiry.hidden, 0))
    found = found.group_by(key).order_by(sa.desc("m")).limit(_LIMIT)
    return (found.having(last < _AFTER) if "after" in given else found).subquery("p")
