"""The web server, woken only when there is something to do."""

from __future__ import annotations

import asyncio
import contextlib

import uvicorn

TICK_S = 1.0
"""How often the server renews what it says of the time. Its own loop looks ten times a second whether it is to stop,
which costs 1.5 ms of CPU a second in a process that may have nothing to do."""


class RestingServer(uvicorn.Server):
    """Ticks once a second, and stops at once when it is asked to, from whichever thread."""

    _is_to_exit = False
    _loop: asyncio.AbstractEventLoop | None = None
    _asked: asyncio.Event

    async def main_loop(self) -> None:
        """Run until the server is to stop."""
        self._asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        try:
            while not await self.on_tick(0):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._asked.wait()
        finally:
            self._loop = None

    @property
    def should_exit(self) -> bool:
        """Whether it is to stop; setting it wakes the server."""
        return self._is_to_exit

    @should_exit.setter
    def should_exit(self, is_to_exit: bool) -> None:
        self._is_to_exit = is_to_exit
        if is_to_exit and (loop := self._loop) is not None:
            with contextlib.suppress(RuntimeError):  # the loop ended meanwhile
                loop.call_soon_threadsafe(self._asked.set)
