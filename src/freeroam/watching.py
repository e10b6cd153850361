"""``watch``: questions to a stream in one's own process, without a server, a database to keep, or a port."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from freeroam.results.listener import Listener
from freeroam.runtime import Runtime
from freeroam.settings import Settings, load_settings
from freeroam.vocabulary.errors import FreeroamError, InvalidInput, SourceError, SourceErrorCode
from freeroam.vocabulary.job import Job, JobStatus, StartRequest
from freeroam.vocabulary.result import EventKind, Result


class Watch:
    """One job in this process; an asynchronous iterator of its results.

    Made by ``open_watch``.
    """

    def __init__(self, runtime: Runtime, job_id: str, listener: Listener) -> None:
        self._runtime = runtime
        self._job_id = job_id
        self._listener = listener

    async def status(self) -> Job:
        """Return the job with its live numbers."""
        return await self._runtime.desk.status(self._job_id)

    async def __aiter__(self) -> AsyncIterator[Result]:
        """Give results until the job is over.

        Raises:
            SourceError: The video failed for good; ``code`` says why.
        """
        async for event in self._listener:
            if event.kind is EventKind.RESULT:
                yield Result.model_validate_json(event.data)
        job = await self.status()
        if job.status is JobStatus.FAILED:
            raise _failure(job)


@asynccontextmanager
async def open_watch(wish: StartRequest, settings: Settings | None = None) -> AsyncIterator[Watch]:
    """Start every part and one job, and stop all of it at the end; what it stored is removed.

    Args:
        wish: What to watch and what to ask.
        settings: Everything else; None reads the environment.

    Raises:
        InvalidInput: Something in the wish cannot be.
        ConfigurationError: A setting is wrong.
    """
    chosen = settings or load_settings()
    with tempfile.TemporaryDirectory(prefix="freeroam-", ignore_cleanup_errors=True) as folder:
        chosen = chosen.model_copy(update={"data_dir": Path(folder), "database_url": None})
        async with Runtime(chosen) as runtime:
            job = await runtime.desk.start(wish)
            async with await runtime.desk.listen(job.spec.job_id) as listener:
                yield Watch(runtime, job.spec.job_id, listener)


async def watch(
    stream_ref: str, prompt: str, *, fps: float | None = None, model: str | None = None, **more: Any
) -> AsyncIterator[Result]:
    """Put a question to a stream and give the results as they come.

    ::

        async for result in watch("demo:", "Detect all people", fps=2):
            print(result.text)

    Args:
        stream_ref: Anything that a job's ``stream_ref`` may be.
        prompt: The question.
        fps: Frames a second that are asked about; None is ``DEFAULT_FPS``.
        model: ``name`` or ``name@version``; None is the default model.
        more: Further fields of a job: ``window``, ``policy``, ``params``, ``max_frames``, ``max_seconds``, ``source``.

    Raises:
        InvalidInput: Something in the wish cannot be.
        SourceError: The video failed for good; ``code`` says why.
        ConfigurationError: A setting is wrong.
    """
    try:
        wish = StartRequest(stream_ref=stream_ref, prompt=prompt, fps=fps, model=model, **more)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise InvalidInput(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    given: asyncio.Queue[Result] = asyncio.Queue(1)

    async def work() -> None:
        async with open_watch(wish) as results:
            async for result in results:
                await given.put(result)

    # A task of its own stops the parts: a generator that is left by ``break`` is closed while the loop shuts down,
    # when it can no longer wait for anything.
    working = asyncio.create_task(work(), name="watch")
    try:
        while not (working.done() and given.empty()):
            getting = asyncio.ensure_future(given.get())
            await asyncio.wait({working, getting}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                yield getting.result()
            else:
                getting.cancel()
        working.result()
    finally:
        working.cancel()
        await asyncio.wait({working})


def _failure(job: Job) -> FreeroamError:
    message = (job.error or "the job failed").removeprefix(f"{job.error_code}: ")
    if job.error_code in {code.value for code in SourceErrorCode}:
        return SourceError(SourceErrorCode(job.error_code), message)
    return FreeroamError(message, code=job.error_code)
