"""What importing the ClientApp costs: Flower pays it for every message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hypergpu_fl.config import System, Training
from hypergpu_fl.task import load_task

HEAVY = (
    "torch",
    "web3",
    "sklearn",
    "flwr_datasets",
    "numba",
    "sqlalchemy",
    "pandas",
    "matplotlib",
    "ray",
    "eth_account",
)


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_client_app_loads_nothing_heavy() -> None:
    loaded = loaded_by("import hypergpu_fl.node.client_app")
    assert "flwr" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_probing_the_link_loads_nothing_heavy() -> None:
    assert loaded_by("import hypergpu_fl.network.link_report, hypergpu_fl.network.hardware").isdisjoint(HEAVY)


def test_a_nodes_share_is_prepared_once_and_then_read_without_the_libraries_that_made_it() -> None:
    examples = load_task(Training(), System()).examples(0)
    preparing = {"sklearn", "flwr_datasets", "datasets", "pandas", "scipy", "torchvision"}
    assert not preparing.isdisjoint(sys.modules)
    reading = (
        "from hypergpu_fl.config import Training, System; from hypergpu_fl.task import load_task; "
        f"assert load_task(Training(), System()).examples(0) == {examples}"
    )
    assert loaded_by(reading).isdisjoint(preparing)


def test_dealing_out_the_data_loads_no_plots_and_leaves_them_to_whoever_wants_them(tmp_path: Path) -> None:
    deal = (
        f"import os; os.environ['HYPERGPU_RUNS'] = {str(tmp_path)!r}; "
        "from hypergpu_fl.config import Training, System; from hypergpu_fl.task import load_task; "
        "assert load_task(Training(), System()).examples(0); "
        "assert {'flwr_datasets', 'datasets'} <= set(sys.modules); "
        "assert {'matplotlib', 'seaborn'}.isdisjoint(sys.modules)"
    )
    plots = (
        "from flwr_datasets.visualization import plot_label_distributions; assert callable(plot_label_distributions)"
    )
    assert "matplotlib" in loaded_by(f"{deal}; {plots}")


def test_building_and_training_a_model_loads_neither_torchvision_nor_torchs_compiler() -> None:
    build = (
        "import torch; from hypergpu_fl.task.models import build_model; "
        "from hypergpu_fl.task.optimizer import Optimizer; "
        "model = build_model('resnet18', (1, 8, 8), 10, normalization='group', seed=0); "
        "model(torch.zeros(2, 1, 8, 8)).sum().backward(); "
        "[Optimizer(name, 0.1).start(list(model.parameters()))() for name in ('sgd', 'adam', 'adamw')]; "
        "assert 'torch._dynamo' not in sys.modules"
    )
    assert "torchvision" not in loaded_by(build)


def test_counting_a_models_flops_does_not_load_torchs_compiler() -> None:
    count = (
        "from hypergpu_fl.config import Training, System; from hypergpu_fl.task import fresh_model, load_task; "
        "from hypergpu_fl.server.simulated_compute import flops_per_sample; "
        "task = load_task(Training(), System()); assert flops_per_sample(task, fresh_model(task, 0), 1); "
        "assert 'torch._dynamo' not in sys.modules"
    )
    assert "torch" in loaded_by(count)
