"""Where one version is in its life, and whom it lets in meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from freeroam.clock import Clock
from freeroam.engines.answering import Rehome
from freeroam.engines.first_load import FirstLoad
from freeroam.engines.health import Health
from freeroam.engines.replica_process import ReplicaProcess
from freeroam.engines.replica_set import ReplicaSet
from freeroam.vocabulary.errors import FreeroamError, ModelNotReady, NotFound
from freeroam.vocabulary.model import ModelState


class Standing:
    """The life of one version, from loading to its end.

    Args:
        name: What messages call it.
        replicas: Those of the version.
        health: What they find when they look at their models.
        clock: Where time comes from.

    Attributes:
        known: The replica that became ready last; None before the first one did.
        first_load: Whether it was there for anybody yet.
        loss: Why a replica was lost, the last time one was; None if none was since all were ready.
        rehome: Where its requests go once it only finishes what it has; None before.
        hands_back: Whether its requests go back to the version before, should it not load; they wait until they do.
        ending: What requests fail with once its replicas are being ended; None before.
    """

    def __init__(self, name: str, replicas: ReplicaSet, health: Health, clock: Clock) -> None:
        self.known: ReplicaProcess | None = None
        self.first_load = FirstLoad(clock)
        self.loss: str | None = None
        self.rehome: Rehome | None = None
        self.hands_back = False
        self.ending: Callable[[], FreeroamError] | None = None
        self._name = name
        self._replicas = replicas
        self._health = health
        self._was_complete = False

    def note_ready(self, replica: ReplicaProcess) -> None:
        """Take in that a replica became ready."""
        self.known, self.first_load.is_over = replica, True
        self.hands_back = False
        if self._replicas.is_complete:
            self._was_complete, self.loss = True, None

    @property
    def is_open(self) -> bool:
        """Whether it takes requests: it neither ends, nor loads for the first time, nor has it failed for now."""
        return not (self.ending or self.rehome or self.has_failed or self.first_load.refuses)

    @property
    def has_failed(self) -> bool:
        """Whether requests are refused because its replicas keep dying."""
        return self._replicas.is_stopped and not self.hands_back

    @property
    def state(self) -> ModelState:
        """Where it is in its life."""
        if self.ending is not None:
            return ModelState.UNLOADED
        if self.rehome is not None:
            return ModelState.DRAINING
        if self._replicas.is_complete:
            return ModelState.DEGRADED if self._health.error else ModelState.READY
        if self._replicas.is_stopped:
            return ModelState.FAILED
        # One that lost a process before it ever was there answers nobody; it loads anew, and readiness says so.
        if self._was_complete or (self.loss is not None and self.first_load.is_over):
            return ModelState.DEGRADED
        return ModelState.WARMING if self._replicas.is_warming else ModelState.LOADING

    @property
    def error(self) -> str | None:
        """What was wrong last, with a replica or with what one found; None if all is well."""
        return self.loss or self._health.error

    def check_open(self, *, has_place: bool = False, waits_for_load: bool = False) -> None:
        """Let a request in, or refuse it.

        Args:
            has_place: Whether it had a place, here or in a version before this one.
            waits_for_load: Whether it waits for a version that was never there.

        Raises:
            NotFound: The version only finishes what it has.
            ModelNotReady: It has failed for now, or is being loaded for the first time.
            FreeroamError: What it is being ended with.
        """
        if self.rehome is not None and not has_place:
            raise NotFound(f"{self._name} is being unloaded; leave out the version to ask the one that follows")
        if self.ending is not None:
            raise self.ending()
        if self.has_failed:
            raise self.failure()
        if self.first_load.refuses and not waits_for_load:
            raise self.first_load.refusal(self._name)

    def failure(self) -> ModelNotReady:
        """Return what requests are told while it has failed."""
        return ModelNotReady(f"{self._name} has failed: {self.loss}", retry_after_s=self._replicas.retry_in_s)
