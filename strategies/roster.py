"""Which of Flower's nodes is which row of the fleet, and who is there."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message, MessageType, RecordDict

from strategies.arrivals import Arrivals
from strategies.errors import Refused
from strategies.fleet import Bools, Fleet
from strategies.link import LinkSample
from strategies.round.events import Deserted, Event, Joined, Left, Probed, Returned
from strategies.wire import Hello, name_of

log = logging.getLogger(__name__)

ENROL_WITHIN_S = 60.0
INVITATION_S = 120.0
OUTAGE_S = 600.0  # all nodes gone at once is the server's own link down, most likely; the run waits so long for it

Tell = Callable[[Event], None]
Welcome = Callable[[int, int, Hello], None]
Vet = Callable[[Hello], None]


@dataclass
class Roster:
    """Nodes by Flower's ids, which a node may change; rows of the fleet, which it keeps.

    Attributes
    ----------
    rows : dict of int to int
        Row of every Flower id that has answered.
    unfit : dict of int to str
        Why nodes that answered cannot take part, by Flower's id. They are asked again every round.
    node_ids : dict of int to int
        Present Flower id of each connected row.
    """

    rows: dict[int, int] = field(default_factory=dict)
    unfit: dict[int, str] = field(default_factory=dict)
    node_ids: dict[int, int] = field(default_factory=dict)

    def gather(self, grid: Arrivals, fleet: Fleet, *, tell: Tell, vet: Vet, joined: Welcome) -> bool:
        """Enrol whoever is there; with nobody to work, wait for somebody of a fleet that was known. Whether one is.

        ``tell`` is told who came and went, ``joined(row, node_id, hello)`` of every node that said who it is;
        ``vet(hello)`` raises ``Refused`` to keep one from taking part.
        """

        def anybody() -> bool:
            self._enrol(grid, fleet, tell, vet, joined)
            if not fleet.present.any() and fleet.excluded.any():
                tell(Deserted(grid.now_s))
                self._enrol(grid, fleet, tell, vet, joined)
            return bool(fleet.present.any())

        if anybody():
            return True
        wait_s = OUTAGE_S if self.rows else 0.0
        if wait_s:
            log.warning("no node is connected; waiting %.0f s for one", wait_s)
        return grid.until(anybody, within_s=wait_s)

    def why_nobody(self) -> str:
        """Why there is nobody to work."""
        if not self.unfit:
            return "no node is connected; start SuperNodes or raise training.num_nodes"
        (reason, count), *_ = Counter(self.unfit.values()).most_common(1)
        return f"{len(self.unfit)} nodes are connected, and none can take part; {count} of them: {reason}"

    def state(self) -> dict[str, int]:
        """The rows by Flower's ids, JSON-able."""
        return {str(node_id): row for node_id, row in self.rows.items()}

    def restore(self, state: Mapping[str, int]) -> None:
        """Know the nodes of an earlier process again."""
        self.rows.update((int(node_id), row) for node_id, row in state.items())

    def _enrol(self, grid: Arrivals, fleet: Fleet, tell: Tell, vet: Vet, joined: Welcome) -> None:
        """Ask every node not seen before who it is: its data, device, link and address.

        The first round of a process waits for the answers; a node that comes later joins when it has answered, and
        one that hangs holds up nobody. Nodes are enrolled in the order of their partitions, so that rows do not
        depend on Flower's random ids. A node that comes back under another id keeps its row.
        """
        excluded, on_probation = self._ids(fleet.excluded), self._ids(fleet.on_probation)
        connected = set(grid.get_node_ids()) - excluded
        strangers = sorted(connected - (self.rows.keys() - on_probation) - grid.asked())
        queries = [
            Message(RecordDict(), dst_node_id=i, message_type=MessageType.QUERY, ttl=INVITATION_S) for i in strangers
        ]
        hellos: list[tuple[int, int, Hello]] = []
        for node_id, answer in grid.ask(queries, timeout_s=0.0 if self.node_ids else ENROL_WITHIN_S):
            try:
                hello = Hello.read(answer)
                vet(hello)
            except Refused as refusal:
                if self.unfit.get(node_id) != refusal.detail:  # said once
                    log.warning("%s cannot take part: %s", name_of(answer, node_id), refusal.detail)
                    self.unfit[node_id] = refusal.detail
                continue
            self.unfit.pop(node_id, None)
            hellos.append((hello.partition, node_id, hello))
        for _, node_id, hello in sorted(hellos, key=lambda each: each[:2]):
            tell(Joined(grid.now_s, hello.name, hello.examples))
            row = self.rows[node_id] = fleet.row_of[hello.name]
            if hello.link != LinkSample():
                tell(Probed(grid.now_s, row, hello.link))
            joined(row, node_id, hello)
        self.node_ids = {self.rows[node_id]: node_id for node_id in sorted(connected & self.rows.keys())}
        there = np.zeros(len(fleet), np.bool_)
        there[list(self.node_ids)] = True
        if (left := np.flatnonzero(fleet.online & ~there)).size:
            tell(Left(grid.now_s, tuple(left.tolist())))
        if (back := np.flatnonzero(there & ~fleet.online)).size:
            tell(Returned(grid.now_s, tuple(back.tolist())))

    def _ids(self, rows_N: Bools) -> set[int]:
        """Flower's ids of these rows."""
        return {node_id for node_id, row in self.rows.items() if rows_N[row]}
