"""Who may pass a door and how often: the one judgement behind the HTTP gate and the gRPC one."""

from __future__ import annotations

import re
from collections.abc import Mapping

from freeroam.api.parts import ApiConfig
from freeroam.clock import Clock
from freeroam.security.keys import Caller, Key, KeyRing
from freeroam.security.limits import RateLimiter, Verdict
from freeroam.security.origin import Origin, names_this_machine, speaks_for_a_foreign_page
from freeroam.vocabulary.errors import PermissionDenied, Unauthenticated

KEYS_WANTED = "This server has keys: send one as a Bearer token in the Authorization header, or in the X-API-Key header"
_ONLY_LOCAL = (
    "Without a key only this machine itself is served. Set API_KEY or API_KEYS_FILE on the server and send the key, "
    "or set ALLOW_ANONYMOUS=true there; behind a proxy, name it in TRUSTED_PROXIES"
)
_WRONG_HOST = (
    "Without a key this server answers only under the names of its own machine (localhost, 127.0.0.1, HOST), "
    "so that a web page cannot reach it under a name of its own. Set API_KEY or API_KEYS_FILE"
)
_FOREIGN_PAGE = "A web page of another origin may not call this server; add its origin to CORS_ORIGINS, or send a key"


class Doorkeeper:
    """Knows the keys and keeps the buckets; one for all doors, so that no second door doubles anyone's limit.

    Args:
        config: Keys, proxies, limits.
        clock: Tells the time to the limiter.
    """

    def __init__(self, config: ApiConfig, clock: Clock) -> None:
        self.config = config
        self._keys = KeyRing(config.keys)
        self._callers = {key.name: _caller_of(key) for key in config.keys}
        self._limiter = RateLimiter(clock)
        self._endpoint_limits = [_compile_limit(text, limit) for text, limit in config.rates.per_endpoint.items()]

    def recognise(self, headers: Mapping[str, str], origin: Origin, *, changes_something: bool) -> Caller:
        """Return who calls.

        Args:
            headers: Lower-case names; gRPC metadata are the same.
            origin: Where the call comes from.
            changes_something: Whether a foreign web page must be kept from calling without a key.

        Raises:
            Unauthenticated: A key is wanted and there is none, or it is not known.
            PermissionDenied: A web page of another origin calls without a key.
        """
        text = _key_in(headers)
        if text is not None and not self._keys.is_empty:
            return self._callers[self._keys.find(text).name]
        if not self._keys.is_empty and not self.config.allow_anonymous:
            raise Unauthenticated(KEYS_WANTED)
        if not self.config.allow_anonymous:
            if not origin.is_local:
                raise Unauthenticated(_ONLY_LOCAL)
            if not names_this_machine(headers.get("host", "localhost"), self.config.own_names):
                raise Unauthenticated(_WRONG_HOST)
        if changes_something and speaks_for_a_foreign_page(headers, self.config.cors_origins):
            raise PermissionDenied(_FOREIGN_PAGE)
        return Caller("local" if origin.is_local else "anonymous", origin.client)

    def charge(self, caller: Caller, deed: str) -> Verdict | None:
        """Take a token from each bucket that applies; return the first that is empty, else the tightest.

        Args:
            caller: Who calls.
            deed: Method and path, as ``RATE_LIMITS`` names them.
        """
        per_minute = caller.rate_limit_per_minute or self.config.rates.per_minute
        if not self._endpoint_limits:
            return self._limiter.take(caller.client, per_minute) if per_minute else None
        verdicts = [self._limiter.take(caller.client, per_minute)] if per_minute else []
        for name, pattern, limit in self._endpoint_limits:
            if pattern.fullmatch(deed):
                verdicts.append(self._limiter.take(caller.client, limit, name))
        refused = [verdict for verdict in verdicts if not verdict.is_allowed]
        return refused[0] if refused else min(verdicts, key=lambda verdict: verdict.remaining, default=None)


def _key_in(headers: Mapping[str, str]) -> str | None:
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and text.strip():
        return text.strip()
    return headers.get("x-api-key", "").strip() or None


def _caller_of(key: Key) -> Caller:
    return Caller(
        name=key.name,
        client=f"key:{key.name}",
        rights=key.rights,
        has_key=True,
        rate_limit_per_minute=key.rate_limit_per_minute,
        max_streams=key.max_streams,
        highest_priority=key.highest_priority,
    )


def _compile_limit(text: str, limit: int) -> tuple[str, re.Pattern[str], int]:
    """Turn ``POST /api/v1/jobs/{job_id}`` into a pattern over method and path."""
    method, _, path = text.rpartition(" ")
    literal = "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{[^}]*\})", path))
    return text, re.compile(f"{re.escape(method) if method else '[A-Z]+'} {literal}"), limit
