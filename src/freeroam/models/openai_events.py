"""The event stream of a spoken answer, read with bounds; https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

from typing import Any

import orjson

from freeroam.models.openai_failures import UpstreamCode, UpstreamError, malformed, said_in, without_key

MAX_EVENT_BYTES = 1024 * 1024
DONE = "[DONE]"


class EventReader:
    """Cuts bytes into the data of events.

    Args:
        where: The address that sends, for errors.
        max_event_bytes: Longest line, and longest event.
    """

    def __init__(self, where: str, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._where = where
        self._max_bytes = max_event_bytes
        self._rest = b""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, received: bytes) -> list[bytes]:
        """Return the data of the events that are whole now.

        Raises:
            UpstreamError: A line or an event is longer than allowed.
        """
        *lines, self._rest = (self._rest + received).split(b"\n")
        whole = [data for line in lines if (data := self._take(line.removesuffix(b"\r"))) is not None]
        if len(self._rest) > self._max_bytes:
            raise malformed(self._where, f"a line of more than {self._max_bytes} bytes")
        return whole

    def end(self) -> list[bytes]:
        """Return what the last event holds, though nothing ended it; some servers leave out the empty line."""
        last = [self._take(self._rest.removesuffix(b"\r")), self._take(b"")]
        self._rest = b""
        return [data for data in last if data is not None]

    def _take(self, line: bytes) -> bytes | None:
        if not line:
            data, self._data, self._data_bytes = self._data, [], 0
            return b"\n".join(data) if data else None
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
            self._data_bytes += len(line)
            if self._data_bytes > self._max_bytes:
                raise malformed(self._where, f"an event of more than {self._max_bytes} bytes")
        return None


def chunk_of(data: bytes, where: str, key: str) -> dict[str, Any] | None:
    """Return the chunk in an event's data; None says that the answer is over.

    Raises:
        UpstreamError: It is no JSON object, or the server reports an error in it.
    """
    if data.strip() == DONE.encode():
        return None
    try:
        chunk = orjson.loads(data)
    except ValueError:
        shown = without_key(data[:100].decode("utf-8", "replace"), key)
        raise malformed(where, f'an event that is no JSON: "{shown}"') from None
    if not isinstance(chunk, dict):
        raise malformed(where, f"an event that is no JSON object but {type(chunk).__name__}")
    if chunk.get("error"):
        said = without_key(said_in(chunk), key)
        raise UpstreamError(
            UpstreamCode.FAILED,
            f'{where} failed in the middle of its answer; it says "{said}"; look into that server\'s log',
            said=said,
        )
    return chunk
