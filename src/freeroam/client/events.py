"""Bytes in, server-sent events out (WHATWG HTML, "Server-sent events", 9.2.6), as they come over a wire."""

from __future__ import annotations

import re
from dataclasses import dataclass

from freeroam.vocabulary.errors import FreeroamError

MAX_EVENT_BYTES = 64 * 2**20
"""Longest event that is taken; a server that sends more without an end sends no events."""

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event.

    Attributes:
        kind: Its name; ``message`` if it has none.
        data: Its lines, joined.
        id: As given in this event; None if it gives none.
    """

    kind: str
    data: bytes
    id: str | None = None


class EventReader:
    """Reads events out of bytes, however they are cut into pieces.

    Attributes:
        retry_s: How long the server wants a reader to wait before it connects again; None until it says so.
    """

    def __init__(self) -> None:
        self.retry_s: float | None = None
        self._rest = b""
        self._is_after_return = False
        self._kind = ""
        self._data: list[bytes] = []
        self._id: str | None = None
        self._held_bytes = 0

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Take what came and return the events that are complete with it.

        Raises:
            FreeroamError: An event has no end within ``MAX_EVENT_BYTES``.
        """
        if self._is_after_return and data.startswith(b"\n"):
            data = data[1:]
        text = self._rest + data
        self._is_after_return = text.endswith(b"\r")
        lines = _LINE_END.split(text)
        self._rest = lines.pop()
        events = []
        for line in lines:
            if line:
                self._take(line)
            elif (event := self._end()) is not None:
                events.append(event)
        if len(self._rest) + self._held_bytes > MAX_EVENT_BYTES:
            raise FreeroamError(f"The server sends an event of more than {MAX_EVENT_BYTES} bytes", code="bad_answer")
        return events

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._held_bytes += len(value)
        elif name == b"event":
            self._kind = value.decode(errors="replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit():
            self.retry_s = int(value[:9]) / 1000.0

    def _end(self) -> ServerEvent | None:
        event = ServerEvent(self._kind or "message", b"\n".join(self._data), self._id) if self._data else None
        self._kind, self._data, self._id, self._held_bytes = "", [], None, 0
        return event
