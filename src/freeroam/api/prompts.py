"""Routes of prompts: set, current, history."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from freeroam.api.journal import audit
from freeroam.api.parts import TheParts
from freeroam.api.problems import responses
from freeroam.vocabulary.errors import NotFound
from freeroam.vocabulary.prompt import Prompt, PromptHistory, PromptUpdate

router = APIRouter(prefix="/api/v1/prompt", tags=["prompts"])

Scope = Annotated[
    str | None, Query(min_length=1, max_length=128, description="The job; without it, the global prompt.")
]


@router.post("/update", response_model=Prompt, responses=responses(404), summary="Set a prompt")
async def update_prompt(update: PromptUpdate, request: Request, parts: TheParts) -> Prompt:
    """Store the next version of the global prompt or of a job's own; running jobs use it from the next question on."""
    prompt = await parts.prompts.update(update.prompt, job_id=update.job_id, preserve_previous=update.preserve_previous)
    audit(request.scope, "prompt_updated", job_id=update.job_id, version=prompt.version)
    return prompt


@router.get("/current", response_model=Prompt, responses=responses(404), summary="The prompt in use")
async def get_current(parts: TheParts, job_id: Scope = None) -> Prompt:
    """Return the newest version of a job's own prompt, or of the global one if it has none."""
    if job_id is not None:
        await parts.desk.status(job_id)
    prompt = await parts.prompts.current(job_id)
    if prompt is None:
        raise NotFound("No prompt is set")
    return prompt


@router.get("/history", response_model=PromptHistory, responses=responses(404), summary="Earlier prompts")
async def get_history(
    parts: TheParts, limit: Annotated[int, Query(ge=1, le=1000)] = 10, job_id: Scope = None
) -> PromptHistory:
    """Return versions of exactly one scope, newest first."""
    if job_id is not None:
        await parts.desk.status(job_id)
    prompts, total = await parts.prompts.history(limit=limit, job_id=job_id)
    return PromptHistory(history=prompts, total=total)
