"""Plays a script without a network: replies are given one after another, what was done is kept."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

from freeroam.client.steps import Answer, Give, Pause, Reply, Request, Retries

LUCKLESS = Retries(luck=lambda: 0.0)
"""Retries that wait no longer than they must."""

UNLUCKY = Retries(luck=lambda: 1.0)
"""Retries that wait as long as they may."""


@dataclass
class Played:
    """What a script did.

    Attributes:
        requests: Sent or opened, in order.
        pauses_s: Waited.
        given: To the caller.
        value: What it ended with.
        error: What it raised.
    """

    requests: list[Request] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)
    given: list[Any] = field(default_factory=list)
    value: Any = None
    error: Exception | None = None


def play(script: Generator[Any, Reply, Any], replies: Iterable[Reply]) -> Played:
    """Carry out a script; each request and each read takes the next of ``replies``, then the end of a body."""
    played, left = Played(), iter(replies)
    reply: Reply = None
    while True:
        try:
            step = script.send(reply)
        except StopIteration as end:
            played.value = end.value
            return played
        except Exception as error:
            played.error = error
            return played
        reply = None
        if isinstance(step, Give):
            played.given.append(step.item)
        elif isinstance(step, Pause):
            played.pauses_s.append(step.duration_s)
        else:
            if (request := getattr(step, "request", None)) is not None:
                played.requests.append(request)
            reply = next(left, b"")


def answer(status: int = 200, body: bytes = b"{}", **headers: str) -> Answer:
    """Return an answer; header names are written with underscores."""
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)
