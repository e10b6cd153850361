"""Tells committed results, pieces being spoken and changes of jobs to those who listen; never waits for anyone."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import orjson

from freeroam.results.listener import HubConfig, Listener, done_event
from freeroam.store.store import Store
from freeroam.vocabulary.inference import Piece
from freeroam.vocabulary.job import Job
from freeroam.vocabulary.result import Event, EventKind


class ResultHub:
    """Knows who listens to which job.

    Args:
        store: Read by listeners that replay or catch up.
        config: Bounds a listener.
    """

    def __init__(self, store: Store, config: HubConfig | None = None) -> None:
        self._store = store
        self._config = config or HubConfig()
        self._listeners: dict[str, dict[Listener, None]] = {}
        self._open: weakref.WeakSet[Listener] = weakref.WeakSet()
        self._closing: Callable[[str], Event] | None = None

    @property
    def listeners(self) -> int:
        """How many listeners follow at least one job."""
        return sum(bool(listener.jobs) for listener in self._open)

    def listener(self, *, keep_open: bool = False) -> Listener:
        """Return a listener that follows nothing yet.

        Args:
            keep_open: Whether its iteration goes on when no job is left to follow (a socket that may add more).
        """
        listener = Listener(self._store, self._config, self, keep_open=keep_open)
        self._open.add(listener)
        return listener

    def is_heard(self, job_id: str) -> bool:
        """Whether anyone listens to the job."""
        return job_id in self._listeners

    def publish_result(self, job_id: str, result_id: int, body: bytes) -> None:
        """Tell a result that is committed.

        Args:
            job_id: The job.
            result_id: Its number.
            body: Its JSON, number included.
        """
        self._tell(Event(EventKind.RESULT, job_id, result_id, body))

    def publish_piece(self, job_id: str, piece: Piece, frame_ids: list[str]) -> None:
        """Tell a piece of an answer that is still being spoken; it is stored nowhere, and lost to slow listeners."""
        if job_id in self._listeners:
            body = {"job_id": job_id, "text": piece.text, "index": piece.index, "count": piece.count}
            self._tell(Event(EventKind.TOKEN, job_id, None, orjson.dumps({**body, "frame_ids": frame_ids})))

    def publish_status(self, job_id: str, status: str, **more: Any) -> None:
        """Tell a change of the job; of several, slow listeners get the newest."""
        if job_id in self._listeners:
            self._tell(_status_event(job_id, {"status": status, **more}))

    def publish_done(self, job: Job) -> None:
        """Tell a job's end; after it and the last result, its listeners are through."""
        self._tell(done_event(job))

    def close(self, status_of: Callable[[str], str | None]) -> None:
        """End every listener, present and future, with a closing event; jobs may go on at the next start.

        Args:
            status_of: Gives the status of a job for that event; None if it is not known here.
        """

        def closing(job_id: str) -> Event:
            return _status_event(job_id, {"status": status_of(job_id), "closing": True})

        self._closing = closing
        for listener in list(self._open):
            listener.end(closing)

    def register(self, job_id: str, listener: Listener) -> None:
        """Tell ``listener`` the job's events from now on."""
        self._listeners.setdefault(job_id, {})[listener] = None
        if self._closing is not None:
            listener.end(self._closing)

    def unregister(self, job_id: str, listener: Listener) -> None:
        """Tell it no more."""
        heard_by = self._listeners.get(job_id, {})
        heard_by.pop(listener, None)
        if not heard_by:
            self._listeners.pop(job_id, None)

    async def find_job(self, job_id: str) -> Job | None:
        """Return the job as stored, or None."""
        stored = await self._store.find_job(job_id)
        return stored.job if stored else None

    def _tell(self, event: Event) -> None:
        for listener in list(self._listeners.get(event.job_id, ())):
            listener.tell(event)


def _status_event(job_id: str, body: dict[str, Any]) -> Event:
    return Event(
        EventKind.STATUS,
        job_id,
        None,
        orjson.dumps({"job_id": job_id, "error": None, "error_code": None, "closing": False, **body}),
    )
