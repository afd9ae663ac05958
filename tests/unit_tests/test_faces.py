"""Each public method that does I/O has a sync and an async form: same arguments, same result, documented alike.

Drop-in classes are left out: they have the methods that LangChain's classes have.
"""

from __future__ import annotations

import inspect

import pytest

import langchain_histories
from langchain_histories import HistoryRegistry, MessageStore, ModelSummarizer, StoredChatMessageHistory, Summarizer
from langchain_histories.history import TurnChatMessageHistory
from langchain_histories.views._view import HistoryView

PUBLIC = [getattr(langchain_histories, name) for name in langchain_histories.__all__]
CLASSES = [
    *(cls for cls in PUBLIC if inspect.isclass(cls) and issubclass(cls, (MessageStore, HistoryView))),
    *(HistoryRegistry, Summarizer, ModelSummarizer, StoredChatMessageHistory, TurnChatMessageHistory),
]

NO_TWIN = {
    "count_partitions": "for a property of the drop-in class, which has no async form",
    "factory": "makes a function",
    "from_config": "makes stores, which connect later",
    "get_session_history": "makes a handle",
    "get_user_session_history": "makes a handle",
    "history": "makes a handle",
    "joined": "makes a store, which connects later",
    "request": "puts a text together",
    "store": "returns what is there",
}
LANGCHAINS = {"add_user_message", "add_ai_message"}
"""LangChain's class has no async form of these; its users call `aadd_messages`."""


def methods(cls):
    found = {name: inspect.getattr_static(cls, name) for name in dir(cls) if not name.startswith("_")}
    return {
        name: value for name, value in found.items() if callable(value) or isinstance(value, property | classmethod)
    }


def is_async(value):
    return inspect.iscoroutinefunction(value)


def twin_of(name, known):
    """The sync form of an async method: the method without the `a`, or the property without `aget_`."""
    return name[1:] if name[1:] in known else name.removeprefix("aget_")


def signature(function):
    return inspect.signature(function.fget if isinstance(function, property) else function)


PAIRS = [
    pytest.param(cls, twin_of(name, methods(cls)), name, id=f"{cls.__name__}.{name}")
    for cls in CLASSES
    for name, value in methods(cls).items()
    if is_async(value)
]


@pytest.mark.parametrize(("cls", "name", "async_name"), PAIRS)
def test_an_async_method_is_the_sync_one_awaited(cls, name, async_name):
    sync, native = getattr(cls, name), getattr(cls, async_name)
    assert not is_async(sync)
    if isinstance(sync, property) and issubclass(cls, StoredChatMessageHistory):
        return  # LangChain's pair, `messages` and `aget_messages`; `get_messages` is the twin in ours
    expected, given = signature(sync), signature(native)
    assert list(given.parameters.values()) == list(expected.parameters.values())
    assert given.return_annotation == expected.return_annotation
    documented = (inspect.getdoc(native) or "").splitlines()[0]
    assert documented.startswith(f"Async `{name}`"), documented


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_sync_method_has_an_async_twin(cls):
    known = methods(cls)
    plain = {name for name, value in known.items() if not is_async(value) and not isinstance(value, property)}
    twins = {twin_of(name, known) for name, value in known.items() if is_async(value)}
    assert plain - twins - NO_TWIN.keys() - LANGCHAINS == set()


def test_the_exceptions_are_still_there():
    names = {name for cls in CLASSES for name in methods(cls)}
    assert (NO_TWIN.keys() | LANGCHAINS) - names == set()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_method_takes_what_a_session_id_may_be(cls):
    annotations = {
        (name, parameter.name): parameter.annotation
        for name, value in methods(cls).items()
        if inspect.isfunction(value)
        for parameter in inspect.signature(value).parameters.values()
        if parameter.name in ("session_id", "user_id")
    }
    wrong = {where: kind for where, kind in annotations.items() if kind not in ("SessionId", "SessionId | None")}
    assert wrong == {}
