"""Which requests make the next batch, and when."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freeroam.batching.policy import BatchRules, Credit, Entry, Line, decide
from freeroam.vocabulary.inference import Priority

RULES = BatchRules(max_batch=4, max_wait_s=0.010, max_priority_wait_s=5.0, max_cost=1000)
HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW
_keys = itertools.count(1)


def entry(lane: str = "a", priority: Priority = NORMAL, at_s: float = 0.0, **more) -> Entry:
    return Entry(more.pop("key", next(_keys)), priority, lane, at_s, **more)


def line_of(*entries: Entry) -> Line:
    line = Line()
    for one in entries:
        line.add(one)
    return line


def lanes(batch) -> str:
    return "".join(one.lane for one in batch)


def decided(line: Line, now_s: float = 0.0, *, slots: int = 4, free_in_s: float | None = 0.0, expected_s: float = 0.1):
    return decide(line, Credit(slots, free_in_s), RULES, now_s, expected_s, lead_s=0.005)


def test_an_empty_line_waits_for_nobody() -> None:
    decision = decided(Line())

    assert decision.batch == ()
    assert decision.wait_s is None


def test_an_idle_model_gets_a_single_request_at_once() -> None:
    assert lanes(decided(line_of(entry())).batch) == "a"


@pytest.mark.parametrize("slots", [0, -1])
def test_without_room_nothing_is_sent(slots: int) -> None:
    assert decided(line_of(entry()), slots=slots).batch == ()


def test_a_batch_holds_no_more_than_the_rules_and_the_room_allow() -> None:
    line = line_of(*(entry() for _ in range(10)))

    assert [len(decided(line).batch), len(decided(line, slots=3).batch), len(decided(line, slots=9).batch)] == [4, 3, 3]
    assert len(line) == 0


def test_lanes_take_turns() -> None:
    line = line_of(*(entry("a") for _ in range(5)), entry("b"), entry("c"), entry("b"))

    assert lanes(decided(line).batch) == "abca"
    assert lanes(decided(line).batch) == "baaa"


def test_a_lane_that_comes_back_waits_for_the_others_turns() -> None:
    line = line_of(entry("a"), entry("b"), entry("c"))
    assert lanes(line.take(1, RULES, 0.0)) == "a"
    line.add(entry("a"))

    assert lanes(line.take(4, RULES, 0.0)) == "bca"


def test_higher_priorities_go_first() -> None:
    line = line_of(entry("l", LOW), entry("n", NORMAL), entry("h", HIGH), entry("n", NORMAL))

    assert lanes(decided(line).batch) == "hnnl"


def test_a_priority_that_waited_too_long_gets_every_second_place() -> None:
    line = line_of(*(entry("l", LOW) for _ in range(4)), *(entry("h", HIGH, at_s=4.0) for _ in range(6)))

    assert lanes(line.take(4, RULES, 4.9)) == "hhhh"
    line = line_of(*(entry("l", LOW) for _ in range(4)), *(entry("h", HIGH, at_s=4.0) for _ in range(6)))
    assert sorted(lanes(line.take(4, RULES, 5.0))) == ["h", "h", "l", "l"]


def test_with_one_place_a_starving_request_still_gets_its_turn() -> None:
    rules = BatchRules(max_batch=1, max_priority_wait_s=5.0)
    line = line_of(entry("l", LOW), *(entry("h", HIGH, at_s=6.0) for _ in range(10)))

    served = "".join(lanes(line.take(1, rules, 6.0)) for _ in range(3))

    assert "l" in served


def test_a_suspect_is_asked_alone() -> None:
    line = line_of(entry("a"), entry("b", is_alone=True), entry("c"))

    assert [lanes(decided(line).batch) for _ in range(3)] == ["a", "b", "c"]


def test_a_batch_stops_before_its_cost_is_over_the_limit() -> None:
    line = line_of(entry(cost=600), entry(cost=500), entry(cost=5000), entry(cost=1))

    assert [[one.cost for one in decided(line).batch] for _ in range(4)] == [[600], [500], [5000], [1]]


@pytest.mark.parametrize(
    ("now_s", "free_in_s", "deadline_s", "expected_wait_s"),
    [
        (0.000, None, None, 0.010),  # nobody knows: the window of the oldest request
        (0.004, None, None, 0.006),
        (0.010, None, None, 0.0),
        (0.000, 0.100, None, 0.095),  # busy for long: no use in closing the batch sooner
        (0.000, 0.012, None, 0.010),
        (0.020, 0.004, None, 0.0),  # the model wants it now
        (0.000, None, 0.105, 0.005),  # a deadline cuts the window
        (0.000, None, 0.050, 0.0),
    ],
)
def test_a_busy_model_leaves_time_for_a_fuller_batch(now_s, free_in_s, deadline_s, expected_wait_s) -> None:
    decision = decided(line_of(entry(deadline_s=deadline_s)), now_s, free_in_s=free_in_s)

    if expected_wait_s == 0.0:
        assert len(decision.batch) == 1
    else:
        assert decision.batch == ()
        assert decision.wait_s == pytest.approx(expected_wait_s)


def test_a_full_batch_waits_for_no_window() -> None:
    assert len(decided(line_of(*(entry() for _ in range(4))), free_in_s=None).batch) == 4


def test_the_window_begins_with_the_oldest_request_of_any_priority() -> None:
    line = line_of(entry(priority=LOW, at_s=1.0), entry(priority=HIGH, at_s=1.008))

    assert decided(line, 1.008, free_in_s=None).wait_s == pytest.approx(0.002)


def test_expired_requests_are_taken_out_by_deadline() -> None:
    late, soon, never = entry(deadline_s=9.0), entry(deadline_s=3.0), entry()
    line = line_of(late, soon, never)

    assert line.take_expired(2.9) == []
    assert line.take_expired(3.0) == [soon]
    assert line.first_deadline_s == 9.0
    assert line.take_expired(100.0) == [late]
    assert [one.key for one in line] == [never.key]


def test_a_removed_request_leaves_no_trace() -> None:
    one = entry(deadline_s=5.0)
    line = line_of(one)

    assert line.remove(one.key)
    assert not line.remove(one.key)
    assert (len(line), line.oldest_s, line.first_deadline_s) == (0, None, None)
    assert decided(line).batch == ()


def test_what_is_put_back_is_first_again() -> None:
    line = line_of(entry("a"), entry("b"))

    line.add(entry("c"), is_first=True)

    assert lanes(decided(line).batch) == "cab"


def test_deadlines_of_served_requests_do_not_pile_up() -> None:
    line = Line()
    for number in range(5000):
        line.add(entry(deadline_s=1e6 + number))
        line.take(1, RULES, 0.0)

    assert len(line._deadlines) < 1000


@pytest.mark.parametrize("size", [0, 65, -1])
def test_an_impossible_batch_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        BatchRules(max_batch=size)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.sampled_from(list(Priority)), st.floats(0, 10), st.booleans()),
        max_size=60,
    ),
    st.integers(1, 9),
)
def test_everybody_is_served_exactly_once(asked, slots: int) -> None:
    entries = [entry(lane, priority, at_s, is_alone=is_alone) for lane, priority, at_s, is_alone in asked]
    line = line_of(*entries)

    served = []
    while batch := line.take(slots, RULES, 10.0):
        assert len(batch) <= min(slots, RULES.max_batch)
        assert len(batch) == 1 or not any(one.is_alone for one in batch)
        served += [one.key for one in batch]

    assert sorted(served) == sorted(one.key for one in entries)
    assert len(line) == 0


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 6))
def test_one_stream_cannot_crowd_out_another(crowd: int, others: int) -> None:
    line = line_of(*(entry("crowd") for _ in range(crowd)), *(entry(f"other{n}") for n in range(others)))
    rules = BatchRules(max_batch=1)

    first = [line.take(1, rules, 0.0)[0].lane for _ in range(others + 1)]

    assert len(set(first)) == others + 1


# What a low priority can count on in a flood of high ones.

WAIT_S = 5.0


def begins_of(low: int, *, slots: int, call_s: float, lanes: int = 1, flood: int = 3) -> list[float]:
    """Return when each of ``low`` requests began, that came at 0 among ``flood`` times as many as can be answered.

    The model answers ``slots`` at a time in ``call_s`` seconds, and each batch is made when the one before ends.
    """
    rules = BatchRules(max_batch=slots, max_priority_wait_s=WAIT_S)
    line, begins, now_s = Line(), {}, 0.0
    waiting = [entry(f"low{n % lanes}", LOW) for n in range(low)]
    for one in waiting:
        line.add(one)
    while len(begins) < low:
        for n in range(flood * slots):
            line.add(entry(f"high{n}", HIGH, at_s=now_s))
        for one in line.take(slots, rules, now_s):
            if one.priority is LOW:
                begins[one.key] = now_s
        now_s += call_s
    return [begins[one.key] for one in waiting]


@pytest.mark.parametrize("slots", [1, 2, 8, 64])
@pytest.mark.parametrize("call_s", [0.01, 0.7, 4.0])
def test_a_low_request_waits_no_longer_than_the_limit_and_one_batch(slots: int, call_s: float) -> None:
    (begun_s,) = begins_of(1, slots=slots, call_s=call_s)

    assert WAIT_S <= begun_s < WAIT_S + call_s


def test_one_that_comes_after_another_was_served_is_served_as_soon() -> None:
    rules = BatchRules(max_batch=1, max_priority_wait_s=WAIT_S)
    line = line_of(*(entry("h", HIGH, at_s=float(n)) for n in range(100)), entry("first", LOW))
    assert lanes(line.take(1, rules, 5.0)) == "first"
    line.add(entry("second", LOW, at_s=5.0))
    for n in range(5):
        assert line.take(1, rules, 5.0 + n)[0].lane == "h"

    assert line.take(1, rules, 10.0)[0].lane == "second"


def test_of_many_low_requests_every_second_place_serves_one() -> None:
    begins = begins_of(40, slots=4, call_s=0.1)

    # Two of each batch of four, from the first batch after the limit on.
    assert max(begins) <= WAIT_S + 0.1 * (40 / 2) + 1e-6
    assert begins == sorted(begins)


def test_a_lane_of_many_low_requests_does_not_hold_up_another_lanes_one() -> None:
    rules = BatchRules(max_batch=2, max_priority_wait_s=WAIT_S)
    line = line_of(*(entry("many", LOW) for _ in range(100)), entry("single", LOW))
    for n in range(50):
        line.add(entry(f"h{n}", HIGH, at_s=4.0))

    served = [one.lane for _ in range(2) for one in line.take(2, rules, WAIT_S)]

    assert "single" in served


def test_slots_that_come_free_one_by_one_serve_an_aged_request_first() -> None:
    """A model that speaks has all its slots full of high ones; the first that ends makes room for the low one."""
    rules = BatchRules(max_batch=64, max_priority_wait_s=WAIT_S)
    line = line_of(entry("low", LOW), *(entry(f"h{n}", HIGH, at_s=1.0) for n in range(500)))
    full = decide(line, Credit(64), rules, 4.0, 0.0, 0.005).batch
    assert {one.priority for one in full} == {HIGH}
    assert decide(line, Credit(0), rules, 5.1, 0.0, 0.005).batch == ()

    assert lanes(decide(line, Credit(1), rules, 5.2, 0.0, 0.005).batch) == "low"


@pytest.mark.parametrize("more", [{"is_alone": True}, {"cost": 900}], ids=["alone", "costly"])
def test_an_aged_request_that_fits_no_begun_batch_begins_the_next(more: dict[str, int]) -> None:
    # Given two that have waited too long, one of which goes into no batch with others, in an endless flood
    line = line_of(entry("a", LOW), entry("b", LOW, **more))

    # When batches are made
    served = []
    for _ in range(3):
        for _ in range(4):
            line.add(entry("flood", HIGH, at_s=9.0, cost=200))
        served.append(lanes(decided(line, 10.0).batch).replace("flood", "."))

    # Then it keeps its turn until a batch can begin with it
    assert served == ["a.", "b", "...."]


def test_a_batch_that_is_sent_ahead_looks_at_who_will_have_waited_when_it_begins() -> None:
    line = line_of(entry("low", LOW), *(entry("h", HIGH, at_s=4.0) for _ in range(8)))

    sent = decide(line, Credit(4, free_in_s=0.004), RULES, 4.998, 0.1, 0.005).batch

    assert LOW in {one.priority for one in sent}
