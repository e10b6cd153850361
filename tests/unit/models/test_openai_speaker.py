"""The speaker of a far server: answers in any order, nothing lost between steps, leaving at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from freeroam.models.base import Question, Said
from freeroam.models.openai_speaker import RemoteSpeaker
from freeroam.vocabulary.inference import InferenceParams


class Script:
    """Answers a prompt as the test lets it: each text is said when it is put."""

    def __init__(self) -> None:
        self.lines: dict[str, asyncio.Queue[Any]] = {}
        self.left: list[str] = []

    async def ask(self, question: Question, say: Callable[[str], None]) -> dict[str, Any]:
        line = self.lines.setdefault(question.prompt, asyncio.Queue())
        try:
            while True:
                said = await line.get()
                if isinstance(said, str):
                    say(said)
                elif isinstance(said, Exception):
                    raise said
                else:
                    return dict(said)
        except asyncio.CancelledError:
            self.left.append(question.prompt)
            raise

    def put(self, prompt: str, *said: Any) -> None:
        for one in said:
            self.lines.setdefault(prompt, asyncio.Queue()).put_nowait(one)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def question(prompt: str) -> Question:
    return Question((), prompt, InferenceParams())


def said_until_end(speaker: RemoteSpeaker, keys: set[int]) -> dict[int, tuple[list[str], Any]]:
    told: dict[int, tuple[list[str], Any]] = {key: ([], None) for key in keys}
    while any(answer is None for _, answer in told.values()):
        for said in speaker.step():
            told[said.key] = ([*told[said.key][0], *said.texts], said.answer)
    return told


def test_answers_end_in_any_order_and_no_text_is_lost(loop: asyncio.AbstractEventLoop) -> None:
    script = Script()
    speaker = RemoteSpeaker(script.ask, loop)
    for key, prompt in ((1, "slow"), (2, "quick"), (3, "broken")):
        speaker.join(key, question(prompt))
    script.put("quick", "a", "b", {"text": "ab"})
    script.put("broken", "x", ValueError("no"))

    quick = said_until_end(speaker, {2, 3})
    script.put("slow", "c", {"text": "c"})
    slow = said_until_end(speaker, {1})

    assert quick[2] == (["a", "b"], {"text": "ab"})
    assert quick[3][0] == ["x"]
    assert isinstance(quick[3][1], ValueError)
    assert slow[1] == (["c"], {"text": "c"})
    assert speaker.step() == []


def test_a_step_ends_though_nothing_comes(loop: asyncio.AbstractEventLoop) -> None:
    speaker = RemoteSpeaker(Script().ask, loop)
    speaker.join(1, question("silent"))

    assert [speaker.step() for _ in range(3)] == [[], [], []]
    speaker.leave(1)


def test_who_leaves_is_cancelled_before_leave_returns(loop: asyncio.AbstractEventLoop) -> None:
    script = Script()
    speaker = RemoteSpeaker(script.ask, loop)
    speaker.join(1, question("going"))
    speaker.join(2, question("staying"))
    script.put("going", "a")
    while not speaker.step():
        pass

    speaker.leave(1)
    speaker.leave(1)
    assert script.left == ["going"]
    script.put("staying", "b", {"text": "b"})

    assert said_until_end(speaker, {2}) == {2: (["b"], {"text": "b"})}


def test_who_leaves_before_the_first_step_is_never_asked_about(loop: asyncio.AbstractEventLoop) -> None:
    script = Script()
    speaker = RemoteSpeaker(script.ask, loop)
    speaker.join(1, question("x"))

    speaker.leave(1)

    assert script.lines == {}
    assert speaker.step() == []


def test_texts_that_came_between_two_steps_come_in_one(loop: asyncio.AbstractEventLoop) -> None:
    script = Script()
    speaker = RemoteSpeaker(script.ask, loop)
    speaker.join(1, question("x"))
    script.put("x", "a", "b", "c")

    said: list[Said] = []
    while not said:
        said = speaker.step()

    assert said == [Said(1, ("a", "b", "c"))]
    speaker.leave(1)
