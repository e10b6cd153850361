"""A run from its plan to its report, in one call."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from freeroam.client import AsyncClient, Retries
from freeroam.client.access import known_key
from freeroam.clock import SystemClock
from freeroam.load.display import Display
from freeroam.load.plan import Plan
from freeroam.load.report import report_of
from freeroam.load.run import Run, target_of
from freeroam.vocabulary.errors import FreeroamError

CPU_METRIC = "freeroam_process_cpu_seconds_total "
LOOK_TIMEOUT_S = 5.0


async def measure(
    plan: Plan, *, key: str | None = None, verify: bool = True, display: Display | None = None
) -> dict[str, Any]:
    """Carry out ``plan`` and return what it showed, as ``report_of`` describes it.

    An interrupt from the keyboard ends the run early; what was measured until then is returned.

    Args:
        plan: What is asked.
        key: None takes ``FREEROAM_API_KEY``.
        verify: Whether the server's certificate is checked.
        display: Shows it meanwhile.

    Raises:
        InvalidInput: The address or the key cannot be one.
    """
    key = known_key(key)
    run = Run(plan, target_of(plan, key, verify=verify), SystemClock())
    client = AsyncClient(plan.url, key=key or "", timeout_s=LOOK_TIMEOUT_S, retries=Retries(attempts=1), verify=verify)
    async with client:
        before = await _server_cpu(client, plan)
        running = asyncio.create_task(run.carry_out())
        showing = asyncio.create_task(display.follow(run)) if display else None
        try:
            with _ended_by_interrupt(running):
                await asyncio.wait([running])
        finally:
            running.cancel()
            if showing:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)
        if not running.cancelled():
            running.result()
        after = await _server_cpu(client, plan)
    share = None
    if before is not None and after is not None and after[1] > before[1]:
        share = (after[0] - before[0]) / (after[1] - before[1])
    return report_of(run, share)


@contextmanager
def _ended_by_interrupt(running: asyncio.Task[None]) -> Iterator[None]:
    """Let an interrupt end the run instead of the program, where the loop takes signals (not beside another thread)."""
    loop = asyncio.get_running_loop()
    with suppress(RuntimeError, ValueError):
        loop.add_signal_handler(signal.SIGINT, running.cancel)
    try:
        yield
    finally:
        with suppress(RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGINT)


async def _server_cpu(client: AsyncClient, plan: Plan) -> tuple[float, float] | None:
    """Return CPU seconds of the server's main process and when they were read; None where it does not tell."""
    if plan.door != "infer":
        return None
    try:
        text = await client.metrics()
    except FreeroamError:
        return None
    line = next((line for line in text.splitlines() if line.startswith(CPU_METRIC)), None)
    return (float(line.removeprefix(CPU_METRIC)), asyncio.get_running_loop().time()) if line else None
