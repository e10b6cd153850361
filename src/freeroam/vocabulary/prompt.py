"""A version of a question in a scope: the global one, or one job's."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


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
