"""Checks of a run before Flower is started: links, the user's own code, the data, and the chain.

They take seconds. Flower would find the same faults after a minute, in one of many processes with one of many logs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from hypergpu_fl.children import end_with
from hypergpu_fl.cli.apart import ended_itself, how_it_ended
from hypergpu_fl.config import Config, read_secrets
from hypergpu_fl.errors import TaskError
from strategies.failure import root_cause

TRIAL_LIMIT_S: Final = 600.0
_TRIAL: Final = "import sys; from hypergpu_fl.cli.preflight import try_here; try_here(int(sys.argv[1]))"


def check_before_start(config: Config, root: Path, app: Path, *, deployed: bool) -> dict[str, Any]:
    """Find faults that Flower would find later.

    Parameters
    ----------
    root : Path
        Root of the runs; prepared data are kept in its cache.
    app : Path
        Folder of the Flower app, whose modules the run can import.
    deployed : bool
        Whether code and data are on other machines, so that they cannot be checked here.

    Returns
    -------
    dict
        The result of `hypergpu_fl.task.check.try_first`, and ``notes`` with warnings; empty if ``deployed``.

    Raises
    ------
    ConfigError
        If a trace file is not a trace.
    TaskError
        If the user's code cannot be imported, the data set is neither there nor can be downloaded, the task fails on
        one batch, or it does not measure the metric that the target names.
    """
    if deployed:
        return {}
    check_links(config)
    system = config.system.model_copy(update={"runs_dir": str(root)})
    return try_apart(config.model_copy(update={"system": system}), app)


def check_links(config: Config) -> None:
    """Read the traces that a simulation's links come from, if it has any."""
    if config.network.enable_simulation and config.network.links_file:
        from hypergpu_fl.network.traces import configured_links

        configured_links(config.network, config.training.num_nodes, seed=config.training.seed)


def ask_chain(config: Config) -> None:
    """Ask the real chain of a new run, if it has one: seconds for each endpoint that does not answer.

    A resumed run goes on without its chain: what waits to be sent is in its books.

    Raises
    ------
    ChainError
        If no endpoint answers, or key, chain, contract or balance is not what it must be.
    """
    if config.blockchain.enabled and config.blockchain.kind == "rpc" and not config.system.resume:
        from hypergpu_fl.chain.errors import Unavailable
        from hypergpu_fl.settlement.opening import ask_before_start

        try:
            ask_before_start(config.blockchain, read_secrets(), rounds=config.training.rounds)
        except Unavailable as error:
            remedy = "check blockchain.rpc_url and the network, or train without a chain: blockchain.enabled=false"
            raise Unavailable(error.cause, remedy) from None


def try_apart(config: Config, app: Path) -> dict[str, Any]:
    """Try the task on one batch as the run's processes will: in its own process, without this working directory."""
    path = os.pathsep.join(filter(None, [str(app), os.environ.get("PYTHONPATH", "")]))
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _TRIAL, str(os.getpid())],
            env={**os.environ, "PYTHONPATH": path},
            input=config.model_dump_json(),
            capture_output=True,
            text=True,
            timeout=TRIAL_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TaskError(
            f"{config.training.title} is not read and tried on one batch within {TRIAL_LIMIT_S:.0f} s",
            "`hypergpu task check` shows where it stands; prepare the data before, or evaluate on less of them",
        ) from None
    if done.returncode:
        cause, remedy = root_cause(done.stderr) or (f"the trial of the task {how_it_ended(done.returncode)}", "")
        if not remedy:
            cause = f"{config.training.title} cannot be tried: {cause}"
            remedy = "`hypergpu task check --config FILE` shows where"
        raise TaskError(cause.replace(f"{app}{os.sep}", ""), remedy)  # the app may be a temporary copy
    if not done.stdout:  # os._exit(0) in the user's code, for instance
        raise ended_itself(0, f"{config.training.title} was tried on one batch")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def try_here(parent: int) -> None:
    """Read a configuration from standard input, try its task on one batch, and write what came of it as JSON.

    It ends with its ``parent``, whatever the user's code is about.
    """
    end_with(parent)
    config = Config.model_validate_json(sys.stdin.read())
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever the user's code prints must not mix with the answer

    from loguru import logger

    from hypergpu_fl.task import fresh_model, full_identity, load_task
    from hypergpu_fl.task.check import try_first

    notes: list[str] = []
    logger.add(lambda message: notes.append(message.record["message"]), level="WARNING")
    task = load_task(config.training, config.system, simulated=config.network.enable_simulation)
    if config.system.resume:
        from hypergpu_fl.server.resumption import check_same_task

        folder = Path(config.system.runs_dir) / config.system.run_name
        check_same_task(folder, full_identity(task, fresh_model(task, config.training.seed)))
    tried = try_first(config.training, task, device=config.system.device)
    with open(answer, "w", encoding="utf-8") as stream:
        json.dump({**tried, "notes": notes}, stream)
    sys.stderr.flush()
    os._exit(0)  # a thread of the user's may go on for good
