"""Claims of nodes against coordinators who turn dishonest, on an embedded EVM and on anvil."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rounds import a_round, node_key
from rpc import ask, funded_signer

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.anvil import Anvil, find_anvil
from hypergpu_fl.chain.client import Client
from hypergpu_fl.chain.contract import LedgerContract, SessionStatus
from hypergpu_fl.chain.direct import FinalTransaction, send_and_wait
from hypergpu_fl.chain.embedded import EmbeddedChain
from hypergpu_fl.chain.errors import Reverted
from hypergpu_fl.chain.fees import MOST_CALL_GAS
from hypergpu_fl.chain.http import HttpChain
from hypergpu_fl.chain.signer import KeySigner, created_address
from hypergpu_fl.errors import LedgerError
from hypergpu_fl.keccak import keccak
from hypergpu_fl.ledger.bundle import FORMAT, Bundle, RoundRecord, SessionRecord, round_record, session_id
from hypergpu_fl.ledger.contribution import reward_leaf
from hypergpu_fl.ledger.identity import checksum_address
from hypergpu_fl.ledger.proof import proof_from_bundle
from hypergpu_fl.ledger.reward_tree import RewardTree
from hypergpu_fl.ledger.rewards import Pay, RewardDistribution
from hypergpu_fl.ledger.sealing import RoundSeal, seal_round
from hypergpu_fl.settlement import claim, claim_with_receipts, held_in_bundle, shared_rounds
from hypergpu_fl.settlement.grants import ROUNDS_A_CLAIM

GWEI, BUDGET, POOL, SALT = 10**9, 10**12, 10**16, b"\3" * 32


def sent(client: Client, signer: KeySigner, to: str | None, data: bytes, value: int = 0) -> FinalTransaction:
    chain_id = client.chain_id()
    return send_and_wait(client, signer, to=to, data=data, value=value, chain_id=chain_id, max_fee=500 * GWEI)


@dataclass
class Run:
    """A session on a chain, its coordinator, its honest books, and somebody who pays for claims."""

    client: Client
    coordinator: KeySigner
    payer: KeySigner
    contract: str
    rounds: list[RoundRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.session = session_id(self.client.chain_id(), self.contract, self.coordinator.address, SALT)
        self._head, self.rewards = self.session, RewardDistribution(self.session, {})
        self.call("open", SALT, value=POOL)

    def call(self, function: str, *arguments: object, value: int = 0, signer: KeySigner | None = None) -> int:
        data = abi.encode_call(function, *arguments)
        return sent(self.client, signer or self.coordinator, self.contract, data, value).receipt.gas_used

    def train(self, *, nodes: int = 3, idle: bool = False) -> None:
        """One honest round."""
        seal = a_round(self.session, len(self.rounds) + 1, nodes=nodes)
        if idle:
            seal = RoundSeal(seal.round, seal.base_model, seal.model, [])
        sealed = seal_round(seal, before=self._head, rewards=self.rewards, pay=Pay(BUDGET))
        record = round_record(sealed, None)
        self.call("commitRound", self.session, seal.round, record.root, record.model, record.rewards_root, record.owed)
        self._head, self.rewards = sealed.head, sealed.rewards
        self.rounds.append(record)

    def commit(self, rewards_root: bytes, owed: int) -> None:
        """A round that is in no honest books."""
        upcoming = self.state.next
        self.call("commitRound", self.session, upcoming, bytes(32), bytes(32), rewards_root, owed)

    @property
    def state(self):
        return LedgerContract(self.client, self.contract).session(self.session)

    @property
    def bundle(self) -> Bundle:
        record = SessionRecord(
            id=self.session, salt=SALT, chain_id=self.client.chain_id(), contract=self.contract,
            coordinator=self.coordinator.address, budget=BUDGET, base_pay=0, simulated_keys=True,
        )  # fmt: skip
        return Bundle(format=FORMAT, session=record, transactions=[], rounds=self.rounds, seal=None)

    def claimed(self, index: int) -> int:
        """What a claim for a node brings it now."""
        account = node_key(index).address
        before = self.client.balance(account)
        done = claim(self.bundle, self.client, self.payer, account, max_fee=500 * GWEI)
        assert self.client.balance(account) - before == done.amount > 0
        return done.amount


@pytest.fixture(params=["embedded", pytest.param("anvil", marks=pytest.mark.chain)])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    client: Client
    if request.param == "embedded":
        coordinator, payer = KeySigner(b"\x11" * 32), KeySigner(b"\x22" * 32)
        client = EmbeddedChain(coordinator.address)
        sent(client, coordinator, payer.address, b"", 10**21)
    else:
        anvil: Anvil = request.getfixturevalue("quick_anvil")
        client, coordinator, payer = HttpChain([anvil.url]), funded_signer(anvil.url), funded_signer(anvil.url)
        for index in range(3):
            ask(anvil.url, "anvil_setBalance", node_key(index).address, "0x0")
    deployed = sent(client, coordinator, None, abi.bytecode())
    yield Run(client, coordinator, payer, created_address(coordinator.address, deployed.nonce))


def test_nodes_are_paid_every_round_once_however_often_they_claim(run: Run) -> None:
    for _ in range(3):
        run.train()
    early = run.claimed(0)
    run.train()
    assert early + run.claimed(0) == run.rewards.cumulative[node_key(0).address]
    with pytest.raises(LedgerError, match="has been paid all"):
        run.claimed(0)
    assert [run.claimed(index) for index in (1, 2)] == [run.rewards.cumulative[node_key(i).address] for i in (1, 2)]
    assert run.state.paid == run.state.owed == run.rewards.owed


def test_a_coordinator_who_commits_a_root_of_zero_or_its_own_takes_nothing_back(run: Run) -> None:
    run.train()
    run.train()
    owed = run.rewards.owed
    run.commit(bytes(32), owed)
    run.commit(reward_leaf(run.session, run.coordinator.address, owed), owed)
    with pytest.raises(Reverted, match="LedgerPromisesTooMuch"):
        before, last = run.rounds[-1].head, (bytes(32), bytes(32))
        loot = reward_leaf(run.session, run.coordinator.address, owed)
        history = [(3, *last, bytes(32), owed), (4, *last, loot, owed)]
        run.call("claim", run.session, run.coordinator.address, before, history, [(4, owed, [])])
    assert shared_rounds(run.bundle, run.client) == 2
    assert sum(run.claimed(index) for index in range(3)) == owed == run.state.paid


def test_books_that_went_on_otherwise_than_the_chain_pay_what_they_share(run: Run) -> None:
    for _ in range(3):
        run.train()
    run.commit(bytes(32), run.rewards.owed)
    bundle = run.bundle
    sealed = seal_round(a_round(run.session, 4), before=run.rounds[-1].head, rewards=run.rewards, pay=Pay(BUDGET))
    bundle.rounds.append(round_record(sealed, None))  # sealed, and never committed
    assert shared_rounds(bundle, run.client) == 3
    done = claim(bundle, run.client, run.payer, node_key(0).address, max_fee=500 * GWEI)
    assert (done.rounds, done.amount) == ((1, 2, 3), run.rewards.cumulative[node_key(0).address])


def test_a_node_whose_coordinator_hides_the_ledger_claims_with_proofs_of_single_rounds(run: Run) -> None:
    for _ in range(6):
        run.train()
    account = node_key(0).address
    proofs = [proof_from_bundle(run.bundle, node=account, round=round) for round in (1, 2, 5)]
    receipts = [
        proof.model_copy(update={"commitments": proof.commitments[:1], "head": run.rounds[round - 1].head})
        for round, proof in zip((1, 2, 5), proofs, strict=True)
    ]
    before = run.client.balance(account)
    done = claim_with_receipts(receipts, run.client, run.payer, max_fee=500 * GWEI)
    assert done.rounds == (1, 2, 5) and len(done.sent) == 2  # what rounds 3 and 4 committed is not in them
    assert run.client.balance(account) - before == done.amount == done.cumulative > 0
    with pytest.raises(LedgerError, match="has been paid all"):
        claim_with_receipts(receipts, run.client, run.payer, max_fee=500 * GWEI)
    invented = receipts[0].model_copy(update={"head": bytes(32)})
    with pytest.raises(LedgerError, match="holds none of the rounds"):
        claim_with_receipts([invented], run.client, run.payer, max_fee=500 * GWEI)


def test_a_claim_that_later_commits_overtake_is_paid(run: Run) -> None:
    run.train()
    run.train()
    account = node_key(0).address
    data = held_in_bundle(run.bundle, account).calldata([1, 2])
    for _ in range(3):
        run.train()
    sent(run.client, run.payer, run.contract, data)
    assert LedgerContract(run.client, run.contract).paid_rounds(run.session, account, 5) == {1, 2}


def test_claims_go_on_after_a_hand_over_and_a_refund_that_returns_only_what_no_round_granted(run: Run) -> None:
    run.train()
    run.call("proposeCoordinator", run.session, run.payer.address)
    run.call("acceptCoordinator", run.session, signer=run.payer)
    run.coordinator = run.payer
    if isinstance(run.client, EmbeddedChain):
        run.client.advance(90 * 24 * 3600)
        run.call("refund", run.session)
        assert (run.state.status, run.client.balance(run.contract)) == (SessionStatus.CLOSED, run.rewards.owed)
    assert sum(run.claimed(index) for index in range(3)) == run.rewards.owed


@pytest.mark.no_cover
def test_a_long_absence_is_paid_in_more_than_one_transaction(run: Run) -> None:
    rounds = ROUNDS_A_CLAIM + 2
    for round in range(1, rounds + 1):
        run.train(idle=round not in (1, 2, rounds - 1, rounds))
    account = node_key(1).address
    done = claim(run.bundle, run.client, run.payer, account, max_fee=500 * GWEI)
    assert done.rounds == (1, 2, rounds - 1, rounds) and len(done.sent) == 2
    assert run.client.balance(account) == done.amount == run.rewards.cumulative[account]


@pytest.mark.no_cover
@pytest.mark.parametrize("run", ["embedded"], indirect=True)
def test_a_claim_shows_no_more_rounds_than_its_gas_allows_among_thousands_of_accounts(run: Run) -> None:
    crowd = {checksum_address(keccak(b"%d" % index)[:20]): GWEI for index in range(5_000)}
    tree = RewardTree(run.session, crowd)
    account = max(crowd, key=lambda account: len(tree.proof(account)))
    before, history, grants = run.session, [], []
    for round in range(1, ROUNDS_A_CLAIM + 1):
        history.append((round, b"\1" * 32, b"\2" * 32, tree.root, round * tree.top.amount))
        run.call("commitRound", run.session, *history[-1])
        grants.append((round, GWEI, tree.proof(account)))
    used = run.call("claim", run.session, account, before, history, grants)
    assert used < MOST_CALL_GAS and run.client.balance(account) == ROUNDS_A_CLAIM * GWEI


@pytest.mark.no_cover
def test_accounts_that_differ_in_their_last_bit_alone_are_both_paid(run: Run) -> None:
    near = [checksum_address((int(node_key(0).address, 16) ^ bit << 159).to_bytes(20, "big")) for bit in (0, 1)]
    tree = RewardTree(run.session, dict.fromkeys(near, GWEI))
    commitment = (1, bytes(32), bytes(32), tree.root, 2 * GWEI)
    run.call("commitRound", run.session, *commitment)
    for account in near:
        before, proof = run.client.balance(account), tree.proof(account)
        assert len(proof) == 160
        run.call("claim", run.session, account, run.session, [commitment], [(1, GWEI, proof)])
        assert run.client.balance(account) == before + GWEI


@pytest.mark.chain
def test_a_chain_of_thousands_of_blocks_leaves_nothing_on_the_disk_and_still_pays_for_its_first_rounds(
    contracts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where anvil would keep the states of all but the newest 1,500 blocks
    with Anvil(find_anvil([contracts])) as anvil:
        client, coordinator, payer = HttpChain([anvil.url]), funded_signer(anvil.url), funded_signer(anvil.url)
        deployed = sent(client, coordinator, None, abi.bytecode())
        run = Run(client, coordinator, payer, created_address(coordinator.address, deployed.nonce))
        run.train()
        run.train()
        for _ in range(16):  # one call for all of them outlasts the RPC's patience on a busy machine
            ask(anvil.url, "anvil_mine", hex(100))
        assert shared_rounds(run.bundle, client) == 2
        assert run.claimed(0) == run.rewards.cumulative[node_key(0).address]
        anvil.process.kill()
        anvil.process.wait()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
