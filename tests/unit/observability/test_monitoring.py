"""The dashboard and the alerts ask for metrics, labels and states that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from freeroam.observability.metrics import Metrics
from freeroam.vocabulary.inference import Priority
from freeroam.vocabulary.job import JobStatus, SourceState
from freeroam.vocabulary.model import ModelState

FOLDER = Path(__file__).parents[3] / "deploy" / "monitoring"
OF_PROMETHEUS = {"instance", "job", "le"}
"""Labels that Prometheus adds to what a service says."""

VALUES = {
    ("freeroam_jobs", "status"): set(JobStatus),
    ("freeroam_sources", "state"): set(SourceState),
    ("freeroam_model_state", "state"): set(ModelState),
    ("freeroam_requests_total", "status"): {"ok", "cancelled", "rejected", "expired", "failed"},
    ("freeroam_time_to_first_token_seconds_bucket", "priority"): {priority.name for priority in Priority},
    ("freeroam_http_requests_total", "status"): {"500"},
}
"""Values of labels that expressions may name; of labels that are not here, none may be named but the empty one."""

SELECTOR = re.compile(r"(freeroam_[a-z0-9_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


def labels_by_sample() -> dict[str, set[str]]:
    """Return the labels of every sample that Prometheus may be given."""
    registry = Metrics().registry
    known: dict[str, set[str]] = {}
    for collector in set(registry._collector_to_names):
        labels = set(getattr(collector, "_labelnames", ()))
        for name in registry._collector_to_names[collector]:
            known[name] = labels
    known["freeroam_build_info"] = {"version"}
    for family in registry.collect():  # of the process, whose collector names nothing before
        for sample in family.samples:
            known.setdefault(sample.name, set(sample.labels))
    return known


def dashboard() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "grafana-dashboard.json").read_text()))


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((FOLDER / "alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str, str]]:
    """Give where each expression stands, the expression, and the text that shows its labels."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]
    for rule in rules():
        yield rule["alert"], rule["expr"], " ".join(rule["annotations"].values())


EXPRESSIONS = list(expressions())
KNOWN = labels_by_sample()


@pytest.mark.parametrize(("place", "expression", "legend"), EXPRESSIONS, ids=[place for place, _, _ in EXPRESSIONS])
def test_an_expression_asks_for_what_there_is(place: str, expression: str, legend: str) -> None:
    # Given an expression, when its metrics, labels and values are looked up
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    possible = set(OF_PROMETHEUS)
    for name, matchers in SELECTOR.findall(expression):
        assert name in KNOWN, f"{name} is no metric"
        possible |= KNOWN[name]
        for label, _, value in MATCHER.findall(matchers):
            assert label in KNOWN[name] | OF_PROMETHEUS, f"{name} has no label {label}"
            if not value.startswith("$") and value:
                assert set(value.split("|")) <= VALUES[name, label], f"{name} has no {label} {value}"

    # Then all of them exist, and what is shown is what was grouped by
    assert grouped <= possible
    shown = set(re.findall(r"\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}", legend))
    assert shown <= grouped | OF_PROMETHEUS
    assert expression.count("(") == expression.count(")")


def test_every_metric_of_the_service_is_on_the_dashboard() -> None:
    # Given all metrics of our own, when the dashboard is looked through, then none is left out that somebody would miss
    shown = {
        re.sub(r"_(bucket|sum|count|total|info)$", "", name)
        for _, expression, _ in EXPRESSIONS
        for name, _ in SELECTOR.findall(expression)
    }
    ours = {family.name for family in Metrics().registry.collect() if family.name.startswith("freeroam_")}
    left_out = {
        "freeroam_process_virtual_memory_bytes",
        "freeroam_process_start_time_seconds",
    }
    assert ours - shown == left_out


def test_what_a_panel_is_narrowed_down_by_is_a_label_that_there_is() -> None:
    # Given the choices at the top of the dashboard, when they are looked up, then a metric has such a label
    variables = [each for each in dashboard()["templating"]["list"] if each["type"] == "query"]
    assert [each["name"] for each in variables] == ["instance", "model"]
    for variable in variables:
        asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        assert asked is not None
        assert asked[2] in KNOWN[asked[1]] | OF_PROMETHEUS


def test_panels_stand_beside_and_not_upon_each_other() -> None:
    # Given the places of all panels, when they are laid out, then no two overlap and ids are their own
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_urgent_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    # Given an alert, when it fires, then whoever gets it knows what is wrong, where, and what to look at
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert "$labels.instance" in rule["annotations"]["summary"] or "instance" in rule["expr"]


def test_the_scrape_reads_the_rules_and_the_metrics() -> None:
    # Given the configuration of Prometheus, when it is read, then it names what lies beside it and where metrics are
    document = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert all((FOLDER / name).is_file() for name in document["rule_files"])
    [scrape] = document["scrape_configs"]
    assert (scrape["job_name"], scrape["metrics_path"]) == ("freeroam", "/metrics")
