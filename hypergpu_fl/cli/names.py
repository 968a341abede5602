"""Names of nodes, for people to read and type; the books know nodes only by the addresses that they sign with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hypergpu_fl.cli.place import place_of
from hypergpu_fl.errors import UsageError
from strategies.spelling import did_you_mean

if TYPE_CHECKING:
    from hypergpu_fl.network.registry import NodeRecord

_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")


def registered(folder: Path) -> list[NodeRecord]:
    """Nodes in the registry of a run; none if the run has no database or no registry yet."""
    from sqlalchemy import inspect

    from hypergpu_fl.ledger.database import connect
    from hypergpu_fl.network import registry

    if not (folder / "run.db").is_file():
        return []
    engine = connect(folder / "run.db")
    try:
        if not inspect(engine).has_table("nodes"):
            return []
        with engine.connect() as connection:
            return registry.read_nodes(connection)
    finally:
        engine.dispose()


def names_in(run: str, runs: Path | None) -> dict[str, str]:
    """Address -> name of each known node of a run; addresses are spelled as in the books.

    Nodes state their addresses themselves: nodes that state the same one are named together.
    """
    place = place_of(run, runs)
    names: dict[str, str] = {}
    for record in registered(place) if place.is_dir() else []:
        if record.address:
            names[record.address] = ", ".join(filter(None, [names.get(record.address), record.name]))
    return names


def address_of(node: str, names: Mapping[str, str]) -> str:
    """Address of the node that a person typed by name, or as an address.

    Raises
    ------
    UsageError
        If it is neither.
    """
    if _ADDRESS.fullmatch(node):
        return node
    found = [address for address, named in names.items() if node in named.split(", ")]
    if len(found) == 1:
        return found[0]
    known = sorted({name for named in names.values() for name in named.split(", ")})
    hint = did_you_mean(node, known).removeprefix("; ")
    raise UsageError(
        f"{node!r} is neither an address nor the name of a node of this run",
        hint or (f"the nodes are {', '.join(known[:9])}" if known else "give its address: no registry lies here"),
    )
