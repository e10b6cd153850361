"""Who may call: keys with rights and limits, and which peers are this machine."""

from __future__ import annotations

import hashlib
import hmac
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from freeroam.vocabulary.errors import ConfigurationError, Unauthenticated
from freeroam.vocabulary.inference import Priority


class Right(StrEnum):
    """What a key may do; each stands alone, ``admin`` includes the others."""

    READ = "read"
    RUN = "run"
    ADMIN = "admin"


ALL_RIGHTS = frozenset(Right)


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is kept: its text is not.

    Attributes:
        name: Shown in audit events and used as the owner of jobs.
        digest: SHA-256 of the key's text.
        rights: What it may do.
        rate_limit_per_minute: Requests a minute; None takes the general limit.
        max_streams: Jobs of this key that may run at once; None takes the general limit alone.
        highest_priority: Wishes above it are lowered to it.
    """

    name: str
    digest: bytes = field(repr=False)
    rights: frozenset[Right] = ALL_RIGHTS
    rate_limit_per_minute: int | None = None
    max_streams: int | None = None
    highest_priority: Priority = Priority.HIGH

    @classmethod
    def of_text(cls, name: str, text: str) -> Key:
        """Return a key with every right whose text is ``text``, as a header can carry it.

        Raises:
            ConfigurationError: It is blank, and so would let nobody in.
        """
        if not text.strip():
            raise ConfigurationError("API_KEY is blank; give it a text, or leave it out")
        return cls(name, digest_of(text.strip()))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who stands behind a request.

    Attributes:
        name: The key's name, or ``local`` or ``anonymous``.
        client: What rate limits count by.
        rights: What the caller may do.
        has_key: Whether a key was shown; callers without one must prove that no foreign web page speaks for them.
    """

    name: str
    client: str
    rights: frozenset[Right] = ALL_RIGHTS
    has_key: bool = False
    rate_limit_per_minute: int | None = None
    max_streams: int | None = None
    highest_priority: Priority = Priority.HIGH

    def may(self, right: Right) -> bool:
        """Tell whether the caller has ``right``."""
        return right in self.rights or Right.ADMIN in self.rights


class KeyRing:
    """The keys that are known.

    Args:
        keys: May be empty: then nobody has a key and ``is_empty`` is true.
    """

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = tuple(keys)

    @property
    def is_empty(self) -> bool:
        """Whether no key is configured."""
        return not self._keys

    def find(self, text: str) -> Key:
        """Return the key whose text is ``text``; every key is compared, so the time tells nothing.

        Raises:
            Unauthenticated: No key has that text.
        """
        digest = digest_of(text)
        found: Key | None = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise Unauthenticated("The key is not known")
        return found


def digest_of(text: str) -> bytes:
    """Return the SHA-256 of a key's text; keys are long and random, so no slow hash is needed."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class _KeyEntry(BaseModel):
    """One entry of ``API_KEYS_FILE``."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    key: str | None = Field(default=None, min_length=16)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    rights: list[Right] = Field(default_factory=lambda: list(Right), min_length=1)
    rate_limit_per_minute: int | None = Field(default=None, ge=1)
    max_streams: int | None = Field(default=None, ge=0)
    highest_priority: str = Field(default="HIGH", pattern="^(HIGH|NORMAL|LOW)$")

    @model_validator(mode="after")
    def _has_one_text(self) -> _KeyEntry:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("give either 'key' or 'sha256'")
        return self

    def to_key(self) -> Key:
        digest = digest_of(self.key) if self.key is not None else bytes.fromhex(self.sha256 or "")
        return Key(
            name=self.name,
            digest=digest,
            rights=frozenset(self.rights),
            rate_limit_per_minute=self.rate_limit_per_minute,
            max_streams=self.max_streams,
            highest_priority=Priority[self.highest_priority],
        )


def read_keys_file(path: Path) -> list[Key]:
    """Read ``API_KEYS_FILE``: JSON or TOML with a list ``keys`` of ``{name, key | sha256, rights, ...}``.

    Raises:
        ConfigurationError: The file cannot be read or an entry is wrong; key texts are never shown.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"API_KEYS_FILE={path} cannot be read: {error}") from error
    document = _parse(path, text)
    if isinstance(document, Mapping):
        document = document.get("keys")
    if not isinstance(document, list) or not document:
        raise ConfigurationError(f"API_KEYS_FILE={path}: expected a list named 'keys' with at least one entry")
    keys = [_read_entry(path, number, entry) for number, entry in enumerate(document, start=1)]
    names = [key.name for key in keys]
    if len(set(names)) != len(names):
        raise ConfigurationError(f"API_KEYS_FILE={path}: two keys have the same name")
    return keys


def _parse(path: Path, text: str) -> Any:
    try:
        return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise ConfigurationError(f"API_KEYS_FILE={path} is not valid {kind}: {error}") from error


def _read_entry(path: Path, number: int, entry: Any) -> Key:
    try:
        return _KeyEntry.model_validate(entry).to_key()
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'entry'}: {item['msg']}" for item in error.errors(include_input=False)
        )
        raise ConfigurationError(f"API_KEYS_FILE={path}, entry {number}: {problems}") from None
