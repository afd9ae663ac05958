"""URLs of stores: taken apart, and shown without their secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus, urlsplit

from langchain_histories.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://)?")
_SECRET_NAME = re.compile(r"(?i)pass|pwd|secret|token|key|sig|credential|oauthbearer|dsn|connection_?string")
_SHORTEST_SECRET = 4
# What stands between `//` and the path. Without a login before it, a word behind a colon could be a password.
_BEHIND_LOGIN = re.compile(r"[\w.,:*%\[\]-]*")
_WITHOUT_LOGIN = re.compile(r"[\w.*-]*(:\d*)?(,[\w.*-]+(:\d*)?)*|\[[\w:.%]*\](:\d*)?")


class StoreUrl(NamedTuple):
    """The parts of a URL, percent-decoded.

    Attributes:
        scheme: In lower case.
        user: `None` if there is none; the same for the next three.
        password: The password, token or key behind the user.
        host: In lower case.
        port: The port.
        path: Without the slashes around it.
        query: The last value of each name.
    """

    scheme: str
    user: str | None
    password: str | None
    host: str | None
    port: int | None
    path: str
    query: dict[str, str]


def split_url(url: str, form: str) -> StoreUrl:
    """Take a URL apart.

    Args:
        url: The URL.
        form: How such a URL is written, for the error, such as `redis://[user:password@]host[:port][/db]`.

    Raises:
        ConfigurationError: It cannot be read, or not in one way alone. The error holds no part of the URL.
    """
    try:
        parts = urlsplit(url)
        found = StoreUrl(
            parts.scheme.lower(),
            None if parts.username is None else unquote(parts.username),
            None if parts.password is None else unquote(parts.password),
            parts.hostname,
            parts.port,
            unquote(parts.path.strip("/")),
            dict(parse_qsl(parts.query, keep_blank_values=True)),
        )
    except ValueError:
        found = None
    # A password with a slash ends the part before the host too early, and leaves its own @ behind.
    if found is None or ("@" in parts.path and (":" in parts.netloc or "@" in parts.netloc)):
        raise bad_url(form)
    return found


def bad_url(form: str) -> ConfigurationError:
    """The error for a URL that cannot be read; it says how such a URL is written, and quotes nothing of it."""
    return ConfigurationError(
        f"The URL cannot be read. It is written {form}, and in user and password %, :, /, ?, #, [, ] and @ are "
        "percent-encoded: %25, %3A, %2F, %3F, %23, %5B, %5D and %40."
    )


def shown_url(url: str) -> str:
    """Return what may be shown of a URL: scheme, user, host and path, and the names in the query.

    A password may have any characters, so nothing is shown that could be a part of one.
    """
    found = _SCHEME.match(url)
    if found is None:
        return url if url.startswith("/") else "***"
    rest = url[found.end() :]
    userinfo, at, place = rest.rpartition("@")
    if re.search("[?#]", userinfo):
        return f"{found[0]}***"
    place, _, query = re.split("#", place, maxsplit=1)[0].partition("?")
    if found[0].endswith("//") and not (_BEHIND_LOGIN if at else _WITHOUT_LOGIN).fullmatch(place.partition("/")[0]):
        return f"{found[0]}***"
    user, colon, _ = userinfo.partition(":")
    login = (f"{user}:***@" if colon and re.fullmatch(r"[\w.%+-]*", user) else "***@") if at else ""
    names = "&".join(f"{name.partition('=')[0]}=***" for name in query.split("&")) if query else ""
    shown = f"{login}{place}" + (f"?{names}" if names else "")
    for secret in secrets_of(url):
        shown = shown.replace(secret, "***")
    return found[0] + shown


def secrets_of(url: str | None, options: Any = None) -> tuple[str, ...]:
    """Return all texts that a URL and the options of a driver hold and that must not be shown, longest first.

    A text shorter than four characters is none of them: it is a part of too many others.
    """
    found: set[str] = set()
    for secret in (*_secrets_in_url(url or ""), *_secrets_in_options(options, is_secret=False)):
        pieces = [secret, *re.split("[/?#@:&=]", secret)]
        for piece in pieces:
            for plain in {piece, unquote(piece), unquote_plus(piece)}:
                found |= {plain, quote(plain, safe=""), quote(plain), quote_plus(plain), repr(plain)[1:-1]}
                found.add(repr(plain.encode("utf-8", "surrogatepass"))[2:-1])
    return tuple(sorted((text for text in found if len(text) >= _SHORTEST_SECRET), key=len, reverse=True))


def _secrets_in_url(url: str) -> Iterator[str]:
    rest = url.partition(":")[2].removeprefix("//")
    userinfo, at, _ = rest.rpartition("@")
    if at:
        user, colon, password = userinfo.partition(":")
        yield password if colon else user
    elif not _WITHOUT_LOGIN.fullmatch(re.split("[/?#]", rest, maxsplit=1)[0]):
        yield rest.partition(":")[2]
    # A value may have any characters: it goes on until the next name, or to the end.
    for name, value in re.findall(r"[?&]([^=&?#]*)=(.*?)(?=&[\w.-]+=|$)", rest, re.DOTALL):
        if _SECRET_NAME.search(name):
            yield value


def _secrets_in_options(value: Any, *, is_secret: bool) -> Iterator[str]:
    if isinstance(value, str) and is_secret:
        yield value
    elif isinstance(value, bytes) and is_secret:
        yield value.decode("utf-8", "replace")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _secrets_in_options(item, is_secret=is_secret or bool(_SECRET_NAME.search(str(name))))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _secrets_in_options(item, is_secret=is_secret)


def mentions(error: BaseException, secrets: Iterable[str]) -> bool:
    """Whether an error, or one that led to it, shows one of these texts."""
    secrets = list(secrets)
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        try:
            said = f"{current!s} {current!r} {vars(current)!r}"
        except Exception:  # noqa: BLE001  # what an error says of itself is its own code
            return True
        if any(secret in said for secret in secrets):
            return True
        waiting += [current.__cause__, current.__context__, *getattr(current, "exceptions", ())]
    return False
