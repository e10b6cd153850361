"""One model version that is served: its queue, its replicas, and its life from loading to its end.

``_pump`` is the whole of the scheduling: a plain function that runs when something happened (a request came, a replica
answered, was ready or died) or when the alarm says that something is due. It never waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from freeroam.batching.batcher import Batcher
from freeroam.batching.policy import MAX_BATCH, BatchRules
from freeroam.batching.ticket import Ticket
from freeroam.clock import Clock
from freeroam.engines.alarm import Alarm
from freeroam.engines.answering import Rehome, give_up, hand_out, second_chances
from freeroam.engines.dispatch import Dispatch
from freeroam.engines.health import Health
from freeroam.engines.places import KeptPlace
from freeroam.engines.replica_process import Loss, ReplicaProcess
from freeroam.engines.replica_set import ReplicaSet
from freeroam.engines.specs import EngineConfig, ModelSpec
from freeroam.engines.standing import Standing
from freeroam.engines.statistics import Statistics
from freeroam.observability.logs import get_logger
from freeroam.observability.metrics import Metrics
from freeroam.processes.wire import Message
from freeroam.vocabulary.errors import Draining, FreeroamError, ModelError
from freeroam.vocabulary.inference import InferenceRequest, Priority
from freeroam.vocabulary.model import ModelInfo, ModelState, ModelWishes

log = get_logger(__name__)


class ServedModel:
    """One version of one model.

    Args:
        spec: Which model.
        config: What holds for all models.
        clock: Where time comes from.
        metrics: The service's metrics, or None.

    Attributes:
        spec: Which model.
        version: Its version.
        changed: Set whenever its state may be another.
        wishes: What it would like to be given, no larger batches than may be; until it is known, what the version
            before it liked.
    """

    def __init__(self, spec: ModelSpec, config: EngineConfig, clock: Clock, metrics: Metrics | None = None) -> None:
        self.spec = spec
        self.version = spec.version
        self.changed = asyncio.Event()
        self.wishes = ModelWishes(max_batch=1)
        self._name = f"model {spec.name}@{spec.version}"
        self._config = config
        self._clock = clock
        rules = BatchRules(min(MAX_BATCH, spec.max_batch), spec.max_batch_wait_ms / 1000.0, config.max_priority_wait_s)
        self._batcher = Batcher(rules, config.max_queue, clock, self)
        self._statistics = Statistics(spec.name, spec.version, clock, metrics)
        self._dispatch = Dispatch(self._batcher, self._statistics)
        self._replicas = ReplicaSet(spec, config, clock, self)
        self._pumping: asyncio.Handle | None = None
        self._alarm = Alarm(clock, self._pump)
        self._health = Health(config.health_interval_s)
        self._standing = Standing(self._name, self._replicas, self._health, clock)
        self._emptied = asyncio.Event()

    # Its life.

    def start(self) -> None:
        """Begin to start the replicas."""
        self._replicas.start()
        self._schedule_pump()

    async def wait_loaded(self) -> None:
        """Wait until it is ready.

        Raises:
            ModelError: A replica was lost before (``load_failed``); the message says why.
            Draining: It was stopped.
        """
        while not self._replicas.is_complete:
            if self._standing.ending is not None:
                raise self._standing.ending()
            if self._standing.loss is not None:
                raise ModelError(f"{self._name} did not load: {self._standing.loss}", code="load_failed")
            self.changed.clear()
            await self.changed.wait()

    async def check(self) -> None:
        """Let every replica that is ready look at its model now; what they find becomes the state."""
        checks = [replica.check() for replica in self._replicas.ready]
        self._schedule_pump()
        await asyncio.gather(*checks)

    def retire(self, rehome: Rehome) -> None:
        """Take no new requests; those that wait and name no version go to ``rehome``, the others stay."""
        self._standing.rehome = rehome
        for replica in self._replicas.ready:
            self._batcher.put_back([ticket for ticket in replica.book.take_back() if not ticket.is_over])
        self._batcher.take_in(rehome(self._batcher.give_away()))
        self._schedule_pump()
        self._look_if_done()
        self._tell()

    def resume(self) -> None:
        """Take requests again after ``retire``."""
        self._standing.rehome = None
        self._replicas.fill()
        self._schedule_pump()
        self._tell()

    async def wait_done(self) -> None:
        """Wait until all that it has begun or kept is answered."""
        while not self.is_done:
            self._emptied.clear()
            await self._emptied.wait()

    async def stop(self, error: Callable[[], FreeroamError] | None = None, grace_s: float | None = None) -> None:
        """End the replicas; what waits or is being answered fails with ``error``, ``Draining`` unless given.

        After ``retire``, what is being answered is asked of the version that follows, where nobody has heard any of it.
        """
        self._standing.ending = error = error or partial(Draining, "the service is stopping")
        self._alarm.cancel()
        self._batcher.fail_all(error)
        give_up(self._replicas.members, self._standing.rehome, error)
        self._look_if_done()
        self._tell()
        await self._replicas.stop(self._config.stop_grace_s if grace_s is None else grace_s)
        self._statistics.end()

    # Its requests.

    def reserve(self, priority: Priority, *, waits_for_load: bool = False) -> KeptPlace:
        """Keep a place in the queue; raises as ``Engine.reserve`` does."""
        try:
            self._standing.check_open(waits_for_load=waits_for_load)
            return KeptPlace(self, self._batcher.reserve(priority))
        except FreeroamError:
            self._statistics.count_outcome("rejected")
            raise

    def admit(self, request: InferenceRequest, *, has_place: bool = False) -> Ticket:
        """Let a request wait for its answer; raises as ``Engine.ask`` does for what is refused at once.

        Args:
            request: What is asked.
            has_place: Whether it had a place, here or in a version before this one; then no bound is asked.
        """
        try:
            self._standing.check_open(has_place=has_place, waits_for_load=request.waits_for_load)
            ticket = self._batcher.admit(request, has_place=has_place)
        except FreeroamError:
            self._statistics.count_outcome("rejected")
            self._look_if_done()
            raise
        self._schedule_pump()
        return ticket

    def take_in(self, tickets: list[Ticket]) -> None:
        """Let requests wait here that waited for another version."""
        self._batcher.take_in(tickets)
        if self._standing.ending is not None:
            self._batcher.fail_all(self._standing.ending)
        self._schedule_pump()

    def give_away(self) -> list[Ticket]:
        """Take out and return what waits and may be answered by another version."""
        return self._batcher.give_away()

    def abandon(self, ticket: Ticket) -> None:
        """Take out a request whose asker is gone, wherever it is."""
        stage = "queued" if ticket.seat is None else "running"
        self._statistics.count_cancelled(stage, ticket.request.priority)
        if ticket.seat is None:
            self._batcher.remove(ticket)
        else:
            ticket.seat.leave(ticket)
            if len(self._batcher):
                # At once, so that the next in line reaches the replica together with the word that this one is gone.
                self._pump()
        self._look_if_done()

    def place_released(self) -> None:
        """Note that a request which was being made ready comes no more."""
        self._look_if_done()

    def change_rules(self, max_batch: int | None = None, max_batch_wait_ms: float | None = None) -> None:
        """Change how batches are made from the next one on."""
        rules = self._batcher.rules
        self._batcher.rules = replace(
            rules,
            max_batch=rules.max_batch if max_batch is None else max_batch,
            max_wait_s=rules.max_wait_s if max_batch_wait_ms is None else max_batch_wait_ms / 1000.0,
        )
        self._note_wishes()
        self._schedule_pump()

    # What the outside sees.

    @property
    def is_open(self) -> bool:
        """Whether it takes requests."""
        return self._standing.is_open

    @property
    def awaits_load(self) -> bool:
        """Whether requests wait until it is there for the first time."""
        return self._standing.first_load.is_awaited

    @property
    def is_retired(self) -> bool:
        """Whether it only finishes what it has."""
        return self._standing.rehome is not None

    @property
    def is_ending(self) -> bool:
        """Whether its replicas are being ended, or gone."""
        return self._standing.ending is not None

    @property
    def state(self) -> ModelState:
        """Where it is in its life."""
        return self._standing.state

    @property
    def error(self) -> str | None:
        """What was wrong last; None if all is well."""
        return self._standing.error

    def assume(self, before: ServedModel, *, hands_back: bool = False) -> None:
        """Take the place of a version that answers no more: its wishes, and its requests, which wait for the load.

        Args:
            before: The version.
            hands_back: Whether whoever calls this takes the requests away again should it not load.
        """
        self.wishes = before.wishes
        self._standing.hands_back = hands_back
        self._standing.first_load.is_waited_for = True

    def describe(self) -> ModelInfo:
        """Return what the outside sees of it."""
        known = self._standing.known
        running = sum((replica.book.wanted_by() for replica in self._replicas.members), Counter[Priority]())
        return ModelInfo(
            name=self.spec.name,
            version=self.spec.version,
            model_type=known.model_type if known else self.spec.model_type,
            state=self.state,
            device=known.device if known else self.spec.device,
            wishes=self.wishes,
            info=known.info if known else {},
            replicas_ready=len(self._replicas.ready),
            replicas_wanted=self._replicas.wanted,
            queued=len(self._batcher),
            running=running.total(),
            queued_by={level.name: self._batcher.count(level) for level in Priority},
            running_by={level.name: running[level] for level in Priority},
            statistics=self._statistics.snapshot(),
            error=self.error,
        )

    @property
    def pids(self) -> list[int]:
        """Process ids of the replicas that run."""
        return [replica.pid for replica in self._replicas.members if replica.pid is not None]

    # What replicas tell.

    def replica_changed(self, replica: ReplicaProcess) -> None:
        """Note that a replica goes on with loading, or is ready."""
        if replica.is_ready:
            self._replicas.note_ready()
            self._standing.note_ready(replica)
            self._note_wishes()
            self._schedule_pump()
        else:
            self._replicas.note_change()
        self._tell()

    def replica_checked(self, replica: ReplicaProcess, error: str | None) -> None:
        """Note what a replica found when it looked at its model."""
        self._health.note(replica, error)
        self._tell()

    def replica_stepped(self, replica: ReplicaProcess, message: Message) -> None:
        """Hand out what a replica answered."""
        batch, model_ms = message["batch"], message["model_ms"]
        if batch:
            self._statistics.add_call(batch, model_ms)
            if not replica.wishes.streams_text:
                self._dispatch.record(batch, model_ms / 1000.0)
        hand_out(replica, message, self._statistics)
        if not message["answers"]:
            return  # nothing is free that was not before
        self._replicas.note_answer()
        replica.note_answers()
        # Nothing else than waiting requests, or a second replica, has use for what is free now.
        if len(self._batcher) or len(self._replicas.ready) > 1:
            self._pump()
        self._look_if_done()

    def replica_ended(self, replica: ReplicaProcess, loss: Loss) -> None:
        """Replace a replica that is gone, unless they keep dying; ask its questions again, once."""
        if not self._replicas.note_loss(replica, loss):
            return
        self._standing.loss = loss.message
        self._health.forget(replica)
        self._statistics.count_restart(loss.reason)
        again = [*loss.innocents, *second_chances(loss, self._statistics)]
        self._batcher.put_back(again)
        if self._standing.rehome is not None:
            self._batcher.take_in(self._standing.rehome(self._batcher.give_away()))
        log.warning("replica_lost", replica=replica.name, reason=loss.reason, why=loss.message, asked_again=len(again))
        if self._standing.has_failed:
            failed = self._batcher.fail_all(self._standing.failure)
            self._statistics.count_outcome("failed", failed)
            log.error("model_failed", model=self.spec.name, version=self.spec.version, why=loss.message)
        if self._standing.rehome is None or len(self._batcher):
            self._replicas.fill()
        self._tell()
        self._schedule_pump()
        self._look_if_done()

    # What is due.

    def _pump(self) -> None:
        if self._pumping is not None:
            self._pumping.cancel()
            self._pumping = None
        if self._standing.ending is not None:
            return
        now_s = self._clock.monotonic_s()
        self._statistics.count_outcome("expired", len(self._batcher.expire()))
        self._dispatch.end_expired(self._replicas.members, now_s)
        wait_s = self._dispatch.send_waiting(self._replicas.ready, now_s)
        due_s = (
            None if wait_s is None else now_s + wait_s,
            self._dispatch.first_deadline_s,
            self._batcher.first_deadline_s,
            self._replicas.end_silent(now_s),
            self._replicas.try_again(now_s),
            self._health.look(self._replicas.ready, now_s),
        )
        times_s = [moment_s for moment_s in due_s if moment_s is not None]
        if times_s:
            self._alarm.set(min(times_s))
        self._statistics.show(len(self._replicas.ready))
        self._look_if_done()

    def _schedule_pump(self) -> None:
        """Pump once in this turn of the loop, after everybody else who asks in it."""
        if self._pumping is None and self._standing.ending is None:
            self._pumping = asyncio.get_running_loop().call_soon(self._pump)

    def _look_if_done(self) -> None:
        if self._standing.rehome is not None and self.is_done:
            self._emptied.set()

    @property
    def is_done(self) -> bool:
        """Whether all that it has begun or kept is answered."""
        return not len(self._batcher) and not self._batcher.reserved and self._replicas.is_idle

    def _note_wishes(self) -> None:
        known = self._standing.known
        if known is not None:
            most = min(known.wishes.max_batch, self._batcher.rules.max_batch)
            self.wishes = known.wishes.model_copy(update={"max_batch": most})

    def _tell(self) -> None:
        self._statistics.show(len(self._replicas.ready))
        self.changed.set()
