"""Pictures that clients send along with a question: base64 or data URLs in, frames out, decoded in another process."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from freeroam.api.parts import ApiConfig, Parts
from freeroam.batching.batcher import MAX_REQUEST_BYTES
from freeroam.clock import Clock
from freeroam.sources.decoding.geometry import announced_size, fitted_size, picture_form
from freeroam.sources.decoding.places import RGB_BYTES
from freeroam.sources.decoding.values import DecodedFrame, RawShape
from freeroam.vocabulary.errors import (
    FreeroamError,
    InvalidInput,
    SourceError,
    SourceErrorCode,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from freeroam.vocabulary.frame import Frame, FrameWish
from freeroam.vocabulary.inference import Output
from freeroam.vocabulary.model import ModelWishes


@dataclass(frozen=True, slots=True)
class Pixels:
    """A picture that came undone, as rows of RGB without padding."""

    data: memoryview
    width_px: int
    height_px: int


Image = str | bytes | memoryview | Pixels
"""A picture as a client sends it: base64 or a data URL, the file's very bytes where a door carries bytes, or pixels."""

_CHARS_A_TURN = 512 * 1024
"""Characters of base64 that are read before other callers get a turn: well under a millisecond of work, and whole."""


async def read_pictures(
    parts: Parts,
    config: ApiConfig,
    images: Sequence[Image],
    wishes: ModelWishes | None = None,
    hold: Callable[[int], None] | None = None,
) -> tuple[Frame, ...]:
    """Return the frames of a client's pictures, in order; the event loop never decodes one.

    Take a place in the model's queue before (``InferenceCall.bring`` does), so that nothing is decoded for a question
    that would be refused.

    Args:
        parts: The decoders, time and metrics.
        config: The limits.
        images: What came; JPEG, PNG or WebP.
        wishes: The box that the model wants pictures in; None keeps their size.
        hold: Told how many bytes the frames will take before the first is decoded; it may refuse them.

    Raises:
        InvalidInput: Too many; or one is an address, no base64, or broken.
        UnsupportedMedia: One is neither JPEG, PNG nor WebP.
        TooLarge: One has too many pixels, or all together have.
        Unavailable: No decoder runs.
    """
    check_count(len(images), config)
    files = [
        await _file_of(image, f"images.{place}", config.max_pixels, parts.clock) for place, image in enumerate(images)
    ]
    if parts.open_pictures is None:
        raise Unavailable("No decoder runs here")
    box = FrameWish(1.0, wishes.width_px, wishes.height_px) if wishes else FrameWish(1.0)
    sizes = [_size_of(file) for file in files]
    taken_bytes = sum(_frame_bytes(size, box) for size in sizes)
    if taken_bytes > MAX_REQUEST_BYTES:
        raise TooLarge(f"images: their frames are {taken_bytes} bytes; a question may bring {MAX_REQUEST_BYTES}")
    if hold is not None:
        hold(taken_bytes)
    frames = []
    try:
        async with parts.open_pictures(box) as feed:
            for place, (file, size) in enumerate(zip(files, sizes, strict=True)):
                async with parts.picture_room.decoding(size[0] * size[1], config.max_pixels):
                    decoded = await (
                        feed.decode(file.data, _shape(file)) if isinstance(file, Pixels) else feed.decode(file)
                    )
                frames.append(_frame(decoded, place, parts))
    except SourceError as error:
        raise _told(error, len(frames)) from None
    return tuple(frames)


def check_count(count: int, config: ApiConfig) -> None:
    """Hold the pictures of a question to their number.

    Raises:
        InvalidInput: There are more than ``MAX_IMAGES``.
    """
    if count > config.max_images:
        raise InvalidInput(f"images: {count} pictures; a question may bring {config.max_images} (MAX_IMAGES)")


def in_sent_pixels(output: Output, frames: Sequence[Frame]) -> Output:
    """Return an answer about a client's pictures with its boxes in pixels of the newest as it was sent.

    A model is given pictures in the size that it wants, which a client does not know.

    Args:
        output: What the model gave back, its boxes in pixels of the newest frame.
        frames: From ``read_pictures``; may be empty.
    """
    if not frames or not output.predictions:
        return output
    newest = frames[-1]
    across, down = newest.source_width_px / newest.width_px, newest.source_height_px / newest.height_px
    if across == down == 1.0:
        return output
    factors = (across, down, across, down)
    predictions = [
        seen
        if seen.bbox is None
        else seen.model_copy(
            update={"bbox": [round(edge * factor, 1) for edge, factor in zip(seen.bbox, factors, strict=False)]}
        )
        for seen in output.predictions
    ]
    return replace(output, predictions=predictions)


def _size_of(file: bytes | memoryview | Pixels) -> tuple[int, int]:
    return (file.width_px, file.height_px) if isinstance(file, Pixels) else announced_size(file) or (0, 0)


def _frame_bytes(size: tuple[int, int], box: FrameWish) -> int:
    """Return what a picture of that size takes once it fits the box."""
    width_px, height_px = fitted_size(*size, (box.width_px, box.height_px)) if all(size) else (0, 0)
    return width_px * height_px * RGB_BYTES


def _shape(pixels: Pixels) -> RawShape:
    return RawShape(pixels.width_px, pixels.height_px, channels=3)


async def _file_of(image: Image, field: str, max_pixels: int, clock: Clock) -> bytes | memoryview | Pixels:
    """Return the bytes of one picture's file, or its pixels.

    Raises:
        InvalidInput: It is no base64, or an address.
        UnsupportedMedia: It is no picture that is known.
        TooLarge: It announces too many pixels.
    """
    if isinstance(image, Pixels):
        return image
    data = await _decoded(image, field, clock) if isinstance(image, str) else image
    if picture_form(data) is None:
        raise UnsupportedMedia(f"{field} is no JPEG, PNG or WebP picture")
    width_px, height_px = announced_size(data) or (0, 0)
    if width_px * height_px > max_pixels:
        raise TooLarge(f"{field} is {width_px}x{height_px}; a picture may have {max_pixels} pixels (MAX_PIXELS)")
    return data


async def _decoded(text: str, field: str, clock: Clock) -> bytes:
    begin = 0
    if text[:5].lower() == "data:":
        head, comma, _ = text[:300].partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidInput(f"{field} is a data URL without base64; send data:image/jpeg;base64,...")
        begin = len(head) + 1
    elif "://" in text[:20]:
        raise InvalidInput(
            f"{field} is an address; pictures are not fetched from addresses, send base64 or a data URL instead"
        )
    if "\n" in text or "\r" in text:
        text = "".join(text[begin:].split())
        begin = 0
    parts = []
    try:
        for start in range(begin, len(text), _CHARS_A_TURN):
            if start > begin:
                # Long texts are read in pieces, because the interpreter lock is held while one is read.
                await clock.sleep(0)
            piece = text[start : start + _CHARS_A_TURN]
            is_last = start + _CHARS_A_TURN >= len(text)
            parts.append(base64.b64decode(_padded(piece) if is_last else piece, validate=True))
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{field} is no base64") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)


def _frame(decoded: DecodedFrame, place: int, parts: Parts) -> Frame:
    return Frame(
        pixels=decoded.pixels,
        width_px=decoded.width_px,
        height_px=decoded.height_px,
        frame_id=str(place),
        stream_time_s=0.0,
        sample_time_s=0.0,
        captured_epoch_s=parts.clock.epoch_s(),
        due_monotonic_s=parts.clock.monotonic_s(),
        source_width_px=decoded.source_width_px,
        source_height_px=decoded.source_height_px,
        decode_ms=decoded.decode_ms,
    )


def _told(error: SourceError, place: int) -> FreeroamError:
    """Return what a caller is told of a picture that could not be decoded."""
    if error.source_code is SourceErrorCode.DECODER:
        return Unavailable(f"The picture could not be decoded now: {error.message}")
    return InvalidInput(f"images.{place}: {error.message}")
