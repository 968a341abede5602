"""``hypergpu run``: check everything first, submit through Flower, follow, and leave nothing running."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import typer

from hypergpu_fl import guard
from hypergpu_fl.children import free_port
from hypergpu_fl.cli.bundle import app_with_task
from hypergpu_fl.cli.connections import require_connection
from hypergpu_fl.cli.dashboard import beside
from hypergpu_fl.cli.deployed import NewestRound, deploy, not_sent
from hypergpu_fl.cli.endings import check_status, died, interrupted, report_in_its_place
from hypergpu_fl.cli.follow import Tail, worth_showing
from hypergpu_fl.cli.live import on_screen
from hypergpu_fl.cli.options import ConfigFile, Overrides, Runs, overrides, presentable, root_of, unread
from hypergpu_fl.cli.place import folder_of
from hypergpu_fl.cli.preflight import ask_chain, check_before_start
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.cli.resuming import check_unchanged, is_complete, keep, layers_of
from hypergpu_fl.cli.submission import app_folder, gpu_count, simulation_resources, submit
from hypergpu_fl.cli.superlink import LocalSuperLink, require_free
from hypergpu_fl.config import (
    Config,
    Training,
    environment,
    load,
    read_secrets,
    runs_root,
    without_settings,
)
from hypergpu_fl.config.resuming import CHANGEABLE
from hypergpu_fl.errors import ServerDied, UsageError
from hypergpu_fl.files import exclusive
from hypergpu_fl.output import printable
from hypergpu_fl.redaction import redact
from hypergpu_fl.runs import (
    BOOKS_LOCK,
    COMMAND_LOCK,
    checked_name,
    open_run_folder,
    resume_command,
    run_names,
    submitted_to,
)
from strategies.prose import amount

_POLL_S: Final = 30.0  # asking Flower starts a Python process, which slows training; the end of a run is seen at once
_LOOK_S: Final = 0.5
_PREPARED_S: Final = 0.003  # a simulated node: Flower reads the app's pyproject.toml anew for each

RESUME: Final = f"go on with a run from its last checkpoint; it may change {', '.join(CHANGEABLE)}, nothing else"

app = typer.Typer(add_completion=False, help="Check the configuration, then train through Flower.")
Say = Callable[[str], None]


@app.command()
def run(
    config: ConfigFile = None,
    name: Annotated[str, typer.Option(help="name of the run; default: task, or data set and model, and a number")] = "",
    resume: Annotated[str, typer.Option(metavar="RUN", help=RESUME)] = "",
    replace: Annotated[bool, typer.Option("--replace", help="remove a run of the same name first")] = False,
    superlink: Annotated[str, typer.Option(metavar="NAME", help="deployment: a connection in Flower's config")] = "",
    wait_s: Annotated[float, typer.Option(help="with --superlink: seconds for one that does not answer yet")] = 0.0,
    settings: Overrides = None,
    runs: Runs = None,
    app_dir: Annotated[Path | None, typer.Option("--app", help="folder of the Flower app; default: this one")] = None,
    port: Annotated[int, typer.Option(help="port of the local SuperLink; 0: a free one")] = 0,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="show the runs on a page while this one goes")] = False,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Check the configuration, then train through Flower: simulated, or on a deployment with --superlink.

    Example: hypergpu run --config configs/demo.toml --set training.rounds=5
    """
    if resume and (name or replace):
        raise UsageError("--resume goes with neither --name nor --replace", "leave out the one or the others")
    environ = environment(os.environ)
    read_secrets()
    given = overrides(settings)
    resumed = (
        folder_of(resume, runs or runs_root(load(config, given, environ).config.system, environ)) if resume else None
    )
    if resumed and (sent_to := submitted_to(resumed)) and not superlink:
        raise UsageError(
            f"run {resumed.name!r} was sent to the SuperLink {sent_to!r}, where its nodes are",
            f"`{resume_command(resumed)}`",
        )
    loaded = load(layers_of(resumed, config) if resumed else config, given, environ)
    effective = loaded.config
    root = presentable(resumed.parent) if resumed else root_of(runs, effective.system)
    chosen = resumed.name if resumed else name or effective.system.run_name
    if chosen:
        checked_name(chosen)
    effective = _for_this_run(effective, root, chosen, resume=bool(resume), deployed=bool(superlink))
    if resumed:
        check_unchanged(resumed, effective, loaded.origins)
    source = app_folder(app_dir)
    if port and not superlink:
        require_free(port)

    def say(text: str) -> None:
        typer.echo(printable(redact(text)), err=format is Format.JSON)

    newest = NewestRound(say)
    if resumed and not superlink and is_complete(resumed, effective.training):
        say(f"run {chosen} is complete; a larger training.rounds goes on with it")
        show_result(resumed, chosen, format)
        return
    if not resumed and not replace:
        _check_free(root, chosen)  # before the trial, which takes seconds
    if not resumed and (warning := unread(config)):
        typer.echo(warning, err=True)
    if superlink:
        require_connection(superlink, environ)
    else:
        ask_chain(effective)
    with stoppable(), app_with_task(source, effective.training) as bundled:
        if not superlink and sys.stderr.isatty():
            typer.echo(f"trying {effective.training.title} on one batch", err=True)
        check_before_start(effective, root, bundled, deployed=bool(superlink))
        with (
            _run_folder(root, chosen, replace=replace, resume=bool(resume), stem=_stem(effective.training)) as folder,
            beside(folder) if dashboard else contextlib.nullcontext("") as address,
        ):
            chosen = folder.name  # a name that was not given is settled only now, when no other run can take it
            effective = _for_this_run(effective, root, chosen, resume=bool(resume), deployed=bool(superlink))
            keep(folder, effective)
            training = effective.training
            told = f"{amount(training.num_nodes, 'node')}, {amount(training.rounds, 'round')}"
            place = f"where the SuperLink {superlink!r} runs" if superlink else folder
            say(f"run {chosen}: {training.title}, {told} -> {place}")
            if address:
                typer.echo(f"see it at {address}", err=format is Format.JSON)  # whole, with its token
            try:
                if superlink:
                    for warning in not_sent(loaded.origins):
                        say(warning)
                    ended = deploy(effective, bundled, superlink, folder, environ, newest, wait_s=wait_s)
                    check_status(*ended, folder)
                else:
                    live = format is Format.DEFAULT and sys.stdout.isatty()
                    with on_screen(folder, say, live=live) as (note, draw):
                        _simulate(effective, bundled, folder, port or free_port(), environ, note, draw)
            except KeyboardInterrupt as stop:
                if not superlink:  # a deployed run's server writes it where the run's files are
                    report_in_its_place(folder, effective.training)
                raise interrupted(folder, stop, goes_on=bool(superlink)) from None
            except ServerDied as error:
                if not superlink:
                    report_in_its_place(folder, effective.training, failure=error.cause)
                raise
    show_result(folder, chosen, format, newest=newest.line)


def _simulate(
    config: Config,
    app_dir: Path,
    folder: Path,
    port: int,
    environ: Mapping[str, str],
    say: Say,
    draw: Callable[[], None],
) -> None:
    """Run on our own SuperLink, which ends with the run; ``draw`` is called about twice a second."""
    nodes = config.training.num_nodes
    say(f"starting Flower and its simulated nodes{_while_flower_prepares(nodes)}")
    scratch = guard.fresh(folder)
    resources = simulation_resources(nodes, config.system.device, gpus=gpu_count(), cores=os.cpu_count() or 1)
    with contextlib.closing(Tail(folder / (config.system.log_file or "run.log"))) as tail:
        tail.skip()
        with LocalSuperLink(
            scratch, folder.parent, folder / "superlink.log", port, without_settings(environ, config)
        ) as link:
            submission = submit(
                config, app=app_dir, connection="local", environ=link.environ, scratch=scratch, resources=resources
            )
            status, details, started, ask_at_s = "", "", False, time.monotonic() + _POLL_S
            while not status.startswith("finished"):
                time.sleep(_LOOK_S)
                _show(tail, say)
                draw()
                link.require_alive()
                working = link.simulations() > 0
                if (started and not working) or time.monotonic() >= ask_at_s:
                    status, details = submission.status()
                    ask_at_s = time.monotonic() + _POLL_S
                    if started and not working and not status.startswith("finished"):
                        raise died(folder)  # Flower would notice a minute later
                started = started or working
            _show(tail, say)
            check_status(submission, status, details, folder)


def _while_flower_prepares(nodes: int) -> str:
    """How long the first silence will be, if it is one to speak of."""
    minutes = nodes * _PREPARED_S / 60
    return f"; it prepares {nodes:,} of them one by one, which takes about {minutes:.0f} min" if minutes >= 0.5 else ""


def _show(tail: Tail, say: Say) -> None:
    for line in tail.lines():
        if text := worth_showing(line):
            say(text)


def show_result(folder: Path, name: str, format: Format, *, newest: str = "") -> None:
    """Print the final table from ``report.json``; where it is not here, ``newest``, the last round's line."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        report = {}  # on a deployment the report is on the SuperLink's machine
    if format is Format.JSON:
        render({"run": name, "status": "completed", "folder": str(folder), "report": report}, format)
        return
    chain = report.get("chain") or {}
    table: dict[str, Any] = {
        **(report.get("metrics") or {}),
        "loss": report.get("loss"),
        "rounds": report.get("rounds"),
        f"seconds ({report.get('clock', 'wall')} clock)": report.get("seconds"),
        "megabytes up, down": f"{report.get('bytes_up', 0) / 1e6:.3g}, {report.get('bytes_down', 0) / 1e6:.3g}",
    }
    if history := report.get("history"):
        counts = (sum(entry.get(name) or 0 for entry in history) for name in ("arrived", "late", "rejected"))
        table["updates counted, late, refused"] = ", ".join(map(str, counts))
    if steps := (report.get("local_work") or {}).get("steps"):
        said = "{fewest}" if steps["fewest"] == steps["most"] else "{fewest} to {most}, median {median:g}"
        table["local steps a node"] = said.format(**steps)
    if chain.get("kind") == "none":
        table["sealed on"] = "no chain (blockchain.enabled = false); the books are in ledger.json"
    elif chain:
        table["sealed on"] = f"chain {chain.get('chain_id')} ({chain.get('kind')}), contract {chain.get('contract')}"
        table["commits, finalized"] = f"{chain.get('commits')}, {chain.get('finalized')}"
    if report.get("warning"):
        table["warning"] = report["warning"]
    if not report:
        table = {"status": "completed"} | ({"last round": " ".join(newest.split())} if newest else {})
    render(table | {"files": str(folder) if report else "where the SuperLink runs"})


def _stem(training: Training) -> str:
    """Name of a run that was given none, without its number."""
    model = training.model_architecture.rpartition(":")[2]
    stem = training.task.rpartition(":")[2].lower() if training.task else f"{training.dataset}-{model}"
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem)[:48].lstrip("_-") or "run"


def _for_this_run(config: Config, root: Path, name: str, *, resume: bool, deployed: bool) -> Config:
    """The configuration to submit. On a deployment links are measured, not simulated."""
    system = {"runs_dir": str(root), "run_name": name, "resume": resume}
    tree = config.model_dump()
    tree["system"] |= system
    if deployed:
        tree["network"]["enable_simulation"] = False
    return Config.model_validate(tree)


@contextlib.contextmanager
def _run_folder(root: Path, name: str, *, replace: bool, resume: bool, stem: str = "run") -> Iterator[Path]:
    """Folder of the run, locked while the run is at work; without a name, the first free name of ``stem``."""
    if name in run_names(root) and not resume:
        if not replace:
            _check_free(root, name)
        with locked(root / name):
            _check_server_ended(root / name)
            _check_settled(root / name)
            shutil.rmtree(root / name)
    folder = open_run_folder(root, name, stem=stem)
    with locked(folder):
        _check_server_ended(folder)
        yield folder


def _check_free(root: Path, name: str) -> None:
    if name in run_names(root):
        raise UsageError(f"there is a run {name!r} under {root}", "give --replace, --resume or another --name")


def _check_server_ended(folder: Path) -> None:
    """Refuse a run whose server is still at work, as for a while after its command was killed."""
    if (folder / BOOKS_LOCK).is_file():
        at_work = UsageError(
            f"the server of run {folder.name!r} is still at work, though no command follows it",
            "wait until it ends, within two minutes if its command was killed, or find it again with `hypergpu attach`",
        )
        with exclusive(folder / BOOKS_LOCK, at_work):
            pass


def _check_settled(folder: Path) -> None:
    """Refuse to remove a run whose transactions are not final: nodes worked for them."""
    if not (folder / "run.db").is_file():
        return
    from hypergpu_fl.settlement import unsettled

    if waiting := unsettled(folder):
        raise UsageError(
            f"run {folder.name!r} has {waiting} transactions that are not final on its chain",
            "give another --name: the next run with the same key sends them; or delete the folder yourself",
        )


def locked(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Lock a run's folder against other commands; UsageError if another one is at work on it."""
    busy = UsageError(f"run {folder.name!r} is at work in another process", "wait for it, or give --name")
    return exclusive(folder / COMMAND_LOCK, busy)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as Ctrl-C; after the first signal the others are ignored, so that clean-up can finish.

    The KeyboardInterrupt names the signal, except for Ctrl-C.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise KeyboardInterrupt(f"ended by {signal.Signals(number).name}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, stop) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
