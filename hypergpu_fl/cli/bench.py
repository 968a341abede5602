"""``hypergpu bench``: named measurements, each in a module of its own that is imported when it is asked for.

The peer is measured in the same process run, and the rows are a list of flat objects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import UsageError

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
