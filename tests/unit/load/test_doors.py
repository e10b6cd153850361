"""Answers are read and counted, token by token, however they are cut; what is missing is noticed."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.load.doors import Hearing, OpenAIDoor, OpenAIHearing, SpokenHearing, WholeHearing, open_door, refusal
from freeroam.load.plan import Plan, Wording
from freeroam.load.tally import Books, IndexAccount
from freeroam.vocabulary.inference import Priority


def piece(index: int, count: int = 1) -> bytes:
    return b'data: {"request_id":"r","token":"x","index":%d,"count":%d}\n\n' % (index, count)


def done(tokens: int, reason: str = "stop") -> bytes:
    body = {"finish_reason": reason, "usage": {"completion_tokens": tokens}}
    return b"event: done\ndata: " + orjson.dumps(body) + b"\n\n"


def heard(hearing: Hearing, body: bytes, cuts: list[int] | None = None) -> Hearing:
    places = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts or ())})
    for number, (begin, end) in enumerate(itertools.pairwise(places)):
        hearing.feed(body[begin:end], 10.0 + number)
    hearing.close()
    return hearing


@given(cuts=st.lists(st.integers(0, 600), max_size=10), is_windows=st.booleans())
def test_an_answer_cut_anywhere_is_counted_the_same(cuts: list[int], is_windows: bool) -> None:
    # Given a complete answer with merged pieces and a comment
    body = piece(0) + b": ping\n\n" + piece(1, 3) + piece(4) + done(5)
    books = Books()

    # When it is read in any pieces
    hearing = heard(SpokenHearing(books), body.replace(b"\n", b"\r\n") if is_windows else body, cuts)

    # Then every token is counted once
    assert (hearing.tokens, hearing.error, hearing.is_over) == (5, None, True)
    window = books.window
    assert (window.tokens, window.pieces, window.missing, window.doubled) == (5, 3, 0, 0)
    assert window.times.token_gap.count == 2


@pytest.mark.parametrize(
    ("body", "error", "missing", "doubled"),
    [
        (piece(0) + piece(2) + done(3), "index gap", 1, 0),
        (piece(1) + done(2), "index gap", 1, 0),
        (piece(0) + done(4), "index gap", 3, 0),  # the end says that there were more
        (piece(0, 2) + piece(1) + done(2), "index doubled", 0, 1),
        (piece(0) + piece(0) + done(1), "index doubled", 0, 1),
        (piece(0), "broke off", 0, 0),
        (b"", "broke off", 0, 0),
        (piece(0) + b'event: error\ndata: {"detail":{"code":"replica_lost"}}\n\n', "event: error replica_lost", 0, 0),
        (piece(0) + done(1, "cancelled"), "finish_reason cancelled", 0, 0),
        (b"data: nonsense\n\n" + done(0), "no piece of text", 0, 0),
    ],
)
def test_what_is_wrong_with_an_answer_is_noticed(body: bytes, error: str, missing: int, doubled: int) -> None:
    # Given an answer with a fault, when it is read, then it is counted as failed, and under what
    books = Books()
    hearing = heard(SpokenHearing(books), body)
    assert hearing.error == error
    assert (books.window.missing, books.window.doubled) == (missing, doubled)


def test_a_model_that_does_not_count_is_no_gap() -> None:
    # Given an end that tells no number of tokens, when it is read, then the indexes alone are accounted for
    assert heard(SpokenHearing(Books()), piece(0) + piece(1) + done(0)).error is None


@given(pieces=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), max_size=20))
def test_the_account_of_indexes_is_that_of_a_set(pieces: list[tuple[int, int]]) -> None:
    # Given pieces in an order that only grows, as a connection gives them
    account, seen = IndexAccount(), set[int]()
    pieces.sort()
    for index, count in pieces:
        account.take(index, count)
        seen.update(range(index, index + count))

    # Then missing and doubled are those of the set of numbers that came
    told = sum(count for _, count in pieces)
    highest = max(seen, default=-1) + 1
    assert account.expected == highest
    assert account.missing == highest - len(seen)
    assert account.doubled == told - len(seen)


def test_gaps_are_between_pieces_and_the_first_token_is_noted() -> None:
    # Given pieces at known times, when they are read, then the times are right
    books = Books()
    hearing = SpokenHearing(books)
    for now_s, body in [(1.0, piece(0)), (1.03, piece(1, 4)), (1.05, piece(5)), (1.06, done(6))]:
        hearing.feed(body, now_s)
    assert (hearing.first_s, hearing.last_s) == (1.0, 1.05)
    assert books.window.times.token_gap.max_ms == pytest.approx(30.0)


def test_what_comes_after_a_window_is_counted_in_the_next() -> None:
    # Given an answer that goes on while windows are closed, when it ends, then nothing of it is lost
    books = Books()
    hearing = SpokenHearing(books)
    for index in range(5):
        hearing.feed(piece(index), float(index + 1))
        books.close_window()
    assert (books.total.tokens, books.total.times.token_gap.count) == (5, 4)


def chunk(**choice: Any) -> bytes:
    return b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n"


def test_chunks_of_openai_are_counted_by_the_usage_at_the_end() -> None:
    # Given chunks of which one holds two tokens, as only the end tells
    body = chunk(delta={"role": "assistant", "content": ""}) + chunk(delta={"content": "a"})
    body += chunk(delta={"content": "b c"}) + chunk(delta={}, finish_reason="stop")
    body += b'data: {"choices":[],"usage":{"completion_tokens":3}}\n\ndata: [DONE]\n\n'
    books = Books()

    # When they are read, then all three tokens are counted
    hearing = heard(OpenAIHearing(books), body)
    assert (hearing.tokens, hearing.error, books.window.tokens, books.window.pieces) == (3, None, 3, 2)

    # And one that breaks off, or tells an error, has failed
    assert heard(OpenAIHearing(Books()), chunk(delta={"content": "a"})).error == "broke off"
    failed = b'data: {"error":{"message":"gone","code":"replica_lost"}}\n\n'
    assert heard(OpenAIHearing(Books()), failed).error == "event: error replica_lost"


@pytest.mark.parametrize(
    ("body", "tokens", "error"),
    [
        (b'{"text":"a b","tokens":["a"," b"],"usage":{"completion_tokens":2}}', 2, None),
        (b'{"text":"a","tokens":["a"],"usage":{"completion_tokens":0}}', 1, None),
        (b'{"choices":[{"message":{"content":"a"}}],"usage":{"completion_tokens":7}}', 7, None),
        (b"<html>", 0, "no answer"),
        (b"{}", 0, "no answer"),
    ],
)
def test_whole_answers_are_counted(body: bytes, tokens: int, error: str | None) -> None:
    # Given an answer in one piece, when it is read, then its tokens are counted
    hearing = heard(WholeHearing(Books()), body)
    assert (hearing.tokens, hearing.error) == (tokens, error)


def test_refusals_are_counted_by_status_and_code() -> None:
    # Given refusals of both shapes and of none, when they are named, then status and code are told
    assert refusal(503, b'{"error":"full","detail":{"code":"queue_full"}}') == "503 queue_full"
    assert refusal(404, b'{"error":{"message":"no","code":"model_not_found"}}') == "404 model_not_found"
    assert refusal(502, b"<html>") == "502"
    assert refusal(400, b'{"error":"x","detail":[{"field":"a"}]}') == "400"


def test_questions_are_written_as_their_door_wants_them() -> None:
    # Given a plan with a picture and a level, when questions are written, then each door gets its own form
    picture = "data:image/png;base64,AA=="
    plan = Plan("http://box", [Wording("q")], model="m", max_tokens=9, images=[picture])
    native = open_door(plan)
    assert native.path == "/infer_stream"
    assert orjson.loads(native.body(Wording("q", 5), Priority.HIGH)) == {
        "model": "m",
        "prompt": "q",
        "max_tokens": 5,
        "priority": "HIGH",
        "images": [picture],
    }
    openai = orjson.loads(OpenAIDoor(plan).body(Wording("q"), None))
    assert openai["stream_options"] == {"include_usage": True}
    assert openai["messages"][0]["content"][0]["image_url"]["url"] == picture
    assert openai["max_tokens"] == 9
