"""URLs of stores: taken apart, and shown without their secrets. What else must not be shown says `_secrets.py`."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from langchain_histories._secrets import WITHOUT_LOGIN, hidden, secrets_of
from langchain_histories.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://)?")
_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:,]+))?(?::(\d*))?")
_LAST_PORT = 65535
# What may stand between a login and the path.
_BEHIND_LOGIN = re.compile(r"[\w.,:*%\[\]-]*")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """The parts of a URL, percent-decoded. Its `repr` shows no secret.

    Attributes:
        scheme: In lower case.
        user: `None` if there is none.
        password: The password, token or key behind the user; `None` if there is none.
        address: What stands behind the login, as it is written: mostly hosts, with commas between them.
        hosts: The hosts, in lower case, with their ports; empty where the address is none of hosts.
        names: The parts of the path that slashes separate.
        query: As it is written.
    """

    scheme: str
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    address: str
    hosts: tuple[tuple[str, int | None], ...]
    names: tuple[str, ...]
    query: str = field(repr=False)

    @property
    def host(self) -> str | None:
        """The first host."""
        return self.hosts[0][0] or None if self.hosts else None

    @property
    def port(self) -> int | None:
        """The port of the first host."""
        return self.hosts[0][1] if self.hosts else None

    @property
    def path(self) -> str:
        """The path without the slashes around it."""
        return "/".join(self.names).strip("/")

    @property
    def options(self) -> dict[str, str]:
        """The last value of each name in the query."""
        return dict(parse_qsl(self.query, keep_blank_values=True))


def split_url(url: Any, form: str, *, has_hosts: bool = True) -> StoreUrl:
    """Take a URL apart.

    Args:
        url: The URL.
        form: How such a URL is written, for the error, such as `redis://[user:password@]host[:port][/db]`.
        has_hosts: Whether its address is one or more hosts.

    Raises:
        ConfigurationError: It cannot be read, or not in one way alone. The error holds no part of the URL.
    """
    parts = read_url(urlsplit, url, form)
    login, at, address = parts.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    hosts = _hosts(address) if has_hosts else ()
    is_in_doubt = (
        # Such a character would be dropped in silence.
        re.search("[\t\r\n]", url.strip())
        # A password with one of / ? # ends the part before the host too early, and leaves its own @ behind.
        or (parts.netloc and "@" in parts.path)
        or any("@" in option.partition("=")[0] for option in parts.query.split("&"))
        or (address.startswith(":") and not at and "@" in parts.query)
        or "#" in url
    )
    if is_in_doubt or hosts is None:
        raise bad_url(form)
    return StoreUrl(
        parts.scheme,
        unquote(user) if at else None,
        unquote(password) if colon else None,
        address,
        hosts,
        tuple(unquote(name) for name in parts.path.split("/")[1:]),
        parts.query,
    )


def _hosts(address: str) -> tuple[tuple[str, int | None], ...] | None:
    """Return hosts and ports; `None` if it is something else."""
    found = [_HOST.fullmatch(one) for one in address.split(",")] if address else []
    if any(one is None or int(one[3] or 0) > _LAST_PORT for one in found):
        return None
    return tuple(
        ((one[1] or one[2] or "").lower(), int(one[3]) if one[3] else None) for one in found if one is not None
    )


def read_url(parse: Callable[[str], T], url: Any, form: str, errors: tuple[type[Exception], ...] = (ValueError,)) -> T:
    """Return what a driver's own parser makes of a URL.

    Args:
        parse: The parser.
        url: The URL.
        form: As for `split_url`.
        errors: What the parser raises. They may quote the URL, so they are no cause of the error here.

    Raises:
        ConfigurationError: It cannot be read.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"The url must be a str, not {type(url).__name__}.")
    with contextlib.suppress(*errors):
        return parse(url)
    # Not in a handler: the error would be the context of this one.
    raise bad_url(form)


def url_text(url: Any) -> Any:
    """Return the text of a URL that is an object of SQLAlchemy's, with its password, and anything else as it is."""
    return url.render_as_string(hide_password=False) if hasattr(url, "render_as_string") else url


def bad_url(form: str) -> ConfigurationError:
    """The error for a URL that cannot be read; it says how such a URL is written, and quotes nothing of it."""
    return ConfigurationError(
        f"The url cannot be read. Such a URL is written {form}. In user and password %, :, /, ?, #, [, ] and @ are "
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
    if found[0].endswith("//") and not (_BEHIND_LOGIN if at else WITHOUT_LOGIN).fullmatch(place.partition("/")[0]):
        return f"{found[0]}***"
    user, colon, _ = userinfo.partition(":")
    login = (f"{user}:***@" if colon and re.fullmatch(r"[\w.%+-]*", user) else "***@") if at else ""
    names = "&".join(f"{name.partition('=')[0]}=***" for name in query.split("&")) if query else ""
    return found[0] + hidden(f"{login}{place}" + (f"?{names}" if names else ""), secrets_of(url))
