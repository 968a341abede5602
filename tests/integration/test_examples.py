"""The examples as a user runs them: copied into an empty folder, trained, exported, and loaded without HyperGPU."""

from __future__ import annotations

import importlib
import json
import math
import pydoc_data.topics
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from hypergpu_fl.cli import invoke

EXAMPLES = Path(__file__).parents[2] / "examples"
MOST_LINES = 60
TEXT = "".join(pydoc_data.topics.topics.values()).encode()[:40_000]  # English that comes with Python

Begin = Callable[[str], Path]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Start a project with ``hypergpu init``, put an example in the place of its task, and go there."""

    def start(name: str) -> Path:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("HYPERGPU_RUNS")
        assert invoke(["init", name]) == 0
        folder = tmp_path / name
        for file in ("task.py", "test_task.py", "config.toml"):
            (folder / file).unlink()
        left_out = shutil.ignore_patterns("__pycache__", "data", "images", "runs")
        shutil.copytree(EXAMPLES / name, folder, ignore=left_out, dirs_exist_ok=True)
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))
        return folder

    return start


def trained(folder: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Run and export by the commands; the report, and the last round's model."""
    typed = [f"--set={name.replace('__', '.')}={value}" for name, value in settings.items()]
    assert invoke(["run", "--config", "config.toml", "--name", "mine", *typed]) == 0
    assert invoke(["export", "mine", "--out", "model"]) == 0
    report: dict[str, Any] = json.loads((folder / "runs" / "mine" / "report.json").read_text())
    return report, load_file(folder / "model" / "model.safetensors")


def mean_loss(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[..., Tensor]) -> float:
    with torch.no_grad():
        return float(loss(model.eval()(inputs), targets))


@pytest.mark.parametrize("name", ["regression", "folder", "gpt", "lora"])
def test_an_example_is_at_most_sixty_lines(name: str) -> None:
    for file in (EXAMPLES / name).glob("*.*"):
        assert len(file.read_text().splitlines()) <= MOST_LINES, file


def test_a_regression_is_nearly_as_good_as_a_fit_of_all_data_in_one_place(begin: Begin) -> None:
    report, state = trained(begin("regression"))
    rows = importlib.import_module("diabetes").rows
    net = nn.Linear(10, 1)
    net.load_state_dict(state)
    inputs, targets = rows(slice(0, 100))
    assert mean_loss(net, inputs, targets, F.mse_loss) == pytest.approx(report["loss"], abs=1e-4)
    assert report["accuracy"] is None and report["metrics"].keys() == {"r2"}
    known, wanted = (
        np.hstack([column, np.ones((len(column), 1))]) if i == 0 else column.numpy()
        for i, column in enumerate(rows(slice(150, None)))
    )
    best = np.linalg.lstsq(known, wanted, rcond=None)[0]
    residual = targets.numpy() - np.hstack([inputs, np.ones((100, 1))]) @ best
    r2 = 1 - residual.var() / targets.numpy().var()
    assert report["metrics"]["r2"] > r2 - 0.03


def test_a_folder_of_images_trains_a_network_of_ones_own(begin: Begin) -> None:
    folder = begin("folder")
    rng = np.random.default_rng(0)
    held_out: list[tuple[Tensor, int]] = []
    for part, count in (("train", 24), ("val", 4), ("test", 10)):
        for label, name in enumerate(("lying", "standing")):
            place = folder / "images" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                stripes = 255 * (np.arange(64) // 8 % 2)[:, None] * np.ones((64, 64))
                noisy = (stripes.T if label else stripes)[..., None] * 0.5 + 60 * rng.random((64, 64, 3))
                pixels = noisy.astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
                if part == "test":
                    held_out.append((torch.from_numpy(pixels).permute(2, 0, 1) / 255, label))
    report, state = trained(folder, training__rounds=4, training__num_nodes=2)
    net = importlib.import_module("net").net((3, 64, 64), 2)
    net.load_state_dict(state)
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    inputs = torch.stack([(image - mean) / std for image, _ in held_out])
    targets = torch.tensor([label for _, label in held_out])
    assert mean_loss(net, inputs, targets, F.cross_entropy) == pytest.approx(report["loss"], abs=1e-4)
    assert report["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("width", "layers", "heads", "context", "parameters"),
    [(32, 2, 2, 32, 43_136), pytest.param(160, 4, 5, 128, 1_340_096, marks=pytest.mark.slow)],
)
def test_a_gpt_learns_a_text_and_tells_its_perplexity(
    begin: Begin, width: int, layers: int, heads: int, context: int, parameters: int
) -> None:
    folder = begin("gpt")
    (folder / "data").mkdir()
    (folder / "data" / "text.txt").write_bytes(TEXT)
    size = {"width": width, "layers": layers, "heads": heads, "context": context}
    report, state = trained(
        folder,
        training__rounds=3,
        training__num_nodes=2,
        training__local_steps=10,
        **{f"training__options__{name}": value for name, value in size.items()},
    )
    net = importlib.import_module("gpt").GPT(*size.values())
    assert sum(tensor.numel() for tensor in net.parameters()) == parameters
    net.load_state_dict(state)
    tokens = torch.tensor(list(TEXT[round(0.95 * len(TEXT)) :])).unfold(0, context + 1, context)
    loss = mean_loss(net, tokens[:, :-1], tokens[:, 1:], lambda y, t: F.cross_entropy(y.flatten(0, 1), t.flatten()))
    assert loss == pytest.approx(report["loss"], abs=1e-4)
    assert report["metrics"]["perplexity"] == pytest.approx(math.exp(report["loss"]))
    assert report["unit"] == "tokens" and report["history"][0]["nodes"][0]["count"] % context == 0
    assert report["loss"] < report["history"][0]["loss"] < math.log(256)


@pytest.mark.filterwarnings("default")  # transformers' and peft's own
def test_lora_sends_adapters_alone_and_the_base_stays_where_it_is(begin: Begin) -> None:
    folder = begin("lora")
    (folder / "data").mkdir()
    (folder / "data" / "text.txt").write_bytes(TEXT)
    importlib.import_module("make_base").make_base(
        b"".join(reversed(TEXT.splitlines())), "data/base", steps=20, width=32
    )
    report, adapters = trained(folder, training__rounds=3, training__num_nodes=2)
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    base = LlamaForCausalLM.from_pretrained("data/base")
    net = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    net.load_state_dict(adapters)
    tokens = torch.tensor(list(TEXT[round(0.95 * len(TEXT)) :])).unfold(0, 65, 64)
    with torch.no_grad():
        loss = float(net.eval()(input_ids=tokens, labels=tokens).loss)
    assert loss == pytest.approx(report["loss"], abs=1e-4)
    assert report["loss"] < report["history"][0]["loss"]
    sent = sum(entry["bytes_up"] for entry in report["history"]) / sum(entry["arrived"] for entry in report["history"])
    assert sent < 4 * sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad) + 4096


def test_the_documents_tell_how_many_lines_each_example_takes_of_ones_own() -> None:
    table = (EXAMPLES.parent / "docs" / "your-own-task.md").read_text()
    told = dict(re.findall(r"^\| \[(\w+)\]\(../examples/\w+\) .*\| (\d+, \d+) \|$", table, re.MULTILINE))
    tasks = {"regression": "diabetes.py", "folder": "net.py", "gpt": "gpt.py", "lora": "lora.py"}
    counted = {
        name: ", ".join(str(len((EXAMPLES / name / file).read_text().splitlines())) for file in (task, "config.toml"))
        for name, task in tasks.items()
    }
    assert told == counted
