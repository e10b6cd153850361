"""Every metric has a prefix and a help text, and registries do not get in each other's way."""

from __future__ import annotations

import pytest

from freeroam.observability.loop_lag import LoopLag
from freeroam.observability.metrics import Metrics
from freeroam.testing import FakeClock
from freeroam.vocabulary.errors import (
    DeadlineExceeded,
    Draining,
    FreeroamError,
    InvalidInput,
    ModelError,
    QueueFull,
    RateLimited,
)


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


def test_what_was_counted_of_a_version_that_was_unloaded_is_forgotten_also_what_ends_later() -> None:
    # Given calls to two versions and results of jobs, and one call that was refused and one question that failed
    metrics = Metrics()

    def count(version: str) -> None:
        calls = metrics.of_calls("gpt2", version, "NORMAL")
        calls.count("ok", "stop")
        calls.generation_tokens.inc(4)
        calls.time_to_first_token.observe(0.1)
        metrics.count_result("gpt2" if version else "failed", version, 0.2)

    def told() -> str:
        return metrics.render().decode()

    for version in ("1", "2", ""):
        count(version)

    # When one is unloaded, and a call to it ends after that and a result of it is stored
    metrics.forget_version("gpt2", "1")
    assert 'version="1"' not in told()
    count("1")
    assert metrics.snapshot()["freeroam_generation_tokens_total"]["model=gpt2,priority=NORMAL,version=1"] == 4.0
    metrics.keep_versions({("gpt2", "2")})

    # Then nothing of it is left, and the others go on
    assert 'version="1"' not in told()
    assert 'version="2"' in told()
    assert metrics.snapshot()["freeroam_generation_tokens_total"]["model=gpt2,priority=NORMAL,version="] == 4.0
    assert metrics.snapshot()["freeroam_results_total"] == {"model=failed,version=": 1.0, "model=gpt2,version=2": 1.0}
    count("1")
    assert metrics.snapshot()["freeroam_generation_tokens_total"]["model=gpt2,priority=NORMAL,version=1"] == 4.0


def test_the_name_of_a_model_goes_with_its_last_version_also_from_calls_that_were_refused() -> None:
    # Given calls to two models, some of which were refused, and one to a name that somebody made up
    metrics = Metrics()
    for model, version in (("gpt2", "1"), ("gpt2", ""), ("detector", "1"), ("detector", ""), ("other", "")):
        metrics.of_calls(model, version, "NORMAL").count("ok" if version else "rejected", "stop")

    # When one is unloaded
    metrics.keep_versions({("detector", "1")})

    # Then its name is no label any more, and whoever asks for it is counted as for any name that is not there
    assert list(metrics.snapshot()["freeroam_requests_total"].values()) == [1.0, 1.0, 1.0]
    assert 'model="gpt2"' not in metrics.render().decode()
    assert not metrics.knows_model("gpt2")
    assert metrics.knows_model("detector")


def test_a_version_that_is_unloaded_leaves_no_series_in_any_metric_of_versions() -> None:
    # Given one sample in every metric that is told apart by model and version
    metrics = Metrics()
    of_versions = {
        name: metric
        for name, metric in vars(metrics).items()
        if {"model", "version"} <= set(getattr(metric, "_labelnames", ()))
    }
    assert {"results", "result_time", "questions", "cancelled", "requests", "model_state"} <= set(of_versions)
    for version in ("1", "2"):
        for metric in of_versions.values():
            others = len(metric._labelnames) - 2
            metric.labels("gpt2", version, *["x"] * others)

    # When one version is unloaded, then nothing of it is left, and all of the other
    metrics.forget_version("gpt2", "1")
    told = metrics.render().decode()
    assert 'version="1"' not in told
    for metric in of_versions.values():
        assert [sample for family in metric.collect() for sample in family.samples]


def test_a_model_has_one_name_in_all_metrics() -> None:
    # Given all metrics, when one is told apart by model, then by version too, so that one choice narrows all of them
    for name, metric in vars(Metrics()).items():
        labels = set(getattr(metric, "_labelnames", ()))
        assert ("model" in labels) == ("version" in labels), name


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RateLimited("often"), "rate_limit"),
        (QueueFull("full"), "queue_full"),
        (DeadlineExceeded("late"), "deadline"),
        (Draining("stopping"), "draining"),
        (InvalidInput("what?"), None),
        (ModelError("broken"), None),
    ],
)
def test_a_refusal_is_counted_under_the_usual_reason(error: FreeroamError, reason: str | None) -> None:
    # Given an error, when a request ends with it, then only what was turned away is counted
    metrics = Metrics()
    metrics.count_refusal(error)
    assert metrics.snapshot().get("freeroam_rejected_total") == ({f"reason={reason}": 1.0} if reason else None)


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
