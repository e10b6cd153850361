"""What is asked, how often and of whom: pure values, and the times at which an open loop sends."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.inference import Priority

Door = Literal["infer", "openai"]
Pace = Literal["even", "poisson"]


@dataclass(frozen=True, slots=True)
class Wording:
    """One question that is asked.

    Attributes:
        prompt: Its text.
        max_tokens: Greatest length of its answer; None is the plan's.
    """

    prompt: str
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the load client.

    Attributes:
        model: None is the server's default model.
        concurrency: Questions in flight: exactly so many in a closed loop, at most so many in an open one.
        rate_per_s: Questions sent a second, whatever the server does (open loop); None sends the next when one is
            answered (closed loop).
        pace: How an open loop spreads its questions: evenly, or as independent callers do.
        duration_s: How long questions are sent; None goes by ``requests``.
        requests: How many are sent; None goes by ``duration_s``.
        warmup_s: Questions of the first seconds are not measured.
        wordings: Asked in turn.
        max_tokens: None leaves it to the server.
        temperature: None leaves it to the server.
        images: Pictures that go with every question, as ``data:`` URLs.
        priorities: Weight by level; empty sends none.
        is_streamed: Whether answers are read as they are spoken.
        timeout_s: Longest time of one question, from its sending.
        drain_s: How long questions that are in flight at the end are waited for.
        seed: Of what is drawn at random.
    """

    url: str
    wordings: Sequence[Wording]
    door: Door = "infer"
    model: str | None = None
    concurrency: int = 32
    rate_per_s: float | None = None
    pace: Pace = "poisson"
    duration_s: float | None = None
    requests: int | None = None
    warmup_s: float = 0.0
    max_tokens: int | None = None
    temperature: float | None = None
    images: Sequence[str] = ()
    priorities: Mapping[Priority, float] | None = None
    is_streamed: bool = True
    timeout_s: float = 60.0
    drain_s: float = 30.0
    seed: int = 0


def due_times_s(rate_per_s: float, pace: Pace, seed: int) -> Iterator[float]:
    """Give without end when questions are due, in seconds from the beginning.

    Args:
        rate_per_s: Mean number a second.
        pace: ``even``: one every ``1 / rate_per_s`` seconds. ``poisson``: the time to the next is drawn from an
            exponential distribution, as calls of many independent callers arrive.
        seed: Of the drawing.
    """
    if pace == "even":
        number = 0
        while True:
            yield number / rate_per_s
            number += 1
    drawn, due_s = random.Random(seed), 0.0  # noqa: S311 - arrivals, not secrets
    while True:
        due_s += drawn.expovariate(rate_per_s)
        yield due_s


def drawn_priorities(weights: Mapping[Priority, float] | None, seed: int) -> Iterator[Priority | None]:
    """Give without end the level of the next question, drawn by weight; None where there are no weights."""
    if not weights:
        while True:
            yield None
    drawn = random.Random(seed)  # noqa: S311 - a mix, not a secret
    levels, shares = list(weights), list(weights.values())
    while True:
        yield from drawn.choices(levels, shares, k=256)


def read_priorities(text: str) -> dict[Priority, float]:
    """Return the weights that ``HIGH=1,NORMAL=8,LOW=1`` says; a level without a weight weighs 1.

    Raises:
        InvalidInput: There is no such level, or a weight is not above 0.
    """
    weights: dict[Priority, float] = {}
    for item in text.split(","):
        name, _, weight = item.strip().partition("=")
        try:
            level, value = Priority[name.strip().upper()], float(weight or 1.0)
        except (KeyError, ValueError):
            raise InvalidInput(f"--priority: {item.strip()!r} is not like HIGH=1 (HIGH, NORMAL, LOW)") from None
        if not 0.0 < value < 1e9:
            raise InvalidInput(f"--priority: the weight of {level.name} must be above 0, not {weight}")
        weights[level] = value
    return weights


def read_wordings(path: Path) -> list[Wording]:
    """Return the questions of a file: one a line, or in ``.jsonl`` objects with ``prompt`` and maybe ``max_tokens``.

    Raises:
        InvalidInput: The file cannot be read, holds none, or a line is no such object.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"--prompts {path}: {error}") from None
    is_json = path.suffix == ".jsonl"
    wordings = [
        _wording(line, f"{path}:{number}") if is_json else Wording(line)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not wordings:
        raise InvalidInput(f"--prompts {path}: it holds no question")
    return wordings


def _wording(line: str, place: str) -> Wording:
    try:
        told = orjson.loads(line)
        prompt, max_tokens = told["prompt"], told.get("max_tokens")
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        raise InvalidInput(f'--prompts {place}: no object like {{"prompt": "...", "max_tokens": 50}}') from None
    if not isinstance(prompt, str) or not isinstance(max_tokens, int | None):
        raise InvalidInput(f"--prompts {place}: prompt must be text and max_tokens a whole number")
    return Wording(prompt, max_tokens)
