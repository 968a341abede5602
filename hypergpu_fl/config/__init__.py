"""The configuration tree: one frozen model a section, layers merged and checked once, at the door."""

from __future__ import annotations

from hypergpu_fl.config.environment import PREFIX, environment
from hypergpu_fl.config.flat import Scalar, flatten, unflatten
from hypergpu_fl.config.layers import (
    PLACES,
    Loaded,
    from_run_config,
    load,
    runs_root,
    to_run_config,
    without_settings,
)
from hypergpu_fl.config.models import DATASETS, MODELS, Blockchain, Config, Network, System, Training, run_name
from hypergpu_fl.config.secrets import Secrets, read_secrets

__all__ = [
    "DATASETS",
    "MODELS",
    "PLACES",
    "PREFIX",
    "Blockchain",
    "Config",
    "Loaded",
    "Network",
    "Scalar",
    "Secrets",
    "System",
    "Training",
    "environment",
    "flatten",
    "from_run_config",
    "load",
    "read_secrets",
    "run_name",
    "runs_root",
    "to_run_config",
    "unflatten",
    "without_settings",
]
