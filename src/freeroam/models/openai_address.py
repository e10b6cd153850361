"""Where a server of the OpenAI API is, and with which key it is asked."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from freeroam.security.redaction import redact_url
from freeroam.vocabulary.errors import ConfigurationError

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
_KEY_BYTES = 64 * 1024
_PORTS = {"http": 80, "https": 443}


def read_address(model_path: str, url: str) -> str:
    """Return the base address, such as ``http://127.0.0.1:8000/v1``, without a slash at its end.

    Args:
        model_path: What ``MODEL_PATH`` says.
        url: What the option ``url`` says; one of the two is enough.

    Raises:
        ConfigurationError: There is none, there are two, or it is no http(s) address of a server.
    """
    given = url or model_path
    example = "expected the base url of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1"
    if not given:
        raise ConfigurationError(f"openai_server: neither MODEL_PATH nor the option url is set; {example}")
    if url and model_path and _normalised(url) != _normalised(model_path):
        raise ConfigurationError(
            f"openai_server: MODEL_PATH is {redact_url(model_path)} and the option url {redact_url(url)}; set one"
        )
    parts = _parts(given)
    shown = redact_url(given)
    if parts is None:
        raise ConfigurationError(f"openai_server: url={shown}: {example}")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            f"openai_server: url={shown}: a url carries no credentials; set api_key, api_key_env or api_key_file"
        )
    if parts.query or parts.fragment:
        raise ConfigurationError(f"openai_server: url={shown}: nothing may follow the path; {example}")
    return _normalised(given)


def lies_under(address: str, root: str) -> bool:
    """Return whether ``address`` is ``root`` or below it: same scheme, host and port, and a path that continues it.

    Made for what an administrator loads at run time: an address only counts if a configured root is a prefix of it by
    whole path segments, so ``http://host/v1`` is not below ``http://host/v``, and ``..`` is below nothing.
    """
    parts, under = _parts(address), _parts(root)
    if parts is None or under is None or parts.username is not None or parts.query or parts.fragment:
        return False
    if any(segment in {"..", "."} for segment in parts.path.split("/")) or "%" in parts.path or "\\" in parts.path:
        return False
    if (parts.scheme, parts.hostname, _port(parts)) != (under.scheme, under.hostname, _port(under)):
        return False
    return f"{parts.path.rstrip('/')}/".startswith(f"{under.path.rstrip('/')}/")


def read_key(api_key: str, api_key_env: str, api_key_file: str) -> str:
    """Return the key, empty if there is none: from the option, a file, or a variable (``OPENAI_API_KEY`` by default).

    Raises:
        ConfigurationError: What should hold it does not, or it cannot stand in a header; the key is not shown.
    """
    if sum(map(bool, (api_key, api_key_env, api_key_file))) > 1:
        raise ConfigurationError("openai_server: set one of api_key, api_key_env and api_key_file")
    source, key = "api_key", api_key
    if api_key_file:
        source = f"api_key_file={api_key_file}"
        try:
            with Path(api_key_file).open("rb") as opened:
                key = opened.read(_KEY_BYTES).decode("ascii", "replace")
        except OSError as error:
            raise ConfigurationError(f"openai_server: {source} cannot be read: {error.strerror}") from None
    elif not api_key:
        source = f"the variable {api_key_env or DEFAULT_KEY_VARIABLE}"
        key = os.environ.get(api_key_env or DEFAULT_KEY_VARIABLE, "")
    key = key.strip()
    if not key and (api_key_env or api_key_file):
        raise ConfigurationError(f"openai_server: {source} is empty; put the key there, or leave the option out")
    if not all("!" <= letter <= "~" for letter in key):
        raise ConfigurationError(f"openai_server: {source} holds letters that no key has; expected one line of ASCII")
    return key


def _parts(address: str) -> SplitResult | None:
    """Return the parts of an http(s) address, None if it is none."""
    try:
        parts = urlsplit(address.strip())
        _port(parts)
    except ValueError:
        return None
    is_clean = all(" " < letter < "\x7f" for letter in address.strip())
    return parts if parts.scheme in _PORTS and parts.hostname and is_clean else None


def _port(parts: SplitResult) -> int:
    return parts.port if parts.port is not None else _PORTS.get(parts.scheme, 0)


def _normalised(address: str) -> str:
    return address.strip().rstrip("/")
