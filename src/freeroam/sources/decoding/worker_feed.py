"""One feed in a decoder process: a thread that demuxes, chooses, decodes and scales until its run ends or is closed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from freeroam.processes.ring import RingWriter
from freeroam.sources.decoding.nal import PictureReader
from freeroam.sources.decoding.places import Offer
from freeroam.sources.decoding.policy import GroupSelector, LiveSelector, Unit
from freeroam.sources.decoding.worker_input import Closed, Gate, PacketInput, PushInput, SeekInput
from freeroam.sources.decoding.worker_opening import Limits, first_key_s, open_bytes, seek_before, video_of
from freeroam.sources.decoding.worker_rtp import Packet, RtpVideo
from freeroam.sources.decoding.worker_scaling import Pixels, Scaler
from freeroam.vocabulary.cadence import Cadence
from freeroam.vocabulary.errors import SourceError, SourceErrorCode

Video: TypeAlias = VideoStream | RtpVideo

HOPELESS_PACKETS = 250
"""So many refused packets in a row, and the run is given up."""

FACTS_EVERY = 250
DEFAULT_FPS = 25.0


class FeedThread:
    """Decodes one run.

    Args:
        message: The parent's ``open`` message.
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
        self._asked = message
        self._limits = limits
        self._send_now = send
        self._credit: deque[Offer] = deque(message["credit"])
        goes_on = message["skip_until_s"] is not None
        self._cadence = Cadence(1.0 / message["fps"], message["next_due_s"], may_restart=not goes_on)
        self._wished_fps: float | None = None
        self._box = (message["width_px"], message["height_px"])
        self._scaler = Scaler(self._box)
        self._selector: GroupSelector[Packet] | LiveSelector[Packet]
        self._selector = GroupSelector() if message["lookahead"] else LiveSelector()
        self._shift_s = 0.0
        self._reached_s: float | None = None
        self._is_shifted = message["starts_at_s"] is None
        self._packets = self._decoded = self._bad = self._bad_in_row = 0
        self._holds_pictures = False
        self._worked_s = 0.0
        self._facts: dict[str, Any] = {}
        self._size: tuple[int, int] | None = None
        self.input = self._make_input(message["size_bytes"])
        self._thread = threading.Thread(target=self._run, name=f"feed-{self.number}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def add_credit(self, place: Offer) -> None:
        """Let one more frame out, to that place; called by the process's main thread."""
        with self.gate.condition:
            self._credit.append(place)
            self.gate.condition.notify_all()

    def change_fps(self, fps: float) -> None:
        """Change the rate from the next picture on; called by the process's main thread."""
        self._wished_fps = fps

    def _make_input(self, size_bytes: int | None) -> PushInput | SeekInput:
        number = self.number
        if size_bytes is None:
            form = PacketInput if self._asked["container"] == "rtp" else PushInput
            return form(self.gate, lambda count: self._send({"op": "read", "feed": number, "bytes": count}))
        return SeekInput(
            self.gate,
            size_bytes,
            lambda offset, size: self._send({"op": "need", "feed": number, "offset": offset, "size": size}),
        )

    def _send(self, message: dict[str, Any]) -> None:
        """Tell the parent; a parent that is slow to read does not make this feed a hanging one."""
        with self.gate.vitals.waiting():
            self._send_now(message)

    def _run(self) -> None:
        try:
            self._decode_run()
        except Closed:
            return
        except SourceError as error:
            self._tell_end("error", code=error.code, message=error.message)
        except Exception as error:  # whatever a broken stream makes the libraries raise costs its own feed only
            if self.gate.is_closed:
                return
            text = f"the video could not be read: {type(error).__name__}: {_words(error)}"
            self._tell_end("error", code="bad_data", message=text)
        else:
            self._tell_end("over", next_due_s=self._cadence.next_due_s)
        finally:
            # A feed that is read to its end stays open while its last frames are due; it is not stuck.
            self.gate.vitals.is_waiting = True

    def _tell_end(self, op: str, **message: Any) -> None:
        self._send({"op": op, "feed": self.number, "reached_s": self._reached_s, **message})

    def _decode_run(self) -> None:
        if isinstance(self.input, PacketInput):
            video = RtpVideo(self.input, self._limits)
            self._tell_facts(video)
            self._decode_packets(video.packets(), video)
            return
        with self._open(self.input) as container:
            stream = video_of(container, self._limits, self._box)
            self._tell_facts(stream)
            if isinstance(self.input, SeekInput):
                self._seek(container, stream)
            self._decode_packets(container.demux(stream), stream)

    def _open(self, source: PushInput | SeekInput) -> InputContainer:
        """Open the demuxer.

        Raises:
            SourceError: ``bad_data``: it is no container.
        """
        try:
            return open_bytes(source, self._asked["container"], self._limits)
        except FFmpegError as error:
            if self.gate.is_closed:
                raise Closed from error
            text = f"the video could not be opened: {_words(error)}"
            raise SourceError(SourceErrorCode.BAD_DATA, text) from error

    def _seek(self, container: InputContainer, stream: VideoStream) -> None:
        """Go to the keyframe before the first frame that is wanted, on the clock that the first keyframe sets."""
        if self._asked["skip_until_s"] is None:
            return
        # A run from the beginning is on it too; where sound or a cut group comes first the container begins earlier.
        key_s = None if self._is_shifted else first_key_s(container, stream)
        if key_s is not None:
            self._is_shifted = True
            self._shift_s = self._asked["starts_at_s"] - key_s
        seek_before(container, stream, self._asked["skip_until_s"] - self._shift_s)

    def _decode_packets(self, packets: Iterator[Packet], stream: Video) -> None:
        units = _Units(stream)
        failure: SourceError | None = None
        while True:
            try:
                packet = self._next_packet(packets)
            except SourceError as error:
                failure = error
                break
            if packet is None or not packet.size:
                break
            self._packets += 1
            self._apply_wish()
            unit = self._shifted(units.next(packet), stream)
            self._reached_s = unit.time_s
            for step in self._selector.push(unit, packet, self._cadence):
                self._take_step(step, stream)
            if self._packets % FACTS_EVERY == 0:
                self._tell_facts(stream)
        for step in self._selector.finish(self._cadence):
            self._take_step(step, stream)
        self._tell_facts(stream)
        if failure is not None:
            raise failure
        if self._packets == 0 and self._asked["skip_until_s"] is None:
            raise SourceError(SourceErrorCode.NO_VIDEO, "there is no picture in it")

    def _next_packet(self, packets: Iterator[Packet]) -> Packet | None:
        """Return the next packet; None at the end, which for a file that was cut off is where the cut is.

        Raises:
            SourceError: ``bad_data``: what was pushed is no longer readable.
        """
        try:
            packet = next(packets, None)
        except FFmpegError as error:
            if self.gate.is_closed:
                raise Closed from error
            if isinstance(self.input, SeekInput) or isinstance(error, EOFError):
                return None
            raise SourceError(SourceErrorCode.BAD_DATA, f"the video broke off: {_words(error)}") from error
        self.gate.vitals.beat()
        if self.gate.is_closed:
            raise Closed
        return packet

    def _shifted(self, unit: Unit, stream: Video) -> Unit:
        """Return the unit on the clock that was asked for, which the run's first keyframe sets."""
        if not self._is_shifted and unit.is_key:
            self._is_shifted = True
            starts_at_s, follows = self._asked["starts_at_s"], self._asked["follows"]
            if follows is not None and isinstance(stream, RtpVideo):
                pts_s, time_s = follows
                starts_at_s = time_s + stream.passed_s(pts_s, unit.time_s)
            self._shift_s = starts_at_s - unit.time_s
        if not self._shift_s:
            return unit
        return Unit(unit.time_s + self._shift_s, unit.is_key, unit.is_reference, unit.is_closed)

    def _take_step(self, step: Packet | None, stream: Video) -> None:
        """Put a packet through the codec, or have it give out what it holds, and pass samples on."""
        if step is None and not self._holds_pictures:
            return
        started_s = time.monotonic()
        try:
            frames = stream.codec_context.decode(step)
            self._bad_in_row = 0
        except FFmpegError as error:
            frames = []
            self._bad += 1
            self._bad_in_row += 1
            if self._bad_in_row > HOPELESS_PACKETS:
                raise SourceError(SourceErrorCode.BAD_DATA, f"nothing of it decodes: {_words(error)}") from error
        if step is None:
            stream.codec_context.flush_buffers()
            self._holds_pictures = False
        else:
            self._holds_pictures = True
            self._decoded += 1
        self._worked_s += time.monotonic() - started_s
        self.gate.vitals.beat()
        for frame in frames:
            self._offer(frame, stream)

    def _offer(self, frame: VideoFrame, stream: Video) -> None:
        """Send a decoded picture on if a sample is due."""
        pts_s = (frame.pts or 0) * float(stream.time_base or 0)
        time_s = pts_s + self._shift_s
        due_s, cadence = self._cadence.offer(time_s)
        if due_s is None:
            return
        self._cadence = cadence
        until_s = self._asked["skip_until_s"]
        if until_s is not None and time_s <= until_s + 0.0005:
            return
        started_s = time.monotonic()
        self._limits.check_size(frame.width, frame.height)
        aspect = stream.codec_context.sample_aspect_ratio
        pixels, width, height = self._scaler.rgb(frame, float(aspect) if aspect else 1.0)
        self._worked_s += time.monotonic() - started_s
        if (frame.width, frame.height) != self._size:
            self._size = (frame.width, frame.height)
            self._tell_facts(stream)
        at, blobs = self._put(pixels)
        self._send(
            {
                "op": "frame",
                "feed": self.number,
                "width_px": width,
                "height_px": height,
                "pts_s": pts_s,
                "time_s": time_s,
                "due_s": due_s,
                "next_due_s": cadence.next_due_s,
                "source_width_px": frame.width,
                "source_height_px": frame.height,
                "decode_ms": self._worked_s * 1000.0,
                "at": at,
                "blobs": blobs,
            }
        )
        self._worked_s = 0.0

    def _put(self, pixels: Pixels) -> tuple[int | None, list[Pixels]]:
        """Wait for credit and put a frame where it says; return that place, and the frame if it did not go there."""
        with self.gate.condition:
            self.gate.wait_for(lambda: bool(self._credit))
            return self.gate.place(self._credit.popleft(), pixels, self._ring)

    def _apply_wish(self) -> None:
        fps, self._wished_fps = self._wished_fps, None
        if fps is None:
            return
        old = self._cadence
        due_s = None if old.next_due_s is None else old.next_due_s - old.interval_s + 1.0 / fps
        self._cadence = Cadence(1.0 / fps, due_s, old.may_restart)

    def _tell_facts(self, stream: Video) -> None:
        context = stream.codec_context
        width, height = self._size or (context.width, context.height)
        rate = stream.average_rate or stream.guessed_rate
        facts = {
            "codec": context.name,
            "width_px": width or None,
            "height_px": height or None,
            "fps": round(float(rate), 3) if rate else None,
            "decode": self._selector.mode,
            "packets": self._packets,
            "decoded_packets": self._decoded,
            "bad_packets": self._bad + (stream.broken if isinstance(stream, RtpVideo) else 0),
        }
        if facts != self._facts:
            self._facts = facts
            self._send({"op": "facts", "feed": self.number, **facts})


class _Units:
    """Says of each packet what can be known before it is decoded, and gives a time to those without one."""

    def __init__(self, stream: Video) -> None:
        context = stream.codec_context
        self._reader = PictureReader(context.name, context.extradata)
        rate = stream.average_rate or stream.guessed_rate
        self._step_s = 1.0 / float(rate or DEFAULT_FPS)
        self._time_base = float(stream.time_base or 0) or 1.0 / 90_000.0
        self._last_s = -self._step_s

    def next(self, packet: Packet) -> Unit:
        """Return what is known of ``packet``; a missing presentation time is filled in, in the packet too."""
        if packet.pts is None:
            guess = round((self._last_s + self._step_s) / self._time_base)
            packet.pts = guess if packet.dts is None else packet.dts
        time_s = packet.pts * self._time_base
        self._last_s = time_s
        is_key = packet.is_keyframe
        is_reference, is_closed = self._reader.read(memoryview(packet), is_key=is_key)
        return Unit(time_s, is_key, is_reference and not packet.is_disposable, is_closed)


def _words(error: Exception) -> str:
    """Return what FFmpeg says, without the name of the file object."""
    return getattr(error, "strerror", None) or str(error)
