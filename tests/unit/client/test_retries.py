"""A call is sent again where that helps and does no harm, and nowhere else."""

from __future__ import annotations

import pytest

from freeroam.client.steps import Answer, Lost, Request, Retries, exchange
from freeroam.vocabulary import errors
from tests.unit.client.playing import LUCKLESS, UNLUCKY, answer, play

GET = Request("GET", "/health")
POST = Request("POST", "/api/v1/inference/start")
QUESTION = Request("POST", "/infer", is_question=True)
FULL = answer(503, b'{"error": "full", "detail": {"code": "queue_full"}}', retry_after="2")
LIMITED = answer(429, b'{"error": "slow", "detail": {"code": "rate_limited"}}', retry_after="3")
STREAMS = answer(429, b'{"error": "10", "detail": {"code": "too_many_streams"}}', retry_after="1")
BARE_503 = answer(503, b"busy")
GATEWAY = answer(502, b"")
UNSENT = Lost("refused", is_unsent=True)
BROKEN = Lost("reset")
SILENT = Lost("silence", is_silence=True)


@pytest.mark.parametrize(
    ("request_", "came", "is_tried_again"),
    [
        (GET, FULL, True),
        (POST, FULL, True),  # a server that says when to come back has done nothing
        (QUESTION, LIMITED, True),
        (POST, LIMITED, True),
        (POST, BARE_503, False),  # a proxy may say so after the server has begun
        (GET, BARE_503, True),
        (GET, GATEWAY, True),
        (POST, GATEWAY, False),
        (QUESTION, GATEWAY, True),
        (POST, STREAMS, False),  # a place comes free only when a job ends
        (GET, UNSENT, True),
        (POST, UNSENT, True),
        (GET, BROKEN, True),
        (POST, BROKEN, False),  # it may have been done
        (QUESTION, BROKEN, True),
        (GET, SILENT, False),
        (GET, answer(404), False),
        (GET, answer(500), False),
        (GET, answer(504), False),
        (QUESTION, answer(400), False),
    ],
)
def test_a_call_is_sent_again_only_where_that_is_right(
    request_: Request, came: Answer | Lost, is_tried_again: bool
) -> None:
    # Given what came of a call, when it is carried out
    played = play(exchange(request_, LUCKLESS, lambda told: told.status), [came, answer(200)])

    # Then it is sent again, or the caller is told
    assert len(played.requests) == (2 if is_tried_again else 1)
    assert (played.value == 200) is is_tried_again
    assert (played.error is None) is is_tried_again


def test_retry_after_is_never_undercut_and_the_last_refusal_is_told() -> None:
    # Given a server that stays full, when a call is carried out
    played = play(exchange(GET, LUCKLESS, lambda told: told), [FULL] * 4)

    # Then it is tried as often as may be, with the pauses that the server wants, and the error says why
    assert played.pauses_s == [2.0, 2.0, 2.0]
    assert isinstance(played.error, errors.QueueFull)


def test_pauses_double_up_to_their_bound() -> None:
    # Given a server that cannot be reached, and no luck
    retries = Retries(attempts=9, longest_pause_s=4.0, luck=lambda: 1.0)

    # When a call is carried out, then the pauses grow and are bounded
    played = play(exchange(GET, retries, lambda told: told), [UNSENT] * 9)
    assert played.pauses_s == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0]
    assert isinstance(played.error, errors.Unreachable)


def test_a_server_that_wants_a_long_pause_is_not_asked_again() -> None:
    # Given a server that is away for an hour, when it is asked, then the caller is told at once, with the time
    away = answer(503, b"", retry_after="3600")
    played = play(exchange(GET, UNLUCKY, lambda told: told), [away])
    assert played.pauses_s == []
    assert isinstance(played.error, errors.Unavailable)
    assert played.error.retry_after_s == 3600


def test_one_attempt_is_one_attempt() -> None:
    # Given no wish to try again, when the server is full, then it is said at once
    played = play(exchange(GET, Retries(attempts=1), lambda told: told), [FULL])
    assert len(played.requests) == 1
    assert isinstance(played.error, errors.QueueFull)


def test_silence_is_a_deadline_that_passed() -> None:
    # Given a server that says nothing, when it is asked, then the error says so
    played = play(exchange(GET, LUCKLESS, lambda told: told), [SILENT])
    assert isinstance(played.error, errors.DeadlineExceeded)
