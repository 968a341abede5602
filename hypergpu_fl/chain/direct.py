"""One transaction sent while a person waits: deploying, claiming. Rounds go through the outbox instead."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hypergpu_fl.chain.client import Client, Receipt
from hypergpu_fl.chain.errors import Misconfigured, Reverted, Unavailable
from hypergpu_fl.chain.fees import first_bid, gas_limit
from hypergpu_fl.chain.progress import check_chain_id
from hypergpu_fl.chain.signer import Signer, Transaction
from hypergpu_fl.keccak import keccak

_POLL_S = 0.1
_FINAL_S = 60.0


@dataclass(frozen=True, slots=True)
class FinalTransaction:
    """A transaction that is final; `nonce` as it was signed with."""

    tx_hash: bytes
    nonce: int
    receipt: Receipt


def send_and_wait(
    client: Client,
    signer: Signer,
    *,
    to: str | None,
    data: bytes,
    value: int = 0,
    chain_id: int,
    max_fee: int,
    sleep: Callable[[float], None] = time.sleep,
) -> FinalTransaction:
    """Estimate, sign, send, and wait until the transaction is final.

    It is signed for the chain `chain_id`, whatever the endpoint claims to be: an endpoint must not choose the chain on
    which a signature is valid.

    Raises
    ------
    Reverted
        If the contract refuses; nothing is sent when the estimate already shows it.
    Misconfigured
        If the endpoint serves another chain, the account cannot pay, or gas costs more than `max_fee` wei.
    Unavailable
        If it is not final within a minute; it may become so later.
    """
    check_chain_id(client, chain_id)
    bid = first_bid(client.fees(), max_fee)
    if bid is None:
        raise Misconfigured(f"gas costs more than {max_fee / 10**9:g} gwei", "wait, or raise blockchain.max_fee_gwei")
    limit = gas_limit(client.estimate_gas(signer.address, to, data, value), creates=to is None)
    balance, needed = client.balance(signer.address), limit * bid.max_fee + value
    if balance < needed:
        raise Misconfigured(
            f"account {signer.address} holds {balance} wei, the transaction may cost {needed}", "send it funds"
        )
    nonce = client.nonce(signer.address)
    raw = signer.sign(Transaction(chain_id, nonce, to, data, value, limit, bid.max_fee, bid.priority_fee))
    client.send_raw(raw)
    deadline = time.monotonic() + _FINAL_S
    while time.monotonic() < deadline:
        receipt = client.receipt(keccak(raw))
        if receipt is not None and not receipt.succeeded:
            raise Reverted(f"transaction 0x{keccak(raw).hex()} was included but reverted")
        if receipt is not None and receipt.block <= client.block_number("finalized"):
            return FinalTransaction(keccak(raw), nonce, receipt)
        sleep(_POLL_S)
    raise Unavailable(
        f"transaction 0x{keccak(raw).hex()} is not final after {_FINAL_S:g} s", "look it up before sending again"
    )
