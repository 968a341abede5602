"""A receipt convinces its node, and nothing altered does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rounds import a_round, node_key

from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.errors import VerificationError
from hypergpu_fl.ledger.receipts import keep_receipt
from hypergpu_fl.settlement import Settlement


@pytest.fixture(scope="module")
def receipt(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, off = tmp_path_factory.mktemp("run"), Blockchain(enabled=False)
    settlement = Settlement.open(folder, off, Secrets(), salt=b"\5" * 32, rounds=1, simulated_keys=True)
    settlement.seal(a_round(settlement.session, 1))
    (found,) = settlement.receipts(node_key(1).address)
    assert settlement.receipts(node_key(9).address) == []
    settlement.close()
    return json.dumps(found)


def test_a_receipt_is_kept_as_it_came(receipt: str, tmp_path: Path) -> None:
    kept = keep_receipt(receipt, node=node_key(1).address, folder=tmp_path)
    assert kept.name == "1.json" and json.loads(kept.read_text()) == json.loads(receipt)


def test_another_nodes_receipt_is_refused(receipt: str, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="this node is"):
        keep_receipt(receipt, node=node_key(2).address, folder=tmp_path)


@pytest.mark.parametrize(
    "path",
    [f"value.{i}" for i in range(11)]
    + [f"commitments.0.{name}" for name in ("round", "root", "model", "rewards", "owed")]
    + ["leaf", "proof.0", "before", "head", "signature", "salt", "coordinator", "contract", "chain_id", "format"],
)
def test_a_receipt_with_anything_changed_is_refused(receipt: str, tmp_path: Path, path: str) -> None:
    changed = json.loads(receipt)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = changed
    for parent in parents:
        place = place[parent]
    value = place[last]
    place[last] = value + 1 if isinstance(value, int) else value[:-1] + ("1" if value[-1] != "1" else "2")
    with pytest.raises(VerificationError):
        keep_receipt(json.dumps(changed), node=node_key(1).address, folder=tmp_path)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("text", ["", "{}", "[1]", "x" * (1 << 21)])
def test_what_is_no_receipt_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(VerificationError):
        keep_receipt(text, node=node_key(1).address, folder=tmp_path)
