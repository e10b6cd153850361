"""Makes methods of described calls, so that both clients have the same ones without a second copy of any."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

M = TypeVar("M", bound=Callable[..., Any])


def dress(method: M, describe: Callable[..., Any]) -> M:
    """Give ``method`` name, documentation and parameters of the function that describes its call."""
    signature = inspect.signature(describe)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__name__ = describe.__name__
    method.__qualname__ = f"{method.__qualname__.partition('.')[0]}.{describe.__name__}"
    method.__doc__ = describe.__doc__
    method.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[itself, *signature.parameters.values()], return_annotation=inspect.Signature.empty
    )
    return method
