"""The parent's side of a replica: its process, what it was asked and has not answered, and when it was last heard."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from dataclasses import dataclass
from typing import Any, Protocol

from freeroam.batching.policy import MAX_BATCH
from freeroam.batching.ticket import Ticket
from freeroam.clock import Clock
from freeroam.engines.calls import CallBook
from freeroam.engines.specs import ModelSpec
from freeroam.models.base import MAX_TOKENS
from freeroam.observability.logs import get_logger
from freeroam.processes.child import ChildProcess, thread_environment
from freeroam.processes.ring import FrameRing, place_of
from freeroam.processes.wire import Message
from freeroam.vocabulary.model import ModelState, ModelWishes

_REAP_S = 5.0
# What a replica prints becomes lines of the log, and a bar that redraws itself is none; the libraries read these when
# they are imported, which torch alone does with tqdm, so they are set before anything runs.
_NO_BARS = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loss:
    """How a replica ended.

    Attributes:
        reason: ``crashed``, ``hung``, ``load_timeout``, ``load_failed``.
        message: For people.
        suspects: Requests it was answering.
        innocents: Requests it held but had not begun.
    """

    reason: str
    message: str
    suspects: list[Ticket]
    innocents: list[Ticket]


class ReplicaOwner(Protocol):
    """Who is told what a replica does."""

    def replica_changed(self, replica: ReplicaProcess) -> None:
        """Its state changed."""

    def replica_stepped(self, replica: ReplicaProcess, message: Message) -> None:
        """It answered something."""

    def replica_checked(self, replica: ReplicaProcess, error: str | None) -> None:
        """Its model looked at itself; ``error`` says what it found, None if all is well."""

    def replica_ended(self, replica: ReplicaProcess, loss: Loss) -> None:
        """It is gone, and is not coming back."""


class ReplicaProcess:
    """One replica, from start to end; never restarted, replaced by its owner.

    Args:
        spec: The model.
        number: For its name in the log.
        owner: Who is told.
        clock: Where time comes from.
        max_tokens: Most tokens of any answer.
    """

    def __init__(
        self, spec: ModelSpec, number: int, owner: ReplicaOwner, clock: Clock, *, max_tokens: int = MAX_TOKENS
    ) -> None:
        self.name = f"{spec.name}@{spec.version}/{number}"
        self.state = ModelState.LOADING
        self.info: dict[str, Any] = {}
        self.wishes = ModelWishes()
        self.model_type = spec.model_type
        self.device = spec.device
        self.book = CallBook(self._tell)
        self.calls = self.book.calls
        self.heard_s = clock.monotonic_s()
        self.begun_s = self.heard_s
        self.spec = spec
        self._owner = owner
        self._clock = clock
        self._max_tokens = max_tokens
        self._checks: dict[int, asyncio.Future[str | None]] = {}
        self._check_numbers = itertools.count(1)
        self._child: ChildProcess | None = None
        self._rings: dict[int, FrameRing] = {}
        self._end: tuple[str, str] | None = None
        self._is_stopping = False
        self._running = asyncio.create_task(self._run(), name=f"replica-{self.name}")

    @property
    def pid(self) -> int | None:
        """The process id, None before it is started."""
        return self._child.pid if self._child else None

    @property
    def is_ready(self) -> bool:
        """Whether it takes calls."""
        return self.state is ModelState.READY

    @property
    def open_questions(self) -> int:
        """Requests that it holds and somebody waits for."""
        return self.book.wanted

    @property
    def has_work(self) -> bool:
        """Whether it owes an answer, so that its silence means something."""
        return bool(self.calls or self._checks)

    @property
    def is_checking(self) -> bool:
        """Whether it was told to look at its model and has not said what it found."""
        return bool(self._checks)

    def send(self, tickets: list[Ticket]) -> None:
        """Put one batch to it; raises whatever makes the batch impossible to send, and then holds nothing of it."""
        assert self._child is not None
        call = self.book.open(tickets)
        frames = [frame for ticket in tickets for frame in ticket.request.frames]
        places = [self._place(frame.pixels) for frame in frames]
        self._child.wire.send(
            {
                "kind": "call",
                "id": call.number,
                "questions": [_question(ticket) for ticket in tickets],
                # The call holds its tickets, and so the frames in their places, until the replica has answered or died.
                "places": places,
                "blobs": [frame.pixels for frame, place in zip(frames, places, strict=True) if place is None],
            }
        )
        now_s = self._clock.monotonic_s()
        if not self.has_work:
            self.heard_s = now_s
        if not self.calls:
            self.begun_s = now_s
        self.book.keep(call)

    def note_answers(self) -> None:
        """Note that it has just answered: the call that waits behind begins now."""
        self.begun_s = self.heard_s

    def check(self) -> asyncio.Future[str | None]:
        """Let its model look at itself between two calls; resolves to what is wrong, None if all is well."""
        number = next(self._check_numbers)
        if not self.has_work:
            self.heard_s = self._clock.monotonic_s()
        checking = self._checks[number] = asyncio.get_running_loop().create_future()
        self._tell({"kind": "check", "id": number})
        return checking

    def kill(self, reason: str, message: str) -> None:
        """End it at once; its owner is told as of any other end."""
        if self._end is None:
            self._end = (reason, message)
        if self._child is not None:
            self._child.kill()
            self._child.wire.close()

    async def stop(self, grace_s: float) -> None:
        """End it politely; its owner is not told."""
        self._is_stopping = True
        try:
            if self._child is not None:
                await self._child.aclose(grace_s)
        finally:
            self._running.cancel()
            self._end_checks("the replica was ended")
        await asyncio.gather(self._running, return_exceptions=True)

    def _place(self, pixels: bytes | memoryview) -> tuple[int, int] | None:
        """Return where the replica finds a frame in a ring, which it is shown first; None for one sent as bytes."""
        assert self._child is not None
        found = place_of(pixels)
        if found is None or found[0].is_closed:
            return None
        ring, at = found
        if ring.number not in self._rings:
            for gone in [number for number, shown in self._rings.items() if shown.is_closed]:
                del self._rings[gone]
                self._child.wire.send({"kind": "ring gone", "ring": gone})
            self._rings[ring.number] = ring
            self._child.wire.send({"kind": "ring", "ring": ring.number}, [ring.read_fd])
        return ring.number, at

    def _tell(self, message: Message) -> None:
        if self._child is not None:
            self._child.wire.send(message)

    def _end_checks(self, error: str) -> None:
        checks, self._checks = self._checks, {}
        for checking in checks.values():
            if not checking.done():
                checking.set_result(error)

    async def _run(self) -> None:
        try:
            await self._live()
        except OSError as error:
            self._end = ("load_failed", f"the system started no process: {error}")
        except asyncio.CancelledError:
            if self._child is not None and not self._is_stopping:
                await self._child.aclose()
            raise
        except Exception as error:  # a process that says what nobody understands is as good as dead
            log.exception("replica_not_understood", replica=self.name)
            self._end = self._end or ("crashed", f"replica {self.name} was not understood: {type(error).__name__}")
            if self._child is not None:
                await self._child.aclose()
        if not self._is_stopping:
            reason, message = self._end or ("crashed", self._epitaph())
            self.state = ModelState.FAILED
            self._end_checks(message)
            self._owner.replica_ended(self, self._loss(reason, message))

    async def _live(self) -> None:
        self._child = child = await ChildProcess.start(
            "freeroam.engines.replica",
            name=f"replica {self.name}",
            env={**thread_environment(self.spec.threads), **_NO_BARS},
        )
        if self._end is not None:
            child.kill()
        child.wire.send(
            {
                "kind": "load",
                "model_type": self.spec.model_type,
                "model_path": self.spec.model_path,
                "device": self.spec.device,
                # Its own wish bounds it; the operator's bound may change and is kept by whoever sends.
                "max_batch": MAX_BATCH,
                "max_tokens": self._max_tokens,
                "warms_up": self.spec.warmup,
                "options": {**self.spec.options, "threads": self.spec.threads},
            }
        )
        while (message := await child.wire.receive()) is not None:
            self._hear(message)
        # From here on nothing reaches it, while it may take a while until it is gone.
        self.state = ModelState.FAILED
        self._owner.replica_changed(self)
        # A process that cannot be reaped (stuck in a driver) must not keep its successor from starting.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REAP_S):
                await child.aclose()

    def _hear(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "step":
            self.heard_s = self._clock.monotonic_s()
            self._owner.replica_stepped(self, message)
        elif kind == "health":
            self.heard_s = self._clock.monotonic_s()
            checking = self._checks.pop(message["id"], None)
            if checking is not None and not checking.done():
                checking.set_result(message["error"])
            self._owner.replica_checked(self, message["error"])
        elif kind == "state":
            self.state = ModelState(message["state"])
            self._owner.replica_changed(self)
        elif kind == "ready":
            self.state = ModelState.READY
            self.info, self.model_type, self.device = message["info"], message["model_type"], message["device"]
            self.wishes = ModelWishes.model_validate(message["wishes"])
            log.info("replica_ready", replica=self.name, pid=self.pid, device=self.device)
            self._owner.replica_changed(self)
        elif kind == "failed":
            self._end = ("load_failed", message["error"])

    def _loss(self, reason: str, message: str) -> Loss:
        suspects, innocents = self.book.clear(begun=len(self.calls) if self.wishes.streams_text else 1)
        return Loss(reason, message, suspects, innocents)

    def _epitaph(self) -> str:
        assert self._child is not None
        status = self._child.returncode
        how = f"was ended by signal {-status}" if status is not None and status < 0 else f"exited with status {status}"
        hint = ", which is how a system without memory ends a process" if status == -signal.SIGKILL else ""
        return f"replica {self.name} {how}{hint}"


def _question(ticket: Ticket) -> dict[str, Any]:
    request = ticket.request
    return {
        # Half a surrogate pair can come in by JSON and cannot leave as UTF-8.
        "prompt": request.prompt.encode("utf-8", "replace").decode(),
        "params": request.params.model_dump(exclude_none=True) if request.params.model_fields_set else None,
        "frames": [(frame.height_px, frame.width_px) for frame in request.frames],
        "pieces": request.wants_pieces,
    }
