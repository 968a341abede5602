"""Rounds sealed on the embedded EVM: what the report, the bundle and a restart must show."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rounds import a_round

from hypergpu_fl.chain.errors import Misconfigured
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.errors import LedgerError, VerificationError
from hypergpu_fl.ledger.bundle import read_bundle
from hypergpu_fl.settlement import Settlement, verify
from hypergpu_fl.settlement.run_key import KEY_FILE

ROUNDS = 4


def opened(folder: Path, **blockchain: object) -> Settlement:
    config = Blockchain.model_validate(blockchain)
    return Settlement.open(folder, config, Secrets(), salt=b"\x05" * 32, rounds=ROUNDS, simulated_keys=True)


def run(folder: Path, *, until: int = ROUNDS, drain: bool = True, **blockchain: object) -> Settlement:
    settlement = opened(folder, **blockchain)
    for round in range(settlement.last_round + 1, until + 1):
        settlement.seal(a_round(settlement.session, round))
    if drain:
        assert settlement.drain(60)
        settlement.export_bundle()
    settlement.close()
    return settlement


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Settlement:
    return run(tmp_path_factory.mktemp("run"))


def test_every_round_is_committed_and_final_with_a_gas_limit_at_most_a_tenth_above_use(finished: Settlement) -> None:
    status = finished.status()
    assert (status.commits, status.finalized, sorted(status.rounds)) == (ROUNDS, ROUNDS, [1, 2, 3, 4])
    assert status.gas_used <= status.gas_limit <= 1.1 * status.gas_used


def test_a_run_killed_between_sealing_and_sending_ends_with_the_very_same_bundle(
    finished: Settlement, tmp_path: Path
) -> None:
    shutil.copy(finished.run_dir / KEY_FILE, tmp_path)  # the one thing that is drawn by chance
    run(tmp_path, until=2, drain=False)
    again = run(tmp_path)
    assert again.status() == finished.status()
    assert (tmp_path / "ledger.json").read_bytes() == (finished.run_dir / "ledger.json").read_bytes()


def test_a_key_that_cannot_be_read_is_not_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).mkdir()
    with pytest.raises(Misconfigured, match="coordinator.key cannot be read: Is a directory"):
        opened(tmp_path)


def test_a_run_without_a_chain_still_keeps_books_that_verify(tmp_path: Path) -> None:
    settlement = run(tmp_path, enabled=False)
    assert settlement.status().commits == 0
    verify(read_bundle(tmp_path / "ledger.json"))


def test_rounds_beyond_the_planned_ones_are_funded_before_they_are_committed(tmp_path: Path) -> None:
    settlement = run(tmp_path, until=ROUNDS + 2)
    assert settlement.status().finalized == ROUNDS + 2


def test_a_round_out_of_order_is_refused(tmp_path: Path) -> None:
    settlement = opened(tmp_path, enabled=False)
    with pytest.raises(LedgerError, match="round 3 cannot be sealed after round 0"):
        settlement.seal(a_round(settlement.session, 3))
    settlement.close()


def flipped(text: str) -> str:
    """Change the last character of a hexadecimal or decimal string."""
    return text[:-1] + ("0" if text[-1] != "0" else "1")


@pytest.mark.parametrize("round", [1, 3])
@pytest.mark.parametrize(
    "path",
    [
        "leaf", "weight", "signature", "proof.0", "score", "reward", "update_hash", "base_model", "metrics_hash",
        "examples", "node", "round", "index", "/root", "/rewards_root", "/model", "/head", "/owed", "/round",
        "/commit.raw", "/commit.hash", "/commit.gas_limit",
    ],
)  # fmt: skip
def test_one_changed_byte_is_found_and_the_round_named(
    finished: Settlement, tmp_path: Path, round: int, path: str
) -> None:
    bundle = json.loads((finished.run_dir / "ledger.json").read_text())
    place = bundle["rounds"][round - 1]
    if not path.startswith("/"):
        place = place["contributions"][1]
    *parents, last = path.removeprefix("/").split(".")
    for parent in parents:
        place = place[parent]
    key = int(last) if last.isdigit() else last
    place[key] = place[key] + 1 if isinstance(place[key], int) else flipped(place[key])
    altered = tmp_path / "ledger.json"
    altered.write_text(json.dumps(bundle))
    with pytest.raises(VerificationError, match=f"^round {round}: "):
        verify(read_bundle(altered))


def test_an_unaltered_bundle_verifies(finished: Settlement) -> None:
    assert verify(read_bundle(finished.run_dir / "ledger.json"))
