"""What is decoded of a stream: as little as gives every sample, chosen from times and kinds alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freeroam.sources.decoding.policy import (
    ALL,
    GROUP_UNITS,
    KEYFRAMES,
    KEYLESS_UNITS,
    REFERENCES,
    GroupSelector,
    LiveSelector,
    Unit,
    plan_group,
)
from freeroam.vocabulary.cadence import Cadence

STEP_S = 0.04


def group(start_s: float = 0.0, frames: int = 50, pattern: str = "PbBb", *, is_closed: bool = True) -> list[Unit]:
    """A group in decoding order: I, then mini-groups whose last frame P is coded first; ``b`` is never referred to.

    The pattern is in display order after the mini-group's P is moved to its end: PbBb shows b B b P.
    """
    units = [Unit(start_s, is_key=True, is_closed=is_closed)]
    at = 1
    while at < frames:
        size = min(len(pattern), frames - at)
        shown = [*pattern[1:size], pattern[0]]
        places = {index: start_s + (at + index) * STEP_S for index in range(size)}
        order = sorted(range(size), key=lambda index: ("PBb".index(shown[index]), index))
        units += [Unit(places[index], is_reference=shown[index] != "b") for index in order]
        at += size
    return units


KEY_AFTER = Unit(2.0, is_key=True)


@pytest.mark.parametrize(
    ("fps", "next_due_s", "pattern", "mode", "decoded"),
    [
        pytest.param(0.5, None, "PbBb", KEYFRAMES, 1, id="first picture of all"),
        pytest.param(0.5, 0.0, "PbBb", KEYFRAMES, 1, id="one keyframe a sample"),
        pytest.param(0.25, 0.0, "PbBb", KEYFRAMES, 1, id="every other keyframe"),
        pytest.param(0.25, 2.0, "PbBb", KEYFRAMES, 0, id="the next keyframe will do"),
        pytest.param(0.25, 1.0, "PbBb", KEYFRAMES, 0, id="the next keyframe answers a little late"),
        pytest.param(2.0, 0.0, "PbBb", REFERENCES, 20, id="references up to the last sample"),
        pytest.param(2.0, 0.0, "P", REFERENCES, 39, id="nothing can be skipped but the end"),
        pytest.param(5.0, 0.0, "PbBb", REFERENCES, 24, id="references are dense enough"),
        pytest.param(12.5, 0.0, "PbBb", REFERENCES, 26, id="exactly dense enough"),
        pytest.param(25.0, 0.0, "PbBb", ALL, 50, id="all are asked for"),
        pytest.param(15.0, 0.0, "PbBb", ALL, 38, id="unneeded ones only where they are samples"),
    ],
)
def test_as_little_as_possible_is_decoded(fps, next_due_s, pattern, mode, decoded) -> None:
    plan = plan_group(group(pattern=pattern), Cadence.of_fps(fps, next_due_s), KEY_AFTER, is_whole=True)

    assert plan.mode == mode
    assert sum(plan.decode) == pytest.approx(decoded, abs=2)


def test_a_group_that_is_not_whole_keeps_every_reference() -> None:
    plan = plan_group(group(), Cadence.of_fps(2.0, 0.0), None, is_whole=False)

    assert not plan.is_cut
    assert all(plan.decode[index] for index, unit in enumerate(group()) if unit.is_reference)


def test_a_due_time_when_the_run_is_over_is_left_to_what_follows() -> None:
    units = stream([group(0.0), group(2.0)])

    codec = run(GroupSelector(), units, fps=0.5)
    rounded = run(GroupSelector(), [Unit(0.0, is_key=True), Unit(1.0), Unit(1.9999)], fps=0.5)

    assert [round(due_s, 3) for due_s, _ in codec.samples] == [0.0, 2.0]
    assert len(codec.decoded) == 2
    assert [round(due_s, 3) for due_s, _ in rounded.samples] == [0.0, 2.0]


def test_pictures_before_an_open_keyframe_are_left_out_when_what_they_need_was_not_decoded() -> None:
    units = [Unit(2.0, is_key=True, is_closed=False), Unit(1.92), Unit(1.96), Unit(2.04), Unit(2.08)]

    alone = plan_group(units, Cadence.of_fps(25.0, 1.92), None, is_whole=True, is_joined=False)
    joined = plan_group(units, Cadence.of_fps(25.0, 1.92), None, is_whole=True, is_joined=True)

    assert alone.decode == (True, False, False, True, True)
    assert joined.decode == (True, True, True, True, True)


def test_a_group_before_an_open_keyframe_is_not_cut_when_samples_lie_between() -> None:
    far = Unit(2.12, is_key=True, is_closed=False)

    often = plan_group(group(), Cadence.of_fps(10.0, 0.0), far, is_whole=True)
    rarely = plan_group(group(), Cadence.of_fps(2.0, 0.0), far, is_whole=True)

    assert not often.is_cut
    assert rarely.is_cut


def stream(groups: list[list[Unit]]) -> list[Unit]:
    return [unit for units in groups for unit in units]


class Codec:
    """Gives pictures out as a codec does: in order of time, ``delay`` late."""

    def __init__(self, fps: float, next_due_s: float | None, delay: int) -> None:
        self.cadence = Cadence.of_fps(fps, next_due_s)
        self.samples: list[tuple[float, float]] = []
        self.decoded: list[int] = []
        self._held: list[float] = []
        self._delay = delay

    def run(self, steps: list[int | None], units: list[Unit]) -> None:
        for step in steps:
            if step is None:
                self._give(0)
                continue
            self.decoded.append(step)
            self._held.append(units[step].time_s)
            self._give(self._delay)

    def _give(self, keep: int) -> None:
        while len(self._held) > keep:
            time_s = min(self._held)
            self._held.remove(time_s)
            due_s, self.cadence = self.cadence.offer(time_s)
            if due_s is not None:
                self.samples.append((due_s, time_s))


def run(selector, units: list[Unit], fps: float, next_due_s: float | None = None, delay: int = 2) -> Codec:
    codec = Codec(fps, next_due_s, delay)
    for index, unit in enumerate(units):
        codec.run(selector.push(unit, index, codec.cadence), units)
    codec.run(selector.finish(codec.cadence), units)
    return codec


def full(units: list[Unit], fps: float, next_due_s: float | None = None) -> list[float]:
    cadence, dues = Cadence.of_fps(fps, next_due_s), []
    for time_s in sorted(unit.time_s for unit in units):
        due_s, cadence = cadence.offer(time_s)
        if due_s is not None:
            dues.append(due_s)
    return dues


def check_references(units: list[Unit], decoded: list[int]) -> None:
    """Everything decoded has every reference of its own group that came before it in decoding order."""
    done = set(decoded)
    start = 0
    for index, unit in enumerate(units):
        if unit.is_key:
            start = index
        if index in done:
            missing = [at for at in range(start, index) if units[at].is_reference and at not in done]
            assert not missing, f"picture {index} was decoded without {missing}"


patterns = st.sampled_from(["P", "Pb", "PbBb", "PbbBbb", "PBB"])
groups = st.lists(st.tuples(st.integers(1, 90), patterns), min_size=1, max_size=6)


@given(sizes=groups, fps=st.sampled_from([0.1, 0.4, 0.5, 1.0, 2.0, 3.0, 7.0, 12.5, 15.0, 25.0]), phase=st.floats(0, 3))
@settings(max_examples=300, deadline=None)
@pytest.mark.parametrize("kind", [GroupSelector, LiveSelector])
def test_no_sample_is_lost_whatever_the_groups_are(kind, sizes, fps, phase) -> None:
    start_s, parts = 0.0, []
    for frames, pattern in sizes:
        parts.append(group(start_s, frames, pattern))
        start_s += frames * STEP_S
    units = stream(parts)
    next_due_s = None if phase < 0.5 else phase

    codec = run(kind(), units, fps, next_due_s)

    asked = full(units, fps, next_due_s)
    last_s = max(unit.time_s for unit in units)
    while asked and kind is GroupSelector and asked[-1] > last_s + STEP_S / 4:
        asked.pop()
    times = [time_s for _, time_s in codec.samples]
    assert len(codec.samples) >= len(asked)
    assert times == sorted(times)
    check_references(units, codec.decoded)
    assert len(codec.decoded) <= len(units) + len(parts)


def test_live_keyframes_are_enough_once_their_spacing_is_known() -> None:
    units = stream([group(2.0 * number) for number in range(10)])[:-2]

    codec = run(LiveSelector(), units, 0.5)

    assert len(codec.samples) == 10
    late = [index for index in codec.decoded if index >= 5 * 50]
    assert all(units[index].is_key for index in late)


def test_a_live_keyframe_that_does_not_come_is_not_waited_for() -> None:
    units = stream([group(2.0 * number) for number in range(5)] + [group(10.0, frames=290)])

    codec = run(LiveSelector(), units, 0.5)

    assert [round(due_s, 2) for due_s, _ in codec.samples] == [round(2.0 * number, 2) for number in range(11)]
    assert all(time_s - due_s <= 2.0 for due_s, time_s in codec.samples)
    check_references(units, sorted(set(codec.decoded)))


def test_live_pictures_come_out_as_soon_as_they_are_due() -> None:
    selector, codec = LiveSelector(), Codec(1.0, None, delay=0)
    units = stream([group(2.0 * number, pattern="P") for number in range(5)])
    lateness = []

    for index, unit in enumerate(units):
        before = len(codec.samples)
        codec.run(selector.push(unit, index, codec.cadence), units)
        if len(codec.samples) > before:
            lateness.append(unit.time_s - codec.samples[-1][1])

    assert len(lateness) == 10
    assert max(lateness) == 0


@pytest.mark.parametrize("kind", [GroupSelector, LiveSelector])
def test_what_comes_before_the_first_keyframe_is_counted_and_left_out(kind) -> None:
    selector = kind()
    units = [*group()[10:20], *group(2.0)]

    codec = run(selector, units, 25.0)

    assert selector.skipped == 10
    assert min(codec.decoded) == 10


@pytest.mark.parametrize("kind", [GroupSelector, LiveSelector])
def test_a_stream_without_keyframes_is_decoded_all_the_same(kind) -> None:
    units = [Unit(index * STEP_S) for index in range(KEYLESS_UNITS + 200)]

    codec = run(kind(), units, 1.0)

    assert len(codec.samples) >= 7


@pytest.mark.parametrize("kind", [GroupSelector, LiveSelector])
def test_a_group_without_end_is_decided_piece_by_piece(kind) -> None:
    units = group(frames=GROUP_UNITS * 3, pattern="P")

    codec = run(kind(), units, 0.01)

    assert len(codec.samples) == 1
    assert len(units) - len(codec.decoded) <= GROUP_UNITS


@pytest.mark.parametrize("kind", [GroupSelector, LiveSelector])
def test_time_that_jumps_back_begins_a_new_grid(kind) -> None:
    units = [*group(1000.0), *group(0.0), *group(2.0), *group(4.0)]

    codec = run(kind(), units, 2.0)

    assert sum(time_s < 10 for _, time_s in codec.samples) == 12


@pytest.mark.parametrize("kind", [GroupSelector, LiveSelector])
def test_uneven_time_is_sampled_by_time(kind) -> None:
    times = [0.0, 0.1, 0.15, 0.9, 1.6, 1.61, 1.62, 3.3, 3.31, 5.0]
    units = [Unit(time_s, is_key=index == 0) for index, time_s in enumerate(times)]

    codec = run(kind(), units, 1.0)

    assert [time_s for _, time_s in codec.samples] == [0.0, 1.6, 3.3, 5.0]
