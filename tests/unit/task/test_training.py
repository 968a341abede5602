from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.loop import SampleOrder
from hypergpu_fl.task.optimizer import Optimizer
from hypergpu_fl.task.training import Share, evaluate, train

CLASSES = 3
TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def share(samples: int = 20, seed: int = 0) -> Share:
    generator = torch.Generator().manual_seed(seed)
    return Share(
        torch.randn((samples, 1, 4, 4), generator=generator), torch.randint(CLASSES, (samples,), generator=generator)
    )


def model(*, dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, CLASSES))


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


@given(
    samples=st.integers(1, 50), takes=st.lists(st.integers(1, 70), min_size=1, max_size=8), seed=st.integers(0, 2**40)
)
def test_no_sample_is_used_twice_more_than_another(samples: int, takes: list[int], seed: int) -> None:
    order = SampleOrder(samples, np.random.default_rng(seed))
    drawn = np.concatenate([order.take(count) for count in takes])
    used = np.bincount(drawn, minlength=samples)
    assert len(drawn) == sum(takes) and used.max() - used.min() <= 1
    whole = SampleOrder(samples, np.random.default_rng(seed)).take(sum(takes))
    assert np.array_equal(drawn, whole)


@settings(max_examples=25)
@given(
    name=st.sampled_from(sorted(TORCH)),
    momentum=st.sampled_from([0.0, 0.9]),
    decay=st.sampled_from([0.0, 0.01]),
    batch=st.integers(1, 30),
    steps=st.integers(1, 6),
)
def test_training_is_what_the_plain_loop_does(name: str, momentum: float, decay: float, batch: int, steps: int) -> None:
    data, ours, plain = share(), model(), model()
    train(ours, data, Optimizer(name, 0.05, momentum, decay), steps=steps, batch_size=batch, seed=(7, 1))

    extra = {"momentum": momentum} if name == "sgd" else {}
    optimizer = TORCH[name](plain.parameters(), lr=0.05, weight_decay=decay, **extra)
    size = min(batch, len(data))
    order = SampleOrder(len(data), np.random.default_rng((7, 1)))
    for _ in range(steps):
        chosen = torch.from_numpy(order.take(size))
        optimizer.zero_grad()
        F.cross_entropy(plain(data.inputs[chosen]), data.labels_N[chosen]).backward()
        optimizer.step()
    assert torch.allclose(weights(ours), weights(plain), atol=1e-6)


def test_the_reported_losses_are_those_before_each_step() -> None:
    data, still = share(24), model()
    result = train(still, data, Optimizer("sgd", 1e-30), steps=6, batch_size=4, seed=(0,))
    losses = F.cross_entropy(still(data.inputs), data.labels_N, reduction="none").detach().double()
    assert (result.count, result.steps) == (24, 6)
    assert result.loss == pytest.approx(float(losses.mean()), rel=1e-5)
    assert result.squared_loss == pytest.approx(float(losses.square().mean()), rel=1e-5)


def test_compute_time_is_what_the_clock_says() -> None:
    ticks = iter([10.0, 12.5])
    result = train(model(), share(), Optimizer("sgd", 0.1), steps=1, batch_size=4, seed=(0,), clock=lambda: next(ticks))
    assert result.compute_s == 2.5


def test_a_large_share_is_gathered_in_pieces_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = []
    for limit in (1, 200, 1 << 20):
        monkeypatch.setattr("hypergpu_fl.task.training.GATHER_BYTES", limit)
        trained = model()
        train(trained, share(), Optimizer("sgd", 0.1), steps=9, batch_size=3, seed=(0,))
        outcomes.append(weights(trained))
    assert torch.equal(outcomes[0], outcomes[1]) and torch.equal(outcomes[0], outcomes[2])


def test_channels_last_changes_the_layout_and_not_the_result() -> None:
    data = share()
    last = Share(data.inputs.permute(0, 2, 3, 1).contiguous(), data.labels_N, channels_last=True)
    first, second = model(), model()
    for module, samples in ((first, data), (second, last)):
        train(module, samples, Optimizer("sgd", 0.1), steps=3, batch_size=5, seed=(0,))
    assert torch.allclose(weights(first), weights(second), atol=1e-6)


def test_dropout_is_seeded_and_leaves_the_process_generator_alone() -> None:
    outcomes = []
    for _ in range(2):
        torch.rand(5)
        before = torch.get_rng_state()
        trained = model(dropout=0.5)
        train(trained, share(), Optimizer("sgd", 0.1), steps=3, batch_size=5, seed=(1,))
        outcomes.append(weights(trained))
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*outcomes)
    other = model(dropout=0.5)
    train(other, share(), Optimizer("sgd", 0.1), steps=3, batch_size=5, seed=(2,))
    assert not torch.equal(weights(other), outcomes[0])


def test_parameters_that_are_frozen_or_unused_stay_as_they_are() -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = model()
            self.unused = nn.Linear(2, 2)
            self.used[1].weight.requires_grad_(False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.used(inputs)

    module = Partial()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    train(module, share(), Optimizer("sgd", 0.1, 0.9, 0.01), steps=3, batch_size=5, seed=(0,))
    changed = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"used.1.bias", "used.4.weight", "used.4.bias"}


@pytest.mark.parametrize(("samples", "steps", "batch"), [(0, 1, 2), (5, 0, 2), (5, -1, 2), (5, 1, 0)])
def test_nothing_to_train_is_refused(samples: int, steps: int, batch: int) -> None:
    with pytest.raises(TaskError, match="cannot train|holds no example"):
        train(model(), share(samples), Optimizer("sgd", 0.1), steps=steps, batch_size=batch, seed=(0,))


@settings(max_examples=25)
@given(samples=st.integers(1, 60), seed=st.integers(0, 20))
def test_evaluation_agrees_with_counting_by_hand(samples: int, seed: int) -> None:
    data, module = share(samples, seed), model()
    result = evaluate(module, data, CLASSES)
    with torch.no_grad():
        logits = module(data.inputs)
    hits = (logits.argmax(1) == data.labels_N).numpy()
    labels = data.labels_N.numpy()
    assert result.count == samples
    assert result.accuracy == pytest.approx(hits.mean())
    assert result.loss == pytest.approx(float(F.cross_entropy(logits, data.labels_N)), rel=1e-5)
    assert result.class_correct == tuple(np.bincount(labels[hits], minlength=CLASSES))
    assert result.class_examples == tuple(np.bincount(labels, minlength=CLASSES))


def test_evaluating_on_nothing_is_refused() -> None:
    with pytest.raises(TaskError, match="empty set"):
        evaluate(model(), share(0), CLASSES)
