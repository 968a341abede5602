"""The global model on disk: vectors in safetensors files, and one JSON manifest per version; neither can be torn.

``<XXH3 of its content>.safetensors`` holds a vector, or a group of small ones. Files are named by content, so a vector
that several versions share, such as the last good model, is stored once. ``<version>.json`` names the files and holds
the rest of the state. Each file is written beside its place, synced and renamed; the manifest comes last and makes the
checkpoint exist. The best version's average is kept as well. Only one process writes to a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
from loguru import logger
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hypergpu_fl.errors import CheckpointError
from hypergpu_fl.files import replacing
from strategies.model.layout import Layout

FORMAT: Final = "hypergpu-checkpoint-4"
KEPT: Final = 2  # the books may be one round behind the newest

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Best:
    """The version whose model did best so far, and the files of its groups in ``EXPORTED``."""

    version: int
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A version of the global model with everything needed to resume from it.

    ``vectors`` are the model, its average, the server optimiser's moments and the like; ``name/part`` belongs to the
    group ``name``. ``state`` is anything that JSON can hold. ``layout`` maps the vectors to the model's arrays.
    """

    version: int
    layout: Layout
    vectors: Arrays = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    best: Best | None = None


EXPORTED: Final = ("average", "buffer")  # the groups that make up the delivered model


def save(folder: Path, checkpoint: Checkpoint, *, keep: int = KEPT) -> Best:
    """Write a checkpoint, then remove all but the ``keep`` newest; a version already there is replaced.

    Returns
    -------
    Best
        ``checkpoint.best``, or this version if that is None.

    Raises
    ------
    CheckpointError
        If the disk refuses. What was there before is still whole.
    """
    manifest = folder / f"{checkpoint.version:08d}.json"
    draft = folder / "checkpoint.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = {name: _store(folder, draft, group) for name, group in _groups(checkpoint.vectors).items()}
        best = checkpoint.best or Best(checkpoint.version, {name: files[name] for name in EXPORTED if name in files})
        content = {
            "format": FORMAT,
            "version": checkpoint.version,
            "layout": checkpoint.layout.as_json(),
            "vectors": list(checkpoint.vectors),
            "files": files,
            "best": asdict(best),
            "state": json.loads(json.dumps(dict(checkpoint.state))),  # sealed as it will be read: with text keys
        }
        content["seal"] = _seal(content)
        with replacing(manifest, draft=draft, synced=True):
            draft.write_text(json.dumps(content), encoding="utf-8")
        _prune(folder, {*versions(folder)[-keep:], checkpoint.version})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {manifest} cannot be written: {error}", "free or grant disk space"
        ) from error
    return best


def versions(folder: Path) -> list[int]:
    """Versions that have a manifest, oldest first; loading one checks whether it is whole."""
    return sorted(int(file.stem) for file in folder.glob("*.json") if file.stem.isdecimal())


def load(
    folder: Path, version: int | None = None, *, layout: Layout | None = None, groups: Collection[str] | None = None
) -> Checkpoint:
    """Read a version, by default the newest, and check every byte that is read.

    Parameters
    ----------
    layout : Layout, optional
        The model that the checkpoint must be of.
    groups : collection of str, optional
        Which groups of vectors to read, where they exist; by default all.

    Raises
    ------
    CheckpointError
        If the version is missing, torn or of another model; the message names the file.
    PermissionError
        If this user may not read it.
    """
    if version is None:
        version = _known(folder)[-1]
    content = _manifest(folder, version)
    found = Layout.of_json(content["layout"])
    if layout is not None and found.hash != layout.hash:
        raise CheckpointError(
            f"checkpoint {version} in {folder} is of another model: layout {found.hash.hex()[:12]}, expected "
            f"{layout.hash.hex()[:12]}",
            "use the configuration of the run that made it",
        )
    files = {name: digest for name, digest in content["files"].items() if groups is None or name in groups}
    vectors = _vectors(folder, files, _remedy(folder))
    return Checkpoint(
        version=version,
        layout=found,
        vectors={name: vectors[name] for name in content["vectors"] if name in vectors},
        state=content["state"],
        best=Best(**content["best"]),
    )


def load_model(folder: Path, *, best: bool = False) -> Checkpoint:
    """The newest whole version's model, or the best one: average and buffers, with that version's state.

    Raises
    ------
    CheckpointError
        If there is none, or none is whole; the message is about the newest.
    PermissionError
        If this user may not read it.
    """
    newest, *older = reversed(_known(folder))
    try:
        return _model(folder, newest, best)
    except CheckpointError as torn:
        for version in older:
            with contextlib.suppress(CheckpointError):  # torn, too; the next is tried
                found = _model(folder, version, best)
                logger.warning("{}; version {} is taken in its place", torn.cause, found.version)
                return found
        raise


def _model(folder: Path, version: int, best: bool) -> Checkpoint:
    content = _manifest(folder, version)
    kept: Mapping[str, Any] = content["best"] if best else content
    files = {name: digest for name, digest in kept["files"].items() if name in EXPORTED}
    vectors = _vectors(folder, files, f"export the {'newest' if best else 'best'} version instead")
    return Checkpoint(kept["version"], Layout.of_json(content["layout"]), vectors, content["state"])


def state_of(folder: Path) -> Mapping[str, Any] | None:
    """The state in the newest whole manifest, without the vectors; None if there is none."""
    for version in reversed(versions(folder)):
        try:
            state: Mapping[str, Any] = _manifest(folder, version)["state"]
            return state
        except CheckpointError:
            continue
    return None


def _known(folder: Path) -> list[int]:
    """All versions; raises if there is none."""
    if not (known := versions(folder)):
        raise CheckpointError(f"there is no checkpoint in {folder}", "name a run that has finished a round")
    return known


def _manifest(folder: Path, version: int) -> dict[str, Any]:
    file = folder / f"{version:08d}.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except PermissionError:
        raise  # it is whole, and no other one takes its place
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {file} cannot be read: {error}", _remedy(folder)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{file} is no {FORMAT} manifest", _remedy(folder))
    if content.pop("seal", None) != _seal(content) or content["version"] != version:
        raise CheckpointError(f"checkpoint {file} is torn: its seal does not fit its content", _remedy(folder))
    return content


def _vectors(folder: Path, files: Mapping[str, str], remedy: str) -> dict[str, NDArray[Any]]:
    vectors: dict[str, NDArray[Any]] = {}
    for name, digest in files.items():
        file = _file(folder, digest)
        try:
            file.open("rb").close()  # safetensors says of every file that it cannot open that there is none
            group = load_file(file)
        except PermissionError:
            raise  # likewise
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"checkpoint {file} cannot be read: {error}", remedy) from error
        if (found := _digest(group)) != digest:
            raise CheckpointError(f"checkpoint {file} is torn: XXH3 {found[:12]}", remedy)
        vectors |= {f"{name}/{part}" if part else name: vector for part, vector in group.items()}
    return vectors


def _groups(vectors: Arrays) -> dict[str, dict[str, NDArray[Any]]]:
    groups: dict[str, dict[str, NDArray[Any]]] = {}
    for path, vector in vectors.items():
        name, _, part = path.partition("/")
        groups.setdefault(name, {})[part] = np.require(vector, requirements="C")
    return groups


def _store(folder: Path, draft: Path, group: Mapping[str, NDArray[Any]]) -> str:
    """Write a group of vectors, unless a file has the same content; return the file's digest."""
    digest = _digest(group)
    if not (file := _file(folder, digest)).exists():
        with replacing(file, draft=draft, synced=True):
            save_file(dict(group), draft)
    return digest


def _file(folder: Path, digest: str) -> Path:
    return folder / f"{digest}.safetensors"


def _remedy(folder: Path) -> str:
    return f"choose one of the versions {versions(folder)} in {folder}"


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(group: Mapping[str, NDArray[Any]]) -> str:
    # It only has to detect tearing; SHA-256 would take seven times as long.
    digest = xxhash.xxh3_128()
    for name, vector in sorted(group.items()):
        digest.update(f"{name}\n{vector.dtype.str} {vector.shape}\n".encode())
        digest.update(np.require(vector, requirements="C").reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _prune(folder: Path, kept: set[int]) -> None:
    """Remove old versions, and vectors that no manifest names."""
    for version in set(versions(folder)) - kept:
        (folder / f"{version:08d}.json").unlink()
    named: set[str] = set()
    for version in versions(folder):
        try:
            content = _manifest(folder, version)
        except CheckpointError:
            continue  # torn, so nobody needs its vectors
        named |= {*content["files"].values(), *content["best"]["files"].values()}
    for file in folder.glob("*.safetensors"):
        if file.stem not in named:
            file.unlink()
