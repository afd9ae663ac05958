"""Which records of a session a caller wants to see."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from langchain_histories.codec import Record, shown_meta, time_of
from langchain_histories.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_histories._session_ids import SessionId
    from langchain_histories.codec import Row

T = TypeVar("T")


class RecordFilter(NamedTuple):
    """What the records of a read have in common.

    Attributes:
        since: They were added then or later.
        until: They were added before.
        types: The types of their messages.
        meta: What an application gave with them, among other things.
    """

    since: dt.datetime | None
    until: dt.datetime | None
    types: frozenset[str] | None
    meta: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        since: dt.datetime | None,
        until: dt.datetime | None,
        types: str | Iterable[str] | None,
        meta: Mapping[str, Any] | None,
    ) -> RecordFilter | None:
        """Return the filter for the arguments of `records`; `None` if they ask for everything.

        Raises:
            ConfigurationError: One cannot be used.
        """
        for name, time in (("since", since), ("until", until)):
            if time is not None and (not isinstance(time, dt.datetime) or time.tzinfo is None):
                raise ConfigurationError(
                    f"{name} must be a datetime with a time zone, such as datetime.now(UTC), not {time!r}."
                )
        if types is not None and not isinstance(types, str | Iterable):
            raise ConfigurationError(f"type must be the type of a message, such as 'human', or several, not {types!r}.")
        if meta is not None and not isinstance(meta, Mapping):
            raise ConfigurationError(f"meta must be a dict, not {type(meta).__name__}.")
        if since is None and until is None and types is None and not meta:
            return None
        names = None if types is None else frozenset([types] if isinstance(types, str) else types)
        return cls(since, until, names, dict(meta or {}))

    def keeps(self, record: Record | dict[str, Any]) -> bool:
        """Whether a record, or what is stored of it, is wanted."""
        if isinstance(record, Record):
            at, name, meta = record.at, record.message.type, record.meta
        else:
            at, name, meta = time_of(record["meta"]), record["type"], shown_meta(record["meta"])
        if (self.since or self.until) and at is None:
            return False
        return (
            (self.since is None or at >= self.since)  # type: ignore[operator]  # known, as above
            and (self.until is None or at < self.until)  # type: ignore[operator]
            and (self.types is None or name in self.types)
            and all(key in meta and meta[key] == value for key, value in self.meta.items())
        )

    def of_decoded(
        self, decode: Callable[[Sequence[Row], SessionId], list[T]]
    ) -> Callable[[Sequence[Row], SessionId], list[T]]:
        """Return a decoder that leaves out what is not wanted. What cannot be read is still an error."""
        return lambda rows, session_id: [record for record in decode(rows, session_id) if self.keeps(record)]  # type: ignore[arg-type]
