"""A node is paid from its receipt alone, whatever became of the ledger and of who wrote it."""

from __future__ import annotations

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.client import Client
from hypergpu_fl.chain.contract import LedgerContract
from hypergpu_fl.chain.direct import Sent, send_and_wait
from hypergpu_fl.chain.signer import Signer
from hypergpu_fl.errors import LedgerError
from hypergpu_fl.ledger.proof import ContributionProof, verify_proof
from hypergpu_fl.settlement.evidence import verify_proof_on_chain


def claim_receipt(receipt: ContributionProof, client: Client, signer: Signer, *, max_fee: int) -> Sent:
    """Send the receipt's node what the round granted it.

    Parameters
    ----------
    receipt : ContributionProof
        A receipt, or a proof.
    client : Client
        The session's chain.
    signer : Signer
        Who pays for gas; need not be the node.
    max_fee : int
        Wei a gas at most.

    Raises
    ------
    LedgerError
        If it does not verify, the chain does not hold its head, or there is nothing (more) to claim.
    ChainError
        If the chain is another, or refuses.
    """
    verify_proof(receipt)
    verify_proof_on_chain(receipt, client)
    session, node, sealing, grant = receipt.value[0], receipt.value[3], receipt.commitments[0], receipt.grant
    if grant is None:
        raise LedgerError(f"round {sealing.round} granted {node} nothing", "there is nothing to claim")
    if sealing.round in LedgerContract(client, receipt.contract).paid_rounds(session, node, sealing.round):
        raise LedgerError(f"{node} has been paid for round {sealing.round}", "there is nothing left to claim")
    rounds = [grant.previous, sealing] if grant.previous else [sealing]
    history = [(c.round, c.root, c.model, c.rewards, c.owed) for c in rounds]
    grants = [(sealing.round, grant.amount, grant.proof)]
    data = abi.encode_call("claim", session, node, grant.before, history, grants)
    return send_and_wait(client, signer, to=receipt.contract, data=data, chain_id=receipt.chain_id, max_fee=max_fee)
