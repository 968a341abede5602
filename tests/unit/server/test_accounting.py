"""Between strategy and ledger: what hostile nodes cannot do, and how alike two updates look."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from eth_account import Account
from eth_account.messages import encode_typed_data
from flwr.supercore.task_identity import TaskIdentity
from rounds import node_key

from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.ledger.blobs import Blobs
from hypergpu_fl.ledger.contribution import Contribution, enrolment_digest, hash_blob, hash_metrics
from hypergpu_fl.ledger.identity import NodeKey, sign_contribution
from hypergpu_fl.pricing import Pricer
from hypergpu_fl.pricing.rounds import PricedRounds
from hypergpu_fl.server.accounting import RECEIPTS_AT_ONCE, Accounting
from hypergpu_fl.settlement import Settlement, load_books, verify
from strategies.arrivals.flight import Flight
from strategies.errors import Reason, Refused
from strategies.fleet.link import LinkSample
from strategies.model.aggregation import DenseUpdate
from strategies.model.layout import Layout
from strategies.model.payload import RawPayload
from strategies.outcome import Accepted, RoundOutcome
from strategies.wire import ADDRESS, EXAMPLES, Claim, Hello, Order, Reply, Timing

BASE = hash_blob(b"base")
MODEL_P = np.zeros(8, dtype=np.float32)


class FixedModel:
    """A task of which only the model's shape is asked."""

    def arrays(self, model: torch.nn.Module) -> dict[str, np.ndarray]:
        return {"w": MODEL_P}


@pytest.fixture
def settlement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settlement]:
    for name, value in (("_run_id", 1), ("_node_id", 1), ("_task_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)
    off = Blockchain(enabled=False)
    opened = Settlement.open(tmp_path, off, Secrets(), salt=b"\5" * 32, rounds=1, simulated_keys=True)
    yield opened
    opened.close()


class Server:
    """What the strategy does with the hook, for nodes that are played by the test."""

    def __init__(self, settlement: Settlement) -> None:
        layout = Layout.of({"w": MODEL_P})
        pricer = Pricer(
            FixedModel(),
            torch.nn.Identity(),
            layout,
            device=torch.device("cpu"),
            scoring="weight",
            max_examples=10**6,
            seed=0,
            blobs=Blobs(settlement.run_dir / "blobs"),
            rounds=PricedRounds(settlement.run_dir / "priced", last_round=0),
            decode=RawPayload(layout).decode,
        )
        self.accounting = Accounting(settlement, pricer)
        self._settlement = settlement
        self.session = settlement.session
        self.counted: list[float] = []

    def enrol(self, node_id: int, key: NodeKey) -> None:
        self.accounting.joined(node_id, Hello(node_id, 100, {ADDRESS: key.address}))

    def receive(self, node_id: int, key: NodeKey, round: int, *, examples: float = 100, says: str = "") -> None:
        blob = b"update %d %d" % (round, node_id)
        metrics = {EXAMPLES: float(examples)}
        claim = Contribution(self.session, round, BASE, hash_blob(blob), int(examples), hash_metrics(metrics))
        signed = Claim(says or key.address, sign_contribution(key, claim))
        reply = Reply(blob, hash_blob(blob), metrics, LinkSample(), signed, Timing(0.0, 1.0, 0.0, 0.0))
        order = Order(round, 0, BASE, 1, 1, "raw", 0, self.session, -1)
        admitted = self.accounting.admit(Flight(node_id, "train", 0.0, 60.0, 0, round, order), reply)
        update = DenseUpdate(np.full(8, node_id, dtype=np.float32))
        self.accounting.added(admitted, update, MODEL_P, self.accounting.measure(update, MODEL_P))
        self.counted.append(1.0)

    def close(self, round: int) -> None:
        accepted = [Accepted(0, "", 0, 0, 0, 0, 1, 1, 0, 1 / len(self.counted), {}) for _ in self.counted]
        outcome = RoundOutcome(round, 0, 1, [], accepted, [], 0, 0, 0, BASE, BASE, MODEL_P, {})
        self._settlement.seal(self.accounting.priced(outcome)[0])
        self.counted = []


@pytest.fixture
def server(settlement: Settlement) -> Server:
    return Server(settlement)


def refused(act: Callable[[], None]) -> Reason:
    with pytest.raises(Refused) as refusal:
        act()
    return refusal.value.reason


def test_two_nodes_with_one_key_are_counted_once_and_the_round_is_sealed(server: Server, tmp_path: Path) -> None:
    for node_id in (1, 2):
        server.enrol(node_id, node_key(0))
    server.receive(1, node_key(0), 1)
    assert refused(lambda: server.receive(2, node_key(0), 1)) is Reason.DUPLICATE
    server.close(1)
    assert refused(lambda: server.receive(2, node_key(0), 1)) is Reason.DUPLICATE  # late, by the other one
    server.receive(2, node_key(0), 2)
    server.close(2)
    bundle = load_books(tmp_path)
    assert [len(record.contributions) for record in bundle.rounds] == [1, 1]
    verify(bundle)


@pytest.mark.parametrize("claimed", [100, 10**6])
def test_pay_goes_by_the_examples_that_were_agreed_whatever_a_reply_claims(
    server: Server, tmp_path: Path, claimed: int
) -> None:
    for node_id, examples in ((1, 100), (2, claimed)):
        server.enrol(node_id, node_key(node_id))
        server.receive(node_id, node_key(node_id), 1, examples=examples)
    server.close(1)
    (record,) = load_books(tmp_path).rounds
    assert len({entry.score for entry in record.contributions}) == 1


@pytest.mark.parametrize("examples", [2.0**63, 2.0**255])
def test_more_examples_than_can_be_booked_are_refused_and_the_round_is_sealed(server: Server, examples: float) -> None:
    server.enrol(1, node_key(0))
    assert refused(lambda: server.receive(1, node_key(0), 1, examples=examples)) is Reason.MALFORMED
    server.close(1)


def test_a_key_that_the_node_did_not_enrol_with_is_refused(server: Server) -> None:
    assert refused(lambda: server.receive(1, node_key(0), 1)) is Reason.BAD_SIGNATURE  # never enrolled
    server.enrol(1, node_key(0))
    assert refused(lambda: server.receive(1, node_key(1), 1)) is Reason.BAD_SIGNATURE
    assert refused(lambda: server.receive(1, node_key(1), 1, says=node_key(0).address)) is Reason.BAD_SIGNATURE
    server.receive(1, node_key(0), 1)


def hello_of(server: Server, key: NodeKey, *, node_id: int = 1, share: int = 4, says: str | None = None) -> Hello:
    proof = key.sign(enrolment_digest(server.session, node_id, share))
    return Hello(share, 100, {ADDRESS: key.address if says is None else says}, signature=proof)


def test_an_address_counts_only_if_its_key_signed_this_run_this_connection_and_this_share(server: Server) -> None:
    vet, key = server.accounting.vet, node_key(0)
    own = hello_of(server, key)
    vet(1, own)
    other_run = hello_of(server, key)
    other_run = replace(other_run, signature=key.sign(enrolment_digest(bytes(32), 1, 4)))
    for node_id, hello in (
        (2, own),  # sent again from another connection
        (1, replace(own, partition=5)),
        (1, other_run),
        (1, hello_of(server, node_key(1), says=key.address)),
        (1, replace(own, signature=b"")),
        (1, replace(own, signature=own.signature[:-1] + b"\0")),
        (1, replace(own, device={})),
        (1, replace(own, device={ADDRESS: key.address.lower()})),
    ):
        assert refused(lambda node_id=node_id, hello=hello: vet(node_id, hello)) is Reason.BAD_SIGNATURE


def test_a_nodes_own_hello_proves_its_address_and_an_independent_library_agrees() -> None:
    typed = {
        "types": {
            "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "version", "type": "string"}],
            "Enrolment": [
                {"name": "session", "type": "bytes32"},
                {"name": "node", "type": "uint64"},
                {"name": "share", "type": "uint64"},
            ],
        },
        "primaryType": "Enrolment",
        "domain": {"name": "HyperGPU", "version": "1"},
        "message": {"session": bytes(range(32)), "node": 2**63 + 5, "share": 4},
    }
    proof = node_key(0).sign(enrolment_digest(bytes(range(32)), 2**63 + 5, 4))
    assert Account.recover_message(encode_typed_data(full_message=typed), signature=proof) == node_key(0).address


def test_receipts_come_in_order_and_again_until_the_node_has_answered(server: Server) -> None:
    server.enrol(1, node_key(0))
    rounds = RECEIPTS_AT_ONCE + 3
    for round in range(1, rounds + 1):
        server.receive(1, node_key(0), round)
        server.close(round)
    assert enclosed(server) == list(range(1, RECEIPTS_AT_ONCE + 1)) == enclosed(server)
    server.receive(1, node_key(0), rounds + 1)
    assert enclosed(server) == list(range(RECEIPTS_AT_ONCE + 1, rounds + 1))


def enclosed(server: Server) -> list[int]:
    receipts = json.loads(server.accounting.receipt(1) or "[]")
    return [receipt["commitments"][0]["round"] for receipt in receipts]
