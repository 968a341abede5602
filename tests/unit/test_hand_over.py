"""A run changes hands on a real chain and goes on; its books verify with both coordinators' commits, in their order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from npm_tools import contracts, quick_anvil
from pydantic import SecretStr
from rounds import a_round
from rpc import funded_signer

from hypergpu_fl.chain.anvil import Anvil
from hypergpu_fl.chain.errors import Misconfigured
from hypergpu_fl.chain.signer import KeySigner
from hypergpu_fl.cli import invoke
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.errors import VerificationError
from hypergpu_fl.ledger.bundle import Bundle, read_bundle
from hypergpu_fl.settlement import Settlement, verify

__all__ = ["contracts", "quick_anvil"]

pytestmark = pytest.mark.chain


def sealed_upto(folder: Path, url: str, signer: KeySigner, last: int) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    settings = Blockchain(kind="rpc", chain_id=31337, rpc_url=url)
    secrets = Secrets(coordinator_key=SecretStr(signer._account.key.hex()))
    settlement = Settlement.open(folder, settings, secrets, salt=b"\5" * 32, rounds=4, simulated_keys=True)
    for round in range(settlement.last_round + 1, last + 1):
        settlement.seal(a_round(settlement.session, round))
    assert settlement.drain(60), settlement.status().problem
    settlement.export_bundle()
    settlement.close()


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert invoke([*words, "--format", "json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def handed(
    quick_anvil: Anvil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[Bundle, KeySigner, KeySigner]:
    """Rounds 1 and 2 by one coordinator, 3 and 4 by the next."""
    url, folder = quick_anvil.url, tmp_path / "runs" / "run"
    first, second = funded_signer(url), funded_signer(url)
    sealed_upto(folder, url, first, 2)
    with pytest.raises(Misconfigured, match="started with coordinator"):
        sealed_upto(folder, url, second, 3)
    monkeypatch.setenv("HYPERGPU_COORDINATOR_KEY", second._account.key.hex())
    assert invoke(["chain", "take-over", "run", "--rpc", url]) == 1  # nobody has offered it
    assert "to accept" in capsys.readouterr().err
    monkeypatch.setenv("HYPERGPU_COORDINATOR_KEY", first._account.key.hex())
    answer(capsys, "chain", "hand-over", "run", "--to", second.address, "--rpc", url)
    assert invoke(["chain", "hand-over", "run", "--to", "0x12", "--rpc", url]) == 2
    capsys.readouterr()
    monkeypatch.setenv("HYPERGPU_COORDINATOR_KEY", second._account.key.hex())
    answer(capsys, "chain", "take-over", "run", "--rpc", url)
    sealed_upto(folder, url, second, 4)
    with pytest.raises(Misconfigured, match="started with coordinator"):
        sealed_upto(folder, url, first, 5)
    found = answer(capsys, "ledger", "verify", "run", "--rpc", url, "--coordinator", first.address)
    assert (found["rounds on chain"], found["signed commits"], found["ended"]) == (4, 4, True)
    return read_bundle(folder / "ledger.json"), first, second


def test_books_of_two_coordinators_verify_only_with_the_hand_over_between_them(
    handed: tuple[Bundle, KeySigner, KeySigner],
) -> None:
    bundle, _, second = handed
    assert verify(bundle).coordinator == second.address
    assert [t.purpose for t in bundle.transactions][-2:] == ["propose", "accept"]
    without = bundle.model_copy(update={"transactions": bundle.transactions[:-2], "seal": None})
    with pytest.raises(VerificationError, match="round 3: the commit transaction's sender differs"):
        verify(without)
    unoffered = bundle.model_copy(update={"transactions": [*bundle.transactions[:-2], bundle.transactions[-1]]})
    with pytest.raises(VerificationError, match="the accept transaction's sender differs"):
        verify(unoffered)
