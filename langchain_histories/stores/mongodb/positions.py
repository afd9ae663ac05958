"""Positions of records in MongoDB, and the `_id`s of their documents.

| who wrote the document | its `_id` | its `seq` | its position |
|---|---|---|---|
| this package | `<number>-<generation>` | the number, from 1 on | the `_id` |
| LangChain's class | an ObjectId, as a rule | missing | `0-` and the `_id` as BSON in hexadecimal digits |
"""

from __future__ import annotations

from typing import Any

import bson
from bson.errors import BSONError

from langchain_histories.stores.base import bad_position

LANGCHAINS: dict[str, Any] = {"seq": {"$not": {"$gt": 0}}}
"""The query for the documents that this package did not write."""

_LANGCHAIN_POSITION = "0-"


def position_of(number: int, generation: str) -> str:
    """The position of a record of ours, which is the `_id` of its document too."""
    return f"{number}-{generation}"


def number_of(document: dict[str, Any]) -> int:
    """The number of a record of ours, 0 for one of LangChain's."""
    number = document.get("seq")
    return number if isinstance(number, int) else 0


def position_of_document(document: dict[str, Any]) -> str:
    """The position of the record that a document holds, whoever wrote it."""
    if number_of(document) and isinstance(document["_id"], str):
        return str(document["_id"])
    return _LANGCHAIN_POSITION + bson.encode({"": document["_id"]}).hex()


def is_langchains(position: str) -> bool:
    """Whether a position is that of a record that LangChain's class wrote."""
    return position.startswith(_LANGCHAIN_POSITION)


def id_of(position: str) -> Any:
    """The `_id` of the document at a position.

    Raises:
        ConfigurationError: There is no such position.
    """
    if not is_langchains(position):
        return position
    try:
        return bson.decode(bytes.fromhex(position.removeprefix(_LANGCHAIN_POSITION)))[""]
    except (ValueError, KeyError, BSONError):
        raise bad_position(position) from None
