"""Which replica may be given the next batch, and when it will want it."""

from __future__ import annotations

from collections.abc import Iterable

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
    known, or which are overdue, come last.
    """
    best: tuple[float, ReplicaProcess, Credit] | None = None
    for replica in replicas:
        credit = credit_of(replica, forecast, now_s, max_batch)
        if credit is None:
            continue
        rank = _UNKNOWN_RANK_S if credit.free_in_s is None else credit.free_in_s
        if best is None or rank < best[0]:
            best = (rank, replica, credit)
    return None if best is None else best[1:]


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
