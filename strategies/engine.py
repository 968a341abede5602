"""The Flower Strategy: carries messages, vectors and time to the round's machine, and carries out its commands."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from strategies import wire
from strategies.arrivals import Arrivals, Flight, Terms
from strategies.arrivals.flight import has_left
from strategies.collecting import Collecting
from strategies.errors import NoNodes, Reason
from strategies.event_log import EventLog
from strategies.model.global_model import GlobalModel, Part
from strategies.model.layout import Arrays, Layout
from strategies.model.payload import Payload
from strategies.model.robust import aggregator
from strategies.model.server_optimizer import ServerOptimizer
from strategies.model.sketch import model_sketch
from strategies.model.statistics import Statistics
from strategies.outcome import Attendant, Bystander
from strategies.reception import Received, receive
from strategies.roster import Roster
from strategies.round.commands import (
    AddUpdate,
    CloseRound,
    Command,
    KeepBest,
    MeasureSuspects,
    Open,
    Refuse,
    RollBack,
    SendOrder,
    StepModel,
)
from strategies.round.events import (
    Answered,
    Diverged,
    Ended,
    Evaluated,
    Event,
    Failed,
    Measured,
    Published,
    Resumed,
    RoundDue,
    Sent,
)
from strategies.round.rules import Rules
from strategies.round.state import State
from strategies.round.step import finite, step
from strategies.suspicion import suspected

log = logging.getLogger(__name__)


class Engine(Strategy):
    """Carries out over Flower what the machine commands; decides nothing itself.

    Parameters
    ----------
    rules : Rules
        The rules that the machine follows.
    layout : Layout
        Order and shapes of the model's arrays.
    payload : Payload
        The update codec.
    optimizer : ServerOptimizer
        How the mean update moves the model.
    attendant : Attendant, optional
        Checks claims and books rounds.

    Attributes
    ----------
    log : EventLog, optional
        Where events and commands are written.
    state : State
        What the machine knows; only the machine changes it.
    roster : Roster
        Which of Flower's nodes is which row.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        layout: Layout,
        payload: Payload,
        optimizer: ServerOptimizer,
        attendant: Attendant[Any] | None = None,
    ) -> None:
        rules.settings.check_levels(payload.levels)
        self.layout = layout
        self.payload = payload
        self.attendant = attendant or Bystander()
        self.log: EventLog | None = None
        self.state = State(rules)
        self.model = GlobalModel(layout, payload, optimizer, averaging=rules.settings.averaging)
        self.roster = Roster()
        self.first_round = 1
        self._grid: Arrivals | None = None
        self._collecting: Collecting | None = None
        self._parts: list[Part] = []  # of the updates that the newest round added
        self._to_send: list[Message] = []
        self._cut_claims = 0  # nodes that count for fewer examples than they claim, as last logged

    def summary(self) -> None:
        """Log the rules, as Flower's strategies do."""
        log.info("%s", self.state.rules)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Begin the round that the machine plans."""
        if not isinstance(grid, Arrivals):
            raise TypeError(f"Engine needs a Grid of strategies.arrivals, got {type(grid).__name__}")
        self._grid = grid
        if not self.model.hash:
            self.set_model({name: array.numpy() for name, array in arrays.items()})
        if not self.state.versions.model:
            self._published()
        attendant = self.attendant
        session = self.state.rules.settings.session
        if not self.roster.gather(
            grid, self.state.fleet, session=session, tell=self._tell, vet=attendant.vet, joined=attendant.joined
        ):
            raise NoNodes(self.roster.why_nobody())
        self._tell(RoundDue(grid.now_s, self.first_round + server_round - 1))
        if self._collecting is None:
            raise RuntimeError("the machine opened no round")
        self._tell_of_cut_claims()
        grid.terms = Terms(self._collecting.deadline_s, self._wanted, self._outgoing)
        return self._outgoing()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Hand replies to the machine as they arrive, then let it close the round."""
        grid, collecting, open_ = self._grid, self._collecting, self.state.open
        if collecting is None or grid is None or open_ is None:
            raise RuntimeError("aggregate_train was called before configure_train")
        for reply in replies:
            self._take(grid.flight(reply), reply)
        given_up = () if self.state.rules.settings.keep_late else tuple(sorted(grid.cancel()))
        collecting.dropped = [self.state.orders[number].row for number in given_up]
        self._tell(Ended(grid.now_s, given_up))
        metrics = MetricRecord({"arrived": len(collecting.accepted), "seconds": open_.ended_s - open_.started_s})
        return self.arrays(), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluation is the server's, on its own test set."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing to aggregate: no evaluation messages are sent."""
        return None

    def evaluated(self, loss: float) -> None:
        """Report the current model's held-out loss; an exploded model is rolled back before the next round.

        NaN stands for a model that could not be measured. Before the first round, report the fresh model's loss, which
        is what chance gives.
        """
        self._tell(Evaluated(self._now_s, finite(loss)))

    def set_model(self, arrays: Arrays) -> None:
        """Start from these arrays, at the current version."""
        self.model.start(self.layout.flatten(arrays), self.layout.buffers(arrays))

    def arrays(self) -> ArrayRecord:
        """The global model as Flower's record: the average of its versions, if versions are averaged."""
        return self.model.arrays()

    def saved(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that a resumed run needs, between two rounds: JSON-able values, and vectors by name.

        Messages in flight are kept by the arrivals, codec state by the payload and the nodes.
        """
        model, vectors = self.model.state()
        return {"round": self.state.json(), "model": model, "roster": self.roster.state()}, vectors

    def restore(
        self, saved: Mapping[str, Any], vectors: Mapping[str, NDArray[Any]], *, now_s: float, in_flight: bool
    ) -> None:
        """Inverse of ``saved``, before ``start``.

        ``in_flight``: whether the arrivals were restored too. If not, work that was under way is lost and its nodes are
        free. If ``vectors`` lacks the model, the next round begins with a roll-back.
        """
        self.state = State.restored(self.state.rules, saved["round"])
        self.model.restore(saved["model"], vectors)
        self.roster.restore(saved["roster"])
        self.first_round = self.state.round + 1
        self._tell(Resumed(now_s, in_flight, model_lost="model" not in vectors))

    @property
    def _now_s(self) -> float:
        return self._grid.now_s if self._grid is not None else 0.0

    def _wanted(self) -> bool:
        return self.state.open is not None and self.state.open.wanted

    def _tell_of_cut_claims(self) -> None:
        """Log how many nodes count for fewer examples than they claim, whenever the number has grown."""
        fleet = self.state.fleet
        cut = fleet.claimed - fleet.examples
        if (count := int((cut > 0).sum())) > self._cut_claims:
            self._cut_claims, most = count, int(cut.argmax())
            log.info(
                "%d of %d nodes count for fewer examples than they claim, %s for %d of %d; see training.examples",
                *(count, len(fleet), fleet.names[most], fleet.examples[most], fleet.claimed[most]),
            )

    def _outgoing(self) -> Sequence[Message]:
        messages, self._to_send = self._to_send, []
        return messages

    def _tell(self, event: Event, received: Received | None = None) -> None:
        """Give an event to the machine and carry out its commands; ``received`` is the reply it is about."""
        _, commands = step(self.state, event)
        if self.log is not None:
            self.log.append(event, commands)
        orders = [command for command in commands if isinstance(command, SendOrder)]
        for command in commands:
            self._do(command, received)
        if orders:
            self._send(orders)

    def _do(self, command: Command, received: Received | None) -> None:
        match command:
            case Open(deadline_s=deadline_s):
                mean = aggregator(self.state.rules.settings.aggregation, self.layout.size)
                self._parts = []
                self._collecting = Collecting(
                    mean, Statistics(self.layout), float("inf") if deadline_s is None else deadline_s
                )
            case AddUpdate():
                self._add(command, received)
            case Refuse():
                self._refuse(command, received)
            case StepModel(version=version):
                self._step(version)
            case MeasureSuspects():
                rule, most = self.state.rules.settings.aggregation, self.state.held_out.most
                alone, without = suspected(self.model, self.attendant.witness, self._parts, rule=rule, most=most)
                self._tell(Measured(self._now_s, alone, without))
            case KeepBest():
                self.model.keep_best()
            case RollBack(to=to, version=version):
                log.warning(
                    "version %d is put back, %d is given up: its loss exploded, or it cannot be read", to, version - 1
                )
                self.model.roll_back(to=to, version=version)
                self._published()
            case CloseRound():
                self._close(command)

    def _send(self, orders: Sequence[SendOrder]) -> None:
        sizes = []
        for order in orders:
            node_id = self.roster.node_ids[order.row]
            blob = self.payload.model_for(self.state.fleet.names[order.row], order.held, order.downlink)
            settings = self.state.rules.settings
            message = wire.Order(
                round=order.round,
                base=order.base,
                base_model=self.model.hash,
                local_steps=order.local_steps,
                batch_size=order.batch_size,
                codec=order.codec,
                seed=settings.seed,
                session=settings.session,
                ack=order.ack,
                receipt=self.attendant.receipt(node_id),
            ).message(node_id, blob, number=order.order, ttl_s=order.ttl_s)
            self._to_send.append(message)
            sizes.append(len(blob))
            if self._collecting is not None:
                self._collecting.order(order, self.state.fleet.names[order.row], bytes_down=len(blob))
        self._tell(Sent(self._now_s, tuple(order.order for order in orders), tuple(sizes)))

    def _take(self, flight: Flight, reply: Message) -> None:
        if reply.has_error():
            failed = Failed(self._now_s, flight.number, wire.failure_reason(reply), has_left(reply))
            self._tell(failed, Received(flight))
            return
        received = receive(flight, reply, model=self.model, attendant=self.attendant)
        self._tell(Answered(self._now_s, flight.number, received.reading(), received.fault), received)

    def _add(self, command: AddUpdate, received: Received | None) -> None:
        if received is None or received.update is None or self._collecting is None:
            raise RuntimeError(f"there is no update to add for order {command.order}")
        self._collecting.add(command, received, self.state, now_s=self._now_s)
        asked = self._collecting.accepted[-1].steps
        self._parts.append(Part(command.row, command.weight, command.steps, command.length, asked))
        self.attendant.added(received.admitted, received.update, self.model.vector_P, received.held_out_loss)

    def _refuse(self, command: Refuse, received: Received | None) -> None:
        if received is None or self._collecting is None:
            return
        node = self.state.fleet.names[command.row] if command.row >= 0 else "nobody"
        if command.reason is Reason.LEFT:
            log.warning("round %d: %s left before it answered: %s", self.state.round, node, command.detail)
        else:
            log.warning("round %d refused %s: %s: %s", self.state.round, node, command.reason, command.detail)
        self._collecting.refuse(command, received, node, round=self.state.round, now_s=self._now_s)

    def _step(self, version: int) -> None:
        if self._collecting is None:
            raise RuntimeError("there is no mean to step by")
        if self.model.step(self._collecting.mean, self._collecting.statistics, version=version):
            self._published()
        else:
            self._tell(Diverged(self._now_s))

    def _published(self) -> None:
        model = self.model
        self._tell(Published(self._now_s, model.hash.hex(), model.norm, model_sketch(model.vector_P)))

    def _close(self, command: CloseRound) -> None:
        collecting, self._collecting = self._collecting, None
        if collecting is None:
            raise RuntimeError(f"round {command.round} was never opened")
        self.attendant.closed(collecting.outcome(command, self.model))
