"""What the replicas of one version find when they look at their models, and when they look again."""

from __future__ import annotations

from collections.abc import Iterable

from freeroam.engines.replica_process import ReplicaProcess
from freeroam.observability.logs import get_logger

log = get_logger(__name__)


class Health:
    """The complaints of replicas that run.

    Args:
        interval_s: Between two looks.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._complaints: dict[str, str] = {}
        self._next_s: float | None = None

    @property
    def error(self) -> str | None:
        """What is wrong; None if all is well."""
        return next(iter(self._complaints.values()), None)

    def note(self, replica: ReplicaProcess, error: str | None) -> None:
        """Take in what a replica found; None clears what it found before."""
        before = self._complaints.pop(replica.name, None)
        if error is not None:
            self._complaints[replica.name] = f"replica {replica.name} is not well: {error}"
            if before is None:
                log.warning("model_degraded", replica=replica.name, why=error)
        elif before is not None:
            log.info("model_recovered", replica=replica.name)

    def forget(self, replica: ReplicaProcess) -> None:
        """Forget a replica that is gone."""
        self._complaints.pop(replica.name, None)

    def look(self, ready: Iterable[ReplicaProcess], now_s: float) -> float:
        """Let replicas look at their models if it is time; return when it is next."""
        if self._next_s is None or now_s >= self._next_s:
            if self._next_s is not None:
                for replica in ready:
                    if not replica.is_checking:
                        replica.check()
            self._next_s = now_s + self._interval_s
        return self._next_s
