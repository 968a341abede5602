"""Variables of a process and lines of ``.env``: which are read here, and what is wrong with the others."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from hypergpu_fl.config.flat import fields
from hypergpu_fl.config.text import read_text
from hypergpu_fl.errors import ConfigError, Fault
from hypergpu_fl.redaction import SECRETS
from strategies.spelling import nearest

PREFIX: Final = "HYPERGPU_"
RUNS: Final = "HYPERGPU_RUNS"
_OTHERS: Final = (*SECRETS, RUNS)
_VARIABLES: Final = {
    name.removeprefix(PREFIX).replace("_", ""): name
    for name in (*_OTHERS, *(PREFIX + path.upper().replace(".", "__") for path, _ in fields()))
}
# Kubernetes and Docker announce neighbouring services to a container in variables that begin with the service's name.
_ORCHESTRATOR: Final = re.compile(rf"{PREFIX}(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


def environment(environ: Mapping[str, str], dotenv: Path | None = Path(".env")) -> dict[str, str]:
    """``environ`` over the ``HYPERGPU_*`` lines of a ``.env`` file, if there is one; a blank variable is none.

    Raises
    ------
    ConfigError
        If the file cannot be read, or a line of it that names such a variable cannot.
    """
    lines = _lines(dotenv) if dotenv is not None and dotenv.is_file() else {}
    given = {name: value for name, value in environ.items() if value.strip() or not is_ours(name)}
    return {name: value for name, value in lines.items() if is_ours(name) and value.strip()} | given


def is_ours(variable: str) -> bool:
    """Whether a variable is meant for this program, in whatever case its name is written."""
    return variable.upper().startswith(PREFIX)


def is_setting(variable: str) -> bool:
    """Whether a variable names a setting, ``HYPERGPU_<SECTION>__<FIELD>``."""
    return variable.startswith(PREFIX) and "__" in variable


def path_of(variable: str) -> str:
    """Dotted path of the setting that a variable names."""
    return variable.removeprefix(PREFIX).lower().replace("__", ".", 1).replace("options__", "options.", 1)


def unknown_variables(environ: Mapping[str, str]) -> Iterator[Fault]:
    """Faults for variables that are meant for this program and not read by it."""
    for name, text in sorted(environ.items()):
        if not is_ours(name) or is_setting(name) or name in _OTHERS or not text.strip():
            continue
        if _ORCHESTRATOR.fullmatch(name):
            continue
        near = nearest(name.upper().removeprefix(PREFIX).replace("_", ""), _VARIABLES)
        remedy = f"did you mean {_VARIABLES[near]}?" if near else "remove it, or name it otherwise"
        yield Fault(f"{name} is no variable that is read here", remedy)


def _lines(file: Path) -> dict[str, str]:
    """What a ``.env`` file sets. Lines of other programs need not be readable; no line is shown: it may be a secret."""
    from dotenv.parser import parse_stream

    found: dict[str, str] = {}
    for line in parse_stream(io.StringIO(read_text(file))):
        if line.key is not None and line.value is not None:
            found[line.key] = line.value
        elif PREFIX in line.original.string.upper() and not line.original.string.lstrip().startswith("#"):
            cause = f"line {line.original.line} of {file} cannot be read"
            raise ConfigError([Fault(cause, "write NAME=value, quotes in pairs")])
    return found
