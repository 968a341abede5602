"""What a benchmark's run changes from the settings that ship, as its rows say it.

A figure is worth only as much as the settings it was measured with, and nobody should have to read the code for them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from hypergpu_fl.codec.payload import COMPRESSIONS
from hypergpu_fl.config import Config, flatten
from hypergpu_fl.server.server_app import round_settings
from strategies import lineup
from strategies.settings import Settings

# Where a run lies and how much it logs changes no result. Rows name the seed in a column of its own.
_NOT_TOLD: Final = ("system.", "training.seed", "training.data_root")
_NOT_TOLD_OF_ROUNDS: Final = ("seed", "session", "byte_scale")


def changed(config: Config) -> str:
    """``section.field=value`` of every setting that differs from the shipped default, in the configuration's order."""
    shipped = flatten(Config().model_dump())
    used = {path: value for path, value in flatten(config.model_dump()).items() if not path.startswith(_NOT_TOLD)}
    return _told(used, shipped)


def changed_rounds(used: Settings, policy: str) -> str:
    """``field=value`` of every setting of a round that differs from what ``network.policy = policy`` ships with."""
    default = round_settings(Config(), session=bytes(32))
    shipped = lineup.rules(policy, default, model_values=1, levels=COMPRESSIONS).settings
    told = {name: value for name, value in asdict(used).items() if name not in _NOT_TOLD_OF_ROUNDS}
    return _told(told, asdict(shipped))


def _told(used: dict[str, Any], shipped: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in used.items() if shipped.get(name) != value)
