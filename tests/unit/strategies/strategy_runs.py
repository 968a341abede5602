"""Whole runs through Flower's own loop: a strategy, an attendant that keeps its rounds, and nodes that train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy
from strategy_grid import LAYOUT, START, Links, NodeGrid, Trainer

from strategies.engine import Engine
from strategies.errors import Reason, Refused
from strategies.lineup import strategy
from strategies.model.payload import RawPayload
from strategies.model.server_optimizer import ServerOptimizer
from strategies.outcome import Attendant, RoundOutcome, Witness
from strategies.settings import Settings


class Diary(Attendant[int], Witness):
    """An attendant that keeps every round."""

    def __init__(self) -> None:
        self.rounds: list[RoundOutcome] = []
        self.refuse: Callable[[int], bool] = lambda node_id: False
        self.alone: Callable[[Any, Any], float | None] = lambda update, model_P: None
        self.loss_of: Callable[[Any], float] | None = None  # of a model's values; None: updates are not kept
        self.updates: list[Any] = []  # of the newest round
        self.measured: list[bool] = []  # of each model that was measured, whether one update alone made it
        self._open = False

    def admit(self, flight: Any, reply: Any) -> int:
        if self.refuse(flight.node_id):
            raise Refused(Reason.NOT_ALLOWED, "not on the list")
        return int(flight.node_id)

    def measure(self, update: Any, model_P: Any) -> float | None:
        return self.alone(update, model_P)

    def added(self, admitted: int, update: Any, model_P: Any, held_out_loss: float | None) -> None:
        assert admitted >= 0 and update.size == model_P.size == LAYOUT.size
        self.updates = [*(self.updates if self._open else []), update]
        self._open = True

    @property
    def witness(self) -> Witness | None:
        return self if self.loss_of else None

    def counted(self, number: int) -> Any:
        return self.updates[number]

    def held_out(self, made: Any, *, alone: bool) -> float:
        assert self.loss_of is not None
        self.measured.append(alone)
        return self.loss_of(made.vector_P if alone else made.average_P)

    def closed(self, outcome: RoundOutcome) -> None:
        self.rounds.append(outcome)
        self._open = False

    @property
    def reasons(self) -> list[Reason]:
        return [refused.reason for outcome in self.rounds for refused in outcome.refused]


def trainers(count: int) -> NodeGrid:
    return NodeGrid({1000 + 7 * i: Trainer(i, examples=32 * (1 + i % 4)) for i in range(count)})


def build(name: str = "network_aware", **settings: Any) -> tuple[Engine, Diary]:
    diary = Diary()
    optimizer = settings.pop("optimizer", ServerOptimizer())
    chosen = Settings(**{"cohort": 5, **settings})
    built = strategy(
        name, layout=LAYOUT, payload=RawPayload(LAYOUT), optimizer=optimizer, settings=chosen, attendant=diary
    )
    return built, diary


def play(engine: Engine, arrivals: Any, rounds: int, evaluate: Any = None) -> None:
    Strategy.start(
        engine,
        arrivals,
        ArrayRecord({name: Array(array) for name, array in START.items()}),
        num_rounds=rounds,
        evaluate_fn=evaluate,
    )


SLOW_BY_FIVE = Links(lambda node, sent_s: 1.0 + (node % 5) ** 2)
