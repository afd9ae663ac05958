"""Secrets: what a URL and the options of a driver hold that must not be shown, and errors that do not show it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from langchain_histories.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ErrorT = TypeVar("ErrorT", bound=Exception)

_SECRET_NAME = re.compile(r"(?i)pass|pwd|secret|token|key|sig|credential|bearer|jaas|auth$|authorization")
_NAME_OF_A_PLACE = re.compile(r"(?i)(file|path|location|^ssl_?key)$")
_CONNECTION_STRING_NAME = re.compile(r"(?i)dsn|conn(ection)?_?(str(ing)?|info)")
_SHORTEST_SECRET = 4
_DEEPEST = 8  # An option may hold itself.
# What stands between `//` and the path. Without a login before it, a word behind a colon could be a password.
WITHOUT_LOGIN = re.compile(r"[\w.*-]*(:\d*)?(,[\w.*-]+(:\d*)?)*|\[[\w:.%]*\](:\d*)?")


def secrets_of(url: str | None, options: Any = None) -> tuple[str, ...]:
    """Return all texts that a URL and the options of a driver hold and that must not be shown, longest first.

    A text shorter than four characters is none of them: it is a part of too many others.
    """
    found: set[str] = set()
    for secret in {*_secrets_in_url(url or ""), *_secrets_in_options(options)}:
        for piece in {secret, *re.split("[/?#@:&=]", secret)}:
            found |= _forms(piece)
    return tuple(sorted((text for text in found if len(text) >= _SHORTEST_SECRET), key=len, reverse=True))


def _forms(secret: str) -> set[str]:
    """Return how a secret may be written: percent-encoded and -decoded, or escaped as in a `repr` and in JSON."""
    if re.fullmatch("[A-Za-z0-9_.-]*", secret):
        return {secret}
    found: set[str] = set()
    # Python's own parser of URLs drops line breaks and tabs.
    decoded = {secret, re.sub("[\t\r\n]", "", secret)}
    for _ in range(2):
        decoded |= {decode(text) for text in decoded for decode in (unquote, unquote_plus)}
    for plain in decoded:
        found |= {plain, quote(plain, safe=""), quote(plain), quote_plus(plain), quote(plain, safe=" +")}
        found |= {repr(plain)[1:-1], repr(f"'\"{plain}")[4:-1], json.dumps(plain)[1:-1]}
        found.add(repr(plain.encode("utf-8", "surrogatepass"))[2:-1])
    return found


def _secrets_in_url(url: str) -> Iterator[str]:
    rest = url.partition(":")[2].removeprefix("//")
    userinfo, at, _ = rest.rpartition("@")
    if at:
        user, colon, password = userinfo.partition(":")
        # Some parsers end the password at the first @ and some at the last one.
        ends = [match.start() for match in re.finditer("@", password if colon else user)]
        yield from ((password if colon else user)[:end] for end in [*ends, None])
    elif not WITHOUT_LOGIN.fullmatch(re.split("[/?#]", rest, maxsplit=1)[0]):
        yield rest.partition(":")[2]
    # A value may have any characters: it goes on until the next name, or to the end.
    for name, value in re.findall(r"[?&]([^=&?#]*)=(.*?)(?=&[\w.-]+=|$)", rest, re.DOTALL):
        if _is_secret(name):
            yield value
        elif "=" in value or "%3D" in value:
            yield from _secrets_in_settings(unquote_plus(value))


def _secrets_in_options(value: Any, name: str = "", depth: int = 0) -> Iterator[str]:
    """Find secrets by the names of options, and in texts that have names of their own."""
    is_secret = _is_secret(name)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        yield from _secrets_in_text(value, is_connection_string=_CONNECTION_STRING_NAME.search(name) is not None)
        if is_secret:
            yield value
    elif isinstance(value, bool | int | float):
        if is_secret and not isinstance(value, bool):
            yield str(value)
    elif depth < _DEEPEST:
        for part_name, part in _parts_of(value, name, is_secret=is_secret):
            yield from _secrets_in_options(part, part_name, depth + 1)


def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None and not _NAME_OF_A_PLACE.search(name)


def _parts_of(value: Any, name: str, *, is_secret: bool) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(name if is_secret else str(key), part) for key, part in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return list(value._asdict().items())
    if isinstance(value, list | tuple | set | frozenset):
        return [(name, part) for part in value]
    # Such as `AzureNamedKeyCredential` or `SecretStr`: its attributes say by their names what they are.
    return list(vars(value).items()) if is_secret and hasattr(value, "__dict__") else []


def _secrets_in_text(text: str, *, is_connection_string: bool) -> Iterator[str]:
    if re.match(r"[\w+.-]+://", text):
        yield from _secrets_in_url(text)
    elif "=" in text:
        yield from _secrets_in_settings(text)
    elif is_connection_string:
        yield text


def _secrets_in_settings(text: str) -> Iterator[str]:
    """Find secrets in `name=value;name=value`, as Azure writes it, and in libpq's `name=value name='a value'`."""
    is_azures = re.search(r";\s*\w+=|;\s*$", text) is not None
    for match in re.finditer(r"([\w. -]+?)\s*=\s*", text):
        if not _is_secret(match[1]):
            continue
        rest = text[match.end() :]
        quoted = re.match(r"""'(?:\\.|[^'\\])*|"(?:\\.|[^"\\])*""", rest, re.DOTALL)
        if quoted:
            value = quoted[0][1:]
        elif is_azures:
            value = rest.partition(";")[0]
        else:
            value = re.match(r"(?:\\.|[^\s\\])*", rest, re.DOTALL)[0]  # type: ignore[index]  # it matches any text
        yield from (value, value.partition(";")[0], re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL))


_LONGEST_LINE = 300


def hidden(text: str, secrets: Iterable[str]) -> str:
    """Return a text without these."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def mentions(error: BaseException, secrets: Iterable[str]) -> bool:
    """Whether an error, or one that led to it, shows one of these texts, in lower case or percent-encoded too."""
    lowered = [secret.lower() for secret in secrets]
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        try:
            said = f"{current!s} {current!r} {vars(current)!r}".lower()
        except Exception:  # noqa: BLE001  # what an error says of itself is its own code
            return True
        if any(secret in text for secret in lowered for text in (said, unquote(said))):
            return True
        waiting += [current.__cause__, current.__context__, *getattr(current, "exceptions", ())]
    return False


def first_line(error: Exception, secrets: Iterable[str]) -> str:
    """The first line of what an error says, in brief; nothing if it shows a secret anywhere."""
    line = "" if mentions(error, secrets) else str(error).strip().partition("\n")[0].rstrip()
    return line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + "..."


def caused(
    make: type[ErrorT], message: str, error: Exception, secrets: Iterable[str], *more: Any, advice: str = ""
) -> ErrorT:
    """Return an error of ours whose cause is the driver's, unless that one shows a secret; the message says so.

    It is to be raised outside of the handler of `error`, which would else be its context.

    Args:
        make: Its class.
        message: What failed.
        error: The driver's error.
        secrets: What must not be shown.
        *more: Further arguments of the class.
        advice: What to do about it, where the message has the driver's own words.
    """
    is_shown = not mentions(error, secrets)
    words = "See the cause for the driver's own words." if is_shown else "The driver's own words hold a secret."
    if advice:
        words = advice if is_shown else f"{words} {advice}"
    made = make(f"{message} {words}", *more)
    made.__cause__ = error if is_shown else None
    return made


def refused(message: str, error: Exception, url: str | None, options: Any = None) -> ConfigurationError:
    """Return `caused` for a URL or options that a driver does not take."""
    return caused(ConfigurationError, message, error, secrets_of(url, options))


def without_secret_causes(error: ErrorT, secrets: Iterable[str]) -> ErrorT:
    """Return an error of ours, without those that led to it if they show a secret."""
    if mentions(error, secrets):
        error.__cause__ = error.__context__ = None
    return error
