"""Session ids: which are taken, how a user's are named, and the keys that stand for them in a service."""

from __future__ import annotations

import re
import uuid
from typing import TypeAlias
from urllib.parse import quote, unquote

from langchain_histories.errors import ConfigurationError

MAX_SESSION_ID_BYTES = 1024
_ESCAPED = "lh%"
_NUL = "\0"

SessionId: TypeAlias = str | int | uuid.UUID


def normalize_session_id(session_id: SessionId) -> str:
    """Return the session id as text.

    Args:
        session_id: A non-empty `str` of at most 1,024 bytes of UTF-8, a `UUID` or an `int`.

    Raises:
        ConfigurationError: It is something else.
    """
    if isinstance(session_id, uuid.UUID) or (isinstance(session_id, int) and not isinstance(session_id, bool)):
        return str(session_id)
    if not isinstance(session_id, str) or not session_id:
        what = "an empty string" if session_id == "" else type(session_id).__name__
        raise ConfigurationError(
            f"session_id must be a non-empty str, a UUID or an int, not {what}: without it sessions would be shared."
        )
    try:
        size = len(session_id.encode("utf-8"))
    except UnicodeEncodeError:
        raise ConfigurationError("session_id contains a lone surrogate, which is not valid Unicode text.") from None
    if size > MAX_SESSION_ID_BYTES:
        raise ConfigurationError(f"session_id has {size} bytes of UTF-8; the limit is {MAX_SESSION_ID_BYTES}.")
    return session_id


def user_session_id(user_id: SessionId, session_id: SessionId) -> str:
    """Join a user and a session to one session id, `@user/session`.

    `%` and `/` are percent-escaped in the user's part, so different pairs never give the same id.

    Raises:
        ConfigurationError: A part is empty, or both are too long.
    """
    session = normalize_session_id(session_id)
    return normalize_session_id(user_prefix(user_id) + session)


def user_prefix(user_id: SessionId) -> str:
    """Return the text that all session ids of a user begin with."""
    user = normalize_session_id(user_id)
    return "@" + user.replace("%", "%25").replace("/", "%2F") + "/"


# A key is the session id itself wherever the service can hold it. Where it cannot hold NUL alone, an escape keeps the
# order of ids and what they begin with: NUL becomes U+0001 U+0001, and U+0001, which no ordinary id has, U+0001 U+0002.
# Where it cannot hold more, an escaped key is percent-encoded behind a mark, and an id that starts with the mark is
# escaped too. Either way no two ids have the same key.


def to_key(session_id: SessionId, unholdable: str) -> str:
    """Return the key of a session in a service that cannot hold the characters `unholdable`."""
    session_id = normalize_session_id(session_id)
    if unholdable == _NUL:
        return _without_nul(session_id)
    if unholdable and (session_id.startswith(_ESCAPED) or set(unholdable) & set(session_id)):
        return _ESCAPED + quote(session_id, safe="")
    return session_id


def from_key(key: str, unholdable: str) -> str:
    """Return the session id of a key."""
    if unholdable == _NUL:
        return re.sub("\x01([\x01\x02])", lambda pair: _NUL if pair[1] == "\x01" else "\x01", key)
    return unquote(key.removeprefix(_ESCAPED)) if unholdable and key.startswith(_ESCAPED) else key


def key_prefixes(prefix: str, unholdable: str) -> list[str]:
    """Return the prefixes that the keys of all sessions have whose id starts with `prefix`."""
    if unholdable == _NUL:
        return [_without_nul(prefix)]
    escaped = _ESCAPED + quote(prefix, safe="")
    if unholdable and (prefix.startswith(_ESCAPED) or set(unholdable) & set(prefix)):
        return [escaped]
    if not unholdable or _ESCAPED.startswith(prefix):
        return [prefix]
    return [prefix, escaped]


def matches_all_escaped(prefix: str, unholdable: str) -> bool:
    """Whether the keys that start with `prefix` include every escaped key, of ids that may not start with it."""
    return bool(unholdable.strip(_NUL) and prefix and prefix != _ESCAPED and _ESCAPED.startswith(prefix))


def _without_nul(text: str) -> str:
    return text.replace("\x01", "\x01\x02").replace(_NUL, "\x01\x01")


def prefix_end(prefix: str) -> str | None:
    """Return the smallest text behind all texts that start with `prefix`, by code points; `None` if there is none."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    # Surrogates are no characters of a valid text.
    return kept[:-1] + ("\ue000" if kept[-1] == "\ud7ff" else chr(ord(kept[-1]) + 1))
