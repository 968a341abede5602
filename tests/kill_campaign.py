"""Kill a settling process with SIGKILL at random points, again and again, and audit what the chain has in the end.

``python tests/kill_campaign.py --kills 1000`` starts an anvil of its own and prints the audit as JSON. Each child is a
fork that opens the same run, seals what is missing of its rounds, and drains; most do not live that long.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import SecretStr
from rounds import a_round, node_key
from rpc import funded_signer

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.anvil import Anvil, find_anvil
from hypergpu_fl.chain.contract import LedgerContract
from hypergpu_fl.chain.direct import send_and_wait
from hypergpu_fl.chain.http import HttpChain
from hypergpu_fl.chain.signer import KeySigner, created_address
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.settlement import Settlement, claim, load_books, verify, verify_on_chain

CONTRACTS = Path(__file__).resolve().parents[1] / "contracts"
MAX_FEE = 500 * 10**9
ROUNDS = 6
PLANNED = 3  # rounds beyond these need top-ups, which must not be paid twice either
BUDGET = 10**9


@dataclass
class Audit:
    """What a campaign found; `killed_in` counts the state of the first unfinished entry, the rest must be 0."""

    kills: int = 0
    runs: int = 0
    rounds: int = 0
    killed_in: dict[str, int] = field(default_factory=dict)
    rounds_lost: int = 0
    rounds_doubled: int = 0
    transactions_wasted: int = 0
    wei_overfunded: int = 0
    wei_overpaid: int = 0


def settle(run_dir: Path, blockchain: Blockchain, key: str, report: Callable[[int], None]) -> None:
    """What a training process does, as far as the chain is concerned."""
    secrets = Secrets(coordinator_key=SecretStr(key))
    settlement = Settlement.open(run_dir, blockchain, secrets, salt=bytes(32), rounds=PLANNED, simulated_keys=True)
    for round in range(settlement.last_round + 1, ROUNDS + 1):
        settlement.seal(a_round(settlement.session, round))
        report(round)
        time.sleep(0.02)
    if not settlement.drain(60):
        raise TimeoutError(settlement.status().problem)
    settlement.close()


def forked(run_dir: Path, blockchain: Blockchain, key: str) -> tuple[int, int]:
    """Child process that settles, and the pipe on which it tells each sealed round."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    try:
        settle(run_dir, blockchain, key, lambda round: os.write(writing, bytes([round])) and None)
        os._exit(0)
    except BaseException as error:
        print(f"child: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)


def sealed_rounds(run_dir: Path) -> int:
    """Rounds in the database of a run."""
    with sqlite3.connect(run_dir / "run.db") as connection:
        return connection.execute("select coalesce(max(round), 0) from rounds").fetchone()[0]


def first_unfinished(run_dir: Path) -> str:
    """State of the entry that the sender was busy with, or what there was instead."""
    query = "select state from outbox where state != 'FINALIZED' order by id limit 1"
    try:
        with sqlite3.connect(run_dir / "run.db") as connection:
            found = connection.execute(query).fetchone()
    except sqlite3.OperationalError:
        return "no tables"
    return str(found[0]) if found else "nothing unfinished"


def campaign(url: str, kills: int, *, seed: int, root: Path) -> Audit:
    """Kill `kills` children over as many runs as it takes; every run is carried to its end and audited."""
    rng, audit = random.Random(seed), Audit()
    client, deployer = HttpChain([url]), funded_signer(url)
    sent = send_and_wait(client, deployer, to=None, data=abi.bytecode(), chain_id=31337, max_fee=MAX_FEE)
    contract = created_address(deployer.address, sent.nonce)
    blockchain = Blockchain(kind="rpc", chain_id=31337, rpc_url=url, contract=contract, budget_wei=BUDGET)
    while audit.kills < kills:
        signer = funded_signer(url)
        run_dir = root / f"run-{audit.runs}" / "run"
        run_dir.mkdir(parents=True)
        key, reported, ended = signer._account.key.hex(), 0, False
        while not ended:
            child, pipe = forked(run_dir, blockchain, key)
            if audit.kills < kills:
                time.sleep(rng.uniform(0.0, 0.35))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            with os.fdopen(pipe, "rb") as told:
                reported = max([reported, *told.read()])
            killed = os.WIFSIGNALED(status)
            if killed:
                audit.kills += 1
                where = first_unfinished(run_dir)
                audit.killed_in[where] = audit.killed_in.get(where, 0) + 1
            if not killed and os.waitstatus_to_exitcode(status) != 0:
                raise RuntimeError("a child failed by itself")
            if reported and sealed_rounds(run_dir) < reported:
                audit.rounds_lost += reported - sealed_rounds(run_dir)
            ended = not killed
        audit.runs += 1
        examine(client, signer, contract, run_dir, deployer, audit)
    return audit


def examine(client: HttpChain, signer: KeySigner, contract: str, run_dir: Path, payer: KeySigner, audit: Audit) -> None:
    """Compare one finished run with the chain, then claim every reward twice."""
    bundle = load_books(run_dir)
    verify(bundle)
    audit.rounds += ROUNDS
    audit.rounds_lost += ROUNDS - verify_on_chain(bundle, client)
    hashes = [record.commit.hash for record in bundle.rounds if record.commit]
    audit.rounds_doubled += len(hashes) - len(set(hashes))
    audit.rounds_lost += ROUNDS - len(hashes)
    transactions = len(bundle.transactions) + len(hashes)
    audit.transactions_wasted += client.nonce(signer.address) - transactions
    state = LedgerContract(client, contract).session(bundle.session.id)
    audit.rounds_doubled += max(0, state.next - 1 - ROUNDS)
    audit.wei_overfunded += state.pool - max(PLANNED * BUDGET, state.owed)
    accounts = [node_key(index).address for index in range(3)]
    before = sum(client.balance(account) for account in accounts)
    for account in accounts[: 3 if audit.runs == 1 else 1]:  # once is thorough, then one a run keeps it quick
        paid = claim(bundle, client, payer, account, max_fee=MAX_FEE)
        try:
            claim(bundle, client, payer, account, max_fee=MAX_FEE)
        except Exception:  # any refusal will do
            before += paid.cumulative
    audit.wei_overpaid += sum(client.balance(account) for account in accounts) - before


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shape = ("--slots-in-an-epoch", "1", "--block-time", "0.05")
    with tempfile.TemporaryDirectory() as root, Anvil(find_anvil([CONTRACTS]), shape=shape) as anvil:
        audit = campaign(anvil.url, arguments.kills, seed=arguments.seed, root=Path(root))
    print(json.dumps(asdict(audit)))


if __name__ == "__main__":
    main()
