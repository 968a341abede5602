"""The npm tools of contracts/ and the chains that tests run on: fixtures for conftest files to import."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypergpu_fl.chain.anvil import Anvil, find_anvil

CONTRACTS = Path(__file__).resolve().parents[1] / "contracts"


@pytest.fixture(scope="session")
def contracts() -> Path:
    """Folder contracts/ with its npm packages installed."""
    with (CONTRACTS / "package.json").open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # test workers share the folder
        if not (CONTRACTS / "node_modules" / ".package-lock.json").is_file():
            npm = shutil.which("npm")
            if npm is None:
                pytest.skip("no npm to install the tools of contracts/")
            subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=CONTRACTS, check=True, capture_output=True)
    return CONTRACTS


@pytest.fixture(scope="session")
def forge(contracts: Path) -> Path:
    """The forge binary, past the package's Node wrapper."""
    (binary,) = contracts.glob("node_modules/@foundry-rs/forge-*/bin/forge*")
    return binary


# A chain mines for as long as it runs, and takes ever more memory and processor: none outlives the file that needs it.
@pytest.fixture(scope="module")
def anvil(contracts: Path) -> Iterator[Anvil]:
    """A chain in Monad's shape: a block each 0.3 s, final two blocks later."""
    with Anvil(find_anvil([contracts])) as running:
        yield running


@pytest.fixture(scope="module")
def quick_anvil(contracts: Path) -> Iterator[Anvil]:
    """The same shape with blocks of 50 ms, where only the order of events matters."""
    with Anvil(find_anvil([contracts]), shape=("--slots-in-an-epoch", "1", "--block-time", "0.05")) as running:
        yield running
