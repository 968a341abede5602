"""Which of Flower's nodes is which row of the fleet, and who may be given work."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from flwr.app import Message, MessageType, RecordDict

from strategies import wire
from strategies.arrivals import Arrivals
from strategies.errors import Reason, Refused
from strategies.fleet import Fleet
from strategies.observation import learn_probe

log = logging.getLogger(__name__)

ENROL_WITHIN_S = 60.0
INVITATION_S = 120.0
OUTAGE_S = 600.0  # all nodes gone at once is the server's own link down, most likely; the run waits so long for it

LONGEST_REASON = 1000  # characters of what a node says of itself

Enrolled = Callable[[int, int, RecordDict], None]
Vet = Callable[[RecordDict], None]


@dataclass
class Roster:
    """Nodes by Flower's ids, which a node may change; rows of the fleet, which it keeps.

    ``overhead_s``: see ``Settings``. ``enrolled(row, node_id, answer)`` is told of every node that said who it is.
    ``vet(answer)`` raises ``Refused`` to keep one from taking part.

    Attributes
    ----------
    rows : dict of int to int
        Row of every Flower id that has answered.
    excluded : set of int
        Flower ids of nodes that are given nothing and asked nothing; for a hook to decide.
    on_probation : set of int
        Flower ids of known nodes that must answer a query before they are given work again.
    unfit : dict of int to str
        Why nodes that answered cannot take part, by Flower's id. They are asked again every round.
    """

    overhead_s: float
    enrolled: Enrolled
    vet: Vet
    rows: dict[int, int] = field(default_factory=dict)
    excluded: set[int] = field(default_factory=set)
    on_probation: set[int] = field(default_factory=set)
    unfit: dict[int, str] = field(default_factory=dict)
    node_ids: dict[int, int] = field(default_factory=dict)  # present id of each connected row

    def gather(self, grid: Arrivals, fleet: Fleet) -> bool:
        """Enrol whoever is there; with nobody to work, wait for somebody of a fleet that was known. Whether one is."""
        if self._anybody(grid, fleet):
            return True
        wait_s = OUTAGE_S if self.rows else 0.0
        if wait_s:
            log.warning("no node is connected; waiting %.0f s for one", wait_s)
        return grid.until(lambda: self._anybody(grid, fleet), within_s=wait_s)

    def why_nobody(self) -> str:
        """Why there is nobody to work."""
        if not self.unfit:
            return "no node is connected; start SuperNodes or raise training.num_nodes"
        (reason, count), *_ = Counter(self.unfit.values()).most_common(1)
        return f"{len(self.unfit)} nodes are connected, and none can take part; {count} of them: {reason}"

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
            try:
                partition, examples = introduction(reply)
                self.vet(reply.content)
            except Refused as refusal:
                self._tell(node_id, reply, refusal.detail)
                continue
            self.unfit.pop(node_id, None)
            hellos.append((partition, node_id, examples))
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

    def _tell(self, node_id: int, reply: Message, reason: str) -> None:
        """Remember why a node cannot take part; say it once."""
        if self.unfit.get(node_id) != reason:
            log.warning("%s cannot take part: %s", _name(node_id, reply), reason)
            self.unfit[node_id] = reason


def introduction(reply: Message) -> tuple[int, int]:
    """Partition and size of a node's share, from what it answered to the question who it is.

    Raises
    ------
    Refused
        If it does not say, with its own reason if it gives one.
    """
    if not reply.has_content():
        raise Refused(Reason.ERROR_REPLY, (reply.error.reason or "it failed")[:LONGEST_REASON])
    hello = wire.numbers(reply.content, wire.HELLO)
    if hello.keys() >= {wire.PARTITION, wire.EXAMPLES}:
        return int(hello[wire.PARTITION]), max(0, int(hello[wire.EXAMPLES]))
    unfit = reply.content.config_records.get(wire.UNFIT)
    texts = [unfit.get(key) for key in (wire.CAUSE, wire.REMEDY)] if unfit else []
    said = [text for text in texts if isinstance(text, str) and text]
    raise Refused(Reason.MALFORMED, "; ".join(said)[:LONGEST_REASON] or "it does not say which share is its own")


def _name(node_id: int, reply: Message) -> str:
    """What a node is called in the fleet, where it says which share is its own."""
    if reply.has_content():
        for records in (reply.content.config_records.get(wire.UNFIT), reply.content.metric_records.get(wire.HELLO)):
            if records is not None and isinstance(partition := records.get(wire.PARTITION), int):
                return f"node-{partition}"
    return f"node {node_id}"
