"""Freeroam: questions to live video, answered while the stream runs.

The names below load on first use, so that a child process which needs one part does not pay for the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freeroam.client import AsyncClient as AsyncClient
    from freeroam.client import Client as Client
    from freeroam.models.base import BaseVLM as BaseVLM
    from freeroam.server import InferenceServer as InferenceServer
    from freeroam.server import ModelConfig as ModelConfig
    from freeroam.watching import watch as watch

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "freeroam.client",
    "BaseVLM": "freeroam.models.base",
    "Client": "freeroam.client",
    "InferenceServer": "freeroam.server",
    "ModelConfig": "freeroam.server",
    "watch": "freeroam.watching",
}

__all__ = ["AsyncClient", "BaseVLM", "Client", "InferenceServer", "ModelConfig", "__version__", "watch"]


def __getattr__(name: str) -> Any:
    """Import the public name's home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'freeroam' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
