"""Scripts that follow a job: what it tells as it happens, its results page by page, or all of them as a file."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel

from freeroam.client.events import EventReader, ServerEvent
from freeroam.client.steps import (
    Answer,
    Give,
    Lost,
    Open,
    Pause,
    Read,
    Reply,
    Request,
    Retries,
    StreamScript,
    document_of,
    exchange,
    failure,
    opening,
)
from freeroam.vocabulary.errors import RateLimited, Unavailable
from freeroam.vocabulary.job_status import JobChange, JobEnd, JobToken
from freeroam.vocabulary.result import EventKind, Result, ResultsPage

SILENCE_S = 45.0
"""A stream of results that says nothing for so long is dead: the server comments on a quiet one every 15 seconds."""

_DOCUMENTS: Mapping[str, type[BaseModel]] = {
    EventKind.RESULT.value: Result,
    EventKind.TOKEN.value: JobToken,
    EventKind.STATUS.value: JobChange,
    EventKind.DONE.value: JobEnd,
}

T = TypeVar("T", bound=BaseModel)


class _Place:
    """How far a job was followed, across connections.

    Attributes:
        position: Id of the last result that was given; None before the first.
        failures: Connections in a row of which nothing came.
        wanted_s: How long the server wants a reader to wait before it connects again.
    """

    def __init__(self, after: int | None) -> None:
        self.position = after
        self.failures = 0
        self.wanted_s = 0.0

    def read(self, event: ServerEvent) -> BaseModel | None:
        """Return what an event tells; None if it is of no known kind, or a result that was given before."""
        kind = _DOCUMENTS.get(event.kind)
        if kind is None:
            return None
        document = document_of(kind, event.data)
        if isinstance(document, Result):
            if self.position is not None and document.id <= self.position:
                return None
            self.position, self.failures = document.id, 0
        return document


def follow(request: Request, after: int | None, retries: Retries, *wanted: type[T]) -> StreamScript[T]:
    """Give what a job tells until it is over, however often the connection breaks; no result is doubled or lost.

    Args:
        request: Of the stream.
        after: Begin after this result; None begins with the first one kept.
        retries: How often in a row it is opened without anything coming of it.
        wanted: Which documents are given; the others are read and passed over.

    Raises:
        FreeroamError: The stream was refused for good, or could not be opened again.
    """
    place = _Place(after)
    while True:
        headers = {} if place.position is None else {"Last-Event-ID": str(place.position)}
        attempt = replace(request, headers={**request.headers, **headers}, timeout_s=SILENCE_S)
        came = yield Open(attempt)
        assert isinstance(came, Answer | Lost)
        wanted_s = 0.0
        if isinstance(came, Answer) and came.status < 400:
            is_over = yield from _read_events(place, wanted)
            if is_over:
                return
            error = Lost("the stream broke off").error(attempt)
            wanted_s = place.wanted_s
        else:
            error = failure(attempt, came)
            if isinstance(came, Answer) and not isinstance(error, RateLimited | Unavailable):
                raise error
            if isinstance(came, Answer):
                wanted_s = getattr(error, "retry_after_s", 0.0)
        place.failures += 1
        if place.failures >= retries.stream_attempts:
            raise error
        yield Pause(retries.pause_s(place.failures, min(wanted_s, retries.longest_pause_s)))


def _read_events(place: _Place, wanted: tuple[type[T], ...]) -> Generator[Read | Give[T], Reply, bool]:
    """Give what one connection tells; return whether the job is over."""
    reader = EventReader()
    while True:
        data = yield Read()
        if not isinstance(data, bytes) or not data:
            return False
        for event in reader.feed(data):
            document = place.read(event)
            if isinstance(document, wanted):
                yield Give(document)
            if isinstance(document, JobEnd):
                yield Read()  # the end of the body, so that the connection can be used again
                return True
        place.wanted_s = reader.retry_s or 0.0


def page_results(page_of: Callable[[int], Request], after: int, page: int, retries: Retries) -> StreamScript[Result]:
    """Give the results that follow ``after`` and are stored now, oldest first.

    Args:
        page_of: Makes the request of the page that follows an id.
        after: 0 begins with the first one kept.
        page: Results a page.
        retries: For each page.
    """
    while True:
        found = yield from exchange(page_of(after), retries, lambda answer: document_of(ResultsPage, answer.body))
        for result in found.results:
            yield Give(result)
        if len(found.results) < page:
            return
        after = found.results[-1].id


def download(request: Request, retries: Retries) -> StreamScript[bytes]:
    """Give the body of an answer as it comes; tried again only before its first byte.

    Raises:
        FreeroamError: It was refused, or broke off.
    """
    yield from opening(request, retries)
    while True:
        data = yield Read()
        if isinstance(data, Lost):
            raise failure(request, data)
        assert isinstance(data, bytes)
        if not data:
            return
        yield Give(data)
