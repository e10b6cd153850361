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
    """A place in the queue of each model of an ensemble that is asked first.

    Args:
        places: By the model's name.
    """

    def __init__(self, places: Mapping[str, engine.Place]) -> None:
        self.of = dict(places)

    def release(self) -> None:
        """Give them all back."""
        for place in self.of.values():
            place.release()
