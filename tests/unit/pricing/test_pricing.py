"""Rounds are priced by what really entered the model: late and quantised updates, other optimisers, robust rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from full_disk import full_disk

from hypergpu_fl.codec.encoder import encode
from hypergpu_fl.codec.payload import CodecPayload
from hypergpu_fl.ledger.aumann_shapley import NODES
from hypergpu_fl.ledger.blobs import Blobs
from hypergpu_fl.ledger.contribution import Contribution, hash_blob
from hypergpu_fl.ledger.pricing import Pricing
from hypergpu_fl.pricing import Pricer, Scoring
from hypergpu_fl.pricing.rounds import PricedRounds
from hypergpu_fl.task.protocol import EvalResult
from strategies.model.global_model import GlobalModel
from strategies.model.layout import Layout
from strategies.model.robust import AGGREGATORS, aggregator
from strategies.model.server_optimizer import ServerOptimizer
from strategies.model.statistics import Statistics
from strategies.outcome import Accepted, RoundOutcome

P = 600
LAYOUT = Layout.of({"w": np.zeros(P, dtype=np.float32)})
CURVATURE = np.linspace(0.5, 1.5, P)


class Bowl:
    """A task with a quadratic loss around 1, whose values are known in closed form."""

    def __init__(self) -> None:
        self.at_P = np.zeros(P)

    def arrays(self, model: torch.nn.Module) -> dict[str, np.ndarray]:
        return {"w": self.at_P.astype(np.float32)}

    def load(self, model: torch.nn.Module, arrays: dict[str, np.ndarray]) -> None:
        self.at_P = arrays["w"].astype(np.float64)

    def validate(self, model: torch.nn.Module, *, device: torch.device) -> EvalResult:
        return EvalResult(1, self.loss(self.at_P))

    @staticmethod
    def loss(at_P: np.ndarray) -> float:
        return float(CURVATURE @ (at_P - 1) ** 2) / P


class Sloped(Bowl):
    def gradient(self, model: torch.nn.Module, *, device: torch.device) -> dict[str, np.ndarray]:
        return {"w": 2 * CURVATURE * (self.at_P - 1) / P}


class Rounds:
    """A server's model and pricer, and rounds that the test plays."""

    def __init__(self, folder: Path, *, rule: str = "mean", optimizer: str = "fedavg", task: Any = None) -> None:
        self.payload = CodecPayload(LAYOUT)
        self.rule = rule
        self.model = GlobalModel(LAYOUT, self.payload, ServerOptimizer(optimizer), averaging=True)
        self.model.start(np.zeros(P, dtype=np.float32), {})
        self.hashes = [self.model.hash]
        self.folder = folder
        self.task = task or Sloped()
        self.pricer = self.opened("aumann_shapley")
        self.round = 0

    def opened(self, scoring: Scoring) -> Pricer:
        return Pricer(
            self.task, torch.nn.Identity(), LAYOUT, device=torch.device("cpu"), scoring=scoring, max_examples=10**6,
            seed=0, blobs=Blobs(self.folder / "blobs"), decode=self.payload.decode,
            rounds=PricedRounds(self.folder / "priced", last_round=getattr(self, "round", 0)),
        )  # fmt: skip

    def play(self, updates: list[tuple[str, np.ndarray]], *, level: str = "fp32", base: int = -1) -> tuple[Any, Any]:
        """One round; returns its prices and the improvement of its plain step."""
        self.round += 1
        mean, accepted = aggregator(self.rule, P), []
        statistics = Statistics(LAYOUT)
        for index, (node, delta_P) in enumerate(updates):
            blob = encode(level, delta_P.astype(np.float32), LAYOUT, {}, base=0)
            update = self.payload.decode(blob)
            mean.add(update, weight=0.5 + index, steps=1 + index, length=1.0)
            statistics.add(update, node=index, steps=1)
            claim = Contribution(bytes(32), self.round, self.hashes[base], hash_blob(blob), 100, bytes(32))
            held_out = self.pricer.measure(update, self.model.vector_P)
            self.pricer.added(node, claim, blob, update, self.model.vector_P, held_out)
            accepted.append(Accepted(index, node, index, 1, 0, 0, 1 + index, 100, 0, 1 / len(updates), {}))
        before_P, before = self.model.vector_P, self.model.hash
        assert self.model.step(mean, statistics, version=self.round)
        self.hashes.append(self.model.hash)
        step = self.model.take_step()
        assert step is not None
        outcome = RoundOutcome(
            self.round, 0, 1, [], accepted, [], 0, 0, 0, before, self.model.hash, self.model.average_P, {}, step=step
        )
        moved_P = before_P.astype(np.float64) + step.moved_P
        return self.pricer.priced(outcome), self.task.loss(before_P.astype(np.float64)) - self.task.loss(moved_P)


def honest(seed: int, count: int = 4) -> list[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [(f"node {i}", 0.1 * rng.random(P) + 0.05 * rng.standard_normal(P)) for i in range(count)]


def learning(round: int, count: int = 4) -> list[tuple[str, np.ndarray]]:
    """What nodes find out in a round: something new in every round, each in places of its own besides."""
    rng = np.random.default_rng(round)
    new_P = (np.arange(P) // 50 == round).astype(float)
    return [(f"node {i}", 0.3 * new_P * rng.random(P) + 0.01 * rng.standard_normal(P)) for i in range(count)]


@pytest.mark.parametrize("rule", sorted(AGGREGATORS))
@pytest.mark.parametrize("level", ["fp32", "int8", "top8"])
@pytest.mark.parametrize("optimizer", ["fedavg", "fedadam"])
def test_values_sum_to_what_the_rounds_plain_step_improved(
    tmp_path: Path, rule: str, level: str, optimizer: str
) -> None:
    rounds = Rounds(tmp_path, rule=rule, optimizer=optimizer)
    for seed in range(3):
        prices, improvement = rounds.play(honest(seed), level=level)
        pricing: Pricing = prices.pricing
        assert sum(c.value for c in pricing.contributions) / 1e9 == pytest.approx(improvement, rel=1e-3, abs=1e-6)
        assert pricing.loss_before is not None and pricing.loss_after is not None
        assert (pricing.loss_before - pricing.loss_after) / 1e9 == pytest.approx(improvement, rel=1e-3, abs=1e-6)
        assert pricing.movements == seed


def test_who_sends_back_the_models_movement_is_paid_nothing_and_others_are(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path)
    for round in range(9):
        before_P = rounds.model.vector_P
        rounds.play(learning(round))
        movement_P = rounds.model.vector_P - before_P
    prices, _ = rounds.play([*learning(9), ("copier", movement_P)])
    *others, copier = prices.scores
    assert min(others) > 0 and abs(copier) < 0.01 * min(others)
    assert prices.pricing.contributions[-1].value > 0  # it did help: that is why it was worth trying


def test_a_late_update_is_not_blamed_for_what_others_found_since(tmp_path: Path) -> None:
    scores = {}
    for base in (-1, 0):
        rounds = Rounds(tmp_path / str(base))
        for _ in range(3):
            rounds.play(honest(0))
        prices, _ = rounds.play(honest(0), base=base)
        scores[base] = sum(prices.scores)
    assert scores[0] > 0 and scores[0] > 2 * abs(scores[-1])


def test_a_resumed_run_prices_as_one_that_was_never_stopped(tmp_path: Path) -> None:
    straight, stopped = Rounds(tmp_path / "straight"), Rounds(tmp_path / "stopped")
    for seed in range(3):
        for rounds in (straight, stopped):
            rounds.play(honest(seed))
    stopped.pricer = stopped.opened("aumann_shapley")
    copied = [*honest(2)[:2], *honest(5)[2:]]  # two of the round before, sent by others
    renamed = [(f"other {name}", delta_P) for name, delta_P in copied]
    assert straight.play(renamed)[0] == stopped.play(renamed)[0]


def test_a_round_that_was_lost_leaves_nothing_behind(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path)
    for seed in range(2):
        rounds.play(honest(seed))
    again = PricedRounds(tmp_path / "priced", last_round=1)
    assert len(again.path(2, np.ones(P, dtype=np.float32), bytes(32)).movements) == 1
    assert {entry.round for entry in again.shared_work.known} == {1}


def test_a_task_without_gradients_is_priced_by_the_shapley_value_and_the_books_say_so(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, task=Bowl())
    prices, improvement = rounds.play(honest(0))
    assert prices.pricing.scoring == "shapley/2"
    assert sum(prices.scores) > 0 and improvement > 0


class Slippery(Sloped):
    """A task with a gradient that cannot be computed, or is of another shape than the model."""

    def __init__(self, found: np.ndarray | None = None) -> None:
        super().__init__()
        self.found = found

    def gradient(self, model: torch.nn.Module, *, device: torch.device) -> dict[str, np.ndarray]:
        if self.found is None:
            raise RuntimeError("element 0 of tensors does not require grad")
        return {"w": self.found}


@pytest.mark.parametrize("found", [None, np.zeros(P + 1)])
def test_a_gradient_that_fails_is_found_out_before_the_first_round_and_ends_no_run(
    found: np.ndarray | None, tmp_path: Path
) -> None:
    rounds = Rounds(tmp_path, task=Slippery(found))
    prices, _ = rounds.play(honest(0))
    assert prices.pricing.scoring == "shapley/2" and prices.sound and sum(prices.scores) > 0


class Touchy(Bowl):
    """A task that raises, or whose loss is none, where a value is far off."""

    def __init__(self, *, raises: bool) -> None:
        super().__init__()
        self.raises = raises

    def validate(self, model: torch.nn.Module, *, device: torch.device) -> EvalResult:
        if np.abs(self.at_P).max() < 100:
            return super().validate(model, device=device)
        if self.raises:
            raise IndexError("index 1000000 is out of range")
        return EvalResult(1, float("nan"))


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize(("rule", "sound"), [("median", True), ("mean", False)])
@pytest.mark.parametrize("scoring", ["shapley", "leave_one_out"])
def test_an_update_that_a_robust_rule_left_out_has_no_model_rolled_back_and_takes_nobodys_pay(
    scoring: Scoring, rule: str, sound: bool, raises: bool, tmp_path: Path
) -> None:
    rounds = Rounds(tmp_path, rule=rule, task=Touchy(raises=raises))
    rounds.pricer = rounds.opened(scoring)
    prices, _ = rounds.play([*honest(0), ("hostile", np.full(P, 1e6))])
    assert prices.sound is sound
    *others, hostile = prices.scores
    assert hostile == 0 and any(others) is sound
    if sound and scoring == "leave_one_out":
        alone = Rounds(tmp_path / "alone", rule=rule, task=Touchy(raises=raises))
        alone.pricer = alone.opened(scoring)
        assert others == list(alone.play(honest(0))[0].scores)


class Cliff(Sloped):
    """A task whose gradient is not finite where the given calls, counted from the first round's on, come."""

    def __init__(self, broken: set[int]) -> None:
        super().__init__()
        self.broken, self.calls = broken, -1  # the first is made before any round

    def gradient(self, model: torch.nn.Module, *, device: torch.device) -> dict[str, np.ndarray]:
        self.calls += 1
        found = super().gradient(model, device=device)
        return {"w": np.full(P, np.nan)} if self.calls - 1 in self.broken else found


@pytest.mark.parametrize("broken", [{0}, {1}, {2}, {0, 1}, {1, 2}, {0, 1, 2}])
def test_a_gradient_that_is_not_finite_within_the_step_takes_no_more_pay_than_it_must(
    broken: set[int], tmp_path: Path
) -> None:
    whole, improvement = Rounds(tmp_path / "whole").play(honest(0))
    prices, _ = Rounds(tmp_path / "broken", task=Cliff(broken)).play(honest(0))
    assert prices.sound
    if len(broken) == len(NODES):
        assert not any(prices.scores)
        return
    assert sum(prices.scores) / 1e9 == pytest.approx(improvement, rel=0.5)
    shares = [np.divide(each.scores, sum(each.scores)) for each in (whole, prices)]
    np.testing.assert_allclose(*shares, rtol=0.02)


def test_what_a_full_disk_cut_off_does_not_keep_the_run_from_resuming(tmp_path: Path) -> None:
    with full_disk(largest_bytes=8192), pytest.raises(OSError, match="2016 written"):
        PricedRounds(tmp_path, last_round=0).path(1, np.zeros(10_000, dtype=np.float32), bytes(32))
    assert not list(tmp_path.iterdir())
    assert PricedRounds(tmp_path, last_round=0).path(1, np.zeros(9, dtype=np.float32), bytes(32)).movements == []
