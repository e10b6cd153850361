"""How VP8, VP9 and MPEG-4 are packed into RTP: cut into pieces, each behind a short descriptor or none."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

_VOP_START = b"\0\0\1\xb6"


class WholeUnpacker(ABC):
    """What these have in common: the pieces of a picture are joined as they come.

    Args:
        form: The ``fmtp`` parameters of the description.
    """

    def __init__(self, form: str) -> None:
        self.extradata = self.extradata_of(form)
        self.size = 0
        self._pieces: list[bytes] = []
        self._is_lost = False

    def add(self, payload: bytes) -> None:
        """Take the next piece."""
        if not self._pieces and not self.is_first(payload):
            self._is_lost = True
        piece = payload[self.descriptor_bytes(payload) :]
        self._pieces.append(piece)
        self.size += len(piece)

    def lose(self) -> None:
        """Remember that the picture that has begun has a hole: such a picture cannot be decoded."""
        self._is_lost = bool(self._pieces)

    def finish(self) -> tuple[bytes, bool]:
        """Return the joined pieces; nothing of a picture with a hole."""
        data = b"" if self._is_lost else b"".join(self._pieces)
        self._pieces, self.size, self._is_lost = [], 0, False
        return data, bool(data) and self.begins(data)

    def extradata_of(self, form: str) -> bytes:  # noqa: ARG002 - most know none
        """Return what the description says of the codec."""
        return b""

    @abstractmethod
    def is_first(self, payload: bytes) -> bool:
        """Return whether a picture begins with this payload."""
        ...

    @abstractmethod
    def descriptor_bytes(self, payload: bytes) -> int:
        """Return how much of a payload stands before the piece."""
        ...

    @abstractmethod
    def begins(self, data: bytes) -> bool:
        """Return whether decoding can begin with this picture."""
        ...


class Vp8Unpacker(WholeUnpacker):
    """Source: RFC 7741, 4.2 (descriptor) and RFC 6386, 9.1 (frame tag: the lowest bit is 0 in key frames)."""

    def is_first(self, payload: bytes) -> bool:
        """Return whether the first partition begins here."""
        return payload[0] & 0x1F == 0x10

    def descriptor_bytes(self, payload: bytes) -> int:
        """Return the length of the payload descriptor."""
        if not payload[0] & 0x80 or len(payload) < 2:
            return 1
        more, at = payload[1], 2
        if more & 0x80:
            at += 2 if len(payload) > at and payload[at] & 0x80 else 1
        at += bool(more & 0x40)
        return at + bool(more & 0x30)

    def begins(self, data: bytes) -> bool:
        """Return whether it is a key frame."""
        return not data[0] & 1


class Vp9Unpacker(WholeUnpacker):
    """Source: RFC 9628, 4.2 (descriptor); VP9 bitstream, 6.2 (uncompressed header)."""

    def is_first(self, payload: bytes) -> bool:
        """Return whether a frame begins here."""
        return bool(payload[0] & 0x08)

    def descriptor_bytes(self, payload: bytes) -> int:
        """Return the length of the payload descriptor."""
        flags, at = payload[0], 1
        if flags & 0x80:
            at += 2 if len(payload) > at and payload[at] & 0x80 else 1
        if flags & 0x20:
            at += 1 if flags & 0x10 else 2
        if flags & 0x10 and flags & 0x40:
            for _ in range(3):
                at += 1
                if len(payload) < at or not payload[at - 1] & 1:
                    break
        if flags & 0x02 and len(payload) > at:
            at += _scalability_bytes(payload, at)
        return at

    def begins(self, data: bytes) -> bool:
        """Return whether it is a key frame: no repeated one, and of frame type 0."""
        shift = 5 if data[0] & 0x30 == 0x30 else 4
        bits = data[0] << shift & 0xFF
        return not bits & 0xC0


class Mpeg4Unpacker(WholeUnpacker):
    """Source: RFC 6416, 5 (no descriptor, ``config`` in hexadecimal); MPEG-4 part 2, 6.2.5 (coding type 0: intra)."""

    def extradata_of(self, form: str) -> bytes:
        """Return the configuration that the description brings."""
        found = re.search(r"(?:^|;)\s*config\s*=\s*((?:[0-9a-f]{2})+)", form, re.IGNORECASE)
        return bytes.fromhex(found[1]) if found else b""

    def is_first(self, payload: bytes) -> bool:
        """Return whether a start code stands here."""
        return payload.startswith(b"\0\0\1")

    def descriptor_bytes(self, payload: bytes) -> int:  # noqa: ARG002 - there is none
        """Return 0."""
        return 0

    def begins(self, data: bytes) -> bool:
        """Return whether its first plane is coded by itself."""
        at = data.find(_VOP_START)
        return 0 <= at < len(data) - 4 and not data[at + 4] & 0xC0


def _scalability_bytes(payload: bytes, begin: int) -> int:
    """Return the length of VP9's scalability structure, which begins at ``begin``."""
    flags, at = payload[begin], begin + 1
    if flags & 0x10:
        at += 4 * ((flags >> 5) + 1)
    if flags & 0x08 and len(payload) > at:
        pictures = payload[at]
        at += 1
        for _ in range(pictures):
            if len(payload) <= at:
                break
            at += 1 + (payload[at] >> 2 & 3)
    return at - begin
