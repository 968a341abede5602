"""What happens to a round besides training: claims are checked as they arrive, and a closed round goes through a list.

The order of that list matters twice. The strategy learns the loss before the checkpoint is written, because the
checkpoint holds what follows from the loss. The checkpoint is written before the ledger is sealed: a server that is
killed between the two finds a checkpoint one round ahead of the books, and resumes from the one before. In the other
order, the books would hold a round whose model is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypergpu_fl.network.registry import Registry
from hypergpu_fl.pricing.kept_updates import KeptUpdates
from hypergpu_fl.server.accounting import Accounting, Admitted
from hypergpu_fl.server.enrolment import SameTask
from hypergpu_fl.server.evaluation import Evaluation
from hypergpu_fl.server.local_work import LocalWork
from hypergpu_fl.server.node_rounds import node_rows
from hypergpu_fl.server.report import Report
from hypergpu_fl.server.resumption import Checkpointing
from hypergpu_fl.server.round_tables import RoundTables
from hypergpu_fl.settlement import Settlement
from strategies.arrivals.flight import Flight
from strategies.engine import Engine
from strategies.event_log import EventLog
from strategies.model.aggregation import Update
from strategies.model.layout import Vector
from strategies.outcome import Attendant, RoundOutcome
from strategies.wire import Hello, Reply


@dataclass
class Pipeline(Attendant[Admitted]):
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

    def closed(self, outcome: RoundOutcome) -> None:
        """Evaluate, report, record the nodes, sync the log, checkpoint, price, keep the updates, seal."""
        measured = self.evaluation.of(outcome.average_P, outcome.buffers)
        self.engine.evaluated(measured.loss)
        self.report.closed(outcome, kept=outcome.step is not None and not self.engine.state.exploded)
        self.local_work.closed(outcome)
        self.report.evaluated(measured.loss, measured.metrics)
        self.round_tables.add(outcome.round, measured.metrics, node_rows(outcome))
        self.registry.closed(outcome)
        mark = self.log.sync()
        self.checkpointing.closed(outcome, mark)
        seal = self.accounting.priced(outcome)
        self.kept.closed(outcome.round, self.engine.model)
        self.settlement.seal(replace(seal, log_head=bytes.fromhex(mark.head)))
