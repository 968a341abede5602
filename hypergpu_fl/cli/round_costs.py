"""What a round of a task costs over given links: bytes as its update is encoded, seconds as a planner predicts.

Names used here: N = nodes. A node's transfers are those of `strategies.planning.timing`, over one connection's goodput.
Downloads are assumed to be as small as uploads, unless ``network.downlink_codec`` names their level. Only a node's
first one is larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from hypergpu_fl.codec import LEVELS, encode
from hypergpu_fl.codec.payload import COMPRESSIONS
from hypergpu_fl.config import Config, Network
from hypergpu_fl.errors import UsageError
from hypergpu_fl.network.wan import PROFILES, SimulatedLink, tcp_bps
from hypergpu_fl.task.trial import Trial
from strategies.fleet import Fleet
from strategies.lineup import rules
from strategies.model.layout import Layout
from strategies.planning import PLANNERS, Compression, Workload
from strategies.round.rules import Rules

if TYPE_CHECKING:
    from hypergpu_fl.task.check import Checked

SLOW: Final = 0.9  # quantile: the middle of the slowest fifth


@dataclass(frozen=True, slots=True)
class RoundCost:
    """One codec level over one population of links.

    ``update_bytes`` are bytes as encoded. ``median_s`` and ``slow_s`` are seconds of a round at the median node and in
    the middle of the slowest fifth. ``nodes`` is the number of nodes to which the planner would give this level.
    """

    links: str
    level: str
    update_bytes: int
    ratio: float
    steps: int
    median_s: float
    slow_s: float
    nodes: int


def over(network: Network, links: str) -> Network:
    """The section with other links: a profile's name, or a file of devices.

    Raises
    ------
    UsageError
        If it is neither.
    """
    if links.endswith(".csv"):
        return network.model_copy(update={"links_file": str(Path(links).expanduser().absolute())})
    if links not in PROFILES and links != "custom":
        raise UsageError(f"--links {links!r} is no profile", f"name one of {', '.join(PROFILES)}, or a file.csv")
    return network.model_copy(update={"links_file": "", "profile": links})


def encoded_bytes(trial: Trial) -> dict[str, int]:
    """Bytes of the trial's update at every codec level."""
    layout = Layout.of(trial.before)
    update_P = layout.flatten(trial.after) - layout.flatten(trial.before)
    buffers = layout.buffers(trial.after)
    return {name: len(encode(name, update_P, layout, buffers, base=0)) for name in LEVELS}


def round_costs(
    name: str, links: Sequence[SimulatedLink], sent: dict[str, int], rules: Rules, *, examples: int
) -> list[RoundCost]:
    """Find the cost of every level that ``rules`` allow, and count the nodes for which the planner would choose it.

    Every node holds ``examples``.

    Parameters
    ----------
    sent : dict
        Bytes of an update by the level's name.
    """
    settings, planner, model_bytes = rules.settings, PLANNERS[rules.planner], 4 * rules.model_values
    ratios = {level: model_bytes / size for level, size in sent.items()}
    levels = [
        Compression(level.name, ratios[level.name], level.fidelity)
        for level in rules.levels
        if settings.codec in ("auto", level.name)
    ]
    fleet = _fleet(links, examples)
    workload = Workload(
        settings.base_steps(fleet.examples),
        settings.batch_size,
        model_bytes,
        fixed=settings.asks_work,
        within=settings.steps_within,
    )
    down_ratio = ratios.get(settings.downlink_codec)
    chosen = planner(fleet, workload, levels, deadline_s=settings.deadline_s, down_ratio=down_ratio)
    # The same work at all levels, so that they can be compared.
    alike = replace(workload, base_steps=chosen.local_steps, fixed=True)
    found = []
    for index, level in enumerate(levels):
        seconds_N = planner(fleet, alike, [level], down_ratio=down_ratio).predicted_s
        found.append(
            RoundCost(
                links=name,
                level=level.name,
                update_bytes=sent[level.name],
                ratio=level.expected_ratio,
                steps=int(np.median(chosen.local_steps)),
                median_s=float(np.median(seconds_N)),
                slow_s=float(np.quantile(seconds_N, SLOW)),
                nodes=int((chosen.level == index).sum()),
            )
        )
    return found


def _fleet(links: Sequence[SimulatedLink], examples: int) -> Fleet:
    """Nodes whose links are known exactly."""
    fleet = Fleet()
    fleet.enrol_all(
        [str(row) for row in range(len(links))],
        examples=[examples] * len(links),
        sample_s=[link.sample_s for link in links],
    )
    fleet.rtt_s = np.array([link.rtt_s for link in links])
    fleet.uplink_bps = np.array([tcp_bps(link.uplink_bps, link.rtt_s, link.loss) for link in links])
    fleet.downlink_bps = np.array([tcp_bps(link.downlink_bps, link.rtt_s, link.loss) for link in links])
    return fleet


def costs_of(config: Config, checked: Checked, links: Sequence[str]) -> list[RoundCost]:
    """What a round of a task that was tried costs over each of ``links``; if empty, over the configuration's own."""
    from hypergpu_fl.server.server_app import round_settings
    from hypergpu_fl.server.simulated_compute import flops_per_sample, simulated_links

    nodes = config.training.num_nodes
    flops = flops_per_sample(checked.task, checked.model, nodes)
    sent = encoded_bytes(checked.trial)
    decided_by = rules(
        config.network.policy,
        round_settings(config, session=bytes(32)),
        model_values=Layout.of(checked.trial.before).size,
        levels=COMPRESSIONS,
    )
    found = []
    for name in links or [config.network.links_file or config.network.profile]:
        there = config.model_copy(update={"network": over(config.network, name)})
        drawn, _ = simulated_links(there, lambda: flops)
        found += round_costs(Path(name).name, drawn, sent, decided_by, examples=checked.examples)
    return found
