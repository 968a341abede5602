"""Rounds played to the machine alone, with a record of what it was told and what it commanded."""

from __future__ import annotations

from typing import Any

from strategies import lineup
from strategies.planning import Compression
from strategies.round.commands import Command, SendOrder
from strategies.round.events import (
    Answered,
    Ended,
    Evaluated,
    Event,
    Joined,
    Published,
    Reading,
    RoundDue,
    Sent,
)
from strategies.round.lines import event_line, rules_line
from strategies.round.rules import Rules
from strategies.round.state import State
from strategies.round.step import step
from strategies.settings import Settings

LEVELS = (Compression("raw", 1.0), Compression("half", 2.0, 0.9), Compression("thin", 20.0, 0.5))


def rules_of(policy: str = "network_aware", **chosen: Any) -> Rules:
    return lineup.rules(policy, Settings(**{"cohort": 4, **chosen}), model_values=1000, levels=LEVELS)


def reading(order: int, *, norm: float | None = 1.0, loss: float | None = 1.0, elapsed_s: float = 3.0) -> Reading:
    return Reading(
        blob_bytes=500,
        digest=f"{order:064x}",
        norm=norm,
        elapsed_s=elapsed_s,
        bytes_down=4000.0,
        bytes_up=600.0,
        rtt_s=0.1,
        download_s=elapsed_s / 3,
        upload_s=elapsed_s / 3,
        compute_s=elapsed_s / 4,
        samples=64.0,
        loss=loss,
        squared_loss=None if loss is None else loss**2,
    )


class Recorded:
    """A machine whose events and commands are kept, as lines too."""

    def __init__(self, rules: Rules) -> None:
        self.state = State(rules)
        self.commands: list[Command] = []
        line, self._head = rules_line(0, rules, "")
        self.lines = [line]

    def tell(self, event: Event) -> list[Command]:
        _, commands = step(self.state, event)
        line, self._head = event_line(len(self.lines), event, commands, self._head)
        self.lines.append(line)
        self.commands += commands
        return commands


def played(policy: str = "network_aware", *, nodes: int = 8, rounds: int = 6, **chosen: Any) -> Recorded:
    """A run whose nodes answer one after the other."""
    run = Recorded(rules_of(policy, **chosen))
    run.tell(Published(0.0, "00" * 32, 1.0, ()))
    for index in range(nodes):
        run.tell(Joined(0.0, f"node-{index}", 100 + index))
    now_s = 0.0
    for round in range(1, rounds + 1):
        due = run.tell(RoundDue(now_s, round))
        sent = tuple(command.order for command in due if isinstance(command, SendOrder))
        run.tell(Sent(now_s, sent, (4000,) * len(sent)))
        while run.state.open is not None and run.state.open.wanted and run.state.orders:
            order = min(run.state.orders)
            took_s = 1.0 + run.state.orders[order].row % 5
            now_s += took_s / 4
            run.tell(Answered(now_s, order, reading(order, elapsed_s=took_s, loss=1.0 / round)))
        run.tell(Ended(now_s, () if run.state.rules.settings.keep_late else tuple(run.state.orders)))
        if run.state.open is not None:
            run.tell(Published(now_s, f"{round:064x}", 1.0, ()))
        run.tell(Evaluated(now_s, 1.0 / round))
    return run
