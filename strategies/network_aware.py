"""The Flower Strategy: it moves messages; every decision is a pure function of another module here."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from strategies import wire
from strategies.aggregation import Aggregator
from strategies.arrivals import Arrivals, Flight, Terms
from strategies.errors import NoNodes, Reason, Refused
from strategies.fleet import Fleet
from strategies.flight import has_left
from strategies.global_model import GlobalModel
from strategies.layout import Arrays, Layout
from strategies.observation import learn
from strategies.order import Order
from strategies.payload import Payload
from strategies.planning import FleetPlan, Planner, Workload, plan, thinned
from strategies.robust import aggregator
from strategies.rollback import LossWatch
from strategies.roster import Roster
from strategies.round import Accepted, Journey, OpenRound, Ordered, RefusedReply, RoundHook, RoundOutcome
from strategies.selection.policy import Selection, SelectionPolicy
from strategies.server_optimizer import ServerOptimizer
from strategies.settings import Settings
from strategies.validation import Contents, NormHistory, Replays, check_update, decoded, read
from strategies.weighting import Accounts

__all__ = ["Accepted", "NetworkAware", "RefusedReply", "RoundHook", "RoundOutcome", "Settings"]

log = logging.getLogger(__name__)

MOST_AT_WORK = 1.3  # times the cohort: stragglers of earlier rounds included


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
    planner : Planner
        What each node would be asked to do.
    accounts : Accounts, optional
        How much each update counts.

    Attributes
    ----------
    roster : Roster
        Who is there, and who may be given work.
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
        planner: Planner = plan,
        accounts: Accounts | None = None,
    ) -> None:
        self.layout = layout
        self.payload = payload
        self.selection = selection
        self.settings = settings
        self.hooks = hooks
        self.planner = planner
        self.accounts = accounts or Accounts()
        self.fleet = Fleet()
        self.model = GlobalModel(layout, payload, optimizer, averaging=settings.averaging)
        self.first_round = 1
        self.roster = Roster(settings.overhead_s, self._enrolled, self._vet)
        self._norms = NormHistory()
        self._replays = Replays()
        self._train_loss, self._test_loss = LossWatch(), LossWatch()
        self._exploded = False
        self._common_bytes = 0.0  # that a download of the last round carried beyond what its level comes to
        self._grid: Arrivals | None = None
        self._open: OpenRound | None = None
        settings.check_levels(payload.levels)

    def summary(self) -> None:
        """Log the settings, as Flower's strategies do."""
        log.info("NetworkAware: %s, %s", type(self.selection).__name__, self.settings)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Plan the round, choose who works, and set the terms on which it ends."""
        if not isinstance(grid, Arrivals):
            raise TypeError(f"NetworkAware needs a Grid of strategies.arrivals, got {type(grid).__name__}")
        self._grid = grid
        number = self.first_round + server_round - 1
        if not self.model.hash:
            self.set_model({name: array.numpy() for name, array in arrays.items()})
        if not self.roster.gather(grid, self.fleet):
            raise NoNodes(self.roster.why_nobody())
        rolled_back = self._roll_back() if self._exploded else None
        self.fleet.learn_priors()
        self.fleet.believe(number)
        self._open = OpenRound(number, grid.now_s, self._plan(), self.model.hash, rolled_back=rolled_back)
        asynchronous = self.settings.mode == "async"
        selection = self._choose(self._most_at_work if asynchronous else self.settings.cohort)
        quota = max(1, math.ceil(self.settings.quota * min(self.settings.cohort, len(self.fleet)) - 1e-9))
        deadline_s = self._open.plan.deadline_s if selection.deadline_s is None else selection.deadline_s
        grid.terms = Terms(
            quota=quota if asynchronous or selection.quota is None else selection.quota,
            deadline_s=deadline_s * (4 if asynchronous else 1),
            refill=self._refill if asynchronous else None,
        )
        return self._orders(selection)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies into the mean as they arrive, then step the model and close the round."""
        open_, grid = self._open, self._grid
        if open_ is None or grid is None:
            raise RuntimeError("aggregate_train was called before configure_train")
        mean = aggregator(self.settings.aggregation, self.layout.size)
        for reply in replies:
            flight = grid.flight(reply)
            row = self.roster.rows[flight.node_id]
            self.fleet.at_work[row] = False
            journey = Journey.of(flight, reply, grid.now_s)
            try:
                self._fold(open_, mean, flight, row, reply, journey)
            except Refused as refusal:
                log.warning("round %d refused %s: %s", open_.number, self.fleet.names[row], refusal)
                open_.refused.append(
                    RefusedReply(row, self.fleet.names[row], open_.number, refusal.reason, refusal.detail, journey)
                )
        if not self.settings.keep_late:
            open_.dropped = [self.roster.rows[node_id] for node_id in grid.cancel()]
            self.fleet.at_work[open_.dropped] = False
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

    def evaluated(self, loss: float) -> bool:
        """Tell the current model's loss on held-out data; True if it exploded and will be rolled back."""
        self._exploded |= self._test_loss.exploded(loss)
        return self._exploded

    @property
    def version(self) -> int:
        """Of the global model; it grows by one a step."""
        return self.model.version

    def set_model(self, arrays: Arrays) -> None:
        """Start from these arrays, at the current version."""
        self.model.start(self.layout.flatten(arrays), self.layout.buffers(arrays))

    def arrays(self) -> ArrayRecord:
        """The global model as Flower's record: the average of its versions where they are averaged."""
        return self.model.arrays()

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that a resumed run needs, between two rounds: JSON-able values, and vectors by name.

        What is in flight belongs to the arrivals, and codec state to the payload and the nodes.
        """
        model, vectors = self.model.state()
        return {
            "model": model,
            "exploded": self._exploded,
            "common_bytes": self._common_bytes,
            "fleet": self.fleet.state(),
            "accounts": self.accounts.state(),
            "selection": self.selection.state(),
            "rows": {str(node_id): row for node_id, row in self.roster.rows.items()},
            "norms": self._norms.state(),
            "replays": self._replays.state(),
            "train_loss": self._train_loss.state(),
            "test_loss": self._test_loss.state(),
        }, vectors

    def restore(
        self, state: Mapping[str, Any], vectors: Mapping[str, NDArray[Any]], *, next_round: int, in_flight: bool
    ) -> None:
        """Inverse of ``state``, before ``start``.

        ``in_flight``: whether the arrivals were restored too; otherwise the work that was under way is lost, and its
        nodes are free.
        """
        self.first_round, self._exploded = next_round, state["exploded"]
        self._common_bytes = state["common_bytes"]
        self.model.restore(state["model"], vectors)
        self.fleet = Fleet.restored(state["fleet"], round=next_round - 1)
        if not in_flight:
            self.fleet.at_work[:] = False
        self.accounts.restore(state["accounts"])
        self.selection.restore(state["selection"])
        self.roster.restore({int(node_id): row for node_id, row in state["rows"].items()})
        self._norms.restore(state["norms"])
        self._replays.restore(state["replays"])
        self._train_loss.restore(state["train_loss"])
        self._test_loss.restore(state["test_loss"])

    @property
    def _most_at_work(self) -> int:
        return math.floor(MOST_AT_WORK * self.settings.cohort + 1e-9)

    def _enrolled(self, row: int, node_id: int, answer: RecordDict) -> None:
        for hook in self.hooks:
            hook.enrolled(row, node_id, answer)

    def _vet(self, answer: RecordDict) -> None:
        for hook in self.hooks:
            hook.vet(answer)

    def _plan(self) -> FleetPlan:
        settings, levels = self.settings, self.payload.levels
        ratios = {level.name: level.expected_ratio for level in levels}
        if settings.codec != "auto":
            levels = [level for level in levels if level.name == settings.codec]
        model_bytes = round(4 * self.layout.size * settings.byte_scale)
        workload = Workload(
            settings.base_steps(self.fleet.examples),
            settings.batch_size,
            model_bytes,
            self._common_bytes * settings.byte_scale,
            fixed=settings.asks_work,
            within=settings.steps_within,
        )
        return self.planner(
            self.fleet,
            workload,
            levels,
            deadline_s=settings.deadline_s,
            down_ratio=ratios.get(settings.downlink_codec),
        )

    def _choose(self, count: int) -> Selection:
        """Ask the policy for ``count`` nodes, and keep as many of those it names as may still be set to work."""
        open_ = self._open
        room = self._most_at_work - int(self.fleet.at_work.sum())
        if open_ is None or (count := min(count, room)) <= 0:
            return Selection(np.zeros(0, dtype=np.int64))
        rng = np.random.default_rng([self.settings.seed, open_.number, open_.refills])
        open_.refills += 1
        # a second update of the same node against the same model would be the first one over again
        available = self.fleet.available()
        available = available[self.fleet.held[available] < self.version]
        selection = self.selection.select(self.fleet, available, open_.plan, cohort=count, round=open_.number, rng=rng)
        return selection.first(room)

    def _refill(self, now_s: float) -> list[Message]:
        return self._orders(self._choose(self._most_at_work - int(self.fleet.at_work.sum())))

    def _orders(self, selection: Selection) -> list[Message]:
        open_ = self._open
        return [self._order(open_, selection, index) for index in range(selection.rows.size)] if open_ else []

    def _order(self, open_: OpenRound, selection: Selection, index: int) -> Message:
        row = int(selection.rows[index])
        work = open_.plan.of(row)
        steps = work.local_steps
        if selection.local_steps is not None and not self.settings.asks_work:
            steps = int(selection.local_steps[index])
        codec = work.codec
        if selection.keep is not None and selection.keep[index] < 1:
            codec = thinned(self.payload.levels, codec, float(selection.keep[index]))
        down = self.settings.downlink_codec
        sent = self.payload.model_for(
            self.fleet.names[row], int(self.fleet.held[row]), work.codec if down == "auto" else down
        )
        self.fleet.at_work[row] = True
        self.fleet.last_round[row] = open_.number
        self.fleet.selections[row] += 1
        open_.ordered.append(Ordered(row, self.fleet.names[row], steps, codec, len(sent.blob)))
        open_.bytes_down += len(sent.blob)
        open_.bytes_common += len(sent.blob) - 4 * self.layout.size / open_.plan.ratio(row)
        order = Order(
            round=open_.number,
            base=self.version,
            base_model=self.model.hash,
            local_steps=steps,
            batch_size=work.batch_size,
            codec=codec,
            deadline_s=work.deadline_s if selection.deadline_s is None else selection.deadline_s,
            seed=self.settings.seed,
            session=self.settings.session,
            ack=int(self.fleet.acknowledged[row]),
            enclosed=dict(item for hook in self.hooks for item in hook.enclose(self.roster.node_ids[row]).items()),
        )
        return order.message(self.roster.node_ids[row], sent, patience=self.settings.reply_patience)

    def _fold(
        self, open_: OpenRound, mean: Aggregator, flight: Flight, row: int, reply: Message, journey: Journey
    ) -> None:
        if reply.has_error():
            if has_left(reply):
                self.fleet.online[row] = False  # not asked again before it is seen connected, at the next round's start
            else:
                self.fleet.miss(row, round=open_.number)
            self.fleet.held[row] = -1  # whatever it held, it may hold no longer
        contents = read(reply, largest_bytes=4 * self.layout.size)
        open_.bytes_up += len(contents.blob)
        learn(
            self.fleet,
            row,
            reply,
            flight,
            contents.metrics,
            round=open_.number,
            byte_scale=self.settings.byte_scale,
        )
        round_, base = int(flight.plan[wire.ROUND]), int(flight.plan[wire.BASE])
        steps = max(1, int(flight.plan[wire.LOCAL_STEPS]))
        if round_ < open_.number and not self.settings.keep_late:
            raise Refused(Reason.TOO_LATE, f"ordered in round {round_}; late updates are not kept")
        staleness = self.model.staleness(base)
        update = decoded(self.payload.decode, contents.blob)
        norm = check_update(update, size=self.layout.size, buffers=self.model.buffers)
        if self.settings.refuse_outliers:
            self._norms.check(norm, steps, model_norm=self.model.norm)
        self._replays.check(row, contents.blob, norm)
        for hook in self.hooks:
            hook.admit(flight, reply, contents.blob)
        weight = self.accounts.weight(self.fleet, row, staleness=staleness)
        mean.add(update, weight=weight, steps=steps if self.settings.normalise_steps else 1)
        for hook in self.hooks:
            hook.accepted(flight, reply, update, self.model.vector_P)
        self.fleet.update_norm[row] = norm
        self._norms.add(norm, steps)
        self._replays.add(row, contents.blob, round_)
        self.fleet.held[row], self.fleet.acknowledged[row] = base, round_
        open_.late += round_ < open_.number
        open_.weights.append(weight)
        open_.accepted.append(self._accepted(flight, row, contents, staleness, weight, journey))

    def _accepted(
        self, flight: Flight, row: int, contents: Contents, staleness: int, weight: float, journey: Journey
    ) -> Accepted:
        return Accepted(
            row=row,
            node=self.fleet.names[row],
            node_id=flight.node_id,
            round=int(flight.plan[wire.ROUND]),
            base=int(flight.plan[wire.BASE]),
            staleness=staleness,
            steps=max(1, int(flight.plan[wire.LOCAL_STEPS])),
            examples=int(self.fleet.examples[row]),
            bytes_up=len(contents.blob),
            weight=weight,
            contribution=contents.contribution,
            metrics=contents.metrics,
            journey=journey,
        )

    def _close(self, open_: OpenRound, mean: Aggregator, now_s: float) -> None:
        weights = self.accounts.book(self.fleet, [a.row for a in open_.accepted], open_.weights)
        if self._ran_away(open_) or mean.count and not self.model.step(mean):
            open_.rolled_back = self._roll_back()
        self.selection.closed(
            self.fleet,
            round=open_.number,
            selected=np.unique(np.asarray(open_.selected, dtype=np.int64)),
            arrived=np.unique(np.asarray([a.row for a in open_.accepted], dtype=np.int64)),
        )
        if open_.selected:
            self._common_bytes = max(0.0, open_.bytes_common / len(open_.selected))
        outcome = open_.outcome(
            weights,
            ended_s=now_s,
            model_hash=self.model.hash,
            average_P=self.model.average_P,
            buffers=self.model.buffers,
        )
        for hook in self.hooks:
            hook.closed(outcome)
        self._open = None

    def _ran_away(self, open_: OpenRound) -> bool:
        """Whether this round's replies show that the model they trained from has exploded."""
        broken = sum(refused.reason is Reason.NON_FINITE for refused in open_.refused)
        loss = open_.loss()
        return broken > max(1, len(open_.accepted)) or (loss is not None and self._train_loss.exploded(loss))

    def _roll_back(self) -> int | None:
        self._exploded = False
        return self.model.roll_back()
