"""One listener of one or more jobs: replays what is stored, then follows, without a gap and without a double.

No task runs for a listener; it costs its buffers only. While it keeps up, events reach it through a bounded buffer.
When it is slow, committed results are not kept for it: it notes that it is behind and reads them from the store when
it asks for more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import orjson

from freeroam.vocabulary.errors import NotFound, StoreError
from freeroam.vocabulary.job import TERMINAL_STATUSES, Job
from freeroam.vocabulary.result import Event, EventKind


class StoredResults(Protocol):
    """What a listener reads to catch up; ``store.Store`` has it."""

    def results_after(self, job_id: str, after: int, limit: int) -> Coroutine[Any, Any, list[tuple[int, bytes]]]:
        """Return ``(id, JSON)`` of the results that follow ``after``, oldest first."""
        ...


@dataclass(frozen=True, slots=True)
class HubConfig:
    """How much a listener may hold.

    Attributes:
        capacity: Events kept for a listener of a job that does not take them at once.
        page: Results read at a time by a listener that catches up.
    """

    capacity: int = 128
    page: int = 100


@dataclass(slots=True)
class Following:
    """Where a listener stands in one job.

    Attributes:
        position: Id of the last result given out.
        is_behind: Whether results after ``position`` must be read from the store.
        fresh: Results and pieces that came since.
        reading: A page being read; kept when asking is given up, so that asking again does not read it again.
        status: The newest change of the job that was not given out yet.
        done: The job's end, given out after all results.
    """

    job_id: str
    position: int
    is_behind: bool = True
    fresh: deque[Event] = field(default_factory=deque)
    reading: asyncio.Task[list[tuple[int, bytes]]] | None = None
    status: Event | None = None
    done: Event | None = None

    def has_news(self, *, may_read: bool) -> bool:
        """Whether there is something to give out.

        Args:
            may_read: Whether stored results count; what came after them waits for them in any case.
        """
        if self.fresh or self.reading or (self.is_behind and may_read):
            return True
        return not self.is_behind and (self.status is not None or self.done is not None)

    def misses_some_before(self, event: Event) -> bool:
        """Whether results before this one were not told, as those are not that another process committed meanwhile."""
        if event.id is None:
            return False
        newest = next((kept.id for kept in reversed(self.fresh) if kept.id is not None), None)
        if newest is None and self.reading is not None:
            return False  # the page says how far the results before this one reach
        return event.id > (self.position if newest is None else newest) + 1


class Listener:
    """An asynchronous iterator of events; made by ``ResultHub.listener``.

    Waiting for the next event may be cancelled (as a timeout does) and begun again: nothing is lost.

    Args:
        results: Where stored results are read.
        config: Bounds.
        hub: Tells it events, and reads a job to know that it exists and whether it is over.
        keep_open: Whether to go on when no job is left to follow.
    """

    def __init__(
        self,
        results: StoredResults,
        config: HubConfig,
        hub: Membership,
        *,
        keep_open: bool,
    ) -> None:
        self._results = results
        self._config = config
        self._hub = hub
        self._keep_open = keep_open
        self._following: dict[str, Following] = {}
        self._news = asyncio.Event()
        self._turn: deque[str] = deque()
        self._is_closed = False
        self._closing: deque[Event] = deque()
        self._is_ending = False

    async def add(self, job_id: str, after: int | None = None) -> None:
        """Follow a job from the result after ``after`` on; None begins with the first one kept.

        Raises:
            NotFound: No such job.
            StoreError: The job could not be read. After either the listener does not follow it.
        """
        self._drop(job_id)
        following = Following(job_id, after or 0)
        self._following[job_id] = following
        # Registered before the job is read, so that an end in between is told by one of the two.
        self._hub.register(job_id, self)
        try:
            job = await self._hub.find_job(job_id)
            if job is None:
                raise NotFound(f"Job {job_id} not found")
        except BaseException:
            if self._is_followed(following):
                self._drop(job_id)
            raise
        if job.status in TERMINAL_STATUSES and following.done is None:
            following.done = done_event(job)
        self._announce(following)

    def remove(self, job_id: str) -> None:
        """Stop to follow a job."""
        self._drop(job_id)
        self._news.set()

    @property
    def jobs(self) -> list[str]:
        """Ids of the jobs that are followed."""
        return list(self._following)

    @property
    def is_ready(self) -> bool:
        """Whether the next event is at hand, without waiting and without reading the store."""
        following = self._following.get(self._turn[0]) if self._turn else None
        return following is not None and bool(following.fresh) and following.reading is None

    def close(self) -> None:
        """Follow nothing any more; the iteration ends."""
        for job_id in list(self._following):
            self._drop(job_id)
        self._is_closed = True
        self._news.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event.

        Raises:
            StopAsyncIteration: Every job that was followed is done, or the service stops, or ``close`` was called.
            StoreError: Stored results could not be read; asking again tries again.
        """
        while True:
            if self._is_closed:
                raise StopAsyncIteration
            event = await self._take()
            if event is not None:
                return event
            if self._closing:
                return self._closing.popleft()
            if self._is_ending or (not self._following and not self._keep_open):
                self.close()
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()

    def tell(self, event: Event) -> None:
        """Take an event of a job that is followed; never waits."""
        following = self._following.get(event.job_id)
        if following is None:
            return
        if event.kind is EventKind.DONE:
            following.done = event
        elif event.kind is EventKind.STATUS:
            following.status = event
        elif following.is_behind:
            return
        elif len(following.fresh) >= self._config.capacity or following.misses_some_before(event):
            # What is kept follows the last one given out without a gap, so it stays; the rest is read later.
            following.is_behind = True
        elif event.kind is EventKind.RESULT or len(following.fresh) < self._config.capacity // 2:
            following.fresh.append(event)
        self._announce(following)

    def end(self, event_of: Callable[[str], Event]) -> None:
        """End the iteration after what is at hand, with a last event a job; nothing more is read from the store."""
        if self._is_ending:
            return
        self._closing.extend(event_of(job_id) for job_id in self._following)
        self._is_ending = True
        self._news.set()

    def _announce(self, following: Following) -> None:
        if self._has_news(following) and following.job_id not in self._turn:
            self._turn.append(following.job_id)
        self._news.set()

    def _has_news(self, following: Following) -> bool:
        return following.has_news(may_read=not self._is_ending)

    async def _take(self) -> Event | None:
        """Return the next event of the job whose turn it is; jobs with news take turns."""
        while self._turn:
            job_id = self._turn[0]
            following = self._following.get(job_id)
            event = await self._take_of(following) if following else None
            if self._turn and self._turn[0] == job_id:
                self._turn.popleft()
            # Not the one before: the job may have been left, or added anew, while a page was read.
            following = self._following.get(job_id)
            if following is not None and self._has_news(following):
                self._turn.append(job_id)
            if event is not None:
                return event
        return None

    async def _take_of(self, following: Following) -> Event | None:
        must_read = not following.fresh and following.is_behind and not self._is_ending
        if must_read or following.reading is not None:
            await self._catch_up(following)
            if not self._is_followed(following):
                return None
        while following.fresh:
            event = following.fresh.popleft()
            if event.id is None:
                return event
            if event.id > following.position:
                following.position = event.id
                return event
        if following.is_behind:
            return None
        if following.status is not None:
            event, following.status = following.status, None
            return event
        if following.done is not None:
            event = following.done
            self._drop(following.job_id)
            return event
        return None

    async def _catch_up(self, following: Following) -> None:
        """Read the next page of stored results.

        From here on new events are kept again, before the page is read: a result that is committed after the page was
        read is told afterwards and kept, one that is in both is told apart by its id, and one in neither leaves a gap.
        """
        if following.reading is None:
            following.is_behind = False
            read = self._results.results_after(following.job_id, following.position, self._config.page)
            following.reading = asyncio.create_task(read)
            following.reading.add_done_callback(_look_at)
        try:
            page = await asyncio.shield(following.reading)
        except StoreError:
            following.reading, following.is_behind = None, True
            following.fresh.clear()
            raise
        following.reading = None
        last = page[-1][0] if page else following.position
        told = next((event.id for event in following.fresh if event.id is not None and event.id > last), last + 1)
        if len(page) == self._config.page or told != last + 1:
            following.is_behind = True
            following.fresh.clear()
        replayed = [Event(EventKind.RESULT, following.job_id, result_id, body) for result_id, body in page]
        following.fresh.extendleft(reversed(replayed))

    def _is_followed(self, following: Following) -> bool:
        """Whether the job is still followed from there, neither left nor added anew."""
        return self._following.get(following.job_id) is following

    def _drop(self, job_id: str) -> None:
        if self._following.pop(job_id, None) is not None:
            self._hub.unregister(job_id, self)


def _look_at(reading: asyncio.Task[list[tuple[int, bytes]]]) -> None:
    """Fetch the error of a reading that nobody waits for any more, so that it is not logged as forgotten."""
    if not reading.cancelled():
        reading.exception()


class Membership(Protocol):
    """What a listener asks of the hub."""

    def register(self, job_id: str, listener: Listener) -> None:
        """Tell ``listener`` the job's events from now on."""
        ...

    def unregister(self, job_id: str, listener: Listener) -> None:
        """Tell it no more."""
        ...

    async def find_job(self, job_id: str) -> Job | None:
        """Return the job as stored, or None."""
        ...


def done_event(job: Job) -> Event:
    """Return the event that tells a job's end."""
    body = {
        "job_id": job.spec.job_id,
        "status": job.status.value,
        "error": job.error,
        "error_code": job.error_code,
        "total_results": job.results_count,
    }
    return Event(EventKind.DONE, job.spec.job_id, None, orjson.dumps(body))
