"""The Merkle tree against OpenZeppelin's own package, and the laws of proofs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rounds import a_round

from hypergpu_fl.keccak import checksum_address
from hypergpu_fl.ledger.bundle import FORMAT, Bundle, SessionRecord, round_record, session_id
from hypergpu_fl.ledger.contribution import reward_leaf
from hypergpu_fl.ledger.merkle import EMPTY_ROOT, MerkleTree, proven_root
from hypergpu_fl.ledger.proof import proof_from_bundle
from hypergpu_fl.ledger.rewards import Pay, RewardDistribution
from hypergpu_fl.ledger.sealing import seal_round

SESSION = bytes(range(32))
SIZES = [*range(1, 34), 47, 63, 64, 65, 100, 127, 128, 129, 255, 256, 500, 999, 1000, 2048, 5000]


def npm(contracts: Path, question: list[dict[str, Any]]) -> Any:
    command = ["node", "scripts/merkle.mjs"]
    result = subprocess.run(command, cwd=contracts, input=json.dumps(question), text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.chain
def test_roots_and_proofs_are_the_npm_librarys_on_48_sizes(contracts: Path) -> None:
    assert len(SIZES) == 48
    types = ["bytes32", "address", "uint256"]
    values = [
        [["0x" + SESSION.hex(), checksum_address(i.to_bytes(20, "big")), str(i**9)] for i in range(n)] for n in SIZES
    ]
    indices = [sorted({*range(min(n, 40)), *range(0, n, 97), n - 1}) for n in SIZES]
    questions = [{"types": types, "values": v, "indices": i} for v, i in zip(values, indices, strict=True)]
    for rows, places, answer in zip(values, indices, npm(contracts, questions), strict=True):
        tree = MerkleTree([reward_leaf(SESSION, row[1], int(row[2])) for row in rows])
        assert "0x" + tree.root.hex() == answer["root"]
        assert [["0x" + h.hex() for h in tree.proof(i)] for i in places] == answer["proofs"]


@pytest.mark.chain
def test_the_npm_library_accepts_an_exported_proof_and_no_altered_one(contracts: Path) -> None:
    session = SessionRecord(
        id=session_id(1, "0x" + "0" * 40, "0x" + "0" * 40, SESSION), salt=SESSION, chain_id=1,
        contract="0x" + "0" * 40, coordinator="0x" + "0" * 40, budget=10**9, base_pay=0, simulated_keys=True,
    )  # fmt: skip
    seal = a_round(session.id, 1, nodes=7)
    sealed = seal_round(seal, before=session.id, rewards=RewardDistribution(session.id, {}), pay=Pay(10**9))
    bundle = Bundle(format=FORMAT, session=session, transactions=[], rounds=[round_record(sealed, None)], seal=None)
    proof = json.loads(proof_from_bundle(bundle, node=seal.contributions[3].node, round=1).model_dump_json())
    altered = [*proof["value"][:-1], str(int(proof["value"][-1]) + 1)]
    question = {
        "types": proof["leaf_encoding"], "values": [proof["value"], altered],
        "proofs": [proof["proof"], proof["proof"]], "root": proof["commitments"][0]["root"],
    }  # fmt: skip
    assert npm(contracts, [question]) == [[True, False]]


leaves = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40, unique=True)


@given(leaves)
def test_every_proof_leads_to_the_root(hashes: list[bytes]) -> None:
    tree = MerkleTree(hashes)
    assert all(proven_root(leaf, tree.proof(i)) == tree.root for i, leaf in enumerate(hashes))


@given(leaves, st.randoms(use_true_random=False))
def test_the_root_does_not_depend_on_the_order_of_leaves(hashes: list[bytes], rng: Any) -> None:
    shuffled = list(hashes)
    rng.shuffle(shuffled)
    assert MerkleTree(shuffled).root == MerkleTree(hashes).root


@given(leaves, st.binary(min_size=32, max_size=32))
def test_no_proof_leads_a_foreign_leaf_to_the_root(hashes: list[bytes], foreign: bytes) -> None:
    tree = MerkleTree(hashes)
    if foreign not in hashes:
        assert all(proven_root(foreign, tree.proof(i)) != tree.root for i in range(len(hashes)))


def test_a_tree_without_leaves_has_the_empty_root() -> None:
    assert MerkleTree([]).root == EMPTY_ROOT
