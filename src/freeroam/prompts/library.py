"""The prompts in use and those before them: versions count up in their scope and are never given twice."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from freeroam.clock import Clock
from freeroam.store.store import Store
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.prompt import Prompt


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """What a prompt may be.

    Attributes:
        max_chars: Longest text, in characters.
    """

    max_chars: int = 32_768


class PromptLibrary:
    """Keeps prompts in the store, and those that running jobs ask with in memory.

    A scope is the global one (``job_id`` None) or one job's. A job that has prompts of its own asks with the newest of
    them; a job that has none follows the global prompt.

    Args:
        store: Where they are kept.
        config: Limits.
        clock: Gives each version its time.
    """

    def __init__(self, store: Store, config: PromptConfig, clock: Clock) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._global: Prompt | None = None
        # A job that runs has an entry: its own prompt, or None while it follows the global one.
        self._own: dict[str, Prompt | None] = {}
        self._updates: set[asyncio.Task[Prompt]] = set()

    async def load(self) -> None:
        """Read the global prompt; to be called once, when the store is open."""
        self._global = await self._store.own_prompt(None)

    def check(self, text: str) -> str:
        """Return ``text`` without spaces at its ends.

        Raises:
            InvalidInput: It is empty, longer than ``max_chars``, or holds what cannot be stored: a NUL character or
                half of a surrogate pair.
        """
        stripped = text.strip()
        if not stripped:
            raise InvalidInput("Prompt cannot be empty")
        if len(stripped) > self._config.max_chars:
            raise InvalidInput(
                f"Prompt has {len(stripped)} characters; MAX_PROMPT_CHARS allows at most {self._config.max_chars}"
            )
        if "\x00" in stripped:
            raise InvalidInput("Prompt holds a NUL character")
        if not _is_encodable(stripped):
            raise InvalidInput("Prompt holds half of a surrogate pair, which is no character")
        return stripped

    async def update(self, text: str, job_id: str | None = None, preserve_previous: bool = True) -> Prompt:
        """Store the next version of a scope; running jobs ask with it from their next question on.

        Cancelling the call takes neither back: what the store shows is what jobs ask with.

        Args:
            text: The prompt.
            job_id: The scope; None is the global one.
            preserve_previous: False takes the text before it out of the history.

        Raises:
            InvalidInput: The text cannot be a prompt.
            NotFound: No such job.
        """
        checked = self.check(text)
        # A task of its own, because the store writes to the end although the caller goes away.
        task = asyncio.create_task(self._store_and_adopt(checked, job_id, preserve_previous))
        self._updates.add(task)
        task.add_done_callback(self._updates.discard)
        return await asyncio.shield(task)

    async def current(self, job_id: str | None = None) -> Prompt | None:
        """Return the prompt in use in a scope, the global one where the job has none; None if there is none at all."""
        return await self._store.find_prompt(job_id)

    async def history(self, limit: int = 10, job_id: str | None = None) -> tuple[list[Prompt], int]:
        """Return exactly this scope's prompts, newest first, and how many there are."""
        return await self._store.list_prompts(job_id, limit)

    def resolve(self, job_id: str | None) -> Prompt | None:
        """Return the prompt that the job's next question is asked with, from memory."""
        return self._own.get(job_id or "") or self._global

    async def follow(self, job_id: str) -> None:
        """Hold the job's own prompt in memory from now on, until ``forget``; to be called before ``resolve``."""
        self._own.setdefault(job_id, None)
        own = await self._store.own_prompt(job_id)
        if own is not None:
            self.adopt(own)

    def adopt(self, prompt: Prompt) -> None:
        """Use ``prompt``, which was stored just now, unless a newer one is in use or its job does not run."""
        if prompt.job_id is None:
            if self._global is None or self._global.version < prompt.version:
                self._global = prompt
        elif prompt.job_id in self._own:
            known = self._own[prompt.job_id]
            if known is None or known.version < prompt.version:
                self._own[prompt.job_id] = prompt

    async def _store_and_adopt(self, checked: str, job_id: str | None, preserve_previous: bool) -> Prompt:
        at = self._clock.epoch_s()
        prompt = await self._store.update_prompt(checked, job_id, at, preserve_previous=preserve_previous)
        self.adopt(prompt)
        return prompt

    def forget(self, job_id: str) -> None:
        """Drop from memory what belongs to a job that is over."""
        self._own.pop(job_id, None)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
