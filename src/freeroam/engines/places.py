"""Places in the queues of models, kept for requests that are being made ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from freeroam.batching.batcher import Place

if TYPE_CHECKING:
    from freeroam.engines import engine
    from freeroam.engines.served_model import ServedModel


class KeptPlace:
    """A place in the queue of one version.

    Args:
        model: Whose queue.
        place: The place there.
    """

    __slots__ = ("_place", "model")

    def __init__(self, model: ServedModel, place: Place) -> None:
        self.model = model
        self._place = place

    def take(self) -> bool:
        """Give it back for the request that enters the queue now; return whether it was still kept."""
        was_held = self._place.is_held
        self._place.release()
        return was_held

    def release(self) -> None:
        """Give it back; does nothing the second time."""
        if self.take():
            self.model.place_released()


class Places:
    """Places in the queues of the models that an ensemble may ask.

    Args:
        first: Of those that are asked first, by name; one that takes no more is missing.
        then: Of the one behind a gate.
    """

    def __init__(self, first: Mapping[str, engine.Place], then: engine.Place | None = None) -> None:
        self.first = dict(first)
        self.then = then

    def release(self) -> None:
        """Give them all back."""
        for place in (*self.first.values(), self.then):
            if place is not None:
                place.release()
