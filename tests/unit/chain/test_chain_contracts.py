"""The contract as it ships: same bytecode as the sources, forge's tests, and every function from Python."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from eth_hash.auto import keccak
from rpc import ask, funded_signer

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.anvil import Anvil, find_anvil
from hypergpu_fl.chain.client import Client
from hypergpu_fl.chain.contract import LedgerContract, SessionStatus
from hypergpu_fl.chain.embedded import EmbeddedChain
from hypergpu_fl.chain.errors import Reverted
from hypergpu_fl.chain.fees import gas_limit
from hypergpu_fl.chain.http import HttpChain
from hypergpu_fl.chain.signer import KeySigner, Transaction, created_address
from hypergpu_fl.config.models import MOST_WEI
from hypergpu_fl.ledger.bundle import session_id
from hypergpu_fl.ledger.contribution import SealedContribution
from hypergpu_fl.ledger.merkle import MerkleTree
from hypergpu_fl.ledger.proof import LEAF_ENCODING
from hypergpu_fl.ledger.reward_tree import RewardTree
from hypergpu_fl.ledger.rewards import Pay, RewardDistribution, summed
from hypergpu_fl.ledger.sealing import next_head, seal_round

COORDINATOR_SECRET = b"\x11" * 32


@pytest.mark.chain
def test_the_shipped_bytecode_is_what_the_sources_compile_to(contracts: Path) -> None:
    built = subprocess.run(["node", "scripts/build.mjs", "-"], cwd=contracts, check=True, capture_output=True)
    assert json.loads(built.stdout) == abi.artifact()


@pytest.mark.chain
def test_forge_finds_no_violated_law(contracts: Path, forge: Path) -> None:
    result = subprocess.run([forge, "test"], cwd=contracts, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:]
    assert " 0 failed" in result.stdout


@pytest.mark.chain
def test_gas_is_what_the_snapshot_says(contracts: Path, forge: Path) -> None:
    command = [forge, "snapshot", "--match-contract", "GasTest", "--check", ".gas-snapshot"]
    result = subprocess.run(command, cwd=contracts, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:]


class Warp(Protocol):
    def __call__(self, seconds: int) -> None: ...


class Caller:
    """Sends transactions one by one from one key, each with a limit from its estimate."""

    def __init__(self, client: Client, signer: KeySigner) -> None:
        self.client, self.signer, self.address, self.limit = client, signer, signer.address, 0

    def send(self, to: str | None, data: bytes, value: int = 0) -> int:
        limit = gas_limit(self.client.estimate_gas(self.address, to, data, value), creates=to is None)
        nonce = self.client.nonce(self.address)
        raw = self.signer.sign(Transaction(self.client.chain_id(), nonce, to, data, value, limit, 5 * 10**9, 10**9))
        self.client.send_raw(raw)
        deadline = time.monotonic() + 10
        while (receipt := self.client.receipt(keccak(raw))) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert receipt is not None and receipt.succeeded
        self.limit = limit
        return receipt.gas_used


@pytest.fixture(params=["embedded", pytest.param("anvil", marks=pytest.mark.chain)])
def chain(request: pytest.FixtureRequest) -> Iterator[tuple[Caller, Caller, Warp]]:
    """A coordinator, someone else, and a way to let time pass, on either chain."""
    if request.param == "embedded":
        embedded = EmbeddedChain(KeySigner(COORDINATOR_SECRET).address)
        coordinator, other = (Caller(embedded, KeySigner(s)) for s in (COORDINATOR_SECRET, b"\x22" * 32))
        coordinator.send(other.address, b"", 10**21)

        def travel(seconds: int) -> None:
            embedded.advance(seconds)

        yield coordinator, other, travel
        return
    with Anvil(find_anvil([request.getfixturevalue("contracts")]), shape=()) as anvil:
        client = HttpChain([anvil.url])
        coordinator, other = (Caller(client, funded_signer(anvil.url)) for _ in range(2))

        def warp(seconds: int) -> None:
            ask(anvil.url, "evm_increaseTime", seconds)
            ask(anvil.url, "evm_mine")

        yield coordinator, other, warp


def test_the_door_of_the_configuration_has_the_bound_of_the_contract() -> None:
    coordinator = Caller(EmbeddedChain(KeySigner(COORDINATOR_SECRET).address), KeySigner(COORDINATOR_SECRET))
    address = created_address(coordinator.address, 0)
    coordinator.send(None, abi.bytecode())
    coordinator.send(address, abi.encode_call("open", b"\1" * 32), MOST_WEI)
    with pytest.raises(Reverted, match="LedgerAmountTooLarge"):
        coordinator.send(address, abi.encode_call("open", b"\2" * 32), MOST_WEI + 1)


def test_every_function_of_the_contract_answers_python(chain: tuple[Caller, Caller, Warp]) -> None:
    from rounds import a_round, node_key

    coordinator, other, warp = chain
    client = coordinator.client
    address = created_address(coordinator.address, client.nonce(coordinator.address))
    coordinator.send(None, abi.bytecode())
    assert keccak(client.code(address)) == abi.code_hash()
    contract, salt = LedgerContract(client, address), b"\x07" * 32
    session = session_id(client.chain_id(), address, coordinator.address, salt)
    assert contract.session_id(coordinator.address, salt) == session
    assert contract.session(session).status is SessionStatus.NONE

    coordinator.send(address, abi.encode_call("open", salt), 10**15)
    state = contract.session(session)
    assert (state.coordinator, state.next, state.pool, state.head) == (coordinator.address, 1, 10**15, session)

    head, rewards, rounds, gas = session, RewardDistribution(session, {}), [], []
    for round in (1, 2, 3):
        sealed = seal_round(a_round(session, round), before=head, rewards=rewards, pay=Pay(10**14))
        head, rewards = sealed.head, sealed.rewards
        rounds.append(sealed)
        commitment = (round, sealed.root, sealed.seal.model, sealed.rewards_root, sealed.owed)
        gas.append(coordinator.send(address, abi.encode_call("commitRound", session, *commitment)))
        assert gas[-1] <= coordinator.limit <= 1.1 * gas[-1]
        assert contract.session(session).head == sealed.head == next_head(
            sealed.before, round=round, root=sealed.root, model=sealed.seal.model,
            rewards_root=sealed.rewards_root, owed=sealed.owed,
        )  # fmt: skip
    assert max(gas) <= 62_000

    first = rounds[0]
    leaf, tree = first.contributions[1], MerkleTree([c.leaf() for c in first.contributions])
    history = [(r.seal.round, r.root, r.seal.model, r.rewards_root, r.owed) for r in rounds]
    fields, proof = leaf_fields(leaf), tree.proof(1)
    assert len(fields) == len(LEAF_ENCODING)

    def accepted(*arguments: object) -> bool:
        answer = client.call(address, abi.encode_call("verifyContribution", *arguments))
        return bool(*abi.decode_result("verifyContribution", answer))

    assert accepted(fields, proof, first.before, history)
    assert not accepted((*fields[:-1], leaf.reward + 1), proof, first.before, history)
    assert accepted(fields, proof, first.before, history[:2])  # against an earlier head
    assert not accepted(fields, proof, first.before, history[1:])

    account = node_key(1).address
    cumulative, grants = rewards.cumulative[account], []
    for round, sealed in enumerate(rounds, start=1):
        earned = summed((c.credited.node, c.reward) for c in sealed.contributions)
        grants.append((round, earned[account], RewardTree(session, earned).proof(account)))
    claim = abi.encode_call("claim", session, account, session, history, grants)
    (round, amount, proof), *rest = grants
    with pytest.raises(Reverted, match="LedgerInvalidProof"):
        more = [(round, amount + 1, proof), *rest]
        other.send(address, abi.encode_call("claim", session, account, session, history, more))
    with pytest.raises(Reverted, match="LedgerUnknownHistory"):
        other.send(address, abi.encode_call("claim", session, account, session, history[1:], rest))
    assert [contract.head_after(session, round) for round in range(5)] == [
        session, *(sealed.head for sealed in rounds), bytes(32),
    ]  # fmt: skip
    coordinator.send(address, abi.encode_call("setPaused", session, True))
    with pytest.raises(Reverted, match="LedgerSessionNotOpen"):
        coordinator.send(address, abi.encode_call("commitRound", session, 4, b"\0" * 32, b"\0" * 32, b"\0" * 32, 0))
    other.send(address, claim)
    assert client.balance(account) == cumulative and contract.paid_rounds(session, account, 300) == {1, 2, 3}
    with pytest.raises(Reverted, match="LedgerNothingToClaim"):
        other.send(address, claim)
    coordinator.send(address, abi.encode_call("setPaused", session, False))

    other.send(address, abi.encode_call("fund", session), 5)
    assert contract.session(session).pool == 10**15 + 5
    other.send(address, abi.encode_call("fundTo", session, 10**15 + 8), 7)
    assert contract.session(session).pool == 10**15 + 8 == client.balance(address) + cumulative
    with pytest.raises(Reverted, match="LedgerPoolFull"):
        other.send(address, abi.encode_call("fundTo", session, 10**15 + 8), 7)
    with pytest.raises(Reverted, match="LedgerNotCoordinator"):
        other.send(address, abi.encode_call("proposeCoordinator", session, other.address))
    coordinator.send(address, abi.encode_call("proposeCoordinator", session, other.address))
    other.send(address, abi.encode_call("acceptCoordinator", session))
    assert contract.session(session).coordinator == other.address

    with pytest.raises(Reverted, match="LedgerRefundTooEarly"):
        other.send(address, abi.encode_call("refund", session))
    warp(90 * 24 * 3600)
    before = client.balance(address)
    other.send(address, abi.encode_call("refund", session))
    assert before == 10**15 + 8 - cumulative and client.balance(address) == rewards.owed - cumulative
    state = contract.session(session)
    assert (state.status, state.pool, state.owed, state.paid) == (
        SessionStatus.CLOSED,
        rewards.owed,
        rewards.owed,
        cumulative,
    )


def leaf_fields(sealed: SealedContribution) -> tuple[object, ...]:
    credited, signed = sealed.credited, sealed.credited.contribution
    return (
        signed.session, signed.round, sealed.index, credited.node, signed.base_model, signed.update_hash,
        signed.examples, signed.metrics_hash, credited.weight, credited.score, sealed.reward,
    )  # fmt: skip


@pytest.mark.no_cover
@pytest.mark.parametrize("nodes", [10, 10_000])
def test_a_commit_costs_the_same_for_any_number_of_nodes(nodes: int) -> None:
    from rounds import a_round

    signer = KeySigner(COORDINATOR_SECRET)
    coordinator = Caller(EmbeddedChain(signer.address), signer)
    coordinator.send(None, abi.bytecode())
    address, salt = created_address(coordinator.address, 0), b"\x07" * 32
    session = session_id(coordinator.client.chain_id(), address, coordinator.address, salt)
    coordinator.send(address, abi.encode_call("open", salt), 10**18)
    head, rewards, used = session, RewardDistribution(session, {}), 0
    seal = a_round(session, 1, nodes=nodes)
    for round in (1, 2):
        sealed = seal_round(seal, before=head, rewards=rewards, pay=Pay(10**14))
        head, rewards = sealed.head, sealed.rewards
        commitment = (round, sealed.root, sealed.seal.model, sealed.rewards_root, sealed.owed)
        used = coordinator.send(address, abi.encode_call("commitRound", session, *commitment))
    assert abs(used - 60_050) <= 60  # zero bytes in calldata are cheaper, and hashes hold a few
