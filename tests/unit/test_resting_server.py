"""The web server rests between two looks, and stops at once when it is asked to."""

from __future__ import annotations

import asyncio
import signal

import pytest
import uvicorn

from freeroam.resting_server import RestingServer


class Counting(RestingServer):
    """Counts how often it looks."""

    looks = 0

    async def on_tick(self, counter: int) -> bool:
        self.looks += 1
        return await super().on_tick(counter)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda server: server.handle_exit(signal.SIGTERM, None), id="by a signal"),
        pytest.param(lambda server: setattr(server, "should_exit", True), id="by the program"),
    ],
)
async def test_a_server_that_is_asked_to_stop_does_not_wait_for_its_next_look(ask) -> None:
    server = Counting(uvicorn.Config(app=lambda: None, log_config=None))
    running = asyncio.create_task(server.main_loop())
    while not server.looks:
        await asyncio.sleep(0)

    ask(server)
    await running

    assert server.looks == 2
    assert server.should_exit


async def test_a_server_that_was_asked_before_it_ran_does_not_begin() -> None:
    server = Counting(uvicorn.Config(app=lambda: None, log_config=None))

    server.handle_exit(signal.SIGTERM, None)
    await server.main_loop()

    assert server.looks == 1
