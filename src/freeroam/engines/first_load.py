"""Whether a version has been there for anybody yet, and what is told to those who ask before."""

from __future__ import annotations

from freeroam.clock import Clock
from freeroam.vocabulary.errors import ModelNotReady

LONGEST_RETRY_AFTER_S = 30.0
"""How long a load takes is not known: who is refused is told to wait as long as it has taken so far, at most this."""


class FirstLoad:
    """The time until the first replica of a version is ready; replicas that are replaced later do not count.

    Args:
        clock: Where time comes from.

    Attributes:
        is_over: Whether a replica was ready once.
        is_waited_for: Whether the version takes the place of one that answers no more, so that requests wait for it.
    """

    def __init__(self, clock: Clock) -> None:
        self.is_over = False
        self.is_waited_for = False
        self._clock = clock
        self._began_s = clock.monotonic_s()

    @property
    def refuses(self) -> bool:
        """Whether requests are refused that do not say that they wait."""
        return not self.is_over and not self.is_waited_for

    @property
    def is_awaited(self) -> bool:
        """Whether requests wait for it now."""
        return self.is_waited_for and not self.is_over

    def refusal(self, name: str) -> ModelNotReady:
        """Return what is told to those who are refused."""
        so_far_s = self._clock.monotonic_s() - self._began_s
        return ModelNotReady(f"{name} is still loading", retry_after_s=min(LONGEST_RETRY_AFTER_S, max(1.0, so_far_s)))
