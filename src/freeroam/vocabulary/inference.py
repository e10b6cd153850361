"""One question to a model and what comes back, whoever asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from freeroam.vocabulary.frame import Frame


class Priority(IntEnum):
    """Who goes first; compared by name on the wire, because other servers disagree on the sign of a number."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


Words = Annotated[str, Field(max_length=4096)]
"""A short text of a caller; a bounded one is also checked to be text that can be stored and sent."""


class ChatMessage(TypedDict):
    """One turn of a conversation: who spoke, and what was said, as text alone.

    A dictionary, because the templates of language models want one.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=1_000_000)]


class InferenceParams(BaseModel):
    """What a caller may tune in one question.

    Attributes:
        threshold: Smallest confidence of a prediction that is reported, 0 to 1; None is the model's own.
        max_tokens: Greatest length of the spoken answer.
        temperature: 0 is greedy.
        top_p: Nucleus sampling mass.
        choices: The answer is one of these.
        stop: Texts that end the answer.
        seed: For repeatable sampling.
        messages: The conversation so far, oldest first, to be put into the model's own chat template; a model that
            reads it takes it instead of the prompt, one that does not reads the prompt alone.
        chat: Whether the prompt is a question, to be put into the model's chat template, or a text to go on with; None
            leaves it to the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float | None = Field(default=None, ge=0.0, le=1.0)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    choices: list[Words] | None = Field(default=None, min_length=1, max_length=64)
    stop: list[Words] | None = Field(default=None, max_length=16)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    messages: list[ChatMessage] | None = Field(default=None, min_length=1, max_length=1024)
    chat: bool | None = None


class Prediction(BaseModel):
    """One thing a model saw.

    Attributes:
        label: What it is.
        confidence: 0 to 1.
        bbox: ``[x1, y1, x2, y2]`` in pixels of the picture that the model was given (``frame_shape``); in answers to
            clients in pixels of the picture that they sent, the newest of several.
    """

    model_config = ConfigDict(extra="allow")

    label: str
    confidence: float
    bbox: list[float] | None = None


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One question to a model, from a job or from a client.

    Attributes:
        request_id: Unique while it lives.
        model: ``name`` or ``name@version``.
        prompt: The question.
        frames: Oldest first; may be empty.
        params: Tuning.
        priority: Who goes first.
        deadline_monotonic_s: After this the answer is worth nothing; None waits for ever.
        lane: Requests of one lane (a job, a client) share one turn in the queue, so no lane crowds out another.
        wants_pieces: Whether text is wanted as it is spoken.
        waits_for_load: Whether it waits for a model that loads for the first time, instead of being refused.
    """

    request_id: str
    model: str
    prompt: str
    frames: tuple[Frame, ...] = ()
    params: InferenceParams = field(default_factory=InferenceParams)
    priority: Priority = Priority.NORMAL
    deadline_monotonic_s: float | None = None
    lane: str = ""
    wants_pieces: bool = False
    waits_for_load: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Text as it is spoken.

    Attributes:
        text: One or several tokens joined.
        index: Number of the first token in ``text``, from 0.
        count: How many tokens ``text`` joins.
    """

    text: str
    index: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Output:
    """What a model gave back for one request.

    Attributes:
        predictions: Things seen.
        text: What was said, or the detector's sentence; None if the model says nothing.
        confidence: One number a prediction, or what the model gave.
        extra: Further fields that a ``BaseVLM`` put into its answer's metadata.
        model: Name.
        version: Version that answered.
        model_type: As the model's ``get_model_info`` says.
        device: Where it ran.
        finish_reason: Why it ended.
        prompt_tokens: Tokens read, 0 if the model does not count.
        completion_tokens: Tokens spoken.
        tokens: The pieces spoken, in order; empty where the model does not speak.
        wait_ms: From admission to the start of the model call.
        model_ms: The model call of the batch it was in.
        batch_size: Requests in that call.
        started_monotonic_s: When the model call began, on this machine's monotonic clock.
    """

    predictions: list[Prediction]
    text: str | None
    confidence: list[float]
    extra: dict[str, Any]
    model: str
    version: str
    model_type: str
    device: str
    finish_reason: FinishReason = FinishReason.STOP
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens: tuple[str, ...] = ()
    wait_ms: float = 0.0
    model_ms: float = 0.0
    batch_size: int = 1
    started_monotonic_s: float = 0.0
