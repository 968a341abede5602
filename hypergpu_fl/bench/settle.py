"""What settling costs: how long it delays a round, gas, and seconds until a commit is final."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from pydantic import SecretStr

from hypergpu_fl.chain.anvil import CHAIN_ID, FUNDED_SECRET, Anvil, find_anvil
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.errors import LedgerError
from hypergpu_fl.heap import long_lived
from hypergpu_fl.ledger.contribution import WEIGHT_UNIT, Contribution, CreditedContribution
from hypergpu_fl.ledger.identity import derive_simulated_key, recover, sign_contribution
from hypergpu_fl.ledger.near_copies import SKETCH
from hypergpu_fl.ledger.sealing import RoundSeal
from hypergpu_fl.ledger.shared_work import SharedWork
from hypergpu_fl.settlement import Settlement

_CONTRACTS: Final = Path("contracts"), Path(__file__).resolve().parents[2] / "contracts"
_DRAIN_S: Final = 120.0


def run_settle(*, clients: Sequence[int], rounds: int, chain: str) -> list[dict[str, Any]]:
    """Rows ``clients, chain, rounds, hook_s, hook_max_s, hook_cpu_s, gas_used, gas_limit, finalized_s`` and its p95.

    ``hook_s`` is the median time that a round waits for recovering every signature, looking for near copies, computing
    rewards and both trees, and one durable transaction. It does not include pricing the updates, whose cost depends on
    the task. ``hook_cpu_s`` is the part in which this thread computed; the rest went to the disk and to other
    processes. Gas is that of the last commit, which is a steady state. ``finalized_s`` counts from the first broadcast;
    median and 95th percentile are over the rounds.

    Parameters
    ----------
    clients : Sequence[int]
        Contributions a round, one row each.
    rounds : int
        Rounds a row, at least 2.
    chain : str
        ``anvil`` in Monad's shape, or ``embedded``.
    """
    rows = []
    with _blockchain(chain) as (blockchain, key), tempfile.TemporaryDirectory() as root:
        for count in clients:
            run_dir = Path(root) / f"{count}" / "run"
            run_dir.mkdir(parents=True)
            with long_lived():  # as the ServerApp trains
                measured = _measure(run_dir, blockchain, key, count, rounds)
            rows.append({"clients": count, "chain": chain, "rounds": rounds} | measured)
    return rows


@contextmanager
def _blockchain(chain: str) -> Iterator[tuple[Blockchain, Secrets]]:
    if chain == "embedded":
        yield Blockchain(), Secrets()
        return
    with Anvil(find_anvil(_CONTRACTS)) as anvil:
        yield (
            Blockchain(kind="rpc", chain_id=CHAIN_ID, rpc_url=anvil.url),
            Secrets(coordinator_key=SecretStr(FUNDED_SECRET.hex())),
        )


def _measure(run_dir: Path, blockchain: Blockchain, key: Secrets, clients: int, rounds: int) -> dict[str, Any]:
    settlement = Settlement.open(run_dir, blockchain, key, salt=bytes(32), rounds=rounds, simulated_keys=True)
    shared_work = SharedWork()
    hook_s, cpu_s, share, rng = [], [], WEIGHT_UNIT // clients, np.random.default_rng(0)
    try:
        for round_ in range(1, rounds + 1):
            claims = _claims(settlement.session, round_, clients)
            sketches = rng.standard_normal((clients, SKETCH), dtype=np.float32)
            start, cpu = time.perf_counter(), time.thread_time()
            credited = [
                CreditedContribution(claim, recover(claim, signature), signature, share, claim.examples)
                for claim, signature in claims
            ]
            shared_work.shared(round_, [entry.node for entry in credited], sketches, [1] * clients)
            settlement.seal(RoundSeal(round_, bytes(32), secrets.token_bytes(32), credited))
            hook_s.append(time.perf_counter() - start)
            cpu_s.append(time.thread_time() - cpu)
            if not settlement.drain(_DRAIN_S):
                raise LedgerError("a commit did not become final", settlement.status().problem or "look at the chain")
        finalized_s = sorted(settlement.finalized_s.values())
        gas_used, gas_limit = settlement.gas_of(rounds)
    finally:
        settlement.close()
    return {
        "hook_s": median(hook_s),
        "hook_max_s": max(hook_s),
        "hook_cpu_s": median(cpu_s),
        "gas_used": gas_used,
        "gas_limit": gas_limit,
        "finalized_s": median(finalized_s),
        "finalized_p95_s": finalized_s[min(len(finalized_s) - 1, round(0.95 * len(finalized_s)))],
    }


def _claims(session: bytes, round: int, clients: int) -> list[tuple[Contribution, bytes]]:
    """Signed contributions of a round; made outside the measured time, as nodes make them."""
    made = []
    for index in range(clients):
        key = derive_simulated_key(0, index)
        update = secrets.token_bytes(32)
        claim = Contribution(session, round, bytes(32), update, 100 + index, update)
        made.append((claim, sign_contribution(key, claim)))
    return made
