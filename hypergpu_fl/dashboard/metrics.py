"""Runs in Prometheus' text format: base units, and names that begin with ``hypergpu_``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0
from prometheus_client.registry import Collector

from hypergpu_fl.dashboard.run_view import RunView
from hypergpu_fl.dashboard.words import WEI

HEALTH: Final = ("sound", "joining", "suspect", "excluded", "offline")
_AT_WORK: Final = ("running", "silent")  # only these runs have metrics of nodes: those of ended runs never change

# name, what it is, key of a node's row, factor to the base unit
_OF_A_NODE: Final = (
    ("node_rtt_seconds", "Round trip time of the node's link.", "rtt_s", 1.0),
    ("node_jitter_seconds", "Mean deviation of the round trip time.", "jitter_s", 1.0),
    ("node_packet_loss_ratio", "Packets that the link loses, of 1.", "loss_rate", 1.0),
    ("node_uplink_bytes_per_second", "Goodput from the node.", "uplink_bps", 1 / 8),
    ("node_downlink_bytes_per_second", "Goodput to the node.", "downlink_bps", 1 / 8),
    ("node_quality_ratio", "Quality of the link, of 1.", "quality", 1.0),
    ("node_success_ratio", "Updates that counted, of those that were tried.", "success_rate", 1.0),
    ("node_utilisation_ratio", "Time at work in the recent rounds, of 1.", "utilisation", 1.0),
    ("node_weight_ratio", "Share of the model's steps in the recent rounds, of 1.", "weight", 1.0),
)


def exposition(views: Iterable[RunView]) -> tuple[bytes, str]:
    """The answer to a scrape, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Runs(list(views)))
    return generate_latest(registry), CONTENT_TYPE_PLAIN_1_0_0


class _Runs(Collector):
    """One scrape of all runs."""

    def __init__(self, views: Sequence[RunView]) -> None:
        self._views = views

    def collect(self) -> Iterator[Metric]:
        """Yield every metric that has a value."""
        runs = [(view, view.summary()) for view in self._views]
        yield from _of_runs([run for _, run in runs])
        yield from _of_last_rounds([(run["run"], view.rounds[-1]) for view, run in runs if view.rounds])
        yield from _of_nodes([(run["run"], view.nodes()) for view, run in runs if run["state"] in _AT_WORK])


def _of_runs(runs: Sequence[dict[str, Any]]) -> Iterator[Metric]:
    info = GaugeMetricFamily("hypergpu_run_info", "What a run trains; always 1.", labels=["run", "task", "state"])
    running = _gauge("run_running", "Whether the run is at work.")
    clock = _gauge("run_clock_seconds", "Time on the run's clock at the end of its last round.")
    rounds = _counter("rounds", "Rounds that were closed.")
    wanted = _gauge("rounds_wanted", "Rounds that the run shall have.")
    up = _counter("upload_bytes", "Bytes of updates that nodes sent.")
    down = _counter("download_bytes", "Bytes of models that nodes were sent.")
    updates = _counter("updates", "Replies by what came of them; late ones are among those counted.", "verdict")
    earned = _counter("earned_coins", "What nodes earned, in the chain's coin.")
    for run in runs:
        name = [run["run"]]
        info.add_metric([*name, run["task"], run["state"]], 1)
        running.add_metric(name, run["state"] == "running")
        clock.add_metric(name, run["seconds"] or 0)
        rounds.add_metric(name, run["rounds"])
        if run["rounds_wanted"]:
            wanted.add_metric(name, run["rounds_wanted"])
        up.add_metric(name, run["bytes_up"])
        down.add_metric(name, run["bytes_down"])
        for verdict in ("counted", "late", "refused"):
            updates.add_metric([*name, verdict], run[verdict])
        if run["earned_wei"] is not None:
            earned.add_metric(name, int(run["earned_wei"]) / WEI)
    yield from (info, running, clock, rounds, wanted, up, down, updates, earned)


def _of_last_rounds(rows: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[Metric]:
    loss = _gauge("loss", "Loss of the model after the last round.")
    metric = _gauge("metric", "What else the server measured of the model after the last round.", "metric")
    took = _gauge("last_round_seconds", "How long the last round took on the run's clock.")
    arrived = _gauge("last_round_updates", "Updates that counted in the last round.")
    for run, row in rows:
        if row["loss"] is not None:
            loss.add_metric([run], row["loss"])
        for name, value in row["metrics"].items():
            if value is not None:
                metric.add_metric([run, name], value)
        took.add_metric([run], row["took_s"])
        arrived.add_metric([run], row["arrived"])
    yield from (loss, metric, took, arrived)


def _of_nodes(runs: Sequence[tuple[str, list[dict[str, Any]]]]) -> Iterator[Metric]:
    states = _gauge("nodes", "Nodes by their health.", "health")
    earned = _counter("node_earned_coins", "What a node earned, in the chain's coin.", "node")
    families = {key: (_gauge(name, text, "node"), factor) for name, text, key, factor in _OF_A_NODE}
    for run, nodes in runs:
        count = Counter(node["state"] for node in nodes)
        for state in HEALTH:
            states.add_metric([run, state], count[state])
        for node in nodes:
            if node["wei"] is not None:
                earned.add_metric([run, node["name"]], int(node["wei"]) / WEI)
            for key, (family, factor) in families.items():
                if node[key] is not None:
                    family.add_metric([run, node["name"]], node[key] * factor)
    yield states
    yield earned
    yield from (family for family, _ in families.values())


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"hypergpu_{name}", text, labels=["run", *labels])


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"hypergpu_{name}", text, labels=["run", *labels])
