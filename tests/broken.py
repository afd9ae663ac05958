"""What may become of what a service keeps of a session, where several stores keep it alike."""

from __future__ import annotations

import functools
import json

from langchain_histories._operations import ANY_STATE
from langchain_histories.stores.shared.partitions import HEAD, Write
from langchain_histories.stores.shared.redis_lists import state_name

EPOCH = "0" * 16
HEADS = [
    *("", "5", "[]", "{}", "not json", "[" * 50_000, '{"epoch": 5}'),
    json.dumps({"epoch": EPOCH, "number": "a", "count": [], "change": 1}),
    json.dumps({"epoch": EPOCH, "number": 2, "count": 2, "expires": "soon", "change": 1}),
    json.dumps({"epoch": EPOCH, "number": 2, "count": 2, "at": 5, "kept": {}, "change": 1}),
    json.dumps({"epoch": "x", "number": 1e300, "count": 2, "change": True}),
    json.dumps({"epoch": EPOCH, "number": 2, "count": 2, "of a later release": 1, "change": 1}),
]
REFERENCES = [
    "",
    "x",
    "5",
    f"b{EPOCH}.00000000",
    f"b{EPOCH}.00000000 x",
    f"b{EPOCH}.00000000 99999999999",
    f"b{EPOCH} 0",
]


def _put(store, session_id, sort, text):
    key = store.operations.key(session_id)
    write = Write(sort, text, ANY_STATE)
    assert store.run("append", lambda client: store.operations._commit(client, key, [write]))


def _item(store, session_id, sort):
    key = store.operations.key(session_id)
    return store.run("read", lambda client: store.operations._get(client, key, sort))


def broken_heads(store, session_id, step=1):
    """Calls that break the head of a session."""
    return [functools.partial(_put, store, session_id, HEAD, text) for text in HEADS[::step]]


def broken_references(store, session_id):
    """Calls that add a record that says that it is in a body, where no body is."""

    def leave(text):
        stored = json.loads(_item(store, session_id, HEAD).text)
        _put(store, session_id, f"r{stored['epoch']}.{stored['number']:016}b", text)
        changed = {"number": stored["number"] + 1, "count": stored["count"] + 1, "change": stored["change"] + 1}
        _put(store, session_id, HEAD, json.dumps({**stored, **changed}))

    return [functools.partial(leave, text) for text in REFERENCES]


def broken_lists(store, session_id):
    """Calls that put keys of other types in the place of those of a session in Redis."""
    name, client = store.operations.key_prefix + session_id, store.client
    state = state_name(name)
    return [
        lambda: (client.delete(state), client.lpush(state, "x")),
        lambda: (client.delete(name), client.set(name, "x")),
        lambda: (client.delete(name, state), client.hset(name, "a", "b"), client.sadd(state, "c")),
    ]


def pushes(store, session_id, values):
    """Calls that each push a value onto the list of a session in Redis."""
    name = store.operations.key_prefix + session_id
    return [functools.partial(store.client.lpush, name, value) for value in values]
