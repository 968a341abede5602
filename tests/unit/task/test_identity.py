"""A node whose task is not the server's is told so at its hello, with what differs and both sides of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.server.enrolment import SameTask, differences
from hypergpu_fl.task import TorchTask, fresh_model, hello_identity, load_task
from hypergpu_fl.task.layers import LAYERS
from strategies.errors import Refused
from strategies.wire import Hello

Identity = dict[str, str]


class Plain(TorchTask):
    body = 1.0
    tokenizer = "byte"

    def model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
        nn.init.constant_(model[0].weight, self.body)
        model[0].requires_grad_(False)
        return model

    def data(self, partition: int | None) -> Any:
        return torch.ones(4, 3), torch.ones(4)

    def loss(self, model: nn.Module, batch: Any) -> Any:
        return model(batch[0]).mean()

    def identity(self) -> Mapping[str, str]:
        return {**super().identity(), "tokenizer": self.tokenizer}


def own(**changes: Any) -> Callable[[Path], Identity]:
    """Identity of a task of one's own with these changes."""

    def identity(folder: Path) -> Identity:
        task = type("Plain", (Plain,), changes)(Training())
        return hello_identity(task, fresh_model(task, 0), "")

    return identity


def model(make: Callable[[], nn.Module]) -> Callable[[Path], Identity]:
    return own(model=lambda self: make())


class Table(nn.Linear):
    """A layer with a buffer that is made on each machine and never sent."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__(3, 2)
        self.register_buffer("table", table, persistent=False)


def test_constant_buffers_may_differ_by_how_a_processor_rounds(tmp_path: Path) -> None:
    angles = torch.linspace(0, 3, 4096, dtype=torch.float64)
    exact, rounded = (
        model(lambda table=table: Table(table))(tmp_path)
        for table in (torch.sin(angles).float(), torch.sin(angles.half()).float())
    )
    assert exact != rounded and differences(exact, rounded) == ""


class Counting(nn.ReLU):
    """A layer of the user's own, which may hold what its machine has."""

    def __init__(self, cores: int) -> None:
        super().__init__()
        self.cores = cores


def test_what_a_layer_holds_of_its_machine_is_its_own(tmp_path: Path) -> None:
    def model_at(cores: int, place: str, inplace: bool) -> nn.Module:
        head = nn.Linear(3, 2)
        head.place = place
        return nn.Sequential(head, Counting(cores), nn.ReLU(inplace=inplace))

    server, node = (model(lambda made=made: model_at(*made))(tmp_path) for made in ((4, "/a", False), (8, "/b", True)))
    SameTask(server, shares=1).vet(Hello(0, 6, identity=node))


def test_a_setting_that_another_release_of_torch_does_not_know_is_not_compared(tmp_path: Path) -> None:
    server = model(lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.1)))(tmp_path)
    node = {**server, LAYERS: server[LAYERS].replace("Dropout.p 0.1", "Dropout.q 1")}
    assert node != server
    SameTask(server, shares=1).vet(Hello(0, 6, identity=node))


def images(*classes: str, **settings: Any) -> Callable[[Path], Identity]:
    """Identity of the built-in task over a folder of these classes."""

    def identity(folder: Path) -> Identity:
        for part in ("train", "test"):
            for name in classes:
                (folder / "own" / part / name).mkdir(parents=True)
                for number in range(3):
                    Image.new("L", (8, 8), number).save(folder / "own" / part / name / f"{number}.png")
        training = Training(dataset="folder", data_root=str(folder / "own"), num_nodes=1, **settings)
        task = load_task(training, cache=folder / "cache", simulated=False)
        return hello_identity(task, fresh_model(task, 0), "")

    return identity


def digits(**settings: Any) -> Callable[[Path], Identity]:
    def identity(folder: Path) -> Identity:
        task = load_task(Training(num_nodes=1, **settings), cache=folder)
        return hello_identity(task, fresh_model(task, 0), "")

    return identity


OTHER: dict[str, tuple[Callable[[Path], Identity], Callable[[Path], Identity], tuple[str, ...]]] = {
    # server, node, and what the refusal names
    "class names": (
        images("cat", "dog"),
        images("bee", "cat"),
        ("classes: 'bee, cat' there, 'cat, dog' at the server",),
    ),
    "tokenizer": (own(), own(tokenizer="bpe"), ("tokenizer: 'bpe' there, 'byte' at the server",)),
    "frozen weights": (own(), own(body=1.0000001), ("frozen weights: '",)),
    "task version": (own(), own(version="2"), ("task version: '2' there, '1' at the server",)),
    "normalisation": (digits(), images("cat", "dog"), ("normalisation: '3x64x64", "'1x8x8")),
    "model": (
        digits(model_architecture="mlp"),
        digits(model_architecture="simple_cnn"),
        ("model: '", "arrays: '", "float32[128, 64]"),
    ),
    "a constant buffer": (
        model(lambda: Table(torch.arange(6.0))),
        model(lambda: Table(torch.arange(6.0) * 1.01)),
        ("constant buffers: 'table float32[6] ",),
    ),
    "a constant buffer in another order": (
        model(lambda: Table(torch.arange(6.0))),
        model(lambda: Table(torch.arange(6.0).flip(0))),
        ("constant buffers: ",),
    ),
    "a table of indices": (
        model(lambda: Table(torch.arange(6))),
        model(lambda: Table(torch.arange(6).flip(0))),
        ("constant buffers: 'table int64[6] ",),
    ),
    "a mask": (
        model(lambda: Table(torch.tensor([0.0, -torch.inf]))),
        model(lambda: Table(torch.tensor([0.0, 0.0]))),
        ("constant buffers: ",),
    ),
    "a complex table": (
        model(lambda: Table(torch.tensor([1 + 1j]))),
        model(lambda: Table(torch.tensor([1 - 1j]))),
        ("constant buffers: 'table complex64[1] ",),
    ),
    "no constant buffer": (
        model(lambda: Table(torch.zeros(0))),
        model(lambda: nn.Linear(3, 2)),
        ("constant buffers: nothing there",),
    ),
    "a dropout rate": (
        model(lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.1))),
        model(lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.2))),
        ("layer Dropout.p: '0.2' there, '0.1' at the server",),
    ),
    "an activation": (
        model(lambda: nn.Sequential(nn.Linear(3, 2), nn.ReLU())),
        model(lambda: nn.Sequential(nn.Linear(3, 2), nn.GELU())),
        ("layer ReLU: nothing there, '1' at the server", "layer GELU: '1' there, nothing"),
    ),
    "the way of an activation": (
        model(lambda: nn.Sequential(nn.Linear(3, 2), nn.GELU())),
        model(lambda: nn.Sequential(nn.Linear(3, 2), nn.GELU("tanh"))),
        ("layer GELU.approximate: ",),
    ),
    "a stride of one of two convolutions": (
        model(lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, stride=(2, 1)))),
        model(lambda: nn.Sequential(nn.Conv2d(1, 1, 3, stride=(2, 1)), nn.Conv2d(1, 1, 3))),
        ("layer Conv2d.stride: '#",),
    ),
    "heads of attention": (
        model(lambda: nn.MultiheadAttention(4, 2)),
        model(lambda: nn.MultiheadAttention(4, 4)),
        ("layer MultiheadAttention.num_heads: '4' there, '2' at the server",),
    ),
    "a dropout between recurrent layers": (
        model(lambda: nn.LSTM(3, 3, num_layers=2, dropout=0.1)),
        model(lambda: nn.LSTM(3, 3, num_layers=2, dropout=0.3)),
        ("layer LSTM.dropout: '0.3' there, '0.1' at the server",),
    ),
    # of the same kind
    "one more class": (images("cat", "dog"), images("cat", "dog", "emu"), ("'cat, dog, emu' there", "float32[3, ")),
    "a wider layer": (
        model(lambda: nn.Linear(3, 2)),
        model(lambda: nn.Linear(3, 4)),
        ("weight float32[4, 3]", "weight float32[2, 3]"),
    ),
    "a parameter of another name": (
        model(lambda: nn.Sequential(nn.Linear(3, 2))),
        model(lambda: nn.ModuleDict({"head": nn.Linear(3, 2)})),
        ("head.weight float32[2, 3]", "0.weight float32[2, 3]"),
    ),
    "batch for group normalisation": (
        digits(model_architecture="resnet18", normalization="group"),
        digits(model_architecture="resnet18", normalization="batch"),
        ("running_mean",),
    ),
    "a layer more of fifty": (
        model(lambda: nn.Sequential(*[nn.Linear(2, 2) for _ in range(50)])),
        model(lambda: nn.Sequential(*[nn.Linear(2, 2) for _ in range(40)], nn.Linear(2, 2, bias=False))),
        ("in 81 arrays", "in 100 arrays"),
    ),
}


@pytest.mark.parametrize(("ours", "theirs", "named"), OTHER.values(), ids=OTHER)
def test_a_node_that_would_train_something_else_is_refused_with_both_sides(
    ours: Callable[[Path], Identity], theirs: Callable[[Path], Identity], named: tuple[str, ...], tmp_path: Path
) -> None:
    server, node = ours(tmp_path / "server"), theirs(tmp_path / "node")
    with pytest.raises(Refused) as caught:
        SameTask(server, shares=1).vet(Hello(0, 6, identity=node))
    assert all(text in caught.value.detail for text in named), caught.value.detail
    assert differences(server, ours(tmp_path / "again")) == ""


def test_classes_that_differ_between_parts_of_one_folder_are_refused(tmp_path: Path) -> None:
    for group in ("train/cat", "train/fox", "test/cat", "test/dog"):
        (tmp_path / group).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / group / "0.png")
    with pytest.raises(TaskError, match="train/ alone has fox; test/ alone has dog"):
        load_task(Training(dataset="folder", data_root=str(tmp_path)), cache=tmp_path / "cache")
