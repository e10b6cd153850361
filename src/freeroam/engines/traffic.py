"""How the requests that name no version are split among the versions of a name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from freeroam.vocabulary.errors import InvalidInput


class Traffic:
    """Shares of versions, and whose turn it is.

    The turns are those of smooth weighted round robin (as nginx chooses an upstream): each version gains its share at
    every turn, the one that has most takes the turn and pays 1. So nothing is random, the turns of a version are spread
    evenly, and of two versions none is ever off its share by a whole turn: 5 % is every twentieth request.

    Args:
        shares: What each version gets; made to sum to 1.

    Raises:
        InvalidInput: A share is negative or not finite, or none is above zero.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        if not all(math.isfinite(share) and share >= 0.0 for share in shares.values()):
            raise InvalidInput(f"shares must be finite numbers from 0, not {dict(shares)}")
        total = sum(shares.values())
        if not 0.0 < total < math.inf:
            raise InvalidInput(f"one share at least must be above 0, and their sum finite: {dict(shares)}")
        self.shares = {version: share / total for version, share in shares.items() if share > 0.0}
        self._gained = dict.fromkeys(self.shares, 0.0)

    @property
    def main(self) -> str:
        """The version that gets most; of equals the first."""
        return max(self.shares, key=lambda version: self.shares[version])

    def next(self, can_answer: Callable[[str], bool]) -> str:
        """Return the version whose turn it is among those that can answer now; the main one if none can."""
        if len(self.shares) == 1:
            return next(iter(self.shares))
        able = [version for version in self.shares if can_answer(version)]
        if not able:
            return self.main
        total = sum(self.shares[version] for version in able)
        for version in able:
            self._gained[version] += self.shares[version] / total
        chosen = max(able, key=lambda version: self._gained[version])
        self._gained[chosen] -= 1.0
        return chosen

    def without(self, version: str) -> Traffic | None:
        """Return what is left when a version goes; None if nothing is."""
        rest = {name: share for name, share in self.shares.items() if name != version}
        return Traffic(rest) if rest else None
