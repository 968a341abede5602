"""The configuration tree: one frozen model a section, layers merged and checked once, at the door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypergpu_fl.config.flat import Scalar, flatten, unflatten
from hypergpu_fl.config.layers import (
    PLACES,
    PREFIX,
    Loaded,
    environment,
    from_run_config,
    load,
    runs_root,
    to_run_config,
)
from hypergpu_fl.config.models import DATASETS, MODELS, Blockchain, Config, Network, System, Training, run_name

if TYPE_CHECKING:
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
]


def __getattr__(name: str) -> Any:
    # pydantic-settings costs more to import than all the rest, and most processes hold no secret.
    if name in ("Secrets", "read_secrets"):
        from hypergpu_fl.config import secrets

        return getattr(secrets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
