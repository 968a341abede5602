"""Who signs transactions and statements: a key in memory, from the environment or from a keystore file.

A signer whose key is elsewhere (KMS, hardware) is another class with the same three members.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import rlp
from eth_account import Account
from eth_utils.address import to_checksum_address

from hypergpu_fl.errors import ChainError
from hypergpu_fl.files import path_meant
from hypergpu_fl.keccak import keccak
from hypergpu_fl.redaction import register, secret_from_hex


@dataclass(frozen=True, slots=True)
class Transaction:
    """An EIP-1559 transaction before it is signed; amounts in wei, `to` None creates a contract."""

    chain_id: int
    nonce: int
    to: str | None
    data: bytes
    value: int
    gas_limit: int
    max_fee: int
    priority_fee: int


class Signer(Protocol):
    """Signs for one address."""

    @property
    def address(self) -> str:
        """EIP-55 address."""
        ...

    def sign(self, transaction: Transaction) -> bytes:
        """Raw signed bytes (EIP-2718). The same transaction always gives the same bytes."""
        ...

    def sign_digest(self, digest: bytes) -> bytes:
        """65 bytes r, s, v (27 or 28) over an EIP-712 digest; the same digest always gives the same bytes."""
        ...


class KeySigner:
    """Signs with a private key held in memory; its text forms show the address only."""

    def __init__(self, secret: bytes) -> None:
        try:
            self._account = Account.from_key(secret)
        except Exception:  # eth_account names the key in some of its errors
            raise ChainError("the coordinator's private key is not valid", "give 32 bytes as 64 hex digits") from None

    def __repr__(self) -> str:
        return f"KeySigner({self.address})"

    @classmethod
    def from_hex(cls, text: str) -> KeySigner:
        """Key from 64 hex digits, with or without ``0x``, as an environment variable holds it."""
        try:
            return cls(secret_from_hex(text))
        except ValueError:
            raise ChainError("the coordinator's private key is not hexadecimal", "give 64 hex digits") from None

    @classmethod
    def from_keystore(cls, path: Path, password: str) -> KeySigner:
        """Key from a Web3 Secret Storage (version 3) file; takes about half a second."""
        try:
            secret = bytes(Account.decrypt(json.loads(path.read_text()), password))
        except OSError as error:
            raise ChainError(
                f"keystore {path} cannot be read: {error.strerror}",
                path_meant(path) or "make one with `keys new`",
            ) from None
        except Exception:  # eth_keyfile raises whatever its parsers raise, and none of that may pass the password on
            raise ChainError(
                f"keystore {path} does not open", "check that it is a version 3 keystore, and its password"
            ) from None
        register(secret.hex())
        return cls(secret)

    @property
    def address(self) -> str:
        """EIP-55 address."""
        return str(self._account.address)

    def sign(self, transaction: Transaction) -> bytes:
        """Sign by RFC 6979, so the same transaction gives the same bytes."""
        fields = {
            "type": 2,
            "chainId": transaction.chain_id,
            "nonce": transaction.nonce,
            "data": transaction.data,
            "value": transaction.value,
            "gas": transaction.gas_limit,
            "maxFeePerGas": transaction.max_fee,
            "maxPriorityFeePerGas": transaction.priority_fee,
            **({"to": transaction.to} if transaction.to else {}),
        }
        return bytes(self._account.sign_transaction(fields).raw_transaction)

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign by RFC 6979, with low s."""
        return bytes(self._account.unsafe_sign_hash(digest).signature)


def created_address(sender: str, nonce: int) -> str:
    """Address of the contract that `sender` creates with `nonce`: last 20 bytes of ``keccak(rlp([sender, nonce]))``."""
    return str(to_checksum_address(keccak(rlp.encode([bytes.fromhex(sender[2:]), nonce]))[-20:]))
