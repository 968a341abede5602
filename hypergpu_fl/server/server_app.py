"""The ServerApp: builds the parts that the configuration names, joins them, and starts the strategy."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from loguru import logger
from torch import nn

from hypergpu_fl import logs
from hypergpu_fl.codec.kernels import compile_ahead
from hypergpu_fl.codec.payload import CodecPayload
from hypergpu_fl.config import Config, from_run_config, read_secrets, runs_root, to_run_config
from hypergpu_fl.config.resuming import CHANGEABLE, settings_of
from hypergpu_fl.errors import LedgerError
from hypergpu_fl.files import write_whole
from hypergpu_fl.heap import long_lived
from hypergpu_fl.ledger import database
from hypergpu_fl.network.registry import Registry
from hypergpu_fl.network.wan import SimulatedWan
from hypergpu_fl.pricing import PricedRounds, Pricer, scoring_of
from hypergpu_fl.pricing.kept_updates import KeptUpdates
from hypergpu_fl.runs import node_state_folder, open_run_folder
from hypergpu_fl.server.accounting import Accounting, Admitted
from hypergpu_fl.server.best import aim_of
from hypergpu_fl.server.ending import until_heard
from hypergpu_fl.server.enrolment import SameTask
from hypergpu_fl.server.evaluation import Evaluation
from hypergpu_fl.server.local_work import LocalWork, nodes_at_work
from hypergpu_fl.server.no_better import warning_of
from hypergpu_fl.server.node_rounds import Row, as_csv
from hypergpu_fl.server.nothing_counted import failure_of
from hypergpu_fl.server.pipeline import Pipeline
from hypergpu_fl.server.report import Report, write_json
from hypergpu_fl.server.resumption import (
    Checkpointing,
    check_books,
    check_same_task,
    check_unchanged,
    keep_settings,
    resume,
)
from hypergpu_fl.server.round_tables import RoundTables
from hypergpu_fl.server.simulated_compute import SimulatedCompute, flops_per_sample, simulated_links
from hypergpu_fl.server.unfinished import report_ended_by
from hypergpu_fl.server.waiting_for_nodes import wait_for_nodes
from hypergpu_fl.settlement import Settlement
from hypergpu_fl.task import Task, fresh_model, full_identity, hello_identity, layout_of, load_task
from hypergpu_fl.task.check import check_held_out, check_validation
from hypergpu_fl.task.device import resolve_device
from hypergpu_fl.task.source import source_digest
from strategies import lineup
from strategies.arrivals import Arrivals, VirtualArrivals, VirtualLinks, WallArrivals
from strategies.arrivals.hellos import LARGEST_HELLO
from strategies.engine import Engine
from strategies.flower_internals import renew_dead_actors
from strategies.model.layout import Arrays, Layout
from strategies.model.server_optimizer import ServerOptimizer
from strategies.outcome import Attendant
from strategies.planning import FEWEST_STEPS, MOST_STEPS
from strategies.prose import amount
from strategies.settings import Settings

BLOBS, PRICED = "blobs", "priced"  # folders of a run
PREDECESSOR_S = 120.0  # a ServerApp that Flower has given up hears of it when it next reaches the SuperLink
DRAIN_S = 60.0
FLOWER_S = 15.0  # assumed cost of a node's first message: up to 3 s until Flower polls, then Python and torch start

Through = Callable[[VirtualLinks], VirtualLinks]

app = ServerApp()


class TargetReached(Exception):
    """Ends Flower's training loop, which has no other way out, once the model is good enough."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Set up logging and the run's folder, and run."""
    until_heard(grid)
    config = from_run_config(context.run_config, os.environ)
    folder = open_run_folder(runs_root(config.system, dict(os.environ)), config.system.run_name)
    logs.configure(config.system, folder)
    compile_ahead()
    simulated, nodes = config.network.enable_simulation, config.training.num_nodes
    state = node_state_folder(folder.parent, context.run_id, config.system.run_name)  # of simulated nodes
    if simulated:
        shutil.rmtree(state, ignore_errors=True)  # what a start that was killed left there
        renew_dead_actors()
        nodes = wait_for_nodes(grid, nodes, simulated=True)
    config = config.model_copy(
        update={
            "training": config.training.model_copy(update={"num_nodes": nodes}),
            "system": config.system.model_copy(update={"run_name": folder.name}),
        }
    )
    keep_settings(folder, config)
    try:
        run(config, grid, folder, tried=lambda: logs.restore(config.system, folder))
    except BaseException as error:
        report_ended_by(error, folder, config.training)
        raise
    if simulated:
        shutil.rmtree(state, ignore_errors=True)


def run(
    config: Config,
    grid: Grid,
    folder: Path,
    *,
    through: Through = lambda links: links,
    watched: Callable[[Pipeline], Attendant[Admitted]] = lambda own: own,
    tried: Callable[[], None] = lambda: None,
) -> None:
    """Train on the nodes of ``grid`` and write the run's books, checkpoints and report into ``folder``.

    Benchmarks use ``through``, which may change the simulated links, and ``watched``, which may wrap the pipeline in an
    observer. ``tried`` is called when the task has been made and tried, with all that it imports.
    """
    settings = settings_of(config)
    check_unchanged(folder, settings)
    task = load_task(config.training, config.system, simulated=config.network.enable_simulation)
    device = resolve_device(config.system.device)
    model = fresh_model(task, config.training.seed)
    first = task.arrays(model)
    identity = full_identity(task, model)
    check_same_task(folder, identity)
    check_validation(task, model, device=device)
    untrained = check_held_out(task, model, config.training.goal, device=device)  # before a session is paid for
    tried()
    report = Report(config, "virtual" if config.network.enable_simulation else "wall", task.unit)
    settlement = Settlement.open(
        folder,
        config.blockchain,
        read_secrets(),
        salt=run_salt(config),
        rounds=config.training.rounds,
        simulated_keys=config.network.enable_simulation,
        within_s=PREDECESSOR_S if config.system.resume else 0.0,
    )
    books = database.connect(folder / "run.db")
    with ExitStack() as exits:
        exits.callback(books.dispose)
        exits.callback(settlement.close)
        if config.system.resume:
            check_books(folder, settlement.last_round)
        if config.system.resume and settlement.last_round == 0:
            raise LedgerError(
                f"run {folder.name} has no finished round to go on from",
                f"start it again with `hypergpu run --name {folder.name} --replace`",
            )
        strategy = build_strategy(config, layout_of(first, model), session=settlement.session)
        task_file = source_digest(task, config.training.model_architecture)
        began_s, event_log, best = resume(
            folder, strategy, report, settings=settings, task_file=task_file, last_round=settlement.last_round
        )
        exits.enter_context(closing(event_log))
        settlement.check_model(strategy.model.hash, rolled_back=strategy.state.exploded)
        arrivals, compute = open_arrivals(config, grid, strategy, task, start_s=began_s, through=through)
        evaluation = Evaluation(task, model, strategy.layout, device=device)
        round_tables = RoundTables(books, last_round=settlement.last_round)
        local_work = LocalWork(config)
        kept = KeptUpdates(
            folder / BLOBS,
            limit_bytes=round(1e6 * config.blockchain.keep_updates_mb),
            last_round=settlement.last_round,
        )
        if strategy.first_round == 1:
            kept.begin(strategy.layout.flatten(first))
        registry = Registry(books, strategy, clock=registry_clock(arrivals))
        pipeline = Pipeline(
            strategy,
            event_log,
            SameTask(
                hello_identity(task, model, config.training.model_architecture, full=identity),
                shares=config.training.num_nodes,
                sites_own=getattr(task, "site_modules", ()),
            ),
            report,
            round_tables,
            local_work,
            registry,
            evaluation,
            Checkpointing(folder, strategy, report, identity, aim_of(config.training), best),
            open_accounting(config, settlement, strategy, kept, task, model),
            kept,
            settlement,
        )
        strategy.attendant = watched(pipeline)
        if not config.network.enable_simulation and settlement.last_round < config.training.rounds:
            wait_for_nodes(grid, config.training.num_nodes, simulated=False)
        local_work.tell_who()
        with long_lived():
            if strategy.first_round == 1:  # the loss of chance, by which an explosion is recognised
                strategy.evaluated(untrained.loss)
            train(config, first, strategy, arrivals, report)
        registry.ended()
        if not settlement.drain(DRAIN_S):
            logger.warning("not every round is final on chain yet; a later run sends the rest")
        settlement.export_bundle()
        chain = asdict(settlement.status())
        commits = chain.pop("rounds")
        for round_, root in settlement.roots().items():
            report.sealed(round_, root="0x" + root.hex(), **commits.get(round_, {}))
        rows = round_tables.rows()
    conclude(folder, report, strategy, rows, chain=chain, compute=compute)


def conclude(
    folder: Path,
    report: Report,
    strategy: Engine,
    rows: Sequence[Row],
    *,
    chain: dict[str, Any],
    compute: SimulatedCompute | None,
) -> None:
    """Write ``nodes.csv`` and ``report.json``, and warn if the last model is no better than the untrained one.

    Raises
    ------
    RunFailed
        If no update counted, or no round's model was kept.
    """
    failure = failure_of(rows, report.history)
    untrained = strategy.state.held_out.chance
    warning = None if failure else warning_of(report.history, untrained)
    write_whole(folder / "nodes.csv", as_csv(rows))
    document = report.document(
        nodes=len(strategy.state.fleet),
        chain=chain,
        max_abs_drift=strategy.state.accounts.drift(),
        unfit=strategy.roster.excuses(),
        rows=rows,
        status="failed" if failure else "completed",
        failure=failure.cause if failure else None,
        untrained_loss=untrained,
        warning=warning.cause if warning else None,
        compute=compute,
    )
    write_json(folder / "report.json", document)
    if failure:
        raise failure
    if warning:
        logger.warning("{}; {}", warning.cause, warning.remedy)


def train(config: Config, first: Arrays, strategy: Engine, arrivals: Arrivals, report: Report) -> None:
    """Run the remaining rounds, or until the target is reached, from the arrays of the ``first`` model."""
    goal = config.training.goal

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round == 0:
            return None
        entry = report.history[-1]
        figures = {**entry["metrics"], "loss": entry["loss"]}
        if goal is not None and goal.is_reached(figures):
            raise TargetReached
        return MetricRecord(figures)

    fresh = {name: Array(np.asarray(array)) for name, array in first.items()}
    try:
        strategy.start(
            arrivals,
            ArrayRecord(fresh) if strategy.first_round == 1 else strategy.arrays(),
            num_rounds=config.training.rounds - strategy.first_round + 1,
            evaluate_fn=evaluate,
        )
    except TargetReached:
        logger.info("target {} reached", goal)
    else:
        if goal is not None:
            logger.info("target {} not reached in {}", goal, amount(len(report.history), "round"))


def build_strategy(config: Config, layout: Layout, *, session: bytes) -> Engine:
    """The strategy that ``network.policy`` names, as configured."""
    training = config.training
    return lineup.strategy(
        config.network.policy,
        layout=layout,
        payload=CodecPayload(layout),
        optimizer=ServerOptimizer(training.server_optimizer, training.server_learning_rate, training.server_momentum),
        settings=round_settings(config, session=session),
    )


def round_settings(config: Config, *, session: bytes) -> Settings:
    """What the configuration says of a round."""
    training, network = config.training, config.network
    return Settings(
        cohort=nodes_at_work(config),
        quota=network.quota,
        deadline_s=network.deadline_s,
        mode=network.mode,
        epochs=training.epochs,
        batch_size=training.batch_size,
        local_steps=training.fixed_steps,
        steps_within=training.steps_within or (FEWEST_STEPS, MOST_STEPS),
        codec=network.codec,
        downlink_codec=network.downlink_codec,
        max_examples=config.blockchain.max_examples,
        examples=training.examples,
        aggregation=training.aggregation,
        seed=training.seed,
        session=session,
        overhead_s=0.0 if network.enable_simulation else FLOWER_S,
    )


def open_arrivals(
    config: Config, grid: Grid, strategy: Engine, task: Task, *, start_s: float, through: Through
) -> tuple[Arrivals, SimulatedCompute | None]:
    """Virtual clock and simulated links and processors in simulation, else the wall clock."""
    if not config.network.enable_simulation:
        largest = 4 * strategy.layout.size + LARGEST_HELLO  # what surrounds an update is no larger than a hello
        return WallArrivals(grid, start_s=start_s, largest_bytes=largest), None

    def flops() -> float | None:
        return flops_per_sample(task, fresh_model(task, config.training.seed), config.training.num_nodes)

    links, compute = simulated_links(config, flops)
    compute.tell()
    wan = SimulatedWan(links, strategy.roster.rows.get, seed=config.training.seed)
    return VirtualArrivals(grid, through(wan), start_s=start_s), compute


def open_accounting(
    config: Config, settlement: Settlement, strategy: Engine, kept: KeptUpdates, task: Task, model: nn.Module
) -> Accounting:
    """Accounting with the configured scoring; pricing overwrites ``model``."""
    settings = config.blockchain
    pricer = Pricer(
        task,
        model,
        strategy.layout,
        device=resolve_device(config.system.device),
        scoring=scoring_of(settings.scoring, chain=settings.enabled),
        max_examples=settings.max_examples,
        seed=config.training.seed,
        blobs=kept.open,
        rounds=PricedRounds(settlement.run_dir / PRICED, last_round=settlement.last_round),
        decode=strategy.payload.decode,
    )
    allowed = [address for address in settings.allow_list.split(",") if address]
    return Accounting(settlement, pricer, allowed=allowed)


def registry_clock(arrivals: Arrivals) -> Callable[[], float]:
    """Seconds since the epoch. In simulation they follow virtual time, so that a quarantine ends in virtual time."""
    if not isinstance(arrivals, VirtualArrivals):
        return time.time
    began_s = time.time() - arrivals.now_s
    return lambda: began_s + arrivals.now_s


def run_salt(config: Config) -> bytes:
    """32 bytes that identify this run among the coordinator's: what is trained and how, but not where or how long."""
    settings = {
        key: value
        for key, value in to_run_config(config).items()
        if not key.startswith("system.") and key not in CHANGEABLE
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()
