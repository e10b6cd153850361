"""A replica: one process with one copy of a model, one synchronous loop round it.

Each turn of the loop drains the socket, makes one step (a whole batch, or the next token of every answer being spoken)
and sends one message. Nothing runs beside it, so a busy model never waits for the interpreter.

From the parent: ``load`` (once), then ``ring`` {ring} with a file descriptor, ``call`` {id, questions, places, blobs}
(for each frame in turn its ring and place, or None for one that is among the blobs), ``cancel`` {call, questions or
None for all}, ``check`` {id} and ``ring gone`` {ring}.
To the parent: ``state``, then ``ready`` or ``failed``, then ``health`` {id, error} for each check and ``step``
{started_s, model_ms, batch, begun, pieces, answers}: ``begun`` names the calls whose answers began to be spoken in this
step, ``pieces`` is call, question, texts, and again; each of ``answers`` is [call, question, answer, error]; a call is
over with its last answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from freeroam.models.answers import normalised, plain
from freeroam.models.base import MAX_TOKENS, BaseVLM, Question, Said, Speaker
from freeroam.models.loading import load_model
from freeroam.processes.lifeline import connect
from freeroam.processes.memory import give_memory_back, keep_large_blocks_apart, leave_what_is_loaded
from freeroam.processes.ring import RingReader
from freeroam.processes.wire import BLOBS, BlockingWire, Message
from freeroam.vocabulary.errors import FreeroamError, InvalidInput
from freeroam.vocabulary.inference import InferenceParams
from freeroam.vocabulary.model import ModelWishes

_ERROR_CHARS = 2000
_SIGN_OF_LIFE_S = 1.0
_LOADING_SCORE, _READY_SCORE = 1000, 300
_DEFAULT_PARAMS = InferenceParams()


@dataclass(slots=True)
class _Call:
    """One batch on its way; ``cancelled`` holds the places of questions nobody waits for any more."""

    number: int
    questions: list[Question]
    wants_pieces: list[bool]
    cancelled: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Speech:
    """One answer that is being spoken."""

    call: _Call
    place: int
    texts: list[str] = field(default_factory=list)


class _Step:
    """What one step has for the parent.

    Attributes:
        started_s: When it began, monotonic.
        batch: Questions or answers that the model worked at.
        begun: Calls whose answers joined before it.
        pieces: Call, question and texts of each answer that gained something, one after the other.
        answers: ``[call, question, answer, error]`` of each that is over.
    """

    __slots__ = ("answers", "batch", "begun", "pieces", "started_s")

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.batch = 0
        self.begun: list[int] = []
        self.pieces: list[Any] = []
        self.answers: list[list[Any]] = []

    def drop(self, call: _Call, places: Iterable[int]) -> None:
        """Say of questions that nobody waited for them any more."""
        self.answers += [[call.number, place, None, None] for place in places]


class Replica:
    """The loop.

    Args:
        wire: To the parent.
    """

    def __init__(self, wire: BlockingWire) -> None:
        self._wire = wire
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._model: BaseVLM | None = None
        self._wishes = ModelWishes()
        self._max_tokens = MAX_TOKENS
        self._calls: deque[_Call] = deque()
        self._checks: list[int] = []
        self._speeches: dict[int, _Speech] = {}
        self._speech_numbers = itertools.count(1)
        self._speaker: Speaker | None = None
        self._heard_of_s = 0.0
        self._has_unwanted = False
        self._rings = RingReader()

    def run(self) -> None:
        """Load, then answer until the parent closes the wire."""
        order = self._wire.receive()
        if order is None:
            return
        try:
            self._load(order)
        except Exception as error:
            traceback.print_exc()
            code = error.code if isinstance(error, FreeroamError) else "load_failed"
            self._wire.send({"kind": "failed", "code": code, "error": _describe(error)})
            return
        while not self._wire.is_closed:
            self._listen()
            self._step()
        self._loop.run_until_complete(self._the_model.close())

    @property
    def _the_model(self) -> BaseVLM:
        assert self._model is not None
        return self._model

    def _load(self, order: Message) -> None:
        _offer_to_be_ended(_LOADING_SCORE)
        self._wire.send({"kind": "state", "state": "loading"})
        self._max_tokens = order["max_tokens"]
        self._model = load_model(order["model_type"], order["options"])
        self._loop.run_until_complete(self._model.initialize(order["model_path"], order["device"]))
        wishes = self._model.get_wishes()
        self._wishes = wishes.model_copy(update={"max_batch": max(1, min(wishes.max_batch, order["max_batch"]))})
        self._wire.send({"kind": "state", "state": "warming"})
        if order["warms_up"]:
            self._loop.run_until_complete(self._model.warm_up())
        if self._wishes.streams_text:
            self._speaker = self._model.open_speaker()
        # A library of models has a million objects; a full collection of them would be a gap between two tokens.
        leave_what_is_loaded()
        _offer_to_be_ended(_READY_SCORE)
        info = plain(dict(self._model.get_model_info()))
        self._wire.send(
            {
                "kind": "ready",
                "info": info,
                "model_type": str(info.get("model_type") or order["model_type"]),
                "device": str(info.get("device") or order["device"]),
                "wishes": self._wishes.model_dump(),
            }
        )

    def _listen(self) -> None:
        """Take what is on the wire; wait for something only if there is nothing to do."""
        if not self._calls and not self._speeches and not self._checks:
            first = self._wire.receive()
            if first is None:
                return
            self._take(first)
        for message in self._wire.receive_ready():
            self._take(message)

    def _take(self, message: Message) -> None:
        if message["kind"] == "call":
            self._calls.append(_read_call(message, self._rings, self._max_tokens))
        elif message["kind"] == "ring":
            self._rings.attach(message["ring"], self._wire.take_descriptor())
        elif message["kind"] == "ring gone":
            self._rings.detach(message["ring"])
        elif message["kind"] == "check":
            self._checks.append(message["id"])
        elif message["kind"] == "cancel":
            for call in [*self._calls, *(speech.call for speech in self._speeches.values())]:
                if call.number == message["call"]:
                    places = message["questions"]
                    call.cancelled.update(range(len(call.questions)) if places is None else places)
                    self._has_unwanted = True
                    break

    def _step(self) -> None:
        for number in self._checks:
            self._wire.send({"kind": "health", "id": number, "error": self._look()})
        self._checks.clear()
        if self._speaker is not None:
            self._speak(self._speaker)
        elif self._calls:
            self._answer(self._calls.popleft())

    def _look(self) -> str | None:
        """Return what the model finds wrong with itself."""
        try:
            self._loop.run_until_complete(self._the_model.check_health())
        except Exception as error:
            traceback.print_exc()
            return _describe(error)
        return None

    def _answer(self, call: _Call) -> None:
        """Put one batch to the model and send all its answers in one message."""
        step = _Step()
        places = [place for place in range(len(call.questions)) if place not in call.cancelled]
        if places:
            questions = [call.questions[place] for place in places]
            try:
                given = self._loop.run_until_complete(self._the_model.predict_batch(questions))
                if not isinstance(given, list) or len(given) != len(questions):
                    raise TypeError(f"predict_batch must return a list of {len(questions)} answers, not {given!r:.200}")
            except Exception as error:
                traceback.print_exc()
                given = [error] * len(questions)
            step.answers = [_answered(call, place, answer) for place, answer in zip(places, given, strict=True)]
        step.batch = len(places)
        step.drop(call, sorted(call.cancelled))
        self._send(step)

    def _speak(self, speaker: Speaker) -> None:
        """Let new answers join and unwanted ones leave, make one step, and send what came in one message."""
        step = _Step()
        if self._has_unwanted:
            self._end_unwanted(speaker, step)
        if self._calls:
            self._begin_speeches(speaker, step)
        step.batch = len(self._speeches)
        for said in self._said(speaker) if step.batch else ():
            speech = self._speeches.get(said.key)
            if speech is None:
                continue
            call, texts, answer = speech.call, said.texts, said.answer
            room = call.questions[speech.place].most_tokens() - len(speech.texts)
            if answer is None and len(texts) > room:
                speaker.leave(said.key)
                texts, answer = texts[:room], {"finish_reason": "length"}
            if texts:
                speech.texts.extend(texts)
                if call.wants_pieces[speech.place]:
                    step.pieces += (call.number, speech.place, texts)
            if answer is not None:
                del self._speeches[said.key]
                step.answers.append(_spoken(speech, answer))
        if step.pieces or step.answers:
            self._send(step)
        elif step.begun or step.started_s - self._heard_of_s > _SIGN_OF_LIFE_S:
            step.batch = 0
            self._send(step)

    def _said(self, speaker: Speaker) -> Sequence[Said]:
        try:
            return speaker.step()
        except Exception as error:
            traceback.print_exc()
            for key in self._speeches:
                speaker.leave(key)
            return [Said(key, (), error) for key in list(self._speeches)]

    def _end_unwanted(self, speaker: Speaker, step: _Step) -> None:
        self._has_unwanted = False
        for key, speech in list(self._speeches.items()):
            if speech.place in speech.call.cancelled:
                speaker.leave(key)
                del self._speeches[key]
                step.drop(speech.call, [speech.place])

    def _begin_speeches(self, speaker: Speaker, step: _Step) -> None:
        while self._calls and len(self._speeches) < self._wishes.max_batch:
            call = self._calls.popleft()
            step.begun.append(call.number)
            step.drop(call, sorted(call.cancelled))
            for place, question in enumerate(call.questions):
                if place in call.cancelled:
                    continue
                key = next(self._speech_numbers)
                try:
                    speaker.join(key, question)
                except Exception as error:  # a question that a model cannot take costs itself only
                    # What a caller did wrong is told to the caller, and is no line of the operator's log.
                    if not isinstance(error, InvalidInput):
                        traceback.print_exc()
                    step.answers.append(_answered(call, place, error))
                else:
                    self._speeches[key] = _Speech(call, place)

    def _send(self, step: _Step) -> None:
        message = {
            "kind": "step",
            "started_s": step.started_s,
            "model_ms": (time.monotonic() - step.started_s) * 1000.0,
            "batch": step.batch,
            "begun": step.begun,
            "pieces": step.pieces,
            "answers": step.answers,
        }
        self._heard_of_s = step.started_s
        try:
            self._wire.send(message)
        except Exception as error:  # an answer that cannot be packed costs its batch, not the process
            traceback.print_exc()
            failure = {"code": "model_failed", "error": f"the answer could not be sent: {_describe(error)}"}
            gained = list(zip(step.pieces[::3], step.pieces[1::3], strict=True))
            ended = [(number, place) for number, place, _, _ in step.answers]
            message["answers"] = [[number, place, None, failure] for number, place in dict.fromkeys(ended + gained)]
            message["pieces"] = []
            for speech in self._speeches.values():
                if (speech.call.number, speech.place) in gained:
                    speech.call.cancelled.add(speech.place)
                    self._has_unwanted = True
            self._wire.send(message)


def _read_call(message: Message, rings: RingReader, max_tokens: int) -> _Call:
    blobs, places = iter(message.get(BLOBS, ())), iter(message["places"])
    questions = []
    for question in message["questions"]:
        frames = tuple(
            _picture(_pixels(next(places), blobs, rings, height_px * width_px * 3), height_px, width_px)
            for height_px, width_px in question["frames"]
        )
        params = InferenceParams(**question["params"]) if question["params"] else _DEFAULT_PARAMS
        questions.append(Question(frames, question["prompt"], params, max_tokens))
    if rings.trim():
        give_memory_back(collects=False)
    return _Call(message["id"], questions, [bool(question["pieces"]) for question in message["questions"]])


def _pixels(
    place: tuple[int, int] | None, blobs: Iterator[memoryview], rings: RingReader, size_bytes: int
) -> memoryview:
    """Return a frame's pixels: copied from its place in a ring, or as they came."""
    if place is None:
        return next(blobs)
    ring, at = place
    return rings.copy(ring, at, size_bytes)


def _picture(pixels: memoryview, height_px: int, width_px: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    picture = np.frombuffer(pixels, dtype=np.uint8).reshape(height_px, width_px, 3)
    picture.flags.writeable = False
    return picture


def _spoken(speech: _Speech, answer: dict[str, Any] | Exception) -> list[Any]:
    """Return the end of an answer that was spoken, filled up with what was said."""
    if isinstance(answer, dict):
        try:
            answer = {"text": "".join(speech.texts), "completion_tokens": len(speech.texts), **answer}
        except TypeError as error:
            answer = TypeError(f"the model said something else than text: {error}")
        else:
            # Whoever was given the pieces has them already.
            answer |= {} if speech.call.wants_pieces[speech.place] else {"_tokens": speech.texts}
    return _answered(speech.call, speech.place, answer)


def _answered(call: _Call, place: int, answer: Any) -> list[Any]:
    """Return ``[call, place, answer, error]`` with one of the last two None."""
    try:
        if isinstance(answer, BaseException):
            raise answer
        return [call.number, place, normalised(answer), None]
    except FreeroamError as error:
        return [call.number, place, None, {"code": error.code, "error": error.message[:_ERROR_CHARS]}]
    except Exception as error:
        return [call.number, place, None, {"code": "model_failed", "error": _describe(error)}]


def _describe(error: BaseException) -> str:
    if isinstance(error, FreeroamError):
        return error.message[:_ERROR_CHARS]
    return f"{type(error).__name__}: {error}"[:_ERROR_CHARS]


def _offer_to_be_ended(score: int) -> None:
    """Say how gladly this process is ended when the system runs out of memory; does nothing elsewhere than on Linux.

    A replica goes before the service that can replace it, and one that is loading before those that answer.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score), encoding="ascii")


def main() -> None:
    """Run as ``python -m freeroam.engines.replica``."""
    keep_large_blocks_apart()
    Replica(connect(sys.argv[1:])).run()


if __name__ == "__main__":
    main()
