"""The outbox against endpoints that misbehave: training is not touched, and all is drained in order afterwards."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import pytest
from desk import GWEI, Desk
from eth_hash.auto import keccak
from pydantic import SecretStr
from rounds import a_round
from rpc import ask, funded_signer, proxied

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.anvil import Anvil
from hypergpu_fl.chain.contract import LedgerContract
from hypergpu_fl.chain.direct import send_and_wait
from hypergpu_fl.chain.errors import ForkAlarm, Misconfigured, Reverted
from hypergpu_fl.chain.http import HttpChain
from hypergpu_fl.chain.outbox import Attempt, EntryState, Intent
from hypergpu_fl.chain.signer import KeySigner, Transaction
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.errors import ChainError
from hypergpu_fl.settlement.session import Settlement, commit_calldata

pytestmark = pytest.mark.chain

DAY_S = 86_400.0


@pytest.mark.parametrize("mode", ["down", "hang", "garbage", "forget", "stale"])
def test_a_day_of_trouble_loses_and_doubles_nothing(desk: Desk, mode: str) -> None:
    desk.train()
    desk.drained()
    desk.proxy.mode = mode
    desk.http.timeout_s = 0.05  # so that hanging takes little of the test's time
    for _ in range(4):
        desk.train()
        desk.steps(6, seconds=DAY_S / 24)
    desk.proxy.mode = "pass"
    desk.http.timeout_s = 2.0
    desk.train()
    entries = desk.drained()
    assert len(entries) == 7


def test_signed_bytes_are_the_ones_that_are_sent_after_a_restart(desk: Desk) -> None:
    desk.sender.step()  # signs
    (entry,) = desk.outbox.entries()
    assert entry.state is EntryState.SIGNED and not desk.proxy.broadcasts
    desk.sender = desk.make_sender()
    desk.drained()
    assert desk.proxy.broadcasts == ["0x" + entry.attempts[0].raw.hex()]


def test_a_transaction_without_inclusion_is_replaced_by_a_dearer_one_up_to_the_cap(desk: Desk) -> None:
    desk.drained()
    desk.proxy.mode = "forget"
    desk.train()
    desk.steps(170, seconds=3.1)
    entry = desk.outbox.entries()[-1]
    fees = [attempt.max_fee for attempt in entry.attempts]
    assert len(fees) > 5 and len({attempt.nonce for attempt in entry.attempts}) == 1
    assert all(later >= earlier * 1.1 for earlier, later in zip(fees, fees[1:], strict=False))
    assert max(fees) <= 500 * GWEI < max(fees) * 1.2
    desk.proxy.mode = "pass"
    desk.drained()


def test_an_inclusion_under_a_replaced_hash_is_recognised(desk: Desk) -> None:
    desk.drained()
    desk.proxy.mode = "forget"
    desk.train()
    desk.steps(8, seconds=2.0)
    first = desk.outbox.entries()[-1].attempts[0]
    assert len(desk.outbox.entries()[-1].attempts) > 1
    ask(desk.url, "eth_sendRawTransaction", "0x" + first.raw.hex())
    desk.proxy.mode = "pass"
    assert desk.drained()[-1].included_hash == first.hash


def test_another_history_raises_the_alarm_and_stops_commits_only(desk: Desk) -> None:
    desk.drained()
    word = b"\x99" * 32
    data = commit_calldata(desk.session, 1, word, word, word, 0)
    send_and_wait(desk.client, desk.signer, to=desk.contract, data=data, chain_id=31337, max_fee=500 * GWEI)
    desk.train()
    desk.steps(20)
    assert isinstance(desk.sender.problem, ForkAlarm)
    desk.train()  # training goes on
    assert [entry.state for entry in desk.outbox.entries()[1:]] == [EntryState.PREPARED] * 2


def test_a_commit_that_someone_sent_already_is_not_sent_again(desk: Desk) -> None:
    desk.drained()
    desk.train()
    entry = desk.outbox.entries()[-1]
    send_and_wait(
        desk.client, desk.signer, to=desk.contract, data=entry.intent.data, chain_id=31337, max_fee=500 * GWEI
    )
    sent = len(desk.proxy.broadcasts)
    desk.drained()
    assert len(desk.proxy.broadcasts) == sent


def test_a_nonce_used_by_another_transaction_is_given_up_and_the_round_signed_anew(desk: Desk) -> None:
    desk.drained()
    desk.train()
    desk.sender.step()
    signed = desk.outbox.entries()[-1].attempts[0]
    send_and_wait(desk.client, desk.signer, to=desk.signer.address, data=b"", chain_id=31337, max_fee=500 * GWEI)
    entries = desk.drained()
    assert [attempt.nonce for attempt in entries[-1].attempts] == [signed.nonce, signed.nonce + 1]


def test_a_top_up_whose_nonce_was_taken_is_not_paid_twice(desk: Desk) -> None:
    desk.drained()
    data = abi.encode_call("fundTo", desk.session, 10**6 + 50)
    desk.put(Intent("fund", desk.contract, desk.session, data, value=50, pool=10**6 + 50))
    desk.sender.step()
    send_and_wait(desk.client, desk.signer, to=desk.contract, data=data, value=50, chain_id=31337, max_fee=500 * GWEI)
    desk.drained()
    assert LedgerContract(desk.client, desk.contract).session(desk.session).pool == 10**6 + 50


def test_a_claim_with_a_malformed_proof_is_told_in_one_line_and_nothing_is_sent(desk: Desk) -> None:
    desk.train()
    desk.drained()
    account, sent = desk.signer.address, len(desk.proxy.broadcasts)
    word = b"\1" * 32
    for proof in ([], [(word, 1)], [(bytes(32), 0)] * 200):
        history, grants = [(1, word, word, word, 1)], [(1, 1, proof)]
        data = abi.encode_call("claim", desk.session, account, desk.session, history, grants)
        with pytest.raises(Reverted) as refused:
            send_and_wait(desk.http, desk.signer, to=desk.contract, data=data, chain_id=31337, max_fee=500 * GWEI)
        assert refused.value.reason == f"LedgerInvalidProof({account.lower()}, 1, 1)"
        assert "\n" not in refused.value.cause
    assert len(desk.proxy.broadcasts) == sent


def test_a_commit_that_ran_out_of_gas_is_estimated_and_signed_anew(desk: Desk) -> None:
    desk.drained()
    desk.train()
    entry = desk.outbox.entries()[-1]
    nonce = desk.client.nonce(desk.signer.address)
    short = Transaction(31337, nonce, desk.contract, entry.intent.data, 0, 40_000, 10 * GWEI, GWEI)
    raw = desk.signer.sign(short)
    desk.outbox.signed(entry, Attempt(nonce, raw, keccak(raw), 40_000, 10 * GWEI, GWEI))
    settled = desk.drained()[-1]
    assert [attempt.gas_limit > 40_000 for attempt in settled.attempts] == [False, True]


def test_an_inclusion_that_a_reorganisation_undoes_is_sent_again(mining_desk: Desk) -> None:
    desk = mining_desk
    desk.drained()
    desk.train()
    desk.steps(until_last=EntryState.INCLUDED)
    (attempt,) = desk.outbox.entries()[-1].attempts
    ask(desk.url, "anvil_rollback", 1)
    assert desk.client.receipt(attempt.hash) is None
    assert desk.drained()[-1].attempts == (attempt,)
    assert desk.proxy.broadcasts.count("0x" + attempt.raw.hex()) == 2


def test_gas_above_the_cap_stops_signing_and_says_so(desk: Desk) -> None:
    desk.sender._max_fee = 1
    desk.steps(2)
    assert isinstance(desk.sender.problem, Misconfigured) and "cap" in str(desk.sender.problem)
    assert desk.outbox.entries()[0].state is EntryState.PREPARED
    desk.sender._max_fee = 500 * GWEI
    desk.drained()


def test_a_broadcast_that_is_underpriced_is_raised_at_once(mining_desk: Desk) -> None:
    desk = mining_desk
    desk.drained()
    desk.train()
    desk.sender.step()
    (first,) = desk.outbox.entries()[-1].attempts
    rival = Transaction(31337, first.nonce, desk.signer.address, b"", 0, 21_000, first.max_fee, first.priority_fee)
    ask(desk.url, "eth_sendRawTransaction", "0x" + desk.signer.sign(rival).hex())
    desk.sender.step()
    raised = desk.outbox.entries()[-1].attempts
    assert len(raised) == 2 and raised[1].max_fee > first.max_fee
    assert desk.drained()[-1].included_hash == raised[1].hash


def test_an_empty_account_is_told_in_one_line_and_nothing_is_sent(desk: Desk) -> None:
    ask(desk.url, "anvil_setBalance", desk.signer.address, "0x0")
    desk.steps(3)
    assert isinstance(desk.sender.problem, Misconfigured) and not desk.proxy.broadcasts
    ask(desk.url, "anvil_setBalance", desk.signer.address, hex(10**21))
    desk.drained()


def test_an_insufficient_pool_is_told_in_one_line_and_nothing_is_sent(desk: Desk) -> None:
    desk.drained()
    word = b"\1" * 32
    data = commit_calldata(desk.session, 1, word, word, word, 10**7)
    desk.put(Intent("commit", desk.contract, desk.session, data, round=1, before=desk.session, after=word))
    sent = len(desk.proxy.broadcasts)
    desk.steps(3)
    assert isinstance(desk.sender.problem, Reverted)
    assert "LedgerPoolTooSmall(10000000, 1000000)" in str(desk.sender.problem)
    assert len(desk.proxy.broadcasts) == sent


def test_no_log_line_error_or_traceback_shows_the_key(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    desk.proxy.mode = "garbage"
    desk.steps(12)
    desk.proxy.mode = "pass"
    desk.drained()
    told = [caplog.text, repr(desk.signer), repr(desk.sender.problem), repr(desk.outbox.entries())]
    key = desk.signer._account.key.hex()
    for text in (key + "00", "0x" + "f" * 64, "not hexadecimal " + key):
        with pytest.raises(ChainError) as refused:
            KeySigner.from_hex(text)
        told.append("".join(traceback.format_exception(refused.value)))
    assert not any(key in text.lower() for text in told)


def test_a_second_endpoint_takes_over(desk: Desk, quick_anvil: Anvil) -> None:
    client = HttpChain(["http://127.0.0.1:9", quick_anvil.url], timeout_s=0.2)
    assert client.chain_id() == 31337


def rpc(url: str, **changes: object) -> Blockchain:
    return Blockchain.model_validate({"kind": "rpc", "chain_id": 31337, "rpc_url": url} | changes)


def opened(folder: Path, blockchain: Blockchain, signer: KeySigner) -> Settlement:
    folder.mkdir(parents=True, exist_ok=True)
    secret = Secrets(coordinator_key=SecretStr(signer._account.key.hex()))
    return Settlement.open(folder, blockchain, secret, salt=b"\5" * 32, rounds=3, simulated_keys=True)


def test_wrong_chain_code_key_and_balance_are_refused_at_the_start(
    quick_anvil: Anvil, contract: str, tmp_path: Path
) -> None:
    signer = funded_signer(quick_anvil.url)
    with pytest.raises(Misconfigured, match="serves chain 31337, the run is bound to chain 143"):
        opened(tmp_path / "a", rpc(quick_anvil.url, chain_id=143), signer)
    with pytest.raises(Misconfigured, match="holds no code"):
        opened(tmp_path / "b", rpc(quick_anvil.url, contract=signer.address), signer)
    ask(quick_anvil.url, "anvil_setCode", "0x" + "77" * 20, "0x6001")
    with pytest.raises(Misconfigured, match="holds other code"):
        opened(tmp_path / "c", rpc(quick_anvil.url, contract="0x" + "77" * 20), signer)
    with pytest.raises(Misconfigured, match="holds 0 wei"):
        opened(tmp_path / "d", rpc(quick_anvil.url, contract=contract), funded_signer(quick_anvil.url, 0))
    opened(tmp_path / "e", rpc(quick_anvil.url, contract=contract), signer).close()
    with pytest.raises(Misconfigured, match="started with coordinator"):
        opened(tmp_path / "e", rpc(quick_anvil.url, contract=contract), funded_signer(quick_anvil.url))
    assert HttpChain([quick_anvil.url]).nonce(signer.address) <= 1  # at most the opening of run e


def test_a_later_run_sends_what_an_earlier_one_left_and_one_key_has_one_writer(
    quick_anvil: Anvil, contract: str, tmp_path: Path
) -> None:
    signer = funded_signer(quick_anvil.url)
    with proxied(quick_anvil.url) as proxy:
        first = opened(tmp_path / "first", rpc(proxy.url, contract=contract), signer)
        with pytest.raises(Misconfigured, match="another process sends with the key"):
            opened(tmp_path / "second", rpc(quick_anvil.url, contract=contract), signer)
        proxy.mode = "down"
        first.seal(a_round(first.session, 1))
        first.close()
    second = opened(tmp_path / "second", rpc(quick_anvil.url), signer)
    second.seal(a_round(second.session, 1))
    assert second.drain(30)
    second.close()
    for settlement in (first, second):
        state = LedgerContract(HttpChain([quick_anvil.url]), settlement.record.contract).session(settlement.session)
        assert state.next == 2


def test_a_run_starts_and_seals_while_no_endpoint_answers(contract: str, tmp_path: Path) -> None:
    settlement = opened(tmp_path / "run", rpc("http://127.0.0.1:9", contract=contract), KeySigner(b"\3" * 32))
    settlement.seal(a_round(settlement.session, 1))
    assert not settlement.drain(0.5)
    assert "does not answer" in settlement.status().problem
    settlement.close()
