"""Session ids and the keys that stand for them in a service."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_histories._session_ids import from_key, key_prefixes, matches_all_escaped, prefix_end, to_key

ids = st.text(
    st.sampled_from("\0\x01\x02ab/%lhé\ud7ff\ue000😀") | st.characters(exclude_categories=["Cs"]),
    min_size=1,
    max_size=8,
)
UNHOLDABLE = ["", "\0", "/\\#?%\0\x1f"]


@pytest.mark.parametrize("unholdable", UNHOLDABLE)
@given(one=ids, other=ids, prefix=st.text(st.sampled_from("\0\x01a/%lh"), max_size=4))
def test_keys(unholdable, one, other, prefix):
    key, other_key = to_key(one, unholdable), to_key(other, unholdable)
    assert not set(unholdable) - {"%"} & set(key)
    assert (from_key(key, unholdable), from_key(other_key, unholdable)) == (one, other)
    assert (key == other_key) is (one == other)
    matching = any(key.startswith(found) for found in key_prefixes(prefix, unholdable))
    assert matching or not one.startswith(prefix)
    if unholdable == "\0":
        assert (key.encode() < other_key.encode()) is (one.encode() < other.encode())
    if not matches_all_escaped(prefix, unholdable):
        assert matching is one.startswith(prefix)


@pytest.mark.parametrize("unholdable", UNHOLDABLE)
def test_prefixes_of_keys_find_each_session_once(unholdable):
    """Of all short ids that begin like an escaped one: each with the prefix by one prefix of keys, and no other."""
    texts = ["".join(text) for length in range(5) for text in itertools.product("lh%\0", repeat=length)]
    keys = {session_id: to_key(session_id, unholdable) for session_id in texts[1:]}
    for prefix in texts:
        found = key_prefixes(prefix, unholdable)
        for session_id, key in keys.items():
            times = sum(key.startswith(start) for start in found)
            if session_id.startswith(prefix) or not matches_all_escaped(prefix, unholdable):
                assert times == session_id.startswith(prefix)


@pytest.mark.parametrize("session_id", ["42", "@ivan/1", "a b", "naïve", "lh%41", "ivan@example.com"])
def test_ordinary_ids_are_stored_as_they_are(session_id):
    assert to_key(session_id, "\0") == session_id


@given(prefix=ids, text=ids)
def test_what_lies_behind_all_texts_with_a_prefix(prefix, text):
    end = prefix_end(prefix)
    assert (prefix <= text and (end is None or text < end)) is text.startswith(prefix)
