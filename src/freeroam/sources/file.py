"""Video from a file under ``MEDIA_ROOT``, read as fast as it is asked for; a picture file is a video of one frame."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from freeroam.clock import Clock
from freeroam.sources.decoding.feed import Feed
from freeroam.sources.decoding.geometry import picture_form
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import FeedShape, milliseconds_id
from freeroam.sources.limits import SourceLimits
from freeroam.sources.source import SourceFacts, SourceRequest
from freeroam.vocabulary.errors import ForbiddenReference, InvalidInput, SourceError, SourceErrorCode
from freeroam.vocabulary.frame import Frame, FrameWish

SCHEME = "file:"
LOCAL_HOSTS = ("", "localhost")


class FileSource:
    """One file, from its beginning or after the frame of ``request.resume_after`` to its end.

    Frames are named by their milliseconds from the start of the file.

    Args:
        request: ``file:name.mp4``, ``file:folder/name.mp4`` or ``file:///absolute/path/under/the/root.mp4``.
        root: ``MEDIA_ROOT``; None allows no file.
        pool: Decodes.
        clock: Says when a frame is handed out.
        limits: Greatest size of a picture.

    Raises:
        InvalidInput: The reference is malformed.
        ForbiddenReference: No root is set, or the reference leads out of it.
    """

    def __init__(
        self,
        request: SourceRequest,
        *,
        root: Path | None,
        pool: DecoderPool,
        clock: Clock,
        limits: SourceLimits | None = None,
    ) -> None:
        self.facts = SourceFacts(kind="file", is_live=False)
        self._request = request
        self._parts = file_parts(request.stream_ref, root)
        self._root = root
        self._pool = pool
        self._clock = clock
        self._limits = limits or SourceLimits()
        self._wish = request.wish
        self._feed: Feed | None = None
        self._skip_until_s = _resume_time(request.resume_after)

    def change_wish(self, wish: FrameWish) -> None:
        """Ask for another rate; the size stays."""
        self._wish = wish
        if self._feed is not None:
            self._feed.change_wish(wish)

    async def frames(self) -> AsyncIterator[Frame]:
        """Give the sampled frames as fast as they are taken.

        Raises:
            SourceError: ``not_found``, ``forbidden`` (a link out of the root, no right to read, no regular file),
                ``no_video``, ``codec``, ``bad_data`` or ``decoder``.
        """
        assert self._root is not None
        reader = await _opened(self._root, self._parts)
        try:
            if picture_form(await reader.read_at(0, 16)) is not None:
                async for frame in self._picture(reader):
                    yield frame
                return
            shape = FeedShape(
                self._wish,
                next_due_s=self._request.resume_due_s,
                skip_until_s=self._skip_until_s,
                starts_at_s=0.0,
                owner=self._request.stream_ref,
            )
            feed = self._feed = self._pool.open_feed(shape, reader)
            async with feed:
                async for decoded in feed.decoded():
                    feed.facts.show_in(self.facts)
                    yield decoded.named(
                        milliseconds_id(decoded.time_s),
                        captured_epoch_s=self._clock.epoch_s(),
                        due_monotonic_s=self._clock.monotonic_s(),
                    )
                feed.facts.show_in(self.facts)
        finally:
            self._feed = None
            await asyncio.to_thread(reader.close)

    async def _picture(self, reader: FileReader) -> AsyncIterator[Frame]:
        """Give a picture file's only frame, unless it was given before."""
        if reader.size_bytes > self._limits.picture_bytes:
            most = self._limits.picture_bytes
            text = f"the picture has {reader.size_bytes} bytes; at most {most} are read (SOURCE_PICTURE_BYTES)"
            raise SourceError(SourceErrorCode.BAD_DATA, text)
        data = await reader.read_at(0, reader.size_bytes)
        self.facts.codec = picture_form(data)
        if self._skip_until_s is not None:
            return
        async with self._pool.open_pictures(self._wish, self._request.stream_ref) as pictures:
            decoded = await pictures.decode(data)
        self.facts.width_px, self.facts.height_px = decoded.source_width_px, decoded.source_height_px
        now_s = self._clock.monotonic_s()
        yield decoded.named("0", captured_epoch_s=self._clock.epoch_s(), due_monotonic_s=now_s)


class FileReader:
    """An open regular file, read at any place off the event loop.

    Args:
        descriptor: Open for reading; owned.
        size_bytes: The file's size.
    """

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        self._descriptor = descriptor
        self._size_bytes = size_bytes
        self._lock = threading.Lock()
        self._is_closed = False

    @classmethod
    def open(cls, root: Path, parts: tuple[str, ...]) -> FileReader:
        """Open the file ``parts`` below ``root``; links are followed as long as they stay below it.

        The path is resolved first and then walked down from the root without following any link, so that a link which
        is put there in between leads nowhere.

        Raises:
            SourceError: ``not_found`` or ``forbidden``.
        """
        shown = "/".join(parts)
        try:
            real_root = root.resolve(strict=True)
            real = real_root.joinpath(*parts).resolve(strict=True)
            if not real.is_relative_to(real_root):
                raise SourceError(SourceErrorCode.FORBIDDEN, f"{shown} leads out of MEDIA_ROOT")
            descriptor = _walk(real_root, real.relative_to(real_root).parts)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceError(SourceErrorCode.NOT_FOUND, f"there is no file {shown} under MEDIA_ROOT") from error
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "it cannot be resolved"
            raise SourceError(SourceErrorCode.FORBIDDEN, f"{shown} cannot be opened: {reason}") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise SourceError(SourceErrorCode.FORBIDDEN, f"{shown} is no regular file")
        return cls(descriptor, status.st_size)

    @property
    def size_bytes(self) -> int:
        """How many bytes the file had when it was opened."""
        return self._size_bytes

    async def read_at(self, offset: int, size: int) -> bytes:
        """Return at most ``size`` bytes from ``offset``; empty at the end.

        Raises:
            SourceError: ``bad_data`` if the disk does not give them.
        """
        return await asyncio.to_thread(self._read, offset, size)

    def close(self) -> None:
        """Close the file, after a read that is under way."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                os.close(self._descriptor)

    def _read(self, offset: int, size: int) -> bytes:
        # The number of a closed descriptor may belong to another file by the time a late thread reads.
        with self._lock:
            if self._is_closed:
                return b""
            try:
                return os.pread(self._descriptor, size, offset)
            except OSError as error:
                raise SourceError(SourceErrorCode.BAD_DATA, f"the file cannot be read: {error.strerror}") from error


async def _opened(root: Path, parts: tuple[str, ...]) -> FileReader:
    """Open a file off the event loop; a thread that a slow disk holds beyond a cancelling closes what it opened."""
    opening = asyncio.ensure_future(asyncio.to_thread(FileReader.open, root, parts))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unclaimed)
        raise


def _close_unclaimed(opening: asyncio.Future[FileReader]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def file_parts(stream_ref: str, root: Path | None) -> tuple[str, ...]:
    """Return the names from the root down to the file; looks at the text only.

    Raises:
        InvalidInput: The reference is malformed.
        ForbiddenReference: No root is set, or the path leads out of it.
    """
    if stream_ref[: len(SCHEME)].lower() != SCHEME:
        raise InvalidInput("a file reference begins with file:")
    text = stream_ref[len(SCHEME) :]
    if text.startswith("//"):
        host, slash, path = text[2:].partition("/")
        if host.lower() not in LOCAL_HOSTS:
            raise InvalidInput("a file reference names no host; write file:name or file:///path")
        text = slash + path
    text = unquote(text)
    if text.startswith("//"):
        text = "/" + text.lstrip("/")
    if "\0" in text or not text.strip("/"):
        raise InvalidInput("a file reference names a file; write file:name.mp4")
    if root is None:
        raise ForbiddenReference("file: references are off; set MEDIA_ROOT to the folder that they may name")
    wanted = PurePosixPath(os.path.normpath(text))
    inside: PurePosixPath | None = wanted
    if wanted.is_absolute():
        bases = (PurePosixPath(os.path.normpath(base)) for base in (root.absolute(), root.resolve()))
        inside = next((wanted.relative_to(base) for base in bases if wanted.is_relative_to(base)), None)
    if inside is None or ".." in inside.parts or not inside.parts:
        raise ForbiddenReference("the file is not under MEDIA_ROOT")
    return inside.parts


def _walk(root: Path, parts: tuple[str, ...]) -> int:
    """Open ``parts`` below ``root`` step by step, following no link; return the file's descriptor."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in parts[:-1]:
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        name = parts[-1] if parts else "."
        # Without O_NONBLOCK a named pipe would hold this thread until somebody writes to it.
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)


def _resume_time(frame_id: str | None) -> float | None:
    if frame_id is None:
        return None
    try:
        return int(frame_id) / 1000.0
    except ValueError as error:
        raise InvalidInput(f"a file has no frame named {frame_id[:40]!r}") from error
