"""The contract of a source: it gives frames until it ends or raises, and it never retries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from freeroam.vocabulary.frame import Frame, FrameWish
from freeroam.vocabulary.job import SourceOptions


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """What is to be opened.

    Attributes:
        stream_ref: The reference as the user gave it; may hold credentials.
        wish: Rate and size of the frames asked for.
        options: The user's whitelist of source settings.
        resume_after: ``frame_id`` of the last frame that is safely stored; reading goes on after it where the source
            can go back (Redis, files), else from now.
        resume_due_s: The next due time of the sampling grid at that frame, so that its phase survives a restart.
        resume_place: The ``SourceFacts.place`` of the opening before; None at the first of this process.
        waits: True when frames must not be dropped (policy ``block``): the source reads only as fast as it is read.
    """

    stream_ref: str
    wish: FrameWish
    options: SourceOptions = field(default_factory=SourceOptions)
    resume_after: str | None = None
    resume_due_s: float | None = None
    resume_place: object = None
    waits: bool = False


@dataclass(slots=True)
class SourceFacts:
    """What is known of an open source; filled in as it becomes known.

    Attributes:
        kind: ``hls``, ``rtsp``, ``redis``, ``mjpeg``, ``snapshot``, ``http``, ``file`` or ``demo``.
        is_live: Whether it goes on without end and is handed out at the pace of stream time.
        may_be_quiet: Whether silence is normal, so that no stall is declared (Redis, push).
        codec: As FFmpeg names it.
        width_px: Before scaling.
        height_px: Before scaling.
        fps: Native rate.
        variant: The rendition chosen, e.g. ``1280x720 2000 kbit/s``.
        variants: All renditions offered, where there are several.
        decode: ``keyframes``, ``references`` or ``all``.
        skipped: Entries, segments or packets passed over, by reason.
        last_bad: The latest passed-over entry's name and reason, for the job's status and log.
        plans_ahead: Whether what comes next is settled at the rate asked for before: frames decoded ahead that wait
            until they are due, or a fetch that waits for its time. Set when that begins.
        place: What the next opening must know to go on exactly after the last frame, beyond its name; only the kind of
            source that wrote it understands it.
    """

    kind: str
    is_live: bool
    may_be_quiet: bool = False
    codec: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    fps: float | None = None
    variant: str | None = None
    decode: str | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    last_bad: str | None = None
    variants: list[str] = field(default_factory=list)
    plans_ahead: bool = False
    place: object = None

    def count_skipped(self, reason: str, amount: int = 1) -> None:
        """Count what was passed over."""
        self.skipped[reason] = self.skipped.get(reason, 0) + amount


class Source(Protocol):
    """One video, opened once.

    Life: construct (no work), iterate ``frames()`` once, ``aclose()`` the iterator (or exhaust it). Closing releases
    sockets, decoder slots and tasks within a second, also in the middle of a connect.
    """

    facts: SourceFacts

    def frames(self) -> AsyncIterator[Frame]:
        """Give sampled frames, oldest first, each already scaled to the wish.

        Live sources hand a frame out when it is due (pace of stream time); others as fast as they are read.
        Returns when the video ended for good.

        Raises:
            SourceError: Video did not come, or broke off.
        """
        ...

    def change_wish(self, wish: FrameWish) -> None:
        """Ask for another rate from the next frame on; the size of an open source stays."""
        ...


class SourceFactory(Protocol):
    """What ``opening.py`` finds for a form of reference, and what an entry point ``freeroam.sources`` must be."""

    def __call__(self, request: SourceRequest) -> Source:
        """Build the source without opening anything.

        Raises:
            InvalidInput: The reference is malformed.
            ForbiddenReference: Policy forbids it, as far as its text tells.
        """
        ...
