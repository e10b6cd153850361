"""Where a reader is in a Redis stream, and whether the stream was trimmed or made anew under it; pure, no connection.

Redis counts every entry ever added (``entries-added``, since 7.0). A reader that counts along knows how many entries
it never saw; without that counter only the ids tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from freeroam.sources.redis_entries import OLDEST, EntryId


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What ``XINFO STREAM`` says.

    Attributes:
        last_id: The greatest id ever given; the next entry is beyond it.
        first_id: The oldest entry that is still there; None for an empty stream.
        length: Entries that are there.
        added: Entries ever added; None before Redis 7.
    """

    last_id: EntryId
    first_id: EntryId | None
    length: int
    added: int | None

    @classmethod
    def of(cls, answer: Mapping[bytes, Any]) -> Self:
        """Read the server's answer, names to values."""
        first = answer.get(b"first-entry")
        added = answer.get(b"entries-added")
        return cls(
            last_id=EntryId.parse(answer[b"last-generated-id"]) or OLDEST,
            first_id=EntryId.parse(first[0]) if first else None,
            length=int(answer[b"length"]),
            added=None if added is None else int(added),
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at the stream showed.

    Attributes:
        was_recreated: The stream is another one than before; reading begins at its oldest entry.
        missed: Entries that went away unread.
    """

    was_recreated: bool = False
    missed: int = 0


class Place:
    """The cursor of one reader.

    Args:
        cursor: Reading goes on after this id.
        is_new: Whether reading begins here. False where an earlier reader had read all up to ``cursor``.
    """

    def __init__(self, cursor: EntryId, *, is_new: bool) -> None:
        self.cursor = cursor
        self._is_new = is_new
        self._has_read = not is_new
        self._cursor_at_look = cursor
        self._greatest_added = 0
        self._count: int | None = None
        """Entries up to the cursor, of all that were ever added; None while it is not known."""

    def advance(self, entry_id: EntryId) -> None:
        """Note that ``entry_id`` was read."""
        self.cursor = entry_id
        self._has_read = True
        if self._count is not None:
            self._count += 1

    def look(self, info: StreamInfo | None) -> Finding:
        """Compare the stream (None: there is no such key) with what was read of it.

        Moves the cursor to the beginning of a stream that was made anew.
        """
        if info is None:
            if self._is_new:
                self._is_new, self._count = False, 0
            return Finding()
        finding = self._compare(info)
        self._greatest_added = info.added or 0
        self._cursor_at_look = self.cursor
        return finding

    def _compare(self, info: StreamInfo) -> Finding:
        if self._is_new:
            self._is_new = False
            begins_before = info.first_id is None or self.cursor < info.first_id
            self._count = self._gone(info) if begins_before else None
            return Finding()
        if self._has_read and info.last_id < self.cursor:
            self.cursor, self._count = OLDEST, self._gone(info)
            return Finding(was_recreated=True)
        if info.added is not None and info.added < self._greatest_added:
            return self._follow_to_another(info)
        return Finding(missed=self._missed(info))

    def _follow_to_another(self, info: StreamInfo) -> Finding:
        """Go on in a stream made anew whose ids go on beyond the cursor, as ids taken from the clock do."""
        has_read_of_it = self.cursor != self._cursor_at_look
        starts_beyond = info.first_id is None or info.first_id > self._cursor_at_look
        if not has_read_of_it and not starts_beyond:
            self.cursor = OLDEST
        self._count = self._gone(info) if not has_read_of_it else None
        return Finding(was_recreated=True)

    @staticmethod
    def _gone(info: StreamInfo) -> int | None:
        """How many entries were there once and are not now."""
        return None if info.added is None else info.added - info.length

    def _missed(self, info: StreamInfo) -> int:
        counted = self._count
        if info.last_id <= self.cursor:
            self._count = info.added
            return 0 if counted is None or info.added is None else max(0, info.added - counted)
        if info.first_id is not None and self.cursor >= info.first_id:
            return 0
        gone = self._gone(info)
        if info.first_id is None:
            self.cursor = info.last_id
        # How many are gone is known to a reader that counted; to another only that its place is gone, told once.
        self._count = gone
        if counted is None or gone is None:
            return 1
        return max(0, gone - counted)
