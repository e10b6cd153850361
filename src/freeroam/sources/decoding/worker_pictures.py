"""Single pictures in a decoder process: a thread that decodes JPEG, PNG and WebP and scales raw pixels, one by one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import av
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from freeroam.processes.ring import RingWriter
from freeroam.sources.decoding.geometry import announced_size, fitted_size, picture_form
from freeroam.sources.decoding.worker_input import Closed, Gate
from freeroam.sources.decoding.worker_opening import Limits
from freeroam.sources.decoding.worker_scaling import Pixels, Scaler, quarter_turns
from freeroam.vocabulary.errors import SourceError, SourceErrorCode

RAW_FORMATS = {1: "gray", 3: "rgb24", 4: "rgba"}
JPEG_HALVINGS = 3
"""A JPEG decoder can give the picture at a half, a quarter or an eighth of its size for a fraction of the work."""


class PictureThread:
    """Decodes the pictures of one ``PictureFeed`` in order.

    Args:
        message: The parent's ``pictures`` message.
        limits: Bounds of this process.
        send: Sends a message to the parent; may be called from any thread.
        ring: Where frames are written; None sends them as bytes.
    """

    def __init__(
        self,
        message: dict[str, Any],
        limits: Limits,
        send: Callable[[dict[str, Any]], None],
        ring: RingWriter | None,
    ) -> None:
        self.number: int = message["feed"]
        self._ring = ring
        self.gate = Gate()
        self._box = (message["width_px"], message["height_px"])
        self._limits = limits
        self._send = send
        self._asked: deque[dict[str, Any]] = deque()
        self._contexts: dict[tuple[str, int], VideoCodecContext] = {}
        self._scaler = Scaler(self._box)
        self._thread = threading.Thread(target=self._run, name=f"pictures-{self.number}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def push(self, message: dict[str, Any]) -> None:
        """Take a picture; called by the process's main thread."""
        with self.gate.condition:
            self._asked.append(message)
            self.gate.condition.notify_all()

    def _run(self) -> None:
        while True:
            try:
                with self.gate.condition:
                    self.gate.wait_for(lambda: bool(self._asked))
                    message = self._asked.popleft()
            except Closed:
                return
            answer: dict[str, Any]
            try:
                answer, pixels = self._decode(message["blobs"][0], message["raw"])
                with self.gate.condition:
                    answer["at"], answer["blobs"] = self.gate.place(message["place"], pixels, self._ring)
            except Closed:
                return
            except SourceError as error:
                answer = {"op": "error", "code": error.code, "message": error.message}
            except Exception as error:  # whatever a broken picture makes the libraries raise costs that picture only
                words = getattr(error, "strerror", None) or str(error)
                answer = {"op": "error", "code": "bad_data", "message": f"the picture is broken: {words}"}
            at = None if message["place"] is None else message["place"][0]
            self._send({"at": at, **answer, "feed": self.number, "name": message["name"]})

    def _decode(self, data: memoryview, raw: list[int] | None) -> tuple[dict[str, Any], Pixels]:
        started_s = time.monotonic()
        if raw is None:
            frame, size = self._coded(data)
        else:
            frame, size = self._raw(data, *raw)
        pixels, width, height = self._scaler.rgb(frame)
        if quarter_turns(frame) % 2:
            # Upright, as the pixels are, so that what is found in them can be told in pixels of the picture.
            size = (size[1], size[0])
        answer = {
            "op": "frame",
            "width_px": width,
            "height_px": height,
            "source_width_px": size[0],
            "source_height_px": size[1],
            "decode_ms": (time.monotonic() - started_s) * 1000.0,
        }
        return answer, pixels

    def _coded(self, data: memoryview) -> tuple[VideoFrame, tuple[int, int]]:
        form, size = picture_form(data), announced_size(data)
        if form is None:
            raise SourceError(SourceErrorCode.BAD_DATA, "this is no JPEG, PNG or WebP picture")
        if size is None or size[0] * size[1] == 0:
            raise SourceError(SourceErrorCode.BAD_DATA, f"the {form} picture does not say its size")
        self._check_size(*size)
        context = self._context(form, self._halvings(size) if form == "mjpeg" else 0)
        try:
            frames = context.decode(av.Packet(bytes(data)))
            if not frames:
                frames = context.decode(None)
                context.flush_buffers()
        except FFmpegError:
            self._contexts.clear()
            raise
        if not frames:
            raise SourceError(SourceErrorCode.BAD_DATA, f"the {form} picture holds no picture")
        return frames[0], size

    def _raw(self, data: memoryview, width: int, height: int, channels: int) -> tuple[VideoFrame, tuple[int, int]]:
        if channels not in RAW_FORMATS or width <= 0 or height <= 0:
            text = f"raw pixels of {width}x{height} with {channels} channels are no picture; channels: 1, 3 or 4"
            raise SourceError(SourceErrorCode.BAD_DATA, text)
        self._check_size(width, height)
        expected = width * height * channels
        if len(data) != expected:
            text = f"{len(data)} bytes are not the {expected} of {width}x{height} with {channels} channels"
            raise SourceError(SourceErrorCode.BAD_DATA, text)
        import numpy as np

        shape = (height, width) if channels == 1 else (height, width, channels)
        frame = VideoFrame.from_ndarray(np.frombuffer(data, np.uint8).reshape(shape), format=RAW_FORMATS[channels])
        return frame, (width, height)

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            text = f"a picture of {width}x{height} is over the limit of {self._limits.max_pixels} pixels"
            raise SourceError(SourceErrorCode.BAD_DATA, text)

    def _halvings(self, size: tuple[int, int]) -> int:
        """Return how often a JPEG may be halved while decoding and still be no smaller than it is wanted."""
        width, height = fitted_size(*size, self._box)
        halvings = 0
        while halvings < JPEG_HALVINGS and size[0] >> (halvings + 1) >= width and size[1] >> (halvings + 1) >= height:
            halvings += 1
        return halvings

    def _context(self, form: str, halvings: int) -> VideoCodecContext:
        context = self._contexts.get((form, halvings))
        if context is None:
            created = av.CodecContext.create(form, "r")
            assert isinstance(created, VideoCodecContext)
            context = created
            context.thread_count = 1
            # A picture that was cut off is an error, not a picture with a grey rest.
            context.options = {"max_pixels": str(self._limits.max_pixels), "err_detect": "explode"}
            if halvings:
                context.options |= {"lowres": str(halvings)}
            self._contexts[form, halvings] = context
        return context
