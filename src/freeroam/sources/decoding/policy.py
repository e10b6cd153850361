"""Which packets of a stream are worth decoding: from the packets' times and kinds and the sampling grid alone.

Three ways, cheapest first, chosen anew for each group of pictures (a keyframe and what follows up to the next one):

* ``keyframes``: every due time up to the next keyframe is answered by a keyframe of its own.
* ``references``: every due time has a reference picture of its own; the pictures that nothing refers to are skipped.
* ``all``: some due time can only be answered by a picture that nothing refers to; those pictures are decoded too.

In each of them what follows the last wanted picture of a group is not decoded. No way gives fewer samples than decoding
everything would: a sample may only be a little later, by less than one interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from freeroam.vocabulary.cadence import TOLERANCE_SHARE, Cadence

KEYFRAMES = "keyframes"
REFERENCES = "references"
ALL = "all"

GROUP_UNITS = 600
"""A longer group is decided piecemeal, so that what is held stays bounded."""

GROUP_S = 12.0
KEYLESS_UNITS = 300
"""After this many pictures without a keyframe the stream has none (periodic intra refresh): decoding starts anyway."""

LATE_KEY_SHARE = 1.25
"""A live keyframe later than this share of the usual spacing is no longer waited for."""

PayloadT = TypeVar("PayloadT")
Steps: TypeAlias = list[PayloadT | None]
"""Packets to decode in this order; None: have the codec give out what it holds and start anew at a keyframe."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What is known of a coded picture before it is decoded.

    Attributes:
        time_s: When it is shown.
        is_key: Whether decoding can start here.
        is_reference: Whether other pictures may need it.
        is_closed: Of a keyframe: nothing after it needs anything before it (IDR).
    """

    time_s: float
    is_key: bool = False
    is_reference: bool = True
    is_closed: bool = True


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What to do with a group.

    Attributes:
        mode: ``keyframes``, ``references`` or ``all``.
        decode: For each unit, in decoding order, whether it goes to the codec.
        is_cut: Whether references at the end are left out, so that only a keyframe can follow.
    """

    mode: str
    decode: tuple[bool, ...]
    is_cut: bool


def plan_group(
    units: Sequence[Unit], cadence: Cadence, following: Unit | None, *, is_whole: bool, is_joined: bool = True
) -> GroupPlan:
    """Choose the units of a group that must be decoded so that no sample of ``cadence`` is lost.

    Args:
        units: The group in decoding order, beginning with its keyframe, or a later part of a long group.
        cadence: The sampling grid before the group.
        following: The next group's keyframe; None at the end of the stream or if it has not come yet.
        is_whole: Whether nothing more of this group comes; if not, every reference is kept for what follows.
        is_joined: Whether everything before was decoded, so that pictures shown before the keyframe can be, too.
    """
    usable = [index for index, unit in enumerate(units) if is_joined or unit.time_s >= units[0].time_s]
    if is_whole and following is None:
        usable = _without_early(units, usable, cadence)
    end_s = None if following is None else following.time_s
    last_s = max(unit.time_s for unit in units)
    asked = _samples(units, usable, cadence, end_s)

    def is_enough(indexes: list[int]) -> bool:
        answered = _samples(units, indexes, cadence, end_s)
        # As many, and none of them by passing over another.
        return len(answered) >= len(asked) and (not asked or answered[-1] <= asked[-1] + cadence.interval_s / 2)

    may_cut = is_whole and (following is None or following.is_closed or following.time_s - last_s <= cadence.interval_s)
    if units[0].is_key and may_cut and is_enough([0]):
        wanted = _picked(units, [0], cadence)
        return GroupPlan(KEYFRAMES, tuple(index in wanted for index in range(len(units))), is_cut=True)
    references = [index for index in usable if units[index].is_reference]
    if is_enough(references):
        mode, wanted = REFERENCES, _picked(units, references, cadence)
    else:
        mode, wanted = ALL, _picked(units, usable, cadence)
    last_index = max(wanted, default=-1) if may_cut else len(units) - 1
    keep = {index for index in references if index <= last_index} | wanted
    is_cut = may_cut and any(index > last_index for index in references)
    return GroupPlan(mode, tuple(index in keep for index in range(len(units))), is_cut)


def _without_early(units: Sequence[Unit], indexes: list[int], cadence: Cadence) -> list[int]:
    """Leave out the pictures at the end of a run that would answer a due time when none of them is shown any more.

    Such a sample belongs to what follows the run: a keyframe that costs one picture, where this group would be decoded
    to its end. The first picture stays.
    """
    times_s = sorted(units[index].time_s for index in indexes)
    if len(times_s) < 2:
        return indexes
    shown_until_s = times_s[-1] + (times_s[-1] - times_s[0]) / (len(times_s) - 1) / 2
    for time_s in times_s:
        due_s, cadence = cadence.offer(time_s)
        if due_s is not None and due_s > shown_until_s:
            return [index for index in indexes if index == 0 or units[index].time_s < time_s]
    return indexes


def _samples(units: Sequence[Unit], indexes: Iterable[int], cadence: Cadence, end_s: float | None) -> list[float]:
    """Return the due times that pictures ``indexes`` and a keyframe at ``end_s`` would answer."""
    times_s = sorted(units[index].time_s for index in indexes)
    answered = []
    for time_s in times_s if end_s is None else [*times_s, end_s]:
        due_s, cadence = cadence.offer(time_s)
        if due_s is not None:
            answered.append(due_s)
    return answered


def _picked(units: Sequence[Unit], indexes: Iterable[int], cadence: Cadence) -> set[int]:
    """Return which of ``indexes`` are samples when they are offered in order of time."""
    picked = set()
    for index in sorted(indexes, key=lambda index: units[index].time_s):
        due_s, cadence = cadence.offer(units[index].time_s)
        if due_s is not None:
            picked.add(index)
    return picked


class GroupSelector(Generic[PayloadT]):
    """Decides a group at a time, once it is known whole: for streams that are read ahead of their pace.

    Attributes:
        mode: The latest group's way.
        skipped: Packets before the first keyframe.
    """

    def __init__(self) -> None:
        self.mode: str | None = None
        self.skipped = 0
        self._held: list[tuple[Unit, PayloadT]] = []
        self._is_started = False
        self._is_joined = False

    def push(self, unit: Unit, payload: PayloadT, cadence: Cadence) -> Steps[PayloadT]:
        """Take the next packet in decoding order; return what to do now.

        Args:
            unit: What is known of it.
            payload: The packet.
            cadence: The grid as the frames given out so far have moved it.
        """
        if not self._is_started:
            if not unit.is_key and self.skipped < KEYLESS_UNITS:
                self.skipped += 1
                return []
            self._is_started = True
        steps: Steps[PayloadT] = []
        if self._held:
            if unit.is_key:
                steps = self._decide(cadence, unit, is_whole=True)
            elif len(self._held) >= GROUP_UNITS or abs(unit.time_s - self._held[0][0].time_s) > GROUP_S:
                steps = self._decide(cadence, None, is_whole=False)
        self._held.append((unit, payload))
        return steps

    def finish(self, cadence: Cadence) -> Steps[PayloadT]:
        """Return what to do with what is held, now that the stream has ended."""
        return [*self._decide(cadence, None, is_whole=True), None] if self._held else [None]

    def _decide(self, cadence: Cadence, following: Unit | None, *, is_whole: bool) -> Steps[PayloadT]:
        held, self._held = self._held, []
        plan = plan_group([unit for unit, _ in held], cadence, following, is_whole=is_whole, is_joined=self._is_joined)
        self.mode = plan.mode
        steps: Steps[PayloadT] = [
            payload for (_, payload), is_decoded in zip(held, plan.decode, strict=True) if is_decoded
        ]
        if plan.is_cut:
            steps.append(None)
        self._is_joined = not plan.is_cut
        return steps


class LiveSelector(Generic[PayloadT]):
    """Decides packet by packet: for streams whose pictures must come out as soon as they are there.

    Packets are held back undecoded while no sample is due. When one is, what is held since the last keyframe is decoded
    in one go; when a keyframe comes first, it is dropped. So nothing is lost by waiting, and a stream whose keyframes
    come often enough decodes only those.

    Attributes:
        mode: The way in use.
        skipped: Packets before the first keyframe.
    """

    def __init__(self) -> None:
        self.mode: str | None = None
        self.skipped = 0
        self._held: list[tuple[Unit, PayloadT]] = []
        self._is_started = False
        self._is_alone = False
        self._is_joined = False
        self._key_s = 0.0
        self._newest_s = 0.0
        self._key_spacings_s: list[float] = []
        self._reference_s = 0.0
        self._step_s = 0.0
        self._is_overdue = False
        self._jumped_from: Cadence | None = None
        self._reference_gap_s: float | None = None
        self._group_gap_s = 0.0

    def push(self, unit: Unit, payload: PayloadT, cadence: Cadence) -> Steps[PayloadT]:
        """Take the next packet in decoding order; return what to do now.

        Args:
            unit: What is known of it.
            payload: The packet.
            cadence: The grid as the frames given out so far have moved it.
        """
        if not self._is_started:
            if not unit.is_key and self.skipped < KEYLESS_UNITS:
                self.skipped += 1
                return []
            self._is_started, self._key_s = True, unit.time_s
            self._newest_s = self._reference_s = unit.time_s
        self._measure(unit)
        steps: Steps[PayloadT] = []
        if unit.is_key:
            self._is_joined = not self._held
            if self._held and not self._is_alone:
                steps.append(None)
            self._held, self._is_alone = [], False
        elif unit.time_s < self._key_s and not self._is_joined:
            return []
        self._held.append((unit, payload))
        self.mode = self._choose(cadence.interval_s)
        if not self._is_due(unit, cadence):
            return self._release() if len(self._held) >= GROUP_UNITS else steps
        if self.mode == KEYFRAMES and unit.is_key:
            # The codec gives the picture out at once and forgets it, so it stays held for whoever follows.
            self._is_alone = True
            return [*steps, payload, None]
        return [*steps, *self._release()]

    def finish(self, cadence: Cadence) -> Steps[PayloadT]:
        """Return what to do with what is held, now that the stream has ended."""
        units = [unit for unit, _ in self._held]
        if not units or not _picked(units, range(len(units)), cadence):
            return [None]
        self._is_overdue = True
        return [*self._release(), None]

    def _release(self) -> Steps[PayloadT]:
        keeps_all = self.mode == ALL or self._is_overdue
        steps: Steps[PayloadT] = [payload for unit, payload in self._held if unit.is_reference or keeps_all]
        self._held, self._is_alone = [], False
        return steps

    def _is_due(self, unit: Unit, cadence: Cadence) -> bool:
        """Return whether a sample is due that must not be waited for any longer."""
        self._is_overdue = False
        if cadence.next_due_s is None:
            return True
        due_s = cadence.next_due_s - TOLERANCE_SHARE * cadence.interval_s
        if cadence.is_restart(unit.time_s):
            self._jumped_from = cadence
        if self._jumped_from == cadence:
            # The grid begins anew with a picture that the codec has not given out yet.
            return True
        # The last moment at which this sample is not yet the next one's.
        self._is_overdue = self._newest_s + self._step_s > due_s + cadence.interval_s
        if self.mode == KEYFRAMES and not unit.is_key:
            wait_s = LATE_KEY_SHARE * max(self._key_spacings_s)
            return self._newest_s >= due_s and (self._is_overdue or unit.time_s > self._key_s + wait_s)
        newest_s = self._reference_s if self.mode == REFERENCES else self._newest_s
        return newest_s >= due_s or self._is_overdue

    def _choose(self, interval_s: float) -> str:
        spacings = self._key_spacings_s
        if len(spacings) >= 2 and max(spacings) <= interval_s * (1 + TOLERANCE_SHARE):
            return KEYFRAMES
        if self._reference_gap_s is not None and max(self._reference_gap_s, self._group_gap_s) <= interval_s:
            return REFERENCES
        return ALL

    def _measure(self, unit: Unit) -> None:
        """Learn how far apart keyframes, references and pictures are shown."""
        if unit.is_key and unit.time_s < self._key_s:
            self._key_spacings_s, self._reference_gap_s = [], None
        elif unit.is_key and unit.time_s > self._key_s:
            self._key_spacings_s = [*self._key_spacings_s, unit.time_s - self._key_s][-4:]
            self._reference_gap_s = max(self._group_gap_s, unit.time_s - self._reference_s)
        if unit.is_key:
            self._key_s = self._newest_s = self._reference_s = unit.time_s
            self._group_gap_s = 0.0
            return
        if unit.time_s > self._newest_s:
            self._step_s, self._newest_s = unit.time_s - self._newest_s, unit.time_s
        if unit.is_reference and unit.time_s > self._reference_s:
            self._group_gap_s = max(self._group_gap_s, unit.time_s - self._reference_s)
            self._reference_s = unit.time_s
