"""The load client: asks a server many questions at once, accounts for every token, and says what it measured."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freeroam.load.measuring import measure as measure
    from freeroam.load.plan import Plan as Plan
    from freeroam.load.plan import Wording as Wording
    from freeroam.load.report import lines_of as lines_of

_HOMES = {
    "Plan": "freeroam.load.plan",
    "Wording": "freeroam.load.plan",
    "lines_of": "freeroam.load.report",
    "measure": "freeroam.load.measuring",
}

__all__ = ["Plan", "Wording", "lines_of", "measure"]


def __getattr__(name: str) -> Any:
    """Import the public name's home on first use: the command line knows the options without loading a client."""
    if name not in _HOMES:
        raise AttributeError(f"module 'freeroam.load' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
