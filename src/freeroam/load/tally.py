"""What a run counts: answers, tokens, times and errors, of the last while and in all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from freeroam.load.spread import Spread
from freeroam.vocabulary.inference import Priority


@dataclass(slots=True)
class Times:
    """Times of answers, in milliseconds.

    Attributes:
        first_token: From when a question was due to its first piece of text.
        token_gap: Between one piece of text and the next; tokens that were merged into a piece came at once.
        time_per_token: Of each answer, from its first piece to its last, divided by the tokens after the first.
        end_to_end: From when a question was due to the end of its answer.
        behind: From when a question was due to its sending.
    """

    first_token: Spread = field(default_factory=Spread)
    token_gap: Spread = field(default_factory=Spread)
    time_per_token: Spread = field(default_factory=Spread)
    end_to_end: Spread = field(default_factory=Spread)
    behind: Spread = field(default_factory=Spread)

    def take_in(self, other: Times) -> None:
        """Count what ``other`` counted."""
        self.first_token.take_in(other.first_token)
        self.token_gap.take_in(other.token_gap)
        self.time_per_token.take_in(other.time_per_token)
        self.end_to_end.take_in(other.end_to_end)
        self.behind.take_in(other.behind)


@dataclass(slots=True)
class Tally:
    """What was counted in a while.

    Attributes:
        due: Questions that should have been sent, in an open loop.
        sent: Questions.
        answered: Complete answers.
        tokens: Tokens that came.
        pieces: Pieces that they came in.
        errors: Failed questions, by what was wrong.
        missing: Tokens whose index never came.
        doubled: Tokens whose index came twice.
        times: Of all.
        by_priority: First token and end to end by level.
    """

    due: int = 0
    sent: int = 0
    answered: int = 0
    tokens: int = 0
    pieces: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    doubled: int = 0
    times: Times = field(default_factory=Times)
    by_priority: dict[Priority, Times] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """How many questions failed."""
        return self.errors.total()

    @property
    def ended(self) -> int:
        """How many questions are over."""
        return self.answered + self.failed

    @property
    def error_share(self) -> float:
        """Failed of all that are over, 0 to 1; 1 if none is over."""
        return self.failed / self.ended if self.ended else 1.0

    def take_in(self, other: Tally) -> None:
        """Count what ``other`` counted."""
        self.due += other.due
        self.sent += other.sent
        self.answered += other.answered
        self.tokens += other.tokens
        self.pieces += other.pieces
        self.errors.update(other.errors)
        self.missing += other.missing
        self.doubled += other.doubled
        self.times.take_in(other.times)
        for priority, times in other.by_priority.items():
            self.by_priority.setdefault(priority, Times()).take_in(times)


@dataclass(slots=True)
class Books:
    """Where a run is counted.

    Attributes:
        window: Since ``close_window`` was called last.
        total: Before that.
    """

    window: Tally = field(default_factory=Tally)
    total: Tally = field(default_factory=Tally)

    def close_window(self) -> Tally:
        """Return what was counted since the last call, and count it into ``total``."""
        window, self.window = self.window, Tally()
        self.total.take_in(window)
        return window

    def begin(self) -> None:
        """Forget everything."""
        self.window, self.total = Tally(), Tally()


@dataclass(slots=True)
class IndexAccount:
    """Whether every token of one answer came, once and in order.

    Attributes:
        expected: The index that comes next.
        missing: Tokens that were passed over.
        doubled: Tokens that came again.
    """

    expected: int = 0
    missing: int = 0
    doubled: int = 0

    def take(self, index: int, count: int) -> None:
        """Account for a piece whose first token is ``index`` and which joins ``count``."""
        if index > self.expected:
            self.missing += index - self.expected
        elif index < self.expected:
            self.doubled += min(self.expected, index + count) - index
        self.expected = max(self.expected, index + count)

    def close(self, total: int) -> None:
        """Account for the end, where the server says how many tokens there were; 0 says nothing."""
        if total > self.expected:
            self.missing += total - self.expected
            self.expected = total
