"""/metrics: what Prometheus' own checker takes, and what the dashboards for Grafana ask for."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from seen_runs import BUDGET, SeenRun

from hypergpu_fl.dashboard.metrics import exposition
from hypergpu_fl.dashboard.run_view import RunView

GRAFANA = Path(__file__).parents[3] / "deploy" / "grafana"


def scraped(run: SeenRun) -> str:
    view = RunView(run.folder)
    view.poll()
    return exposition([view])[0].decode()


def value(text: str, name: str, **labels: str) -> float:
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name]
    return next(s.value for s in samples if labels.items() <= s.labels.items())


def test_promtool_has_nothing_to_say(going_on: SeenRun, promtool: str) -> None:
    done = subprocess.run([promtool, "check", "metrics"], input=scraped(going_on), text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_figures_are_in_base_units(going_on: SeenRun) -> None:
    text = scraped(going_on)
    assert value(text, "hypergpu_rounds_total", run="demo") == 3
    assert value(text, "hypergpu_loss", run="demo") == pytest.approx(1 / 3)
    assert value(text, "hypergpu_metric", metric="accuracy") == pytest.approx(1 - 0.5 / 3)
    assert value(text, "hypergpu_updates_total", verdict="refused") == 3
    assert value(text, "hypergpu_node_uplink_bytes_per_second", node="node-0") == pytest.approx(5e6)
    assert value(text, "hypergpu_nodes", health="excluded") == 1
    assert value(text, "hypergpu_earned_coins_total") == pytest.approx(3 * BUDGET / 1e18)


def test_a_run_that_has_ended_tells_nothing_of_its_nodes(going_on: SeenRun) -> None:
    going_on.finish()
    text = scraped(going_on)
    assert value(text, "hypergpu_run_info", state="completed") == 1
    assert "hypergpu_node_rtt_seconds{" not in text


def test_grafana_asks_only_for_metrics_and_labels_that_there_are(going_on: SeenRun) -> None:
    known: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(scraped(going_on)):
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    asked = [*queries(json.loads((GRAFANA / "hypergpu.json").read_text()))]
    assert len(asked) > 10
    for query in asked:
        names = re.findall(r"hypergpu_\w+", query)
        assert names and set(names) <= known.keys(), query
        labels = set(re.findall(r"(\w+)\s*=~?\s*\"", query)) | {
            label.strip() for found in re.findall(r"by \(([^)]*)\)", query) for label in found.split(",")
        }
        assert labels <= set().union(*(known[name] for name in names)), query


def queries(part: object) -> list[str]:
    """Every expression and every query of a variable in a dashboard."""
    if isinstance(part, dict):
        own = [v for k, v in part.items() if k in ("expr", "query", "definition") and "hypergpu" in str(v)]
        found = [text for text in own if isinstance(text, str)]
        return found + [q for v in part.values() for q in queries(v)]
    return [q for item in part for q in queries(item)] if isinstance(part, list) else []
