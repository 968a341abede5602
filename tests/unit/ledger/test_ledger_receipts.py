"""A receipt convinces its node, and nothing altered does."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from rounds import a_round, node_key

from hypergpu_fl.cli import invoke
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.errors import VerificationError
from hypergpu_fl.ledger.fields import _without_repeats
from hypergpu_fl.ledger.receipts import MOST_RECEIPTS, keep_receipt, keep_receipts, read_receipts
from hypergpu_fl.settlement import Settlement
from hypergpu_fl.settlement.run_key import KEY_FILE


def sealed_receipt(folder: Path, *, nodes: int = 3, of: int = 1) -> str:
    off = Blockchain(enabled=False)
    settlement = Settlement.open(folder, off, Secrets(), salt=b"\5" * 32, rounds=1, simulated_keys=True)
    settlement.seal(a_round(settlement.session, 1, nodes=nodes))
    (found,) = settlement.receipts(node_key(of).address)
    assert settlement.receipts(node_key(9).address) == []
    settlement.close()
    return json.dumps(found)


@pytest.fixture(scope="module")
def receipt(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sealed_receipt(tmp_path_factory.mktemp("run"))


def test_a_receipt_is_kept_as_it_came(receipt: str, tmp_path: Path) -> None:
    kept = keep_receipt(receipt, node=node_key(1).address, folder=tmp_path)
    assert kept.name == "1.json" and json.loads(kept.read_text()) == json.loads(receipt)


def test_nodes_that_share_a_folder_each_keep_their_own_receipt_of_a_round(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    first = sealed_receipt(tmp_path / "run")
    (tmp_path / "again").mkdir()
    shutil.copy(tmp_path / "run" / KEY_FILE, tmp_path / "again")  # the same key makes the same session
    second = sealed_receipt(tmp_path / "again", of=2)
    kept = [keep_receipt(first, node=node_key(1).address, folder=tmp_path / "kept")]
    kept += [keep_receipt(second, node=node_key(2).address, folder=tmp_path / "kept")]
    found = [receipt for file in kept for receipt in read_receipts(file.parent)]
    assert [(receipt.value[0], receipt.value[3]) for receipt in found] == [
        (found[0].value[0], node_key(node).address) for node in (1, 2)
    ]


def test_another_nodes_receipt_is_refused(receipt: str, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="this node is"):
        keep_receipt(receipt, node=node_key(2).address, folder=tmp_path)


@pytest.mark.parametrize(
    "path",
    [f"value.{i}" for i in range(11)]
    + [f"commitments.0.{name}" for name in ("round", "root", "model", "rewards", "owed")]
    + ["leaf", "proof.0", "before", "head", "signature", "salt", "coordinator", "contract", "chain_id", "format"]
    + ["statement", "grant.amount", "grant.before", "grant.proof.0.0", "grant.proof.0.1"],
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


def test_a_receipt_that_a_coordinator_invents_later_does_not_replace_the_one_kept(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    genuine = sealed_receipt(tmp_path / "first")
    kept = keep_receipt(genuine, node=node_key(1).address, folder=tmp_path / "kept")
    (tmp_path / "second").mkdir()
    shutil.copy(tmp_path / "first" / KEY_FILE, tmp_path / "second")  # the same key signs another history
    invented = sealed_receipt(tmp_path / "second", nodes=2)
    assert invented != genuine
    with pytest.raises(VerificationError, match="contradicts the one kept"):
        keep_receipt(invented, node=node_key(1).address, folder=tmp_path / "kept")
    assert json.loads(kept.read_text()) == json.loads(genuine)
    assert keep_receipt(genuine, node=node_key(1).address, folder=tmp_path / "kept") == kept
    assert [file.name for file in kept.parent.iterdir()] == ["1.json"]


@pytest.mark.parametrize("round", [-1, 2**64, 1.0, "1", True])
def test_a_round_that_is_no_round_is_refused_and_no_exception_of_another_kind(
    receipt: str, tmp_path: Path, round: object
) -> None:
    changed = json.loads(receipt)
    changed["commitments"][0]["round"] = round
    with pytest.raises(VerificationError, match="commitments.0.round"):
        keep_receipt(json.dumps(changed), node=node_key(1).address, folder=tmp_path)


@pytest.mark.parametrize("part", ["grant", "statement"])
def test_a_receipt_without_its_grant_or_its_coordinators_signature_is_refused(
    receipt: str, tmp_path: Path, part: str
) -> None:
    with pytest.raises(VerificationError):
        keep_receipt(json.dumps(json.loads(receipt) | {part: None}), node=node_key(1).address, folder=tmp_path)


def test_verify_tells_a_receipt_from_a_proof_and_says_what_each_proves(
    receipt: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = keep_receipt(receipt, node=node_key(1).address, folder=tmp_path)
    assert invoke(["ledger", "verify", str(kept)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("verified receipt: ") and "which the coordinator signed" in said and "not pinned" in said
    found = json.loads(receipt)
    assert invoke(["ledger", "verify", str(kept), "--session", found["value"][0]]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(found | {"head": found["before"]}))
    assert invoke(["ledger", "verify", str(changed)]) == 1


@pytest.mark.parametrize("bad", ["{}", "7", "[" * 150 + "]" * 150, '{"a": 1e999}', '"' + "9" * 5000 + '"'])
def test_a_refused_receipt_costs_the_others_of_its_list_nothing(receipt: str, tmp_path: Path, bad: str) -> None:
    refused = keep_receipts(f"[{bad}, {receipt}, {bad}]", node=node_key(1).address, folder=tmp_path)
    assert len(refused) == 2 and [file.name for file in tmp_path.rglob("*.json")] == ["1.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '[{"a":' * 50_000,
        '["\\ud800"]',
        "[NaN]",
        f"[{'9' * 5000}]",
    ],
)
def test_what_is_no_list_of_receipts_is_refused_however_deeply_it_is_nested(text: str, tmp_path: Path) -> None:
    assert len(keep_receipts(text, node=node_key(1).address, folder=tmp_path)) == 1


def test_receipts_beyond_the_most_that_a_list_may_hold_are_not_read(receipt: str, tmp_path: Path) -> None:
    text = f"[{'0, ' * MOST_RECEIPTS}{receipt}]"
    assert len(keep_receipts(text, node=node_key(1).address, folder=tmp_path)) == MOST_RECEIPTS + 1
    assert not list(tmp_path.rglob("*.json"))


def test_a_record_with_many_keys_one_of_them_twice_is_refused_in_linear_time(tmp_path: Path) -> None:
    began_s = time.process_time()
    text = "{" + ", ".join(f'"k{index}": 0' for index in range(40_000)) + ', "k39999": 0}'
    with pytest.raises(ValueError, match="'k39999' stands twice"):
        json.loads(text, object_pairs_hook=_without_repeats)
    assert time.process_time() - began_s < 2
