"""Spans end tasks as ``asyncio.timeout`` does, with one timer for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace
from typing import Any

import pytest

from freeroam.api.spans import Spans
from tests.waiting import until

SOON_S, LATE_S = 0.01, 3600.0
Make = Callable[[float], AbstractAsyncContextManager[Any]]


class _Standard:
    """``asyncio.timeout`` under the names of a span."""

    def __init__(self, delay_s: float) -> None:
        self._timeout = asyncio.timeout(delay_s)

    async def __aenter__(self) -> _Standard:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._timeout.__aexit__(*error)

    @property
    def has_expired(self) -> bool:
        return self._timeout.expired()

    def move(self, delay_s: float | None) -> None:
        if not self.has_expired:
            self._timeout.reschedule(None if delay_s is None else asyncio.get_running_loop().time() + delay_s)


@pytest.fixture(params=[Spans().of, _Standard], ids=["spans", "asyncio.timeout"])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


async def never() -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_task_that_waits_too_long_is_ended_with_a_timeout(make: Make) -> None:
    with pytest.raises(TimeoutError):
        async with make(SOON_S) as span:
            await never()

    assert span.has_expired
    assert asyncio.current_task().cancelling() == 0


async def test_a_task_that_is_done_in_time_is_never_ended(make: Make) -> None:
    # Given one that has left its span, and a later one whose end shows that the first one's moment is past
    async with make(SOON_S) as span:
        pass
    with pytest.raises(TimeoutError):
        async with make(2 * SOON_S):
            await never()

    assert not span.has_expired


@pytest.mark.parametrize("delay_s", [SOON_S, 0.0, -1.0])
async def test_an_end_may_be_moved_to_the_front(make: Make, delay_s: float) -> None:
    async def wait() -> None:
        async with make(LATE_S) as span:
            spans.append(span)
            span.move(delay_s)
            await never()

    spans: list[Any] = []
    with pytest.raises(TimeoutError):
        await wait()

    assert spans[0].has_expired


@pytest.mark.parametrize("delay_s", [LATE_S, None])
async def test_an_end_may_be_put_off(make: Make, delay_s: float | None) -> None:
    async def wait() -> None:
        async with make(2 * SOON_S) as outer, make(SOON_S) as inner:
            spans.extend([outer, inner])
            inner.move(delay_s)
            await never()

    spans: list[Any] = []
    with pytest.raises(TimeoutError):
        await wait()

    assert [span.has_expired for span in spans] == [True, False]


async def test_an_end_that_is_put_off_in_the_turn_in_which_it_was_ordered_does_not_come(make: Make) -> None:
    async with make(LATE_S) as span:
        span.move(0.0)
        span.move(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert not span.has_expired


async def test_what_the_task_was_given_before_its_end_it_still_gets(make: Make) -> None:
    given = asyncio.get_running_loop().create_future()

    async def take() -> str:
        async with make(LATE_S) as span:
            spans.append(span)
            return await given

    spans: list[Any] = []
    taking = asyncio.create_task(take())
    await until(lambda: spans)
    given.set_result("word")
    spans[0].move(0.0)

    assert await taking == "word"


async def test_only_the_span_whose_moment_has_come_times_out(make: Make) -> None:
    async with make(LATE_S) as outer:
        with pytest.raises(TimeoutError):
            async with make(SOON_S):
                await never()

    assert not outer.has_expired


async def test_a_cancellation_from_elsewhere_stays_one(make: Make) -> None:
    spans: list[Any] = []

    async def wait() -> None:
        async with make(LATE_S) as span:
            spans.append(span)
            await never()

    waiting = asyncio.create_task(wait())
    await until(lambda: spans)
    spans[0].move(0.0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_error_of_the_task_passes(make: Make) -> None:
    with pytest.raises(KeyError):
        async with make(LATE_S):
            raise KeyError


async def test_a_moment_that_is_moved_after_the_end_changes_nothing() -> None:
    spans = Spans()
    async with spans.of(LATE_S) as span:
        pass
    span.move(0.0)
    await asyncio.sleep(0)

    assert not span.has_expired


async def test_a_thousand_spans_take_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    spans, loop, set_ = Spans(), asyncio.get_running_loop(), []
    call_at = loop.call_at
    monkeypatch.setattr(loop, "call_at", lambda *given, **more: set_.append(given[0]) or call_at(*given, **more))
    for _ in range(1000):
        async with spans.of(LATE_S):
            pass

    assert len(set_) == 1


async def test_the_timer_goes_on_to_those_that_are_later() -> None:
    # Given three spans, of which the first is left before its moment
    spans, ended = Spans(), []

    async def wait(name: str, delay_s: float) -> None:
        try:
            async with spans.of(delay_s):
                await never()
        except TimeoutError:
            ended.append(name)

    async with spans.of(SOON_S):
        waiting = [asyncio.create_task(wait(name, delay_s)) for name, delay_s in (("b", 0.03), ("a", 0.02))]
        await asyncio.sleep(0)

    await asyncio.wait(waiting)

    assert set(ended) == {"a", "b"}


def test_spans_outlive_an_event_loop() -> None:
    spans, seen = Spans(), SimpleNamespace(ended=0)

    async def wait() -> None:
        async with spans.of(LATE_S):
            pass
        with pytest.raises(TimeoutError):
            async with spans.of(SOON_S):
                await never()
        async with spans.of(LATE_S):
            seen.ended += 1

    asyncio.run(wait())
    asyncio.run(wait())

    assert seen.ended == 2
