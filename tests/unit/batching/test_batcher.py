"""The bounded queue: who is admitted, what is taken out, and pieces on their way."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from freeroam.batching.batcher import Batcher
from freeroam.batching.policy import BatchRules, Credit
from freeroam.batching.ticket import Ticket
from freeroam.testing import FakeClock
from freeroam.vocabulary.errors import DeadlineExceeded, Draining, QueueFull
from freeroam.vocabulary.inference import Piece, Priority
from tests.engines import question


def batcher_of(clock: FakeClock | None = None, max_queue: int = 8) -> Batcher:
    return Batcher(BatchRules(max_batch=4), max_queue, clock or FakeClock())


def taken(batcher: Batcher) -> list[Ticket]:
    return batcher.next_batch(Credit(64), expected_s=0.0, lead_s=0.0)[0]


async def test_each_priority_has_its_own_bound() -> None:
    batcher = batcher_of(max_queue=8)
    admitted = {}

    for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
        with pytest.raises(QueueFull, match=priority.name):
            deque((batcher.admit(question(priority=priority)) for _ in range(9)), maxlen=0)
        admitted[priority] = len(batcher)

    assert admitted == {Priority.LOW: 6, Priority.NORMAL: 7, Priority.HIGH: 8}


async def test_a_queue_of_one_admits_one_of_any_priority() -> None:
    for priority in Priority:
        assert batcher_of(max_queue=1).admit(question(priority=priority))


async def test_what_is_taken_makes_room() -> None:
    batcher = batcher_of(max_queue=1)
    ticket = batcher.admit(question())

    assert taken(batcher) == [ticket]
    assert batcher.admit(question())


async def test_a_removed_ticket_is_not_sent() -> None:
    batcher = batcher_of()
    first, second = batcher.admit(question()), batcher.admit(question())

    assert batcher.remove(first)
    assert taken(batcher) == [second]
    assert not batcher.remove(second)


async def test_a_deadline_fails_its_ticket_and_no_other() -> None:
    clock = FakeClock()
    batcher = batcher_of(clock)
    short = batcher.admit(question(deadline_monotonic_s=clock.monotonic_s() + 1.0))
    long = batcher.admit(question(deadline_monotonic_s=clock.monotonic_s() + 2.0))

    clock.move(1.0)

    assert batcher.expire() == [short]
    assert isinstance(short.answer.exception(), DeadlineExceeded)
    assert taken(batcher) == [long]


async def test_a_request_that_comes_too_late_is_refused() -> None:
    clock = FakeClock()

    with pytest.raises(DeadlineExceeded):
        batcher_of(clock).admit(question(deadline_monotonic_s=clock.monotonic_s()))


async def test_what_is_put_back_keeps_its_order_and_goes_before_the_rest() -> None:
    batcher = batcher_of()
    old = [batcher.admit(question(lane=lane)) for lane in "abc"]
    assert taken(batcher) == old
    new = batcher.admit(question(lane="a"))
    old[1].answer.cancel()

    batcher.put_back(old)

    assert taken(batcher) == [old[0], old[2], new]


async def test_suspects_are_asked_one_by_one_after_the_innocent() -> None:
    batcher = batcher_of()
    tickets = [batcher.admit(question(lane=lane)) for lane in "abcd"]
    taken(batcher)
    for suspect in tickets[:2]:
        suspect.losses = 1

    batcher.put_back([*tickets[2:], *tickets[:2]])

    assert [taken(batcher) for _ in range(3)] == [tickets[2:], [tickets[0]], [tickets[1]]]


async def test_failing_all_gives_each_its_own_error() -> None:
    batcher = batcher_of()
    tickets = [batcher.admit(question()) for _ in range(3)]

    assert batcher.fail_all(lambda: Draining("stop")) == 3
    errors = [ticket.answer.exception() for ticket in tickets]
    assert len({id(error) for error in errors}) == 3
    assert len(batcher) == 0


async def test_pieces_that_nobody_took_are_joined() -> None:
    ticket = batcher_of().admit(question())
    assert ticket.take_piece() is None

    ticket.speak(["a", "b"])
    first = ticket.take_piece()
    ticket.speak(["c"])
    ticket.speak(["d", "e"])
    second = ticket.take_piece()

    assert (first, second) == (Piece("ab", 0, 2), Piece("cde", 2, 3))
    assert not ticket.may_be_asked_again


async def test_a_listener_is_woken_by_a_piece_and_by_the_end() -> None:
    ticket = batcher_of().admit(question())
    listening = asyncio.create_task(ticket.news())
    await asyncio.sleep(0)
    assert not listening.done()

    ticket.speak(["a"])
    await listening
    ticket.take_piece()
    listening = asyncio.create_task(ticket.news())
    await asyncio.sleep(0)
    ticket.fail(Draining("stop"))

    await listening
    assert ticket.is_over


async def test_a_reserved_place_counts_until_it_is_given_back() -> None:
    batcher = batcher_of(max_queue=2)
    places = [batcher.reserve(Priority.HIGH) for _ in range(2)]

    with pytest.raises(QueueFull, match="2 requests wait"):
        batcher.admit(question(priority=Priority.HIGH))
    with pytest.raises(QueueFull):
        batcher.reserve(Priority.HIGH)
    for _ in range(2):
        places[0].release()

    assert (batcher.reserved, places[0].is_held, places[1].is_held) == (1, False, True)
    assert batcher.admit(question(priority=Priority.HIGH))


async def test_one_who_had_a_place_is_admitted_whatever_came_meanwhile() -> None:
    batcher = batcher_of(max_queue=1)
    batcher.admit(question())

    assert batcher.admit(question(), has_place=True)


async def test_what_moves_keeps_its_place_priority_and_deadline() -> None:
    clock = FakeClock()
    old, new = batcher_of(clock), batcher_of(clock, max_queue=2)
    deadline_s = clock.monotonic_s() + 10.0
    first = old.admit(question("first", lane="a", deadline_monotonic_s=deadline_s))
    pinned = old.admit(question("pinned", model="m@1", lane="a"))
    clock.move(1.0)
    between = new.admit(question("between", model="m@2", lane="a"))
    clock.move(1.0)
    last = old.admit(question("last", lane="a"))
    high = old.admit(question("high", lane="b", priority=Priority.HIGH))
    gone = old.admit(question("gone", lane="c"))
    gone.answer.cancel()

    new.take_in(old.give_away())

    assert taken(old) == [pinned]
    assert (len(old), len(new)) == (0, 4)
    assert new.first_deadline_s == deadline_s
    assert taken(new) == [high, first, between, last]


async def test_what_moved_is_taken_out_where_it_is_now() -> None:
    old, new = batcher_of(), batcher_of()
    here = [new.admit(question()) for _ in range(3)]
    moved = [old.admit(question()) for _ in range(3)]

    new.take_in(old.give_away())

    assert new.remove(moved[1])
    assert new.remove(here[1])
    assert {ticket.key for ticket in taken(new)} == {ticket.key for ticket in (here[0], here[2], moved[0], moved[2])}
