"""The live table: redrawn in place on a terminal, a line a while anywhere else."""

from __future__ import annotations

from collections import deque
from typing import TextIO

from freeroam.clock import Clock
from freeroam.load.report import LIVE_HEADINGS, live_line
from freeroam.load.run import Run
from freeroam.load.tally import Tally

SHOWN_LINES = 12
"""Lines of the past that the table keeps on a terminal."""


class Display:
    """Shows a run while it goes on.

    Args:
        screen: Where.
        interval_s: Between lines; 0 shows none.
        clock: Tells time.
    """

    def __init__(self, screen: TextIO, interval_s: float, clock: Clock) -> None:
        self._screen = screen
        self._interval_s = interval_s
        self._clock = clock
        self._is_terminal = screen.isatty()
        self._past: deque[str] = deque(maxlen=SHOWN_LINES)
        self._drawn_lines = 0

    async def follow(self, run: Run) -> None:
        """Show ``run`` until cancelled."""
        if self._interval_s <= 0:
            return
        start_s = shown_s = self._clock.monotonic_s()
        while True:
            await self._clock.sleep(self._interval_s)
            now_s = self._clock.monotonic_s()
            window = run.books.close_window()
            self._show(live_line(run, window, now_s - start_s, now_s - shown_s), run.books.total)
            shown_s = now_s

    def _show(self, line: str, total: Tally) -> None:
        if not self._is_terminal:
            heading = "" if self._drawn_lines else f"{LIVE_HEADINGS}\n"
            self._screen.write(f"{heading}{line}\n")
            self._drawn_lines += 1
        else:
            self._past.append(line)
            times = total.times
            summary = (
                f"in all: {total.answered} answered, {total.failed} failed, {total.tokens} tokens; "
                f"first token p99 {times.first_token.percentile_ms(0.99) or 0:.1f} ms, "
                f"end to end p99 {times.end_to_end.percentile_ms(0.99) or 0:.1f} ms"
            )
            rows = [LIVE_HEADINGS, *self._past, summary]
            back = f"\x1b[{self._drawn_lines}F\x1b[J" if self._drawn_lines else ""
            self._screen.write(back + "\n".join(rows) + "\n")
            self._drawn_lines = len(rows)
        self._screen.flush()
