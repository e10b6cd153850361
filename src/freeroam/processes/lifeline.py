"""A child's first act: take up the wire to its parent, and end when the parent does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Sequence

from freeroam.processes.wire import BlockingWire

EXIT_ORPHANED = 70


def connect(args: Sequence[str]) -> BlockingWire:
    """Return the wire to the parent and hang this process on the parent's lifeline.

    Called first in a child that ``ChildProcess`` started. SIGINT is ignored from here on: Ctrl-C reaches every process
    of a terminal, and the parent decides what it means.

    Args:
        args: ``sys.argv[1:]``; the last two are the descriptors of the wire and of the lifeline.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wire_fd, lifeline_fd = int(args[-2]), int(args[-1])
    # A process that the model starts must not hold the wire open after this one died.
    os.set_inheritable(wire_fd, False)
    os.set_inheritable(lifeline_fd, False)
    threading.Thread(target=_end_with_parent, args=(lifeline_fd,), name="lifeline", daemon=True).start()
    return BlockingWire(socket.socket(fileno=wire_fd))


def _end_with_parent(lifeline_fd: int) -> None:
    """Leave at once, without clean-up that could hang, when the other end of the pipe closes."""
    with contextlib.suppress(OSError):
        while os.read(lifeline_fd, 1):
            pass
    if os.getpgrp() == os.getpid():
        # What a model started must not outlive it; this ends the own process too.
        os.killpg(0, signal.SIGKILL)
    os._exit(EXIT_ORPHANED)
