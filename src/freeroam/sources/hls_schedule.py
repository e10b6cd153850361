"""Which segment of a playlist is played next, and at which stream time; pure: playlists in, planned segments out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from freeroam.sources.hls_playlist import MediaPlaylist, Segment
from freeroam.sources.http_grammar import ByteRange

EDGE_TARGETS = 3.0
"""Live playback begins this many target durations before the end (RFC 8216, 6.3.3)."""
CATCH_UP_S = 6.0
STALE_RELOADS = 3
"""A playlist that ends before what was played is an old copy from a cache, unless so many in a row do."""
KEPT_PLACES = 256
"""Segments whose time is remembered for the next opening."""
CLOCK_GAP_S = 0.5
GREATEST_GAP_S = 86400.0


@dataclass(frozen=True, slots=True)
class Planned:
    """A segment with its place in the stream.

    Attributes:
        time_s: Stream time of its first frame.
        breaks_run: Whether it cannot go on from the segment played before.
    """

    segment: Segment
    time_s: float
    breaks_run: bool


class Schedule:
    """Walks through a playlist that changes under it.

    Stream time of a recording begins at 0. That of a live stream is epoch seconds: of PROGRAM-DATE-TIME where there is
    one, else of the wall clock when it was first opened. From then on it grows by EXTINF; a date that is ahead by more
    than half a second moves it forward, none moves it back. A stream that is opened again never repeats a time, and a
    segment that the opening before has placed keeps its time, so that no picture comes twice under two names.

    Args:
        playlist: The first one.
        now_epoch_s: The wall clock.
        count: Told what is passed over: ``segments_missed``, ``segments_behind``, ``segments_gap``,
            ``playlist_rewinds``.
        waits: True where nothing may be left out, however far behind the end it falls.
        resume_s: Stream time of the last frame that an earlier opening gave; None at the first.
        known: What the opening before has placed.

    Attributes:
        placed: The latest segments that were planned, for the next opening.
    """

    def __init__(
        self,
        playlist: MediaPlaylist,
        now_epoch_s: float,
        count: Callable[[str, int], None],
        *,
        waits: bool = False,
        resume_s: float | None = None,
        known: Collection[Planned] = (),
    ) -> None:
        self.placed: deque[Planned] = deque(maxlen=KEPT_PLACES)
        self.is_live = not playlist.is_ended
        self._playlist = playlist
        self._count = count
        self._waits = waits
        self._breaks_run = True
        self._stale_reloads = 0
        self._is_waiting_for_first = not playlist.segments
        self._date_offset_s: float | None = None
        self._updated_s = now_epoch_s
        self._away_s = 0.0
        known_s = self._known_begins_s(known, now_epoch_s, resume_s)
        index = self._first_index(resume_s, known_s)
        self._next = playlist.first_sequence + index
        self._time_s = self._first_time_s(index, now_epoch_s, resume_s, known_s)
        self._allowed_s = self._left_s() + max(EDGE_TARGETS * playlist.target_s, CATCH_UP_S)

    @property
    def target_s(self) -> float:
        """The longest segment, as the newest playlist announces."""
        return self._playlist.target_s

    @property
    def time_s(self) -> float:
        """Stream time of the segment that comes next."""
        return self._time_s

    @property
    def is_over(self) -> bool:
        """Whether everything was played and no segment will be added."""
        return self._playlist.is_ended and self._next >= self._playlist.end_sequence

    def update(self, playlist: MediaPlaylist, now_epoch_s: float) -> None:
        """Go on with a newer playlist; one of a live stream that lists nothing says nothing, its numbers included.

        Args:
            playlist: The newer one.
            now_epoch_s: The wall clock.
        """
        if not playlist.segments and not playlist.is_ended:
            return
        if self._is_waiting_for_first:
            self._next = playlist.first_sequence
            self._is_waiting_for_first = not playlist.segments
        is_behind = playlist.end_sequence < self._next
        self._stale_reloads = self._stale_reloads + 1 if is_behind else 0
        is_far_behind = playlist.end_sequence + 2 * len(playlist.segments) + STALE_RELOADS < self._next
        if is_behind and not is_far_behind and self._stale_reloads < STALE_RELOADS and not playlist.is_ended:
            return
        self._away_s = max(0.0, now_epoch_s - self._updated_s)
        self._updated_s = now_epoch_s
        self._playlist = playlist
        if is_behind and not playlist.is_ended:
            self._count("playlist_rewinds", 1)
            self._stale_reloads = 0
            self._jump_to(playlist.first_sequence + self._edge_index())

    def next(self) -> Planned | None:
        """Return the next segment to play; None if it is not there yet."""
        playlist = self._playlist
        if self._next < playlist.first_sequence:
            missed = playlist.first_sequence - self._next
            self._count("segments_missed", missed)
            # Numbers may jump for no reason; not much more than was shown meanwhile can have been missed.
            shown_s = self._away_s + playlist.duration_s + EDGE_TARGETS * playlist.target_s
            self._time_s += min(missed * playlist.target_s, shown_s, GREATEST_GAP_S)
            self._jump_to(playlist.first_sequence)
        if self.is_live and not self._waits and not playlist.is_ended:
            self._catch_up()
        while self._next < playlist.end_sequence:
            segment = playlist.segments[self._next - playlist.first_sequence]
            self._follow_dates(segment)
            planned = Planned(segment, self._time_s, self._breaks_run or segment.is_discontinuity)
            self._next += 1
            self._time_s += segment.duration_s
            self._breaks_run = segment.is_gap
            if not segment.is_gap:
                self.placed.append(planned)
                return planned
            self._count("segments_gap", 1)
        return None

    def _first_index(self, resume_s: float | None, known_s: list[float | None]) -> int:
        """Return where to begin: a recording where it broke off, a live stream near its end."""
        if not self.is_live:
            return 0 if resume_s is None else self._index_after(resume_s, self._begins_s(lambda _: None, 0.0))
        edge = self._edge_index()
        segments = self._playlist.segments
        if resume_s is None or not segments:
            return edge
        is_dated = segments[0].captured_epoch_s is not None
        begins_s = self._begins_s(lambda segment: segment.captured_epoch_s) if is_dated else known_s
        if not any(begin_s is not None for begin_s in begins_s):
            return edge
        index = self._index_after(resume_s, begins_s)
        # One that plays is up to a segment further from the end than one that begins; it loses nothing by that.
        return index if self._waits or edge - index <= 1 else edge

    def _begins_s(self, given: Callable[[Segment], float | None], time_s: float | None = None) -> list[float | None]:
        """Return when each listed segment begins: as ``given`` says, else where the one before it ends."""
        begins_s = []
        for segment in self._playlist.segments:
            given_s = given(segment)
            time_s = time_s if given_s is None else given_s
            begins_s.append(time_s)
            time_s = None if time_s is None else time_s + segment.duration_s
        return begins_s

    def _known_begins_s(
        self, known: Collection[Planned], now_epoch_s: float, resume_s: float | None
    ) -> list[float | None]:
        """Return when each listed segment begins by what the opening before knew, and keep it; nothing if it cannot be.

        A server that was started anew may count from the beginning again and use the same names.
        """
        times_s = {_name(planned.segment): planned.time_s for planned in known}
        begins_s = self._begins_s(lambda segment: times_s.get(_name(segment)))
        unknown: list[float | None] = [None] * len(begins_s)
        if resume_s is None or not begins_s or begins_s[-1] is None:
            return unknown
        end_s = begins_s[-1] + self._playlist.segments[-1].duration_s
        greatest_s = EDGE_TARGETS * self._playlist.target_s + CATCH_UP_S
        if resume_s >= end_s or abs(end_s - now_epoch_s) > greatest_s:
            return unknown
        self.placed.extend(known)
        return begins_s

    def _index_after(self, resume_s: float, begins_s: list[float | None]) -> int:
        """Return the first segment that ends after ``resume_s``; the last one if none does."""
        for index, (segment, begin_s) in enumerate(zip(self._playlist.segments, begins_s, strict=True)):
            if begin_s is not None and begin_s + segment.duration_s > resume_s:
                return index
        return max(0, len(begins_s) - 1)

    def _first_time_s(
        self, index: int, now_epoch_s: float, resume_s: float | None, known_s: list[float | None]
    ) -> float:
        segments = self._playlist.segments
        if not self.is_live:
            return sum(segment.duration_s for segment in segments[:index])
        date_s = segments[index].captured_epoch_s if index < len(segments) else None
        if date_s is not None:
            self._date_offset_s = 0.0
            return date_s
        if index < len(known_s) and (place_s := known_s[index]) is not None:
            return place_s
        time_s = now_epoch_s - sum(segment.duration_s for segment in segments[index:])
        return time_s if resume_s is None else max(time_s, resume_s + 0.001)

    def _edge_index(self) -> int:
        """Return the segment where playback of a live stream begins."""
        playlist = self._playlist
        total_s = playlist.duration_s
        wanted_s = total_s - EDGE_TARGETS * playlist.target_s
        offset_s = playlist.start_offset_s
        if offset_s is not None:
            wanted_s = offset_s if offset_s >= 0 else total_s + offset_s
        wanted_s = min(max(wanted_s, 0.0), total_s)
        time_s, index = 0.0, 0
        for number, segment in enumerate(playlist.segments):
            # Durations are sums of rounded numbers; a hair's breadth must not cost a whole segment.
            if time_s > wanted_s + 0.001:
                break
            index = number
            time_s += segment.duration_s
        return index

    def _left_s(self) -> float:
        """Return the duration of what is listed and not yet played."""
        first = max(self._next - self._playlist.first_sequence, 0)
        return sum(segment.duration_s for segment in self._playlist.segments[first:])

    def _catch_up(self) -> None:
        """Leave out what makes a live stream ever older."""
        if self._left_s() <= self._allowed_s:
            return
        index = self._edge_index()
        skipped = self._playlist.first_sequence + index - self._next
        if skipped > 0:
            passed = self._playlist.segments[index - skipped : index]
            self._count("segments_behind", skipped)
            self._time_s += sum(segment.duration_s for segment in passed)
            self._jump_to(self._next + skipped)

    def _jump_to(self, sequence: int) -> None:
        self._next = sequence
        self._breaks_run = True

    def _follow_dates(self, segment: Segment) -> None:
        """Move stream time forward where the dates say that something is missing."""
        date_s = segment.captured_epoch_s
        if date_s is None:
            return
        if self._date_offset_s is None:
            self._date_offset_s = self._time_s - date_s
            return
        ahead_s = date_s + self._date_offset_s - self._time_s
        if CLOCK_GAP_S < ahead_s <= GREATEST_GAP_S:
            self._time_s += ahead_s
        elif abs(ahead_s) > CLOCK_GAP_S:
            self._date_offset_s = self._time_s - date_s


def _name(segment: Segment) -> tuple[int, str, ByteRange | None]:
    """Return what tells a segment from others of its playlist, over several openings."""
    return segment.sequence, segment.url, segment.byte_range
