"""What integration tests share: a tiny Flower app that is submitted without training, and who may mount."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hypergpu_fl.cli.submission import as_toml
from hypergpu_fl.config import Config, to_run_config

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "tiny"
version = "0.1.0"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41"]
[tool.flwr.app]
publisher = "hypergpu"
fab-format-version = 1
flwr-version-target = "1.41.0"
[tool.flwr.app.components]
serverapp = "tiny.server:app"
clientapp = "tiny.client:app"
"""


@pytest.fixture
def as_root() -> None:
    """For tests that mount a file system."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system takes root")


@pytest.fixture(scope="session")
def tiny_app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app whose run-config is this project's."""
    folder = tmp_path_factory.mktemp("app") / "tiny_app"
    shutil.copytree(Path(__file__).parent / "tiny_app", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "LICENSE").write_text("none")
    defaults = as_toml(to_run_config(Config())).replace("\n[", "\n[tool.flwr.app.config.")
    (folder / "pyproject.toml").write_text(f"{PROJECT}[tool.flwr.app.config.{defaults.removeprefix('[')}")
    return folder
