"""How H.264 and H.265 are packed into RTP: units of their own, several in one packet, or one in several."""

from __future__ import annotations

import base64
import binascii
import re
from abc import ABC, abstractmethod
from typing import Protocol

START_CODE = b"\0\0\0\1"
MOST_UNITS_AHEAD = 16
"""Parameter sets and the like that wait for their picture."""


class Unpacker(Protocol):
    """Takes the payloads of one picture after the other.

    Attributes:
        extradata: What the codec must know before the first picture; may be empty.
        size: Bytes of the present picture so far.
    """

    extradata: bytes
    size: int

    def add(self, payload: bytes) -> None:
        """Take the next payload; what cannot be understood of it is passed over."""
        ...

    def lose(self) -> None:
        """Hear that packets are missing here: what was begun before and not ended is forgotten."""
        ...

    def finish(self) -> tuple[bytes, bool]:
        """Return the picture, and whether decoding can begin with it; the next payload begins another."""
        ...


class UnitUnpacker(ABC):
    """What H.264 and H.265 have in common: a picture is units, each behind a start code.

    Args:
        form: The ``fmtp`` parameters of the description.
    """

    header_bytes = 1
    aggregate = fragment = -1
    parameter_fields: tuple[str, ...] = ()

    def __init__(self, form: str) -> None:
        self.extradata = b"".join(
            START_CODE + unit for field in self.parameter_fields for unit in _parameter_sets(form, field)
        )
        self.size = 0
        self._units: list[bytes] = []
        self._fragments: list[bytes] = []
        self._is_key = False

    def add(self, payload: bytes) -> None:
        """Take one unit, an aggregate of several, or a fragment of one."""
        if len(payload) <= self.header_bytes:
            return
        kind = self.kind_of(payload)
        if kind == self.aggregate:
            at = self.header_bytes
            while at + 2 < len(payload):
                size = int.from_bytes(payload[at : at + 2], "big")
                self._add_unit(payload[at + 2 : at + 2 + size])
                at += 2 + size
        elif kind == self.fragment:
            self._add_fragment(payload)
        elif kind < self.aggregate:
            self._add_unit(payload)

    def lose(self) -> None:
        """Forget the fragments of a unit that is not complete."""
        self._fragments = []

    def finish(self) -> tuple[bytes, bool]:
        """Return the units, each behind a start code; parameter sets that came as if alone go with the next picture."""
        self._fragments = []
        if not any(self.is_picture(unit) for unit in self._units):
            del self._units[:-MOST_UNITS_AHEAD]
            self.size = sum(map(len, self._units))
            return b"", False
        data = b"".join(part for unit in self._units for part in (START_CODE, unit))
        is_key, self._is_key = self._is_key, False
        self._units, self.size = [], 0
        return data, is_key

    @abstractmethod
    def kind_of(self, unit: bytes) -> int:
        """Return the type that a unit's header says."""
        ...

    @abstractmethod
    def is_picture(self, unit: bytes) -> bool:
        """Return whether a unit holds a part of a picture."""
        ...

    @abstractmethod
    def begins(self, unit: bytes) -> bool:
        """Return whether decoding can begin with a picture that holds this unit."""
        ...

    @abstractmethod
    def header_of_fragment(self, payload: bytes) -> bytes:
        """Return the header of the unit that a fragment is of."""
        ...

    def _add_unit(self, unit: bytes) -> None:
        if len(unit) < self.header_bytes:
            return
        self._units.append(unit)
        self.size += len(unit)
        self._is_key = self._is_key or self.begins(unit)

    def _add_fragment(self, payload: bytes) -> None:
        marks = payload[self.header_bytes]
        if marks & 0x80:
            self._fragments = [self.header_of_fragment(payload)]
        if not self._fragments:
            return  # its beginning did not come
        self._fragments.append(payload[self.header_bytes + 1 :])
        self.size += len(payload)
        if marks & 0x40:
            fragments, self._fragments = self._fragments, []
            self._add_unit(b"".join(fragments))


class H264Unpacker(UnitUnpacker):
    """Source: RFC 6184, 5.2 to 5.8 (single units, STAP-A, FU-A; the interleaved mode is not asked for)."""

    aggregate, fragment = 24, 28
    parameter_fields = ("sprop-parameter-sets",)

    def kind_of(self, unit: bytes) -> int:
        """Return ``nal_unit_type``."""
        return unit[0] & 0x1F

    def is_picture(self, unit: bytes) -> bool:
        """Return whether it is a slice."""
        return 1 <= self.kind_of(unit) <= 5

    def begins(self, unit: bytes) -> bool:
        """Return whether it is of an IDR picture, or says that the stream recovers here (H.264, D.1.8)."""
        kind = unit[0] & 0x1F
        return kind == 5 or (kind == 6 and _says_recovery(unit))

    def header_of_fragment(self, payload: bytes) -> bytes:
        """Return the importance of the first byte with the type of the second."""
        return bytes([payload[0] & 0xE0 | payload[1] & 0x1F])


class HevcUnpacker(UnitUnpacker):
    """Source: RFC 7798, 4.4 (single units, aggregates, fragments; without decoding order numbers)."""

    header_bytes = 2
    aggregate, fragment = 48, 49
    parameter_fields = ("sprop-vps", "sprop-sps", "sprop-pps")

    def kind_of(self, unit: bytes) -> int:
        """Return ``nal_unit_type``."""
        return unit[0] >> 1 & 0x3F

    def is_picture(self, unit: bytes) -> bool:
        """Return whether it is a slice."""
        return self.kind_of(unit) < 32

    def begins(self, unit: bytes) -> bool:
        """Return whether it is of a picture with which decoding can begin (H.265, table 7-1: 16 to 21)."""
        return 16 <= self.kind_of(unit) <= 21

    def header_of_fragment(self, payload: bytes) -> bytes:
        """Return the two bytes of the header with the type of the third."""
        return bytes([payload[0] & 0x81 | (payload[2] & 0x3F) << 1, payload[1]])


def _says_recovery(unit: bytes) -> bool:
    """Return whether a unit of additional information holds a recovery point (payload type 6)."""
    at = 1
    while at + 1 < len(unit):
        kind = size = 0
        while at < len(unit) and unit[at] == 0xFF:
            kind, at = kind + 255, at + 1
        kind += unit[at] if at < len(unit) else 0
        at += 1
        while at < len(unit) and unit[at] == 0xFF:
            size, at = size + 255, at + 1
        size += unit[at] if at < len(unit) else 0
        at += 1
        if kind == 6:
            return True
        at += size
    return False


def _parameter_sets(form: str, field: str) -> list[bytes]:
    """Return the parameter sets that a field of the description brings; one that is no base64 brings none."""
    found = re.search(rf"(?:^|;)\s*{field}\s*=\s*([^;\s]+)", form, re.IGNORECASE)
    units = []
    for text in found[1].split(",") if found else ():
        try:
            units.append(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            continue
    return [unit for unit in units if unit]
