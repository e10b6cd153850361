"""Hands decoded frames out, a live stream's when they are due, while a task of its own makes more of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.sources.decoding.pacing import Pacer
from freeroam.sources.feed_run import FrameQueue, RunFrame
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import Frame

TIMER_LATENESS_S = 0.001
"""Timers of the event loop have steps of a millisecond and fire after their time, never before."""

log = get_logger(__name__)


async def hand_out(
    produce: Callable[[FrameQueue], Awaitable[None]], clock: Clock, is_paced: Callable[[], bool]
) -> AsyncGenerator[Frame, None]:
    """Run ``produce`` beside and give what it puts into the queue; closing this stops it.

    Args:
        produce: Fills the queue; its return ends the video, what it raises is raised here after the frames before it.
        clock: Time.
        is_paced: Whether frames are handed out at the pace of stream time; asked with each frame.

    Raises:
        SourceError: What ``produce`` raised.
    """
    # One frame waits here and a few more in the decoder, so the next is always ready before it is due.
    queue: FrameQueue = asyncio.Queue(1)
    task = asyncio.create_task(_produce(produce, queue), name="read video")
    pacer = Pacer()
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, SourceError):
                raise item
            now_s = clock.monotonic_s()
            due_s = now_s
            if is_paced():
                due_s = pacer.due_monotonic_s(item.decoded.time_s, now_s)
                if due_s > now_s + TIMER_LATENESS_S:
                    await clock.sleep(due_s - now_s - TIMER_LATENESS_S)
            yield _frame(item, due_s, clock.epoch_s())
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _produce(produce: Callable[[FrameQueue], Awaitable[None]], queue: FrameQueue) -> None:
    try:
        await produce(queue)
    except SourceError as error:
        await queue.put(error)
    except Exception as error:
        log.exception("source_defect")
        text = f"the source failed unexpectedly ({type(error).__name__})"
        await queue.put(SourceError(SourceErrorCode.UNAVAILABLE, text))
    else:
        await queue.put(None)


def _frame(item: RunFrame, due_monotonic_s: float, now_epoch_s: float) -> Frame:
    decoded = item.decoded
    return Frame(
        pixels=decoded.pixels,
        width_px=decoded.width_px,
        height_px=decoded.height_px,
        frame_id=str(round(decoded.time_s * 1000)),
        stream_time_s=decoded.time_s,
        sample_time_s=decoded.due_s,
        captured_epoch_s=now_epoch_s if item.captured_epoch_s is None else item.captured_epoch_s,
        due_monotonic_s=due_monotonic_s,
        source_width_px=decoded.source_width_px,
        source_height_px=decoded.source_height_px,
        decode_ms=decoded.decode_ms,
    )
