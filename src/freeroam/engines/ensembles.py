"""Several models under one name: all are asked at once, or one is the gate of another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from freeroam.engines.engine import Place
from freeroam.engines.places import Places
from freeroam.engines.specs import EnsembleSpec, Gate
from freeroam.vocabulary.errors import ConfigurationError, FreeroamError, NotFound
from freeroam.vocabulary.inference import InferenceRequest, Output, Piece, Prediction, Priority
from freeroam.vocabulary.model import ModelInfo, ModelState, ModelWishes

VERSION = "1"

_WORST_FIRST = (
    ModelState.FAILED,
    ModelState.UNLOADED,
    ModelState.LOADING,
    ModelState.WARMING,
    ModelState.DRAINING,
    ModelState.DEGRADED,
    ModelState.READY,
)


class Models(Protocol):
    """Who answers for the members."""

    def reserve(self, model: str, priority: Priority, *, waits_for_load: bool = False) -> Place:
        """Keep a place in a model's queue."""
        ...

    async def ask(self, request: InferenceRequest, place: Place | None = None) -> Output:
        """Answer one request."""
        ...

    def stream(self, request: InferenceRequest, place: Place | None = None) -> AsyncIterator[Piece | Output]:
        """Answer one request piece by piece."""
        ...

    def describe(self, model: str | None = None) -> ModelInfo:
        """Return what a model is."""
        ...

    def wishes_of(self, model: str | None = None) -> ModelWishes:
        """Return what a model would like to be given."""
        ...

    def awaits_successor(self, model: str | None = None) -> bool:
        """Tell whether a model waits for its next version."""
        ...


class Ensemble:
    """Models that answer together.

    Args:
        spec: Which, and how.
        models: Who answers for them.
    """

    def __init__(self, spec: EnsembleSpec, models: Models) -> None:
        self.spec = spec
        self.version = VERSION
        self._models = models

    is_open = True
    is_retired = False

    @property
    def state(self) -> ModelState:
        """The worst of its parts; with members that are all asked, ready or degraded while one of them is."""
        states = [self._state_of(part) for part in self.spec.parts]
        worst = min(states, key=_WORST_FIRST.index)
        can_answer = {ModelState.READY, ModelState.DEGRADED}
        if self.spec.gate is None and worst not in can_answer and can_answer & set(states):
            return ModelState.DEGRADED
        return worst

    @property
    def wishes(self) -> ModelWishes:
        """The largest pictures and the longest window that a part wishes, and the smallest batch."""
        wishes = [self._models.wishes_of(part) for part in self.spec.parts]
        last = wishes[-1]
        return ModelWishes(
            width_px=_largest(wish.width_px for wish in wishes),
            height_px=_largest(wish.height_px for wish in wishes),
            window=_largest(wish.window for wish in wishes),
            max_batch=min(wish.max_batch for wish in wishes),
            streams_text=self.spec.gate is not None and last.streams_text,
        )

    @property
    def awaits_load(self) -> bool:
        """Whether a part waits for its next version."""
        return any(self._models.awaits_successor(part) for part in self.spec.parts)

    def describe(self) -> ModelInfo:
        """Return what the outside sees of it; its parts stand in ``info``."""
        spec, gate = self.spec, self.spec.gate
        shape: dict[str, Any] = {"members": list(spec.members)} if gate is None else {"gate": _shown(gate)}
        parts = [info for part in spec.parts if (info := self._info_of(part)) is not None]
        return ModelInfo(
            name=spec.name,
            version=VERSION,
            model_type="ensemble",
            state=self.state,
            device=", ".join(sorted({info.device for info in parts})),
            wishes=self.wishes,
            info={"model_type": "ensemble", **shape},
            replicas_ready=sum(info.replicas_ready for info in parts),
            replicas_wanted=sum(info.replicas_wanted for info in parts),
            error="; ".join(info.error for info in parts if info.error) or None,
        )

    def reserve(self, priority: Priority, *, waits_for_load: bool = False) -> Places:
        """Keep a place in the queue of every model that may be asked; raises as ``Engine.reserve`` does.

        The one behind a gate is among them, since what it cannot take must not cost the gate's work. Of members that
        are all asked, the answer tells which took no more, as it does of one that fails; only if all refuse, so does
        this.
        """
        reserve = partial(self._models.reserve, priority=priority, waits_for_load=waits_for_load)
        gate = self.spec.gate
        if gate is not None:
            then = reserve(gate.then)
            try:
                return Places({gate.model: reserve(gate.model)}, then)
            except FreeroamError:
                then.release()
                raise
        places: dict[str, Place] = {}
        refusals: list[FreeroamError] = []
        for member in dict.fromkeys(self.spec.members):
            try:
                places[member] = reserve(member)
            except FreeroamError as error:
                refusals.append(error)
        if not places:
            raise refusals[0]
        return Places(places)

    async def ask(self, request: InferenceRequest, place: Places | None = None) -> Output:
        """Answer one request; cancelling takes it out of every queue."""
        gate = self.spec.gate
        if gate is None:
            return await self._ask_all(request, {} if place is None else place.first)
        places = self._places_for(request, place)
        try:
            first, passed = await self._ask_gate(gate, request, places)
            if not passed:
                return self._of_gate_alone(gate, first)
            return self._of_both(gate, first, await self._models.ask(replace(request, model=gate.then), places.then))
        finally:
            places.release()

    async def stream(self, request: InferenceRequest, place: Places | None = None) -> AsyncIterator[Piece | Output]:
        """Answer one request, the text behind a gate piece by piece; raises as ``ask`` does."""
        gate = self.spec.gate
        if gate is None:
            output = await self.ask(request, place)
            if output.text:
                yield Piece(output.text, 0)
            yield output
            return
        places = self._places_for(request, place)
        try:
            first, passed = await self._ask_gate(gate, request, places)
            if not passed:
                output = self._of_gate_alone(gate, first)
                if output.text:
                    yield Piece(output.text, 0)
                yield output
                return
            speaking = self._models.stream(replace(request, model=gate.then), places.then)
            async with aclosing(speaking) as speech:  # type: ignore[type-var]
                async for item in speech:
                    yield self._of_both(gate, first, item) if isinstance(item, Output) else item
        finally:
            places.release()

    def _places_for(self, request: InferenceRequest, place: Places | None) -> Places:
        return self.reserve(request.priority, waits_for_load=request.waits_for_load) if place is None else place

    async def _ask_all(self, request: InferenceRequest, places: dict[str, Place]) -> Output:
        members = self.spec.members
        async with asyncio.TaskGroup() as tasks:
            asking = {name: tasks.create_task(self._try(name, request, places.get(name))) for name in members}
        answers: dict[str, Output] = {}
        errors: dict[str, FreeroamError] = {}
        for name, one in asking.items():
            outcome = one.result()
            if isinstance(outcome, Output):
                answers[name] = outcome
            else:
                errors[name] = outcome
        if not answers:
            raise next(iter(errors.values()))
        return self._joined(answers, errors)

    async def _try(self, name: str, request: InferenceRequest, place: Place | None) -> Output | FreeroamError:
        try:
            return await self._models.ask(replace(request, model=name, wants_pieces=False), place)
        except FreeroamError as error:
            return error

    def _joined(self, answers: dict[str, Output], errors: dict[str, FreeroamError]) -> Output:
        first = next(iter(answers.values()))
        told: list[dict[str, Any]] = [_told(name, output) for name, output in answers.items()]
        told += [{"name": name, "error": error.message, "code": error.code} for name, error in errors.items()]
        texts = [output.text for output in answers.values() if output.text]
        slowest = max(answers.values(), key=lambda output: output.started_monotonic_s * 1000.0 + output.model_ms)
        return replace(
            slowest,
            predictions=[one for name, output in answers.items() for one in _named(name, output)],
            text="\n".join(texts) if texts else None,
            confidence=[number for output in answers.values() for number in output.confidence],
            extra={"members": told},
            model=self.spec.name,
            version=VERSION,
            model_type="ensemble",
            finish_reason=first.finish_reason,
            prompt_tokens=sum(output.prompt_tokens for output in answers.values()),
            completion_tokens=sum(output.completion_tokens for output in answers.values()),
            tokens=(),
        )

    async def _ask_gate(self, gate: Gate, request: InferenceRequest, places: Places) -> tuple[Output, bool]:
        params = request.params
        if gate.threshold:
            params = params.model_copy(update={"threshold": gate.threshold})
        question = replace(
            request,
            model=gate.model,
            prompt=request.prompt if gate.prompt is None else gate.prompt,
            params=params,
            wants_pieces=False,
        )
        output = await self._models.ask(question, places.first.get(gate.model))
        return output, passes(gate, output.predictions)

    def _of_gate_alone(self, gate: Gate, first: Output) -> Output:
        told = {"passed": False, "model": f"{first.model}@{first.version}", "then": gate.then}
        return replace(first, extra={**first.extra, "gate": told}, model=self.spec.name, version=VERSION, tokens=())

    def _of_both(self, gate: Gate, first: Output, second: Output) -> Output:
        told = {"passed": True, "model": f"{first.model}@{first.version}", "then": f"{second.model}@{second.version}"}
        return replace(
            second,
            predictions=[*_named(gate.model, first), *_named(gate.then, second)],
            confidence=[*first.confidence, *second.confidence],
            extra={**second.extra, "gate": told},
            model=self.spec.name,
            version=VERSION,
            wait_ms=first.wait_ms + second.wait_ms,
            model_ms=first.model_ms + second.model_ms,
            started_monotonic_s=first.started_monotonic_s,
        )

    def _info_of(self, part: str) -> ModelInfo | None:
        try:
            return self._models.describe(part)
        except NotFound:
            return None

    def _state_of(self, part: str) -> ModelState:
        info = self._info_of(part)
        return ModelState.UNLOADED if info is None else info.state


def passes(gate: Gate, predictions: Iterable[Prediction]) -> bool:
    """Tell whether what a gate saw is what it is to wait for; labels are compared without regard to case."""
    wanted = {label.casefold() for label in gate.labels}
    seen = sum(
        prediction.confidence >= gate.threshold and (not wanted or prediction.label.casefold() in wanted)
        for prediction in predictions
    )
    return seen >= gate.min_count


def check_ensembles(ensembles: Iterable[EnsembleSpec], models: Iterable[tuple[str, str]]) -> None:
    """Refuse ensembles that can never answer, before anything is started.

    Args:
        ensembles: All that are declared.
        models: Name and version of each model that is declared.

    Raises:
        ConfigurationError: A part is not declared, a name is used twice, or ensembles ask each other in a circle.
    """
    by_name: dict[str, EnsembleSpec] = {}
    known = {reference for name, version in models for reference in (name, f"{name}@{version}")}
    for spec in ensembles:
        if spec.name in by_name or spec.name in known:
            raise ConfigurationError(f"ensemble {spec.name}: the name is declared twice")
        by_name[spec.name] = spec
    for spec in by_name.values():
        if not spec.parts or (spec.members and spec.gate is not None):
            raise ConfigurationError(f"ensemble {spec.name}: it has either members or a gate")
        for part in spec.parts:
            if part not in known and part not in by_name:
                there = ", ".join(sorted({*known, *by_name} - {spec.name}))
                raise ConfigurationError(f"ensemble {spec.name}: {part} is not declared; there are: {there}")
        _refuse_circles(spec.name, by_name, ())


def _refuse_circles(name: str, by_name: dict[str, EnsembleSpec], path: tuple[str, ...]) -> None:
    if name in path:
        circle = " -> ".join([*path[path.index(name) :], name])
        raise ConfigurationError(f"ensemble {name}: it would ask itself: {circle}")
    for part in by_name[name].parts if name in by_name else ():
        _refuse_circles(part, by_name, (*path, name))


def _named(member: str, output: Output) -> list[Prediction]:
    """Return predictions that say whose they are; those of an ensemble inside keep the name that they have."""
    return [
        one if "member" in (one.model_extra or {}) else one.model_copy(update={"member": member})
        for one in output.predictions
    ]


def _told(name: str, output: Output) -> dict[str, Any]:
    told = {"name": name, "model": f"{output.model}@{output.version}", "text": output.text}
    return {**told, "extra": output.extra} if output.extra else told


def _shown(gate: Gate) -> dict[str, Any]:
    when = {"labels": list(gate.labels), "min_count": gate.min_count, "threshold": gate.threshold}
    return {"model": gate.model, "prompt": gate.prompt, "when": when, "then": gate.then}


def _largest(numbers: Iterable[int | None]) -> int | None:
    """Return the greatest; None if one of them is None, which stands for as much as there is."""
    known = list(numbers)
    return None if None in known else max(number for number in known if number is not None)
