"""Tensors on the wire: what may come in, checked before it is believed, and what goes out, as values or as bytes.

Only two data types are of use to our models as input, text or encoded pictures (``BYTES``) and pixels (``UINT8``); the
layout of both is the protocol's binary tensor extension: ``BYTES`` elements each after their length as a little-endian
32-bit number, numbers row-major and little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from freeroam.vocabulary.errors import InvalidInput

MAX_DIMENSIONS = 8
MAX_ELEMENTS = 2**31
"""Elements of one tensor; more could not come in one message."""

MAX_LISTED = 1_000_000
"""Elements of one tensor that may be written out in JSON, which costs the event loop a few milliseconds."""

MAX_TEXTS = 1024
"""Elements of one ``BYTES`` tensor: texts or pictures."""

READABLE = frozenset({"BYTES", "UINT8"})
KNOWN = READABLE | frozenset(
    {"BOOL", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16"}
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a request.

    Attributes:
        name: Of the model's input.
        datatype: ``BYTES`` or ``UINT8``.
        shape: Elements along each dimension; the product fits ``data``.
        data: One entry an element for ``BYTES``; else the elements, row-major, one byte each.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[bytes] | bytes | memoryview


@dataclass(frozen=True, slots=True)
class Answered:
    """A tensor of an answer.

    Attributes:
        name: Of the model's output.
        datatype: ``BYTES`` or ``FP32``.
        shape: Elements along each dimension.
        values: Texts or numbers, row-major.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[str] | Sequence[float]

    def listed(self) -> list[Any]:
        """Return the elements as JSON carries them."""
        return list(self.values)

    def packed(self) -> bytes:
        """Return the elements in the binary layout of the protocol."""
        if self.datatype == "BYTES":
            return b"".join(_with_length(str(value).encode("utf-8", "replace")) for value in self.values)
        return struct.pack(f"<{len(self.values)}f", *(float(value) for value in self.values))


def read_packed(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Tensor:
    """Return the tensor whose elements lie in ``raw`` in the binary layout.

    Raises:
        InvalidInput: The data type, the shape and the bytes do not fit together.
    """
    count = _check(name, datatype, shape)
    if datatype == "UINT8":
        if len(raw) != count:
            raise InvalidInput(f"input {name!r} has shape {_shown(shape)}, that is {count} bytes; {len(raw)} came")
        return Tensor(name, datatype, tuple(shape), raw)
    texts = _split(name, memoryview(raw), count)
    return Tensor(name, datatype, tuple(shape), texts)


def read_listed(name: str, datatype: str, shape: Sequence[int], values: Any) -> Tensor:
    """Return the tensor whose elements are ``values``, a flat list or one nested as ``shape`` says.

    Raises:
        InvalidInput: The data type, the shape and the values do not fit together.
    """
    count = _check(name, datatype, shape)
    flat = _flatten(name, values, shape)
    if len(flat) != count:
        raise InvalidInput(f"input {name!r} has shape {_shown(shape)}, that is {count} elements; {len(flat)} came")
    if datatype == "BYTES":
        return Tensor(name, datatype, tuple(shape), [_as_bytes(name, value) for value in flat])
    if not all(type(value) is int for value in flat):
        raise InvalidInput(f"input {name!r} is UINT8: every element is a whole number from 0 to 255")
    try:
        return Tensor(name, datatype, tuple(shape), bytes(flat))
    except ValueError:
        raise InvalidInput(f"input {name!r} is UINT8: an element is not in 0 to 255") from None


def read_elements(name: str, shape: Sequence[int], elements: list[bytes]) -> Tensor:
    """Return the ``BYTES`` tensor of these elements.

    Raises:
        InvalidInput: The shape says another number.
    """
    count = _check(name, "BYTES", shape)
    if len(elements) != count:
        raise InvalidInput(f"input {name!r} has shape {_shown(shape)}, that is {count} elements; {len(elements)} came")
    return Tensor(name, "BYTES", tuple(shape), elements)


def read_shape(name: str, shape: Any) -> tuple[int, ...]:
    """Return a shape that came as JSON.

    Raises:
        InvalidInput: It is no list of whole numbers, has too many dimensions, or is absurdly large.
    """
    if not isinstance(shape, list) or not all(type(length) is int for length in shape):
        raise InvalidInput(f"the shape of input {name!r} must be a list of whole numbers")
    _count_elements(name, shape)
    return tuple(shape)


def _check(name: str, datatype: str, shape: Sequence[int]) -> int:
    """Return how many elements a tensor has."""
    if datatype not in KNOWN:
        raise InvalidInput(f"input {name!r}: there is no data type {datatype[:40]!r}")
    if datatype not in READABLE:
        raise InvalidInput(f"input {name!r} is {datatype}; expected BYTES (text, encoded pictures) or UINT8 (pixels)")
    count = _count_elements(name, shape)
    if datatype == "BYTES" and count > MAX_TEXTS:
        raise InvalidInput(f"input {name!r} has {count} elements; at most {MAX_TEXTS} may come as BYTES")
    return count


def _count_elements(name: str, shape: Sequence[int]) -> int:
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidInput(f"input {name!r} has {len(shape)} dimensions; at most {MAX_DIMENSIONS} may be given")
    if any(length < 0 for length in shape):
        raise InvalidInput(f"input {name!r} has the shape {_shown(shape)}; no dimension may be negative")
    # Each length first, so that no product of absurd numbers is ever made.
    if any(length > MAX_ELEMENTS for length in shape) or (count := math.prod(shape)) > MAX_ELEMENTS:
        raise InvalidInput(f"input {name!r} has the shape {_shown(shape)}, more than {MAX_ELEMENTS} elements")
    return count


def _flatten(name: str, values: Any, shape: Sequence[int]) -> list[Any]:
    """Return the elements of a list that is flat or nested as deep as the shape has dimensions."""
    if not isinstance(values, list):
        raise InvalidInput(f"the data of input {name!r} must be a list")
    flat = values
    for _ in range(max(0, len(shape) - 1)):
        if not flat or not isinstance(flat[0], list):
            break
        if not all(isinstance(inner, list) for inner in flat):
            raise InvalidInput(f"the data of input {name!r} is nested unevenly")
        flat = list(chain.from_iterable(flat))
        if len(flat) > MAX_LISTED:
            break
    if len(flat) > MAX_LISTED:
        raise InvalidInput(f"input {name!r} lists more than {MAX_LISTED} elements in JSON; send it as binary data")
    return flat


def _as_bytes(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise InvalidInput(f"input {name!r} is BYTES: in JSON every element is a text; send other bytes as binary data")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"input {name!r} holds half of a surrogate pair, which is no text") from None


def _split(name: str, raw: memoryview, count: int) -> list[bytes]:
    """Return the ``BYTES`` elements of ``raw``."""
    texts: list[bytes] = []
    at = 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise InvalidInput(f"the bytes of input {name!r} end within the length of element {len(texts)}")
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4
        if at + length > len(raw):
            raise InvalidInput(f"the bytes of input {name!r} end within element {len(texts)}, which has {length} bytes")
        if len(texts) == count:
            raise InvalidInput(f"input {name!r} says {count} elements; its bytes hold more")
        texts.append(bytes(raw[at : at + length]))
        at += length
    if len(texts) != count:
        raise InvalidInput(f"input {name!r} says {count} elements; its bytes hold {len(texts)}")
    return texts


def _with_length(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def _shown(shape: Sequence[int]) -> str:
    return f"[{', '.join(str(length)[:20] for length in shape[:MAX_DIMENSIONS])}]"
