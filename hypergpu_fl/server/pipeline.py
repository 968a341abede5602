"""What happens to a round besides training: claims are checked as they arrive, and a closed round goes through a list.

The order of that list matters twice. The model is evaluated and priced, and the strategy learns the loss, before the
checkpoint is written, because the checkpoint holds what follows from the loss. The checkpoint is written before the
ledger is sealed: a server that is killed between the two finds a checkpoint one round ahead of the books, and resumes
from the one before. In the other order, the books would hold a round whose model is lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from loguru import logger

from hypergpu_fl.errors import RunFailed, TaskError
from hypergpu_fl.network.registry import Registry
from hypergpu_fl.pricing.kept_updates import KeptUpdates
from hypergpu_fl.server.accounting import Accounting, Admitted
from hypergpu_fl.server.attendance import Attendance
from hypergpu_fl.server.enrolment import SameTask
from hypergpu_fl.server.evaluation import Evaluation
from hypergpu_fl.server.local_work import LocalWork
from hypergpu_fl.server.node_rounds import node_rows
from hypergpu_fl.server.report import Report
from hypergpu_fl.server.resumption import Checkpointing
from hypergpu_fl.server.round_tables import RoundTables
from hypergpu_fl.settlement import Settlement
from hypergpu_fl.task import EvalResult
from strategies.arrivals.flight import Flight
from strategies.engine import Engine
from strategies.event_log import EventLog
from strategies.model.aggregation import Update
from strategies.model.global_model import KeptVersion
from strategies.model.layout import Vector
from strategies.outcome import Attendant, RoundOutcome, Witness
from strategies.wire import Hello, Reply


@dataclass
class Pipeline(Attendant[Admitted], Witness):
    """Attends to the rounds of ``engine``."""

    engine: Engine
    log: EventLog
    same_task: SameTask
    report: Report
    round_tables: RoundTables
    local_work: LocalWork
    registry: Registry
    evaluation: Evaluation
    checkpointing: Checkpointing
    accounting: Accounting
    kept: KeptUpdates
    settlement: Settlement
    attendance: Attendance = field(default_factory=Attendance)

    def vet(self, node_id: int, hello: Hello) -> None:
        """See ``Attendant.vet``."""
        self.same_task.vet(hello)
        self.accounting.vet(node_id, hello)

    def joined(self, row: int, node_id: int, hello: Hello) -> None:
        """See ``Attendant.joined``."""
        self.registry.joined(row, node_id, hello)
        self.accounting.joined(node_id, hello)

    def admit(self, flight: Flight, reply: Reply) -> Admitted:
        """See ``Attendant.admit``."""
        return self.accounting.admit(flight, reply)

    def measure(self, update: Update, model_P: Vector) -> float | None:
        """See ``Attendant.measure``."""
        return self.accounting.measure(update, model_P)

    def added(self, admitted: Admitted, update: Update, model_P: Vector, held_out_loss: float | None) -> None:
        """See ``Attendant.added``."""
        self.accounting.added(admitted, update, model_P, held_out_loss)

    def receipt(self, node_id: int) -> str:
        """See ``Attendant.receipt``."""
        return self.accounting.receipt(node_id)

    @property
    def witness(self) -> Witness:
        """See ``Attendant.witness``."""
        return self

    def counted(self, number: int) -> Update:
        """See ``Witness.counted``."""
        return self.accounting.counted(number)

    def held_out(self, made: KeptVersion, *, alone: bool) -> float:
        """See ``Witness.held_out``: the validation loss, or the loss of the evaluation where both are finite."""
        loss = self.accounting.held_out(made.vector_P, made.buffers)
        if alone or not math.isfinite(loss):
            return loss
        try:
            return self.evaluation.of(made.average_P, made.buffers).loss
        except TaskError:
            return math.nan

    def closed(self, outcome: RoundOutcome) -> None:
        """Evaluate, price, report, record the nodes, sync the log, checkpoint, keep the updates, seal."""
        measured = self._measured(outcome)
        seal, priced = self.accounting.priced(outcome)
        self.engine.evaluated(measured.loss if priced else math.nan)
        self.report.closed(outcome, kept=outcome.step is not None and not self.engine.state.exploded)
        self.local_work.closed(outcome)
        self.report.evaluated(measured.loss, measured.metrics)
        connected = self.engine.roster.connected
        self.attendance.closed({name: row in connected for row, name in enumerate(self.engine.state.fleet.names)})
        self.round_tables.add(outcome.round, measured.metrics, node_rows(outcome))
        self.registry.closed(outcome)
        mark = self.log.sync()
        self.checkpointing.closed(outcome, mark)
        self.kept.closed(outcome.round, self.engine.model)
        self.settlement.seal(replace(seal, log_head=bytes.fromhex(mark.head)))

    def _measured(self, outcome: RoundOutcome) -> EvalResult:
        """Loss and metrics of the round's model; NaN for one that cannot be evaluated, which is then rolled back.

        Raises
        ------
        RunFailed
            If an earlier version cannot be evaluated either, so that no roll-back can help.
        """
        try:
            return self.evaluation.of(outcome.average_P, outcome.buffers)
        except TaskError as error:
            earlier = self.engine.model.best or self.engine.model.good
            if earlier is None:
                raise
            try:
                self.evaluation.of(earlier.average_P, earlier.buffers)
            except TaskError as again:
                raise RunFailed(
                    f"the model of round {outcome.round} cannot be evaluated, nor can version {earlier.version}, so no "
                    f"roll-back helps: {again.cause}",
                    again.remedy,
                ) from again
            logger.warning("the model of round {} cannot be evaluated: {}", outcome.round, error)
            return EvalResult(0, math.nan)
