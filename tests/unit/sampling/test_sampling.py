"""Which frames become questions, and in which company."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.sampling.interval import IntervalSampler
from freeroam.sampling.window import Window, window_of
from tests.unit.jobs.fakes import frame


@given(
    native_fps=st.floats(min_value=1, max_value=60),
    fps=st.floats(min_value=0.1, max_value=30),
    missing=st.sets(st.integers(min_value=1, max_value=300)),
)
def test_samples_are_never_denser_than_asked_and_never_rarer_than_the_frames_allow(
    native_fps: float, fps: float, missing: set[int]
) -> None:
    sampler = IntervalSampler(fps)
    frames = [frame(number, fps=native_fps) for number in range(301) if number not in missing]

    taken = [one.sample_time_s for one in frames if sampler.wants(one)]

    assert len(taken) <= 300 / native_fps * fps + 2
    assert taken == sorted(set(taken))
    if native_fps >= fps and not missing:
        assert len(taken) >= int(300 / native_fps * fps)


def test_another_rate_begins_with_the_next_frame() -> None:
    sampler = IntervalSampler(1.0)
    taken = [number for number in range(8) if sampler.wants(frame(number, fps=4.0))]

    sampler.change_fps(2.0)
    taken += [number for number in range(8, 16) if sampler.wants(frame(number, fps=4.0))]

    assert taken == [0, 4, 8, 10, 12, 14]


def test_the_phase_survives_a_restart() -> None:
    before = IntervalSampler(1.0)
    assert before.wants(frame(1, fps=4.0))

    after = IntervalSampler(1.0, before.next_due_s)

    assert [number for number in range(2, 10) if after.wants(frame(number, fps=4.0))] == [5, 9]


@pytest.mark.parametrize(
    ("asked", "preferred", "greatest", "window"), [(3, 5, 8, 3), (None, 5, 8, 5), (None, None, 8, 8), (1, None, 8, 1)]
)
def test_a_window_is_what_the_job_says_else_the_model_else_the_greatest_batch(
    asked: int | None, preferred: int | None, greatest: int, window: int
) -> None:
    assert window_of(asked, preferred, greatest) == window


@given(size=st.integers(min_value=1, max_value=9), frames=st.integers(min_value=0, max_value=40))
def test_clips_do_not_overlap_and_lose_no_frame(size: int, frames: int) -> None:
    window = Window(size)

    clips = [clip for number in range(frames) if (clip := window.add(frame(number)))]
    rest = window.rest()

    ids = [name for clip in [*clips, *([rest] if rest else [])] for name in clip.frame_ids]
    assert ids == [frame(number).frame_id for number in range(frames)]
    assert all(len(clip.frames) == size for clip in clips)


def test_pictures_of_two_sizes_are_never_in_one_clip() -> None:
    window = Window(3)
    window.add(frame(0))
    window.add(frame(1))

    early = window.add(frame(2, width=8))

    assert early is not None
    assert (len(early.frames), len(window)) == (2, 1)
