"""Which of Flower's nodes is which row of the fleet, and who is there."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message, MessageType

from strategies.arrivals import Arrivals
from strategies.errors import Refused
from strategies.fleet import Bools, Fleet
from strategies.fleet.link import LinkSample
from strategies.prose import amount
from strategies.round.events import Deserted, Event, Joined, Left, Probed, Returned
from strategies.wire import Hello, invitation, malformed, name_of

log = logging.getLogger(__name__)

ENROL_WITHIN_S = 60.0
INVITATION_S = 120.0
OUTAGE_S = 600.0  # if all nodes vanish at once, the server's own link is probably down; wait this long for it

Tell = Callable[[Event], None]
Welcome = Callable[[int, int, Hello], None]
Vet = Callable[[int, Hello], None]


@dataclass
class Roster:
    """Maps Flower's node ids, which may change, to rows of the fleet, which a node keeps.

    Attributes
    ----------
    rows : dict of int to int
        Row of every Flower id that has answered.
    unfit : dict of int to str
        Why nodes that answered cannot take part, by Flower's id. They are asked again in every round.
    unfit_names : dict of int to str
        What those nodes call themselves, by the same ids.
    node_ids : dict of int to int
        Present Flower id of each connected row that is not excluded.
    connected : set of int
        Connected rows, excluded ones included.
    owners : dict of str to str
        Address that enrolled each name; empty if it said none.
    inherited : dict of str to (int, int)
        Silences and exclusions in a row that a share's node had when another address took it over.
    """

    rows: dict[int, int] = field(default_factory=dict)
    unfit: dict[int, str] = field(default_factory=dict)
    unfit_names: dict[int, str] = field(default_factory=dict)
    node_ids: dict[int, int] = field(default_factory=dict)
    connected: set[int] = field(default_factory=set)
    owners: dict[str, str] = field(default_factory=dict)
    inherited: dict[str, tuple[int, int]] = field(default_factory=dict)
    _shares: dict[str, str] = field(default_factory=dict, init=False)  # name of the share that each address enrolled

    def gather(self, grid: Arrivals, fleet: Fleet, *, session: bytes, tell: Tell, vet: Vet, joined: Welcome) -> bool:
        """Enrol the nodes that are connected. If none can work, wait for one of those known before.

        Returns whether a node can work. ``tell`` receives an event for every node that came or went,
        ``joined(row, node_id, hello)`` is called for every node that said who it is, and ``vet(node_id, hello)`` raises
        ``Refused`` to keep a node from taking part. ``session`` is what nodes sign their hellos for.
        """

        def anybody() -> bool:
            self._enrol(grid, fleet, session, tell, vet, joined)
            if not fleet.present.any() and fleet.excluded.any():
                tell(Deserted(grid.now_s))
                self._enrol(grid, fleet, session, tell, vet, joined)
            return bool(fleet.present.any())

        if anybody():
            return True
        wait_s = OUTAGE_S if self.rows else 0.0
        if wait_s:
            log.warning("no node is connected; waiting %.0f s for one", wait_s)
        return grid.until(anybody, within_s=wait_s)

    def excuses(self) -> dict[str, str]:
        """Why nodes cannot take part, with their names, by Flower's id: as reports have it."""
        return {str(node_id): f"{self.unfit_names[node_id]}: {why}" for node_id, why in self.unfit.items()}

    def why_nobody(self) -> str:
        """Why there is nobody to work."""
        if not self.unfit:
            return "no node is connected; start SuperNodes or raise training.num_nodes"
        (reason, count), *_ = Counter(self.unfit.values()).most_common(1)
        return f"{amount(len(self.unfit), 'node')} connected, and none can take part; {count} of them: {reason}"

    def state(self) -> dict[str, Any]:
        """Rows by Flower's ids, and of each name its owner and what that one inherited; JSON-able."""
        rows = {str(node_id): row for node_id, row in self.rows.items()}
        return {"rows": rows, "owners": dict(self.owners), "inherited": dict(self.inherited)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state``: recognise the nodes of an earlier process."""
        self.rows.update((int(node_id), row) for node_id, row in state["rows"].items())
        for name, address in state["owners"].items():
            self._own(name, address)
        self.inherited.update((name, tuple(faults)) for name, faults in state["inherited"].items())

    def _enrol(self, grid: Arrivals, fleet: Fleet, session: bytes, tell: Tell, vet: Vet, joined: Welcome) -> None:
        """Ask every node not seen before who it is: its data, device, link and address.

        The first round of a process waits for the answers. A node that connects later joins once it has answered, and
        a node that hangs delays nobody. Nodes are enrolled in the order of their partitions, so that rows do not depend
        on Flower's random ids. A node that comes back under another id keeps its row.
        """
        excluded, on_probation = self._ids(fleet.excluded), self._ids(fleet.on_probation)
        connected = set(grid.get_node_ids()) - excluded
        strangers = sorted(connected - (self.rows.keys() - on_probation) - grid.asked())
        queries = [
            Message(invitation(session), dst_node_id=i, message_type=MessageType.QUERY, ttl=INVITATION_S)
            for i in strangers
        ]
        hellos: list[tuple[int, int, Hello]] = []
        for node_id, answer in grid.ask(queries, timeout_s=0.0 if self.node_ids else ENROL_WITHIN_S):
            try:
                hello = Hello.read(answer)
                vet(node_id, hello)
            except Refused as refusal:
                self._turn_away(node_id, name_of(answer, node_id), refusal.detail)
            except Exception as error:  # a hostile hello may make a reader raise anything; it must not end a round
                self._turn_away(node_id, f"node {node_id}", malformed("the hello cannot be read", error).detail)
            else:
                hellos.append((hello.partition, node_id, hello))
        holders = self._holders(set(grid.get_node_ids()))
        for _, node_id, hello in sorted(hellos, key=lambda each: each[:2]):
            known = fleet.row_of.get(hello.name, -1)
            if self._abandoned(hello, known, fleet, connected=known in holders):
                self._vacate(hello.name, known)
                self.inherited[hello.name] = _faults(fleet, known)
                holders.pop(known, None)
            if why := self._belongs_to_another(hello, node_id, holders.get(known)):
                self._turn_away(node_id, f"node {node_id}", why)
                continue
            self.unfit.pop(node_id, None)
            tell(Joined(grid.now_s, hello.name, hello.examples))
            row = self.rows[node_id] = fleet.row_of[hello.name]
            holders[row] = self.node_ids[row] = node_id
            if hello.name not in self.owners:
                self._own(hello.name, hello.address)
            if hello.link != LinkSample():
                tell(Probed(grid.now_s, row, hello.link))
            joined(row, node_id, hello)
        self.node_ids, self.connected = self._holders(connected), set(holders)
        there = np.zeros(len(fleet), np.bool_)
        there[list(self.node_ids)] = True
        if (left := np.flatnonzero(fleet.online & ~there)).size:
            tell(Left(grid.now_s, tuple(left.tolist())))
        if (back := np.flatnonzero(there & ~fleet.online)).size:
            tell(Returned(grid.now_s, tuple(back.tolist())))

    def _holders(self, connected: set[int]) -> dict[int, int]:
        """Flower's id for each row with a connected node: the node that already holds the row, else the latest one."""
        holders: dict[int, int] = {}
        for node_id in sorted(connected & self.rows.keys()):
            row = self.rows[node_id]
            if holders.get(row) != self.node_ids.get(row, -1):
                holders[row] = node_id
        return holders

    def _belongs_to_another(self, hello: Hello, node_id: int, holder: int | None) -> str:
        """Why the share of data in ``hello`` belongs to another node; empty if it does not.

        A share belongs to the address that enrolled it, and to one connected node at a time. An address enrols one
        share only: health is kept by share, and whoever is excluded must not go on under another.
        """
        if holder is not None and holder != node_id:
            return f"{hello.name} is connected already; partition-id={hello.partition} can be one node's only"
        owner = self.owners.get(hello.name, hello.address)
        if owner != hello.address:
            return f"{hello.name} was enrolled by {owner or 'nobody'}, and {hello.address or 'nobody'} is another"
        if (enrolled := self._shares.get(hello.address, hello.name)) != hello.name:
            return f"{hello.address} enrolled {enrolled}; one address can have one share only"
        return ""

    def _abandoned(self, hello: Hello, row: int, fleet: Fleet, *, connected: bool) -> bool:
        """Whether another address holds this share, but no update of it ever counted and it cannot be reached.

        Otherwise whoever claimed a share first could keep it for ever without ever working. Who takes such a share over
        keeps it while ``connected``, until it is silent or excluded itself: it is not to pay for those before it.
        """
        if self.owners.get(hello.name, hello.address) == hello.address or fleet.acknowledged[row] >= 0:
            return False
        if not connected:
            return True
        own = zip(_faults(fleet, row), self.inherited.get(hello.name, (0, 0)), strict=True)
        return not fleet.reachable[row] and any(now > then for now, then in own)

    def _own(self, name: str, address: str) -> None:
        self.owners[name] = address
        if address:
            self._shares[address] = name

    def _vacate(self, name: str, row: int) -> None:
        self._shares.pop(self.owners.pop(name), None)
        for node_id in [node_id for node_id, held in self.rows.items() if held == row]:
            del self.rows[node_id]
        self.node_ids.pop(row, None)

    def _turn_away(self, node_id: int, name: str, why: str) -> None:
        if self.unfit.get(node_id) != why:  # log it once
            log.warning("%s cannot take part: %s", name, why)
            self.unfit[node_id] = why
            self.unfit_names[node_id] = name

    def _ids(self, rows_N: Bools) -> set[int]:
        """Flower's ids of these rows."""
        return {node_id for node_id, row in self.rows.items() if rows_N[row]}


def _faults(fleet: Fleet, row: int) -> tuple[int, int]:
    """Silences and exclusions in a row."""
    return int(fleet.misses[row]), int(fleet.exclusions[row])
