"""The breaker of a model whose replicas keep dying: pure, given the time."""

from __future__ import annotations


class Breaker:
    """Counts deaths in a row; opens at ``max_deaths``, lets one trial through after a pause that doubles.

    Args:
        max_deaths: Deaths without an answered batch in between that open it.
        window_s: Deaths further apart than this are no row.
        pause_s: First pause.
        max_pause_s: Longest pause.
    """

    def __init__(self, max_deaths: int, window_s: float, pause_s: float, max_pause_s: float) -> None:
        self._max_deaths = max_deaths
        self._window_s = window_s
        self._first_pause_s = pause_s
        self._max_pause_s = max_pause_s
        self._pause_s = pause_s
        self._deaths = 0
        self._last_death_s = float("-inf")
        self._opened_until_s: float | None = None
        self._is_trial = False

    @property
    def retry_at_s(self) -> float | None:
        """When a trial may begin; None while closed or while a trial runs."""
        return self._opened_until_s

    @property
    def is_open(self) -> bool:
        """Whether requests are to be refused: it tripped and no trial has succeeded."""
        return self._opened_until_s is not None or self._is_trial

    def record_death(self, now_s: float, *, is_certain: bool = False) -> bool:
        """Count a death; return whether the breaker is open now.

        Args:
            now_s: Monotonic seconds.
            is_certain: The next replica would die of the same: loading raised an error.
        """
        if now_s - self._last_death_s > self._window_s:
            self._deaths = 0
        self._deaths += 1
        self._last_death_s = now_s
        if self._is_trial or is_certain or self._deaths >= self._max_deaths:
            self._opened_until_s = now_s + self._pause_s
            self._pause_s = min(self._max_pause_s, self._pause_s * 2)
            self._is_trial = False
        return self.is_open

    def begin_trial(self) -> None:
        """Let one replica start; the breaker stays open until it proves itself."""
        self._opened_until_s = None
        self._is_trial = True

    def record_ready(self) -> None:
        """A replica became ready: requests are admitted, but the next death opens it again until one is answered."""
        if self._is_trial:
            self._is_trial = False
            self._deaths = self._max_deaths - 1

    def record_answer(self) -> None:
        """A batch was answered: the row of deaths is broken."""
        self._deaths = 0
        self._pause_s = self._first_pause_s
