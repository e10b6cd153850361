"""Any server of the OpenAI API as a model: vLLM, SGLang, Ollama, llama.cpp, ``transformers serve``, the cloud."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freeroam.models.base import BaseVLM, Question, Speaker
from freeroam.models.openai_address import read_address, read_key
from freeroam.models.openai_asking import Asker, Patience
from freeroam.models.openai_connection import Connection
from freeroam.models.openai_failures import UpstreamError
from freeroam.models.openai_question import LENGTH_FIELDS, ChoiceForm, Dialect, Wording
from freeroam.models.openai_speaker import RemoteSpeaker
from freeroam.vocabulary.errors import ConfigurationError
from freeroam.vocabulary.inference import InferenceParams
from freeroam.vocabulary.model import ModelWishes

MODEL_TYPE = "openai_server"
LOOK_S = 10.0
"""Longest look at the list of models while loading."""
HEALTH_S = 2.0
"""Longest look between two calls, which hold still meanwhile."""
MAX_CONCURRENCY = 64
_AUTO = "auto"
_FEWEST_ANSWER_BYTES = 1024


class OpenAIServer(BaseVLM):
    """Asks a server; it may be on this machine or far away.

    Args:
        url: Base url, with ``/v1``; ``MODEL_PATH`` says the same.
        model: The model's name there; empty takes the first that ``GET /models`` lists.
        api_key: The key.
        api_key_env: The variable that holds the key; ``OPENAI_API_KEY`` is looked into if nothing else is said.
        api_key_file: The file that holds the key.
        concurrency: Questions in flight, at most 64.
        timeout_s: Longest wait for the next piece of an answer, seconds.
        answer_timeout_s: Longest time for a whole answer, seconds.
        retries: How often a question is asked again after what passes, before anything of its answer has come.
        max_answer_bytes: Longest answer as it comes over the wire.
        size: Side of the box that pictures are fitted in, pixels; 0 takes them as the source has them.
        window: Frames a question, where a job says nothing else.
        detail: What is said about pictures: ``low``, ``high``, ``auto``; empty says nothing.
        box_scale: What the numbers of boxes mean that the model writes: ``pixels``, ``thousand`` parts of the picture's
            sides, or ``one`` for parts of one (or whatever they can only be).
        choices_form: ``auto``, or the one way in which choices are asked for (``ChoiceForm``).
        ca_file: Certificates to trust besides the usual ones, PEM.
        extra: Further fields of every question, such as ``{"chat_template_kwargs": {...}}``.
    """

    def __init__(  # noqa: PLR0913 - every one is a setting of its own
        self,
        *,
        url: str = "",
        model: str = "",
        api_key: str = "",
        api_key_env: str = "",
        api_key_file: str = "",
        concurrency: int = 8,
        timeout_s: float = 60.0,
        answer_timeout_s: float = 600.0,
        retries: int = 3,
        max_answer_bytes: int = 32 * 1024 * 1024,
        size: int = 768,
        window: int = 1,
        detail: str = "",
        box_scale: str = "one",
        choices_form: str = _AUTO,
        ca_file: str = "",
        extra: dict[str, Any] | None = None,
    ) -> None:
        _check("concurrency", concurrency, 1, MAX_CONCURRENCY)
        _check("timeout_s", timeout_s, 0.01, 86400.0, whole=False)
        _check("answer_timeout_s", answer_timeout_s, 0.01, 86400.0, whole=False)
        _check("retries", retries, 0, 100)
        _check("max_answer_bytes", max_answer_bytes, _FEWEST_ANSWER_BYTES, 2**40)
        _check("size", size, 0, 65536)
        _check("window", window, 1, 256)
        if choices_form not in {_AUTO, *ChoiceForm}:
            raise ConfigurationError(
                f"choices_form is {choices_form}: expected one of {', '.join([_AUTO, *ChoiceForm])}"
            )
        if detail not in {"", "low", "high", "auto"}:
            raise ConfigurationError(f"detail is {detail}: expected low, high or auto")
        if extra is not None and not isinstance(extra, dict):
            raise ConfigurationError(f"extra is {type(extra).__name__}: expected names and values")
        for name in LENGTH_FIELDS:
            _check(f"extra: {name}", (extra or {}).get(name, 1), 1, 2**31)
        if not all(isinstance(text, str) for text in (url, model, api_key, api_key_env, api_key_file, ca_file)):
            raise ConfigurationError("url, model, api_key, api_key_env, api_key_file and ca_file must be texts")
        if box_scale not in {"pixels", "thousand", "one"}:
            raise ConfigurationError(f"box_scale is {box_scale}: expected pixels, thousand or one")
        self._url = url
        self._model = model
        self._key_sources = (api_key, api_key_env, api_key_file)
        self._concurrency = concurrency
        self._patience = Patience(timeout_s, answer_timeout_s, retries)
        self._max_answer_bytes = max_answer_bytes
        self._size_px = size or None
        self._window = window
        self._look = {"detail": detail, "box_scale": box_scale}
        self._ca_file = ca_file
        self._extra = extra
        is_fixed = choices_form != _AUTO
        wording = Wording(choice_form=ChoiceForm(choices_form)) if is_fixed else Wording()
        self._dialect = Dialect(wording, is_choice_form_fixed=is_fixed)
        self._listed: list[str] = []
        self._connection: Connection | None = None
        self._asker: Asker | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def initialize(self, model_path: str, device: str = "auto") -> None:  # noqa: ARG002 - it is not here
        """Look whether the server is there and which models it has.

        Args:
            model_path: Base url, unless the option ``url`` says it.
            device: Not used; the server has its own.

        Raises:
            ConfigurationError: An option is wrong, or the server lists no model and none is named.
            UpstreamError: The server is not there, or refuses the key.
        """
        address = read_address(model_path, self._url)
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(
            address,
            read_key(*self._key_sources),
            # One more, so that a look at the server's health never waits for an answer to end.
            connections=self._concurrency + 1,
            max_answer_bytes=self._max_answer_bytes,
            ca_file=self._ca_file,
        )
        try:
            self._listed = await self._connection.list_models(LOOK_S)
        except UpstreamError as failure:
            if not (self._model and failure.is_from_a_living_server):
                raise
        if not self._model and not self._listed:
            raise ConfigurationError(f"{address}/models lists no model; set the option model to its name there")
        self._model = self._model or self._listed[0]
        self._asker = Asker(
            self._connection, self._model, self._dialect, self._patience, **self._look, extra=self._extra
        )

    def get_wishes(self) -> ModelWishes:
        """Ask for pictures of the chosen size, and for as many questions at once as may be in flight."""
        return ModelWishes(
            width_px=self._size_px,
            height_px=self._size_px,
            window=self._window,
            max_batch=self._concurrency,
            streams_text=True,
        )

    def get_model_info(self) -> dict[str, Any]:
        """Say where it is asked and for what; never with which key."""
        return {
            "model_type": MODEL_TYPE,
            "device": "remote",
            "url": self._connection.address if self._connection else self._url,
            "model": self._model,
            "is_listed": self._model in self._listed,
            "concurrency": self._concurrency,
        }

    async def predict(self, frames: list[NDArray[np.uint8]], prompt: str) -> dict[str, Any]:
        """Answer one question."""
        return await self._ready.ask(Question(tuple(frames), prompt, InferenceParams()), lambda _: None)

    async def predict_batch(self, questions: Sequence[Question]) -> list[dict[str, Any] | Exception]:
        """Answer several questions at once."""
        asked = (self._ready.ask(question, lambda _: None) for question in questions)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, Exception):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException) or isinstance(answer, Exception)]

    def open_speaker(self) -> Speaker:
        """Return what keeps several answers going."""
        assert self._loop is not None, "initialize() comes first"
        return RemoteSpeaker(self._ready.ask, self._loop)

    async def check_health(self) -> None:
        """Look at the list of models, unless the server has spoken just now.

        Raises:
            UpstreamError: It is not there.
        """
        assert self._connection is not None, "initialize() comes first"
        if time.monotonic() - self._ready.heard_s < HEALTH_S:
            return
        try:
            await self._connection.list_models(HEALTH_S)
        except UpstreamError as failure:
            if not failure.is_from_a_living_server:
                raise

    async def close(self) -> None:
        """Close every connection."""
        if self._connection is not None:
            await self._connection.aclose()

    @property
    def _ready(self) -> Asker:
        assert self._asker is not None, "initialize() comes first"
        return self._asker


def _check(name: str, value: float, least: float, most: float, *, whole: bool = True) -> None:
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise ConfigurationError(f"{name} is {value}: expected {kind} from {least:g} to {most:g}")
