"""A round from its lines in the event log: what each node was sent, what came of it, and what else happened.

The functions are pure: parsed lines go in, see ``strategies.round.lines``, and a round comes out. Unlike ``replay``,
they do not decide anything again but take the log at its word. Seconds are on the run's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypergpu_fl.output import by_number
from strategies.prose import amount

Line = dict[str, Any]


@dataclass(slots=True)
class Work:
    """An order of the round, or a reply in this round to an order of an earlier one.

    ``verdict`` is "working", "counted", "late", "refused", "left" or "dropped", as in ``nodes.csv``; ``reason`` says
    why a reply did not count. Values that were not measured are None.
    """

    order: int
    node: str
    sent_s: float
    verdict: str = "working"
    reason: str = ""
    arrived_s: float | None = None
    steps: int | None = None
    codec: str | None = None
    base: int | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    weight: float | None = None
    staleness: int | None = None
    rtt_s: float | None = None
    download_s: float | None = None
    compute_s: float | None = None
    upload_s: float | None = None
    samples: float | None = None
    train_loss: float | None = None
    norm: float | None = None


@dataclass(frozen=True, slots=True)
class Happening:
    """An event that people want to know of: a refusal, an exclusion, a roll-back, a node that came or went."""

    at_s: float
    round: int
    kind: str
    node: str
    text: str


@dataclass(slots=True)
class Round:
    """A round; ``ended_s`` is None while it is open. The page is sent these names, ``number`` too."""

    number: int
    started_s: float = 0.0
    ended_s: float | None = None
    deadline_s: float | None = None
    loss: float | None = None
    base_model: str = ""
    model: str = ""
    rolled_back: int | None = None
    works: list[Work] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Closed:
    """What a round's last lines tell by themselves."""

    round: int
    started_s: float
    ended_s: float
    loss: float | None
    selected: int
    arrived: int
    late: int
    bytes_up: int
    bytes_down: int
    model: str
    rolled_back: int | None


def closed(lines: Iterable[Line]) -> Closed | None:
    """A round's figures from the line that closes it and the lines after it; None without such a line."""
    end: dict[str, Any] | None = None
    loss = None
    for line in lines:
        event = line.get("event") or {}
        if event.get("kind") == "evaluated":
            loss = event.get("loss")
        end = next((c for c in line.get("commands", ()) if c["kind"] == "close"), end)
    if end is None:
        return None
    return Closed(
        round=end["round"],
        started_s=end["started_s"],
        ended_s=end["ended_s"],
        loss=loss,
        selected=len(end["selected"]),
        arrived=len(end["weights"]),
        late=end["late"],
        bytes_up=end["bytes_up"],
        bytes_down=end["bytes_down"],
        model=end["model"],
        rolled_back=end.get("rolled_back"),
    )


def fold(round: int, lines: Iterable[Line], names: Sequence[str]) -> Round:
    """A round from its lines; ``names`` are the nodes' names by row."""
    done = _Fold(Round(round), names)
    for line in lines:
        event = line.get("event")
        if event is None:
            continue
        done.event(event, line.get("commands", ()))
    done.round.works.sort(key=lambda work: by_number(work.node))
    return done.round


class _Fold:
    """A round while its lines are read."""

    def __init__(self, folded: Round, names: Sequence[str]) -> None:
        self.round = folded
        self._names = names
        self._works: dict[int, Work] = {}
        self._added: list[Work] = []

    def event(self, event: dict[str, Any], commands: Sequence[dict[str, Any]]) -> None:
        kind, at_s = event["kind"], event["at_s"]
        if kind == "sent":
            for order, size in zip(event["orders"], event["bytes"], strict=True):
                if order in self._works:
                    self._works[order].sent_s, self._works[order].bytes_down = at_s, size
        elif kind in ("answered", "failed"):
            self._answered(event, commands)
        elif kind == "ended":
            for order in event["given_up"]:
                if order in self._works:
                    self._works[order].verdict = "dropped"
        elif kind == "evaluated":
            self.round.loss = event.get("loss")
        elif kind == "joined":
            self._tell(at_s, "joined", event["name"], f"said who it is, with {amount(event['examples'], 'example')}")
        elif kind in ("left", "returned"):
            for row in event["rows"]:
                self._tell(at_s, kind, self._name(row), "is not connected" if kind == "left" else "is connected again")
        elif kind == "deserted":
            self._tell(at_s, kind, "", "nobody is left to be given work")
        elif kind == "diverged":
            self._tell(at_s, kind, "", "the step would leave the finite numbers; the model stays as it was")
        elif kind == "resumed":
            self._tell(at_s, kind, "", "the server was started again")
        for command in commands:
            self._command(command, at_s)

    def _command(self, command: dict[str, Any], at_s: float) -> None:
        kind = command["kind"]
        if kind == "open":
            self.round.started_s, self.round.deadline_s = at_s, command.get("deadline_s")
        elif kind == "send":
            self._works[command["order"]] = work = Work(
                order=command["order"],
                node=self._name(command["row"]),
                sent_s=at_s,
                steps=command["local_steps"],
                codec=command["codec"],
                base=command["base"],
            )
            self.round.works.append(work)
        elif kind == "exclude":
            until = f"is given nothing until {command['until_s']:,.0f} s on the run's clock"
            self._tell(at_s, "excluded", self._name(command["row"]), until)
        elif kind == "readmit":
            self._tell(at_s, "readmitted", self._name(command["row"]), "its time is up; it is asked who it is")
        elif kind == "roll back":
            text = f"version {command['to']} is put back as version {command['version']}"
            self._tell(at_s, "rolled back", "", text)
        elif kind == "close":
            self._close(command)

    def _answered(self, event: dict[str, Any], commands: Sequence[dict[str, Any]]) -> None:
        verdict = next((c for c in commands if c["kind"] in ("add", "refuse")), None)
        reading = event.get("reading") or {}
        work = self._works.get(event["order"])
        late = work is None  # the order is of an earlier round
        if work is None:
            if verdict is None:
                return
            sent_s = event["at_s"] - reading.get("elapsed_s", 0.0)
            work = Work(event["order"], self._name(verdict["row"]), sent_s)
            self.round.works.append(work)
        else:
            work.bytes_down = work.bytes_down or int(reading.get("bytes_down") or 0)
        work.arrived_s = event["at_s"]
        work.bytes_up = int(reading.get("blob_bytes") or 0)
        for name in ("rtt_s", "download_s", "compute_s", "upload_s", "samples", "norm"):
            setattr(work, name, reading.get(name))
        work.train_loss = reading.get("loss")
        if verdict is None:
            work.verdict, work.reason = "refused", str(event.get("detail", ""))
        elif verdict["kind"] == "add":
            work.verdict = "late" if late else "counted"
            work.steps, work.staleness, work.weight = verdict["steps"], verdict["staleness"], verdict["weight"]
            self._added.append(work)
        else:
            work.verdict = "left" if verdict["reason"] == "left" else "refused"
            work.reason = ": ".join(filter(None, [verdict["reason"], verdict["detail"]]))
            self._tell(event["at_s"], work.verdict, work.node, work.reason)

    def _close(self, command: dict[str, Any]) -> None:
        self.round.started_s, self.round.ended_s = command["started_s"], command["ended_s"]
        self.round.base_model, self.round.model = command["base_model"], command["model"]
        self.round.rolled_back = command.get("rolled_back")
        for work, weight in zip(self._added, command["weights"], strict=False):
            work.weight = weight

    def _name(self, row: int) -> str:
        return self._names[row] if 0 <= row < len(self._names) else ""  # no such row: an answer without an order

    def _tell(self, at_s: float, kind: str, node: str, text: str) -> None:
        self.round.happenings.append(Happening(at_s, self.round.number, kind, node, text))
