"""What a job asks its source for, and how its clips are named: pure arithmetic on the job's wish."""

from __future__ import annotations

from typing import Any

from freeroam.jobs.questions import Question
from freeroam.sources.source import SourceRequest
from freeroam.vocabulary.frame import Clip, FrameWish
from freeroam.vocabulary.job import JobSpec, Policy
from freeroam.vocabulary.model import ModelWishes


def request_of(spec: JobSpec, wishes: ModelWishes, cursor: dict[str, Any]) -> SourceRequest:
    """Return what is asked of the source.

    Args:
        spec: The job; a size it names wins over the model's.
        wishes: What the model would like.
        cursor: Where the last question ended; empty at the beginning.
    """
    options = spec.source
    is_own = options.width_px is not None or options.height_px is not None
    width_px, height_px = (options.width_px, options.height_px) if is_own else (wishes.width_px, wishes.height_px)
    return SourceRequest(
        stream_ref=spec.stream_ref,
        wish=FrameWish(spec.fps, width_px, height_px),
        options=options,
        resume_after=cursor.get("frame_id"),
        resume_due_s=cursor.get("next_due_s"),
        waits=spec.policy is Policy.BLOCK,
    )


def question_of(clip: Clip, spec: JobSpec, unique: str, *, is_named: bool) -> Question:
    """Return the question about ``clip``.

    Args:
        clip: Its frames.
        spec: The job.
        unique: A key that no other question of the job ever has.
        is_named: Whether the source's own names tell its frames apart, also after it was opened again. Times of a live
            stream may begin anew, so they do not.
    """
    last = clip.frames[-1]
    cursor = {"frame_id": last.frame_id, "next_due_s": last.sample_time_s + 1.0 / spec.fps}
    return Question(clip, last.frame_id if is_named else unique, cursor)
