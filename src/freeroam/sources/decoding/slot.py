"""One decoder process and its feeds: started, watched by heartbeat, replaced when it dies, hangs or grows."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Protocol

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.processes.child import ChildProcess, thread_environment
from freeroam.processes.ring import FrameRing, Lease
from freeroam.processes.wire import Message
from freeroam.sources.decoding.suspects import Suspects
from freeroam.sources.decoding.values import DecoderConfig

HEARTBEAT_S = 0.75
IDLE_BEATS = 5
"""A process without feeds is asked at every fifth beat only."""

START_DEADLINE_S = 30.0
HEARD_S = 1.0
"""A process that said something so recently need not prove that it is alive before it takes a feed."""
LATE_TICK_S = 0.5
TICK_TOLERANCE_S = 0.05
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STOPPED = "stopped"
SILENT = "silent"
HEALTHY_AFTER_S = 5.0
"""A process that lived so long is replaced at once: starting one takes a fiftieth of it."""

log = get_logger(__name__)


class Customer(Protocol):
    """What holds a decoder: a feed, or a decoder of pictures.

    Attributes:
        owner: Names the video; empty for what is no stream.
    """

    owner: str

    def take(self, message: Message) -> None:
        """Take what the process says about it."""
        ...

    def lose(self, reason: str) -> None:
        """Hear that the process is gone."""
        ...


class DecoderSlot:
    """A place for one decoder process, which is filled anew whenever its process had to go.

    Args:
        index: For names.
        config: Bounds and deadlines.
        clock: Time of heartbeats and pauses.
        ready: Set whenever a process is ready to take feeds.
        suspects: Told whose feeds were lost with a process.
        closed_feeds: Set whenever a feed was closed.
    """

    def __init__(
        self,
        index: int,
        config: DecoderConfig,
        clock: Clock,
        ready: asyncio.Event,
        suspects: Suspects,
        closed_feeds: asyncio.Event,
    ) -> None:
        self._suspects = suspects
        self._closed_feeds = closed_feeds
        self._name = f"decoder-{index}"
        self._config = config
        self._clock = clock
        self._ready = ready
        self._child: ChildProcess | None = None
        self._customers: dict[int, Customer] = {}
        self._life: asyncio.Task[None] | None = None
        self._heard_s = 0.0
        self._spoke_s = 0.0
        self._proof: asyncio.Future[bool] | None = None
        self._has_answered = False
        self._is_asked = False
        self._kill_reason = ""
        self._retired: dict[int, list[Lease]] = {}
        self.ring: FrameRing | None = None
        self.replaced: dict[str, int] = {}
        self.rss_bytes = 0

    @property
    def is_alive(self) -> bool:
        """Whether its process takes feeds now."""
        return self._child is not None and not self._kill_reason

    @property
    def is_heard(self) -> bool:
        """Whether its process has just said something, or is only starting."""
        return not self._has_answered or self._clock.monotonic_s() - self._spoke_s < HEARD_S

    async def answers(self, limit_s: float) -> bool:
        """Ask for a sign of life; return whether one comes within ``limit_s`` seconds."""
        if self._proof is None or self._proof.done():
            self._proof = asyncio.get_running_loop().create_future()
        self._ask()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                return await asyncio.shield(self._proof)
        return False

    @property
    def pid(self) -> int | None:
        """Process id; None while there is none."""
        return None if self._child is None else self._child.pid

    @property
    def load(self) -> int:
        """Feeds it holds."""
        return len(self._customers)

    @property
    def refused_places(self) -> int:
        """Frames that found no room in its ring."""
        return 0 if self.ring is None else self.ring.refused

    def others(self, owner: str) -> int:
        """Return how many of its feeds are of other videos."""
        return sum(customer.owner != owner for customer in self._customers.values())

    async def start(self) -> None:
        """Start the first process and the task that keeps one alive.

        Raises:
            OSError: The system gives no process.
        """
        self.ring = FrameRing(self._config.ring_bytes) if self._config.ring_bytes else None
        child = await self._spawn()
        self._life = asyncio.create_task(self._live(child), name=self._name)

    async def stop(self) -> None:
        """End the process; its feeds fail."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
            self._life = None
        if (child := self._child) is not None:
            # A task that is cancelled before its first step cleans nothing up.
            self._bury(child, STOPPED)
            await child.aclose()
        if self.ring is not None:
            self.ring.close()
            self.ring = None

    def add(self, number: int, customer: Customer) -> None:
        """Let messages about feed ``number`` reach ``customer``."""
        self._customers[number] = customer

    def remove(self, number: int, lent: list[Lease]) -> None:
        """Close a feed in the process and forget it; what is still said about it is dropped.

        Args:
            number: Names it.
            lent: Places that the process may still write to; they are free once it has heard that the feed is closed.
        """
        self._customers.pop(number, None)
        self._closed_feeds.set()
        self._retired[number] = lent
        self.send({"op": "close", "feed": number})

    def send(self, message: Message) -> None:
        """Send to the process; dropped if it is gone, since its feeds hear of that by ``lose``."""
        if self._child is not None:
            self._child.wire.send(message)

    async def _spawn(self) -> ChildProcess:
        config = self._config
        child = await ChildProcess.start(
            "freeroam.sources.decoding.worker",
            [str(config.max_pixels), str(-1 if self.ring is None else self.ring.write_fd)],
            name=self._name,
            pass_fds=() if self.ring is None else (self.ring.write_fd,),
            # One arena a thread would keep what a long gone feed once needed.
            env={**thread_environment(1), "MALLOC_ARENA_MAX": "2", "AV_LOG_FORCE_NOCOLOR": "1"},
        )
        self._child = child
        self._kill_reason = ""
        self._heard_s, self._has_answered, self._is_asked = self._clock.monotonic_s(), False, False
        self._ready.set()
        return child

    async def _live(self, child: ChildProcess) -> None:
        """Keep a process in this place until cancelled; one that dies again soon is replaced after a growing pause."""
        current: ChildProcess | None = child
        pause_s = 0.0
        try:
            while True:
                if current is not None:
                    born_s = self._clock.monotonic_s()
                    await self._serve(current)
                    current = None
                    if self._clock.monotonic_s() - born_s > HEALTHY_AFTER_S:
                        pause_s = 0.0
                await self._clock.sleep(pause_s)
                pause_s = min(max(FIRST_PAUSE_S, pause_s * 2), LONGEST_PAUSE_S)
                try:
                    current = await self._spawn()
                except OSError as error:
                    log.warning("decoder_not_started", decoder=self._name, error=str(error))
        finally:
            if current is not None:
                self._bury(current, STOPPED)
                await current.aclose()

    async def _serve(self, child: ChildProcess) -> None:
        """Pass messages on until the process is gone, then tell its feeds."""
        heartbeat = asyncio.create_task(self._watch(child), name=f"{self._name}-heartbeat")
        try:
            while (message := await child.wire.receive()) is not None:
                self._heard()
                try:
                    self._take(child, message)
                except Exception:  # what a process says that a video has taken over must not end this place for good
                    log.exception("decoder_not_understood", decoder=self._name)
                    self._kill(child, "garbled")
        finally:
            heartbeat.cancel()
            await asyncio.gather(heartbeat, return_exceptions=True)
        reason = self._kill_reason or "died"
        # Whether it crashed or was killed is known once it is gone, and must be before its videos open again.
        self._child = None
        await child.aclose()
        # Whoever sees that it was replaced sees no feed of it any more.
        self.replaced[reason] = self.replaced.get(reason, 0) + 1
        feeds = self._bury(child, reason)
        log.warning("decoder_replaced", decoder=self._name, reason=reason, feeds=feeds, status=child.returncode)

    def _heard(self) -> None:
        """Note that the process said something."""
        now_s = self._clock.monotonic_s()
        self._heard_s = self._spoke_s = now_s
        self._has_answered, self._is_asked = True, False
        if self._proof is not None:
            if not self._proof.done():
                self._proof.set_result(True)
            self._proof = None
            self._ready.set()

    def _ask(self) -> None:
        self.send({"op": "ping"})
        self._is_asked = True

    def _take(self, child: ChildProcess, message: Message) -> None:
        """Pass one message on."""
        if message["op"] == "pong":
            self._judge(child, message)
            if self.ring is not None:
                self.ring.trim()
        elif message["op"] == "closed":
            self._free(self._retired.pop(message["feed"]))
        elif (customer := self._customers.get(message["feed"])) is not None:
            customer.take(message)

    def _bury(self, child: ChildProcess, reason: str) -> int:
        """Take the process out of use and fail its feeds; return how many there were."""
        if self._child is child:
            self._child = None
        self.rss_bytes = 0
        if self._proof is not None and not self._proof.done():
            self._proof.set_result(False)
        lost, self._customers = self._customers, {}
        if reason != STOPPED:
            may_be_chance = reason == SILENT or child.returncode == -signal.SIGKILL
            owners = (customer.owner for customer in lost.values())
            self._suspects.note(owners, self._name, may_be_chance=may_be_chance)
        for customer in lost.values():
            customer.lose(reason)
        retired, self._retired = self._retired, {}
        for lent in retired.values():
            self._free(lent)
        return len(lost)

    @staticmethod
    def _free(lent: list[Lease]) -> None:
        for lease in lent:
            lease.give_back()

    async def _watch(self, child: ChildProcess) -> None:
        """Ask for a sign of life at every beat, less often while no feed is open; kill a process that gives none."""
        # The first beat asks at once: a process that has answered is no longer given the time that a start may take.
        rested = IDLE_BEATS - 1
        while True:
            rested = rested + 1 if not self._customers and not self._is_asked else 0
            if rested % IDLE_BEATS == 0:
                self._ask()
            is_on_time = await self._rest(HEARTBEAT_S)
            silent_s = self._clock.monotonic_s() - self._heard_s
            if not is_on_time or not self._is_asked:
                if not is_on_time or silent_s > HEARTBEAT_S + LATE_TICK_S:
                    # This process stood still itself and has not read what the child said, or expected nothing.
                    self._heard_s = self._clock.monotonic_s()
                continue
            left_s = self._left_s(child, silent_s)
            if TICK_TOLERANCE_S < left_s < HEARTBEAT_S:
                # Its deadline need not wait for the end of the next beat.
                await self._clock.sleep(left_s)
            elif left_s <= TICK_TOLERANCE_S:
                # What it has said meanwhile may lie unread.
                await self._clock.sleep(TICK_TOLERANCE_S)
            else:
                continue
            if self._is_asked and self._left_s(child, self._clock.monotonic_s() - self._heard_s) <= TICK_TOLERANCE_S:
                self._kill(child, SILENT)

    def _left_s(self, child: ChildProcess, silent_s: float) -> float:
        """Return how much longer a process may be silent that was asked a beat ago."""
        if not self._has_answered:
            # A busy machine may take long to start an interpreter.
            return START_DEADLINE_S - silent_s
        # One that stands still is not even waiting for its turn on a crowded machine.
        still = child.stands_still
        return (self._config.stillness_deadline_s if still else self._config.silence_deadline_s) - silent_s

    async def _rest(self, seconds: float) -> bool:
        """Sleep; return whether it took about as long as it should."""
        began_s = self._clock.monotonic_s()
        await self._clock.sleep(seconds)
        return self._clock.monotonic_s() - began_s <= seconds + LATE_TICK_S

    def _judge(self, child: ChildProcess, pong: Message) -> None:
        """Look at what a process says of itself."""
        self.rss_bytes = pong["rss_bytes"]
        if pong["busy_s"] > self._config.frame_deadline_s:
            self._kill(child, "stuck")
        elif pong["rss_bytes"] > self._config.max_rss_bytes:
            self._kill(child, "fat")

    def _kill(self, child: ChildProcess, reason: str) -> None:
        if not self._kill_reason:
            self._kill_reason = reason
            log.warning("decoder_killed", decoder=self._name, reason=reason, pid=child.pid)
            with contextlib.suppress(ProcessLookupError):
                child.kill()
