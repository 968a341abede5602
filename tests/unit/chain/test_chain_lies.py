"""Endpoints that lie, refuse or keep things to themselves: nothing is paid twice, and honest ones are turned to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from desk import GWEI, Desk
from eth_hash.auto import keccak
from rpc import ask

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.contract import LedgerContract
from hypergpu_fl.chain.direct import send_and_wait
from hypergpu_fl.chain.errors import Misconfigured, Reverted, Unavailable
from hypergpu_fl.chain.http import HttpChain
from hypergpu_fl.chain.outbox import EntryState, Intent
from hypergpu_fl.chain.sender import Sender
from hypergpu_fl.chain.transaction import decode_transaction
from hypergpu_fl.cli import invoke
from hypergpu_fl.errors import ChainError

pytestmark = pytest.mark.chain


def test_a_top_up_is_not_paid_twice_by_an_endpoint_that_lies_about_its_nonce(desk: Desk) -> None:
    desk.drained()
    data = abi.encode_call("fundTo", desk.session, 10**6 + 50)
    desk.put(Intent("fund", desk.contract, desk.session, data, value=50, pool=10**6 + 50))
    desk.proxy.mode = "forget"
    desk.steps(2)
    nonce = desk.outbox.entries()[-1].attempts[0].nonce
    desk.proxy.lies["eth_getTransactionCount"] = lambda answer: answer.update(result=hex(nonce + 1))
    desk.steps(20, seconds=1.0, until_last=EntryState.PREPARED)
    desk.steps(2)
    attempts = desk.outbox.entries()[-1].attempts
    assert [attempt.nonce for attempt in attempts] == [nonce, nonce + 1]
    for attempt in attempts:
        ask(desk.url, "eth_sendRawTransaction", "0x" + attempt.raw.hex())
    desk.proxy.mode = "pass"
    desk.proxy.lies.clear()
    desk.drained()
    while desk.client.nonce(desk.signer.address) < nonce + 2:
        time.sleep(0.02)
    assert LedgerContract(desk.client, desk.contract).session(desk.session).pool == 10**6 + 50


def test_a_nonce_that_an_endpoint_made_up_is_given_up(desk: Desk) -> None:
    desk.drained()
    desk.train()
    desk.proxy.lies["eth_getTransactionCount"] = lambda answer: answer.update(result=hex(10**6))
    desk.steps(3)
    assert desk.outbox.entries()[-1].attempts[-1].nonce == 10**6
    desk.proxy.lies.clear()
    desk.train()
    assert [entry.attempts[-1].nonce for entry in desk.drained()] == [0, 1, 2]


def test_a_block_that_an_endpoint_made_up_does_not_keep_a_commit_from_becoming_final(desk: Desk) -> None:
    desk.drained()
    desk.train()
    desk.proxy.lies["eth_getTransactionReceipt"] = lambda answer: (
        answer["result"] and answer["result"].update(blockNumber=hex(10**9))
    )
    desk.steps(until_last=EntryState.INCLUDED)
    assert desk.outbox.entries()[-1].block == 10**9
    desk.proxy.lies.clear()
    desk.train()
    assert max(entry.block or 0 for entry in desk.drained()) < 10**9


def test_gas_beyond_belief_is_not_signed_for(desk: Desk) -> None:
    desk.proxy.lies["eth_estimateGas"] = lambda answer: answer.update(result=hex(29_000_000))
    desk.steps(3)
    assert isinstance(desk.sender.problem, Unavailable) and "29000000 gas" in str(desk.sender.problem)
    assert not desk.outbox.entries()[0].attempts and not desk.proxy.broadcasts
    desk.proxy.lies.clear()
    desk.drained()


def test_an_endpoint_that_refuses_everything_does_not_stop_commits_while_another_is_honest(desk: Desk) -> None:
    refusal = {"code": 3, "message": "execution reverted", "data": "0x"}
    desk.proxy.lies["eth_estimateGas"] = lambda answer: (answer.pop("result", None), answer.update(error=refusal))
    client = HttpChain([desk.proxy.url, desk.url], timeout_s=2.0)
    desk.sender = Sender([desk.outbox], client, desk.signer, max_fee=500 * GWEI, clock=desk.clock)
    desk.train()
    desk.drained()


def test_an_endpoint_that_keeps_transactions_to_itself_does_not_hold_commits_up(desk: Desk) -> None:
    desk.proxy.mode = "forget"
    client = HttpChain([desk.proxy.url, desk.url], timeout_s=2.0)
    desk.sender = Sender([desk.outbox], client, desk.signer, max_fee=500 * GWEI, clock=desk.clock)
    desk.train()
    desk.drained()
    assert max(len(entry.attempts) for entry in desk.outbox.entries()) <= 4


@pytest.mark.parametrize("data", ["0x", "0x" + keccak(b"LedgerWrongRound(uint64,uint64)")[:4].hex() + "ff" * 7, "0x1"])
def test_what_an_endpoint_gives_as_a_reason_is_one_short_line(desk: Desk, data: str) -> None:
    refusal = {"code": 3, "message": "execution\nreverted " * 1000, "data": data + "00" * (len(data) > 3) * 10**5}
    desk.proxy.lies["eth_call"] = lambda answer: (answer.pop("result", None), answer.update(error=refusal))
    with pytest.raises(Reverted) as refused:
        desk.http.call(desk.contract, b"")
    assert len(refused.value.cause) < 300 and "\n" not in refused.value.cause


def test_an_endpoint_of_another_chain_is_passed_over_and_nothing_is_asked_of_it(desk: Desk) -> None:
    desk.proxy.lies["eth_chainId"] = lambda answer: answer.update(result="0x8f")
    client = HttpChain([desk.proxy.url, desk.url], chain_id=31337)
    client.nonce(desk.signer.address)
    assert desk.proxy.calls == 1
    with pytest.raises(Misconfigured, match="serves chain 143, the run is bound to chain 31337"):
        HttpChain([desk.proxy.url], chain_id=31337).nonce(desk.signer.address)


def test_a_session_that_no_contract_holds_is_no_answer(desk: Desk) -> None:
    desk.drained()
    answer = bytearray(desk.client.call(desk.contract, abi.encode_call("session", desk.session)))
    answer[4 * 32 - 1] = 77  # status
    desk.proxy.lies["eth_call"] = lambda said: said.update(result="0x" + answer.hex())
    with pytest.raises(Unavailable, match="answers session with something else"):
        LedgerContract(desk.http, desk.contract).session(desk.session)


@pytest.mark.parametrize("mode", ["down", "hang", "garbage"])
def test_nothing_but_an_answer_counts_as_one(desk: Desk, mode: str) -> None:
    desk.proxy.mode = mode
    client = HttpChain([desk.proxy.url], timeout_s=0.05)
    for _ in range(10):
        with pytest.raises(Unavailable):
            client.nonce(desk.signer.address)


# opening a run


def claims_to_be(chain_id: int, *, after: int) -> Callable[[dict[str, Any]], None]:
    """An endpoint that names another chain from its so many-th answer on."""
    asked = iter(range(10**6))

    def lie(answer: dict[str, Any]) -> None:
        if next(asked) >= after:
            answer["result"] = hex(chain_id)

    return lie


@pytest.mark.parametrize("after", range(4))
def test_nothing_is_signed_for_the_chain_that_an_endpoint_claims_to_be(desk: Desk, after: int) -> None:
    desk.proxy.lies["eth_chainId"] = claims_to_be(143, after=after)
    client = HttpChain([desk.proxy.url], chain_id=31337, timeout_s=2.0)
    with contextlib.suppress(ChainError):
        send_and_wait(client, desk.signer, to=desk.signer.address, data=b"", chain_id=31337, max_fee=500 * GWEI)
    signed = [decode_transaction(bytes.fromhex(raw[2:])) for raw in desk.proxy.broadcasts]
    assert len(signed) == (after > 1) and all(transaction.chain_id == 31337 for transaction in signed)


def test_a_contract_is_deployed_for_the_named_chain_only(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYPERGPU_COORDINATOR_KEY", desk.signer._account.key.hex())
    words = ["chain", "deploy", "--rpc", desk.proxy.url]
    assert invoke(words) == 2
    assert "which chain to sign for" in capsys.readouterr().err
    assert invoke([*words, "--chain-id", "143"]) == 1
    assert "serves chain 31337" in capsys.readouterr().err
    assert not desk.proxy.broadcasts
