"""Cookies of one stream: kept while it is open, given back to the very origin that set them; pure."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable
from urllib.parse import urlsplit

MAX_COOKIES = 64
MAX_COOKIE_CHARS = 4096

_PAIR = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=([\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e\x22]*)")
Origin = tuple[str, str, int]
"""Scheme, host and port."""
_Key = tuple[Origin, str, str]


class CookieJar:
    """Holds a few cookies, the oldest of which goes first.

    Servers that ask for cookies do so to tell a viewer's requests apart; nothing is kept from one opening of a source
    to the next. A cookie goes to the scheme, host and port that set it only, whatever domain it names. Source: RFC
    6265, sections 5.1.4 (paths) and 5.2 (attributes); expiry is heeded only where it takes a cookie back.
    """

    def __init__(self) -> None:
        self._cookies: OrderedDict[_Key, str] = OrderedDict()

    def take(self, origin: Origin, path: str, headers: Iterable[str]) -> None:
        """Take what ``origin`` set when it was asked for ``path``.

        Args:
            origin: Who answered.
            path: Path and query that were asked for.
            headers: The values of its ``Set-Cookie`` headers.
        """
        for header in headers:
            first, *attributes = header.split(";")
            pair = _PAIR.fullmatch(first.strip())
            if pair is None or len(first) > MAX_COOKIE_CHARS:
                continue
            named = dict(_attribute(text) for text in attributes)
            scope = named.get("path", "")
            key = (origin, scope if scope.startswith("/") else _folder_of(path), pair[1])
            self._cookies.pop(key, None)
            if not _takes_back(named):
                self._cookies[key] = pair[2]
        while len(self._cookies) > MAX_COOKIES:
            self._cookies.popitem(last=False)

    def header(self, origin: Origin, path: str) -> str:
        """Return the ``Cookie`` header for a request, empty if there is none."""
        asked = urlsplit(path).path or "/"
        fitting = [
            (scope, name, value)
            for (owner, scope, name), value in self._cookies.items()
            if owner == origin and _is_below(asked, scope)
        ]
        # The more particular cookie comes first.
        fitting.sort(key=lambda cookie: -len(cookie[0]))
        return "; ".join(f"{name}={value}" for _, name, value in fitting)


def _attribute(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip().lower(), value.strip()


def _takes_back(attributes: dict[str, str]) -> bool:
    age = attributes.get("max-age", "")
    is_past = "max-age" not in attributes and " 1970 " in attributes.get("expires", "").replace("-", " ")
    return age == "0" or age.startswith("-") or is_past


def _folder_of(path: str) -> str:
    return urlsplit(path).path.rpartition("/")[0] or "/"


def _is_below(path: str, scope: str) -> bool:
    return path == scope or path.startswith(scope if scope.endswith("/") else f"{scope}/")
