"""What a replica owes, as the parent counts it."""

from __future__ import annotations

from typing import Any

from freeroam.batching.batcher import Batcher
from freeroam.batching.policy import BatchRules
from freeroam.batching.ticket import Ticket
from freeroam.engines.calls import CallBook
from freeroam.testing import FakeClock
from tests.engines import question


def tickets_of(count: int) -> list[Ticket]:
    batcher = Batcher(BatchRules(), 100, FakeClock())
    return [batcher.admit(question()) for _ in range(count)]


def book_of(*sizes: int) -> tuple[CallBook, list[list[Ticket]], list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []
    book = CallBook(told.append)
    held = [tickets_of(size) for size in sizes]
    for tickets in held:
        book.keep(book.open(tickets))
    return book, held, told


async def test_answers_are_counted_off() -> None:
    book, ((one, two),), _ = book_of(2)
    call = book.calls[1]

    assert (call.take(0), call.take(0), book.wanted, call.open) == (one, None, 1, 1)
    assert call.take(1) is two
    assert (book.wanted, dict(book.calls), one.seat, two.seat) == (0, {}, None, None)


async def test_one_who_leaves_frees_its_slot_at_once_and_its_place_with_the_answer() -> None:
    book, ((_, two),), told = book_of(2)

    assert two.seat is not None
    two.seat.leave(two)

    assert told == [{"kind": "cancel", "call": 1, "questions": [1]}]
    assert (book.wanted, book.calls[1].open, two.seat) == (1, 2, None)
    call = book.calls[1]
    call.take(1)
    call.take(0)
    assert (book.wanted, dict(book.calls)) == (0, {})


async def test_only_a_last_call_that_has_not_begun_is_taken_back() -> None:
    book, (first, second), told = book_of(2, 3)

    assert book.take_back() == second
    assert (book.wanted, [ticket.seat for ticket in second]) == (2, [None] * 3)
    assert told[-1] == {"kind": "cancel", "call": 2, "questions": None}
    assert book.take_back() == []
    assert all(ticket.seat is book.calls[1] for ticket in first)


async def test_a_call_that_has_begun_stays() -> None:
    book, _, _ = book_of(1, 1)
    book.calls[2].started_s = 1.0

    assert book.take_back() == []
    assert book.wanted == 2


async def test_what_is_given_up_is_split_by_what_had_begun() -> None:
    book, (first, second), _ = book_of(2, 1)
    assert first[0].seat is not None
    first[0].seat.leave(first[0])

    assert book.clear(begun=1) == (first, second)
    assert (book.wanted, dict(book.calls), second[0].seat) == (0, {}, None)
