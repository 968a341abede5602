"""Run the same simulated runs at two commits, on one machine, and compare what they leave behind, field by field.

``python tests/compare_runs.py compare BEFORE AFTER`` checks both commits out beside one another, runs each of ``RUNS``
there in processes of their own, and prints every field that differs; ``record OUT.json`` is what each of those
processes does. Torch's sums depend on the processor, so nothing recorded on another machine is worth comparing with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

ROUNDS, NODES = 5, 10
# policy, mode, seed, profile of the links, rounds of the first process (the rest is a resumed one)
RUNS = [
    *((policy, "sync", 0, "broadband", ROUNDS) for policy in ("network_aware", "random", "oort", "fedcs")),
    *((policy, "async", 7, "broadband", ROUNDS) for policy in ("network_aware", "random", "oort", "fedcs")),
    ("network_aware", "async", 0, "broadband", 3),
    ("network_aware", "async", 3, "mobile", ROUNDS),
]
KEY = f"{1:064x}\n"  # the coordinator's, which is drawn for each run otherwise, and signs all that is sealed
PER_RUN = ("versions",)  # of the report: not the run's doing


def record(out: Path) -> None:
    """Run all of ``RUNS`` on the code that is imported here and write what they left."""
    os.environ.pop("HYPERGPU_RUNS", None)
    with tempfile.TemporaryDirectory() as folder:
        found = {"-".join(map(str, run)): _left_by(Path(folder) / str(i), *run) for i, run in enumerate(RUNS)}
    out.write_text(json.dumps(found, indent=1, sort_keys=True))


def _left_by(folder: Path, policy: str, mode: str, seed: int, profile: str, first: int) -> dict[str, Any]:
    for rounds, resume in ((first, False), (ROUNDS, True)):
        if resume and first == ROUNDS:
            break
        _train(folder, policy, mode, seed, profile, rounds, resume)
    report = json.loads((folder / "report.json").read_text())
    for name in PER_RUN:
        report.pop(name)
    newest = max((folder / "checkpoints").glob("*.safetensors"))
    from safetensors.numpy import load_file

    tensors = {
        name: hashlib.sha256(tensor.tobytes()).hexdigest()
        for name, tensor in load_file(newest).items()
        if name.startswith(("model/", "vector/model", "vector/average", "vector/optimizer"))
    }
    ledger = json.loads((folder / "ledger.json").read_text())
    return {"report": report, "weights": tensors, "ledger": {"rounds": [_sealed(r) for r in ledger["rounds"]]}}


def _sealed(entry: dict[str, Any]) -> dict[str, Any]:
    """What a round's record in the ledger seals, and what of it was paid."""
    kept = {name: entry[name] for name in ("root", "head", "base_model", "model", "rewards_root") if name in entry}
    kept["contributions"] = [
        {k: v for k, v in c.items() if k in ("node", "round", "weight", "score", "reward", "leaf", "duplicate_of")}
        for c in entry["contributions"]
    ]
    return kept


def _train(folder: Path, policy: str, mode: str, seed: int, profile: str, rounds: int, resume: bool) -> None:
    from hypergpu_fl.bench.in_process import InProcessGrid
    from hypergpu_fl.config import Config, to_run_config

    server = _module("hypergpu_fl.server.app", "hypergpu_fl.server.server_app", "hypergpu_fl.server_app")
    node = _module("hypergpu_fl.node.app", "hypergpu_fl.node.client_app", "hypergpu_fl.client_app")
    config = Config.model_validate(
        {
            "training": {"num_nodes": NODES, "rounds": rounds, "seed": seed, "learning_rate": 0.3},
            "network": {"policy": policy, "mode": mode, "cohort": 5, "profile": profile},
            "blockchain": {"enabled": True, "kind": "embedded"},
            "system": {"run_name": "run", "resume": resume, "device": "cpu"},
        }
    )
    folder.mkdir(exist_ok=True)
    (folder / "coordinator.key").write_text(KEY)
    grid = InProcessGrid(node.app, NODES, to_run_config(config), state_dir=folder / "nodes")
    server.run(config, grid, folder)


def _module(*names: str) -> Any:
    for name in names:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    raise ModuleNotFoundError(f"none of {names} is there")


def differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Every field that is not the same, by its path."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from differences(before.get(key), after.get(key), f"{path}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{path}/{index}")
    elif before != after:
        yield f"{path}: {str(before)[:60]} -> {str(after)[:60]}"


def compare(before: str, after: str) -> int:
    """Record both commits and print what differs; the number of fields that do."""
    here = Path(__file__).resolve()
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for index, commit in enumerate((before, after)):
            tree, out = Path(folder) / f"tree-{index}", Path(folder) / f"{index}.json"
            subprocess.run(["git", "worktree", "add", "-q", "--detach", tree, commit], cwd=here.parent, check=True)
            try:
                subprocess.run(
                    [sys.executable, here, "record", out],
                    cwd=tree,
                    env={**os.environ, "PYTHONPATH": str(tree)},
                    check=True,
                    stderr=subprocess.DEVNULL,
                )
            finally:
                subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=here.parent, check=True)
            found.append(json.loads(out.read_text()))
    count = 0
    for line in differences(*found):
        print(line)
        count += 1
    print(f"{len(RUNS)} runs, {count} fields differ")
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("record").add_argument("out", type=Path)
    pair = commands.add_parser("compare")
    pair.add_argument("before")
    pair.add_argument("after")
    arguments = parser.parse_args()
    if arguments.command == "record":
        record(arguments.out)
    else:
        sys.exit(1 if compare(arguments.before, arguments.after) else 0)
