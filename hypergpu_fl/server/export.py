"""Exports a run's model: a state dict that ``load_state_dict`` takes, and a small JSON that describes it."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from safetensors import SafetensorError

from hypergpu_fl.config import Config, from_run_config
from hypergpu_fl.errors import CheckpointError
from hypergpu_fl.files import replacing
from hypergpu_fl.server.checkpoint import EXPORTED, Checkpoint, load, load_model
from hypergpu_fl.server.report import PACKAGES, write_json
from hypergpu_fl.server.resumption import FOLDER
from hypergpu_fl.task import fresh_model, load_task
from hypergpu_fl.task.loading import FROZEN
from strategies.round.explosion import HeldOutLoss
from strategies.round.versions import Versions

if TYPE_CHECKING:
    from torch import Tensor

Format = Literal["safetensors", "pt"]
FORMAT: Final = "hypergpu-model-1"


def export(
    folder: Path,
    out: Path,
    *,
    format: Format = "safetensors",
    best: bool = False,
    trained_only: bool = False,
    environ: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write ``model.<format>`` and ``model.json`` into ``out``.

    The state dict has the names and dtypes of the task's own model: the trained arrays are loaded into a fresh model,
    which supplies the frozen parameters and the second names of shared ones.

    Parameters
    ----------
    folder : Path
        Of the run.
    best : bool
        Whether to take the best round's model instead of the last one's. If that has exploded, the one before it that
        the next round would have begun from is taken.
    trained_only : bool
        Whether to write only what was trained, straight from the checkpoint: needs neither the task nor its data, and
        is loaded with ``strict=False``.
    environ : Mapping[str, str], optional
        Variables of this machine, which decide where its data lie.

    Returns
    -------
    dict
        The content of ``model.json``.

    Raises
    ------
    CheckpointError
        If the run has no checkpoint, or it is damaged, or the disk refuses, or frozen parameters have changed.
    TaskError
        If the task cannot be had.
    """
    checkpoint = load_model(folder / FOLDER, best=best)
    if not best:
        checkpoint = _before_explosion(folder / FOLDER, checkpoint)
    here = {**checkpoint.state["settings"], "system.runs_dir": str(folder.parent)}
    config = from_run_config(here, environ)
    trained = checkpoint.layout.restore(
        checkpoint.vectors["average"],
        {name.removeprefix("buffer/"): array for name, array in checkpoint.vectors.items() if name != "average"},
    )
    state = _as_tensors(trained) if trained_only else _state_dict(config, trained, checkpoint.state.get("identity"))
    if format == "safetensors" and (odd := [name for name, value in state.items() if not hasattr(value, "detach")]):
        raise CheckpointError(
            f"{odd[0]!r} in the model's state dict is no tensor, and safetensors holds nothing else",
            "give --format pt; or --trained-only, which leaves it out",
        )
    file = out / f"model.{format}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write(file, state, format)
        entry: Mapping[str, Any] = next(
            (e for e in checkpoint.state["history"] if e["round"] == checkpoint.version), {}
        )
        about = {
            "format": FORMAT,
            "run": folder.name,
            "round": checkpoint.version,
            "best": best,
            "metrics": _metrics(entry),
            "task": config.training.task or "image",
            "model": None if config.training.task else config.training.model_architecture,
            "dataset": None if config.training.task else config.training.dataset,
            "file": file.name,
            "sha256": _sha256(file),
            "tensors": len(state),
            "trained_tensors": len(trained),
            "trained_only": trained_only,
            "versions": {name: version(name) for name in PACKAGES} | {"hypergpu": version("hypergpu")},
        }
        write_json(out / "model.json", about)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be written: {error}", "choose another folder with --out") from error
    return about


def _before_explosion(folder: Path, newest: Checkpoint) -> Checkpoint:
    """Where the last round's model has exploded, the one that the next round would have begun from; 0 is the fresh one.

    No round follows that would put it back.
    """
    model, found = newest.state["strategy"]["model"], newest.state["strategy"]["round"]
    if not found["exploded"]:
        return newest
    held_out = HeldOutLoss()
    held_out.restore(found["held_out"])
    to = Versions.restored(found["versions"]).way_back(spoiled=held_out.spoiled)
    name = next((name for name in ("good", "best") if to is not None and model.get(name) == to), None)
    if name is None:
        return newest
    kept = load(folder, newest.version, groups=[f"{name}_{group}" for group in EXPORTED])
    vectors = {path.removeprefix(f"{name}_"): vector for path, vector in kept.vectors.items()}
    loss = held_out.best if to == found["versions"]["best"] else held_out.before
    rounds = [entry["round"] for entry in newest.state["history"] if entry["kept"] and entry["loss"] == loss]
    return replace(kept, version=max(rounds, default=0), vectors=vectors)


def _state_dict(config: Config, trained: Mapping[str, Any], identity: Mapping[str, str] | None) -> dict[str, Any]:
    """The model's own state dict; a module's extra state in it may be anything."""
    from torch import Tensor

    from hypergpu_fl.task.state import frozen_hash

    task = load_task(config.training, config.system)
    model = fresh_model(task, config.training.seed)
    if identity is not None and frozen_hash(model) != identity.get(FROZEN, ""):
        raise CheckpointError(
            "the frozen parameters that model() makes are not those that the run was trained with",
            "bring them back; or give --trained-only, which leaves them out",
        )
    task.load(model, trained)
    return {
        name: value.detach().cpu().contiguous() if isinstance(value, Tensor) else value
        for name, value in model.state_dict().items()
    }


def _as_tensors(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    import torch

    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _write(file: Path, state: Mapping[str, Any], format: Format) -> None:
    with replacing(file) as draft:
        draft.touch()
        mode = stat.S_IMODE(draft.stat().st_mode)  # as the umask wants it: safetensors would write for its owner alone
        if format == "pt":
            import torch

            torch.save(dict(state), draft)
        else:
            from safetensors.torch import save_file

            # A tensor under two names is written twice: plain load_state_dict asks for every name.
            save_file({name: tensor.clone() for name, tensor in state.items()}, draft, metadata={"format": "pt"})
        draft.chmod(mode)


def _metrics(entry: Mapping[str, Any]) -> dict[str, Any]:
    figures = {name: entry.get(name) for name in ("accuracy", "loss")} | dict(entry.get("metrics") or {})
    return {name: figure for name, figure in figures.items() if figure is not None}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
