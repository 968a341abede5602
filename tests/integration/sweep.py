"""One configuration through the door and through a two-round run of the demo, all in this process."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from flwr.app import ConfigRecord, Context, RecordDict
from loguru import logger

from hypergpu_fl.bench.in_process import RUN_ID, SERVER_ID, InProcessGrid
from hypergpu_fl.config import Config, from_run_config, load, runs_root, to_run_config
from hypergpu_fl.errors import ConfigError, HyperGPUError
from hypergpu_fl.node.client_app import app
from hypergpu_fl.runs import find_run
from hypergpu_fl.server.server_app import main
from strategies.errors import NoNodes

DEMO = {"training.num_nodes": 4, "training.rounds": 2, "blockchain.enabled": False}
LIMIT_S = 120  # a demo takes two seconds; what takes this long hangs


@dataclass(frozen=True)
class Outcome:
    """``refused`` at the door, ``ran``, or ``ended`` otherwise; then what was said, cause and remedy."""

    how: str
    cause: str = ""
    remedy: str = ""


def loaded(values: Mapping[str, Any], runs: Path) -> Config | Outcome:
    """What the door makes of the demo with these settings."""
    about_chain = any(path.startswith("blockchain.") for path in values)
    settings = {**DEMO, "system.runs_dir": str(runs), **({"blockchain.enabled": True} if about_chain else {})}
    try:
        config = load(overrides=settings | values).config
    except ConfigError as error:
        assert all(fault.cause and fault.remedy and "pydantic" not in fault.cause for fault in error.faults)
        return Outcome("refused", error.cause, error.remedy)
    assert from_run_config(to_run_config(config)) == config or not config.network.enable_simulation
    return config


def outcome(config: Config, scratch: Path) -> Outcome:
    """What comes of running it."""
    flat = to_run_config(config)
    nodes = Path(tempfile.mkdtemp(dir=scratch))  # each run has nodes of its own, as each has an id of its own in Flower
    grid = InProcessGrid(app, config.training.num_nodes, flat, state_dir=nodes)
    context = Context(RUN_ID, SERVER_ID, {}, RecordDict({"server": ConfigRecord()}), flat)
    try:
        with limited():
            main(grid, context)
    except HyperGPUError as error:
        return Outcome("ended", error.cause, error.remedy)
    except NoNodes as error:
        return Outcome("ended", *str(error).split("; ", maxsplit=2)[1:])
    finally:
        logger.remove()
    root = runs_root(config.system)
    report = json.loads((find_run(root, config.system.run_name or "latest") / "report.json").read_text())
    assert report["rounds"] and (report["loss"] is None or math.isfinite(report["loss"]))
    chain = report["chain"]
    if config.blockchain.enabled and not chain["commits"] == chain["finalized"] == report["rounds"]:
        return Outcome("unsealed", chain["problem"])
    return Outcome("ran")


@contextlib.contextmanager
def limited(seconds: float = LIMIT_S) -> Iterator[None]:
    """Raise ``TimeoutError`` where the code stands after so long; print all stacks if even that does not help."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still at work after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + 30, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
