"""``hypergpu run --resume``: which settings a run continues with, and what is kept of them.

``config.json`` holds the settings that the run began with, and never changes. ``resumed.json`` holds what later calls
changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hypergpu_fl.config import Config, Training, flatten, unflatten
from hypergpu_fl.config.file import read
from hypergpu_fl.config.resuming import BEGUN, kept_settings, refused_changes, settings_of
from hypergpu_fl.errors import ConfigError, UsageError
from hypergpu_fl.files import write_whole

CHANGED: Final = "resumed.json"


def layers_of(folder: Path, file: Path | None) -> list[Path]:
    """Files with the settings of a resumed run: the run's own, then the one given now."""
    if not (folder / BEGUN).is_file():
        raise UsageError(f"{folder} holds no {BEGUN}", "resume where `hypergpu run` began it, or start a new run")
    changed = [folder / CHANGED] if (folder / CHANGED).is_file() else []
    return [folder / BEGUN, *changed, *([file] if file else [])]


def check_unchanged(folder: Path, now: Config, origins: Mapping[str, str]) -> None:
    """Refuse settings that would make it another run.

    Parameters
    ----------
    now : Config
        The configuration that would be submitted.
    origins : Mapping[str, str]
        See `hypergpu_fl.config.Loaded`.

    Raises
    ------
    ConfigError
        With a fault for each setting that differs from the run's first one and may not.
    """
    if faults := refused_changes(flatten(read(folder / BEGUN)), settings_of(now), origins):
        raise ConfigError(faults)


def is_complete(folder: Path, training: Training) -> bool:
    """Whether nothing is left to do: the rounds asked for are done or the target is reached, and its chain has all."""
    from hypergpu_fl.settlement import unsettled

    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        if report["status"] != "completed" or unsettled(folder):
            return False
        return training.is_done(report["rounds"], {**report["metrics"], "loss": report["loss"]})
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or not one of ours: the run itself will tell
        return False


def keep(folder: Path, config: Config) -> None:
    """Write the submitted settings, for the next ``--resume`` and for people."""
    flat = kept_settings(config)
    file = folder / BEGUN
    if config.system.resume:
        begun, file = flatten(read(file)), folder / CHANGED
        flat = {path: value for path, value in flat.items() if path not in begun or value != begun[path]}
    write_whole(file, json.dumps(unflatten(flat), indent=1) + "\n")
