"""The commands over the books: what they print, and one line of cause and remedy for what cannot be."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from npm_tools import contracts, quick_anvil
from pydantic import SecretStr
from rounds import a_pricing, a_round, node_key
from rpc import ask, funded_signer

from hypergpu_fl.chain.anvil import FUNDED_SECRET, Anvil
from hypergpu_fl.chain.http import HttpChain
from hypergpu_fl.children import free_port
from hypergpu_fl.cli import invoke
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.settlement import Settlement

__all__ = ["contracts", "quick_anvil"]

ROUNDS = 3


def finished_run(folder: Path, blockchain: Blockchain, secrets: Secrets) -> Settlement:
    folder.mkdir(parents=True)
    settlement = Settlement.open(folder, blockchain, secrets, salt=b"\5" * 32, rounds=ROUNDS, simulated_keys=True)
    for round in range(1, ROUNDS + 1):
        settlement.seal(a_round(settlement.session, round))
    assert settlement.drain(60)
    settlement.export_bundle()
    settlement.close()
    return settlement


@pytest.fixture(scope="module")
def embedded_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("embedded")
    finished_run(root / "demo", Blockchain(), Secrets())
    return root


@pytest.fixture
def demo(embedded_runs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HYPERGPU_RUNS", str(embedded_runs))
    yield embedded_runs / "demo"


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert invoke([*words, "--format", "json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *words: str, code: int = 1) -> str:
    assert invoke(words) == code
    written = capsys.readouterr()
    lines = written.err.strip().splitlines()
    assert not written.out and len(lines) == 2
    assert lines[0].startswith("error: ") and lines[1].startswith("remedy: ")
    return lines[0]


def test_rounds_are_listed_with_their_transactions(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = answer(capsys, "ledger", "list", "demo")
    assert [(row["round"], row["contributions"], row["refused"], row["status"]) for row in rows] == [
        (round, 3, 1, "FINALIZED") for round in (1, 2, 3)
    ]


def test_a_round_is_shown_with_its_contributions(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = answer(capsys, "ledger", "show", "demo", "--round", "2")
    assert len(shown["contributions"]) == 3 and shown["round"] == 2
    assert invoke(["ledger", "show", "demo"]) == 0
    assert "too late 12 s" in capsys.readouterr().out
    assert "no round 9" in refusal(capsys, "ledger", "show", "demo", "--round", "9")


def test_an_untouched_bundle_verifies_and_scores_are_called_the_coordinators_word(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(capsys, "ledger", "verify", "demo")["rounds"] == ROUNDS
    assert invoke(["ledger", "verify", str(demo / "ledger.json")]) == 0
    assert "coordinator's word" in capsys.readouterr().out


def test_a_changed_byte_is_named_with_its_round(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = json.loads((demo / "ledger.json").read_text())
    bundle["rounds"][1]["contributions"][0]["weight"] += 1
    (tmp_path / "ledger.json").write_text(json.dumps(bundle))
    assert "round 2: " in refusal(capsys, "ledger", "verify", str(tmp_path / "ledger.json"))
    (tmp_path / "ledger.json").write_text("{")
    assert "Invalid JSON" in refusal(capsys, "ledger", "verify", str(tmp_path / "ledger.json"))


def test_books_of_another_release_are_not_called_forged(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = tmp_path / "older.json"
    older.write_text((demo / "ledger.json").read_text().replace("hypergpu-ledger-4", "hypergpu-ledger-3"))
    assert invoke(["ledger", "verify", str(older)]) == 1
    err = capsys.readouterr().err
    assert "is 'hypergpu-ledger-3'; this release verifies hypergpu-ledger-4" in err
    assert "remedy: verify it with the release that made it" in err


def test_export_writes_again_what_the_run_wrote(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "copy.json"
    assert answer(capsys, "ledger", "export", "demo", "--out", str(out))["rounds"] == ROUNDS
    assert out.read_bytes() == (demo / "ledger.json").read_bytes()


def test_a_proof_is_printed_for_who_contributed_and_verifies(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = node_key(1).address
    assert invoke(["ledger", "proof", "demo", "--node", node, "--round", "2"]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert proof["value"][3] == node and len(proof["commitments"]) == 2
    (tmp_path / "proof.json").write_text(json.dumps(proof))
    found = answer(capsys, "ledger", "verify", str(tmp_path / "proof.json"))
    assert (found["kind"], found["sealed in round"], found["head after round"]) == ("proof", 2, 3)
    assert int(found["granted_wei"]) == int(found["reward_wei"]) > 0
    (tmp_path / "proof.json").write_text(json.dumps(proof | {"head": proof["before"]}))
    assert "do not lead to the head" in refusal(capsys, "ledger", "verify", str(tmp_path / "proof.json"))
    stranger = "0x" + "1" * 40
    assert "sealed nothing" in refusal(capsys, "ledger", "proof", "demo", "--node", stranger, "--round", "2")


def test_rewards_add_up_to_what_is_owed(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = answer(capsys, "rewards", "demo")
    listed = answer(capsys, "ledger", "list", "demo")
    assert sum(int(row["earned_wei"]) for row in rows) == listed[-1]["owed so far (wei)"]


def test_why_a_node_earned_what_it_did_leaves_no_contribution_out_and_no_end_to_come(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in answer(capsys, "rewards", "demo"):
        counted, *parts = re.findall(r"\d+", row["why"].partition(";")[0])
        assert int(counted) == sum(map(int, parts)) == row["rounds"]
    assert invoke(["rewards", "demo"]) == 0
    assert "when the run ends" not in capsys.readouterr().out


@pytest.mark.parametrize("priced", [0, 1, 2], ids=["nothing priced", "one of two rounds priced", "both rounds priced"])
def test_what_was_not_priced_is_not_said_to_have_changed_nothing(
    priced: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "free").mkdir()
    off = Blockchain(enabled=False)
    settlement = Settlement.open(tmp_path / "free", off, Secrets(), salt=b"\5" * 32, rounds=2, simulated_keys=True)
    for round in (1, 2):
        sealed = a_round(settlement.session, round, pricing=a_pricing(3) if round <= priced else None)
        nothing = [replace(credited, score=0) for credited in sealed.contributions]
        settlement.seal(replace(sealed, contributions=nothing))
    settlement.export_bundle()
    settlement.close()
    parts = ([f"{priced} changed nothing"] if priced else []) + ([f"{2 - priced} not priced"] if priced < 2 else [])
    bundle = str(tmp_path / "free" / "ledger.json")
    for row in answer(capsys, "rewards", bundle):
        assert row["why"] == f"2 contributions counted: {', '.join(parts)}"
    assert invoke(["rewards", bundle]) == 0
    said = capsys.readouterr().out
    assert ("blockchain.scoring" in said and "blockchain.enabled" in said) == (not priced)
    assert ("wei earned" in said) == bool(priced)


def test_an_embedded_runs_rewards_cannot_be_claimed(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no chain that outlives it" in refusal(capsys, "claim", "demo", "--key", "k.json", code=2)


def test_chain_status_of_an_embedded_run_needs_no_network(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = answer(capsys, "chain", "status", "demo")
    assert (status["rounds"], status["finalized"], status["waiting"]) == (ROUNDS, ROUNDS, 0)


def test_bad_usage_is_refused_in_two_lines(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no RPC address" in refusal(capsys, "chain", "deploy", code=2)
    assert "no preset 'moonad'" in refusal(capsys, "chain", "deploy", "--preset", "moonad", code=2)
    assert "no run 'demi'" in refusal(capsys, "ledger", "list", "demi", code=2)
    (demo.parent / "empty").mkdir(exist_ok=True)
    assert "holds no ledger" in refusal(capsys, "ledger", "export", "empty")
    assert invoke(["ledger", "verify", "empty"]) == 1
    assert "remedy: write it with `hypergpu ledger export empty`" in capsys.readouterr().err
    (demo.parent / "empty").rmdir()
    assert "port 99999" in refusal(capsys, "chain", "dev", "--port", "99999", code=2)


def test_keystores_are_made_once_and_never_show_their_key(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys" / "node.json"
    monkeypatch.delenv("HYPERGPU_KEYSTORE_PASSWORD", raising=False)
    # at a terminal it would ask for the password and wait
    monkeypatch.setattr(os, "isatty", lambda descriptor: False)
    assert "password" in refusal(capsys, "keys", "new", str(file), code=2)
    monkeypatch.setenv("HYPERGPU_KEYSTORE_PASSWORD", "known-password-1")
    made = answer(capsys, "keys", "new", str(file))
    assert file.stat().st_mode & 0o077 == 0
    assert answer(capsys, "keys", "show", str(file), "--check")["address"] == made["address"]
    assert answer(capsys, "keys", "show", str(file))["address"] == made["address"]
    assert "never overwritten" in refusal(capsys, "keys", "new", str(file), code=2)
    monkeypatch.setenv("HYPERGPU_KEYSTORE_PASSWORD", "another-password")
    wrong = refusal(capsys, "keys", "show", str(file), "--check")
    assert "does not open" in wrong and "another-password" not in wrong
    assert "no keystore" in refusal(capsys, "keys", "show", str(demo / "ledger.json"), code=2)
    assert "Is a directory" in refusal(capsys, "keys", "show", str(tmp_path))


@pytest.mark.chain
def test_a_run_on_a_real_chain_is_deployed_verified_and_claimed_and_no_file_holds_a_key(
    quick_anvil: Anvil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, root = quick_anvil.url, tmp_path / "runs"
    signer, password = funded_signer(url), "known-password-2"
    secret = signer._account.key.hex()
    monkeypatch.setenv("HYPERGPU_RUNS", str(root))
    monkeypatch.setenv("HYPERGPU_COORDINATOR_KEY", secret)
    monkeypatch.setenv("HYPERGPU_KEYSTORE_PASSWORD", password)
    deployed = answer(capsys, "chain", "deploy", "--rpc", url, "--chain-id", "31337")
    settings = Blockchain(kind="rpc", chain_id=31337, rpc_url=url, contract=deployed["contract"])
    settlement = finished_run(root / "real", settings, Secrets(coordinator_key=SecretStr(secret)))
    assert answer(capsys, "ledger", "verify", "real", "--rpc", url)["rounds on chain"] == ROUNDS
    status = answer(capsys, "chain", "status", "real", "--rpc", url)
    assert (status["rounds_on_chain"], status["status"]) == (ROUNDS, "open")
    assert answer(capsys, "chain", "status", "--rpc", url)["chain_id"] == 31337

    proof = tmp_path / "proof.json"
    assert invoke(["ledger", "proof", "real", "--node", node_key(1).address, "--round", "1"]) == 0
    proof.write_text(capsys.readouterr().out)
    assert answer(capsys, "ledger", "verify", str(proof), "--rpc", url)["on chain"] is True
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps(settlement.receipts(node_key(1).address)[-1]))
    assert answer(capsys, "ledger", "verify", str(receipt), "--rpc", url)["kind"] == "receipt"
    receipt.write_text(json.dumps(settlement.receipts(node_key(1).address)[0]))
    assert answer(capsys, "ledger", "verify", str(receipt), "--rpc", url)["head after round"] == 1

    keystore = tmp_path / "payer.json"
    payer = answer(capsys, "keys", "new", str(keystore))["address"]
    ask(url, "anvil_setBalance", payer, hex(10**18))
    account = node_key(2).address
    words = ("claim", "real", "--key", str(keystore), "--account", account, "--rpc", url)
    receipt.write_text(json.dumps(settlement.receipts(account)[1]))  # of round 2, with no ledger at hand
    by_receipt = ("claim", "--receipt", str(receipt), "--key", str(keystore), "--rpc", url)
    before = HttpChain([url]).balance(account)
    paid = answer(capsys, *by_receipt)
    assert HttpChain([url]).balance(account) - before == int(paid["paid_wei"]) > 0
    assert "has been paid all" in refusal(capsys, *by_receipt)
    before = HttpChain([url]).balance(account)
    claimed = answer(capsys, *words)
    assert claimed["rounds_paid"] == ROUNDS - 1
    assert HttpChain([url]).balance(account) - before == int(claimed["paid_wei"]) > 0
    assert "has been paid all" in refusal(capsys, *words)
    assert "earned nothing" in refusal(capsys, *words[:5], payer, *words[6:])
    rows = answer(capsys, "rewards", "real", "--rpc", url)
    assert {row["node"]: row["paid_wei"] != "0" for row in rows}[account]

    assert len(settlement.receipts(account)) == ROUNDS and len(settlement.receipts(account, after=2)) == 1
    for file in (path for path in root.rglob("*") if path.is_file()):
        content = file.read_bytes().lower()
        assert bytes.fromhex(secret) not in content and secret.encode() not in content
        assert password.encode() not in content


@pytest.mark.chain
def test_a_bundle_of_another_history_is_refused_by_the_chain(
    quick_anvil: Anvil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYPERGPU_RUNS", str(tmp_path))
    settings = Blockchain(kind="rpc", chain_id=31337, rpc_url=quick_anvil.url)
    key = Secrets(coordinator_key=SecretStr(FUNDED_SECRET.hex()))
    finished_run(tmp_path / "one", settings, key)
    bundle = json.loads((tmp_path / "one" / "ledger.json").read_text())
    bundle["rounds"].pop()
    shorter = tmp_path / "shorter.json"
    shorter.write_text(json.dumps(bundle))
    assert "round 3: the coordinator signed 3 rounds" in refusal(capsys, "ledger", "verify", str(shorter))
    shorter.write_text(json.dumps(bundle | {"seal": None}))
    assert invoke(["ledger", "verify", str(shorter), "--open"]) == 0
    capsys.readouterr()
    words = ("ledger", "verify", str(shorter), "--open", "--rpc", quick_anvil.url)
    assert "round 3: the chain holds 3" in refusal(capsys, *words)


@pytest.mark.chain
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_local_chain_ends_with_its_command_and_keeps_its_state(
    contracts: Path, tmp_path: Path, ending: signal.Signals
) -> None:
    state, port = tmp_path / "chain.json", free_port()
    command = [
        sys.executable, "-c", "from hypergpu_fl.cli import main; main()",
        "chain", "dev", "--port", str(port), "--state", str(state),
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=contracts.parent, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"anvil on http://127.0.0.1:{port}")
    process.send_signal(ending)
    assert "the state is kept" in process.communicate(timeout=30)[0]
    assert process.returncode == 0 and state.is_file()
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        pass
