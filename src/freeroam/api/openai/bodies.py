"""What OpenAI's clients send: what is honoured, and what is refused because it would change the answer's form.

Fields that are not named here are passed over, as clients of that interface expect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.inference import Words
from freeroam.vocabulary.model_calls import MAX_LISTED


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class StreamOptions(BaseModel):
    """How a stream is given.

    Attributes:
        include_usage: End it with a chunk that holds the usage.
    """

    include_usage: bool | None = None


class ImageUrl(BaseModel):
    """A picture: a data URL; addresses are not fetched."""

    url: str


class ContentPart(BaseModel):
    """A part of a message: ``text`` or ``image_url``."""

    type: str
    text: str | None = None
    image_url: ImageUrl | None = None


class Message(BaseModel):
    """One turn of the conversation."""

    role: str
    content: str | Annotated[list[ContentPart], Field(max_length=MAX_LISTED, fail_fast=True)] | None = None


class Asked(BaseModel):
    """What chat completions and completions have in common."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str = Field(min_length=1, max_length=256, description="`name` or `name@version`.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    stop: Annotated[list[Words] | None, Field(max_length=16), BeforeValidator(_listed)] = None
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    n: int | None = Field(default=None, description="Only 1.")
    user: str | None = Field(default=None, description="Those of one user share its turns in the queue.")
    priority: str | None = Field(default=None, description="Ours: HIGH, NORMAL or LOW.")
    choices: list[Words] | None = Field(
        default=None, min_length=1, max_length=64, description="Ours: the answer is one of these."
    )
    threshold: float | None = Field(default=None, ge=0.0, le=1.0, description="Ours: for detectors.")

    def wants_usage(self) -> bool:
        """Tell whether a stream is to end with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def refuse_what_is_not_offered(self) -> None:
        """Refuse what would change the answer's form if it were passed over.

        Raises:
            InvalidInput: The message names the field.
        """
        if self.n not in {None, 1}:
            raise refusal("n", f"n: one answer is given to a request; {self.n} were asked for")

    def tuning(self) -> dict[str, Any]:
        """Return the values of ``InferenceParams`` that were given."""
        names = ("max_tokens", "temperature", "top_p", "stop", "seed", "choices", "threshold")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class ChatBody(Asked):
    """A chat completion."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "example": {
                "model": "smollm2",
                "messages": [{"role": "user", "content": "Say hello"}],
                "max_tokens": 50,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        },
    )

    messages: list[Message] = Field(min_length=1, max_length=1024, fail_fast=True)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = Field(default=None, description="Not offered.")
    top_logprobs: int | None = Field(default=None, description="Not offered.")
    tools: list[Any] | None = Field(default=None, description="Not offered.")
    functions: list[Any] | None = Field(default=None, description="Not offered.")
    modalities: list[str] | None = Field(default=None, description="Only text.")

    def refuse_what_is_not_offered(self) -> None:
        """Refuse what would change the answer's form if it were passed over."""
        super().refuse_what_is_not_offered()
        if self.logprobs or self.top_logprobs:
            raise refusal("logprobs", "logprobs: the models here do not tell the probabilities of their words")
        if self.tools:
            raise refusal("tools", "tools: the models here call no tools; ask without them")
        if self.functions:
            raise refusal("functions", "functions: the models here call no functions; ask without them")
        if self.modalities and set(self.modalities) != {"text"}:
            raise refusal("modalities", "modalities: answers are text")

    def tuning(self) -> dict[str, Any]:
        """Return the values of ``InferenceParams`` that were given; the newer name of a limit wins."""
        given = super().tuning()
        if self.max_completion_tokens is not None:
            given["max_tokens"] = self.max_completion_tokens
        return given


class CompletionBody(Asked):
    """A completion of a text."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"example": {"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 50}},
    )

    prompt: str | list[Any]
    echo: bool | None = Field(default=None, description="Not offered.")
    suffix: str | None = Field(default=None, description="Not offered.")
    logprobs: int | None = Field(default=None, description="Not offered.")
    best_of: int | None = Field(default=None, description="Only 1.")

    def refuse_what_is_not_offered(self) -> None:
        """Refuse what would change the answer's form if it were passed over."""
        super().refuse_what_is_not_offered()
        if self.best_of not in {None, 1}:
            raise refusal("best_of", "best_of: one answer is made to a request")
        if self.logprobs is not None:
            raise refusal("logprobs", "logprobs: the models here do not tell the probabilities of their words")
        if self.echo:
            raise refusal("echo", "echo: the prompt is not repeated; put it before the answer yourself")
        if self.suffix:
            raise refusal("suffix", "suffix: texts are only continued at their end")

    def text(self) -> str:
        """Return the prompt.

        Raises:
            InvalidInput: There are several, or it is numbers of tokens.
        """
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) == 1 and isinstance(self.prompt[0], str):
            return self.prompt[0]
        if self.prompt and all(isinstance(text, str) for text in self.prompt):
            raise refusal("prompt", "prompt: one text is completed in a request; send one request for each")
        raise refusal("prompt", "prompt: must be a text; numbers of tokens are not understood")


def refusal(field: str, message: str) -> InvalidInput:
    """Return the error that says which field cannot be; OpenAI's clients show it as ``param``."""
    return InvalidInput(message, detail={"problems": [{"field": field, "message": message}]})


Kind = Literal["chat", "text"]
