"""What the server knows of every node: one numpy column a quantity, so that 100,000 nodes cost milliseconds.

Names used here: N = known nodes. A node's row is its index in every column and never changes during a run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.fleet.agreed import FURTHEST_WORK, most_agreed
from strategies.fleet.link import (
    REFERENCE_BPS,
    REFERENCE_RTT_S,
    WINDOW,
    Goodput,
    LinkEstimate,
    LinkSample,
    miss,
    observe,
    quality,
)
from strategies.fleet.prior import PESSIMISM, Spread, believe, effective, faded
from strategies.quantiles import median

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PRIOR_SAMPLE_S = 1e-3
UNREACHABLE_AFTER = 3  # misses in a row; the node then counts as unreachable until it answers again
GUESSES = {
    "rtt_s": Spread(math.log(3 * REFERENCE_RTT_S), 0.7),
    "uplink_bps": Spread(math.log(REFERENCE_BPS), 1.0),
    "downlink_bps": Spread(math.log(2 * REFERENCE_BPS), 1.0),
}

BELIEVED = ("rtt_s", "uplink_bps", "downlink_bps")


def _column(new: float, kind: type = np.float64) -> Any:
    """A field with one value per node, ``new`` for a node that was just enrolled."""
    return field(default_factory=lambda: np.zeros(0, kind), metadata={"new": new})


@dataclass
class Fleet:
    """Columns of all known nodes, in the order of enrolment.

    Given: the examples that the node ``claimed`` when it was enrolled, the ``examples`` it counts for, see ``agree``,
    and whether it is ``online``, that is connected.

    Believed, see ``believe``: ``rtt_s``, ``uplink_bps`` and ``downlink_bps`` (pessimistic), ``delivery``, ``quality``.

    Observed: ``sample_s``, seconds of computing per sample; ``overhead_s``, seconds of a message besides work and
    transfer; ``loss`` and ``rms_loss``, the mean and the root mean square of the sample loss that the node last
    reported, NaN if it never did; ``update_norm`` of its last update.

    Counted: ``last_round`` in which it was sent work, and ``last_seen``, the last round in which it answered, -1 for
    never; the model version ``held`` by it, the base of its last update that counted, and the round ``acknowledged`` of
    that update, -1 for none; ``selections``; ``arrivals``; ``misses`` in a row; ``orders`` sent and not yet answered.

    Health, see ``fleet.health``: ``failures`` in a row, ``distrust`` after harm, ``exclusions`` in a row,
    ``excluded_until_s`` on the run's clock (NaN: not excluded), ``rests_until_s`` likewise, and whether it is
    ``on_probation``, that is until it says again who it is.

    ``owed``: the weight by which it lies behind its data share, see ``weighting.Accounts``.
    """

    names: list[str] = field(default_factory=list)
    row_of: dict[str, int] = field(default_factory=dict)
    links: list[LinkEstimate] = field(default_factory=list)
    priors: dict[str, Spread] = field(default_factory=lambda: dict(GUESSES))
    claimed: Ints = _column(0, np.int64)
    examples: Ints = _column(0, np.int64)
    sample_s: Floats = _column(0.0)
    overhead_s: Floats = _column(0.0)
    rtt_s: Floats = _column(0.0)
    uplink_bps: Floats = _column(0.0)
    downlink_bps: Floats = _column(0.0)
    delivery: Floats = _column(0.0)
    quality: Floats = _column(0.0)
    loss: Floats = _column(np.nan)
    rms_loss: Floats = _column(np.nan)
    update_norm: Floats = _column(np.nan)
    owed: Floats = _column(0.0)
    last_round: Ints = _column(-1, np.int64)
    last_seen: Ints = _column(-1, np.int64)
    held: Ints = _column(-1, np.int64)
    acknowledged: Ints = _column(-1, np.int64)
    selections: Ints = _column(0, np.int64)
    arrivals: Ints = _column(0, np.int64)
    misses: Ints = _column(0, np.int64)
    failures: Ints = _column(0, np.int64)
    distrust: Ints = _column(0, np.int64)
    exclusions: Ints = _column(0, np.int64)
    excluded_until_s: Floats = _column(np.nan)
    rests_until_s: Floats = _column(np.nan)
    online: Bools = _column(True, np.bool_)
    on_probation: Bools = _column(False, np.bool_)
    orders: Ints = _column(0, np.int64)
    _log: dict[str, Floats] = field(default_factory=lambda: {name: np.zeros(0) for name in BELIEVED})
    _noise: dict[str, Floats] = field(default_factory=lambda: {name: np.zeros(0) for name in BELIEVED})
    _samples: dict[str, Floats] = field(default_factory=lambda: {name: np.zeros(0) for name in BELIEVED})
    _loss_rate: Floats = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.names)

    def enrol(self, name: str, *, examples: int, sample_s: float) -> int:
        """Add a node and return its row."""
        return self.enrol_all([name], examples=[examples], sample_s=[sample_s])

    def enrol_all(
        self,
        names: Sequence[str],
        *,
        examples: Sequence[int],
        sample_s: Sequence[float],
        links: Sequence[LinkEstimate] | None = None,
    ) -> int:
        """Add nodes at once and return the row of the first."""
        first, count = len(self), len(names)
        self.names.extend(names)
        self.row_of.update((name, first + index) for index, name in enumerate(names))
        self.links.extend(links or [LinkEstimate()] * count)
        for column, value in COLUMNS.items():
            old = getattr(self, column)
            setattr(self, column, np.concatenate([old, np.full(count, value, dtype=old.dtype)]))
        self.claimed[first:] = self.examples[first:] = examples
        self.sample_s[first:] = sample_s
        for columns in (self._log, self._noise, self._samples):
            for column in BELIEVED:
                columns[column] = np.concatenate([columns[column], np.zeros(count)])
        self._loss_rate = np.concatenate([self._loss_rate, np.zeros(count)])
        if links is None:
            self.delivery[first:] = LinkEstimate().delivery
        else:
            for row in range(first, first + count):
                self._note(row)
        self.believe(0, rows=np.arange(first, first + count))
        return first

    def agree(self, *, most: int, as_claimed: bool) -> None:
        """Set the examples that each node counts for, in weight and in pay: its claim, but at most ``most``.

        Unless claims are believed ``as_claimed``, the connected nodes' claims set a second bound, see
        ``agreed.most_agreed``.
        """
        self.examples[:] = np.minimum(self.claimed, most)
        if not as_claimed:
            cap = most_agreed(self.examples[self.online & (self.claimed > 0)])
            if cap < most:
                self.examples[:] = np.minimum(self.examples, max(1, math.floor(cap * (1 + 1e-9))))

    def to_pass(self, *, most: int, as_claimed: bool) -> Ints:
        """Examples in one pass over each node's data: its claim, but at most ``most``.

        Unless claims are believed ``as_claimed``, also at most ``FURTHEST_WORK`` times the median, because the others
        wait for the work that a node is asked to do. A node that claims more makes less than a whole pass.
        """
        claimed = np.minimum(self.claimed, most)
        typical = claimed[self.online & (self.claimed > 0)]
        if as_claimed or not typical.size:
            return claimed
        return np.minimum(claimed, max(1, math.floor(FURTHEST_WORK * median(typical))))

    def observe(self, row: int, sample: LinkSample, *, round: int = 0) -> None:
        """Fold a delivered round trip of node ``row`` into its link."""
        self.arrivals[row] += 1
        self.probe(row, sample, round=round)

    def probe(self, row: int, sample: LinkSample, *, round: int = 0) -> None:
        """Fold the findings of a probe, which came without work, into node ``row``'s link."""
        self.links[row] = observe(self.links[row], sample)
        self.last_seen[row] = round
        self._note(row)
        self.believe(round, rows=np.array([row]))

    def miss(self, row: int, *, round: int = 0) -> None:
        """Fold an answer of node ``row`` that did not come into its link."""
        self.links[row] = miss(self.links[row])
        self._note(row)
        self.believe(round, rows=np.array([row]))

    def available(self, *, orders: int = 1) -> Ints:
        """Rows that may be given work now, if a node may have ``orders`` orders open."""
        return np.flatnonzero(self.present & (self.orders < orders))

    @property
    def at_work(self) -> Bools:
        """Shape (N,): it has been sent work and has not answered."""
        return self.orders > 0

    @property
    def reachable(self) -> Bools:
        """Shape (N,): connected, and not silent ``UNREACHABLE_AFTER`` times in a row."""
        return self.present & (self.misses < UNREACHABLE_AFTER)

    @property
    def excluded(self) -> Bools:
        """Shape (N,): in quarantine."""
        return ~np.isnan(self.excluded_until_s)

    @property
    def resting(self) -> Bools:
        """Shape (N,): silent when it was last asked, and not yet to be asked again."""
        return ~np.isnan(self.rests_until_s)

    @property
    def present(self) -> Bools:
        """Shape (N,): connected, not excluded, and not on probation."""
        return self.online & ~self.excluded & ~self.on_probation

    @property
    def prior_sample_s(self) -> float:
        """Seconds per sample assumed for a new node: the median of the nodes that have worked."""
        known = self.sample_s[self.arrivals > 0]
        return median(known) if known.size else PRIOR_SAMPLE_S

    def learn_priors(self) -> None:
        """Refit the priors of new nodes to all nodes seen so far."""
        for column, guess in GUESSES.items():
            self.priors[column] = guess.learn(self._log[column][self._samples[column] > 0])

    def believe(self, round: int, *, rows: Ints | slice = slice(None)) -> None:
        """Recompute the believed columns as of ``round``: one standard deviation on the slow side.

        While a node is away, its own estimate fades towards the fleet's prior and its uncertainty grows.
        """
        age = np.maximum(0, round - np.maximum(self.last_seen[rows], 0)).astype(np.float64)
        left = faded(age)
        for column, doubt in (("rtt_s", 0.0), ("uplink_bps", -PESSIMISM), ("downlink_bps", -PESSIMISM)):
            samples = effective(self._samples[column][rows], left, WINDOW)
            own, noise = self._log[column][rows], self._noise[column][rows]
            mean, deviation = believe(self.priors[column], own, noise, samples)
            getattr(self, column)[rows] = np.exp(mean + doubt * deviation)
        self.quality[rows] = quality(
            delivery=self.delivery[rows],
            loss=self._loss_rate[rows],
            rtt_s=self.rtt_s[rows],
            uplink_bps=self.uplink_bps[rows],
        )

    def state(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        columns = {
            name: [None if value != value else value for value in getattr(self, name).tolist()] for name in COLUMNS
        }
        links = [asdict(link) for link in self.links]
        priors = {name: asdict(prior) for name, prior in self.priors.items()}
        return {"names": list(self.names), "columns": columns, "links": links, "priors": priors}

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Fleet:
        """Inverse of ``state``; a ``KeyError`` names a column that another release did not have."""
        fleet, columns = cls(), state["columns"]
        links = [
            LinkEstimate(**{**link, **{way: Goodput(**link[way]) for way in ("uplink", "downlink")}})
            for link in state["links"]
        ]
        if links:
            fleet.enrol_all(state["names"], examples=columns["examples"], sample_s=columns["sample_s"], links=links)
        for name in COLUMNS:
            column = getattr(fleet, name)
            column[:] = [np.nan if value is None else value for value in columns[name]]
        fleet.priors = {name: Spread(**prior) for name, prior in state["priors"].items()}
        return fleet

    def _note(self, row: int) -> None:
        """Copy node ``row``'s link into the columns that ``believe`` reads. The RTT copied is already pessimistic."""
        link = self.links[row]
        for column, value, noise, samples in (
            ("rtt_s", link.pessimistic_rtt_s, 0.1, link.samples),
            ("uplink_bps", link.uplink.bps, link.uplink.deviation, link.uplink.samples),
            ("downlink_bps", link.downlink.bps, link.downlink.deviation, link.downlink.samples),
        ):
            self._log[column][row] = math.log(max(value, 1e-9))
            self._noise[column][row] = noise
            self._samples[column][row] = samples
        self._loss_rate[row], self.delivery[row] = link.loss, link.delivery


# Name of each column -> the value of a node that was just enrolled.
COLUMNS: dict[str, Any] = {each.name: each.metadata["new"] for each in fields(Fleet) if "new" in each.metadata}
