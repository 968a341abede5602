"""Layers of configuration, last wins: defaults, files, environment over ``.env``, what is typed (``--set``).

Whoever starts a run has the last word and submits the whole configuration. Inside ServerApp and ClientApp, a machine's
environment therefore decides only what differs by machine, `MACHINE`; everything else is as submitted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from hypergpu_fl.config.environment import PREFIX, RUNS, is_setting, path_of, unknown_variables
from hypergpu_fl.config.faults import faults, shown
from hypergpu_fl.config.file import read
from hypergpu_fl.config.flat import Scalar, fields, flatten, from_text, unflatten
from hypergpu_fl.config.models import Config, System
from hypergpu_fl.config.task_options import FIELD, packed, unpacked
from hypergpu_fl.config.values import INT64
from hypergpu_fl.errors import ConfigError, Fault
from hypergpu_fl.files import path_meant
from hypergpu_fl.redaction import SECRETS, has_credentials, looks_secret

PATHS: Final = (
    "training.data_root",
    "network.links_file",
    "network.rtt_file",
    "blockchain.keystore",
    "system.runs_dir",
)
# Settings that each machine of a deployment makes for itself, whatever was submitted.
MACHINE: Final = (
    "training.data_root",
    "blockchain.rpc_url",
    "blockchain.keystore",
    "system.runs_dir",
    "system.device",
    "system.log_level",
    "system.log_file",
    "system.log_rotation_mb",
    "system.log_retention",
)
# Paths that mean something on one machine only. In a deployment each machine has its own in its environment.
PLACES: Final = (*PATHS, "system.log_file")
_FILES: Final = ("network.links_file", "network.rtt_file", "blockchain.keystore")
_FIELDS: Final = dict(fields())


@dataclass(frozen=True, slots=True)
class Loaded:
    """The effective configuration, and where each value that is not a default came from."""

    config: Config
    origins: Mapping[str, str]


def load(
    file: str | Path | Sequence[Path] | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Read, merge and check all layers.

    Parameters
    ----------
    file : str, Path or sequence of Path, optional
        JSON or TOML, by its ending; of several, a later one wins.
    overrides : Mapping, optional
        Dotted name -> value as typed (``--set``), which wins over all else; text is read as the field's type.
    environ : Mapping, optional
        ``HYPERGPU_<SECTION>__<FIELD>`` variables; ``os.environ`` and ``.env`` as `environment` joins them.

    Returns
    -------
    Loaded
        Paths in it are absolute (relative ones count from the working directory).

    Raises
    ------
    ConfigError
        With every fault of every layer.
    """
    files = [Path(file)] if isinstance(file, (str, Path)) else file or []
    read_in = [(path.name, flatten(read(path))) for path in files]
    typed = ("--set", _typed(overrides or {}))
    variables, found = _environment_layers(environ or {})
    for origin, layer in [*read_in, typed]:
        found += _misplaced_secrets(layer, origin)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in [*read_in, *variables, typed]:
        for path, value in unpacked(layer).items():
            values[path], origins[path] = value, origin
    found += _make_absolute(values)
    config, faulty = _validate({p: v for p, v in values.items() if not looks_secret(p)}, origins)
    if config is None or found:
        raise ConfigError([*found, *faulty])
    return Loaded(config, origins)


def from_run_config(run_config: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Config:
    """Read Flower's flattened run-config, inside a ServerApp or ClientApp.

    Parameters
    ----------
    run_config : Mapping[str, Scalar]
        ``context.run_config``.
    environ : Mapping[str, str], optional
        Variables of the machine that the app runs on. They override the settings in `MACHINE` and no others. In a
        deployment, `PLACES` come only from here.

    Raises
    ------
    ConfigError
        With every fault.
    """
    values = unpacked({path: _from_int64(value, path) for path, value in _travelling(run_config).items()})
    origins = dict.fromkeys(values, "run-config")
    found = _misplaced_secrets(values, "run-config")
    variables, faulty_names = _environment_layers(environ or {})
    found += faulty_names
    for origin, layer in variables:
        for path, value in unpacked(layer).items():
            if path in MACHINE or not (path in _FIELDS or path.startswith(FIELD)):  # the latter is refused
                values[path], origins[path] = value, origin
    config, faulty = _validate({p: v for p, v in values.items() if not looks_secret(p)}, origins)
    if config is None or found:
        raise ConfigError([*found, *faulty])
    return config


def to_run_config(config: Config) -> dict[str, Scalar]:
    """Every setting as a flat table of scalars; inverse of `from_run_config`.

    Integers beyond 64 bits travel as text. Addresses with credentials are left out, since every node can read a
    run-config: the ServerApp finds them in its environment. So are the `PLACES` of a deployment.
    """
    flat: dict[str, Scalar] = {}
    for path, value in packed(_travelling(flatten(config.model_dump()))).items():
        if _holds_credentials(path, value):
            value = ""
        flat[path] = str(value) if isinstance(value, int) and value not in INT64 else value
    return flat


def without_settings(environ: Mapping[str, str], config: Config) -> dict[str, str]:
    """Environment for an app on this machine that is given ``config``, without variables that would override it.

    RPC addresses with credentials stay, since a run-config must not hold them.
    """
    left = {name: text for name, text in environ.items() if not is_setting(name)}
    if any(has_credentials(url) for url in config.blockchain.rpc_url.split(",")):
        left[f"{PREFIX}BLOCKCHAIN__RPC_URL"] = config.blockchain.rpc_url
    return left


def _travelling(flat: Mapping[str, Any]) -> Mapping[str, Any]:
    """``flat`` without paths on the sender's machine; a simulation has only one machine and keeps them."""
    if flat.get("network.enable_simulation", True):
        return flat
    return {path: value for path, value in flat.items() if path not in PLACES}


def runs_root(system: System, environ: Mapping[str, str] | None = None) -> Path:
    """Folder that holds all runs: the config's, else ``HYPERGPU_RUNS``, else ``./runs``."""
    given = (os.environ if environ is None else environ).get(RUNS, "")
    return Path(system.runs_dir or (given if given.strip() else "runs")).expanduser().resolve()


def _typed(layer: Mapping[str, Any]) -> dict[str, Any]:
    return {p: from_text(_FIELDS[p], v) if isinstance(v, str) and p in _FIELDS else v for p, v in layer.items()}


def _environment_layers(environ: Mapping[str, str]) -> tuple[list[tuple[str, dict[str, Any]]], list[Fault]]:
    """One layer per variable, so that a fault can name the variable, and faults for unknown variables."""
    layers: list[tuple[str, dict[str, Any]]] = []
    found = list(unknown_variables(environ))
    first: dict[str, str] = {}
    for name, text in sorted(environ.items()):
        if not is_setting(name) or not text.strip():
            continue
        path = path_of(name)
        if (other := first.setdefault(path, name)) != name:
            found.append(Fault(f"{other} and {name} both set {path}", "keep one of the two"))
        layers.append((name, _typed({path: text})))
    return layers, found


def _misplaced_secrets(layer: Mapping[str, Any], origin: str) -> list[Fault]:
    found = []
    for path, value in layer.items():
        if looks_secret(path):
            remedy = f"remove it from there; set one of {', '.join(SECRETS)} in the environment, or use a keystore"
            found.append(Fault(f"{path} looks like a secret (in {origin}), which every node could read", remedy))
        elif _holds_credentials(path, value):
            variable = PREFIX + path.upper().replace(".", "__")
            remedy = f"remove it from there and set {variable} in the environment or .env"
            found.append(Fault(f"{path} holds credentials (in {origin}), which every node could read", remedy))
    return found


def _holds_credentials(path: str, value: object) -> bool:
    """Whether a value is, or was meant to be, an address with credentials; a path may look like one but is not."""
    urls = value.split(",") if isinstance(value, str) else []
    return any(has_credentials(url) for url in urls if "://" in url or path == "blockchain.rpc_url")


def _make_absolute(values: dict[str, Any]) -> list[Fault]:
    """Resolve paths in place, since the app runs elsewhere; return a fault for each that cannot be or is not there."""
    found = []
    for path in PATHS:
        if isinstance(given := values.get(path), str) and given:
            try:
                values[path] = str(Path(given).expanduser().resolve())
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    os.stat(values[path])  # raises for what can never be there, such as a name of 1,000 letters
                there = path not in _FILES or Path(values[path]).is_file()
            except ValueError:
                continue  # no text of one line, which the model refuses
            except (OSError, RuntimeError) as error:
                reason = getattr(error, "strerror", None) or error
                found.append(Fault(f"{path} is {shown(given)}, which is no path: {reason}", f"correct {path}"))
                continue
            if not there:
                found.append(
                    Fault(
                        f"{path} is {shown(given)}, but there is no such file",
                        path_meant(Path(values[path])) or f"correct {path}",
                    )
                )
    return found


def _from_int64(value: Any, path: str) -> Any:
    if isinstance(value, str) and path in _FIELDS and _FIELDS[path].annotation is int:
        number = from_text(_FIELDS[path], value)
        return number if isinstance(number, int) and number not in INT64 else value
    return value


def _validate(values: Mapping[str, Any], origins: Mapping[str, str]) -> tuple[Config | None, list[Fault]]:
    try:
        return Config.model_validate(unflatten(values), strict=True), []
    except ValidationError as error:
        return None, faults(error, origins, _FIELDS)
