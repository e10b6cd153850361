"""One model version that is served: its queue, its replicas, and the match between them.

``_pump`` is the whole of the scheduling: a plain function that runs when something happened (a request came, a replica
answered, was ready or died) or when the alarm says that something is due. It never waits.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

from freeroam.batching.batcher import Batcher, Place, Ticket
from freeroam.batching.policy import MAX_BATCH, BatchRules
from freeroam.clock import Clock
from freeroam.engines.alarm import Alarm
from freeroam.engines.breaker import Breaker
from freeroam.engines.credits import best_credit
from freeroam.engines.forecast import Forecast
from freeroam.engines.outputs import error_of, output_of
from freeroam.engines.replica_process import Call, Loss, ReplicaProcess
from freeroam.engines.specs import EngineConfig, ModelSpec
from freeroam.engines.statistics import Statistics
from freeroam.observability.logs import get_logger
from freeroam.observability.metrics import Metrics
from freeroam.processes.wire import Message
from freeroam.vocabulary.errors import DeadlineExceeded, Draining, FreeroamError, ModelError, ModelNotReady
from freeroam.vocabulary.inference import InferenceRequest, Priority
from freeroam.vocabulary.model import ModelInfo, ModelState, ModelWishes

LEAD_S = 0.005
"""How long before a busy model is expected to end its call the next batch is sent: several times what a hop takes."""

log = get_logger(__name__)


class ServedModel:
    """One version of one model.

    Args:
        spec: Which model.
        config: What holds for all models.
        clock: Where time comes from.
        metrics: The service's metrics, or None.
    """

    def __init__(self, spec: ModelSpec, config: EngineConfig, clock: Clock, metrics: Metrics | None = None) -> None:
        self.spec = spec
        self.changed = asyncio.Event()
        self._config = config
        self._clock = clock
        rules = BatchRules(min(MAX_BATCH, spec.max_batch), spec.max_batch_wait_ms / 1000.0, config.max_priority_wait_s)
        self._batcher = Batcher(rules, config.max_queue, clock)
        self._breaker = Breaker(config.max_deaths, config.death_window_s, config.pause_s, config.max_pause_s)
        self._forecast = Forecast()
        self._statistics = Statistics(f"{spec.name}@{spec.version}", clock, metrics)
        self._replicas: list[ReplicaProcess] = []
        self._numbers = itertools.count(1)
        self._wanted = 0
        self._pumping: asyncio.Handle | None = None
        self._alarm = Alarm(clock, self._pump)
        self._flight_deadline_s: float | None = None
        self._last_ready: ReplicaProcess | None = None
        self._was_complete = False
        self._error: str | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Begin to start the replicas."""
        self._wanted = self.spec.replicas
        self._fill()
        self._schedule_pump()

    async def stop(self) -> None:
        """End the replicas; what waits or is being answered fails with ``Draining``."""
        self._is_stopping = True
        self._alarm.cancel()
        if self._pumping is not None:
            self._pumping.cancel()
        self._batcher.fail_all(_draining)
        replicas, self._replicas = self._replicas, []
        for replica in replicas:
            for call in replica.calls.values():
                for ticket in call.open_tickets:
                    ticket.fail(_draining())
        await asyncio.gather(*(replica.stop(self._config.stop_grace_s) for replica in replicas))
        self._statistics.show(0, 0)

    def reserve(self, priority: Priority) -> Place:
        """Keep a place in the queue; raises as ``Engine.reserve`` does."""
        self._check_open()
        return self._batcher.reserve(priority)

    def admit(self, request: InferenceRequest, *, has_place: bool = False) -> Ticket:
        """Let a request wait for its answer; raises as ``Engine.ask`` does for what is refused at once."""
        try:
            self._check_open()
            ticket = self._batcher.admit(request, has_place=has_place)
        except FreeroamError:
            self._statistics.count_outcome("rejected")
            raise
        self._schedule_pump()
        return ticket

    def abandon(self, ticket: Ticket) -> None:
        """Take out a request whose asker is gone, wherever it is."""
        self._statistics.count_outcome("cancelled")
        if not self._batcher.remove(ticket):
            for replica in self._replicas:
                if replica.forget(ticket):
                    break

    def change_rules(self, max_batch: int | None = None, max_batch_wait_ms: float | None = None) -> None:
        """Change how batches are made from the next one on."""
        rules = self._batcher.rules
        self._batcher.rules = replace(
            rules,
            max_batch=rules.max_batch if max_batch is None else max_batch,
            max_wait_s=rules.max_wait_s if max_batch_wait_ms is None else max_batch_wait_ms / 1000.0,
        )
        self._schedule_pump()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits here and nothing is being answered."""
        return not len(self._batcher) and not any(replica.calls for replica in self._replicas)

    @property
    def state(self) -> ModelState:
        """Where it is in its life."""
        ready = self._ready
        if self._is_stopping:
            return ModelState.UNLOADED
        if self._wanted and len(ready) >= self._wanted:
            return ModelState.READY
        if self._is_stopped_by_breaker:
            return ModelState.FAILED
        if self._was_complete or self._error is not None:
            return ModelState.DEGRADED
        if any(replica.state is ModelState.WARMING for replica in self._replicas):
            return ModelState.WARMING
        return ModelState.LOADING

    def describe(self) -> ModelInfo:
        """Return what the outside sees of it."""
        known = self._last_ready
        return ModelInfo(
            name=self.spec.name,
            version=self.spec.version,
            model_type=known.model_type if known else self.spec.model_type,
            state=self.state,
            device=known.device if known else self.spec.device,
            wishes=known.wishes if known else ModelWishes(max_batch=1),
            info=known.info if known else {},
            replicas_ready=len(self._ready),
            replicas_wanted=self._wanted,
            queued=len(self._batcher),
            statistics=self._statistics.snapshot(),
            error=self._error,
        )

    @property
    def pids(self) -> list[int]:
        """Process ids of the replicas that run."""
        return [replica.pid for replica in self._replicas if replica.pid is not None]

    # What replicas tell.

    def replica_changed(self, replica: ReplicaProcess) -> None:
        """Note that a replica goes on with loading, or is ready."""
        if replica.is_ready:
            self._last_ready = replica
            self._breaker.record_ready()
            self._fill()
            if len(self._ready) >= self._wanted:
                self._was_complete, self._error = True, None
            self._schedule_pump()
        self._tell()

    def replica_stepped(self, replica: ReplicaProcess, message: Message) -> None:
        """Hand out what a replica answered."""
        self._breaker.record_answer()
        ended_s = message["started_s"] + message["model_ms"] / 1000.0
        if message["batch"]:
            self._statistics.add_call(message["batch"], message["model_ms"])
            self._forecast.record(message["batch"], message["model_ms"] / 1000.0)
        for part in message["parts"]:
            call = replica.calls.get(part["call"])
            if call is None:
                continue  # it was taken back and another replica answers it
            if call.started_s is None:
                call.started_s = message["started_s"]
            self._take_part(replica, call, part, ended_s, message["batch"])
            if not call.open_tickets:
                del replica.calls[call.number]
                replica.begun_s = self._clock.monotonic_s()
        self._pump()

    def replica_ended(self, replica: ReplicaProcess, loss: Loss) -> None:
        """Replace a replica that is gone, unless they keep dying; ask its questions again, once."""
        if replica not in self._replicas:
            return
        self._replicas.remove(replica)
        self._error = loss.message
        is_certain = loss.reason == "load_failed" and not self._ready
        self._breaker.record_death(self._clock.monotonic_s(), is_certain=is_certain)
        self._statistics.count_restart(loss.reason)
        again = [*loss.innocents, *self._second_chances(loss)]
        self._batcher.put_back(again)
        log.warning("replica_lost", replica=replica.name, reason=loss.reason, why=loss.message, asked_again=len(again))
        if self._is_stopped_by_breaker:
            failed = self._batcher.fail_all(self._not_ready)
            self._statistics.count_outcome("failed", failed)
            log.error("model_failed", model=self.spec.name, version=self.spec.version, why=loss.message)
        self._fill()
        self._tell()
        self._schedule_pump()

    def _second_chances(self, loss: Loss) -> list[Ticket]:
        """Return the suspects that are asked again, each in a batch of its own; fail the others."""
        again = []
        for ticket in loss.suspects:
            if ticket.is_over:
                continue
            ticket.losses += 1
            if ticket.may_be_asked_again:
                ticket.tokens.clear()
                again.append(ticket)
            else:
                code = "inference_timeout" if loss.reason == "hung" else "replica_lost"
                times = "twice" if ticket.losses > 1 else "after part of its answer had been given out"
                ticket.fail(ModelError(f"the model's process was lost {times}: {loss.message}", code=code))
                self._statistics.count_outcome("failed")
        self._statistics.count_asked_again(len(again))
        return again

    def _take_part(self, replica: ReplicaProcess, call: Call, part: Message, ended_s: float, batch: int) -> None:
        for place, texts in part["pieces"]:
            ticket = call.tickets[place]
            if ticket is not None:
                ticket.speak(texts)
        for place, answer, error in part["answers"]:
            ticket, call.tickets[place] = call.tickets[place], None
            if ticket is None or ticket.is_over:
                continue
            if error is not None:
                ticket.fail(error_of(error))
                self._statistics.count_outcome("failed")
            elif answer is not None:
                try:
                    output = output_of(answer, ticket, call, replica, ended_s, batch)
                except Exception as error:  # whatever a model may have put into its answer costs this question only
                    log.exception("answer_unusable", replica=replica.name)
                    ticket.fail(ModelError(f"the model's answer cannot be used: {error}"))
                    self._statistics.count_outcome("failed")
                    continue
                ticket.resolve(output)
                self._statistics.count_outcome("answered")
                self._statistics.add_answer(output.wait_ms, output.wait_ms + output.model_ms)

    # The match between queue and replicas.

    @property
    def _ready(self) -> list[ReplicaProcess]:
        return [replica for replica in self._replicas if replica.is_ready]

    @property
    def _is_stopped_by_breaker(self) -> bool:
        return self._breaker.is_open and not self._ready

    def _check_open(self) -> None:
        if self._is_stopping:
            raise _draining()
        if self._is_stopped_by_breaker:
            raise self._not_ready()

    def _not_ready(self) -> ModelNotReady:
        retry_at_s = self._breaker.retry_at_s
        rest_s = 1.0 if retry_at_s is None else max(1.0, retry_at_s - self._clock.monotonic_s())
        return ModelNotReady(f"model {self.spec.name} has failed: {self._error}", retry_after_s=rest_s)

    def _tell(self) -> None:
        self._statistics.show(len(self._batcher), len(self._ready))
        self.changed.set()

    def _fill(self) -> None:
        """Start replicas until there are as many as wanted; one only while the breaker tries."""
        if self._is_stopping or self._breaker.retry_at_s is not None:
            return
        wanted = min(self._wanted, len(self._ready) + 1) if self._breaker.is_open else self._wanted
        while len(self._replicas) < wanted:
            self._replicas.append(ReplicaProcess(self.spec, next(self._numbers), self, self._clock))

    def _schedule_pump(self) -> None:
        """Pump once in this turn of the loop, after everybody else who asks in it."""
        if self._pumping is None and not self._is_stopping:
            self._pumping = asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        if self._pumping is not None:
            self._pumping.cancel()
            self._pumping = None
        if self._is_stopping:
            return
        now_s = self._clock.monotonic_s()
        self._statistics.count_outcome("expired", len(self._batcher.expire()))
        due = [self._end_expired(now_s), self._end_silent(now_s), self._try_again(now_s)]
        wait_s = self._dispatch(now_s)
        if wait_s is not None:
            due.append(now_s + wait_s)
        due.append(self._batcher.first_deadline_s)
        times = [moment_s for moment_s in due if moment_s is not None]
        if times:
            self._alarm.set(min(times))
        self._statistics.show(len(self._batcher), len(self._ready))

    def _dispatch(self, now_s: float) -> float | None:
        """Send batches while there is credit; return after how long to try again, if time alone changes anything."""
        while len(self._batcher):
            best = best_credit(self._ready, self._forecast, now_s)
            if best is None:
                return None
            replica, credit = best
            expected_s = self._forecast.expect_s(self._batcher.rules.max_batch) or 0.0
            tickets, wait_s = self._batcher.next_batch(credit, expected_s, LEAD_S)
            if not tickets:
                return wait_s
            self._send(replica, tickets)
        self._share_out()
        return None

    def _share_out(self) -> None:
        """Give an idle replica the batch that waits behind another's, so that no request waits while one is idle."""
        for idle in self._ready:
            if idle.calls:
                continue
            for busy in self._ready:
                tickets = [ticket for ticket in busy.take_back() if not ticket.is_over]
                if tickets:
                    self._send(idle, tickets)
                    break

    def _send(self, replica: ReplicaProcess, tickets: list[Ticket]) -> None:
        try:
            replica.send(tickets)
        except Exception as error:  # a batch that cannot be packed fails alone; the model goes on
            log.exception("batch_not_sent", replica=replica.name)
            for ticket in tickets:
                ticket.fail(ModelError(f"the question could not be sent to the model: {error}"))
            self._statistics.count_outcome("failed", len(tickets))
            return
        for ticket in tickets:
            deadline_s = ticket.request.deadline_monotonic_s
            if deadline_s is not None:
                self._flight_deadline_s = min(deadline_s, self._flight_deadline_s or deadline_s)

    # What is due.

    def _end_expired(self, now_s: float) -> float | None:
        """Fail what is being answered but too late; return the next deadline among the rest."""
        if self._flight_deadline_s is None or now_s < self._flight_deadline_s:
            return self._flight_deadline_s
        self._flight_deadline_s = None
        for replica in self._replicas:
            for ticket in [ticket for call in replica.calls.values() for ticket in call.open_tickets]:
                deadline_s = ticket.request.deadline_monotonic_s
                if deadline_s is None or ticket.is_over:
                    continue
                if deadline_s <= now_s:
                    ticket.fail(DeadlineExceeded("the request's deadline passed before the model had answered"))
                    replica.forget(ticket)
                    self._statistics.count_outcome("expired")
                else:
                    self._flight_deadline_s = min(deadline_s, self._flight_deadline_s or deadline_s)
        return self._flight_deadline_s

    def _end_silent(self, now_s: float) -> float | None:
        """Kill replicas that have said nothing for too long; return when the next one is due."""
        next_s: float | None = None
        for replica in self._replicas:
            if not replica.is_ready:
                limit_s, reason = self._config.load_timeout_s, "load_timeout"
            elif replica.calls:
                limit_s, reason = self._config.inference_timeout_s, "hung"
            else:
                continue
            due_s = replica.heard_s + limit_s
            if due_s <= now_s:
                replica.kill(reason, f"replica {replica.name} said nothing for {limit_s:g} s")
            else:
                next_s = due_s if next_s is None else min(next_s, due_s)
        return next_s

    def _try_again(self, now_s: float) -> float | None:
        """Start one replica when the breaker's pause is over; return when that is."""
        retry_at_s = self._breaker.retry_at_s
        if retry_at_s is not None and retry_at_s <= now_s:
            self._breaker.begin_trial()
            self._fill()
            self._tell()
            return None
        return retry_at_s


def _draining() -> Draining:
    return Draining("the service is stopping")
