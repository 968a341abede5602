"""Every field of every level of ledger.json changed, removed, doubled, swapped with its neighbour: each is found.

Books that their coordinator has not signed as a whole keep a short list of what nothing seals, and verify prints it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from rounds import a_pricing, a_round, node_key

from hypergpu_fl.cli import invoke
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.ledger.bundle import write_bundle
from hypergpu_fl.ledger.contribution import hash_blob
from hypergpu_fl.settlement import UNSEALED, Settlement, load_books

TWICE = "\x00twice"
KIN = {  # other values that a field may well have
    "state": ["SIGNED", "SENT", "INCLUDED", "FINALIZED"],
    "purpose": ["deploy", "open", "fund", "commit", "propose", "accept"],
    "duplicate_of": [node_key(0).address, node_key(1).address, node_key(9).address],
    "node": [node_key(1).address, node_key(9).address],
}
Path_ = tuple[str | int, ...]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The ledger of a run that ended, and the one that anybody could read from it while it was under way."""
    folder = tmp_path_factory.mktemp("run")
    settlement = Settlement.open(folder, Blockchain(), Secrets(), salt=b"\5" * 32, rounds=2, simulated_keys=True)
    for round in (1, 2):
        head = hash_blob(b"log %d" % round)
        settlement.seal(a_round(settlement.session, round, nodes=2, log_head=head, pricing=a_pricing(2)))
    assert settlement.drain(60)
    write_bundle(folder / "open.json", load_books(folder))
    settlement.export_bundle()
    settlement.close()
    return {name: json.loads((folder / name).read_text()) for name in ("ledger.json", "open.json")}


def others(value: Any) -> list[Any]:
    """Other values in a field's place: of its kind, of another kind, another spelling of the same."""
    if isinstance(value, bool):
        return [not value, int(value), None]
    if isinstance(value, int):
        return [value + 1, -1 - value, 2**64, str(value), float(value), None]
    if isinstance(value, str):
        flipped = value[:-1] + ("0" if value[-1:] != "0" else "1")
        number = [int(value)] if value.isdigit() else []
        return [flipped, value.swapcase(), value + " ", value + value[-2:], "", None, 5, *number]
    if value is None:
        return [0, "", "0x00", {}]
    return [[], {}, None, "0x"]


def altered(document: Any, path: Path_, change: Any) -> Any:
    """Copy with ``change(parent, key)`` applied at a path."""
    copied = parent = copy.deepcopy(document)
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return copied


def paths(value: Any, at: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key), inner
        yield from paths(inner, (*at, key))


def neighbour(parent: Any, key: str | int) -> str | int | None:
    keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    place = keys.index(key) + 1
    return keys[place] if place < len(keys) else None


def swap(parent: Any, key: Any) -> None:
    if (other := neighbour(parent, key)) is not None:
        parent[key], parent[other] = parent[other], parent[key]


def double(parent: Any, key: Any) -> None:
    if isinstance(parent, list):
        parent.insert(key, parent[key])
    else:
        parent[key + TWICE] = parent[key]


def tampered(document: Any) -> Iterator[tuple[str, Path_, str]]:
    """Everything that can be done to one place of a document, as JSON text."""
    for path, value in paths(document):
        made = [
            ("changed", altered(document, path, lambda p, k, v=v: p.__setitem__(k, v)))
            for v in others(value) + KIN.get(str(path[-1]), [])
        ]
        made += [
            ("removed", altered(document, path, lambda parent, key: parent.pop(key))),
            ("doubled", altered(document, path, double)),
            ("swapped", altered(document, path, swap)),
        ]
        if isinstance(value, dict):
            made.append(("added to", altered(document, path, lambda parent, key: parent[key].update(unknown=1))))
        for what, changed in made:
            text = json.dumps(changed).replace(json.dumps(TWICE)[1:-1], "")
            if text != json.dumps(document):
                yield what, path, text


def found(file: Path, text: str, capsys: pytest.CaptureFixture[str], *options: str) -> bool:
    """Whether verify refuses a text, in two lines."""
    file.write_text(text)
    code = invoke(["ledger", "verify", str(file), *options])
    written = capsys.readouterr()
    if code:
        lines = written.err.strip().splitlines()
        assert len(lines) == 2 and lines[0].startswith("error: ") and not written.out, written
    return code != 0


def test_a_ledger_of_a_run_that_ended_holds_no_place_that_can_be_tampered_with(
    files: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, tried = files["ledger.json"], 0
    assert not found(tmp_path / "l.json", json.dumps(document), capsys)
    for what, path, text in tampered(document):
        tried += 1
        assert found(tmp_path / "l.json", text, capsys), (what, path)
    assert tried > 1000


def test_what_verify_does_not_find_in_an_open_ledger_it_prints_as_not_sealed(
    files: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, missed = files["open.json"], set()
    assert document["seal"] is None
    assert found(tmp_path / "l.json", json.dumps(document), capsys)
    assert not found(tmp_path / "l.json", json.dumps(document), capsys, "--open")
    for what, path, text in tampered(document):
        if found(tmp_path / "l.json", text, capsys, "--open"):
            continue
        if (what, path) == ("removed", ("rounds", len(document["rounds"]) - 1)) or text.count('"rounds": []'):
            missed.add("later rounds")
            continue
        place = ".".join("*" if isinstance(part, int) else part for part in path)
        listed = [pattern for pattern in UNSEALED if fnmatchcase(place, pattern) or place.startswith(pattern + ".")]
        assert listed, (what, path)
        missed.update(listed)
    assert missed >= {"later rounds", *UNSEALED} - {"session.budget", "session.base_pay"}
    (tmp_path / "l.json").write_text(json.dumps(document))
    assert invoke(["ledger", "verify", str(tmp_path / "l.json"), "--open"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in missed)


def test_the_documentation_lists_what_nothing_seals() -> None:
    said = (Path(__file__).parents[2] / "docs" / "the-books.md").read_text()
    assert all(f"`{name}`" in said for name in UNSEALED)
