"""How long a simulated node computes on one sample of the run's own model.

A profile's seconds per sample are for ``REFERENCE``, the 45 MB model of the benchmarks: 4 ms correspond to 0.8 TFLOP/s,
a home GPU. Another model's seconds are scaled by its FLOPs, counted in one training step on the server's CPU. FLOPs
follow from shapes alone, so one seed gives one result on every machine. The model leaves out what a step costs besides
arithmetic, which for a small model is most of it.

A trace's milliseconds were measured with a model that its file does not name, so they are not scaled.
``network.sample_ms`` overrides both: the median node takes that long, and the others keep their ratio to it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Literal

from loguru import logger

from hypergpu_fl.config import Config, Network
from hypergpu_fl.errors import TaskError, UsageError
from hypergpu_fl.network.traces import configured_links
from hypergpu_fl.network.wan import PROFILES, SimulatedLink, draw_links
from hypergpu_fl.task import Task, TrainContext
from hypergpu_fl.task.user_code import user_code

if TYPE_CHECKING:
    import torch

REFERENCE: Final = "ResNet-18 on images of 3x32x32"
REFERENCE_FLOPS: Final = 3_328_997_376  # forward and backward for one of them
COUNTED_BATCH: Final = 2  # samples; normalisation over a batch needs two
COUNTED_STEPS: Final = 4  # their mean, since samples may differ in length


@dataclass(frozen=True, slots=True)
class SimulatedCompute:
    """Where the simulated seconds per sample come from, and the median node's milliseconds."""

    by: Literal["flops", "trace", "network.sample_ms", "profile"]
    median_ms: float
    flops_per_sample: float | None = None

    def document(self) -> dict[str, Any]:
        """For ``report.json``."""
        return {**asdict(self), "reference": REFERENCE, "reference_flops_per_sample": REFERENCE_FLOPS}

    def tell(self) -> None:
        """Log it as one line."""
        cause = {
            "flops": f"by the model's {self.flops_per_sample or 0:,.0f} FLOPs; network.sample_ms sets it",
            "trace": "as the trace says, whatever the model; network.sample_ms sets it",
            "profile": f"as the profile has it for {REFERENCE}",
        }
        logger.info(
            "simulated processors: {:.3g} ms a sample at the median node, {}",
            self.median_ms,
            cause.get(self.by, f"as {self.by} says"),
        )


def simulated_links(config: Config, flops: Callable[[], float | None]) -> tuple[list[SimulatedLink], SimulatedCompute]:
    """One link per node: from trace files if they are configured, else all alike (custom) or drawn from the profile.

    ``flops``: see ``computing``.
    """
    network, nodes, seed = config.network, config.training.num_nodes, config.training.seed
    if (traced := configured_links(network, nodes, seed=seed)) is not None:
        return computing(traced, network, flops, typical_s=median(link.sample_s for link in traced))
    if network.profile != "custom":
        profile = PROFILES[network.profile]
        return computing(draw_links(profile, nodes, seed=seed), network, flops, typical_s=profile.sample_s)
    link = SimulatedLink(
        rtt_s=network.base_latency_ms / 1e3,
        jitter_s=network.jitter_ms / 1e3,
        loss=network.packet_loss_rate,
        uplink_bps=network.uplink_mbps * 1e6,
        downlink_bps=network.downlink_mbps * 1e6,
        sample_s=PROFILES["broadband"].sample_s,
    )
    return computing([link] * nodes, network, flops, typical_s=link.sample_s)


def computing(
    links: Sequence[SimulatedLink], network: Network, flops: Callable[[], float | None], *, typical_s: float
) -> tuple[list[SimulatedLink], SimulatedCompute]:
    """``links`` with their seconds per sample scaled to the run's model, and where the scale came from.

    Parameters
    ----------
    flops : callable
        FLOPs per sample, None if they cannot be counted; called only if needed.
    typical_s : float
        Seconds per sample at the median node of the population that ``links`` were drawn from.

    Raises
    ------
    UsageError
        If ``network.sample_ms`` is to scale a median of nothing.
    """
    counted = None
    by: Literal["flops", "trace", "network.sample_ms", "profile"] = "profile"
    factor = 1.0
    if network.sample_ms:
        if not typical_s:
            raise UsageError("the trace's median device takes 0 ms a sample", "leave out network.sample_ms")
        by, factor = "network.sample_ms", network.sample_ms / 1e3 / typical_s
    elif network.links_file:
        by = "trace"
    elif (counted := flops()) is not None:
        by, factor = "flops", counted / REFERENCE_FLOPS
    scaled = [replace(link, sample_s=factor * link.sample_s) for link in links]
    return scaled, SimulatedCompute(by, 1e3 * median(link.sample_s for link in scaled), counted)


def flops_per_sample(task: Task, model: torch.nn.Module, nodes: int) -> float | None:
    """FLOPs of one example's forward and backward pass, counted on the first share that has a batch.

    They are what further steps take beyond the first: what a task measures besides is no step's work. The steps change
    ``model``. Returns None, with a warning, if the task fails; the nodes will report that failure too.
    """
    import torch

    from hypergpu_fl.server.flop_counter import FlopCounter

    partition = next((node for node in range(nodes) if task.examples(node) >= COUNTED_BATCH), None)
    if partition is None:
        return None

    def counted(steps: int) -> int:
        with tempfile.TemporaryDirectory(prefix="hypergpu-flops-") as folder, user_code("counting the model's FLOPs"):
            context = TrainContext(
                steps=steps, batch_size=COUNTED_BATCH, seed=0, device=torch.device("cpu"), folder=Path(folder)
            )
            with (counter := FlopCounter()):
                task.train(model, partition, context)
        return counter.flops

    try:
        first, all_steps = counted(1), counted(1 + COUNTED_STEPS)
    except TaskError as error:
        logger.warning("the model's FLOPs cannot be counted: {}", error)
        return None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    # a model without matrix products: each parameter is used once forward and twice backward
    return float(max(0, all_steps - first) / (COUNTED_STEPS * COUNTED_BATCH) or 6 * parameters) or None
