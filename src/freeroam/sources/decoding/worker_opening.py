"""How a decoder process opens what it is given: which containers, which options, which sizes."""

from __future__ import annotations

from dataclasses import dataclass

import av
import av.stream
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from freeroam.sources.decoding.geometry import fitted_size
from freeroam.sources.decoding.worker_input import READ_BYTES, PushInput, SeekInput
from freeroam.vocabulary.errors import SourceError, SourceErrorCode

DEMUXERS = {
    "mpegts": "mpegts",
    "mp4": "mov",
    "matroska": "matroska",
    "flv": "flv",
    "avi": "avi",
    "mpegps": "mpeg",
    "ogg": "ogg",
    "h264": "h264",
    "hevc": "hevc",
}
KNOWN_DEMUXERS = "mpegts,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,flv,avi,mpeg,mpegvideo,ogg,h264,hevc,asf,mpjpeg"
"""What probing may find; without this list a text that lists other addresses would be opened as a playlist."""

BYTES_OPTIONS = {"protocol_whitelist": "none", "format_whitelist": KNOWN_DEMUXERS, "analyzeduration": "3000000"}
SEEK_BACK_S = (0.0, 12.0, 60.0)
"""How far before the wanted time to look for a keyframe, in containers that do not list them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the process was told at its start; see ``DecoderConfig``."""

    max_pixels: int

    def check_size(self, width_px: int, height_px: int) -> None:
        """Refuse pictures that are too large.

        Raises:
            SourceError: ``codec``.
        """
        if width_px * height_px > self.max_pixels:
            text = f"pictures of {width_px}x{height_px} are over the limit of {self.max_pixels} pixels"
            raise SourceError(SourceErrorCode.CODEC, text)


def open_bytes(source: PushInput | SeekInput, container: str | None, limits: Limits) -> InputContainer:
    """Open the demuxer on bytes.

    Args:
        source: Where it reads.
        container: Its name in ``values.CONTAINERS``; None finds out.
        limits: Bounds of this process.

    Raises:
        FFmpegError: It is no such container.
    """
    options = {**BYTES_OPTIONS, "max_pixels": str(limits.max_pixels), "threads": "1"}
    demuxer = None if container is None else DEMUXERS[container]
    opened: InputContainer = av.open(source, "r", demuxer, options=options, buffer_size=READ_BYTES)
    return opened


def video_of(container: InputContainer, limits: Limits, box: tuple[int | None, int | None]) -> VideoStream:
    """Return the first video that is no cover picture, prepared for decoding into ``box``.

    Raises:
        SourceError: ``no_video``, or ``codec``: nothing here decodes it, or its pictures are too large.
    """
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            break
    else:
        raise SourceError(SourceErrorCode.NO_VIDEO, "there is no video in it")
    context = stream.codec_context
    if context is None:
        raise SourceError(SourceErrorCode.CODEC, "no decoder knows the video's codec")
    if context.width * context.height == 0:
        raise SourceError(SourceErrorCode.CODEC, f"the {context.name} video announces no usable picture size")
    limits.check_size(context.width, context.height)
    context.thread_count = 1
    context.options = {"max_pixels": str(limits.max_pixels)}
    if max(fitted_size(context.width, context.height, box)) * 2 <= max(context.width, context.height):
        # B-frames without deblocking, scaled to a half or less, look as with it (54 dB and more) and cost a tenth less.
        # What they refer to keeps it: without, long groups at low rates drift visibly (29 dB).
        context.options |= {"skip_loop_filter": "bidir"}
    return stream


def seek_before(container: InputContainer, stream: VideoStream, wanted_s: float) -> None:
    """Go to a keyframe at or before ``wanted_s`` of the container's own time, or to the beginning."""
    for back_s in SEEK_BACK_S:
        if not _seek_to(container, stream, wanted_s - back_s):
            break
        key_s = first_key_s(container, stream)
        if key_s is not None and key_s <= wanted_s:
            _seek_to(container, stream, wanted_s - back_s)
            return
    _seek_to(container, stream, 0.0)


def _seek_to(container: InputContainer, stream: VideoStream, time_s: float) -> bool:
    """Go to the packet at or before ``time_s``; return whether it could be done."""
    start_s = (container.start_time or 0) / av.time_base
    try:
        container.seek(int(max(time_s, start_s) / float(stream.time_base or 1)), stream=stream, backward=True)
    except FFmpegError:
        return False
    return True


def first_key_s(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the time of the next keyframe; the place in the container is left behind it."""
    for packet in container.demux(stream):
        if packet.size and packet.is_keyframe and packet.pts is not None:
            return packet.pts * float(stream.time_base or 0)
    return None
