"""``hypergpu bench``: named measurements, each in a module of its own that is imported when it is asked for.

The peer is measured in the same process run, and the rows are a list of flat objects.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from hypergpu_fl.cli.options import ConfigFile, Overrides, Runs, overrides, root_of
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import RunFailed, UsageError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Measure against the peers, with the peer in the same process run."
)
Out = Annotated[Path | None, typer.Option("--json", metavar="OUT", help="write the rows to this file as well")]


@app.callback()
def bench() -> None:
    """Measure against the peers, with the peer in the same process run."""


@app.command()
def train(
    models: Annotated[str, typer.Option(help="mlp, simple_cnn, resnet18; comma-separated")] = "mlp,simple_cnn,resnet18",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    steps: Annotated[int, typer.Option(min=1, help="batches a call")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="samples a batch")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="calls of which the median counts")] = 7,
    out: Out = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Samples a second of local training, ours and the plain PyTorch loop on the same tensors.

    Example: hypergpu bench train --models mlp,simple_cnn --device cpu
    """
    from hypergpu_fl.bench.train import SHAPES, run_train

    names = known("model", comma_separated(models), SHAPES)
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
    """Seconds that sealing holds a round up, gas of a commit, and seconds until it is final.

    Example: hypergpu bench settle --chain embedded --clients 10,100
    """
    from hypergpu_fl.bench.settle import run_settle

    if chain not in ("anvil", "embedded"):
        raise UsageError(f"there is no chain {chain!r} to settle on", "choose anvil or embedded")
    deliver(run_settle(clients=counts(clients, "--clients"), rounds=rounds, chain=chain), out, format)


@app.command()
def pay(
    dataset: Annotated[str, typer.Option(help="digits or mnist")] = "digits",
    data_root: Annotated[str, typer.Option(help="where the data set lies")] = "",
    scorings: Annotated[str, typer.Option(help="comma-separated")] = "aumann_shapley,improvement",
    attacks: Annotated[str, typer.Option(help="comma-separated; empty: all, and none")] = "",
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "0,1,2",
    rounds: Annotated[int, typer.Option(min=1, help="rounds a run")] = 20,
    out: Out = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Who is paid: ten nodes against what they really brought, and one that cheats against the honest ones.

    Example: hypergpu bench pay --seeds 0,1 --json pay.json
    """
    from hypergpu_fl.bench.attackers import ATTACKS
    from hypergpu_fl.bench.pay import DATASETS, SCORINGS, run_pay

    rows = run_pay(
        dataset=known("data set", [dataset], DATASETS)[0],
        data_root=data_root,
        scorings=known("scoring", comma_separated(scorings), SCORINGS),
        attacks=known("attack", comma_separated(attacks) or ATTACKS, ATTACKS),
        seeds=counts(seeds, "--seeds"),
        rounds=rounds,
        progress=say,
    )
    deliver(rows, out, format)


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
    """Seconds to training.target_accuracy through a real SuperLink, ours and Flower's FedAvg on the same nodes.

    Example: hypergpu bench deployment --superlink deployed --set training.target_accuracy=0.9
    """
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


@app.command()
def hostile(
    attacks: Annotated[
        str, typer.Option(help="by name, comma-separated; default: each in turn, then all at once")
    ] = "",
    seeds: Annotated[str, typer.Option(help="of data split, links and training; comma-separated")] = "0,1,2,3,4",
    out: Out = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """What three hostile nodes of ten cost a run with default settings, against the honest seven alone.

    A row an attack and seed, then one with the seeds' medians, whose `missed` names the bounds that were not kept:
    accuracy within 1 point, no hostile node above 1.5 times its fair share of weight, 256 MiB, 5 s after a deadline.

    Example: hypergpu bench hostile --attacks claimed_examples,cold_start --seeds 0,1,2 --json hostile.json
    """
    from hypergpu_fl.bench.attacks import ATTACKS, SIGN_FLIP
    from hypergpu_fl.bench.hostile import run_hostile

    named = {attack.name: attack for attack in (*ATTACKS, SIGN_FLIP)}
    chosen = known("attack", comma_separated(attacks) or tuple(named), named)
    rows = run_hostile(seeds=counts(seeds, "--seeds"), attacks=[named[name] for name in chosen], progress=say)
    deliver(rows, out, format)


@app.command("time-to-accuracy")
def time_to_accuracy(
    dataset: Annotated[str, typer.Option(help="digits, mnist, fashion_mnist or cifar10")] = "digits",
    data_root: Annotated[str, typer.Option(help="where the data set lies")] = "",
    links: Annotated[str, typer.Option(help="CSV of a device trace, or a profile's name")] = "silo",
    rtt: Annotated[Path | None, typer.Option(help="CSV of round-trip times, with a device trace")] = None,
    scenario: Annotated[
        str, typer.Option(help="labels independent of links or correlated; comma-separated")
    ] = "independent,correlated",
    nodes: Annotated[int, typer.Option(min=1, help="how many the data are split over")] = 100,
    cohort: Annotated[int, typer.Option(min=1, help="at most 1.3 times as many are ever at work")] = 10,
    alpha: Annotated[float, typer.Option(help="concentration of the Dirichlet partition")] = 0.3,
    payload_mb: Annotated[float, typer.Option(help="size that the model is priced as")] = 45.0,
    target: Annotated[
        float | None, typer.Option(help="accuracy; default: what unbiased FedAvg reaches less 1 point")
    ] = None,
    seeds: Annotated[str, typer.Option(help="of data split, links and training; comma-separated")] = "0,1,2",
    policies: Annotated[str, typer.Option(help="comma-separated; default: all")] = "",
    horizon_s: Annotated[float, typer.Option(help="virtual seconds after which a policy has failed")] = 20_000.0,
    ablation: Annotated[bool, typer.Option("--ablation", help="turn off one lever of ours at a time as well")] = False,
    out: Annotated[
        Path, typer.Option("--json", metavar="OUT", help="rows; a run with the same options goes on")
    ] = Path("time-to-accuracy.json"),
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Virtual seconds until the target accuracy, ours and every peer, over simulated links with real training.

    Example: hypergpu bench time-to-accuracy --dataset digits --links silo --nodes 20 --seeds 0
    """
    from hypergpu_fl.bench.contenders import CONTENDERS
    from hypergpu_fl.bench.time_to_accuracy import Options, run_time_to_accuracy

    options = Options(
        out=out,
        dataset=dataset,
        data_root=data_root,
        links=links,
        rtt=rtt,
        scenarios=comma_separated(scenario),
        nodes=nodes,
        cohort=cohort,
        alpha=alpha,
        payload_mb=payload_mb,
        target=target,
        seeds=counts(seeds, "--seeds"),
        horizon_s=horizon_s,
        ablation=ablation,
        policies=comma_separated(policies) or tuple(CONTENDERS),
    )
    with progress_bar() as progress:
        rows = run_time_to_accuracy(options, progress)
    render(rows, format)


@app.command()
def aggregate(
    nodes: Annotated[str, typer.Option(help="updates to aggregate, comma-separated")] = "10,50",
    megabytes: Annotated[float, typer.Option(help="size of an update as fp32")] = 100.0,
    repeats: Annotated[int, typer.Option(min=1, help="of which the median counts")] = 5,
    out: Out = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Seconds to aggregate, ours, Flower's, and one pass over the memory; and the memory it takes.

    Example: hypergpu bench aggregate --nodes 10 --megabytes 100
    """
    from hypergpu_fl.bench.aggregate import run_aggregate

    rows = run_aggregate(nodes=counts(nodes, "--nodes"), megabytes=megabytes, repeats=repeats, progress=say)
    deliver(rows, out, format)


@app.command()
def select(
    nodes: Annotated[str, typer.Option(help="known nodes, comma-separated")] = "100,1000,10000,100000",
    cohort: Annotated[int, typer.Option(min=1, help="nodes chosen a round")] = 100,
    policy: Annotated[str, typer.Option(help="as network.policy")] = "network_aware",
    repeats: Annotated[int, typer.Option(min=1, help="of which the median counts")] = 15,
    out: Out = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Seconds that a round's decisions take: beliefs, plans of all nodes, and the choice of the cohort.

    Example: hypergpu bench select --nodes 1000,10000
    """
    from hypergpu_fl.bench.select import run_select

    sizes = counts(nodes, "--nodes")
    deliver(run_select(nodes=sizes, cohort=cohort, repeats=repeats, policy_name=policy, progress=say), out, format)


@app.command()
def replay(
    nodes: Annotated[str, typer.Option(help="known nodes, comma-separated")] = "1000",
    cohort: Annotated[int, typer.Option(min=1, help="nodes at work")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="that are played")] = 1_000,
    policy: Annotated[str, typer.Option(help="as network.policy")] = "network_aware",
    out: Out = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Milliseconds of an event, bytes of log an event, and seconds to fold the log of a whole run again.

    Example: hypergpu bench replay --nodes 100 --rounds 50
    """
    from hypergpu_fl.bench.replay import run_replay

    sizes = counts(nodes, "--nodes")
    deliver(run_replay(nodes=sizes, cohort=cohort, rounds=rounds, policy_name=policy, progress=say), out, format)


@app.command()
def codec(
    levels: Annotated[str, typer.Option(help="comma-separated; with --accuracy: of uploads; default: all")] = "",
    data_root: Annotated[str, typer.Option(help="MNIST to train the measured update on; default: digits")] = "",
    repeats: Annotated[int, typer.Option(min=1, help="of which the median counts")] = 9,
    device: Annotated[str, typer.Option(help="where the update lies: cpu or cuda")] = "cpu",
    sources: Annotated[str, typer.Option(help="comma-separated; default: all")] = "",
    values: Annotated[
        int | None,
        typer.Option(min=1, help="values of the noise; default: as many as ResNet-18 has, on cuda 200 million"),
    ] = None,
    accuracy: Annotated[bool, typer.Option("--accuracy", help="paired accuracies instead of speeds")] = False,
    dataset: Annotated[str, typer.Option(help="of --accuracy: digits or mnist")] = "digits",
    seeds: Annotated[str, typer.Option(help="of --accuracy, comma-separated; default: 10 on digits, 5 on MNIST")] = "",
    out: Out = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Ratio and speed of every level on a real update and on noise, or what it costs in accuracy.

    Example: hypergpu bench codec --levels int8,top64 --json codec.json
    """
    from hypergpu_fl.codec import LEVELS

    chosen = known("level", comma_separated(levels) or tuple(LEVELS), LEVELS)
    if accuracy:
        from hypergpu_fl.bench.codec_accuracy import DATASETS, VARIANTS, run_codec_accuracy

        known("data set", [dataset], DATASETS)
        variants = [variant for variant in VARIANTS if variant.up in (None, *chosen)]
        paired = counts(seeds, "--seeds") if seeds else ()
        with progress_bar() as progress:
            rows = run_codec_accuracy(
                dataset=dataset, data_root=data_root, seeds=paired, variants=variants, progress=progress
            )
    else:
        from hypergpu_fl.bench.codec import NOISE_VALUES, SOURCES, run_codec

        if device not in ("cpu", "cuda"):
            raise UsageError(f"there is no device {device!r} to measure", "choose cpu or cuda")
        named = known("source", comma_separated(sources), SOURCES)
        if device == "cpu":
            size = values or NOISE_VALUES
            rows = run_codec(
                levels=chosen, sources=named, data_root=data_root, repeats=repeats, values=size, progress=say
            )
        else:
            from hypergpu_fl.bench import device_codec
            from hypergpu_fl.task.device import resolve_device

            rows = device_codec.run_device_codec(
                resolve_device(device),
                levels=chosen,
                sources=named,
                data_root=data_root,
                repeats=repeats,
                values=values or device_codec.NOISE_VALUES,
                progress=say,
            )
    deliver(rows, out, format)


@contextmanager
def progress_bar() -> Iterator[Callable[[float, str], None]]:
    """A progress bar on standard error, with the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share, label: bar.update(task, completed=share, description=label)


def say(line: str) -> None:
    """Progress goes to standard error, rows to standard output."""
    typer.echo(line, err=True)


def known(kind: str, names: Sequence[str], choices: Collection[str]) -> Sequence[str]:
    """``names`` if all are among ``choices``; else a refusal."""
    if unknown := [name for name in names if name not in choices]:
        raise UsageError(f"there is no {kind} {unknown[0]!r} to measure", f"choose from {', '.join(choices)}")
    return names


def counts(text: str, option: str) -> list[int]:
    """Whole numbers of a comma-separated option."""
    if not comma_separated(text) or not all(item.isdigit() for item in comma_separated(text)):
        raise UsageError(f"{option} {text!r} is not a list of whole numbers", f"write {option} 1,2,3")
    return [int(item) for item in comma_separated(text)]


def comma_separated(text: str) -> list[str]:
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
