"""The replicas of one version: as many as are wanted, each replaced when it dies, until they keep dying."""

from __future__ import annotations

import asyncio
import itertools

from freeroam.clock import Clock
from freeroam.engines.breaker import Breaker
from freeroam.engines.replica_process import Loss, ReplicaOwner, ReplicaProcess
from freeroam.engines.specs import EngineConfig, ModelSpec
from freeroam.vocabulary.model import ModelState


class ReplicaSet:
    """Starts, watches and replaces replicas.

    Args:
        spec: Which model, and how many.
        config: How patient to be.
        clock: Where time comes from.
        owner: Who is told what they do.

    Attributes:
        members: Those that run or load.
        ready: Those that take calls.
        wanted: How many there should be; 0 until ``start``.
    """

    def __init__(self, spec: ModelSpec, config: EngineConfig, clock: Clock, owner: ReplicaOwner) -> None:
        self.members: list[ReplicaProcess] = []
        self.ready: list[ReplicaProcess] = []
        self.wanted = 0
        self._spec = spec
        self._config = config
        self._clock = clock
        self._owner = owner
        bounds = (config.max_deaths, config.death_window_s, config.pause_s, config.max_pause_s)
        self._breaker = Breaker(*bounds)
        self._starts = Breaker(*bounds)  # of replicas that never became ready while others answer
        self._numbers = itertools.count(1)
        self._is_ending = False

    def start(self) -> None:
        """Begin to start them."""
        self.wanted = self._spec.replicas
        self.fill()

    async def stop(self, grace_s: float) -> None:
        """End them; none is started again."""
        self._is_ending = True
        members, self.members, self.ready = self.members, [], []
        await asyncio.gather(*(replica.stop(grace_s) for replica in members))

    @property
    def is_complete(self) -> bool:
        """Whether as many are ready as are wanted."""
        return 0 < self.wanted <= len(self.ready)

    @property
    def is_stopped(self) -> bool:
        """Whether none is ready and, because they kept dying, none is to be waited for."""
        return not self.ready and self._breaker.is_open

    @property
    def retry_in_s(self) -> float:
        """After how long a stopped set is tried again."""
        retry_at_s = self._breaker.retry_at_s
        return 1.0 if retry_at_s is None else max(1.0, retry_at_s - self._clock.monotonic_s())

    @property
    def is_warming(self) -> bool:
        """Whether one has loaded and warms up."""
        return any(replica.state is ModelState.WARMING for replica in self.members)

    @property
    def is_idle(self) -> bool:
        """Whether none of them owes an answer."""
        return not any(replica.calls for replica in self.members)

    def fill(self) -> None:
        """Start replicas until there are as many as wanted; one only while the breaker tries."""
        if self._is_ending or self._breaker.retry_at_s is not None:
            return
        if self.ready and self._starts.retry_at_s is not None:
            return
        wanted = min(self.wanted, len(self.ready) + 1) if self._breaker.is_open else self.wanted
        while len(self.members) < wanted:
            number, most = next(self._numbers), self._config.max_tokens
            self.members.append(ReplicaProcess(self._spec, number, self._owner, self._clock, max_tokens=most))

    def note_change(self) -> None:
        """Take in that one is in another state."""
        self.ready = [replica for replica in self.members if replica.is_ready]

    def note_ready(self) -> None:
        """Take in that one became ready."""
        self.note_change()
        self._breaker.record_ready()
        self._starts.record_ready()
        self._starts.record_answer()
        self.fill()

    def note_answer(self) -> None:
        """Take in that a batch was answered."""
        self._breaker.record_answer()

    def note_loss(self, replica: ReplicaProcess, loss: Loss) -> bool:
        """Take out one that is gone; return False if it was not one of these."""
        if replica not in self.members:
            return False
        was_ready = replica in self.ready
        self.members.remove(replica)
        self.note_change()
        # Answers of those that are ready say nothing about one that never was, and would start it again for ever.
        breaker = self._starts if self.ready and not was_ready else self._breaker
        breaker.record_death(self._clock.monotonic_s(), is_certain=loss.reason == "load_failed")
        return True

    def end_silent(self, now_s: float) -> float | None:
        """Kill those that have said nothing for too long; return when the next one is due."""
        next_s: float | None = None
        for replica in self.members:
            if not replica.is_ready:
                limit_s, reason = self._config.load_timeout_s, "load_timeout"
            elif replica.has_work:
                limit_s, reason = self._config.inference_timeout_s, "hung"
            else:
                continue
            due_s = replica.heard_s + limit_s
            if due_s <= now_s:
                replica.kill(reason, f"replica {replica.name} said nothing for {limit_s:g} s")
            else:
                next_s = due_s if next_s is None else min(next_s, due_s)
        return next_s

    def try_again(self, now_s: float) -> float | None:
        """Start one when a breaker's pause is over; return when the next one is."""
        next_s: float | None = None
        for breaker in (self._breaker, self._starts):
            retry_at_s = breaker.retry_at_s
            if retry_at_s is None:
                continue
            if retry_at_s <= now_s:
                breaker.begin_trial()
                self.fill()
            else:
                next_s = retry_at_s if next_s is None else min(next_s, retry_at_s)
        return next_s
