"""Deadlines by the thousand: what ``asyncio.timeout`` does, with one timer of the loop for all of them.

A timer of the loop for each call, which is made and cancelled again long before it is due, costs a call of a small
model as much as all the checks of who may call.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Spans:
    """The time that tasks have; those of one event loop.

    The loop's timer goes off no later than the first of their moments. Where that one was moved or left meanwhile, as
    most are, it looks at all and is set anew.
    """

    def __init__(self) -> None:
        self._waiting: set[Span] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looks_s = 0.0

    def of(self, delay_s: float) -> Span:
        """Return a span of so many seconds, from when it is entered."""
        return Span(delay_s, self)

    def add(self, span: Span, when_s: float, loop: asyncio.AbstractEventLoop) -> None:
        """Let a span expire at a moment of the loop's clock."""
        self._waiting.add(span)
        if self._timer is None or when_s < self._looks_s or loop is not self._loop:
            self._set(when_s, loop)

    def discard(self, span: Span) -> None:
        """Let it expire no more."""
        self._waiting.discard(span)

    def _set(self, when_s: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop, self._looks_s = loop, when_s
        self._timer = loop.call_at(when_s, self._look)

    def _look(self) -> None:
        self._timer = None
        assert self._loop is not None
        now_s, later_s = self._loop.time(), []
        for span in list(self._waiting):
            if span.when_s is None or span.when_s <= now_s:
                self._waiting.discard(span)
                span.expire()
            else:
                later_s.append(span.when_s)
        if later_s:
            self._set(min(later_s), self._loop)


class Span:
    """Cancels the task that entered it at a moment, which may be moved; an async context manager.

    Leaving it raises ``TimeoutError`` if its moment has come and nobody else cancelled the task.

    Args:
        delay_s: From the entering on.
        spans: The others.

    Attributes:
        when_s: Its moment, on the loop's clock; None for never.
        has_expired: Whether its moment has come while the task was in it.
    """

    __slots__ = ("_cancelling", "_delay_s", "_loop", "_spans", "_task", "has_expired", "when_s")

    def __init__(self, delay_s: float, spans: Spans) -> None:
        self._delay_s = delay_s
        self._spans = spans
        self._task: asyncio.Task[object] | None = None
        self.when_s: float | None = None
        self.has_expired = False

    async def __aenter__(self) -> Self:
        """Begin."""
        task = asyncio.current_task()
        assert task is not None
        self._task, self._loop, self._cancelling = task, task.get_loop(), task.cancelling()
        self.when_s = self._loop.time() + self._delay_s
        self._spans.add(self, self.when_s, self._loop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        task, self._task = self._task, None
        self._spans.discard(self)
        assert task is not None
        if self.has_expired and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def move(self, delay_s: float | None) -> None:
        """Set another moment, so many seconds from now; None for never. Does nothing once it has expired, or was left.

        What is to end now ends in the loop's next turn: what the task has been given before that, it still gets.
        """
        if self._task is None or self.has_expired:
            return
        if delay_s is None:
            self.when_s = None
            self._spans.discard(self)
            return
        self.when_s = self._loop.time() + delay_s
        if delay_s > 0:
            self._spans.add(self, self.when_s, self._loop)
        else:
            self._spans.discard(self)
            self._loop.call_soon(self._expire_at, self.when_s)

    def expire(self) -> None:
        """Cancel the task, unless it is out of it."""
        if self._task is not None and not self.has_expired:
            self.has_expired = True
            self._task.cancel()

    def _expire_at(self, when_s: float) -> None:
        if self.when_s == when_s:
            self.expire()
