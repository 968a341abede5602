"""The global model on disk: a safetensors file and a JSON manifest a version, written so that neither can be torn.

``<version>-<hash>.safetensors`` holds the model's arrays and the server optimiser's vectors,
``<version>.json`` names it by its XXH3 and holds the rest of the state. Each is written beside its place, synced
and renamed; the manifest comes last and makes the checkpoint exist. One process writes to a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
from loguru import logger
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hypergpu_fl.errors import CheckpointError
from strategies.layout import Layout

FORMAT: Final = "hypergpu-checkpoint-2"

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A version of the global model with all that is needed to go on from it.

    ``arrays`` is the model, ``vectors`` the server optimiser's moments and the like, ``state`` anything JSON can say.
    """

    version: int
    arrays: Arrays
    vectors: Arrays = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint, *, keep: int = 3) -> Path:
    """Write a checkpoint, then remove all but the ``keep`` newest; a version already there is replaced.

    Returns
    -------
    Path
        The manifest.

    Raises
    ------
    CheckpointError
        If the disk refuses. What was there before is still whole.
    """
    tensors = {
        f"{kind}/{name}": np.require(array, requirements="C")
        for kind, arrays in (("model", checkpoint.arrays), ("vector", checkpoint.vectors))
        for name, array in arrays.items()
    }
    manifest = folder / f"{checkpoint.version:08d}.json"
    draft = folder / "checkpoint.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, draft)
        digest = _digest(draft)
        content = {
            "format": FORMAT,
            "version": checkpoint.version,
            "xxh3": digest,
            "layout": Layout.of(checkpoint.arrays).hash.hex(),
            "arrays": list(checkpoint.arrays),
            "vectors": list(checkpoint.vectors),
            "state": json.loads(json.dumps(dict(checkpoint.state))),  # as it will be read: keys are text
        }
        content["seal"] = _seal(content)
        text = json.dumps(content, indent=1)
        _settle(draft, _tensor_file(folder, checkpoint.version, digest))
        draft.write_text(text, encoding="utf-8")
        _settle(draft, manifest)
        _prune(folder, keep, {checkpoint.version: digest})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {manifest} cannot be written: {error}", "free or grant disk space"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return manifest


def versions(folder: Path) -> list[int]:
    """Versions that have a manifest, oldest first; whether they are whole shows when they are loaded."""
    return sorted(int(file.stem) for file in folder.glob("*.json") if file.stem.isdecimal())


def load(
    folder: Path, version: int | None = None, *, layout: Layout | None = None, newest_valid: bool = False
) -> Checkpoint:
    """Read a version, by default the newest, and check every byte of it.

    Parameters
    ----------
    layout : Layout, optional
        The model that the checkpoint must be of.
    newest_valid : bool
        Whether to go back to older versions, with a logged reason, while the newest is torn or foreign.

    Raises
    ------
    CheckpointError
        If the version is missing, torn or of another model; the message names the file.
    """
    known = versions(folder)
    if version is not None:
        return _read(folder, version, layout)
    if not known:
        raise CheckpointError(f"there is no checkpoint in {folder}", "name the folder of a run that made one")
    if not newest_valid:
        return _read(folder, known[-1], layout)
    for candidate in reversed(known):
        try:
            return _read(folder, candidate, layout)
        except CheckpointError as error:
            logger.warning("skipping checkpoint {}: {}", candidate, error)
    raise CheckpointError(f"none of the checkpoints {known} in {folder} is whole", "start the run anew")


def _read(folder: Path, version: int, layout: Layout | None) -> Checkpoint:
    manifest = folder / f"{version:08d}.json"
    remedy = f"choose one of the versions {versions(folder)} in {folder}"
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {manifest} cannot be read: {error}", remedy) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{manifest} is no {FORMAT} manifest", remedy)
    if content.pop("seal", None) != _seal(content) or content["version"] != version:
        raise CheckpointError(f"checkpoint {manifest} is torn: its seal does not fit its content", remedy)
    if layout is not None and content["layout"] != layout.hash.hex():
        raise CheckpointError(
            f"checkpoint {manifest} is of another model: layout {content['layout'][:12]}, expected "
            f"{layout.hash.hex()[:12]}",
            "use the configuration of the run that made it",
        )
    file = _tensor_file(folder, version, content["xxh3"])
    try:
        if (found := _digest(file)) != content["xxh3"]:
            raise CheckpointError(f"checkpoint {file} is torn: XXH3 {found[:12]}", remedy)
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {file} cannot be read: {error}", remedy) from error
    return Checkpoint(
        version=version,
        # safetensors sorts by name; the model's order is part of its layout
        arrays={name: tensors[f"model/{name}"] for name in content["arrays"]},
        vectors={name: tensors[f"vector/{name}"] for name in content["vectors"]},
        state=content["state"],
    )


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        # Against tearing alone, for which SHA-256 takes seven times as long.
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()


def _tensor_file(folder: Path, version: int, digest: str) -> Path:
    return folder / f"{version:08d}-{digest[:16]}.safetensors"


def _settle(draft: Path, place: Path) -> None:
    """Rename only what has reached the disk, and make the rename reach it too."""
    with draft.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(draft, place)
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _prune(folder: Path, keep: int, written: Mapping[int, str]) -> None:
    """Remove old versions, and tensors that no manifest names."""
    kept = set(versions(folder)[-keep:]) | set(written)
    for version in set(versions(folder)) - kept:
        (folder / f"{version:08d}.json").unlink()
    for file in folder.glob("*.safetensors"):
        version = int(file.stem.partition("-")[0])
        replaced = version in written and file != _tensor_file(folder, version, written[version])
        if version not in kept or replaced:
            file.unlink()
