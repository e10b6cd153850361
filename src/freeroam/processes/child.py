"""A child process: started by ``python -m``, spoken to over a wire, never outliving its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from freeroam.observability.logs import get_logger
from freeroam.processes.wire import Wire, socket_pair

_LINES_PER_CHUNK = 20
_LINE_CHARS = 2000
_CHUNK_BYTES = 16 * 1024
_LAST_LINES = 20
_LAST_WORDS_S = 0.5

log = get_logger(__name__)


def thread_environment(threads: int) -> dict[str, str]:
    """Return the variables that hold the native thread pools of numeric libraries to ``threads`` threads each."""
    count = str(max(1, threads))
    return {
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "NUMEXPR_NUM_THREADS": count,
        "VECLIB_MAXIMUM_THREADS": count,
    }


class ChildProcess:
    """One child. ``start`` makes it; ``aclose`` ends it and everything that belongs to it.

    What it prints, on either channel, goes line by line into our log. It has a session of its own, so Ctrl-C in the
    terminal reaches only the parent. When it dies, ``wire.receive()`` gives what it still said and then None.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, wire: Wire, lifeline_fd: int, output_fd: int, name: str
    ) -> None:
        self._process = process
        self._lifeline_fd: int | None = lifeline_fd
        self._pidfd = _descriptor_of(process.pid)
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self.wire = wire
        self.name = name
        self._printing = asyncio.create_task(self._log_lines(output_fd), name=f"{name}-output")
        self._watching = asyncio.create_task(self._watch(), name=f"{name}-exit")

    @classmethod
    async def start(
        cls,
        module: str,
        args: Sequence[str] = (),
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> ChildProcess:
        """Start ``python -m module *args`` with a wire and a lifeline.

        The child finds modules where this process does, whether or not that is how a fresh interpreter would look.

        Args:
            module: A module whose ``__main__`` part calls ``processes.lifeline.connect(sys.argv[1:])``.
            args: Arguments before the two descriptors that ``connect`` reads.
            name: For the log.
            env: Variables on top of this process's own.
            pass_fds: Descriptors that it inherits under the same numbers.

        Raises:
            OSError: The system gave no process, descriptor or memory.
        """
        ours, theirs = socket_pair()
        lifeline_read, lifeline_write = os.pipe()
        # A pipe of our own: asyncio takes a process for alive while anybody, a grandchild too, holds one of its pipes.
        output_read, output_write = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the search path below is complete; the working folder must not shadow a library
                "-m",
                module,
                *args,
                str(theirs.fileno()),
                str(lifeline_read),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output_write,
                stderr=output_write,
                pass_fds=(theirs.fileno(), lifeline_read, *pass_fds),
                env=_environment(env or {}),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            os.close(lifeline_write)
            os.close(output_read)
            raise
        finally:
            theirs.close()
            os.close(lifeline_read)
            os.close(output_write)
        return cls(process, Wire(ours), lifeline_write, output_read, name)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it lives."""
        return self._process.returncode

    @property
    def stands_still(self) -> bool:
        """Whether none of its threads runs or could run: it was stopped, or all of them wait; False where unknown."""
        try:
            return not any(_is_at_work(task) for task in Path(f"/proc/{self.pid}/task").iterdir())
        except OSError:  # no /proc, or it has just ended
            return False

    @property
    def last_lines(self) -> list[str]:
        """The last lines that it printed, oldest first; what a crash report can show."""
        return list(self._last_lines)

    async def wait(self) -> int:
        """Wait for its end; return the exit status."""
        await asyncio.shield(self._watching)
        return await self._process.wait()

    def terminate(self) -> None:
        """Send SIGTERM; nothing if it has ended."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, which ends a stopped process too; nothing if it has ended."""
        self._signal(signal.SIGKILL)

    async def aclose(self, grace_s: float = 0.0) -> None:
        """End it: close the wire, which is the polite word, and kill it if it lives after ``grace_s`` seconds."""
        self.wire.close()
        try:
            if grace_s > 0 and self.returncode is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace_s):
                        await self.wait()
        finally:
            self.kill()
            self._cut_lifeline()
            await asyncio.shield(self._end())

    def _signal(self, number: signal.Signals) -> None:
        """Signal by descriptor, which names this process even when its number is in use again.

        The methods of ``asyncio``'s process are of no use: they reap a process that has just ended, and then its exit
        status is lost.
        """
        if self.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            else:
                os.kill(self.pid, number)

    async def _end(self) -> None:
        await self._watching
        # What it still said is in the pipe; a grandchild outside its group may hold that open for ever.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await asyncio.shield(self._printing)
        self._printing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._printing

    async def _watch(self) -> None:
        status = await self._process.wait()
        self.wire.finish()
        self._cut_lifeline()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        # It led a session of its own, so what it started and left behind is in its group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.wire.failure is not None:
            log.error("wire_broken", child=self.name, pid=self.pid, why=self.wire.failure)
        log.debug("child_ended", child=self.name, pid=self.pid, status=status)

    def _cut_lifeline(self) -> None:
        if self._lifeline_fd is not None:
            os.close(self._lifeline_fd)
            self._lifeline_fd = None

    async def _log_lines(self, output_fd: int) -> None:
        loop = asyncio.get_running_loop()
        output = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(output_fd, "rb", buffering=0)
        )
        rest = b""
        try:
            while chunk := await output.read(_CHUNK_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _CHUNK_BYTES:
                    lines, rest = [*lines, rest], b""
                self._log_chunk(lines)
            if rest:
                self._log_chunk([rest])
        finally:
            transport.close()

    def _log_chunk(self, lines: list[bytes]) -> None:
        """Log a few lines of what came at once and count the rest, so that a chatty child cannot flood the log."""
        texts = [line.decode("utf-8", "replace").rstrip()[:_LINE_CHARS] for line in lines]
        texts = [text for text in texts if text]
        self._last_lines.extend(texts)
        for text in texts[:_LINES_PER_CHUNK]:
            log.info("child_output", child=self.name, line=text)
        if len(texts) > _LINES_PER_CHUNK:
            log.warning("child_output_dropped", child=self.name, lines=len(texts) - _LINES_PER_CHUNK)


def _descriptor_of(pid: int) -> int | None:
    """Return a descriptor of a process, where the system has such; the process must not have been reaped yet."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _is_at_work(task: Path) -> bool:
    """Return whether a thread runs, waits for a processor, or for a device."""
    # proc(5): the state follows the name, which stands in brackets and may hold any character.
    return (task / "stat").read_text(errors="replace").rpartition(") ")[2][:1] in {"R", "D"}


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    search_path = [entry or str(Path.cwd()) for entry in sys.path]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(search_path)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        **extra,
    }
