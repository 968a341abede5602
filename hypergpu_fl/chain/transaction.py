"""What a signed transaction says, read from its raw bytes alone."""

from __future__ import annotations

from dataclasses import dataclass

import rlp
from eth_account import Account
from eth_utils.address import to_checksum_address

from hypergpu_fl.errors import ChainError
from hypergpu_fl.keccak import keccak


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """An EIP-1559 transaction as it was signed; `to` None creates a contract."""

    hash: bytes
    sender: str
    chain_id: int
    nonce: int
    gas_limit: int
    to: str | None
    value: int
    data: bytes


def decode_transaction(raw: bytes) -> SignedTransaction:
    """Decode raw bytes (EIP-2718 type 2) and recover who signed them.

    Raises
    ------
    ChainError
        If they are not a signed EIP-1559 transaction.
    """
    try:
        if raw[0] != 2:
            raise ValueError(raw[0])
        chain_id, nonce, _tip, _fee, gas, to, value, data, *_ = rlp.decode(raw[1:], strict=True)
        sender = str(Account.recover_transaction(raw))
        return SignedTransaction(
            keccak(raw),
            sender,
            int.from_bytes(chain_id, "big"),
            int.from_bytes(nonce, "big"),
            int.from_bytes(gas, "big"),
            str(to_checksum_address(to)) if to else None,
            int.from_bytes(value, "big"),
            bytes(data),
        )
    except Exception:  # rlp, eth_account and coincurve have no common base of errors
        raise ChainError(
            "the raw bytes are not a signed EIP-1559 transaction", "take the file from its source again"
        ) from None
