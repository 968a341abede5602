"""``hypergpu bench``: named measurements, each in a module of its own that is imported when it is asked for.

The peer is measured in the same process run, and the rows are a list of flat objects.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hypergpu_fl.cli.options import ConfigFile, Overrides, Runs, overrides, root_of
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import RunFailed, UsageError

app = typer.Typer(no_args_is_help=True, help="Measure against the peers, with the peer in the same process run.")
Out = Annotated[Path | None, typer.Option("--json", metavar="OUT", help="write the rows to this file as well")]


@app.callback()
def bench() -> None:
    """Measure against the peers, with the peer in the same process run."""


@app.command()
def train(
    models: Annotated[str, typer.Option(help="comma-separated")] = "mlp,simple_cnn,resnet18",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    steps: Annotated[int, typer.Option(min=1, help="batches a call")] = 20,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="calls of which the median counts")] = 7,
    out: Out = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Samples a second of local training, ours and the plain PyTorch loop on the same tensors."""
    from hypergpu_fl.bench.train import SHAPES, run_train

    names = listed(models)
    if unknown := [name for name in names if name not in SHAPES]:
        raise UsageError(f"there is no model {unknown[0]!r} to measure", f"choose from {', '.join(SHAPES)}")
    rows = run_train(models=names, device=device, steps=steps, batch_size=batch_size, repeats=repeats)
    deliver(rows, out, format)


@app.command()
def settle(
    clients: Annotated[str, typer.Option(help="contributions a round, comma-separated")] = "10,100,1000",
    rounds: Annotated[int, typer.Option(min=2, help="rounds a measurement")] = 10,
    chain: Annotated[str, typer.Option(help="anvil (in Monad's shape) or embedded")] = "anvil",
    out: Out = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Seconds that sealing holds a round up, gas of a commit, and seconds until it is final."""
    from hypergpu_fl.bench.settle import run_settle

    if chain not in ("anvil", "embedded"):
        raise UsageError(f"there is no chain {chain!r} to settle on", "choose anvil or embedded")
    if not all(text.isdigit() and int(text) for text in listed(clients)):
        raise UsageError(f"--clients {clients!r} is not a list of counts", "write --clients 10,1000")
    deliver(run_settle(clients=[int(text) for text in listed(clients)], rounds=rounds, chain=chain), out, format)


@app.command()
def deployment(
    superlink: Annotated[str, typer.Option(help="connection in Flower's configuration")],
    config: ConfigFile = None,
    settings: Overrides = None,
    runs: Runs = None,
    limit_s: Annotated[float, typer.Option(help="longest run")] = 3600.0,
    out: Out = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Seconds to training.target_accuracy through a real SuperLink, ours and Flower's FedAvg on the same nodes."""
    from hypergpu_fl.bench.deployment import run_deployment
    from hypergpu_fl.cli.submission import COMPLETED, app_folder, submit
    from hypergpu_fl.cli.superlink import flower_environment
    from hypergpu_fl.config import Config, environment, load

    effective = load(config, overrides(settings), environment(os.environ)).config
    if not effective.training.target_accuracy:
        raise UsageError("there is no target to reach", "give --set training.target_accuracy=0.9")
    environ = flower_environment(os.environ)

    def train(named: Config, folder: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            submission = submit(named, app=folder, connection=superlink, environ=environ, scratch=Path(scratch))
        until_s = time.monotonic() + limit_s
        status, details = submission.status()
        while not status.startswith("finished"):
            if time.monotonic() > until_s:
                submission.stop()
                raise RunFailed(f"{named.system.run_name} took more than {limit_s:.0f} s", "lower the target")
            time.sleep(5.0)
            status, details = submission.status()
        if status != COMPLETED:
            raise RunFailed(f"{named.system.run_name} ended as {status}: {details}", "see its run.log")

    deliver(run_deployment(effective, app=app_folder(), runs=root_of(runs), train=train), out, format)


def listed(text: str) -> list[str]:
    """Items of a comma-separated option."""
    return [item for item in (part.strip() for part in text.split(",")) if item]


def deliver(rows: Sequence[Mapping[str, Any]], out: Path | None, format: Format) -> None:
    """Write the rows to ``out``, if one is given, and show them.

    Raises
    ------
    UsageError
        If ``out`` cannot be written.
    """
    if out is not None:
        try:
            out.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {out}: {error.strerror}", "give another --json") from None
    render(rows, format)
