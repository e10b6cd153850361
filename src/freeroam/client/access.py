"""Where a client finds its server and with which key; the one place of the client that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any
from urllib.parse import urlsplit

import httpx

from freeroam.client.steps import Answer, Lost, Request, Retries
from freeroam.vocabulary.errors import ConfigurationError

KEY_VARIABLE = "FREEROAM_API_KEY"
DEFAULT_URL = "http://127.0.0.1:8000"

KEEPALIVE_S = 3.0
"""Idle connections are closed before the server does it (after 5 s), so that no request meets a closing one."""

_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True, slots=True)
class Access:
    """How a server is reached.

    Attributes:
        url: Its address, with the path that it is mounted at, if any.
        key: None if it wants none; never shown.
        timeout_s: Longest silence of an answer.
        connect_timeout_s: Longest time for a connection.
        retries: How often things are tried again.
        headers: Sent with every request.
        verify: Whether certificates are checked, or the context that does.
    """

    url: str
    key: str | None = field(repr=False)
    timeout_s: float
    connect_timeout_s: float
    retries: Retries
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    verify: bool | SSLContext = True

    def options(self) -> dict[str, Any]:
        """Return what both kinds of HTTP client are made with."""
        headers = {"Accept": "*/*", **self.headers}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return {
            "base_url": self.url,
            "headers": headers,
            "timeout": httpx.Timeout(self.timeout_s, connect=self.connect_timeout_s),
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=KEEPALIVE_S),
            "verify": self.verify,
        }

    def arguments(self, request: Request) -> dict[str, Any]:
        """Return what a request is built with."""
        headers = dict(request.headers)
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        timeout_s = self.timeout_s if request.timeout_s is None else request.timeout_s
        return {
            "method": request.method,
            "url": request.path,
            "params": {name: value for name, value in request.query.items() if value is not None},
            "content": request.body,
            "headers": headers,
            "timeout": httpx.Timeout(timeout_s, connect=self.connect_timeout_s, pool=self.connect_timeout_s),
        }


def access_to(
    url: str | None,
    key: str | None,
    *,
    timeout_s: float,
    connect_timeout_s: float,
    retries: Retries | None,
    headers: Mapping[str, str] | None,
    verify: bool | SSLContext,
) -> Access:
    """Return how the server is reached, completed from the environment.

    Raises:
        ConfigurationError: The address is no http(s) address, or carries credentials.
    """
    url = url or DEFAULT_URL
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(f"{url!r} is no address of a server; give one like {DEFAULT_URL}")
    if parts.username or parts.password:
        raise ConfigurationError(f"Give the key as key= or in {KEY_VARIABLE}, not inside the address")
    return Access(
        url=url.rstrip("/"),
        key=known_key(key),
        timeout_s=timeout_s,
        connect_timeout_s=connect_timeout_s,
        retries=retries or Retries(),
        headers=headers or {},
        verify=verify,
    )


def known_key(key: str | None) -> str | None:
    """Return ``key``, or what ``FREEROAM_API_KEY`` says where none is given; None for an empty one."""
    return (os.environ.get(KEY_VARIABLE) if key is None else key) or None


def answer_of(response: httpx.Response, body: bytes) -> Answer:
    """Return an answer without the library it came by."""
    return Answer(response.status_code, {name.lower(): value for name, value in response.headers.items()}, body)


def lost_to(error: httpx.TransportError, access: Access) -> Lost:
    """Return why no answer came."""
    words = str(error) or type(error).__name__
    if isinstance(error, _UNSENT):
        return Lost(f"{access.url} cannot be reached: {words}", is_unsent=True)
    if isinstance(error, httpx.TimeoutException):
        return Lost("the server said nothing for too long", is_silence=True)
    return Lost(f"the connection broke: {words}")
