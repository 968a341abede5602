"""How long a simulated node computes: by FLOPs, by a trace, or as it is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.flop_counter import FlopCounterMode

from hypergpu_fl.config import Config, Network, Training
from hypergpu_fl.errors import UsageError
from hypergpu_fl.network.wan import PROFILES, draw_links
from hypergpu_fl.server.flop_counter import FlopCounter
from hypergpu_fl.server.simulated_compute import REFERENCE_FLOPS, computing, flops_per_sample, simulated_links
from hypergpu_fl.task import TorchTask, fresh_model
from hypergpu_fl.task.image import ImageTask
from hypergpu_fl.task.models import build_model

PROFILE = PROFILES["broadband"]
LINKS = draw_links(PROFILE, 9, seed=3)


def test_the_reference_is_what_resnet_18_takes_for_one_image() -> None:
    model = build_model("resnet18", (3, 32, 32), 10, normalization="group", seed=0)
    with FlopCounterMode(display=False) as counter:
        cross_entropy(model(torch.zeros(1, 3, 32, 32)), torch.zeros(1, dtype=torch.long)).backward()
    assert counter.get_total_flops() == REFERENCE_FLOPS


def test_the_demos_model_is_counted_by_hand(tmp_path: Path) -> None:
    # 64 -> 128 -> 10: every weight is multiplied and added once forward, once for its gradient, and those of the
    # second layer once more for the gradient of what went in
    weights = 64 * 128, 128 * 10
    task = ImageTask(Training(num_nodes=4), tmp_path)
    assert flops_per_sample(task, fresh_model(task, 0), 4) == 2 * (2 * weights[0] + 3 * weights[1])


# an image network, attention, and recurrence in many operations
COUNTED_ALIKE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (lambda: build_model("resnet18", (3, 32, 32), 10, normalization="group", seed=0), (2, 3, 32, 32)),
    "attention": (lambda: nn.TransformerEncoderLayer(32, 4, batch_first=True), (2, 7, 32)),
    "gates": (lambda: nn.GRU(8, 16, batch_first=True), (2, 5, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3), (2, 3, 9, 9)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", COUNTED_ALIKE)
def test_flops_are_those_that_torch_counts(name: str, training: bool) -> None:
    make, shape = COUNTED_ALIKE[name]
    model = make().train(training)
    ours, torchs = FlopCounter(), FlopCounterMode(display=False)
    for counter in (ours, torchs):
        with counter, torch.set_grad_enabled(training):
            out = model(torch.ones(shape))
            out = out[0] if isinstance(out, tuple) else out
            if training:
                out.sum().backward()
    assert ours.flops == torchs.get_total_flops()


def test_what_a_task_measures_besides_is_no_work_of_a_step() -> None:
    class Measured(TorchTask):
        def model(self) -> nn.Module:
            return nn.Linear(6, 4)

        def data(self, partition: int | None) -> Any:
            return torch.ones(200, 6), torch.ones(200, 4)

        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            return mse_loss(model(batch[0]), batch[1])

        def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
            return {"mae": (model(batch[0]) - batch[1]).abs().mean()}

    task = Measured(Training(num_nodes=2))
    assert flops_per_sample(task, fresh_model(task, 0), 2) == 2 * 2 * 6 * 4


@pytest.mark.parametrize("directions", [1, 2])
def test_an_lstm_counts_as_the_same_cells_one_after_another(directions: int) -> None:
    class Series(TorchTask):
        def model(self) -> nn.Module:
            return nn.LSTM(8, 16, batch_first=True, bidirectional=directions == 2)

        def data(self, partition: int | None) -> Any:
            return torch.ones(40, 10, 8), torch.ones(40)

        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            return mse_loss(model(batch[0])[0].mean((1, 2)), batch[1])

    cell = nn.LSTMCell(8, 16)
    state = (torch.zeros(1, 16), torch.zeros(1, 16))
    with FlopCounterMode(display=False) as counter:
        for _ in range(10):
            state = cell(torch.ones(1, 8), state)
        state[0].sum().backward()
    task = Series(Training(num_nodes=2))
    counted = flops_per_sample(task, fresh_model(task, 0), 2)
    assert counted == pytest.approx(directions * counter.get_total_flops(), rel=0.2)  # less what the start needs not


def test_samples_of_many_lengths_count_as_their_mean() -> None:
    class Lengths(TorchTask):
        def model(self) -> nn.Module:
            return nn.Linear(6, 4)

        def data(self, partition: int | None) -> Any:
            return [torch.ones(1 + index % 9, 6) for index in range(200)]

        def collate(self, items: list[Any]) -> Any:
            return torch.cat(items)

        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            return model(batch).pow(2).mean()

    task = Lengths(Training(num_nodes=2))
    flops = flops_per_sample(task, fresh_model(task, 0), 2)
    assert flops is not None
    assert 2 <= flops / (2 * 2 * 6 * 4) <= 8  # of 1 to 9 rows, 5 in the mean


def test_a_model_that_cannot_be_counted_takes_the_profiles_time(tmp_path: Path) -> None:
    class Broken(ImageTask):
        def train(self, *arguments: object, **options: object) -> None:
            raise ValueError("no such column")

    task = Broken(Training(num_nodes=4), tmp_path)
    links, compute = computing(
        LINKS, Network(), lambda: flops_per_sample(task, fresh_model(task, 0), 4), typical_s=PROFILE.sample_s
    )
    assert links == LINKS and compute.by == "profile"


@given(st.floats(1.0, 1e15))
def test_seconds_are_in_proportion_to_flops_and_the_reference_takes_the_profiles(flops: float) -> None:
    links, compute = computing(LINKS, Network(), lambda: flops, typical_s=PROFILE.sample_s)
    for scaled, link in zip(links, LINKS, strict=True):
        assert scaled.sample_s / link.sample_s == pytest.approx(flops / REFERENCE_FLOPS)
        assert (scaled.rtt_s, scaled.uplink_bps, scaled.downlink_bps) == (
            link.rtt_s,
            link.uplink_bps,
            link.downlink_bps,
        )
    assert (compute.by, compute.flops_per_sample) == ("flops", flops)


def test_the_profiles_own_milliseconds_leave_its_nodes_as_they_are() -> None:
    links, compute = computing(LINKS, Network(sample_ms=4.0), pytest.fail, typical_s=PROFILE.sample_s)
    assert links == LINKS and compute.by == "network.sample_ms"


def test_a_trace_is_taken_as_it_stands_or_scaled_to_what_is_asked_for(tmp_path: Path) -> None:
    devices = tmp_path / "devices.csv"
    rows = "".join(f"{i},{ms},1000\n" for i, ms in enumerate((10, 20, 40)))
    devices.write_text("client,compute_ms_per_sample,bandwidth_kbps\n" + rows)

    def milliseconds(**network: object) -> list[float]:
        config = Config(
            training=Training(num_nodes=3), network=Network.model_validate({"links_file": str(devices), **network})
        )
        links, compute = simulated_links(config, pytest.fail)
        assert compute.by == ("network.sample_ms" if network else "trace")
        return sorted(1e3 * link.sample_s for link in links)

    assert milliseconds() == pytest.approx([10, 20, 40])
    assert milliseconds(sample_ms=2.0) == pytest.approx([1, 2, 4])
    devices.write_text(devices.read_text().replace(",20,", ",0,").replace(",10,", ",0,"))
    with pytest.raises(UsageError, match="0 ms a sample"):
        milliseconds(sample_ms=2.0)


def test_all_nodes_of_a_custom_link_compute_alike() -> None:
    config = Config(training=Training(num_nodes=3), network=Network(profile="custom"))
    links, _ = simulated_links(config, lambda: 2.0 * REFERENCE_FLOPS)
    assert {link.sample_s for link in links} == {2 * PROFILE.sample_s}
    assert math.isclose(links[0].rtt_s, 0.05)
