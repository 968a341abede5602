"""One run submitted through ``flwr run``, its status and its log. This uses Flower's programs, not its internals."""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import hypergpu_fl
from hypergpu_fl.config import Config, to_run_config, unflatten
from hypergpu_fl.errors import RunFailed, SuperLinkSilent, UsageError
from hypergpu_fl.files import path_meant
from strategies.failure import without_colours

COMPLETED: Final = "finished:completed"
STOPPED: Final = "finished:stopped"
_COMMAND_LIMIT_S: Final = 120.0
_AWAY: Final = re.compile(r"SuperLink is unavailable|\b50[0234]\b|not initialized")  # it is starting or ending


@dataclass(frozen=True, slots=True)
class Submission:
    """A run that Flower accepted.

    ``connection`` is the name of a SuperLink in Flower's configuration; ``environ`` that of its programs.
    """

    run_id: str
    connection: str
    environ: Mapping[str, str]

    def status(self) -> tuple[str, str]:
        """Ask for status and details, such as ``("finished:failed", "...")``."""
        answer = _flwr(["ls", self.connection, "--run-id", self.run_id], self.environ)
        (run,) = answer["runs"]
        return run["status"], run["status-details"]

    def log(self) -> str:
        """Everything that a run printed until it ended, without colours."""
        printed, _ = _run(["log", self.run_id, self.connection, "--stream"], self.environ)
        return without_colours(printed)

    def follow(self) -> subprocess.Popen[str]:
        """Process whose standard output is the run's log, until the run ends."""
        environ = {**self.environ, "PYTHONUNBUFFERED": "1"}
        return _start(["log", self.run_id, self.connection, "--stream"], environ, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        """Ask Flower to stop the run. ClientApps that are training finish their step; their SuperNodes drop it."""
        _flwr(["stop", self.run_id, self.connection], self.environ)


def submit(
    config: Config, *, app: Path, connection: str, environ: Mapping[str, str], scratch: Path, resources: str = ""
) -> Submission:
    """Build the app's bundle and submit it.

    Parameters
    ----------
    app : Path
        Folder of the app, see `app_folder`.
    connection : str
        Name of a SuperLink in Flower's configuration, ``local`` in simulation.
    environ : Mapping[str, str]
        Environment of ``flwr``.
    scratch : Path
        Folder for the run-config file.
    resources : str, optional
        ``--federation-config``, for simulation only.

    Raises
    ------
    RunFailed
        If Flower does not accept it, with Flower's reason.
    """
    overrides = scratch / "run-config.toml"
    overrides.write_text(as_toml(to_run_config(config)), encoding="utf-8")
    command = ["run", str(app), connection, "--run-config", str(overrides)]
    answer = _flwr(command + (["--federation-config", resources] if resources else []), environ)
    return Submission(str(answer["run-id"]), connection, environ)


def as_toml(run_config: Mapping[str, Any]) -> str:
    """Flat table of scalars as TOML, which writes scalars as JSON does, except for DEL and surrogate pairs."""
    lines = []
    for section, values in unflatten(run_config).items():
        lines.append(f"[{section}]")
        for name, value in values.items():
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f"))
    return "\n".join(lines) + "\n"


def simulation_resources(nodes: int, device: str, *, gpus: int, cores: int) -> str:
    """``--federation-config`` of a simulation on a machine of so many GPUs and cores.

    Each node at work gets a CPU core, and a share of any GPUs.

    Ray hides the GPUs from actors that claim none, and waits forever for GPUs that do not exist.
    """
    resources = f"num-supernodes={nodes} client-resources-num-cpus=1"
    if device in ("auto", "cuda") and gpus:
        at_once = max(1, min(nodes, cores, 8 * gpus))
        resources += f" client-resources-num-gpus={gpus / at_once:.4f}"
    return resources


def gpu_count() -> int:
    """Number of NVIDIA GPUs that this process may use. It asks the driver, which is faster than importing torch."""
    import pynvml

    try:
        pynvml.nvmlInit()
        found = int(pynvml.nvmlDeviceGetCount())
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return 0
    return visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), found)


def visible_gpus(visible: str | None, found: int) -> int:
    """How many of ``found`` GPUs ``CUDA_VISIBLE_DEVICES`` leaves visible: those before the first invalid entry.

    An entry is a number or the beginning of a UUID. An entry that stands twice hides all GPUs (CUDA C++ Programming
    Guide).
    """
    if visible is None:
        return found
    entries = [entry.strip() for entry in visible.split(",")]
    named = list(
        itertools.takewhile(
            lambda entry: int(entry) < found if entry.isdecimal() else entry.startswith(("GPU-", "MIG-")), entries
        )
    )
    return len(named) if len(set(named)) == len(named) else 0


def app_folder(named: Path | None = None) -> Path:
    """The folder that ``--app`` names, else the one whose ``pyproject.toml`` declares the Flower app.

    That is the one of this package's sources, or of an enclosing clone. Where there is neither, as when the package was
    installed from a wheel, it is a copy that exists as long as this process.

    Raises
    ------
    UsageError
        If the named folder holds no app, or there is neither such a folder nor the files to make one.
    """
    if named is not None:
        if not (named / "pyproject.toml").is_file():
            raise UsageError(
                f"--app {named} holds no pyproject.toml", path_meant(named) or "name the folder of a Flower app"
            )
        return named
    package = Path(hypergpu_fl.__file__).resolve().parent
    here = Path.cwd()
    for folder in (package.parent, here, *here.parents):
        try:
            project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8-sig"))
            if "hypergpu_fl" in project["tool"]["flwr"]["app"]["components"]["serverapp"]:
                return folder
        except (OSError, KeyError, TypeError, ValueError):  # not there, or not of a Flower app of ours
            continue
    return _installed_app(package)


@functools.cache
def _installed_app(package: Path) -> Path:
    """The app from an installed package: its modules, and the root's files, which the wheel keeps in ``app/``."""
    if not (package / "app" / "pyproject.toml").is_file():
        raise UsageError(
            f"no pyproject.toml of the Flower app in {package.parent} or from {Path.cwd()} upwards",
            "run inside a clone of the repository, or name one with --app",
        )
    folder = Path(tempfile.mkdtemp(prefix="hypergpu-app-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(package / "app", folder, dirs_exist_ok=True)
    for name in (package.name, "strategies"):
        shutil.copytree(package.parent / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "app"))
    return folder


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _start(arguments: list[str], environ: Mapping[str, str], *, stderr: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [_program("flwr"), *arguments],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def _run(arguments: list[str], environ: Mapping[str, str]) -> tuple[str, str]:
    """Standard output and error of ``flwr <arguments>``; unlike `subprocess.run`, Ctrl-C leaves no child behind."""
    with _start(arguments, environ, stderr=subprocess.PIPE) as process:
        try:
            return process.communicate(timeout=_COMMAND_LIMIT_S)
        except BaseException:
            process.kill()
            process.wait()
            raise


def _flwr(arguments: list[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """Answer of ``flwr <arguments> --format json``."""
    printed, complaints = "", ""
    try:
        printed, complaints = _run([*arguments, "--format", "json"], environ)
        answer = json.loads(printed)
    except subprocess.TimeoutExpired:
        raise SuperLinkSilent(
            f"`flwr {arguments[0]}` gave no answer within {_COMMAND_LIMIT_S:.0f} s", "is the SuperLink reachable?"
        ) from None
    except ValueError:
        said = (without_colours(complaints) or printed).strip().splitlines() or ["nothing"]
        raise SuperLinkSilent(f"`flwr {arguments[0]}` answered: {said[-1]}", "check the SuperLink connection") from None
    if not answer.get("success"):
        reason = str(answer.get("error-message") or answer).strip().splitlines()[-1]
        kind = SuperLinkSilent if _AWAY.search(reason) else RunFailed
        raise kind(f"`flwr {arguments[0]}` failed: {reason}", "check the SuperLink connection and its version")
    return dict(answer)
