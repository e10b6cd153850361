"""The match between a queue and the replicas that take from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from freeroam.batching.batcher import Batcher
from freeroam.batching.ticket import Ticket
from freeroam.engines.credits import best_credit
from freeroam.engines.forecast import Forecast
from freeroam.engines.replica_process import ReplicaProcess
from freeroam.engines.statistics import Statistics
from freeroam.observability.logs import get_logger
from freeroam.vocabulary.errors import DeadlineExceeded, ModelError

LEAD_S = 0.005
"""How long before a busy model is expected to end its call the next batch is sent: several times what a hop takes."""

log = get_logger(__name__)


class Dispatch:
    """Sends batches to replicas that have room, and keeps the deadlines of what it sent.

    Args:
        batcher: The queue.
        statistics: Counts what could not be sent or came too late.

    Attributes:
        first_deadline_s: No deadline of what is being answered is earlier; None if none has one.
    """

    def __init__(self, batcher: Batcher, statistics: Statistics) -> None:
        self._batcher = batcher
        self._statistics = statistics
        self._forecast = Forecast()
        self.first_deadline_s: float | None = None

    def record(self, batch_size: int, duration_s: float) -> None:
        """Take in how long a call took."""
        self._forecast.record(batch_size, duration_s)

    def send_waiting(self, replicas: Sequence[ReplicaProcess], now_s: float) -> float | None:
        """Send batches while there is credit; return after how long to try again, if time alone changes anything."""
        while len(self._batcher):
            max_batch = self._batcher.rules.max_batch
            best = best_credit(replicas, self._forecast, now_s, max_batch)
            if best is None:
                return None
            replica, credit = best
            expected_s = self._forecast.expect_s(max_batch) or 0.0
            tickets, wait_s = self._batcher.next_batch(credit, expected_s, LEAD_S)
            if not tickets:
                return wait_s
            self._statistics.add_batch(now_s - min(ticket.admitted_s for ticket in tickets))
            self._send(replica, tickets)
        if len(replicas) > 1:
            self._share_out(replicas)
        return None

    def end_expired(self, replicas: Iterable[ReplicaProcess], now_s: float) -> None:
        """Fail what is being answered but too late."""
        if self.first_deadline_s is None or now_s < self.first_deadline_s:
            return
        self.first_deadline_s = None
        for replica in replicas:
            for ticket in [ticket for call in replica.calls.values() for ticket in call.open_tickets]:
                deadline_s = ticket.request.deadline_monotonic_s
                if deadline_s is None or ticket.is_over:
                    continue
                if deadline_s > now_s:
                    self._note_deadline(deadline_s)
                    continue
                ticket.fail(DeadlineExceeded("the request's deadline passed before the model had answered"))
                if ticket.seat is not None:
                    ticket.seat.leave(ticket)
                self._statistics.count_outcome("expired")

    def _share_out(self, replicas: Sequence[ReplicaProcess]) -> None:
        """Give an idle replica the batch that waits behind another's, so that no request waits while one is idle."""
        for idle in replicas:
            if idle.calls:
                continue
            for busy in replicas:
                tickets = [ticket for ticket in busy.book.take_back() if not ticket.is_over]
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
            if ticket.request.deadline_monotonic_s is not None:
                self._note_deadline(ticket.request.deadline_monotonic_s)

    def _note_deadline(self, deadline_s: float) -> None:
        if self.first_deadline_s is None or deadline_s < self.first_deadline_s:
            self.first_deadline_s = deadline_s
