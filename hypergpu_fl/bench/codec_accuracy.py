"""What compression costs in accuracy: the same training, seed by seed, with and without it.

This is plain federated averaging in one process: in every round each node trains one epoch on its Dirichlet share,
updates are weighted by examples, and ``w += server_step * mean``. Data, partitions and local training are those of
`hypergpu_fl.task`. Blobs are really encoded and decoded, and every byte is counted, including the first whole models.
The server step is tuned for dense training on seeds of its own, and compressed variants use the same step. A training's
accuracy is the mean over the last fifth of its rounds, on the test set; differences are paired by seed.

On MNIST's 2,000 test images, two trainings of the same kind differed by 0.6 points (standard deviation of 40 paired
differences), at every server step. Five such differences cannot bound a mean to half a point, so each seed of MNIST
stands for five trainings, whose accuracies are averaged.

Error feedback sends values late, so the gap depends on how far training has come. The recipe for the digits (learning
rate 0.3, 400 rounds) is one whose dense training has reached its plateau. When training was cut off at 200 rounds,
while dense training still improved, 1/32 both ways lost 0.3 points at server step 1 on three seeds; with learning rate
0.1 and 100 rounds it lost 0.28 at step 2 and 0.85 at step 4. Averaging the server's versions did not close that gap.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from hypergpu_fl.bench.shipped import changed
from hypergpu_fl.codec import ModelVersions, View, apply, decode, encode, encode_with_feedback
from hypergpu_fl.config import Config, Training
from hypergpu_fl.task import Task, TrainContext, load_task
from strategies.model.layout import Layout, Vector

Progress = Callable[[float, str], None]
Row = dict[str, Any]
LAST = 0.2  # share of a run's rounds to average over: on a plateau single rounds differ by half a point
STEPS = (1.0, 1.4, 2.0, 2.8, 4.0, 5.6)
TUNING_SEEDS = (1000, 1001, 1002)


@dataclass(frozen=True, slots=True)
class Variant:
    """How updates travel.

    ``up`` and ``down`` are codec levels; None means dense float32. ``loss`` is the share of replies that the server
    never gets. ``on_loss`` is what a node does after a loss: ``rollback`` to the residual it had, ``commit`` the new
    residual as if the reply had counted, or ``carry`` the whole lost update into the next one.
    """

    name: str
    up: str | None = None
    down: str | None = None
    feedback: bool = True
    loss: float = 0.0
    on_loss: str = "rollback"


DENSE = Variant("dense")
VARIANTS = (
    Variant("int8", "int8"),
    Variant("top32", "top32"),
    Variant("top32 without error feedback", "top32", feedback=False),
    Variant("top64", "top64"),
    Variant("top128", "top128"),
    Variant("top32 both ways", "top32", "top32"),
    Variant("top64 both ways", "top64", "top64"),
    Variant("dense, 20 % lost", loss=0.2),
    Variant("top32, 20 % lost, rolled back", "top32", loss=0.2),
    Variant("top32, 20 % lost, committed", "top32", loss=0.2, on_loss="commit"),
    Variant("top32, 20 % lost, carried", "top32", loss=0.2, on_loss="carry"),
)
DATASETS: dict[str, dict[str, Any]] = {
    "digits": {"rounds": 400, "seeds": 10, "trainings": 1, "learning_rate": 0.3, "batch_size": 32},
    "mnist": {"rounds": 150, "seeds": 5, "trainings": 5, "learning_rate": 0.3, "batch_size": 32},
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Accuracy in percent, and bytes of all blobs, of one training or as means of several."""

    accuracy: float
    bytes_up: float
    bytes_down: float
    dense_bytes: float  # bytes of each direction as float32


def run_codec_accuracy(
    *,
    dataset: str = "digits",
    data_root: str = "",
    seeds: Sequence[int] = (),
    variants: Sequence[Variant] = VARIANTS,
    rounds: int = 0,
    steps: Sequence[float] = STEPS,
    tuning_seeds: Sequence[int] = TUNING_SEEDS,
    cache: Path | None = None,
    progress: Progress = lambda share, label: None,
) -> list[Row]:
    """Rows of mean paired differences to dense FedAvg, in points of accuracy.

    Each is ``{dataset, codec, seeds, trainings, rounds, server_step, accuracy, difference, sd, lower, upper, ratio_up,
    ratio_down, ratio_round_trip, changed}``; ``trainings`` is how many a seed stands for, ``lower`` and ``upper`` bound
    the two-sided 95 % confidence interval (Student's t), ``changed`` are the settings of ``training`` that differ from
    the shipped defaults. A variant with loss is compared with dense training under the same loss. ``seeds``: those of
    the data set if there are none. ``progress`` is told the share of trainings done, and what the last one was.
    """
    recipe = DATASETS[dataset]
    rounds, seeds, each = rounds or recipe["rounds"], seeds or range(recipe["seeds"]), recipe["trainings"]
    losses = {0.0, *(variant.loss for variant in variants)}
    compressed = sum(bool(variant.up or variant.down) for variant in variants)
    total = each * len(seeds) * (len(losses) + compressed) + (len(steps) * len(tuning_seeds) if len(steps) > 1 else 0)
    done = itertools.count(1)

    def trained(variant: Variant, seed: int, step: float) -> Outcome:
        task = load_task(recipe_of(dataset, data_root, seed), cache=cache)
        made = simulate(task, dataset, variant, rounds, seed, step)
        progress(next(done) / total, f"{variant.name}, seed {seed}, step {step}: {made.accuracy:.2f} %")
        return made

    def outcome(variant: Variant, seed: int, step: float) -> Outcome:
        return _mean([trained(variant, each * seed + i, step) for i in range(each)])

    step = steps[0]
    if len(steps) > 1:
        tuned = {s: statistics.mean(trained(DENSE, seed, s).accuracy for seed in tuning_seeds) for s in steps}
        step = max(tuned, key=lambda s: tuned[s])
    dense = {loss: [outcome(replace(DENSE, loss=loss), seed, step) for seed in seeds] for loss in sorted(losses)}
    rows = [_row(dataset, DENSE, dense[0.0], dense[0.0], rounds, step)]
    for variant in variants:
        ours = [outcome(variant, seed, step) for seed in seeds] if variant.up or variant.down else dense[variant.loss]
        reference = dense[0.0] if variant.up is None else dense[variant.loss]
        rows.append(_row(dataset, variant, ours, reference, rounds, step))
    return rows


def recipe_of(dataset: str, data_root: str, seed: int) -> Training:
    """Ten nodes with Dirichlet(0.3) shares and a multilayer perceptron."""
    settings = {key: DATASETS[dataset][key] for key in ("learning_rate", "batch_size")}
    return Training(
        dataset=dataset, data_root=data_root, model_architecture="mlp", num_nodes=10, alpha=0.3, seed=seed, **settings
    )


def simulate(task: Task, dataset: str, variant: Variant, rounds: int, seed: int, server_step: float) -> Outcome:
    """Train once; see the module's description."""
    import torch

    device, model = torch.device("cpu"), task.model()
    layout, batch = Layout.of(task.arrays(model)), DATASETS[dataset]["batch_size"]
    buffers = layout.buffers(task.arrays(model))
    model_P = layout.flatten(task.arrays(model))
    examples = [task.examples(node) for node in range(10)]
    versions = ModelVersions(layout, chain=variant.down) if variant.down else None
    views: list[View | None] = [None] * 10
    residuals: list[Vector | None] = [None] * 10
    lost = np.random.default_rng([seed, 77])
    accuracies, bytes_up, bytes_down = [], 0, 0
    for round in range(rounds):
        if versions:
            versions.publish(round, model_P, buffers)
        total_P, weight = np.zeros_like(model_P), 0
        for node in range(10):
            start_P, view = model_P, views[node]
            if versions and variant.down:
                blob = versions.download(variant.down, view.version if view else -1).blob
                received = apply(blob, layout, view)
                views[node], start_P = received.view, received.model_P
                bytes_down += len(blob)
            else:
                bytes_down += model_P.nbytes
            task.load(model, layout.restore(start_P, buffers))
            local_steps = max(1, math.ceil(examples[node] / batch))
            context = TrainContext(
                steps=local_steps,
                batch_size=batch,
                seed=seed * 100_003 + round,
                device=device,
                folder=Path(),  # the built-in task keeps nothing there
            )
            task.train(model, node, context)
            delta_P = layout.flatten(task.arrays(model)) - start_P
            arrives = lost.random() >= variant.loss
            sent_P, left_P, size = _send(variant, delta_P, residuals[node], layout, round)
            bytes_up += size
            if arrives or variant.on_loss == "commit":
                residuals[node] = left_P
            elif variant.on_loss == "carry" and left_P is not None:
                residuals[node] = left_P + sent_P
            if arrives:
                total_P += np.float32(examples[node]) * sent_P
                weight += examples[node]
        if weight:
            model_P = model_P + np.float32(server_step / weight) * total_P
        if round >= min((1 - LAST) * rounds, rounds - 1):
            task.load(model, layout.restore(model_P, buffers))
            accuracies.append(100 * task.evaluate(model, device=device).metrics["accuracy"])
    return Outcome(statistics.mean(accuracies), bytes_up, bytes_down, 10 * rounds * model_P.nbytes)


def _mean(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(*(statistics.mean(getattr(o, field.name) for o in outcomes) for field in fields(Outcome)))


def _send(
    variant: Variant, delta_P: Vector, residual_P: Vector | None, layout: Layout, base: int
) -> tuple[Vector, Vector | None, int]:
    """What the server gets, what the node keeps, and the bytes between them."""
    if variant.up is None:
        return delta_P, None, delta_P.nbytes
    if not variant.feedback:
        blob = encode(variant.up, delta_P, layout, {}, base=base)
        return decode(blob, layout).dense(), None, len(blob)
    blob, left_P = encode_with_feedback(variant.up, delta_P, residual_P, layout, {}, base=base)
    return decode(blob, layout).dense(), left_P, len(blob)


def _row(
    dataset: str, variant: Variant, ours: Sequence[Outcome], dense: Sequence[Outcome], rounds: int, step: float
) -> Row:
    from scipy import stats

    differences = [a.accuracy - b.accuracy for a, b in zip(ours, dense, strict=True)]
    n, mean = len(differences), statistics.mean(differences)
    sd = statistics.stdev(differences) if n > 1 else math.nan
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n) if n > 1 else math.nan
    up, down, whole = (sum(getattr(o, key) for o in ours) for key in ("bytes_up", "bytes_down", "dense_bytes"))
    return {
        "dataset": dataset,
        "codec": variant.name,
        "seeds": n,
        "trainings": DATASETS[dataset]["trainings"],
        "rounds": rounds,
        "server_step": step,
        "accuracy": statistics.mean(o.accuracy for o in ours),
        "difference": mean,
        "sd": sd,
        "lower": mean - half,
        "upper": mean + half,
        "ratio_up": whole / up,
        "ratio_down": whole / down,
        "ratio_round_trip": 2 * whole / (up + down),
        "changed": changed(Config(training=recipe_of(dataset, "", 0))),
    }
