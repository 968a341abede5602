"""`hypergpu claim` and `hypergpu rewards` on a real chain, with a coordinator who turns dishonest after the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from npm_tools import contracts, quick_anvil
from pydantic import SecretStr
from rounds import a_round, node_key
from rpc import ask, funded_signer

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.anvil import Anvil
from hypergpu_fl.chain.contract import LedgerContract
from hypergpu_fl.chain.direct import send_and_wait
from hypergpu_fl.chain.http import HttpChain
from hypergpu_fl.cli import invoke
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.ledger.contribution import reward_leaf
from hypergpu_fl.ledger.receipts import keep_receipt
from hypergpu_fl.settlement import Settlement

__all__ = ["contracts", "quick_anvil"]


@pytest.mark.chain
def test_a_node_claims_with_its_old_file_what_its_coordinator_would_like_back(
    quick_anvil: Anvil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = quick_anvil.url
    client, coordinator = HttpChain([url]), funded_signer(url)
    monkeypatch.setenv("HYPERGPU_RUNS", str(tmp_path))
    monkeypatch.setenv("HYPERGPU_KEYSTORE_PASSWORD", "known-password-3")
    secrets = Secrets(coordinator_key=SecretStr(coordinator._account.key.hex()))
    settings = Blockchain(kind="rpc", chain_id=31337, rpc_url=url)
    (tmp_path / "run").mkdir()
    settlement = Settlement.open(tmp_path / "run", settings, secrets, salt=b"\6" * 32, rounds=9, simulated_keys=True)
    for round in range(1, 4):
        settlement.seal(a_round(settlement.session, round))
    assert settlement.drain(60)
    bundle = settlement.export_bundle()
    receipts = tmp_path / "receipts"
    for receipt in settlement.receipts(node_key(2).address):
        kept = keep_receipt(json.dumps(receipt), node=node_key(2).address, folder=receipts)
    settlement.close()

    def answer(*words: str) -> Any:
        assert invoke([*words, "--rpc", url, "--format", "json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    contract, session = LedgerContract(client, settlement.record.contract), settlement.session
    owed = contract.session(session).owed
    for round, loot in ((4, bytes(32)), (5, reward_leaf(session, coordinator.address, owed))):
        data = abi.encode_call("commitRound", session, round, bytes(32), bytes(32), loot, owed)
        send_and_wait(client, coordinator, to=contract.address, data=data, chain_id=31337, max_fee=500 * 10**9)

    keystore, accounts = tmp_path / "payer.json", [node_key(index).address for index in range(3)]
    assert invoke(["keys", "new", str(keystore), "--format", "json"]) == 0
    ask(url, "anvil_setBalance", json.loads(capsys.readouterr().out)["address"], hex(10**18))
    earned = {row["node"]: row["earned_wei"] for row in answer("rewards", str(bundle))}
    for account in accounts[:2]:
        before = client.balance(account)
        done = answer("claim", str(bundle), "--key", str(keystore), "--account", account)
        assert done["paid_wei"] == done["cumulative_wei"] == earned[account] and done["rounds_paid"] == 3
        assert client.balance(account) - before == int(earned[account])
    before = client.balance(accounts[2])
    done = answer("claim", "--receipt", str(kept.parent), "--key", str(keystore))  # no ledger at all
    assert (done["account"], done["paid_wei"]) == (accounts[2], earned[accounts[2]])
    assert client.balance(accounts[2]) - before == int(earned[accounts[2]])
    for words, cause in (
        (["--receipt", str(kept.parent), "--account", accounts[0]], "the receipts are of"),
        (["--receipt", str(receipts)], "holds no receipts"),
    ):
        assert invoke(["claim", *words, "--key", str(keystore), "--rpc", url]) != 0
        assert cause in capsys.readouterr().err
    kept.write_text(kept.read_text().replace('"amount": "', '"amount": "1'))
    assert invoke(["claim", "--receipt", str(kept), "--key", str(keystore), "--rpc", url]) == 1
    assert f"{kept}: what the round granted does not lead" in capsys.readouterr().err
    assert {row["node"]: row["paid_wei"] for row in answer("rewards", str(bundle))} == earned
    assert contract.session(session).paid == owed
    assert invoke(["claim", str(bundle), "--key", str(keystore), "--account", accounts[0], "--rpc", url]) == 1
    assert "has been paid all" in capsys.readouterr().err
