"""A node's health: one state machine on the run's clock, kept in the fleet's columns.

```
sound --failure--> suspect --third failure in a row--> excluded --time is up--> on probation --says who it is--> suspect
  ^-------------------------- an update that counts, whatever the state --------------------------------------------'
```

A suspect is given work like any other node. An excluded node is given nothing and asked nothing, for
``120 s * 2^(n-1)`` at its n-th exclusion in a row, at most an hour. A node that comes back from exclusion is excluded
again at its next failure.

An update that exploded the model harms everybody's work, so one sound update does not make up for it. It adds
``EXPLODED`` to its node's distrust, and each sound update takes one away. A failure that adds to the distrust also
excludes the node if the distrust is then above two explosions' worth. So a node that explodes the model in more than
one of eleven updates is excluded sooner or later, however the sound ones lie between.

A reply refused for what the node sent (``strategies.errors.FOR_CAUSE``) harms nobody's work, but wastes a place.
It adds ``WASTED`` to the distrust. So a node is excluded sooner or later if more than a third of its replies are
refused for cause. An honest node whose training overflows now and then stays far below. Other failures neither add to
distrust nor exclude because of it: a slow link, other nodes' updates or a restarted machine cause them, too.

Silence has two more effects. A silent node rests: our own policy does not try it again for ``2^(n-1)`` times a round's
length after its n-th silence in a row, at most 32 times. A round's length is the unit because a silent node wastes a
place in a round, and rounds take milliseconds or hours; see ``State.usual_round_s``. After three silences in a row a
node counts as unreachable until it answers, see ``Fleet.reachable``.

No other module writes these columns, nor ``online`` and ``misses``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from strategies.fleet.columns import Fleet, Ints

EXCLUDED_AFTER: Final = 3  # failures in a row
EXCLUSION_S: Final = 120.0  # the first time; twice as long each further time
LONGEST_EXCLUSION_S: Final = 3600.0
EXPLODED: Final = 10  # sound updates that make up for an explosion
WASTED: Final = 2  # sound updates that make up for a reply refused for cause
MOST_DISTRUST: Final = EXCLUDED_AFTER * EXPLODED  # so that a node that was mended is trusted again some time
DOUBLINGS: Final = 5  # lead to the longest; a run may fail so often that the power overflows


def came(fleet: Fleet, row: int) -> None:
    """A node that was known before has said who it is."""
    fleet.online[row], fleet.on_probation[row] = True, False


def returned(fleet: Fleet, rows: Sequence[int]) -> None:
    """Nodes are connected again, under the ids they had."""
    fleet.online[list(rows)] = True


def left(fleet: Fleet, rows: Sequence[int]) -> None:
    """Nodes are not connected any more."""
    fleet.online[list(rows)] = False


def unseen(fleet: Fleet) -> None:
    """A new process has seen nobody yet: all must say again who they are."""
    fleet.online[:] = False
    fleet.on_probation[:] = True


def silent(fleet: Fleet, row: int, *, at_s: float, round: int, round_s: float) -> None:
    """A node did not answer in ``round``, and rests; rounds usually last ``round_s``."""
    fleet.rests_until_s[row] = at_s + round_s * 2.0 ** min(int(fleet.misses[row]), DOUBLINGS)
    fleet.misses[row] += 1
    fleet.miss(row, round=round)


def answered(fleet: Fleet, row: int) -> None:
    """A node answered, whatever its answer is worth."""
    fleet.misses[row] = 0
    fleet.rests_until_s[row] = np.nan


def rested(fleet: Fleet, *, at_s: float) -> None:
    """Let those that have rested for long enough be tried again."""
    fleet.rests_until_s[fleet.rests_until_s <= at_s] = np.nan


def succeeded(fleet: Fleet, row: int) -> None:
    """An update of the node counted: whatever was wrong is over, but for distrust not made up for."""
    fleet.failures[row] = 0
    fleet.distrust[row] = max(0, fleet.distrust[row] - 1)
    if not fleet.distrust[row]:
        fleet.exclusions[row] = 0
    fleet.excluded_until_s[row] = np.nan


def exploded(fleet: Fleet, row: int, *, at_s: float) -> float | None:
    """An update of the node exploded the model; returns as ``failed``."""
    return _distrusted(fleet, row, EXPLODED, at_s=at_s)


def wasted(fleet: Fleet, row: int, *, at_s: float) -> float | None:
    """A reply of the node was refused for cause; returns as ``failed``."""
    return _distrusted(fleet, row, WASTED, at_s=at_s)


def failed(fleet: Fleet, row: int, *, at_s: float, distrusted: bool = False) -> float | None:
    """Work of the node failed; until when it is therefore excluded, None if it is not, or was already."""
    fleet.failures[row] += 1
    if (fleet.failures[row] < EXCLUDED_AFTER and not distrusted) or fleet.excluded[row]:
        return None
    length_s = min(LONGEST_EXCLUSION_S, EXCLUSION_S * 2.0 ** min(int(fleet.exclusions[row]), DOUBLINGS))
    fleet.exclusions[row] += 1
    fleet.excluded_until_s[row] = at_s + length_s
    return at_s + length_s


def _distrusted(fleet: Fleet, row: int, more: int, *, at_s: float) -> float | None:
    fleet.distrust[row] = min(MOST_DISTRUST, fleet.distrust[row] + more)
    return failed(fleet, row, at_s=at_s, distrusted=bool(fleet.distrust[row] > 2 * EXPLODED))


def let_out(fleet: Fleet, *, at_s: float) -> Ints:
    """Put those whose time is up on probation; their rows."""
    rows = np.flatnonzero(fleet.excluded_until_s <= at_s)
    fleet.excluded_until_s[rows] = np.nan
    fleet.failures[rows] = EXCLUDED_AFTER - 1
    fleet.on_probation[rows] = True
    return rows
