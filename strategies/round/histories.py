"""What is remembered of earlier replies, to recognise odd ones."""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from strategies.errors import Reason, Refused
from strategies.fleet.outliers import LARGEST_Z, ORDINARY_Z, robust_z

NODES = 64  # most recently seen nodes whose norms are remembered
NORMS = 3  # remembered per node
ENOUGH_NODES = 3  # other nodes before an outlier can be recognised
COLD_FACTOR = 10.0
SAME_WITHIN = 1e-6  # of a sketch's largest number
UPDATES = 3  # different ones remembered per node
AT_REST = 1e-3  # of an update: a model that has moved by less has stayed in its place


class NormHistory:
    """Log norms of the nodes' latest updates, whether they counted or not. Each node has one vote, its median.

    So no early entry sets the scale for good. When the model has moved and honest updates change in norm, the new norm
    is ordinary as soon as half of the nodes show it. Updates that are nothing have no vote, see ``is_nothing``: a node
    that has nothing to learn at the moment says nothing of how long the others' updates are.
    """

    def __init__(self) -> None:
        self._logs: dict[int, list[float]] = {}
        self._votes: dict[int, float] = {}  # their medians, which every update asks for

    def length(self, row: int, norm: float, steps: int, *, model_norm: float) -> float:
        """How much of its length an update counts for: 1, or what brings its norm down to an ordinary one.

        Judged by the ``robust_z`` of ``log(norm / sqrt(steps))`` among other nodes'. Beyond 2, the update is shortened
        to 2, so that a few long ones do not outweigh more that are ordinary. Beyond 6, it is refused. A small update
        does no harm. Until enough other nodes are known, an update's norm may be ten times the model's, or 10 for a
        model of norm below 1.
        """
        others = [vote for other, vote in self._votes.items() if other != row]
        if len(others) < ENOUGH_NODES:
            longest = COLD_FACTOR * max(1.0, model_norm)
            if norm > longest:
                raise _outlier(f"norm {norm:.3g}, at first at most {longest:.3g} is taken")
            return 1.0
        z, sigma = robust_z(_log_norm(norm, steps), others)
        if z > LARGEST_Z:
            raise _outlier(f"norm {norm:.3g} after {steps} steps, z-score {z:.1f} > {LARGEST_Z}")
        return math.exp(min(0.0, (ORDINARY_Z - z) * sigma))

    def add(self, row: int, norm: float, steps: int) -> None:
        """Remember a norm."""
        self._logs[row] = [*self._logs.pop(row, []), _log_norm(norm, steps)][-NORMS:]
        self._votes[row] = median(self._logs[row])
        while len(self._logs) > NODES:
            oldest = next(iter(self._logs))
            del self._logs[oldest], self._votes[oldest]

    def state(self) -> dict[str, list[float]]:
        """The remembered logarithms by row, those seen longest ago first."""
        return {str(row): list(logs) for row, logs in self._logs.items()}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Inverse of ``state``."""
        self._logs = {int(row): list(logs) for row, logs in state.items()}
        self._votes = {row: median(logs) for row, logs in self._logs.items()}


@dataclass(frozen=True, slots=True)
class Shown:
    """An update as the machine knows it, and the model that it was trained from.

    ``digest`` is of its bytes. ``sketch`` and ``start`` are of the update's and the model's values, see
    `strategies.model.sketch`. ``round`` is the one in which it was ordered.
    """

    digest: str
    sketch: tuple[float, ...]
    start: tuple[float, ...]
    round: int

    def again(self, before: Shown) -> bool:
        """Whether these are the values of ``before``. The bytes may differ, such as the base in their header."""
        same = SAME_WITHIN * _size(before.sketch)
        return self.digest == before.digest or not _apart(self.sketch, before.sketch, by=same)


class Replays:
    """Recognises one of a node's last ``UPDATES`` updates sent again without work.

    An honest update is a function of the model that it starts from, and of chance. So the same values prove nothing
    where the model has stayed in its place, as at the end of a training that converges. They are suspicious only if

    - the update is more than nothing: what is lost in the model's own last digits teaches nothing and harms nothing;
    - the model has moved since, by a thousandth of the update or more, so that work would have shown it;
    - most other nodes' updates do change. Where a loss is a straight line, the same work from another model gives
      the same update, and that shows in all nodes.

    The model's place counts from the first of equal updates, so it cannot creep away under a node that repeats itself.

    A scaled copy is not recognised, since an honest update may be a multiple of the last. Nor is a copy with noise
    beyond ``SAME_WITHIN``: a node whose every step is on all of its data honestly sends nearly the same update twice,
    so no tolerance separates the two.
    """

    def __init__(self) -> None:
        self._last: dict[int, list[Shown]] = {}  # that counted, by row; rows and updates of longest ago first
        self._repeating: dict[int, int] = {}  # rows whose newest update is one of theirs again, and of which round

    def hear(self, row: int, shown: Shown, *, nothing: bool) -> None:
        """Remember whether an update from ``row`` repeats one of its last, whether it counts or not."""
        self._repeating.pop(row, None)
        alike = [] if nothing else [before for before in self._last.get(row, []) if shown.again(before)]
        if alike and all(_moved(before, shown) for before in alike):
            self._repeating[row] = alike[-1].round

    def check(self, row: int) -> None:
        """Refuse the update that was heard last from ``row`` if it repeats an earlier one and most others' do not."""
        if row not in self._repeating:
            return
        others = [other for other in list(self._last)[-NODES:] if other != row]
        if 2 * len(self._repeating.keys() & set(others)) < len(others):
            round = self._repeating[row]
            raise Refused(Reason.DUPLICATE, f"the same update as in round {round}, though the model has moved")

    def add(self, row: int, shown: Shown) -> None:
        """Remember an update that counted; of equal ones the first."""
        known = self._last.pop(row, [])
        first = next((before for before in known if shown.again(before)), shown)
        self._last[row] = [*(before for before in known if before is not first), first][-UPDATES:]

    def state(self) -> dict[str, Any]:
        """JSON-able; each model once, and sketches packed, since they are saved in every round and of every node."""
        starts = list(dict.fromkeys(each.start for known in self._last.values() for each in known))
        place = {start: number for number, start in enumerate(starts)}
        rows = [
            [row, [[each.digest, _packed(each.sketch), place[each.start], each.round] for each in known]]
            for row, known in self._last.items()
        ]
        return {"starts": list(map(_packed, starts)), "last": rows, "repeating": sorted(self._repeating.items())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state``."""
        starts = list(map(_unpacked, state["starts"]))
        self._last = {
            row: [Shown(digest, _unpacked(sketch), starts[start], round) for digest, sketch, start, round in known]
            for row, known in state["last"]
        }
        self._repeating = dict(state["repeating"])


def is_nothing(norm: float, *, model_norm: float) -> bool:
    """Whether an update is lost in the last digits of the model, whose values have seven."""
    return norm <= SAME_WITHIN * model_norm


def _outlier(found: str) -> Refused:
    return Refused(Reason.NORM_OUTLIER, f"{found}; if many are, lower the learning rate, or scale inputs and targets")


def _moved(before: Shown, shown: Shown) -> bool:
    """Whether the model has moved since, as far as both the model's digits and the update's size can tell."""
    still = max(SAME_WITHIN * _size(before.start), AT_REST * _size(before.sketch))
    return _apart(before.start, shown.start, by=still)


def _apart(left: Sequence[float], right: Sequence[float], *, by: float) -> bool:
    """Whether two numbers of the sketches differ by more than ``by``, or one sketch is missing."""
    if not left or len(left) != len(right):
        return True
    return not all(abs(one - other) <= by for one, other in zip(left, right, strict=True))


def _size(sketch: Sequence[float]) -> float:
    return max(map(abs, sketch), default=0.0)


def _log_norm(norm: float, steps: int) -> float:
    return math.log(max(norm, 1e-30) / math.sqrt(max(1, steps)))


def _packed(sketch: Sequence[float]) -> str:
    return b64encode(np.asarray(sketch, dtype="<f8").tobytes()).decode()


def _unpacked(text: str) -> tuple[float, ...]:
    return tuple(np.frombuffer(b64decode(text), dtype="<f8").tolist())
