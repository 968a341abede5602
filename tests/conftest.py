"""What all tests share: settings of hypothesis, a runs folder of their own, what is traced, every reason to skip."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

from hypergpu_fl import redaction

# Examples are derived from the test itself: the same on every machine, whatever its speed.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

# Results on a CPU depend on the number of threads, and several threads wait for one another on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERGPU_RUNS", str(tmp_path / "runs"))


@pytest.fixture(autouse=True)
def _own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_registered", set())


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets and network traces beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return SHARED_DATA


@pytest.fixture
def kubectl() -> Path:
    """This machine's kubectl, which renders kustomizations without a cluster."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed")
    return Path(found)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave repetition untraced, and skip what needs a CUDA device where there is none."""
    for item in items:
        # Coverage's tracer doubles the time of Python code, and a hundred examples run the lines that one runs.
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.no_cover)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _cuda():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
