"""Real servers for integration tests; an absent one skips on a laptop and fails under CI=true."""

from __future__ import annotations

import os
import shutil
import socket

import pytest


def require_server(program: str, package: str | None = None) -> str:
    """Return the path of ``program``, or skip (fail under CI) with the package that provides it."""
    path = shutil.which(program)
    if path is None:
        absent(program, package)
    assert path is not None
    return path


def absent(program: str, package: str | None = None) -> None:
    """Skip, or fail under CI, because ``program`` is not here."""
    message = f"{program} is not installed; install the system package {package or program}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    """Return a loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def has_ipv6_loopback() -> bool:
    """Return whether this machine has ``::1``."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
