"""A node whose copy of the task has other modules is told so at its hello, and what belongs to its site is its own."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.node import local_task
from hypergpu_fl.node.client_app import app
from hypergpu_fl.server.server_app import run

FILES = {
    "tides.py": """\
import torch
import torch.nn.functional as F
from torch import nn

from hypergpu_fl.task import TorchTask
from tides_scale import scaled

try:
    from tides_weather import disturbed
except ImportError:
    disturbed = None


class Tides(TorchTask):
    site_modules = ("tides_reader", "tides_sites")

    def model(self):
        return nn.Linear(4, 1)

    def data(self, partition):
        from tides_reader import read
        import tides_sites.place

        inputs = scaled(read(partition))
        return inputs, inputs.sum(1, keepdim=True)

    def loss(self, model, batch):
        return F.mse_loss(model(batch[0]), batch[1])
""",
    "tides_scale.py": "def scaled(inputs):\n    return inputs / 2\n",
    "tides_reader.py": "import torch\n\n\ndef read(partition):\n    return torch.randn(32, 4)\n",
    "tides_weather.py": "disturbed = True\n",
    "tides_sites/place.py": "harbour = 'server'\n",
}


def changed(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def saved_elsewhere(folder: Path) -> None:
    """As git and editors on Windows leave a file."""
    for file in folder.glob("*.py"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))


def found_first_elsewhere(folder: Path) -> None:
    (folder / "first").mkdir()
    (folder / "first" / "tides_scale.py").write_text("def scaled(inputs):\n    return inputs / 3\n")


SITES: dict[str, tuple[Callable[[Path], None], str]] = {
    "the server's own": (lambda folder: None, ""),
    "another helper": (changed("tides_scale.py", "def scaled(inputs):\n    return inputs\n"), "code of tides_scale: '"),
    "another task": (changed("tides.py", FILES["tides.py"].replace("mse_loss", "l1_loss")), "code of tides: '"),
    "a module less": (lambda folder: (folder / "tides_weather.py").unlink(), "code of tides_weather: nothing there, '"),
    "a helper that is found first": (found_first_elsewhere, "code of tides_scale: '"),
    "a reader of its own": (changed("tides_reader.py", f"import local_units\n{FILES['tides_reader.py']}"), ""),
    "a place of its own": (changed("tides_sites/place.py", "harbour = 'site'\n"), ""),
    "other ends of lines": (saved_elsewhere, ""),
}


def lay_out(folder: Path) -> None:
    for name, text in {**FILES, "local_units.py": ""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_nodes_with_other_code_are_refused_by_the_module_that_differs_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = list(sys.path)
    monkeypatch.setattr(sys, "path", path)

    def work_in(folder: Path) -> None:
        """As a process does that was started there."""
        for name in [name for name in sys.modules if name.partition("_")[0] in ("tides", "local")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        local_task._kept.clear()
        sys.path[:] = [str(folder / "first"), str(folder), *path[:]]

    def at_its_site(message: Message, context: Context) -> Message:
        work_in(tmp_path / str(context.node_config["partition-id"]))
        return app(message, context)

    path = list(path)
    for number, (change, _) in enumerate(SITES.values()):
        lay_out(tmp_path / str(number))
        change(tmp_path / str(number))
    lay_out(tmp_path / "server")
    work_in(tmp_path / "server")
    config = Config.model_validate(
        {
            "training": {"task": "tides:Tides", "num_nodes": len(SITES), "rounds": 1, "learning_rate": 0.05},
            "network": {"cohort": len(SITES), "mode": "sync"},
            "blockchain": {"enabled": False},
            "system": {"runs_dir": str(tmp_path), "run_name": "run"},
        }
    )
    (tmp_path / "run").mkdir()
    grid = InProcessGrid(
        cast(ClientApp, at_its_site), len(SITES), to_run_config(config), state_dir=tmp_path / "run" / "nodes"
    )
    run(config, grid, tmp_path / "run")
    report: dict[str, Any] = json.loads((tmp_path / "run" / "report.json").read_text())
    told = {name: report["unfit"].get(str(number + 1), "") for number, name in enumerate(SITES)}
    for name, (_, cause) in SITES.items():
        assert (cause in told[name]) if cause else not told[name], told[name]
        assert not cause or (" at the server" in told[name] and "site_modules" in told[name])
