"""Every metric has a prefix and a help text, and registries do not get in each other's way."""

from __future__ import annotations

from freeroam.observability.loop_lag import LoopLag
from freeroam.observability.metrics import Metrics
from freeroam.testing import FakeClock


def test_every_metric_of_ours_is_prefixed_and_explained() -> None:
    # Given all metrics
    for family in Metrics().registry.collect():
        # Then each has a name of ours (or of the Python runtime) and a help text
        assert family.name.startswith(("freeroam_", "python_")), family.name
        assert len(family.documentation) > 10, family.name


def test_several_sets_of_metrics_live_in_one_process() -> None:
    # Given two sets
    first, second = Metrics(), Metrics()

    # When one counts
    first.count_dropped("consumer_busy", 3)

    # Then the other does not
    assert first.snapshot()["freeroam_frames_dropped_total"] == {"reason=consumer_busy": 3.0}
    assert "freeroam_frames_dropped_total" not in second.snapshot()
    assert b'freeroam_frames_dropped_total{reason="consumer_busy"} 3.0' in first.render()


def test_states_that_nobody_is_in_are_zero() -> None:
    # Given a gauge by state, when counts are set, then the others are 0 rather than stale
    metrics = Metrics()
    metrics.set_states(metrics.jobs, {"running": 2}, ["pending", "running"])
    metrics.set_states(metrics.jobs, {}, ["pending", "running"])
    assert metrics.snapshot()["freeroam_jobs"] == {"status=pending": 0.0, "status=running": 0.0}


def test_calls_to_a_version_that_was_unloaded_are_forgotten_also_those_that_end_later() -> None:
    # Given calls to two versions, and one that was refused
    metrics = Metrics()

    def count(version: str) -> None:
        calls = metrics.of_calls("gpt2", version, "NORMAL")
        calls.count("ok", "stop")
        calls.generation_tokens.inc(4)
        calls.time_to_first_token.observe(0.1)

    def told() -> str:
        return metrics.render().decode()

    for version in ("1", "2", ""):
        count(version)

    # When one is unloaded, and a call to it ends after that
    metrics.forget_calls("gpt2", "1")
    assert 'version="1"' not in told()
    count("1")
    assert metrics.snapshot()["freeroam_generation_tokens_total"]["model=gpt2,priority=NORMAL,version=1"] == 4.0
    metrics.keep_calls_of({("gpt2", "2")})

    # Then nothing of it is left, and the others go on
    assert 'version="1"' not in told()
    assert 'version="2"' in told()
    assert metrics.snapshot()["freeroam_generation_tokens_total"]["model=gpt2,priority=NORMAL,version="] == 4.0
    count("1")
    assert metrics.snapshot()["freeroam_generation_tokens_total"]["model=gpt2,priority=NORMAL,version=1"] == 4.0


async def test_the_event_loop_is_measured() -> None:
    # Given a watch over the loop
    clock, metrics = FakeClock(), Metrics()
    lag = LoopLag(clock, metrics)
    lag.start()

    # When time passes
    await clock.advance(2.0)
    await lag.stop()

    # Then each interval was measured
    assert metrics.snapshot()["freeroam_event_loop_lag_seconds_count"] == 4.0
