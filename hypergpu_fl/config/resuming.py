"""The settings that a resumed run may change, and which settings held for which of its rounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from hypergpu_fl.config.faults import shown
from hypergpu_fl.config.flat import Scalar
from hypergpu_fl.config.layers import MACHINE, to_run_config
from hypergpu_fl.config.models import Config
from hypergpu_fl.config.task_options import unpacked
from hypergpu_fl.errors import Fault

# How long a run goes on, what a transaction may cost, and what differs by machine. Not changeable: what is learned,
# from whom, and how it is booked.
CHANGEABLE: Final = (
    "training.rounds",
    "training.target",
    "training.target_accuracy",
    "blockchain.max_fee_gwei",
    *MACHINE,
)
_OF_THE_CALL: Final = ("system.run_name", "system.resume")
BEGUN: Final = "config.json"  # in a run's folder: what it began with

Settings = Mapping[str, Scalar]
Stretch = Mapping[str, Any]


def settings_of(config: Config) -> dict[str, Scalar]:
    """Settings that make a run what it is, as a flat table: all but what differs by machine or names the run."""
    left_out = (*MACHINE, *_OF_THE_CALL)
    return {path: value for path, value in to_run_config(config).items() if path not in left_out}


def kept_settings(config: Config) -> dict[str, Scalar]:
    """What a run's folder keeps of its configuration, as a flat table: all but what each call says anew."""
    said_anew = (*_OF_THE_CALL, "system.runs_dir")
    return {path: value for path, value in to_run_config(config).items() if path not in said_anew}


def refused_changes(before: Settings, after: Settings, origins: Mapping[str, str] | None = None) -> list[Fault]:
    """One fault a setting that a resumed run may not change, with both values and where the new one comes from.

    A setting that only one of the two releases knows is not compared.
    """
    return [
        Fault(
            f"{path} was {_shown(old)} and is now {_shown(new)}"
            f"{f' (in {origins[path]})' if origins and path in origins else ''}, but a resumed run cannot change it",
            f"leave it out, or start a run of another name; --resume may change {', '.join(CHANGEABLE)}",
        )
        for path, old, new in _differences(before, after)
        if path not in CHANGEABLE
    ]


def _differences(before: Settings, after: Settings) -> Iterator[tuple[str, Any, Any]]:
    """Path, old and new value of each setting in both that differs; of the task's options, each by itself."""
    for path in (path for path, old in before.items() if path in after and after[path] != old):
        was, now = (unpacked({path: settings[path]}) for settings in (before, after))
        for name in sorted(was.keys() | now.keys()):
            if was.get(name) != now.get(name):
                yield name, was.get(name), now.get(name)


def _shown(value: Any) -> str:
    return "not set" if value is None else shown(value)


def stretches_with(
    stretches: Sequence[Stretch], settings: Settings, from_round: int, task_file: str = ""
) -> list[Stretch]:
    """``stretches`` with one that begins at ``from_round``. Stretches from that round on are dropped: they were lost.

    A stretch is ``{"from_round": n, "settings": {...}}``. The first holds all settings, a later one those that it
    changes. Resuming with the same settings adds no stretch, unless the code of ``training.task``, whose digest is
    ``task_file``, has changed: ``{..., "task_file": digest}``.
    """
    kept = [stretch for stretch in stretches if stretch["from_round"] < from_round]
    file = {"task_file": task_file} if task_file != task_file_at_the_end(kept) else {}
    if not kept:
        return [{"from_round": from_round, "settings": dict(settings), **file}]
    before = settings_at_the_end(kept)
    changed = {path: value for path, value in settings.items() if path not in before or before[path] != value}
    return [*kept, {"from_round": from_round, "settings": changed, **file}] if changed or file else kept


def settings_at_the_end(stretches: Sequence[Stretch]) -> dict[str, Scalar]:
    """All settings that hold in the last stretch."""
    settings: dict[str, Scalar] = {}
    for stretch in stretches:
        settings |= stretch["settings"]
    return settings


def task_file_at_the_end(stretches: Sequence[Stretch]) -> str:
    """Digest of the task's code in the last stretch; empty where there is none, or a former release kept none."""
    return next((str(stretch["task_file"]) for stretch in reversed(stretches) if "task_file" in stretch), "")


def numbered(stretches: Sequence[Stretch], last_round: int) -> list[Stretch]:
    """``stretches`` as a report shows them: ``[{"from_round", "to_round", "settings"}]``, and ``task_file``."""
    ends = [stretch["from_round"] - 1 for stretch in stretches[1:]] + [last_round]
    return [
        {**stretch, "to_round": end}
        for stretch, end in zip(stretches, ends, strict=True)
        if end >= stretch["from_round"]
    ]
