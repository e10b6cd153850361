"""An answer that is spoken is accounted for, token by token."""

from __future__ import annotations

import pytest

from freeroam.client.speech import listen
from freeroam.client.steps import Lost, Reply, Request
from freeroam.vocabulary import errors
from freeroam.vocabulary.model_calls import InferDone, InferToken
from tests.unit.client.playing import LUCKLESS, answer, play

ASK = Request("POST", "/infer_stream", is_question=True)
DONE = (
    b'event: done\ndata: {"request_id": "r", "model": "m", "version": "1", "finish_reason": "length", '
    b'"usage": {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}}\n\n'
)


def piece(text: str, index: int, count: int = 1) -> bytes:
    more = f', "count": {count}' if count > 1 else ""
    return f'data: {{"request_id": "r", "token": "{text}", "index": {index}{more}}}\n\n'.encode()


def test_pieces_come_then_the_end_with_usage_and_reason() -> None:
    # Given an answer of which two tokens were merged
    body = piece("Once", 0) + b": ping\n\n" + piece(" upon a", 1, 2) + piece(" time", 3) + DONE

    # When it is listened to
    played = play(listen(ASK, LUCKLESS), [answer(), body[:70], body[70:]])

    # Then the text is whole, and the last item says how it ended
    *tokens, done = played.given
    assert "".join(token.token for token in tokens) == "Once upon a time"
    assert all(isinstance(token, InferToken) for token in tokens)
    assert isinstance(done, InferDone)
    assert (done.finish_reason, done.usage.completion_tokens) == ("length", 4)


@pytest.mark.parametrize(("first", "second"), [((0, 1), (2, 1)), ((0, 2), (1, 1)), ((1, 1), (2, 1))])
def test_a_token_that_is_lost_or_doubled_is_an_error(first: tuple[int, int], second: tuple[int, int]) -> None:
    # Given indexes with a gap or a double, when they are listened to, then it is noticed
    played = play(listen(ASK, LUCKLESS), [answer(), piece("a", *first) + piece("b", *second) + DONE])
    assert isinstance(played.error, errors.FreeroamError)
    assert played.error.code == "token_out_of_order"


def test_a_failure_after_the_first_piece_is_the_error_that_the_server_tells() -> None:
    # Given a model that dies in the middle
    failed = b'event: error\ndata: {"request_id": "r", "error": "gone", "detail": {"code": "replica_lost"}}\n\n'

    # When it is listened to, then what was said was given, and why it ended is raised
    played = play(listen(ASK, LUCKLESS), [answer(), piece("a", 0) + failed])
    assert len(played.given) == 1
    assert isinstance(played.error, errors.ModelError)
    assert played.error.code == "replica_lost"


@pytest.mark.parametrize("end", [b"", Lost("reset")], ids=["closed", "reset"])
def test_an_answer_that_breaks_off_is_not_asked_again(end: Reply) -> None:
    # Given a connection that ends after a piece, when it is listened to
    played = play(listen(ASK, LUCKLESS), [answer(), piece("a", 0), end])

    # Then the question is not asked twice, and the caller knows how much came
    assert len(played.requests) == 1
    assert isinstance(played.error, errors.Unreachable)
    assert played.error.__notes__[-1] == "1 tokens had come"


def test_a_question_that_is_turned_away_is_asked_again_before_its_first_piece() -> None:
    # Given a server that is full at first, when it is asked, then it is asked again when it said
    full = answer(503, b'{"error": "full", "detail": {"code": "queue_full"}}', retry_after="1")
    played = play(listen(ASK, LUCKLESS), [full, full, answer(), piece("a", 0, 4) + DONE])
    assert played.pauses_s == [1.0, 1.0]
    assert len(played.given) == 2
