"""What the configuration's door lets in, runs: edge values of every field, one at a time, through two rounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from loguru import logger
from pydantic.fields import FieldInfo

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.config import from_run_config, load, to_run_config
from hypergpu_fl.config.flat import fields
from hypergpu_fl.node.client_app import app
from hypergpu_fl.runs import open_run_folder
from hypergpu_fl.server.server_app import run

DEMO = {
    "training.num_nodes": 4,
    "training.rounds": 2,
    "training.dataset": "digits",
    "training.model_architecture": "mlp",
}
# Fields whose edges make a run long, or name what a test machine lacks, or stop training from learning (as they say).
LEFT_OUT = (
    *DEMO,
    *("training.epochs", "training.batch_size", "training.learning_rate", "training.weight_decay"),
    *("training.server_learning_rate", "training.server_momentum", "training.momentum", "training.partitioner"),
    *("network.enable_simulation", "blockchain.kind", "system.device", "system.resume"),
)
STEP = {int: 1, float: 1e-9}


def edges(field: FieldInfo) -> Iterator[Any]:
    """Lowest and highest value that the field's type and bounds admit, or each of its choices."""
    if field.annotation is bool:
        yield from (True, False)
    yield from get_args(field.annotation)
    for bound in field.metadata:
        step = STEP.get(field.annotation, 0)  # type: ignore[call-overload]
        for name, sign in (("ge", 0), ("le", 0), ("gt", 1), ("lt", -1)):
            if hasattr(bound, name):
                yield field.annotation(getattr(bound, name) + sign * step)  # type: ignore[misc]


EDGES = {path: list(edges(field)) for path, field in fields() if path not in LEFT_OUT}
EDGES = {path: values for path, values in EDGES.items() if values} | {
    "network.codec": ["auto", "raw", "int4", "top128"],
    "network.downlink_codec": ["auto", "fp16", "top8"],
    "system.log_file": ["", "x.log", "\u00fc \U0001f98a.log"],
    "blockchain.budget_wei": [0, 1, 2**127 - 1],
}


@pytest.mark.slow
@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in EDGES.items() for value in values])
def test_what_the_door_lets_in_runs(path: str, value: Any, tmp_path: Path) -> None:
    books = {} if path.startswith("blockchain.") else {"blockchain.enabled": False}
    config = load(overrides=DEMO | books | {path: value, "system.runs_dir": str(tmp_path)}).config
    assert from_run_config(to_run_config(config)) == config
    folder = open_run_folder(tmp_path, "sweep")
    grid = InProcessGrid(app, 4, to_run_config(config), state_dir=tmp_path / "nodes")
    run(config, grid, folder)
    logger.remove()
    assert (folder / "report.json").is_file()
