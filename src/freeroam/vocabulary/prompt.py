"""A version of a question in a scope: the global one, or one job's."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Prompt(BaseModel):
    """One version of a prompt.

    Attributes:
        prompt: The text.
        version: Counts up from 1 in its scope; a number is never used twice.
        timestamp: Epoch seconds of this version.
        created_at: ISO 8601 UTC time of the scope's first version.
        updated_at: ISO 8601 UTC time of this version.
        job_id: The scope; None is the global one.
    """

    model_config = ConfigDict(frozen=True)

    prompt: str
    version: int
    timestamp: float
    created_at: str
    updated_at: str
    job_id: str | None = None


class PromptUpdate(BaseModel):
    """A new version of a prompt.

    Attributes:
        prompt: The question.
        job_id: The job whose own prompt it becomes; without it, the global prompt that jobs without their own follow.
        preserve_previous: False takes the previous text out of the history; its number is not used again.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"prompt": "Detect only vehicles", "preserve_previous": True}},
    )

    prompt: str
    job_id: str | None = Field(default=None, min_length=1, max_length=128)
    preserve_previous: bool = True


class PromptHistory(BaseModel):
    """Versions of a scope's prompt, newest first."""

    history: list[Prompt]
    total: int
