"""``hypergpu run --resume``: which settings a run goes on with, and what is kept of them.

``config.json`` is what the run began with and is never written again; ``resumed.json`` holds what later calls changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hypergpu_fl.config import Config, flatten, unflatten
from hypergpu_fl.config.file import read
from hypergpu_fl.config.resuming import BEGUN, kept_settings, refused_changes, settings_of
from hypergpu_fl.errors import ConfigError, UsageError
from hypergpu_fl.files import write_whole

CHANGED: Final = "resumed.json"


def layers_of(folder: Path, file: Path | None) -> list[Path]:
    """Files that the settings of a resumed run come from: its own, then the one given now."""
    if not (folder / BEGUN).is_file():
        raise UsageError(f"{folder} holds no {BEGUN}", "resume where `hypergpu run` began it, or start a new run")
    changed = [folder / CHANGED] if (folder / CHANGED).is_file() else []
    return [folder / BEGUN, *changed, *([file] if file else [])]


def check_unchanged(folder: Path, now: Config, origins: Mapping[str, str]) -> None:
    """Refuse what would make it another run.

    Parameters
    ----------
    now : Config
        As it would be submitted.
    origins : Mapping[str, str]
        See `hypergpu_fl.config.Loaded`.

    Raises
    ------
    ConfigError
        With a fault for each setting that differs from what the run began with and may not.
    """
    if faults := refused_changes(flatten(read(folder / BEGUN)), settings_of(now), origins):
        raise ConfigError(faults)


def keep(folder: Path, config: Config) -> None:
    """Write what was submitted, for the next ``--resume`` and for people."""
    flat = kept_settings(config)
    file = folder / BEGUN
    if config.system.resume:
        begun, file = flatten(read(file)), folder / CHANGED
        flat = {path: value for path, value in flat.items() if path not in begun or value != begun[path]}
    write_whole(file, json.dumps(unflatten(flat), indent=1) + "\n")
