"""From the books to the chain: sealing rounds, committing them, exporting, verifying, claiming, handing over.

The server calls `Settlement.seal` once a round. One database transaction writes the round, its contributions and the
outbox entry that commits it. A background thread does the rest, and no round waits for it.
"""

from hypergpu_fl.ledger.bundle import BUNDLE
from hypergpu_fl.settlement.claiming import Payout, claim, claim_with_receipts, distribution, shared_rounds
from hypergpu_fl.settlement.evidence import UNSEALED, Findings, verify, verify_on_chain, verify_proof_on_chain
from hypergpu_fl.settlement.exporting import export_books
from hypergpu_fl.settlement.grants import held_in_bundle
from hypergpu_fl.settlement.reading import load_books, load_bundle, unsettled
from hypergpu_fl.settlement.session import RoundStatus, Settlement, SettlementStatus

__all__ = [
    "BUNDLE",
    "UNSEALED",
    "Payout",
    "Findings",
    "RoundStatus",
    "Settlement",
    "SettlementStatus",
    "claim",
    "claim_with_receipts",
    "distribution",
    "export_books",
    "held_in_bundle",
    "load_books",
    "load_bundle",
    "shared_rounds",
    "unsettled",
    "verify",
    "verify_on_chain",
    "verify_proof_on_chain",
]
