"""What can be known of a run before Flower is started, in seconds: links, the user's own code, and the data.

Flower would find the same out after a minute, in a process whose log is one file among many.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from hypergpu_fl.config import Config
from hypergpu_fl.errors import TaskError
from strategies.failure import root_cause

IMPORT_LIMIT_S: Final = 120.0
_IMPORT: Final = "import sys; from hypergpu_fl.task.names import import_object; import_object(*sys.argv[1:])"


def check_before_start(config: Config, root: Path, app: Path, *, deployed: bool) -> None:
    """Check what Flower would only find out later.

    Parameters
    ----------
    root : Path
        Of the runs; prepared data are kept in its cache.
    app : Path
        Folder of the Flower app, whose modules the run can import.
    deployed : bool
        Whether code and data lie on other machines, so that nothing can be known of them here.

    Raises
    ------
    ConfigError
        If a trace is not one.
    TaskError
        If the user's own code cannot be imported, or the data set is neither there nor to be had.
    """
    if deployed:
        return
    for field in ("task", "model_architecture"):
        reference = getattr(config.training, field)
        if ":" in reference:
            check_import(reference, f"training.{field}", app)
    check_links(config)
    if not config.training.task:
        from hypergpu_fl.task.data import load_images
        from hypergpu_fl.task.partition import dealt_out

        images = load_images(config.training.dataset, config.training.data_root, root / ".cache")
        dealt_out(config.training, images.train.labels_N, root / ".cache", simulated=True)


def check_links(config: Config) -> None:
    """Read the traces that a simulation's links come from, if it has any."""
    if config.network.enable_simulation and config.network.links_file:
        from hypergpu_fl.network.traces import configured_links

        configured_links(config.network, config.training.num_nodes, seed=config.training.seed)


def check_import(reference: str, field: str, app: Path) -> None:
    """Import ``pkg.module:name`` as the run's processes will: apart from this one, without its working directory."""
    path = os.pathsep.join(filter(None, [str(app), os.environ.get("PYTHONPATH", "")]))
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _IMPORT, reference, field],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=IMPORT_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TaskError(
            f"{field} = {reference!r} is not imported within {IMPORT_LIMIT_S:.0f} s",
            "load data and models when they are asked for, not when the module is imported",
        ) from None
    if done.returncode:
        cause, remedy = root_cause(done.stderr) or (f"its import ended with code {done.returncode}", "")
        if not remedy:
            cause = f"{field} = {reference!r} cannot be imported: {cause}"
            remedy = f"`python -c 'import {reference.partition(':')[0]}'` shows where"
        raise TaskError(cause.replace(f"{app}{os.sep}", ""), remedy)  # it may be a copy that is made for this run
