"""The Flower Strategy: it moves messages; every decision is a pure function of another module here."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from strategies import wire
from strategies.aggregation import StreamingMean, Update
from strategies.arrivals import Arrivals, Flight, Terms
from strategies.errors import NoNodes, Reason, Refused
from strategies.fleet import Fleet
from strategies.layout import Arrays, Layout, Vector
from strategies.link import LinkSample
from strategies.payload import Payload
from strategies.planning import FleetPlan, Workload, plan
from strategies.selection.policy import SelectionPolicy
from strategies.server_optimizer import ServerOptimizer
from strategies.validation import NormHistory, check_base, check_update
from strategies.weighting import Accounts

log = logging.getLogger(__name__)

MOST_AT_WORK = 1.3  # times the cohort: stragglers of earlier rounds included
KEPT_VERSIONS = 50
PRIOR_SAMPLE_S = 1e-3


@dataclass(frozen=True, slots=True)
class Settings:
    """How rounds are run. ``cohort`` nodes work, ``quota`` (0, 1] of their replies end a round."""

    cohort: int
    quota: float = 0.8
    deadline_s: float = 0.0
    mode: Literal["sync", "async"] = "async"
    epochs: int = 1
    batch_size: int = 32
    codec: str = "auto"
    seed: int = 0
    session: bytes = bytes(32)
    reply_patience: float = 10.0  # a message lives this many deadlines


@dataclass(frozen=True, slots=True)
class Accepted:
    """An update that counted, with its weight in the round's mean."""

    row: int
    node: str
    node_id: int
    round: int
    base: int
    staleness: int
    steps: int
    examples: int
    bytes_up: int
    weight: float
    contribution: Mapping[str, Any]
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RefusedReply:
    """A reply that did not count, and why."""

    row: int
    node: str
    round: int
    reason: Reason
    detail: str


@dataclass(frozen=True)
class RoundOutcome:
    """Everything a closed round leaves behind. Seconds are on the arrivals' clock."""

    round: int
    started_s: float
    ended_s: float
    selected: Sequence[int]
    accepted: Sequence[Accepted]
    refused: Sequence[RefusedReply]
    late: int
    bytes_down: int
    bytes_up: int
    base_hash: bytes
    model_hash: bytes
    model_P: Vector
    buffers: Arrays


class RoundHook(Protocol):
    """What may watch a round: the ledger, the registry, the report."""

    def admit(self, flight: Flight, reply: Message, blob: bytes) -> None:
        """Raise ``Refused`` to keep a reply from counting."""
        ...

    def accepted(self, flight: Flight, reply: Message, update: Update, model_P: Vector) -> None:
        """See an update that will count, and the model it is added to."""
        ...

    def closed(self, outcome: RoundOutcome) -> None:
        """See the round after the model's step."""
        ...


@dataclass
class _Round:
    """The open round's tally."""

    number: int
    started_s: float
    plan: FleetPlan
    base_hash: bytes
    selected: list[int] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    refused: list[RefusedReply] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    late: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    refills: int = 0


class NetworkAware(Strategy):
    """Plans each round from the nodes' links, and weights updates without bias against slow ones.

    Parameters
    ----------
    layout : Layout
        Order and shapes of the model's arrays.
    payload : Payload
        The update codec.
    selection : SelectionPolicy
        Who works.
    optimizer : ServerOptimizer
        How the mean update moves the model.
    settings : Settings
        Cohort, quota, mode, seed.
    hooks : sequence of RoundHook
        Called in this order.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        payload: Payload,
        selection: SelectionPolicy,
        optimizer: ServerOptimizer,
        settings: Settings,
        hooks: Sequence[RoundHook] = (),
    ) -> None:
        self.layout = layout
        self.payload = payload
        self.selection = selection
        self.optimizer = optimizer
        self.settings = settings
        self.hooks = hooks
        self.fleet = Fleet()
        self.accounts = Accounts()
        self.version = 0
        self.first_round = 1
        self.rows: dict[int, int] = {}
        self._node_ids: dict[int, int] = {}
        self._held: dict[int, int] = {}
        self._acknowledged: dict[int, int] = {}
        self._norms = NormHistory()
        self._model_P: Vector = np.zeros(0, dtype=np.float32)
        self._model_hash = b""
        self._buffers: Arrays = {}
        self._grid: Arrivals | None = None
        self._open: _Round | None = None

    def summary(self) -> None:
        """Log the settings, as Flower's strategies do."""
        log.info("NetworkAware: %s, %s", type(self.selection).__name__, self.settings)

    def enrol(self, grid: Arrivals) -> None:
        """Ask every node not seen before who it is: its data, device and address.

        Nodes are enrolled in the order of their partitions, so that rows do not depend on Flower's random ids.
        """
        connected = set(grid.get_node_ids())
        strangers = sorted(connected - self.rows.keys())
        queries = [Message(RecordDict(), dst_node_id=i, message_type=MessageType.QUERY) for i in strangers]
        hellos: list[tuple[int, int, int]] = []
        for reply in grid.send_and_receive(queries, timeout=60.0):
            hello = wire.numbers(reply.content, wire.HELLO) if reply.has_content() else {}
            if hello.keys() >= {wire.PARTITION, wire.EXAMPLES}:
                hellos.append((int(hello[wire.PARTITION]), grid.flight(reply).node_id, int(hello[wire.EXAMPLES])))
        for partition, node_id, examples in sorted(hellos):
            row = self.fleet.enrol(f"node-{partition}", examples=examples, sample_s=self._prior_sample_s())
            self.rows[node_id], self._node_ids[row] = row, node_id
        for node_id, row in self.rows.items():
            self.fleet.online[row] = node_id in connected

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Plan the round, choose who works, and set the terms on which it ends."""
        if not isinstance(grid, Arrivals):
            raise TypeError(f"NetworkAware needs a Grid of strategies.arrivals, got {type(grid).__name__}")
        self._grid = grid
        number = self.first_round + server_round - 1
        if self.version == 0 and not self._model_P.size:
            self.set_model({name: array.numpy() for name, array in arrays.items()})
        self.enrol(grid)
        if not self.fleet.online.any():
            raise NoNodes("no node is connected; start SuperNodes or raise training.num_nodes")
        self._open = _Round(number, grid.now_s, self._plan(), self._model_hash)
        quota = max(1, math.ceil(self.settings.quota * min(self.settings.cohort, len(self.fleet))))
        asynchronous = self.settings.mode == "async"
        grid.terms = Terms(
            quota=quota,
            deadline_s=self._open.plan.deadline_s * (4 if asynchronous else 1),
            refill=self._refill if asynchronous else None,
        )
        limit = self.settings.cohort if asynchronous else math.floor(MOST_AT_WORK * self.settings.cohort)
        return self._assign(min(self.settings.cohort, limit - int(self.fleet.at_work.sum())))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies into the mean as they arrive, then step the model and close the round."""
        open_, grid = self._open, self._grid
        if open_ is None or grid is None:
            raise RuntimeError("aggregate_train was called before configure_train")
        mean = StreamingMean(self.layout.size)
        for reply in replies:
            flight = grid.flight(reply)
            row = self.rows[flight.node_id]
            self.fleet.at_work[row] = False
            try:
                self._fold(open_, mean, flight, row, reply)
            except Refused as refusal:
                log.warning("round %d refused %s: %s", open_.number, self.fleet.names[row], refusal)
                open_.refused.append(
                    RefusedReply(row, self.fleet.names[row], open_.number, refusal.reason, refusal.detail)
                )
        self._close(open_, mean, grid.now_s)
        metrics = MetricRecord({"arrived": len(open_.accepted), "seconds": grid.now_s - open_.started_s})
        return self.arrays(), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluation is the server's, on its own test set."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing to aggregate: no evaluation messages are sent."""
        return None

    def set_model(self, arrays: Arrays) -> None:
        """Start from these arrays, at the current version."""
        self._publish(self.layout.flatten(arrays), self.layout.buffers(arrays))

    def arrays(self) -> ArrayRecord:
        """The global model as Flower's record."""
        restored = self.layout.restore(self._model_P, self._buffers)
        return ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in restored.items()})

    def _publish(self, model_P: Vector, buffers: Arrays) -> None:
        self._model_P, self._buffers = model_P, buffers
        self._model_hash = hashlib.sha256(model_P.data).digest()
        self.payload.publish(self.version, model_P, buffers)

    def _plan(self) -> FleetPlan:
        steps = np.maximum(1, -(-self.fleet.examples // self.settings.batch_size)) * self.settings.epochs
        levels = self.payload.levels
        if self.settings.codec != "auto":
            levels = [level for level in levels if level.name == self.settings.codec]
        workload = Workload(steps, self.settings.batch_size, 4 * self.layout.size)
        return plan(self.fleet, workload, levels, deadline_s=self.settings.deadline_s)

    def _refill(self, now_s: float) -> list[Message]:
        return self._assign(self.settings.cohort - int(self.fleet.at_work.sum()))

    def _assign(self, count: int) -> list[Message]:
        open_ = self._open
        if open_ is None or count <= 0:
            return []
        rng = np.random.default_rng([self.settings.seed, open_.number, open_.refills])
        open_.refills += 1
        available, predicted_s = self.fleet.available(), open_.plan.predicted_s
        rows = self.selection.select(self.fleet, available, predicted_s, cohort=count, round=open_.number, rng=rng)
        return [self._order(open_, int(row)) for row in rows]

    def _order(self, open_: _Round, row: int) -> Message:
        work = open_.plan.of(row)
        sent = self.payload.model_for(self.fleet.names[row], self._held.get(row, -1), work.codec)
        self.fleet.at_work[row] = True
        self.fleet.last_round[row] = open_.number
        self.fleet.selections[row] += 1
        open_.selected.append(row)
        open_.bytes_down += len(sent.blob)
        order = ConfigRecord(
            {
                wire.ROUND: open_.number,
                wire.BASE: self.version,
                wire.VIEW: sent.view,
                wire.LOCAL_STEPS: work.local_steps,
                wire.BATCH_SIZE: work.batch_size,
                wire.CODEC: work.codec,
                wire.DEADLINE_S: work.deadline_s,
                wire.SEED: self.settings.seed,
                wire.SESSION: self.settings.session,
                wire.BASE_MODEL: self._model_hash,
                wire.ACK: self._acknowledged.get(row, -1),
            }
        )
        model = ArrayRecord({wire.BLOB: Array(np.frombuffer(sent.blob, dtype=np.uint8))})
        return Message(
            RecordDict({wire.MODEL: model, wire.PLAN: order}),
            dst_node_id=self._node_ids[row],
            message_type=MessageType.TRAIN,
            ttl=max(60.0, self.settings.reply_patience * work.deadline_s),
        )

    def _fold(self, open_: _Round, mean: StreamingMean, flight: Flight, row: int, reply: Message) -> None:
        if reply.has_error():
            self.fleet.miss(row)
            raise Refused(Reason.ERROR_REPLY, reply.error.reason or f"code {reply.error.code}")
        try:
            metrics = wire.numbers(reply.content, wire.METRICS)
            blob = reply.content.array_records[wire.UPDATE][wire.BLOB].numpy().tobytes()
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(Reason.MALFORMED, f"missing or unreadable record: {error}") from error
        open_.bytes_up += len(blob)
        self._learn(row, reply, flight, metrics)
        base, steps = int(flight.plan[wire.BASE]), max(1, int(flight.plan[wire.LOCAL_STEPS]))
        staleness = check_base(base, current=self.version, oldest=self.version - KEPT_VERSIONS)
        update = self.payload.decode(blob)
        check_update(update, size=self.layout.size, steps=steps, norms=self._norms)
        for hook in self.hooks:
            hook.admit(flight, reply, blob)
        weight = self.accounts.weight(self.fleet, row, staleness=staleness)
        mean.add(update, weight=weight, steps=steps)
        for hook in self.hooks:
            hook.accepted(flight, reply, update, self._model_P)
        round_ = int(flight.plan[wire.ROUND])
        self._held[row], self._acknowledged[row] = base, round_
        open_.late += round_ < open_.number
        open_.weights.append(weight)
        open_.accepted.append(
            Accepted(
                row=row,
                node=self.fleet.names[row],
                node_id=flight.node_id,
                round=round_,
                base=base,
                staleness=staleness,
                steps=steps,
                examples=int(self.fleet.examples[row]),
                bytes_up=len(blob),
                weight=weight,
                contribution=dict(reply.content.config_records.get(wire.CONTRIBUTION, {})),
                metrics=metrics,
            )
        )

    def _learn(self, row: int, reply: Message, flight: Flight, metrics: Mapping[str, float]) -> None:
        """Fold what this round trip showed into the node's row."""
        timing = {**metrics, **wire.numbers(reply.content, wire.TIMING)}
        probed = wire.numbers(reply.content, wire.LINK)

        def rate_bps(size: str, seconds: str) -> float | None:
            taken_s = timing.get(seconds, 0.0)
            return 8 * timing[size] / taken_s if taken_s > 0 else None

        sample = LinkSample(
            rtt_s=timing.get(wire.RTT_S, probed.get(wire.RTT_S)),
            loss=probed.get(wire.LOSS_RATE),
            uplink_bps=rate_bps(wire.BYTES_UP, wire.UPLOAD_S) or probed.get(wire.UPLINK_BPS),
            downlink_bps=rate_bps(wire.BYTES_DOWN, wire.DOWNLOAD_S) or probed.get(wire.DOWNLINK_BPS),
        )
        self.fleet.observe(row, sample)
        if (samples := metrics.get(wire.SAMPLES, 0)) > 0:
            self.fleet.sample_s[row] = timing[wire.COMPUTE_S] / samples
        if (squared := metrics.get(wire.SQUARED_LOSS, -1.0)) >= 0:
            self.fleet.rms_loss[row] = math.sqrt(squared)

    def _close(self, open_: _Round, mean: StreamingMean, now_s: float) -> None:
        normalised = self.accounts.book(self.fleet, [a.row for a in open_.accepted], open_.weights)
        if mean.count:
            self.version += 1
            self._publish(self.optimizer.step(self._model_P, mean.mean()), {**self._buffers, **mean.buffers})
        accepted = [replace(a, weight=w) for a, w in zip(open_.accepted, normalised, strict=True)]
        outcome = RoundOutcome(
            round=open_.number,
            started_s=open_.started_s,
            ended_s=now_s,
            selected=open_.selected,
            accepted=accepted,
            refused=open_.refused,
            late=open_.late,
            bytes_down=open_.bytes_down,
            bytes_up=open_.bytes_up,
            base_hash=open_.base_hash,
            model_hash=self._model_hash,
            model_P=self._model_P,
            buffers=self._buffers,
        )
        for hook in self.hooks:
            hook.closed(outcome)
        self._open = None

    def _prior_sample_s(self) -> float:
        known = self.fleet.sample_s[self.fleet.selections > 0]
        return float(np.median(known)) if known.size else PRIOR_SAMPLE_S
