"""Which replica may be given the next batch, and when it will want it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from freeroam.batching.policy import Credit
from freeroam.engines.forecast import Forecast
from freeroam.engines.replica_process import ReplicaProcess

_UNKNOWN_RANK_S = 1e9
_CALLS_HELD = 2


def best_credit(
    replicas: Iterable[ReplicaProcess], forecast: Forecast, now_s: float, max_batch: int
) -> tuple[ReplicaProcess, Credit] | None:
    """Return the ready replica that wants a batch first, and how much of it; None if all have enough.

    Idle ones come first, then busy ones by the time that their call is expected to take yet; those of which nothing is
    known, or which are overdue, come last. Of those that speak, the one with the fewest answers comes first, and gets
    no more than makes it the fullest by one: their steps are the shorter the fewer they speak to.
    """
    free = [
        (replica, credit)
        for replica in replicas
        if (credit := credit_of(replica, forecast, now_s, max_batch)) is not None
    ]
    if not free:
        return None
    best, credit = min(free, key=_rank)
    others = [other.open_questions for other, _ in free if other is not best]
    if best.wishes.streams_text and others:
        slots = min(others) - best.open_questions + 1
        credit = replace(credit, slots=max(1, min(credit.slots, slots)))
    return best, credit


def _rank(free: tuple[ReplicaProcess, Credit]) -> tuple[float, int]:
    replica, credit = free
    return (_UNKNOWN_RANK_S if credit.free_in_s is None else credit.free_in_s, replica.open_questions)


def credit_of(replica: ReplicaProcess, forecast: Forecast, now_s: float, max_batch: int) -> Credit | None:
    """Return what one ready replica may be given: its free places if it speaks, else a batch now and one ahead."""
    slots = min(replica.wishes.max_batch, max_batch)
    if replica.wishes.streams_text:
        free = slots - replica.open_questions
        return Credit(free) if free > 0 else None
    if not replica.calls:
        return Credit(slots)
    if len(replica.calls) >= _CALLS_HELD:
        return None
    expected_s = forecast.expect_s(len(next(iter(replica.calls.values())).tickets))
    if expected_s is None:
        return Credit(slots, None)
    rest_s = expected_s - (now_s - replica.begun_s)
    return Credit(slots, rest_s if rest_s > 0 else None)
