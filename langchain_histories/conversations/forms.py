"""One conversation in the forms of others: LangChain's, OpenAI's, and Markdown and HTML for people.

| form | what it is | read back by `import_session` |
|---|---|---|
| `langchain` | the dicts of `messages_to_dict`, with the `meta` of records, unknown to LangChain | with ids and times |
| `openai` | the dicts of OpenAI's chat API | yes, and the items of its Responses API too |
| `markdown` | a page for people | no |
| `html` | a page for people that stands alone: no scripts, and nothing is fetched | no |

`json_lines` is the form that loses nothing, for whole stores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from langchain_core.messages import BaseMessage

from langchain_histories import _pages
from langchain_histories._plain import derived_id
from langchain_histories._values import decode_value, from_json, to_json
from langchain_histories.codec import VERSION, Record, RecordFormat, decode_message, record_time
from langchain_histories.conversations import _openai
from langchain_histories.conversations.copying import check_is_store
from langchain_histories.errors import ConfigurationError, InvalidMessageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_histories._session_ids import SessionId
    from langchain_histories.store import MessageStore

    Form = Literal["langchain", "openai", "markdown", "html"]

_PLAIN = RecordFormat()


@overload
def export_session(
    store: MessageStore, session_id: SessionId, form: Literal["langchain", "openai"]
) -> list[dict[str, Any]]: ...


@overload
def export_session(store: MessageStore, session_id: SessionId, form: Literal["markdown", "html"]) -> str: ...


def export_session(store: MessageStore, session_id: SessionId, form: Form) -> list[dict[str, Any]] | str:
    """Return a conversation in the form of somebody else.

    What is returned holds only what JSON and UTF-8 can. It is made in memory; `export_jsonl` writes whole stores.

    Args:
        store: Where the session is.
        session_id: The session.
        form: `langchain`: the dicts of `messages_to_dict`, which `messages_from_dict` and `import_session` read.
            `openai`: the messages of OpenAI's chat API; what it has no place for, such as ids, times and artifacts, is
            left out, and values that JSON lacks are texts. `markdown` and `html`: a page for people. HTML shows texts
            as they are; Markdown shows what models write as such, but none of its HTML.

    Raises:
        ConfigurationError: There is no such form.
        CorruptRecordError: A record cannot be read.
        StoreError: The store failed.
    """
    _check(store, form)
    return _exported(store.records(session_id), str(session_id), form)


@overload
async def aexport_session(
    store: MessageStore, session_id: SessionId, form: Literal["langchain", "openai"]
) -> list[dict[str, Any]]: ...


@overload
async def aexport_session(store: MessageStore, session_id: SessionId, form: Literal["markdown", "html"]) -> str: ...


async def aexport_session(store: MessageStore, session_id: SessionId, form: Form) -> list[dict[str, Any]] | str:
    """Async `export_session`."""
    _check(store, form)
    return _exported(await store.arecords(session_id), str(session_id), form)


def import_session(conversation: Sequence[dict[str, Any]], store: MessageStore, session_id: SessionId) -> int:
    """Add a conversation in LangChain's or OpenAI's form to the end of a session, as one batch.

    A message that has no id of a record gets one that its place and its content give. So the same call may be made
    again, also when the conversation has grown at its end: what is there is left out.

    Args:
        conversation: What `export_session` returns as `langchain` or `openai`, `messages_to_dict`, or the messages of
            OpenAI's chat API or the items of its Responses API.
        store: Where it goes.
        session_id: The session.

    Returns:
        How many messages were added.

    Raises:
        InvalidMessageError: Something in it is no message of these forms. Nothing was written.
        StoreError: The store failed.
    """
    check_is_store("store", store)
    return len(store.append_records(session_id, _imported(conversation)))


async def aimport_session(conversation: Sequence[dict[str, Any]], store: MessageStore, session_id: SessionId) -> int:
    """Async `import_session`."""
    check_is_store("store", store)
    return len(await store.aappend_records(session_id, _imported(conversation)))


def _check(store: MessageStore, form: str) -> None:
    check_is_store("store", store)
    if form not in ("langchain", "openai", "markdown", "html"):
        raise ConfigurationError(f"form must be 'langchain', 'openai', 'markdown' or 'html', not {form!r}.")


def _exported(records: Sequence[Record], session_id: str, form: Form) -> list[dict[str, Any]] | str:
    if form == "langchain":
        _, texts = _PLAIN.encode_records(records)
        return [from_json(text) for text in texts]
    if form == "openai":
        return _openai.chat_of([record.message for record in records])
    return (_pages.markdown if form == "markdown" else _pages.html)(session_id, records)


def _imported(conversation: Sequence[dict[str, Any]]) -> list[Record]:
    if isinstance(conversation, str | bytes | dict) or not hasattr(type(conversation), "__iter__"):
        raise InvalidMessageError(f"A conversation is a list of dicts, not {type(conversation).__name__}.")
    items = list(conversation)
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidMessageError(f"Item {number} of the conversation is not a dict, but {type(item).__name__}.")
    if items and all(item.keys() >= {"type", "data"} for item in items):
        return [_of_langchain(number, item) for number, item in enumerate(items)]
    records: list[Record] = []
    for number, count, message in _openai.messages_of(items):
        if message is None:
            raise InvalidMessageError(f"Item {number} of the conversation is no message of OpenAI's or LangChain's.")
        records.append(Record(message, "", derived_id([number, *items[number : number + count]]), None))
    return records


def _of_langchain(number: int, item: dict[str, Any]) -> Record:
    meta = item["meta"] if isinstance(item.get("meta"), dict) else {}
    record_id, version = meta.get("id"), meta.get("v")
    if isinstance(version, int) and version > VERSION:
        raise InvalidMessageError(
            f"Item {number} of the conversation has format version {version}, and this release reads up to {VERSION}; "
            "upgrade."
        )
    try:
        message: BaseMessage = decode_message({"type": item["type"], "data": decode_value(item["data"])})
        if not isinstance(record_id, str) or not record_id:
            record_id = derived_id([number, item])
        return Record(message, "", record_id, record_time(to_json({"meta": meta})))
    except Exception as error:  # noqa: BLE001  # validators can raise anything, and their errors quote the content
        raise InvalidMessageError(
            f"Item {number} of the conversation is no message of LangChain's ({type(error).__name__})."
        ) from None
