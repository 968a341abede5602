"""The bundle that Flower sends to nodes holds what they import and nothing else."""

from __future__ import annotations

import io
import zipfile

import pytest
from flwr.cli.build import build_fab_from_disk

from hypergpu_fl.cli.submission import app_folder


# pathspec, as Flower calls it
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_the_bundle_holds_both_packages_whole_and_no_tests_configs_or_runs() -> None:
    root = app_folder()
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(root))) as bundle:
        inside = {name for name in bundle.namelist() if not name.startswith(".info/")}
    wanted = {
        path.relative_to(root).as_posix()
        for package in ("hypergpu_fl", "strategies")
        for path in (root / package).rglob("*")
        if path.suffix in (".py", ".json") and not path.name.startswith("test_")  # of the new project's template
    }
    assert inside == wanted | {"pyproject.toml", "README.md", "LICENSE"}
    assert "hypergpu_fl/chain/abi/HyperGPULedger.json" in inside
