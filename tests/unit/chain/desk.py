"""An outbox with a sender that is stepped by hand, for tests of what endpoints and chains may do to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rpc import Proxy, ask, funded_signer, proxied

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.anvil import Anvil, find_anvil
from hypergpu_fl.chain.contract import LedgerContract
from hypergpu_fl.chain.direct import send_and_wait
from hypergpu_fl.chain.http import HttpChain
from hypergpu_fl.chain.outbox import EntryState, Intent, Outbox, OutboxEntry
from hypergpu_fl.chain.sender import Pace, Sender
from hypergpu_fl.chain.signer import KeySigner, created_address
from hypergpu_fl.ledger import database
from hypergpu_fl.ledger.bundle import session_id
from hypergpu_fl.ledger.sealing import next_head
from hypergpu_fl.settlement.session import commit_calldata

GWEI = 10**9


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Desk:
    """A session's outbox with a sender that is stepped by hand, and rounds put into it as training would."""

    url: str
    contract: str
    signer: KeySigner
    outbox: Outbox
    engine: database.Engine
    proxy: Proxy
    clock: Clock
    tick: Callable[[float], object] = time.sleep

    def __post_init__(self) -> None:
        self.session = session_id(31337, self.contract, self.signer.address, b"\1" * 32)
        self.heads = [self.session]
        self.client = HttpChain([self.url])
        self.sender = self.make_sender()
        self.put(Intent("open", self.contract, self.session, abi.encode_call("open", b"\1" * 32), value=10**6))

    def make_sender(self, **pace: float) -> Sender:
        self.http = HttpChain([self.proxy.url], timeout_s=2.0)
        return Sender([self.outbox], self.http, self.signer, max_fee=500 * GWEI, pace=Pace(**pace), clock=self.clock)

    def put(self, intent: Intent) -> None:
        with self.engine.begin() as connection:
            self.outbox.put(connection, intent)

    def train(self) -> None:
        """One more round is sealed."""
        round, before = len(self.heads), self.heads[-1]
        word = bytes([round]) * 32
        after = next_head(before, round=round, root=word, model=word, rewards_root=word, owed=round)
        data = commit_calldata(self.session, round, word, word, word, round)
        self.put(Intent("commit", self.contract, self.session, data, round=round, before=before, after=after))
        self.heads.append(after)

    def steps(self, count: int = 500, *, seconds: float = 0.0, until_last: EntryState | None = None) -> None:
        """Step until all is final, or the last entry has come to a state, letting `seconds` pass on the fake clock."""
        for _ in range(count):
            pause = self.sender.step()
            if pause is None or (until_last and self.outbox.entries()[-1].state is until_last):
                return
            self.clock.now += seconds or pause
            self.tick(min(pause, 0.02))

    def drained(self) -> list[OutboxEntry]:
        self.steps()
        entries = self.outbox.entries()
        assert [entry.state for entry in entries] == [EntryState.FINALIZED] * len(entries)
        state = LedgerContract(self.client, self.contract).session(self.session)
        assert (state.next, state.head) == (len(self.heads), self.heads[-1])
        blocks = [entry.block for entry in entries if entry.block is not None]
        assert blocks == sorted(blocks)
        return entries


@pytest.fixture(scope="module")
def contract(quick_anvil: Anvil) -> str:
    client, signer = HttpChain([quick_anvil.url]), funded_signer(quick_anvil.url)
    sent = send_and_wait(client, signer, to=None, data=abi.bytecode(), chain_id=31337, max_fee=500 * GWEI)
    return created_address(signer.address, sent.nonce)


@pytest.fixture
def desk(quick_anvil: Anvil, contract: str, tmp_path: Path) -> Iterator[Desk]:
    signer = funded_signer(quick_anvil.url)
    engine = database.connect(tmp_path / "run.db")
    with proxied(quick_anvil.url) as proxy:
        yield Desk(quick_anvil.url, contract, signer, Outbox(engine, signer.address, 31337), engine, proxy, Clock())
    engine.dispose()


@pytest.fixture
def mining_desk(contracts: Path, tmp_path: Path) -> Iterator[Desk]:
    """A desk on a chain that mines a block with every step, and never by itself."""
    with Anvil(find_anvil([contracts]), shape=("--slots-in-an-epoch", "1", "--no-mining")) as anvil:

        def mine(_: float) -> None:
            ask(anvil.url, "evm_mine")

        signer, client = funded_signer(anvil.url), HttpChain([anvil.url])
        send_and_wait(client, signer, to=None, data=abi.bytecode(), chain_id=31337, max_fee=500 * GWEI, sleep=mine)
        engine = database.connect(tmp_path / "run.db")
        outbox, address = Outbox(engine, signer.address, 31337), created_address(signer.address, 0)
        with proxied(anvil.url) as proxy:
            yield Desk(anvil.url, address, signer, outbox, engine, proxy, Clock(), mine)
        engine.dispose()
