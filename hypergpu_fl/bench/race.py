"""One run of one contender: real training on a virtual clock, until its limits are reached."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp import Grid

from hypergpu_fl.bench.contenders import Contender
from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.bench.scenarios import Links, slow_accuracy, slow_nodes
from hypergpu_fl.codec.payload import CodecPayload
from hypergpu_fl.config import Blockchain, Config, System, Training, to_run_config
from hypergpu_fl.errors import RunFailed, UsageError
from hypergpu_fl.network.wan import SimulatedWan
from hypergpu_fl.node.client_app import app
from hypergpu_fl.task import load_task
from hypergpu_fl.task.image import ImageTask
from strategies import wire
from strategies.arrivals import VirtualArrivals, VirtualLinks
from strategies.engine import Engine
from strategies.model.layout import Layout
from strategies.model.server_optimizer import ServerOptimizer
from strategies.outcome import Bystander, RoundOutcome
from strategies.settings import Settings

TAIL = 0.1  # share of a run's rounds over which final accuracies are averaged


@dataclass(frozen=True, slots=True)
class Point:
    """The model after a round: the time, its accuracy, and the cost until then."""

    seconds: float
    accuracy: float
    slow_accuracy: float
    updates: int
    bytes_up: int
    bytes_down: int


@dataclass
class Course:
    """A run as a sequence of points: one for the first model, then one for each round."""

    points: list[Point] = field(default_factory=list)
    max_abs_drift: float = 0.0

    @property
    def rounds(self) -> int:
        """Rounds run."""
        return len(self.points) - 1

    @property
    def final_accuracy(self) -> float:
        """Mean over the last tenth of the rounds."""
        return fmean(point.accuracy for point in self._tail())

    @property
    def slow_accuracy(self) -> float:
        """Likewise, on the slow fifth's classes."""
        return fmean(point.slow_accuracy for point in self._tail())

    def _tail(self) -> list[Point]:
        return self.points[-max(1, round(TAIL * len(self.points))) :]

    def time_to(self, target: float, held: int) -> float | None:
        """Seconds at the first of ``held`` rounds in a row that are all at ``target`` or above; None if never."""
        run = 0
        for index, point in enumerate(self.points):
            run = run + 1 if point.accuracy >= target else 0
            if run == held:
                return self.points[index - held + 1].seconds
        return None


class Finished(Exception):
    """The run has reached its limits; Flower's loop has no other way out."""


@dataclass(frozen=True, slots=True)
class Limits:
    """A run ends at ``horizon_s``, or when it has had ``updates`` updates and has processed ``samples`` samples.

    Both are required, so that neither a policy of short updates nor one of long updates is judged too early.
    """

    horizon_s: float
    updates: int
    samples: float


class Recorder(Bystander):
    """Attendant and evaluation function in one, which records a run's course.

    Parameters
    ----------
    evaluate : callable
        Computes the accuracy of a model on the test set, and on the slow fifth's classes.
    byte_scale : float
        Bytes that one byte of the model stands for.
    progress : callable
        Called after every round with the share that is done.
    """

    def __init__(
        self,
        evaluate: Callable[[ArrayRecord], tuple[float, float]],
        limits: Limits,
        *,
        byte_scale: float,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        self.course = Course()
        self._evaluate = evaluate
        self._limits = limits
        self._byte_scale = byte_scale
        self._progress = progress
        self._bytes_up = self._bytes_down = 0.0
        self._updates = 0
        self._samples = 0.0
        self._ended_s = 0.0

    def closed(self, outcome: RoundOutcome) -> None:
        """Add up what the round cost."""
        self._bytes_up += outcome.bytes_up * self._byte_scale
        self._bytes_down += outcome.bytes_down * self._byte_scale
        self._updates += len(outcome.accepted)
        self._samples += sum(update.metrics.get(wire.SAMPLES, 0.0) for update in outcome.accepted)
        self._ended_s = outcome.ended_s

    def evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Add the model to the course. Raises ``Finished`` when the limits are reached."""
        if self._ended_s > self._limits.horizon_s:
            raise Finished
        accuracy, slow_accuracy = self._evaluate(arrays)
        self.course.points.append(
            Point(self._ended_s, accuracy, slow_accuracy, self._updates, round(self._bytes_up), round(self._bytes_down))
        )
        learnt = min(self._updates / self._limits.updates, self._samples / self._limits.samples)
        self._progress(min(1.0, max(learnt, self._ended_s / self._limits.horizon_s)))
        if learnt >= 1:
            raise Finished
        return None


class WatchedArrivals(VirtualArrivals):
    """Virtual arrivals that fail the run if a contender has more nodes at work than allowed.

    Parameters
    ----------
    most_at_work : int
        Most nodes that may be at work at once.
    """

    def __init__(self, grid: Grid, links: VirtualLinks, *, most_at_work: int) -> None:
        super().__init__(grid, links)
        self._most_at_work = most_at_work

    def _push(self, messages: Iterable[Message], sent_s: float) -> tuple[dict[str, Message], list[Message]]:
        pushed = super()._push(messages, sent_s)
        if (working := len(self._flights)) > self._most_at_work:
            raise RunFailed(
                f"nodes at work: {working}, allowed: {self._most_at_work}", "the contender's selection is at fault"
            )
        return pushed


@dataclass(frozen=True, slots=True)
class Setting:
    """What all contenders of a race share: data, links and chance."""

    training: Training
    links: Links
    cohort: int
    payload_mb: float

    def rounds(self, byte_scale: float = 1.0) -> Settings:
        """What all contenders' rounds have in common; ``byte_scale``: see ``Settings``."""
        return Settings(
            cohort=self.cohort,
            baseline_epochs=self.training.epochs,  # for peers; ours plans its own steps, as `hypergpu run` does
            batch_size=self.training.batch_size,
            # Nobody attacks here, and the peers as published have none of the next three rules.
            refuse_outliers=False,
            examples="claimed",
            exclude_failing=False,
            seed=self.training.seed,
            byte_scale=byte_scale,
        )


class Race:
    """One scenario on one seed: data, links and first model, which are the same for all contenders.

    ``update_samples`` is the mean number of samples that a plain update processes.
    """

    def __init__(self, setting: Setting) -> None:
        import torch

        training = setting.training
        self._setting = setting
        self._config = Config(
            training=training, blockchain=Blockchain(enabled=False), system=System(run_name="bench", device="cpu")
        )
        task = load_task(training, self._config.system)
        if not isinstance(task, ImageTask):
            raise UsageError("the race needs the built-in task", "leave training.task empty")
        self._task = task
        self._model = self._task.model()
        self._device = torch.device("cpu")
        arrays = self._task.arrays(self._model)
        self._layout = Layout.of(arrays)
        self._first = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        payload_bytes = 1e6 * setting.payload_mb
        self._byte_scale = payload_bytes / (4 * self._layout.size)
        self.update_samples = training.epochs * len(self._task.images.train) / training.num_nodes
        self._links = setting.links.draw(
            training.num_nodes, payload_bytes=payload_bytes, samples=self.update_samples, seed=training.seed
        )
        held = np.sum([self._task.class_examples(node) for node in slow_nodes(training.num_nodes)], axis=0)
        self._slow_share = held / held.sum()

    def run(self, contender: Contender, limits: Limits, progress: Callable[[float], None]) -> Course:
        """Run one contender; calls ``progress`` after every round with the share that is done."""
        training, payload = self._setting.training, CodecPayload(self._layout)
        recorder = Recorder(self._evaluate, limits, byte_scale=self._byte_scale, progress=progress)
        strategy = Engine(
            contender.rules(
                self._setting.rounds(self._byte_scale), model_values=self._layout.size, levels=payload.levels
            ),
            layout=self._layout,
            payload=payload,
            optimizer=ServerOptimizer(
                training.server_optimizer, training.server_learning_rate, training.server_momentum
            ),
            attendant=recorder,
        )
        with tempfile.TemporaryDirectory(prefix="hypergpu-bench-") as folder:
            grid = InProcessGrid(app, training.num_nodes, to_run_config(self._config), state_dir=Path(folder))
            wan = SimulatedWan(self._links, strategy.roster.rows.get, seed=training.seed, byte_scale=self._byte_scale)
            arrivals = WatchedArrivals(grid, wan, most_at_work=strategy.state.rules.most_at_work)
            # `Finished` is how the recorder ends a run.
            with quiet(), one_thread(), contextlib.suppress(Finished):
                strategy.start(arrivals, self._first, num_rounds=sys.maxsize, evaluate_fn=recorder.evaluate)
        recorder.course.max_abs_drift = strategy.state.accounts.drift()
        return recorder.course

    def _evaluate(self, arrays: ArrayRecord) -> tuple[float, float]:
        self._task.load(self._model, {name: array.numpy() for name, array in arrays.items()})
        result = self._task.evaluate(self._model, device=self._device)
        return result.accuracy, slow_accuracy(result.class_correct, result.class_examples, self._slow_share)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Flower and the strategy from logging thousands of rounds."""
    loggers = [logging.getLogger(name) for name in ("flwr", "strategies")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: more do not speed up small models, and sums depend on their number."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
