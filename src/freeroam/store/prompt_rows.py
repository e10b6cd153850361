"""Statements about prompts; a scope is the empty string (global) or a job's id."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, select, update

from freeroam.store.records import prompt_of, spec_of
from freeroam.store.tables import jobs, prompts
from freeroam.vocabulary.errors import NotFound
from freeroam.vocabulary.job import ACTIVE_STATUSES
from freeroam.vocabulary.prompt import Prompt

GLOBAL = ""


def add_prompt(
    connection: Connection, text: str, job_id: str | None, at: float, *, preserve_previous: bool = True
) -> Prompt:
    """Store the next version of a scope and return it.

    The newest version is never deleted while its scope lives, so the greatest number ever given is always there and
    no number is given twice.
    """
    scope = job_id or GLOBAL
    newest = _newest(connection, scope)
    version = newest.version + 1 if newest else 1
    began_at = connection.execute(
        select(prompts.c.scope_created_at).where(prompts.c.scope == scope).limit(1)
    ).scalar_one_or_none()
    row = {
        "scope": scope,
        "version": version,
        "prompt": text,
        "created_at": at,
        "scope_created_at": at if began_at is None else began_at,
    }
    connection.execute(insert(prompts), row)
    if newest and not preserve_previous:
        connection.execute(delete(prompts).where(prompts.c.scope == scope, prompts.c.version == newest.version))
    added = _newest(connection, scope)
    assert added is not None
    return added


def update_prompt(
    connection: Connection, text: str, job_id: str | None, at: float, *, preserve_previous: bool
) -> Prompt:
    """Store the next version of the global scope or of a job that exists, which from then on has a prompt of its own.

    Raises:
        NotFound: No such job.
    """
    if job_id is None:
        return add_prompt(connection, text, None, at, preserve_previous=preserve_previous)
    spec = connection.execute(select(jobs.c.spec).where(jobs.c.id == job_id)).scalar_one_or_none()
    if spec is None:
        raise NotFound(f"Job {job_id} not found")
    added = add_prompt(connection, text, job_id, at, preserve_previous=preserve_previous)
    wish = spec_of(spec).model_copy(update={"prompt": text})
    is_active = jobs.c.status.in_(sorted(status.value for status in ACTIVE_STATUSES))
    values = {"spec": wish.model_dump_json(), "prompt": added.prompt, "prompt_version": added.version}
    connection.execute(update(jobs).where(jobs.c.id == job_id, is_active).values(values))
    return added


def find_prompt(connection: Connection, job_id: str | None) -> Prompt | None:
    """Return the newest prompt of the job's scope, else of the global one."""
    own = _newest(connection, job_id) if job_id else None
    return own or _newest(connection, GLOBAL)


def own_prompt(connection: Connection, job_id: str | None) -> Prompt | None:
    """Return the newest prompt of exactly this scope."""
    return _newest(connection, job_id or GLOBAL)


def list_prompts(connection: Connection, job_id: str | None, limit: int) -> tuple[list[Prompt], int]:
    """Return a scope's prompts, newest first, and how many there are in all."""
    mine = prompts.c.scope == (job_id or GLOBAL)
    total = connection.execute(select(func.count()).select_from(prompts).where(mine)).scalar_one()
    page = select(prompts).where(mine).order_by(prompts.c.version.desc()).limit(limit)
    return [prompt_of(row) for row in connection.execute(page).mappings()], total


def _newest(connection: Connection, scope: str) -> Prompt | None:
    query = select(prompts).where(prompts.c.scope == scope).order_by(prompts.c.version.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return prompt_of(row) if row else None
