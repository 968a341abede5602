"""A run's models recomputed: every sealed update enters again, with the weight from the log and the same arithmetic.

The log's commands say which updates entered which round, in which order and with which weight. The ledger says who sent
them, and their hashes. The updates are kept under those hashes. So all models follow from the first one, bit by bit on
machines that round alike, and a difference names the first round that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from hypergpu_fl.errors import LedgerError, VerificationError
from hypergpu_fl.ledger.blobs import Blobs
from hypergpu_fl.ledger.bundle import ContributionRecord, RoundRecord
from hypergpu_fl.ledger.contribution import WEIGHT_UNIT
from strategies.errors import BadLine, Refused
from strategies.model.aggregation import Aggregator, Update
from strategies.model.global_model import GlobalModel, ModelStep
from strategies.model.layout import Arrays, Layout, Vector
from strategies.model.payload import RawPayload
from strategies.model.robust import aggregator
from strategies.model.server_optimizer import ServerOptimizer
from strategies.model.statistics import Statistics
from strategies.prose import amount
from strategies.round.lines import read_line
from strategies.round.rules import Rules

REMEDY = "the coordinator's books do not follow from the updates; ask for its account, and do not rely on them"


class Decoding(Protocol):
    """Decodes kept updates."""

    def decode(self, blob: bytes) -> Update:
        """The update in ``blob``. Raises ``Refused`` for bytes that are not one."""
        ...


@dataclass(frozen=True, slots=True)
class Folded:
    """A round as recomputed: its updates as they entered, its step, and the model's buffers after it."""

    record: RoundRecord
    updates: Sequence[tuple[ContributionRecord, bytes, Update]]
    steps: Sequence[int]
    weights: Sequence[float]
    base_P: Vector
    base_hash: bytes
    step: ModelStep | None
    buffers: Arrays


@dataclass(frozen=True, slots=True)
class KeptModel:
    """The model's whole state after a round, as `GlobalModel.state` returns it. Only the model's values are sealed."""

    after_round: int
    state: dict[str, Any]
    vectors: dict[str, NDArray[Any]]


class _Unread(RawPayload):
    """A payload for a run without nodes."""

    def publish(self, version: int, model_P: Vector, buffers: Arrays) -> None:
        """Encode nothing: nobody is sent a model."""


def fold(
    lines: Iterable[bytes],
    records: Sequence[RoundRecord],
    blobs: Callable[[int], Blobs],
    codec: Decoding,
    *,
    layout: Layout,
    first_P: Vector,
    buffers: Arrays,
    optimizer: ServerOptimizer,
    kept: KeptModel | None = None,
) -> Iterator[Folded]:
    """Recompute round after round, and yield each round whose model equals the sealed one.

    With ``kept``, begin there instead of at the first model, and skip the rounds up to it.

    Raises
    ------
    VerificationError
        At the first difference; names the round.
    """
    model: GlobalModel | None = None
    rules: Rules | None = None
    open_: _Open | None = None
    passed = kept.after_round if kept else 0
    asked: dict[int, int] = {}  # local steps by order
    remaining = iter(records[passed:])
    for command in _commands(lines):
        if isinstance(command, Rules):
            rules = command
            if model is None:
                model = GlobalModel(layout, _Unread(layout), optimizer, averaging=rules.settings.averaging)
                model.start(first_P, buffers)
                if kept is not None:
                    _restore(model, kept, records[passed - 1])
            continue
        if model is None or rules is None:
            raise VerificationError("the event log begins without its rules", REMEDY)
        kind = command["kind"]
        if kind == "send":
            asked[command["order"]] = command["local_steps"]
        if passed:
            passed = 0 if kind == "close" and command["round"] == passed else passed
            continue
        if kind == "roll back":
            model.roll_back(to=command["to"], version=command["version"])
        elif kind == "keep":
            model.keep_best()
        elif kind == "open":
            record = next(remaining, None)
            if record is None:
                return
            if record.round != command["round"]:
                raise VerificationError(f"round {record.round}: the log opens round {command['round']} here", REMEDY)
            mean = aggregator(rules.settings.aggregation, layout.size)
            open_ = _Open(record, mean, Statistics(layout), [], [], model.vector_P, model.hash)
        elif open_ is None:
            continue
        elif kind == "add":
            open_.add(command, blobs(open_.record.round), codec, asked=asked.pop(command["order"], 1))
        elif kind == "step":
            model.step(open_.mean, open_.statistics, version=command["version"])
        elif kind == "close":
            yield open_.closed(command, model)
            open_ = None
    if (left := next(remaining, None)) is not None:
        raise VerificationError(f"round {left.round}: the log does not reach it", REMEDY)


def _restore(model: GlobalModel, kept: KeptModel, record: RoundRecord) -> None:
    try:
        model.restore(kept.state, kept.vectors)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(f"the model kept of round {record.round} is none: {error}", REMEDY) from None
    if model.hash != record.model:
        raise VerificationError(f"the model kept of round {record.round} is not the one it seals", REMEDY)


@dataclass
class _Open:
    record: RoundRecord
    mean: Aggregator
    statistics: Statistics
    updates: list[tuple[ContributionRecord, bytes, Update]]
    steps: list[int]
    base_P: Vector
    base_hash: bytes

    def add(self, command: dict[str, Any], blobs: Blobs, codec: Decoding, *, asked: int) -> None:
        round, place = self.record.round, len(self.updates)
        if place >= len(self.record.contributions):
            raise VerificationError(f"round {round}: the log added an update that the books leave out", REMEDY)
        entry = self.record.contributions[place]
        try:
            blob = blobs.get(entry.update_hash)
            update = codec.decode(blob)
        except (LedgerError, Refused) as error:
            raise VerificationError(f"round {round}: the update of {entry.node}: {error}", REMEDY) from None
        self.mean.add(update, weight=command["weight"], steps=command["steps"], length=command["length"])
        self.statistics.add(update, node=command["row"], steps=asked)
        self.steps.append(asked)
        self.updates.append((entry, blob, update))

    def closed(self, command: dict[str, Any], model: GlobalModel) -> Folded:
        record, round_ = self.record, self.record.round
        if len(record.contributions) != len(self.updates):
            raise VerificationError(
                f"round {round_}: the books hold {amount(len(record.contributions), 'contribution')}, the mean "
                f"{len(self.updates)}",
                REMEDY,
            )
        weights = [float(weight) for weight in command["weights"]]
        for entry, weight in zip(record.contributions, weights, strict=True):
            if entry.weight != round(weight * WEIGHT_UNIT):
                raise VerificationError(
                    f"round {round_}: {entry.node} is sealed with weight {entry.weight}, the log gave it "
                    f"{round(weight * WEIGHT_UNIT)}",
                    REMEDY,
                )
        if model.hash != record.model:
            raise VerificationError(
                f"round {round_}: its updates lead to model 0x{model.hash.hex()}, sealed is 0x{record.model.hex()}",
                REMEDY,
            )
        step = model.take_step() if self.updates else None
        return Folded(record, self.updates, self.steps, weights, self.base_P, self.base_hash, step, model.buffers)


def _commands(lines: Iterable[bytes]) -> Iterator[Rules | dict[str, Any]]:
    before = ""
    for text in lines:
        if not text.endswith(b"\n"):
            return  # cut off while it was written; no round seals it
        try:
            line = read_line(text.rstrip(b"\n"), before)
        except BadLine as error:
            raise VerificationError(f"the event log: {error}", REMEDY) from error
        before = line.hash
        if isinstance(line.content, Rules):
            yield line.content
        yield from line.commands
