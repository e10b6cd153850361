"""Results come once each and in order, however often the connection breaks."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.client.job_streams import download, follow, page_results
from freeroam.client.steps import Lost, Reply, Request, Retries
from freeroam.vocabulary import errors
from freeroam.vocabulary.job_status import JobChange, JobEnd, JobToken
from freeroam.vocabulary.result import Result
from tests.unit.client.playing import LUCKLESS, answer, play

STREAM = Request("GET", "/api/v1/inference/stream/a")
DONE = b'event: done\ndata: {"job_id": "a", "status": "completed", "total_results": 5}\n\n'
CLOSING = b'event: status\ndata: {"job_id": "a", "status": "running", "closing": true}\n\n'
TOKEN = b'event: token\ndata: {"job_id": "a", "text": "x", "index": 0, "count": 1, "frame_ids": []}\n\n'
ALL = (Result, JobToken, JobChange, JobEnd)


def document(number: int) -> dict[str, object]:
    metadata = {
        "num_frames": 1,
        "frame_shape": [1, 1, 3],
        "prompt": "q",
        "model_type": "fake",
        "device": "cpu",
        "timestamp": 0.0,
        "model": "fake",
        "model_version": "1",
        "prompt_version": 1,
        "frame_ids": ["0"],
        "stream_time": 0.0,
        "source_size": [1, 1],
    }
    return {"id": number, "predictions": [], "confidence": [], "metadata": metadata}


def told(number: int) -> bytes:
    return b"id: %d\nevent: result\ndata: %b\n\n" % (number, orjson.dumps(document(number)))


def ids(items: list[object]) -> list[int]:
    return [item.id for item in items if isinstance(item, Result)]


class Server:
    """Replies as the server does: from after ``Last-Event-ID`` on, cutting each connection after some bytes."""

    def __init__(self, count: int, cuts: list[int]) -> None:
        self.count = count
        self.cuts = cuts
        self.asked_after: list[str | None] = []

    def replies(self, requests: list[Request]) -> Iterator[Reply]:
        while True:
            last = requests[-1].headers.get("Last-Event-ID")
            self.asked_after.append(last)
            yield answer()
            body = b"".join(told(number) for number in range(int(last or 0) + 1, self.count + 1)) + DONE
            if self.cuts:
                cut = self.cuts.pop(0)
                yield body[:cut]
                yield Lost("reset") if cut % 2 else b""
            else:
                yield body


@given(cuts=st.lists(st.integers(0, 3000), max_size=8), count=st.integers(0, 8))
def test_a_stream_that_breaks_anywhere_gives_each_result_once(cuts: list[int], count: int) -> None:
    # Given a server whose connections break after any number of bytes
    server = Server(count, list(cuts))
    script = follow(STREAM, None, Retries(luck=lambda: 0.0, stream_attempts=20), *ALL)

    # When a job is followed
    requests: list[Request] = []
    given_items: list[object] = []
    replies = server.replies(requests)
    reply: Reply = None
    while True:
        try:
            step = script.send(reply)
        except StopIteration:
            break
        reply = None
        if hasattr(step, "item"):
            given_items.append(step.item)
        elif hasattr(step, "request"):
            requests.append(step.request)
            replies = server.replies(requests)
            reply = next(replies)
        elif not hasattr(step, "duration_s"):
            reply = next(replies)

    # Then every result came once, in order, and then the end
    assert ids(given_items) == list(range(1, count + 1))
    assert isinstance(given_items[-1], JobEnd)


def test_results_that_come_again_are_passed_over() -> None:
    # Given a server that repeats what it told before, when a job is followed from a place, then nothing is doubled
    played = play(follow(STREAM, 2, LUCKLESS, Result), [answer(), told(2) + told(3) + told(3) + told(4) + DONE])
    assert ids(played.given) == [3, 4]
    assert played.requests[0].headers["Last-Event-ID"] == "2"


def test_a_stream_goes_on_after_the_last_result_and_waits_as_the_server_wishes() -> None:
    # Given a server that stops and says when to come back
    first = b"retry: 2000\n\n" + told(1) + CLOSING

    # When a job is followed through the stop
    replies = [
        answer(),
        first,
        b"",
        answer(503, b"", retry_after="5"),
        Lost("refused", is_unsent=True),
        answer(),
        told(2) + DONE,
    ]
    played = play(follow(STREAM, None, LUCKLESS, *ALL), replies)

    # Then it goes on where it was
    assert [type(item).__name__ for item in played.given] == ["Result", "JobChange", "Result", "JobEnd"]
    assert played.pauses_s == [2.0, 5.0, 0.0]
    assert [request.headers.get("Last-Event-ID") for request in played.requests] == [None, "1", "1", "1"]


@pytest.mark.parametrize(
    ("status", "kind"), [(404, errors.NotFound), (401, errors.Unauthenticated), (400, errors.InvalidInput)]
)
def test_a_stream_that_is_refused_for_good_is_an_error(status: int, kind: type[Exception]) -> None:
    # Given a job that was erased meanwhile, or a wrong key, when it is followed, then that is told at once
    played = play(follow(STREAM, None, LUCKLESS, Result), [answer(), told(1), b"", answer(status)])
    assert ids(played.given) == [1]
    assert type(played.error) is kind


def test_a_server_that_is_gone_is_given_up_after_so_many_attempts_in_a_row() -> None:
    # Given a server that answers once more in between
    patience = Retries(luck=lambda: 0.0, stream_attempts=3)
    gone = Lost("refused", is_unsent=True)

    # When a job is followed, then only attempts in a row count
    played = play(follow(STREAM, None, patience, Result), [gone, gone, answer(), told(1), b"", gone, gone])
    assert ids(played.given) == [1]
    assert isinstance(played.error, errors.Unreachable)


def test_events_that_are_not_known_and_not_wanted_are_passed_over() -> None:
    # Given tokens and something new, when only results are wanted, then only they come
    played = play(
        follow(STREAM, None, LUCKLESS, Result), [answer(), TOKEN + b"event: news\ndata: 1\n\n" + told(1) + DONE]
    )
    assert [type(item) for item in played.given] == [Result]


def test_another_program_at_the_address_is_told_as_such() -> None:
    # Given a server of something else, when a job is followed, then the error says what is wrong
    played = play(follow(STREAM, None, LUCKLESS, Result), [answer(), b"event: result\ndata: {}\n\n"])
    assert isinstance(played.error, errors.FreeroamError)
    assert played.error.code == "bad_answer"


def test_pages_are_read_until_one_is_not_full() -> None:
    # Given five stored results, read two at a time
    def page(*numbers: int) -> Reply:
        body = {"job_id": "a", "status": "running", "results": [document(n) for n in numbers], "total_results": 5}
        return answer(200, orjson.dumps(body))

    # When they are iterated over
    script = page_results(lambda after: Request("GET", "/r", {"after": after}), 0, 2, LUCKLESS)
    played = play(script, [page(1, 2), page(3, 4), page(5)])

    # Then each page begins after the one before
    assert ids(played.given) == [1, 2, 3, 4, 5]
    assert [request.query["after"] for request in played.requests] == [0, 2, 4]


def test_a_download_that_breaks_off_is_an_error_and_not_a_short_file() -> None:
    # Given a connection that breaks in the middle, when a file is read, then the caller is told
    played = play(download(Request("GET", "/export"), LUCKLESS), [answer(), b"half", Lost("reset")])
    assert played.given == [b"half"]
    assert isinstance(played.error, errors.Unreachable)
