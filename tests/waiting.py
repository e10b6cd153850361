"""Waiting for a condition instead of for a time, so that a slow machine only makes a test slower."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def until(condition: Callable[[], Any | Awaitable[Any]], limit_s: float = 30.0, pause_s: float = 0.02) -> Any:
    """Return the first true value of ``condition``; fail after ``limit_s`` seconds."""
    end_s = time.monotonic() + limit_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > end_s:
            raise AssertionError(f"not true within {limit_s} s: {inspect.getsource(condition).strip()}")
        await asyncio.sleep(pause_s)
