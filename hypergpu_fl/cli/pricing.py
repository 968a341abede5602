"""What a round of a task costs over given links: bytes as its update is encoded, seconds as the planner predicts.

Names used here: N = nodes. A node's transfers are those of `strategies.planning.timing`, over one connection's goodput.
Downloads are assumed to be as small as uploads, which holds except for a node's first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from hypergpu_fl.codec import LEVELS, encode
from hypergpu_fl.config import Config, Network
from hypergpu_fl.errors import UsageError
from hypergpu_fl.network.wan import PROFILES, SimulatedLink, tcp_bps
from hypergpu_fl.task.trial import Trial
from strategies.fleet import Fleet
from strategies.model.layout import Layout
from strategies.planning import Compression, Workload, plan

if TYPE_CHECKING:
    from hypergpu_fl.task.check import Checked
    from strategies.settings import Settings

SLOW: Final = 0.9  # quantile: the middle of the slowest fifth


@dataclass(frozen=True, slots=True)
class Price:
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


def prices(
    name: str,
    links: Sequence[SimulatedLink],
    sent: dict[str, int],
    settings: Settings,
    *,
    model_bytes: int,
    examples: int,
) -> list[Price]:
    """Price every level that ``settings`` allow, and count the nodes for which the planner would choose it.

    Every node holds ``examples``.

    Parameters
    ----------
    sent : dict
        Bytes of an update by the level's name.
    """
    levels = [
        Compression(level.name, model_bytes / sent[level.name], level.fidelity)
        for level in LEVELS.values()
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
    chosen = plan(fleet, workload, levels)
    # The same work at all levels, so that they can be compared.
    alike = replace(workload, base_steps=chosen.local_steps, fixed=True)
    found = []
    for index, level in enumerate(levels):
        seconds_N = plan(fleet, alike, [level]).predicted_s
        found.append(
            Price(
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


def priced(config: Config, checked: Checked, links: Sequence[str]) -> list[Price]:
    """Prices of a task that was tried, over each of ``links``; if empty, over the links of the configuration."""
    from hypergpu_fl.server.server_app import round_settings
    from hypergpu_fl.server.simulated_compute import flops_per_sample, simulated_links

    nodes = config.training.num_nodes
    flops = flops_per_sample(checked.task, checked.model, nodes)
    sent = encoded_bytes(checked.trial)
    settings = round_settings(config, session=bytes(32))
    found = []
    for name in links or [config.network.links_file or config.network.profile]:
        there = config.model_copy(update={"network": over(config.network, name)})
        drawn, _ = simulated_links(there, lambda: flops)
        found += prices(
            Path(name).name,
            drawn,
            sent,
            settings,
            model_bytes=4 * Layout.of(checked.trial.before).size,
            examples=checked.examples,
        )
    return found
