"""The parts of an engine that need no process: breaker, forecast, alarm, statistics, specs, registry."""

from __future__ import annotations

import pytest

from freeroam.engines.alarm import Alarm
from freeroam.engines.breaker import Breaker
from freeroam.engines.embedded import check_spec
from freeroam.engines.forecast import Forecast
from freeroam.engines.specs import ModelSpec, usable_cores
from freeroam.engines.statistics import Statistics, percentiles
from freeroam.observability.metrics import Metrics
from freeroam.testing import FakeClock
from freeroam.vocabulary.errors import ConfigurationError
from freeroam.vocabulary.inference import Priority


def breaker() -> Breaker:
    return Breaker(max_deaths=3, window_s=100.0, pause_s=5.0, max_pause_s=12.0)


def test_a_row_of_deaths_opens_the_breaker() -> None:
    one = breaker()

    assert [one.record_death(float(second)) for second in range(3)] == [False, False, True]
    assert one.retry_at_s == 7.0


@pytest.mark.parametrize("between", ["an answer", "a long time"])
def test_deaths_that_are_no_row_do_not(between: str) -> None:
    one = breaker()
    one.record_death(0.0)
    one.record_death(1.0)
    if between == "an answer":
        one.record_answer()

    assert not one.record_death(2.0 if between == "an answer" else 200.0)


def test_a_certain_death_opens_it_at_once() -> None:
    assert breaker().record_death(0.0, is_certain=True)


def test_pauses_grow_up_to_a_limit_and_an_answer_resets_them() -> None:
    one, pauses, now_s = breaker(), [], 0.0
    one.record_death(now_s, is_certain=True)
    for _ in range(4):
        assert one.retry_at_s is not None
        pauses.append(one.retry_at_s - now_s)
        now_s = one.retry_at_s
        one.begin_trial()
        assert one.is_open
        assert one.retry_at_s is None
        one.record_death(now_s)
    assert pauses == [5.0, 10.0, 12.0, 12.0]

    one.begin_trial()
    one.record_ready()
    assert not one.is_open
    one.record_answer()
    one.record_death(now_s, is_certain=True)
    assert one.retry_at_s == now_s + 5.0


def test_a_trial_that_loads_and_dies_before_an_answer_opens_it_again() -> None:
    one = breaker()
    one.record_death(0.0, is_certain=True)
    one.begin_trial()
    one.record_ready()

    assert one.record_death(10.0)


def test_a_forecast_errs_on_the_short_side() -> None:
    forecast = Forecast()
    assert forecast.expect_s(1) is None

    for duration_s in (0.2, 0.1, 0.3):
        forecast.record(4, duration_s)
    forecast.record(2, 0.05)

    assert forecast.expect_s(4) == pytest.approx(0.09)
    assert forecast.expect_s(3) == pytest.approx(0.045)
    assert forecast.expect_s(8) == pytest.approx(0.045)
    assert forecast.expect_s(1) is None


def test_a_forecast_forgets_what_is_long_ago() -> None:
    forecast = Forecast()
    forecast.record(1, 0.001)
    for _ in range(8):
        forecast.record(1, 1.0)

    assert forecast.expect_s(1) == pytest.approx(0.9)


async def test_an_alarm_rings_at_the_earliest_time_asked_for() -> None:
    clock, rings = FakeClock(0.0), []
    alarm = Alarm(clock, lambda: rings.append(clock.monotonic_s()))
    alarm.set(10.0)
    alarm.set(4.0)
    alarm.set(8.0)

    await clock.advance(5.0)
    alarm.set(8.0)
    await clock.advance(5.0)
    alarm.set(20.0)
    alarm.cancel()
    await clock.advance(50.0)

    assert rings == [4.0, 8.0]
    assert clock.sleepers == 0


async def test_an_alarm_set_from_its_own_ring_rings_again() -> None:
    clock, rings = FakeClock(0.0), []

    def ring() -> None:
        rings.append(clock.monotonic_s())
        alarm.set(clock.monotonic_s() + 1.0)

    alarm = Alarm(clock, ring)
    alarm.set(1.0)
    await clock.advance(3.5)
    alarm.cancel()

    assert rings == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [([], (None, None, None)), ([5.0], (5.0, 5.0, 5.0)), ([float(n) for n in range(100)], (50.0, 95.0, 99.0))],
)
def test_percentiles(samples: list[float], expected: tuple) -> None:
    assert tuple(percentiles(samples).values()) == expected


def test_statistics_count_and_reach_the_metrics() -> None:
    clock, metrics = FakeClock(), Metrics()
    statistics = Statistics("m", "1", clock, metrics)

    statistics.add_call(4, 20.0)
    statistics.add_batch(0.004)
    for priority in (Priority.HIGH, Priority.NORMAL, Priority.NORMAL):
        statistics.add_answer(wait_ms=5.0, total_ms=25.0, priority=priority)
    statistics.count_outcome("failed")
    statistics.count_outcome("expired", 0)
    statistics.count_restart("crashed")
    statistics.count_cancelled("queued", Priority.LOW)
    statistics.count_cancelled("running", Priority.LOW)
    statistics.show(replicas_ready=1)
    shown, told = statistics.snapshot(), metrics.snapshot()

    assert (shown["p50"], shown["wait_ms"]["p50"], shown["model_ms"]["p50"]) == (25.0, 5.0, 20.0)
    assert (shown["mean_batch_size"], shown["error_rate"]) == (4.0, 0.25)
    assert shown["throughput"] == pytest.approx(4 / 60, abs=0.001)
    assert shown["questions"]["answered"] == 3
    assert shown["questions"]["cancelled"] == 2
    assert told["freeroam_questions_total"]["model=m,outcome=answered,version=1"] == 3
    assert told["freeroam_queue_time_seconds_count"]["model=m,priority=NORMAL,version=1"] == 2
    assert told["freeroam_queue_time_seconds_sum"]["model=m,priority=HIGH,version=1"] == 0.005
    assert told["freeroam_batch_wait_seconds_sum"]["model=m,version=1"] == 0.004
    assert told["freeroam_cancelled_total"] == {
        "model=m,priority=LOW,stage=queued,version=1": 1,
        "model=m,priority=LOW,stage=running,version=1": 1,
    }
    assert told["freeroam_replicas_ready"]["model=m,version=1"] == 1
    clock.move(100.0)
    assert statistics.snapshot()["throughput"] == 0.0


def test_many_samples_are_sorted_a_few_times_a_second_and_few_at_once() -> None:
    clock = FakeClock()
    statistics = Statistics("m", "1", clock, None)
    for number in range(200):
        statistics.add_answer(wait_ms=0.0, total_ms=1.0, priority=Priority.NORMAL)
        assert number > 98 or statistics.snapshot()["p99"] == 1.0
    for _ in range(1000):
        statistics.add_answer(wait_ms=0.0, total_ms=9.0, priority=Priority.NORMAL)

    before = statistics.snapshot()
    clock.move(0.3)

    assert (before["p50"], before["questions"]["answered"]) == (1.0, 1200)
    assert statistics.snapshot()["p50"] == 9.0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "nonsense"}, "MODEL_TYPE=nonsense"),
        ({"max_batch": 0}, "MAX_BATCH_SIZE=0"),
        ({"max_batch": 65}, "MAX_BATCH_SIZE=65"),
        ({"max_batch_wait_ms": 101.0}, "MAX_BATCH_WAIT_MS"),
        ({"max_batch_wait_ms": -1.0}, "MAX_BATCH_WAIT_MS"),
        ({"replicas": 0}, "NUM_REPLICAS=0"),
        ({"name": ""}, "name"),
        ({"name": "a@b"}, "name"),
    ],
)
def test_a_spec_that_cannot_be_loaded_names_its_setting(changes: dict, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        check_spec(ModelSpec(**{"name": "m", "model_type": "fake", **changes}))


def test_threads_are_shared_among_replicas_unless_said() -> None:
    assert ModelSpec("m", replicas=1).threads == usable_cores()
    assert ModelSpec("m", replicas=1000).threads == 1
    assert ModelSpec("m", options={"threads": 3}).threads == 3
