"""The dashboard and the alerts are valid PromQL, and use only metrics and labels that exist."""

import json
import re

import promql_parser
import pytest
import yaml
from conftest import REPOSITORY

from genretag.runtime.telemetry import METRICS

MONITORING = REPOSITORY / "cluster" / "monitoring"
ALERTS = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
FROM_RAY = {"NodeAddress"}  # labels that Ray adds to every series
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
SERIES = {metric.exposed_name + suffix: metric for metric in METRICS for suffix in SUFFIXES[metric.kind]}

RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PANELS = DASHBOARD["panels"]
QUERIES = [rule["expr"] for rule in RULES] + [t["expr"] for panel in PANELS for t in panel["targets"]]


def parsed(query):
    """Parse a query as Prometheus does. Grafana's placeholder for the interval is replaced by 5 minutes."""
    return promql_parser.parse(query.replace("$__rate_interval", "5m"))


def selectors(node):
    """Return the metrics of a query, each with the labels that the query selects by."""
    found = re.findall(r"(ray_genretag_\w+)(?:\{([^}]*)\})?", node.prettify())
    return [(name, re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels)) for name, labels in found]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_uses_series_and_labels_that_are_exposed(query):
    asked = selectors(parsed(query))

    assert asked, "every query is about genretag"
    for name, labels in asked:
        assert name in SERIES, f"{name} is not exposed: genretag/runtime/telemetry.py has {sorted(SERIES)}"
        assert set(labels) <= {*SERIES[name].tags, *FROM_RAY}
    for labels in re.findall(r"\bby \(([^)]*)\)", query):
        known = {tag for name, _ in asked for tag in SERIES[name].tags} | FROM_RAY | {"le"}
        assert set(re.split(r",\s*", labels)) <= known


def test_every_metric_is_on_the_dashboard():
    shown = {name for panel in PANELS for t in panel["targets"] for name, _ in selectors(parsed(t["expr"]))}

    assert {SERIES[name] for name in shown} == set(METRICS)


def test_rates_are_of_counters_and_histograms_only():
    for query in QUERIES:
        for name in re.findall(r"(?:rate|increase)\((\w+)", query):
            assert SERIES[name].kind != "gauge", query


def test_an_alert_says_how_bad_it_is_and_what_to_do():
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "warn", "info")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_the_panels_of_the_dashboard_do_not_overlap_and_say_what_they_show():
    taken = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["title"]
        assert panel["description"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_metrics_have_names_and_labels_that_prometheus_takes():
    for metric in METRICS:
        assert re.fullmatch(r"genretag_[a-z_]+", metric.name)
        assert metric.description
        assert all(re.fullmatch(r"[a-z_]+", tag) for tag in metric.tags)
        assert bool(metric.boundaries) == (metric.kind == "histogram")
