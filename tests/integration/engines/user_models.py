"""Models as users write them, for the tests of the engine."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from freeroam import BaseVLM
from freeroam.models.base import Question, Said, Speaker
from freeroam.vocabulary.errors import InvalidInput


class Awaiting(BaseVLM):
    """A model whose coroutines really wait, on tasks and threads of its own."""

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        await asyncio.sleep(0.01)
        self.lock = asyncio.Lock()

    async def predict(self, frames: list[np.ndarray], prompt: str) -> dict[str, Any]:
        print("asked:", prompt)
        async with self.lock:
            first, second = await asyncio.gather(asyncio.sleep(0.01, "a"), asyncio.to_thread(str.upper, prompt))
        os.write(1, b"noise on standard output\n")
        return {
            "predictions": [{"label": first + second, "confidence": np.float32(0.5)}],
            "confidence": np.float64(0.5),
            "metadata": {"shapes": [frame.shape for frame in frames], "writeable": frames[0].flags.writeable},
        }

    def get_model_info(self) -> dict[str, Any]:
        return {"model_type": "awaiting", "device": "cpu", "size": np.int64(3)}


class Only(Awaiting):
    """Finds room for one of its kind; ``model_path`` names a folder that tells how often it was tried."""

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        await super().initialize(model_path, device)
        number = len(list(Path(model_path).iterdir()))
        (Path(model_path) / str(os.getpid())).touch()
        if number:
            raise MemoryError("no room for a second one")


class Short(Awaiting):
    """Gives fewer answers than it was asked."""

    async def predict_batch(self, questions: Sequence[Any]) -> list[Any]:
        return []


class Bystander(Awaiting):
    """Dies at a chosen word; answers in batches, and remembers the pid that answered."""

    def get_wishes(self) -> Any:
        return super().get_wishes().model_copy(update={"max_batch": 8, "window": 1})

    async def predict_batch(self, questions: Sequence[Any]) -> list[Any]:
        await asyncio.sleep(0.005)
        if any(question.prompt == "poison" for question in questions):
            os._exit(9)
        return [{"predictions": [], "text": question.prompt, "pid": os.getpid()} for question in questions]


class Odd(Awaiting):
    """Answers with fields that are no fault of JSON and yet surprise: what the prompt names, a list for a word."""

    async def predict(self, frames: list[np.ndarray], prompt: str) -> dict[str, Any]:
        return {
            "predictions": [{"label": "cat", "confidence": 0.5, prompt: 15}],
            "metadata": {"finish_reason": ["stop"], "prompt_tokens": "many"},
        }


class Ailing(Awaiting):
    """Is well or not as a file says; ``model_path`` names the file, whose text is the complaint."""

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        await super().initialize(model_path, device)
        self.path = Path(model_path)

    async def check_health(self) -> None:
        if self.path.exists():
            raise RuntimeError(self.path.read_text(encoding="utf-8"))


class Stubborn(Awaiting):
    """Never ends to look at itself."""

    async def check_health(self) -> None:
        time.sleep(3600.0)


class Doomed(Awaiting):
    """Ends in the way that its path names, while it loads or warms up."""

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        self.path = model_path
        await super().initialize(model_path, device)
        if model_path == "out of memory":
            raise MemoryError("cannot allocate 80 GiB")
        if model_path == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if model_path == "slow":
            time.sleep(3600.0)

    async def warm_up(self) -> None:
        if self.path == "cold":
            raise RuntimeError("no kernel for this device")

    async def check_health(self) -> None:
        if self.path == "sick":
            raise RuntimeError("answers are noise")


class Patient(Awaiting):
    """Speaks until a file is there, which ``model_path`` names, or as long as it may; many answers at once."""

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        await super().initialize(model_path, device)
        self.path = Path(model_path)

    def get_wishes(self) -> Any:
        wish = {"max_batch": 16, "window": 1, "width_px": 320, "streams_text": True}
        return super().get_wishes().model_copy(update=wish)

    def speak(self, question: Question) -> Iterator[str]:
        for number in itertools.count():
            if self.path.exists() or number == question.params.max_tokens:
                return
            time.sleep(0.001)
            yield f"word{number} "


class Counting(Awaiting):
    """Speaks two answers at once, for ever, and says at which of its steps; see ``StepCounter``."""

    def get_wishes(self) -> Any:
        return super().get_wishes().model_copy(update={"max_batch": 2, "window": 1, "streams_text": True})

    def open_speaker(self) -> Speaker:
        return StepCounter()


class StepCounter(Speaker):
    """Each token is ``step of the token, step at which its answer joined, step at which one left last``."""

    def __init__(self) -> None:
        self.steps = 0
        self.left = 0
        self.joined: dict[int, int] = {}

    def join(self, key: int, question: Question) -> None:
        self.joined[key] = self.steps

    def leave(self, key: int) -> None:
        del self.joined[key]
        self.left = self.steps

    def step(self) -> list[Said]:
        self.steps += 1
        time.sleep(0.005)
        return [Said(key, (f"{self.steps},{joined},{self.left};",)) for key, joined in self.joined.items()]


class Lone(Speaker):
    """Speaks for one answer at a time; what that is says ``move_on``."""

    def __init__(self) -> None:
        self.steps = 0
        self.keys: list[int] = []

    def join(self, key: int, question: Question) -> None:
        self.keys.append(key)
        self.steps = 0

    def leave(self, key: int) -> None:
        self.keys.remove(key)

    def step(self) -> list[Said]:
        self.steps += 1
        time.sleep(0.01)
        said = [self.move_on(key) for key in self.keys]
        self.keys = [one.key for one in said if one.answer is None]
        return [one for one in said if one.texts or one.answer is not None]

    @abstractmethod
    def move_on(self, key: int) -> Said: ...


class Thoughtful(Awaiting):
    """Says nothing for a while, then everything at once; or does what its path names."""

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        await super().initialize(model_path, device)
        self.path = model_path

    def get_wishes(self) -> Any:
        return super().get_wishes().model_copy(update={"max_batch": 4, "window": 1, "streams_text": True})

    def open_speaker(self) -> Speaker:
        return {"": Late, "dies": Dying, "one for all": Sharing, "numbers": Numbering, "refuses": Picky}[self.path]()


class Late(Lone):
    """Answers after fifty steps."""

    def move_on(self, key: int) -> Said:
        return Said(key, (), {"text": "at last"} if self.steps == 50 else None)


class Dying(Lone):
    """Says nothing, and dies when it has given a sign of life."""

    def move_on(self, key: int) -> Said:
        if self.steps > 150:
            os._exit(9)
        return Said(key)


class Picky(Late):
    """Takes no question: the caller is to blame for one, the model for the others."""

    def join(self, key: int, question: Question) -> None:
        if question.prompt == "wrong":
            raise InvalidInput("ask otherwise")
        raise RuntimeError("cannot take it")


class Sharing(Lone):
    """Gives one and the same dictionary to all."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: dict[str, Any] = {}

    def move_on(self, key: int) -> Said:
        return Said(key, (f"{key}",)) if self.steps == 1 else Said(key, (), self.answer)


class Numbering(Lone):
    """Says numbers where texts are expected."""

    def move_on(self, key: int) -> Said:
        return Said(key, (1,)) if self.steps == 1 else Said(key, (), {})  # type: ignore[arg-type]


class Endless(Awaiting):
    """Speaks without end, whatever it is asked; says through ``closed`` in its next answer that it was stopped."""

    closed = 0

    def get_wishes(self) -> Any:
        return super().get_wishes().model_copy(update={"max_batch": 8, "window": 1, "streams_text": True})

    def speak(self, question: Question) -> Iterator[str]:
        if question.prompt == "how many were closed":
            return {"closed": self.closed}
        try:
            for number in itertools.count():
                yield f"{number} "
        finally:
            self.closed += 1


class Chatty(Awaiting):
    """Draws a progress bar while it loads, as libraries do, and warns."""

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        from tqdm import tqdm

        await super().initialize(model_path, device)
        for _ in tqdm(range(3), desc="Loading"):
            pass
        warnings.warn("half of it is missing", stacklevel=1)
