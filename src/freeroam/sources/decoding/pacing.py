"""The pace of live video: when each frame of a stream that arrives in bursts is due to be handed out."""

from __future__ import annotations


class Pacer:
    """Maps stream time to this machine's monotonic clock, one second to one second.

    The first frame is due ``delay_s`` after it came. A frame that comes later than its due time by more than
    ``slack_s`` moves the whole mapping, so that what follows keeps its spacing instead of being rushed; one that is
    less late is handed out at once and moves nothing. A jump of stream time (back, or ahead by more than
    ``max_gap_s`` and three intervals) begins anew.

    Args:
        delay_s: Room for uneven arrival, added once at the start and after each new beginning.
        slack_s: Lateness that moves nothing.
        max_gap_s: A larger step ahead of stream time is a jump.

    Attributes:
        interval_s: Time between samples; frames asked for rarely are far apart without a jump.
    """

    def __init__(self, delay_s: float = 0.0, slack_s: float = 0.25, max_gap_s: float = 20.0) -> None:
        self.interval_s = 0.0
        self._delay_s = delay_s
        self._slack_s = slack_s
        self._max_gap_s = max_gap_s
        self._offset_s: float | None = None
        self._last_time_s = 0.0

    @property
    def offset_s(self) -> float | None:
        """Monotonic time minus stream time; None before the first frame. Grows with each late arrival."""
        return self._offset_s

    def restart(self) -> None:
        """Forget the mapping; the next frame begins anew (after a skip to the live edge)."""
        self._offset_s = None

    def due_monotonic_s(self, time_s: float, now_s: float) -> float:
        """Return when the frame of stream time ``time_s`` is due; never before ``now_s``.

        Frames are offered in order of time, each when it is at hand.

        Args:
            time_s: The frame's stream time.
            now_s: The monotonic clock now.
        """
        step_s = time_s - self._last_time_s
        is_jump = step_s < 0 or step_s > max(self._max_gap_s, 3 * self.interval_s)
        self._last_time_s = time_s
        if self._offset_s is None or is_jump:
            self._offset_s = now_s + self._delay_s - time_s
        late_s = now_s - (time_s + self._offset_s)
        if late_s > self._slack_s:
            self._offset_s += late_s
        return max(now_s, time_s + self._offset_s)
