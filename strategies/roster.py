"""Which of Flower's nodes is which row of the fleet, and who may be given work."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from flwr.app import Message, MessageType, RecordDict

from strategies import wire
from strategies.arrivals import Arrivals
from strategies.fleet import Fleet
from strategies.observation import learn_probe

log = logging.getLogger(__name__)

ENROL_WITHIN_S = 60.0
INVITATION_S = 120.0
OUTAGE_S = 600.0  # all nodes gone at once is the server's own link down, most likely; the run waits so long for it

Enrolled = Callable[[int, int, RecordDict], None]


@dataclass
class Roster:
    """Nodes by Flower's ids, which a node may change; rows of the fleet, which it keeps.

    ``overhead_s``: see ``Settings``. ``enrolled(row, node_id, answer)`` is told of every node that said who it is.

    Attributes
    ----------
    rows : dict of int to int
        Row of every Flower id that has answered.
    excluded : set of int
        Flower ids of nodes that are given nothing and asked nothing; for a hook to decide.
    on_probation : set of int
        Flower ids of known nodes that must answer a query before they are given work again.
    """

    overhead_s: float
    enrolled: Enrolled
    rows: dict[int, int] = field(default_factory=dict)
    excluded: set[int] = field(default_factory=set)
    on_probation: set[int] = field(default_factory=set)
    node_ids: dict[int, int] = field(default_factory=dict)  # present id of each connected row

    def gather(self, grid: Arrivals, fleet: Fleet) -> bool:
        """Enrol whoever is there; with nobody to work, wait for somebody of a fleet that was known. Whether one is."""
        if self._anybody(grid, fleet):
            return True
        wait_s = OUTAGE_S if self.rows else 0.0
        if wait_s:
            log.warning("no node is connected; waiting %.0f s for one", wait_s)
        return grid.until(lambda: self._anybody(grid, fleet), within_s=wait_s)

    def restore(self, rows: dict[int, int]) -> None:
        """Know the nodes of an earlier process again; who kept its id still has to say that it is there."""
        self.rows.update(rows)
        self.on_probation.update(self.rows)

    def _anybody(self, grid: Arrivals, fleet: Fleet) -> bool:
        """Enrol, and tell whether there is anybody to work. With nobody else left, those shut out are asked again."""
        self._enrol(grid, fleet)
        if not fleet.online.any() and self.excluded:
            self.on_probation |= self.excluded
            self.excluded.clear()
            self._enrol(grid, fleet)
        return bool(fleet.online.any())

    def _enrol(self, grid: Arrivals, fleet: Fleet) -> None:
        """Ask every node not seen before who it is: its data, device, link and address.

        The first round of a process waits for the answers; a node that comes later joins when it has answered, and
        one that hangs holds up nobody. Nodes are enrolled in the order of their partitions, so that rows do not
        depend on Flower's random ids. A node that comes back under another id keeps its row.
        """
        connected = set(grid.get_node_ids()) - self.excluded
        strangers = sorted(connected - (self.rows.keys() - self.on_probation) - grid.asked())
        queries = [
            Message(RecordDict(), dst_node_id=i, message_type=MessageType.QUERY, ttl=INVITATION_S) for i in strangers
        ]
        hellos: list[tuple[int, int, int]] = []
        answers: dict[int, RecordDict] = {}
        for node_id, reply in grid.ask(queries, timeout_s=0.0 if self.node_ids else ENROL_WITHIN_S):
            hello = wire.numbers(reply.content, wire.HELLO) if reply.has_content() else {}
            if hello.keys() >= {wire.PARTITION, wire.EXAMPLES}:
                hellos.append((int(hello[wire.PARTITION]), node_id, max(0, int(hello[wire.EXAMPLES]))))
                answers[node_id] = reply.content
        known = {name: row for row, name in enumerate(fleet.names)}
        for partition, node_id, examples in sorted(hellos):
            name = f"node-{partition}"
            if name not in known:
                known[name] = fleet.enrol(name, examples=examples, sample_s=fleet.prior_sample_s)
                fleet.overhead_s[known[name]] = self.overhead_s
            self.rows[node_id] = known[name]
            self.on_probation.discard(node_id)
            learn_probe(fleet, known[name], answers[node_id])
            self.enrolled(known[name], node_id, answers[node_id])
        self.node_ids = {self.rows[node_id]: node_id for node_id in sorted(connected & self.rows.keys())}
        fleet.online[:] = False
        fleet.online[[row for row, node_id in self.node_ids.items() if node_id not in self.on_probation]] = True
